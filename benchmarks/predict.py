"""
Compares the speed of predict.py's Predictor, from texts to predictions, with the bare encoder.

    python benchmarks/predict.py --model_dir runs/RUN --texts 2000

The bare encoder gets padded batches of all texts, sorted by length. The Predictor tokenises, sorts
pool by pool, encodes and classifies.
"""

import numpy as np
import torch
from measure import compare, parse

from data import eval_batches, load_wordnet
from engine.loader import pieces
from engine.tokens import tokenize
from predict import Predictor


def glosses(count: int) -> list[str]:
    """Real texts of many lengths: WordNet's glosses with examples, spread over its nouns."""
    lines = [
        line.split("|")[1].strip()
        for line in load_wordnet().open("data.noun")
        if not line.startswith(" ")
    ]
    return lines[:: max(1, len(lines) // count)][:count]


def bare(predictor: Predictor, texts: list[str], batch_size: int):
    """The encoder alone, on all texts as padded batches."""
    trained = predictor.trained
    tokens = tokenize(texts, trained.tokenizer, trained.about.max_length)
    device = next(trained.method.parameters()).device
    batches = []
    for part in map(tokens.take, eval_batches(tokens.lengths, batch_size)):
        (whole,) = pieces(part, start_cost=2**60)  # one piece; twice the cost is still an int64
        ids = part.ids.astype(np.int64)[whole.places]
        batches.append([torch.from_numpy(x).to(device) for x in (ids, whole.is_token)])

    @torch.inference_mode()
    def encode():
        for batch in batches:
            trained.method.encoder(*batch).cpu()

    return encode


def main() -> None:
    args = parse(
        __doc__,
        ("--model_dir", {"required": True, "help": "a run's folder, or its model/"}),
        ("--texts", {"type": int, "default": 2000}),
        ("--batch_size", {"type": int, "default": 64}),
    )
    predictor = Predictor(args.model_dir, device=args.device, batch_size=args.batch_size)
    texts = glosses(args.texts)
    forms = {
        "bare encoder": bare(predictor, texts, args.batch_size),
        "Predictor": lambda: predictor.predict(texts),
    }
    about = f"{len(texts)} texts, batches of {args.batch_size}"
    compare(args, forms, about, ["bare encoder"], work=len(texts), has_memory=False)


if __name__ == "__main__":
    main()

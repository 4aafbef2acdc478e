"""
How fast predict.py is, from file to file, beside the bare encoder.

    python benchmarks/predict.py --model_dir runs/RUN --texts 2000 --repeat 5

Bare: nothing but the encoder, on batches that are padded already, of all texts sorted by length.
predict.py reads, tokenises, sorts pool by pool, encodes, classifies and writes. The two take turns,
so that what else the machine does hits both; the shares are of pairs of neighbours.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import data
import predict
from data import load_wordnet
from engine.loader import pieces
from engine.tokens import tokenize
from reporting import export


def glosses(count: int) -> list[str]:
    """Real texts of many lengths: WordNet's glosses with their examples, spread over its nouns."""
    lines = [
        line.split("|")[1].strip()
        for line in load_wordnet().open("data.noun")
        if not line.startswith(" ")
    ]
    return lines[:: max(1, len(lines) // count)][:count]


def clocks() -> np.ndarray:
    """Seconds of the clock, and of all cores for this process alone."""
    return np.array([time.perf_counter(), time.process_time()])


@torch.inference_mode()
def bare_seconds(trained: export.Trained, texts: list[str], batch_size: int) -> np.ndarray:
    method = trained.method
    tokens = tokenize(texts, trained.tokenizer, trained.about.max_length, quiet=True)
    device = next(method.parameters()).device
    batches = []
    for texts in map(tokens.take, data.eval_batches(tokens.lengths, batch_size)):
        (whole,) = pieces(texts, start_cost=2**60)  # twice that is still an int64
        ids = texts.ids.astype(np.int64)[whole.places]
        batches.append([torch.from_numpy(part).to(device) for part in (ids, whole.is_token)])
    start = clocks()
    for batch in batches:
        method.encoder(*batch).cpu()
    return clocks() - start


def predict_seconds(predictor: predict.Predictor, source: Path, target: Path) -> np.ndarray:
    start = clocks()
    table = predict.Predictions("csv")
    with (
        predict.opened(str(source)) as stream,
        predict.sink(target) as out,
        predict.table_rows(predict.Source(str(source), stream, "lines"), ["text"], "") as rows,
    ):
        for pool, answers in predictor.stream(rows):
            out.write(table.lines(pool, answers))
    return clocks() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model_dir", required=True, help="a run's folder, or its model/")
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()

    predictor = predict.Predictor(args.model_dir, device=args.device, batch_size=args.batch_size)
    trained, texts = predictor.trained, glosses(args.texts)
    bare, whole = [], []
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "texts.txt", Path(folder) / "out.csv"
        source.write_text("\n".join(texts))
        bare_seconds(trained, texts[:200], args.batch_size)  # the first call is slower
        for _ in range(args.repeat):
            bare.append(bare_seconds(trained, texts, args.batch_size))
            whole.append(predict_seconds(predictor, source, target))
    print(
        f"{len(texts)} texts, batches of {args.batch_size}, {args.device}, "
        f"{torch.get_num_threads()} threads, {args.repeat} times\n"
    )
    print("| texts a second, median | bare encoder | predict.py | its share, pair by pair |")
    print("|---|---:|---:|---|")
    for name, b, w in zip(("by the clock", "by CPU time"), np.transpose(bare), np.transpose(whole)):
        print(
            f"| {name} | {len(texts) / np.median(b):.1f} | {len(texts) / np.median(w):.1f} | "
            f"{np.median(b / w):.1%} ({min(b / w):.1%} to {max(b / w):.1%}) |"
        )


if __name__ == "__main__":
    main()

"""
Measures real (unpadded) tokens per second over a whole training epoch, for

    ours         SharpReCL by main.py's own loop: texts are tokenised once, and batches of both
                 views are split into pieces of texts of similar length
    frozen       the same with --freeze_layers 4, with the states of the frozen layers cached, or
                 computed at each step
    Trainer      Hugging Face's, with plain cross-entropy on both views as separate texts, grouped
                 by length (needs `pip install accelerate`)

    python benchmarks/pipeline.py
    python benchmarks/pipeline.py --encoder bert-base --device cuda --amp bf16
"""

import tempfile

import measure
import numpy as np
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

from engine.encoders import load_tokenizer, minilm_source


def trainer(run: measure.Prepared, folder: str):
    """An epoch of Trainer: cross-entropy on both views as separate texts."""
    source = minilm_source() if run.args.encoder == "minilm" else run.args.encoder
    model = AutoModelForSequenceClassification.from_pretrained(
        source, num_labels=len(run.corpus.label_names), trust_remote_code=False
    )
    rows = [
        {"input_ids": ids.tolist(), "attention_mask": [1] * len(ids), "labels": int(label)}
        for view in run.loader.views
        for ids, label in zip(np.split(view.ids, view.offsets[1:-1]), run.corpus.train_labels)
    ]
    arguments = TrainingArguments(
        folder,
        num_train_epochs=1,
        per_device_train_batch_size=2 * run.args.batch_size,
        train_sampling_strategy="group_by_length",
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        bf16=run.args.amp == "bf16",
        use_cpu=run.loader.device.type == "cpu",
        learning_rate=run.args.lr,
    )
    collator = DataCollatorWithPadding(load_tokenizer(run.args.encoder))

    def epoch():
        Trainer(model, arguments, train_dataset=rows, data_collator=collator).train()

    return epoch


def benchmark() -> None:
    args = measure.parse(__doc__, *measure.OF_RUNS, ("--batch_size", {"type": int, "default": 64}))
    run, layers = measure.run_of(args), ["--freeze_layers", "4"]
    forms = {
        "ours": run.epoch,
        "Trainer": trainer(measure.run_of(args), tempfile.mkdtemp()),
        "frozen, kept": measure.run_of(args, *layers).epoch,
        "frozen, anew": measure.run_of(args, *layers, keeps_states=False).epoch,
    }
    tokens = sum(int(view.lengths.sum()) for view in run.loader.views)
    about = (
        f"{args.encoder}, {len(run.corpus.train_texts):,} texts in two views, {tokens:,} real "
        f"tokens, --amp {args.amp}"
    )
    measure.compare(args, forms, about, ["ours"], work=tokens, has_memory=False)


if __name__ == "__main__":
    benchmark()

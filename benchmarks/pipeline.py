"""
Real (unpadded) tokens a second over a whole training epoch, of

    ours         SharpReCL by main.py's own loop: tokens made once, batches of both views in pieces
                 of texts of like length
    frozen       the same with --freeze_layers 4, the states of the frozen layers computed once and
                 kept; and computed anew at each step
    per batch    the same losses, in the style of the authors' code: two passes, tokenising in the
                 collate function, random batches padded to their longest
    Trainer      Hugging Face's, with plain cross-entropy on the same doubled texts, grouped by
                 length (needs `pip install accelerate`)

    python benchmarks/pipeline.py
    python benchmarks/pipeline.py --encoder bert-base --device cuda --amp bf16
"""

import tempfile

import torch
from measure import (
    Run,
    finish,
    flops,
    interleaved,
    machine_rate,
    parse,
    ratios,
    run_of,
    spread,
    table,
)
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

import main
from engine.augmentations import augmented_texts
from engine.corpus import cache_dir
from engine.encoders import load_tokenizer, minilm_folder
from engine.optimizer import autocast


class Texts(Dataset):
    """Rows of both views as they stand, and their label."""

    def __init__(self, views: list[list[str]], labels):
        self.views, self.labels = views, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[str, str, int]:
        return self.views[0][row], self.views[1][row], int(self.labels[row])


def per_batch(run: Run, views: list[list[str]], counted: list[int]):
    """An epoch in the style of the authors' code; `counted` receives real and padded tokens."""
    tokenizer, args, device = load_tokenizer(run.args.encoder), run.args, run.loader.device

    def collate(rows: list[tuple[str, str, int]]):
        one, two, labels = zip(*rows)
        encoded = [
            dict(
                tokenizer(
                    list(texts),
                    padding=True,
                    truncation=True,
                    return_tensors="pt",
                    max_length=args.max_length,
                    return_token_type_ids=False,
                )
            )
            for texts in (one, two)
        ]
        return *encoded, torch.tensor(labels)

    loader = DataLoader(
        Texts(views, run.corpus.train_labels), args.batch_size, shuffle=True, collate_fn=collate
    )

    def epoch():
        run.model.train()
        counted[:] = [0, 0]
        for one, two, labels in loader:
            counted[0] += sum(int(view["attention_mask"].sum()) for view in (one, two))
            counted[1] += sum(view["input_ids"].numel() for view in (one, two))
            with autocast(device, args.amp):
                feats: list[Tensor] = [
                    run.model.encoder(*(part.to(device) for part in view.values()))
                    for view in (one, two)
                ]
            step = main.objective(
                run.model,
                torch.cat(feats).float(),
                labels.to(device).repeat(2),
                run.loader.class_counts,
                0.5,
                args,
            )
            run.optimizer.zero_grad()
            step.loss.backward()
            run.optimizer.step()
            step.loss.item()

    return epoch


def trainer(run: Run, folder: str):
    """An epoch of Trainer, cross-entropy on both views as so many texts."""
    source = minilm_folder() if run.args.encoder == "minilm" else run.args.encoder
    model = AutoModelForSequenceClassification.from_pretrained(
        source, num_labels=len(run.corpus.label_names), trust_remote_code=False
    )
    rows = [
        {
            "input_ids": view.ids[a:b].tolist(),
            "attention_mask": [1] * int(b - a),
            "labels": int(label),
        }
        for view in run.loader.views
        for a, b, label in zip(view.offsets, view.offsets[1:], run.corpus.train_labels)
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
    args = parse(
        __doc__,
        (
            "--encoder",
            {"default": "minilm", "help": "or bert-base: its shape, with random weights"},
        ),
        ("--dataset", {"default": "wordnet"}),
        ("--data_dir", {"default": "data"}),
        (
            "--per_class",
            {"type": int, "default": 40, "help": "texts of a class at the most; 1,038 of WordNet"},
        ),
        ("--batch_size", {"type": int, "default": 64}),
        ("--amp", {"default": "off"}),
    )
    run, other = run_of(args), run_of(args)
    texts, counted = run.corpus.train_texts, [0, 0]
    views = [texts, augmented_texts(texts, "word_substitution", cache_dir=cache_dir(run.args))]
    layers = ["--freeze_layers", "4"]
    forms = {
        "ours": run.epoch,
        "per batch": per_batch(other, views, counted),
        "Trainer": trainer(run_of(args), tempfile.mkdtemp()),
        "frozen, kept": run_of(args, *layers).epoch,
        "frozen, anew": run_of(args, *layers, keeps_states=False).epoch,
    }
    seconds = interleaved(forms, args.repeats, args.device, args.clock)
    tokens = sum(int(view.lengths.sum()) for view in run.loader.views)
    ours = run.loader.summary().split()[-1]
    padded = {"per batch": f"{1 - counted[0] / counted[1]:.1%}", "Trainer": ""}
    rate = machine_rate(args.device, args.amp)
    work = sum(flops(run, rows) for rows in run.loader.epoch_batches(1))
    rows = [
        [
            name,
            spread([tokens / s for s in seconds[name]], 0),
            spread(ratios(seconds, name, "ours"), 2),
            padded.get(name, ours),
            ""
            if "frozen" in name
            else f"{work / sorted(seconds[name])[args.repeats // 2] / rate:.0%}",
        ]
        for name in forms
    ]
    finish(
        args,
        f"{args.encoder}, {len(texts):,} texts in two views, {tokens:,} real tokens, "
        f"--amp {args.amp}; matrix products reach {rate / 1e12:.2f} TFLOP/s here\n\n"
        + table(
            ["an epoch", "real tokens/s", "time of ours", "padding", "of the matrix rate"], rows
        ),
        {"seconds": seconds, "tokens": tokens},
    )


if __name__ == "__main__":
    benchmark()

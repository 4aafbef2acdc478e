"""
Real (unpadded) tokens a second over a whole training epoch, of

    ours         SharpReCL by main.py's own loop: tokens made once, both views in one pass, texts of
                 like length together
    per batch    the same losses, in the style of the authors' code: two passes, tokenising in the
                 collate function, random batches padded to their longest
    Trainer      Hugging Face's, with plain cross-entropy on the same doubled texts, grouped by
                 length (needs `pip install accelerate`)

    python benchmarks/pipeline.py
    python benchmarks/pipeline.py --encoder bert-base --device cuda --amp bf16
"""
import tempfile

from measure import (finish, flops, interleaved, machine_rate, parse, ratios, run_of, spread,
                     table)

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import (AutoModelForSequenceClassification, DataCollatorWithPadding, Trainer,
                          TrainingArguments)

import main
from augment import augment
from model import load_tokenizer, minilm_folder


class Texts(Dataset):
    """Rows of both views as they stand, and their label."""

    def __init__(self, views: list[list[str]], labels):
        self.views, self.labels = views, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[str, str, int]:
        return self.views[0][row], self.views[1][row], int(self.labels[row])


def per_batch(run, views: list[list[str]], counted: list[int]):
    """An epoch in the style of the authors' code; `counted` receives real and padded tokens."""
    tokenizer, args = load_tokenizer(run.args.encoder), run.args

    def collate(rows: list[tuple[str, str, int]]):
        one, two, labels = zip(*rows)
        encoded = [dict(tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt",
                                  max_length=args.max_length, return_token_type_ids=False))
                   for texts in (one, two)]
        return *encoded, torch.tensor(labels)

    loader = DataLoader(Texts(views, run.corpus.train_labels), args.batch_size, shuffle=True,
                        collate_fn=collate)

    def epoch():
        run.model.train()
        counted[:] = [0, 0]
        for one, two, labels in loader:
            counted[0] += sum(int(view["attention_mask"].sum()) for view in (one, two))
            counted[1] += sum(view["input_ids"].numel() for view in (one, two))
            with run.autocast():
                feats: list[Tensor] = [run.encoder(**run.to_device(view)) for view in (one, two)]
            step = main.objective(run.model, torch.cat(feats).float(),
                                  labels.to(run.device).repeat(2), run.class_counts, 0.5, args)
            run.optimizer.zero_grad()
            step.loss.backward()
            run.optimizer.step()
            step.loss.item()
    return epoch


def trainer(run, folder: str):
    """An epoch of Trainer, cross-entropy on both views as so many texts."""
    source = minilm_folder() if run.args.encoder == "minilm" else run.args.encoder
    model = AutoModelForSequenceClassification.from_pretrained(
        source, num_labels=len(run.corpus.label_names))
    rows = [{"input_ids": view.ids[a:b].tolist(), "attention_mask": [1] * int(b - a),
             "labels": int(label)} for view in run.views
            for a, b, label in zip(view.offsets, view.offsets[1:], run.corpus.train_labels)]
    arguments = TrainingArguments(
        folder, num_train_epochs=1, per_device_train_batch_size=2 * run.args.batch_size,
        train_sampling_strategy="group_by_length", report_to=[], save_strategy="no",
        logging_strategy="no", disable_tqdm=True, bf16=run.args.amp == "bf16",
        use_cpu=run.device.type == "cpu", learning_rate=run.args.lr)
    collator = DataCollatorWithPadding(load_tokenizer(run.args.encoder))

    def epoch():
        Trainer(model, arguments, train_dataset=rows, data_collator=collator).train()
    return epoch


def benchmark() -> None:
    args = parse(__doc__, ("--encoder", {"default": "minilm", "help": "or bert-base: its shape, "
                                         "with random weights"}),
                 ("--dataset", {"default": "wordnet"}), ("--data_dir", {"default": "data"}),
                 ("--batch_size", {"type": int, "default": 64}), ("--amp", {"default": "off"}))
    run, other = run_of(args), run_of(args)
    texts, counted = run.corpus.train_texts, [0, 0]
    views = [texts, augment(texts, "word_substitution", cache_dir=main.cache_dir(run.args))]
    forms = {"ours": lambda: main.train_epoch(run, 1),
             "per batch": per_batch(other, views, counted),
             "Trainer": trainer(run, tempfile.mkdtemp())}
    seconds = interleaved(forms, args.repeats, args.device)
    tokens = sum(int(view.lengths.sum()) for view in run.views)
    padded = {"ours": f"{run.padding():.1%}", "per batch": f"{1 - counted[0] / counted[1]:.1%}"}
    rate = machine_rate(args.device, args.amp)
    work = sum(flops(run, rows) for rows in run.epoch_batches(1))
    rows = [[name, spread([tokens / s for s in seconds[name]], 0),
             spread([1 / r for r in ratios(seconds, name, "ours")], 2), padded.get(name, ""),
             f"{work / sorted(seconds[name])[args.repeats // 2] / rate:.0%}"] for name in forms]
    finish(args, f"{args.encoder}, {len(views[0]):,} texts in two views, {tokens:,} real tokens, "
           f"--amp {args.amp}; matrix products reach {rate / 1e12:.2f} TFLOP/s here\n\n" + table(
               ["an epoch", "real tokens/s", "of ours", "padding", "of the matrix rate"], rows),
           {"seconds": seconds, "tokens": tokens})


if __name__ == "__main__":
    benchmark()

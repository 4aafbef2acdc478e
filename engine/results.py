"""
Writes the predictions and reports of a run, and prints its results.
"""

import csv
import gzip
import io
import json
import resource
import sys
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import classification_report

from data import Corpus
from engine.files import InputError, printable, read_json, write_json, write_text


def csv_line(fields: Iterable) -> str:
    """A CSV record without a line end."""
    return csv_text(fields, []).removesuffix("\r\n")


def csv_text(header: Iterable, rows: Iterable[Iterable]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([header, *rows])  # its own line end: so it quotes a lone return
    return text.getvalue()


def csv_rows(path: Path) -> Iterator[dict[str, str]]:
    """Yields the rows of a CSV file, by column."""
    csv.field_size_limit(2**31 - 1)  # a text may be a whole book
    with open(path, newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file)


def read_ledger(path: Path) -> list[dict]:
    """Reads the runs of a ledger, compressed JSON with one run per line (reporting/runs.py)."""
    try:
        text = gzip.decompress(path.read_bytes()).decode("utf-8")
        return [json.loads(line) for line in text.splitlines()]
    except (EOFError, OSError, ValueError, zlib.error) as error:
        raise InputError(f"{path}: it is not a whole ledger of runs ({error})") from error


UNKNOWN = "(no label)"  # a language model's answer that is no label; its column is the last one


def write_predictions(
    path: Path,
    texts: list[str],
    labels: np.ndarray,
    logits: np.ndarray,
    names: list[str],
    epoch: int,
) -> None:
    """
    Writes a CSV file with the columns text, label, prediction, probability and epoch.

    labels   (n,)           indices of names
    logits   (n, C or more) of this epoch; the largest is the prediction, and the softmax gives its
                            probability
    names    (C,)           of the classes; a further column of logits means UNKNOWN
    """
    names, predicted = [*names, UNKNOWN], logits.argmax(axis=1)
    probability = torch.from_numpy(logits).softmax(dim=1).amax(dim=1).tolist()
    write_text(
        path,
        csv_text(
            ["text", "label", "prediction", "probability", "epoch"],
            (
                (text, names[label], names[prediction], f"{p:.6f}", epoch)
                for text, label, prediction, p in zip(texts, labels, predicted, probability)
            ),
        ),
    )


def write_reports(
    folder: Path,
    corpus: Corpus,
    epoch: int,
    logits: np.ndarray | None,
    val_logits: np.ndarray | None,
) -> None:
    """Writes predictions.csv, validation.csv and scikit-learn's report of an epoch."""
    labels, names = corpus.test_labels, corpus.label_names
    if val_logits is not None:
        write_predictions(
            folder / "validation.csv", corpus.val_texts, corpus.val_labels, val_logits, names, epoch
        )
    if logits is None:
        return
    write_predictions(folder / "predictions.csv", corpus.test_texts, labels, logits, names, epoch)
    tested = np.unique(labels)  # the same classes as in metrics()
    titles = [names[c] for c in tested]
    options = dict(labels=tested, zero_division=0)
    predicted = logits.argmax(axis=1)
    write_text(
        folder / "classification_report.txt",
        classification_report(
            labels, predicted, digits=4, target_names=list(map(printable, titles)), **options
        ),
    )
    write_json(
        folder / "classification_report.json",
        classification_report(labels, predicted, output_dict=True, target_names=titles, **options),
    )


def peak_memory(device: str) -> float:
    """
    The peak memory in GiB, of tensors on a GPU or else of this process. For a run that was resumed,
    it is that of the last process.
    """
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 1 if sys.platform == "darwin" else 2**10  # bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


# ---- lines for the screen ----


def epoch_line(record: dict) -> str:
    """The results of an epoch in a line."""
    line, test = f"epoch {record['epoch']}", record.get("test")
    if test:
        groups = ", ".join(
            f"{name} {group['macro_f1']:.1f}" for name, group in test["groups"].items()
        )
        line += f"  accuracy {test['accuracy']:.2f}, macro-F1 {test['macro_f1']:.2f} ({groups})"
    if "val" in record:
        line += f"  val {record['val']['accuracy']:.2f}, {record['val']['macro_f1']:.2f}"
    if "loss" in record:
        line += (
            f"  cls {record['loss_cls']:.3f}, cl {record['loss_cl']:.3f}, "
            f"{record['texts_per_second']:.0f} texts/s"
        )
    return line


PROTOCOLS = {
    "last": "after the last epoch: the headline",
    "best_val": "of the evaluated epochs, the best in validation macro-F1: its model is kept",
    "best_test": "of the evaluated epochs, the best in test accuracy, as in the authors' code: "
    "optimistic",
}


def epoch_under(history: list[dict], protocol: str) -> dict:
    """
    The epoch that counts under one of PROTOCOLS, of the evaluated ones or, without texts to
    evaluate on, of all: in a tie the first by test accuracy, the later by validation macro-F1. {}
    if there is none.
    """
    seen = [epoch for epoch in history if epoch.keys() & {"test", "val"}] or history
    part = protocol.removeprefix("best_")
    if not seen or (protocol != "last" and part not in seen[-1]):
        return {}
    if protocol == "last":
        return seen[-1]
    if part == "test":
        return max(seen, key=lambda epoch: epoch["test"]["accuracy"])
    return max(seen, key=lambda epoch: (epoch["val"]["macro_f1"], epoch["epoch"]))


def print_result(folder: Path) -> None:
    """Prints scikit-learn's report of the kept epoch, and the result under each protocol."""
    result = read_json(folder / "result.json")
    if "macro_f1" not in result["last"]:
        print(f"there are no test texts, so there is no test result\nin {folder}")
        return
    labels = read_json(folder / "args.json")["label_names"]
    kept = result.get("best_val", result["last"])  # the epoch of the report
    never = ", ".join(printable(labels[label]) for label in kept["never_predicted"]) or "no class"
    print((folder / "classification_report.txt").read_text())
    print(f"above: epoch {result['kept_epoch']}; never predicted: {never}")
    for name, meaning in PROTOCOLS.items():
        if name in result:
            print(
                f"{name + ':':<10} accuracy {result[name]['accuracy']:.2f}, macro-F1 "
                f"{result[name]['macro_f1']:.2f}, epoch {result[name]['epoch']} ({meaning})"
            )
            if "without_leaked" in result[name]:
                print(f"{'':<10} {without_leaked_words(result[name]['without_leaked'])}")
    print(f"in {folder}")


def without_leaked_words(found: dict) -> str:
    """Describes the result of metrics.without_leaked() on the test texts."""
    if found["texts"] == 0:
        return (
            f"All {found['left_out']:,} test texts stand in the training part too: how good it is "
            "on new texts is not known"
        )
    return (
        f"Without the test texts that stand in the training part too ({found['left_out']:,}): "
        f"accuracy {found['accuracy']:.2f}, macro-F1 {found['macro_f1']:.2f}"
    )

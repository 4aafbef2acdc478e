"""
The report on the texts before training: class sizes, repeated and leaked texts, truncated texts and
unknown tokens; and a digest of the corpus.
"""

import hashlib
import json
import unicodedata
from collections import Counter, defaultdict

import numpy as np

from data import Corpus, class_counts, imbalance_ratio

# the kinds of leaks: texts of the first part that should not be in the second part
LEAKS = {
    "test_in_train": ("test", "training"),
    "val_in_train": ("validation", "training"),
    "val_in_test": ("validation", "test"),
}


def leaks(corpus: Corpus) -> dict[str, np.ndarray]:
    """For each of LEAKS, whether each text of the first part is also in the second part, bool."""
    texts = {
        "training": [text.strip() for text in corpus.train_texts],
        "validation": [text.strip() for text in corpus.val_texts],
        "test": [text.strip() for text in corpus.test_texts],
    }
    known = {part: set(texts[part]) for part in texts}
    return {
        leak: np.array([text in known[other] for text in texts[part]], dtype=bool)
        for leak, (part, other) in LEAKS.items()
    }


def alike(names: list[str]) -> list[list[str]]:
    """Names that look the same: equal up to case, white space or the Unicode form of a letter."""
    groups = defaultdict(list)
    for name in names:
        key = unicodedata.normalize("NFKC", name).casefold()
        groups[" ".join(key.split())].append(name)
    return [group for group in groups.values() if len(group) > 1]


def data_report(corpus: Corpus) -> dict:
    """
    The numbers of the report; texts are the same if they are equal up to outer white space.

    returns     name, classes [{label, train, test}], train, test, ir (Eq. 3), and the counts
                repeated (training texts that occur earlier), two_labels (distinct training texts
                with more than one label), each of LEAKS (texts of the first part), dropped (empty
                rows), unlabelled (other rows left out), val (validation texts), alike (lists of
                class names that look the same), notes (lines on what was found while reading)
    """
    num_classes = len(corpus.label_names)
    train = class_counts(corpus.train_labels, num_classes)
    test = class_counts(corpus.test_labels, num_classes)
    texts = [text.strip() for text in corpus.train_texts]
    labels_per_text = Counter(text for text, _ in set(zip(texts, corpus.train_labels.tolist())))
    return {
        "name": corpus.name,
        "train": len(texts),
        "test": len(corpus.test_texts),
        "classes": [
            {"label": label, "train": int(n), "test": int(m)}
            for label, n, m in zip(corpus.label_names, train, test)
        ],
        "ir": imbalance_ratio(train),
        "repeated": len(texts) - len(labels_per_text),
        "two_labels": sum(times > 1 for times in labels_per_text.values()),
        **{leak: int(texts.sum()) for leak, texts in leaks(corpus).items()},
        "dropped": corpus.dropped,
        "unlabelled": corpus.unlabelled,
        "val": len(corpus.val_texts),
        "alike": alike(corpus.label_names),
        "notes": corpus.notes,
    }


def format_report(report: dict) -> str:
    """Formats the report as lines: a table of the classes, then the findings."""
    names = [" ".join(row["label"].split())[:60] for row in report["classes"]]
    width = max(map(len, ["class", *names]))
    lines = [
        f"{report['name']}: {len(names)} classes, imbalance ratio {report['ir']:.1f} (largest over "
        "smallest, Eq. 3)",
        f"  {'class':<{width}} {'train':>9} {'share':>8} {'test':>9}",
    ]
    whole = {"train": report["train"], "test": report["test"]}
    for name, row in zip([*names, "all"], [*report["classes"], whole]):
        share = row["train"] / report["train"]
        lines.append(f"  {name:<{width}} {row['train']:>9,} {share:>8.2%} {row['test']:>9,}")
    lines += [finding(name, value) for name, value in findings(report).items()]
    leaked = {leak.partition("_")[0] for leak in LEAKS if report[leak]}  # "test", "val"
    notes = [*report["notes"], *(LEAK_NOTES[part] for part in sorted(leaked))]
    return "\n".join([*lines, *(f"  {note}" for note in notes)])


# printed if there are such texts; the split of a single file makes none
LEAK_NOTES = {
    "test": "Test texts that stand in the training part make the result too good: macro-F1 without "
    "them is printed, too. In files of your own, remove them from one part.",
    "val": "Validation texts choose the epoch: none should be a training text, which is learned by "
    "heart, or a test text. In files of your own, remove them, or leave the validation file out "
    "and give --val_fraction 0.1.",
}
MANY_UNKNOWN = 0.2  # share of unknown tokens from which the report gives a remedy
UNKNOWN_REMEDY = (
    "The encoder cannot tell unknown tokens apart: train with one that knows these letters, as "
    "--encoder xlm-roberta-base (100 languages) or roberta-base (tokens of bytes, so any letter)."
)


def format_tokens(report: dict, max_length: int) -> str:
    """The report's lines on the training texts: shares of truncated texts and unknown tokens."""
    lines = [
        finding(f"longer than {max_length} tokens, and cut", f"{report['truncated']:.2%}"),
        finding("tokens unknown to the encoder", f"{report['unknown']:.2%}"),
    ]
    if report["unknown"] >= MANY_UNKNOWN:
        lines.append(f"  {UNKNOWN_REMEDY}")
    return "\n".join(lines)


def finding(name: str, value: str) -> str:
    """A line of the report."""
    return f"  {name + ':':<42} {value}"


def findings(report: dict) -> dict[str, str]:
    """The findings below the report's table: names and values."""
    found = {
        "training texts that repeat an earlier one": f"{report['repeated']:,}",
        "training texts under more than one label": f"{report['two_labels']:,}",
        "empty rows dropped": f"{report['dropped']:,}",
        "rows without a label left out": f"{report['unlabelled']:,}",
        "validation texts": f"{report['val']:,}",
    }
    for leak, (part, other) in LEAKS.items():
        if texts := report["test" if part == "test" else "val"]:
            found[f"{part} texts in the {other} part too"] = f"{report[leak]:,} of {texts:,}"
    if report["alike"]:  # ascii shows how they differ
        names = ", ".join(map(ascii, report["alike"][0]))
        found["classes that look the same"] = f"{len(report['alike']):,}, the first {names}"
    return found


def data_hash(corpus: Corpus) -> str:
    """SHA-256 over the label names and every text with its label, of all parts, in order."""
    digest = hashlib.sha256(json.dumps(corpus.label_names).encode())
    for part in ("train", "val", "test"):
        labels = getattr(corpus, f"{part}_labels").tolist()
        for text, label in zip(getattr(corpus, f"{part}_texts"), labels):
            digest.update(json.dumps([part, text, label]).encode())
    return digest.hexdigest()

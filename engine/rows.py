"""
Own rows of texts and labels on their way into a Corpus: class names that mean the same, classes
without a text, labels that the training part lacks.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

from data import Corpus, InputError, Rows, sort_labels, to_corpus


def own_corpus(
    name: str, train: Rows, test: Rows = (), val: Rows = (), notes: Sequence[str] = ()
) -> Corpus:
    """
    to_corpus() for texts from anywhere: where all labels are numbers, 1.0 is called 1, and what was
    found on the way stands in the corpus's notes.

    raises  InputError as to_corpus() does; it names a class that an unknown label may mean
    """
    parts = {"training": train, "test": test, "validation": val}
    names = whole_numbers({label for rows in parts.values() for _, label in rows if label})
    gone: list[str] = []
    seen: set[str] = set()
    for part, rows in parts.items():
        parts[part] = rows = [(text, names.get(label or "", label)) for text, label in rows]
        kept = {label for text, label in rows if label is not None and text.strip()}
        counts = Counter(label for _, label in rows if label is not None)
        if lost := sort_labels(counts.keys() - kept):
            shown = ", ".join(f"{label!r:.60} ({counts[label]})" for label in lost)[:300]
            gone.append(f"no {part} row of these classes has a text, all are left out: {shown}")
        seen = seen or kept
        if len(seen) > 1:
            check_seen(name, part, sort_labels(seen), kept)
    corpus = to_corpus(name, parts["training"], parts["test"], parts["validation"], notes=gone)
    if names:
        changed = sort_labels(set(names))[0]
        gone = [*gone, f"all labels are numbers: the class {changed} is called {names[changed]}"]
    return replace(corpus, notes=[*notes, *gone])


def alike(names: list[str]) -> list[list[str]]:
    """
    Names that look the same: equal but for case, white space, characters without a width, Unicode's
    forms of one letter, or the way to write a number (1, 1.0, 01).
    """
    groups = defaultdict(list)
    for name in names:
        text = "".join(
            letter
            for letter in unicodedata.normalize("NFKC", name)
            if unicodedata.category(letter) != "Cf"
        )
        key = " ".join(text.casefold().split())
        is_number = re.fullmatch(r"-?[0-9]{1,40}(\.[0-9]{1,40})?", key)
        groups[Fraction(key) if is_number else key].append(name)
    return [group for group in groups.values() if len(group) > 1]


def whole_numbers(labels: set[str]) -> dict[str, str]:
    """
    The names of labels that are to be changed: where all are numbers, 1.0 is called 1. A column of
    whole numbers with a gap is one of floats for pandas and others: its classes are the same.
    """
    if not all(re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", label) for label in labels):
        return {}
    whole = {label: re.fullmatch(r"(-?[0-9]+)\.0+", label) for label in labels}
    return {label: match[1] for label, match in whole.items() if match}


def check_seen(name: str, part: str, label_names: list[str], labels: set[str]) -> None:
    """InputError if one of a part's labels is no training label; it names one that looks alike."""
    unseen = sort_labels(labels - set(label_names))
    if not unseen:
        return
    remedy = f"add some or drop those {part} rows"
    for first, *_, last in alike(unseen + label_names):
        if first in unseen and last in label_names:
            remedy = f"is {ascii(first)} the class {ascii(last)}? Write it so"
            break
    names = ", ".join(map(repr, unseen))[:300]
    raise InputError(f"{name}: no training text for the {part} labels {names}; {remedy}")

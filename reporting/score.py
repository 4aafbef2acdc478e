"""
Scores a trained model on texts with labels: predict.py RUN labelled.csv --score
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import classification_report

from engine import files
from engine.files import InputError, printable
from engine.own_data import without_fraction
from engine.saved_model import About
from reporting import page


@dataclass(frozen=True)
class Labelled(page.Scored):
    """The scored texts; the classes are the model's, then the labels that it does not know."""

    name: str  # of the file
    left_out: int  # rows without a label or a text
    unknown: list[str]  # labels of the file that the model does not know

    @property
    def unknown_texts(self) -> int:
        """Texts with a label that the model does not know: each is an error."""
        return int(self.test.label.isin(self.unknown).sum())


def gather(about: About, name: str, rows: list[dict]) -> Labelled:
    """
    name     of the file
    rows     with text, label, prediction and probability; missing ones of the last three are None
    raises   InputError if no row has a text and a label
    """
    scored = [row for row in rows if row["label"] is not None and row["prediction"] is not None]
    if not scored:
        raise InputError(f"{name}: none of {len(rows)} rows has a text and a label")
    known = set(about.label_names)
    for row in scored:  # the training has called 1.0 the class 1, where all labels were numbers
        if row["label"] not in known and (whole := without_fraction(row["label"])) in known:
            row["label"] = whole
    unknown = sorted({row["label"] for row in scored} - known)
    names = [*about.label_names, *unknown]
    test = page.of_texts(scored, names)
    tested = np.bincount(test.true, minlength=len(names))
    trained = [*about.class_counts, *[0] * len(unknown)]
    classes = pd.DataFrame({"label": names, "train": trained, "test": tested})
    return Labelled(classes, test, name, len(rows) - len(scored), unknown)


def in_words(found: Labelled) -> str:
    """scikit-learn's report on the labels that occur, and notes on unknown labels and rows."""
    tested = np.unique(found.test.true)
    names = [printable(found.answers[label]) for label in tested]
    options = {"labels": tested, "target_names": names, "digits": 4, "zero_division": 0}
    lines = [classification_report(found.test.true, found.test.predicted, **options)]
    if found.unknown:
        lines.append(
            f"labels that the model does not know: {', '.join(map(printable, found.unknown))}; "
            f"their texts ({found.unknown_texts:,}) count as errors"
        )
    if found.left_out:
        lines.append(f"rows without a label or a text, which are left out: {found.left_out:,}")
    last = "accuracy {accuracy:.2f}, macro-F1 {macro_f1:.2f}, {total:,} texts"
    return "\n".join([*lines, last.format(**page.numbers(found))])


def write(found: Labelled, path: Path) -> None:
    """Writes the page."""
    values = page.of_classes(found) | {"short": page.numbers(found), "title": found.name}
    files.write_text(path, page.template("score.html").render(values))

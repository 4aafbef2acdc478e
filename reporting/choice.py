"""
Compares the runs of several methods on one data set: a table, and a sentence that names the method
to take. python report.py RUNS --choose (bash run_all.sh own also makes the runs).

The validation texts choose, so the test texts still give an unbiased estimate. Resampling the
validation texts (Efron 1979) tells whether a difference may be chance.
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from engine.files import InputError
from engine.results import csv_rows
from reporting.runs import damaged, frame, mean_text, records

RESAMPLES = 1000
CERTAIN = 0.95  # share of the resamples in which the better method must stay better


class Method(NamedTuple):
    """
    The runs of one method, one per seed.

    labels      (n,)    of the validation texts
    predicted   (S, n)  of S seeds
    macro_f1    (S,)    of the test texts, in percent
    rare        (S,)    the mean F1 of the rarest third of the classes that have a test text
    """

    name: str
    labels: np.ndarray
    predicted: np.ndarray
    macro_f1: np.ndarray
    rare: np.ndarray
    minutes: float


def macro_f1(labels: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """
    Macro-F1 in percent of each row of predictions (S, n), with weights (n,) of the texts: (S,). The
    mean is over the classes that have a text.
    """
    scores = []
    for label in np.unique(labels[weights > 0]):
        is_label, is_said = labels == label, predicted == label
        both = (weights * (is_label & is_said)).sum(axis=1)
        scores.append(2 * both / ((weights * is_said).sum(axis=1) + (weights * is_label).sum()))
    return 100 * np.mean(scores, axis=0)


def chance_to_lead(best: Method, other: Method) -> float:
    """Share of resamples of the validation texts in which `best` is above `other`."""
    rng, n, wins = np.random.default_rng(0), len(best.labels), 0
    for _ in range(RESAMPLES):
        weights = np.bincount(rng.integers(0, n, n), minlength=n)
        ours, theirs = (macro_f1(own.labels, own.predicted, weights) for own in (best, other))
        wins += ours.mean() > theirs.mean()
    return wins / RESAMPLES


def read_methods(folder: Path) -> list[Method]:
    """The finished runs in the folder, by method. InputError if they cannot be compared."""
    found = records(folder)
    runs = frame(found, "best_val")
    of_method = dict(list(runs.groupby("method", sort=False))) if found else {}
    if len(of_method) < 2:
        raise InputError(
            f"{folder}: finished runs of {len(of_method)} methods; --choose compares at "
            "least two: bash run_all.sh own FILE makes them"
        )
    for name, own in of_method.items():
        settings = pd.DataFrame(
            [{k: json.dumps(v) for k, v in run.items()} for run in own.settings]
        )
        counts = settings.drop(columns="seed").nunique(dropna=False)
        if runs_differ := sorted(counts[counts > 1].index):
            raise InputError(
                f"{folder}: the runs of {name} differ in {', '.join(runs_differ)}; give a folder "
                "with one setting of each method"
            )
        if own.seed.duplicated().any():
            raise InputError(f"{folder}: two runs of {name} with one seed; move one of them away")
    if runs.data_hash.nunique() > 1:
        raise InputError(
            f"{folder}: the runs are on different texts; give them one file and the same flags of "
            "the data, such as --ir, --data_seed and --val_fraction"
        )
    return [read_method(name, own) for name, own in of_method.items()]


def read_method(name: str, runs: pd.DataFrame) -> Method:
    found = [read_validation(Path(folder)) for folder in runs.folder]
    predicted = np.array([own.prediction for own in found])
    macro_f1, rarest = runs.macro_f1.to_numpy(), runs.rarest_third.to_numpy()
    minutes = runs.seconds.mean() / 60
    return Method(name, found[0].label.to_numpy(), predicted, macro_f1, rarest, minutes)


def read_validation(folder: Path) -> pd.DataFrame:
    """Label and prediction of each validation text."""
    path = folder / "validation.csv"
    if not path.exists():
        raise InputError(
            f"{folder}: the run has no validation texts, which --choose compares by; "
            "give --val_fraction 0.2 to its command"
        )
    try:
        return pd.DataFrame(csv_rows(path))[["label", "prediction"]]
    except (LookupError, TypeError, ValueError) as error:
        raise damaged(folder, error) from error


def choose(folder: Path) -> str:
    """The table, best validation macro-F1 first, and the sentence."""
    methods = read_methods(folder)
    ones = np.ones(len(methods[0].labels), dtype=int)
    score = {own.name: macro_f1(own.labels, own.predicted, ones).mean() for own in methods}
    methods.sort(key=lambda method: -score[method.name])
    lines = [["method", "validation", "test macro-F1", "rarest third", "minutes", "seeds"]]
    for own in methods:
        cells = [own.name, f"{score[own.name]:.1f}", mean_text(own.macro_f1), mean_text(own.rare)]
        lines.append([*cells, f"{own.minutes:.1f}", str(len(own.macro_f1))])
    row = "{:<12} {:>10} {:>14} {:>14} {:>8} {:>6}"
    return "\n".join([*(row.format(*cells) for cells in lines), "", sentence(methods, score)])


def sentence(methods: list[Method], score: dict[str, float]) -> str:
    """Which method to take, and why."""
    best, *others = methods
    level = [other for other in others if chance_to_lead(best, other) < CERTAIN]
    if not level:
        second = others[0]
        return (
            f"Take {best.name}: on the validation texts its macro-F1 is "
            f"{score[best.name]:.1f}, {score[best.name] - score[second.name]:.1f} above "
            f"{second.name}, the next best, and hardly by chance "
            f"({chance_to_lead(best, second):.0%} of {RESAMPLES:,} resamples)."
        )
    cheapest = min([best, *level], key=lambda method: method.minutes)
    names = ", ".join(method.name for method in (best, *level) if method is not cheapest)
    return (
        f"Take {cheapest.name}: the differences between it and {names} are chance by the "
        f"validation texts, and it is the cheapest of them ({cheapest.minutes:.1f} minutes). "
        "More validation texts would tell more."
    )

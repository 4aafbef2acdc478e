"""
Which method, on my texts? The runs of several methods on one data set -> a table, and a sentence
that names the method to take: python report.py RUNS --choose (bash run_all.sh own does it all).

The validation texts choose, so that the test texts still say what to expect of the choice. How far
a difference is chance is told by resampling the validation texts (Efron 1979).
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
CERTAIN = 0.95  # share of the resamples in which the better method must stay the better one


class Method(NamedTuple):
    """
    The runs of one method, a seed each.

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
    In percent, of each row of predictions (S, n), texts counted by weights (n,): (S,). The mean is
    over the classes that have a text.
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
    """The finished runs below the folder, by method. InputError where they cannot be compared."""
    found = records(folder)
    runs = frame(found, "best_val")
    of_method = dict(list(runs.groupby("method", sort=False))) if found else {}
    if len(of_method) < 2:
        raise InputError(
            f"{folder}: finished runs of {len(of_method)} methods; --choose compares at "
            "least two: bash run_all.sh own FILE makes them"
        )
    if runs.dataset.nunique() > 1:
        raise InputError(
            f"{folder}: runs on several data sets ({', '.join(sorted(set(runs.dataset)))}); give "
            "a folder with the runs on one"
        )
    for name, own in of_method.items():
        check_seeds(folder, name, own)
    if runs.data_hash.nunique() > 1:
        raise InputError(
            f"{folder}: the runs are on different texts; give them one file and the same flags of "
            "the data, such as --ir, --data_seed and --val_fraction"
        )
    return [read_method(name, own) for name, own in of_method.items()]


def check_seeds(folder: Path, name: str, runs: pd.DataFrame) -> None:
    """InputError unless the runs of a method differ in the seed, and in nothing else."""
    values = pd.DataFrame([{k: json.dumps(v) for k, v in own.items()} for own in runs.settings])
    counts = values.drop(columns="seed").nunique(dropna=False)
    if differing := sorted(counts[counts > 1].index):
        raise InputError(
            f"{folder}: the runs of {name} differ in {', '.join(differing)}; give a folder "
            "with one setting of each method"
        )
    if runs.seed.duplicated().any():
        raise InputError(f"{folder}: two runs of {name} with one seed; move one of them away")


def read_method(name: str, runs: pd.DataFrame) -> Method:
    rows = [read_validation(Path(folder)) for folder in runs.folder]
    labels = np.array([label for label, _ in rows[0]])
    predicted = np.array([[prediction for _, prediction in own] for own in rows])
    macro_f1, rarest = runs.macro_f1.to_numpy(), runs.rarest_third.to_numpy()
    return Method(name, labels, predicted, macro_f1, rarest, runs.seconds.mean() / 60)


def read_validation(folder: Path) -> list[tuple[str, str]]:
    """Label and prediction of each validation text."""
    path = folder / "validation.csv"
    if not path.exists():
        raise InputError(
            f"{folder}: the run has no validation texts, which --choose compares by; "
            "give --val_fraction 0.2 to its command"
        )
    try:
        return [(row["label"], row["prediction"]) for row in csv_rows(path)]
    except (LookupError, TypeError, ValueError) as error:
        raise damaged(folder, error) from error


def choose(folder: Path) -> str:
    """The table, best validation macro-F1 first, and the sentence."""
    methods = read_methods(folder)
    ones = np.ones(len(methods[0].labels), dtype=int)
    score = {own.name: macro_f1(own.labels, own.predicted, ones).mean() for own in methods}
    methods.sort(key=lambda method: -score[method.name])
    lines = [
        f"{'method':<12} {'validation':>10} {'test macro-F1':>14} {'rarest third':>14} "
        f"{'minutes':>8} {'seeds':>6}"
    ]
    for method in methods:
        lines.append(
            f"{method.name:<12} {score[method.name]:>10.1f} "
            f"{mean_text(method.macro_f1):>14} {mean_text(method.rare):>14} "
            f"{method.minutes:>8.1f} {len(method.macro_f1):>6}"
        )
    return "\n".join([*lines, "", sentence(methods, score)])


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

"""
Compares the runs of several methods on one data set: a table, and a sentence that names the method
to take. python report.py RUNS --choose (bash run_all.sh own also makes the runs).

The validation texts choose, so the test texts still give an unbiased estimate. Resampling the
validation texts (Efron 1979) tells whether a difference may be chance.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from engine.files import InputError
from engine.results import csv_rows
from reporting.runs import damaged, frame, mean_text, records

RESAMPLES = 1000
CERTAIN = 0.95  # share of the resamples in which the better method must stay better


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


def chance_to_lead(best: pd.DataFrame, other: pd.DataFrame) -> float:
    """Share of resamples of the validation texts in which `best` is above `other`."""
    labels, predicted = best.labels.iloc[0], [np.stack(own.predicted) for own in (best, other)]
    rng, n, wins = np.random.default_rng(0), len(labels), 0
    for _ in range(RESAMPLES):
        weights = np.bincount(rng.integers(0, n, n), minlength=n)
        ours, theirs = (macro_f1(labels, own, weights).mean() for own in predicted)
        wins += ours > theirs
    return wins / RESAMPLES


def read_methods(folder: Path) -> dict[str, pd.DataFrame]:
    """
    The finished runs in the folder by method, the best on the validation texts first: as in
    runs.frame(), with labels and predicted (n,) of the validation texts, and validation, their
    macro-F1 in percent. InputError if the runs cannot be compared.
    """
    found = records(folder)
    if (number := len({record["settings"]["method"] for record in found})) < 2:
        raise InputError(
            f"{folder}: finished runs of {number} methods; --choose compares at least two: bash "
            "run_all.sh own FILE makes them"
        )
    runs = frame(found, "best_val")
    for name, own in runs.groupby("method", sort=False):
        values = pd.DataFrame([{k: json.dumps(v) for k, v in run.items()} for run in own.settings])
        counts = values.drop(columns="seed").nunique(dropna=False)
        if differ := sorted(counts[counts > 1].index):
            raise InputError(
                f"{folder}: the runs of {name} differ in {', '.join(differ)}; give a folder "
                "with one setting of each method"
            )
        if own.seed.duplicated().any():
            raise InputError(f"{folder}: two runs of {name} with one seed; move one of them away")
    if runs.data_hash.nunique() > 1:
        raise InputError(
            f"{folder}: the runs are on different texts; give them one file and the same flags of "
            "the data, such as --ir, --data_seed and --val_fraction"
        )
    texts = [read_validation(Path(place)) for place in runs.folder]
    try:
        labels, said = (np.array([own[name] for own in texts]) for name in ("label", "prediction"))
    except ValueError as error:  # a file was cut at the end of a line
        raise damaged(folder, error) from error
    score = macro_f1(labels[0], said, np.ones(labels.shape[1], dtype=int))
    runs = runs.assign(labels=list(labels), predicted=list(said), validation=score)
    methods = list(runs.groupby("method", sort=False))
    return dict(sorted(methods, key=lambda pair: -pair[1].validation.mean()))


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
    lines = [["method", "validation", "test macro-F1", "rarest third", "minutes", "seeds"]]
    for name, own in methods.items():
        cells = [name, f"{own.validation.mean():.1f}", mean_text(own.macro_f1)]
        minutes = f"{own.seconds.mean() / 60:.1f}"
        lines.append([*cells, mean_text(own.rarest_third), minutes, str(len(own))])
    row = "{:<12} {:>10} {:>14} {:>14} {:>8} {:>6}"
    return "\n".join([*(row.format(*cells) for cells in lines), "", sentence(methods)])


def sentence(methods: dict[str, pd.DataFrame]) -> str:
    """Which method to take, and why."""
    best, second, *_ = methods
    score = {name: own.validation.mean() for name, own in methods.items()}
    minutes = {name: own.seconds.mean() / 60 for name, own in methods.items()}
    lead = {name: chance_to_lead(methods[best], methods[name]) for name in [*methods][1:]}
    level = [best, *(name for name in lead if lead[name] < CERTAIN)]
    if len(level) == 1:
        return (
            f"Take {best}: on the validation texts its macro-F1 is {score[best]:.1f}, "
            f"{score[best] - score[second]:.1f} above {second}, the next best, and hardly by "
            f"chance ({lead[second]:.0%} of {RESAMPLES:,} resamples)."
        )
    cheapest = min(level, key=minutes.__getitem__)
    names = ", ".join(name for name in level if name != cheapest)
    return (
        f"Take {cheapest}: the differences between it and {names} are chance by the "
        f"validation texts, and it is the cheapest of them ({minutes[cheapest]:.1f} minutes). "
        "More validation texts would tell more."
    )

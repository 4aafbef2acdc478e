"""
Which method, on my texts? The runs of several methods on one data set -> a table, and a sentence
that names the method to take: python report.py RUNS --choose (bash run_all.sh own does it all).

The validation texts choose, so that the test texts still say what to expect of the choice. How far
a difference is chance is told by resampling the validation texts (Efron 1979).
"""

import statistics
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np

from engine.files import InputError, read_json
from engine.metrics import rarest_third
from engine.results import csv_rows

RESAMPLES = 1000
CERTAIN = 0.95  # share of the resamples in which the better method must stay the better one


class Method(NamedTuple):
    """
    The runs of one method, a seed each.

    labels      (n,)    of the validation texts
    predicted   (S, n)  of S seeds
    macro_f1    of the test texts, in percent, a number a seed
    rare        the mean F1 of the rarest third of the classes that have a test text
    """

    name: str
    labels: np.ndarray
    predicted: np.ndarray
    macro_f1: list[float]
    rare: list[float]
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
        wins += (
            macro_f1(best.labels, best.predicted, weights).mean()
            > macro_f1(other.labels, other.predicted, weights).mean()
        )
    return wins / RESAMPLES


def read_methods(folder: Path) -> list[Method]:
    """The finished runs below the folder, by method. InputError where they cannot be compared."""
    runs = defaultdict(list)
    for path in sorted(folder.glob("*/result.json")):
        result = read_json(path)
        runs[result["settings"]["method"]].append((path.parent, result))
    if len(runs) < 2:
        raise InputError(
            f"{folder}: finished runs of {len(runs)} methods; --choose compares at "
            "least two: bash run_all.sh own FILE makes them"
        )
    datasets = {result["settings"]["dataset"] for of_one in runs.values() for _, result in of_one}
    if len(datasets) > 1:
        raise InputError(
            f"{folder}: runs on several data sets ({', '.join(sorted(datasets))}); give "
            "a folder with the runs on one"
        )
    for name, of_one in runs.items():
        check_seeds(folder, name, [result["settings"] for _, result in of_one])
    if len({result["data_hash"] for of_one in runs.values() for _, result in of_one}) > 1:
        raise InputError(
            f"{folder}: the runs are on different texts; give them one file and the same flags of "
            "the data, such as --ir, --data_seed and --val_fraction"
        )
    return [read_method(name, of_one) for name, of_one in runs.items()]


def check_seeds(folder: Path, name: str, settings: list[dict]) -> None:
    """InputError unless the runs of a method differ in the seed, and in nothing else."""
    first, *others = settings
    differing = sorted(
        key
        for key in set().union(*settings) - {"seed"}
        if any(own.get(key) != first.get(key) for own in others)
    )
    if differing:
        raise InputError(
            f"{folder}: the runs of {name} differ in {', '.join(differing)}; give a folder "
            "with one setting of each method"
        )
    if len({own["seed"] for own in settings}) < len(settings):
        raise InputError(f"{folder}: two runs of {name} with one seed; move one of them away")


def read_method(name: str, runs: list[tuple[Path, dict]]) -> Method:
    labels, predicted, scores, rare = None, [], [], []
    for path, result in runs:
        rows = read_validation(path)
        labels = [label for label, _ in rows]
        predicted.append([prediction for _, prediction in rows])
        own = result.get("best_val", result["last"])
        classes = read_json(path / "data_report.json")["classes"]
        tested = [label for label, row in enumerate(classes) if row["test"]]
        rarest = rarest_third(tested, [row["train"] for row in classes])
        scores.append(own["macro_f1"])
        rare.append(statistics.mean(own["f1"][label] for label in rarest))
    minutes = statistics.mean(result["seconds"] for _, result in runs) / 60
    return Method(name, np.array(labels), np.array(predicted), scores, rare, minutes)


def read_validation(folder: Path) -> list[tuple[str, str]]:
    """Label and prediction of each validation text."""
    path = folder / "validation.csv"
    if not path.exists():
        raise InputError(
            f"{folder}: the run has no validation texts, which --choose compares by; "
            "give --val_fraction 0.2 to its command"
        )
    return [(row["label"], row["prediction"]) for row in csv_rows(path)]


def spread(values: list[float]) -> str:
    """mean ± standard deviation"""
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{deviation}"


def choose(folder: Path) -> str:
    """The table, best validation macro-F1 first, and the sentence."""
    try:
        methods = read_methods(folder)
    except InputError:
        raise
    except (LookupError, TypeError, ValueError) as error:
        raise InputError(
            f"{folder}: a file of a run is damaged, or of another version of main.py "
            f"({error!r:.200}); run its command again with --overwrite, or move its folder away"
        ) from error
    ones = np.ones(len(methods[0].labels), dtype=int)
    score = {
        method.name: macro_f1(method.labels, method.predicted, ones).mean() for method in methods
    }
    methods.sort(key=lambda method: -score[method.name])
    lines = [
        f"{'method':<12} {'validation':>10} {'test macro-F1':>14} {'rarest third':>14} "
        f"{'minutes':>8} {'seeds':>6}"
    ]
    for method in methods:
        lines.append(
            f"{method.name:<12} {score[method.name]:>10.1f} "
            f"{spread(method.macro_f1):>14} {spread(method.rare):>14} "
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

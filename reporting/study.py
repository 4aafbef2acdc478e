"""
The study of docs/results.md: which reading and which setting leads, and whether the lead is chance.

    python -m reporting.study runs/study tables/runs    # keeps the numbers of finished runs
    python -m reporting.study tables/runs tables        # from them, study.md and fade.png

Of a run are kept result.json and metrics.jsonl, which hold no text and no weights.
"""

import argparse
import itertools
import json
import shutil
import sys
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib import pyplot as plt

from baselines import METHODS
from data import DATASETS
from engine.files import InputError, Parser, read_json, write_text
from reporting.figures import TOL, save_figure
from reporting.tables import holm, paired_p

FITTED = 99.5  # percent of the training texts that are right: from there on all are fitted
RESAMPLES = 2000


class Run(NamedTuple):
    """A finished run: its row, its data set and seed, its result, and a record of each epoch."""

    row: str
    dataset: str
    seed: int
    result: dict
    history: list[dict]


def row_of(settings: dict, changed: dict) -> str:
    """The method with what is not its default: "SharpReCL, mu 0.3"."""
    own = [
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in changed.items()
    ]
    return ", ".join([METHODS[settings["method"]].title, *own])


def load(folder: Path) -> list[Run]:
    runs = []
    for path in sorted(folder.glob("*/result.json")):
        result = read_json(path)
        lines = (path.parent / "metrics.jsonl").read_text().splitlines()
        runs.append(
            Run(
                row_of(result["settings"], result["changed"]),
                result["settings"]["dataset"],
                result["settings"]["seed"],
                result,
                [json.loads(line) for line in lines],
            )
        )
    if not runs:
        raise InputError(f"{folder}: no finished runs; bash run_all.sh study_a makes them")
    return runs


def keep(runs: Path, kept: Path) -> None:
    """Copies the numbers of every finished run that is not kept yet."""
    for path in sorted(runs.glob("*/result.json")):
        target = kept / path.parent.name
        target.mkdir(parents=True, exist_ok=True)
        for name in ("metrics.jsonl", "result.json"):  # the mark of a finished run comes last
            shutil.copyfile(path.parent / name, target / name)


# ---- the ranking ----


def scores(runs: list[Run], protocol: str) -> dict[str, dict[tuple[str, int], float]]:
    """{row: {(dataset, seed): macro-F1 of the test texts}} of the runs that have this protocol."""
    found = defaultdict(dict)
    for run in runs:
        if protocol in run.result:
            found[run.row][run.dataset, run.seed] = run.result[protocol]["macro_f1"]
    return found


def mean_over_datasets(values: dict[tuple[str, int], float]) -> float:
    """Each data set counts once, however many seeds it has."""
    by_dataset = defaultdict(list)
    for (dataset, _), value in values.items():
        by_dataset[dataset].append(value)
    return float(np.mean([np.mean(own) for own in by_dataset.values()]))


def interval(values: dict[tuple[str, int], float]) -> tuple[float, float]:
    """Of that mean, 95 %: the seeds of each data set are resampled (Efron 1979)."""
    rng, by_dataset = np.random.default_rng(0), defaultdict(list)
    for (dataset, _), value in values.items():
        by_dataset[dataset].append(value)
    means = [
        np.mean([np.mean(rng.choice(own, len(own))) for own in by_dataset.values()])
        for _ in range(RESAMPLES)
    ]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def ranks(found: dict[str, dict[tuple[str, int], float]]) -> dict[str, float]:
    """The mean rank of each row over the pairs (data set, seed) that all rows have; 1 is best."""
    shared = set.intersection(*(set(values) for values in found.values()))
    total = {row: 0.0 for row in found}
    for pair in shared:
        ordered = sorted((values[pair] for values in found.values()), reverse=True)
        for row, values in found.items():
            same = [i for i, value in enumerate(ordered, 1) if value == values[pair]]
            total[row] += np.mean(same) / len(shared)
    return total if shared else {row: float("nan") for row in found}


def ranking(runs: list[Run], protocol: str) -> str:
    """A Markdown table, best mean first; p is Holm's, of a paired t-test against the best row."""
    found = scores(runs, protocol)
    order = sorted(found, key=lambda row: -mean_over_datasets(found[row]))
    best, rank = found[order[0]], ranks(found)
    pairs = {row: sorted(set(best) & set(found[row])) for row in order[1:]}
    p_values = holm(
        [
            paired_p(
                np.array([best[pair] for pair in own]), np.array([found[row][pair] for pair in own])
            )
            if len(own) > 1
            else 1.0
            for row, own in pairs.items()
        ]
    )
    lines = [
        "| row | mean macro-F1 (95 %) | mean rank | p against the first | runs |",
        "|---|---:|---:|---:|---:|",
    ]
    for row, p in zip(order, [None, *p_values]):
        low, high = interval(found[row])
        lines.append(
            f"| {row} | {mean_over_datasets(found[row]):.1f} ({low:.1f}–{high:.1f}) | "
            f"{rank[row]:.1f} | {'' if p is None else f'{p:.3f}'} | {len(found[row])} |"
        )
    return "\n".join(lines)


# ---- the fade ----


def development_curve(runs: list[Run]) -> tuple[np.ndarray, np.ndarray]:
    """Epochs, and the mean over the runs of macro-F1 on development texts."""
    points = defaultdict(list)
    for record in itertools.chain.from_iterable(run.history for run in runs):
        if "val" in record:
            points[record["epoch"]].append(record["val"]["macro_f1"])
    epochs = sorted(epoch for epoch, values in points.items() if len(values) == len(runs))
    return np.array(epochs), np.array([np.mean(points[epoch]) for epoch in epochs])


def fitted_at(runs: list[Run]) -> float | None:
    """The mean epoch after which FITTED percent of the training texts are right; None if never."""
    epochs = [
        next(
            (
                record["epoch"]
                for record in run.history
                if record.get("train_accuracy", 0) >= FITTED
            ),
            None,
        )
        for run in runs
    ]
    return None if None in epochs else float(np.mean(epochs))


def draw_fade(runs: list[Run]):
    """A panel for each data set: macro-F1 epoch by epoch, a ring where all texts are fitted."""
    names = sorted({run.dataset for run in runs}, key=list(DATASETS).index)
    figure, panels = plt.subplots(
        1, len(names), figsize=(4.6 * len(names), 3.6), squeeze=False, layout="constrained"
    )
    rows = list(dict.fromkeys(run.row for run in runs))
    for name, axes in zip(names, panels[0]):
        for number, row in enumerate(rows):
            own = [run for run in runs if (run.row, run.dataset) == (row, name)]
            if not own:
                continue
            epochs, values = development_curve(own)
            colour, dashes = TOL[number % len(TOL)], ["-", "--", ":"][number // len(TOL) % 3]
            axes.plot(
                epochs, values, dashes, color=colour, linewidth=1.4, label=f"{row} ({len(own)})"
            )
            if (moment := fitted_at(own)) is not None:
                axes.plot(
                    moment,
                    np.interp(moment, epochs, values),
                    "o",
                    color=colour,
                    markerfacecolor="white",
                    markersize=6,
                )
        axes.set_title(DATASETS[name].title, fontsize=10)
        axes.set_xlabel("epoch")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=6, frameon=False)
    panels[0][0].set_ylabel("macro-F1, development texts")
    return figure


def main(argv: list[str] | None = None) -> int:
    parser = Parser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="of runs, or of what was kept of them")
    parser.add_argument("output", type=Path, help="where the numbers, or the table and figure, go")
    args = parser.parse_args(argv)
    try:
        runs = load(args.folder)
        if args.output.name == "runs":
            keep(args.folder, args.output)
            return 0
        parts = [
            f"Protocol {protocol}\n\n{ranking(runs, protocol)}\n"
            for protocol in ("last", "best_val")
            if scores(runs, protocol)
        ]
        write_text(args.output / "study.md", "\n".join(parts))
        save_figure(draw_fade(runs), args.output / "fade.png")
        print("\n".join(parts))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

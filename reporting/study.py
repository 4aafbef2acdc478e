"""
The study of docs/study.md: which reading and which setting leads, and on which data sets.

    python -m reporting.study runs/study tables/runs    # keeps the numbers of finished runs
    python -m reporting.study tables/runs tables        # from them, study.md and fade.png

Of a run are kept result.json and metrics.jsonl, which hold no text and no weights.
"""

import argparse
import itertools
import json
import math
import shutil
import sys
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib import pyplot as plt
from scipy.stats import rankdata

from baselines import METHODS
from data import DATASETS
from engine.arguments import make_parser
from engine.files import InputError, Parser, read_json, write_text
from engine.results import look_up
from reporting.figures import TOL, save_figure

SECOND_VIEW = make_parser().get_default("augment")
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
    """The method with what is not its default: "SharpReCL, mu 0.3, augment none"."""
    if settings["augment"] != SECOND_VIEW:
        changed = changed | {"augment": settings["augment"]}
    if "head_lr" in settings:
        changed = changed | {"head_lr": settings["head_lr"]}
    own = [
        f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in changed.items()
    ]
    return ", ".join([METHODS[settings["method"]].title, *own])


def load(folder: Path) -> list[Run]:
    runs = []
    for path in sorted(folder.glob("*/result.json")):
        result = read_json(path)
        dataset = result["settings"]["dataset"]
        if dataset not in DATASETS:
            raise InputError(
                f"{path.parent}: the study is of {', '.join(DATASETS)}, and not of {dataset}; "
                "report.py has tables of any runs"
            )
        lines = (path.parent / "metrics.jsonl").read_text().splitlines()
        runs.append(
            Run(
                row_of(result["settings"], result["changed"]),
                dataset,
                result["settings"]["seed"],
                result,
                [json.loads(line) for line in lines],
            )
        )
    if not runs:
        raise InputError(f"{folder}: no finished runs; bash run_all.sh study_a makes them")
    return runs


def keep(runs: Path, kept: Path) -> None:
    """Copies the numbers of every finished run, over what was kept of it."""
    for path in sorted(runs.glob("*/result.json")):
        target = kept / path.parent.name
        target.mkdir(parents=True, exist_ok=True)
        for name in ("metrics.jsonl", "result.json"):  # the mark of a finished run comes last
            shutil.copyfile(path.parent / name, target / name)


# ---- the ranking ----

PROTOCOLS = {  # name -> macro-F1 of a run; None where the run has none
    "Development texts, the last epoch": lambda run: macro_f1(run.history[-1].get("val")),
    "Test texts, the last epoch": lambda run: macro_f1(run.result.get("last")),
    "Test texts, the best epoch on development texts": (
        lambda run: macro_f1(run.result.get("best_val"))
    ),
}
Scores = dict[tuple[str, int], float]  # (dataset, seed) -> macro-F1


def macro_f1(metrics: dict | None) -> float | None:
    return metrics and metrics["macro_f1"]


def scores(runs: list[Run], protocol: str) -> dict[str, Scores]:
    """Of each row, the macro-F1 of the runs that have this protocol, each once, or InputError."""
    found = defaultdict(dict)
    for run in runs:
        if (value := PROTOCOLS[protocol](run)) is not None:
            if (run.dataset, run.seed) in found[run.row]:
                raise InputError(
                    f"two runs of {run.row} on {run.dataset} with seed {run.seed}: they differ in "
                    "what the study keeps fixed, such as --ir; report.py has tables of such runs"
                )
            found[run.row][run.dataset, run.seed] = value
    return found


def by_dataset(values: Scores) -> dict[str, list[float]]:
    found = defaultdict(list)
    for (dataset, _), value in values.items():
        found[dataset].append(value)
    return found


def mean_over_datasets(values: Scores) -> float:
    """Each data set counts once, however many seeds it has."""
    return float(np.mean([np.mean(own) for own in by_dataset(values).values()]))


def interval(values: Scores) -> tuple[float, float] | None:
    """
    Of that mean, 95 %: the seeds of each data set are resampled (Efron 1979). None where a data
    set has one seed, for that tells nothing of another.
    """
    by_seed = by_dataset(dict(sorted(values.items()))).values()  # whatever the folders are called
    if min(map(len, by_seed)) == 1:
        return None
    rng = np.random.default_rng(0)
    means = [
        np.mean([np.mean(rng.choice(own, len(own))) for own in by_seed]) for _ in range(RESAMPLES)
    ]
    return tuple(np.percentile(means, [2.5, 97.5]).tolist())


def ranks(found: dict[str, Scores]) -> dict[str, np.ndarray]:
    """The rank of each row in each pair (data set, seed) that all rows have; 1 is best."""
    shared = sorted(set.intersection(*(set(values) for values in found.values())))
    table = np.array([[values[pair] for pair in shared] for values in found.values()])
    return dict(zip(found, rankdata(-table, axis=0))) if shared else {}


def ranking(runs: list[Run], protocol: str) -> str:
    """
    A Markdown table. First come the rows that have all data sets, the best mean on top: their rank
    is over the pairs that all of them have. There is no test: the pairs of one data set are not
    independent, and a rank test over five data sets has a p of 0.0625 at the least. The other rows
    have no mean, for it would be of other data sets.
    """
    found = scores(runs, protocol)
    datasets = [name for name in DATASETS if any(run.dataset == name for run in runs)]
    complete = {row: own for row, own in found.items() if len(by_dataset(own)) == len(datasets)}
    order = sorted(complete, key=lambda row: -mean_over_datasets(complete[row]))
    rank = ranks(complete) if complete else {}

    lines = [
        ["", *(DATASETS[name].title for name in datasets), "mean (95 %)", "rank"],
        ["---", *["---:"] * (len(datasets) + 2)],
    ]
    for row in [*order, *(row for row in found if row not in complete)]:
        cells = [cell(by_dataset(found[row]).get(name, [])) for name in datasets]
        mean = place = ""
        if row in complete:
            mean = with_interval(mean_over_datasets(found[row]), interval(found[row]))
        if row in rank:
            place = f"{rank[row].mean():.1f}"
        lines.append([row, *cells, mean, place])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def with_interval(value: float, bounds: tuple[float, float] | None) -> str:
    return f"{value:.1f} ({bounds[0]:.1f}–{bounds[1]:.1f})" if bounds else f"{value:.1f}"


def cell(values: list[float]) -> str:
    """mean ± standard deviation [number of seeds]"""
    if not values:
        return ""
    spread = f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    return f"{np.mean(values):.1f}{spread} [{len(values)}]"


# ---- how strong the contrastive branch is ----


def strengths(runs: list[Run]) -> str:
    """
    Of the runs of SharpReCL, the length of the contrastive branch's gradient at feat over that of
    the classification branch: at the end of the first epoch, and the median of the second half of
    the epochs, when the texts are fitted.
    """
    found = defaultdict(list)
    for run in runs:
        shares = [look_up(record, ("diagnostics", "gradient_share_cl")) for record in run.history]
        if shares[0]:
            found[run.row, run.dataset].append(
                [share / (1 - share) if share < 1 else math.inf for share in shares]  # w/o CLS
            )
    lines = ["| | data set | first epoch | second half |", "|---|---|---:|---:|"]
    for (row, dataset), times in found.items():
        late = [value for own in times for value in own[len(own) // 2 :]]
        lines.append(
            f"| {row} | {DATASETS[dataset].title} | "
            f"{np.median([own[0] for own in times]):.2g} | {np.median(late):.2g} |"
        )
    return "\n".join(lines)


# ---- the fade ----


def borders(runs: list[Run]) -> str:
    """
    What fades, the border of the classes or the ranking of the texts: macro-F1 and AUROC on
    development texts, at the epoch with the best macro-F1 and at the last; of the runs that have
    both, the means over the seeds.
    """
    found = defaultdict(list)
    for run in runs:
        seen = [record["val"] for record in run.history if "auroc" in record.get("val", {})]
        if seen:
            best = max(seen, key=lambda val: val["macro_f1"])
            found[run.row, run.dataset].append(
                [val[name] for name in ("macro_f1", "auroc") for val in (best, seen[-1])]
            )
    lines = [
        "| | data set | macro-F1, best epoch | macro-F1, last | AUROC, best epoch | AUROC, last |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for (row, dataset), values in found.items():
        means = " | ".join(f"{value:.1f}" for value in np.mean(values, axis=0))
        lines.append(f"| {row} | {DATASETS[dataset].title} [{len(values)}] | {means} |")
    return "\n".join(lines)


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
        next((r["epoch"] for r in run.history if r.get("train_accuracy", 0) >= FITTED), None)
        for run in runs
    ]
    return None if None in epochs else float(np.mean(epochs))


def leaders(runs: list[Run]) -> list[Run]:
    """Of each method with all data sets, the row that is best on development texts at the end."""
    found = scores(runs, "Development texts, the last epoch")
    of_method = {}
    for run in runs:
        if run.row in found:
            values = found[run.row]
            place = len(by_dataset(values)), mean_over_datasets(values), run.row
            method = run.result["settings"]["method"]
            of_method[method] = max(place, of_method.get(method, place))
    most = max((place[0] for place in of_method.values()), default=0)
    rows = {row for datasets, _, row in of_method.values() if datasets == most}
    return [run for run in runs if run.row in rows]


def draw_fade(runs: list[Run]):
    """
    A panel for each data set: macro-F1 epoch by epoch, a ring where all texts are fitted; a curve
    for each method, for the setting that leads.
    """
    curves = defaultdict(lambda: defaultdict(list))
    for run in leaders(runs):
        curves[run.dataset][run.row].append(run)
    names = sorted(curves, key=list(DATASETS).index)
    columns = min(3, len(names))
    figure, panels = plt.subplots(
        math.ceil(len(names) / columns),
        columns,
        figsize=(4.4 * columns, 3.4 * math.ceil(len(names) / columns)),
        squeeze=False,
        layout="constrained",
    )
    for axes in panels.flat[len(names) :]:
        axes.set_axis_off()
    ours = METHODS["sharprecl"].title  # the first colour is its own
    rows = sorted(
        set(itertools.chain.from_iterable(curves.values())),
        key=lambda row: (not row.startswith(ours), row),
    )
    style = dict(zip(rows, itertools.cycle(itertools.product(["-", "--"], TOL))))
    drawn = {}
    for name, axes in zip(names, panels.flat):
        for row, own in curves[name].items():
            dashes, colour = style[row]
            drawn[row] = draw_curve(axes, own, color=colour, linestyle=dashes)
        axes.set_title(DATASETS[name].title, fontsize=10)
        axes.set_xlabel("epoch")
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[:, 0]:
        axes.set_ylabel("macro-F1, development texts")
    below = {"loc": "outside lower center", "ncols": columns, "frameon": False}
    figure.legend([drawn[row] for row in rows], rows, **below)
    return figure


def draw_curve(axes, runs: list[Run], **style):
    """Returns the line."""
    epochs, values = development_curve(runs)
    (line,) = axes.plot(epochs, values, linewidth=1.4, **style)
    if (moment := fitted_at(runs)) is not None:
        ring = {"color": style["color"], "markerfacecolor": "white", "markersize": 6}
        axes.plot(moment, np.interp(moment, epochs, values), "o", **ring)
    return line


def main(argv: list[str] | None = None) -> int:
    parser = Parser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="of runs, or of what was kept of them")
    parser.add_argument(
        "output",
        type=Path,
        help="a folder called runs: the numbers are kept in it; any other: study.md and fade.png "
        "are written into it",
    )
    args = parser.parse_args(argv)
    try:
        runs = load(args.folder)
        if args.output.name == "runs":
            keep(args.folder, args.output)
            return 0
        parts = [
            f"{protocol}, macro-F1 [seeds]\n\n{ranking(runs, protocol)}\n"
            for protocol in PROTOCOLS
            if scores(runs, protocol)
        ]
        if any("auroc" in run.history[-1].get("val", {}) for run in runs):
            parts.append(f"Border and ranking, on development texts\n\n{borders(runs)}\n")
        parts.append(f"The contrastive branch's gradient, times the other's\n\n{strengths(runs)}\n")
        write_text(args.output / "study.md", "\n".join(parts))
        if scores(runs, "Development texts, the last epoch"):
            save_figure(draw_fade(runs), args.output / "fade.png")
        print("\n".join(parts))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

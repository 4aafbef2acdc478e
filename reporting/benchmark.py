"""
Makes the tables of README and docs/, and the figures in tables/, from the benchmark's kept runs.

    python -m reporting.benchmark                # writes all of them again

In a page a table follows its name, <!-- table: NAME -->, and ends at an empty line. Rows without a
run on some dataset are in the tables, but in no mean, test or rank.
"""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from scipy.stats import friedmanchisquare

from data import DATASETS
from engine import benchmark
from engine.benchmark import (
    BASE,
    CUTS,
    GROUPS,
    KEPT,
    LANGUAGE,
    ROWS,
    SMALL,
    STUDIES,
    TABLE,
    UNCHOSEN,
    kept,
    run_of,
    trial_scores,
)
from engine.files import InputError, Parser, one_line_errors, write_text
from engine.results import epoch_under
from reporting import figures
from reporting.runs import compared, markdown, mean_ranks

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/results.md", "docs/log.md", "docs/language_models.md")
OURS = "sharprecl"
PROTOCOLS = ("last", "best_val")  # the last epoch, and the best one on development texts
ENCODERS = {SMALL: "MiniLM", BASE: "MPNet", LANGUAGE: "SmolLM2"}
Known = dict[str, dict]  # the kept runs by their identity


def scores(known: Known) -> pd.DataFrame:
    """
    One line per run of the rows with a chosen setting: row, dataset, seed, and macro-F1 on test
    texts under each protocol. A seed counts once it is complete: all rows on all datasets.
    """
    found = []
    for row in ROWS:
        try:
            arguments = benchmark.chosen(known, row)
        except InputError:  # not tuned yet: its cells stay empty
            continue
        for dataset in CUTS:
            for seed in TABLE.seeds:
                if (run := run_of(known, dataset, arguments, seed)) is not None:
                    found.append([row, dataset, seed, *macro_f1(run)])
    lines = pd.DataFrame(found, columns=["row", "dataset", "seed", *PROTOCOLS])
    whole = lines.groupby("seed").filter(lambda own: len(own) == len(ROWS) * len(CUTS))
    return whole if len(whole) else lines  # before that, what there is


def macro_f1(run: dict) -> list[float]:
    """On test texts under each protocol."""
    return [epoch_under(run["epochs"], name)["test"]["macro_f1"] for name in PROTOCOLS]


def means(found: pd.DataFrame, protocol: str) -> pd.DataFrame:
    """Rows by datasets: the mean over the seeds, NaN where there is no run."""
    table = found.pivot_table(index="row", columns="dataset", values=protocol, aggfunc="mean")
    return table.reindex(index=list(ROWS), columns=list(CUTS))


# ---- Markdown ----


def decimals(value: float) -> str:
    return "" if pd.isna(value) else f"{value:.1f}"


def main_table(found: pd.DataFrame) -> str:
    """
    Means of the rows over the groups of datasets at the last epoch, and for the datasets on which
    nothing was chosen, at the last and at the best epoch, the test against ours.
    """
    last, unchosen = means(found, "last"), list(UNCHOSEN)
    order, _ = mean_ranks(last[unchosen])
    tests = [against_ours(found, protocol) for protocol in PROTOCOLS]
    lines = []
    for row in last[unchosen].mean(axis=1, skipna=False).sort_values(ascending=False).index:
        groups = [last.loc[row, list(names)].mean(skipna=False) for names in GROUPS.values()]
        lines.append([ROWS[row].title, *map(decimals, [*groups, order.get(row, np.nan)])])
        lines[-1] += [cell for test in tests for cell in test[row]]
    told = [f"mean of {len(UNCHOSEN)}, {{}}", "wins–losses", "p"]
    heads = [head.format(epoch) for epoch in ("last epoch", "best epoch") for head in told]
    return markdown(["", *GROUPS, "rank", *heads], lines)


def against_ours(found: pd.DataFrame, protocol: str) -> dict[str, list[str]]:
    """Of each row: its mean over UNCHOSEN, our wins and losses against it, and p (Holm)."""
    table = means(found, protocol)[list(UNCHOSEN)]
    told = compared(table, OURS)
    cells = {row: [decimals(table.loc[row].mean(skipna=False)), "", ""] for row in ROWS}
    for row, (wins, losses, p) in told.iterrows():
        cells[row][1:] = [f"{wins:.0f}–{losses:.0f}", f"{p:.3f}"]
    return cells


def best_rows(found: pd.DataFrame) -> list[str]:
    """Both rows of ours, and the four others with the best mean at the last epoch, best first."""
    table = means(found, "last")[list(UNCHOSEN)].mean(axis=1, skipna=False)
    others = table.drop([OURS, "paper"]).sort_values(ascending=False).index[:4]
    return sorted([OURS, "paper", *others], key=lambda row: -table[row])


def short_table(found: pd.DataFrame) -> str:
    """For README."""
    tests = [against_ours(found, protocol) for protocol in PROTOCOLS]
    lines = [
        [ROWS[row].title, *(cell for test in tests for cell in test[row])]
        for row in best_rows(found)
    ]
    told = [f"mean of {len(UNCHOSEN)}, {{}} epoch", "wins–losses", "p"]
    return markdown(["", *(h.format(at) for at in ("last", "best") for h in told)], lines)


def tested(found: pd.DataFrame) -> str:
    """Friedman's test and the critical difference over UNCHOSEN, for the rows that have all."""
    whole = means(found, "last")[list(UNCHOSEN)].dropna()
    if len(whole) < 3:
        return "Fewer than three rows have all datasets: Friedman's test has nothing to compare."
    p = friedmanchisquare(*whole.to_numpy()).pvalue
    return (
        f"Friedman's test of {len(whole)} rows over these {len(UNCHOSEN)} datasets: p = {p:.2g}. "
        f"Ranks that differ by less than {mean_ranks(whole)[1]:.1f}, Nemenyi's critical difference "
        "at 5 %, are level."
    )


def dataset_table(found: pd.DataFrame) -> str:
    """Rows by datasets: macro-F1 at the last epoch/at the best one, means over the seeds."""
    tables = [means(found, protocol) for protocol in PROTOCOLS]
    lines = [
        [ROWS[row].title, *(both([own.loc[row, dataset] for own in tables]) for dataset in CUTS)]
        for row in ROWS
    ]
    return markdown(["", *(DATASETS[dataset].title for dataset in CUTS)], lines)


def both(values: list[float]) -> str:
    """At the last and at the best epoch; empty without a run."""
    return "/".join(map(decimals, values)).strip("/")


def trials_table(known: Known) -> str:
    """The score of every trial, in the order of ROWS, and the trial that it chooses."""
    lines = []
    for row in [name for name, entry in ROWS.items() if len(entry.trials) > 1]:
        own = [decimals(np.nan if x is None else x) for x in trial_scores(known, row)]
        arguments = benchmark.chosen(known, row).removeprefix(ROWS[row].arguments).strip()
        lines.append([ROWS[row].title, *own, *[""] * (5 - len(own)), f"`{arguments}`"])
    return markdown(["", *"12345", "chosen"], lines)


def study_table(known: Known, name: str) -> str:
    """
    A study's rows with what it changes, beside the same rows of its encoder without a change, or
    beside two rows of both encoders if it is a language model: macro-F1 at the last epoch/at the
    best one, means over seeds. Datasets without a run of the study are left out.
    """
    study = STUDIES[name]
    beside = [(study.encoder, row, "") for row in study.rows]
    if study.encoder == LANGUAGE:
        beside = [(encoder, row, "") for encoder in (SMALL, BASE) for row in ("wce", "sharprecl")]
    own = [(study.encoder, row, change) for row in study.rows for change in study.changes]
    cells = {
        key: {dataset: study_cell(known, dataset, key, study.seeds) for dataset in study.datasets}
        for key in dict.fromkeys(beside + own)
    }
    datasets = [dataset for dataset in study.datasets if any(cells[key][dataset] for key in own)]
    if not datasets:
        return "These runs are not made yet."
    lines = []
    for (encoder, row, change), of_datasets in cells.items():
        numbers = [of_datasets[dataset] for dataset in datasets]
        parts = [ROWS[row].title if row else "", f"`{change}`" if change else "", ENCODERS[encoder]]
        if any(numbers):
            lines.append([", ".join(filter(None, parts)), *numbers])
    return markdown(["", *(DATASETS[dataset].title for dataset in datasets)], lines)


def study_cell(known: Known, dataset: str, key: tuple, seeds: tuple[int, ...]) -> str:
    """Of an encoder, a row and what is changed; empty unless the run of each seed is kept."""
    encoder, row, change = key
    try:
        arguments = f"{benchmark.chosen(known, row) if row else ''} {change}"
    except InputError:  # not tuned yet
        return ""
    runs = [run_of(known, dataset, arguments, seed, encoder) for seed in seeds]
    numbers = [macro_f1(run) for run in runs if run is not None]
    return both(list(np.mean(numbers, axis=0))) if len(numbers) == len(seeds) else ""


def counted(known: Known, found: pd.DataFrame) -> str:
    """A sentence on the runs behind the tables."""
    seeds = " and ".join(str(seed) for seed in sorted(set(found.seed)))
    wanted = len(ROWS) * len(CUTS) * len(TABLE.seeds)
    return (
        f"The tables have {len(found)} of the {wanted} test runs of the protocol, seed {seeds}; "
        f"{len(known)} runs are kept in all."
    )


TABLES: dict[str, Callable[[Known, pd.DataFrame], str]] = {
    "counted": counted,
    "main": lambda known, found: main_table(found),
    "readme": lambda known, found: short_table(found),
    "tested": lambda known, found: tested(found),
    "datasets": lambda known, found: dataset_table(found),
    "trials": lambda known, found: trials_table(known),
}


def fill(page: Path, known: Known, found: pd.DataFrame) -> None:
    """Replaces the tables of a page by new ones; each has the name of one of TABLES or STUDIES."""

    def new(at: re.Match) -> str:
        name = at[2]
        table = study_table(known, name) if name in STUDIES else TABLES[name](known, found)
        return f"{at[1]}{table}\n"

    place = re.compile(r"^(<!-- table: (\w+) -->\n)(?:.+\n)*", re.MULTILINE)
    write_text(page, place.sub(new, page.read_text(encoding="utf-8")))


# ---- figures ----


def draw_differences(found: pd.DataFrame):
    """For each dataset, ours minus each other of the best rows at the last epoch."""
    table = means(found, "last").loc[best_rows(found)].dropna(axis=1)
    ahead = table.loc[OURS] - table.drop(index=OURS)
    figure, axes = plt.subplots(figsize=(7, 3.4), layout="constrained")
    for i, row in enumerate(ahead.index):
        colour, marker = figures.look(i)
        options = {"color": colour, "alpha": 0.8, "label": ROWS[row].title}
        axes.plot(range(len(table.columns)), ahead.loc[row], marker, **options)
    axes.axhline(0, color="black", linewidth=0.8)
    names = [DATASETS[name].title for name in table]
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_ylabel("macro-F1, SharpReCL tuned minus the row")
    figure.legend(loc="outside right upper")
    return figure


def cliques(ranks: list[float], critical: float) -> list[tuple[float, float]]:
    """The longest runs of sorted ranks that differ by less than the critical difference."""
    spans: dict[float, float] = {}
    for first in ranks:
        last = max(rank for rank in ranks if rank - first < critical)
        spans.setdefault(last, first)  # a later start with this end is shorter
    return [(first, last) for last, first in spans.items() if last > first]


def draw_ranks(found: pd.DataFrame):
    """
    The critical-difference figure of Demšar (2006): mean ranks on an axis, the better half of the
    names on its left and the others on its right, and a bar over rows that the test cannot tell
    apart. The ranks are those at the last epoch.
    """
    order, critical = mean_ranks(means(found, "last")[list(UNCHOSEN)])
    ranks, half = order.to_list(), -(-len(order) // 2)
    bars = cliques(ranks, critical)
    figure, axes = plt.subplots(figsize=(7, 1.1 + 0.12 * len(bars) + 0.24 * half))
    below = 0.45 * (len(bars) + 1)
    for place, (row, rank) in enumerate(order.items()):
        if place < half:
            y, edge = -below - 0.9 * place, 1 - 0.02 * len(order)
            text, beside = f"{ROWS[row].title}  {rank:.1f}", {"xytext": (-4, 0), "ha": "right"}
        else:
            y, edge = -below - 0.9 * (len(order) - 1 - place), len(order) * 1.02
            text, beside = f"{rank:.1f}  {ROWS[row].title}", {"xytext": (4, 0), "ha": "left"}
        axes.plot([rank, rank, edge], [0, y, y], color="black", linewidth=0.8)
        axes.annotate(text, (edge, y), textcoords="offset points", va="center", **beside)
    for i, (first, last) in enumerate(bars):
        axes.plot([first - 0.05, last + 0.05], [-0.45 * (i + 1)] * 2, color="black", linewidth=3)
    axes.plot([1, 1 + critical], [1.6, 1.6], "|-", color=figures.TOL[1], markersize=8)
    axes.annotate(f"critical difference {critical:.1f}", (1 + critical / 2, 1.9), ha="center")
    axes.set_axis_off()
    axes.plot([1, len(order)], [0, 0], color="black", linewidth=1)
    for rank in range(1, len(order) + 1):
        axes.plot([rank, rank], [0, 0.25], color="black", linewidth=1)
        axes.annotate(str(rank), (rank, 0.4), ha="center")
    return figure


@one_line_errors
def main(argv: list[str] | None = None) -> None:
    Parser(description=__doc__).parse_args(argv)
    if not KEPT.is_file():
        raise InputError(f"{KEPT}: no such file; python -m reporting.runs makes it")
    known = kept(KEPT)
    found = scores(known)
    for name in PAGES:
        fill(ROOT / name, known, found)
    whole = means(found, "last")[list(UNCHOSEN)].dropna()
    if len(whole) > 1 and OURS in whole.index:
        figures.save_figure(draw_differences(found), ROOT / "tables" / "differences.png")
        figures.save_figure(draw_ranks(found), ROOT / "tables" / "ranks.png")


if __name__ == "__main__":
    sys.exit(main())

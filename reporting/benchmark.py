"""
Makes the tables and figures of the benchmark in docs/benchmark.md from the kept runs.

    python -m reporting.benchmark tables/benchmark.jsonl.gz tables/benchmark      # a page, figures

Rows without a run on some dataset are in the table, but in no mean, test or rank.
"""

import argparse
import sys
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
    LANGUAGE,
    ROWS,
    SMALL,
    STUDIES,
    kept,
    run_of,
    trial_scores,
)
from engine.files import InputError, Parser, one_line_errors, write_text
from reporting import figures
from reporting.runs import compared, epoch_under, markdown, mean_ranks

OURS = "sharprecl"
SEEDS = [0, 1]
PROTOCOLS = {"last": "the last epoch", "best_val": "the best epoch on development texts"}
ENCODERS = {SMALL: "MiniLM", BASE: "MPNet", LANGUAGE: "SmolLM2"}
UNCHOSEN = (*GROUPS["seen before"], *GROUPS["never seen"])  # no setting was chosen on these
Known = dict[str, dict]  # the kept runs by their identity


def scores(known: Known, seeds: list[int]) -> pd.DataFrame:
    """
    One line per run of the rows with a chosen setting: row, dataset, seed, and macro-F1 on test
    texts under each protocol.
    """
    found = []
    for row in ROWS:
        try:
            arguments = benchmark.chosen(known, row)
        except InputError:  # not tuned yet: its cells stay empty
            continue
        for dataset in CUTS:
            for seed in seeds:
                if (run := run_of(known, dataset, arguments, seed)) is not None:
                    found.append([row, dataset, seed, *macro_f1(run)])
    return pd.DataFrame(found, columns=["row", "dataset", "seed", *PROTOCOLS])


def macro_f1(run: dict) -> list[float]:
    """On test texts under each protocol."""
    return [(epoch_under(run, name) or {})["test"]["macro_f1"] for name in PROTOCOLS]


def means(found: pd.DataFrame, protocol: str) -> pd.DataFrame:
    """Rows by datasets: the mean over the seeds, NaN where there is no run."""
    table = found.pivot_table(index="row", columns="dataset", values=protocol, aggfunc="mean")
    return table.reindex(index=list(ROWS), columns=list(CUTS))


# ---- Markdown ----


def decimals(value: float, digits: int = 1) -> str:
    return "" if pd.isna(value) else f"{value:.{digits}f}"


def main_table(found: pd.DataFrame) -> str:
    """
    Means of the rows over groups of datasets at the last epoch; for the ten datasets on which
    nothing was chosen also at the best epoch, with rank and tests at the last epoch.
    """
    last, best = (means(found, protocol) for protocol in PROTOCOLS)
    ten = list(UNCHOSEN)
    told, (order, _) = compared(last[ten], OURS), mean_ranks(last[ten])
    columns = {**GROUPS, "the ten": UNCHOSEN}
    lines = []
    for row in last[ten].mean(axis=1, skipna=False).sort_values(ascending=False).index:
        numbers = [last.loc[row, list(d)].mean(skipna=False) for d in columns.values()]
        numbers += [best.loc[row, ten].mean(skipna=False), order.get(row, np.nan)]
        against = ["", ""]
        if row in told.index:
            wins, losses, p = told.loc[row]
            against = [f"{wins:.0f}–{losses:.0f}", f"{p:.3f}"]
        lines.append([ROWS[row].title, *map(decimals, numbers), *against])
    tests = ["the ten, best epoch", "rank", "wins–losses", "p (Holm)"]
    return markdown([f"{len(found)} runs", *columns, *tests], lines)


def tested(found: pd.DataFrame) -> str:
    """Friedman's test and the critical difference over the ten, for the rows that have all."""
    whole = means(found, "last")[list(UNCHOSEN)].dropna()
    if len(whole) < 3:
        fewest = "Fewer than three rows have all ten datasets"
        return f"{fewest}: Friedman's test has nothing to compare."
    p = friedmanchisquare(*whole.to_numpy()).pvalue
    return (
        f"Friedman's test of {len(whole)} rows over the ten: p = {p:.2g}. Ranks that differ by "
        f"less than {mean_ranks(whole)[1]:.1f}, Nemenyi's critical difference at 5 %, are level."
    )


def dataset_table(found: pd.DataFrame, protocol: str) -> str:
    """Rows by datasets, with the number of seeds if there are several."""
    table, seeds = means(found, protocol), found.groupby(["row", "dataset"]).size()

    def text(row: str, dataset: str) -> str:
        number = seeds.get((row, dataset), 0)
        return decimals(table.loc[row, dataset]) + (f" [{number}]" if number > 1 else "")

    lines = [[ROWS[row].title, *(text(row, dataset) for dataset in CUTS)] for row in ROWS]
    return markdown(["", *(DATASETS[dataset].title for dataset in CUTS)], lines)


def trials_table(known: Known) -> str:
    """Every trial of every row, with the score by which it is chosen."""
    lines = [
        [entry.title, f"`{trial}`", decimals(np.nan if score is None else score, 2)]
        for row, entry in ROWS.items()
        if len(entry.trials) > 1
        for trial, score in zip(entry.trials, trial_scores(known, row))
    ]
    return markdown(["row", "trial", "development texts"], lines)


def study_table(known: Known, name: str) -> str:
    """
    A study's rows with what it changes, and beside them the same rows as the benchmark has them:
    macro-F1 at the last epoch/at the best one, means over seeds. "" where it has no run yet.
    """
    study = STUDIES[name]
    rows = study.rows if any(study.rows) else ("wce", "sharprecl")  # beside a language model
    beside = [(encoder, row, "") for encoder in (SMALL, BASE) for row in rows]
    own = [(study.encoder, row, change) for row in study.rows for change in study.changes]
    cells = {
        key: [study_cell(known, dataset, key, study.seeds) for dataset in study.datasets]
        for key in dict.fromkeys(beside + own)
    }
    if not any(any(cells[key]) for key in own):
        return ""
    lines = []
    for (encoder, row, change), numbers in cells.items():
        parts = [ROWS[row].title if row else "", f"`{change}`" if change else "", ENCODERS[encoder]]
        if any(numbers):
            lines.append([", ".join(filter(None, parts)), *numbers])
    head = ["", *(DATASETS[dataset].title for dataset in study.datasets)]
    return markdown(head, lines)


def study_cell(known: Known, dataset: str, key: tuple, seeds: tuple[int, ...]) -> str:
    """Of an encoder, a row and what is changed; empty unless the run of each seed is kept."""
    encoder, row, change = key
    try:
        arguments = f"{benchmark.chosen(known, row) if row else ''} {change}"
    except InputError:  # not tuned yet
        return ""
    runs = [run_of(known, dataset, arguments, seed, encoder) for seed in seeds]
    numbers = [macro_f1(run) for run in runs if run is not None]
    return "/".join(map(decimals, np.mean(numbers, axis=0))) if len(numbers) == len(seeds) else ""


def how_many(known: Known, found: pd.DataFrame) -> str:
    """A sentence on how many runs there are."""
    wanted = len(ROWS) * len(CUTS) * len(SEEDS)
    return (
        f"{len(known)} runs are kept; {len(found)} of the table's {wanted} are among them, of "
        f"{found.row.nunique()} of {len(ROWS)} rows."
    )


def summary(known: Known, seeds: list[int]) -> str:
    """For docs/results.md: the main table or, if no row is complete, the number of runs."""
    found = scores(known, seeds)
    is_whole = means(found, "last")[list(UNCHOSEN)].notna().all(axis=1)
    return main_table(found) if is_whole.any() else how_many(known, found)


def text_of(known: Known, found: pd.DataFrame) -> str:
    """All tables as one Markdown text."""
    parts = [how_many(known, found), "Macro-F1 on test texts", main_table(found), tested(found)]
    for protocol, title in PROTOCOLS.items():
        parts += [f"Macro-F1 on test texts, {title}", dataset_table(found, protocol)]
    for name, study in STUDIES.items():
        if table := study_table(known, name):
            parts += [f"{study.title}, macro-F1 at the last epoch/at the best", table]
    parts += ["The trials, macro-F1 on development texts of CR and Biomedical", trials_table(known)]
    return "\n\n".join(parts) + "\n"


# ---- figures ----


def draw_differences(found: pd.DataFrame):
    """For each dataset, ours minus each other row at the last epoch; one point per row."""
    table = means(found, "last")
    ahead = (table.loc[OURS] - table.drop(index=OURS)).dropna(how="all")
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for i, row in enumerate(ahead.index):
        colour, marker = figures.look(i)
        options = {"color": colour, "alpha": 0.8, "label": ROWS[row].title}
        axes.plot(range(len(CUTS)), ahead.loc[row], marker, **options)
    axes.axhline(0, color="black", linewidth=0.8)
    names = [DATASETS[name].title for name in CUTS]
    axes.set_xticks(range(len(CUTS)), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_ylabel("macro-F1, SharpReCL tuned minus the row")
    figure.legend(loc="outside right upper")
    return figure


def cliques(ranks: list[float], critical: float) -> list[tuple[float, float]]:
    """The longest runs of sorted ranks that differ by less than the critical difference."""
    ends = [max(rank for rank in ranks if rank - first < critical) for first in ranks]
    spans = [(first, last) for first, last in zip(ranks, ends) if last > first]
    return [
        span
        for span in spans
        if not any(o != span and o[0] <= span[0] and span[1] <= o[1] for o in spans)
    ]


def draw_ranks(found: pd.DataFrame, protocol: str):
    """
    The critical-difference figure of Demšar (2006): mean ranks on an axis, the better half of the
    names on its left and the others on its right, and a bar over rows that the test cannot tell
    apart.
    """
    order, critical = mean_ranks(means(found, protocol)[list(UNCHOSEN)])
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
    axes.spines[["left", "bottom", "top", "right"]].set_visible(False)
    axes.plot([1, len(order)], [0, 0], color="black", linewidth=1)
    for rank in range(1, len(order) + 1):
        axes.plot([rank, rank], [0, 0.25], color="black", linewidth=1)
        axes.annotate(str(rank), (rank, 0.4), ha="center")
    axes.set(xticks=[], yticks=[])
    return figure


@one_line_errors
def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ledger", type=Path, help="the .jsonl.gz file of kept runs")
    parser.add_argument("output", type=Path, help="a folder for benchmark.md and the figures")
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    args = parser.parse_args(argv)
    if not args.ledger.is_file():
        raise InputError(f"{args.ledger}: no such file; python -m reporting.runs makes it")
    known = kept(args.ledger)
    found = scores(known, args.seeds)
    text = text_of(known, found)
    write_text(args.output / "benchmark.md", text)
    print(text)
    whole = means(found, "last")[list(UNCHOSEN)].dropna()
    if len(whole) > 1 and OURS in whole.index:
        figures.save_figure(draw_differences(found), args.output / "differences.png")
        figures.save_figure(draw_ranks(found, "last"), args.output / "ranks.png")


if __name__ == "__main__":
    sys.exit(main())

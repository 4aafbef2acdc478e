"""
What the benchmark of docs/benchmark.md says: its tables and figures, from the kept runs.

    python -m reporting.benchmark tables/benchmark.jsonl tables/benchmark      # a page, figures

Rows without a run on some dataset stand in the table, but in no mean, test or rank.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from scipy.stats import friedmanchisquare, rankdata, studentized_range, wilcoxon

from data import DATASETS
from engine import benchmark
from engine.benchmark import CUTS, GROUPS, ROWS, kept, run_of, trial_scores
from engine.files import InputError, Parser, write_text
from reporting.figures import save_figure
from reporting.tables import holm

OURS = "sharprecl"
PROTOCOLS = {"last": "the last epoch", "best": "the best epoch on development texts"}
UNCHOSEN = (*GROUPS["seen before"], *GROUPS["never seen"])  # no setting was chosen on these


def numbers_of(run: dict) -> dict[str, float]:
    """Macro-F1 on test texts at the last epoch and at the best one, of equals the later."""
    epochs = run["epochs"]
    best = max(epochs, key=lambda epoch: (epoch["val"]["macro_f1"], epoch["epoch"]))
    return {"last": epochs[-1]["test"]["macro_f1"], "best": best["test"]["macro_f1"]}


def scores(known: dict[str, dict], seeds: list[int]) -> pd.DataFrame:
    """A line a run: row, dataset, seed, last and best; of the rows whose setting is chosen."""
    found = []
    for row in ROWS:
        try:
            arguments = benchmark.chosen(known, row)
        except InputError:  # not tuned yet: table() says so by its empty cells
            continue
        for dataset in CUTS:
            for seed in seeds:
                run = run_of(known, dataset, arguments, seed)
                if run is not None:
                    found.append({"row": row, "dataset": dataset, "seed": seed, **numbers_of(run)})
    return pd.DataFrame(found, columns=["row", "dataset", "seed", *PROTOCOLS])


def means(found: pd.DataFrame, protocol: str) -> pd.DataFrame:
    """Rows by datasets: the mean over the seeds, NaN where there is no run."""
    table = found.pivot_table(index="row", columns="dataset", values=protocol, aggfunc="mean")
    return table.reindex(index=list(ROWS), columns=list(CUTS))


def compared(table: pd.DataFrame, datasets: tuple[str, ...]) -> pd.DataFrame:
    """
    Ours against each other row over these datasets: wins, losses, and p of Wilcoxon's signed-rank
    test with Holm's correction; of the rows that have all these datasets.
    """
    whole = table[list(datasets)].dropna()
    if OURS not in whole.index:
        return pd.DataFrame(columns=["wins", "losses", "p"])
    differences = (whole.loc[OURS] - whole.drop(index=OURS)).T  # datasets by rows
    p = [wilcoxon(differences[row]).pvalue for row in differences]
    return pd.DataFrame(
        {"wins": (differences > 0).sum(), "losses": (differences < 0).sum(), "p": holm(p)}
    )


def ranks(table: pd.DataFrame, datasets: tuple[str, ...]) -> tuple[pd.Series, float, float]:
    """
    The mean rank of each row that has all these datasets (1 is best), the critical difference of
    Nemenyi's test at 5 % (Demšar 2006), and p of Friedman's test.
    """
    whole = table[list(datasets)].dropna()
    k, n = whole.shape
    order = pd.Series(rankdata(-whole, axis=0).mean(axis=1), index=whole.index).sort_values()
    q = studentized_range.ppf(0.95, k, np.inf) / np.sqrt(2)
    p = friedmanchisquare(*whole.to_numpy()).pvalue if k > 2 else np.nan
    return order, q * np.sqrt(k * (k + 1) / (6 * n)), p


# ---- Markdown ----


def markdown(head: list[str], lines: list[list[str]]) -> str:
    aligned = ["---"] + ["---:"] * (len(head) - 1)
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, aligned, *lines])


def shown(value: float, digits: int = 1) -> str:
    return "" if pd.isna(value) else f"{value:.{digits}f}"


def main_table(found: pd.DataFrame, protocol: str) -> str:
    """Rows by groups of datasets, and what the tests say of the ten on which nothing was chosen."""
    table = means(found, protocol)
    told = compared(table, UNCHOSEN)
    columns = {**GROUPS, "the ten": UNCHOSEN}
    lines = []
    for row in table[list(UNCHOSEN)].mean(axis=1, skipna=False).sort_values(ascending=False).index:
        cells = [shown(table.loc[row, list(d)].mean(skipna=False)) for d in columns.values()]
        told_of = ["", ""]
        if row in told.index:
            wins, losses, p = told.loc[row]
            told_of = [f"{wins:.0f}–{losses:.0f}", f"{p:.3f}"]
        lines.append([ROWS[row].title, *cells, *told_of])
    return markdown(["", *columns, "wins–losses", "p (Holm)"], lines)


def dataset_table(found: pd.DataFrame, protocol: str) -> str:
    """Rows by datasets, with the number of seeds where there are several."""
    table, seeds = means(found, protocol), found.groupby(["row", "dataset"]).size()

    def cell(row: str, dataset: str) -> str:
        number = seeds.get((row, dataset), 0)
        return shown(table.loc[row, dataset]) + (f" [{number}]" if number > 1 else "")

    lines = [[ROWS[row].title, *(cell(row, dataset) for dataset in CUTS)] for row in ROWS]
    return markdown(["", *(DATASETS[dataset].title for dataset in CUTS)], lines)


def trials_table(known: dict[str, dict]) -> str:
    """Every trial of every row with the number that chooses."""
    lines = [
        [entry.title, f"`{trial}`", shown(score, 2) if score is not None else ""]
        for row, entry in ROWS.items()
        if len(entry.trials) > 1
        for trial, score in zip(entry.trials, trial_scores(known, row))
    ]
    return markdown(["row", "trial", "development texts"], lines)


# ---- figures ----


def draw_differences(found: pd.DataFrame):
    """Of each dataset, ours minus each other row at the last epoch; a point a row."""
    table = means(found, "last")
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for row in table.index.drop(OURS):
        axes.plot(list(table.loc[OURS] - table.loc[row]), "o", label=ROWS[row].title, alpha=0.8)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(CUTS)), [DATASETS[name].title for name in CUTS], rotation=45)
    axes.set_ylabel("macro-F1, SharpReCL tuned minus the row")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return figure


def draw_ranks(found: pd.DataFrame, protocol: str):
    """Demšar's figure: mean ranks on a line, and a bar that is the critical difference long."""
    order, critical, _ = ranks(means(found, protocol), UNCHOSEN)
    figure, axes = plt.subplots(figsize=(7, 0.32 * len(order) + 1), layout="constrained")
    for place, (row, rank) in enumerate(order.items()):
        axes.plot([rank, rank], [0, -1 - place], color="black", linewidth=0.8)
        axes.annotate(f" {ROWS[row].title} {rank:.1f}", (rank, -1 - place), fontsize=8, va="center")
    axes.plot([1, 1 + critical], [0.8, 0.8], color="tab:red", linewidth=3)
    axes.annotate(f" critical difference {critical:.1f}", (1 + critical, 0.8), va="center")
    axes.set_xlim(0.8, len(order) + 1.5)
    axes.set_xlabel("mean rank over ten datasets, 1 is best")
    axes.set_yticks([])
    axes.spines[["top", "right", "left"]].set_visible(False)
    return figure


def text_of(known: dict[str, dict], seeds: list[int]) -> str:
    """All tables as one Markdown text."""
    found = scores(known, seeds)
    parts = []
    for protocol, title in PROTOCOLS.items():
        parts += [f"Macro-F1 on test texts, {title}", main_table(found, protocol)]
        parts += [dataset_table(found, protocol)]
    parts += ["The trials, macro-F1 on development texts of CR and Biomedical", trials_table(known)]
    return "\n\n".join(parts) + "\n"


def main(argv: list[str] | None = None) -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ledger", type=Path, help="the .jsonl file of kept runs")
    parser.add_argument("output", type=Path, help="a folder for benchmark.md and the figures")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    args = parser.parse_args(argv)
    try:
        if not args.ledger.is_file():
            raise InputError(f"{args.ledger}: no such file; python -m reporting.runs makes it")
        known = kept(args.ledger)
        text, found = text_of(known, args.seeds), scores(known, args.seeds)
        write_text(args.output / "benchmark.md", text)
        print(text)
        if len(means(found, "last")[list(UNCHOSEN)].dropna()) > 1:
            save_figure(draw_differences(found), args.output / "differences.png")
            save_figure(draw_ranks(found, "last"), args.output / "ranks.png")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""
Makes the tables and figures of pages in docs/ from the ledgers in tables/.

    python -m reporting.study                # writes all of them again

In a page a table follows its name, <!-- table: NAME -->, and ends at an empty line.
"""

import re
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from data import DATASETS
from engine.benchmark import KEPT, kept
from engine.files import write_text
from reporting import benchmark, figures, tables
from reporting.runs import SECOND_VIEW, epoch_frame, frame, interval, markdown, records

ROOT = Path(__file__).resolve().parent.parent
FIVE = ("cr", "biomedical", "trec", "ohsumed", "dblp")
FITTED = 99.5  # training accuracy in percent from which all texts count as fitted
SETTINGS = {  # a ledger in tables/: the setting of its runs
    "two_layers": "two layers, one rate",
    "head_lr": "two layers, heads × 10",
    "all_layers": "all layers, one rate",
    "all_head_lr": "all layers, heads × 10",
    "paper_rate": "30 epochs, one rate",
    "thirty_epochs": "30 epochs, heads × 10",
}

Rows = dict[str, dict]  # a row's name: the settings of its runs


def plain(method: str, augment: str = SECOND_VIEW) -> dict:
    return {"method": method, "augment": augment}


def ours(mu: float, tau: float, augment: str = "none") -> dict:
    return plain("sharprecl", augment) | {"mu": mu, "tau": tau}


TUNED: Rows = {"SharpReCL, tuned": ours(1.0, 0.1)}
MAIN: Rows = {
    **TUNED,
    "BCL": plain("bcl"),
    "SPCL": plain("spcl"),
    "logit adjustment": plain("la"),
    "w/o CL": ours(0.0, 0.5),
    "weighted cross-entropy": plain("wce"),
}
LOW_MU: Rows = {"SharpReCL, tuned, µ = 0.3": ours(0.3, 0.1)}
AS_IN_PAPER: Rows = {"SharpReCL, the paper's": ours(1.0, 0.5, SECOND_VIEW)}
CROSS_ENTROPY: Rows = {"cross-entropy": plain("bert")}
OTHERS: Rows = {
    "TSC": plain("tsc"),
    "focal loss": plain("focal"),
    **CROSS_ENTROPY,
    "SimCSE": plain("simcse"),
    "vector scaling": plain("vs"),
    "Dice loss": plain("dice"),
    "Hybrid-SC": plain("hybrid_sc"),
    "SCLCE": plain("sclce"),
}

# ---- reading ----


def load_ledgers(*names: str) -> pd.DataFrame:
    """
    One row per run of these ledgers in tables/, as in runs.frame(), with study (its ledger), best
    (macro-F1 on test texts at the best epoch on development texts), and rate (of the heads divided
    by that of the encoder).
    """
    found = [
        record | {"study": name}
        for name in names
        for record in records(ROOT / "tables" / f"{name}.jsonl.gz")
    ]
    runs = frame(found)
    return runs.assign(
        study=[record["study"] for record in found],
        best=frame(found, "best_val").macro_f1,
        rate=[own.get("head_lr", own["lr"]) / own["lr"] for own in runs.settings],
    )


def select(runs: pd.DataFrame, wanted: dict) -> pd.DataFrame:
    """The runs with these settings."""
    return runs[[wanted.items() <= settings.items() for settings in runs.settings]]


def chosen(runs: pd.DataFrame, rows: Rows) -> dict[str, pd.DataFrame]:
    """The runs of each row; rows without a run are left out."""
    found = {name: select(runs, wanted) for name, wanted in rows.items()}
    return {name: own for name, own in found.items() if len(own)}


# ---- cells ----

Column = Callable[[pd.DataFrame], str]  # computes a cell from a row's runs


def average(runs: pd.DataFrame, value: str = "macro_f1") -> float:
    """The mean, in which each dataset counts once; NaN if no run has the value."""
    return runs.groupby("dataset")[value].mean().mean()


def mean(value: str = "macro_f1", datasets: int = 1, **wanted) -> Column:
    """A cell: the average over runs with these values; empty with fewer datasets than given."""

    def cell(runs: pd.DataFrame) -> str:
        own = runs[(runs[list(wanted)] == list(wanted.values())).all(axis=1)].dropna(subset=value)
        return f"{average(own, value):.1f}" if own.dataset.nunique() >= datasets else ""

    return cell


def whole(value: str, datasets: int) -> Column:
    """A cell: the average with its 95 % interval; empty with fewer datasets than given."""

    def cell(runs: pd.DataFrame) -> str:
        samples = [own[value].to_numpy() for _, own in runs.dropna(subset=value).groupby("dataset")]
        if len(samples) < datasets:
            return ""
        bounds = interval(samples)
        text = f" ({bounds[0]:.1f}–{bounds[1]:.1f})" if bounds else ""
        return f"{average(runs, value):.1f}{text}"

    return cell


def of_dataset(name: str, cell: Column) -> Column:
    """The same cell for the runs on one dataset."""
    return lambda runs: cell(runs[runs.dataset == name])


def grid(groups: dict[str, pd.DataFrame], cells: dict[str, Column]) -> str:
    lines = [[name, *(cell(own) for cell in cells.values())] for name, own in groups.items()]
    return markdown(["", *cells], lines)


# ---- tables ----


def ranking(groups: dict[str, pd.DataFrame], datasets: Iterable[str] = FIVE) -> str:
    """
    Macro-F1 on test texts at the last epoch, the best mean first; the mean at the best epoch on
    development texts, and the mean of the rarest third of the classes. A row without all datasets
    has no means.
    """
    datasets = list(datasets)
    n = len(datasets)
    cells = {DATASETS[name].title: mean(dataset=name) for name in datasets}
    cells |= {"mean (95 %)": whole("macro_f1", n), "best epoch (95 %)": whole("best", n)}
    cells |= {"rarest third": mean("rarest_third", datasets=n)}
    order = sorted(
        groups, key=lambda name: (-groups[name].dataset.nunique(), -average(groups[name]))
    )
    return grid({name: groups[name] for name in order}, cells)


def settings_table() -> str:
    runs = load_ledgers(*SETTINGS)
    last, best = (
        {study: mean(value, datasets=5, study=study) for study in SETTINGS}
        for value in ("macro_f1", "best")
    )

    def both(study: str) -> Column:
        return lambda own: f"{last[study](own)}/{best[study](own)}".strip("/")

    cells = {title: both(study) for study, title in SETTINGS.items()}
    return grid(chosen(runs, MAIN | LOW_MU | AS_IN_PAPER), cells)


def others_table() -> str:
    groups = chosen(load_ledgers("others"), OTHERS)
    order = sorted(groups, key=lambda name: -average(groups[name]))
    cells = {"last epoch": mean(), "best epoch": mean("best")}
    return grid({name: groups[name] for name in order}, cells)


def unseen_table() -> str:
    cells = {
        f"{DATASETS[name].title}, {at}": mean(value, dataset=name)
        for name in ("wordnet", "r52")
        for at, value in (("last", "macro_f1"), ("best epoch", "best"))
    }
    return grid(chosen(load_ledgers("unseen"), MAIN), cells)


def ratio_table() -> str:
    runs = load_ledgers("imbalance")
    groups = {
        f"{name}, {rate}": own
        for rate, factor in (("heads × 10", 10), ("one rate", 1))
        for name, own in chosen(runs[runs.rate.round() == factor], MAIN | LOW_MU).items()
    }
    return grid(groups, {f"ir = {ir:g}": mean(ir=ir) for ir in sorted(set(runs.ir))})


def noise_table() -> str:
    runs = load_ledgers("noise")
    cells = {f"{100 * x:g} % wrong": mean(noise=x) for x in sorted(set(runs.noise))}
    return grid(chosen(runs, MAIN | CROSS_ENTROPY), cells)


def trials_table() -> str:
    """
    Macro-F1 on development texts after the last epoch, top two layers, for seed 0, and in brackets
    the mean of seeds 0 to 2, for settings by flags that were run with all three seeds.
    """
    runs = load_ledgers("variants", "two_layers", "head_lr")
    runs = runs[runs.method.isin(["la", "sharprecl"]) & (runs.seed < 3)]
    runs = select(runs, {"freeze_layers": 4})
    runs = runs[[record.get("variant", "flags") == "flags" for record in runs.record]].copy()
    runs["row"] = [
        re.sub("^SharpReCL, ", "", label).replace("augment none", "dropout views")
        + (f", heads × {rate:.0f}" if rate > 1 else "")
        for label, rate in zip(runs.label, runs.rate)
    ]

    def text(own: pd.DataFrame) -> str:
        seeds = own.set_index("seed").val_macro_f1
        return f"{seeds.loc[0]:.1f} ({seeds.mean():.1f})" if len(seeds) == 3 else ""

    runs = runs.drop_duplicates(["row", "dataset", "seed"])  # a run may be in two ledgers
    groups = {
        row: own for (_, row), own in runs.groupby(["rate", "row"]) if own.seed.nunique() == 3
    }
    cells = {DATASETS[name].title: of_dataset(name, text) for name in ("cr", "biomedical")}
    return grid(groups, cells)


TABLES: dict[str, Callable[[], str]] = {
    "main": lambda: ranking(chosen(load_ledgers("head_lr"), MAIN)),
    "settings": settings_table,
    "others": others_table,
    "unseen": unseen_table,
    "ratio": ratio_table,
    "noise": noise_table,
    "trials": trials_table,
    "language": lambda: benchmark.study_table(kept(KEPT), "language"),
    "benchmark": lambda: benchmark.summary(kept(KEPT), benchmark.SEEDS),
}


def fill(page: Path) -> None:
    """Replaces the tables of a page by new ones."""
    place = re.compile(r"^(<!-- table: (\w+) -->\n)(?:.+\n)*", re.MULTILINE)
    text = page.read_text(encoding="utf-8")
    write_text(page, place.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}\n", text))


# ---- figures ----


def fitted_at(runs: pd.DataFrame) -> float:
    """The mean epoch after which FITTED percent of the training texts are right; NaN if never."""
    epochs = epoch_frame(runs)
    if "train_accuracy" not in epochs:  # SPCL does not record it
        return np.nan
    fitted = epochs[epochs.train_accuracy >= FITTED].groupby("run").epoch.min()
    return fitted.mean() if len(fitted) == len(runs) else np.nan


def draw_fade(runs: pd.DataFrame, rows: Rows):
    """
    A panel for each dataset: the mean macro-F1 over the seeds on development texts, by epoch, and a
    ring where all training texts are fitted.
    """
    panels, rings = [], []
    for dataset in [name for name in FIVE if name in set(runs.dataset)]:
        groups = chosen(runs[runs.dataset == dataset], rows)
        epochs = [epoch_frame(own).dropna(subset="val_macro_f1") for own in groups.values()]
        lines = [figures.line(own.epoch, own.val_macro_f1).assign(std=0.0) for own in epochs]
        panels.append((DATASETS[dataset].title, "epoch", dict(zip(groups, lines))))
        rings.append([fitted_at(own) for own in groups.values()])
    figure = figures.line_grid(panels, 3, (2.9, 2.2), "macro-F1, development texts")
    for axes, moments in zip(figure.axes, rings):
        for line, at in zip(list(axes.lines), moments):
            look = {"color": line.get_color(), "markerfacecolor": "white", "markersize": 7}
            axes.plot([at], [np.interp(at, *line.get_data())], "o", **look)
    return figure


def write_figures(folder: Path) -> None:
    """Writes the figures, each with the name of its ledger."""
    for name in ("head_lr", "thirty_epochs"):
        figures.save_figure(draw_fade(load_ledgers(name), MAIN), folder / f"{name}.png")
    for name, kind in (("imbalance", "fig_ir"), ("noise", "fig_noise")):
        groups = tables.group(tables.load_runs(ROOT / "tables" / f"{name}.jsonl.gz", "last"))
        own = next(one for one in groups if "head_lr" in one.settings.iloc[0])
        figures.save_figure(tables.draw(own)[kind], folder / f"{name}.png")


def main() -> None:
    for name in ("results", "log", "language_models"):
        fill(ROOT / "docs" / f"{name}.md")
    write_figures(ROOT / "tables")


if __name__ == "__main__":
    main()

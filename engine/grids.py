"""
The runs of the paper's tables and figures, and of own texts: run_all.sh calls this.

    python -m engine.grids table2 fig4 --dry_run

A grid is a function in GRIDS that yields the arguments of main.py for each run. Choice has the
values of the variables of run_all.sh.
"""

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from augment import AUGMENTATIONS
from baselines import GROUPS, titles
from data import DATASETS
from engine import grid
from engine.arguments import ABLATIONS, ENCODER
from engine.files import InputError, one_line_errors
from engine.own_data import tables_of
from engine.reading import open_table

ALL = ("table2", "table4", "tableA1", "tableA2", "fig1", "fig3", "figA1", "figA2", "fig4")
ON_REQUEST = ("table3", "tableA1_full")
ROOT = Path(__file__).parents[1]

Run = list[str]  # the arguments of one run of main.py

QUICK = "--max_per_class 100 --batch_size 16 --max_length 32 --lr 2e-4"
DEFAULTS = {  # of the variables of run_all.sh, in shell syntax; "" has those of all grids
    "quick": "DATASETS='trec cr' SEEDS='0 1' IRS=50 ENCODER=minilm EPOCHS=1 JOBS=2 "
    "OUTPUT_DIR=runs/quick",
    "own": "SEEDS='0 1 2' ENCODER=minilm EPOCHS=5 OUTPUT_DIR=runs/own "
    "METHODS='tfidf probe spcl post_hoc wce sharprecl'",  # the cheap ones come first
    "": f"DATASETS='{' '.join(n for n, e in DATASETS.items() if e.paper_irs is not None)}' "
    "SEEDS='0 1 2 3 4 5 6 7 8 9' IRS='original 50 20 10' JOBS=1 SHARD=1/1 OUTPUT_DIR=runs/all "
    "METHODS= ENCODER= EPOCHS= DATA_DIR= PRICES= FLAGS=",
}


class Choice(NamedTuple):
    """The part of the grids that the variables of run_all.sh choose."""

    datasets: list[str]
    methods: list[str]
    language_models: list[str]  # with SharpReCL
    seeds: list[str]
    irs: list[str]
    prices: list[str]
    flags: list[str]  # that every run has
    is_quick: bool


# ---- the paper's tables and figures ----


def runs(choice: Choice, dataset: str, ir: str, method: str, *flags: str) -> Iterator[Run]:
    """Yields a run for each seed, if the dataset and the method are chosen."""
    if dataset not in choice.datasets or method not in choice.methods:
        return
    for seed in choice.seeds:
        keep = "--no_weights"  # thousands of encoders fill a disk
        # Figure 4 needs the plots of these runs, and another table may make them first
        in_figure_4 = (dataset, ir) == ("trec", "50") and method in ("sclce", "spcl", "sharprecl")
        if in_figure_4 and not flags and seed == choice.seeds[0]:
            keep = "--plots"
        ratio = [] if ir == "original" else ["--ir", ir]
        yield [
            *("--dataset", dataset, *ratio, "--method", method, *flags),
            *("--seed", seed, keep, *choice.flags),
        ]


def is_imbalanced(dataset: str) -> bool:
    """Whether the paper uses this dataset as it is, because it is imbalanced already."""
    return dataset in DATASETS and DATASETS[dataset].paper_irs == ()


def ir_of(dataset: str) -> str:
    return "original" if is_imbalanced(dataset) else "50"


def table2(choice: Choice) -> Iterator[Run]:
    for dataset in choice.datasets:
        for ir in ["original"] if is_imbalanced(dataset) else choice.irs:
            for method in choice.methods:
                yield from runs(choice, dataset, ir, method)


def table3(choice: Choice) -> Iterator[Run]:
    choice = choice._replace(methods=choice.language_models)
    if not choice.prices:
        print("gpt35 is left out: set PRICES to pay for it", file=sys.stderr)
    for dataset in choice.datasets:
        for method in [*titles("large"), "sharprecl"]:
            consent = ["--prices", *choice.prices, "--yes"] if method == "gpt35" else []
            if choice.prices or not consent:
                yield from runs(choice, dataset, ir_of(dataset), method, *consent)


def varied(
    choice: Choice,
    flags: dict[str, tuple[str, list[str], list[str]]],
    datasets: tuple[str, ...] = (),
    ir: str = "",
) -> Iterator[Run]:
    """SharpReCL with other values of flags, {flag: (default, all values, values of "quick")}."""
    for dataset in datasets or choice.datasets:
        for flag, (default, values, few) in flags.items():
            for value in few if choice.is_quick else values:
                own = [] if value == default else [flag, value]
                yield from runs(choice, dataset, ir or ir_of(dataset), "sharprecl", *own)


FULL = ""  # no ablation
SHARES = ["0.1", "0.3", "0.5", "0.7", "0.9", "1"]
MU_AND_TAU = {"--mu": ("1", SHARES, ["0.5", "1"]), "--tau": ("0.5", SHARES, ["0.5", "1"])}
ABLATED = {"--ablation": (FULL, [FULL, *ABLATIONS], [FULL, "cl", "mi", "delta_cl"])}
K = {"--k": ("20", ["10", "20", "30", "40", "50"], ["10", "20"])}
NO_DOWNLOAD = [n for n, entry in AUGMENTATIONS.items() if not (entry.models or entry.packages)]
AUGMENTED = {"--augment": ("", NO_DOWNLOAD, ["word_substitution", "none"])}
ALL_AUGMENTED = {"--augment": ("", list(AUGMENTATIONS), list(AUGMENTATIONS))}


def fig1(choice: Choice) -> Iterator[Run]:
    """One run: any method shows the class sizes."""
    return runs(choice._replace(seeds=choice.seeds[:1]), "ohsumed", "original", "sharprecl")


def fig4(choice: Choice) -> Iterator[Run]:
    first = choice._replace(seeds=choice.seeds[:1])
    for method in ("sclce", "spcl", "sharprecl"):
        yield from runs(first, "trec", "50", method)


# ---- own texts ----


def own_texts(choice: Choice) -> Iterator[Run]:
    """Compares methods on a user's texts: heads at ten times the rate, views for any language."""
    (own,) = choice.datasets
    # a folder may have its own validation texts
    held_out = [] if "val" in tables_of(own, open_table, []) else ["--val_fraction", "0.2"]
    rate = ["--head_lr", "1e-3"]
    setting = {  # the methods without heads have no rate of their own
        **dict.fromkeys(("tfidf", "probe", "spcl"), []),
        "sharprecl": [*rate, "--tau", "0.3", "--augment", "none"],
    }
    for method in choice.methods:
        for seed in choice.seeds:
            yield [
                *("--dataset", own, "--method", method, *setting.get(method, rate)),
                *("--seed", seed, *held_out, "--batch_size", "32", "--lr", "1e-4"),
                *("--warmup", "0.1", "--schedule", "linear", "--no_weights", *choice.flags),
            ]


GRIDS: dict[str, Callable[[Choice], Iterator[Run]]] = {
    "table2": table2,
    "table3": table3,
    "table4": partial(varied, flags=ABLATED),
    "tableA1": partial(varied, flags=AUGMENTED, ir="original"),
    "tableA1_full": partial(varied, flags=ALL_AUGMENTED, ir="original"),
    "tableA2": partial(varied, flags=K),
    "fig1": fig1,
    "fig3": partial(varied, flags=MU_AND_TAU, datasets=("ohsumed", "r52")),
    "figA1": partial(varied, flags=MU_AND_TAU, datasets=("trec", "dblp")),
    "figA2": partial(varied, flags=MU_AND_TAU, datasets=("biomedical", "cr")),
    "fig4": fig4,
    "own": own_texts,
}


# ---- the command line of run_all.sh ----


def parse(words: list[str]) -> tuple[list[str], bool, bool, str]:
    """Parses the words into the grids, whether quick and --dry_run are given, and the own file."""
    tables, own, rest = [], "", iter(words)
    for word in rest:
        if word == "own":
            # run_all.sh has changed the folder since the name was typed
            own = os.path.join(os.environ.get("STARTED_IN", ""), next(rest, "FILE"))
            if not os.path.exists(own):
                raise InputError(
                    "own needs your file, such as: bash run_all.sh own reviews.csv; there is no "
                    f"{own}"
                )
        elif word in ALL + ON_REQUEST:
            tables.append(word)
        elif word not in ("quick", "--dry_run"):
            raise InputError(
                f"{word} is neither quick, own, --dry_run nor one of: {' '.join(ALL + ON_REQUEST)}"
            )
    tables = ["own"] if own else tables or list(ALL)
    return tables, "quick" in words, "--dry_run" in words, own


def variables(tables: list[str], is_quick: bool) -> dict[str, str]:
    """The variables of run_all.sh, from the environment or else the defaults."""
    values: dict[str, str] = {}
    for kind in ("", *tables, *["quick"] * is_quick):
        values |= dict(word.split("=", 1) for word in shlex.split(DEFAULTS.get(kind, "")))
    values |= {name: os.environ[name] for name in values if os.environ.get(name)}
    if values["OUTPUT_DIR"].startswith("-"):
        values["OUTPUT_DIR"] = f"./{values['OUTPUT_DIR']}"  # report.py would take it for a flag
    return values


def choose(values: dict[str, str], is_quick: bool, own: str) -> Choice:
    """Makes the Choice. InputError for a dataset that is neither known nor a file."""
    datasets = [own] if own else values["DATASETS"].split()
    for dataset in datasets:
        if dataset not in DATASETS and not os.path.exists(dataset):
            raise InputError(f"no dataset and no file is called {dataset}")
    encoder, named = values["ENCODER"], values["METHODS"].split()
    methods = list(titles(*(group for group in GROUPS if group != "large")))
    if encoder == ENCODER:
        encoder = ""  # the default of all methods but roberta, which has its own
    if encoder and not named:
        print(f"roberta is left out: its row needs roberta-base, not {encoder}", file=sys.stderr)
        methods.remove("roberta")
    flags = [f"--encoder={encoder}"] if encoder else []
    flags += [f"--data_dir={values['DATA_DIR']}"] if values["DATA_DIR"] else []
    flags += ["--epochs", values["EPOCHS"]] if values["EPOCHS"] else []
    try:
        flags += QUICK.split() * is_quick + shlex.split(values["FLAGS"])
    except ValueError as error:
        raise InputError(f"FLAGS: {error}") from error
    return Choice(
        datasets=datasets,
        methods=named or methods,
        language_models=named or [*titles("large"), "sharprecl"],
        seeds=values["SEEDS"].split(),
        irs=values["IRS"].split(),
        prices=values["PRICES"].split(),
        flags=[*flags, f"--output_dir={values['OUTPUT_DIR']}"],
        is_quick=is_quick,
    )


@one_line_errors
def main(argv: list[str] | None = None) -> int:
    """Runs the grids, then report.py on the results; returns the exit code."""
    tables, is_quick, is_dry, own = parse(sys.argv[1:] if argv is None else argv)
    values = variables(tables, is_quick)
    choice = choose(values, is_quick, own)
    code = grid.main(
        ["--jobs", values["JOBS"], "--shard", values["SHARD"], *["--dry_run"] * is_dry],
        [run for table in tables for run in GRIDS[table](choice)],
        checks_first=bool(own),
    )
    if is_dry or code > 1:
        return code
    place = values["OUTPUT_DIR"]
    options = ["--choose"] if own else ["--output_dir", f"{place}/report"]
    reported = subprocess.run([sys.executable, str(ROOT / "report.py"), place, *options])
    return code or min(reported.returncode, 1)


if __name__ == "__main__":
    sys.exit(main())

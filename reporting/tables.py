"""
Results of many runs -> the paper's tables, with our numbers, and its figures.

Runs whose training settings differ never meet in a table: each set of settings has its own tables.
"""

import itertools
import json
import math
import re
import statistics
import sys
from collections import defaultdict
from operator import attrgetter
from pathlib import Path
from typing import Callable, NamedTuple

import numpy as np
from matplotlib import pyplot as plt
from scipy.stats import ttest_rel

import data
from augment import AUGMENTATIONS
from baselines import GROUPS, titles
from engine import escape, files, results
from engine.arguments import ABLATIONS, Role, make_parser, names_of
from engine.files import InputError
from reporting import figures

# ---- the paper's own numbers, BERT-base: accuracy and macro-F1 of each dataset in turn ----

IN_PAPER = {name: known for name, known in data.DATASETS.items() if known.paper_irs is not None}
DATASETS = {name: known.title for name, known in IN_PAPER.items()}
PAPER_IR = {name: next(iter(known.paper_irs), None) for name, known in IN_PAPER.items()}
TABLE_4 = {
    "sshm": "94.59 82.93 66.59 56.25 94.20 93.97 74.49 67.75 59.28 58.45 79.69 74.46",
    "cl": "95.09 83.52 66.86 57.52 94.40 93.30 74.65 68.04 59.44 58.98 77.39 69.75",
    "cls": "95.62 83.95 66.89 57.56 94.42 93.99 74.69 68.22 59.66 60.02 78.59 72.16",
    "ss": "95.66 83.99 67.28 59.13 93.80 84.88 75.53 71.43 61.35 60.72 80.05 75.15",
    "hm": "95.69 84.05 67.55 59.95 94.00 93.99 75.44 70.78 60.92 60.52 82.78 80.18",
    "mi": "95.02 83.75 67.12 59.52 93.89 93.56 74.96 69.68 60.36 59.59 83.15 79.90",
    "delta_both": "95.32 84.33 67.86 60.22 94.40 94.43 75.39 70.05 60.82 60.32 83.49 80.51",
    "delta_cls": "95.79 84.59 68.19 60.46 94.46 94.55 75.52 70.26 60.93 60.46 83.52 80.68",
    "delta_cl": "95.95 84.65 68.22 60.52 94.68 94.62 75.64 70.68 61.36 60.59 83.75 80.90",
    "sharprecl": "96.11 84.83 68.44 60.82 94.80 94.83 76.30 71.15 61.56 60.78 84.04 81.12",
}
TABLE_A1 = {  # on the original data
    "word_substitution": "96.11 84.83 68.44 60.82 97.20 97.63 80.15 77.59 72.52 72.65 93.09 92.51",
    "back_translation": "95.92 84.69 68.09 59.41 97.20 96.84 80.12 77.22 72.83 72.87 93.09 92.58",
    "contextual": "96.05 84.76 67.62 59.20 97.80 97.18 80.14 77.38 72.61 72.61 93.09 92.54",
}
TABLE_A2 = {  # accuracy for k = 10, 20, 30, 40, 50
    "r52": "95.82±0.22 96.11±0.36 96.01±0.25 95.08±0.29 95.32±0.10",
    "ohsumed": "68.02±0.19 68.44±0.22 68.19±0.20 67.68±0.35 67.32±0.16",
    "trec": "94.02±0.49 94.80±0.55 94.29±0.26 93.68±0.32 93.36±0.12",
    "dblp": "75.22±0.29 76.30±0.25 76.59±0.22 76.08±0.39 75.92±0.26",
    "biomedical": "61.02±0.19 61.56±0.28 61.09±0.20 60.68±0.45 60.52±0.16",
    "cr": "83.62±0.15 84.04±0.25 83.74±0.19 83.02±0.20 82.64±0.22",
}

Place = tuple[str, float | None]  # a dataset and its ir, None as it is
Key = tuple[str, float | None, str | int]  # a place and a row of a table


def by_key(table: dict[str, str], irs: dict[str, float | None]) -> dict[Key, str]:
    """A table of the paper as {(dataset, ir, row): "accuracy / macro-F1"}."""
    return {
        (dataset, irs[dataset], row): f"{accuracy} / {f1}"
        for row, line in table.items()
        for dataset, accuracy, f1 in zip(DATASETS, line.split()[::2], line.split()[1::2])
    }


PAPER_4 = by_key(TABLE_4, PAPER_IR)
PAPER_A1 = by_key(TABLE_A1, dict.fromkeys(DATASETS))
PAPER_A2 = {
    (dataset, PAPER_IR[dataset], k): number.replace("±", " ± ")
    for dataset, line in TABLE_A2.items()
    for k, number in zip((10, 20, 30, 40, 50), line.split())
}
PAPER_2 = {
    (dataset, ir, "sharprecl"): cell
    for (dataset, ir, row), cell in (PAPER_A1 | PAPER_4).items()
    if row in ("word_substitution", "sharprecl")
}

# ---- rows and columns; the rows of a table in sections with a rule between them ----

SECTIONS = tuple(titles(group) for group in GROUPS)
NAMES = titles()
TABLE_3 = (titles("large"), titles("ours"))
ABLATED = (
    {
        "sshm": "w/o SSHM",
        "cl": "w/o CL",
        "cls": "w/o CLS",
        "ss": "w/o SS",
        "hm": "w/o HM",
        "mi": "w/o MI",
        "delta_both": "w/o δ_{CLS,CL}",
        "delta_cls": "w/o δ_CLS",
        "delta_cl": "w/o δ_CL",
    },
    {"sharprecl": "SharpReCL"},
)
METRICS = {
    "accuracy": ("accuracy", 2, max),
    "macro_f1": ("macro-F1", 2, max),
    "seconds": ("seconds", 1, min),
}  # heading, decimals printed, which is best
MAIN_SETTINGS = ("encoder", "pooling", "epochs", "batch_size", "lr", "schedule", "amp")
MADE_BY = ("eval_every", "micro_batch")  # settings that make no run of their own in a table


class Run(NamedTuple):
    """A finished run: what makes it this run, and its result under the protocol."""

    folder: Path
    dataset: str
    ir: float | None
    seed: int
    method: str
    augment: str
    changed: dict  # flags of the method that are not at their default
    settings: dict  # all that decides the numbers
    data_hash: str  # of all texts and labels
    accuracy: float  # percent, as macro_f1
    macro_f1: float
    seconds: float

    @property
    def noise(self) -> float:
        """Share of the training labels that were flipped."""
        return self.settings["label_noise"]

    @property
    def is_plain_but_for_noise(self) -> bool:
        return not self.changed and self.augment == "word_substitution"

    @property
    def is_plain(self) -> bool:
        return self.is_plain_but_for_noise and self.noise == 0

    @property
    def varies(self) -> set[str] | None:
        """The flags at another value than SharpReCL's default; None: not SharpReCL as it is."""
        is_ours = (
            self.method == "sharprecl" and self.augment == "word_substitution" and self.noise == 0
        )
        return set(self.changed) if is_ours else None


class Cell(NamedTuple):
    text: str
    mark: str = ""  # "best", "second" of its column, or neither
    sign: str = ""  # † or ‡, the significance


class Part(NamedTuple):
    """The table of one dataset."""

    dataset: str
    columns: list[tuple[str, str]]  # the ir and what is measured
    sections: list[list[tuple[str, tuple[Cell, ...]]]]  # of rows: label and cells


class Table(NamedTuple):
    name: str  # of its files
    title: str
    caption: str
    parts: list[Part]


# ---- runs ----


def load(folder: Path, protocol: str) -> list[Run]:
    """The finished runs below the folder that have this protocol; says how many have not."""
    runs, without = [], 0
    for path in sorted(folder.glob("*/result.json")):
        result = files.read_json(path)
        try:
            own, changed = result["settings"], result["changed"]
            identity = [own[name] for name in ("dataset", "ir", "seed", "method", "augment")]
            if protocol in result:
                scores = result[protocol]
                runs.append(
                    Run(
                        path.parent,
                        *identity,
                        changed,
                        own,
                        result["data_hash"],
                        scores["accuracy"],
                        scores["macro_f1"],
                        result["seconds"],
                    )
                )
        except (KeyError, TypeError) as error:
            raise InputError(
                f"{path} was written by another version of main.py ({error!r}): run "
                "its command again with --overwrite, or move its folder away"
            ) from error
        without += protocol not in result
    if not runs:
        raise InputError(f"{folder}: {why_no_runs(folder, protocol, without)}")
    if without:
        print(f"note: {without} runs have no {protocol} and are left out", file=sys.stderr)
    return without_twins(runs)


def without_twins(runs: list[Run]) -> list[Run]:
    """
    The runs, in their order, but of those that differ in MADE_BY alone only one: that which was
    evaluated most often and, of such, in the largest pieces. A note names each that is left out.
    """

    def made_by(run: Run) -> tuple[float, float]:
        every, piece = (run.settings.get(name) for name in MADE_BY)
        return every or 1, -(piece or math.inf)

    firsts, left_out = {}, set()
    for run in sorted(runs, key=made_by):
        same = {name: value for name, value in run.settings.items() if name not in MADE_BY}
        first = firsts.setdefault(json.dumps([same, run.data_hash], sort_keys=True), run)
        differing = [name for name in MADE_BY if run.settings.get(name) != first.settings.get(name)]
        if differing:
            left_out.add(run.folder)
            print(
                f"note: {run.folder} is left out: it differs from {first.folder} only in "
                + " and ".join(differing),
                file=sys.stderr,
            )
    return [run for run in runs if run.folder not in left_out]


def why_no_runs(folder: Path, protocol: str, without: int) -> str:
    """What this folder lacks for a table, and what helps."""
    if not folder.is_dir():
        return "no such folder; give the --output_dir of main.py, by default runs"
    if without and protocol == "best_val":
        return (
            f"none of the {without} finished runs has best_val, for they had no validation "
            "texts: leave --protocol out, or train with --val_fraction 0.1"
        )
    if without:
        return f"none of the {without} finished runs has {protocol}: take another --protocol"
    if (folder / "args.json").exists():
        return "no finished run, but one that began; its command, given again, goes on"
    below = list(folder.glob("*/*/result.json"))
    if below:
        return f"no finished run, but there are some in {below[0].parent.parent}: give that folder"
    unfinished = len(list(folder.glob("*/args.json")))
    if unfinished:
        return f"{unfinished} runs began here and none is finished; their commands go on"
    return "no run of main.py; give the folder that was its --output_dir, by default runs"


def training(run: Run) -> dict:
    """The settings that all runs of a table share."""
    shared = names_of(Role.SHARED, Role.TRAINING)
    return {name: value for name, value in run.settings.items() if name in shared}


def group(runs: list[Run]) -> list[list[Run]]:
    """
    Runs with the same training settings, the largest group first. RoBERTa is an encoder of its own:
    its runs belong to each group that they share all other settings with.
    """
    of_data = names_of(Role.DATA)

    def data_of(run: Run) -> list:
        return [run.settings.get(name) for name in of_data]

    variants = defaultdict(list)  # of one data set, cut to several sizes
    for run in runs:
        if data_of(run) not in variants[run.dataset]:
            variants[run.dataset].append(data_of(run))

    def key(run: Run, *left_out: str) -> str:
        shared = {name: value for name, value in training(run).items() if name not in left_out}
        own = data_of(run) if len(variants[run.dataset]) > 1 else None
        return json.dumps([shared, own], sort_keys=True)

    groups, homes = defaultdict(list), defaultdict(set)
    for run in sorted(runs, key=lambda run: run.method == "roberta"):
        own, home = key(run), key(run, "encoder", "pooling")
        if run.method != "roberta":
            homes[home].add(own)
        is_guest = run.method == "roberta" and home in homes
        for name in homes[home] if is_guest else [own]:
            groups[name].append(run)
    return sorted(groups.values(), key=len, reverse=True)


def by_cell(runs: list[Run], row_of: Callable[[Run], str | int]) -> dict[Key, dict[int, Run]]:
    """{(dataset, ir, row): {seed: run}}; InputError where a cell has two runs of one seed."""
    cells = defaultdict(dict)
    for run in runs:
        cell = cells[run.dataset, run.ir, row_of(run)]
        if run.seed in cell:
            raise InputError(
                f"{cell[run.seed].folder} and {run.folder} are the same cell of a "
                "table with the same seed: move one of them away"
            )
        other = next((other for other in cell.values() if draw_of(other) == draw_of(run)), run)
        if run.data_hash != other.data_hash:
            raise InputError(
                f"{other.folder} and {run.folder} are the same cell of a table, but "
                "their data are not the same: move one of them away"
            )
        cell[run.seed] = run
    return dict(cells)


def draw_of(run: Run) -> int:
    """Which draw of the training texts the run is on."""
    return run.settings["data_seed"]


def ablation(run: Run) -> str | None:
    """The row of Table 4; what an ablation sets to its default is in settings, not in changed."""
    if run.varies is None:
        return None
    rows = (
        name
        for name, flags in ABLATIONS.items()
        if run.varies <= set(flags)
        and all(run.settings[flag] == value for flag, value in flags.items())
    )
    return next(rows, None) if run.varies else "sharprecl"


def places(runs: list[Run]) -> list[Place]:
    """The datasets and ir of these runs: the paper's first, original before 50, 20, 10."""
    order = list(DATASETS)
    return sorted(
        {(run.dataset, run.ir) for run in runs},
        key=lambda place: (
            order.index(place[0]) if place[0] in DATASETS else len(order),
            place[0],
            -math.inf if place[1] is None else -place[1],
        ),
    )


# ---- significance ----


def paired_p(ours: np.ndarray, theirs: np.ndarray) -> float:
    """
    Two-sided paired t-test. Differences that are all the same have no spread to test against:
    p = 1, never significant.
    """
    return 1.0 if np.ptp(ours - theirs) < 1e-9 else float(ttest_rel(ours, theirs).pvalue)


def holm(p_values: list[float]) -> list[float]:
    """Holm 1979: adjusted p, in the order given; the j-th smallest of m counts m + 1 - j times."""
    adjusted, highest = [0.0] * len(p_values), 0.0
    for position, i in enumerate(np.argsort(p_values, kind="stable")):
        highest = max(highest, min(1.0, (len(p_values) - position) * p_values[i]))
        adjusted[i] = highest
    return adjusted


def significance(runs: list[Run]) -> tuple[dict[tuple[Key, str], str], str]:
    """{(cell, metric): † or ‡} of SharpReCL's rivals, and the sentence for the caption."""
    cells, pairs, signs = by_cell(runs, attrgetter("method")), {}, {}
    for (dataset, ir, method), theirs in cells.items():
        ours = cells.get((dataset, ir, "sharprecl"), {})
        shared = ours.keys() & theirs.keys()
        if method != "sharprecl" and len(shared) > 1:
            pairs[dataset, ir, method] = [(ours[seed], theirs[seed]) for seed in shared]
    if not pairs:
        return {}, " No significance test: no rival shares 2 seeds with SharpReCL."
    for metric in ("accuracy", "macro_f1"):
        values = [
            np.array([[getattr(run, metric) for run in pair] for pair in cell]).T
            for cell in pairs.values()
        ]
        adjusted = holm([paired_p(*value) for value in values])
        for key, (ours, theirs), p in zip(pairs, values, adjusted):
            if p < 0.05:
                signs[key, metric] = "†" if ours.mean() > theirs.mean() else "‡"
    fewest = min(map(len, pairs.values()))
    return signs, (
        " † SharpReCL is significantly better, ‡ significantly worse than this cell at 5 %: paired "
        "two-sided t-test over shared seeds, Holm-corrected; comparisons of each metric: "
        f"{len(pairs)}." + (f" With {fewest} seeds such a test says little." if fewest < 5 else "")
    )


# ---- tables ----


def ranked(means: list[float | None], best: Callable) -> list[str]:
    """The marks of a column: "best", "second" or "", ties alike; none where one has no rival."""
    values = [mean for mean in means if mean is not None]
    if len(values) < 2:
        return [""] * len(means)
    names = dict(zip(sorted(set(values), reverse=best is max), ("best", "second")))
    return [names.get(mean, "") for mean in means]


def column(cells: list[list[Run]], metric: str, signs: list[str]) -> list[Cell]:
    """One cell for each list of runs: mean ± standard deviation (number of seeds)."""
    _, digits, best = METRICS[metric]
    means, texts = [], []
    for runs in cells:
        values = [getattr(run, metric) for run in runs]
        mean = f"{statistics.mean(values):.{digits}f}" if runs else "–"
        spread = f" ± {statistics.stdev(values):.{digits}f}" if len(runs) > 1 else ""
        means.append(float(mean) if runs else None)  # compared as printed
        texts.append(f"{mean}{spread} ({len(runs)})" if runs else mean)
    return [Cell(*cell) for cell in zip(texts, ranked(means, best), signs)]


def build(
    runs: list[Run],
    sections: tuple[dict, ...],
    row_of: Callable[[Run], str | int],
    metrics: tuple[str, ...],
    paper: dict[Key, str],
    signs: dict[tuple[Key, str], str],
) -> list[Part]:
    """
    A part for each dataset: the rows that it has a run for, and for each ir a column for each
    metric, and one for the paper's numbers where there are any.
    """
    cells, parts = by_cell(runs, row_of), []
    for dataset, its_places in itertools.groupby(places(runs), key=lambda place: place[0]):
        used = {row for other, _, row in cells if other == dataset}
        kept = [{row: name for row, name in section.items() if row in used} for section in sections]
        headings, columns = [], []
        for _, ir in its_places:
            keys = [(dataset, ir, row) for section in kept for row in section]
            for metric in metrics:
                headings.append((ir_name(ir), METRICS[metric][0]))
                columns.append(
                    column(
                        [list(cells.get(key, {}).values()) for key in keys],
                        metric,
                        [signs.get((key, metric), "") for key in keys],
                    )
                )
            theirs = [paper.get(key, "") for key in keys]
            if any(theirs):
                what = "paper: acc / F1" if "/" in "".join(theirs) else "paper: acc"
                headings.append((ir_name(ir), what))
                columns.append([Cell(text) for text in theirs])
        lines = zip(*columns)
        parts.append(
            Part(
                title(dataset),
                headings,
                [[(name, next(lines)) for name in section.values()] for section in kept if section],
            )
        )
    return parts


def title(dataset: str) -> str:
    return DATASETS.get(dataset, dataset)


def ir_name(ir: float | None) -> str:
    return "original" if ir is None else f"ir {ir:g}"


def shown(name: str, value) -> str:
    """A setting for people; of a folder only its name."""
    if value is None:
        return f"no {name.replace('_', ' ')}"
    if isinstance(value, float):
        value = f"{value:g}"
    return f"{name.replace('_', ' ')} {Path(str(value)).name}"


def caption(runs: list[Run], protocol: str, differing: list[str]) -> str:
    """How these numbers came about: what a reader needs to compare them with others."""
    first = min(runs, key=lambda run: run.method == "roberta")
    settings, defaults = first.settings, vars(make_parser().parse_args(["--dataset", ""]))
    named = MAIN_SETTINGS + tuple(
        name
        for name, value in training(first).items()
        if name not in MAIN_SETTINGS and (name in differing or value != defaults.get(name))
    )
    roberta = {
        ", of RoBERTa "
        + ", ".join(shown(name, run.settings[name]) for name in ("encoder", "pooling"))
        for run in runs
        if run.method == "roberta"
    }
    seeds = ", ".join(map(str, sorted({run.seed for run in runs})))
    draws = {draw_of(run) for run in runs}
    on = (
        "on one draw of the training texts"
        if len(draws) == 1
        else (f"on {len(draws)} draws of the training texts (--data_seed)")
    )
    return (
        "Mean ± standard deviation over seeds, in brackets how many; best bold, second "
        f"underlined. Seeds {seeds}, {on}. Protocol {protocol}: "
        f"{results.PROTOCOLS[protocol]}. "
        "Settings: "
        + ", ".join(shown(name, settings.get(name)) for name in named)
        + "".join(sorted(roberta))
        + "."
        + "".join(sorted(set(map(cut_of, runs))))
        + "".join(sorted(set(map(language_model, runs))))
    )


def cut_of(run: Run) -> str:
    """How the run's data set was cut, where it was."""
    parser = make_parser()
    own = [
        shown(name, run.settings[name])
        for name in names_of(Role.DATA)
        if run.settings[name] != parser.get_default(name)
    ]
    return f" {title(run.dataset)}: {', '.join(own)}." if own else ""


def language_model(run: Run) -> str:
    """What a language model has in place of the settings of encoders."""
    if run.method not in TABLE_3[0]:
        return ""
    own = {name: run.settings[name] for name in ("base_model", "base_type") if name in run.settings}
    values = [shown(*item) for item in (own | run.settings["constants"]).items()]
    return f" {NAMES[run.method]}: {', '.join(values)}."


PAPER_NOTE = " Columns “paper”: the paper's own numbers, with BERT-base, for reference."
TIME_NOTE = (
    " Seconds of a run, training and evaluation, without tokenising and second views; "
    "fewest bold. They depend on the machine and on what else it did."
)


def other_row(run: Run) -> str:
    return setting_name(run) + (f", {noise_name(run.noise)}" if run.noise > 0 else "")


def setting_name(run: Run) -> str:
    """The method with what is not its default."""
    changed = [shown(name, value) for name, value in sorted(run.changed.items())]
    if run.augment != "word_substitution":
        changed.append(shown("augment", run.augment))
    return ", ".join([NAMES.get(run.method, run.method), *changed])


def other_order(run: Run) -> tuple:
    """By method, then by what is changed: values meet only where the names are the same."""
    order = list(NAMES).index(run.method) if run.method in NAMES else len(NAMES)
    names = sorted(run.changed)
    return order, run.method, run.augment, names, [run.changed[name] for name in names], run.noise


def noise_name(noise: float) -> str:
    return f"{100 * noise:g} % of the labels flipped"


def noise_parts(runs: list[Run]) -> list[Part]:
    """A part for each share of flipped labels and each dataset."""
    return [
        part._replace(dataset=f"{part.dataset}, {noise_name(share)}")
        for share in sorted({run.noise for run in runs})
        for part in build(
            [run for run in runs if run.noise == share],
            SECTIONS,
            attrgetter("method"),
            ("accuracy", "macro_f1"),
            {},
            {},
        )
    ]


def where_varied(runs: list[Run]) -> list[Run]:
    """Without the places that have nothing but plain runs."""
    varied = {(run.dataset, run.ir) for run in runs if not run.is_plain}
    return [run for run in runs if (run.dataset, run.ir) in varied]


def beside_language_models(runs: list[Run]) -> list[Run]:
    """The language models and SharpReCL, where there is one of the former."""
    where = {(run.dataset, run.ir) for run in runs if run.method in TABLE_3[0]}
    return [
        run
        for run in runs
        if (run.dataset, run.ir) in where and any(run.method in section for section in TABLE_3)
    ]


def tables(runs: list[Run], protocol: str, differing: list[str]) -> list[Table]:
    """All that these runs fill, and last the runs that fit none: each run is in one at least."""
    plain = [run for run in runs if run.is_plain and run.method in NAMES]
    ablated = where_varied([run for run in runs if ablation(run)])
    augmented = where_varied(
        [
            run
            for run in runs
            if run.method == "sharprecl" and not run.changed and run.ir is None and run.noise == 0
        ]
    )
    noisy = where_varied(
        [run for run in runs if run.is_plain_but_for_noise and run.method in NAMES]
    )
    varied_k = where_varied([run for run in runs if run.varies in (set(), {"k"})])
    placed = {run.folder for run in plain + ablated + augmented + varied_k + noisy}
    rest = sorted((run for run in runs if run.folder not in placed), key=other_order)

    augments = [*TABLE_A1, *sorted({run.augment for run in augmented} - set(TABLE_A1))]
    by_augment = {
        name: AUGMENTATIONS[name].title if name in AUGMENTATIONS else name.capitalize()
        for name in augments
    }
    by_k = {k: f"k = {k}" for k in sorted({run.settings["k"] for run in varied_k})}
    by_change = {row: row for row in map(other_row, rest)}
    signs, sentence = significance(plain)
    found, of_method = [], attrgetter("method")
    for name, heading, members, sections, row_of, paper, note in (
        ("table2", "All methods (Table 2)", plain, SECTIONS, of_method, PAPER_2, sentence),
        (
            "table3",
            "Large language models (Table 3)",
            beside_language_models(plain),
            TABLE_3,
            of_method,
            PAPER_2,
            "",
        ),
        ("table4", "Ablations (Table 4)", ablated, ABLATED, ablation, PAPER_4, ""),
        (
            "tableA1",
            "Augmentations (Table A.1)",
            augmented,
            (by_augment,),
            attrgetter("augment"),
            PAPER_A1,
            "",
        ),
        (
            "tableA2",
            "Hard samples a class (Table A.2)",
            varied_k,
            (by_k,),
            lambda run: run.settings["k"],
            PAPER_A2,
            "",
        ),
        ("times", "What the training time buys", plain, SECTIONS, of_method, {}, TIME_NOTE),
        ("other", "Other settings", rest, (by_change,), other_row, {}, ""),
    ):
        metrics = ("seconds" if name == "times" else "accuracy", "macro_f1")
        if members:
            parts = build(
                members, sections, row_of, metrics, paper, signs if name == "table2" else {}
            )
            if any("paper" in what for part in parts for _, what in part.columns):
                note += PAPER_NOTE
            found.append(Table(name, heading, caption(members, protocol, differing) + note, parts))
    if noisy:
        found.append(
            Table("noise", "Label noise", caption(noisy, protocol, differing), noise_parts(noisy))
        )
    return found


# ---- renderers ----


def markdown(table: Table) -> str:
    def line(cells: list[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    around = {"best": "**{}**", "second": "<ins>{}</ins>", "": "{}"}
    text = [f"### {escape.markdown(table.title)}", "", escape.markdown(table.caption)]
    for part in table.parts:
        text += [
            "",
            f"**{escape.markdown(part.dataset)}**",
            "",
            line(["", *(escape.markdown(f"{ir}, {what}") for ir, what in part.columns)]),
            "|---|" + "---:|" * len(part.columns),
        ]
        for position, section in enumerate(part.sections):
            if position > 0:
                text.append("|" + " |" * (len(part.columns) + 1))
            text += [
                line(
                    [
                        escape.markdown(name),
                        *(around[cell.mark].format(cell.text) + cell.sign for cell in cells),
                    ]
                )
                for name, cells in section
            ]
    return "\n".join(text) + "\n"


TEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "–": "--",
    "†": r"\textsuperscript{\textdagger}",
    "‡": r"\textsuperscript{\textdaggerdbl}",
    "“": "``",
    "”": "''",
}


def tex(text: str) -> str:
    """For LaTeX; an index of δ, as in "w/o δ_{CLS,CL}", becomes mathematics."""
    plain, delta, index = files.printable(" ".join(text.split())).partition("δ_")
    escaped = "".join(TEX.get(char, char) for char in plain)
    return escaped + (rf"$\delta_{{\mathrm{{{tex(index.strip('{}'))}}}}}$" if delta else "")


def latex(table: Table) -> str:
    """A table* for each dataset, shrunk to the text where it is wider."""
    return "% needs \\usepackage{booktabs,graphicx}\n" + "\n".join(
        latex_part(part, tex(f"{table.title}, {part.dataset}. {table.caption}"))
        for part in table.parts
    )


def latex_part(part: Part, text: str) -> str:
    around = {"best": r"\textbf{%s}", "second": r"\underline{%s}", "": "%s"}
    irs, rules, first = "", "", 2
    for ir, its_columns in itertools.groupby(ir for ir, _ in part.columns):
        last = first + len(list(its_columns)) - 1
        irs += rf" & \multicolumn{{{last - first + 1}}}{{c}}{{{tex(ir)}}}"
        rules += rf"\cmidrule(lr){{{first}-{last}}}"
        first = last + 1
    sections = [
        "".join(
            tex(name)
            + "".join(f" & {around[cell.mark] % tex(cell.text)}{tex(cell.sign)}" for cell in cells)
            + " \\\\\n"
            for name, cells in section
        )
        for section in part.sections
    ]
    return "\n".join(
        [
            r"\begin{table*}",
            r"\centering\footnotesize",
            rf"\caption{{{text}}}",
            r"\resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{l{'r' * len(part.columns)}}}",
            r"\toprule",
            irs + r" \\",
            rules,
            "".join(f" & {tex(what)}" for _, what in part.columns) + r" \\",
            r"\midrule",
            "\\midrule\n".join(sections) + r"\bottomrule",
            r"\end{tabular}}",
            r"\end{table*}",
            "",
        ]
    )


# ---- figures: for a column of 3.4 inches or a page of 7, with letters of 8 points ----

FONT = {"font.size": 8, "axes.titlesize": 8, "axes.spines.top": False, "axes.spines.right": False}
MARKERS = "os^vDPX<>*"  # ten, beside seven colours: the same look comes back after 70
SWEPT = {"mu": "µ", "tau": "τ"}
FIGURES = {
    ("r52", None): "fig3",
    ("ohsumed", None): "fig3",
    ("trec", 50): "figA1",
    ("dblp", 50): "figA1",
    ("biomedical", 50): "figA2",
    ("cr", 50): "figA2",
}


def sweep(runs: list[Run], place: Place, flag: str) -> dict[float, list[Run]]:
    """SharpReCL's runs by the value of this flag; {} if none but Table 4's runs vary it."""
    points = defaultdict(list)
    for run in runs:
        if (run.dataset, run.ir) == place and run.varies in (set(), {flag}):
            points[run.settings[flag]].append(run)
    is_swept = any(ablation(run) is None for members in points.values() for run in members)
    return dict(sorted(points.items())) if is_swept else {}


def draw_band(axes, points: dict[float, list[Run]], metric: str, style: str, **options) -> None:
    """A line through the means over the seeds, in a band of ± standard deviation."""
    values = [[getattr(run, metric) for run in members] for members in points.values()]
    mean = np.array([np.mean(v) for v in values])
    spread = np.array([np.std(v, ddof=1) if len(v) > 1 else 0.0 for v in values])
    (line,) = axes.plot(list(points), mean, style, markersize=3.5, linewidth=1.2, **options)
    axes.fill_between(
        list(points), mean - spread, mean + spread, color=line.get_color(), alpha=0.2, linewidth=0
    )


def draw_sweeps(where: list[Place], runs: list[Run]):
    """A row for each place, µ left and τ right."""
    figure, grid = plt.subplots(
        len(where), 2, figsize=(3.4, 0.4 + 1.5 * len(where)), squeeze=False, layout="constrained"
    )
    for (place, flag), axes in zip(itertools.product(where, SWEPT), grid.flat):
        points = sweep(runs, place, flag)
        axes.set_visible(bool(points))
        for metric, colour, style in (
            ("accuracy", figures.TOL[0], "o-"),
            ("macro_f1", figures.TOL[1], "s--"),
        ):
            draw_band(axes, points, metric, style, color=colour, label=METRICS[metric][0])
        axes.set(
            xlabel=SWEPT[flag],
            ylabel="%",
            title=f"{figures.drawn_name(title(place[0]))}, {ir_name(place[1])}",
        )
    figure.legend(handles=axes.lines, loc="outside lower center", ncols=2, frameon=False)
    return figure


Panel = dict[str, dict[float, list[Run]]]  # runs by setting and by what stands below the panel


def by_panel(
    runs: list[Run], title_of: Callable[[Run], str], x_of: Callable[[Run], float], fewest: int
) -> dict[str, Panel]:
    """Those with at least so many values of x, by their titles; a setting has two at least."""
    found = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for run in sorted(runs, key=lambda run: (other_order(run), x_of(run))):
        found[title_of(run)][setting_name(run)][x_of(run)].append(run)
    panels = {
        name: {setting: points for setting, points in panel.items() if len(points) > 1}
        for name, panel in sorted(found.items())
    }
    return {
        name: panel for name, panel in panels.items() if len(set().union(*panel.values())) >= fewest
    }


def draw_panels(found: dict[str, Panel], xlabel: str, scale: str):
    """Macro-F1 of each setting, a panel beside the other; a setting looks the same in all."""
    figure, grid = plt.subplots(
        1,
        len(found),
        figsize=(max(3.4, 2.3 * len(found)), 2.8),
        squeeze=False,
        layout="constrained",
        sharey=True,
    )
    lines = {}
    settings = list(dict.fromkeys(itertools.chain.from_iterable(found.values())))
    for axes, (name, panel) in zip(grid[0], found.items()):
        for setting, points in panel.items():
            i = settings.index(setting)
            draw_band(
                axes,
                points,
                "macro_f1",
                f"{MARKERS[i % len(MARKERS)]}-",
                color=figures.TOL[i % 7],
                label=setting,
            )
            lines[setting] = axes.lines[-1]
        axes.set(xlabel=xlabel, xscale=scale, title=figures.drawn_name(name))
        ticks = sorted(set().union(*panel.values()))
        axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
        axes.minorticks_off()
    grid[0][0].set_ylabel("macro-F1")
    figure.legend(
        handles=lines.values(), loc="outside lower center", frameon=False, ncols=len(found)
    )
    return figure


def draw_tsne(runs: list[Run]):
    """A panel for each run; a class has the same colour and marker in all, and one legend."""
    panels = [figures.read_points(run.folder / "tsne.csv") for run in runs]
    labels = sorted(set().union(*panels))
    figure, grid = plt.subplots(
        1, len(runs), figsize=(7, 2.6 + 0.03 * len(labels)), squeeze=False, layout="constrained"
    )
    for axes, run, points in zip(grid[0], runs, panels):
        for i, label in enumerate(labels):
            axes.scatter(
                *np.reshape(points[label], (-1, 2)).T,
                s=8,
                linewidths=0,
                color=figures.TOL[i % 7],
                marker=MARKERS[i % len(MARKERS)],
                label=figures.drawn_name(label),
            )
        axes.set(xticks=[], yticks=[], title=NAMES[run.method])
    if len(labels) <= figures.MOST_NAMED:
        figure.legend(
            handles=grid[0][0].collections,
            loc="outside lower center",
            frameon=False,
            ncols=min(len(labels), 6),
            markerscale=1.6,
        )
    return figure


def file_name(dataset: str, ir: float | None) -> str:
    return re.sub(r"[^\w.-]", "-", f"{dataset}_{ir_name(ir).replace(' ', '')}")


def draw(runs: list[Run]) -> dict:
    """
    {name of its files: a figure} for Figures 3, 4, A.1 and A.2, and the like on other data; and for
    macro-F1 against three or more imbalance ratios, and against two or more shares of label noise.
    """
    swept, drawings = defaultdict(list), {}
    for dataset, ir in places(runs):
        name = file_name(dataset, ir)
        if any(sweep(runs, (dataset, ir), flag) for flag in SWEPT):
            swept[FIGURES.get((dataset, ir), f"fig_mu_tau_{name}")].append((dataset, ir))
        panels = [
            run
            for method in ("sclce", "spcl", "sharprecl")
            for run in runs
            if (run.dataset, run.ir, run.method, run.seed) == (dataset, ir, method, 0)
            and run.is_plain
            and (run.folder / "tsne.csv").exists()
        ]
        if panels:
            is_the_papers = (dataset, ir) == ("trec", 50)
            drawings["fig4" if is_the_papers else f"fig_tsne_{name}"] = draw_tsne(panels)
    by_ir = by_panel(
        [run for run in runs if run.noise == 0 and run.ir is not None],
        lambda run: title(run.dataset),
        attrgetter("ir"),
        fewest=3,
    )
    by_noise = by_panel(
        runs, lambda run: f"{title(run.dataset)}, {ir_name(run.ir)}", attrgetter("noise"), fewest=2
    )
    if by_ir:
        drawings["fig_ir"] = draw_panels(by_ir, "imbalance ratio", "log")
    if by_noise:
        drawings["fig_noise"] = draw_panels(by_noise, "share of labels flipped", "linear")
    return drawings | {name: draw_sweeps(rows, runs) for name, rows in swept.items()}


def draw_class_sizes(runs: list[Run]) -> dict:
    """Figure 1, of Ohsumed as it is where it is among the runs; {} where only numbers are kept."""
    whole = [run for run in runs if (run.folder / "data_report.json").exists()]
    if not whole:
        print("note: Figure 1 is left out: no run has a data_report.json", file=sys.stderr)
        return {}
    paper = [run for run in whole if (run.dataset, run.ir) == ("ohsumed", None)]
    run = (paper or whole)[0]
    summary = files.read_json(run.folder / "data_report.json")
    counts, names = zip(*((row["train"], row["label"]) for row in summary["classes"]))
    heading = f"{title(run.dataset)}, ir = {summary['ir']:.1f}"
    name = "fig1" if paper else f"fig1_{file_name(run.dataset, run.ir)}"
    return {name: figures.label_distribution(counts, names, heading)}


def write_figures(runs: list[Run], output_dir: Path, suffix: str) -> None:
    """Each as .png and .pdf."""
    with plt.rc_context(FONT):
        drawings = draw(runs) | draw_class_sizes(runs)
    for name, figure in drawings.items():
        for kind in (".png", ".pdf"):
            figures.save_figure(figure, output_dir / f"{name}{suffix}{kind}")


# ---- the command line ----


def report(folder: Path, protocol: str, output_dir: Path | None) -> None:
    """The tables of each group of runs: written, with the figures, if it has a folder; printed."""
    groups, printed = group(load(folder, protocol)), []
    own_flags = names_of(Role.SHARED, Role.TRAINING, Role.DATA)
    values = [
        {name: value for name, value in members[0].settings.items() if name in own_flags}
        for members in groups
    ]
    differing = [
        name
        for name in {name: None for value in values for name in value}
        if len({json.dumps(value.get(name)) for value in values}) > 1
    ]
    for number, (runs, own) in enumerate(zip(groups, values), start=1):
        suffix = "" if number == 1 else f"_{number}"
        if len(groups) > 1:
            printed.append(
                f"## Settings {number} of {len(groups)}: "
                + escape.markdown(", ".join(shown(name, own.get(name)) for name in differing))
                + "\n"
            )
        for table in tables(runs, protocol, differing):
            printed.append(markdown(table))
            if output_dir is not None:
                files.write_text(output_dir / f"{table.name}{suffix}.md", markdown(table))
                files.write_text(output_dir / f"{table.name}{suffix}.tex", latex(table))
        if output_dir is not None:
            write_figures(runs, output_dir, suffix)
    print("\n".join(printed))

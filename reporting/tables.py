"""
Makes the paper's tables and figures from the results of many runs.

Runs with different training settings are never in one table: each set of settings has its own.
"""

import itertools
import json
import math
import re
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import jinja2
import pandas as pd

import data
from augment import AUGMENTATIONS
from baselines import GROUPS, METHODS, titles
from engine import escape, files, results
from engine.arguments import ABLATIONS, DEFAULTS, Role, names_of
from engine.files import InputError
from engine.results import epoch_under
from reporting import figures
from reporting.runs import NAMES, SECOND_VIEW, frame, holm, in_words, mean_text, paired_p, records

DATASETS = {
    name: known.title for name, known in data.DATASETS.items() if known.paper_irs is not None
}

Place = tuple[str, str]  # a dataset and its ir in words, "original" as it is
Key = tuple[str, str, str]  # a place and a row of a table
Sections = tuple[dict, ...]  # of rows, {key of a run: name of the row}; a rule separates them

# The paper's own numbers, with BERT-base; for Tables 2 and 3 only those of SharpReCL.
PAPER = pd.read_csv(Path(__file__).with_name("paper.csv"), index_col=[0, 1, 2, 3]).numbers


def of_paper(table: str) -> dict[Key, str]:
    """{(dataset, place, row): "accuracy / macro-F1", or in Table A.2 only the accuracy}"""
    return PAPER[table].to_dict()


# ---- rows and columns ----

SECTIONS = tuple(titles(group) for group in GROUPS)
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
METRICS = {"accuracy": "accuracy", "macro_f1": "macro-F1"}  # their headings
NO_ENCODER = [name for name, entry in METHODS.items() if not entry.has_encoder]
MAIN_SETTINGS = ("encoder", "pooling", "epochs", "batch_size", "lr", "schedule", "amp")


class Cell(NamedTuple):
    text: str
    mark: str = ""  # "best" or "second" of its column, else ""
    sign: str = ""  # † or ‡ if the difference is significant


class Part(NamedTuple):
    """The table of one dataset."""

    dataset: str
    columns: list[tuple[str, str]]  # the ir and the metric
    sections: list[list[tuple[str, tuple[Cell, ...]]]]  # of rows: label and cells


class Table(NamedTuple):
    name: str  # of its files
    title: str
    caption: str
    parts: list[Part]


# ---- runs ----


def load_runs(source: Path, protocol: str) -> pd.DataFrame:
    """
    The finished runs of a folder or a ledger that have this protocol, as in runs.frame(), with
    is_plain (only the method differs from the default), varies (changed flags of SharpReCL; None
    unless it is SharpReCL with the default second view and no flipped labels), and ablation (the
    row of Table 4, else None).
    """
    found = records(source)
    kept = [record for record in found if "test" in epoch_under(record["epochs"], protocol)]
    without = len(found) - len(kept)
    if not found:
        raise InputError(
            f"{source}: no finished run; give the --output_dir of main.py, by default runs (the "
            "command of a run that is not finished, given again, goes on)"
        )
    if not kept:
        raise InputError(
            f"{source}: none of the {without} finished runs has test texts and a result under "
            f"{protocol}; leave --protocol out, or train with test texts, and with --val_fraction "
            "0.1 for best_val"
        )
    if without:
        print(f"note: {without} runs have no test of {protocol}, and are left out", file=sys.stderr)
    runs = frame(kept, protocol)
    as_paper = (runs.augment == SECOND_VIEW) & (runs.noise == 0)
    runs["is_plain"] = as_paper & (runs.changed.map(len) == 0) & runs.method.isin(NAMES)
    is_ours = as_paper & (runs.method == "sharprecl")
    runs["varies"] = [set(own) if ours else None for own, ours in zip(runs.changed, is_ours)]
    runs["ablation"] = [ablation(*run) for run in zip(runs.varies, runs.settings)]
    return runs


def ablation(varies: set[str] | None, settings: dict) -> str | None:
    """The ablation of a run, by its settings: `varies` lacks what it sets to a default."""
    if not varies:
        return None if varies is None else "sharprecl"
    rows = (
        name
        for name, flags in ABLATIONS.items()
        if varies <= set(flags) and all(settings[flag] == value for flag, value in flags.items())
    )
    return next(rows, None)


def chosen(settings: dict, *roles: Role) -> dict:
    """The settings of flags that have these roles."""
    return {name: settings[name] for name in names_of(*roles) if name in settings}


def group(runs: pd.DataFrame) -> list[pd.DataFrame]:
    """
    Groups of runs with the same training settings, the largest first. RoBERTa has its own encoder:
    its runs belong to each group with which they share all other settings.
    """
    cuts = runs.settings.map(lambda own: json.dumps(chosen(own, Role.DATA)))
    is_varied = cuts.groupby(runs.dataset).transform("nunique") > 1  # one data set at several sizes

    def keys(*left_out: str) -> pd.Series:
        shared = (chosen(own, Role.SHARED, Role.TRAINING) for own in runs.settings)
        texts = [
            json.dumps({name: own[name] for name in sorted(own) if name not in left_out})
            for own in shared
        ]
        return texts + cuts.where(is_varied, "")

    found, own_keys = [], keys()
    for _, same in runs.groupby(keys("encoder", "pooling"), sort=False):
        is_guest = same.method == "roberta"
        is_guest &= not is_guest.all()
        for _, own in same[~is_guest].groupby(own_keys, sort=False):
            found.append(same[is_guest | same.index.isin(own.index)])
    return sorted(found, key=len, reverse=True)


def check_cells(runs: pd.DataFrame) -> None:
    """InputError if a cell of a table has two runs with one seed, or runs on different data."""
    cell = ["dataset", "place", "row"]
    is_twin = runs.duplicated([*cell, "seed"], keep=False)
    is_mixed = runs.groupby([*cell, "data_seed"]).data_hash.transform("nunique") > 1
    same = runs[is_twin | is_mixed].sort_values([*cell, "seed"], kind="stable")
    if len(same):
        first, second = same.folder[:2]
        raise InputError(
            f"{first} and {second} are the same cell of a table, with the same seed or with data "
            "that are not the same: leave one of them out"
        )


def places(runs: pd.DataFrame) -> list[Place]:
    """The datasets and places of these runs: the paper's first, original before 50, 20, 10."""
    order = {name: number for number, name in enumerate(DATASETS)}
    found = runs.drop_duplicates(["dataset", "place"])
    found = found.assign(order=found.dataset.map(order), ir=found.ir.fillna(math.inf))
    found = found.sort_values(["order", "dataset", "ir"], ascending=[True, True, False])
    return list(zip(found.dataset, found.place))


# ---- significance ----


def significance(runs: pd.DataFrame) -> tuple[dict[tuple[Key, str], str], str]:
    """{(cell, metric): † or ‡} of SharpReCL's rivals, and the sentence for the caption."""
    is_ours, keys = runs.method == "sharprecl", ["dataset", "place", "seed"]
    both = runs[~is_ours].merge(runs[is_ours], on=keys, suffixes=("_rival", "")).sort_values("seed")
    cells = both.groupby(["dataset", "place", "method_rival"])
    pairs, signs = {key: pair for key, pair in cells if len(pair) > 1}, {}
    if not pairs:
        return {}, " No significance test: no rival shares 2 seeds with SharpReCL."
    for metric in METRICS:
        values = [(own[metric].to_numpy(), own[f"{metric}_rival"]) for own in pairs.values()]
        adjusted = holm(paired_p(*value) for value in values)
        for key, (one, other), p in zip(pairs, values, adjusted):
            if p < 0.05:
                signs[key, metric] = "†" if one.mean() > other.mean() else "‡"
    fewest = min(map(len, pairs.values()))
    return signs, (
        " † SharpReCL is significantly better, ‡ significantly worse than this cell at 5 %: paired "
        "two-sided t-test over shared seeds, Holm-corrected; comparisons of each metric: "
        f"{len(pairs)}." + (f" With {fewest} seeds such a test says little." if fewest < 5 else "")
    )


# ---- tables ----


def ranked(means: list[float | None]) -> list[str]:
    """The marks of a column: "best", "second" or ""; ties share a mark, a single value has none."""
    places = pd.Series(means, dtype=float).rank(method="dense", ascending=False)
    names = {1: "best", 2: "second"} if places.count() > 1 else {}
    return [names.get(place, "") for place in places]


def column(cells: list[pd.Series | None], signs: list[str]) -> list[Cell]:
    """A cell for each list of numbers: mean ± standard deviation (number of seeds)."""
    texts = ["–" if own is None else f"{mean_text(own, 2)} ({len(own)})" for own in cells]
    means = [None if text == "–" else float(text.split()[0]) for text in texts]  # as printed
    return [Cell(*cell) for cell in zip(texts, ranked(means), signs)]


def build(
    runs: pd.DataFrame, sections: Sections, paper: dict[Key, str], signs: dict[tuple[Key, str], str]
) -> list[Part]:
    """
    A part for each dataset, with the rows that have a run; for each place a column per metric, and
    one for the paper's numbers if there are any. The column "row" of the runs has their row.
    """
    check_cells(runs)
    cells = dict(list(runs.groupby(["dataset", "place", "row"])))
    parts = []
    for dataset, its_places in itertools.groupby(places(runs), key=lambda place: place[0]):
        used = {row for other, _, row in cells if other == dataset}
        kept = [{row: name for row, name in section.items() if row in used} for section in sections]
        headings, columns = [], []
        for _, place in its_places:
            keys = [(dataset, place, row) for section in kept for row in section]
            for metric, heading in METRICS.items():
                headings.append((place, heading))
                numbers = [cells[key][metric] if key in cells else None for key in keys]
                own = [signs.get((key, metric), "") for key in keys]
                columns.append(column(numbers, own))
            theirs = [Cell(paper.get(key, "")) for key in keys]
            if any(cell.text for cell in theirs):
                has_f1 = any("/" in cell.text for cell in theirs)
                headings.append((place, "paper: acc / F1" if has_f1 else "paper: acc"))
                columns.append(theirs)
        lines = zip(*columns)
        rows = [[(name, next(lines)) for name in own.values()] for own in kept if own]
        parts.append(Part(title(dataset), headings, rows))
    return parts


def title(dataset: str) -> str:
    return DATASETS.get(dataset, dataset)


def caption(runs: pd.DataFrame, protocol: str, differing: list[str]) -> str:
    """The caption: how the numbers were made, so that a reader can compare them with others."""
    # the settings of a method with the table's encoder, else those of RoBERTa, else of the others
    order = runs.method.map(lambda name: 2 if name in NO_ENCODER else int(name == "roberta"))
    settings, guests = runs.settings[order.idxmin()], runs.settings[runs.method == "roberta"]
    roles = [Role.SHARED] if order.min() == 2 else [Role.SHARED, Role.TRAINING]
    own = chosen(settings, *roles)
    changed = [name for name in own if name in differing or own[name] != DEFAULTS.get(name)]
    named = [name for name in dict.fromkeys([*MAIN_SETTINGS, *changed]) if name in own]
    encoders = {f", of RoBERTa {in_words_of(own, ('encoder', 'pooling'))}" for own in guests}
    draws = runs.data_seed.nunique()
    drawn = f"{draws} draws of the training texts (--data_seed)"
    return (
        "Mean ± standard deviation over seeds, in brackets how many; best bold, second underlined. "
        f"Seeds {', '.join(map(str, sorted(set(runs.seed))))}, on "
        f"{drawn if draws > 1 else 'one draw of the training texts'}. Protocol {protocol}: "
        f"{results.PROTOCOLS[protocol]}. Settings: {in_words_of(own, named) or 'no encoder'}"
        + "".join(sorted(encoders))
        + "."
        + "".join(sorted(set(map(cut_of, runs.itertuples()))))
        + "".join(sorted(set(map(language_model, runs.itertuples()))))
    )


def in_words_of(settings: dict, names: Iterable[str]) -> str:
    return ", ".join(in_words(name, settings.get(name)) for name in names)


def all_words(name: str, runs: pd.DataFrame) -> str:
    """The values of a setting, of the runs that look at it: "val fraction 0 / val fraction 0.2"."""
    seen = runs.settings[~(runs.method.isin(NO_ENCODER) & (name in names_of(Role.TRAINING)))]
    return " / ".join(dict.fromkeys(in_words(name, own.get(name)) for own in seen))


def cut_of(run) -> str:
    """How the run's data set was cut, or ""."""
    own = chosen(run.settings, Role.DATA)
    changed = [name for name, value in own.items() if value != DEFAULTS[name]]
    return f" {title(run.dataset)}: {in_words_of(own, changed)}." if changed else ""


def language_model(run) -> str:
    """The settings of a language model, which has none of an encoder."""
    if run.method not in TABLE_3[0]:
        return ""
    own = {name: run.settings[name] for name in ("base_model", "base_type") if name in run.settings}
    own |= run.settings["constants"]
    own |= {"max_length": run.settings["max_length"]} if "base_type" in own else {}
    return f" {NAMES[run.method]}: {in_words_of(own, own)}."


PAPER_NOTE = " Columns “paper”: the paper's own numbers, with BERT-base, for reference."


def other_order(run) -> tuple:
    """The sort key: method, then changed settings; values are compared only for equal names."""
    order = list(NAMES).index(run.method) if run.method in NAMES else len(NAMES)
    names = sorted(run.changed)
    return order, run.method, run.augment, names, [run.changed[name] for name in names], run.noise


def ordered(runs: pd.DataFrame) -> pd.DataFrame:
    keys = [other_order(run) for run in runs.itertuples()]
    return runs.iloc[sorted(range(len(runs)), key=keys.__getitem__)]


def where(runs: pd.DataFrame, varied: pd.Series) -> pd.DataFrame:
    """The runs at the places that have a varied run."""
    at = varied.groupby([runs.dataset, runs.place]).transform("any") if len(runs) else varied
    return runs[at.astype(bool)]


class Members(NamedTuple):
    """The runs of one table of the paper, and its layout."""

    name: str
    title: str
    runs: pd.DataFrame  # the column "row" has their row
    sections: Sections
    paper: dict[Key, str]
    note: str = ""


def members(runs: pd.DataFrame, signed: str) -> list[Members]:
    """The tables that a run may be in; signed is the sentence on the test in Table 2's caption."""
    plain = runs[runs.is_plain].assign(row=lambda own: own.method)
    large = plain[plain.method.isin([name for section in TABLE_3 for name in section])]
    ablated = runs[runs.ablation.notna()].assign(row=lambda own: own.ablation)
    is_ours = (runs.method == "sharprecl") & (runs.changed.map(len) == 0) & (runs.noise == 0)
    augmented = runs[is_ours & runs.ir.isna()].assign(row=lambda own: own.augment)
    by_k = runs[[own is not None and own <= {"k"} for own in runs.varies]]
    by_k = by_k.assign(row=[str(own["k"]) for own in by_k.settings])

    large = where(large, large.method.isin(TABLE_3[0]))
    ablated, augmented, by_k = (where(own, ~own.is_plain) for own in (ablated, augmented, by_k))
    augments = [row for *_, row in of_paper("A1")] + sorted(set(augmented.row))
    of_augment = {
        name: AUGMENTATIONS[name].title if name in AUGMENTATIONS else name.capitalize()
        for name in dict.fromkeys(augments)
    }
    of_k = {k: f"k = {k}" for k in sorted(set(by_k.row), key=int)}
    return [
        Members("table2", "All methods (Table 2)", plain, SECTIONS, of_paper("2"), signed),
        Members("table3", "Large language models (Table 3)", large, TABLE_3, of_paper("2")),
        Members("table4", "Ablations (Table 4)", ablated, ABLATED, of_paper("4")),
        Members("tableA1", "Augmentations (Table A.1)", augmented, (of_augment,), of_paper("A1")),
        Members("tableA2", "Hard samples a class (Table A.2)", by_k, (of_k,), of_paper("A2")),
    ]


def tables(runs: pd.DataFrame, protocol: str, differing: list[str]) -> list[Table]:
    """All tables of these runs, and last one with the other runs: each run is in at least one."""
    signs, sentence = significance(runs[runs.is_plain])
    own = members(runs, sentence)
    placed = {index for one in own for index in one.runs.index}
    rest = ordered(runs.drop(index=list(placed)))
    rest["row"] = rest.label
    of_rest = ({row: row for row in rest.row},)
    found = []
    for one in [*own, Members("other", "Other settings", rest, of_rest, {})]:
        if len(one.runs):
            parts = build(one.runs, one.sections, one.paper, signs if one.name == "table2" else {})
            has_paper = any("paper" in what for part in parts for _, what in part.columns)
            text = caption(one.runs, protocol, differing) + one.note + PAPER_NOTE * has_paper
            found.append(Table(one.name, one.title, text, parts))
    return found


# ---- renderers ----


TEX = {char: f"\\{char}" for char in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
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
    """Escapes text for LaTeX; an index of δ, as in "w/o δ_{CLS,CL}", becomes mathematics."""
    plain, delta, index = files.printable(" ".join(text.split())).partition("δ_")
    escaped = "".join(TEX.get(char, char) for char in plain)
    return escaped + (rf"$\delta_{{\mathrm{{{tex(index.strip('{}'))}}}}}$" if delta else "")


def rendered(table: Table, ending: str) -> str:
    """
    The table as Markdown (md), or as LaTeX (tex) with a table* for each dataset, which shrinks to
    the text width if it is wider.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        block_start_string="<%",
        block_end_string="%>",
        variable_start_string="<<",
        variable_end_string=">>",
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"md": escape.markdown, "tex": tex, "widths": widths}
    return environment.get_template(f"table.{ending}").render(table=table)


def widths(columns: list[tuple[str, str]]) -> list[tuple[str, int, int]]:
    """Each ir with the first and the last column of the table that it stands above."""
    irs = [ir for ir, _ in columns]
    return [(ir, irs.index(ir) + 2, irs.index(ir) + 1 + irs.count(ir)) for ir in dict.fromkeys(irs)]


# ---- figures ----

SWEPT = {"mu": "µ", "tau": "τ"}
FIGURES = {
    **dict.fromkeys([("r52", "original"), ("ohsumed", "original")], "fig3"),
    **dict.fromkeys([("trec", "ir 50"), ("dblp", "ir 50")], "figA1"),
    **dict.fromkeys([("biomedical", "ir 50"), ("cr", "ir 50")], "figA2"),
}


def at(runs: pd.DataFrame, place: Place) -> pd.DataFrame:
    return runs[(runs.dataset == place[0]) & (runs.place == place[1])]


def sweep(runs: pd.DataFrame, place: Place, flag: str) -> pd.DataFrame:
    """SharpReCL's runs with the flag's values in "x"; none if only ablations of Table 4 vary it."""
    own = at(runs, place)
    own = own[[varies is not None and varies <= {flag} for varies in own.varies]]
    own = own.assign(x=[settings[flag] for settings in own.settings])
    return own if own.ablation.isna().any() else own.iloc[:0]


def draw_sweeps(where: list[Place], runs: pd.DataFrame):
    """A row for each place, µ left and τ right."""
    panels = []
    for place, flag in itertools.product(where, SWEPT):
        own = sweep(runs, place, flag)
        lines = {heading: figures.line(own.x, own[m]) for m, heading in METRICS.items()}
        panels.append((f"{title(place[0])}, {place[1]}", SWEPT[flag], lines if len(own) else {}))
    return figures.line_grid(panels)


def draw_tsne(runs: pd.DataFrame):
    """A panel for each run."""
    points = [figures.read_points(Path(folder) / "tsne.csv") for folder in runs.folder]
    names = sorted(set(pd.concat(points).label))
    panels = dict(zip(runs.method.map(NAMES), points))
    return figures.draw_tsne(panels, names, points[0].iloc[:0])


def file_name(place: Place) -> str:
    return re.sub(r"[^\w.-]", "-", f"{place[0]}_{place[1].replace(' ', '')}")


def draw(runs: pd.DataFrame) -> dict:
    """
    {file name: figure} for Figures 3, 4, A.1 and A.2 and similar ones on other data.
    """
    swept, drawings = defaultdict(list), {}
    for place in places(runs):
        name = file_name(place)
        if any(len(sweep(runs, place, flag)) for flag in SWEPT):
            swept[FIGURES.get(place, f"fig_mu_tau_{name}")].append(place)
        own = at(runs[runs.is_plain & (runs.seed == 0)], place).set_index("method", drop=False)
        own = own.loc[[method for method in ("sclce", "spcl", "sharprecl") if method in own.index]]
        own = own[[(Path(folder) / "tsne.csv").exists() for folder in own.folder]]
        if len(own):
            drawings["fig4" if place == ("trec", "ir 50") else f"fig_tsne_{name}"] = draw_tsne(own)
    return drawings | {name: draw_sweeps(rows, runs) for name, rows in swept.items()}


def draw_class_sizes(runs: pd.DataFrame) -> dict:
    """Figure 1, of Ohsumed if it is among the runs; {} if no run has a data_report.json."""
    whole = runs[[(Path(folder) / "data_report.json").exists() for folder in runs.folder]]
    if whole.empty:
        print("note: Figure 1 is left out: no run has a data_report.json", file=sys.stderr)
        return {}
    paper = at(whole, ("ohsumed", "original"))
    run = (paper if len(paper) else whole).iloc[0]
    name = "fig1" if len(paper) else f"fig1_{file_name((run.dataset, run.place))}"
    return {name: figures.class_sizes(Path(run.folder))}


def write_figures(runs: pd.DataFrame, output_dir: Path, suffix: str) -> None:
    """Writes each figure as .png and .pdf."""
    for name, figure in (draw(runs) | draw_class_sizes(runs)).items():
        for kind in (".png", ".pdf"):
            figures.save_figure(figure, output_dir / f"{name}{suffix}{kind}")


# ---- the command line ----


def report(source: Path, protocol: str, output_dir: Path | None) -> None:
    """Prints the tables of each group of runs; with output_dir also writes them and the figures."""
    groups, printed = group(load_runs(source, protocol)), []
    names = names_of(Role.SHARED, Role.TRAINING, Role.DATA)
    values = [{name: all_words(name, members) for name in names} for members in groups]
    differing = [name for name in names if len({value[name] for value in values} - {""}) > 1]
    for number, (runs, own) in enumerate(zip(groups, values), start=1):
        suffix = "" if number == 1 else f"_{number}"
        if len(groups) > 1:
            words = ", ".join(own[name] for name in differing if own[name])
            named = escape.markdown(words or own["encoder"] or "no encoder")
            printed.append(f"## Settings {number} of {len(groups)}: {named}\n")
        for table in tables(runs, protocol, differing):
            printed.append(rendered(table, "md"))
            if output_dir is not None:
                files.write_text(output_dir / f"{table.name}{suffix}.md", printed[-1])
                files.write_text(output_dir / f"{table.name}{suffix}.tex", rendered(table, "tex"))
        if output_dir is not None:
            write_figures(runs, output_dir, suffix)
    print("\n".join(printed))

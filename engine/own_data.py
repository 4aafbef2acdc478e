"""
Reads own data: the training, test and validation part, from a file, a folder or the hub.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import NamedTuple

from data import Corpus, InputError, Rows, sort_labels, to_corpus
from engine.formats import ENDINGS, Row, Table, arrow_table, needing, short
from engine.reading import (
    candidates,
    field_of,
    find_column,
    find_columns,
    form_of,
    joined_text,
    label_of,
    open_table,
)

Opener = Callable[..., AbstractContextManager[Table]]
Tables = list[Opener]  # to be opened one after the other


class Parts(NamedTuple):
    """The rows of each part, None if there is no such part, and the notes to print."""

    train: Rows
    test: Rows | None
    val: Rows | None
    notes: list[str]
    groups: list[str]  # of each training row, if --group_column is given


def read_own(
    dataset: str,
    texts: list[str],
    label: str,
    drop_unlabelled: bool = False,
    read: list[str] | None = None,
    group: str | None = None,
) -> Parts:
    """
    Reads a file, a folder with files for each part or with a folder of .txt files for each class, a
    folder of datasets' save_to_disk, or hf:NAME[:CONFIG]. `read` has the options of --read, `group`
    the column of the groups. A test or validation part without any label, such as a competition's
    test file, is left out with a note. InputError if a file has no text, or if rows have no label
    and are not to be dropped.
    """
    notes: list[str] = []
    opened = partial(open_table, read=read, texts=texts, label=label)
    parts: dict[str, Rows] = {}
    no_label = {None, "-1"}
    for part, tables in tables_of(dataset, opened, notes).items():
        is_train = part == "train"
        rows, its_groups, unlabelled = read_part(tables, texts, label, group, is_train, notes)
        labels = {name for _, name in rows}
        if is_train:
            groups = its_groups
            no_label -= labels - {None}
            notes += check_one_class(dataset, {name for name in labels if name})
        elif labels <= no_label:
            notes.append(f"{dataset}: no {part} row has a label, so this part is left out")
            continue
        if unlabelled and not drop_unlabelled:
            raise InputError(
                f"{unlabelled}: the label is empty; fill it in, or leave such rows out with "
                "--drop_unlabelled"
            )
        parts[part] = rows
    return Parts(parts["train"], parts.get("test"), parts.get("val"), notes, groups)


def read_part(
    tables: Tables,
    texts: list[str],
    label: str,
    group: str | None,
    is_train: bool,
    notes: list[str],
) -> tuple[Rows, list[str], str]:
    """
    Returns text and label of every row of a part; the group of each training row, or its place if
    it has no group; and the place of the first row with a text but no label, "" if there is none.
    """
    rows: list[tuple[str, str | None]] = []
    groups: list[str] = []
    unlabelled = ""
    for opened in tables:
        with opened() as table:
            has_label = is_train or candidates(table.columns, label, "label")
            found, its_label = find_columns(table, texts, label if has_label else None)
            its_group = group and is_train and find_column(table, group, "group")
            before = len(rows)
            for where, row in table.rows:
                text = joined_text(where, row, found)
                name = label_of(where, row, its_label) if its_label else None
                if name is None and text.strip():
                    unlabelled = unlabelled or where
                rows.append((text, name))
                if its_group:
                    value = field_of(where, row, its_group)  # 0 is a group, too
                    groups.append(("" if value is None else str(value).strip()) or where)
            notes += table.notes
            if not any(text.strip() for text, _ in rows[before:]):
                raise InputError(
                    f"{table.name}: no row with a text in the column {short(found)}; its columns "
                    f"are {short(table.columns)}; name yours with --text_column"
                )
    return rows, groups, unlabelled


def check_one_class(name: str, labels: set[str]) -> list[str]:
    """
    Returns a note if labels look like several, such as "comedy, drama". InputError if most of them
    are combinations of other labels.
    """
    parts = {label: re.split("[|;,]", label) for label in sorted(labels)}
    composed = [label for label in parts if len(parts[label]) > 1]
    known = [label for label in composed if {part.strip() for part in parts[label]} <= labels]
    if len(known) >= max(3, len(labels) / 2):
        raise InputError(
            f"{name}: labels such as {known[0]!r:.60} are several labels in one; a text has one "
            "class here: keep one of them"
        )
    named = [x for x in composed if all(re.search(r"[^\W\d]", part) for part in parts[x])]
    if not named:
        return []
    return [
        f"labels may be several in one, such as {named[0]!r:.60}: {len(named)} of them look so; "
        "each is taken as one class of its own"
    ]


def without_fraction(label: str) -> str:
    """Returns 1 for 1.0: pandas and others turn a column of integers with a gap into floats."""
    return re.sub(r"\A(-?[0-9]+)\.0+\Z", r"\1", label)


def own_corpus(
    name: str, train: Rows, test: Rows = (), val: Rows = (), notes: Sequence[str] = ()
) -> Corpus:
    """
    to_corpus() for own data: if all labels are numbers, 1.0 is called 1.

    raises  InputError as to_corpus() does, with a remedy for labels without a training text
    """
    labels = sort_labels({label for rows in (train, test, val) for _, label in rows if label})
    if all(re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", label) for label in labels):
        names = {label: whole for label in labels if (whole := without_fraction(label)) != label}
        train, test, val = (
            [(text, names.get(label or "", label)) for text, label in rows]
            for rows in (train, test, val)
        )
        for old in list(names)[:1]:
            notes = [*notes, f"all labels are numbers: the class {old} is called {names[old]}"]
    known = {label for text, label in train if text.strip()}
    for part, rows in (("test", test), ("validation", val)):
        if unseen := {label for text, label in rows if label and text.strip()} - known:
            raise InputError(
                f"{name}: no training text for the {part} labels {short(sort_labels(unseen))}; "
                "write them as in the training part, add such texts to it, or drop those rows"
            )
    return to_corpus(name, train, test, val, notes)


# ---- finding the parts ----

PARTS = {"train": "train", "test": "test"} | dict.fromkeys(
    ("validation", "valid", "val", "dev"), "val"
)
NAME = re.compile(rf"(?P<part>{'|'.join(PARTS)})(-\d+-of-(?P<of>\d+)[-\da-f]*)?(?P<end>\..*)?")


def part_named(name: str) -> re.Match | None:
    """What the name of a file, a folder or a split says of a part; None where it is none."""
    named = NAME.fullmatch(name.lower())
    return named if named and (form_of(name) or named["end"] in (None, ".zip")) else None


def tables_of(dataset: str, opened: Opener, notes: list[str]) -> dict[str, Tables]:
    """
    The tables of each part, the training part first; a note names the files that are not read.
    InputError unless there is a training part, and each part is one table or all its shards.
    """
    openers = openers_of(dataset, opened)
    found: dict[str, list[str]] = {"train": []}
    shards = {}
    for name in sorted(openers):
        if named := part_named(name):
            found.setdefault(PARTS[named["part"]], []).append(name)
            shards[name] = int(named["of"] or 1)
    is_whole = all(shards[name] == len(part) for part in found.values() for name in part)
    if not found["train"] or not is_whole:
        raise InputError(
            f"{dataset}: it has {short(shards) or 'no part'}; it needs exactly one part that is "
            "called train, and at most one called test and one called validation (or valid, val, "
            f"dev): a split, a file that ends in one of {ENDINGS}, all the shards of one, as "
            "train-00000-of-00002.parquet, a folder of tables, or a folder with a folder of texts "
            "for each class"
        )
    if others := sorted(openers.keys() - shards.keys()):
        notes.append(
            f"{dataset}: not read are {short(others)}; only files called train, test or validation "
            "(or valid, val, dev) are read"
        )
    return {
        part: [table for name in names for table in openers[name]] for part, names in found.items()
    }


def openers_of(dataset: str, opened: Opener) -> dict[str, Tables]:
    """The tables to open, by the names of their splits, files or folders."""
    path = Path(dataset)
    is_saved = any((path / name).exists() for name in ("dataset_dict.json", "state.json"))
    if dataset.startswith("hf:") or is_saved:
        splits = splits_of(dataset)
        return {name: [partial(split_table, f"{dataset}, {name}", splits[name])] for name in splits}
    if not path.is_dir():
        return {"train": [partial(opened, path)]}
    if not any((named := part_named(p.name)) and named["part"] == "train" for p in path.iterdir()):
        if texts_of(path):
            return {"train": [partial(class_table, opened, path)]}
        path = path / "data" if (path / "data").is_dir() else path  # the hub's layout
    openers: dict[str, Tables] = {}
    for file in path.glob("[!.]*"):
        if texts_of(file):
            openers[file.name] = [partial(class_table, opened, file)]
        elif file.is_file():
            openers[file.name] = [partial(opened, file)]
        elif tables := sorted(inner for inner in file.glob("[!.]*") if form_of(inner.name)):
            openers[file.name] = [partial(opened, table) for table in tables]
    return openers


def texts_of(folder: Path) -> list[Path]:
    """The files of a folder with a folder of texts for each class; [] if it has tables there."""
    files = [file for file in folder.glob("[!.]*/[!.]*") if file.is_file()]
    if any(form_of(file.name) not in ("", "txt") for file in files):
        return []
    return sorted(file for file in files if file.suffix in ("", ".txt"))


def class_table(opened: Opener, folder: Path) -> AbstractContextManager[Table]:
    """A table with a text per file and the folder's name as label; IMDb's "unsup" is no label."""
    notes: list[str] = []
    said: Counter[str] = Counter()  # each note once, for thousands may be equal

    def rows() -> Iterator[Row]:
        for file in texts_of(folder):
            text = ""
            if file.stat().st_size > 0:  # else there is no table, but an empty text
                with opened(file, "lines") as table:
                    text = "\n".join(row["text"] for _, row in table.rows)
                said.update(note.removeprefix(f"{file}: ") for note in table.notes)
            label = None if file.parent.name == "unsup" else file.parent.name
            yield str(file), {"text": text, "label": label}
        notes.extend(f"{folder}, {times} of its files: {note}" for note, times in said.items())

    return nullcontext(Table(str(folder), rows(), notes=notes))


def splits_of(dataset: str) -> dict:
    """The splits of hf:NAME[:CONFIG] or of a folder of save_to_disk; a single one is train."""
    remedy = "save it anew, or name it hf:NAME or hf:NAME:CONFIG and see that the network works"
    with needing(dataset, "datasets", remedy):
        import datasets

        if dataset.startswith("hf:"):
            name, _, config = dataset.removeprefix("hf:").partition(":")
            splits = datasets.load_dataset(name, config or None)
        else:
            splits = datasets.load_from_disk(dataset)
        return splits if isinstance(splits, dict) else {"train": splits}


def split_table(title: str, split) -> AbstractContextManager[Table]:
    """A table from a Dataset; class numbers become names."""
    inner = {column: getattr(f, "feature", f) for column, f in split.features.items()}
    classes = {column: f.names for column, f in inner.items() if hasattr(f, "names")}
    batches = split.with_format("arrow").iter(batch_size=1000)
    return nullcontext(arrow_table(title, batches, "datasets", classes))

"""
A dataset of one's own: its training, test and validation part, from a file, a folder or the hub.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

from engine.files import InputError
from engine.formats import ENDINGS, Row, Table, arrow_table, needing, short
from engine.reading import (
    ONE_CLASS,
    candidates,
    columns_shown,
    field_of,
    find_column,
    find_columns,
    form_of,
    joined_text,
    label_of,
    open_table,
)

Rows = list[tuple[str, str | None]]  # text and label, None without one
Tables = Sequence[AbstractContextManager[Table]]  # to be opened one after the other


class Parts(NamedTuple):
    """The rows of each part, None where there is no such part, and what is to be said."""

    train: Rows
    test: Rows | None
    val: Rows | None
    notes: list[str]
    groups: list[str]  # of each training row, if they were asked for


PARTS = {"train": "train", "test": "test"} | dict.fromkeys(
    ("validation", "valid", "val", "dev"), "val"
)


def read_own(
    dataset: str,
    texts: list[str],
    label: str,
    drop_unlabelled: bool = False,
    read: list[str] | None = None,
    group: str | None = None,
) -> Parts:
    """
    A file, a folder with the files of each part or a folder of .txt files for each class, a folder
    of datasets' save_to_disk, or hf:NAME[:CONFIG]. `read` are the options of --read, and `group`
    is a column whose values are to be kept.
    """
    notes: list[str] = []
    groups: list[str] = []
    opened = partial(open_table, read=read, texts=texts, label=label)
    parts: dict[str, Rows] = {}
    for part, tables in tables_of(dataset, opened, notes).items():
        column = group if part == "train" else None
        rows = read_part(tables, texts, label, column, drop_unlabelled, parts, notes, groups)
        if rows is not None:
            parts[part] = rows
    notes += check_one_class(dataset, {name for _, name in parts["train"] if name})
    return Parts(parts["train"], parts.get("test"), parts.get("val"), notes, groups)


def read_part(
    tables: Tables,
    texts: list[str],
    label: str,
    group: str | None,
    drop_unlabelled: bool,
    before: dict[str, Rows],
    notes: list[str],
    groups: list[str],
) -> Rows | None:
    """
    Text and label of every row of a part; the group of each, itself if it has none, goes to groups.
    None, with a note, where it is no training part (which was read before) and has no labels, as
    the test file of a competition. InputError where no row has a text, and where some have no
    label, unless they are to be dropped.
    """
    rows: Rows = []
    interned: dict = {}  # few labels, many rows: one string each
    unlabelled = ""  # where the first such row stands
    left_out = "so this part is left out"
    for opened in tables:
        with opened as table:
            found, _ = find_columns(table, texts)
            if before and not candidates(table.columns, label, "label"):
                notes.append(f"{table.name}: no column of labels, {left_out}")
                return None
            its_label = str(find_columns(table, found, label)[1])
            its_group = group and find_column(table, group, "group")
            first = list(islice(table.rows, 50))
            for where, row in chain(first, table.rows):
                text, name = joined_text(where, row, found), label_of(where, row, its_label)
                if name is None and text.strip():
                    unlabelled = unlabelled or where
                rows.append((text, interned.setdefault(name, name)))
                if its_group:
                    groups.append(str(field_of(where, row, its_group) or where))
            notes += table.notes
            if not any(text.strip() for text, _ in rows):
                shown = columns_shown(table, [row for _, row in first])
                raise InputError(
                    f"{table.name}: no row with a text: of {len(rows)} rows all are empty in the "
                    f"column {short(found)}; {shown}; name yours with --text_column"
                )
    labels = interned.keys() - {None}
    if before and not labels - ({"-1"} - {name for _, name in before["train"]}):
        notes.append(f"{table.name}: no row has a label, {left_out}")
        return None
    if unlabelled and not drop_unlabelled:
        raise InputError(
            f"{unlabelled}: the label is empty; fill it in, or leave such rows out with "
            "--drop_unlabelled"
        )
    return rows


def check_one_class(name: str, labels: set[str]) -> list[str]:
    """
    A note where labels look like several, as "comedy, drama" does. InputError where most of them
    are other labels put together.
    """
    parts = {label: re.split("[|;,]", label) for label in sorted(labels)}
    composed = [label for label in parts if len(parts[label]) > 1]
    known = [label for label in composed if {part.strip() for part in parts[label]} <= labels]
    if len(known) >= max(3, len(labels) / 2):
        raise InputError(
            f"{name}: labels such as {known[0]!r:.60} are several labels in one; {ONE_CLASS}"
        )
    named = [x for x in composed if all(re.search(r"[^\W\d]", part) for part in parts[x])]
    if not named:
        return []
    return [
        f"labels may be several in one, such as {named[0]!r:.60}: {len(named)} of them look so; "
        "each is taken as one class of its own"
    ]


# ---- where the parts lie ----


def tables_of(dataset: str, opened, notes: list[str]) -> dict[str, Tables]:
    """The tables of each part; the training part comes first."""
    path = Path(dataset)
    if dataset.startswith("hf:"):
        return tables_of_splits(dataset, from_hub(dataset), notes)
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        with needing(dataset, "datasets", "save it once more with save_to_disk"):
            import datasets

            splits = datasets.load_from_disk(dataset)
        return tables_of_splits(dataset, splits, notes)
    if not path.is_dir():
        return {"train": [opened(path)]}
    if folders := folders_of_classes(path):
        return {
            part: [nullcontext(class_table(folder, opened.keywords["read"]))]
            for part, folder in folders.items()
        }
    files = files_of_parts(path) or files_of_parts(path / "data")  # the hub's layout
    others = {file.name for file in path.iterdir() if not file.name.startswith(".")}
    others -= {"data", *(file.name for part in files.values() for file in part)}
    if others:
        notes.append(
            f"{path}: not read are {short(sorted(others))}; what is to be read is called train, "
            "test or validation (or valid, val, dev)"
        )
    check_files(path, files)
    return {part: [opened(file) for file in files[part]] for part in files}


SHARD = re.compile(r"(?P<part>[a-z]+)(-\d+-of-(?P<count>\d+))?\.")


def files_of_parts(folder: Path) -> dict[str, list[Path]]:
    """The files of each part, by their names: train.csv, or train-00000-of-00002.parquet."""
    found: dict[str, list[Path]] = {}
    for name, part in PARTS.items():  # the training part first
        for file in sorted(folder.glob("*.*")):
            named = SHARD.match(file.name.lower())
            if named and named["part"] == name and form_of(file.name):
                found.setdefault(part, []).append(file)
    return found


def check_files(folder: Path, files: dict[str, list[Path]]) -> None:
    """InputError unless there is a training part, and each part is one file or all its shards."""
    counts = [
        {int(named["count"] or 1) for file in part if (named := SHARD.match(file.name.lower()))}
        for part in files.values()
    ]
    if "train" not in files or counts != [{len(part)} for part in files.values()]:
        found = short(file.name for part in files.values() for file in part)
        raise InputError(
            f"{folder}: a folder needs exactly one train file, and at most one test and one "
            f"validation (or valid, val, dev) file, ending in one of {ENDINGS}, or all the shards "
            "of one, as train-00000-of-00002.parquet; or a folder of .txt files for each class, as "
            f"train/pos; here are {found or 'none of these'}"
        )


def folders_of_classes(path: Path) -> dict[str, Path]:
    """The folder of each part, of which each class has a folder of .txt files; else none."""

    def has_classes(folder: Path) -> bool:
        return any(folder.glob("*/*.txt"))

    found = {PARTS[f.name.lower()]: f for f in path.glob("*") if f.name.lower() in PARTS}
    found = {part: found[part] for part in ("train", "test", "val") if part in found}
    if "train" in found and has_classes(found["train"]):
        return {part: folder for part, folder in found.items() if has_classes(folder)}
    return {} if found or files_of_parts(path) or not has_classes(path) else {"train": path}


def class_table(folder: Path, read: list[str] | None) -> Table:
    """A text for each file, whose folder's name is its label."""
    notes = []
    if (folder / "unsup").is_dir():  # as in the reviews of IMDb, whose texts are read so
        notes.append(f"{folder / 'unsup'}: its texts have no label, and are left out")

    def rows() -> Iterator[Row]:
        for file in sorted(folder.glob("*/*.txt")):
            if file.parent.name != "unsup":
                with open_table(file, "lines", read=read) as table:
                    text = "\n".join(row["text"] for _, row in table.rows)
                notes.extend(table.notes)
                yield str(file), {"text": text, "label": file.parent.name}

    return Table(str(folder), ["text", "label"], rows(), notes)


def from_hub(dataset: str):
    """The splits of hf:NAME[:CONFIG], a dataset of the Hugging Face hub."""
    name, _, config = dataset.removeprefix("hf:").partition(":")
    remedy = "correct its name, hf:NAME or hf:NAME:CONFIG, or try again with a network"
    with needing(dataset, "datasets", remedy):
        import datasets

        return datasets.load_dataset(name, config or None)


def tables_of_splits(dataset: str, splits, notes: list[str]) -> dict[str, Tables]:
    """A table of each part of a DatasetDict, or of one Dataset; class numbers become names."""
    splits = splits if isinstance(splits, dict) else {"train": splits}
    names = {PARTS[name]: name for name in splits if name in PARTS}
    if "train" not in names or len(names) < sum(name in PARTS for name in splits):
        raise InputError(
            f"{dataset}: it has the splits {short(list(splits))}; one called train is needed, and "
            "at most one test and one validation split"
        )
    if others := sorted(splits.keys() - names.values()):
        notes.append(f"{dataset}: the splits {short(others)} are not used")
    found: dict[str, Tables] = {}
    for part, name in sorted(names.items(), key=lambda item: item[0] != "train"):
        split, title = splits[name], f"{dataset}, {name}"
        classes = {c: f.names for c, f in split.features.items() if hasattr(f, "names")}
        batches = split.with_format("arrow").iter(batch_size=1000)
        table = arrow_table(title, split.column_names, batches, "datasets", classes)
        found[part] = [nullcontext(table)]
    return found

"""
One reader for each format of a table: CSV and its kin, JSON, Parquet, Excel, fastText's lines.

engine/reading.py opens a file and calls the reader of its format. Of a delimited text,
engine/text_files.py checks every row before the first is given; every cell stays a string. JSON is
read by Python's json, because pandas takes the last of two values under one name in silence, and of
a faulty line does not say the number.
"""

import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from io import BufferedReader
from itertools import chain, islice

from engine.files import InputError, lacks_memory
from engine.text_files import (
    TextFile,
    check_rows,
    csv_arguments,
    csv_rows,
    find_encoding,
    find_layout,
    is_empty,
    utf_16,
)

Row = tuple[str, dict]  # where it stands, as "a.csv, line 7", and its values by column


@dataclass
class Table:
    """A table whose rows are read once, one after the other."""

    name: str  # what messages call it
    columns: list[str]  # of the header, or of the first object
    rows: Iterator[Row]
    notes: list[str] = field(default_factory=list)  # what was found, a line each, to be said
    has_lines: bool = False  # a text a line, without a header

    def __post_init__(self) -> None:
        if not self.has_lines:
            self.rows = without_second_header(self.rows)


def without_second_header(rows: Iterator[Row]) -> Iterator[Row]:
    """The rows. InputError for one that repeats the columns' names: they would become a class."""
    for where, row in rows:
        if row and all(isinstance(v, str) and v.strip() == k.strip() for k, v in row.items()):
            raise InputError(
                f"{where}: the columns' names once more, as where files were joined; remove this "
                "row, or rename the columns if it is meant as a text"
            )
        yield where, row


@dataclass
class Source:
    """A file as its reader gets it: unpacked, and from its first byte on if it can be rewound."""

    name: str
    stream: BufferedReader
    options: dict[str, str]  # given by --read
    has_columns: Callable[[list[str]], bool]  # whether those that are asked for are among these
    needs_label: bool
    found: dict[str, str] = field(default_factory=dict)  # as options of --read
    shown: str = ""  # the line that shows whether a guessed encoding is right

    def encoding(self) -> str:
        """The given one or the one found; of a pipe the first bytes decide."""
        if "encoding" in self.options:
            return self.options["encoding"]
        if not self.stream.seekable():
            return utf_16(self.stream.peek(1000)[:1000]) or "utf-8-sig"
        encoding, self.shown = find_encoding(self.name, self.stream)
        if encoding != "utf-8-sig":
            self.found["encoding"] = encoding
        return encoding

    def text(self) -> TextFile:
        return TextFile(self.name, self.stream, self.encoding())

    def lines(self) -> Iterator[tuple[str, str]]:
        """Where each line stands, and the line without its end."""
        return (
            (f"{self.name}, line {number}", line.removesuffix("\n").removesuffix("\r"))
            for number, line in enumerate(self.text().lines(), 1)
        )


# ---- CSV and its kin ----


def table_of(source: Source, records: Iterator[tuple[str, list[str]]]) -> Table:
    """A table of records, of which the first has the names, unless --read gives them."""
    where, first = next(records, ("", []))
    if not first:
        raise is_empty(source.name)
    columns, options = first, source.options
    if "names" in options or "header" in options:
        numbers = " ".join(str(number) for number in range(1, len(first) + 1))
        columns = re.findall("[^ ,]+", options.get("names", numbers))
        records = chain([(where, first)], records)
    if len(columns) != len(first):
        raise InputError(f"{where}: {len(first)} fields, and names= has {len(columns)}")
    if columns.count("") > 1:
        columns = [column or f"Unnamed: {i}" for i, column in enumerate(columns, 1)]
    check_names(where, columns)
    return Table(source.name, columns, ((at, dict(zip(columns, row))) for at, row in records))


def check_names(where: str, columns: list[str]) -> None:
    column, times = Counter(columns).most_common(1)[0]
    if times > 1:
        raise InputError(
            f"{where}: two columns are named {column!r}; rename one, or name all with "
            "--read names='text label' if this is no row of names"
        )


def read_delimited(source: Source, usual: str) -> Table:
    text = source.text()
    sample = list(islice(text.lines(newline=""), 200))
    options, notes = check_rows(text, find_layout(sample, source.options, usual))
    usually = {"sep": usual} | source.options
    source.found |= {key: value for key, value in options.items() if usually.get(key) != value}
    rows = ((f"{text.name}, line {at}", fields) for at, _, fields in csv_rows(text, options))
    table = table_of(source, rows)
    table.notes += notes
    return table


def read_lines(source: Source) -> Table:
    """A text a line."""
    rows = ((where, {"text": line}) for where, line in source.lines())
    return Table(source.name, ["text"], rows, has_lines=True)


def read_fasttext(source: Source) -> Table:
    """fastText's own format: a text a line, behind its labels, as __label__sport."""
    rows = (
        (where, {"label": labels.replace("__label__", "").split(), "text": text})
        for where, line in source.lines()
        for labels, text in re.findall(r"^((?:__label__\S+\s+)*)(.*\S)\s*$", line)
    )
    return Table(source.name, ["label", "text"], rows)


def read_txt(source: Source) -> Table:
    """
    A .txt file is a table, as Excel's "Unicode text" is; for who needs no label, only where its
    first line names the text beside other columns. Else it has a text a line, or is fastText's.
    """
    start = source.stream.peek(8000)
    encoding = source.options.get("encoding") or utf_16(start[:1000]) or "utf-8-sig"
    first = (start.decode(encoding, "replace").splitlines() or [""])[0]
    form = "fasttext" if first.startswith("__label__") else "tsv"
    if form == "tsv" and not source.needs_label and "names" not in source.options:
        options = find_layout([first], source.options, "\t")
        fields = next(csv.reader([first], **csv_arguments(options)), [])
        is_header = options["sep"] == "\t" or fields == [name.strip() for name in fields]
        is_table = len(fields) > 1 and is_header and source.has_columns(fields)
        form = "tsv" if is_table else "lines"
    if form == "fasttext" or not source.needs_label:
        source.found["format"] = form
    return FORMS[form](source)


# ---- JSON ----


def without_repeats(pairs: list[tuple[str, object]]) -> dict:
    """For json.loads, which would take the last of two values under one name."""
    name, times = Counter(name for name, _ in pairs).most_common(1)[0] if pairs else ("", 0)
    if times > 1:
        raise ValueError(f"{name!r:.40} stands twice in one object")
    return dict(pairs)


def parse_json(where: str, text: str) -> object:
    try:
        return json.loads(text, object_pairs_hook=without_repeats)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not valid JSON ({str(error)[:80]}); correct it") from None


def table_of_objects(name: str, items: Iterable[tuple[str, object]]) -> Table:
    def rows() -> Iterator[Row]:
        for where, item in items:
            if not isinstance(item, dict):
                raise InputError(f"{where}: {item!r:.40} is not an object with named fields")
            yield where, item

    objects = rows()
    first = next(objects, None)
    if first is None:
        raise is_empty(name)
    return Table(name, paths(first[1]), chain([first], objects))


def paths(item: dict) -> list[str]:
    """The names of an object's values; of an object inside of it "data.text"."""
    return [
        f"{name}.{path}" if path else name
        for name, value in item.items()
        for path in (paths(value) if isinstance(value, dict) else [""])
    ]


def read_jsonl(source: Source) -> Table:
    """One object a line."""
    lines = source.lines()
    items = ((where, parse_json(where, line)) for where, line in lines if line.strip())
    return table_of_objects(source.name, items)


def read_json(source: Source) -> Table:
    """Objects in one of pandas' orders, or, though the name says otherwise, one object a line."""
    content = "\n".join(line for _, line in source.lines())
    first, _, others = content.strip().partition("\n")
    if first.startswith("{") and others.lstrip().startswith("{"):
        source.found["format"] = "jsonl"
        return read_jsonl(source)
    objects = objects_of(source, parse_json(source.name, content))
    items = ((f"{source.name}, item {number}", item) for number, item in enumerate(objects, 1))
    return table_of_objects(source.name, items)


def objects_of(source: Source, whole) -> list:
    """The rows of a JSON value in pandas' orders records, split, table, index or columns."""
    if isinstance(whole, dict) and isinstance(whole.get("data"), list) and "index" in whole:
        return [dict(zip(whole["columns"], row)) for row in whole["data"]]
    if isinstance(whole, list):
        return whole
    parts = list(whole.values()) if isinstance(whole, dict) else []
    if parts and all(isinstance(part, dict) for part in parts):  # both orders look so
        if not source.has_columns(list(whole)) and source.has_columns(paths(parts[0])):
            return parts  # index: {"0": {"text": ..., "label": ...}}
    parts = [dict(enumerate(part)) if isinstance(part, list) else part for part in parts]
    if not parts or not all(isinstance(p, dict) and p.keys() == parts[0].keys() for p in parts):
        raise InputError(
            f"{source.name}: neither a list of objects nor columns of equal length; one object a "
            "line is a .jsonl file"
        )
    return [dict(zip(whole, (part[key] for part in parts))) for key in parts[0]]


# ---- Parquet and Excel ----


@contextmanager
def needing(name: str, package: str, remedy: str) -> Iterator[None]:
    """One line where a package is missing, and for whatever it raises of what it cannot read."""
    try:
        yield
    except InputError:
        raise
    except ImportError:
        raise InputError(
            f"{name}: reading it needs the package {package}: pip install {package}"
        ) from None
    except Exception as error:
        if lacks_memory(error):
            raise
        line = " ".join(str(error).split())[:120]
        raise InputError(
            f"{name}: cannot be read by {package} ({type(error).__name__}: {line}); {remedy}"
        ) from None


ANOTHER = "it is damaged, or another format: save it as CSV"


def plain(value: object) -> object:
    """
    As JSON has it: None where pandas has NaN, NaT or NA, and dates, bytes and decimal numbers as
    text, also inside of lists and objects. Infinities stay.
    """
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if str(value) in ("nan", "NaT", "<NA>"):
        return None
    return value if isinstance(value, float) else str(value)


def read_parquet(source: Source) -> Table:
    with needing(source.name, "pyarrow", ANOTHER):
        from pyarrow import parquet

        file = parquet.ParquetFile(source.stream)
        metadata = file.schema_arrow.metadata or {}
        parts = file.iter_batches(batch_size=1000)
    classes = {}
    with suppress(ValueError, LookupError, TypeError, AttributeError):  # of another program
        features = json.loads(metadata[b"huggingface"])["info"]["features"].items()
        classes = {c: f["names"] for c, f in features if f.get("_type") == "ClassLabel"}
    return arrow_table(source.name, file.schema_arrow.names, parts, "pyarrow", classes)


def arrow_table(
    name: str, columns: list[str], parts: Iterable, package: str, classes: dict[str, list[str]]
) -> Table:
    """
    A table in parts of Arrow's. Numbers of the `classes` that a column has become their names; -1,
    which means "no label" there, becomes None.
    """
    check_names(name, columns)
    codes = {c: {None: None, -1: None, **dict(enumerate(classes[c]))} for c in classes}

    def named(where: str, column: str, value: object) -> object:
        if column in codes and value not in codes[column]:
            raise InputError(
                f"{where}: {value} in the column {column!r:.60}, which has the classes 0 to "
                f"{len(classes[column]) - 1} ({short(classes[column])}); correct it"
            )
        return codes[column][value] if column in codes else plain(value)

    def rows() -> Iterator[Row]:
        number, remaining = 0, iter(parts)
        while True:
            with needing(f"{name}, row {number + 1} or below", package, "correct it"):
                part = next(remaining, None)
                if part is None:
                    return
                part.validate(full=True)  # whether all texts are UTF-8
                objects = part.to_pylist()
            for number, row in enumerate(objects, number + 1):  # noqa: B020
                where = f"{name}, row {number}"
                yield where, {column: named(where, column, row[column]) for column in row}

    return table_of_objects(name, rows())


def short(names: Iterable[str]) -> str:
    return ", ".join(f"{name!r:.40}" for name in names)[:200]


def sheets_of(name: str, stream: BufferedReader, data_only: bool) -> dict:
    """The cells of each sheet as strings, without a header."""
    with needing(name, "openpyxl", ANOTHER):
        import pandas

        stream.seek(0)
        with pandas.ExcelFile(stream, "openpyxl", engine_kwargs={"data_only": data_only}) as book:
            frames = pandas.read_excel(book, None, header=None, dtype=object, na_filter=False)
        return {
            sheet: frame.map(lambda value: "" if plain(value) is None else str(value))
            for sheet, frame in frames.items()
        }


def read_xlsx(source: Source) -> Table:
    """The given sheet, or the first that has the columns; each cell is text, as in CSV."""
    sheets = sheets_of(source.name, source.stream, data_only=True)

    def table(sheet: str) -> Table:
        rows = enumerate(sheets[sheet].itertuples(index=False, name=None), 1)
        filled = ((f"{source.name}, row {i}", list(row)) for i, row in rows if any(row))
        return table_of(source, filled)

    def has_columns(sheet: str) -> bool:
        with suppress(InputError):
            return source.has_columns(table(sheet).columns)
        return False

    chosen = source.options.get("sheet") or next(filter(has_columns, sheets), next(iter(sheets)))
    if chosen not in sheets:
        raise InputError(f"{source.name}: no sheet {chosen!r:.60}, only {short(sheets)}")
    if len(sheets) > 1 and "sheet" not in source.options:
        source.found["sheet"] = chosen
    cells = sheets[chosen]
    if (cells == "").iloc[1:].all().any():  # a column of formulas, as some programs write it?
        formulas = sheets_of(source.name, source.stream, data_only=False)[chosen]
        lost = formulas.map(lambda value: value.startswith("=")) & (cells == "")
        if lost.any(axis=None):
            first = formulas.to_numpy()[lost.to_numpy()][0]
            raise InputError(
                f"{source.name}: it has formulas without their values, such as {first:.60}; open "
                "it in Excel or LibreOffice, which work them out, and save it"
            )
    return table(chosen)


FORMS: dict[str, Callable[[Source], Table]] = {
    "csv": partial(read_delimited, usual=","),
    "tsv": partial(read_delimited, usual="\t"),
    "txt": read_txt,
    "jsonl": read_jsonl,
    "json": read_json,
    "lines": read_lines,
    "fasttext": read_fasttext,
    "parquet": read_parquet,
    "xlsx": read_xlsx,
}
DELIMITED = {"sep", "encoding", "quoting", "escapechar", "skipinitialspace", "header", "names"}
TAKES: dict[str, set[str]] = {  # the options of --read that concern each form
    **dict.fromkeys(FORMS, {"encoding"}),
    **dict.fromkeys(("csv", "tsv", "txt"), DELIMITED),
    "parquet": set(),
    "xlsx": {"sheet", "header", "names"},
}
ENDINGS = ", ".join(f".{form}" for form in FORMS if form not in ("lines", "fasttext"))

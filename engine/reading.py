"""
Whatever table people have, as rows: CSV and its kin, JSON, Parquet, Excel, datasets' own folders.

    with open_table("reviews.csv.gz") as table:
        texts, label = find_columns(table, ["text"], "label")
        for where, row in table.rows:       # "reviews.csv.gz, line 7", {"text": ..., "label": ...}
            print(joined_text(where, row, texts), label_of(where, row, label))
    print(*table.notes, sep="\\n")          # what was found: a separator, an encoding, a column

Text formats are read strictly and as a stream, by Python's csv and json, which know the line of
each row. pandas reads Parquet and Excel; of a CSV file it would fill short rows, rename repeated
columns and forget the lines. Whatever is wrong with a table is an InputError of one line.
"""

import ast
import bz2
import codecs
import csv
import errno
import gzip
import io
import json
import math
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

from engine.files import InputError, lacks_memory

Row = tuple[str, dict]  # where it stands, and its values by column
Rows = list[tuple[str, str | None]]  # text and label, None without one


@dataclass
class Table:
    """A table whose rows are read once, one after the other."""

    name: str  # what messages call it
    columns: list[str]  # of the header, or of the first object
    rows: Iterator[Row]
    notes: list[str] = field(default_factory=list)  # what was found, a line each, to be said
    has_lines: bool = False  # a text a line, without a header


# ---- bytes: what is packed is unpacked, by its first bytes ----


PACKED = re.compile(r"\.(gz|bz2|zip)$")


def form_of(name: str) -> str:
    """The format that a file name tells, "csv" of reviews.csv.gz; "" if it is none of FORMS."""
    stem = PACKED.sub("", name.lower())
    form = stem.rpartition(".")[2] if "." in stem else ""
    return form if form in FORMS else ""


def unpacked(name: str, stream: BinaryIO, form: str) -> tuple[BinaryIO, str]:
    """The stream as it is, or what is inside of a .gz, .bz2 or .zip file, and its format."""
    start = stream.peek(8)[:8]
    if start[:4] == b"\xd0\xcf\x11\xe0":
        raise InputError(f"{name}: an old Excel file (.xls); save it as .xlsx or as CSV")
    is_gzip, is_bz2 = start[:2] == b"\x1f\x8b", re.match(rb"BZh[1-9]1AY&", start)
    is_packed = is_gzip or is_bz2 or start[:4] == b"PK\x03\x04"
    if not is_packed or form == "xlsx" and not PACKED.search(name.lower()):  # itself a zip
        return stream, form
    packed = stream if stream.seekable() else in_memory(stream)  # it is read twice
    if is_gzip or is_bz2:
        return io.BufferedReader(gzip.open(packed) if is_gzip else bz2.open(packed)), form
    archive = zipfile.ZipFile(packed)
    members = [
        member
        for member in archive.namelist()
        if not member.endswith("/") and not member.startswith("__MACOSX")
    ]
    if "xl/workbook.xml" in members:
        raise InputError(f"{name}: an Excel file; let its name end in .xlsx")
    if len(members) != 1:
        raise InputError(
            f"{name}: a zip with {len(members)} files ({', '.join(members)[:200]}); "
            "pack the table alone, or name one that you unpacked"
        )
    return io.BufferedReader(archive.open(members[0])), form or form_of(members[0])


def in_memory(stream: BinaryIO) -> BinaryIO:
    return io.BufferedReader(io.BytesIO(stream.read()))


# ---- characters: the encoding is found ----

ESCAPED = re.compile("[\udc80-\udcff]")  # what surrogateescape makes of a byte


def scan_utf8(name: str, stream: BinaryIO) -> bool:
    """
    Whether the rest of the stream is UTF-8. InputError where it is so but for some bytes; False
    where such bytes outweigh its other characters beyond ASCII, as in a text of one byte a letter.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    wide = broken = lines = 0
    first = None
    while chunk := stream.read(1 << 20):
        text = decoder.decode(chunk)
        if not text.isascii():
            escaped = ESCAPED.findall(text)
            wide += len(text) - len(text.encode("ascii", "ignore")) - len(escaped)
            if escaped and first is None:
                first = 1 + lines + text.count("\n", 0, text.index(escaped[0]))
            broken += len(escaped)
        lines += text.count("\n")
    if tail := decoder.decode(b"", final=True):
        broken += len(tail)
    if broken > wide:
        return False
    if tail:
        raise InputError(
            f"{name}, line {first or 1 + lines}: not UTF-8; the file ends within a "
            "character: bring the whole of it"
        )
    if broken:
        raise InputError(
            f"{name}, line {first}: not UTF-8, though most of the file is; correct "
            "this line, or save the file as UTF-8"
        )
    return True


def find_encoding(name: str, stream: BinaryIO) -> str:
    """
    UTF-8, UTF-16 or Windows-1252. A file is read through for it; of a pipe the first bytes decide.
    """
    start = stream.peek(1000)[:1000]
    if start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return "utf-16"
    if start.count(0) >= max(len(start) / 4, 1):  # of Western text every second byte is zero
        return "utf-16-le" if start[1:2] == b"\0" else "utf-16-be"
    return "utf-8-sig" if not stream.seekable() or scan_utf8(name, stream) else "cp1252"


def check_decodes(name: str, stream: BinaryIO, encoding: str) -> None:
    try:
        for _ in codecs.iterdecode(iter(lambda: stream.read(1 << 20), b""), encoding):
            pass
    except UnicodeDecodeError:
        raise InputError(
            f"{name}: neither UTF-8 nor UTF-16 nor Windows-1252; open it in the "
            "program that wrote it and save it as UTF-8"
        ) from None


class Text(io.TextIOWrapper):
    """Leaves its stream open when it is gone: the stream belongs to whoever opened it."""

    def close(self) -> None:
        pass


def open_text(name: str, stream: BinaryIO, newline: str) -> tuple[io.TextIOWrapper, list[str]]:
    """The stream as text, and a note where it is not in UTF-8."""
    notes, is_file = [], stream.seekable()
    begin = stream.tell() if is_file else None
    encoding = find_encoding(name, stream)
    if encoding != "utf-8-sig" and is_file:
        stream.seek(begin)
        check_decodes(name, stream, encoding)
        stream.seek(begin)
        shown = next((line for line in Text(stream, encoding) if not line.isascii()), "").strip()
        title = {"cp1252": "Windows-1252"}.get(encoding, encoding.upper())
        notes.append(
            f"{name}: read as {title}, since it is not UTF-8"
            + (f"; its first line beyond plain English letters: {shown[:60]}" if shown else "")
        )
    if is_file:
        stream.seek(begin)
    return Text(stream, encoding, newline=newline), notes


def checked_lines(name: str, text: io.TextIOWrapper) -> Iterator[str]:
    """The lines with their ends. InputError: a NUL, or bytes of a pipe that are not UTF-8."""
    number = 0
    try:
        for number, line in enumerate(text, 1):
            if "\0" in line:
                raise InputError(
                    f"{name}, line {number}: a NUL byte; the file is damaged or not a text file"
                )
            yield line
        if number == 0:
            raise is_empty(name)
    except UnicodeDecodeError:
        raise InputError(
            f"{name}, below line {number}: not UTF-8; save it as UTF-8, or give it "
            "as a file, whose encoding is found"
        ) from None


def is_empty(name: str) -> InputError:
    return InputError(f"{name}: the file is empty, with no rows; it needs rows with a text")


# ---- CSV and its kin ----

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "pipes"}


def find_separator(lines: list[str], usual: str) -> str:
    """The one that gives all these lines as many fields as the first, then gives it the most."""

    def score(separator: str) -> tuple:
        widths = []
        with suppress(csv.Error):  # of a quoted field that is open where the sample ends, too
            for fields in csv.reader(lines, delimiter=separator, strict=True):
                widths += [len(fields)] if fields else []
        width = widths[0] if widths else 0
        return width > 1 and set(widths) == {width}, width, separator == usual

    return max(SEPARATORS, key=score)


def csv_records(name: str, lines: Iterable[str], separator: str) -> Iterator[tuple[str, list[str]]]:
    """Where it begins, and its fields, of each record that is not blank."""
    csv.field_size_limit(2**31 - 1)  # one field may be a whole book; the usual limit is 128 kB
    # strict: an open quote is an error here instead of one text that swallows the rest of the file
    reader, line = csv.reader(lines, delimiter=separator, strict=True), 1
    try:
        for fields in reader:
            if fields:
                yield f"{name}, line {line}", fields
            line = reader.line_num + 1
    except csv.Error as error:
        raise InputError(
            f"{name}, line {line}: {error}; write a quote inside a quoted field twice, and close it"
        ) from None


def named_columns(where: str, header: list[str]) -> list[str]:
    """The header's names; columns without one, if there are several, by their position."""
    if header.count("") > 1:
        header = [column or f"Unnamed: {i}" for i, column in enumerate(header, 1)]
    column, times = Counter(header).most_common(1)[0]
    if times > 1:
        raise InputError(
            f"{where}: two columns are named {column!r}; rename one, or put a line "
            "with the columns' names at the top"
        )
    return header


def table_of(name: str, records: Iterator[tuple[str, list]], separator: str) -> Table:
    """A table from records, of which the first is the header."""
    where, header = next(records, ("", []))
    if not header:
        raise is_empty(name)
    columns = named_columns(where, header)

    def rows() -> Iterator[Row]:
        for where, fields in records:
            if len(fields) != len(columns):
                found = "1 field" if len(fields) == 1 else f"{len(fields)} fields"
                raise InputError(
                    f"{where}: {found} where the header has {len(columns)}; put "
                    f"quotes round a field that contains {separator!r}"
                )
            yield where, dict(zip(columns, fields))

    return Table(name, columns, rows())


def read_delimited(name: str, stream: BinaryIO, usual: str) -> Table:
    is_file = stream.seekable()
    text, notes = open_text(name, stream, newline="")
    lines = checked_lines(name, text)
    sample = list(islice(lines, 50 if is_file else 1))  # a pipe may bring the rest much later
    separator = find_separator(sample, usual)
    if said := re.fullmatch(r"sep=(.)\s*", sample[0]):  # Excel's own first line
        separator, sample[0] = said[1], "\n"
    if separator != usual:
        notes.append(f"{name}: columns are separated by {SEPARATORS.get(separator, separator)}")
    table = table_of(name, csv_records(name, chain(sample, lines), separator), separator)
    return Table(name, table.columns, table.rows, notes)


def read_lines(name: str, stream: BinaryIO) -> Table:
    """A text a line."""
    text, notes = open_text(name, stream, newline="\n")
    lines = (line.removesuffix("\n").removesuffix("\r") for line in checked_lines(name, text))
    return Table(
        name,
        ["text"],
        ((f"{name}, line {number}", {"text": line}) for number, line in enumerate(lines, 1)),
        notes,
        has_lines=True,
    )


# ---- JSON ----


def without_repeats(pairs: list[tuple[str, object]]) -> dict:
    """For json.loads, which would take the last of two values under one name."""
    repeated = [name for name, times in Counter(name for name, _ in pairs).items() if times > 1]
    if repeated:
        raise ValueError(f"{repeated[0]!r:.40} stands twice in one object")
    return dict(pairs)


def parse_json(where: str, text: str) -> object:
    try:
        return json.loads(text, object_pairs_hook=without_repeats)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not valid JSON ({str(error)[:80]}); correct it") from None


def table_of_objects(name: str, items: Iterator[tuple[str, object]], notes: list[str]) -> Table:
    def rows() -> Iterator[Row]:
        for where, item in items:
            if not isinstance(item, dict):
                raise InputError(f"{where}: {item!r:.40} is not an object with named fields")
            yield where, item

    objects = rows()
    first = next(objects, None)
    if first is None:
        raise is_empty(name)
    return Table(name, list(first[1]), chain([first], objects), notes)


def read_jsonl(name: str, stream: BinaryIO) -> Table:
    """One object a line."""
    text, notes = open_text(name, stream, newline="\n")  # a string may hold U+2028: no line end
    items = (
        (f"{name}, line {number}", parse_json(f"{name}, line {number}", line))
        for number, line in enumerate(checked_lines(name, text), 1)
        if line.strip()
    )
    return table_of_objects(name, items, notes)


def load_json(path: Path) -> object:
    """The value of a JSON file. InputError where it is damaged or has a name twice."""
    with open(path, "rb") as stream:
        text, _ = open_text(str(path), stream, newline="\n")
        return parse_json(str(path), "".join(checked_lines(str(path), text)))


def read_json(name: str, stream: BinaryIO) -> Table:
    """A list of objects, pandas' columns, or, though its name says otherwise, one object a line."""
    stream = in_memory(stream)
    text, notes = open_text(name, stream, newline="\n")
    content = "".join(checked_lines(name, text))
    first, _, others = content.strip().partition("\n")
    if first.startswith("{") and others.lstrip().startswith("{"):
        stream.seek(0)
        table = read_jsonl(name, stream)
        table.notes.append(f"{name}: one object a line, as in a .jsonl file")
        return table
    whole = parse_json(name, content)
    if isinstance(whole, dict):
        whole = rows_of_columns(name, whole)
    if not isinstance(whole, list):
        raise InputError(f"{name}: not a list of objects; one object a line is a .jsonl file")
    items = ((f"{name}, item {number}", item) for number, item in enumerate(whole, 1))
    return table_of_objects(name, items, notes)


def rows_of_columns(name: str, columns: dict) -> list[dict]:
    """Rows of {"text": {"0": ..., "1": ...}}, as pandas writes it, or of {"text": [..., ...]}."""
    parts = [dict(enumerate(part)) if isinstance(part, list) else part for part in columns.values()]
    if not parts or not all(
        isinstance(part, dict) and part.keys() == parts[0].keys() for part in parts
    ):
        raise InputError(
            f"{name}: neither a list of objects nor columns of equal length; one "
            "object a line is a .jsonl file"
        )
    return [
        dict(zip(columns, values))
        for values in zip(*([part[key] for key in parts[0]] for part in parts))
    ]


# ---- Parquet and Excel, by pandas ----


def plain(value: object) -> object:
    """
    As JSON has it: None where pandas has NaN, NaT or NA, lists of arrays, and dates, bytes and
    decimal numbers as text, also inside of lists and objects. Infinities stay.
    """
    if hasattr(value, "tolist"):  # of numpy
        value = value.tolist()
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if str(value) in ("nan", "NaT", "<NA>"):
        return None
    return value if isinstance(value, float) else str(value)


@contextmanager
def needing(name: str, package: str, remedy: str) -> Iterator[None]:
    """One line where a package is missing, and for whatever it raises of what it cannot read."""
    try:
        yield
    except ImportError:
        raise InputError(
            f"{name}: reading it needs the package {package}: pip install {package}"
        ) from None
    except Exception as error:
        if lacks_memory(error):
            raise
        line = " ".join(str(error).split())[:80]
        raise InputError(
            f"{name}: cannot be read by {package} ({type(error).__name__}: {line}); {remedy}"
        ) from None


ANOTHER = "it is damaged, or another format: save it as CSV"


def read_parquet(name: str, stream: BinaryIO) -> Table:
    with needing(name, "pyarrow", ANOTHER):
        import pandas

        frame = pandas.read_parquet(in_memory(stream), engine="pyarrow", dtype_backend="pyarrow")
    columns = named_columns(name, list(map(str, frame.columns)))
    rows = (dict(zip(columns, values)) for values in frame.itertuples(index=False, name=None))
    return Table(name, columns, converted(name, rows, "pyarrow"))


def converted(name: str, rows: Iterable[dict], package: str) -> Iterator[Row]:
    """Rows of a package that makes Python's values only when asked, and may find one it cannot."""
    number = 0
    try:
        for number, row in enumerate(rows, 1):
            yield f"{name}, row {number}", {column: plain(row[column]) for column in row}
    except Exception as error:  # text that is not UTF-8, say, or a date beyond the year 9999
        where = f"{name}, row {number + 1}"
        with needing(where, package, "correct this row, or leave it out"):
            raise error


def sheet_cells(name: str, stream: BinaryIO, data_only: bool):
    """The names of the sheets, and the first one's cells as strings, without a header."""
    with needing(name, "openpyxl", ANOTHER):
        import pandas

        with pandas.ExcelFile(stream, "openpyxl", engine_kwargs={"data_only": data_only}) as book:
            frame = pandas.read_excel(book, header=None, dtype=object, na_filter=False)
            return book.sheet_names, frame.map(
                lambda value: "" if plain(value) is None else str(value)
            )


def read_xlsx(name: str, stream: BinaryIO) -> Table:
    """The first sheet; each cell is text, as in CSV."""
    stream = in_memory(stream)
    sheets, cells = sheet_cells(name, stream, data_only=True)
    records = (
        (f"{name}, row {number}", list(values))
        for number, values in enumerate(cells.itertuples(index=False, name=None), 1)
        if any(values)
    )
    table = table_of(name, records, ",")
    if (cells == "").iloc[1:].all().any():  # a column of formulas, as some programs write it?
        stream.seek(0)
        _, formulas = sheet_cells(name, stream, data_only=False)
        lost = (cells == "") & formulas.map(lambda value: value.startswith("="))
        if lost.any(axis=None):
            first = formulas.to_numpy()[lost.to_numpy()][0]
            raise InputError(
                f"{name}: it has formulas without their values, such as {first:.60}; "
                "open it in Excel or LibreOffice, which work them out, and save it"
            )
    if len(sheets) > 1:
        table.notes.append(f"{name}: read its first sheet, {sheets[0]!r:.40}, of {len(sheets)}")
    return table


FORMS: dict[str, Callable[[str, BinaryIO], Table]] = {
    "csv": lambda name, stream: read_delimited(name, stream, ","),
    "tsv": lambda name, stream: read_delimited(name, stream, "\t"),
    "txt": lambda name, stream: read_delimited(name, stream, "\t"),  # Excel's "Unicode text"
    "jsonl": read_jsonl,
    "json": read_json,
    "parquet": read_parquet,
    "xlsx": read_xlsx,
    "lines": read_lines,
}
ENDINGS = ", ".join(f".{form}" for form in FORMS if form != "lines")


@contextmanager
def open_table(
    source: str | Path | BinaryIO, form: str = "", name: str = "", *, txt: str = "txt"
) -> Iterator[Table]:
    """
    A table to read within the block, from a path, or from a stream such as sys.stdin.buffer, which
    stays open. `form` is one of FORMS; of a path its name tells it. `txt` is what a .txt file is
    read as, be it packed or not.
    """
    with ExitStack() as stack:
        if isinstance(source, (str, Path)):
            name = name or str(source)
            form = form or form_of(name)
            try:
                stream = stack.enter_context(open(source, "rb"))
            except OSError as error:
                raise InputError(
                    f"{name}: cannot be read ({error.strerror}); check the path"
                ) from None
        else:
            stream = source if hasattr(source, "peek") else io.BufferedReader(source)
        try:
            content, form = unpacked(name, stream, form)
        except InputError:
            raise
        except Exception as error:  # whatever a damaged archive makes of zipfile
            raise is_damaged(name, error) from None
        if form not in FORMS:
            raise InputError(
                f"{name}: its name must end in one of {ENDINGS}, or these with .gz, .bz2 or .zip"
            )
        try:
            yield FORMS[txt if form == "txt" else form](name, content)
        except (EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise is_damaged(name, error) from None
        except OSError as error:
            if error.errno in (None, errno.EINVAL):  # of gzip, bz2 and zipfile; else a disk
                raise is_damaged(name, error) from None
            raise


def is_damaged(name: str, error: Exception) -> InputError:
    line = " ".join(str(error).split())[:80]
    return InputError(f"{name}: packed in another way, or damaged ({line}); unpack it yourself")


# ---- columns: those that are asked for, or leave no doubt ----

USUAL = {
    "text": ("text", "sentence", "content", "review", "title"),
    "label": ("label", "class", "category", "target", "tag"),
}
ONE_CLASS = (
    "a text has one class here, and files with several labels a text are not supported: "
    "keep one of them"
)
LIST_LIKE = re.compile(r"[\[({].*[\])}]", re.DOTALL)


def find_columns(
    table: Table, texts: list[str], label: str | None = None
) -> tuple[list[str], str | None]:
    """
    The table's columns of these names. A name may differ in case and outer blanks, and for "text"
    and "label", the defaults, one of USUAL is taken, if it is the only one; a note says so.
    InputError, with the columns and a value of each, where one is missing or in doubt.
    """
    found = [find_column(table, text, "text") for text in texts]
    for column, times in Counter(found).items():
        if times > 1:
            raise InputError(f"{table.name}: --text_column names {column!r} twice; once is enough")
    if label is None:
        return found, None
    label = find_column(table, label, "label")
    if label in found:
        raise InputError(f"{table.name}: {label!r} cannot be both --text_column and --label_column")
    return found, label


def find_column(table: Table, wanted: str, role: str) -> str:
    if wanted in table.columns:
        return wanted
    by_key = {}
    for column in table.columns:
        by_key.setdefault(column.strip().casefold(), []).append(column)
    names = USUAL[role] if wanted == role else (wanted,)
    alike = by_key.get(wanted.strip().casefold(), [])
    candidates = alike or [column for name in names for column in by_key.get(name, [])]
    if len(candidates) != 1:
        raise InputError(missing_column(table, wanted, role, candidates))
    table.notes.append(f"{table.name}: the column {candidates[0]!r} is taken as the {role}")
    return candidates[0]


def missing_column(table: Table, wanted: str, role: str, candidates: list[str]) -> str:
    """What find_column says: every column with a value of it, and what to do."""
    rows = []
    with suppress(InputError):  # a fault further down is not what is to be told now
        rows += (row for _, row in islice(table.rows, 50))
    values = {
        column: next((row[column] for row in rows if row.get(column) not in (None, "")), None)
        for column in table.columns
    }
    shown = ", ".join(column_shown(*item) for item in values.items())
    doubt = (
        f"{' and '.join(map(repr, candidates))} may both be it"
        if candidates
        else f"no column {wanted!r}"
    )
    header = (
        ", or put a line with the names at the top, such as text,label, if the first row is not "
        "meant as names: it looks like data"
    )
    return (
        f"{table.name}: {doubt}; its columns, with a value of each: {shown[:600]}; name yours "
        f"with --{role}_column" + header * is_data(table.columns, rows)
    )


def column_shown(column: str, value: object) -> str:
    return f"{column!r:.60} (empty)" if value is None else f"{column!r:.60} ({value!r:.40})"


def short(names: list[str]) -> str:
    return ", ".join(f"{name!r:.40}" for name in names)[:200]


def is_data(header: list[str], rows: list[dict]) -> bool:
    """Whether a first row reads like texts and labels, and not like the names of columns."""
    return any(
        len(name.split()) > 4
        or re.fullmatch(r"-?\d+(\.\d+)?", name.strip())
        or name
        and any(row.get(name) == name for row in rows)
        for name in header
    )


# ---- cells ----


def cell(where: str, row: dict, column: str) -> object:
    if column not in row:
        raise InputError(
            f"{where}: no column {column!r}, only {short(list(row))}; every row needs it"
        )
    return None if row[column] != row[column] else row[column]  # JSON's NaN


def text_of(where: str, text: object, is_optional: bool = True) -> str:
    """The text, "" of a null. InputError where it is no string of whole characters."""
    if text is None and is_optional:
        return ""
    if not isinstance(text, str):
        raise InputError(f"{where}: the text is {text!r:.40}, not a string; quote or drop it")
    if "\0" in text:
        raise InputError(f"{where}: a NUL character; remove it")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError(f"{where}: half a surrogate pair; write the whole character") from None
    return text


def joined_text(where: str, row: dict, columns: list[str]) -> str:
    """The row's text as it is; of several columns those that are not blank, a line each."""
    texts = [text_of(where, cell(where, row, column)) for column in columns]
    return texts[0] if len(texts) == 1 else "\n".join(text for text in texts if text.strip())


def label_of(where: str, row: dict, column: str) -> str | None:
    """
    The row's label without outer white space, None without one: one rule for all formats. Whole
    numbers are written without a fraction (1.0 is "1"), booleans as True and False.
    """
    label = cell(where, row, column)
    if isinstance(label, (list, dict)) or isinstance(label, str) and holds_a_list(label):
        raise InputError(f"{where}: the label is a list ({label!r:.60}); {ONE_CLASS}")
    if isinstance(label, float) and label.is_integer():
        label = int(label)
    if isinstance(label, float) and not math.isfinite(label):
        raise InputError(f"{where}: the label is {label}; use a string or a number")
    return text_of(where, None if label is None else str(label)).strip() or None


def holds_a_list(label: str) -> bool:
    """Whether the label is written like a list of Python or JSON, as "['a', 'b']" is."""
    if not LIST_LIKE.fullmatch(label.strip()):
        return False
    try:
        return isinstance(ast.literal_eval(label.strip()), (list, tuple, set, dict))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False


# ---- a whole dataset of one's own: its training, test and validation part ----


class Parts(NamedTuple):
    """The rows of each part, None where there is no such part, and what is to be said."""

    train: Rows
    test: Rows | None
    val: Rows | None
    notes: list[str]


PARTS = {"train": ("train",), "test": ("test",), "val": ("validation", "valid", "val", "dev")}


def read_rows(table: Table, texts: list[str], label: str, drop_unlabelled: bool) -> Rows:
    """Text and label of every row. InputError where a text has no label, unless it may be so."""
    texts, label = find_columns(table, texts, label)
    rows, interned = [], {}  # few labels, many rows: one string each
    for where, row in table.rows:
        text, name = joined_text(where, row, texts), label_of(where, row, label)
        if name is None and text.strip() and not drop_unlabelled:
            raise InputError(
                f"{where}: the label is empty; fill it in, or leave such rows out "
                "with --drop_unlabelled"
            )
        rows.append((text, interned.setdefault(name, name)))
    check_one_class(table.name, interned.keys() - {None})
    return rows


def check_one_class(name: str, labels: set[str]) -> None:
    """InputError where most labels are others put together, as "comedy|drama" is."""
    for mark in "|;,":
        composed = sorted(
            label
            for label in labels
            if mark in label and all(part.strip() in labels for part in label.split(mark))
        )
        if len(composed) >= max(3, len(labels) / 2):
            raise InputError(
                f"{name}: labels such as {composed[0]!r:.60} are several labels in one; {ONE_CLASS}"
            )


def read_own(dataset: str, texts: list[str], label: str, drop_unlabelled: bool = False) -> Parts:
    """
    A file, a folder with one file a part, a folder of datasets' save_to_disk, or hf:NAME[:CONFIG].
    """
    parts, notes = {}, []
    for part, opened in sources(dataset, notes).items():
        with opened as table:
            parts[part] = read_rows(table, texts, label, drop_unlabelled)
            notes += table.notes
            if part != "train" and parts[part] and not any(name for _, name in parts[part]):
                notes.append(f"{table.name}: no row has a label, so this part is left out")
                del parts[part]
    return Parts(parts["train"], parts.get("test"), parts.get("val"), notes)


def sources(dataset: str, notes: list[str]) -> dict[str, AbstractContextManager[Table]]:
    """The table of each part, to be opened."""
    path = Path(dataset)
    if dataset.startswith("hf:"):
        return split_tables(dataset, from_hub(dataset), notes)
    if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
        with needing(dataset, "datasets", "save it once more with save_to_disk"):
            import datasets

            splits = datasets.load_from_disk(dataset)
        return split_tables(dataset, splits, notes)
    if not path.is_dir():
        return {"train": open_table(path)}
    found = {
        part: [
            file
            for file in sorted(path.iterdir())
            if form_of(file.name) and file.name.split(".")[0].lower() in names
        ]
        for part, names in PARTS.items()
    }
    if len(found["train"]) != 1 or max(map(len, found.values())) > 1:
        raise InputError(
            f"{path}: a folder needs exactly one train file, and at most one test and "
            "one validation (or valid, val, dev) file, ending in one of "
            f"{ENDINGS}; remove or rename the others"
        )
    return {part: open_table(files[0]) for part, files in found.items() if files}


def from_hub(dataset: str):
    """The splits of hf:NAME[:CONFIG], a dataset of the Hugging Face hub."""
    name, _, config = dataset.removeprefix("hf:").partition(":")
    with needing(
        dataset,
        "datasets",
        "correct its name, hf:NAME or hf:NAME:CONFIG, or try again with a network",
    ):
        import datasets

        return datasets.load_dataset(name, config or None)


def split_tables(dataset: str, splits, notes: list[str]) -> dict:
    """A table of each part of a DatasetDict, or of one Dataset; class numbers become names."""
    splits = splits if isinstance(splits, dict) else {"train": splits}
    found = {part: [name for name in splits if name in names] for part, names in PARTS.items()}
    if len(found["train"]) != 1 or max(map(len, found.values())) > 1:
        raise InputError(
            f"{dataset}: it has the splits {short(list(splits))}; one called train is "
            "needed, and at most one test and one validation split"
        )
    others = set(splits) - {name for names in found.values() for name in names}
    if others:
        notes.append(f"{dataset}: the splits {short(sorted(others))} are not used")
    return {
        part: nullcontext(split_table(f"{dataset}, {names[0]}", splits[names[0]]))
        for part, names in found.items()
        if names
    }


def split_table(name: str, split) -> Table:
    """A datasets.Dataset as a table; a class number of -1, "no label" there, is None."""
    classes = {
        column: feature.names
        for column, feature in split.features.items()
        if hasattr(feature, "names")
    }

    def named(row: dict) -> dict:
        return row | {
            column: names[row[column]] if row[column] not in (None, -1) else None
            for column, names in classes.items()
        }

    return Table(name, list(split.column_names), converted(name, map(named, split), "datasets"))

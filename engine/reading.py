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

import argparse
import ast
import bz2
import codecs
import csv
import errno
import gzip
import io
import json
import math
import os
import re
import stat
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

    def __post_init__(self) -> None:
        if not self.has_lines:
            self.rows = without_second_header(self.rows)


def without_second_header(rows: Iterator[Row]) -> Iterator[Row]:
    """The rows. InputError for one that repeats the columns' names: they would become a class."""
    for where, row in rows:
        if row and all(
            isinstance(value, str) and value.strip() == name.strip() for name, value in row.items()
        ):
            raise InputError(
                f"{where}: the columns' names once more, as where files were joined; remove this "
                "row, or rename the columns if it is meant as a text"
            )
        yield where, row


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


def text_encoding(name: str) -> str:
    """An argparse type: the encoding of this name, as Python calls it."""
    try:
        "a".encode(name)  # some codecs, as base64, are none of a text
        known = codecs.lookup(name).name
    except (LookupError, ValueError):
        raise argparse.ArgumentTypeError(
            f"{name!r:.40} is no encoding of texts, as cp1251, koi8-r, gb18030 and big5 are"
        ) from None
    return "utf-8-sig" if known == "utf-8" else known


def find_encoding(name: str, stream: BinaryIO) -> str:
    """
    UTF-8, UTF-16 or Windows-1252. A file is read through for it; of a pipe the first bytes decide.
    """
    if found := utf_16(stream.peek(1000)[:1000]):
        return found
    return "utf-8-sig" if not stream.seekable() or scan_utf8(name, stream) else "cp1252"


def utf_16(start: bytes) -> str:
    """The kind of UTF-16 that a file begins with, "" of none."""
    if start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return "utf-16"
    if start.count(0) >= max(len(start) / 4, 1):  # of Western text every second byte is zero
        return "utf-16-le" if start[1:2] == b"\0" else "utf-16-be"
    return ""


def check_decodes(name: str, stream: BinaryIO, encoding: str, given: str) -> None:
    """InputError where the rest of the stream is not in this encoding, given or guessed."""
    begin, foreign = stream.tell(), 0
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        while chunk := stream.read(1 << 20):
            decoder.decode(chunk)
            foreign += foreign_letters(chunk)
        decoder.decode(b"", final=True)
    except UnicodeError:
        if encoding == "cp1252" and not given:
            foreign = 1
        else:
            raise InputError(
                f"{name}: not {encoding.upper().removesuffix('-SIG')}, as "
                f"{'--encoding says' if given else 'it begins'}; name another with --encoding, or "
                "open it in the program that wrote it and save it as UTF-8"
            ) from None
    if foreign > 0 and encoding == "cp1252" and not given:
        stream.seek(begin)
        raise unknown_encoding(name, next(line for line in stream if not line.isascii()))


# letters as a file of one or two bytes a letter has them; what is beyond ASCII in English is none
WORD = re.compile(b"[^\0-@[-`{-\x7f%s]{2,}" % "€‚„…†‡‰‹‘’“”•–—™›\xa0¡£©«®°·»¿".encode("cp1252"))


def foreign_letters(content: bytes) -> int:
    """
    By how many letters those beyond ASCII outnumber the others, in the words that have some. In the
    languages of Windows-1252 they are fewer; in those of cp1251, KOI8, GBK or Big5 they are most.
    """
    words = [word for word in WORD.findall(content) if not word.isascii()]
    ascii_letters = sum(len(word.decode("ascii", "ignore")) for word in words)
    return sum(map(len, words)) - 2 * ascii_letters


LIKELY = ("cp1251", "koi8-r", "gb18030", "big5", "shift_jis", "euc_kr", "cp1252")


def unknown_encoding(name: str, line: bytes) -> InputError:
    """What to say of a file, with its first line beyond ASCII as each likely encoding has it."""
    shown = []
    for encoding in LIKELY:
        with suppress(UnicodeDecodeError):
            text = line.decode(encoding)
            start = next(place for place, letter in enumerate(text) if not letter.isascii())
            shown.append(f"{encoding} ({text[start : start + 12].strip()!r})")
    return InputError(
        f"{name}: neither UTF-8 nor UTF-16 nor Windows-1252, it seems; name its encoding with "
        "--encoding, or save it as UTF-8; its first line beyond plain English letters would be "
        f"in {', '.join(shown) or 'none that is usual'}"
    )


class Text(io.TextIOWrapper):
    """Leaves its stream open when it is gone: the stream belongs to whoever opened it."""

    def close(self) -> None:
        pass


def open_text(
    name: str, stream: BinaryIO, newline: str, given: str = ""
) -> tuple[io.TextIOWrapper, list[str]]:
    """The stream as text in the given encoding or the one found, and a note where not in UTF-8."""
    notes, is_file = [], stream.seekable()
    begin = stream.tell() if is_file else None
    encoding = given or find_encoding(name, stream)
    if (given or encoding != "utf-8-sig") and is_file:
        stream.seek(begin)
        check_decodes(name, stream, encoding, given)
        stream.seek(begin)
        shown = next((line for line in Text(stream, encoding) if not line.isascii()), "").strip()
        title = {"cp1252": "Windows-1252"}.get(encoding, encoding.upper())
        why = "as --encoding says" if given else "since it is not UTF-8 (--encoding names another)"
        notes.append(
            f"{name}: read as {title}, {why}"
            + (f"; its first line beyond plain English letters: {shown[:60]}" if shown else "")
        )
    if is_file:
        stream.seek(begin)
    return Text(stream, encoding, newline=newline), notes


def checked_lines(name: str, text: io.TextIOWrapper) -> Iterator[str]:
    """The lines with their ends. InputError: a NUL, or bytes of a pipe that are not as thought."""
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
        title = text.encoding.upper().removesuffix("-SIG")
        raise InputError(
            f"{name}, below line {number}: not {title}; save it as UTF-8, name its encoding with "
            "--encoding, or give it as a file, whose encoding is found"
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


class Unquoted:
    """
    What a file is if its quotes do not count: where each of its lines then has the header's number
    of fields, a quoted field that spans lines may be many rows, which must not vanish in silence.
    """

    def __init__(self, name: str, separator: str):
        self.name, self.separator = name, separator
        self.width = 0  # fields of the header
        self.is_possible = True  # until a line needs its quotes
        self.joined: list[str] = []  # lines "2-4" that quotes make one row and that may be many

    def fits(self, lines: list[str]) -> bool:
        filled = (line.strip("\r\n") for line in lines)
        return all(line.count(self.separator) + 1 == self.width for line in filled if line)

    def add(self, first: int, lines: list[str], fields: list[str]) -> None:
        """Looks at the lines of a record."""
        if not self.width:
            self.width = len(fields)
            self.is_possible = '"' not in lines[0]  # who puts names into quotes means them
        elif '"' in lines[0]:
            may_be_rows = self.fits(lines)
            self.is_possible = self.is_possible and may_be_rows
            if may_be_rows and len(lines) > 1:
                self.joined.append(f"{first}-{first + len(lines) - 1}")

    def stray(self, first: int, lines: Iterable[str]) -> list[str]:
        """The lines, from a faulty one on, that are no rows by themselves if quotes count."""
        places = []
        for number, line in enumerate(lines, first):
            self.is_possible = self.is_possible and self.fits([line])
            if '"' in line:
                try:
                    list(csv.reader([line], delimiter=self.separator, strict=True))
                except csv.Error:
                    places.append(str(number))
        return places

    def error(self, places: list[str]) -> InputError:
        more = f" and {len(places) - 10} more" if len(places) > 10 else ""
        return InputError(
            f"{self.name}, line {', '.join(places[:10])}{more}: quotes there join lines or enclose "
            f"no field, and without quotes each such line has the header's {self.width} fields; if "
            "each is a row, convert the file by Python's pandas.read_csv(FILE, "
            f"sep={self.separator!r}, dtype=str, keep_default_na=False, quoting=3).to_json("
            "'new.jsonl', orient='records', lines=True); if the quotes are meant, write one inside "
            "a quoted field twice, close each, and do the same without quoting=3"
        )

    def note(self) -> str:
        return (
            f"{self.name}, line {', '.join(self.joined[:10])}: quotes make one row of lines that "
            "would be rows without them; they are taken as meant, for other rows need theirs"
        )


def csv_records(
    name: str, lines: Iterator[str], separator: str, notes: list[str], is_file: bool
) -> Iterator[tuple[str, list[str]]]:
    """
    Where it begins, and its fields, of each record that is not blank. Where quotes may have joined
    rows, an InputError or a note comes at the end.
    """
    csv.field_size_limit(2**31 - 1)  # one field may be a whole book; the usual limit is 128 kB
    record: list[str] = []  # its lines

    def kept() -> Iterator[str]:
        for text in lines:
            record.append(text)
            yield text

    # strict: an open quote is an error here instead of one text that swallows the rest of the file
    reader, line = csv.reader(kept(), delimiter=separator, strict=True), 1
    unquoted = Unquoted(name, separator)
    try:
        for fields in reader:
            if fields:
                unquoted.add(line, record, fields)
                yield f"{name}, line {line}", fields
            line = reader.line_num + 1
            record.clear()
    except csv.Error as error:
        # of a pipe the other lines may come much later
        places = unquoted.joined + unquoted.stray(line, chain(record, lines if is_file else ()))
        if unquoted.width and unquoted.is_possible:
            raise unquoted.error(places) from None
        raise InputError(
            f"{name}, line {line}: {error}; write a quote inside a quoted field twice, and close it"
        ) from None
    if unquoted.joined and (unquoted.is_possible or separator == "\t"):
        raise unquoted.error(unquoted.joined)
    if unquoted.joined:
        notes.append(unquoted.note())


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


def table_of(
    name: str, records: Iterator[tuple[str, list]], separator: str, notes: list[str]
) -> Table:
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

    return Table(name, columns, rows(), notes)


def read_delimited(name: str, stream: BinaryIO, encoding: str, usual: str) -> Table:
    is_file = stream.seekable()
    text, notes = open_text(name, stream, "", encoding)
    lines = checked_lines(name, text)
    sample = list(islice(lines, 50 if is_file else 1))  # a pipe may bring the rest much later
    separator = find_separator(sample, usual)
    if said := re.fullmatch(r"sep=(.)\s*", sample[0]):  # Excel's own first line
        separator, sample[0] = said[1], "\n"
    if separator != usual:
        notes.append(f"{name}: columns are separated by {SEPARATORS.get(separator, separator)}")
    records = csv_records(name, chain(sample, lines), separator, notes, is_file)
    return table_of(name, records, separator, notes)


def read_lines(name: str, stream: BinaryIO, encoding: str) -> Table:
    """A text a line."""
    text, notes = open_text(name, stream, "\n", encoding)
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


def read_jsonl(name: str, stream: BinaryIO, encoding: str) -> Table:
    """One object a line."""
    text, notes = open_text(name, stream, "\n", encoding)  # a string may hold U+2028: no line end
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


def read_json(name: str, stream: BinaryIO, encoding: str) -> Table:
    """A list of objects, pandas' columns, or, though its name says otherwise, one object a line."""
    stream = in_memory(stream)
    text, notes = open_text(name, stream, "\n", encoding)
    content = "".join(checked_lines(name, text))
    first, _, others = content.strip().partition("\n")
    if first.startswith("{") and others.lstrip().startswith("{"):
        stream.seek(0)
        table = read_jsonl(name, stream, encoding)
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
    stream = in_memory(stream)
    with needing(name, "pyarrow", ANOTHER):
        import pandas
        from pyarrow import parquet

        metadata = parquet.read_schema(stream).metadata or {}
        stream.seek(0)
        frame = pandas.read_parquet(stream, engine="pyarrow", dtype_backend="pyarrow")
    columns = named_columns(name, list(map(str, frame.columns)))
    classes = classes_of(metadata.get(b"huggingface", b"{}"))
    rows = (dict(zip(columns, values)) for values in frame.itertuples(index=False, name=None))
    return Table(name, columns, with_class_names(converted(name, rows, "pyarrow"), classes))


def classes_of(metadata: bytes) -> dict[str, list[str]]:
    """The class names of each ClassLabel in what datasets adds to a Parquet file."""
    try:
        features = json.loads(metadata)["info"]["features"]
        return {
            column: feature["names"]
            for column, feature in features.items()
            if feature.get("_type") == "ClassLabel"
        }
    except (ValueError, LookupError, TypeError, AttributeError):  # of another program
        return {}


def with_class_names(rows: Iterator[Row], classes: dict[str, list[str]]) -> Iterator[Row]:
    """The rows with class names for numbers. -1 is "no label" there, and becomes None."""
    for where, row in rows:
        for column in classes.keys() & row.keys():
            number, names = row[column], classes[column]
            if isinstance(number, (int, float)):
                if number not in range(-1, len(names)):
                    raise InputError(
                        f"{where}: {number} in the column {column!r:.60}, which has the classes 0 "
                        f"to {len(names) - 1} ({short(names)}); correct it"
                    )
                row[column] = None if number == -1 else names[int(number)]
        yield where, row


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
    table = table_of(name, records, ",", [])
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


FORMS: dict[str, Callable[..., Table]] = {
    "csv": lambda *source: read_delimited(*source, ","),
    "tsv": lambda *source: read_delimited(*source, "\t"),
    "txt": lambda *source: read_delimited(*source, "\t"),  # Excel's "Unicode text"
    "jsonl": read_jsonl,
    "json": read_json,
    "lines": read_lines,
    "parquet": read_parquet,
    "xlsx": read_xlsx,
}
BINARY = ("parquet", "xlsx")  # without an encoding
ENDINGS = ", ".join(f".{form}" for form in FORMS if form != "lines")


def open_file(path: str | Path) -> BinaryIO:
    """A file to read. InputError where it cannot be, or is a device, which may never end."""
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            raise InputError(f"{path}: a device, not a file; name a file, or give it through stdin")
        return open(path, "rb")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from None


@contextmanager
def open_table(
    source: str | Path | BinaryIO,
    form: str = "",
    name: str = "",
    *,
    encoding: str = "",
    texts: list[str] | None = None,
) -> Iterator[Table]:
    """
    A table to read within the block, from a path, or from a stream such as sys.stdin.buffer, which
    stays open. `form` is one of FORMS; of a path its name tells it. `encoding` is that of
    text_encoding(), else it is found. A .txt file, be it packed or not, is a table; for who needs
    no label, and gives the columns of the `texts`, only where its first line names these.
    """
    with ExitStack() as stack:
        if isinstance(source, (str, Path)):
            name = name or str(source)
            form = form or form_of(name)
            stream = stack.enter_context(open_file(source))
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
        if encoding and form in BINARY:
            raise InputError(f"{name}: no text file, and so without an --encoding; leave it out")
        notes = []
        if form == "txt" and texts is not None:
            form = "tsv" if names_columns(content, encoding, texts) else "lines"
            notes.append(TXT[form].format(name=name, columns=short(texts)))
        try:
            table = FORMS[form](name, content, *([] if form in BINARY else [encoding]))
            table.notes[:0] = notes
            yield table
        except (EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise is_damaged(name, error) from None
        except OSError as error:
            if error.errno in (None, errno.EINVAL):  # of gzip, bz2 and zipfile; else a disk
                raise is_damaged(name, error) from None
            raise


TXT = {
    "tsv": "{name}: read as a table, whose first line names the column {columns}; --format lines "
    "takes it as a text a line",
    "lines": "{name}: read as a text a line, for its first line does not name the column {columns} "
    "beside others; --format tsv takes it as a table",
}


def names_columns(stream: BinaryIO, encoding: str, texts: list[str]) -> bool:
    """Whether the first line has several fields, among them the names of these columns."""
    start = stream.peek(8000)
    content = start.decode(encoding or utf_16(start[:1000]) or "utf-8-sig", "replace")
    line = (content.splitlines() or [""])[0]
    separator = find_separator([line], "\t")
    fields = next(csv.reader([line], delimiter=separator), [])
    try:
        find_columns(Table("", fields, iter(())), texts)
    except InputError:
        return False
    return len(fields) > 1 and (separator == "\t" or fields == [name.strip() for name in fields])


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
        f"{table.name}: {doubt}; {columns_shown(table, rows)}; name yours "
        f"with --{role}_column" + header * is_data(table.columns, rows)
    )


def columns_shown(table: Table, rows: list[dict]) -> str:
    """The columns, each with its first value that is not blank."""
    shown = []
    for column in table.columns:
        values = (row[column] for row in rows if str(row.get(column) or "").strip())
        value = next(values, None)
        shown.append(
            f"{column!r:.60} (empty)" if value is None else f"{column!r:.60} ({value!r:.40})"
        )
    return f"its columns, with a value of each: {', '.join(shown)[:600]}"


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
    """
    Text and label of every row. InputError where no row has a text, and where a text has no label,
    unless it may be so.
    """
    texts, label = find_columns(table, texts, label)
    first = list(islice(table.rows, 50))
    rows, interned = [], {}  # few labels, many rows: one string each
    for where, row in chain(first, table.rows):
        text, name = joined_text(where, row, texts), label_of(where, row, label)
        if name is None and text.strip() and not drop_unlabelled:
            raise InputError(
                f"{where}: the label is empty; fill it in, or leave such rows out "
                "with --drop_unlabelled"
            )
        rows.append((text, interned.setdefault(name, name)))
    if not any(text.strip() for text, _ in rows):
        raise InputError(
            f"{table.name}: no row with a text: of {len(rows)} rows all are empty in the column "
            f"{short(texts)}; {columns_shown(table, [row for _, row in first])}; name yours with "
            "--text_column"
        )
    check_one_class(table.name, interned.keys() - {None})
    return rows


def several_in_one(labels: Iterable[str]) -> list[str]:
    """The labels that look like several, as "comedy, drama" does, be these labels or not."""
    return sorted(
        label
        for label in labels
        if any(
            len(parts) > 1 and all(re.search(r"[^\W\d]", part) for part in parts)
            for parts in map(label.split, "|;,")
        )
    )


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


def read_own(
    dataset: str, texts: list[str], label: str, drop_unlabelled: bool = False, encoding: str = ""
) -> Parts:
    """
    A file, a folder with one file a part, a folder of datasets' save_to_disk, or hf:NAME[:CONFIG].
    """
    parts, notes = {}, []
    for part, opened in sources(dataset, encoding, notes).items():
        with opened as table:
            parts[part] = read_rows(table, texts, label, drop_unlabelled)
            notes += table.notes
            if part != "train" and parts[part] and not any(name for _, name in parts[part]):
                notes.append(f"{table.name}: no row has a label, so this part is left out")
                del parts[part]
    if composed := several_in_one({name for _, name in parts["train"] if name}):
        notes.append(
            f"labels may be several in one, such as {composed[0]!r:.60}: {len(composed)} of them "
            "look so; each is taken as one class of its own"
        )
    return Parts(parts["train"], parts.get("test"), parts.get("val"), notes)


def sources(
    dataset: str, encoding: str, notes: list[str]
) -> dict[str, AbstractContextManager[Table]]:
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
        return {"train": open_table(path, encoding=encoding)}
    files = sorted(file for file in path.iterdir() if not file.name.startswith("."))
    found = {
        part: [
            file
            for file in files
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
    others = [file.name for file in files if [file] not in found.values()]
    if others:
        notes.append(
            f"{path}: not read are {short(others)}; what is to be read is called train, test or "
            "validation (or valid, val, dev)"
        )
    return {part: open_table(files[0], encoding=encoding) for part, files in found.items() if files}


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
    """A datasets.Dataset as a table."""
    classes = {
        column: feature.names
        for column, feature in split.features.items()
        if hasattr(feature, "names")
    }
    rows = converted(name, iter(split), "datasets")
    return Table(name, list(split.column_names), with_class_names(rows, classes))

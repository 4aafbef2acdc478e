"""
One reader for each format of a table: CSV and its kin, JSON, Parquet, Excel, fastText's lines.

engine/reading.py opens a file and calls the reader of its format. What a text file does not say of
itself is found: its encoding, its separator, and whether its quotes count. One pass then checks
that each row has as many fields as the header. Nothing is repaired: what can be read in two ways is
an InputError of one line, which names the option of --read that decides it.
"""

import codecs
import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from io import BufferedReader
from itertools import chain, islice
from typing import Any

from engine.files import InputError, lacks_memory

Row = tuple[str, dict]  # where it stands, as "a.csv, line 7", and its values by column


@dataclass
class Table:
    """A table with at least one row, whose rows are read once, one after the other."""

    name: str  # what messages call it
    rows: Iterator[Row]
    columns: list[str] = field(default_factory=list)  # of the header, else of the first row
    notes: list[str] = field(default_factory=list)  # what was found, a line each, to be said
    has_lines: bool = False  # a text a line, without a header

    def __post_init__(self) -> None:
        rows = self.rows if self.has_lines else checked(self.rows)
        first = next(rows, None)
        if first is None:
            raise InputError(f"{self.name}: the file is empty, with no rows; it needs some")
        self.first, self.rows = first, chain([first], rows)
        self.columns = self.columns or paths(first[1])


def paths(item: dict) -> list[str]:
    """The names of an object's values; of an object inside of it "data.text"."""
    return [
        f"{name}.{path}" if path else name
        for name, value in item.items()
        for path in (paths(value) if isinstance(value, dict) else [""])
    ]


def checked(rows: Iterator[Row]) -> Iterator[Row]:
    """The rows. InputError for one that repeats the columns' names: they would become a class."""
    for where, row in rows:
        if not isinstance(row, dict):
            raise InputError(f"{where}: {row!r:.40} is not an object with named fields")
        if row and all(isinstance(v, str) and v.strip() == k.strip() for k, v in row.items()):
            raise InputError(
                f"{where}: the columns' names once more, as where files were joined; remove this "
                "row, or rename the columns if it is meant as a text"
            )
        yield where, row


# ---- the lines of a text file ----

PUNCTUATION = "€‚„…†‡‰‹‘’“”•–—™›\xa0¡£©«®°·»¿".encode("cp1252")
NOT_WESTERN = re.compile(  # what no text in Windows-1252 has, or hardly any
    b"[\x81\x8d\x8f\x90\x9d]"  # bytes that are none of its characters
    b"|[\xc2\xc3][\x80-\xbf]|\xe2\x80"  # letters, quotes and dashes in UTF-8
    b"|[^\0-\x7f%s]{3}" % PUNCTUATION  # words beyond English letters: Russian, Greek, Chinese
)


class Text(io.TextIOWrapper):
    """Leaves its stream open when it is gone: the stream belongs to whoever opened it."""

    def close(self) -> None:
        pass


@dataclass
class Source:
    """A file as its reader gets it: unpacked, and from its first byte on if it can be rewound."""

    name: str
    stream: BufferedReader
    options: dict[str, str]  # given by --read
    has_columns: Callable[[list[str]], bool]  # whether those that are asked for are among these
    needs_label: bool
    found: dict[str, str] = field(default_factory=dict)  # as options of --read

    @cached_property
    def encoding(self) -> str:
        """The given one or the one found; of a pipe, which is read once, its first bytes decide."""
        if "encoding" in self.options:
            return self.options["encoding"]
        if self.stream.peek(2)[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            encoding = "utf-16"
        else:
            encoding = find_encoding(self) if self.stream.seekable() else "utf-8"
        if encoding != "utf-8":
            self.found["encoding"] = encoding
        return encoding

    def lines(self, newline: str = "\n") -> Iterator[str]:
        """All lines with their ends. InputError: an empty file, a NUL, wrong bytes."""
        number, encoding = 0, self.encoding
        if self.stream.seekable():
            self.stream.seek(0)
        try:
            for number, line in enumerate(Text(self.stream, encoding, newline=newline), 1):
                if "\0" in line:
                    raise undecodable(f"{self.name}, line {number}: a NUL byte", encoding)
                yield line.removeprefix("\ufeff") if number == 1 else line
        except UnicodeError:  # a part of the file is decoded at a time: the line is not known
            raise undecodable(f"{self.name}, below line {number}", encoding) from None

    def places(self) -> Iterator[tuple[str, str]]:
        """Where each line stands, and the line without its end."""
        for number, line in enumerate(self.lines(), 1):
            yield f"{self.name}, line {number}", line.removesuffix("\n").removesuffix("\r")


def find_encoding(source: Source) -> str:
    """
    UTF-8, or Windows-1252 for what is none but looks like a Western language. InputError for all
    else, UTF-8 with some broken bytes among it.
    """
    faulty, is_western = 0, True
    for number, line in enumerate(source.stream, 1):
        if line.isascii():
            continue
        is_western = is_western and not NOT_WESTERN.search(line)
        try:
            line.decode()
        except UnicodeDecodeError:
            faulty = faulty or number
    if faulty and not is_western:
        raise undecodable(f"{source.name}, line {faulty}", "UTF-8")
    return "cp1252" if faulty else "utf-8"


def undecodable(where: str, encoding: str) -> InputError:
    return InputError(
        f"{where}: not {encoding.upper()}; name its encoding with --read encoding=NAME, correct "
        "this line, or bring the whole file if it ends there"
    )


# ---- CSV and its kin: separator and quotes ----

csv.field_size_limit(2**31 - 1)  # one field may be a whole book; the usual limit is 128 kB
SEPARATORS = ",;\t|"
SEP_LINE = re.compile(r"sep=([^\"\r\n])\s*")  # Excel's own first line


def csv_reader(lines: Iterable[str], options: dict[str, str]):
    """Python's reader under these options of --read. It is strict: csv.Error for an open quote."""
    return csv.reader(
        lines,
        strict=True,
        delimiter=options["sep"],
        quoting=csv.QUOTE_NONE if options.get("quoting") == "none" else csv.QUOTE_MINIMAL,
        escapechar=options.get("escapechar"),
        skipinitialspace=options.get("skipinitialspace") == "yes",
    )


def find_layout(lines: list[str], given: dict[str, str], usual: str) -> dict[str, str]:
    """
    The given options and what these first lines of a file show: the separator, and, if need be, a
    blank before the quotes (skipinitialspace) or a backslash before those inside (escapechar).
    Under them all lines have as many fields as the first, and that has the most.
    """
    if said := SEP_LINE.fullmatch("".join(lines[:1])):
        return {"sep": said[1]} | given

    def score(options: dict[str, str]) -> tuple:
        rows: list[list[str]] = []
        is_whole = True
        try:
            rows += filter(None, csv_reader(lines, options))
        except csv.Error as error:  # where the sample ends, a quoted field may be open
            is_whole = "unexpected end" in str(error)
        width = len(rows[0]) if rows else 0
        is_even = width > 1 and all(len(fields) == width for fields in rows)
        has_blanks = any(re.match(' +"', field) for fields in rows for field in fields)
        is_usual = options["sep"] == usual
        return is_even, is_whole, width, is_usual, not has_blanks, -len(options)

    kinds: list[dict[str, str]] = [{}]
    if given.get("quoting") != "none":
        kinds += [{"skipinitialspace": "yes"}, {"escapechar": "\\"}]
    return max(({"sep": sep} | kind | given for sep in SEPARATORS for kind in kinds), key=score)


def csv_rows(source: Source, options: dict[str, str]) -> Iterator[tuple[int, int, list[str]]]:
    """Of each row, but not of blank lines and Excel's sep=: its first and last line, its fields."""
    reader, line = csv_reader(source.lines(newline=""), options), 1
    for fields in reader:
        if fields and not (line == 1 and SEP_LINE.fullmatch(options["sep"].join(fields))):
            yield line, reader.line_num, fields
        line = reader.line_num + 1


def check_rows(source: Source, options: dict[str, str]) -> dict[str, str]:
    """
    Reads a file through as these options say. Returns them, with quoting=none where the quotes
    enclose no fields.

    InputError with the line of a row that has more or fewer fields than the first, of a quote that
    is not closed, and of quotes that may have joined rows: where a file reads as well without its
    quotes, many rows would vanish in one text in silence.
    """
    width = last = joined = 0
    is_faulty = False
    try:
        for line, last, fields in csv_rows(source, options):
            width = width or len(fields)
            if len(fields) != width:
                raise InputError(
                    f"{source.name}, line {line}: the header has {width} fields, and this row "
                    f"{len(fields)}; put quotes round a field that contains {options['sep']!r}"
                )
            joined = joined or (line if last > line else 0)
    except csv.Error:
        is_faulty, joined = True, last + 1
    if joined and "quoting" not in options:
        if is_faulty and reads_without_quotes(source, options["sep"], may_open=False):
            return check_rows(source, options | {"quoting": "none"})
        is_faulty = is_faulty or reads_without_quotes(source, options["sep"], may_open=True)
    if is_faulty:
        raise InputError(
            f"{source.name}, line {joined}: a quote is open, encloses no whole field, or joins "
            "lines that may be rows; if quotes are plain characters, give --read quoting=none; if "
            "they are meant, give --read quoting=minimal, write one inside a quoted field twice, "
            "and close each"
        )
    return options


def reads_without_quotes(source: Source, sep: str, may_open: bool) -> bool:
    """
    Whether each line is a row with as many fields as the first if quotes are plain characters, and
    the first line has none; unless one `may_open`, also whether each line closes its quotes.
    """
    opening = re.compile(rf'(^|{re.escape(sep)})"([^"]|"")*$')
    stripped = (line.rstrip("\r\n") for line in source.lines(newline=""))
    lines = (line for line in stripped if line and not SEP_LINE.fullmatch(line))
    first = next(lines, '"')
    return '"' not in first and all(
        line.count(sep) == first.count(sep) and (may_open or not opening.search(line))
        for line in lines
    )


def read_delimited(source: Source, usual: str) -> Table:
    sample = list(islice(source.lines(newline=""), 200))
    options = check_rows(source, find_layout(sample, source.options, usual))
    usually = {"sep": usual} | source.options
    source.found |= {key: value for key, value in options.items() if usually.get(key) != value}
    rows = csv_rows(source, options)
    return table_of(source, ((f"{source.name}, line {at}", fields) for at, _, fields in rows))


def table_of(source: Source, records: Iterator[tuple[str, list[str]]]) -> Table:
    """A table of records, of which the first has the names, unless --read says otherwise."""
    where, first = next(records, (source.name, []))
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
    return Table(source.name, ((at, dict(zip(columns, row))) for at, row in records), columns)


def check_names(where: str, columns: list[str]) -> None:
    for column, times in Counter(columns).most_common(1):
        if times > 1:
            raise InputError(
                f"{where}: the column {column!r:.60} stands twice; rename one, or name all with "
                "--read names='text label' if this is no row of names"
            )


def read_lines(source: Source) -> Table:
    """A text a line."""
    rows = ((where, {"text": line}) for where, line in source.places())
    return Table(source.name, rows, has_lines=True)


def read_fasttext(source: Source) -> Table:
    """fastText's own format: a text a line, behind its labels, as __label__sport."""
    rows = (
        (where, {"label": labels.replace("__label__", "").split(), "text": text})
        for where, line in source.places()
        for labels, text in re.findall(r"^((?:__label__\S+\s+)*)(.*\S)\s*$", line)
    )
    return Table(source.name, rows)


def read_txt(source: Source) -> Table:
    """
    A .txt file is a table, as Excel's "Unicode text" is; for who needs no label, only where its
    first line names the text beside other columns. Else it has a text a line, or is fastText's.
    """
    first = next(source.lines(newline=""), "")
    form = "fasttext" if first.startswith("__label__") else "tsv"
    if form == "tsv" and not source.needs_label and "names" not in source.options:
        sep = find_layout([first], source.options, "\t")["sep"]
        fields = [name.strip('"\r\n') for name in first.split(sep)]
        is_header = sep == "\t" or fields == [name.strip() for name in fields]
        form = "tsv" if is_header and len(fields) > 1 and source.has_columns(fields) else "lines"
    if form == "fasttext" or not source.needs_label:
        source.found = {"format": form} | source.found
    return FORMS[form](source)


# ---- JSON ----


def parse_json(where: str, text: str) -> Any:
    """By Python's json: pandas takes the last of two values under one name in silence."""

    def without_repeats(pairs: list[tuple[str, object]]) -> dict:
        check_names("an object", [name for name, _ in pairs])
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=without_repeats)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not valid JSON ({str(error)[:80]}); correct it") from None


def read_jsonl(source: Source) -> Table:
    """One object a line."""
    rows = ((where, parse_json(where, line)) for where, line in source.places() if line.strip())
    return Table(source.name, rows)


def read_json(source: Source) -> Table:
    """Objects in one of pandas' orders, or, though the name says otherwise, one object a line."""
    content = "".join(source.lines())
    first, _, others = content.strip().partition("\n")
    if first.startswith("{") and others.lstrip().startswith("{"):
        source.found["format"] = "jsonl"
        return read_jsonl(source)
    objects = objects_of(source, parse_json(source.name, content))
    rows = ((f"{source.name}, item {number}", item) for number, item in enumerate(objects, 1))
    return Table(source.name, rows)


def objects_of(source: Source, whole) -> list:
    """The rows of a JSON value in pandas' orders records, table, split, index or columns."""
    if isinstance(whole, list):
        return whole
    remedy = (
        "it is neither a list of objects nor columns of equal length; one object a line is a "
        ".jsonl file"
    )
    with needing(source.name, "pandas", remedy):
        import pandas

        if isinstance(rows := whole.get("data"), list) and whole.keys() & {"index", "schema"}:
            return rows if "schema" in whole else [dict(zip(whole["columns"], x)) for x in rows]
        parts = list(whole.values())
        if isinstance(parts[0], dict) and not source.has_columns(list(whole)):
            if source.has_columns(paths(parts[0])):
                return parts  # index: {"0": {"text": ..., "label": ...}}
        return pandas.DataFrame(whole, dtype=object).to_dict("records")


# ---- Parquet and Excel ----

ANOTHER = "it is damaged, or another format: save it as CSV"


@contextmanager
def needing(name: str, package: str, remedy: str = ANOTHER) -> Iterator[None]:
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


def read_parquet(source: Source) -> Table:
    with needing(source.name, "pyarrow"):
        from pyarrow import parquet

        file = parquet.ParquetFile(source.stream)
        metadata = file.schema_arrow.metadata or {}
        features = (
            json.loads(metadata.get(b"huggingface", "{}")).get("info", {}).get("features", {})
        )
        named = {c: f for c, f in features.items() if isinstance(f, dict)}  # others are lists
        classes = {c: f["names"] for c, f in named.items() if f.get("_type") == "ClassLabel"}
        parts = file.iter_batches(batch_size=1000)
    return arrow_table(source.name, parts, "pyarrow", classes)


def arrow_table(name: str, parts: Iterable, package: str, classes: dict[str, list[str]]) -> Table:
    """
    A table in parts of Arrow's, its values as JSON has them: dates, bytes and decimal numbers are
    text. Numbers of the `classes` that a column has become their names; -1, which means "no label"
    there, becomes None.
    """
    names = {c: {None: None, -1: None, **dict(enumerate(classes[c]))} for c in classes}

    def rows() -> Iterator[Row]:
        number = 0
        with needing(name, package):
            for part in parts:
                part.validate(full=True)  # whether all texts are UTF-8
                for row in part.to_pylist():
                    number += 1
                    row |= {c: names[c][row[c]] for c in names}
                    yield f"{name}, row {number}", json.loads(json.dumps(row, default=str))

    return Table(name, rows())


def short(names: Iterable[str]) -> str:
    return ", ".join(f"{name!r:.40}" for name in names)[:200]


def read_xlsx(source: Source) -> Table:
    """The given sheet, or the first that has the columns; each cell is text, as in CSV."""
    with needing(source.name, "openpyxl"):
        import pandas

        frames = pandas.read_excel(
            source.stream, None, header=None, dtype=object, na_filter=False, engine="openpyxl"
        )
        sheets = {
            sheet: frame.map(lambda value: str(value) if value == value else "")
            for sheet, frame in frames.items()
        }

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
ENDINGS = ", ".join(f".{form}" for form in FORMS if form not in ("lines", "fasttext"))

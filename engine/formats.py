"""
Readers for the formats of tables: CSV and its variants, JSON, Parquet, Excel, fastText's lines.

engine/reading.py opens a file and calls the reader of its format. The encoding, the separator and
the meaning of quotes in a text file are detected. One pass then checks that each row has as many
fields as the header. Nothing is repaired: if a file can be read in two ways, an InputError of one
line names the option of --read that decides.
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

Row = tuple[str, dict]  # its place, as "a.csv, line 7", and its values by column


@dataclass
class Table:
    """A table with at least one row; its rows can be read once, one after the other."""

    name: str  # in messages
    rows: Iterator[Row]
    columns: list[str] = field(default_factory=list)  # of the header, else of the first row
    notes: list[str] = field(default_factory=list)  # what was detected, one line each, to print
    has_lines: bool = False  # whether each line is a text, without a header

    def __post_init__(self) -> None:
        rows = self.rows if self.has_lines else checked(self.rows)
        first = next(rows, None)
        if first is None:
            raise InputError(f"{self.name}: the file is empty, with no rows; it needs some")
        self.first, self.rows = first, chain([first], rows)
        self.columns = self.columns or paths(first[1])


def paths(item: dict) -> list[str]:
    """The names of an object's values; "data.text" for a value of an inner object."""
    return [
        f"{name}.{path}" if path else name
        for name, value in item.items()
        for path in (paths(value) if isinstance(value, dict) else [""])
    ]


def checked(rows: Iterator[Row]) -> Iterator[Row]:
    """Yields the rows. InputError for a row that repeats the header: it would become a class."""
    for where, row in rows:
        if not isinstance(row, dict):
            raise InputError(
                f"{where}: {row!r:.40} is not an object with named fields, such as "
                '{"text": "...", "label": "..."}; a list of objects needs --read format=json'
            )
        if row and all(isinstance(v, str) and v.strip() == k.strip() for k, v in row.items()):
            raise InputError(
                f"{where}: the columns' names once more, as if files were joined; remove this "
                "row, or rename the columns if it is meant as a text"
            )
        yield where, row


# ---- the lines of a text file ----

PUNCTUATION = "€‚„…†‡‰‹‘’“”•–—™›\xa0¡£©«®°·»¿".encode("cp1252")
NOT_WESTERN = re.compile(  # bytes that texts in Windows-1252 never or hardly ever have
    b"[\x81\x8d\x8f\x90\x9d]|([\x82\x83].){2}"  # bytes without a character; Shift JIS kana
    b"|[\xc2\xc3][\x80-\xbf]|\xe2\x80"  # letters, quotes and dashes in UTF-8
    b"|[^\0-\x7f%s]{3}" % PUNCTUATION  # words beyond English letters: Russian, Greek, Chinese
)


class Text(io.TextIOWrapper):
    """A text stream that does not close its binary stream, which belongs to the caller."""

    def close(self) -> None:
        pass


@dataclass
class Source:
    """The unpacked file that a reader gets; lines() starts at its first byte if it is seekable."""

    name: str
    stream: BufferedReader
    options: dict[str, str]  # given by --read
    has_columns: Callable[[list[str]], bool]  # whether these include the wanted columns
    needs_label: bool
    found: dict[str, str] = field(default_factory=dict)  # as options of --read

    @cached_property
    def encoding(self) -> str:
        """The given or the detected encoding; for a pipe only the first bytes can decide."""
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
        """Yields all lines with their line ends. InputError for a NUL byte or wrong bytes."""
        number, encoding = 0, self.encoding
        if self.stream.seekable():
            self.stream.seek(0)
        try:
            for number, line in enumerate(Text(self.stream, encoding, newline=newline), 1):
                if "\0" in line:
                    raise undecodable(f"{self.name}, line {number}: a NUL byte", encoding)
                yield line.removeprefix("\ufeff") if number == 1 else line
        except UnicodeError:  # the file is decoded in blocks, so the line is not known
            raise undecodable(f"{self.name}, below line {number}", encoding) from None

    def places(self) -> Iterator[tuple[str, str]]:
        """Yields the place of each line, and the line without its end."""
        for number, line in enumerate(self.lines(), 1):
            yield f"{self.name}, line {number}", line.removesuffix("\n").removesuffix("\r")


def find_encoding(source: Source) -> str:
    """
    Returns UTF-8, or Windows-1252 if the bytes are not UTF-8 but look like a Western language.
    InputError for anything else, including UTF-8 with some broken bytes.
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


# ---- CSV and its variants: separator and quotes ----

csv.field_size_limit(2**31 - 1)  # one field may be a whole book; the usual limit is 128 kB
SEPARATORS = ",;\t|"
SEP_LINE = re.compile(r"sep=([^\"\r\n])\s*")  # Excel's own first line


def csv_reader(lines: Iterable[str], options: dict[str, str]):
    """Python's CSV reader with these options of --read; strict: csv.Error for an open quote."""
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
    Adds to the given options what the first lines of a file show: the separator and, if needed, a
    blank before quotes (skipinitialspace) or a backslash before inner quotes (escapechar). Takes
    the options with which all lines have as many fields as the first, and the first has most.
    """
    if said := SEP_LINE.fullmatch("".join(lines[:1])):
        return {"sep": said[1]} | given

    def score(options: dict[str, str]) -> tuple:
        rows: list[list[str]] = []
        is_whole = True
        try:
            rows += filter(None, csv_reader(lines, options))
        except csv.Error as error:  # a quoted field may be open at the end of the sample
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
    """Yields first line, last line and fields of each row, without blank lines and Excel's sep=."""
    reader, line = csv_reader(source.lines(newline=""), options), 1
    for fields in reader:
        if fields and not (line == 1 and SEP_LINE.fullmatch(options["sep"].join(fields))):
            yield line, reader.line_num, fields
        line = reader.line_num + 1


def check_rows(source: Source, options: dict[str, str]) -> dict[str, str]:
    """
    Reads the whole file with these options. Returns them, with quoting=none if quotes enclose no
    fields.

    Raises InputError with the line of a row that has more or fewer fields than the first, of an
    open quote, or of quotes that may have joined rows: if the file can also be read with quotes as
    plain characters, many rows could silently become one text.
    """
    width = last = joined = 0
    is_faulty = False
    try:
        for line, last, fields in csv_rows(source, options):
            width = width or len(fields)
            if len(fields) != width:
                raise InputError(
                    f"{source.name}, line {line}: the header and this row have {width} and "
                    f"{len(fields)} fields; put quotes round a field with {options['sep']!r} in it"
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
    Whether, with quotes as plain characters, each line has as many fields as the first line, which
    has no quote. Without `may_open`, each line must also close its quotes.
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
    """A table of records; the first one has the names, unless --read says otherwise."""
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
                "--read names='text label' if this is not a header"
            )


def read_lines(source: Source) -> Table:
    """Reads one text per line."""
    rows = ((where, {"text": line}) for where, line in source.places())
    return Table(source.name, rows, has_lines=True)


def read_fasttext(source: Source) -> Table:
    """Reads fastText's format: one text per line, after its labels, such as __label__sport."""
    rows = (
        (where, {"label": own[0] if len(own) == 1 else own, "text": text})
        for where, line in source.places()
        for labels, text in re.findall(r"^((?:__label__\S+\s+)*)(.*\S)\s*$", line)
        for own in [labels.replace("__label__", "").split()]
    )
    return Table(source.name, rows)


def read_txt(source: Source) -> Table:
    """
    Reads a .txt file: fastText's lines, or else a table, such as Excel's "Unicode text". If no
    label is needed and the first line is not a header with the text column, each line is a text.
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


def parse_json(where: str, text: str, remedy: str = "correct it") -> Any:
    """Parses with Python's json, because pandas silently takes the last of repeated names."""

    def without_repeats(pairs: list[tuple[str, object]]) -> dict:
        check_names("an object", [name for name, _ in pairs])
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=without_repeats)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not valid JSON ({str(error)[:80]}); {remedy}") from None


def read_jsonl(source: Source) -> Table:
    """Reads one object per line."""
    remedy = "correct it, or give --read format=json if the whole file is one JSON value"
    lines = ((where, line) for where, line in source.places() if line.strip())
    rows = ((where, parse_json(where, line, remedy)) for where, line in lines)
    return Table(source.name, rows)


def read_json(source: Source) -> Table:
    """Reads objects in one of pandas' orders or, despite the file's name, one object per line."""
    content = "".join(source.lines())
    first, _, others = content.strip().partition("\n")
    if first.startswith("{") and others.lstrip().startswith("{"):
        source.found["format"] = "jsonl"
        return read_jsonl(source)
    objects = objects_of(source, parse_json(source.name, content))
    rows = ((f"{source.name}, item {number}", item) for number, item in enumerate(objects, 1))
    return Table(source.name, rows)


def objects_of(source: Source, whole) -> list:
    """The rows of a JSON value in pandas' orders: records, table, split, index or columns."""
    if isinstance(whole, list):
        return whole
    remedy = (
        "it is neither a list of objects nor columns of equal length; a file with one object per "
        "line is a .jsonl file"
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
    """Turns a missing package, and any error of this package, into an InputError of one line."""
    try:
        yield
    except InputError:
        raise
    except ImportError:
        raise InputError(f"{name}: reading it needs {package}: pip install {package}") from None
    except Exception as error:
        if lacks_memory(error):
            raise
        line = f"{type(error).__name__}: {' '.join(str(error).split()):.120}"
        raise InputError(f"{name}: cannot be read by {package} ({line}); {remedy}") from None


def read_parquet(source: Source) -> Table:
    with needing(source.name, "pyarrow"):
        from pyarrow import parquet

        file = parquet.ParquetFile(source.stream)
        about = file.schema_arrow.metadata or {}
        features = json.loads(about.get(b"huggingface", "{}")).get("info", {}).get("features", {})
        lists = {c: f[0] if isinstance(f, list) else f.get("feature") for c, f in features.items()}
        inner = {c: lists[c] or f for c, f in features.items()}
        classes = {c: f["names"] for c, f in inner.items() if f.get("_type") == "ClassLabel"}
    return arrow_table(source.name, file.iter_batches(batch_size=1000), "pyarrow", classes)


def arrow_table(name: str, parts: Iterable, package: str, classes: dict[str, list[str]]) -> Table:
    """
    A table from parts of Arrow's, with the values of JSON: dates, bytes and decimal numbers become
    text. In a column with `classes`, numbers, also those of a list, become class names, and -1 ("no
    label") becomes None.
    """
    names = {c: {None: None, -1: None, **dict(enumerate(classes[c]))} for c in classes}

    def as_json(value) -> object:
        try:
            return value.decode() if isinstance(value, bytes) else str(value)
        except UnicodeDecodeError:  # an image, say: text_of() refuses a list
            return list(value)

    def rows() -> Iterator[Row]:
        number = 0
        with needing(name, package):
            for part in parts:
                part.validate(full=True)  # checks that all texts are UTF-8
                for row in part.to_pylist():
                    number += 1
                    for column, name_of in names.items():
                        value = row[column]
                        is_list = isinstance(value, list)
                        row[column] = [name_of[v] for v in value] if is_list else name_of[value]
                    yield f"{name}, row {number}", json.loads(json.dumps(row, default=as_json))

    return Table(name, rows())


def short(names: Iterable[str]) -> str:
    return ", ".join(f"{name!r:.40}" for name in names)[:200]


def read_xlsx(source: Source) -> Table:
    """Reads the given sheet, or the first one with the columns; each cell is text, as in CSV."""
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

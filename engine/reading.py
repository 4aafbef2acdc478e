"""
Whatever table people have, as rows: a file is opened, unpacked, and read by its format.

    with open_table("reviews.csv.gz", texts=["text"], label="label") as table:
        texts, label = find_columns(table, ["text"], "label")
        for where, row in table.rows:       # "reviews.csv.gz, line 7", {"text": ..., "label": ...}
            print(joined_text(where, row, texts), label_of(where, row, label))
    print(*table.notes, sep="\\n")          # what was found, as the options of --read that say so

Whatever is wrong with a table is an InputError of one line.
"""

import argparse
import ast
import bz2
import codecs
import errno
import gzip
import math
import os
import re
import shlex
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from io import BufferedReader
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, cast

from engine.files import InputError
from engine.formats import ENDINGS, FORMS, TAKES, Source, Table, short

# ---- the options of --read: what is found in a file, and what overrules it ----

CHARACTER = '[^"\r\n]'
READ = {  # the values that each option takes
    "sep": CHARACTER,
    "encoding": ".+",
    "quoting": "none|minimal",
    "escapechar": CHARACTER,
    "skipinitialspace": "yes|no",
    "header": "none",
    "names": ".*[^ ,].*",
    "sheet": ".+",
    "format": "|".join(FORMS),
}
READ_HELP = (
    "how your own file is read, where what the program finds in it is wrong: sep=';' "
    "encoding=cp1251 quoting=none (quotes are plain characters) or minimal, escapechar='\\' "
    "skipinitialspace=yes header=none names='label text' sheet=NAME format=tsv"
)


def read_option(item: str) -> str:
    """An argparse type: NAME=VALUE, an option of --read."""
    name, _, value = item.partition("=")
    if name not in READ:
        raise argparse.ArgumentTypeError(
            f"{item!r:.60} is not NAME=VALUE with one of the names {', '.join(READ)}; a file comes "
            "before --read"
        )
    value = {"\\t": "\t", "\\\\": "\\"}.get(value, value)  # as in sep="\t" and escapechar="\\"
    value = text_encoding(value) if name == "encoding" else value
    if not re.fullmatch(READ[name], value):
        what = "one character" if READ[name] == CHARACTER else READ[name].replace("|", " or ")
        raise argparse.ArgumentTypeError(f"{item!r:.60}: it takes {what}")
    return f"{name}={value}"


def text_encoding(name: str) -> str:
    """The encoding of this name, as Python calls it."""
    try:
        "a".encode(name)  # some codecs, as base64, are none of a text
        known = codecs.lookup(name).name
    except (LookupError, ValueError):
        raise argparse.ArgumentTypeError(
            f"{name!r:.40} is no encoding of texts, as cp1251, koi8-r, gb18030 and big5 are"
        ) from None
    return "utf-8-sig" if known == "utf-8" else known


def as_words(options: dict[str, str]) -> str:
    """The options as a command line has them."""
    shown = (f"{name}={shlex.quote(value)}" for name, value in options.items())
    return " ".join(["--read", *shown]).replace("\t", "\\t")


# ---- bytes: what is packed is unpacked, by its first bytes ----

PACKED = re.compile(r"\.(gz|bz2|zip)$")


def form_of(name: str) -> str:
    """The format that a file name tells, "csv" of reviews.csv.gz; "" if it is none of FORMS."""
    form = Path(PACKED.sub("", name.lower())).suffix.removeprefix(".")
    return form if form in FORMS else ""


def open_file(path: str | Path) -> BufferedReader:
    """A file to read. InputError where it cannot be, or is a device, which may never end."""
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            raise InputError(f"{path}: a device, not a file; name a file, or give it through stdin")
        return open(path, "rb")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from None


def rewindable(stream: BufferedReader, closing: ExitStack) -> BufferedReader:
    """The stream from its first byte on, which can be read again: a pipe is copied to a file."""
    if stream.seekable() and stream.tell() == 0:
        return stream
    copy = closing.enter_context(tempfile.TemporaryFile())
    shutil.copyfileobj(stream, copy)
    copy.seek(0)
    return cast(BufferedReader, copy)


def unpacked(
    name: str, stream: BufferedReader, form: str, closing: ExitStack
) -> tuple[BufferedReader, str]:
    """The stream, or what is inside of a .gz, .bz2 or .zip file, and its format."""
    start = stream.peek(8)[:8]
    if start[:4] == b"\xd0\xcf\x11\xe0":
        raise InputError(f"{name}: an old Excel file (.xls); save it as .xlsx or as CSV")
    if start[:2] == b"\x1f\x8b":
        return BufferedReader(cast(Any, gzip.open(rewindable(stream, closing)))), form
    if re.match(rb"BZh[1-9]1AY&", start):
        return BufferedReader(cast(Any, bz2.open(rewindable(stream, closing)))), form
    if start[:4] != b"PK\x03\x04":
        is_live = form in ("lines", "jsonl", "fasttext")  # of a pipe each line is read as it comes
        return stream if is_live else rewindable(stream, closing), form
    stream = rewindable(stream, closing)
    archive = zipfile.ZipFile(stream)
    members = [m for m in archive.namelist() if not re.search("/$|^__MACOSX", m)]
    if "xl/workbook.xml" in members:
        stream.seek(0)
        return stream, "xlsx"
    if len(members) != 1:
        raise InputError(
            f"{name}: a zip with {len(members)} files ({', '.join(members)[:200]}); "
            "pack the table alone, or name one that you unpacked"
        )
    return BufferedReader(cast(Any, archive.open(members[0]))), form or form_of(members[0])


@contextmanager
def open_table(
    source: str | Path | BinaryIO,
    form: str = "",
    name: str = "",
    *,
    read: list[str] | None = None,
    texts: list[str] | None = None,
    label: str | None = None,
) -> Iterator[Table]:
    """
    A table to read within the block, from a path, or from a stream such as sys.stdin.buffer, which
    stays open. `form` is one of FORMS; of a path its name tells it. `read` are those of
    read_option(), and overrule both the name and what is found; `texts` and `label`, None if none
    is needed, are the columns that are asked for.
    """
    options = dict(item.split("=", 1) for item in read or [])
    name = name or str(source)
    form = options.pop("format", "") or form or form_of(name)

    def has_columns(columns: list[str]) -> bool:
        with suppress(InputError):
            find_columns(Table("", columns, iter(())), texts or ["text"], label)
            return True
        return False

    with ExitStack() as closing:
        if isinstance(source, (str, Path)):
            stream = closing.enter_context(open_file(source))
        else:
            has_peek = hasattr(source, "peek")
            stream = cast(BufferedReader, source if has_peek else BufferedReader(cast(Any, source)))
        try:
            stream, form = unpacked(name, stream, form, closing)
            if form not in FORMS:
                raise InputError(
                    f"{name}: its name must end in one of {ENDINGS}, or these with .gz, .bz2 or "
                    ".zip; or say with --read format=csv what it is"
                )
            if useless := sorted(options.keys() - TAKES[form]):
                raise InputError(f"{name}: --read {useless[0]}= means nothing for {form}")
            opened = Source(name, stream, options, has_columns, label is not None)
            table = FORMS[form](opened)
            if opened.found:
                shown = "; its first line beyond plain English letters: " * bool(opened.shown)
                found = f"{as_words(opened.found)}{shown}{opened.shown}"
                table.notes.insert(0, f"{name}: read as {found}")
            yield table
        except (EOFError, zipfile.BadZipFile, zlib.error, OSError) as error:
            if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
                raise  # of a disk; gzip, bz2 and zipfile raise the others
            line = " ".join(str(error).split())[:80]
            raise InputError(
                f"{name}: packed in another way, or damaged ({line}); unpack it yourself"
            ) from None


# ---- columns: those that are asked for, or leave no doubt ----

USUAL = {
    "text": ("text", "sentence", "content", "review", "title"),
    "label": ("label", "class", "category", "target", "tag"),
}
ONE_CLASS = (
    "a text has one class here, and files with several labels a text are not supported: "
    "keep one of them"
)


def candidates(columns: list[str], wanted: str, role: str) -> list[str]:
    """
    The columns that may be meant. A name may differ in case and outer blanks, and for "text" and
    "label", the defaults, one of USUAL may stand.
    """
    if wanted in columns:
        return [wanted]

    def alike(name: str) -> list[str]:
        return [c for c in columns if c.strip().casefold() == name.strip().casefold()]

    others = USUAL.get(role, ()) if wanted == role else ()
    return alike(wanted) or [column for name in others for column in alike(name)]


def find_columns(
    table: Table, texts: list[str], label: str | None = None
) -> tuple[list[str], str | None]:
    """
    The table's columns of these names; a note says where it is another name. InputError, with the
    columns and a value of each, where one is missing or in doubt.
    """
    wanted = [(text, "text") for text in texts]
    wanted += [(label, "label")] if label is not None else []
    found: list[str] = []
    for name, role in wanted:
        column = find_column(table, name, role)
        if column in found:
            both = "twice; once is enough" if role == "text" else "as text and as label"
            raise InputError(f"{table.name}: the column {column!r} is named {both}")
        found.append(column)
    return (found, None) if label is None else (found[:-1], found[-1])


def find_column(table: Table, wanted: str, role: str) -> str:
    found = candidates(table.columns, wanted, role)
    if len(found) != 1:
        raise InputError(missing_column(table, wanted, role, found))
    if found[0] != wanted:
        table.notes.append(f"{table.name}: the column {found[0]!r} is taken as the {role}")
    return found[0]


def missing_column(table: Table, wanted: str, role: str, found: list[str]) -> str:
    """What find_column says: every column with a value of it, and what to do."""
    rows: list[dict] = []
    with suppress(InputError):  # a fault further down is not what is to be told now
        rows += (row for _, row in islice(table.rows, 50))
    may_both = f"{' and '.join(map(repr, found))} may both be it"
    doubt = f"{table.name}: {may_both if found else f'no column {wanted!r}'}"
    values = {column: {str(value_of(row, column)) for row in rows} for column in table.columns}
    flags = [column for column in values if values[column] and values[column] <= {"0", "1"}]
    if role == "label" and len(flags) > 1:
        return (
            f"{doubt}, and the file seems multi-label: the columns {short(flags)} have 0 and 1 "
            f"alone; {ONE_CLASS}, such as --label_column {shlex.quote(flags[0])}"
        )
    is_data = any(len(c.split()) > 1 or re.fullmatch(r"-?[\d.]+", c) for c in table.columns)
    header = "; or, if the first row is none of names, give --read names='text label', say"
    return f"{doubt}; {columns_shown(table, rows)}; name yours with --{role}_column" + (
        header * is_data
    )


def columns_shown(table: Table, rows: list[dict]) -> str:
    """The columns, each with its first value that is not blank."""
    shown = []
    for column in table.columns:
        values = (value_of(row, column) for row in rows)
        value = next((value for value in values if str(value or "").strip()), None)
        shown.append(
            f"{column!r:.60} (empty)" if value is None else f"{column!r:.60} ({value!r:.40})"
        )
    return f"its columns, with a value of each: {', '.join(shown)[:600]}"


# ---- cells ----

MISSING = object()


def value_of(row: dict, column: str) -> object:
    """A row's value under this name, or at this path ("data.text") into its objects."""
    if column in row:
        return row[column]
    value: object = row
    for part in column.split("."):
        value = value.get(part, MISSING) if isinstance(value, dict) else MISSING
    return value


def field_of(where: str, row: dict, column: str) -> object:
    value = value_of(row, column)
    if value is MISSING:
        raise InputError(
            f"{where}: no column {column!r}, only {short(list(row))}; every row needs it"
        )
    return None if value != value else value  # JSON's NaN


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
    texts = [text_of(where, field_of(where, row, column)) for column in columns]
    return texts[0] if len(texts) == 1 else "\n".join(text for text in texts if text.strip())


def label_of(where: str, row: dict, column: str) -> str | None:
    """
    The row's label without outer white space, None without one: one rule for all formats. Whole
    numbers are written without a fraction (1.0 is "1"), booleans as True and False; a list of one
    label is that label, also where a cell of text has it, as "['a']".
    """
    label = field_of(where, row, column)
    if isinstance(label, str) and re.fullmatch(r"\s*[\[({].*[\])}]\s*", label, re.DOTALL):
        with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            label = ast.literal_eval(label.strip())
            label = label if isinstance(label, (list, tuple, set, dict)) else row[column]
    if isinstance(label, (list, tuple, set, dict)):
        if len(label) > 1 or isinstance(label, dict):
            raise InputError(f"{where}: the label is a list ({label!r:.60}); {ONE_CLASS}")
        label = next(iter(label), None)
    if isinstance(label, float) and label.is_integer():
        label = int(label)
    if isinstance(label, float) and not math.isfinite(label):
        raise InputError(f"{where}: the label is {label}; use a string or a number")
    return text_of(where, None if label is None else str(label)).strip() or None

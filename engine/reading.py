"""
Reads tables of any supported format as rows: opens a file, unpacks it, and calls its reader.

    with open_table("reviews.csv.gz", texts=["text"], label="label") as table:
        texts, label = find_columns(table, ["text"], "label")
        for where, row in table.rows:       # "reviews.csv.gz, line 7", {"text": ..., "label": ...}
            print(joined_text(where, row, texts), label_of(where, row, label))
    print(*table.notes, sep="\\n")          # what was detected, as options of --read

Any fault of a table raises an InputError of one line.
"""

import argparse
import ast
import gzip
import re
import shlex
import shutil
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from io import BufferedReader
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, cast

from engine.files import InputError
from engine.formats import ENDINGS, FORMS, Source, Table, needing, short

# ---- the options of --read, which override what is detected in a file ----

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
READ_EXAMPLES = (
    "sep=';' encoding=cp1251 quoting=none (quotes are plain characters) or minimal, "
    "escapechar='\\' skipinitialspace=yes header=none names='label text' sheet=NAME format=tsv"
)
READ_HELP = f"how your own file is read, if the detection is wrong: {READ_EXAMPLES}"


def read_option(item: str) -> str:
    """An argparse type: NAME=VALUE, an option of --read."""
    name, _, value = item.partition("=")
    value = {"\\t": "\t", "\\\\": "\\"}.get(value, value)  # as in sep="\t" and escapechar="\\"
    with suppress(LookupError, ValueError):
        if name == "encoding":
            "a".encode(value)  # codecs for bytes, such as base64, refuse it
        if re.fullmatch(READ[name], value):
            return f"{name}={value}"
    raise argparse.ArgumentTypeError(
        f"{item!r:.60} is none of the options {READ_EXAMPLES}; a file comes before --read"
    )


def as_words(options: dict[str, str]) -> str:
    """The options as words of a command line."""
    shown = (f"{name}={shlex.quote(value)}" for name, value in options.items())
    return " ".join(["--read", *shown]).replace("\t", "\\t")


# ---- opening files; packed ones are recognised by their first bytes ----

PACKED = re.compile(r"\.(gz|zip)$")


def form_of(name: str) -> str:
    """The format in a file name, such as "csv" in reviews.csv.gz; "" if it is none of FORMS."""
    form = Path(PACKED.sub("", name.lower())).suffix.removeprefix(".")
    return form if form in FORMS else ""


def open_file(path: str | Path) -> BufferedReader:
    """Opens a file to read. InputError if that fails."""
    try:
        return open(path, "rb")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from None


def copied(stream: Any, closing: ExitStack) -> BufferedReader:
    """Copies the stream into a temporary file, which can be read twice."""
    copy = closing.enter_context(tempfile.TemporaryFile())
    shutil.copyfileobj(stream, copy)
    copy.seek(0)
    return cast(BufferedReader, copy)


def unpacked(
    name: str, stream: BufferedReader, form: str, closing: ExitStack
) -> tuple[BufferedReader, str]:
    """The stream, or what is inside of a .gz or .zip file, and its format."""
    start = stream.peek(4)[:4]
    with needing(name, "gzip or zip", "it is damaged, or there is no room: unpack it yourself"):
        if start[:2] == b"\x1f\x8b":
            stream = copied(gzip.open(stream), closing)
            start = stream.peek(4)[:4]
        if not stream.seekable() and form not in ("lines", "jsonl", "fasttext"):
            stream = copied(stream, closing)  # of the others each line is a row as soon as it comes
        if start != b"PK\3\4":
            return stream, form
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
        return copied(archive.open(members[0]), closing), form or form_of(members[0])


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
    Opens a table to read within the block, from a path, or from a stream such as sys.stdin.buffer,
    which stays open. `form` is one of FORMS; the name of a path also tells it. `read` are options
    of read_option(); they override the name and what is detected. `texts` and `label` are the
    wanted columns; label is None if no label is needed.
    """
    options = dict(item.split("=", 1) for item in read or [])
    name = name or str(source)

    def has_columns(columns: list[str]) -> bool:
        with suppress(InputError):
            find_columns(Table("", iter([("", {})]), columns), texts or ["text"], label)
            return True
        return False

    with ExitStack() as closing:
        stream: Any = source
        if isinstance(source, (str, Path)):
            stream = closing.enter_context(open_file(source))
        stream = stream if hasattr(stream, "peek") else BufferedReader(stream)
        form = options.pop("format", "") or form or form_of(name)
        stream, form = unpacked(name, stream, form, closing)
        if form not in FORMS:
            raise InputError(
                f"{name}: its name must end in one of {ENDINGS}, or these with .gz or .zip; or say "
                "with --read format=csv what it is"
            )
        opened = Source(name, stream, options, has_columns, label is not None)
        table = FORMS[form](opened)
        if opened.found:
            table.notes.insert(0, f"{name}: read as {as_words(opened.found)}")
        yield table


# ---- columns: the wanted ones, or unambiguous usual names ----

USUAL = {
    "text": ("text", "sentence", "content", "review", "title"),
    "label": ("label", "class", "category", "target", "tag"),
}


def candidates(columns: list[str], wanted: str, role: str) -> list[str]:
    """
    The columns that may be meant. A name may differ in case and outer blanks; for the defaults
    "text" and "label", the names in USUAL match, too.
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
    The table's columns for these names; a note says if a column has another name. InputError, with
    all columns and a value of each, if one is missing or ambiguous.
    """
    found = [find_column(table, text, "text") for text in texts]
    its_label = None if label is None else find_column(table, label, "label")
    for column, times in Counter([*found, its_label]).items():
        if times > 1:
            raise InputError(f"{table.name}: the column {column!r} is named twice; name it once")
    return found, its_label


def find_column(table: Table, wanted: str, role: str) -> str:
    found = candidates(table.columns, wanted, role)
    if role == "label" and not found:
        check_not_multi_label(table)
    if len(found) != 1:
        doubt = f"{short(found)} may each be it" if found else f"no column {wanted!r:.60}"
        values = {column: field_of(*table.first, column) for column in table.columns}
        shown = ", ".join(f"{c!r:.60} ({value!r:.40})" for c, value in values.items())[:600]
        raise InputError(
            f"{table.name}: {doubt}; its columns, with a value of each: {shown}; name yours with "
            f"--{role}_column, or all with --read names='text label' if the first row has no names"
        )
    if found[0] != wanted:
        table.notes.append(f"{table.name}: the column {found[0]!r} is taken as the {role}")
    return found[0]


def check_not_multi_label(table: Table) -> None:
    """InputError if several columns have only 0 and 1 in the first rows."""
    rows = [row for _, row in islice(table.rows, 50)]
    flags = [c for c in table.columns if {str(row.get(c)) for row in rows} <= {"0", "1"}]
    if len(flags) > 1:
        raise InputError(
            f"{table.name}: it seems multi-label, for the columns {short(flags)} have only 0 and "
            "1; a text has one class here: take one of them, such as --label_column "
            f"{shlex.quote(flags[0])}"
        )


# ---- cells ----


def field_of(where: str, row: dict, column: str) -> object:
    """A row's value under this name or path ("data.text" of inner objects); None for NaN."""
    value: Any = row
    try:
        for part in [column] if column in row else column.split("."):
            value = value[part]
    except (LookupError, TypeError):
        raise InputError(
            f"{where}: no column {column!r}, only {short(row)}; every row needs it"
        ) from None
    return None if value != value else value


def text_of(where: str, text: object, is_optional: bool = True) -> str:
    """The text, or "" for null. InputError if it is not a string of whole characters."""
    if text is None and is_optional:
        return ""
    if not isinstance(text, str):
        raise InputError(f"{where}: the text is {text!r:.40}, not a string; quote or drop it")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InputError(f"{where}: half a surrogate pair; write the whole character") from None
    return text


def joined_text(where: str, row: dict, columns: list[str]) -> str:
    """The row's text; if there are several columns, those that are not blank, one line each."""
    texts = [text_of(where, field_of(where, row, column)) for column in columns]
    return texts[0] if len(texts) == 1 else "\n".join(text for text in texts if text.strip())


def label_of(where: str, row: dict, column: str) -> str | None:
    """
    The row's label without outer white space, None if it has none, the same for all formats. Whole
    numbers are written without a fraction (1.0 is "1"), booleans as True and False. A list of one
    label, also one in a text cell such as "['a']", is that label.
    """
    label = field_of(where, row, column)
    if isinstance(label, str) and re.fullmatch(r"\s*\[.*\]\s*", label, re.DOTALL):
        with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            label = ast.literal_eval(label.strip())
    if isinstance(label, list) and len(label) < 2:
        label = label[0] if label else None
    if isinstance(label, (dict, list)):
        raise InputError(
            f"{where}: the label is a list or an object ({label!r:.60}); keep one class per text"
        )
    if isinstance(label, float) and label.is_integer():
        label = int(label)
    return text_of(where, None if label is None else str(label)).strip() or None

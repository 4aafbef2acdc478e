"""
What a text file does not say of itself: its encoding, its separator, and whether its quotes count.

    encoding, shown = find_encoding("reviews.csv", stream)
    file = TextFile("reviews.csv", stream, encoding)
    options, notes = check_rows(file, find_layout(first_lines, {}, usual=","))
    for line, _, fields in csv_rows(file, options): ...

One pass finds them and checks that each row has as many fields as the header. Nothing is repaired:
what can be read in two ways is an InputError of one line, which names the option of --read that
decides it.
"""

import codecs
import csv
import io
import re
from collections.abc import Iterator
from contextlib import suppress
from io import BufferedReader
from typing import NamedTuple

from engine.files import InputError

# ---- the encoding ----

ESCAPED = re.compile("[\udc80-\udcff]")  # what surrogateescape makes of a byte
UNDEFINED = re.compile(b"[\x81\x8d\x8f\x90\x9d]")  # bytes that are no character of Windows-1252
# letters as a file of one or two bytes a letter has them; what is beyond ASCII in English is none
WORD = re.compile(b"[^\0-@[-`{-\x7f%s]{2,}" % "€‚„…†‡‰‹‘’“”•–—™›\xa0¡£©«®°·»¿".encode("cp1252"))
LIKELY = ("cp1251", "koi8-r", "gb18030", "big5", "shift_jis", "euc_kr", "cp1252")


class Text(io.TextIOWrapper):
    """Leaves its stream open when it is gone: the stream belongs to whoever opened it."""

    def close(self) -> None:
        pass


def utf_16(start: bytes) -> str:
    """The kind of UTF-16 that a file begins with, "" if it is none."""
    if start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return "utf-16"
    if start.count(0) >= max(len(start) / 4, 1):  # of Western text every second byte is zero
        return "utf-16-le" if start[1:2] == b"\0" else "utf-16-be"
    return ""


def find_encoding(name: str, stream: BufferedReader) -> tuple[str, str]:
    """
    The encoding of a file, UTF-8, UTF-16 or Windows-1252, and, for the last one, the first line
    beyond ASCII, by which a reader sees whether it is right. InputError for UTF-8 with some broken
    bytes, and where most letters are beyond ASCII, so that it is no Windows-1252 either.
    """
    if found := utf_16(stream.peek(1000)[:1000]):
        return found, ""
    try:
        for line in stream:
            line.decode()
        return "utf-8-sig", ""
    except UnicodeDecodeError:
        stream.seek(0)
    wide = broken = first = 0
    foreign = 0.0
    shown = b""
    for number, line in enumerate(stream, 1):
        if not line.isascii():
            shown = shown or line
            text = line.decode("utf-8", "surrogateescape")
            escaped = len(ESCAPED.findall(text))
            wide += len(text) - len(text.encode("ascii", "ignore")) - escaped
            broken += escaped
            first = first or number * (escaped > 0)
            foreign += foreign_letters(line)
    if broken <= wide:
        raise InputError(
            f"{name}, line {first}: not UTF-8, though most of the file is; correct this line, "
            "bring the whole file if it ends there, or save it as UTF-8"
        )
    if foreign > 0:
        raise unknown_encoding(name, shown)
    return "cp1252", shown.decode("cp1252").strip()[:60]


def foreign_letters(line: bytes) -> float:
    """
    By how many letters those beyond ASCII outnumber the others, in the words that have some. In the
    languages of Windows-1252 they are fewer; in those of cp1251, KOI8, GBK or Big5 they are most.
    """
    if UNDEFINED.search(line):
        return float("inf")
    words = [word for word in WORD.findall(line) if not word.isascii()]
    ascii_letters = sum(len(word.decode("ascii", "ignore")) for word in words)
    return sum(map(len, words)) - 2 * ascii_letters


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
        "--read encoding=NAME, or save it as UTF-8; its first line beyond plain English letters "
        f"would be in {', '.join(shown) or 'none that is usual'}"
    )


class TextFile(NamedTuple):
    """A text whose encoding is known; if it is no pipe, it is read as often as need be."""

    name: str
    stream: BufferedReader
    encoding: str

    def lines(self, newline: str = "\n") -> Iterator[str]:
        """All lines with their ends. InputError: an empty file, a NUL, wrong bytes."""
        number = 0
        if self.stream.seekable():
            self.stream.seek(0)
        try:
            for number, line in enumerate(Text(self.stream, self.encoding, newline=newline), 1):
                if "\0" in line:
                    raise InputError(
                        f"{self.name}, line {number}: a NUL byte; the file is damaged or not a "
                        "text file"
                    )
                yield line
        except UnicodeError:  # a part of the file is decoded at a time: the line is not known
            raise InputError(
                f"{self.name}, below line {number}: not "
                f"{self.encoding.upper().removesuffix('-SIG')}; name its encoding with --read "
                "encoding=NAME, or save it as UTF-8"
            ) from None
        if number == 0:
            raise is_empty(self.name)


def is_empty(name: str) -> InputError:
    return InputError(f"{name}: the file is empty, with no rows; it needs rows with a text")


# ---- separator and quotes ----

csv.field_size_limit(2**31 - 1)  # one field may be a whole book; the usual limit is 128 kB
SEPARATORS = ",;\t|"
SEP_LINE = re.compile(r"sep=([^\"\r\n])\s*")  # Excel's own first line


def csv_arguments(options: dict[str, str]) -> dict:
    """The options of --read as Python's csv.reader takes them."""
    return {
        "delimiter": options["sep"],
        "quoting": csv.QUOTE_NONE if options.get("quoting") == "none" else csv.QUOTE_MINIMAL,
        "escapechar": options.get("escapechar"),
        "skipinitialspace": options.get("skipinitialspace") == "yes",
    }


def find_layout(lines: list[str], given: dict[str, str], usual: str) -> dict[str, str]:
    """
    The given options and what these first lines of a file show: the separator, and, if need be, a
    blank before the quotes (skipinitialspace) or a backslash before those inside (escapechar).
    Under them all lines have as many fields as the first, and that has the most.
    """
    if lines and (said := SEP_LINE.fullmatch(lines[0])):
        return {"sep": said[1]} | given

    def score(options: dict[str, str]) -> tuple:
        rows: list[list[str]] = []
        is_whole = True
        try:
            reader = csv.reader(lines, strict=True, **csv_arguments(options))
            rows += (fields for fields in reader if fields)
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
    candidates = [{"sep": sep} | kind | given for sep in SEPARATORS for kind in kinds]
    return max(candidates, key=score)


def csv_rows(file: TextFile, options: dict[str, str]) -> Iterator[tuple[int, list[str], list[str]]]:
    """
    Of each row, but not of blank lines and Excel's sep=: the line where it begins, its lines as
    they stand, and its fields. csv.Error for a quote that is not closed: strict, for else one text
    would swallow the rest of the file.
    """
    record: list[str] = []

    def kept() -> Iterator[str]:
        for text in file.lines(newline=""):
            record.append(text)
            yield text

    reader, line = csv.reader(kept(), strict=True, **csv_arguments(options)), 1
    try:
        for fields in reader:
            if fields and not (line == 1 and SEP_LINE.fullmatch(record[0])):
                yield line, record, fields
            line = reader.line_num + 1
            record.clear()
    except csv.Error as error:
        raise csv.Error(f"{file.name}, line {line}: {error}") from None


def check_rows(file: TextFile, options: dict[str, str]) -> tuple[dict[str, str], list[str]]:
    """
    Reads a file through as these options say. Returns them, with quoting=none where no other
    reading is possible, and what is to be said of its quotes.

    InputError with the line of a row that has more or fewer fields than the first, of a quote that
    is not closed, and of quotes that may have joined rows: where a file reads as well without its
    quotes, many rows would vanish in one text in silence.
    """
    joined, width, sep, fault = [], 0, options["sep"], ""
    try:
        for line, record, fields in csv_rows(file, options):
            width = width or len(fields)
            if len(fields) != width:
                found = "1 field" if len(fields) == 1 else f"{len(fields)} fields"
                raise InputError(
                    f"{file.name}, line {line}: {found} where the header has {width}; put quotes "
                    f"round a field that contains {sep!r}"
                )
            if len(record) > 1 and fits(record, sep, width):
                joined.append(f"{line}-{line + len(record) - 1}")
    except csv.Error as error:
        fault = str(error)
    if not fault and (not joined or "quoting" in options):
        return options, []
    is_plain, places, is_open = without_quotes(file, sep)
    if fault and (not is_plain or "quoting" in options):
        raise InputError(
            f"{fault}; write a quote inside a quoted field twice, and close it; or take quotes as "
            "they stand with --read quoting=none"
        )
    if fault and not is_open:  # quotes that enclose no field, each closed on its line
        return check_rows(file, options | {"quoting": "none"})
    if is_plain or sep == "\t":
        raise joining_quotes(file.name, places if fault else joined, width)
    note = (
        f"{file.name}, line {', '.join(joined[:10])}: quotes make one row of lines that would be "
        "rows without them; they are taken as meant, for other rows need theirs"
    )
    return options, [note]


def joining_quotes(name: str, places: list[str], width: int) -> InputError:
    more = f" and {len(places) - 10} more" if len(places) > 10 else ""
    return InputError(
        f"{name}, line {', '.join(places[:10])}{more}: quotes there join lines or enclose no "
        f"field, and without quotes each such line has the header's {width} fields; if each line "
        "is a row, give --read quoting=none; if the quotes are meant, give --read "
        "quoting=minimal, write one inside a quoted field twice, and close each"
    )


def fits(lines: list[str], sep: str, width: int) -> bool:
    """Whether each of these lines that is not blank has this many fields if quotes do not count."""
    return all(line.count(sep) + 1 == width for line in lines if line.strip("\r\n"))


def without_quotes(file: TextFile, sep: str) -> tuple[bool, list[str], bool]:
    """
    Whether a file reads as well if its quotes do not count; its lines that are no rows by
    themselves if they do; and whether one of these leaves a quote open.
    """
    places, is_open, width = [], False, 0
    for number, line in enumerate(file.lines(newline=""), 1):
        if not width:
            if SEP_LINE.fullmatch(line) or not line.strip("\r\n"):
                continue
            width = 0 if '"' in line else line.count(sep) + 1  # quoted names: the quotes are meant
        if not width or not fits([line], sep, width):
            return False, [], False
        if '"' in line:
            try:
                list(csv.reader([line], delimiter=sep, strict=True))
            except csv.Error as error:
                places.append(str(number))
                is_open = is_open or "unexpected end" in str(error)
    return True, places, is_open

"""
One function for each place that runs or renders what is written to it: a shell, Markdown, a
spreadsheet. A terminal has files.printable, HTML has jinja's autoescape, LaTeX has tables.tex.
"""

import re
import shlex
from collections.abc import Iterable
from typing import Any

from engine.files import CONTROL, printable


def shell(words: Iterable[str]) -> str:
    """
    A command to paste. A terminal obeys control characters also inside of quotes (Ctrl-C there ends
    the command, and what follows is one of its own), so that they are written out, as in $'\\x03';
    a line end does no harm, and stays for shells that do not know this form.
    """
    return " ".join(map(_word, words))


def _word(word: str) -> str:
    if not CONTROL.search(word.replace("\n", "")):
        return shlex.quote(word)
    plain = word.replace("\\", r"\\").replace("'", r"\'")
    return "$'" + CONTROL.sub(_ansi_c, plain) + "'"


def _ansi_c(found: re.Match) -> str:
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file name that is not UTF-8
        return rf"\x{code - 0xDC00:02x}"
    return rf"\u{code:04x}"


MARKDOWN = re.compile(r"[\\`*\[\]~$|<>]|&(?=#?\w+;)|(?<![^\W_])_")
ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def markdown(text: object) -> str:
    """On one line, in Markdown that means the text itself: no HTML, no link, no other cell."""
    line = printable(" ".join(str(text).split()))
    return MARKDOWN.sub(lambda found: ENTITIES.get(found[0], "\\" + found[0]), line)


# A cell that a spreadsheet runs begins so; a number does, too, and stays one. Full-width signs are
# the same to a spreadsheet in Japanese or Chinese.
FORMULA = re.compile(r"[=+\-@\t\r\n＝＋－＠]")
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def is_formula(text: object) -> bool:
    """Whether a spreadsheet may run this cell of a CSV file."""
    return isinstance(text, str) and bool(FORMULA.match(text)) and not NUMBER.fullmatch(text)


def to_cell(text: object) -> object:
    """
    With an apostrophe before what a spreadsheet would run, from_cell() takes it away. One more
    stands before a formula that has apostrophes already, so that every text comes back.
    """
    return f"'{text}" if isinstance(text, str) and is_formula(text.lstrip("'")) else text


def from_cell(text: Any) -> Any:
    is_marked = isinstance(text, str) and text.startswith("'") and is_formula(text.lstrip("'"))
    return text[1:] if is_marked else text

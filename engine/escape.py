"""
One function for each place that runs or renders what is written to it: a shell, Markdown. A
terminal has files.printable, HTML has jinja's autoescape, LaTeX has tables.tex.
"""

import re
import shlex
from collections.abc import Iterable

from engine.files import printable


def shell(words: Iterable[str]) -> str:
    """
    A command to paste. A terminal obeys control characters also inside of quotes, so that they are
    shown as \\x03, say; a line end does no harm, and stays.
    """
    return printable(shlex.join(words), but="\n")


MARKDOWN = re.compile(r"[\\`*\[\]~$|<>]|&(?=#?\w+;)|(?<![^\W_])_")
ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def markdown(text: object) -> str:
    """On one line, in Markdown that means the text itself: no HTML, no link, no other cell."""
    line = printable(" ".join(str(text).split()))
    return MARKDOWN.sub(lambda found: ENTITIES.get(found[0], "\\" + found[0]), line)

"""
Escapes text for a shell and for Markdown. For a terminal there is files.printable, for HTML jinja's
autoescape, for LaTeX tables.tex.
"""

import re
import shlex
from collections.abc import Iterable

from engine.files import printable


def shell(words: Iterable[str]) -> str:
    """
    A command to paste. A terminal obeys control characters even inside quotes, so they are escaped,
    such as \\x03; a line end does no harm, and stays.
    """
    return printable(shlex.join(words), but="\n")


MARKDOWN = re.compile(r"[\\`*\[\]~$|<>]|&(?=#?\w+;)|(?<![^\W_])_")
ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def markdown(text: object) -> str:
    """The text as one line of Markdown, escaped: it makes no HTML, no link and no other cell."""
    line = printable(" ".join(str(text).split()))
    return MARKDOWN.sub(lambda found: ENTITIES.get(found[0], "\\" + found[0]), line)

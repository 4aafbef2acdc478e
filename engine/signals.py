"""
Ctrl-C, SIGTERM (from a scheduler or kill) and SIGHUP (from a terminal that closes) all end a script
in the same way: one line, exit code 128 + the signal's number, and no incomplete file.
"""

import os
import signal
import sys
from collections.abc import Callable

ENDING = [
    number
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    if signal.getsignal(number) != signal.SIG_IGN  # nohup and background jobs ignore some
]


class Interrupted(KeyboardInterrupt):
    """One of these signals, with its exit code."""

    def __init__(self, number: int):
        self.exit_code = 128 + number


def end_at_once() -> None:
    """Signals end the process at once, for times without anything to clean up (start and end)."""

    def end(number: int, _) -> None:
        try:
            os.write(2, b"interrupted\n")
        finally:
            os._exit(128 + number)

    for number in ENDING:
        signal.signal(number, end)


def run(main: Callable[[], int]) -> None:
    """Ends the process with main's exit code; a signal raises Interrupted wherever main is."""

    def interrupt(number: int, _) -> None:
        for each in ENDING:  # a second signal may follow, as from the kernel and from a shell
            signal.signal(each, signal.SIG_IGN)
        raise Interrupted(number)

    for number in ENDING:
        signal.signal(number, interrupt)
    code = main()
    end_at_once()
    sys.exit(code)

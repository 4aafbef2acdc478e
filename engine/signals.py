"""
Ctrl-C, SIGTERM (of a scheduler, or kill) and SIGHUP (of a terminal that closes) end what people
type in one way: one line, the exit code 128 + the signal's number, and nothing half written.
"""

import os
import signal
import sys
from collections.abc import Callable

ENDING = [
    number
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    if signal.getsignal(number) != signal.SIG_IGN  # as nohup has it, and a shell's background
]


class Interrupted(KeyboardInterrupt):
    """One of these signals; exit_code is the one that it asks for."""

    def __init__(self, number: int):
        self.exit_code = 128 + number


def exit_code(error: BaseException) -> int:
    """Of whatever ends a script before its end: 130 where it is none of these signals."""
    return getattr(error, "exit_code", 128 + signal.SIGINT)


def end_at_once() -> None:
    """While the libraries load, for seconds, and at the very end: there is nothing to tidy up."""

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
        for each in ENDING:  # the same end may be told twice, as by the kernel and by a shell
            signal.signal(each, signal.SIG_IGN)
        raise Interrupted(number)

    for number in ENDING:
        signal.signal(number, interrupt)
    code = main()
    end_at_once()
    sys.exit(code)

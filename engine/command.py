"""
Runs work from the command line: parses its arguments and joins the processes of torchrun.
"""

import sys
from collections.abc import Callable

from engine import distributed, signals
from engine.arguments import Arguments, parse_args
from engine.encoders import quiet_transformers
from engine.files import one_line_errors


@one_line_errors
def run(argv: list[str] | None, doc: str | None, work: Callable[[Arguments], None]) -> int | None:
    """Parses the command line and does the work; returns the exit code."""
    quiet_transformers()
    args = parse_args(argv, doc)
    try:
        with distributed.joined(args.device) as args.device, distributed.quiet_but_main():
            work(args)
    except (KeyboardInterrupt, BrokenPipeError) as error:  # the second one by `| head`, say
        print("interrupted: the same command goes on from the last checkpoint", file=sys.stderr)
        return signals.exit_code(error)
    return 0

"""
What stands around a run on the command line: its arguments, the processes of torchrun, and one line
and an exit code for whatever ends it.
"""

import sys
import traceback
from collections.abc import Callable

import transformers

from engine import distributed
from engine.arguments import Arguments, parse_args
from engine.files import InputError, lacks_memory, plain_output, system_error
from engine.run_folder import Busy
from engine.signals import exit_code

EXPECTED = (InputError, KeyboardInterrupt, distributed.Ended)


@plain_output()
def run(argv: list[str] | None, doc: str | None, work: Callable[[Arguments], None]) -> int:
    """Does the work that the command line asks for; returns the exit code."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    args = None
    try:
        args = parse_args(argv, doc)
        with distributed.joined(args.device) as args.device, distributed.quiet_but_main():
            work(args)
    except (Exception, KeyboardInterrupt) as error:
        if not (isinstance(error, EXPECTED) or lacks_memory(error) or system_error(error)):
            traceback.print_exc()
            print(
                "error: this is a fault of main.py, not of your input; please report it with the "
                "lines above",
                file=sys.stderr,
            )
            return 1
        text, code = one_line(error, args)
        print(text, file=sys.stderr)
        return code
    return 0


def one_line(error: BaseException, args: Arguments | None) -> tuple[str, int]:
    """What the user is told, and the exit code."""
    if isinstance(error, InputError):
        return f"error: {error}", Busy.exit_code if isinstance(error, Busy) else 2
    if isinstance(error, (KeyboardInterrupt, BrokenPipeError)):  # the latter of | head, say
        return "interrupted: the same command goes on from the last checkpoint", exit_code(error)
    if lacks_memory(error):
        return (
            f"error: out of memory ({error!r:.160}): take a smaller --micro_batch, --max_length "
            "or --batch_size"
        ), 2
    if system := system_error(error):  # a folder in the way, a full disk, no permission
        place = system.filename or (args and args.output_dir)
        return (
            f"error: {place}: {system.strerror or system}; make room or choose another --output_dir"
        ), 2
    return (
        f"error: another process of this job has ended ({error}); the same command, with any "
        "number of processes, goes on from the last checkpoint"
    ), 1

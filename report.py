"""
Makes tables, figures and pages of finished runs, and says which method to take.

    python report.py runs                               # every table, as Markdown, on the screen
    python report.py runs --output_dir tables           # also as .md and .tex files, with figures
    python report.py runs --protocol best_test          # the authors' way to choose the epoch
    python report.py runs --choose                      # which method to take for these texts
    python report.py runs/trec_ir50_seed0               # one run: report.html in its folder
"""

from engine import environment, signals

if __name__ == "__main__":  # before the libraries, which take seconds to load
    signals.end_at_once()
    environment.check()

import signal
from pathlib import Path

from engine.files import Parser, one_line_errors
from engine.results import PROTOCOLS
from reporting import choice, page, tables


def make_parser() -> Parser:
    parser = Parser(description=__doc__)
    parser.add_argument(
        "folder", type=Path, help="the --output_dir of main.py, one run in it, or a ledger"
    )
    parser.add_argument(
        "--protocol",
        choices=list(PROTOCOLS),
        default="last",
        help="which epoch counts (default: last)",
    )
    parser.add_argument("--output_dir", type=Path, help="where files of the tables and figures go")
    parser.add_argument(
        "--choose",
        action="store_true",
        help="compare the methods of the runs on one data set by their validation "
        "texts, and name the one to take",
    )
    return parser


@one_line_errors
def main(argv: list[str] | None = None) -> None:
    """Writes the page of one run, or the tables or the choice for many."""
    parser = make_parser()
    args = parser.parse_args(argv)
    is_one_run = (args.folder / "result.json").exists()
    if is_one_run and (args.protocol != "last" or args.choose):
        parser.error(
            f"{args.folder} is one run, whose page shows every epoch: --protocol and "
            "--choose are for a folder of many"
        )
    if args.choose and (args.protocol != "last" or args.output_dir):
        parser.error(
            "--choose compares the runs on the screen, each at the epoch that it keeps; leave "
            "--protocol and --output_dir out"
        )
    if is_one_run:
        path = (args.output_dir or args.folder) / "report.html"
        page.write(args.folder, path)
        print(path)
    elif args.choose:
        print(choice.choose(args.folder))
    else:
        tables.report(args.folder, args.protocol, args.output_dir)


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # no traceback if `| head` ends it
    signals.run(main)

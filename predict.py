"""
Classify new texts with a trained model, score it on labelled texts, or export it.

    python predict.py runs/RUN "what a wonderful film" "what a waste of time"
    python predict.py runs/RUN reviews.csv --text_column review --output labelled.csv
    python predict.py runs/RUN reviews.jsonl --probabilities --test_prior train | head
    python predict.py runs/RUN reviews.csv --abstain 0.8 --top 3 --output sure.csv
    echo "what a wonderful film" | python predict.py runs/RUN
    python predict.py runs/RUN labelled.csv --score
    python predict.py runs/RUN --export onnx

In Python, three lines:

    from predict import Predictor
    predictor = Predictor("runs/RUN")
    predictor.predict(["what a wonderful film"])    # [{"prediction": ..., "probability": ...}]

Each row of the input is a row of the output, in the same order and with all its columns. It gets a
prediction and its probability; both are empty if the text is empty.
"""

from engine import environment, signals

if __name__ == "__main__":  # before the libraries, which take seconds to load
    signals.end_at_once()
    environment.check()

import argparse
import contextlib
import io
import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

from tqdm import tqdm

from engine import arguments, files, reading
from engine.data_report import MANY_UNKNOWN, UNKNOWN_REMEDY
from engine.encoders import device as available_device
from engine.encoders import quiet_transformers
from engine.files import InputError
from engine.predictor import Predictor, TextRow, named_texts
from engine.results import csv_line
from engine.saved_model import EXPORTED
from reporting import export

# ---- the input ----

# "txt" is left out: --format lines reads such a file
FORMATS = tuple(form for form in reading.FORMS if form != "txt")


class Source(NamedTuple):
    """A file, or stdin."""

    name: str
    stream: BinaryIO
    form: str


def is_file_name(given: str) -> bool:
    """Whether an argument is a file: it exists as a path, or ends like a file name."""
    is_named = reading.form_of(given) != "" or bool(reading.PACKED.search(given.lower()))
    return given == "-" or os.path.exists(given) or is_named


@contextlib.contextmanager
def source(args: argparse.Namespace) -> Iterator[Source | None]:
    """Opens the file or stdin; yields None if texts are given."""
    named = args.inputs if args.format else list(filter(is_file_name, args.inputs))
    if args.inputs and not named:
        yield None
        return
    if len(args.inputs) > 1:
        raise InputError(
            f"{named[0]} is a file (it exists, is named like one, or --format says so) beside "
            "other arguments: give one file or only texts; a text like that can come from stdin"
        )
    (file,) = args.inputs or ["-"]
    if file == "-":
        yield Source("stdin", sys.stdin.buffer, args.format or "lines")
        return
    with reading.open_file(file) as stream:
        form = args.format or reading.form_of(file)
        if not form and not reading.PACKED.search(file.lower()):  # the packed file may tell it
            raise InputError(
                f"{file}: its name ends in none of {reading.ENDINGS}: say with --format "
                f"what it is ({', '.join(FORMATS)})"
            )
        yield Source(file, stream, form)


@contextlib.contextmanager
def table_rows(
    given: Source, columns: list[str], read: list[str], label: str | None = None
) -> Iterator[Iterator[TextRow]]:
    """
    Reads the rows of a file or of stdin; prints what was detected on stderr. With `label`, the name
    of a column, a row has only its text and its label.
    """
    with reading.open_table(
        given.stream, given.form, given.name, read=read, texts=columns
    ) as table:
        if table.has_lines and label is not None:
            raise InputError(f"{given.name}: a text a line has no labels; give a table with them")
        texts, labels = (
            (["text"], None) if table.has_lines else reading.find_columns(table, columns, label)
        )
        notes = list(table.notes)
        say(*notes)

        def row_of(where: str, row: dict) -> TextRow:
            text = reading.joined_text(where, row, texts)
            if labels is None:
                return row, text
            return {"text": text, "label": reading.label_of(where, row, labels)}, text

        yield (row_of(where, row) for where, row in table.rows)
        say(*table.notes[len(notes) :])


def say(*lines: str) -> None:
    """Prints lines on stderr, because stdout has the predictions."""
    print(*(f"{line}\n" for line in lines), sep="", end="", file=sys.stderr)


# ---- the output ----


@dataclass
class Writer:
    """Formats rows with their predictions as CSV or JSON lines."""

    form: str  # csv, jsonl
    header: list[str] = field(default_factory=list)

    def lines(self, pool: list[dict], answers: list[dict]) -> bytes:
        """Formats the rows of a pool with their new columns; CSV begins with a header."""
        text, is_csv = [], self.form == "csv"
        for row, added in zip(pool, answers):
            if twice := row.keys() & added.keys():
                raise InputError(
                    f"the input has a column {min(twice)!r} already, which would be lost; rename it"
                )
            new = row | added
            if is_csv and not self.header:
                self.header = list(new)
                text.append(csv_line(self.header))
            text.append(self.csv_line(new) if is_csv else json_text(new, ensure_ascii=False))
        try:
            return "".join(f"{line}\n" for line in text).encode()
        except UnicodeEncodeError:
            raise InputError(
                "the input has half a surrogate pair in a column; write the whole character"
            ) from None

    def csv_line(self, row: dict) -> str:
        if row.keys() != set(self.header):
            raise InputError(
                f"the rows have different fields ({', '.join(row)[:200]}; at first "
                f"{', '.join(self.header)[:200]}), which CSV cannot hold: write JSONL, with "
                "--output_format jsonl"
            )
        cells = (row[name] for name in self.header)
        plain = (str, int, float, type(None))
        return csv_line(x if isinstance(x, plain) else json_text(x) for x in cells)


def json_text(value: object, *, ensure_ascii: bool = True) -> str:
    """The value as JSON, with null for NaN and the infinities, which JSON cannot hold."""
    try:
        return json.dumps(value, allow_nan=False, ensure_ascii=ensure_ascii)
    except ValueError:
        finite = json.loads(json.dumps(value), parse_constant=lambda _: None)
        return json.dumps(finite, ensure_ascii=ensure_ascii)


@contextlib.contextmanager
def standard_output() -> Iterator[BinaryIO]:
    """
    A buffered stdout. With python -u or PYTHONUNBUFFERED, sys.stdout.buffer is raw, and its write()
    may silently write only a part; here all is written, or an OSError is raised.
    """
    try:
        number = sys.stdout.fileno()
    except io.UnsupportedOperation:  # a stream in memory, as in a test
        yield sys.stdout.buffer
        return
    with open(number, "wb", closefd=False) as out:
        yield out


def sink(output: Path | None) -> AbstractContextManager[BinaryIO]:
    """Opens the output: stdout, or a file that is written completely or not at all."""
    if output is None:
        return standard_output()
    if output.exists() and not output.is_file() and not output.is_dir():
        raise InputError(
            f"--output {output}: a device or a pipe, not a file; leave --output out "
            f"and write > {output}"
        )
    return files.saving(output)


def spare_input(given: Source, output: Path | None) -> None:
    """InputError if the output is the input itself, even through a link or another path."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # a new file, or stdin
        if output and os.path.samefile(given.name, output):
            raise InputError(
                f"--output {output} is the input itself: name another file, or "
                "replace it with --overwrite"
            )


def output_form(output: Path | None, given: str | None) -> str:
    suffix = "csv" if output is None else output.suffix.lower().removeprefix(".")
    if (given or suffix) not in ("csv", "jsonl"):
        raise InputError(
            f"--output {output}: its name ends in neither .csv nor .jsonl: choose one of them with "
            "--output_format"
        )
    return given or suffix


# ---- what is done ----


def predictor_of(args: argparse.Namespace) -> Predictor:
    """Loads the model with the flags; prints notes on its probabilities on stderr."""
    names = "device batch_size test_prior calibrated abstain top probabilities embedding".split()
    predictor = Predictor(args.model_dir, **{name: getattr(args, name) for name in names})
    say(*predictor.words())
    return predictor


def columns_of(args: argparse.Namespace, predictor: Predictor) -> list[str]:
    columns = args.text_column or predictor.about.text_column
    return [columns] if isinstance(columns, str) else columns


def classify(args: argparse.Namespace) -> None:
    """Reads, predicts and writes, pool by pool."""
    table = Writer(output_form(args.output, args.output_format))
    with source(args) as given:
        if given and not args.overwrite:
            spare_input(given, args.output)
        predictor, texts = predictor_of(args), 0
        rows_of = (
            table_rows(given, columns_of(args, predictor), args.read)
            if given
            else contextlib.nullcontext(named_texts(args.inputs, " of the command line"))
        )
        bar = tqdm(unit=" texts", unit_scale=True, disable=None)
        with rows_of as rows, sink(args.output) as out, bar:
            for pool, answers in predictor.stream(rows):
                out.write(table.lines(pool, answers))
                out.flush()
                texts += len(pool)
                bar.update(len(pool))
            if given and texts == 0:
                raise InputError(f"{given.name}: no rows; it needs a text")
    say_what_happened(predictor, texts)


def say_what_happened(predictor: Predictor, texts: int) -> None:
    """Prints the predictor's counts on stderr."""
    for count, what in (
        (predictor.empty, "empty, without a prediction"),
        (predictor.cut, f"cut at {predictor.about.max_length} tokens"),
        (predictor.abstained, f"less probable than {predictor.abstain}, without a prediction"),
    ):
        if count:
            say(f"{count:,} of {texts:,} texts are {what}")
    unknown, total = predictor.tokens.tolist()
    if unknown:
        remedy = f". {UNKNOWN_REMEDY}" if unknown >= MANY_UNKNOWN * total else ""
        say(f"{unknown / total:.2%} of the tokens are unknown to the encoder{remedy}")


def score(args: argparse.Namespace) -> None:
    """Scores a file with labels: prints accuracy, macro-F1 and each class, and writes a page."""
    from reporting import score as scores  # here, because matplotlib takes a second to load

    with source(args) as given:
        if given is None:
            raise InputError("--score needs a file with texts and labels, not texts alone")
        predictor, rows, total = predictor_of(args), [], 0
        columns = columns_of(args, predictor)
        with table_rows(given, columns, args.read, args.label_column or "label") as labelled:
            for pool, answers in predictor.stream(labelled):
                total += len(pool)
                rows += [row | answer for row, answer in zip(pool, answers)]
    path = args.output or Path(f"{Path(given.name).name.partition('.')[0]}_score.html")
    if path.suffix.lower() != ".html":
        raise InputError(f"--output {path}: with --score it is the page, and ends in .html")
    say_what_happened(predictor, total)
    found = scores.gather(predictor.about, given.name, rows)
    scores.write(found, path)
    with standard_output() as out:
        out.write(f"{scores.in_words(found)}\n{path}\n".encode())


# ---- the command line ----


# fmt: off
FLAGS: dict[str, dict] = {
    "model_dir": dict(help="the folder of a run, or its model/"),
    "inputs": dict(nargs="*", metavar="FILE|TEXT", help="one file, or one or more texts. What "
        f"exists as a path, or ends in {reading.ENDINGS}, .gz or .zip, is a file; all else "
        "is a text. A .txt file has a text a line, unless its first line names the text column "
        "beside others. Left out, or -: stdin"),
    "--format": dict(choices=FORMATS, help="of the input, which then is a file; default: by its "
        "name, lines of stdin"),
    "--text_column": dict(nargs="+", metavar="NAME", help="several are "
        "joined, a line each; default: as in the training data"),
    "--read": dict(type=reading.read_option, nargs="+", default=[], metavar="NAME=VALUE",
        help=reading.READ_HELP),
    "--output": dict(type=Path, help="a .csv or .jsonl file, written whole or not at all; with "
        "--export a folder, with --score a page; default: stdout"),
    "--output_format": dict(choices=("csv", "jsonl"), help="default: by --output's name, else csv"),
    "--overwrite": dict(action="store_true", help="let --output replace the input itself"),
    "--top": dict(type=arguments.number(int, 1), metavar="K", help="columns for the K likeliest "
        "labels, top_1 to top_K, and their probabilities"),
    "--probabilities": dict(action="store_true", help="a column for each class's probability"),
    "--embedding": dict(action="store_true", help="a column for the text's embedding, feat"),
    "--test_prior": dict(metavar="train|uniform|FILE", help="the class shares of these texts, if "
        "they are known: as in training, all equal, or those in a CSV file (label, share or "
        "count); default: what the model was trained to predict for"),
    "--calibrated": dict(action="store_true", help="divide the logits by the temperature found on "
        "the validation texts of the training"),
    "--abstain": dict(type=arguments.number(float, 0, 1), metavar="P", help="no prediction where "
        "the calibrated probability is below P; what share of the validation texts that answers, "
        "and how many of these are right, goes to stderr"),
    "--batch_size": dict(type=arguments.number(int, 1), default=64, help="default: 64"),
    "--device": dict(type=available_device, default="auto", help="auto (default), cpu, cuda, "
        "cuda:1 or mps"),
    "--score": dict(action="store_true", help="instead: how good the model is on a file with "
        "labels, on stdout and as a page (default: FILE_score.html)"),
    "--label_column": dict(metavar="NAME", help="for --score; default: label"),
    "--export": dict(choices=EXPORTED, help="instead: write the model for ONNX, or as "
        "a folder of sentence-transformers with the embedding, or its projection into the "
        "contrastive space"),
}
# fmt: on


def make_parser() -> argparse.ArgumentParser:
    parser = files.Parser(description=__doc__)
    for name, options in FLAGS.items():
        parser.add_argument(name, **options)
    return parser


def export_model(args: argparse.Namespace) -> None:
    """Exports the model for another tool; prints the folder's name on stdout."""
    quiet_transformers()
    folder = export.export(args.model_dir, args.export, args.output)
    with standard_output() as out:
        out.write(f"{folder}\n".encode())


OF_ROWS = "output_format overwrite top probabilities embedding abstain"
OF_TEXTS = f"inputs format text_column read {OF_ROWS} test_prior calibrated score label_column"
UNUSED = {  # why each kind of work ignores these arguments
    export_model: ("--export classifies no texts", OF_TEXTS),
    score: ("--score makes a page of all texts", OF_ROWS),
    classify: ("no label is read without --score", "label_column"),
}


@files.one_line_errors
def main(argv: list[str] | None = None) -> None:
    args = make_parser().parse_intermixed_args(argv)  # FILE may come after the options
    names = args.text_column or []
    last = names[-1] if len(names) > 1 and not args.inputs else ""
    if is_file_name(last) and not os.path.isdir(last):  # --text_column title body FILE
        args.inputs = [names.pop()]
    work = export_model if args.export else score if args.score else classify
    why, unused = UNUSED[work]
    for name in unused.split():
        if getattr(args, name):
            what = args.inputs[0] if name == "inputs" else f"--{name}"
            raise InputError(f"{why}: leave {what} out")
    work(args)


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # no traceback if `| head` ends it
    signals.run(main)

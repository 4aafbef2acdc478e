"""
Classify new texts with a trained model, or take the model to other tools.

    python predict.py runs/RUN "what a wonderful film" "what a waste of time"
    python predict.py runs/RUN reviews.csv --text_column review --output labelled.csv
    python predict.py runs/RUN reviews.jsonl --probabilities --test_prior train | head
    python predict.py runs/RUN reviews.csv --abstain 0.8 --top 3 --output sure.csv
    echo "what a wonderful film" | python predict.py runs/RUN
    python predict.py runs/RUN --export onnx

In Python, three lines:

    from predict import Predictor
    predictor = Predictor("runs/RUN")
    predictor.predict(["what a wonderful film"])    # [{"prediction": ..., "probability": ...}]

Each row of the input is a row of the output, in the same order and with all its columns, and has a
prediction and its probability; where a text is empty, these are empty.
"""

from engine import environment, signals

if __name__ == "__main__":  # before the libraries, which load for seconds
    signals.end_at_once()
    environment.check()

import argparse
import contextlib
import io
import json
import math
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm
from transformers.utils import logging

import data
from baselines.tfidf import Tfidf
from engine import arguments, files, loader, reading
from engine.data_report import MANY_UNKNOWN, UNKNOWN_REMEDY
from engine.encoders import device as available_device
from engine.escape import is_formula
from engine.files import InputError, lacks_memory, system_error
from engine.results import csv_line
from engine.tokens import tokenize, unknown_tokens
from reporting import export

# ---- reading: rows with their text, one after the other ----

# a .txt file has lines here; of a packed one it is seen when it is opened
FORMATS = tuple(form for form in reading.FORMS if form != "txt")
PACKED = (".gz", ".bz2", ".zip")


def format_of(file: str, given: str | None) -> str:
    """Of the input: the given one, else by the file's name; stdin has lines."""
    form = given or ("lines" if file == "-" else reading.form_of(file))
    if not form and not file.lower().endswith(PACKED):  # what is packed may have another name
        raise InputError(
            f"{file}: its name ends in none of {reading.ENDINGS}: say with --format "
            f"what it is ({', '.join(FORMATS)})"
        )
    return form


def is_file_name(given: str) -> bool:
    """Whether an argument is taken for a file: what exists is one, and what ends like one."""
    return (
        given == "-"
        or os.path.exists(given)
        or reading.form_of(given) != ""
        or given.lower().endswith(PACKED)
    )


def is_last_a_file(columns: list[str]) -> bool:
    """Whether FILE stands behind the last of several names, as in --text_column title body FILE."""
    return len(columns) > 1 and is_file_name(columns[-1]) and not os.path.isdir(columns[-1])


class Source(NamedTuple):
    """A file, or stdin."""

    name: str
    stream: BinaryIO
    form: str


@contextlib.contextmanager
def source(args: argparse.Namespace) -> Iterator[Source | None]:
    """The file or stdin; None where texts are given."""
    named = args.inputs if args.format else list(filter(is_file_name, args.inputs))
    if args.inputs and not named:
        yield None
        return
    if len(args.inputs) > 1:
        raise InputError(
            f"{named[0]} is a file (it exists, is named like one, or --format says "
            "so) beside other arguments: give one file, or texts alone; a text that "
            "is named like a file goes through stdin"
        )
    (file,) = args.inputs or ["-"]
    with opened(file) as stream:
        yield Source("stdin" if file == "-" else file, stream, format_of(file, args.format))


@contextlib.contextmanager
def opened(file: str) -> Iterator[BinaryIO]:
    """The file, or stdin for "-", as bytes."""
    if file == "-":
        if sys.stdin is None:
            raise InputError("stdin is closed: name a file, or give texts")
        yield sys.stdin.buffer
        return
    try:
        stream = reading.open_file(file)
    except InputError as error:
        raise InputError(f"{error}; a text that is named like a file goes through stdin") from None
    with stream:
        yield stream


def size_of(stream: BinaryIO) -> int | None:
    """In bytes; None of a pipe."""
    if not stream.seekable():
        return None
    position = stream.tell()
    size = stream.seek(0, os.SEEK_END)
    stream.seek(position)
    return size


TextRow = tuple[dict, str]  # a row as it came in, and its text


def named_texts(texts: Iterable[str], of: str = "") -> Iterator[TextRow]:
    """Texts that stand in no table as rows."""
    for number, text in enumerate(texts, 1):
        yield {"text": text}, reading.text_of(f"text {number}{of}", text, is_optional=False)


@contextlib.contextmanager
def table_rows(given: Source, columns: list[str], encoding: str) -> Iterator[Iterator[TextRow]]:
    """The rows of a file or of stdin; says on stderr what was found in it."""
    with reading.open_table(
        given.stream, given.form, given.name, encoding=encoding, texts=columns
    ) as table:
        texts = ["text"] if table.has_lines else reading.find_columns(table, columns)[0]
        print(*table.notes, sep="\n", end="\n" * bool(table.notes), file=sys.stderr)
        said = len(table.notes)
        yield ((row, reading.joined_text(where, row, texts)) for where, row in table.rows)
        print(*table.notes[said:], sep="\n", end="\n" * (said < len(table.notes)), file=sys.stderr)


def pools(rows: Iterable[TextRow], most: int) -> Iterator[list[TextRow]]:
    """Up to `most` rows at a time, and no more than 16 million characters of text, in order."""
    pool, characters = [], 0
    for row, text in rows:
        pool.append((row, text))
        characters += len(text)
        if len(pool) == most or characters > 16e6:
            yield pool
            pool, characters = [], 0
    if pool:
        yield pool


def ahead(function, items: Iterable) -> Iterator:
    """function(item) of each item, in order; that of the next is computed in a thread meanwhile."""
    with ThreadPoolExecutor(1) as thread:
        waiting = None
        for item in items:
            following = thread.submit(function, item)
            if waiting is not None:
                yield waiting.result()
            waiting = following
        if waiting is not None:
            yield waiting.result()


# ---- predicting ----


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """
    Without transformers' lines on loading, which take a layer that is not used for a missing one;
    afterwards it speaks as before, for it may be at work elsewhere in the caller's program.
    """
    verbosity, has_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if has_bar:
            logging.enable_progress_bar()


class Predictor:
    """
    A trained model and what is asked of it; in Python:

        from predict import Predictor
        predictor = Predictor("runs/RUN")
        predictor.predict(["a text", "another"])    # [{"prediction": ..., "probability": ...}, ...]

    folder         of a run of main.py, or its model/
    test_prior     "train", "uniform", or a file with the class shares of the texts
    calibrated     probabilities by the temperature found on the validation texts
    abstain        no prediction where the calibrated probability is below this
    top            adds the likeliest labels, top_1 to top_K, and their probabilities
    probabilities  adds every class's
    embedding      adds the text's embedding, a list of h floats

    Counts the texts that are empty, cut and left without a prediction, and the tokens that the
    encoder does not know. Raises InputError, whose message is one line with a remedy.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        device: str = "auto",
        batch_size: int = 64,
        test_prior: str | None = None,
        calibrated: bool = False,
        abstain: float | None = None,
        top: int | None = None,
        probabilities: bool = False,
        embedding: bool = False,
    ):
        if batch_size < 1:
            raise InputError(f"a batch_size of {batch_size}: it must be at least 1")
        try:
            device = available_device(device)
        except argparse.ArgumentTypeError as error:
            raise InputError(f"{error}: take another device, or auto") from None
        with quiet_transformers():
            self.trained = export.read_model(folder, device)
        self.about, self.batch_size = self.trained.about, batch_size
        self.shares = prior(test_prior, self.about)  # (C,), or None
        self.fit = calibration_of(self.about, calibrated, abstain)  # None: not asked for
        self.abstain, self.top = abstain, top
        self.probabilities, self.embedding = probabilities, embedding
        self.empty = self.cut = self.abstained = 0
        self.tokens = np.zeros(2, dtype=np.int64)  # unknown ones, and all
        if top is not None and not 1 <= top <= len(self.about.label_names):
            raise InputError(
                f"--top {top}: the model has {len(self.about.label_names)} classes; "
                "ask for 1 up to this number"
            )
        if embedding and self.trained.tokenizer is None:
            raise InputError("--embedding: tfidf has no encoder, and so no embedding; leave it out")

    def predict(self, texts: Iterable[str]) -> list[dict]:
        """For each text, in order, its prediction (None where there is none) and probability."""
        if isinstance(texts, str):
            raise InputError("predict() takes a list of texts: put this one in brackets")
        return [added for _, pool in self.stream(named_texts(texts)) for added in pool]

    def stream(self, rows: Iterable[TextRow]) -> Iterator[tuple[list[dict], list[dict]]]:
        """
        Pool after pool, its rows without their texts, and what predict() gives for these.

        A pool of 128 batches is sorted by length, as a whole file would be: of WordNet's glosses
        1 % more is padded than there. Memory is that of two pools, however long the input.
        """
        pooled = pools(rows, 128 * self.batch_size)
        for pool, has_text, inputs in ahead(self.inputs, pooled):
            answers = iter(self.answers(inputs) if inputs else [])
            self.empty += len(pool) - sum(has_text)
            yield pool, [next(answers) if filled else self.answer() for filled in has_text]

    def inputs(
        self, pool: list[TextRow]
    ) -> tuple[list[dict], list[bool], data.Tokens | list[str] | None]:
        """The rows, which have a text, and these as the model takes them; None: no row has."""
        has_text = [bool(text.strip()) for _, text in pool]
        texts = [text for _, text in pool if text.strip()]
        inputs: data.Tokens | list[str] | None = texts or None
        if texts and self.about.max_length is not None:  # else tfidf, which takes strings
            inputs = tokenize(texts, self.trained.tokenizer, self.about.max_length, quiet=True)
        return [row for row, _ in pool], has_text, inputs

    def answers(self, inputs) -> list[dict]:
        """The new columns of each text that is not empty, from what inputs() made of them."""
        logits, feats = self.encode(inputs)
        temperature = 1.0 if self.fit is None else self.fit["temperature"]
        probabilities = export.reweighted(self.about, logits.double(), self.shares, temperature)
        return list(map(self.answer, probabilities.softmax(dim=1).numpy(), feats))

    def encode(self, inputs) -> tuple[Tensor, Iterable[np.ndarray | None]]:
        """Logits (n, C) as trained, on the CPU, and feat (n, h), which tfidf has none of."""
        method = self.trained.method
        if isinstance(method, Tfidf):
            return torch.from_numpy(method.scores(inputs)), [None] * len(inputs)
        logits, feats = loader.predict(
            method,
            method.prepare(inputs),
            len(self.about.label_names),
            batch_size=self.batch_size,
            device=next(method.parameters()).device,
        )
        self.cut += round(inputs.truncated * len(logits))
        self.tokens += unknown_tokens(inputs, self.trained.tokenizer)
        return torch.from_numpy(logits), feats

    def answer(self, p: np.ndarray | None = None, feat: np.ndarray | None = None) -> dict:
        """The new columns of one text, from its probabilities (C,); of an empty text all None."""
        names, k = self.about.label_names, self.top or 1
        ranked = (
            [(None, None)] * k
            if p is None
            else [(names[i], rounded(p[i])) for i in np.argsort(-p, kind="stable")[:k]]
        )
        is_sure = p is not None and (self.abstain is None or p.max() >= self.abstain)
        self.abstained += p is not None and not is_sure
        new = {"prediction": ranked[0][0] if is_sure else None, "probability": ranked[0][1]}
        for place, (name, value) in enumerate(ranked if self.top else [], 1):
            new |= {f"top_{place}": name, f"top_{place}_probability": value}
        if self.probabilities:
            values = [None] * len(names) if p is None else map(rounded, p)
            new |= {f"probability_{name}": value for name, value in zip(names, values)}
        if self.embedding:
            new["embedding"] = None if feat is None else [float(f"{x:.6g}") for x in feat]
        return new


def rounded(p: float) -> float:
    return round(float(p), 6)


# ---- class shares ----


def named_numbers(path: Path) -> list[tuple[str, Any]]:
    """(label, number) of each row of a CSV file, or of each entry of a JSON object."""
    form = (
        "class shares are a CSV file with the columns label and share (or count), or a JSON "
        'object {"label": share}'
    )
    with opened(str(path)) as stream:
        if not stream.read().strip():
            raise InputError(f"{path}: the file is empty; {form}")
    if path.suffix.lower() == ".csv":
        with reading.open_table(path) as table:
            pairs = [(row.pop("label", None), *row.values()) for _, row in table.rows]
    else:
        shares = reading.load_json(path)
        pairs = list(shares.items()) if isinstance(shares, dict) else [()]
    if not all(len(pair) == 2 and isinstance(pair[0], str) for pair in pairs):
        raise InputError(f"{path}: {form}")
    return [(label.strip(), value) for label, value in pairs]


def read_shares(path: Path, label_names: list[str]) -> Tensor:
    """Class shares (C,) from shares or counts. InputError unless each class stands there once."""
    shares = {}
    for label, value in named_numbers(path):
        if label not in label_names:
            raise InputError(
                f"{path}: the model has no class {label!r:.60}, only "
                f"{', '.join(map(repr, label_names))[:300]}"
            )
        if label in shares:
            raise InputError(f"{path}: the class {label!r:.60} stands there twice; keep one")
        try:
            shares[label] = float(value)
        except (TypeError, ValueError, OverflowError):
            shares[label] = math.nan
        if not (math.isfinite(shares[label]) and shares[label] >= 0):
            raise InputError(
                f"{path}: {value!r:.40} is no share or count for the class "
                f"{label!r:.60}; write a number of at least 0"
            )
    missing = [name for name in label_names if name not in shares]
    if missing:
        raise InputError(
            f"{path}: no share for the classes {', '.join(map(repr, missing))[:300]}; "
            "add them, 0 for a class that does not occur"
        )
    if not 0 < sum(shares.values()) < math.inf:
        raise InputError(
            f"{path}: the shares sum to {sum(shares.values())}; at least one class "
            "must occur, and not infinitely often"
        )
    in_order = torch.tensor([shares[name] for name in label_names], dtype=torch.float64)
    return in_order / in_order.sum()


def prior(given: str | None, about: export.About) -> Tensor | None:
    """(C,) of test_prior; None as it is."""
    if given is None:
        return None
    if given == "train":
        return about.train_shares()
    if given == "uniform":
        return torch.ones(len(about.label_names), dtype=torch.float64) / len(about.label_names)
    if not os.path.exists(given):
        raise InputError(
            f"--test_prior {given}: neither train, uniform nor a file that is there; "
            "write train for the class shares of the training texts, or name a file"
        )
    return read_shares(Path(given), about.label_names)


# ---- calibration, and when to abstain ----


def calibration_of(about: export.About, calibrated: bool, abstain: float | None) -> dict | None:
    """The calibration where it is asked for. InputError where it has nothing for what is asked."""
    flag = "--calibrated" if calibrated else "--abstain"
    if not calibrated and abstain is None:
        return None
    if about.calibration is None:
        raise InputError(
            f"{flag}: this model was trained without validation texts; train it with "
            "--val_fraction 0.1"
        )
    fit = {"why_not": "", "coverage": []} | about.calibration  # older versions lack the two
    if calibrated and fit["why_not"]:
        raise InputError(
            f"--calibrated: this model has no temperature, for {fit['why_not']}; "
            "leave --calibrated out"
        )
    if abstain is not None and not fit["coverage"]:
        raise InputError(
            "--abstain: this model was trained by a version that did not record what "
            "it would leave; train it again with --overwrite"
        )
    return fit


def words_on(predictor: Predictor, has_prior: bool) -> Iterator[str]:
    """What a user should know of the probabilities before they come."""
    fit = predictor.fit
    if predictor.about.compensated and not has_prior:
        yield (
            "note: this model was trained to predict for classes of equal share, and so are its "
            "probabilities; --test_prior train puts the training shares back, or name a file of "
            "other shares"
        )
    if fit and fit["why_not"]:
        yield f"no temperature: {fit['why_not']}"
    elif fit:
        yield (
            f"temperature {fit['temperature']:.3f}: expected calibration error "
            f"{fit['ece_before']:.1f} % before, {fit['ece_after']:.1f} % after, on "
            f"{fit['texts']} validation texts"
        )
    if fit and predictor.abstain is not None:
        line = coverage_line(fit["coverage"], fit["texts"], predictor.abstain)
        yield line + (" (measured without --test_prior)" if has_prior else "")


def coverage_line(rows: list[dict], texts: int, p: float) -> str:
    """What --abstain p did on the validation texts: its row of the table, or the two beside it."""
    below = max(row["p"] for row in rows if row["p"] <= p)
    above = min((row["p"] for row in rows if row["p"] >= p), default=below)
    shown = [row for row in rows if row["p"] in (below, above)]
    return f"--abstain on the {texts} validation texts: " + "; ".join(
        f"{row['p']:g} answers {row['answered']:.1f} %, "
        + (
            "so no accuracy is known"
            if row["accuracy"] is None
            else f"and {row['accuracy']:.1f} % of these are right"
        )
        for row in shown
    )


# ---- writing ----


@dataclass
class Predictions:
    """Predictions as CSV or JSONL."""

    form: str  # csv, jsonl
    header: list[str] | None = None
    formulas: int = 0  # cells of the CSV that a spreadsheet would run

    def lines(self, pool: list[dict], answers: list[dict]) -> bytes:
        """The rows of a pool with their new columns; CSV begins with its header."""
        text = io.StringIO(newline="")
        for row, added in zip(pool, answers):
            twice = row.keys() & added.keys()
            if twice:
                raise InputError(
                    f"the input has a column {min(twice)!r} already, which would be lost; rename it"
                )
            if self.form == "jsonl":
                text.write(json_text(row | added, ensure_ascii=False) + "\n")
            else:
                text.write(self.csv_lines(row | added))
        try:
            return text.getvalue().encode()
        except UnicodeEncodeError:
            raise InputError(
                "the input has half a surrogate pair in a column; write the whole character"
            ) from None

    def csv_lines(self, row: dict) -> str:
        """The row, below the header if it is the first."""
        first = ""
        if self.header is None:
            self.header = list(row)
            first = csv_line(self.header) + "\n"
        if row.keys() != set(self.header):
            raise InputError(
                f"the rows have different fields ({', '.join(row)[:200]}; at first "
                f"{', '.join(self.header)[:200]}), as CSV cannot: write JSONL, with "
                "--output_format jsonl"
            )
        self.formulas += sum(map(is_formula, row.values()))
        return (
            first
            + csv_line(
                value if value is None or isinstance(value, (str, int, float)) else json_text(value)
                for value in (row[name] for name in self.header)
            )
            + "\n"
        )


def json_text(value: object, *, ensure_ascii: bool = True) -> str:
    """As JSON, where null stands for NaN and the infinities, of which JSON knows nothing."""
    try:
        return json.dumps(value, allow_nan=False, ensure_ascii=ensure_ascii)
    except ValueError:
        finite = json.loads(json.dumps(value), parse_constant=lambda _: None)
        return json.dumps(finite, ensure_ascii=ensure_ascii)


@contextlib.contextmanager
def standard_output() -> Iterator[BinaryIO]:
    """
    stdout, to which all is written or an OSError raised. Under python -u or PYTHONUNBUFFERED,
    sys.stdout.buffer is raw: its write() may take a part and say nothing. Hence a buffer of ours.
    """
    if sys.stdout is None:
        raise InputError("stdout is closed: open it, or name a file with --output")
    if not hasattr(sys.stdout, "buffer"):  # a stand-in for text alone, as in a notebook
        content = io.BytesIO()
        yield content
        sys.stdout.write(content.getvalue().decode())
        return
    try:
        number = sys.stdout.fileno()
    except io.UnsupportedOperation:  # a stand-in in memory, as in a test
        yield sys.stdout.buffer
        return
    kind = Screen if os.isatty(number) else io.BufferedWriter
    with kind(io.FileIO(number, "w", closefd=False)) as out:
        yield out


class Screen(io.BufferedWriter):
    """stdout where it is a terminal, for bytes: what files.Terminal is for text."""

    def write(self, content) -> int:
        return super().write(files.printable(content.decode(), but="\n\t").encode())


@contextlib.contextmanager
def sink(output: Path | None) -> Iterator[BinaryIO]:
    """Where the lines go: stdout, or a file that appears whole or not at all."""
    if output is None:
        with standard_output() as out:
            yield out
        return
    if output.exists() and not output.is_file() and not output.is_dir():
        raise InputError(
            f"--output {output}: a device or a pipe, not a file; leave --output out "
            f"and write > {output}"
        )
    with files.saving(output) as file:
        yield file


def spare_input(output: Path | None, stream: BinaryIO) -> None:
    """InputError where the output is the input itself, also by a link or another path to it."""
    try:
        if output and os.path.samestat(os.fstat(stream.fileno()), output.stat()):
            raise InputError(
                f"--output {output} is the input itself: name another file, or "
                "replace it with --overwrite"
            )
    except (FileNotFoundError, NotADirectoryError, io.UnsupportedOperation):
        return  # a new file; or a stand-in for stdin, which is no file


def output_form(output: Path | None, given: str | None) -> str:
    suffix = "csv" if output is None else output.suffix.lower().removeprefix(".")
    if (given or suffix) not in ("csv", "jsonl"):
        raise InputError(
            f"--output {output}: its name ends in neither .csv nor .jsonl: say with "
            "--output_format which of them it is to be"
        )
    return given or suffix


def classify(args: argparse.Namespace) -> None:
    """Reads, predicts and writes, pool by pool."""
    out_form = output_form(args.output, args.output_format)
    with source(args) as given:
        if given and not args.overwrite:
            spare_input(args.output, given.stream)
        predictor = Predictor(
            args.model_dir,
            device=args.device,
            batch_size=args.batch_size,
            test_prior=args.test_prior,
            calibrated=args.calibrated,
            abstain=args.abstain,
            top=args.top,
            probabilities=args.probabilities,
            embedding=args.embedding,
        )
        for line in words_on(predictor, args.test_prior is not None):
            print(line, file=sys.stderr)
        columns, table = args.text_column or predictor.about.text_column, Predictions(out_form)
        columns = [columns] if isinstance(columns, str) else columns
        opened_rows = (
            table_rows(given, columns, args.encoding or "")
            if given
            else contextlib.nullcontext(named_texts(args.inputs, " of the command line"))
        )
        # some formats are read at once, and of a pipe the size is not known
        size = (
            size_of(given.stream)
            if given and given.form in ("lines", "txt", "csv", "tsv", "jsonl")
            else None
        )
        bar = tqdm(
            total=size, unit=" texts" if size is None else "B", unit_scale=True, disable=None
        )
        texts = 0
        with opened_rows as rows, sink(args.output) as out, bar:
            for pool, answers in predictor.stream(rows):
                out.write(table.lines(pool, answers))
                out.flush()
                texts += len(pool)
                bar.set_postfix_str(f"{texts:,} texts", refresh=False)
                bar.update((given.stream.tell() if given and size is not None else texts) - bar.n)
            if given and texts == 0:
                raise InputError(f"{given.name}: no rows; it needs a text")
    for count, what in (
        (predictor.empty, "empty, without a prediction"),
        (predictor.cut, f"cut at {predictor.about.max_length} tokens"),
        (predictor.abstained, f"less probable than {args.abstain}, without a prediction"),
    ):
        if count:
            print(f"{count:,} of {texts:,} texts are {what}", file=sys.stderr)
    unknown, total = predictor.tokens.tolist()
    if unknown:
        remedy = f". {UNKNOWN_REMEDY}" if unknown >= MANY_UNKNOWN * total else ""
        print(
            f"{unknown / total:.2%} of the tokens are unknown to the encoder{remedy}",
            file=sys.stderr,
        )
    if args.output and table.formulas:
        print(
            f"note: {table.formulas:,} cells begin with =, +, -, @ or a control character, which a "
            "spreadsheet runs as a formula: import their columns as text, or write .jsonl",
            file=sys.stderr,
        )


# ---- the command line ----


def make_parser() -> argparse.ArgumentParser:
    parser = files.Parser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("model_dir", help="the folder of a run, or its model/")
    add(
        "inputs",
        nargs="*",
        metavar="FILE|TEXT",
        help="one file, or one or more texts. What exists as a path, or ends in "
        f"{reading.ENDINGS}, .gz, .bz2 or .zip, is a file; all else is a text. A .txt file has a "
        "text a line, unless its first line names the text column beside others. Left out, or -: "
        "stdin",
    )
    add(
        "--format",
        choices=FORMATS,
        help="of the input, which then is a file; default: by its name, lines of stdin",
    )
    add(
        "--text_column",
        action=files.Collect,
        nargs="+",
        metavar="NAME",
        help="several are joined, a line each; default: as in the training data",
    )
    add("--encoding", type=reading.text_encoding, metavar="NAME", help=arguments.ENCODING_HELP)
    add(
        "--output",
        type=Path,
        help="a .csv or .jsonl file, written whole or not at all (with "
        "--export: a folder); default: stdout",
    )
    add("--output_format", choices=("csv", "jsonl"), help="default: by --output's name, else csv")
    add("--overwrite", action="store_true", help="let --output replace the input itself")
    add(
        "--top",
        type=arguments.number(int, 1),
        metavar="K",
        help="columns for the K likeliest labels, top_1 to top_K, and their probabilities",
    )
    add("--probabilities", action="store_true", help="a column for each class's probability")
    add("--embedding", action="store_true", help="a column for the text's embedding, feat")
    add(
        "--test_prior",
        metavar="train|uniform|FILE",
        help="the class shares of these texts, if they are known: as in training, all equal, or "
        "those in a CSV (label, share or count) or JSON file; default: what the model was "
        "trained to predict for",
    )
    add(
        "--calibrated",
        action="store_true",
        help="divide the logits by the temperature found on the validation texts of the training",
    )
    add(
        "--abstain",
        type=arguments.number(float, 0, 1),
        metavar="P",
        help="no prediction where the calibrated probability is below P; what share of the "
        "validation texts that answers, and how many of these are right, goes to stderr",
    )
    add("--batch_size", type=arguments.number(int, 1), default=64, help="default: 64")
    add(
        "--device",
        type=available_device,
        default="auto",
        help="auto (default), cpu, cuda, cuda:1 or mps",
    )
    add(
        "--export",
        choices=tuple(export.EXPORTS),
        help="instead: write the model for ONNX, or as a folder of sentence-transformers with the "
        "embedding, or its projection into the contrastive space",
    )
    return parser


@files.plain_output()
def main(argv: list[str] | None = None) -> int:
    args = make_parser().parse_intermixed_args(argv)  # FILE may stand behind the options
    if not args.inputs and args.text_column and is_last_a_file(args.text_column):
        args.inputs = [args.text_column.pop()]
    try:
        if args.export and args.inputs:
            raise InputError(f"--export classifies no texts: leave {args.inputs[0]} out")
        if args.export:
            with quiet_transformers():
                folder = export.export(args.model_dir, args.export, args.output)
            with standard_output() as out:
                out.write(f"{folder}\n".encode())
        else:
            classify(args)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Exception as error:
        if lacks_memory(error):
            text = f"out of memory ({error!r:.80}): take a smaller --batch_size"
        elif system := system_error(error):  # a full disk behind stdout, a file that ends too early
            place = system.filename or "stdin or stdout"
            text = f"{place}: {system.strerror or system}; make room or take another path"
        else:
            raise
        print(f"error: {text}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        print("interrupted", file=sys.stderr)
        return signals.exit_code(error)
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # | head ends it without a traceback
    signals.run(main)

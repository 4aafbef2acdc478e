"""
Classify new texts with a trained model, or take the model to other tools.

    python predict.py runs/RUN reviews.csv --text_column review --output labelled.csv
    python predict.py runs/RUN reviews.jsonl --probabilities --test_prior train | head
    echo "what a wonderful film" | python predict.py runs/RUN
    python predict.py runs/RUN --export onnx

Each row of the input is a row of the output, in the same order and with all its columns, and has a
prediction and its probability; where a text is empty, these are empty.
"""
import argparse
import contextlib
import csv
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
from typing import BinaryIO

import numpy as np
import torch
import transformers
from torch import Tensor
from tqdm import tqdm

import data
from engine import files, loader
from reporting import export
from engine.files import InputError
from model import device

# ---- reading: rows as dicts, one after the other ----

FORMATS = ("lines", "csv", "tsv", "json", "jsonl")


def format_of(file: str, given: str | None) -> str:
    """Of the input: the given one, else by the file's name; stdin has lines."""
    suffix = "lines" if file == "-" else Path(file).suffix.lower().removeprefix(".")
    form = given or {"txt": "lines"}.get(suffix, suffix)
    if form not in FORMATS:
        raise InputError(f"{file}: its name ends in none of .txt .csv .tsv .json .jsonl: say with "
                         f"--format what it is ({', '.join(FORMATS)})")
    return form


@contextlib.contextmanager
def opened(file: str) -> Iterator[BinaryIO]:
    """The file, or stdin for "-", as bytes."""
    if file == "-":
        yield sys.stdin.buffer
        return
    try:
        stream = open(file, "rb")
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); check the path") from None
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


def decoded(name: str, stream: BinaryIO) -> Iterator[str]:
    """Its lines, with their ends. InputError: empty, not UTF-8, or with a NUL."""
    number = 0
    for number, line in enumerate(stream, 1):
        try:
            text = line.decode()
        except UnicodeDecodeError:
            raise InputError(f"{name}, line {number}: not UTF-8; save it as UTF-8") from None
        if "\0" in text:
            raise InputError(f"{name}, line {number}: a NUL byte; the file is damaged or not a "
                             "text file")
        yield text.removeprefix("\ufeff") if number == 1 else text
    if number == 0:
        raise InputError(f"{name}: the file is empty; it needs a text")


def read_rows(name: str, stream: BinaryIO, form: str, column: str) -> Iterator[dict]:
    """Its rows, which have the text in this column; all but JSON is read as it is needed."""
    lines = decoded(name, stream)
    if form == "lines":
        yield from ({column: line.removesuffix("\n").removesuffix("\r")} for line in lines)
        return
    if form in ("csv", "tsv"):
        rows = data.table_rows(name, lines, "," if form == "csv" else "\t", column)
    else:
        items = data.json_lines(name, lines) if form == "jsonl" else data.json_list(
            name, "".join(lines))
        rows = data.json_rows(items, column)
    for where, row in rows:
        data.checked_text(where, row[column])
        yield row


def pools(rows: Iterable[dict], column: str, most: int) -> Iterator[list[dict]]:
    """Up to `most` rows at a time, and no more than 16 million characters of text, in order."""
    pool, characters = [], 0
    for row in rows:
        pool.append(row)
        characters += len(row[column])
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


@dataclass
class Predictor:
    """A model and what is asked of it; counts what is worth a word at the end."""
    trained: export.Trained
    column: str
    shares: Tensor | None           # of the test classes, (C,); None: those it predicts for
    temperature: float
    batch_size: int
    empty: int = 0
    cut: int = 0

    def tokens(self, pool: list[dict]) -> tuple[list[dict], np.ndarray, data.Tokens | None]:
        """The pool, which of its rows have a text, and these texts as tokens."""
        rows = [i for i, row in enumerate(pool) if row[self.column].strip()]
        if not rows:
            return pool, np.array([], dtype=np.int64), None
        tokens = data.tokenize([pool[i][self.column] for i in rows], self.trained.tokenizer,
                               self.trained.about.max_length, quiet=True)
        return pool, np.array(rows), tokens

    @torch.inference_mode()
    def encode(self, tokens: data.Tokens) -> tuple[Tensor, np.ndarray]:
        """Logits (n, C) as trained, on the CPU, and feat (n, h)."""
        method = self.trained.method
        tokens, n = method.prepare(tokens), len(tokens.lengths)
        place = next(method.parameters()).device
        logits = torch.empty(n, len(self.trained.about.label_names))
        feats = np.empty((n, method.encoder.backbone.config.hidden_size), dtype=np.float32)
        for rows in data.eval_batches(tokens.lengths, self.batch_size):
            feat = loader.encode(method.encoder, tokens.take(rows), place)
            logits[rows] = method.classify(feat).cpu()
            # a label-aware encoder gives the text first, then each label
            feats[rows] = (feat if feat.ndim == 2 else feat[:, 0]).cpu().numpy()
        if not logits.isfinite().all():
            raise InputError("the model gives a text logits that are not finite: train it again, "
                             "with a lower --lr")
        return logits, feats

    def predict(self, rows: Iterable[dict]) -> Iterator[tuple[list[dict], np.ndarray, np.ndarray]]:
        """
        Pool after pool: its rows, their probabilities (n, C), NaN for an empty text, and feat.

        A pool of 128 batches is sorted by length, as a whole file would be: of WordNet's glosses
        1 % more is padded than there. Memory is that of two pools, however long the input.
        """
        about, h = self.trained.about, self.trained.method.encoder.backbone.config.hidden_size
        pooled = pools(rows, self.column, 128 * self.batch_size)
        for pool, rows, tokens in ahead(self.tokens, pooled):
            probabilities = np.full((len(pool), len(about.label_names)), np.nan)
            feats = np.full((len(pool), h), np.nan, dtype=np.float32)
            if tokens is not None:
                logits, feats[rows] = self.encode(tokens)
                probabilities[rows] = export.reweighted(
                    about, logits.double(), self.shares, self.temperature).softmax(dim=1).numpy()
                self.cut += round(tokens.truncated * len(rows))
            self.empty += len(pool) - len(rows)
            yield pool, probabilities, feats


# ---- class shares ----


def named_numbers(path: Path) -> list[tuple[str, object]]:
    """(label, number) of each row of a CSV file, or of each entry of a JSON object."""
    content = data.read_utf8(path)
    if path.suffix.lower() == ".csv":
        rows = data.table_rows(path, io.StringIO(content, newline=""), ",")
        pairs = [(row.pop("label", None), *row.values()) for _, row in rows]
    else:
        # not as dict, which would keep the last of two entries for one label
        try:
            pairs = json.loads(content, object_pairs_hook=tuple)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}: not valid JSON ({str(error)[:80]}); correct it") from None
    if not isinstance(pairs, (list, tuple)) or not all(
            isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str)
            for pair in pairs):
        raise InputError(f"{path}: class shares are a CSV file with the columns label and share "
                         '(or count), or a JSON object {"label": share}')
    return [(label.strip(), value) for label, value in pairs]


def read_shares(path: Path, label_names: list[str]) -> Tensor:
    """Class shares (C,) from shares or counts. InputError unless each class stands there once."""
    shares = {}
    for label, value in named_numbers(path):
        if label not in label_names:
            raise InputError(f"{path}: the model has no class {label!r:.60}, only "
                             f"{', '.join(map(repr, label_names))[:300]}")
        if label in shares:
            raise InputError(f"{path}: the class {label!r:.60} stands there twice; keep one")
        try:
            shares[label] = float(value)
        except (TypeError, ValueError):
            shares[label] = math.nan
        if not (math.isfinite(shares[label]) and shares[label] >= 0):
            raise InputError(f"{path}: {value!r:.40} is no share or count for the class "
                             f"{label!r:.60}; write a number of at least 0")
    missing = [name for name in label_names if name not in shares]
    if missing:
        raise InputError(f"{path}: no share for the classes {', '.join(map(repr, missing))[:300]}; "
                         "add them, 0 for a class that does not occur")
    if not 0 < sum(shares.values()) < math.inf:
        raise InputError(f"{path}: the shares sum to {sum(shares.values())}; at least one class "
                         "must occur, and not infinitely often")
    shares = torch.tensor([shares[name] for name in label_names], dtype=torch.float64)
    return shares / shares.sum()


def prior(given: str | None, about: export.About) -> Tensor | None:
    """(C,) of --test_prior; without it None, and a word where that may surprise."""
    if given is None:
        if about.compensated:
            print("note: this model was trained to predict for classes of equal share, and so are "
                  "its probabilities; --test_prior train puts the training shares back, or name "
                  "a file of other shares", file=sys.stderr)
        return None
    if given == "uniform":
        return torch.ones(len(about.label_names), dtype=torch.float64) / len(about.label_names)
    return about.train_shares() if given == "train" else read_shares(Path(given),
                                                                     about.label_names)


def calibrated_temperature(about: export.About) -> float:
    if about.calibration is None:
        raise InputError("--calibrated: this model has no temperature, for it was trained without "
                         "a validation split, or that determined none; train with --val_fraction")
    fit = about.calibration
    print(f"temperature {fit['temperature']:.3f}: expected calibration error "
          f"{fit['ece_before']:.1f} % before, {fit['ece_after']:.1f} % after, on {fit['texts']} "
          "validation texts with the training shares", file=sys.stderr)
    return fit["temperature"]


# ---- writing ----


@dataclass
class Table:
    """Predictions as CSV or JSONL."""
    form: str                   # csv, jsonl
    label_names: list[str]
    all_probabilities: bool
    embedding: bool
    header: list[str] | None = None

    def added(self, probabilities: np.ndarray, feat: np.ndarray) -> dict:
        """The new columns of one row."""
        is_empty = np.isnan(probabilities[0])
        label = probabilities.argmax()
        new = {"prediction": None if is_empty else self.label_names[label],
               "probability": None if is_empty else round(float(probabilities[label]), 6)}
        if self.all_probabilities:
            new |= {f"probability_{name}": None if is_empty else round(float(p), 6)
                    for name, p in zip(self.label_names, probabilities)}
        if self.embedding:
            new["embedding"] = None if is_empty else [float(f"{x:.6g}") for x in feat]
        return new

    def lines(self, pool: list[dict], probabilities: np.ndarray, feats: np.ndarray) -> bytes:
        """The rows of a pool with their new columns; CSV begins with its header."""
        text = io.StringIO(newline="")
        for row, added in zip(pool, map(self.added, probabilities, feats)):
            twice = row.keys() & added.keys()
            if twice:
                raise InputError(f"the input has a column {min(twice)!r} already, which would be "
                                 "lost; rename it")
            if self.form == "jsonl":
                text.write(json.dumps(row | added, ensure_ascii=False) + "\n")
            else:
                self.write_csv(text, row | added)
        try:
            return text.getvalue().encode()
        except UnicodeEncodeError:
            raise InputError("the input has half a surrogate pair in a column; write the whole "
                             "character") from None

    def write_csv(self, text: io.StringIO, row: dict) -> None:
        writer = csv.writer(text, lineterminator="\n")
        if self.header is None:
            self.header = list(row)
            writer.writerow(self.header)
        if list(row) != self.header:
            raise InputError(f"the rows have different fields ({', '.join(row)[:200]}; at first "
                             f"{', '.join(self.header)[:200]}), as CSV cannot: write JSONL, with "
                             "--output_format jsonl")
        writer.writerow(value if value is None or isinstance(value, (str, int, float))
                        else json.dumps(value) for value in row.values())


@contextlib.contextmanager
def sink(output: Path | None) -> Iterator[BinaryIO]:
    """Where the lines go: stdout, or a file that appears whole or not at all."""
    if output is None:
        yield sys.stdout.buffer
    else:
        with files.saving(output) as file:
            yield file


def output_form(output: Path | None, given: str | None) -> str:
    suffix = "csv" if output is None else output.suffix.lower().removeprefix(".")
    if (given or suffix) not in ("csv", "jsonl"):
        raise InputError(f"--output {output}: its name ends in neither .csv nor .jsonl: say with "
                         "--output_format which of them it is to be")
    return given or suffix


def classify(args: argparse.Namespace) -> None:
    """Reads, predicts and writes, pool by pool."""
    name = "stdin" if args.file == "-" else args.file
    form, out_form = format_of(args.file, args.format), output_form(args.output, args.output_format)
    with opened(args.file) as stream:
        trained = export.read_model(args.model_dir, args.device)
        about = trained.about
        column = args.text_column or about.text_column
        predictor = Predictor(
            trained, column, prior(args.test_prior, about),
            calibrated_temperature(about) if args.calibrated else 1.0, args.batch_size)
        table = Table(out_form, about.label_names, args.probabilities, args.embedding)
        size = None if form == "json" else size_of(stream)      # JSON is read at once
        bar = tqdm(total=size, unit=" texts" if size is None else "B", unit_scale=True,
                   disable=None)
        texts = 0
        with sink(args.output) as out, bar:
            for pool, *predictions in predictor.predict(read_rows(name, stream, form, column)):
                out.write(table.lines(pool, *predictions))
                out.flush()
                texts += len(pool)
                bar.set_postfix_str(f"{texts:,} texts", refresh=False)
                bar.update((texts if size is None else stream.tell()) - bar.n)
            if texts == 0:
                raise InputError(f"{name}: no rows; it needs a text")
    for count, what in ((predictor.empty, "empty, without a prediction"),
                        (predictor.cut, f"cut at {about.max_length} tokens")):
        if count:
            print(f"{count:,} of {texts:,} texts are {what}", file=sys.stderr)


# ---- the command line ----


def positive(text: str) -> int:
    """An argparse type."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} must be at least 1")
    return value


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("model_dir", help="the folder of a run, or its model/")
    add("file", nargs="?", default="-", help=".txt (a text a line), .csv, .tsv, .json or .jsonl; "
        "left out or -: stdin")
    add("--format", choices=FORMATS, help="of the input; default: by its name, lines of stdin")
    add("--text_column", help="default: that of the training data")
    add("--output", type=Path, help="a .csv or .jsonl file, written whole or not at all (with "
        "--export: a folder); default: stdout")
    add("--output_format", choices=("csv", "jsonl"), help="default: by --output's name, else csv")
    add("--probabilities", action="store_true", help="a column for each class's probability")
    add("--embedding", action="store_true", help="a column for the text's embedding, feat")
    add("--test_prior", metavar="train|uniform|FILE",
        help="the class shares of these texts, if they are known: as in training, all equal, or "
             "those in a CSV (label, share or count) or JSON file; default: what the model was "
             "trained to predict for")
    add("--calibrated", action="store_true",
        help="divide the logits by the temperature found on the validation texts of the training")
    add("--batch_size", type=positive, default=64, help="default: 64")
    add("--device", type=device, default="auto", help="auto (default), cpu, cuda, cuda:1 or mps")
    add("--export", choices=tuple(export.EXPORTS),
        help="instead: write the model for ONNX, or as a folder of sentence-transformers with the "
             "embedding, or its projection into the contrastive space")
    return parser


def main(argv: list[str] | None = None) -> int:
    args = make_parser().parse_intermixed_args(argv)    # FILE may stand behind the options
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        if args.export and args.file != "-":
            raise InputError(f"--export classifies no texts: leave {args.file} out")
        if args.export:
            print(export.export(args.model_dir, args.export, args.output))
        else:
            classify(args)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:        # a full disk behind stdout, a file that cannot be read on
        print(f"error: {error.filename or 'stdin or stdout'}: {error.strerror or error}; make room "
              "or take another path", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)       # | head ends it without a traceback
    sys.exit(main())

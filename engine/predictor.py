"""
Predictor classifies texts with a trained model, also for given class shares.

    n  texts     C  classes     h  width of the encoder
"""

import argparse
import math
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine import loader, reading
from engine.calibration import coverage_line, in_words, reweighted
from engine.encoders import device as available_device
from engine.encoders import quiet_transformers
from engine.files import InputError
from engine.saved_model import About, read_model
from engine.tokens import tokenize, unknown_tokens

TextRow = tuple[dict, str]  # an input row, and its text
MOST_CHARACTERS = 16_000_000  # of the texts in memory at a time


class Predictor:
    """
    A trained model with options for its predictions:

        from predict import Predictor
        predictor = Predictor("runs/RUN")
        predictor.predict(["a text", "another"])    # [{"prediction": ..., "probability": ...}, ...]

    folder         of a run of main.py, or its model/
    test_prior     "train", "uniform", or a file with the class shares of the texts
    calibrated     probabilities by the temperature found on the validation texts
    abstain        no prediction where the calibrated probability is below this
    top            adds the likeliest labels, top_1 to top_K, and their probabilities
    probabilities  adds the probability of every class
    embedding      adds the text's embedding, a list of h floats

    It counts empty texts, truncated texts, texts without a prediction, and tokens that the encoder
    does not know. Raises InputError, whose message is one line with a remedy.
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
        try:
            device = available_device(device)
        except argparse.ArgumentTypeError as error:
            raise InputError(f"{error}: take another device, or auto") from None
        quiet_transformers()
        self.trained = read_model(folder, device)
        self.about, self.batch_size = self.trained.about, batch_size
        self.shares = prior(test_prior, self.about)  # (C,), or None
        self.fit = calibration_of(self.about, calibrated, abstain)  # None if it is not needed
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
            raise InputError(f"--embedding: {self.about.method} has no embedding; leave it out")

    def predict(self, texts: Iterable[str]) -> list[dict]:
        """For each text, in order, its prediction (None if there is none) and probability."""
        if isinstance(texts, str):
            raise InputError("predict() takes a list of texts: put this one in brackets")
        return [added for _, pool in self.stream(named_texts(texts)) for added in pool]

    def stream(self, rows: Iterable[TextRow]) -> Iterator[tuple[list[dict], list[dict]]]:
        """
        Yields, for each pool, its rows without their texts, and what predict() returns for them.

        A pool of 128 batches is sorted by length. On WordNet's glosses this needs 1 % more padding
        than sorting the whole file, but only two pools are in memory, however long the input.
        """
        pooled = pools(rows, 128 * self.batch_size)
        for pool, has_text, inputs in ahead(self._inputs, pooled):
            answers = iter(self._answers(inputs) if inputs else [])
            self.empty += len(pool) - sum(has_text)
            yield pool, [next(answers) if filled else self._answer() for filled in has_text]

    def words(self) -> Iterator[str]:
        """Yields lines with notes on the probabilities, to print before the predictions."""
        has_prior = self.shares is not None
        if self.about.compensated and not has_prior:
            yield (
                "note: this model was trained to predict for classes of equal share, and so are "
                "its probabilities; --test_prior train puts the training shares back, or name a "
                "file of other shares"
            )
        if self.fit:
            yield in_words(self.fit)
        if self.fit and self.abstain is not None:
            line = coverage_line(self.fit["coverage"], self.fit["texts"], self.abstain)
            yield line + (" (measured without --test_prior)" if has_prior else "")

    def _inputs(self, pool: list[TextRow]) -> tuple[list[dict], list[bool], Any]:
        """The rows, whether each has a text, and the model's input for the texts; None without."""
        has_text = [bool(text.strip()) for _, text in pool]
        inputs: Any = [text for _, text in pool if text.strip()] or None
        if inputs and self.about.max_length is not None:  # else the method takes strings
            texts = [self.about.prefix + text for text in inputs]
            inputs = tokenize(texts, self.trained.tokenizer, self.about.max_length)
        return [row for row, _ in pool], has_text, inputs

    def _answers(self, inputs) -> list[dict]:
        """The new columns of each text that is not empty, from the model's inputs."""
        method, tokenizer = self.trained.method, self.trained.tokenizer
        feats: Iterable[np.ndarray | None]
        if tokenizer is None:
            logits, feats = method.scores(inputs), [None] * len(inputs)
        else:
            logits, feats = loader.predict(
                method,
                method.prepare(inputs),
                len(self.about.label_names),
                batch_size=self.batch_size,
            )
            self.cut += round(inputs.truncated * len(logits))
            self.tokens += unknown_tokens(inputs, tokenizer)
        own, temperature = self.about.own_shares(), self.fit["temperature"] if self.fit else 1.0
        scores = reweighted(torch.from_numpy(logits).double(), own, self.shares, temperature)
        return list(map(self._answer, scores.softmax(dim=1).numpy(), feats))

    def _answer(self, p: np.ndarray | None = None, feat: np.ndarray | None = None) -> dict:
        """The new columns of one text, from its probabilities (C,); all None for an empty text."""
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


# ---- streams of rows ----


def named_texts(texts: Iterable[str], of: str = "") -> Iterator[TextRow]:
    """Makes rows of plain texts."""
    for number, text in enumerate(texts, 1):
        yield {"text": text}, reading.text_of(f"text {number}{of}", text, is_optional=False)


def pools(rows: Iterable[TextRow], most: int) -> Iterator[list[TextRow]]:
    """Yields up to `most` rows at a time, in order, with about MOST_CHARACTERS of text at most."""
    pool, characters = [], 0
    for row, text in rows:
        pool.append((row, text))
        characters += len(text)
        if len(pool) == most or characters > MOST_CHARACTERS:
            yield pool
            pool, characters = [], 0
    if pool:
        yield pool


def ahead(function, items: Iterable) -> Iterator:
    """Yields function(item) for each item, in order; a thread computes the next one meanwhile."""
    with ThreadPoolExecutor(1) as thread:
        waiting: list[Future] = []
        for item in items:
            waiting.append(thread.submit(function, item))
            if len(waiting) > 1:
                yield waiting.pop(0).result()
        yield from (last.result() for last in waiting)


# ---- options for the probabilities ----


def prior(given: str | None, about: About) -> Tensor | None:
    """The class shares (C,) of test_prior; None leaves the probabilities as they are."""
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


def read_shares(path: Path, label_names: list[str]) -> Tensor:
    """
    Class shares (C,) from a CSV file with the columns label and share (or count). InputError unless
    each class occurs once.
    """
    with reading.open_table(path) as table:
        pairs = [(row.pop("label", None), *row.values()) for _, row in table.rows]
    try:
        shares = {label.strip(): float(value) for label, value in pairs}
        fault = ", ".join(map(repr, sorted(shares.keys() ^ set(label_names))))
        if fault or len(shares) < len(pairs):
            raise ValueError(fault or "a class stands there twice")
        in_order = torch.tensor([shares[name] for name in label_names], dtype=torch.float64)
        if in_order.min() < 0 or not 0 < in_order.sum() < math.inf:
            raise ValueError("a number below 0, or a sum of 0 or of infinity")
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise InputError(
            f"{path} does not fit the classes of the model ({str(error)[:300]}): class shares are "
            "a CSV file with the columns label and share (or count), in which each class stands "
            "once, with 0 if it does not occur"
        ) from error
    return in_order / in_order.sum()


def calibration_of(about: About, calibrated: bool, abstain: float | None) -> dict | None:
    """The calibration, or None if no option needs it. InputError if the model has none."""
    if not calibrated and abstain is None:
        return None
    if about.calibration is None:
        raise InputError(
            f"{'--calibrated' if calibrated else '--abstain'}: this model was trained without "
            "validation texts; train it with --val_fraction 0.1"
        )
    if calibrated and about.calibration["why_not"]:
        raise InputError(
            f"--calibrated: this model has no temperature, for {about.calibration['why_not']}; "
            "leave --calibrated out"
        )
    return about.calibration

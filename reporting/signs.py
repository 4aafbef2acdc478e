"""
The signs of failures in training: for each the number that shows it, its limit, the reason for the
limit, and what to try.
"""

from collections.abc import Callable
from typing import NamedTuple

import pandas as pd

History = list[dict]  # the lines of metrics.jsonl, one for each epoch


class Sign(NamedTuple):
    """
    failure     the name of the failure
    sentence    what is measured; {} stands for the value
    measure     computes the value from a history; None if the run does not have it
    limit       the failure is seen beyond it
    is_least    whether good values are above the limit; else they are below it
    reason      the reason for the limit
    advice      what to try, with flags of main.py in backticks; each sentence stands by itself,
                because a page leaves out those with flags that its run cannot take
    """

    failure: str
    sentence: str
    measure: Callable[[History], float | None]
    limit: float
    is_least: bool
    reason: str
    advice: str

    def is_seen(self, value: float) -> bool:
        return value < self.limit if self.is_least else value > self.limit


def values(history: History, place: str) -> pd.Series:
    """The values at a place in the records, as "test.macro_f1", by epoch; missing ones left out."""
    epochs = pd.json_normalize(history).set_index("epoch")
    return epochs[place].dropna() if place in epochs else pd.Series(dtype=float)


def development(history: History) -> pd.Series:
    """Macro-F1 on the validation texts or, if there are none, on the test texts."""
    found = values(history, "val.macro_f1")
    return found if len(found) else values(history, "test.macro_f1")


def last(found: pd.Series) -> float | None:
    return found.iloc[-1] if len(found) else None


def at_the_end(name: str) -> Callable[[History], float | None]:
    """Makes a measure: this diagnostic after the last epoch."""
    return lambda history: last(values(history, f"diagnostics.{name}"))


def gap(history: History) -> float | None:
    """Accuracy minus macro-F1 on the test texts, at the last epoch."""
    return last(values(history, "test.accuracy") - values(history, "test.macro_f1"))


def cosine_lost(history: History) -> float | None:
    """How far the prototypes' cosine in the last epoch is below its best."""
    found = values(history, "diagnostics.prototype_cosine")
    return found.max() - found.iloc[-1] if len(found) > 1 else None


def lost_while_fitting(history: History) -> float | None:
    """How far the last macro-F1 is below its best; 0 unless the loss continued to fall."""
    found, loss = development(history), values(history, "loss")
    if len(found) < 2 or found.index[-1] not in loss:
        return None
    best, end = found.idxmax(), found.index[-1]
    return found[best] - found[end] if loss[end] < loss[best] else 0.0


def mixing_spread(history: History) -> float | None:
    """The mean spread over the epochs, of mixed positives or negatives, whichever is smaller."""
    found = [values(history, f"diagnostics.mixing_std_{sign}") for sign in ("pos", "neg")]
    return min((own.mean() for own in found if len(own)), default=None)


SIGNS = (
    Sign(
        "Prototype drift",
        "Prototypes and the mean texts of their classes have a cosine of {:.2f}, on average.",
        at_the_end("prototype_cosine"),
        0.5,
        True,
        "0 is unrelated, as before training, and 1 the same direction; runs that end well pass "
        "0.7 within a few epochs",
        "The prototypes have left their classes, or have not reached them yet. Train for more "
        "epochs, `--epochs 30`. Or put more weight on the branch that pulls them, `--mu 2`.",
    ),
    Sign(
        "Prototype drift of one class",
        "For the class with the lowest cosine it is {:.2f}.",
        at_the_end("prototype_cosine_min"),
        0.0,
        True,
        "below 0 a prototype points away from its own texts",
        "This is mostly a class of few texts, which few batches hold. Take larger batches, "
        "`--batch_size 256`. More epochs help, too, and so do more texts of this class.",
    ),
    Sign(
        "Prototype drift in the course of training",
        "The average cosine lies {:.2f} below its best epoch.",
        cosine_lost,
        0.1,
        False,
        "from one epoch to the next it moves by a few hundredths",
        "Take a learning rate that falls, `--schedule linear`. Or take a lower one, `--lr 2e-5`.",
    ),
    Sign(
        "A plateau while the loss falls",
        "Since its best epoch macro-F1 has lost {:.1f} points while the training loss went on "
        "falling.",
        lost_while_fitting,
        2.0,
        False,
        "on a few hundred texts one or two points are chance, on fewer texts more",
        "Take a learning rate that falls, `--schedule linear`. Or take a lower one, `--lr 2e-5`, "
        "or fewer epochs. Hold texts out, `--val_fraction 0.1`, so that the best epoch can be "
        "chosen.",
    ),
    Sign(
        "Collapse of the mixing coefficients",
        "Their standard deviation is {:.2f}.",
        mixing_spread,
        0.1,
        True,
        "Beta(0.5, 0.5) has 0.35; at 0.1 nearly all mixtures are midpoints",
        "Take a smaller lambda, `--lam 0.5`.",
    ),
    Sign(
        "Collapse of the mixed positives",
        "Their mean similarity to the prototype of their class is {:.2f}.",
        at_the_end("mixed_to_prototype_pos"),
        0.99,
        False,
        "there they are copies of it; runs that end well come near, once every text is fitted",
        "This does no harm where macro-F1 is good. Else take fewer and harder texts, `--k 5`. Or "
        "see more of a class at a time, `--batch_size 256`. Or draw more texts and mix fewer, "
        "`--hard_ratio_end 0.5`.",
    ),
    Sign(
        "Collapse of the mixed negatives",
        "Their mean similarity to the prototype of the class they are built for is {:.2f}.",
        at_the_end("mixed_to_prototype_neg"),
        0.5,
        False,
        "they belong to other classes; runs that end well are below 0 within a few epochs",
        "The classes lie on each other. Take a lower learning rate, `--lr 2e-5`. Or take a lower "
        "temperature, `--tau 0.3`. Look for texts under wrong labels.",
    ),
    Sign(
        "Minority overfitting",
        "Accuracy lies {:.1f} points above macro-F1.",
        gap,
        10.0,
        False,
        "the paper's own gap is below 8 on all its datasets but R52, where it is 11 and some "
        "classes have one text",
        "The rare classes are lost. Mix fewer texts and draw more, `--hard_ratio_end 0.5`. Or "
        "build fewer, `--n_pos 5 --n_neg 250`. Compare with `--method la`. Compare with "
        "`--method tfidf`. Bring more texts of the rare classes.",
    ),
)

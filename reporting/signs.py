"""
What can go wrong in training: each failure with the number that shows it, its limit, the reason for
that limit, what to try, and the flags that try it.

    python -m reporting.signs tables/imbalance.jsonl.gz    # these numbers, of each setting
"""

import argparse
import re
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from engine.files import Parser, one_line_errors
from engine.results import look_up
from reporting import tables

History = list[dict]  # the lines of metrics.jsonl, one for each epoch
Remedy = Callable[[dict], dict[str, object]]  # from a run's settings to other values of its flags


class Sign(NamedTuple):
    """
    failure     what it is a sign of
    sentence    what is measured; {} stands for the value
    measure     the value in a history; None where the run does not have it
    limit       beyond it the failure is seen
    is_least    whether the limit is the least good value; else it is the largest
    reason      why the limit lies there
    advice      what to try, with flags of main.py in backticks; a page shows the sentences whose
                flags its run can try, so that each stands by itself
    remedies    the same as flags for the next run, the first choice first; none where the sign
                alone is no reason to train again
    """

    failure: str
    sentence: str
    measure: Callable[[History], float | None]
    limit: float
    is_least: bool
    reason: str
    advice: str
    remedies: tuple[Remedy, ...]

    def is_seen(self, value: float) -> bool:
        return value < self.limit if self.is_least else value > self.limit

    def shown(self, value: float) -> str:
        """The value with the decimals of the sentence, bold where the failure is seen."""
        text = re.sub(".*?({.*?}).*", r"\1", self.sentence).format(value)
        return f"**{text}**" if self.is_seen(value) else text


def gap(history: History) -> float | None:
    """Accuracy minus macro-F1 on the test texts, at the last epoch."""
    tests = [record["test"] for record in evaluated(history)]
    return tests[-1]["accuracy"] - tests[-1]["macro_f1"] if tests else None


def evaluated(history: History, part: str = "test") -> History:
    """The epochs that have metrics of this part, "test" or "val"."""
    return [record for record in history if part in record]


def values(history: History, *keys: str) -> list[float]:
    """The values that stand at this place, of the epochs that have one."""
    return [value for record in history if (value := look_up(record, keys)) is not None]


def at_the_end(name: str) -> Callable[[History], float | None]:
    """A diagnostic of the last epoch."""
    return lambda history: look_up(history[-1], ("diagnostics", name))


def cosine_lost(history: History) -> float | None:
    """By how much the cosine of the prototypes ends below its best epoch."""
    found = values(history, "diagnostics", "prototype_cosine")
    return max(found) - found[-1] if len(found) > 1 else None


def lost_while_fitting(history: History) -> float | None:
    """
    By how much macro-F1 ends below its best epoch, on the validation texts if there are any; 0
    unless the training loss went on falling.
    """
    part = "val" if evaluated(history, "val") else "test"
    found = evaluated(history, part)
    if len(found) < 2 or "loss" not in found[-1]:
        return None
    best, last = max(found, key=lambda record: record[part]["macro_f1"]), found[-1]
    return best[part]["macro_f1"] - last[part]["macro_f1"] if last["loss"] < best["loss"] else 0.0


def mixing_spread(history: History) -> float | None:
    """Of the mixed positives or the mixed negatives, whichever have less; mean over the epochs."""
    found = [values(history, "diagnostics", f"mixing_std_{sign}") for sign in ("pos", "neg")]
    return min((statistics.mean(own) for own in found if own), default=None)


def flag(name: str, value) -> Remedy:
    return lambda settings: {name: value}


def times(name: str, factor: float) -> Remedy:
    return lambda settings: {name: settings[name] * factor}


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
        (times("epochs", 2), times("mu", 2)),
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
        (times("batch_size", 2),),
    ),
    Sign(
        "Prototype drift in the course of training",
        "The average cosine lies {:.2f} below its best epoch.",
        cosine_lost,
        0.1,
        False,
        "from one epoch to the next it moves by a few hundredths",
        "Take a learning rate that falls, `--schedule linear`. Or take a lower one, `--lr 2e-5`.",
        (flag("schedule", "linear"), times("lr", 0.5)),
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
        (flag("schedule", "linear"), times("lr", 0.5)),
    ),
    Sign(
        "Collapse of the mixing coefficients",
        "Their standard deviation is {:.2f}.",
        mixing_spread,
        0.1,
        True,
        "Beta(0.5, 0.5) has 0.35; at 0.1 nearly all mixtures are midpoints",
        "Take a smaller lambda, `--lam 0.5`.",
        (flag("lam", 0.5),),
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
        (),
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
        (times("lr", 0.5), flag("tau", 0.3)),
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
        (flag("hard_ratio_end", 0.5), flag("method", "la")),
    ),
)


def overview(runs: pd.DataFrame) -> str:
    """
    A Markdown table: of each setting, dataset, imbalance ratio and share of wrong labels the mean
    over its runs of what each sign measures, bold beyond its limit.
    """
    own = ["label", "rate of the heads", "dataset", "place", "noise"]
    rates = [settings.get("head_lr", settings["lr"]) for settings in runs.settings]
    lines = [[*own, "runs", *(sign.failure for sign in SIGNS)]]
    lines.append(["---"] * len(lines[0]))
    keys = ["label", "rate of the heads", "dataset", "ir", "place", "noise"]
    for key, members in runs.assign(**{own[1]: rates}).groupby(keys, dropna=False):
        cells = [str(part) for name, part in zip(keys, key) if name != "ir"] + [str(len(members))]
        for sign in SIGNS:
            measured = [sign.measure(record["epochs"]) for record in members.record]
            known = [value for value in measured if value is not None]
            is_whole = len(known) == len(measured)
            cells.append(sign.shown(statistics.mean(known)) if is_whole else "")
        lines.append(cells)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


@one_line_errors
def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="a folder of runs, or a ledger")
    print(overview(tables.load_runs(parser.parse_args(argv).source, "last")))


if __name__ == "__main__":
    sys.exit(main())

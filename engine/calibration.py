"""
Class probabilities after training: adapted to other class shares, calibrated by a temperature, and
the effect of abstaining below a probability.

    n  texts     C  classes
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from torch import Tensor

from engine.metrics import calibration_error


def reweighted(
    logits: Tensor, own: Tensor | None, shares: Tensor | None, temperature: float = 1.0
) -> Tensor:
    """
    Adapts logits (n, C) to texts whose classes have these shares (C,), up to a constant per text.

    By Bayes' rule p'(y | x) ~ p(y | x) shares_y / own_y (Saerens et al. 2002), where `own` are the
    class shares that the network assumes; None means equal shares. With shares None the logits are
    only divided by the temperature. The temperature scales the network's logits, not the shares.
    """
    logits = logits / temperature
    if shares is None:
        return logits
    if own is not None:
        logits = logits - own.log().to(logits)
    return logits + shares.log().to(logits)


def calibrate(logits: np.ndarray, labels: np.ndarray, own: Tensor | None) -> dict:
    """
    Finds the temperature from the logits (n, C) and labels (n,) of the validation texts; `own` is
    as in reweighted(). Prints the result and returns:

        temperature             that makes the labels most likely (Guo et al. 2017, Section 4.2)
        texts                   n
        ece_before, ece_after   expected calibration error in percent, without and with it
        why_not                 why there is no temperature (it is then 1); empty if there is one
        coverage                the effect of predict.py --abstain P on these texts, see coverage()

    The temperature and the errors are for probabilities adapted to the class shares of these texts.
    """
    texts, target = torch.from_numpy(logits).double(), torch.from_numpy(labels)
    counts = torch.from_numpy(np.bincount(labels, minlength=logits.shape[1])).clamp(min=0.5)
    shares = counts.double() / counts.sum()  # a class counts at least half a text: no share is 0

    def error(temperature: float) -> float:
        p = reweighted(texts, own, shares, temperature).softmax(dim=1).numpy()
        return calibration_error(p.max(axis=1), p.argmax(axis=1) == labels)

    def unlikelihood(log_temperature: float) -> float:
        scaled = reweighted(texts, own, shares, math.exp(log_temperature))
        return F.cross_entropy(scaled, target).item()

    low, high = math.log(0.05), math.log(20)
    found = minimize_scalar(unlikelihood, bounds=(low, high), method="bounded").x
    temperature, right = math.exp(found), int((logits.argmax(axis=1) == labels).sum())
    before, after, why_not = error(1), error(temperature), ""
    if right == len(labels) or not low + 0.01 < found < high - 0.01:
        why_not = (
            f"{len(labels)} validation texts, {right} of them right, do not determine a temperature"
        )
    elif after > before:
        why_not = (
            f"the best temperature for the {len(labels)} validation texts, {temperature:.3f}, "
            f"makes the expected calibration error worse, {after:.2f} % instead of {before:.2f} %"
        )
    if why_not:
        temperature, after = 1.0, before
    fit = {
        "temperature": temperature,
        "texts": len(labels),
        "ece_before": before,
        "ece_after": after,
        "why_not": why_not,
        "coverage": coverage((texts / temperature).softmax(dim=1).numpy(), labels),
    }
    print(in_words(fit))
    return fit


def in_words(fit: dict) -> str:
    """Describes the result of calibrate() in a line."""
    if fit["why_not"]:
        return f"no temperature: {fit['why_not']}"
    return (
        f"temperature {fit['temperature']:.3f} from {fit['texts']} validation texts: expected "
        f"calibration error {fit['ece_before']:.1f} % before, {fit['ece_after']:.1f} % after"
    )


def coverage(probabilities: np.ndarray, labels: np.ndarray) -> list[dict]:
    """
    The effect of abstaining below a probability p, for texts (n, C) with labels (n,): for each p,
    the share of texts that are answered, and the accuracy on them (None without any), in percent.
    """
    confidence, is_right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    rows = []
    for p in (*(step / 20 for step in range(20)), 0.99):
        answered = confidence >= p
        accuracy = 100 * float(is_right[answered].mean()) if answered.any() else None
        rows.append({"p": p, "answered": 100 * float(answered.mean()), "accuracy": accuracy})
    return rows


def coverage_line(rows: list[dict], texts: int, p: float) -> str:
    """The effect of --abstain p on the validation texts, from the rows of coverage() around p."""
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

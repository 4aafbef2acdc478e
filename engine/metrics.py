"""
Metrics of predictions and of their probabilities.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import logsumexp
from scipy.stats import rankdata
from sklearn.metrics import accuracy_score, f1_score, recall_score

AT_A_TIME = 4096  # texts


def metrics(labels: np.ndarray, predicted: np.ndarray, train_counts: np.ndarray) -> dict:
    """
    Accuracy, macro-F1 and balanced accuracy (the mean recall of the classes) in percent; the first
    two also over the classes with many (above 100), medium (20 to 100) and few (below 20) training
    texts; the F1 of each class; the classes that are never predicted. Means are over the classes
    with a test text.
    """
    tested, classes = np.unique(labels), np.arange(len(train_counts))

    def f1(of, average: str | None = "macro"):
        return 100 * f1_score(labels, predicted, labels=of, average=average, zero_division=0)

    accuracy, macro_f1 = 100 * accuracy_score(labels, predicted), f1(tested)
    result = {
        "accuracy": accuracy,
        "macro_f1": macro_f1,
        "balanced_accuracy": 100 * recall_score(labels, predicted, labels=tested, average="macro"),
        "gap": accuracy - macro_f1,
        "groups": {},
    }
    for name, lowest, highest in (("many", 101, math.inf), ("medium", 20, 100), ("few", 0, 19)):
        in_group = (train_counts >= lowest) & (train_counts <= highest)
        members = np.intersect1d(np.flatnonzero(in_group), tested)
        if len(members):
            is_member = np.isin(labels, members)
            result["groups"][name] = {
                "classes": len(members),
                "texts": int(is_member.sum()),
                "accuracy": 100 * accuracy_score(labels[is_member], predicted[is_member]),
                "macro_f1": f1(members),
            }
    result["f1"] = f1(classes, average=None).tolist()
    result["never_predicted"] = np.setdiff1d(classes, predicted).tolist()
    return result


def without_leaked(
    labels: np.ndarray, predicted: np.ndarray, train_counts: np.ndarray, is_leaked: np.ndarray
) -> dict:
    """
    Accuracy and macro-F1 on the texts that are not in the training part, None if all are; and how
    many texts are left out, and how many remain.
    """
    kept, found = ~is_leaked, {"accuracy": None, "macro_f1": None}
    if kept.any():
        found = metrics(labels[kept], predicted[kept], train_counts)
    return {
        "left_out": int(is_leaked.sum()),
        "texts": int(kept.sum()),
        "accuracy": found["accuracy"],
        "macro_f1": found["macro_f1"],
    }


def rarest_third(tested: list[int], train_counts: Sequence[int]) -> list[int]:
    """The third of the tested classes with the fewest training texts, rounded up."""
    ordered = sorted(tested, key=lambda label: train_counts[label])
    return ordered[: math.ceil(len(tested) / 3)]


def auroc(labels: np.ndarray, logits: np.ndarray) -> float | None:
    """
    Macro one-vs-rest AUROC, in percent: how well the odds of a class rank its texts above the
    others, as a mean over the classes. If macro-F1 falls while AUROC does not, the decision
    boundary has moved, and the features are not worse.

    labels   (n,)           numbers of classes
    logits   (n, C or more) -inf if a class is excluded
    returns  None if all texts are of one class
    """
    classes, texts = np.unique(labels, return_counts=True)
    if len(classes) == 1:
        return None
    odds, areas = np.empty(logits.shape), []
    for at in range(0, len(logits), AT_A_TIME):  # a copy of all at once may take gigabytes
        odds[at : at + AT_A_TIME] = log_odds(logits[at : at + AT_A_TIME].astype(np.float64))
    for c, own in zip(classes, texts):  # by ranks, which are finite even if odds are not
        pairs_won = rankdata(odds[:, c])[labels == c].sum() - own * (own + 1) / 2
        areas.append(pairs_won / (own * (len(labels) - own)))  # Mann & Whitney 1947
    return float(100 * np.mean(areas))


def log_odds(logits: np.ndarray) -> np.ndarray:
    """log p - log(1 - p) of each class, (n, C); for the top class, 1 - p is the others' sum."""
    rows, top = np.arange(len(logits)), logits.argmax(axis=1)
    total = logsumexp(logits, axis=1)
    log_p = logits - total[:, None]
    rest = logits.copy()
    rest[rows, top] = -np.inf
    log_rest = np.log1p(-np.exp(np.minimum(log_p, np.log(0.5))))  # p <= 0.5 but for the top class
    log_rest[rows, top] = logsumexp(rest, axis=1) - total
    return np.round(log_p - log_rest, 9)  # so that equal odds are equal despite rounding errors


def calibration_error(probability: np.ndarray, is_right: np.ndarray, bins: int = 15) -> float:
    """
    The expected calibration error in percent (Guo et al. 2017, Eq. 3). The texts (n,) are put into
    bins by the probability of their prediction; the error is the mean over the texts of
    |accuracy - mean probability| of their bin.
    """
    bin_of = np.minimum((probability * bins).astype(int), bins - 1)
    gaps = np.abs(np.bincount(bin_of, is_right, bins) - np.bincount(bin_of, probability, bins))
    return float(100 * gaps.sum() / len(probability))

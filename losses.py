"""
The losses and the sampling of SharpReCL (Li et al., WWW 2026), as pure functions. This file needs
only torch, so you can copy it. sharprecl() is the whole loss; it calls the others in order.

Letters in the shape comments:
    N  rows of D_hat: the projected texts of both views, then one prototype per class (N = 2B + C)
    C  classes          D  projection size          M  built samples per class
    K  hard samples per class (k = 20)

Every function computes in float32 (float64 if its input is), even inside autocast, and draws from
torch's global generator. class_counts, (C,), are the numbers of training texts of the classes, all
above 0, as a list, an array or a tensor. labels are int64, 0 to C - 1.

A wrong shape, type or value raises ValueError, in one line that names the argument; NaN and
infinity raise its subclass NotFinite. No check forces a GPU sync: shapes are checked everywhere,
values only on the CPU.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

LEAST, MOST = math.ulp(0.0), torch.finfo(torch.float64).max  # the finite numbers above 0


class Built(NamedTuple):
    """
    Samples built from rows of D_hat, as targets for the anchors of class c: sample (c, m) is
    normalize(weight * D_hat[first] + (1 - weight) * D_hat[second]).
    """

    first: Tensor  # (C, M) int64, rows of D_hat
    second: Tensor  # (C, M) int64, rows of D_hat; equal to first where a sample was drawn
    weight: Tensor  # (C, M), the alpha or beta of Eq. (10); 1 where a sample was drawn


class Hard(NamedTuple):
    """The hard samples of each class, hardest first."""

    rows: Tensor  # (C, K) int64, rows of D_hat
    counts: Tensor  # (C,), how many of the K are candidates: a small class has fewer than K


class Step(NamedTuple):
    """What sharprecl() returns for a batch: the losses, and what they were computed from."""

    loss: Tensor
    loss_cls: Tensor
    loss_cl: Tensor
    extended: Tensor  # (N, D), D_hat
    labels: Tensor  # (N,), of D_hat
    mixtures: dict[str, Built]  # D_syn+ as "pos" and D_syn- as "neg"


class NotFinite(ValueError):
    """An input holds NaN or infinity. If a network computed it, its training has diverged."""


def exact(x: Tensor) -> Tensor:
    """float32, or float64 if x is float64: half precision cannot hold exp(1 / temperature)."""
    return x if x.dtype == torch.float64 else x.float()


def no_autocast(x: Tensor):
    return torch.autocast(x.device.type, enabled=False)


def unit_rows(x: Tensor) -> Tensor:
    """Rows of unit length (a zero row stays zero), for any finite x: no square can overflow."""
    x = exact(x)
    largest = x.detach().norm(math.inf, dim=1, keepdim=True)
    x = x / largest.masked_fill_(largest <= 1e-30, 1.0)
    length = x.norm(dim=1, keepdim=True)
    return x / (length + (length == 0))


def _expect(is_so: bool, name: str, expected: str, got: object, error=ValueError) -> None:
    if isinstance(got, Tensor):
        got = f"{got.dtype} of shape {tuple(got.shape)}"
    if not is_so:
        raise error(f"{name}: expected {expected}, got {got!s:.150}")


def _expect_within(
    low: float, high: float, name: str, x: Tensor, expected: str, error=ValueError, of=torch.detach
) -> None:
    """
    Checks the values of x, or of a function of x, but only on the CPU: on a GPU it would force a
    sync. NaN never passes.
    """
    if x.device.type == "cpu" and x.numel() > 0:
        least, most = (end.item() for end in of(x.detach()).aminmax())  # without a copy of x
        _expect(low <= least and most <= high, name, expected, f"{least} to {most}", error)


def check_matrix(name: str, x: Tensor) -> None:
    is_matrix = isinstance(x, Tensor) and x.ndim == 2 and 0 not in x.shape
    is_matrix = is_matrix and x.is_floating_point()
    _expect(is_matrix, name, "a non-empty floating-point matrix (rows, columns)", x)
    _expect_within(-MOST, MOST, name, x, "finite values", NotFinite)


def check_labels(labels: Tensor, rows: int, num_classes: int) -> None:
    is_vector = isinstance(labels, Tensor) and labels.shape == (rows,)
    expected = f"int64 of shape ({rows},), one for each row"
    _expect(is_vector and labels.dtype == torch.int64, "labels", expected, labels)
    _expect_within(0, num_classes - 1, "labels", labels, f"0 to {num_classes - 1}")


def check_above_zero(name: str, value: float) -> None:
    _expect(0 < value < math.inf, name, "a number above 0", value)


def _check_candidates(is_candidate: Tensor) -> None:
    expected = "a candidate for each class (extend() ensures it for two or more classes)"
    _expect_within(1, 1, "is_candidate", is_candidate, expected, of=lambda x: x.any(dim=1).int())


def _as_counts(class_counts) -> Tensor:
    """class_counts as (C,) float64."""
    expected = "one positive number for each class"
    try:
        counts = torch.as_tensor(class_counts, dtype=torch.float64)
    except Exception as error:  # its type depends on the input
        reason = f"{class_counts!r:.60} ({error!s:.90})"
        raise ValueError(f"class_counts: expected {expected}, got {reason}") from error
    _expect(counts.ndim == 1 and len(counts) > 0, "class_counts", expected, counts)
    _expect_within(LEAST, MOST, "class_counts", counts, expected)
    return counts


def log_class_prior(class_counts) -> Tensor:
    """log P_y of the training set, (C,); the log of a share near 1 needs float64."""
    counts = _as_counts(class_counts)
    return (counts / counts.sum()).log()


# ---- the balanced classification branch (Section 3.3) ----


def logit_compensation(logits: Tensor, labels: Tensor, class_counts) -> Tensor:
    """
    Cross-entropy of logits shifted by the log prior (Menon et al. 2020), Eq. (6), mean over rows.

        L = -log( exp(phi_y + delta_y) / sum_y' exp(phi_y' + delta_y') ),  delta_y = log P_y

    Use it only in training: at inference take the plain logits.

    logits   (rows, C)  phi(feat), finite
    labels   (rows,)
    returns  ()
    """
    check_matrix("logits", logits)
    check_labels(labels, *logits.shape)
    delta = log_class_prior(class_counts)  # (C,)
    columns = logits.shape[1]
    _expect(len(delta) == columns, "class_counts", f"{columns} classes as in logits", len(delta))
    with no_autocast(logits):
        phi = exact(logits)
        return F.cross_entropy(phi + delta.to(phi, non_blocking=True), labels)  # Eq. (6)


# ---- simple sampling and hard mixup for the rebalanced dataset (Section 3.4) ----


def extend(z: Tensor, labels: Tensor, prototypes: Tensor) -> tuple[Tensor, Tensor]:
    """
    D_hat, the union of Z and the prototypes, l2-normalised (Section 3.4): no class is empty.

    z           (2B, D)  projected texts, Eq. (7), finite
    labels      (2B,)
    prototypes  (C, D)   proj_h(w), Eq. (5); row c is the prototype of class c
    returns     (N, D)   unit rows, the prototypes last, and their labels (N,); N = 2B + C
    """
    check_matrix("prototypes", prototypes)
    check_matrix("z", z)
    check_labels(labels, len(z), len(prototypes))
    columns = z.shape[1]
    _expect(prototypes.shape[1] == columns, "prototypes", f"{columns} columns as z", prototypes)
    with no_autocast(z):
        extended = unit_rows(torch.cat([exact(z), exact(prototypes)]))  # (N, D)
    classes = torch.arange(len(prototypes), device=labels.device)
    return extended, torch.cat([labels, classes])


def set_sizes(num: int, ratio: float) -> tuple[int, int]:
    """(|D_samp|, |D_syn|) of a class when the share `ratio` of `num` built samples is mixed."""
    _expect(num >= 0, "num", "at least 0", num)
    _expect(0 <= ratio <= 1, "ratio", "a share", ratio)
    num_syn = round(ratio * num)
    return num - num_syn, num_syn


def hard_ratio(step: int, total_steps: int, *, start: float = 0.5, end: float = 1.0) -> float:
    """Share of D_syn in D_tilde at step t = 1..T, Section 3.5: start + t/T (end - start)."""
    return start + step / total_steps * (end - start)


def membership(labels: Tensor, num_classes: int) -> Tensor:
    """(C, N) bool: whether row i of D_hat is a member of class c; if not, it is a negative of c."""
    return labels == torch.arange(num_classes, device=labels.device)[:, None]


def simple_sampling(is_candidate: Tensor, num: int) -> Built:
    """
    Draws `num` candidates of each class, uniformly and with replacement, Eq. (8).

    is_candidate  (C, N)    membership() for D_samp+, its negation for D_samp-
    returns       Built of (C, num)
    """
    _check_candidates(is_candidate)
    _expect(num >= 0, "num", "at least 0", num)
    rows = torch.empty(len(is_candidate), 0, dtype=torch.int64, device=is_candidate.device)
    if num > 0:
        rows = torch.multinomial(is_candidate.float(), num, replacement=True)  # (C, num) Eq. (8)
    return Built(rows, rows, torch.ones_like(rows, dtype=torch.float32))


@torch.no_grad()
def hard_samples(hardness: Tensor, is_candidate: Tensor, *, k: int = 20) -> Hard:
    """
    The k hardest candidates of each class, Eq. (9), or all of them if there are fewer than k.

    hardness      (C, N)  -proto_c . z_i for the positives, proto_c . z_i for the negatives
    is_candidate  (C, N)  membership() for the positives, its negation for the negatives
    returns       Hard of (C, min(k, N)); no gradient flows through the choice
    """
    _expect(k >= 1, "k", "at least 1", k)
    _check_candidates(is_candidate)
    check_matrix("hardness", hardness)
    shape = tuple(is_candidate.shape)
    _expect(hardness.shape == shape, "hardness", f"shape {shape}", hardness)
    values, rows = hardness.where(is_candidate, -math.inf).topk(min(k, shape[1]))  # Eq. (9)
    return Hard(rows, (values > -math.inf).sum(dim=1))


def hard_mixup(hard: Hard, num: int, *, lam: float = 0.5) -> Built:
    """
    `num` mixtures of two random hard samples of each class, Eq. (10).

        normalize(alpha z_i + (1 - alpha) z_j),  alpha ~ Beta(lam, lam)

    hard     hard_samples(); i and j are drawn with replacement
    returns  Built of (C, num)
    """
    check_above_zero("lam", lam)
    _expect(num >= 0, "num", "at least 0", num)
    shape, device = (len(hard.rows), num), hard.rows.device
    uniform = torch.rand(3, *shape, device=device)
    # a float below 1 times an integer stays below that integer, even after rounding
    rank = (uniform[:2] * hard.counts[:, None]).long()  # (2, C, num)
    first, second = hard.rows.expand(2, -1, -1).gather(2, rank)
    if lam == 0.5:  # the paper's value: Beta(1/2, 1/2) is sin^2(pi U / 2), 10 times as fast
        weight = (uniform[2] * (math.pi / 2)).sin().square()
    else:
        both = torch.full((), lam, device=device)
        weight = torch.distributions.Beta(both, both, validate_args=False).sample(shape)
    return Built(first, second, weight)  # Eq. (10)


def union(*parts: Built) -> Built:
    """D_tilde_c, the union of D_samp,c and D_syn,c: (C, M1), (C, M2) -> (C, M1 + M2)."""
    return Built(*(torch.cat(tensors, dim=1) for tensors in zip(*parts)))


# ---- contrastive learning with the rebalanced dataset (Section 3.5) ----


def class_weights(class_counts, scheme: str = "log_prior") -> Tensor:
    """
    The weight w_y of an anchor of class y in Eq. (11); rare classes weigh more.

        log_prior         w_y = -log P_y. Eq. (11) has delta_y = log P_y, which is negative:
                          minimising it to the letter would push positives apart
        effective_number  w_y = C (1 / E_y) / sum_c (1 / E_c): they sum to C, with
                          E_c = (1 - b^n_c) / (1 - b), b = 0.9999 (Cui et al. 2019, Eq. 4)
        none              w_y = 1

    returns  (C,) float64
    """
    if scheme == "log_prior":
        return -log_class_prior(class_counts)
    counts = _as_counts(class_counts)
    weights = {
        "effective_number": 1 / (-torch.expm1(counts * math.log(0.9999)) / (1 - 0.9999)),
        "none": torch.ones_like(counts),
    }
    _expect(scheme in weights, "scheme", f"one of log_prior, {', '.join(weights)}", repr(scheme))
    return len(counts) * weights[scheme] / weights[scheme].sum()


def built_similarity(
    gram: Tensor, built: Built, labels: Tensor, *, temperature: float = 1.0
) -> Tensor:
    """
    Dot product of each row of D_hat with each built sample of its own class, over temperature.

    A built sample is a normalised combination of two unit rows i and j, so the Gram matrix G of
    D_hat is enough, and no (C, M, D) tensor is needed:

        a . built = (w G[a,i] + (1 - w) G[a,j]) / |w z_i + (1 - w) z_j|
        |w z_i + (1 - w) z_j|^2 = w^2 + (1 - w)^2 + 2 w (1 - w) G[i,j]

    gram     (N, N)  D_hat D_hat^T
    built    Built of (C, M)
    labels   (N,)
    returns  (N, M)
    """
    first, second, w = built
    w = w.to(gram.dtype)
    # gather on the flat matrix: the backward pass of gram[first, second] is many times slower
    between = gram.flatten().gather(0, torch.add(second, first, alpha=len(gram)).flatten())
    overlap = 2 * w * (1 - w)  # (C, M)
    squared = overlap * (between.view_as(w) - 1) + 1  # (C, M), since w^2 + (1 - w)^2 = 1 - overlap
    # the equal mixture of two opposite rows has length 0: the floor keeps 1 / length finite
    scale = squared.clamp(min=1e-6).rsqrt() / temperature  # (C, M)

    # an anchor of class y takes row y; the backward pass of x[labels] is ten times slower
    first, second, w, scale = (x.index_select(0, labels) for x in (first, second, w, scale))
    return torch.lerp(gram.gather(1, second), gram.gather(1, first), w) * scale  # (N, M)


def _check_contrastive(extended, labels, positives: Built, negatives: Built) -> None:
    num_classes, rows = len(positives.first), len(extended)
    check_matrix("extended", extended)
    check_labels(labels, rows, num_classes)
    expected = "rows of length 1, as from extend()"
    _expect_within(0, 1.01, "extended", extended, expected, of=lambda x: x.norm(dim=1))
    for name, built in (("positives", positives), ("negatives", negatives)):
        shapes = {tuple(tensor.shape) for tensor in built}
        is_one = len(shapes) == 1 and built.first.ndim == 2 and len(built.first) == num_classes
        _expect(is_one, name, f"tensors of one shape ({num_classes}, M)", shapes)
        for pair in built[:2]:
            _expect_within(0, rows - 1, name, pair, f"rows 0 to {rows - 1} of D_hat")
    has_target = rows > 1 or positives.first.shape[1] + negatives.first.shape[1] > 0
    _expect(has_target, "extended", "a second row or a built sample to contrast with", "one row")


def rebalanced_contrastive(
    extended: Tensor,
    labels: Tensor,
    positives: Built,
    negatives: Built,
    *,
    temperature: float = 0.5,
    weights: Tensor | None = None,
    reduction: str = "weighted_mean",
    over_positives: str = "mean",
) -> Tensor:
    """
    The supervised contrastive loss with rebalanced targets, Eq. (11).

        L_i = -1 / |P(i)| sum_{p in P(i)} log( e(i, p) / sum_{k in K(i)} e(i, k) )
        e(i, j) = exp(z_i . z_j / temperature)
        P(i) = D_tilde_y+ and the other members of class y in D_hat
        K(i) = D_tilde_y and all of D_hat but i
        L    = sum_i w_i L_i / sum_i w_i                 reduction "weighted_mean", the default
        L    = sum_i w_i L_i / N                         reduction "mean"

    The weighted mean does not grow with the weights, so one mu of Eq. (12) serves every dataset.
    Eq. (11) has neither 1 / |P(i)| nor a sum of weights: taken literally, it is the plain mean with
    over_positives="sum". Its gradient, Eq. (13), has the factor 1 / |P(i)|, w_i = 1, and a sum over
    the anchors. An anchor with empty P(i) has L_i = 0, and counts in both means.

    extended        (N, D)  D_hat of extend(): rows of unit length
    labels          (N,)    the labels of extend()
    positives       D_tilde+, Built of (C, M+); M+ may be 0
    negatives       D_tilde-, Built of (C, M-); M- may be 0
    temperature     tau > 0
    weights         (C,)    class_weights(), w_i = weights[y_i]; None: 1 for each class
    over_positives  "mean" over P(i) or, without the factor 1 / |P(i)|, "sum"
    """
    num_classes = len(positives.first)
    _check_contrastive(extended, labels, positives, negatives)
    check_above_zero("temperature", temperature)
    _expect(over_positives in ("mean", "sum"), "over_positives", "mean or sum", over_positives)

    with no_autocast(extended):
        extended = exact(extended)
        gram = extended @ extended.T  # (N, N)
        built = union(positives, negatives)
        to_built = built_similarity(gram, built, labels, temperature=temperature)  # (N, M+ + M-)
        to_positives = to_built[:, : positives.first.shape[1]]  # (N, M+)

        own_sum, num_own = _own_class(extended, labels, num_classes)
        positive_sum = own_sum / temperature + to_positives.sum(dim=1)  # (N,)
        num_positives = num_own + to_positives.shape[1]  # (N,)

        # -inf, not 0: a masked logit of 0 would still put exp(0) into the denominator
        itself = torch.eye(len(gram), dtype=torch.bool, device=gram.device)
        to_rows = (gram / temperature).masked_fill(itself, -math.inf)  # (N, N)
        log_denominator = torch.cat([to_rows, to_built], dim=1).logsumexp(dim=1)  # (N,)

        loss = num_positives * log_denominator - positive_sum  # (N,)
        if over_positives == "mean":
            loss = loss / num_positives.clamp(min=1)
        return _mean_over_anchors(loss, labels, weights, num_classes, reduction)  # Eq. (11)


def _own_class(extended: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """
    For each row of D_hat: the sum of its dot products with the other members of its class, and the
    number of these members, both (N,). The class sums give both, without an (N, N) mask.
    """
    sums = extended.new_zeros(num_classes, extended.shape[1]).index_add_(0, labels, extended)
    members = labels.new_zeros(num_classes).index_add_(0, labels, torch.ones_like(labels))
    others = sums.index_select(0, labels) - extended  # (N, D)
    return (extended * others).sum(dim=1), members.index_select(0, labels) - 1


def _mean_over_anchors(loss, labels, weights, num_classes: int, reduction: str) -> Tensor:
    """The plain or weighted mean of the L_i, (N,), in Eq. (11); w_i = 1 if weights is None."""
    _expect(reduction in ("weighted_mean", "mean"), "reduction", "weighted_mean or mean", reduction)
    if weights is None:
        return loss.mean()
    weights, expected = torch.as_tensor(weights), f"finite values of shape ({num_classes},)"
    _expect(weights.shape == (num_classes,), "weights", expected, weights)
    _expect_within(-MOST, MOST, "weights", weights, expected)
    w = weights.to(loss, non_blocking=True).index_select(0, labels)  # (N,)
    if reduction == "mean":
        return (w * loss).mean()
    total, expected = w.sum(), "a sum other than 0 over the anchors"
    _expect_within(LEAST, MOST, "weights", total, expected, of=torch.abs)
    return (w * loss).sum() / total


# ---- both branches: the whole loss (Algorithm 1) ----


# fmt: off
def sharprecl(
    logits: Tensor, labels: Tensor, class_counts, projected: Tensor, prototypes: Tensor,
    ratio: float, *, n_pos: int = 10, n_neg: int = 500, k: int = 20, lam: float = 0.5,
    compensated: bool = True, temperature: float = 0.5, scheme: str = "log_prior",
    reduction: str = "weighted_mean", over_positives: str = "mean", mu: float = 1.0,
) -> Step:
    """
    Both losses of a batch and their sum, Eq. (12): lines 6 to 13 of Algorithm 1.

    Time and memory grow with N^2, because each prototype is an anchor and a target of Eq. (11):
    about 32 N^2 bytes with the gradient. With B = 128 on one CPU core, C = 1,000 takes 0.2 s and
    0.15 GiB, and C = 8,142 takes 8 s and 2.2 GiB; 16 GiB are enough for 20,000 classes at most.

    logits          (2B, C)  phi(feat) of both views, view after view, Eq. (5)
    labels          (2B,)    of both views
    projected       (2B, D)  z = proj_f(feat), Eq. (7)
    prototypes      (C, D)   proj_h(w) of the classifier's weights w, Eq. (5)
    ratio           share of mixed samples at this step, see hard_ratio()
    n_pos, n_neg    numbers of built positives and negatives per class
    compensated     False: Eq. (6) without the class prior
    mu              the weight of the contrastive loss, Eq. (12)
    k, lam, scheme and the others are explained at the functions that use them
    """
    extended, of_rows = extend(projected, labels, prototypes)   # D_hat, Section 3.4

    samp_pos, syn_pos = set_sizes(n_pos, ratio)                 # line 6
    samp_neg, syn_neg = set_sizes(n_neg, ratio)                 # line 6

    is_member = membership(of_rows, len(prototypes))            # (C, N)
    is_other = ~is_member
    d_samp_pos = simple_sampling(is_member, samp_pos)           # line 7: Eq. (8)
    d_samp_neg = simple_sampling(is_other, samp_neg)            # line 7: Eq. (8)

    similarity = extended[len(labels):] @ extended.T            # (C, N), proto_c . z_i
    hard_pos = hard_samples(-similarity, is_member, k=k)        # line 8: Eq. (9)
    hard_neg = hard_samples(similarity, is_other, k=k)          # line 8: Eq. (9)
    del similarity, is_member, is_other                         # large if there are many classes

    d_syn_pos = hard_mixup(hard_pos, syn_pos, lam=lam)          # line 9: Eq. (10)
    d_syn_neg = hard_mixup(hard_neg, syn_neg, lam=lam)          # line 9: Eq. (10)

    positives = union(d_samp_pos, d_syn_pos)                    # line 10
    negatives = union(d_samp_neg, d_syn_neg)                    # line 10

    priors = class_counts if compensated else [1] * len(prototypes)
    loss_cls = logit_compensation(logits, labels, priors)       # line 11: Eq. (6)
    loss_cl = rebalanced_contrastive(                           # line 12: Eq. (11)
        extended, of_rows, positives, negatives, weights=class_weights(class_counts, scheme),
        temperature=temperature, reduction=reduction, over_positives=over_positives)
    loss = loss_cls + mu * loss_cl                              # line 13: Eq. (12)
    return Step(loss, loss_cls, loss_cl, extended, of_rows, {"pos": d_syn_pos, "neg": d_syn_neg})

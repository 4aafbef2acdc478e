"""
The losses and the sampling of SharpReCL (Li et al., WWW 2026), as pure functions. They need torch
alone: copy this file.

Letters in the shape comments:
    N  rows of D_hat: the projected texts of both views, then one prototype a class (N = 2B + C)
    C  classes          D  projection size          M  built samples a class
    K  hard samples a class (k = 20)

Every function works in float32 (float64 if its input is), also inside autocast, and draws from
torch's global generator, so torch.manual_seed fixes it. No function waits for a GPU: shapes are
checked everywhere, values (NaN, labels out of range) on the CPU alone.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Built(NamedTuple):
    """
    Samples built from rows of D_hat, targets for the anchors of their class: sample (c, m) is
    normalize(weight * D_hat[first] + (1 - weight) * D_hat[second]).

    first   (C, M)  int64, rows of D_hat
    second  (C, M)  int64, rows of D_hat; equal to first where a sample was drawn, not mixed
    weight  (C, M)  the mixing coefficient alpha or beta of Eq. (10); 1 where a sample was drawn
    """

    first: Tensor
    second: Tensor
    weight: Tensor


class Hard(NamedTuple):
    """
    The hard samples of each class, hardest first.

    rows    (C, K)  int64, rows of D_hat
    counts  (C,)    how many of the K are candidates: a small class has fewer than K
    """

    rows: Tensor
    counts: Tensor


def exact(x: Tensor) -> Tensor:
    """float32, or float64 if x is float64: half precision cannot hold exp(1 / temperature)."""
    return x if x.dtype == torch.float64 else x.float()


def no_autocast(x: Tensor):
    return torch.autocast(x.device.type, enabled=False)


def unit_rows(x: Tensor) -> Tensor:
    """Rows of unit length (a zero row stays zero), for any finite x: no square can overflow."""
    x = exact(x)
    largest = x.detach().abs().amax(dim=1, keepdim=True)
    x = x / largest.where(largest > 1e-30, 1.0)
    length = x.norm(dim=1, keepdim=True)
    return x / length.where(length > 0, 1.0)


def _can_read(x: Tensor) -> bool:
    """Whether looking at a value is free; on a GPU the host would wait for all that is queued."""
    return x.device.type == "cpu"


def check_matrix(name: str, x: Tensor) -> None:
    if x.ndim != 2 or 0 in x.shape or not x.is_floating_point():
        raise ValueError(
            f"{name}: expected a non-empty floating-point matrix (rows, columns), "
            f"got {x.dtype} of shape {tuple(x.shape)}"
        )
    if _can_read(x) and not x.isfinite().all():
        raise ValueError(f"{name}: expected finite values, got NaN or infinity")


def check_labels(labels: Tensor, rows: int, num_classes: int) -> None:
    if labels.shape != (rows,) or labels.dtype != torch.int64:
        raise ValueError(
            f"labels: expected int64 of shape ({rows},), one for each row, "
            f"got {labels.dtype} of shape {tuple(labels.shape)}"
        )
    if _can_read(labels) and not ((labels >= 0) & (labels < num_classes)).all():
        raise ValueError(
            f"labels: expected 0 to {num_classes - 1}, "
            f"got {labels.min().item()} to {labels.max().item()}"
        )


def check_above_zero(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{name}: expected a number above 0, got {value}")


def _check_built(name: str, built: Built, num_classes: int, rows: int) -> None:
    shapes = {tuple(tensor.shape) for tensor in built}
    if len(shapes) > 1 or built.first.ndim != 2 or len(built.first) != num_classes:
        raise ValueError(f"{name}: expected tensors of one shape ({num_classes}, M), got {shapes}")
    if _can_read(built.first) and built.first.numel() > 0:
        lowest, highest = torch.stack([built.first, built.second]).aminmax()
        if lowest < 0 or highest >= rows:
            raise ValueError(
                f"{name}: expected rows 0 to {rows - 1} of D_hat, "
                f"got {lowest.item()} to {highest.item()}"
            )


def log_class_prior(class_counts: Tensor) -> Tensor:
    """log P_y of the training set, (C,) float64: log of a share near 1 needs the digits."""
    counts = class_counts.double()
    if counts.ndim != 1 or (_can_read(counts) and not ((counts > 0) & counts.isfinite()).all()):
        raise ValueError(
            "class_counts: expected one positive number for each class, "
            f"got {class_counts.tolist()}"
        )
    return (counts / counts.sum()).log()


# ---- the balanced classification branch (Section 3.3) ----


def logit_compensation(logits: Tensor, labels: Tensor, class_counts: Tensor) -> Tensor:
    """
    Cross-entropy of logits shifted by the log prior (Menon et al. 2020), Eq. (6), mean over rows.

        L = -log( exp(phi_y + delta_y) / sum_y' exp(phi_y' + delta_y') ),  delta_y = log P_y

    For training only: at inference take the logits as they are.

    logits        (rows, C)  phi(feat), finite
    labels        (rows,)    int64, 0 to C - 1
    class_counts  (C,)       texts of each class in the training set, all above 0
    returns       ()
    raises        ValueError for a wrong shape, a label out of range, a NaN or an infinity
    """
    check_matrix("logits", logits)
    check_labels(labels, *logits.shape)
    delta = log_class_prior(class_counts)  # (C,)
    if len(delta) != logits.shape[1]:
        raise ValueError(
            f"class_counts: expected {logits.shape[1]} classes as in logits, got {len(delta)}"
        )
    with no_autocast(logits):
        phi = exact(logits)
        compensated = phi + delta.to(phi, non_blocking=True)
        return F.cross_entropy(compensated, labels)  # Eq. (6)


# ---- simple sampling and hard mixup for the rebalanced dataset (Section 3.4) ----


def extend(z: Tensor, labels: Tensor, prototypes: Tensor) -> tuple[Tensor, Tensor]:
    """
    D_hat = Z united with the prototypes, l2-normalised (Section 3.4): every class has a member.

    z           (2B, D)  projected texts, Eq. (7), finite
    labels      (2B,)    int64, 0 to C - 1
    prototypes  (C, D)   proj_h(w), Eq. (5); row c is the prototype of class c
    returns     (N, D)   unit rows, the prototypes last, and their labels (N,); N = 2B + C
    raises      ValueError for a wrong shape, a label out of range, a NaN or an infinity
    """
    check_matrix("prototypes", prototypes)
    check_matrix("z", z)
    check_labels(labels, len(z), len(prototypes))
    if z.shape[1] != prototypes.shape[1]:
        raise ValueError(
            f"prototypes: expected {z.shape[1]} columns as in z, got {prototypes.shape[1]}"
        )
    with no_autocast(z):
        extended = torch.cat([unit_rows(z), unit_rows(prototypes)])  # (N, D)
    classes = torch.arange(len(prototypes), device=labels.device)
    return extended, torch.cat([labels, classes])


def set_sizes(num: int, ratio: float) -> tuple[int, int]:
    """(|D_samp|, |D_syn|) of a class when the share `ratio` of `num` built samples is mixed."""
    if num < 0 or not 0 <= ratio <= 1:
        raise ValueError(f"num, ratio: expected at least 0 and a share, got {num} and {ratio}")
    num_syn = round(ratio * num)
    return num - num_syn, num_syn


def hard_ratio(step: int, total_steps: int, *, start: float = 0.5, end: float = 1.0) -> float:
    """Share of D_syn in D_tilde at step t = 1..T: start + t/T (end - start), Section 3.5."""
    return start + step / total_steps * (end - start)


def membership(labels: Tensor, num_classes: int) -> Tensor:
    """(C, N) bool: is row i of D_hat a member of class c? Its negation gives the negatives of c."""
    return labels == torch.arange(num_classes, device=labels.device)[:, None]


def _check_candidates(is_candidate: Tensor) -> None:
    if not _can_read(is_candidate):
        return
    empty = (~is_candidate.any(dim=1)).nonzero().flatten().tolist()
    if empty:
        raise ValueError(
            "is_candidate: expected at least one candidate for each class (extend() "
            f"sees to it from two classes on), got none for class {empty[0]}"
        )


def simple_sampling(is_candidate: Tensor, num: int) -> Built:
    """
    `num` candidates of each class, uniformly with replacement, Eq. (8).

    is_candidate  (C, N)    membership() for D_samp+, its negation for D_samp-
    returns       Built of (C, num)
    raises        ValueError when num < 0 or a class has no candidate
    """
    _check_candidates(is_candidate)
    if num < 0:
        raise ValueError(f"num: expected at least 0, got {num}")
    rows = torch.empty(len(is_candidate), 0, dtype=torch.int64, device=is_candidate.device)
    if num > 0:
        rows = torch.multinomial(is_candidate.float(), num, replacement=True)  # (C, num) Eq. (8)
    return Built(rows, rows, torch.ones_like(rows, dtype=torch.float32))


@torch.no_grad()
def hard_samples(hardness: Tensor, is_candidate: Tensor, *, k: int = 20) -> Hard:
    """
    The k hardest candidates of each class, Eq. (9); all of them where there are fewer than k.

    hardness      (C, N)  -proto_c . z_i for the positives, proto_c . z_i for the negatives
    is_candidate  (C, N)  membership() for the positives, its negation for the negatives
    returns       Hard of (C, min(k, N)); the choice carries no gradient
    raises        ValueError when k < 1, hardness is not finite, or a class has no candidate
    """
    if k < 1:
        raise ValueError(f"k: expected at least 1, got {k}")
    _check_candidates(is_candidate)
    if hardness.shape != is_candidate.shape or (
        _can_read(hardness) and not hardness.isfinite().all()
    ):
        raise ValueError(
            f"hardness: expected finite values of shape {tuple(is_candidate.shape)}, "
            f"got shape {tuple(hardness.shape)}"
        )
    k = min(k, hardness.shape[1])
    masked = hardness.masked_fill(~is_candidate, -math.inf)
    return Hard(masked.topk(k, dim=1).indices, is_candidate.sum(dim=1).clamp(max=k))  # Eq. (9)


def hard_mixup(hard: Hard, num: int, *, lam: float = 0.5) -> Built:
    """
    `num` mixtures of two random hard samples of each class, Eq. (10).

        normalize(alpha z_i + (1 - alpha) z_j),  alpha ~ Beta(lam, lam)

    hard     hard_samples(); i and j are drawn with replacement
    returns  Built of (C, num)
    raises   ValueError unless lam > 0 and num >= 0
    """
    check_above_zero("lam", lam)
    if num < 0:
        raise ValueError(f"num: expected at least 0, got {num}")
    shape, device = (len(hard.rows), num), hard.rows.device
    counts = hard.counts[:, None]  # (C, 1)

    def draw() -> Tensor:
        rank = (torch.rand(shape, device=device) * counts).long()  # (C, num)
        # rand * count can round up to count itself
        return hard.rows.gather(1, rank.minimum(counts - 1))

    return Built(draw(), draw(), _beta(lam, shape, device))  # Eq. (10)


def _beta(lam: float, shape: tuple[int, int], device: torch.device) -> Tensor:
    """Samples of Beta(lam, lam)."""
    if lam == 0.5:  # the paper's, and the arcsine law: ten times as fast as by two gammas
        return (torch.rand(shape, device=device) * (math.pi / 2)).sin().square()
    both = torch.full((), lam, device=device)
    return torch.distributions.Beta(both, both, validate_args=False).sample(shape)


def union(*parts: Built) -> Built:
    """D_tilde_c = D_samp,c united with D_syn,c: (C, M1), (C, M2) -> (C, M1 + M2)."""
    return Built(*(torch.cat(tensors, dim=1) for tensors in zip(*parts)))


# ---- contrastive learning with the rebalanced dataset (Section 3.5) ----


def class_weights(class_counts: Tensor, scheme: str = "log_prior") -> Tensor:
    """
    The weight w_y of an anchor of class y in Eq. (11); rare classes weigh more.

        log_prior             w_y = -log P_y. Eq. (11) has delta_y = log P_y, which is negative:
                              minimising it to the letter would push positives apart
        log_prior_normalised  w_y = C log P_y / sum_c log P_c, which sums to C over the classes
        effective_number      w_y = C (1 / E_y) / sum_c (1 / E_c), which sums to C as well, with
                              E_c = (1 - b^n_c) / (1 - b) and b = 0.9999 (Cui et al. 2019, Eq. 4
                              and their code's normalisation)
        none                  w_y = 1

    rebalanced_contrastive() divides by the sum of the weights by default, and then a factor that
    all weights share cancels: log_prior and log_prior_normalised are the same loss. They differ
    under its reduction "mean", where the size of the weights is the size of the loss.

    class_counts  (C,)  texts of each class in the training set, all above 0
    returns       (C,)  float64
    raises        ValueError for another scheme or a count of 0
    """
    log_prior = log_class_prior(class_counts)
    if scheme == "log_prior":
        return -log_prior
    if scheme == "log_prior_normalised":
        return _sum_to_c(log_prior)
    if scheme == "effective_number":
        effective = -torch.expm1(class_counts.double() * math.log(0.9999)) / (1 - 0.9999)
        return _sum_to_c(1 / effective)
    if scheme == "none":
        return torch.ones_like(log_prior)
    raise ValueError(
        "scheme: expected log_prior, log_prior_normalised, effective_number or none, "
        f"got {scheme!r}"
    )


def _sum_to_c(weights: Tensor) -> Tensor:
    """The weights (C,), scaled so that they sum to C."""
    return len(weights) * weights / weights.sum()


def built_similarity(gram: Tensor, built: Built, labels: Tensor) -> Tensor:
    """
    Dot product of each row of D_hat with each built sample of its own class.

    A built sample is a normalised combination of two unit rows i and j, so the Gram matrix G of
    D_hat holds all that is needed, and no (C, M, D) tensor is made:

        a . built = (w G[a,i] + (1 - w) G[a,j]) / |w z_i + (1 - w) z_j|
        |w z_i + (1 - w) z_j|^2 = w^2 + (1 - w)^2 + 2 w (1 - w) G[i,j]

    gram     (N, N)  D_hat D_hat^T
    built    (C, M)  each tensor
    labels   (N,)    int64, 0 to C - 1
    returns  (N, M)
    """
    first, second, w = built
    w = w.to(gram.dtype)
    # a gather on the flat matrix: the gradient of gram[first, second] is many times as slow
    between = gram.flatten().gather(0, (first * len(gram) + second).flatten()).view_as(w)
    squared = w**2 + (1 - w) ** 2 + 2 * w * (1 - w) * between  # (C, M)
    # two opposite rows mixed half and half have no direction: the floor keeps 1 / length finite
    length = squared.clamp(min=1e-6).sqrt()  # (C, M)

    def of_anchor(x: Tensor) -> Tensor:
        """Row y of x for an anchor of class y: (C, M) -> (N, M)."""
        return x.index_select(0, labels)  # ten times as fast backwards as x[labels]

    mixed = torch.lerp(
        gram.gather(1, of_anchor(second)), gram.gather(1, of_anchor(first)), of_anchor(w)
    )  # (N, M)
    return mixed / of_anchor(length)


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

    The weighted mean is that of torch's weighted cross-entropy. Its size does not depend on the
    size of the weights, so one mu of Eq. (12) serves every dataset; that of the plain mean is the
    entropy of the class shares where w_i = -log P_y.

    Eq. (11) prints neither 1 / |P(i)| nor a sum of weights: its letter is the plain mean with
    over_positives="sum", where an anchor with many positives weighs more. Its gradient, Eq. (13),
    follows with 1 / |P(i)|, with w_i = 1, and with a sum over the anchors instead of a mean.

    An anchor with empty P(i) has L_i = 0, and counts in both means.

    extended     (N, D)   D_hat of extend(): rows of unit length
    labels       (N,)     int64, the labels of extend()
    positives    (C, M+)  D_tilde+, Built; M+ may be 0
    negatives    (C, M-)  D_tilde-, Built; M- may be 0
    temperature           tau > 0
    weights      (C,)     class_weights(), w_i = weights[y_i]; None: 1 for each class
    reduction             over the anchors: "weighted_mean" or "mean"
    over_positives        over P(i): "mean" or, without the factor 1 / |P(i)|, "sum"
    returns      ()
    raises       ValueError for a wrong shape, a label out of range, a NaN or an infinity, and for
                 a weighted mean whose weights sum to 0
    """
    num_classes = len(positives.first)
    check_matrix("extended", extended)
    check_labels(labels, len(extended), num_classes)
    check_above_zero("temperature", temperature)
    if _can_read(extended) and extended.detach().norm(dim=1).max() > 1.01:
        raise ValueError("extended: expected rows of unit length, as extend() makes them")
    _check_built("positives", positives, num_classes, len(extended))
    _check_built("negatives", negatives, num_classes, len(extended))
    if weights is not None and (
        weights.shape != (num_classes,) or (_can_read(weights) and not weights.isfinite().all())
    ):
        raise ValueError(
            f"weights: expected finite values of shape ({num_classes},), "
            f"got shape {tuple(weights.shape)}"
        )
    if (
        reduction == "weighted_mean"
        and weights is not None
        and (_can_read(weights) and _can_read(labels) and weights[labels].sum() == 0)
    ):
        raise ValueError("weights: expected a sum other than 0 over the anchors, to divide by")
    if len(extended) == 1 and positives.first.shape[1] + negatives.first.shape[1] == 0:
        raise ValueError("extended: expected a second row or a built sample to contrast with")
    if reduction not in ("weighted_mean", "mean"):
        raise ValueError(f"reduction: expected weighted_mean or mean, got {reduction!r}")
    if over_positives not in ("mean", "sum"):
        raise ValueError(f"over_positives: expected mean or sum, got {over_positives!r}")

    with no_autocast(extended):
        extended = exact(extended)
        gram = extended @ extended.T  # (N, N)
        to_built = built_similarity(gram, union(positives, negatives), labels)  # (N, M+ + M-)
        to_positives = to_built[:, : positives.first.shape[1]]  # (N, M+)

        is_self = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
        is_positive = (labels[:, None] == labels) & ~is_self  # (N, N)
        num_positives = is_positive.sum(dim=1) + to_positives.shape[1]  # (N,)

        # -inf, not 0: a masked logit of 0 would still put exp(0) into the denominator
        targets = torch.cat([gram.masked_fill(is_self, -math.inf), to_built], dim=1)
        log_denominator = (targets / temperature).logsumexp(dim=1)  # (N,)
        positive_sum = (gram * is_positive).sum(dim=1) + to_positives.sum(dim=1)

        loss = num_positives * log_denominator - positive_sum / temperature  # (N,)
        if over_positives == "mean":
            loss = loss / num_positives.clamp(min=1)
        if weights is None:
            return loss.mean()  # Eq. (11), w_i = 1
        w = weights.to(loss, non_blocking=True)[labels]  # (N,)
        total = w.sum() if reduction == "weighted_mean" else len(w)
        return (w * loss).sum() / total  # Eq. (11)

"""
The losses of the methods that SharpReCL is compared with, as pure functions. They need only torch,
and the checks and helpers of losses.py.

Each is a mean over the rows or anchors of a batch. Embeddings are normalised here, so no loss
depends on their length. Shapes: B texts of a batch, rows of all its views, C classes, D width.
labels are int64, 0 to C - 1; logits are finite; temperatures are above 0.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from losses import check_labels, check_matrix, exact, log_class_prior, no_autocast, unit_rows


def balanced_weights(class_counts: Tensor) -> Tensor:
    """Weights N / (C n_c) of class-weighted cross-entropy, (C,) float64: 1 if all n_c are equal."""
    return 1 / (log_class_prior(class_counts).exp() * len(class_counts))


def vector_scaling(
    logits: Tensor, labels: Tensor, class_counts: Tensor, *, gamma: float = 0.3, tau: float = 1.0
) -> Tensor:
    """
    Vector scaling (Kini et al. 2021), mean over the rows: cross-entropy of logits that are scaled
    and shifted by the sizes of the classes.

        L = -log( exp(Delta_y phi_y + iota_y) / sum_c exp(Delta_c phi_c + iota_c) )
        Delta_c = (n_c / n_max)^gamma,  iota_c = tau log(n_c / sum n)

    With gamma 0 it is logit adjustment, whose shift has little effect once the margins are large.
    The factors keep their effect at any size of the logits. Two classes have the paper's binary
    form, L = log(1 + exp(-Delta_y (phi_y - phi_other) - iota_y + iota_other)): with one factor per
    column, the two weight vectors of a linear classifier would become multiples of one vector, with
    the decision boundary of cross-entropy.

    Use it only in training: at inference take the plain logits, as the official code does.

    logits        (rows, C)
    labels        (rows,)
    class_counts  (C,)       texts of each class in the training set, all above 0
    """
    check_matrix("logits", logits)
    check_labels(labels, *logits.shape)
    prior = log_class_prior(class_counts).to(logits.device, non_blocking=True)  # (C,)
    with no_autocast(logits):
        phi = exact(logits)
        delta = (gamma * (prior - prior.max())).exp().to(phi)  # (C,)
        factor = delta if len(delta) != 2 else delta[labels, None]  # of columns, or of rows
        return F.cross_entropy(factor * phi + tau * prior.to(phi), labels)


def dice(logits: Tensor, labels: Tensor, *, alpha: float = 0.01, smooth: float = 1.0) -> Tensor:
    """
    Self-adjusting dice loss (Li et al. 2020, with squared denominator), sum over the classes.

        q = (1 - p)^alpha p,  L = sum_c 1 - (2 q_c t_c + smooth) / (q_c^2 + t_c^2 + smooth)

    p is the softmax, t the one-hot label. The slope of (1 - p)^alpha is infinite at p = 1, where
    the official code gives NaN; here the factor is held constant from 1 - 1e-6 on.

    logits (rows, C), labels (rows,)
    """
    check_matrix("logits", logits)
    check_labels(labels, *logits.shape)
    with no_autocast(logits):
        p = exact(logits).softmax(dim=1)  # (rows, C)
        t = F.one_hot(labels, logits.shape[1]).to(p)  # (rows, C)
        q = (1 - p).clamp(min=1e-6) ** alpha * p
        return (1 - (2 * q * t + smooth) / (q**2 + t**2 + smooth)).sum(dim=1).mean()


def focal(logits: Tensor, labels: Tensor, *, gamma: float = 2.0) -> Tensor:
    """
    Focal loss over a softmax (Lin et al. 2017, Eq. 4): -(1 - p_y)^gamma log p_y.

    logits (rows, C), labels (rows,)
    """
    check_matrix("logits", logits)
    check_labels(labels, *logits.shape)
    with no_autocast(logits):
        log_p = -F.cross_entropy(exact(logits), labels, reduction="none")  # (rows,)
        # 1 - p by expm1, and above 0: with gamma < 1 the slope at p = 1 is infinite
        return (-((-torch.expm1(log_p)).clamp(min=1e-6) ** gamma) * log_p).mean()


def info_nce(z1: Tensor, z2: Tensor, *, temperature: float = 0.05) -> Tensor:
    """
    SimCSE (Gao et al. 2021, Eq. 1): identifies z2_i for z1_i among all of z2, by cosine similarity.

    z1, z2   (B, D)  two dropout views of the same texts
    """
    check_matrix("z1", z1)
    with no_autocast(z1):
        logits = unit_rows(z1) @ unit_rows(z2).T / temperature  # (B, B)
        return F.cross_entropy(logits, torch.arange(len(z1), device=z1.device))


def _mean_over_positives(logits: Tensor, is_positive: Tensor, is_target: Tensor) -> Tensor:
    """
    -log softmax over an anchor's targets, averaged over its positives, then over the anchors that
    have a positive; 0 if none has. All arguments are (anchors, targets).
    """
    log_p = logits - logits.masked_fill(~is_target, -math.inf).logsumexp(dim=1, keepdim=True)
    counts = is_positive.sum(dim=1)  # (anchors,)
    # not a product with the mask: log_p may be infinite if an anchor has no targets
    per_anchor = -log_p.where(is_positive, 0.0).sum(dim=1) / counts.clamp(min=1)
    return per_anchor.sum() / (counts > 0).sum().clamp(min=1)


def supervised_contrastive(z: Tensor, labels: Tensor, *, temperature: float = 0.3) -> Tensor:
    """
    Supervised contrastive loss, Eq. (2) (Khosla et al. 2020; Gunel et al. 2021, Eq. 2; Wang et al.
    2021, Eq. 2), mean over the anchors that have a positive; 0 when none has.

    z        (rows, D)  one view, or several views, one after the other
    labels   (rows,)
    """
    check_matrix("z", z)
    with no_autocast(z):
        z = unit_rows(z)
        is_other = ~torch.eye(len(z), dtype=torch.bool, device=z.device)  # (rows, rows)
        is_positive = (labels[:, None] == labels) & is_other
        return _mean_over_positives(z @ z.T / temperature, is_positive, is_other)


def prototypical_contrastive(
    z: Tensor, labels: Tensor, prototypes: Tensor, *, temperature: float = 0.05
) -> Tensor:
    """
    SPCL (Song et al. 2022), with s(a, b) = (1 + cos(a, b)) / (2 temperature):

        L_i = log m_i - log( sum_{positives} exp s / sum_{positives and negatives} exp s )

    Positives of i: the other rows of its class and the class's prototype, m_i in number; negatives:
    all other rows and prototypes. As in the official code, an anchor with L_i <= 0.3 counts as
    learnt and is left out of the mean.

    z            (B, D)
    labels       (B,)
    prototypes   (C, D)  one per class; they get no gradient
    """
    check_matrix("z", z)
    check_labels(labels, len(z), len(prototypes))
    with no_autocast(z):
        targets = torch.cat([unit_rows(z), unit_rows(prototypes.detach())])  # (B + C, D)
        s = (1 + targets[: len(z)] @ targets.T) / (2 * temperature)  # (B, B + C)
        classes = torch.arange(len(prototypes), device=labels.device)
        is_self = torch.eye(*s.shape, dtype=torch.bool, device=z.device)
        is_positive = (labels[:, None] == torch.cat([labels, classes])) & ~is_self
        positive = s.masked_fill(~is_positive, -math.inf).logsumexp(dim=1)  # (B,)
        whole = s.masked_fill(is_self, -math.inf).logsumexp(dim=1)  # (B,)
        loss = is_positive.sum(dim=1).to(s).log() - (positive - whole)
        is_open = loss > 0.3
        return loss.where(is_open, 0.0).sum() / is_open.sum().clamp(min=1)


def dual_contrastive(
    z: Tensor, theta: Tensor, labels: Tensor, *, temperature: float = 0.1
) -> Tensor:
    """
    DualCL (Chen et al. 2024): the mean of L_z (anchors z, targets theta) and L_theta (the reverse).
    As in the paper, the positives of i are the rows j != i of its class, and all j != i are its
    targets. The mean is over the anchors with a positive. The official code instead has exp(0) for
    i in each denominator, and takes the mean over all anchors.

    z        (B, D)  the texts
    theta    (B, D)  each text's representation of its own class
    labels   (B,)
    """
    check_matrix("z", z)
    with no_autocast(z):
        logits = unit_rows(z) @ unit_rows(theta).T / temperature  # (B, B)
        is_other = ~torch.eye(len(z), dtype=torch.bool, device=z.device)
        is_positive = (labels[:, None] == labels) & is_other
        of_texts = _mean_over_positives(logits, is_positive, is_other)
        return (of_texts + _mean_over_positives(logits.T, is_positive, is_other)) / 2


def balanced_contrastive(
    z: Tensor, labels: Tensor, centres: Tensor, *, temperature: float = 0.1
) -> Tensor:
    """
    BCL (Zhu et al. 2022, Eq. 6). Class complement: the centres are targets, so every class is
    present. Class averaging: a denominator sums, over the classes, the mean of exp over its
    targets, so that large classes weigh no more than small ones.

        L_i = -1/(n_y - 1) sum_{p in y, p != i} log( e(i, p) / sum_j mean_{k in j, k != i} e(i, k) )

    z         (2B, D)  two views
    labels    (2B,)
    centres   (C, D)   one per class
    """
    check_matrix("z", z)
    check_labels(labels, len(z), len(centres))
    with no_autocast(z):
        targets = torch.cat([unit_rows(z), unit_rows(centres)])  # (2B + C, D)
        logits = targets[: len(z)] @ targets.T / temperature  # (2B, 2B + C)
        classes = torch.cat([labels, torch.arange(len(centres), device=labels.device)])
        is_other = ~torch.eye(*logits.shape, dtype=torch.bool, device=z.device)
        is_positive = (labels[:, None] == classes) & is_other
        members = F.one_hot(classes, len(centres)).sum(dim=0)  # (C,), n_j
        size = members[classes] - is_positive.int()  # n_j, or n_y - 1 without i
        class_mean = (logits - size.to(logits).log()).masked_fill(~is_other, -math.inf)
        log_p = logits - class_mean.logsumexp(dim=1, keepdim=True)
        return -(log_p.where(is_positive, 0.0).sum(dim=1) / is_positive.sum(dim=1)).mean()


def simplex_targets(num_classes: int, dim: int) -> Tensor:
    """
    TSC's targets (Li et al. 2022), uniform on the sphere: C <= dim + 1 unit rows (C, dim) whose
    cosines are all -1 / (C - 1), in a random orientation. The official code approximates this
    optimum.
    """
    if not 2 <= num_classes <= dim + 1:
        raise ValueError(
            f"num_classes: expected 2 to {dim + 1} for {dim} dimensions, got {num_classes}"
        )
    corners = torch.eye(num_classes, dtype=torch.float64) - 1 / num_classes  # (C, C), rank C - 1
    # an orthonormal basis of their span gives them C - 1 coordinates
    basis = torch.linalg.svd(corners).Vh[: num_classes - 1]  # (C - 1, C)
    rotation = torch.linalg.qr(torch.randn(dim, num_classes - 1, dtype=torch.float64)).Q
    return F.normalize(corners @ basis.T @ rotation.T, dim=1).float()  # (C, dim)


def targeted_contrastive(
    query: Tensor,
    key: Tensor,
    labels: Tensor,
    queue: Tensor,
    queue_labels: Tensor,
    targets: Tensor | None = None,
    *,
    num_positives: int = 6,
    weight: float = 0.2,
    temperature: float = 0.07,
) -> Tensor:
    """
    TSC (Li et al. 2022) or, without targets, its warm-up KCL (Kang et al. 2021).

        L_i = -1/(1 + K_i) sum_{v in {key_i} and K_i keys of its class} log P(v)
              - weight log P(target of its class)

    P is the softmax over key_i, the whole queue and all targets. K_i is num_positives, drawn from
    the queue, or all if there are fewer. This is the paper's form; the official code also divides
    the term of the targets by 2 + K_i.

    query          (B, D)
    key            (B, D)  the second view, from the momentum encoder
    labels         (B,)
    queue          (Q, D)  earlier keys; Q may be 0
    queue_labels   (Q,)
    targets        (C, D)  row c is the target assigned to class c; None in the warm-up
    """
    check_matrix("query", query)
    with no_autocast(query):
        query, key = unit_rows(query), unit_rows(key.detach())
        columns = [(query * key).sum(dim=1, keepdim=True), query @ exact(queue).T]
        if targets is not None:
            columns.append(query @ exact(targets).T)
        log_p = (torch.cat(columns, dim=1) / temperature).log_softmax(dim=1)  # (B, 1 + Q + C)

        same = labels[:, None] == queue_labels  # (B, Q)
        order = torch.rand(same.shape, device=same.device).masked_fill(~same, -1.0)
        drawn = order.topk(min(num_positives, len(queue)), dim=1)  # (B, K)
        is_drawn = torch.zeros_like(same).scatter(1, drawn.indices, drawn.values >= 0)
        of_queue = log_p[:, 1 : 1 + len(queue)]
        loss = -(log_p[:, 0] + of_queue.where(is_drawn, 0.0).sum(dim=1)) / (1 + is_drawn.sum(dim=1))
        if targets is not None:
            own = log_p[:, 1 + len(queue) :].gather(1, labels[:, None])[:, 0]  # (B,)
            loss = loss - weight * own
        return loss.mean()

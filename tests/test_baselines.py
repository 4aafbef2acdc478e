"""
baselines/: each loss against its paper's equation in plain Python and against
values worked by hand, each method against what gives it its name, and all of them through main.py.
"""

import cmath
import json
import math
from dataclasses import replace
from functools import partial
from itertools import permutations
from operator import getitem
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import glosses, save_tiny_encoder, stopped_after, untrained, write_csv
from sklearn.linear_model import LogisticRegression
from test_losses import F64, assert_same, dot, logit_compensation_by_hand, unit
from test_main import folder_of, gradients, outcome
from torch.testing import assert_close

from baselines import METHODS, losses, make, titles
from baselines.__main__ import overview
from baselines.base import Task
from baselines.contrastive import LabelAwareEncoder
from data import Tokens
from engine import loader
from engine.arguments import parse_args
from engine.encoders import load_encoder, load_tokenizer
from engine.files import InputError
from losses import logit_compensation
from main import main

RIVALS = [
    name
    for name, entry in METHODS.items()  # with an encoder of their own
    if entry.has_encoder and entry.group != "ours"
]

# ---- the equations by hand; real() is a stop-gradient, for their derivatives are imaginary ----


def real(rows):
    return [[a.real for a in row] for row in rows]


def log_share(anchor, one, others, tau):
    """log of exp(anchor . one / tau) in the sum of these exponentials over the others."""
    return cmath.log(
        cmath.exp(dot(anchor, one) / tau)
        / sum(cmath.exp(dot(anchor, other) / tau) for other in others)
    )


def mean(values):
    return sum(values) / len(values) if values else 0.0


def contrast_by_hand(anchors, targets, y, tau):
    """Khosla et al., Eq. (2): i contrasts with all j != i; mean over those that have a positive."""
    per_anchor = []
    for i, anchor in enumerate(anchors):
        others = [k for k in range(len(y)) if k != i]
        shares = [
            log_share(anchor, targets[p], [targets[k] for k in others], tau)
            for p in others
            if y[p] == y[i]
        ]
        per_anchor += [-mean(shares)] if shares else []
    return mean(per_anchor)


def simcse_by_hand(z, y, num_classes, tau):
    first, second = z[: len(y)], z[len(y) :]
    return mean([-log_share(first[i], second[i], second, tau) for i in range(len(y))])


def sclce_by_hand(z, y, num_classes, tau):
    return contrast_by_hand(z, z, y, tau)


def spcl_by_hand(z, y, num_classes, tau):
    prototypes = real(z[len(y) :])
    per_anchor = []
    for i in range(len(y)):

        def e(other):
            return cmath.exp((dot(z[i], other) + 1) / 2 / tau)

        others = [k for k in range(len(y)) if k != i]
        positives = [e(z[k]) for k in others if y[k] == y[i]] + [e(prototypes[y[i]])]
        negatives = [e(z[k]) for k in others if y[k] != y[i]]
        negatives += [e(prototypes[c]) for c in range(num_classes) if c != y[i]]
        share = sum(positives) / (sum(positives) + sum(negatives))
        per_anchor.append(-cmath.log(share / len(positives)))
    return mean([value for value in per_anchor if value.real > 0.3])


def dualcl_by_hand(z, y, num_classes, tau):
    z, theta = z[: len(y)], z[len(y) :]
    return (contrast_by_hand(z, theta, y, tau) + contrast_by_hand(theta, z, y, tau)) / 2


def bcl_by_hand(z, y, num_classes, tau):
    classes, per_anchor = y + y + list(range(num_classes)), []
    for i in range(2 * len(y)):

        def e(k):
            return cmath.exp(dot(z[i], z[k]) / tau)

        members = [
            [k for k in range(len(z)) if classes[k] == c and k != i] for c in range(num_classes)
        ]
        denominator = sum(mean([e(k) for k in of_class]) for of_class in members)
        per_anchor.append(-mean([cmath.log(e(p) / denominator) for p in members[classes[i]]]))
    return mean(per_anchor)


QUEUE = 5


def targeted_by_hand(query, keys, y, queue, queue_y, targets, tau):
    """TSC, with all keys of the class drawn; KCL (Kang et al. 2021) where there is no target."""
    per_anchor = []
    for q, key, label in zip(query, keys, y):
        candidates = [key, *queue, *targets]
        positives = [key] + [other for other, c in zip(queue, queue_y) if c == label]
        loss = -mean([log_share(q, p, candidates, tau) for p in positives])
        own = 0.2 * log_share(q, targets[label], candidates, tau) if targets else 0
        per_anchor.append(loss - own)
    return mean(per_anchor)


def tsc_by_hand(z, y, num_classes, tau):
    batch = len(y)
    query, keys, rest = z[:batch], real(z[batch : 2 * batch]), real(z[2 * batch :])
    queue_y = [k % num_classes for k in range(QUEUE)]
    return targeted_by_hand(query, keys, y, rest[:QUEUE], queue_y, rest[QUEUE:], tau)


def tsc(query, key, queue, targets, y, tau):
    queue, targets = (F.normalize(rows, dim=1).detach() for rows in (queue, targets))
    queue_y = torch.arange(QUEUE) % len(targets)
    return losses.targeted_contrastive(query, key, y, queue, queue_y, targets, temperature=tau)


SIZES = {  # of the parts of the rows, of B texts and C classes
    "simcse": lambda B, C: [B, B],
    "sclce": lambda B, C: [B],
    "spcl": lambda B, C: [B, C],
    "dualcl": lambda B, C: [B, B],
    "bcl": lambda B, C: [2 * B, C],
    "tsc": lambda B, C: [B, B, QUEUE, C],
}
OURS = {  # of the parts
    "simcse": lambda z1, z2, y, tau: losses.info_nce(z1, z2, temperature=tau),
    "sclce": lambda z, y, tau: losses.supervised_contrastive(z, y, temperature=tau),
    "spcl": lambda z, protos, y, tau: losses.prototypical_contrastive(
        z, y, protos, temperature=tau
    ),
    "dualcl": lambda z, theta, y, tau: losses.dual_contrastive(z, theta, y, temperature=tau),
    "bcl": lambda z, own, y, tau: losses.balanced_contrastive(z, y.repeat(2), own, temperature=tau),
    "tsc": tsc,
}
BY_HAND = {  # of all rows
    **{"simcse": simcse_by_hand, "sclce": sclce_by_hand, "spcl": spcl_by_hand},
    **{"dualcl": dualcl_by_hand, "bcl": bcl_by_hand, "tsc": tsc_by_hand},
}


def loss_of(name, rows, y, num_classes, tau):
    return OURS[name](*rows.split(SIZES[name](len(y), num_classes)), y, tau)


def by_hand(name, rows, y, num_classes, tau):
    return BY_HAND[name]([unit(row) for row in rows], y, num_classes, tau)


LABELS = {
    "balanced": ([0, 1, 2, 0, 1, 2], 3),
    "long tail": ([0, 0, 0, 0, 1, 2], 3),
    "absent classes": ([3, 1, 1, 3, 1], 5),
    "one member each": ([0, 1, 2, 3], 4),
    "all in one class": ([1, 1, 1], 3),
    "one text": ([1], 2),
}


def drawn_rows(name, labels, dim=4, dtype=F64):
    y, num_classes = LABELS[labels]
    torch.manual_seed(3)
    rows = sum(SIZES[name](len(y), num_classes))
    return torch.randn(rows, dim, dtype=dtype), torch.tensor(y), num_classes


# ---- contrastive losses: values and gradients ----


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("name", OURS)
def test_value_and_gradient_are_those_of_the_papers_equation(name, labels, tau=0.3):
    rows, y, num_classes = drawn_rows(name, labels)
    assert_same(
        lambda rows: loss_of(name, rows, y, num_classes, tau),
        rows,
        lambda rows: by_hand(name, rows, y.tolist(), num_classes, tau),
    )


E1, E2 = [1.0, 0.0], [0.0, 1.0]
TRIANGLE = [[math.cos(angle), math.sin(angle)] for angle in (0, math.tau / 3, 2 * math.tau / 3)]


def corners(*y):
    """Two views of each text and the centre of each class, all on the corner of their class."""
    return [TRIANGLE[c] for c in (*y, *y, 0, 1, 2)]


@pytest.mark.parametrize(
    "name, rows, y, num_classes, tau, expected",
    [
        ("simcse", torch.eye(4).repeat(2, 1).tolist(), [0] * 4, 1, 1, 0.743668),  # log(1 + 3/e)
        ("simcse", torch.eye(4).repeat(2, 1).tolist(), [0] * 4, 1, 0.05, 6.18e-9),
        ("sclce", [E1, E1, E2, E2], [0, 0, 1, 1], 2, 1, 0.551445),  # -1 + log(e + 2)
        ("sclce", [E1, E1, E2, E2], [0, 0, 1, 1], 2, 0.3, 0.068918),
        ("sclce", [E1, E2, E1, E2], [0, 1, 0, 1], 2, 1, 0.551445),
        ("spcl", [E1, E2, E1, E2], [0, 1], 2, 1, 0.794377),  # -log(e / (e + 2 sqrt e))
        ("spcl", [E1, E1, E1, E2], [0, 0], 2, 1, 0.958020),
        ("spcl", [E1, E1, E1, E2], [0, 0], 2, 0.05, 0.693170),
        ("spcl", [E1, E2, E1, E2], [0, 1], 2, 0.05, 0.0),  # learnt: below 0.3, left out
        ("spcl", [E1, E2, E1, E2], [0, 1], 2, 0.3, 0.320453),  # log(1 + 2 exp(-1 / 0.6)), above it
        ("spcl", [E1, E2, E1, E2], [0, 1], 2, 0.28, 0.0),  # 0.289197 is below it
        # 0.743668 with exp(0) for i
        ("dualcl", [E1, E1, E2, E2] * 2, [0, 0, 1, 1], 2, 1, 0.551445),
        # on a simplex the imbalance of the batch does not matter: log(1 + 2 exp(-1.5))
        ("bcl", corners(0, 0, 0, 1), [0, 0, 0, 1], 3, 1, 0.368981),
        ("bcl", corners(0, 1, 2, 2, 2, 2), [0, 1, 2, 2, 2, 2], 3, 1, 0.368981),
    ],
)
def test_values_worked_by_hand(name, rows, y, num_classes, tau, expected):
    got = loss_of(name, torch.tensor(rows, dtype=F64), torch.tensor(y), num_classes, tau)
    assert got.item() == pytest.approx(expected, rel=1e-3, abs=1e-9)


@pytest.mark.parametrize(
    "queued, has_targets, expected",
    # logits 1 (key), 0 and -1 (queue), 1 and -1 (targets): log-sum-exp 1.970230, or 1.407606
    [(2, True, 1.470230 + 0.2 * 0.970230), (2, False, 1.407606 - 0.5), (0, False, 0)],
)
def test_the_targeted_loss_worked_by_hand(queued, has_targets, expected):
    query, queue, targets = map(torch.tensor, ([E1], [E2, [-1.0, 0.0]], [E1, [-1.0, 0.0]]))
    y, queue_y = torch.tensor([0]), torch.tensor([0, 1])
    queue, queue_y, targets = queue[:queued], queue_y[:queued], targets if has_targets else None
    got = losses.targeted_contrastive(query, query, y, queue, queue_y, targets, temperature=1)
    assert got.item() == pytest.approx(expected, abs=1e-5)


def test_only_num_positives_of_the_queue_are_drawn_and_each_has_its_turn():
    torch.manual_seed(0)
    query, queue = F.normalize(torch.randn(1, 3)), F.normalize(torch.randn(4, 3), dim=1)
    inputs = query, query, torch.tensor([0]), queue, torch.tensor([0, 0, 0, 1])
    loss = partial(losses.targeted_contrastive, *inputs, num_positives=2, temperature=1)
    values = {round(loss().item(), 5) for _ in range(60)}
    s = (query @ torch.cat([query, queue]).T)[0].tolist()
    lse = math.log(sum(map(math.exp, s)))
    expected = {lse - (s[0] + s[a] + s[b]) / 3 for a, b in ((1, 2), (1, 3), (2, 3))}
    assert sorted(values) == pytest.approx(sorted(expected), abs=2e-5)


@pytest.mark.parametrize(
    "name, expected",
    [
        ("simcse", math.log(6)),
        ("sclce", math.log(5)),
        ("dualcl", math.log(5)),
        ("bcl", math.log(3)),
        ("spcl", math.log(6 - 1 + 3)),
        ("tsc", 1.2 * math.log(1 + QUEUE + 3)),
    ],
)
@pytest.mark.parametrize("labels", ["balanced", "long tail"])
def test_collapsed_features_give_the_log_of_the_number_of_targets(name, expected, labels):
    rows, y, num_classes = drawn_rows(name, labels)
    got = loss_of(name, rows[:1].expand_as(rows), y, num_classes, 0.3)
    assert got.item() == pytest.approx(expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("labels", ["absent classes", "one member each", "one text"])
@pytest.mark.parametrize("name", OURS)
def test_loss_and_gradient_are_finite_for_finite_features(name, labels, dtype):
    rows, y, num_classes = drawn_rows(name, labels, dtype=dtype)
    for scaled in (rows, 0 * rows, rows[:1].expand_as(rows), 1e30 * rows, 1e-30 * rows):
        for tau in (0.01, 1):
            leaf = scaled.clone().requires_grad_()
            loss = loss_of(name, leaf, y, num_classes, tau)
            loss.backward()
            assert loss.isfinite() and loss.dtype == torch.float32 and leaf.grad.isfinite().all()


@pytest.mark.parametrize("name", OURS)
def test_autocast_does_not_coarsen_a_loss(name):
    rows, y, num_classes = drawn_rows(name, "balanced", dtype=torch.float32)
    exact = loss_of(name, rows, y, num_classes, 0.07)
    with torch.autocast("cpu", torch.bfloat16):
        assert loss_of(name, rows, y, num_classes, 0.07) == exact


# ---- classification losses ----


def softmax_by_hand(scores):
    exponentials = [cmath.exp(score) for score in scores]
    return [e / sum(exponentials) for e in exponentials]


def focal_by_hand(rows, y, gamma):
    p = [softmax_by_hand(row)[label] for row, label in zip(rows, y)]
    return mean([-((1 - p_y) ** gamma) * cmath.log(p_y) for p_y in p])


def dice_by_hand(rows, y, alpha, smooth):
    total = 0
    for row, label in zip(rows, y):
        for c, p in enumerate(softmax_by_hand(row)):
            q, t = (1 - p) ** alpha * p, float(c == label)
            total += 1 - (2 * q * t + smooth) / (q * q + t * t + smooth)
    return total / len(rows)


def vector_scaling_by_hand(rows, y, counts, gamma, tau):
    """Kini et al. 2021: the multiclass form, and the binary one for two classes."""
    total, largest, whole = 0, max(counts), sum(counts)
    delta = [(n / largest) ** gamma for n in counts]
    iota = [tau * math.log(n / whole) for n in counts]
    for row, label in zip(rows, y):
        if len(counts) == 2:
            margin = delta[label] * (row[label] - row[1 - label]) + iota[label] - iota[1 - label]
            total += cmath.log(1 + cmath.exp(-margin))
        else:
            shifted = [cmath.exp(d * s + i) for d, s, i in zip(delta, row, iota)]
            total -= cmath.log(shifted[label] / sum(shifted))
    return total / len(rows)


@pytest.mark.parametrize("labels", LABELS)
def test_focal_and_dice_loss_are_their_papers(labels):
    y, num_classes = LABELS[labels]
    torch.manual_seed(0)
    logits, labels = 2 * torch.randn(len(y), num_classes, dtype=F64), torch.tensor(y)
    constants = [{"gamma": gamma} for gamma in (0.5, 2.0, 5.0)]
    constants += [{"alpha": 0.01, "smooth": 1.0}, {"alpha": 1.0, "smooth": 1e-4}]
    for own in constants:
        is_focal = "gamma" in own
        ours, oracle = (losses.focal, focal_by_hand) if is_focal else (losses.dice, dice_by_hand)
        assert_same(
            lambda rows: ours(rows, labels, **own), logits, lambda rows: oracle(rows, y, **own)
        )


@pytest.mark.parametrize("counts", [[90, 10], [3, 40], [50, 20, 5], [7, 7, 7, 1]])
@pytest.mark.parametrize("gamma, tau", [(0.3, 1.0), (0.05, 1.25), (1.0, 0.0), (0.0, 1.0), (0, 0)])
def test_vector_scaling_is_its_papers(counts, gamma, tau):
    torch.manual_seed(0)
    y = [c for c in range(len(counts))] * 2
    logits, labels = 2 * torch.randn(len(y), len(counts), dtype=F64), torch.tensor(y)
    n = torch.tensor(counts)
    assert_same(
        lambda rows: losses.vector_scaling(rows, labels, n, gamma=gamma, tau=tau),
        logits,
        lambda rows: vector_scaling_by_hand(rows, y, counts, gamma, tau),
    )


def logs(*shares):
    return [math.log(share) for share in shares]


def focal(gamma):
    return partial(losses.focal, gamma=gamma)


def dice(alpha):
    return partial(losses.dice, alpha=alpha)


def adjusted(*counts):
    return partial(logit_compensation, class_counts=torch.tensor(counts))


def scaled(*counts, tau):
    return partial(losses.vector_scaling, class_counts=torch.tensor(counts), gamma=0.5, tau=tau)


@pytest.mark.parametrize(
    "loss, logits, label, expected",
    [
        (focal(0), logs(0.7, 0.3), 0, 0.356675),
        (focal(1), logs(0.7, 0.3), 0, 0.107002),
        (focal(2), logs(0.7, 0.3), 0, 0.0321007),
        (focal(5), logs(0.7, 0.3), 0, 0.000866720),
        (dice(0), logs(0.5, 0.5), 0, 1 / 9 + 1 / 5),
        (dice(1), logs(0.5, 0.5), 0, 3 / 11 + 1 / 17),
        # own class q = 0.9 * 0.1^0.01 = 0.879513: 0.005234; the others q = 0.033322: 0.001109 each
        (dice(0.01), logs(0.9, 0.1 / 3, 0.1 / 3, 0.1 / 3), 0, 0.005234 + 3 * 0.001109),
        (adjusted(9, 1), [0.0, 0.0], 1, 2.302585),  # log 10
        (adjusted(9, 1), [0.0, 0.0], 0, 0.105361),  # -log 0.9
        # n = 16, 4, 1 and gamma 1/2: factors 1, 1/2, 1/4; without a shift the logits are 2, 2, 1/2
        (scaled(16, 4, 1, tau=0), [2.0, 4.0, 2.0], 1, math.log(2 + math.exp(-1.5))),
        # with the shift exp(iota) is n / 21: (16 e^2 + 4 e^2 + e^0.5) / 4 e^2
        (scaled(16, 4, 1, tau=1), [2.0, 4.0, 2.0], 1, math.log(5 + math.exp(-1.5) / 4)),
        # two classes of 9 and 1 texts: the margin of the small one counts a third
        (scaled(9, 1, tau=0), [0.0, 3.0], 1, math.log(1 + math.exp(-1))),
    ],
)
def test_classification_losses_worked_by_hand(loss, logits, label, expected):
    for rows in (1, 2):  # equal rows cost what one does: dice is no set over the batch
        got = loss(torch.tensor([logits] * rows, dtype=F64), torch.tensor([label] * rows))
        assert got.item() == pytest.approx(expected, rel=1e-5, abs=2e-6)


@pytest.mark.parametrize(
    "loss", [losses.dice, partial(losses.focal, gamma=0.5)], ids=["dice", "focal"]
)
@pytest.mark.parametrize("gap", [17.5, 100.0, 1e30])
def test_a_saturated_softmax_has_a_finite_gradient(loss, gap):
    for label in (0, 1):
        logits = torch.tensor([[gap, 0.0, 0.0]], requires_grad=True)
        loss(logits, torch.tensor([label])).backward()
        assert logits.grad.isfinite().all()


# ---- the registry ----


def test_the_overview_has_a_line_for_each_method_with_the_ranges_of_its_constants():
    lines = [line.split() for line in overview().splitlines() if line.startswith("  ")]
    assert [name for name, *_ in lines] == list(METHODS)
    assert len(set(titles().values())) == len(METHODS)
    sclce, vs = (" ".join(line) for line in lines if line[0] in ("vs", "sclce"))
    assert vs.endswith("gamma=0.3 (at least 0), tau=1 (at least 0)")
    assert sclce.endswith("temperature=0.3 (above 0), weight=0.9 (0 to 1)")


# ---- the methods: what they share ----

NAMES = ["noun.animal", "noun.food", "noun.time"]
Y = [0, 0, 0, 1, 1, 2]


@pytest.fixture(scope="module")
def method(tiny_encoder):
    """A method on the tiny encoder, in eval mode, for training texts of these classes."""

    def built(name, labels=Y, epochs=4, names=NAMES, encoder=tiny_encoder, **constants):
        torch.manual_seed(0)
        counts = torch.from_numpy(np.bincount(labels, minlength=len(names)))
        task = Task(names, np.array(labels), counts, load_tokenizer(str(encoder)), epochs, 1)
        return make(name, load_encoder(str(encoder), "cls"), task, constants).eval()

    return built


def drawn_features(model, labels=Y):
    """feat and labels of all the views of a batch, drawn at random."""
    torch.manual_seed(1)
    feat = torch.randn(len(model.views) * len(labels), model.h, requires_grad=True)
    return feat, torch.tensor(labels).repeat(len(model.views))


def test_the_constants_are_the_official_ones():
    own = {name: METHODS[name].constants for name in RIVALS if METHODS[name].constants}
    defaults = {name: {of: own[name][of].default for of in own[name]} for name in own}
    assert defaults == {
        "dice": {"alpha": 0.01, "smooth": 1},
        "focal": {"gamma": 2},
        "simcse": {"temperature": 0.05, "weight": 0.1},
        "sclce": {"temperature": 0.3, "weight": 0.9},
        "spcl": {"temperature": 0.05, "pool": 256, "support": 64},
        "dualcl": {"temperature": 0.1, "weight": 0.5},
        "hybrid_sc": {"temperature": 0.1, "proj_dim": 128},
        "bcl": {"temperature": 0.1, "weight_cls": 2, "weight": 0.6, "proj_dim": 128},
        "tsc": {"temperature": 0.07, "weight": 0.2, "num_positives": 6}
        | {"queue": 4096, "momentum": 0.999, "proj_dim": 128},
        "vs": {"gamma": 0.3, "tau": 1},
    }


def ce_by_hand(logits, y):
    return mean([-math.log(softmax_by_hand(row)[label].real) for row, label in zip(logits, y)])


def weighted_by_hand(logits, y, weights):
    """The weights of this batch sum to its size, as without weights."""
    return mean([ce_by_hand([row], [label]) * weights[label] for row, label in zip(logits, y)])


@pytest.mark.parametrize(
    "name, own",
    [
        ("bert", ce_by_hand),
        ("roberta", ce_by_hand),
        ("balanced", ce_by_hand),
        ("dice", lambda logits, y: dice_by_hand(logits, y, 0.01, 1).real),
        ("focal", lambda logits, y: focal_by_hand(logits, y, 2).real),
        ("la", lambda logits, y: logit_compensation_by_hand(logits, y, (3, 2, 1)).real),
        ("vs", lambda logits, y: vector_scaling_by_hand(logits, y, (3, 2, 1), 0.3, 1).real),
        ("wce", lambda logits, y: weighted_by_hand(logits, y, (2 / 3, 1, 2))),  # 6 / (3 n)
    ],
)
def test_the_classification_methods_minimise_their_loss_of_the_logits(method, name, own):
    model = method(name)
    feat, labels = drawn_features(model)
    logits = (feat @ model.phi.weight.T + model.phi.bias).tolist()
    step = model.losses(feat, labels, 1)
    assert step.loss.item() == step.loss_cls.item() == pytest.approx(own(logits, Y), rel=1e-4)
    assert step.loss_cl == 0 and model.views == ("original",)


def test_post_hoc_adjustment_trains_as_cross_entropy_and_subtracts_the_log_shares(method):
    torch.manual_seed(0)
    adjusted, plain = method("post_hoc"), method("bert")
    with torch.no_grad():
        adjusted.linear.weight.copy_(plain.phi.weight), adjusted.linear.bias.copy_(plain.phi.bias)
    feat, labels = drawn_features(plain)
    shift = torch.tensor([2.0, 3.0, 6.0]).log()  # the shares are a half, a third and a sixth
    assert_close(adjusted.classify(feat), plain.classify(feat) + shift)
    steps = []
    for model in (adjusted.train(), plain.train()):
        torch.manual_seed(1)  # of the dropout
        steps.append(model.losses(feat, labels, 1).loss)
    assert torch.equal(*steps) and adjusted.training


def test_balanced_sampling_draws_every_class_as_often_and_each_of_its_texts(method):
    model = method("balanced", labels=[0] * 8 + [1] * 3 + [2])
    torch.manual_seed(0)
    drawn = np.stack([model.epoch_rows(epoch, 12) for epoch in range(1, 2001)])
    assert drawn.shape == (2000, 12)
    shares = np.bincount(drawn.ravel(), minlength=12) / drawn.size
    expected = [1 / 24] * 8 + [1 / 9] * 3 + [1 / 3]
    assert shares.tolist() == pytest.approx(expected, abs=0.01)


def test_the_classifier_drops_a_tenth_of_the_features_in_training_alone(method):
    model, feat = method("bert"), torch.ones(2000, 32)
    assert (model.classify(feat) == model.classify(feat)).all()
    with torch.no_grad():
        model.phi.weight.copy_(torch.eye(3, 32)), model.phi.bias.zero_()
    kept = model.train().classify(feat)
    assert (kept == 0).float().mean().item() == pytest.approx(0.1, abs=0.02)
    assert kept.max().item() == pytest.approx(1 / 0.9)


@pytest.mark.parametrize(
    "name, of_cls, of_cl, weights",
    [
        ("simcse", "xx", "xx", (0.9, 0.1)),
        ("sclce", "x", "x", (0.1, 0.9)),
        ("hybrid_sc", "x-", "xx", (9 / 16, 7 / 16)),
        ("bcl", "x--", "-xx", (2, 0.6)),
    ],
)
def test_the_parts_of_a_loss_are_their_equations_on_their_views_and_have_their_weights(
    method, name, of_cls, of_cl, weights
):
    model = method(name)
    feat, labels = drawn_features(model)
    step = model.losses(feat, labels, 3)
    for part, expected in ((step.loss_cls, of_cls), (step.loss_cl, of_cl)):
        (gradient,) = torch.autograd.grad(part, feat, retain_graph=True)
        views = gradient.chunk(len(model.views))
        assert "".join("x" if view.abs().sum() > 0 else "-" for view in views) == expected
    heads = {
        "simcse": lambda: torch.tanh(model.head[0](feat)),
        "sclce": lambda: feat,
        "hybrid_sc": lambda: model.head(feat),
        "bcl": lambda: torch.cat([model.head(feat[6:]), model.head_centres(model.phi.weight)]),
    }
    rows, tau = heads[name]().tolist(), model.constant["temperature"]
    oracle, y = ("sclce", Y + Y) if name == "hybrid_sc" else (name, Y)
    assert step.loss_cl.item() == pytest.approx(by_hand(oracle, rows, y, 3, tau).real, rel=1e-4)
    logits = model.phi(feat if name in ("simcse", "sclce") else feat[:6])
    logits = logits + (torch.tensor([3.0, 2.0, 1.0]).log() if name == "bcl" else 0)
    expected = ce_by_hand(logits.tolist(), labels[: len(logits)].tolist())
    assert step.loss_cls.item() == pytest.approx(expected, rel=1e-4)
    parts = step.loss_cls.item(), step.loss_cl.item()
    assert step.loss.item() == pytest.approx(dot(weights, parts))


def test_the_curriculum_of_hybrid_sc_goes_from_features_to_the_classifier(method):
    model = method("hybrid_sc", epochs=10)
    assert [model.alpha(epoch) for epoch in range(1, 11)] == pytest.approx(
        [0.99, 0.96, 0.91, 0.84, 0.75, 0.64, 0.51, 0.36, 0.19, 0]
    )
    step = model.losses(*drawn_features(model), 10)
    assert step.loss == step.loss_cls != step.loss_cl


def test_the_centres_of_bcl_train_the_classifier_also_of_absent_classes(method):
    model = method("bcl")
    step = model.losses(*drawn_features(model, [0, 0, 1]), 1)
    (gradient,) = torch.autograd.grad(step.loss_cl, model.phi.weight)
    assert (gradient.abs().sum(dim=1) > 0).tolist() == [True] * 3


# ---- SPCL ----

AXES = torch.eye(3, 32)


@pytest.fixture
def spcl(method):
    """SPCL at the beginning of an epoch: class c has its centre on axis c."""
    model = method("spcl", labels=[0, 1, 2], pool=4, support=3)
    model.observe(AXES, torch.tensor([0, 1, 2]))
    model.epoch_rows(1, 3)
    return model


def test_centres_are_class_means_and_the_nearest_by_cosine_is_predicted(method):
    model = method("spcl")
    feat, labels = drawn_features(model)
    model.observe(feat.detach(), labels)
    centres = torch.stack([feat[:3].mean(dim=0), feat[3:5].mean(dim=0), feat[5]])
    assert_close(model.centres, centres.detach())
    new = torch.randn(20, 32)
    cosines = F.cosine_similarity(new[:, None], centres, dim=2)
    assert_close(model.classify(new), (1 + cosines) / 2 / 0.05)


def test_difficulty_is_the_own_centres_share_of_all_distances(method):
    model = method("spcl", labels=[0, 0, 1, 1], names=NAMES[:2])
    # centres (1, 0) and (0, 1) up to length; the first text has cosines 0.8 and 0.6 to them
    feat = torch.tensor([[0.8, 0.6], [0.8, -0.6], [0.6, 0.8], [-0.6, 0.8]])
    model.observe(feat, torch.tensor([0, 0, 1, 1]))
    easy, hard = 0.1 / (0.1 + 0.2), 0.1 / (0.1 + 0.8)
    assert model.difficulty.tolist() == pytest.approx([easy, hard, easy, hard], rel=1e-5)


@pytest.mark.parametrize(
    "epoch, expected",
    [
        (1, [1, 0.75, 0.5, 0.25, 0]),
        (2, [0.75, 0.625, 0.5, 0.375, 0.25]),
        (3, [0.5] * 5),
        (4, [0.25, 0.375, 0.5, 0.625, 0.75]),
    ],
)
def test_the_curriculum_of_spcl_goes_from_easy_to_hard_texts(method, epoch, expected):
    model = method("spcl", labels=[0, 0, 1, 1, 2])
    model.difficulty = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5])[[3, 0, 4, 1, 2]]
    expected = [expected[rank] for rank in (3, 0, 4, 1, 2)]
    assert model.keep_probability(epoch).tolist() == pytest.approx(expected)
    drawn = np.concatenate([model.epoch_rows(epoch, 5) for _ in range(2000)])
    # where none is drawn all are: in the third epoch once in 32
    assert (np.bincount(drawn, minlength=5) / 2000).tolist() == pytest.approx(expected, abs=0.06)


def test_an_epoch_that_draws_no_text_takes_all_of_them(method, monkeypatch):
    model = method("spcl")
    monkeypatch.setattr(model, "keep_probability", lambda epoch: torch.zeros(6))
    assert model.epoch_rows(1, 6).tolist() == [0, 1, 2, 3, 4, 5]


def test_a_prototype_is_the_centre_until_the_pool_has_its_support(spcl):
    assert torch.equal(spcl.prototypes(), spcl.centres)
    first, second = torch.randn(2, 32), torch.randn(5, 32)
    spcl.fill_pools(first[:1], torch.tensor([1]))  # 2 members, the centre among them
    assert torch.equal(spcl.prototypes(), spcl.centres)
    spcl.fill_pools(first[1:], torch.tensor([1]))  # 3: the support, all of them
    assert_close(spcl.prototypes()[1], (AXES[1] + first.sum(dim=0)) / 3)
    assert torch.equal(spcl.prototypes()[[0, 2]], spcl.centres[[0, 2]])
    spcl.fill_pools(second, torch.tensor([1] * 5))  # 8, of which 4 are kept
    assert [len(pool) for pool in spcl.pools] == [1, 4, 1]
    everything = [row.tolist() for row in torch.cat([AXES[1:2], first, second])]
    assert all(row in everything for row in spcl.pools[1].tolist())
    # now 3 of 4 are drawn anew for each prototype
    assert len({round(spcl.prototypes()[1, 0].item(), 4) for _ in range(60)}) == 4
    spcl.epoch_rows(2, 3)
    assert torch.equal(torch.cat(spcl.pools), spcl.centres)


def test_a_batch_goes_into_the_pools_after_its_own_loss_and_without_gradient(spcl):
    torch.manual_seed(2)
    batches, y = torch.randn(2, 4, 32, requires_grad=True), [0, 0, 1, 2]
    prototypes = AXES
    for feat in batches:
        got = spcl.losses(feat, torch.tensor(y), 1).loss.item()
        rows = torch.cat([feat, prototypes]).tolist()
        assert got == pytest.approx(by_hand("spcl", rows, y, 3, 0.05).real, rel=1e-4)
        assert not any(pool.requires_grad for pool in spcl.pools)
        # the first batch brought class 0 to its support of 3, the others to 2
        prototypes = torch.stack([torch.cat([AXES[:1], batches[0, :2]]).mean(dim=0), *AXES[1:]])


# ---- DualCL ----


class Echo(torch.nn.Module):
    """A stand-in backbone: the state of token i is (i, 2 i), and it keeps its position ids."""

    def __init__(self, model_type, pad_token_id, padding_idx):
        super().__init__()
        self.config = SimpleNamespace(
            model_type=model_type, pad_token_id=pad_token_id, _attn_implementation="eager"
        )
        self.position_embeddings = torch.nn.Embedding(9, 2, padding_idx=padding_idx)

    def forward(self, input_ids, attention_mask, position_ids):
        self.position_ids = position_ids.tolist()
        hidden = torch.stack([input_ids, 2 * input_ids], dim=-1).float()
        return SimpleNamespace(last_hidden_state=hidden)


@pytest.mark.parametrize(
    "model_type, pad, padding_idx, offset", [("bert", 0, None, 0), ("mpnet", 1, 1, 2)]
)
def test_labels_share_a_position_after_cls_and_the_text_counts_on(
    model_type, pad, padding_idx, offset
):
    backbone = Echo(model_type, pad, padding_idx)
    encoder = LabelAwareEncoder(SimpleNamespace(backbone=backbone, pooling="cls"), 2)
    ids = torch.tensor([[5, 91, 92, 6, 10, 11, 6], [5, 91, 92, 6, 12, 6, pad]])
    feat = encoder(ids, (ids != pad).long())
    assert backbone.position_ids == [[offset + p for p in (0, 1, 1, 2, 3, 4, 5)]] * 2
    assert feat[0].tolist() == [[5, 10], [91, 182], [92, 184]]
    encoder.pooling = "mean"  # of what is neither a label nor padding
    assert encoder(ids, (ids != pad).long())[:, 0, 0].tolist() == pytest.approx(
        [(5 + 6 + 21 + 6) / 5, (5 + 6 + 12 + 6) / 4]
    )


def test_the_labels_stand_between_cls_and_the_text(method):
    model = method("dualcl")
    tokenizer = model.task.tokenizer
    assert model.label_ids.tolist() == [len(tokenizer) + c for c in range(3)]
    texts = [tokenizer(text)["input_ids"] for text in ("a food", "the", "")]
    tokens = Tokens(np.concatenate(texts).astype(np.int32), np.cumsum([0, *map(len, texts)]), 0.25)
    prepared = model.prepare(tokens)
    for i, (cls, *rest) in enumerate(texts):
        row = prepared.ids[prepared.offsets[i] : prepared.offsets[i + 1]].tolist()
        assert row == [cls, *model.label_ids, tokenizer.sep_token_id, *rest]
    assert prepared.offsets[-1] == len(prepared.ids) and prepared.truncated == 0.25
    assert prepared.ids.dtype == np.int32


@pytest.mark.parametrize("model_type", ["bert", "roberta"])
def test_the_order_of_the_labels_permutes_the_logits_and_changes_nothing_else(
    method, tmp_path, model_type
):
    model = method("dualcl", encoder=save_tiny_encoder(tmp_path / "encoder", model_type))
    labels = model.label_ids.tolist()
    ids = torch.tensor([[2, *labels, 3, 7, 8, 9, 3], [2, *labels, 3, 10, 3, 0, 0]])
    order = [2, 0, 1]
    moved = ids.clone()
    moved[:, 1:4] = ids[:, 1:4][:, order]
    mask = (ids != 0).long()
    logits, permuted = (model.classify(model.encoder(x, mask)) for x in (ids, moved))
    assert_close(permuted, logits[:, order])
    assert (logits[:, 0] - logits[:, 1]).abs().min() > 1e-3


def test_a_labels_token_starts_as_the_mean_of_its_names_pieces_and_learns(method):
    before = method("bert").encoder.backbone.get_input_embeddings().weight.detach()
    model = method("dualcl", names=["noun . food", "the", "資料"])
    embedding = model.encoder.backbone.get_input_embeddings()
    vocabulary = model.task.tokenizer.get_vocab()
    names = (["noun", ".", "food"], ["the"], ["[UNK]"])
    for token, pieces in zip(model.label_ids, names):
        ids = [vocabulary.get(piece, vocabulary["[UNK]"]) for piece in pieces]
        assert_close(embedding.weight[token], before[ids].mean(dim=0))
    assert torch.equal(embedding.weight[: len(before)], before)
    ids = torch.tensor([[2, *model.label_ids.tolist(), 3, 7, 3]] * 3)
    feat = model.encoder(ids, torch.ones_like(ids))
    model.losses(feat, torch.tensor([0, 0, 1]), 1).loss.backward()
    assert (embedding.weight.grad[model.label_ids].norm(dim=1) > 0).all()


def test_dualcl_contrasts_each_text_with_the_states_of_its_own_label(method):
    model = method("dualcl")
    torch.manual_seed(1)
    feat = torch.randn(6, 4, 5)
    step = model.losses(feat, torch.tensor(Y), 1)
    logits = [[dot(row[0], row[1 + c]) for c in range(3)] for row in feat.tolist()]
    assert_close(model.classify(feat), torch.tensor(logits))
    rows = feat[:, 0].tolist() + [row[1 + y] for row, y in zip(feat.tolist(), Y)]
    cls, cl = ce_by_hand(logits, Y), by_hand("dualcl", rows, Y, 3, 0.1).real
    assert step.loss.item() == pytest.approx((cls + cl) / 2, rel=1e-4)
    # two texts of two classes have no positives: half of log(1 + exp(-2))
    label_states = [[2.0, 0.0], [0.0, 2.0]]
    feat = torch.tensor([[E1, *label_states], [E2, *label_states]])
    assert model.losses(feat, torch.tensor([0, 1]), 1).loss.item() == pytest.approx(0.063464, 1e-4)


@pytest.mark.parametrize("has_positions, separator", [(False, 3), (True, None)])
def test_dualcl_refuses_an_encoder_without_position_ids_or_separator(has_positions, separator):
    backbone = Echo("odd", 0, None)
    backbone.forward = backbone.forward if has_positions else lambda input_ids, attention_mask: None
    task = SimpleNamespace(label_names=NAMES, tokenizer=SimpleNamespace(sep_token_id=separator))
    with pytest.raises(InputError, match="dualcl .* odd lacks one: take a BERT"):
        make("dualcl", SimpleNamespace(backbone=backbone), task, {})


# ---- TSC ----


@pytest.mark.parametrize("dim", [1, 3, 8])
def test_targets_are_uniform_on_the_sphere(dim):
    for num_classes in range(2, dim + 2):
        targets = losses.simplex_targets(num_classes, dim)
        expected = torch.full((num_classes, num_classes), -1 / (num_classes - 1))
        assert_close(targets @ targets.T, expected.fill_diagonal_(1), atol=1e-6, rtol=0)
        if dim > 1:  # the orientation is drawn
            assert not torch.allclose(targets, losses.simplex_targets(num_classes, dim), atol=1e-3)
    for num_classes in (1, dim + 2):
        with pytest.raises(ValueError, match=f"got {num_classes}"):
            losses.simplex_targets(num_classes, dim)


def test_the_matching_is_the_best_of_all_permutations_after_the_centroids_moved(method):
    names = [str(c) for c in range(4)]
    for seed in range(20):
        model = method("tsc", labels=[0, 1, 2, 3], names=names, proj_dim=5)
        torch.manual_seed(seed)
        model.centroids = F.normalize(torch.randn(4, 5), dim=1)
        before = model.centroids.clone()
        query, y = F.normalize(torch.randn(3, 5), dim=1), torch.tensor([1, 3, 1])
        matched = model.match(query, y)
        for c, members in ((1, [0, 2]), (3, [1])):
            moved = 0.9 * before[c] + 0.1 * F.normalize(query[members].mean(dim=0), dim=0)
            assert_close(model.centroids[c], moved / moved.norm())
        assert torch.equal(model.centroids[[0, 2]], before[[0, 2]])
        cosines = (model.centroids @ model.targets.T).tolist()
        best = max(permutations(range(4)), key=lambda order: sum(map(getitem, cosines, order)))
        assert torch.equal(matched, model.targets[list(best)])


@pytest.mark.parametrize("epochs, without", [(1, 0), (4, 2), (5, 2)])
def test_the_first_half_of_the_epochs_is_without_targets(method, monkeypatch, epochs, without):
    model, seen = method("tsc", epochs=epochs), []

    def noted(query, key, labels, queue, queue_labels, targets, **constants):
        seen.append(targets)
        return query.sum()

    monkeypatch.setattr(losses, "targeted_contrastive", noted)
    for epoch in range(1, epochs + 1):
        model.losses(*drawn_features(model), epoch)
    assert [targets is None for targets in seen] == [True] * without + [False] * (epochs - without)


def test_the_queue_fills_wraps_and_takes_a_batch_only_after_its_loss(method):
    model = method("tsc", queue=5, proj_dim=4, temperature=0.5)
    torch.manual_seed(1)
    keys, classes = [], []
    for step in range(4):
        feat, y = torch.randn(4, 32), [step % 3, 1]
        projected = model.head(feat[:2]), model.key_head(feat[2:])
        query, key = (real(map(unit, rows.tolist())) for rows in projected)
        expected = targeted_by_hand(query, key, y, keys[-5:], classes[-5:], [], 0.5).real
        loss = model.losses(feat, torch.tensor(y * 2), 1).loss
        assert loss.item() == pytest.approx(expected, rel=1e-4)
        keys, classes = keys + key, classes + y
    held = sorted([c, *row] for c, row in zip(model.queue_labels.tolist(), model.queue.tolist()))
    expected = sorted([c, *row] for c, row in zip(classes[-5:], keys[-5:]))
    assert_close(torch.tensor(held), torch.tensor(expected))
    assert not model.queue.requires_grad


def test_a_batch_larger_than_the_queue_leaves_its_newest_keys_with_their_labels(method):
    model = method("tsc", queue=3, proj_dim=4)
    keys, y = torch.randn(8, 4), torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    model.enqueue(keys, y)
    held = {(c, *row) for c, row in zip(model.queue_labels.tolist(), model.queue.tolist())}
    assert held == {(int(y[i]), *keys[i].tolist()) for i in (5, 6, 7)}


def test_the_momentum_encoder_follows_slowly_makes_the_keys_and_gets_no_gradient(method):
    model = method("tsc", epochs=100, momentum=0.75)
    pairs = [
        (slow, fast, slow.clone())
        for of_key, of_query in ((model.key_encoder, model.encoder), (model.key_head, model.head))
        for slow, fast in zip(of_key.parameters(), of_query.parameters())
    ]
    with torch.no_grad():
        for _, fast, before in pairs:
            assert torch.equal(fast, before)
            fast.add_(torch.randn_like(fast))
    ids = torch.tensor([[2, 7, 3], [2, 8, 3], [2, 9, 3], [2, 10, 3]])
    mask = torch.ones_like(ids)
    texts = Tokens(ids.flatten().int().numpy(), np.arange(0, 13, 3), 0.0)

    def forward(texts, encoder=model.encoder):
        return loader.encode(encoder, texts, torch.device("cpu"))

    feat = model.encode(forward, texts)
    for slow, fast, before in pairs:
        assert_close(slow, 0.75 * before + 0.25 * fast)
    assert_close(feat[:2], model.encoder(ids[:2], mask[:2]))
    assert_close(feat[2:], model.key_encoder(ids[2:], mask[2:]))
    model.losses(feat, torch.tensor([0, 1] * 2), 100).loss.backward()
    assert all(slow.grad is None for slow, _, _ in pairs)
    assert sum(fast.grad.abs().sum() for _, fast, _ in pairs if fast.grad is not None) > 0


@pytest.mark.parametrize(
    "epochs, texts, batch_size, expected",
    [(30, 3357, 128, 1 - 10 / (30 * 27)), (400, 3357, 128, 0.999), (1, 20, 2, 0), (1, 6, 128, 0)],
)
def test_the_momentum_of_the_keys_averages_over_at_most_a_tenth_of_the_run(
    method, epochs, texts, batch_size, expected
):
    model = method("tsc")
    sizes = {"epochs": epochs, "batch_size": batch_size, "train_labels": np.zeros(texts)}
    model.task = replace(model.task, **sizes)
    assert model.momentum() == pytest.approx(expected)
    model.constant["momentum"] = 0.5
    assert model.momentum() == pytest.approx(min(expected, 0.5))


# ---- linear classifiers on frozen features ----


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("name", ["tsc", "probe"])
def test_the_linear_layer_is_scikit_learns_balanced_logistic_regression(method, name, num_classes):
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(num_classes), (30, 8, 4)[:num_classes])
    x = (rng.normal(size=(len(y), 32)) + np.eye(32)[y] * 2).astype(np.float32)
    model = method(name, labels=y, names=NAMES[:num_classes])
    model.observe(torch.from_numpy(x), torch.from_numpy(y))
    expected = LogisticRegression(class_weight="balanced", max_iter=1000).fit(x, y)
    new = rng.normal(size=(50, 32)).astype(np.float32)
    got = model.classify(torch.from_numpy(new)).softmax(dim=1).detach().numpy()
    assert got == pytest.approx(expected.predict_proba(new), abs=1e-4)


# ---- through main.py ----


@pytest.fixture
def command(corpus_folder, tiny_encoder, tmp_path):
    """Arguments of a run; options come later, and win."""
    own = ["--dataset", str(corpus_folder), "--encoder", str(tiny_encoder)]
    own += ["--output_dir", str(tmp_path)]
    own += "--epochs 3 --batch_size 16 --lr 1e-3 --device cpu".split()
    return lambda method, *options: [*own, "--method", method, *options]


@pytest.mark.parametrize("name", [*RIVALS, "tfidf", "sharprecl"])
def test_every_method_overfits_a_tiny_set(command, tmp_path, tmp_path_factory, name):
    rows = glosses({"noun.food": 6, "noun.animal": 6, "noun.time": 6})
    for part in ("train", "val", "test"):  # the same texts: training error is what is asked for
        write_csv(tmp_path / f"{part}.csv", rows)
    # the mean of all states: the first one of a random encoder knows little of the others
    options = "--epochs 12 --batch_size 6 --lr 3e-3 --pooling mean --eval_every 6".split()
    if name == "roberta":
        folder = save_tiny_encoder(tmp_path_factory.mktemp("roberta"), "roberta")
        options += ["--encoder", str(folder)]
    options += ["--plots"] if name in ("dualcl", "probe") else ["--no_weights"]
    assert main(command(name, "--dataset", str(tmp_path), *options)) == 0
    folder = folder_of(tmp_path)
    result = json.loads((folder / "result.json").read_text())
    assert result["last"]["accuracy"] == result["best_val"]["accuracy"] == 100
    if "--plots" in options:
        left = {path.name for path in folder.iterdir()}
        assert {"confusion_matrix.png", "tsne.png", "tsne.csv", "model"} <= left


def test_the_state_of_spcl_goes_on_bit_for_bit(command, tmp_path):
    whole, stopped = str(tmp_path / "whole"), str(tmp_path / "stopped")
    assert main(command("spcl", "--output_dir", whole)) == 0
    with stopped_after(2):
        assert main(command("spcl", "--output_dir", stopped)) == 130
    assert main(command("spcl", "--output_dir", stopped)) == 0
    assert outcome(stopped) == outcome(whole)


@pytest.fixture
def prepared(command):
    """The loader of a run that has not trained yet."""
    return lambda *options: untrained(command(*options)).loader


def test_the_views_are_the_text_itself_and_new_draws_of_its_augmentation(prepared):
    def different(run):
        first, *others = (
            [tokens.ids[a:b].tolist() for a, b in zip(tokens.offsets, tokens.offsets[1:])]
            for tokens in run.views
        )
        pairs = [(first, other) for other in others] + list(zip(others, others[1:]))
        return [sum(a != b for a, b in zip(*pair)) / len(first) for pair in pairs]

    assert different(prepared("bert")) == []
    assert different(prepared("simcse")) == [0]
    assert min(different(prepared("hybrid_sc"))) > 0.5
    shares = different(prepared("bcl"))
    assert len(shares) == 3 and min(shares) > 0.5


@pytest.mark.parametrize("name", ["dualcl", "tsc"])
def test_micro_batches_give_the_gradient_of_the_whole_batch(prepared, tmp_path, name):
    folder = save_tiny_encoder(tmp_path / "no_dropout", dropout=0.0)

    def gradient(micro_batch):
        options = [] if micro_batch is None else ["--micro_batch", str(micro_batch)]
        batches = prepared(name, "--encoder", str(folder), *options)
        model = batches.model.train()
        texts, labels = batches.batch(np.arange(0, 68, 4))
        torch.manual_seed(3)
        feat = model.encode(batches.forward, texts)
        return gradients(model.losses(feat, labels, 3).loss, model)

    whole = gradient(None)
    assert sum(g is not None for g in whole.values()) > 10
    for micro_batch in (1, 5):
        for part, got in gradient(micro_batch).items():
            assert_close(got, whole[part], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "method, options, message",
    [
        ("roberta", [], "a bert: leave --encoder out"),
        ("tsc", ["--constants", "proj_dim=1"], "--constants proj_dim=2"),
        ("dualcl", ["--max_length", "130"], "--max_length 128"),
    ],
)
def test_what_does_not_fit_the_encoder_or_the_data_is_one_line_and_exit_code_2(
    command, tmp_path, capsys, method, options, message
):
    rows = [(f"{'food ' * 400}{i}", "a") for i in range(10)]
    rows += [(f"{word} {i}", word) for word in ("time", "the") for i in range(10)]
    long = ["--dataset", str(write_csv(tmp_path / "long.csv", rows))]
    assert main(command(method, *long, *options)) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and message in error
    if method == "dualcl":  # which takes a text that just fits
        assert main(command(method, *long, "--max_length", "127", "--epochs", "1")) == 0


def test_a_changed_constant_is_in_the_settings_and_the_folders_name_and_a_default_is_not(command):
    plain, other, same = (
        parse_args(command("sclce", *options))
        for options in (
            [],
            ["--constants", "temperature=0.2"],
            ["--constants", "temperature=0.3", "weight=0.9"],
        )
    )
    assert plain.settings == same.settings and same.changed == {} and plain.folder == same.folder
    assert plain.settings["constants"] == {"temperature": 0.3, "weight": 0.9}
    assert other.settings["constants"] == {"temperature": 0.2, "weight": 0.9}
    assert "temperature" in str(other.changed) and "weight" not in str(other.changed)
    assert "temperature-0.2" in other.folder.name


def test_a_changed_constant_reaches_the_loss(command, method):
    assert untrained(command("focal", "--constants", "gamma=0")).model.constant == {"gamma": 0}
    models = method("focal"), method("focal", gamma=0), method("bert")
    plain, gamma_0, bert = (model.losses(*drawn_features(model), 1).loss for model in models)
    assert gamma_0.item() == pytest.approx(bert.item(), rel=1e-5) and plain < 0.8 * bert

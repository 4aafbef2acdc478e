"""
losses.py against the paper's Eqs. 3 to 13, written out in plain Python (lists and complex numbers,
no torch), and against the properties that the paper or the docstrings claim.
"""

import ast
import cmath
import contextlib
import math
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

import losses

quick = settings(deadline=None, derandomize=True, max_examples=40, database=None)
F32, F64 = torch.float32, torch.float64
CLOSE = {"rtol": 1e-9, "atol": 1e-9}


# ---- the equations by hand ----


def dot(u, v):
    return sum(a * b for a, b in zip(u, v))


def unit(v):
    length = cmath.sqrt(dot(v, v))
    return [a / length for a in v]


def logit_compensation_by_hand(phi, y, counts):
    """Eq. (6), mean over the rows."""
    delta = [math.log(n / sum(counts)) for n in counts]
    total = 0
    for scores, label in zip(phi, y):
        shifted = [cmath.exp(s + d) for s, d in zip(scores, delta)]
        total -= cmath.log(shifted[label] / sum(shifted))
    return total / len(y)


def built_by_hand(d_hat, built, c):
    """Eq. (10), for class c, every sample written out."""
    return [
        unit([w * a + (1 - w) * b for a, b in zip(d_hat[i], d_hat[j])])
        for i, j, w in zip(*(tensor[c].tolist() for tensor in built))
    ]


def contrastive_by_hand(rows, y, built_pos, built_neg, tau, weights, reduction, over_positives):
    """Eq. (11); rows are the raw z, then proto, and y the labels of both."""
    d_hat = [unit(row) for row in rows]
    total = total_weight = 0
    for i, z_i in enumerate(d_hat):
        others = [k for k in range(len(y)) if k != i]
        positives = built_by_hand(d_hat, built_pos, y[i]) + [
            d_hat[k] for k in others if y[k] == y[i]
        ]
        negatives = built_by_hand(d_hat, built_neg, y[i]) + [
            d_hat[k] for k in others if y[k] != y[i]
        ]
        denominator = sum(cmath.exp(dot(z_i, z_k) / tau) for z_k in positives + negatives)
        loss_i = -sum(cmath.log(cmath.exp(dot(z_i, z_p) / tau) / denominator) for z_p in positives)
        if over_positives == "mean":
            loss_i /= len(positives) or 1
        total += weights[y[i]] * loss_i
        total_weight += weights[y[i]]
    return total / {"weighted_mean": total_weight, "mean": len(d_hat)}[reduction]


def gradient_by_hand(function, rows):
    """The complex step: f(x + ih).imag / h is df/dx to the last digit, with no difference taken."""

    def derivative(r, c):
        moved = [list(row) for row in rows]
        moved[r][c] += 1e-30j
        return function(moved).imag / 1e-30

    return [[derivative(r, c) for c in range(len(rows[0]))] for r in range(len(rows))]


def assert_same(actual, inputs, by_hand):
    """Value and gradient of `actual` (a function of one tensor) equal those of the plain oracle."""
    leaf = inputs.clone().requires_grad_()
    value = actual(leaf)
    (gradient,) = torch.autograd.grad(value, leaf)
    rows = inputs.tolist()
    torch.testing.assert_close(value.item(), by_hand(rows).real, **CLOSE)
    expected = torch.tensor(gradient_by_hand(by_hand, rows), dtype=F64)
    torch.testing.assert_close(gradient, expected, **CLOSE)


# ---- batches, and the rebalanced dataset as Algorithm 1 builds it ----


def batch(labels, num_classes, dim=4, seed=0, dtype=F64):
    """Random raw rows, z and then proto, and the labels of z."""
    torch.manual_seed(seed)
    return torch.randn(len(labels) + num_classes, dim, dtype=dtype), torch.tensor(labels)


@st.composite
def batches(draw):
    num_classes = draw(st.integers(2, 4))
    labels = draw(st.lists(st.integers(0, num_classes - 1), min_size=1, max_size=6))
    return batch(labels, num_classes, draw(st.integers(2, 4)), draw(st.integers(0, 999)))


def extend(rows, y):
    return losses.extend(rows[: len(y)], y, rows[len(y) :])


def candidates(extended, labels):
    """(hardness, is_candidate) of the positives, then of the negatives, Eqs. (8) and (9)."""
    num_classes = int(labels.max()) + 1  # the prototypes hold every class
    is_member = losses.membership(labels, num_classes)
    similarity = extended[-num_classes:] @ extended.T
    return (-similarity, is_member), (similarity, ~is_member)


def build(extended, labels, n_pos=10, n_neg=500, k=20):
    """D_tilde+ and D_tilde-, lines 6 to 10 of Algorithm 1 at t = 0."""
    built = []
    for num, (hardness, is_candidate) in zip((n_pos, n_neg), candidates(extended, labels)):
        num_samp, num_syn = losses.set_sizes(num, 0.5)
        hard = losses.hard_samples(hardness, is_candidate, k=k)
        built.append(
            losses.union(
                losses.simple_sampling(is_candidate, num_samp), losses.hard_mixup(hard, num_syn)
            )
        )
    return built


# ---- values and gradients ----


@quick
@given(rows_y=batches(), counts=st.lists(st.integers(1, 3000), min_size=4, max_size=4))
def test_logit_compensation_is_equation_6(rows_y, counts):
    y = rows_y[1]
    counts = counts[: y.max() + 1]
    phi = 3 * torch.randn(len(y), len(counts), dtype=F64)
    assert_same(
        lambda phi: losses.logit_compensation(phi, y, torch.tensor(counts)),
        phi,
        lambda phi: logit_compensation_by_hand(phi, y.tolist(), counts),
    )


@quick
@given(
    rows_y=batches(),
    n_pos=st.integers(0, 4),
    n_neg=st.integers(0, 5),
    tau=st.sampled_from([0.3, 1.0]),
    reduction=st.sampled_from(["weighted_mean", "mean"]),
    over_positives=st.sampled_from(["mean", "sum"]),
)
def test_rebalanced_contrastive_is_equation_11(
    rows_y, n_pos, n_neg, tau, reduction, over_positives
):
    rows, y = rows_y
    weights = [0.5, 2.0, 0.0, 3.0][: len(rows) - len(y)]
    _, labels = extended = extend(rows, y)
    built = build(*extended, n_pos, n_neg, k=3)
    options = {"temperature": tau, "reduction": reduction, "over_positives": over_positives}
    assert_same(
        lambda rows: losses.rebalanced_contrastive(
            *extend(rows, y), *built, weights=torch.tensor(weights), **options
        ),
        rows,
        lambda rows: contrastive_by_hand(
            rows, labels.tolist(), *built, tau, weights, reduction, over_positives
        ),
    )


def gradient_of_equation_13(z_i, positives, negatives, tau, share):
    """Eq. (13). share is 1 / |D_hat| as it is printed, or 1 / |P(i)|."""
    exponentials = [math.exp(dot(z_i, z_k) / tau) for z_k in positives + negatives]
    factors = [e / sum(exponentials) for e in exponentials]
    for p in range(len(positives)):
        factors[p] -= share
    return [dot(factors, column) / tau for column in zip(*positives + negatives)]


@pytest.mark.parametrize("over_positives", ["mean", "sum"])
def test_equation_13_follows_from_the_mean_over_positives_alone_and_not_as_it_is_printed(
    over_positives,
):
    # Anchor 5 is alone in class 2, all other weights are 0, and no built sample holds its row:
    # then only the anchor depends on it, and all targets are constants.
    tau, anchor = 0.5, 5
    extended, labels = extend(*batch([0, 0, 1], 3))
    rows = torch.tensor([[0, 1, 3], [1, 2, 4], [2, 4, 0]])
    built = losses.Built(rows, rows.roll(1, dims=1), torch.rand(3, 3))
    extended.requires_grad_()
    options = {"temperature": tau, "reduction": "mean", "over_positives": over_positives}
    loss = losses.rebalanced_contrastive(
        extended, labels, built, built, weights=torch.tensor([0.0, 0.0, 1.0]), **options
    )
    # the mean over the anchors has the 1 / |D_hat| of Eq. (11), which the mean over P(i) replaces
    scale = len(labels) if over_positives == "mean" else 1
    actual = torch.autograd.grad(loss * scale, extended)[0][anchor].tolist()
    d_hat = extended.tolist()
    samples = [[a.real for a in sample] for sample in built_by_hand(d_hat, built, 2)]

    def follows(share):
        expected = gradient_of_equation_13(
            d_hat[anchor], samples, samples + d_hat[:anchor], tau, share
        )
        return actual == pytest.approx(expected, rel=1e-9)

    assert follows(1 / len(samples)) == (over_positives == "mean")
    assert not follows(1 / len(labels))


@pytest.mark.parametrize("compensated, mu", [(True, 1.0), (False, 0.3)])
@pytest.mark.parametrize(
    "as_given", [list, tuple, np.array, torch.tensor], ids=lambda f: f.__name__
)
def test_sharprecl_is_equation_12_whatever_holds_the_class_counts(as_given, compensated, mu):
    counts, (rows, y) = [50, 9, 1], batch([0, 0, 1, 2, 0, 1], 3)
    logits, options = rows[:6, :3].clone(), dict(n_pos=3, n_neg=4, k=2, temperature=0.3)
    weights = [-math.log(n / sum(counts)) for n in counts]
    steps = []

    def actual(rows):
        torch.manual_seed(1)
        step = losses.sharprecl(
            logits, y, as_given(counts), rows[:6], rows[6:], 1.0,
            compensated=compensated, mu=mu, **options,
        )  # fmt: skip
        steps.append(step)
        return step.loss

    def by_hand(rows):
        built = steps[0].mixtures.values()  # with a ratio of 1 nothing else is built
        priors = counts if compensated else [1, 1, 1]
        return logit_compensation_by_hand(logits.tolist(), y.tolist(), priors) + (
            mu
            * contrastive_by_hand(
                rows, [*y.tolist(), 0, 1, 2], *built, 0.3, weights, "weighted_mean", "mean"
            )
        )

    assert_same(actual, rows, by_hand)
    assert [built.first.shape for built in steps[0].mixtures.values()] == [(3, 3), (3, 4)]


# ---- the rebalanced dataset ----


@pytest.mark.parametrize("num, total", [(0, 1), (1, 7), (10, 40), (500, 7)])
def test_the_share_of_mixed_samples_grows_from_a_half_to_one(num, total):
    assert losses.hard_ratio(total, total, start=0.2, end=0.6) == pytest.approx(0.6)
    for t in range(total + 1):
        share = losses.hard_ratio(t, total)
        num_samp, num_syn = losses.set_sizes(num, share)
        assert share == pytest.approx(0.5 + t / total * 0.5, rel=1e-12)
        assert num_samp + num_syn == num and abs(num_syn - share * num) <= 0.5


@quick
@given(rows_y=batches(), k=st.integers(1, 6))
def test_hard_mixup_mixes_only_the_k_hardest_rows_of_its_class(rows_y, k):
    extended, labels = extend(*rows_y)
    d_hat, y = extended.tolist(), labels.tolist()
    protos = d_hat[len(rows_y[1]) :]
    for sign, (hardness, is_candidate) in zip((-1, 1), candidates(extended, labels)):
        hard = losses.hard_samples(hardness, is_candidate, k=k)
        mixed = losses.hard_mixup(hard, 50)
        for c, proto in enumerate(protos):
            by_hand = {
                i: sign * dot(proto, z_i)
                for i, z_i in enumerate(d_hat)
                if (y[i] == c) == (sign == -1)
            }
            chosen = hard.rows[c, : hard.counts[c]].tolist()
            assert len(set(chosen)) == len(chosen) == min(k, len(by_hand))
            # values, not rows: of two equally hard rows either may be chosen
            top_k = sorted(by_hand.values(), reverse=True)[:k]
            assert [by_hand[i] for i in chosen] == pytest.approx(top_k, abs=1e-12)
            assert set(mixed.first[c].tolist() + mixed.second[c].tolist()) <= set(chosen)


def assert_uniform(rows, expected):
    """Exactly the expected rows are drawn, equally often within 5 standard deviations."""
    seen, n, p = Counter(rows.tolist()), len(rows), 1 / len(expected)
    assert set(seen) == set(expected)
    assert max(abs(count - n * p) for count in seen.values()) <= 5 * math.sqrt(n * p * (1 - p))


def test_every_candidate_is_drawn_equally_often_and_prototypes_are_among_them():
    extended, labels = extend(*batch([0, 0, 0, 1], 3))  # 4, 5, 6: prototypes
    members = [[0, 1, 2, 4], [3, 5], [6]]
    others = [[3, 5, 6], [0, 1, 2, 4, 6], [0, 1, 2, 3, 4, 5]]
    for sets, (hardness, is_candidate) in zip((members, others), candidates(extended, labels)):
        drawn = losses.simple_sampling(is_candidate, 20_000)
        mixed = losses.hard_mixup(losses.hard_samples(hardness, is_candidate), 20_000)
        assert (drawn.first == drawn.second).all() and (drawn.weight == 1).all()
        for c, expected in enumerate(sets):
            assert_uniform(drawn.first[c], expected)
            # the two rows of a mixture are drawn independently: all pairs are equally likely
            assert_uniform(
                10 * mixed.first[c] + mixed.second[c],
                [10 * i + j for i in expected for j in expected],
            )


@pytest.mark.parametrize("lam", [0.5, 1.0, 8.0])
def test_mixing_weights_have_the_mean_and_variance_of_beta(lam):
    torch.manual_seed(0)
    hard = losses.hard_samples(torch.randn(2, 5), torch.ones(2, 5, dtype=torch.bool))
    weight = losses.hard_mixup(hard, 50_000, lam=lam).weight
    assert 0 <= weight.min() and weight.max() <= 1
    assert weight.mean().item() == pytest.approx(0.5, abs=0.01)
    assert weight.var().item() == pytest.approx(1 / (4 * (2 * lam + 1)), rel=0.03)


# ---- robustness ----

X = torch.randn(6, 8, generator=torch.Generator().manual_seed(1))
FEATURES = {
    "random": X,
    "zero": 0 * X,
    "one zero row": torch.cat([X[:5], 0 * X[:1]]),
    "identical": X[:1].expand(6, 8),
    "opposite": torch.cat([X[:3], -X[:3]]),
    "huge": 1e30 * X,
    "tiny": 1e-30 * X,
    "subnormal": 1e-40 * X,
}
LABELS = {
    "a missing class": ([0, 0, 0, 1, 1, 0], 4),
    "one-member classes": ([0, 1, 2, 3, 4, 5], 6),
    "one text": ([1], 2),
}


def as_dtype(x, dtype):
    limit = torch.finfo(dtype).max
    return x.clamp(-limit, limit).to(dtype).requires_grad_()


@pytest.mark.parametrize("dtype", [F32, torch.float16], ids=str)
@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("labels", LABELS)
def test_loss_and_gradient_are_finite_for_finite_features(labels, features, dtype):
    y, num_classes = LABELS[labels]
    # the last row, zero in "one zero row", is both the last text and a prototype
    rows = as_dtype(
        torch.cat([FEATURES[features][-len(y) :], FEATURES[features].flip(0)[:num_classes]]), dtype
    )
    torch.manual_seed(0)
    # the same rows as logits
    found = [losses.logit_compensation(rows, torch.arange(len(rows)) % 8, [1, 10**7] * 4)]
    for tau in (0.01, 10):
        for n_pos, n_neg in ((10, 50), (0, 5), (0, 0)):
            extended = extend(rows, torch.tensor(y))
            built = build(*extended, n_pos, n_neg)
            found.append(losses.rebalanced_contrastive(*extended, *built, temperature=tau))
    for loss in found:
        assert loss.dtype == F32 and loss.isfinite()
        assert torch.autograd.grad(loss, rows)[0].isfinite().all()


@pytest.mark.parametrize("scale", [1e-30, 1e-10, 1e10, 1e30])
def test_rows_of_any_size_come_out_with_unit_length(scale):
    extended, _ = extend(scale * X, torch.tensor([0, 1, 1, 0]))
    torch.testing.assert_close(extended, torch.nn.functional.normalize(X, dim=1))


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
def test_opposite_rows_mixed_half_and_half_are_finite_and_far_from_every_anchor(dtype):
    rows = torch.cat([X[:1], -X[:1], X[2:4]]).to(dtype).requires_grad_()
    extended, labels = extend(rows, torch.tensor([0, 0]))
    pair = torch.zeros(2, 1, dtype=torch.int64)
    built = losses.Built(pair, pair + 1, torch.full((2, 1), 0.5))
    loss = losses.rebalanced_contrastive(extended, labels, built, built, temperature=0.01)
    assert loss.isfinite() and torch.autograd.grad(loss, rows)[0].isfinite().all()
    similarity = losses.built_similarity((extended @ extended.T).detach(), built, labels)
    torch.testing.assert_close(similarity, torch.zeros_like(similarity), rtol=0, atol=1e-3)


@pytest.mark.parametrize("tau", [0.01, 0.5])
def test_autocast_changes_nothing_and_lower_precision_little(tau):
    rows, y = batch([0, 0, 1, 2], 3)
    logits, counts, built = 5 * rows[:4, :3], torch.tensor([50, 5, 1]), build(*extend(rows, y))

    def both(dtype):
        cls = losses.logit_compensation(logits.to(dtype), y, counts)
        extended = extend(rows.to(dtype), y)
        return torch.stack(
            [cls, losses.rebalanced_contrastive(*extended, *built, temperature=tau)]
        ).double()

    exact = both(F64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for dtype, rtol in ((F32, 1e-5), (torch.bfloat16, 0.05), (torch.float16, 0.01)):
            torch.testing.assert_close(both(dtype), exact, rtol=rtol, atol=0)


# ---- errors ----

Y, COUNTS = torch.tensor([0, 1, 1, 0, 0, 1]), torch.tensor([5, 3])
EXTENDED, _ = losses.extend(X[:4], Y[:4], X[4:])  # its labels are Y
torch.manual_seed(0)
POSITIVES, NEGATIVES = build(EXTENDED, Y, 2, 3)
IS_MEMBER = losses.membership(Y, 2)
SIMILARITY = EXTENDED[4:] @ EXTENDED.T
NAN = X.where(X < X.max(), math.nan)


def cls(logits=X[:, :2], labels=Y, class_counts=COUNTS):
    return losses.logit_compensation(logits, labels, class_counts)


def d_hat(z=X, labels=Y, prototypes=X[:2]):
    return losses.extend(z, labels, prototypes)


def cl(extended=EXTENDED, labels=Y, positives=POSITIVES, negatives=NEGATIVES, **kwargs):
    return losses.rebalanced_contrastive(extended, labels, positives, negatives, **kwargs)


def mixed(num=3, **kwargs):
    return losses.hard_mixup(losses.hard_samples(SIMILARITY, IS_MEMBER), num, **kwargs)


def part(built, classes=2, samples=9):
    return losses.Built(*(tensor[:classes, :samples] for tensor in built))


def moved(built, rows):
    return built._replace(first=built.first + rows)


WRONG = [  # argument, call
    *(("labels", partial(cls, labels=bad)) for bad in (Y - 1, Y + 1, Y.int(), Y[:-1], [0.5])),
    *(("labels", partial(call, labels=Y[:-1])) for call in (d_hat, cl)),
    *(("logits", partial(cls, bad)) for bad in (NAN, X[:, 0], X.long(), X[:0], [[0.5]])),
    ("logits", partial(cls, X.where(X < X.max(), math.inf))),
    ("z", partial(d_hat, NAN)),
    ("prototypes", partial(d_hat, prototypes=NAN)),
    ("prototypes", partial(d_hat, prototypes=X[:2, :3])),
    *(
        ("class_counts", partial(cls, class_counts=bad))
        for bad in ([5, 0], [5], [5, 3, 1], [[5, 3]], [5, math.inf], [5, math.nan], [], None, "ab")
    ),
    ("class_counts", partial(losses.class_weights, [5, 0])),
    ("class_counts", partial(losses.class_weights, [[5], [3, 1]])),
    ("scheme", partial(losses.class_weights, COUNTS, "inverse")),
    *(("temperature", partial(cl, temperature=bad)) for bad in (0, -1, math.nan, math.inf)),
    ("reduction", partial(cl, reduction="none")),
    ("over_positives", partial(cl, over_positives="none")),
    ("weights", partial(cl, weights=torch.zeros(2))),
    ("weights", partial(cl, weights=torch.ones(1))),
    ("weights", partial(cl, weights=torch.tensor([1, math.nan]))),
    ("extended", partial(cl, NAN)),
    ("extended", partial(cl, 2 * EXTENDED)),  # its rows have no unit length
    ("extended", partial(cl, X[:1], Y[:1], *[part(NEGATIVES, samples=0)] * 2)),  # no target
    ("positives", partial(cl, positives=moved(POSITIVES, 6))),  # rows that are not there
    ("positives", partial(cl, positives=POSITIVES._replace(weight=POSITIVES.weight[:, :1]))),
    ("negatives", partial(cl, negatives=moved(NEGATIVES, -6))),
    ("negatives", partial(cl, negatives=part(NEGATIVES, classes=1))),
    ("k", partial(losses.hard_samples, SIMILARITY, IS_MEMBER, k=0)),
    ("hardness", partial(losses.hard_samples, SIMILARITY[:, :5], IS_MEMBER)),
    ("hardness", partial(losses.hard_samples, math.nan * SIMILARITY, IS_MEMBER)),
    ("is_candidate", partial(losses.hard_samples, SIMILARITY[:, :1], IS_MEMBER[:, :1])),
    ("is_candidate", partial(losses.simple_sampling, IS_MEMBER[:, :1], 3)),
    *(("lam", partial(mixed, lam=bad)) for bad in (0, -1, math.nan)),
    ("num", partial(mixed, -1)),
    ("num", partial(losses.simple_sampling, IS_MEMBER, -1)),
    ("num", partial(losses.set_sizes, -1, 0.5)),
    ("ratio", partial(losses.set_sizes, 10, 1.5)),
]


@pytest.mark.parametrize("name, call", WRONG)
def test_a_wrong_argument_is_refused_in_one_line_that_names_it(name, call):
    with pytest.raises(ValueError, match=rf"\A(\w+, )*{name}(, \w+)*: expected .+\Z"):
        call()


# ---- class weights ----

SIZES = [1000, 100, 10]


def normalised(weights):
    return [len(weights) * weight / sum(weights) for weight in weights]


@pytest.mark.parametrize(
    "scheme, expected",
    [
        ("log_prior", [math.log(1110 / n) for n in SIZES]),
        # 1 + b + ... + b^(n-1) is the (1 - b^n) / (1 - b) of the effective number
        ("effective_number", normalised([1 / sum(0.9999**j for j in range(n)) for n in SIZES])),
        ("none", [1, 1, 1]),
    ],
)
def test_class_weights_equal_the_worked_values(scheme, expected):
    assert losses.class_weights(SIZES, scheme).tolist() == pytest.approx(expected, rel=1e-5)


def test_under_the_weighted_mean_the_log_prior_its_negative_and_any_multiple_are_one_loss():
    weights = losses.class_weights(COUNTS)
    for same in (3 * weights, -weights):
        torch.testing.assert_close(cl(weights=same), cl(weights=weights))


# ---- what it costs, and what it needs ----


class Launches(TorchDispatchMode):
    """Counts the operators that are more than a view: on a GPU each launches a kernel or more."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def test_a_step_of_the_loss_takes_few_operators_and_never_waits_for_a_gpu(monkeypatch):
    # a tensor on "meta" has no values, so whatever asks for one fails, as it would wait on a GPU;
    # autocast does not know "meta"
    monkeypatch.setattr(losses, "no_autocast", lambda x: contextlib.nullcontext())
    labels = torch.empty(256, dtype=torch.int64, device="meta")
    logits, projected, prototypes = (
        torch.empty(shape, device="meta", requires_grad=True)
        for shape in ((256, 52), (256, 128), (52, 128))
    )
    with Launches() as launches:
        step = losses.sharprecl(logits, labels, range(1, 53), projected, prototypes, 0.75)
        step.loss.backward()
    assert launches.count <= 200  # 257 with a mask of (N, N) for the positives


def test_losses_imports_nothing_but_torch_math_and_typing():
    nodes = list(ast.walk(ast.parse(Path(losses.__file__).read_text())))
    modules = [node.module for node in nodes if isinstance(node, ast.ImportFrom)]
    modules += [a.name for node in nodes if isinstance(node, ast.Import) for a in node.names]
    assert {module.split(".")[0] for module in modules} == {"torch", "math", "typing"}

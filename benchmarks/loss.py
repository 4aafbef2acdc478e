"""
The rebalanced contrastive loss, forward and backward, from projected texts to gradients, beside

    loop          a Python loop over the classes, written from Eqs. 8 to 11 as they stand
    materialised  the same samples as ours, but built as vectors: a (C, M, D) tensor
    SupCon        pytorch-metric-learning's SupConLoss on the same texts and prototypes, without
                  built samples: another loss, a yardstick of speed. Where it is installed:
                  pip install --no-deps pytorch-metric-learning

    python benchmarks/loss.py
    python benchmarks/loss.py --growth tables/loss_growth.png     # over C and B as well, plotted
"""

import math

import torch
import torch.nn.functional as F
from measure import finish, interleaved, parse, peak_memory, ratios, spread, table
from torch import Tensor

import losses

RATIO, TEMPERATURE, K, LAM = 0.75, 0.5, 20, 0.5
N_POS, N_NEG = 10, 500


def problem(num_classes: int, batch: int, dim: int, device: str) -> tuple[Tensor, ...]:
    """Projected texts of two views, their labels, prototypes, class counts: seeded noise."""
    torch.manual_seed(0)
    z, prototypes = torch.randn(2 * batch, dim), torch.randn(num_classes, dim)
    labels = torch.randint(num_classes, (batch,)).repeat(2)
    counts = torch.randint(1, 1000, (num_classes,))
    return (
        z.to(device).requires_grad_(),
        labels.to(device),
        prototypes.to(device).requires_grad_(),
        counts,
    )


def build(extended: Tensor, labels: Tensor, num_classes: int) -> tuple[losses.Built, losses.Built]:
    """D_tilde+ and D_tilde- of Algorithm 1, lines 6 to 10."""
    samp_pos, syn_pos = losses.set_sizes(N_POS, RATIO)
    samp_neg, syn_neg = losses.set_sizes(N_NEG, RATIO)
    is_member = losses.membership(labels, num_classes)
    similarity = extended[-num_classes:] @ extended.T
    positives = losses.union(
        losses.simple_sampling(is_member, samp_pos),
        losses.hard_mixup(losses.hard_samples(-similarity, is_member, k=K), syn_pos, lam=LAM),
    )
    negatives = losses.union(
        losses.simple_sampling(~is_member, samp_neg),
        losses.hard_mixup(losses.hard_samples(similarity, ~is_member, k=K), syn_neg, lam=LAM),
    )
    return positives, negatives


def ours(z: Tensor, labels: Tensor, prototypes: Tensor, counts: Tensor) -> Tensor:
    extended, labels = losses.extend(z, labels, prototypes)
    positives, negatives = build(extended, labels, len(prototypes))
    return losses.rebalanced_contrastive(
        extended,
        labels,
        positives,
        negatives,
        temperature=TEMPERATURE,
        weights=losses.class_weights(counts),
    )


def vectors(extended: Tensor, built: losses.Built) -> Tensor:
    """The built samples themselves, (C, M, D)."""
    weight = built.weight.unsqueeze(-1)
    return F.normalize(
        weight * extended[built.first] + (1 - weight) * extended[built.second], dim=-1
    )


def materialised(z: Tensor, labels: Tensor, prototypes: Tensor, counts: Tensor) -> Tensor:
    extended, labels = losses.extend(z, labels, prototypes)
    positives, negatives = build(extended, labels, len(prototypes))
    samples = vectors(extended, losses.union(positives, negatives))  # (C, M, D)
    to_built = torch.einsum("nd,nmd->nm", extended, samples[labels])  # (N, M)
    return eq_11(extended @ extended.T, labels, to_built, counts)


def eq_11(gram: Tensor, labels: Tensor, to_built: Tensor, counts: Tensor) -> Tensor:
    """Eq. (11) from all similarities; the first N_POS built samples are positives."""
    is_self = torch.eye(len(gram), dtype=torch.bool, device=gram.device)
    is_positive = (labels[:, None] == labels) & ~is_self
    logits = torch.cat([gram.masked_fill(is_self, -math.inf), to_built], dim=1) / TEMPERATURE
    log_p = logits - logits.logsumexp(dim=1, keepdim=True)
    is_positive = F.pad(is_positive, (0, N_POS), value=True)
    is_positive = F.pad(is_positive, (0, N_NEG), value=False)
    per_anchor = -log_p.where(is_positive, 0.0).sum(dim=1) / is_positive.sum(dim=1)
    weights = losses.class_weights(counts).to(gram)[labels]
    return (weights * per_anchor).sum() / weights.sum()


def one_set(extended: Tensor, candidates: Tensor, hardness: Tensor, num: int) -> Tensor:
    """The built samples of one class, positives or negatives, Eqs. (8) to (10): (num, D)."""
    samp, syn = losses.set_sizes(num, RATIO)
    simple = candidates[torch.randint(len(candidates), (samp,), device=candidates.device)]
    hard = candidates[hardness[candidates].topk(min(K, len(candidates))).indices]
    i, j = (hard[torch.randint(len(hard), (syn,), device=hard.device)] for _ in range(2))
    lam = torch.full((syn, 1), LAM, device=hard.device)
    alpha = torch.distributions.Beta(lam, lam).sample()
    mixed = F.normalize(alpha * extended[i] + (1 - alpha) * extended[j], dim=1)
    return torch.cat([extended[simple], mixed])


def loop(z: Tensor, labels: Tensor, prototypes: Tensor, counts: Tensor) -> Tensor:
    extended = F.normalize(torch.cat([z, prototypes]), dim=1)
    classes = torch.arange(len(prototypes), device=labels.device)
    labels, weights = torch.cat([labels, classes]), losses.class_weights(counts).to(z)
    gram, total = extended @ extended.T, 0.0
    for c in range(len(prototypes)):
        similarity = extended.detach() @ extended[len(z) + c].detach()
        members, others = (labels == c).nonzero()[:, 0], (labels != c).nonzero()[:, 0]
        positives = one_set(extended, members, -similarity, N_POS)
        negatives = one_set(extended, others, similarity, N_NEG)
        logits = (
            torch.cat(
                [gram[members], extended[members] @ positives.T, extended[members] @ negatives.T],
                dim=1,
            )
            / TEMPERATURE
        )
        is_self = torch.zeros_like(logits, dtype=torch.bool)
        is_self[torch.arange(len(members)), members] = True
        is_positive = torch.zeros_like(is_self)
        is_positive[:, members] = True
        is_positive[:, len(gram) : len(gram) + N_POS] = True
        is_positive &= ~is_self
        log_p = logits - logits.masked_fill(is_self, -math.inf).logsumexp(dim=1, keepdim=True)
        per_anchor = -log_p.where(is_positive, 0.0).sum(dim=1) / is_positive.sum(dim=1)
        total = total + weights[c] * per_anchor.sum()
    return total / weights[labels].sum()


def supcon():
    """The form of SupConLoss; None where its package is not installed."""
    try:
        from pytorch_metric_learning.losses import SupConLoss
    except ImportError:
        print("without SupCon: pip install --no-deps pytorch-metric-learning")
        return None
    loss = SupConLoss(temperature=TEMPERATURE)

    def form(z: Tensor, labels: Tensor, prototypes: Tensor, counts: Tensor) -> Tensor:
        classes = torch.arange(len(prototypes), device=labels.device)
        return loss(torch.cat([z, prototypes]), torch.cat([labels, classes]))

    return form


def gradients(form, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Loss, and its gradient by texts and prototypes; the same draws for whoever draws alike."""
    torch.manual_seed(1)
    loss = form(*inputs)
    return loss.detach(), *torch.autograd.grad(loss, [inputs[0], inputs[2]])


def growth(args) -> dict:
    """Milliseconds and MiB of ours over C at B = 128, and over B at C = 52."""
    found = {"C": {}, "B": {}}
    for axis, sizes in {
        "C": (2, 6, 20, 52, 150, 400, 1000),
        "B": (32, 64, 128, 256, 512, 1024),
    }.items():
        for size in sizes:
            inputs = problem(*((size, 128) if axis == "C" else (52, size)), args.dim, args.device)
            form = {"ours": lambda: gradients(ours, inputs)}
            seconds = interleaved(form, args.repeats, args.device, args.clock)["ours"]
            memory = peak_memory(lambda: gradients(ours, inputs), args.device)
            found[axis][size] = {"milliseconds": [1e3 * s for s in seconds], "MiB": memory / 2**20}
    return found


def plot(found: dict, path: str) -> None:
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 2, figsize=(7, 2.6), sharey=True, layout="constrained")
    titles = {"C": "classes C, at B = 128", "B": "texts B in two views, at C = 52"}
    for panel, (axis, points) in zip(panels, found.items()):
        middle = [
            sorted(point["milliseconds"])[len(point["milliseconds"]) // 2]
            for point in points.values()
        ]
        panel.loglog(list(points), middle, "o-", color="#4477aa", markersize=4, label="ms a step")
        panel.loglog(
            list(points),
            [point["MiB"] for point in points.values()],
            "s--",
            color="#ee6677",
            markersize=4,
            label="peak MiB",
        )
        ticks = (1, 3, 10, 30, 100, 300, 1000)
        panel.set(
            xlabel=titles[axis],
            xticks=list(points),
            xticklabels=list(points),
            yticks=ticks,
            yticklabels=ticks,
            ylim=(2, 300),
        )
        panel.minorticks_off()
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    args = parse(
        __doc__,
        ("--classes", {"type": int, "default": 52}),
        ("--batch", {"type": int, "default": 128, "help": "texts, each in two views"}),
        ("--dim", {"type": int, "default": 128}),
        ("--growth", {"metavar": "FILE", "help": "measure over C and B, and plot it"}),
    )
    inputs = problem(args.classes, args.batch, args.dim, args.device)
    forms = {
        name: lambda form=form: gradients(form, inputs)
        for name, form in (
            ("ours", ours),
            ("materialised", materialised),
            ("loop", loop),
            ("SupCon", supcon()),
        )
        if form is not None
    }
    pairs = zip(forms["ours"](), forms["materialised"]())
    worst = max(((a - b).abs().max() / b.abs().max()).item() for a, b in pairs)
    seconds = interleaved(forms, args.repeats, args.device, args.clock)
    memory = {name: peak_memory(form, args.device) for name, form in forms.items()}
    rows = [
        [
            name,
            spread([1e3 * s for s in seconds[name]], unit=" ms"),
            spread(ratios(seconds, name, "ours")),
            f"{memory[name] / 2**20:.1f} MiB",
            f"{memory[name] / memory['ours']:.1f}",
        ]
        for name in forms
    ]
    text = (
        f"C = {args.classes}, B = {args.batch} in two views, d = {args.dim}, {N_POS} and "
        f"{N_NEG} built samples; forward and backward\n\n"
        + table(["", "time", "× ours", "peak memory", "× ours"], rows)
        + f"\n\nours and materialised, on the same samples, differ by {worst:.1e} of the "
        "largest entry, in value and gradients"
    )
    numbers = {"seconds": seconds, "peak_bytes": memory, "difference": worst}
    if args.growth:
        numbers["growth"] = growth(args)
        plot(numbers["growth"], args.growth)
        text += "\n\n" + "\n\n".join(
            table(
                [axis, "time", "peak memory"],
                [
                    [
                        str(size),
                        spread(point["milliseconds"], unit=" ms"),
                        f"{point['MiB']:.0f} MiB",
                    ]
                    for size, point in points.items()
                ],
            )
            for axis, points in numbers["growth"].items()
        )
    finish(args, text, numbers)


if __name__ == "__main__":
    main()

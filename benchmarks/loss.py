"""
Times the rebalanced contrastive loss, forward and backward, from projected texts to gradients, and
for comparison SupConLoss of pytorch-metric-learning on the same texts and prototypes, another loss
without built samples (pip install --no-deps pytorch-metric-learning).

    python benchmarks/loss.py
    python benchmarks/loss.py --classes 1000
"""

from functools import partial

import torch
from measure import compare, parse
from torch import Tensor

import losses

TEMPERATURE, N_POS, N_NEG = 0.5, 10, 500


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


def ours(z: Tensor, labels: Tensor, prototypes: Tensor, counts: Tensor) -> Tensor:
    """Our loss as main.py calls it; the classification loss on zeros takes almost no time."""
    logits = torch.zeros(len(labels), len(prototypes), device=z.device)
    sizes = {"n_pos": N_POS, "n_neg": N_NEG, "temperature": TEMPERATURE}
    return losses.sharprecl(logits, labels, counts, z, prototypes, 0.75, **sizes).loss_cl


def supcon():
    """SupConLoss with the arguments of ours; None if its package is not installed."""
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
    """The gradients with respect to texts and prototypes."""
    return torch.autograd.grad(form(*inputs), [inputs[0], inputs[2]])


def main() -> None:
    args = parse(
        __doc__,
        ("--classes", {"type": int, "default": 52}),
        ("--batch", {"type": int, "default": 128, "help": "texts, each in two views"}),
        ("--dim", {"type": int, "default": 128}),
    )
    inputs = problem(args.classes, args.batch, args.dim, args.device)
    kinds = {"ours": ours, "SupCon": supcon()}
    forms = {name: partial(gradients, form, inputs) for name, form in kinds.items() if form}
    about = (
        f"C = {args.classes}, B = {args.batch} in two views, d = {args.dim}, {N_POS} and "
        f"{N_NEG} built samples; forward and backward"
    )
    compare(args, forms, about, ["ours"])


if __name__ == "__main__":
    main()

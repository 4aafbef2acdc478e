"""
SharpReCL with one part changed that has no flag, trained by main.py as it is.

    python benchmarks/variants.py unit_logits=4 --dataset cr --ir 50 --val_left_out 200 --mu 0.3
    python -m reporting.study runs/variants/unit_logits=4 tables/variants/unit_logits=4/runs

The first argument names the variant, and its value where it has one; the rest is main.py's. Each
variant has its own folder in runs/variants; a run in it does not know that a part was changed.

    unit_logits=S     logits of length S, S phi / |phi|: the authors' code with S = 1
    dropout=P         dropout before the classifier, as the other methods have it
    detached          no gradient from the prototypes to the classifier
    mu_warmup=P       mu grows from 0 over this share of the steps
    weighted_ce       weights N / (C n_y) in place of the shift by log P_y in Eq. (6)
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch.nn.functional as F  # noqa: E402

import losses  # noqa: E402
import main  # noqa: E402
from baselines.losses import balanced_weights  # noqa: E402
from model import SharpReCL  # noqa: E402

paper = main.objective


def unit_logits(scale: str) -> None:
    SharpReCL.classify = lambda self, feat: float(scale) * F.normalize(self.phi(feat))


def dropout(rate: str) -> None:
    SharpReCL.classify = lambda self, feat: self.phi(F.dropout(feat, float(rate), self.training))


def detached(_: str) -> None:
    SharpReCL.prototypes = lambda self: self.proj_h(self.phi.weight.detach())


def mu_warmup(share: str) -> None:
    def objective(model, feat, labels, class_counts, ratio, args):
        step = paper(model, feat, labels, class_counts, ratio, args)
        done = (ratio - args.hard_ratio_start) / (args.hard_ratio_end - args.hard_ratio_start)
        mu = args.mu * min(1.0, done / float(share))
        return step._replace(loss=step.loss_cls + mu * step.loss_cl)

    main.objective = objective


def weighted_ce(_: str) -> None:
    losses.logit_compensation = lambda logits, labels, class_counts: F.cross_entropy(
        logits, labels, weight=balanced_weights(class_counts).to(logits)
    )


VARIANTS = {
    "unit_logits": unit_logits,
    "dropout": dropout,
    "detached": detached,
    "mu_warmup": mu_warmup,
    "weighted_ce": weighted_ce,
}


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1].partition("=")[0] not in VARIANTS:
        print(__doc__)
        print(f"error: the first argument names one of: {' '.join(VARIANTS)}", file=sys.stderr)
        sys.exit(2)
    name, _, value = sys.argv[1].partition("=")
    VARIANTS[name](value)
    sys.exit(main.main([*sys.argv[2:], "--output_dir", f"runs/variants/{sys.argv[1]}"]))

"""
Diagnostics of SharpReCL, measured once per epoch: the strength of each branch, and signs of
failures.
"""

import contextlib
import time
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

import losses
from engine.files import diverged
from engine.loader import check_finite
from model import Method, SharpReCL


def gradient_shares(loss_cls: Tensor, loss_cl: Tensor, feat: Tensor) -> dict[str, float]:
    """
    The share of each branch in the gradient norm at feat; empty if all layers of the encoder are
    frozen, because no gradient reaches it.

    loss_cls, loss_cl  the two weighted terms of Eq. (12)
    feat               (2B, h), the features that both were computed from
    """
    if not feat.requires_grad:
        return {}

    def length(loss: Tensor) -> float:
        (gradient,) = torch.autograd.grad(loss, feat, retain_graph=True, allow_unused=True)
        return 0.0 if gradient is None else gradient.norm().item()

    cls, cl = length(loss_cls), length(loss_cl)
    total = cls + cl or 1.0
    return {"gradient_share_cls": cls / total, "gradient_share_cl": cl / total}


@torch.no_grad()
def prototype_signs(
    extended: Tensor, labels: Tensor, class_sums: Tensor, mixtures: dict[str, losses.Built]
) -> dict[str, float]:
    """
    prototype_cosine, between a prototype and the epoch's mean text of its class, shows drift.
    mixing_std, the spread of the mixing coefficients, and mixed_to_prototype, the mean similarity
    of mixed samples to the prototype of their class, show collapse.

    extended    (N, D)  D_hat of the last step, the C prototypes last
    labels      (N,)    of D_hat
    class_sums  (C, D)  sum of the projected texts of each class over the epoch
    mixtures            mixed samples of the last step, by name ("pos", "neg")
    """
    num_classes = len(class_sums)
    prototypes = extended[-num_classes:]
    seen = class_sums.norm(dim=1) > 0
    cosine = F.cosine_similarity(prototypes, class_sums, dim=1)[seen]
    result = {"prototype_cosine": cosine.mean().item(), "prototype_cosine_min": cosine.min().item()}
    gram = extended @ extended.T
    for name, mixed in mixtures.items():
        if mixed.weight.shape[1] > 0:
            similarity = losses.built_similarity(gram, mixed, labels)[-num_classes:]
            result[f"mixing_std_{name}"] = mixed.weight.std().item()
            result[f"mixed_to_prototype_{name}"] = similarity.mean().item()
    return result


class EpochLog:
    """
    Collects the record of an epoch: its mean losses, its speed, and at the last step the
    diagnostics of SharpReCL.
    """

    def __init__(
        self,
        model: Method,
        num_classes: int,
        epoch: int,
        *,
        num_epochs: int,
        mu: float,
        device: torch.device,
    ):
        """mu is the weight of the contrastive loss, Eq. (12)."""
        self.model, self.epoch, self.num_epochs, self.mu = model, epoch, num_epochs, mu
        self.sums = torch.zeros(3, device=device)  # of loss, loss_cls, loss_cl
        self.num_classes = num_classes
        self.texts = self.steps = 0
        self.start = time.perf_counter()
        self.inside: dict = {}

    def over(self, batches: list[np.ndarray]) -> Iterator[np.ndarray]:
        """Yields the batches with a progress bar."""
        self.num_steps = len(batches)
        self.bar = tqdm(batches, f"epoch {self.epoch}/{self.num_epochs}", leave=False)
        return iter(self.bar)

    @contextlib.contextmanager
    def watching(self, feat: Tensor) -> Iterator[None]:
        """
        Wraps the losses of a step: if a feature or an input of a loss is not finite, the error
        names the step. On a GPU a check of features would force a sync, so there add() checks.
        """
        self.when = f"at step {self.steps + 1}, in epoch {self.epoch}"
        if feat.device.type == "cpu":
            check_finite({"the features": feat}, self.when)
        try:
            yield
        except losses.NotFinite as error:
            raise diverged(str(error), self.when) from error

    def add(self, step, feat: Tensor, labels: Tensor, num_texts: int, lr: float) -> None:
        """
        Adds one step; to be called before backward(), which frees the graph.

        step    losses.Step, or base.Losses of another method
        feat    (V B, h)   of the views of num_texts texts; labels (V B,)
        """
        self.steps, self.texts, self.lr = self.steps + 1, self.texts + num_texts, lr
        is_last = self.steps == self.num_steps
        self.sums += torch.stack([step.loss, step.loss_cls, step.loss_cl]).detach()
        if isinstance(self.model, SharpReCL):
            projected = step.extended[: len(labels)].detach()
            if self.steps == 1:
                self.class_sums = projected.new_zeros(self.num_classes, projected.shape[1])
            self.class_sums.index_add_(0, labels, projected)
            if is_last:
                shares = gradient_shares(step.loss_cls, self.mu * step.loss_cl, feat)
                self.inside = shares | prototype_signs(
                    step.extended, step.labels, self.class_sums, step.mixtures
                )
        syncs = is_last or self.steps % 10 == 0  # reading a loss forces a GPU sync
        if syncs or feat.device.type == "cpu":
            check_finite({"the losses": self.sums, **self.inside}, self.when)
        if syncs:
            _, loss_cls, loss_cl = (self.sums / self.steps).tolist()
            self.bar.set_postfix_str(
                f"cls {loss_cls:.3f}, cl {loss_cl:.3f}, lr {lr:.1e}, {self.speed():.0f} texts/s"
            )

    def speed(self) -> float:
        return self.texts / (time.perf_counter() - self.start)

    def record(self) -> dict:
        """The numbers of the whole epoch."""
        loss, loss_cls, loss_cl = (self.sums / self.steps).tolist()
        return {
            "epoch": self.epoch,
            "loss": loss,
            "loss_cls": loss_cls,
            "loss_cl": loss_cl,
            "lr": self.lr,
            "texts_per_second": round(self.speed(), 1),
            "diagnostics": self.inside,
        }

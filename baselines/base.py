"""
The base classes of the methods that SharpReCL is compared with: what they know of the data, how
they predict, and what a step returns.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from baselines import Constant
from model import Method, TextEncoder


@dataclass(frozen=True)
class Task:
    """What a method may need to know of the data and the run."""

    label_names: list[str]
    train_labels: np.ndarray  # (N,) int64
    class_counts: Tensor  # (C,) texts of each class in the training set
    tokenizer: object
    epochs: int
    batch_size: int


class Losses(NamedTuple):
    """The losses of one batch; `loss` is minimised, the others are its parts before weighting."""

    loss: Tensor
    loss_cls: Tensor
    loss_cl: Tensor


def weighted_sum(loss_cls: Tensor, loss_cl: Tensor, weight: float) -> Losses:
    """Weights the contrastive loss by `weight` and the classification loss by 1 - weight."""
    return Losses((1 - weight) * loss_cls + weight * loss_cl, loss_cls, loss_cl)


class Baseline(Method):
    """
    Dropout and a linear layer on feat (Section 3.3 of BERT's paper). A subclass sets `views` and
    `constants`, and defines the loss in losses(). State that outlives a batch (queues, targets,
    class centres) is in buffers, so that checkpoints have it.
    """

    views: tuple[str, ...] = ("original",)
    constants: dict[str, Constant] = {}  # with the official values; --constants changes them
    phi: nn.Linear

    def __init__(self, encoder: TextEncoder, task: Task, **constants: float):
        super().__init__(encoder)
        self.task = task
        self.h = encoder.backbone.config.hidden_size
        self.constant = {name: constant.default for name, constant in self.constants.items()}
        self.constant |= constants
        self.phi = nn.Linear(self.h, len(task.label_names))

    def classify(self, feat: Tensor) -> Tensor:
        return self.phi(F.dropout(feat, 0.1, self.training))

    def losses(self, feat: Tensor, labels: Tensor, epoch: int) -> Losses:
        """feat (V B, h) and labels (V B,) of the V views, view after view; epoch from 1."""
        raise NotImplementedError


class CrossEntropy(Baseline):
    """BERT (Devlin et al. 2019) or, with another encoder, RoBERTa (Liu et al. 2019)."""

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels)

    def losses(self, feat, labels, epoch):
        loss = self.loss(self.classify(feat), labels)
        return Losses(loss, loss, torch.zeros_like(loss))


@torch.no_grad()
def fit_balanced(linear: nn.Linear, feat: Tensor, labels: Tensor) -> None:
    """Fits a class-balanced logistic regression of labels (N,) on feat (N, h) into `linear`."""
    fitted = LogisticRegression(class_weight="balanced", max_iter=1000)
    fitted.fit(feat.cpu().numpy(), labels.cpu().numpy())
    weight, bias = torch.from_numpy(fitted.coef_), torch.from_numpy(fitted.intercept_)
    if len(weight) == 1:  # for two classes scikit-learn gives only the logit of the second
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    linear.weight.copy_(weight)
    linear.bias.copy_(bias)

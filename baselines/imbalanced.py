"""Imbalanced contrastive learning models (Appendix A.3), made for images and used here on texts."""

import math
from copy import deepcopy

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from baselines import at_least_0, losses, positive, share
from baselines.base import Baseline, CrossEntropy, Losses, fit_balanced, weighted_sum
from data import InputError
from losses import check_matrix, logit_compensation
from model import projection_head


class HybridSC(CrossEntropy):
    """
    Wang et al. 2021: the curriculum goes from supervised contrastive learning, on two views, to
    cross-entropy, on the original texts.

    alpha is the paper's, and needs a constant learning rate: over the run, cross-entropy gets a
    third of the total weight. If the rate falls to 0 (--schedule linear), it gets a sixth of the
    weight times the rate, and with warm-up 15 %.
    """

    views = ("original", "augmented")
    constants = {"temperature": positive(0.1), "proj_dim": positive(128)}

    def __init__(self, encoder, task, **constants):
        super().__init__(encoder, task, **constants)
        self.head = projection_head(self.h, self.constant["proj_dim"], batch_norm=False)

    def alpha(self, epoch: int) -> float:
        """Weight of the contrastive loss: 1 - (T / T_max)^2, 0 in the last epoch."""
        return 1 - (epoch / self.task.epochs) ** 2

    def losses(self, feat, labels, epoch):
        original = len(feat) // 2
        loss_cls = self.loss(self.classify(feat[:original]), labels[:original])
        tau = self.constant["temperature"]
        loss_cl = losses.supervised_contrastive(self.head(feat), labels, temperature=tau)
        return weighted_sum(loss_cls, loss_cl, self.alpha(epoch))


class BCL(Baseline):
    """
    Zhu et al. 2022: balanced contrastive loss on two second views, and logit-compensated
    cross-entropy on the original text. The constants are those for CIFAR-LT. The official heads
    have batch norm; here they have none, because over two class weights it is a sign function.
    """

    views = ("original", "augmented", "augmented again")
    constants = {
        "temperature": positive(0.1),
        "weight_cls": at_least_0(2.0),
        "weight": at_least_0(0.6),
        "proj_dim": positive(128),
    }
    compensated = True

    def __init__(self, encoder, task, **constants):
        super().__init__(encoder, task, **constants)
        proj_dim = self.constant["proj_dim"]
        self.head = projection_head(self.h, proj_dim, batch_norm=False)
        self.head_centres = projection_head(self.h, proj_dim, batch_norm=False)

    def losses(self, feat, labels, epoch):
        batch = len(feat) // 3
        logits = self.classify(feat[:batch])
        loss_cls = logit_compensation(logits, labels[:batch], self.task.class_counts)
        z, centres = self.head(feat[batch:]), self.head_centres(self.phi.weight)
        tau = self.constant["temperature"]
        loss_cl = losses.balanced_contrastive(z, labels[batch:], centres, temperature=tau)
        loss = self.constant["weight_cls"] * loss_cls + self.constant["weight"] * loss_cl
        return Losses(loss, loss_cls, loss_cl)


class TSC(Baseline):
    """
    Li et al. 2022: contrasts a text with a queue of keys from a momentum encoder, and with one
    target per class. The targets are uniform on the sphere, and are matched to the class centroids
    at each step; the first half of the epochs has none (KCL). The second stage, a class-balanced
    linear classifier on the frozen features, is fitted after each epoch.

    One difference: in a run of T steps the momentum is at most 1 - 10 / T, which averages over a
    tenth of the run. The official 0.999 averages over 1,000 steps: in a run of 140 steps the keys
    would move only 13 % of the way from the pretrained encoder. From 10,000 steps on both agree.
    """

    views = ("original", "augmented")
    constants = {
        "temperature": positive(0.07),
        "weight": at_least_0(0.2),
        "num_positives": positive(6),
        "queue": positive(4096),
        "momentum": share(0.999),
        "proj_dim": positive(128),
    }
    sees_features = True
    compensated = True
    training_only = ("key_encoder.",)
    targets: Tensor
    centroids: Tensor
    queue: Tensor
    queue_labels: Tensor
    seen: Tensor

    def __init__(self, encoder, task, **constants):
        super().__init__(encoder, task, **constants)
        num_classes, queue = len(task.label_names), self.constant["queue"]
        proj_dim = self.constant["proj_dim"]
        self.phi.requires_grad_(False)
        self.head = projection_head(self.h, proj_dim, batch_norm=False)
        self.key_encoder = deepcopy(encoder).requires_grad_(False)
        self.key_head = deepcopy(self.head).requires_grad_(False)
        if num_classes > proj_dim + 1:  # then uniform targets do not exist
            raise InputError(f"tsc: so many classes need --constants proj_dim={num_classes - 1}")
        self.register_buffer("targets", losses.simplex_targets(num_classes, proj_dim))
        self.register_buffer("centroids", F.normalize(torch.randn(num_classes, proj_dim), dim=1))
        self.register_buffer("queue", torch.zeros(queue, proj_dim))
        self.register_buffer("queue_labels", torch.zeros(queue, dtype=torch.int64))
        self.register_buffer("seen", torch.tensor(0))  # keys put into the queue so far

    def encode(self, forward, texts):
        """Encodes original texts with the encoder, augmented ones with its moving average."""
        original, augmented = np.split(np.arange(len(texts.lengths)), 2)
        with torch.no_grad():
            self.move_keys()
            key = forward(texts.take(augmented), self.key_encoder)
        return torch.cat([forward(texts.take(original)), key])

    def move_keys(self) -> None:
        momentum = self.momentum()
        for of_key, of_query in ((self.key_encoder, self.encoder), (self.key_head, self.head)):
            for slow, fast in zip(of_key.parameters(), of_query.parameters()):
                slow.lerp_(fast, 1 - momentum)

    def momentum(self) -> float:
        """The key encoder's momentum: it averages over at most a tenth of the run's steps."""
        task = self.task
        steps = task.epochs * math.ceil(len(task.train_labels) / task.batch_size)
        return min(self.constant["momentum"], max(0.0, 1 - 10 / steps))

    def losses(self, feat, labels, epoch):
        batch = len(feat) // 2
        query, labels = F.normalize(self.head(feat[:batch]), dim=1), labels[:batch]
        with torch.no_grad():
            key = F.normalize(self.key_head(feat[batch:]), dim=1)
        is_targeted = epoch > self.task.epochs // 2
        filled = min(int(self.seen), len(self.queue))
        loss = losses.targeted_contrastive(
            query,
            key,
            labels,
            self.queue[:filled].clone(),
            self.queue_labels[:filled],
            self.match(query.detach(), labels) if is_targeted else None,
            **{name: self.constant[name] for name in ("num_positives", "weight", "temperature")},
        )
        self.enqueue(key, labels)
        return Losses(loss, torch.zeros_like(loss), loss)

    @torch.no_grad()
    def match(self, query: Tensor, labels: Tensor) -> Tensor:
        """The target of each class, (C, D): the assignment closest to the updated centroids."""
        for label in labels.unique():
            mean = F.normalize(query[labels == label].mean(dim=0), dim=0)
            self.centroids[label] = F.normalize(0.9 * self.centroids[label] + 0.1 * mean, dim=0)
        cosines = (self.centroids @ self.targets.T).cpu()  # (C, C)
        check_matrix("the centroids", cosines)
        return self.targets[linear_sum_assignment(cosines.numpy(), maximize=True)[1]]

    @torch.no_grad()
    def enqueue(self, key: Tensor, labels: Tensor) -> None:
        place = (self.seen + torch.arange(len(key), device=key.device)) % len(self.queue)
        self.queue[place], self.queue_labels[place] = key, labels
        self.seen += len(key)

    def observe(self, feat, labels):
        fit_balanced(self.phi, feat, labels)

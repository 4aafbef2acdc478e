"""
The methods that SharpReCL is compared with, each as short as its paper allows. The loop, the data,
the evaluation, the results and the checkpoints are main.py's, the losses are in losses.py.

A method names the views of a text that a step encodes, and its own constants with their official
values (--constants changes them); losses() is its training objective, classify() its prediction.
What outlives a batch (queues, targets, class centres) is a buffer: every checkpoint has it.
"""
import inspect
from copy import deepcopy
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

import losses as L
from engine.files import InputError
from data import Tokens
from model import Method, SharpReCL, TextEncoder, first_position, projection_head


@dataclass(frozen=True)
class Task:
    """What a method may need to know of the data and the run."""
    label_names: list[str]
    train_labels: np.ndarray        # (N,) int64
    class_counts: Tensor            # (C,) texts of each class in the training set
    tokenizer: object
    epochs: int


class Losses(NamedTuple):
    """Of one batch; loss is what is minimised, the others are its parts before weighting."""
    loss: Tensor
    loss_cls: Tensor
    loss_cl: Tensor


def mixed(loss_cls: Tensor, loss_cl: Tensor, weight: float) -> Losses:
    """The contrastive loss with this weight, the classification loss with the rest of 1."""
    return Losses((1 - weight) * loss_cls + weight * loss_cl, loss_cls, loss_cl)


class Baseline(Method):
    """Dropout and a linear layer on feat, Section 3.3 of BERT's paper; the losses are to come."""
    views = ("original",)
    constants: dict[str, float] = {}

    def __init__(self, encoder: TextEncoder, task: Task, **constants: float):
        super().__init__(encoder)
        self.task = task
        self.h = encoder.backbone.config.hidden_size
        self.constant = {**self.constants, **constants}
        self.phi = nn.Linear(self.h, len(task.label_names))

    def classify(self, feat: Tensor) -> Tensor:
        return self.phi(F.dropout(feat, 0.1, self.training))

    def losses(self, feat: Tensor, labels: Tensor, epoch: int) -> Losses:
        """feat (V B, h) and labels (V B,) of the V views, view after view; epoch from 1."""


# ---- one classification loss ----


class CrossEntropy(Baseline):
    """BERT (Devlin et al. 2019), and with its encoder RoBERTa (Liu et al. 2019)."""

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels)

    def losses(self, feat, labels, epoch):
        loss = self.loss(self.classify(feat), labels)
        return Losses(loss, loss, torch.zeros_like(loss))


class Dice(CrossEntropy):
    """Li et al. 2020; constants of its text classification script."""
    constants = {"alpha": 0.01, "smooth": 1.0}

    def loss(self, logits, labels):
        return L.dice(logits, labels, **self.constant)


class Focal(CrossEntropy):
    """Lin et al. 2017, over a softmax, without class weights."""
    constants = {"gamma": 2.0}

    def loss(self, logits, labels):
        return L.focal(logits, labels, **self.constant)


class LogitAdjustment(CrossEntropy):
    """Menon et al. 2020, the adjusted loss; SharpReCL's Eq. (6) alone, on the original texts."""
    compensated = True

    def loss(self, logits, labels):
        return L.logit_compensation(logits, labels, self.task.class_counts)


class WeightedCrossEntropy(CrossEntropy):
    """Weights N / (C n_c), scikit-learn's "balanced"."""
    compensated = True

    def loss(self, logits, labels):
        weights = L.balanced_weights(self.task.class_counts).to(logits)
        return F.cross_entropy(logits, labels, weight=weights)


# ---- contrastive learning ----


class SimCSE(CrossEntropy):
    """
    Gao et al. 2021: each text twice, with two dropouts; their InfoNCE beside the cross-entropy of
    both. The paper of SharpReCL gives no weight for the sum.
    """
    views = ("original", "original")
    constants = {"temperature": 0.05, "weight": 0.1}

    def __init__(self, encoder, task, **constants):
        super().__init__(encoder, task, **constants)
        self.head = nn.Sequential(nn.Linear(self.h, self.h), nn.Tanh())

    def losses(self, feat, labels, epoch):
        loss_cls = self.loss(self.classify(feat), labels)
        loss_cl = L.info_nce(*self.head(feat).chunk(2), temperature=self.constant["temperature"])
        return mixed(loss_cls, loss_cl, self.constant["weight"])


class SCLCE(CrossEntropy):
    """Gunel et al. 2021, Eq. 1: supervised contrastive loss on feat itself, one view."""
    constants = {"temperature": 0.3, "weight": 0.9}

    def losses(self, feat, labels, epoch):
        loss_cls = self.loss(self.classify(feat), labels)
        loss_cl = L.supervised_contrastive(feat, labels, temperature=self.constant["temperature"])
        return mixed(loss_cls, loss_cl, self.constant["weight"])


class SPCL(Baseline):
    """
    Song et al. 2022: contrast with the batch and a prototype of each class, on a curriculum.

    A prototype is the mean of `support` random members of the class's pool of recent features, or,
    while the pool is smaller, the class centre. Pools start anew in each epoch. Prediction: the
    nearest class centre. The official code trains a linear head beside it, on detached features,
    that takes no part in training the encoder or in predicting: it is left out.
    """
    constants = {"temperature": 0.05, "pool": 256, "support": 64}
    sees_features = True
    compensated = True      # the nearest centre, however many texts it is the centre of

    def __init__(self, encoder, task, **constants):
        super().__init__(encoder, task, **constants)
        if self.constant["support"] > self.constant["pool"]:
            raise InputError(f"spcl: no pool of {self.constant['pool']} ever has the "
                             f"{self.constant['support']} members of a prototype: lower support "
                             "or raise pool with --constants")
        if not any(p.requires_grad for p in encoder.parameters()):
            raise InputError("spcl trains nothing but the encoder, and --freeze_layers "
                             f"{encoder.frozen_layers} leaves nothing of it to train: give fewer")
        self.phi = None
        self.register_buffer("centres", torch.zeros(len(task.label_names), self.h))     # (C, h)
        self.register_buffer("difficulty", torch.zeros(len(task.train_labels)))         # (N,)
        self.pools: list[Tensor] = []

    def observe(self, feat, labels):
        """The class centres, and how hard each text is: its own centre's share of all distances."""
        members = F.one_hot(labels, len(self.centres)).to(feat)                         # (N, C)
        self.centres = members.T @ feat / members.sum(dim=0)[:, None]
        distance = (1 - self.cosines(feat)) / 2 + 1e-8                                  # (N, C)
        self.difficulty = distance.gather(1, labels[:, None])[:, 0] / distance.sum(dim=1)

    def cosines(self, feat: Tensor) -> Tensor:
        return F.normalize(feat, dim=1) @ F.normalize(self.centres, dim=1).T

    def classify(self, feat):
        return (1 + self.cosines(feat)) / (2 * self.constant["temperature"])

    def keep_probability(self, epoch: int) -> Tensor:
        """
        Of each training text, (N,): from the easiest to the hardest it falls from 1 to 0 in the
        first epoch and rises from 0 to 1 towards the end; half of the texts are drawn in each.
        """
        done = (epoch - 1) / self.task.epochs
        rank = self.difficulty.argsort().argsort() / max(1, len(self.difficulty) - 1)
        return (1 - done) + (2 * done - 1) * rank

    def epoch_rows(self, epoch, num_texts):
        self.pools = list(self.centres[:, None].unbind())                           # C of (1, h)
        drawn = torch.bernoulli(self.keep_probability(epoch)).nonzero()[:, 0].cpu().numpy()
        return drawn if len(drawn) else super().epoch_rows(epoch, num_texts)

    def prototypes(self) -> Tensor:
        """T_k, (C, h)."""
        support = self.constant["support"]
        return torch.stack([
            pool[torch.randperm(len(pool), device=pool.device)[:support]].mean(dim=0)
            if len(pool) >= support else centre for pool, centre in zip(self.pools, self.centres)])

    def fill_pools(self, feat: Tensor, labels: Tensor) -> None:
        """Puts the batch into its classes' pools, which keep a random `pool` of their members."""
        for label in labels.unique().tolist():
            pool = torch.cat([self.pools[label], feat[labels == label].detach()])
            kept = torch.randperm(len(pool), device=pool.device)[:self.constant["pool"]]
            self.pools[label] = pool[kept]

    def losses(self, feat, labels, epoch):
        loss = L.prototypical_contrastive(feat, labels, self.prototypes(),
                                          temperature=self.constant["temperature"])
        self.fill_pools(feat, labels)
        return Losses(loss, torch.zeros_like(loss), loss)


class LabelAwareEncoder(TextEncoder):
    """DualCL: [CLS] l_1 .. l_C [SEP] text [SEP] -> (rows, 1 + C, h), the text, then the labels."""

    def __init__(self, encoder: TextEncoder, num_labels: int):
        super().__init__(encoder.backbone, encoder.pooling)
        self.num_labels = num_labels

    def forward(self, input_ids, attention_mask, words=None, states=None):
        column = torch.arange(attention_mask.shape[1], device=attention_mask.device)
        # The labels share a position, so that they have no order. It is the second: the official
        # code puts them on that of [CLS], where MiniLM takes whatever it reads for [CLS].
        position = column.clamp(max=1) + (column - self.num_labels).clamp(min=0)
        position = position + first_position(self.backbone)
        hidden = self.hidden(input_ids, attention_mask, words,
                             position_ids=position.expand_as(attention_mask))
        is_label = (column > 0) & (column <= self.num_labels)
        text = self.pool(hidden, attention_mask * ~is_label)                            # (rows, h)
        labels = hidden[:, 1:self.num_labels + 1]                                    # (rows, C, h)
        return torch.cat([text[:, None], labels], dim=1)                            # (rows, 1+C, h)


class DualCL(Baseline):
    """
    Chen et al. 2024: the labels stand before the text, and their states are the classifier of this
    text; dual contrastive loss between the texts and the states of their own labels.

    The official code takes the label's name as its token, which must be one word piece. Here each
    label has a token of its own, whose embedding starts as the mean of its name's pieces.
    """
    constants = {"temperature": 0.1, "weight": 0.5}
    extra_positions = 2     # one that the labels share, one of the second separator

    def __init__(self, encoder, task, **constants):
        backbone, names = encoder.backbone, task.label_names
        if ("position_ids" not in inspect.signature(backbone.forward).parameters
                or task.tokenizer.sep_token_id is None):
            raise InputError("dualcl sets the positions of its label tokens and needs a separator: "
                             f"not to be had with {backbone.config.model_type}, choose a BERT or "
                             "RoBERTa as --encoder")
        if encoder.frozen_layers > 0:
            raise InputError("dualcl learns an embedding of each label, and --freeze_layers keeps "
                             "the embeddings as they are: leave it out, or choose another --method")
        super().__init__(LabelAwareEncoder(encoder, len(names)), task, **constants)
        self.phi = None
        pieces = [task.tokenizer(name, add_special_tokens=False)["input_ids"]
                  or [task.tokenizer.unk_token_id] for name in names]
        if getattr(backbone.config, "label_tokens", None) != names:     # else it has them, trained
            vocabulary = backbone.get_input_embeddings().num_embeddings
            embedding = backbone.resize_token_embeddings(vocabulary + len(names),
                                                         mean_resizing=False)
            with torch.no_grad():
                for token, ids in enumerate(pieces, start=vocabulary):
                    embedding.weight[token] = embedding.weight[ids].mean(dim=0)
            backbone.config.label_tokens = names
        end = backbone.get_input_embeddings().num_embeddings
        self.label_ids = np.arange(end - len(names), end)

    def prepare(self, tokens):
        """[CLS] text [SEP] becomes [CLS] l_1 .. l_C [SEP] text [SEP]."""
        inserted = np.append(self.label_ids, self.task.tokenizer.sep_token_id)
        where = np.repeat(tokens.offsets[:-1] + 1, len(inserted))
        ids = np.insert(tokens.ids, where, np.tile(inserted, len(tokens.lengths)))
        offsets = tokens.offsets + len(inserted) * np.arange(len(tokens.offsets))
        return Tokens(ids.astype(np.int32), offsets, tokens.truncated)

    def classify(self, feat):
        return torch.einsum("bch,bh->bc", feat[:, 1:], feat[:, 0])

    def losses(self, feat, labels, epoch):
        theta = feat[torch.arange(len(labels), device=labels.device), 1 + labels]       # (B, h)
        loss_cls = F.cross_entropy(self.classify(feat), labels)
        loss_cl = L.dual_contrastive(feat[:, 0], theta, labels,
                                     temperature=self.constant["temperature"])
        return mixed(loss_cls, loss_cl, self.constant["weight"])


# ---- contrastive learning for imbalanced images, on texts ----


class HybridSC(CrossEntropy):
    """
    Wang et al. 2021: the curriculum goes from supervised contrastive learning, on two views, to
    cross-entropy, on the original texts.
    """
    views = ("original", "augmented")
    constants = {"temperature": 0.1, "proj_dim": 128}

    def __init__(self, encoder, task, **constants):
        super().__init__(encoder, task, **constants)
        self.head = projection_head(self.h, self.constant["proj_dim"], batch_norm=False)

    def alpha(self, epoch: int) -> float:
        """Weight of the contrastive loss: 1 - (T / T_max)^2, 0 in the last epoch."""
        return 1 - (epoch / self.task.epochs) ** 2

    def losses(self, feat, labels, epoch):
        original = len(feat) // 2
        loss_cls = self.loss(self.classify(feat[:original]), labels[:original])
        loss_cl = L.supervised_contrastive(self.head(feat), labels,
                                           temperature=self.constant["temperature"])
        return mixed(loss_cls, loss_cl, self.alpha(epoch))


class BCL(Baseline):
    """
    Zhu et al. 2022: balanced contrastive loss on two second views, logit-compensated cross-entropy
    on the original. Constants of CIFAR-LT. Its heads have batch norm; over the C rows of the
    classifier that is a sign function for two classes, so here they have none.
    """
    views = ("original", "augmented", "augmented again")
    constants = {"temperature": 0.1, "weight_cls": 2.0, "weight": 0.6, "proj_dim": 128}
    compensated = True

    def __init__(self, encoder, task, **constants):
        super().__init__(encoder, task, **constants)
        proj_dim = self.constant["proj_dim"]
        self.head = projection_head(self.h, proj_dim, batch_norm=False)
        self.head_centres = projection_head(self.h, proj_dim, batch_norm=False)

    def losses(self, feat, labels, epoch):
        batch = len(feat) // 3
        logits = self.classify(feat[:batch])
        loss_cls = L.logit_compensation(logits, labels[:batch], self.task.class_counts)
        loss_cl = L.balanced_contrastive(
            self.head(feat[batch:]), labels[batch:], self.head_centres(self.phi.weight),
            temperature=self.constant["temperature"])
        loss = self.constant["weight_cls"] * loss_cls + self.constant["weight"] * loss_cl
        return Losses(loss, loss_cls, loss_cl)


@torch.no_grad()
def fit_balanced(linear: nn.Linear, feat: Tensor, labels: Tensor) -> None:
    """Makes `linear` the class-balanced logistic regression of labels (N,) on feat (N, h)."""
    fitted = LogisticRegression(class_weight="balanced", max_iter=1000)
    fitted.fit(feat.cpu().numpy(), labels.cpu().numpy())
    weight, bias = torch.from_numpy(fitted.coef_), torch.from_numpy(fitted.intercept_)
    if len(weight) == 1:        # of two classes scikit-learn gives the logit of the second alone
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    linear.weight.copy_(weight)
    linear.bias.copy_(bias)


class TSC(Baseline):
    """
    Li et al. 2022: contrast with a queue of keys from a momentum encoder, and with one target a
    class, uniform on the sphere, matched to the classes' centroids at each step. The first half of
    the epochs is without targets (KCL). The second stage, a class-balanced linear classifier on the
    frozen features, is fitted after each epoch.
    """
    views = ("original", "augmented")
    constants = {"temperature": 0.07, "weight": 0.2, "num_positives": 6, "queue": 4096,
                 "momentum": 0.999, "proj_dim": 128}
    sees_features = True
    compensated = True
    training_only = ("key_encoder.",)

    def __init__(self, encoder, task, **constants):
        super().__init__(encoder, task, **constants)
        num_classes, queue = len(task.label_names), self.constant["queue"]
        proj_dim = self.constant["proj_dim"]
        self.phi.requires_grad_(False)
        self.head = projection_head(self.h, proj_dim, batch_norm=False)
        self.key_encoder = deepcopy(encoder).requires_grad_(False)
        self.key_head = deepcopy(self.head).requires_grad_(False)
        if num_classes > proj_dim + 1:
            raise InputError(f"tsc: {num_classes} classes have no uniform targets in {proj_dim} "
                             f"dimensions: --constants proj_dim={num_classes - 1}")
        self.register_buffer("targets", L.simplex_targets(num_classes, proj_dim))
        self.register_buffer("centroids", F.normalize(torch.randn(num_classes, proj_dim), dim=1))
        self.register_buffer("queue", torch.zeros(queue, proj_dim))
        self.register_buffer("queue_labels", torch.zeros(queue, dtype=torch.int64))
        self.register_buffer("seen", torch.tensor(0))       # keys that ever went into the queue

    def encode(self, forward, texts):
        """The original texts by the encoder, the augmented ones by its moving average."""
        rows = np.arange(len(texts.lengths))
        original, augmented = np.split(rows, 2)
        with torch.no_grad():
            self.move_keys()
            key = forward(texts.take(augmented), self.key_encoder)
        return torch.cat([forward(texts.take(original)), key])

    def move_keys(self) -> None:
        momentum = self.constant["momentum"]
        for of_key, of_query in ((self.key_encoder, self.encoder), (self.key_head, self.head)):
            for slow, fast in zip(of_key.parameters(), of_query.parameters()):
                slow.lerp_(fast, 1 - momentum)

    def losses(self, feat, labels, epoch):
        batch = len(feat) // 2
        query, labels = F.normalize(self.head(feat[:batch]), dim=1), labels[:batch]
        with torch.no_grad():
            key = F.normalize(self.key_head(feat[batch:]), dim=1)
        is_targeted = epoch > self.task.epochs // 2
        filled = min(int(self.seen), len(self.queue))
        loss = L.targeted_contrastive(
            query, key, labels, self.queue[:filled].clone(), self.queue_labels[:filled],
            self.match(query.detach(), labels) if is_targeted else None,
            num_positives=self.constant["num_positives"], weight=self.constant["weight"],
            temperature=self.constant["temperature"])
        self.enqueue(key, labels)
        return Losses(loss, torch.zeros_like(loss), loss)

    @torch.no_grad()
    def match(self, query: Tensor, labels: Tensor) -> Tensor:
        """The target of each class, (C, D): the assignment closest to the moved centroids."""
        for label in labels.unique():
            mean = F.normalize(query[labels == label].mean(dim=0), dim=0)
            self.centroids[label] = F.normalize(0.9 * self.centroids[label] + 0.1 * mean, dim=0)
        cosines = (self.centroids @ self.targets.T).cpu().numpy()                       # (C, C)
        return self.targets[linear_sum_assignment(cosines, maximize=True)[1]]

    @torch.no_grad()
    def enqueue(self, key: Tensor, labels: Tensor) -> None:
        place = (self.seen + torch.arange(len(key), device=key.device)) % len(self.queue)
        self.queue[place], self.queue_labels[place] = key, labels
        self.seen += len(key)

    def observe(self, feat, labels):
        fit_balanced(self.phi, feat, labels)


# ---- what a user would try first ----


class Probe(Baseline):
    """The pretrained encoder as it is, and a class-balanced logistic regression on feat."""
    trains = False
    sees_features = True
    compensated = True

    def observe(self, feat, labels):
        fit_balanced(self.phi, feat, labels)


METHODS = {     # the paper's, in its order, then the others; tfidf.py holds one without a network
    "bert": CrossEntropy, "dice": Dice, "focal": Focal, "roberta": CrossEntropy, "simcse": SimCSE,
    "sclce": SCLCE, "spcl": SPCL, "dualcl": DualCL, "hybrid_sc": HybridSC, "bcl": BCL, "tsc": TSC,
    "la": LogitAdjustment, "wce": WeightedCrossEntropy, "probe": Probe}


def make(method: str, encoder: TextEncoder, task: Task, options: dict) -> Method:
    """The network of this name; options are a baseline's constants, SharpReCL's own arguments."""
    if method == "sharprecl":
        return SharpReCL(encoder, len(task.label_names), **options)
    return METHODS[method](encoder, task, **options)

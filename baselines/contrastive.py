"""Contrastive learning models (Appendix A.3)."""

import inspect

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines import losses, positive, share
from baselines.base import Baseline, CrossEntropy, Losses, weighted_sum
from data import InputError, Tokens
from model import TextEncoder, first_position


class SimCSE(CrossEntropy):
    """
    Gao et al. 2021: encodes each text twice with different dropout; the loss is InfoNCE between
    the two and the cross-entropy of both. SharpReCL's paper does not give the weight.
    """

    views = ("original", "original")
    constants = {"temperature": positive(0.05), "weight": share(0.1)}

    def __init__(self, encoder, task, **constants):
        super().__init__(encoder, task, **constants)
        self.head = nn.Sequential(nn.Linear(self.h, self.h), nn.Tanh())

    def losses(self, feat, labels, epoch):
        loss_cls, tau = self.loss(self.classify(feat), labels), self.constant["temperature"]
        loss_cl = losses.info_nce(*self.head(feat).chunk(2), temperature=tau)
        return weighted_sum(loss_cls, loss_cl, self.constant["weight"])


class SCLCE(CrossEntropy):
    """Gunel et al. 2021, Eq. 1: supervised contrastive loss on feat itself, with one view."""

    constants = {"temperature": positive(0.3), "weight": share(0.9)}

    def losses(self, feat, labels, epoch):
        loss_cls, tau = self.loss(self.classify(feat), labels), self.constant["temperature"]
        loss_cl = losses.supervised_contrastive(feat, labels, temperature=tau)
        return weighted_sum(loss_cls, loss_cl, self.constant["weight"])


class SPCL(Baseline):
    """
    Song et al. 2022: contrasts a text with the batch and with class prototypes, on a curriculum.

    A prototype is the mean of `support` random members of the class's pool of recent features or,
    while the pool is smaller, the class centre. Each epoch starts with new pools. The prediction is
    the nearest class centre. The official code also trains a linear head on detached features; it
    is left out here, because it affects neither the encoder nor the predictions.
    """

    constants = {"temperature": positive(0.05), "pool": positive(256), "support": positive(64)}
    sees_features = True
    compensated = True  # the size of a class does not matter for the nearest centre

    def __init__(self, encoder, task, **constants):
        super().__init__(encoder, task, **constants)
        if self.constant["support"] > self.constant["pool"]:
            raise InputError("spcl: lower support, which is above pool, with --constants")
        if not any(p.requires_grad for p in encoder.parameters()):
            raise InputError("spcl trains the encoder alone: give fewer --freeze_layers")
        self.phi = None
        self.register_buffer("centres", torch.zeros(len(task.label_names), self.h))  # (C, h)
        self.register_buffer("difficulty", torch.zeros(len(task.train_labels)))  # (N,)
        self.pools: list[Tensor] = []

    def observe(self, feat, labels):
        """Computes class centres, and as difficulty the own centre's share of all distances."""
        members = F.one_hot(labels, len(self.centres)).to(feat)  # (N, C)
        self.centres = members.T @ feat / members.sum(dim=0)[:, None]
        distance = (1 - self.cosines(feat)) / 2 + 1e-8  # (N, C)
        self.difficulty = distance.gather(1, labels[:, None])[:, 0] / distance.sum(dim=1)

    def cosines(self, feat: Tensor) -> Tensor:
        return F.normalize(feat, dim=1) @ F.normalize(self.centres, dim=1).T

    def classify(self, feat):
        return (1 + self.cosines(feat)) / (2 * self.constant["temperature"])

    def keep_probability(self, epoch: int) -> Tensor:
        """
        The probability of drawing each training text, (N,). From the easiest to the hardest text,
        it falls from 1 to 0 in the first epoch, and rises from 0 to 1 towards the last; each epoch
        draws about half of the texts.
        """
        done = (epoch - 1) / self.task.epochs
        rank = self.difficulty.argsort().argsort() / max(1, len(self.difficulty) - 1)
        return (1 - done) + (2 * done - 1) * rank

    def epoch_rows(self, epoch, num_texts):
        self.pools = list(self.centres[:, None].unbind())  # C of (1, h)
        drawn = torch.bernoulli(self.keep_probability(epoch)).nonzero()[:, 0].cpu().numpy()
        return drawn if len(drawn) else super().epoch_rows(epoch, num_texts)

    def prototypes(self) -> Tensor:
        """T_k, (C, h)."""
        support, rows = self.constant["support"], []
        for pool, centre in zip(self.pools, self.centres):
            if len(pool) >= support:
                drawn = torch.randperm(len(pool), device=pool.device)[:support]
                centre = pool[drawn].mean(dim=0)
            rows.append(centre)
        return torch.stack(rows)

    def fill_pools(self, feat: Tensor, labels: Tensor) -> None:
        """Adds the batch to the pools of its classes; each keeps at most `pool` random members."""
        for label in labels.unique().tolist():
            pool = torch.cat([self.pools[label], feat[labels == label].detach()])
            kept = torch.randperm(len(pool), device=pool.device)[: self.constant["pool"]]
            self.pools[label] = pool[kept]

    def losses(self, feat, labels, epoch):
        prototypes, tau = self.prototypes(), self.constant["temperature"]
        loss = losses.prototypical_contrastive(feat, labels, prototypes, temperature=tau)
        self.fill_pools(feat, labels)
        return Losses(loss, torch.zeros_like(loss), loss)


class LabelAwareEncoder(TextEncoder):
    """DualCL: [CLS] l_1 .. l_C [SEP] text [SEP] -> (rows, 1 + C, h): the text, then the labels."""

    def __init__(self, encoder: TextEncoder, num_labels: int):
        super().__init__(encoder.backbone, encoder.pooling)
        self.num_labels = num_labels

    def forward(self, input_ids, attention_mask, words=None, states=None):
        column = torch.arange(attention_mask.shape[1], device=attention_mask.device)
        # The labels share the second position, so they have no order. The official code uses the
        # position of [CLS], but MiniLM treats any token there as [CLS].
        position = column.clamp(max=1) + (column - self.num_labels).clamp(min=0)
        position = position + first_position(self.backbone)
        position = position.expand_as(attention_mask)
        hidden = self.hidden(input_ids, attention_mask, words, position_ids=position)
        is_label = (column > 0) & (column <= self.num_labels)
        text = self.pool(hidden, attention_mask * ~is_label)  # (rows, h)
        labels = hidden[:, 1 : self.num_labels + 1]  # (rows, C, h)
        return torch.cat([text[:, None], labels], dim=1)  # (rows, 1+C, h)


class DualCL(Baseline):
    """
    Chen et al. 2024: the labels stand before the text, and their states are the weights of this
    text's classifier. The dual contrastive loss is between texts and the states of their labels.

    The official code uses the label's name as its token, so the name must be one word piece. Here
    each label has its own token, whose embedding starts as the mean of its name's pieces.
    """

    constants = {"temperature": positive(0.1), "weight": share(0.5)}
    extra_positions = 2  # one for all labels, one for the second separator

    def __init__(self, encoder, task, **constants):
        backbone, names = encoder.backbone, task.label_names
        if (
            "position_ids" not in inspect.signature(backbone.forward).parameters
            or task.tokenizer.sep_token_id is None
        ):
            raise InputError(
                "dualcl needs position ids and a separator, but "
                f"{backbone.config.model_type} lacks one: take a BERT or RoBERTa as --encoder"
            )
        if encoder.frozen_layers > 0:
            raise InputError("dualcl trains embeddings of the labels: leave --freeze_layers out")
        super().__init__(LabelAwareEncoder(encoder, len(names)), task, **constants)
        self.phi = None
        pieces = [
            task.tokenizer(name, add_special_tokens=False)["input_ids"]
            or [task.tokenizer.unk_token_id]
            for name in names
        ]
        if getattr(backbone.config, "label_tokens", None) != names:  # else they are trained already
            vocabulary = backbone.get_input_embeddings().num_embeddings
            size = vocabulary + len(names)
            embedding = backbone.resize_token_embeddings(size, mean_resizing=False)
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
        theta = feat[torch.arange(len(labels), device=labels.device), 1 + labels]  # (B, h)
        loss_cls = F.cross_entropy(self.classify(feat), labels)
        tau = self.constant["temperature"]
        loss_cl = losses.dual_contrastive(feat[:, 0], theta, labels, temperature=tau)
        return weighted_sum(loss_cls, loss_cl, self.constant["weight"])

"""
Encodes batches: looks up the word embeddings once, splits the texts into pieces of similar length,
so that there is little padding, and puts the features back in order.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import data
from engine import distributed
from engine.files import diverged
from engine.optimizer import autocast
from model import Method

# The fixed cost of a piece, in tokens: a GPU needs more work at a time than a CPU.
START_COST = {"cpu": 24, "cuda": 4096, "mps": 2048}


class Piece(NamedTuple):
    """
    Some texts of a batch, padded to one length.

    rows    (R,)    int64, which of the batch's texts these are
    places  (R, L)  int64, index of each token among the batch's tokens; 0 where is_token is False
    is_token  (R, L)  bool
    """

    rows: np.ndarray
    places: np.ndarray
    is_token: np.ndarray


def pieces(tokens: data.Tokens, start_cost: int, most_rows: int | None = None) -> list[Piece]:
    """
    Splits a batch into pieces of texts of similar length, the shortest first, to save padding. In
    bf16 on a CPU the lengths are rounded up, for oneDNN compiles its kernels anew for each size.

    start_cost  fixed cost of a piece, in tokens: a split must save more padding than that
    most_rows   largest number of texts in a piece
    """
    step = 8 if torch.is_autocast_enabled("cpu") else 1
    lengths = np.minimum(-(-tokens.lengths // step) * step, tokens.lengths.max())
    order = np.argsort(lengths, kind="stable")
    cut = np.split(order, _cuts(lengths[order], start_cost * step))
    return [
        _piece(tokens, rows, lengths[rows].max())
        for part in cut
        for rows in data.batches_of(part, most_rows or len(part))
    ]


def _cuts(lengths: np.ndarray, start_cost: int) -> list[int]:
    """
    Where to split ascending lengths into pieces, so that the sum over the pieces of
    start_cost + rows * longest is minimal: dynamic programming over the distinct lengths.
    """
    ends = np.append(np.flatnonzero(np.diff(lengths, prepend=-1)), len(lengths))
    least = np.zeros(len(ends), dtype=np.int64)  # minimal cost of the pieces up to each end
    start_of = np.zeros(len(ends), dtype=np.int64)  # where the last of these pieces begins
    for i, end in enumerate(ends[1:], start=1):
        costs = least[:i] + start_cost + (end - ends[:i]) * lengths[end - 1]
        start_of[i] = costs.argmin()
        least[i] = costs[start_of[i]]
    cuts, i = [], start_of[-1]
    while i > 0:
        cuts.append(ends[i])
        i = start_of[i]
    return cuts[::-1]


def _piece(tokens: data.Tokens, rows: np.ndarray, longest: int) -> Piece:
    column = np.arange(longest)  # (L,)
    is_token = column < tokens.lengths[rows][:, None]  # (R, L)
    return Piece(rows, np.where(is_token, tokens.offsets[rows][:, None] + column, 0), is_token)


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """The array as a tensor on the device; the copy to a GPU forces no sync."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def encode(
    encoder: nn.Module, texts: data.Tokens, device: torch.device, most_rows: int | None = None
) -> Tensor:
    """
    feat of each text, (rows, h), equal to one pass over the whole batch.

    encoder     a TextEncoder, or nn.DataParallel around one
    most_rows   texts in a piece (--micro_batch). In training, all pieces but the last then keep no
                activations; backward() computes them again, with the same dropout. The gradient is
                that of the whole batch, the memory that of one piece.
    """
    inner: Any = encoder
    num_devices = 1
    if isinstance(encoder, nn.DataParallel):
        inner, num_devices = encoder.module, len(encoder.device_ids)
    cut = pieces(texts, START_COST[device.type] * num_devices, most_rows)
    # one look-up for the whole batch, because the gradient of each look-up is as large as the
    # embedding of the whole vocabulary
    if texts.states is None:
        kind, vectors = "words", inner.embed(to_device(texts.ids.astype(np.int64), device))
    else:
        kind, vectors = "states", to_device(texts.states, device).float()
    is_recomputed = most_rows is not None and torch.is_grad_enabled()

    feats = []
    for number, piece in enumerate(cut, start=1):
        mask = to_device(piece.is_token, device)
        places = to_device(piece.places, device)

        def of_piece(vectors: Tensor, places: Tensor = places, mask: Tensor = mask) -> Tensor:
            return encoder(None, mask, **{kind: F.embedding(places, vectors)})

        if is_recomputed and number < len(cut):
            feats.append(checkpoint(of_piece, vectors, use_reentrant=False))
        else:
            feats.append(of_piece(vectors))
    order = np.argsort(np.concatenate([piece.rows for piece in cut]))
    return torch.cat(feats).index_select(0, to_device(order, device))


@torch.inference_mode()
def predict(
    model: Method,
    texts: data.Tokens,
    num_classes: int,
    *,
    batch_size: int,
    amp: str = "off",
    encoder: nn.Module | None = None,
    share: slice = slice(None),
) -> tuple[np.ndarray, np.ndarray]:
    """
    Logits (n, C), never compensated, and feat (n, h) of n texts, in their order.

    encoder   nn.DataParallel around the model's encoder, if several devices share the work
    share     the batches to encode; the results of the other texts are 0
    raises    InputError if a feature or a logit is not finite
    """
    model.eval()
    device = next(model.parameters()).device
    n, h = len(texts.lengths), model.encoder.backbone.config.hidden_size
    logits = np.zeros((n, num_classes), dtype=np.float32)
    feats = np.zeros((n, h), dtype=np.float32)
    for rows in data.eval_batches(texts.lengths, batch_size)[share]:
        with autocast(device, amp):
            feat = encode(encoder or model.encoder, texts.take(rows), device).float()
        # a label-aware encoder returns the text first, then each label
        found = {
            "the features": (feat if feat.ndim == 2 else feat[:, 0]).cpu(),
            "the logits": model.classify(feat).cpu(),
        }
        check_finite(found, "before this evaluation")
        feats[rows], logits[rows] = (values.numpy() for values in found.values())
    return logits, feats


def check_finite(parts: Mapping[str, object], when: str) -> None:
    """
    parts   numbers by name: tensors, arrays or floats
    raises  InputError that names the first part with NaN or infinity
    """
    for name, numbers in parts.items():
        if not torch.as_tensor(numbers).isfinite().all():
            raise diverged(f"not finite: {name}", when)


class Loader:
    """
    Serves the training texts in batches, and encodes them.

    encoder      the model's encoder, or nn.DataParallel around it
    views        of the training texts, in the order of the method's `views`
    labels       (N,) int64
    micro_batch  texts of a view in memory at a time; None: all of a batch
    """

    def __init__(
        self,
        model: Method,
        encoder: nn.Module,
        views: list[data.Tokens],
        labels: np.ndarray,
        num_classes: int,
        *,
        batch_size: int,
        micro_batch: int | None,
        amp: str,
        device: str,
        seed: int,
    ):
        self.model, self.encoder, self.views, self.labels = model, encoder, views, labels
        self.class_counts = torch.from_numpy(data.class_counts(labels, num_classes))  # (C,), CPU
        self.batch_size, self.seed, self.amp = batch_size, seed, amp
        self.device = torch.device(device)
        self.most_rows = micro_batch and len(views) * micro_batch  # of a piece

    def epoch_batches(self, epoch: int) -> list[np.ndarray]:
        """The rows of each batch of an epoch, from the rows that the method uses in this epoch."""
        rows = self.model.epoch_rows(epoch, len(self.labels))
        return [
            rows[batch]
            for batch in data.epoch_batches(len(rows), self.batch_size, seed=self.seed, epoch=epoch)
        ]

    def batch(self, rows: np.ndarray) -> tuple[data.Tokens, Tensor]:
        """
        All V views of these texts, and their labels, (V B,). With several processes, each gets the
        views of its share of the texts, and all labels.
        """
        labels = to_device(np.tile(self.labels[rows], len(self.views)), self.device)
        own = distributed.share(rows)
        return data.join([view.take(own) for view in self.views]), labels

    def forward(self, texts: data.Tokens, encoder: nn.Module | None = None) -> Tensor:
        """feat of the texts, from the network's encoder on all devices, or from another one."""
        return encode(encoder or self.encoder, texts, self.device, self.most_rows)

    def predict(self, texts: data.Tokens) -> tuple[np.ndarray, np.ndarray]:
        """
        Logits (n, C) and feat (n, h) of n texts from the current network. Several processes share
        the batches: each encodes a part, and all get the whole result.
        """
        logits, feats = predict(
            self.model,
            texts,
            len(self.class_counts),
            batch_size=2 * self.batch_size,
            amp=self.amp,
            encoder=self.encoder,
            share=slice(distributed.rank(), None, distributed.world_size()),
        )
        return distributed.sum_rows(logits, self.device), distributed.sum_rows(feats, self.device)

    def summary(self) -> str:
        views = len(self.views)
        return f"{self.batch_size} texts a batch, each in {views} view{'s' * (views > 1)}"

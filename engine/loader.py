"""
Batches on their way through the encoder: words are looked up once, the texts are cut into pieces of
like length, so that little is padded, and their features are put back in order.
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

# What a piece costs beside its tokens, in tokens: a processor needs little to be busy, a GPU much.
START_COST = {"cpu": 24, "cuda": 4096, "mps": 2048}


class Piece(NamedTuple):
    """
    Some texts of a batch, padded to their longest.

    rows    (R,)    int64, which of the batch's texts these are
    places  (R, L)  int64, of each token among all tokens of the batch; 0 where is_token is False
    is_token  (R, L)  bool
    """

    rows: np.ndarray
    places: np.ndarray
    is_token: np.ndarray


def pieces(tokens: data.Tokens, start_cost: int, most_rows: int | None = None) -> list[Piece]:
    """
    A batch cut into pieces of texts of like length, the shortest first, so that little is padded.

    start_cost  of a piece, in tokens: a cut pays where it saves more padding than that
    most_rows   texts of a piece; a larger one is cut again
    """
    order = np.argsort(tokens.lengths, kind="stable")
    cut = np.split(order, _cuts(tokens.lengths[order], start_cost))
    return [
        _piece(tokens, rows)
        for part in cut
        for rows in data.batches_of(part, most_rows or len(part))
    ]


def _cuts(lengths: np.ndarray, start_cost: int) -> list[int]:
    """
    Where to cut ascending lengths into pieces, so that the sum of start_cost + rows * longest over
    the pieces is least: dynamic programming over the distinct lengths.
    """
    ends = np.append(np.flatnonzero(np.diff(lengths, prepend=-1)), len(lengths))
    least = np.zeros(len(ends), dtype=np.int64)  # of the pieces up to each end
    start_of = np.zeros(len(ends), dtype=np.int64)  # where the last of them begins
    for i, end in enumerate(ends[1:], start=1):
        costs = least[:i] + start_cost + (end - ends[:i]) * lengths[end - 1]
        start_of[i] = costs.argmin()
        least[i] = costs[start_of[i]]
    cuts, i = [], start_of[-1]
    while i > 0:
        cuts.append(ends[i])
        i = start_of[i]
    return cuts[::-1]


def _piece(tokens: data.Tokens, rows: np.ndarray) -> Piece:
    lengths = tokens.lengths[rows]
    column = np.arange(lengths.max())  # (L,)
    is_token = column < lengths[:, None]  # (R, L)
    return Piece(rows, np.where(is_token, tokens.offsets[rows][:, None] + column, 0), is_token)


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """The array as a tensor there; the copy to a GPU forces no sync."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def encode(
    encoder: nn.Module, texts: data.Tokens, device: torch.device, most_rows: int | None = None
) -> Tensor:
    """
    feat of each text, (rows, h), as one pass over the whole batch would give it.

    encoder     a TextEncoder, or nn.DataParallel around one
    most_rows   of a piece (--micro_batch): while training, all pieces but the last keep no
                activations then, and backward() computes each again, with the same dropout, when
                its part of the gradient arrives; the gradient is that of the whole batch, the
                memory that of one piece
    """
    inner: Any = encoder
    num_devices = 1
    if isinstance(encoder, nn.DataParallel):
        inner, num_devices = encoder.module, len(encoder.device_ids)
    cut = pieces(texts, START_COST[device.type] * num_devices, most_rows)
    # one look-up for the whole batch: each would have a gradient as large as the vocabulary's
    # embedding, so one for each piece would cost as much again
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
    device: str | torch.device,
    amp: str = "off",
    encoder: nn.Module | None = None,
    share: slice = slice(None),
) -> tuple[np.ndarray, np.ndarray]:
    """
    Logits (n, C), never compensated, and feat (n, h) of n texts, in their order.

    encoder   nn.DataParallel around the model's, if several devices share the work
    share     of the batches that is encoded; of the other texts all is 0
    raises    InputError where a feature or a logit is not finite
    """
    model.eval()
    device = torch.device(device)
    n, h = len(texts.lengths), model.encoder.backbone.config.hidden_size
    logits = np.zeros((n, num_classes), dtype=np.float32)
    feats = np.zeros((n, h), dtype=np.float32)
    for rows in data.eval_batches(texts.lengths, batch_size)[share]:
        with autocast(device, amp):
            feat = encode(encoder or model.encoder, texts.take(rows), device).float()
        # a label-aware encoder gives the text first, then each label
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
    The training texts, batch by batch.

    encoder      the model's, or nn.DataParallel around it
    views        of the training texts, as the method names them
    labels       (N,) int64
    micro_batch  texts of a view in memory at a time, None: all of a batch
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
        """The rows of each batch of an epoch: of all training texts, or of SPCL's curriculum."""
        rows = self.model.epoch_rows(epoch, len(self.labels))
        return [
            rows[batch]
            for batch in data.epoch_batches(len(rows), self.batch_size, seed=self.seed, epoch=epoch)
        ]

    def texts(self, rows: np.ndarray) -> data.Tokens:
        """All V views of these texts, view after view."""
        return data.join([view.take(rows) for view in self.views])

    def batch(self, rows: np.ndarray) -> tuple[data.Tokens, Tensor]:
        """
        All V views of these texts, and their labels, (V B,). Of several processes each has the
        views of its share of the texts, and all labels.
        """
        labels = to_device(np.tile(self.labels[rows], len(self.views)), self.device)
        return self.texts(distributed.share(rows)), labels

    def forward(self, texts: data.Tokens, encoder: nn.Module | None = None) -> Tensor:
        """feat of the texts, by the network's encoder on all devices, or by another one."""
        return encode(encoder or self.encoder, texts, self.device, self.most_rows)

    def predict(self, texts: data.Tokens) -> tuple[np.ndarray, np.ndarray]:
        """
        Logits (n, C) and feat (n, h) of n texts, by the network as it now is. Several processes
        share the batches, so that each encodes a part, and all receive the whole.
        """
        logits, feats = predict(
            self.model,
            texts,
            len(self.class_counts),
            batch_size=2 * self.batch_size,
            device=self.device,
            amp=self.amp,
            encoder=self.encoder,
            share=slice(distributed.rank(), None, distributed.world_size()),
        )
        return distributed.sum_rows(logits, self.device), distributed.sum_rows(feats, self.device)

    def summary(self) -> str:
        views = len(self.views)
        return f"{self.batch_size} texts a batch, each in {views} view{'s' * (views > 1)}"

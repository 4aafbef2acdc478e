"""
Batches on their way through the encoder: words are looked up once, the texts are cut into pieces of
like length, so that little is padded, and their features are put back in order.
"""
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import data

# Tokens of a piece: enough to keep the device busy, and few enough that little is padded.
PIECE_TOKENS = {"cpu": 1024, "cuda": 16_384, "mps": 8_192}


def to_device(array: np.ndarray, device: torch.device) -> Tensor:
    """The array as a tensor there; a GPU's host does not wait for the copy."""
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def encode(encoder: nn.Module, texts: data.Tokens, device: torch.device,
           most_rows: int | None = None) -> Tensor:
    """
    feat of each text, (rows, h), as one pass over the whole batch would give it.

    encoder     a TextEncoder, or nn.DataParallel around one
    most_rows   of a piece (--micro_batch): while training, all pieces but the last keep no
                activations then, and backward() computes each again, with the same dropout, when
                its part of the gradient arrives; the gradient is that of the whole batch, the
                memory that of one piece
    """
    inner, num_devices = encoder, 1
    if isinstance(encoder, nn.DataParallel):
        inner, num_devices = encoder.module, len(encoder.device_ids)
    pieces = data.pieces(texts, PIECE_TOKENS[device.type] * num_devices, most_rows)
    # looked up once: each look-up of its own would have a gradient of the size of the vocabulary
    if texts.states is None:
        kind, vectors = "words", inner.embed(to_device(texts.ids.astype(np.int64), device))
    else:
        kind, vectors = "states", to_device(texts.states, device).float()
    is_recomputed = most_rows is not None and torch.is_grad_enabled()

    feats = []
    for number, piece in enumerate(pieces, start=1):
        mask = to_device(piece.is_token, device)
        places = to_device(piece.places, device)

        def of_piece(vectors: Tensor, places: Tensor = places, mask: Tensor = mask) -> Tensor:
            return encoder(None, mask, **{kind: F.embedding(places, vectors)})

        if is_recomputed and number < len(pieces):
            feats.append(checkpoint(of_piece, vectors, use_reentrant=False))
        else:
            feats.append(of_piece(vectors))
    order = np.argsort(np.concatenate([piece.rows for piece in pieces]))
    return torch.cat(feats).index_select(0, to_device(order, device))


def padding(batches: list[data.Tokens], device: torch.device) -> float:
    """Share of padding among what the encoder reads of these batches."""
    is_token = [piece.is_token for batch in batches
                for piece in data.pieces(batch, PIECE_TOKENS[device.type])]
    return 1 - sum(mask.sum() for mask in is_token) / sum(mask.size for mask in is_token)

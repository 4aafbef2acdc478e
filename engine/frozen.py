"""
What the layers that stay as pretrained (--freeze_layers) make of the texts, computed once and kept:
both views of a text are fixed, and so are these states.

They are kept as float16 in a file below the cache folder, which is mapped into memory: several
times the machine's memory has room, and the next run on the same texts finds them. The file ends in
the SHA-256 of all before it, which each start checks.
"""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

import data
from engine import distributed, loader
from engine.files import saving
from model import TextEncoder

MOST_BYTES = 20e9  # of one part's states; beyond it they are computed anew at each step
BATCH = 256  # texts at a time
CHUNK = 2**24  # bytes at a time, to check them


def keep_states(
    tokens: data.Tokens, encoder: TextEncoder, device: str, cache_dir: Path
) -> data.Tokens:
    """
    The texts with their states, from the cache or computed. The texts as they are where all layers
    are trained, or, with a line that says so, where the states would take more than MOST_BYTES.
    """
    if encoder.frozen_layers == 0:
        return tokens
    shape = len(tokens.ids), encoder.backbone.config.hidden_size
    size = 2 * shape[0] * shape[1]
    if size > MOST_BYTES:
        print(
            f"what the frozen layers make of {len(tokens.lengths):,} texts would take "
            f"{size / 1e9:.0f} GB, and is computed anew at each step"
        )
        return tokens
    path = Path(cache_dir) / f"states-{_digest(tokens, encoder)[:16]}.f16"
    with distributed.main_first():
        if distributed.is_main() and not _is_whole(path, size):
            _write(path, tokens, encoder, torch.device(device))
    return replace(tokens, states=np.memmap(path, np.float16, mode="r", shape=shape))


def _is_whole(path: Path, size: int) -> bool:
    """Whether the states are there, as they were written; a line says so where they are damaged."""
    if not path.exists():
        return False
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for start in range(0, size, CHUNK):
            digest.update(file.read(min(CHUNK, size - start)))
        is_whole = file.read(digest.digest_size + 1) == digest.digest()
    if not is_whole:
        print(f"{path} is damaged, or of an older version, and made anew", flush=True)
    return is_whole


def _digest(tokens: data.Tokens, encoder: TextEncoder) -> str:
    """Of all that decides the states: the texts' tokens, and the weights of the frozen parts."""
    digest = hashlib.sha256(encoder.backbone.config.to_json_string().encode())
    digest.update(str(encoder.frozen_layers).encode())
    digest.update(tokens.ids.tobytes() + tokens.offsets.tobytes())
    for name in sorted(encoder.frozen_weights):
        weight = encoder.backbone.get_parameter(name).detach()
        digest.update(weight.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@torch.inference_mode()
def _write(path: Path, tokens: data.Tokens, encoder: TextEncoder, device: torch.device) -> None:
    """Computes the states batch by batch, and leaves them under this path, whole or not at all."""
    written = hashlib.sha256()
    with saving(path) as file:
        starts = range(0, len(tokens.lengths), BATCH)
        for start in tqdm(starts, "frozen layers", leave=False):
            batch = tokens.take(np.arange(start, min(start + BATCH, len(tokens.lengths))))
            states = np.empty((len(batch.ids), encoder.backbone.config.hidden_size), np.float16)
            for piece in data.pieces(batch, loader.START_COST[device.type]):
                ids = loader.to_device(batch.ids[piece.places].astype(np.int64), device)
                mask = loader.to_device(piece.is_token, device)
                lower = encoder.lower_states(ids, mask).half().cpu().numpy()
                states[piece.places[piece.is_token]] = lower[piece.is_token]
            content = states.tobytes()
            file.write(content)
            written.update(content)
        file.write(written.digest())

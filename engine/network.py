"""
Makes the network of a run from its flags, and its state for checkpoints.
"""

import torch
from torch import Tensor

import data
from baselines import make
from baselines.base import Task
from engine.arguments import Arguments
from engine.distributed import set_seed
from engine.encoders import load_encoder, load_tokenizer
from engine.files import InputError
from model import POOLINGS, Method


def new_model(args: Arguments, corpus: data.Corpus) -> Method:
    """Loads the pretrained encoder and makes the method; the seed fixes all new weights."""
    set_seed(args.seed)
    encoder = load_encoder(args.encoder, args.pooling, args.freeze_layers)
    print(f"encoder {args.encoder}, pooling {args.pooling}: a text is {POOLINGS[args.pooling]}")
    family = encoder.backbone.config.model_type
    if args.method == "roberta" and "roberta" not in family:
        raise InputError(
            f"--method roberta with --encoder {args.encoder}, a {family}: leave "
            "--encoder out, or take --method bert"
        )
    names, labels = corpus.label_names, corpus.train_labels
    counts = torch.from_numpy(data.class_counts(labels, len(names)))
    task = Task(names, labels, counts, load_tokenizer(args.encoder), args.epochs, args.batch_size)
    return make(args.method, encoder, task, args.model_options).to(args.device)


def spreads(args: Arguments) -> bool:
    """
    Whether nn.DataParallel spreads a batch over all visible GPUs: not if --device names one, and
    not with --micro_batch, whose pieces its threads do not support.
    """
    return args.device == "cuda" and torch.cuda.device_count() > 1 and not args.micro_batch


class Trained:
    """The state of a network in a checkpoint: all weights but those of frozen layers."""

    def __init__(self, model: Method):
        self.model = model

    def state_dict(self) -> dict[str, Tensor]:
        frozen = {f"encoder.backbone.{name}" for name in self.model.encoder.frozen_weights}
        return {
            name: tensor for name, tensor in self.model.state_dict().items() if name not in frozen
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Loads a state; ValueError if it belongs to another network."""
        if set(state) != set(self.state_dict()):
            raise ValueError("it holds other weights")
        self.model.load_state_dict(state, strict=False)

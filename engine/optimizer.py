"""
The optimizer of a run, its learning rate, and its precision.
"""

import argparse
import contextlib
import math

import torch
from torch import nn


def new_optimizer(model: nn.Module, args: argparse.Namespace) -> torch.optim.AdamW:
    """AdamW on all that is trained; biases and norms have no weight decay."""
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.ndim > 1]
    vectors = [p for p in trained if p.ndim <= 1]
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": args.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=args.lr,
        fused=torch.device(args.device).type in ("cpu", "cuda"),
    )


def set_learning_rate(
    optimizer: torch.optim.Optimizer, t: int, total_steps: int, args: argparse.Namespace
) -> float:
    """Of step t = 1..T: linear warm-up over a share of the steps, then --schedule down to 0."""
    warmup_steps = args.warmup * total_steps
    if t <= warmup_steps:
        factor = t / warmup_steps
    else:
        done = (t - warmup_steps - 1) / max(1, total_steps - warmup_steps)  # from 0, below 1
        factor = {
            "constant": 1.0,
            "linear": 1 - done,
            "cosine": (1 + math.cos(math.pi * done)) / 2,
        }[args.schedule]
    for group in optimizer.param_groups:
        group["lr"] = args.lr * factor
    return args.lr * factor


def new_scaler(args: argparse.Namespace) -> torch.amp.GradScaler:
    """Of the gradient in --amp fp16; it does nothing otherwise."""
    return torch.amp.GradScaler(torch.device(args.device).type, enabled=args.amp == "fp16")


def autocast(device: torch.device, amp: str) -> contextlib.AbstractContextManager:
    """The precision of the encoder's passes: off, bf16 or fp16."""
    dtype = torch.float16 if amp == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype, enabled=amp != "off")

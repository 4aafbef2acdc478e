"""
The optimizer of a run, its learning rate, and its precision.
"""

import contextlib
import math

import torch
from torch import nn


def new_optimizer(
    model: nn.Module, *, lr: float, head_lr: float | None, weight_decay: float
) -> torch.optim.AdamW:
    """
    AdamW on all that is trained; biases and norms have no weight decay. The encoder has the rate
    lr, and all else head_lr if it is given.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, p in model.named_parameters():
        if p.requires_grad:
            rate = lr if name.startswith("encoder.") else head_lr or lr
            groups.setdefault((rate, weight_decay if p.ndim > 1 else 0.0), []).append(p)
    return torch.optim.AdamW(
        [
            {"params": own, "lr": rate, "initial_lr": rate, "weight_decay": decay}
            for (rate, decay), own in groups.items()
        ],
        lr=lr,
        fused=next(model.parameters()).device.type in ("cpu", "cuda"),
    )


def set_learning_rate(
    optimizer: torch.optim.Optimizer, t: int, total_steps: int, *, warmup: float, schedule: str
) -> float:
    """
    Of step t = 1..T: linear warm-up over a share of the steps, then the schedule down to 0. Returns
    the encoder's.
    """
    warmup_steps = warmup * total_steps
    if t <= warmup_steps:
        factor = t / warmup_steps
    else:
        # from 0, below 1; a warm-up that ends within a step begins less than a step before 0
        done = (t - warmup_steps - 1) / max(1, total_steps - warmup_steps)
        factor = {
            "constant": 1.0,
            "linear": 1 - done,
            "cosine": (1 + math.cos(math.pi * done)) / 2,
        }[schedule]
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
    return optimizer.defaults["lr"] * factor


def new_scaler(device: str, amp: str) -> torch.amp.GradScaler:
    """Of the gradient in fp16; it does nothing otherwise."""
    return torch.amp.GradScaler(torch.device(device).type, enabled=amp == "fp16")


def autocast(device: torch.device, amp: str) -> contextlib.AbstractContextManager:
    """The precision of the encoder's passes: off, bf16 or fp16."""
    dtype = torch.float16 if amp == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype, enabled=amp != "off")

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
    AdamW on all trained parameters; biases and norms have no weight decay. The encoder has the
    learning rate lr, the other parts head_lr or, if it is None, lr.
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
    Sets the rates for step t = 1..T: linear warm-up over a share of the steps, then the schedule.
    Returns the encoder's rate.
    """
    warmup_steps = warmup * total_steps
    if t <= warmup_steps:
        factor = t / warmup_steps
    else:
        # in [0, 1), or slightly below 0 if the warm-up ends within a step
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
    """Scales the loss for fp16; does nothing in other precisions."""
    return torch.amp.GradScaler(torch.device(device).type, enabled=amp == "fp16")


def autocast(device: torch.device, amp: str) -> contextlib.AbstractContextManager:
    """The precision of the encoder's passes: off, bf16 or fp16."""
    dtype = torch.float16 if amp == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype, enabled=amp != "off")

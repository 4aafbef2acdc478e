"""
Several processes on one or more machines, started by torchrun; a single process does not need this.

Each process encodes its share of a batch's texts. Then all get all features, and each computes the
same losses with the same random draws, so the contrastive set is always the whole batch. `rank` and
`world_size` are those of torchrun: the number of this process, and how many there are.
"""

import contextlib
import os
import re
import signal
from datetime import timedelta
from typing import Iterator

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from engine.files import InputError

TIMEOUT = timedelta(hours=2)  # rank 0 may tokenise and augment millions of texts, others wait


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this is the process that writes files and prints."""
    return rank() == 0


class Ended(InputError):
    """Another process of the job has ended."""

    exit_code = 1

    def __init__(self, reason: str):
        super().__init__(
            f"another process of this job has ended ({reason}); the same command, with any number "
            "of processes, goes on from the last checkpoint"
        )


@contextlib.contextmanager
def _others() -> Iterator[None]:
    """Wraps calls that wait for the other processes."""
    try:
        yield
    except RuntimeError as error:  # of gloo or NCCL; gloo's has the form
        # "[C++ file:line] what happened. Advice"
        raise Ended(re.sub(r"^\[\S+\] ", "", str(error)).split(". ")[0]) from error


def all_reduce(x: Tensor) -> None:
    """Replaces x, in place, by its sum over all processes."""
    with _others():
        dist.all_reduce(x)


def barrier() -> None:
    if world_size() > 1:
        with _others():
            dist.barrier()


@contextlib.contextmanager
def joined(device: str) -> Iterator[str]:
    """Joins the processes of torchrun, if it is used; yields the device of this process."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield device
        return

    def end(*_) -> None:
        raise Ended("torchrun stopped this one")

    signal.signal(signal.SIGTERM, end)
    is_cuda = torch.device(device).type == "cuda"
    if is_cuda:
        own, gpus = os.environ["LOCAL_RANK"], torch.cuda.device_count()
        if int(own) >= gpus:
            raise InputError(
                f"torchrun started more processes than this machine has GPUs, {gpus}: give "
                f"--nproc_per_node {gpus}"
            )
        device = f"cuda:{own}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if is_cuda else "gloo", timeout=TIMEOUT)
    yield device
    dist.destroy_process_group()  # not after an error: it would wait for ended processes


@contextlib.contextmanager
def quiet_but_main() -> Iterator[None]:
    """Lets only rank 0 print; errors are printed outside of this block."""
    if is_main():
        yield
        return
    with (
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield


@contextlib.contextmanager
def main_first() -> Iterator[None]:
    """Runs the body in rank 0, then in the others, which find its files on the disk."""
    if not is_main():
        barrier()
    yield
    if is_main():
        barrier()


def all_agree(value: object) -> bool:
    """Whether all processes have the same value."""
    values = [value] * world_size()
    if world_size() > 1:
        with _others():
            dist.all_gather_object(values, value)
    return all(other == value for other in values)


# ---- random numbers ----


def set_seed(*seed: int) -> None:
    """Seeds torch, on every device, from one or more numbers."""
    torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))


@contextlib.contextmanager
def own_draws(device: torch.device, *seed: int) -> Iterator[None]:
    """
    Random draws inside differ between the processes (dropout). Draws outside (the built samples)
    are the same in all, because the generators stay in step. A single process uses one generator.
    """
    if world_size() == 1:
        yield
        return
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        set_seed(*seed, rank())
        yield


# ---- a batch over all processes ----


def share(rows: np.ndarray) -> np.ndarray:
    """
    The rows that this process encodes: every world_size-th, so that all get similar lengths. If
    there are more processes than rows, the others encode the first row, and gather() drops it.
    """
    own = rows[rank() :: world_size()]
    return own if len(own) else rows[:1]


def gather(feat: Tensor, num_texts: int, num_views: int) -> Tensor:
    """
    feat of the whole batch, view after view, from the parts of all processes.

    The gradient flows only into the rows of this process. It is complete: every process computes
    the same loss from all rows, so no sum over the processes is missing.

    feat     (V b, ...)  of V views of the b texts of share()
    returns  (V B, ...)  of the B = num_texts texts
    """
    if world_size() == 1:
        return feat
    own = feat.unflatten(0, (num_views, -1))  # (V, b, ...)
    own = own[:, : len(range(rank(), num_texts, world_size()))]
    whole = own.new_zeros(num_views, num_texts, *own.shape[2:])  # (V, B, ...)
    whole[:, rank() :: world_size()] = own.detach()
    all_reduce(whole)
    whole[:, rank() :: world_size()] = own  # the same values, now with a gradient
    return whole.flatten(0, 1)


def combine_gradients(encoder: nn.Module, model: nn.Module) -> None:
    """
    After backward(), sums the encoder's gradients over the processes, because each has those of its
    own texts. The heads' gradients differ only by rounding; their mean keeps the processes equal.
    """
    if world_size() == 1:
        return
    of_encoder = set(encoder.parameters())
    gradients = [(p.grad, p in of_encoder) for p in model.parameters() if p.grad is not None]
    flat = torch.cat([(g if is_part else g / world_size()).flatten() for g, is_part in gradients])
    all_reduce(flat)
    for (g, _), part in zip(gradients, flat.split([g.numel() for g, _ in gradients])):
        g.copy_(part.view_as(g))


def sum_rows(array: np.ndarray, device: torch.device) -> np.ndarray:
    """The sum over the processes of arrays, in which each process has filled its own rows."""
    if world_size() == 1:
        return array
    total = torch.from_numpy(array).to(device)
    all_reduce(total)
    return total.cpu().numpy()

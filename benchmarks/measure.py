"""What the benchmarks share: interleaved timing, peak memory, tables, JSON."""

import argparse
import atexit
import contextlib
import gc
import io
import json
import math
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ["TQDM_DISABLE"] = "1"

import torch  # noqa: E402  after the path
from torch.profiler import ProfilerActivity, profile  # noqa: E402
from transformers import BertConfig, BertModel  # noqa: E402

import data  # noqa: E402
import main  # noqa: E402
from engine.arguments import parse_args  # noqa: E402
from engine.corpus import load_corpus, views_of  # noqa: E402
from engine.encoders import load_tokenizer  # noqa: E402
from engine.loader import Loader  # noqa: E402
from engine.network import new_model  # noqa: E402
from engine.optimizer import new_optimizer, new_scaler  # noqa: E402
from model import Method  # noqa: E402

Forms = dict[str, Callable[[], object]]  # name -> the function to measure
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
Flag = tuple[str, dict]
OF_RUNS: list[Flag] = [  # flags of the benchmarks that make runs of main.py
    ("--encoder", {"default": "minilm", "help": "or bert-base: its shape, with random weights"}),
    ("--dataset", {"default": "wordnet"}),
    ("--data_dir", {"default": "data"}),
    ("--per_class", {"type": int, "default": 40, "help": "texts; 1,038 of WordNet in all"}),
    ("--amp", {"default": "off"}),
]


def parse(doc: str, *flags: Flag) -> argparse.Namespace:
    """Parses the flags of every benchmark and these; sets the number of threads."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, options in flags:
        parser.add_argument(name, **options)
    parser.add_argument("--repeats", type=int, default=7, help="of each form, in turn")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: for a shared machine")
    parser.add_argument("--json", type=Path, help="write the numbers to this file, too")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    return args


def synchronize(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


SHORTEST = 0.1  # seconds of a repeat: a quick function is called several times


def interleaved(
    forms: Forms, repeats: int, device: str = "cpu", clock: str = "wall"
) -> dict[str, list[float]]:
    """Seconds per call of each function, `repeats` times in turn, A B A B, after a warm-up."""
    now = CLOCKS[clock]
    calls, seconds = dict.fromkeys(forms, 1), {name: [] for name in forms}
    for repeat in range(repeats + 1):
        for name, form in forms.items():
            gc.collect()
            synchronize(device)
            start = now()
            for _ in range(calls[name]):
                form()
            synchronize(device)
            taken = (now() - start) / calls[name]
            print(f"{name}: {taken:.3g} s", file=sys.stderr, flush=True)
            if repeat > 0:
                seconds[name].append(taken)
            else:
                calls[name] = math.ceil(SHORTEST / taken)
    return seconds


def peak_memory(form: Callable[[], object], device: str = "cpu") -> int:
    """Peak bytes of the tensors that the function allocates."""
    if torch.device(device).type == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        form()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        form()
    taken = peak = 0
    for event in recorded.profiler.kineto_results.events():
        if event.name() == "[memory]":
            taken += event.nbytes()
            peak = max(peak, taken)
    return peak


# ---- runs of main.py's own code ----


@dataclass
class Prepared:
    """The objects that main.train makes before its first epoch."""

    args: argparse.Namespace
    corpus: data.Corpus
    model: Method
    loader: Loader
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler

    def epoch(self) -> dict:
        return main.train_epoch(self.model, self.loader, self.optimizer, self.scaler, 1, self.args)


def run_of(
    args: argparse.Namespace,
    *flags: str,
    views: tuple[str, ...] | None = None,
    keeps_states: bool = True,
) -> Prepared:
    """
    Prepares a run on args.dataset and args.encoder, with these flags of main.py.

    views           instead of the method's own views
    keeps_states    False: the states of frozen layers are computed at each step
    """
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder)
    is_random = args.encoder == "bert-base"
    common = ["--dataset", args.dataset, "--data_dir", args.data_dir, "--output_dir", folder]
    encoder = [random_bert(folder), "--pooling", "cls"] if is_random else [args.encoder]
    common += f"--batch_size {args.batch_size} --amp {args.amp} --device {args.device}".split()
    common += ["--max_per_class", str(args.per_class), "--encoder", *encoder]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        own = parse_args([*common, *flags])
        corpus = load_corpus(own)
        model = new_model(own, corpus)
        model.views = views or model.views
        tokens = views_of(own, corpus, model)
        if not keeps_states:
            tokens = [replace(view, states=None) for view in tokens]
        names = corpus.label_names
        of_loader = ("batch_size", "micro_batch", "amp", "device", "seed")
        options = {name: getattr(own, name) for name in of_loader}
        loader = Loader(model, model.encoder, tokens, corpus.train_labels, len(names), **options)
        optimizer = new_optimizer(model, lr=own.lr, head_lr=None, weight_decay=own.weight_decay)
        return Prepared(own, corpus, model, loader, optimizer, new_scaler(own.device, own.amp))


def random_bert(folder: str, **sizes: int) -> str:
    """Saves a BERT with random weights, by default of bert-base's shape, and a tokenizer."""
    load_tokenizer("minilm").save_pretrained(folder)
    BertModel(BertConfig(**sizes)).save_pretrained(folder)
    return folder


# ---- what is printed ----


def compare(
    args: argparse.Namespace,
    forms: Forms,
    about: str,
    bases: list[str],
    work: float | None = None,
    has_memory: bool = True,
) -> None:
    """
    Measures the functions and prints a table: for each its time, its time relative to the bases
    (repeat by repeat, because the machine's load changes over time), and its peak memory.

    work  of a call, such as its tokens: the table then has the work per second instead of the time
    """
    seconds = interleaved(forms, args.repeats, args.device, args.clock)
    numbers: dict = {"machine": machine(args), "seconds": seconds}
    head = ["", "a second" if work else "ms", *(f"× {base}" for base in bases)]
    rows = {}
    for name, own in seconds.items():
        rows[name] = [spread([work / s for s in own] if work else [1e3 * s for s in own], 1)]
        for base in bases:
            rows[name].append(spread([a / b for a, b in zip(own, seconds[base])], 3))
    if has_memory:
        head.append("MiB")
        numbers["peak_bytes"] = {n: peak_memory(form, args.device) for n, form in forms.items()}
        for name, size in numbers["peak_bytes"].items():
            rows[name].append(f"{size / 2**20:,.1f}")
    finish(args, about, [head, *([name, *rows[name]] for name in rows)], numbers)


def finish(args: argparse.Namespace, about: str, rows: list[list[str]], numbers: dict) -> None:
    """Prints a table with its head in the first row, and writes the numbers if --json is given."""
    print(f"{machine(args)}\n{about}\n")
    lines = [rows[0], ["---", *["---:"] * (len(rows[0]) - 1)], *rows[1:]]
    print("\n".join("| " + " | ".join(line) + " |" for line in lines))
    if args.json:
        args.json.write_text(json.dumps(numbers, indent=1) + "\n")


def spread(values: list[float], digits: int) -> str:
    """median (lowest to highest)"""
    ordered = min(values), statistics.median(values), max(values)
    low, middle, high = (f"{value:,.{digits}f}" for value in ordered)
    return f"{middle} ({low}–{high})"


def machine(args: argparse.Namespace) -> str:
    name = f"{args.threads} threads of {platform.processor() or platform.machine()}"
    if torch.device(args.device).type == "cuda":
        name = torch.cuda.get_device_name(args.device)
    return f"{name}, torch {torch.__version__}, {args.repeats} repeats, {args.clock} time"

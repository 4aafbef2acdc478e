"""
A whole run of main.py with and without --eval_every 5, on DBLP: 20,000 test titles, and at ir 50
with at most 1,000 a class 1,824 training titles.

    python benchmarks/evaluation.py --data_dir ../shared/datasets
    python benchmarks/evaluation.py --data_dir ../shared/datasets --flags "--freeze_layers 4"

The runs take turns, after one that leaves tokens, second views and kept states for all of them.
"""

import resource
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measure import finish, parse, ratios, spread, table

ROOT = Path(__file__).resolve().parents[1]


def seconds_of(command: list[str], clock: str) -> float:
    """Of the command, by the clock or of all cores."""
    start, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    taken, now = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return taken if clock == "wall" else sum(now[:2]) - sum(used[:2])


def benchmark() -> None:
    args = parse(
        __doc__,
        ("--data_dir", {"default": "data"}),
        ("--epochs", {"type": int, "default": 10}),
        ("--flags", {"default": "", "help": "more flags of main.py"}),
    )
    common = [
        sys.executable,
        str(ROOT / "main.py"),
        "--dataset",
        "dblp",
        "--ir",
        "50",
        "--max_per_class",
        "1000",
        "--encoder",
        "minilm",
        "--batch_size",
        "64",
        "--data_dir",
        args.data_dir,
        "--device",
        args.device,
        "--overwrite",
        *shlex.split(args.flags),
    ]
    forms, seconds = {"after each epoch": [], "--eval_every 5": ["--eval_every", "5"]}, {}
    with tempfile.TemporaryDirectory() as folder:
        common += ["--output_dir", folder]
        seconds_of([*common, "--epochs", "1"], args.clock)
        for _ in range(args.repeats):
            for name, flags in forms.items():
                seconds.setdefault(name, []).append(
                    seconds_of([*common, "--epochs", str(args.epochs), *flags], args.clock)
                )
    rows = [
        [name, spread(seconds[name], 0, " s"), spread(ratios(seconds, name, "after each epoch"), 2)]
        for name in forms
    ]
    finish(
        args,
        f"DBLP, {args.epochs} epochs{' with ' + args.flags if args.flags else ''}, whole "
        "runs from their start to their end\n\n"
        + table(["evaluated", "a run", "of the first"], rows),
        {"seconds": seconds},
    )


if __name__ == "__main__":
    benchmark()

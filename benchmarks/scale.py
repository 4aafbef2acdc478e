"""
Measures the time, memory and disk that main.py needs for large data.

    The data are a million short texts of a thousand classes, made from WordNet's glosses. The
    encoder is small, so that data and loss take most of the time, and two of its layers are frozen.
    It measures an interrupted start; the next start, interrupted in the second epoch; the rest;
    and an epoch by two processes.

    python benchmarks/scale.py
"""

import csv
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from measure import finish, parse, random_bert

from data import read_wordnet

ROOT = Path(__file__).resolve().parents[1]


def make_corpus(path: Path, num_texts: int, num_classes: int) -> None:
    """
    Writes the texts: a class is a range of glosses in WordNet's file, and a text has the first 14
    words of two of its glosses. The first classes are the largest.
    """
    glosses, rng = [gloss for gloss, _ in read_wordnet()], random.Random(0)
    size = len(glosses) // num_classes
    with open(path, "w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"])
        for _ in range(num_texts):
            label = int(num_classes * rng.random() ** 2)
            pair = rng.choices(glosses[label * size : (label + 1) * size], k=2)
            rows.writerow([" ".join("; ".join(pair).split()[:14]), f"class {label}"])


class Job:
    """main.py with these flags: seconds to its first step and in all, and its peak memory."""

    def __init__(self, *flags: str, processes: int = 1):
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        del environment["TQDM_DISABLE"]  # set by measure.py; the bar shows the first step
        self.start, self.to_first_step = time.monotonic(), None
        launch = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
        self.process = subprocess.Popen(
            [sys.executable, *(launch if processes > 1 else []), str(ROOT / "main.py"), *flags],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment,
            # background jobs of a shell ignore SIGINT, and children inherit this
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def run(self, seconds: float | None = None, until: str = "") -> "Job":
        """Waits for the end; may interrupt after these seconds, counted from the text `until`."""
        if seconds is not None and not until:
            self.interrupt_in(seconds)
        text = ""
        for piece in iter(lambda: self.process.stderr.read1(4096), b""):
            text = (text + piece.decode(errors="replace"))[-4096:]
            if self.to_first_step is None and "epoch " in text:
                self.to_first_step = time.monotonic() - self.start
            if until and until in text:
                self.interrupt_in(seconds)
                until = ""
        _, status, used = os.wait4(self.process.pid, 0)
        self.took, self.peak = time.monotonic() - self.start, used.ru_maxrss / 2**20  # GiB
        code = self.process.returncode = os.waitstatus_to_exitcode(status)
        if code not in (0, 130):
            raise SystemExit(f"main.py ended with {code}: {text.strip()}")
        return self

    def interrupt_in(self, seconds: float) -> None:
        timer = threading.Timer(seconds, self.process.send_signal, [signal.SIGINT])
        timer.daemon = True
        timer.start()


def row(name: str, job: Job) -> list[str]:
    first = "–" if job.to_first_step is None else f"{job.to_first_step:.0f} s"
    return [name, first, f"{job.took:.0f} s", f"{job.peak:.1f} GiB"]


def benchmark() -> None:
    args = parse(
        __doc__,
        ("--texts", {"type": int, "default": 1_000_000}),
        ("--classes", {"type": int, "default": 1000}),
        ("--interrupt", {"type": float, "default": 30, "help": "seconds, of start and epoch"}),
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_corpus(folder / "million.csv", args.texts, args.classes)
        small = {"hidden_size": 64, "num_hidden_layers": 4, "intermediate_size": 128}
        random_bert(str(folder / "encoder"), num_attention_heads=2, **small)
        flags = ["--dataset", str(folder / "million.csv"), "--encoder", str(folder / "encoder")]
        flags += ["--batch_size", "512", "--device", args.device, "--output_dir", f"{folder}/runs"]
        flags += ["--freeze_layers", "2", "--no_weights"]
        two, one = [*flags, "--epochs", "2"], [*flags, "--epochs", "1"]
        rows = [
            row(f"{args.texts:,} texts, interrupted", Job(*two).run(args.interrupt)),
            row("… again, and in the second epoch", Job(*two).run(args.interrupt, "epoch 2/2")),
            row("… the second epoch", Job(*two).run()),
            row("an epoch by two processes", Job(*one, processes=2).run()),
        ]
        disk = sum(path.stat().st_size for path in (folder / "runs").rglob("*") if path.is_file())
    about = f"{args.texts:,} texts of {args.classes:,} classes, {disk / 2**30:.1f} GiB on the disk"
    head = ["", "to the first step", "in all", "peak memory"]
    finish(args, about, [head, *rows], {"rows": rows, "disk": disk})


if __name__ == "__main__":
    benchmark()

"""
Large data: how long main.py takes to its first training step, and how much memory.

    a million short texts of a thousand classes, made from WordNet's glosses: a start that is
    interrupted, the start after it, a second start; training for a while, with an encoder small
    enough that the data are what counts

    python benchmarks/scale.py --train 30
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

from measure import finish, parse, random_bert, table

from data import read_wordnet

ROOT = Path(__file__).resolve().parents[1]


def make_corpus(path: Path, num_texts: int, num_classes: int) -> None:
    """
    Each class is a run of neighbouring glosses in WordNet's file, each text the first 14 words of
    two of them; the first classes are the large ones.
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
    """main.py with these flags: seconds to its first step, and the most memory at any moment."""

    def __init__(self, *flags: str):
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        del environment["TQDM_DISABLE"]  # set by measure.py; the bar shows the first step
        self.start, self.to_first_step = time.monotonic(), None
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "main.py"), *flags],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment,
            # a shell starts what is in its background with SIGINT ignored, and children inherit it
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def run(self, seconds: float | None = None, after_first_step: float | None = None) -> "Job":
        """Until it ends; or interrupts it after so many seconds, or so many of training."""
        if seconds is not None:
            self.interrupt_in(seconds)
        text = ""
        for piece in iter(lambda: self.process.stderr.read1(4096), b""):
            text = (text + piece.decode(errors="replace"))[-4096:]
            if self.to_first_step is None and "epoch 1/" in text:
                self.to_first_step = time.monotonic() - self.start
                if after_first_step is not None:
                    self.interrupt_in(after_first_step)
        _, status, used = os.wait4(self.process.pid, 0)
        self.peak = used.ru_maxrss / 2**20  # GiB
        code = self.process.returncode = os.waitstatus_to_exitcode(status)
        if code not in (0, 130):
            raise SystemExit(f"main.py ended with {code}: {text.strip().splitlines()[-1]}")
        return self

    def interrupt_in(self, seconds: float) -> None:
        timer = threading.Timer(seconds, self.process.send_signal, [signal.SIGINT])
        timer.daemon = True
        timer.start()


def row(name: str, job: Job) -> list[str]:
    first = "–" if job.to_first_step is None else f"{job.to_first_step:.0f} s"
    return [name, first, f"{job.peak:.1f} GiB"]


def benchmark() -> None:
    args = parse(
        __doc__,
        ("--texts", {"type": int, "default": 1_000_000}),
        ("--classes", {"type": int, "default": 1000}),
        ("--interrupt", {"type": float, "default": 60, "help": "seconds, of the first start"}),
        ("--train", {"type": float, "default": 60, "help": "seconds of training"}),
    )
    with tempfile.TemporaryDirectory() as name:
        folder, rows = Path(name), []
        make_corpus(folder / "million.csv", args.texts, args.classes)
        small = {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 128}
        random_bert(str(folder / "encoder"), num_attention_heads=2, **small)
        flags = ["--dataset", str(folder / "million.csv"), "--encoder", str(folder / "encoder")]
        flags += ["--batch_size", "512", "--device", args.device, "--output_dir", f"{folder}/runs"]
        rows.append(row(f"{args.texts:,} texts, interrupted", Job(*flags).run(args.interrupt)))
        rows.append(row("… started again, trained", Job(*flags).run(after_first_step=args.train)))
        rows.append(row("… and again", Job(*flags).run(after_first_step=0)))
    finish(args, table(["", "to the first step", "peak memory"], rows), {"rows": rows})


if __name__ == "__main__":
    benchmark()

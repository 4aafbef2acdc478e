"""
Runs a grid of runs: every line of standard input has the arguments of one run of main.py.

    echo "--dataset trec --ir 50" | python -m engine.grid
    bash run_all.sh table2                      # run_all.sh writes the lines of the paper's grids

Finished runs are skipped, so the same command resumes where it stopped, and any number of processes
may work on a grid at once. Exit code: 1 if a run failed, 2 on bad input, 130 if stopped.
"""

import argparse
import contextlib
import fcntl
import io
import os
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter, deque
from pathlib import Path
from statistics import mean
from typing import Iterable, Iterator, NamedTuple

import torch

from data import DATASETS
from engine.arguments import DEFAULTS, Arguments, last_of_each, number, parse_args
from engine.corpus import load_corpus
from engine.escape import shell
from engine.files import InputError, Parser, duration, one_line_errors, printable, read_json
from engine.run_folder import Busy, last_plot
from engine.signals import ENDING

MAIN = Path(__file__).parents[1] / "main.py"  # the script of each run
STARTUP = 6  # seconds of a process that its result.json does not count

# ---- the runs ----


class GridRun(NamedTuple):
    """One run: its arguments, as typed and as understood, and its folder."""

    argv: list[str]
    args: Arguments
    folder: Path


def read_cells(lines: Iterable[str]) -> list[GridRun]:
    """Parses lines of text into runs; InputError as in cells_of()."""
    runs = []
    for line in filter(None, map(str.strip, lines)):
        try:
            runs.append(shlex.split(line))
        except ValueError as error:
            raise InputError(f"line {line!r}: {error}") from error
    return cells_of(runs)


def cells_of(runs: Iterable[list[str]]) -> list[GridRun]:
    """
    The distinct runs, each with --plots if one of its copies has it. If a flag is repeated, the
    last value counts, so that FLAGS of run_all.sh override those of a table. InputError if two
    different runs have the same folder: its name has only the last part of a path, and six digits
    of a number.
    """
    cells: dict[Path, GridRun] = {}
    for words in runs:
        errors, argv = io.StringIO(), last_of_each(words)
        try:
            with contextlib.redirect_stderr(errors):
                args = parse_args(argv)
        except SystemExit as error:  # of argparse
            reason = errors.getvalue().strip().split("error: ")[-1]
            raise InputError(f"line {shlex.join(words)!r}: {reason}") from error
        cell = GridRun(argv, args, args.folder)
        before = cells.get(cell.folder, cell)
        if (before.args.settings, before.args.dataset) != (args.settings, args.dataset):
            raise InputError(
                f"line {shlex.join(words)!r} and {shlex.join(before.argv)!r} are different runs "
                f"for one folder, {cell.folder.name}: give them two --output_dir"
            )
        cells[cell.folder] = cell if args.plots else before
    if not cells:
        raise InputError("standard input: no runs are left of what was asked for")
    return list(cells.values())


def is_whole(cell: GridRun) -> bool:
    """Whether the result exists and, if asked for, the plots."""
    has_plots = not cell.args.plots or (cell.folder / last_plot(cell.args.method)).exists()
    return has_plots and (cell.folder / "result.json").exists()


def has_younger_texts(cell: GridRun) -> bool:
    """Whether own texts are newer than the result, so that main.py must check if they differ."""
    path = Path(cell.args.dataset)
    files = [path, *path.rglob("*")] if cell.args.dataset not in DATASETS else []
    changes = [file.stat().st_mtime for file in files if file.is_file()]
    return max(changes, default=0) > (cell.folder / "result.json").stat().st_mtime


def state(cell: GridRun) -> str:
    """Returns finished (on the current texts), running (by its lock) or open."""
    if is_whole(cell) and not has_younger_texts(cell):
        return "finished"
    try:
        with open(cell.folder / ".lock") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return "running"
    except OSError:  # no lock file yet, or a file system without locks, which main.py reports
        pass
    return "open"


def label(cell: GridRun) -> str:
    """A name such as "trec ir50 bert seed 0", with changed options before the seed."""
    args = cell.args
    own = {"augment": args.augment} if args.augment != DEFAULTS["augment"] else {}
    ir = "original" if args.ir is None else f"ir{args.ir:g}"
    others = "".join(f"{name} {value} " for name, value in (args.changed | own).items())
    return printable(f"{Path(args.dataset).stem} {ir} {args.method} {others}seed {args.seed}")


def log_of(cell: GridRun) -> Path:
    return cell.folder.parent / "logs" / f"{cell.folder.name}.log"


# ---- the processes ----


def environment(cell: GridRun, slot: int, jobs: int) -> dict[str, str]:
    """The environment of a job: its share of the cores and, if there are several jobs, one GPU."""
    all_cores = os.cpu_count() or 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else all_cores
    env = {
        "OMP_NUM_THREADS": str(max(1, cores // jobs)),
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TQDM_DISABLE": "1",
    }
    if jobs > 1 and cell.args.device == "cuda":
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        gpus = visible.split(",") if visible else range(torch.cuda.device_count())
        env["CUDA_VISIBLE_DEVICES"] = str(gpus[slot % len(gpus)])
    return env


def start(cell: GridRun, slot: int, jobs: int) -> subprocess.Popen:
    """Starts a run in its own session, so that it gets Ctrl-C only once, from this process."""
    command = [sys.executable, str(MAIN), *cell.argv]
    log_of(cell).parent.mkdir(parents=True, exist_ok=True)
    with open(log_of(cell), "a", encoding="utf-8") as log:
        print("$", shell(command), file=log, flush=True)
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment(cell, slot, jobs),
            start_new_session=True,
        )


def execute(cells: list[GridRun], jobs: int, signals: list[int]) -> Iterator[tuple[GridRun, int]]:
    """
    Runs the cells and yields each with its exit code; stops the running ones when it is closed. A
    cell that another process is running goes to the end of the queue until it is finished or free.
    """
    waiting, is_waiting_for_others = deque(cells), False
    running: dict[int, tuple[GridRun, subprocess.Popen]] = {}
    try:
        while (waiting or running) and not signals:
            for slot in set(range(jobs)) - set(running):
                for _ in range(len(waiting)):
                    cell = waiting.popleft()
                    if (now := state(cell)) == "open":
                        running[slot] = cell, start(cell, slot, jobs)
                        break
                    if now == "finished":
                        yield cell, 0
                    else:
                        waiting.append(cell)
            if waiting and not running and not is_waiting_for_others:
                is_waiting_for_others = True
                print(f"waiting for {len(waiting)} runs of other processes", flush=True)
            time.sleep(0.1 if running else 2)
            for slot, (cell, process) in list(running.items()):
                if process.poll() is not None:
                    del running[slot]
                    if process.returncode == Busy.exit_code:
                        waiting.append(cell)
                    else:
                        yield cell, process.returncode
    finally:
        for _, process in running.values():
            process.terminate()  # main.py keeps its complete epochs; a script may ignore SIGINT
        for _, process in running.values():
            process.wait()


# ---- what is shown ----


def estimate(num_open: int, finished: list[GridRun], jobs: int) -> str:
    """Estimates the time of the open runs from the mean of the finished ones."""
    if not finished:
        return "no run is finished yet, so there is no estimate"
    seconds = mean(read_json(cell.folder / "result.json")["seconds"] for cell in finished)
    total = num_open * (STARTUP + seconds) / jobs
    return f"about {duration(total)}, by the mean of {len(finished)} finished"


def ending(cell: GridRun, code: int) -> tuple[bool, str]:
    """Whether a run has succeeded, and its numbers or the reason for its failure."""
    if code == 0 and is_whole(cell):
        result = read_json(cell.folder / "result.json")
        last, took = result["last"], duration(result["seconds"])
        if "macro_f1" not in last:  # --test_fraction 0
            return True, f"no test texts, {took}"
        return True, f"accuracy {last['accuracy']:.1f}, macro-F1 {last['macro_f1']:.1f}, {took}"
    lines = log_of(cell).read_text(encoding="utf-8", errors="replace").splitlines()
    return False, f"FAILED (exit {code}): {[line for line in lines if line.strip()][-1]}"


def dry_run(cells: list[GridRun], all_cells: list[GridRun], jobs: int) -> None:
    states = {cell.folder: state(cell) for cell in all_cells}
    for cell in cells:
        print(f"{states[cell.folder]:<9} {shell(['python', 'main.py', *cell.argv])}")
    count = Counter(states[cell.folder] for cell in cells)
    finished = [cell for cell in all_cells if states[cell.folder] == "finished"]
    print(
        f"{len(cells)} runs: {count['finished']} finished, {count['running']} running elsewhere, "
        f"{count['open']} open, {jobs} at a time: {estimate(count['open'], finished, jobs)}"
    )


def run(cells: list[GridRun], jobs: int) -> int:
    """Runs the open cells and prints a line for each that ends; returns the exit code."""
    signals, failed = [], []
    for name in ENDING:
        signal.signal(name, lambda received, _: signals.append(received))
    todo = [cell for cell in cells if state(cell) != "finished"]
    begin, before = time.monotonic(), len(cells) - len(todo)
    print(f"{len(cells)} runs, {before} of them finished before, {jobs} at a time", flush=True)
    for done, (cell, code) in enumerate(execute(todo, jobs, signals), start=before + 1):
        is_good, found = ending(cell, code)
        text = f"{label(cell)}: {found}"
        if not is_good:
            failed.append(f"{text} ({log_of(cell)})")
        left = (time.monotonic() - begin) / (done - before) * (len(cells) - done)
        print(f"[{done}/{len(cells)}] {text}; {duration(left)} left", flush=True)
    if signals:
        print(
            f"stopped: {sum(state(cell) == 'finished' for cell in cells)} of {len(cells)} runs "
            "are finished; the same command goes on",
            flush=True,
        )
        return 130
    for text in failed:
        print(text, flush=True)
    return 1 if failed else 0


# ---- the command line ----


def shard(text: str) -> tuple[int, int]:
    """An argparse type: i/n with 1 <= i <= n."""
    i, _, n = text.partition("/")
    if not (i.isdecimal() and n.isdecimal() and 1 <= int(i) <= int(n)):
        raise argparse.ArgumentTypeError(f"{text} must be i/n with i from 1 to n")
    return int(i), int(n)


@one_line_errors
def main(
    argv: list[str] | None = None, runs: list[list[str]] | None = None, checks_first: bool = False
) -> int:
    """
    argv          arguments of this command; default: those of the process
    runs          arguments of each run; default: the lines of standard input
    checks_first  first reads the texts, so that faulty texts fail once and not in every run
    """
    parser = Parser(description=__doc__)
    add = parser.add_argument
    add("--jobs", type=number(int, 1), default=1, help="processes at a time")
    add("--shard", type=shard, default=(1, 1), metavar="i/n", help="every n-th run, from the i-th")
    add("--dry_run", action="store_true", help="show the runs, and start none")
    args = parser.parse_args(argv)
    all_cells, (i, n) = read_cells(sys.stdin) if runs is None else cells_of(runs), args.shard
    cells = all_cells[i - 1 :: n]
    if args.dry_run:
        dry_run(cells, all_cells, args.jobs)
        return 0
    if checks_first:
        load_corpus(all_cells[0].args)
    return run(cells, args.jobs)


if __name__ == "__main__":
    sys.exit(main())

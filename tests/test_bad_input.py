"""
What a user can do wrong, and what can go wrong on the way, through main.py's command line: one line
that says what, where and what to do, exit code 2, and nothing lost that was there.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from conftest import folder_of, small_files, stopped_after, write_csv
from safetensors import SafetensorError
from test_main import outcome

import main as main_module
from engine.arguments import last_of_each
from engine.files import InputError, read_json
from main import main

ROOT = Path(__file__).parent.parent


def command_of(*places) -> list[str]:
    """Of a run of two epochs that takes a second."""
    own = "--dataset {} --encoder {} --output_dir {}".format(*places)
    return f"{own} --epochs 2 --batch_size 16 --lr 1e-3 --device cpu".split()


@pytest.fixture
def command(corpus_folder, tiny_encoder, tmp_path):
    return command_of(corpus_folder, tiny_encoder, tmp_path / "runs")


@pytest.fixture(scope="module")
def whole(corpus_folder, tiny_encoder, tmp_path_factory):
    """The folder with the finished run of `command`."""
    folder = tmp_path_factory.mktemp("whole")
    assert main(command_of(corpus_folder, tiny_encoder, folder)) == 0
    return folder


@pytest.fixture
def finished(whole, tmp_path):
    """A copy of it, which `command` finds, and the run's folder therein."""
    shutil.copytree(whole, tmp_path / "runs")
    return folder_of(tmp_path / "runs")


def last_line(capsys) -> str:
    """The one line of error, after whatever was shown before it; no traceback."""
    output = capsys.readouterr().err
    assert "Traceback" not in output
    lines = output.strip().splitlines()
    assert sum(line.startswith("error: ") for line in lines) == 1 and lines[-1][:7] == "error: "
    return lines[-1]


# ---- the data ----


def test_a_hundred_thousand_rows_with_a_class_of_three_are_checked_in_seconds(command, tmp_path):
    rows = [(f"text number {i}", "rare" if i < 3 else "ab"[i % 2]) for i in range(100_000)]
    path, began = write_csv(tmp_path / "rows.csv", rows), time.monotonic()
    assert main([*command, "--dataset", str(path), "--check_only"]) == 0
    (folder,) = (tmp_path / "runs").glob("*_check")
    summary = json.loads((folder / "data_report.json").read_text())
    assert [row["train"] for row in summary["classes"] if row["label"] == "rare"] == [2]
    assert time.monotonic() - began < 60


# ---- the disk ----


@contextmanager
def small_disk(folder: Path, size: str):
    """A file system of this size at folder, and a function that gives it other options."""

    def mount(*words: str) -> bool:
        return subprocess.run([*words, str(folder)], capture_output=True).returncode == 0

    folder.mkdir()
    if not mount("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs"):
        pytest.skip("a small file system cannot be mounted here")
    try:
        yield lambda options: mount("mount", "-o", f"remount,{options}")
    finally:
        mount("umount")


@pytest.mark.parametrize("room", [200, 5_000, 30_000, 70_000])  # of records, tokens, weights
def test_a_file_without_room_ends_in_one_line_and_the_same_command_goes_on(
    command, whole, tmp_path, capsys, room
):
    with small_files(room):
        assert main(command) == 2
    line = last_line(capsys)
    assert str(tmp_path / "runs") in line and "File too large" in line
    assert {path.name for path in tmp_path.rglob(".*")} == {".lock"}  # no half of a file
    assert main(command) == 0
    assert outcome(tmp_path / "runs") == outcome(whole)


def test_an_output_folder_that_cannot_be_written_is_one_line_and_what_it_holds_stays(
    command, tmp_path, capsys
):
    with small_disk(tmp_path / "disk", "64m") as remount:
        there = [*command, "--output_dir", str(tmp_path / "disk")]
        assert main(there) == 0
        before = outcome(tmp_path / "disk")
        assert remount("ro")
        for more in (["--overwrite"], ["--seed", "7"], ["--check_only"]):
            capsys.readouterr()
            assert main([*there, *more]) == 2
            line = last_line(capsys)
            assert "Read-only" in line and "--output_dir" in line
        assert outcome(tmp_path / "disk") == before


# ---- the run's folder ----


def test_a_damaged_checkpoint_is_named_and_the_remedy_works(command, whole, tmp_path, capsys):
    with stopped_after(1):  # test_fuzz.py damages each file in every way
        assert main(command) == 130
    checkpoint = folder_of(tmp_path / "runs") / "checkpoint-1"
    path = checkpoint / "model.safetensors"
    path.write_bytes(damaged := path.read_bytes()[:-2])
    capsys.readouterr()
    assert main(command) == 2
    line = last_line(capsys)
    assert f"{checkpoint} is damaged" in line and "delete this folder" in line
    assert path.read_bytes() == damaged
    shutil.rmtree(checkpoint)
    assert main(command) == 0
    assert outcome(tmp_path / "runs") == outcome(whole)


@pytest.mark.parametrize("damage", [lambda text: text[:-40], lambda text: "", lambda text: "[]"])
@pytest.mark.parametrize("name", ["args.json", "result.json"])
def test_a_damaged_record_of_a_finished_run_is_named_and_overwrite_heals_it(
    command, finished, tmp_path, capsys, name, damage
):
    before, path = outcome(tmp_path / "runs"), finished / name
    path.write_text(damage(path.read_text()))
    capsys.readouterr()
    assert main(command) == 2
    line = last_line(capsys)
    assert str(path) in line and "--overwrite" in line
    assert main([*command, "--overwrite"]) == 0 and outcome(tmp_path / "runs") == before


def test_a_record_that_one_may_not_read_is_not_called_damaged(tmp_path, monkeypatch):
    def refused(path, **_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_text", refused)
    with pytest.raises(InputError, match=r"cannot be read \(Permission denied\)") as error:
        read_json(tmp_path / "args.json")
    assert not re.search("damaged|--overwrite", str(error.value))


def test_an_absent_report_of_a_finished_run_is_named(command, finished, capsys):
    path = finished / "classification_report.txt"
    path.unlink()
    assert main(command) == 2
    assert str(path) in last_line(capsys)


def test_damaged_weights_are_named_where_plots_need_them(command, finished, capsys):
    path = finished / "model" / "model.safetensors"
    content = path.read_bytes()
    for damaged in (b"", content[:-1], content[:100], b"\xff" * 100):
        path.write_bytes(damaged)
        capsys.readouterr()
        assert main([*command, "--plots"]) == 2
        assert str(path) in (line := last_line(capsys)) and "--overwrite" in line
    assert main([*command, "--overwrite", "--plots"]) == 0 and path.read_bytes() == content


# ---- faults and signals ----


def raises(error: Exception):
    raise error


NO_MEMORY = [
    lambda *_, **__: raises(MemoryError("1 TB")),
    lambda *_, **__: raises(torch.OutOfMemoryError("CUDA\nand more")),
    lambda *_, **__: torch.empty(2**58),  # the allocator of a CPU
    lambda *_, **__: raises(RuntimeError("could not create a primitive")),  # oneDNN
    lambda *_, **__: raises(OSError(12, "Cannot allocate memory")),
    lambda *_, **__: raises(SafetensorError("I/O error: Cannot allocate memory (os error 12)")),
]


@pytest.mark.parametrize("fail", NO_MEMORY)
def test_no_memory_left_is_one_line(command, capsys, monkeypatch, fail):
    monkeypatch.setattr(main_module, "train", fail)
    assert main(command) == 2
    assert "out of memory" in (line := last_line(capsys)) and "--micro_batch" in line


def test_output_that_nobody_reads_any_more_is_an_interruption(command, capsys, monkeypatch):
    monkeypatch.setattr(main_module, "train", lambda *_: raises(BrokenPipeError(32, "Broken pipe")))
    assert main(command) == 130  # of main.py | head, say
    assert capsys.readouterr().err.splitlines()[-1].startswith("interrupted: the same command")


ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}  # two wait for each other on small tensors
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


def start(script: str, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(ROOT / script), *arguments],
        env=ONE_THREAD,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: [signal.signal(number, signal.SIG_DFL) for number in SIGNALS],
    )


def catches(pid: int, number: int) -> bool:
    """Whether a process has a handler of its own for the signal, as Linux tells."""
    status = Path(f"/proc/{pid}/status").read_text()
    return bool(int(re.search("SigCgt:\\s*(\\w+)", status)[1], 16) >> (number - 1) & 1)


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("script", ["main.py", "predict.py", "report.py"])
def test_a_signal_while_the_libraries_load_leaves_one_line(number, script, tmp_path):
    process = start(script, str(tmp_path))
    while not catches(process.pid, signal.SIGHUP):  # the last of its handlers
        time.sleep(0.01)
    process.send_signal(number)
    assert process.communicate()[1] == "interrupted\n"
    assert process.returncode == 128 + number


@pytest.mark.slow
def test_a_signal_ends_a_run_in_one_line_and_leaves_nothing_half_written(command, tmp_path):
    number = signal.SIGHUP
    process = start("main.py", *last_of_each([*command, "--epochs", "1000"]))
    while not list(tmp_path.glob("runs/*/checkpoint-*")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(number)
    process.send_signal(number)  # as a terminal that closes: by the kernel, and by the shell
    _, errors = process.communicate()
    assert process.returncode == 128 + number and "Traceback" not in errors
    assert errors.splitlines()[-1].startswith("interrupted: the same command goes on")
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("ignored", [(), (signal.SIGHUP,), (signal.SIGINT, signal.SIGHUP)])
def test_a_signal_that_nohup_or_a_shell_has_ignored_stays_ignored(ignored):
    def set_signals():
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)

    code = (
        "import signal; from engine import signals; signals.end_at_once(); "
        "signals.run(lambda: print([signal.getsignal(number) == signal.SIG_IGN for number in "
        "(signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, text=True, stdout=-1, preexec_fn=set_signals
    )
    assert ran.stdout.strip() == str([number in ignored for number in SIGNALS])

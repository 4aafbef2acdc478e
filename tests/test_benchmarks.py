"""benchmarks/: that they run, and which clock they look at; test_docs.py has their commands."""

import itertools
import runpy
import sys
from pathlib import Path

import pytest

import main

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def as_a_script(monkeypatch):
    """Their folder is on the path, and the variable that they set is as it was."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.syspath_prepend(str(BENCHMARKS.parent))  # predict is ours, not theirs
    monkeypatch.setenv("TQDM_DISABLE", "1")


def rows_of(name: str, flags: list[str], monkeypatch, capsys) -> list[str]:
    """The first column of the table that a benchmark prints."""
    monkeypatch.setattr(sys, "argv", [name, *flags, "--repeats", "1", "--threads", "1"])
    runpy.run_path(str(BENCHMARKS / name), run_name="__main__")
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    return [row.split(" | ")[0].removeprefix("| ") for row in rows[2:]]


def test_loss_and_step_run(tiny_encoder, corpus_folder, monkeypatch, capsys):
    sizes = ["--classes", "3", "--batch", "4", "--dim", "8"]
    assert rows_of("loss.py", sizes, monkeypatch, capsys)[0] == "ours"
    run = ["--encoder", str(tiny_encoder), "--dataset", str(corpus_folder), "--per_class", "4"]
    run += ["--batch_size", "8", "--device", "cpu"]
    steps = rows_of("step.py", [*run, "--micro_batch", "4"], monkeypatch, capsys)
    assert steps == ["encoder alone", "sclce", "sharprecl", "sharprecl, --micro_batch 4"]


def test_predict_is_measured_beside_the_bare_encoder(
    tmp_path, tiny_encoder, corpus_folder, monkeypatch, capsys
):
    options = f"--epochs 1 --batch_size 16 --device cpu --output_dir {tmp_path}".split()
    dataset = ["--dataset", str(corpus_folder), "--encoder", str(tiny_encoder)]
    assert main.main([*dataset, *options]) == 0
    [run] = [path.parent for path in tmp_path.glob("*/result.json")]
    capsys.readouterr()
    flags = ["--model_dir", str(run), "--texts", "20", "--device", "cpu"]
    assert rows_of("predict.py", flags, monkeypatch, capsys) == ["bare encoder", "Predictor"]


def test_the_clock_asked_for_is_looked_at(monkeypatch):
    measure = runpy.run_path(str(BENCHMARKS / "measure.py"))
    clock = itertools.count()  # a second between two looks
    monkeypatch.setitem(measure["CLOCKS"], "cpu", lambda: next(clock))
    seconds = measure["interleaved"](dict.fromkeys("ab", lambda: None), 2, clock="cpu")
    assert seconds == {"a": [1, 1], "b": [1, 1]}

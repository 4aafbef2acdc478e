"""benchmarks/: that they run, and which clock they look at; test_docs.py has their commands."""

import argparse
import gc
import itertools
import runpy
import sys
from pathlib import Path

import pytest

import main

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def as_a_script(monkeypatch):
    """Their folder is on the path, and the variable that they set is as it was afterwards."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setenv("TQDM_DISABLE", "1")


def test_predict_is_measured_from_file_to_file(
    tmp_path, tiny_encoder, corpus_folder, monkeypatch, capsys
):
    options = f"--epochs 1 --batch_size 16 --device cpu --output_dir {tmp_path}".split()
    dataset = ["--dataset", str(corpus_folder), "--encoder", str(tiny_encoder)]
    assert main.main([*dataset, *options]) == 0
    [run] = [path.parent for path in tmp_path.glob("*/result.json")]
    capsys.readouterr()
    argv = ["predict.py", "--model_dir", str(run), "--texts", "20", "--repeat", "1"]
    monkeypatch.setattr(sys, "argv", argv)
    runpy.run_path(str(BENCHMARKS / "predict.py"), run_name="__main__")
    rows = capsys.readouterr().out.splitlines()[-2:]
    assert [row.split(" | ")[0] for row in rows] == ["| by the clock", "| by CPU time"]


def test_growth_is_measured_by_the_clock_asked_for(monkeypatch):
    loss = runpy.run_path(str(BENCHMARKS / "loss.py"))
    clock = itertools.count()  # a second between two looks
    monkeypatch.setitem(sys.modules["measure"].CLOCKS, "cpu", lambda: next(clock))
    growth = loss["growth"]
    for name in ("gradients", "peak_memory"):  # which take long, and are not looked at
        monkeypatch.setitem(growth.__globals__, name, lambda *_: 0)
    monkeypatch.setattr(gc, "collect", lambda: 0)  # as does this, of all that pytest holds
    found = growth(argparse.Namespace(dim=4, device="cpu", repeats=1, clock="cpu"))
    points = [point for points in found.values() for point in points.values()]
    assert [point["milliseconds"] for point in points] == [[1000]] * len(points)

"""distributed.py: several processes by torchrun do what one does."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import folder_of, save_tiny_encoder, untrained

import main as main_module
from engine import distributed
from engine.files import InputError

ROOT = Path(__file__).parent.parent
METHODS = ["sharprecl", "bcl", "dualcl", "tsc", "simcse"]
COMMON = "--device cpu --batch_size 16 --lr 1e-3".split()

GRADIENTS = """
import sys, torch
from engine import distributed
from test_distributed import METHODS, gradients
with distributed.joined("cpu"), distributed.quiet_but_main():
    torch.save({name: gradients(name, *sys.argv[2:]) for name in METHODS},
               f"{sys.argv[1]}-{distributed.rank()}")
"""


def gradients(method, dataset, encoder, output_dir, num_texts=11):
    """Of the second step, on texts that neither two nor three processes share evenly."""
    own = ["--dataset", dataset, "--encoder", encoder, "--output_dir", output_dir]
    run = untrained([*own, "--method", method, *COMMON])
    run.model.train()
    distributed.set_seed(5)
    rows = np.arange(num_texts)
    for t in range(2):  # tsc has nothing to contrast with at its first step
        texts, labels = run.loader.batch(rows)
        with distributed.own_draws(run.loader.device, t):
            feat = run.model.encode(run.loader.forward, texts)
        feat = distributed.gather(feat.float(), len(rows), len(run.model.views))
        if method == "sharprecl":
            step = main_module.objective(
                run.model, feat, labels, run.loader.class_counts, 0.6, run.args
            )
        else:
            step = run.model.losses(feat, labels, 1)
    step.loss.backward()
    distributed.combine_gradients(run.model.encoder, run.model)
    return {name: p.grad for name, p in run.model.named_parameters() if p.grad is not None}


def torchrun(processes, *arguments, **options):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    return subprocess.Popen(
        [*command, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        **options,
    )


@pytest.fixture(scope="module")
def still_encoder(tmp_path_factory):
    """Without dropout, of which every process has its own: nothing else may differ."""
    return str(save_tiny_encoder(tmp_path_factory.mktemp("still"), dropout=0.0, layers=2))


@pytest.mark.slow
def test_the_gradients_are_those_of_one_process(corpus_folder, still_encoder, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(GRADIENTS)
    job = torchrun(3, script, tmp_path / "found", corpus_folder, still_encoder, tmp_path)
    _, errors = job.communicate(timeout=600)
    assert job.returncode == 0, errors
    found = [torch.load(tmp_path / f"found-{rank}") for rank in range(3)]
    for method in METHODS:
        expected = gradients(method, str(corpus_folder), still_encoder, str(tmp_path))
        # that of a key's bias is nothing but rounding: a softmax does not see it
        floor = 1e-7 * max(gradient.abs().max().item() for gradient in expected.values())
        for of_rank in found:
            assert of_rank[method].keys() == expected.keys()
            for name, gradient in expected.items():
                largest = (of_rank[method][name] - gradient).abs().max().item()
                # processors differ in the order of their sums; a lost share would be far more
                assert largest < 1e-4 * gradient.abs().max().item() + floor, (method, name)
                assert torch.equal(of_rank[method][name], found[0][method][name]), name


def test_a_process_beyond_the_last_text_encodes_one_that_does_not_count(monkeypatch):
    monkeypatch.setattr(distributed, "rank", lambda: 2)
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    # what the other processes have is 1
    monkeypatch.setattr(distributed, "all_reduce", lambda whole: whole.add_(1))
    assert distributed.share(np.array([7, 8])).tolist() == [7]
    feat = torch.ones(2, 4, requires_grad=True)  # two views of text 7
    whole = distributed.gather(feat, 2, 2)
    assert whole.tolist() == [[1.0] * 4] * 4 and not distributed.share(np.arange(3))[1:].size
    whole.sum().backward()
    assert feat.grad.abs().sum() == 0


def test_more_processes_than_gpus_are_refused_in_one_line(monkeypatch):
    for name, value in (("TORCHELASTIC_RUN_ID", "1"), ("LOCAL_RANK", "2")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(InputError, match="GPUs, 2: give --nproc_per_node 2"):
        with distributed.joined("cuda"):
            pass
    signal.signal(signal.SIGTERM, handler)


def records(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["test"], line["loss"], line["diagnostics"]) for line in lines]


def close(a, b):
    """Numbers within a chain of dicts, lists and tuples, to 1e-4."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(close(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(close, a, b))
    return a == pytest.approx(b, rel=1e-4, abs=1e-4)


@pytest.fixture
def one_process(corpus_folder, still_encoder, tmp_path):
    """Makes a function that runs these flags in one process: their arguments, and its folder."""

    def run(*flags):
        own = ["--dataset", str(corpus_folder), "--encoder", still_encoder, *COMMON, *flags]
        arguments = [*own, "--output_dir", str(tmp_path / "two")]
        assert main_module.main([*own, "--output_dir", str(tmp_path / "one")]) == 0
        return arguments, folder_of(tmp_path / "one")

    return run


@pytest.mark.slow
def test_two_processes_end_with_the_metrics_of_one_also_with_frozen_layers(one_process, tmp_path):
    arguments, one = one_process("--epochs", "4", "--plots", "--freeze_layers", "1")
    job = torchrun(2, ROOT / "main.py", *arguments)
    output, errors = job.communicate(timeout=600)
    assert job.returncode == 0, errors
    two = folder_of(tmp_path / "two")
    assert close(records(two), records(one))
    lines = [(folder / "predictions.csv").read_text().splitlines() for folder in (one, two)]
    assert len(lines[0]) == len(lines[1])
    assert output.count("\nepoch 4 ") == output.count("never predicted") == 1  # rank 0 alone
    assert {path.name for path in two.iterdir()} == {path.name for path in one.iterdir()}
    states = [
        {path.name: path.read_bytes() for path in (folder.parent / "cache").glob("states-*")}
        for folder in (one, two)
    ]
    assert len(states[0]) == 3 and states[0] == states[1]


@pytest.mark.slow
def test_when_a_process_dies_the_job_ends_and_goes_on_with_another_number(one_process, tmp_path):
    arguments, one = one_process("--epochs", "6", "--amp", "off")
    job = torchrun(2, ROOT / "main.py", *arguments)
    while not list(tmp_path.glob("two/*/checkpoint-*")):
        assert job.poll() is None, job.communicate()[1]
        time.sleep(0.02)
    children = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
    victim = next(
        child
        for child in children
        if "\0RANK=1\0" in "\0" + Path(f"/proc/{child}/environ").read_text()
    )
    os.kill(int(victim), signal.SIGKILL)
    _, errors = job.communicate(timeout=600)
    if job.returncode == 0:
        pytest.skip("the run was finished before its process could be killed")
    lines = [line for line in re.split(r"[\r\n]", errors) if line.startswith("error:")]
    assert len(lines) == 1 and "any number of processes, goes on from the last" in lines[0]
    assert main_module.main(arguments) == 0
    assert close(records(folder_of(tmp_path / "two")), records(one))

"""main.py: Algorithm 1's step, training, results, resume and the command line."""

import csv
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import (
    PUBLISHED,
    folder_of,
    glosses,
    needs_datasets,
    save_tiny_encoder,
    stopped_after,
    untrained,
    write_csv,
)
from matplotlib.image import imread
from scipy.special import logsumexp

import losses
import main as main_module
import report
from engine import environment, files, metrics
from engine.arguments import last_of_each, parse_args
from engine.corpus import load_corpus
from engine.diagnostics import gradient_shares
from engine.grid import read_cells, state
from engine.optimizer import new_optimizer, set_learning_rate
from engine.run_folder import own
from main import main, objective
from predict import Predictor
from reporting import figures

ROOT = Path(__file__).parent.parent


@pytest.fixture
def command(corpus_folder, tiny_encoder, tmp_path):
    """The arguments of a run of two epochs that takes a second."""
    own = f"--dataset {corpus_folder} --encoder {tiny_encoder} --output_dir {tmp_path}"
    return [*own.split(), *"--epochs 2 --batch_size 16 --lr 1e-3 --device cpu".split()]


def outcome(output_dir) -> dict:
    """Whatever a run leaves that must not depend on the clock."""
    folder = folder_of(output_dir)
    result = json.loads((folder / "result.json").read_text())
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for record in (result, *lines):
        record.pop("seconds")
        record.pop("texts_per_second", None)
        record.pop("memory_gib", None)
    return {
        "result": result,
        "metrics": lines,
        "model": {
            str(path.relative_to(folder)): path.read_bytes()
            for path in (folder / "model").rglob("*")
            if path.is_file()
        },
        "predictions": (folder / "predictions.csv").read_text(),
    }


# ---- Algorithm 1 ----


@pytest.fixture
def batch(corpus_folder, tiny_encoder, tmp_path):
    """What a run makes before it trains, and its first batch: the texts and their labels."""

    def make(*options):
        own = f"--dataset {corpus_folder} --encoder {tiny_encoder} --output_dir {tmp_path}"
        run = untrained([*own.split(), "--device", "cpu", *options])
        return run, *run.loader.batch(np.arange(20))

    return make


def test_both_views_of_a_text_share_its_label_and_one_forward_pass(batch):
    run, texts, labels = batch()
    assert len(texts.lengths) == 40 and run.loader.forward(texts).shape == (40, 32)
    assert labels.tolist() == run.corpus.train_labels[:20].tolist() * 2
    second = run.loader.views[1].take(np.array([3]))
    assert texts.take(np.array([23])).ids.tolist() == second.ids.tolist()


def step_of(run, texts, labels):
    """The first of five steps."""
    args, feat = run.args, run.loader.forward(texts)
    ratio = losses.hard_ratio(1, 5, start=args.hard_ratio_start, end=args.hard_ratio_end)
    return objective(run.model, feat, labels, run.loader.class_counts, ratio, args)


def gradients(loss, network):
    network.zero_grad()
    loss.backward(retain_graph=True)
    return {
        name: None if p.grad is None else p.grad.clone() for name, p in network.named_parameters()
    }


def parts_trained(loss, network) -> set[str]:
    got = gradients(loss, network)
    return {name.partition(".")[0] for name, g in got.items() if g is not None and g.any()}


def test_the_overall_loss_is_the_sum_of_both_branches(batch):
    run, texts, labels = batch("--mu", "0.7")
    step = step_of(run, texts, labels)
    assert step.loss.item() == pytest.approx(step.loss_cls.item() + 0.7 * step.loss_cl.item())
    logits = run.model.classify(run.loader.forward(texts))
    assert step.loss_cls.item() == pytest.approx(
        losses.logit_compensation(logits, labels, run.loader.class_counts).item(), rel=1e-5
    )
    assert step.extended.shape == (43, 128)
    shapes = {name: built.weight.shape for name, built in step.mixtures.items()}
    assert shapes == {"pos": (3, 6), "neg": (3, 300)}


@pytest.mark.parametrize(
    "options, by_cls, by_cl",
    [
        ("", "encoder phi", "encoder phi proj_f"),
        # detached features: the classifier still learns, the encoder only from the other branch
        ("--ablation cls", "phi", "encoder phi proj_f"),
        # free prototypes: the contrastive loss no longer reaches the classifier
        ("--ablation mi", "encoder phi", "encoder proj_f"),
    ],
)
def test_which_parts_each_branch_trains(batch, options, by_cls, by_cl):
    run, texts, labels = batch(*options.split())
    step = step_of(run, texts, labels)
    for loss, expected in ((step.loss_cls, by_cls), (step.loss_cl, by_cl)):
        assert parts_trained(loss, run.model) & {"encoder", "phi", "proj_f"} == {*expected.split()}


@pytest.mark.parametrize(
    "ablation, shares", [("ss", (0, 0)), ("hm", (1, 1)), ("sshm", None), (None, (0.4, 0.4))]
)
def test_the_sampling_ablations_leave_out_their_part_of_the_built_samples(
    batch, monkeypatch, ablation, shares
):
    run, texts, labels = batch(*(["--ablation", ablation] if ablation else []))
    contrastive, built = losses.rebalanced_contrastive, []
    monkeypatch.setattr(
        losses,
        "rebalanced_contrastive",
        lambda extended, labels, *sets, **options: (
            built.extend(sets) or contrastive(extended, labels, *sets, **options)
        ),
    )
    step_of(run, texts, labels)
    positives, negatives = built
    if shares is None:
        assert positives.first.shape == (3, 0) and negatives.first.shape == (3, 0)
    else:  # a drawn sample has weight 1; a mixed one only where Beta(0.5, 0.5) rounds to it
        assert positives.first.shape == (3, 10) and negatives.first.shape == (3, 500)
        drawn = [(b.weight == 1).float().mean().item() for b in (positives, negatives)]
        assert drawn == pytest.approx(shares, abs=0.01)


@pytest.mark.parametrize(
    "ablation, moved",
    [  # the classification loss, the contrastive one
        ("sshm", (False, True)),
        ("ss", (False, True)),
        ("hm", (False, True)),
        ("mi", (False, True)),
        ("cl", (False, False)),
        ("cls", (False, False)),
        ("delta_cls", (True, False)),
        ("delta_cl", (False, True)),
        ("delta_both", (True, True)),
    ],
)
def test_an_ablation_moves_its_own_loss_and_leaves_the_other_where_it_was(batch, ablation, moved):
    def step_with(*options):
        run, texts, labels = batch(*options)
        run.model.eval()
        torch.manual_seed(5)
        step = step_of(run, texts, labels)
        expected = step.loss_cls.item() + run.args.mu * step.loss_cl.item()
        assert step.loss.item() == pytest.approx(expected)
        return step, parts_trained(step.loss, run.model)

    (full, _), (without, parts) = step_with(), step_with("--ablation", ablation)
    assert (full.loss_cls != without.loss_cls, full.loss_cl != without.loss_cl) == moved
    if ablation == "cl":  # nothing but the classification loss is left
        assert without.loss.item() == without.loss_cls.item()
        assert not parts & {"proj_f", "proj_h"}


# ---- training ----


def test_the_network_is_in_train_mode_at_every_step_also_after_an_evaluation(command, monkeypatch):
    modes = []

    def spy(model, *rest):
        modes.append([module.training for module in model.modules()])
        return objective(model, *rest)

    monkeypatch.setattr(main_module, "objective", spy)
    assert main(command) == 0
    assert len(modes) == 2 * 5  # 68 texts in batches of 16, two epochs
    assert all(all(step) for step in modes)


def test_biases_and_norms_are_not_decayed(batch):
    run, *_ = batch()
    groups = new_optimizer(run.model, lr=1e-3, head_lr=None, weight_decay=5e-4).param_groups
    names = {id(p): name for name, p in run.model.named_parameters()}
    decayed, spared = ([names[id(p)] for p in group["params"]] for group in groups)
    assert [group["weight_decay"] for group in groups] == [5e-4, 0]
    assert all(re.search(r"bias|LayerNorm", name) for name in spared)
    assert not any(re.search(r"bias|LayerNorm", name) for name in decayed)
    assert len(decayed) + len(spared) == len(names)


def test_the_heads_learn_at_their_own_rate(batch):
    run, *_ = batch()
    before = {name: p.detach().clone() for name, p in run.model.named_parameters()}
    optimizer = new_optimizer(run.model, lr=5e-5, head_lr=1e-3, weight_decay=0.0)
    rate = set_learning_rate(optimizer, 1, 4, warmup=0.5, schedule="constant")
    assert rate == pytest.approx(2.5e-5)
    for p in run.model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()  # Adam's first: every number moves by its rate
    for name, p in run.model.named_parameters():
        rate = 2.5e-5 if name.startswith("encoder.") else 5e-4
        assert torch.allclose(before[name] - p, torch.full_like(p, rate), rtol=0.02), name
    assert {name.partition(".")[0] for name in before} == {"encoder", "phi", "proj_f", "proj_h"}


@pytest.mark.parametrize(
    "schedule, expected",
    [("constant", [0.5, 1, 1, 1]), ("linear", [0.5, 1, 1, 0.5]), ("cosine", [0.5, 1, 1, 0.5])],
)
def test_the_learning_rate_warms_up_and_follows_its_schedule(schedule, expected):
    group = {"params": [torch.zeros(1, requires_grad=True)], "initial_lr": 0.2}
    optimizer = torch.optim.SGD([group], lr=0.2)
    rates = [
        set_learning_rate(optimizer, t, 4, warmup=0.5, schedule=schedule) for t in (1, 2, 3, 4)
    ]
    assert rates == pytest.approx([0.2 * factor for factor in expected])
    assert optimizer.param_groups[0]["lr"] == pytest.approx(rates[-1])


def test_bf16_trains_to_nearly_the_same_losses(command, tmp_path):
    for amp in ("off", "bf16"):
        assert main([*command, "--amp", amp, "--output_dir", str(tmp_path / amp)]) == 0
    full, half = (outcome(tmp_path / amp)["metrics"][0] for amp in ("off", "bf16"))
    assert half["loss_cls"] == pytest.approx(full["loss_cls"], rel=0.02)
    assert half["loss_cl"] == pytest.approx(full["loss_cl"], rel=0.02) and half != full


def test_the_branches_shares_of_the_gradient_by_hand():
    feat = torch.tensor([[1.0, 2.0]], requires_grad=True)
    assert gradient_shares(3 * feat[0, 0], 2 * feat[0, 1], feat) == pytest.approx(
        {"gradient_share_cls": 0.6, "gradient_share_cl": 0.4}
    )


# ---- results ----


@pytest.mark.parametrize(
    "text, model_type, share",
    [
        ("ዛሬ በጣም {}", "bert", 1.0),
        ("the food ዛሬ {}", "bert", 0.5),
        ("the food of the animal {}", "bert", 1 / 6),
        ("ዛሬ በጣም {}", "gpt2", 0.0),  # bytes
        ("the food {}", None, None),  # tfidf has no tokens
    ],
)
def test_the_report_has_the_share_of_unknown_tokens_and_from_a_fifth_on_a_remedy(
    tmp_path, capsys, text, model_type, share
):
    rows = [(text.format("ጨዋታው" * (1 + i)), "ab"[i % 2]) for i in range(40)]
    method = ["--method", "tfidf"]
    if model_type:
        encoder = save_tiny_encoder(tmp_path / "encoder", model_type)
        method = ["--method", "probe", "--encoder", str(encoder)]
    own, runs = str(write_csv(tmp_path / "own.csv", rows)), tmp_path / "runs"
    options = ["--dataset", own, *method, "--output_dir", str(runs), "--check_only"]
    assert main(options) == 0
    said = capsys.readouterr().out
    (path,) = runs.glob("*/data_report.json")
    report_ = files.read_json(path)
    assert report_.get("unknown") == (None if share is None else pytest.approx(share))
    assert share is None or f"unknown to the encoder:             {share:.2%}" in said
    assert ("--encoder xlm-roberta-base" in said) == (share is not None and share >= 0.2)


def test_a_run_leaves_its_results_and_is_not_run_twice(command, tmp_path, capsys):
    assert main([*command, "--plots", "--val_fraction", "0.2"]) == 0
    folder, first = folder_of(tmp_path), outcome(tmp_path)
    text = "train_rows.txt classification_report.txt predictions.csv model"
    numbers = "args.json metrics.jsonl result.json classification_report.json data_report.json"
    drawn = "confusion_matrix.png tsne.png label_distribution.png"
    expected = {*text.split(), *numbers.split(), *drawn.split()}
    assert expected <= {path.name for path in folder.iterdir()}
    assert not list(folder.glob("checkpoint*")) and not list(folder.glob(".*.part"))

    result, lines = first["result"], first["metrics"]
    assert result["last"]["accuracy"] == lines[-1]["test"]["accuracy"]
    assert result["best_test"]["accuracy"] == max(line["test"]["accuracy"] for line in lines)
    best = max(lines, key=lambda line: line["val"]["macro_f1"])
    assert result["best_val"]["macro_f1"] == best["test"]["macro_f1"]
    predictions = list(csv.DictReader(first["predictions"].splitlines()))
    right = sum(row["label"] == row["prediction"] for row in predictions)
    assert 100 * right / 36 == pytest.approx(result["best_val"]["accuracy"])  # of what is kept
    assert len(predictions) == 36
    args = json.loads((folder / "args.json").read_text())
    assert args["label_names"] == ["noun.animal", "noun.food", "noun.time"]
    assert set(args["versions"]) == {"code", "python", "torch", "transformers", "platform"}
    assert len((folder / "train_rows.txt").read_text().split()) == 68 - 14  # 8 + 4 + 2 held out

    capsys.readouterr()
    before = (folder / "result.json").stat().st_mtime_ns
    assert main([*command, "--val_fraction", "0.2"]) == 0
    assert "finished already" in capsys.readouterr().out
    for name in ("confusion_matrix.png", "tsne.png", "tsne.csv"):
        (folder / name).unlink()
    assert main([*command, "--plots", "--val_fraction", "0.2"]) == 0  # from the saved weights
    assert (folder / "tsne.png").exists()
    assert report.main([str(folder)]) == 0  # which leaves report.html
    left = {path.name for path in folder.iterdir()}
    assert left == {".lock", *(path.name for path in own(folder))}  # --overwrite knows them all
    assert (folder / "result.json").stat().st_mtime_ns == before
    assert main([*command, "--plots", "--val_fraction", "0.2", "--overwrite"]) == 0
    assert (folder / "result.json").stat().st_mtime_ns > before and outcome(tmp_path) == first
    other = ["--val_fraction", "0.2", "--seed", "4", "--output_dir", str(tmp_path / "other")]
    assert main([*command, *other]) == 0
    assert outcome(tmp_path / "other")["model"] != first["model"]


def test_plots_that_were_cut_anywhere_are_drawn_by_the_same_command(command, tmp_path, monkeypatch):
    """A stop before each file that --plots leaves; the grid does not take the run for finished."""
    command = [*command, "--plots"]
    (cell,) = read_cells([shlex.join(command)])
    plots = ["confusion_matrix.png", "tsne_prototypes.csv", "tsne.png", "tsne.csv"]
    saving = files.saving
    for cut in plots:

        def stopping(path):
            if path.name == cut:
                raise KeyboardInterrupt
            return saving(path)

        with monkeypatch.context() as patch:
            patch.setattr(files, "saving", stopping)
            assert main(command) == 130
        assert (cell.folder / "result.json").exists() and state(cell) == "open", cut
    assert main(command) == 0 and state(cell) == "finished"
    assert all((cell.folder / name).exists() for name in plots)


def test_only_evaluated_epochs_count_and_the_last_is_always_one(command, tmp_path, capsys):
    every = [*command, "--epochs", "5", "--val_fraction", "0.2", "--output_dir"]
    assert main([*every, str(tmp_path / "each")]) == 0
    assert main([*every, str(tmp_path / "second"), "--eval_every", "2"]) == 0
    out = capsys.readouterr().out
    each, second = (outcome(tmp_path / name) for name in ("each", "second"))
    evaluated = [line["epoch"] for line in second["metrics"] if "test" in line]
    assert evaluated == [line["epoch"] for line in second["metrics"] if "val" in line] == [2, 4, 5]
    for line, full in zip(second["metrics"], each["metrics"], strict=True):  # all else is equal
        expected = {name: value for name, value in full.items() if name not in ("test", "val")}
        assert {name: value for name, value in line.items() if name in expected} == expected
        assert line == full or line["epoch"] in (1, 3)
    assert second["model"].keys() == each["model"].keys()
    assert second["result"]["last"]["epoch"] == 5
    lines = [line for line in out.splitlines() if re.match("epoch [0-9]", line)][5:]
    assert ["accuracy" in line for line in lines] == [False, True, False, True, True]


def test_validation_texts_are_those_that_the_builder_left_out(corpus_folder):
    command = f"--dataset {corpus_folder} --ir 4 --max_per_class 20".split()
    without = load_corpus(parse_args(command))
    with_val = load_corpus(parse_args([*command, "--val_left_out", "6"]))
    # animal, with all of its 20 texts, gives up a tenth; food leaves out 30 of 40, time 3 of 8
    assert without.label_names == ["noun.animal", "noun.food", "noun.time"]
    sizes = [np.bincount(corpus.train_labels).tolist() for corpus in (without, with_val)]
    assert sizes == [[20, 10, 5], [18, 10, 5]]
    assert set(with_val.train_rows) < set(without.train_rows)
    assert len(with_val.val_texts) == 2 + 6 + 3 and len(with_val.test_texts) == 36


def test_metrics_by_hand():
    labels = np.array([0, 0, 0, 0, 1, 1, 2, 2])
    predicted = np.array([0, 0, 0, 1, 1, 1, 0, 0])
    got = metrics.metrics(labels, predicted, np.array([500, 30, 5, 7]))
    # class 3 has no test text and no part in the means
    # F1: class 0: 2*3/(2*3+2+1) = 2/3; class 1: 2*2/(2*2+1) = 0.8; class 2: 0
    assert got["accuracy"] == pytest.approx(62.5)
    assert got["macro_f1"] == pytest.approx(100 * (2 / 3 + 0.8) / 3)
    assert got["balanced_accuracy"] == pytest.approx(100 * (0.75 + 1 + 0) / 3)
    assert got["gap"] == pytest.approx(62.5 - 100 * (2 / 3 + 0.8) / 3)
    assert got["f1"] == pytest.approx([200 / 3, 80, 0, 0])
    assert got["never_predicted"] == [2, 3]
    groups = {name: (group["accuracy"], group["texts"]) for name, group in got["groups"].items()}
    assert groups == {"many": (75, 4), "medium": (100, 2), "few": (0, 2)}
    assert got["groups"]["medium"]["macro_f1"] == pytest.approx(80)


def test_auroc_counts_the_pairs_in_the_right_order(monkeypatch):
    # class 0: of the pairs (0, 2), (0, 3), (1, 2), (1, 3) three are right; two classes mirror
    logits = np.log([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7], [0.6, 0.4]])
    labels = np.array([0, 0, 1, 1])
    assert metrics.auroc(labels, logits) == pytest.approx(75)
    assert metrics.auroc(labels, 7 * logits - 3) == pytest.approx(75)  # no border, only the order
    answers = np.where(np.eye(3)[[0, 1, 1, 2]] == 1, 0.0, -np.inf)  # a hosted model's; 2: no label
    assert metrics.auroc(labels, answers) == pytest.approx((75 + 50) / 2)
    assert metrics.auroc(np.array([1, 1]), logits[:2]) is None
    whole = metrics.auroc(labels, answers)
    monkeypatch.setattr(metrics, "AT_A_TIME", 1)
    assert metrics.auroc(labels, answers) == whole


@pytest.mark.parametrize("scale", [0.5, 5, 300], ids=["even", "peaked", "certain"])
@pytest.mark.parametrize("classes", [2, 7])
def test_auroc_is_that_of_the_odds_also_where_probabilities_round_to_one(scale, classes):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, 200)
    logits = scale * rng.integers(-3, 4, (200, classes)).astype(np.float32)  # with many ties
    expected = []
    for c in range(classes):
        odds = logits[:, c] - logsumexp(np.delete(logits, c, axis=1).astype(float), axis=1)
        mine, others = np.round(odds[labels == c], 9), np.round(odds[labels != c], 9)
        won = (mine[:, None] > others).mean() + (mine[:, None] == others).mean() / 2
        expected.append(100 * won)
    assert metrics.auroc(labels, logits) == pytest.approx(np.mean(expected), abs=1e-9)


@pytest.mark.parametrize(
    "names",
    [["a$b$", "_hidden", "x" * 40, "x" * 39 + "y"], [f"class {i}" for i in range(1500)]],
    ids=["odd", "many"],
)
def test_figures_bear_odd_names_and_many_classes(tmp_path, names):
    labels = np.arange(len(names)).repeat(2)
    for name, drawn in (
        ("bars", figures.label_distribution([5] * len(names), names, "a $ title")),
        ("confusion", figures.confusion_matrix(labels, labels, names)),
    ):
        figures.save_figure(drawn, tmp_path / f"{name}.png")
    images = [imread(tmp_path / name) for name in ("bars.png", "confusion.png")]
    assert all(image.shape[1] < 8000 and image.std() > 0.01 for image in images)


# ---- interruptions ----


KILLED = """
import os, signal, sys
import main

renames = 0

def watch(event, names):
    global renames
    if event == "os.rename" and "_seed0" in str(names[0]):
        renames += 1
        if renames == int(sys.argv[1]):
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(watch)
main.main(sys.argv[2:])
"""


@pytest.mark.slow
def test_kill_9_twice_and_the_run_ends_with_the_same_numbers(command, tmp_path):
    """A process that is killed as it renames a file, the first time and where it went on."""
    command = last_of_each([*command, "--epochs", "8"])
    assert main([*command, "--output_dir", str(tmp_path / "whole")]) == 0
    command = last_of_each([*command, "--output_dir", str(tmp_path / "killed")])
    for renames in (17, 13):  # in the second checkpoint; in one of the process that went on
        killed = subprocess.run(
            [sys.executable, "-c", KILLED, str(renames), *command],
            cwd=ROOT,
            capture_output=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},  # as conftest.py has it
        )
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        folder = folder_of(tmp_path / "killed")
        assert list(folder.glob("checkpoint-*")) and not (folder / "result.json").exists()
    assert main(command) == 0
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")


# ---- the command line ----


def test_a_default_is_the_papers_or_stands_in_the_list_of_those_that_are_not():
    papers = dict(encoder="bert-base-uncased", lr=5e-5, weight_decay=5e-4, batch_size=128)
    papers |= dict(mu=1.0, k=20, n_pos=10, n_neg=500, lam=0.5, ir=None)
    papers |= dict(hard_ratio_start=0.5, hard_ratio_end=1.0, augment="word_substitution")
    ours = dict(cl_reduction="weighted_mean", cl_weight="log_prior", positives="mean", tau=0.5)
    ours |= dict(pooling="cls", proj_dim=128, profile="exp", epochs=30, max_length=256)
    ours |= dict(schedule="constant", warmup=0.0, head_lr=None)
    args = parse_args(["--dataset", "trec"])
    assert {name: getattr(args, name) for name in papers | ours} == papers | ours
    page = (ROOT / "docs" / "paper.md").read_text(encoding="utf-8")
    listed = page.split("## Defaults that are not the paper's")[1].split("\n## ")[0]
    assert {name for name in ours if f"`--{name}" not in listed} == set()


@pytest.mark.parametrize(
    "options, message",
    [
        (["--dataset", "nowhere"], "neither a known dataset"),
        (["--text_column", "review"], "no column 'review'"),
        (["--text_column", "review", "--check_only"], "no column 'review'"),
        (["--encoder", "nowhere"], "encoder nowhere"),
        (["--max_length", "3", "--val_fraction", "0.001"], "holds out none"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2_and_leaves_no_folder(
    command, tmp_path, options, message, capsys
):
    assert main([*command, *options]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and message in error
    if options[0] in ("--dataset", "--text_column"):
        assert list(tmp_path.iterdir()) == []


def test_the_check_prints_the_report_and_leaves_runs_alone(command, tmp_path, capsys):
    assert main(command) == 0
    before = {path: path.stat().st_mtime_ns for path in folder_of(tmp_path).iterdir()}
    capsys.readouterr()
    assert main([*command, "--check_only", "--overwrite"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"noun\.time +8 +11\.76%", printed) and "epoch" not in printed
    assert {path: path.stat().st_mtime_ns for path in folder_of(tmp_path).iterdir()} == before
    # the check is there to be repeated, on other data too
    assert main([*command, "--check_only", "--data_seed", "1", "--label_noise", "0.1"]) == 0
    folder, *_ = tmp_path.glob("*_check")
    assert (folder / "label_distribution.png").stat().st_size > 5000


WRONG_FLAGS = {  # a word of each line is what the error says
    "--ir 0.5": "--ir",
    "--ir nan": "--ir",
    "--tau 0": "0 must be above 0",
    "--tau inf": "--tau",
    "--k 0": "0 must be at least 1",
    "--n_pos -1": "--n_pos",
    "--lam x": "invalid float value",
    "--val_fraction 1": "at most 0.9",
    "--label_noise 1.5": "at most 1",
    "--epochs 0": "--epochs",
    "--amp int8": "invalid choice: 'int8'",
    "--ablation all": "invalid choice: 'all'",
    "--seed -1": "--seed",
    "--device gpu": "--device: gpu is not available",
    "--device meta": "--device: meta is not available",
    "--max_length 1000000000000000000000000000000": "--max_length",
    "--val_left_out 5": "takes what --ir and --max_per_class leave out",
    "--val_left_out 5 --ir 2 --val_fraction 0.1": "both make validation texts",
    "--ablation sshm --n_pos 5": "--ablation sshm sets --n_pos 0",
    "--augment_options rate=2": "at most 1",
    "--augment_options n=2": "has {'rate'",
    "--augment_options language=french": "english or any",
    "--augment contextual --augment_options top_n=0": "at least 1",
    "--augment back_translation --augment_options back=": "has {'forth'",
    "--method sclce --constants tau=0.1": "tau=0.1: sclce has",
    "--method sclce --constants temperature=warm": "warm: could not convert",
    "--method sclce --constants temperature=0": "0 must be above 0",
    "--method sclce --constants weight=1.5": "weight=1.5",  # of cross-entropy: -0.5
    "--method tsc --constants queue=2.5": "queue=2.5: invalid literal",
    "--method bert --constants temperature=1": "bert has none",
    "--constants tau=1": "sharprecl has none",
    "--method bcl --tau 0.3": "--tau does not concern",
    "--method tfidf --no_delta_cl": "--no_delta_cl does not concern",
    "--method bert --ablation cl": "--ablation does not concern",
    "--method bart": "invalid choice: 'bart'",
    "--method llama2 --plots": "llama2 has none",
    "--method llama2 --prices 1 1": "--prices does not concern",
    "--method llama2 --augment noise": "llama2 has none",
    "--method llama2 --constants epochs=-1": "at least 0",
}


@pytest.mark.parametrize("options", WRONG_FLAGS)
def test_wrong_flags_are_refused_in_one_line_with_exit_code_2(command, options, capsys):
    with pytest.raises(SystemExit) as caught:
        parse_args([*command, *options.split()])
    (error,) = capsys.readouterr().err.splitlines()
    assert caught.value.code == 2 and WRONG_FLAGS[options] in error


def test_an_output_folder_that_cannot_be_made_is_exit_code_2(command, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert main([*command, "--output_dir", str(tmp_path / "file")]) == 2
    assert "--output_dir" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_second_process_in_the_same_folder_is_turned_away(command, capsys, monkeypatch):
    train, codes = main_module.train, []

    def meanwhile(*inputs):
        codes.append(main(command))
        return train(*inputs)

    monkeypatch.setattr(main_module, "train", meanwhile)
    assert main(command) == 0 and codes == [75]
    assert "another process" in capsys.readouterr().err


def test_changed_data_does_not_go_on_with_an_old_run(command, corpus_folder, tmp_path, capsys):
    rows = (corpus_folder / "train.csv").read_text().splitlines()
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "test.csv").write_text((corpus_folder / "test.csv").read_text())
    (mine / "train.csv").write_text("\n".join(rows) + "\n")
    with stopped_after(1):
        assert main([*command, "--dataset", str(mine)]) == 130
    (mine / "train.csv").write_text("\n".join(rows[:-1]) + "\n")
    assert main([*command, "--dataset", str(mine)]) == 2
    assert "other data" in capsys.readouterr().err
    assert main([*command, "--dataset", str(mine), "--overwrite"]) == 0
    # nor does a finished run pass for the result on other data
    (mine / "train.csv").write_text("\n".join(rows) + "\n")
    assert main([*command, "--dataset", str(mine)]) == 2


@pytest.mark.parametrize(
    "flags, where",
    [
        ("--tau 1e-30", r"at step 5, in epoch 1 \(not finite: gradient_share_cl"),
        ("--tau 1e-38", r"at step 1, in epoch 1 \(not finite: the losses"),
        ("--head_lr 1e20", r"at step 2, in epoch 1 \(prototypes: expected finite"),
        ("--head_lr 1e38 --batch_size 500", r"before this evaluation .*the logits"),
        ("--head_lr 1e20 --method bcl", r"at step \d, in epoch 1"),
        ("--head_lr 1e20 --method tsc", r"at step \d, in epoch \d"),
        ("--head_lr 1e39 --method bert --batch_size 500", r"before this"),
        ("--lr 1e30", r"at step \d+, in epoch 1"),
        ("--lr 1e30 --epochs 1 --batch_size 500", "before this evaluation"),
    ],
)
def test_numbers_that_are_not_finite_end_a_run_in_one_line(command, tmp_path, capsys, flags, where):
    assert main([*command, *flags.split()]) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert re.search(f"diverged {where}.*lower --lr or --head_lr", line)
    assert not (folder_of(tmp_path) / "result.json").exists()


@pytest.mark.parametrize("method, part", [("sharprecl", "proj_f.0.weight"), ("bert", "phi.weight")])
def test_weights_that_the_last_step_makes_nan_replace_nothing(
    command, tmp_path, capsys, monkeypatch, method, part
):
    command += ["--method", method, "--epochs", "1"]
    assert main(command) == 0
    before, train_epoch = outcome(tmp_path), main_module.train_epoch

    def spoilt(model, *rest):
        record = train_epoch(model, *rest)
        torch.nn.init.constant_(model.get_parameter(part), torch.nan)
        return record

    monkeypatch.setattr(main_module, "train_epoch", spoilt)
    assert main([*command, "--overwrite"]) == 2
    expected = "the logits" if part == "phi.weight" else part
    assert f"not finite: {expected})" in capsys.readouterr().err
    assert outcome(tmp_path) == before


def test_settings_name_the_folder_and_two_settings_never_share_one(command):
    long = ["--dataset", "資料" * 60 + ".csv"]
    names = {
        parse_args([*command, *options]).folder.name
        for options in (
            *([], ["--ir", "10"], ["--ir", "10", "--tau", "0.3"], ["--seed", "1"], ["--mu", "0"]),
            *(["--ablation", "ss"], ["--no_delta_cls"], ["--head_lr", "1e-3"]),
            *(long, [*long, "--seed", "1"], [*long, "--k", "9"]),
            ["--dataset=-x.csv"],  # else argparse takes it for a flag
        )
    }
    assert len(names) == 12 and all(re.fullmatch(r"[\w.+-]+", name) for name in names)
    assert max(len(name.encode()) for name in names) < 240


@pytest.mark.slow
@needs_datasets
@pytest.mark.parametrize(
    "options, texts", [("--dataset trec --ir 50", 2280), ("--dataset r52 --augment none", 6532)]
)
def test_the_papers_datasets_train(tiny_encoder, tmp_path, options, texts):
    common = f"--data_dir {PUBLISHED} --encoder {tiny_encoder} --output_dir {tmp_path} --device cpu"
    assert main(f"{options} {common} --epochs 1 --max_length 32".split()) == 0
    assert len((folder_of(tmp_path) / "train_rows.txt").read_text().split()) == texts
    assert outcome(tmp_path)["result"]["last"]["accuracy"] > 0


# ---- augmentations ----


def test_options_of_an_augmentation_reach_it_and_have_a_folder_of_their_own(command, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "engine.corpus.augmented_texts",
        lambda texts, method, **options: seen.append((method, options)) or list(texts),
    )
    options = "--augment contextual --augment_options model=some/name top_n=3 rate=0.3"
    argv = [*command, *options.split()]
    assert main(argv) == 0
    [(method, options)] = seen
    assert method == "contextual" and options["device"] == "cpu" and options["seed"] == 0
    assert (options["model"], options["top_n"]) == ("some/name", 3)
    assert "rate" not in options  # 0.3 is the default
    plain, own = parse_args(argv[:-4]).folder, parse_args(argv).folder
    assert plain != own and "top_n-3" in own.name
    # flags that were added later are no setting where they are unset: older runs still match
    assert not {"augment_options", "head_lr", "prefix"} & set(parse_args(argv[:-4]).settings)


def test_threads_spin_as_long_as_the_user_says_and_else_not_for_long(monkeypatch):
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    environment.check()
    assert os.environ["GOMP_SPINCOUNT"] == "7"
    monkeypatch.delenv("GOMP_SPINCOUNT")
    environment.check()
    assert int(os.environ["GOMP_SPINCOUNT"]) < 100_000  # libgomp's own is 300,000


# ---- --test_fraction 0 ----


@pytest.mark.parametrize(
    "options", ["", "--val_fraction 0.2", "--val_fraction 0.2 --eval_every 2", "--method tfidf"]
)
def test_a_run_on_all_texts_keeps_a_model_and_no_number_of_a_test(
    command, tmp_path, capsys, options
):
    table = write_csv(tmp_path / "all.csv", glosses({"noun.food": 30, "noun.animal": 10}))
    own = ["--dataset", str(table), "--test_fraction", "0", *options.split()]
    assert main(last_of_each([*command, *own])) == 0
    folder, is_validated = folder_of(tmp_path), "val" in options
    assert "there is no test result" in capsys.readouterr().out
    rows = (folder / "train_rows.txt").read_text().splitlines()
    assert len(rows) == (32 if is_validated else 40)
    result = json.loads((folder / "result.json").read_text())
    assert set(result["last"]) == {"epoch"} and "best_test" not in result
    assert ("best_val" in result) == (folder / "validation.csv").exists() == is_validated
    assert not (folder / "predictions.csv").exists()
    assert "no test text" in (folder / "model" / "README.md").read_text()
    assert Predictor(folder).predict(["an animal"])[0]["prediction"] is not None
    assert report.main([str(folder)]) == 0 and (folder / "report.html").exists()
    assert report.main([str(tmp_path)]) == 2 and "has test texts" in capsys.readouterr().err


@pytest.mark.parametrize("options", ["--plots", "--method gpt35"])
def test_what_needs_test_texts_refuses_to_train_on_all(command, tmp_path, capsys, options):
    table = write_csv(tmp_path / "all.csv", glosses({"noun.food": 30, "noun.animal": 10}))
    own = ["--dataset", str(table), "--test_fraction", "0", *options.split()]
    assert main(last_of_each([*command, *own])) == 2
    assert "need test texts" in capsys.readouterr().err

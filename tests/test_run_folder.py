"""engine/run_folder.py: which epoch is kept, what a stop leaves, and that nothing whole is lost."""

import csv
import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score

from engine import files, results, run_folder
from engine.arguments import parse_args
from engine.corpus import load_corpus
from engine.files import InputError
from engine.results import print_result
from engine.run_folder import Busy, RunFolder


class Weights:
    """A model of one number, which is its epoch; save() leaves it as text."""

    def __init__(self):
        self.value = 0

    def state_dict(self):
        return {"value": torch.tensor([self.value])}

    def load_state_dict(self, state):
        self.value = int(state["value"])

    def save(self, folder):
        files.write_text(folder / "value.txt", str(self.value))


def logits_for(labels: np.ndarray, share: float) -> np.ndarray:
    """Logits that are right on this share of the texts, and on all others name the next class."""
    right = np.arange(len(labels)) < share * len(labels)
    return np.eye(3, dtype=np.float32)[np.where(right, labels, (labels + 1) % 3)]


def fit_of(val_shares: list[float], stop_after: int | None = None, every: int = 1):
    """A fit whose epochs are right on these shares of the validation texts."""

    def fit(args, corpus, folder):
        weights = Weights()
        done = folder.begin(weights, len(val_shares), weights=weights)
        assert weights.value == done  # what was restored is the epoch that was done
        for epoch in range(done + 1, len(val_shares) + 1):
            if stop_after is not None and epoch > stop_after:
                raise KeyboardInterrupt
            weights.value = epoch
            share, is_evaluated = val_shares[epoch - 1], epoch % every == 0
            val = logits_for(corpus.val_labels, share) if len(corpus.val_labels) else None
            yield (
                {"epoch": epoch},
                *((logits_for(corpus.test_labels, share), val) if is_evaluated else (None, None)),
            )

    return fit


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    """Drawing takes most of the time of a run without a network."""
    monkeypatch.setattr(run_folder.figures, "label_distribution", lambda *_: None)
    monkeypatch.setattr(run_folder.figures, "save_figure", lambda _, path: files.save(path, b""))


@pytest.fixture
def run(corpus_folder, tmp_path):
    """Runs a fit in the folder of these flags; returns the folder."""

    def run(fit, *flags):
        args = parse_args(
            [
                "--dataset",
                str(corpus_folder),
                "--method",
                "tfidf",
                "--output_dir",
                str(tmp_path / "runs"),
                *flags,
            ]
        )
        corpus = load_corpus(args)
        with RunFolder(args, corpus) as folder:
            folder.check()
            folder.keep(fit(args, corpus, folder))
        return folder.path

    return run


VAL = ("--val_fraction", "0.3")


def kept(folder) -> tuple[int, int]:
    """The epoch that result.json names, and the epoch of the weights."""
    return (
        json.loads((folder / "result.json").read_text())["kept_epoch"],
        int((folder / "adapter" / "value.txt").read_text()),
    )


def test_leaked_texts_are_left_out_of_a_second_accuracy_and_macro_f1(corpus_folder, tmp_path):
    """By scikit-learn on what predictions.csv and the files say."""
    folder, leaked = tmp_path / "leaky", 5
    shutil.copytree(corpus_folder, folder)
    with open(folder / "train.csv", newline="") as train:
        rows = list(csv.reader(train))
    with open(folder / "test.csv", "a", newline="") as test:
        csv.writer(test).writerows([(f" {text}", label) for text, label in rows[1 : 1 + leaked]])
    known = {text for text, _ in rows}
    for data_folder, is_leaky in ((folder, True), (corpus_folder, False)):
        args = parse_args(
            ["--dataset", str(data_folder), "--method", "tfidf", "--output_dir", str(tmp_path)]
        )
        with RunFolder(args, load_corpus(args)) as run:
            run.check()
            run.keep(fit_of([0.6])(args, run.corpus, run))
        found = json.loads((run.path / "result.json").read_text())["last"]
        assert ("without_leaked" in found) == is_leaky
        new = [
            (row["label"], row["prediction"])
            for row in results.csv_rows(run.path / "predictions.csv")
            if row["text"].strip() not in known
        ]
        labels, predicted = zip(*new)
        macro_f1 = 100 * f1_score(labels, predicted, average="macro")
        if is_leaky:
            assert found["without_leaked"] == {
                "left_out": leaked,
                "texts": 36,
                "accuracy": pytest.approx(100 * accuracy_score(labels, predicted)),
                "macro_f1": pytest.approx(macro_f1),
            }
            assert found["macro_f1"] != pytest.approx(macro_f1)
        else:
            assert found["macro_f1"] == pytest.approx(macro_f1)


@pytest.mark.parametrize(
    "shares, best",
    [([0.5, 0.9, 0.7], 2), ([0.9, 0.5, 0.9], 3), ([0.2, 0.3, 0.4], 3), ([0.9, 0.5, 0.4], 1)],
    ids=["middle", "of equals the later", "last", "first"],
)
def test_the_best_validation_epoch_is_kept_and_named_everywhere(run, shares, best):
    folder = run(fit_of(shares), *VAL)
    assert kept(folder) == (best, best)
    result = json.loads((folder / "result.json").read_text())
    assert result["best_val"]["epoch"] == best and result["last"]["epoch"] == 3
    for name in ("predictions.csv", "validation.csv"):
        lines = (folder / name).read_text().splitlines()
        assert lines[0].endswith(",epoch") and {line.rsplit(",", 1)[1] for line in lines[1:]} == {
            str(best)
        }
    assert not list(folder.glob("best-*")) and not list(folder.glob("checkpoint-*"))


def test_what_is_never_predicted_is_said_of_the_epoch_whose_report_stands_above(run, capsys):
    def fit(args, corpus, folder):
        folder.begin(weights=Weights())
        for epoch, share in ((1, 0.9), (2, 0.5)):
            test = logits_for(corpus.test_labels, 1.0)
            if epoch == 1:
                test[:, 2] = -1.0
            yield {"epoch": epoch}, test, logits_for(corpus.val_labels, share)

    print_result(run(fit, *VAL))
    assert "above: epoch 1; never predicted: noun.time\n" in capsys.readouterr().out


def test_without_validation_texts_the_last_epoch_is_kept(run):
    assert kept(run(fit_of([0.9, 0.5, 0.4]))) == (3, 3)


@pytest.mark.parametrize("patience, ran", [(1, 3), (2, 6), (4, 7)])
def test_patience_counts_evaluations_since_the_best(run, patience, ran):
    shares = [0.5, 0.9, 0.7, 0.95, 0.6, 0.5, 0.4]  # 0.7 is worse than the best before it
    folder = run(fit_of(shares), *VAL, "--patience", str(patience))
    history = (folder / "metrics.jsonl").read_text().splitlines()
    assert len(history) == ran and kept(folder)[0] == (2 if patience == 1 else 4)


@pytest.mark.parametrize("stop_after", [None, 3])
def test_a_result_that_is_only_as_good_does_not_renew_patience(run, stop_after):
    shares, flags = [0.5, 0.9, 0.9, 0.9, 0.9], (*VAL, "--patience", "2")
    if stop_after is not None:
        with pytest.raises(KeyboardInterrupt):
            run(fit_of(shares, stop_after), *flags)
    folder = run(fit_of(shares), *flags)
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 4 and kept(folder) == (4, 4)


def test_weights_that_are_asked_for_only_after_a_stop_are_those_of_the_best_epoch(run):
    shares = [0.5, 0.9, 0.7, 0.6]
    with pytest.raises(KeyboardInterrupt):
        run(fit_of(shares, stop_after=3), *VAL, "--no_weights")
    assert kept(run(fit_of(shares), *VAL)) == (2, 2)


def test_a_stop_after_the_last_epoch_that_patience_allows_brings_no_further_one(run, monkeypatch):
    def stop(_):
        raise KeyboardInterrupt

    shares = [0.5, 0.9, 0.7, 0.6, 0.5]
    flags = (*VAL, "--patience", "2")
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "finish", stop)
        with pytest.raises(KeyboardInterrupt):
            run(fit_of(shares), *flags)
    folder = run(fit_of(shares), *flags)
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 4 and kept(folder) == (2, 2)
    assert json.loads((folder / "result.json").read_text())["last"]["epoch"] == 4


def test_only_evaluated_epochs_count(run):
    folder = run(fit_of([0.99, 0.5, 0.99, 0.7, 0.99, 0.6], every=2), *VAL)
    result = json.loads((folder / "result.json").read_text())
    assert kept(folder) == (4, 4)
    assert [result[name]["epoch"] for name in ("last", "best_test", "best_val")] == [6, 4, 4]


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_stopped_run_goes_on_to_the_same_result(run, stop):
    shares = [0.9, 0.5, 0.7, 0.6]
    with pytest.raises(KeyboardInterrupt):
        run(fit_of(shares, stop_after=stop), *VAL)
    stopped = run(fit_of(shares), *VAL)
    first = {name: (stopped / name).read_text() for name in ("predictions.csv", "validation.csv")}
    assert kept(stopped) == (1, 1)
    again = run(fit_of(shares), *VAL, "--overwrite")
    assert kept(again) == (1, 1)
    assert first == {name: (again / name).read_text() for name in first}


@pytest.fixture
def clock(monkeypatch):
    """The seconds of run_folder, which pass only where a test lets them."""
    now = [0.0]
    monkeypatch.setattr(run_folder.time, "perf_counter", lambda: now[0])
    return now


@pytest.mark.parametrize(
    "saving_takes, expected",
    [(2.0, [1, 5, 9]), (0.4, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]), (1.0, [1, 3, 5, 7, 9])],
    ids=["slow", "quick", "at the limit"],
)
def test_slow_checkpoints_take_a_tenth_of_the_time(run, monkeypatch, clock, saving_takes, expected):
    # an epoch takes 5 s; the first checkpoint shows what one takes: 2 s are worth 20 s of training
    saved, save_whole = [], run_folder.save_whole

    def save(folder, parts, values):
        if folder.name.startswith("checkpoint"):
            saved.append(int(folder.name.split("-")[1]))
            clock[0] += saving_takes
        save_whole(folder, parts, values)

    def slow(args, corpus, folder):
        for epoch in fit_of([0.5] * 11)(args, corpus, folder):
            clock[0] += 5
            yield epoch

    monkeypatch.setattr(run_folder, "save_whole", save)
    run(slow)
    assert saved == expected


def test_a_run_goes_on_from_a_checkpoint_of_epochs_ago(run, monkeypatch, clock):
    shares, save_whole = [0.5, 0.9, 0.7, 0.95, 0.6], run_folder.save_whole

    def save(folder, parts, values):
        save_whole(folder, parts, values)
        clock[0] += 1

    monkeypatch.setattr(run_folder, "save_whole", save)
    with pytest.raises(KeyboardInterrupt):
        run(fit_of(shares, stop_after=4), *VAL)  # epoch 4 was the best, and is reported
    other = [*shares[:3], 0.8, 0.6]  # as another order of the sums on a GPU would have it
    begun = []

    def again(args, corpus, folder):
        for record, *logits in fit_of(other)(args, corpus, folder):
            begun.append(record["epoch"])
            yield record, *logits

    folder = run(again, *VAL)
    assert begun == [2, 3, 4, 5] and kept(folder) == (2, 2)
    for name in ("predictions.csv", "validation.csv"):
        lines = (folder / name).read_text().splitlines()
        assert {line.rsplit(",", 1)[1] for line in lines[1:]} == {"2"}
        whole = run(fit_of(other), *VAL, "--overwrite") / name
        assert whole.read_text().splitlines() == lines


def test_the_weights_of_another_epoch_never_pass_for_those_of_the_best(run, tmp_path):
    shares = [0.9, 0.5, 0.7]
    with pytest.raises(KeyboardInterrupt):
        run(fit_of(shares, stop_after=2), *VAL)
    (best,) = tmp_path.glob("runs/*/best-1")
    (best / "model.safetensors").write_bytes(b"damaged")
    remedy = "best-1 is damaged.*delete this folder and every checkpoint-N and best-N beside it"
    with pytest.raises(InputError, match=remedy):
        run(fit_of(shares), *VAL)
    shutil.rmtree(best)
    with pytest.raises(InputError, match=remedy):
        run(fit_of(shares), *VAL)
    for checkpoint in best.parent.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    assert kept(run(fit_of(shares), *VAL)) == (1, 1)


def test_no_weights_keeps_numbers_alone(run):
    folder = run(fit_of([0.9, 0.5]), *VAL, "--no_weights")
    assert (folder / "result.json").exists() and not (folder / "adapter").exists()


def test_a_class_that_is_called_as_an_average_stays_in_the_report(run, corpus_folder, tmp_path):
    names = {"noun.food": "accuracy", "noun.animal": "macro avg", "noun.time": "weighted avg"}
    (tmp_path / "odd").mkdir()
    for name in ("train.csv", "test.csv"):
        text = (corpus_folder / name).read_text()
        for old, new in names.items():
            text = text.replace(f",{old}\n", f",{new}\n")
        (tmp_path / "odd" / name).write_text(text)
    folder = run(fit_of([0.9]), "--dataset", str(tmp_path / "odd"), "--no_weights")
    report = json.loads((folder / "classification_report.json").read_text())
    for name in names.values():
        assert report[f"class {name}"]["support"] == 12
    assert report["accuracy"] == pytest.approx(33 / 36)  # 0.9 of 36 texts, rounded up


def whole_run(folder) -> int | None:
    """The epochs of the finished run that lies here; None where none does."""
    if not (folder / "result.json").exists():
        return None
    numbers = len((folder / "metrics.jsonl").read_text().splitlines())
    assert kept(folder) == (numbers, numbers)
    return numbers


def test_overwrite_leaves_the_old_run_or_the_new_one_at_every_moment(run, monkeypatch):
    """A stop before each single write, replacement and removal of --overwrite."""
    folder = run(fit_of([0.2, 0.3]))
    stops = 0
    for stop in range(200):
        left = [stop]

        def stopping(function):
            def call(*arguments, **options):
                left[0] -= 1
                if left[0] < 0:
                    raise KeyboardInterrupt
                return function(*arguments, **options)

            return call

        with monkeypatch.context() as patch:
            for module, name in (
                (files, "save"),
                (run_folder.os, "replace"),
                (run_folder.shutil, "rmtree"),
            ):
                patch.setattr(module, name, stopping(getattr(module, name)))
            try:
                run(fit_of([0.2, 0.3, 0.4]), "--overwrite")
            except KeyboardInterrupt:
                stops += 1
            else:
                break
        # while a swap is under way, the new run is whole in one of these; the next start ends it
        if not ((folder / "new" / "result.json").exists() or (folder / "moving").exists()):
            assert whole_run(folder) in (2, 3), f"stop {stop}"
    assert stops > 20 and whole_run(folder) == 3
    assert not (folder / "new").exists() and not (folder / "moving").exists()


def files_in(folder) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize("name", ["replace", "unlink", "rmtree"])
def test_a_swap_that_was_cut_anywhere_is_ended_by_the_next_start(
    run, corpus_folder, monkeypatch, name
):
    """A stop before each file of the old run goes, and before each of the new one moves."""
    new = run(fit_of([0.2, 0.3]))
    expected = files_in(new)
    stops = 0
    for stop in range(60):
        folder, left = run(fit_of([0.2]), "--overwrite"), [stop]
        place = {"replace": run_folder.os, "unlink": Path, "rmtree": run_folder.shutil}[name]
        function = getattr(place, name)

        def stopping(*arguments, **options):
            if (folder / "new" / "result.json").exists() or (folder / "moving").exists():
                left[0] -= 1
                if left[0] < 0:
                    raise KeyboardInterrupt
            return function(*arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(place, name, stopping)
            try:
                run(fit_of([0.2, 0.3]), "--overwrite")
            except KeyboardInterrupt:
                stops += 1
            else:
                break
        args = parse_args(
            [
                "--dataset",
                str(corpus_folder),
                "--method",
                "tfidf",
                "--output_dir",
                str(folder.parent),
            ]
        )
        with RunFolder(args, load_corpus(args)) as again:
            assert again.is_finished
        assert files_in(folder) == expected and whole_run(folder) == 2, f"stop {stop}"
    assert stops > 0


def test_an_interrupted_new_run_goes_on(run):
    folder = run(fit_of([0.2]))
    with pytest.raises(KeyboardInterrupt):
        run(fit_of([0.2, 0.3, 0.4], stop_after=2), "--overwrite")
    assert whole_run(folder) == 1 and (folder / "new" / "checkpoint-2").exists()
    started = []

    def fit(args, corpus, folder):
        for epoch in fit_of([0.2, 0.3, 0.4])(args, corpus, folder):
            started.append(epoch[0]["epoch"])
            yield epoch

    run(fit, "--overwrite")
    assert started == [3] and whole_run(folder) == 3


def test_overwrite_keeps_an_unfinished_run_until_the_new_one_begins(run):
    with pytest.raises(KeyboardInterrupt):
        run(fit_of([0.2, 0.3], stop_after=1))

    def fails(args, corpus, folder):
        raise InputError("the encoder is not there")
        yield

    with pytest.raises(InputError):
        run(fails, "--overwrite")
    assert kept(run(fit_of([0.2, 0.3]))) == (2, 2)  # which asserts that epoch 1 was restored


def test_killed_writes_go_from_the_folder_at_once_and_from_the_shared_cache_after_a_day(run):
    folder = run(fit_of([0.2]), "--no_weights")
    cache, now = folder.parent / "cache", time.time()
    for place, name, hours in (
        (folder, ".result.json.12ab.part", 0),
        (cache, ".states-1.f16.12ab.part", 25),
        (cache, ".states-2.f16.34cd.part", 23),  # another process may be writing it
        (cache, "states-3.f16", 1000),
    ):
        place.mkdir(exist_ok=True)
        (place / name).write_bytes(b"half")
        os.utime(place / name, (now - 3600 * hours, now - 3600 * hours))
    run(fit_of([0.2]), "--no_weights", "--overwrite")
    assert not (folder / ".result.json.12ab.part").exists()
    assert files_in(cache) == {".states-2.f16.34cd.part", "states-3.f16"}


def test_two_runs_of_one_folder_are_refused(run):
    def fit(args, corpus, folder):
        with pytest.raises(Busy, match="another process"):
            run(fit_of([0.2]))
        yield from fit_of([0.2])(args, corpus, folder)

    run(fit)


def test_a_run_from_before_this_layout_is_refused_in_one_line(run):
    folder = run(fit_of([0.2]))
    args = json.loads((folder / "args.json").read_text())
    del args["settings"]["eval_every"], args["settings"]["freeze_layers"]
    files.write_json(folder / "args.json", args)
    with pytest.raises(InputError, match=r"other settings \(.*freeze_layers.*--overwrite") as error:
        run(fit_of([0.2]))
    assert len(str(error.value).splitlines()) == 1

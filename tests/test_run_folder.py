"""engine/run_folder.py: which epoch is kept, what a stop leaves, and that nothing whole is lost."""

import contextlib
import copy
import csv
import json
import os
import pickle
import shutil
import sys

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score

from baselines.tfidf import Tfidf
from engine import files, results, run_folder
from engine.arguments import parse_args
from engine.corpus import load_corpus
from engine.files import InputError
from engine.results import print_result
from engine.run_folder import RunFolder
from reporting import plots


class Weights:
    """A model of one number, which is its epoch; save() leaves it as text."""

    def __init__(self):
        self.value = 0

    def state_dict(self):
        return {"value": torch.tensor([self.value])}

    def load_state_dict(self, state):
        self.value = int(state["value"])

    def save(self, folder):
        files.write_text(folder / "adapter_config.json", str(self.value))


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
    monkeypatch.setattr(
        plots, "draw_labels", lambda folder: files.save(folder / "label_distribution.png", b"")
    )
    monkeypatch.setattr(plots.figures, "save_figure", lambda _, path: files.save(path, b""))


@pytest.fixture
def run(corpus_folder, tmp_path):
    """Runs a fit in the folder of these flags; returns the folder."""

    def run(fit, *flags):
        own = f"--dataset {corpus_folder} --method tfidf --output_dir {tmp_path / 'runs'}"
        args = parse_args([*own.split(), *flags])
        corpus = load_corpus(args)
        with RunFolder(args, corpus) as folder:
            was_finished = folder.is_finished and not args.overwrite
            if not was_finished:
                folder.check()
                folder.keep(fit(args, corpus, folder))
            plots.draw_all(args, corpus, folder.path)
            folder.end(was_finished)
        return folder.path

    return run


VAL = ("--val_fraction", "0.3")


def kept(folder) -> tuple[int, int]:
    """The epoch that result.json names, and the epoch of the weights."""
    return (
        json.loads((folder / "result.json").read_text())["kept_epoch"],
        int((folder / "adapter" / "adapter_config.json").read_text()),
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
        head, *lines = (folder / name).read_text().splitlines()
        assert head.endswith(",epoch") and {line.rsplit(",", 1)[1] for line in lines} == {str(best)}
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


class Words(Tfidf):
    """A model of model/ whose weights, in all that is trained, are the number of its epoch."""

    best, stop, most = 0.9, None, 2  # what the first of its epochs reaches; where Ctrl-C comes

    def state_dict(self):
        return {"intercept": torch.from_numpy(self.svm.intercept_)}

    def load_state_dict(self, state):
        self.svm.intercept_ = state["intercept"].numpy()

    def epochs(self, args, corpus, folder):
        """A fit whose first epoch is the best."""
        self.svm.intercept_ = np.zeros(3)
        for epoch in range(1 + folder.begin(self, self.most, weights=self), self.most + 1):
            self.svm.intercept_ += 1
            assert self.svm.intercept_[0] == epoch  # what was restored is the epoch that was done
            if epoch == self.stop:
                raise KeyboardInterrupt
            labels = corpus.test_labels, corpus.val_labels
            share = self.best if epoch == 1 else 0.5
            yield {"epoch": epoch}, *(logits_for(each, share) for each in labels)


@pytest.fixture
def words(corpus_folder):
    corpus = load_corpus(parse_args(["--dataset", str(corpus_folder), "--method", "tfidf"]))
    return Words().fit(corpus.train_texts, corpus.train_labels)


def remembered(function):
    """The function, which computes nothing a second time."""
    known = {}

    def call(*inputs, **options):
        key = pickle.dumps((inputs, options))
        if key not in known:
            known[key] = function(*inputs, **options)
        return copy.deepcopy(known[key])

    return call


@pytest.fixture
def quick(monkeypatch, clock):
    """Without what takes the time of a run without a network, and is no file operation."""
    both = ((run_folder, "evaluation"), (run_folder, "report"))
    for module, name in (*both, (results, "classification_report")):
        monkeypatch.setattr(module, name, remembered(getattr(module, name)))
    monkeypatch.setattr(results, "peak_memory", lambda _: 1.0)  # of this process, which may grow
    monkeypatch.setattr(plots.figures, "confusion_matrix", lambda *_: None)


CHANGES = {f"os.{name}" for name in ("rename", "remove", "rmdir", "mkdir", "chmod", "truncate")}


def contents(folder) -> dict[str, bytes | None]:
    """Of all files below it; None of a folder."""
    return {
        str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes()
        for path in folder.rglob("*")
    }


def whole_files(state: dict) -> frozenset:
    return frozenset((name, content) for name, content in state.items() if ".part" not in name)


def numbers_and_model(state: dict) -> frozenset:
    """All but what the next start draws anew."""
    return whole_files({name: state[name] for name in state if not name.endswith(".png")})


def put(folder, state: dict[str, bytes | None]) -> None:
    """Makes the folder what contents() found."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in state.items():
        (folder / name if content is None else (folder / name).parent).mkdir(
            parents=True, exist_ok=True
        )
        if content is not None:
            (folder / name).write_bytes(content)


@pytest.fixture(scope="module")
def states_of():
    """
    What kill -9 would leave of a folder right before any file operation of some work, each state
    once; the parts of it are those of the last moment, when they have all their content.
    """
    states, watched = {}, []

    def watch(event, inputs):
        if watched and (
            event in CHANGES or event == "open" and inputs[2] & (os.O_WRONLY | os.O_RDWR)
        ):
            state = contents(watched[0])
            states[whole_files(state)] = state

    def states_of(folder, work):
        states.clear()
        watched.append(folder)
        work()
        watched.clear()
        return list(states.values())

    sys.addaudithook(watch)  # for good: Python takes none away
    return states_of


@pytest.mark.slow
@pytest.mark.parametrize(
    "old, flags",
    [
        ("nothing", ()),
        ("unfinished", ("--overwrite",)),
        ("finished", ("--overwrite", "--plots")),
        ("finished", ("--overwrite", "--no_weights")),
    ],
)
def test_kill_9_at_any_file_operation_leaves_a_whole_run_and_the_same_command_ends_it(
    run, words, quick, states_of, old, flags
):
    def work():
        return run(words.epochs, *VAL, *flags)

    folder = work()
    shutil.rmtree(folder)
    if old != "nothing":  # another result, so that the two could not be mixed unseen
        words.best, words.stop = 0.8, 2 if old == "unfinished" else None
        with contextlib.suppress(KeyboardInterrupt):
            run(words.epochs, *VAL)
        words.best, words.stop = Words.best, Words.stop
    folder.mkdir(exist_ok=True)
    before = numbers_and_model(contents(folder))
    states = states_of(folder, work)
    expected = contents(folder)
    assert len(states) > 15 and any(".part" in name for state in states for name in state)
    for state in states:
        if old == "finished" and "new/result.json" not in state:  # else that one counts
            seen = {name: state[name] for name in state if name.split("/")[0] != "new"}
            assert numbers_and_model(seen) in (before, numbers_and_model(expected))
        put(folder, state)
        work()
        assert contents(folder) == expected


def test_what_is_not_of_a_run_stays_and_no_link_is_followed(run, words, clock, tmp_path):
    folder, other = run(words.epochs, *VAL), tmp_path / "of somebody else"
    (other / "below").mkdir(parents=True)
    (other / "below" / "result.json").write_text("{}")
    (folder / "my notes.txt").write_text("mine")
    (folder / "figures").mkdir()
    (folder / "figures" / "mine.png").write_bytes(b"mine")
    for name in ("a link", "moving", "unfinished.tmp", "checkpoint-x"):
        (folder / name).symlink_to(other / "below", target_is_directory=True)
    before, elsewhere = contents(folder), contents(other)
    run(words.epochs, *VAL, "--overwrite")
    after = contents(folder)
    assert b"--overwrite" in after.pop("args.json") and before.pop("args.json")  # of the command
    assert after == before and contents(other) == elsewhere
    assert all((folder / name).is_symlink() for name in ("a link", "moving", "unfinished.tmp"))


def test_a_link_in_the_way_of_overwrite_is_refused_before_training(run, tmp_path):
    folder = run(fit_of([0.2]), "--no_weights")
    (folder / "new").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(InputError, match="new is in the way of --overwrite"):
        run(fit_of([0.2]), "--overwrite")


@pytest.mark.parametrize("place", ["model", "adapter"])
def test_a_file_of_the_user_in_a_folder_that_would_go_is_named_before_training(run, words, place):
    fit = words.epochs if place == "model" else fit_of([0.2])
    folder = run(fit, *VAL)
    (folder / place / "onnx").mkdir()  # as predict.py --export leaves it; the model's own
    (folder / place / "below").mkdir()
    (folder / place / "below" / "handler.py").write_text("mine")
    words.stop = 1
    refused = (InputError, KeyboardInterrupt)  # the last one has no message
    with pytest.raises(refused, match=f"{place}/below/handler.py is no file of a run"):
        run(fit, *VAL, "--overwrite")
    assert (folder / place / "below" / "handler.py").read_text() == "mine"


@pytest.mark.parametrize("old", ["nothing", "unfinished", "finished"])
def test_overwrite_that_is_stopped_after_each_epoch_gets_on(run, words, old):
    words.most, words.best = 3, 0.8
    words.stop = {"nothing": 1, "unfinished": 3, "finished": None}[old]
    with contextlib.suppress(KeyboardInterrupt):
        run(words.epochs, *VAL)
    words.best = Words.best
    for words.stop in (2, 3):
        with pytest.raises(KeyboardInterrupt):
            run(words.epochs, *VAL, "--overwrite")
    begun = []

    def fit(args, corpus, folder):
        for epoch in words.epochs(args, corpus, folder):
            begun.append(epoch[0]["epoch"])
            yield epoch

    words.stop = None
    folder = run(fit, *VAL, "--overwrite")
    assert begun == [3]
    assert "90.0" in (folder / "metrics.jsonl").read_text() and not (folder / "new").exists()


def test_overwrite_keeps_an_unfinished_run_until_the_new_one_begins(run):
    with pytest.raises(KeyboardInterrupt):
        run(fit_of([0.2, 0.3], stop_after=1))

    def fails(args, corpus, folder):
        raise InputError("the encoder is not there")
        yield

    with pytest.raises(InputError):
        run(fails, "--overwrite")
    assert kept(run(fit_of([0.2, 0.3]))) == (2, 2)  # which asserts that epoch 1 was restored


def test_killed_writes_go_at_the_next_start_and_those_of_the_living_stay(run):
    folder = run(fit_of([0.2]), "--no_weights")
    cache = folder.parent / "cache"
    cache.mkdir()
    for path in (folder / ".result.json.12ab34cd.part", cache / ".states-1.f16.12ab34cd.part"):
        path.write_bytes(b"half")
    os.utime(path, (0, 0))  # the other processes of the cache may live: a day has passed
    (folder / ".model.12ab34cd.part" / "encoder").mkdir(parents=True)
    own = cache / ".notes.part"  # is not ours
    own.write_bytes(b"")
    with files.saving(cache / "states-2.f16") as file:  # of another run
        run(fit_of([0.2]), "--no_weights", "--overwrite")
        (living,) = set(cache.iterdir()) - {own}
        file.write(b"whole")
    assert living.name.startswith(".states-2.f16") and not list(folder.glob(".*.part"))
    assert contents(cache) == {".notes.part": b"", "states-2.f16": b"whole"}


def test_a_run_of_another_version_is_refused_with_the_settings_that_differ(run):
    folder = run(fit_of([0.2]))
    args = files.read_json(folder / "args.json")
    del args["settings"]["eval_every"]
    args["settings"]["of_old"] = 1
    files.write_json(folder / "args.json", args)
    line = r"other settings \(of_old, eval_every\) began here.*--overwrite"
    with pytest.raises(InputError, match=line):  # a dot matches no line end
        run(fit_of([0.2]))
    assert files.read_json(folder / "args.json") == args

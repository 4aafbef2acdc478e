"""reporting/choice.py: which method to take, against scikit-learn and hand-made runs."""

import csv
import json
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

import report
from engine.files import InputError, write_json
from reporting import choice


@settings(deadline=None)
@given(st.integers(0, 10_000))
def test_weighted_macro_f1_is_scikit_learns_on_repeated_texts(seed):
    rng = np.random.default_rng(seed)
    labels, predicted = rng.integers(0, 4, 30), rng.integers(0, 4, (2, 30))
    weights = rng.integers(0, 3, 30)
    weights[0] = 1
    repeated = np.repeat(labels, weights)
    options = {"labels": np.unique(repeated), "average": "macro", "zero_division": 0}
    expected = [100 * f1_score(repeated, np.repeat(row, weights), **options) for row in predicted]
    assert choice.macro_f1(labels, predicted, weights) == pytest.approx(expected)


def write_run(
    folder,
    method,
    seed,
    right,
    minutes,
    n=200,
    f1=(90.0, 50.0, 10.0),
    classes=((100, 9), (50, 9), (5, 9)),  # training and test texts
    text="t",
    data_hash="same",
    **settings,
):
    """A run whose first `right` validation texts are right, and the rest names the next class."""
    own = [f"{name}-{value}" for name, value in settings.items()]
    run = folder / "_".join([method, *own, str(seed)])
    run.mkdir(parents=True)
    labels = [str(i % 3) for i in range(n)]
    said = [label if i < right else str((int(label) + 1) % 3) for i, label in enumerate(labels)]
    rows = [("text", "label", "prediction"), *((text, *row) for row in zip(labels, said))]
    with open(run / "validation.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    test = {"accuracy": 1.0, "macro_f1": float(right), "f1": list(f1)}
    epoch = {"epoch": 1, "test": test, "val": {"accuracy": 1.0, "macro_f1": 1.0}}
    (run / "metrics.jsonl").write_text(json.dumps(epoch) + "\n")
    shared = {"ir": None, "augment": "none", "data_seed": 0, "label_noise": 0.0}
    own = shared | {"method": method, "dataset": "a.csv", "seed": seed} | settings
    result = {"seconds": 60 * minutes, "data_hash": data_hash, "changed": {}, "settings": own}
    write_json(run / "result.json", result)
    sizes = [dict(zip(("train", "test"), pair)) for pair in classes]
    write_json(run / "data_report.json", {"classes": sizes})


@pytest.fixture
def two_runs(tmp_path):
    """Of two methods, with a seed each."""
    for method in ("la", "tfidf"):
        write_run(tmp_path, method, 0, 100, 1)
    return tmp_path


def test_a_clear_lead_is_named_with_its_reason(tmp_path):
    for seed in (0, 1, 2):
        write_run(tmp_path, "sharprecl", seed, 180 + seed, 10)
        write_run(tmp_path, "tfidf", seed, 120 + seed, 0.1)
    text = choice.choose(tmp_path)
    assert "Take sharprecl" in text and "above tfidf" in text
    (row,) = [line.split() for line in text.splitlines() if line.startswith("sharprecl")]
    # macro-F1 181 ± 1 as written, and the rarest of three classes has F1 10 in each run
    assert row[2:5] == ["181.0", "±", "1.0"] and row[5:8] == ["10.0", "±", "0.0"]
    assert row[-2:] == ["10.0", "3"]


def test_the_rarest_third_is_of_the_classes_that_have_a_test_text(tmp_path):
    classes = ((100, 9), (2, 1), (1, 0), (50, 9), (5, 1))
    for method in ("la", "tfidf"):
        write_run(tmp_path, method, 0, 100, 1, f1=(90.0, 10.0, 0.0, 50.0, 30.0), classes=classes)
    (row,) = [line.split() for line in choice.choose(tmp_path).splitlines() if line[:3] == "la "]
    assert row[3] == "20.0"  # two of four: of 10 and 30


def test_texts_may_be_whole_books(tmp_path):
    csv.field_size_limit(131_072)  # the usual one, which another test may have raised
    for method in ("la", "tfidf"):
        write_run(tmp_path, method, 0, 2, 1, n=3, text="x" * 131_073)
    assert "Take" in choice.choose(tmp_path)


def test_where_the_lead_is_chance_the_cheapest_is_named(tmp_path):
    write_run(tmp_path, "sharprecl", 0, 151, 10)
    write_run(tmp_path, "la", 0, 150, 4)
    write_run(tmp_path, "tfidf", 0, 60, 0.1)
    text = choice.choose(tmp_path)
    assert "Take la" in text and "sharprecl are chance" in text and "tfidf are" not in text


def cut_at_the_end_of_a_line(runs):
    path = runs / "la_0" / "validation.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-3]))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda runs: shutil.rmtree(runs / "la_0"), "of 1 methods; .* at least two"),
        (lambda runs: [shutil.rmtree(run) for run in runs.iterdir()], "of 0 methods"),
        (lambda runs: (runs / "la_0" / "validation.csv").unlink(), "la_0: .* no validation texts"),
        (cut_at_the_end_of_a_line, "a file of this run is damaged"),
        (lambda runs: shutil.copytree(runs / "la_0", runs / "copy"), "two runs of la with"),
        (lambda runs: write_run(runs, "wce", 0, 100, 1, data_hash="new"), "on different texts"),
    ],
)
def test_runs_that_cannot_be_compared_are_one_line(two_runs, change, message):
    change(two_runs)
    with pytest.raises(InputError, match=message):
        choice.choose(two_runs)


def test_runs_of_one_method_with_other_settings_are_no_seeds_of_it(tmp_path):
    write_run(tmp_path, "tfidf", 0, 100, 1)
    for seed in (0, 1):
        write_run(tmp_path, "sharprecl", seed, 100, 1, mu=1.0, epochs=5)
    assert "Take" in choice.choose(tmp_path)
    write_run(tmp_path, "sharprecl", 2, 100, 1, mu=0.3, epochs=5, head_lr=1e-3)
    with pytest.raises(InputError, match="runs of sharprecl differ in head_lr, mu;"):
        choice.choose(tmp_path)


@pytest.mark.parametrize("ignored", [["--protocol", "best_test"], ["--output_dir", "tables"]])
def test_what_it_does_not_take_is_not_ignored_in_silence(two_runs, capsys, ignored):
    with pytest.raises(SystemExit) as caught:
        report.main([str(two_runs), "--choose", *ignored])
    assert caught.value.code == 2 and ignored[0] in capsys.readouterr().err


def test_a_file_of_another_version_is_one_line(two_runs, capsys):
    path = two_runs / "la_0" / "validation.csv"
    path.write_text(path.read_text().replace("label", "class"))
    assert report.main([str(two_runs), "--choose"]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert "'label'" in error and "another version of main.py" in error

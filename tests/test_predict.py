"""predict.py: what comes in, what goes out, class shares, temperature, what goes wrong."""

import csv
import datetime
import decimal
import io
import json
import os
import re
import shlex
import signal
import stat
import subprocess
import sys
import time
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from conftest import small_files
from hypothesis import given, settings
from hypothesis import strategies as st
from test_bad_input import NO_MEMORY, ONE_THREAD, start
from test_export import about_of, feats_of, network, write
from test_reading import in_bytes, zip_of

import predict
from engine import calibration, metrics, predictor, saved_model
from engine.encoders import load_tokenizer
from engine.files import InputError, lacks_memory
from engine.predictor import pools
from reporting import score

ROOT = Path(__file__).parent.parent
TEXTS = [
    "a small animal",
    "food of the sea",
    "the time of day when the sun is low in the sky",
    "",
    "an instant",
    'a dish of meat, "boiled"',
    " ",
]
NAMES = ["noun.animal", "a | b", "noun.time"]


@pytest.fixture(scope="module")
def model(tmp_path_factory, tiny_encoder):
    path = tmp_path_factory.mktemp("models") / "model"
    write(path, network(tiny_encoder, about_of()), tiny_encoder, about_of())
    return path


@pytest.fixture(scope="module")
def expected(model, tiny_encoder):
    """Probabilities of TEXTS, one text at a time and without any of predict.py's code."""
    method = saved_model.read_model(model, "cpu").method
    feats = feats_of(method, load_tokenizer(str(tiny_encoder)), TEXTS)
    return method.classify(feats).softmax(dim=1).tolist()


@pytest.fixture
def run(model, tmp_path, capsys, monkeypatch):
    """predict.main on some content, as a file of this name or as stdin: its code, rows, stderr."""

    def call(content, name="texts.csv", options=(), path=model):
        content = content if isinstance(content, bytes) else content.encode()
        if name == "-":
            monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(content)))
        else:
            (tmp_path / name).write_bytes(content)
            name = str(tmp_path / name)
        capsys.readouterr()
        code = predict.main([str(path), *options, name])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def csv_of(rows) -> str:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue()


def rows_of(out: str) -> list[dict]:
    return list(csv.DictReader(io.StringIO(out, newline="")))


# ---- in and out ----

IDS = list(range(100, 100 + len(TEXTS)))
FRAME = pandas.DataFrame({"id": IDS, "text": TEXTS})
INPUTS = {  # test_reading.py has all formats
    "a.csv": csv_of([("id", "text"), *zip(IDS, TEXTS)]),
    "crlf.txt": "\r\n".join(TEXTS) + "\r\n",
    "bom.txt": "\ufeff" + "\n".join(TEXTS) + "\n",
    "a.jsonl": "\n\n".join(json.dumps({"id": i, "text": t}) for i, t in zip(IDS, TEXTS)),
    "-": "\n".join(TEXTS),
    "other name.zip": zip_of(**{"lines.txt": "\n".join(TEXTS)}),
    "a.parquet": FRAME.to_parquet(),
    "a.xlsx": in_bytes(FRAME.to_excel),
}


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("batch_size", ["1", "3", "64"])
def test_every_format_gives_each_text_its_prediction_in_order(run, expected, name, batch_size):
    code, out, err = run(INPUTS[name], name, ["--probabilities", "--batch_size", batch_size])
    rows = rows_of(out)
    assert code == 0 and [row["text"] for row in rows] == TEXTS
    if name.startswith("a."):
        assert [row["id"] for row in rows] == [str(i) for i in IDS]
    for text, row, p in zip(TEXTS, rows, expected):
        got = [row["prediction"], row["probability"], *(row[f"probability_{n}"] for n in NAMES)]
        if text.strip():
            assert got[0] == NAMES[np.argmax(p)]
            assert [float(x) for x in got[1:]] == pytest.approx([max(p), *p], abs=2e-6)
        else:
            assert got == [""] * 5
    assert "2 of 7 texts are empty" in err and "equal share" in err


def test_jsonl_keeps_values_as_they_are_and_has_the_embedding(run, model):
    rows = [
        {"text": "food", "id": 7, "tags": ["a", {"b": None}], "price": 1.5, "ü": "é"},
        {"text": None, "other": True},
    ]
    code, out, _ = run(
        "\n".join(map(json.dumps, rows)), "a.jsonl", ["--output_format", "jsonl", "--embedding"]
    )
    got = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and "é" in out
    embedding = got[0].pop("embedding")
    trained = saved_model.read_model(model, "cpu")
    (feat,) = feats_of(trained.method, trained.tokenizer, ["food"])
    assert embedding == pytest.approx(feat.tolist(), rel=1e-4, abs=1e-5)
    assert got[0].pop("probability") > 1 / 3 and got[0].pop("prediction") in NAMES
    assert got[0] == rows[0]
    assert got[1] == rows[1] | {"prediction": None, "probability": None, "embedding": None}


def test_objects_with_their_fields_in_another_order_are_one_table(run):
    code, out, _ = run('{"text": "food", "id": 1}\n{"id": 2, "text": "the sea"}\n', "a.jsonl")
    assert code == 0
    assert [(row["text"], row["id"]) for row in rows_of(out)] == [("food", "1"), ("the sea", "2")]


def test_what_json_has_no_word_for_goes_out_as_text_or_null(run):
    """Of Parquet: in a cell, in a list, in an object."""
    day, price = datetime.date(2020, 1, 31), decimal.Decimal("1.50")
    frame = pandas.DataFrame(
        {
            "text": ["food"],
            "days": [[day, None]],
            "inner": [{"at": datetime.datetime(2020, 1, 31, 9), "prices": [price]}],
            "bytes": [[b"ab"]],
            "numbers": [[1.5, np.nan, np.inf]],
        }
    )
    expected_ = {
        "text": "food",
        "days": ["2020-01-31", None],
        "inner": {"at": "2020-01-31 09:00:00", "prices": ["1.50"]},
        "bytes": ["ab"],
        "numbers": [1.5, None, None],
    }
    code, out, _ = run(frame.to_parquet(), "a.parquet", ["--output_format", "jsonl"])
    row = json.loads(out, parse_constant=pytest.fail)
    assert code == 0 and {name: row[name] for name in expected_} == expected_
    code, out, _ = run(frame.to_parquet(), "a.parquet")
    assert code == 0 and json.loads(rows_of(out)[0]["numbers"]) == [1.5, None, None]


def test_the_text_columns_are_those_of_the_training_unless_others_are_named(
    run, tmp_path, tiny_encoder
):
    about = replace(about_of(), text_column=["title", "body"])
    write(tmp_path / "model", network(tiny_encoder, about), tiny_encoder, about)
    rows = csv_of([("Title", "body"), ("food of", "the sea"), ("", "")])
    in_python = predict.Predictor(tmp_path / "model", device="cpu")
    joined, swapped, one = in_python.predict(["food of\nthe sea", "the sea\nfood of", "the sea"])
    for options, answer in (
        ([], joined),
        (["--text_column", "body", "Title"], swapped),
        (["--text_column", "body", "Title", "--top", "1"], swapped),
        (["--text_column", "body"], one),
    ):
        code, out, err = run(rows, options=options, path=tmp_path / "model")
        got, empty = rows_of(out)
        assert code == 0 and (got["Title"], got["body"]) == ("food of", "the sea")
        assert empty["prediction"] == ""
        assert float(got["probability"]) == pytest.approx(answer["probability"], abs=2e-6)
        assert ("'Title' is taken as the text" in err) == (not options)


@pytest.mark.parametrize(
    "content, form, texts",
    [
        ("Sentence;id\nfood;1\n", "format=tsv", ["food"]),
        ("id\tnothing\n1\tfood\n", "format=lines", ["id\tnothing", "1\tfood"]),
    ],
)
def test_a_txt_file_is_a_table_where_its_first_line_names_the_text(run, content, form, texts):
    code, out, err = run(content, "a.txt", ["--output_format", "jsonl"])
    rows = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and [row.get("text") or row.get("Sentence") for row in rows] == texts
    assert f"a.txt: read as --read {form}" in err


def test_read_overrules_what_would_be_found_in_the_input(run):
    content = "id;text\n1;привет\n2;пока\n".encode("cp1251")
    code, out, _ = run(content, "a.csv", ["--read", "encoding=cp1251", "sep=;", "--top", "1"])
    assert code == 0 and [row["text"] for row in rows_of(out)] == ["привет", "пока"]


def test_a_label_of_fasttext_is_written_as_a_word(run):
    code, out, _ = run("__label__1 good food\n__label__a __label__b slow\n", "a.txt")
    assert code == 0 and [row["label"] for row in rows_of(out)] == ["1", '["a", "b"]']


# ---- texts on the command line, and in Python ----


def test_texts_on_the_command_line_are_rows(model, expected, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = predict.main([str(model), *TEXTS, "--probabilities"])
    rows = rows_of(capsys.readouterr().out)
    assert code == 0 and [row["text"] for row in rows] == TEXTS
    for text, row, p in zip(TEXTS, rows, expected):
        if text.strip():
            assert [float(row[f"probability_{n}"]) for n in NAMES] == pytest.approx(p, abs=2e-6)
    assert predict.main([str(model), "--", "-1", "--top"]) == 0
    assert [row["text"] for row in rows_of(capsys.readouterr().out)] == ["-1", "--top"]


@pytest.mark.parametrize(
    "given, message",
    [
        (["reviews.csv"], "reviews.csv: cannot be read (No such file or directory)"),
        (["My Texts.JSONL"], "My Texts.JSONL: cannot be read"),
        (["folder"], "folder: cannot be read (Is a directory)"),
        (["unknown"], "say with --format what it is"),
        (["here.txt", "a text"], "here.txt is a file (it exists"),
        (["a text", "gone.tsv"], "gone.tsv is a file"),
        (["-", "a text"], "- is a file"),
        (["a text", "--format", "csv"], "a text: cannot be read"),
        (["food", "h\udcff"], "text 2 of the command line: half a surrogate pair"),
    ],
)
def test_what_is_a_file_and_what_a_text_is_one_rule_with_one_line(
    model, tmp_path, monkeypatch, capsys, given, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.txt").write_text("food\n")
    (tmp_path / "unknown").write_text("food\n")
    (tmp_path / "folder").mkdir()
    assert predict.main([str(model), *given]) == 2
    out, err = capsys.readouterr()
    assert out == "" and message in err.splitlines()[-1] and err.count("error: ") == 1


def test_the_three_lines_of_python_give_what_the_command_line_gives(run, model):
    _, out, _ = run(
        INPUTS["a.csv"],
        options=["--output_format", "jsonl", "--top", "2", "--embedding", "--test_prior", "train"],
    )
    lines = re.findall("^    ((?:from predict |predictor).*)", predict.__doc__, re.MULTILINE)
    names = {}
    exec("\n".join(lines).replace("runs/RUN", str(model)), names)  # the docstring's own lines
    assert names["predictor"].predict([]) == []
    predictor = predict.Predictor(model, device="cpu", top=2, embedding=True, test_prior="train")
    expected_ = [json.loads(line) for line in out.splitlines()]
    got = [
        {"id": row["id"], "text": row["text"]} | added
        for row, added in zip(expected_, predictor.predict(TEXTS), strict=True)
    ]
    assert got == expected_ and predictor.empty == 2


def test_in_python_loading_prints_nothing(model, capsys):
    predict.Predictor(model, device="cpu")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("texts", ["one text", ["fine", 3], ["half \ud800"]])
def test_in_python_what_is_no_text_is_one_line(model, texts):
    with pytest.raises(InputError, match="text"):
        predict.Predictor(model, device="cpu").predict(texts)


def test_in_python_a_device_that_is_not_there_is_one_line(model):
    with pytest.raises(InputError, match="cuda:99 is not available here") as error:
        predict.Predictor(model, device="cuda:99")
    assert "\n" not in str(error.value)


def test_long_texts_are_cut_and_counted(run):
    code, out, err = run("food " * 500 + "\nfood\n", "a.txt")
    assert code == 0 and len(rows_of(out)) == 2 and "1 of 2 texts are cut at 64 tokens" in err


@pytest.mark.parametrize(
    "content, share, is_much",
    [
        ("food\nanimal\n", None, False),
        ("food food\nanimal 😀 the food\n\n", "16.67%", False),
        ("food animal the food\n😀\n", "20.00%", True),
        ("ዛሬ በጣም\n", "100.00%", True),
    ],
)
def test_unknown_tokens_are_counted_and_many_have_a_remedy(run, content, share, is_much):
    code, _, err = run(content, "a.txt")
    assert code == 0 and ("unknown to the encoder" in err) == (share is not None)
    assert share is None or f"{share} of the tokens are unknown to the encoder" in err
    assert ("--encoder xlm-roberta-base" in err) == is_much


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 60), max_size=40), st.integers(1, 7))
def test_pools_hold_all_rows_in_order_and_never_more_than_asked(lengths, most):
    rows = [({"i": i}, "x" * n) for i, n in enumerate(lengths)]
    got = list(pools(iter(rows), most))
    assert [row for pool in got for row in pool] == rows
    assert all(1 <= len(pool) <= most for pool in got)


def test_memory_is_that_of_two_pools_however_long_the_input(model):
    """The reader is never more than two pools ahead of what is written."""
    read = 0

    def rows():
        nonlocal read
        for i in range(3000):
            read += 1
            yield {}, f"food {i % 9}"

    predictor = predict.Predictor(model, device="cpu", batch_size=2)
    written = 0
    for pool, _ in predictor.stream(rows()):
        written += len(pool)
        assert len(pool) <= 256 and read - written <= 256
    assert written == 3000


def test_long_texts_make_smaller_pools():
    rows = [({}, "x" * 9_000_000)] * 5
    assert [len(pool) for pool in pools(rows, 100)] == [2, 2, 1]


# ---- a finished model on texts with labels ----


def test_score_counts_what_is_right_names_unknown_labels_and_leaves_a_page(
    run, expected, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    given = [NAMES[np.argmax(p)] for p in expected]  # all right, but for the next three
    given[1], given[4], given[5] = "noun.plant", "noun.plant", ""
    code, out, err = run(csv_of([("text", "Label"), *zip(TEXTS, given)]), options=["--score"])
    # 5 of 7 texts are not blank, and one of these has no label: 2 of 4 are right
    assert code == 0 and "accuracy 50.00" in out and "4 texts" in out
    assert "does not know: noun.plant; their texts (2) count as errors" in out
    assert "rows without a label or a text, which are left out: 3" in out
    right = {label for label in (given[0], given[2])}
    predicted = [NAMES[np.argmax(expected[i])] for i in (0, 1, 2, 4)]
    f1 = [
        2 * (true := [given[0], given[2]].count(name)) / (true + predicted.count(name))
        for name in right
    ]
    assert f"macro-F1 {100 * sum(f1) / (len(f1) + 1):.2f}" in out
    html = (tmp_path / "texts_score.html").read_text()
    assert out.endswith("texts_score.html\n") and "does not know" in html and "<svg" in html


def test_a_label_is_the_class_that_training_has_made_of_it():
    about = replace(about_of(names=["1", "2.5"]), class_counts=[1, 1])
    told = {"text": "a text", "prediction": "1", "probability": 0.9}
    given = ("1", "1.0", "-1.0", "2.0", "2.5", "v1.0")  # pandas writes 1.0 where a cell is empty
    found = score.gather(about, "a.csv", [told | {"label": label} for label in given])
    assert found.unknown == ["-1.0", "2.0", "v1.0"] and list(found.test.is_right[:2]) == [True] * 2


@pytest.mark.parametrize(
    "name, content, options, message",
    [
        ("a.txt", "food\n", [], "has no labels"),
        ("a.csv", "text,stars\nfood,1\n", [], "--label_column"),
        ("a.csv", "text,label\nfood,\n", [], "none of 1 rows has a text and a label"),
        ("a.csv", "text,label\nfood,x\n", ["--output", "x.csv"], "ends in .html"),
        ("a.csv", "text,label\nfood,x\n", ["--abstain", "0.5"], "leave --abstain out"),
        ("a.csv", "text,label\nfood,x\n", ["--top", "2"], "leave --top out"),
        ("a.csv", "text,label\nfood,x\n", ["--output_format", "csv"], "leave --output_format out"),
    ],
)
def test_what_cannot_be_scored_is_one_line(run, name, content, options, message):
    code, out, err = run(content, name, ["--score", *options])
    assert (code, out) == (2, "") and message in err.splitlines()[-1]


# ---- class shares ----


def two_classes(compensated: bool) -> saved_model.About:
    """Trained with 90 % and 10 %."""
    return replace(about_of(names=["no", "yes"]), class_counts=[90, 10], compensated=compensated)


def test_bayes_worked_by_hand():
    """
    A text is three times as likely under "yes" as under "no". With equal shares, "yes" has 3/4; at
    90 to 10, (0.1 * 3) / (0.1 * 3 + 0.9) = 1/4; at 60 to 40, 1.2 / (1.2 + 0.6) = 2/3.
    """
    cases = [([0.5, 0.5], 3 / 4), ([0.9, 0.1], 1 / 4), ([0.6, 0.4], 2 / 3)]
    for compensated, own in ((True, 3 / 4), (False, 1 / 4)):
        assumed = two_classes(compensated).own_shares()
        logits = torch.tensor([[1 - own, own]], dtype=torch.float64).log()
        for shares, p in [*((torch.tensor(s), p) for s, p in cases), (None, own)]:
            got = calibration.reweighted(logits, assumed, shares).softmax(dim=1)
            assert got[0, 1].item() == pytest.approx(p), (compensated, shares)


@pytest.mark.parametrize(
    "content, shares",
    [
        ("label,share\nnoun.time,0.1\na | b,0.6\nnoun.animal,0.3\n", [0.3, 0.6, 0.1]),
        ("count,label\n10,noun.time\n60, a | b\n30,noun.animal\n", [0.3, 0.6, 0.1]),
        ("label,share\na | b,0\nnoun.animal,1\nnoun.time,1\n", [1, 0, 1]),  # never predicted
    ],
)
def test_shares_and_counts_from_a_file_move_the_probabilities(
    run, tmp_path, expected, content, shares
):
    (tmp_path / "p.csv").write_text(content)
    code, out, err = run(
        INPUTS["a.csv"], options=["--probabilities", "--test_prior", str(tmp_path / "p.csv")]
    )
    weighted = np.array(expected[0]) * shares
    got = [float(rows_of(out)[0][f"probability_{n}"]) for n in NAMES]
    assert code == 0 and got == pytest.approx(list(weighted / weighted.sum()), abs=2e-6)
    assert "equal share" not in err  # the user knows


@pytest.mark.parametrize(
    "rows, message",
    [
        ("a | b,1\nnoun.animal,1\n", "'noun.time'"),
        ("a | b,1\nnoun.animal,1\nnoun.time,1\nx,1\n", "'x'"),
        ("a | b,1\na | b,1\nnoun.animal,1\nnoun.time,1\n", "twice"),
        ("a | b,-1\nnoun.animal,1\nnoun.time,1\n", "a number below 0"),
        ("a | b,nan\nnoun.animal,1\nnoun.time,1\n", "a number below 0, or a sum"),
        ("a | b,0\nnoun.animal,0\nnoun.time,0\n", "a sum of 0"),
        ("a | b,many\n", "'many'"),
        ("a | b\n", "and 1 fields"),
        (None, "neither train, uniform nor a file"),
    ],
)
def test_a_bad_file_of_class_shares_is_one_line(run, tmp_path, rows, message):
    if rows:
        (tmp_path / "shares.csv").write_text("label,share\n" + rows)
    code, out, err = run(INPUTS["a.csv"], options=["--test_prior", str(tmp_path / "shares.csv")])
    (line,) = err.splitlines()
    assert (code, out) == (2, "") and line.startswith("error: ") and message in line


# ---- temperature ----


@pytest.mark.parametrize("compensated", [True, False])
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_the_temperature_is_the_one_that_the_labels_were_drawn_with(compensated, share, capsys):
    """
    x ~ N(+1, 1) of "yes" and N(-1, 1) of "no": log p(x | yes) / p(x | no) = 2x. Trained with 10 %
    of "yes"; the validation texts may have another share; the logits are three times too large.
    """
    rng = np.random.default_rng(0)
    labels = (rng.random(8000) < share).astype(np.int64)
    x = rng.normal(2 * labels - 1, 1)
    truth = np.stack([np.zeros(8000), 2 * x], axis=1)
    logits = 3 * (truth if compensated else truth + np.log([0.9, 0.1]))
    fit = calibration.calibrate(logits, labels, two_classes(compensated).own_shares())
    assert fit["temperature"] == pytest.approx(3, rel=0.08) and fit["texts"] == 8000
    assert fit["ece_after"] < 1 < 3 < fit["ece_before"] and fit["why_not"] == ""
    assert "8000 validation texts" in capsys.readouterr().out


def test_a_temperature_that_makes_the_calibration_worse_is_not_offered(
    run, tmp_path, tiny_encoder, capsys
):
    """
    Ten texts of each class, 18 of 20 right, 19 with a probability of 0.9 and a mistake with nearly
    1: an error of (|18 - 17.1| + 1) / 20 = 9.5 %. That mistake makes a higher temperature likelier,
    which lets 0.9 sink away from the 18 of 19 that are right.
    """
    labels = np.array([0] * 10 + [1] * 10)
    logits = np.log(np.array([[0.9, 0.1]] * 9 + [[0.1, 0.9]] * 10 + [[0.9999, 0.0001]]))
    fit = calibration.calibrate(logits, labels, None)
    about = replace(two_classes(True), calibration=fit)
    assert fit["temperature"] == 1
    assert fit["ece_before"] == fit["ece_after"] == pytest.approx(9.5, abs=0.01)
    write(tmp_path / "model", network(tiny_encoder, about), tiny_encoder, about)
    for text in (capsys.readouterr().out, (tmp_path / "model" / "README.md").read_text()):
        assert "makes the expected calibration error worse" in text
    code, out, err = run("food\n", "a.txt", ["--calibrated"], tmp_path / "model")
    assert (code, out) == (2, "") and "leave --calibrated out" in err
    assert run("food\n", "a.txt", ["--abstain", "0.5"], tmp_path / "model")[0] == 0


def test_without_a_mistake_there_is_no_temperature(capsys):
    labels = np.array([0, 1, 0, 1])
    fit = calibration.calibrate(np.eye(2)[labels] * 4, labels, two_classes(False).own_shares())
    assert (fit["temperature"], fit["ece_after"]) == (1, fit["ece_before"])
    assert "4 of them right, do not determine" in fit["why_not"]
    assert fit["why_not"] in capsys.readouterr().out


# ---- abstaining, the likeliest labels ----


def test_the_coverage_of_each_probability_worked_by_hand():
    probabilities = np.array([[0.95, 0.05], [0.3, 0.7], [0.6, 0.4], [0.45, 0.55]])
    rows = {row["p"]: row for row in calibration.coverage(probabilities, np.array([0, 1, 1, 0]))}
    assert rows[0] == {"p": 0, "answered": 100, "accuracy": 50}
    assert rows[0.6] == {"p": 0.6, "answered": 75, "accuracy": pytest.approx(200 / 3)}
    assert rows[0.7] == {"p": 0.7, "answered": 50, "accuracy": 100}  # 0.7 itself is answered
    assert rows[0.95]["answered"] == 25
    assert rows[0.99] == {"p": 0.99, "answered": 0, "accuracy": None}


def test_a_probability_between_two_of_the_table_shows_both():
    rows = calibration.coverage(np.array([[0.95, 0.05], [0.3, 0.7]]), np.array([0, 0]))
    assert calibration.coverage_line(rows, 2, 0.5) == (
        "--abstain on the 2 validation texts: 0.5 answers 100.0 %, and 50.0 % of these are right"
    )
    assert calibration.coverage_line(rows, 2, 0.72) == (
        "--abstain on the 2 validation texts: 0.7 answers 100.0 %, and 50.0 % of these are right; "
        "0.75 answers 50.0 %, and 100.0 % of these are right"
    )
    assert calibration.coverage_line(rows, 2, 1).endswith(
        "0.99 answers 0.0 %, so no accuracy is known"
    )


@pytest.mark.parametrize("p", [0.5, 0.6, 0.8])
def test_abstain_does_to_the_validation_texts_what_the_table_says(
    run, tmp_path, tiny_encoder, monkeypatch, p
):
    sure, best = np.linspace(0.4, 0.99, 60)[:, None], np.arange(60) % 3
    logits = np.log(np.where(np.arange(3) == best[:, None], sure, (1 - sure) / 2))
    labels = np.where(np.arange(60) % 4 == 0, 0, best)  # ten predictions are wrong
    about = replace(about_of(), calibration=calibration.calibrate(logits, labels, None))
    write(tmp_path / "model", network(tiny_encoder, about), tiny_encoder, about)
    monkeypatch.setattr(predictor.loader, "predict", lambda *_, **__: (logits, logits))
    texts = csv_of([("text",), *((f"text {i}",) for i in range(60))])
    code, out, err = run(texts, options=["--abstain", str(p)], path=tmp_path / "model")
    rows = rows_of(out)
    answered = [(row, label) for row, label in zip(rows, labels) if row["prediction"]]
    assert code == 0 and 0 < len(answered) < 60
    assert all((float(row["probability"]) >= p) == bool(row["prediction"]) for row in rows)
    share = 100 * len(answered) / 60
    right = 100 * np.mean([row["prediction"] == NAMES[label] for row, label in answered])
    assert f"{p:g} answers {share:.1f} %, and {right:.1f} % of these are right" in err
    assert f"{60 - len(answered)} of 60 texts are less probable than {p}" in err


def test_top_gives_the_likeliest_labels_in_order(run, expected):
    _, out, _ = run(INPUTS["a.csv"], options=["--top", "2"])
    for text, row, p in zip(TEXTS, rows_of(out), expected):
        order = np.argsort(p)[::-1] if text.strip() else []
        names = [NAMES[i] for i in order[:2]] or ["", ""]
        assert [row["top_1"], row["top_2"]] == names
        assert row["top_1"] == row["prediction"] and "top_3" not in row
        if text.strip():
            assert [float(row[f"top_{k}_probability"]) for k in (1, 2)] == pytest.approx(
                sorted(p)[:0:-1], abs=2e-6
            )
    code, _, err = run(INPUTS["a.csv"], options=["--top", "4"])
    assert code == 2 and "the model has 3 classes" in err


def test_the_expected_calibration_error_worked_by_hand():
    """Bins of 1/15: 0.61 and 0.65 share one (0.6 to 0.667), one of two right; 0.9 alone, right."""
    probabilities = np.array([[0.61, 0.39], [0.35, 0.65], [0.9, 0.1], [0.5, 0.5]])
    labels = np.array([0, 0, 0, 0])
    # |0.5 - 0.63| * 2 + |1 - 0.9| + |1 - 0.5| over 4
    error = metrics.calibration_error(probabilities.max(axis=1), probabilities.argmax(1) == labels)
    assert error == pytest.approx(100 * (0.26 + 0.1 + 0.5) / 4)


def test_calibrated_divides_the_logits_and_without_a_validation_split_is_one_line(
    run, expected, tmp_path, tiny_encoder
):
    fit = {"temperature": 2.5, "texts": 10, "ece_before": 9.0, "ece_after": 3.0}
    about = replace(about_of(), calibration=fit | {"why_not": "", "coverage": []})
    write(tmp_path / "model", network(tiny_encoder, about), tiny_encoder, about)
    code, out, err = run(
        INPUTS["a.csv"], options=["--calibrated", "--probabilities"], path=tmp_path / "model"
    )
    scaled = np.array(expected[0]) ** (1 / 2.5)
    got = [float(rows_of(out)[0][f"probability_{n}"]) for n in NAMES]
    assert code == 0 and got == pytest.approx(list(scaled / scaled.sum()), abs=2e-6)
    assert "9.0 % before, 3.0 % after" in err
    for options in (["--calibrated"], ["--abstain", "0.5"]):
        code, out, err = run(INPUTS["a.csv"], options=options)
        assert (code, out) == (2, "") and "--val_fraction 0.1" in err.splitlines()[-1]


# ---- bad input ----


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("-", "", "stdin: the file is empty"),
        ("a.csv", "text\n", "no rows"),
        ("a.txt", "food\nani\0mal\n", "line 2: a NUL byte"),
        ("a.jsonl", '{"text": "food", "x": "\\ud800"}', "half a surrogate"),
        ("a.jsonl", '{"text": "a", "x": 1}\n{"text": "b", "y": 1}', "--output_format jsonl"),
        ("a.csv", "text,probability\nfood,1\n", "rename"),
        ("a.docx", "PK", "--format"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(run, tmp_path, name, content, message):
    code, _, err = run(content, name, ["--output", str(tmp_path / "out.csv")])
    line = err.splitlines()[-1]
    assert code == 2 and line.startswith("error: ") and message in line
    assert err.count("error: ") == 1 and "Traceback" not in err
    assert not list(tmp_path.glob("*out.csv*"))


@pytest.mark.parametrize(
    "options, message",
    [
        (["--output", "{}/file/out.csv"], "cannot be written"),
        (["--output", "{}/folder.csv"], "cannot be written"),
        (["--output", "{}/pipe.csv"], "leave --output out"),
        (["--output", "{}/out.xls"], "--output_format"),
        (["--export", "onnx"], "--export classifies no texts"),
        (["--label_column", "stars"], "leave --label_column out"),
    ],
)
def test_an_output_that_cannot_be_is_one_line(run, tmp_path, options, message):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder.csv").mkdir()
    os.mkfifo(tmp_path / "pipe.csv")
    code, _, err = run(INPUTS["a.csv"], options=[option.format(tmp_path) for option in options])
    assert code == 2 and message in err.splitlines()[-1]
    assert (tmp_path / "file").read_text() == "in the way" and (tmp_path / "pipe.csv").is_fifo()


@pytest.mark.parametrize("link", [Path.symlink_to, Path.hardlink_to])
def test_the_output_never_replaces_the_input_unless_told_to(model, tmp_path, capsys, link):
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_bytes(INPUTS["a.csv"].encode())
    link(target, source)
    arguments = [str(model), str(source), "--output", str(target)]
    assert predict.main(arguments) == 2
    assert "--overwrite" in capsys.readouterr().err.splitlines()[-1]
    assert source.read_bytes().decode() == INPUTS["a.csv"]
    assert predict.main([*arguments, "--overwrite"]) == 0
    assert [row["text"] for row in rows_of(target.read_text())] == TEXTS


@pytest.mark.parametrize("room, code", [(2_000_000, 0), (1_000_000, 2)])
def test_an_unbuffered_stdout_gets_every_row_or_it_is_an_error(
    model, tmp_path, monkeypatch, capsys, room, code
):
    """As python -u makes it: raw, so that a write may take a part of the bytes in silence."""
    (tmp_path / "in.txt").write_text("food " * 240_000)
    with open(tmp_path / "out.csv", "wb", buffering=0) as raw:
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, write_through=True))
        with small_files(room):
            assert predict.main([str(model), str(tmp_path / "in.txt")]) == code
    err = capsys.readouterr().err.splitlines()[-1]
    if code == 0:
        assert len((tmp_path / "out.csv").read_bytes()) > 1_200_000
    else:
        assert err.startswith("error: ") and "too large" in err.lower()


def test_a_model_that_gives_no_finite_logits_is_one_line_and_not_an_empty_prediction(
    run, tmp_path, tiny_encoder
):
    method = network(tiny_encoder, about_of())
    torch.nn.init.constant_(method.phi.weight, torch.nan)
    write(tmp_path / "model", method, tiny_encoder, about_of())
    code, out, err = run(INPUTS["a.csv"], path=tmp_path / "model")
    assert (code, out) == (2, "") and "not finite" in err.splitlines()[-1]


def test_no_memory_for_the_model_is_one_line(run, monkeypatch):
    monkeypatch.setattr(saved_model, "make", NO_MEMORY[0])
    code, _, err = run("food\n", "a.txt")
    assert code == 2 and "it needs more memory than there is" in err.splitlines()[-1]


def test_another_fault_of_torch_is_not_taken_for_lack_of_memory(run, monkeypatch):
    unknown = RuntimeError("could not create a primitive descriptor for a matmul primitive")
    assert not lacks_memory(unknown)
    monkeypatch.setattr(predictor.loader, "predict", lambda *_, **__: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="size"):
        run("food\n", "a.txt")


def test_ctrl_c_is_one_word_and_leaves_the_old_output(run, tmp_path, monkeypatch):
    (tmp_path / "out.csv").write_text("old")
    part = tmp_path / ".out.csv.12ab34cd.part"  # of a process that was killed a day ago
    part.touch()
    os.utime(part, (0, 0))

    def interrupted(*rest):
        raise KeyboardInterrupt

    monkeypatch.setattr(predict.Writer, "lines", interrupted)
    code, _, err = run(INPUTS["a.csv"], options=["--output", str(tmp_path / "out.csv")])
    assert code == 130 and err.splitlines()[-1] == "interrupted"
    assert (tmp_path / "out.csv").read_text() == "old" and not list(tmp_path.glob(".*"))


def test_output_keeps_the_mode_of_the_file_that_it_replaces(run, tmp_path, monkeypatch):
    new, old, modes = tmp_path / "new" / "o.csv", tmp_path / "old.csv", []
    old.write_text("old")
    old.chmod(0o600)
    lines = predict.Writer.lines

    def watched(self, *rest):
        modes.extend(stat.S_IMODE(path.stat().st_mode) for path in tmp_path.glob(".old.csv*"))
        return lines(self, *rest)

    monkeypatch.setattr(predict.Writer, "lines", watched)
    _, out, _ = run(INPUTS["a.csv"])
    umask = os.umask(0o027)
    try:
        for path in (new, old):
            assert run(INPUTS["a.csv"], options=["--output", str(path)])[:2] == (0, "")
    finally:
        os.umask(umask)
    assert stat.S_IMODE(new.stat().st_mode) == 0o640
    assert stat.S_IMODE(old.stat().st_mode) == 0o600 and old.read_text() == new.read_text() == out
    assert modes and set(modes) == {0o600}  # also while it is written


@pytest.mark.slow
def test_a_signal_leaves_no_part_of_the_output(model, tmp_path):
    (tmp_path / "many.txt").write_text("food\n" * 1_000_000)  # more than are read before the signal
    arguments = [str(model), str(tmp_path / "many.txt"), "--output", str(tmp_path / "out.csv")]
    process = start("predict.py", *arguments, "--batch_size", "1")
    while not list(tmp_path.glob(".out.csv.*.part")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    errors = process.communicate()[1]
    assert process.returncode == 128 + signal.SIGTERM and errors.endswith("interrupted\n")
    assert "Traceback" not in errors and not list(tmp_path.glob(".out.csv.*.part"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "end, out, error",
    [("| head -n 1", "text,prediction,probability\n141\n", ""), ("> /dev/full", "2\n", "No space")],
)
def test_a_pipe_that_closes_and_a_full_disk_end_it_without_a_traceback(
    model, tmp_path, end, out, error
):
    (tmp_path / "many.txt").write_text("food\n" * 8_000)
    words = [sys.executable, ROOT / "predict.py", model, tmp_path / "many.txt"]
    line = f"{shlex.join(map(str, words))} {end}; echo ${{PIPESTATUS[0]}}"
    ended = subprocess.run(["bash", "-c", line], env=ONE_THREAD, text=True, capture_output=True)
    assert ended.stdout == out and error in ended.stderr and "Traceback" not in ended.stderr

"""export.py: the model folder, transformers' classifiers, ONNX, sentence-transformers."""

import csv
import io
import json
import os
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import glosses, needs_own_code, save_tiny_encoder, small_files, write_csv
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

import predict
from baselines import make
from baselines.base import Task
from baselines.tfidf import Tfidf
from engine import loader, saved_model, stock
from engine.calibration import calibrate
from engine.encoders import load_encoder, load_tokenizer
from engine.files import InputError, saving_folder, sha256
from engine.results import csv_rows
from engine.saved_model import About
from engine.tokens import tokenize
from main import main as train
from reporting import export

TEXTS = ["a small animal", "food", "the time of day when the sun is in the sky", "a dish of meat"]
NAMES = ["noun.animal", "a | b", "noun.time"]
METRICS = {"accuracy": 50.0, "macro_f1": 40.0, "balanced_accuracy": 45.0, "f1": [1.0, 2.0, 3.0]}


def about_of(method: str = "sharprecl", pooling: str = "cls", names=NAMES, **options) -> About:
    return About(
        method=method,
        options=options,
        pooling=pooling,
        max_length=64,
        text_column="text",
        label_names=names,
        class_counts=list(range(40, 40 - len(names), -1)),
        compensated=True,
    )


def network(encoder_folder, about: About):
    """With weights as large as those of a trained classifier."""
    torch.manual_seed(1)
    labels = np.repeat(np.arange(len(about.class_counts)), about.class_counts)
    counts, tokenizer = torch.tensor(about.class_counts), load_tokenizer(str(encoder_folder))
    task = Task(about.label_names, labels, counts, tokenizer, 1, 1)
    encoder = load_encoder(str(encoder_folder), about.pooling)
    method = make(about.method, encoder, task, about.options).eval()
    if method.phi is not None:
        torch.nn.init.normal_(method.phi.weight)
    return method


def write(folder, method, encoder_folder, about):
    return saved_model.write_model(
        folder, method, load_tokenizer(str(encoder_folder)), about, {"data": "toy"}, METRICS
    )


@torch.no_grad()
def logits_of(method, tokenizer, texts=TEXTS):
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    feat = method.encoder(batch["input_ids"], batch["attention_mask"])
    return method.classify(feat), feat


# ---- transformers' classifiers ----

FAMILIES = "bert roberta camembert distilbert albert electra deberta-v2 mpnet".split()


def pipeline_of(folder, **options):
    """What transformers' pipeline says of TEXTS: of each a score for every label."""
    classify = pipeline("text-classification", str(folder), device="cpu")
    rows = classify(TEXTS, top_k=None, truncation=True, **options)
    return [{row["label"]: row["score"] for row in own} for own in rows]


def scores_of(logits):
    """The same of the logits of one text."""
    return pytest.approx(dict(zip(NAMES, logits.softmax(dim=0).tolist())), abs=1e-5)


def written(tmp_path, encoder, about):
    """A network, whose folder is tmp_path / "model"."""
    method = network(encoder, about)
    write(tmp_path / "model", method, encoder, about)
    return method


def refusal(capsys, *argv) -> str:
    """The one line with which predict.py ends with 2."""
    capsys.readouterr()
    assert predict.main(list(map(str, argv))) == 2
    (error,) = capsys.readouterr().err.splitlines()
    return error


def alter(folder, **changes):
    """Puts other values into sharprecl.json."""
    path = folder / "sharprecl.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("model_type", FAMILIES)
def test_transformers_loads_the_folder_and_has_our_logits(tmp_path, model_type):
    encoder, about = save_tiny_encoder(tmp_path / "encoder", model_type), about_of("bert")
    method = network(encoder, about)
    torch.nn.init.normal_(method.phi.bias)  # test_encoders.py has no bias
    assert write(tmp_path / "model", method, encoder, about) == ""
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    ours, _ = logits_of(method, load_tokenizer(str(encoder)))
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    with torch.no_grad():
        torch.testing.assert_close(stock(**batch).logits, ours, rtol=0, atol=1e-5)
    assert stock.config.id2label == dict(enumerate(NAMES)) and tokenizer.model_max_length == 64


@torch.no_grad()
def feats_of(method, tokenizer, texts):
    """Of each text alone, which needs no padding."""
    batches = [tokenizer(text, return_tensors="pt") for text in texts]
    return torch.cat([method.encoder(b["input_ids"], b["attention_mask"]) for b in batches])


def test_transformers_classifier_of_a_decoder_has_our_logits_where_there_is_no_bias(tmp_path):
    encoder, about = save_tiny_encoder(tmp_path / "encoder", "gpt2"), about_of(pooling="last")
    method = network(encoder, about)
    assert write(tmp_path / "model", method, encoder, about) == ""
    with torch.no_grad():
        ours = method.classify(feats_of(method, load_tokenizer(str(encoder)), TEXTS))
    for got, logits in zip(pipeline_of(tmp_path / "model", batch_size=4), ours, strict=True):
        assert got == scores_of(logits)
    biased = network(encoder, about_of("bert", "last"))
    assert "with a bias" in write(tmp_path / "biased", biased, encoder, about)


@pytest.mark.parametrize("model_type", ["bert", "roberta", "distilbert"])
def test_the_logits_stay_ours_for_large_features_and_in_half_precision(tmp_path, model_type):
    encoder = save_tiny_encoder(tmp_path / "encoder", model_type)
    weights = load_file(encoder / "model.safetensors")
    ends = ("layer.0.output.LayerNorm.weight", "output_layer_norm.weight")
    (last,) = (name for name in weights if name.endswith(ends))
    weights[last] *= 10
    save_file(weights, encoder / "model.safetensors", metadata={"format": "pt"})
    about = about_of()
    method = written(tmp_path, encoder, about)
    ours, feat = logits_of(method, load_tokenizer(str(encoder)))
    assert 15 < feat.abs().max() < 40  # BERT's own are below 20
    batch = load_tokenizer(str(encoder))(TEXTS, padding=True, return_tensors="pt")
    for dtype, atol in ((torch.float32, 1e-4), (torch.bfloat16, 2.0), (torch.float16, 0.2)):
        stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model", dtype=dtype)
        with torch.no_grad():
            torch.testing.assert_close(stock(**batch).logits.float(), ours, rtol=0, atol=atol)


@settings(max_examples=50, deadline=None)
@given(st.floats(-30, 30, width=32))
def test_the_tanh_layer_is_the_identity_to_float_precision(x):
    x = torch.tensor(x)
    got = torch.tanh(x * stock.SCALE) / stock.SCALE
    # float32 has 24 bits; the cubic term of tanh is the rest
    assert (got - x).abs() <= 2 * x.abs() * 2**-24 + x.abs() ** 3 * 2**-28 / 3 + 1e-30


@pytest.mark.parametrize(
    "model_type, name, pooling, classes, reason",
    [
        ("bert", "bert", "mean", 3, "mean pooling"),
        ("bert", "spcl", "cls", 3, "not linear"),
        ("bert", "dualcl", "cls", 3, "not linear"),
        ("distilbert", "la", "cls", 17, "17 classes"),
    ],
)
def test_where_there_is_no_such_class_nothing_can_be_taken_for_one(
    tmp_path, model_type, name, pooling, classes, reason
):
    encoder = save_tiny_encoder(tmp_path / "encoder", model_type)
    about = about_of(name, pooling, [f"class {i}" for i in range(classes)])
    method = network(encoder, about)
    facts = METRICS | {"f1": [0.0] * classes}
    said = saved_model.write_model(
        tmp_path / "model", method, load_tokenizer(str(encoder)), about, {}, facts
    )
    assert reason in said and said in (tmp_path / "model" / "README.md").read_text()
    with pytest.raises((OSError, ValueError)):
        AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    trained = saved_model.read_model(tmp_path / "model", "cpu")
    assert torch.equal(logits_of_tokens(trained.method), logits_of_tokens(method))


@torch.no_grad()
def logits_of_tokens(method):
    """As main.py gets them: through the method's own tokens."""
    tokens = method.prepare(tokenize(TEXTS, method.task.tokenizer, 64))
    return method.classify(loader.encode(method.encoder, tokens, torch.device("cpu")))


def trained(tmp_path, corpus_folder, options: str, encoder=None, prefix="") -> Path:
    """The folder of a run of main.py."""
    command = ["--dataset", str(corpus_folder), "--output_dir", str(tmp_path)]
    command += ["--encoder", str(encoder), "--device", "cpu", "--epochs", "1"] if encoder else []
    command += ["--prefix", prefix] if prefix else []
    assert train([*command, *options.split()]) == 0
    (run,) = tmp_path.glob("*_seed*")
    return run


# ---- the folder ----


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_encoder):
    """A model folder as it is written, to be copied before it is harmed."""
    path = tmp_path_factory.mktemp("models") / "model"
    write(path, network(tiny_encoder, about_of()), tiny_encoder, about_of())
    return path


@pytest.mark.parametrize(
    "options", [{}, {"proj_bn": True, "proj_dim": 16}, {"mutual_guidance": False}]
)
def test_the_whole_network_comes_back(tmp_path, tiny_encoder, options):
    about = about_of(**options)
    method = written(tmp_path, tiny_encoder, about)
    trained = saved_model.read_model(tmp_path / "model", "cpu")
    assert trained.about == about and not trained.method.training
    before, after = method.state_dict(), trained.method.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_every_file_has_the_rights_that_the_umask_grants(tmp_path, folder, tiny_encoder):
    before = os.umask(0o077)
    try:
        write(tmp_path / "model", network(tiny_encoder, about_of()), tiny_encoder, about_of())
        export.export(folder, "embeddings", tmp_path / "embeddings")
    finally:
        os.umask(before)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600} and len(files) > 12


@pytest.fixture
def model(tmp_path, folder):
    """A copy of the folder, to be harmed."""
    return Path(shutil.copytree(folder, tmp_path / "model"))


FILES = "model.safetensors heads.safetensors config.json tokenizer.json tokenizer_config.json"


@pytest.mark.parametrize(
    "file, harm",
    [*((file, "altered") for file in FILES.split())]
    + [("sharprecl.json", harm) for harm in ("missing", "truncated", "altered")]
    + [("heads.safetensors", "missing")],
)
def test_a_harmed_file_is_one_line_and_exit_code_2(model, file, harm, capsys):
    content = (model / file).read_bytes()
    harmed = content[:-20] if harm == "truncated" else content[:20] + b"#" + content[21:]
    (model / file).write_bytes(harmed)
    if harm == "missing":
        (model / file).unlink()
    error = refusal(capsys, model)
    assert error.startswith("error: ") and file in error
    assert any(remedy in error for remedy in ("again", "--overwrite", "give"))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"format": 0}, "format 0, and this code reads 1"),
        ({"method": "gone"}, "not those of gone"),
        ({"method": "gpt35"}, "not those of gpt35"),
        ({"options": {"proj_dim": 64}}, "size mismatch"),
        ({"options": {"k": 1}}, "'k'"),
        ({"label_names": NAMES[:2]}, "sharprecl.json is damaged"),
        ({"label_names": [*NAMES[:2], NAMES[0]]}, "sharprecl.json is damaged"),
        ({"class_counts": [40, 39, 0]}, "sharprecl.json is damaged"),
        ({"class_counts": "none"}, "sharprecl.json is damaged"),
    ],
)
def test_a_folder_that_this_code_cannot_take_is_one_line(model, change, message, capsys):
    alter(model, **change)
    assert message in refusal(capsys, model, "a text")


def list_files(folder) -> None:
    """Makes sharprecl.json list whatever is in the folder, as someone with ill intent would."""
    others = (file for file in folder.iterdir() if file.name != "sharprecl.json")
    alter(folder, files={file.name: sha256(file) for file in others})


@pytest.mark.parametrize("place", ["adapter_config.json", "encoder/config.json"])
def test_a_file_that_sharprecl_json_does_not_list_is_named(model, place, capsys):
    (model / place).parent.mkdir(exist_ok=True)
    (model / place).write_text("{}")
    error = refusal(capsys, model, "a text")
    assert str(model / place) in error and "not one of the files" in error


def test_predicting_never_runs_a_models_code_nor_takes_a_line_of_the_data_for_a_yes(
    model, monkeypatch, capsys
):
    trace = needs_own_code(model)
    list_files(model)
    stdin = io.TextIOWrapper(io.BytesIO(b"a text\nyes\n" * 9))
    monkeypatch.setattr(sys, "stdin", stdin)
    error = refusal(capsys, model)
    assert "auto_map" in error and "never run here" in error and "True" not in error
    assert not trace.exists() and stdin.read() == "a text\nyes\n" * 9


def test_a_pickle_in_place_of_safetensors_is_one_line(model, capsys):
    torch.save({"phi.weight": torch.ones(3, 32)}, model / "heads.safetensors")
    list_files(model)
    error = refusal(capsys, model, "a text")
    assert str(model) in error and "weights_only" not in error


@pytest.mark.parametrize(
    "kind, room",  # for a part of the tokenizer, or of the weights
    [("embeddings", 100), ("projected", 50_000), ("onnx", 50_000)],
)
def test_an_export_without_room_is_one_line_and_leaves_nothing(
    tmp_path, folder, kind, room, capsys
):
    with small_files(room):
        code = predict.main([str(folder), "--export", kind, "--output", str(tmp_path / "export")])
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert code == 2 and error.startswith(f"error: {tmp_path / 'export'}: cannot be written")
    assert "File too large" in error and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "files, message",
    [
        ("", "neither a run's folder"),
        ("args.json", "not finished"),
        ("args.json result.json", "--no_weights, or it lies with its provider"),
    ],
)
def test_a_folder_without_a_model_says_why(tmp_path, files, message, capsys):
    for file in files.split():
        (tmp_path / file).write_text("{}")
    assert message in refusal(capsys, tmp_path)


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    def fill(content, fails):
        with saving_folder(tmp_path / "model") as folder:
            (folder / "file").write_text(content)
            if fails:
                raise KeyboardInterrupt

    fill("old", False)
    with pytest.raises(KeyboardInterrupt):
        fill("new", True)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (tmp_path / "model" / "file").read_text() == "old"
    fill("new", False)
    assert (tmp_path / "model" / "file").read_text() == "new"


def test_the_card_has_the_classes_and_escapes_their_names(folder):
    card = (folder / "README.md").read_text()
    assert r"| a \| b | 39 | 2.0 |" in card and "| data | toy |" in card
    assert "classes of equal share" in card and "no validation texts" in card
    assert "after the last epoch" in card and "macro-F1 40.00 %" in card and "{" not in card


@pytest.mark.parametrize("leaked", [0, 4, 36])
def test_the_card_says_which_texts_stand_in_two_parts(corpus_folder, tmp_path, leaked):
    folder = tmp_path / "data"
    shutil.copytree(corpus_folder, folder)
    with open(folder / "test.csv", newline="") as file:
        rows = list(csv.reader(file))[1:]
    with open(folder / "train.csv", "a", newline="") as file:
        csv.writer(file).writerows(rows[:leaked])
    run = trained(tmp_path, folder, "--method tfidf")
    card = (run / "model" / "README.md").read_text()
    said = f"| test texts in the training part too | {leaked} of 36 |"
    assert (said in card) == (leaked > 0)
    found = json.loads((run / "result.json").read_text())["last"].get("without_leaked")
    if leaked == 4:
        assert (
            "Without the test texts that stand in the training part too (4): accuracy "
            f"{found['accuracy']:.2f}, macro-F1 {found['macro_f1']:.2f}" in card
        )
    assert ("All 36 test texts stand in the training part too" in card) == (leaked == 36)


def test_the_card_gives_no_f1_to_a_class_without_a_test_text(tmp_path):
    write_csv(tmp_path / "train.csv", glosses({"noun.food": 20, "noun.animal": 9, "noun.time": 5}))
    write_csv(tmp_path / "test.csv", glosses({"noun.food": 9, "noun.time": 3}, skip=20))
    card = trained(tmp_path, tmp_path, "--method tfidf") / "model" / "README.md"
    rows = dict(re.findall(r"^\| noun\.(\w+) \| \d+ \| (.*) \|$", card.read_text(), re.MULTILINE))
    assert rows.pop("animal") == "– (no test text)"
    assert rows.keys() == {"food", "time"} and all(0 <= float(f1) <= 100 for f1 in rows.values())


def test_the_card_names_the_epoch_whose_weights_are_kept_and_what_abstaining_leaves():
    labels = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 0])
    logits = np.eye(3)[[0, 1, 2, 0, 1, 2, 0, 1, 2, 2]] * np.arange(1, 11)[:, None] / 2
    about = replace(
        about_of("bert"), calibration=calibrate(logits, labels, about_of("bert").own_shares())
    )
    card = saved_model.model_card(about, {"epochs": 30, "kept epoch": 7}, METRICS, "it is a test")
    assert "those after epoch 7, which had the best validation macro-F1" in card
    assert "| kept epoch | 7 |" in card and "it is a test." in card
    rows = re.findall(r"^\| ([\d.]+) \| ([\d.]+) \| ([\d.-]+) \|$", card, re.MULTILINE)
    table = {row["p"]: row for row in about.calibration["coverage"]}
    assert [float(p) for p, *_ in rows] == [0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99]
    for p, answered, accuracy in rows:
        row = table[float(p)]
        assert answered == f"{row['answered']:.1f}"
        assert accuracy == ("-" if row["accuracy"] is None else f"{row['accuracy']:.1f}")


# ---- tfidf ----


def test_tfidf_predicts_from_its_folder_with_a_softmax_of_its_scores(tmp_path):
    texts = ["red fruit", "red berry", "blue sea", "blue sky", "green hill", "green tree"]
    about = About("tfidf", {}, None, None, "text", NAMES, [2, 2, 2], compensated=True)
    model, path = Tfidf().fit(texts, np.array([0, 0, 1, 1, 2, 2])), tmp_path / "model"
    assert "TF-IDF" in saved_model.write_model(path, model, None, about, {"data": "toy"}, METRICS)
    asked = ["the red one", "", "a blue one", "green"]
    got = predict.Predictor(path, probabilities=True).predict(asked)
    assert [row["prediction"] for row in got] == [NAMES[0], None, NAMES[1], NAMES[2]]
    scores = model.scores(asked[:1])[0]
    expected = np.exp(scores) / np.exp(scores).sum()
    assert [got[0][f"probability_{name}"] for name in NAMES] == pytest.approx(expected, abs=1e-6)
    assert "longest text" not in (path / "README.md").read_text()


def test_validation_csv_has_the_calibrated_probabilities_of_the_model_that_is_kept(
    corpus_folder, tmp_path, monkeypatch
):
    def fit(*inputs):
        return calibrate(*inputs) | {"temperature": 2.0, "why_not": ""}

    monkeypatch.setattr(saved_model, "calibrate", fit)
    run = trained(tmp_path, corpus_folder, "--method tfidf --val_fraction 0.25")
    predictor = predict.Predictor(run, calibrated=True)
    rows = list(csv_rows(run / "validation.csv"))
    got = predictor.predict([row["text"] for row in rows])
    assert predictor.fit["texts"] == len(rows) == 17
    assert [row["probability"] for row in got] == pytest.approx(
        [float(row["probability"]) for row in rows], abs=1e-5
    )


# ---- other tools ----


@pytest.mark.parametrize("proj_bn", [False, True])
def test_sentence_transformers_gives_our_projections(tmp_path, proj_bn, capfd):
    reason = "pip install sentence-transformers (optional)"
    library = pytest.importorskip("sentence_transformers", reason=reason)
    encoder = save_tiny_encoder(tmp_path / "encoder", "roberta")
    about = about_of(proj_bn=proj_bn, proj_dim=16)
    method = network(encoder, about)
    if proj_bn:  # as after training: statistics and weights that are not those of the start
        norm = method.proj_f[1]
        for tensor in (norm.running_mean, norm.running_var, norm.weight, norm.bias):
            torch.nn.init.uniform_(tensor, 0.5, 2)
    write(tmp_path / "model", method, encoder, about)
    _, feat = logits_of(method, load_tokenizer(str(encoder)))
    with torch.no_grad():
        z = torch.nn.functional.normalize(method.project(feat), dim=1)
    path = export.export(tmp_path / "model", "projected", None)
    capfd.readouterr()
    loaded = library.SentenceTransformer(str(path), device="cpu")
    assert "MISSING" not in "".join(capfd.readouterr())
    torch.testing.assert_close(torch.from_numpy(loaded.encode(TEXTS)), z, rtol=1e-5, atol=1e-5)
    assert loaded.max_seq_length == 64


def test_a_prefix_stands_before_each_text_of_the_training_of_predict_and_of_the_export(
    corpus_folder, tiny_encoder, tmp_path
):
    library = pytest.importorskip("sentence_transformers")
    run = trained(tmp_path, corpus_folder, "--augment none", tiny_encoder, "the food: ")
    rows = list(csv_rows(run / "predictions.csv"))
    predictor = predict.Predictor(run, device="cpu", embedding=True)
    got = predictor.predict([row["text"] for row in rows])
    assert [row["probability"] for row in got] == pytest.approx(
        [float(row["probability"]) for row in rows], abs=2e-6
    )
    text = rows[0]["text"]
    card = (run / "model" / "README.md").read_text()
    assert "truncation=True)('the food: a text')" in card
    tokenizer, network_ = predictor.trained.tokenizer, predictor.trained.method
    _, feat = logits_of(network_, tokenizer, ["the food: " + text])
    assert got[0]["embedding"] == pytest.approx(feat[0].tolist(), rel=1e-4, abs=1e-5)
    path = export.export(run, "embeddings", None)
    loaded = library.SentenceTransformer(str(path), device="cpu")
    np.testing.assert_allclose(loaded.encode([text])[0], feat[0], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_onnxruntime_gives_our_logits_for_any_number_and_length_of_texts(tmp_path):
    pytest.importorskip("onnxscript", reason="pip install onnx onnxscript onnxruntime (optional)")
    runtime = pytest.importorskip("onnxruntime", reason="pip install onnxruntime (optional)")
    encoder = save_tiny_encoder(tmp_path / "encoder", "roberta")
    method = written(tmp_path, encoder, about_of(pooling="mean"))
    path = export.export(tmp_path / "model", "onnx", tmp_path / "onnx")
    session = runtime.InferenceSession(path / "model.onnx")
    tokenizer = AutoTokenizer.from_pretrained(path)
    for texts in (TEXTS, TEXTS[:1], [" ".join(TEXTS * 3)]):
        batch = tokenizer(texts, padding=True, return_tensors="np")
        logits, embedding = session.run(
            ["logits", "sentence_embedding"],
            {name: batch[name] for name in ("input_ids", "attention_mask")},
        )
        ours, feat = logits_of(method, load_tokenizer(str(encoder)), texts)
        assert np.abs(logits - ours.numpy()).max() < 1e-4
        assert np.abs(embedding - feat.numpy()).max() < 1e-4
    assert json.loads((path / "config.json").read_text())["id2label"]["0"] == NAMES[0]


@pytest.mark.parametrize(
    "name, kind, message",
    [
        ("spcl", "onnx", "no linear classifier"),
        ("dualcl", "embeddings", "no linear classifier"),
        ("post_hoc", "onnx", "no linear classifier"),
        ("bert", "projected", "proj_f"),
    ],
)
def test_what_cannot_be_exported_is_one_line_and_leaves_nothing(
    tmp_path, tiny_encoder, name, kind, message, capsys
):
    written(tmp_path, tiny_encoder, about_of(name))
    before = sorted(tmp_path.rglob("*"))
    assert message in refusal(capsys, tmp_path / "model", "--export", kind)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_export_without_its_library_is_one_line(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install onnx onnxscript"):
        export.export(folder, "onnx", tmp_path / "onnx")


def test_an_export_does_not_replace_a_folder(folder, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    error = refusal(capsys, folder, "--export", "embeddings", "--output", tmp_path / "mine")
    assert "is there already" in error and list((tmp_path / "mine").iterdir()) == []


# ---- from main.py ----


@pytest.mark.parametrize(
    "options, is_stock",
    [("sharprecl", True), ("bcl --pooling mean", False), ("spcl", False), ("dualcl", False)]
    + [("tsc", True)],
)
def test_predict_gives_the_runs_own_predictions(
    corpus_folder, tiny_encoder, tmp_path, options, is_stock, capsys
):
    options = f"--batch_size 16 --lr 1e-3 --method {options}"
    run = trained(tmp_path, corpus_folder, options, tiny_encoder)
    card = (run / "model" / "README.md").read_text()
    assert f"| encoder | {tiny_encoder.name} |" in card and "/" not in card.split("## Limits")[0]
    heads = load_file(run / "model" / "heads.safetensors")
    assert not any(name.startswith("key_encoder") for name in heads)  # of tsc, for training alone
    said = "not for transformers" in capsys.readouterr().out
    assert said != is_stock and (run / "model" / "config.json").exists() == is_stock
    output = tmp_path / "out.csv"
    assert predict.main([str(run), str(corpus_folder / "test.csv"), "--output", str(output)]) == 0
    pairs = list(zip(csv_rows(output), csv_rows(run / "predictions.csv"), strict=True))
    assert len(pairs) == 36
    for got, expected in pairs:
        ours, theirs = (float(row.pop("probability")) for row in (got, expected))
        assert ours == pytest.approx(theirs, abs=2e-6)
        assert expected.pop("epoch") == "1" and got == expected


def test_a_run_on_short_texts_leaves_a_model_that_cuts_long_ones(
    corpus_folder, tiny_encoder, tmp_path
):
    """The encoder has 130 positions, and --max_length is 256 as it stands."""
    run = trained(tmp_path, corpus_folder, "--augment none", tiny_encoder)
    long = "food " * 200
    (ours,) = predict.Predictor(run, device="cpu").predict([long])
    stock = pipeline("text-classification", str(run / "model"), device="cpu", truncation=True)
    (theirs,) = stock(long)
    assert theirs["label"] == ours["prediction"]
    assert theirs["score"] == pytest.approx(ours["probability"], abs=1e-5)
    assert "| longest text | 130 tokens" in (run / "model" / "README.md").read_text()

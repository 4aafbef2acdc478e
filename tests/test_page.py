"""page.py: the page of a run that main.py's own functions wrote; signs by made-up histories."""
import json
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import data
import main
from reporting import page
import report
from engine import files
from reporting import figures

INSIDE = {"gradient_share_cls": 0.5, "gradient_share_cl": 0.5, "prototype_cosine": 0.9,
          "prototype_cosine_min": 0.7, "mixing_std_pos": 0.35, "mixed_to_prototype_pos": 0.9,
          "mixing_std_neg": 0.35, "mixed_to_prototype_neg": -0.1}


def write_run(folder, names=("a", "b", "c"), *options, texts=None, epochs=3, inside=INSIDE,
              right=0.7, size=None):
    """The folder of a run whose logits are drawn; main.py's functions write everything in it."""
    rng = np.random.default_rng(0)
    size = size or 20 * len(names)
    train, labels = np.arange(4 * size) ** 2 % len(names), rng.integers(0, len(names), size)
    train[:len(names)] = range(len(names))
    texts = texts or [f"test text {i}" for i in range(size)]
    corpus = data.Corpus("toy.csv", [f"text {i}" for i in range(len(train))], train, texts, labels,
                         list(names), 0, np.arange(len(train)))
    args = main.parse_args(["--dataset", "toy.csv", "--output_dir", str(folder), *options])
    run, history = main.run_folder(args), []
    files.write_json(run / "data_report.json", data.data_report(corpus))
    main.record_settings(args, run, corpus, data.data_hash(corpus))
    for epoch in range(1, epochs + 1):
        logits = rng.normal(size=(size, len(names))).astype(np.float32)
        is_right = rng.random(size) < right
        logits[is_right, labels[is_right]] += 5
        losses = {"loss": 3 / epoch, "loss_cls": 1 / epoch, "loss_cl": 2 / epoch,
                  "texts_per_second": 9.0}
        history.append({"epoch": epoch, **main.evaluate(corpus, logits, None), "seconds": 1.0,
                        **(losses if args.method != "tfidf" else {}),
                        **({"diagnostics": inside} if inside else {})})
        main.write_epoch(run, corpus, logits, history)
    main.finish(args, run, history)
    if args.plots:
        feats = rng.normal(size=(size, 8)) + 3 * np.eye(len(names), 8)[labels]
        figures.tsne(feats, labels, list(names), run,
                     3 * np.eye(len(names), 8) if args.method == "sharprecl" else None)
    return run


def written(tmp_path, *arguments, **options) -> tuple[Path, "Reader"]:
    """The run's folder and its page, read back."""
    folder = write_run(tmp_path, *arguments, **options)
    assert report.main([str(folder)]) == 0
    reader = Reader()
    reader.feed((folder / "report.html").read_text(encoding="utf-8"))
    return folder, reader


class Reader(HTMLParser):
    """The page as its words, its tables (rows of cells by the table's name) and its tags."""

    def __init__(self):
        super().__init__()
        self.tags, self.open, self.tables, self.words, self.sources = set(), [], {}, [], []

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        attributes = dict(attributes)
        if tag == "div" and attributes.get("class") == "scroll":
            self.rows = self.tables[attributes["aria-label"]] = []
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")
        self.sources += [attributes[name] for name in ("src", "href") if name in attributes]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.words.append(text)
        if self.open and self.open[-1] in ("th", "td"):
            self.rows[-1][-1] += text

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


# ---- the page ----

ODD = ["<script>alert(1)</script>", "x" * 400, "שלום עולם", "😀 & \"q\" 'a'", "a\nb $x^2$",
       "_hidden", "日本語", "</td></table><b>"]


def test_labels_and_texts_of_any_kind_are_shown_as_they_are_and_the_page_stays_whole(tmp_path):
    texts = [f"<img src=x onerror=alert({i})> {label}" for i, label in enumerate(ODD * 20)]
    _, page_ = written(tmp_path, ODD, "--plots", texts=texts, right=0.2)
    assert page_.open == []
    assert page_.tags - {"code"} == {
        "html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "p", "section", "div",
        "table", "thead", "tbody", "tr", "th", "td", "ul", "li", "strong", "pre", "figure", "img"}
    assert all(source.startswith("data:image/svg+xml;base64,") for source in page_.sources)
    assert {row[0] for row in page_.tables["Classes"][1:]} == set(ODD)
    errors = page_.tables["Errors"][1:]
    cut = {text if len(text) <= 300 else text[:300] + "…" for text in texts}
    assert len(errors) == 20 and {row[0] for row in errors} <= cut
    assert {label for row in errors for label in row[1:3]} <= set(ODD)


def by_hand(tmp_path):
    """A run with these test labels and predictions, and 9, 90 and 1 training texts."""
    folder = write_run(tmp_path, ["a", "b", "c"], epochs=1)
    files.write_json(folder / "data_report.json", {"classes": [
        {"label": "a", "train": 9, "test": 4}, {"label": "b", "train": 90, "test": 2},
        {"label": "c", "train": 1, "test": 0}]})
    (folder / "predictions.csv").write_text(
        "text,label,prediction,probability\none,a,a,0.9\ntwo,a,a,0.8\nthree,a,b,0.7\n"
        "four,a,b,0.95\nfive,b,b,0.6\nsix,b,a,0.8\n")
    assert report.main([str(folder)]) == 0
    reader = Reader()
    reader.feed((folder / "report.html").read_text())
    return reader


def test_precision_recall_and_f1_of_each_class_by_hand_the_largest_class_first(tmp_path):
    # a: 2 of 3 predicted and of 4 true: 66.7, 50, 2*2/(3+4); b: 1 of 3 and of 2: 33.3, 50, 2/5
    assert by_hand(tmp_path).tables["Classes"] == [
        ["class", "training texts", "share", "test texts", "precision", "recall", "F1"],
        ["b", "90", "90.0", "2", "33.3", "50.0", "40.0"],
        ["a", "9", "9.0", "4", "66.7", "50.0", "57.1"],
        ["c", "1", "1.0", "0", "–", "–", "–"]]


def test_the_most_confident_errors_come_first(tmp_path):
    assert by_hand(tmp_path).tables["Errors"][1:] == [
        ["four", "a", "b", "95.0"], ["six", "b", "a", "80.0"], ["three", "a", "b", "70.0"]]


def test_a_run_without_errors_and_one_of_one_epoch_say_so(tmp_path):
    _, page_ = written(tmp_path, ["a", "b"], epochs=1, right=1.1)
    assert "No test text has a wrong label" in page_.text and "no curve to draw" in page_.text
    assert re.search("Not measured in this run: .*A plateau while the loss falls", page_.text)


@pytest.mark.parametrize("method, figures", [("sharprecl", 7), ("bert", 6), ("tfidf", 5)])
def test_a_method_has_the_curves_that_it_measures(tmp_path, method, figures):
    # classes, confusion matrix and t-SNE; three panels, without losses two, with prototypes four
    plots = [] if method == "tfidf" else ["--plots"]
    _, page_ = written(tmp_path, "abc", "--method", method, *plots,
                       inside=INSIDE if method == "sharprecl" else None)
    assert len(page_.sources) == figures - (method == "tfidf")
    measured = method == "sharprecl"
    assert ("Prototype drift: not seen" in page_.text) == measured
    assert ("Not measured in this run: Prototype drift," in page_.text) != measured


def test_the_page_says_how_t_sne_comes_about(tmp_path):
    assert "TF-IDF has no encoder" in written(tmp_path, "abc", "--method", "tfidf")[1].text
    folder, page_ = written(tmp_path, "abc", "--no_weights", "--seed", "1")
    assert "--overwrite --plots" in page_.text
    (folder / "model.safetensors").write_bytes(b"weights")
    report.main([str(folder)])
    text = (folder / "report.html").read_text()
    assert "--plots</pre>" in text and "--overwrite --plots" not in text
    assert "as stars, the prototypes" in written(tmp_path, "abc", "--plots", "--seed", "2")[1].text
    figures.tsne(np.ones((60, 4)), np.zeros(60, dtype=int), list("abc"), folder)
    report.main([str(folder)])
    assert "fewer than 10 different test texts" in (folder / "report.html").read_text()


def test_the_stars_of_the_prototypes_stand_among_the_texts_of_their_class(tmp_path):
    names = ["a", "b", "c"]
    labels = np.arange(90) % 3
    feats = np.eye(3)[labels] + 0.05 * np.random.default_rng(0).normal(size=(90, 3))
    figures.tsne(feats, labels, names, tmp_path, np.eye(3))
    texts, stars = (figures.read_points(tmp_path / f"{name}.csv")
                    for name in ("tsne", "tsne_prototypes"))
    assert {name: len(points) for name, points in texts.items()} == dict.fromkeys(names, 30)
    for name in names:
        star, = stars[name]
        distance = {other: np.linalg.norm(np.mean(points, axis=0) - star)
                    for other, points in texts.items()}
        assert min(distance, key=distance.get) == name
    figure = figures.draw_tsne(tmp_path, names)
    assert len(figure.axes[0].collections) == 3 + 3 + 1     # and the legend's star
    figures.save_figure(figure, tmp_path / "again.png")
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "tsne.png").read_bytes()


# ---- the signs ----


def history_of(*epochs):
    """Epochs given as (loss, macro-F1, diagnostics)."""
    return [{"epoch": n, "loss": loss, "test": {"macro_f1": f1, "gap": gap}, "diagnostics": inside}
            for n, (loss, f1, gap, inside) in enumerate(epochs, start=1)]


def seen(history) -> dict[str, bool | None]:
    measured = {sign.failure: (sign, sign.measure(history)) for sign in page.SIGNS}
    return {name: None if value is None else sign.is_seen(value)
            for name, (sign, value) in measured.items()}


GOOD = history_of((3, 70, 3, INSIDE), (2, 80, 2, INSIDE))


def test_a_good_run_shows_no_sign():
    assert set(seen(GOOD).values()) == {False}


@pytest.mark.parametrize("failure, change", [
    ("Prototype drift", {"prototype_cosine": 0.49}),
    ("Prototype drift of one class", {"prototype_cosine_min": -0.01}),
    ("Prototype drift in the course of training", {"prototype_cosine": 0.79}),
    ("Collapse of the mixing coefficients", {"mixing_std_neg": -0.2}),      # 0.075, the mean
    ("Collapse of the mixed positives", {"mixed_to_prototype_pos": 0.995}),
    ("Collapse of the mixed negatives", {"mixed_to_prototype_neg": 0.51}),
])
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
    for record, f1 in zip(falling, (60, 61)):      # the validation texts count, where there are any
        record["val"] = {"macro_f1": f1}
    assert not seen(falling)[name]


def test_accuracy_far_above_macro_f1_is_minority_overfitting():
    assert seen(history_of((2, 60, 10.1, {})))["Minority overfitting"]
    assert not seen(history_of((2, 60, 9.9, {})))["Minority overfitting"]


def test_what_a_run_does_not_measure_is_not_judged():
    plain = seen(history_of((3, 70, 3, {}), (2, 80, 2, {})))
    assert {name for name, is_seen in plain.items() if is_seen is not None} == {
        "A plateau while the loss falls", "Minority overfitting"}
    without_mixing = {name: v for name, v in INSIDE.items() if "mix" not in name}     # w/o HM
    got = seen(history_of((3, 70, 3, without_mixing)))
    assert got["Collapse of the mixing coefficients"] is None


def test_the_advice_names_flags_that_main_has():
    advised = [shlex.split(code) for sign in page.SIGNS
               for code in re.findall("`(--[^`]+)`", sign.advice)]
    assert len(advised) > 10
    for options in advised:
        main.parse_args(["--dataset", "trec", *options])


# ---- bad input ----


@pytest.mark.parametrize("name", ["result.json", "args.json", "metrics.jsonl", "data_report.json",
                                  "predictions.csv", "tsne.csv"])
@pytest.mark.parametrize("damage", ["cut", "absent", "other"])
def test_a_damaged_file_of_the_run_is_one_line_and_exit_code_2(tmp_path, capsys, name, damage):
    folder = write_run(tmp_path, "abc", *(["--plots"] if name == "tsne.csv" else []))
    path = folder / name
    if damage == "absent":
        path.unlink()
    else:
        path.write_text(path.read_text()[:-25] if damage == "cut" else "{}\n[1]\n")
    capsys.readouterr()
    code, output = report.main([str(folder)]), capsys.readouterr()
    if damage == "absent" and name in ("result.json", "tsne.csv"):    # the folder is no run's now;
        assert ("no finished run" in output.err) == (name == "result.json")     # and the other way
        return
    if damage == "cut" and name == "tsne.csv" and code == 0:       # cut between two points
        return
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


def without_nan(text: str) -> None:
    def refuse(constant):
        raise AssertionError(f"{constant} in {text}")
    for line in text.splitlines() if text.startswith('{"') else [text]:
        json.loads(line, parse_constant=refuse)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("options", [
    ["--method", "sharprecl", "--profile", "exp"], ["--method", "la", "--profile", "consecutive"],
    ["--method", "bert", "--profile", "step"], ["--max_per_class", "1", "--plots"],
    ["--n_pos", "1", "--n_neg", "1", "--k", "1"], ["--method", "tfidf"],
    ["--n_pos", "300", "--n_neg", "3000", "--k", "9999", "--batch_size", "1"]], ids=" ".join)
def test_a_class_of_one_text_trains_without_a_warning_or_nan_and_has_its_page(
        corpus_folder, tiny_encoder, tmp_path, options):
    alone = ["--label_noise", "0.3", "--val_fraction", "0.2", "--ir", "40"] * (
        "--max_per_class" not in options)
    command = ["--dataset", str(corpus_folder), "--encoder", str(tiny_encoder), "--epochs", "2",
               "--batch_size", "8", "--device", "cpu", *alone, *options,
               "--output_dir", str(tmp_path)]
    assert main.main(command) == 0
    folder, = tmp_path.glob("*_seed0")
    for name in ("metrics.jsonl", "result.json", "classification_report.json", "data_report.json"):
        without_nan((folder / name).read_text())
    assert report.main([str(folder)]) == 0 and report.main([str(tmp_path)]) == 0
    assert "nan" not in (folder / "report.html").read_text().split("base64")[0]

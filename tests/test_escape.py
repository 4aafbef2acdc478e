"""engine/escape.py and the terminal: what runs or renders a text gets that text, and no more."""

import contextlib
import csv
import io
import os
import pty
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from conftest import write_csv
from hypothesis import given
from hypothesis import strategies as st

import main
import predict
from engine import files, results
from engine.escape import is_formula, markdown, shell

EVIL = "\x1b[31mred\x07\x9b2J\r\u202eab"  # colours, a bell, C1's escape, a line's start, a turn
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
marks = st.text("=+-@＝'\"\t\r\n ;,1.eE<>|*_[]()`&#x\\$~!a", max_size=12)  # what means something


# ---- a shell ----


@pytest.mark.parametrize(
    "word",
    [
        EVIL,
        "",
        "it's",
        "a\nb",
        "x\x03\n$(touch owned)`touch owned`!!",
        r"back\slash \x41 \n",
        "-x",
        "é\x01f",
        "a'\t'b",
        "caf\udce9 1",  # of a name in Latin-1, as the operating system gives it
    ],
)
def test_bash_reads_a_pasted_command_as_it_was_and_no_terminal_obeys_it(word):
    command = shell(["printf", "%s", word])
    assert not re.search("[\0-\x09\x0b-\x1f\x7f-\x9f\u202e\udc80-\udcff]", command)
    env = os.environ | {"LC_ALL": "C.UTF-8"}
    done = subprocess.run(["bash", "-c", command], capture_output=True, env=env)
    assert done.stdout == word.encode("utf-8", "surrogateescape")


# ---- a terminal ----


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_what_is_printed_steers_nothing_and_tqdm_still_goes_to_the_lines_start(capsys, stream):
    with files.plain_output():
        print(f"a label {EVIL}\n\tand more", file=getattr(sys, stream))
        getattr(sys, stream).write("\rhalf a bar")
        getattr(sys, stream).write("\x1b[A\x1b[A")
    said = getattr(capsys.readouterr(), stream[3:])
    assert said == (
        "a label \\x1b[31mred\\x07\\x9b2J\\r\\u202eab\n\tand more\n\rhalf a bar\x1b[A\x1b[A"
    )


def test_an_error_is_one_line_whatever_is_in_it(capsys):
    assert str(files.InputError(f"a{EVIL}\nerror: b")).isprintable()
    for argv in (["--dataset", f"none{EVIL}\nx"], ["--dataset", "x", f"--{EVIL}\n"]):
        try:
            assert main.main(argv) == 2
        except SystemExit as stop:  # of argparse
            assert stop.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.isprintable()


@pytest.fixture(scope="module")
def evil_run(tmp_path_factory):
    """A run of TF-IDF on a file and labels of such names."""
    folder = tmp_path_factory.mktemp("evil")
    labels = [EVIL, "=1+1", "<b>|"]
    begin = ["=2", "@x", "+3", "-"]
    rows = [(f"{begin[i % 4]} word{i % 3} {i}", labels[i % 3]) for i in range(60)]
    path = write_csv(folder / f"t{EVIL}.csv", rows)
    argv = ["--dataset", str(path), "--method", "tfidf", "--output_dir", str(folder / "runs")]
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        assert main.main(argv) == 0
    (run,) = (folder / "runs").glob("*_seed0")
    return run, path, said.getvalue()


def test_labels_and_file_names_reach_no_terminal_and_no_report_raw(evil_run):
    run, _, said = evil_run
    shown = "\\x1b[31mred\\x07\\x9b2J\\r\\u202eab"
    report = (run / "classification_report.txt").read_text()
    for text in (said, report):
        assert shown in text and all(line.isprintable() for line in text.split("\n"))
    names = files.read_json(run / "classification_report.json")
    assert names[EVIL]["support"] == 4  # a file for programs has the name itself


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_predictions_are_exact_in_a_pipe_and_harmless_on_a_screen(evil_run, monkeypatch, form):
    shown = []
    for ours, theirs in (os.pipe(), pty.openpty()):
        with open(ours, "rb", buffering=0) as end, open(theirs, "w") as stdout:
            monkeypatch.setattr(sys, "stdout", stdout)
            assert predict.main([str(evil_run[0]), "word0", "--output_format", form]) == 0
            shown.append(end.read(10_000).decode().replace("\r\n", "\n"))
    piped, screen = shown
    assert ("\x9b" in piped) and ("\u202e" in piped)
    assert "\\x9b2J" in screen and all(line.isprintable() for line in screen.split("\n"))


# ---- a spreadsheet ----

RUNS = ["=1+1", "+cmd|x", "-2+3", "@SUM(1)", "\t=1", "\r=1", "＝1+1", "-", "\n=1"]
STAYS = ["-1", "+3.5", "-1e-5", "-.5", "1=1", " =1", "'tis", "", "a-b", "12", "'=1", "''@a", "’=1"]


def test_what_a_spreadsheet_runs_is_told_from_numbers_and_words():
    assert [text for text in RUNS if not is_formula(text)] == []
    assert [text for text in STAYS if is_formula(text)] == []


@given(st.lists(st.tuples(texts | marks, marks), min_size=1))
def test_a_table_for_people_has_no_formula_and_comes_back_as_it_was(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp() / "table.csv"
    files.write_text(path, results.csv_text(["one", "two"], rows))
    assert [(row["one"], row["two"]) for row in results.csv_rows(path)] == rows
    with open(path, newline="", encoding="utf-8") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    for cell in cells:  # a number is no formula
        assert not re.match("[=+@\t\r\n＝-]", cell) or re.fullmatch(r"[+-][0-9.eE+-]+", cell)


def test_a_separator_of_another_language_opens_no_new_cell():
    text = results.csv_text(["text"], [['good;=1+1;"x'], ["a\t=1"]])
    for separator in ";\t":
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        assert [len(row) for row in rows] == [1, 1, 1]


def test_labels_of_a_run_are_harmless_in_its_files_and_known_to_its_page(evil_run):
    run, _, _ = evil_run
    with open(run / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["label"] for row in rows} == {EVIL, "'=1+1", "<b>|"}
    assert all(row["text"].startswith(("'=2", "'@", "'+3", "'-")) for row in rows)
    read = list(results.csv_rows(run / "predictions.csv"))
    assert {row["label"] for row in read} == {EVIL, "=1+1", "<b>|"}
    assert all(row["text"].startswith(("=2", "@", "+3", "-")) for row in read)


def test_predict_keeps_every_cell_and_says_which_a_spreadsheet_would_run(
    evil_run, tmp_path, capsys
):
    run, path, _ = evil_run
    output = tmp_path / "labelled.csv"
    assert predict.main([str(run), str(path), "--output", str(output)]) == 0
    with open(path, newline="") as before, open(output, newline="") as after:
        pairs = list(zip(csv.DictReader(before), csv.DictReader(after), strict=True))
    assert all(new[name] == old[name] for old, new in pairs for name in old)
    named = [row["prediction"] == "=1+1" for _, row in pairs]
    count = 60 + 20 + sum(named)  # texts, labels, predictions
    assert f"note: {count} cells begin with =" in capsys.readouterr().err


# ---- Markdown ----


class Words(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.words = [], ""

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)

    def handle_data(self, text):
        self.words += text


@pytest.mark.parametrize(
    "text, expected",
    [
        ("<img src=x>", "&lt;img src=x&gt;"),
        ("a | b", r"a \| b"),
        ("a\\| b", r"a\\\| b"),
        ("[x](http://y) ![z](w)", r"\[x\](http://y) !\[z\](w)"),
        ("*a* `b` ~c~ $d$", r"\*a\* \`b\` \~c\~ \$d\$"),
        ("word_substitution _a_ __b__", r"word_substitution \_a_ \_\_b_\_"),
        ("a & b &amp; &#60;", "a & b &amp;amp; &amp;#60;"),
        ("a\n\n# b\x1b", r"a # b\\x1b"),
        (0.5, "0.5"),
    ],
)
def test_markdown_by_hand(text, expected):
    assert markdown(text) == expected


@given(marks | texts)
def test_markdown_renders_as_the_text_in_one_cell(text):
    renderer = pytest.importorskip("markdown_it").MarkdownIt("commonmark", {"html": True})
    page = Words()
    page.feed(renderer.enable("table").render(f"| a |\n|---|\n| x{markdown(text)}x |\n"))
    assert page.tags == ["table", "thead", "tr", "th", "tbody", "tr", "td"]
    shown = files.printable(" ".join(f"x{text}x".split()))
    squeezed = [re.sub(r"\s|x", "", words) for words in (page.words, shown)]
    assert squeezed[0] == "a" + squeezed[1]


def test_the_model_card_has_the_labels_as_text(evil_run):
    run, _, _ = evil_run
    card = (run / "model" / "README.md").read_text()
    assert "| &lt;b&gt;\\| | 16 |" in card and all(line.isprintable() for line in card.split("\n"))

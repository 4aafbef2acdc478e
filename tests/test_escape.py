"""engine/escape.py and the terminal: what runs or renders a text gets that text, and no more."""

import contextlib
import csv
import io
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from conftest import write_csv
from hypothesis import given, settings
from hypothesis import strategies as st

import main
import predict
from engine import files, results
from engine.escape import markdown, shell

EVIL = "\x1b[31mred\x07\x9b2J\r\u202eab"  # colours, a bell, C1's escape, a line's start, a turn
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
marks = st.text("=+-@＝'\"\t\r\n ;,1.eE<>|*_[]()`&#x\\$~!a", max_size=12)  # what means something


# ---- a shell ----


def test_bash_reads_a_pasted_command_as_it_was_and_no_terminal_obeys_it():
    words = ["", "it's", "a\nb", "$(touch owned)`touch owned`!!", r"back\slash \x41 \n", "-x", "é"]
    done = subprocess.run(["bash", "-c", shell(["printf", "%s|", *words])], capture_output=True)
    assert done.stdout.decode() == "".join(f"{word}|" for word in words)
    assert shell(["cat", f"a\x03{EVIL}"]).isprintable()


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


# ---- a table ----


@given(st.lists(st.tuples(texts | marks, marks), min_size=1))
def test_a_table_comes_back_as_it_was(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp() / "table.csv"
    files.write_text(path, results.csv_text(["one", "two"], rows))
    assert [(row["one"], row["two"]) for row in results.csv_rows(path)] == rows


def test_predict_keeps_every_cell(evil_run, tmp_path):
    run, path, _ = evil_run
    output = tmp_path / "labelled.csv"
    assert predict.main([str(run), str(path), "--output", str(output)]) == 0
    with open(path, newline="") as before, open(output, newline="") as after:
        pairs = list(zip(csv.DictReader(before), csv.DictReader(after), strict=True))
    assert all(new[name] == old[name] for old, new in pairs for name in old)


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


@settings(deadline=None)  # the first call imports the renderer
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

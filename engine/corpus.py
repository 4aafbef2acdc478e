"""
The texts of a run as its flags ask for them: the corpus, its report, tokens and second views.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

import data
from augment import augment
from baselines import METHODS
from engine import distributed
from engine.files import InputError
from model import Method, load_tokenizer, longest_text


def load_corpus(args: argparse.Namespace) -> data.Corpus:
    """The corpus as it is trained on: capped, made imbalanced, split, its labels noisy if asked."""
    seed = args.data_seed
    corpus = data.load(
        args.dataset,
        data_dir=args.data_dir,
        text_column=args.text_column,
        label_column=args.label_column,
        drop_unlabelled=args.drop_unlabelled,
        read=args.read,
        test_fraction=args.test_fraction,
        seed=seed,
    )
    if corpus.val_texts and (args.val_fraction > 0 or args.val_left_out is not None):
        raise InputError(
            f"{args.dataset} brings {len(corpus.val_texts)} validation texts of its "
            "own: leave --val_fraction and --val_left_out out"
        )
    rows, labels = np.arange(len(corpus.train_labels)), corpus.train_labels
    if args.max_per_class is not None:
        rows = rows[data.cap_per_class(labels[rows], args.max_per_class, seed=seed)]
    if args.ir is not None:
        capped = rows
        rows = rows[data.imbalanced_rows(labels[rows], args.ir, profile=args.profile, seed=seed)]
        corpus = data.check_ratio(corpus, capped, rows, args.ir, args.profile)
    if args.val_left_out is not None:
        corpus = data.hold_out(
            corpus,
            "val",
            *data.left_out(
                labels, rows, args.val_left_out, seed=seed, same=data.same_texts(corpus)
            ),
        )
    else:
        corpus = data.select(corpus, rows)
    if args.val_fraction > 0:
        split = data.stratified_split(
            corpus.train_labels, args.val_fraction, seed=seed, same=data.same_texts(corpus)
        )
        corpus = data.hold_out(corpus, "val", *split)
    if args.patience is not None and not corpus.val_texts:
        raise InputError("--patience needs validation texts: give --val_fraction or --val_left_out")
    if args.label_noise > 0:
        noisy = data.flip_labels(
            corpus.train_labels, args.label_noise, len(corpus.label_names), seed=seed
        )
        corpus = replace(corpus, train_labels=noisy)
    return corpus


def report(args: argparse.Namespace, corpus: data.Corpus) -> dict:
    """Prints what one should know of the texts before training, and returns it."""
    summary = data.data_report(corpus)
    print(data.format_report(summary))
    if METHODS[args.method].has_encoder:
        tokens = tokenize(args, corpus.train_texts)
        unknown, total = data.unknown_tokens(tokens, load_tokenizer(args.encoder)).tolist()
        summary |= {"truncated": tokens.truncated, "unknown": unknown / max(total, 1)}
        print(data.format_tokens(summary, args.max_length), flush=True)
    return summary


def cache_dir(args: argparse.Namespace) -> Path:
    return Path(args.output_dir) / "cache"


def tokenize(args: argparse.Namespace, texts: list[str]) -> data.Tokens:
    """The texts as the encoder's tokens, kept for other runs on them."""
    with distributed.main_first():
        return data.tokenize(texts, load_tokenizer(args.encoder), args.max_length, cache_dir(args))


def views_of(args: argparse.Namespace, corpus: data.Corpus, model: Method) -> list[data.Tokens]:
    """The views of the training texts that the method names, as its encoder takes them."""
    views = {"original": tokenize(args, corpus.train_texts)}
    for name, seed in (("augmented", args.data_seed), ("augmented again", args.data_seed + 1)):
        if name in model.views:
            with distributed.main_first():
                texts = augment(
                    data.cut_characters(corpus.train_texts, args.max_length)[0],
                    args.chosen_augment,
                    seed=seed,
                    cache_dir=cache_dir(args),
                    device=args.device,
                    **args.augment_options,
                )
            views[name] = tokenize(args, texts)
    return [prepared(args, views[name], model) for name in model.views]


def prepared(args: argparse.Namespace, tokens: data.Tokens, model: Method) -> data.Tokens:
    """The texts as the method's encoder takes them. InputError where one is too long for it."""
    limit, longest = longest_text(model), tokens.lengths.max()
    if limit is not None and longest > limit:
        raise InputError(
            f"a text has {longest} tokens and {args.method} with {args.encoder} takes "
            f"{limit}: --max_length {limit} cuts it"
        )
    return model.prepare(tokens)

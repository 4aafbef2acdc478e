"""
A trained network as a folder, run/model, that main.py writes and predict.py and other tools read:

    sharprecl.json        method, classes, calibration (About), and the SHA-256 of the other files
    README.md             the model card
    heads.safetensors     all that stands on the encoder: the classifier, the projection heads
    config.json, model.safetensors, tokenizer    transformers' own classifier with the same logits
    terms.json, tfidf.safetensors                instead of these two, for --method tfidf

Where transformers has no such class, its files are the bare encoder in a folder encoder/: at the
top, transformers would take it for a classifier, and its random last layer for a trained one.

    h  width of the encoder     C  classes     n  texts
"""

import argparse
import contextlib
import dataclasses
import json
import math
import os
import shutil
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import jinja2
import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from baselines import METHODS, make
from baselines.base import Task
from baselines.tfidf import Tfidf
from data import Corpus, class_counts
from engine import large
from engine.calibration import calibrate
from engine.data_report import LEAKS, leaks
from engine.encoders import load_encoder, load_tokenizer, longest_text
from engine.escape import markdown
from engine.files import (
    InputError,
    lacks_memory,
    read_json,
    reason_of,
    save,
    saving_folder,
    sha256,
    write_json,
    write_text,
)
from engine.results import without_leaked_words, write_predictions
from engine.stock import Unfit, stock_classifier
from model import POOLINGS, Method

FORMAT = 1  # of the folder; another number in sharprecl.json is another layout
NOT_LISTED = ("sharprecl.json", "README.md", "for_plots")  # files of it that nothing loads
EXPORTED = ("onnx", "embeddings", "projected")  # folders in it that predict.py --export writes


@dataclass(frozen=True)
class About:
    """What one must know of a trained model to predict with it."""

    method: str
    options: dict  # what it is made with, see baselines.make
    pooling: str | None  # None: no encoder
    max_length: int | None  # in tokens; None: the method takes strings
    text_column: str | list[str]  # of the training data; several were joined, a line each
    label_names: list[str]  # C
    class_counts: list[int]  # training texts of each class
    compensated: bool  # whether it predicts for classes of equal share, see model.Method
    prefix: str = ""  # stands before each text
    calibration: dict | None = None  # see calibration.calibrate; None: no validation texts

    def train_shares(self) -> Tensor:
        """P_y, (C,) float64."""
        counts = torch.tensor(self.class_counts, dtype=torch.float64)
        return counts / counts.sum()

    def own_shares(self) -> Tensor | None:
        """The class shares that it predicts for, (C,) float64; None means equal ones."""
        return None if self.compensated else self.train_shares()


def about_adapter(run: Path) -> About:
    """Of a language model, by its run's files; it has learned the training shares."""
    record, report = (read_json(run / name) for name in ("args.json", "data_report.json"))
    settings, counts = record["settings"], [row["train"] for row in report["classes"]]
    return About(
        settings["method"],
        options={},
        pooling=None,
        max_length=None,
        text_column=settings["text_column"],
        label_names=record["label_names"],
        class_counts=counts,
        compensated=False,
    )


def about_tfidf(text_column: str | list[str], label_names: list[str], counts: list[int]) -> About:
    """Of the one method without an encoder; its SVM is balanced, as if all classes were equal."""
    return About("tfidf", {}, None, None, text_column, label_names, counts, compensated=True)


# ---- writing ----


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """
    A folder to fill, which has this path when the block ends, whole or not at all. Its files have
    the rights that the umask grants; safetensors' would be for their owner alone.
    """
    with saving_folder(path) as folder:
        yield folder
        probe = folder / ".rights"
        probe.touch()
        for file in filter(Path.is_file, folder.rglob("*")):
            shutil.copymode(probe, file)
        probe.unlink()


def for_other_tools(tokenizer, max_length: int | None):
    """
    The tokenizer with the length that texts were cut to, which other tools then cut them to, and
    with a token to pad by, without which they take one text at a time. Which token that is does not
    matter, for they mask it.
    """
    tokenizer = deepcopy(tokenizer)
    tokenizer.model_max_length = max_length
    if tokenizer.pad_token is None:  # of GPT-2, say
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    return tokenizer


def write_model(
    path: Path, method: Method | Tfidf, tokenizer, about: About, facts: dict, metrics: dict
) -> str:
    """
    Writes the folder.

    tokenizer  None for tfidf
    facts      of the training, for the card: name -> value; "kept epoch" names the epoch whose
               weights these are, where it was chosen by the validation texts
    metrics    of the test texts, see metrics.metrics; the F1 of a class without one is None; {}
               without test texts

    returns    why there is no transformers classifier in it, or ""
    """
    with new_folder(path) as folder:
        if isinstance(method, Tfidf):
            reason = "transformers has no TF-IDF"
            method.save(folder)
        else:
            reason = save_network(folder, method, tokenizer, about)
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        digests = {str(file.relative_to(folder)): sha256(file) for file in files}
        content = {"format": FORMAT, **asdict(about), "files": digests}
        write_json(folder / "sharprecl.json", content)
        write_text(folder / "README.md", model_card(about, facts, metrics, reason))
    return reason


def save_network(folder: Path, method: Method, tokenizer, about: About) -> str:
    """
    transformers' classifier, or else the encoder alone, and the heads. Returns why it is the
    encoder alone, or "".
    """
    tokenizer, reason, where = for_other_tools(tokenizer, about.max_length), "", folder
    try:
        network = stock_classifier(method, tokenizer, about.method, about.label_names)
    except Unfit as error:
        network, reason, where = method.encoder.backbone, str(error), folder / "encoder"
    network.save_pretrained(where)  # type: ignore[operator]
    tokenizer.save_pretrained(where)
    heads = {
        name: tensor.contiguous()
        for name, tensor in method.state_dict().items()
        if not name.startswith(("encoder.backbone.", *method.training_only))
    }
    save(folder / "heads.safetensors", safetensors.torch.save(heads))
    return reason


def keep_model(
    args: argparse.Namespace,
    corpus: Corpus,
    model,
    folder: Path,
    record: dict,
    val_logits: np.ndarray | None,
) -> None:
    """
    Leaves a run's model in its folder: model/ for predict.py and other tools, or adapter/ of a
    language model; and calibrates it, so that validation.csv has the calibrated probabilities.

    record       of the epoch that is kept
    val_logits   (n, C) of the validation texts, of that epoch; None without such texts
    """
    if not isinstance(model, (Method, Tfidf)):
        with saving_folder(folder / "adapter") as part:
            model.save(part)
        return
    about, facts = about_run(args, corpus, model), facts_of(args, corpus)
    tokenizer = None if isinstance(model, Tfidf) else load_tokenizer(args.encoder)
    if val_logits is not None:
        fit = calibrate(val_logits, corpus.val_labels, about.own_shares())
        about = replace(about, calibration=fit)
        facts["kept epoch"] = record["epoch"]
        if not args.no_weights:  # else nobody could have these probabilities again
            write_predictions(
                folder / "validation.csv",
                corpus.val_texts,
                corpus.val_labels,
                val_logits / np.float32(fit["temperature"]),
                corpus.label_names,
                record["epoch"],
            )
    tested, test = set(corpus.test_labels.tolist()), record.get("test", {})
    f1 = [value if label in tested else None for label, value in enumerate(test.get("f1", []))]
    reason = write_model(
        folder / "model", model, tokenizer, about, facts, test and test | {"f1": f1}
    )
    if reason and tokenizer is not None:
        print(f"model/ is for predict.py and its --export, not for transformers: {reason}")


def about_run(args: argparse.Namespace, corpus: Corpus, model: Method | Tfidf) -> About:
    """The About of a run's model, without its calibration."""
    counts = class_counts(corpus.train_labels, len(corpus.label_names)).tolist()
    if isinstance(model, Tfidf):
        return about_tfidf(args.text_column, corpus.label_names, counts)
    return About(
        method=args.method,
        options=args.model_options,
        pooling=args.pooling,
        max_length=possible_length(model, args.max_length),
        text_column=args.text_column,
        label_names=corpus.label_names,
        class_counts=counts,
        compensated=model.compensated,
        prefix=args.prefix,
    )


def facts_of(args: argparse.Namespace, corpus: Corpus) -> dict:
    """What the card says of the training: name -> value."""
    facts = {"data": corpus.name}
    if METHODS[args.method].has_encoder:
        facts |= {
            "encoder": args.encoder,
            "seed": args.seed,
            "epochs": args.epochs,
            "batch size": args.batch_size,
            "learning rate": args.lr,
            **({"learning rate of the heads": args.head_lr} if args.head_lr else {}),
            **args.changed,
        }
    for leak, found in leaks(corpus).items():
        part, other = LEAKS[leak]
        if found.any():
            facts[f"{part} texts in the {other} part too"] = f"{found.sum():,} of {len(found):,}"
    return facts


def possible_length(method: Method, max_length: int) -> int:
    """
    In tokens, what texts are cut to: max_length, or less where the encoder cannot take as much. The
    texts of a training may all be short enough for it, and a later one too long.
    """
    limit = longest_text(method)
    return max_length if limit is None else min(max_length, limit)


def model_card(about: About, facts: dict, metrics: dict, reason: str) -> str:
    """README.md: use, data, settings, results and limits, by templates/model_card.md.jinja."""
    # a file or folder is named without its path: where it lay is nobody's business
    facts = {
        name: Path(value).name if isinstance(value, str) and os.path.exists(value) else value
        for name, value in facts.items()
    }
    settings = {"method": about.method, **facts}
    f1 = metrics.get("f1", [None] * len(about.label_names))
    if about.pooling is not None:
        settings |= {
            "pooling": about.pooling,
            "longest text": f"{about.max_length} tokens, what is longer is cut",
            **({"prefix of each text": repr(about.prefix)} if about.prefix else {}),
        }
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    templates.filters["markdown"] = markdown
    return templates.get_template("model_card.md.jinja").render(
        about=about,
        reason=reason,
        settings=settings,
        metrics=metrics,
        without_leaked=without_leaked_words(metrics["without_leaked"])
        if "without_leaked" in metrics
        else None,
        classes=zip(about.label_names, about.class_counts, f1),
        calibration=about.calibration,
        kept_epoch=facts.get("kept epoch"),
    )


# ---- reading ----


def model_folder(path: Path) -> Path:
    """The model folder that this is or has; InputError that says why there is none."""
    # new/: of a run of --overwrite that was whole when it was killed; main.py's next start puts it
    # into its place
    new = path / "new"
    is_whole = (new / "result.json").is_file() and not new.is_symlink()
    for folder in ([new / "model"] if is_whole else []) + [path, path / "model"]:
        if (folder / "sharprecl.json").is_file():
            return folder
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; give that of a run of main.py, or its model/")
    if not (path / "args.json").is_file():
        raise InputError(
            f"{path}: neither a run's folder nor its model/ (no sharprecl.json); give "
            "the folder that main.py names at its end"
        )
    if not (path / "result.json").is_file():
        raise InputError(f"{path}: this run is not finished; its command, given again, goes on")
    if (path / "adapter").is_dir():  # of a language model
        return path / "adapter"
    if read_json(path / "args.json").get("settings", {}).get("method") == "gpt35":
        raise InputError(
            f"{path}: the model of this run lies with its provider, and predict.py "
            "reads models on this machine alone: give another run's folder"
        )
    raise InputError(
        f"{path}: its weights were not kept in model/ (--no_weights, or an older "
        "version of main.py): its command with --overwrite and without --no_weights "
        "trains it again and keeps them"
    )


def not_ours(folder: Path) -> list[Path]:
    """
    What neither write_model() nor LoraClassifier.save() left in their folder, nor --export of
    predict.py below it. Nothing where the list of it cannot be read.
    """
    ours = {"README.md", "sharprecl.json", "for_plots"}
    if folder.name == "adapter":
        ours |= {"adapter_config.json", "adapter_model.safetensors"}
    else:
        try:
            ours |= set(json.loads((folder / "sharprecl.json").read_text())["files"])
        except (OSError, ValueError, LookupError, TypeError):
            return []
    found = [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
    names = {path: path.relative_to(folder) for path in found}
    return [p for p in found if str(names[p]) not in ours and names[p].parts[0] not in EXPORTED]


def is_number(value: object, lowest: float = -math.inf, highest: float = math.inf) -> bool:
    """Whether it is a number in this range: neither NaN nor true or false."""
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and lowest <= value <= highest
        and abs(value) < math.inf
    )


def is_calibration(fit: dict) -> bool:
    """Whether it is what calibrate() writes."""
    rows = fit["coverage"]
    numbers = [fit["texts"], fit["ece_before"], fit["ece_after"]]
    for row in rows:
        numbers += [row["p"], row["answered"], 0 if row["accuracy"] is None else row["accuracy"]]
    return (
        is_number(fit["temperature"], 1e-3, 1e3)
        and all(map(is_number, numbers))
        and isinstance(fit["why_not"], str)
        and (rows == [] or rows[0]["p"] == 0)  # the row below any other p
    )


def check_about(about: About) -> None:
    """ValueError, or another error, that says which value main.py cannot have written."""
    has_encoder, columns = about.method != "tfidf", about.text_column
    counts = list(about.class_counts)
    strings = [about.prefix, *about.label_names]
    strings += [columns] if isinstance(columns, str) else columns
    for name, is_right in {
        "options": all(is_number(value, -1e6, 1e6) for value in map(float, about.options.values())),
        "pooling": about.pooling in (POOLINGS if has_encoder else (None,)),
        "max_length": not has_encoder or is_number(about.max_length, 1, 2**31),
        "label_names": all(isinstance(value, str) for value in strings),
        "class_counts": len(counts) == len(set(about.label_names))
        and all(isinstance(n, int) and is_number(n, 1, 2**31) for n in counts),
        "compensated": isinstance(about.compensated, bool),
        "calibration": about.calibration is None or is_calibration(about.calibration),
    }.items():
        if not is_right:
            raise ValueError(f"{name} is {getattr(about, name)!r:.60}")


def check_files(folder: Path, digests: dict[str, str]) -> None:
    """InputError unless these files, as they were written, are all that is loaded."""
    again = "copy the folder again, or train with --overwrite"
    # transformers reads what it finds: an adapter_config.json beside the weights changes the model
    found = {
        str(file.relative_to(folder))
        for file in (*folder.glob("[!.]*"), *folder.glob("encoder/[!.]*"))
        if file.is_file() and file.name not in NOT_LISTED
    }
    if added := found - digests.keys():
        raise InputError(
            f"{folder / min(added)} is not one of the files that sharprecl.json lists: move it "
            "away if you have put it there, else " + again
        )
    for name, digest in digests.items():
        if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
            raise InputError(f"{folder / 'sharprecl.json'}: {name!r:.80} is not in this folder")
        if not (folder / name).is_file():
            raise InputError(f"{folder / name} is missing: {again}")
        if sha256(folder / name) != digest:
            raise InputError(f"{folder / name} was truncated or altered: {again}")


def read_about(folder: Path) -> About:
    """sharprecl.json. InputError: of another format, or a file in the folder is not as written."""
    path = folder / "sharprecl.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise InputError(
                f"{path}: a model folder of format {content['format']!r:.20}, and this code "
                f"reads {FORMAT}: use the code that wrote it, or train again"
            )
        content.setdefault("prefix", "")  # added later
        about = About(**{field.name: content[field.name] for field in dataclasses.fields(About)})
        check_about(about)
        check_files(folder, content["files"])
    except InputError:
        raise
    except Exception as error:  # whatever Python makes of values that are none of ours
        raise InputError(
            f"{path} is damaged ({type(error).__name__}: {str(error)[:100]}): copy the folder "
            "again, or train with --overwrite"
        ) from error
    return about


class Trained(NamedTuple):
    """A trained model, a network in eval mode, and what it needs."""

    method: Any  # a Method, or with scores(texts): a Tfidf, a LoraClassifier
    tokenizer: Any  # None of the latter
    about: About


def read_model(path: str | Path, device: str) -> Trained:
    """What write_model wrote, from the run's folder or its model/. InputError: one clear line."""
    folder = model_folder(Path(path))
    is_adapter = folder.name == "adapter"
    about = about_adapter(folder.parent) if is_adapter else read_about(folder)
    try:
        if is_adapter:
            return Trained(large.load_adapted(folder.parent, device), None, about)
        if about.method == "tfidf":
            return Trained(Tfidf.load(folder), None, about)
        return read_network(folder, about, device)
    except InputError:
        raise
    except Exception as error:  # of torch, safetensors, json: the files are what a stranger wrote
        if lacks_memory(error):
            raise InputError(
                f"{folder}: this model needs more memory than there is: take a machine with more, "
                "or another --device; if its files are small, sharprecl.json is damaged"
            ) from error
        raise InputError(
            f"{folder}: its settings and its weights are not those of "
            f"{about.method} as this code has it ({reason_of(error)}): use "
            "the code that wrote them, or train again"
        ) from error


def read_network(folder: Path, about: About, device: str) -> Trained:
    """The network of the folder; errors of torch where its parts do not fit."""
    if not METHODS[about.method].has_encoder or about.pooling is None or about.max_length is None:
        raise ValueError("it has no encoder")
    where = str(folder if (folder / "config.json").is_file() else folder / "encoder")
    tokenizer, encoder = load_tokenizer(where), load_encoder(where, about.pooling)
    heads = safetensors.torch.load_file(folder / "heads.safetensors")
    task = Task(
        about.label_names,
        np.broadcast_to(0, sum(about.class_counts)),  # their number alone is asked for
        torch.tensor(about.class_counts),
        tokenizer,
        epochs=1,
        batch_size=1,
    )
    method = make(about.method, encoder, task, about.options)
    kept = {
        name: tensor
        for name, tensor in method.state_dict().items()
        if name.startswith(("encoder.backbone.", *method.training_only))
    }
    method.load_state_dict(kept | heads)
    about = replace(about, max_length=possible_length(method, about.max_length))
    return Trained(method.to(device).eval(), tokenizer, about)

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
import importlib.util
import json
import logging
import math
import os
import shutil
import warnings
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePath
from typing import NamedTuple

import jinja2
import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from baselines import METHODS, make
from baselines.base import Task
from baselines.tfidf import Tfidf
from data import Corpus, class_counts
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
from engine.metrics import expected_calibration_error
from engine.results import without_leaked_words, write_predictions
from model import POOLINGS, Method

FORMAT = 1  # of the folder; another number in sharprecl.json is another layout
NOT_LISTED = ("sharprecl.json", "README.md", "for_plots")  # files of it that nothing loads


@dataclass(frozen=True)
class About:
    """What one must know of a trained model to predict with it."""

    method: str
    options: dict  # what it is made with, see baselines.make
    pooling: str | None  # None: no encoder, tfidf
    max_length: int | None  # in tokens; None: tfidf
    text_column: str | list[str]  # of the training data; several were joined, a line each
    label_names: list[str]  # C
    class_counts: list[int]  # training texts of each class
    compensated: bool  # see model.Method
    calibration: dict | None = None  # see calibrate; None: there were no validation texts

    def train_shares(self) -> Tensor:
        """P_y, (C,) float64."""
        counts = torch.tensor(self.class_counts, dtype=torch.float64)
        return counts / counts.sum()


def about_tfidf(
    text_column: str | list[str], label_names: list[str], class_counts: list[int]
) -> About:
    """Of the one method without an encoder; its SVM is balanced, as if all classes were equal."""
    return About("tfidf", {}, None, None, text_column, label_names, class_counts, compensated=True)


# ---- probabilities: other class shares, temperature, what --abstain leaves ----


def reweighted(
    about: About, logits: Tensor, shares: Tensor | None, temperature: float = 1.0
) -> Tensor:
    """
    Logits (n, C), up to a constant of each text, for texts whose classes have these shares (C,).

    By Bayes, p'(y | x) ~ p(y | x) shares_y / own_y, where own are the shares that the network
    predicts for: equal ones if it is compensated, else those of training (Saerens et al. 2002).
    None leaves them as they are. The temperature divides what the text says, not the shares.
    """
    logits = logits / temperature
    if shares is None:
        return logits
    if not about.compensated:
        logits = logits - about.train_shares().log().to(logits)
    return logits + shares.log().to(logits)


def calibrate(about: About, logits: np.ndarray, labels: np.ndarray) -> About:
    """
    The About with its calibration, from the logits (n, C) and labels (n,) of the validation texts:

        temperature             that makes the labels most likely (Guo et al. 2017, Section 4.2)
        texts                   n
        ece_before, ece_after   expected calibration error in percent, without and with it
        why_not                 why there is none; the temperature then is 1. Empty where there is
        coverage                what predict.py --abstain P does to these texts, see coverage()

    The temperature and the errors are for probabilities with the class shares of these texts.
    """
    texts, target = torch.from_numpy(logits).double(), torch.from_numpy(labels)
    counts = torch.from_numpy(np.bincount(labels, minlength=logits.shape[1]))
    shares = counts.clamp(min=0.5).double() / counts.clamp(min=0.5).sum()  # none is impossible

    def error(temperature: float) -> float:
        probabilities = reweighted(about, texts, shares, temperature).softmax(dim=1)
        return expected_calibration_error(probabilities.numpy(), labels)

    def unlikelihood(log_temperature: float) -> float:
        scaled = reweighted(about, texts, shares, math.exp(log_temperature))
        return F.cross_entropy(scaled, target).item()

    low, high = math.log(0.05), math.log(20)
    found = minimize_scalar(unlikelihood, bounds=(low, high), method="bounded").x
    before, after, why_not = error(1), error(math.exp(found)), ""
    right = int((logits.argmax(axis=1) == labels).sum())
    if right == len(labels) or not low + 0.01 < found < high - 0.01:
        why_not = (
            f"{len(labels)} validation texts, {right} of them right, do not determine a temperature"
        )
    elif after > before:
        why_not = (
            f"the best temperature for the {len(labels)} validation texts, "
            f"{math.exp(found):.3f}, makes the expected calibration error worse, "
            f"{after:.1f} % instead of {before:.1f} %"
        )
    temperature = 1.0 if why_not else math.exp(found)
    after = before if why_not else after
    print(
        f"no temperature: {why_not}"
        if why_not
        else f"temperature {temperature:.3f} from {len(labels)} validation texts: expected "
        f"calibration error {before:.1f} % before, {after:.1f} % after"
    )
    return replace(
        about,
        calibration={
            "temperature": temperature,
            "texts": len(labels),
            "ece_before": before,
            "ece_after": after,
            "why_not": why_not,
            "coverage": coverage((texts / temperature).softmax(dim=1).numpy(), labels),
        },
    )


def coverage(probabilities: np.ndarray, labels: np.ndarray) -> list[dict]:
    """
    What abstaining below a probability p leaves of texts (n, C) with known labels (n,): for each p
    the share of texts answered, and the accuracy on these, in percent; None where none is answered.
    """
    confidence, is_right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    rows = []
    for p in (*(step / 20 for step in range(20)), 0.99):
        answered = confidence >= p
        accuracy = 100 * float(is_right[answered].mean()) if answered.any() else None
        rows.append({"p": p, "answered": 100 * float(answered.mean()), "accuracy": accuracy})
    return rows


# ---- transformers' own classifier ----

# The error of tanh(s x) / s is s^2 x^3 / 3: up to |x| = 7 below the rounding of float32, 3e-5 at
# 30. A smaller scale would leave half precision no digits.
SCALE = 2.0**-14
TANH_HEADS = {
    "bert": ("bert.pooler.dense", "classifier"),
    "roberta": ("classifier.dense", "classifier.out_proj"),
    "xlm-roberta": ("classifier.dense", "classifier.out_proj"),
    "camembert": ("classifier.dense", "classifier.out_proj"),
}


def why_not_stock(method: Method | Tfidf, name: str) -> str:
    """Why no class of transformers has the logits of this model; empty where one has."""
    if isinstance(method, Tfidf):
        return "transformers has no TF-IDF"
    config = method.encoder.backbone.config
    if method.phi is None:
        return f"{name}'s classifier is not linear on the text's embedding"
    if method.encoder.pooling != "cls":
        return f"transformers has no classifier over {method.encoder.pooling} pooling"
    if config.model_type == "distilbert" and 2 * method.phi.out_features > config.dim:
        return f"DistilBERT's classifier holds {config.dim // 2} classes at most"
    if config.model_type not in (*TANH_HEADS, "distilbert"):
        return f"the classifier for {config.model_type} is not known here"
    return ""


def with_labels(config, label_names: list[str]):
    """The encoder's configuration as that of a classifier."""
    config = deepcopy(config)
    config.id2label = dict(enumerate(label_names))
    config.label2id = {name: label for label, name in enumerate(label_names)}
    config.problem_type = "single_label_classification"
    return config


@torch.no_grad()
def stock_classifier(method: Method, label_names: list[str]) -> nn.Module:
    """
    transformers' classifier for this encoder, whose logits are the network's. It has one more
    layer, with an activation, before the last; this makes nothing of it:

        BERT, RoBERTa    tanh(s x) / s = x for a small s
        DistilBERT       relu(l) - relu(-l) = l, of the logits l
    """
    backbone, phi = method.encoder.backbone, method.phi
    config = with_labels(backbone.config, label_names)
    stock = AutoModelForSequenceClassification.from_config(config, trust_remote_code=False)
    stock.base_model.load_state_dict(backbone.state_dict(), strict=False)  # it may have a pooler
    weight = phi.weight.cpu()  # (C, h)
    bias = torch.zeros(len(weight)) if phi.bias is None else phi.bias.cpu()  # (C,)
    if config.model_type == "distilbert":
        dense, last = stock.pre_classifier, stock.classifier
        rest, identity = config.dim - 2 * len(weight), torch.eye(len(weight))
        dense.weight.copy_(F.pad(torch.cat([weight, -weight]), (0, 0, 0, rest)))  # (h, h)
        dense.bias.copy_(F.pad(torch.cat([bias, -bias]), (0, rest)))
        last.weight.copy_(F.pad(torch.cat([identity, -identity], dim=1), (0, rest)))
        last.bias.zero_()
    else:
        dense, last = map(stock.get_submodule, TANH_HEADS[config.model_type])
        dense.weight.copy_(SCALE * torch.eye(config.hidden_size))
        dense.bias.zero_()
        last.weight.copy_(weight / SCALE)
        last.bias.copy_(bias)
    return stock.eval()


# ---- the folder ----


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which has this path when the block ends, whole or not at all."""
    with saving_folder(path) as folder:
        yield folder
        readable_as_others(folder)


def readable_as_others(folder: Path) -> None:
    """Gives files the rights that the umask grants; safetensors' are for their owner alone."""
    probe = folder / ".rights"
    probe.touch()
    for file in folder.rglob("*"):
        if file.is_file():
            shutil.copymode(probe, file)
    probe.unlink()


def save_tokenizer(tokenizer, folder: Path, max_length: int) -> None:
    """
    With the length that texts were cut to, which other tools then cut them to, and with a token to
    pad by, without which they take one text at a time. Which token it is does not matter, for they
    mask it.
    """
    tokenizer = deepcopy(tokenizer)
    tokenizer.model_max_length = max_length
    if tokenizer.pad_token is None:  # of GPT-2, say
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    tokenizer.save_pretrained(folder)


def write_model(
    path: Path, method: Method | Tfidf, tokenizer, about: About, facts: dict, metrics: dict
) -> str:
    """
    The folder.

    tokenizer  None for tfidf
    facts      of the training, for the card: name -> value; "kept epoch" names the epoch whose
               weights these are, where it was chosen by the validation texts
    metrics    of the test texts, see metrics.metrics; the F1 of a class without one is None

    returns    why there is no transformers classifier in it, or ""
    """
    reason = why_not_stock(method, about.method)
    with new_folder(path) as folder:
        if isinstance(method, Tfidf):
            method.save(folder)
        else:
            save_network(folder, method, tokenizer, about, reason)
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        write_json(
            folder / "sharprecl.json",
            {
                "format": FORMAT,
                **asdict(about),
                "files": {str(file.relative_to(folder)): sha256(file) for file in files},
            },
        )
        write_text(folder / "README.md", model_card(about, facts, metrics, reason))
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
        model.save(folder / "adapter")
        return
    counts = class_counts(corpus.train_labels, len(corpus.label_names)).tolist()
    if isinstance(model, Tfidf):
        about, tokenizer = about_tfidf(args.text_column, corpus.label_names, counts), None
        facts = {"data": corpus.name}
    else:
        tokenizer = load_tokenizer(args.encoder)
        about = About(
            method=args.method,
            options=args.model_options,
            pooling=args.pooling,
            max_length=possible_length(model, args.max_length),
            text_column=args.text_column,
            label_names=corpus.label_names,
            class_counts=counts,
            compensated=model.compensated,
        )
        facts = {
            "data": corpus.name,
            "encoder": args.encoder,
            "seed": args.seed,
            "epochs": args.epochs,
            "batch size": args.batch_size,
            "learning rate": args.lr,
            **({"learning rate of the heads": args.head_lr} if args.head_lr else {}),
            **args.changed,
        }
    if val_logits is not None:
        about = calibrate(about, val_logits, corpus.val_labels)
        facts["kept epoch"] = record["epoch"]
        if not args.no_weights:  # else nobody could have these probabilities again
            write_predictions(
                folder / "validation.csv",
                corpus.val_texts,
                corpus.val_labels,
                val_logits / np.float32(about.calibration["temperature"]),
                corpus.label_names,
                record["epoch"],
            )
    for leak, found in leaks(corpus).items():
        part, other = LEAKS[leak]
        if found.any():
            facts[f"{part} texts in the {other} part too"] = f"{found.sum():,} of {len(found):,}"
    tested, test = set(corpus.test_labels.tolist()), record["test"]
    f1 = [value if label in tested else None for label, value in enumerate(test["f1"])]
    reason = write_model(folder / "model", model, tokenizer, about, facts, test | {"f1": f1})
    if reason and tokenizer is not None:
        print(f"model/ is for predict.py and its --export, not for transformers: {reason}")


def possible_length(method: Method, max_length: int) -> int:
    """
    In tokens, what texts are cut to: max_length, or less where the encoder cannot take as much. The
    texts of a training may all be short enough for it, and a later one too long.
    """
    limit = longest_text(method)
    return max_length if limit is None else min(max_length, limit)


def save_network(folder: Path, method: Method, tokenizer, about: About, reason: str) -> None:
    """transformers' classifier, or with a reason against it the encoder alone; and the heads."""
    where = folder / "encoder" if reason else folder
    network = method.encoder.backbone if reason else stock_classifier(method, about.label_names)
    network.save_pretrained(where)
    save_tokenizer(tokenizer, where, about.max_length)
    heads = {
        name: tensor.contiguous()
        for name, tensor in method.state_dict().items()
        if not name.startswith(("encoder.backbone.", *method.training_only))
    }
    save(folder / "heads.safetensors", safetensors.torch.save(heads))


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
    if (path / "adapter").is_dir():
        raise InputError(
            f"{path}: this is a language model's run, which predict.py does not read; "
            "baselines.lora.load(FOLDER) in Python does"
        )
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
    What write_model() and LoraClassifier.save() did not leave in their folder, nor export() below
    it. Nothing where the list of it cannot be read.
    """
    ours = {"README.md", "sharprecl.json", "for_plots"}
    if folder.name == "adapter":
        ours |= {"adapter_config.json", "adapter_model.safetensors"}
    else:
        try:
            ours |= set(json.loads((folder / "sharprecl.json").read_text())["files"])
        except (OSError, ValueError, LookupError, TypeError):
            return []
    return [
        path
        for path in folder.rglob("*")
        for name in [path.relative_to(folder)]
        if (path.is_symlink() or not path.is_dir())
        and str(name) not in ours
        and name.parts[0] not in EXPORTS
    ]


def is_number(value: object, lowest: float = -math.inf, highest: float = math.inf) -> bool:
    """Whether it is a number in this range: neither NaN nor true or false."""
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and lowest <= value <= highest
        and abs(value) < math.inf
    )


def is_calibration(fit: dict) -> bool:
    """Whether it is what calibrate() writes; older versions lack why_not and coverage."""
    rows = fit.get("coverage", [])
    numbers = [fit["texts"], fit["ece_before"], fit["ece_after"]]
    for row in rows:
        numbers += [row["p"], row["answered"], 0 if row["accuracy"] is None else row["accuracy"]]
    return (
        is_number(fit["temperature"], 1e-3, 1e3)
        and all(map(is_number, numbers))
        and isinstance(fit.get("why_not", ""), str)
        and (rows == [] or rows[0]["p"] == 0)  # the row below any other p
    )


def check_about(about: About) -> None:
    """ValueError, or another error, that says which value main.py cannot have written."""
    has_encoder, columns = about.method != "tfidf", about.text_column
    counts = list(about.class_counts)
    strings = [*about.label_names, *([columns] if isinstance(columns, str) else columns)]
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

    method: Method | Tfidf
    tokenizer: object  # None of tfidf
    about: About


def read_model(path: str | Path, device: str) -> Trained:
    """What write_model wrote, from the run's folder or its model/. InputError: one clear line."""
    folder = model_folder(Path(path))
    about = read_about(folder)
    try:
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
            f"{folder}: sharprecl.json and the weights beside it are not those of "
            f"{about.method} as this code has it ({reason_of(error)}): use "
            "the code that wrote them, or train again"
        ) from error


def read_network(folder: Path, about: About, device: str) -> Trained:
    """The network of the folder; errors of torch where its parts do not fit."""
    where = str(folder if (folder / "config.json").is_file() else folder / "encoder")
    tokenizer, encoder = load_tokenizer(where), load_encoder(where, about.pooling)
    heads = safetensors.torch.load_file(folder / "heads.safetensors")
    if not METHODS[about.method].has_encoder:
        raise ValueError("it has no encoder")
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
    # older versions kept --max_length as it was given
    about = replace(about, max_length=possible_length(method, about.max_length))
    return Trained(method.to(device).eval(), tokenizer, about)


# ---- the model card ----


def model_card(about: About, facts: dict, metrics: dict, reason: str) -> str:
    """README.md: use, data, settings, results and limits, by templates/model_card.md.jinja."""
    # a file or folder is named without its path: where it lay is nobody's business
    facts = {
        name: Path(value).name if isinstance(value, str) and os.path.exists(value) else value
        for name, value in facts.items()
    }
    settings = {"method": about.method, **facts}
    if about.pooling is not None:
        settings |= {
            "pooling": about.pooling,
            "longest text": f"{about.max_length} tokens, what is longer is cut",
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
        classes=zip(about.label_names, about.class_counts, metrics["f1"]),
        calibration=about.calibration,
        kept_epoch=facts.get("kept epoch"),
    )


# ---- other tools: ONNX, sentence-transformers ----


class Graph(nn.Module):
    """Token ids and mask (n, length) -> logits (n, C) and the embedding feat (n, h)."""

    def __init__(self, method: Method):
        super().__init__()
        self.encoder, self.phi = method.encoder, method.phi

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        feat = self.encoder(input_ids, attention_mask)
        return self.phi(feat), feat


def export_onnx(trained: Trained, folder: Path) -> None:
    """model.onnx, by torch's exporter, and beside it config.json and tokenizer."""
    if not all(map(importlib.util.find_spec, ("onnx", "onnxscript"))):
        raise InputError("--export onnx needs torch's exporter: pip install onnx onnxscript")
    method, tokenizer, about = trained
    # two tensors of their own: one object for both inputs would be one input of the graph
    example = torch.ones(2, 8, dtype=torch.int64), torch.ones(2, 8, dtype=torch.int64)
    is_large = sum(p.nbytes for p in method.parameters()) > 1.9e9  # a protobuf ends at 2 GB
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # that torchvision is not installed
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about torch
        torch.onnx.export(
            Graph(method).eval(),
            example,
            folder / "model.onnx",
            dynamo=True,
            verbose=False,
            input_names=["input_ids", "attention_mask"],
            output_names=["logits", "sentence_embedding"],
            external_data=is_large,
            dynamic_shapes=[{0: "texts", 1: "length"}] * 2,
        )
    with_labels(method.encoder.backbone.config, about.label_names).save_pretrained(folder)
    save_tokenizer(tokenizer, folder, about.max_length)


def export_embeddings(trained: Trained, folder: Path) -> None:
    """feat, for sentence-transformers."""
    write_sentence_transformer(trained, folder, [])


def export_projected(trained: Trained, folder: Path) -> None:
    """proj_f(feat), of unit length: the space of SharpReCL's contrastive loss."""
    if trained.about.method != "sharprecl":
        raise InputError(
            f"--export projected is the space of sharprecl's proj_f, and "
            f"{trained.about.method} has none: take --export embeddings"
        )
    write_sentence_transformer(trained, folder, dense_layers(trained.method.proj_f))


@torch.no_grad()
def dense_layers(head: nn.Sequential) -> list[nn.Linear]:
    """The two linear layers of a projection head, its batch norm, if any, in the first."""
    first, last = deepcopy(head[0]), head[-1]
    if isinstance(head[1], nn.BatchNorm1d):
        norm = head[1]
        factor = norm.weight / (norm.running_var + norm.eps).sqrt()
        first.weight.mul_(factor[:, None])
        first.bias.sub_(norm.running_mean).mul_(factor).add_(norm.bias)
    return [first, last]


def write_sentence_transformer(trained: Trained, folder: Path, dense: list[nn.Linear]) -> None:
    """Encoder, pooling, and dense layers with a ReLU between them and unit length at the end."""
    method, tokenizer, about = trained
    method.encoder.backbone.save_pretrained(folder)
    save_tokenizer(tokenizer, folder, about.max_length)
    write_json(
        folder / "sentence_bert_config.json",
        {"max_seq_length": about.max_length, "do_lower_case": False},
    )
    modules = ["Transformer", "Pooling"] + ["Dense"] * len(dense) + ["Normalize"] * bool(dense)
    paths = ["", *(f"{i}_{module}" for i, module in enumerate(modules[1:], 1))]
    write_json(
        folder / "modules.json",
        [
            {
                "idx": i,
                "name": str(i),
                "path": path,
                "type": f"sentence_transformers.models.{module}",
            }
            for i, (path, module) in enumerate(zip(paths, modules))
        ],
    )
    write_json(
        folder / "1_Pooling" / "config.json",
        {
            "word_embedding_dimension": method.encoder.backbone.config.hidden_size,
            "pooling_mode_cls_token": about.pooling == "cls",
            "pooling_mode_mean_tokens": about.pooling == "mean",
            "pooling_mode_lasttoken": about.pooling == "last",
        },
    )
    for i, layer in enumerate(dense):
        activation = "linear.Identity" if i == len(dense) - 1 else "activation.ReLU"
        write_json(
            folder / paths[2 + i] / "config.json",
            {
                "in_features": layer.in_features,
                "out_features": layer.out_features,
                "bias": True,
                "activation_function": f"torch.nn.modules.{activation}",
            },
        )
        save(
            folder / paths[2 + i] / "model.safetensors",
            safetensors.torch.save(
                {f"linear.{name}": p.detach().contiguous() for name, p in layer.named_parameters()}
            ),
        )
    if dense:
        write_json(folder / paths[-1] / "config.json", {})


EXPORTS = {"onnx": export_onnx, "embeddings": export_embeddings, "projected": export_projected}


def export(path: str | Path, kind: str, output: Path | None) -> Path:
    """Takes the model elsewhere: EXPORTS[kind], by default to a folder of that name in its own."""
    output = output or model_folder(Path(path)) / kind
    if output.exists():
        raise InputError(f"{output} is there already: remove it, or name another with --output")
    trained = read_model(path, "cpu")
    if isinstance(trained.method, Tfidf):
        raise InputError(
            "tfidf is not exported, for it has no encoder: predict.py classifies with "
            "it, and baselines.tfidf.Tfidf.load(FOLDER) gives scikit-learn's objects"
        )
    if trained.method.phi is None:
        raise InputError(
            f"{trained.about.method} is not exported: its classifier is not linear on "
            "the text's embedding; predict.py classifies with it"
        )
    with new_folder(output) as folder:
        EXPORTS[kind](trained, folder)
    return output

"""
The folder of a trained model, run/model, which main.py writes and predict.py and other tools read:

    sharprecl.json        method, classes, calibration (About), and the SHA-256 of the other files
    README.md             the model card
    heads.safetensors     the layers on top of the encoder: classifier, projection heads
    config.json, model.safetensors, tokenizer    transformers' own classifier with the same logits
    terms.json, tfidf.safetensors                instead of these two, for --method tfidf

If transformers has no such class, encoder/ has the bare encoder instead: at the top, transformers
would load it as a classifier with a random last layer.

    h  width of the encoder     C  classes     n  texts
"""

import argparse
import dataclasses
import json
import os
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
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
    read_json,
    reason_of,
    save,
    saving_folder,
    sha256,
    write_json,
    write_text,
)
from engine.results import without_leaked_words
from engine.stock import Unfit, stock_classifier
from model import Method

FORMAT = 1  # of the folder; another number in sharprecl.json is another layout
NOT_LISTED = ("sharprecl.json", "README.md")  # files without a SHA-256 in sharprecl.json
EXPORTED = ("onnx", "embeddings", "projected")  # folders in it that predict.py --export writes


@dataclass(frozen=True)
class About:
    """The facts on a trained model that prediction needs."""

    method: str
    options: dict  # arguments of its network, see baselines.make
    pooling: str | None  # None: no encoder
    max_length: int | None  # in tokens; None: the method takes strings
    text_column: str | list[str]  # of the training data; several were joined, one line each
    label_names: list[str]  # C
    class_counts: list[int]  # training texts of each class
    compensated: bool  # whether it predicts for classes of equal share, see model.Method
    prefix: str = ""  # put before each text
    calibration: dict | None = None  # see calibration.calibrate; None: no validation texts

    def train_shares(self) -> Tensor:
        """P_y, (C,) float64."""
        counts = torch.tensor(self.class_counts, dtype=torch.float64)
        return counts / counts.sum()

    def own_shares(self) -> Tensor | None:
        """The class shares that the model assumes, (C,) float64; None means equal shares."""
        return None if self.compensated else self.train_shares()


def about_adapter(run: Path) -> About:
    """The About of a language model, from its run's files; it has learned the training shares."""
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


# ---- writing ----


def for_other_tools(tokenizer, max_length: int | None):
    """
    A copy of the tokenizer that makes other tools cut texts to the same length, and that has a
    padding token, without which they take only one text at a time. Any token will do for padding,
    because it is masked.
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
    facts      on the training, for the card: name -> value; "kept epoch" is the epoch of these
               weights, if validation texts chose it
    metrics    on the test texts, see metrics.metrics; the F1 of a class without test texts is None;
               {} if there are no test texts

    returns    why it has no classifier of transformers, or ""
    """
    with saving_folder(path) as folder:
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
    Writes transformers' classifier, or else only the encoder, and the heads. Returns why it is only
    the encoder, or "".
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
) -> np.ndarray | None:
    """
    Saves a run's model in its folder: as model/ for predict.py and other tools, or as adapter/ for
    a language model.

    record       of the epoch that is kept
    val_logits   (n, C) of the validation texts at that epoch; None without such texts
    returns      these logits, calibrated
    """
    if not isinstance(model, (Method, Tfidf)):
        with saving_folder(folder / "adapter") as part:
            model.save(part)
        return val_logits
    about, facts = about_run(args, corpus, model), facts_of(args, corpus)
    tokenizer = None if isinstance(model, Tfidf) else load_tokenizer(args.encoder)
    if val_logits is not None:
        fit = calibrate(val_logits, corpus.val_labels, about.own_shares())
        about = replace(about, calibration=fit)
        facts["kept epoch"] = record["epoch"]
        val_logits = val_logits / np.float32(fit["temperature"])
    tested, test = set(corpus.test_labels.tolist()), record.get("test", {})
    f1 = [value if label in tested else None for label, value in enumerate(test.get("f1", []))]
    reason = write_model(
        folder / "model", model, tokenizer, about, facts, test and test | {"f1": f1}
    )
    if reason and tokenizer is not None:
        print(f"model/ is for predict.py and its --export, not for transformers: {reason}")
    return val_logits


def about_run(args: argparse.Namespace, corpus: Corpus, model: Method | Tfidf) -> About:
    """The About of a run's model, without its calibration."""
    counts = class_counts(corpus.train_labels, len(corpus.label_names)).tolist()
    if isinstance(model, Tfidf):  # its SVM is balanced: it assumes equal shares
        names = corpus.label_names
        return About("tfidf", {}, None, None, args.text_column, names, counts, compensated=True)
    longest = longest_text(model)  # a later text may be longer than those of the training
    return About(
        method=args.method,
        options=args.model_options,
        pooling=args.pooling,
        max_length=min(args.max_length, longest or args.max_length),
        text_column=args.text_column,
        label_names=corpus.label_names,
        class_counts=counts,
        compensated=model.compensated,
        prefix=args.prefix,
    )


def facts_of(args: argparse.Namespace, corpus: Corpus) -> dict:
    """The facts on the training for the card: name -> value."""
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


def model_card(about: About, facts: dict, metrics: dict, reason: str) -> str:
    """The text of README.md: use, data, settings, results and limits."""
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    templates.filters |= {"markdown": markdown, "without_leaked_words": without_leaked_words}
    # only the name of a file or folder, because its path may be private
    facts = {
        name: Path(value).name if isinstance(value, str) and os.path.exists(value) else value
        for name, value in facts.items()
    }
    f1 = metrics.get("f1", [None] * len(about.label_names))
    return templates.get_template("model_card.md.jinja").render(
        about=about,
        facts=facts,
        metrics=metrics,
        reason=reason,
        classes=zip(about.label_names, about.class_counts, f1),
    )


# ---- reading ----


def model_folder(path: Path) -> Path:
    """The model folder at or in this path. InputError that says why there is none."""
    for folder in (path, path / "model"):
        if (folder / "sharprecl.json").is_file():
            return folder
    if not (path / "args.json").is_file():
        raise InputError(
            f"{path}: neither a run's folder nor its model/ (no sharprecl.json); give "
            "the folder that main.py names at its end"
        )
    if not (path / "result.json").is_file():
        raise InputError(f"{path}: this run is not finished; its command, given again, goes on")
    if (path / "adapter").is_dir():  # of a language model
        return path / "adapter"
    raise InputError(
        f"{path}: this run has no model here (--no_weights, or it lies with its provider): its "
        "command with --overwrite and without --no_weights trains it again and keeps it"
    )


def not_ours(folder: Path) -> list[Path]:
    """
    The files in a model's folder that neither write_model(), LoraClassifier.save() nor --export of
    predict.py has written. Empty if the list of written files cannot be read.
    """
    ours = {*NOT_LISTED, "adapter_config.json", "adapter_model.safetensors"}
    if folder.name == "model":
        try:
            ours = {*NOT_LISTED, *read_json(folder / "sharprecl.json")["files"]}
        except (InputError, LookupError):
            return []
    found = [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
    names = {path: path.relative_to(folder) for path in found}
    return [p for p in found if str(names[p]) not in ours and names[p].parts[0] not in EXPORTED]


def check_files(folder: Path, digests: dict[str, str]) -> None:
    """InputError unless the folder has exactly these files, unchanged."""
    # transformers reads what it finds: an adapter_config.json beside the weights changes the model
    found = [*folder.glob("[!.]*"), *folder.glob("encoder/[!.]*")]
    for path in filter(Path.is_file, found):
        if str(path.relative_to(folder)) not in (*digests, *NOT_LISTED):
            raise InputError(
                f"{path} is not one of the files that sharprecl.json lists: move it away if you "
                "have put it there, else copy the folder again"
            )
    for name, digest in digests.items():
        path = folder / name
        if not path.is_file() or sha256(path) != digest:
            raise InputError(
                f"{path} is missing, truncated or altered: copy the folder again, or train with "
                "--overwrite"
            )


def read_about(folder: Path) -> About:
    """Reads sharprecl.json. InputError for another format, or if a file in the folder differs."""
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
        if len(set(about.label_names)) != len(about.class_counts) or min(about.class_counts) < 1:
            raise ValueError("label_names and class_counts do not fit")
        check_files(folder, content["files"])
    except InputError:
        raise
    except Exception as error:  # unexpected values may raise anything
        raise InputError(
            f"{path} is damaged ({type(error).__name__}: {str(error)[:100]}): copy the folder "
            "again, or train with --overwrite"
        ) from error
    return about


class Trained(NamedTuple):
    """A trained model, in eval mode, with its tokenizer and its About."""

    method: Any  # a Method, or a Tfidf or LoraClassifier with scores(texts)
    tokenizer: Any  # None for a Tfidf or LoraClassifier
    about: About


def read_model(path: str | Path, device: str) -> Trained:
    """Loads what write_model() wrote, from the run's folder or its model/."""
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
    except Exception as error:  # of torch, safetensors or json: the files may have any content
        raise InputError(
            f"{folder}: its settings and its weights are not those of "
            f"{about.method} as this code has it ({reason_of(error)}): use "
            "the code that wrote them, or train again"
        ) from error


def read_network(folder: Path, about: About, device: str) -> Trained:
    """Loads the network of the folder; torch raises errors if its parts do not fit."""
    if not METHODS[about.method].has_encoder or about.pooling is None or about.max_length is None:
        raise ValueError("it has no encoder")
    where = str(folder if (folder / "config.json").is_file() else folder / "encoder")
    tokenizer, encoder = load_tokenizer(where), load_encoder(where, about.pooling)
    heads = safetensors.torch.load_file(folder / "heads.safetensors")
    task = Task(
        about.label_names,
        np.broadcast_to(0, sum(about.class_counts)),  # only their number matters
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
    return Trained(method.to(device).eval(), tokenizer, about)

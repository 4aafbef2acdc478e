"""
SharpReCL (Li et al., WWW 2026): train, evaluate, and leave the result in a folder of its own.

    python main.py --dataset wordnet --encoder minilm --ir 20 --max_per_class 300 --epochs 3
    python main.py --dataset biomedical --ir 20 --tau 0.5              # one cell of Table 2
    python main.py --dataset biomedical --ir 20 --method bcl           # and one of its rivals
    python main.py --dataset my.csv --text_column review --label_column stars --check_only
    torchrun --nproc_per_node 4 main.py --dataset dblp --ir 50         # on several GPUs or machines

The same command again goes on where it stopped, and repeats nothing that is finished.
"""
import os
import signal

if __name__ == "__main__":      # Ctrl-C while the libraries load, for seconds: no traceback
    interrupt = signal.signal(signal.SIGINT, lambda *_: os._exit(130))

import argparse
import contextlib
import fcntl
import hashlib
import io
import json
import math
import platform
import re
import shutil
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import safetensors.torch
import torch
import transformers
from torch import Tensor, nn
from tqdm import tqdm

import data
from engine import distributed as D
from engine import loader
from reporting import export
from baselines import language_models as llm
import losses as L
from engine import files, metrics, results
from reporting import figures
from engine.arguments import changed, has_encoder, has_second_view, parse_args, run_folder, settings
from augment import METHODS as AUGMENTATIONS
from augment import augment
from engine.files import InputError, save
from engine.frozen import keep_states
from baselines import Losses, Task, make, tfidf
from engine.distributed import set_seed
from model import Method, SharpReCL, load_encoder, load_tokenizer, max_positions

# ---- Algorithm 1 ----


class Objective(NamedTuple):
    """The losses of one batch, and what the diagnostics look at."""
    loss: Tensor
    loss_cls: Tensor
    loss_cl: Tensor
    extended: Tensor
    labels: Tensor
    positives: L.Built
    negatives: L.Built
    num_syn: tuple[int, int]


def objective(model: SharpReCL, feat: Tensor, labels: Tensor, class_counts: Tensor,
              ratio: float, args: argparse.Namespace) -> Objective:
    """
    Algorithm 1, lines 4 to 13, in float32.

    feat    (2B, h)  of both views
    labels  (2B,)    of both views
    ratio            the share of D_syn at this step
    """
    logits = model.classify(feat.detach() if args.no_cls else feat)        # line 4: Eq. (5)
    prototypes = model.prototypes()                                        # line 4: Eq. (5)
    z = model.project(feat)                                                # line 5: Eq. (7)
    extended, extended_labels = L.extend(z, labels, prototypes)            # D_hat

    samp_pos, syn_pos = L.set_sizes(args.n_pos, ratio)                     # line 6
    samp_neg, syn_neg = L.set_sizes(args.n_neg, ratio)                     # line 6

    is_member = L.membership(extended_labels, len(class_counts))           # (C, N)
    d_samp_pos = L.simple_sampling(is_member, samp_pos)                    # line 7: Eq. (8)
    d_samp_neg = L.simple_sampling(~is_member, samp_neg)                   # line 7: Eq. (8)

    similarity = extended[len(labels):] @ extended.T                       # (C, N), proto_c . z_i
    hard_pos = L.hard_samples(-similarity, is_member, k=args.k)            # line 8: Eq. (9)
    hard_neg = L.hard_samples(similarity, ~is_member, k=args.k)            # line 8: Eq. (9)

    d_syn_pos = L.hard_mixup(hard_pos, syn_pos, lam=args.lam)              # line 9: Eq. (10)
    d_syn_neg = L.hard_mixup(hard_neg, syn_neg, lam=args.lam)              # line 9: Eq. (10)

    positives = L.union(d_samp_pos, d_syn_pos)                             # line 10
    negatives = L.union(d_samp_neg, d_syn_neg)                             # line 10

    priors = torch.ones_like(class_counts) if args.no_delta_cls else class_counts
    loss_cls = L.logit_compensation(logits, labels, priors)                # line 11: Eq. (6)
    weights = L.class_weights(class_counts, "none" if args.no_delta_cl else args.cl_weight)
    loss_cl = L.rebalanced_contrastive(                                    # line 12: Eq. (11)
        extended, extended_labels, positives, negatives,
        temperature=args.tau, weights=weights, reduction=args.cl_reduction,
        over_positives=args.positives)
    loss = loss_cls + args.mu * loss_cl                                    # line 13: Eq. (12)
    return Objective(loss, loss_cls, loss_cl, extended, extended_labels, positives, negatives,
                     (syn_pos, syn_neg))


def train_epoch(run: "Run", epoch: int) -> dict:
    """
    One epoch of Algorithm 1's loop; returns its mean losses, its speed and the diagnostics. For
    another --method, lines 4 to 13 are that method's losses().
    """
    args, class_counts = run.args, run.class_counts
    set_seed(args.seed, epoch)      # each epoch has its own: a resumed run draws the same numbers
    run.model.train()               # from_pretrained leaves the encoder in eval mode
    batches = run.epoch_batches(epoch)
    total_steps = args.epochs * len(batches)
    sums, fitted = torch.zeros(3, device=run.device), torch.zeros((), device=run.device)
    class_sums = torch.zeros(len(class_counts), args.proj_dim, device=run.device)
    num_texts, start = 0, time.perf_counter()
    progress = tqdm(batches, desc=f"epoch {epoch}/{args.epochs}", leave=False)

    for position, rows in enumerate(progress, start=1):                    # line 2
        t = (epoch - 1) * len(batches) + position
        ratio = L.hard_ratio(t, total_steps, start=args.hard_ratio_start, end=args.hard_ratio_end)
        lr = set_learning_rate(run.optimizer, t, total_steps, args)
        texts, labels = run.batch(rows)
        with run.autocast(), D.own_draws(run.device, args.seed, t):
            feat = run.model.encode(run.forward, texts)                    # line 3
        feat = D.gather(feat.float(), len(rows), len(run.views))
        if run.device.type == "cpu":
            check_finite(feat, f"at step {t}, in epoch {epoch}")
        if args.method == "sharprecl":
            step = objective(run.model, feat, labels, class_counts, ratio, args)
        else:
            step = run.model.losses(feat, labels, epoch)
        is_last = position == len(batches)
        inside = diagnostics(step, feat, labels, class_sums, is_last, args.mu)
        run.optimizer.zero_grad()
        run.scaler.scale(step.loss).backward()                             # line 14
        D.combine_gradients(run.model.encoder, run.model)
        run.scaler.step(run.optimizer)                                     # line 14
        run.scaler.update()

        num_texts += len(rows)
        fitted += count_fitted(run.model, feat[:len(rows)], labels[:len(rows)])
        sums += torch.stack([step.loss, step.loss_cls, step.loss_cl]).detach()
        if is_last or position % 10 == 0:   # reading a loss waits for the GPU: not at every step
            check_finite(sums, f"before step {t + 1}, in epoch {epoch}")
            loss, loss_cls, loss_cl = (sums / position).tolist()
            speed = num_texts / (time.perf_counter() - start)
            progress.set_postfix_str(f"cls {loss_cls:.3f}, cl {loss_cl:.3f}, "
                                     f"lr {lr:.1e}, {speed:.0f} texts/s")
    return {"loss": loss, "loss_cls": loss_cls, "loss_cl": loss_cl, "lr": lr,
            "train_accuracy": 100 * fitted.item() / num_texts,
            "texts_per_second": round(speed, 1), "diagnostics": inside}


@torch.no_grad()
def count_fitted(model: Method, feat: Tensor, labels: Tensor) -> Tensor:
    """Original texts of the batch that a linear classifier, as it would predict, gets right."""
    if model.phi is None:
        return torch.zeros((), device=feat.device)
    return (model.phi(feat).argmax(dim=1) == labels).sum()


def check_finite(x: Tensor, when: str) -> None:
    if not x.isfinite().all():
        raise InputError(f"training diverged {when}: not all is finite; try a lower --lr, or "
                         "--amp bf16 or off instead of fp16")


def set_learning_rate(optimizer, t: int, total_steps: int, args: argparse.Namespace) -> float:
    """Of step t = 1..T: linear warm-up over a share of the steps, then --schedule down to 0."""
    warmup_steps = args.warmup * total_steps
    if t <= warmup_steps:
        factor = t / warmup_steps
    else:
        done = (t - warmup_steps - 1) / max(1, total_steps - warmup_steps)      # from 0, below 1
        factor = {"constant": 1.0, "linear": 1 - done,
                  "cosine": (1 + math.cos(math.pi * done)) / 2}[args.schedule]
    for group in optimizer.param_groups:
        group["lr"] = args.lr * factor
    return args.lr * factor


# ---- diagnostics of SharpReCL, once an epoch, from its last batch ----


def diagnostics(step: Objective | Losses, feat: Tensor, labels: Tensor, class_sums: Tensor,
                is_last: bool, mu: float) -> dict:
    """Adds the step's texts to class_sums; after the last step, the signs of failures."""
    if not isinstance(step, Objective):
        return {}
    class_sums.index_add_(0, labels, step.extended[:len(labels)].detach())
    return gradient_shares(step, feat, mu) | prototype_signs(step, class_sums) if is_last else {}


def gradient_shares(step: Objective, feat: Tensor, mu: float) -> dict:
    """Share of each branch in the length of the gradient that reaches the encoder."""
    def length(loss: Tensor) -> float:
        gradient, = torch.autograd.grad(loss, feat, retain_graph=True, allow_unused=True)
        return 0.0 if gradient is None else gradient.norm().item()

    cls, cl = length(step.loss_cls), length(mu * step.loss_cl)
    total = cls + cl or 1.0
    return {"gradient_share_cls": cls / total, "gradient_share_cl": cl / total}


@torch.no_grad()
def prototype_signs(step: Objective, class_sums: Tensor) -> dict:
    """
    The signs of the failures to look out for. Drift: prototype_cosine, between a prototype and the
    mean of its class's texts over the epoch. Collapse: mixing_std, of the mixing coefficients, and
    mixed_to_prototype, the mean similarity of mixed samples to the prototype of their class.
    """
    prototypes = step.extended[-len(class_sums):]
    seen = class_sums.norm(dim=1) > 0
    cosine = nn.functional.cosine_similarity(prototypes, class_sums, dim=1)[seen]
    result = {"prototype_cosine": cosine.mean().item(), "prototype_cosine_min": cosine.min().item()}
    gram = step.extended @ step.extended.T
    for name, built, num_syn in zip(("pos", "neg"), (step.positives, step.negatives), step.num_syn):
        if num_syn > 0:
            mixed = L.Built(*(tensor[:, -num_syn:] for tensor in built))
            similarity = L.built_similarity(gram, mixed, step.labels)[-len(class_sums):]
            result[f"mixing_std_{name}"] = mixed.weight.std().item()
            result[f"mixed_to_prototype_{name}"] = similarity.mean().item()
    return result


# ---- evaluation ----


@torch.inference_mode()
def predict(run: "Run", tokens: data.Tokens) -> tuple[np.ndarray, np.ndarray]:
    """
    Logits (n, C), never compensated, and feat (n, h) of n texts, in their order. Several processes
    share the batches, each text is in one, and all get all.
    """
    run.model.eval()
    n, h = len(tokens.lengths), run.model.encoder.backbone.config.hidden_size
    logits = np.zeros((n, len(run.corpus.label_names)), dtype=np.float32)
    feats = np.zeros((n, h), dtype=np.float32)
    batches = data.eval_batches(tokens.lengths, 2 * run.args.batch_size)
    for rows in batches[D.rank()::D.world_size()]:
        with run.autocast():
            feat = run.forward(tokens.take(rows)).float()
        check_finite(feat, "before this evaluation")
        logits[rows] = run.model.classify(feat).cpu().numpy()
        # a label-aware encoder gives the text first, then each label
        feats[rows] = (feat if feat.ndim == 2 else feat[:, 0]).cpu().numpy()
    return D.sum_rows(logits, run.device), D.sum_rows(feats, run.device)


def observe(run: "Run") -> None:
    """Shows a method that asks for it the training texts as the encoder now sees them."""
    if run.model.sees_features:
        _, feats = predict(run, run.views[0])
        labels = torch.from_numpy(run.corpus.train_labels)
        run.model.observe(torch.from_numpy(feats).to(run.device), labels.to(run.device))


# ---- checkpoints, and the lock ----


def save_checkpoint(run: "Run", history: list[dict]) -> None:
    """All that the next epoch needs, in a folder that appears whole; then the older one goes."""
    temporary = run.folder / "checkpoint.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    trainer = io.BytesIO()
    torch.save({"optimizer": run.optimizer.state_dict(), "scaler": run.scaler.state_dict(),
                "history": history}, trainer)
    contents = {"trainer.pt": trainer.getvalue(),
             "model.safetensors": safetensors.torch.save(trained_state(run.model))}
    for name, content in contents.items():
        save(temporary / name, content)
    files.write_json(temporary / "sha256.json", sha256(contents))
    os.replace(temporary, run.folder / f"checkpoint-{len(history)}")
    shutil.rmtree(run.folder / f"checkpoint-{len(history) - 1}", ignore_errors=True)


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """Of the network all but the layers that stay as pretrained."""
    frozen = {p.data_ptr() for part in model.encoder.frozen_parts() for p in part.parameters()
              } if isinstance(model, Method) else set()
    return {name: tensor for name, tensor in model.state_dict().items()
            if tensor.data_ptr() not in frozen}


def sha256(contents: dict[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}


def load_checkpoint(run: "Run") -> list[dict]:
    """Restores the newest whole epoch; returns the history up to it, [] at the beginning."""
    folders = {int(path.name.split("-")[1]): path for path in run.folder.glob("checkpoint-*")
               if re.fullmatch("checkpoint-[0-9]+", path.name)}
    if not folders:
        return []
    folder = folders[max(folders)]
    try:
        contents = {name: (folder / name).read_bytes() for name in ("trainer.pt", "model.safetensors")}
        if sha256(contents) != json.loads((folder / "sha256.json").read_text()):
            raise ValueError("its files are not those that were written")
        state = torch.load(io.BytesIO(contents["trainer.pt"]), map_location=run.device,
                           weights_only=True)
        state_of_model = safetensors.torch.load(contents["model.safetensors"])
        if set(state_of_model) != set(trained_state(run.model)):
            raise ValueError("it holds other weights")
        run.model.load_state_dict(state_of_model, strict=False)
        run.optimizer.load_state_dict(state["optimizer"])
        run.scaler.load_state_dict(state["scaler"])
        return state["history"]
    except Exception as error:      # whatever a damaged file makes of torch, pickle or safetensors
        raise InputError(f"{folder} is damaged, or of another version ({type(error).__name__}): "
                         "delete this folder, and the same command goes on from the epoch before "
                         "it, or begins anew") from error


class Busy(InputError):
    """Another process has the run's folder."""


@contextlib.contextmanager
def locked(folder: Path):
    """
    Makes the folder, and keeps other runs out of it for as long as this process lives; of
    torchrun's processes, rank 0.
    """
    if not D.is_main():
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Busy(f"{folder}: another process is running this; wait for it, or give "
                       "--output_dir another folder") from error
        except OSError as error:
            raise InputError(f"{folder}: its file system has no locks ({error.strerror}); give "
                             "--output_dir a folder on another one") from error
        for part in folder.glob(".*.part"):     # of a write that was killed
            part.unlink()
        yield


# ---- one run ----


@dataclass
class Run:
    """What the loop, the evaluation and the checkpoints share."""
    args: argparse.Namespace
    folder: Path
    device: torch.device
    corpus: data.Corpus
    model: Method
    encoder: nn.Module              # the model's, or DataParallel around it
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler    # does nothing unless --amp fp16
    views: list[data.Tokens]        # of the training texts, as the method names them
    test: data.Tokens
    val: data.Tokens | None

    @property
    def class_counts(self) -> Tensor:
        """Training texts of each class, (C,), on the CPU."""
        return torch.from_numpy(data.class_counts(self.corpus.train_labels,
                                                  len(self.corpus.label_names)))

    def epoch_batches(self, epoch: int) -> list[np.ndarray]:
        """The rows of each batch of an epoch: of all training texts, or of SPCL's curriculum."""
        rows = self.model.epoch_rows(epoch, len(self.corpus.train_labels))
        return [rows[batch] for batch in data.epoch_batches(
            len(rows), self.args.batch_size, seed=self.args.seed, epoch=epoch)]

    def texts(self, rows: np.ndarray) -> data.Tokens:
        """All V views of these texts, view after view."""
        return data.join([view.take(rows) for view in self.views])

    def padding(self) -> float:
        """Share of padding in the first epoch."""
        return loader.padding([self.texts(rows) for rows in self.epoch_batches(1)], self.device)

    def batch(self, rows: np.ndarray) -> tuple[data.Tokens, Tensor]:
        """
        All V views of these texts, and their labels, (V B,). Of several processes each has the
        views of its share of the texts, and all labels.
        """
        labels = loader.to_device(np.tile(self.corpus.train_labels[rows], len(self.views)),
                                  self.device)
        return self.texts(D.share(rows)), labels

    def forward(self, texts: data.Tokens, encoder: nn.Module | None = None) -> Tensor:
        """feat of the texts, by the network's encoder on all devices, or by another one."""
        size = self.args.micro_batch and len(self.views) * self.args.micro_batch
        return loader.encode(encoder or self.encoder, texts, self.device, size)

    def autocast(self):
        dtype = torch.float16 if self.args.amp == "fp16" else torch.bfloat16
        return torch.autocast(self.device.type, dtype, enabled=self.args.amp != "off")


def load_data(args: argparse.Namespace) -> data.Corpus:
    """The corpus as it is trained on: capped, made imbalanced, split, its labels noisy if asked."""
    seed = args.data_seed
    corpus = data.load(args.dataset, data_dir=args.data_dir, text_column=args.text_column,
                       label_column=args.label_column, test_fraction=args.test_fraction, seed=seed)
    rows, labels = np.arange(len(corpus.train_labels)), corpus.train_labels
    if args.max_per_class is not None:
        rows = rows[data.cap_per_class(labels[rows], args.max_per_class, seed=seed)]
    if args.ir is not None:
        rows = rows[data.imbalanced_rows(labels[rows], args.ir, profile=args.profile, seed=seed)]
    if args.val_left_out is not None:
        corpus = data.hold_out(corpus, "val", *data.left_out(labels, rows, args.val_left_out,
                                                             seed=seed))
    else:
        corpus = data.select(corpus, rows)
    if args.val_fraction > 0:
        split = data.stratified_split(corpus.train_labels, args.val_fraction, seed=seed)
        corpus = data.hold_out(corpus, "val", *split)
    if args.label_noise > 0:
        noisy = data.flip_labels(corpus.train_labels, args.label_noise, len(corpus.label_names),
                                 seed=seed)
        corpus = replace(corpus, train_labels=noisy)
    return corpus


def check_data(args: argparse.Namespace, folder: Path, corpus: data.Corpus) -> data.Tokens | None:
    """
    Prints the data report, and leaves it in the folder with the label distribution (Fig. 1).
    Returns the training texts as tokens, which the report needs already; None without an encoder.
    """
    summary, tokens = data.data_report(corpus), None
    print(data.format_report(summary))
    if has_encoder(args.method):
        tokens = tokenize(args, corpus.train_texts)
        summary["truncated"] = tokens.truncated
        print(f"  longer than {args.max_length} tokens, and cut: {tokens.truncated:>11.2%}",
              flush=True)
    if not D.is_main():
        return tokens
    files.write_json(folder / "data_report.json", summary)
    figure = figures.label_distribution([row["train"] for row in summary["classes"]],
                                        corpus.label_names,
                                        f"{corpus.name}, ir = {summary['ir']:.1f}")
    figures.save_figure(figure, folder / "label_distribution.png")
    return tokens


def cache_dir(args: argparse.Namespace) -> Path:
    return Path(args.output_dir) / "cache"


def tokenize(args: argparse.Namespace, texts: list[str]) -> data.Tokens:
    """The texts as the encoder's tokens, kept for other runs on them."""
    with D.main_first():
        return data.tokenize(texts, load_tokenizer(args.encoder), args.max_length, cache_dir(args))


def check_settings(args: argparse.Namespace, folder: Path, data_hash: str) -> None:
    """InputError if the folder holds a run of other settings or other data."""
    path = folder / "args.json"
    if path.exists():
        before, now = files.read_json(path), settings(args)
        own = before.get("settings", {})
        differing = [name for name in {**own, **now} if own.get(name) != now.get(name)
                     or (name in own) != (name in now)]     # a setting that a version lacks
        what = ("settings (" + ", ".join(differing) + ")" if differing else
                "data" if before.get("data_hash") != data_hash else "")
        if what:
            raise InputError(f"{path}: a run with other {what} began here; --overwrite starts "
                             "anew, another --output_dir keeps both")


def record_settings(args: argparse.Namespace, folder: Path, corpus: data.Corpus,
                    data_hash: str) -> None:
    """args.json, and train_rows.txt: the rows of the source that are trained on."""
    if (folder / "args.json").exists():
        return                          # of the run that goes on
    versions = {"code": code_version(), "python": platform.python_version(),
                "torch": torch.__version__, "transformers": transformers.__version__,
                "platform": platform.platform()}
    files.write_text(folder / "train_rows.txt", "".join(f"{row}\n" for row in corpus.train_rows))
    files.write_json(folder / "args.json", {
        "settings": settings(args), "data_hash": data_hash, "command": sys.argv,
        "device": args.device, "versions": versions, "label_names": corpus.label_names})


def code_version() -> str:
    """git's name for this state of the code, or "unknown" outside a clone."""
    try:
        return subprocess.run(["git", "describe", "--always", "--dirty"], text=True, check=True,
                              cwd=Path(__file__).parent, capture_output=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def options(args: argparse.Namespace) -> dict:
    """What the network is made with, beside the encoder and the task."""
    if args.method != "sharprecl":
        return args.constants
    return {"proj_dim": args.proj_dim, "proj_bn": args.proj_bn,
            "mutual_guidance": not args.no_mutual_guidance, "compensated": not args.no_delta_cls}


def new_model(args: argparse.Namespace, corpus: data.Corpus
              ) -> Method | llm.LoraClassifier | llm.HostedModel | None:
    """
    Algorithm 1, line 1: the pretrained encoder, and everything new fixed by the seed; or a language
    model; None for tfidf.
    """
    set_seed(args.seed)
    if args.method in llm.MODELS:
        return new_language_model(args, corpus)
    if args.method == "tfidf":
        return None
    encoder = load_encoder(args.encoder, args.pooling, args.freeze_layers)
    num_classes = len(corpus.label_names)
    family = encoder.backbone.config.model_type
    if args.method == "roberta" and "roberta" not in family:
        raise InputError(f"--method roberta with --encoder {args.encoder}, a {family}: leave "
                         "--encoder out, or take --method bert")
    counts = torch.from_numpy(data.class_counts(corpus.train_labels, num_classes))
    task = Task(corpus.label_names, corpus.train_labels, counts, load_tokenizer(args.encoder),
                args.epochs)
    return make(args.method, encoder, task, options(args)).to(args.device)


def new_language_model(args: argparse.Namespace, corpus: data.Corpus
                       ) -> llm.LoraClassifier | llm.HostedModel:
    """With new adapters; or, of a provider, with the user's consent to what it costs."""
    if D.world_size() > 1:
        raise InputError(f"{args.method} runs in one process: start it without torchrun")
    if args.method != "gpt35":
        return llm.LoraClassifier(
            args.base_model, corpus.label_names, args.constants, base_type=args.base_type,
            targets=args.lora_targets, device=args.device, max_length=args.max_length,
            micro_batch=args.micro_batch)
    model = llm.HostedModel(args.base_model, corpus.label_names, args.constants["epochs"],
                            args.seed, args.prices, run_folder(args), is_new=args.overwrite)
    model.confirm(labelled(corpus), corpus.test_texts + corpus.val_texts, is_confirmed=args.yes)
    return model


def labelled(corpus: data.Corpus) -> list[tuple[str, str]]:
    """The training texts, each with the name of its label."""
    return [(text, corpus.label_names[label])
            for text, label in zip(corpus.train_texts, corpus.train_labels)]


def build(args: argparse.Namespace, folder: Path, corpus: data.Corpus, tokens: data.Tokens,
          model: Method) -> Run:
    """Everything around the network: the other texts as tokens, the optimizer, the devices."""
    views = views_of(args, folder, corpus, tokens, model)
    test = tokenize(args, corpus.test_texts)
    val = tokenize(args, corpus.val_texts) if corpus.val_texts else None
    longest = max(part.lengths.max() for part in (*views.values(), test, val or test))
    limit = max_positions(model.encoder)
    if limit is not None and longest > (limit := limit - model.extra_positions):
        raise InputError(f"a text has {longest} tokens and {args.method} with {args.encoder} takes "
                         f"{limit}: --max_length {limit} cuts it")

    # all visible GPUs, unless one is named; a thread of DataParallel would not see micro batches
    several = args.device == "cuda" and torch.cuda.device_count() > 1 and not args.micro_batch
    if args.compile:
        if several:
            raise InputError("--compile does not go with torch.nn.DataParallel: start it with "
                             "torchrun, or name one GPU, --device cuda:0")
        model.encoder.backbone.compile(dynamic=True)
    device = torch.device(args.device)

    def kept(tokens: data.Tokens) -> data.Tokens:
        with D.main_first():
            return keep_states(model.prepare(tokens), model.encoder, device, cache_dir(args))

    return Run(args=args, folder=folder, device=device, corpus=corpus, model=model,
               encoder=nn.DataParallel(model.encoder) if several else model.encoder,
               optimizer=new_optimizer(model, device, args),
               scaler=torch.amp.GradScaler(device.type, enabled=args.amp == "fp16"),
               views=[kept(views[name]) for name in model.views], test=kept(test),
               val=val and kept(val))


def views_of(args: argparse.Namespace, folder: Path, corpus: data.Corpus, tokens: data.Tokens,
             model: Method) -> dict[str, data.Tokens]:
    """The views of the training texts that the method names; tokens are those of the original."""
    method = chosen_augmentation(args, folder) if args.augment == "auto" else args.augment
    views = {"original": tokens}
    for name, seed in (("augmented", args.data_seed), ("augmented again", args.data_seed + 1)):
        if name in model.views:
            with D.main_first():
                texts = augment(corpus.train_texts, method, seed=seed, cache_dir=cache_dir(args),
                                device=args.device, **args.augment_options)
            views[name] = tokenize(args, texts)
    return views


def new_optimizer(model: Method, device: torch.device,
                  args: argparse.Namespace) -> torch.optim.AdamW:
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.ndim > 1]
    vectors = [p for p in trained if p.ndim <= 1]                   # biases and norms: no decay
    return torch.optim.AdamW([{"params": matrices, "weight_decay": args.weight_decay},
                              {"params": vectors, "weight_decay": 0.0}], lr=args.lr,
                             fused=device.type in ("cpu", "cuda"))


def chosen_augmentation(args: argparse.Namespace, folder: Path) -> str:
    """
    --augment auto: each augmentation that is to be had here is tried in a run of its own, below the
    folder, without a tenth of the training texts (or --val_fraction). The best macro-F1 on those
    counts, after the last epoch.
    """
    scores = {}
    for name, function in AUGMENTATIONS.items():
        try:
            if function is not None:
                function(["a text"])
        except InputError as error:
            print(f"auto leaves out {name}: {error}", flush=True)
            continue
        print(f"auto tries {name}", flush=True)
        trial = argparse.Namespace(**vars(args) | {
            "augment": name, "val_fraction": args.val_fraction or 0.1, "no_weights": True,
            "plots": False, "overwrite": False, "output_dir": folder / "augmentations"})
        start(trial)
        D.barrier()     # for rank 0's files
        last = (run_folder(trial) / "metrics.jsonl").read_text().splitlines()[-1]
        scores[name] = json.loads(last)["val"]["macro_f1"]
    best = max(scores, key=scores.get)
    print("auto: macro-F1 on held-out texts "
          + ", ".join(f"{name} {score:.2f}" for name, score in scores.items())
          + f"; takes {best}", flush=True)
    if D.is_main():
        files.write_json(folder / "augmentations.json",
                           {"macro_f1_on_validation": scores, "chosen": best})
    return best


def evaluate(corpus: data.Corpus, test_logits: np.ndarray, val_logits: np.ndarray | None) -> dict:
    """The metrics of both parts, as an epoch's record has them."""
    counts = data.class_counts(corpus.train_labels, len(corpus.label_names))
    record = {"test": metrics.metrics(corpus.test_labels, test_logits.argmax(axis=1), counts)}
    if val_logits is not None:
        record["val"] = metrics.metrics(corpus.val_labels, val_logits.argmax(axis=1), counts)
    return record


def write_epoch(folder: Path, corpus: data.Corpus, logits: np.ndarray | None, history: list[dict]
                ) -> None:
    """
    The newest epoch on the screen, its predictions and reports where it was evaluated, and all
    epochs' metrics.
    """
    print(results.epoch_lines(history[-1]), flush=True)
    if logits is not None:
        results.write_reports(folder, corpus, logits)
    files.write_text(folder / "metrics.jsonl",
                       "".join(json.dumps(line) + "\n" for line in history))


def train(run: Run) -> None:
    """Algorithm 1, from its beginning or its last whole epoch, to the result."""
    history, start = load_checkpoint(run), time.perf_counter()
    if not D.all_agree(len(history)):
        raise InputError(f"{run.folder}: not all processes see the same files; give --output_dir a "
                         "folder that all machines share")
    if history:
        print(f"goes on after epoch {len(history)}")
    else:
        observe(run)
        print(f"{run.args.batch_size} texts a batch, each in {len(run.views)} "
              f"view{'s' * (len(run.views) > 1)}; padding: {run.padding():.1%}", flush=True)
    board = tensorboard(run.folder, len(history)) if D.is_main() else None
    epochs = run.args.epochs if run.model.trains else 1

    for epoch in range(len(history) + 1, epochs + 1):
        record = {"epoch": epoch}
        if run.model.trains:
            record |= train_epoch(run, epoch)
            observe(run)
        is_evaluated = epoch % run.args.eval_every == 0 or epoch == epochs
        if is_evaluated:
            logits, _ = predict(run, run.test)
            val_logits = predict(run, run.val)[0] if run.val is not None else None
            record |= evaluate(run.corpus, logits, val_logits)
        record["seconds"] = round(time.perf_counter() - start, 2)
        history.append(record)
        if D.is_main():
            log_to(board, record)
            write_epoch(run.folder, run.corpus, logits if is_evaluated else None, history)
            if epoch < epochs:
                save_checkpoint(run, history)   # killed before it, all above is written once more
        start = time.perf_counter()
    if D.is_main():
        if not run.args.no_weights:
            keep_model(run, record, val_logits)
        finish(run.args, run.folder, history)


def keep_model(run: Run, record: dict, val_logits: np.ndarray | None) -> None:
    """model/: the trained network, for predict.py and other tools; record: the last epoch's."""
    args, corpus = run.args, run.corpus
    about = export.About(
        method=args.method, options=options(args), pooling=args.pooling, max_length=args.max_length,
        text_column=args.text_column, label_names=corpus.label_names,
        class_counts=run.class_counts.tolist(), compensated=run.model.compensated)
    if val_logits is not None:
        about = export.calibrate(about, val_logits, corpus.val_labels)
    facts = {"data": corpus.name, "encoder": args.encoder, "seed": args.seed,
             "epochs": args.epochs, "batch size": args.batch_size, "learning rate": args.lr,
             **changed(args)}
    reason = export.write_model(run.folder / "model", run.model, load_tokenizer(args.encoder),
                                about, facts, record["test"])
    if reason:
        print(f"model/ is for predict.py and its --export, not for transformers: {reason}")


def fit_tfidf(args: argparse.Namespace, folder: Path, corpus: data.Corpus) -> None:
    """The one method without a network: one fit, and the same files but weights."""
    start = time.perf_counter()
    logits, val_logits = tfidf(corpus.train_texts, corpus.train_labels, corpus.test_texts,
                               corpus.val_texts or corpus.test_texts)
    record = {"epoch": 1, **evaluate(corpus, logits, val_logits if corpus.val_texts else None)}
    record["seconds"] = round(time.perf_counter() - start, 2)
    write_epoch(folder, corpus, logits, [record])
    finish(args, folder, [record])


def fit_lora(args: argparse.Namespace, folder: Path, corpus: data.Corpus,
             model: llm.LoraClassifier) -> None:
    """As train(), with a language model's own epochs; of its weights the adapters are kept."""
    _, share = model.cut(corpus.train_texts)
    print(f"{args.method}: {args.base_model}, {args.base_type}, "
          + ", ".join(f"{name} {value:g}" for name, value in args.constants.items())
          + f"; {share:.2%} of the texts are longer than {args.max_length} of its tokens, and cut. "
          "The flags of encoders and of their training do not concern it")
    run = SimpleNamespace(folder=folder, device=args.device, model=model,
                          optimizer=model.optimizer, scaler=torch.amp.GradScaler(enabled=False))
    history, epochs = load_checkpoint(run), args.constants["epochs"]
    if history:
        print(f"goes on after epoch {len(history)}")
    for epoch in range(len(history) + 1, epochs + 1):
        start = time.perf_counter()
        set_seed(args.seed, epoch)
        record = {"epoch": epoch, **model.train_epoch(corpus.train_texts, corpus.train_labels,
                                                      seed=args.seed, epoch=epoch)}
        logits = model.scores(corpus.test_texts)
        record |= evaluate(corpus, logits,
                           model.scores(corpus.val_texts) if corpus.val_texts else None)
        record["seconds"] = round(time.perf_counter() - start, 2)
        history.append(record)
        write_epoch(folder, corpus, logits, history)
        if epoch < epochs:
            save_checkpoint(run, history)
    if not args.no_weights:
        model.save(folder / "adapter")
    finish(args, folder, history)


def fit_hosted(args: argparse.Namespace, folder: Path, corpus: data.Corpus,
               model: llm.HostedModel) -> None:
    """A language model of a provider, as it is after its last epoch; unknown answers are wrong."""
    start = time.perf_counter()
    model.fine_tune(labelled(corpus))
    logits, unknown = model.scores(corpus.test_texts)
    val_logits = model.scores(corpus.val_texts)[0] if corpus.val_texts else None
    record = {"epoch": args.constants["epochs"], **evaluate(corpus, logits, val_logits)}
    record["test"]["unknown_answers"] = unknown
    record["seconds"] = round(time.perf_counter() - start, 2)
    print(f"{unknown} of {len(logits)} answers are no label, and count as wrong; {model.paid()}")
    write_epoch(folder, corpus, logits, [record])
    finish(args, folder, [record])


def finish(args: argparse.Namespace, folder: Path, history: list[dict]) -> None:
    """result.json, which marks the run as finished; checkpoints are of no use any more."""
    evaluated = [epoch for epoch in history if "test" in epoch]
    chosen = {"last": history[-1],
              "best_test": max(evaluated, key=lambda epoch: epoch["test"]["accuracy"])}
    if "val" in history[-1]:
        chosen["best_val"] = max(evaluated, key=lambda epoch: epoch["val"]["macro_f1"])
    result = {name: {"epoch": epoch["epoch"], **epoch["test"]} for name, epoch in chosen.items()}
    result["seconds"] = round(sum(epoch["seconds"] for epoch in history), 1)
    recorded = files.read_json(folder / "args.json")
    files.write_json(folder / "result.json", result | {
        "settings": settings(args), "changed": changed(args), "data_hash": recorded["data_hash"]})
    for checkpoint_folder in folder.glob("checkpoint*"):
        shutil.rmtree(checkpoint_folder)


def load_weights(run: Run) -> None:
    """Of the finished run in its folder."""
    trained = export.read_model(run.folder, run.args.device)
    run.model.load_state_dict(trained.method.state_dict())


@torch.inference_mode()
def plot(run: Run) -> None:
    """
    Confusion matrix and t-SNE of the test texts: of feat, and for SharpReCL of the l2-normalised
    projections, since its prototypes are in that space.
    """
    logits, feats = predict(run, run.test)
    if not D.is_main():
        return
    labels, names, prototypes = run.corpus.test_labels, run.corpus.label_names, None
    figure = figures.confusion_matrix(labels, logits.argmax(axis=1), names)
    figures.save_figure(figure, run.folder / "confusion_matrix.png")
    if run.args.method == "sharprecl":
        projected = run.model.project(torch.from_numpy(feats).to(run.device))
        feats, prototypes = (nn.functional.normalize(x, dim=1).cpu().numpy()
                             for x in (projected, run.model.prototypes()))
    figures.tsne(feats, labels, names, run.folder, prototypes)


# ---- from the command line to the result ----


def tensorboard(folder: Path, epochs_done: int):
    """A SummaryWriter where tensorboard is installed, else None."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(folder / "tensorboard", purge_step=epochs_done + 1)


def log_to(board, record: dict) -> None:
    """Every number of the epoch's record under its own tag."""
    def scalars(values: dict, tag: str):
        for name, value in values.items():
            if isinstance(value, dict):
                yield from scalars(value, f"{tag}{name}/")
            elif isinstance(value, (int, float)):
                yield tag + name, value

    for tag, value in scalars(record, "") if board else ():
        board.add_scalar(tag, value, record["epoch"])


def clear(folder: Path) -> None:
    """Removes what an earlier run left, so that nothing of it mixes with the new one."""
    (folder / "result.json").unlink(missing_ok=True)    # first: half a run must not pass for whole
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != ".lock":
            path.unlink()


def prepare(args: argparse.Namespace, folder: Path, corpus: data.Corpus, data_hash: str):
    """
    What is to be trained, as new_model() makes it, and the training texts as tokens. What may fail,
    or asks what may be spent, comes first: before --overwrite removes what is in the folder.
    """
    model = new_model(args, corpus)
    if args.overwrite and has_second_view(args.method) and AUGMENTATIONS.get(args.augment):
        AUGMENTATIONS[args.augment](["a text"], **args.augment_options)
    with D.main_first():
        if D.is_main() and args.overwrite:
            clear(folder)
    tokens = check_data(args, folder, corpus)
    if D.is_main():
        record_settings(args, folder, corpus, data_hash)
    return model, tokens


def start(args: argparse.Namespace) -> None:
    """Shows what is finished already; else checks the data, trains or goes on, and shows it."""
    corpus, folder = load_data(args), run_folder(args)
    data_hash = data.data_hash(corpus)
    with locked(folder):
        if args.check_only:
            check_data(args, folder, corpus)
            return
        if not args.overwrite:
            check_settings(args, folder, data_hash)
        is_finished = (folder / "result.json").exists() and not args.overwrite
        if is_finished and not args.plots:
            results.print_result(folder)
            print("finished already; --overwrite runs it again")
            return
        model, tokens = prepare(args, folder, corpus, data_hash)
        if args.method == "gpt35":
            fit_hosted(args, folder, corpus, model)
        elif args.method in llm.MODELS:
            fit_lora(args, folder, corpus, model)
        elif args.method == "tfidf":
            if D.is_main():
                fit_tfidf(args, folder, corpus)
        else:
            run = build(args, folder, corpus, tokens, model)
            if is_finished:
                load_weights(run)
            else:
                train(run)
            if args.plots:
                plot(run)
        if D.is_main():
            results.print_result(folder)


def one_line(error: BaseException, args: argparse.Namespace) -> tuple[str, int]:
    """What the user is told, and the exit code."""
    if isinstance(error, InputError):
        # 75: EX_TEMPFAIL of sysexits.h, try later
        return f"error: {error}", 75 if isinstance(error, Busy) else 2
    if isinstance(error, OSError):      # a folder in the way, a full disk, no permission
        return (f"error: {error.filename or args.output_dir}: {error.strerror or error}; make room "
                "or choose another --output_dir"), 2
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return (f"error: out of memory ({error!r:.80}): take a smaller --micro_batch, --max_length "
                "or --batch_size"), 2
    if isinstance(error, KeyboardInterrupt):
        return ("interrupted: the same command, without --overwrite, goes on from the last whole "
                "epoch"), 130
    return (f"error: another process of this job has ended ({error}); the same command, with any "
            "number of processes, goes on from the last whole epoch"), 1


def main(argv: list[str] | None = None) -> int:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        args = parse_args(argv, __doc__)
        with D.joined(args.device) as args.device, D.quiet_but_main():
            start(args)
    except (InputError, OSError, MemoryError, torch.OutOfMemoryError, KeyboardInterrupt,
            D.Ended) as error:
        text, code = one_line(error, args)
        print(text, file=sys.stderr)
        return code
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGINT, interrupt)
    try:
        sys.exit(main())
    except Exception:
        traceback.print_exc()
        print("error: this is a fault of main.py, not of your input; please report it with the "
              "lines above", file=sys.stderr)
        sys.exit(1)

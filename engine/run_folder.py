"""
The folder of a run: its lock, its settings, its checkpoints, the epoch that is kept, and the files
at the end.

    with RunFolder(args, corpus) as folder:
        folder.keep(fit(args, corpus, folder))      # fit yields an epoch at a time

Every function that fits a model is such a generator. It calls folder.begin() when everything that
can fail has been built, and yields (record, test_logits, val_logits) after each epoch: a dict of
what to save, with the epoch's number under "epoch", and the logits (n, C), None if not evaluated.
"""

import argparse
import contextlib
import fcntl
import io
import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import transformers

import data
from baselines import METHODS
from engine import data_report, distributed, files, metrics, results
from engine.arguments import typed, words
from engine.corpus import cache_dir, report
from engine.files import InputError, duration, json_of, read_json, sha256, write_json, write_text
from engine.loader import check_finite
from engine.saved_model import keep_model, not_ours

SLOW = 0.5  # seconds; a checkpoint that takes longer is not written after each epoch
MOST_SHARE = 0.1  # of the time for slow checkpoints: MiniLM's takes as long as a short GPU epoch

# The files of a run; nothing else in its folder is changed.
FILES = {
    *("args.json", "train_rows.txt", "data_report.json", "label_distribution.png"),
    *("metrics.jsonl", "predictions.csv", "validation.csv", "result.json"),
    *("classification_report.txt", "classification_report.json"),
    *("confusion_matrix.png", "tsne.png", "tsne.csv", "tsne_prototypes.csv", "report.html"),
    *("openai.jsonl", "training.jsonl"),
}
FOLDERS = re.compile(r"model|adapter|(checkpoint|best)-[0-9]+")

Epoch = tuple[dict, np.ndarray | None, np.ndarray | None]


class Busy(InputError):
    """Another process has locked the run's folder."""

    exit_code = 75  # of main.py: EX_TEMPFAIL of sysexits.h, try later


class RunFolder:
    """
    path    of the run
    new     a folder in it, where --overwrite makes the new run
    place   where this run writes: with --overwrite new, until the run is complete and replaces the
            old one, else path
    """

    def __init__(self, args: argparse.Namespace, corpus: data.Corpus):
        self.args, self.corpus = args, corpus
        self.path = self.place = args.folder
        self.new = self.path / "new"
        if self.new.is_symlink() or (self.new.exists() and not self.new.is_dir()):
            raise InputError(f"{self.new} is in the way of --overwrite: move it away")
        self.summary: dict = {}  # of the texts, see engine.corpus.report
        self.clock = 0.0
        self.history: list[dict] = []
        self.parts: dict[str, Any] = {}
        self.model: Any = None
        self.stack = contextlib.ExitStack()

    def __enter__(self) -> "RunFolder":
        """Locks the folder while this process lives; completes what a kill has interrupted."""
        if distributed.is_main():
            self.stack.enter_context(locked(self.path))
            for folder in (self.path, self.new):
                files.remove_parts(folder, unchanged_for=0)
            files.remove_parts(cache_dir(self.args))
            if self.args.overwrite or not self.is_finished:
                check_own(self.path, self.new)
            self.swap()
            if self.is_finished:
                tidy(self.path)
        distributed.barrier()
        only_new = (self.new / "args.json").exists() and not (self.path / "args.json").exists()
        if self.args.overwrite or (only_new and not self.is_finished):
            self.place = self.new
        if not self.args.overwrite:
            self.check_settings()
        return self

    def __exit__(self, kind, error, _) -> None:
        if isinstance(error, (KeyboardInterrupt, BrokenPipeError)):
            error.add_note("the same command goes on from the last checkpoint")
        self.stack.close()

    def check(self) -> None:
        """Prints the report on the texts before training, and keeps it for the folder."""
        self.summary = report(self.args, self.corpus)
        if self.args.check_only and distributed.is_main():
            self.place = self.path  # a check replaces no run
            self.leave_report()

    @cached_property
    def data_hash(self) -> str:
        return data_report.data_hash(self.corpus)

    @property
    def is_finished(self) -> bool:
        return (self.path / "result.json").exists()

    @property
    def starts_anew(self) -> bool:
        """Whether to discard new/: a run with the same settings and data is resumed instead."""
        return bool(self.args.overwrite and self.difference())

    # ---- before the first epoch ----

    def difference(self) -> str:
        """What differs between this run and the one that began in this place; "" if nothing."""
        path = self.place / "args.json"
        if not path.exists():
            return ""
        before, now = read_json(path), self.args.settings
        then = before.get("settings", {})
        lacks = object()  # stands for a setting that another version does not have
        differing = [name for name in then | now if then.get(name, lacks) != now.get(name, lacks)]
        if differing:
            return f"settings ({', '.join(differing)})"
        return "data" if before.get("data_hash") != self.data_hash else ""

    def check_settings(self) -> None:
        """InputError if the folder has a run with other settings or other data."""
        what = self.difference()
        if what:
            raise InputError(
                f"{self.place / 'args.json'}: a run with other {what} began here; "
                "--overwrite starts anew, another --output_dir keeps both"
            )

    def begin(self, model: Any = None, epochs: int = 1, **parts: Any) -> int:
        """
        A fit calls this when everything that can fail has been built. Restores the newest complete
        epoch, if there is one, and returns the number of epochs that are done.

        model    to save at the end, see saved_model.keep_model; None saves nothing
        epochs   of the whole fit, to estimate the time
        parts    of a checkpoint, each with state_dict() and load_state_dict(); `weights` is also
                 saved for the best epoch
        """
        self.model, self.epochs, self.parts = model, epochs, parts
        with distributed.main_first():
            if distributed.is_main():
                if self.starts_anew:
                    clear(self.place)
                self.record_settings()
                self.leave_report()
        self.history = self.restore()
        if not distributed.all_agree(len(self.history)):
            raise InputError(
                f"{self.path}: not all processes see the same files; give "
                "--output_dir a folder that all machines share"
            )
        if self.history:
            print(f"goes on after epoch {len(self.history)}", flush=True)
        self.clock = self.saved_at = time.perf_counter()
        self.saving_takes = 0.0  # seconds of a checkpoint
        return len(self.history)

    def record_settings(self) -> None:
        """Writes args.json, and train_rows.txt with the source's rows that are trained on."""
        if (self.place / "args.json").exists():
            return  # this run is resumed
        versions = {
            "code": code_version(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "platform": platform.platform(),
        }
        write_text(
            self.place / "train_rows.txt", "".join(f"{row}\n" for row in self.corpus.train_rows)
        )
        write_json(
            self.place / "args.json",
            {
                "settings": self.args.settings,
                "data_hash": self.data_hash,
                "command": ["main.py", *words(typed(self.args.argv))],
                "device": self.args.device,
                "versions": versions,
                "label_names": self.corpus.label_names,
            },
        )

    def leave_report(self) -> None:
        """Writes data_report.json, without the path of own texts, which no reader needs."""
        source = Path(self.args.dataset)
        notes = [note.replace(str(source), source.name) for note in self.summary["notes"]]
        own = {"name": source.name, "notes": notes} if source.is_absolute() else {}
        write_json(self.place / "data_report.json", self.summary | own)

    def restore(self) -> list[dict]:
        """Loads the newest checkpoint into the parts; returns the history up to it."""
        found = [entry for entry in own(self.place) if entry.name.startswith("checkpoint-")]
        if not found:
            return []
        newest = max(found, key=lambda entry: int(entry.name.removeprefix("checkpoint-")))
        return load_whole(newest, self.parts)["history"]

    # ---- after each epoch ----

    def keep(self, epochs: Iterator[Epoch]) -> None:
        """Saves each epoch, until the last one or until --patience is over; then the result."""
        for record, logits, val_logits in epochs:
            self.note(record, logits, val_logits)
            if self.is_patience_over():
                print(
                    f"{self.args.patience} evaluations brought nothing better on the validation "
                    "texts: training stops",
                    flush=True,
                )
                break
        if distributed.is_main():
            self.finish()

    def note(self, record: dict, logits: np.ndarray | None, val_logits: np.ndarray | None) -> None:
        """Keeps an epoch's metrics, its weights if it is the best so far, and a checkpoint."""
        self.check_finite(record["epoch"], logits, val_logits)
        record |= evaluation(self.corpus, record.pop("extra", {}), logits, val_logits)
        record["seconds"] = round(time.perf_counter() - self.clock, 2)
        self.history.append(record)
        lines = "".join(json_of(line, "metrics.jsonl") + "\n" for line in self.history)
        if distributed.is_main():
            left = (self.epochs - record["epoch"]) * record["seconds"]
            estimate = f"  about {duration(left)} left" if left > 0 else ""
            print(results.epoch_line(record) + estimate, flush=True)
            if self.kept() is record:
                self.logits = logits, val_logits
                self.save_best(record["epoch"], logits, val_logits)
            write_text(self.place / "metrics.jsonl", lines)
            self.save_checkpoint(record["epoch"])
        self.clock = time.perf_counter()

    def check_finite(
        self, epoch: int, logits: np.ndarray | None, val_logits: np.ndarray | None
    ) -> None:
        """InputError, before anything is written, if a weight or a logit is not finite."""
        weights = self.parts["weights"].state_dict() if "weights" in self.parts else {}
        best = {  # a class that is excluded has -inf
            f"the logits of the {part} texts": scores.max(axis=1)
            for part, scores in (("test", logits), ("validation", val_logits))
            if scores is not None
        }
        check_finite(best | weights, f"in epoch {epoch}")

    def kept(self) -> dict:
        """The epoch whose model is kept: the best one, or without validation texts the last one."""
        best, last = (results.epoch_under(self.history, name) for name in ("best_val", "last"))
        return best or last

    def is_patience_over(self) -> bool:
        waited = [record for record in self.history if "val" in record]
        if self.args.patience is None or not waited:
            return False
        best = max(waited, key=lambda record: record["val"]["macro_f1"])["epoch"]  # the first
        return sum(record["epoch"] > best for record in waited) >= self.args.patience

    def save_best(
        self, epoch: int, logits: np.ndarray | None, val_logits: np.ndarray | None
    ) -> None:
        """
        Saves the model of the best epoch so far, beside the checkpoint of the last epoch; even with
        --no_weights, because the command that resumes the run may ask for the weights.
        """
        if val_logits is not None and "weights" in self.parts:
            scores = {"logits": logits, "val_logits": val_logits}
            save_whole(
                self.place / f"best-{epoch}",
                {"weights": self.parts["weights"]},
                {name: torch.from_numpy(x) for name, x in scores.items() if x is not None},
            )

    def save_checkpoint(self, epoch: int) -> None:
        """Saves all that the next epoch needs, if there is one; then removes older checkpoints."""
        if not self.parts or epoch == self.epochs or self.is_patience_over():
            return
        start = time.perf_counter()
        if self.saving_takes > SLOW and start - self.saved_at < self.saving_takes / MOST_SHARE:
            return  # a stop would lose less time than writing takes
        save_whole(self.place / f"checkpoint-{epoch}", self.parts, {"history": self.history})
        self.saved_at = time.perf_counter()
        self.saving_takes = self.saved_at - start
        tidy(self.place, but=(f"checkpoint-{epoch}", f"best-{self.kept()['epoch']}"))

    # ---- the end ----

    def finish(self) -> None:
        """Writes reports and model of the kept epoch, and last result.json, which marks the end."""
        kept = self.kept()
        if self.parts and kept is not self.history[-1]:
            best = self.place / f"best-{kept['epoch']}"
            values = load_whole(best, {"weights": self.parts["weights"]})
            val_logits = values["val_logits"].numpy()
            logits = values["logits"].numpy() if "logits" in values else None
        else:
            logits, val_logits = self.logits
        if self.model is not None and not self.args.no_weights:
            val_logits = keep_model(
                self.args, self.corpus, self.model, self.place, kept, val_logits
            )
        else:
            files.remove(self.place / "model")  # of a killed process that kept the weights
            files.remove(self.place / "adapter")
        results.write_reports(self.place, self.corpus, kept["epoch"], logits, val_logits)
        write_json(self.place / "result.json", self.result(kept))
        tidy(self.place)
        self.swap()

    def result(self, kept: dict) -> dict:
        """Metrics under each protocol, the settings, and which epoch is kept."""
        chosen = {name: results.epoch_under(self.history, name) for name in results.PROTOCOLS}
        by_protocol = {
            name: {"epoch": record["epoch"], **record.get("test", {})}
            for name, record in chosen.items()
            if record
        }
        return by_protocol | {
            "kept_epoch": kept["epoch"],
            "seconds": round(sum(record["seconds"] for record in self.history), 1),
            "memory_gib": round(results.peak_memory(self.args.device), 2),
            "settings": self.args.settings,
            "changed": self.args.changed,
            "data_hash": self.data_hash,
        }

    def swap(self) -> None:
        """
        Replaces the run in path by a complete run in new/. A swap that was killed is completed:
        while new/ has its args.json, the old run is removed; after that, the files in new/ are
        moved. result.json is moved last, because it marks a complete run.
        """
        if not (self.new / "result.json").exists():
            return
        tidy(self.new)
        if (self.new / "args.json").exists():
            clear(self.path)
            os.replace(self.new / "args.json", self.path / "args.json")
        for entry in reversed(own(self.new)):
            os.replace(entry, self.path / entry.name)
        with contextlib.suppress(OSError):  # files that are not ours stay there
            self.new.rmdir()
        self.place = self.path

    def end(self, was_finished: bool) -> None:
        """Prints the result, after the figures are drawn."""
        if distributed.is_main():
            results.print_result(self.path)
            if was_finished:
                print("finished already; --overwrite runs it again")


# ---- helpers ----


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Makes the folder, and locks it for as long as this process lives."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Busy(
                f"{folder}: another process is running this; wait for it, or give "
                "--output_dir another folder"
            ) from error
        except OSError as error:
            raise InputError(
                f"{folder}: its file system has no locks ({error.strerror}); give "
                "--output_dir a folder on another one"
            ) from error
        yield
    finally:
        os.close(lock)


def own(folder: Path) -> list[Path]:
    """
    The files of a run in a folder: first result.json, which marks a complete run, and last
    args.json, which identifies the run.
    """
    names = os.listdir(folder) if folder.exists() else []
    names = [name for name in names if name in FILES or FOLDERS.fullmatch(name)]
    return [
        folder / name
        for name in sorted(names, key=lambda name: (name != "result.json", name == "args.json"))
    ]


def last_plot(method: str) -> str:
    """The last file that --plots writes: if it exists, the plots of the run are complete."""
    return "tsne.csv" if METHODS[method].has_encoder else "confusion_matrix.png"


def check_own(*folders: Path) -> None:
    """InputError for a user's file in a model's folder, because it would be removed with it."""
    for model in (folder / name for folder in folders for name in ("model", "adapter")):
        for other in not_ours(model):
            raise InputError(f"{other} is no file of a run, which would remove it: move it away")


def clear(folder: Path) -> None:
    """Removes the files of an earlier run, so that they do not mix with the new ones."""
    for entry in own(folder):
        files.remove(entry)


def tidy(folder: Path, but: tuple[str, ...] = ()) -> None:
    """Removes checkpoints except these: a finished run needs none, another one the newest."""
    for entry in own(folder):
        if "-" in entry.name and entry.name not in but:
            files.remove(entry)


def evaluation(
    corpus: data.Corpus, extra: dict, logits: np.ndarray | None, val_logits: np.ndarray | None
) -> dict:
    """The metrics of an epoch, under "test" and "val"; `extra` is added to "test"."""
    counts = data.class_counts(corpus.train_labels, len(corpus.label_names))

    def of(part: str, labels: np.ndarray, logits: np.ndarray) -> dict:
        predicted, is_leaked = logits.argmax(axis=1), data_report.leaks(corpus)[f"{part}_in_train"]
        numbers = metrics.metrics(labels, predicted, counts)
        numbers["auroc"] = metrics.auroc(labels, logits)
        if is_leaked.any():
            numbers["without_leaked"] = metrics.without_leaked(labels, predicted, counts, is_leaked)
        return numbers

    record = {}
    if logits is not None:
        record["test"] = of("test", corpus.test_labels, logits) | extra
    if val_logits is not None:
        record["val"] = of("val", corpus.val_labels, val_logits)
    return record


def save_whole(folder: Path, parts: dict[str, Any], values: dict) -> None:
    """Saves the states of the parts, and the values, in a folder that is complete or absent."""
    trainer = io.BytesIO()
    others = {name: part.state_dict() for name, part in parts.items() if name != "weights"}
    torch.save(others | values, trainer)
    contents = {
        "trainer.pt": trainer.getvalue(),
        "model.safetensors": safetensors.torch.save(parts["weights"].state_dict()),
    }
    with files.saving_folder(folder) as part:
        for name, content in contents.items():
            files.save(part / name, content)
        write_json(part / "sha256.json", {name: sha256(part / name) for name in contents})


def load_whole(folder: Path, parts: dict[str, Any]) -> dict:
    """Loads what save_whole() wrote into the parts; returns the content of trainer.pt."""
    try:
        trainer, model = folder / "trainer.pt", folder / "model.safetensors"
        written = json.loads((folder / "sha256.json").read_text())
        if {path.name: sha256(path) for path in (trainer, model)} != written:
            raise ValueError("its files are not those that were written")
        values = torch.load(trainer, map_location="cpu", weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(
                safetensors.torch.load_file(model) if name == "weights" else values[name]
            )
        return values
    except Exception as error:  # torch, pickle and safetensors raise many kinds on damaged files
        raise InputError(
            f"{folder} is damaged, or of another version ({type(error).__name__}): "
            "delete this folder and every checkpoint-N and best-N beside it, and the same "
            "command begins anew"
        ) from error


def code_version() -> str:
    """git's name for this state of the code, or "unknown" outside a clone."""
    command, here = "git describe --always --dirty", Path(__file__).parent
    said = subprocess.run(command, shell=True, text=True, capture_output=True, cwd=here).stdout
    return said.strip() or "unknown"

"""
Helpers for all modules: errors of a command line in one line, escaped control characters on the
terminal, files that are written completely or not at all, and loading of pretrained models without
a long wait for an unreachable hub.
"""

import argparse
import contextlib
import errno
import functools
import hashlib
import io
import json
import os
import pickle
import re
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

from data import InputError as InputError
from data import printable


def diverged(part: str, when: str) -> InputError:
    """The error for training with numbers that are not finite: which ones, and when."""
    return InputError(
        f"training diverged {when} ({part}): lower --lr or --head_lr; --amp fp16 can do this as "
        "well, and --tau or --mu far from its default"
    )


class Parser(argparse.ArgumentParser):
    """
    An ArgumentParser with errors of one line, without the usage of all flags. A flag that is given
    twice or cut short is an error.
    """

    def __init__(self, **options):
        raw = argparse.RawDescriptionHelpFormatter
        super().__init__(**{"formatter_class": raw, "allow_abbrev": False} | options)
        self.with_value: set[str] = set()

    def parse_known_args(self, args=None, namespace=None):
        self.with_value.clear()  # a parser may be used again
        return super().parse_known_args(args, namespace)

    def _get_values(self, action, arg_strings):  # argparse calls it for each flag that it meets
        if action.option_strings and action.nargs != 0:
            if action.dest in self.with_value:
                self.error(f"{action.option_strings[0]} is given twice: leave one of them out")
            self.with_value.add(action.dest)
        return super()._get_values(action, arg_strings)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {printable(message)}; --help lists the flags\n")


class Terminal:
    """A stream that escapes the control characters in what is printed to it."""

    def __init__(self, stream):
        self.stream = stream

    def __getattr__(self, name: str):
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        rest = re.sub(r"^(\r|(\x1b\[A)*)", "", text)  # tqdm moves to the line's start or a line up
        return self.stream.write(text.removesuffix(rest) + printable(rest, but="\n\t"))


@contextlib.contextmanager
def plain_output() -> Iterator[None]:
    """
    Inside, nothing that is printed moves the cursor, changes colours or hides a line: labels, texts
    and file names may contain anything.
    """
    out, errors = (stream and Terminal(stream) for stream in (sys.stdout, sys.stderr))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        yield


def one_line_errors(work: Callable[..., int | None]) -> Callable[..., int]:
    """
    Decorates the main() of a command: errors that the user can fix, and Ctrl-C, become one line and
    an exit code. Its first argument is the command line as a list, or None for sys.argv.
    """

    @functools.wraps(work)
    def main(argv: list[str] | None = None, *more, **options) -> int:
        with plain_output():
            try:
                return work(argv, *more, **options) or 0
            except (KeyboardInterrupt, BrokenPipeError) as error:  # the second one by `| head`, say
                print(": ".join(["interrupted", *getattr(error, "__notes__", [])]), file=sys.stderr)
                return getattr(error, "exit_code", 130)  # of signals.Interrupted, else of Ctrl-C
            except Exception as error:
                if not (line := in_one_line(error)):
                    raise
                print(f"error: {line}", file=sys.stderr)
                return getattr(error, "exit_code", 2)

    return main


def in_one_line(error: Exception) -> str:
    """The line for an error that the user can fix; "" for any other error."""
    if isinstance(error, InputError):
        return str(error)
    if lacks_memory(error):
        return (
            f"out of memory ({error!r:.80}): take a smaller --batch_size, --micro_batch or "
            "--max_length, or more memory"
        )
    if system := system_error(error):  # no permission, a full disk, a file that ends too early
        return (
            f"{system.filename or 'stdin or stdout'}: {system.strerror or system}; make room, make "
            "sure that you may read and write there, or name another --output or --output_dir"
        )
    return ""


# Messages of torch for lack of memory, in lower case: of its allocators, oneDNN, and GPU libraries.
NO_MEMORY = re.compile(
    r"can't allocate memory|not enough memory|out of memory|alloc_failed|bad_alloc"
    r"|could not (create|execute) a primitive(?! desc)|could not create a memory(?! desc)"
)


def lacks_memory(error: BaseException) -> bool:
    """Whether the error means that no memory is left; torch raises a RuntimeError."""
    system = system_error(error)
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"  # of a GPU; without importing torch
        or (system is not None and system.errno == errno.ENOMEM)
        or (isinstance(error, RuntimeError) and bool(NO_MEMORY.search(str(error).lower())))
    )


def system_error(error: BaseException) -> OSError | None:
    """
    The operating system's error, if it is the cause. Rust libraries such as safetensors and
    tokenizers raise their own errors, which end in "(os error 28)", say.
    """
    if isinstance(error, (OSError, InputError)):
        return error if isinstance(error, OSError) else None
    found = re.search(r"\(os error (\d+)\)", str(error))
    return OSError(int(found[1]), os.strerror(int(found[1]))) if found else None


def _part_name(path: Path) -> Path:
    """A random name, since process numbers can collide across machines."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")


@contextlib.contextmanager
def _part_of(path: Path, make: Callable[[Path], None]) -> Iterator[Path]:
    """Makes a temporary file or folder beside the path, which the caller fills and renames."""
    part = _part_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_parts(path.parent)
        make(part)
        yield part
    except Exception as error:
        system = system_error(error)
        if system is None or lacks_memory(error):
            raise
        raise InputError(
            f"{path}: cannot be written ({system.strerror or system}); make room there, or name "
            "another place with --output, --data_dir or --output_dir"
        ) from error
    finally:
        _delete(part)  # it still exists only if it was not renamed


@contextlib.contextmanager
def saving(path: Path) -> Iterator[io.BufferedWriter]:
    """
    Opens a file to write. It gets its name when the block ends, so it is complete or absent. If it
    replaces a file, it keeps that file's permissions; else they follow the umask.
    """
    with _part_of(path, Path.touch) as part:
        with open(part, "wb") as file:
            with contextlib.suppress(FileNotFoundError):
                shutil.copymode(path, part)  # before there is anything to read
            yield file
            file.flush()
            os.fsync(file.fileno())  # else a power cut could leave an empty file under the new name
        os.replace(part, path)


@contextlib.contextmanager
def saving_folder(path: Path) -> Iterator[Path]:
    """Makes a folder to fill. It gets its name when the block ends: it is complete or absent."""
    with _part_of(path, Path.mkdir) as part:
        yield part
        rights = part.stat().st_mode & 0o666  # only the owner could read safetensors' files
        for file in filter(Path.is_file, part.rglob("*")):
            file.chmod(rights)
        remove(path)
        os.replace(part, path)


def remove(path: Path) -> None:
    """
    Removes a file, a folder or a link, but not the link's target. A folder is renamed first, so a
    kill leaves only a temporary folder.
    """
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    part = _part_name(path)
    os.replace(path, part)
    shutil.rmtree(part)


def _delete(part: Path) -> None:
    """Removes a temporary file or folder, if it exists and can be removed."""
    shutil.rmtree(part, ignore_errors=True)
    with contextlib.suppress(OSError):
        part.unlink()


def remove_parts(folder: Path, unchanged_for: float = 86_400) -> None:
    """
    Removes temporary files of killed processes from a folder, if they have not changed for so many
    seconds, by default a day: newer ones may belong to a running process.
    """
    for part in folder.glob(".*." + "[0-9a-f]" * 8 + ".part"):
        with contextlib.suppress(OSError):  # another process was faster
            if time.time() - part.lstat().st_mtime >= unchanged_for:
                _delete(part)


def save(path: Path, content: bytes) -> None:
    """Writes a file completely or not at all."""
    with saving(path) as file:
        file.write(content)


def sha256(path: Path) -> str:
    """The digest of a file's content, 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    save(path, text.encode())


def write_json(path: Path, value) -> None:
    write_text(path, json_of(value, path.name, indent=1) + "\n")


def json_of(value, name: str, **options) -> str:
    """The value as JSON. InputError if it has NaN or infinity, which JSON cannot hold."""
    try:
        return json.dumps(value, allow_nan=False, **options)
    except ValueError as error:
        raise diverged(f"not finite: a number of {name}", "before this was written") from error


def read_json(path: Path) -> dict:
    """Reads a JSON object of a run. InputError if it is anything else, or cannot be read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError("not an object")
        return value
    except PermissionError as error:  # the file may be whole
        raise InputError(
            f"{path} cannot be read ({error.strerror}); make sure that you may read it"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is missing or damaged ({type(error).__name__}): run its command again with "
            "--overwrite, or move its folder away"
        ) from error


def duration(seconds: float) -> str:
    """Formats a time for people: 40 s, 12 min, 3 h 20 min."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


# ---- pretrained models ----


def ask_hub(name: str) -> None:
    """Asks the Hugging Face hub once for a model; raises the errors of its client."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    # a download would ask an unreachable hub six times, for 23 s, with a warning each
    get_hf_file_metadata(hf_hub_url(name, "config.json"), timeout=10)


def reason_of(error: Exception) -> str:
    """Why a model could not be loaded, in one line, without advice to run its code."""
    text = str(error).strip() or type(error).__name__
    if "trust_remote_code" in text:
        return "it needs code of its own, an auto_map, and a model's code is never run here"
    if isinstance(error, pickle.UnpicklingError):
        return (
            "its weights are a pickle with more than tensors in it, which could run code and is "
            "not loaded; ask for them as model.safetensors"
        )
    if "ignore_mismatched_sizes" in text:
        return "its weights do not have the sizes that its config.json says"
    if lacks_memory(error):
        return "it needs more memory than there is"
    lines = text.splitlines()
    return lines[-1] if lines[0].startswith("Error(s) in loading") else lines[0]  # of torch


def load_pretrained(load, source: str, kind: str, hint: str, **options):
    """
    Calls load(source, **options), a from_pretrained method of transformers, on a local folder, the
    hub's cache or the Hugging Face hub, whichever has the model first.

    source  a folder, or a name at the hub
    kind    the word for the model in errors, such as "encoder"
    hint    the remedy in the error if the model is not available
    raises  InputError if the model is not available or, with output_loading_info, lacks weights,
            which would be random
    """
    from huggingface_hub import snapshot_download

    # else transformers asks on stdin, and reads a line of the data as the answer
    options["trust_remote_code"] = False
    is_folder = Path(source).is_dir()
    try:
        try:
            folder = source if is_folder else snapshot_download(source, local_files_only=True)
            loaded = load(folder, local_files_only=True, **options)
        except (OSError, ValueError) as error:  # the cache lacks some or all files
            if is_folder or "trust_remote_code" in str(error):
                raise
            ask_hub(source)
            loaded = load(source, **options)
    except Exception as error:  # of httpx, requests or safetensors, depending on their version
        found = (
            "is not a complete model folder"
            if is_folder
            else "is neither a folder, nor in the cache, nor available on the Hugging Face hub"
        )
        raise InputError(f"{kind} {source} {found} ({reason_of(error)}). {hint}") from error
    if "output_loading_info" not in options:
        return loaded
    model, info = loaded
    missing = sorted(key for key in info["missing_keys"] if not key.startswith("pooler."))
    if missing or info["mismatched_keys"]:
        raise InputError(
            f"{kind} {source}: its weights do not fit its config.json (missing: {len(missing)}, "
            f"first {missing[:1]}); save it anew with save_pretrained"
        )
    return model

"""
What every room needs: a command line that errs in one line, a terminal that shows the data's
control characters and does not obey them, files that appear whole or not at all, and pretrained
models without waiting for a hub that cannot be reached.
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
from engine import signals


def diverged(part: str, when: str) -> InputError:
    """Of a training whose numbers are no longer finite: which of them, and when it was seen."""
    return InputError(
        f"training diverged {when} ({part}): lower --lr or --head_lr; --amp fp16 can do this as "
        "well, and --tau or --mu far from its default"
    )


class Parser(argparse.ArgumentParser):
    """
    An ArgumentParser whose errors are one line, without the usage of every flag before it, and for
    which a flag that is given twice is an error.
    """

    def parse_known_args(self, args=None, namespace=None):
        self.with_value: set[str] = set()
        return super().parse_known_args(args, namespace)

    def parse_known_intermixed_args(self, args=None, namespace=None):
        self.with_value = set()  # newer versions of Python do not come by the one above
        return super().parse_known_intermixed_args(args, namespace)

    def _get_values(self, action, arg_strings):  # argparse calls it for each flag that it meets
        if action.option_strings and action.nargs != 0:
            if action.dest in self.with_value:
                self.error(f"{action.option_strings[0]} is given twice: leave one of them out")
            self.with_value.add(action.dest)
        return super()._get_values(action, arg_strings)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {printable(message)}; --help lists the flags\n")


class Terminal:
    """A stream as it is, but for the control characters in what is printed to it."""

    def __init__(self, stream):
        self.stream = stream

    def __getattr__(self, name: str):
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        rest = re.sub(r"^(\r|(\x1b\[A)*)", "", text)  # tqdm goes to the line's start, or a line up
        return self.stream.write(text.removesuffix(rest) + printable(rest, but="\n\t"))


@contextlib.contextmanager
def plain_output() -> Iterator[None]:
    """
    Labels, texts and file names may hold whatever a stranger put there: nothing that is printed
    here, by whomever, moves the cursor, changes colours or hides a line.
    """
    out, errors = (stream and Terminal(stream) for stream in (sys.stdout, sys.stderr))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
        yield


def one_line_errors(work: Callable[..., int | None]) -> Callable[..., int]:
    """
    The main() of a command: what its user can mend, and Ctrl-C, are one line and an exit code. Its
    first argument are the words of the command line, or None for those of the process.
    """

    @functools.wraps(work)
    def main(argv: list[str] | None = None, *more, **options) -> int:
        with plain_output():
            try:
                return work(argv, *more, **options) or 0
            except (KeyboardInterrupt, BrokenPipeError) as error:  # the latter of | head, say
                print("interrupted", file=sys.stderr)
                return signals.exit_code(error)
            except Exception as error:
                if not (line := in_one_line(error)):
                    raise
                print(f"error: {line}", file=sys.stderr)
                return getattr(error, "exit_code", 2)

    return main


def in_one_line(error: Exception) -> str:
    """What to say of an error that the user can mend; "" of any other."""
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


# What torch says for lack of memory, in lower case: its allocators, oneDNN, and a GPU's libraries.
NO_MEMORY = re.compile(
    r"can't allocate memory|not enough memory|out of memory|alloc_failed|bad_alloc"
    r"|could not (create|execute) a primitive(?! desc)|could not create a memory(?! desc)"
)


def lacks_memory(error: BaseException) -> bool:
    """Whether it says that no memory is left; torch does so by a RuntimeError."""
    system = system_error(error)
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"  # of a GPU; without importing torch
        or (system is not None and system.errno == errno.ENOMEM)
        or (isinstance(error, RuntimeError) and bool(NO_MEMORY.search(str(error).lower())))
    )


def system_error(error: BaseException) -> OSError | None:
    """
    What the operating system said, where it is the cause: Rust's libraries, as safetensors and
    tokenizers are, put it into errors of their own that end in "(os error 28)".
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
    """A new file or folder beside the path, to be filled and to get its name."""
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
        _delete(part)  # it has its name now, or was not wanted


@contextlib.contextmanager
def saving(path: Path) -> Iterator[io.BufferedWriter]:
    """
    A file to write, which appears under its name when the block ends, whole or not at all. Who
    could read a file that it replaces can read it; else the umask says who.
    """
    with _part_of(path, Path.touch) as part:
        with open(part, "wb") as file:
            with contextlib.suppress(FileNotFoundError):
                shutil.copymode(path, part)  # before there is anything to read
            yield file
            file.flush()
            os.fsync(file.fileno())  # else a power cut could leave the new name with no content
        os.replace(part, path)


@contextlib.contextmanager
def saving_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which has this path when the block ends, whole or not at all."""
    with _part_of(path, Path.mkdir) as part:
        yield part
        rights = part.stat().st_mode & 0o666  # safetensors' files are for their owner alone
        for file in filter(Path.is_file, part.rglob("*")):
            file.chmod(rights)
        remove(path)
        os.replace(part, path)


def remove(path: Path) -> None:
    """
    Removes a file, a folder or a link, but not what the link points to. A folder is gone at once:
    what a kill leaves of it has the name of a part.
    """
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    part = _part_name(path)
    os.replace(path, part)
    shutil.rmtree(part)


def _delete(part: Path) -> None:
    """Removes a part where it is there and can be removed."""
    shutil.rmtree(part, ignore_errors=True)
    with contextlib.suppress(OSError):
        part.unlink()


def remove_parts(folder: Path, unchanged_for: float = 86_400) -> None:
    """
    Removes what writes that were killed left in a folder: what has not changed for so many
    seconds, by default a day, for younger ones may be of a process that lives.
    """
    for part in folder.glob(".*." + "[0-9a-f]" * 8 + ".part"):
        with contextlib.suppress(OSError):  # another process was faster
            if time.time() - part.lstat().st_mtime >= unchanged_for:
                _delete(part)


def save(path: Path, content: bytes) -> None:
    """Writes a file so that it appears under its name whole or not at all."""
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
    """JSON, which knows neither NaN nor infinity: InputError where they are in what name holds."""
    try:
        return json.dumps(value, allow_nan=False, **options)
    except ValueError as error:
        raise diverged(f"not finite: a number of {name}", "before this was written") from error


def read_json(path: Path) -> dict:
    """A JSON object of a run. InputError where it is anything else, or cannot be read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError("not an object")
        return value
    except PermissionError as error:  # the file may be whole
        raise InputError(
            f"{path} cannot be read ({error.strerror}); see to it that you may read it"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is missing or damaged ({type(error).__name__}): run its command again with "
            "--overwrite, or move its folder away"
        ) from error


def duration(seconds: float) -> str:
    """A time as a reader says it: 40 s, 12 min, 3 h 20 min."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


# ---- pretrained models ----


def ask_hub(name: str) -> None:
    """Asks the Hugging Face hub once for a model; raises whatever its client raises."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    # a download would ask an unreachable hub six times, for 23 s, with a warning each
    get_hf_file_metadata(hf_hub_url(name, "config.json"), timeout=10)


def reason_of(error: Exception) -> str:
    """Why a model could not be loaded, in one line; never with advice to run a stranger's code."""
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
    Calls load(source, **options), a from_pretrained of transformers, on a local folder, on the
    hub's cache or on the Hugging Face hub, whichever has the model first.

    source  a folder, or a name at the hub
    kind    what is looked for, as the error calls it: "encoder"
    hint    what the user can do where it is not available, as the error says it
    raises  InputError where the model is not available or, with output_loading_info, lacks weights:
            those would be random
    """
    from huggingface_hub import snapshot_download

    # else transformers asks on stdin, and takes a line of the data for the answer
    options["trust_remote_code"] = False
    is_folder = Path(source).is_dir()
    try:
        try:
            folder = source if is_folder else snapshot_download(source, local_files_only=True)
            loaded = load(folder, local_files_only=True, **options)
        except (OSError, ValueError) as error:  # the cache has nothing of it, or not all
            if is_folder or "trust_remote_code" in str(error):
                raise
            ask_hub(source)
            loaded = load(source, **options)
    except Exception as error:  # of httpx, requests or safetensors, by version and by fault
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

"""
What every room needs: the error that the user reads as one line, a command line that errs in one
line too, files that appear whole or not at all, and pretrained models without waiting for a hub
that cannot be reached.
"""

import argparse
import contextlib
import errno
import hashlib
import io
import json
import math
import os
import pickle
import re
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn


class InputError(Exception):
    """Something the user gave or lacks; main.py prints it as one line and exits with 2."""


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line, without the usage of every flag before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; --help lists the flags\n")


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


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """InputError where the block cannot write what is to have this path, as on a full disk."""
    try:
        yield
    except Exception as error:
        system = system_error(error)
        if system is None or lacks_memory(error):
            raise
        raise InputError(
            f"{path}: cannot be written ({system.strerror or system}); make room there, or name "
            "another place with --output, --data_dir or --output_dir"
        ) from error


@contextlib.contextmanager
def saving(path: Path) -> Iterator[io.BufferedWriter]:
    """A file to write, which appears under its name when the block ends, whole or not at all."""
    # its own name: processes of two machines may have one number, and write into one folder
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())  # else a power cut could leave the new name with no content
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):  # it has its name now, or was not wanted
            temporary.unlink()


def remove_parts(folder: Path, seconds: float = -math.inf) -> None:
    """
    Removes what writes that were killed left in a folder, where it has not changed for so long. In
    a folder that others write into, too, that must be longer than any pause of a living write.
    """
    for part in folder.glob(".*.part"):
        with contextlib.suppress(OSError):  # another process was faster, or it is another user's
            if time.time() - part.stat().st_mtime >= seconds:
                part.unlink()


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
    write_text(path, json.dumps(value, indent=1) + "\n")


def read_json(path: Path) -> dict:
    """A JSON object of a run. InputError where it is anything else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError("not an object")
        return value
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is damaged ({type(error).__name__}): run its command again with "
            "--overwrite, or move its folder away"
        ) from error


def duration(seconds: float) -> str:
    """A time as a reader says it: 40 s, 12 min, 3 h 20 min."""
    minutes = round(seconds / 60)
    return (
        f"{seconds:.0f} s"
        if seconds < 100
        else f"{minutes} min"
        if minutes < 100
        else f"{minutes // 60} h {minutes % 60} min"
    )


# ---- pretrained models ----


def ask_hub(name: str) -> None:
    """Asks the Hugging Face hub once for a model; raises whatever its client raises."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    # a download would ask an unreachable hub six times, for 23 s, with a warning each
    get_hf_file_metadata(hf_hub_url(name, "config.json"), timeout=10)


MOST = {"layer": 1_000, "label": 1_000_000}  # that a config.json may ask for: far above any model's


def check_config(folder: Path) -> None:
    """ValueError where config.json asks for more than MOST: transformers builds them one by one."""
    with contextlib.suppress(FileNotFoundError):
        for name, size in json.loads((folder / "config.json").read_text("utf-8")).items():
            for part, most in MOST.items():
                if part in name and isinstance(size, int) and size > most:
                    raise ValueError(f"{name} in config.json is {size}, above {most:,}")


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
    raises  InputError where the model is not available
    """
    from huggingface_hub import snapshot_download

    def load_folder(folder: str):
        check_config(Path(folder))
        return load(folder, local_files_only=True, **options)

    # else transformers asks on stdin, and takes a line of the data for the answer
    options["trust_remote_code"] = False
    is_folder = Path(source).is_dir()
    try:
        if is_folder:
            return load_folder(source)
        try:
            return load_folder(snapshot_download(source, local_files_only=True))
        except (OSError, ValueError) as error:  # the cache has nothing of it, or not all
            if "trust_remote_code" in str(error):
                raise
            ask_hub(source)
            return load(source, **options)
    except Exception as error:  # of httpx, requests or safetensors, by version and by fault
        found = (
            "is not a complete model folder"
            if is_folder
            else "is neither a folder, nor in the cache, nor available on the Hugging Face hub"
        )
        raise InputError(f"{kind} {source} {found} ({reason_of(error)}). {hint}") from error

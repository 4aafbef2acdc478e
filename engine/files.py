"""
What every room needs: the error that the user reads as one line, a command line that errs in one
line too, files that appear whole or not at all, and pretrained models without waiting for a hub
that cannot be reached.
"""

import argparse
import contextlib
import hashlib
import io
import json
import math
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn


class InputError(Exception):
    """Something the user gave or lacks; main.py prints it as one line and exits with 2."""


def diverged(part: str, when: str) -> InputError:
    """Of a training whose numbers are no longer finite: which of them, and when it was seen."""
    return InputError(
        f"training diverged {when} ({part}): lower --lr or --head_lr; --amp fp16 can do this as "
        "well, and --tau or --mu far from its default"
    )


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line, without the usage of every flag before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; --help lists the flags\n")


def lacks_memory(error: BaseException) -> bool:
    """Whether it says that no memory is left; torch does so by a RuntimeError."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and (
            type(error).__name__ == "OutOfMemoryError"  # of a GPU; without importing torch
            or "can't allocate memory" in str(error)  # of its allocator for the CPU
        )
    )


@contextlib.contextmanager
def saving(path: Path) -> Iterator[io.BufferedWriter]:
    """A file to write, which appears under its name when the block ends, whole or not at all."""
    # its own name: processes of two machines may have one number, and write into one folder
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # else a power cut could leave the new name with no content
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror}); make room there, or name "
            "another place with --output, --data_dir or --output_dir"
        ) from None
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
    write_text(path, json_of(value, path.name, indent=1) + "\n")


def json_of(value, name: str, **options) -> str:
    """JSON, which knows neither NaN nor infinity: InputError where they are in what name holds."""
    try:
        return json.dumps(value, allow_nan=False, **options)
    except ValueError as error:
        raise diverged(f"not finite: a number of {name}", "before this was written") from error


def read_json(path: Path) -> dict:
    """A JSON object of a run. InputError where it is anything else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError("not an object")
        return value
    except (OSError, ValueError) as error:
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

    try:
        if Path(source).is_dir():
            return load(source, local_files_only=True, **options)
        try:
            folder = snapshot_download(source, local_files_only=True)
            return load(folder, local_files_only=True, **options)
        except (OSError, ValueError):  # the cache has nothing of it, or not all
            ask_hub(source)
            return load(source, **options)
    except Exception as error:  # of httpx, requests or safetensors, by version and by fault
        if lacks_memory(error):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        found = (
            "is not a complete model folder"
            if Path(source).is_dir()
            else "is neither a folder, nor in the cache, nor available on the Hugging Face hub"
        )
        raise InputError(f"{kind} {source} {found} ({reason}). {hint}") from error

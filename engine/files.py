"""
What every room needs: the error that the user reads as one line, a command line that errs in one
line too, files that appear whole or not at all, and pretrained models without waiting for a hub
that cannot be reached.
"""

import argparse
import contextlib
import fcntl
import hashlib
import io
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

A_DAY = 24 * 3600.0  # seconds


class InputError(Exception):
    """Something the user gave or lacks; main.py prints it as one line and exits with 2."""


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


def _part_name(path: Path) -> Path:
    """A name of its own: by their numbers, processes of two machines could not be told apart."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")


@contextlib.contextmanager
def _part_of(path: Path, make: Callable[[Path], None]) -> Iterator[Path]:
    """
    A new file or folder beside the path, to be filled and to get its name. A lock shows the
    remove_parts() of other processes that its writer lives.
    """
    part, lock = _part_name(path), -1
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_parts(path.parent, path.name)
        while not part.exists():  # again where another process was faster than the lock
            make(part)
            lock = os.open(part, os.O_RDONLY)
            with contextlib.suppress(OSError):  # some file systems have no locks
                fcntl.flock(lock, fcntl.LOCK_SH)
        yield part
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror or error}); make room there, or name "
            "another place with --output, --data_dir or --output_dir"
        ) from None
    finally:
        _delete(part)  # it has its name now, or was not wanted
        if lock >= 0:
            os.close(lock)


def _keep_mode(path: Path, part: Path) -> None:
    """What replaces a file or folder can be read by whom that one could be read; else as umask."""
    with contextlib.suppress(FileNotFoundError):
        shutil.copymode(path, part)


@contextlib.contextmanager
def saving(path: Path) -> Iterator[io.BufferedWriter]:
    """A file to write, which appears under its name when the block ends, whole or not at all."""
    with _part_of(path, Path.touch) as part:
        with open(part, "wb") as file:
            _keep_mode(path, part)  # before there is anything to read
            yield file
            file.flush()
            os.fsync(file.fileno())  # else a power cut could leave the new name with no content
        os.replace(part, path)


@contextlib.contextmanager
def saving_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which has this path when the block ends, whole or not at all."""
    with _part_of(path, Path.mkdir) as part:
        yield part
        _keep_mode(path, part)
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
    try:
        os.replace(path, part)
        shutil.rmtree(part)
    finally:
        _delete(part)  # the rest, after Ctrl-C


def _delete(part: Path) -> None:
    """Removes a part where it is there and can be removed."""
    shutil.rmtree(part, ignore_errors=True)
    with contextlib.suppress(OSError):
        part.unlink()


def remove_parts(folder: Path, name: str = "", *, alone: bool = False) -> None:
    """
    Removes what writes that were killed left in a folder: of the file or folder of this name, or of
    all. Those of a living process stay; alone says that there is no other one.
    """
    pattern = re.compile(rf"\.{re.escape(name) or '.+'}\.[0-9a-f]{{8}}\.part", re.DOTALL)
    with contextlib.suppress(OSError):  # there is no such folder
        for entry in filter(pattern.fullmatch, os.listdir(folder)):
            if alone:
                _delete(folder / entry)
            else:
                _delete_dead(folder / entry)


def _delete_dead(part: Path) -> None:
    """Removes a part whose writer does not live, as its lock or else its age shows."""
    with contextlib.suppress(OSError):  # another process was faster, or it is another user's
        age, lock = time.time() - part.lstat().st_mtime, os.open(part, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _delete(part)
        except BlockingIOError:
            pass
        except OSError:  # a file system without locks
            if age > A_DAY:
                _delete(part)
        finally:
            os.close(lock)


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
    """A JSON object of a run. InputError where it is anything else, or cannot be read."""
    again = "run its command again with --overwrite, or move its folder away"
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError("not an object")
        return value
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing: {again}") from error
    except OSError as error:  # no permission, say: the file may be whole
        raise InputError(
            f"{path} cannot be read ({error.strerror or error}); see to it that you may read it"
        ) from error
    except ValueError as error:
        raise InputError(f"{path} is damaged ({type(error).__name__}): {again}") from error


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

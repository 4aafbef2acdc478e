"""
What every room needs: the error that the user reads as one line, and files that appear whole or not
at all.
"""
import contextlib
import hashlib
import io
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


class InputError(Exception):
    """Something the user gave or lacks; main.py prints it as one line and exits with 2."""


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
            os.fsync(file.fileno())     # else a power cut could leave the new name with no content
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); make room there, or name "
                         "another place with --output, --data_dir or --output_dir") from None
    finally:
        with contextlib.suppress(OSError):      # it has its name now, or was not wanted
            temporary.unlink()


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
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is damaged ({type(error).__name__}): run its command again with "
                         "--overwrite, or move its folder away") from error

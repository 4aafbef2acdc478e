"""
Checks Python and the packages that the scripts need. A script calls this before it imports any
other file, so this file imports only the standard library.
"""

import os
import shlex
import sys
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def missing() -> list[str]:
    """The packages of requirements.txt that this Python does not have."""
    lacking = []
    for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").split():
        try:
            metadata.version(line.split("==")[0])
        except metadata.PackageNotFoundError:
            lacking.append(line.split("==")[0])
    return lacking


def check() -> None:
    """
    Ends the process with one line and exit code 2 if Python is too old or lacks packages. Also
    limits how long a waiting OpenMP thread spins: by default it spins so long that, on a shared
    machine, the thread it waits for hardly gets a core.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # read when torch is loaded
    lacking = missing() if sys.version_info >= (3, 11) else ["Python 3.11"]
    if lacking:
        print(
            f"error: {sys.executable} lacks {', '.join(lacking)}: cd {shlex.quote(str(ROOT))} && "
            "bash setup.sh && source .venv/bin/activate",
            file=sys.stderr,
        )
        sys.exit(2)


if __name__ == "__main__":
    check()

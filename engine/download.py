"""
Downloads the files of the known datasets once, and checks them by the SHA-256 in data.py.
"""

from pathlib import Path

import pooch
import requests

from data import DATASETS, InputError, files_of
from engine.files import sha256


def fetch_missing(dataset: str, data_dir: str | Path) -> None:
    """Downloads missing files of the dataset. InputError for a file with another SHA-256."""
    for file, expected in files_of(dataset).items():
        path = Path(data_dir) / dataset / file
        if not path.is_file():
            fetch(path, f"{DATASETS[dataset].address}/{file}", expected)
            continue
        if (got := sha256(path)) != expected:
            raise InputError(
                f"{path} is truncated or altered ({path.stat().st_size} bytes, "
                f"SHA-256 {got[:12]}, expected {expected[:12]}); delete it and run again"
            )


def fetch(path: Path, address: str, expected: str) -> None:
    """Downloads one file, in three tries; it is written completely or not at all."""
    pooch.get_logger().setLevel("ERROR")
    source = pooch.create(
        path.parent,
        "",
        registry={path.name: f"sha256:{expected}"},
        urls={path.name: address},
        retry_if_failed=2,
    )
    download = pooch.HTTPDownloader(timeout=5, progressbar=True)  # seconds without a byte
    try:
        source.fetch(path.name, downloader=download)
        path.chmod(0o644)  # pooch's temporary file is not readable for others
    except (requests.RequestException, ValueError) as error:  # ValueError: another SHA-256
        cause = getattr(error.args[0], "reason", error) if error.args else error
        line = " ".join(str(cause).split())[:200]
        raise InputError(
            f"{path} is missing and three tries to fetch {address} failed ({line}); "
            "put the file there by hand or name another folder with --data_dir"
        ) from None
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({error.strerror}); make room there, or name "
            "another folder with --data_dir"
        ) from None

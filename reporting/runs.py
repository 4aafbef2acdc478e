"""
The ledger of finished runs: one line of JSON a run, and pandas frames of them.

    python -m reporting.runs runs/benchmark tables/benchmark.jsonl      # keeps what is finished
    runs, epochs = frames("tables/benchmark.jsonl")     # a row a run; a row an evaluated epoch

A line holds no text and no weights: the settings, the hash of the data, the machine, the seconds,
and of each evaluated epoch the metrics on test and development texts.
"""

import argparse
import json
import platform
import sys
from pathlib import Path

import pandas as pd

from engine.files import InputError, Parser, read_json, write_text
from engine.metrics import rarest_third

KEPT = ("accuracy", "macro_f1", "auroc")  # of an evaluation, in percent


def record_of(folder: Path) -> dict:
    """What is kept of a finished run; InputError where its files are damaged."""
    result, about = read_json(folder / "result.json"), read_json(folder / "args.json")
    classes = read_json(folder / "data_report.json")["classes"]
    history = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {
        "settings": result["settings"],
        "changed": result["changed"],
        "data_hash": result["data_hash"],
        "machine": machine(),
        "versions": about["versions"],
        "seconds": result["seconds"],
        "epochs": [epoch_of(record, classes) for record in history if "test" in record],
    }


def epoch_of(record: dict, classes: list[dict]) -> dict:
    """An evaluated epoch; rarest_third is the mean F1 of the third with the fewest texts."""
    tested = [label for label, row in enumerate(classes) if row["test"]]
    rare = rarest_third(tested, [row["train"] for row in classes])
    parts = {
        part: {name: round(record[part][name], 4) for name in KEPT if record[part].get(name)}
        for part in ("test", "val")
        if part in record
    }
    f1 = record["test"]["f1"]
    parts["test"]["rarest_third"] = round(sum(f1[label] for label in rare) / len(rare), 4)
    return {"epoch": record["epoch"], "train_accuracy": record.get("train_accuracy"), **parts}


def machine() -> str:
    """The processor that this process runs on, and whether it computes in bfloat16."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    names = [line.split(":")[1].strip() for line in text.splitlines() if "model name" in line]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {'with' if 'avx512_bf16' in text else 'without'} AVX512-BF16"


def keep(folder: Path, path: Path) -> int:
    """Adds the finished runs of a folder that the file does not have yet; returns their number."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    known = {json.dumps(json.loads(line)["settings"], sort_keys=True) for line in lines}
    added = [
        json.dumps(record)
        for result in sorted(folder.glob("*/result.json"))
        if json.dumps((record := record_of(result.parent))["settings"], sort_keys=True) not in known
    ]
    if added:
        write_text(path, "".join(f"{line}\n" for line in [*lines, *added]))
    return len(added)


def frames(path: str | Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """
    The kept runs as two frames: a row a run (its settings, the machine, the seconds), and a row an
    evaluated epoch with the number of its run and columns such as test_macro_f1.
    """
    kept = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
    runs = pd.json_normalize(kept, max_level=0).drop(columns="epochs")
    runs = runs.join(pd.json_normalize([run["settings"] for run in kept], max_level=0))
    epochs = pd.json_normalize(
        [{"run": number, **epoch} for number, run in enumerate(kept) for epoch in run["epochs"]],
        sep="_",
    )
    return runs, epochs


def main(argv: list[str] | None = None) -> int:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of runs")
    parser.add_argument("ledger", type=Path, help="the .jsonl file that keeps them")
    args = parser.parse_args(argv)
    try:
        if not args.folder.is_dir():
            raise InputError(f"{args.folder}: no such folder; name one of finished runs")
        print(f"{keep(args.folder, args.ledger)} runs were added to {args.ledger}")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""
Reads finished runs as pandas frames, keeps them in ledgers, and computes the statistics of pages.

    python -m reporting.runs runs/benchmark tables/benchmark.jsonl.gz    # keeps finished runs
    runs = frame(records(Path("tables/benchmark.jsonl.gz")))    # one row per run; or of a folder

A ledger has compressed JSON lines, one per run: the settings, the hash of the data, the machine,
the seconds, and for each epoch the numbers that the pages show. It has no text and no weights.
"""

import gzip
import json
import platform
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import rankdata, studentized_range, ttest_rel, wilcoxon

from baselines import titles
from engine.files import InputError, Parser, one_line_errors, read_json, save
from engine.metrics import rarest_third
from engine.results import epoch_under, read_ledger

NAMES = titles()
SECOND_VIEW = "word_substitution"  # the default of --augment
OF_EPOCH = ("epoch", "loss")
OF_PART = ("accuracy", "macro_f1", "auroc")  # in percent
INSIDE = (  # of engine.diagnostics
    "gradient_share_cl",
    "prototype_cosine",
    "prototype_cosine_min",
    "mixed_to_prototype_pos",
    "mixed_to_prototype_neg",
    "mixing_std_pos",
    "mixing_std_neg",
)

# ---- records of runs, from a folder or a ledger ----


def records(source: Path) -> list[dict]:
    """
    The runs of a ledger, or the finished runs of a folder, ordered by name. "folder" in a record is
    its place: the run's folder, or the ledger's name and the number of the line.
    """
    if source.is_file():
        return [
            {"folder": f"{source.name}, line {number}", **record}
            for number, record in enumerate(read_ledger(source), 1)
        ]
    return [record_of(path.parent) for path in sorted(source.glob("*/result.json"))]


def record_of(folder: Path) -> dict:
    """Reads a finished run. InputError if its files are damaged or from another version."""
    result = read_json(folder / "result.json")
    try:
        record: dict = {"folder": str(folder)}
        record |= {name: result[name] for name in ("settings", "changed", "data_hash", "seconds")}
        lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        about = folder / "data_report.json"
        classes = read_json(about)["classes"] if about.exists() else []
        record["epochs"] = [epoch_of(json.loads(line), classes) for line in lines]
        for name in ("dataset", "ir", "seed", "method", "augment", "data_seed", "label_noise"):
            record["settings"][name]
    except (KeyError, OSError, TypeError, ValueError) as error:
        raise damaged(folder, error) from error
    return record


def damaged(folder: Path, error: Exception) -> InputError:
    """The error for an unreadable run; an InputError stays as it is."""
    if isinstance(error, InputError):
        return error
    return InputError(
        f"{folder}: a file of this run is damaged, or of another version of main.py "
        f"({error!r:.200}); run its command again with --overwrite, or move its folder away"
    )


def epoch_of(line: dict, classes: list[dict]) -> dict:
    """The numbers of a line of metrics.jsonl that a ledger keeps, with six decimals."""

    def kept(values: dict, names: tuple[str, ...]) -> dict:
        return {name: round(values[name], 6) for name in names if values.get(name) is not None}

    found = kept(line, OF_EPOCH)
    if inside := kept(line.get("diagnostics") or {}, INSIDE):
        found["diagnostics"] = inside
    tested = [label for label, row in enumerate(classes) if row["test"]]
    rarest = rarest_third(tested, [row["train"] for row in classes])
    for part in ("test", "val"):
        if part in line:
            found[part] = kept(line[part], OF_PART)
            if "f1" in line[part] and rarest:
                rare_f1 = np.mean([line[part]["f1"][label] for label in rarest])
                found[part]["rarest_third"] = round(float(rare_f1), 6)
    return found


def keep(folder: Path, ledger: Path) -> int:
    """Adds the finished runs of a folder that the ledger does not have; returns their number."""
    known = records(ledger) if ledger.exists() else []
    have = {json.dumps(record["settings"], sort_keys=True) for record in known}
    added = [
        record | about_machine(Path(record["folder"]))
        for record in records(folder)
        if json.dumps(record["settings"], sort_keys=True) not in have
    ]
    if added:
        write(ledger, known + added)
    return len(added)


def write(ledger: Path, kept: list[dict]) -> None:
    """Writes a ledger. Equal runs give equal bytes: the file has no time and no path."""
    lines = [{name: record[name] for name in record if name != "folder"} for record in kept]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    save(ledger, gzip.compress(text.encode(), mtime=0))


def about_machine(folder: Path) -> dict:
    """The versions of a run, and the processor of this machine."""
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    names = [line.split(":")[1].strip() for line in text.splitlines() if "model name" in line]
    name = names[0] if names else platform.processor() or platform.machine()
    has = "with" if "avx512_bf16" in text else "without"
    versions = read_json(folder / "args.json").get("versions")
    return {"machine": f"{name}, {has} AVX512-BF16", "versions": versions}


# ---- frames ----


def frame(found: list[dict], protocol: str = "last") -> pd.DataFrame:
    """
    One row per run, under a protocol: last, best_test or best_val.

    label, dataset, ir, place       label names the method; without --ir: NaN and "original"
    seed, data_seed, method, augment, noise (share of flipped labels), seconds
    settings, changed, data_hash, folder            as in the record
    accuracy, macro_f1, rarest_third                on test texts at the epoch that counts, percent
    """
    of_settings = ("dataset", "ir", "seed", "data_seed", "method", "augment")
    of_record = ("folder", "changed", "settings", "data_hash", "seconds")
    of_test = ("accuracy", "macro_f1", "rarest_third")
    rows = []
    for record in found:
        own, epoch = record["settings"], epoch_under(record["epochs"], protocol)
        row = {name: own[name] for name in of_settings} | {"noise": own["label_noise"]}
        row |= {name: record[name] for name in of_record}
        row |= {"place": ir_name(own["ir"]), "label": run_name(record)}
        tested = epoch.get("test", {})
        rows.append(row | {name: tested.get(name, np.nan) for name in of_test})
    return pd.DataFrame(rows).astype({"ir": float}) if rows else pd.DataFrame(columns=["folder"])


# ---- names ----


def ir_name(ir: float | None) -> str:
    return "original" if ir is None or pd.isna(ir) else f"ir {ir:g}"


def in_words(name: str, value) -> str:
    """A setting in words; for a folder only its name."""
    if value is None:
        return f"no {name.replace('_', ' ')}"
    if isinstance(value, float):
        value = f"{value:g}"
    return f"{name.replace('_', ' ')} {Path(str(value)).name}"


def run_name(record: dict) -> str:
    """The method and its changed settings: "SharpReCL, mu 0.3, augment none"."""
    own = record["settings"]
    changed = [in_words(name, value) for name, value in sorted(record["changed"].items())]
    if own["augment"] != SECOND_VIEW:
        changed.append(in_words("augment", own["augment"]))
    if own["label_noise"]:
        changed.append(in_words("label_noise", own["label_noise"]))
    return ", ".join([NAMES.get(own["method"], own["method"]), *changed])


def markdown(head: list[str], lines: list[list[str]]) -> str:
    """A Markdown table; all columns but the first are numbers."""
    first, *others = (f"| {' | '.join(line)} |" for line in [head, *lines])
    return "\n".join([first, "|---|" + "---:|" * (len(head) - 1), *others])


# ---- statistics ----


def mean_text(values: Iterable[float], digits: int = 1) -> str:
    """mean ± standard deviation, the latter for two or more values; a dash if a value is missing"""
    own = np.asarray(list(values), dtype=float)
    if np.isnan(own).any():
        return "–"
    spread = f" ± {own.std(ddof=1):.{digits}f}" if len(own) > 1 else ""
    return f"{own.mean():.{digits}f}{spread}"


def paired_p(ours: np.ndarray, theirs: np.ndarray) -> float:
    """
    Two-sided paired t-test. If all differences are equal, their variance is 0 and p is 1, never
    significant.
    """
    return 1.0 if np.ptp(ours - theirs) < 1e-9 else float(ttest_rel(ours, theirs).pvalue)


def holm(p_values: Iterable[float]) -> np.ndarray:
    """Holm 1979: adjusted p, in the order given; the j-th smallest of m counts m + 1 - j times."""
    p = pd.Series(list(p_values), dtype=float).sort_values(kind="stable")
    return (p * np.arange(len(p), 0, -1)).cummax().clip(upper=1).sort_index().to_numpy()


def compared(table: pd.DataFrame, ours: str) -> pd.DataFrame:
    """
    Compares our row of a table (rows by datasets) with each other row that has all datasets: wins,
    losses, and p of Wilcoxon's signed-rank test with Holm's correction. Empty without our row.
    """
    whole = table.dropna()
    if ours not in whole.index or len(whole) < 2:
        return pd.DataFrame(columns=["wins", "losses", "p"])
    ahead = (whole.loc[ours] - whole.drop(index=ours)).T  # datasets by rows
    p = holm(wilcoxon(ahead, axis=0).pvalue)
    return pd.DataFrame({"wins": (ahead > 0).sum(), "losses": (ahead < 0).sum(), "p": p})


def mean_ranks(table: pd.DataFrame) -> tuple[pd.Series, float]:
    """
    For a table (rows by datasets), the mean rank of each row that has all datasets (1 is best), and
    the critical difference of Nemenyi's test at 5 % (Demšar 2006).
    """
    whole = table.dropna()
    k, n = whole.shape
    order = pd.Series(rankdata(-whole, axis=0).mean(axis=1), index=whole.index).sort_values()
    q = studentized_range.ppf(0.95, k, np.inf) / np.sqrt(2)
    return order, float(q * np.sqrt(k * (k + 1) / (6 * n)))


# ---- the command line ----


@one_line_errors
def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("folder", type=Path, help="of runs")
    parser.add_argument("ledger", type=Path, help="the .jsonl.gz file that keeps them")
    args = parser.parse_args(argv)
    if not args.folder.is_dir():
        raise InputError(f"{args.folder}: no such folder; name one of finished runs")
    print(f"{keep(args.folder, args.ledger)} runs were added to {args.ledger}")


if __name__ == "__main__":
    sys.exit(main())

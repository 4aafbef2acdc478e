"""
The benchmark of docs/benchmark.md as runs of main.py: its datasets, its rows, and their trials.

    python -m engine.benchmark tune | python -m engine.grid --jobs 2     # trials, development texts
    python -m engine.benchmark run | python -m engine.grid --jobs 2      # with the chosen settings
    python -m engine.benchmark base | python -m engine.grid --jobs 2     # or another of STUDIES
    python -m reporting.runs runs/benchmark tables/benchmark.jsonl.gz       # keeps what is finished
    python -m reporting.benchmark                                           # writes the pages

To add a row, add an entry to ROWS; to add a dataset, one to CUTS. Runs that are kept in
tables/benchmark.jsonl.gz are left out, so the same commands go on where another machine stopped.
"""

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import NamedTuple

from engine.arguments import ABLATIONS, last_of_each, parse_args
from engine.files import InputError, Parser, one_line_errors
from engine.results import read_ledger

KEPT = Path(__file__).parents[1] / "tables" / "benchmark.jsonl.gz"

CUTS = {  # of each dataset: its training texts, at most about 4,000, and its development texts
    "cr": "--ir 50 --val_left_out 200",
    "biomedical": "--max_per_class 300 --ir 50 --val_left_out 60",
    "trec": "--ir 50 --val_left_out 200",
    "ohsumed": "--val_fraction 0.25",  # imbalanced by nature
    "dblp": "--max_per_class 1000 --ir 50 --val_left_out 200",
    "wordnet": "--max_per_class 300 --ir 50 --val_left_out 60",
    "r52": "--max_per_class 1000 --val_fraction 0.2",  # imbalanced by nature
    "banking77": "--ir 50 --val_left_out 20",
    "clinc150": "--ir 50",  # it brings its development texts
    "tagmynews": "--max_per_class 1000 --ir 50 --val_left_out 200",
    "mr": "--max_per_class 2000 --ir 50 --val_left_out 200",
    "sst5": "--ir 50",  # it brings its development texts
}
GROUPS = {
    "settings are chosen on": ("cr", "biomedical"),
    "seen before": ("trec", "ohsumed", "dblp", "wordnet", "r52"),
    "never seen": ("banking77", "clinc150", "tagmynews", "mr", "sst5"),
}
FIXED = (
    "--epochs 15 --eval_every 3 --batch_size 64 --max_length 64 --warmup 0.1 --schedule linear "
    "--no_weights"
)
SMALL = "--encoder minilm --freeze_layers 4"  # its top two layers are trained
BASE = (  # and its; its pooling is named, so that no file of it is needed for a list of runs
    "--encoder sentence-transformers/all-mpnet-base-v2 --pooling mean --freeze_layers 10"
)
LANGUAGE = (  # a small model of Llama's architecture
    "--method llama3 --base_model smollm2-135m --base_type fp32 --max_length 64 --eval_every 3 "
    "--no_weights"
)
OUTPUT = "runs/benchmark"


class Row(NamedTuple):
    """A row of the table: its arguments, and its trials, of which development texts choose one."""

    title: str
    arguments: str
    trials: tuple[str, ...] = ("",)


RATES = (
    "--lr 1e-4",
    "--lr 1e-4 --head_lr 1e-3",
    "--lr 1e-4 --head_lr 3e-3",
    "--lr 5e-5 --head_lr 5e-4",
    "--lr 2e-4 --head_lr 2e-3",
)
ROWS = {
    "sharprecl": Row(
        "SharpReCL, tuned",
        "--method sharprecl",
        (
            "--lr 1e-4 --head_lr 1e-3 --augment none --tau 0.1",
            "--lr 2e-4 --head_lr 2e-3 --augment none --tau 0.1",
            "--lr 1e-4 --head_lr 1e-3 --augment none --tau 0.3",
            "--lr 1e-4 --head_lr 1e-3 --augment none --tau 0.1 --mu 0.3",
            "--lr 1e-4 --head_lr 1e-3 --tau 0.1",
        ),
    ),
    "la": Row("logit adjustment", "--method la", RATES),
    "wce": Row("weighted cross-entropy", "--method wce", RATES),
    "w/o_cl": Row(
        "w/o CL, two views",
        "--method sharprecl --ablation cl",
        (
            "--lr 1e-4",
            "--lr 1e-4 --head_lr 1e-3",
            "--lr 2e-4 --head_lr 2e-3",
            "--lr 1e-4 --head_lr 1e-3 --augment none",
            "--lr 2e-4 --head_lr 2e-3 --augment none",
        ),
    ),
    "bert": Row("cross-entropy", "--method bert", RATES),
    "bcl": Row(
        "BCL",
        "--method bcl",
        (
            "--lr 1e-4",
            "--lr 1e-4 --head_lr 1e-3",
            "--lr 2e-4 --head_lr 2e-3",
            "--lr 1e-4 --head_lr 1e-3 --constants temperature=0.3",
            "--lr 1e-4 --head_lr 1e-3 --constants weight=0.2",
        ),
    ),
    "paper": Row(
        "SharpReCL, the paper's defaults",
        "--method sharprecl --lr 1e-4",
        ("--tau 0.5", "--tau 0.3", "--tau 1"),
    ),
    "balanced": Row("balanced sampling", "--method balanced", RATES),
    "spcl": Row(
        "SPCL",
        "--method spcl",
        (
            "--lr 1e-4",
            "--lr 5e-5",
            "--lr 2e-4",
            "--lr 1e-4 --constants temperature=0.1",
            "--lr 1e-4 --constants support=32",
        ),
    ),
    "post_hoc": Row("post-hoc adjustment", "--method post_hoc"),  # cross-entropy's choice
    "probe": Row("linear probe", "--method probe"),
    "tfidf": Row("TF-IDF + SVM", "--method tfidf"),
}


class Study(NamedTuple):
    """A part of the benchmark beside its table: what these rows do when something is changed."""

    rows: tuple[str, ...]
    datasets: tuple[str, ...]
    changes: tuple[str, ...] = ("",)  # arguments that come to those of a row, or replace them
    encoder: str = SMALL
    seeds: tuple[int, ...] = (0,)


TABLE = Study(tuple(ROWS), tuple(CUTS), seeds=(0, 1))
UNCHOSEN = (*GROUPS["seen before"], *GROUPS["never seen"])  # no setting is chosen on these
OURS = ("paper", "sharprecl")
RIVALS = ("la", "wce", "w/o_cl")
ABLATED = tuple(f"--ablation {name}" for name in ABLATIONS)
VIEWS = ("--augment noise", "--augment none")
TWO = ("trec", "biomedical")
OF_BASE = ("cr", "biomedical", "trec", "ohsumed", "banking77", "tagmynews")
STUDIES = {
    "base": Study((*RIVALS, *OURS), OF_BASE, encoder=BASE),
    "ablations": Study(OURS, TWO, ABLATED, seeds=(0, 1)),  # Table 4
    "mixup": Study(OURS, ("ohsumed",), ("--ablation hm",)),
    "trec10": Study((*RIVALS, *OURS), ("trec",), ("--ir 10",)),
    "ratios": Study((*RIVALS, *OURS), ("dblp",), ("--ir 10", "--ir 20")),
    "rates": Study(("la", "wce"), UNCHOSEN, (RATES[1],)),  # heads at ten times the rate
    "views": Study(("paper",), TWO, VIEWS),  # Table A.1
    "language": Study(  # Table 3
        ("",),  # it has no row in the table
        ("cr", "trec", "biomedical"),
        ("", "--constants epochs=0"),  # fine-tuned, and asked as it is
        LANGUAGE,
    ),
}


def line(dataset: str, arguments: str, seed: int, amp: str, encoder: str = SMALL) -> str:
    """
    The arguments of one run, which replace those of its dataset; each seed has its own draw of the
    training texts.
    """
    model = LANGUAGE if encoder == LANGUAGE else f"{encoder} {FIXED} --amp {amp}"
    words = (
        f"--dataset {dataset} {CUTS[dataset]} {model} {arguments} "
        f"--seed {seed} --data_seed {seed} --output_dir {OUTPUT}"
    )
    return shlex.join(last_of_each(words.split()))


def identity(values: dict) -> str:
    """What two runs have in common where they differ in no more than their precision."""
    return json.dumps({name: v for name, v in values.items() if name != "amp"}, sort_keys=True)


def kept(path: Path = KEPT) -> dict[str, dict]:
    """The runs that are kept, by their identity; none where there is no such file yet."""
    if not path.exists():
        return {}
    return {identity(run["settings"]): run for run in read_ledger(path)}


def run_of(
    known: dict[str, dict], dataset: str, arguments: str, seed: int, encoder: str = SMALL
) -> dict | None:
    """The kept run of these arguments."""
    args = parse_args(shlex.split(line(dataset, arguments, seed, "off", encoder)))
    return known.get(identity(args.settings))


def development_score(run: dict) -> float:
    """
    Macro-F1 on development texts that chooses a row's trial: the mean of that at the last epoch and
    of that at the best one, since the table has both.
    """
    seen = [epoch["val"]["macro_f1"] for epoch in run["epochs"] if "val" in epoch]
    return (seen[-1] + max(seen)) / 2


def trial_scores(known: dict[str, dict], row: str) -> list[float | None]:
    """Of each trial of a row the mean over the datasets that settings are chosen on."""
    scores: list[float | None] = []
    for trial in ROWS[row].trials:
        runs = [
            run_of(known, dataset, f"{ROWS[row].arguments} {trial}", 0)
            for dataset in GROUPS["settings are chosen on"]
        ]
        found = [development_score(run) for run in runs if run is not None]
        scores.append(sum(found) / len(found) if len(found) == len(runs) else None)
    return scores


def chosen(known: dict[str, dict], row: str) -> str:
    """The arguments of a row with the trial that development texts choose; of equals the first."""
    if row == "post_hoc":  # it has the training of cross-entropy
        return chosen(known, "bert").replace(ROWS["bert"].arguments, ROWS[row].arguments)
    trials = ROWS[row].trials
    if len(trials) == 1:
        return ROWS[row].arguments
    scores = trial_scores(known, row)
    missing = [trial for trial, score in zip(trials, scores) if score is None]
    if missing:
        raise InputError(
            f"{KEPT.name}: {ROWS[row].title} is not tuned yet, {len(missing)} of its {len(trials)} "
            f"trials are missing, the first {missing[0]}: run python -m engine.benchmark tune, and "
            "keep its runs"
        )
    best = max(range(len(trials)), key=lambda i: (scores[i], -i))
    return f"{ROWS[row].arguments} {trials[best]}"


def runs_of(args: argparse.Namespace, known: dict[str, dict]) -> list[tuple]:
    """The runs of a stage: dataset, arguments, seed and encoder."""
    tuned = GROUPS["settings are chosen on"]
    if args.stage == "tune":
        return [
            (dataset, f"{entry.arguments} {trial}", 0, SMALL)
            for entry in ROWS.values()
            for trial in entry.trials
            if len(entry.trials) > 1
            for dataset in tuned
        ]
    study = TABLE if args.stage == "run" else STUDIES[args.stage]
    own = [chosen(known, row) if row else "" for row in study.rows]
    return [
        (dataset, f"{arguments} {change}".strip(), seed, study.encoder)
        for seed in args.seeds or study.seeds
        for dataset in study.datasets
        for arguments in own
        for change in study.changes
    ]


def lines(args: argparse.Namespace) -> list[str]:
    """The runs of a stage that are not kept yet."""
    known = kept()
    place = f" --data_dir {shlex.quote(args.data_dir)}" if args.data_dir else ""
    return [
        line(dataset, arguments, seed, args.amp, encoder) + place
        for dataset, arguments, seed, encoder in runs_of(args, known)
        if run_of(known, dataset, arguments, seed, encoder) is None
    ]


def default_amp() -> str:
    """bf16 where the processor computes with it, as Linux tells; elsewhere it would be slow."""
    info = Path("/proc/cpuinfo")
    return "bf16" if info.exists() and "avx512_bf16" in info.read_text() else "off"


@one_line_errors
def main(argv: list[str] | None = None) -> None:
    parser = Parser(description=__doc__)
    parser.add_argument("stage", choices=("tune", "run", *STUDIES))
    parser.add_argument("--seeds", nargs="+", type=int, help="default: those of the stage")
    parser.add_argument("--data_dir", help="as of main.py")
    parser.add_argument("--amp", choices=("off", "bf16"), default=default_amp())
    print("\n".join(lines(parser.parse_args(argv))))


if __name__ == "__main__":
    sys.exit(main())

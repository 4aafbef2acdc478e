"""What README and docs/ say of the benchmark, computed from its kept runs in another way."""

import functools
import gzip
import json
import re
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import wilcoxon

from reporting import benchmark

ROOT = Path(__file__).resolve().parent.parent
DATASETS = (
    "CR Biomedical TREC Ohsumed DBLP WordNet R52 BANKING77 CLINC150 TagMyNews MR SST-5".split()
)
GROUPS = [DATASETS[:2], DATASETS[2:7], DATASETS[7:]]
UNCHOSEN = [*GROUPS[1], *GROUPS[2]]
METHODS = {
    "SharpReCL, tuned": "sharprecl",
    "SharpReCL, the paper's defaults": "sharprecl",
    "w/o CL, two views": "sharprecl",
    "logit adjustment": "la",
    "weighted cross-entropy": "wce",
    "cross-entropy": "bert",
    "BCL": "bcl",
    "SPCL": "spcl",
    "balanced sampling": "balanced",
    "post-hoc adjustment": "post_hoc",
    "linear probe": "probe",
    "TF-IDF + SVM": "tfidf",
}


def is_of(title, own):
    """Whether these settings are a trial of this row."""
    if own["method"] != METHODS[title] or own["encoder"] != "minilm":
        return False
    if own["method"] != "sharprecl":
        return True
    ours = "SharpReCL, tuned" if "head_lr" in own else "SharpReCL, the paper's defaults"
    return title == (ours if own["mu"] > 0 else "w/o CL, two views")


@functools.cache
def ledger():
    text = gzip.decompress((ROOT / "tables" / "benchmark.jsonl.gz").read_bytes())
    return [json.loads(line) for line in text.splitlines()]


def setting(run):
    """What a trial varies."""
    names = ("lr", "head_lr", "tau", "mu", "augment", "constants", "ablation")
    return json.dumps({name: run["settings"].get(name) for name in names}, sort_keys=True)


def both(run, part):
    """Macro-F1 at the last epoch, and at the best one on development texts, of equals the later."""
    seen = [epoch for epoch in run["epochs"] if "test" in epoch]
    best = max(enumerate(seen), key=lambda x: (x[1]["val"]["macro_f1"], x[0]))[1]
    return np.array([seen[-1][part]["macro_f1"], best[part]["macro_f1"]])


@functools.cache
def chosen(title):
    """The setting with the best mean on development texts of CR and Biomedical, seed 0."""
    runs = [
        run for run in ledger() if is_of(title, run["settings"]) and run["settings"]["seed"] == 0
    ]
    runs = [run for run in runs if run["settings"]["dataset"] in ("cr", "biomedical")]
    scores = {}
    for own, group in groupby(sorted(runs, key=setting), setting):
        values = [both(run, "val").mean() for run in group]
        if len(values) == 2:  # an ablation ran on one of them
            scores[own] = np.mean(values)
    if title == "post-hoc adjustment":
        return chosen("cross-entropy")
    return max(scores, key=scores.__getitem__)


@functools.cache
def found(title):
    """{(dataset, seed): macro-F1 on test texts, last and best} of a row."""
    return {
        (run["settings"]["dataset"], run["settings"]["seed"]): both(run, "test")
        for run in ledger()
        if is_of(title, run["settings"])
        and setting(run) == chosen(title)
        and run["settings"]["ir"] in (50, None)
    }


def key(name):
    return name.lower().replace("-", "")


@functools.cache
def seeds():
    """The seeds of which all runs are there; before that, the first one."""
    whole = [s for s in (0, 1) if all((key(n), s) in found(t) for t in METHODS for n in DATASETS)]
    return whole or [0]


def values(title, names=UNCHOSEN):
    """Datasets by last and best epoch: means over the seeds, NaN without a run."""
    nothing = np.full(2, np.nan)
    own = [[found(title).get((key(name), s), nothing) for s in seeds()] for name in names]
    return np.mean(own, axis=1)


def shown(value):
    return "" if np.isnan(value) else f"{value:.1f}"


def table(name, page="docs/results.md"):
    """The rows of a page's table by their titles."""
    text = (ROOT / page).read_text(encoding="utf-8")
    lines = re.search(rf"<!-- table: {name} -->\n((?:\|.*\n)+)", text)[1].splitlines()[2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {title: cells for title, *cells in rows}


def compared(at):
    """
    Each row's cells at the last epoch (0) or the best (1): mean, our wins and losses, and p with
    Holm's correction, by hand: the smallest p counts once for each row that has all datasets.
    """
    ours = values("SharpReCL, tuned")[:, at]
    rivals = [title for title in METHODS if title != "SharpReCL, tuned"]
    cells, raw = {"SharpReCL, tuned": [shown(ours.mean()), "", ""]}, []
    for title in rivals:
        theirs = values(title)[:, at]
        cells[title] = [shown(theirs.mean()), "", ""]
        if not np.isnan(theirs).any():
            raw.append((wilcoxon(ours, theirs).pvalue, title))
            cells[title][1] = f"{(ours > theirs).sum()}–{(ours < theirs).sum()}"
    highest = 0.0
    for i, (p, title) in enumerate(sorted(raw)):
        highest = max(highest, min(1.0, p * (len(raw) - i)))
        cells[title][2] = f"{highest:.3f}"
    return cells


def ranks():
    """Each row's mean place among the rows that have all datasets; equals share a place."""
    own = {title: values(title)[:, 0] for title in METHODS}
    whole = np.array([numbers for numbers in own.values() if not np.isnan(numbers).any()])
    places = {
        t: ((whole > x).sum(axis=0) + ((whole == x).sum(axis=0) + 1) / 2) for t, x in own.items()
    }
    return {t: shown(np.nan if np.isnan(own[t]).any() else places[t].mean()) for t in own}


def test_the_main_table_follows_from_the_ledger():
    rows, (last, best), places = table("main"), (compared(0), compared(1)), ranks()
    assert set(rows) == set(METHODS)
    for title, cells in rows.items():
        groups = [shown(values(title, group)[:, 0].mean()) for group in GROUPS]
        assert cells == [*groups, places[title], *last[title], *best[title]], title


def test_the_readmes_table_is_that_of_the_page():
    rows, page = table("readme", "README.md"), table("main")
    assert len(rows) == 6 and set(list(METHODS)[:2]) <= set(rows)
    assert all(cells == page[title][4:] for title, cells in rows.items())


def test_the_table_of_the_datasets_follows_from_the_ledger():
    for title, cells in table("datasets").items():
        own = ["/".join(map(shown, pair)).strip("/") for pair in values(title, DATASETS)]
        assert cells == own, title


@pytest.mark.parametrize("name", benchmark.PAGES)
def test_all_tables_of_a_page_are_those_that_the_ledger_gives_now(name, tmp_path):
    text = (ROOT / name).read_text(encoding="utf-8")
    page, known = tmp_path / "page.md", benchmark.kept()
    page.write_text(text, encoding="utf-8")
    benchmark.fill(page, known, benchmark.scores(known))
    assert page.read_text(encoding="utf-8") == text


def prose(page):
    return " ".join((ROOT / page).read_text(encoding="utf-8").split())


def ahead(title, at=0):
    """By how much ours is ahead of a row, by dataset."""
    difference = values("SharpReCL, tuned")[:, at] - values(title)[:, at]
    return dict(zip(UNCHOSEN, difference))


def mean(numbers):
    return f"{np.mean(list(numbers)):.1f}"


def test_what_the_pages_say_of_the_branch_and_of_rates_follows_from_the_ledger():
    page, readme = prose("docs/results.md"), prose("README.md")
    of_branch, of_paper = ahead("w/o CL, two views"), ahead("SharpReCL, the paper's defaults")
    assert sum(lead > 0 for lead in of_branch.values()) == 9
    mr, others = f"{of_branch.pop('MR'):.1f}", mean(of_branch.values())
    assert f"by {mr} on MR and by {others} on average over the other nine" in readme
    assert f"MR gives {mr} points, the other nine {others} on average" in page
    two = ["{:.1f}".format(of_paper[name]) for name in ("BANKING77", "CLINC150")]
    assert f"{mean(of_paper.values())} below its tuned setting" in readme
    assert f"tuned setting: {two[0]} on BANKING77 and {two[1]} on CLINC150" in page
    of_la = ahead("logit adjustment")
    lost = "loses {:.1f} and {:.1f} there".format(of_la.pop("BANKING77"), of_la.pop("CLINC150"))
    assert lost in page
    assert f"Without these two datasets it is {mean(of_la.values())} below SharpReCL" in page
    faster = {
        run["settings"]["dataset"]: both(run, "test")[0]
        for run in ledger()
        if is_of("logit adjustment", run["settings"]) and run["settings"].get("head_lr") == 1e-3
    }
    assert "it has {banking77:.1f} and {clinc150:.1f}, as SharpReCL".format(**faster) in page


def test_what_the_pages_say_of_the_best_epoch_follows_from_the_ledger():
    page, readme = prose("docs/results.md"), prose("README.md")
    behind = {t: float(-np.mean(list(ahead(t, 1).values()))) for t in METHODS}
    titles = sorted(behind, key=behind.get, reverse=True)[:4]
    assert titles == ["post-hoc adjustment", "w/o CL, two views", "BCL", "SharpReCL, tuned"]
    best, without, bcl = (f"{behind[title]:.1f}" for title in titles[:3])
    assert f"post-hoc adjustment has the best mean, {best} above SharpReCL" in page
    assert f"w/o CL is {without} and BCL {bcl} above it" in page
    assert f"its mean is {best} above SharpReCL's" in readme
    assert all(float(compared(1)[title][2]) > 0.05 for title in titles[:3])  # "level with it"


def test_what_the_page_says_of_the_larger_encoder_follows_from_its_runs():
    runs = [run for run in ledger() if "mpnet" in run["settings"]["encoder"]]
    runs = [run for run in runs if run["settings"].get("tau") and run["settings"].get("head_lr")]
    last = {(r["settings"]["dataset"], r["settings"]["mu"] > 0): both(r, "test")[0] for r in runs}
    cells = [last[name, is_ours] for name in ("cr", "biomedical") for is_ours in (True, False)]
    said = (
        "ahead of w/o CL on CR ({:.1f} to {:.1f}), and behind it on Biomedical ({:.1f} to {:.1f})"
    )
    assert said.format(*cells) in prose("docs/results.md")


def test_what_the_readme_says_of_the_time_follows_from_the_ledger():
    seconds = {}
    for run in ledger():
        own = run["settings"]
        for title in ("SharpReCL, tuned", "post-hoc adjustment"):
            if is_of(title, own) and setting(run) == chosen(title) and own["seed"] == 0:
                seconds[title, own["dataset"]] = run["seconds"]
    names = map(key, UNCHOSEN)
    shares = [seconds["post-hoc adjustment", n] / seconds["SharpReCL, tuned", n] for n in names]
    assert f"takes {mean(shares)} of the time" in prose("README.md")
    assert f"takes {mean(shares)} of SharpReCL's time" in prose("docs/methods.md")


def test_no_difference_to_a_trained_row_is_significant_at_the_last_epoch():
    trained = [t for t in METHODS if t not in ("linear probe", "TF-IDF + SVM")]
    assert all(not p or float(p) > 0.05 for p in (compared(0)[t][2] for t in trained))
    assert "No difference to a trained row is significant" in prose("README.md")
    assert "No difference to a trained row is significant" in prose("docs/results.md")

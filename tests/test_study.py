"""
reporting/study.py, against hand-worked values; and what README, docs/results.md and docs/log.md
say, against the ledgers, by a way of computing of its own.
"""

import functools
import gzip
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from reporting import runs, study

ROOT = Path(__file__).resolve().parent.parent
FIVE = ["cr", "biomedical", "trec", "ohsumed", "dblp"]
VIEW = "word_substitution"


def record(dataset, seed, tests, vals=(), method="la", **settings):
    """A kept run with these macro-F1 after each epoch."""
    own = {"dataset": dataset, "seed": seed, "method": method, "augment": VIEW, "ir": 50.0}
    own |= {"data_seed": seed, "label_noise": 0.0, "lr": 1e-4} | settings
    epochs = [
        {"epoch": n, "test": {"accuracy": t, "macro_f1": t}, "val": {"macro_f1": v}}
        for n, (t, v) in enumerate(zip(tests, vals or tests), 1)
    ]
    kept = {"settings": own, "changed": {}, "seconds": 1.0, "epochs": epochs}
    return kept | {"data_hash": f"{dataset} {seed}"}


@pytest.fixture
def load(tmp_path):
    """Makes a frame of kept runs."""

    def make(*kept):
        runs.write(tmp_path / "kept.jsonl.gz", list(kept))
        return study.load_ledgers(str(tmp_path / "kept"))

    return make


# ---- the frame and the statistics ----


def test_a_run_is_named_after_what_is_not_the_default():
    plain = {"settings": {"method": "la", "augment": VIEW}, "changed": {}}
    assert runs.run_name(plain) == "logit adjustment"
    own = {"settings": {"method": "sharprecl", "augment": "none"}, "changed": {"mu": 0.3, "k": 5}}
    assert runs.run_name(own) == "SharpReCL, k 5, mu 0.3, augment none"


def test_each_protocol_takes_its_epoch():
    kept = record("cr", 0, (50.0, 70.0, 70.0, 40.0), (1.0, 3.0, 2.0, 3.0))
    taken = [runs.epoch_under(kept, name)["epoch"] for name in ("last", "best_test", "best_val")]
    assert taken == [4, 2, 4]  # of equals the first on test texts, the later on development texts
    kept["epochs"] = [{"epoch": 1, "test": {"accuracy": 1.0, "macro_f1": 1.0}}]
    assert runs.epoch_under(kept, "best_val") is None


def test_a_dataset_counts_once_however_many_seeds_it_has(load):
    own = load(*(record("cr", s, (v,)) for s, v in enumerate((60.0, 70.0, 80.0))))
    assert study.average(pd.concat([own, load(record("trec", 0, (90.0,)))])) == (70 + 90) / 2


def test_the_interval_is_over_the_seeds_in_any_order_and_one_seed_has_none():
    low, high = runs.interval([np.array([60.0, 70.0]), np.array([90.0, 90.0])])
    assert (low, high) == (75.0, 80.0)  # a quarter of the draws is (60, 60), another (70, 70)
    own = [np.array([1.0, 3.0, 9.0]), np.array([2.0, 4.0])]
    assert runs.interval(own) == runs.interval([values[::-1] for values in own])
    assert runs.interval([np.array([60.0, 70.0]), np.array([50.0])]) is None


def test_the_table_has_the_best_mean_first_and_none_for_a_row_without_a_dataset(load):
    own = load(*(record(name, s, (60.0 + s, 70.0)) for name in ("cr", "trec") for s in (0, 1)))
    whole = load(*(record(name, s, (80.0, 71.0 + s)) for name in ("cr", "trec") for s in (0, 1)))
    lines = study.ranking(
        {"part": own[own.dataset == "cr"], "low": own, "high": whole}, ("cr", "trec")
    ).splitlines()
    assert lines[2].startswith("| high | 71.5 | 71.5 | 71.5 (71.0–72.0) | 80.0 (80.0–80.0) |")
    assert lines[3].startswith("| low | 70.0 | 70.0 | 70.0 (70.0–70.0) |")
    assert lines[4] == "| part | 70.0 |  |  |  |  |"


def test_the_fade_is_the_mean_curve_and_the_moment_when_all_texts_are_fitted(load):
    kept = [record("cr", 0, (1.0,) * 3, (70, 60, 50)), record("cr", 1, (1.0,) * 3, (80, 70, 60))]
    for run, accuracies in zip(kept, ((90, 99.6, 100), (99.5, 99.6, 100))):
        for epoch, accuracy in zip(run["epochs"], accuracies):
            epoch["train_accuracy"] = accuracy
    own = load(*kept)
    assert study.fitted_at(own) == 1.5
    figure = study.draw_fade(own, {"la": study.plain("la")})
    line, ring = figure.axes[0].lines
    assert line.get_xydata().tolist() == [[1, 75], [2, 65], [3, 55]]
    assert ring.get_xydata().tolist() == [[1.5, 70]]
    for epoch in kept[1]["epochs"]:
        epoch["train_accuracy"] = 90
    assert np.isnan(study.fitted_at(load(*kept)))


def test_a_pages_tables_are_written_anew_and_its_text_stays(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "TABLES", {"one": lambda: "| a |\n|---|\n| 2 |"})
    page = tmp_path / "page.md"
    page.write_text("Before.\n\n<!-- table: one -->\n| a |\n|---|\n| 1 |\n\nAfter.\n")
    study.fill(page)
    expected = "Before.\n\n<!-- table: one -->\n| a |\n|---|\n| 2 |\n\nAfter.\n"
    assert page.read_text() == expected


# ---- the pages, from the ledgers, by a way of its own ----


@functools.cache
def ledger(name):
    text = gzip.decompress((ROOT / "tables" / f"{name}.jsonl.gz").read_bytes())
    return [json.loads(line) for line in text.splitlines()]


def at(run, part):
    """A run's metrics: on test texts at the last or the best epoch, or on development texts."""
    seen = [epoch for epoch in run["epochs"] if "test" in epoch]
    if part == "best":
        return max(seen, key=lambda epoch: (epoch["val"]["macro_f1"], epoch["epoch"]))["test"]
    return seen[-1]["val" if part == "development" else "test"]


METHOD = {"logit adjustment": "la", "cross-entropy": "bert", "weighted cross-entropy": "wce"}
METHOD |= {"BCL": "bcl", "SPCL": "spcl", "vector scaling": "vs"}


def setting_of(label):
    """What a row's name says, in the words of a ledger."""
    name = label.split(",")[0]
    if name in METHOD:
        return {"method": METHOD[name], "augment": VIEW}
    if name == "w/o CL":
        return {"method": "sharprecl", "mu": 0, "augment": "none"}
    assert name == "SharpReCL"
    is_tuned = "tuned" in label or "--tau 0.1" in label
    mu = re.search(r"µ = ([\d.]+)", label)
    return {
        "method": "sharprecl",
        "mu": float(mu[1]) if mu else 1,
        "tau": 0.1 if is_tuned else 0.5,
        "augment": "none" if is_tuned or mu else VIEW,
    }


def values(name, label, part="last", metric="macro_f1", **wanted):
    """{(dataset, seed): value} of a row in a ledger; a flag that is None was not given."""
    wanted = setting_of(label) | wanted
    return {
        (run["settings"]["dataset"], run["settings"]["seed"]): at(run, part)[metric]
        for run in ledger(name)
        if all(run["settings"].get(flag) == value for flag, value in wanted.items())
    }


def means(found, datasets=FIVE):
    """Of each dataset, and over them."""
    own = [np.mean([v for (own, _), v in found.items() if own == name]) for name in datasets]
    return [f"{value:.1f}" for value in [*own, np.mean(own)]]


def lines_of(text):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]


def table(name, page="docs/results.md"):
    """Head and rows of a page's table."""
    text = (ROOT / page).read_text(encoding="utf-8")
    head, _, *rows = lines_of(re.search(rf"<!-- table: {name} -->\n((?:\|.*\n)+)", text)[1])
    return head, {row: cells for row, *cells in rows}


def prose(page):
    return " ".join((ROOT / page).read_text(encoding="utf-8").split())


def test_the_readmes_table_follows_from_the_ledgers():
    name, rows = None, 0
    for label, *cells in lines_of((ROOT / "README.md").read_text(encoding="utf-8")):
        if label.startswith("*all layers trained, 30 epochs"):
            name = "paper_rate" if "one rate" in label else "thirty_epochs"
        if len(cells) == 7 and cells[0][:1].isdigit():
            expected = [*means(values(name, label)), means(values(name, label, "best"))[-1]]
            assert cells == expected, label
            rows += 1
    assert rows == 6


def test_the_main_table_follows_from_the_ledgers():
    _, rows = table("main")
    assert len(rows) == 6
    rng = np.random.default_rng(1)
    for label, cells in rows.items():
        last, best = (values("head_lr", label, part) for part in ("last", "best"))
        assert [*cells[:5], cells[5].split()[0]] == means(last), label
        assert cells[6].split()[0] == means(best)[-1]
        assert cells[7] == means(values("head_lr", label, metric="rarest_third"))[-1]
        for found, cell in ((last, cells[5]), (best, cells[6])):
            seeds = [[found[name, seed] for seed in range(5)] for name in FIVE]
            drawn = np.mean([rng.choice(own, (4000, 5)).mean(axis=1) for own in seeds], axis=0)
            shown = [float(bound) for bound in cell.split("(")[1].strip(")").split("–")]
            assert shown == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.15), label


def trial_of(label):
    """Method, second view, changed flags and rate of the heads of a trial's name."""
    method, view, changed, rate = "sharprecl", VIEW, {}, 1
    for part in label.removeprefix("SharpReCL").split(", "):
        if part == "logit adjustment":
            method = "la"
        elif part == "dropout views":
            view = "none"
        elif part.startswith("heads"):
            rate = int(part.split()[-1])
        elif part:
            *name, value = part.split()
            changed["_".join(name)] = value
    return method, view, changed, rate


def trial(label, dataset):
    """{seed: macro-F1 on development texts} of a trial."""
    found = {}
    for run in [run for name in ("variants", "two_layers", "head_lr") for run in ledger(name)]:
        own = run["settings"]
        changed = {
            name: f"{value:g}" if isinstance(value, float) else str(value)
            for name, value in run["changed"].items()
        }
        rate = round(own.get("head_lr", own["lr"]) / own["lr"])
        is_it = (own["method"], own["augment"], changed, rate) == trial_of(label)
        if is_it and run.get("variant", "flags") == "flags" and own["dataset"] == dataset:
            found[own["seed"]] = at(run, "development")["macro_f1"]
    return found


def test_the_trials_follow_from_the_ledgers():
    _, rows = table("trials", "docs/log.md")
    assert len(rows) >= 15
    for label, cells in rows.items():
        for dataset, cell in zip(("cr", "biomedical"), cells):
            found = trial(label, dataset)
            mean = np.mean([found[seed] for seed in range(3)]) if len(found) >= 3 else None
            assert cell == (f"{found[0]:.1f} ({mean:.1f})" if mean else ""), label


@pytest.mark.parametrize("name", ["results.md", "log.md", "language_models.md"])
def test_all_tables_of_a_page_are_those_that_the_ledgers_give_now(name, tmp_path):
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    page = tmp_path / name
    page.write_text(text, encoding="utf-8")
    study.fill(page)
    assert page.read_text(encoding="utf-8") == text


OURS = "SharpReCL, tuned"
UNTUNED = ["trec", "ohsumed", "dblp"]  # the settings were chosen on the other two


def lead(name, part, other, datasets=FIVE, ours=OURS):
    """By how much a row is ahead of another: the mean over the datasets, and on how many pairs."""
    first, second = values(name, ours, part), values(name, other, part)
    ahead = {p: first[p] - second[p] for p in first if p in second and p[0] in datasets}
    assert len(ahead) >= 3 * len(datasets)
    return means(ahead, datasets)[-1].replace("-0.0", "0.0"), sum(v > 0 for v in ahead.values())


def test_what_the_pages_say_of_leads_follows_from_the_ledgers():
    page, readme = prose("docs/results.md"), prose("README.md")
    pairs = [
        lead("head_lr", part, row)[1]
        for row in ("logit adjustment", "BCL")
        for part in ("last", "development")
    ]
    assert "on {} of 25 pairs of dataset and seed on test texts and {}".format(*pairs) in page
    assert "of BCL on {} and {}".format(*pairs[2:]) in page
    ahead = lead("head_lr", "last", "logit adjustment", UNTUNED)[0]
    assert f"nothing was chosen, it is {ahead} ahead of logit adjustment" in page
    brought = lead("head_lr", "last", "w/o CL", [name for name in FIVE if name != "cr"])[0]
    assert f"branch brings {brought} (against w/o CL)" in page
    two = [
        lead("thirty_epochs", part, "logit adjustment", UNTUNED)[0]
        for part in ("last", "development")
    ]
    assert "ahead of logit adjustment by {} on test texts and by {} on".format(*two) in page
    assert "{} ahead on test texts, and {} on development texts".format(*two) in readme
    behind = lead("paper_rate", "last", "SharpReCL, the paper's", ours="logit adjustment")[0]
    assert f"it is {behind} behind logit adjustment after 30 epochs" in page
    assert f"SharpReCL is {behind} behind logit adjustment" in readme


def test_what_the_pages_say_of_ratios_noise_and_eq_11_follows_from_the_ledgers():
    page, log = prose("docs/results.md"), prose("docs/log.md")

    def gap(name, first, second, **wanted):
        found = [values(name, label, head_lr=1e-3, **wanted) for label in (first, second)]
        return float(np.mean([found[0][pair] - found[1][pair] for pair in found[0]]))

    behind = gap("imbalance", "logit adjustment", OURS, ir=200.0)
    assert f"by {behind:.1f} there" in page and f"by {behind:.1f} at 200" in log
    ahead = [gap("noise", OURS, "logit adjustment", label_noise=noise) for noise in (0.05, 0.1)]
    assert "by {:.1f} points at 5 % and by {:.1f} at 10 %".format(*ahead) in page
    assert "Ahead of it, by {:.1f} and {:.1f}, on Biomedical".format(*ahead) in log
    leads = []
    for setting in ("mu 0.3, dropout views", "tau 0.1, dropout views, heads × 10"):
        for dataset in ("cr", "biomedical"):
            ours, plain = (
                trial(f"{name}{setting}", dataset) for name in ("", "cl reduction mean, ")
            )
            pairs = [ours[seed] - plain[seed] for seed in range(3)]
            assert min(pairs) > 0
            leads.append(f"{np.mean(pairs):.1f}")
    assert "by {} on CR and {} on Biomedical, and by {} and {} with heads".format(*leads) in log
    both = ("mu 0.3, dropout views", "hard ratio end 0, hard ratio start 0, mu 0.3, dropout views")
    ours, plain = ([trial(name, own)[0] for own in ("biomedical", "cr")] for name in both)
    shown = "the mixtures (by {:.1f} and {:.1f} points, one seed)"
    assert shown.format(*(one - other for one, other in zip(ours, plain))) in log


def test_what_the_page_says_of_the_signs_follows_from_the_ledger():
    wanted = {"method": "sharprecl", "ir": 200}.items()
    kept = [run for run in ledger("imbalance") if wanted <= run["settings"].items()]
    last = [run["epochs"][-1] for run in kept if "head_lr" not in run["settings"]]
    cosine = np.mean([epoch["diagnostics"]["prototype_cosine"] for epoch in last])
    gap = np.mean([epoch["test"]["accuracy"] - epoch["test"]["macro_f1"] for epoch in last])
    assert f"to a cosine of {cosine:.2f}" in prose("docs/results.md") and len(last) == 3
    assert f"accuracy minus macro-F1 grows to {gap:.1f}" in prose("docs/results.md")

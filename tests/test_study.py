"""reporting/study.py, against hand-worked values; the pages' tables, against the kept runs."""

import functools
import json
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from reporting import signs, study
from reporting.study import SECOND_VIEW


def run(row, dataset, seed, macro_f1, val=(), train=()):
    history = [
        {"epoch": i, "val": {"macro_f1": v}, "train_accuracy": t}
        for i, (v, t) in enumerate(zip(val, train), 1)
    ]
    return study.Run(row, dataset, seed, {"last": {"macro_f1": macro_f1}}, history)


def test_a_row_is_named_after_what_is_not_the_default():
    plain = {"method": "la", "augment": SECOND_VIEW}
    assert study.row_of(plain, {}) == "logit adjustment"
    own = {"method": "sharprecl", "augment": "none", "head_lr": 1e-3}
    assert study.row_of(own, {"mu": 0.3}) == "SharpReCL, mu 0.3, augment none, head_lr 0.001"


def test_a_data_set_counts_once_however_many_seeds_it_has():
    values = {("cr", 0): 60.0, ("cr", 1): 70.0, ("cr", 2): 80.0, ("trec", 0): 90.0}
    assert study.mean_over_datasets(values) == pytest.approx((70 + 90) / 2)


def test_the_interval_holds_the_mean():
    low, high = study.interval(
        {("cr", seed): float(value) for seed, value in enumerate([50, 60, 70, 80])}
    )
    assert 50 < low < 65 < high < 80


def test_the_interval_is_the_same_in_any_order():
    values = {("cr", 0): 1.0, ("cr", 1): 3.0, ("trec", 0): 9.0, ("trec", 1): 2.0}
    assert study.interval(values) == study.interval(dict(reversed(values.items())))


def test_ranks_are_over_the_shared_pairs_and_ties_share_theirs():
    found = {
        "a": {("cr", 0): 3.0, ("cr", 1): 1.0},
        "b": {("cr", 0): 2.0, ("cr", 1): 1.0},
        "c": {("cr", 0): 1.0, ("cr", 1): 0.0, ("cr", 2): 9.0},
    }
    rank = study.ranks(found)
    assert {row: own.tolist() for row, own in rank.items()} == {
        "a": [1, 1.5],
        "b": [2, 1.5],
        "c": [3, 3],
    }
    assert study.ranks({"a": {("cr", 0): 1.0}, "b": {("cr", 1): 1.0}}) == {}


def test_the_table_has_the_best_mean_first_and_no_p():
    runs = [
        run(row, "cr", seed, base + seed + noise * (seed % 2))
        for row, base, noise in (("worse", 60, 0.5), ("best", 70, 0.0))
        for seed in range(4)
    ]
    lines = study.ranking(runs, "Test texts, the last epoch").splitlines()
    assert lines[2].startswith("| best | 71.5 ± 1.3 [4] | 71.5 (")
    assert lines[0].endswith("| mean (95 %) | rank |") and lines[2].endswith(") | 1.0 |")
    assert lines[3].startswith("| worse | 61.8 ±") and lines[3].endswith(") | 2.0 |")


def test_a_row_without_a_data_set_has_no_mean_and_no_rank():
    runs = [
        run(row, name, seed, 60.0 + seed)
        for row, names in (("all", ("cr", "trec")), ("some", ("trec",)))
        for name in names
        for seed in range(2)
    ]
    lines = study.ranking(runs, "Test texts, the last epoch").splitlines()
    assert [cell.strip() for cell in lines[0].split("|")[2:4]] == ["TREC", "CR"]
    assert lines[2].startswith("| all | 60.5 ± 0.7 [2] | 60.5 ± 0.7 [2] | 60.5 (60.0–61.0) | 1.0 |")
    assert lines[3] == "| some | 60.5 ± 0.7 [2] |  |  |  |"


def test_the_interval_is_over_the_seeds_and_one_seed_has_none():
    two = {("cr", 0): 60.0, ("cr", 1): 70.0, ("trec", 0): 90.0, ("trec", 1): 90.0}
    low, high = study.interval(two)
    assert (low, high) == (75.0, 80.0)  # a quarter of the draws is (60, 60), another (70, 70)
    assert study.interval(two | {("dblp", 0): 50.0}) is None
    assert study.with_interval(64.8, None) == "64.8"


def test_the_strength_is_the_ratio_of_the_gradients_early_and_late():
    shares = [0.5, 0.6, 0.75, 0.8]
    own = run("SharpReCL", "cr", 0, 1.0)._replace(
        history=[{"diagnostics": {"gradient_share_cl": share}} for share in shares]
    )
    other = run("la", "cr", 0, 1.0)._replace(history=[{"diagnostics": {}}])
    without = run("TF-IDF", "cr", 0, 1.0)._replace(history=[{"epoch": 1}])
    line = study.strengths([own, other, without]).splitlines()[-1]
    assert line == "| SharpReCL | CR | 1 | 3.5 |"  # .75 / .25 = 3, .8 / .2 = 4
    alone = own._replace(history=[{"diagnostics": {"gradient_share_cl": 1.0}}])  # w/o CLS
    assert study.strengths([alone]).splitlines()[-1] == "| SharpReCL | CR | inf | inf |"


def test_a_moved_border_shows_as_macro_f1_that_falls_beside_a_steady_auroc():
    def of(seed, *points):
        history = [{"val": {"macro_f1": f1, "auroc": auroc}} for f1, auroc in points]
        return run("la", "cr", seed, 1.0)._replace(history=[{}, *history])

    runs = [of(0, (60, 90), (80, 92), (50, 91)), of(1, (70, 94), (60, 93), (60, 93))]
    old = run("bert", "cr", 0, 1.0, val=(70,), train=(90,))  # made before AUROC was recorded
    assert study.borders([*runs, old]).splitlines()[2:] == [
        "| la | CR [2] | 75.0 | 55.0 | 93.0 | 92.0 |"
    ]


def test_the_fade_is_the_mean_curve_and_the_moment_when_all_texts_are_fitted():
    runs = [
        run("la", "cr", 0, 1.0, val=(70, 60, 50), train=(90, 99.6, 100)),
        run("la", "cr", 1, 1.0, val=(80, 70, 60), train=(99.5, 99.6, 100)),
    ]
    epochs, values = study.development_curve(runs)
    assert epochs.tolist() == [1, 2, 3] and values.tolist() == [75, 65, 55]
    assert study.fitted_at(runs) == 1.5
    assert study.fitted_at([run("la", "cr", 0, 1.0, val=(70,), train=(90,))]) is None


def test_the_figure_has_the_best_whole_setting_of_each_method():
    def of(method, row, dataset, value):
        result = {"settings": {"method": method}}
        return run(row, dataset, 0, 0.0, val=[value], train=[99])._replace(result=result)

    runs = [
        *(of("sharprecl", "ours, mu 1", name, 60.0) for name in ("cr", "trec")),
        *(of("sharprecl", "ours, mu 0.3", name, 70.0) for name in ("cr", "trec")),
        of("sharprecl", "ours, on one data set", "cr", 99.0),
        *(of("la", "la", name, 50.0) for name in ("cr", "trec")),
        of("vs", "vs", "cr", 50.0),
    ]
    assert {own.row for own in study.leaders(runs)} == {"ours, mu 0.3", "la"}
    assert len(study.draw_fade(runs).axes[0].lines) == 2


def test_kept_numbers_make_the_table_and_the_figure_again(tmp_path, capsys):
    for seed in (0, 1):
        folder = tmp_path / "made" / f"run{seed}"
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(
            json.dumps(
                {
                    "last": {"macro_f1": 70.0 + seed},
                    "changed": {"mu": 0.3},
                    "settings": {
                        "method": "sharprecl",
                        "dataset": "cr",
                        "seed": seed,
                        "augment": "none",
                    },
                }
            )
        )
        epoch = {"val": {"macro_f1": 70.0}, "train_accuracy": 99.9, "diagnostics": {}}
        (folder / "metrics.jsonl").write_text(
            "".join(json.dumps(epoch | {"epoch": e}) + "\n" for e in (1, 2))
        )
        (folder / "predictions.csv").write_text("a text that is not to be kept")
    assert study.main([str(tmp_path / "made"), str(tmp_path / "runs")]) == 0
    kept = sorted(path.name for path in (tmp_path / "runs").rglob("*") if path.is_file())
    assert kept == ["metrics.jsonl"] * 2 + ["result.json"] * 2
    assert study.main([str(tmp_path / "runs"), str(tmp_path / "out")]) == 0
    assert (
        "| SharpReCL, mu 0.3, augment none | 70.5 ± 0.7 [2] | 70.5 "
        in (tmp_path / "out" / "study.md").read_text()
    )
    assert (tmp_path / "out" / "fade.png").stat().st_size > 5000
    for path in (tmp_path / "made").glob("*/metrics.jsonl"):
        path.write_text('{"epoch": 1, "test": {"macro_f1": 70.0}}\n')
    assert study.main([str(tmp_path / "made"), str(tmp_path / "without")]) == 0
    assert [path.name for path in (tmp_path / "without").iterdir()] == ["study.md"]
    shutil.copytree(tmp_path / "made" / "run0", tmp_path / "made" / "of_another_ir")
    assert study.main([str(tmp_path / "made"), str(tmp_path / "out")]) == 2
    assert "two runs of SharpReCL, mu 0.3, augment none on cr" in capsys.readouterr().err
    assert study.main([str(tmp_path / "nothing"), str(tmp_path / "out")]) == 2
    assert "run_all.sh study_a" in capsys.readouterr().err
    result = tmp_path / "made" / "run0" / "result.json"
    result.write_text(result.read_text().replace('"cr"', '"reviews.csv"'))
    assert study.main([str(tmp_path / "made"), str(tmp_path / "out")]) == 2
    assert "and not of reviews.csv" in capsys.readouterr().err


# ---- the tables of README and the study's pages, from the kept runs, by a way of its own ----

ROOT = Path(__file__).resolve().parent.parent
COLUMNS = ["cr", "biomedical", "trec", "ohsumed", "dblp"]
OTHERS = "others/runs"  # of seed 0; their table has the rows of the first table beside them
FOLDERS = {
    "30 epochs with the paper's batch and rate, the heads at ten times the rate": (
        "thirty_epochs/runs"
    ),
    "30 epochs with the paper's batch and rate, one rate for all": "paper_rate/runs",
    "all layers trained, 30 epochs, one rate": "paper_rate/runs",
    "all layers trained, 30 epochs, the heads at ten times the rate": "thirty_epochs/runs",
    "15 epochs, the heads at ten times the rate": "all_head_lr/runs",
    "15 epochs, one rate": "runs",
    "the top two layers trained": "two_layers/runs",
    "the top two layers trained, one rate": "two_layers/runs",
    "the top two layers trained, the heads at ten times the rate": "head_lr/runs",
    "the other methods": OTHERS,
}
MACRO_F1 = {  # the line above a table's rows -> of a result and of the record of its last epoch
    "test texts, the last epoch": lambda result, last: result["last"]["macro_f1"],
    "test texts, the best epoch on development texts": (
        lambda result, last: result["best_val"]["macro_f1"]
    ),
    "development texts, the last epoch": lambda result, last: last["val"]["macro_f1"],
}
LAST, BEST, _ = MACRO_F1
METHOD = {
    "SharpReCL": "sharprecl",
    "w/o CL": "sharprecl",
    "logit adjustment": "la",
    "vector scaling": "vs",
    "cross-entropy": "bert",
    "weighted cross-entropy": "wce",
    "SPCL": "spcl",
    "BCL": "bcl",
    "focal loss": "focal",
    "Dice loss": "dice",
    "SimCSE": "simcse",
    "SCLCE": "sclce",
    "Hybrid-SC": "hybrid_sc",
    "TSC": "tsc",
}


def setting_of(label):
    """What a row's name says, in the words of result.json."""
    method = METHOD[label.split(",")[0]]
    views = "none" if re.search("dropout views|--augment none", label) else SECOND_VIEW
    if method != "sharprecl":
        return {"method": method, "augment": views}
    mu = re.search(r"(?:µ = |--mu )([\d.]+)", label)
    tau = re.search(r"(?:τ = |--tau )([\d.]+)", label)
    return {
        "method": method,
        "mu": 0 if label.startswith("w/o CL") else float(mu[1]) if mu else 1,
        "tau": float(tau[1]) if tau else 0.5,
        "augment": views,
    }


@functools.cache
def runs_of(folder):
    """The result of every kept run, and the record of its last epoch."""
    paths = (ROOT / "tables" / folder).glob("*/result.json")
    return [
        (
            json.loads(path.read_text()),
            json.loads((path.parent / "metrics.jsonl").read_text().splitlines()[-1]),
        )
        for path in paths
    ]


def kept(folder, part, label):
    """{(data set, seed): macro-F1} of a row."""
    wanted, found = setting_of(label), {}
    if folder == OTHERS:
        wanted["seed"] = 0
        found = kept("head_lr/runs", part, label)
        found = {pair: value for pair, value in found.items() if pair[1] == 0}
    for result, last in runs_of(folder):
        settings = result["settings"]
        if wanted.items() <= settings.items():
            found[settings["dataset"], settings["seed"]] = MACRO_F1[part](result, last)
    return found


def means(values):
    """Of every data set, and over them."""
    own = [np.mean([v for (name, _), v in values.items() if name == column]) for column in COLUMNS]
    return [f"{value:.1f}" for value in [*own, np.mean(own)]]


def tables_of(page):
    """Of every row of the page's tables of five data sets: folder, part, name, cells."""
    folder = part = None
    for line in (ROOT / page).read_text(encoding="utf-8").splitlines():
        name, *cells = [cell.strip() for cell in line.strip("|").split("|")]
        heading = name.strip("#* ").lower()
        folder, part = FOLDERS.get(heading, folder), heading if heading in MACRO_F1 else part
        has_all = len(cells) == 7 or len(cells) == 6 and "(" in cells[5]
        if line.startswith("|") and has_all and name and cells[0][:1].isdigit():
            yield folder, part, name, cells


def test_the_readmes_result_and_the_other_methods_follow_from_the_kept_runs():
    others = [row for row in tables_of("docs/study.md") if row[0] == OTHERS]
    rows = list(tables_of("README.md")) + others
    assert len(others) >= 8 and len(rows) >= 14
    for folder, _, name, cells in rows:
        expected = [*means(kept(folder, LAST, name)), means(kept(folder, BEST, name))[-1]]
        assert cells == expected, name


def test_the_studys_tables_follow_from_the_kept_runs():
    tables = {}
    for page in ("docs/study.md", "docs/one_rate.md", "docs/all_layers.md"):
        for folder, part, name, cells in tables_of(page):
            if folder == OTHERS:
                continue
            tables.setdefault((folder, part), {})[name] = cells
    assert len(tables) == 14
    for (folder, part), rows in tables.items():
        values = {name: kept(folder, part, name) for name in rows}
        for name, cells in rows.items():
            assert [*cells[:5], cells[5].split(" (")[0]] == means(values[name]), (part, name)
            if min(Counter(dataset for dataset, _ in values[name]).values()) > 1:
                low, high = study.interval(values[name])
                assert f"({low:.1f}–{high:.1f})" in cells[5], (part, name)


OURS = "SharpReCL, τ = 0.1, dropout views"
UNTUNED = ["trec", "ohsumed", "dblp"]  # the settings were chosen on the other two


def lead(folder, part, other, columns=COLUMNS, ours=OURS, of=None):
    """By how much a row is ahead of another: the mean over the data sets, and on how many pairs."""
    first, second = kept(folder, part, ours), kept(of or folder, part, other)
    pairs = [pair for pair in first if pair in second and pair[0] in columns]
    assert len(pairs) >= 3 * len(columns)
    ahead = {pair: first[pair] - second[pair] for pair in pairs}
    own = [np.mean([ahead[pair] for pair in pairs if pair[0] == name]) for name in columns]
    return f"{np.mean(own):.1f}".replace("-0.0", "0.0"), sum(v > 0 for v in ahead.values())


def prose(page):
    return " ".join((ROOT / page).read_text(encoding="utf-8").split())


def test_what_readme_and_the_pages_say_of_leads_follows_from_the_kept_runs():
    la, without, bcl = "logit adjustment", "w/o CL, dropout views", "BCL"
    last, _, dev = MACRO_F1
    all_layers, two = "thirty_epochs/runs", "head_lr/runs"
    on_test, on_dev = (lead(all_layers, part, la, UNTUNED)[0] for part in (last, dev))
    paper = lead("paper_rate/runs", last, "SharpReCL, word substitution", ours=la)[0]
    readme = prose("README.md")
    assert f"{on_test} ahead on test texts, and {on_dev} on development texts" in readme
    assert f"SharpReCL is {paper} behind logit adjustment" in readme

    page = prose("docs/all_layers.md")
    wins = [lead(f, part, la)[1] for part in (last, dev) for f in (all_layers, "all_head_lr/runs")]
    assert wins[0] == wins[1] and f"on {wins[0]} of 15 pairs" in page
    assert f"on {wins[2]} and {wins[3]} of development texts" in page
    assert f"by {on_test} on test texts and by {on_dev} on development texts" in page
    for name, row in (("w/o CL", without), ("BCL", bcl)):
        shown = " and ".join(lead(all_layers, p, row, UNTUNED)[0] for p in (last, dev))
        assert f"of {name} by {shown.replace('-', '−')}" in page
    four = [name for name in COLUMNS if name != "cr"]
    brought = [lead(f, last, without, four)[0] for f in (all_layers, "all_head_lr/runs", two)]
    assert f"brings {brought[0]} after 30 epochs, and {brought[1]} after 15" in page
    assert f"{paper} behind logit adjustment" in page
    both = lead(all_layers, last, la, of="paper_rate/runs")[0]
    assert f"with two is {both} ahead of it at one" in page

    page = prose("docs/study.md")
    counts = [lead(two, part, row)[1] for row in (la, bcl) for part in (last, dev)]
    assert "on {} of 25 pairs of dataset and seed on test texts and {}".format(*counts) in page
    assert "of BCL on {} and {}".format(*counts[2:]) in page
    assert f"it is {lead(two, last, la, UNTUNED)[0]} ahead of logit adjustment on test" in page
    assert f"the branch brings {brought[2]} (against w/o CL)" in page


def rarest(folder, name, method, result="last", **settings):
    """The mean F1 of the classes with the fewest training texts, in the runs of a method."""
    wanted = {"method": method, "dataset": name} | settings
    found = [run[result] for run, _ in runs_of(folder) if wanted.items() <= run["settings"].items()]
    groups = [metrics["groups"] for metrics in found]
    return np.mean([group.get("few", group.get("medium"))["macro_f1"] for group in groups])


def test_what_the_pages_say_of_rare_classes_follows_from_the_kept_runs():
    for page, folder in (("all_layers", "thirty_epochs/runs"), ("study", "head_lr/runs")):
        text = prose(f"docs/{page}.md")
        for name in COLUMNS:
            ours = rarest(folder, name, "sharprecl", mu=1.0)
            assert f"{ours:.1f}" in text, name
            others = [
                *(rarest(folder, name, method) for method in ("la", "bcl", "wce")),
                rarest(folder, name, "sharprecl", mu=0.0),
                *([rarest(folder, name, "spcl")] if page == "study" else []),
            ]
            assert f"{max(others):.1f}" in text, name
            if page == "all_layers":
                assert (ours > max(others)) == (name != "trec")
    best = [rarest("thirty_epochs/runs", "cr", m, "best_val") for m in ("la", "bcl", "wce")]
    best.append(rarest("thirty_epochs/runs", "cr", "sharprecl", "best_val", mu=0.0))
    ours = rarest("thirty_epochs/runs", "cr", "sharprecl", "best_val", mu=1.0)
    assert f"{ours:.1f}, where the others have {min(best):.1f} to {max(best):.1f}" in prose(
        "docs/all_layers.md"
    )


def test_the_table_of_two_more_datasets_follows_from_the_kept_runs():
    lines = (ROOT / "docs/study.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    rows = [row for row in rows if len(row) == 7 and row[1][:1].isdigit() and "(" not in row[6]]
    assert len(rows) >= 4
    for name, *cells in rows:
        of_part = [kept("unseen/runs", part, name) for part in MACRO_F1]
        assert cells == [
            f"{np.mean([v for (dataset, _), v in values.items() if dataset == wanted]):.1f}"
            for wanted in ("wordnet", "r52")
            for values in of_part
        ], name


def test_the_table_of_imbalance_ratios_follows_from_the_kept_runs():
    part, rows = None, 0
    ratios = (ROOT / "docs/imbalance.md").read_text(encoding="utf-8").split("## Wrong labels")[0]
    for line in ratios.splitlines():
        name, *cells = [cell.strip() for cell in line.strip("|").split("|")]
        part = name if name.startswith("*") else part
        if len(cells) != 4 or not cells[0][:1].isdigit():
            continue
        wanted, found = setting_of(name), {}
        for result, _ in runs_of("imbalance/runs"):
            settings = result["settings"]
            one_rate = "head_lr" not in settings
            if wanted.items() <= settings.items() and one_rate == (part == "*one rate*"):
                found.setdefault(settings["ir"], []).append(result["last"]["macro_f1"])
        assert cells == [f"{np.mean(found[ir]):.1f}" for ir in (10, 50, 100, 200)], name
        assert {len(values) for values in found.values()} == {3}
        rows += 1
    assert rows == 4


SIGNS_SHOWN = {  # of docs/imbalance.md -> the key in the last line of metrics.jsonl, the decimals
    "cosine of prototypes and class means": ("diagnostics", "prototype_cosine", 2),
    "the same, lowest class": ("diagnostics", "prototype_cosine_min", 2),
    "mixed positives to their prototype": ("diagnostics", "mixed_to_prototype_pos", 2),
    "accuracy minus macro-F1": ("test", "gap", 1),
}


def test_the_table_of_the_signs_of_failure_follows_from_the_kept_runs(capsys):
    assert signs.main([str(ROOT / "tables/imbalance/runs")]) == 0
    printed = capsys.readouterr().out.replace("*", "")
    page = (ROOT / "docs/imbalance.md").read_text(encoding="utf-8")
    part, rows = None, 0
    for line in page.split("## What happens inside")[1].splitlines():
        name, *cells = [cell.strip() for cell in line.strip("|").split("|")]
        part = name if name.startswith("*") else part
        if name not in SIGNS_SHOWN:
            continue
        group, key, digits = SIGNS_SHOWN[name]
        found = {}
        for result, last in runs_of("imbalance/runs"):
            settings = result["settings"]
            one_rate = "head_lr" not in settings
            if settings["method"] == "sharprecl" and one_rate == (part == "*one rate*"):
                found.setdefault(settings["ir"], []).append(last[group][key])
        assert cells == [f"{np.mean(found[ir]):.{digits}f}" for ir in (10, 50, 100, 200)], name
        for ir, cell in zip((10, 50, 100, 200), cells):  # the command prints the same
            setting = "mu 0.3, augment none" if part == "*one rate*" else "augment none, head_lr"
            [row] = [row for row in printed.splitlines() if setting in row and f"| {ir}.0 |" in row]
            assert f"| {cell} |" in row
        rows += 1
    assert rows == 8


def test_the_answers_to_the_review_follow_from_the_kept_runs():
    def mean(folder, method, **settings):
        wanted = {"method": method, "head_lr": 1e-3} | settings
        found = [
            run["last"]["macro_f1"]
            for run, _ in runs_of(folder)
            if wanted.items() <= run["settings"].items()
        ]
        assert len(found) == 3
        return np.mean(found)

    page = prose("docs/imbalance.md").split("review of the paper asks")[1]
    behind = mean("imbalance/runs", "la", ir=200.0) - mean("imbalance/runs", "sharprecl", ir=200.0)
    assert f"Behind logit adjustment, by {behind:.1f} at 200." in page
    ahead = [
        mean("noise/runs", "sharprecl", label_noise=noise)
        - mean("noise/runs", "la", label_noise=noise)
        for noise in (0.05, 0.1)
    ]
    assert "Ahead of it, by {:.1f} and {:.1f}, on Biomedical.".format(*ahead) in page
    tried = (ROOT / "docs/trials.md").read_text(encoding="utf-8")
    ours, plain = (
        [float(cell) for cell in re.search(rf"{start}.*?\| (.*) \|", tried)[1].split(" | ")]
        for start in ("SharpReCL, µ = 0.3, views that differ by dropout", "no mixtures")
    )
    gains = [f"{one - other:.1f}" for one, other in zip(ours, plain)]
    assert f"By {gains[0]} and {gains[1]} points, one seed" in page


def test_a_sign_beyond_its_limit_is_bold_and_a_missing_one_leaves_its_cell_empty():
    def of(**diagnostics):
        record = {"epoch": 1, "diagnostics": diagnostics, "test": {"macro_f1": 50, "gap": 12.0}}
        own = run("SharpReCL", "cr", 0, 50)._replace(history=[record])
        settings = {"dataset": "cr", "ir": None, "label_noise": 0.0}
        return own._replace(result={"settings": settings})

    runs = [of(prototype_cosine=0.2), of(prototype_cosine=0.4)]
    line = signs.overview(runs).splitlines()[-1]
    assert line == "| SharpReCL | cr | None | 0.0 | 2 | **0.30** |  |  |  |  |  |  | **12.0** |"


def test_the_table_of_wrong_labels_follows_from_the_kept_runs():
    page, rows = (ROOT / "docs/imbalance.md").read_text(encoding="utf-8"), 0
    for line in page.split("## Wrong labels")[1].splitlines():
        name, *cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) != 3 or not cells[0][:1].isdigit():
            continue
        wanted, found = setting_of(name), {}
        for result, _ in runs_of("noise/runs"):
            if wanted.items() <= result["settings"].items():
                noise = result["settings"]["label_noise"]
                found.setdefault(noise, []).append(result["last"]["macro_f1"])
        assert cells == [f"{np.mean(found[noise]):.1f}" for noise in (0, 0.05, 0.1)], name
        assert {len(values) for values in found.values()} == {3}
        rows += 1
    assert rows == 5

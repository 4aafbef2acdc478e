"""report.py: cells, marks and significance worked by hand, and made-up runs down to the files."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib import pyplot as plt

import baselines
import report
from engine import arguments, files
from engine.files import InputError
from reporting import runs, tables

SHARPRECL = arguments.names_of(arguments.Role.SHARPRECL)
LANGUAGE_MODEL = arguments.names_of(arguments.Role.LARGE, arguments.Role.LORA)
PLAIN = arguments.parse_args(["--dataset", "trec"]).settings


def write_run(
    folder, accuracy=90.0, macro_f1=80.0, *, seconds=10.0, changed=None, data_hash="same", **own
):
    """The folder of a made-up run, as main.py would leave it."""
    changed = changed or {}
    flags = {name: value for name, value in changed.items() if name in SHARPRECL}
    own = PLAIN | {"dataset": "trec", "ir": 50.0, "seed": 0, "method": "sharprecl"} | flags | own
    run = folder / f"run{len(list(folder.glob('*'))):03d}"
    numbers = {"accuracy": accuracy, "macro_f1": macro_f1}
    last = {"epoch": 30, **numbers}
    result = {"settings": own, "changed": changed, "data_hash": data_hash, "seconds": seconds}
    files.write_json(run / "result.json", {"last": last, "best_test": last, **result})
    files.write_text(run / "metrics.jsonl", json.dumps({"epoch": 30, "test": numbers}) + "\n")
    classes = [{"label": "a", "train": 50, "test": 1}, {"label": "b", "train": 1, "test": 1}]
    files.write_json(run / "data_report.json", {"name": "x", "classes": classes, "ir": 50.0})
    return run


def of_language_model(argv):
    """The settings that a language model has, of a command with these flags."""
    args = arguments.parse_args(["--dataset", "trec", *argv.split()])
    names = (*LANGUAGE_MODEL, "constants")
    own = {name: value for name, value in args.settings.items() if name in names}
    return own | {"method": "llama2", "changed": args.changed}


def write_seeds(folder, values, **options):
    for seed, value in enumerate(values):
        write_run(folder, value, value, seed=seed, **options)


def read_tables(folder, protocol="last"):
    """{name: table} of the folder's only group."""
    (only,) = tables.group(tables.load_runs(folder, protocol))
    return {table.name: table for table in tables.tables(only, protocol, [])}


def cells_of(part):
    """{row: {(ir, what): cell}}"""
    rows = (row for section in part.sections for row in section)
    return {label: dict(zip(part.columns, cells)) for label, cells in rows}


def table_2(folder):
    """The cells of the first dataset."""
    return cells_of(read_tables(folder)["table2"].parts[0])


# ---- cells ----


def test_a_cell_is_mean_and_sample_deviation_over_seeds_and_their_number(tmp_path):
    write_seeds(tmp_path, [90.0, 92.0, 94.0], method="bert")  # sqrt((4 + 0 + 4) / 2) = 2
    write_run(tmp_path, 71.125, 60.0)
    cells = table_2(tmp_path)
    assert cells["BERT"]["ir 50", "accuracy"].text == "92.00 ± 2.00 (3)"
    assert cells["SharpReCL"]["ir 50", "accuracy"].text in ("71.12 (1)", "71.13 (1)")


def test_the_caption_names_every_setting_that_is_not_the_default(tmp_path):
    write_run(tmp_path, max_per_class=77, warmup=0.25)
    write_run(tmp_path, method="bcl", max_per_class=77, warmup=0.25, micro_batch=8)
    caption = read_tables(tmp_path)["table2"].caption
    assert "max per class 77" in caption and "warmup 0.25" in caption
    assert "max length" not in caption and "epochs 30" in caption


@pytest.mark.parametrize(
    "means, marks",
    [
        ([1.0, 3.0, None, 2.0], ["", "best", "", "second"]),
        ([3.0, 2.0, 3.0, 2.0, 1.0], ["best", "second", "best", "second", ""]),
        ([None, 3.0], ["", ""]),
    ],
)
def test_best_and_second_are_marked_ties_alike_and_a_lone_number_not(means, marks):
    assert tables.ranked(means) == marks


def test_means_that_print_the_same_share_their_mark(tmp_path):
    for method, accuracy in (("bert", 90.001), ("dice", 90.002), ("focal", 80.0), ("tfidf", 70.0)):
        write_run(tmp_path, accuracy, method=method)
    cells = cells_of(read_tables(tmp_path)["table2"].parts[0])
    marks = {name: row["ir 50", "accuracy"].mark for name, row in cells.items()}
    assert marks.pop("TF-IDF + SVM") == ""
    assert marks == {"BERT": "best", "BERT + Dice": "best", "BERT + Focal": "second"}


def test_a_cell_without_a_run_is_a_dash_and_columns_stand_as_in_the_paper(tmp_path):
    for ir in (10.0, None, 50.0):
        write_run(tmp_path, method="bert", ir=ir)
    write_run(tmp_path, method="la", ir=10.0)
    (part,) = read_tables(tmp_path)["table2"].parts
    assert list(dict.fromkeys(ir for ir, _ in part.columns)) == ["original", "ir 50", "ir 10"]
    rows = [[label for label, _ in section] for section in part.sections]
    assert rows == [["BERT"], ["logit adjustment"]]
    row = cells_of(part)["logit adjustment"]
    texts = [row[ir, "accuracy"].text for ir in ("original", "ir 50", "ir 10")]
    assert texts == ["–", "–", "90.00 (1)"]


# ---- significance ----


def test_the_paired_t_test_is_the_one_worked_by_hand():
    # differences 1, 2, 3: t = 2 / (1 / sqrt 3), and with 2 degrees p = 1 - t / sqrt(2 + t^2)
    t = 2 * 3**0.5
    p = runs.paired_p(np.array([11.0, 22.0, 33.0]), np.array([10.0, 20.0, 30.0]))
    assert p == pytest.approx(1 - t / (2 + t * t) ** 0.5)
    assert p == pytest.approx(0.0742, abs=1e-4)


def test_differences_without_spread_are_never_significant_and_warn_of_nothing(recwarn):
    assert runs.paired_p(np.array([0.3, 1.3]), np.array([0.1, 1.1])) == 1
    assert runs.paired_p(np.array([5.0, 6.0]), np.array([5.0, 6.0])) == 1
    assert not recwarn


def test_holm_multiplies_the_smallest_p_most_and_never_goes_down_or_above_1():
    # sorted .01 .03 .04 -> .03 .06 .04, and the last may not fall below the one before
    assert runs.holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert runs.holm([0.7, 0.6]).tolist() == [1, 1] and len(runs.holm([])) == 0


def test_seeds_pair_by_their_number_and_the_marks_say_who_is_better(tmp_path):
    write_seeds(tmp_path, [80.0, 90.0, 100.0])
    for method, differences in (
        ("bert", (-5.0, -5.1, -4.9)),
        ("dice", (5.0, 5.1, 4.9)),
        ("focal", (1.0, -1.0, 0.5)),
    ):
        for seed in (2, 0, 1):  # not in the order of SharpReCL's
            value = 80 + 10 * seed + differences[seed]
            write_run(tmp_path, value, value, seed=seed, method=method)
    table = read_tables(tmp_path)["table2"]
    cells = cells_of(table.parts[0])
    signs = {name: row["ir 50", "macro-F1"].sign for name, row in cells.items()}
    assert signs == {"BERT": "†", "BERT + Dice": "‡", "BERT + Focal": "", "SharpReCL": ""}
    assert "comparisons of each metric: 3. With 3 seeds such a test says little" in table.caption


def test_the_correction_counts_the_comparisons_of_the_whole_table(tmp_path):
    # p = 1 - t / sqrt(2 + t^2) with t = 10 / (1 / sqrt 3) is 0.0033: significant among 1, not 16
    difference = (9.0, 10.0, 11.0)
    write_seeds(tmp_path / "one", [80.0] * 3)
    write_seeds(tmp_path / "one", [80 - d for d in difference], method="bert")
    cells = cells_of(read_tables(tmp_path / "one")["table2"].parts[0])
    assert cells["BERT"]["ir 50", "accuracy"].sign == "†"
    for dataset in ("cr", "dblp", "biomedical", "r52"):
        write_seeds(tmp_path / "one", [80.0] * 3, dataset=dataset)
        for method in ("bert", "dice", "focal", "tsc"):
            write_seeds(tmp_path / "one", [80.0, 79.0, 81.0], dataset=dataset, method=method)
    table = read_tables(tmp_path / "one")["table2"]
    cells = cells_of(next(part for part in table.parts if part.dataset == "TREC"))
    assert cells["BERT"]["ir 50", "accuracy"].sign == ""
    assert "comparisons of each metric: 17." in table.caption


def test_without_two_shared_seeds_there_is_no_test(tmp_path):
    write_run(tmp_path, seed=0), write_run(tmp_path, seed=1)
    write_run(tmp_path, method="bert", seed=1), write_run(tmp_path, method="bert", seed=2)
    table = read_tables(tmp_path)["table2"]
    assert "No significance test: no rival shares 2 seeds" in table.caption


# ---- which run goes where ----


def test_the_methods_are_those_of_main_in_the_papers_order():
    assert [name for section in tables.SECTIONS for name in section] == list(baselines.METHODS)
    assert list(runs.NAMES)[:2] == ["bert", "dice"] and list(runs.NAMES)[-1] == "sharprecl"
    rows = {row for *_, row in tables.of_paper("4")}
    assert {*tables.ABLATED[0]} == {*arguments.ABLATIONS} == rows - {"sharprecl"}


def test_language_models_stand_beside_the_others_and_in_table_3_with_sharprecl(tmp_path):
    write_run(tmp_path), write_run(tmp_path, method="bert"), write_run(tmp_path, ir=10.0)
    write_run(tmp_path, 97.0, **of_language_model("--ir 50 --method llama2"))
    tables = read_tables(tmp_path)
    assert list(cells_of(tables["table2"].parts[0])) == ["BERT", "Llama2-7B", "SharpReCL"]
    [part] = tables["table3"].parts
    assert list(cells_of(part)) == ["Llama2-7B", "SharpReCL"]
    assert {ir for ir, _ in part.columns} == {"ir 50"}
    assert cells_of(part)["Llama2-7B"]["ir 50", "accuracy"].text == "97.00 (1)"
    assert (
        "Llama2-7B: base model Llama-2-7b-hf, base type 4bit, epochs 3, lr 0.0002"
        in tables["table3"].caption
    )


@pytest.mark.parametrize("name", arguments.ABLATIONS)
def test_each_ablation_is_recognised_by_what_main_records_of_it(tmp_path, name):
    args = arguments.parse_args(["--dataset", "trec", "--ir", "50", "--ablation", name])
    write_run(tmp_path, changed=args.changed)
    rows = cells_of(read_tables(tmp_path)["table4"].parts[0])
    assert list(rows) == [tables.ABLATED[0][name]]


def test_a_run_that_sets_more_or_less_than_an_ablation_is_none(tmp_path):
    write_run(tmp_path, changed={"n_pos": 0})
    write_run(tmp_path, changed={"mu": 0.0, "tau": 1.0})
    write_run(tmp_path, changed={"mu": 0.0}, augment="noise")
    assert tables.load_runs(tmp_path, "last").ablation.isna().all()


def test_the_papers_numbers_stand_beside_ours_as_typed_from_the_paper(tmp_path):
    write_run(tmp_path)
    write_run(tmp_path, changed={"no_mutual_guidance": True}, dataset="biomedical")
    write_run(tmp_path, dataset="cr", ir=None, augment="back_translation")
    write_run(tmp_path, dataset="dblp", changed={"k": 30})
    found = read_tables(tmp_path)

    def paper(table, row, ir="ir 50", what="paper: acc / F1"):
        return [cells_of(part)[row][ir, what].text for part in found[table].parts]

    assert paper("table2", "SharpReCL") == ["94.80 / 94.83"]
    assert paper("table4", "w/o MI") == ["60.36 / 59.59"]
    assert paper("tableA1", "Back translation", "original") == ["93.09 / 92.58"]
    assert paper("tableA2", "k = 30", what="paper: acc") == ["76.59 ± 0.22"]
    write_run(tmp_path / "other", ir=20.0)
    assert "paper" not in str(read_tables(tmp_path / "other")["table2"])
    assert tables.of_paper("2")["trec", "original", "sharprecl"] == "97.20 / 97.63"
    assert tables.of_paper("4")["ohsumed", "original", "delta_both"] == "67.86 / 60.22"


def test_every_run_is_in_a_table(tmp_path, capsys):
    kinds = [
        dict(),
        dict(method="bert"),
        dict(method="tfidf"),
        dict(changed={"mu": 0.3}),
        dict(changed={"mu": 0.0}),
        dict(changed={"k": 5}),
        dict(augment="noise"),
        dict(augment="noise", ir=None),
        dict(augment="noise", method="bert"),
        dict(changed={"temperature": 0.1}, method="sclce"),
        dict(method="of another version"),
        dict(changed={"tau": 1.0, "n_neg": 7}),
        dict(epochs=4),
        dict(dataset="a|b_c%.csv"),
        dict(changed={"hard_ratio_start": 1.0}),
        dict(label_noise=0.3),
        dict(label_noise=0.3, method="bert", augment="none"),
        dict(label_noise=0.3, changed={"k": 5}),
        dict(label_noise=0.3, changed={"mu": 0.0}),
        dict(label_noise=0.3, augment="noise", ir=None),
    ]
    for number, kind in enumerate(kinds):
        write_run(tmp_path, 50 + number * 1.01, **kind)
    assert report.main([str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert [k for n, k in enumerate(kinds) if f"{50 + n * 1.01:.2f} (1)" not in printed] == []


def test_other_settings_are_named_by_what_they_change_and_sorted_as_numbers(tmp_path):
    for n_neg in (1000, 50):
        write_run(tmp_path, changed={"n_neg": n_neg})
    write_run(tmp_path, changed={"temperature": 0.1}, method="sclce", augment="noise")
    assert list(cells_of(read_tables(tmp_path)["other"].parts[0])) == [
        "SCLCE, temperature 0.1, augment noise",
        "SharpReCL, n neg 50",
        "SharpReCL, n neg 1000",
    ]


# ---- groups of settings ----


def test_runs_with_other_training_settings_never_meet_in_a_table(tmp_path, capsys):
    write_seeds(tmp_path / "runs", [90.0, 92.0], epochs=6)
    write_run(tmp_path / "runs", 50.0, seed=2, epochs=4)
    assert report.main([str(tmp_path / "runs"), "--output_dir", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert printed.index("## Settings 1 of 2: epochs 6") < printed.index("91.00 ± 1.41 (2)")
    assert printed.index("## Settings 2 of 2: epochs 4") < printed.index("50.00 (1)")
    assert "91.00 ± 1.41 (2)" in (tmp_path / "out" / "table2.md").read_text()
    second = (tmp_path / "out" / "table2_2.md").read_text()
    assert "50.00 (1)" in second and "91.00" not in second and "epochs 4" in second


def test_headings_and_captions_say_what_holds_of_their_runs(tmp_path, capsys):
    for dataset, share in (("cr", 0.2), ("dblp", 0.0), ("trec", 0.0), ("trec", 0.3)):
        write_run(tmp_path / "data", dataset=dataset, val_fraction=share)
    for own in ({"epochs": 6}, {"epochs": 9}, {"method": "tfidf"}):
        write_run(tmp_path / "methods", **own)
    write_run(tmp_path / "model", max_length=99, **of_language_model("--method llama2"))
    titles, captions = {}, {}
    for name in ("data", "methods", "model"):
        assert report.main([str(tmp_path / name)]) == 0
        printed = capsys.readouterr().out
        titles[name] = sorted(re.findall("## Settings . of 3: (.*)", printed))
        captions[name] = re.findall("Settings: (.*)", printed)
    zero = "val fraction 0"
    assert titles["data"] == [zero, f"val fraction 0.2 / {zero}", "val fraction 0.3"]
    assert titles["methods"] == ["epochs 6", "epochs 9", "no encoder"]
    assert captions["methods"][-1].startswith("no encoder. No significance test")
    assert captions["model"][0].startswith("no encoder. Llama2-7B: base model Llama-2-7b-hf")
    assert "dropout 0.05, max length 99." in captions["model"][0]


def test_roberta_joins_the_runs_that_share_all_but_its_encoder(tmp_path):
    roberta = {"method": "roberta", "encoder": "roberta-base"}
    write_run(tmp_path, 70.0, epochs=6, **roberta), write_run(tmp_path, 60.0, epochs=4, **roberta)
    write_run(tmp_path, 80.0, epochs=6, encoder="minilm", pooling="mean")
    first, second = tables.group(tables.load_runs(tmp_path, "last"))
    assert sorted(first.accuracy) == [70.0, 80.0] and second.accuracy.tolist() == [60.0]
    caption = tables.caption(first, "last", ["max_length"])
    assert "encoder minilm, pooling mean, epochs 6" in caption
    assert "max length 256, of RoBERTa encoder roberta-base, pooling cls." in caption


@pytest.mark.parametrize(
    "first, second",
    [
        ({"method": "roberta"}, {"method": "roberta", "encoder": "roberta-large"}),
        ({"seed": 0}, {"seed": 1, "data_hash": "changed since"}),
    ],
)
def test_two_runs_of_one_cell_and_seed_or_on_other_data_are_refused(tmp_path, first, second):
    write_run(tmp_path, **first), write_run(tmp_path, **second)
    write_run(tmp_path, method="bert")
    with pytest.raises(InputError, match="same cell of a table"):
        read_tables(tmp_path)


def test_the_caption_says_the_protocol_and_runs_without_it_are_counted(tmp_path, capsys):
    epochs = [{"epoch": n, "test": {"accuracy": x, "macro_f1": x}} for n, x in ((1, 77), (2, 70))]
    lines = "".join(json.dumps(epoch | {"val": epoch["test"]}) + "\n" for epoch in epochs)
    (write_run(tmp_path, 70.0) / "metrics.jsonl").write_text(lines)
    write_run(tmp_path, 88.0, seed=1)
    assert report.main([str(tmp_path), "--protocol", "best_val"]) == 0
    output = capsys.readouterr()
    assert (
        "Protocol best_val: of the evaluated epochs, the best in validation macro-F1" in output.out
    )
    assert "77.00 (1)" in output.out and "88.00" not in output.out
    assert output.err == "note: 1 runs have no test of best_val, and are left out\n"


# ---- renderers ----


def small_table():
    best, second = tables.Cell("9.00 ± 0.10 (2)", "best", "†"), tables.Cell("8.00 (1)", "second")
    rows = [
        [("x|y & co", (tables.Cell("–"), best, tables.Cell("")))],
        [("w/o δ_{CLS,CL}", (tables.Cell("7.00 (1)"), second, tables.Cell("1.0 / 2.0")))],
    ]
    columns = [("original", "accuracy"), ("ir 50", "accuracy"), ("ir 50", "paper: acc / F1")]
    parts = [tables.Part("a_b%{}~^#$&\\", columns, rows)]
    return tables.Table("table2", "All", "A 5 % caption.", parts)


def test_markdown_of_a_small_table():
    assert (
        tables.rendered(small_table(), "md")
        == """### All

A 5 % caption.

**a_b%{}\\~^#\\$&\\\\**

|  | original, accuracy | ir 50, accuracy | ir 50, paper: acc / F1 |
|---|---:|---:|---:|
| x\\|y & co | – | **9.00 ± 0.10 (2)**† |  |
| | | | |
| w/o δ_{CLS,CL} | 7.00 (1) | <ins>8.00 (1)</ins> | 1.0 / 2.0 |
"""
    )


def test_latex_of_a_small_table():
    lines = tables.rendered(small_table(), "tex").splitlines()
    odd = r"a\_b\%\{\}\textasciitilde{}\textasciicircum{}\#\$\&\textbackslash{}"
    assert rf"\caption{{All, {odd}. A 5 \% caption.}}" in lines
    best = r"\textbf{9.00 $\pm$ 0.10 (2)}\textsuperscript{\textdagger}"
    assert lines[lines.index(r"\begin{tabular}{lrrr}") :] == [
        r"\begin{tabular}{lrrr}",
        r"\toprule",
        r" & \multicolumn{1}{c}{original} & \multicolumn{2}{c}{ir 50} \\",
        r"\cmidrule(lr){2-2}\cmidrule(lr){3-4}",
        r" & accuracy & accuracy & paper: acc / F1 \\",
        r"\midrule",
        rf"x\textbar{{}}y \& co & -- & {best} &  \\",
        r"\midrule",
        r"w/o $\delta_{\mathrm{CLS,CL}}$ & 7.00 (1) & \underline{8.00 (1)} & 1.0 / 2.0 \\",
        r"\bottomrule",
        r"\end{tabular}}",
        r"\end{table*}",
    ]


# ---- figures ----


def test_a_sweep_holds_the_default_and_its_own_values_in_order(tmp_path):
    write_run(tmp_path, 1.0), write_run(tmp_path, 2.0, changed={"tau": 0.1})
    for seed in (0, 1):
        write_run(tmp_path, 3.0, seed=seed, changed={"mu": 0.3})
    write_run(tmp_path, 4.0, changed={"mu": 0.0}), write_run(tmp_path, 5.0, method="bert")
    write_run(tmp_path, 6.0, changed={"mu": 0.1}, ir=10.0)
    swept = tables.sweep(tables.load_runs(tmp_path, "last"), ("trec", "ir 50"), "mu")
    assert sorted(zip(swept.x, swept.accuracy)) == [(0, 4), (0.3, 3), (0.3, 3), (1, 1)]


def test_an_ablation_alone_is_no_sweep(tmp_path):
    write_run(tmp_path), write_run(tmp_path, changed={"mu": 0.0})
    assert tables.draw(tables.load_runs(tmp_path, "last")) == {}


def test_the_curves_are_the_means_and_the_bands_reach_one_deviation(tmp_path):
    write_seeds(tmp_path, [90.0, 92.0, 94.0], changed={"tau": 0.1})
    write_run(tmp_path, 80.0)
    figure = tables.draw_sweeps([("trec", "ir 50")], tables.load_runs(tmp_path, "last"))
    mu, tau = figure.axes
    line, band = tau.lines[0], tau.collections[0].get_paths()[0].vertices
    assert line.get_xdata().tolist() == [0.1, 0.5] and line.get_ydata().tolist() == [92, 80]
    assert {90.0, 94.0} == set(band[band[:, 0] == 0.1][:, 1]) and not mu.get_visible()
    plt.close(figure)


def test_runs_with_wrong_labels_stay_out_of_the_papers_tables(tmp_path):
    write_run(tmp_path, 90.0, 91.0), write_run(tmp_path, 80.0, 81.0, label_noise=0.2)
    write_run(tmp_path, 60.0, 61.0, label_noise=0.2, method="bert", changed={"x": 1})
    found = read_tables(tmp_path)
    assert list(cells_of(found["table2"].parts[0])) == ["SharpReCL"]
    noisy = {"BERT, x 1, label noise 0.2", "SharpReCL, label noise 0.2"}
    assert set(cells_of(found["other"].parts[0])) == noisy


def test_a_class_has_the_same_colour_in_every_panel(tmp_path):
    for method, labels in (("sclce", "abb"), ("sharprecl", "bc")):
        run = write_run(tmp_path, method=method)
        rows = "".join(f"{i},{i + 1},{label}\n" for i, label in enumerate(labels))
        (run / "tsne.csv").write_text("x,y,label\n" + rows)
    figure = tables.draw_tsne(tables.load_runs(tmp_path, "last"))
    assert [axes.get_title() for axes in figure.axes] == ["SCLCE", "SharpReCL"]
    first, second = (axes.collections for axes in figure.axes)
    assert [len(group.get_offsets()) for group in (*first, *second)] == [1, 2, 0, 0, 1, 1]
    colours = [[group.get_facecolor().tolist() for group in panel] for panel in (first, second)]
    assert [group.get_label() for group in first] == ["a", "b", "c"]
    assert colours[0][1] == colours[1][1] != colours[0][0] != colours[1][2]
    plt.close(figure)


def test_the_figures_of_the_paper_are_written(tmp_path):
    for place in (("r52", None), ("trec", 50.0), ("cr", 50.0), ("评论 1.csv", 20.5)):
        write_run(tmp_path / "runs", dataset=place[0], ir=place[1], changed={"mu": 0.3})
    write_run(tmp_path / "runs", dataset="ohsumed", ir=None)
    run = write_run(tmp_path / "runs", method="spcl")
    (run / "tsne.csv").write_text("x,y,label\n1,2,$a\n3,4,_b\n")
    assert report.main([str(tmp_path / "runs"), "--output_dir", str(tmp_path / "out")]) == 0
    names = {path.stem for path in (tmp_path / "out").glob("*.p*")}
    assert names == {"fig1", "fig3", "figA1", "figA2", "fig4", "fig_mu_tau_评论-1.csv_ir20.5"}
    for name in names:
        assert (tmp_path / "out" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert (tmp_path / "out" / f"{name}.pdf").read_bytes().startswith(b"%PDF")


def test_a_ledger_gives_all_but_the_figure_that_needs_the_class_sizes(tmp_path, capsys):
    for value in (0.3, 0.5):
        write_run(tmp_path / "runs", changed={"mu": value})
    assert report.main([str(tmp_path / "runs")]) == 0
    printed = capsys.readouterr().out
    runs.write(tmp_path / "kept.jsonl.gz", runs.records(tmp_path / "runs"))
    out = tmp_path / "out"
    assert report.main([str(tmp_path / "kept.jsonl.gz"), "--output_dir", str(out)]) == 0
    again = capsys.readouterr()
    assert again.out == printed and "Figure 1 is left out" in again.err
    assert {path.name for path in out.glob("*.png")} == {"figA1.png"}


@pytest.mark.slow
def test_a_pipe_that_closes_ends_it_without_a_traceback(tmp_path):
    write_run(tmp_path)
    script = Path(__file__).parent.parent / "report.py"
    command = shlex.join([sys.executable, str(script), str(tmp_path)])
    line = f"{command} | true; echo ${{PIPESTATUS[0]}}"
    ended = subprocess.run(["bash", "-c", line], text=True, capture_output=True)
    assert (ended.stdout, ended.stderr) == ("141\n", "")


# ---- bad input ----


def rename(name):
    return lambda path: path.write_text(path.read_text().replace(f'"{name}"', '"other"'))


@pytest.mark.parametrize(
    "damage, complaint",
    [
        (lambda path: path.write_text("[1]"), "result.json is missing or damaged"),
        (rename("label_noise"), "another version"),
        (rename("changed"), "'changed'"),
        (lambda path: (path.parent / "tsne.csv").write_text("x,y\n1,2\n"), "tsne.csv is damaged"),
        (Path.unlink, "no finished run; give the --output_dir"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, capsys, damage, complaint):
    damage(write_run(tmp_path / "runs") / "result.json")
    assert report.main([str(tmp_path / "runs"), "--output_dir", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and complaint in error and error.count("\n") == 1

"""grid.py and run_all.sh: which runs the grids hold, and that each runs once."""

import contextlib
import io
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from itertools import product
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import save_tiny_encoder

from augment import AUGMENTATIONS
from baselines import METHODS
from baselines.language_models import MODELS
from engine import grid as grid_module
from engine import grids
from engine.arguments import ABLATIONS, parse_args
from engine.grid import cells_of, ending, read_cells, state
from engine.run_folder import locked
from main import main

ROOT = Path(__file__).parent.parent

# Stands in for main.py: as it does, it locks the run's folder, leaves result.json and says 75 where
# another process has the lock. Writes each start that gets the lock into starts.txt, and waits for
# the file go; the seed says the rest: 13 fails, from 100 on it lasts until it is interrupted.
STUB = """
import fcntl, json, os, signal, sys, time
signal.signal(signal.SIGTERM, signal.default_int_handler)
seed = int(sys.argv[sys.argv.index("--seed") + 1])
folder = os.path.join({output!r}, f"trec_original_method-bert_seed{{seed}}")
os.makedirs(folder, exist_ok=True)
lock = open(os.path.join(folder, ".lock"), "w")
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    sys.exit(75)
if os.path.exists(os.path.join(folder, "result.json")) and "--plots" not in sys.argv:
    sys.exit(0)
try:
    with open(os.path.join({output!r}, "starts.txt"), "a") as starts:
        starts.write(f"{{seed}} {{os.getpid()}} {{' '.join(sys.argv[1:])}}\\n")
    while seed >= 100 or not os.path.exists(os.path.join({output!r}, "go")):
        time.sleep(0.02)
except KeyboardInterrupt:
    open(os.path.join(folder, "interrupted"), "w").close()
    sys.exit(130)
if seed == 13:
    print("error: seed 13 brings bad luck", file=sys.stderr)
    sys.exit(2)
result = {{"last": {{"accuracy": 90.0 + seed, "macro_f1": 80.0 + seed}}, "seconds": 10.0 * seed}}
with open(os.path.join(folder, "result.json"), "w") as file:
    json.dump(result, file)
if "--plots" in sys.argv:
    open(os.path.join(folder, "tsne.csv"), "w").close()
"""


@pytest.fixture
def stub(tmp_path):
    path = tmp_path / "stub.py"
    path.write_text(STUB.format(output=str(tmp_path)))
    (tmp_path / "go").touch()
    return path


def line(seed: int, output_dir, *more: str) -> str:
    common = f"--dataset trec --method bert --seed {seed} --output_dir".split()
    return shlex.join([*common, str(output_dir), *more])


@pytest.fixture
def grid(stub, tmp_path, monkeypatch, capsys):
    """Runs these seeds, or lines, here; the exit code, and what was printed, or the error."""
    handlers = [(name, signal.getsignal(name)) for name in (signal.SIGINT, signal.SIGTERM)]

    def run(seeds, *options: str, script=stub):
        lines = [line(seed, tmp_path) if isinstance(seed, int) else seed for seed in seeds]
        monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
        monkeypatch.setattr(grid_module, "MAIN", script)
        code, printed = grid_module.main(list(options)), capsys.readouterr()
        return code, printed.err if code == 2 else printed.out

    yield run
    for name, handler in handlers:
        signal.signal(name, handler)


def starts(folder: Path) -> Counter:
    """How often each seed was started."""
    path = folder / "starts.txt"
    rows = path.read_text().splitlines() if path.exists() else []
    return Counter(int(row.split()[0]) for row in rows)


IN_BACKGROUND = """
import sys
from engine import grid
grid.MAIN = sys.argv[1]
sys.exit(grid.main(sys.argv[2:]))
"""


def in_background(stub, folder, seeds, *options) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", IN_BACKGROUND, str(stub), *options],
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    process.stdin.write("\n".join(line(seed, folder) for seed in seeds))
    process.stdin.close()
    process.stdin = None  # else communicate() writes to it again
    return process


def one_line_of(capsys) -> str:
    """The only line that was printed, which is an error."""
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert not printed.out and line.startswith("error: ")
    return line


def wait_for(condition, seconds: float = 600):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it never came"
        time.sleep(0.05)


# ---- run_all.sh: which runs ----


VARIABLES = [word.split("=")[0] for word in shlex.split(grids.DEFAULTS[""])]


@pytest.fixture
def run_all(monkeypatch):
    """What run_all.sh calls, in this process, with no other variables than these; its exit code."""

    def run(*arguments: str, **variables: str) -> int:
        with monkeypatch.context() as patch:
            for name in VARIABLES:
                patch.delenv(name, raising=False)
            for name, value in ({"STARTED_IN": os.getcwd()} | variables).items():
                patch.setenv(name, value)
            patch.chdir(ROOT)
            return grids.main(list(arguments))

    return run


@pytest.fixture
def lines_of(run_all, monkeypatch):
    """The runs that run_all.sh hands to grid.py."""

    def lines(*arguments: str, **variables: str) -> list[list[str]]:
        found = []
        with monkeypatch.context() as patch:
            patch.setattr(grids.grid, "main", lambda _, runs, checks_first: found.extend(runs) or 2)
            assert run_all(*arguments, **variables) == 2
        return found

    return lines


def found(cells, *flags: str) -> Counter:
    """How many of the runs have which values of these flags, or of this one."""
    values = [tuple(getattr(cell.args, flag) for flag in flags) for cell in cells]
    return Counter(values if len(flags) > 1 else [value for (value,) in values])


def test_table_2_has_every_method_and_ten_seeds_wherever_the_paper_has_a_column(lines_of):
    # those of Figure 4 have --plots instead
    runs = lines_of("table2")
    lines = [" ".join(run).replace("--plots", "--no_weights") for run in runs]
    first = [line for line in lines if "--seed 0 " in line]
    assert sorted(lines) == sorted(
        line.replace("--seed 0 ", f"--seed {seed} ") for line in first for seed in range(10)
    )
    cells = read_cells(first)
    assert len(cells) == 18 * 19 and set(found(cells, "method")) == set(METHODS) - set(MODELS)
    original = ("r52", "ohsumed", "trec", "dblp", "biomedical", "cr")
    assert found(cells, "dataset", "ir") == {
        **{(name, None): 19 for name in original},
        **{(name, ir): 19 for name in original[2:] for ir in (50, 20, 10)},
    }
    encoders = {"roberta": "roberta-base"}
    for method, encoder in found(cells, "method", "encoder"):
        assert encoder == encoders.get(method, "bert-base-uncased")


def test_table_3_is_off_unless_asked_for_and_pays_only_with_prices(lines_of):
    assert not set(found(cells_of(lines_of(SEEDS="1")), "method")) & set(MODELS)
    cells = cells_of(lines_of("table3", SEEDS="1"))
    assert set(found(cells, "method")) == {"bloom", "llama2", "llama3", "sharprecl"}
    assert set(found(cells, "dataset", "ir")) == SETTING
    paid = cells_of(lines_of("table3", SEEDS="1", PRICES="3 6", DATASETS="trec"))
    (args,) = [cell.args for cell in paid if cell.args.method == "gpt35"]
    assert args.prices == [3, 6] and args.yes and args.ir == 50
    one = cells_of(lines_of("table3", METHODS="llama2", SEEDS="1", DATASETS="cr"))
    assert found(one, "method") == {"llama2": 1}


@pytest.mark.parametrize("name", ["my reviews.csv", "sie ist's für 資料.csv"])
def test_own_texts_are_found_from_any_folder_and_under_any_name(
    lines_of, tmp_path, monkeypatch, name
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text("text,label\ngood,yes\nbad,no\n")
    cells = cells_of(lines_of("own", name, SEEDS="0"))
    assert set(found(cells, "dataset")) == {str(tmp_path / name)}
    augments = dict(found(cells, "method", "augment").keys())
    assert augments.pop("sharprecl") == "none"  # word substitution is for English alone
    assert set(augments) == {"tfidf", "probe", "spcl", "post_hoc", "wce"}
    rates = dict(found(cells, "method", "head_lr").keys())
    assert {n for n, rate in rates.items() if rate == 1e-3} == {"post_hoc", "wce", "sharprecl"}


def test_a_table_that_cannot_be_read_is_one_error_and_no_run(run_all, tmp_path, capsys):
    (tmp_path / "a.csv").write_text("text,label\n")
    assert run_all("own", str(tmp_path / "a.csv"), OUTPUT_DIR=str(tmp_path / "runs")) == 2
    assert "a.csv" in one_line_of(capsys) and not (tmp_path / "runs").exists()


def test_own_validation_texts_are_taken_where_a_folder_brings_them(lines_of, tmp_path):
    (folder := tmp_path / "reviews [2]").mkdir()
    (folder / "train.csv").write_text("text,label\ngood,yes\nbad,no\n")
    shares = []
    for name in ("devices.csv", "Dev.csv"):  # the first is no part of the data
        (folder / name).write_text("text,label\ngood,yes\n")
        cells = cells_of(lines_of("own", str(folder), SEEDS="0", METHODS="la"))
        shares.append([cell.args.val_fraction for cell in cells])
    (folder / "Dev.csv").rename(folder / "validation-00000-of-00001.csv")  # as the hub has it
    cells = cells_of(lines_of("own", str(folder), SEEDS="0", METHODS="la"))
    assert shares == [[0.2], [0.0]] and cells[0].args.val_fraction == 0.0


SETTING = {
    ("r52", None),
    ("ohsumed", None),
    *((name, 50) for name in ("trec", "dblp", "biomedical", "cr")),
}  # of the paper's Table 4
ORIGINAL = {(name, None) for name, _ in SETTING}


@pytest.mark.parametrize(
    "table, flag, values, setting",
    [
        ("table4", "ablation", {None, *ABLATIONS}, SETTING),
        ("tableA1", "augment", {"word_substitution", "noise", "none"}, ORIGINAL),
        ("tableA1_full", "augment", set(AUGMENTATIONS), ORIGINAL),
        ("tableA2", "k", {10, 20, 30, 40, 50}, SETTING),
    ],
)
def test_a_table_varies_one_setting_on_every_dataset(lines_of, table, flag, values, setting):
    cells = cells_of(lines_of(table, SEEDS="8"))
    every = {(*place, value): 1 for place in setting for value in values}
    assert found(cells, "dataset", "ir", flag) == every and found(cells, "method") == {
        "sharprecl": len(every)
    }


@pytest.mark.parametrize(
    "figure, datasets",
    [
        ("fig3", {("ohsumed", None), ("r52", None)}),
        ("figA1", {("trec", 50), ("dblp", 50)}),
        ("figA2", {("biomedical", 50), ("cr", 50)}),
    ],
)
def test_the_figures_vary_mu_or_tau_and_share_the_run_with_both_at_their_defaults(
    lines_of, figure, datasets
):
    cells = cells_of(lines_of(figure, SEEDS="3"))
    values = {0.1, 0.3, 0.5, 0.7, 0.9, 1.0}
    assert set(found(cells, "dataset", "ir")) == datasets
    pairs = [(cell.args.mu, cell.args.tau) for cell in cells if cell.args.dataset in min(datasets)]
    assert len(pairs) == 11
    assert set(pairs) == {(mu, 0.5) for mu in values} | {(1.0, tau) for tau in values}


def test_what_several_tables_want_runs_once_and_with_the_plots(lines_of):
    lines = lines_of(SEEDS="0")
    cells = cells_of(lines)
    # table 2; table 4, A.1, A.2 and the figures without what the tables before have
    assert len(cells) == 18 * 19 + 6 * 9 + 6 * 2 + 6 * 4 + 6 * 10 < len(lines)
    plotted = found([c for c in cells if c.args.plots], "dataset", "ir", "method", "seed")
    assert set(plotted) == {("trec", 50, method, 0) for method in ("sclce", "spcl", "sharprecl")}
    assert all(cell.args.no_weights != cell.args.plots for cell in cells)


def test_variables_narrow_every_table(lines_of, tmp_path):
    chosen = {"DATASETS": "trec cr", "IRS": "20", "SEEDS": "0 4", "METHODS": "bert sharprecl"}
    options = {"EPOCHS": "3", "FLAGS": "--amp bf16", "DATA_DIR": "my data"}
    cells = cells_of(lines_of(**chosen, **options, OUTPUT_DIR=f"{tmp_path}/it's here"))
    assert set(found(cells, "dataset", "method")) == set(
        product(("trec", "cr"), ("bert", "sharprecl"))
    )
    assert set(found(cells, "seed")) == {0, 4}
    assert {ir for method, ir in found(cells, "method", "ir") if method == "bert"} == {20}
    for cell in cells:
        assert (cell.args.epochs, cell.args.amp, cell.args.data_dir) == (3, "bf16", "my data")
        assert cell.folder.parent == tmp_path / "it's here"


def test_flags_replace_those_of_a_table_and_columns_and_encoding_reach_own_texts(
    lines_of, tmp_path
):
    (tmp_path / "a.csv").write_text("text,label\ngood,yes\nbad,no\n")
    flags = "--batch_size 8 --text_column body --read encoding=cp1251"
    for cell in cells_of(lines_of("own", str(tmp_path / "a.csv"), SEEDS="0", FLAGS=flags)):
        args = cell.args
        assert (args.batch_size, args.text_column, args.read) == (8, "body", ["encoding=cp1251"])
        assert cell.argv.count("--batch_size") == 1  # twice would be an error of main.py


def test_roberta_is_left_out_beside_another_encoder_unless_it_is_named(lines_of, tmp_path):
    cells = cells_of(lines_of("table2", ENCODER="minilm", SEEDS="0", DATASETS="cr"))
    assert len(set(found(cells, "method")) - {"roberta"}) == len(cells) / 4 == 18
    own = str(save_tiny_encoder(tmp_path / "my-roberta", "roberta"))
    cells = cells_of(lines_of("table2", ENCODER=own, METHODS="roberta", SEEDS="0"))
    assert set(found(cells, "method", "encoder")) == {("roberta", own)}


def test_quick_has_every_method_but_roberta_and_some_of_every_table(lines_of):
    cells = cells_of(lines_of("quick"))
    assert set(found(cells, "dataset")) == {"trec", "cr"}
    assert set(found(cells, "seed", "encoder")) == {(0, "minilm"), (1, "minilm")}
    table2 = {method for method, ir in found(cells, "method", "ir") if ir == 50}
    assert len(table2) == 18 and "roberta" not in table2
    ours = [cell for cell in cells if cell.args.method == "sharprecl"]
    assert any(cell.args.ablation for cell in ours) and any(cell.args.plots for cell in ours)
    for name in ("k", "augment", "mu", "tau"):
        assert len(found([cell for cell in ours if not cell.args.ablation], name)) == 2, name
    assert len(cells) <= 105  # 14 s of a core each, half of it to start: about 12 minutes


def test_the_report_comes_last_but_not_after_a_dry_run(monkeypatch):
    calls = []
    monkeypatch.setattr(grids.grid, "main", lambda argv, *_, **__: calls.append(argv) or 0)
    monkeypatch.setattr(
        grids.subprocess,
        "run",
        lambda words: calls.append(words[2:]) or subprocess.CompletedProcess(words, 0),
    )
    for name, value in (("JOBS", "3"), ("SHARD", "2/5"), ("OUTPUT_DIR", "there")):
        monkeypatch.setenv(name, value)
    for words in (["table4", "--dry_run"], ["table4"], ["own", str(ROOT / "README.md")]):
        assert grids.main(words) == 0
    plain = ["--jobs", "3", "--shard", "2/5"]
    assert calls == [
        [*plain, "--dry_run"],
        *(plain, ["there", "--output_dir", "there/report"]),
        *(plain, ["there", "--choose"]),
    ]


def test_a_wrong_argument_is_one_line(run_all, capsys, monkeypatch):
    monkeypatch.setattr(grids.grid, "main", lambda *_, **__: 3)  # it is not reached
    assert run_all("table5") == 2 and "table5" in one_line_of(capsys)
    assert run_all("table2", DATASETS="trec treck") == 2 and "treck" in one_line_of(capsys)
    assert run_all("own", "a.csv", STARTED_IN="/none") == 2 and "/none/a.csv" in one_line_of(capsys)


# ---- grid.py: each run once ----


def test_shards_are_disjoint_and_complete(grid):
    shown = []
    for i in (1, 2, 3):
        code, output = grid(range(1, 8), "--dry_run", "--shard", f"{i}/3")
        assert code == 0
        shown.append([row.split("--seed ")[1].split()[0] for row in output.splitlines()[:-1]])
    assert shown == [["1", "4", "7"], ["2", "5"], ["3", "6"]]


@pytest.mark.parametrize("shard", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2"])
def test_a_wrong_shard_is_one_line(grid, capsys, shard):
    with pytest.raises(SystemExit) as stop:
        grid([1], f"--shard={shard}")
    assert stop.value.code == 2 and len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("wrong", ["--dataset trec --mu -1", "--dataset 'trec"])
def test_a_wrong_line_is_named_before_anything_runs(grid, tmp_path, wrong):
    code, error = grid([1, wrong])
    assert code == 2 and error.count("\n") == 1 and repr(wrong) in error and not starts(tmp_path)


def test_finished_runs_are_not_run_again_and_the_numbers_are_shown(grid, tmp_path):
    code, output = grid([1, 2, 2], "--jobs", "2")
    assert code == 0 and starts(tmp_path) == {1: 1, 2: 1}
    assert "trec original bert seed 1: accuracy 91.0, macro-F1 81.0, 10 s" in output
    code, output = grid([1, 2, 3])
    assert code == 0 and starts(tmp_path) == {1: 1, 2: 1, 3: 1}
    assert "3 runs, 2 of them finished before" in output
    assert "[3/3] trec original bert seed 3: accuracy 93.0" in output


def test_a_failed_run_is_listed_at_the_end_and_the_rest_goes_on(grid, tmp_path):
    code, output = grid([13, 1])
    assert code == 1 and starts(tmp_path) == {13: 1, 1: 1}
    last = output.splitlines()[-1]
    assert "seed 13: FAILED (exit 2): error: seed 13 brings bad luck" in last
    assert str(tmp_path / "logs") in last
    assert grid([13, 1])[0] == 1 and starts(tmp_path) == {13: 2, 1: 1}


def test_a_run_without_its_plots_is_not_finished_where_they_are_asked_for(grid, tmp_path):
    grid([1])
    code, output = grid([line(1, tmp_path), line(1, tmp_path, "--plots"), line(1, tmp_path)])
    assert code == 0 and "1 runs, 0 of them finished" in output
    last = (tmp_path / "starts.txt").read_text().splitlines()[-1]
    assert last.endswith("--plots")
    assert grid([line(1, tmp_path, "--plots")])[0] == 0 and starts(tmp_path) == {1: 2}


def test_a_run_of_another_process_is_waited_for(grid, tmp_path, monkeypatch):
    args = parse_args(shlex.split(line(1, tmp_path)))
    with contextlib.ExitStack() as other:
        other.enter_context(locked(args.folder))

        def sleep(seconds):
            if seconds > 1:  # no run of its own is left
                other.pop_all().close()
            else:
                time.sleep(seconds)

        assert grid([1, 2], "--dry_run")[1].startswith("running   python main.py")
        clock = SimpleNamespace(sleep=sleep, monotonic=time.monotonic)
        monkeypatch.setattr(grid_module, "time", clock)
        code, output = grid([1, 2])
    assert code == 0 and starts(tmp_path) == {2: 1, 1: 1} and list(starts(tmp_path)) == [2, 1]
    assert "waiting for 1 runs of other processes" in output


def test_texts_that_changed_after_the_result_are_not_passed_over(tmp_path):
    texts = tmp_path / "own.csv"
    of_old = "text,label\n" + "".join(f"good {i},yes\nbad one {i},no\n" for i in range(5))
    texts.write_text(of_old)
    (cell,) = read_cells([f"--dataset {texts} --method tfidf --output_dir {tmp_path / 'runs'}"])
    assert main(cell.argv) == 0 and state(cell) == "finished"
    for content, code in ((of_old.replace(",no", ",never"), 2), (of_old, 0)):
        texts.write_text(content)
        os.utime(texts, (time.time() + 60,) * 2)
        assert state(cell) == "open" and main(cell.argv) == code  # which looks at the texts
        assert ending(cell, 0)[0]
    (text := tmp_path / "deep" / "train" / "no" / "1.txt").parent.mkdir(parents=True)
    deep = cell._replace(args=parse_args(["--dataset", str(tmp_path / "deep")]))
    text.write_text("bad")
    for seconds, now in ((-60, "finished"), (120, "open")):
        os.utime(text, (time.time() + seconds,) * 2)
        assert state(deep) == now


def test_two_runs_for_one_folder_and_no_runs_at_all_are_refused(grid, tmp_path):
    lines = [line(1, tmp_path).replace("trec", f"{folder}/mine.csv") for folder in "ab"]
    assert grid(lines)[0] == grid([" "])[0] == 2 and not starts(tmp_path)


def test_a_damaged_result_is_named(grid, tmp_path):
    grid([1])
    next(tmp_path.glob("*/result.json")).write_text("{")
    code, error = grid([1], "--dry_run")
    assert code == 2 and "result.json is missing or damaged" in error and "--overwrite" in error


def test_a_dry_run_starts_nothing_and_estimates_by_the_finished_ones(grid, tmp_path):
    code, output = grid([2, 3], "--dry_run")
    assert code == 0 and "2 runs: 0 finished, 0 running elsewhere, 2 open" in output
    assert "no estimate" in output and not starts(tmp_path)
    grid([2, 4])  # 20 and 40 s
    other = "--dataset cr --method dice --output_dir " + shlex.quote(str(tmp_path))
    output = grid([2, 4, 6, line(7, tmp_path, "--mu", "1"), other], "--dry_run", "--jobs", "2")[1]
    states = [row.split()[0] for row in output.splitlines()[:-1]]
    assert states == ["finished", "finished", "open", "open", "open"]
    # three open runs of 30 s and 6 s to start, two at a time
    assert "3 open, 2 at a time: about 54 s, by the mean of 2 finished" in output


def test_times_are_written_in_the_unit_that_fits():
    known = {0.4: "0 s", 99: "99 s", 100: "2 min", 5900: "98 min", 12345: "3 h 26 min"}
    assert {seconds: grid_module.duration(seconds) for seconds in known} == known


def test_each_of_several_jobs_has_its_gpu_and_its_share_of_the_cores(monkeypatch):
    (cell,) = read_cells(["--dataset trec --device cpu"])
    monkeypatch.setattr(grid_module.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert grid_module.environment(cell, 1, 3)["OMP_NUM_THREADS"] == "2"
    assert grid_module.environment(cell, 1, 3)["CUDA_VISIBLE_DEVICES"] == "4,6"  # it uses none
    cell.args.device = "cuda"
    assert [
        grid_module.environment(cell, slot, 3)["CUDA_VISIBLE_DEVICES"] for slot in range(3)
    ] == ["4", "6", "4"]
    assert grid_module.environment(cell, 0, 1)["CUDA_VISIBLE_DEVICES"] == "4,6"
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert grid_module.environment(cell, 0, 99)["OMP_NUM_THREADS"] == "5"


# ---- several runners, and those that are stopped ----


@pytest.mark.slow
def test_two_runners_at_once_run_each_cell_once(stub, tmp_path, grid):
    (tmp_path / "go").unlink()  # the runs last until both runners are there
    seeds = range(1, 9)
    other = in_background(stub, tmp_path, seeds, "--jobs", "2")
    assert other.stdout.readline() == "8 runs, 0 of them finished before, 2 at a time\n"

    def let_them_end():
        try:
            wait_for(lambda: len(starts(tmp_path)) == 4)
        finally:
            (tmp_path / "go").touch()

    threading.Thread(target=let_them_end, daemon=True).start()
    code, output = grid(seeds, "--jobs", "2")
    others_output, _ = other.communicate(timeout=600)
    assert "8 runs, 0 of them finished before" in output and code == other.returncode == 0
    assert starts(tmp_path) == {seed: 1 for seed in seeds}
    for text in (output, others_output):  # each accounts for all runs
        assert text.count("accuracy") == 8


@pytest.mark.parametrize("name", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_runner_stops_its_children_and_says_how_to_go_on(
    grid, tmp_path, name, monkeypatch
):
    if name == signal.SIGTERM:  # in the background of a script, where nobody hears the other
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        monkeypatch.setattr(grid_module, "ENDING", [name])

    def stop():
        wait_for(lambda: len(starts(tmp_path)) == 3)
        os.kill(os.getpid(), name)

    threading.Thread(target=stop, daemon=True).start()
    code, output = grid([1, 100, 101, 2], "--jobs", "2")
    assert code == 130
    assert output.splitlines()[-1].startswith("stopped: 1 of 4 runs are finished")
    interrupted = {path.parent.name[-7:] for path in tmp_path.glob("*/interrupted")}
    assert interrupted == {"seed100", "seed101"}


@pytest.mark.slow
def test_a_real_run_leaves_its_result(corpus_folder, tiny_encoder, tmp_path, grid):
    command = (
        f"--dataset {corpus_folder} --encoder {tiny_encoder} --epochs 1 --device cpu "
        f"--batch_size 32 --no_weights --output_dir {tmp_path} --method bert"
    )
    code, output = grid([command, command], script=grid_module.MAIN)
    result = json.loads(next(tmp_path.glob("*method-bert*/result.json")).read_text())
    assert code == 0
    assert f"seed 0: accuracy {result['last']['accuracy']:.1f}" in output
    assert len(list(tmp_path.glob("*/result.json"))) == len(list(tmp_path.glob("logs/*.log"))) == 1


def test_a_run_with_plots_but_without_an_encoder_is_finished_with_its_confusion_matrix(tmp_path):
    (cell,) = read_cells([f"--dataset trec --method tfidf --plots --output_dir {tmp_path}"])
    cell.folder.mkdir()
    (cell.folder / "result.json").touch()
    assert state(cell) == "open"
    (cell.folder / "confusion_matrix.png").touch()
    assert state(cell) == "finished"

"""
The pages: every command is parsed by its own script, every Python block runs, every file, function
and flag that is named exists, and the pages keep their size.

bash runs the commands, with functions in the place of python, torchrun and the others. They note
what they were called with, so loops, variables and pipes are read as a user's shell reads them.
"""

import argparse
import ast
import importlib
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import matplotlib.image
import pytest
import torch
import yaml
from torch.distributed.run import parse_args as parse_torchrun

import baselines
import main
import predict
import report
from baselines import simple
from engine import grids
from engine.arguments import make_parser, parse_args

ROOT = Path(__file__).resolve().parents[1]
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *DOCS]
SCRIPTS = {"predict.py": predict, "report.py": report}
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def text_of(page: Path) -> str:
    """Returns the page without its comments, which a reader does not see."""
    return re.sub("<!--.*?-->", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text_of(page), re.DOTALL | re.MULTILINE)


def inline_code(page: Path) -> list[str]:
    prose = re.sub("^```.*?^```", "", text_of(page), flags=re.DOTALL | re.MULTILINE)
    return [" ".join(code.split()) for code in re.findall("`([^`]+)`", prose)]


def named(page: Path) -> list[str]:
    """Lists the commands in the prose, and the indented one that .ci/run takes."""
    indented = re.findall(r"^    (bash .*)$", re.sub(r"(?ms)^```.*?^```", "", text_of(page)), re.M)
    return indented + [
        code
        for code in inline_code(page)
        if re.match(r"([A-Z_]+=\S+ )*(python|bash|torchrun|pip|\.venv/\S+) .", code)
    ]


# ---- commands ----

# run_all.sh is run but for its Python, which notes the variables and the arguments that it has.
PRELUDE = r"""
note() { { printf '%q ' "$@"; echo; } >> "$NOTES"; }
python() { note python "$@"; }
source() { [ "$*" = .venv/bin/activate ] || note failed source "$@"; }
torchrun() { note torchrun "$@"; }
pip() { note pip "$@"; }
hf() { :; }
sbatch() { SLURM_ARRAY_TASK_ID=1; eval "${@: -1}"; }
bash() {
    note bash "$@"
    [ "$1" != setup.sh ] || return 0
    PYTHON=$DRY command bash "$ROOT/$1" --dry_run "${@:2}" > /dev/null || note failed "$@"
}
command_not_found_handle() { note failed "$@"; }
"""
DEFAULTS = shlex.split(grids.DEFAULTS[""])
VARIABLES = ("STARTED_IN", *(word.split("=")[0] for word in DEFAULTS))  # of run_all.sh
DRY_PYTHON = f"""#!/bin/bash
[ "$2" = engine.environment ] && exit
for name in {" ".join(VARIABLES)}; do
    [ -n "${{!name}}" ] && variables+=("$name=${{!name}}")
done
printf '%q ' env "${{variables[@]}}" python "$@" >> "$NOTES"
echo >> "$NOTES"
"""


@pytest.fixture(scope="module")
def user(tmp_path_factory) -> Path:
    """Makes the folder of a user, who has a table; and the Python of run_all.sh."""
    folder = tmp_path_factory.mktemp("user")
    rows = [f"a text {i},{i % 2}\n" for i in range(20)]
    (folder / "reviews.csv").write_text("".join(["text,label\n", *rows]))
    (folder / "python").write_text(DRY_PYTHON)
    (folder / "python").chmod(0o755)
    return folder


def run_in(folder: Path, argv: list[str], **variables: str) -> subprocess.CompletedProcess:
    """Runs a program with these variables, and without those of run_all.sh, and returns its end."""
    env = {name: value for name, value in os.environ.items() if name not in VARIABLES} | variables
    return subprocess.run(argv, check=False, cwd=folder, env=env, text=True, capture_output=True)


def calls(commands: str, user: Path) -> list[list[str]]:
    """Runs the commands in bash and returns what they call, each with its arguments."""
    notes = user / "notes"
    notes.write_text("")
    variables = {"NOTES": str(notes), "ROOT": str(ROOT), "DRY": str(user / "python")}
    ran = run_in(user, ["bash", "-c", PRELUDE + commands], **variables)
    assert ran.returncode == 0, ran.stderr
    return [shlex.split(line) for line in notes.read_text().splitlines()]


class Parsed(Exception):
    """Says that the arguments were understood, so that what follows is not run."""


def check_script(script: str, argv: list[str], monkeypatch) -> None:
    """Fails unless the script's own parser takes these arguments."""
    if script == "main.py":
        parse_args(argv)  # more than argparse: what flags mean together
        return
    if argv[:1] == ["engine.grids"]:  # a dry run parses the arguments of each of its runs
        monkeypatch.chdir(ROOT)
        assert grids.main(argv[1:]) == 0, argv
        return

    def parsing(real):
        def parse(parser, *args, **options):
            real(parser, *args, **options)
            raise Parsed

        return parse

    of_all = argparse.ArgumentParser
    for name in ("parse_args", "parse_intermixed_args"):
        monkeypatch.setattr(of_all, name, parsing(getattr(of_all, name)))
    with pytest.raises(Parsed):
        if script in SCRIPTS:
            SCRIPTS[script].main(argv)
        elif script == "-m":
            monkeypatch.setattr(sys, "argv", argv)
            runpy.run_module(argv[0], run_name="__main__")
        else:
            monkeypatch.setattr(sys, "argv", [script, *argv])
            monkeypatch.syspath_prepend(str((ROOT / script).parent))
            runpy.run_path(str(ROOT / script), run_name="__main__")


def check_call(call: list[str], monkeypatch) -> None:
    program, *argv = call
    if program == "env":
        for word in argv[: argv.index("python")]:
            monkeypatch.setenv(*word.split("=", maxsplit=1))
        check_call(argv[argv.index("python") :], monkeypatch)
    elif program == "torchrun":
        options = parse_torchrun(argv)
        check_script(options.training_script, options.training_script_args, monkeypatch)
    elif program == "python":
        check_script(argv[0], argv[1:], monkeypatch)
    elif program == "pip":
        known = (ROOT / "tests" / "requirements.txt").read_text()
        assert argv[0] == "install" and all(f"{name}==" in known for name in argv[1:]), argv
    else:
        assert program == "bash", call  # "failed" names what went wrong


def check_calls(found: list[list[str]]) -> None:
    for call in found:
        with pytest.MonkeyPatch.context() as patch:
            check_call(call, patch)


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")  # tests import it too
@every_page
def test_every_command_is_understood(page, user):
    commands = "\n".join([*blocks(page, "bash"), *named(page)])
    found = calls(commands, user)
    assert len(found) >= len(re.findall(r"\b(?:python|bash|torchrun|pip) ", commands))
    check_calls(found)


@pytest.mark.parametrize(
    "command",
    [
        "python main.py --dataset trec --method la --tau 1",
        "python predict.py runs/RUN new.csv --k",
        "python report.py",
        "pyhton main.py --dataset trec",
        "python benchmarks/loss.py --speed",
        "torchrun --gpus 2 main.py",
        "pip install datasetz",
        "python -m baselines table9",
        "bash run_all.sh table9",
        "METHODS=nobody bash run_all.sh table2",
    ],
)
def test_a_wrong_command_is_found(command, user):
    with pytest.raises((SystemExit, AssertionError, ImportError)):
        check_calls(calls(command, user))


@pytest.mark.parametrize("module", [main, predict, report], ids=lambda module: module.__name__)
def test_the_commands_of_a_docstring_are_understood(module, user):
    lines = re.findall(r"^    (.*\bpython \w+\.py .*)$", module.__doc__, re.MULTILINE)
    assert len(lines) >= 3
    check_calls(calls("\n".join(lines), user))


def test_ci_takes_the_test_command_of_the_readme(user):
    program = re.search(r"awk '(.*?)' README\.md", (ROOT / ".ci" / "run").read_text())[1]
    command = run_in(ROOT, ["awk", program, "README.md"]).stdout.strip()
    assert calls(f"{command} -rs", user) == [["bash", "setup.sh", "test", "-rs"]]


# ---- setup.sh, and a Python without the packages ----


@pytest.fixture
def setup_folder(tmp_path):
    """Makes a folder with setup.sh and a .venv whose programs note their calls and do nothing."""
    shutil.copy(ROOT / "setup.sh", tmp_path)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    for name in ("python", "pip", "ruff", "mypy", "apt-get"):
        program = tmp_path / ".venv" / "bin" / name
        program.write_text(f"""#!/bin/sh
case "{name} $*" in
    *version_info*) exec {shlex.quote(sys.executable)} "$@" ;;
    *"${{FAILS:-nothing}}"*) exit 7 ;;
esac
echo {name} "$@" >> notes
""")
        program.chmod(0o755)
    return tmp_path


def set_up(folder, *argv, fails="", **variables):
    """Runs setup.sh, in which the call that contains `fails` fails; returns also the calls."""
    ran = run_in(folder, ["bash", "setup.sh", *argv], FAILS=fails, **variables)
    notes = folder / "notes"
    return ran, notes.read_text() if notes.exists() else ""


def test_setup_alone_installs_nothing_of_the_tests(setup_folder):
    ran, notes = set_up(setup_folder)
    assert ran.returncode == 0 and "source .venv/bin/activate" in ran.stdout
    assert "-r requirements.txt" in notes and "load_wordnet" in notes
    assert not re.search("tests/requirements|pytest|ruff|mypy", notes)


def test_setup_test_installs_and_runs_the_checks_and_hands_pytest_the_rest(setup_folder):
    ran, notes = set_up(setup_folder, "test", "-m", "not slow", "-rs")
    assert ran.returncode == 0 and "-r tests/requirements.txt" in notes
    checks = "ruff check\nruff format --check\nmypy\npython -m pytest -m not slow -rs\n"
    assert notes.endswith(checks)


@pytest.mark.parametrize("fails", ["-r requirements.txt", "load_wordnet", "ruff check", "mypy"])
def test_setup_test_fails_where_a_step_fails(setup_folder, fails):
    # the first of the PATH has apt-get, which does nothing
    path = f"{setup_folder / '.venv' / 'bin'}:{os.environ['PATH']}"
    ran, notes = set_up(setup_folder, "test", fails=fails, PATH=path)
    assert ran.returncode == 7 and "-m pytest" not in notes


@pytest.mark.parametrize("version", ["3.10.2", "3.15.0"])
def test_setup_says_which_python_it_needs(setup_folder, version):
    python = setup_folder / ".venv" / "bin" / "python"
    python.write_text(f"""#!/bin/sh
[ "$1" = --version ] && echo "Python {version}" && exit
{shlex.quote(sys.executable)} -c "import sys; sys.version_info = ({version.replace(".", ",")}); $2"
""")
    ran, notes = set_up(setup_folder)
    assert ran.returncode == 2 and not notes and ran.stdout == ""
    [line] = ran.stderr.splitlines()
    assert line.startswith("error: this needs Python 3.11 to 3.14") and f"Python {version}" in line
    assert "delete the folder .venv" in line


def test_setup_takes_no_other_word(setup_folder):
    ran, notes = set_up(setup_folder, "tests")
    assert ran.returncode == 2 and not notes and len(ran.stderr.splitlines()) == 1


def test_what_the_modules_import_as_they_are_loaded_is_in_the_requirements():
    known = (ROOT / "requirements.txt").read_text().replace("scikit-learn", "sklearn")
    own = {path.stem for path in ROOT.glob("*.py")} | {"baselines", "engine", "reporting"}
    own |= {"huggingface_hub", "markupsafe", "requests"}  # with transformers, jinja2 and pooch
    for folder in (ROOT, ROOT / "baselines", ROOT / "engine", ROOT / "reporting"):
        for path in folder.glob("*.py"):
            for node in ast.parse(path.read_text()).body:
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module] if isinstance(node, ast.ImportFrom) else []
                for name in {name.split(".")[0] for name in names} - own - sys.stdlib_module_names:
                    assert re.search(rf"^{name}==", known, re.M), f"{path.name} imports {name}"


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory):
    """Makes a Python without packages."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=False)
    return folder / "bin" / "python"


@pytest.mark.parametrize(
    "command",
    ["main.py --help", "predict.py runs/RUN text", "report.py runs"]
    + ["-m baselines", "-m reporting.benchmark", "run_all.sh --dry_run"],
)
def test_python_without_the_packages_is_one_line(command, bare_python):
    program = "bash" if "run_all" in command else str(bare_python)
    ran = run_in(ROOT, [program, *command.split()], PYTHON=str(bare_python))
    assert ran.returncode == 2 and ran.stdout == ""
    [line] = ran.stderr.splitlines()
    assert line.startswith(f"error: {bare_python} lacks torch") and "numpy" in line
    assert line.endswith("source .venv/bin/activate")


# ---- Python ----


@pytest.fixture(scope="module")
def trained(tiny_encoder, corpus_folder):
    """Makes a function that trains for an epoch, into the folder, and asserts that it succeeds."""

    def train(folder: Path, *flags: str) -> None:
        wanted = f"--dataset {corpus_folder} --encoder {tiny_encoder} --output_dir {folder}".split()
        options = "--epochs 1 --batch_size 16 --device cpu".split()
        assert main.main([*wanted, *options, *flags]) == 0

    return train


@pytest.fixture(scope="module")
def a_run(tmp_path_factory, trained):
    """Makes a folder in which runs/RUN is a run, as the pages call it."""
    folder = tmp_path_factory.mktemp("user")
    trained(folder / "runs")
    [run] = [path.parent for path in folder.glob("runs/*/result.json")]
    run.rename(folder / "runs" / "RUN")
    return folder


def prepared() -> dict:
    """Makes what the pages say that a reader has: the file that a new method is written in."""
    own = {"CrossEntropy": baselines.base.CrossEntropy, "Entry": baselines.Entry}
    return own | {"F": torch.nn.functional}


@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.name
)
def test_every_python_block_runs(page, a_run, monkeypatch):
    monkeypatch.chdir(a_run)
    names = prepared()
    for code in blocks(page, "python"):
        exec(code, names)


def test_the_readmes_loss_reaches_all_three_networks():
    names = {}
    exec(blocks(ROOT / "README.md", "python")[0], names)
    assert names["losses"].hard_ratio(names["step"], names["steps"]) == 1
    assert names["loss"].isfinite()
    parts = [names[name] for name in ("classifier", "proj_f", "proj_h")]
    assert all(p.grad.any() for part in parts for p in part.parameters())


def test_the_method_of_the_page_trains_as_it_is_added(trained, tmp_path, monkeypatch):
    page, names = ROOT / "CONTRIBUTING.md", prepared()
    exec(next(code for code in blocks(page, "python") if "SquaredError" in code), names)
    values = re.search(r"Entry\((.*)\)", text_of(page))[1].split(", ")
    entry = baselines.Entry(*map(ast.literal_eval, values))
    monkeypatch.setattr(simple, "SquaredError", names["SquaredError"], raising=False)
    monkeypatch.setitem(baselines.METHODS, entry.name, entry)
    trained(tmp_path, "--method", "squared", "--no_weights")


# ---- what is named, and the size of the pages ----

FOLDERS = ("baselines", "engine", "reporting", "docs", "tests", "benchmarks", "tables", ".ci")


@every_page
def test_every_file_that_is_named_exists(page):
    for code in inline_code(page):
        if re.fullmatch(r"[\w.]+\.(py|sh)", code) or code.split("/")[0] in FOLDERS:
            places = [ROOT / code, ROOT / "benchmarks" / code]
            assert any(place.exists() for place in places), f"{page.name} names {code}"


def anchors(page: Path) -> list[str]:
    """Lists the headings as GitHub names them in addresses."""
    headings = re.findall("^#+ (.*)$", text_of(page), re.MULTILINE)
    return [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]


@every_page
def test_every_link_within_the_repository_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)]+)\)", text_of(page)):
        if not target.startswith("https://"):
            path, _, anchor = target.partition("#")
            other = page.parent / path if path else page
            assert other.exists(), f"{page.name}: {target}"
            assert not anchor or anchor in anchors(other), f"{page.name}: {target}"


@every_page
def test_every_function_that_is_named_exists(page):
    rooms = "main model losses data augment predict report baselines engine reporting".split()
    is_file = ("py", "csv", "html", "json", "jsonl", "safetensors")
    for code in inline_code(page):
        found = re.fullmatch(r"((?:\w+\.)*\w+)\.(\w+)(\(.*)?", code)
        if found and found[1].split(".")[0] in rooms and found[2] not in is_file:
            try:
                assert hasattr(importlib.import_module(found[1]), found[2]), f"{page.name}: {code}"
            except ImportError:
                raise AssertionError(f"{page.name}: {code}") from None


def known_flags() -> set[str]:
    """Collects the flags of all scripts; those of the benchmarks by their source."""
    flags = {
        option
        for parser in (make_parser(), predict.make_parser())
        for action in parser._actions
        for option in action.option_strings
    }
    for path in (ROOT / "report.py", ROOT / "run_all.sh", *(ROOT / "benchmarks").glob("*.py")):
        flags |= set(re.findall(r"--\w+", path.read_text()))
    return flags


@every_page
def test_every_flag_that_is_named_exists(page):
    used = {
        flag
        for code in inline_code(page)
        for flag in re.findall(r"(?<!\S)--\w+", code)
        if not code.startswith(("torchrun", "pip"))
    }
    assert used <= known_flags(), f"{page.name}: {used - known_flags()}"


def test_the_pages_keep_their_budget_of_lines_pages_and_words():
    for page in PAGES:
        lines = page.read_text(encoding="utf-8").splitlines()
        assert len(lines) <= (180 if page.name == "README.md" else 150), page.name
    assert len(DOCS) <= 10
    assert sum(len(page.read_text(encoding="utf-8").split()) for page in DOCS) <= 9000


# ---- the citation and the figure ----


def test_the_citation_file_has_what_its_format_requires_and_agrees_with_readme():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation.keys() >= {"cff-version", "message", "title", "authors"}
    paper = citation["preferred-citation"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    entry = dict(re.findall(r"^  (\w+) += \{(.*)\}", readme, re.MULTILINE))
    names = [f"{author['family-names']}, {author['given-names']}" for author in paper["authors"]]
    assert (entry["title"], entry["author"]) == (paper["title"], " and ".join(names))
    assert (entry["doi"], entry["year"]) == (paper["doi"], str(paper["year"]))


def test_the_figure_of_the_method_is_drawn_and_small(tmp_path):
    drawn = tmp_path / "method.png"
    runpy.run_path(str(ROOT / "docs" / "method_figure.py"))["main"](str(drawn))
    for path in (drawn, ROOT / "docs" / "method.png"):
        _, width, *_ = matplotlib.image.imread(path).shape
        assert width >= 1600 and path.stat().st_size < 150_000

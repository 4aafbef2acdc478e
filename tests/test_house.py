"""The house: imports run one way, and the files that people copy stand by themselves."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = [
    *ROOT.glob("*.py"),
    *(
        path
        for folder in ("baselines", "engine", "reporting")
        for path in (ROOT / folder).glob("*.py")
    ),
]


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in FILES}


def imports_of(name: str) -> set[str]:
    """Our own modules that this one imports when it is loaded, not inside a function."""
    found = set()
    for node in ast.parse(MODULES[name].read_text()).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found & set(MODULES)


def test_the_test_sees_the_imports():
    assert {"losses", "engine.run_folder", "model"} <= imports_of("main")
    assert len(MODULES) > 25


def test_no_module_imports_itself_by_way_of_others():
    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " imports ".join((*way, name))
        if name not in done:
            for other in sorted(imports_of(name)):
                visit(other, (*way, name))
            done.add(name)

    done: set[str] = set()
    for name in MODULES:
        visit(name, ())
    assert done == set(MODULES)


def test_nothing_below_imports_what_people_type():
    typed = {"main", "predict", "report"}
    for name in set(MODULES) - typed:
        assert not imports_of(name) & typed, name


@pytest.mark.parametrize("name", ["losses", "augment", "data", "model"])
def test_the_files_that_people_copy_need_one_other_file_at_most(name):
    own = {
        "losses": set(),
        "augment": {"engine.files"},
        "data": {"engine.files", "augment"},
        "model": {"engine.files", "data", "augment"},
    }
    assert imports_of(name) - {"engine"} <= own[name]


def test_the_copied_files_run_in_an_empty_folder(tmp_path):
    for name in ("losses.py", "augment.py", "data.py", "model.py"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "engine").mkdir()
    shutil.copy(ROOT / "engine" / "files.py", tmp_path / "engine")
    code = """
import augment, data, losses, model, torch
rows = [(f"{label} text {i}", label) for label in "ab" for i in range(8)]
corpus = data.to_corpus("own", rows, rows[:2] + rows[-2:])
kept = data.imbalanced_rows(corpus.train_labels, 4.0)
print(data.select(corpus, kept).train_labels.tolist(), augment.noise(["a b c"], seed=1))
print(losses.class_weights(torch.tensor([8, 2])).tolist(), model.SharpReCL)
"""
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, text=True, capture_output=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("[0, 0, 0, 0, 0, 0, 0, 0, 1, 1]")


def lines_in(function: str, path: Path) -> list[int]:
    """Lists the lines of Algorithm 1 that the comments in a function name."""
    text = path.read_text()
    [node] = [node for node in ast.parse(text).body if getattr(node, "name", "") == function]
    own = "\n".join(text.splitlines()[node.lineno - 1 : node.end_lineno])
    comments = re.findall(r"# lines? ([\d, ]+)", own)
    return [int(line) for comment in comments for line in comment.split(",")]


@pytest.mark.parametrize("path", [*FILES, *(ROOT / "benchmarks").glob("*.py")], ids=str)
def test_every_model_is_loaded_without_the_code_that_comes_with_it(path):
    tree, checked = ast.parse(path.read_text()), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            if getattr(node.func, "id", None) in ("load_pretrained", "_load"):
                checked.add(node.args[0])  # files.load_pretrained refuses the code
            refuses = [word.value for word in node.keywords if word.arg == "trust_remote_code"]
            if [getattr(value, "value", None) for value in refuses] == [False]:
                checked.add(node.func)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in ("from_pretrained", "from_config"):
            assert node in checked, ast.unparse(node)


def test_main_is_short_and_has_the_lines_of_algorithm_1_in_order():
    main, text = ROOT / "main.py", (ROOT / "main.py").read_text()
    assert len(text.splitlines()) <= 220
    functions = [node.name for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
    assert functions == ["objective", "train_epoch", "evaluate", "observe", "train", "run", "main"]
    body = lines_in("objective", main)
    assert body == sorted(body) and set(body) == set(range(4, 14)) - {10}  # which has no flag
    inside = lines_in("sharprecl", ROOT / "losses.py")
    assert inside == sorted(inside) and set(inside) == set(range(6, 14))
    around = lines_in("train", main) + lines_in("train_epoch", main)
    assert set(around) == {1, 2, 3, 14, 15}
    assert text.count("args.method") == 1 and "nn.DataParallel" in text

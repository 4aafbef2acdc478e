"""The house: imports run one way, and the files that people copy stand by themselves."""

import ast
import graphlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = [
    path
    for folder in ("", "baselines", "engine", "reporting")
    for path in (ROOT / folder).glob("*.py")
]


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in FILES}


STOREYS = {
    **dict.fromkeys(("losses", "model", "data", "augment", "baselines"), 0),
    **dict.fromkeys(("engine", "main"), 1),
    **dict.fromkeys(("reporting", "predict", "report"), 2),
}
# main.py draws after its last line of work: it may import reporting in a function
ABOVE = {("main", "reporting")}


def storey(name: str) -> int:
    return STOREYS[name.split(".")[0]]


def imports_of(name: str, anywhere: bool = False) -> set[str]:
    """Our own modules that this one imports when it is loaded; anywhere: in its functions too."""
    tree, found = ast.parse(MODULES[name].read_text()), set()
    for node in ast.walk(tree) if anywhere else tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found & set(MODULES)


def test_the_test_sees_the_imports():
    assert {"losses", "engine.run_folder", "model"} <= imports_of("main")
    assert len(MODULES) > 25 and {storey(name) for name in MODULES} == {0, 1, 2}


@pytest.mark.parametrize("name", MODULES)
def test_nothing_imports_from_a_higher_storey(name):
    above = {other for other in imports_of(name, anywhere=True) if storey(other) > storey(name)}
    assert {other for other in above if (name, other.split(".")[0]) not in ABOVE} == set()


def test_no_module_imports_itself_by_way_of_others():
    graphlib.TopologicalSorter({name: imports_of(name) for name in MODULES}).prepare()  # CycleError


def test_no_paper_file_imports_itself_by_way_of_others_inside_functions_either():
    uses = {"losses": set(), "data": set(), "augment": {"data"}, "model": {"data"}}
    for name, known in uses.items():
        assert imports_of(name, anywhere=True) == known


def test_nothing_below_imports_what_people_type():
    typed = {"main", "predict", "report"}
    for name in set(MODULES) - typed:
        assert not imports_of(name, anywhere=True) & typed, name


COPIED = """
import sys

for name in ("engine", "baselines", "pandas", "scipy", "sklearn", "pooch", "matplotlib", "pyarrow"):
    sys.modules[name] = None  # an import of it fails
import augment, data, losses, model, torch
from transformers import BertConfig, BertModel

rows = [(f"{label} text {i}", label) for label in "ab" for i in range(8)]
corpus = data.to_corpus("own", rows, rows[:2] + rows[-2:])
corpus = data.select(corpus, data.imbalanced_rows(corpus.train_labels, 4.0))
print(corpus.train_labels.tolist())

texts = [corpus.train_texts, augment.noise(corpus.train_texts, seed=1)]
words = sorted({word for view in texts for text in view for word in text.split()})
ids = [torch.tensor([[words.index(word) for word in text.split()[:3]] + [0] * (
    3 - len(text.split()[:3])) for text in view]) for view in texts]
config = BertConfig(vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                    intermediate_size=16)
torch.manual_seed(0)
network = model.SharpReCL(model.TextEncoder(BertModel(config), "cls"), num_classes=2)
feat = network.encoder(torch.cat(ids), torch.ones(20, 3))
step = losses.sharprecl(
    network.classify(feat), torch.tensor(corpus.train_labels).repeat(2),
    data.class_counts(corpus.train_labels, 2), network.project(feat), network.prototypes(), 0.5)
step.loss.backward()
print(step.loss.isfinite().item(), network.phi.weight.grad.abs().sum().item() > 0)
try:
    data.to_corpus("own", rows[:3])
except ValueError as error:
    print(error)
"""


def test_the_copied_files_take_a_step_in_an_empty_folder(tmp_path):
    for name in ("losses.py", "augment.py", "data.py", "model.py"):
        shutil.copy(ROOT / name, tmp_path)
    ran = subprocess.run(
        [sys.executable, "-c", COPIED], cwd=tmp_path, text=True, capture_output=True
    )
    assert ran.returncode == 0, ran.stderr
    labels, step, error = ran.stdout.splitlines()
    assert labels == str([0] * 8 + [1] * 2) and step == "True True"
    assert error.startswith("own: 3 training texts of 1 classes")


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
            # files.load_pretrained and augment.load_part refuse the code
            if getattr(node.func, "id", None) in ("load_pretrained", "_load", "load"):
                checked.add(node.args[0])
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


MOST_LINES = {  # of a file or a room; a change that needs more lines says why, and moves its number
    "main.py": 220,
    "model.py": 200,
    "losses.py": 490,  # 400 were agreed on: the checks name each argument
    "data.py": 630,  # 500, before the five datasets of the benchmark
    "augment.py": 565,  # 500, before it could be copied with data.py alone
    "predict.py": 400,
    "report.py": 80,
    "run_all.sh": 120,
    "README.md": 180,
    "engine": 6653,  # 3,600, before files of twelve kinds, 16 encoders and the benchmark
    "baselines": 1700,
    "reporting": 2650,  # 2,000, before the benchmark, the choice and the score of own texts
    "benchmarks": 640,
    "tests": 12901,  # 11,000, before these
}


def lines_of(place: str) -> int:
    path = ROOT / place
    files = [path] if path.is_file() else path.rglob("*.py")
    return sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files)


@pytest.mark.parametrize("place, most", MOST_LINES.items())
def test_no_room_outgrows_its_lines(place, most):
    assert lines_of(place) <= most


@pytest.mark.parametrize("path", [*FILES, *(ROOT / "benchmarks").glob("*.py")], ids=str)
def test_no_function_has_more_than_60_lines(path):
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
    sizes = {node.name: node.end_lineno - node.lineno + 1 for node in functions}
    assert {name: size for name, size in sizes.items() if size > 60} == {}

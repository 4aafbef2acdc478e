"""
The table of encoders in docs/methods.md, cell by cell, on a tiny model of each family.
"""

import itertools
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import save_tiny_encoder
from test_export import TEXTS, about_of, logits_of, network, write
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from engine.encoders import FrozenEncoder, load_encoder, load_tokenizer
from engine.files import InputError
from reporting import export

PAGE = Path(__file__).resolve().parents[1] / "docs" / "methods.md"
FAMILIES = {  # of the table's encoders, where it is no part of the name
    "bge": "bert",
    "e5": "bert",
    "minilm": "bert",
    "nomic": "nomic_bert",
    "deberta": "deberta-v2",
}
KNOWN = (
    "xlm-roberta camembert distilbert albert electra modernbert eurobert mpnet qwen3 roberta bert"
)


def table() -> dict[tuple[str, str], list[list[str]]]:
    """The cells of the table's encoders, by family and pooling."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| encoder |"))
    found = defaultdict(list)
    for line in itertools.takewhile(lambda line: line.startswith("|"), lines[start + 2 :]):
        name, pooling, *cells = [cell.strip() for cell in line.strip("|").split("|")]
        names = FAMILIES | {family: family for family in KNOWN.split()}
        family = next(names[part] for part in names if part in name.lower())
        found[family, pooling].append([name, *cells])
    return found


@torch.no_grad()
def keeps_states(folder, pooling) -> bool:
    """Whether layers can be frozen and their output kept, with the same features."""
    try:
        encoder = load_encoder(str(folder), pooling, 1).eval()
    except InputError:
        return False
    batch = load_tokenizer(str(folder))(TEXTS, padding=True, return_tensors="pt")
    ids, mask = batch["input_ids"], batch["attention_mask"].bool()
    states = encoder.lower_states(ids, mask)
    assert isinstance(encoder, FrozenEncoder)
    torch.testing.assert_close(encoder(None, mask, states=states), encoder(ids, mask))
    return True


@torch.no_grad()
def fits_transformers(folder, expected) -> bool:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    stock = AutoModelForSequenceClassification.from_pretrained(folder)
    torch.testing.assert_close(stock(**batch).logits, expected, rtol=0, atol=1e-4)
    return True


def check_onnx(folder, logits):
    runtime = pytest.importorskip("onnxruntime")
    path = export.export(folder, "onnx", None)
    batch = AutoTokenizer.from_pretrained(path)(TEXTS, padding=True, return_tensors="np")
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    (got,) = runtime.InferenceSession(path / "model.onnx").run(["logits"], inputs)
    np.testing.assert_allclose(got, logits, atol=1e-4)


def check_sentence_transformers(folder, feat):
    library = pytest.importorskip("sentence_transformers")
    path = export.export(folder, "embeddings", None)
    got = library.SentenceTransformer(str(path), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(got, feat, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family, pooling", sorted(table()))
def test_the_table_of_encoders_says_what_works(tmp_path, family, pooling):
    folder = save_tiny_encoder(tmp_path / "encoder", family)
    about = about_of("sharprecl", pooling)
    method = network(folder, about)
    reason = write(tmp_path / "model", method, folder, about)
    logits, feat = logits_of(method, load_tokenizer(str(folder)))
    found = [
        keeps_states(folder, pooling),
        not reason and fits_transformers(tmp_path / "model", logits),
    ]
    check_onnx(tmp_path / "model", logits)
    check_sentence_transformers(tmp_path / "model", feat)
    for name, _, *cells in table()[family, pooling]:
        assert [cell == "yes" for cell in cells] == found, (name, reason)

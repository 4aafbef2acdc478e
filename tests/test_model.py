"""model.py: pooling, prototypes, and the loading of encoders."""
import types

import pytest
import torch
from conftest import save_tiny_encoder
from safetensors.torch import load_file, save_file

import model as M
from engine.files import InputError


@pytest.fixture(autouse=True)
def forget_the_verified_folder():
    M.minilm_folder.cache_clear()
    yield
    M.minilm_folder.cache_clear()


class Embedding(torch.nn.Module):
    """A stand-in backbone whose hidden state of token i is (i, 10 i)."""
    config = types.SimpleNamespace(hidden_size=2, model_type="stand-in")

    def forward(self, input_ids, attention_mask):
        hidden = torch.stack([input_ids, 10 * input_ids], dim=-1).float()
        return types.SimpleNamespace(last_hidden_state=hidden)


def test_cls_pooling_takes_the_first_token_and_mean_pooling_the_mean_without_padding():
    ids = torch.tensor([[3, 5, 100], [2, 4, 6]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    assert M.TextEncoder(Embedding(), "cls")(ids, mask).tolist() == [[3, 30], [2, 20]]
    assert M.TextEncoder(Embedding(), "mean")(ids, mask).tolist() == [[4, 40], [4, 40]]


def test_logits_are_w_transposed_feat_without_a_bias():
    network = M.SharpReCL(M.TextEncoder(Embedding(), "cls"), num_classes=3)
    with torch.no_grad():
        network.phi.weight.copy_(torch.tensor([[1., 0.], [0., 1.], [2., 3.]]))
    assert network.classify(torch.tensor([[5., 7.]])).tolist() == [[5, 7, 31]]


def test_prototypes_are_the_mlp_of_the_classifier_weights_worked_by_hand():
    network = M.SharpReCL(M.TextEncoder(Embedding(), "cls"), num_classes=2, proj_dim=1)
    hidden, output = network.proj_h[0], network.proj_h[-1]
    with torch.no_grad():
        network.phi.weight.copy_(torch.tensor([[1., 2.], [-3., 1.]]))
        hidden.weight.copy_(torch.eye(2)), hidden.bias.copy_(torch.tensor([0., -1.]))
        output.weight.copy_(torch.tensor([[10., 100.]])), output.bias.copy_(torch.tensor([5.]))
    # relu(1, 1) -> 10 + 100 + 5;  relu(-3, 0) -> 5
    assert network.prototypes().tolist() == [[115], [5]]


@pytest.mark.parametrize("mutual_guidance", [True, False])
def test_the_prototypes_link_the_branches_only_under_mutual_guidance(mutual_guidance):
    network = M.SharpReCL(M.TextEncoder(Embedding(), "cls"), num_classes=3,
                          mutual_guidance=mutual_guidance)
    network.prototypes().pow(2).sum().backward()
    assert network.prototypes().shape == (3, 128)
    assert (network.phi.weight.grad is not None) == mutual_guidance


def test_batch_norm_stands_in_the_heads_only_when_asked_for():
    def norms(**options):
        network = M.SharpReCL(M.TextEncoder(Embedding(), "cls"), num_classes=3, **options)
        return sum(isinstance(module, torch.nn.BatchNorm1d) for module in network.modules())
    assert norms() == 0 and norms(proj_bn=True) == 2


@pytest.mark.parametrize("model_type", ["bert", "roberta", "distilbert"])
def test_encoders_of_three_families_load_and_carry_no_unused_pooler(tmp_path, model_type):
    folder = save_tiny_encoder(tmp_path / "encoder", model_type)
    encoder, tokenizer = M.load_encoder(str(folder), "cls"), M.load_tokenizer(str(folder))
    batch = tokenizer(["a small animal", "food"], padding=True, return_tensors="pt")
    encoder.train()
    encoder(batch["input_ids"], batch["attention_mask"]).sum().backward()
    unused = [name for name, p in encoder.named_parameters() if p.grad is None]
    assert unused == []


def test_a_folder_that_is_no_model_is_an_input_error_of_one_line(tmp_path):
    with pytest.raises(InputError, match="not a complete model folder") as caught:
        M.load_encoder(str(tmp_path), "cls")
    assert "\n" not in str(caught.value)


def test_an_encoder_that_is_nowhere_is_an_input_error_without_a_retry(monkeypatch):
    calls = []

    def unreachable(address, timeout):
        calls.append(address)
        raise ConnectionError("no route to host")
    monkeypatch.setattr(M, "get_hf_file_metadata", unreachable)
    with pytest.raises(InputError, match="nor in the cache.*no route to host.*--encoder") as caught:
        M.load_tokenizer("nobody/has-this-model")
    assert len(calls) == 1 and "\n" not in str(caught.value)


def fake_package(monkeypatch, tmp_path, weights: bytes | None):
    folder = tmp_path / "package" / "model"
    folder.mkdir(parents=True)
    if weights is not None:
        (folder / "model.safetensors").write_bytes(weights)
    spec = types.SimpleNamespace(origin=str(folder.parent / "__init__.py"))
    monkeypatch.setattr(M.importlib.util, "find_spec", lambda name: spec)


@pytest.mark.parametrize("weights", [b"altered", None])
def test_altered_or_missing_minilm_weights_are_refused(monkeypatch, tmp_path, weights):
    fake_package(monkeypatch, tmp_path, weights)
    with pytest.raises(InputError, match="is not the published file"):
        M.load_encoder("minilm", "mean")


def test_minilm_from_the_hub_is_verified_too_where_its_package_is_absent(monkeypatch, tmp_path):
    asked = []

    def download(name, *, local_files_only=False, allow_patterns):
        asked.append((name, local_files_only))
        return str(tmp_path)
    monkeypatch.setattr(M.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(M, "snapshot_download", download)
    (tmp_path / "model.safetensors").write_bytes(b"altered on the way")
    with pytest.raises(InputError, match="is not the published file"):
        M.load_tokenizer("minilm")
    assert asked == [("sentence-transformers/all-MiniLM-L6-v2", True)]


def test_an_encoder_without_its_weights_is_refused_rather_than_random(tmp_path):
    folder = save_tiny_encoder(tmp_path / "encoder")
    weights = load_file(folder / "model.safetensors")
    save_file({"model." + name: tensor for name, tensor in weights.items()},
              folder / "model.safetensors")
    with pytest.raises(InputError, match="weights do not fit"):
        M.load_encoder(str(folder), "cls")


@pytest.mark.parametrize("model_type, limit", [("bert", 130), ("roberta", 129)])
def test_the_longest_text_is_what_the_positions_allow(tmp_path, model_type, limit):
    encoder = M.load_encoder(str(save_tiny_encoder(tmp_path / "encoder", model_type)), "cls")
    assert M.max_positions(encoder) == limit

    def run(length):
        return encoder(torch.ones(1, length, dtype=torch.long), torch.ones(1, length))
    run(limit)
    with pytest.raises((RuntimeError, IndexError)):
        run(limit + 1)


def test_minilm_puts_like_sentences_together():
    encoder, tokenizer = M.load_encoder("minilm", "mean"), M.load_tokenizer("minilm")
    batch = tokenizer(["A man is eating food.", "Someone eats a meal.", "The stock market fell."],
                      padding=True, return_tensors="pt")
    with torch.no_grad():
        feat = torch.nn.functional.normalize(
            encoder(batch["input_ids"], batch["attention_mask"]), dim=1)
    same, other = feat[0] @ feat[1], feat[0] @ feat[2]
    assert feat.shape == (3, 384) and same > 0.6 and other < 0.2

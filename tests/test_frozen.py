"""--freeze_layers: layers that stay as pretrained, and their states that are computed once."""

import csv
import re

import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import stopped_after, untrained
from test_loader import CPU, FREE, LENGTHS, encoder_of, gradients_of, texts_of
from test_main import folder_of, outcome
from transformers import AutoConfig, AutoModel

import data
import predict
from data import InputError
from engine import frozen, loader
from engine.encoders import load_encoder
from engine.frozen import FrozenEncoder
from main import main
from model import TextEncoder

HALF = 2.0**-11  # the relative rounding of float16
SHAPES = ["bert", "roberta", "distilbert"]


def frozen_names(encoder, layers):
    """The parameters of the embeddings and of the lowest layers, by their names alone."""
    lowest = tuple(f"layer.{number}." for number in range(layers))
    return {
        name
        for name, _ in encoder.backbone.named_parameters()
        if name.startswith("embeddings.") or name.split(".", 1)[1].startswith(lowest)
    }


def kept(encoder, texts, cache_dir):
    """The texts with their states, taken from the file as a batch is."""
    texts = frozen.keep_states(texts, encoder, cache_dir)
    return texts.take(np.arange(len(texts.lengths)))


# ---- the encoder ----


@pytest.mark.parametrize("shape", SHAPES)
def test_the_frozen_part_has_no_dropout_and_the_trained_part_has(shape):
    texts = texts_of(LENGTHS)
    encoder = encoder_of(shape, frozen_layers=1, dropout=True).eval().train()
    ids, mask = torch.arange(5, 25).view(2, 10), torch.ones(2, 10, dtype=torch.bool)
    first, second = encoder.lower_states(ids, mask), encoder.lower_states(ids, mask)
    assert torch.equal(first, second)
    passes = [loader.encode(encoder, texts, CPU) for _ in range(2)]
    assert not torch.equal(*passes)
    all_frozen = encoder_of(shape, frozen_layers=2, dropout=True)
    assert torch.equal(*(loader.encode(all_frozen, texts, CPU) for _ in range(2)))


SIZES = {  # of a tiny encoder, in every family's words; a local window is shorter than a text
    **dict.fromkeys(("hidden_size", "dim"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layers"), 4),
    **dict.fromkeys(("num_attention_heads", "n_heads", "sliding_window_pattern"), 2),
    **dict.fromkeys(("intermediate_size", "hidden_dim"), 64),
    **dict.fromkeys(("head_dim", "embedding_size"), 16),
    **dict.fromkeys(("local_attention", "sliding_window", "position_buckets"), 8),
    **dict.fromkeys(("relative_attention", "share_att_key"), True),
    **{"vocab_size": 90, "max_position_embeddings": 80, "pad_token_id": 0, "conv_kernel_size": 3},
    **{"num_key_value_heads": 1, "global_attn_every_n_layers": 3},
    **{"norm_rel_ebd": "layer_norm", "pos_att_type": ["p2c", "c2p"]},
}
FAMILIES = (
    "bert roberta distilbert mpnet electra deberta-v2 modernbert eurobert nomic_bert "
    "qwen3 gemma3_text gpt2 llama"
).split()


def tiny(family, frozen_layers):
    """An encoder of four layers, without dropout, whose weights are large enough to matter."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(family)
    config = AutoConfig.for_model(
        family, **{name: value for name, value in SIZES.items() if hasattr(config, name)} | FREE
    )
    backbone = AutoModel.from_config(config)
    if getattr(backbone, "pooler", None) is not None:
        backbone.pooler = None
    with torch.no_grad():
        for weight in backbone.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
    if frozen_layers == 0:
        return TextEncoder(backbone.eval(), "mean")
    return FrozenEncoder(backbone.eval(), "mean", frozen_layers)


def padded(rows=3, length=40):
    ids = torch.randint(5, 90, (rows, length), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, 25:] = 0
    return ids, mask


@pytest.mark.parametrize("family", FAMILIES)
def test_in_every_family_what_decides_the_lower_states_is_frozen_and_nothing_else(family):
    frozen_by_us, (ids, mask) = tiny(family, 2), padded()
    backbone = tiny(family, 0).backbone
    # by transformers: a weight decides the states if it moves any number of them
    states = backbone(ids, attention_mask=mask, output_hidden_states=True).hidden_states[2]
    (states[mask.bool()] * torch.randn(int(mask.sum()), 32)).sum().backward()
    largest = {
        name: w.grad.abs().max() for name, w in backbone.named_parameters() if w.grad is not None
    }
    floor = 1e-6 * max(largest.values())
    decisive = {name for name, size in largest.items() if size > floor}
    assert decisive <= frozen_by_us.frozen_weights
    spared = frozen_by_us.frozen_weights - decisive  # softmax does not see the bias of a key
    assert all(re.search(r"key|\bk_|\bk\.", name) for name in spared), spared
    assert len(decisive) > 10


@pytest.mark.parametrize("family", FAMILIES)
def test_in_every_family_gradients_are_none_below_and_unchanged_above(family):
    ids, mask = padded()
    frozen_, free = tiny(family, 2), tiny(family, 0)
    got, expected = (gradients_of(encoder, encoder(ids, mask)) for encoder in (frozen_, free))
    assert {f"backbone.{name}" for name in frozen_.frozen_weights} == expected.keys() - got.keys()
    assert len(got) > 10
    for name, gradient in got.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("family", FAMILIES)
def test_in_every_family_kept_states_give_the_same_features(family):
    ids, mask = padded()
    for encoder in (tiny(family, 1), tiny(family, 4)):
        with torch.no_grad():
            states = encoder.lower_states(ids, mask)
            exact, kept_ = encoder(ids, mask), encoder(None, mask, states=states)
        torch.testing.assert_close(kept_, exact, rtol=0, atol=1e-5)
        assert exact.std() > 0.01


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layers", [1, 2])
def test_kept_states_are_the_layers_own_output_rounded_to_float16(tmp_path, shape, layers):
    encoder, texts = encoder_of(shape, frozen_layers=layers).eval(), texts_of(LENGTHS)
    states = kept(encoder, texts, tmp_path).states
    assert states.dtype == np.float16 and states.shape == (sum(LENGTHS), 32)
    with torch.no_grad():  # each text for itself, by transformers
        rows = [texts.ids[None, a:b] for a, b in zip(texts.offsets, texts.offsets[1:])]
        outputs = (
            encoder.backbone(torch.from_numpy(ids.astype(np.int64)), output_hidden_states=True)
            for ids in rows
        )
        expected = np.concatenate([out.hidden_states[layers][0].numpy() for out in outputs])
    assert np.all(np.abs(states - expected) <= HALF * np.abs(expected) + 1e-5)
    assert not np.array_equal(states.astype(np.float32), expected)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("shape", [*SHAPES, "minilm"])
def test_feat_and_gradients_with_kept_states_are_close_to_those_without(tmp_path, shape, pooling):
    encoder, texts = encoder_of(shape, pooling, frozen_layers=1), texts_of(LENGTHS)
    exact = loader.encode(encoder, texts, CPU)
    rounded = loader.encode(encoder, kept(encoder, texts, tmp_path), CPU)
    # every state is off by at most its rounding; the layers above may enlarge it, but little
    assert ((rounded - exact).norm(dim=1) <= 8 * HALF * exact.norm(dim=1)).all()
    assert not torch.equal(rounded, exact)
    got, expected = gradients_of(encoder, rounded), gradients_of(encoder, exact)
    assert got.keys() == expected.keys()
    largest = max(gradient.norm() for gradient in expected.values())
    for name, gradient in expected.items():
        assert (got[name] - gradient).norm() <= 16 * HALF * gradient.norm() + 1e-4 * largest, name


# ---- the cache ----


def test_states_are_found_again_but_not_by_other_weights_layers_or_texts(tmp_path, monkeypatch):
    writes, write = [], frozen._write
    monkeypatch.setattr(frozen, "_write", lambda *inputs: (writes.append(1), write(*inputs)))
    texts = texts_of(LENGTHS)
    first = kept(encoder_of(frozen_layers=1), texts, tmp_path).states
    again = kept(encoder_of(frozen_layers=1), texts, tmp_path).states
    assert len(writes) == 1 and np.array_equal(first, again)
    # what is above the frozen layers decides nothing
    other_top = encoder_of(frozen_layers=1)
    with torch.no_grad():
        other_top.layers()[1].output.dense.weight.add_(1)
    kept(other_top, texts, tmp_path)
    assert len(writes) == 1
    one_number = encoder_of(frozen_layers=1)
    with torch.no_grad():
        one_number.layers()[0].output.dense.bias[3] += 1e-3
    others = [
        (one_number, texts),
        (encoder_of(frozen_layers=1, seed=1), texts),
        (encoder_of(frozen_layers=2), texts),
        (encoder_of(frozen_layers=1), texts_of(LENGTHS, seed=1)),
        (encoder_of(frozen_layers=1), texts_of(LENGTHS[::-1])),
    ]
    for number, (encoder, other_texts) in enumerate(others, start=2):
        kept(encoder, other_texts, tmp_path)
        assert len(writes) == number
    assert len(list(tmp_path.iterdir())) == 6


def test_a_file_of_states_of_another_size_as_older_versions_left_it_is_made_anew(tmp_path):
    encoder, texts = encoder_of(frozen_layers=1), texts_of(LENGTHS)
    expected = np.array(kept(encoder, texts, tmp_path).states)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes() + 32 * b"x")
    assert np.array_equal(kept(encoder, texts, tmp_path).states, expected)


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)])
def test_where_one_views_states_are_too_large_those_of_all_views_are_computed(
    tmp_path, monkeypatch, capsys, order
):
    encoder, short = encoder_of(frozen_layers=1).eval(), texts_of([5, 9])
    monkeypatch.setattr(frozen, "MOST_BYTES", 2 * 32 * sum([5, 9]))
    views = [kept(encoder, view, tmp_path) for view in (short, texts_of([6, 9]))][order]
    assert [view.states is None for view in views] == [False, True][order]
    assert len(list(tmp_path.iterdir())) == 1  # of the first view
    assert "computed anew at each step" in capsys.readouterr().out
    plain = data.join([short, texts_of([6, 9])][order])
    got, expected = (loader.encode(encoder, texts, CPU) for texts in (data.join(views), plain))
    assert torch.equal(got, expected)


# ---- through main.py ----


@pytest.fixture
def command(corpus_folder, two_layers, tmp_path):
    """The arguments of a run of three epochs with the lower of two layers frozen."""
    flags = "--epochs 3 --batch_size 16 --lr 1e-3 --device cpu --freeze_layers 1".split()
    flags += ["--dataset", str(corpus_folder), "--encoder", str(two_layers)]
    return [*flags, "--output_dir", str(tmp_path)]


@pytest.mark.parametrize("method", ["sharprecl", "tsc"])
def test_a_stopped_run_goes_on_bit_for_bit_and_keeps_no_frozen_weight(
    command, two_layers, tmp_path, method
):
    command = [*command, "--method", method, "--eval_every", "3"]
    whole, stopped = str(tmp_path / "whole"), str(tmp_path / "stopped")
    assert main([*command, "--output_dir", whole]) == 0
    with stopped_after(1):
        assert main([*command, "--output_dir", stopped]) == 130
    (checkpoint,) = folder_of(stopped).glob("checkpoint-*")
    names = set(safetensors.torch.load_file(checkpoint / "model.safetensors"))
    frozen_part = {
        "encoder.backbone." + name for name in frozen_names(load_encoder(str(two_layers), "cls"), 1)
    }
    assert not names & frozen_part and "encoder.backbone.encoder.layer.1.output.dense.bias" in names
    trainer = torch.load(checkpoint / "trainer.pt", weights_only=True)
    sizes = [state["exp_avg"].numel() for state in trainer["optimizer"]["state"].values()]
    assert max(sizes) == 32 * 128  # of a head; the word embeddings have more numbers
    assert main([*command, "--output_dir", stopped]) == 0
    assert outcome(stopped) == outcome(whole)


def test_the_frozen_layers_of_the_model_are_the_pretrained_ones(command, two_layers, tmp_path):
    assert main(command) == 0
    before = safetensors.torch.load_file(two_layers / "model.safetensors")
    after = safetensors.torch.load_file(folder_of(tmp_path) / "model" / "model.safetensors")
    changed = {
        name
        for name, weight in before.items()
        if "pooler" not in name and not torch.equal(weight, after["bert." + name])
    }
    encoder = load_encoder(str(two_layers), "cls")
    names = {name for name, _ in encoder.backbone.named_parameters()}
    rounding = {"encoder.layer.1.attention.self.key.bias"}  # of its gradient there is no more
    assert changed | rounding == names - frozen_names(encoder, 1)


def test_with_all_layers_frozen_the_heads_alone_are_trained(command, two_layers, tmp_path):
    command = [*command, "--freeze_layers", "2"]
    assert main(command) == 0
    model = folder_of(tmp_path) / "model"
    before = safetensors.torch.load_file(two_layers / "model.safetensors")
    after = safetensors.torch.load_file(model / "model.safetensors")
    for name, weight in before.items():
        assert "pooler" in name or torch.equal(weight, after["bert." + name]), name
    first = untrained(command).model.state_dict()
    heads = safetensors.torch.load_file(model / "heads.safetensors")
    assert heads and all(not torch.equal(weight, first[name]) for name, weight in heads.items())
    for line in outcome(tmp_path)["metrics"]:  # no gradient reaches the encoder
        assert not {name for name in line["diagnostics"] if name.startswith("gradient")}


def test_predict_py_knows_nothing_of_frozen_layers_and_says_the_same(
    command, corpus_folder, tmp_path
):
    """The states of training are rounded to float16, those of predict.py are not."""
    assert main(command) == 0
    run, output = folder_of(tmp_path), tmp_path / "out.csv"
    assert predict.main([str(run), str(corpus_folder / "test.csv"), "--output", str(output)]) == 0
    got, expected = (
        list(csv.DictReader(path.read_text().splitlines()))
        for path in (output, run / "predictions.csv")
    )
    assert len(got) == 36
    for ours, theirs in zip(got, expected, strict=True):
        assert float(ours["probability"]) == pytest.approx(float(theirs["probability"]), abs=2e-3)
        assert ours["prediction"] == theirs["prediction"] or float(ours["probability"]) < 0.4


@pytest.mark.parametrize(
    "options, message",
    [
        (["--freeze_layers", "3"], "--freeze_layers 3: this encoder has 2 layers; give at most"),
        (["--method", "dualcl"], "dualcl trains embeddings of the labels"),
        (["--method", "spcl", "--freeze_layers", "2"], "give fewer --freeze_layers"),
    ],
)
def test_what_cannot_be_frozen_is_one_line_and_exit_code_2(command, options, message, capsys):
    assert main([*command, *options]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and message in error


@pytest.mark.parametrize("family", ["albert", "xlm", "ibert"])
def test_layers_that_cannot_run_alone_are_refused(family):
    with pytest.raises(InputError, match=rf"--freeze_layers: .* \({family}\) share their weights"):
        tiny(family, 2)

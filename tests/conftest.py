"""What the tests share: a tiny BERT made on the spot, and a small imbalanced data set."""

import argparse
import csv
import json
import os
import re
import resource
from contextlib import contextmanager
from functools import cache
from typing import NamedTuple

import pytest
import torch

import main
from data import Corpus, load_wordnet
from engine import files, run_folder
from engine.arguments import last_of_each, parse_args
from engine.corpus import load_corpus, views_of
from engine.files import Parser
from engine.loader import Loader
from engine.network import new_model
from model import Method
from reporting import plots

os.environ["TOKENIZERS_PARALLELISM"] = "false"
torch.set_num_threads(1)  # on tensors this small, two threads wait for each other


@pytest.fixture(autouse=True, scope="session")
def later_values_count():
    """
    Tests put other values behind the flags of a fixture. For a user that is an error, which
    test_reading.py tests in a process of its own.
    """
    parse = Parser.parse_known_args
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Parser,
            "parse_known_args",
            lambda self, args=None, namespace=None: parse(
                self, None if args is None else last_of_each(args), namespace
            ),
        )
        yield


@pytest.fixture(autouse=True, scope="session")
def short_runs_are_short():
    """
    Most of the time of a run on few texts goes into a figure, which is that of the run before, into
    asking git for the version of the code, and into fsync; no test cuts the power.
    """
    draw, images = plots.draw_labels, {}

    def drawn_once(folder):
        report, path = (folder / "data_report.json").read_text(), folder / "label_distribution.png"
        if report in images:
            files.save(path, images[report])
        else:
            draw(folder)
            images[report] = path.read_bytes()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "draw_labels", drawn_once)
        patch.setattr(run_folder, "code_version", cache(run_folder.code_version))
        patch.setattr(files.os, "fsync", lambda _: None)
        yield


def glosses(sizes: dict[str, int], skip: int = 0) -> list[tuple[str, str]]:
    """Real texts: the first glosses of some of WordNet's noun files, as (text, label)."""
    wordnet, rows = load_wordnet(), []
    names = [line.split()[1] for line in wordnet.open("lexnames")]
    left = {label: skip + size for label, size in sizes.items()}
    for line in wordnet.open("data.noun"):
        label = names[int(line.split()[1])] if line[0].isdigit() else None
        if left.get(label, 0) > 0:
            left[label] -= 1
            if left[label] < sizes[label]:
                rows.append((line.split("|")[1].split(";")[0].strip(), label))
    return rows


def write_csv(path, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    return path


@pytest.fixture(scope="session")
def corpus_folder(tmp_path_factory):
    """train.csv with 40, 20 and 8 texts of three classes, test.csv with 12 of each."""
    folder = tmp_path_factory.mktemp("corpus")
    write_csv(folder / "train.csv", glosses({"noun.food": 40, "noun.animal": 20, "noun.time": 8}))
    write_csv(
        folder / "test.csv", glosses({"noun.food": 12, "noun.animal": 12, "noun.time": 12}, skip=40)
    )
    return folder


class Untrained(NamedTuple):
    """What main.train makes before the first epoch."""

    args: argparse.Namespace
    corpus: Corpus
    model: Method
    loader: Loader


OF_LOADER = ("batch_size", "micro_batch", "amp", "device", "seed")


def untrained(argv: list[str]) -> Untrained:
    """The network and the batches of a run of main.py with these flags."""
    args = parse_args(argv)
    corpus = load_corpus(args)
    model = new_model(args, corpus)
    views, num_classes = views_of(args, corpus, model), len(corpus.label_names)
    own = {name: getattr(args, name) for name in OF_LOADER}
    loader = Loader(model, model.encoder, views, corpus.train_labels, num_classes, **own)
    return Untrained(args, corpus, model, loader)


def save_tiny_encoder(folder, model_type: str = "bert", dropout: float = 0.1, layers: int = 1):
    """An encoder of 32 units, with random weights and a word tokenizer, in folder."""
    from transformers import AutoConfig, AutoModel, BertTokenizerFast

    texts = [text for text, _ in glosses({"noun.food": 60, "noun.animal": 60, "noun.time": 60})]
    words = sorted(set(re.findall(r"\w+|[^\w\s]", " ".join(texts).lower())))
    folder.mkdir(exist_ok=True)
    vocabulary = {
        word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words])
    }
    (folder / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    tokenizer = BertTokenizerFast.from_pretrained(folder)
    tokenizer.save_pretrained(folder)
    sizes = {"vocab_size": len(vocabulary), "max_position_embeddings": 130, "pad_token_id": 0}
    if model_type == "distilbert":
        sizes |= {"dim": 32, "n_layers": layers, "n_heads": 2, "hidden_dim": 64}
        sizes |= {"dropout": dropout, "attention_dropout": dropout}
    else:
        sizes |= {"hidden_size": 32, "num_hidden_layers": layers, "num_attention_heads": 2}
        sizes |= {"intermediate_size": 64}
        sizes |= dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), dropout)
    torch.manual_seed(0)
    AutoModel.from_config(AutoConfig.for_model(model_type, **sizes)).save_pretrained(folder)
    return folder


def tokenizer_of_bytes(vocab_size: int, single: str = "$A"):
    """A tokenizer of bytes, learnt from some glosses, with <s>, </s> and no padding."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<s>", "</s>"],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    texts = glosses({"noun.food": 60, "noun.animal": 60, "noun.time": 60})
    bpe.train_from_iterator([text for text, _ in texts], trainer)
    if single != "$A":
        bpe.post_processor = processors.TemplateProcessing(
            single=single, special_tokens=[("<s>", 0), ("</s>", 1)]
        )
    return bpe


def save_tiny_any_encoder(folder, model_type: str):
    """As save_tiny_encoder, for any family; GPT-2, Llama, T5 and BART have tokenizers of bytes."""
    from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

    if model_type in ("bert", "roberta", "distilbert"):
        return save_tiny_encoder(folder, model_type)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 64, "max_position_embeddings": 130, "pad_token_id": 0}
    if model_type in ("gpt2", "llama", "t5", "bart"):  # no padding token, and no [CLS]
        bpe = tokenizer_of_bytes(400, "$A </s>" if model_type == "t5" else "$A")
        PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="</s>").save_pretrained(folder)
        vocab_size = bpe.get_vocab_size()
        kinds = {"layers": 1, "attention_heads": 2, "ffn_dim": 64}
        layers = {f"{part}_{k}": n for part in ("encoder", "decoder") for k, n in kinds.items()}
        sizes = {
            "gpt2": {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 130},
            "llama": sizes | {"num_key_value_heads": 2, "pad_token_id": None},
            "t5": {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 1, "num_heads": 2},
            "bart": {"d_model": 32, **layers},
        }[model_type]
        sizes |= {"bos_token_id": 0, "eos_token_id": 1}
    else:
        vocab_size = AutoConfig.from_pretrained(save_tiny_encoder(folder)).vocab_size
        (folder / "model.safetensors").unlink()
        if model_type == "modernbert":
            sizes |= {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}
        if model_type == "albert":  # whose layers share their weights
            sizes |= {"num_hidden_layers": 2}
        if model_type in ("qwen3", "gemma3_text"):
            sizes |= {"num_key_value_heads": 1, "head_dim": 16}
    torch.manual_seed(0)
    AutoModel.from_config(
        AutoConfig.for_model(model_type, vocab_size=vocab_size, **sizes)
    ).save_pretrained(folder)
    return folder


def needs_own_code(folder):
    """Makes the model in a folder need code of its own, which leaves the file that is returned."""
    trace = folder.parent / "it ran"
    (folder / "own.py").write_text(
        "from transformers import BertConfig, BertModel as Model\n"
        "class Config(BertConfig):\n    model_type = 'own'\n"
        f"open({str(trace)!r}, 'w')\n"
    )
    own = {"AutoConfig": "own.Config", "AutoModel": "own.Model"}
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": own}
    (folder / "config.json").write_text(json.dumps(config))
    return trace


@contextmanager
def stopped_after(last: int):
    """Ctrl-C at the beginning of the epoch after this one."""
    train_epoch = main.train_epoch

    def until(*inputs):
        if inputs[-2] > last:
            raise KeyboardInterrupt
        return train_epoch(*inputs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(main, "train_epoch", until)
        yield


@contextmanager
def small_files(room: int):
    """No file can become larger, as on a full disk: OSError 27 in place of 28."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory):
    return save_tiny_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="session")
def two_layers(tmp_path_factory):
    """A tiny BERT whose lower layer can stay as pretrained."""
    return save_tiny_encoder(tmp_path_factory.mktemp("two_layers"), layers=2)


def save_tiny_language_model(folder, family: str):
    """A Llama or Bloom of two layers with random weights and a byte-level tokenizer, in folder."""
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    # a Llama puts <s> before a text, as the real one; Bloom does not
    bpe = tokenizer_of_bytes(500, "<s> $A" if family == "llama" else "$A")
    sizes = {"hidden_size": 64, "n_layer": 2, "n_head": 4}
    if family == "llama":
        sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
        sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2}
        sizes |= {"max_position_embeddings": 512}
    PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    # the output layer is frozen: with weights as small as usual its logits could never be sure
    sizes |= {"vocab_size": bpe.get_vocab_size(), "initializer_range": 0.2}
    sizes |= {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None}
    config = AutoConfig.for_model(family, **sizes)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session", params=["llama", "bloom"])
def language_model(request, tmp_path_factory):
    return save_tiny_language_model(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory):
    return save_tiny_language_model(tmp_path_factory.mktemp("one_llama"), "llama")


def save_tiny_translator(folder, texts):
    """A MarianMT model of one layer with random weights, its vocabulary from the texts."""
    import sentencepiece
    from transformers import MarianConfig, MarianMTModel, MarianTokenizer

    folder.mkdir()
    (folder / "texts.txt").write_text("\n".join(texts), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "texts.txt"),
        model_prefix=str(folder / "source"),
        vocab_size=80,
        character_coverage=1.0,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (folder / "source.model").rename(folder / "source.spm")
    spm = sentencepiece.SentencePieceProcessor(model_file=str(folder / "source.spm"))
    pieces = [spm.id_to_piece(i) for i in range(spm.get_piece_size())]
    words = ["</s>", "<unk>", *(p for p in pieces if p not in ("<s>", "</s>", "<unk>")), "<pad>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    spm = str(folder / "source.spm")
    names = {"source_lang": "en", "target_lang": "fr"}
    MarianTokenizer(spm, spm, str(folder / "vocab.json"), **names).save_pretrained(folder)
    sizes = {"vocab_size": len(words), "d_model": 32, "init_std": 0.3}
    kinds = {"layers": 1, "attention_heads": 2, "ffn_dim": 64}
    sizes |= {f"{part}_{k}": n for part in ("encoder", "decoder") for k, n in kinds.items()}
    pad = len(words) - 1
    ends = {"pad_token_id": pad, "eos_token_id": 0, "decoder_start_token_id": pad}
    torch.manual_seed(0)
    config = MarianConfig(**sizes, **ends, forced_eos_token_id=0)
    MarianMTModel(config).save_pretrained(folder)
    return folder

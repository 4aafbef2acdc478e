"""What the tests share: a tiny BERT made on the spot, and a small imbalanced data set."""

import argparse
import csv
import json
import os
import re
import resource
from contextlib import contextmanager
from functools import cache
from pathlib import Path
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

PUBLISHED = Path(__file__).parents[2] / "shared" / "datasets"
needs_datasets = pytest.mark.skipif(
    not PUBLISHED.is_dir(), reason="the datasets are not in ../shared/datasets"
)

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


def untrained(argv: list[str]) -> Untrained:
    """The network and the batches of a run of main.py with these flags."""
    args = parse_args(argv)
    corpus = load_corpus(args)
    model = new_model(args, corpus)
    views, num_classes = views_of(args, corpus, model), len(corpus.label_names)
    names = ("batch_size", "micro_batch", "amp", "device", "seed")
    own = {name: getattr(args, name) for name in names}
    loader = Loader(model, model.encoder, views, corpus.train_labels, num_classes, **own)
    return Untrained(args, corpus, model, loader)


def sixty_of_each() -> list[str]:
    return [text for text, _ in glosses({"noun.food": 60, "noun.animal": 60, "noun.time": 60})]


def tokenizer_of_words(folder):
    """BERT's tokenizer, for the words of some glosses."""
    from transformers import BertTokenizerFast

    words = sorted(set(re.findall(r"\w+|[^\w\s]", " ".join(sixty_of_each()).lower())))
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    (folder / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    return BertTokenizerFast.from_pretrained(folder)


def tokenizer_of_bytes(vocab_size: int, single: str = "$A", **special):
    """A tokenizer of bytes, learnt from some glosses, with <s>, </s> and no padding."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<s>", "</s>"],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    bpe.train_from_iterator(sixty_of_each(), trainer)
    if single != "$A":
        bpe.post_processor = processors.TemplateProcessing(
            single=single, special_tokens=[("<s>", 0), ("</s>", 1)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="</s>", **special)


BOTH_HALVES = {  # of an encoder-decoder
    f"{part}_{name}": n
    for part in ("encoder", "decoder")
    for name, n in {"layers": 1, "attention_heads": 2, "ffn_dim": 64}.items()
}


def save_tiny_encoder(folder, model_type: str = "bert", dropout: float = 0.1, layers: int = 1):
    """An encoder of 32 units, of any family, with random weights and a tokenizer, in folder."""
    from transformers import AutoConfig, AutoModel

    folder.mkdir(exist_ok=True)
    sizes = {"hidden_size": 32, "num_hidden_layers": layers, "num_attention_heads": 2}
    sizes |= {"intermediate_size": 64, "max_position_embeddings": 130, "pad_token_id": 0}
    sizes |= dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), dropout)
    own = {
        "albert": {"num_hidden_layers": 2},  # which share their weights
        "distilbert": {"hidden_dim": 64, "dropout": dropout, "attention_dropout": dropout},
        "modernbert": {"cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3},
        **dict.fromkeys(("qwen3", "gemma3_text"), {"num_key_value_heads": 1, "head_dim": 16}),
        "gpt2": {"pad_token_id": None},
        "llama": {"num_key_value_heads": 2, "pad_token_id": None},
        "t5": {"d_kv": 16, "d_ff": 64, "num_layers": 1},
        "bart": BOTH_HALVES | {"pad_token_id": 1},
    }
    sizes |= own.get(model_type, {})
    if model_type in ("gpt2", "llama", "t5", "bart"):  # no padding token, and no [CLS]
        tokenizer = tokenizer_of_bytes(400, "$A </s>" if model_type == "t5" else "$A")
        sizes |= {"bos_token_id": 0, "eos_token_id": 1}
    else:
        tokenizer = tokenizer_of_words(folder)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, vocab_size=len(tokenizer), **sizes)
    AutoModel.from_config(config).save_pretrained(folder)
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


def folder_of(output_dir) -> Path:
    """The folder of the one run in --output_dir."""
    (folder,) = Path(output_dir).glob("*_seed*")
    return folder


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
    from transformers import AutoConfig, AutoModelForCausalLM

    # a Llama puts <s> before a text, as the real one; Bloom does not
    single = "<s> $A" if family == "llama" else "$A"
    tokenizer = tokenizer_of_bytes(500, single, bos_token="<s>")
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    if family == "llama":
        sizes |= {"intermediate_size": 128, "num_key_value_heads": 2}
        sizes |= {"max_position_embeddings": 512}
    torch.manual_seed(0)
    # the output layer is frozen: with weights as small as usual its logits could never be sure
    sizes |= {"vocab_size": len(tokenizer), "initializer_range": 0.2}
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
    pad, sizes = len(words) - 1, {"d_model": 32, "init_std": 0.3} | BOTH_HALVES
    ends = {"pad_token_id": pad, "eos_token_id": 0, "decoder_start_token_id": pad}
    torch.manual_seed(0)
    config = MarianConfig(vocab_size=len(words), **sizes, **ends, forced_eos_token_id=0)
    MarianMTModel(config).save_pretrained(folder)
    return folder

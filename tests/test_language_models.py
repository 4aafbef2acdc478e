"""
baselines/lora.py and hosted.py, run by engine/large.py: the prompt, LoRA on tiny Llamas and Blooms,
GPT-3.5's row against a server that fails.
"""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections import deque
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_csv
from fake_openai import KEY, FakeOpenAI

from baselines import hosted, language_models, lora
from engine import large
from engine.arguments import constants_of, parse_args
from engine.files import InputError
from engine.results import csv_rows
from engine.run_folder import RunFolder
from main import main
from predict import Predictor
from reporting import page
from reporting.export import export

ROOT = Path(__file__).parent.parent
NAMES = ["noun.food", "noun.animal", "noun.time", "noun.food.raw"]
LONG = "a large bird that lives near water and eats fish and frogs"
TEXTS = ["a dish of rice", LONG, "hour", "a day of the week", "small fruit"]
LABELS = [0, 1, 2, 3, 0]


# ---- the prompt ----


def test_the_prompt_is_one_for_all_and_names_every_label():
    chat = language_models.messages("a dish", NAMES)
    assert [message["role"] for message in chat] == ["system", "user"]
    assert "noun.food; noun.animal; noun.time; noun.food.raw" in chat[0]["content"]
    assert chat[1]["content"] == "Text: a dish\nLabel:"
    assert language_models.prompt("a dish", NAMES) == f"{chat[0]['content']}\n{chat[1]['content']}"


# ---- open models ----


def classifier(folder, base_type="fp32", micro=None, names=NAMES, **changes):
    pytest.importorskip("peft", reason="the open language models need it")
    torch.manual_seed(0)
    constants = constants_of("llama2") | {"dropout": 0.0, "batch_size": 5, "lr": 5e-3} | changes
    asked = {"base_model": str(folder), "base_type": base_type, "constants": constants}
    cut = {"lora_targets": None, "max_length": 64, "micro_batch": micro}
    return large.new_classifier(asked | cut, names, "cpu")


def shake(model: lora.LoraClassifier) -> None:
    """Gives the adapters, which start as zero, something to say."""
    with torch.no_grad():
        for name, parameter in model.network.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)


def by_hand(model: lora.LoraClassifier, text: str, label: str) -> float:
    """Log-likelihood of the label and the end, from one plain pass over the whole text."""
    tokenizer = model.tokenizer
    before = tokenizer(language_models.prompt(text, NAMES))["input_ids"]
    after = tokenizer(" " + label, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    model.network.eval()
    with torch.no_grad():
        logits = model.network(input_ids=torch.tensor([before + after]), use_cache=False).logits[0]
    return sum(
        logits[len(before) - 1 + i].log_softmax(dim=0)[token].item()
        for i, token in enumerate(after)
    )


def test_scores_and_loss_are_likelihoods_of_the_answers_whatever_else_is_read(language_model):
    model = classifier(language_model)
    shake(model)
    expected = np.array([[by_hand(model, text, name) for name in NAMES] for text in TEXTS])
    loss = model.loss(model.prompts(TEXTS), LABELS).item()
    assert loss == pytest.approx(-expected[range(len(TEXTS)), LABELS].sum(), rel=1e-4)
    np.testing.assert_allclose(model.scores(TEXTS), expected, rtol=1e-4)
    assert np.ptp(expected, axis=0).min() > 0.01  # the texts make a difference


# As that of SmolLM2: a base model may bring it as well, but does not stop at its <end>.
TEMPLATE = (
    "{% for m in messages %}<turn>{{ m['role'] }}\n{{ m['content'] }}STOP\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>assistant\n{% endif %}"
)


@pytest.fixture
def chatty(tiny_llama, monkeypatch):
    """The tiny Llama's folder; a classifier of it finds this template in its tokenizer."""

    def with_template(template):
        load = large.load_pretrained

        def loaded(from_pretrained, *rest, **options):
            found = load(from_pretrained, *rest, **options)
            if hasattr(found, "apply_chat_template"):
                found.chat_template = template
            return found

        monkeypatch.setattr(large, "load_pretrained", loaded)
        return tiny_llama

    return with_template


def test_a_model_that_follows_instructions_is_asked_by_its_chat_template(chatty):
    model = classifier(chatty(TEMPLATE.replace("STOP", "</s>")))
    shake(model)
    system, user = (m["content"] for m in language_models.messages(TEXTS[0], NAMES))
    question = f"<turn>system\n{system}</s>\n<turn>user\n{user}</s>\n<turn>assistant\n"
    assert model.tokenizer.decode(model.prompts(TEXTS)[0]) == question  # no second <s> before it
    assert [model.tokenizer.decode(answer) for answer in model.answers] == [
        name + "</s>" for name in NAMES
    ]
    before, after = model.ids([question, NAMES[1] + "</s>"])
    model.network.eval()
    with torch.no_grad():
        logits = model.network(input_ids=torch.tensor([before + after])).logits[0]
    expected = logits[len(before) - 1 : -1].log_softmax(dim=1)[range(len(after)), after].sum()
    assert model.scores(TEXTS[:1])[0, 1] == pytest.approx(expected.item(), rel=1e-4)


def test_a_base_model_is_asked_in_plain_text_whatever_template_it_brings(chatty):
    plain, model = (
        classifier(chatty(template)) for template in (None, TEMPLATE.replace("STOP", "<end>"))
    )
    assert not model.uses_chat_template
    assert (plain.prompts(TEXTS), plain.answers) == (model.prompts(TEXTS), model.answers)


def test_a_template_without_a_systems_role_has_the_whole_question_in_the_users(chatty):
    refusal = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}"
    model = classifier(chatty(refusal + TEMPLATE.replace("STOP", "</s>")))
    question = language_models.prompt(TEXTS[0], NAMES)
    assert model.chat(TEXTS[0]) == f"<turn>user\n{question}</s>\n<turn>assistant\n"


@pytest.mark.parametrize("micro, recomputes", [(2, False), (None, True)])
def test_micro_batches_and_a_question_read_in_each_row_train_alike(tiny_llama, micro, recomputes):
    states = []
    for size, reads_each in ((None, False), (micro, recomputes)):
        model = classifier(tiny_llama, micro=size)
        model.recomputes = reads_each
        # its step is the gradient itself
        model.optimizer = torch.optim.SGD(model.optimizer.param_groups[0]["params"], lr=1.0)
        model.train_epoch(TEXTS, np.array(LABELS), seed=0, epoch=1)
        states.append(model.state_dict())
    assert any(name.endswith("lora_B.weight") and t.any() for name, t in states[0].items())
    for name, tensor in states[0].items():
        torch.testing.assert_close(states[1][name], tensor, rtol=1e-3, atol=1e-6)


def test_training_changes_the_adapters_of_all_linear_layers_and_nothing_else(language_model):
    from transformers import AutoModelForCausalLM

    model = classifier(language_model, rank=4)
    base = AutoModelForCausalLM.from_pretrained(language_model)
    before = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    linear = [
        (m.in_features, m.out_features)
        for name, m in base.named_modules()
        if isinstance(m, torch.nn.Linear) and name != "lm_head"
    ]
    assert sum(p.numel() for p in model.optimizer.param_groups[0]["params"]) == sum(
        4 * (a + b) for a, b in linear
    )
    for epoch in (1, 2):  # in the first step A has no gradient, as B is 0
        model.train_epoch(TEXTS, np.array(LABELS), seed=0, epoch=epoch)
    changed = {
        name
        for name, tensor in model.network.state_dict().items()
        if not torch.equal(tensor, before[name])
    }
    assert changed == {name for name in before if "lora_" in name}


def test_long_texts_are_cut_to_max_length_and_the_question_stays_whole(tiny_llama):
    model = classifier(tiny_llama)
    model.max_length = 4
    short, share = model.cut(["bird " * 50, "bird"])
    assert share == 0.5 and short[1] == "bird" and ("bird " * 50).startswith(short[0])
    assert len(model.tokenizer(short[0], add_special_tokens=False)["input_ids"]) <= 4
    text = model.tokenizer.decode(model.prompts(["bird " * 50])[0])
    assert text.startswith("<s>Classify") and text.endswith(f"Text: {short[0]}\nLabel:")
    model.max_length = 10_000
    with pytest.raises(InputError, match="takes 512: lower --max_length"):
        model.scores(["bird " * 3000])


@pytest.mark.parametrize(
    "base_type, layer", [("4bit", "Linear4bit"), ("8bit", "Linear8bitLt"), ("bf16", "Linear")]
)
def test_a_base_of_few_bits_learns_through_its_adapters(tiny_llama, base_type, layer):
    if base_type != "bf16":
        pytest.importorskip("bitsandbytes", reason="the quantised bases need it")
    model = classifier(tiny_llama, base_type)
    assert layer in {type(module).__name__ for module in model.network.modules()}
    learn = partial(model.train_epoch, TEXTS, np.array(LABELS), seed=0)
    losses = [learn(epoch=epoch)["loss"] for epoch in range(1, 16)]
    assert losses[-1] < 0.5 * losses[0]
    assert np.isfinite(model.scores(TEXTS)).all()


@pytest.fixture
def command(tmp_path, tiny_llama):
    """A run whose test texts are its training texts, so that learning by heart shows."""
    rows = [(f"{text} {i}", label) for i in range(4) for text, label in zip(TEXTS, LABELS)]
    data = tmp_path / "corpus"
    data.mkdir()
    for part in ("train", "test"):
        write_csv(data / f"{part}.csv", [(text, NAMES[label]) for text, label in rows])

    def make(method="llama2", model=tiny_llama, epochs=2, *options):
        own = f"--base_model {model} --base_type fp32 --constants epochs={epochs} lr=1e-2 dropout=0"
        own = own.split() if method != "gpt35" else []
        where = ["--dataset", str(data), "--output_dir", str(tmp_path / "runs")]
        return [*where, "--device", "cpu", "--method", method, *own, *options]

    return make


def test_a_tiny_model_learns_its_texts_by_heart_and_its_adapter_comes_back(
    command, tiny_llama, tmp_path
):
    pytest.importorskip("peft", reason="the open language models need it")
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    assert main(command(epochs=15)) == 0
    folder = parse_args(command(epochs=15)).folder
    result = json.loads((folder / "result.json").read_text())
    assert result["last"]["accuracy"] == 100 and result["changed"]["epochs"] == 15
    rows = list(csv_rows(folder / "predictions.csv"))
    model = large.load_adapted(folder)
    scores = model.scores([row["text"] for row in rows])
    predicted = [model.label_names[i] for i in scores.argmax(axis=1)]
    assert predicted == [row["prediction"] for row in rows]
    probability = torch.from_numpy(scores).softmax(dim=1).amax(dim=1).tolist()
    assert probability == pytest.approx([float(row["probability"]) for row in rows], abs=1e-4)
    answers = Predictor(folder, device="cpu").predict([row["text"] for row in rows])
    assert [answer["prediction"] for answer in answers] == predicted
    assert [answer["probability"] for answer in answers] == pytest.approx(probability, abs=1e-4)
    with pytest.raises(InputError, match="has no embedding"):
        Predictor(folder, device="cpu", embedding=True)
    with pytest.raises(InputError, match="llama2 is not exported"):
        export(folder, "onnx", None)
    page.write(folder, tmp_path / "page.html")
    assert "it has no embeddings to draw" in (tmp_path / "page.html").read_text()
    plain = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tiny_llama), folder / "adapter"
    )
    ids = torch.tensor([model.prompts(TEXTS)[0]])
    torch.testing.assert_close(plain(input_ids=ids).logits, model.network(input_ids=ids).logits)


def test_an_interrupted_run_goes_on_to_the_same_result(command, monkeypatch, tmp_path):
    pytest.importorskip("peft", reason="the open language models need it")
    argv = command("llama2", epochs=3)
    other = [*argv, "--output_dir", str(tmp_path / "whole")]
    assert main(other) == 0
    save = RunFolder.save_checkpoint

    def stop_after_two(folder, epoch):
        save(folder, epoch)
        if epoch == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "save_checkpoint", stop_after_two)
    assert main(argv) == 130
    monkeypatch.setattr(RunFolder, "save_checkpoint", save)
    assert main(argv) == 0
    one, two = (parse_args(command).folder for command in (argv, other))
    assert (one / "predictions.csv").read_text() == (two / "predictions.csv").read_text()
    name = "adapter/adapter_model.safetensors"
    assert (one / name).read_bytes() == (two / name).read_bytes()
    assert not list(one.glob("checkpoint*"))


@pytest.mark.parametrize("package, base_type", [("peft", "fp32"), ("bitsandbytes", "4bit")])
def test_a_missing_package_is_one_line(command, monkeypatch, capsys, package, base_type):
    if package == "bitsandbytes":
        pytest.importorskip("peft", reason="the open language models need it")
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == package else find(name, *rest),
    )
    assert main([*command("llama2"), "--base_type", base_type]) == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1 and f"pip install {package}" in error[0]


def test_missing_weights_and_labels_that_look_alike_are_one_line(
    command, tmp_path, capsys, tiny_llama
):
    pytest.importorskip("peft", reason="the open language models need it")
    assert main(command("llama2", tmp_path / "nothing")) == 2
    assert "language model" in (error := capsys.readouterr().err) and error.count("\n") == 1
    with pytest.raises(InputError, match="cannot tell the labels apart"):
        classifier(tiny_llama, names=["same", "same"])


def test_without_an_epoch_the_model_answers_as_it_is(command, tmp_path):
    pytest.importorskip("peft", reason="the open language models need it")
    argv = command("llama2", epochs=0)
    assert main([*argv, "--val_fraction", "0.2"]) == 0
    folder = parse_args([*argv, "--val_fraction", "0.2"]).folder
    result = json.loads((folder / "result.json").read_text())
    assert result["last"]["epoch"] == result["best_val"]["epoch"] == 0
    assert result["seconds"] >= 0 and result["memory_gib"] > 0.1
    rows = list(csv_rows(folder / "predictions.csv"))
    model = large.load_adapted(folder)
    assert not any(tensor.any() for name, tensor in model.state_dict().items() if "lora_B" in name)
    best = model.scores([row["text"] for row in rows]).argmax(axis=1)
    assert [model.label_names[i] for i in best] == [row["prediction"] for row in rows]
    page.write(folder, tmp_path / "page.html")


def test_settings_of_language_models_have_folders_of_their_own(command):
    different = (["--base_type", "bf16"], ["--lora_targets", "q_proj"], ["--base_model", "another"])
    commands = [command("llama2"), command("bloom"), command("llama2", epochs=3)]
    commands += [[*command("llama2"), *options] for options in different]
    assert len({parse_args(argv).folder.name for argv in commands}) == 6
    assert "base_model" not in parse_args(["--dataset", "trec"]).settings
    of_gpt = parse_args(command("gpt35", None, 0, "--prices", "3", "6")).settings
    assert "base_model" in of_gpt and not {"base_type", "prices", "yes"} & set(of_gpt)


# ---- GPT-3.5 ----


@pytest.fixture
def server(monkeypatch, command):
    """It knows the label of every test text."""
    pytest.importorskip("openai", reason="gpt35 needs it")
    fake = FakeOpenAI()
    data = Path(command()[1])
    fake.answers = {row["text"]: row["label"] for row in csv_rows(data / "test.csv")}
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", fake.url)
    yield fake
    fake.shutdown()
    fake.server_close()


@pytest.fixture
def gpt(command):
    return command("gpt35", None, 0, "--prices", "3", "6", "--yes")


def outcome(argv) -> dict:
    return json.loads((parse_args(argv).folder / "result.json").read_text())["last"]


def test_gpt_is_asked_each_text_once_and_what_it_invents_counts_as_wrong(
    server, gpt, capsys, tmp_path
):
    data = tmp_path / "corpus" / "test.csv"
    rows = [(row["text"], row["label"]) for row in csv_rows(data)]
    write_csv(data, [*rows, rows[0]])
    server.answers |= {rows[0][0]: "Rice!", rows[1][0]: ' "Noun.Animal". \n'}
    assert main(gpt) == 0
    assert len(server.asked) == 20 and set(server.asked.values()) == {1}
    result = outcome(gpt)
    assert result["accuracy"] == pytest.approx(100 * 19 / 21) and result["unknown_answers"] == 2
    # 9 texts of noun.food, two lost: F1 of 14/16, and 1 for the other three
    assert result["macro_f1"] == pytest.approx(100 * (3 + 14 / 16) / 4)
    folder = parse_args(gpt).folder
    rows = csv_rows(folder / "predictions.csv")
    wrong = [row["prediction"] for row in rows if row["prediction"] != row["label"]]
    assert wrong == ["(no label)"] * 2
    page.write(folder, tmp_path / "page.html")
    assert "(no label)" in (tmp_path / "page.html").read_text()
    # 20 * 50 tokens at 3, 20 * 3 at 6 dollars a million
    out = capsys.readouterr().out
    assert "2 of 21 answers are no label" in out
    assert "1,000 tokens of questions and 60 of answers: $0.00 at [3.0, 6.0] dollars" in out


def test_an_answer_is_a_label_but_for_case_and_what_stands_around_it(server, tmp_path):
    model = hosted.HostedModel("gpt", NAMES, None, hosted.Journal(tmp_path / "journal"))
    labels = ["noun.food", " Noun.FOOD.\n", "**noun.food.raw**"]
    others = ["noun.fo", "noun.food or noun.time", ""]
    assert [model.column(answer) for answer in labels + others] == [0, 0, 3, 4, 4, 4]


def test_faults_lose_nothing_and_count_no_answer_twice(server, gpt):
    server.faults = deque(["429", "500", "drop before", "429", "429"])
    assert main(gpt) == 0 and outcome(gpt)["accuracy"] == 100
    assert not server.faults and len(server.asked) == 20 and set(server.asked.values()) == {1}


def test_an_answer_that_cannot_be_read_is_one_line_and_the_command_goes_on(server, gpt, capsys):
    server.faults = deque(["garble"])
    assert main(gpt) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "the same command goes on" in error
    assert main(gpt) == 0 and outcome(gpt)["accuracy"] == 100
    assert sum(server.asked.values()) <= 21


def test_after_kill_9_the_same_command_goes_on(server, gpt):
    process = subprocess.Popen(
        [sys.executable, "main.py", *gpt], cwd=ROOT, stdin=subprocess.DEVNULL
    )

    def kill():
        process.kill()
        process.wait()

    server.faults = deque([None] * 5 + [kill])
    assert process.wait() == -signal.SIGKILL
    assert main(gpt) == 0 and outcome(gpt)["accuracy"] == 100
    assert len(server.asked) == 20 and sum(server.asked.values()) <= 20 + hosted.WORKERS


def test_nothing_is_sent_without_consent(server, command, monkeypatch, capsys):
    argv = command("gpt35", None, 0, "--prices", "3", "6")
    monkeypatch.setattr(sys, "stdin", open(os.devnull))
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert "nothing was sent: --yes" in captured.err and "$0.00 at" in captured.out
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    answers = iter(["n", "yes"])
    monkeypatch.setattr("builtins.input", lambda question: next(answers))
    assert main(argv) == 2 and not server.asked
    assert main(argv) == 0 and len(server.asked) == 20


def test_the_estimate_counts_what_is_left(server, capsys, tmp_path):
    journal = hosted.Journal(tmp_path / "journal")
    names = ["a" * 4, "b" * 8]
    # instruction of 80 bytes, question of 6 + 400 + 7: 3 + 4 + 20 + 4 + 104 tokens
    hosted.HostedModel("gpt", names, [3000.0, 6000.0], journal).confirm(
        ["c" * 400, "c" * 400], is_confirmed=True
    )
    line = capsys.readouterr().out
    assert "1 questions of about 135 tokens, answers of at most 9: $0.46 at" in line
    question = hosted.key("gpt", language_models.messages("c" * 400, names))
    journal.append(prompt=question, answer=names[0], tokens=None)
    hosted.HostedModel("gpt", names, None, journal).confirm(["c" * 400], is_confirmed=True)
    assert capsys.readouterr().out.endswith("0 questions of about 0 tokens, answers of at most 0\n")


def test_the_key_is_nowhere_but_in_the_environment(server, gpt, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY + "wrong")
    assert main(gpt) == 2  # the server repeats the key in its error, the wrong one
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "AuthenticationError" in error and "***" in error
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert main(gpt) == 0
    captured = capsys.readouterr()
    assert KEY not in error + captured.out + captured.err
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 8 and not any(KEY.encode() in path.read_bytes() for path in files)
    monkeypatch.delenv("OPENAI_API_KEY")
    assert main([*gpt, "--overwrite"]) == 2
    assert "environment variable OPENAI_API_KEY" in capsys.readouterr().err
    assert outcome(gpt)["accuracy"] == 100  # what was paid for is still there
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert main([*gpt, "--overwrite"]) == 0 and set(server.asked.values()) == {2}  # asked anew


def test_a_journal_survives_a_torn_line_and_refuses_a_damaged_one(tmp_path):
    path = tmp_path / "openai.jsonl"
    journal = hosted.Journal(path)
    journal.append(prompt="1", answer="food")
    with open(path, "ab") as file:
        file.write(b'{"prompt": ')
    journal = hosted.Journal(path)
    assert journal.records == [{"prompt": "1", "answer": "food"}]
    journal.append(prompt="2", answer="time")
    assert hosted.Journal(path).answers() == {"1": "food", "2": "time"}
    path.write_bytes(b'{"prompt": \n' + path.read_bytes())
    with pytest.raises(InputError, match="damaged"):
        hosted.Journal(path)

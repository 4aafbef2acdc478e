"""
baselines/lora.py and hosted.py: the prompt, LoRA on tiny Llamas and Blooms, GPT-3.5 against a
server that fails.
"""

import csv
import importlib.util
import json
import math
import os
import signal
import subprocess
import sys
from collections import deque
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_csv
from fake_openai import KEY, FakeOpenAI

from baselines import hosted, language_models, lora
from engine.arguments import parse_args
from engine.files import InputError
from engine.run_folder import RunFolder
from main import main
from reporting import export, page

ROOT = Path(__file__).parent.parent
NAMES = ["noun.food", "noun.animal", "noun.time", "noun.food.raw"]
TEXTS = [
    "a dish of rice",
    "a large bird that lives near water and eats fish and frogs",
    "hour",
    "a day of the week",
    "small fruit",
]


def read_rows(path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# ---- the prompt ----


def test_the_prompt_is_one_for_all_and_names_every_label():
    chat = language_models.messages("a dish", NAMES)
    assert [message["role"] for message in chat] == ["system", "user"]
    assert "noun.food; noun.animal; noun.time; noun.food.raw" in chat[0]["content"]
    assert chat[1]["content"] == "Text: a dish\nLabel:"
    assert language_models.prompt("a dish", NAMES) == f"{chat[0]['content']}\n{chat[1]['content']}"


# ---- open models ----


def classifier(folder, base_type="fp32", **changes) -> lora.LoraClassifier:
    pytest.importorskip("peft", reason="the open language models need it")
    torch.manual_seed(0)
    constants = language_models.LORA | {"dropout": 0.0, "batch_size": 5, "lr": 5e-3} | changes
    return lora.LoraClassifier(
        str(folder),
        NAMES,
        constants,
        base_type=base_type,
        targets=None,
        device="cpu",
        max_length=64,
        micro_batch=changes.get("micro"),
    )


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


def test_a_label_scores_its_likelihood_whatever_else_is_in_the_batch(language_model):
    model = classifier(language_model)
    shake(model)
    expected = [[by_hand(model, text, name) for name in NAMES] for text in TEXTS]
    np.testing.assert_allclose(model.scores(TEXTS), expected, rtol=1e-4)
    assert np.ptp(expected, axis=0).min() > 0.01  # the texts make a difference


def test_the_loss_is_that_of_the_answers_tokens_alone(language_model):
    model = classifier(language_model)
    shake(model)
    labels = [0, 1, 2, 3, 0]
    expected = -sum(by_hand(model, text, NAMES[label]) for text, label in zip(TEXTS, labels))
    assert model.loss(model.prompts(TEXTS), labels).item() == pytest.approx(expected, rel=1e-4)


def test_micro_batches_train_as_the_whole_batch_does(tiny_llama):
    states = []
    for micro in (None, 2):
        model = classifier(tiny_llama, micro=micro)
        # its step is the gradient itself
        model.optimizer = torch.optim.SGD(model.optimizer.param_groups[0]["params"], lr=1.0)
        model.train_epoch(TEXTS, np.array([0, 1, 2, 3, 0]), seed=0, epoch=1)
        states.append(model.state_dict())
    for name, tensor in states[0].items():
        torch.testing.assert_close(states[1][name], tensor, rtol=1e-3, atol=1e-6)


def test_new_adapters_change_nothing_and_training_changes_nothing_else(language_model):
    from transformers import AutoModelForCausalLM

    model = classifier(language_model, rank=4)
    base = AutoModelForCausalLM.from_pretrained(language_model)
    before = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
    ids = torch.tensor([model.prompts(TEXTS)[0]])
    model.network.eval()
    torch.testing.assert_close(model.network(input_ids=ids).logits, base(input_ids=ids).logits)
    linear = [
        (m.in_features, m.out_features)
        for name, m in base.named_modules()
        if isinstance(m, torch.nn.Linear) and name != "lm_head"
    ]
    assert sum(p.numel() for p in model.optimizer.param_groups[0]["params"]) == sum(
        4 * (a + b) for a, b in linear
    )
    for epoch in (1, 2):  # in the first step A has no gradient, as B is 0
        model.train_epoch(TEXTS, np.array([0, 1, 2, 3, 0]), seed=0, epoch=epoch)
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


def test_a_prompt_beyond_the_models_positions_is_one_line(tiny_llama):
    model = classifier(tiny_llama)
    model.max_length = 10_000
    with pytest.raises(InputError, match="takes 512: lower --max_length"):
        model.scores(["bird " * 3000])


@pytest.mark.parametrize(
    "base_type, layer", [("4bit", "Linear4bit"), ("8bit", "Linear8bitLt"), ("bf16", "Linear")]
)
def test_a_base_of_few_bits_learns_through_its_adapters(language_model, base_type, layer):
    if base_type != "bf16":
        pytest.importorskip("bitsandbytes", reason="the quantised bases need it")
    model = classifier(language_model, base_type)
    kinds = {type(module).__name__ for module in model.network.modules()}
    assert layer in kinds
    labels = np.array([0, 1, 2, 3, 0])
    losses = [
        model.train_epoch(TEXTS, labels, seed=0, epoch=epoch)["loss"] for epoch in range(1, 16)
    ]
    assert losses[-1] < 0.5 * losses[0]
    assert np.isfinite(model.scores(TEXTS)).all()


@pytest.fixture
def command(tmp_path, tiny_llama):
    """A run whose test texts are its training texts, so that learning by heart shows."""
    rows = [(f"{text} {i}", label) for i in range(4) for text, label in zip(TEXTS, [0, 1, 2, 3, 0])]
    data = tmp_path / "corpus"
    data.mkdir()
    for part in ("train", "test"):
        write_csv(data / f"{part}.csv", [(text, NAMES[label]) for text, label in rows])

    def make(method="llama2", model=tiny_llama, epochs=2, *options):
        own = (
            []
            if method == "gpt35"
            else [
                "--base_model",
                str(model),
                "--base_type",
                "fp32",
                "--constants",
                f"epochs={epochs}",
                "lr=1e-2",
                "dropout=0",
            ]
        )
        return [
            "--dataset",
            str(data),
            "--device",
            "cpu",
            "--output_dir",
            str(tmp_path / "runs"),
            "--method",
            method,
            *own,
            *options,
        ]

    return make


def test_a_tiny_model_learns_its_texts_by_heart_and_its_adapter_comes_back(
    command, language_model, tmp_path
):
    pytest.importorskip("peft", reason="the open language models need it")
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    method = "bloom" if "bloom" in str(language_model) else "llama2"
    assert main(command(method, language_model, 15)) == 0
    folder = parse_args(command(method, language_model, 15)).folder
    result = json.loads((folder / "result.json").read_text())
    assert result["last"]["accuracy"] == 100 and result["changed"]["epochs"] == 15
    rows = read_rows(folder / "predictions.csv")
    model = lora.load(folder)
    scores = model.scores([row["text"] for row in rows])
    assert [model.label_names[i] for i in scores.argmax(axis=1)] == [
        row["prediction"] for row in rows
    ]
    probability = torch.from_numpy(scores).softmax(dim=1).amax(dim=1)
    assert probability.tolist() == pytest.approx(
        [float(row["probability"]) for row in rows], abs=1e-4
    )
    with pytest.raises(InputError, match="lora.load"):
        export.model_folder(folder)
    page.write(folder, tmp_path / "page.html")
    assert "it has no embeddings to draw" in (tmp_path / "page.html").read_text()
    plain = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(language_model), folder / "adapter"
    )
    ids = torch.tensor([model.prompts(TEXTS)[0]])
    torch.testing.assert_close(plain(input_ids=ids).logits, model.network(input_ids=ids).logits)


def test_an_interrupted_run_goes_on_to_the_same_result(command, monkeypatch, tmp_path, capsys):
    pytest.importorskip("peft", reason="the open language models need it")
    argv = command("llama2", epochs=3)
    other = list(argv)
    other[other.index("--output_dir") + 1] = str(tmp_path / "whole")
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
    capsys.readouterr()
    assert main(argv) == 0 and "finished already" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options, message",
    [
        (["--plots"], "llama2 has none"),
        (["--prices", "1", "1", "1"], "--prices does not concern"),
        (["--augment", "noise"], "llama2 has none"),
        (["--tau", "1"], "--tau belongs to sharprecl"),
        (["--constants", "dropout=2"], "at most 1"),
        (["--constants", "epochs=0"], "above 0"),
    ],
)
def test_wrong_flags_of_open_models_are_one_line(command, capsys, options, message):
    with pytest.raises(SystemExit) as stop:
        parse_args(command("llama2") + options)
    assert stop.value.code == 2 and message in capsys.readouterr().err.splitlines()[-1]


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
        lora.LoraClassifier(
            str(tiny_llama),
            ["same", "same"],
            language_models.LORA,
            base_type="fp32",
            targets=None,
            device="cpu",
            max_length=64,
            micro_batch=None,
        )


def test_settings_of_language_models_have_folders_of_their_own(command):
    names = {
        parse_args(argv).folder.name
        for argv in (
            command("llama2"),
            command("bloom"),
            command("llama2", epochs=3),
            [*command("llama2"), "--base_type", "bf16"],
            [*command("llama2"), "--lora_targets", "q_proj"],
            [*command("llama2"), "--base_model", "another"],
        )
    }
    assert len(names) == 6
    assert "base_model" not in parse_args(["--dataset", "trec"]).settings
    hosted = parse_args(command("gpt35", None, 3, "--prices", "8", "3", "6")).settings
    assert "base_model" in hosted and not {"base_type", "prices", "yes"} & set(hosted)


# ---- GPT-3.5 ----


@pytest.fixture
def server(monkeypatch):
    pytest.importorskip("openai", reason="gpt35 needs it")
    fake = FakeOpenAI()
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", fake.url)
    monkeypatch.setattr(hosted, "FIRST_PAUSE", 0.01)
    yield fake
    fake.shutdown()
    fake.server_close()


@pytest.fixture
def gpt(command):
    return command("gpt35", None, 3, "--prices", "8", "3", "6", "--yes")


def outcome(argv) -> dict:
    return json.loads((parse_args(argv).folder / "result.json").read_text())["last"]


def test_gpt_is_fine_tuned_and_asked_and_what_it_invents_counts_as_wrong(
    server, gpt, capsys, tmp_path
):
    server.answers = {f"{TEXTS[0]} 0": "Rice!", f"{TEXTS[1]} 1": " Noun.Animal \n"}
    assert main(gpt) == 0
    result = outcome(gpt)
    assert result["accuracy"] == pytest.approx(95) and result["unknown_answers"] == 1
    # 8 texts of noun.food, one lost: F1 of 14/15, and 1 for the other three
    assert result["macro_f1"] == pytest.approx(100 * (3 + 14 / 15) / 4)
    rows = read_rows(parse_args(gpt).folder / "predictions.csv")
    assert rows[0]["prediction"] == "(no label)"
    assert [row["prediction"] for row in rows[1:]] == [row["label"] for row in rows[1:]]
    page.write(parse_args(gpt).folder, tmp_path / "page.html")
    assert "(no label)" in (tmp_path / "page.html").read_text()
    out = capsys.readouterr().out
    assert "1 of 20 answers are no label" in out
    # 5000 tokens at 8, 20 * 50 at 3 and 20 * 3 at 6 dollars a million
    assert "5,000 tokens of training, 1,000 of questions, 60 of answers: $0.04" in out
    assert server.jobs["ftjob-0"]["hyperparameters"] == {"n_epochs": 3}


def test_the_training_file_is_as_the_guide_asks(server, gpt):
    assert main(gpt) == 0
    chats = [
        json.loads(line)["messages"] for line in server.contents["file-0"].decode().splitlines()
    ]
    assert len(chats) == 20
    assert [message["role"] for message in chats[3]] == ["system", "user", "assistant"]
    assert chats[3][:2] == language_models.messages(f"{TEXTS[3]} 0", sorted(NAMES))
    assert chats[3][2]["content"] == "noun.food.raw"


def test_texts_may_hold_what_python_takes_for_the_end_of_a_line(server, gpt, tmp_path):
    odd = "rice\u2028and\u2029beans\u0085"
    for name in ("train.csv", "test.csv"):
        path = tmp_path / "corpus" / name
        rows = [(row["text"], row["label"]) for row in read_rows(path)]
        write_csv(path, [(odd, rows[0][1]), *rows[1:]])
    assert main(gpt) == 0 and outcome(gpt)["accuracy"] == 100
    assert server.asked[language_models.messages(odd, NAMES)[1]["content"]] == 1


def test_faults_lose_nothing_and_send_nothing_twice(server, gpt):
    server.faults |= {
        ("GET", "/files"): deque(["429", "drop before"]),
        ("POST", "/files"): deque(["500", "drop before", "429", "garble"]),
        ("GET", "/fine_tuning/jobs"): deque(["500"]),
        ("POST", "/fine_tuning/jobs"): deque(["429", "500", "drop after"]),
        ("GET", "/fine_tuning/jobs/ID"): deque(["500", "drop before", "drop after", "429"]),
        ("POST", "/chat/completions"): deque(["429", "500", "drop before", "429", "429"]),
    }
    assert main(gpt) == 0
    assert outcome(gpt)["accuracy"] == 100
    assert not any(server.faults.values())
    assert len(server.files) == len(server.jobs) == 1
    assert len(server.asked) == 20 and set(server.asked.values()) == {1}


@pytest.mark.parametrize(
    "where", [("GET", "/files"), ("GET", "/fine_tuning/jobs/ID"), ("POST", "/chat/completions")]
)
def test_an_answer_that_cannot_be_read_is_one_line_and_the_command_goes_on(
    server, gpt, capsys, where
):
    server.faults[where] = deque(["garble"])
    assert main(gpt) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "the same command goes on" in error
    assert main(gpt) == 0 and len(server.files) == len(server.jobs) == 1


def test_the_same_question_is_asked_once(server, gpt, tmp_path):
    rows = read_rows(tmp_path / "corpus" / "test.csv")
    write_csv(
        tmp_path / "corpus" / "test.csv", [(row["text"], row["label"]) for row in rows + rows[:7]]
    )
    assert main(gpt) == 0
    assert set(server.asked.values()) == {1} and len(server.asked) == 20


def test_killed_before_any_record_it_goes_on_without_paying_twice(server, gpt, monkeypatch):
    """Each time it dies when it would record what the server has just done."""
    append = hosted.Journal.append
    lives = iter([0, 1, 1, 1, 1, 10, math.inf])

    def append_while_alive(journal, **record):
        if not hasattr(journal, "left"):
            journal.left = next(lives)
        if journal.left == 0:
            raise KeyboardInterrupt
        journal.left -= 1
        append(journal, **record)

    monkeypatch.setattr(hosted.Journal, "append", append_while_alive)
    monkeypatch.setattr(hosted, "WORKERS", 1)
    codes = [main(gpt) for _ in range(7)]
    assert codes == [130] * 6 + [0] and outcome(gpt)["accuracy"] == 100
    assert len(server.files) == len(server.jobs) == 1
    # asked again: at each of the two last deaths the question whose answer was not recorded, and
    # one that the other thread began before it was told to stop
    assert len(server.asked) == 20 and sum(server.asked.values()) <= 24


@pytest.mark.slow
@pytest.mark.parametrize(
    "where", [("POST", "/files"), ("POST", "/fine_tuning/jobs"), ("POST", "/chat/completions")]
)
def test_after_kill_9_the_same_command_goes_on(server, gpt, where):
    process = subprocess.Popen(
        [sys.executable, "main.py", *gpt], cwd=ROOT, stdin=subprocess.DEVNULL
    )
    before = [None] * (5 if "chat" in where[1] else 0)
    server.faults[where] = deque([*before, process_killer(process)])
    assert process.wait(60) == -signal.SIGKILL
    assert main(gpt) == 0 and outcome(gpt)["accuracy"] == 100
    assert len(server.files) == len(server.jobs) == 1
    assert len(server.asked) == 20 and sum(server.asked.values()) <= 20 + hosted.WORKERS


def process_killer(process):
    def kill():
        process.kill()
        process.wait()

    return kill


def test_nothing_is_sent_without_consent(server, command, monkeypatch, capsys):
    argv = command("gpt35", None, 3, "--prices", "8", "3", "6")
    monkeypatch.setattr(sys, "stdin", open(os.devnull))
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert "nothing was sent: --yes" in captured.err and "about $0.0" in captured.out
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    answers = iter(["n", "yes"])
    monkeypatch.setattr("builtins.input", lambda question: next(answers))
    assert main(argv) == 2 and not server.files and not server.asked
    assert main(argv) == 0 and len(server.jobs) == 1


def test_a_test_text_that_the_model_cannot_take_is_told_before_it_is_paid_for(
    server, gpt, capsys, tmp_path
):
    path = tmp_path / "corpus" / "test.csv"
    rows = [(row["text"], row["label"]) for row in read_rows(path)]
    write_csv(path, [("rice " * 14_000, rows[0][1]), *rows[1:]])
    assert main(gpt) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert "shorten the test and validation texts; nothing was sent" in error
    assert not server.files and not server.jobs and not server.asked


def test_prices_have_no_default_that_could_be_stale(command, capsys):
    with pytest.raises(SystemExit) as stop:
        parse_args(command("gpt35"))
    assert stop.value.code == 2 and "--prices TRAIN INPUT OUTPUT" in capsys.readouterr().err


def test_the_estimate_counts_what_is_left(server, gpt, capsys, tmp_path):
    model = hosted.HostedModel("gpt", NAMES, 3, 0, [8.0, 3.0, 6.0], tmp_path)
    examples = [("a" * 40, "noun.food")] * 10
    model.confirm(examples, ["b" * 400, "b" * 400], is_confirmed=True)
    line = capsys.readouterr().out
    system = math.ceil(len(language_models.messages("", NAMES)[0]["content"]) / 4)
    training = 3 * 10 * (3 + 4 + system + 4 + math.ceil((6 + 40 + 7) / 4) + 4 + 3)
    asking = 3 + 4 + system + 4 + math.ceil((6 + 400 + 7) / 4)
    cost = (8 * training + 3 * asking + 6 * 14) / 1e6  # noun.food.raw has 13 bytes
    assert f"about {training:,} tokens of training" in line
    assert (
        f"1 questions of about {asking:,} tokens, answers of at most 14: about ${cost:.2f}" in line
    )
    model.journal.append(job="ftjob-1")
    model.journal.append(model="ft:1")
    key = hosted.prompt_key("ft:1", language_models.messages("b" * 400, NAMES))
    model.journal.append(prompt=key, answer="noun.food", tokens=None)
    model.confirm(examples, ["b" * 400], is_confirmed=True)
    assert "about 0 tokens of training (3 epochs), 0 questions" in capsys.readouterr().out


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


def test_a_failed_job_says_why(server, gpt, capsys):
    server.statuses.clear()
    server.statuses.extend(["queued", "failed"])
    assert main(gpt) == 2
    assert "ftjob-0 was failed: bad training file; --overwrite" in capsys.readouterr().err
    assert main(gpt) == 2 and len(server.jobs) == 1


def test_overwrite_starts_a_job_of_its_own(server, gpt):
    assert main(gpt) == 0
    server.contents.clear()
    assert main([*gpt, "--overwrite"]) == 0
    assert len(server.jobs) == 2 and set(server.asked.values()) == {2}


def test_a_journal_survives_a_torn_line_and_refuses_a_damaged_one(tmp_path):
    path = tmp_path / "openai.jsonl"
    journal = hosted.Journal(path)
    journal.append(file="file-1")
    journal.append(job="ftjob-1")
    with open(path, "ab") as file:
        file.write(b'{"model": "ft:')
    journal = hosted.Journal(path)
    assert journal.records == [{"file": "file-1"}, {"job": "ftjob-1"}]
    journal.append(model="ft:1")
    assert (
        hosted.Journal(path).last("model") == "ft:1" and hosted.Journal(path).last("none") is None
    )
    path.write_bytes(b'{"file": \n' + path.read_bytes())
    with pytest.raises(InputError, match="damaged"):
        hosted.Journal(path)


@pytest.mark.parametrize(
    "examples, message",
    [
        ([("a", "x")] * 9, "9 examples, at least 10"),
        ([("a", "x")] * 9 + [("a", "z")], "answers that are no labels: \\['z'\\]"),
        ([("a", "x")] * 9 + [("a" * 70_000, "x")], "where 16,385 are taken"),
    ],
)
def test_a_training_file_that_the_provider_would_refuse_is_not_sent(tmp_path, examples, message):
    path = tmp_path / "training.jsonl"
    path.write_text(
        "".join(
            json.dumps({"messages": hosted.example(*pair, ["x", "y"])}) + "\n" for pair in examples
        )
    )
    with pytest.raises(InputError, match=message):
        hosted.check_examples(path, ["x", "y"])

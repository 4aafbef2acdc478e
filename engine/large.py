"""
Runs the large language models of Table 3: each fit is a generator of epochs, see
engine/run_folder.py. baselines/lora.py has the networks, baselines/hosted.py the server's client.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from baselines.hosted import HostedModel, Journal
from baselines.language_models import require
from baselines.lora import LoraClassifier
from engine import distributed
from engine.files import InputError, load_pretrained, read_json

HINT = (
    "Give --base_model a folder with config.json, weights and tokenizer, or a name; for gated "
    "ones, as Llama, accept the licence on its page and run: hf auth login"
)


def load_base(name: str, base_type: str, device: str):
    """
    Loads the pretrained causal model on its device.

    name       a folder, or a name at the Hugging Face hub
    base_type  one of language_models.BASE_TYPES, the precision of its weights
    raises     InputError if the model, or a package that it needs, is missing
    """
    options: dict = {"dtype": torch.float32 if base_type == "fp32" else torch.bfloat16}
    if base_type in ("4bit", "8bit"):
        require("bitsandbytes", f"--base_type {base_type}")
        options["device_map"] = {"": device}
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=base_type == "4bit",
            load_in_8bit=base_type == "8bit",
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
    base = load_pretrained(
        AutoModelForCausalLM.from_pretrained,
        name,
        "language model",
        HINT,
        output_loading_info=True,
        **options,
    )
    return base if base_type in ("4bit", "8bit") else base.to(device)


def new_classifier(settings: dict, label_names: list[str], device: str) -> LoraClassifier:
    """Loads the base and adds new adapters, as a run's settings say; InputError as above."""
    require("peft", "fine-tuning a language model")
    name = settings["base_model"]
    tokenizer = load_pretrained(AutoTokenizer.from_pretrained, name, "language model", HINT)
    return LoraClassifier(
        load_base(name, settings["base_type"], device),
        tokenizer,
        label_names,
        settings["constants"],
        targets=settings["lora_targets"],
        max_length=settings["max_length"],
        micro_batch=settings["micro_batch"],
    )


def load_adapted(folder: Path, device: str = "cpu") -> LoraClassifier:
    """Loads the fine-tuned model of a finished run, from its args.json and adapter."""
    record = read_json(folder / "args.json")
    model = new_classifier(record["settings"], record["label_names"], device)
    model.load_state_dict(load_file(folder / "adapter" / "adapter_model.safetensors"))
    return model


def check_alone(method: str) -> None:
    """InputError if torchrun has started several processes."""
    if distributed.world_size() > 1:
        raise InputError(f"{method} runs in one process: start it without torchrun")


def fine_tune(args, corpus, folder):
    """
    Yields the epochs of an open model; only its adapters are saved. With epochs=0 it is evaluated
    zero-shot, as one epoch with the number 0.
    """
    check_alone(args.method)
    distributed.set_seed(args.seed)
    model = new_classifier(vars(args), corpus.label_names, args.device)
    _, share = model.cut(corpus.train_texts)
    print(
        f"{args.method}: {args.base_model}, {args.base_type}; {share:.2%} of the texts are longer "
        f"than {args.max_length} of its tokens, and cut",
        flush=True,
    )
    epochs = args.constants["epochs"]
    done = folder.begin(model, epochs, weights=model, optimizer=model.optimizer)
    for epoch in range(done + 1, epochs + 1) if epochs > 0 else [0]:
        record = {"epoch": epoch}
        if epoch > 0:
            distributed.set_seed(args.seed, epoch)
            record |= model.train_epoch(
                corpus.train_texts, corpus.train_labels, seed=args.seed, epoch=epoch
            )
        is_evaluated = epoch % args.eval_every == 0 or epoch == epochs
        test, val = (
            model.scores(texts) if texts and is_evaluated else None
            for texts in (corpus.test_texts, corpus.val_texts)
        )
        yield record, test, val


def ask(args, corpus, folder):
    """Yields the answers of a hosted model as one epoch with the number 0: nothing is trained."""
    check_alone(args.method)
    journal = Journal(folder.place / "openai.jsonl", is_new=folder.starts_anew)
    model = HostedModel(args.base_model, corpus.label_names, args.prices, journal)
    model.confirm(corpus.test_texts + corpus.val_texts, is_confirmed=args.yes)
    folder.begin(epochs=0)
    journal.append(confirmed=True)
    logits, unknown = model.scores(corpus.test_texts)
    val_logits = model.scores(corpus.val_texts)[0] if corpus.val_texts else None
    print(
        f"{unknown} of {len(logits)} answers are no label and count as wrong; {model.counted()}",
        flush=True,
    )
    yield {"epoch": 0, "extra": {"unknown_answers": unknown}}, logits, val_logits

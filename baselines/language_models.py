"""
What the large language models of Table 3 share: their names, their constants, the prompt. lora.py
fine-tunes open ones on a frozen base, hosted.py has GPT-3.5 fine-tuned by its provider.

All are asked the same question (`messages`). An open model never writes: each label is scored by
its likelihood as the answer. GPT-3.5 writes, and what is not exactly a label counts as unknown.
"""

import importlib.util

from engine.files import InputError

MODELS = {
    "gpt35": "gpt-3.5-turbo-0125",
    "bloom": "bigscience/bloom-7b1",
    "llama2": "meta-llama/Llama-2-7b-hf",
    "llama3": "meta-llama/Meta-Llama-3-8B",
}

# The paper gives none. Rate, warm-up, clipping and the adapted layers are those of QLoRA (Dettmers
# et al. 2023) for 7B models; 3 epochs, as a model of this size has its texts by heart after a few.
LORA = {"epochs": 3, "lr": 2e-4, "batch_size": 16, "rank": 16, "alpha": 32.0, "dropout": 0.05}
CONSTANTS = {"gpt35": {"epochs": 3}, "bloom": LORA, "llama2": LORA, "llama3": LORA}
BASE_TYPES = ("4bit", "8bit", "bf16", "fp32")  # how a frozen base is held


def messages(text: str, label_names: list[str]) -> list[dict[str, str]]:
    """The question as a chat, without its answer. The paper has one prompt for all, unpublished."""
    instruction = (
        "Classify the text. Answer with exactly one of the labels.\n"
        f"Labels: {'; '.join(label_names)}"
    )
    return [
        {"role": "system", "content": instruction},
        {"role": "user", "content": f"Text: {text}\nLabel:"},
    ]


def prompt(text: str, label_names: list[str]) -> str:
    """The same question as one text, for models that continue texts."""
    return "\n".join(message["content"] for message in messages(text, label_names))


def require(package: str, purpose: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise InputError(f"{purpose} needs the package {package}: pip install {package}")

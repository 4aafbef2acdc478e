"""
The names and the prompt of the large language models of Table 3. lora.py fine-tunes open models on
a frozen base; hosted.py asks a model on a server, without fine-tuning.

All get the same prompt (`messages`). An open model generates no text: each label is scored by its
likelihood as the answer. A hosted model does, and an answer that is not a label counts as wrong.
"""

import importlib.util

from data import InputError

MODELS = {
    "gpt35": "gpt-3.5-turbo-0125",
    "bloom": "bigscience/bloom-7b1",
    "llama2": "meta-llama/Llama-2-7b-hf",
    "llama3": "meta-llama/Meta-Llama-3-8B",
}
BASE_TYPES = ("4bit", "8bit", "bf16", "fp32")  # how a frozen base is held


def messages(text: str, label_names: list[str]) -> list[dict[str, str]]:
    """The prompt as a chat, without the answer. The paper's one prompt is not published."""
    instruction = (
        "Classify the text. Answer with exactly one of the labels.\n"
        f"Labels: {'; '.join(label_names)}"
    )
    return [
        {"role": "system", "content": instruction},
        {"role": "user", "content": f"Text: {text}\nLabel:"},
    ]


def prompt(text: str, label_names: list[str]) -> str:
    """The same prompt as one text, for models without a chat template."""
    return "\n".join(message["content"] for message in messages(text, label_names))


def require(package: str, purpose: str) -> None:
    """InputError if the package is not installed."""
    if importlib.util.find_spec(package) is None:
        raise InputError(f"{purpose} needs the package {package}: pip install {package}")

"""
A language model on a server, which is asked and not fine-tuned: GPT-3.5, or any other model behind
OpenAI's chat endpoint. The environment variable OPENAI_BASE_URL has the server's address.

    python main.py --dataset trec --ir 50 --method gpt35 --prices 0.5 1.5    # asks before it sends
"""

import contextlib
import hashlib
import json
import math
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import numpy as np
from tqdm import tqdm

from baselines.language_models import messages, require
from data import InputError

WORKERS = 8  # questions at a time
RETRIES = 8  # of the client, with growing pauses: about a minute in all


class Journal:
    """
    Keeps what was paid for: one line of JSON per record, on disk before append() returns. If the
    process was killed while it wrote the last line, that line is dropped. With is_new, for a run
    that starts again, the journal starts empty.
    """

    def __init__(self, path: Path, is_new: bool = False):
        self.path, self.lock = path, threading.Lock()
        content = path.read_bytes() if path.exists() and not is_new else b""
        whole = content[: content.rfind(b"\n") + 1]
        try:
            self.records = [json.loads(line) for line in whole.splitlines()]
        except ValueError as error:
            raise InputError(
                f"{path} is damaged ({error}): mend it by hand, or pay again with --overwrite"
            ) from error
        if whole != content:
            os.truncate(path, len(whole))

    def append(self, **record) -> None:
        with self.lock, open(self.path, "ab") as file:
            file.write(json.dumps(record).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
            self.records.append(record)

    def answers(self) -> dict[str, str]:
        """The answer to each question that has one, by the question's key()."""
        return {r["prompt"]: r["answer"] for r in self.records if "prompt" in r}


@contextlib.contextmanager
def server_errors():
    """Turns an error of the server into one line, without the key even if the server wrote it."""
    import openai

    try:
        yield
    except (openai.OpenAIError, ValueError) as error:  # ValueError: an answer that is no JSON
        reason = " ".join(str(error).split()).replace(os.environ["OPENAI_API_KEY"], "***")
        raise InputError(
            f"classifying: {type(error).__name__} ({reason}); the same command goes on from there"
        ) from None


def about_tokens(chat: list[dict[str, str]]) -> int:
    """OpenAI's rule of thumb: 4 bytes of English per token, and 4 tokens around each message."""
    return 3 + sum(4 + math.ceil(len(message["content"].encode()) / 4) for message in chat)


def key(model: str, chat: list[dict[str, str]]) -> str:
    """The key of this model's answer to this question in the journal."""
    return hashlib.sha256(json.dumps([model, chat]).encode()).hexdigest()


class HostedModel:
    """
    A model of OpenAI, or of a server with the same chat endpoint at OPENAI_BASE_URL.

    The journal saves each answer as soon as it arrives, so that an interrupted run can resume. Only
    a question whose answer was lost on the way is asked, and perhaps paid for, a second time.

    name    of the model on its server
    prices  dollars per million tokens of input and of output; None: costs are not estimated
    journal of the run
    raises  InputError if the package openai or the key in OPENAI_API_KEY is missing
    """

    def __init__(
        self, name: str, label_names: list[str], prices: list[float] | None, journal: Journal
    ):
        require("openai", "--method gpt35")
        import openai

        secret = os.environ.get("OPENAI_API_KEY", "")
        if not secret.isascii() or secret.split() != [secret]:
            raise InputError(
                "--method gpt35 needs your key in the environment variable OPENAI_API_KEY (any "
                "word for a server without keys); it is written nowhere"
            )
        self.names = [label.strip().casefold() for label in label_names]
        if len(set(self.names)) < len(self.names):
            raise InputError("two labels differ in case or outer spaces alone: rename one")
        self.name, self.label_names, self.prices = name, label_names, prices
        self.journal, self.client = journal, openai.OpenAI(max_retries=RETRIES)

    # ---- cost ----

    def confirm(self, texts: list[str], *, is_confirmed: bool) -> None:
        """Prints what will be sent, and asks for consent once per run, before anything is sent."""
        known = self.journal.answers()
        chats = [messages(text, self.label_names) for text in dict.fromkeys(texts)]
        left = [chat for chat in chats if key(self.name, chat) not in known]
        asking, answering = sum(map(about_tokens, left)), len(left) * self.answer_length()
        print(
            f"{self.name} at {self.client.base_url.host}: {len(left):,} questions of about "
            f"{asking:,} tokens, answers of at most {answering:,}{self.cost(asking, answering)}"
        )
        if is_confirmed or any("confirmed" in record for record in self.journal.records):
            return
        if not sys.stdin.isatty():
            raise InputError("nothing was sent: --yes agrees where there is no terminal to ask on")
        if input("send it? [y/N] ").strip().lower() not in ("y", "yes"):
            raise InputError("nothing was sent")

    def cost(self, asking: int, answering: int) -> str:
        """The cost of these tokens of input and output, as the end of a sentence; "" if unknown."""
        if self.prices is None:
            return ""
        dollars = (asking * self.prices[0] + answering * self.prices[1]) / 1e6
        return f": ${dollars:.2f} at {self.prices} dollars a million"

    def answer_length(self) -> int:
        """A number of tokens that is enough for any label: each token has at least one byte."""
        return 1 + max(len(label.encode()) for label in self.label_names)

    # ---- answers ----

    def scores(self, texts: list[str]) -> tuple[np.ndarray, int]:
        """
        The answers as (n, C + 1): 0 for the label that is named, and -inf elsewhere. The last
        column is for answers that name no label. Also returns the number of such answers.
        """
        chats = [messages(text, self.label_names) for text in texts]
        keys, known = [key(self.name, chat) for chat in chats], self.journal.answers()
        missing = {k: chat for k, chat in zip(keys, chats) if k not in known}
        with server_errors(), ThreadPoolExecutor(WORKERS) as pool:
            tasks = [pool.submit(self.ask, k, chat) for k, chat in missing.items()]
            try:
                for task in tqdm(as_completed(tasks), "answers", total=len(tasks), disable=None):
                    task.result()
            finally:
                pool.shutdown(cancel_futures=True)  # running requests are still recorded
        known = self.journal.answers()
        columns = [self.column(known[k]) for k in keys]
        scores = np.full((len(texts), len(self.names) + 1), -np.inf, dtype=np.float32)
        scores[np.arange(len(texts)), columns] = 0.0
        return scores, columns.count(len(self.names))

    def ask(self, question: str, chat: list) -> None:
        """Sends one question, and records its answer in the journal."""
        options: dict = {"temperature": 0, "max_completion_tokens": self.answer_length()}
        completion = self.client.chat.completions.create(model=self.name, messages=chat, **options)
        if not getattr(completion, "choices", None):
            raise ValueError("an answer without choices")
        answer, usage = completion.choices[0].message.content or "", completion.usage
        tokens = usage and [usage.prompt_tokens, usage.completion_tokens]
        self.journal.append(prompt=question, answer=answer, tokens=tokens)

    def column(self, answer: str) -> int:
        """The label that equals the answer up to case, outer spaces, quotes and a stop; else C."""
        for whole in (answer.strip(), answer.strip("\"'`*. \t\r\n")):
            if whole.casefold() in self.names:
                return self.names.index(whole.casefold())
        return len(self.names)

    def counted(self) -> str:
        """Says how many tokens the server counted, and their price."""
        usage = [record["tokens"] for record in self.journal.records if record.get("tokens")]
        asking, answering = map(sum, zip(*usage)) if usage else (0, 0)
        counted = f"the server counted {asking:,} tokens of questions and {answering:,} of answers"
        return counted + self.cost(asking, answering)

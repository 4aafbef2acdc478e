"""
A language model that its provider fine-tunes and asks: GPT-3.5, or another one of OpenAI's.

    python main.py --dataset trec --ir 50 --method gpt35 --prices 8 3 6 # asks before it sends
"""

import contextlib
import hashlib
import json
import math
import os
import secrets
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import numpy as np
from tqdm import tqdm

from baselines.language_models import messages, require
from engine import distributed
from engine.files import InputError, save

LEAST_EXAMPLES, MOST_TOKENS = 10, 16_385  # of the provider's fine-tuning guide, an example
WORKERS = 8  # questions at a time
RETRIES = 8  # of the client, with its growing pauses: a minute
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds between two looks at the job


class Journal:
    """
    Records that are on the disk before append() returns, a line of JSON each: what was paid for.
    The last line is dropped if the process was killed while it wrote it. is_new: starts empty.
    """

    def __init__(self, path: Path, is_new: bool = False):
        self.path, self.lock = path, threading.Lock()
        content = path.read_bytes() if path.exists() and not is_new else b""
        whole = content[: content.rfind(b"\n") + 1]
        try:
            self.records = [json.loads(line) for line in whole.splitlines()]
        except ValueError as error:
            raise InputError(
                f"{path} is damaged ({error}): it holds what was paid for, so mend "
                "it by hand, or pay again with --overwrite"
            ) from error
        if whole != content:
            os.truncate(path, len(whole))

    def append(self, **record) -> None:
        with self.lock, open(self.path, "ab") as file:
            file.write(json.dumps(record).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
            self.records.append(record)

    def last(self, name: str):
        """The newest value of this name, or None."""
        return next((record[name] for record in reversed(self.records) if name in record), None)


@contextlib.contextmanager
def provider_errors(task: str):
    """The provider's errors as one line each, without the key, whatever the server wrote."""
    import openai

    try:
        yield
    except InputError:
        raise
    except (openai.OpenAIError, ValueError) as error:  # ValueError: an answer that is no JSON
        reason = " ".join(str(error).split())
        reason = reason.replace(os.environ["OPENAI_API_KEY"], "***")
        raise InputError(
            f"{task}: {type(error).__name__} ({reason}); what is done is kept, and "
            "the same command goes on from there"
        ) from None


def about_tokens(chat: list[dict[str, str]]) -> int:
    """The provider's rule of thumb, 4 bytes of English a token, and 4 for each message's frame."""
    return 3 + sum(4 + math.ceil(len(message["content"].encode()) / 4) for message in chat)


def example(text: str, label: str, label_names: list[str]) -> list[dict[str, str]]:
    return [*messages(text, label_names), {"role": "assistant", "content": label}]


def check_examples(path: Path, label_names: list[str]) -> None:
    """InputError if the training file is not as the provider's guide asks."""
    # of bytes: Python would end a line of a string at U+2028, too, which JSON leaves in a text
    chats = [json.loads(line)["messages"] for line in path.read_bytes().splitlines()]
    roles = {tuple(message["role"] for message in chat) for chat in chats}
    answers = {chat[-1]["content"] for chat in chats}
    longest = max(map(about_tokens, chats))
    problem = (
        f"{len(chats)} examples, at least {LEAST_EXAMPLES} are asked for"
        if len(chats) < LEAST_EXAMPLES
        else "an example without its question or answer"
        if roles != {("system", "user", "assistant")}
        else f"answers that are no labels: {sorted(answers - set(label_names))[:3]}"
        if not answers <= set(label_names)
        else f"an example of about {longest:,} tokens, where {MOST_TOKENS:,} are taken: shorten "
        "the texts"
        if longest > MOST_TOKENS
        else None
    )
    if problem:
        raise InputError(f"{path}: {problem}")


class HostedModel:
    """
    A model of OpenAI, or of a server with its endpoints at OPENAI_BASE_URL, fine-tuned there.

    The journal in the run's folder has each thing that was paid for as soon as its answer arrives.
    A file is found again by its name, which has a random part, a job by its file: if the process
    dies between a request and its record, or the connection breaks, nothing is made twice. Only a
    question whose answer got lost on the way is asked, and may be paid for, once more.

    prices   dollars for a million tokens: training, input, output
    folder   of the run
    is_new   nothing that is in the folder counts as paid for
    raises   InputError without the package openai or the key in OPENAI_API_KEY
    """

    def __init__(
        self,
        name: str,
        label_names: list[str],
        epochs: int,
        seed: int,
        prices: list[float],
        folder: Path,
        is_new: bool = False,
    ):
        require("openai", "--method gpt35")
        import openai

        key = os.environ.get("OPENAI_API_KEY", "")
        if not key.isascii() or key.split() != [key]:
            raise InputError(
                "--method gpt35 needs your key, as it was given to you, in the "
                "environment variable OPENAI_API_KEY; it is written nowhere"
            )
        self.names = [label.strip().casefold() for label in label_names]
        if len(set(self.names)) < len(self.names):
            raise InputError(
                "two labels differ in case or outer spaces alone, and the answers of "
                "a language model could not be told apart: rename one"
            )
        self.name, self.label_names, self.epochs, self.seed = name, label_names, epochs, seed
        self.prices, self.folder = prices, folder
        self.journal = Journal(folder / "openai.jsonl", is_new)
        self.client = openai.OpenAI(max_retries=RETRIES)
        self.impatient = self.client.with_options(max_retries=0)

    # ---- cost ----

    def confirm(
        self, examples: list[tuple[str, str]], questions: list[str], *, is_confirmed: bool
    ) -> None:
        """
        Shows what is still to be paid for, and asks before anything is sent, once for a run.
        InputError where a question is too long for the model that would be paid for.

        examples      texts with their labels, to train on
        questions     texts to classify
        is_confirmed  do not ask
        """
        training = (
            0
            if self.journal.last("job")
            else self.epochs
            * sum(about_tokens(example(*pair, self.label_names)) for pair in examples)
        )
        model, answered = self.journal.last("model"), self.answered()
        chats = [messages(text, self.label_names) for text in dict.fromkeys(questions)]
        longest = max(map(about_tokens, chats))
        if longest > MOST_TOKENS and training:
            raise InputError(
                f"a question of about {longest:,} tokens, where {MOST_TOKENS:,} are taken: shorten "
                "the test and validation texts; nothing was sent"
            )
        left = [chat for chat in chats if prompt_key(model, chat) not in answered]
        asking, answering = sum(map(about_tokens, left)), len(left) * self.answer_length()
        print(
            f"{self.name} at {self.client.base_url.host}: about {training:,} tokens of training "
            f"({self.epochs} epochs), {len(left):,} questions of about {asking:,} tokens, "
            f"answers of at most {answering:,}: about "
            f"${self.cost(training, asking, answering):.2f} at {self.prices} dollars a million"
        )
        if is_confirmed or self.journal.last("confirmed"):
            return
        if not sys.stdin.isatty():
            raise InputError(
                "nothing was sent: --yes agrees to this cost where there is no terminal to ask on"
            )
        if input("send it? [y/N] ").strip().lower() not in ("y", "yes"):
            raise InputError("nothing was sent")

    def cost(self, *tokens: int) -> float:
        """Dollars, for tokens of training, input and output."""
        return sum(count * price for count, price in zip(tokens, self.prices)) / 1e6

    def answer_length(self) -> int:
        """Tokens that hold any label: no token is less than a byte."""
        return 1 + max(len(label.encode()) for label in self.label_names)

    # ---- fine-tuning ----

    def fine_tune(self, examples: list[tuple[str, str]]) -> None:
        """Writes and uploads the training file, starts the job, waits for it; each step once."""
        path, journal = self.folder / "training.jsonl", self.journal
        save(
            path,
            "".join(
                json.dumps({"messages": example(*pair, self.label_names)}, ensure_ascii=False)
                + "\n"
                for pair in examples
            ).encode(),
        )
        check_examples(path, self.label_names)
        if not journal.last("run"):
            journal.append(run=f"sharprecl-{secrets.token_hex(8)}", confirmed=True)
        run = journal.last("run")
        if not journal.last("file"):
            with provider_errors("uploading the training texts"):
                file = once(
                    lambda: self.uploaded(f"{run}.jsonl"),
                    lambda: self.impatient.files.create(
                        file=(f"{run}.jsonl", path.read_bytes()), purpose="fine-tune"
                    ),
                )
            journal.append(file=file.id)
        if not journal.last("job"):
            with provider_errors("starting the fine-tuning"):
                job = once(
                    lambda: self.started(journal.last("file")),
                    lambda: self.impatient.fine_tuning.jobs.create(
                        model=self.name,
                        training_file=journal.last("file"),
                        suffix=run,
                        seed=self.seed,
                        method={
                            "type": "supervised",
                            "supervised": {"hyperparameters": {"n_epochs": self.epochs}},
                        },
                    ),
                )
            journal.append(job=job.id)
        if not journal.last("model"):
            with provider_errors("waiting for the fine-tuning"):
                job = self.finished(journal.last("job"))
            journal.append(model=job.fine_tuned_model, trained_tokens=job.trained_tokens)

    def uploaded(self, name: str):
        """The uploaded file of this name, or None."""
        return next(
            (file for file in self.client.files.list(purpose="fine-tune") if file.filename == name),
            None,
        )

    def started(self, file_id: str):
        """The job that trains on this file, or None."""
        return next(
            (job for job in self.client.fine_tuning.jobs.list() if job.training_file == file_id),
            None,
        )

    def finished(self, job_id: str):
        """The job when it has succeeded; looks at it again and again, at growing intervals."""
        pause, status = FIRST_PAUSE, None
        while True:
            job, before = self.client.fine_tuning.jobs.retrieve(job_id), status
            status = getattr(job, "status", None)
            if status != before:
                print(f"fine-tuning {job_id}: {status}", flush=True)
            if status == "succeeded":
                return job
            if status in ("failed", "cancelled"):
                reason = f": {job.error.message}" if job.error and job.error.message else ""
                raise InputError(
                    f"fine-tuning {job_id} was {status}{reason}; --overwrite starts "
                    "another one, which is paid for anew"
                )
            time.sleep(pause)
            pause = min(LONGEST_PAUSE, 1.5 * pause)

    # ---- answers ----

    def scores(self, texts: list[str]) -> tuple[np.ndarray, int]:
        """
        One answer to each text as (n, C + 1), 0 for the label it names and -inf elsewhere; the last
        column is for answers that name none. Also the number of those.
        """
        model = self.journal.last("model")
        chats = {text: messages(text, self.label_names) for text in texts}
        keys = {text: prompt_key(model, chat) for text, chat in chats.items()}
        known = self.answered()
        missing = [text for text, key in keys.items() if key not in known]
        with provider_errors("classifying"), ThreadPoolExecutor(WORKERS) as pool:
            tasks = [pool.submit(self.ask, model, chats[text], keys[text]) for text in missing]
            try:
                for task in tqdm(as_completed(tasks), "answers", total=len(tasks), disable=None):
                    task.result()
            finally:
                pool.shutdown(cancel_futures=True)  # those under way are still recorded
        known = self.answered()
        column = [self.column(known[keys[text]]) for text in texts]
        scores = np.full((len(texts), len(self.names) + 1), -np.inf, dtype=np.float32)
        scores[np.arange(len(texts)), column] = 0.0
        return scores, column.count(len(self.names))

    def answered(self) -> dict[str, str]:
        return {
            record["prompt"]: record["answer"]
            for record in self.journal.records
            if "prompt" in record
        }

    def ask(self, model: str, chat: list[dict[str, str]], key: str) -> None:
        completion = self.client.chat.completions.create(
            model=model, messages=chat, temperature=0, max_completion_tokens=self.answer_length()
        )
        if not getattr(completion, "choices", None):
            raise ValueError("an answer without choices")
        usage = completion.usage
        self.journal.append(
            prompt=key,
            answer=completion.choices[0].message.content or "",
            tokens=usage and [usage.prompt_tokens, usage.completion_tokens],
        )

    def column(self, answer: str) -> int:
        """The label that the answer is, but for case and outer spaces; C for none."""
        answer = answer.strip().casefold()
        return self.names.index(answer) if answer in self.names else len(self.names)

    def paid(self) -> str:
        """What the provider counted, and its price."""
        usage = [record["tokens"] for record in self.journal.records if record.get("tokens")]
        training = self.journal.last("trained_tokens") or 0
        asking, answering = map(sum, zip(*usage)) if usage else (0, 0)
        return (
            f"the provider counted {training:,} tokens of training, {asking:,} of questions, "
            f"{answering:,} of answers: ${self.cost(training, asking, answering):.2f}"
        )


def prompt_key(model: str, chat: list[dict[str, str]]) -> str:
    return hashlib.sha256(json.dumps([model, chat]).encode()).hexdigest()


def once(find, create):
    """
    What find() finds, else what create() makes. It may have worked where the connection broke, the
    server failed or its answer cannot be read: find() is asked before the next try. create() must
    not try again by itself.
    """
    import openai

    for attempt in range(RETRIES + 1):
        found = find()
        if found is not None:
            return found
        try:
            made = create()
            if getattr(made, "id", None):
                return made
            raise ValueError("an answer without an id")
        except (
            openai.APIConnectionError,
            openai.InternalServerError,
            openai.RateLimitError,
            openai.ConflictError,
            openai.BadRequestError,
            ValueError,
        ) as error:
            is_refused = isinstance(error, openai.BadRequestError) and "not ready" not in str(
                error
            )  # a file just uploaded may be
            if is_refused or attempt == RETRIES:
                raise
            time.sleep(min(LONGEST_PAUSE, FIRST_PAUSE * 2**attempt))


def fit(args, corpus, folder):
    """
    One epoch, see engine/run_folder.py: the model as it is after its last one. An answer that is no
    label is wrong.
    """
    if distributed.world_size() > 1:
        raise InputError(f"{args.method} runs in one process: start it without torchrun")
    model = HostedModel(
        args.base_model,
        corpus.label_names,
        args.constants["epochs"],
        args.seed,
        args.prices,
        folder.place,
        is_new=folder.starts_anew,
    )
    examples = [
        (text, corpus.label_names[label])
        for text, label in zip(corpus.train_texts, corpus.train_labels)
    ]
    model.confirm(examples, corpus.test_texts + corpus.val_texts, is_confirmed=args.yes)
    folder.begin()
    model.fine_tune(examples)
    logits, unknown = model.scores(corpus.test_texts)
    val_logits = model.scores(corpus.val_texts)[0] if corpus.val_texts else None
    print(
        f"{unknown} of {len(logits)} answers are no label, and count as wrong; {model.paid()}",
        flush=True,
    )
    yield (
        {"epoch": args.constants["epochs"], "extra": {"unknown_answers": unknown}},
        logits,
        val_logits,
    )

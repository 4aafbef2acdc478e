"""
The large language models of Table 3: open ones fine-tuned with LoRA on a quantised base, GPT-3.5
fine-tuned by its provider. The data, the evaluation and the results are main.py's.

    python main.py --dataset trec --ir 50 --method llama2               # a card of 24 GB
    python main.py --dataset trec --ir 50 --method gpt35 --prices 8 3 6 # asks before it sends

All are asked the same question (`messages`). An open model never writes: each label is scored by
its likelihood as the answer. GPT-3.5 writes, and what is not exactly a label counts as unknown.

Letters: n texts, C classes, B rows of a batch, L tokens of its longest row, V words of the model.
"""
import contextlib
import copy
import hashlib
import importlib.util
import inspect
import json
import math
import os
import secrets
import shutil
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from engine.files import InputError
from data import batches_of, epoch_batches, eval_batches
from engine.files import save
from model import load_pretrained

MODELS = {"gpt35": "gpt-3.5-turbo-0125", "bloom": "bigscience/bloom-7b1",
          "llama2": "meta-llama/Llama-2-7b-hf", "llama3": "meta-llama/Meta-Llama-3-8B"}

# The paper gives none. Rate, warm-up, clipping and the adapted layers are those of QLoRA (Dettmers
# et al. 2023) for 7B models; 3 epochs, as a model of this size has its texts by heart after a few.
LORA = {"epochs": 3, "lr": 2e-4, "batch_size": 16, "rank": 16, "alpha": 32.0, "dropout": 0.05}
CONSTANTS = {"gpt35": {"epochs": 3}, "bloom": LORA, "llama2": LORA, "llama3": LORA}
WARMUP, CLIP = 0.03, 0.3        # share of the steps; norm of the gradient
BASE_TYPES = ("4bit", "8bit", "bf16", "fp32")

# ---- the prompt ----


def messages(text: str, label_names: list[str]) -> list[dict[str, str]]:
    """The question as a chat, without its answer. The paper has one prompt for all, unpublished."""
    instruction = ("Classify the text. Answer with exactly one of the labels.\n"
                   f"Labels: {'; '.join(label_names)}")
    return [{"role": "system", "content": instruction},
            {"role": "user", "content": f"Text: {text}\nLabel:"}]


def prompt(text: str, label_names: list[str]) -> str:
    """The same question as one text, for models that continue texts."""
    return "\n".join(message["content"] for message in messages(text, label_names))


def require(package: str, purpose: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise InputError(f"{purpose} needs the package {package}: pip install {package}")


# ---- open models: LoRA on a frozen base ----


HINT = ("Give --base_model a folder with config.json, weights and tokenizer, or a name; for gated "
        "ones, as Llama, accept the licence on its page and run: hf auth login")


def load_base(name: str, base_type: str, device: str):
    """The pretrained causal model on its device; InputError where something for it is missing."""
    options = {"dtype": torch.float32 if base_type == "fp32" else torch.bfloat16}
    if base_type in ("4bit", "8bit"):
        require("bitsandbytes", f"--base_type {base_type}")
        options["device_map"] = {"": device}
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=base_type == "4bit", load_in_8bit=base_type == "8bit",
            bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16)
    base, info = load_pretrained(AutoModelForCausalLM.from_pretrained, name, "language model",
                                 HINT, output_loading_info=True, **options)
    if info["missing_keys"] or info["mismatched_keys"]:
        raise InputError(f"language model {name}: its weights do not fit its config.json; save it "
                         "anew with save_pretrained")
    return base if base_type in ("4bit", "8bit") else base.to(device)


def adapted(base, rank: int, alpha: float, dropout: float, targets: list[str] | None):
    """The base, frozen, with new adapters (B = 0: as long as untrained they change nothing)."""
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
    recompute = {"use_reentrant": False}        # activations, in the backward pass
    if getattr(base, "is_quantized", False):
        base = prepare_model_for_kbit_training(base, gradient_checkpointing_kwargs=recompute)
    elif base.dtype == torch.bfloat16:
        base.gradient_checkpointing_enable(recompute)
    try:
        return get_peft_model(base, LoraConfig(
            r=rank, lora_alpha=alpha, lora_dropout=dropout, task_type="CAUSAL_LM",
            target_modules=targets or "all-linear"))
    except ValueError as error:
        raise InputError(f"--lora_targets: {str(error).splitlines()[0]}") from error


class LoraClassifier:
    """
    A causal language model that answers `messages` with a label. The loss is on the answer alone:
    the label's tokens and the end of the text, so that no label is the beginning of another.

    constants   as LORA: epochs, lr, batch_size, rank, alpha, dropout
    max_length  tokens that a text is cut to; the prompt around it comes on top
    micro_batch rows in memory at a time, None: batch_size; the gradient stays that of the batch
    raises      InputError for missing packages or weights, and for labels it cannot tell apart
    """

    def __init__(self, name: str, label_names: list[str], constants: dict, *, base_type: str,
                 targets: list[str] | None, device: str, max_length: int,
                 micro_batch: int | None):
        require("peft", "fine-tuning a language model")
        self.label_names, self.constant, self.device = label_names, constants, device
        self.max_length = max_length
        self.micro_batch = micro_batch or constants["batch_size"]
        self.tokenizer = load_pretrained(AutoTokenizer.from_pretrained, name, "language model",
                                         HINT)
        self.answers = self.label_tokens()
        base = load_base(name, base_type, device)
        self.longest = getattr(base.config, "max_position_embeddings", None) or math.inf
        self.accepted = inspect.signature(base.forward).parameters
        self.network = adapted(base, *(constants[key] for key in ("rank", "alpha", "dropout")),
                               targets)
        trained = [p for p in self.network.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=constants["lr"], weight_decay=0.0)

    # ---- tokens ----

    def label_tokens(self) -> list[list[int]]:
        """What each label is after the prompt, in tokens, with the end of the text."""
        plain = self.tokenizer("Label:", add_special_tokens=False)["input_ids"]
        whole = self.tokenizer([f"Label: {name}" for name in self.label_names],
                               add_special_tokens=False)["input_ids"]
        answers = [ids[len(plain):] + [self.tokenizer.eos_token_id] for ids in whole]
        if self.tokenizer.eos_token_id is None or len(set(map(tuple, answers))) < len(answers):
            raise InputError("this model's tokenizer cannot tell the labels apart, or has no end "
                             "of text: choose another --base_model, or rename the labels")
        return answers

    def cut(self, texts: list[str]) -> tuple[list[str], float]:
        """The texts, cut to max_length tokens, and the share of them that was longer."""
        encoded = self.tokenizer(texts, add_special_tokens=False, truncation=True,
                                 max_length=self.max_length, return_offsets_mapping=True)
        is_long = [bool(encoding.overflowing) for encoding in encoded.encodings]
        return [text[:offsets[-1][1]] if long else text for text, offsets, long
                in zip(texts, encoded["offset_mapping"], is_long)], sum(is_long) / len(texts)

    def prompts(self, texts: list[str]) -> list[list[int]]:
        """Each text's prompt in tokens, with what the tokenizer puts before a text."""
        short, _ = self.cut(texts)
        plain = self.tokenizer("Text", add_special_tokens=False)["input_ids"]
        whole = self.tokenizer("Text")["input_ids"]
        begin = whole[:whole.index(plain[0])]       # not what some put behind it
        ids = self.tokenizer([prompt(text, self.label_names) for text in short],
                             add_special_tokens=False)["input_ids"]
        longest = len(begin) + max(map(len, ids)) + max(map(len, self.answers))
        if longest > self.longest:
            raise InputError(f"a prompt with its answer has {longest} tokens and this model takes "
                             f"{self.longest}: lower --max_length")
        return [begin + row for row in ids]

    def batch(self, rows: list[list[int]]) -> tuple[Tensor, Tensor]:
        """Token ids and mask (1 token, 0 padding), both (B, L), padded on the left."""
        ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, -len(row):] = torch.tensor(row)
            mask[i, -len(row):] = 1
        return ids.to(self.device), mask.to(self.device)

    def logits(self, ids: Tensor, mask: Tensor, keep: int, **options):
        """
        Of the next token after each of the last `keep` tokens, (B, keep, V), float32; and the
        model's cache.

        ids   (B, L)            the new tokens
        mask  (B, past + L)     of the tokens in the cache and the new ones
        """
        inputs = {"position_ids": (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -ids.shape[1]:],
                  "logits_to_keep": keep}       # of a long prompt all logits would fill the card
        known = {name: value for name, value in inputs.items() if name in self.accepted}
        output = self.network(input_ids=ids, attention_mask=mask, **known, **options)
        return output.logits[:, -keep:].float(), output.get("past_key_values")

    # ---- training ----

    def loss(self, prompts: list[list[int]], labels: list[int]) -> Tensor:
        """Minus the log-likelihood of all answers, summed over their tokens."""
        answers = [self.answers[label] for label in labels]
        ids, mask = self.batch([row + answer for row, answer in zip(prompts, answers)])
        width = max(map(len, answers))
        targets = ids[:, -width:].clone()                                       # (B, width)
        for row, answer in zip(targets, answers):
            row[:width - len(answer)] = -100        # of the prompt: cross_entropy leaves it out
        logits, _ = self.logits(ids, mask, width + 1, use_cache=False)      # (B, width + 1, V)
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), targets.flatten(), reduction="sum")

    def train_epoch(self, texts: list[str], labels: np.ndarray, *, seed: int, epoch: int) -> dict:
        """One epoch over the training texts; returns its mean loss a token, and its speed."""
        prompts, start, total, tokens = self.prompts(texts), time.perf_counter(), 0.0, 0
        size = self.constant["batch_size"]
        batches = epoch_batches(len(prompts), size, seed=seed, epoch=epoch)
        warmup = max(1, round(WARMUP * self.constant["epochs"] * len(batches)))
        self.network.train()
        for position, rows in enumerate(tqdm(batches, f"epoch {epoch}", leave=False)):
            step = 1 + (epoch - 1) * len(batches) + position
            lr = self.constant["lr"] * min(1.0, step / warmup)
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            num_tokens = sum(len(self.answers[labels[row]]) for row in rows)
            self.optimizer.zero_grad()
            by_length = rows[np.argsort([len(prompts[row]) for row in rows], kind="stable")]
            for piece in batches_of(by_length, self.micro_batch):
                loss = self.loss([prompts[row] for row in piece], labels[piece].tolist())
                (loss / num_tokens).backward()
                total += loss.item()
            torch.nn.utils.clip_grad_norm_(self.optimizer.param_groups[0]["params"], CLIP)
            self.optimizer.step()
            tokens += num_tokens
        if not math.isfinite(total):
            raise InputError(f"training diverged in epoch {epoch}: its loss is not finite; lower "
                             "--constants lr=...")
        loss, seconds = total / tokens, time.perf_counter() - start
        return {"loss": loss, "loss_cls": loss, "loss_cl": 0.0, "lr": lr,
                "texts_per_second": round(len(prompts) / seconds, 1)}

    # ---- prediction ----

    @torch.inference_mode()
    def scores(self, texts: list[str]) -> np.ndarray:
        """Log-likelihood of each label as the answer, (n, C); softmax makes it a probability."""
        self.network.eval()
        prompts = self.prompts(texts)
        scores = np.empty((len(texts), len(self.answers)), dtype=np.float32)
        batches = eval_batches(np.array([len(row) for row in prompts]), self.micro_batch)
        for rows in tqdm(batches, "labels", leave=False):
            scores[rows] = self.label_scores([prompts[row] for row in rows]).cpu().numpy()
        return scores

    def label_scores(self, prompts: list[list[int]]) -> Tensor:
        """(B, C). The prompts are read once; each label goes on from there."""
        ids, mask = self.batch(prompts)
        first, cache = self.logits(ids, mask, 1, use_cache=True)
        first = first[:, 0].log_softmax(dim=1)                                  # (B, V)
        columns = []
        for answer in self.answers:
            new = torch.tensor([answer[:-1]] * len(ids), device=self.device)    # (B, m)
            score = first[:, answer[0]]
            if new.shape[1] > 0:
                whole_mask = torch.cat([mask, torch.ones_like(new)], dim=1)
                # a copy, as not every kind of cache can forget a label again
                logits, _ = self.logits(new, whole_mask, new.shape[1], use_cache=True,
                                        past_key_values=copy.deepcopy(cache))
                rest = torch.tensor(answer[1:], device=self.device)
                rest = rest.expand(len(ids), -1).unsqueeze(2)                   # (B, m, 1)
                score = score + logits.log_softmax(dim=2).gather(2, rest).sum(dim=(1, 2))
            columns.append(score)
        return torch.stack(columns, dim=1)

    # ---- what is kept ----

    def state_dict(self) -> dict[str, Tensor]:
        """The adapters alone."""
        from peft import get_peft_model_state_dict
        # not the embeddings: it would ask the hub whether they are still those of the base
        return get_peft_model_state_dict(self.network, save_embedding_layers=False)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        from peft import set_peft_model_state_dict
        set_peft_model_state_dict(self.network, state)

    def save(self, folder: Path) -> None:
        """The adapters as PeftModel.from_pretrained reads them; the folder appears whole."""
        temporary = folder.with_name(folder.name + ".tmp")
        self.network.save_pretrained(temporary, save_embedding_layers=False)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(temporary, folder)


def load(folder: str | Path, device: str = "cpu") -> LoraClassifier:
    """The fine-tuned model of a finished run, by its args.json and adapter."""
    from safetensors.torch import load_file
    folder = Path(folder)
    record = json.loads((folder / "args.json").read_text())
    own = record["settings"]
    model = LoraClassifier(own["base_model"], record["label_names"], own["constants"],
                           base_type=own["base_type"], targets=own["lora_targets"], device=device,
                           max_length=own["max_length"], micro_batch=own["micro_batch"])
    model.load_state_dict(load_file(folder / "adapter" / "adapter_model.safetensors"))
    return model


# ---- GPT-3.5: fine-tuned and asked at its provider ----

LEAST_EXAMPLES, MOST_TOKENS = 10, 16_385    # of the provider's fine-tuning guide, an example
WORKERS = 8                                 # questions at a time
RETRIES = 8                                 # of the client, with its growing pauses: a minute
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0      # seconds between two looks at the job


class Journal:
    """
    Records that are on the disk before append() returns, a line of JSON each: what was paid for.
    The last line is dropped if the process was killed while it wrote it. is_new: starts empty.
    """

    def __init__(self, path: Path, is_new: bool = False):
        self.path, self.lock = path, threading.Lock()
        content = path.read_bytes() if path.exists() and not is_new else b""
        whole = content[:content.rfind(b"\n") + 1]
        try:
            self.records = [json.loads(line) for line in whole.splitlines()]
        except ValueError as error:
            raise InputError(f"{path} is damaged ({error}): it holds what was paid for, so mend "
                             "it by hand, or pay again with --overwrite") from error
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
    except (openai.OpenAIError, ValueError) as error:       # ValueError: an answer that is no JSON
        reason = " ".join(str(error).split())
        reason = reason.replace(os.environ["OPENAI_API_KEY"], "***")
        raise InputError(f"{task}: {type(error).__name__} ({reason}); what is done is kept, and "
                         "the same command goes on from there") from None


def about_tokens(chat: list[dict[str, str]]) -> int:
    """The provider's rule of thumb, 4 bytes of English a token, and 4 for each message's frame."""
    return 3 + sum(4 + math.ceil(len(message["content"].encode()) / 4) for message in chat)


def example(text: str, label: str, label_names: list[str]) -> list[dict[str, str]]:
    return [*messages(text, label_names), {"role": "assistant", "content": label}]


def check_examples(path: Path, label_names: list[str]) -> None:
    """InputError if the training file is not as the provider's guide asks."""
    chats = [json.loads(line)["messages"] for line in path.read_text("utf-8").splitlines()]
    roles = {tuple(message["role"] for message in chat) for chat in chats}
    answers = {chat[-1]["content"] for chat in chats}
    longest = max(map(about_tokens, chats))
    problem = (
        f"{len(chats)} examples, at least {LEAST_EXAMPLES} are asked for"
        if len(chats) < LEAST_EXAMPLES else
        "an example without its question or answer" if roles != {("system", "user", "assistant")}
        else f"answers that are no labels: {sorted(answers - set(label_names))[:3]}"
        if not answers <= set(label_names) else
        f"an example of about {longest:,} tokens, where {MOST_TOKENS:,} are taken: shorten the "
        "texts" if longest > MOST_TOKENS else None)
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

    def __init__(self, name: str, label_names: list[str], epochs: int, seed: int,
                 prices: list[float], folder: Path, is_new: bool = False):
        require("openai", "--method gpt35")
        import openai
        key = os.environ.get("OPENAI_API_KEY", "")
        if not key.isascii() or key.split() != [key]:
            raise InputError("--method gpt35 needs your key, as it was given to you, in the "
                             "environment variable OPENAI_API_KEY; it is written nowhere")
        self.names = [label.strip().casefold() for label in label_names]
        if len(set(self.names)) < len(self.names):
            raise InputError("two labels differ in case or outer spaces alone, and the answers of "
                             "a language model could not be told apart: rename one")
        self.name, self.label_names, self.epochs, self.seed = name, label_names, epochs, seed
        self.prices, self.folder = prices, folder
        self.journal = Journal(folder / "openai.jsonl", is_new)
        self.client = openai.OpenAI(max_retries=RETRIES)
        self.impatient = self.client.with_options(max_retries=0)

    # ---- cost ----

    def confirm(self, examples: list[tuple[str, str]], questions: list[str], *,
                is_confirmed: bool) -> None:
        """
        Shows what is still to be paid for, and asks before anything is sent, once for a run.

        examples      texts with their labels, to train on
        questions     texts to classify
        is_confirmed  do not ask
        """
        training = 0 if self.journal.last("job") else self.epochs * sum(
            about_tokens(example(*pair, self.label_names)) for pair in examples)
        model, answered = self.journal.last("model"), self.answered()
        chats = [messages(text, self.label_names) for text in dict.fromkeys(questions)]
        left = [chat for chat in chats if prompt_key(model, chat) not in answered]
        asking, answering = sum(map(about_tokens, left)), len(left) * self.answer_length()
        print(f"{self.name} at {self.client.base_url.host}: about {training:,} tokens of training "
              f"({self.epochs} epochs), {len(left):,} questions of about {asking:,} tokens, "
              f"answers of at most {answering:,}: about "
              f"${self.cost(training, asking, answering):.2f} at {self.prices} dollars a million")
        if is_confirmed or self.journal.last("confirmed"):
            return
        if not sys.stdin.isatty():
            raise InputError("nothing was sent: --yes agrees to this cost where there is no "
                             "terminal to ask on")
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
        save(path, "".join(json.dumps({"messages": example(*pair, self.label_names)},
                                      ensure_ascii=False) + "\n" for pair in examples).encode())
        check_examples(path, self.label_names)
        if not journal.last("run"):
            journal.append(run=f"sharprecl-{secrets.token_hex(8)}", confirmed=True)
        run = journal.last("run")
        if not journal.last("file"):
            with provider_errors("uploading the training texts"):
                file = once(lambda: self.uploaded(f"{run}.jsonl"),
                            lambda: self.impatient.files.create(
                                file=(f"{run}.jsonl", path.read_bytes()), purpose="fine-tune"))
            journal.append(file=file.id)
        if not journal.last("job"):
            with provider_errors("starting the fine-tuning"):
                job = once(lambda: self.started(journal.last("file")),
                           lambda: self.impatient.fine_tuning.jobs.create(
                               model=self.name, training_file=journal.last("file"), suffix=run,
                               seed=self.seed, method={"type": "supervised", "supervised": {
                                   "hyperparameters": {"n_epochs": self.epochs}}}))
            journal.append(job=job.id)
        if not journal.last("model"):
            with provider_errors("waiting for the fine-tuning"):
                job = self.finished(journal.last("job"))
            journal.append(model=job.fine_tuned_model, trained_tokens=job.trained_tokens)

    def uploaded(self, name: str):
        """The uploaded file of this name, or None."""
        return next((file for file in self.client.files.list(purpose="fine-tune")
                     if file.filename == name), None)

    def started(self, file_id: str):
        """The job that trains on this file, or None."""
        return next((job for job in self.client.fine_tuning.jobs.list()
                     if job.training_file == file_id), None)

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
                raise InputError(f"fine-tuning {job_id} was {status}{reason}; --overwrite starts "
                                 "another one, which is paid for anew")
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
                pool.shutdown(cancel_futures=True)      # those under way are still recorded
        known = self.answered()
        column = [self.column(known[keys[text]]) for text in texts]
        scores = np.full((len(texts), len(self.names) + 1), -np.inf, dtype=np.float32)
        scores[np.arange(len(texts)), column] = 0.0
        return scores, column.count(len(self.names))

    def answered(self) -> dict[str, str]:
        return {record["prompt"]: record["answer"] for record in self.journal.records
                if "prompt" in record}

    def ask(self, model: str, chat: list[dict[str, str]], key: str) -> None:
        completion = self.client.chat.completions.create(
            model=model, messages=chat, temperature=0,
            max_completion_tokens=self.answer_length())
        if not getattr(completion, "choices", None):
            raise ValueError("an answer without choices")
        usage = completion.usage
        self.journal.append(prompt=key, answer=completion.choices[0].message.content or "",
                            tokens=usage and [usage.prompt_tokens, usage.completion_tokens])

    def column(self, answer: str) -> int:
        """The label that the answer is, but for case and outer spaces; C for none."""
        answer = answer.strip().casefold()
        return self.names.index(answer) if answer in self.names else len(self.names)

    def paid(self) -> str:
        """What the provider counted, and its price."""
        usage = [record["tokens"] for record in self.journal.records if record.get("tokens")]
        training = self.journal.last("trained_tokens") or 0
        asking, answering = map(sum, zip(*usage)) if usage else (0, 0)
        return (f"the provider counted {training:,} tokens of training, {asking:,} of questions, "
                f"{answering:,} of answers: ${self.cost(training, asking, answering):.2f}")


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
        except (openai.APIConnectionError, openai.InternalServerError, openai.RateLimitError,
                openai.ConflictError, openai.BadRequestError, ValueError) as error:
            is_refused = (isinstance(error, openai.BadRequestError)
                          and "not ready" not in str(error))      # a file just uploaded may be
            if is_refused or attempt == RETRIES:
                raise
            time.sleep(min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** attempt))

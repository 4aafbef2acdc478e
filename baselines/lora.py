"""
Open language models, fine-tuned with LoRA on a frozen, quantised base; engine/large.py runs them.

    python main.py --dataset trec --ir 50 --method llama2               # a card of 24 GB

Letters: n texts, C classes, B rows of a batch, L tokens of its longest row, V words of the model.
"""

import copy
import inspect
import math
import os
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jinja2 import TemplateError
from torch import Tensor
from tqdm import tqdm

from baselines import at_least_0, positive, share
from baselines.language_models import messages, prompt
from data import InputError, batches_of, cut_characters, epoch_batches, eval_batches

WARMUP, CLIP = 0.03, 0.3  # share of the steps; norm of the gradient


def adapted(base, constants: dict, targets: list[str] | None):
    """The base, frozen, with new adapters (B = 0: as long as untrained they change nothing)."""
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    recompute = {"use_reentrant": False}
    if getattr(base, "is_quantized", False):
        base = prepare_model_for_kbit_training(base, gradient_checkpointing_kwargs=recompute)
    elif recomputes(base):
        base.gradient_checkpointing_enable(recompute)
    config = LoraConfig(
        r=constants["rank"],
        lora_alpha=constants["alpha"],
        lora_dropout=constants["dropout"],
        task_type="CAUSAL_LM",
        target_modules=targets or "all-linear",
    )
    try:
        return get_peft_model(base, config)
    except ValueError as error:
        raise InputError(f"--lora_targets: {str(error).splitlines()[0]}") from error


def recomputes(base) -> bool:
    """Whether the backward pass computes activations again, for a large model on a small card."""
    return getattr(base, "is_quantized", False) or base.dtype == torch.bfloat16


class LoraClassifier:
    """
    A causal language model that answers `messages` with a label. The loss is on the answer alone:
    the label's tokens and the end of the answer, so that no label is the beginning of another.

    A model that follows instructions is asked by its tokenizer's chat template, in the words that
    it was trained with; any other model continues the question as plain text.

    base        a causal model of transformers, on its device; its weights stay as they are
    constants   a value for each name of `constants` below
    targets     names of the layers that get adapters, None: all linear ones but the last
    max_length  tokens that a text is cut to; the prompt around it comes on top
    micro_batch rows in memory at a time, None: batch_size; the gradient stays that of the batch
    raises      InputError for labels that the model cannot tell apart, and for unknown targets
    """

    # The paper gives none. Rate, warm-up, clipping and the adapted layers are those of QLoRA
    # (Dettmers et al. 2023) for 7B models; 3 epochs, as a model of this size has its texts by heart
    # after a few. Without an epoch the model answers as it is (zero-shot).
    constants = {
        "epochs": at_least_0(3),
        "lr": positive(2e-4),
        "batch_size": positive(16),
        "rank": positive(16),
        "alpha": positive(32.0),
        "dropout": share(0.05),
    }

    def __init__(
        self,
        base,
        tokenizer,
        label_names: list[str],
        constants: dict,
        *,
        targets: list[str] | None,
        max_length: int,
        micro_batch: int | None,
    ):
        self.tokenizer, self.label_names, self.constant = tokenizer, label_names, constants
        self.max_length, self.device = max_length, base.device
        self.micro_batch = micro_batch or constants["batch_size"]
        self.longest = getattr(base.config, "max_position_embeddings", None) or math.inf
        self.accepted = inspect.signature(base.forward).parameters
        answers = self.chat_answers(base) if tokenizer.chat_template else None
        self.uses_chat_template = answers is not None
        self.answers = answers or self.plain_answers()
        if len(set(map(tuple, self.answers))) < len(label_names):
            raise InputError(
                "this model's tokenizer cannot tell the labels apart: choose another "
                "--base_model, or rename the labels"
            )
        self.recomputes = recomputes(base)
        self.network = adapted(base, constants, targets)
        trained = [p for p in self.network.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=constants["lr"], weight_decay=0.0)

    # ---- tokens ----

    def ids(self, texts: list[str]) -> list[list[int]]:
        """The tokens of texts as they stand, with nothing before or behind them."""
        return self.tokenizer(texts, add_special_tokens=False)["input_ids"]

    def plain_answers(self) -> list[list[int]]:
        """What each label is after the plain prompt, in tokens, with the end of the text."""
        end = self.tokenizer.eos_token_id
        if end is None:
            raise InputError("this tokenizer has no end of text: choose another --base_model")
        plain, *whole = self.ids(["Label:", *(f"Label: {name}" for name in self.label_names)])
        return [ids[len(plain) :] + [end] for ids in whole]

    def chat_answers(self, base) -> list[list[int]] | None:
        """
        What each label is as an answer by the chat template, with the token that ends it. None for
        a base model: it may bring a template, but that ends answers with a token at which this
        model does not stop.
        """
        ends = getattr(base.generation_config, "eos_token_id", None)
        ends = {self.tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None}
        answered = [self.chat("", answer=name) for name in self.label_names]
        before, *whole = self.ids([self.chat(""), *answered])
        answers = [ids[len(before) :] for ids in whole if ids[: len(before)] == before]
        stops = [[i for i, token in enumerate(answer) if token in ends] for answer in answers]
        if len(answers) < len(self.label_names) or not all(stops):
            return None
        return [answer[: first + 1] for answer, (first, *_) in zip(answers, stops)]

    def chat(self, text: str, answer: str | None = None) -> str:
        """The question by the chat template, up to its answer, or with this one."""
        turns = messages(text, self.label_names)
        own = [] if answer is None else [{"role": "assistant", "content": answer}]
        options = {"tokenize": False, "add_generation_prompt": answer is None}
        try:
            return self.tokenizer.apply_chat_template(turns + own, **options)
        except TemplateError:  # of a model that knows no system's role, as Gemma
            turns = [{"role": "user", "content": prompt(text, self.label_names)}]
            return self.tokenizer.apply_chat_template(turns + own, **options)

    def cut(self, texts: list[str]) -> tuple[list[str], float]:
        """The texts, cut to max_length tokens, and the share of them that was longer."""
        texts, is_cut = cut_characters(texts, self.max_length)
        options = {"truncation": True, "max_length": self.max_length, "add_special_tokens": False}
        encoded = self.tokenizer(texts, return_offsets_mapping=True, **options)
        is_long = [bool(encoding.overflowing) for encoding in encoded.encodings]
        return [
            text[: offsets[-1][1]] if long else text
            for text, offsets, long in zip(texts, encoded["offset_mapping"], is_long)
        ], float((is_cut | is_long).mean())

    def prompts(self, texts: list[str]) -> list[list[int]]:
        """Each text's question in tokens, with what the model expects before it."""
        short, _ = self.cut(texts)
        begin: list[int] = []
        if self.uses_chat_template:  # which has the beginning in it
            ids = self.ids([self.chat(text) for text in short])
        else:
            ((first, *_),), whole = self.ids(["Text"]), self.tokenizer("Text")["input_ids"]
            begin = whole[: whole.index(first)]  # not what some put behind it
            ids = self.ids([prompt(text, self.label_names) for text in short])
        longest = len(begin) + max(map(len, ids)) + max(map(len, self.answers))
        if longest > self.longest:
            raise InputError(
                f"a prompt with its answer has {longest} tokens and this model takes "
                f"{self.longest}: lower --max_length"
            )
        return [begin + row for row in ids]

    def batch(self, rows: list[list[int]]) -> tuple[Tensor, Tensor]:
        """Token ids and mask (1 token, 0 padding), both (B, L), padded on the left."""
        ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, -len(row) :] = torch.tensor(row)
            mask[i, -len(row) :] = 1
        return ids.to(self.device), mask.to(self.device)

    def logits(self, ids: Tensor, mask: Tensor, keep: int, **options):
        """
        Of the next token after each of the last `keep` tokens, (B, keep, V), float32; and the
        model's cache.

        ids   (B, L)            the new tokens
        mask  (B, past + L)     of the tokens in the cache and the new ones
        """
        position = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        # of a long prompt all logits would fill the card
        inputs = {"position_ids": position, "logits_to_keep": keep}
        known = {name: value for name, value in inputs.items() if name in self.accepted}
        output = self.network(input_ids=ids, attention_mask=mask, **known, **options)
        return output.logits[:, -keep:].float(), output.get("past_key_values")

    def read(self, rows: list[list[int]], keep: int, **options):
        """
        logits() of whole rows, and the mask of their tokens. The question and the labels, with
        which all rows begin, are read once and not in each row; of 20 classes they are most of it.
        """
        begin = list(os.path.commonprefix(rows)[: max(0, min(map(len, rows)) - keep)])
        if self.network.training and self.recomputes:
            begin = []  # without activations that stay there is no cache
        ids, mask = self.batch([row[len(begin) :] for row in rows])
        if begin:
            first, is_token = self.batch([begin])
            _, cache = self.logits(first, is_token, 1, use_cache=True)
            cache.batch_repeat_interleave(len(rows))
            mask = torch.cat([is_token.expand(len(rows), -1), mask], dim=1)
            options["past_key_values"] = cache
        return *self.logits(ids, mask, keep, **options), mask

    # ---- training ----

    def loss(self, prompts: list[list[int]], labels: list[int]) -> Tensor:
        """Minus the log-likelihood of all answers, summed over their tokens."""
        answers = [self.answers[label] for label in labels]
        width = max(map(len, answers))
        ignored = -100  # instead of a prompt's token: cross_entropy leaves it out
        padded = [[ignored] * (width - len(answer)) + answer for answer in answers]
        targets = torch.tensor(padded, device=self.device)  # (B, width)
        rows = [row + answer for row, answer in zip(prompts, answers)]
        logits, *_ = self.read(rows, width + 1, use_cache=False)  # (B, width + 1, V)
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
            raise InputError(f"training diverged in epoch {epoch}: lower --constants lr=...")
        mean, speed = total / tokens, len(prompts) / (time.perf_counter() - start)
        own = {"loss": mean, "loss_cls": mean, "loss_cl": 0.0}
        return own | {"lr": lr, "texts_per_second": round(speed, 1)}

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
        first, cache, mask = self.read(prompts, 1, use_cache=True)
        first = first[:, 0].log_softmax(dim=1)  # (B, V)
        columns = []
        for answer in self.answers:
            new = torch.tensor([answer[:-1]] * len(prompts), device=self.device)  # (B, m)
            score = first[:, answer[0]]
            if new.shape[1] > 0:
                whole_mask = torch.cat([mask, torch.ones_like(new)], dim=1)
                # a copy, as not every kind of cache can forget a label again
                past = {"use_cache": True, "past_key_values": copy.deepcopy(cache)}
                logits, _ = self.logits(new, whole_mask, new.shape[1], **past)
                rest = torch.tensor(answer[1:], device=self.device)
                rest = rest.expand(len(prompts), -1).unsqueeze(2)  # (B, m, 1)
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
        """The adapters, into a folder, as PeftModel.from_pretrained reads them."""
        self.network.save_pretrained(folder, save_embedding_layers=False)

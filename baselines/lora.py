"""
Open language models, fine-tuned with LoRA on a frozen, quantised base.

    python main.py --dataset trec --ir 50 --method llama2               # a card of 24 GB

Letters: n texts, C classes, B rows of a batch, L tokens of its longest row, V words of the model.
"""

import copy
import inspect
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from baselines.language_models import prompt, require
from data import batches_of, cut_characters, epoch_batches, eval_batches
from engine import distributed
from engine.files import InputError, load_pretrained, saving_folder

WARMUP, CLIP = 0.03, 0.3  # share of the steps; norm of the gradient

HINT = (
    "Give --base_model a folder with config.json, weights and tokenizer, or a name; for gated "
    "ones, as Llama, accept the licence on its page and run: hf auth login"
)


def load_base(name: str, base_type: str, device: str):
    """The pretrained causal model on its device; InputError where something for it is missing."""
    options = {"dtype": torch.float32 if base_type == "fp32" else torch.bfloat16}
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
    base, info = load_pretrained(
        AutoModelForCausalLM.from_pretrained,
        name,
        "language model",
        HINT,
        output_loading_info=True,
        **options,
    )
    if info["missing_keys"] or info["mismatched_keys"]:
        raise InputError(
            f"language model {name}: its weights do not fit its config.json; save it "
            "anew with save_pretrained"
        )
    return base if base_type in ("4bit", "8bit") else base.to(device)


def adapted(base, rank: int, alpha: float, dropout: float, targets: list[str] | None):
    """The base, frozen, with new adapters (B = 0: as long as untrained they change nothing)."""
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    recompute = {"use_reentrant": False}  # activations, in the backward pass
    if getattr(base, "is_quantized", False):
        base = prepare_model_for_kbit_training(base, gradient_checkpointing_kwargs=recompute)
    elif base.dtype == torch.bfloat16:
        base.gradient_checkpointing_enable(recompute)
    try:
        return get_peft_model(
            base,
            LoraConfig(
                r=rank,
                lora_alpha=alpha,
                lora_dropout=dropout,
                task_type="CAUSAL_LM",
                target_modules=targets or "all-linear",
            ),
        )
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

    def __init__(
        self,
        name: str,
        label_names: list[str],
        constants: dict,
        *,
        base_type: str,
        targets: list[str] | None,
        device: str,
        max_length: int,
        micro_batch: int | None,
    ):
        require("peft", "fine-tuning a language model")
        self.label_names, self.constant, self.device = label_names, constants, device
        self.max_length = max_length
        self.micro_batch = micro_batch or constants["batch_size"]
        self.tokenizer = load_pretrained(
            AutoTokenizer.from_pretrained, name, "language model", HINT
        )
        self.answers = self.label_tokens()
        base = load_base(name, base_type, device)
        self.longest = getattr(base.config, "max_position_embeddings", None) or math.inf
        self.accepted = inspect.signature(base.forward).parameters
        self.network = adapted(
            base, *(constants[key] for key in ("rank", "alpha", "dropout")), targets
        )
        trained = [p for p in self.network.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=constants["lr"], weight_decay=0.0)

    # ---- tokens ----

    def label_tokens(self) -> list[list[int]]:
        """What each label is after the prompt, in tokens, with the end of the text."""
        plain = self.tokenizer("Label:", add_special_tokens=False)["input_ids"]
        whole = self.tokenizer(
            [f"Label: {name}" for name in self.label_names], add_special_tokens=False
        )["input_ids"]
        answers = [ids[len(plain) :] + [self.tokenizer.eos_token_id] for ids in whole]
        if self.tokenizer.eos_token_id is None or len(set(map(tuple, answers))) < len(answers):
            raise InputError(
                "this model's tokenizer cannot tell the labels apart, or has no end "
                "of text: choose another --base_model, or rename the labels"
            )
        return answers

    def cut(self, texts: list[str]) -> tuple[list[str], float]:
        """The texts, cut to max_length tokens, and the share of them that was longer."""
        texts, is_cut = cut_characters(texts, self.max_length)
        encoded = self.tokenizer(
            texts,
            add_special_tokens=False,
            truncation=True,
            max_length=self.max_length,
            return_offsets_mapping=True,
        )
        is_long = [bool(encoding.overflowing) for encoding in encoded.encodings]
        return [
            text[: offsets[-1][1]] if long else text
            for text, offsets, long in zip(texts, encoded["offset_mapping"], is_long)
        ], float((is_cut | is_long).mean())

    def prompts(self, texts: list[str]) -> list[list[int]]:
        """Each text's prompt in tokens, with what the tokenizer puts before a text."""
        short, _ = self.cut(texts)
        plain = self.tokenizer("Text", add_special_tokens=False)["input_ids"]
        whole = self.tokenizer("Text")["input_ids"]
        begin = whole[: whole.index(plain[0])]  # not what some put behind it
        ids = self.tokenizer(
            [prompt(text, self.label_names) for text in short], add_special_tokens=False
        )["input_ids"]
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
        inputs = {
            "position_ids": (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -ids.shape[1] :],
            "logits_to_keep": keep,
        }  # of a long prompt all logits would fill the card
        known = {name: value for name, value in inputs.items() if name in self.accepted}
        output = self.network(input_ids=ids, attention_mask=mask, **known, **options)
        return output.logits[:, -keep:].float(), output.get("past_key_values")

    # ---- training ----

    def loss(self, prompts: list[list[int]], labels: list[int]) -> Tensor:
        """Minus the log-likelihood of all answers, summed over their tokens."""
        answers = [self.answers[label] for label in labels]
        ids, mask = self.batch([row + answer for row, answer in zip(prompts, answers)])
        width = max(map(len, answers))
        targets = ids[:, -width:].clone()  # (B, width)
        for row, answer in zip(targets, answers):
            row[: width - len(answer)] = -100  # of the prompt: cross_entropy leaves it out
        logits, _ = self.logits(ids, mask, width + 1, use_cache=False)  # (B, width + 1, V)
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
            raise InputError(
                f"training diverged in epoch {epoch}: its loss is not finite; lower "
                "--constants lr=..."
            )
        loss, seconds = total / tokens, time.perf_counter() - start
        return {
            "loss": loss,
            "loss_cls": loss,
            "loss_cl": 0.0,
            "lr": lr,
            "texts_per_second": round(len(prompts) / seconds, 1),
        }

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
        first = first[:, 0].log_softmax(dim=1)  # (B, V)
        columns = []
        for answer in self.answers:
            new = torch.tensor([answer[:-1]] * len(ids), device=self.device)  # (B, m)
            score = first[:, answer[0]]
            if new.shape[1] > 0:
                whole_mask = torch.cat([mask, torch.ones_like(new)], dim=1)
                # a copy, as not every kind of cache can forget a label again
                logits, _ = self.logits(
                    new,
                    whole_mask,
                    new.shape[1],
                    use_cache=True,
                    past_key_values=copy.deepcopy(cache),
                )
                rest = torch.tensor(answer[1:], device=self.device)
                rest = rest.expand(len(ids), -1).unsqueeze(2)  # (B, m, 1)
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
        with saving_folder(folder) as part:
            self.network.save_pretrained(part, save_embedding_layers=False)


def load(folder: str | Path, device: str = "cpu") -> LoraClassifier:
    """The fine-tuned model of a finished run, by its args.json and adapter."""
    from safetensors.torch import load_file

    folder = Path(folder)
    record = json.loads((folder / "args.json").read_text())
    own = record["settings"]
    model = LoraClassifier(
        own["base_model"],
        record["label_names"],
        own["constants"],
        base_type=own["base_type"],
        targets=own["lora_targets"],
        device=device,
        max_length=own["max_length"],
        micro_batch=own["micro_batch"],
    )
    model.load_state_dict(load_file(folder / "adapter" / "adapter_model.safetensors"))
    return model


def fit(args, corpus, folder):
    """The epochs of such a model, see engine/run_folder.py; the adapters alone are kept."""
    if distributed.world_size() > 1:
        raise InputError(f"{args.method} runs in one process: start it without torchrun")
    distributed.set_seed(args.seed)
    model = LoraClassifier(
        args.base_model,
        corpus.label_names,
        args.constants,
        base_type=args.base_type,
        targets=args.lora_targets,
        device=args.device,
        max_length=args.max_length,
        micro_batch=args.micro_batch,
    )
    _, share = model.cut(corpus.train_texts)
    print(
        f"{args.method}: {args.base_model}, {args.base_type}, "
        + ", ".join(f"{name} {value:g}" for name, value in args.constants.items())
        + f"; {share:.2%} of the texts are longer than {args.max_length} of its tokens, and cut. "
        "The flags of encoders and of their training do not concern it",
        flush=True,
    )
    epochs = args.constants["epochs"]
    done = folder.begin(model, epochs, weights=model, optimizer=model.optimizer)
    for epoch in range(done + 1, epochs + 1):
        distributed.set_seed(args.seed, epoch)
        record = model.train_epoch(
            corpus.train_texts, corpus.train_labels, seed=args.seed, epoch=epoch
        )
        is_evaluated = epoch % args.eval_every == 0 or epoch == epochs
        yield (
            {"epoch": epoch, **record},
            *(
                model.scores(texts) if texts and is_evaluated else None
                for texts in (corpus.test_texts, corpus.val_texts)
            ),
        )

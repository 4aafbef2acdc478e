"""
Tokenises texts once, and caches the token ids in chunks for the next run on the same texts.
"""

import hashlib
import io
import json
import zipfile
from copy import deepcopy
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data import InputError, Tokens, cut_characters
from engine.files import save

CHUNK = 20_000  # texts that are tokenised and cached together
AT_ONCE = 4e6  # characters that the tokenizer gets at a time; each takes 100 bytes of memory


def tokenize(texts: list[str], tokenizer, max_length: int, cache_dir: Path | None = None) -> Tokens:
    """
    The token ids of all texts, cut by the (fast) tokenizer to max_length tokens, on all cores.

    cache_dir gets a file for each chunk of 20,000 texts, with a name made from the texts and the
    tokenizer's settings, so that later starts and other runs on these texts find it. Without it
    there is no progress bar.
    """
    if not tokenizer.is_fast:
        raise InputError(
            f"{type(tokenizer).__name__} is not a fast tokenizer; "
            "choose an encoder that ships a tokenizer.json"
        )
    special = tokenizer.num_special_tokens_to_add()
    if max_length <= special:
        raise InputError(
            f"a text of at most {max_length} tokens has no room beside this "
            f"tokenizer's {special} special ones; raise --max_length"
        )
    backend = deepcopy(tokenizer.backend_tokenizer)
    backend.enable_truncation(max_length)
    backend.no_padding()
    settings = backend.to_str()
    texts, is_cut = cut_characters(texts, max_length)
    chunks = [
        _tokenized_chunk(texts[start : start + CHUNK], backend, settings, cache_dir)
        for start in tqdm(
            range(0, len(texts), CHUNK), "tokenize", disable=cache_dir is None or None
        )
    ]
    ids, lengths, truncated = (np.concatenate(parts) for parts in zip(*chunks))
    return Tokens(ids, np.append(0, np.cumsum(lengths)), float((truncated | is_cut).mean()))


def _tokenized_chunk(
    texts: list[str], backend, settings: str, cache_dir: Path | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All ids in one array (int32), and for each text its number of tokens and if it was cut."""
    path = None
    if cache_dir is not None:
        digest = hashlib.sha256(json.dumps([settings, texts]).encode()).hexdigest()
        path = Path(cache_dir) / f"tokens-{digest[:16]}.npz"
        if path.exists():
            try:
                with np.load(path) as chunk:  # its zip has a checksum of each array
                    return chunk["ids"], chunk["lengths"], chunk["truncated"]
            except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
                print(f"{path} is damaged ({type(error).__name__}) and is made anew")
    rows: list[np.ndarray] = []
    truncated: list[bool] = []
    start, characters = 0, 0
    for end, text in enumerate(texts, 1):
        characters += len(text)
        if characters > AT_ONCE or end == len(texts):
            for encoding in backend.encode_batch_fast(texts[start:end]):
                rows.append(np.array(encoding.ids, dtype=np.int32))
                truncated.append(bool(encoding.overflowing))
            start, characters = end, 0
    ids, lengths = np.concatenate(rows), np.array(list(map(len, rows)), dtype=np.int64)
    if path is not None:
        content = io.BytesIO()
        np.savez(content, ids=ids, lengths=lengths, truncated=truncated)
        save(path, content.getvalue())
    return ids, lengths, np.array(truncated)


def unknown_tokens(tokens: Tokens, tokenizer) -> np.ndarray:
    """
    The number of unknown tokens, and the number of all tokens without the special ones, (2,) int64.
    """
    total = len(tokens.ids) - tokenizer.num_special_tokens_to_add() * len(tokens.lengths)
    special = tokenizer.special_tokens_map
    unknown = special.get("unk_token")
    # GPT-2 has tokens for all bytes, and calls its end of text the unknown token
    if unknown is None or list(special.values()).count(unknown) > 1:
        return np.array([0, total])
    return np.array([(tokens.ids == tokenizer.convert_tokens_to_ids(unknown)).sum(), total])

"""
Makes the second views of a run's texts once and caches them; refuses texts in a language that the
augmentation does not support.
"""

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tqdm import tqdm

from augment import AUGMENTATIONS, MODEL_HINT, STOP_WORDS
from data import InputError, load_wordnet
from engine.files import load_pretrained, save

CACHE_FORMAT = 1  # increase it when the same settings give other texts

PIECE = 10_000  # texts that are augmented and cached together
MODEL_PIECE = 500  # the same if a model does it, some minutes without a GPU


def augmented_texts(
    texts: Sequence[str],
    method: str,
    *,
    seed: int = 0,
    cache_dir: Path,
    device: str = "auto",
    **options,
) -> list[str]:
    """
    Applies AUGMENTATIONS[method] to all texts once, caches the result in cache_dir, and prints how
    many texts it changed.

    texts      N strings
    cache_dir  is made if missing; it gets one JSON file per (method, options, seed, piece of 10,000
               texts, or 500 if a model does it), so that a killed call can resume
    device     of the model, if there is one
    options    other values for the options of the entry
    returns    N strings
    raises     InputError if something that the method needs is missing, or if the texts are not in
               its language
    """
    entry = AUGMENTATIONS[method]
    if entry.function is None:
        print("augment: none, the two views of a text differ by dropout alone")
        return list(texts)
    settings = {"seed": seed} | entry.options | options
    size = max(1, len(texts)) if not entry.in_pieces else MODEL_PIECE if entry.models else PIECE
    pieces = [list(texts[start : start + size]) for start in range(0, len(texts), size)]
    contents = (json.dumps([CACHE_FORMAT, method, settings, piece]) for piece in pieces)
    keys = [hashlib.sha256(content.encode()).hexdigest()[:16] for content in contents]
    paths = [Path(cache_dir) / f"{method}-{key}.json" for key in keys]
    Path(cache_dir).mkdir(parents=True, exist_ok=True)  # an error comes before hours of work
    changed = {i: kept for i, path in enumerate(paths) if (kept := _read_cache(path)) is not None}
    missing = [i for i in range(len(pieces)) if i not in changed]
    if settings.pop("language", "any") != "any" and missing:
        check_english(texts, method)
    if entry.models:
        load = partial(load_pretrained, kind="model", hint=MODEL_HINT)
        settings |= {"device": device, "load": load}  # not in the key: the result is the same
    for i in tqdm(missing, f"{method}, pieces of {size:,} texts", disable=len(missing) < 2):
        changed[i] = entry.function(pieces[i], **settings)
        save(paths[i], json.dumps({"texts": changed[i]}).encode())
    result = [text for i in range(len(pieces)) for text in changed[i]]
    share = sum(a != b for a, b in zip(texts, result, strict=True)) / max(1, len(texts))
    print(f"augment: {method} changed {share:.1%} of {len(texts):,} texts (cached: {cache_dir})")
    return result


def _read_cache(path: Path) -> list[str] | None:
    """The cached texts of a piece; None if there are none or, with a message, if it is damaged."""
    if not path.exists():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))["texts"]
    except (ValueError, KeyError, TypeError):  # it is not JSON, or not ours
        print(f"augment: {path} is damaged and computed anew")
        return None


# ---- are the texts English? ----

# Texts do not look English if two shares of their words (of three letters and more) are both below
# these limits: the share of words in WordNet and of stop words, and the share of function words
# that are rare in other languages. Measured:
#     30 texts of the six datasets or WordNet's glosses, lowest of 200 samples      78 % and 4 %
#     six to fifteen sentences in each of 12 other languages, the highest           61 % and 3 %
# English keywords without function words pass the first limit, English jargon the second.
MIN_KNOWN, MIN_FUNCTION = 0.70, 0.04
MIN_WORDS = 20  # with fewer words the language is too uncertain
LANGUAGE_SAMPLE = 500  # texts that are examined, the first 100 words of each
FUNCTION_WORDS = STOP_WORDS - frozenset(  # words that other languages have, too
    "for under over was had are her also still once per even most will all but don can".split()
)
WORD = re.compile(r"[^\W\d_]{3,}")


def check_english(texts: Sequence[str], method: str) -> None:
    """
    Raises InputError if a sample of the texts, spread over all of them, is not English.

    The shares are of all words together, so half of the texts in another language can pass.
    """
    wordnet = load_wordnet()
    counts = Counter(
        word.lower()
        for text in texts[:: math.ceil(len(texts) / LANGUAGE_SAMPLE) or 1]
        for word in WORD.findall(text)[:100]
    )
    known_words = {word for word in counts if word in STOP_WORDS or wordnet.morphy(word)}
    unknown = Counter({word: counts[word] for word in counts if word not in known_words})
    total = counts.total()
    known = 1 - unknown.total() / max(1, total)
    function = sum(counts[word] for word in FUNCTION_WORDS) / max(1, total)
    if total < MIN_WORDS or known >= MIN_KNOWN or function >= MIN_FUNCTION:
        return
    examples = ", ".join(word for word, _ in unknown.most_common(4))
    raise InputError(
        f"the texts do not look English, and {method} is for English: only {known:.0%} of "
        f"{total:,} words in a sample are English (words such as {examples} are not); take "
        f"--augment noise or none, or treat the texts as English with --augment {method} "
        "--augment_options language=any"
    )

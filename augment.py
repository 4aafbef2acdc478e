"""
Makes the second view of texts.

    from augment import word_substitution
    word_substitution(["Visual results of intraocular lenses"], seed=0)

word_substitution  replaces words by WordNet synonyms (the paper's default; Wei & Zou 2019, "EDA")
back_translation   translates to French and back by two translation models (Table A.1)
contextual         inserts words that a masked language model finds suitable (Table A.1)
noise              inserts, swaps and deletes words at random (Xie et al. 2017; Wei & Zou 2019)
AUGMENTATIONS      is the registry of these: to add one, write a function and an entry there

A result depends on the seed and the text, never on the text's position in the list. To use this
file elsewhere, copy it with data.py. engine/augmentations.py makes and caches the views of a run.
"""

import importlib.util
import json
import math
import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from functools import lru_cache
from itertools import islice
from typing import Any

import torch
from tqdm import tqdm

from data import InputError, load_wordnet

# Both rates are shares of a text's words. 0.3 changes 25.9 % of the words of TREC and 26.1 % of
# Ohsumed's, because some texts lack synonyms; the authors' own texts differ in 27.6 % and 23.6 %
# (commit be4a699, benchmarks/augment.py).
SUBSTITUTION_RATE = 0.3
NOISE_RATE = 0.1  # alpha of Wei & Zou 2019

NUM_CANDIDATES = 5  # synonyms kept per word, drawn with weights 1, 1/2, 1/3, 1/4, 1/5
SPELLING_VARIANT = 0.75  # similarity of gray and grey; center and centre have 0.83
INFLECTED = 0.25  # a verb's count in WordNet is spread over about four forms

NAME = re.compile("[A-Za-z]{2,}([-_][A-Za-z]{2,})*")  # a synonym that is used
PAST_DIFFERS = re.compile(  # verbs, with their compounds, whose participle is the verb itself
    "(bet|bid|burst|cast|come|cost|cut|hit|hurt|knit|let|put|quit|read|rid|run|set|shed|shut|split"
    "|spread|thrust|wed)$"
)

# A synonym of a function word or a number word would change the sense, not the wording.
STOP_WORDS = frozenset(
    """
    the this that these those some any each every either neither both all another other others
    such same own few little less least many much more most several enough none mine you your
    yours his her hers its our ours their theirs she him they them who whom whose what which
    whoever whatever whichever myself yourself yourselves himself herself itself ourselves
    themselves oneself someone somebody something anyone anybody anything everyone everybody
    everything nobody nothing and but nor yet for because although though unless until while
    whereas since whether than if then else once about above across after against along
    alongside amid among amongst around aside before behind below beneath beside besides between
    beyond despite down during except from inside into like near off onto out outside over past
    per plus regarding following according including concerning round through throughout toward
    towards under underneath unlike upon versus via with within without are was were been being
    has had having does did doing done don can could may might must shall should will would
    ought need dare used cannot not never very too also just only even still ever quite rather
    almost already again always often here there where when why how now thus hence therefore
    however etc get got let zero one two three four five six seven eight nine ten eleven twelve
    twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million billion first
    second third half""".split()
)

# A token may have hyphens and apostrophes: don't, decision-making, mid-1990s; but company | 's.
TOKEN = re.compile(r"\w+(?:[-'’](?!s\b)\w+)*")


@lru_cache(maxsize=None)
def _sense_counts() -> dict[str, int]:
    """Maps a sense key to the sense's frequency in WordNet's tagged texts (Lemma.count)."""
    # Lemma.count() searches this file on every call; it takes 0.4 ms, for DBLP over a minute
    lines = load_wordnet().open("cntlist.rev").read().splitlines()
    return {key: int(count) for key, _, count in map(str.split, lines)}


@lru_cache(maxsize=None)
def _irregular_forms(pos: str) -> dict[str, list[str]]:
    """Maps a lemma to its irregular forms in WordNet's list for n or v: woman to women."""
    forms = defaultdict(list)
    for line in load_wordnet().open({"n": "noun.exc", "v": "verb.exc"}[pos]).read().splitlines():
        form, *lemmas = line.split()
        for lemma in lemmas:
            forms[lemma].append(form)
    return dict(forms)


# ---- word substitution, Wei & Zou 2019 ----


def word_substitution(
    texts: Sequence[str], *, seed: int = 0, rate: float = SUBSTITUTION_RATE
) -> list[str]:
    """
    Replaces some of the words of each text by WordNet synonyms (Wei & Zou 2019, "EDA").

    texts    N strings in English; case, punctuation and spacing are kept
    seed     a text's result depends on (seed, text) alone
    rate     share of the text's words to replace, in (0, 1], at least one word; stop words,
             numbers, words of one or two letters and words without a synonym are never replaced
    returns  N strings
    raises   InputError if WordNet is missing
    """
    load_wordnet()  # before the progress bar starts
    return [_substitute(text, seed, rate) for text in tqdm(texts, "word substitution", leave=False)]


def _substitute(text: str, seed: int, rate: float) -> str:
    rng = _rng(seed, text)
    words = list(TOKEN.finditer(text))
    open_words = [word for word in words if synonyms(word.group())]
    num_changes = min(len(open_words), max(1, round(rate * len(words))))
    chosen = sorted(rng.sample(range(len(open_words)), num_changes))
    pieces, end = [], 0
    for word in (open_words[i] for i in chosen):
        options = synonyms(word.group())
        [synonym] = rng.choices(options, weights=[1 / (r + 1) for r in range(len(options))])
        pieces += [text[end : word.start()], synonym]
        end = word.end()
    return "".join(pieces) + text[end:]


def _rng(seed: int, text: str) -> random.Random:
    return random.Random(json.dumps([seed, text]))  # ASCII, so any string can be part of the seed


@lru_cache(maxsize=None)
def synonyms(word: str) -> tuple[str, ...]:
    """
    Lists at most NUM_CANDIDATES synonyms of `word`, in its case and inflection, the best first.

    Returns () for stop words, for words of one or two letters, for words with other characters than
    letters and hyphens, and for words that are neither lower, UPPER nor Title (iPhone).
    """
    form = word.lower()
    cases = [case for case in (str.lower, str.upper, str.capitalize) if case(form) == word]
    is_word = len(form) >= 3 and form.replace("-", "").isalpha() and form not in STOP_WORDS
    if not (cases and is_word):
        return ()
    for base, pos, names in _readings(form):
        inflected = (_inflect_like(form, base, name, pos) for name in names)
        found = (cases[0](name.replace("_", " ")) for name in inflected if name)
        options = tuple(islice(found, NUM_CANDIDATES))
        if options:
            return options
    return ()


def _readings(form: str) -> list[tuple[str, str, Iterable[str]]]:
    """
    Lists the readings of a word form, (base form, part of speech, synonyms), likeliest first.

    No tagger is used: WordNet's counts tell which reading of the form is the most usual one.
    """
    counts, readings = _sense_counts(), []
    for pos in "nvar":
        # morphy() gives only the first base form: for found only found (a company), never find
        for base in load_wordnet()._morphy(form, pos):
            frequency, ranked = 1, []
            for sense, (own_count, others) in enumerate(_senses(base, pos)):
                frequency += own_count
                for other in others:
                    # senses without a count come last; before them phrases and rare senses
                    name, count = other.name(), counts.get(other.key(), 0)
                    ranked.append((own_count == 0, "_" in name, sense, -count, name))
            names = dict.fromkeys(name for *_, name in sorted(ranked))
            readings.append((frequency * (1 if form == base else INFLECTED), base, pos, names))
    return [reading[1:] for reading in sorted(readings, key=lambda reading: -reading[0])]


def _senses(base: str, pos: str) -> Iterator[tuple[int, list]]:
    """Yields (count, lemmas of the synonyms) of each sense of base, the most frequent first."""
    for synset in load_wordnet().synsets(base, pos):
        own = next((lemma for lemma in synset.lemmas() if lemma.name().lower() == base), None)
        # skips persons (west is not Rebecca West) and synsets of another word with this form
        if own and not (synset.lexname() == "noun.person" and synset.instance_hypernyms()):
            names = [lemma for lemma in synset.lemmas() if NAME.fullmatch(lemma.name())]
            others = [lemma for lemma in names if not _is_variant(lemma.name(), base)]
            yield _sense_counts().get(own.key(), 0), others


def _is_variant(name: str, base: str) -> bool:
    """Whether two synonyms are spellings of one word, such as grey and gray."""
    a, b = (re.sub("[^a-z]", "", word.lower()) for word in (name, base))
    return SequenceMatcher(None, a, b, autojunk=False).ratio() >= SPELLING_VARIANT


# ---- English inflection, if it is regular or in WordNet's exception lists ----


def _inflect_like(form: str, base: str, name: str, pos: str) -> str | None:
    """Gives `name` the ending that turns base into form: (dogs, dog, hound, n) gives hounds."""
    if form == base:
        return name
    if pos == "n":
        head, space, tail = name.rpartition("_")  # ice_cream -> ice_creams
        plural = _with_ending(tail, "s", pos)
        return plural and head + space + plural
    if pos == "v" and "_" not in name:
        return _with_ending(name, next((e for e in ("ing", "s") if form.endswith(e)), "ed"), pos)
    return None  # carry_out, and comparatives such as bigger


def _with_ending(name: str, ending: str, pos: str) -> str | None:
    """Adds -s, -ed or -ing to a noun or verb; returns None if the form is not certain."""
    listed = _irregular_forms(pos).get(name, [])
    for form in listed:
        if form.endswith(ending) or pos == "n":
            return form  # women, stopped, running
    if ending == "ed":
        return _past(name, [form for form in listed if not form.endswith("ing")])
    if ending == "ing":
        return re.sub("ie$", "y", re.sub("(?<=[^eioy])e$", "", name)) + "ing"
    if pos == "n" and re.search("(?<!s)s$", name):
        return None  # it may be a plural: rules, economics
    if name.endswith("woman"):
        return name[:-2] + "en"
    if re.search("(s|x|z|ch|sh)$", name):
        return name + "es"
    return re.sub("(?<=[^aeiou])y$", "ie", name) + "s"


def _past(name: str, irregular: list[str]) -> str | None:
    """Returns the form if past tense and participle are equal (bought), else None (took, taken)."""
    if len(irregular) > 1 or PAST_DIFFERS.search(name):
        return None
    if irregular:
        return irregular[0]
    return re.sub("(?<=[^aeiou])y$", "i", name).removesuffix("e") + "ed"


# ---- noise, Xie et al. 2017; Wei & Zou 2019 ----


def noise(texts: Sequence[str], *, seed: int = 0, rate: float = NOISE_RATE) -> list[str]:
    """
    Inserts, swaps and deletes words of each text at random. White space separates words.

    texts    N strings in any language; insertions are drawn from the words of all of them, each
             word as often as it occurs (the unigram noise of Xie et al. 2017)
    seed     a text's result depends on (seed, text, the words of all texts)
    rate     edits per word, in (0, 1], at least one per text; insertions, swaps and deletions are
             equally likely
    returns  N strings, words joined by one space; only an empty text gives an empty string
    """
    vocabulary = sorted(word for text in texts for word in text.split())
    return [_disturb(text, vocabulary, seed, rate) for text in tqdm(texts, "noise", leave=False)]


def _disturb(text: str, vocabulary: list[str], seed: int, rate: float) -> str:
    rng = _rng(seed, text)
    words = text.split()
    for _ in range(max(1, round(rate * len(words))) if words else 0):
        # a single word can neither be swapped nor deleted
        edit = rng.choice(["insert", "swap", "delete"]) if len(words) > 1 else "insert"
        if edit == "insert":
            words.insert(rng.randrange(len(words) + 1), rng.choice(vocabulary))
        elif edit == "swap":
            i, j = rng.sample(range(len(words)), 2)
            words[i], words[j] = words[j], words[i]
        else:
            del words[rng.randrange(len(words))]
    return " ".join(words)


# ---- back translation and contextual insertion, with models of Hugging Face ----

TRANSLATION_BATCH, INSERTION_BATCH = 32, 64  # sentences, texts
SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
LONGEST_SENTENCE = 100  # words; the models were trained on sentences and take 512 tokens
CONTEXT = 64  # words on either side that the model sees when it inserts a word
MODEL_HINT = "Name another model, or the folder of one, with --augment_options"


def _device(name: str) -> str:
    return name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


def _encoded(tokenizer, texts: list[str], device: torch.device):
    encoded = tokenizer(texts, padding=True, truncation=True, max_length=512, return_tensors="pt")
    return encoded.to(device)


def load_part(load: Callable[..., Any], name: str) -> Any:
    """Calls load(name), a from_pretrained method; InputError if it cannot load the model."""
    try:
        return load(name, trust_remote_code=False)
    except Exception as error:  # of the hub's client, transformers or safetensors
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"model {name} cannot be loaded ({reason}). {MODEL_HINT}") from error


def _batches(texts: list[str], size: int) -> Iterator[list[int]]:
    """Yields rows of up to `size` texts of similar length, longest first: memory fails at once."""
    order = sorted(range(len(texts)), key=lambda row: -len(texts[row]))
    for start in tqdm(range(0, len(order), size), "batches", leave=False, disable=None):
        yield order[start : start + size]


def back_translation(
    texts: Sequence[str],
    *,
    seed: int = 0,
    device: str = "auto",
    load: Callable = load_part,
    forth: str = "Helsinki-NLP/opus-mt-en-fr",
    back: str = "Helsinki-NLP/opus-mt-fr-en",
    beams: int = 4,
    sampling: int = 0,
) -> list[str]:
    """
    Translates each text and translates it back, sentence by sentence, with two MarianMT models
    (Edunov et al. 2018, Yu et al. 2018). The default models translate from English to French and
    back, as in Appendix A.1.

    texts        N strings in the source language of the first model
    seed         of sampling; beam search gives the same for every seed
    device       "cpu", "cuda", "mps"; auto takes a GPU if there is one
    load         loads a part of a model, as load_part() does
    forth, back  names or folders of the models
    beams        number of beams of the search
    sampling     1 draws each token by its probability instead of beam search
    returns      N strings
    raises       InputError if the models or their packages are missing
    """
    _require_packages("back_translation")
    sentences = [_sentences(text) for text in texts]
    distinct = list(dict.fromkeys(piece for pieces in sentences for piece in pieces))
    translated = distinct
    for name in (forth, back):
        parts = _translator(name, _device(device), load)
        translated = _translate(translated, *parts, beams, seed if sampling else None)
    there_and_back = dict(zip(distinct, translated))
    # a text whose translation is empty (such as punctuation alone) stays as it is
    return [
        " ".join(filter(None, map(there_and_back.get, pieces))) or text
        for text, pieces in zip(texts, sentences)
    ]


def _sentences(text: str) -> list[str]:
    """Splits a text into its sentences, and these into pieces of LONGEST_SENTENCE words."""
    sentences = [sentence.split() for sentence in SENTENCE_END.split(text)]
    return [
        " ".join(words[start : start + LONGEST_SENTENCE])
        for words in sentences
        for start in range(0, len(words), LONGEST_SENTENCE)
    ]


@lru_cache(maxsize=2)
def _translator(name: str, device: str, load: Callable) -> tuple[Any, Any]:
    from transformers import MarianTokenizer

    tokenizer = load(MarianTokenizer.from_pretrained, name)
    from transformers import MarianMTModel  # takes seconds: a missing model is reported before

    return tokenizer, load(MarianMTModel.from_pretrained, name).to(device).eval()


def _translate(texts: list[str], tokenizer, model, beams: int, seed: int | None) -> list[str]:
    """Translates sentences by beam search or, with a seed, by sampling."""
    from transformers import LogitsProcessorList

    translated = [""] * len(texts)
    for rows in _batches(texts, TRANSLATION_BATCH):
        batch = [texts[row] for row in rows]
        inputs = _encoded(tokenizer, batch, model.device)
        limits = (2 * inputs["attention_mask"].sum(dim=1) + 10).clamp(max=511).tolist()
        noise = [] if seed is None else [_gumbel_noise(seed, batch)]
        output = model.generate(
            **inputs,
            num_beams=beams if seed is None else 1,
            do_sample=False,
            max_new_tokens=max(limits),
            logits_processor=LogitsProcessorList(noise),
        )
        # A translation without an end is cut at its own limit, as if it were alone in the batch.
        ids = [tokens[:limit] for tokens, limit in zip(output.tolist(), limits)]
        for row, text in zip(rows, tokenizer.batch_decode(ids, skip_special_tokens=True)):
            translated[row] = text.strip()
    return translated


def _gumbel_noise(seed: int, texts: list[str]) -> Callable:
    """
    Returns a function that adds Gumbel noise to logits: a greedy search then samples each token by
    its probability (Gumbel 1954). Each text has its own generator, so its batch does not matter.
    """
    generators = [torch.Generator().manual_seed(_rng(seed, text).getrandbits(63)) for text in texts]

    def add(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        rows = [torch.rand(scores.shape[1], generator=generator) for generator in generators]
        gumbel = -torch.log(-torch.log(torch.stack(rows).clamp(min=1e-20)))  # (B, V)
        return scores.float() + gumbel.to(scores.device)

    return add


def contextual(
    texts: Sequence[str],
    *,
    seed: int = 0,
    device: str = "auto",
    load: Callable = load_part,
    model: str = "bert-base-uncased",
    top_n: int = 10,
    rate: float = SUBSTITUTION_RATE,
) -> list[str]:
    """
    Inserts words at random places of each text. They are sampled by probability from the top n
    words of a masked language model (Appendix A.1; the paper gives neither n nor the share of
    words).

    texts    N strings in the model's language; their white space becomes single spaces
    seed     a text's places and draws depend on (seed, text) alone
    device   "cpu", "cuda", "mps"; auto takes a GPU if there is one
    load     loads a part of a model, as load_part() does
    model    name or folder of a masked language model
    top_n    number of candidates, at least 1
    rate     inserted words as a share of the text's words, in (0, 1], at least one word
    returns  N strings
    raises   InputError if the model is missing
    """
    parts = _masked_model(model, _device(device), load)
    rngs = [_rng(seed, text) for text in texts]
    words = [text.split() for text in texts]
    left = [max(1, round(rate * len(row))) if row else 0 for row in words]
    while open_rows := [row for row, count in enumerate(left) if count > 0]:
        gaps = {row: rngs[row].randint(0, len(words[row])) for row in open_rows}
        choices = _choices([(words[row], gaps[row]) for row in open_rows], *parts, top_n)
        for row, (options, weights) in zip(open_rows, choices):
            words[row].insert(gaps[row], rngs[row].choices(options, weights)[0])
            left[row] -= 1
    return [" ".join(row) if row else text for row, text in zip(words, texts)]


@lru_cache(maxsize=1)
def _masked_model(name: str, device: str, load: Callable) -> tuple[Any, Any, Any, list[str]]:
    """Loads (tokenizer, model, ids, words); ids and words are those of the whole-word tokens."""
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    tokenizer = load(AutoTokenizer.from_pretrained, name)
    model = load(AutoModelForMaskedLM.from_pretrained, name).to(device).eval()
    if tokenizer.mask_token is None:
        raise InputError(f"model {name} has no mask token; name a masked language model")
    # A word begins with Ġ (RoBERTa) or ▁ (sentencepiece); BERT marks the other pieces with ##.
    mark = tokenizer.tokenize("a a")[-1].removesuffix("a")
    words = {
        i: token.removeprefix(mark)
        for token, i in tokenizer.get_vocab().items()
        if token.startswith(mark) and token.removeprefix(mark).isalpha()
    }
    ids = sorted(words)
    return tokenizer, model, torch.tensor(ids, device=device), [words[i] for i in ids]


def _choices(
    places: list[tuple[list[str], int]], tokenizer, model, ids, words: list[str], top_n: int
) -> list[tuple[list[str], list[float]]]:
    """For each (words, gap), the model's top n words for the gap and their probabilities."""
    mask, masked = tokenizer.mask_token, []
    for line, gap in places:
        before, after = line[max(0, gap - CONTEXT) : gap], line[gap : gap + CONTEXT]
        masked.append(" ".join([*before, mask, *after]))
    choices: list = [None] * len(places)
    for rows in _batches(masked, INSERTION_BATCH):
        inputs = _encoded(tokenizer, [masked[row] for row in rows], model.device)
        with torch.inference_mode():
            logits = model(**inputs).logits
        place = (inputs["input_ids"] == tokenizer.mask_token_id).int().argmax(dim=1)
        shares = logits[torch.arange(len(rows)), place][:, ids].float().softmax(dim=1)
        best = shares.topk(min(top_n, len(ids)))
        for row, weights, positions in zip(rows, best.values.tolist(), best.indices.tolist()):
            choices[row] = [words[i] for i in positions], weights
    return choices


# ---- the registry ----


OF_CALL = ("seed", "device", "load")  # keywords that are not options


@dataclass(frozen=True)
class Augmentation:
    """An entry of AUGMENTATIONS, which the command line and the report read."""

    function: Callable | None  # (texts, *, seed, its options, device and load if it has models)
    title: str  # in tables
    good_for: str  # text in --help: what it does, and when to take it
    # (lowest, highest) of each option that is a number; a float must exceed the lowest
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    packages: tuple[str, ...] = ()  # packages of PyPI that it needs beside requirements.txt
    models: tuple[str, ...] = ()  # its options that name models of Hugging Face
    english: bool = False  # the texts must be English, unless the option language=any is given
    in_pieces: bool = True  # whether a text's result is independent of the other texts

    @property
    def options(self) -> dict:
        """The options with their default values."""
        own = getattr(self.function, "__kwdefaults__", None) or {}
        return {name: value for name, value in own.items() if name not in OF_CALL} | (
            {"language": "english"} if self.english else {}
        )


AUGMENTATIONS = {
    "word_substitution": Augmentation(
        word_substitution,
        "Word substitution",
        "replaces words by WordNet synonyms: the paper's choice, for English",
        ranges={"rate": (0, 1)},
        english=True,
    ),
    "back_translation": Augmentation(
        back_translation,
        "Back translation",
        "translates to French and back: it changes the wording most, takes hours without a GPU",
        ranges={"beams": (1, math.inf), "sampling": (0, 1)},
        packages=("sentencepiece", "sacremoses"),
        models=("forth", "back"),
        english=True,
    ),
    "contextual": Augmentation(
        contextual,
        "Contextual embedding",
        "inserts words that a masked language model finds suitable: slow without a GPU",
        ranges={"top_n": (1, math.inf), "rate": (0, 1)},
        models=("model",),
        english=True,
    ),
    "noise": Augmentation(
        noise,
        "Noise",
        "inserts, swaps and deletes words at random: for every language",
        ranges={"rate": (0, 1)},
        in_pieces=False,
    ),
    "none": Augmentation(
        None, "None", "leaves the views to differ by dropout alone (Gao et al. 2021)"
    ),
}


def _require_packages(method: str) -> None:
    packages = AUGMENTATIONS[method].packages
    if any(importlib.util.find_spec(package) is None for package in packages):
        raise InputError(
            f"{method} needs the packages {' and '.join(packages)}: "
            f"pip install {' '.join(packages)}"
        )

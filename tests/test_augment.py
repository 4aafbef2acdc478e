"""augment.py: properties of each augmentation, the registry, languages, the cache, WordNet."""

import importlib.util
import re
import socket
from collections import Counter
from dataclasses import replace

import nltk
import pytest
import torch
from conftest import PUBLISHED, needs_datasets, save_tiny_encoder, save_tiny_translator
from hypothesis import given, settings
from hypothesis import strategies as st

import augment
import data
from augment import AUGMENTATIONS, STOP_WORDS, noise, synonyms, word_substitution
from data import InputError, load_wordnet
from engine import augmentations
from engine.augmentations import augmented_texts, check_english

TEXTS = [
    "Visual results and complications of intraocular lenses in 24 patients.",
    "what films featured the character popeye doyle ?",
    "a dynamic load balancing strategy  for channel assignment",
    "THE COMPANY'S EARNINGS ROSE 3.5 % IN 1987, THE BANK SAID.",
    "Iron-deficiency (mild) affects children; doctors study 1990s data!",
    "oil",
]
SENTENCES = st.lists(
    st.sampled_from(
        "the of 42 3.5 p53 dogs Dogs DOGS film studies carried iPhone x , . ( quickly city's don't "
        "efficient qwzx mid-1990s analysis é ß".split()
    ),
    max_size=12,
).map(" ".join)


# ---- WordNet -----------------------------------------------------------------------------------


@pytest.fixture
def no_wordnet(monkeypatch, tmp_path):
    """A machine without WordNet and, unless the test says otherwise, without a network."""

    def refuse(*args, **kwargs):
        raise OSError("no network in this test")

    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    monkeypatch.setattr(data, "DEBIAN_WORDNET", str(tmp_path / "absent"))
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    load_wordnet.cache_clear()
    loaded, nltk.corpus.wordnet = (
        nltk.corpus.wordnet,
        nltk.corpus.util.LazyCorpusLoader("wordnet", nltk.corpus.WordNetCorpusReader, None),
    )
    yield tmp_path
    nltk.corpus.wordnet = loaded
    load_wordnet.cache_clear()


def test_missing_wordnet_is_one_line_that_names_both_remedies(no_wordnet):
    with pytest.raises(InputError) as error:
        word_substitution(TEXTS)
    message = str(error.value)
    assert "\n" not in message
    assert "apt-get install wordnet-base" in message and "nltk.downloader wordnet" in message


def test_a_damaged_dictionary_is_one_line_too(no_wordnet, monkeypatch):
    folder = no_wordnet / "wordnet"
    folder.mkdir()
    (folder / "data.noun").write_text("nonsense\n")
    monkeypatch.setattr(data, "DEBIAN_WORDNET", str(folder))
    with pytest.raises(InputError, match="cannot be read") as error:
        load_wordnet()
    assert "\n" not in str(error.value)


# ---- word substitution -------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(SENTENCES, st.integers(0, 5), st.sampled_from([0.1, 0.5, 1.0]))
def test_only_words_with_synonyms_change_and_at_least_one_does(text, seed, rate):
    [changed] = word_substitution([text], seed=seed, rate=rate)
    before, after = text.split(" "), changed
    changeable = [
        word
        for word in before
        if re.fullmatch("(?i)(dogs|film|studies|carried|quickly|city's|efficient|analysis)", word)
    ]
    assert (changed != text) == bool(changeable)
    kept = [word for word in before if word not in changeable]
    for word in kept:  # in order, so the search goes on behind the last one
        assert word in after
        after = after[after.index(word) + len(word) :]


def test_rate_says_how_many_words_change():
    text = "dogs films cities studies doctors dogs films cities studies doctors"
    for rate, expected in [(0.01, 1), (0.2, 2), (0.5, 5), (1.0, 10)]:
        [changed] = word_substitution([text], rate=rate)
        assert (Counter(text.split()) - Counter(changed.split())).total() == expected


def test_stop_words_numbers_and_unknown_words_are_left_alone():
    texts = [" ".join(sorted(STOP_WORDS)), "12 3.5 p53 1990s mid-1990s 4th", "qwzx ii iPhone I", ""]
    assert word_substitution(texts, rate=1.0) == texts


def test_punctuation_and_spacing_stand_where_they_stood():
    text = "\t(Dogs),  films;\n'cities': studies -- doctors!  "
    [changed] = word_substitution([text], rate=1.0)
    gaps = re.escape(text)
    for word in ["Dogs", "films", "cities", "studies", "doctors"]:
        gaps = gaps.replace(word, r"[A-Za-z][A-Za-z -]*")
    assert changed != text and re.fullmatch(gaps, changed)


@pytest.mark.parametrize("word", ["film", "dogs", "studies", "carried", "using"])
def test_case_is_that_of_the_replaced_word(word):
    assert synonyms(word) and all(option.islower() for option in synonyms(word))
    assert synonyms(word.upper()) == tuple(option.upper() for option in synonyms(word))
    assert synonyms(word.capitalize()) == tuple(option.capitalize() for option in synonyms(word))


def test_the_synonym_takes_the_inflection_of_the_word():
    pairs = {"city": "metropolis", "films": "movies", "women": "adult females", "buys": "purchases"}
    pairs |= {"purchased": "bought", "using": "applying", "copying": "imitating"}
    assert [word for word in pairs if pairs[word] not in synonyms(word)] == []


ENDINGS = {  # the word with this ending, as a noun or a verb; "-" where we do not know it
    ("s", "n"): "study studies, toy toys, box boxes, child children, loss losses, economics -,"
    "charwoman charwomen",
    ("s", "v"): "carry carries",
    ("ed", "v"): "carry carried, use used, stop stopped, visit visited, buy bought, take -,"
    "reset -, become -",
    ("ing", "v"): "use using, see seeing, dye dyeing, tie tying, run running, canoe canoeing,"
    "do doing",
}


@pytest.mark.parametrize("ending, pos", ENDINGS)
def test_endings_are_those_of_english(ending, pos):
    for pair in ENDINGS[ending, pos].split(","):
        name, expected = pair.split()
        got = augment._with_ending(name, ending, pos)
        assert got == (None if expected == "-" else expected), name


def test_a_verb_is_read_as_a_verb_and_a_noun_as_a_noun():
    wordnet = load_wordnet()
    for word, pos in [("discuss", "v"), ("teach", "v"), ("car", "n"), ("city", "n"), ("big", "a")]:
        assert synonyms(word)
        assert all(wordnet.synsets(option.replace(" ", "_"), pos) for option in synonyms(word))


@pytest.mark.parametrize(
    "word", "grey center color analyze catalogue database programme judgment e-mail theatre".split()
)
def test_a_spelling_variant_is_no_synonym(word):
    variants = "gray,centre,colour,analyse,catalog,data base,program,judgement,email,theater"
    assert not {*variants.split(","), word} & set(synonyms(word))


def test_the_full_name_of_a_person_is_no_synonym():
    assert synonyms("louis") == ()  # Joseph Louis Barrow
    assert synonyms("Reed") and "John reed" not in synonyms("Reed")


def test_common_words_of_common_senses_come_first():
    said, price, previous = synonyms("said"), synonyms("price"), synonyms("previous")
    assert said[0] == "told"  # in WordNet's counts tell 196, state 73
    assert price.index("toll") < price.index("monetary value")  # a single word, though rarer
    assert previous.index("former") < previous.index("old")  # previous as old was never seen
    assert "noticed" in synonyms("found")  # find, not to found a company


def test_the_usual_sense_is_drawn_more_often_than_the_rare_one():
    options = synonyms("city")
    assert options == ("metropolis", "urban center")  # weights 1 and 1/2
    drawn = [word_substitution(["city"], seed=seed)[0] for seed in range(300)]
    assert 170 < drawn.count("metropolis") < 230  # expected 200, deviation 8


# ---- noise -------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(st.lists(SENTENCES, min_size=1, max_size=4), st.integers(0, 5), st.floats(0, 3))
def test_noise_never_empties_a_text_and_invents_no_word(texts, seed, rate):
    vocabulary = set(" ".join(texts).split())
    for text, changed in zip(texts, noise(texts, seed=seed, rate=rate), strict=True):
        assert bool(changed.split()) == bool(text.split())
        assert set(changed.split()) <= vocabulary
        edits = max(1, round(rate * len(text.split())))
        assert abs(len(changed.split()) - len(text.split())) <= edits


def test_noise_inserts_swaps_and_deletes():
    text = "one two three four"
    results = [noise([text], seed=seed, rate=0.1)[0].split() for seed in range(60)]
    lengths = {len(words) for words in results}
    swapped = [words for words in results if len(words) == 4]
    assert lengths == {3, 4, 5}
    assert all(sum(a != b for a, b in zip(words, text.split())) == 2 for words in swapped)
    # 60 draws of three edits: each is drawn 20 times, deviation 3.7
    assert all(8 < sum(len(words) == n for words in results) < 32 for n in lengths)


# ---- back translation and contextual insertion ---------------------------------------------------


@pytest.fixture(scope="module")
def translator(tmp_path_factory):
    pytest.importorskip("sentencepiece", reason="back translation needs it")
    pytest.importorskip("sacremoses", reason="back translation needs it")
    return save_tiny_translator(tmp_path_factory.mktemp("marian") / "model", TEXTS)


def test_beam_search_translates_as_transformers_does_it_for_one_sentence(translator):
    from transformers import MarianMTModel, MarianTokenizer

    model, tokenizer = (
        kind.from_pretrained(translator) for kind in (MarianMTModel, MarianTokenizer)
    )
    text = TEXTS[1]
    for _ in range(2):
        inputs = tokenizer([text], return_tensors="pt")
        limit = 2 * inputs["input_ids"].shape[1] + 10
        [ids] = model.eval().generate(**inputs, num_beams=3, max_new_tokens=limit)
        text = tokenizer.decode(ids, skip_special_tokens=True).strip()
    models = {"forth": str(translator), "back": str(translator)}
    assert augment.back_translation([TEXTS[1]], **models, beams=3) == [text]


def test_the_noise_of_sampling_draws_tokens_by_their_probability():
    shares = torch.tensor([0.5, 0.3, 0.2, 0.0])
    noise = augment._gumbel_noise(0, [str(i) for i in range(4000)])
    drawn = noise(None, shares.log().expand(4000, -1)).argmax(dim=1)
    found = torch.bincount(drawn, minlength=4) / 4000
    # standard deviations are at most 0.008
    torch.testing.assert_close(found, shares, atol=0.04, rtol=0)
    assert found[3] == 0


def test_texts_are_translated_sentence_by_sentence_and_none_gets_lost(monkeypatch):
    seen = []

    def shout(texts, tokenizer, model, beams, seed):
        seen.extend(texts)
        return ["" if text == "..." else text.upper() for text in texts]

    monkeypatch.setattr(augment, "_translate", shout)
    monkeypatch.setattr(augment, "_translator", lambda name, device, load: (None, None))
    monkeypatch.setattr(augment, "LONGEST_SENTENCE", 3)
    pytest.importorskip("sentencepiece", reason="back translation needs it")
    texts = ["It works! Really? a b c d e", "it works!", "...", "", "It works!"]
    loud = ["IT WORKS! REALLY? A B C D E", "IT WORKS!", "...", "", "IT WORKS!"]
    assert augment.back_translation(texts) == loud
    assert seen[:6] == ["It works!", "Really?", "a b c", "d e", "it works!", "..."]


@pytest.fixture(scope="module")
def masked_model(tmp_path_factory):
    from transformers import AutoConfig, AutoModelForMaskedLM

    folder = save_tiny_encoder(tmp_path_factory.mktemp("masked"))
    torch.manual_seed(0)
    AutoModelForMaskedLM.from_config(AutoConfig.from_pretrained(folder)).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("rate", [0.01, 0.3, 1.0])
def test_insertion_adds_its_share_of_words_and_keeps_the_others_in_order(masked_model, rate):
    for text, changed in zip(TEXTS, augment.contextual(TEXTS, model=masked_model, rate=rate)):
        before, after = text.split(), changed.split()
        assert len(after) == len(before) + max(1, round(rate * len(before)))
        position = iter(after)
        assert all(word in position for word in before)
    assert augment.contextual(["", "  "], model=masked_model) == ["", "  "]


FIXTURES = {"back_translation": "translator", "contextual": "masked_model"}


@pytest.mark.parametrize("name", ["word_substitution", "noise", *FIXTURES])
def test_a_result_depends_on_seed_and_text_alone(name, request):
    entry, texts = AUGMENTATIONS[name], [text.lower() for text in TEXTS]
    options = {of: str(request.getfixturevalue(FIXTURES[name])) for of in entry.models}
    options |= {"sampling": 1} if name == "back_translation" else {}
    changed = entry.function(texts, seed=3, **options)
    assert entry.function(texts[::-1], seed=3, **options) == changed[::-1]
    assert entry.function(texts, seed=4, **options) != changed
    if entry.in_pieces:  # noise draws from the words of all texts
        for text, own in zip(texts[:2], changed):
            assert entry.function([text], seed=3, **options) == [own]


def test_the_words_are_the_models_top_n_for_the_place(masked_model):
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(masked_model)
    model = AutoModelForMaskedLM.from_pretrained(masked_model).eval()
    text = "a large bird of the sea"
    found = {}
    for seed in range(60):
        [changed] = augment.contextual([text], model=masked_model, seed=seed, top_n=2, rate=0.01)
        words = changed.split()
        place = next((i for i, (a, b) in enumerate(zip(words, text.split())) if a != b), 6)
        found.setdefault(place, set()).add(words[place])
    for place, words in found.items():
        masked = text.split()
        masked.insert(place, "[MASK]")
        ids = tokenizer(" ".join(masked), return_tensors="pt")
        logits = model(**ids).logits[0, 1 + place]
        order = logits.argsort(descending=True).tolist()
        ranked = tokenizer.convert_ids_to_tokens(order)
        best = [word for word in ranked if word.isalpha()][:2]
        # a word equal to its neighbour is seen one place further on
        assert words <= {*best, *text.split()}
        assert words & set(best)
    assert len(found) >= 4


@pytest.mark.parametrize(
    "method, options",
    [("back_translation", {"forth": "/no/model"}), ("contextual", {"model": "/no/model"})],
)
def test_a_missing_model_is_one_line(method, options, tmp_path, monkeypatch):
    pytest.importorskip("sentencepiece", reason="back translation needs it")
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: exec("raise OSError('off')"))
    with pytest.raises(InputError, match="model /no/model is neither") as error:
        augmented_texts(TEXTS, method, cache_dir=tmp_path, **options)
    assert "\n" not in str(error.value)


def test_missing_packages_of_back_translation_are_one_line(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install sentencepiece sacremoses"):
        augment.back_translation(TEXTS)


def test_an_interrupted_translation_goes_on_where_it_stopped(monkeypatch, tmp_path):
    monkeypatch.setattr(augmentations, "MODEL_PIECE", 2)
    calls = []

    def fake(texts, *, seed=0, device="auto", load=None, back="x"):
        calls.append((tuple(texts), device))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return [text + back for text in texts]

    entry, cache = replace(AUGMENTATIONS["back_translation"], function=fake), tmp_path / "a" / "b"
    monkeypatch.setitem(AUGMENTATIONS, "back_translation", entry)
    with pytest.raises(KeyboardInterrupt):
        augmented_texts(TEXTS, "back_translation", cache_dir=cache, device="cpu", back="y")
    own = {"cache_dir": cache, "back": "y"}
    for device in ("mps", "cpu"):  # the second time all is read
        changed = augmented_texts(TEXTS, "back_translation", device=device, **own)
        assert changed == [text + "y" for text in TEXTS]
    assert [texts for texts, _ in calls] == [tuple(TEXTS[a : a + 2]) for a in (0, 2, 4, 4)]
    assert augmented_texts(TEXTS, "back_translation", cache_dir=cache)[0] == TEXTS[0] + "x"


# ---- the registry, and the language of the texts ----------------------------------------------


def test_an_entry_has_a_range_for_each_number_and_names_its_models():
    for entry in AUGMENTATIONS.values():
        numbers = {option for option, value in entry.options.items() if not isinstance(value, str)}
        assert set(entry.ranges) == numbers
        assert all(
            lowest <= entry.options[option] <= highest
            for option, (lowest, highest) in entry.ranges.items()
        )
        texts = {option for option in entry.options if option not in numbers} - {"language"}
        assert set(entry.models) == texts
        assert ("language" in entry.options) == entry.english
        assert entry.title and entry.good_for
    assert not AUGMENTATIONS["noise"].english and not AUGMENTATIONS["none"].english


OTHER_LANGUAGES = {
    "French": """Le chat dort sur la table de la cuisine. Bonjour, je cherche un livre pour ma
        fille. La machine est tombée en panne après trois mois. Le service est long et la cuisine
        moyenne. Question sur la facture du mois de mars. La situation politique est complexe.""",
    "German": """Das Handy war nach zwei Wochen kaputt. Man kann die Rechnung in der App finden.
        Wo ist mein Paket? Der Kellner war nett, und das Essen war warm und gut. Die Mannschaft hat
        das Spiel am Sonntag gewonnen. Der Wind war still, das Land war arm.""",
    "Spanish": """El servicio fue lento y la comida llegó fría. No puedo entrar en mi cuenta desde
        el lunes. La batería dura muy poco tiempo. El equipo ganó el partido en el último minuto.
        Me gusta mucho este libro, es mi favorito. El precio es demasiado alto.""",
    "Italian": """La camera era piccola ma pulita. Non riesco a vedere la fattura di marzo. La
        squadra ha vinto la partita nel finale. Il telefono si spegne da solo. Un romanzo
        bellissimo, lo leggo per la terza volta. Il prezzo è troppo alto per la qualità.""",
    "Dutch": """Het boek is in het Nederlands en het is een goed boek. De trein is te laat en de bus
        is vol. Is er een ander model in de winkel? Mijn man was ziek en is in bed. Hoe is het weer
        in de stad? De film is af, de student is in de les. We zijn met de auto naar zee gegaan.""",
    "Turkish": """Kargo üç gün geç geldi ve kutu açıktı. Telefonun bataryası çok çabuk bitiyor.
        Takım son dakikada maçı kazandı. Yemekler soğuktu, garson ilgisizdi. Faturamı nereden
        görebilirim? Bu romanı üçüncü kez okuyorum, hâlâ çok seviyorum.""",
    "Hindi": """Mera order abhi tak nahi aaya, paise wapas chahiye. Khana thanda tha aur waiter ka
        behaviour kharab. Match bahut mazedaar tha, aakhri over mein jeet gaye. Yeh kitaab mujhe
        bahut pasand hai. Bill kahan dekh sakte hain? Phone do din mein kharab ho gaya.""",
    "Russian": """Кошка спит на столе. Доставка была очень быстрой, спасибо. Где мой заказ? Команда
        выиграла матч на последней минуте. Телефон быстро разряжается, я очень разочарован.
        Прекрасная книга, читаю её в третий раз. Обед был холодный, а официант невежливый. Как мне
        изменить пароль?""",
}


@pytest.mark.parametrize("language", OTHER_LANGUAGES)
def test_texts_that_are_not_english_stop_with_one_line(language, tmp_path):
    """The limits were chosen with these samples in view: this shows that they hold, no more."""
    texts = OTHER_LANGUAGES[language].split(". ")
    with pytest.raises(InputError, match="do not look English") as error:
        augmented_texts(texts, "contextual", cache_dir=tmp_path)
    message = str(error.value)
    assert "\n" not in message and "--augment noise or none" in message
    assert "--augment_options language=any" in message
    assert not list(tmp_path.iterdir())


def test_consent_treats_them_all_the_same_and_holds_for_this_call_alone(tmp_path):
    texts = OTHER_LANGUAGES["French"].split(". ")
    changed = augmented_texts(texts, "word_substitution", cache_dir=tmp_path, language="any")
    assert changed == word_substitution(texts)
    with pytest.raises(InputError, match="do not look English"):  # the cache is no consent
        augmented_texts(texts, "word_substitution", cache_dir=tmp_path)
    assert augmented_texts(texts, "noise", cache_dir=tmp_path) == noise(texts)


@pytest.mark.parametrize(
    "texts",
    [
        """Scalable parallel algorithms for constraint satisfaction. On the complexity of XQuery.
        Fuzzy clustering using kernel methods. Peer-to-peer caching in ad-hoc networks. Incremental
        maintenance of OLAP cubes. Semantics of Datalog with negation. Adaptive routing for
        wormhole-switched hypercubes. A note on bisimulation""",
        """red shoes women. wireless mouse black. garden hose reel. kitchen knife set. running socks
        cotton. leather wallet brown. baby blanket soft. coffee grinder manual. winter jacket. yoga
        mat. phone charger fast. bicycle helmet. desk lamp""",
        """idk lol my fav tbh its sooo gooood. omg the wifi at tha airbnb is trash ngl. u gotta see
        dis vid of doggo. gonna ship it to NYC w/ UPS, thx. wtf is rong w my iphone 12. smh the devs
        dont fix bugz in v2""",
        """Expression of TGF-beta1 mRNA in CD34+ cells. Inhibition of HIV-1 replication by siRNA.
        Role of p53 and BRCA1 in glioma. Kinetics of Escherichia coli beta-galactosidase.
        Polymorphism of CYP2D6 and response to haloperidol""",
        "le chat dort. oui",
        "",
    ],
)
def test_short_english_texts_and_too_few_words_never_stop(texts):
    check_english(texts.split(". ") if texts else [], "word_substitution")


@needs_datasets
@pytest.mark.parametrize("name", ["trec", "cr", "ohsumed", "biomedical", "r52"])
def test_thirty_texts_of_a_real_dataset_look_english(name):
    texts = data.load(name, PUBLISHED).train_texts
    for start in range(5):
        check_english(texts[start :: len(texts) // 30], "word_substitution")


# ---- augment and its cache ---------------------------------------------------------------------


def test_method_seed_settings_and_texts_have_files_of_their_own(monkeypatch, tmp_path):
    def num_files():
        return len(list(tmp_path.iterdir()))

    augmented_texts(TEXTS, "noise", seed=0, cache_dir=tmp_path)
    augmented_texts(TEXTS, "noise", seed=1, cache_dir=tmp_path)
    augmented_texts(TEXTS[:-1], "noise", seed=0, cache_dir=tmp_path)
    augmented_texts(TEXTS, "word_substitution", seed=0, cache_dir=tmp_path)
    assert num_files() == 4
    monkeypatch.setitem(noise.__kwdefaults__, "rate", 0.7)
    assert augmented_texts(TEXTS, "noise", seed=0, cache_dir=tmp_path) == noise(TEXTS, rate=0.7)
    assert num_files() == 5


@pytest.mark.parametrize(
    "damage", [lambda text: "", lambda text: "[1]", lambda text: text[:-5], lambda text: "{}"]
)
def test_a_damaged_cache_is_named_and_computed_anew(damage, tmp_path, capsys):
    expected = augmented_texts(TEXTS, "noise", cache_dir=tmp_path)
    [path] = tmp_path.iterdir()
    intact = path.read_text()
    assert damage(intact) != intact
    path.write_text(damage(intact))
    capsys.readouterr()
    assert augmented_texts(TEXTS, "noise", cache_dir=tmp_path) == expected
    assert f"{path} is damaged" in capsys.readouterr().out
    assert path.read_text() == intact and list(tmp_path.iterdir()) == [path]


def test_noise_is_one_piece_because_its_words_come_from_all_texts(monkeypatch, tmp_path):
    monkeypatch.setattr(augmentations, "PIECE", 2)
    assert augmented_texts(TEXTS, "noise", cache_dir=tmp_path) == noise(TEXTS)


def test_one_line_says_what_was_changed(tmp_path, capsys):
    augmented_texts(["dogs", "qwzx qwzx qwzx"], "word_substitution", cache_dir=tmp_path)
    captured = capsys.readouterr()
    said = f"augment: word_substitution changed 50.0% of 2 texts (cached: {tmp_path})\n"
    assert captured.out == said
    assert "word substitution" in captured.err  # the progress bar


def test_none_gives_the_texts_and_writes_nothing(tmp_path, capsys):
    assert augmented_texts(TEXTS, "none", cache_dir=tmp_path) == TEXTS
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr().out.startswith("augment: none, ")

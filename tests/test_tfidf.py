"""baselines/tfidf.py: what it learns, and that its files give it back."""

import numpy as np
import pytest
from conftest import glosses
from safetensors.numpy import load_file, save_file
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.svm import LinearSVC

from baselines.tfidf import Tfidf
from engine.files import InputError

RED_AND_BLUE = ["red fruit", "red berry", "red apple", "red plum", "red fig", "blue sea"]


def two_or_three(classes: int) -> tuple[list[str], np.ndarray]:
    texts = RED_AND_BLUE + ["green hill"] * (classes - 2)
    return texts, np.array([0] * 5 + [1] + [2] * (classes - 2))


@pytest.mark.parametrize("classes", [2, 3])
def test_it_finds_the_words_of_a_class_and_balances_the_classes(classes):
    model = Tfidf().fit(*two_or_three(classes))
    first, second = model.scores(["blue", "red"]), model.scores(["the blue sea"])
    assert first.shape == (2, classes) and second.shape == (1, classes)
    assert first.argmax(axis=1).tolist() == [1, 0] and second.argmax() == 1


def test_its_scores_are_those_of_scikit_learn_on_both_kinds_of_terms():
    texts, labels = zip(*glosses({"noun.food": 30, "noun.animal": 20, "noun.time": 8}))
    labels = np.unique(labels, return_inverse=True)[1]
    parts = [
        TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), token_pattern=r"\w+"),
        TfidfVectorizer(sublinear_tf=True, ngram_range=(2, 5), analyzer="char_wb"),
    ]
    x = np.hstack([part.fit_transform(texts).toarray() for part in parts])
    svm = LinearSVC(class_weight="balanced", random_state=0).fit(x, labels)
    np.testing.assert_allclose(
        Tfidf().fit(texts, labels).scores(texts), svm.decision_function(x), atol=1e-3
    )  # liblinear's own tolerance


@pytest.mark.parametrize("classes", [2, 3])
def test_what_is_saved_comes_back_with_equal_scores_also_for_unseen_words(tmp_path, classes):
    texts, labels = two_or_three(classes)
    model = Tfidf().fit([*texts[:-1], texts[-1] + ' Ünïcode 日本 "quoted"'], labels)
    model.save(tmp_path)
    asked = ["blue", "a red thing", "", "nothing known", "日本 ünïcode"]
    np.testing.assert_array_equal(Tfidf.load(tmp_path).scores(asked), model.scores(asked))
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}  # no pickle


def test_files_of_two_models_are_not_taken_for_one(tmp_path):
    Tfidf().fit(*two_or_three(3)).save(tmp_path)
    tensors = load_file(tmp_path / "tfidf.safetensors")
    save_file(tensors | {"coef": tensors["coef"][:, 1:].copy()}, tmp_path / "tfidf.safetensors")
    with pytest.raises(ValueError, match="do not fit"):
        Tfidf.load(tmp_path)


def test_texts_without_a_word_are_one_line():
    with pytest.raises(InputError, match="--method probe"):
        Tfidf().fit(["", " "], np.array([0, 1]))

"""What a user tries first: one changed line of cross-entropy, or no training of an encoder at all."""
import numpy as np
import torch.nn.functional as F
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_union
from sklearn.svm import LinearSVC

from baselines import at_least_0, losses
from baselines.base import Baseline, CrossEntropy, fit_balanced
from engine.files import InputError
from losses import logit_compensation


class LogitAdjustment(CrossEntropy):
    """Menon et al. 2020, the adjusted loss; SharpReCL's Eq. (6) alone, on the original texts."""
    compensated = True

    def loss(self, logits, labels):
        return logit_compensation(logits, labels, self.task.class_counts)


class VectorScaling(CrossEntropy):
    """
    Kini et al. 2021, with the defaults of the official code (orparask/VS-Loss, losses.py); which
    values it used for which data set is not in it. Prediction takes the logits as they are, as that
    code does.
    """
    constants = {"gamma": at_least_0(0.3), "tau": at_least_0(1.0)}
    compensated = True

    def loss(self, logits, labels):
        return losses.vector_scaling(logits, labels, self.task.class_counts, **self.constant)


class WeightedCrossEntropy(CrossEntropy):
    """Weights N / (C n_c), scikit-learn's "balanced"."""
    compensated = True

    def loss(self, logits, labels):
        weights = losses.balanced_weights(self.task.class_counts).to(logits)
        return F.cross_entropy(logits, labels, weight=weights)


class Probe(Baseline):
    """The pretrained encoder as it is, and a class-balanced logistic regression on feat."""
    trains = False
    sees_features = True
    compensated = True

    def observe(self, feat, labels):
        fit_balanced(self.phi, feat, labels)


def tfidf(train_texts: list[str], labels: np.ndarray, *parts: list[str]) -> list[np.ndarray]:
    """
    Scores (n, C) of each part's texts, by a balanced linear SVM on TF-IDF; no encoder. Words, pairs
    of words and pieces of words: by cross-validation on the training texts of Ohsumed, TREC and CR
    better than words alone (macro-F1 52.8, 84.9, 78.6 against 49.7, 82.7, 76.5).
    """
    vectorizer = make_union(
        TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), token_pattern=r"\w+"),
        TfidfVectorizer(sublinear_tf=True, ngram_range=(2, 5), analyzer="char_wb"))
    svm = LinearSVC(class_weight="balanced", random_state=0)
    try:
        svm.fit(vectorizer.fit_transform(train_texts), labels)
    except ValueError as error:
        raise InputError(f"tfidf finds no word in these texts ({error}): take --method probe, "
                         "whose tokenizer may") from error
    scores = [svm.decision_function(vectorizer.transform(texts)) for texts in parts]
    return [np.stack([-s, s], axis=1) if s.ndim == 1 else s for s in scores]

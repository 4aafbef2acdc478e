"""
Methods that change one line of cross-entropy, or do not train the encoder. BERT and RoBERTa are
base.CrossEntropy with different encoders; TF-IDF, which has no encoder, is in tfidf.py.
"""

import torch
import torch.nn.functional as F

from baselines import at_least_0, losses
from baselines.base import Baseline, CrossEntropy, fit_balanced
from losses import logit_compensation


class Dice(CrossEntropy):
    """Li et al. 2020, with the constants of the official script for text classification."""

    constants = {"alpha": at_least_0(0.01), "smooth": at_least_0(1.0)}

    def loss(self, logits, labels):
        return losses.dice(logits, labels, **self.constant)


class Focal(CrossEntropy):
    """Lin et al. 2017, over a softmax, without class weights."""

    constants = {"gamma": at_least_0(2.0)}

    def loss(self, logits, labels):
        return losses.focal(logits, labels, **self.constant)


class LogitAdjustment(CrossEntropy):
    """Menon et al. 2020, the adjusted loss: only Eq. (6) of SharpReCL, on the original texts."""

    compensated = True

    def loss(self, logits, labels):
        return logit_compensation(logits, labels, self.task.class_counts)


class VectorScaling(CrossEntropy):
    """
    Kini et al. 2021, with the defaults of the official code (orparask/VS-Loss, losses.py), which
    does not give the values for each data set. As there, prediction uses the plain logits.
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


class PostHocAdjustment(CrossEntropy):
    """
    Menon et al. 2020, post-hoc: trains with plain cross-entropy; for prediction, the log training
    shares log P_y are subtracted from the logits.
    """

    compensated = True

    def __init__(self, encoder, task):
        super().__init__(encoder, task)
        self.linear, self.phi = self.phi, None  # the linear layer alone is not the classifier
        self.register_buffer("log_prior", (task.class_counts / task.class_counts.sum()).log())

    def classify(self, feat):
        logits = self.linear(F.dropout(feat, 0.1, self.training))
        return logits if self.training else logits - self.log_prior


class BalancedSampling(CrossEntropy):
    """
    Cross-entropy on texts that are drawn by a uniform class, then uniformly from this class; an
    epoch has as many draws as there are texts.
    """

    compensated = True

    def epoch_rows(self, epoch, num_texts):
        weights = (1 / self.task.class_counts.double())[torch.from_numpy(self.task.train_labels)]
        return torch.multinomial(weights, num_texts, replacement=True).numpy()


class Probe(Baseline):
    """The frozen pretrained encoder, and a class-balanced logistic regression on feat."""

    trains = False
    sees_features = True
    compensated = True

    def observe(self, feat, labels):
        fit_balanced(self.phi, feat, labels)

"""
Pretrained language models and their imbalanced learning versions (Appendix A.3). BERT and RoBERTa
are CrossEntropy of base.py, each with its own encoder.
"""

from baselines import at_least_0, losses
from baselines.base import CrossEntropy


class Dice(CrossEntropy):
    """Li et al. 2020; constants of its text classification script."""

    constants = {"alpha": at_least_0(0.01), "smooth": at_least_0(1.0)}

    def loss(self, logits, labels):
        return losses.dice(logits, labels, **self.constant)


class Focal(CrossEntropy):
    """Lin et al. 2017, over a softmax, without class weights."""

    constants = {"gamma": at_least_0(2.0)}

    def loss(self, logits, labels):
        return losses.focal(logits, labels, **self.constant)

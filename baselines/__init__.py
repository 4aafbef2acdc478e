"""
The registry of methods: what SharpReCL is compared with, and SharpReCL. The command line, the
tables, run_all.sh and the tests read it, and it imports a method only when one asks for it.

To add a method, write its class in one of the rooms here, on Baseline of base.py, and its entry in
METHODS. `python -m baselines` shows them all.
"""

import math
from importlib import import_module
from typing import NamedTuple


class Constant(NamedTuple):
    """A constant of a method: its official value, and the values that --constants may give it."""

    default: int | float
    lowest: float = 0.0
    highest: float = math.inf
    is_open: bool = False  # then `lowest` itself is out of range


def positive(default: int | float) -> Constant:
    return Constant(default, is_open=True)


def at_least_0(default: int | float) -> Constant:
    return Constant(default)


def share(default: float) -> Constant:
    return Constant(default, highest=1.0)


GROUPS = {  # the sections of the tables, in their order: the four of Appendix A.3, then ours
    "pretrained": "Pretrained language models and their imbalanced learning versions",
    "contrastive": "Contrastive learning models",
    "imbalanced": "Imbalanced contrastive learning models",
    "large": "Large language models (Table 3)",
    "simple": "What a user tries first, beside the paper's list",
    "ours": "SharpReCL",
}
# Those of a language model's constants that may be 0; all others must be above 0.
OF_LORA = {"alpha": at_least_0, "dropout": share}


class Entry(NamedTuple):
    """A method as the command line, the tables and the grid know it."""

    name: str  # of --method
    title: str  # in the tables
    group: str  # of GROUPS
    source: str  # module and name of its class
    loss: str = ""  # module and name of the loss that gives it its name, if it has one
    encoder: str | None = None  # the default of --encoder, where it is the method's own

    @property
    def cls(self) -> type:
        return find(self.source)

    @property
    def fit(self):
        """A generator of epochs, of a method that main.train() does not fit; else None."""
        module, _, _ = self.source.rpartition(".")
        return getattr(import_module(module), "fit", None)

    @property
    def constants(self) -> dict[str, Constant]:
        """What --constants may change; a language model's depend on the model, not on its class."""
        if self.group == "large":
            own = find("baselines.language_models.CONSTANTS")[self.name]
            return {name: OF_LORA.get(name, positive)(value) for name, value in own.items()}
        return getattr(self.cls, "constants", {})

    @property
    def views(self) -> tuple[str, ...]:
        """Of a text that a step encodes; none where there is no encoder."""
        return getattr(self.cls, "views", ())

    @property
    def has_encoder(self) -> bool:
        return bool(self.views)

    @property
    def has_second_view(self) -> bool:
        return "augmented" in self.views


def find(source: str):
    """What the module holds under this name, for "module.name"."""
    module, _, name = source.rpartition(".")
    return getattr(import_module(module), name)


METHODS = {
    entry.name: entry
    for entry in (
        Entry(
            "bert",
            "BERT",
            "pretrained",
            "baselines.base.CrossEntropy",
            "torch.nn.functional.cross_entropy",
        ),
        Entry(
            "dice",
            "BERT + Dice",
            "pretrained",
            "baselines.pretrained.Dice",
            "baselines.losses.dice",
        ),
        Entry(
            "focal",
            "BERT + Focal",
            "pretrained",
            "baselines.pretrained.Focal",
            "baselines.losses.focal",
        ),
        Entry(
            "roberta",
            "RoBERTa",
            "pretrained",
            "baselines.base.CrossEntropy",
            "torch.nn.functional.cross_entropy",
            encoder="roberta-base",
        ),
        Entry(
            "simcse",
            "SimCSE",
            "contrastive",
            "baselines.contrastive.SimCSE",
            "baselines.losses.info_nce",
        ),
        Entry(
            "sclce",
            "SCLCE",
            "contrastive",
            "baselines.contrastive.SCLCE",
            "baselines.losses.supervised_contrastive",
        ),
        Entry(
            "spcl",
            "SPCL",
            "contrastive",
            "baselines.contrastive.SPCL",
            "baselines.losses.prototypical_contrastive",
        ),
        Entry(
            "dualcl",
            "DualCL",
            "contrastive",
            "baselines.contrastive.DualCL",
            "baselines.losses.dual_contrastive",
        ),
        Entry(
            "hybrid_sc",
            "Hybrid-SC",
            "imbalanced",
            "baselines.imbalanced.HybridSC",
            "baselines.losses.supervised_contrastive",
        ),
        Entry(
            "bcl",
            "BCL",
            "imbalanced",
            "baselines.imbalanced.BCL",
            "baselines.losses.balanced_contrastive",
        ),
        Entry(
            "tsc",
            "TSC",
            "imbalanced",
            "baselines.imbalanced.TSC",
            "baselines.losses.targeted_contrastive",
        ),
        Entry("gpt35", "GPT-3.5", "large", "baselines.hosted.HostedModel"),
        Entry("bloom", "Bloom-7.1B", "large", "baselines.lora.LoraClassifier"),
        Entry("llama2", "Llama2-7B", "large", "baselines.lora.LoraClassifier"),
        Entry("llama3", "Llama3-8B", "large", "baselines.lora.LoraClassifier"),
        Entry(
            "la",
            "logit adjustment",
            "simple",
            "baselines.simple.LogitAdjustment",
            "losses.logit_compensation",
        ),
        Entry(
            "vs",
            "vector scaling",
            "simple",
            "baselines.simple.VectorScaling",
            "baselines.losses.vector_scaling",
        ),
        Entry(
            "wce",
            "weighted CE",
            "simple",
            "baselines.simple.WeightedCrossEntropy",
            "torch.nn.functional.cross_entropy",
        ),
        Entry(
            "post_hoc",
            "post-hoc adjustment",
            "simple",
            "baselines.simple.PostHocAdjustment",
            "torch.nn.functional.cross_entropy",
        ),
        Entry(
            "balanced",
            "balanced sampling",
            "simple",
            "baselines.simple.BalancedSampling",
            "torch.nn.functional.cross_entropy",
        ),
        Entry("tfidf", "TF-IDF + SVM", "simple", "baselines.tfidf.Tfidf"),
        Entry("probe", "linear probe", "simple", "baselines.simple.Probe"),
        Entry("sharprecl", "SharpReCL", "ours", "model.SharpReCL", "losses.rebalanced_contrastive"),
    )
}


def titles(*groups: str) -> dict[str, str]:
    """{name: title} of the methods of these groups; of all without any, in the tables' order."""
    return {
        entry.name: entry.title for entry in METHODS.values() if not groups or entry.group in groups
    }


def make(method: str, encoder, task, options: dict):
    """The network of this name; options are a rival's constants, or SharpReCL's own arguments."""
    entry = METHODS[method]
    if entry.group == "ours":
        return entry.cls(encoder, len(task.label_names), **options)
    return entry.cls(encoder, task, **options)

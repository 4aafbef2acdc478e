"""
The registry of all methods: SharpReCL and those that it is compared with. The command line, the
tables, run_all.sh and the tests read it. A method's module is imported only when it is needed.

To add a method, write a subclass of base.Baseline in a module of this folder, and add an entry to
METHODS. `python -m baselines` shows all methods.
"""

import math
from importlib import import_module
from typing import NamedTuple


class Constant(NamedTuple):
    """A constant of a method: its official value, and the range that --constants accepts."""

    default: int | float
    lowest: float = 0.0
    highest: float = math.inf
    is_open: bool = False  # whether `lowest` itself is excluded


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
# Module and name of functions that fit a model instead of main.train(): see Entry.fit.
TFIDF, LORA, HOSTED = "baselines.tfidf.fit", "engine.large.fine_tune", "engine.large.ask"


class Entry(NamedTuple):
    """A method as the command line, the tables and the grid know it."""

    name: str  # of --method
    title: str  # in the tables
    group: str  # of GROUPS
    source: str  # module and name of its class
    encoder: str | None = None  # the method's own default of --encoder
    fitted_by: str = ""  # module and name of the function that fits it instead of main.train()

    @property
    def cls(self) -> type:
        return find(self.source)

    @property
    def fit(self):
        """A generator of epochs (engine/run_folder.py), or None if main.train() fits the method."""
        return find(self.fitted_by) if self.fitted_by else None

    @property
    def constants(self) -> dict[str, Constant]:
        """The constants that --constants may change."""
        return getattr(self.cls, "constants", {})

    @property
    def views(self) -> tuple[str, ...]:
        """The views of a text that a step encodes; empty if the method has no encoder."""
        return getattr(self.cls, "views", ())

    @property
    def has_encoder(self) -> bool:
        return bool(self.views)

    @property
    def has_second_view(self) -> bool:
        return "augmented" in self.views


def find(source: str):
    """Imports "module.name" and returns that object."""
    module, _, name = source.rpartition(".")
    return getattr(import_module(module), name)


METHODS = {
    entry.name: entry
    for entry in (
        Entry("bert", "BERT", "pretrained", "baselines.base.CrossEntropy"),
        Entry("dice", "BERT + Dice", "pretrained", "baselines.simple.Dice"),
        Entry("focal", "BERT + Focal", "pretrained", "baselines.simple.Focal"),
        Entry("roberta", "RoBERTa", "pretrained", "baselines.base.CrossEntropy", "roberta-base"),
        Entry("simcse", "SimCSE", "contrastive", "baselines.contrastive.SimCSE"),
        Entry("sclce", "SCLCE", "contrastive", "baselines.contrastive.SCLCE"),
        Entry("spcl", "SPCL", "contrastive", "baselines.contrastive.SPCL"),
        Entry("dualcl", "DualCL", "contrastive", "baselines.contrastive.DualCL"),
        Entry("hybrid_sc", "Hybrid-SC", "imbalanced", "baselines.imbalanced.HybridSC"),
        Entry("bcl", "BCL", "imbalanced", "baselines.imbalanced.BCL"),
        Entry("tsc", "TSC", "imbalanced", "baselines.imbalanced.TSC"),
        Entry("gpt35", "GPT-3.5", "large", "baselines.hosted.HostedModel", fitted_by=HOSTED),
        Entry("bloom", "Bloom-7.1B", "large", "baselines.lora.LoraClassifier", fitted_by=LORA),
        Entry("llama2", "Llama2-7B", "large", "baselines.lora.LoraClassifier", fitted_by=LORA),
        Entry("llama3", "Llama3-8B", "large", "baselines.lora.LoraClassifier", fitted_by=LORA),
        Entry("la", "logit adjustment", "simple", "baselines.simple.LogitAdjustment"),
        Entry("vs", "vector scaling", "simple", "baselines.simple.VectorScaling"),
        Entry("wce", "weighted CE", "simple", "baselines.simple.WeightedCrossEntropy"),
        Entry("post_hoc", "post-hoc adjustment", "simple", "baselines.simple.PostHocAdjustment"),
        Entry("balanced", "balanced sampling", "simple", "baselines.simple.BalancedSampling"),
        Entry("tfidf", "TF-IDF + SVM", "simple", "baselines.tfidf.Tfidf", fitted_by=TFIDF),
        Entry("probe", "linear probe", "simple", "baselines.simple.Probe"),
        Entry("sharprecl", "SharpReCL", "ours", "model.SharpReCL"),
    )
}


def titles(*groups: str) -> dict[str, str]:
    """{name: title} of the methods of these groups, or of all groups, in the tables' order."""
    return {
        entry.name: entry.title for entry in METHODS.values() if not groups or entry.group in groups
    }


def make(method: str, encoder, task, options: dict):
    """Makes the method's network; options are its constants, or the arguments of SharpReCL."""
    entry = METHODS[method]
    if entry.group == "ours":
        return entry.cls(encoder, len(task.label_names), **options)
    return entry.cls(encoder, task, **options)

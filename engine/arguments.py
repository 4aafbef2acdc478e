"""
The command line of main.py: its flags, which of them fit together, and the folder of a run.

To add a flag, add a line to FLAGS. It is then in --help, in the run's settings (unless its role is
HOW or HOSTED), and in the name of the run's folder if it is not at its default.
"""

import argparse
import hashlib
import math
import os
import re
import sys
from collections.abc import Callable
from enum import Enum
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from augment import AUGMENTATIONS
from baselines import GROUPS, METHODS, language_models, titles
from data import DATASETS
from engine.encoders import default_pooling, device
from engine.files import Parser
from engine.reading import ENDINGS, READ_HELP, read_option
from model import POOLINGS

ENCODER = "bert-base-uncased"

ABLATIONS: dict[str, dict] = {  # the rows of Table 4, with the flags that each sets
    "sshm": {"n_pos": 0, "n_neg": 0},  # the targets are D_hat alone
    "cl": {"mu": 0.0},
    "cls": {"no_cls": True},
    "ss": {"hard_ratio_start": 1.0, "hard_ratio_end": 1.0},  # D_tilde = D_syn
    "hm": {"hard_ratio_start": 0.0, "hard_ratio_end": 0.0},  # D_tilde = D_samp
    "mi": {"no_mutual_guidance": True},
    "delta_both": {"no_delta_cls": True, "no_delta_cl": True},
    "delta_cls": {"no_delta_cls": True},
    "delta_cl": {"no_delta_cl": True},
}


# ---- the table of flags ----


class Role(Enum):
    """
    The kinds of flags. All but HOW and HOSTED affect the numbers of a run: these are its settings,
    and those that are not at their default are in its folder's name.
    """

    SHARED = "all runs of a table have the same value"
    TRAINING = "as SHARED; a method without an encoder ignores it"
    DATA = "all runs of a table on one data set have the same value"
    VARIES = "the runs of a table may differ in it"
    SHARPRECL = "it belongs to SharpReCL"
    LARGE = "it belongs to the large language models"
    LORA = "it belongs to the open language models"
    HOSTED = "it belongs to the hosted language models, and does not affect the numbers"
    HOW = "it says where and how to run, and does not affect the numbers"


SHARED, TRAINING, DATA, VARIES, SHARPRECL, LARGE, LORA, HOSTED, HOW = Role


class Flag(NamedTuple):
    """A flag of main.py: --name, and the options of argparse for its values."""

    name: str
    default: object
    kind: dict
    role: Role
    help: str


def number(kind, lowest: float, highest: float = math.inf, open_interval: bool = False):
    """An argparse type: int or float in [lowest, highest], or above lowest if open_interval."""

    def parse(text: str):
        value = kind(text)
        if not (lowest <= value <= highest and math.isfinite(value)) or (
            open_interval and value == lowest
        ):
            bounds = f"above {lowest:g}" if open_interval else f"at least {lowest:g}"
            bounds += "" if math.isinf(highest) else f" and at most {highest:g}"
            raise argparse.ArgumentTypeError(f"{text} must be {bounds}")
        return value

    parse.__name__ = kind.__name__  # argparse: "invalid int value"
    return parse


def one_of(*values: str) -> dict:
    return {"choices": values}


def integer(lowest: int, highest: float = math.inf) -> dict:
    return {"type": number(int, lowest, highest), "metavar": "N"}


def real(lowest: float, highest: float = math.inf, **options) -> dict:
    return {"type": number(float, lowest, highest, **options), "metavar": "X"}


MOST = 10**9  # limit of sizes, far below the int64 that torch can take
TEXT: dict = {}
SWITCH, PAIRS = {"action": "store_true"}, {"nargs": "+", "metavar": "NAME=VALUE"}
COUNT, SIZE, WIDTH = integer(0), integer(1), integer(1, MOST)
POSITIVE, NOT_NEGATIVE, SHARE = real(0, open_interval=True), real(0), real(0, 1)

DATASET_HELP = ", ".join(DATASETS) + (
    f"; or a file of your own ({ENDINGS}, or these with .gz or .zip), a folder with train.* "
    "and perhaps test.* and validation.* of these, a folder of datasets' save_to_disk, or "
    "hf:NAME[:CONFIG] of the Hugging Face hub"
)
METHOD_HELP = "; ".join(f"{title}: {', '.join(titles(group))}" for group, title in GROUPS.items())


AUGMENT_HELP = "; ".join(
    f"{name} {entry.good_for} {entry.options or ''}".strip()
    for name, entry in AUGMENTATIONS.items()
)

# fmt: off
FLAGS = {  # by the groups of --help
    "data (Section 4)": (
        Flag("dataset", None, {"required": True, "metavar": "NAME|PATH"}, VARIES, DATASET_HELP),
        Flag("ir", None, real(1), VARIES, "imbalance ratio to build, Eq. (3); None: as it is"),
        Flag("profile", "exp", one_of("exp", "step", "consecutive"), SHARED, "the class sizes that --ir gives"),
        Flag("max_per_class", None, SIZE, DATA, "before --ir, keep this many training texts a class"),
        Flag("label_noise", 0.0, SHARE, VARIES, "share of the training labels to flip"),
        Flag("val_fraction", 0.0, real(0, 0.9), DATA, "share of the training texts held out for validation, if the data have no validation part"),
        Flag("val_left_out", None, SIZE, DATA, "take up to N validation texts per class from those that --ir and --max_per_class leave out"),
        Flag("test_fraction", 0.2, real(0, 0.9), SHARED, "share of own data without a test file that is for testing; 0 trains on all texts"),
        Flag("data_seed", 0, COUNT, VARIES, "picks subsets, splits, noise and second views"),
        Flag("data_dir", "data", TEXT, HOW, "where the datasets are, or are downloaded to"),
        Flag("text_column", "text", {"nargs": "+"}, SHARED, "of own data; several columns are joined, one line each"),
        Flag("label_column", "label", TEXT, SHARED, "of own data"),
        Flag("drop_unlabelled", False, SWITCH, SHARED, "leave out the rows of own data that have a text and no label, and say how many"),
        Flag("group_column", None, {"metavar": "NAME"}, DATA, "of own data, such as authors: all texts of a group stay in one part"),
        Flag("read", [], PAIRS | {"type": read_option}, SHARED, READ_HELP),
        Flag("max_length", 256, integer(3, MOST), TRAINING, "tokens that a text is cut to"),
        Flag("augment", "word_substitution", one_of(*AUGMENTATIONS), VARIES, f"makes the second view of a text; {AUGMENT_HELP}"),
        Flag("augment_options", [], PAIRS, VARIES, "other values for its options, as rate=0.2; language=any: accept texts that do not look English"),
        Flag("check_only", False, SWITCH, HOW, "print the data report and stop"),
    ),
    "method": (
        Flag("method", "sharprecl", {"choices": METHODS}, VARIES, f"{METHOD_HELP}; `python -m baselines` shows their constants"),
        Flag("constants", [], PAIRS, VARIES, "other values for the method's constants, instead of its paper's"),
    ),
    "SharpReCL (docs/paper.md lists the defaults that are not the paper's)": (
        Flag("tau", 0.5, POSITIVE, SHARPRECL, "temperature, Eq. (11); the paper: 0.3, 0.5 or 1"),
        Flag("mu", 1.0, NOT_NEGATIVE, SHARPRECL, "weight of the contrastive loss, Eq. (12)"),
        Flag("k", 20, SIZE, SHARPRECL, "hard samples per class, Eq. (9)"),
        Flag("n_pos", 10, integer(0, MOST), SHARPRECL, "built positives per class"),
        Flag("n_neg", 500, integer(0, MOST), SHARPRECL, "built negatives per class"),
        Flag("lam", 0.5, POSITIVE, SHARPRECL, "lambda of Beta(lambda, lambda), Eq. (10)"),
        Flag("hard_ratio_start", 0.5, SHARE, SHARPRECL, "share of mixed samples at the first step"),
        Flag("hard_ratio_end", 1.0, SHARE, SHARPRECL, "share of mixed samples at the last step"),
        Flag("positives", "mean", one_of("mean", "sum"), SHARPRECL, "over the positives of an anchor, Eq. (11); sum is Eq. (11) taken literally"),
        Flag("cl_weight", "log_prior", one_of("log_prior", "effective_number", "none"), SHARPRECL, "weight w of an anchor's class, Eq. (11)"),
        Flag("cl_reduction", "weighted_mean", one_of("weighted_mean", "mean"), SHARPRECL, "over the N anchors, Eq. (11): sum of w L / sum of w, or sum of w L / N"),
        Flag("no_delta_cls", False, SWITCH, SHARPRECL, "no class prior in Eq. (6)"),
        Flag("no_delta_cl", False, SWITCH, SHARPRECL, "no class weight in Eq. (11)"),
        Flag("no_mutual_guidance", False, SWITCH, SHARPRECL, "free prototypes instead of proj_h(w)"),
        Flag("no_cls", False, SWITCH, SHARPRECL, "only the contrastive branch trains the encoder"),
        Flag("ablation", None, one_of(*ABLATIONS), HOW, "a row of Table 4; it sets the flags above"),
        Flag("proj_dim", 128, WIDTH, SHARPRECL, "size of the projected texts and prototypes"),
        Flag("proj_bn", False, SWITCH, SHARPRECL, "batch norm in both heads, as in the authors' code"),
    ),
    f"language models ({', '.join(titles('large'))})": (
        Flag("base_model", None, {"metavar": "NAME|FOLDER"}, LARGE, "a causal model of Hugging Face; gpt35: a model of the server at OPENAI_BASE_URL; None: the paper's"),
        Flag("base_type", "4bit", one_of(*language_models.BASE_TYPES), LORA, "precision of the frozen base; 4bit and 8bit need bitsandbytes"),
        Flag("lora_targets", None, {"nargs": "+"}, LORA, "layers that get adapters; None: all linear ones but the last"),
        Flag("prices", None, NOT_NEGATIVE | {"nargs": 2, "metavar": ("INPUT", "OUTPUT")}, HOSTED, "gpt35: current dollars per million tokens, to estimate the cost"),
        Flag("yes", False, SWITCH, HOSTED, "gpt35: agree to sending the texts"),
    ),
    "encoder": (
        Flag("encoder", None, TEXT, TRAINING, f'a Hugging Face name, a folder, or "minilm"; None: {ENCODER}, and roberta-base for --method roberta'),
        Flag("pooling", None, one_of(*POOLINGS), TRAINING, "feat is the first token's state, the mean of all or the last token's; None: the "
             "own pooling of a model of sentence-transformers, else cls if the encoder's tokenizer begins a text with "
             "[CLS], and mean if it does not (as GPT-2's)"),
        Flag("prefix", "", {"metavar": "TEXT"}, TRAINING, "is put before each text, as E5, BGE and Nomic expect: --prefix 'query: '"),
        Flag("freeze_layers", 0, COUNT, TRAINING, "freeze the embeddings and the lowest N layers: an epoch takes half the time or less"),
    ),
    "training": (
        Flag("epochs", 30, SIZE, TRAINING, "over the training texts"),
        Flag("eval_every", 1, SIZE, VARIES, "evaluate after every N-th epoch and after the last; only these can be the best"),
        Flag("batch_size", 128, SIZE, TRAINING, "texts, each in two views"),
        Flag("micro_batch", None, SIZE, VARIES, "texts in memory at a time; the gradient stays that of the whole batch"),
        Flag("lr", 5e-5, POSITIVE, TRAINING, "of AdamW"),
        Flag("head_lr", None, POSITIVE, TRAINING, "of the classifier and the projection heads; default: --lr"),
        Flag("weight_decay", 5e-4, NOT_NEGATIVE, TRAINING, "not applied to biases and norms"),
        Flag("warmup", 0.0, SHARE, TRAINING, "share of the steps in which the learning rate rises"),
        Flag("schedule", "constant", one_of("constant", "linear", "cosine"), TRAINING, "of the learning rate"),
        Flag("patience", None, SIZE, TRAINING, "stop when N evaluations in a row brought no better validation macro-F1"),
        Flag("amp", "off", one_of("off", "bf16", "fp16"), TRAINING, "mixed precision"),
        Flag("seed", 0, COUNT, VARIES, "of the network, the batches and the built samples"),
        Flag("device", "auto", {"type": device}, HOW, "auto, cpu, cuda, cuda:1 or mps"),
    ),
    "results": (
        Flag("output_dir", "runs", TEXT, HOW, "holds a folder for each run"),
        Flag("plots", False, SWITCH, HOW, "confusion matrix and t-SNE of the test texts (tfidf: no t-SNE)"),
        Flag("no_weights", False, SWITCH, HOW, "keep only the numbers of the run"),
        Flag("overwrite", False, SWITCH, HOW, "run again if there is a result"),
    ),
}
# fmt: on
BY_NAME = {flag.name: flag for group in FLAGS.values() for flag in group}
DEFAULTS = {name: flag.default for name, flag in BY_NAME.items()}

# These flags were added later. If unset they are not in the settings, so that older runs match.
ADDED_LATER = ("augment_options", "head_lr", "prefix", "read", "group_column")

# These are paths and no settings; --encoder is not among them, because it is a setting.
OF_PATHS = ("dataset", "data_dir", "output_dir")


def names_of(*roles: Role) -> tuple[str, ...]:
    """The flags of these roles."""
    return tuple(name for name, flag in BY_NAME.items() if flag.role in roles)


@lru_cache
def concerns(role: Role, method: str) -> bool:
    """Whether a flag of this role affects the method."""
    entry = METHODS[method]
    is_hosted = entry.source.startswith("baselines.hosted.")
    return {
        SHARPRECL: entry.group == "ours",
        LARGE: entry.group == "large",
        LORA: entry.group == "large" and not is_hosted,
        HOSTED: is_hosted,
    }.get(role, True)


# ---- from the command line to the arguments ----


class Arguments(argparse.Namespace):
    """The values of all flags, and the settings and the folder of a run that follow from them."""

    @property
    def settings(self) -> dict:
        """The values that affect the numbers of this method."""
        values = {
            name: getattr(self, name)
            for name, flag in BY_NAME.items()
            if flag.role not in (HOW, HOSTED)
            and concerns(flag.role, self.method)
            and (name not in ADDED_LATER or getattr(self, name))
        }
        return values | {"dataset": Path(self.dataset).name}  # the data's hash says which file

    @property
    def changed(self) -> dict:
        """The method's own flags, constants and options that are not at their default."""
        default = DEFAULTS | {"base_model": language_models.MODELS.get(self.method)}
        flags = {
            name: getattr(self, name)
            for name in names_of(SHARPRECL, LARGE, LORA)
            if getattr(self, name) != default[name]
        }
        own = constants_of(self.method)
        constants = {name: value for name, value in self.constants.items() if value != own[name]}
        return flags | constants | self.augment_options

    @property
    def model_options(self) -> dict:
        """The arguments of the network, beside the encoder and the task."""
        if self.method != "sharprecl":
            return self.constants
        return {
            "proj_dim": self.proj_dim,
            "proj_bn": self.proj_bn,
            "mutual_guidance": not self.no_mutual_guidance,
            "compensated": not self.no_delta_cls,
        }

    @property
    def folder(self) -> Path:
        """
        output_dir/<dataset>_<ir>_<every other setting that is not the default>_<seed>; --check_only
        has its own folder, so that it never changes that of a run.
        """
        defaults = DEFAULTS | {"encoder": ENCODER, "pooling": pooling_of(self.method, self.encoder)}
        parts = [Path(self.dataset).stem, "original" if self.ir is None else f"ir{self.ir:g}"]
        named = {"dataset", "ir", "seed", "constants", "augment_options"}
        named.update(names_of(SHARPRECL, LARGE, LORA))  # `changed` names those of the method
        others = {
            name: value
            for name, value in self.settings.items()
            if value != defaults[name] and name not in named
        }
        for name, value in (others | self.changed).items():
            value = "+".join(value) if isinstance(value, list) else value
            value = f"{value:g}" if isinstance(value, float) else Path(str(value)).name
            parts.append(name if value == "True" else f"{name}-{value}")
        name, seed = re.sub(r"[^\w.+-]", "-", "_".join(parts)), f"seed{self.seed}"
        if len(name.encode()) > 180:  # a file name has 255 bytes; the digest keeps settings apart
            name = name[:40] + "-" + hashlib.sha256(name.encode()).hexdigest()[:16]
        return Path(self.output_dir) / f"{name}_{'check' if self.check_only else seed}"


class Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """--help with the unchanged docstring of the module, and every default."""


@lru_cache(maxsize=1)  # a grid parses thousands of lines
def make_parser(description: str | None = None) -> argparse.ArgumentParser:
    parser = Parser(description=description, formatter_class=Help)
    for title, flags in FLAGS.items():
        group = parser.add_argument_group(title)
        for flag in flags:
            options = {"default": flag.default, "help": flag.help, **flag.kind}
            group.add_argument(f"--{flag.name}", **options)
    return parser


def parse_args(argv: list[str] | None = None, description: str | None = None) -> Arguments:
    """
    Returns the arguments, with the values of --ablation, --constants, encoder and pooling filled in.

    raises  InputError if the default pooling needs the encoder's tokenizer, and it is missing
    """
    parser = make_parser(description)
    args = parser.parse_args(argv, Arguments())
    args.argv = sys.argv[1:] if argv is None else list(argv)
    if isinstance(args.text_column, list) and len(args.text_column) == 1:
        (args.text_column,) = args.text_column  # one name is a string, as the default is
    try:
        check(args)
        for name, value in ABLATIONS.get(args.ablation, {}).items():
            if getattr(args, name) not in (value, DEFAULTS[name]):
                raise ValueError(f"--ablation {args.ablation} sets --{name} {value}: leave it out")
            setattr(args, name, value)
        args.constants = parse_constants(args.method, args.constants)
        args.augment_options = parse_augment_options(args.augment, args.augment_options)
    except ValueError as error:
        parser.error(str(error))
    if args.base_model is None:
        args.base_model = language_models.MODELS.get(args.method)
    if args.encoder is None:
        args.encoder = METHODS[args.method].encoder or ENCODER
    if args.pooling is None:
        args.pooling = pooling_of(args.method, args.encoder)
    return args


def pooling_of(method: str, encoder: str) -> str:
    """The default of --pooling."""
    return default_pooling(encoder) if METHODS[method].has_encoder else "cls"


def check(args: Arguments) -> None:
    """ValueError for a flag that has no meaning for the method."""
    method = METHODS[args.method]
    for name, flag in BY_NAME.items():
        is_known = concerns(SHARPRECL if name == "ablation" else flag.role, args.method)
        if not is_known and getattr(args, name) != flag.default:
            raise ValueError(
                f"--{name} does not concern {args.method}: leave it out; its own constants are set "
                f"by --constants ({constants_of(args.method) or 'none'})"
            )
    if args.augment != DEFAULTS["augment"] and not method.has_second_view:
        raise ValueError(f"--augment makes second views of the texts, and {args.method} has none")
    if args.plots and args.no_weights:
        raise ValueError("--plots draws what the kept model makes of the texts: no --no_weights")
    if args.plots and method.group == "large":
        raise ValueError(
            f"--plots draws what an encoder makes of the texts, and {args.method} has none"
        )
    if args.val_left_out is None:
        return
    if args.ir is None and args.max_per_class is None:
        raise ValueError(
            "--val_left_out takes what --ir and --max_per_class leave out: give one of them, or "
            "take --val_fraction"
        )
    if args.val_fraction > 0:
        raise ValueError("--val_left_out and --val_fraction both make validation texts: give one")


# ---- NAME=VALUE ----


def constants_of(method: str) -> dict[str, float]:
    """A method's own constants with their default values."""
    return {name: constant.default for name, constant in METHODS[method].constants.items()}


def parse_pairs(
    flag: str, given: list[str], owner: str, known: dict, types: dict[str, Callable]
) -> dict:
    """
    The NAME=VALUE strings of a flag as a dict.

    known   the owner's names, with their defaults
    types   an argparse type for each name; values without a type stay text
    raises  ValueError for an unknown name, and for a value that does not fit its type
    """
    parsed = {}
    for item in given:
        name, _, text = item.partition("=")
        if name not in known or not text:
            raise ValueError(f"--{flag} {item}: {owner} has {known or 'none'}")
        try:
            parsed[name] = types.get(name, str)(text)
        except (argparse.ArgumentTypeError, ValueError) as error:
            raise ValueError(f"--{flag} {item}: {error}") from error
    return parsed


def parse_constants(method: str, given: list[str]) -> dict[str, float]:
    """All constants of a method, with the values of --constants; ValueError as parse_pairs()."""
    types = {
        name: number(type(c.default), c.lowest, c.highest, c.is_open)
        for name, c in METHODS[method].constants.items()
    }
    known = constants_of(method)
    return known | parse_pairs("constants", given, method, known, types)


def language(text: str) -> str:
    """An argparse type: the language of an augmentation."""
    if text not in ("english", "any"):
        raise argparse.ArgumentTypeError("it is english or any")
    return text


def parse_augment_options(augmentation: str, given: list[str]) -> dict:
    """The values of --augment_options that are not the default; ValueError as parse_pairs()."""
    entry = AUGMENTATIONS[augmentation]
    known, ranges = entry.options, entry.ranges
    types: dict[str, Callable] = {"language": language}
    for name, (low, high) in ranges.items():
        kind = type(known[name])
        types[name] = number(kind, low, high, open_interval=kind is float)
    parsed = parse_pairs("augment_options", given, augmentation, known, types)
    return {name: value for name, value in parsed.items() if value != known[name]}


# ---- a command line as it was typed ----


def by_flag(argv: list[str]) -> dict[str, list[str]]:
    """Groups a command line's words by flag; if a flag is repeated, its last words are kept."""
    flags: dict[str, list[str]] = {}
    name = ""
    for word in argv:
        if word.startswith("--"):
            name = word.partition("=")[0]
            flags.pop(name, None)
        flags.setdefault(name, []).append(word)
    return flags


def last_of_each(argv: list[str]) -> list[str]:
    """The arguments; if a flag is repeated, only its last value is kept."""
    return [word for words in by_flag(argv).values() for word in words]


def typed(argv: list[str]) -> dict[str, list[str]]:
    """
    The values of each flag of main.py on a command line, as they were typed; other words are left
    out. The paths of OF_PATHS become relative to the current folder, because a command that is kept
    or published should not show the folders of a disk.
    """
    flags = {}
    for flag, own in by_flag(argv).items():
        if (name := flag.removeprefix("--")) in BY_NAME:
            values = [word.removeprefix(f"{flag}=") for word in own if word != flag]
            if name in OF_PATHS:
                values = [os.path.relpath(v) if os.path.isabs(v) else v for v in values]
            flags[name] = values
    return flags


def words(flags: dict[str, list[str]]) -> list[str]:
    """These flags as a command line; argparse needs = before a value that begins with -."""
    joined = {
        name: [f"--{name}={value}" for value in values]
        if any(value.startswith("-") for value in values)
        else [f"--{name}", *values]
        for name, values in flags.items()
    }
    return [word for parts in joined.values() for word in parts]

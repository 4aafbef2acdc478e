"""
The command line of main.py: its flags, what they mean together, and the folder of a run.
"""

import argparse
import hashlib
import math
import os
import re
import sys
from enum import Enum
from pathlib import Path

import data
from augment import AUGMENTATIONS
from baselines import GROUPS, METHODS, language_models, titles
from engine.encoders import default_pooling, device
from engine.files import Collect, Parser
from engine.reading import ENDINGS, READ_HELP, read_option
from model import POOLINGS

ENCODER = "bert-base-uncased"

ABLATIONS = {  # Table 4, row by row: what each sets
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


class Role(Enum):
    """
    What a flag is for. All but HOW and HOSTED decide the numbers of a run: they are its settings,
    and those that are not at their default are in its folder's name.
    """

    SHARED = "all runs of a table have the same value"
    TRAINING = "as SHARED; a method without an encoder does not look at it"
    DATA = "all runs of a table on one data set have the same value"
    VARIES = "the runs of a table may differ in it"
    SHARPRECL = "it belongs to SharpReCL"
    LARGE = "it belongs to the large language models"
    LORA = "it belongs to the open ones of them"
    HOSTED = "it belongs to those of a provider, and decides no number"
    HOW = "it says where and how, and decides no number"


def concerns(role: Role, method: str) -> bool:
    """Whether a flag of this role has a meaning for the method."""
    entry = METHODS[method]
    is_hosted = entry.source.startswith("baselines.hosted.")
    return {
        Role.SHARPRECL: entry.group == "ours",
        Role.LARGE: entry.group == "large",
        Role.LORA: entry.group == "large" and not is_hosted,
        Role.HOSTED: is_hosted,
    }.get(role, True)


class Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """--help with the module's docstring as it stands, and every default."""


def make_parser(description: str | None = None) -> argparse.ArgumentParser:
    parser = Parser(description=description, formatter_class=Help, allow_abbrev=False)

    def group(title: str, role: Role = Role.SHARED):
        """Adds flags to a group of --help; each has the group's role or its own."""
        flags = parser.add_argument_group(title)

        def add(name: str, role: Role = role, **options) -> None:
            flags.add_argument(name, **options).role = role

        return add

    positive, share = number(float, 0, open_interval=True), number(float, 0, 1)
    count, size = number(int, 0), number(int, 1)
    most = 10**9  # of a tensor's size: one beyond int64 is no number for torch

    add = group("data (Section 4)")
    add(
        "--dataset",
        Role.VARIES,
        required=True,
        metavar="NAME|PATH",
        help=", ".join(data.DATASETS) + f"; or a file of your own ({ENDINGS}, or these with .gz, "
        ".bz2 or .zip), a folder with train.* and perhaps test.* and validation.* of these, a "
        "folder of datasets' save_to_disk, or hf:NAME[:CONFIG] of the Hugging Face hub",
    )
    add(
        "--ir",
        Role.VARIES,
        type=number(float, 1),
        help="imbalance ratio to build, Eq. (3); None: as it is. An error where the data are too "
        "imbalanced or too small for it",
    )
    add(
        "--profile",
        choices=("exp", "step", "consecutive"),
        default="exp",
        help="the class sizes that --ir gives",
    )
    add(
        "--max_per_class",
        Role.DATA,
        type=size,
        help="before --ir, keep this many training texts a class",
    )
    add(
        "--label_noise",
        Role.VARIES,
        type=share,
        default=0.0,
        help="share of the training labels to flip",
    )
    add(
        "--val_fraction",
        Role.DATA,
        type=number(float, 0, 0.9),
        default=0.0,
        help="share of the training texts held out for validation, of data that bring none",
    )
    add(
        "--val_left_out",
        Role.DATA,
        type=size,
        metavar="N",
        help="up to N validation texts of each class, of those that --ir and --max_per_class leave "
        "out: they have the shares of a balanced test set, and none of its texts",
    )
    add(
        "--test_fraction",
        type=number(float, 0.01, 0.9),
        default=0.2,
        help="share for testing, of own data without a test file",
    )
    add(
        "--data_seed",
        Role.VARIES,
        type=count,
        default=0,
        help="picks subsets, splits, noise and second views",
    )
    add(
        "--data_dir", Role.HOW, default="data", help="where the datasets lie, or go when downloaded"
    )
    add(
        "--text_column",
        action=Collect,
        nargs="+",
        default="text",
        metavar="NAME",
        help="of own data; several are joined, a line each",
    )
    add("--label_column", default="label", metavar="NAME", help="of own data")
    add(
        "--drop_unlabelled",
        action="store_true",
        help="leave out the rows of own data that have a text and no label, and say how many",
    )
    add(
        "--group_column",
        Role.DATA,
        metavar="NAME",
        help="of own data, such as its authors: no group is divided between training, test and "
        "validation texts",
    )
    add("--read", type=read_option, nargs="+", default=[], metavar="NAME=VALUE", help=READ_HELP)
    add(
        "--max_length",
        Role.TRAINING,
        type=number(int, 3, most),
        default=256,
        help="tokens that a text is cut to",
    )
    add(
        "--augment",
        Role.VARIES,
        choices=[*AUGMENTATIONS, "auto"],
        default="word_substitution",
        help=f"makes the second view of a text; {augmentations()}; auto tries all that are "
        "available, and takes the one with the best macro-F1 on held-out training texts",
    )
    add(
        "--augment_options",
        Role.VARIES,
        nargs="+",
        metavar="NAME=VALUE",
        default=[],
        help="other values for its options, as rate=0.2; language=any makes an augmentation for "
        "English treat texts that do not look English",
    )
    add("--check_only", Role.HOW, action="store_true", help="print the data report and stop")

    add = group("method")
    add(
        "--method",
        Role.VARIES,
        choices=list(METHODS),
        default="sharprecl",
        help="; ".join(
            f"{heading}: {', '.join(titles(group))}" for group, heading in GROUPS.items()
        )
        + "; `python -m baselines` shows their constants",
    )
    add(
        "--constants",
        Role.VARIES,
        nargs="+",
        metavar="NAME=VALUE",
        default=[],
        help="other values for the constants of such a method, instead of its paper's",
    )

    add = group(
        "SharpReCL (docs/paper.md lists the defaults that are not the paper's)", Role.SHARPRECL
    )
    add("--tau", type=positive, default=0.5, help="temperature, Eq. (11); the paper: 0.3, 0.5 or 1")
    add("--mu", type=number(float, 0), default=1.0, help="weight of the contrastive loss, Eq. (12)")
    add("--k", type=size, default=20, help="hard samples a class, Eq. (9)")
    add("--n_pos", type=number(int, 0, most), default=10, help="built positives a class")
    add("--n_neg", type=number(int, 0, most), default=500, help="built negatives a class")
    add("--lam", type=positive, default=0.5, help="lambda of Beta(lambda, lambda), Eq. (10)")
    add("--hard_ratio_start", type=share, default=0.5, help="share of mixed samples at first")
    add("--hard_ratio_end", type=share, default=1.0, help="and at the last step")
    add(
        "--positives",
        choices=("mean", "sum"),
        default="mean",
        help="over the positives of an anchor, Eq. (11); sum is its letter",
    )
    add(
        "--cl_weight",
        default="log_prior",
        choices=("log_prior", "log_prior_normalised", "effective_number", "none"),
        help="weight w of an anchor's class, Eq. (11)",
    )
    add(
        "--cl_reduction",
        choices=("weighted_mean", "mean"),
        default="weighted_mean",
        help="over the N anchors, Eq. (11): sum of w L / sum of w, or sum of w L / N, whose size "
        "is that of the weights",
    )
    add("--no_delta_cls", action="store_true", help="no class prior in Eq. (6)")
    add("--no_delta_cl", action="store_true", help="no class weight in Eq. (11)")
    add("--no_mutual_guidance", action="store_true", help="free prototypes instead of proj_h(w)")
    add("--no_cls", action="store_true", help="only the contrastive branch trains the encoder")
    add(
        "--ablation",
        Role.HOW,
        choices=list(ABLATIONS),
        help="a row of Table 4, short for the flags above",
    )
    add(
        "--proj_dim",
        type=number(int, 1, most),
        default=128,
        help="size of the projected texts and prototypes",
    )
    add("--proj_bn", action="store_true", help="batch norm in both heads, as in the authors' code")

    add = group(f"language models ({', '.join(titles('large'))})", Role.LARGE)
    add(
        "--base_model",
        metavar="NAME|FOLDER",
        help="any causal model of Hugging Face; for gpt35 a model of OpenAI, or of the server at "
        "OPENAI_BASE_URL; None: the paper's",
    )
    add(
        "--base_type",
        Role.LORA,
        choices=language_models.BASE_TYPES,
        default="4bit",
        help="how the frozen base is held; 4bit and 8bit need bitsandbytes",
    )
    add(
        "--lora_targets",
        Role.LORA,
        nargs="+",
        metavar="MODULE",
        help="layers that get adapters; None: all linear ones but the last",
    )
    add(
        "--prices",
        Role.HOSTED,
        type=number(float, 0),
        nargs=2,
        metavar=("INPUT", "OUTPUT"),
        help="gpt35: today's dollars for a million tokens, of the server's price list, to estimate "
        "the cost; they change, so there is no default",
    )
    add("--yes", Role.HOSTED, action="store_true", help="gpt35: agree to sending the texts")

    add = group("encoder", Role.TRAINING)
    add(
        "--encoder",
        help=f'a Hugging Face name, a folder, or "minilm"; None: {ENCODER}, and '
        "roberta-base for --method roberta",
    )
    add(
        "--pooling",
        choices=tuple(POOLINGS),
        help="feat is the first token's state, the mean of all or the last one's; None: what a "
        "model of sentence-transformers says of itself, else cls where the encoder's tokenizer "
        "begins a text with [CLS], and mean where it does not (as GPT-2's)",
    )
    add(
        "--prefix",
        default="",
        metavar="TEXT",
        help="is put before each text, as E5, BGE and Nomic want it: --prefix 'query: '",
    )

    add(
        "--freeze_layers",
        type=count,
        default=0,
        metavar="N",
        help="the embeddings and the lowest N layers stay as pretrained: an epoch takes half the "
        "time or less, with a model that is nearly as good",
    )

    add = group("training", Role.TRAINING)
    add("--epochs", type=size, default=30, help="over the training texts")
    add(
        "--eval_every",
        Role.VARIES,
        type=size,
        default=1,
        metavar="N",
        help="evaluate after every N-th epoch and after the last; best_test and best_val are "
        "chosen among the evaluated epochs",
    )
    add("--batch_size", type=size, default=128, help="texts, each in two views")
    add(
        "--micro_batch",
        Role.VARIES,
        type=size,
        help="texts that are in memory at a time; the gradient stays that of the whole batch",
    )
    add("--lr", type=positive, default=5e-5, help="of AdamW")
    add(
        "--head_lr",
        type=positive,
        metavar="LR",
        help="of the classifier and the projection heads; left out, it is --lr",
    )
    add("--weight_decay", type=number(float, 0), default=5e-4, help="not on biases and norms")
    add("--warmup", type=share, default=0.0, help="share of the steps in which the rate rises")
    add(
        "--schedule",
        choices=("constant", "linear", "cosine"),
        default="constant",
        help="of the learning rate",
    )
    add(
        "--patience",
        type=size,
        metavar="N",
        help="stop when N evaluations in a row brought no better validation macro-F1",
    )
    add("--amp", choices=("off", "bf16", "fp16"), default="off", help="mixed precision")
    add(
        "--seed",
        Role.VARIES,
        type=count,
        default=0,
        help="of the network, the batches and the built samples",
    )
    add("--device", Role.HOW, type=device, default="auto", help="auto, cpu, cuda, cuda:1 or mps")

    add = group("results", Role.HOW)
    add("--output_dir", default="runs", help="holds a folder for each run")
    add(
        "--plots",
        action="store_true",
        help="confusion matrix and t-SNE of the test texts (tfidf: no t-SNE)",
    )
    add("--no_weights", action="store_true", help="keep the numbers of the run alone")
    add("--overwrite", action="store_true", help="start anew where there is a result")
    return parser


def augmentations() -> str:
    """The augmentations with what they are good for and their options, for --help."""
    lines = []
    for name, entry in AUGMENTATIONS.items():
        options = " ".join(f"{option}={value}" for option, value in entry.options.items())
        lines.append(f"{name} {entry.good_for}" + (f" ({options})" if options else ""))
    return "; ".join(lines)


def last_of_each(argv: list[str]) -> list[str]:
    """The arguments without what a later value of the same flag replaces."""
    flags: dict[str, list[str]] = {}
    name = ""
    for word in argv:
        if word.startswith("--"):
            name = word.partition("=")[0]
            if name != "--text_column":  # whose values are collected
                flags.pop(name, None)
        flags.setdefault(name, []).append(word)
    return [word for words in flags.values() for word in words]


def parse_args(argv: list[str] | None = None, description: str | None = None) -> argparse.Namespace:
    """
    Returns the arguments, with --ablation and --constants spelled out, encoder and pooling decided.

    raises  InputError where the default pooling needs the encoder's tokenizer, and it is missing
    """
    parser = make_parser(description)
    args = parser.parse_args(argv)
    args.argv = sys.argv[1:] if argv is None else list(argv)
    if isinstance(args.text_column, list) and len(args.text_column) == 1:
        (args.text_column,) = args.text_column  # one name is a string, as the default is
    for name, value in ABLATIONS.get(args.ablation, {}).items():
        if getattr(args, name) not in (value, parser.get_default(name)):
            parser.error(f"--ablation {args.ablation} sets --{name} {value}: leave it out")
        setattr(args, name, value)
    if METHODS[args.method].group != "ours" and args.ablation:
        parser.error(f"--ablation belongs to sharprecl, not to {args.method}")
    check_roles(parser, args)
    if args.augment != parser.get_default("augment") and not METHODS[args.method].has_second_view:
        parser.error(f"--augment makes second views of the texts, and {args.method} has none")
    try:
        args.constants = constants_of(args.method) | parse_constants(args.method, args.constants)
        args.augment_options = parse_augment_options(args.augment, args.augment_options)
    except ValueError as error:
        parser.error(str(error))
    if args.val_left_out is not None:
        if args.ir is None and args.max_per_class is None:
            parser.error(
                "--val_left_out takes what --ir and --max_per_class leave out: give one "
                "of them, or take --val_fraction"
            )
        if args.val_fraction > 0:
            parser.error("--val_left_out and --val_fraction both make validation texts: give one")
    if args.plots and METHODS[args.method].group == "large":
        parser.error(
            f"--plots draws what an encoder makes of the texts, and {args.method} has none"
        )
    if args.base_model is None:
        args.base_model = language_models.MODELS.get(args.method)
    if args.encoder is None:
        args.encoder = METHODS[args.method].encoder or ENCODER
    args.chosen_augment = args.augment  # of --augment auto, engine.auto decides it
    if args.pooling is None:
        args.pooling = pooling_of(args.method, args.encoder)
    return args


def pooling_of(method: str, encoder: str) -> str:
    """The default of --pooling."""
    return default_pooling(encoder) if METHODS[method].has_encoder else "cls"


def check_roles(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """An error for a flag that has no meaning for the method."""
    for flag in flags_of(parser):
        if not concerns(flag.role, args.method) and getattr(args, flag.dest) != parser.get_default(
            flag.dest
        ):
            if flag.role is Role.SHARPRECL:
                own = constants_of(args.method) or "nothing"
                parser.error(
                    f"--{flag.dest} belongs to sharprecl, not to {args.method}; what that "
                    f"has is set by --constants ({own})"
                )
            parser.error(f"--{flag.dest} does not concern {args.method}")


def flags_of(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """All flags but --help."""
    return [action for action in parser._actions if hasattr(action, "role")]


def names_of(*roles: Role) -> tuple[str, ...]:
    """The flags of these roles."""
    return tuple(flag.dest for flag in flags_of(make_parser()) if flag.role in roles)


# ---- a command line as it was typed ----

# Where something lies, and no setting: a run that began with another --encoder is another run.
OF_PATHS = ("dataset", "data_dir", "output_dir")


def typed(argv: list[str]) -> dict[str, list[str]]:
    """
    The values of each flag on a command line, as they were typed, without what is no flag of
    main.py. The paths of OF_PATHS are relative to where we are: how a disk is laid out is nobody's
    business.
    """
    known = {flag.dest: flag for flag in flags_of(make_parser())}
    flags: dict[str, list[str]] = {}
    values: list[str] = []
    for token in argv:
        if not token.startswith("--"):
            values.append(token)
            continue
        name, is_joined, value = token[2:].partition("=")
        values = [value] if is_joined else []
        if name in known:
            before = flags.get(name, []) if known[name].nargs == "+" else []
            values = flags[name] = before + values
    for name in flags.keys() & OF_PATHS:
        flags[name] = [os.path.relpath(v) if os.path.isabs(v) else v for v in flags[name]]
    return flags


def words(flags: dict[str, list[str]]) -> list[str]:
    """These flags as a command line; argparse takes a value that begins with - only after a =."""
    joined = {
        name: [f"--{name}={value}" for value in values]
        if any(value.startswith("-") for value in values)
        else [f"--{name}", *values]
        for name, values in flags.items()
    }
    return [word for parts in joined.values() for word in parts]


def constants_of(method: str) -> dict[str, float]:
    """A method's own constants with their default values."""
    return {name: constant.default for name, constant in METHODS[method].constants.items()}


def parse_constants(method: str, given: list[str]) -> dict[str, float]:
    """NAME=VALUE strings; ValueError for a name that the method lacks or a value out of range."""
    known, parsed = METHODS[method].constants, {}
    for item in given:
        name, _, text = item.partition("=")
        if name not in known:
            raise ValueError(f"--constants {item}: {method} has {constants_of(method) or 'none'}")
        default, *bounds = known[name]
        try:
            parsed[name] = number(type(default), *bounds)(text)
        except argparse.ArgumentTypeError as error:
            raise ValueError(f"--constants {item}: {error}") from error
        except ValueError as error:
            raise ValueError(f"--constants {item}: not {type(default).__name__}") from error
    return parsed


def parse_augment_options(method: str, given: list[str]) -> dict:
    """Reads NAME=VALUE strings into a dict of what is not the default; ValueError as above."""
    known = {} if method == "auto" else AUGMENTATIONS[method].options
    parsed = {}
    for item in given:
        name, _, text = item.partition("=")
        if name not in known or not text:
            raise ValueError(f"--augment_options {item}: {method} has {known or 'none'}")
        try:
            parsed[name] = augment_option(method, name, text)
        except (argparse.ArgumentTypeError, ValueError) as error:
            raise ValueError(f"--augment_options {item}: {error}") from error
    return {name: value for name, value in parsed.items() if value != known[name]}


def augment_option(method: str, name: str, text: str):
    """Reads one value in the range that the augmentation's entry gives; ValueError as above."""
    entry = AUGMENTATIONS[method]
    if name in entry.ranges:
        kind = type(entry.options[name])
        return number(kind, *entry.ranges[name], open_interval=kind is float)(text)
    if name == "language" and text not in ("english", "any"):
        raise ValueError("it is english or any")
    return text


def changed(args: argparse.Namespace) -> dict:
    """What the method does otherwise than by default: its own flags and constants."""
    parser, own = make_parser(), constants_of(args.method)
    default = {"base_model": language_models.MODELS.get(args.method)}
    flags = {
        name: getattr(args, name)
        for name in names_of(Role.SHARPRECL, Role.LARGE, Role.LORA)
        if getattr(args, name) != default.get(name, parser.get_default(name))
    }
    constants = {name: value for name, value in args.constants.items() if value != own[name]}
    return flags | constants | args.augment_options


def model_options(args: argparse.Namespace) -> dict:
    """What the network is made with, beside the encoder and the task."""
    if args.method != "sharprecl":
        return args.constants
    return {
        "proj_dim": args.proj_dim,
        "proj_bn": args.proj_bn,
        "mutual_guidance": not args.no_mutual_guidance,
        "compensated": not args.no_delta_cls,
    }


def run_folder(args: argparse.Namespace) -> Path:
    """
    output_dir/<dataset>_<ir>_<every other setting that is not the default>_<seed>; --check_only
    has a folder of its own, so that it never touches a run's.
    """
    defaults = vars(make_parser().parse_args([f"--dataset={args.dataset}"])) | {
        "encoder": ENCODER,
        "pooling": pooling_of(args.method, args.encoder),
    }
    parts = [Path(args.dataset).stem, "original" if args.ir is None else f"ir{args.ir:g}"]
    own = {
        "dataset",
        "ir",
        "seed",
        "constants",
        "augment_options",
        *names_of(Role.SHARPRECL, Role.LARGE, Role.LORA),
    }  # changed() names the method's own
    others = {
        name: value
        for name, value in settings(args).items()
        if value != defaults[name] and name not in own
    }
    for name, value in (others | changed(args)).items():
        value = "+".join(value) if isinstance(value, list) else value
        value = f"{value:g}" if isinstance(value, float) else Path(str(value)).name
        parts.append(name if value == "True" else f"{name}-{value}")
    name, seed = re.sub(r"[^\w.+-]", "-", "_".join(parts)), f"seed{args.seed}"
    if len(name.encode()) > 180:  # a file name has 255 bytes; the digest keeps settings apart
        name = name[:40] + "-" + hashlib.sha256(name.encode()).hexdigest()[:16]
    return Path(args.output_dir) / f"{name}_{'check' if args.check_only else seed}"


def settings(args: argparse.Namespace) -> dict:
    """The arguments that decide the numbers of this method."""
    values = {
        flag.dest: getattr(args, flag.dest)
        for flag in flags_of(make_parser())
        if flag.role not in (Role.HOW, Role.HOSTED) and concerns(flag.role, args.method)
    }
    for name in (
        "augment_options",
        "head_lr",
        "prefix",
        "read",
        "group_column",
    ):  # younger than the others: where they are left
        if not getattr(args, name):  # out, a run is the same as before there was the flag
            values.pop(name, None)
    return values | {"dataset": Path(args.dataset).name}  # the data's hash says which file it is

"""
One finished run as one HTML page that needs no network: python report.py RUN_DIR

The functions here gather what the page says; templates/page.html says it, and templates/page.css
decides how it looks.
"""

import csv
import json
import math
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup, escape
from scipy.stats import binomtest
from sklearn.metrics import precision_recall_fscore_support

from baselines import METHODS
from data import DATASETS
from engine import files, results
from engine.arguments import ENCODER, Role, names_of, typed, words
from engine.data_report import LEAKS
from engine.escape import shell
from engine.metrics import calibration_error, metrics, rarest_third
from reporting import figures
from reporting.runs import damaged
from reporting.signs import SIGNS, History, Sign, evaluated

GOOD, FAIR = 80, 60  # macro-F1 from which the page says yes, and partly
FEW_TESTS = 10  # a number that rests on fewer test texts of a class is a rough one
MOST_ERRORS = 20
MOST_PAIRS, MOST_EXAMPLES = 12, 3
MOST_ACTIONS = 3
LARGEST_MATRIX, MOST_CONFUSED = 30, 20  # classes of a confusion matrix; of more, only the worst
SURE = 95  # accuracy from which the page proposes a threshold for predict.py --abstain
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


# ---- the run ----


@dataclass(frozen=True)
class Scored:
    """Test texts with their labels and predictions, which the sections on classes show."""

    classes: list[dict]  # label, train and test, in the order of the class numbers
    test: pd.DataFrame  # as of_texts() has them; of a run: of the epoch whose model is kept

    @property
    def names(self) -> list[str]:
        return [row["label"] for row in self.classes]

    @property
    def answers(self) -> list[str]:
        """What a text can be taken for: a language model may name no class."""
        return [*self.names, results.UNKNOWN]

    @property
    def counts(self) -> np.ndarray:
        """Training texts of each class, (C,)."""
        return np.array([row["train"] for row in self.classes])

    @property
    def is_tested(self) -> bool:
        """Whether there are test texts: --test_fraction 0 trains on all texts."""
        return len(self.test) > 0


@dataclass(frozen=True)
class Run(Scored):
    folder: Path
    result: dict  # result.json
    recorded: dict  # args.json
    history: History
    summary: dict  # data_report.json
    validation: pd.DataFrame | None  # calibrated where a model is kept; None without such texts
    about: dict | None  # sharprecl.json of the kept model; None if none is kept

    @property
    def settings(self) -> dict:
        return self.result["settings"]

    @property
    def holds_out(self) -> bool:
        """Whether the run had validation texts."""
        return "best_val" in self.result

    @property
    def leaks(self) -> list[tuple[str, str, int, int]]:
        """Of LEAKS those that there are: part, other part, how many of how many texts."""
        return [
            (part, other, self.summary[leak], self.summary["test" if part == "test" else "val"])
            for leak, (part, other) in LEAKS.items()
            if self.summary.get(leak)
        ]

    def is_clean(self, leak: str) -> bool:
        """Whether there is none of this leak; False where the run's version did not look for it."""
        return self.summary.get(leak) == 0

    @property
    def method(self) -> str:
        return self.settings["method"]


def of_texts(rows: Iterable[dict], names: list[str]) -> pd.DataFrame:
    """
    The rows of predictions.csv or validation.csv, or what predict.py --score got: text, label and
    predicted (numbers of the classes; C where a language model names no class), probability (of the
    prediction, from 0 to 1), and is_right.
    """
    number = {results.UNKNOWN: len(names)} | {name: i for i, name in enumerate(names)}
    found = [
        (row["text"], number[row["label"]], number[row["prediction"]], float(row["probability"]))
        for row in rows
    ]
    texts = pd.DataFrame(found, columns=["text", "label", "predicted", "probability"])
    return texts.assign(is_right=texts.label == texts.predicted)


def read_run(folder: Path) -> Run:
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    summary, result = (
        files.read_json(folder / f"{name}.json") for name in ("data_report", "result")
    )
    names = [row["label"] for row in summary["classes"]]
    validation, about = folder / "validation.csv", folder / "model" / "sharprecl.json"
    has_test = "macro_f1" in result["last"]  # else --test_fraction 0
    return Run(
        summary["classes"],
        of_texts(results.csv_rows(folder / "predictions.csv") if has_test else [], names),
        Path(os.path.abspath(folder)),
        result,
        files.read_json(folder / "args.json"),
        [record for record in map(json.loads, lines) if record["epoch"] >= 0],  # else an error
        summary,
        of_texts(results.csv_rows(validation), names) if validation.exists() else None,
        files.read_json(about) if about.exists() else None,
    )


# ---- commands to paste ----

# A method without an encoder is not concerned by these, beside the flags of other methods.
OF_ENCODERS = (*names_of(Role.TRAINING), "micro_batch", "eval_every")
SHARPRECL = names_of(Role.SHARPRECL)
OF_ONE_METHOD = (
    *SHARPRECL,
    *names_of(Role.LARGE, Role.LORA, Role.HOSTED),
    "ablation",
    "constants",
    "augment",
    "augment_options",
)


def flags_of(run: Run) -> dict[str, list[str]]:
    """
    The flags that the run was started with, each with its values. args.json may be a stranger's:
    nothing of it but flags that main.py has comes into a command.
    """
    flags = typed(run.recorded["command"][1:])
    return {"dataset": flags["dataset"]} | flags  # KeyError: it is no command of a run


def shown(value) -> str:
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def main_command(run: Run, without: tuple[str, ...] = (), **changes) -> str:
    """
    The run's own command with other values of these flags; True stands for a flag alone. What it
    makes lies beside this run, and money is not spent without a question.
    """
    beside = os.path.relpath(run.folder.parent)
    flags = flags_of(run) | ({} if beside == "runs" else {"output_dir": [beside]})
    for name in ("overwrite", "plots", "yes", *without, *changes):
        flags.pop(name, None)
    flags |= {name: [] if value is True else [shown(value)] for name, value in changes.items()}
    return shell(["python", "main.py", *words(flags)])


def method_command(run: Run, method: str) -> str:
    """The command for another method on the same data, with that method's own defaults."""
    entry, own, flags = METHODS[method], METHODS[run.method], flags_of(run)
    if not entry.has_encoder:
        return main_command(run, (*OF_ONE_METHOD, *OF_ENCODERS, "no_weights"), method=method)
    changes = {"method": method}
    encoder = run.settings["encoder"] if own.has_encoder else "minilm"  # a small one, to begin with
    if "encoder" not in flags and encoder != (entry.encoder or ENCODER):
        changes["encoder"] = encoder
    if entry.has_second_view and flags["dataset"][0] not in DATASETS:
        changes["augment"] = "none"  # the default is for English, which nobody has looked at
    return main_command(run, OF_ONE_METHOD, **changes)


def predict_command(run: Run, *more: str) -> str:
    folder = os.path.relpath(run.folder)
    folder = f"./{folder}" if folder.startswith("-") else folder
    return shell(["python", "predict.py", folder, *more])


# ---- in short: is it good, where is it not, what to do next ----


def tfidf_beside(run: Run) -> float | None:
    """Macro-F1 of a TF-IDF run on the same texts in the same --output_dir, if there is one."""
    for path in sorted(run.folder.parent.glob("*/result.json")):
        try:
            other = json.loads(path.read_text(encoding="utf-8"))
            if (
                other["settings"]["method"] == "tfidf"
                and other["data_hash"] == run.result["data_hash"]
            ):
                return other["last"]["macro_f1"]
        except (OSError, ValueError, KeyError, TypeError):
            continue  # another run's damage is told where that run is looked at
    return None


def in_short(run: Run) -> dict:
    """The three numbers, and what they are compared with; all are of predictions.csv."""
    found, labels = numbers(run), run.test.label.to_numpy()
    frequent = int(run.counts.argmax())
    guessed = metrics(labels, np.full(len(labels), frequent), run.counts)
    kept = run.result.get("best_val", run.result["last"])  # the epoch of predictions.csv
    without_leaked = kept.get("without_leaked")
    tfidf = tfidf_beside(run) if run.method != "tfidf" else None
    judged = (without_leaked or found)["macro_f1"]
    return found | {
        "verdict": verdict(found["macro_f1"], judged, guessed["macro_f1"], tfidf),
        "without_leaked": without_leaked,
        "right": int(run.test.is_right.sum()),
        "frequent": run.names[frequent],
        "guessed": guessed,
        "tfidf": tfidf,
    }


def numbers(scored: Scored) -> dict:
    """Accuracy, macro-F1 and F1 of the rarest third, with what they rest on."""
    labels, counts = scored.test.label.to_numpy(), scored.counts
    found = metrics(labels, scored.test.predicted.to_numpy(), counts)
    tested = np.unique(labels).tolist()
    rarest = rarest_third(tested, counts.tolist())
    right = binomtest(int(scored.test.is_right.sum()), len(labels))
    low, high = right.proportion_ci(method="wilson")
    return {
        "macro_f1": found["macro_f1"],
        "accuracy": found["accuracy"],
        "without_leaked": None,
        "rare_f1": float(np.mean([found["f1"][label] for label in rarest])),
        "rarest": [scored.names[label] for label in rarest],
        "rarest_tests": int(np.isin(labels, rarest).sum()),
        "tested": len(tested),
        "total": len(labels),
        "chance": 50 * (high - low),
        "groups": found["groups"],
        "never": [scored.names[label] for label in found["never_predicted"]],
    }


def verdict(macro_f1: float, judged: float | None, guessed: float, tfidf: float | None) -> str:
    """
    Whether macro-F1 is good. judged is that of the texts that do not stand in the training part,
    None where all do; guessed that of always answering the most frequent class.
    """
    if judged is None:
        return "unknown"
    if macro_f1 < guessed + 5:
        return "no"
    if tfidf is not None and tfidf > macro_f1:
        return "beaten"
    return "yes" if judged >= GOOD else "partly" if judged >= FAIR else "not yet"


def still_rises(run: Run) -> bool:
    """Whether the last epoch is the best one by far, so that more epochs may well be better."""
    part = "val" if evaluated(run.history, "val") else "test"
    scores = [record[part]["macro_f1"] for record in evaluated(run.history, part)]
    return len(scores) > 1 and scores[-1] > max(scores[:-1]) + 1


class Action(NamedTuple):
    reason: str  # prose with flags in backticks
    command: str


def can_try(run: Run, name: str, value) -> bool:
    """Whether this value of a flag is another one than the run's, and its method takes it."""
    is_ours = run.method == "sharprecl" and "ablation" not in flags_of(run)  # which sets such flags
    can_hold_out = not run.holds_out and run.counts.max() >= 10  # a tenth of the largest class
    return (
        (name not in SHARPRECL or is_ours)
        and (name not in OF_ENCODERS or METHODS[run.method].has_encoder)
        and (name != "schedule" or run.method != "hybrid_sc")  # it needs a constant rate
        and (name != "val_fraction" or can_hold_out)
        and shown(run.settings.get(name)) != shown(value)
    )


def advice(run: Run, sign: Sign) -> str:
    """Of the sign's advice the sentences whose flags this run can try."""
    return " ".join(
        sentence
        for sentence in re.split(r"(?<=\.) ", sign.advice)
        if all(
            can_try(run, name, float(value) if re.fullmatch(r"[0-9.e-]+", value) else value)
            for name, value in re.findall(r"--(\w+) ([^ `]+)", sentence)
        )
    )


def remedies(run: Run) -> Iterator[Action]:
    """What the signs that are seen suggest: of each sign the first remedy that this run allows."""
    taken = set()
    for item in judged_signs(run):
        remedies = item["sign"].remedies if item["seen"] else ()
        changes = (change for remedy in remedies for change in remedy(run.settings).items())
        for name, new in changes:
            if name not in taken and can_try(run, name, new):
                taken.add(name)
                said = f"{item['sign'].failure}: {item['sign'].sentence.format(item['value'])}"
                is_method = name == "method"
                yield Action(
                    f"{said} Try `--{name} {shown(new)}`.",
                    method_command(run, new) if is_method else main_command(run, **{name: new}),
                )
                break


def further(run: Run, short: dict, rows: list[dict]) -> Iterator[Action]:
    """What is worth doing whatever the signs say."""
    if run.method == "tfidf":
        reason = "Compare with SharpReCL, whose encoder knows what words mean."
        yield Action(reason, method_command(run, "sharprecl"))
    elif short["tfidf"] is None:
        yield Action(
            "Find out what a simple method reaches on the same texts: TF-IDF with a linear SVM "
            "takes seconds for 10,000 short texts, minutes for 300,000. Then make this page again.",
            method_command(run, "tfidf"),
        )
    weak = [row for row in rows if row["f1"] is not None and row["f1"] < FAIR and row["train"] < 20]
    if weak and run.about is not None:
        yield Action(
            f"An F1 below {FAIR} and fewer than 20 training texts: this holds for {len(weak)} "
            f"of the {len(rows)} classes. Let the model look for more such texts: classify texts "
            "without a label, and check by hand those that it takes for one of these classes.",
            predict_command(run, "unlabelled.csv", "--output", "found.csv"),
        )
    if can_try(run, "val_fraction", 0.1):
        yield Action(
            "Hold out validation texts, so that the best epoch is kept and the probabilities can "
            "be checked and calibrated.",
            main_command(run, val_fraction=0.1),
        )
    if run.method == "probe":  # it draws nothing, as tfidf
        reason = "Train the encoder, too, which the probe leaves as it is."
        yield Action(reason, method_command(run, "sharprecl"))
    elif run.method != "tfidf":
        reason = "Repeat the run with another seed, to see how much of these numbers is chance."
        yield Action(reason, main_command(run, seed=run.settings["seed"] + 1))


def actions(run: Run, short: dict, rows: list[dict]) -> list[Action]:
    """The two or three things that are most worth doing next, the first one first."""
    found = list(remedies(run))[:2]
    is_trained = "loss" in run.history[-1] and METHODS[run.method].has_encoder
    if is_trained and still_rises(run) and not any("--epochs" in action.reason for action in found):
        reason = "Macro-F1 still rose in the last epoch: train for longer."
        found.insert(0, Action(reason, main_command(run, epochs=2 * run.settings["epochs"])))
    found += further(run, short, rows)
    if short["verdict"] not in ("yes", "partly") or run.about is None:
        return found[:MOST_ACTIONS]
    return [*found[: MOST_ACTIONS - 1], use(run)]


def use(run: Run) -> Action:
    command = predict_command(run, "new.csv", "--output", "labelled.csv")
    return Action("Use it on your texts.", command)


def untested(run: Run) -> list[Action]:
    """What to do with a run that was trained on all texts."""
    reason = "Score it on texts with labels that it has not learned from."
    scored = Action(reason, predict_command(run, "labelled.csv", "--score"))
    return [scored, use(run)] if run.about is not None else []


# ---- the sections below ----


def class_rows(run: Scored) -> list[dict]:
    """What the page says of each class, in the order of the class numbers."""
    texts, counts = run.test, run.counts
    precision, recall, f1, _ = precision_recall_fscore_support(
        texts.label, texts.predicted, labels=range(len(counts)), zero_division=0
    )
    given = np.bincount(texts.predicted, minlength=len(counts))
    return [
        row
        | {
            "share": 100 * row["train"] / counts.sum(),
            "f1": 100 * f1[label] if row["test"] else None,
            "recall": 100 * recall[label] if row["test"] else None,
            "precision": 100 * precision[label] if given[label] else None,
            "is_rough": 0 < row["test"] < FEW_TESTS,
        }
        for label, row in enumerate(run.classes)
    ]


def class_figure(run: Scored, rows: list[dict]) -> Markup:
    f1 = np.array([math.nan if row["f1"] is None else row["f1"] for row in rows])
    tested = np.array([row["test"] for row in rows])
    figure = figures.f1_by_size(run.counts, f1, tested, run.names, FEW_TESTS)
    return drawn(figure, "F1 of each class by its training texts")


def drawn(figure, title: str) -> Markup:
    """The figure as markup; its letters are escaped already."""
    return Markup(figures.svg(figure, title))


CURVES = {  # the title of each panel, its lines, and where they stand in an epoch's record
    "Training loss": {"classification": "loss_cls", "contrastive": "loss_cl"},
    "Macro-F1 and accuracy, %": {
        "macro-F1, test": "test.macro_f1",
        "accuracy, test": "test.accuracy",
        "macro-F1, validation": "val.macro_f1",
    },
    "Macro-F1 by training texts of a class, %": {
        "many (above 100)": "test.groups.many.macro_f1",
        "medium (20 to 100)": "test.groups.medium.macro_f1",
        "few (below 20)": "test.groups.few.macro_f1",
    },
    "Cosine to the prototype": {
        "its class": "diagnostics.prototype_cosine",
        "the lowest class": "diagnostics.prototype_cosine_min",
        "mixed positives": "diagnostics.mixed_to_prototype_pos",
        "mixed negatives": "diagnostics.mixed_to_prototype_neg",
    },
}


def best_epoch(run: Run) -> tuple[int, str] | None:
    """The best epoch, and by which texts it is the best; None where nothing was evaluated."""
    for part, texts in (("best_val", "validation"), ("best_test", "test")):
        if "epoch" in run.result.get(part, {}) and (run.is_tested or part == "best_val"):
            return run.result[part]["epoch"], f"best epoch ({texts})"
    return None


def learning_curves(run: Run) -> list[Markup]:
    if len(run.history) < 2:
        return []
    panels = {
        title: figures.curves(run.history, title, lines, best_epoch(run))
        for title, lines in CURVES.items()
    }
    return [drawn(figure, f"Epoch by epoch: {title}") for title, figure in panels.items() if figure]


def examples(run: Scored, texts: pd.DataFrame, most: int) -> list[dict]:
    """Of these test texts the ones with the most certain predictions, the most certain first."""
    certain = texts.sort_values("probability", ascending=False, kind="stable")[:most]
    return [
        {
            "text": row.text,
            "label": run.names[row.label],
            "prediction": run.answers[row.predicted],
            "percent": 100 * row.probability,
        }
        for row in certain.itertuples()
    ]


def confused_pairs(run: Scored) -> list[dict]:
    """The errors by true class and prediction, the most frequent pair first, with examples."""
    size = np.bincount(run.test.label, minlength=len(run.names))
    wrong = run.test[~run.test.is_right]
    pairs = [
        {
            "label": run.names[label],
            "prediction": run.answers[predicted],
            "errors": len(texts),
            "texts": int(size[label]),
            "examples": examples(run, texts, MOST_EXAMPLES),
        }
        for (label, predicted), texts in wrong.groupby(["label", "predicted"], sort=False)
    ]
    return sorted(pairs, key=lambda pair: -pair["errors"])


def confusion(run: Scored) -> Markup:
    """The matrix of all classes, or of those in most errors, with all others as one class."""
    names = run.answers if (run.test.predicted == len(run.names)).any() else run.names
    numbers = run.test[["label", "predicted"]].to_numpy()  # (n, 2)
    if len(run.names) > LARGEST_MATRIX:
        errors = np.bincount(numbers[~run.test.is_right].ravel(), minlength=len(names))
        shown = np.sort(np.argsort(-errors, kind="stable")[:MOST_CONFUSED])
        position = np.full(len(names), len(shown))
        position[shown] = range(len(shown))
        numbers = position[numbers]
        names = [*(names[label] for label in shown), "(all other classes)"]
    labels, predicted = numbers.T
    figure = figures.confusion_matrix(labels, predicted, names)
    return drawn(figure, "Confusion matrix of the test texts")


def probabilities(run: Run) -> dict:
    """How far the probabilities can be believed, on the validation texts or else the test texts."""
    part = run.test if run.validation is None else run.validation
    probability, is_right = part.probability.to_numpy(), part.is_right.to_numpy()
    above = {threshold: part[probability >= threshold].is_right for threshold in THRESHOLDS}
    thresholds: list[dict] = [
        {
            "threshold": threshold,
            "texts": len(kept),
            "share": 100 * (len(kept) / len(part)),
            "accuracy": 100 * kept.mean() if len(kept) else None,
        }
        for threshold, kept in above.items()
    ]
    fit = (run.about or {}).get("calibration")
    helps = fit is not None and not fit.get("why_not") and fit["ece_after"] < fit["ece_before"]
    # a model without a "coverage" is of a version whose predict.py does not abstain
    sure = [row for row in thresholds if row["texts"] >= FEW_TESTS and row["accuracy"] >= SURE]
    can_abstain = run.validation is not None and fit is not None and "coverage" in fit
    return {
        "is_validation": run.validation is not None,
        "texts": len(part),
        "mean": 100 * probability.mean(),
        "accuracy": 100 * is_right.mean(),
        "error": calibration_error(probability, is_right, bins=10),
        "fit": fit,
        "helps": helps,
        "thresholds": thresholds,
        "calibrated": predict_command(run, "new.csv", "--calibrated", "--output", "labelled.csv"),
        "sure": sure[0] if sure and can_abstain else None,
        "figures": [
            drawn(figures.reliability(probability, is_right), "Reliability diagram"),
            drawn(figures.coverage(probability, is_right), "Accuracy against coverage"),
        ],
    }


def tsne(run: Run) -> dict:
    """The figure, or why there is none and which command adds it."""
    if run.method == "tfidf":
        return {"why": "TF-IDF has no encoder, and so no embeddings to draw."}
    if not METHODS[run.method].has_encoder:
        return {"why": "A language model answers; it has no embeddings to draw."}
    if not (run.folder / "tsne.csv").exists():
        why, is_anew = "It is not drawn yet. This command", run.about is None
        if is_anew:
            why = (
                "It is not drawn, and the weights were not kept. This command trains once more and"
            )
        changes: dict[str, Any] = {"overwrite": True} if is_anew else {}
        said = f"{why} adds it; then make this page again."
        return {"why": said, "command": main_command(run, ("no_weights",), plots=True, **changes)}
    points, prototypes = (
        figures.read_points(run.folder / name) for name in ("tsne.csv", "tsne_prototypes.csv")
    )
    if not points:
        return {"why": "There are fewer than 10 different test texts to draw."}
    figure = figures.draw_tsne(points, prototypes, run.names)
    return {"figure": drawn(figure, "t-SNE of the test texts"), "prototypes": bool(prototypes)}


def judged_signs(run: Run) -> list[dict]:
    """Each of SIGNS, with its value, or None where the run does not measure it."""
    found = []
    for sign in SIGNS:
        value = sign.measure(run.history)
        seen = value is not None and sign.is_seen(value)
        found.append({"sign": sign, "value": value, "seen": seen, "advice": advice(run, sign)})
    return found


# ---- the page ----


def prose(text: str) -> Markup:
    """Escaped, with what stands in backticks as code."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def shorten(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[:longest] + "…"


def number(value: float | int | None) -> str:
    """With one decimal, a count with commas, and a dash where there is nothing to count."""
    return "–" if value is None else format(value, "," if isinstance(value, int) else ".1f")


def of_classes(scored: Scored) -> dict:
    """The values of templates/classes.html: the sections on the classes and on the errors."""
    rows, wrong = class_rows(scored), scored.test[~scored.test.is_right]
    return {
        "run": scored,
        "few": FEW_TESTS,
        "rows": sorted(rows, key=lambda row: -row["train"]),
        "class_figure": class_figure(scored, rows),
        "pairs": confused_pairs(scored),
        "most_pairs": MOST_PAIRS,
        "confusion": confusion(scored),
        "is_matrix_whole": len(scored.names) <= LARGEST_MATRIX,
        "most_confused": MOST_CONFUSED,
        "errors": examples(scored, wrong, MOST_ERRORS),
        "wrong": len(wrong),
    }


def of_test(run: Run) -> dict:
    """The values of the sections that need test texts."""
    values, short = of_classes(run), in_short(run)
    rows = values["rows"]
    below = [row for row in rows if row["f1"] is not None and row["f1"] < short["macro_f1"]]
    return values | {
        "short": short,
        "actions": actions(run, short, rows),
        "worst": sorted(below, key=lambda row: row["f1"])[:3],
        "probabilities": probabilities(run),
        "tsne": tsne(run),
        "protocols": [
            (meaning, run.result[name])
            for name, meaning in results.PROTOCOLS.items()
            if name in run.result
        ],
    }


def render(run: Run) -> str:
    settings = run.settings
    ir = "" if settings["ir"] is None else f", ir {settings['ir']:g}"
    values = {
        "run": run,
        "title": f"{settings['dataset']}{ir}: {run.method}, seed {settings['seed']}",
        "good": GOOD,
        "fair": FAIR,
        "epoch": run.result.get("kept_epoch", run.result["last"]["epoch"]),
        "curves": learning_curves(run),
        "best": best_epoch(run),
        "predict_command": predict_command,
        "signs": judged_signs(run),
        "command": shell(["python", "main.py", *words(flags_of(run))]),
    }
    values |= of_test(run) if run.is_tested else {"actions": untested(run)}
    return template("page.html").render(values)


def template(name: str) -> jinja2.Template:
    """A template of this folder, which escapes what it is given."""
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {"prose": prose, "shorten": shorten, "number": number}
    return templates.get_template(name)


OF_DAMAGE = (FileNotFoundError, LookupError, ValueError, TypeError, AttributeError, csv.Error)


def write(folder: Path, path: Path) -> None:
    """
    Writes the page of the finished run in this folder. InputError where a file of the run is
    absent, damaged, or not as main.py writes it today.
    """
    try:
        page = render(read_run(folder))
    except (*OF_DAMAGE, jinja2.UndefinedError) as error:
        raise damaged(folder, error) from error
    files.write_text(path, page)

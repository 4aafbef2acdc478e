"""
One finished run as one HTML page that needs no network: python report.py RUN_DIR

The functions here compute the values of the page; templates/page.html has its text, and
templates/page.css its style.
"""

import csv
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup, escape
from scipy.stats import binomtest
from sklearn.metrics import precision_recall_fscore_support

from baselines import METHODS
from data import DATASETS
from engine import files, results
from engine.arguments import Role, names_of, typed, words
from engine.data_report import LEAKS
from engine.escape import shell
from engine.metrics import calibration_error, metrics, rarest_third
from reporting import figures
from reporting.runs import damaged
from reporting.signs import SIGNS, History, development

GOOD, FAIR = 80, 60  # macro-F1 from which the page says yes, and partly
FEW_TESTS = 10  # a number from fewer test texts of a class is uncertain
MOST_ERRORS = 20
MOST_PAIRS, MOST_EXAMPLES = 12, 3
MOST_ACTIONS = 3
SURE = 95  # accuracy from which the page proposes a threshold for predict.py --abstain
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


# ---- the run ----


@dataclass(frozen=True)
class Scored:
    """Test texts with their labels and predictions, for the sections on classes."""

    classes: pd.DataFrame  # label, train and test, in the order of the class numbers
    test: pd.DataFrame  # from of_texts(); for a run, at the epoch whose model is kept

    @property
    def answers(self) -> list[str]:
        """The possible answers, including UNKNOWN, because a language model may name no class."""
        return [*self.classes.label, results.UNKNOWN]

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
    validation: pd.DataFrame | None  # calibrated if a model is kept; None without such texts
    about: dict | None  # sharprecl.json of the kept model; None if none is kept

    @property
    def settings(self) -> dict:
        return self.result["settings"]

    @property
    def method(self) -> str:
        return self.settings["method"]


def of_texts(rows: Iterable[dict], names: Iterable[str]) -> pd.DataFrame:
    """
    The rows of predictions.csv or validation.csv, or of predict.py --score: text, label,
    prediction, their numbers `true` and `predicted` (C if a language model names no class),
    probability (of the prediction, from 0 to 1), and is_right.
    """
    number = {name: i for i, name in enumerate([*names, results.UNKNOWN])}
    columns = ["text", "label", "prediction", "probability"]
    texts = pd.DataFrame([[row[name] for name in columns] for row in rows], columns=columns)
    return texts.assign(
        probability=texts.probability.astype(float),
        true=[number[label] for label in texts.label],
        predicted=[number[label] for label in texts.prediction],
        is_right=texts.label == texts.prediction,
    )


def read_run(folder: Path) -> Run:
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    summary, result, recorded = (
        files.read_json(folder / f"{name}.json") for name in ("data_report", "result", "args")
    )
    classes = pd.DataFrame(summary["classes"])[["label", "train", "test"]]
    validation, about = folder / "validation.csv", folder / "model" / "sharprecl.json"
    has_test = "macro_f1" in result["last"]  # else --test_fraction 0
    rows = results.csv_rows(folder / "predictions.csv") if has_test else []
    return Run(
        classes,
        of_texts(rows, classes.label),
        Path(os.path.abspath(folder)),
        result,
        recorded,
        [record for record in map(json.loads, lines) if record["epoch"] >= 0],  # else an error
        summary,
        of_texts(results.csv_rows(validation), classes.label) if validation.exists() else None,
        files.read_json(about) if about.exists() else None,
    )


# ---- commands to paste ----

# These flags do not affect a method without an encoder.
OF_ENCODERS = (*names_of(Role.TRAINING), "micro_batch", "eval_every")
OF_ONE_METHOD = (
    *names_of(Role.SHARPRECL, Role.LARGE, Role.LORA, Role.HOSTED),
    *("ablation", "constants", "augment", "augment_options"),
)


def flags_of(run: Run) -> dict[str, list[str]]:
    """
    The flags that the run was started with, each with its values. args.json may come from anybody,
    so only flags of main.py go into a command.
    """
    flags = typed(run.recorded["command"][1:])
    return {"dataset": flags["dataset"]} | flags  # KeyError: it is no command of a run


def main_command(run: Run, *without: str, **changes) -> str:
    """
    The run's command with other values of these flags; True means a flag without a value. The new
    run is put beside this one, and --yes is left out, so that it asks before it spends money.
    """
    beside = os.path.relpath(run.folder.parent)
    flags = flags_of(run) | ({} if beside == "runs" else {"output_dir": [beside]})
    for name in ("overwrite", "plots", "yes", *without, *changes):
        flags.pop(name, None)
    flags |= {name: [] if value is True else [str(value)] for name, value in changes.items()}
    return shell(["python", "main.py", *words(flags)])


def method_command(run: Run, method: str) -> str:
    """The command for another method on the same data, with that method's own defaults."""
    entry, changes = METHODS[method], {"method": method}
    if not entry.has_encoder:
        return main_command(run, *OF_ONE_METHOD, *OF_ENCODERS, "no_weights", **changes)
    has_own = METHODS[run.method].has_encoder
    changes["encoder"] = run.settings["encoder"] if has_own else "minilm"  # small, to begin with
    if entry.has_second_view and flags_of(run)["dataset"][0] not in DATASETS:
        changes["augment"] = "none"  # the default is for English, and these texts may not be
    return main_command(run, *OF_ONE_METHOD, **changes)


def predict_command(run: Run, *more: str) -> str:
    return shell(["python", "predict.py", os.path.relpath(run.folder), *more])


# ---- in short: is it good, where is it not, what to do next ----


def tfidf_beside(run: Run) -> float | None:
    """Macro-F1 of a TF-IDF run on the same texts in the same --output_dir, if there is one."""
    for path in sorted(run.folder.parent.glob("*/result.json")):
        try:
            other = json.loads(path.read_text(encoding="utf-8"))
            is_same = other["data_hash"] == run.result["data_hash"]
            if is_same and other["settings"]["method"] == "tfidf":
                return other["last"]["macro_f1"]
        except (OSError, ValueError, KeyError, TypeError):
            continue  # the page of a damaged run reports the damage
    return None


def numbers(scored: Scored) -> dict:
    """Accuracy, macro-F1 and F1 of the rarest third, with the numbers of texts and classes."""
    labels, counts = scored.test.true.to_numpy(), scored.classes.train.to_numpy()
    found = metrics(labels, scored.test.predicted.to_numpy(), counts)
    tested = np.unique(labels).tolist()
    rarest = rarest_third(tested, counts.tolist())
    right, total = int(scored.test.is_right.sum()), len(labels)
    low, high = binomtest(right, total).proportion_ci(method="wilson")
    return found | {
        "without_leaked": None,
        "rare_f1": np.mean([found["f1"][label] for label in rarest]),
        "rarest": len(rarest),
        "rarest_tests": int(np.isin(labels, rarest).sum()),
        "tested": len(tested),
        "right": right,
        "total": total,
        "chance": 50 * (high - low),
        "never": [scored.answers[label] for label in found["never_predicted"]],
    }


def in_short(run: Run) -> dict:
    """The three numbers from predictions.csv, and those that they are compared with."""
    labels, counts = run.test.true.to_numpy(), run.classes.train.to_numpy()
    frequent = int(counts.argmax())
    kept = run.result.get("best_val", run.result["last"])  # the epoch of predictions.csv
    short = numbers(run) | {
        "without_leaked": kept.get("without_leaked"),
        "frequent": run.answers[frequent],
        "guessed": metrics(labels, np.full(len(labels), frequent), counts),
        "tfidf": tfidf_beside(run) if run.method != "tfidf" else None,
    }
    return short | {"verdict": verdict(short)}


def verdict(short: dict) -> str:
    """Whether macro-F1 is good, on the texts that are not in the training part."""
    macro_f1, judged = short["macro_f1"], (short["without_leaked"] or short)["macro_f1"]
    if judged is None:
        return "unknown"
    if macro_f1 < short["guessed"]["macro_f1"] + 5:
        return "no"
    if short["tfidf"] is not None and short["tfidf"] > macro_f1:
        return "beaten"
    return "yes" if judged >= GOOD else "partly" if judged >= FAIR else "not yet"


class Action(NamedTuple):
    kind: str  # of the reasons in templates/page.html
    command: str = ""
    said: str = ""  # the subject of the reason


def still_rises(run: Run) -> bool:
    """Whether the last epoch is clearly the best one, so that more epochs may help."""
    scores = development(run.history)
    is_trained = "loss" in run.history[-1] and METHODS[run.method].has_encoder
    return is_trained and len(scores) > 1 and scores.iloc[-1] > scores.iloc[:-1].max() + 1


def actions(run: Run, short: dict, rows: pd.DataFrame) -> list[Action]:
    """The two or three most useful next steps, the most useful one first."""
    found = []
    if seen := [item["sign"].failure for item in judged_signs(run) if item["seen"]]:
        found.append(Action("sign", said=", ".join(seen)))
    if still_rises(run):
        found.append(Action("longer", main_command(run, epochs=2 * run.settings["epochs"])))
    if run.method != "tfidf" and short["tfidf"] is None:
        found.append(Action("simple", method_command(run, "tfidf")))
    weak = int(((rows.f1 < FAIR) & (rows.train < 20)).sum())
    if weak and run.about is not None:
        command = predict_command(run, "unlabelled.csv", "--output", "found.csv")
        found.append(Action("weak", command, f"{weak} of the {len(rows)} classes"))
    if "best_val" not in run.result and run.classes.train.max() >= 10:
        found.append(Action("hold out", main_command(run, val_fraction=0.1)))
    if run.method in ("tfidf", "probe"):  # they use no random numbers: another seed changes nothing
        found.append(Action("compare", method_command(run, "sharprecl")))
    else:
        found.append(Action("repeat", main_command(run, seed=run.settings["seed"] + 1)))
    if short["verdict"] not in ("yes", "partly") or run.about is None:
        return found[:MOST_ACTIONS]
    return [*found[: MOST_ACTIONS - 1], use(run)]


def use(run: Run) -> Action:
    return Action("use", predict_command(run, "new.csv", "--output", "labelled.csv"))


def untested(run: Run) -> list[Action]:
    """The next steps for a run without test texts."""
    scored = Action("score", predict_command(run, "labelled.csv", "--score"))
    return [scored, use(run)] if run.about is not None else []


# ---- the sections below ----


def class_rows(run: Scored) -> pd.DataFrame:
    """The page's numbers for each class, NaN if there is nothing to count."""
    rows = run.classes
    precision, recall, f1, _ = precision_recall_fscore_support(
        run.test.true, run.test.predicted, labels=range(len(rows)), zero_division=np.nan
    )
    return rows.assign(
        share=100 * rows.train / rows.train.sum(),
        f1=np.where(rows.test > 0, 100 * f1, np.nan),
        recall=100 * recall,
        precision=100 * precision,
        is_rough=rows.test.between(1, FEW_TESTS - 1),
    )


def drawn(figure, title: str) -> Markup:
    """The figure as markup; its letters are escaped already."""
    return Markup(figures.svg(figure, title))


CURVES = {  # the title of each panel, its lines, and their places in an epoch's record
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
    """The best epoch, and the texts that choose it; None if nothing was evaluated."""
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


def most_certain(texts: pd.DataFrame, most: int) -> list:
    """The rows with the most certain predictions, the most certain first."""
    ordered = texts.sort_values("probability", ascending=False, kind="stable")
    return list(ordered[:most].itertuples())


def confused_pairs(run: Scored) -> list[dict]:
    """The errors by true class and prediction, the most frequent pair first, with examples."""
    size, wrong = run.test.label.value_counts(), run.test[~run.test.is_right]
    pairs = [
        {
            "label": label,
            "prediction": prediction,
            "errors": len(texts),
            "texts": int(size[label]),
            "examples": most_certain(texts, MOST_EXAMPLES),
        }
        for (label, prediction), texts in wrong.groupby(["label", "prediction"], sort=False)
    ]
    return sorted(pairs, key=lambda pair: -pair["errors"])


def confusion(run: Scored) -> Markup:
    is_answer = (run.test.predicted == len(run.classes)).any()
    names = run.answers if is_answer else run.answers[:-1]
    figure = figures.confusion_matrix(run.test.true, run.test.predicted, names)
    return drawn(figure, "Confusion matrix of the test texts")


def probabilities(run: Run) -> dict:
    """How reliable the probabilities are, on the validation texts or else the test texts."""
    part = run.test if run.validation is None else run.validation
    probability, is_right = part.probability.to_numpy(), part.is_right.to_numpy()
    thresholds = pd.DataFrame({"threshold": THRESHOLDS})
    above = [is_right[probability >= threshold] for threshold in THRESHOLDS]
    thresholds["texts"] = list(map(len, above))
    thresholds["share"] = 100 * thresholds.texts / len(part)
    thresholds["accuracy"] = [100 * own.mean() if len(own) else np.nan for own in above]
    fit = (run.about or {}).get("calibration")
    sure = thresholds[(thresholds.texts >= FEW_TESTS) & (thresholds.accuracy >= SURE)]
    can_abstain = run.validation is not None and fit is not None
    return {
        "texts": len(part),
        "mean": 100 * probability.mean(),
        "accuracy": 100 * is_right.mean(),
        "error": calibration_error(probability, is_right, bins=10),
        "fit": fit,
        "helps": fit is not None and not fit["why_not"] and fit["ece_after"] < fit["ece_before"],
        "thresholds": list(thresholds.itertuples()),
        "sure": sure.iloc[0] if len(sure) and can_abstain else None,
        "figure": drawn(figures.reliability(probability, is_right), "Reliability diagram"),
    }


def tsne(run: Run) -> dict:
    """The figure, or the reason why there is none, or the command that adds it."""
    if not METHODS[run.method].has_encoder:
        return {"why": "The method has no encoder: it has no embeddings to draw."}
    if not (run.folder / "tsne.csv").exists():
        again = {"overwrite": True} if run.about is None else {}  # the weights were not kept
        return {"command": main_command(run, "no_weights", **again, plots=True)}
    points, prototypes = (
        figures.read_points(run.folder / name) for name in ("tsne.csv", "tsne_prototypes.csv")
    )
    if not len(points):
        return {"why": "There are fewer than 10 different test texts to draw."}
    figure = figures.draw_tsne({"": points}, list(run.classes.label), prototypes)
    return {"figure": drawn(figure, "t-SNE of the test texts"), "prototypes": len(prototypes) > 0}


def judged_signs(run: Run) -> list[dict]:
    """Each of SIGNS, with its value, or None where the run does not measure it."""
    measured = [(sign, sign.measure(run.history)) for sign in SIGNS]
    return [
        {"sign": sign, "value": value, "seen": value is not None and sign.is_seen(value)}
        for sign, value in measured
    ]


def advice(run: Run, text: str) -> str:
    """The sentences of the text without those whose flags main.py would refuse or ignore here."""
    unfit = {f"method {run.method}"}
    if "best_val" in run.result:
        unfit.add("val_fraction")
    if run.method != "sharprecl" or "ablation" in flags_of(run):  # an ablation sets such flags
        unfit.update(names_of(Role.SHARPRECL))
    if not METHODS[run.method].has_encoder:
        unfit.update(OF_ENCODERS)
    if run.method == "hybrid_sc":  # its curriculum needs a constant rate
        unfit.add("schedule")
    sentences = re.split(r"(?<=\.) ", text)
    return " ".join(s for s in sentences if unfit.isdisjoint(re.findall(r"--(method \w+|\w+)", s)))


# ---- the page ----


def prose(text: str) -> Markup:
    """Escapes the text, and makes the parts in backticks code."""
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def number(value: float | int | None) -> str:
    """Formats a number with one decimal, a count with commas, and None or NaN as a dash."""
    if value is None or value != value:
        return "–"
    return format(value, "," if isinstance(value, (int, np.integer)) else ".1f")


def of_classes(scored: Scored) -> dict:
    """The values of templates/classes.html: the sections on the classes and on the errors."""
    rows, wrong = class_rows(scored), scored.test[~scored.test.is_right]
    figure = figures.f1_by_size(rows, FEW_TESTS)
    return {
        "run": scored,
        "few": FEW_TESTS,
        "rows": rows.sort_values("train", ascending=False, kind="stable"),
        "class_figure": drawn(figure, "F1 of each class by its training texts"),
        "pairs": confused_pairs(scored),
        "most_pairs": MOST_PAIRS,
        "confusion": confusion(scored),
        "errors": most_certain(wrong, MOST_ERRORS),
        "wrong": len(wrong),
    }


def of_test(run: Run) -> dict:
    """The values of the sections that need test texts."""
    values, short = of_classes(run), in_short(run)
    rows = values["rows"]
    return values | {
        "short": short,
        "actions": actions(run, short, rows),
        "worst": rows[rows.f1 < short["macro_f1"]].sort_values("f1", kind="stable")[:3],
        "probabilities": probabilities(run),
        "tsne": tsne(run),
        "protocols": results.PROTOCOLS,
    }


def render(run: Run) -> str:
    settings = run.settings
    ir = "" if settings["ir"] is None else f", ir {settings['ir']:g}"
    values = {
        "run": run,
        "leaks": LEAKS,
        "title": f"{settings['dataset']}{ir}: {run.method}, seed {settings['seed']}",
        "good": GOOD,
        "fair": FAIR,
        "epoch": run.result.get("kept_epoch", run.result["last"]["epoch"]),
        "curves": learning_curves(run),
        "best": best_epoch(run),
        "predict_command": predict_command,
        "signs": judged_signs(run),
        "advice": advice,
        "command": shell(["python", "main.py", *words(flags_of(run))]),
    }
    values |= of_test(run) if run.is_tested else {"actions": untested(run)}
    return template("page.html").render(values)


def template(name: str) -> jinja2.Template:
    """Loads a template of this folder; it escapes its values."""
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {"prose": prose, "number": number}
    return templates.get_template(name)


def write(folder: Path, path: Path) -> None:
    """
    Writes the page of the finished run in this folder. InputError if a file of the run is absent,
    damaged, or from another version of main.py.
    """
    try:
        page = render(read_run(folder))
    except (
        *(FileNotFoundError, LookupError, ValueError, TypeError, AttributeError),
        *(csv.Error, jinja2.UndefinedError),
    ) as error:
        raise damaged(folder, error) from error
    files.write_text(path, page)

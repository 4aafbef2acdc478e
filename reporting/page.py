"""
One finished run as one HTML page that needs no network: python report.py RUN_DIR

The numbers come from the run's files, the figures from results.py. SIGNS is the table of what can
go wrong in training: each failure with its limit, the reason for that limit, and what to try.
"""
import base64
import csv
import json
import re
import shlex
import statistics
from html import escape
from pathlib import Path
from typing import Callable, NamedTuple

import numpy as np
from sklearn.metrics import precision_recall_fscore_support

from engine import files, results
from reporting import figures
from engine.files import InputError
from engine.results import look_up

MOST_ERRORS = 20
LONGEST_TEXT = 300      # characters of a text that are shown

# ---- the signs of failures ----

History = list[dict]        # the lines of metrics.jsonl, an epoch each


class Sign(NamedTuple):
    """
    failure     what it is a sign of
    sentence    what is measured; {} stands for the value
    measure     of the history; None where the run does not have it
    limit       beyond it the failure is seen
    is_least    whether the limit is the least good value; else it is the largest
    reason      why the limit lies there
    advice      what to try, with flags of main.py in backticks
    """
    failure: str
    sentence: str
    measure: Callable[[History], float | None]
    limit: float
    is_least: bool
    reason: str
    advice: str

    def is_seen(self, value: float) -> bool:
        return value < self.limit if self.is_least else value > self.limit


def values(history: History, *keys: str) -> list[float]:
    """Of the epochs that have it."""
    return [value for record in history if (value := look_up(record, keys)) is not None]


def at_the_end(name: str) -> Callable[[History], float | None]:
    """A diagnostic of the last epoch."""
    return lambda history: look_up(history[-1], ("diagnostics", name))


def cosine_lost(history: History) -> float | None:
    found = values(history, "diagnostics", "prototype_cosine")
    return max(found) - found[-1] if len(found) > 1 else None


def lost_while_fitting(history: History) -> float | None:
    """Macro-F1 below its best epoch, of the validation texts if any; 0 unless the loss fell on."""
    if len(history) < 2 or "loss" not in history[-1]:
        return None
    part = "val" if "val" in history[-1] else "test"
    best, last = max(history, key=lambda record: record[part]["macro_f1"]), history[-1]
    return best[part]["macro_f1"] - last[part]["macro_f1"] if last["loss"] < best["loss"] else 0.0


def mixing_spread(history: History) -> float | None:
    """Of the mixed positives or the mixed negatives, whichever have less; mean over the epochs."""
    return min((statistics.mean(found) for sign in ("pos", "neg")
                if (found := values(history, "diagnostics", f"mixing_std_{sign}"))), default=None)


SIGNS = (
    Sign("Prototype drift",
         "Prototypes and the mean texts of their classes have a cosine of {:.2f}, on average.",
         at_the_end("prototype_cosine"), 0.5, True,
         "0 is unrelated, as before training, and 1 the same direction; runs that end well pass "
         "0.7 within a few epochs",
         "The prototypes have left their classes, or have not reached them yet: more epochs, "
         "`--epochs 30`, or more weight on the branch that pulls them, `--mu 2`."),
    Sign("Prototype drift of one class",
         "For the class with the lowest it is {:.2f}.",
         at_the_end("prototype_cosine_min"), 0.0, True,
         "below 0 a prototype points away from its own texts",
         "Mostly a class of few texts, which few batches hold: `--batch_size 256`, more epochs, or "
         "more texts of it."),
    Sign("Prototype drift in the course of training",
         "The average cosine lies {:.2f} below its best epoch.",
         cosine_lost, 0.1, False,
         "from one epoch to the next it moves by a few hundredths",
         "A lower learning rate, `--lr 2e-5`, or one that falls, `--schedule linear`."),
    Sign("A plateau while the loss falls",
         "Since its best epoch macro-F1 has lost {:.1f} points while the training loss went on "
         "falling.",
         lost_while_fitting, 2.0, False,
         "on a few hundred texts one or two points are chance, on fewer texts more",
         "Fewer epochs, or a learning rate that falls, `--schedule linear`; or hold texts out, "
         "`--val_fraction 0.1`, and take `best_val` of result.json."),
    Sign("Collapse of the mixing coefficients",
         "Their standard deviation is {:.2f}.",
         mixing_spread, 0.1, True,
         "Beta(0.5, 0.5) has 0.35; at 0.1 nearly all mixtures are midpoints",
         "A smaller lambda, `--lam 0.5`."),
    Sign("Collapse of the mixed positives",
         "Their mean similarity to the prototype of their class is {:.2f}.",
         at_the_end("mixed_to_prototype_pos"), 0.99, False,
         "there they are copies of it; runs that end well come near, once every text is fitted",
         "No harm where macro-F1 is good; else take fewer and harder texts, `--k 5`, see more of "
         "a class at a time, `--batch_size 256`, or draw more instead, `--hard_ratio_end 0.5`."),
    Sign("Collapse of the mixed negatives",
         "Their mean similarity to the prototype of the class they are built for is {:.2f}.",
         at_the_end("mixed_to_prototype_neg"), 0.5, False,
         "they belong to other classes; runs that end well are below 0 within a few epochs",
         "Classes lie on each other: a lower `--lr 2e-5`, a lower temperature, `--tau 0.3`, or "
         "look for texts under wrong labels."),
    Sign("Minority overfitting",
         "Accuracy lies {:.1f} points above macro-F1.",
         lambda history: history[-1]["test"]["gap"], 10.0, False,
         "the paper's own gap is below 8 on all its datasets but R52, where it is 11 and some "
         "classes have one text",
         "The rare classes are lost. Fewer built samples, `--n_pos 5 --n_neg 250`, or more drawn "
         "and fewer mixed ones, `--hard_ratio_end 0.5`; compare with `--method la` and "
         "`--method tfidf`, and bring more texts of the rare classes."),
)


# ---- the run ----


class Run(NamedTuple):
    folder: Path
    result: dict            # result.json
    recorded: dict          # args.json
    history: History
    classes: list[dict]     # label, train and test, in the order of the class numbers
    texts: list[str]        # of the test part, as the next three
    labels: np.ndarray
    predicted: np.ndarray
    probability: list[float]

    @property
    def names(self) -> list[str]:
        return [row["label"] for row in self.classes]

    @property
    def answers(self) -> list[str]:
        """What a text can be taken for: a language model may name no class."""
        return [*self.names, results.UNKNOWN]


def read_run(folder: Path) -> Run:
    csv.field_size_limit(2**31 - 1)     # a text may be a whole book
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    classes = files.read_json(folder / "data_report.json")["classes"]
    number = {results.UNKNOWN: len(classes)} | {
        row["label"]: position for position, row in enumerate(classes)}
    with open(folder / "predictions.csv", newline="", encoding="utf-8") as file:
        rows = [(row["text"], number[row["label"]], number[row["prediction"]],
                 float(row["probability"])) for row in csv.DictReader(file)]
    texts, labels, predicted, probability = zip(*rows)
    return Run(folder, files.read_json(folder / "result.json"),
               files.read_json(folder / "args.json"), [json.loads(line) for line in lines],
               classes, list(texts), np.array(labels), np.array(predicted), list(probability))


# ---- HTML ----

STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { margin: 0 auto; padding: 1rem; max-width: 72rem; overflow-wrap: break-word; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
ul { padding-inline-start: 1.2rem; }
.scroll, pre { overflow: auto; max-height: 40rem; border: 1px solid #8886; }
@media print { .scroll { max-height: none; } }
pre { padding: 0.6rem; white-space: pre-wrap; }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.25rem 0.6rem; text-align: start; vertical-align: top; }
thead th { position: sticky; top: 0; background: Canvas; vertical-align: bottom; }
tbody tr { border-top: 1px solid #8884; overflow-wrap: anywhere; }
tbody th { font-weight: normal; }
tbody th { min-width: 10rem; }
td:not(.number) { min-width: 5rem; }
.number { text-align: end; }
td.number { white-space: nowrap; }
figure { margin: 0; overflow: auto; }
figure img { background: #fff; }
.panels { display: flex; flex-wrap: wrap; gap: 0.5rem; }
.seen { border-inline-start: 0.3rem solid #c33; padding-inline-start: 0.6rem; }
"""


def prose(text: str) -> str:
    """Escaped, with what stands in backticks as code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", escape(text))


def paragraph(text: str) -> str:
    return f"<p>{prose(text)}</p>"


def section(title: str, *parts: str) -> str:
    return "\n".join([f"<section><h2>{title}</h2>", *parts, "</section>"])


def table(title: str, header: tuple[str, ...], rows: list[tuple]) -> str:
    """
    Scrolls inside itself. A cell is text, a number, or None, which is shown as a dash; the first of
    a row is its heading.
    """
    def cell(value) -> str:
        if isinstance(value, str):
            return f'<td dir="auto">{escape(value)}</td>'
        number = "–" if value is None else format(value, "," if isinstance(value, int) else ".1f")
        return f'<td class="number">{number}</td>'

    head = "".join(f'<th scope="col"{"" if isinstance(value, str) else " class=number"}>'
                   f"{escape(name)}</th>" for name, value in zip(header, rows[0]))
    body = "".join(f'<tr><th scope="row" dir="auto">{escape(first)}</th>'
                   + "".join(map(cell, others)) + "</tr>\n" for first, *others in rows)
    return (f'<div class="scroll" role="region" aria-label="{title}" tabindex="0"><table>\n'
            f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table></div>")


def picture(figure, alt: str) -> str:
    """
    As an image: whatever stands in its letters, a browser runs nothing of it. As wide as it is, in
    a box that scrolls.
    """
    content = base64.b64encode(figures.svg(figure)).decode()
    return (f'<figure tabindex="0"><img alt="{escape(alt)}" '
            f'src="data:image/svg+xml;base64,{content}"></figure>')


# ---- the sections of the page ----

CURVES = {      # the title of each panel, its lines, and where they stand in an epoch's record
    "loss": {"classification": ("loss_cls",), "contrastive": ("loss_cl",)},
    "test texts, %": {"accuracy": ("test", "accuracy"), "macro-F1": ("test", "macro_f1"),
                      "macro-F1, validation": ("val", "macro_f1")},
    "macro-F1 of classes by training texts, %": {
        "many (above 100)": ("test", "groups", "many", "macro_f1"),
        "medium (20 to 100)": ("test", "groups", "medium", "macro_f1"),
        "few (below 20)": ("test", "groups", "few", "macro_f1")},
    "cosine to the prototype": {
        "its class": ("diagnostics", "prototype_cosine"),
        "its class, the lowest": ("diagnostics", "prototype_cosine_min"),
        "mixed positives": ("diagnostics", "mixed_to_prototype_pos"),
        "mixed negatives": ("diagnostics", "mixed_to_prototype_neg")},
}


def command(run: Run, *more: str) -> str:
    script, *options = run.recorded["command"]
    return f"<pre>{escape(shlex.join(['python', Path(script).name, *options, *more]))}</pre>"


def overview(run: Run) -> str:
    last = run.result["last"]
    protocols = [(meaning, run.result[name]["epoch"], run.result[name]["accuracy"],
                  run.result[name]["macro_f1"], run.result[name]["balanced_accuracy"])
                 for name, meaning in results.PROTOCOLS.items() if name in run.result]
    groups = [(name, group["classes"], group["texts"], group["accuracy"], group["macro_f1"])
              for name, group in last["groups"].items()]
    missing = ", ".join(run.names[label] for label in last["never_predicted"])
    return section(
        "Result",
        table("Result", ("", "epoch", "accuracy", "macro-F1", "balanced accuracy"), protocols),
        paragraph("By training texts of a class: many are above 100, few below 20."),
        table("Groups", ("", "classes", "test texts", "accuracy", "macro-F1"), groups),
        paragraph(f"Never predicted: {missing or 'no class'}."), command(run))


def signs(run: Run) -> str:
    """One item for each of SIGNS: whether it is seen, by which limit, and what to try then."""
    measured = [(sign, sign.measure(run.history)) for sign in SIGNS]
    missing = ", ".join(sign.failure for sign, value in measured if value is None)
    items = []
    for sign, value in measured:
        if value is None:
            continue
        seen = sign.is_seen(value)
        text = (f"{sign.sentence.format(value)} The limit is {sign.limit:g}: {sign.reason}."
                + f" {sign.advice}" * seen)
        items.append(f'<li{" class=seen" * seen}><strong>{sign.failure}: '
                     f'{"seen" if seen else "not seen"}.</strong> {prose(text)}</li>')
    return section("Signs of failures", "<ul>", *items, "</ul>",
                   *([paragraph(f"Not measured in this run: {missing}.")] if missing else []))


def per_class(run: Run) -> str:
    """A table of the classes, most training texts first, under the figure of their counts."""
    counts = [row["train"] for row in run.classes]
    order = np.argsort(-np.array(counts), kind="stable")
    given = np.bincount(run.predicted, minlength=len(counts))
    scores = 100 * np.array(precision_recall_fscore_support(
        run.labels, run.predicted, labels=range(len(counts)), zero_division=0)[:3])
    rows = []
    for label in order:
        row, (precision, recall, f1) = run.classes[label], scores[:, label]
        rows.append((row["label"], row["train"], 100 * row["train"] / sum(counts), row["test"],
                     precision if given[label] else None, *(
                         (recall, f1) if row["test"] else (None, None))))
    figure = figures.label_distribution(counts, run.names, "training texts of each class")
    return section(
        "Classes", picture(figure, "Training texts of each class, largest first"),
        paragraph("Precision, recall and F1 on the test texts, in %; a dash where there is nothing "
                  "to count: a class that is never predicted has no precision, one without a test "
                  "text no recall."),
        table("Classes", ("class", "training texts", "share", "test texts", "precision", "recall",
                          "F1"), rows))


def learning_curves(run: Run) -> str:
    if len(run.history) == 1:
        return section("Learning curves", paragraph("One epoch: there is no curve to draw."))
    panels = [(title, figures.curves(run.history, title, lines))
              for title, lines in CURVES.items()]
    return section("Learning curves", '<div class="panels">', *(
        picture(figure, f"Epoch by epoch: {title}") for title, figure in panels if figure),
        "</div>")


def confusion(run: Run) -> str:
    has_unknown = len(run.names) in run.predicted
    figure = figures.confusion_matrix(run.labels, run.predicted,
                                      run.answers if has_unknown else run.names)
    return section("Confusion matrix", paragraph("A row is a true class, a column what its test "
                                                 "texts were taken for, in % of the row."),
                   picture(figure, "Confusion matrix of the test texts"))


def tsne(run: Run) -> str:
    """The figure, or why there is none and which command adds it."""
    title, method = "t-SNE of the test texts", run.result["settings"]["method"]
    if method == "tfidf":
        return section(title, paragraph("TF-IDF has no encoder, and so no embeddings to draw."))
    if "base_model" in run.result["settings"]:
        return section(title, paragraph("A language model answers; it has no embeddings to draw."))
    if not (run.folder / "tsne.csv").exists():
        kept = (run.folder / "model.safetensors").exists()
        return section(
            title, paragraph("Not drawn yet. This adds it; then make this page again." if kept else
                             "Not drawn, and the weights were not kept. This trains once more and "
                             "adds it; then make this page again."),
            command(run, *([] if kept else ["--overwrite"]), "--plots"))
    if not figures.read_points(run.folder / "tsne.csv"):
        return section(title, paragraph("There are fewer than 10 different test texts to draw."))
    space = ("The projected texts and, as stars, the prototypes, in the space of the contrastive "
             "loss." if (run.folder / "tsne_prototypes.csv").exists() else
             "The embeddings that the classifier sees.")
    return section(title, paragraph(f"{space} At most 2,000 texts; distances between far groups "
                                    "mean little."),
                   picture(figures.draw_tsne(run.folder, run.names), title))


def errors(run: Run) -> str:
    """The test texts under a wrong label, the most probable first."""
    wrong = np.flatnonzero(run.labels != run.predicted)
    worst = sorted(wrong, key=lambda i: -run.probability[i])[:MOST_ERRORS]
    rows = [(run.texts[i][:LONGEST_TEXT] + "…" * (len(run.texts[i]) > LONGEST_TEXT),
             run.names[run.labels[i]], run.answers[run.predicted[i]], 100 * run.probability[i])
            for i in worst]
    if not rows:
        return section("Most confident errors", paragraph("No test text has a wrong label."))
    return section(
        "Most confident errors",
        paragraph(f"{len(wrong):,} of {len(run.texts):,} test texts are wrong; these are the most "
                  "certain. Labels that are wrong in the data come first here."),
        table("Errors", ("text", "label", "prediction", "probability, %"), rows))


def write(folder: Path, path: Path) -> None:
    """
    The page of the finished run in this folder. InputError where a file of it is absent, damaged,
    or not as main.py writes it today.
    """
    try:
        run = read_run(folder)
        settings = run.result["settings"]
        ir = "" if settings["ir"] is None else f", ir {settings['ir']:g}"
        title = escape(f"{settings['dataset']}{ir}: {settings['method']}, seed {settings['seed']}")
        body = "\n".join(part(run) for part in (overview, signs, per_class, learning_curves,
                                                confusion, tsne, errors))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        raise InputError(f"{folder}: a file of this run is damaged, or of another version of "
                         f"main.py ({error!r:.200}); run its command again with --overwrite"
                         ) from error
    files.write_text(path, f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{body}
</main>
</body>
</html>
""")

"""
The results of one run: metrics, files, lines for the screen, figures.
"""
import csv
import io
import json
import math
import warnings
from collections import defaultdict
from pathlib import Path

import matplotlib
import numpy as np
import torch
from sklearn.manifold import TSNE
from sklearn.metrics import accuracy_score, classification_report, f1_score, recall_score

from augment import InputError
from data import Corpus, save

matplotlib.use("Agg")
from matplotlib import pyplot as plt    # noqa: E402  after the backend is chosen

# ---- metrics ----


def metrics(labels: np.ndarray, predicted: np.ndarray, train_counts: np.ndarray) -> dict:
    """
    Accuracy, macro-F1 and balanced accuracy (the mean recall of the classes) in percent; the first
    two also over the classes with many (above 100), medium (20 to 100) and few (below 20) training
    texts; each class's F1; the classes never predicted. A class without a test text has no F1:
    means are over the others.
    """
    tested = np.unique(labels)
    accuracy = 100 * accuracy_score(labels, predicted)
    macro_f1 = 100 * f1_score(labels, predicted, labels=tested, average="macro", zero_division=0)
    result = {"accuracy": accuracy, "macro_f1": macro_f1,
              "balanced_accuracy": 100 * recall_score(labels, predicted, labels=tested,
                                                      average="macro"),
              "gap": accuracy - macro_f1, "groups": {}}
    for name, lowest, highest in (("many", 101, math.inf), ("medium", 20, 100), ("few", 0, 19)):
        in_group = (train_counts >= lowest) & (train_counts <= highest)
        members = np.intersect1d(np.flatnonzero(in_group), tested)
        if len(members):
            is_member = np.isin(labels, members)
            result["groups"][name] = {
                "classes": len(members), "texts": int(is_member.sum()),
                "accuracy": 100 * accuracy_score(labels[is_member], predicted[is_member]),
                "macro_f1": 100 * f1_score(labels, predicted, labels=members, average="macro",
                                           zero_division=0)}
    result["f1"] = (100 * f1_score(labels, predicted, labels=range(len(train_counts)), average=None,
                                   zero_division=0)).tolist()
    result["never_predicted"] = np.setdiff1d(np.arange(len(train_counts)), predicted).tolist()
    return result


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray,
                               bins: int = 15) -> float:
    """
    Guo et al. 2017, Eq. 3, in percent: the texts (n, C) in bins by their highest probability; mean
    over the texts of |accuracy - mean probability| of their bin.
    """
    confidence = probabilities.max(axis=1)
    is_right = probabilities.argmax(axis=1) == labels
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.abs(np.bincount(bin_of, is_right, bins) - np.bincount(bin_of, confidence, bins))
    return float(100 * gaps.sum() / len(labels))


# ---- files of a run, each written whole or not at all ----


def write_text(path: Path, text: str) -> None:
    save(path, text.encode())


def write_json(path: Path, value) -> None:
    write_text(path, json.dumps(value, indent=1) + "\n")


def read_json(path: Path) -> dict:
    """A JSON object of a run. InputError where it is anything else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError("not an object")
        return value
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is damaged ({type(error).__name__}): run its command again with "
                         "--overwrite, or move its folder away") from error


def _csv(header: list[str], rows) -> str:
    table = io.StringIO(newline="")
    csv.writer(table).writerows([header, *rows])
    return table.getvalue()


UNKNOWN = "(no label)"      # an answer of a language model; its column comes after the classes


def write_reports(folder: Path, corpus: Corpus, logits: np.ndarray) -> None:
    """predictions.csv and scikit-learn's report, of the newest epoch, as text and JSON."""
    names = [*corpus.label_names, UNKNOWN]
    labels, predicted = corpus.test_labels, logits.argmax(axis=1)
    probability = torch.from_numpy(logits).softmax(dim=1).amax(dim=1).tolist()
    write_text(folder / "predictions.csv", _csv(
        ["text", "label", "prediction", "probability"],
        ((text, names[label], names[prediction], f"{p:.6f}") for text, label, prediction, p
         in zip(corpus.test_texts, labels, predicted, probability))))
    tested = np.unique(labels)      # as in metrics(): the same classes, the same means
    options = dict(labels=tested, target_names=[names[c] for c in tested], zero_division=0)
    write_text(folder / "classification_report.txt",
          classification_report(labels, predicted, digits=4, **options))
    write_json(folder / "classification_report.json",
               classification_report(labels, predicted, output_dict=True, **options))


# ---- lines for the screen ----


def epoch_lines(record: dict) -> str:
    """The epoch in a line or two: how good it is, and how SharpReCL fares inside."""
    test, inside = record["test"], record.get("diagnostics")
    groups = ", ".join(f"{name} {group['macro_f1']:.1f}" for name, group in test["groups"].items())
    lines = [f"epoch {record['epoch']}  accuracy {test['accuracy']:.2f}, "
             f"macro-F1 {test['macro_f1']:.2f} ({groups})"]
    if "val" in record:
        lines[0] += f"  val {record['val']['accuracy']:.2f}, {record['val']['macro_f1']:.2f}"
    if "loss" in record:
        lines[0] += (f"  cls {record['loss_cls']:.3f}, cl {record['loss_cl']:.3f}, "
                     f"{record['texts_per_second']:.0f} texts/s")
    if inside:
        mixed = [f"{name} {inside[f'mixed_to_prototype_{name}']:.2f}" for name in ("pos", "neg")
                 if f"mixed_to_prototype_{name}" in inside]
        lines.append(f"  cosine of prototypes to class means {inside['prototype_cosine']:.2f}, "
                     f"to mixed samples {', '.join(mixed) or '-'}; gradient from cls "
                     f"{inside['gradient_share_cls']:.0%}")
    return "\n".join(lines)


PROTOCOLS = {
    "last": "after the last epoch: the headline",
    "best_val": "epoch with the best validation macro-F1",
    "best_test": "epoch with the best test accuracy, as in the authors' code: optimistic",
}


def print_result(folder: Path) -> None:
    """scikit-learn's report of the last epoch, and the result under each protocol."""
    result = read_json(folder / "result.json")
    labels = read_json(folder / "args.json")["label_names"]
    missing = [labels[label] for label in result["last"]["never_predicted"]]
    try:
        print((folder / "classification_report.txt").read_text())
    except OSError as error:
        raise InputError(f"{error.filename}: {error.strerror}; run its command again with "
                         "--overwrite") from error
    print("never predicted: " + (", ".join(missing) or "no class"))
    for name, meaning in PROTOCOLS.items():
        if name in result:
            print(f"{name + ':':<10} accuracy {result[name]['accuracy']:.2f}, macro-F1 "
                  f"{result[name]['macro_f1']:.2f}, epoch {result[name]['epoch']} ({meaning})")
    print(f"in {folder}")


# ---- figures ----

# Paul Tol's bright palette, safe for the colour-blind, as is viridis
TOL = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb")


def _image(figure, kind: str, metadata: dict | None = None) -> bytes:
    image = io.BytesIO()
    with warnings.catch_warnings():     # a letter that the font lacks is drawn as a box
        warnings.filterwarnings("ignore", "Glyph .* missing")
        figure.savefig(image, format=kind, dpi=150, bbox_inches="tight", metadata=metadata)
    plt.close(figure)
    return image.getvalue()


def save_figure(figure, path: Path) -> None:
    """As PNG or PDF, whichever the path ends with; the same figure is the same file."""
    kind = path.suffix[1:]
    save(path, _image(figure, kind, {"CreationDate": None} if kind == "pdf" else None))


def svg(figure) -> bytes:
    """For a page: its letters stay letters, which the reader's own fonts draw."""
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": "same figure, same file"}):
        return _image(figure, "svg", {"Date": None})


MOST_NAMED = 120    # classes whose names and counts a figure can hold; more go without


def _tick_names(names: list[str]) -> list[str]:
    """Short, and without a meaning to matplotlib: $ starts a formula, a leading _ hides a label."""
    short = [name if len(name) <= 24 else name[:23] + "…" for name in names]
    return [" " * name.startswith("_") + name.replace("$", r"\$") for name in short]


def label_distribution(counts: list[int], names: list[str], title: str):
    """Fig. 1: training texts of each class, largest first; logarithmic, so that rare ones show."""
    order = np.argsort(-np.array(counts), kind="stable")
    is_named = len(names) <= MOST_NAMED
    width = max(4.0, 0.28 * len(names) + 1.5) if is_named else 10
    figure, axes = plt.subplots(figsize=(width, 3.2))
    bars = axes.bar(range(len(names)), [counts[i] for i in order], color=TOL[0])
    if is_named:
        axes.bar_label(bars, fontsize=7, rotation=90 if len(names) > 12 else 0, padding=2)
        axes.set_xticks(range(len(names)), [_tick_names(names)[i] for i in order], fontsize=8,
                        rotation=90 if max(map(len, names)) > 3 else 0)
    else:
        axes.set_xlabel("classes")
    axes.set_yscale("log")
    axes.set_ylim(0.7, 4 * max(counts))
    axes.set_xlim(-0.7, len(names) - 0.3)
    axes.set_ylabel("training texts")
    axes.set_title(title.replace("$", r"\$"), fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, names: list[str]):
    """Share of each true class (row) that was given each label (column), in percent."""
    counts = np.zeros((len(names), len(names)))
    np.add.at(counts, (labels, predicted), 1)
    percent = 100 * counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    is_named = len(names) <= MOST_NAMED
    size = max(4.0, 0.32 * len(names) + 2) if is_named else 10
    figure, axes = plt.subplots(figsize=(size + 0.6, size))
    image = axes.imshow(percent, cmap="viridis", vmin=0, vmax=100)
    if is_named:
        for row, column in np.argwhere(percent >= 0.5):
            axes.text(column, row, f"{percent[row, column]:.0f}", ha="center", va="center",
                      fontsize=6, color="black" if percent[row, column] > 60 else "white")
        axes.set_xticks(range(len(names)), _tick_names(names), rotation=90, fontsize=7)
        axes.set_yticks(range(len(names)), _tick_names(names), fontsize=7)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    figure.colorbar(image, ax=axes, fraction=0.046, label="% of the true class")
    return figure


def curves(history: list[dict], title: str, lines: dict[str, tuple[str, ...]]):
    """
    One panel over the epochs, a line for each value that these epochs have; None if they have none.
    lines is {name: where it stands in an epoch's record}.
    """
    figure, axes = plt.subplots(figsize=(3.5, 2.6), layout="constrained")
    for (name, keys), colour in zip(lines.items(), TOL):
        found = [(record["epoch"], value) for record in history
                 if (value := look_up(record, keys)) is not None]
        if found:
            axes.plot(*zip(*found), "o-", color=colour, markersize=3, linewidth=1.2, label=name)
    if not axes.lines:
        plt.close(figure)
        return None
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("epoch")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, fontsize=7, frameon=False)
    return figure


def look_up(record: dict, keys: tuple[str, ...]) -> float | None:
    for key in keys:
        record = record.get(key) if isinstance(record, dict) else None
    return record


Points = dict[str, list[tuple[float, float]]]       # by label


def tsne(feats: np.ndarray, labels: np.ndarray, names: list[str], folder: Path,
         prototypes: np.ndarray | None = None, most: int = 2000) -> None:
    """
    Fig. 4: t-SNE of the test texts (n, h), at most `most` of them, seeded, and of the prototypes
    (C, h) in the same space, if there are any. Leaves tsne.csv with the texts' points, a
    tsne_prototypes.csv beside it with the prototypes', and the figure.

    Says so, and draws nothing, for fewer than 10 different texts.
    """
    chosen = np.random.default_rng(0).permutation(len(feats))[:most]
    feats, labels = feats[chosen], labels[chosen]
    is_drawn = len(np.unique(feats, axis=0)) >= 10
    points, among = np.empty((0, 2)), np.empty((0, 2))
    if is_drawn:
        whole = feats if prototypes is None else np.concatenate([feats, prototypes])
        perplexity = min(30, (len(whole) - 1) // 3)
        whole = TSNE(perplexity=perplexity, random_state=0).fit_transform(whole)
        points, among = np.split(whole, [len(feats)])

    def write(name: str, points: np.ndarray, labels) -> None:
        write_text(folder / name, _csv(["x", "y", "label"], (
            (f"{x:.3f}", f"{y:.3f}", names[label]) for (x, y), label in zip(points, labels))))

    if prototypes is not None:
        write("tsne_prototypes.csv", among, range(len(names)))
    write("tsne.csv", points, labels)       # last: it is the mark of a run with its plots
    if is_drawn:
        save_figure(draw_tsne(folder, names), folder / "tsne.png")
    else:
        print("no t-SNE: it needs at least 10 test texts with different embeddings")


def read_points(path: Path) -> Points:
    """tsne.csv, or tsne_prototypes.csv; nothing where there is no such file."""
    points = defaultdict(list)
    if not path.exists():
        return points
    try:
        with open(path, newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                points[row["label"]].append((float(row["x"]), float(row["y"])))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is damaged: delete it and run the command of its folder again "
                         "with --plots") from error
    return points


def draw_tsne(folder: Path, names: list[str]):
    """The texts of each class in a colour and a marker, its prototype a star of that colour."""
    points, prototypes = (read_points(folder / f"{name}.csv")
                          for name in ("tsne", "tsne_prototypes"))
    figure, axes = plt.subplots(figsize=(5.6, 5))
    few, is_named = len(names) <= 10, len(names) <= MOST_NAMED
    for label, name in enumerate(names):
        colour = TOL[label % 7] if few else plt.get_cmap("viridis")(label / len(names))
        if name in points:
            axes.scatter(*zip(*points[name]), s=12, color=colour, linewidths=0,
                         marker="os^vDPX<>*"[label % 10], label=_tick_names([name])[0])
        if name in prototypes:
            axes.scatter(*zip(*prototypes[name]), s=90 if is_named else 20, color=colour,
                         edgecolors="black", linewidths=0.8, marker="*", zorder=3)
    axes.set_xticks([])
    axes.set_yticks([])
    if prototypes:
        axes.scatter([], [], s=60, color="white", edgecolors="black", marker="*",
                     label="prototype of the class of its colour")
    if is_named:
        axes.legend(fontsize=6, markerscale=1.6, loc="center left", bbox_to_anchor=(1, 0.5),
                    frameon=False, ncols=1 + len(names) // 30)
    return figure

"""
The figures of one run.
"""
import io
import csv
import warnings
from collections import defaultdict
from pathlib import Path

import matplotlib
import numpy as np
from sklearn.manifold import TSNE

from engine.files import InputError, save, write_text
from engine.results import csv_text, look_up

matplotlib.use("Agg")
from matplotlib import pyplot as plt    # noqa: E402  after the backend is chosen

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
        write_text(folder / name, csv_text(["x", "y", "label"], (
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

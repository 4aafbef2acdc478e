"""
Draws the figures of runs, as PNG or PDF files and as SVG inside a page.
"""

import io
import re
import sys
import warnings
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import sklearn.metrics
from matplotlib.font_manager import get_font_names
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from sklearn.manifold import TSNE

from engine.files import InputError, read_json, save, write_text
from engine.results import csv_rows, csv_text
from reporting.signs import values

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402  after the backend is chosen

# fonts with Chinese, Japanese and Korean letters, which matplotlib's own font lacks
CJK = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei"),
    *("Droid Sans Fallback", "PingFang SC", "Hiragino Sans", "Microsoft YaHei", "Yu Gothic"),
    *("Malgun Gothic", "Arial Unicode MS"),
)
plt.rcParams["font.family"] += [name for name in CJK if name in set(get_font_names())]
plt.rcParams |= {"font.size": 8, "axes.titlesize": 8}
plt.rcParams |= dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False)

# Paul Tol's bright palette, which is safe for the colour-blind
TOL = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb")
MARKERS = "os^vDPX<>*"  # ten markers and seven colours give 70 different looks
GREY = "#888888"  # readable on white and on black
LINE = {"markersize": 3.5, "linewidth": 1.2}
DASHED = {"color": "black", "linewidth": 0.8, "linestyle": "--"}


# ---- files and pages ----


def _image(figure, kind: str, metadata: dict | None = None, **options) -> bytes:
    image = io.BytesIO()
    with warnings.catch_warnings(record=True) as caught:
        figure.savefig(
            image, format=kind, dpi=150, bbox_inches="tight", metadata=metadata, **options
        )
    plt.close(figure)
    # the browser draws the letters of an SVG with its own fonts
    if kind != "svg" and any("Glyph" in str(warning.message) for warning in caught):
        _say_what_no_font_has()
    return image.getvalue()


@cache  # prints it once
def _say_what_no_font_has() -> None:
    print(
        "note: no font here has some letters of the labels, which figures show as boxes: install "
        "one, such as Noto Sans CJK",
        file=sys.stderr,
    )


def save_figure(figure, path: Path) -> None:
    """Saves as PNG or PDF, by the path's ending; equal figures give equal files."""
    kind = path.suffix[1:]
    save(path, _image(figure, kind, {"CreationDate": None} if kind == "pdf" else None))


def svg(figure, title: str) -> str:
    """
    The figure as an <svg> element for a page; `title` is for screen readers, and has no letters
    that HTML escapes.

    The letters stay text in the page's font. Black becomes the page's text colour, and the colours
    of TOL become the page's variables --series-0 to --series-6, so that the page can change them in
    dark mode. matplotlib's style sheet is left out, because it would apply to the whole page.
    """
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        text = _image(figure, "svg", {"Date": None}, transparent=True).decode()
    text = re.sub(r"<(style|metadata)\b.*?</\1>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'<g id="[\w.]+"', "<g", text)  # other figures of the page have the same ids
    text = re.sub(r' style="[^"]*"', lambda found: _for_page(found[0]), text)
    return text.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)


def _for_page(style: str) -> str:
    """An element's style with the page's colours and the page's font."""
    style = re.sub(r"(fill|stroke): #000000", r"\1: currentColor", style)
    for i, colour in enumerate(TOL):
        style = style.replace(colour, f"var(--series-{i})")
    return re.sub('font-family: [^;]*; |; font-family: [^;"]*', "", style)


# ---- of classes ----

MOST_NAMED = 120  # with more classes a figure has no names and counts


def drawn_name(name: str, longest: int = 24) -> str:
    """A short name, escaped for matplotlib: $ starts a formula, a leading _ hides a label."""
    name = " ".join(name.split())
    name = name if len(name) <= longest else name[: longest - 1] + "…"
    return " " * name.startswith("_") + name.replace("$", r"\$")


def look(i: int) -> tuple[str, str]:
    """The colour and the marker of the i-th line or group."""
    return TOL[i % len(TOL)], MARKERS[i % len(MARKERS)]


def class_sizes(folder: Path):
    """Fig. 1 from a run's data_report.json."""
    summary = read_json(folder / "data_report.json")
    counts, names = ([row[part] for row in summary["classes"]] for part in ("train", "label"))
    return label_distribution(counts, names, f"{summary['name']}, ir = {summary['ir']:.1f}")


def label_distribution(counts: list[int], names: list[str], title: str):
    """Fig. 1: training texts of each class, largest first; logarithmic, so that rare ones show."""
    order = np.argsort(-np.array(counts), kind="stable")
    is_named = len(names) <= MOST_NAMED
    width = max(4.0, 0.28 * len(names) + 1.5) if is_named else 10
    figure, axes = plt.subplots(figsize=(width, 3.2))
    bars = axes.bar(range(len(names)), [counts[i] for i in order], color=TOL[0])
    if is_named:
        axes.bar_label(bars, fontsize=7, rotation=90 if len(names) > 12 else 0, padding=2)
        rotation = 90 if max(map(len, names)) > 3 else 0
        axes.set_xticks(range(len(names)), [drawn_name(names[i]) for i in order], rotation=rotation)
    else:
        axes.set(xticks=[], xlabel="classes")
    axes.set(yscale="log", ylim=(0.7, 4 * max(counts)), xlim=(-0.7, len(names) - 0.3))
    axes.set(ylabel="training texts", title=title.replace("$", r"\$"))
    return figure


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, names: list[str]):
    """
    Share of each true class (row) that was given each label (column), in percent: the deeper the
    colour, the larger the share. labels and predicted are (n,) numbers of names.
    """
    size, is_named = len(names), len(names) <= MOST_NAMED
    side = size * min(0.5, max(0.24, 2.2 / size)) if is_named else 10  # inches
    figure = plt.figure(figsize=(side, side))
    axes = figure.add_axes((0, 0, 1, 1))
    shares = sklearn.metrics.confusion_matrix(
        labels, predicted, labels=range(size), normalize="true"
    )
    for row, column in np.argwhere(shares):
        share = shares[row, column]
        box: dict = {"color": TOL[0], "linewidth": 0, "alpha": 0.75 * share}
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, **box))
        if is_named and share >= 0.005:
            axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center_baseline")
    axes.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5), xlabel="predicted", ylabel="true")
    if is_named:
        short = [drawn_name(name) for name in names]
        upright = {"rotation": 90, "rotation_mode": "anchor", "ha": "right", "va": "center"}
        axes.set_xticks(range(size), short, **upright)
        axes.set_yticks(range(size), short)
    axes.spines[:].set(visible=True, alpha=0.4)
    return figure


# ---- lines ----


def _panel(title: str, size: tuple[float, float], **options):
    """A figure with one panel and its axes, narrow enough for a telephone without scrolling."""
    figure, axes = plt.subplots(figsize=size, layout="constrained")
    axes.set(**options)
    axes.set_title(title, fontsize=10)
    return figure, axes


def _legend_below(figure, columns: int = 2, **options) -> None:
    figure.legend(loc="outside lower center", ncols=columns, **options)


def curves(
    history: list[dict], title: str, lines: dict[str, str], mark: tuple[int, str] | None = None
):
    """
    One panel over the epochs, with a line for each value that the epochs have; None if they have
    none. A line that is always 0 is left out, because its method has no such value.

    lines is {name: place in an epoch's record, as "test.accuracy"}; mark is an epoch with a label,
    drawn as a vertical line.
    """
    found = {name: values(history, place) for name, place in lines.items()}
    found = {name: own for name, own in found.items() if own.any()}
    if not found:
        return None
    figure, axes = _panel(title, (3.5, 2.7), xlabel="epoch")
    for (name, own), colour, marker in zip(found.items(), TOL, MARKERS):
        axes.plot(own.index, own, f"{marker}-", color=colour, label=name, **LINE)
    if mark is not None:
        axes.axvline(mark[0], label=mark[1], **DASHED)
    axes.xaxis.get_major_locator().set_params(integer=True)
    _legend_below(figure)
    return figure


def line(x: pd.Series, y: pd.Series) -> pd.DataFrame:
    """Mean and standard deviation of y at each x, in columns mean and std; 0 of a single number."""
    return y.groupby(x).agg(["mean", "std"]).fillna({"std": 0.0})


Panel = tuple[str, str, dict[str, pd.DataFrame]]  # title, label below, and its lines by name


def line_grid(panels: list[Panel]):
    """
    Panels in two columns: each line shows means in percent, with a band of ± the standard
    deviation. There is one legend; a panel without lines stays empty.
    """
    rows = len(panels) // 2
    size = 3.4, 0.2 + 1.7 * rows
    figure, grid = plt.subplots(rows, 2, figsize=size, squeeze=False, layout="constrained")
    handles = {}
    for axes, (title, xlabel, lines) in zip(grid.flat, panels):
        axes.set(title=drawn_name(title), xlabel=xlabel, visible=bool(lines))
        for i, (name, own) in enumerate(lines.items()):
            colour, marker = look(i)
            options = LINE | {"color": colour, "label": name}
            (handles[name],) = axes.plot(own.index, own["mean"], f"{marker}-", **options)
            band = own["mean"] - own["std"], own["mean"] + own["std"]
            axes.fill_between(own.index, *band, color=colour, alpha=0.2, linewidth=0)
    for axes in grid[:, 0]:
        axes.set_ylabel("%")
    _legend_below(figure, handles=list(handles.values()))
    return figure


# ---- points ----


def f1_by_size(rows: pd.DataFrame, few: int):
    """
    One point for each class with test texts: its F1 in percent against its training texts, on a
    logarithmic axis. Hollow points have fewer than `few` test texts.

    rows   of the classes: train and test (numbers of texts), f1
    """
    labels = {"xlabel": "training texts", "ylabel": "F1, %"}
    figure, axes = _panel("F1 of each class by its training texts", (3.5, 3.0), **labels)
    for chosen, face, label in (
        (rows[rows.test >= few], TOL[0], f"{few} test texts or more"),
        (rows[rows.test.between(1, few - 1)], "none", f"fewer than {few}"),
    ):
        if len(chosen):
            edge = {"facecolors": face, "edgecolors": TOL[0], "linewidths": 1, "zorder": 3}
            axes.scatter(chosen.train.clip(1), chosen.f1, s=22, label=label, **edge)
    shown = rows.train[rows.test > 0].clip(1)
    is_narrow = shown.max() < 300 * shown.min()
    axes.set(xscale="log", ylim=(-6, 106))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if is_narrow else (1,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(x=0.1)
    _legend_below(figure)
    return figure


def reliability(probability: np.ndarray, is_right: np.ndarray, bins: int = 10):
    """
    The reliability diagram of Guo et al. 2017, Fig. 1: the texts (n,) in bins by the probability of
    their prediction, and how many of each bin are right. The larger a point, the more texts.
    """
    bin_of = np.minimum((probability * bins).astype(int), bins - 1)
    texts = pd.DataFrame({"probability": 100 * probability, "is_right": 100 * is_right})
    found, size = texts.groupby(bin_of).mean(), texts.groupby(bin_of).size()
    labels = {
        "xlabel": "probability of the prediction, %",
        "ylabel": "predictions that are right, %",
    }
    figure, axes = _panel("Are its probabilities right?", (3.5, 3.3), **labels)
    axes.plot([0, 100], [0, 100], label="as they should be", **DASHED)
    axes.plot(found.probability, found.is_right, "-", color=TOL[0], linewidth=1.2)
    points = {"s": 12 + 150 * size / len(texts), "color": TOL[0], "zorder": 3}
    axes.scatter(found.probability, found.is_right, label="this run", **points)
    axes.set(xlim=(-3, 103), ylim=(-3, 103))
    _legend_below(figure, markerscale=0.5)
    return figure


# ---- t-SNE ----


POINT = ["x", "y", "label"]  # the columns of tsne.csv, and of a frame of points


def tsne(
    feats: np.ndarray,
    labels: np.ndarray,
    names: list[str],
    folder: Path,
    prototypes: np.ndarray | None = None,
    most: int = 2000,
) -> None:
    """
    Fig. 4: a seeded t-SNE of at most `most` test texts (n, h), and of the prototypes (C, h) in the
    same space, if there are any. Writes tsne_prototypes.csv with the prototypes' points, the
    figure, and last tsne.csv with the texts' points.

    With fewer than 10 different texts it draws nothing, says so, and writes an empty tsne.csv.
    """
    chosen = np.random.default_rng(0).permutation(len(feats))[:most]
    feats, labels = feats[chosen], labels[chosen]
    if len(np.unique(feats, axis=0)) < 10:
        print("no t-SNE: it needs at least 10 test texts with different embeddings")
        write_text(folder / "tsne.csv", csv_text(POINT, []))
        return
    whole = feats if prototypes is None else np.concatenate([feats, prototypes])
    perplexity = min(30, (len(whole) - 1) // 3)
    whole = TSNE(perplexity=perplexity, random_state=0).fit_transform(whole)
    places = [names[label] for label in labels] + names[: len(whole) - len(feats)]
    points = pd.DataFrame(whole.astype(float).round(3), columns=["x", "y"]).assign(label=places)
    texts, among = points[: len(feats)], points[len(feats) :]
    if prototypes is not None:
        _write_points(folder / "tsne_prototypes.csv", among)
    save_figure(draw_tsne({"": texts}, names, among), folder / "tsne.png")
    _write_points(folder / "tsne.csv", texts)  # last, see run_folder.last_plot


def _write_points(path: Path, points: pd.DataFrame) -> None:
    write_text(path, csv_text(POINT, points.itertuples(index=False)))


def read_points(path: Path) -> pd.DataFrame:
    """Reads tsne.csv or tsne_prototypes.csv; no rows if there is no such file."""
    try:
        rows = list(csv_rows(path)) if path.exists() else []
        points = [(float(row["x"]), float(row["y"]), row["label"]) for row in rows]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} is damaged: delete it and run the command of its folder again with --plots"
        ) from error
    return pd.DataFrame(points, columns=POINT)


def draw_tsne(panels: dict[str, pd.DataFrame], names: list[str], prototypes: pd.DataFrame):
    """
    A panel of texts for each title. A class has the same colour and marker in all panels; its
    prototype, if there is one, is a large ringed diamond with its name. If there are more than 9
    classes, the 8 with the most texts are coloured; the others are grey and without a name.
    """
    sizes = pd.concat(list(panels.values())).label.value_counts()
    coloured = names if len(names) <= 9 else sorted(sizes.index[:8], key=names.index)
    look_of = {name: (TOL[i % 6], MARKERS[i]) for i, name in enumerate(coloured)}
    size = (3.5 if len(panels) == 1 else 7, 2.8 + 0.1 * len(look_of) + (len(panels) == 1))
    shape = {"figsize": size, "squeeze": False, "layout": "constrained"}
    figure, (grid,) = plt.subplots(1, len(panels), **shape)
    for axes, (title, points) in zip(grid, panels.items()):
        grey = points[~points.label.isin(coloured)]
        if len(names) > len(coloured):
            axes.scatter(grey.x, grey.y, s=7, color=GREY, label="other classes", alpha=0.5)
        for name, (colour, marker) in look_of.items():
            own = points[points.label == name]
            options = {"color": colour, "marker": marker, "label": drawn_name(name)}
            axes.scatter(own.x, own.y, s=11, linewidths=0, alpha=0.7, **options)
        axes.set(xticks=[], yticks=[], title=title)
    ring = {"edgecolors": "black", "linewidths": 1.6, "marker": "D", "s": 60}
    bold = {"fontweight": "bold", "ha": "center", "textcoords": "offset points", "zorder": 4}
    for x, y, name in prototypes.itertuples(index=False):
        axes.scatter(x, y, color=look_of.get(name, (GREY,))[0], zorder=3, **ring)
        if name in look_of:
            axes.annotate(drawn_name(name, longest=14), (x, y), xytext=(0, 7), **bold)
    if len(prototypes):
        axes.scatter([], [], color="none", label="prototype of a class", **ring)
    handles, labels = axes.get_legend_handles_labels()
    _legend_below(figure, 2 * len(panels), handles=handles, labels=labels)
    return figure

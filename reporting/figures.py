"""
The figures of one run: as PNG or PDF files, and as SVG inside its page.
"""

import io
import re
import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.font_manager import get_font_names
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from sklearn.manifold import TSNE

from engine.files import InputError, save, write_text
from engine.results import csv_rows, csv_text

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402  after the backend is chosen

# Chinese, Japanese and Korean letters, which matplotlib's own font lacks, come from one of these
CJK = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei"),
    *("Droid Sans Fallback", "PingFang SC", "Hiragino Sans", "Microsoft YaHei", "Yu Gothic"),
    *("Malgun Gothic", "Arial Unicode MS"),
)
plt.rcParams["font.family"] += [name for name in CJK if name in set(get_font_names())]

# Paul Tol's bright palette, which is safe for the colour-blind
TOL = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb")
MARKERS = "os^vDPX<>*"  # ten, beside seven colours: the same look comes back after 70
LINE = {"markersize": 3.5, "linewidth": 1.2}
GREY = "#888888"  # readable on white and on black


def style(title_size: int = 8):
    """
    A context for figures, and a decorator of what draws one: letters of 8 points, and no box around
    a panel or a legend.
    """
    bare = dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False)
    return plt.rc_context({"font.size": 8, "axes.titlesize": title_size, **bare})


def _image(figure, kind: str, metadata: dict | None = None, **options) -> bytes:
    image = io.BytesIO()
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", "Glyph .* missing")
        figure.savefig(
            image, format=kind, dpi=150, bbox_inches="tight", metadata=metadata, **options
        )
    plt.close(figure)
    for warning in caught:
        if not re.match("Glyph .* missing", str(warning.message)):
            warnings.warn(warning.message, stacklevel=2)
        elif kind != "svg":  # there the letters are drawn by the browser, with its fonts
            _say_what_no_font_has()
    return image.getvalue()


@cache  # said once
def _say_what_no_font_has() -> None:
    print(
        "note: no font here has some letters of the labels, which figures show as boxes: install "
        "one, such as Noto Sans CJK",
        file=sys.stderr,
    )


def save_figure(figure, path: Path) -> None:
    """As PNG or PDF, whichever the path ends with; the same figure is the same file."""
    kind = path.suffix[1:]
    save(path, _image(figure, kind, {"CreationDate": None} if kind == "pdf" else None))


def svg(figure, title: str) -> str:
    """
    The figure as an <svg> element for a page; title is what a screen reader says.

    Its letters stay text, in the page's font. What is black follows the page's text colour, and the
    colours of TOL are the page's variables --series-0 to --series-6, so that the page decides how
    they look in dark mode. matplotlib's style sheet is left out: inside a page it would apply to
    the whole of it.
    """
    with plt.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        root = ElementTree.fromstring(_image(figure, "svg", {"Date": None}, transparent=True))
    for parent in root.iter():
        for child in list(parent):
            if child.tag.endswith(("}style", "}metadata")):
                parent.remove(child)
        parent.tag = parent.tag.rpartition("}")[2]
        parent.attrib = {
            name.rpartition("}")[2]: value
            for name, value in parent.attrib.items()
            if not (name == "id" and parent.tag == "g")
        }
        if "style" in parent.attrib:
            parent.set("style", _for_page(parent.attrib["style"]))
    width, height = (float(number) for number in root.attrib["viewBox"].split()[2:])
    root.attrib = {
        "viewBox": root.attrib["viewBox"],
        "width": f"{width * 4 / 3:.0f}",
        "height": f"{height * 4 / 3:.0f}",
        "role": "img",
        "aria-label": title,
    }
    return ElementTree.tostring(root, encoding="unicode")


def _for_page(style: str) -> str:
    """An element's style with the page's colours and the page's font."""
    style = re.sub(r"(fill|stroke): #000000", r"\1: currentColor", style)
    for i, colour in enumerate(TOL):
        style = style.replace(colour, f"var(--series-{i})")
    return re.sub("font-family: [^;]*; |; font-family: [^;]*", "", style)


MOST_NAMED = 120  # classes whose names and counts a figure can hold; more go without


def drawn_name(name: str, longest: int = 24) -> str:
    """
    Short, and without a meaning to matplotlib: $ starts a formula, a leading _ hides a label. What
    an SVG cannot hold, control characters, is a box, as letters are that the font lacks.
    """
    name = re.sub("[\0-\x1f\ufffe\uffff]", "□", " ".join(name.split()))
    name = name if len(name) <= longest else name[: longest - 1] + "…"
    return " " * name.startswith("_") + name.replace("$", r"\$")


def label_distribution(counts: list[int], names: list[str], title: str):
    """Fig. 1: training texts of each class, largest first; logarithmic, so that rare ones show."""
    order = np.argsort(-np.array(counts), kind="stable")
    is_named = len(names) <= MOST_NAMED
    width = max(4.0, 0.28 * len(names) + 1.5) if is_named else 10
    figure, axes = plt.subplots(figsize=(width, 3.2))
    bars = axes.bar(range(len(names)), [counts[i] for i in order], color=TOL[0])
    if is_named:
        axes.bar_label(bars, fontsize=7, rotation=90 if len(names) > 12 else 0, padding=2)
        axes.set_xticks(
            range(len(names)),
            [drawn_name(names[i]) for i in order],
            fontsize=8,
            rotation=90 if max(map(len, names)) > 3 else 0,
        )
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
    """
    Share of each true class (row) that was given each label (column), in percent: the deeper the
    colour, the larger the share. labels and predicted are (n,) numbers of names.
    """
    size, is_named = len(names), len(names) <= MOST_NAMED
    side = size * min(0.5, max(0.24, 2.2 / size)) if is_named else 10  # inches
    figure = plt.figure(figsize=(side, side))
    axes = figure.add_axes((0, 0, 1, 1))
    of_class = Counter(labels.tolist())
    for (row, column), count in Counter(zip(labels.tolist(), predicted.tolist())).items():
        share = count / of_class[row]
        box: dict = {"color": TOL[0], "linewidth": 0, "alpha": 0.75 * share}
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, **box))
        if is_named and share >= 0.005:
            centre = {"ha": "center", "va": "center_baseline", "fontsize": 8}
            axes.text(column, row, f"{100 * share:.0f}", **centre)
    axes.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5), xlabel="predicted", ylabel="true")
    if is_named:
        short = [drawn_name(name) for name in names]
        upright = {"rotation": 90, "rotation_mode": "anchor", "ha": "right", "va": "center"}
        axes.set_xticks(range(size), short, fontsize=8, **upright)
        axes.set_yticks(range(size), short, fontsize=8)
    axes.spines[:].set_alpha(0.4)
    return figure


def _panel(title: str, size: tuple[float, float], **options):
    """A figure of one panel, as wide as a telephone shows without scrolling, and its axes."""
    figure, axes = plt.subplots(figsize=size, layout="constrained")
    axes.set(title=title, **options)
    axes.tick_params(labelsize=8)  # by which it decides, when it is saved, how many ticks there are
    return figure, axes


def _legend_below(figure, columns: int = 2, **options) -> None:
    figure.legend(loc="outside lower center", ncols=columns, **options)


@style(10)
def curves(
    history: list[dict], title: str, lines: dict[str, str], mark: tuple[int, str] | None = None
):
    """
    One panel over the epochs, a line for each value that these epochs have; None if they have none.
    A line that is 0 in all epochs is left out: its method does not have what it measures.

    lines is {name: where it stands in an epoch's record, as "test.accuracy"}; mark is an epoch and
    what is said of it, which a vertical line shows.
    """
    epochs = pd.json_normalize(history).set_index("epoch")
    found = {name: epochs[place].dropna() for name, place in lines.items() if place in epochs}
    found = {name: own for name, own in found.items() if own.any()}
    if not found:
        return None
    figure, axes = _panel(title, (3.5, 2.7), xlabel="epoch")
    for (name, own), colour, marker in zip(found.items(), TOL, MARKERS):
        axes.plot(own.index, own, f"{marker}-", color=colour, label=name, **LINE)
    if mark is not None:
        axes.axvline(mark[0], color="black", linewidth=0.8, linestyle="--", label=mark[1])
    axes.xaxis.get_major_locator().set_params(integer=True)
    _legend_below(figure)
    return figure


def look(i: int) -> tuple[str, str]:
    """The colour and the marker of the i-th of several things."""
    return TOL[i % len(TOL)], MARKERS[i % len(MARKERS)]


def line(x: pd.Series, y: pd.Series) -> pd.DataFrame:
    """Mean and standard deviation of y at each x, in columns mean and std; 0 of a single number."""
    return y.groupby(x).agg(["mean", "std"]).fillna({"std": 0.0})


Panel = tuple[str, str, dict[str, pd.DataFrame]]  # title, label below, and its lines by name


def line_grid(
    panels: list[Panel],
    columns: int,
    size: tuple[float, float],
    ylabel: str,
    *,
    xscale: str = "linear",
    ticks: list[float] | None = None,
):
    """
    A line goes through its means in a band of ± its standard deviation. The same name has the same
    look in all panels, and there is one legend. The size is that of a panel, in inches; panels with
    ticks share their vertical axis.
    """
    rows = -(-len(panels) // columns)
    shape = {"figsize": (columns * size[0], rows * size[1]), "squeeze": False}
    shape |= {"layout": "constrained", "sharey": ticks is not None}
    figure, grid = plt.subplots(rows, columns, **shape)
    names = list(dict.fromkeys(name for *_, lines in panels for name in lines))
    handles = {}
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    for axes, (title, xlabel, lines) in zip(grid.flat, panels):
        axes.set_visible(bool(lines))
        for name, own in lines.items():
            colour, marker = look(names.index(name))
            options = LINE | {"color": colour, "label": name}
            (handles[name],) = axes.plot(own.index, own["mean"], f"{marker}-", **options)
            band = own["mean"] - own["std"], own["mean"] + own["std"]
            axes.fill_between(own.index, *band, color=colour, alpha=0.2, linewidth=0)
        axes.set(title=drawn_name(title), xlabel=xlabel, xscale=xscale)
        if all(own.index.dtype.kind == "i" for own in lines.values()):  # epochs
            axes.xaxis.get_major_locator().set_params(integer=True)
        if ticks is not None:
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.minorticks_off()
    for axes in grid[:, 0]:
        axes.set_ylabel(ylabel)
    _legend_below(figure, columns, handles=list(handles.values()))
    return figure


@style(10)
def f1_by_size(counts: np.ndarray, f1: np.ndarray, tested: np.ndarray, names: list[str], few: int):
    """
    One point for each class that has test texts: its training texts, on a logarithmic axis, against
    its F1 in percent. Hollow points rest on fewer test texts than `few`.

    counts, f1, tested, names   (C,): training texts, F1, test texts and name of each class
    """
    labels = {"xlabel": "training texts", "ylabel": "F1, %"}
    figure, axes = _panel("F1 of each class by its training texts", (3.5, 3.0), **labels)
    counts, rough = counts.clip(min=1), (tested > 0) & (tested < few)
    for chosen, face, label in (
        (tested >= few, TOL[0], f"{few} test texts or more"),
        (rough, "none", f"fewer than {few}"),
    ):
        if chosen.any():
            edge = {"facecolors": face, "edgecolors": TOL[0], "linewidths": 1, "zorder": 3}
            axes.scatter(counts[chosen], f1[chosen], s=22, label=label, **edge)
    shown = np.flatnonzero(tested > 0)
    width = np.log10(counts[shown].max() / counts[shown].min())
    _name_lowest(axes, counts, f1, names, shown)
    axes.set(xscale="log", ylim=(-6, 106))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if width < 2.5 else (1,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(x=0.1)
    _legend_below(figure)
    return figure


def _name_lowest(axes, counts: np.ndarray, f1: np.ndarray, names: list[str], shown: np.ndarray):
    """Of at most 60 classes that are shown, five of the lowest are named, where there is room."""
    place = np.stack([np.log10(counts / counts[shown].min()), f1 / 100], axis=1)  # (C, 2)
    width = max(place[shown, 0].max(), 1e-9)
    named: list[int] = []
    for label in sorted(shown, key=lambda label: f1[label]) if len(shown) <= 60 else ():
        away = abs(place[named] - place[label]) > (0.4 * width, 0.06)
        if away.any(axis=1).all() and len(named) < 5:
            named.append(label)
            is_left = place[label, 0] <= width / 2
            beside = {"xytext": (5 if is_left else -5, 0), "textcoords": "offset points"}
            beside |= {"ha": "left" if is_left else "right", "va": "center"}
            axes.annotate(
                drawn_name(names[label], longest=16), (counts[label], f1[label]), **beside
            )


# ---- can its probabilities be believed? ----


@style(10)
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
    dashed = {"color": "black", "linewidth": 0.8, "linestyle": "--"}
    axes.plot([0, 100], [0, 100], label="as they should be", **dashed)
    axes.plot(found.probability, found.is_right, "-", color=TOL[0], linewidth=1.2)
    points = {"s": 12 + 150 * size / len(texts), "color": TOL[0], "zorder": 3}
    axes.scatter(found.probability, found.is_right, label="this run", **points)
    axes.set(xlim=(-3, 103), ylim=(-3, 103))
    _legend_below(figure, markerscale=0.5)
    return figure


def covered(probability: np.ndarray, is_right: np.ndarray) -> tuple[np.ndarray, ...]:
    """
    What comes of predictions below a probability being left out: for each threshold that occurs,
    the highest first, (threshold, coverage, accuracy), where coverage is the share of the texts
    whose probability is at least the threshold, and accuracy is theirs, both in percent.
    """
    of_threshold = pd.Series(is_right).groupby(-probability).agg(["size", "sum"]).cumsum()
    kept = of_threshold["size"].to_numpy()
    accuracy = 100 * of_threshold["sum"].to_numpy() / kept
    return -of_threshold.index.to_numpy(), 100 * kept / len(probability), accuracy


@style(10)
def coverage(probability: np.ndarray, is_right: np.ndarray):
    """The accuracy of the share of the texts (n,) with the most certain predictions."""
    _, kept, accuracy = covered(probability, is_right)
    labels = {"xlabel": "texts that get a prediction, %", "ylabel": "accuracy on these, %"}
    figure, axes = _panel("Accuracy without the uncertain texts", (3.5, 3.3), **labels)
    look = "o-" if len(kept) < 10 else "-"
    axes.plot(kept, accuracy, look, color=TOL[0], markersize=3.5, linewidth=1.4)
    axes.set(xlim=(-3, 103), ylim=(min(accuracy.min(), 90) - 5, 101))
    return figure


# ---- t-SNE ----


Points = dict[str, list[tuple[float, float]]]  # by label


def tsne(
    feats: np.ndarray,
    labels: np.ndarray,
    names: list[str],
    folder: Path,
    prototypes: np.ndarray | None = None,
    most: int = 2000,
) -> None:
    """
    Fig. 4: t-SNE of the test texts (n, h), at most `most` of them, seeded, and of the prototypes
    (C, h) in the same space, if there are any. Leaves tsne_prototypes.csv with the prototypes'
    points, the figure, and, last, tsne.csv with the texts' points.

    For fewer than 10 different texts it says so, draws nothing, and leaves tsne.csv without points.
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
    of_texts = _by_label(points, [names[label] for label in labels])
    of_prototypes = _by_label(among, names)
    if prototypes is not None:
        _write_points(folder / "tsne_prototypes.csv", of_prototypes)
    if is_drawn:
        save_figure(draw_tsne(of_texts, of_prototypes, names), folder / "tsne.png")
    else:
        print("no t-SNE: it needs at least 10 test texts with different embeddings")
    _write_points(folder / "tsne.csv", of_texts)  # last, see run_folder.last_plot


def _by_label(points: Iterable, labels: Iterable[str]) -> Points:
    """The points (n, 2) of each label, with the three decimals of the files."""
    found = defaultdict(list)
    for (x, y), label in zip(points, labels):
        found[label].append((round(float(x), 3), round(float(y), 3)))
    return found


def _write_points(path: Path, points: Points) -> None:
    rows = ((f"{x:.3f}", f"{y:.3f}", label) for label in points for x, y in points[label])
    write_text(path, csv_text(["x", "y", "label"], rows))


def read_points(path: Path) -> Points:
    """tsne.csv, or tsne_prototypes.csv; nothing where there is no such file."""
    rows = list(csv_rows(path)) if path.exists() else []
    try:
        return _by_label(((row["x"], row["y"]) for row in rows), (row["label"] for row in rows))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} is damaged: delete it and run the command of its folder again with --plots"
        ) from error


def _name_points(axes, places: dict[str, tuple[float, float]]) -> None:
    """Writes each name above its point, or as much higher as keeps it clear of other names."""
    axes.autoscale_view()  # else transData has the limits of before the last points and margins
    to_share = axes.transData + axes.transAxes.inverted()  # from 0 to 1 across the axes
    shares = {name: to_share.transform(place) for name, place in places.items()}
    taken: list[tuple[float, float]] = []
    for name, (x, y) in sorted(shares.items(), key=lambda item: item[1][1]):
        y += 0.035
        while any(abs(x - at[0]) < 0.25 and abs(y - at[1]) < 0.04 for at in taken):
            y += 0.01
        taken.append((x, y))
        side = "left" if x < 0.15 else "right" if x > 0.85 else "center"
        bold = {"fontweight": "bold", "zorder": 4, "ha": side}
        axes.text(x, y, drawn_name(name, longest=14), transform=axes.transAxes, **bold)


@style(10)
def draw_tsne(points: Points, prototypes: Points, names: list[str]):
    """
    The texts of each class in a colour and a marker, and its prototype, where there is one, as a
    large ringed diamond with the name of the class beside it. Of more than 9 classes, the 8 with
    the most points have a colour, and the others are grey.
    """
    order = sorted((name for name in names if name in points), key=lambda name: -len(points[name]))
    coloured = sorted(order if len(names) <= 9 else order[:8], key=names.index)
    look_of = {name: (TOL[i % 6], MARKERS[i]) for i, name in enumerate(coloured)}
    figure, axes = _panel("", (3.5, 3.8 + 0.1 * len(look_of)))
    grey = [point for name in order if name not in look_of for point in points[name]]
    if grey:
        axes.scatter(*zip(*grey), s=7, color=GREY, label="other classes", linewidths=0, alpha=0.5)
    for name, (colour, marker) in look_of.items():
        own = {"color": colour, "marker": marker, "label": drawn_name(name)}
        axes.scatter(*zip(*points[name]), s=11, linewidths=0, alpha=0.7, **own)
    is_named = len(prototypes) <= 30
    ring = {"edgecolors": "black", "linewidths": 1.6, "marker": "D"}
    for name, place in prototypes.items():
        colour = look_of.get(name, (GREY,))[0]
        axes.scatter(*zip(*place), s=80 if is_named else 20, color=colour, zorder=3, **ring)
    axes.margins(0.09)
    if is_named and prototypes:
        _name_points(axes, {name: place[0] for name, place in prototypes.items()})
    if prototypes:
        axes.scatter([], [], s=40, color="none", label="prototype of a class", **ring)
    axes.set(xticks=[], yticks=[])
    _legend_below(figure, 2 if max(map(len, names)) > 9 else 3, markerscale=1.3)
    return figure

"""
Draws the figure of the method that README shows: the two branches, the prototypes as the bridge
between them, and how the samples of a class are built (Sections 3.3 to 3.5 of the paper).

    python docs/method_figure.py docs/method.png
"""

import argparse

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from PIL import Image

INK, GREY = "#222222", "#6b6b6b"
DATA, CLS, CL, PROTO = "#ececec", "#cfe3f7", "#d5ecd0", "#fde3b0"  # branches and their bridge
BRIDGE = "#b7791f"
OWN, OTHER, POSITIVE, NEGATIVE = "#2b6cb0", "#b5b5b5", "#1a7f37", "#c2410c"
SIZE = 11  # of letters, in points: 13.6 pixels where README shows the figure 800 pixels wide

MEMBERS = np.array([22, 40, 62, 74, 118])  # places of the samples on the circle, in degrees
OTHERS = np.array([-68, -54, -40, 138, 164, 176, 188, 200, 212, 224, 236, 250, 264, 278])
CENTRE = 66  # the prototype of class c
HARD_MEMBERS, HARD_OTHERS = (22, 118), (138, 164)  # the least and the most similar to it


def box(axes: Axes, x: float, y: float, width: float, height: float, text: str, fill: str) -> None:
    """Draws a box around (x, y), in units of the axes, with its text in the middle."""
    corner, style = (x - width / 2, y - height / 2), "round,pad=0,rounding_size=1.1"
    axes.add_patch(FancyBboxPatch(corner, width, height, boxstyle=style, fc=fill, ec=INK, lw=0.9))
    axes.text(x, y, text, ha="center", va="center", fontsize=SIZE, color=INK, linespacing=1.2)


def arrow(axes: Axes, *points: tuple[float, float], color: str = INK) -> None:
    """Draws a line through the points, with a head at the last one."""
    axes.plot(*np.array(points[:-1]).T, color=color, lw=1.3)
    axes.add_patch(
        FancyArrowPatch(
            *points[-2:], arrowstyle="-|>", mutation_scale=12, color=color, shrinkA=0, shrinkB=0
        )
    )


def draw_boxes(axes: Axes) -> None:
    """Draws the parts of Algorithm 1: views, encoder, the two branches, their losses."""
    for low, high, fill, name in ((33.5, 48, CLS, "classification"), (-5, 15, CL, "contrastive")):
        axes.add_patch(Rectangle((31.5, low), 68, high - low, fc=fill, ec="none", alpha=0.45))
        axes.text(32.3, high - 2.8, f"{name} branch", fontsize=SIZE, color=GREY, style="italic")
    box(axes, 6.5, 33, 12, 7, "text", DATA)
    box(axes, 6.5, 15, 12, 7, "second\nview", DATA)
    box(axes, 23, 24, 9, 9, "encoder", DATA)
    box(axes, 41, 39, 14, 7, "classifier w", CLS)
    box(axes, 63, 39, 22, 7, "logit compensation\n+ log $P_y$  (Eq. 6)", CLS)
    box(axes, 93, 39, 11, 7, r"$\mathcal{L}^{\rm CLS}$", CLS)
    box(axes, 41, 24, 14, 7, "projection\nproj$_h$", PROTO)
    box(axes, 57.5, 24, 13, 7, "prototypes\n(Eq. 5)", PROTO)
    box(axes, 41, 6, 14, 7, "projection\nproj$_f$", CL)
    box(axes, 57.5, 6, 13, 7, "D̂: texts and\nprototypes", CL)
    box(axes, 75, 6, 16, 7, "D̃: built\nsamples", CL)
    box(axes, 93, 6, 11, 7, "$\\mathcal{L}^{\\rm CL}$\n(Eq. 11)", CL)
    box(axes, 89.5, 24, 18, 7, r"$\mathcal{L}^{\rm CLS} + \mu\,\mathcal{L}^{\rm CL}$", DATA)


def draw_arrows(axes: Axes) -> None:
    """Draws what goes from one part to the next; the ways of the prototypes have their colour."""
    arrow(axes, (6.5, 29.5), (6.5, 18.5))
    for height in (33, 15):  # the views go into the encoder, which works for both branches
        arrow(axes, (12.5, height), (23, height), (23, 24 + (height - 24) / 2))
    for height in (39, 6):
        arrow(axes, (27.5, 24), (30, 24), (30, height), (34, height))
    for left, right, height in (
        (48, 52, 39),
        (74, 87.5, 39),
        (48, 51, 6),
        (64, 67, 6),
        (83, 87.5, 6),
    ):
        arrow(axes, (left, height), (right, height))
    arrow(axes, (93, 35.5), (93, 27.5))
    arrow(axes, (93, 9.5), (93, 20.5))
    arrow(axes, (57.5, 2.5), (57.5, -1.5), (93, -1.5), (93, 2.5))
    arrow(axes, (41, 35.5), (41, 27.5), color=BRIDGE)
    arrow(axes, (48, 24), (51, 24), color=BRIDGE)
    arrow(axes, (57.5, 20.5), (57.5, 9.5), color=BRIDGE)
    arrow(axes, (64, 24), (75, 24), (75, 9.5), color=BRIDGE)
    for x, y, said, side in (
        (7.3, 24, "word\nsubstitution", "left"),
        (30.8, 30, "feat", "left"),
        (76, 17.8, "pick hard samples", "left"),
        (75, -3.2, "anchors", "center"),
    ):
        axes.text(x, y, said, fontsize=SIZE - 1, color=GREY, ha=side, va="center")


def on_circle(degrees: float | np.ndarray, radius: float = 1.0) -> np.ndarray:
    """Returns the places (x, y), in two rows, of these angles."""
    radians = np.deg2rad(degrees)
    return radius * np.array([np.cos(radians), np.sin(radians)])


def draw_samples(axes: Axes, title: str) -> None:
    """Draws the samples of D̂ on the unit circle, with the prototype of class c as a star."""
    axes.plot(*on_circle(np.linspace(0, 360, 200)), color="#dddddd", lw=1, zorder=0)
    axes.scatter(*on_circle(OTHERS), s=38, color=OTHER, zorder=2)
    axes.scatter(*on_circle(MEMBERS), s=38, color=OWN, zorder=2)
    axes.scatter(*on_circle(CENTRE), s=170, marker="*", color=BRIDGE, zorder=3)
    axes.set_title(title, fontsize=SIZE + 0.5, color=INK)
    axes.set(aspect="equal", xlim=(-1.35, 1.35), ylim=(-1.2, 1.3))
    axes.axis("off")


def draw_simple_sampling(axes: Axes) -> None:
    """Rings what Eq. 8 draws: with replacement, from the class and from the other classes."""
    draw_samples(axes, "simple sampling (Eq. 8)")
    for places, color in (((40, 74), POSITIVE), ((176, 212, 264, -40), NEGATIVE)):
        axes.scatter(*on_circle(np.array(places)), s=130, fc="none", ec=color, lw=2, zorder=4)
    for place, color in ((74, POSITIVE), (264, NEGATIVE)):
        axes.text(
            *on_circle(place, 0.78), "2×", ha="center", va="center", fontsize=SIZE, color=color
        )


def draw_hard_mixup(axes: Axes) -> None:
    """Mixes the members least similar to the prototype, and the other samples most similar."""
    draw_samples(axes, "hard mixup (Eq. 9, 10)")
    for hard, share, color in ((HARD_MEMBERS, 0.3, POSITIVE), (HARD_OTHERS, 0.5, NEGATIVE)):
        ends = on_circle(np.array(hard))
        mixed = ends @ np.array([share, 1 - share])
        axes.scatter(*ends, s=130, fc="none", ec=color, lw=2, zorder=4)
        axes.plot(*ends, color=color, lw=1.2, zorder=1)
        axes.scatter(*(mixed / np.linalg.norm(mixed)), s=75, marker="D", color=color, zorder=5)


def draw_legend(axes: Axes) -> None:
    axes.axis("off")
    marks = [
        ("o", OWN, OWN, "member of class c"),
        ("o", OTHER, OTHER, "member of another class"),
        ("*", BRIDGE, BRIDGE, "prototype of class c"),
        ("o", "none", POSITIVE, "drawn as a positive"),
        ("o", "none", NEGATIVE, "drawn as a negative"),
        ("D", POSITIVE, POSITIVE, "mixed positive"),
        ("D", NEGATIVE, NEGATIVE, "mixed negative"),
    ]
    for row, (mark, fill, edge, text) in enumerate(marks):
        y = 0.95 - 0.11 * row
        axes.scatter(0.04, y, s=150 if mark == "*" else 70, marker=mark, fc=fill, ec=edge, lw=1.8)
        axes.text(0.11, y, text, fontsize=SIZE, va="center", color=INK)
    said = (
        "D̃ has 10 positives and 500",
        "negatives of each class. The share",
        "of mixed ones grows from ½ to 1.",
    )
    axes.text(0, 0.19, "\n".join(said), fontsize=SIZE, va="top", color=INK)
    axes.set(xlim=(0, 1), ylim=(0, 1))


def main(path: str) -> None:
    """Writes the figure to the path."""
    figure = plt.figure(figsize=(9, 6.9))
    axes = figure.add_axes((0.005, 0.43, 0.99, 0.56))
    axes.set(xlim=(0, 100), ylim=(-5, 48))
    axes.axis("off")
    draw_boxes(axes)
    draw_arrows(axes)
    draw_simple_sampling(figure.add_axes((0.01, 0.0, 0.31, 0.375)))
    draw_hard_mixup(figure.add_axes((0.33, 0.0, 0.31, 0.375)))
    draw_legend(figure.add_axes((0.675, 0.02, 0.32, 0.34)))
    figure.savefig(path, dpi=180, facecolor="white")
    plt.close(figure)
    Image.open(path).convert("RGB").quantize(96).save(path, optimize=True)  # a quarter of the size


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("path", help="the file that the figure goes to, such as docs/method.png")
    main(parser.parse_args().path)

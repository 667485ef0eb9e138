"""Plots of a judgement, dark as the engine's pictures are, in the colours of the class map."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from tomoscribe.engine.class_map import hex_colour
from tomoscribe.engine.replacing import replacing
from tomoscribe.train.evaluation.calibration import Calibration
from tomoscribe.train.evaluation.judgement import Judgement
from tomoscribe.train.plot_style import PAPER, PLOT_STYLE, QUIET, TEXT

__all__ = ["draw_calibration", "draw_confusion", "draw_dice"]

# A bin of fewer voxels than this says little, and is not drawn.
FEWEST_VOXELS = 100
# Above this many classes the numbers of a confusion matrix are too small to be read.
MOST_NUMBERED = 12


_STYLE = PLOT_STYLE | {"font.size": 11, "savefig.dpi": 150}


def draw_confusion(judgement: Judgement, output: Path) -> None:
    """Draw the confusion matrix: of every true class, the share that was given each class.

    Raises:
        OutputError: the picture cannot be written.
    """
    total = judgement.total
    shares = total.shares()
    classes = len(shares)
    names = ["background", *(label_class.name for label_class in judgement.class_map.classes)]
    side = min(3.2 + 0.95 * classes, 24)
    with _saved(output, (side + 0.4, side)) as figure:
        axes = figure.subplots()
        shades = LinearSegmentedColormap.from_list("shares", [PAPER, "#0b4a6f", "#56b4e9", "#e9f6fd"])
        axes.imshow(np.nan_to_num(shares), cmap=shades, vmin=0, vmax=1, aspect="equal")
        axes.set_xticks(range(classes), names, rotation=35, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(classes), names)
        axes.set_xlabel("labelled as")
        axes.set_ylabel("truth")
        axes.set_title("Of each true class, the share labelled as …", loc="left", pad=14)
        axes.set_xticks(np.arange(classes + 1) - 0.5, minor=True)
        axes.set_yticks(np.arange(classes + 1) - 0.5, minor=True)
        axes.grid(which="minor", linewidth=1)
        axes.tick_params(which="both", length=0)
        axes.spines[:].set_visible(False)
        if classes <= MOST_NUMBERED:
            for (true, given), share in np.ndenumerate(shares):
                text = "–" if np.isnan(share) else f"{share:.1%}\n{_short(int(total.counts[true, given]))}"
                ink = PAPER if share > 0.6 else TEXT
                axes.text(given, true, text, ha="center", va="center", color=ink, fontsize=9, linespacing=1.4)


def draw_calibration(judgement: Judgement, calibration: Calibration, output: Path) -> None:
    """Draw the reliability curve of every class and of the label that was given, and how often scores occur.

    Raises:
        OutputError: the picture cannot be written.
    """
    curves = {c.name: (calibration.curve(c.number), hex_colour(c.colour)) for c in judgement.class_map.classes}
    curves["the label given"] = calibration.curve(None), TEXT
    with _saved(output, (11.6, 6.6)) as figure:
        reliability, voxels = figure.subplots(1, 2)
        reliability.plot((0, 1), (0, 1), color=QUIET, linestyle=(0, (4, 4)), linewidth=1)
        for name, (curve, colour) in curves.items():
            enough = curve.voxels >= FEWEST_VOXELS
            if not enough.any():
                continue
            width = 2.6 if name == "the label given" else 1.8
            label = f"{name}  (error {curve.error:.3f})"
            reliability.plot(
                curve.score[enough],
                curve.accuracy[enough],
                "o-",
                color=colour,
                linewidth=width,
                markersize=4,
                label=label,
            )
            shown = np.where(enough, curve.voxels, np.nan)
            middles = (np.arange(len(shown)) + 0.5) / len(shown)
            voxels.step(middles, shown, where="mid", color=colour, linewidth=width)
        _fractions(reliability, "score", "share that is right")
        reliability.set_box_aspect(1)
        voxels.set_box_aspect(1)
        reliability.set_title("Reliability: above the line, scores are too low", loc="left")
        voxels.set_xlim(0, 1)
        voxels.set_yscale("log")
        voxels.grid(linewidth=0.6)
        voxels.set_xlabel("score")
        voxels.set_ylabel("voxels")
        voxels.set_title("How often each score occurs", loc="left")
        figure.legend(loc="outside lower center", ncols=min(len(curves), 3))


def draw_dice(judgement: Judgement, output: Path) -> None:
    """Draw how Dice is distributed over images and tomograms, class by class.

    Raises:
        OutputError: the picture cannot be written.
    """
    classes = judgement.class_map.classes
    images = judgement.image_dice()
    tomograms = np.array(
        [np.where(confusion.true > 0, confusion.dice(), np.nan) for confusion in judgement.tomograms.values()]
    )
    jitter = np.random.default_rng(0).uniform(-0.09, 0.09, len(tomograms))
    with _saved(output, (11, 1.9 + 0.62 * len(classes))) as figure:
        axes = figure.subplots()
        for row, label_class in enumerate(classes):
            colour = hex_colour(label_class.colour)
            values = images[:, label_class.number]
            values = values[~np.isnan(values)]
            if values.size:
                axes.boxplot(
                    values,
                    positions=[row],
                    widths=0.5,
                    orientation="horizontal",
                    whis=(5, 95),
                    showfliers=False,
                    patch_artist=True,
                    boxprops={"facecolor": colour + "40", "edgecolor": colour},
                    medianprops={"color": colour, "linewidth": 2.5},
                    whiskerprops={"color": colour},
                    capprops={"color": colour},
                )
            axes.scatter(
                tomograms[:, label_class.number],
                row + jitter,
                s=26,
                color=TEXT,
                edgecolor=PAPER,
                linewidth=0.8,
                zorder=3,
            )
        axes.set_yticks(range(len(classes)), [label_class.name for label_class in classes])
        axes.set_ylim(len(classes) - 0.4, -0.6)
        axes.set_xlim(-0.015, 1.015)
        axes.grid(axis="x", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("Dice")
        axes.set_title(
            "Dice of images (box: quartiles, whiskers: 5 % to 95 %) and of whole tomograms (points)", loc="left"
        )


@contextmanager
def _saved(output: Path, size: tuple[float, float]) -> Iterator[Figure]:
    """Give a figure of a size in inches and write it."""
    # Without pyplot: no window system is looked for, and no figure is kept.
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        yield figure
        with replacing(output) as temporary:
            figure.savefig(temporary, format="png")


def _fractions(axes: Axes, x: str, y: str) -> None:
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(linewidth=0.6)


def _short(count: int) -> str:
    """Return a count in three digits or fewer: 12, 1.2k, 345k, 6.7M."""
    for unit, suffix in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= unit:
            value = count / unit
            return f"{value:.1f}{suffix}" if value < 10 else f"{value:.0f}{suffix}"
    return str(count)

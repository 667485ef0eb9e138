"""The plot of `peers.py`: how many voxels a second every configuration labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullLocator
from peers_ratios import Outcome

from tomoscribe.engine.replacing import replacing
from tomoscribe.train.plot_style import PLOT_STYLE, QUIET, TEXT

__all__ = ["draw_speeds"]

OURS, THEIRS = "#56b4e9", "#8b95a5"
WHOLE_OPACITY = 0.45


def draw_speeds(outcomes: Sequence[Outcome], shape: tuple[int, int, int], output: Path) -> None:
    """Draw two bars for every configuration, steady state and whole process, on a logarithmic axis.

    Args:
        outcomes: in the order in which they are drawn, from the top.
        shape: of the tomogram, ``(z, y, x)``.
        output: the PNG file.

    Raises:
        OutputError: it cannot be written.
    """
    depth, height, width = shape
    with mpl.rc_context(PLOT_STYLE | {"font.size": 11, "savefig.dpi": 150}):
        figure = Figure(figsize=(11, 1.6 + 0.55 * len(outcomes)), layout="constrained")
        axes = figure.subplots()
        speeds = []
        for row, outcome in enumerate(outcomes):
            colour = OURS if outcome.configuration.is_tomoscribe else THEIRS
            steady = height * width / median(outcome.steady) / 1e6
            whole = depth * height * width / median(outcome.whole) / 1e6
            for speed, offset, opacity in ((steady, -0.2, 1), (whole, 0.2, WHOLE_OPACITY)):
                speeds.append(speed)
                axes.barh(row + offset, speed, 0.36, color=colour, alpha=opacity)
                axes.annotate(
                    f"{speed:.2f}",
                    (speed, row + offset),
                    (4, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=9,
                    color=TEXT if opacity == 1 else QUIET,
                )
        names = [f"{outcome.configuration.title}  {outcome.precision.upper()}" for outcome in outcomes]
        axes.set_yticks(range(len(outcomes)), names)
        for label, outcome in zip(axes.get_yticklabels(), outcomes, strict=True):
            label.set_color(OURS if outcome.configuration.is_tomoscribe else TEXT)
        axes.invert_yaxis()
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_locator(NullLocator())
        # A bar's length means something only beside others; they begin a little below the shortest.
        axes.set_xlim(min(speeds) / 2, max(speeds) * 1.25)
        axes.margins(y=0.01)
        axes.grid(axis="x", linewidth=0.5)
        axes.set_axisbelow(True)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("Mvoxel/s")
        axes.set_title(f"A tomogram of {depth} × {height} × {width}, the same weights", loc="left", pad=12, color=TEXT)
        legend = [
            Patch(color=TEXT, label="steady state"),
            Patch(color=TEXT, alpha=WHOLE_OPACITY, label="whole process"),
        ]
        axes.legend(handles=legend, loc="upper right")
        with replacing(output) as temporary:
            figure.savefig(temporary, format="png")

"""A plot of what the automatic trim measured in every slice, and of what it kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from tomoscribe.engine.replacing import replacing
from tomoscribe.train.dataset.writing import Survey
from tomoscribe.train.plot_style import PLOT_STYLE, QUIET

__all__ = ["draw_trims"]

_COLUMNS = 4
_KEPT, _CUT = "#56b4e9", "#d55e00"
_STYLE = PLOT_STYLE | {"font.size": 9, "savefig.dpi": 120}


def draw_trims(surveys: Sequence[Survey], output: Path) -> Path:
    """Draw the profile of every tomogram that was trimmed automatically, what is kept in blue and what is cut in red.

    Args:
        surveys: of tomograms with a profile; one at least.
        output: the PNG to write.

    Returns:
        `output`.

    Raises:
        OutputError: the picture cannot be written.
    """
    columns = min(_COLUMNS, len(surveys))
    rows = math.ceil(len(surveys) / columns)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(3.6 * columns, 2.0 * rows + 0.3), layout="constrained")
        for axes, found in zip(figure.subplots(rows, columns, squeeze=False).flat, surveys, strict=False):
            z, profile = np.arange(len(found.profile)), np.array(found.profile)
            start, stop = found.record.trim
            kept = (z >= start) & (z < stop)
            axes.fill_between(z, profile, where=kept, step="mid", color=_KEPT, alpha=0.35, linewidth=0)
            axes.plot(z, np.where(kept, profile, np.nan), color=_KEPT, linewidth=1.2, drawstyle="steps-mid")
            axes.plot(z, np.where(kept, np.nan, profile), color=_CUT, linewidth=1.2, drawstyle="steps-mid")
            axes.axhline(found.threshold, color=QUIET, linewidth=0.7, linestyle=":")
            axes.set_title(f"{found.record.name}  {start}:{stop} of {len(z)}", fontsize=9, loc="left")
            axes.set_ylim(bottom=0)
            axes.margins(x=0.01)
        for axes in figure.axes[len(surveys) :]:
            axes.remove()
        figure.supxlabel("z", color=QUIET, fontsize=9)
        figure.supylabel("structure of the slice", color=QUIET, fontsize=9)
        with replacing(output) as temporary:
            figure.savefig(temporary, format="png")
    return output

"""How plots look: dark, in the colours of the engine's pictures."""

from __future__ import annotations

from typing import Any

from tomoscribe.engine.class_map import hex_colour
from tomoscribe.engine.picture import BACKGROUND, BRIGHT, DIM, FRAME

__all__ = ["PAPER", "PLOT_STYLE", "QUIET", "TEXT"]


PAPER, _LINE, TEXT, QUIET = (hex_colour(colour) for colour in (BACKGROUND, FRAME, BRIGHT, DIM))

PLOT_STYLE: Any = {
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "axes.edgecolor": _LINE,
    "axes.labelcolor": QUIET,
    "axes.titlecolor": TEXT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "text.color": TEXT,
    "grid.color": _LINE,
    "legend.frameon": False,
}
"""matplotlib's rcParams; a plot adds the size of its type and its resolution."""

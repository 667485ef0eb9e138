"""The page and the plot of accuracy against cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl
import numpy as np
from accuracy_cost_networks import Structure
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator
from measuring import markdown_table

from tomoscribe.engine.replacing import replacing
from tomoscribe.train.plot_style import PLOT_STYLE, QUIET, TEXT

__all__ = ["Rewriting", "Row", "draw", "front", "steps", "tables"]

_WIDTHS, _DEPTHS, _STRIDED, _BUNDLED = "#56b4e9", "#e69f00", "#009e73", "#f0e442"
_STYLE = PLOT_STYLE | {"font.size": 11, "savefig.dpi": 150}


@dataclass(frozen=True)
class Row:
    """A network's figures.

    Attributes:
        title: what it is called.
        structure: what was trained shortly; None for the bundled model.
        again: a repetition of a training that is a row as well.
        parameters: how many it has.
        operations: for a voxel.
        seconds: for a megavoxel, in every round.
        cost: the time, as a ratio to the bundled model's.
        dice: of every class by name, over all voxels; None where the network is not trained.
        mean_dice: of the classes that the truth has.
    """

    title: str
    structure: Structure | None
    again: bool
    parameters: int
    operations: float
    seconds: Sequence[float]
    cost: float
    dice: Mapping[str, float] | None
    mean_dice: float | None

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        return asdict(self)


@dataclass(frozen=True)
class Rewriting:
    """The bundled network written in another way.

    Attributes:
        title: how.
        operations: for a voxel.
        time: as a ratio to the network as it is.
        different: the share of voxels that it labels differently.
        score_difference: the largest, of 255.
    """

    title: str
    operations: float
    time: float
    different: float
    score_difference: int


def front(rows: Sequence[Row]) -> list[Row]:
    """Return the short trainings that no cheaper one is as good as, the cheapest first."""
    best: list[Row] = []
    for row in sorted(_compared(rows), key=lambda row: row.cost):
        if not best or _dice(row) > _dice(best[-1]):
            best.append(row)
    return best


def steps(rows: Sequence[Row]) -> list[tuple[Row, Row, float, float, float]]:
    """Return the steps along the front: from, to, time as a ratio, gain of Dice, and that for a doubling of time."""
    found = []
    best = front(rows)
    for cheap, dear in pairwise(best):
        ratio, gain = dear.cost / cheap.cost, _dice(dear) - _dice(cheap)
        found.append((cheap, dear, ratio, gain, float(gain / np.log2(ratio))))
    return found


def tables(rows: Sequence[Row], rewritings: Sequence[Rewriting], bundled: str) -> list[str]:
    """Return the Markdown lines of networks, steps along the front and rewritings.

    Args:
        rows: the networks, with classes in common.
        rewritings: of the bundled model's.
        bundled: the title of the structure that the bundled model has.
    """
    classes = list(next((row.dice for row in rows if row.dice), {}))
    header = ["network", "parameters", "operations a voxel", "s / Mvoxel", "time", "mean Dice", *classes]
    cells = [
        [
            row.title,
            f"{row.parameters:,}",
            f"{row.operations:,.0f}",
            f"{median(row.seconds):.3f}",
            f"{row.cost:.2f}",
            "–" if row.mean_dice is None else f"{row.mean_dice:.3f}",
            *("–" if row.dice is None else f"{row.dice[name]:.3f}" for name in classes),
        ]
        for row in sorted(rows, key=lambda row: (row.structure is None, row.cost))
    ]
    lines = [markdown_table(header, cells), ""]
    if any(row.dice is None for row in rows):
        lines += ["A dash: its training is not finished.", ""]
    moves = steps(rows)
    if moves:
        header = ["along the front, from", "to", "time", "Dice", "Dice for twice the time"]
        cells = [[a.title, b.title, f"× {r:.2f}", f"{gain:+.3f}", f"{each:+.3f}"] for a, b, r, gain, each in moves]
        on_it = any(row.title == bundled for row in front(rows))
        lines += [
            "The front: the networks that no cheaper one is as good as. "
            f"The bundled model's structure, {bundled}, is {'' if on_it else 'not '}on it.",
            "[Depth 3, trained as long as the bundled model](bundled_model_depth_3/bundled_model.md).",
            "",
            markdown_table(header, cells),
            "",
        ]
    header = ["the bundled network with", "operations a voxel", "time", "other labels", "largest score difference"]
    cells = [
        [r.title, f"{r.operations:,.0f}", f"{r.time:.2f}", f"{r.different:.1e}", f"{r.score_difference} / 255"]
        for r in rewritings
    ]
    return [*lines, "## The same labels for less work?", "", markdown_table(header, cells)]


def draw(rows: Sequence[Row], output: Path) -> None:
    """Draw mean Dice against time and against operations.

    Raises:
        OutputError: the picture cannot be written.
    """
    judged = [row for row in rows if row.mean_dice is not None]
    with mpl.rc_context(_STYLE), replacing(output) as temporary:
        figure = Figure(figsize=(13, 6.4), layout="constrained")
        by_time, by_operations = figure.subplots(1, 2, sharey=True)
        _draw(by_time, judged, {row.title: row.cost for row in judged})
        _draw(by_operations, judged, {row.title: row.operations / 1000 for row in judged})
        by_time.set_xlabel("time for a voxel, ÷ the bundled model's in ONNX Runtime FP32")
        by_operations.set_xlabel("thousand operations for a voxel")
        by_time.set_ylabel("mean Dice on phantoms that nothing was trained on")
        figure.legend(*by_time.get_legend_handles_labels(), loc="outside lower center", ncols=3)
        figure.savefig(temporary, format="png")


def _draw(axes: Axes, rows: Sequence[Row], costs: Mapping[str, float]) -> None:
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(x=0.16, y=0.1)
    axes.grid(alpha=0.6)
    for series in _series(rows):
        places = [costs[row.title] for row in series.rows], [_dice(row) for row in series.rows]
        size = 15 if series.marker == "*" else 8
        axes.plot(
            *places,
            color=series.colour,
            marker=series.marker,
            markersize=size,
            linestyle=series.line,
            label=series.title,
        )
        for row, mark, *place in zip(series.rows, series.marks, *places, strict=True):
            ink = TEXT if row.structure is None else QUIET
            note = axes.annotate(
                mark, place, xytext=series.offset(mark), textcoords="offset points", color=ink, ha="center"
            )
            note.set_in_layout(False)


@dataclass(frozen=True)
class _Series:
    """Points of one kind: what the legend says, how they look, and what stands beside each."""

    title: str
    colour: str
    marker: str
    line: str
    rows: Sequence[Row]
    marks: Sequence[str]

    def offset(self, mark: str) -> tuple[int, int]:
        """Return where a mark is from its point, so that lines and points of the same place do not cover it."""
        if self.marker == "s":
            return 13, -13
        if self.marker == "o":
            return -9, 9
        return (0, -21) if "BF16" in mark else (0, 11)


def _series(rows: Sequence[Row]) -> list[_Series]:
    """Return the points of a plot: two lines that cross at the network that is trained first, and single ones."""
    short = [(row, row.structure) for row in _compared(rows) if row.structure and not row.structure.strided]
    found = []
    if short:
        first = short[0][1]
        wide = sorted((s.base_width, row) for row, s in short if s.depth == first.depth)
        deep = sorted((s.depth, row) for row, s in short if s.base_width == first.base_width)
        found = [
            _Series(
                f"width {first.base_width}, depth as marked", _DEPTHS, "s", "-", [row for _, row in deep],
                ["" if row.structure == first else str(depth) for depth, row in deep],
            ),
            _Series(
                f"depth {first.depth}, width as marked", _WIDTHS, "o", "-", [row for _, row in wide],
                [str(width) for width, _ in wide],
            ),
        ]  # fmt: skip
    strided = [row for row in rows if row.structure and row.structure.strided]
    again = [row for row in rows if row.again]
    bundled = [row for row in rows if row.structure is None]
    names = [row.title.partition(", ")[2] or "FP32" for row in bundled]
    return [
        *found,
        _Series("without the level at full resolution", _STRIDED, "D", "", strided, [""] * len(strided)),
        _Series("again, with another seed", _WIDTHS, "x", "", again, [""] * len(again)),
        _Series("the bundled model, after its own, longer training", _BUNDLED, "*", "", bundled, names),
    ]


def _compared(rows: Sequence[Row]) -> list[Row]:
    """Return the short trainings that can be compared: each network once."""
    return [row for row in rows if row.structure and not row.again and row.mean_dice is not None]


def _dice(row: Row) -> float:
    assert row.mean_dice is not None
    return row.mean_dice

"""What `scaling` makes of its measurements: the line through a curve, the flat ratios, tables, and the figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Self

import numpy as np
from measuring import markdown_table
from numpy.typing import NDArray
from scaling_overhead import BOOKKEEPING

__all__ = ["Curve", "LineFit", "Results", "draw", "largest_over_smallest", "tables"]

Figures = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """A cost against a size.

    Attributes:
        sizes: from small to large.
        rounds: for each size, the figure of every round.
    """

    sizes: tuple[int, ...]
    rounds: tuple[tuple[float, ...], ...]

    @classmethod
    def of(cls, rounds: Mapping[int, Sequence[float]]) -> Self:
        """Return the curve of figures by size."""
        return cls(tuple(sorted(rounds)), tuple(tuple(rounds[size]) for size in sorted(rounds)))

    @property
    def costs(self) -> list[float]:
        """The median of each size's rounds."""
        return [median(figures) for figures in self.rounds]

    def at(self, size: int) -> float:
        """Return the cost of a size that was measured."""
        return self.costs[self.sizes.index(size)]

    def to_json(self) -> dict[str, Any]:
        """Return sizes and rounds in JSON's types."""
        return {"sizes": list(self.sizes), "rounds": [list(figures) for figures in self.rounds]}


@dataclass(frozen=True)
class LineFit:
    """A straight line through measured times, fitted so that every point's relative deviation counts alike.

    Noise is a share of what is measured: without the weights the largest volume alone would say where the line lies.
    """

    slope: float
    intercept: float

    @classmethod
    def of(cls, sizes: Sequence[float], costs: Sequence[float]) -> Self:
        """Fit a line to two points or more, by least squares with the weights 1 / cost."""
        slope, intercept = np.polyfit(sizes, costs, 1, w=1 / np.asarray(costs))
        return cls(float(slope), float(intercept))

    def deviations(self, sizes: Sequence[float], costs: Sequence[float]) -> Figures:
        """Return how far each point lies above the line, as a share of the line's value there."""
        line: Figures = self.slope * np.asarray(sizes, np.float64) + self.intercept
        return np.asarray(costs) / line - 1


@dataclass(frozen=True)
class Results:
    """Everything that was measured.

    Attributes:
        side: height and width of the slices of all volumes, in pixels.
        volumes: seconds of `segment`, by number of slices.
        memory: peak of resident memory of its process, bytes, by number of slices.
        tiles: seconds a pixel of the bare backend, by side of the tile.
        classes: the same by number of classes with background, of networks with random weights.
        slots: seconds a slice of the stream, from file to files, by number of slots.
        default_slots: how many `segment` takes.
        cores: seconds a slice of `segment`, by number of cores.
        overhead: seconds a slot, by what they are of; see `scaling_overhead`.
        work: seconds that the bare backend takes for a slot of `side` × `side`, of the model itself.
    """

    side: int
    volumes: Curve
    memory: Curve
    tiles: Curve
    classes: Curve
    slots: Curve
    default_slots: int
    cores: Curve
    overhead: Mapping[str, float]
    work: float

    @property
    def voxels(self) -> list[float]:
        """Of each volume."""
        return [slices * self.side**2 for slices in self.volumes.sizes]

    @property
    def line(self) -> LineFit:
        """Seconds of `segment` against voxels."""
        return LineFit.of(self.voxels, self.volumes.costs)

    @property
    def deviations(self) -> Figures:
        """How far each volume is from the line."""
        return self.line.deviations(self.voxels, self.volumes.costs)

    def ratios(self) -> dict[str, float]:
        """Return the figures that count."""
        return {
            "linear_in_voxels": float(np.abs(self.deviations).max()),
            "memory_largest_over_smallest": largest_over_smallest(self.memory.costs),
            "tile_cost_largest_over_smallest": largest_over_smallest(self.tiles.costs),
            "classes_cost_most_over_fewest": self.classes.costs[-1] / self.classes.costs[0],
            "default_slots_over_best": min(self.slots.costs) / self.slots.at(self.default_slots),
            "cores_speedup": self.cores.costs[0] / self.cores.costs[-1],
            "python_overhead_fraction": max(self.overhead[name] for name in BOOKKEEPING) / self.work,
        }

    def to_json(self) -> dict[str, Any]:
        """Return what was measured in JSON's types."""
        curves = ("volumes", "memory", "tiles", "classes", "slots", "cores")
        return {
            **{name: getattr(self, name).to_json() for name in curves},
            "side": self.side,
            "seconds_per_voxel": self.line.slope,
            "seconds_of_any_volume": self.line.intercept,
            "default_slots": self.default_slots,
            "seconds_per_slot": {**self.overhead, "the model": self.work},
        }


def largest_over_smallest(costs: Sequence[float]) -> float:
    """Return the largest cost over the smallest, whatever sizes they are of: 1 where a cost is flat."""
    return max(costs) / min(costs)


def tables(results: Results) -> str:
    """Return every study as a Markdown table under a heading."""
    side, line = results.side, results.line
    volumes = zip(results.volumes.sizes, results.volumes.costs, results.deviations, results.memory.costs, strict=True)
    sections = {
        f"`segment`, slices of {side} × {side}, each volume in a process of its own": (
            ["slices", "seconds", "off the line", "peak memory, MB"],
            [[str(n), f"{cost:.2f}", f"{off:+.1%}", f"{peak / 1e6:.0f}"] for n, cost, off, peak in volumes],
        ),
        "Bare backend by tile, one to a slot": (
            ["side, pixels", "ns a pixel"],
            [[str(n), f"{cost * 1e9:.0f}"] for n, cost in _points(results.tiles)],
        ),
        "Bare backend by classes with background, random weights, FP32": (
            ["classes", "ns a pixel"],
            [[str(n), f"{cost * 1e9:.0f}"] for n, cost in _points(results.classes)],
        ),
        f"Stream from file to files by slots; `segment` takes {results.default_slots}": (
            ["slots", "ms a slice"],
            [[str(n), f"{cost * 1e3:.0f}"] for n, cost in _points(results.slots)],
        ),
        "`segment` by cores": (
            ["cores", "ms a slice", "times as fast as one"],
            [
                [str(n), f"{cost * 1e3:.0f}", f"{results.cores.costs[0] / cost:.2f}"]
                for n, cost in _points(results.cores)
            ],
        ),
        f"A slot of one tile of {side} × {side}": (
            ["", "µs", "of the model's"],
            [
                [name, f"{seconds * 1e6:.1f}", f"{seconds / results.work:.3%}"]
                for name, seconds in (*results.overhead.items(), ("the model", results.work))
            ],
        ),
    }
    pages = [f"## {title}\n\n{markdown_table(header, rows)}" for title, (header, rows) in sections.items()]
    pages[0] += f"\n\nThe line: {line.intercept:.2f} s, and {line.slope * 1e6:.3f} s for each million voxels."
    return "\n\n".join(pages)


def draw(results: Results, path: Path) -> None:
    """Draw a panel for each study."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(2, 4, figsize=(14, 6.2), layout="constrained")
    seconds, deviation, memory, tiles, classes, slots, cores, overhead = panels.flat
    voxels, line = np.array(results.voxels) / 1e6, results.line
    seconds.plot(voxels, results.volumes.costs, "o")
    seconds.plot(voxels, line.slope * voxels * 1e6 + line.intercept, color="grey", label="fitted line")
    seconds.set(title="segment", ylabel="seconds", yscale="log")
    deviation.axhline(0, color="grey")
    deviation.plot(voxels, 100 * results.deviations, "o")
    furthest = max(5.0, 110 * float(np.abs(results.deviations).max()))
    deviation.set(title="segment, off the line", ylabel="%", ylim=(-furthest, furthest))
    memory.plot(voxels, np.array(results.memory.costs) / 1e6, "o-")
    memory.set(title="segment, peak of memory", ylabel="MB")
    for axes in (seconds, deviation, memory):
        axes.set(xlabel="million voxels", xscale="log")
        axes.set_xticks(voxels, [f"{size:.0f}" for size in voxels])
        axes.minorticks_off()
    for axes, curve, scale, title, size, unit in (
        (tiles, results.tiles, 1e9, "backend alone, by tile", "side of the tile, pixels", "ns a pixel"),
        (classes, results.classes, 1e9, "backend alone, by classes", "classes with background", "ns a pixel"),
        (slots, results.slots, 1e3, "stream, by slots", "slots", "ms a slice"),
    ):
        axes.plot(curve.sizes, scale * np.array(curve.costs), "o-")
        axes.set(title=title, xlabel=size, ylabel=unit)
    slots.axvline(results.default_slots, color="grey", linestyle=":", label="what segment takes")
    cores.plot(results.cores.sizes, results.cores.costs[0] / np.array(results.cores.costs), "o-")
    cores.plot(results.cores.sizes, np.array(results.cores.sizes) / results.cores.sizes[0], color="grey", label="ideal")
    cores.set(title="segment, by cores", xlabel="cores", ylabel="times as fast as one", xticks=results.cores.sizes)
    for axes in (memory, tiles, classes, slots, cores):
        axes.set_ylim(0, 1.1 * axes.get_ylim()[1])
    for axes in (seconds, slots, cores):
        axes.legend()
    costs = {**results.overhead, "the model": results.work}
    overhead.barh([name.replace(", ", ",\n") for name in costs], [1e6 * cost for cost in costs.values()])
    overhead.axvline(1e4 * results.work, color="grey", linestyle=":")
    overhead.invert_yaxis()
    overhead.set(title="a slot; dotted: 1 % of the model", xlabel="µs", xscale="log")
    figure.savefig(path, dpi=120)


def _points(curve: Curve) -> list[tuple[int, float]]:
    return list(zip(curve.sizes, curve.costs, strict=True))

"""What follows from the parts of `gpu.py`: figures by name, and the aims that they are measured against."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from gpu_parts import Scale
from gpu_running import Outcome

__all__ = ["Aim", "Figures", "aims", "ratios"]


@dataclass(frozen=True)
class Aim:
    """What a figure is to be.

    Attributes:
        title: in words.
        name: of the ratio, or of the seconds.
        bound: least value, or with `is_most` the largest.
        is_most: whether less is better.
    """

    title: str
    name: str
    bound: float
    is_most: bool = False

    def is_met(self, value: float) -> bool:
        """Return whether a value is as it is to be."""
        return value <= self.bound if self.is_most else value >= self.bound


class Figures:
    """What the parts found, by the parts' names.

    Args:
        outcomes: of all parts so far.
    """

    def __init__(self, outcomes: Iterable[Outcome]) -> None:
        self._notes = {outcome.part.name: outcome.notes for outcome in outcomes}

    def notes(self, part: str, kind: str) -> list[Mapping[str, Any]]:
        """Return what a part noted of a kind, in the order in which it did."""
        return [note for note in self._notes.get(part, ()) if note["kind"] == kind]

    def seconds(self, part: str, name: str) -> float | None:
        """Return the median of what was timed under a name; None if nothing was."""
        taken = [note["seconds"] for note in self.notes(part, "seconds") if note["name"] == name]
        return median(taken) if taken else None

    def operations(self, width: int) -> float | None:
        """Return the operations that the network of a base width takes for a voxel."""
        found = {note["width"]: note["operations"] for note in self.notes("prepare", "network")}
        return found.get(width)

    def peak(self, precision: str) -> float | None:
        """Return the operations a second of a product of matrices."""
        found = {note["precision"]: note["operations_per_second"] for note in self.notes("peak", "peak")}
        return found.get(precision)

    def fastest(self, backends: Sequence[str], width: int, name: str) -> float | None:
        """Return the seconds of the fastest backend."""
        found = [self.seconds(f"volume {backend} {width}", name) for backend in backends]
        return min((seconds for seconds in found if seconds is not None), default=None)


def ratios(figures: Figures, scale: Scale) -> dict[str, float]:
    """Return the figures that count, by name; only those whose parts were done.

    ``overlap_…``: the bare backend's seconds over those from file to files, and ``overlap_in_memory_…`` over those of a
    tomogram whose labels are not written. ``peak_fraction_…``: operations a second of the bare backend over those of a
    product of matrices in the same precision. ``over_…``: PyTorch's seconds over those of tomoscribe's fastest backend,
    from file to files, and ``…_in_memory`` of both without any files. ``labels_equal_…``: the share of voxels.
    ``raw_…``: the seconds where slices cross the bus as float32, over those as they are stored.
    ``graphs``: the seconds without CUDA graphs over those where they may be used.
    """
    found: dict[str, float | None] = {}
    voxels = scale.shape[0] * scale.shape[1] * scale.shape[2]
    for width in scale.widths:
        for backend in scale.backends:
            part, name = f"volume {backend} {width}", f"{backend}_{width}"
            bare = figures.seconds(part, "bare")
            found[f"overlap_{name}"] = _over(bare, figures.seconds(part, "files"))
            found[f"overlap_in_memory_{name}"] = _over(bare, figures.seconds(part, "memory"))
            operations = figures.operations(width)
            rate = _over(None if operations is None else operations * voxels, bare)
            found[f"peak_fraction_{name}"] = _over(rate, figures.peak(scale.precision))
        for way in ("eager", "monai", "compiled"):
            for suffix, theirs, ours in (("", "files", "files"), ("_in_memory", "memory", "bare")):
                found[f"over_torch_{way}_{width}{suffix}"] = _over(
                    figures.seconds(f"torch {width}", f"{way} {theirs}"),
                    figures.fastest(scale.backends, width, ours),
                )
    for backend in scale.backends:
        for note in figures.notes(f"parity {backend}", "parity"):
            found[f"labels_equal_{backend}_{note['precision']}"] = note["labels_equal"]
        for dtype in ("int8", "int16", "float16"):
            found[f"raw_{dtype}_{backend}"] = _over(
                figures.seconds(f"bus {backend}", f"{dtype} as float32"),
                figures.seconds(f"bus {backend}", f"{dtype} as {dtype}"),
            )
    found["graphs"] = _over(
        figures.seconds("library tensorrt cuda.bindings without graphs", "bare"),
        figures.seconds("library tensorrt cuda.bindings", "bare"),
    )
    return {name: value for name, value in found.items() if value is not None}


def aims(scale: Scale) -> Iterator[Aim]:
    """Yield what is aimed at on one GPU of the H200's class."""
    largest = max(scale.widths)
    for backend in scale.backends:
        yield Aim(f"{backend}, base {largest}: overlap, file to files", f"overlap_{backend}_{largest}", 0.95)
    yield Aim(f"base {largest}: seconds, file to files, the fastest backend", f"seconds_{largest}", 2, is_most=True)
    yield Aim(f"base {largest}: over PyTorch with MONAI, file to files", f"over_torch_monai_{largest}", 3)
    yield Aim(f"base {largest}: over torch.compile, in memory", f"over_torch_compiled_{largest}_in_memory", 1.2)
    for backend in scale.backends:
        yield Aim(f"{backend}, FP32: the same labels as on the CPU", f"labels_equal_{backend}_fp32", 0.9999)
        yield Aim(f"{backend}, FP16: the same labels as on the CPU", f"labels_equal_{backend}_fp16", 0.999)


def _over(numerator: float | None, denominator: float | None) -> float | None:
    return None if numerator is None or not denominator else numerator / denominator

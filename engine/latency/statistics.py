"""What is said of many measured times: their spread, their percentiles, and how far a figure can be trusted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

__all__ = ["Distribution", "Figure", "parts"]

_PARTS = 5
_PERCENTILES = (90, 95, 99)


@dataclass(frozen=True)
class Distribution:
    """How times are distributed, in ms, as trtexec tells it (``getPerformanceResult`` in its ``sampleReporting.cpp``).

    Attributes:
        minimum: the shortest.
        maximum: the longest.
        mean: of all.
        p50: the median: the middle one, or the mean of the two in the middle.
        p90: the time that 90 % do not exceed, by nearest rank: one of the measured times, never one between two.
            trtexec leaves ``(1 - p) × n`` of them out, rounded down, and takes the longest of the rest, which is the
            same but where its single precision rounds across a whole number.
        p95: the same for 95 %; of fewer than 20 times it is the longest.
        p99: the same for 99 %; of fewer than 100 times it is the longest.
        coefficient_of_variation: the standard deviation over the mean, both of all times.
    """

    minimum: float
    maximum: float
    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    coefficient_of_variation: float

    @classmethod
    def of(cls, times: NDArray[np.floating[Any]]) -> Self:
        """Return the distribution of one time or more, an array of any shape, in ms."""
        mean = float(times.mean())
        p90, p95, p99 = (float(time) for time in np.percentile(times, _PERCENTILES, method="inverted_cdf"))
        return cls(
            minimum=float(times.min()),
            maximum=float(times.max()),
            mean=mean,
            p50=float(np.median(times)),
            p90=p90,
            p95=p95,
            p99=p99,
            coefficient_of_variation=float(times.std()) / mean if mean else 0.0,
        )

    def to_json(self) -> dict[str, float]:
        """Return it in JSON's types."""
        return {name: round(value, 6) for name, value in asdict(self).items()}


@dataclass(frozen=True)
class Figure:
    """One figure of a measurement.

    Attributes:
        value: in the unit that the figure's name ends with.
        error: its standard error over the value; None where it was measured only once.
        samples: how often it was measured.
    """

    value: float
    error: float | None
    samples: int

    @classmethod
    def of(cls, value: float, samples: Sequence[float]) -> Self:
        """Return a figure whose error is that of the mean of some samples of it."""
        count = len(samples)
        if count < 2:
            return cls(value, None, count)
        return cls(value, float(np.std(samples, ddof=1) / np.mean(samples)) / math.sqrt(count), count)

    @classmethod
    def median(cls, samples: Sequence[float]) -> Self:
        """Return the median of some samples as a figure."""
        return cls.of(float(np.median(samples)), samples)

    def to_json(self) -> dict[str, float | None]:
        """Return it in JSON's types."""
        return {"value": self.value, "standard_error": self.error, "samples": self.samples}


def parts(count: int) -> list[slice]:
    """Return five consecutive parts of a run, or as many as there are turns in it, as even as can be.

    How a figure differs between them says how far that of the whole can be trusted, also where a slow spell of the
    machine holds several turns in a row (the method of batch means: Law, Simulation Modeling and Analysis, 9.5.3).
    """
    bounds = np.linspace(0, count, min(_PARTS, count) + 1).round().astype(int).tolist()
    return [slice(first, stop) for first, stop in pairwise(bounds)]

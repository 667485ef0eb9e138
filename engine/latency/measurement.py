"""The latency and the throughput of a backend, as trtexec defines and measures them.

A *query* is one slot: a batch of tiles goes in, labels and scores come out. So many queries are in the backend's hands
at a time as it has streams; each is submitted anew as soon as its answer is there. Queries are not counted until the
warm-up is over, and the backend has work until the last that counts is answered.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tomoscribe.engine.backends import Backend, Slot, SlotShape
from tomoscribe.engine.bundle import ModelSpecification
from tomoscribe.engine.latency.configuration import Configuration, Effort
from tomoscribe.engine.latency.statistics import Distribution, Figure, parts

__all__ = ["Latency", "measure_latency"]

_NANOSECONDS = 1e-9
_MILLISECONDS = 1e-6
# trtexec warns from here on (its `kENQUEUE_BOUND_REPORTING_THRESHOLD`).
_ENQUEUE_BOUND = 0.8

Times = NDArray[np.int64]


@dataclass(frozen=True)
class Latency:
    """What a backend did with its queries, all times in ns of one clock.

    Queries are arrays of ``(turns, streams)``: one row for each time that all streams were waited for, in the order of
    submission. On a CPU no data is transferred, so that latency is compute time; where a backend transfers, its latency
    holds both transfers, as trtexec's does.

    Attributes:
        configuration: what was measured; its `streams` is a number.
        description: what ran where, the backend's own words.
        warm_ups: queries that ran before.
        start: when the last of those was answered.
        submitted: when each query was about to be submitted.
        enqueued: when the backend had taken it.
        answered: when the wait for it was over. Answers are waited for in the order of submission, so that one that
            overtakes another counts as answered with that.
    """

    configuration: Configuration
    description: str
    warm_ups: int
    start: int
    submitted: Times
    enqueued: Times
    answered: Times

    @property
    def queries(self) -> int:
        """Queries that count."""
        return self.answered.size

    @property
    def wall_time(self) -> float:
        """Seconds from the last answer of the warm-up to the last answer that counts.

        Every stream has work all the while. trtexec counts from the first submission instead.
        """
        return float(self.answered[-1, -1] - self.start) * _NANOSECONDS

    @property
    def latency(self) -> Distribution:
        """From the submission of a query to its answer."""
        return Distribution.of(self._milliseconds())

    @property
    def enqueue(self) -> Distribution:
        """What submitting a query takes of the calling thread's time."""
        return Distribution.of((self.enqueued - self.submitted) * _MILLISECONDS)

    @property
    def queries_per_second(self) -> float:
        """Queries over the wall time."""
        return self.queries / self.wall_time

    @property
    def mvoxels_per_second(self) -> float:
        """Millions of voxels that are labelled a second."""
        return self.queries_per_second * self._mvoxels

    @property
    def enqueue_bound(self) -> bool:
        """Whether submitting may set the pace: it takes more than 0.8 of the latency, by their medians."""
        return self.enqueue.p50 > _ENQUEUE_BOUND * self.latency.p50

    def figures(self) -> dict[str, Figure]:
        """Return what is compared between two runs: percentiles of the latency, and the throughput.

        Their errors come from consecutive parts of the run. A percentile that is the longest latency, because there are
        too few queries, is left out: it says nothing that is true of another run.
        """
        latencies, found = self._milliseconds(), self.latency
        percentiles = {"p50": found.p50, "p90": found.p90, "p95": found.p95, "p99": found.p99}
        spans = parts(len(latencies))
        of_parts = [Distribution.of(latencies[span]) for span in spans]
        figures = {
            f"latency_{name}_ms": Figure.of(value, [getattr(part, name) for part in of_parts])
            for name, value in percentiles.items()
            if name == "p50" or value < found.maximum
        }
        turns = np.array([self.start, *self.answered[:, -1]])
        speeds = [(span.stop - span.start) / float(turns[span.stop] - turns[span.start]) for span in spans]
        return figures | {"mvoxels_per_second": Figure.of(self.mvoxels_per_second, speeds)}

    def to_json(self) -> dict[str, Any]:
        """Return what `figures` does not have, in JSON's types."""
        return {
            "queries": self.queries,
            "warm_up_queries": self.warm_ups,
            "wall_time_s": round(self.wall_time, 6),
            "latency_ms": self.latency.to_json(),
            "enqueue_ms": self.enqueue.to_json(),
            "queries_per_second": round(self.queries_per_second, 6),
            "enqueue_bound": self.enqueue_bound,
        }

    def _milliseconds(self) -> NDArray[np.float64]:
        return (self.answered - self.submitted).astype(np.float64) * _MILLISECONDS

    @property
    def _mvoxels(self) -> float:
        height, width = self.configuration.tile
        return self.configuration.batch * height * width / 1e6


def measure_latency(
    backend: Backend,
    configuration: Configuration,
    specification: ModelSpecification,
    effort: Effort,
    now: Callable[[], int] = time.perf_counter_ns,
) -> Latency:
    """Measure queries of noise on a backend that nobody else uses.

    Args:
        backend: loaded as the configuration says, with as many streams.
        configuration: what is measured.
        specification: of the bundle that the backend runs.
        effort: how long to measure.
        now: returns nanoseconds, and never less than before.

    Raises:
        BackendError: the backend failed.
    """
    shape = SlotShape(configuration.batch, specification.context, *configuration.tile, specification.classes)
    slots = backend.allocate(shape, backend.streams)
    _fill_with_noise(slots)
    try:
        queries = _Queries(backend, slots, now)
        warm_up = queries.run(effort.warm_up / _MILLISECONDS, 1)
        counted = queries.run(effort.duration / _NANOSECONDS, effort.runs)
    finally:
        backend.cancel()
    return Latency(
        configuration=configuration,
        description=backend.description,
        warm_ups=warm_up[..., 0].size,
        start=int(warm_up[-1, -1, 2]),
        submitted=counted[..., 0],
        enqueued=counted[..., 1],
        answered=counted[..., 2],
    )


def _fill_with_noise(slots: Sequence[Slot]) -> None:
    """Fill slots with noise that is normalised, and have all of their slices labelled."""
    random = np.random.default_rng(0)
    for slot in slots:
        slot.slices[:] = random.standard_normal(slot.slices.shape, np.float32)
        slot.mean[:], slot.rstd[:], slot.count = 0, 1, len(slot.labels)


class _Queries:
    """Queries one after the other on each slot, all slots at the same time, from the beginning on."""

    def __init__(self, backend: Backend, slots: Sequence[Slot], now: Callable[[], int]) -> None:
        self._backend = backend
        self._slots = slots
        self._now = now
        self._running = [self._submit(slot) for slot in slots]

    def run(self, nanoseconds: float, queries: int) -> Times:
        """Take turns for so long and for so many queries, at least.

        Returns:
            ``(turns, slots, 3)``: when each query was about to be submitted, was submitted, and was answered.
        """
        begin = self._now()
        turns = [self._turn()]
        while turns[-1][-1][2] - begin < nanoseconds or len(turns) * len(self._slots) < queries:
            turns.append(self._turn())
        return np.array(turns, np.int64)

    def _turn(self) -> list[tuple[int, int, int]]:
        answered = []
        for index, slot in enumerate(self._slots):
            self._backend.wait(slot)
            answered.append((*self._running[index], self._now()))
            self._running[index] = self._submit(slot)
        return answered

    def _submit(self, slot: Slot) -> tuple[int, int]:
        begin = self._now()
        self._backend.submit(slot)
        return begin, self._now()

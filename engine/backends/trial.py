"""A short measured trial: which of several backends labels slices fastest here."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tomoscribe.engine.backends.contract import Backend, Slot, SlotShape
from tomoscribe.engine.bundle import ModelSpecification
from tomoscribe.engine.errors import BackendError

__all__ = ["Trial", "run_trial"]

# From here on, how fast a network runs hardly depends on the size of the tile; how long a trial takes does.
_PIXELS = 128
_ROUNDS = 9
_SECONDS = 1.5
# On a machine with nothing else to do, the median turn is some percent longer than the shortest.
_CALM = 1.25


@dataclass(frozen=True)
class Trial:
    """What a trial found.

    Attributes:
        seconds: median time of a slice by backend.
        failures: what those say that fail, and are left out.
        calm: whether the turns took about as long as each other. Where they did not, others were at work on the same
            cores, perhaps while one backend had its turn and not while another had.
    """

    seconds: Mapping[str, float]
    failures: Sequence[str] = ()
    calm: bool = True


def run_trial(backends: Mapping[str, Backend], specification: ModelSpecification) -> Trial:
    """Measure in turns how fast backends label slices.

    Every backend is given a slot for each of its streams. A first turn, which is not counted, warms up. There are
    several more, or fewer if they would take too long, but one at least.

    Args:
        backends: by any name.
        specification: of the bundle that they run.

    Raises:
        BackendError: all of them fail.
    """
    slots: dict[str, Sequence[Slot]] = {}
    taken: dict[str, list[float]] = {}
    failures: list[str] = []
    started = time.perf_counter()
    for turn in range(1 + _ROUNDS):
        if turn > 1 and time.perf_counter() - started > _SECONDS:
            break
        for name, backend in backends.items():
            try:
                if turn == 0:
                    slots[name] = _slots(backend, specification)
                    taken[name] = []
                if name in taken:
                    seconds = _label(backend, slots[name])
                    taken[name] += [seconds] if turn else []
            except BackendError as error:
                backend.cancel()
                failures.append(str(error))
                taken.pop(name, None)
    if not taken:
        raise BackendError("; ".join(failures))
    medians = {name: statistics.median(seconds) for name, seconds in taken.items()}
    calm = all(medians[name] <= _CALM * min(seconds) for name, seconds in taken.items())
    return Trial(medians, failures, calm)


def _slots(backend: Backend, specification: ModelSpecification) -> Sequence[Slot]:
    multiple = specification.tile_multiple
    side = -(-_PIXELS // multiple) * multiple
    slots = backend.allocate(SlotShape(1, specification.context, side, side, specification.classes), backend.streams)
    random = np.random.default_rng(0)
    for slot in slots:
        slot.slices[:] = random.standard_normal(slot.slices.shape, np.float32)
        slot.mean[:], slot.rstd[:], slot.count = 0, 1, 1
    return slots


def _label(backend: Backend, slots: Sequence[Slot]) -> float:
    started = time.perf_counter()
    for slot in slots:
        backend.submit(slot)
    for slot in slots:
        backend.wait(slot)
    return (time.perf_counter() - started) / len(slots)

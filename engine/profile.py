"""The profile of a stream: what every stage did with its time, how full the queues were, and what sets the pace."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tomoscribe.engine.clock import Recorder
from tomoscribe.engine.errors import ParameterError

__all__ = ["Profile", "QueueProfile", "StageProfile", "queue_depths"]

# A stage that is at work for this much of the time sets the pace: no other, were it instant, would gain more than the
# rest of it.
_PACE = 0.95
_ALONE = ("allocate", "complete")
_THREADS = ("read", "submit", "write")

Intervals = NDArray[np.int64]


@dataclass(frozen=True)
class StageProfile:
    """What a stage did with its time.

    Attributes:
        busy: seconds at work.
        idle: seconds without, from the first read to the stage's last work: the reader waited for a free slot, every
            other stage for the one before it.
        share: of the stream's time, that the stage was at work. The stages overlap, so these add up to more than 1.
    """

    busy: float
    idle: float
    share: float


@dataclass(frozen=True)
class QueueProfile:
    """How many slots lay in a queue, from the first read to the last write: their mean over time, and the most."""

    mean: float
    largest: int


@dataclass(frozen=True)
class Profile:
    """Where the time of a stream went.

    Attributes:
        total: seconds, from the call of `stream` to the last file that was renamed.
        slots: how many sets of buffers there were.
        jobs: how many slotfuls there were: tiles of runs of slices.
        stages: ``allocate`` (making the slots), ``read``, ``submit``, ``infer``, ``write`` and ``complete`` (bringing
            the files to the disk). The middle four overlap. ``infer`` counts as busy while the backend has a slot in
            its hands, which is the most that it can have worked.
        waited: seconds that the assembler waited for the backend, the least that it has worked.
        queues: ``free`` slots, ``filled`` ones that are not submitted, and ``submitted`` ones in the backend's hands.
        bottleneck: the stage that sets the pace.
        reason: why that one, in a line.
    """

    total: float
    slots: int
    jobs: int
    stages: Mapping[str, StageProfile]
    waited: float
    queues: Mapping[str, QueueProfile]
    bottleneck: str
    reason: str

    @classmethod
    def of(cls, recorder: Recorder) -> Profile:
        """Return the profile of the stream that a recorder was passed to.

        Raises:
            ParameterError: there was none, or it failed before the last slice was written.
        """
        if not len(recorder.intervals("complete")):
            raise ParameterError(
                "profile: expected the recorder of a stream that wrote its slices, found none or one that failed; "
                "write a trace of it instead"
            )
        written = recorder.intervals("write")
        begin, end = int(recorder.intervals("read")[0, 0]), int(written[-1, 1])
        seconds, total = recorder.seconds, recorder.seconds["total"]
        worked = {
            "read": recorder.intervals("read"),
            "submit": recorder.intervals("submit"),
            "infer": _in_hand(recorder),
            "write": written,
        }
        alone = {name: StageProfile(seconds[name], 0.0, seconds[name] / total) for name in _ALONE}
        stages = {
            "allocate": alone["allocate"],
            **{name: _stage(intervals, begin, total) for name, intervals in worked.items()},
            "complete": alone["complete"],
        }
        bottleneck, reason = _name_bottleneck(stages, (end - begin) / 1e9)
        return cls(
            total=total,
            slots=recorder.slots,
            jobs=len(written),
            stages=stages,
            waited=seconds["wait"],
            queues={name: _queue(times, depths, end) for name, (times, depths) in queue_depths(recorder).items()},
            bottleneck=bottleneck,
            reason=reason,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the profile in JSON's types; times in seconds."""
        return {key: _rounded(value) for key, value in asdict(self).items()}


def queue_depths(recorder: Recorder) -> dict[str, tuple[Intervals, Intervals]]:
    """Return how many slots lay in each queue: when that changed, in nanoseconds of the clock, and to what.

    A queue is one slot longer from the end of the stage before it, and one shorter from the beginning of the stage
    after; ``submitted`` from the end of the wait, so that it is what the backend has in its hands. The first entry is
    the beginning of the first read.
    """
    read, submit, wait, write = (recorder.intervals(stage) for stage in ("read", "submit", "wait", "write"))
    begin = read[:1, 0]
    return {
        "free": _depths(begin, recorder.slots, write[:, 1], read[:, 0]),
        "filled": _depths(begin, 0, read[:, 1], submit[:, 0]),
        "submitted": _depths(begin, 0, submit[:, 1], wait[:, 1]),
    }


def _depths(begin: Intervals, initial: int, longer: Intervals, shorter: Intervals) -> tuple[Intervals, Intervals]:
    times = np.concatenate([longer, shorter])
    # Stable, and the longer first: what is taken at the instant at which it is put has been in the queue.
    order = np.argsort(times, kind="stable")
    steps = np.repeat(np.array([1, -1]), [len(longer), len(shorter)])[order]
    first = np.full(len(begin), initial)
    return np.concatenate([begin, times[order]]), np.concatenate([first, initial + np.cumsum(steps)])


def _queue(times: Intervals, depths: Intervals, end: int) -> QueueProfile:
    durations = np.diff(times, append=end)
    return QueueProfile(float(durations @ depths / durations.sum()), int(depths.max()))


def _in_hand(recorder: Recorder) -> Intervals:
    """Return when each slot was the backend's: from its submission to the end of the wait for it."""
    waited = recorder.intervals("wait")[:, 1]
    return np.stack([recorder.intervals("submit")[: len(waited), 1], waited], axis=1)


def _stage(intervals: Intervals, begin: int, total: float) -> StageProfile:
    """Add up intervals that may overlap, in the order of their starts and of their stops."""
    starts, stops = intervals.T
    previous = np.concatenate([[begin], stops[:-1]])
    busy = float((stops - np.maximum(starts, previous)).sum()) / 1e9
    idle = float(np.maximum(starts - previous, 0).sum()) / 1e9
    return StageProfile(busy, idle, busy / total)


def _name_bottleneck(stages: Mapping[str, StageProfile], line: float) -> tuple[str, str]:
    """Return the stage that sets the pace, and why.

    Args:
        stages: all of them.
        line: seconds from the first read to the last write, in which the stages overlap.
    """
    longest = max(_ALONE, key=lambda name: stages[name].busy)
    if stages[longest].busy > line:
        return longest, f"it took {stages[longest].share:.0%} of the time, with nothing beside it: a short tomogram"
    shares = {name: stage.busy / line for name, stage in stages.items() if name not in _ALONE}
    # What is known of the backend is the most that it can have worked, so that a busy thread goes before it.
    name = max(_THREADS, key=shares.__getitem__)
    if shares[name] < _PACE:
        name = max(shares, key=shares.__getitem__)
    reason = f"it was at work {shares[name]:.0%} of the time between the first read and the last write"
    if shares[name] < _PACE:
        return name, f"{reason}, but no stage all the time: the tomogram is short, or the slots are too few"
    if name in ("read", "submit"):
        return name, f"{reason}, and the backend had nothing to do for {stages['infer'].idle / line:.0%} of it"
    return name, f"{reason}, and the reader waited for a free slot for {stages['read'].idle / line:.0%} of it"


def _rounded(value: Any) -> Any:  # noqa: ANN401 - JSON's types
    if isinstance(value, dict):
        return {key: _rounded(entry) for key, entry in value.items()}
    return round(value, 6) if isinstance(value, float) else value

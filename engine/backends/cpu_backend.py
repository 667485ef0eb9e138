"""What the backends on the CPU do in the same way: open a network for slots of a size, hand out work, give it up."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from tomoscribe.engine.backends.contract import Slot, SlotLimits, SlotShape
from tomoscribe.engine.backends.cpu import (
    allocate_slots,
    choose_artifact,
    import_runtime,
    one_line,
    share_cores,
    use_of_cores,
)
from tomoscribe.engine.bundle import Bundle
from tomoscribe.engine.errors import BackendError, BundleError

__all__ = ["CPU_LIMITS", "CpuBackend", "Work"]

# With tiles of so many pixels two streams of the bundled model, in FP32, stay under 700 MB (benchmarks/memory.py).
# Larger batches cost memory and gain nothing.
CPU_LIMITS = SlotLimits(tile_pixels=960**2, batch_pixels=2**18)


class Work(ABC):
    """What was submitted: a slot at work."""

    given_up = False

    @abstractmethod
    def finish(self) -> None:
        """Return when the work has ended; may be called again and from several threads.

        Raises:
            Exception: why it failed.
        """

    @abstractmethod
    def stop(self) -> None:
        """Have it end before the network's next layer; never raises."""

    def succeed(self) -> None:  # noqa: B027 - not every runtime has something to do
        """Be told, once, that the work was waited for and did not fail."""


class CpuBackend(ABC):
    """A runtime that runs a bundle on the CPU; a `tomoscribe.engine.backends.contract.Backend`.

    Attributes:
        name: what ``--backend`` takes; also the runtime's module.
        title: the runtime as people call it.
        extra: what tomoscribe is installed with to have it.

    Args:
        bundle: the model.
        threads: threads that work in all; as many as cores that this process may use if None.
        streams: slots that are worked on at the same time; see `share_cores`.
        precision: one of those that `ARTIFACTS` has for it.

    Raises:
        BackendUnavailableError: the runtime is not installed or cannot be loaded, or the bundle has no network in the
            precision.
        BundleError: the network is missing or altered.
        ParameterError: `threads` or `streams` is less than 1, or there are more streams than threads.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    extra: ClassVar[str]

    def __init__(self, bundle: Bundle, threads: int | None, streams: int | None, precision: str) -> None:
        self._runtime = import_runtime(self.name, self.title, self.extra)
        self._threads, self._streams = share_cores(self.name, threads, streams)
        self._precision = precision
        self._path = bundle.artifact_path(choose_artifact(self.name, bundle, precision))
        self._opened_for: tuple[SlotShape, int] | None = None
        self._pending: dict[int, Work] = {}

    @property
    def description(self) -> str:
        """One line that says what runs where."""
        cores = use_of_cores(self._threads, self._streams)
        return f"{self._title_and_version} on the CPU, {cores}, {self._precision.upper()}"

    @property
    def streams(self) -> int:
        """Slots that it works on at the same time."""
        return self._streams

    @property
    def limits(self) -> SlotLimits:
        """How large the slots are that suit it."""
        return CPU_LIMITS

    def allocate(self, shape: SlotShape, count: int) -> Sequence[Slot]:
        """Return `count` slots in ordinary memory; fewer than there are streams share all the threads.

        Raises:
            BackendError: there is not enough memory, or the network cannot take slices of that size.
        """
        slots = allocate_slots(self.name, shape, count)
        wanted = shape, min(self._streams, count)
        if self._opened_for != wanted:
            self._opened_for = None
            self._open(*wanted)
            self._opened_for = wanted
        return slots

    def submit(self, slot: Slot) -> None:
        """Start work on a slot's first ``count`` slices and return at once."""
        self._pending[id(slot)] = self._start(slot)

    def wait(self, slot: Slot) -> None:
        """Return when the outputs of a submitted slot can be read.

        Raises:
            BackendError: the work on the slot failed, or was given up.
        """
        given_up = f"{self.name}: the work on the slot was given up"
        work = self._pending.get(id(slot))
        if work is None:
            raise BackendError(given_up)
        try:
            work.finish()
        except Exception as error:  # the runtimes' exceptions share no base but this
            if work.given_up:
                raise BackendError(given_up) from error
            raise self._failure(slot.count, slot.slices.shape[1:], error) from error
        else:
            work.succeed()
        finally:
            # After a `cancel` the slot may have been submitted anew.
            if self._pending.get(id(slot)) is work:
                del self._pending[id(slot)]

    def cancel(self) -> None:
        """Give up everything that was submitted and not waited for; never raises."""
        pending = list(self._pending.values())
        for work in pending:
            work.given_up = True
            work.stop()
        for work in pending:
            with contextlib.suppress(Exception):  # that it was stopped
                work.finish()
        self._pending.clear()

    def close(self) -> None:
        """Give the network's memory back; closing twice is fine."""
        self.cancel()
        self._opened_for = None
        self._release()

    @abstractmethod
    def _open(self, shape: SlotShape, streams: int) -> None:
        """Be ready for slots of a size, of which so many are at work at the same time."""

    @abstractmethod
    def _start(self, slot: Slot) -> Work:
        """Start work on a slot; what fails is told by `Work.finish`."""

    @abstractmethod
    def _release(self) -> None:
        """Give the network's memory back, if there is any."""

    @property
    def _title_and_version(self) -> str:
        return f"{self.title} {self._runtime.__version__.partition('-')[0]}"

    def _cannot_load(self, error: Exception) -> BundleError:
        return BundleError(f"{self._path}: {self._title_and_version} cannot load it ({one_line(error)})")

    def _failure(self, count: int, tile: Sequence[int], error: Exception) -> BackendError:
        return BackendError(
            f"{self.name}: the network failed on {count} slices of {tile[0]} × {tile[1]} ({one_line(error)}); "
            "if memory ran out, use smaller tiles or a smaller batch"
        )

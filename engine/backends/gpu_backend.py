"""What the backends on a GPU do in the same way: hand out slots, start work on them, wait for it, give it up."""

from __future__ import annotations

import contextlib
import re
import statistics
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from tomoscribe.engine.backends.contract import Slot, SlotLimits, SlotShape
from tomoscribe.engine.backends.cpu import choose_artifact, one_line
from tomoscribe.engine.backends.gpu_pipeline import Lane, Pipeline, Station
from tomoscribe.engine.bundle import Bundle
from tomoscribe.engine.cuda import CudaError, Device, DeviceMemoryError, load_driver
from tomoscribe.engine.cuda.casting import CASTABLE
from tomoscribe.engine.errors import BackendError, ParameterError, TomoscribeError

__all__ = ["GPU_LIMITS", "GpuBackend", "Lane"]

GPU_LIMITS = SlotLimits(tile_pixels=2048**2, batch_pixels=2**22, dtypes=("float32", *CASTABLE))

# One slot is computed while another crosses the bus.
_STREAMS = 2
_ROUNDS = 5

# How CUDA's libraries, ONNX Runtime and TensorRT say that memory lacks.
_NO_MEMORY = re.compile(r"out[ _]?of[ _]?memory|alloc(ation)?_failed|failed to allocate|smaller than requested", re.I)


@dataclass
class _Work:
    station: Station
    given_up: bool = False


class GpuBackend(ABC):
    """A library that runs a bundle on a GPU; a `tomoscribe.engine.backends.contract.Backend`.

    What fails there reaches the caller as `CudaError`, or as `DeviceMemoryError` where memory lacks, and so does what
    `_open` and `_enqueue` raise, unless it is another of tomoscribe's own errors.

    Attributes:
        name: what ``--backend`` takes.

    Args:
        bundle: the model.
        device: which GPU, counted as CUDA counts them, from 0.
        precision: one of those that `tomoscribe.engine.backends.cpu.ARTIFACTS` has for it.
        streams: slots that have to be submitted for it to be busy; 2 if None.

    Raises:
        BackendUnavailableError: there is no such GPU, no library that calls CUDA's driver can be used, or the bundle
            has no network in the precision.
        BundleError: the network is missing or altered.
        CudaError: the GPU cannot be used.
        ParameterError: `streams` is less than 1.
    """

    name: ClassVar[str]

    def __init__(self, bundle: Bundle, device: int, precision: str, streams: int | None = None) -> None:
        self._streams = _STREAMS if streams is None else streams
        if self._streams < 1:
            raise ParameterError(f"{self.name}: expected at least one stream, found {self._streams}")
        self._bundle, self._precision = bundle, precision
        self._artifact = choose_artifact(self.name, bundle, precision)
        self._path = bundle.artifact_path(self._artifact)
        self._stations: dict[int, Station] = {}
        self._pending: dict[int, _Work] = {}
        self._allocated_for: tuple[SlotShape, int] | None = None
        self._kept: tuple[int, ...] | None = None
        self._device = Device(load_driver(), device)
        try:
            self._pipeline = Pipeline(self._device)
        except BaseException:
            self._device.close()
            raise

    @property
    def description(self) -> str:
        """One line that says what runs where."""
        return f"{self._title_and_version} on GPU {self._device.index}, {self._device.name}, {self._precision.upper()}"

    @property
    def streams(self) -> int:
        """Slots that have to be submitted for it to be busy."""
        return self._streams

    @property
    def limits(self) -> SlotLimits:
        """How large the slots are that suit it, and which dtypes it casts on the device."""
        return GPU_LIMITS

    def allocate(self, shape: SlotShape, count: int) -> Sequence[Slot]:
        """Return `count` slots in page-locked memory: those of the last call where they are as many and as large.

        Each is run through once, empty, so that memory that the work needs is had now, and not in mid-volume.

        Raises:
            DeviceMemoryError: the GPU, or what can be page-locked of the machine's memory, does not suffice.
            CudaError: the GPU, or what runs there, failed.
            BackendError: the network cannot take slices of that size.
        """
        wanted = replace(shape, kept=None), count
        self._kept = shape.kept
        if self._allocated_for != wanted:
            self._clear()
            try:
                at = f"on {count} slots of {_size(shape.batch, shape.height, shape.width)}"
                self._attempt(at, lambda: self._equip(shape, count))
                for station in self._stations.values():
                    self.submit(station.slot)
                    self.wait(station.slot)
            except BaseException:
                self._clear()
                raise
            self._allocated_for = wanted
        return [station.slot for station in self._stations.values()]

    def submit(self, slot: Slot) -> None:
        """Start work on a slot's first ``count`` slices and return at once.

        Raises:
            CudaError: it cannot be started.
        """
        work = self._pending[id(slot)] = _Work(self._stations[id(slot)])
        at = f"on {_size(slot.count, *slot.slices.shape[1:])}"
        self._attempt(at, lambda: self._pipeline.start(work.station, self._kept, self._enqueue))

    def wait(self, slot: Slot) -> None:
        """Return when the outputs of a submitted slot can be read.

        Raises:
            CudaError: the work on the slot failed.
            BackendError: it was given up.
        """
        given_up = f"{self.name}: the work on the slot was given up"
        work = self._pending.get(id(slot))
        if work is None:
            raise BackendError(given_up)
        try:
            at = f"on {_size(slot.count, *slot.slices.shape[1:])}"
            self._attempt(at, lambda: self._pipeline.finish(work.station))
            if work.given_up:
                raise BackendError(given_up)
        finally:
            # After a `cancel` the slot may have been submitted anew.
            if self._pending.get(id(slot)) is work:
                del self._pending[id(slot)]

    def cancel(self) -> None:
        """Give up everything that was submitted and not waited for; never raises.

        What is on the device cannot be stopped, so this waits for it.
        """
        for work in list(self._pending.values()):
            work.given_up = True
        self._pipeline.drain()
        self._pending.clear()

    def close(self) -> None:
        """Give the GPU's memory back; closing twice is fine."""
        self._clear()
        with contextlib.suppress(CudaError):  # all that can be given back is
            self._device.close()

    @property
    @abstractmethod
    def _title_and_version(self) -> str:
        """Return the library as people call it, and its version."""

    @abstractmethod
    def _open(self, shape: SlotShape, lanes: Sequence[Lane]) -> None:
        """Be ready to compute slots of a size in these lanes.

        The device is current, and what an earlier call made was released.
        """

    @abstractmethod
    def _enqueue(self, lane: Lane, count: int) -> None:
        """Put the work on a lane's first `count` slices into its stream, and return without waiting for it.

        The device is current. Outputs past `count` are not read.
        """

    @abstractmethod
    def _release(self) -> None:
        """Give back what `_open` made, as far as it came; never raises. The device is current, its streams are empty.

        There may be nothing: this is called before every `_open`, after one that failed, and in the end.
        """

    def _measure(self, work: Callable[[], object]) -> float:
        """Return the milliseconds that the device takes for what `work` puts into the lanes' stream.

        The median of several, after one that is not counted. The device is current, and nothing else is in the stream.
        """
        stream, taken = self._pipeline.compute, []
        with contextlib.ExitStack() as made:
            start, stop = (self._device.event(timed=True) for _ in range(2))
            made.callback(start.free)
            made.callback(stop.free)
            for _ in range(1 + _ROUNDS):
                start.record(stream)
                work()
                stop.record(stream)
                stop.synchronize()
                taken.append(stop.milliseconds_since(start))
        return statistics.median(taken[1:])

    def _equip(self, shape: SlotShape, count: int) -> None:
        stations = self._pipeline.equip(shape, count)
        self._stations = {id(station.slot): station for station in stations}
        self._open(shape, [station.lane for station in stations])

    def _clear(self) -> None:
        """Give back all that `allocate` made."""
        if self._device.closed:
            return
        self.cancel()
        self._allocated_for = None
        self._stations = {}
        # A device that failed gives nothing back, and who asked it to work was told.
        with contextlib.suppress(CudaError), self._device.current():
            self._release()
            self._pipeline.strip()

    def _attempt(self, at: str, work: Callable[[], object]) -> None:
        """Do some work with the device current; if it fails, say on which GPU and at what."""
        try:
            with self._device.current():
                work()
        except Exception as error:  # the libraries' exceptions share no base but this
            if isinstance(error, TomoscribeError) and not isinstance(error, CudaError):
                raise
            failed, reason = f"{self.name}: GPU {self._device.index} failed {at}", one_line(error)
            if isinstance(error, DeviceMemoryError) or _NO_MEMORY.search(reason):
                advice = "memory ran out, use smaller tiles or a smaller batch"
                # Who goes on with smaller slots must not be kept from the memory by what the frames hold that failed.
                raise DeviceMemoryError(f"{failed} ({reason}); {advice}") from error.with_traceback(None)
            raise CudaError(f"{failed} ({reason})") from error


def _size(count: int, height: int, width: int) -> str:
    return f"{count} slices of {height} × {width}"

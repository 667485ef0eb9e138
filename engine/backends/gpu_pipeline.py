"""Slots in page-locked memory, and the three streams that carry them over the bus and through the network.

::

    upload stream     slot 1 │ slot 2 │ slot 3 │ …
    compute stream           │ slot 1 │ slot 2 │ slot 3 │ …
    download stream                   │ slot 1 │ slot 2 │ slot 3 │ …

Every slot has buffers of its own on the device, so what is done to it waits for what was done to it before, and for
nothing else.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tomoscribe.engine.backends.contract import Slot, SlotShape
from tomoscribe.engine.backends.cpu import INPUTS, OUTPUTS
from tomoscribe.engine.cuda import Buffer, CudaError, Device, Event, Stream
from tomoscribe.engine.cuda.casting import Casting

__all__ = ["Lane", "Pipeline", "Station"]


@dataclass(frozen=True)
class Lane:
    """Where a slot is computed.

    Attributes:
        index: counted from 0.
        addresses: on the device, by the names of the graph contract's inputs and outputs. Each has room for a full
            batch, the inputs in float32; past the slices that are in use they hold finite numbers.
        stream: what the work is put into, one for all lanes; its `handle` is what libraries take.
    """

    index: int
    addresses: Mapping[str, int]
    stream: Stream


@dataclass(frozen=True)
class Station:
    """A slot, and all that belongs to it on the device.

    Attributes:
        slot: in page-locked memory.
        lane: where it is computed.
        buffers: what is at the lane's addresses.
        raw: slices as they cross the bus, where they are cast on the device.
        uploaded: happens when the inputs are on the device.
        computed: happens when the outputs are there.
        downloaded: happens when the outputs are in the slot.
    """

    slot: Slot
    lane: Lane
    buffers: Mapping[str, Buffer]
    raw: Buffer | None
    uploaded: Event
    computed: Event
    downloaded: Event


class Pipeline:
    """Three streams of a device, and the slots that go through them.

    Attributes:
        compute: the stream that networks are put into.

    Args:
        device: is not closed here.

    Raises:
        CudaError: streams cannot be had.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._casting = Casting(device)
        # What the slots hold, to be given back.
        self._held = contextlib.ExitStack()
        self._upload, self.compute, self._download = (device.stream() for _ in range(3))

    def equip(self, shape: SlotShape, count: int) -> list[Station]:
        """Return `count` slots, with what they need on the device; inputs are zeros, there and here.

        Raises:
            DeviceMemoryError: the device, or what can be page-locked of the machine's memory, does not suffice.
        """
        stations = [self._station(index, shape) for index in range(count)]
        for station in stations:
            slot = station.slot
            slot.slices[:], slot.mean[:], slot.rstd[:], slot.count = 0, 0, 1, shape.batch
            self.start(station, (), lambda _lane, _count: None)
            self.finish(station)
        return stations

    def start(self, station: Station, kept: Sequence[int] | None, enqueue: Callable[[Lane, int], None]) -> None:
        """Carry a slot's first ``count`` slices through the streams, and return at once.

        Args:
            station: the slot.
            kept: classes whose scores are wanted; all if None.
            enqueue: puts the network into the lane's stream, for so many slices.
        """
        slot, buffers, raw = station.slot, station.buffers, station.raw
        inputs = slot.count + len(slot.slices) - len(slot.labels)
        landing = buffers if raw is None else {**buffers, "slices": raw}
        for name in INPUTS:
            self._upload.upload(landing[name], getattr(slot, name)[:inputs])
        station.uploaded.record(self._upload)

        self.compute.wait(station.uploaded)
        if raw is not None:
            values = slot.slices[:inputs]
            self._casting.cast(buffers["slices"], raw, values.dtype.name, values.size, self.compute)
        enqueue(station.lane, slot.count)
        station.computed.record(self.compute)

        self._download.wait(station.computed)
        self._download.download(slot.labels[: slot.count], buffers["labels"])
        for part, offset in kept_parts(slot.scores[: slot.count], kept):
            self._download.download(part, buffers["scores"], offset)
        station.downloaded.record(self._download)

    def finish(self, station: Station) -> None:
        """Return when the outputs of a slot that was started are in it.

        Raises:
            CudaError: the work on it failed, or something before it.
        """
        # The first happens last; the others tell their streams what is done.
        for event in (station.downloaded, station.computed, station.uploaded):
            event.synchronize()

    def drain(self) -> None:
        """Return when nothing is at work any more; never raises."""
        for stream in (self._upload, self.compute, self._download):
            # Who waits for what failed is told, and here no one does.
            with contextlib.suppress(CudaError):
                stream.synchronize()

    def strip(self) -> None:
        """Give back all that `equip` made; nothing may be at work.

        Raises:
            CudaError: the last call that failed; all others were made nevertheless.
        """
        self._held.close()

    def _station(self, index: int, shape: SlotShape) -> Station:
        tile, inputs = (shape.height, shape.width), shape.batch + 2 * shape.context
        slot = Slot(
            slices=self._pinned((inputs, *tile), shape.dtype),
            mean=self._pinned((inputs,), "float32"),
            rstd=self._pinned((inputs,), "float32"),
            labels=self._pinned((shape.batch, *tile), "uint8"),
            scores=self._pinned((shape.batch, shape.classes, *tile), "uint8"),
        )
        sizes = {name: getattr(slot, name).nbytes for name in (*INPUTS, *OUTPUTS)}
        buffers = {name: self._buffer(size) for name, size in {**sizes, "slices": 4 * slot.slices.size}.items()}
        raw = None if shape.dtype == "float32" else self._buffer(sizes["slices"])
        lane = Lane(index, {name: buffer.address for name, buffer in buffers.items()}, self.compute)
        return Station(slot, lane, buffers, raw, *(self._event() for _ in range(3)))

    def _pinned(self, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        array = self._device.pinned(shape, dtype)
        self._held.callback(self._device.unpin, array)
        return array

    def _buffer(self, size: int) -> Buffer:
        buffer = self._device.buffer(size)
        self._held.callback(buffer.free)
        return buffer

    def _event(self) -> Event:
        event = self._device.event()
        self._held.callback(event.free)
        return event


def kept_parts(scores: NDArray[np.uint8], kept: Sequence[int] | None) -> Iterator[tuple[NDArray[np.uint8], int]]:
    """Return the scores of classes that are kept, in contiguous parts, and at which byte of all of them each begins.

    Args:
        scores: ``(n, classes, y, x)``.
        kept: classes; all if None.
    """
    count, classes, height, width = scores.shape
    wanted = set(range(classes)) if kept is None else set(kept)
    if len(wanted) == classes:
        yield scores, 0
        return
    firsts = sorted(number for number in wanted if number - 1 not in wanted)
    lasts = sorted(number for number in wanted if number + 1 not in wanted)
    for index in range(count):
        for first, last in zip(firsts, lasts, strict=True):
            yield scores[index, first : last + 1], (index * classes + first) * height * width

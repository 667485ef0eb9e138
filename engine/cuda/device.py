"""A CUDA device: pinned arrays, buffers, streams and events, whose lifetimes are looked after here.

A copy runs on after the call that asked for it has returned. So a stream remembers what its copies read and write until
they are known to be done, and nothing that a copy may still touch is freed: who frees it waits. `Device.close` gives
everything back in the one order that is safe.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tomoscribe.engine.cuda.driver import CudaError, Driver
from tomoscribe.engine.errors import BackendUnavailableError, ParameterError

__all__ = ["Buffer", "Device", "Event", "Stream"]


class Device:
    """A device, whose primary context is shared with every other library in this process; a context manager.

    Every method may be called from any thread. A thread that calls many enters `current` once, which saves a push and a
    pop for each.

    Attributes:
        driver: the library that calls CUDA's driver.
        index: counted as CUDA counts them, from 0.
        name: such as ``NVIDIA H200``.

    Args:
        driver: see `Driver`.
        index: which device.

    Raises:
        BackendUnavailableError: there is no such device.
        CudaError: its context cannot be had.
    """

    def __init__(self, driver: Driver, index: int = 0) -> None:
        count = driver.count_devices()
        if not 0 <= index < count:
            found = f"0 to {count - 1}" if count else "none"
            raise BackendUnavailableError(f"CUDA device {index}: expected one of those that there are, found {found}")
        self.driver, self.index = driver, index
        self._context = driver.retain_context(index)
        self._entered = threading.local()
        self._streams: list[Stream] = []
        self._events: list[Event] = []
        self._buffers: list[Buffer] = []
        self._pinned: dict[int, NDArray[np.uint8]] = {}
        self._closed = False
        with self.current():
            self.name = driver.describe(index)

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make this device the calling thread's, if it is not yet."""
        depth = getattr(self._entered, "depth", 0)
        if depth == 0:
            self.driver.push_context(self._context)
        self._entered.depth = depth + 1
        try:
            yield
        finally:
            self._entered.depth = depth
            if depth == 0:
                self.driver.pop_context()

    def memory(self) -> tuple[int, int]:
        """Return the bytes that are free on the device, and all that it has."""
        with self.current():
            return self.driver.memory()

    def pinned(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Return an array in page-locked memory, uninitialised; it is the device's until `unpin` or `close`.

        Raises:
            DeviceMemoryError: so much cannot be page-locked.
        """
        dtype = np.dtype(dtype)
        with self.current():
            # CUDA allocates no 0 bytes.
            memory = self.driver.allocate_pinned(max(1, math.prod(shape) * dtype.itemsize))
        array = memory[: math.prod(shape) * dtype.itemsize].view(dtype).reshape(shape)
        self._pinned[_address(array)] = memory
        return array

    def unpin(self, array: NDArray[Any]) -> None:
        """Give a pinned array back, once no copy reads or writes it."""
        memory = self._pinned.pop(_address(array))
        with self.current():
            self._wait_for_users(memory)
            self.driver.free_pinned(memory)

    def buffer(self, size: int) -> Buffer:
        """Return so many bytes on the device.

        Raises:
            DeviceMemoryError: the device has not that much left.
        """
        buffer = Buffer(self, size)
        self._buffers.append(buffer)
        return buffer

    def stream(self) -> Stream:
        """Return a new stream."""
        stream = Stream(self)
        self._streams.append(stream)
        return stream

    def event(self, *, timed: bool = False) -> Event:
        """Return a new event, whose time can be had if it is `timed`."""
        event = Event(self, timed=timed)
        self._events.append(event)
        return event

    def close(self) -> None:
        """Wait for all copies and give everything back; closing twice is fine.

        Raises:
            CudaError: the first call that failed; all others were made nevertheless.
        """
        if self._closed:
            return
        self._closed = True
        errors: list[CudaError] = []

        def attempt(call: Any, *arguments: Any) -> None:  # noqa: ANN401 - the driver's calls
            try:
                call(*arguments)
            except CudaError as error:
                errors.append(error)

        driver = self.driver
        with self.current():
            for stream in self._streams:
                attempt(stream.synchronize)
            for event in self._events:
                attempt(driver.destroy_event, event.handle)
            for stream in self._streams:
                attempt(driver.destroy_stream, stream.handle)
            for buffer in self._buffers:
                attempt(driver.free, buffer.address)
            for memory in self._pinned.values():
                attempt(driver.free_pinned, memory)
        attempt(driver.release_context, self.index, self._context)
        for held in (self._events, self._streams, self._buffers, self._pinned):
            held.clear()
        if errors:
            raise errors[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _forget(self, buffer: Buffer) -> None:
        self._buffers.remove(buffer)

    def _wait_for_users(self, memory: object) -> None:
        for stream in self._streams:
            if stream.uses(memory):
                stream.synchronize()

    def _memory_of(self, array: NDArray[Any]) -> NDArray[np.uint8]:
        """Return the pinned memory that an array lies in.

        Raises:
            ParameterError: it lies elsewhere: copies would not be asynchronous.
        """
        start, stop = _address(array), _address(array) + array.nbytes
        for address, memory in self._pinned.items():
            if address <= start and stop <= address + memory.nbytes:
                return memory
        raise ParameterError("CUDA copy: expected an array that this device has pinned, found another")


class Buffer:
    """Memory of a device.

    Attributes:
        address: on the device.
        size: in bytes.
    """

    def __init__(self, device: Device, size: int) -> None:
        if size < 1:
            raise ParameterError(f"CUDA buffer: expected at least one byte, found {size}")
        self.size = size
        self._device = device
        with device.current():
            self.address = device.driver.allocate(size)

    def free(self) -> None:
        """Give the memory back, once no copy reads or writes it."""
        with self._device.current():
            self._device._wait_for_users(self)
            self._device._forget(self)
            self._device.driver.free(self.address)


class Stream:
    """Work that a device does in the order in which it was put here.

    Attributes:
        handle: what TensorRT and ONNX Runtime take for a stream.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._lock = threading.Lock()
        # What copies read and write, oldest first, and how much of it was let go.
        self._held: deque[object] = deque()
        self._let_go = 0
        with device.current():
            self.handle = device.driver.create_stream()

    def upload(self, buffer: Buffer, source: NDArray[Any]) -> None:
        """Copy a pinned array to the beginning of a buffer, and return at once.

        Raises:
            ParameterError: the array is not pinned by the device, is not contiguous, or is larger than the buffer.
        """
        memory = self._check(buffer, source)
        with self._device.current():
            self._hold(buffer, memory)
            self._device.driver.upload(buffer.address, source, self.handle)

    def download(self, target: NDArray[Any], buffer: Buffer) -> None:
        """Copy the beginning of a buffer to a pinned array, and return at once.

        Raises:
            ParameterError: as `upload`.
        """
        memory = self._check(buffer, target)
        with self._device.current():
            self._hold(buffer, memory)
            self._device.driver.download(target, buffer.address, self.handle)

    def wait(self, event: Event) -> None:
        """Have what comes into this stream from now on wait for an event."""
        with self._device.current():
            self._device.driver.wait_for_event(self.handle, event.handle)

    def synchronize(self) -> None:
        """Return when all is done that is in the stream."""
        mark = self.mark()
        with self._device.current():
            self._device.driver.synchronize_stream(self.handle)
        self.let_go(mark)

    def uses(self, memory: object) -> bool:
        """Return whether a copy that may not be done reads or writes a buffer, or pinned memory."""
        with self._lock:
            return any(held is memory for held in self._held)

    def mark(self) -> int:
        """Return what stands for all that was put into the stream so far; `let_go` takes it."""
        with self._lock:
            return self._let_go + len(self._held)

    def let_go(self, mark: int) -> None:
        """Forget what copies held up to a mark, for they are done."""
        with self._lock:
            while self._let_go < mark:
                self._held.popleft()
                self._let_go += 1

    def _hold(self, *memory: object) -> None:
        with self._lock:
            self._held.extend(memory)

    def _check(self, buffer: Buffer, array: NDArray[Any]) -> NDArray[np.uint8]:
        if not array.flags.c_contiguous or array.nbytes > buffer.size:
            raise ParameterError(
                f"CUDA copy: expected a contiguous array of at most {buffer.size} bytes, found "
                f"{'one' if array.flags.c_contiguous else 'one that is not, and'} of {array.nbytes}"
            )
        return self._device._memory_of(array)


class Event:
    """A place in a stream that other streams and the host can wait for.

    Attributes:
        handle: what the driver knows it by.
    """

    def __init__(self, device: Device, *, timed: bool) -> None:
        self._device = device
        self._recorded: tuple[Stream, int] | None = None
        with device.current():
            self.handle = device.driver.create_event(timed=timed)

    def record(self, stream: Stream) -> None:
        """Have the event happen when all is done that is in a stream so far."""
        with self._device.current():
            self._recorded = stream, stream.mark()
            self._device.driver.record_event(self.handle, stream.handle)

    def synchronize(self) -> None:
        """Return when the event has happened; at once if it was never recorded."""
        with self._device.current():
            self._device.driver.synchronize_event(self.handle)
        if self._recorded is not None:
            stream, mark = self._recorded
            stream.let_go(mark)

    def milliseconds_since(self, start: Event) -> float:
        """Return the time since another event; both are timed and have happened."""
        with self._device.current():
            return self._device.driver.milliseconds_between(start.handle, self.handle)


def _address(array: NDArray[Any]) -> int:
    return int(array.ctypes.data)

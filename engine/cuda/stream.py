"""What a CUDA device works on and in: buffers, streams, and events, which tie streams to each other and to the host."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tomoscribe.engine.cuda.driver import CudaError
from tomoscribe.engine.cuda.work import Graph
from tomoscribe.engine.errors import ParameterError

if TYPE_CHECKING:
    from tomoscribe.engine.cuda.device import Device

__all__ = ["Buffer", "Event", "Stream"]


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
        """Give the memory back, once nothing that is in a stream uses it."""
        self._device.let_go(self)

    def destroy(self) -> None:
        """Give the memory back at once; `Device` calls this."""
        self._device.driver.free(self.address)


class Stream:
    """Work that a device does in the order in which it was put here.

    Attributes:
        handle: what TensorRT and ONNX Runtime take for a stream.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._lock = threading.Lock()
        # What is used by what is in the stream, oldest first, and how much of it was let go.
        self._held: deque[object] = deque()
        self._let_go = 0
        with device.current():
            self.handle = device.driver.create_stream()

    def upload(self, buffer: Buffer, source: NDArray[Any], offset: int = 0) -> None:
        """Copy a pinned array to a buffer, and return at once.

        Args:
            buffer: is written to.
            source: is read.
            offset: where in the buffer its first byte goes.

        Raises:
            ParameterError: the array is not pinned by the device, is not contiguous, or does not fit into the buffer.
        """
        memory = self._check(buffer, source, offset)
        with self._device.current():
            self.hold(buffer, memory)
            self._device.driver.upload(buffer.address + offset, source, self.handle)

    def download(self, target: NDArray[Any], buffer: Buffer, offset: int = 0) -> None:
        """Fill a pinned array from a buffer, and return at once.

        Args:
            target: is written to.
            buffer: is read.
            offset: where in the buffer the array's first byte is.

        Raises:
            ParameterError: as `upload`.
        """
        memory = self._check(buffer, target, offset)
        with self._device.current():
            self.hold(buffer, memory)
            self._device.driver.download(target, buffer.address + offset, self.handle)

    def wait(self, event: Event) -> None:
        """Have what comes into this stream from now on wait for an event."""
        with self._device.current():
            self._device.driver.wait_for_event(self.handle, event.handle)

    def capture(self, work: Callable[[], object]) -> Graph:
        """Record what `work` puts into this stream, in place of doing it.

        Raises:
            CudaError: the driver's library has no graphs, or the work cannot be recorded.
        """
        driver = self._device.graph_driver()
        with self._device.current():
            driver.begin_capture(self.handle)
            try:
                work()
            except BaseException:
                with contextlib.suppress(CudaError):
                    driver.destroy_graph(driver.end_capture(self.handle))
                raise
            return self._device.keep(Graph(self._device, driver.end_capture(self.handle)))

    def synchronize(self) -> None:
        """Return when all is done that is in the stream."""
        mark = self.mark()
        with self._device.current():
            self._device.driver.synchronize_stream(self.handle)
        self.let_go(mark)

    def hold(self, *used: object) -> None:
        """Have buffers, graphs and pinned memory be kept until what comes into the stream now is done."""
        with self._lock:
            self._held.extend(used)

    def uses(self, held: object) -> bool:
        """Return whether work that may not be done uses a buffer, a graph, or pinned memory."""
        with self._lock:
            return any(other is held for other in self._held)

    def mark(self) -> int:
        """Return what stands for all that was put into the stream so far; `let_go` takes it."""
        with self._lock:
            return self._let_go + len(self._held)

    def let_go(self, mark: int) -> None:
        """Forget what was held up to a mark, for the work is done."""
        with self._lock:
            while self._let_go < mark:
                self._held.popleft()
                self._let_go += 1

    def destroy(self) -> None:
        """Give the stream back; `Device` calls this."""
        self._device.driver.destroy_stream(self.handle)

    def _check(self, buffer: Buffer, array: NDArray[Any], offset: int) -> NDArray[np.uint8]:
        if not array.flags.c_contiguous or not 0 <= offset <= buffer.size - array.nbytes:
            raise ParameterError(
                f"CUDA copy: expected a contiguous array that fits into {buffer.size} bytes, found "
                f"{'one' if array.flags.c_contiguous else 'one that is not, and'} of {array.nbytes} at {offset}"
            )
        return self._device.memory_of(array)


class Event:
    """A place in a stream that other streams and the host can wait for.

    Attributes:
        handle: what the driver knows it by.
    """

    def __init__(self, device: Device, *, timed: bool) -> None:
        self._device = device
        self._recorded: tuple[Stream, int] | None = None
        with device.current():
            self.handle: Any = device.driver.create_event(timed=timed)

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

    def free(self) -> None:
        """Give the event back; streams that wait for it still do."""
        self._device.let_go(self)

    def destroy(self) -> None:
        """Give the event back; `Device` calls this."""
        # pycuda gives it back once no one has it, which has to be while the context lives.
        handle, self.handle = self.handle, None
        self._device.driver.destroy_event(handle)

"""A CUDA device: pinned arrays, buffers, streams and events, whose lifetimes are looked after here.

Work runs on after the call that asked for it has returned. So a stream remembers what its work reads and writes until
it is known to be done, and nothing that it may still touch is freed: who frees it waits. `Device.close` gives
everything back in the one order that is safe.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar, cast

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tomoscribe.engine.cuda.driver import CudaError, DeviceFacts, Driver, GraphDriver
from tomoscribe.engine.cuda.stream import Buffer, Event, Stream
from tomoscribe.engine.cuda.work import Graph, Kernel
from tomoscribe.engine.errors import BackendUnavailableError, ParameterError

__all__ = ["Device"]


class _Owned(Protocol):
    def destroy(self) -> None: ...


T = TypeVar("T", bound=_Owned)

# Nothing is given back before what may still use it.
_ORDER = (Graph, Kernel, Event, Stream, Buffer)


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
        self._facts = driver.facts(index)
        self.name = self._facts.name
        self._context = driver.retain_context(index)
        self._entered = threading.local()
        self._owned: list[_Owned] = []
        self._pinned: dict[int, NDArray[np.uint8]] = {}
        self._closed = False

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

    @property
    def closed(self) -> bool:
        """Whether everything was given back."""
        return self._closed

    def facts(self) -> DeviceFacts:
        """Return what the device is."""
        return self._facts

    def graph_driver(self) -> GraphDriver:
        """Return the driver, if it has CUDA graphs.

        Raises:
            CudaError: it has not.
        """
        if not self.driver.has_graphs:
            raise CudaError(f"expected a library that has CUDA graphs, found {self.driver.name}, which has none")
        return cast(GraphDriver, self.driver)

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
        return self.keep(Buffer(self, size))

    def stream(self) -> Stream:
        """Return a new stream."""
        return self.keep(Stream(self))

    def event(self, *, timed: bool = False) -> Event:
        """Return a new event, whose time can be had if it is `timed`."""
        return self.keep(Event(self, timed=timed))

    def kernel(self, ptx: bytes, name: str) -> Kernel:
        """Return a kernel of a PTX text; it is the device's until `close`.

        Raises:
            CudaError: the text cannot be compiled for the device, or has no such kernel.
        """
        return self.keep(Kernel(self, ptx, name))

    def close(self) -> None:
        """Wait for all work and give everything back; closing twice is fine.

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

        with self.current():
            for stream in self._streams():
                attempt(stream.synchronize)
            for kind in _ORDER:
                for owned in self._owned:
                    if isinstance(owned, kind):
                        attempt(owned.destroy)
            for memory in self._pinned.values():
                attempt(self.driver.free_pinned, memory)
        attempt(self.driver.release_context, self.index, self._context)
        self._owned.clear()
        self._pinned.clear()
        if errors:
            raise errors[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def keep(self, owned: T) -> T:
        """Give something back in `close` that was made on this device."""
        self._owned.append(owned)
        return owned

    def let_go(self, owned: _Owned) -> None:
        """Give something back that was kept, once nothing that is in a stream uses it."""
        with self.current():
            self._wait_for_users(owned)
            self._owned.remove(owned)
            owned.destroy()

    def memory_of(self, array: NDArray[Any]) -> NDArray[np.uint8]:
        """Return the pinned memory that an array lies in.

        Raises:
            ParameterError: it lies elsewhere: copies would not be asynchronous.
        """
        start, stop = _address(array), _address(array) + array.nbytes
        for address, memory in self._pinned.items():
            if address <= start and stop <= address + memory.nbytes:
                return memory
        raise ParameterError("CUDA copy: expected an array that this device has pinned, found another")

    def _wait_for_users(self, held: object) -> None:
        for stream in self._streams():
            if stream.uses(held):
                stream.synchronize()

    def _streams(self) -> list[Stream]:
        return [owned for owned in self._owned if isinstance(owned, Stream)]


def _address(array: NDArray[Any]) -> int:
    return int(array.ctypes.data)

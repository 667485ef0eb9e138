"""The calls of CUDA's driver that tomoscribe makes, whichever library makes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tomoscribe.engine.errors import BackendError

__all__ = ["CudaError", "DeviceFacts", "DeviceMemoryError", "Driver", "GraphDriver"]


class CudaError(BackendError):
    """A call of CUDA's driver that failed; the message names the call."""


class DeviceMemoryError(CudaError):
    """The device, or what can be pinned of the machine's memory, does not suffice."""


@dataclass(frozen=True)
class DeviceFacts:
    """What a device is.

    Attributes:
        name: such as ``NVIDIA H200``.
        compute_capability: such as ``9.0``.
        multiprocessors: streaming multiprocessors.
        memory: all that it has, in bytes.
    """

    name: str
    compute_capability: str
    multiprocessors: int
    memory: int


class Driver(Protocol):
    """A library that calls CUDA's driver.

    Handles are the library's own; addresses are numbers. What comes after `push_context`, but for `facts`, needs a
    context that is current in the calling thread. Nothing here keeps what a copy reads or writes alive: that is the
    duty of `Device`.

    Every call raises `CudaError` with its name where it fails, `DeviceMemoryError` where memory is what is lacking.

    Attributes:
        has_graphs: whether it is a `GraphDriver`.
    """

    has_graphs: bool

    @property
    def name(self) -> str:
        """The library and its version, such as ``cuda.bindings 13.5.0``."""
        ...

    def count_devices(self) -> int:
        """Return how many devices there are."""
        ...

    def facts(self, index: int) -> DeviceFacts:
        """Return what a device is."""
        ...

    def retain_context(self, index: int) -> Any:  # noqa: ANN401 - the library's own
        """Return a device's primary context, which PyTorch and ONNX Runtime share."""
        ...

    def release_context(self, index: int, context: Any) -> None:  # noqa: ANN401
        """Give a primary context back."""
        ...

    def push_context(self, context: Any) -> None:  # noqa: ANN401
        """Make a context the calling thread's."""
        ...

    def pop_context(self) -> None:
        """Give the calling thread back the context that it had before."""
        ...

    def memory(self) -> tuple[int, int]:
        """Return the bytes that are free on the device, and all that it has."""
        ...

    def allocate(self, size: int) -> int:
        """Return the address of so many bytes on the device."""
        ...

    def free(self, address: int) -> None:
        """Give memory of the device back."""
        ...

    def allocate_pinned(self, size: int) -> NDArray[np.uint8]:
        """Return so many bytes of page-locked memory, which the device copies from and to by itself."""
        ...

    def free_pinned(self, memory: NDArray[np.uint8]) -> None:
        """Give page-locked memory back; the array must not be used any more."""
        ...

    def create_stream(self) -> int:
        """Return the handle of a stream that does not wait for the default one."""
        ...

    def synchronize_stream(self, stream: int) -> None:
        """Return when all that was put into a stream is done."""
        ...

    def destroy_stream(self, stream: int) -> None:
        """Give a stream back."""
        ...

    def upload(self, address: int, source: NDArray[Any], stream: int) -> None:
        """Put a copy to the device into a stream and return at once."""
        ...

    def download(self, target: NDArray[Any], address: int, stream: int) -> None:
        """Put a copy from the device into a stream and return at once."""
        ...

    def create_event(self, *, timed: bool) -> Any:  # noqa: ANN401
        """Return an event; one that is not timed costs less."""
        ...

    def record_event(self, event: Any, stream: int) -> None:  # noqa: ANN401
        """Have an event happen when all is done that is in a stream so far."""
        ...

    def wait_for_event(self, stream: int, event: Any) -> None:  # noqa: ANN401
        """Have what is put into a stream from now on wait for an event."""
        ...

    def synchronize_event(self, event: Any) -> None:  # noqa: ANN401
        """Return when an event has happened."""
        ...

    def milliseconds_between(self, start: Any, stop: Any) -> float:  # noqa: ANN401
        """Return the time between two timed events that have happened."""
        ...

    def destroy_event(self, event: Any) -> None:  # noqa: ANN401
        """Give an event back."""
        ...

    def load_kernel(self, ptx: bytes, name: str) -> Any:  # noqa: ANN401
        """Return a kernel of a PTX text, compiled for the device."""
        ...

    def launch(self, kernel: Any, blocks: int, threads: int, arguments: Sequence[int], stream: int) -> None:  # noqa: ANN401
        """Put a kernel into a stream, in so many blocks of so many threads; its arguments are of 64 bits each."""
        ...

    def unload_kernel(self, kernel: Any) -> None:  # noqa: ANN401
        """Give a kernel back."""
        ...


class GraphDriver(Driver, Protocol):
    """A library that also has CUDA graphs: work that is recorded once and launched as a whole."""

    def begin_capture(self, stream: int) -> None:
        """Record what this thread puts into a stream from now on, in place of doing it."""
        ...

    def end_capture(self, stream: int) -> Any:  # noqa: ANN401
        """Return what was recorded, ready to be launched."""
        ...

    def launch_graph(self, graph: Any, stream: int) -> None:  # noqa: ANN401
        """Put all that was recorded into a stream."""
        ...

    def destroy_graph(self, graph: Any) -> None:  # noqa: ANN401
        """Give back what was recorded."""
        ...

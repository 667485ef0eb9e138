"""CUDA's driver through ``pycuda``, which is compiled where it is installed.

Its objects free what they hold when Python forgets them, so the adapter keeps each until it is told to free it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tomoscribe.engine.cuda.driver import CudaError, DeviceFacts, DeviceMemoryError
from tomoscribe.engine.errors import BackendUnavailableError

__all__ = ["PycudaDriver"]

# cuda.h: CU_STREAM_NON_BLOCKING, which pycuda has no name for.
_NON_BLOCKING = 1


class PycudaDriver:
    """A `tomoscribe.engine.cuda.driver.Driver` that calls through ``pycuda.driver``.

    Raises:
        BackendUnavailableError: the package, or NVIDIA's driver, is not there.
    """

    has_graphs = False

    def __init__(self) -> None:
        try:
            import pycuda.driver as cuda
        except ImportError as error:  # of libcuda too
            raise BackendUnavailableError(
                f"pycuda: it cannot be imported ({error}); install NVIDIA's driver and CUDA's headers, and then it "
                'with: pip install "tomoscribe[pycuda]"'
            ) from error
        self._cuda: Any = cuda
        self._allocations: dict[int, Any] = {}
        self._streams: dict[int, Any] = {}
        try:
            with self._named():
                cuda.init()
        except CudaError as error:
            raise BackendUnavailableError(
                f"pycuda: expected NVIDIA's driver, found that it does not start ({error}); see: tomoscribe doctor"
            ) from error

    @property
    def name(self) -> str:
        """The library and its version."""
        return f"pycuda {version('pycuda')}"

    def count_devices(self) -> int:
        """Return how many devices there are."""
        with self._named():
            return int(self._cuda.Device.count())

    def facts(self, index: int) -> DeviceFacts:
        """Return what a device is."""
        with self._named():
            device, attributes = self._cuda.Device(index), self._cuda.device_attribute
            major = device.get_attribute(attributes.COMPUTE_CAPABILITY_MAJOR)
            minor = device.get_attribute(attributes.COMPUTE_CAPABILITY_MINOR)
            return DeviceFacts(
                name=str(device.name()),
                compute_capability=f"{major}.{minor}",
                multiprocessors=int(device.get_attribute(attributes.MULTIPROCESSOR_COUNT)),
                memory=int(device.total_memory()),
            )

    def retain_context(self, index: int) -> Any:  # noqa: ANN401 - the library's own
        """Return a device's primary context."""
        with self._named():
            return self._cuda.Device(index).retain_primary_context()

    def release_context(self, index: int, context: Any) -> None:  # noqa: ANN401
        """Give a primary context back."""
        with self._named():
            context.detach()

    def push_context(self, context: Any) -> None:  # noqa: ANN401
        """Make a context the calling thread's."""
        with self._named():
            context.push()

    def pop_context(self) -> None:
        """Give the calling thread back the context that it had before."""
        with self._named():
            self._cuda.Context.pop()

    def memory(self) -> tuple[int, int]:
        """Return the bytes that are free on the device, and all that it has."""
        with self._named():
            free, total = self._cuda.mem_get_info()
        return int(free), int(total)

    def allocate(self, size: int) -> int:
        """Return the address of so many bytes on the device."""
        with self._named():
            allocation = self._cuda.mem_alloc(size)
        self._allocations[int(allocation)] = allocation
        return int(allocation)

    def free(self, address: int) -> None:
        """Give memory of the device back."""
        with self._named():
            self._allocations.pop(address).free()

    def allocate_pinned(self, size: int) -> NDArray[np.uint8]:
        """Return so many bytes of page-locked memory."""
        with self._named():
            # Portable: pinned for every device, so that a lane of its own for each of them may share it.
            memory: NDArray[np.uint8] = self._cuda.pagelocked_empty(
                size, np.uint8, mem_flags=self._cuda.host_alloc_flags.PORTABLE
            )
        return memory

    def free_pinned(self, memory: NDArray[np.uint8]) -> None:
        """Give page-locked memory back."""
        allocation: Any = memory.base
        with self._named():
            allocation.free()

    def create_stream(self) -> int:
        """Return the handle of a stream that does not wait for the default one."""
        with self._named():
            stream = self._cuda.Stream(_NON_BLOCKING)
        self._streams[stream.handle] = stream
        return int(stream.handle)

    def synchronize_stream(self, stream: int) -> None:
        """Return when all that was put into a stream is done."""
        with self._named():
            self._streams[stream].synchronize()

    def destroy_stream(self, stream: int) -> None:
        """Give a stream back."""
        del self._streams[stream]

    def upload(self, address: int, source: NDArray[Any], stream: int) -> None:
        """Put a copy to the device into a stream and return at once."""
        with self._named():
            self._cuda.memcpy_htod_async(address, source, self._streams[stream])

    def download(self, target: NDArray[Any], address: int, stream: int) -> None:
        """Put a copy from the device into a stream and return at once."""
        with self._named():
            self._cuda.memcpy_dtoh_async(target, address, self._streams[stream])

    def create_event(self, *, timed: bool) -> Any:  # noqa: ANN401
        """Return an event."""
        flags = self._cuda.event_flags
        with self._named():
            return self._cuda.Event(flags.DEFAULT if timed else flags.DISABLE_TIMING)

    def record_event(self, event: Any, stream: int) -> None:  # noqa: ANN401
        """Have an event happen when all is done that is in a stream so far."""
        with self._named():
            event.record(self._streams[stream])

    def wait_for_event(self, stream: int, event: Any) -> None:  # noqa: ANN401
        """Have what is put into a stream from now on wait for an event."""
        with self._named():
            self._streams[stream].wait_for_event(event)

    def synchronize_event(self, event: Any) -> None:  # noqa: ANN401
        """Return when an event has happened."""
        with self._named():
            event.synchronize()

    def milliseconds_between(self, start: Any, stop: Any) -> float:  # noqa: ANN401
        """Return the time between two timed events that have happened."""
        with self._named():
            return float(start.time_till(stop))

    def destroy_event(self, event: Any) -> None:  # noqa: ANN401
        """Give an event back, which pycuda does once no one has it."""

    def load_kernel(self, ptx: bytes, name: str) -> Any:  # noqa: ANN401
        """Return a kernel of a PTX text, compiled for the device."""
        with self._named():
            # The function keeps its module.
            return self._cuda.module_from_buffer(ptx + b"\0").get_function(name)

    def launch(self, kernel: Any, blocks: int, threads: int, arguments: Sequence[int], stream: int) -> None:  # noqa: ANN401
        """Put a kernel into a stream, in so many blocks of so many threads."""
        with self._named():
            prepared = kernel.prepare("Q" * len(arguments))
            prepared.prepared_async_call((blocks, 1), (threads, 1, 1), self._streams[stream], *arguments)

    def unload_kernel(self, kernel: Any) -> None:  # noqa: ANN401
        """Give a kernel back, which pycuda does once no one has it."""

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except self._cuda.MemoryError as error:
            raise DeviceMemoryError(_one_line(error)) from error
        except self._cuda.Error as error:  # "cuMemAlloc failed: …"
            raise CudaError(_one_line(error)) from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())

"""CUDA's driver through ``cuda.bindings``, NVIDIA's own package, which installs from wheels."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tomoscribe.engine.cuda.driver import CudaError, DeviceFacts, DeviceMemoryError
from tomoscribe.engine.errors import BackendUnavailableError

__all__ = ["CudaBindingsDriver"]


class CudaBindingsDriver:
    """A `tomoscribe.engine.cuda.driver.Driver` that calls through ``cuda.bindings.driver``.

    Raises:
        BackendUnavailableError: the package, or NVIDIA's driver, is not there.
    """

    has_graphs = True

    def __init__(self) -> None:
        try:
            from cuda.bindings import driver
        except ImportError as error:
            raise BackendUnavailableError(
                f'cuda.bindings: it cannot be imported ({error}); install it with: pip install "tomoscribe[tensorrt]"'
            ) from error
        self._cuda: Any = driver
        try:
            self._call("cuInit", 0)
        except (CudaError, RuntimeError) as error:  # the latter where there is no libcuda
            raise BackendUnavailableError(
                f"cuda.bindings: expected NVIDIA's driver, found that it does not start ({_one_line(error)}); "
                "see: tomoscribe doctor"
            ) from error

    @property
    def name(self) -> str:
        """The library and its version."""
        return f"cuda.bindings {version('cuda-bindings')}"

    def count_devices(self) -> int:
        """Return how many devices there are."""
        return int(self._call("cuDeviceGetCount"))

    def facts(self, index: int) -> DeviceFacts:
        """Return what a device is."""
        device, attributes = self._device(index), self._cuda.CUdevice_attribute
        raw: bytes = self._call("cuDeviceGetName", 256, device)
        major = self._call("cuDeviceGetAttribute", attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device)
        minor = self._call("cuDeviceGetAttribute", attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device)
        return DeviceFacts(
            name=raw.split(b"\0")[0].decode(errors="replace"),
            compute_capability=f"{major}.{minor}",
            multiprocessors=self._call(
                "cuDeviceGetAttribute", attributes.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, device
            ),
            memory=self._call("cuDeviceTotalMem", device),
        )

    def retain_context(self, index: int) -> Any:  # noqa: ANN401 - the library's own
        """Return a device's primary context."""
        return self._call("cuDevicePrimaryCtxRetain", self._device(index))

    def release_context(self, index: int, context: Any) -> None:  # noqa: ANN401
        """Give a primary context back."""
        self._call("cuDevicePrimaryCtxRelease", self._device(index))

    def push_context(self, context: Any) -> None:  # noqa: ANN401
        """Make a context the calling thread's."""
        self._call("cuCtxPushCurrent", context)

    def pop_context(self) -> None:
        """Give the calling thread back the context that it had before."""
        self._call("cuCtxPopCurrent")

    def memory(self) -> tuple[int, int]:
        """Return the bytes that are free on the device, and all that it has."""
        free, total = self._call("cuMemGetInfo")
        return int(free), int(total)

    def allocate(self, size: int) -> int:
        """Return the address of so many bytes on the device."""
        return int(self._call("cuMemAlloc", size))

    def free(self, address: int) -> None:
        """Give memory of the device back."""
        self._call("cuMemFree", address)

    def allocate_pinned(self, size: int) -> NDArray[np.uint8]:
        """Return so many bytes of page-locked memory."""
        # Portable: pinned for every device, so that a lane of its own for each of them may share it.
        address = int(self._call("cuMemHostAlloc", size, self._cuda.CU_MEMHOSTALLOC_PORTABLE))
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def free_pinned(self, memory: NDArray[np.uint8]) -> None:
        """Give page-locked memory back."""
        self._call("cuMemFreeHost", memory.ctypes.data)

    def create_stream(self) -> int:
        """Return the handle of a stream that does not wait for the default one."""
        return int(self._call("cuStreamCreate", self._cuda.CUstream_flags.CU_STREAM_NON_BLOCKING.value))

    def synchronize_stream(self, stream: int) -> None:
        """Return when all that was put into a stream is done."""
        self._call("cuStreamSynchronize", stream)

    def destroy_stream(self, stream: int) -> None:
        """Give a stream back."""
        self._call("cuStreamDestroy", stream)

    def upload(self, address: int, source: NDArray[Any], stream: int) -> None:
        """Put a copy to the device into a stream and return at once."""
        self._call("cuMemcpyHtoDAsync", address, source.ctypes.data, source.nbytes, stream)

    def download(self, target: NDArray[Any], address: int, stream: int) -> None:
        """Put a copy from the device into a stream and return at once."""
        self._call("cuMemcpyDtoHAsync", target.ctypes.data, address, target.nbytes, stream)

    def create_event(self, *, timed: bool) -> Any:  # noqa: ANN401
        """Return an event."""
        flags = self._cuda.CUevent_flags
        return self._call("cuEventCreate", (flags.CU_EVENT_DEFAULT if timed else flags.CU_EVENT_DISABLE_TIMING).value)

    def record_event(self, event: Any, stream: int) -> None:  # noqa: ANN401
        """Have an event happen when all is done that is in a stream so far."""
        self._call("cuEventRecord", event, stream)

    def wait_for_event(self, stream: int, event: Any) -> None:  # noqa: ANN401
        """Have what is put into a stream from now on wait for an event."""
        self._call("cuStreamWaitEvent", stream, event, 0)

    def synchronize_event(self, event: Any) -> None:  # noqa: ANN401
        """Return when an event has happened."""
        self._call("cuEventSynchronize", event)

    def milliseconds_between(self, start: Any, stop: Any) -> float:  # noqa: ANN401
        """Return the time between two timed events that have happened."""
        return float(self._call("cuEventElapsedTime", start, stop))

    def destroy_event(self, event: Any) -> None:  # noqa: ANN401
        """Give an event back."""
        self._call("cuEventDestroy", event)

    def load_kernel(self, ptx: bytes, name: str) -> Any:  # noqa: ANN401
        """Return a kernel of a PTX text, compiled for the device."""
        # The text ends with a zero byte (cuModuleLoadData).
        module = self._call("cuModuleLoadData", ptx + b"\0")
        return module, self._call("cuModuleGetFunction", module, name.encode())

    def launch(self, kernel: Any, blocks: int, threads: int, arguments: Sequence[int], stream: int) -> None:  # noqa: ANN401
        """Put a kernel into a stream, in so many blocks of so many threads."""
        typed = tuple(arguments), (ctypes.c_uint64,) * len(arguments)
        _, function = kernel
        self._call("cuLaunchKernel", function, blocks, 1, 1, threads, 1, 1, 0, stream, typed, 0)

    def unload_kernel(self, kernel: Any) -> None:  # noqa: ANN401
        """Give a kernel back."""
        module, _ = kernel
        self._call("cuModuleUnload", module)

    def begin_capture(self, stream: int) -> None:
        """Record what this thread puts into a stream from now on, in place of doing it."""
        # Other threads allocate and copy meanwhile.
        modes = self._cuda.CUstreamCaptureMode
        self._call("cuStreamBeginCapture", stream, modes.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)

    def end_capture(self, stream: int) -> Any:  # noqa: ANN401
        """Return what was recorded, ready to be launched."""
        recorded = self._call("cuStreamEndCapture", stream)
        try:
            return self._call("cuGraphInstantiate", recorded, 0)
        finally:
            self._call("cuGraphDestroy", recorded)

    def launch_graph(self, graph: Any, stream: int) -> None:  # noqa: ANN401
        """Put all that was recorded into a stream."""
        self._call("cuGraphLaunch", graph, stream)

    def destroy_graph(self, graph: Any) -> None:  # noqa: ANN401
        """Give back what was recorded."""
        self._call("cuGraphExecDestroy", graph)

    def _device(self, index: int) -> Any:  # noqa: ANN401
        return self._call("cuDeviceGet", index)

    def _call(self, name: str, *arguments: Any) -> Any:  # noqa: ANN401
        """Make a call, and return what it returns besides its status."""
        status, *values = getattr(self._cuda, name)(*arguments)
        results = self._cuda.CUresult
        if status != results.CUDA_SUCCESS:
            kind = DeviceMemoryError if status == results.CUDA_ERROR_OUT_OF_MEMORY else CudaError
            raise kind(f"{name}: CUDA's driver failed with {getattr(status, 'name', status)}")
        return values[0] if len(values) == 1 else tuple(values) or None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())

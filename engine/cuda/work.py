"""What a CUDA device can be told to do: kernels, and graphs of work that was recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tomoscribe.engine.cuda.device import Device
    from tomoscribe.engine.cuda.stream import Buffer, Stream

__all__ = ["Graph", "Kernel"]


class Kernel:
    """A function that a device runs in many threads at once."""

    def __init__(self, device: Device, ptx: bytes, name: str) -> None:
        self._device = device
        with device.current():
            self._handle: Any = device.driver.load_kernel(ptx, name)

    def launch(self, stream: Stream, blocks: int, threads: int, *arguments: Buffer | int) -> None:
        """Put the kernel into a stream, and return at once.

        Args:
            stream: that it is put into.
            blocks: how many blocks of threads run it.
            threads: in each block.
            arguments: its pointers, as buffers, and its numbers, of 64 bits without sign.
        """
        numbers = [argument if isinstance(argument, int) else argument.address for argument in arguments]
        with self._device.current():
            stream.hold(*(argument for argument in arguments if not isinstance(argument, int)))
            self._device.driver.launch(self._handle, blocks, threads, numbers, stream.handle)

    def destroy(self) -> None:
        """Give the kernel back; `Device` calls this."""
        # As with events.
        handle, self._handle = self._handle, None
        self._device.driver.unload_kernel(handle)


class Graph:
    """Work that was recorded, with the addresses and sizes that it had then, and is launched as a whole.

    See `tomoscribe.engine.cuda.stream.Stream.capture`. What it reads and writes has to outlive it.
    """

    def __init__(self, device: Device, handle: Any) -> None:  # noqa: ANN401 - the library's own
        self._device = device
        self._handle = handle

    def launch(self, stream: Stream) -> None:
        """Put all of the work into a stream, and return at once."""
        with self._device.current():
            stream.hold(self)
            self._device.graph_driver().launch_graph(self._handle, stream.handle)

    def free(self) -> None:
        """Give the graph back, once no stream works on it."""
        self._device.let_go(self)

    def destroy(self) -> None:
        """Give the graph back at once; `Device` calls this."""
        self._device.graph_driver().destroy_graph(self._handle)

"""Casting slices to float32 on the device, so that tomograms cross the bus in the dtype that they are stored in."""

from __future__ import annotations

from pathlib import Path

from tomoscribe.engine.cuda.device import Device
from tomoscribe.engine.cuda.stream import Buffer, Stream
from tomoscribe.engine.cuda.work import Kernel

__all__ = ["CASTABLE", "Casting"]

CASTABLE = ("int8", "uint8", "int16", "uint16", "float16")
"""Each has the kernel ``cast_<dtype>`` in ``casting.cu``."""

_PTX = Path(__file__).with_name("casting.ptx")
_THREADS = 256
# Enough to keep a device busy; a thread takes as many values as it has to.
_BLOCKS_PER_MULTIPROCESSOR = 32


class Casting:
    """The kernels of one device, each compiled when it is first used.

    Args:
        device: on which the buffers are.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._kernels: dict[str, Kernel] = {}

    def cast(self, target: Buffer, source: Buffer, dtype: str, count: int, stream: Stream) -> None:
        """Put a cast of the first values of a buffer into a stream, and return at once.

        Args:
            target: `count` values in float32.
            source: `count` values in `dtype`.
            dtype: one of `CASTABLE`.
            count: how many there are.
            stream: that the work is put into.

        Raises:
            CudaError: the kernel cannot be compiled for the device, or not be launched.
        """
        if dtype not in self._kernels:
            self._kernels[dtype] = self._device.kernel(_PTX.read_bytes(), f"cast_{dtype}")
        most = _BLOCKS_PER_MULTIPROCESSOR * self._device.facts().multiprocessors
        blocks = min(-(-count // _THREADS), most)
        self._kernels[dtype].launch(stream, blocks, _THREADS, target, source, count)

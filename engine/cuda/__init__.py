"""CUDA: the only place that knows a library of it. A `Device` looks after lifetimes, a `Driver` makes the calls."""

from tomoscribe.engine.cuda.device import Buffer, Device, Event, Stream
from tomoscribe.engine.cuda.driver import CudaError, DeviceMemoryError, Driver

__all__ = ["Buffer", "CudaError", "Device", "DeviceMemoryError", "Driver", "Event", "Stream"]

"""CUDA: the only place that knows a library of it. A `Device` looks after lifetimes, a `Driver` makes the calls."""

from tomoscribe.engine.cuda.choice import load_driver
from tomoscribe.engine.cuda.device import Device
from tomoscribe.engine.cuda.driver import CudaError, DeviceFacts, DeviceMemoryError, Driver
from tomoscribe.engine.cuda.stream import Buffer, Event, Stream
from tomoscribe.engine.cuda.work import Graph, Kernel

__all__ = [
    "Buffer",
    "CudaError",
    "Device",
    "DeviceFacts",
    "DeviceMemoryError",
    "Driver",
    "Event",
    "Graph",
    "Kernel",
    "Stream",
    "load_driver",
]

"""CUDA without a device: `Simulator` behind the interfaces of both libraries."""

from __future__ import annotations

import ctypes
import runpy
import struct
import sys
from enum import Enum
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np

from tomoscribe.engine.cuda.bindings import CudaBindingsDriver
from tomoscribe.engine.cuda.pycuda import PycudaDriver

_SIMULATOR = runpy.run_path(str(Path(__file__).with_name("simulator.py")))
Simulator, SimulatedError, STATUSES = (_SIMULATOR[name] for name in ("Simulator", "SimulatedError", "STATUSES"))
LIBRARIES = ("cuda.bindings", "pycuda")

_FUNCTIONS = [
    *("cuInit", "cuDeviceGetCount", "cuDevicePrimaryCtxRetain", "cuDevicePrimaryCtxRelease"),
    *("cuDeviceGetName", "cuDeviceGetAttribute", "cuDeviceTotalMem"),
    *("cuCtxPushCurrent", "cuCtxPopCurrent", "cuMemGetInfo"),
    *("cuMemAlloc", "cuMemFree", "cuMemHostAlloc", "cuMemFreeHost", "cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync"),
    *("cuStreamCreate", "cuStreamDestroy", "cuStreamSynchronize", "cuStreamWaitEvent"),
    *("cuEventCreate", "cuEventDestroy", "cuEventRecord", "cuEventSynchronize", "cuEventElapsedTime"),
    *("cuModuleLoadData", "cuModuleGetFunction", "cuModuleUnload", "cuLaunchKernel"),
    *("cuStreamBeginCapture", "cuStreamEndCapture"),
    *("cuGraphInstantiate", "cuGraphLaunch", "cuGraphDestroy", "cuGraphExecDestroy"),
]


def _launch(function, blocks, _y, _z, threads, _ty, _tz, _shared, stream, typed, _extra):
    values, types = typed
    assert all(ctypes.sizeof(kind) == 8 for kind in types), "arguments that are not of 64 bits"
    assert len(values) == len(types)
    return function, blocks, threads, values, stream


# What the simulator is told of a call's arguments, where it is not all of them.
_TOLD = {
    "cuInit": lambda flags: (),
    "cuDeviceGetName": lambda length, device: (device,),
    "cuMemHostAlloc": lambda size, flags: (size,) if flags == 1 else (),
    "cuStreamWaitEvent": lambda stream, event, flags: (stream, event),
    "cuModuleGetFunction": lambda module, name: (module, name.decode()),
    "cuLaunchKernel": _launch,
    "cuStreamBeginCapture": lambda stream, mode: (stream,) if mode == 1 else (),
    "cuGraphInstantiate": lambda graph, flags: (graph,),
}


def bindings_over(simulator):
    """``cuda.bindings.driver`` as far as it is used: every call returns its status first."""
    results = Enum("CUresult", STATUSES)
    module = ModuleType("cuda.bindings.driver")
    module.CUresult = results
    module.CU_MEMHOSTALLOC_PORTABLE = 1
    module.CUstream_flags = SimpleNamespace(CU_STREAM_NON_BLOCKING=SimpleNamespace(value=1))
    module.CUevent_flags = SimpleNamespace(
        CU_EVENT_DEFAULT=SimpleNamespace(value=0), CU_EVENT_DISABLE_TIMING=SimpleNamespace(value=2)
    )
    module.CUdevice_attribute = SimpleNamespace(
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR=75,
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR=76,
        CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT=16,
    )
    module.CUstreamCaptureMode = SimpleNamespace(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL=1)

    def function(name):
        def call(*arguments):
            try:
                found = simulator.call(name, *(_TOLD[name](*arguments) if name in _TOLD else arguments))
            except SimulatedError as failure:
                return (results[str(failure)], None)
            if name == "cuDeviceGetName":
                found = found.encode().ljust(arguments[0], b"\0")
            values = found if isinstance(found, tuple) else () if found is None else (found,)
            return (results.CUDA_SUCCESS, *values)

        return call

    for name in _FUNCTIONS:
        setattr(module, name, function(name))
    module.cuDeviceGet = lambda index: (results.CUDA_SUCCESS, index)
    return module


def pycuda_over(simulator):
    """``pycuda.driver`` as far as it is used: objects that make a call where they are made, used and forgotten."""
    module = ModuleType("pycuda.driver")
    module.Error = type("Error", (Exception,), {})
    module.MemoryError = type("MemoryError", (module.Error,), {})
    module.host_alloc_flags = SimpleNamespace(PORTABLE=1)
    module.event_flags = SimpleNamespace(DEFAULT=0, DISABLE_TIMING=2)
    module.device_attribute = SimpleNamespace(
        COMPUTE_CAPABILITY_MAJOR=75, COMPUTE_CAPABILITY_MINOR=76, MULTIPROCESSOR_COUNT=16
    )

    def call(name, *arguments):
        try:
            return simulator.call(name, *arguments)
        except SimulatedError as failure:
            kind = module.MemoryError if str(failure) == "CUDA_ERROR_OUT_OF_MEMORY" else module.Error
            raise kind(f"{name} failed: {failure}") from failure

    def forget(name, *arguments):
        # pycuda makes an object's context current when it is forgotten.
        simulator.calls.append(name)
        getattr(simulator, name)(*arguments)

    class Context:
        def __init__(self, index):
            self.index, self.name = index, call("cuDevicePrimaryCtxRetain", index)

        def push(self):
            call("cuCtxPushCurrent", self.name)

        @staticmethod
        def pop():
            call("cuCtxPopCurrent")

        def detach(self):
            call("cuDevicePrimaryCtxRelease", self.index)

    class Device:
        def __init__(self, index):
            self.index = index

        @staticmethod
        def count():
            return call("cuDeviceGetCount")

        def name(self):
            return call("cuDeviceGetName", self.index)

        def get_attribute(self, attribute):
            return call("cuDeviceGetAttribute", attribute, self.index)

        def total_memory(self):
            return call("cuDeviceTotalMem", self.index)

        def retain_primary_context(self):
            return Context(self.index)

    class DeviceAllocation:
        def __init__(self, size):
            self.address = call("cuMemAlloc", size)

        def __int__(self):
            return self.address

        def free(self):
            call("cuMemFree", self.address)

    class Stream:
        def __init__(self, flags):
            self.handle = call("cuStreamCreate", flags)

        def synchronize(self):
            call("cuStreamSynchronize", self.handle)

        def wait_for_event(self, event):
            call("cuStreamWaitEvent", self.handle, event.handle)

        def __del__(self):
            if hasattr(self, "handle"):
                forget("cuStreamDestroy", self.handle)

    class Event:
        def __init__(self, flags):
            self.handle = call("cuEventCreate", flags)

        def record(self, stream):
            call("cuEventRecord", self.handle, stream.handle)

        def synchronize(self):
            call("cuEventSynchronize", self.handle)

        def time_till(self, event):
            return call("cuEventElapsedTime", self.handle, event.handle)

        def __del__(self):
            if hasattr(self, "handle"):
                forget("cuEventDestroy", self.handle)

    class Module:
        def __init__(self, buffer):
            self.handle = call("cuModuleLoadData", buffer)

        def get_function(self, name):
            return Function(self, call("cuModuleGetFunction", self.handle, name))

        def __del__(self):
            if hasattr(self, "handle"):
                forget("cuModuleUnload", self.handle)

    class Function:
        def __init__(self, module, handle):
            self.module, self.handle = module, handle

        def prepare(self, formats):
            # As the module struct has them.
            self.format = formats
            return self

        def prepared_async_call(self, grid, block, stream, *arguments):
            assert (grid[1:], block[1:]) == ((1,), (1, 1))
            packed = struct.pack(self.format, *arguments)
            call("cuLaunchKernel", self.handle, grid[0], block[0], struct.unpack("QQQ", packed), stream.handle)

    class Pinned(np.ndarray):
        """Has a base that can be freed, as the array that pycuda returns has."""

        base = property(lambda self: SimpleNamespace(free=lambda: call("cuMemFreeHost", self.ctypes.data)))

    def pagelocked_empty(size, dtype, mem_flags):
        assert (dtype, mem_flags) == (np.uint8, 1)
        address = call("cuMemHostAlloc", size)
        return np.frombuffer((ctypes.c_uint8 * size).from_address(address), np.uint8).view(Pinned)

    module.init = lambda: call("cuInit")
    module.mem_get_info = lambda: call("cuMemGetInfo")
    module.mem_alloc = DeviceAllocation
    module.pagelocked_empty = pagelocked_empty
    module.memcpy_htod_async = lambda address, source, stream: call(
        "cuMemcpyHtoDAsync", address, source.ctypes.data, source.nbytes, stream.handle
    )
    module.memcpy_dtoh_async = lambda target, address, stream: call(
        "cuMemcpyDtoHAsync", target.ctypes.data, address, target.nbytes, stream.handle
    )
    module.module_from_buffer = Module
    module.Context, module.Device, module.Stream, module.Event = Context, Device, Stream, Event
    return module


def install(library, simulator, monkeypatch):
    """Put a library over the simulator in the place of the real one; return its adapter, and take the other away."""
    fakes = {"cuda.bindings": bindings_over, "pycuda": pycuda_over}
    for name in LIBRARIES:
        parent, child = ModuleType(name), fakes[name](simulator) if name == library else None
        if child is not None:
            parent.driver = child
        if name == "cuda.bindings":
            cuda = ModuleType("cuda")
            cuda.bindings = parent
            monkeypatch.setitem(sys.modules, "cuda", cuda)
        monkeypatch.setitem(sys.modules, name, parent)
        monkeypatch.setitem(sys.modules, f"{name}.driver", child)
        monkeypatch.setattr(f"tomoscribe.engine.cuda.{name.split('.')[-1]}.version", lambda _: "1.0")
    return {"cuda.bindings": CudaBindingsDriver, "pycuda": PycudaDriver}[library]()

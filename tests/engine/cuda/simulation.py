"""CUDA without a device: a simulation of the driver's calls, behind the interfaces of both libraries."""

# ruff: noqa: N802 - the driver's own names

from __future__ import annotations

import ctypes
import itertools
import struct
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from types import ModuleType, SimpleNamespace

import numpy as np

from tomoscribe.engine.cuda.bindings import CudaBindingsDriver
from tomoscribe.engine.cuda.pycuda import PycudaDriver

LIBRARIES = ("cuda.bindings", "pycuda")
STATUSES = (
    *("CUDA_SUCCESS", "CUDA_ERROR_OUT_OF_MEMORY", "CUDA_ERROR_INVALID_HANDLE", "CUDA_ERROR_NOT_FOUND"),
    *("CUDA_ERROR_LAUNCH_FAILED", "CUDA_ERROR_DEVICE_UNAVAILABLE", "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"),
)
# Beside cuDeviceGetCount and so on, what needs no context.
WITHOUT_CONTEXT = ("cuInit", "cuDevice", "cuCtxPushCurrent")


class SimulatedError(Exception):
    """A call that failed, with what cuda.h calls the status."""


@dataclass
class Operation:
    """What is in a stream, and the memory, modules and graphs that it uses."""

    run: Callable[[], object]
    uses: tuple[int, ...] = ()


@dataclass
class Occurrence:
    """An event, as it was recorded once."""

    stream: int | None
    happened: bool
    time: float | None = None


class Simulator:
    """What CUDA's driver does, as far as it is called here: work is done when it is waited for, and no sooner.

    Attributes:
        calls: every call by its name.
        copied: bytes that were copied, by direction.
        failing: what the next call of a name fails with.
        lost: what all calls fail with from now on.
        clock: milliseconds; everything in a stream takes one.
    """

    Error = SimulatedError

    def __init__(self):
        self.calls = []
        self.copied = Counter()
        self.failing = {}
        self.lost = None
        self.clock = 0.0
        self.devices = ("Simulated A", "Simulated B")
        self.capacity = 1 << 20
        self.device_memory, self.host_memory = {}, {}
        self.queues, self.events, self.modules, self.functions = {}, {}, {}, {}
        self.recording, self.graphs = {}, {}
        self.retained = 0
        self._contexts = threading.local()
        self._lock = threading.RLock()
        self._numbers = itertools.count(1 << 40, 1 << 32)

    @property
    def contexts(self):
        """The calling thread's."""
        if not hasattr(self._contexts, "stack"):
            self._contexts.stack = []
        return self._contexts.stack

    def call(self, name, *arguments):
        with self._lock:
            self.calls.append(name)
            if name in self.failing:
                raise SimulatedError(self.failing.pop(name))
            if self.lost and not name.startswith(("cuCtx", "cuInit", "cuDevice")):
                raise SimulatedError(self.lost)
            assert self.contexts or name.startswith(WITHOUT_CONTEXT), f"{name} without a context"
            return getattr(self, name)(*arguments)

    def view(self, address, size):
        """The bytes of the device from an address on."""
        base = self._base(address)
        assert address - base + size <= len(self.device_memory[base]), "beyond a buffer's end"
        return self.device_memory[base][address - base :][:size]

    def work(self, stream, function, addresses=(), milliseconds=0.0):
        """Put a function into a stream, as a library puts its kernels there."""

        def run():
            self.clock += milliseconds
            function()

        with self._lock:
            self._put(stream, run, *map(self._base, addresses))

    def cuInit(self):
        pass

    def cuDeviceGetCount(self):
        return len(self.devices)

    def cuDeviceGetName(self, index):
        return self.devices[index]

    def cuDeviceGetAttribute(self, attribute, index):
        return {75: 9, 76: index, 16: 4}[attribute]

    def cuDeviceTotalMem(self, index):
        return self.capacity

    def cuDevicePrimaryCtxRetain(self, index):
        self.retained += 1
        return 0xC0 + index

    def cuDevicePrimaryCtxRelease(self, index):
        self.retained -= 1

    def cuCtxPushCurrent(self, context):
        self.contexts.append(context)

    def cuCtxPopCurrent(self):
        self.contexts.pop()

    def cuMemGetInfo(self):
        return self.capacity - sum(map(len, self.device_memory.values())), self.capacity

    def cuMemAlloc(self, size):
        if size > self.cuMemGetInfo()[0]:
            raise SimulatedError("CUDA_ERROR_OUT_OF_MEMORY")
        address = next(self._numbers)
        # Not a number in any floating-point type.
        self.device_memory[address] = np.full(size, 255, np.uint8)
        return address

    def cuMemFree(self, address):
        self._check_idle(address)
        del self.device_memory[address]

    def cuMemHostAlloc(self, size):
        memory = (ctypes.c_uint8 * size)()
        self.host_memory[ctypes.addressof(memory)] = memory
        return ctypes.addressof(memory)

    def cuMemFreeHost(self, address):
        self._check_idle(address)
        del self.host_memory[address]

    def cuStreamCreate(self, flags):
        assert flags == 1, "a stream that waits for the default one"
        stream = next(self._numbers)
        self.queues[stream] = []
        return stream

    def cuStreamDestroy(self, stream):
        assert not self.queues.pop(stream) or self.lost, "destroyed with work in it"

    def cuStreamSynchronize(self, stream):
        if stream in self.recording:
            raise SimulatedError("CUDA_ERROR_STREAM_CAPTURE_INVALIDATED")
        self._advance(stream, len(self.queues[stream]))

    def cuMemcpyHtoDAsync(self, address, host, size, stream):
        self.copied["up"] += size
        self._copy(self.view(address, size), self._host(host, size), stream, address, host)

    def cuMemcpyDtoHAsync(self, host, address, size, stream):
        self.copied["down"] += size
        self._copy(self._host(host, size), self.view(address, size), stream, address, host)

    def cuEventCreate(self, flags):
        event = next(self._numbers)
        self.events[event] = SimpleNamespace(timed=flags == 0, latest=Occurrence(None, True))
        return event

    def cuEventDestroy(self, event):
        del self.events[event]

    def cuEventRecord(self, event, stream):
        occurrence = self.events[event].latest = Occurrence(stream, False)

        def happen():
            occurrence.happened, occurrence.time = True, self.clock

        self._put(stream, happen)

    def cuStreamWaitEvent(self, stream, event):
        occurrence = self.events[event].latest
        self._put(stream, lambda: self._wait(occurrence))

    def cuEventSynchronize(self, event):
        self._wait(self.events[event].latest)

    def cuEventElapsedTime(self, start, stop):
        if not (self.events[start].timed and self.events[stop].timed):
            raise SimulatedError("CUDA_ERROR_INVALID_HANDLE")
        return self.events[stop].latest.time - self.events[start].latest.time

    def cuModuleLoadData(self, ptx):
        assert ptx.endswith(b"\0"), "a text without an end"
        module = next(self._numbers)
        self.modules[module] = ptx
        return module

    def cuModuleGetFunction(self, module, name):
        if f".entry {name}(".encode() not in self.modules[module]:
            raise SimulatedError("CUDA_ERROR_NOT_FOUND")
        function = next(self._numbers)
        self.functions[function] = module, name
        return function

    def cuModuleUnload(self, module):
        self._check_idle(module)
        del self.modules[module]

    def cuLaunchKernel(self, function, blocks, threads, arguments, stream):
        module, name = self.functions[function]
        assert module in self.modules, "a kernel that was given back"
        assert blocks >= 1
        assert 1 <= threads <= 1024
        target, source, count = arguments
        dtype = np.dtype(name.removeprefix("cast_"))

        def cast():
            values = self.view(source, count * dtype.itemsize).view(dtype)
            self.view(target, 4 * count).view(np.float32)[:] = values

        self._put(stream, cast, module, self._base(target), self._base(source))

    def cuStreamBeginCapture(self, stream):
        self.recording[stream] = []

    def cuStreamEndCapture(self, stream):
        graph = next(self._numbers)
        self.graphs[graph] = self.recording.pop(stream)
        return graph

    def cuGraphInstantiate(self, graph):
        executable = next(self._numbers)
        self.graphs[executable] = list(self.graphs[graph])
        return executable

    def cuGraphLaunch(self, executable, stream):
        operations = self.graphs[executable]

        def run():
            for operation in operations:
                operation.run()

        self._put(stream, run, executable, *(used for operation in operations for used in operation.uses))

    def cuGraphDestroy(self, graph):
        del self.graphs[graph]

    def cuGraphExecDestroy(self, executable):
        self._check_idle(executable)
        del self.graphs[executable]

    def _put(self, stream, run, *uses):
        assert stream in self.queues, "a stream that is not there"
        self.recording.get(stream, self.queues[stream]).append(Operation(run, uses))

    def _copy(self, target, source, stream, *addresses):
        def run():
            target[:] = source

        self._put(stream, run, *map(self._base, addresses))

    def _host(self, address, size):
        memory = self.host_memory[self._base(address)]
        assert self._base(address) + len(memory) >= address + size, "beyond the end of pinned memory"
        return np.frombuffer((ctypes.c_uint8 * size).from_address(address), np.uint8)

    def _base(self, address):
        """Where the memory begins that an address is in."""
        for memory in (self.device_memory, self.host_memory):
            for start, values in memory.items():
                if start <= address < start + len(values):
                    return start
        raise AssertionError("an address that nothing is at")

    def _wait(self, occurrence):
        while not occurrence.happened:
            self._advance(occurrence.stream, 1)

    def _advance(self, stream, count):
        for _ in range(count):
            operation = self.queues[stream].pop(0)
            self.clock += 1
            try:
                operation.run()
            except SimulatedError as error:
                self.lost = str(error)
                raise

    def _check_idle(self, used):
        for queue in self.queues.values():
            assert not any(used in operation.uses for operation in queue), "given back while work was in flight"


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

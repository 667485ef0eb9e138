"""CUDA without a device: a simulation of the driver's calls, behind the interfaces of both libraries."""

# ruff: noqa: N802 - the driver's own names

from __future__ import annotations

import ctypes
import itertools
import sys
from enum import Enum
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from tomoscribe.engine.cuda.bindings import CudaBindingsDriver
from tomoscribe.engine.cuda.pycuda import PycudaDriver


class SimulatedError(Exception):
    """A call that failed, with what cuda.h calls the status."""


class Simulator:
    """What CUDA's driver does, as far as it is called here: copies are made when they are waited for, and no sooner.

    `calls` has every call by its name; `failing` what the next call of a name fails with.
    """

    def __init__(self):
        self.calls = []
        self.failing = {}
        self.devices = ("Simulated A", "Simulated B")
        self.capacity = 1 << 20
        self.device_memory, self.host_memory = {}, {}
        self.queues, self.events = {}, {}
        self.contexts = []
        self.retained = 0
        self._numbers = itertools.count(0x1000, 0x100000)

    def call(self, name, *arguments):
        self.calls.append(name)
        if name in self.failing:
            raise SimulatedError(self.failing.pop(name))
        if name not in ("cuInit", "cuDeviceGetCount", "cuDevicePrimaryCtxRetain", "cuDevicePrimaryCtxRelease"):
            assert self.contexts or name == "cuCtxPushCurrent", f"{name} without a context"
        return getattr(self, name)(*arguments)

    def cuInit(self):
        pass

    def cuDeviceGetCount(self):
        return len(self.devices)

    def cuDeviceGetName(self, index):
        return self.devices[index]

    def cuDevicePrimaryCtxRetain(self, index):
        self.retained += 1
        return f"context {index}"

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
        self.device_memory[address] = np.zeros(size, np.uint8)
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
        assert not self.queues.pop(stream), "destroyed with work in it"

    def cuStreamSynchronize(self, stream):
        self._advance(stream, len(self.queues[stream]))

    def cuMemcpyHtoDAsync(self, address, host, size, stream):
        self.queues[stream].append(("upload", address, host, size))

    def cuMemcpyDtoHAsync(self, host, address, size, stream):
        self.queues[stream].append(("download", address, host, size))

    def cuEventCreate(self, flags):
        event = next(self._numbers)
        self.events[event] = SimpleNamespace(stream=None, happened=True, timed=flags == 0, time=None)
        return event

    def cuEventDestroy(self, event):
        del self.events[event]

    def cuEventRecord(self, event, stream):
        self.events[event].happened = False
        self.events[event].stream = stream
        self.queues[stream].append(("event", event))

    def cuStreamWaitEvent(self, stream, event):
        self.queues[stream].append(("wait", event))

    def cuEventSynchronize(self, event):
        found = self.events[event]
        while not found.happened:
            self._advance(found.stream, 1)

    def cuEventElapsedTime(self, start, stop):
        if not (self.events[start].timed and self.events[stop].timed):
            raise SimulatedError("CUDA_ERROR_INVALID_HANDLE")
        return self.events[stop].time - self.events[start].time

    def _advance(self, stream, count):
        for _ in range(count):
            kind, *what = self.queues[stream].pop(0)
            if kind == "event":
                self.events[what[0]].happened, self.events[what[0]].time = True, float(len(self.calls))
            elif kind == "wait":
                self.cuEventSynchronize(what[0])
            else:
                address, host, size = what
                there = self.device_memory[address][:size]
                here = np.frombuffer((ctypes.c_uint8 * size).from_address(host), np.uint8)
                source, target = (here, there) if kind == "upload" else (there, here)
                target[:] = source

    def _check_idle(self, address):
        for queue in self.queues.values():
            for kind, *what in queue:
                busy = kind in ("upload", "download") and (what[0] == address or self._holds(address, what[1]))
                assert not busy, "freed while a copy was in flight"

    def _holds(self, address, inner):
        memory = self.host_memory.get(address)
        return memory is not None and address <= inner < address + len(memory)


_FUNCTIONS = [
    *("cuInit", "cuDeviceGetCount", "cuDevicePrimaryCtxRetain", "cuDevicePrimaryCtxRelease"),
    *("cuCtxPushCurrent", "cuCtxPopCurrent", "cuMemGetInfo"),
    *("cuMemAlloc", "cuMemFree", "cuMemHostAlloc", "cuMemFreeHost", "cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync"),
    *("cuStreamCreate", "cuStreamDestroy", "cuStreamSynchronize", "cuStreamWaitEvent"),
    *("cuEventCreate", "cuEventDestroy", "cuEventRecord", "cuEventSynchronize", "cuEventElapsedTime"),
]


def bindings_over(simulator):
    """``cuda.bindings.driver`` as far as it is used: every call returns its status first."""
    results = Enum(
        "CUresult", ["CUDA_SUCCESS", "CUDA_ERROR_OUT_OF_MEMORY", "CUDA_ERROR_INVALID_HANDLE", "CUDA_ERROR_LOST"]
    )
    module = ModuleType("cuda.bindings.driver")
    module.CUresult = results
    module.CU_MEMHOSTALLOC_PORTABLE = 1
    module.CUstream_flags = SimpleNamespace(CU_STREAM_NON_BLOCKING=SimpleNamespace(value=1))
    module.CUevent_flags = SimpleNamespace(
        CU_EVENT_DEFAULT=SimpleNamespace(value=0), CU_EVENT_DISABLE_TIMING=SimpleNamespace(value=2)
    )

    def function(name, used=None):
        def call(*arguments):
            try:
                found = simulator.call(name, *(arguments if used is None else used(*arguments)))
            except SimulatedError as failure:
                return (results[str(failure)], None)
            values = found if isinstance(found, tuple) else () if found is None else (found,)
            return (results.CUDA_SUCCESS, *values)

        return call

    changed = {
        "cuInit": lambda _: (),
        "cuMemHostAlloc": lambda size, flags: (size,) if flags == 1 else (),
        "cuStreamWaitEvent": lambda stream, event, _: (stream, event),
    }
    for name in _FUNCTIONS:
        setattr(module, name, function(name, changed.get(name)))
    module.cuDeviceGet = lambda index: (results.CUDA_SUCCESS, index)
    name_of = function("cuDeviceGetName")

    def cuDeviceGetName(length, index):
        status, *names = name_of(index)
        return (status, *(name.encode().ljust(length, b"\0") for name in names))

    module.cuDeviceGetName = cuDeviceGetName
    return module


def pycuda_over(simulator):
    """``pycuda.driver`` as far as it is used: objects that make a call where they are made, used and forgotten."""
    module = ModuleType("pycuda.driver")
    module.Error = type("Error", (Exception,), {})
    module.MemoryError = type("MemoryError", (module.Error,), {})
    module.host_alloc_flags = SimpleNamespace(PORTABLE=1)
    module.event_flags = SimpleNamespace(DEFAULT=0, DISABLE_TIMING=2)

    def call(name, *arguments):
        try:
            return simulator.call(name, *arguments)
        except SimulatedError as failure:
            kind = module.MemoryError if str(failure) == "CUDA_ERROR_OUT_OF_MEMORY" else module.Error
            raise kind(f"{name} failed: {failure}") from failure

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
            # pycuda makes the stream's context current for it.
            if hasattr(self, "handle"):
                simulator.calls.append("cuStreamDestroy")
                simulator.cuStreamDestroy(self.handle)

    class Event:
        def __init__(self, flags):
            self.handle = call("cuEventCreate", flags)

        def record(self, stream):
            call("cuEventRecord", self.handle, stream.handle)

        def synchronize(self):
            call("cuEventSynchronize", self.handle)

        def time_till(self, event):
            return call("cuEventElapsedTime", self.handle, event.handle)

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
    module.Context, module.Device, module.Stream, module.Event = Context, Device, Stream, Event
    return module


@pytest.fixture
def simulator():
    """The driver, without a device."""
    return Simulator()


@pytest.fixture(params=["cuda.bindings", "pycuda"])
def driver(request, simulator, monkeypatch):
    """Each library's adapter, on the simulator."""
    fakes = {"cuda.bindings": bindings_over, "pycuda": pycuda_over}
    parent, child = ModuleType(request.param), fakes[request.param](simulator)
    parent.driver = child
    if request.param == "cuda.bindings":
        cuda = ModuleType("cuda")
        cuda.bindings = parent
        monkeypatch.setitem(sys.modules, "cuda", cuda)
    monkeypatch.setitem(sys.modules, request.param, parent)
    monkeypatch.setitem(sys.modules, f"{request.param}.driver", child)
    monkeypatch.setattr(f"tomoscribe.engine.cuda.{request.param.split('.')[-1]}.version", lambda _: "1.0")
    return {"cuda.bindings": CudaBindingsDriver, "pycuda": PycudaDriver}[request.param]()

"""What CUDA's driver does, as far as it is called here, without a device."""

# ruff: noqa: N802 - the driver's own names

from __future__ import annotations

import ctypes
import itertools
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np

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

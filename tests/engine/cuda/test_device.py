"""Order, sizes, lifetimes and failures of what a device does, with both libraries on a simulated driver."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from tomoscribe.engine.cuda import CudaError, Device, DeviceMemoryError
from tomoscribe.engine.cuda.casting import Casting
from tomoscribe.engine.errors import BackendUnavailableError, ParameterError


@pytest.fixture
def device(driver):
    with Device(driver) as device:
        yield device


def test_what_goes_up_comes_down_in_the_order_of_the_stream(device):
    stream, buffer = device.stream(), device.buffer(48)
    source, target = device.pinned((2, 6), np.float32), device.pinned((2, 6), np.float32)
    source[:] = np.arange(12).reshape(2, 6)
    target[:] = -1
    stream.upload(buffer, source)
    stream.download(target, buffer)
    assert (target == -1).all()  # neither call waits
    stream.synchronize()
    np.testing.assert_array_equal(target, source)


@pytest.mark.parametrize("freed", ["buffer", "source"])
def test_nothing_is_freed_while_a_copy_is_in_flight(device, simulator, freed):
    stream, buffer, source = device.stream(), device.buffer(8), device.pinned((8,), np.uint8)
    stream.upload(buffer, source)
    simulator.calls.clear()
    if freed == "buffer":
        buffer.free()
    else:
        device.unpin(source)
    assert [c for c in simulator.calls if "Ctx" not in c] == [
        "cuStreamSynchronize",
        "cuMemFree" if freed == "buffer" else "cuMemFreeHost",
    ]


@pytest.mark.parametrize("freed", ["source", "target"])
def test_nothing_is_freed_while_a_kernel_uses_it(device, simulator, freed):
    stream, buffers = device.stream(), {"source": device.buffer(8), "target": device.buffer(32)}
    Casting(device).cast(buffers["target"], buffers["source"], "int8", 8, stream)
    simulator.calls.clear()
    buffers[freed].free()
    assert [c for c in simulator.calls if "Ctx" not in c] == ["cuStreamSynchronize", "cuMemFree"]


def test_a_graph_is_not_freed_while_it_is_at_work(simulate, simulator):
    with Device(simulate("cuda.bindings")) as device:
        stream, done = device.stream(), []
        graph = stream.capture(lambda: simulator.work(stream.handle, lambda: done.append(1)))
        assert done == []
        graph.launch(stream)
        graph.launch(stream)
        simulator.calls.clear()
        graph.free()
        assert done == [1, 1]
        assert [c for c in simulator.calls if "Ctx" not in c] == ["cuStreamSynchronize", "cuGraphExecDestroy"]
        assert simulator.graphs == {}


@pytest.mark.parametrize("waiting", ["stream", "event"])
def test_no_one_waits_for_copies_that_are_known_to_be_done(device, simulator, waiting):
    stream, done = device.stream(), device.event()
    first, second, source = device.buffer(8), device.buffer(8), device.pinned((8,), np.uint8)
    stream.upload(first, source)
    done.record(stream)
    if waiting == "stream":
        stream.synchronize()
    else:
        stream.upload(second, source)
        done.synchronize()
    simulator.calls.clear()
    first.free()
    assert "cuStreamSynchronize" not in simulator.calls
    second.free()
    assert ("cuStreamSynchronize" in simulator.calls) == (waiting == "event")


def test_an_event_that_is_waited_for_twice_lets_no_later_copy_go(device, simulator):
    stream, done = device.stream(), device.event()
    buffer, source = device.buffer(8), device.pinned((8,), np.uint8)
    stream.upload(buffer, source)
    done.record(stream)
    done.synchronize()
    stream.upload(buffer, source)
    done.synchronize()
    simulator.calls.clear()
    buffer.free()
    assert "cuStreamSynchronize" in simulator.calls


def test_closing_gives_everything_back_once_copies_are_done(driver, simulator):
    device = Device(driver, 1)
    assert device.name == "Simulated B"
    stream, buffer, source = device.stream(), device.buffer(8), device.pinned((8,), np.uint8)
    done, casting = device.event(), Casting(device)
    stream.upload(buffer, source)
    casting.cast(buffer, device.buffer(1), "int8", 1, stream)
    done.record(stream)
    if device.driver.has_graphs:
        stream.capture(lambda: done.record(stream)).launch(stream)
    # Nothing depends on who still has a stream, an event or a kernel.
    device.close()
    device.close()
    assert simulator.queues == simulator.events == simulator.modules == simulator.graphs == {}
    assert simulator.device_memory == simulator.host_memory == {}
    assert simulator.retained == 0
    assert simulator.contexts == []
    order = [simulator.calls.index(name) for name in ("cuStreamSynchronize", "cuMemFree", "cuDevicePrimaryCtxRelease")]
    assert order == sorted(order)
    assert simulator.calls.count("cuDevicePrimaryCtxRelease") == 1


def test_closing_goes_on_after_a_failure_and_tells_the_first(driver, simulator):
    device = Device(driver)
    device.buffer(8)
    device.pinned((8,), np.uint8)
    simulator.failing = {"cuMemFree": "CUDA_ERROR_DEVICE_UNAVAILABLE", "cuMemFreeHost": "CUDA_ERROR_OUT_OF_MEMORY"}
    with pytest.raises(CudaError, match=r"cuMemFree.*CUDA_ERROR_DEVICE_UNAVAILABLE"):
        device.close()
    assert "cuMemFreeHost" in simulator.calls
    assert simulator.retained == 0


def test_a_thread_that_entered_once_pushes_once(device, simulator):
    simulator.calls.clear()
    with device.current():
        stream = device.stream()
        stream.synchronize()
    assert simulator.calls == ["cuCtxPushCurrent", "cuStreamCreate", "cuStreamSynchronize", "cuCtxPopCurrent"]
    simulator.calls.clear()
    thread = threading.Thread(target=stream.synchronize)
    thread.start()
    thread.join()
    assert simulator.calls == ["cuCtxPushCurrent", "cuStreamSynchronize", "cuCtxPopCurrent"]


@pytest.mark.parametrize("index", [-1, 2])
def test_a_device_that_is_not_there(driver, index):
    with pytest.raises(BackendUnavailableError, match=f"device {index}: .* found 0 to 1$"):
        Device(driver, index)


def test_no_device_at_all(driver, simulator):
    simulator.devices = ()
    with pytest.raises(BackendUnavailableError, match=r"found none$"):
        Device(driver)


def test_out_of_memory_is_an_error_of_its_own(device, simulator):
    with pytest.raises(DeviceMemoryError, match="cuMemAlloc"):
        device.buffer(simulator.capacity + 1)
    simulator.failing["cuMemHostAlloc"] = "CUDA_ERROR_OUT_OF_MEMORY"
    with pytest.raises(DeviceMemoryError, match="cuMemHostAlloc"):
        device.pinned((3,), np.uint8)


@pytest.mark.parametrize(
    "call", ["cuStreamCreate", "cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync", "cuStreamSynchronize", "cuEventRecord"]
)
def test_a_failure_names_the_call_in_one_line(device, simulator, call):
    simulator.failing[call] = "CUDA_ERROR_DEVICE_UNAVAILABLE"
    with pytest.raises(CudaError, match=call) as caught:  # noqa: PT012 - one of them fails
        stream, buffer, array = device.stream(), device.buffer(8), device.pinned((8,), np.uint8)
        stream.upload(buffer, array)
        stream.download(array, buffer)
        device.event().record(stream)
        stream.synchronize()
    assert "\n" not in str(caught.value)
    assert not isinstance(caught.value, DeviceMemoryError)


def test_what_cannot_be_copied_is_refused_before_a_call(device, simulator):
    stream, buffer, pinned = device.stream(), device.buffer(8), device.pinned((4, 4), np.uint8)
    simulator.calls.clear()
    for array in (np.zeros(8, np.uint8), pinned, pinned[:, :2]):
        with pytest.raises(ParameterError, match=r"^CUDA copy: expected "):
            stream.upload(buffer, array)
        with pytest.raises(ParameterError, match=r"^CUDA copy: expected "):
            stream.download(array, buffer)
    with pytest.raises(ParameterError, match="at least one byte, found 0"):
        device.buffer(0)
    assert simulator.calls == []


def test_a_driver_that_does_not_start_is_told(driver, simulator):
    simulator.failing["cuInit"] = "CUDA_ERROR_DEVICE_UNAVAILABLE"
    with pytest.raises(BackendUnavailableError, match=r"expected NVIDIA's driver.*doctor"):
        type(driver)()


@pytest.mark.parametrize(("module", "kind"), [("bindings", "CudaBindingsDriver"), ("pycuda", "PycudaDriver")])
def test_a_library_that_is_not_installed_says_what_to_install(module, kind, monkeypatch):
    import importlib
    import sys

    name = {"bindings": "cuda.bindings", "pycuda": "pycuda.driver"}[module]
    monkeypatch.setitem(sys.modules, name, None)
    adapter = getattr(importlib.import_module(f"tomoscribe.engine.cuda.{module}"), kind)
    with pytest.raises(BackendUnavailableError, match="pip install"):
        adapter()

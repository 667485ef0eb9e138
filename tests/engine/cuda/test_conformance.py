"""What a device does, with both libraries: on a simulated driver, and on the real one where there is a GPU."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from tomoscribe.engine.cuda import CudaError, Device, DeviceMemoryError
from tomoscribe.engine.cuda.bindings import CudaBindingsDriver
from tomoscribe.engine.cuda.casting import CASTABLE, Casting
from tomoscribe.engine.cuda.pycuda import PycudaDriver
from tomoscribe.engine.errors import BackendUnavailableError, ParameterError

ADAPTERS = {"cuda.bindings": CudaBindingsDriver, "pycuda": PycudaDriver}


@pytest.fixture(
    params=[
        *(f"simulated {library}" for library in ADAPTERS),
        *(pytest.param(f"real {library}", marks=pytest.mark.gpu) for library in ADAPTERS),
    ]
)
def driver(request, simulate):
    kind, library = request.param.split()
    if kind == "simulated":
        return simulate(library)
    try:
        driver = ADAPTERS[library]()
        if driver.count_devices() == 0:
            pytest.skip(f"{library}: it finds no GPU")
    except BackendUnavailableError as error:
        pytest.skip(str(error))
    return driver


@pytest.fixture
def device(driver):
    with Device(driver) as device:
        yield device


def pinned(device, values):
    array = device.pinned(values.shape, values.dtype)
    array[:] = values
    return array


def filled(device, shape, dtype, value=0):
    return pinned(device, np.full(shape, value, dtype))


def test_a_device_says_what_it_is(device):
    facts = device.facts()
    assert device.name == facts.name
    assert facts.name.isprintable()
    major, minor = facts.compute_capability.split(".")
    assert int(major) >= 5
    assert int(minor) >= 0
    assert facts.multiprocessors >= 1
    free, total = device.memory()
    assert 0 < free <= total
    # Of all, the driver may keep some for itself.
    assert 0.9 * facts.memory <= total <= facts.memory
    assert device.driver.name.split()[0] in ADAPTERS


def test_what_goes_up_comes_down(device):
    stream, buffer = device.stream(), device.buffer(48)
    source = pinned(device, np.arange(12, dtype=np.float32).reshape(2, 6))
    target = filled(device, (2, 6), np.float32, -1)
    stream.upload(buffer, source)
    stream.download(target, buffer)
    stream.synchronize()
    np.testing.assert_array_equal(target, source)


def test_parts_of_arrays_and_of_buffers(device):
    stream, buffer = device.stream(), device.buffer(100)
    whole, target = pinned(device, np.arange(20, dtype=np.uint8).reshape(4, 5)), filled(device, (3, 5), np.uint8)
    stream.upload(buffer, whole)
    stream.upload(buffer, whole[3:], 5)
    stream.download(target[0], buffer, 10)
    stream.download(target[1:], buffer)
    stream.synchronize()
    np.testing.assert_array_equal(target, whole[[2, 0, 3]])


@pytest.mark.parametrize("offset", [-1, 5, 9])
def test_nothing_is_copied_beyond_a_buffer(device, offset):
    stream, buffer, array = device.stream(), device.buffer(8), filled(device, (4,), np.uint8)
    for copy in (stream.upload, lambda buffer, array, offset: stream.download(array, buffer, offset)):
        with pytest.raises(ParameterError, match=rf"fits into 8 bytes, found one of 4 at {offset}$"):
            copy(buffer, array, offset)


def test_streams_wait_for_each_other_by_events(device):
    up, down, ready = device.stream(), device.stream(), device.event()
    size = 1 << 18
    buffer, target = device.buffer(size), filled(device, (size,), np.uint8)
    source = pinned(device, np.random.default_rng(0).integers(0, 256, size).astype(np.uint8))
    up.upload(buffer, source)
    ready.record(up)
    down.wait(ready)
    down.download(target, buffer)
    down.synchronize()
    np.testing.assert_array_equal(target, source)


def test_an_event_is_waited_for_as_it_was_recorded_last(device):
    stream, done = device.stream(), device.event()
    buffer, target = device.buffer(8), filled(device, (8,), np.uint8)
    for value in (1, 2):
        stream.upload(buffer, filled(device, (8,), np.uint8, value))
        stream.download(target, buffer)
        done.record(stream)
    done.synchronize()
    assert (target == 2).all()


def test_the_time_between_events(device):
    stream, start, stop = device.stream(), device.event(timed=True), device.event(timed=True)
    start.record(stream)
    stream.upload(device.buffer(1 << 10), filled(device, (1 << 10,), np.uint8))
    stop.record(stream)
    stop.synchronize()
    assert 0 < stop.milliseconds_since(start) < 60_000
    plain = device.event()
    plain.record(stream)
    plain.synchronize()
    with pytest.raises(CudaError, match="cuEventElapsedTime"):
        plain.milliseconds_since(start)


def test_out_of_memory_is_an_error_of_its_own_and_does_no_harm(device):
    with pytest.raises(DeviceMemoryError, match="cuMemAlloc"):
        device.buffer(2 * device.memory()[1])
    stream, buffer = device.stream(), device.buffer(8)
    stream.upload(buffer, filled(device, (8,), np.uint8))
    stream.synchronize()


def test_memory_comes_back(device):
    before, _ = device.memory()
    buffers = [device.buffer(1 << 18) for _ in range(2)]
    assert device.memory()[0] <= before
    for buffer in buffers:
        buffer.free()
    again = device.buffer(1 << 18)
    again.free()
    array = device.pinned((7,), np.int16)
    device.unpin(array)
    device.event().free()


def test_threads_share_a_device(device):
    stream, buffer, target = device.stream(), device.buffer(8), filled(device, (8,), np.uint8)
    source, errors = filled(device, (8,), np.uint8, 9), []

    def work():
        try:
            stream.upload(buffer, source)
            stream.download(target, buffer)
            stream.synchronize()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert errors == []
    assert (target == 9).all()


@pytest.mark.parametrize("dtype", CASTABLE)
@pytest.mark.parametrize("size", [1, 255, 4099])
def test_casts_are_those_of_numpy(device, dtype, size):
    random = np.random.default_rng(size)
    if dtype == "float16":
        values = random.integers(0, 1 << 16, size).astype(np.uint16).view(np.float16)
        values[~np.isfinite(values)] = 6e-8  # subnormal
        values[0] = -65504
    else:
        limits = np.iinfo(dtype)
        values = random.integers(limits.min, limits.max, size, dtype, endpoint=True)
        values[0], values[-1] = limits.max, limits.min
    source = pinned(device, values)
    # One more value on either side of what is cast, which has to stay.
    target = filled(device, (size + 1,), np.float32, 7)
    stream, raw, cast = device.stream(), device.buffer(source.nbytes), device.buffer(target.nbytes)
    stream.upload(raw, source)
    stream.upload(cast, target)
    Casting(device).cast(cast, raw, dtype, size, stream)
    stream.download(target, cast)
    stream.synchronize()
    np.testing.assert_array_equal(target[:size], values.astype(np.float32))
    assert target[size] == 7


def test_a_text_that_has_no_such_kernel(device):
    with pytest.raises(CudaError, match="cuModuleGetFunction"):
        Casting(device).cast(device.buffer(4), device.buffer(4), "float128", 1, device.stream())


def test_a_graph_does_again_what_was_recorded(device):
    if not device.driver.has_graphs:
        with pytest.raises(CudaError, match=r"expected a library that has CUDA graphs, found pycuda"):
            device.stream().capture(lambda: None)
        return
    stream, buffer, cast = device.stream(), device.buffer(4), device.buffer(16)
    source, target = filled(device, (4,), np.int8, 3), filled(device, (4,), np.float32)
    casting = Casting(device)
    casting.cast(cast, buffer, "int8", 4, stream)  # what is compiled cannot be while it is recorded
    stream.synchronize()
    graph = stream.capture(lambda: casting.cast(cast, buffer, "int8", 4, stream))
    for value in (3, -5):
        source[:] = value
        stream.upload(buffer, source)
        graph.launch(stream)
        stream.download(target, cast)
        stream.synchronize()
        assert (target == value).all()
    graph.free()


def test_what_fails_while_it_is_recorded_leaves_the_stream_as_it_was(device):
    if not device.driver.has_graphs:
        pytest.skip("pycuda has no graphs")
    stream, buffer, target = device.stream(), device.buffer(4), filled(device, (4,), np.uint8)
    with pytest.raises(ZeroDivisionError):
        stream.capture(lambda: 1 / 0)
    # No one can wait for what only is recorded.
    with pytest.raises(CudaError, match="cuStreamSynchronize"):
        stream.capture(stream.synchronize)
    stream.upload(buffer, filled(device, (4,), np.uint8, 6))
    stream.download(target, buffer)
    stream.synchronize()
    assert (target == 6).all()


def test_closing_twice_is_fine(driver):
    device = Device(driver)
    stream, buffer = device.stream(), device.buffer(8)
    stream.upload(buffer, filled(device, (8,), np.uint8))
    device.close()
    device.close()
    assert device.closed


def test_a_device_that_is_not_there(driver):
    count = driver.count_devices()
    for index in (-1, count):
        with pytest.raises(BackendUnavailableError, match=f"device {index}: .* found 0 to {count - 1}$"):
            Device(driver, index)

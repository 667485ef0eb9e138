"""Every name of `cuda.bindings` that is called, against the package itself, which imports without a GPU."""

from __future__ import annotations

import inspect
import re
import sys

import numpy as np
import pytest

from tomoscribe.engine.cuda import bindings
from tomoscribe.engine.cuda.bindings import CudaBindingsDriver
from tomoscribe.engine.cuda.casting import Casting
from tomoscribe.engine.cuda.device import Device

driver = pytest.importorskip("cuda.bindings.driver", reason="cuda-bindings is not installed")
SOURCE = inspect.getsource(bindings)
# The arguments of a call, with what stands in parentheses among them left out.
CALLS = re.findall(r'_call\(\s*"(\w+)"((?:[^()]|\([^()]*\))*)\)', SOURCE)


def test_calls_and_flags_exist_and_take_as_many_arguments():
    assert len(CALLS) == SOURCE.count("_call(") - 1  # and its definition
    for name, arguments in CALLS:
        passed = len([part for part in re.sub(r"\([^()]*\)", "", arguments).split(",") if part.strip()])
        signature = getattr(driver, name).__doc__.split("(", 1)[1].split(")", 1)[0]
        assert passed == len([part for part in signature.split(",") if part.strip()]), name
    for name in re.findall(r"self\._cuda\.(\w+)", SOURCE):
        assert hasattr(driver, name), name
    assert driver.CUstream_flags.CU_STREAM_NON_BLOCKING.value == 1
    assert driver.CUevent_flags.CU_EVENT_DEFAULT.value == 0
    assert driver.CUevent_flags.CU_EVENT_DISABLE_TIMING.value == 2
    assert driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL == 1
    assert driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR == 75
    assert driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR == 76
    assert driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT == 16
    assert driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY != driver.CUresult.CUDA_SUCCESS


@pytest.fixture
def called(simulate, monkeypatch):
    """The names of calls whose arguments the package took, before the simulator answered them."""
    simulate("cuda.bindings")
    fake, called = sys.modules["cuda.bindings.driver"], set()
    try:
        driver.cuInit(0)
        pytest.skip("there is a driver here, which the conformance tests call")
    except RuntimeError as error:
        lacks = str(error)

    def checked(name, answer):
        def call(*arguments):
            # What it raises where the arguments' types are right and there is no driver that could be called.
            with pytest.raises(RuntimeError, match=re.escape(lacks)):
                getattr(driver, name)(*arguments)
            called.add(name)
            return answer(*arguments)

        return call

    for name in {name for name, _ in CALLS}:
        monkeypatch.setattr(fake, name, checked(name, getattr(fake, name)))
    for name in ("CUstream_flags", "CUevent_flags", "CUstreamCaptureMode", "CUdevice_attribute"):
        monkeypatch.setattr(fake, name, getattr(driver, name))
    return called


def test_arguments_are_of_the_types_that_the_package_takes(called):
    with Device(CudaBindingsDriver()) as device:
        device.memory()
        raw, cast, array = device.buffer(8), device.buffer(32), device.pinned((8,), np.int8)
        stream, other, start, stop = device.stream(), device.stream(), *(device.event(timed=True) for _ in range(2))
        casting = Casting(device)
        start.record(stream)
        stream.upload(raw, array)
        stream.capture(lambda: casting.cast(cast, raw, "int8", 8, stream)).launch(stream)
        stop.record(stream)
        other.wait(stop)
        other.download(array, raw)
        stop.synchronize()
        assert stop.milliseconds_since(start) > 0
        device.unpin(array)
    assert called == {name for name, _ in CALLS}

"""Every name of `cuda.bindings` that is called, against the package itself, which imports without a GPU."""

from __future__ import annotations

import inspect
import re

import pytest

from tomoscribe.engine.cuda import bindings

driver = pytest.importorskip("cuda.bindings.driver", reason="cuda-bindings is not installed")
SOURCE = inspect.getsource(bindings)


def test_calls_and_flags_exist_and_take_as_many_arguments():
    # The arguments of a call, with what stands in parentheses among them left out.
    calls = re.findall(r'_call\(\s*"(\w+)"((?:[^()]|\([^()]*\))*)\)', SOURCE)
    assert len(calls) == SOURCE.count("_call(") - 1  # and its definition
    for name, arguments in calls:
        passed = len([part for part in re.sub(r"\([^()]*\)", "", arguments).split(",") if part.strip()])
        signature = getattr(driver, name).__doc__.split("(", 1)[1].split(")", 1)[0]
        assert passed == len([part for part in signature.split(",") if part.strip()]), name
    for name in re.findall(r"self\._cuda\.(\w+)", SOURCE):
        assert hasattr(driver, name), name
    assert driver.CUstream_flags.CU_STREAM_NON_BLOCKING.value == 1
    assert driver.CUevent_flags.CU_EVENT_DEFAULT.value == 0
    assert driver.CUevent_flags.CU_EVENT_DISABLE_TIMING.value == 2
    assert driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY != driver.CUresult.CUDA_SUCCESS

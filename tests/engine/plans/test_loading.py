"""What TensorRT says becomes one line of an error; its calls are tested in tests/tensorrt_bindings."""

from __future__ import annotations

import pytest

from tomoscribe.engine.cuda import CudaError, DeviceMemoryError
from tomoscribe.engine.plans import PlanError
from tomoscribe.engine.plans.loading import TensorRTLog


@pytest.fixture
def log():
    return TensorRTLog(logger=None)


def test_the_first_error_is_the_reason_and_all_are_forgotten(log):
    log.errors.extend(["the\ncause", "what came of it"])
    assert str(log.failure(PlanError, "a.plan: it failed", "build it again")) == (
        "a.plan: it failed (the cause); build it again"
    )
    assert str(log.failure(CudaError, "a call failed")) == "a call failed (it gives no reason)"


@pytest.mark.parametrize(
    "words",
    [
        "[virtualMemoryBuffer.cpp::resizePhysical::145] Error Code 2: OutOfMemory (no further information)",
        "Error Code 1: Cuda Runtime (out of\nmemory)",
        "Error Code 10: Internal Error (Could not find any implementation for node a due to insufficient workspace.)",
        "Requested amount of GPU memory (17920000000 bytes) could not be allocated.",
    ],
)
def test_words_of_memory_count_wherever_they_are_and_are_forgotten(log, words):
    log.errors.extend(["the cause", words])
    error = log.failure(PlanError, "a.plan: it failed", "build it again")
    assert type(error) is DeviceMemoryError
    assert str(error) == f"a.plan: it failed, out of memory ({' '.join(words.split())})"
    assert type(log.failure(CudaError, "a call failed")) is CudaError


@pytest.mark.parametrize(
    "words", ["Error Code 3: memory address is misaligned", "could not be allocated a stream", "insufficient driver"]
)
def test_words_of_something_else_do_not(log, words):
    log.errors.append(words)
    assert type(log.failure(CudaError, "a call failed")) is CudaError

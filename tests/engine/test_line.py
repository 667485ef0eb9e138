"""The line: what is left when any of its stages fails, or is interrupted."""

from __future__ import annotations

import os
import signal
import threading
import time
from itertools import count

import pytest

from tomoscribe.engine.errors import BackendError

PATIENCE = 20.0

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


FAILURES = ["read", "allocate", "submit", "wait", "write", "progress", "prepare", "commit"]


def disturbed(fakes, values, stage, act):
    """Return tomogram, backend, sinks and progress of which one calls `act` whenever its stage does something."""
    trouble = {stage: act}
    tomogram = fakes.Tomogram(values)
    if stage == "read":
        tomogram.before_read = lambda start, out: act()
    sinks = [fakes.Sink(values.shape), fakes.Sink(values.shape, trouble)]
    return tomogram, fakes.Backend(trouble), sinks, (lambda number: act()) if stage == "progress" else None


@pytest.mark.parametrize("stage", FAILURES)
@pytest.mark.parametrize("at", [0, 2])
@pytest.mark.parametrize("largest", [8, 64])
def test_a_failure_anywhere_is_the_one_error_and_leaves_nothing(fakes, stage, at, largest):
    values = fakes.volume(20)
    error = OSError("injected")
    at = 0 if stage in ("allocate", "prepare", "commit") else at
    tomogram, backend, sinks, progress = disturbed(fakes, values, stage, fakes.raises(error, at))
    with pytest.raises(OSError, match="injected") as caught:
        fakes.run(tomogram, backend, fakes.plan_for(values, largest), sinks, progress=progress)
    assert caught.value is error
    assert error.__context__ is None
    assert sinks[1].calls["abort"] == 1
    if stage == "commit":
        # The file that already has its name is complete and stays.
        assert (sinks[0].calls["commit"], sinks[0].calls["abort"]) == (1, 0)
    else:
        assert [(sink.calls["commit"], sink.calls["abort"]) for sink in sinks] == [(0, 1), (0, 1)]
    assert backend.calls["cancel"] == (stage not in ("allocate", "prepare", "commit"))


@pytest.mark.parametrize("stage", ["read", "submit"])
def test_the_first_error_ends_the_work_of_the_backend_and_is_the_one_raised(fakes, stage):
    values = fakes.volume(20)
    first, calls, waiting, ended = OSError("first"), count(), threading.Event(), []

    def fail_while_the_backend_works():
        if next(calls) == 1:
            assert waiting.wait(PATIENCE)
            raise first

    tomogram, backend, sinks, _ = disturbed(fakes, values, stage, fail_while_the_backend_works)

    def work_until_cancelled():
        waiting.set()
        ended.append(backend.cancelled.wait(PATIENCE))
        raise BackendError("second")

    backend.trouble["wait"] = work_until_cancelled
    with pytest.raises(OSError, match="first") as caught:
        fakes.run(tomogram, backend, fakes.plan_for(values), sinks)
    assert caught.value is first
    assert ended == [True]
    assert [sink.calls["abort"] for sink in sinks] == [1, 1]


@pytest.mark.parametrize("stage", ["read", "wait", "write", "progress", "prepare", "commit"])
@pytest.mark.parametrize("slots", [1, 3])
def test_ctrl_c_leaves_nothing(fakes, stage, slots):
    values = fakes.volume(20)
    calls, noticed = count(), []
    completing = stage in ("prepare", "commit")

    def interrupt():
        if next(calls) == (0 if completing else 3):
            os.kill(os.getpid(), signal.SIGINT)
            if not completing:
                noticed.append(backend.cancelled.wait(PATIENCE))

    tomogram, backend, sinks, progress = disturbed(fakes, values, stage, interrupt)
    with pytest.raises(KeyboardInterrupt):
        fakes.run(tomogram, backend, fakes.plan_for(values), sinks, progress=progress, slots=slots)
    assert noticed == ([] if completing else [True])
    assert [sink.calls["abort"] for sink in sinks] == ([0, 1] if stage == "commit" else [1, 1])


def test_a_second_ctrl_c_while_the_backend_gives_up_leaves_no_thread(fakes):
    values = fakes.volume(20)
    backend, sink = fakes.Backend(), fakes.Sink(values.shape)
    working = threading.Event()

    def work():
        working.set()
        assert backend.cancelled.wait(PATIENCE)
        time.sleep(0.05)  # the assembler outlives the call that is interrupted

    def cancel():
        backend.cancelled.set()
        raise KeyboardInterrupt

    def interrupt():
        if backend.calls["submit"] == 2:
            assert working.wait(PATIENCE)
            raise KeyboardInterrupt

    backend.trouble |= {"wait": work, "submit": interrupt}
    backend.cancel = cancel
    with pytest.raises(KeyboardInterrupt):
        fakes.run(fakes.Tomogram(values), backend, fakes.plan_for(values), [sink])
    assert sink.calls["abort"] == 1
    assert not {"reader", "assembler"} & {thread.name for thread in threading.enumerate()}


def test_ctrl_c_counts_more_than_an_error_that_came_first(fakes):
    """A run over many tomograms has to end, not to go on with the next."""
    values = fakes.volume(20)
    backend, sink = fakes.Backend({"wait": fakes.raises(BackendError("first"))}), fakes.Sink(values.shape)

    def interrupt_after_the_error():
        if backend.calls["submit"] == 2:
            for thread in threading.enumerate():
                if thread.name == "assembler":
                    thread.join(PATIENCE)
            raise KeyboardInterrupt

    backend.trouble["submit"] = interrupt_after_the_error
    with pytest.raises(KeyboardInterrupt):
        fakes.run(fakes.Tomogram(values), backend, fakes.plan_for(values), [sink])
    assert backend.calls["wait"] == 1
    assert sink.calls["abort"] == 1

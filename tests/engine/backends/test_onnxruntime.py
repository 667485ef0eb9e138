"""ONNX Runtime's streams, and how they are stopped."""

from __future__ import annotations

import itertools
import threading

import pytest

from tomoscribe.engine.backends.contract import SlotShape
from tomoscribe.engine.backends.onnxruntime import OnnxRuntimeBackend
from tomoscribe.engine.errors import BackendError

CLASSES = 6
PATIENCE = 20.0


@pytest.fixture
def backend(make_bundle):
    backend = OnnxRuntimeBackend(make_bundle(), threads=2)
    yield backend
    backend.close()


def allocate(backend, count):
    slots = backend.allocate(SlotShape(1, 1, 8, 8, CLASSES), count)
    for slot in slots:
        slot.slices[:] = 3
        slot.labels[:] = slot.scores[:] = 254
        slot.count = 1
    return slots


def test_streams_work_at_the_same_time(backend, monkeypatch):
    slots = allocate(backend, 4)
    both = threading.Barrier(2, timeout=PATIENCE)
    run_really = backend._session.run_with_iobinding

    def run_together(binding, options):
        both.wait()
        run_really(binding, options)

    monkeypatch.setattr(backend._session, "run_with_iobinding", run_together)
    for slot in slots:
        backend.submit(slot)
    for slot in slots:
        backend.wait(slot)
        assert (slot.labels != 254).all()


def test_a_slot_may_be_done_before_those_that_are_waited_for_first(backend, monkeypatch):
    slots = allocate(backend, 2)
    second_is_done = threading.Event()
    run_really = backend._run

    def run_second_first(slot, options):
        if slot is slots[0]:
            assert second_is_done.wait(PATIENCE)
        run_really(slot, options)
        if slot is slots[1]:
            second_is_done.set()

    monkeypatch.setattr(backend, "_run", run_second_first)
    for slot in slots:
        backend.submit(slot)
    for slot in slots:
        backend.wait(slot)
        assert (slot.labels != 254).all()


@pytest.mark.parametrize(("slots", "threads_of_a_stream"), [(5, 1), (2, 3), (1, 4)])
def test_all_threads_are_at_work_whatever_the_slots(make_bundle, slots, threads_of_a_stream):
    backend = OnnxRuntimeBackend(make_bundle(), threads=4)
    allocate(backend, slots)
    # The threads of `slots` streams, up to four, and the helpers that they share are four in all.
    assert backend._session.get_session_options().intra_op_num_threads == threads_of_a_stream
    backend.close()


def test_nothing_holds_more_memory_than_the_layers_need(backend):
    allocate(backend, 2)
    options = backend._session.get_session_options()
    assert not options.enable_mem_pattern
    assert not options.enable_mem_reuse


def test_it_is_loaded_anew_where_the_slots_change(backend):
    sessions = [backend._session]
    for size, count in ((8, 2), (8, 3), (16, 3), (16, 1)):
        backend.allocate(SlotShape(1, 1, size, size, CLASSES), count)
        sessions.append(backend._session)
    assert [after is before for before, after in itertools.pairwise(sessions)] == [True, True, False, False]


@pytest.mark.parametrize("streams", [1, 2])
def test_cancel_ends_what_runs_and_drops_what_waits(make_bundle, monkeypatch, streams):
    backend = OnnxRuntimeBackend(make_bundle(), threads=2, streams=streams)
    slots = allocate(backend, streams + 2)
    running, run_really = threading.Semaphore(0), backend._session.run_with_iobinding
    terminated = []

    def run_when_terminated(binding, options):
        running.release()
        deadline = threading.Event()
        for _ in range(int(PATIENCE / 0.01)):
            if options.terminate:
                break
            deadline.wait(0.01)
        terminated.append(options.terminate)
        run_really(binding, options)

    monkeypatch.setattr(backend._session, "run_with_iobinding", run_when_terminated)
    for slot in slots:
        backend.submit(slot)
    errors = []

    def wait():
        for slot in slots[:-1]:
            with pytest.raises(BackendError) as caught:
                backend.wait(slot)
            errors.append(str(caught.value))

    waiting = threading.Thread(target=wait)
    waiting.start()
    for _ in range(streams):
        assert running.acquire(timeout=PATIENCE)
    backend.cancel()
    waiting.join()
    assert terminated == [True] * streams
    # The waiting thread may come to a slot before or after the backend has given it up.
    assert all("terminate" in error or "given up" in error for error in errors[:streams])
    assert "given up" in errors[streams]
    assert all((slot.labels == 254).all() for slot in slots)
    with pytest.raises(BackendError, match="given up"):
        backend.wait(slots[-1])

    monkeypatch.undo()
    for slot in slots:
        backend.submit(slot)
    for slot in slots:
        backend.wait(slot)
        assert (slot.labels != 254).all()
    backend.close()


def test_closing_ends_its_threads(make_bundle):
    backend = OnnxRuntimeBackend(make_bundle(), threads=2)
    for slot in (slots := allocate(backend, 2)):
        backend.submit(slot)
    for slot in slots:
        backend.wait(slot)
    assert any("onnxruntime" in thread.name for thread in threading.enumerate())
    backend.close()
    assert not any("onnxruntime" in thread.name for thread in threading.enumerate())

"""The stream against a plain loop, and what is left when any of its stages fails."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tomoscribe.engine.backends.contract import Slot
from tomoscribe.engine.errors import BackendError, IntensityError, ParameterError
from tomoscribe.engine.intensity import IntensityStatistics
from tomoscribe.engine.stream import stream
from tomoscribe.engine.tiles import TilePlan

CLASSES = 3
# Powers of two, so that normalised values are exact.
STATISTICS = IntensityStatistics(16.0, 0.5)
PATIENCE = 20.0


def label(slices, mean, rstd, context):
    """What the fake backend makes of ``(n + 2k, h, w)``: every context slice counts, each with its own weight."""
    normalised = (slices - mean[:, None, None]) * rstd[:, None, None]
    number = len(slices) - 2 * context
    summed = sum((3 * j + 1) * normalised[j : j + number] for j in range(2 * context + 1))
    return (summed.astype(np.int64) % 251).astype(np.uint8)


def scores_of(labels):
    return np.stack([labels // (c + 1) for c in range(CLASSES)], axis=1)


def reference(values, context, invert=False):
    """The labels of every slice, by a loop over z."""
    labels = []
    for z in range(len(values)):
        around = [values[min(max(z + j, 0), len(values) - 1)] for j in range(-context, context + 1)]
        mean, rstd = STATISTICS.mean_and_rstd(len(around), invert)
        labels.append(label(np.stack(around).astype(np.float32), mean, rstd, context)[0])
    return np.stack(labels)


class FakeBackend:
    """Works on a slot when it is waited for, and minds that slots are used in turn.

    `trouble` holds what is called before a method does its work, by the method's name.
    """

    name = "fake"
    description = "numpy"

    def __init__(self, trouble=None):
        self.trouble = trouble or {}
        self.calls = Counter()
        self.cancelled = threading.Event()
        self.flying = []
        self.most_flying = 0

    def _enter(self, method):
        self.calls[method] += 1
        self.trouble.get(method, lambda: None)()

    def allocate(self, shape, count):
        self._enter("allocate")
        self.shape = shape
        inputs, tile = shape.batch + 2 * shape.context, (shape.height, shape.width)
        self.slots = [
            Slot(
                np.full((inputs, *tile), np.nan, np.float32),
                np.full(inputs, np.nan, np.float32),
                np.full(inputs, np.nan, np.float32),
                np.zeros((shape.batch, *tile), np.uint8),
                np.zeros((shape.batch, shape.classes, *tile), np.uint8),
            )
            for _ in range(count)
        ]
        return self.slots

    def submit(self, slot):
        self._enter("submit")
        assert not any(slot is other for other in self.flying), "submitted twice"
        assert np.isfinite(slot.slices).all(), "not finite in a part that a backend may compute"
        slot.labels[:] = slot.scores[:] = 255
        self.flying.append(slot)
        self.most_flying = max(self.most_flying, len(self.flying))

    def wait(self, slot):
        self._enter("wait")
        assert slot is self.flying[0], "waited for out of turn"
        used = slot.count + 2 * self.shape.context
        labels = label(slot.slices[:used], slot.mean[:used], slot.rstd[:used], self.shape.context)
        slot.labels[: slot.count] = labels
        slot.scores[: slot.count] = scores_of(labels)
        self.flying.pop(0)

    def cancel(self):
        self.calls["cancel"] += 1
        self.cancelled.set()

    def close(self):
        self.calls["close"] += 1


class RecordingSink:
    """Keeps what it is given; `trouble` as in `FakeBackend`."""

    path = Path("labels.mrc")

    def __init__(self, shape, trouble=None, log=None):
        self.trouble = trouble or {}
        self.log = log if log is not None else []
        self.labels = np.full(shape, 255, np.uint8)
        self.scores = np.full((shape[0], CLASSES, *shape[1:]), 255, np.uint8)
        self.written = 0
        self.calls = Counter()

    def _enter(self, method):
        self.calls[method] += 1
        self.log.append((method, self))
        self.trouble.get(method, lambda: None)()

    def write(self, start, labels, scores):
        self._enter("write")
        assert not self.calls["abort"], "written after it was aborted"
        self.last = labels, scores
        self.starts = [*getattr(self, "starts", []), start]
        self.labels[start : start + len(labels)] = labels
        self.scores[start : start + len(scores)] = scores
        self.written += len(labels)

    def prepare(self):
        self._enter("prepare")

    def commit(self):
        self._enter("commit")

    def abort(self):
        self._enter("abort")


def raises(error, at=0):
    """Return a function that raises at its n-th call."""
    calls = count()

    def act():
        if next(calls) == at:
            raise error

    return act


def volume(depth=7, height=10, width=12, dtype=np.float32):
    return np.random.default_rng(0).integers(0, 100, (depth, height, width)).astype(dtype)


def plan_for(values, largest=64, multiple=2):
    return TilePlan.for_slice(values.shape[1:], multiple=multiple, halo=2, largest=largest)


def run(tomogram, backend, plan, sinks, **options):
    arguments = {"context": 1, "classes": CLASSES, "batch": 2} | options
    return stream(tomogram, backend, plan, STATISTICS, sinks, **arguments)


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 20), st.integers(1, 20)),
    context=st.integers(0, 3),
    batch=st.integers(1, 5),
    largest=st.integers(6, 24),
    slots=st.integers(1, 4),
    invert=st.booleans(),
    z_cut=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    dtype=st.sampled_from([np.int8, np.int16, np.float16, np.float32]),
)
@settings(max_examples=80)
def test_labels_are_those_of_a_loop_over_slices(
    array_tomogram, shape, context, batch, largest, slots, invert, z_cut, dtype
):
    values = volume(*shape, dtype)
    first, last = sorted(round(cut * shape[0]) for cut in z_cut)
    z_range = (first, last) if first < last else None
    first, last = z_range or (0, shape[0])
    sink = RecordingSink(shape)
    backend = FakeBackend()
    advanced = []
    run(
        array_tomogram(values),
        backend,
        plan_for(values, largest),
        [sink],
        context=context,
        batch=batch,
        slots=slots,
        invert=invert,
        z_range=z_range,
        progress=advanced.append,
    )
    expected = reference(values, context, invert)
    np.testing.assert_array_equal(sink.labels[first:last], expected[first:last])
    np.testing.assert_array_equal(sink.scores[first:last], scores_of(expected)[first:last])
    assert (sink.labels[:first] == 255).all()
    assert (sink.labels[last:] == 255).all()
    assert sink.starts == list(range(first, last, min(batch, last - first)))
    assert sum(advanced) == last - first
    assert (sink.calls["commit"], sink.calls["abort"]) == (1, 0)
    assert not backend.calls["cancel"]
    assert len(backend.slots) == slots


@pytest.mark.parametrize("seed", range(4))
def test_uneven_stages_change_nothing(array_tomogram, seed):
    values = volume(12)
    dice = random.Random(seed)

    def dawdle(*_):
        time.sleep(dice.choice([0, 0, 0.001, 0.003]))

    tomogram = array_tomogram(values)
    tomogram.before_read = dawdle
    sink = RecordingSink(values.shape, {"write": dawdle})
    run(tomogram, FakeBackend({"submit": dawdle, "wait": dawdle}), plan_for(values, 8), [sink], slots=2)
    np.testing.assert_array_equal(sink.labels, reference(values, 1))


@pytest.mark.parametrize(("slots", "batch"), [(1, 1), (3, 2)])
def test_no_more_is_read_ahead_than_the_slots_hold(array_tomogram, slots, batch):
    values = volume(40)
    tomogram, backend = array_tomogram(values), FakeBackend()
    sink = RecordingSink(values.shape, {"write": lambda: time.sleep(0.001)})
    ahead = []
    tomogram.before_read = lambda start, out: ahead.append(start + len(out) - sink.written)
    run(tomogram, backend, plan_for(values), [sink], slots=slots, batch=batch, context=0)
    assert max(ahead) == slots * batch
    assert backend.most_flying <= slots


def test_whole_slices_are_read_and_handed_over_where_they_lie(array_tomogram):
    values = volume(3)
    tomogram, backend, sink = array_tomogram(values), FakeBackend(), RecordingSink(values.shape)
    buffers = []
    tomogram.before_read = lambda start, out: buffers.append(out)
    run(tomogram, backend, plan_for(values), [sink], slots=1)
    assert all(np.shares_memory(out, backend.slots[0].slices) for out in buffers)
    assert np.shares_memory(sink.last[0], backend.slots[0].labels)
    assert np.shares_memory(sink.last[1], backend.slots[0].scores)


def test_each_run_is_read_once_however_many_tiles(array_tomogram):
    values = volume(6)
    tomogram, backend = array_tomogram(values), FakeBackend()
    reads = []
    tomogram.before_read = lambda start, out: reads.append((start, len(out)))
    plan = plan_for(values, 6)
    run(tomogram, backend, plan, [], batch=3, z_range=(1, 6))
    assert reads == [(0, 5), (3, 3)]
    assert backend.calls["submit"] == 2 * len(plan.tiles)


def test_all_sinks_are_prepared_before_one_is_committed_in_the_order_given(array_tomogram):
    values, log = volume(2), []
    first, second = (RecordingSink(values.shape, log=log) for _ in range(2))
    run(array_tomogram(values), FakeBackend(), plan_for(values), [first, second])
    steps = ("write", "prepare", "commit")
    assert log == [(step, sink) for step in steps for sink in (first, second)]


def test_times_say_where_the_time_went(array_tomogram):
    values = volume(3)
    nap = 0.02
    tomogram = array_tomogram(values)
    tomogram.before_read = lambda start, out: time.sleep(nap)
    naps = {name: lambda: time.sleep(nap) for name in ("submit", "wait", "write", "prepare", "commit")}
    times = run(tomogram, FakeBackend(naps), plan_for(values), [RecordingSink(values.shape, naps)], batch=1)
    # Lower bounds alone: a stage takes as long as it sleeps at least, on a machine as busy as may be.
    assert min(times.read, times.submit, times.wait) >= 3 * 0.9 * nap
    assert times.write >= 5 * 0.9 * nap
    assert times.total >= max(times.read, times.submit, times.wait, times.write)


FAILURES = ["read", "allocate", "submit", "wait", "write", "progress", "prepare", "commit"]


def disturbed(array_tomogram, values, stage, act):
    """Return tomogram, backend, sinks and progress of which one calls `act` whenever its stage does something."""
    trouble = {stage: act}
    tomogram = array_tomogram(values)
    if stage == "read":
        tomogram.before_read = lambda start, out: act()
    sinks = [RecordingSink(values.shape), RecordingSink(values.shape, trouble)]
    return tomogram, FakeBackend(trouble), sinks, (lambda number: act()) if stage == "progress" else None


@pytest.mark.parametrize("stage", FAILURES)
@pytest.mark.parametrize("at", [0, 2])
@pytest.mark.parametrize("largest", [8, 64])
def test_a_failure_anywhere_is_the_one_error_and_leaves_nothing(array_tomogram, stage, at, largest):
    values = volume(20)
    error = OSError("injected")
    at = 0 if stage in ("allocate", "prepare", "commit") else at
    tomogram, backend, sinks, progress = disturbed(array_tomogram, values, stage, raises(error, at))
    with pytest.raises(OSError, match="injected") as caught:
        run(tomogram, backend, plan_for(values, largest), sinks, progress=progress)
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
def test_the_first_error_ends_the_work_of_the_backend_and_is_the_one_raised(array_tomogram, stage):
    values = volume(20)
    first, calls, waiting, ended = OSError("first"), count(), threading.Event(), []

    def fail_while_the_backend_works():
        if next(calls) == 1:
            assert waiting.wait(PATIENCE)
            raise first

    tomogram, backend, sinks, _ = disturbed(array_tomogram, values, stage, fail_while_the_backend_works)

    def work_until_cancelled():
        waiting.set()
        ended.append(backend.cancelled.wait(PATIENCE))
        raise BackendError("second")

    backend.trouble["wait"] = work_until_cancelled
    with pytest.raises(OSError, match="first") as caught:
        run(tomogram, backend, plan_for(values), sinks)
    assert caught.value is first
    assert ended == [True]
    assert [sink.calls["abort"] for sink in sinks] == [1, 1]


@pytest.mark.parametrize("stage", ["read", "wait", "write", "progress", "prepare", "commit"])
@pytest.mark.parametrize("slots", [1, 3])
def test_ctrl_c_leaves_nothing(array_tomogram, stage, slots):
    values = volume(20)
    calls, noticed = count(), []
    completing = stage in ("prepare", "commit")

    def interrupt():
        if next(calls) == (0 if completing else 3):
            os.kill(os.getpid(), signal.SIGINT)
            if not completing:
                noticed.append(backend.cancelled.wait(PATIENCE))

    tomogram, backend, sinks, progress = disturbed(array_tomogram, values, stage, interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(tomogram, backend, plan_for(values), sinks, progress=progress, slots=slots)
    assert noticed == ([] if completing else [True])
    assert [sink.calls["abort"] for sink in sinks] == ([0, 1] if stage == "commit" else [1, 1])


def test_a_second_ctrl_c_while_the_backend_gives_up_leaves_no_thread(array_tomogram):
    values = volume(20)
    backend, sink = FakeBackend(), RecordingSink(values.shape)
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
        run(array_tomogram(values), backend, plan_for(values), [sink])
    assert sink.calls["abort"] == 1
    assert not {"reader", "assembler"} & {thread.name for thread in threading.enumerate()}


def test_ctrl_c_counts_more_than_an_error_that_came_first(array_tomogram):
    """A run over many tomograms has to end, not to go on with the next."""
    values = volume(20)
    backend, sink = FakeBackend({"wait": raises(BackendError("first"))}), RecordingSink(values.shape)

    def interrupt_after_the_error():
        if backend.calls["submit"] == 2:
            for thread in threading.enumerate():
                if thread.name == "assembler":
                    thread.join(PATIENCE)
            raise KeyboardInterrupt

    backend.trouble["submit"] = interrupt_after_the_error
    with pytest.raises(KeyboardInterrupt):
        run(array_tomogram(values), backend, plan_for(values), [sink])
    assert backend.calls["wait"] == 1
    assert sink.calls["abort"] == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("largest", [8, 64])
def test_a_slice_that_is_not_finite_is_named(array_tomogram, bad, dtype, largest):
    values = volume(9, dtype=dtype)
    values[5, 3, 4] = bad
    sink = RecordingSink(values.shape)
    with pytest.raises(IntensityError, match=r"^volume\.mrc: slice z = 5 .* 1 values"):
        run(array_tomogram(values), FakeBackend(), plan_for(values, largest), [sink], context=0)
    assert sink.calls["abort"] == 1


@pytest.mark.parametrize("context", [1, 2])
@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("largest", [8, 64])
@pytest.mark.parametrize("bad", [(2,), (7,), (2, 7), (1, 8), (1, 2, 7, 8), (0, 1, 2, 7, 8)])
def test_the_nearest_slice_of_the_range_stands_for_damaged_ones_around_it(array_tomogram, context, batch, largest, bad):
    values = volume(9)
    mended = values.copy()
    for z in bad:
        values[z, 3, 4] = np.nan if z % 2 else np.inf
        mended[z] = mended[3 if z < 3 else 6]
    sink = RecordingSink(values.shape)
    options = {"context": context, "batch": batch, "z_range": (3, 7)}
    run(array_tomogram(values), FakeBackend(), plan_for(values, largest), [sink], **options)
    np.testing.assert_array_equal(sink.labels[3:7], reference(mended, context)[3:7])


def test_a_damaged_slice_at_the_edge_of_the_volume_is_not_repeated(array_tomogram):
    values = volume(5)
    values[[0, 4]] = np.nan
    sink = RecordingSink(values.shape)
    run(array_tomogram(values), FakeBackend(), plan_for(values), [sink], context=3, z_range=(1, 4))
    mended = values[[1, 1, 2, 3, 3]]
    np.testing.assert_array_equal(sink.labels[1:4], reference(mended, 3)[1:4])


@pytest.mark.parametrize("context", [0, 1, 2])
@pytest.mark.parametrize("z", [3, 4, 6])
def test_a_damaged_slice_of_the_range_is_an_error(array_tomogram, context, z):
    values = volume(9)
    values[z] = np.nan
    with pytest.raises(IntensityError, match=f"z = {z} "):
        run(array_tomogram(values), FakeBackend(), plan_for(values), [], context=context, z_range=(3, 7))


@pytest.mark.parametrize(
    "options",
    [
        {"z_range": (3, 3)},
        {"z_range": (-1, 3)},
        {"z_range": (0, 8)},
        {"batch": 0},
        {"slots": 0},
        {"context": -1},
    ],
)
def test_arguments_that_do_not_fit_are_refused_and_the_sinks_aborted(array_tomogram, options):
    values = volume(7)
    backend, sink = FakeBackend(), RecordingSink(values.shape)
    with pytest.raises(ParameterError, match=r"expected .* found"):
        run(array_tomogram(values), backend, plan_for(values), [sink], **options)
    assert sink.calls["abort"] == 1
    assert not backend.calls


def test_a_plan_for_other_slices_is_refused(array_tomogram):
    values = volume(7)
    with pytest.raises(ParameterError, match=r"expected a plan for slices of \(10, 12\), found \(10, 11\)"):
        run(array_tomogram(values), FakeBackend(), plan_for(values[:, :, 1:]), [])

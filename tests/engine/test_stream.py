"""The stream against a plain loop over slices."""

from __future__ import annotations

import random
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tomoscribe.engine.errors import IntensityError, ParameterError

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 20), st.integers(1, 20)),
    context=st.integers(0, 3),
    batch=st.integers(1, 5),
    largest=st.integers(6, 24),
    slots=st.integers(1, 4),
    invert=st.booleans(),
    z_cut=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    dtype=st.sampled_from([np.int8, np.int16, np.float16, np.float32]),
    as_stored=st.booleans(),
)
@settings(max_examples=80)
def test_labels_are_those_of_a_loop_over_slices(
    fakes, shape, context, batch, largest, slots, invert, z_cut, dtype, as_stored
):
    values = fakes.volume(*shape, dtype)
    first, last = sorted(round(cut * shape[0]) for cut in z_cut)
    z_range = (first, last) if first < last else None
    first, last = z_range or (0, shape[0])
    sink = fakes.Sink(shape)
    backend = fakes.Backend()
    advanced = []
    plan = fakes.plan_for(values, largest)
    fakes.run(
        fakes.Tomogram(values),
        backend,
        plan,
        [sink],
        context=context,
        batch=batch,
        slots=slots,
        invert=invert,
        z_range=z_range,
        progress=advanced.append,
        dtype=values.dtype.name if as_stored else "float32",
        kept=(1, 2),
    )
    expected = fakes.reference(values, context, invert)
    np.testing.assert_array_equal(sink.labels[first:last], expected[first:last])
    np.testing.assert_array_equal(sink.scores[first:last], fakes.scores_of(expected)[first:last])
    assert (sink.labels[:first] == 255).all()
    assert (sink.labels[last:] == 255).all()
    assert sink.starts == list(range(first, last, min(batch, last - first)))
    assert sum(advanced) == last - first
    assert (sink.calls["commit"], sink.calls["abort"]) == (1, 0)
    assert not backend.calls["cancel"]
    assert all(slot.slices.dtype == (values.dtype if as_stored else np.float32) for slot in backend.slots)
    assert backend.shape.kept == (1, 2)
    # No more than there are tiles to fill them with.
    assert len(backend.slots) == min(slots, len(sink.starts) * len(plan.tiles))


@pytest.mark.parametrize("seed", range(4))
def test_uneven_stages_change_nothing(fakes, seed):
    values = fakes.volume(12)
    dice = random.Random(seed)

    def dawdle(*_):
        time.sleep(dice.choice([0, 0, 0.001, 0.003]))

    tomogram = fakes.Tomogram(values)
    tomogram.before_read = dawdle
    sink = fakes.Sink(values.shape, {"write": dawdle})
    fakes.run(tomogram, fakes.Backend({"submit": dawdle, "wait": dawdle}), fakes.plan_for(values, 8), [sink], slots=2)
    np.testing.assert_array_equal(sink.labels, fakes.reference(values, 1))


@pytest.mark.parametrize(("slots", "batch"), [(1, 1), (3, 2)])
def test_no_more_is_read_ahead_than_the_slots_hold(fakes, slots, batch):
    values = fakes.volume(40)
    tomogram, backend = fakes.Tomogram(values), fakes.Backend()
    sink = fakes.Sink(values.shape, {"write": lambda: time.sleep(0.001)})
    ahead = []
    tomogram.before_read = lambda start, out: ahead.append(start + len(out) - sink.written)
    fakes.run(tomogram, backend, fakes.plan_for(values), [sink], slots=slots, batch=batch, context=0)
    assert max(ahead) == slots * batch
    assert backend.most_flying <= slots


def test_whole_slices_are_read_and_handed_over_where_they_lie(fakes):
    values = fakes.volume(3)
    tomogram, backend, sink = fakes.Tomogram(values), fakes.Backend(), fakes.Sink(values.shape)
    buffers = []
    tomogram.before_read = lambda start, out: buffers.append(out)
    fakes.run(tomogram, backend, fakes.plan_for(values), [sink], slots=1)
    assert all(np.shares_memory(out, backend.slots[0].slices) for out in buffers)
    assert np.shares_memory(sink.last[0], backend.slots[0].labels)
    assert np.shares_memory(sink.last[1], backend.slots[0].scores)


def test_every_slice_is_read_once_however_many_tiles_and_runs_need_it(fakes):
    values = fakes.volume(6)
    tomogram, backend = fakes.Tomogram(values), fakes.Backend()
    reads = []
    tomogram.before_read = lambda start, out: reads.append((start, len(out)))
    plan = fakes.plan_for(values, 6)
    fakes.run(tomogram, backend, plan, [], batch=3, z_range=(1, 6))
    assert reads == [(0, 5), (5, 1)]
    assert backend.calls["submit"] == 2 * len(plan.tiles)


def test_all_sinks_are_prepared_before_one_is_committed_in_the_order_given(fakes):
    values, log = fakes.volume(2), []
    first, second = (fakes.Sink(values.shape, log=log) for _ in range(2))
    fakes.run(fakes.Tomogram(values), fakes.Backend(), fakes.plan_for(values), [first, second])
    steps = ("write", "prepare", "commit")
    assert log == [(step, sink) for step in steps for sink in (first, second)]


def test_times_say_where_the_time_went(fakes):
    values = fakes.volume(3)
    nap = 0.02
    tomogram = fakes.Tomogram(values)
    tomogram.before_read = lambda start, out: time.sleep(nap)
    naps = {name: lambda: time.sleep(nap) for name in ("submit", "wait", "write", "prepare", "commit")}
    times = fakes.run(
        tomogram, fakes.Backend(naps), fakes.plan_for(values), [fakes.Sink(values.shape, naps)], context=0, batch=1
    )
    # Lower bounds alone: a stage takes as long as it sleeps at least, on a machine as busy as may be.
    assert min(times.read, times.submit, times.wait, times.write) >= 3 * 0.9 * nap
    assert times.complete >= 2 * 0.9 * nap
    assert times.total >= max(times.read, times.submit, times.wait, times.write) + times.complete


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("largest", [8, 64])
def test_a_slice_that_is_not_finite_is_named(fakes, bad, dtype, largest):
    values = fakes.volume(9, dtype=dtype)
    values[5, 3, 4] = bad
    sink = fakes.Sink(values.shape)
    with pytest.raises(IntensityError, match=r"^volume\.mrc: slice z = 5 .* 1 values"):
        fakes.run(fakes.Tomogram(values), fakes.Backend(), fakes.plan_for(values, largest), [sink], context=0)
    assert sink.calls["abort"] == 1


@pytest.mark.parametrize("context", [1, 2])
@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("largest", [8, 64])
@pytest.mark.parametrize("bad", [(2,), (7,), (2, 7), (1, 8), (1, 2, 7, 8), (0, 1, 2, 7, 8)])
def test_the_nearest_slice_of_the_range_stands_for_damaged_ones_around_it(fakes, context, batch, largest, bad):
    values = fakes.volume(9)
    mended = values.copy()
    for z in bad:
        values[z, 3, 4] = np.nan if z % 2 else np.inf
        mended[z] = mended[3 if z < 3 else 6]
    sink = fakes.Sink(values.shape)
    options = {"context": context, "batch": batch, "z_range": (3, 7)}
    fakes.run(fakes.Tomogram(values), fakes.Backend(), fakes.plan_for(values, largest), [sink], **options)
    np.testing.assert_array_equal(sink.labels[3:7], fakes.reference(mended, context)[3:7])


def test_a_damaged_slice_at_the_edge_of_the_volume_is_not_repeated(fakes):
    values = fakes.volume(5)
    values[[0, 4]] = np.nan
    sink = fakes.Sink(values.shape)
    fakes.run(fakes.Tomogram(values), fakes.Backend(), fakes.plan_for(values), [sink], context=3, z_range=(1, 4))
    mended = values[[1, 1, 2, 3, 3]]
    np.testing.assert_array_equal(sink.labels[1:4], fakes.reference(mended, 3)[1:4])


@pytest.mark.parametrize("context", [0, 1, 2])
@pytest.mark.parametrize("z", [3, 4, 6])
def test_a_damaged_slice_of_the_range_is_an_error(fakes, context, z):
    values = fakes.volume(9)
    values[z] = np.nan
    with pytest.raises(IntensityError, match=f"z = {z} "):
        fakes.run(fakes.Tomogram(values), fakes.Backend(), fakes.plan_for(values), [], context=context, z_range=(3, 7))


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
def test_arguments_that_do_not_fit_are_refused_and_the_sinks_aborted(fakes, options):
    values = fakes.volume(7)
    backend, sink = fakes.Backend(), fakes.Sink(values.shape)
    with pytest.raises(ParameterError, match=r"expected .* found"):
        fakes.run(fakes.Tomogram(values), backend, fakes.plan_for(values), [sink], **options)
    assert sink.calls["abort"] == 1
    assert not backend.calls


def test_a_plan_for_other_slices_is_refused(fakes):
    values = fakes.volume(7)
    with pytest.raises(ParameterError, match=r"expected a plan for slices of \(10, 12\), found \(10, 11\)"):
        fakes.run(fakes.Tomogram(values), fakes.Backend(), fakes.plan_for(values[:, :, 1:]), [])

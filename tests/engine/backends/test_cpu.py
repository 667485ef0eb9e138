"""What every backend on the CPU keeps: the answers of ONNX's own evaluator, tiled as whole, and its promises."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from tomoscribe.engine.backends.contract import SlotShape
from tomoscribe.engine.backends.cpu_backend import Work
from tomoscribe.engine.errors import BackendError, BackendUnavailableError, BundleError, ParameterError
from tomoscribe.engine.intensity import IntensityStatistics
from tomoscribe.engine.stream import stream
from tomoscribe.engine.tiles import TilePlan

CLASSES = 6
GIB = 2**30


@pytest.fixture(params=[1, 2])
def backend(build, make_bundle, request):
    backend = build(make_bundle(), threads=request.param)
    assert backend.streams == request.param
    yield backend
    backend.close()


def fill(slot, count, seed=0):
    slot.slices[:] = np.random.default_rng(seed).integers(0, 16, slot.slices.shape)
    slot.mean[:] = 8
    slot.rstd[:] = 2
    slot.labels[:] = slot.scores[:] = 254
    slot.count = count


@pytest.mark.parametrize("context", [0, 1, 2])
@pytest.mark.parametrize("count", [1, 3])
def test_outputs_are_those_of_the_reference_evaluator(build, make_bundle, context, count):
    bundle = make_bundle(context=context)
    backend = build(bundle, threads=2)
    (slot,) = backend.allocate(SlotShape(3, context, 12, 20, CLASSES), 1)
    fill(slot, count)
    slot.mean += np.arange(len(slot.mean))
    slot.rstd *= np.where(np.arange(len(slot.rstd)) % 2, -1, 1)
    backend.submit(slot)
    backend.wait(slot)
    used = count + 2 * context
    labels, scores = ReferenceEvaluator(onnx.load(bundle.artifact_path("fp32"))).run(
        ["labels", "scores"], {"slices": slot.slices[:used], "mean": slot.mean[:used], "rstd": slot.rstd[:used]}
    )
    np.testing.assert_array_equal(slot.labels[:count], labels)
    np.testing.assert_array_equal(slot.scores[:count], scores)
    assert len(np.unique(labels)) > 1, "a test that cannot tell"
    backend.close()


def test_slots_are_worked_on_in_turn(backend):
    slots = backend.allocate(SlotShape(2, 1, 16, 16, CLASSES), 4)
    alone = []
    for seed, slot in enumerate(slots):
        fill(slot, 2, seed)
        backend.submit(slot)
        backend.wait(slot)
        alone.append(slot.scores.copy())
        fill(slot, 2, seed)
    for slot in slots:
        backend.submit(slot)
    for slot, expected in zip(slots, alone, strict=True):
        backend.wait(slot)
        np.testing.assert_array_equal(slot.scores, expected)
    assert not np.array_equal(alone[0], alone[1])


class KeepingSink:
    path = Path("kept.mrc")

    def __init__(self, shape):
        self.labels = np.full(shape, 255, np.uint8)
        self.scores = np.full((shape[0], CLASSES, *shape[1:]), 255, np.uint8)

    def write(self, start, labels, scores):
        self.labels[start : start + len(labels)] = labels
        self.scores[start : start + len(scores)] = scores

    def prepare(self):
        pass

    def commit(self):
        pass

    def abort(self):
        pass


@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 110), st.integers(1, 110)),
    depth=st.integers(1, 3),
    context=st.integers(0, 2),
    batch=st.integers(1, 3),
    spare=st.integers(0, 30),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_tiled_volume_equals_the_whole_one(
    build, make_bundle, array_tomogram, shape, depth, context, batch, spare, seed
):
    bundle = make_bundle(depth=depth, context=context, seed=seed)
    multiple, halo = bundle.specification.tile_multiple, bundle.specification.halo
    tomogram = array_tomogram(np.random.default_rng(seed).integers(0, 16, shape).astype(np.int8))
    backend = build(bundle, threads=2)
    results = []
    for largest in (2 * math.ceil(halo / multiple) * multiple + multiple + spare, 1024):
        plan = TilePlan.for_slice(shape[1:], multiple=multiple, halo=halo, pixels=largest**2)
        sink = KeepingSink(shape)
        statistics = IntensityStatistics(8.0, 0.5)
        stream(tomogram, backend, plan, statistics, [sink], context=context, classes=CLASSES, batch=batch)
        results.append(sink)
    backend.close()
    assert plan.is_whole
    np.testing.assert_array_equal(results[0].labels, results[1].labels)
    np.testing.assert_array_equal(results[0].scores, results[1].scores)


def test_a_smaller_halo_shows_seams(build, make_bundle, array_tomogram):
    """What the proof above rests on: this net has something to show."""
    backend = build(make_bundle(depth=2, context=0), threads=1)
    tomogram = array_tomogram(np.random.default_rng(1).integers(0, 16, (1, 100, 100)).astype(np.int8))
    scores = []
    for halo, largest in ((8, 36), (12, 36), (0, 100)):
        plan = TilePlan.for_slice((100, 100), multiple=4, halo=halo, pixels=largest**2)
        sink = KeepingSink((1, 100, 100))
        statistics = IntensityStatistics(8.0, 0.5)
        stream(tomogram, backend, plan, statistics, [sink], context=0, classes=CLASSES, batch=1)
        scores.append(sink.scores)
    backend.close()
    assert not np.array_equal(scores[0], scores[2])
    np.testing.assert_array_equal(scores[1], scores[2])


def test_a_failure_is_one_line_and_the_backend_goes_on(backend):
    def label(rows):
        slots = backend.allocate(SlotShape(1, 1, rows, 8, CLASSES), 2)
        for slot in slots:
            fill(slot, 1)
            backend.submit(slot)
        for slot in slots:
            backend.wait(slot)
        return slots

    for _ in range(2):
        # Nine rows cannot be pooled twice and put together again.
        with pytest.raises(
            BackendError, match=rf"^{backend.name}: the network failed on 1 slices of 9 × 8 \([^\n]+\); .*$"
        ):
            label(9)
        backend.cancel()
        first, second = label(8)
        np.testing.assert_array_equal(first.scores, second.scores)
        assert (first.labels != 254).all()


@pytest.mark.parametrize("count", [1, 2])
def test_sizes_may_change_and_change_back(build, make_bundle, count):
    bundle = make_bundle(context=1)
    backend = build(bundle, threads=2)
    evaluator = ReferenceEvaluator(onnx.load(bundle.artifact_path("fp32")))
    for batch, height, width in ((1, 8, 16), (3, 8, 16), (2, 20, 12), (1, 8, 16)):
        for slot in backend.allocate(SlotShape(batch, 1, height, width, CLASSES), count):
            fill(slot, batch, seed=batch)
            backend.submit(slot)
            backend.wait(slot)
            labels, scores = evaluator.run(
                ["labels", "scores"], {"slices": slot.slices, "mean": slot.mean, "rstd": slot.rstd}
            )
            np.testing.assert_array_equal(slot.labels, labels)
            np.testing.assert_array_equal(slot.scores, scores)
    backend.close()


def test_slots_for_another_number_of_classes_fail(backend):
    (slot,) = backend.allocate(SlotShape(1, 1, 8, 8, CLASSES - 1), 1)
    fill(slot, 1)
    backend.submit(slot)
    with pytest.raises(BackendError, match="the network failed"):
        backend.wait(slot)


def test_memory_that_cannot_be_had_is_one_line(backend):
    with pytest.raises(BackendError, match=r"no memory for 2 slots of 1048576 slices of 16384 × 16384; use a smaller"):
        backend.allocate(SlotShape(2**20, 0, 2**14, 2**14, CLASSES), 2)


def test_what_is_cancelled_is_given_up_and_the_backend_goes_on(backend):
    slots = backend.allocate(SlotShape(1, 1, 256, 256, CLASSES), 6)
    for slot in slots:
        fill(slot, 1)
        backend.submit(slot)
    backend.cancel()
    for slot in slots:
        fill(slot, 1)
    for slot in slots:
        with pytest.raises(BackendError, match="given up"):
            backend.wait(slot)
        assert (slot.labels == 254).all(), "written after it was given up"
    for slot in slots:
        backend.submit(slot)
    for slot in slots:
        backend.wait(slot)
        assert (slot.labels != 254).all()
        np.testing.assert_array_equal(slot.scores, slots[0].scores)


def test_a_late_waiter_leaves_what_was_submitted_anew(build, make_bundle, monkeypatch):
    class Failed(Work):
        def finish(self):
            raise RuntimeError("injected")

        def stop(self):
            pass

    backend = build(make_bundle(), threads=1)
    (slot,) = backend.allocate(SlotShape(1, 1, 8, 8, CLASSES), 1)
    fill(slot, 1)

    def cancel_and_submit_anew(error):
        monkeypatch.undo()
        backend.cancel()
        backend.submit(slot)
        return "first"

    # The waiter has its error, and is overtaken before it is done.
    monkeypatch.setattr("tomoscribe.engine.backends.cpu_backend.one_line", cancel_and_submit_anew)
    monkeypatch.setattr(backend, "_start", lambda slot: Failed())
    backend.submit(slot)
    with pytest.raises(BackendError, match="first"):
        backend.wait(slot)
    backend.wait(slot)
    assert (slot.labels != 254).all()
    with pytest.raises(BackendError, match="given up"):
        backend.wait(slot)
    backend.close()


def test_fewer_slots_than_streams_give_the_same(build, make_bundle):
    backend = build(make_bundle(), threads=3)
    scores = []
    for count in (3, 1, 2):
        slots = backend.allocate(SlotShape(1, 1, 32, 32, CLASSES), count)
        for slot in slots:
            fill(slot, 1)
            backend.submit(slot)
        for slot in slots:
            backend.wait(slot)
            scores.append(slot.scores.copy())
    backend.close()
    assert all(np.array_equal(other, scores[0]) for other in scores)


def test_int8_runs_the_form_for_the_cpu(build, make_bundle):
    bundle = make_bundle(others=["int8", "int8-cpu"])
    assert answer(build(bundle, threads=1, precision="int8"), bundle, "int8-cpu")


def answer(backend, bundle, artifact):
    """Whether a backend gives what an artifact does, up to rounding, and is further from all others of the bundle."""
    (slot,) = backend.allocate(SlotShape(1, 1, 16, 16, CLASSES), 1)
    fill(slot, 1)
    backend.submit(slot)
    backend.wait(slot)
    backend.close()
    inputs = {"slices": slot.slices, "mean": slot.mean, "rstd": slot.rstd}
    far = {}
    for other in bundle.artifacts:
        (scores,) = ReferenceEvaluator(onnx.load(bundle.artifact_path(other))).run(["scores"], inputs)
        far[other] = np.abs(scores.astype(int) - slot.scores).mean()
    nearest, next_to_it = sorted(far, key=far.get)[:2]
    return nearest == artifact and far[nearest] < min(1, far[next_to_it] / 2)


def test_without_an_int8_network_one_line_says_how_to_get_it(build, make_bundle):
    with pytest.raises(
        BackendUnavailableError, match=r"has no int8-cpu network, it has fp32; .* --precision int8-cpu$"
    ):
        build(make_bundle(), precision="int8")


def test_a_precision_that_it_does_not_have_is_refused(build, make_bundle):
    with pytest.raises(BackendUnavailableError, match=r"expected the precision fp32 or .*int8, found fp16$"):
        build(make_bundle(others=["fp16"]), precision="fp16")


def test_closing_twice_is_fine(build, make_bundle):
    backend = build(make_bundle())
    backend.close()
    backend.close()


def test_a_network_that_cannot_be_read_is_refused(build, make_bundle):
    broken = onnx.ModelProto(ir_version=10)
    with pytest.raises(BundleError, match=r"model\.fp32\.onnx: \w+ ?\w+ \S+ cannot load it \([^\n]+\)$"):
        build(make_bundle(broken))


def test_a_network_outside_the_graph_contract_is_refused(build, make_bundle):
    path = make_bundle().artifact_path("fp32")
    model = onnx.load(path)
    del model.graph.output[1]
    with pytest.raises(BundleError, match=r"expected the inputs mean, rstd, slices and .* labels, scores, found .*"):
        build(make_bundle(model))


def test_threads_and_streams_are_said(build, make_bundle):
    for threads, streams, said in (
        (3, None, "3 streams on 3 threads"),
        (1, None, "1 stream on 1 thread,"),
        (3, 1, "1 stream"),
    ):
        backend = build(make_bundle(), threads, streams=streams)
        assert said in backend.description
        assert backend.description.endswith(", FP32")
        assert backend.streams == (streams or threads)
        backend.close()


@pytest.mark.parametrize(
    ("threads", "streams", "expected"),
    [(0, None, "at least one thread, found 0"), (2, 3, "1 to 2 streams on 2 threads, found 3"), (2, 0, "found 0")],
)
def test_threads_and_streams_that_cannot_be_are_refused(build, make_bundle, threads, streams, expected):
    with pytest.raises(ParameterError, match=expected):
        build(make_bundle(), threads, streams=streams)


@pytest.mark.parametrize(("usable", "streams"), [(None, 8), (64 * GIB, 8), (8 * GIB, 4), (GIB, 1)])
def test_streams_are_as_many_as_threads_if_memory_lasts(build, make_bundle, monkeypatch, usable, streams):
    monkeypatch.setattr("tomoscribe.engine.backends.cpu.read_memory", lambda: SimpleNamespace(usable=usable))
    monkeypatch.setattr("tomoscribe.engine.backends.cpu.usable_cores", lambda: 8)
    backend = build(make_bundle())
    assert f"{backend.streams} stream" in backend.description
    assert " on 8 threads" in backend.description
    assert backend.streams == streams
    backend.close()


@pytest.mark.parametrize(("name", "extra"), [("onnxruntime", "cpu"), ("openvino", "openvino")])
def test_without_the_runtime_one_line_names_the_extra(make_bundle, monkeypatch, name, extra):
    from tomoscribe.engine.backends import BACKENDS

    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(BackendUnavailableError, match=rf'^{name}: .* pip install "tomoscribe\[{extra}\]"$'):
        BACKENDS[name](make_bundle())


def test_ctrl_c_while_the_runtime_is_imported_is_ctrl_c(build, make_bundle, monkeypatch):
    class Interrupted:
        def find_spec(self, name, path=None, target=None):
            if name == build.name:
                # As pybind11 tells of a KeyboardInterrupt in the initialisation of an extension.
                raise ImportError("initialization failed") from KeyboardInterrupt()

    monkeypatch.delitem(sys.modules, build.name, raising=False)
    monkeypatch.setattr(sys, "meta_path", [Interrupted(), *sys.meta_path])
    with pytest.raises(KeyboardInterrupt):
        build(make_bundle())

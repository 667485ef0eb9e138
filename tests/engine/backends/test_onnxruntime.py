"""ONNX Runtime against ONNX's own reference evaluator, tiled against whole, and its failures."""

from __future__ import annotations

import math
import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from tomoscribe.engine.backends.contract import SlotShape
from tomoscribe.engine.backends.onnxruntime import OnnxRuntimeBackend
from tomoscribe.engine.errors import BackendError, BackendUnavailableError, BundleError, ParameterError
from tomoscribe.engine.intensity import IntensityStatistics
from tomoscribe.engine.stream import stream
from tomoscribe.engine.tiles import TilePlan

CLASSES = 6
PATIENCE = 20.0


@pytest.fixture
def backend(make_bundle):
    backend = OnnxRuntimeBackend(make_bundle(), threads=1)
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
def test_outputs_are_those_of_the_reference_evaluator(make_bundle, context, count):
    bundle = make_bundle(context=context)
    backend = OnnxRuntimeBackend(bundle, threads=2)
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
    assert (slot.labels[count:] == 254).all()
    assert (slot.scores[count:] == 254).all()
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
def test_a_tiled_volume_equals_the_whole_one(make_bundle, array_tomogram, shape, depth, context, batch, spare, seed):
    bundle = make_bundle(depth=depth, context=context, seed=seed)
    multiple, halo = bundle.specification.tile_multiple, bundle.specification.halo
    tomogram = array_tomogram(np.random.default_rng(seed).integers(0, 16, shape).astype(np.int8))
    backend = OnnxRuntimeBackend(bundle, threads=1)
    results = []
    for largest in (2 * math.ceil(halo / multiple) * multiple + multiple + spare, 1024):
        plan = TilePlan.for_slice(shape[1:], multiple=multiple, halo=halo, largest=largest)
        sink = KeepingSink(shape)
        statistics = IntensityStatistics(8.0, 0.5)
        stream(tomogram, backend, plan, statistics, [sink], context=context, classes=CLASSES, batch=batch)
        results.append(sink)
    backend.close()
    assert plan.is_whole
    np.testing.assert_array_equal(results[0].labels, results[1].labels)
    np.testing.assert_array_equal(results[0].scores, results[1].scores)


def test_a_smaller_halo_shows_seams(make_bundle, array_tomogram):
    """What the proof above rests on: this net has something to show."""
    backend = OnnxRuntimeBackend(make_bundle(depth=2, context=0), threads=1)
    tomogram = array_tomogram(np.random.default_rng(1).integers(0, 16, (1, 100, 100)).astype(np.int8))
    scores = []
    for halo, largest in ((8, 36), (12, 36), (0, 100)):
        plan = TilePlan.for_slice((100, 100), multiple=4, halo=halo, largest=largest)
        sink = KeepingSink((1, 100, 100))
        statistics = IntensityStatistics(8.0, 0.5)
        stream(tomogram, backend, plan, statistics, [sink], context=0, classes=CLASSES, batch=1)
        scores.append(sink.scores)
    backend.close()
    assert not np.array_equal(scores[0], scores[2])
    np.testing.assert_array_equal(scores[1], scores[2])


def test_a_failure_is_one_line_and_the_backend_goes_on(backend):
    # Nine rows cannot be pooled twice and put together again.
    (odd,) = backend.allocate(SlotShape(1, 1, 9, 8, CLASSES), 1)
    (even,) = backend.allocate(SlotShape(1, 1, 8, 8, CLASSES), 1)
    for slot in (odd, even):
        fill(slot, 1)
        backend.submit(slot)
    with pytest.raises(BackendError, match=r"^onnxruntime: the network failed on 1 slices of 9 × 8 \([^\n]+\); .*$"):
        backend.wait(odd)
    backend.wait(even)


def test_slots_for_another_number_of_classes_fail(backend):
    (slot,) = backend.allocate(SlotShape(1, 1, 8, 8, CLASSES - 1), 1)
    fill(slot, 1)
    backend.submit(slot)
    with pytest.raises(BackendError, match="scores"):
        backend.wait(slot)


def test_memory_that_cannot_be_had_is_one_line(backend):
    with pytest.raises(BackendError, match=r"no memory for 2 slots of 1048576 slices of 16384 × 16384; use a smaller"):
        backend.allocate(SlotShape(2**20, 0, 2**14, 2**14, CLASSES), 2)


def test_cancel_ends_what_runs_and_drops_what_waits(backend, monkeypatch):
    slots = backend.allocate(SlotShape(1, 1, 8, 8, CLASSES), 3)
    running, run_really = threading.Event(), backend._session.run_with_iobinding
    terminated = []

    def run_when_terminated(binding, options):
        running.set()
        deadline = threading.Event()
        for _ in range(int(PATIENCE / 0.01)):
            if options.terminate:
                break
            deadline.wait(0.01)
        terminated.append(options.terminate)
        run_really(binding, options)

    monkeypatch.setattr(backend._session, "run_with_iobinding", run_when_terminated)
    for slot in slots:
        fill(slot, 1)
        backend.submit(slot)
    errors = []

    def wait():
        for slot in slots[:2]:
            with pytest.raises(BackendError) as caught:
                backend.wait(slot)
            errors.append(str(caught.value))

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert running.wait(PATIENCE)
    backend.cancel()
    waiting.join()
    assert terminated == [True]
    # The waiting thread may come to its first slot before or after the backend has given it up.
    assert "terminate" in errors[0] or "given up" in errors[0]
    assert "given up" in errors[1]
    assert all((slot.labels == 254).all() for slot in slots)
    with pytest.raises(BackendError, match="given up"):
        backend.wait(slots[2])

    monkeypatch.undo()
    backend.submit(slots[0])
    backend.wait(slots[0])
    assert (slots[0].labels != 254).all()


def test_a_late_waiter_leaves_what_was_submitted_anew(backend, monkeypatch):
    (slot,) = backend.allocate(SlotShape(1, 1, 8, 8, CLASSES), 1)
    fill(slot, 1)

    def cancel_and_submit_anew(error):
        monkeypatch.undo()
        backend.cancel()
        backend.submit(slot)
        return "first"

    # The waiter has its error, and is overtaken before it is done.
    monkeypatch.setattr("tomoscribe.engine.backends.onnxruntime._one_line", cancel_and_submit_anew)
    monkeypatch.setattr(backend, "_run", raise_error)
    backend.submit(slot)
    with pytest.raises(BackendError, match="first"):
        backend.wait(slot)
    backend.wait(slot)
    assert (slot.labels != 254).all()
    with pytest.raises(BackendError, match="given up"):
        backend.wait(slot)


def raise_error(*_):
    raise RuntimeError("injected")


def test_closing_twice_is_fine(make_bundle):
    backend = OnnxRuntimeBackend(make_bundle())
    backend.close()
    backend.close()
    assert not any("onnxruntime" in thread.name for thread in threading.enumerate())


def test_without_the_runtime_one_line_names_the_extra(make_bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendUnavailableError, match=r'pip install "tomoscribe\[cpu\]"$'):
        OnnxRuntimeBackend(make_bundle())


def test_a_network_that_cannot_be_read_is_refused(make_bundle):
    broken = onnx.ModelProto(ir_version=10)
    with pytest.raises(BundleError, match=r"model\.fp32\.onnx: ONNX Runtime \S+ cannot load it \([^\n]+\)$"):
        OnnxRuntimeBackend(make_bundle(broken))


def test_a_network_outside_the_graph_contract_is_refused(make_bundle):
    path = make_bundle().artifact_path("fp32")
    model = onnx.load(path)
    del model.graph.output[1]
    with pytest.raises(BundleError, match=r"expected the inputs mean, rstd, slices and .* labels, scores, found .*"):
        OnnxRuntimeBackend(make_bundle(model))


def test_threads_are_said(make_bundle):
    with pytest.raises(ParameterError, match="at least one thread, found 0"):
        OnnxRuntimeBackend(make_bundle(), threads=0)
    backend = OnnxRuntimeBackend(make_bundle(), threads=3)
    assert " 3 threads" in backend.description
    backend.close()


def test_ctrl_c_while_it_is_imported_is_ctrl_c(make_bundle, monkeypatch):
    class Interrupted:
        def find_spec(self, name, path=None, target=None):
            if name == "onnxruntime":
                # As pybind11 tells of a KeyboardInterrupt in the initialisation of an extension.
                raise ImportError("initialization failed") from KeyboardInterrupt()

    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Interrupted(), *sys.meta_path])
    with pytest.raises(KeyboardInterrupt):
        OnnxRuntimeBackend(make_bundle())

"""What the backends on a GPU have in common, on a simulated driver: a backend whose network is a formula."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from tomoscribe.engine.backends.contract import SlotShape
from tomoscribe.engine.backends.gpu_backend import GpuBackend
from tomoscribe.engine.backends.gpu_pipeline import kept_parts
from tomoscribe.engine.cuda import CudaError, DeviceMemoryError
from tomoscribe.engine.errors import BackendError, BackendUnavailableError, BundleError, ParameterError

CLASSES = 3
PATIENCE = 20.0
SHAPE = SlotShape(batch=2, context=1, height=6, width=8, classes=CLASSES)


def label(slices, mean, rstd, context):
    """Every context slice counts, each with its own weight."""
    normalised = (slices - mean[:, None, None]) * rstd[:, None, None]
    number = len(slices) - 2 * context
    summed = sum((3 * j + 1) * normalised[j : j + number] for j in range(2 * context + 1))
    return (summed.astype(np.int64) % 251).astype(np.uint8)


def scores_of(labels):
    return np.stack([labels // (c + 1) for c in range(CLASSES)], axis=1)


class FormulaBackend(GpuBackend):
    """Computes full batches, as far as they are in use, and spoils the rest; `trouble` is called by `_enqueue`."""

    name = "onnxruntime-cuda"
    _title_and_version = "Formula 1.0"

    def __init__(self, bundle, simulator, **options):
        self.simulator = simulator
        self.log = []
        self.trouble = lambda: None
        super().__init__(bundle, **{"device": 0, "precision": "fp32", **options})

    def _open(self, shape, lanes):
        self.shape = shape
        self.log.append(("open", shape.batch, len(lanes)))
        assert [lane.index for lane in lanes] == list(range(len(lanes)))

    def _enqueue(self, lane, count):
        self.trouble()
        shape, addresses = self.shape, lane.addresses
        inputs, tile = shape.batch + 2 * shape.context, (shape.height, shape.width)

        def at(name, dtype, size):
            values = self.simulator.view(addresses[name], np.prod(size) * np.dtype(dtype).itemsize)
            return values.view(dtype).reshape(size)

        def compute():
            slices = at("slices", np.float32, (inputs, *tile))
            mean, rstd = at("mean", np.float32, (inputs,)), at("rstd", np.float32, (inputs,))
            assert np.isfinite(slices).all()
            assert np.isfinite(mean).all()
            assert np.isfinite(rstd).all()
            labels = label(slices, mean, rstd, shape.context)
            labels[count:] = 254
            at("labels", np.uint8, (shape.batch, *tile))[:] = labels
            at("scores", np.uint8, (shape.batch, CLASSES, *tile))[:] = scores_of(labels)

        self.simulator.work(lane.stream.handle, compute, addresses.values())

    def _release(self):
        self.log.append("release")


@pytest.fixture
def backend(driver, simulator, make_bundle):
    backend = FormulaBackend(make_bundle(), simulator)
    yield backend
    backend.close()


def fill(slot, start=0, count=None):
    slot.count = len(slot.labels) if count is None else count
    slot.slices[:] = np.arange(start, start + slot.slices.size).reshape(slot.slices.shape) % 100
    slot.mean[:], slot.rstd[:] = 16, 0.5
    slot.labels[:] = slot.scores[:] = 255


def expected(slot):
    used = slot.count + len(slot.slices) - len(slot.labels)
    context = (len(slot.slices) - len(slot.labels)) // 2
    return label(slot.slices[:used].astype(np.float32), slot.mean[:used], slot.rstd[:used], context)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "uint8", "int16", "uint16"])
@pytest.mark.parametrize(("context", "batch", "largest"), [(1, 2, 64), (0, 3, 8), (2, 4, 10)])
def test_a_volume_is_labelled_as_by_a_loop(backend, fakes, dtype, context, batch, largest):
    values = fakes.volume(dtype=dtype)
    plan = fakes.plan_for(values, largest=largest)
    sink = fakes.Sink(values.shape)
    fakes.run(
        fakes.Tomogram(values), backend, plan, [sink], context=context, batch=batch, dtype=dtype, invert=largest == 8
    )
    labels = fakes.reference(values, context, invert=largest == 8)
    np.testing.assert_array_equal(sink.labels, labels)
    np.testing.assert_array_equal(sink.scores, fakes.scores_of(labels))


def test_volumes_follow_one_another_in_the_same_slots(backend, fakes, simulator):
    for seed in range(3):
        values = np.roll(fakes.volume(), seed)
        sink = fakes.Sink(values.shape)
        fakes.run(fakes.Tomogram(values), backend, fakes.plan_for(values), [sink])
        np.testing.assert_array_equal(sink.labels, fakes.reference(values, 1))
    assert backend.log == ["release", ("open", 2, 3)]
    assert simulator.calls.count("cuMemHostAlloc") == 3 * 5


def test_submitting_waits_for_nothing(backend, simulator):
    slots = backend.allocate(SHAPE, 3)
    simulator.calls.clear()
    for number, slot in enumerate(slots):
        fill(slot, number)
        backend.submit(slot)
    assert not [call for call in simulator.calls if "Synchronize" in call]
    for slot in slots:
        assert (slot.labels == 255).all()
        backend.wait(slot)
        np.testing.assert_array_equal(slot.labels, expected(slot))


def test_copies_and_work_are_in_streams_of_their_own_and_tied_by_events(backend, simulator):
    (slot,) = backend.allocate(SHAPE, 1)
    assert len(simulator.queues) == 3
    simulator.calls.clear()
    fill(slot)
    backend.submit(slot)
    assert [call.removeprefix("cu") for call in simulator.calls if "Ctx" not in call] == [
        *("MemcpyHtoDAsync", "MemcpyHtoDAsync", "MemcpyHtoDAsync", "EventRecord"),
        *("StreamWaitEvent", "EventRecord"),
        *("StreamWaitEvent", "MemcpyDtoHAsync", "MemcpyDtoHAsync", "EventRecord"),
    ]
    upload, compute, download = simulator.queues.values()
    assert [len(queue) for queue in (upload, compute, download)] == [4, 3, 4]
    # A thread that has many calls to make pushes once.
    assert simulator.calls.count("cuCtxPushCurrent") == 1
    backend.wait(slot)


def test_what_is_done_is_let_go(backend):
    slots = backend.allocate(SHAPE, 2)
    for slot in [*slots, *slots]:
        fill(slot)
        backend.submit(slot)
        backend.wait(slot)
    pipeline = backend._pipeline
    for station in backend._stations.values():
        for buffer in station.buffers.values():
            assert not any(stream.uses(buffer) for stream in (pipeline._upload, pipeline.compute, pipeline._download))


@pytest.mark.parametrize("dtype", ["float32", "int16"])
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(("kept", "planes"), [(None, 3), ((), 0), ((2,), 1), ((0, 2), 2), ((2, 1), 2), ((1, 0, 2), 3)])
def test_only_what_is_in_use_crosses_the_bus(backend, simulator, dtype, count, kept, planes):
    shape = SlotShape(2, 1, 6, 8, CLASSES, dtype, kept)
    (slot,) = backend.allocate(shape, 1)
    fill(slot, count=count)
    simulator.copied.clear()
    backend.submit(slot)
    backend.wait(slot)
    pixels = 6 * 8
    assert simulator.copied == {
        "up": (count + 2) * (pixels * np.dtype(dtype).itemsize + 8),
        "down": count * pixels * (1 + planes),
    }
    labels = expected(slot)
    np.testing.assert_array_equal(slot.labels[:count], labels)
    assert (slot.labels[count:] == 255).all()
    wanted = list(range(CLASSES)) if kept is None else list(kept)
    others = [number for number in range(CLASSES) if number not in wanted]
    np.testing.assert_array_equal(slot.scores[:count, wanted], scores_of(labels)[:, wanted])
    assert (slot.scores[:count, others] == 255).all()
    assert (slot.scores[count:] == 255).all()


def test_scores_that_are_kept_are_copied_in_few_parts():
    scores = np.zeros((3, 6, 2, 2), np.uint8)
    assert [(part.shape, offset) for part, offset in kept_parts(scores, (1, 2, 4))] == [
        ((count, 2, 2), 4 * first) for base in (0, 6, 12) for count, first in ((2, base + 1), (1, base + 4))
    ]


def test_other_classes_are_kept_without_opening_again(backend):
    slots = backend.allocate(SHAPE, 2)
    again = backend.allocate(SlotShape(2, 1, 6, 8, CLASSES, kept=(1,)), 2)
    assert all(one is other for one, other in zip(slots, again, strict=True))
    assert backend.log == ["release", ("open", 2, 2)]
    fill(again[0])
    backend.submit(again[0])
    backend.wait(again[0])
    assert (again[0].scores[:, 2] == 255).all()
    assert (again[0].scores[:, 1] != 255).any()


@pytest.mark.parametrize("change", [{"batch": 1}, {"height": 8}, {"dtype": "int8"}])
def test_slots_of_another_size_take_the_place_of_the_earlier_ones(backend, simulator, change):
    from dataclasses import replace

    slots = backend.allocate(SHAPE, 3)
    fill(slots[0])
    backend.submit(slots[0])
    backend.wait(slots[0])
    backend.allocate(replace(SHAPE, **change), 2)
    assert [entry if entry == "release" else entry[0] for entry in backend.log] == ["release", "open"] * 2
    assert len(simulator.host_memory) == 2 * 5
    assert len(simulator.device_memory) == 2 * (6 if "dtype" in change else 5)
    assert len(simulator.events) == 2 * 3


def test_memory_that_lacks_is_told_and_given_back(backend, simulator):
    simulator.capacity = 5000
    with pytest.raises(DeviceMemoryError) as caught:
        backend.allocate(SlotShape(8, 1, 16, 16, CLASSES), 3)
    message = str(caught.value)
    assert "onnxruntime-cuda: GPU 0 failed on 3 slots of 8 slices of 16 × 16 (" in message
    assert "memory ran out, use smaller tiles or a smaller batch" in message
    assert "\n" not in message
    assert simulator.device_memory == {}
    assert simulator.host_memory == {}
    (slot,) = backend.allocate(SHAPE, 1)
    fill(slot)
    backend.submit(slot)
    backend.wait(slot)
    np.testing.assert_array_equal(slot.labels, expected(slot))


def test_memory_that_cannot_be_pinned_is_told(backend, simulator):
    simulator.failing["cuMemHostAlloc"] = "CUDA_ERROR_OUT_OF_MEMORY"
    with pytest.raises(DeviceMemoryError, match=r"2 slots.*cuMemHostAlloc"):
        backend.allocate(SHAPE, 2)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RuntimeError("CUDA failure 2: out of memory ; GPU=0"), DeviceMemoryError),
        (RuntimeError("bfc_arena: Available memory of 0 is\nsmaller than requested bytes of 9"), DeviceMemoryError),
        (RuntimeError("Error Code 2: OutOfMemory (Requested size was 9 bytes.)"), DeviceMemoryError),
        (RuntimeError("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED"), DeviceMemoryError),
        (DeviceMemoryError("cuMemAlloc: too much"), DeviceMemoryError),
        (RuntimeError("CUDNN_STATUS_EXECUTION_FAILED"), CudaError),
        (CudaError("cuGraphLaunch: CUDA_ERROR_UNKNOWN"), CudaError),
        (BundleError("model.fp32.onnx: not a network"), BundleError),
    ],
)
@pytest.mark.parametrize("when", ["allocate", "submit"])
def test_what_a_library_says_becomes_an_error_of_its_kind(backend, error, kind, when):
    def fail():
        raise error

    if when == "submit":
        (slot,) = backend.allocate(SHAPE, 1)
        fill(slot)
    backend.trouble = fail
    with pytest.raises(kind) as caught:
        _ = backend.allocate(SHAPE, 1) if when == "allocate" else backend.submit(slot)
    assert type(caught.value) is kind
    assert " ".join(str(error).split()) in str(caught.value)
    assert "\n" not in str(caught.value)
    if kind is not BundleError:
        assert str(caught.value).startswith("onnxruntime-cuda: GPU 0 failed on 2 slices of 6 × 8 (")
        assert ("memory ran out" in str(caught.value)) == (kind is DeviceMemoryError)
    backend.trouble = lambda: None
    backend.cancel()


def test_a_device_that_vanishes_fails_the_volume_and_no_more(backend, fakes, simulator, no_thread_is_left):
    values = fakes.volume(depth=20)
    plan, sink = fakes.plan_for(values), fakes.Sink(values.shape)

    def vanish():
        if sink.written >= 4:
            simulator.lost = "CUDA_ERROR_DEVICE_UNAVAILABLE"

    backend.trouble = vanish
    with pytest.raises(CudaError, match=r"GPU 0 failed on 2 slices.*\(cu\w+.*CUDA_ERROR_DEVICE_UNAVAILABLE") as caught:
        fakes.run(fakes.Tomogram(values), backend, plan, [sink])
    assert not isinstance(caught.value, DeviceMemoryError)
    assert sink.calls["abort"] == 1
    backend.close()
    assert simulator.retained == 0


def test_work_that_fails_on_the_device_is_told_where_it_is_waited_for(backend, simulator):
    slots = backend.allocate(SHAPE, 2)

    def fail():
        raise simulator.Error("CUDA_ERROR_LAUNCH_FAILED")

    for slot in slots:
        fill(slot)
    simulator.work(backend._pipeline.compute.handle, fail)
    for slot in slots:
        backend.submit(slot)
    for slot in slots:
        with pytest.raises(CudaError, match=r"cuEventSynchronize.*CUDA_ERROR_LAUNCH_FAILED"):
            backend.wait(slot)


def test_cancelling_gives_up_what_was_submitted(backend):
    slots = backend.allocate(SHAPE, 3)
    for slot in slots:
        fill(slot)
        backend.submit(slot)
    backend.wait(slots[0])
    backend.cancel()
    for slot in slots[1:]:
        with pytest.raises(BackendError, match="given up"):
            backend.wait(slot)
    for number, slot in enumerate(slots):
        fill(slot, 7 * number)
        backend.submit(slot)
    for slot in slots:
        backend.wait(slot)
        np.testing.assert_array_equal(slot.labels, expected(slot))


def test_cancelling_waits_for_what_is_on_the_device(backend, simulator):
    (slot,) = backend.allocate(SHAPE, 1)
    fill(slot)
    backend.submit(slot)
    backend.cancel()
    assert all(queue == [] for queue in simulator.queues.values())


def test_who_waits_while_it_is_cancelled_is_told(backend, simulator):
    (slot,) = backend.allocate(SHAPE, 1)
    fill(slot)
    at_work, cancelled = threading.Event(), threading.Event()
    errors = []

    def work():
        at_work.set()
        assert cancelled.wait(PATIENCE)

    def wait():
        try:
            backend.wait(slot)
        except BackendError as error:
            errors.append(str(error))

    simulator.work(backend._pipeline.compute.handle, work)
    backend.submit(slot)
    waiting = threading.Thread(target=wait)
    waiting.start()
    assert at_work.wait(PATIENCE)
    # As `cancel` does before it waits for the device.
    for pending in backend._pending.values():
        pending.given_up = True
    cancelled.set()
    waiting.join(PATIENCE)
    backend.cancel()
    assert errors == ["onnxruntime-cuda: the work on the slot was given up"]


def test_closing_gives_everything_back(backend, simulator):
    slots = backend.allocate(SHAPE, 3)
    fill(slots[0])
    backend.submit(slots[0])
    backend.close()
    backend.close()
    assert backend.log == ["release", ("open", 2, 3), "release"]
    assert simulator.device_memory == simulator.host_memory == simulator.events == {}
    assert simulator.retained == 0
    assert simulator.contexts == []


def test_times_are_those_of_the_device(backend, simulator):
    backend.allocate(SHAPE, 1)
    stream, durations = backend._pipeline.compute, iter([900, 30, 10, 20, 50, 40])
    events = len(simulator.events)

    def work():
        simulator.work(stream.handle, lambda: None, milliseconds=next(durations))

    with backend._device.current():
        assert backend._measure(work) == pytest.approx(30, abs=3)
    assert next(durations, None) is None
    assert len(simulator.events) == events


def test_it_says_what_it_is(backend, driver, simulator, make_bundle):
    assert backend.description == "Formula 1.0 on GPU 0, Simulated A, FP32"
    assert backend.streams == 2
    assert set(backend.limits.dtypes) == {"float32", "float16", "int8", "uint8", "int16", "uint16"}
    assert backend.limits.tile_pixels == 2048**2
    other = FormulaBackend(make_bundle(), simulator, device=1, streams=1)
    assert other.description == "Formula 1.0 on GPU 1, Simulated B, FP32"
    assert other.streams == 1
    other.close()


def test_what_cannot_be_had_is_refused_and_nothing_is_kept(driver, simulator, make_bundle):
    bundle = make_bundle()
    with pytest.raises(ParameterError, match="at least one stream, found 0"):
        FormulaBackend(bundle, simulator, streams=0)
    with pytest.raises(BackendUnavailableError, match=r"device 2: .* found 0 to 1"):
        FormulaBackend(bundle, simulator, device=2)
    with pytest.raises(BackendUnavailableError, match="no fp16 network"):
        FormulaBackend(bundle, simulator, precision="fp16")
    simulator.failing["cuStreamCreate"] = "CUDA_ERROR_DEVICE_UNAVAILABLE"
    with pytest.raises(CudaError, match="cuStreamCreate"):
        FormulaBackend(bundle, simulator)
    assert simulator.retained == 0

"""TensorRT's backend over a simulated CUDA driver, on an engine that computes in ONNX Runtime on the CPU."""

from __future__ import annotations

import contextlib
import runpy
import sys
import traceback
from pathlib import Path

import mrcfile
import numpy as np
import onnxruntime
import pytest

from tomoscribe.engine.backends.contract import SlotShape
from tomoscribe.engine.backends.tensorrt import TensorRtBackend
from tomoscribe.engine.cuda import CudaError, DeviceMemoryError
from tomoscribe.engine.errors import BackendUnavailableError, BundleError
from tomoscribe.engine.intensity import IntensityStatistics
from tomoscribe.engine.segmentation import Segmenter
from tomoscribe.engine.stream import stream
from tomoscribe.engine.tiles import TilePlan

FAKE = runpy.run_path(str(Path(__file__).resolve().parents[2] / "tensorrt_bindings" / "fake.py"))
CLASSES = 6
TILE = 16, 24
STANDARD = (2**22 // (16 * 24), *TILE)
MEMORY = 100_000


class Volume:
    """A sink that keeps the labels."""

    path = Path("labels.mrc")

    def __init__(self, shape):
        self.labels = np.full(shape, 255, np.uint8)

    def write(self, start, labels, scores):
        self.labels[start : start + len(labels)] = labels

    def prepare(self):
        pass

    def commit(self):
        pass

    def abort(self):
        pass


@pytest.fixture
def fake(simulator, monkeypatch):
    """TensorRT, without a GPU; with cuda.bindings, if a test does not say otherwise."""
    simulator.capacity = 1 << 30
    return FAKE["install"](simulator, monkeypatch)


@pytest.fixture
def opened(fake, simulate, make_bundle):
    """Open backends, and close them in the end."""
    simulate("cuda.bindings")
    bundle = make_bundle(others=("fp16",))
    with contextlib.ExitStack() as stack:

        def opened(**options):
            backend = TensorRtBackend(bundle, **options)
            stack.callback(backend.close)
            return backend

        yield opened


def slot_shape(batch=3, **changes):
    return SlotShape(batch, 1, *TILE, CLASSES, **changes)


def fill(slot, count, seed=0):
    random = np.random.default_rng(seed)
    slot.slices[:] = random.integers(0, 9, slot.slices.shape)
    slot.mean[:], slot.rstd[:], slot.count = random.integers(0, 9, slot.mean.shape), 1, count


def run(backend, slot, count=None, seed=0):
    fill(slot, len(slot.labels) if count is None else count, seed)
    backend.submit(slot)
    backend.wait(slot)


def answer(bundle, artifact, slices, mean, rstd):
    session = onnxruntime.InferenceSession(bundle.artifact_path(artifact), providers=["CPUExecutionProvider"])
    return session.run(["labels", "scores"], {"slices": slices.astype(np.float32), "mean": mean, "rstd": rstd})


def check(bundle, slot, artifact="fp16"):
    used = slot.count + len(slot.slices) - len(slot.labels)
    labels, scores = answer(bundle, artifact, slot.slices[:used], slot.mean[:used], slot.rstd[:used])
    assert len(np.unique(scores)) > 1
    np.testing.assert_array_equal(slot.labels[: slot.count], labels)
    np.testing.assert_array_equal(slot.scores[: slot.count], scores)


def sizes_built(fake):
    """Batch and tile of the plans that were built, or asked for in vain."""
    shapes = [shapes for name, *shapes in fake.named("IOptimizationProfile.set_shape") if name == "slices"]
    return [(high[0] - 2, *high[1:]) for _, _, high in shapes]


@pytest.mark.parametrize("library", ["cuda.bindings", "pycuda"])
@pytest.mark.parametrize("dtype", ["float32", "int16"])
def test_labels_are_those_of_the_network(fake, simulate, make_bundle, library, dtype):
    simulate(library)
    bundle = make_bundle(others=("fp16",))
    with contextlib.closing(TensorRtBackend(bundle)) as backend:
        slots = backend.allocate(slot_shape(dtype=dtype), 3)
        for seed, count in enumerate((3, 1, 2, 3)):
            for slot in slots:
                run(backend, slot, count, seed)
                check(bundle, slot)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_precision_is_the_bundles_artifact(fake, simulate, make_bundle, precision):
    simulate("cuda.bindings")
    bundle = make_bundle(others=("fp16", "int8"))
    # The network of this bundle is not quantised, whatever it is called.
    with contextlib.closing(TensorRtBackend(bundle, precision=precision)) as backend:
        (slot,) = backend.allocate(slot_shape(), 1)
        run(backend, slot)
        check(bundle, slot, precision)
        assert backend.description == f"TensorRT 11.4.0.106 on GPU 0, Simulated A, {precision.upper()}"


def test_slots_are_worked_on_in_turn_and_each_has_its_own_labels(opened):
    backend = opened()
    slots = backend.allocate(slot_shape(), 3)
    for seed, slot in enumerate(slots):
        fill(slot, 3 - seed, seed)
        backend.submit(slot)
    for slot in slots:
        backend.wait(slot)
        check(backend._bundle, slot)
    assert len({slot.labels[:1].tobytes() for slot in slots}) == 3


def test_a_volume_is_labelled_slice_by_slice(opened, array_tomogram):
    values = np.random.default_rng(0).integers(0, 9, (8, 30, 37)).astype(np.float32)
    backend, sink = opened(), Volume(values.shape)
    halo = backend._bundle.specification.halo
    plan = TilePlan.for_slice(values.shape[1:], multiple=4, halo=halo, pixels=10**6)
    statistics = IntensityStatistics(4.0, 1.0)
    stream(
        array_tomogram(values), backend, plan, statistics, [sink], context=1, classes=CLASSES, batch=3, slots=3, kept=()
    )
    padded = np.pad(np.pad(values, ((1, 1), (0, 0), (0, 0)), "edge"), ((0, 0), (0, 2), (0, 3)), "symmetric")
    mean, rstd = statistics.mean_and_rstd(10, False)
    labels, _ = answer(backend._bundle, "fp16", padded, mean, rstd)
    np.testing.assert_array_equal(sink.labels, labels[:, :30, :37])


def test_a_plan_is_built_once_for_any_depth_and_told(opened, fake):
    told = []
    backend = opened(building=lambda *phase: told.append(phase))
    for batch in (3, 1, 5):
        (slot,) = backend.allocate(slot_shape(batch), 1)
        run(backend, slot)
        check(backend._bundle, slot)
    assert sizes_built(fake) == [STANDARD]
    assert told[0] == ("no plan for 10922x16x24 in fp16 on Simulated A yet", 0.0)
    assert told[-1] == ("Building engine", 1.0)
    # Loaded to be looked at when it was built, and once to be run.
    assert len(fake.named("Runtime.deserialize_cuda_engine")) == 2
    assert len(list((backend._bundle.path / "plans").iterdir())) == 2

    told.clear()
    opened(building=lambda *phase: told.append(phase)).allocate(slot_shape(), 1)
    assert told == []
    assert len(sizes_built(fake)) == 1


def test_another_tile_has_another_plan_which_takes_the_place_of_the_first(opened, fake):
    backend = opened()
    backend.allocate(slot_shape(), 1)
    fake.gone.clear()
    (slot,) = backend.allocate(SlotShape(2, 1, 32, 16, CLASSES), 1)
    run(backend, slot)
    check(backend._bundle, slot)
    assert [sizes[1:] for sizes in sizes_built(fake)] == [TILE, (32, 16)]
    # What runs on the first plan goes before it, and that before the second is built.
    assert fake.gone.index("IExecutionContext") < fake.gone.index("ICudaEngine") < fake.gone.index("Builder")


def test_addresses_are_set_once_and_sizes_where_they_change(opened, fake):
    backend = opened()
    slots = backend.allocate(slot_shape(), 2)
    fake.calls.clear()
    for count in (3, 3, 2, 2, 3):
        for slot in slots:
            run(backend, slot, count)
    assert fake.named("IExecutionContext.set_tensor_address") == []
    resized = [shape[0] - 2 for name, shape in fake.named("IExecutionContext.set_input_shape") if name == "slices"]
    assert resized == [2, 2, 3, 3]
    assert len({stream for (stream,) in fake.named("IExecutionContext.execute_async_v3")}) == 1


def test_lanes_share_the_memory_between_layers(opened, fake):
    fake.memory = lambda pixels: 10_000
    opened().allocate(slot_shape(), 3)
    given = fake.named("IExecutionContext.set_device_memory")
    assert len(given) == 3
    assert {size for _, size in given} == {10_000}
    assert len({address for address, _ in given}) == 1


def test_a_network_that_needs_no_memory_between_layers(opened, fake):
    fake.memory = lambda pixels: 0
    backend = opened()
    (slot,) = backend.allocate(slot_shape(), 1)
    run(backend, slot)
    check(backend._bundle, slot)


@pytest.mark.parametrize(("milliseconds", "recorded"), [((2.0, 1.0), True), ((1.0, 2.0), False), ((2.0, 2.0), False)])
def test_graphs_are_launched_where_they_take_less_time(opened, fake, simulator, milliseconds, recorded):
    fake.milliseconds = milliseconds
    backend = opened()
    slots = backend.allocate(slot_shape(), 2)
    for seed, count in enumerate((3, 2, 3, 1, 3)):
        simulator.calls.clear()
        fake.calls.clear()
        for slot in slots:
            run(backend, slot, count, seed)
            check(backend._bundle, slot)
        launched, called = simulator.calls.count("cuGraphLaunch"), fake.named("IExecutionContext.execute_async_v3")
        assert (launched, len(called)) == ((2, 0) if recorded and count == 3 else (0, 2))
    assert len(simulator.graphs) == (2 if recorded else 0)
    backend.allocate(slot_shape(1), 1)
    assert len(simulator.graphs) == (1 if recorded else 0)
    backend.close()
    assert simulator.graphs == {}


def test_without_graphs_in_the_library_none_is_tried(fake, simulate, simulator, make_bundle):
    fake.milliseconds = 2.0, 1.0
    simulate("pycuda")
    bundle = make_bundle(others=("fp16",))
    with contextlib.closing(TensorRtBackend(bundle)) as backend:
        (slot,) = backend.allocate(slot_shape(), 1)
        # Nothing is timed: a batch to have sizes taken in, and one that the slot goes through.
        assert len(fake.named("IExecutionContext.execute_async_v3")) == 2
        run(backend, slot)
        check(bundle, slot)


@pytest.mark.parametrize("call", ["cuStreamBeginCapture", "cuGraphInstantiate", "cuGraphLaunch"])
@pytest.mark.parametrize("status", ["CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "CUDA_ERROR_OUT_OF_MEMORY"])
def test_work_that_cannot_be_recorded_is_called(opened, fake, simulator, call, status):
    fake.milliseconds = 2.0, 1.0
    simulator.failing[call] = status
    backend = opened()
    (slot,) = backend.allocate(slot_shape(), 1)
    run(backend, slot)
    check(backend._bundle, slot)
    simulator.calls.clear()
    run(backend, slot)
    assert "cuGraphLaunch" not in simulator.calls


def test_a_context_that_refuses_to_be_recorded_is_called(opened, fake, simulator):
    fake.milliseconds = 2.0, 1.0
    honest = fake._IExecutionContext_execute_async_v3

    def refuse(context, stream):
        return honest(context, stream) if stream not in simulator.recording else False

    fake._IExecutionContext_execute_async_v3 = refuse
    backend = opened()
    (slot,) = backend.allocate(slot_shape(), 1)
    run(backend, slot)
    check(backend._bundle, slot)


def test_where_memory_lacks_for_the_standard_number_the_plan_is_for_the_slots_own(opened, fake):
    fake.memory = lambda pixels: MEMORY if pixels < 10**6 else 1 << 40
    told = []
    backend = opened(building=lambda phase, share: told.append(phase))
    (slot,) = backend.allocate(slot_shape(), 1)
    run(backend, slot)
    check(backend._bundle, slot)
    assert sizes_built(fake) == [STANDARD, (3, *TILE)]
    assert "no plan for 3x16x24 in fp16 on Simulated A yet" in told
    # It is not tried again, nor is another tile's that is as large.
    backend.allocate(slot_shape(2), 1)
    backend.allocate(SlotShape(2, 1, 24, 16, CLASSES), 1)
    assert sizes_built(fake)[2:] == [(2, *TILE), (2, 24, 16)]


def test_a_tomogram_is_begun_anew_in_smaller_batches(fake, simulate, make_bundle, tmp_path):
    simulate("cuda.bindings")
    bundle = make_bundle(others=("fp16",))
    path, warnings = tmp_path / "volume.mrc", []
    values = np.random.default_rng(0).integers(0, 99, (7, 32, 40)).astype(np.int16)
    with mrcfile.new(path, values) as file:
        file.voxel_size = 10

    def labelled(output):
        with Segmenter(bundle, backend="tensorrt", precision="fp16", device="0") as segmenter:
            labels = segmenter.segment(path, tmp_path / output, warn=warnings.append).labels
        return mrcfile.read(labels)

    expected = labelled("at once")
    assert warnings == []
    fake.memory = lambda pixels: MEMORY if pixels <= (3 + 2) * 32 * 40 else 1 << 40
    np.testing.assert_array_equal(labelled("in parts"), expected)
    assert len(np.unique(expected)) > 1
    (warning,) = warnings
    assert warning.endswith("7 slices of 32 × 40 pixels at once; begun anew with 3 slices of 32 × 40 pixels")
    assert [batch for batch, *_ in sizes_built(fake)] == [2**22 // (32 * 40), 7, 3]


def test_memory_that_work_is_on_is_not_given_back_before_that_is_done(opened, fake, simulator):
    def memory(pixels):
        if pixels > 10**6:  # of the standard plan, whose work then fails while it is timed
            simulator.failing["cuEventSynchronize"] = "CUDA_ERROR_OUT_OF_MEMORY"
        return MEMORY

    fake.memory = memory
    backend = opened()
    (slot,) = backend.allocate(slot_shape(), 1)
    run(backend, slot)
    check(backend._bundle, slot)
    assert sizes_built(fake) == [STANDARD, (3, *TILE)]


def test_where_memory_lacks_for_the_slots_too_all_is_given_back(opened, fake, simulator):
    fake.memory = lambda pixels: 1 << 40
    backend = opened()
    with pytest.raises(DeviceMemoryError, match=r"tensorrt: GPU 0 failed on 2 slots of 3 slices of 16 × 24") as caught:
        backend.allocate(slot_shape(), 2)
    assert "\n" not in str(caught.value)
    # Also while someone has the error, whose traceback leads to what failed.
    assert "ICudaEngine" in fake.gone
    assert fake.gone.count("IExecutionContext") == len(fake.named("ICudaEngine.create_execution_context"))
    assert simulator.device_memory == {}
    fake.memory = lambda pixels: MEMORY
    (slot,) = backend.allocate(slot_shape(), 1)
    run(backend, slot)
    check(backend._bundle, slot)


def test_contexts_that_lack_memory_are_forgotten_while_someone_has_the_error(opened, fake):
    honest = fake._ICudaEngine_create_execution_context

    def second_fails(engine, strategy):
        if len(fake.named("ICudaEngine.create_execution_context")) % 2:
            return honest(engine, strategy)
        fake.say("Error Code 2: OutOfMemory (no further information)")
        return None

    fake._ICudaEngine_create_execution_context = second_fails
    backend = opened()
    with pytest.raises(DeviceMemoryError, match="OutOfMemory") as caught:
        backend.allocate(slot_shape(), 2)
    assert traceback.format_tb(caught.value.__traceback__)
    assert fake.gone.count("IExecutionContext") == 2  # of the standard plan, and of the slots' own
    assert fake.gone.count("ICudaEngine") == len(fake.named("Runtime.deserialize_cuda_engine"))


@pytest.mark.parametrize(
    ("words", "lacks_memory"),
    [
        ("[executionContext.cpp::initialize::470] Error Code 2: OutOfMemory (no further information)", True),
        ("Error Code 1: Cuda Runtime (invalid argument)", False),
    ],
)
@pytest.mark.parametrize(
    "call",
    ["ICudaEngine.create_execution_context", "Builder.build_serialized_network", "Runtime.deserialize_cuda_engine"],
)
def test_a_lack_of_memory_is_told_from_other_failures(opened, fake, simulator, call, words, lacks_memory):
    fake.returns[call] = lambda *_: fake.say(words)
    backend = opened()
    expected = DeviceMemoryError if lacks_memory else BundleError if "context" not in call else CudaError
    with pytest.raises(expected) as caught:
        backend.allocate(slot_shape(), 1)
    assert isinstance(caught.value, DeviceMemoryError) is lacks_memory
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert simulator.device_memory == {}


@pytest.mark.parametrize("returned", [False, RuntimeError("no\nreason")])
def test_work_that_cannot_be_enqueued_names_call_gpu_and_size(opened, fake, returned):
    backend = opened(device=1)
    (slot,) = backend.allocate(slot_shape(), 1)
    fill(slot, 2)

    def fail(stream):
        if returned:
            raise returned
        fake.say("the reason\nof TensorRT")
        return False

    fake.returns["IExecutionContext.execute_async_v3"] = fail
    reason = "no reason" if returned else r"TensorRT: execute_async_v3 failed \(the reason of TensorRT\)"
    with pytest.raises(CudaError, match=rf"^tensorrt: GPU 1 failed on 2 slices of 16 × 24 \({reason}\)$"):
        backend.submit(slot)
    del fake.returns["IExecutionContext.execute_async_v3"]
    backend.cancel()
    run(backend, slot)
    check(backend._bundle, slot)


def test_sizes_that_were_refused_half_way_are_set_anew(opened, fake):
    backend = opened()
    (slot,) = backend.allocate(slot_shape(), 1)
    honest = fake._IExecutionContext_set_input_shape
    fake._IExecutionContext_set_input_shape = lambda context, name, shape: (
        False if name == "mean" else honest(context, name, shape)
    )
    with pytest.raises(CudaError, match=r"set_input_shape of mean to \(4,\) failed"):
        run(backend, slot, 2)
    fake._IExecutionContext_set_input_shape = honest
    backend.cancel()
    run(backend, slot, 3)
    check(backend._bundle, slot)


def test_ctrl_c_ends_a_build_and_leaves_nothing(opened, fake, simulator):
    def interrupt(phase, share):
        if share > 0.2:
            raise KeyboardInterrupt

    backend = opened(building=interrupt)
    with pytest.raises(KeyboardInterrupt):
        backend.allocate(slot_shape(), 2)
    assert not (backend._bundle.path / "plans").exists()
    assert simulator.device_memory == {}
    assert simulator.host_memory == {}


def test_everything_is_given_back_in_the_end(opened, fake, simulator):
    fake.milliseconds = 2.0, 1.0
    backend = opened()
    retained = simulator.retained
    slots = backend.allocate(slot_shape(), 2)
    for slot in slots:
        fill(slot, 3)
        backend.submit(slot)
    backend.close()
    assert simulator.device_memory == simulator.host_memory == simulator.graphs == {}
    assert simulator.retained == retained - 1
    made = len(fake.named("ICudaEngine.create_execution_context"))
    assert (fake.gone.count("IExecutionContext"), made) == (4, 4)
    assert fake.gone.count("ICudaEngine") == fake.gone.count("Runtime") == 2
    backend.close()


def test_an_engine_goes_while_its_device_is_there(opened, fake, simulator):
    backend = opened()
    backend.allocate(slot_shape(), 1)
    fake.gone = Log(lambda: simulator.contexts)
    with backend._device.current():
        current = list(simulator.contexts)
    backend.close()
    assert fake.gone.seen["ICudaEngine"] == current


class Log(list):
    """Notes what there is whenever something is appended."""

    def __init__(self, look):
        super().__init__()
        self.look, self.seen = look, {}

    def append(self, name):
        super().append(name)
        self.seen[name] = list(self.look())


def test_without_tensorrt_cuda_is_not_touched(simulate, simulator, make_bundle, monkeypatch):
    simulate("cuda.bindings")
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    simulator.calls.clear()
    with pytest.raises(BackendUnavailableError, match=r'cannot be imported .* pip install "tomoscribe\[tensorrt\]"'):
        TensorRtBackend(make_bundle(others=("fp16",)))
    assert simulator.calls == []


def test_a_precision_that_the_bundle_lacks(fake, simulate, make_bundle):
    simulate("cuda.bindings")
    with pytest.raises(BackendUnavailableError, match="has no fp16 network"):
        TensorRtBackend(make_bundle())
    with pytest.raises(BackendUnavailableError, match="expected the precision fp32 or fp16 or int8, found bf16"):
        TensorRtBackend(make_bundle(), precision="bf16")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "int16"])
def test_answers_of_a_gpu_are_those_of_the_cpu(make_bundle, dtype):
    bundle = make_bundle()
    try:
        backend = TensorRtBackend(bundle, precision="fp32")
    except BackendUnavailableError as error:
        pytest.skip(str(error))
    with contextlib.closing(backend):
        for seed, slot in enumerate(backend.allocate(slot_shape(dtype=dtype), 2)):
            for count in (3, 1, 3):
                run(backend, slot, count, seed)
                inputs = (values[: count + 2] for values in (slot.slices, slot.mean, slot.rstd))
                labels, scores = answer(bundle, "fp32", *inputs)
                # Some ways to convolve round where whole numbers are exact.
                assert np.mean(slot.labels[:count] != labels) < 1e-3
                assert np.mean(slot.scores[:count] != scores) < 1e-2

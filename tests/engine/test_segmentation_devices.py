"""Segmenting on devices that lack memory, vanish, take slices as they are stored, or are several."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections import Counter
from dataclasses import replace

import mrcfile
import numpy as np
import pytest

from tomoscribe.engine import BackendError, Bundle, Segmenter, segment
from tomoscribe.engine.backends import Slot, SlotLimits
from tomoscribe.engine.backends.device_group import DeviceGroup
from tomoscribe.engine.backends.onnxruntime import OnnxRuntimeBackend
from tomoscribe.engine.cuda import CudaError, DeviceMemoryError

STORED = ("float32", "float16", "int8", "int16", "uint16")
# Half of the slice's pixels and less: tiles have to be cut.
SLICE = 48 * 40


class FakeGpu:
    """Runs the bundle as a GPU would: slices cross as they are stored, and only scores that are kept cross back.

    `capacity` is how many pixels a slot may have; `trouble` what the n-th `wait` after the last `allocate` raises.
    """

    name = "tensorrt"
    description = "Simulated on GPU 0, FP16"
    streams = 2
    limits = SlotLimits(2048**2, 2**22, STORED)

    def __init__(self, bundle, capacity=math.inf, seconds=0.0):
        self.inner = OnnxRuntimeBackend(bundle, 1)
        self.capacity, self.seconds = capacity, seconds
        self.trouble = {}
        self.shapes, self.inners = [], {}
        self.calls = Counter()

    def allocate(self, shape, count):
        self.shapes.append(shape)
        self.waits = 0
        if shape.batch * shape.height * shape.width > self.capacity:
            raise DeviceMemoryError("tensorrt: GPU 0 failed (cuMemAlloc: CUDA_ERROR_OUT_OF_MEMORY)")
        within = self.inner.allocate(replace(shape, dtype="float32", kept=None), count)
        slots = [
            Slot(
                np.empty(slot.slices.shape, shape.dtype),
                np.empty_like(slot.mean),
                np.empty_like(slot.rstd),
                np.full_like(slot.labels, 99),
                np.full_like(slot.scores, 99),
            )
            for slot in within
        ]
        self.inners = {id(slot): inner for slot, inner in zip(slots, within, strict=True)}
        return slots

    def submit(self, slot):
        self.calls["submit"] += 1
        inner = self.inners[id(slot)]
        inner.slices[:], inner.mean[:], inner.rstd[:], inner.count = slot.slices, slot.mean, slot.rstd, slot.count
        self.inner.submit(inner)

    def wait(self, slot):
        self.waits += 1
        if error := self.trouble.pop(self.waits, None):
            raise error
        time.sleep(self.seconds)
        inner = self.inners[id(slot)]
        self.inner.wait(inner)
        slot.labels[: slot.count] = inner.labels[: slot.count]
        kept = self.shapes[-1].kept
        kept = list(range(inner.scores.shape[1])) if kept is None else list(kept)
        slot.scores[: slot.count, kept] = inner.scores[: slot.count, kept]

    def cancel(self):
        self.calls["cancel"] += 1
        self.inner.cancel()

    def close(self):
        self.calls["close"] += 1
        self.inner.close()


@pytest.fixture
def gpu(tiny_bundle):
    return FakeGpu(Bundle.load(tiny_bundle))


@pytest.fixture
def segmenter(tiny_bundle, monkeypatch, gpu):
    """A segmenter that has chosen the fake GPU."""
    monkeypatch.setattr("tomoscribe.engine.segmentation.choose_backend", lambda *_, **__: (gpu, "a fake"))
    with Segmenter(tiny_bundle) as segmenter:
        yield segmenter


@pytest.fixture
def tomogram(tmp_path, volumes):
    return volumes.write(tmp_path / "a.mrc", volumes.values())


def sizes(gpu):
    return [(shape.batch, shape.height, shape.width) for shape in gpu.shapes]


def check(result, volumes, values=None):
    expected = volumes.expected_labels(volumes.values() if values is None else values)
    np.testing.assert_array_equal(volumes.read(result.labels), expected)
    for number, name in ((1, "dark matter"), (2, "light")):
        np.testing.assert_array_equal(
            volumes.read(result.class_volumes[name]), np.where(expected == number, 201, 27) >> 1
        )
        assert result.counts[name] == np.count_nonzero(expected == number)


def test_where_memory_suffices_nothing_is_said(segmenter, gpu, tomogram, volumes):
    result = segmenter.segment(tomogram)
    check(result, volumes)
    assert sizes(gpu) == [(7, 48, 40)]
    assert result.warnings == ()


def test_the_batch_is_halved_until_it_fits_and_that_is_said(segmenter, gpu, tomogram, volumes):
    gpu.capacity = 2 * SLICE
    said, slices = [], []
    result = segmenter.segment(tomogram, warn=said.append, progress=slices.append)
    check(result, volumes)
    assert sizes(gpu) == [(7, 48, 40), (3, 48, 40), (1, 48, 40)]
    assert said == [
        "the memory of the device does not suffice for 7 slices of 48 × 40 pixels at once; begun anew with 3 slices of "
        "48 × 40 pixels",
        "the memory of the device does not suffice for 3 slices of 48 × 40 pixels at once; begun anew with 1 slice of "
        "48 × 40 pixels",
    ]
    assert said == list(result.warnings) == json.loads(result.sidecar.read_text())["warnings"]
    assert slices == [1] * 7


def test_then_tiles_are_cut_smaller(segmenter, gpu, tomogram, volumes):
    gpu.capacity = SLICE // 4
    result = segmenter.segment(tomogram)
    check(result, volumes)
    assert [batch * height * width for batch, height, width in sizes(gpu)] == sorted(
        [batch * height * width for batch, height, width in sizes(gpu)], reverse=True
    )
    assert sizes(gpu)[2] == (1, 48, 40)
    batch, height, width = sizes(gpu)[-1]
    assert batch * height * width <= SLICE // 4
    assert result.warnings[-1].endswith(f"begun anew with {batch} tile{'s' * (batch > 1)} of {height} × {width} pixels")


def test_what_did_not_suffice_for_one_tomogram_is_not_tried_for_the_next(segmenter, gpu, tomogram, tmp_path, volumes):
    gpu.capacity = 2 * SLICE
    segmenter.segment(tomogram)
    gpu.shapes.clear()
    result = segmenter.segment(tomogram, tmp_path / "again")
    check(result, volumes)
    assert sizes(gpu) == [(1, 48, 40)]
    assert result.warnings == ()


def test_where_tiles_cannot_be_smaller_it_fails_and_the_next_tomogram_is_tried_in_full(
    segmenter, gpu, tomogram, tmp_path, volumes
):
    gpu.capacity = 1
    slices = []
    with pytest.raises(DeviceMemoryError, match="cuMemAlloc"):
        segmenter.segment(tomogram, progress=slices.append)
    assert list(tmp_path.iterdir()) == [tomogram]
    assert sum(slices) == 0
    # The least that a model takes: two rows and columns of its pooling factor.
    assert math.prod(sizes(gpu)[-1]) <= 16 * 16
    gpu.capacity = math.inf
    gpu.shapes.clear()
    check(segmenter.segment(tomogram), volumes)
    assert sizes(gpu) == [(7, 48, 40)]


def test_in_mid_volume_it_is_begun_anew_and_progress_goes_back(segmenter, gpu, tomogram, tmp_path, volumes):
    gpu.limits = SlotLimits(2048**2, 2 * SLICE, STORED)
    gpu.trouble[3] = DeviceMemoryError("tensorrt: GPU 0 failed (CUDA_ERROR_OUT_OF_MEMORY)")
    with Segmenter(segmenter.bundle) as other:
        slices = []
        result = other.segment(tomogram, progress=slices.append)
    check(result, volumes)
    assert slices == [2, 2, -4, *[1] * 7]
    assert len(result.warnings) == 1
    assert gpu.calls["cancel"] == 1
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_slices_that_are_left_out_are_not_taken_back(segmenter, gpu, tmp_path, volumes, monkeypatch):
    from types import SimpleNamespace

    path = volumes.write(tmp_path / "a.mrc", volumes.values())
    trim = SimpleNamespace(start=2, stop=6, reason="left out 3")
    monkeypatch.setattr("tomoscribe.engine.segmentation.find_content", lambda *_: trim)
    gpu.trouble[1] = DeviceMemoryError("out of memory")
    slices = []
    result = segmenter.segment(path, sample_only=True, progress=slices.append)
    assert slices == [3, 2, 2]
    assert [shape.batch for shape in gpu.shapes] == [4, 2]
    assert result.voxels == 4 * 45 * 38


def test_another_failure_is_not_one_of_memory(segmenter, gpu, tomogram, tmp_path):
    gpu.trouble[1] = BackendError("tensorrt: the plan failed")
    with pytest.raises(BackendError, match="the plan failed"):
        segmenter.segment(tomogram)
    assert len(gpu.shapes) == 1
    assert list(tmp_path.iterdir()) == [tomogram]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_device_that_vanishes_in_mid_volume_leaves_what_was_there(
    segmenter, gpu, tomogram, tmp_path, volumes, overwrite, no_thread_is_left
):
    if overwrite:
        segmenter.segment(tomogram)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    gpu.limits = SlotLimits(2048**2, SLICE, STORED)
    with Segmenter(segmenter.bundle) as other:
        for wait in (1, 4, 7):
            gpu.trouble[wait] = CudaError("cuEventSynchronize: CUDA's driver failed with CUDA_ERROR_ECC_UNCORRECTABLE")
            with pytest.raises(CudaError, match="ECC_UNCORRECTABLE"):
                other.segment(tomogram, overwrite=overwrite)
            assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
        # One that comes back is used again.
        check(other.segment(tomogram, overwrite=True), volumes)


def write(path, values, dtype):
    with mrcfile.new(path) as file:
        file.set_data(values.astype(dtype))
        file.set_volume()
        file.voxel_size = 10.0
    return path


@pytest.mark.parametrize("dtype", ["int8", "int16", "uint16", "float16"])
def test_slices_cross_as_they_are_stored(segmenter, gpu, tmp_path, volumes, dtype):
    values = np.random.default_rng(3).integers(0, 127, volumes.shape)
    values[:, 10:30, 5:20] //= 4
    path = write(tmp_path / "a.mrc", values, dtype)
    check(segmenter.segment(path), volumes, values.astype(np.float32))
    assert gpu.shapes[-1].dtype == dtype


def test_what_a_device_cannot_cast_is_cast_before(segmenter, gpu, tmp_path, volumes):
    gpu.limits = replace(gpu.limits, dtypes=("float32", "int8"))
    values = np.random.default_rng(3).integers(0, 127, volumes.shape)
    check(segmenter.segment(write(tmp_path / "a.mrc", values, "int16")), volumes, values.astype(np.float32))
    assert gpu.shapes[-1].dtype == "float32"


def test_rescaled_slices_are_float32_and_need_the_scores_of_all_classes(segmenter, gpu, tmp_path, tiny_bundle, volumes):
    values = np.random.default_rng(3).integers(0, 127, volumes.shape)
    values[:, 10:30, 5:20] //= 4
    path = write(tmp_path / "a.mrc", values, "int16")
    with mrcfile.open(path, "r+") as file:
        file.voxel_size = 24.0
    result = segmenter.segment(path, classes=["light"])
    assert (gpu.shapes[-1].dtype, gpu.shapes[-1].kept) == ("float32", None)
    expected = segment(path, tmp_path / "cpu", model=tiny_bundle, backend="onnxruntime", classes=["light"])
    np.testing.assert_array_equal(volumes.read(result.labels), volumes.read(expected.labels))
    np.testing.assert_array_equal(
        volumes.read(result.class_volumes["light"]), volumes.read(expected.class_volumes["light"])
    )


@pytest.mark.parametrize(("classes", "kept"), [(None, (1, 2)), (["light"], (2,)), (["light", "dark matter"], (1, 2))])
def test_only_scores_that_are_written_are_read(segmenter, gpu, tomogram, tmp_path, tiny_bundle, volumes, classes, kept):
    result = segmenter.segment(tomogram, classes=classes)
    assert sorted(gpu.shapes[-1].kept) == list(kept)
    expected = segment(tomogram, tmp_path / "cpu", model=tiny_bundle, backend="onnxruntime", classes=classes)
    for name, path in result.class_volumes.items():
        np.testing.assert_array_equal(volumes.read(path), volumes.read(expected.class_volumes[name]))
    np.testing.assert_array_equal(volumes.read(result.labels), volumes.read(expected.labels))


@pytest.mark.parametrize("seconds", [(0.0, 0.01), (0.01, 0.0)])
def test_two_devices_of_different_speed_give_what_one_gives(
    tiny_bundle, tomogram, volumes, monkeypatch, seconds, no_thread_is_left
):
    bundle = Bundle.load(tiny_bundle)
    members = [FakeGpu(bundle, seconds=value) for value in seconds]
    for member in members:
        member.limits = SlotLimits(2048**2, SLICE, STORED)
    group = DeviceGroup(members)
    monkeypatch.setattr("tomoscribe.engine.segmentation.choose_backend", lambda *_, **__: (group, "two fakes"))
    slices = []
    with Segmenter(bundle) as segmenter:
        result = segmenter.segment(tomogram, progress=slices.append)
    check(result, volumes)
    assert slices == [1] * 7
    assert [member.calls["submit"] for member in members] == [4, 3]
    assert [member.calls["close"] for member in members] == [1, 1]
    # Three each, of which two are worked on.
    assert [len(member.inners) for member in members] == [3, 3]


def test_of_two_devices_the_one_that_lacks_memory_decides(tiny_bundle, tomogram, volumes, monkeypatch):
    bundle = Bundle.load(tiny_bundle)
    members = [FakeGpu(bundle), FakeGpu(bundle, capacity=3 * SLICE)]
    group = DeviceGroup(members)
    monkeypatch.setattr("tomoscribe.engine.segmentation.choose_backend", lambda *_, **__: (group, "two fakes"))
    with Segmenter(bundle) as segmenter:
        result = segmenter.segment(tomogram)
    check(result, volumes)
    # 7 slices are 4 for each of two.
    assert [shape.batch for shape in members[0].shapes] == [4, 2]
    assert [shape.batch for shape in members[1].shapes] == [4, 2]
    assert [member.calls["submit"] for member in members] == [2, 2]
    assert len(result.warnings) == 1


def test_where_it_runs_is_passed_on(tiny_bundle, tomogram, gpu, monkeypatch):
    asked = []

    def choose(name, bundle, **how):
        asked.append((name, how))
        return gpu, "a fake"

    monkeypatch.setattr("tomoscribe.engine.segmentation.choose_backend", choose)

    def building(phase, share):
        pass

    segment(tomogram, model=tiny_bundle, backend="tensorrt", precision="fp16", device="0,1", building=building)
    assert asked == [("tensorrt", {"precision": "fp16", "device": "0,1", "building": building})]


@pytest.mark.gpu
def test_a_real_gpu_is_chosen_and_labels_what_the_cpu_does(tmp_path, volumes):
    from tomoscribe.engine import BackendUnavailableError, default_bundle
    from tomoscribe.engine.backends import GPU_BACKENDS, choose_backend

    # Plans are written into a bundle.
    bundle = Bundle.load(shutil.copytree(default_bundle(), tmp_path / "bundle"))
    try:
        choose_backend("auto", bundle, device="0")[0].close()
    except BackendUnavailableError as error:
        pytest.skip(str(error))
    values = 100 * np.random.default_rng(0).standard_normal((9, 128, 128))
    path = write(tmp_path / "a.mrc", values, "int16")
    results = {}
    for device in ("auto", "cpu"):
        with Segmenter(bundle, device=device) as segmenter:
            assert any(segmenter.reason.startswith(name) for name in GPU_BACKENDS) is (device == "auto")
            results[device] = volumes.read(segmenter.segment(path, tmp_path / device).labels)
    assert (results["auto"] == results["cpu"]).mean() > 0.99

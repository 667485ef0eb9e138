"""From ``--device`` to labels on the disk, on a simulated driver: the choice, the real GPU backend, the stream."""

from __future__ import annotations

import mrcfile
import numpy as np
import pytest

from tomoscribe.engine import BackendUnavailableError, Segmenter
from tomoscribe.engine.backends import GPU_BACKENDS
from tomoscribe.engine.backends.gpu_backend import GpuBackend
from tomoscribe.engine.cuda import CudaError, DeviceMemoryError


class TinyOnGpu(GpuBackend):
    """Computes what the network of the tiny bundle does, in the simulator's memory."""

    name = "onnxruntime-cuda"
    _title_and_version = "Formula 1.0"

    def __init__(self, bundle, simulator, device, precision, streams):
        self.simulator = simulator
        super().__init__(bundle, device, precision, streams)

    def _open(self, shape, lanes):
        self.shape = shape

    def _enqueue(self, lane, count):
        shape = self.shape
        inputs, tile = (shape.batch + 2 * shape.context,), (shape.height, shape.width)

        def at(name, dtype, size):
            values = self.simulator.view(lane.addresses[name], np.prod(size) * np.dtype(dtype).itemsize)
            return values.view(dtype).reshape(size)

        def compute():
            mean, rstd = (at(name, np.float32, inputs)[:, None, None] for name in ("mean", "rstd"))
            normalised = (at("slices", np.float32, (*inputs, *tile)) - mean) * rstd
            total = normalised[:-2] + normalised[1:-1] + normalised[2:]
            labels = np.where(total < np.float32(-1.5), 1, np.where(total > np.float32(1.5), 2, 0))
            at("labels", np.uint8, (shape.batch, *tile))[:] = labels
            scores = at("scores", np.uint8, (shape.batch, shape.classes, *tile))
            scores[:] = np.where(labels[:, None] == np.arange(shape.classes)[:, None, None], 201, 27)

        self.simulator.work(lane.stream.handle, compute, lane.addresses.values())

    def _release(self):
        pass


@pytest.fixture
def built(driver, simulator, monkeypatch):
    """What is built on the simulator's two GPUs, where there is no TensorRT."""
    built = []

    def build(bundle, *, precision, streams, device, building):
        built.append(TinyOnGpu(bundle, simulator, device, precision, streams))
        return built[-1]

    def no_tensorrt(bundle, **how):
        raise BackendUnavailableError("tensorrt: it cannot be imported")

    monkeypatch.setattr("tomoscribe.engine.backends.gpu_choice.newest_cuda", lambda: "13.0")
    monkeypatch.setitem(GPU_BACKENDS, "tensorrt", no_tensorrt)
    monkeypatch.setitem(GPU_BACKENDS, "onnxruntime-cuda", build)
    simulator.capacity = 2**24
    return built


@pytest.fixture
def tomogram(tmp_path, volumes):
    values = volumes.values().astype(np.int16)
    path = tmp_path / "a.mrc"
    with mrcfile.new(path) as file:
        file.set_data(values)
        file.set_volume()
        file.voxel_size = 10.0
    return path, volumes.expected_labels(values.astype(np.float32))


def check(result, expected, volumes):
    np.testing.assert_array_equal(volumes.read(result.labels), expected)
    for number, name in ((1, "dark matter"), (2, "light")):
        scores = np.where(expected == number, 201, 27) >> 1
        np.testing.assert_array_equal(volumes.read(result.class_volumes[name]), scores)


def test_a_gpu_that_is_there_is_taken(built, simulator, tomogram, tiny_bundle, volumes, no_thread_is_left):
    path, expected = tomogram
    with Segmenter(tiny_bundle) as segmenter:
        assert segmenter.backend == "Formula 1.0 on GPU 0, Simulated A, FP32"
        assert segmenter.reason.startswith("onnxruntime-cuda fp32, the first that can run on GPU 0; tiny has no fp16")
        assert segmenter.reason.endswith("; tensorrt: it cannot be imported")
        check(segmenter.segment(path), expected, volumes)
        # Background's scores stay where they are, and slices are cast by the device.
        assert "cuLaunchKernel" in simulator.calls
    assert not simulator.device_memory
    assert not simulator.host_memory
    assert simulator.retained == 0


def test_two_gpus_share_a_tomogram(built, simulator, tomogram, tiny_bundle, volumes, no_thread_is_left):
    path, expected = tomogram
    with Segmenter(tiny_bundle, device="0,1") as segmenter:
        assert segmenter.backend == ("Formula 1.0 on GPU 0, Simulated A, FP32; Formula 1.0 on GPU 1, Simulated B, FP32")
        check(segmenter.segment(path), expected, volumes)
        assert [backend.shape.batch for backend in built] == [4, 4]
    assert not simulator.device_memory
    assert simulator.retained == 0


def test_memory_that_runs_out_takes_smaller_slots(built, simulator, tomogram, tiny_bundle, volumes):
    path, expected = tomogram
    # A slot of 7 slices and 2 of context needs 48 · 40 · (9 · 4 + 9 · 2 + 7 · 4) bytes.
    simulator.capacity = 100_000
    with Segmenter(tiny_bundle) as segmenter:
        result = segmenter.segment(path)
        check(result, expected, volumes)
        assert built[0].shape.batch < 7
    assert len(result.warnings) >= 1
    assert all("the memory of the device does not suffice for" in warning for warning in result.warnings)


def test_memory_that_is_too_little_for_anything_fails_cleanly(built, simulator, tomogram, tiny_bundle, tmp_path):
    path, _ = tomogram
    simulator.capacity = 1000
    with Segmenter(tiny_bundle) as segmenter, pytest.raises(DeviceMemoryError, match="cuMemAlloc"):
        segmenter.segment(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.mrc"]
    assert not simulator.device_memory


@pytest.mark.parametrize("device", ["0", "0,1"])
@pytest.mark.parametrize("call", ["cuEventSynchronize", "cuMemcpyHtoDAsync", "cuEventRecord"])
def test_a_gpu_that_vanishes_in_mid_volume_fails_the_tomogram(
    built, simulator, tomogram, tiny_bundle, tmp_path, volumes, device, call, no_thread_is_left
):
    path, expected = tomogram
    with Segmenter(tiny_bundle, device=device) as segmenter:
        written = []

        def vanish(count):
            written.append(count)
            simulator.failing[call] = "CUDA_ERROR_LAUNCH_FAILED"

        # So little that there are far more tiles than slots: some are still to be submitted.
        simulator.capacity = 100_000
        with pytest.raises(CudaError, match=f"{call}.*LAUNCH_FAILED"):
            segmenter.segment(path, progress=vanish)
        assert 0 < sum(written) < 7
        assert [entry.name for entry in tmp_path.iterdir()] == ["a.mrc"]
        simulator.failing.clear()
        check(segmenter.segment(path), expected, volumes)

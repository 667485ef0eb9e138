"""The time to the first slice and the speed of a volume, through a real segmenter."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from tomoscribe.engine import Bundle, ParameterError, Segmenter, open_tomogram
from tomoscribe.engine.latency.volume import VolumeTimes, measure_volume


@pytest.fixture
def watched(monkeypatch):
    """Every call of `Segmenter.segment`: the tomogram as it was, and how many slices were labelled."""
    calls = []
    real = Segmenter.segment

    def segment(self, path, output, *, progress=None, **options):
        with open_tomogram(path) as tomogram:
            values = np.empty(tomogram.shape, np.float32)
            tomogram.read_slices(0, values)
            call = {"geometry": tomogram.geometry, "values": values, "labelled": 0, "ended": False}
        calls.append(call)

        def count(number):
            call["labelled"] += number
            if progress is not None:
                progress(number)

        result = real(self, path, output, progress=count, **options)
        call.update(ended=True, rescaling=result.rescaling, labels=result.labels.exists())
        return result

    monkeypatch.setattr(Segmenter, "segment", segment)
    return calls


# 2^18 pixels: one slice to a slot.
SHAPE = (3, 512, 512)


def test_the_first_slice_and_the_whole_volume_are_measured(tiny_bundle, tmp_path, watched, no_thread_is_left):
    begin = time.perf_counter()
    found = measure_volume(Bundle.load(tiny_bundle), "onnxruntime", "fp32", SHAPE, tmp_path)
    taken = time.perf_counter() - begin
    assert [call["ended"] for call in watched] == [False] * 6 + [True] * 5
    assert all(call["labelled"] == 1 for call in watched[:6])
    assert all(call["labelled"] == 3 and call["labels"] for call in watched[6:])
    assert len(found.first_slice) == len(found.whole) == 5
    assert 0 < sum(found.first_slice) + sum(found.whole) < taken
    assert list(tmp_path.iterdir()) == []


def test_the_tomogram_is_noise_of_a_voxel_size_that_the_model_knows(tiny_bundle, tmp_path, watched):
    measure_volume(Bundle.load(tiny_bundle), "onnxruntime", "fp32", SHAPE, tmp_path)
    assert watched[0]["geometry"].shape == SHAPE
    assert watched[-1]["rescaling"] is None
    values = watched[0]["values"]
    assert values.std() == pytest.approx(20, rel=0.02)
    assert abs(np.corrcoef(values[0].ravel(), values[1].ravel())[0, 1]) < 0.02


def test_figures_are_medians():
    found = VolumeTimes("openvino", "int8", "cpu", (10, 100, 1000), "", (0.2, 0.1, 0.4), (2.0, 1.0, 4.0))
    assert found.figures()["first_slice_ms"].value == 200
    assert found.figures()["mvoxels_per_second"].value == 0.5
    assert found.configuration() == {
        "backend": "openvino",
        "precision": "int8",
        "device": "cpu",
        "tile": [100, 1000],
        "slices": 10,
    }


def test_an_empty_volume_is_refused(tiny_bundle):
    with pytest.raises(ParameterError, match="at least one slice"):
        measure_volume(Bundle.load(tiny_bundle), "onnxruntime", "fp32", (0, 8, 8), Path())


def test_it_is_segmented_where_it_is_told_to(tiny_bundle, tmp_path):
    with pytest.raises(ParameterError, match="device '0': expected cpu or auto, for onnxruntime runs on the CPU"):
        measure_volume(Bundle.load(tiny_bundle), "onnxruntime", "fp32", (2, 8, 8), tmp_path, device="0")


def test_what_interrupts_it_leaves_nothing(tiny_bundle, tmp_path, monkeypatch, no_thread_is_left):
    def interrupt(*_arguments, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(Segmenter, "segment", interrupt)
    with pytest.raises(KeyboardInterrupt):
        measure_volume(Bundle.load(tiny_bundle), "onnxruntime", "fp32", (2, 8, 8), tmp_path)
    assert list(tmp_path.iterdir()) == []

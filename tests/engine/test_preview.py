from __future__ import annotations

import json

import numpy as np
import pytest

from tomoscribe.engine import OutputError, ParameterError, Segmenter, open_tomogram, segment

# The tiny bundle's voxels are of 10 Å; the others have slices resampled.
VOXEL_SIZES = [10.0, 17.0]


@pytest.fixture
def tomogram(tmp_path, volumes):
    return volumes.write(tmp_path / "position_1.mrc", volumes.values())


@pytest.mark.parametrize("voxel_size", VOXEL_SIZES)
@pytest.mark.parametrize("options", [{}, {"invert": True}, {"classes": ["light"]}, {"rescale": False}])
def test_a_preview_is_a_slice_of_the_labels_to_come(tomogram, tiny_bundle, tmp_path, volumes, voxel_size, options):
    with (
        Segmenter(tiny_bundle, backend="onnxruntime") as segmenter,
        open_tomogram(tomogram, voxel_size=voxel_size) as opened,
    ):
        previews = [segmenter.preview(opened, z, **options) for z in (None, 0, 3, 6)]
        assert [path.name for path in tmp_path.iterdir()] == ["position_1.mrc"]
        result = segmenter.segment(opened, **options)
    assert [preview.z for preview in previews] == [3, 0, 3, 6]
    labels = volumes.read(result.labels)
    assert len(np.unique(labels)) > 1
    intensity = json.loads(result.sidecar.read_text())["intensity"]
    for preview in previews:
        np.testing.assert_array_equal(preview.labels, labels[preview.z])
        np.testing.assert_array_equal(preview.image, volumes.values()[preview.z])
        assert {"mean": preview.mean, "standard_deviation": preview.standard_deviation} == intensity


def test_a_backend_is_ready_for_the_volume_after_a_preview(tomogram, tiny_bundle, monkeypatch):
    opened_for = []
    with Segmenter(tiny_bundle, backend="onnxruntime") as segmenter, open_tomogram(tomogram) as opened:
        open_slots = segmenter._backend._open
        monkeypatch.setattr(segmenter._backend, "_open", lambda *wanted: opened_for.append(open_slots(*wanted)))
        segmenter.preview(opened)
        segmenter.segment(opened)
    assert len(opened_for) == 1


@pytest.mark.parametrize("z", [-1, 7])
def test_a_preview_of_no_slice_is_refused(tomogram, tiny_bundle, z):
    with (
        Segmenter(tiny_bundle, backend="onnxruntime") as segmenter,
        open_tomogram(tomogram) as opened,
        pytest.raises(ParameterError, match="z range within 0:7"),
    ):
        segmenter.preview(opened, z)


class Listener:
    """A sink that keeps what it is given, and does as it is told when it is prepared and committed."""

    def __init__(self, prepare=lambda: None, commit=lambda: None):
        self.labels = {}
        self.aborted = False
        self.prepare, self.commit = prepare, commit

    def write(self, start, labels, scores):
        self.labels.update({start + index: image.copy() for index, image in enumerate(labels)})

    def abort(self):
        self.aborted = True


@pytest.mark.parametrize("voxel_size", VOXEL_SIZES)
def test_further_sinks_get_what_the_outputs_get_and_are_committed_before_them(
    tomogram, tiny_bundle, tmp_path, volumes, voxel_size
):
    seen = []
    listener = Listener(commit=lambda: seen.extend(path.name for path in tmp_path.glob("[!.]*__*")))
    with open_tomogram(tomogram, voxel_size=voxel_size) as opened, Segmenter(tiny_bundle) as segmenter:
        result = segmenter.segment(opened, sinks=[listener])
    labels = volumes.read(result.labels)
    assert sorted(listener.labels) == list(range(len(labels)))
    for z, image in listener.labels.items():
        np.testing.assert_array_equal(image, labels[z])
    assert seen == []
    assert not listener.aborted


@pytest.mark.parametrize("error", [OutputError("no space"), KeyError("of its own")])
@pytest.mark.parametrize("stage", ["write", "prepare"])
def test_what_a_further_sink_raises_comes_through_and_leaves_nothing(tomogram, tiny_bundle, tmp_path, error, stage):
    def fail(*arguments):
        raise error

    listener = Listener()
    setattr(listener, stage, fail)
    with Segmenter(tiny_bundle) as segmenter, pytest.raises(type(error)):
        segmenter.segment(tomogram, sinks=[listener])
    assert listener.aborted
    assert [path.name for path in tmp_path.iterdir()] == ["position_1.mrc"]


def test_the_sidecar_says_which_content_was_labelled(tomogram, tiny_bundle):
    status = tomogram.stat()
    result = segment(tomogram, model=tiny_bundle)
    source = json.loads(result.sidecar.read_text())["source"]
    assert source == {"size": status.st_size, "modified": status.st_mtime_ns}

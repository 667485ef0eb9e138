"""Rescaling through `segment`: what the model sees, what is said, and outputs in the tomogram's own shape."""

from __future__ import annotations

import errno
import json
import math
import os

import mrcfile
import numpy as np
import pytest
from PIL import Image

from tomoscribe.engine import IntensityError, OutputError, ParameterError, segment
from tomoscribe.engine.backends import SlotLimits

SHAPE = (7, 45, 38)


def resized(images, shape):
    """Images ``(n, y, x)`` as Pillow resamples each of them."""
    filtered = [Image.fromarray(i.astype(np.float32)).resize(shape[::-1], Image.Resampling.BILINEAR) for i in images]
    return np.stack(filtered)


RESCALED = [(4.0, (16, 13)), (24.0, (68, 57))]


@pytest.mark.parametrize("largest", [16, 1024])
@pytest.mark.parametrize(("voxel_size", "seen"), RESCALED)
def test_the_model_sees_voxels_that_it_knows_and_labels_are_the_tomogram_s(
    tmp_path, tiny_bundle, monkeypatch, voxel_size, seen, largest, volumes
):
    monkeypatch.setattr("tomoscribe.engine.backends.cpu_backend.CPU_LIMITS", SlotLimits(largest**2, 2**18))
    values = volumes.values()
    path = volumes.write(tmp_path / "a.mrc", values, voxel_size)
    result = segment(path, model=tiny_bundle)

    labels = volumes.expected_labels(resized(values, seen))
    assert set(np.unique(labels)) == {0, 1, 2}
    scores = np.stack([resized(np.where(labels == number, 201, 27), SHAPE[1:]) for number in range(3)])
    ordered = np.sort(scores, axis=0)
    decided = ordered[2] - ordered[1] > 0.2
    assert decided.mean() > 0.9
    np.testing.assert_array_equal(volumes.read(result.labels)[decided], scores.argmax(axis=0)[decided])
    for number, name in ((1, "dark matter"), (2, "light")):
        np.testing.assert_allclose(volumes.read(result.class_volumes[name]), scores[number] / 2, atol=1.1)
        assert result.counts[name] == np.count_nonzero(volumes.read(result.labels) == number)
    assert result.voxels == math.prod(SHAPE)
    assert result.geometry.shape == SHAPE
    for output in (result.labels, *result.class_volumes.values()):
        assert mrcfile.validate(output)
        with mrcfile.open(output) as file, mrcfile.open(path) as source:
            assert file.data.shape == SHAPE
            for key in ("origin", "nxstart", "nystart", "nzstart", "mapc", "cella", "mx"):
                assert file.header[key] == source.header[key]


@pytest.mark.parametrize(("voxel_size", "seen"), RESCALED)
def test_what_the_model_saw_is_said_and_written_down(tmp_path, tiny_bundle, voxel_size, seen, volumes):
    path = volumes.write(tmp_path / "a.mrc", volumes.values(), voxel_size)
    said = []
    result = segment(path, model=tiny_bundle, warn=said.append)
    facts = json.loads(result.sidecar.read_text())
    scale = (seen[1] / SHAPE[2], seen[0] / SHAPE[1])
    expected = {
        "shape_yx": list(seen),
        "voxel_size_xy": [pytest.approx(voxel_size / s, rel=1e-6) for s in scale],
        "scale_xy": [pytest.approx(s) for s in scale],
    }
    assert facts["rescaling"] == result.to_json()["rescaling"] == expected
    assert facts["voxel_size_xyz"] == pytest.approx([voxel_size] * 3)
    assert facts["shape_zyx"] == list(SHAPE)
    (line,) = said
    assert f"voxels of {voxel_size:.2f} Å" in line
    assert "8.0 to 16.0 Å" in line
    assert f"{seen[1]} × {seen[0]} pixels" in line
    assert facts["warnings"] == list(result.warnings) == said


@pytest.mark.parametrize(("voxel_size", "seen"), RESCALED)
def test_a_z_range_and_classes_hold_for_rescaled_slices_too(tmp_path, tiny_bundle, voxel_size, seen, volumes):
    path = volumes.write(tmp_path / "a.mrc", volumes.values(), voxel_size)
    volumes.damage(path, 0, np.nan)
    with pytest.raises(IntensityError, match="z = 0"):
        segment(path, model=tiny_bundle)
    assert list(tmp_path.iterdir()) == [path]
    result = segment(path, model=tiny_bundle, z_range=(1, 6), classes=["light"])
    whole = segment(
        volumes.write(tmp_path / "b.mrc", volumes.values()[1:], voxel_size), model=tiny_bundle, z_range=(0, 5)
    )
    labels = volumes.read(result.labels)
    assert labels.shape == SHAPE
    assert not labels[[0, 6]].any()
    expected = volumes.read(whole.labels)[:5]
    np.testing.assert_array_equal(labels[1:6], np.where(expected == 2, 2, 0))
    assert list(result.class_volumes) == ["light"]
    assert result.voxels == 5 * SHAPE[1] * SHAPE[2]


def test_voxels_too_far_from_those_of_the_model_are_refused_before_anything_is_written(tmp_path, tiny_bundle, volumes):
    path = volumes.write(tmp_path / "a.mrc", volumes.values(), 300.0)
    with pytest.raises(ParameterError, match=r"a\.mrc: .* enlarged .* --no-rescale"):
        segment(path, tmp_path / "out", model=tiny_bundle)
    assert list(tmp_path.iterdir()) == [path]


def test_contrast_is_judged_on_what_the_model_sees(tmp_path, tiny_bundle, volumes):
    values = np.random.default_rng(0).normal(0, 0.1, (4, 48, 48)).astype(np.float32)
    small = np.arange(48) % 12 < 2
    values[:, np.outer(small, small)] += 20
    path = volumes.write(tmp_path / "a.mrc", values, 24.0)
    # Slices of less than 64 pixels are too small to tell, and these are enlarged to 72.
    assert any("bright on dark" in warning for warning in segment(path, model=tiny_bundle).warnings)
    plain = segment(path, model=tiny_bundle, rescale=False, overwrite=True)
    assert not any("bright on dark" in warning for warning in plain.warnings)


@pytest.mark.parametrize("full_at", range(4))
def test_a_disk_that_is_full_leaves_what_was_there_of_rescaled_outputs_too(
    tmp_path, tiny_bundle, monkeypatch, full_at, volumes
):
    path = volumes.write(tmp_path / "a.mrc", volumes.values(), 24.0)
    fsync, calls = os.fsync, []

    def fill_up(file):
        calls.append(file)
        if len(calls) == full_at + 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(file)

    monkeypatch.setattr(os, "fsync", fill_up)
    with pytest.raises(OutputError, match="No space left on device"):
        segment(path, model=tiny_bundle)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("voxel_size", "said"), [(4.0, True), (7.7, False), (16.5, False), (24.0, True), (300.0, True), (1.0, False)]
)
def test_slices_are_taken_as_they_are_where_told_to_or_all_is_well(tmp_path, tiny_bundle, voxel_size, said, volumes):
    path = volumes.write(tmp_path / "a.mrc", volumes.values(), voxel_size)
    result = segment(path, model=tiny_bundle, rescale=not said)
    np.testing.assert_array_equal(volumes.read(result.labels), volumes.expected_labels(volumes.values()))
    assert result.rescaling is None
    assert result.to_json()["rescaling"] is None
    assert json.loads(result.sidecar.read_text())["rescaling"] is None
    assert any("expect worse labels" in warning for warning in result.warnings) is said

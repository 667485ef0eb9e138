from __future__ import annotations

import mrcfile
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import label

from tomoscribe.engine import ParameterError, TomogramFormatError, TomogramNotFoundError
from tomoscribe.train.dataset.annotations import open_feature_maps
from tomoscribe.train.dataset.contract import IGNORE, DatasetError

SHAPE = (6, 5, 7)


@pytest.fixture
def scores(write):
    """Write a map of random scores for a feature; a quarter of the voxels reach one half of the scale."""

    def write_map(name, dtype="float32", scale=1.0, seed=0):
        values = np.random.default_rng(seed).random(SHAPE) ** 2 * scale
        return write(values.astype(dtype), f"a__{name}.mrc")

    return write_map


def volume_of(path):
    with mrcfile.open(path) as file:
        return file.data.copy()


@pytest.mark.parametrize(
    ("dtype", "scale", "threshold"),
    [("float32", 1.0, 0.5), ("float16", 1.0, 0.5), ("int8", 127, 64), ("uint8", 255, 128)],
)
def test_default_thresholds(scores, read, class_map, dtype, scale, threshold):
    path = scores("Ribosome", dtype, scale)
    with open_feature_maps({"ribosome": path}, class_map) as annotation:
        out = read(annotation)
        assert annotation.warnings == ()
        assert annotation.shape == SHAPE
        assert annotation.paths == (path,)
    expected = volume_of(path) >= threshold
    assert np.array_equal(out, expected * 2)
    assert 0 < expected.mean() < 0.5


@pytest.mark.parametrize("dtype", ["int8", "float32"])
@pytest.mark.parametrize("threshold", [3, 2.5, 3.5])
def test_a_value_at_the_threshold_counts(write, read, class_map, dtype, threshold):
    path = write(np.arange(8, dtype=dtype).reshape(1, 1, 8))
    with open_feature_maps({"ribosome": path}, class_map, threshold={"Ribosome": threshold}) as annotation:
        assert read(annotation).ravel().tolist() == [2 * (value >= threshold) for value in range(8)]


def test_overlaps(scores, read, class_map):
    paths = {"ribosome": scores("R", seed=1), "Microtubule": scores("M", seed=2), "DoubleMembrane": scores("D", seed=3)}
    ribosome, microtubule, membrane = (volume_of(path) >= 0.5 for path in paths.values())
    assert (ribosome & microtubule & membrane).any()
    for priority, expected in (
        ((), np.select([microtubule, ribosome, membrane], [1, 2, 3])),
        (["double membrane"], np.select([membrane, microtubule, ribosome], [3, 1, 2])),
        (["ribosome", "double_membrane"], np.select([ribosome, membrane, microtubule], [2, 3, 1])),
    ):
        with open_feature_maps(paths, class_map, priority=priority) as annotation:
            assert np.array_equal(read(annotation), expected)
    assert set(annotation.paths) == set(paths.values())


def test_voxels_that_no_feature_has_may_be_ignored(scores, read, class_map):
    path = scores("R")
    with open_feature_maps({"ribosome": path}, class_map, rest_ignored=True) as annotation:
        assert np.array_equal(read(annotation), np.where(volume_of(path) >= 0.5, 2, IGNORE))


@settings(max_examples=30)
@given(seed=st.integers(0, 1000), smallest=st.floats(0, 12), run=st.integers(1, 6))
def test_small_components_are_dropped(tmp_path_factory, class_map, seed, smallest, run):
    mask = np.random.default_rng(seed).random((6, 8, 9)) < 0.12
    path = tmp_path_factory.mktemp("maps") / "a__R.mrc"
    with mrcfile.new(path) as file:
        file.set_data(mask.astype(np.float32))
        file.voxel_size = (8.0, 10.0, 12.5)  # 1 nm³
    numbers, _ = label(mask, np.ones((3, 3, 3)))
    expected = mask & (np.bincount(numbers.ravel())[numbers] >= smallest)
    with open_feature_maps({"ribosome": path}, class_map, smallest={"ribosome": smallest}) as annotation:
        out = np.empty(mask.shape, np.uint8)
        for start in range(0, 6, run):
            annotation.read(start, out[start : start + run])
    assert np.array_equal(out, expected * 2)
    assert len(annotation.warnings) == (mask.any() and not expected.any())


def test_sizes_in_nm3(write, read, class_map):
    mask = np.zeros((4, 6, 6), np.float32)
    mask[:2, :2, :2] = 1  # 8 voxels
    path = write(mask, voxel_size=20.0)  # 8 nm³ each
    for smallest, voxel_size, expected in ((64, None, 8), (64.1, None, 0), (8, 10.0, 8), (8.1, 10.0, 0)):
        with open_feature_maps({"ribosome": path}, class_map, smallest=smallest, voxel_size=voxel_size) as annotation:
            assert np.count_nonzero(read(annotation)) == expected
    placeholder = write(mask, "placeholder.mrc", voxel_size=1.0)
    with pytest.raises(ParameterError, match="voxel size"):
        open_feature_maps({"ribosome": placeholder}, class_map, smallest=1)
    with open_feature_maps({"ribosome": placeholder}, class_map, smallest=64, fallback_voxel_size=20.0) as annotation:
        assert np.count_nonzero(read(annotation)) == 8
        assert annotation.voxel_size == (0.0, 0.0, 0.0)
    with open_feature_maps({"ribosome": path}, class_map, smallest=64, fallback_voxel_size=5.0) as annotation:
        assert np.count_nonzero(read(annotation)) == 8


def test_components_are_measured_before_features_overlap(write, read, class_map):
    rod = np.zeros((1, 3, 9), np.float32)
    rod[0, 1] = 1
    across = np.zeros_like(rod)
    across[0, :, 4] = 1
    paths = {"ribosome": write(rod, "a__R.mrc"), "microtubule": write(across, "a__M.mrc")}
    with open_feature_maps(paths, class_map, smallest={"ribosome": 9, "microtubule": 3}) as annotation:
        out = read(annotation)
    # Of the ribosome's nine voxels, the microtubule leaves two times four.
    assert out[0, 1].tolist() == [2, 2, 2, 2, 1, 2, 2, 2, 2]


@pytest.mark.parametrize("dtype", ["int8", "uint8", "uint16"])
def test_a_mask_of_0_and_1_needs_a_threshold(write, read, class_map, dtype):
    mask = np.zeros(SHAPE, dtype)
    mask[2, 2, 2] = 1
    path = write(mask)
    with open_feature_maps({"ribosome": path}, class_map) as annotation, pytest.raises(DatasetError) as caught:
        read(annotation)
    assert f"{path}: " in str(caught.value)
    assert "`threshold: 1`" in str(caught.value)
    with open_feature_maps({"ribosome": path}, class_map, threshold=1) as annotation:
        assert np.array_equal(read(annotation), mask * 2)
        assert annotation.warnings == ()
    with open_feature_maps({"ribosome": path}, class_map, threshold=64) as annotation:
        assert not read(annotation).any()
        assert "the highest value is 1 and the threshold 64" in annotation.warnings[0]


@pytest.mark.parametrize(
    ("dtype", "highest", "pattern"),
    [
        ("int8", 63, "highest value is 63 and the threshold 64"),
        ("float32", 0.49, "highest value is 0.49 and the threshold 0.5"),
        ("float32", -3.0, "highest value is -3 and the threshold 0.5"),
        ("float32", 255.0, "go up to 255, not 1"),
        ("uint16", 4000, "go up to 4000, not 255"),
        ("float32", 0.0, None),
        ("float32", 1.0, None),
        ("int8", 64, None),
    ],
)
@pytest.mark.parametrize("smallest", [0, 1e-9, 2])
def test_what_is_odd_about_a_scale_is_told(write, read, class_map, dtype, highest, pattern, smallest):
    values = np.full(SHAPE, min(0, highest), dtype)
    values[3, 2, 2:5] = highest
    path = write(values)
    with open_feature_maps({"ribosome": path}, class_map, smallest=smallest) as annotation:
        read(annotation)
    assert len(annotation.warnings) == (pattern is not None)
    for line in annotation.warnings:
        assert line.startswith(f"{path}: ")
        assert pattern in line


def test_nan(write, read, class_map):
    values = np.zeros(SHAPE, np.float32)
    values[4, 0, 0] = np.nan
    path = write(values)
    with (
        open_feature_maps({"ribosome": path}, class_map) as annotation,
        pytest.raises(DatasetError, match="z = 4") as e,
    ):
        read(annotation)
    assert str(e.value).startswith(f"{path}: ")


def test_bad_arguments(write, scores, tmp_path, class_map, many_classes):
    path = scores("R")
    other = write(np.zeros((2, 5, 7), np.float32), "a__M.mrc")
    for error, pattern, arguments in (
        (ParameterError, "found none", ({}, class_map)),
        (ParameterError, "actin", ({"actin": path}, class_map)),
        (
            ParameterError,
            "found .*a__M.mrc too|found .*a__R.mrc too",
            ({"ribosome": path, "Ribosome": other}, class_map),
        ),
        (ParameterError, "254 classes", ({"class 1": path}, many_classes)),
        (DatasetError, "a__R.mrc.*a__M.mrc|a__M.mrc.*a__R.mrc", ({"ribosome": path, "microtubule": other}, class_map)),
        (TomogramNotFoundError, "missing", ({"ribosome": tmp_path / "missing.mrc"}, class_map)),
    ):
        with pytest.raises(error, match=pattern):
            open_feature_maps(*arguments)
    for options in ({"threshold": {"actin": 1}}, {"smallest": {"actin": 1}}, {"priority": ["actin"]}):
        with pytest.raises(ParameterError, match="actin"):
            open_feature_maps({"ribosome": path}, class_map, **options)
    with pytest.raises(ParameterError, match="threshold: expected a number for ribosome, found nan"):
        open_feature_maps({"ribosome": path}, class_map, threshold={"ribosome": float("nan")})
    with pytest.raises(ParameterError, match="int16, which has no usual threshold"):
        open_feature_maps({"ribosome": write(np.zeros(SHAPE, np.int16))}, class_map)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(TomogramFormatError, match="truncated"):
        open_feature_maps({"ribosome": path}, class_map)


def test_files_are_closed_whatever_fails(scores, write, class_map, monkeypatch):
    from tomoscribe.engine.tomogram.mrc import MrcTomogram

    closed = []
    close = MrcTomogram.close
    monkeypatch.setattr(MrcTomogram, "close", lambda self: (closed.append(self.path), close(self)))
    good, other = scores("R"), write(np.zeros((2, 5, 7), np.float32), "a__M.mrc")
    with pytest.raises(DatasetError):
        open_feature_maps({"ribosome": good, "microtubule": other}, class_map)
    assert sorted(closed) == sorted([good, other])
    closed.clear()
    with open_feature_maps({"ribosome": good}, class_map):
        assert not closed
    assert closed == [good]

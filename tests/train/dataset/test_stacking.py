from __future__ import annotations

import json

import mrcfile
import numpy as np
import pytest

from tomoscribe.engine import (
    OutputError,
    OutputExistsError,
    ParameterError,
    TomogramFormatError,
    TomogramNotFoundError,
    open_tomogram,
)
from tomoscribe.train.dataset.contract import DatasetError
from tomoscribe.train.dataset.stacking import merge, split_labels, table_path


@pytest.fixture
def write(tmp_path):
    def write_volume(name, shape, dtype="float32", voxel_size=10.0, origin=(0.0, 0.0, 0.0)):
        generator = np.random.default_rng(sum(name.encode()))
        values = (generator.normal(50, 10, shape)).astype(dtype)
        path = tmp_path / name
        with mrcfile.new(path) as file:
            file.set_data(values)
            file.voxel_size = voxel_size
            file.header.origin = origin
        return path

    return write_volume


def volume_of(path):
    with mrcfile.open(path) as file:
        return file.data.copy()


def test_merge_pads_and_split_cuts_back(write, tmp_path):
    a = write("a.mrc", (3, 8, 10), origin=(-40.0, 0.0, 12.0))
    b = write("b.mrc", (2, 6, 12), voxel_size=10.3)
    c = write("c.rec", (4, 8, 12), voxel_size=0.0)
    output = tmp_path / "merged" / "all.mrc"
    done = []
    table = merge([a, b, c], output, slice_done=lambda *counts: done.append(counts))
    assert table == table_path(output) == tmp_path / "merged" / "all.json"
    assert done == [(n, 9) for n in range(1, 10)]
    assert mrcfile.validate(output)

    merged = volume_of(output)
    assert merged.shape == (9, 8, 12)
    assert merged.dtype == np.float32
    for path, start, shape in ((a, 0, (3, 8, 10)), (b, 3, (2, 6, 12)), (c, 5, (4, 8, 12))):
        assert np.array_equal(merged[start : start + shape[0], : shape[1], : shape[2]], volume_of(path))
    assert np.ptp(merged[:3, :, 10:]) == 0
    assert merged[0, 0, 11] == pytest.approx(volume_of(a).mean(), abs=1)
    assert merged[3, 7, 0] == pytest.approx(volume_of(b).mean(), abs=1)
    with mrcfile.open(output) as file:
        assert file.voxel_size.x == pytest.approx(10.0)
        assert file.header.dmean == pytest.approx(merged.mean(), rel=1e-5)
        assert file.header.rms == pytest.approx(merged.std(), rel=1e-4)

    labels = tmp_path / "all__labels.mrc"
    with mrcfile.new(labels) as file:
        file.set_data(np.random.default_rng(0).integers(0, 6, merged.shape).astype(np.int8))
    folder = tmp_path / "labels"
    paths = split_labels(labels, table, folder)
    assert paths == [folder / f"{name}__labels.mrc" for name in "abc"]
    for path, tomogram, start in zip(paths, (a, b, c), (0, 3, 5), strict=True):
        with open_tomogram(path) as part, open_tomogram(tomogram) as whole:
            assert part.geometry == whole.geometry
            depth, height, width = whole.shape
        assert volume_of(path).dtype == np.int8
        assert np.array_equal(volume_of(path), volume_of(labels)[start : start + depth, :height, :width])
    assert sorted(path.name for path in folder.iterdir()) == [path.name for path in paths]


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        (("int8", "int8"), "int8"),
        (("int16", "int16"), "int16"),
        (("float16", "float16"), "float16"),
        (("uint16", "uint16"), "uint16"),
        (("int8", "int16"), "float32"),
        (("float32", "int16"), "float32"),
    ],
)
def test_types(write, tmp_path, dtypes, expected):
    paths = [write(f"{index}.mrc", (2, 4, 4 + index), dtype) for index, dtype in enumerate(dtypes)]
    output = tmp_path / "all.mrc"
    merge(paths, output)
    merged = volume_of(output)
    assert merged.dtype == expected
    assert np.array_equal(merged[2:], volume_of(paths[1]))


@pytest.mark.parametrize(
    ("name", "dtype", "results"),
    [
        ("all__Ribosome.mrc", "float32", "Ribosome"),
        ("all__x__Ribosome.mrc", "int16", "Ribosome"),
        ("painted.mrc", "uint16", "labels"),
    ],
)
def test_names_and_types_of_what_is_split(write, tmp_path, name, dtype, results):
    table = merge([write("a.mrc", (2, 4, 4)), write("b.mrc", (2, 4, 4))], tmp_path / "all.mrc")
    paths = split_labels(write(name, (4, 4, 4), dtype), table, tmp_path)
    assert [path.name for path in paths] == [f"a__{results}.mrc", f"b__{results}.mrc"]
    assert volume_of(paths[0]).dtype == dtype


def test_unsigned_bytes_keep_their_values(write, tmp_path):
    table = merge([write("a.mrc", (1, 4, 4)), write("b.mrc", (1, 4, 4))], tmp_path / "all.mrc")
    labels = write("all__labels.mrc", (2, 4, 4), "int8")
    with mrcfile.open(labels, "r+") as file:
        file.data[0, 0, 0] = -1
        file.header.dmin, file.header.dmax = 0, 255  # what says that the bytes are unsigned
    assert volume_of(split_labels(labels, table, tmp_path)[0])[0, 0, 0] == 255


def test_what_cannot_be_merged(write, tmp_path):
    a, output = write("a.mrc", (2, 4, 4)), tmp_path / "all.mrc"
    b = write("b.mrc", (2, 4, 4), voxel_size=10.6)
    (tmp_path / "other").mkdir()
    same = write("other/a.mrc", (2, 4, 4))
    for error, pattern, tomograms, target in (
        (ParameterError, "two tomograms or more", [a], output),
        (ParameterError, "same names", [a, same], output),
        (ParameterError, "ends in .mrc", [a, same], tmp_path / "all.rec"),
        (ParameterError, "is one of the tomograms", [a, b], a),
        (DatasetError, "b.mrc: expected the voxel size of .*a.mrc", [a, b], output),
        (TomogramNotFoundError, "missing", [a, tmp_path / "missing.mrc"], output),
        (OutputError, "cannot be made", [a, same.rename(tmp_path / "c.mrc")], a / "all.mrc"),
    ):
        with pytest.raises(error, match=pattern):
            merge(tomograms, target, overwrite=True)
    assert not output.exists()


def test_what_is_there_is_not_replaced(write, tmp_path):
    tomograms = [write("a.mrc", (2, 4, 4)), write("b.mrc", (2, 4, 4))]
    output = tmp_path / "all.mrc"
    table = merge(tomograms, output)
    with pytest.raises(OutputExistsError, match=r"all.mrc: is there"):
        merge(tomograms, output)
    output.unlink()
    with pytest.raises(OutputExistsError, match=r"all.json: is there"):
        merge(tomograms, output)
    merge(tomograms, output, overwrite=True)
    labels = write("all__labels.mrc", (4, 4, 4), "int8")
    first = split_labels(labels, table, tmp_path)
    first[0].unlink()
    with pytest.raises(OutputExistsError, match=r"b__labels\.mrc"):
        split_labels(labels, table, tmp_path)
    assert not first[0].exists()
    assert split_labels(labels, table, tmp_path, overwrite=True) == first


def test_a_tomogram_that_ends_early_leaves_nothing(write, tmp_path, monkeypatch):
    from tomoscribe.engine.tomogram.mrc import MrcTomogram

    tomograms = [write("a.mrc", (2, 4, 4)), write("b.mrc", (2, 4, 4))]
    read = MrcTomogram.read_slices

    def fail(self, start, out):
        if self.path.name in ("b.mrc", "c__labels.mrc") and start >= 1:
            raise TomogramFormatError(f"{self.path}: truncated")
        read(self, start, out)

    output = tmp_path / "out" / "all.mrc"
    table = merge(tomograms, tmp_path / "good.mrc")
    monkeypatch.setattr(MrcTomogram, "read_slices", fail)
    with pytest.raises(TomogramFormatError):
        merge(tomograms, output)
    with pytest.raises(TomogramFormatError):
        split_labels(write("c__labels.mrc", (4, 4, 4), "int8"), table, output.parent)
    assert list(output.parent.iterdir()) == []


def test_other_labels_and_tables(write, tmp_path):
    table = merge([write("a.mrc", (2, 4, 4)), write("b.mrc", (2, 4, 4))], tmp_path / "all.mrc")
    with pytest.raises(DatasetError, match=r"expected the shape .*all.json.* \(4, 4, 4\)"):
        split_labels(write("x__labels.mrc", (3, 4, 4), "int8"), table, tmp_path)
    labels = write("all__labels.mrc", (4, 4, 4), "int8")
    other = tmp_path / "other.json"
    outside = table.read_text().replace('"name": "a"', '"name": "../a"')
    for content in ("not JSON", "[]", outside, json.dumps({**json.loads(table.read_text()), "more": 1})):
        other.write_text(content)
        with pytest.raises(ParameterError, match="found another file") as caught:
            split_labels(labels, other, tmp_path)
        assert "\n" not in str(caught.value)
    with pytest.raises(ParameterError, match="No such file"):
        split_labels(labels, tmp_path / "missing.json", tmp_path)

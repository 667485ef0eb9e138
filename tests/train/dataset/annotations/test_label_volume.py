from __future__ import annotations

import h5py
import numpy as np
import pytest

from tomoscribe.engine import ParameterError, TomogramFormatError, TomogramNotFoundError
from tomoscribe.train.dataset.annotations import open_label_volume
from tomoscribe.train.dataset.contract import IGNORE, DatasetError

SHAPE = (5, 4, 6)


@pytest.fixture
def labels():
    return np.random.default_rng(3).integers(0, 4, SHAPE).astype(np.int8)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "float32", "float16"])
def test_the_number_is_the_class(write, read, class_map, labels, dtype):
    path = write(labels.astype(dtype))
    with open_label_volume(path, class_map) as annotation:
        assert annotation.path == path
        assert annotation.paths == (path,)
        assert annotation.shape == SHAPE
        assert annotation.voxel_size == (10.0, 10.0, 10.0)
        assert annotation.warnings == ()
        assert np.array_equal(read(annotation), labels)


def test_values_of_another_program(write, read, class_map):
    values = np.zeros(SHAPE, np.int16)
    values[0, 0, :5] = [-3, 900, 4, 17, 0]
    means = {-3: "Ribosome", 900: "Double_Membrane", 4: "ignore", 17: "background"}
    with open_label_volume(write(values), class_map, values=means) as annotation:
        out = read(annotation)
    assert out[0, 0, :5].tolist() == [2, 3, IGNORE, 0, 0]
    assert not out[1:].any()


def test_a_value_that_is_not_annotated(write, read, class_map):
    values = np.zeros(SHAPE, np.uint16)
    values[1, 2, :3] = [1, 255, 2]
    with open_label_volume(write(values), class_map, ignore=255) as annotation:
        assert read(annotation)[1, 2, :3].tolist() == [1, IGNORE, 2]
    # Where only some voxels are annotated, 0 is none of them.
    with open_label_volume(write(values), class_map, values={1: "background", 255: "ribosome", 2: "ribosome"},
                           ignore=0) as annotation:  # fmt: skip
        out = read(annotation)
    assert out[1, 2, :3].tolist() == [0, 2, 2]
    assert out[0, 0, 0] == IGNORE


@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_unknown_values_are_all_told(write, read, class_map, dtype):
    values = np.zeros(SHAPE, dtype)
    values[3, 0] = [9, 8, 7, 6, 5, -4]
    values[2, 1, 1] = 8
    path = write(values)
    with open_label_volume(path, class_map) as annotation, pytest.raises(DatasetError) as caught:
        annotation.read(3, np.empty((1, 4, 6), np.uint8))
    message = str(caught.value)
    assert message.startswith(f"{path}: expected the label values 0, 1, 2, 3, found -4, 5, 6, 7, 8, … ")
    assert "slice z = 2, " in message
    assert "`values: {-4: NAME}`" in message
    assert "\n" not in message


@pytest.mark.parametrize(("dtype", "value"), [("float32", 1e9), ("uint16", 65535), ("int16", -32768)])
def test_values_beyond_the_table(write, read, class_map, dtype, value):
    values = np.zeros(SHAPE, dtype)
    values[0, 0, 0] = value
    path = write(values)
    with open_label_volume(path, class_map) as annotation, pytest.raises(DatasetError, match=r"found -?[1-9]"):
        read(annotation)
    if dtype != "float32":
        with open_label_volume(path, class_map, values={value: "ribosome"}) as annotation:
            assert read(annotation)[0, 0, 0] == 2


@pytest.mark.parametrize(("known", "value"), [(65535, 65536), (-32768, -32769)])
def test_values_beyond_the_table_are_not_taken_for_its_ends(write, read, class_map, known, value):
    path = write(np.full(SHAPE, value, np.float32))
    error = pytest.raises(DatasetError, match=f"found {value} ")
    with open_label_volume(path, class_map, values={known: "ribosome"}) as annotation, error:
        read(annotation)


@pytest.mark.parametrize("value", [0.5, 1.01, np.nan, np.inf])
def test_scores_are_no_labels(write, read, class_map, value):
    values = np.zeros(SHAPE, np.float32)
    values[4, 2, 2] = value
    path = write(values)
    with open_label_volume(path, class_map) as annotation, pytest.raises(DatasetError, match="`maps`") as caught:
        read(annotation)
    assert f"{path}: " in str(caught.value)
    assert "slice z = 4 " in str(caught.value)


def test_eman2_labels_with_fewer_bits(tmp_path, read, class_map, labels):
    path = tmp_path / "a.hdf"
    with h5py.File(path, "w") as file:
        group = file.create_group("MDF/images/0")
        group["image"] = np.round(labels / 3 * 255).astype(np.uint8)
        group.attrs.update({"EMAN.stored_renderbits": [8], "EMAN.stored_rendermin": [0.0]})
        group.attrs.update({"EMAN.stored_rendermax": [3.0], **{f"EMAN.apix_{axis}": [10.0] for axis in "xyz"}})
    with open_label_volume(path, class_map) as annotation:
        assert np.array_equal(read(annotation), labels)
        assert annotation.voxel_size == (10.0, 10.0, 10.0)


def test_what_the_header_lacks_is_not_known(write, class_map, labels):
    for voxel_size in (0.0, 1.0):
        path = write(labels, voxel_size=voxel_size)
        with open_label_volume(path, class_map) as annotation:
            assert annotation.voxel_size == (0.0, 0.0, 0.0)
            assert annotation.warnings == ()
        with open_label_volume(path, class_map, voxel_size=9.0) as annotation:
            assert annotation.voxel_size == (9.0, 9.0, 9.0)


def test_other_warnings_name_the_file(write, class_map, labels):
    path = write(labels)
    path.write_bytes(path.read_bytes() + b"xyz")
    with open_label_volume(path, class_map) as annotation:
        assert annotation.warnings == (f"{path}: 3 bytes after the last section are ignored",)


def test_axes(write, read, class_map, labels):
    with open_label_volume(write(labels.swapaxes(0, 1)), class_map, axes="xzy") as annotation:
        assert np.array_equal(read(annotation), labels)


def test_bad_arguments(write, tmp_path, class_map, many_classes, labels):
    path = write(labels)
    with pytest.raises(ParameterError, match="actin"):
        open_label_volume(path, class_map, values={1: "actin"})
    with pytest.raises(ParameterError, match="found 65536"):
        open_label_volume(path, class_map, ignore=65536)
    with pytest.raises(ParameterError, match="254 classes at most"):
        open_label_volume(path, many_classes)
    with pytest.raises(TomogramNotFoundError):
        open_label_volume(tmp_path / "missing.mrc", class_map)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(TomogramFormatError, match="truncated"):
        open_label_volume(path, class_map)

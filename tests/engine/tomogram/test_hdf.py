from __future__ import annotations

import sys

import h5py
import numpy as np
import pytest

from tomoscribe.engine import ParameterError, TomogramFormatError, open_tomogram
from tomoscribe.engine.inputs import find_tomograms, tomogram_stem
from tomoscribe.engine.intensity import measure_intensity


@pytest.fixture
def write_hdf(tmp_path):
    """Write images as EMAN2's hdfio2.cpp does: a group for each, the header as attributes of one element."""

    def write(*images, name="a.hdf", options=None, **attributes):
        path = tmp_path / name
        with h5py.File(path, "w") as file:
            for number, image in enumerate(images):
                group = file.create_group(f"MDF/images/{number}")
                group.create_dataset("image", data=image, **(options or {}))
                for key, value in attributes.items():
                    group.attrs[f"EMAN.{key}"] = np.array([value], np.float32 if isinstance(value, float) else np.int32)
            file["MDF/images"].attrs["imageid_max"] = np.array([len(images) - 1], np.int32)
        return path

    return write


def read(path, dtype=np.float32, **options):
    with open_tomogram(path, **options) as tomogram:
        out = np.empty(tomogram.shape, dtype)
        tomogram.read_slices(0, out)
    return out


@pytest.fixture
def volume():
    return np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32)


def test_volume_and_geometry(write_hdf, volume):
    path = write_hdf(volume, apix_x=10.0, apix_y=11.0, apix_z=12.0, origin_x=-50.0, origin_y=0.0, origin_z=7.5)
    with open_tomogram(path) as tomogram:
        assert tomogram.shape == (5, 6, 7)
        assert tomogram.dtype == np.float32
        assert tomogram.geometry.voxel_size == (10.0, 11.0, 12.0)
        assert tomogram.geometry.origin == (-50.0, 0.0, 7.5)
        assert tomogram.warnings == ()
        out = np.zeros((2, 6, 14), np.float32)[:, :, ::2]
        tomogram.read_slices(2, out)
        assert np.array_equal(out, volume[2:4])
        assert measure_intensity(tomogram).mean == pytest.approx(volume.mean(), abs=0.05)
        with pytest.raises(ParameterError, match="slices from 0 to 5"):
            tomogram.read_slices(4, out)
    with pytest.raises(ParameterError, match="closed"):
        tomogram.read_slices(0, out)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", ">f4", "float64"])
def test_types(write_hdf, dtype):
    volume = np.arange(60).reshape(3, 4, 5).astype(dtype)
    with open_tomogram(write_hdf(volume)) as tomogram:
        assert tomogram.dtype == np.dtype(dtype).newbyteorder("=")
    assert np.array_equal(read(write_hdf(volume)), volume)


def test_a_slice_is_stored_with_two_axes(write_hdf, volume):
    assert np.array_equal(read(write_hdf(volume[0])), volume[:1])


def test_values_with_fewer_bits_are_restored(write_hdf, volume):
    low, high = float(volume.min()), float(volume.max())
    for bits, dtype in ((8, np.uint8), (12, np.uint16)):
        top = 2**bits - 1
        stored = np.round((volume - low) / (high - low) * top).astype(dtype)
        options = {"chunks": (1, 6, 7), "compression": "gzip"}
        scale = {"stored_renderbits": bits, "stored_rendermin": low, "stored_rendermax": high}
        path = write_hdf(stored, options=options, **scale)
        with open_tomogram(path) as tomogram:
            assert tomogram.dtype == np.float32
        assert read(path) == pytest.approx(volume, abs=(high - low) / top)


def test_restored_labels_are_whole_numbers(write_hdf):
    labels = np.arange(60).reshape(3, 4, 5).astype(np.uint8)
    path = write_hdf(labels, stored_renderbits=8, stored_rendermin=0.0, stored_rendermax=255.0)
    assert read(path) == pytest.approx(labels, abs=1e-4)


def test_bits_of_zero_mean_values_as_they_are(write_hdf, volume):
    path = write_hdf(volume, stored_renderbits=0, stored_rendermin=0.0, stored_rendermax=1.0)
    assert np.array_equal(read(path), volume)


@pytest.mark.parametrize(
    ("sizes", "pattern"),
    [
        ({}, "no voxel size"),
        ({"apix_x": 1.0, "apix_y": 1.0, "apix_z": 1.0}, "placeholder"),
        ({"apix_x": float("nan"), "apix_y": 1.0, "apix_z": 1.0}, "no voxel size"),
    ],
)
def test_voxel_size_is_warned_of_and_corrected(write_hdf, volume, sizes, pattern):
    path = write_hdf(volume, **sizes)
    with open_tomogram(path) as tomogram:
        assert pattern in tomogram.warnings[0]
    with open_tomogram(path, voxel_size=8.0) as tomogram:
        assert tomogram.geometry.voxel_size == (8.0, 8.0, 8.0)
        assert tomogram.warnings == ()


def test_files_that_are_refused(write_hdf, volume, tmp_path):
    foreign = tmp_path / "foreign.h5"
    with h5py.File(foreign, "w") as file:
        file["exported_data"] = volume
    cut = tmp_path / "cut.hdf"
    cut.write_bytes(write_hdf(volume).read_bytes()[:-100])
    cases = {
        foreign: "HDF5 file with exported_data",
        cut: "truncated",
        write_hdf(volume, volume, name="stack.hdf"): "a stack of 2 images",
        write_hdf(volume[0, 0], name="line.hdf"): r"shape \(7,\)",
        write_hdf(volume.astype(np.complex64), name="complex.hdf"): "complex64",
    }
    for path, pattern in cases.items():
        with pytest.raises(TomogramFormatError, match=pattern) as caught:
            open_tomogram(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)
    with pytest.raises(ParameterError, match="xzy"):
        open_tomogram(write_hdf(volume), axes="xzy")


def test_damaged_chunk(write_hdf, volume):
    path = write_hdf(volume, options={"chunks": (1, 6, 7), "compression": "gzip", "fletcher32": True})
    with h5py.File(path) as file:
        offset = file["MDF/images/0/image"].id.get_chunk_info(3).byte_offset
    data = bytearray(path.read_bytes())
    data[offset + 20] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(TomogramFormatError, match="intact HDF5"):
        read(path)


def test_without_h5py_one_line_says_what_to_install(write_hdf, volume, monkeypatch):
    path = write_hdf(volume)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(TomogramFormatError, match="pip install h5py"):
        open_tomogram(path)


def test_folders_give_hdf_files(write_hdf, volume):
    path = write_hdf(volume, name="grid.hdf")
    assert find_tomograms([path.parent]).tomograms == (path,)
    assert tomogram_stem(path) == "grid"

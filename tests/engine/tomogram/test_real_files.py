"""Every real and odd file of the shared data: read as mrcfile or tifffile reads it, or refused in one line."""

from __future__ import annotations

import warnings
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import tifffile

from tomoscribe.engine.errors import TomogramFormatError
from tomoscribe.engine.tomogram import open_tomogram

READ = [
    "labels/membrane_labels_225x464x464.mrc.gz",
    "labels/presynaptic_labels.mrc",
    "odd/constant_voxel0.mrc",
    "odd/float16.mrc",
    "odd/imod_flags13_int16.mrc",
    "odd/mode0_2d_no_map_id.mrc",
    "odd/mode6_movie.mrc",
    "odd/nonzero_starts.map",
    "odd/signed_ints.mrc",
    "odd/small_stack.mrcs",
    "odd/tests_test_data_EMD-3001.map",
    "odd/tests_test_data_EMD-3001.map.bz2",
    "odd/tests_test_data_emd_3197.map.gz",
    "odd/tilt_stack_ispg1.mrc",
    "real/blobs_27x32x22.rec",
    "real/crop_20x30x40.mrc",
    "real/membrane_16.rec",
    "simulated/vesicles_100.mrc",
]
REFUSED = {
    "odd/header_only.mrc": "truncated or still being written",
    "odd/input_omezarr.zarr": "OME-Zarr",
    "odd/symlink_text_9bytes.mrc": "found 9 bytes",
    "odd/too_long_mode0.mrc": "the size of mode 2",
    "simulated/deepfinder_tomo1_data.h5": "an HDF5 file with dataset",
}


@pytest.mark.parametrize("name", READ)
def test_reads_as_mrcfile_does(shared_data: Path, name: str):
    path = shared_data / name
    with warnings.catch_warnings(action="ignore"), mrcfile.open(path, permissive=True) as file:
        expected = file.data.reshape(-1, *file.data.shape[-2:])
        voxel_size = [size if np.isfinite(size) and size > 0 else 0.0 for size in file.voxel_size.item()]
        origin, start, bytes_per_value = file.header.origin.item(), file.nstart.item(), file.data.itemsize
    with open_tomogram(path) as tomogram:
        out = np.empty(expected.shape, np.float32)
        tomogram.read_slices(0, out)
        geometry = tomogram.geometry
        assert tomogram.dtype.itemsize == bytes_per_value
        assert geometry.shape == expected.shape
        assert geometry.voxel_size == pytest.approx(voxel_size, rel=1e-6)
        assert geometry.origin == pytest.approx(origin)
        assert geometry.start == start
    if name == "odd/mode0_2d_no_map_id.mrc":  # its header says 144 to 159, which mrcfile does not look at
        expected = expected.view(np.uint8)
    assert np.array_equal(out, expected)


@pytest.mark.parametrize("name", REFUSED)
def test_refuses_in_one_line(shared_data: Path, name: str):
    with pytest.raises(TomogramFormatError, match=REFUSED[name]) as caught:
        open_tomogram(shared_data / name)
    assert str(caught.value).startswith(f"{shared_data / name}: ")
    assert "\n" not in str(caught.value)


def test_no_odd_or_real_file_is_left_out(shared_data: Path):
    files = {str(p.relative_to(shared_data)) for folder in ("odd", "real") for p in (shared_data / folder).iterdir()}
    assert files - {"real/membrane_slices", "real/microtubule_13pf.tif"} == {
        name for name in [*READ, *REFUSED] if name.startswith(("odd", "real"))
    }


def test_the_microtubule(shared_data: Path):
    path = shared_data / "real/microtubule_13pf.tif"
    with open_tomogram(path) as tomogram:
        out = np.empty(tomogram.shape, np.uint8)
        tomogram.read_slices(0, out)
        assert tomogram.geometry.voxel_size == pytest.approx((10.52, 10.52, 10.52))
        assert tomogram.warnings == ()
    np.testing.assert_array_equal(out, tifffile.imread(path))


def test_the_membrane_slices(shared_data: Path):
    """Nine of the slices have coloured pixels, by one level or many."""
    refused = 0
    for path in sorted((shared_data / "real/membrane_slices").glob("*.tif")):
        image = tifffile.imread(path)
        if image.ndim == 3 and (image != image[..., :1]).any():
            with pytest.raises(TomogramFormatError, match="colour on page 1"):
                open_tomogram(path)
            refused += 1
            continue
        with open_tomogram(path) as tomogram:
            out = np.empty(tomogram.shape, np.uint8)
            tomogram.read_slices(0, out)
        np.testing.assert_array_equal(out[0], image if image.ndim == 2 else image[..., 0])
    assert refused == 9

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from tomoscribe.engine.errors import ParameterError, TomogramFormatError
from tomoscribe.engine.tomogram import open_tomogram

STACK = (np.arange(6 * 20 * 30) % 2039).astype(np.uint16).reshape(6, 20, 30)
GREY = (STACK % 256).astype(np.uint8)
NANOMETRES = {f"PhysicalSize{axis}{suffix}": value for axis in "XYZ" for suffix, value in (("", 1.2), ("Unit", "nm"))}


def read_all(path: Path, **options) -> np.ndarray:
    with open_tomogram(path, **options) as tomogram:
        out = np.empty(tomogram.shape, np.float32)
        tomogram.read_slices(0, out)
    return out


@given(
    dtype=st.sampled_from(("uint8", "int8", "uint16", "int16", "float16", "float32")),
    byte_order=st.sampled_from("<>"),
    big=st.booleans(),
    how=st.sampled_from(({}, {"compression": "zlib", "predictor": True}, {"tile": (16, 16)}, {"rowsperstrip": 7})),
    start=st.integers(0, 6),
    data=st.data(),
)
def test_stacks_of_any_kind_read_back(tmp_path_factory, dtype, byte_order, big, how, start, data):
    if dtype.startswith("float"):
        how = {key: value for key, value in how.items() if key != "predictor"}  # the float predictor is an extra
    path = tmp_path_factory.mktemp("tiff") / "stack.tif"
    tifffile.imwrite(path, (STACK % 120).astype(dtype), byteorder=byte_order, bigtiff=big, **how)
    stop = data.draw(st.integers(start, 6))
    buffer = np.full((stop - start, 22, 32), 77, np.float32)
    with open_tomogram(path, voxel_size=10.0) as tomogram:
        assert tomogram.shape == (6, 20, 30)
        assert tomogram.dtype == np.dtype(dtype)
        assert tomogram.warnings == ()
        tomogram.read_slices(start, buffer[:, 1:-1, 1:-1])
    np.testing.assert_array_equal(buffer[:, 1:-1, 1:-1], STACK[start:stop] % 120)
    assert (buffer[:, 0] == 77).all()


def test_pages_that_are_no_series(tmp_path):
    path = tmp_path / "pages.tif"
    with tifffile.TiffWriter(path) as writer:
        for page in STACK:
            writer.write(page, contiguous=False, metadata=None)
    np.testing.assert_array_equal(read_all(path), STACK)


def test_one_page_is_one_slice(tmp_path):
    tifffile.imwrite(tmp_path / "slice.tif", STACK[0])
    np.testing.assert_array_equal(read_all(tmp_path / "slice.tif"), STACK[:1])


@pytest.mark.parametrize(
    ("options", "voxel_size"),
    [
        ({"imagej": True, "resolution": (1 / 1.052, 1 / 1.052),
          "metadata": {"spacing": 2.1, "unit": "nm", "axes": "ZYX"}}, (10.52, 10.52, 21.0)),
        ({"imagej": True, "resolution": (1000.0, 500.0),
          "metadata": {"spacing": 0.001, "unit": "\\u00B5m", "axes": "ZYX"}}, (10.0, 20.0, 10.0)),
        ({"imagej": True, "resolution": (1 / 8, 1 / 8), "metadata": {"unit": "A", "axes": "ZYX"}}, (8.0, 8.0, 8.0)),
        ({"imagej": True, "resolution": (1.0, 1.0), "metadata": {"axes": "ZYX"}}, (0.0, 0.0, 0.0)),
        ({"ome": True, "metadata": {"axes": "ZYX"} | NANOMETRES}, (12.0, 12.0, 12.0)),
        ({"ome": True, "metadata": {"axes": "ZYX", "PhysicalSizeX": 0.001, "PhysicalSizeY": 0.002}}, (10, 20, 10)),
        ({"ome": True, "metadata": {"axes": "ZYX"}}, (0.0, 0.0, 0.0)),
        ({"resolution": (72, 72), "resolutionunit": "INCH"}, (0.0, 0.0, 0.0)),
    ],
)  # fmt: skip
def test_voxel_size_of_imagej_and_ome(tmp_path, options, voxel_size):
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, STACK, **options)
    with open_tomogram(path) as tomogram:
        assert tomogram.geometry.voxel_size == pytest.approx(voxel_size, rel=1e-6)
        assert any("--voxel-size" in line for line in tomogram.warnings) == (voxel_size[0] == 0)
    with open_tomogram(path, voxel_size=7.5) as tomogram:
        assert tomogram.geometry.voxel_size == (7.5, 7.5, 7.5)
        assert tomogram.warnings == ()


@pytest.mark.parametrize("how", [{}, {"compression": "zlib"}])
@pytest.mark.parametrize(("photometric", "warned"), [("miniswhite", True), ("minisblack", False)])
def test_values_that_a_viewer_turns_over_are_read_as_they_are_with_a_warning(tmp_path, how, photometric, warned):
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, STACK, photometric=photometric, **how)
    np.testing.assert_array_equal(read_all(path), STACK)
    with open_tomogram(path, voxel_size=10.0) as tomogram:
        assert ["MINISWHITE" in line and "--invert" in line for line in tomogram.warnings] == [True] * warned


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("channels", [3, 4])
def test_colour_pages_count_as_grey_where_the_channels_are_equal(tmp_path, planar, channels):
    axis = -1 if planar == "contig" else 1
    colour = np.stack([GREY] * 3 + [np.full_like(GREY, 255)] * (channels - 3), axis)
    path = tmp_path / "colour.tif"
    extra = {"extrasamples": ["UNASSALPHA"]} if channels == 4 else {}
    tifffile.imwrite(path, colour, photometric="rgb", planarconfig=planar, **extra)
    np.testing.assert_array_equal(read_all(path), GREY)


def test_colour_is_refused(tmp_path):
    path = tmp_path / "colour.tif"
    colour = np.stack([GREY] * 3, -1)
    colour[4, 3, 2, 1] ^= 1
    tifffile.imwrite(path, colour, photometric="rgb")
    with pytest.raises(TomogramFormatError, match="colour on page 5"):
        read_all(path)
    tifffile.imwrite(path, colour[4:], photometric="rgb")
    with pytest.raises(TomogramFormatError, match="colour on page 1"):
        open_tomogram(path)


def write_mixed(path: Path) -> None:
    with tifffile.TiffWriter(path) as writer:
        writer.write(STACK[0])
        writer.write(STACK[0, :5])


@pytest.mark.parametrize(
    ("write", "pattern"),
    [
        (lambda path: tifffile.imwrite(path, STACK.astype(np.float64)), "found float64; convert"),
        (lambda path: tifffile.imwrite(path, STACK.astype(np.uint32)), "found uint32"),
        (lambda path: tifffile.imwrite(path, np.stack([STACK] * 2), ome=True, metadata={"axes": "CZYX"}), "2 × 6"),
        (lambda path: tifffile.imwrite(path, GREY, photometric="palette", colormap=np.zeros((3, 256), "u2")),
         "found palette"),
        (write_mixed, "found 2 kinds"),
    ],
)  # fmt: skip
def test_what_is_no_volume_of_grey_values_is_refused(tmp_path, write, pattern):
    path = tmp_path / "stack.tif"
    write(path)
    with pytest.raises(TomogramFormatError, match=pattern) as caught:
        open_tomogram(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("options", [{}, {"imagej": True}, {"ome": True}, {"compression": "zlib"}])
def test_truncated_stacks_are_refused_and_never_shorter(tmp_path, options, caplog):
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, STACK, **options)
    content = path.read_bytes()
    refused = 0
    for length in range(8, len(content), len(content) // 80):
        path.write_bytes(content[:length])
        try:
            out = read_all(path)
        except TomogramFormatError:
            refused += 1
        else:
            # What was lost behind the values was not needed.
            np.testing.assert_array_equal(out, STACK)
    assert refused > 70
    assert not caplog.records
    assert not logging.getLogger("tifffile").filters


def test_one_header_for_all_pages(tmp_path):
    """ImageJ writes stacks of more than 4 GB with the tags of the first page alone."""
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, STACK, truncate=True)
    np.testing.assert_array_equal(read_all(path), STACK)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(TomogramFormatError, match=r"expected at least .* for 6 × 20 × 30 values, found"):
        open_tomogram(path)


def test_xzy_is_for_mrc_files(tmp_path):
    tifffile.imwrite(tmp_path / "stack.tif", STACK)
    with pytest.raises(ParameterError, match="xzy"):
        open_tomogram(tmp_path / "stack.tif", axes="xzy")


def test_a_run_outside_the_volume_and_a_closed_file(tmp_path):
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, STACK, compression="zlib")
    tomogram = open_tomogram(path)
    with pytest.raises(ParameterError, match="slices from 0 to 6"):
        tomogram.read_slices(5, np.empty((2, 20, 30), np.float32))
    tomogram.close()
    tomogram.close()
    with pytest.raises(ParameterError, match="closed"):
        tomogram.read_slices(0, np.empty((2, 20, 30), np.float32))

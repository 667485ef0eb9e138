from __future__ import annotations

import gzip
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tomoscribe.engine.errors import ParameterError, TomogramFormatError
from tomoscribe.engine.tomogram import open_tomogram, raw

IMOD_STAMP = 1146047817
DTYPES = ("int8", "int16", "float32", "uint16", "float16")


def read_all(path: Path, dtype: str = "float32", **options) -> np.ndarray:
    with open_tomogram(path, **options) as tomogram:
        out = np.empty(tomogram.shape, dtype)
        tomogram.read_slices(0, out)
    return out


def distinct(shape: tuple[int, int, int], dtype: str) -> np.ndarray:
    """Bit patterns that differ along every axis and, as floats, are finite."""
    count = int(np.prod(shape))
    values = (np.arange(count) * 37 + 11) % 251 - (0 if dtype == "uint16" else 120)
    return values.astype(dtype).reshape(shape)


@given(
    shape=st.tuples(*[st.integers(1, 7)] * 3),
    dtype=st.sampled_from(DTYPES),
    order=st.sampled_from("<>"),
    extended=st.integers(0, 3).map(lambda blocks: b"\xa5" * 80 * blocks),
    axes=st.sampled_from(("xyz", "xzy")),
    target=st.sampled_from(("same", "float32", "float64")),
    layout=st.sampled_from(("contiguous", "padded", "turned", "every second")),
    data=st.data(),
)
def test_reads_what_mrcfile_reads(mrc_bytes, shape, dtype, order, extended, axes, target, layout, data):
    stored = distinct(shape, dtype)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "tomogram.mrc")
        path.write_bytes(mrc_bytes(stored, order=order, extended=extended))
        with mrcfile.open(path, permissive=True) as file:
            expected = file.data if axes == "xyz" else file.data.swapaxes(0, 1)
        depth, height, width = expected.shape
        start = data.draw(st.integers(0, depth))
        count = data.draw(st.integers(0, depth - start))
        with open_tomogram(path, axes=axes) as tomogram:
            assert tomogram.shape == expected.shape
            assert tomogram.dtype == np.dtype(dtype)
            kind = dtype if target == "same" else target
            everything = np.full((2 * count, height + 2, width + 2), 77, kind)
            if layout == "contiguous":
                out = np.full((count, height, width), 77, kind)
            elif layout == "padded":
                out = everything[:count, 1:-1, 1:-1]
            elif layout == "turned":
                out = np.full((width, height, count), 77, kind).transpose(2, 1, 0)
            else:
                out = everything[::2, :height, 2:]
            tomogram.read_slices(start, out)
        np.testing.assert_array_equal(out, expected[start : start + count].astype(kind))
        if layout == "padded":
            assert (everything[count:] == 77).all()
            assert (everything[:, 0] == 77).all()


def test_a_run_larger_than_the_scratch_buffer(write_mrc, monkeypatch):
    monkeypatch.setattr(raw, "_SCRATCH_SIZE", 40)
    stored = distinct((3, 7, 5), "int16")
    np.testing.assert_array_equal(read_all(write_mrc(stored, order=">")), stored)


def test_short_reads_are_continued(write_mrc, monkeypatch, volume):
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda file, buffers, position: preadv(file, [buffers[0][:7]], position))
    np.testing.assert_array_equal(read_all(write_mrc(volume), "int16"), volume)


def test_geometry_is_what_the_header_says(write_mrc):
    stored = distinct((4, 5, 6), "int16")
    words = {"nxstart": 1, "nystart": -2, "nzstart": 3, "xorigin": 10.5, "yorigin": -20.25, "zorigin": 30.0}
    path = write_mrc(stored, xlen=6 * 10.5, ylen=5 * 11.5, zlen=4 * 12.5, **words)
    with open_tomogram(path) as tomogram, mrcfile.open(path) as file:
        geometry = tomogram.geometry
        assert geometry.shape == (4, 5, 6)
        assert geometry.voxel_size == pytest.approx(file.voxel_size.item())
        assert geometry.origin == file.header.origin.item() == (10.5, -20.25, 30.0)
        assert geometry.start == file.nstart.item() == (1, -2, 3)
    with open_tomogram(path, axes="xzy") as tomogram:
        geometry = tomogram.geometry
        assert geometry.shape == (5, 4, 6)
        assert geometry.voxel_size == (10.5, 12.5, 11.5)
        assert geometry.origin == (10.5, 30.0, -20.25)
        assert geometry.start == (1, 3, -2)
        assert geometry.axes == "xzy"


def test_the_sampling_may_differ_from_the_size(write_mrc, volume):
    path = write_mrc(volume, mx=14, xlen=140.0, mz=1, zlen=10.0)
    with open_tomogram(path) as tomogram:
        assert tomogram.geometry.voxel_size == (10.0, 10.0, 10.0)


@pytest.mark.parametrize(
    ("words", "mode0", "signed", "warns"),
    [
        ({}, "auto", True, False),
        ({"imod_stamp": IMOD_STAMP, "imod_flags": 1}, "auto", True, False),
        ({"imod_stamp": IMOD_STAMP, "imod_flags": 8}, "auto", False, False),
        ({"imod_stamp": IMOD_STAMP + 1, "imod_flags": 8}, "auto", True, False),
        ({"dmin": 100.0, "dmax": 200.0}, "auto", False, True),
        ({"dmin": -1.0, "dmax": 200.0}, "auto", True, False),
        ({"dmin": 0.0, "dmax": 127.0}, "auto", True, False),
        ({"dmin": 100.0, "dmax": 200.0, "imod_stamp": IMOD_STAMP, "imod_flags": 1}, "auto", True, False),
        ({"dmin": 100.0, "dmax": 200.0}, "signed", True, False),
        ({}, "unsigned", False, False),
        ({"imod_stamp": IMOD_STAMP, "imod_flags": 8}, "signed", True, False),
    ],
)
@pytest.mark.parametrize("order", "<>")
def test_bytes_are_signed_unless_told_otherwise(write_mrc, words, mode0, signed, warns, order):
    stored = np.array([[[-128, -1, 0, 1, 127]]], np.int8)
    path = write_mrc(stored, order=order, **words)
    with open_tomogram(path, mode0=mode0) as tomogram:
        assert tomogram.dtype == (np.int8 if signed else np.uint8)
        assert any("--mode0" in line for line in tomogram.warnings) == warns
    expected = [-128, -1, 0, 1, 127] if signed else [128, 255, 0, 1, 127]
    assert read_all(path, mode0=mode0).ravel().tolist() == expected


@pytest.mark.parametrize("machst", [b"\0\0\0\0", b"\x44\x44\0\0"])
def test_sizes_decide_the_byte_order_where_the_stamp_is_wrong(write_mrc, volume, machst):
    path = write_mrc(volume, order=">", machst=machst)
    np.testing.assert_array_equal(read_all(path), volume)
    with open_tomogram(path) as tomogram:
        assert any("big-endian" in line for line in tomogram.warnings)


def test_no_warnings_for_a_sound_file(write_mrc, volume):
    with open_tomogram(write_mrc(volume)) as tomogram:
        assert tomogram.warnings == ()
    with open_tomogram(write_mrc(volume, order=">", machst=b"\x11\x11\0\0")) as tomogram:
        assert tomogram.warnings == ()


@pytest.mark.parametrize(
    ("words", "word"),
    [
        ({"xlen": 0.0, "ylen": 0.0, "zlen": 0.0}, "no voxel size"),
        ({"mx": 0}, "no voxel size"),
        ({"ylen": float("inf")}, "no voxel size"),
        ({"ylen": -60.0}, "no voxel size"),
        ({"xlen": 7.0, "ylen": 6.0, "zlen": 5.0}, "placeholder"),
        ({"xlen": 7 * 10.2}, "not a cube"),
        ({"xlen": 7 * 10.05}, None),
    ],
)
def test_warns_of_the_voxel_size(write_mrc, volume, words, word):
    path = write_mrc(volume, **words)
    with open_tomogram(path) as tomogram:
        assert [word in line and "--voxel-size" in line for line in tomogram.warnings] == ([True] if word else [])
    with open_tomogram(path, voxel_size=12.5) as tomogram:
        assert tomogram.warnings == ()
        assert tomogram.geometry.voxel_size == (12.5, 12.5, 12.5)


@pytest.mark.parametrize(
    ("words", "word"),
    [
        ({"map": b"\0\0\0\0"}, "no MAP"),
        ({"mapc": 3, "mapr": 1, "maps": 2}, "3-1-2, not 1-2-3; slices are cut"),
        ({"mapc": 0, "mapr": 0, "maps": 0}, "0-0-0, not 1-2-3; taken as 1-2-3"),
        ({"ispg": 0, "mz": 1, "zlen": 10.0}, "stack of 5 images"),
    ],
)
def test_warns_of_odd_headers(write_mrc, volume, words, word):
    path = write_mrc(volume, **words)
    with open_tomogram(path) as tomogram:
        assert [word in line for line in tomogram.warnings] == [True]
    np.testing.assert_array_equal(read_all(path), volume)


@pytest.mark.parametrize("shape", [(6, 20, 50), (50, 20, 6), (41, 60, 60), (1, 6, 20)])
def test_volumes_that_do_not_look_turned(write_mrc, shape):
    with open_tomogram(write_mrc(distinct(shape, "int8"))) as tomogram:
        assert tomogram.warnings == ()


def test_warns_of_a_volume_that_looks_turned(write_mrc):
    path = write_mrc(distinct((20, 6, 20), "int8"))
    with open_tomogram(path) as tomogram:
        assert ["--axes xzy" in line for line in tomogram.warnings] == [True]
    with open_tomogram(path, axes="xzy") as tomogram:
        assert tomogram.warnings == ()
        assert tomogram.shape == (6, 20, 20)


@pytest.mark.parametrize(
    ("words", "standard"),
    [
        ({"nversion": 20140}, True),
        ({"nversion": 0}, False),
        ({"nversion": 538976288}, False),
        ({"nversion": 0, "imod_stamp": IMOD_STAMP, "imod_flags": 13}, True),
        ({"nversion": 0, "imod_stamp": IMOD_STAMP, "imod_flags": 9}, False),
        ({"nversion": 0, "imod_stamp": 1, "imod_flags": 13}, False),
        ({"nversion": 0, "xorigin": 0.0}, True),
    ],
)
def test_knows_which_sign_of_the_origin_the_header_declares(write_mrc, volume, words, standard):
    with open_tomogram(write_mrc(volume, **{"xorigin": 100.0} | words)) as tomogram:
        assert tomogram.geometry.standard_origin is standard


def test_origins_that_are_no_numbers_count_as_zero(write_mrc, volume):
    with open_tomogram(write_mrc(volume, xorigin=float("nan"), yorigin=5.0)) as tomogram:
        assert tomogram.geometry.origin == (0.0, 5.0, 0.0)


@pytest.mark.parametrize(
    ("words", "pattern"),
    [
        ({"mode": 3}, r"mode 3 \(complex int16\)"),
        ({"mode": 4}, r"mode 4 \(complex float32\)"),
        ({"mode": 16}, r"mode 16 \(RGB\)"),
        ({"mode": 101}, r"mode 101 \(4-bit\)"),
        ({"mode": 7}, r"modes 0 \(int8\).*found mode 7;"),
        ({"nx": 0}, "found 0 × 6 × 5"),
        ({"ny": -6}, "found 7 × -6 × 5"),
        ({"nz": 2_000_000}, "found 7 × 6 × 2000000"),
        ({"nx": 0, "map": b"\0\0\0\0"}, "MRC file or a TIFF stack, found neither"),
        ({"nsymbt": -1}, "found -1"),
        ({"nsymbt": 2_000_000_000}, "truncated or still being written"),
        ({"ispg": 401, "mz": 1}, "stack of volumes"),
    ],
)
def test_refuses_in_one_line(write_mrc, volume, words, pattern):
    path = write_mrc(volume, **words)
    with pytest.raises(TomogramFormatError, match=pattern) as caught:
        open_tomogram(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message


def test_a_stack_of_one_volume_is_a_volume(write_mrc, volume):
    np.testing.assert_array_equal(read_all(write_mrc(volume, ispg=401)), volume)


def test_size_on_disk_is_held_against_the_header(write_mrc, volume):
    path = write_mrc(volume, extended=b"\0" * 80)
    content = path.read_bytes()
    assert len(content) == 1024 + 80 + 420
    path.write_bytes(content[:-1])
    with pytest.raises(
        TomogramFormatError,
        match=r"expected 1524 bytes .*7 × 6 × 5, mode 1, extended header of 80\), found 1523; .*truncated",
    ):
        open_tomogram(path)
    path.write_bytes(content + b"\0" * 83)
    with open_tomogram(path) as tomogram:
        assert tomogram.warnings == ("83 bytes after the last section are ignored",)
    path.write_bytes(content + b"\0" * 84)
    with pytest.raises(TomogramFormatError, match="found 1608; the header does not fit the data"):
        open_tomogram(path)
    path.write_bytes(content + b"\0" * 420)
    with pytest.raises(TomogramFormatError, match="found 1944, the size of mode 2; the header does not fit"):
        open_tomogram(path)


def test_a_file_that_shrinks_while_it_is_read(write_mrc, volume):
    path = write_mrc(volume)
    with open_tomogram(path) as tomogram:
        os.truncate(path, 1100)
        with pytest.raises(TomogramFormatError, match="found the end of the file"):
            tomogram.read_slices(0, np.empty(tomogram.shape, np.int16))


@pytest.mark.parametrize(
    ("start", "shape", "dtype"),
    [
        (-1, (1, 6, 7), "float32"),
        (4, (2, 6, 7), "float32"),
        (0, (1, 7, 6), "float32"),
        (0, (6, 7), "float32"),
        (0, (1, 6, 7), "int8"),
    ],
)
def test_read_slices_refuses_what_does_not_fit(write_mrc, volume, start, shape, dtype):
    dtype = "uint8" if dtype == "int8" else dtype
    with open_tomogram(write_mrc(volume)) as tomogram, pytest.raises(ParameterError):
        tomogram.read_slices(start, np.empty(shape, dtype))


def test_a_closed_tomogram_is_not_read(write_mrc, volume):
    tomogram = open_tomogram(write_mrc(volume))
    tomogram.close()
    tomogram.close()
    with pytest.raises(ParameterError, match="closed"):
        tomogram.read_slices(0, np.empty(tomogram.shape, np.int16))


def test_xzy_needs_the_plain_axis_order(write_mrc, volume):
    with pytest.raises(ParameterError, match="1-2-3"):
        open_tomogram(write_mrc(volume, mapc=3, mapr=1, maps=2), axes="xzy")


@pytest.mark.parametrize("compress", [None, gzip.compress])
def test_threads_may_read_at_the_same_time(mrc_bytes, tmp_path, compress):
    stored = distinct((40, 30, 20), "int16")
    content = mrc_bytes(stored, order=">")
    path = tmp_path / "tomogram.mrc"
    path.write_bytes(compress(content) if compress else content)
    out = np.empty(stored.shape, np.float32)
    with open_tomogram(path) as tomogram:
        threads = [threading.Thread(target=tomogram.read_slices, args=(z, out[z : z + 1])) for z in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    np.testing.assert_array_equal(out, stored)


def test_memory_does_not_grow_with_the_volume(tmp_path, mrc_bytes):
    """A sparse file of 4 GB is read slice by slice by a process that may have 1 GB of data."""
    header = mrc_bytes(np.zeros((1, 1, 1), np.float32), nx=1000, ny=1000, nz=1000, mx=1000, my=1000, mz=1000)[:1024]
    path = tmp_path / "large.mrc"
    path.write_bytes(header)
    os.truncate(path, 1024 + 4_000_000_000)
    script = (
        "import numpy as np, resource, sys; from tomoscribe.engine.tomogram import open_tomogram\n"
        "out = np.empty((2, 1000, 1000), np.float64)\n"
        "with open_tomogram(sys.argv[1]) as tomogram:\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "    for z in range(0, 100, 2): tomogram.read_slices(z, out)\n"
        "    tomogram.read_slices(998, out)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    result = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    assert int(result.stdout) < 40_000  # KiB: the buffer of 16 MB and what little else there is

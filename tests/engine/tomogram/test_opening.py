from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from tomoscribe.engine.errors import ParameterError, TomogramFormatError, TomogramNotFoundError
from tomoscribe.engine.tomogram import open_tomogram


@pytest.mark.parametrize("name", ["a.mrc", "a.rec", "a.map", "a.st", "a.mrcs", "a.ali", "a.preali", "a.tif", "a"])
def test_content_decides_not_the_name(write_mrc, volume, name):
    path = write_mrc(volume, name)
    out = np.empty(volume.shape, np.int16)
    with open_tomogram(str(path)) as tomogram:
        tomogram.read_slices(0, out)
        assert tomogram.path == path
    np.testing.assert_array_equal(out, volume)


@pytest.mark.parametrize("options", [{"voxel_size": 0.0}, {"voxel_size": -1.0}, {"voxel_size": float("nan")},
                                     {"axes": "zyx"}, {"mode0": "maybe"}])  # fmt: skip
def test_options_are_checked(write_mrc, volume, options):
    with pytest.raises(ParameterError, match=str(next(iter(options.values())))):
        open_tomogram(write_mrc(volume), **options)


@pytest.mark.parametrize(
    ("name", "content", "pattern"),
    [
        ("a.mrc", b"", "empty file"),
        ("a.mrc", b"../2d.mrc", "header of 1024 bytes, found 9 bytes"),
        ("a.mrc", b"a line of text\n" * 100, "found neither"),
        ("a.mrc", b"\x93NUMPY" + bytes(2000), "a NumPy file"),
        ("a.em", bytes(2000), "an EM file"),
        ("a.DM4", b"\0\0\0\4" + bytes(2000), "a DigitalMicrograph file"),
        ("a.mrc.xz", b"\xfd7zXZ\0" + bytes(2000), "an xz archive"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path, name, content, pattern):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(TomogramFormatError, match=pattern) as caught:
        open_tomogram(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_missing_files(tmp_path, write_mrc, volume):
    for path in (tmp_path / "missing.mrc", write_mrc(volume) / "inside.mrc"):
        with pytest.raises(TomogramNotFoundError, match="no such file") as caught:
            open_tomogram(path)
        assert isinstance(caught.value, FileNotFoundError)


def test_folders_and_pipes(tmp_path):
    with pytest.raises(TomogramFormatError, match="found a folder"):
        open_tomogram(tmp_path)
    (tmp_path / ".zgroup").write_text("{}")
    with pytest.raises(TomogramFormatError, match="OME-Zarr"):
        open_tomogram(tmp_path)
    os.mkfifo(tmp_path / "pipe.mrc")
    with pytest.raises(TomogramFormatError, match="pipe"):
        open_tomogram(tmp_path / "pipe.mrc")


def test_a_file_that_may_not_be_read(write_mrc, volume, monkeypatch):
    path = write_mrc(volume)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "open", refuse)
    with pytest.raises(TomogramFormatError, match="cannot be read: Permission denied"):
        open_tomogram(path)


def test_tifffile_is_imported_for_tiff_files_alone():
    script = "import sys, tomoscribe.engine.tomogram; print('tifffile' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"

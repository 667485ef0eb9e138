"""MRC files inside gzip and bzip2, which are decompressed beside them once."""

from __future__ import annotations

import bz2
import gzip
import os
import resource
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from tomoscribe.engine.errors import OutputError, TomogramFormatError
from tomoscribe.engine.tomogram import mrc, open_tomogram


def read_all(path):
    with open_tomogram(path) as tomogram:
        out = np.empty(tomogram.shape, np.float32)
        tomogram.read_slices(0, out)
    return out


@pytest.mark.parametrize(("compress", "suffix"), [(gzip.compress, ".gz"), (bz2.compress, ".bz2"), (gzip.compress, "")])
def test_compressed_files_are_told_by_content(mrc_bytes, tmp_path, volume, compress, suffix):
    path = tmp_path / f"tomogram.mrc{suffix}"
    path.write_bytes(compress(mrc_bytes(volume, extended=b"\1" * 160)))
    np.testing.assert_array_equal(read_all(path), volume)
    out = np.empty((2, 6, 7), np.int16)
    with open_tomogram(path) as tomogram:
        tomogram.read_slices(2, out)
        np.testing.assert_array_equal(out, volume[2:4])
        tomogram.read_slices(1, out)
    np.testing.assert_array_equal(out, volume[1:3])


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress])
def test_damaged_compressed_files(mrc_bytes, tmp_path, compress):
    content = mrc_bytes(np.random.default_rng(1).integers(-99, 99, (9, 90, 90), np.int16))
    packed = compress(content)
    path = tmp_path / "tomogram.mrc.gz"
    path.write_bytes(packed[:20])
    with pytest.raises(TomogramFormatError, match="truncated, damaged or still being written"):
        open_tomogram(path)
    damaged = bytearray(packed)
    damaged[-60] ^= 0xFF
    wrong_checksum = bytearray(packed)
    wrong_checksum[-5] ^= 0xFF
    too_long = compress(content + b"\0" * 2 * 90 * 90)
    for broken in (packed[:-3000], bytes(damaged), bytes(wrong_checksum), compress(content[:-1]), too_long):
        path.write_bytes(broken)
        with pytest.raises(TomogramFormatError, match=r"truncated|damaged|does not fit") as caught:
            read_all(path)
        assert "\n" not in str(caught.value)
    path.write_bytes(compress(content[:-1]))
    with open_tomogram(path) as tomogram, pytest.raises(TomogramFormatError, match=r"decompressed, found 146823;"):
        tomogram.read_slices(0, np.empty((1, 90, 90), np.int16))
    path.write_bytes(compress(content + b"\0" * (2 * 90 * 90 - 1)))
    assert read_all(path).any()


def test_a_full_disk_under_tmpdir_is_named(mrc_bytes, tmp_path):
    """A limit on the size of files makes a real write fail, in a process of its own."""
    path = tmp_path / "tomogram.mrc.gz"
    path.write_bytes(gzip.compress(mrc_bytes(np.zeros((10, 300, 300), np.float32))))
    script = (
        "import numpy as np, sys; from tomoscribe.engine.tomogram import open_tomogram\n"
        "tomogram = open_tomogram(sys.argv[1])\n"
        "try: tomogram.read_slices(0, np.empty(tomogram.shape, np.float32))\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, str(path)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, 1_500_000)),
    )
    assert result.stdout.startswith(f"{OutputError.__name__} {path}: cannot be decompressed into {tmp_path}: ")
    assert "TMPDIR" in result.stdout
    assert [entry.name for entry in tmp_path.iterdir()] == ["tomogram.mrc.gz"]


def test_a_file_is_decompressed_once(mrc_bytes, tmp_path, volume, monkeypatch):
    path = tmp_path / "tomogram.mrc.gz"
    path.write_bytes(gzip.compress(mrc_bytes(volume)))
    calls = []
    decompress = mrc.decompress

    def slow(*arguments):
        calls.append(arguments)
        time.sleep(0.05)  # all threads are here by now if nothing keeps them out
        return decompress(*arguments)

    monkeypatch.setattr(mrc, "decompress", slow)
    with open_tomogram(path) as tomogram:
        assert not calls
        out = np.empty(volume.shape, np.int16)
        threads = [threading.Thread(target=tomogram.read_slices, args=(0, out)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(calls) == 1

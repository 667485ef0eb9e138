from __future__ import annotations

import os
from collections import namedtuple

import mrcfile
import numpy as np
import pytest

from tomoscribe.engine import OutputError, segment
from tomoscribe.engine.watch import space
from tomoscribe.engine.watch.space import SpaceCheck, output_bytes

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def disk(monkeypatch):
    """A disk with so many bytes free; gives the folders that were asked about."""

    def disk(free):
        asked = []
        monkeypatch.setattr(space.shutil, "disk_usage", lambda folder: asked.append(folder) or Usage(10**12, 0, free))
        return asked

    return disk


def test_what_outputs_really_take_is_no_more_than_expected(tmp_path, tiny_bundle):
    with mrcfile.new(tmp_path / "a.mrc") as file:
        file.set_data(np.random.default_rng(0).normal(size=(40, 300, 200)).astype(np.float32))
        file.voxel_size = 10
    result = segment(tmp_path / "a.mrc", tmp_path / "out", model=tiny_bundle, backend="onnxruntime")
    written = sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
    expected = output_bytes(result.geometry.shape, len(result.class_volumes))
    assert written <= expected <= written + 5 * 10**6


def test_more_classes_and_voxels_take_more():
    assert output_bytes((2, 3, 4), 5) - output_bytes((2, 3, 4), 4) == 24 + 1024
    assert output_bytes((200, 512, 512), 5) > 6 * 200 * 512 * 512


@pytest.mark.parametrize(("free", "waits"), [(3_000_000, False), (2_999_999, True), (0, True)])
def test_it_waits_where_less_would_stay_free_than_is_to(tmp_path, disk, free, waits):
    disk(free)
    assert (SpaceCheck(tmp_path, 2_000_000).reason_to_wait(1_000_000) is not None) is waits


def test_the_reason_is_one_line_with_the_figures(tmp_path, disk):
    disk(1_230_000_000)
    reason = SpaceCheck(tmp_path / "out", 2 * 10**9).reason_to_wait(450_000_000)
    assert reason == (
        f"{tmp_path / 'out'}: the next outputs take 0.45 GB and 2.00 GB are to stay free (--keep-free), "
        "found 1.23 GB; labelling goes on when there is room"
    )


def test_a_folder_that_is_not_there_yet_has_the_disk_of_the_one_above(tmp_path, disk):
    asked = disk(7)
    assert SpaceCheck(tmp_path / "not" / "yet", 0).free_bytes() == 7
    assert asked == [tmp_path]


def test_the_real_disk_says_what_the_system_says(tmp_path):
    system = os.statvfs(tmp_path)
    free = SpaceCheck(tmp_path, 0).free_bytes()
    assert abs(free - system.f_bavail * system.f_frsize) < 10**9  # others write too


def test_a_disk_that_does_not_answer_is_one_error(tmp_path, monkeypatch):
    def fail(folder):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(space.shutil, "disk_usage", fail)
    with pytest.raises(OutputError, match=r"free space cannot be read \(Input/output error\); check that the disk"):
        SpaceCheck(tmp_path, 0).reason_to_wait(1)

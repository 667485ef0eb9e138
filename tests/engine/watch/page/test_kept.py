"""What a page keeps: bounded, and never closed under a reader."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import mrcfile
import numpy as np
import pytest

from tomoscribe.engine.watch.page.kept import KeptBytes, KeptVolumes, Volume


class Opened:
    """Stands for an open volume."""

    def __init__(self, number=0):
        self.number = number
        self.users, self.used, self.dropped, self.closed = 0, 0.0, False, 0

    def close(self):
        assert self.users == 0
        self.closed += 1


def visit(kept, key, opened=None):
    with kept.borrow(key, lambda: opened or Opened()) as volume:
        return volume


def never():
    raise AssertionError("it is open already")


def test_the_ones_used_last_stay_open():
    kept, volumes = KeptVolumes(2), [Opened(n) for n in range(3)]
    for n in (0, 1, 0, 2):
        visit(kept, (n,), volumes[n])
    assert [volume.closed for volume in volumes] == [0, 1, 0]
    for n in (0, 2):
        with kept.borrow((n,), never) as volume:
            assert volume is volumes[n]


def test_one_that_is_read_is_closed_when_its_last_reader_is_done():
    kept, read = KeptVolumes(1), Opened()
    with kept.borrow((0,), lambda: read), kept.borrow((0,), never):
        visit(kept, (1,))
        visit(kept, (2,))
        assert not read.closed
        with kept.borrow((0,), Opened) as another:
            assert another is not read
    assert read.closed == 1


def test_one_that_fails_to_be_read_is_given_back():
    kept, read = KeptVolumes(1), Opened()
    with pytest.raises(RuntimeError), kept.borrow((0,), lambda: read):
        raise RuntimeError
    assert read.users == 0


def test_two_that_open_the_same_share_one():
    kept, both, opened = KeptVolumes(4), threading.Barrier(2), []

    def open_volume():
        volume = Opened()
        opened.append(volume)
        both.wait(10)
        return volume

    with ThreadPoolExecutor(2) as threads:
        shared = list(threads.map(lambda _: visit_with(kept, open_volume), range(2)))
    assert shared[0] is shared[1]
    assert sorted(volume.closed for volume in opened) == [0, 1]


def visit_with(kept, open_volume):
    with kept.borrow((0,), open_volume) as volume:
        return volume


def test_those_that_nobody_read_for_a_while_are_closed():
    kept, idle, read = KeptVolumes(4), Opened(), Opened()
    visit(kept, (0,), idle)
    with kept.borrow((1,), lambda: read):
        kept.close_unused(3600)
        assert (idle.closed, read.closed) == (0, 0)
        kept.close_unused(0)
        assert (idle.closed, read.closed) == (1, 0)
    with kept.borrow((1,), never):
        pass


def test_all_are_closed_in_the_end():
    kept, idle, read = KeptVolumes(4), Opened(), Opened()
    visit(kept, (0,), idle)
    with kept.borrow((1,), lambda: read):
        kept.close()
        assert (idle.closed, read.closed) == (1, 0)
    assert read.closed == 1


def test_readers_never_meet_a_closed_volume(tmp_path):
    """Sixteen threads read more volumes than may be open; a descriptor that was closed early would give another's."""
    for number in range(6):
        with mrcfile.new(tmp_path / f"{number}.mrc") as file:
            file.set_data(np.full((3, 8, 8), number, np.int16))
    kept = KeptVolumes(2)

    def read(turn):
        number = turn * 7 % 6
        opened = tmp_path / f"{number}.mrc"
        with kept.borrow((number,), lambda: Volume.of(opened.open("rb"), axes="xyz", mode0="auto")) as volume:
            return set(volume.read(turn % 3, np.dtype(np.int16)).ravel()) == {number}

    with ThreadPoolExecutor(16) as threads:
        assert all(threads.map(read, range(400)))
    kept.close()


def test_a_volume_keeps_its_file_though_the_name_is_another_s(tmp_path):
    path = tmp_path / "a.mrc"
    for number in (1, 2):
        with mrcfile.new(path, overwrite=True, compression="gzip") as file:
            file.set_data(np.full((2, 4, 4), number, np.int16))
        if number == 1:
            volume = Volume.of(path.open("rb"), axes="xyz", mode0="auto")
            path.unlink()
    # Compressed, it is opened once more for its values.
    assert set(volume.read(0, np.dtype(np.int16)).ravel()) == {1}
    volume.close()


def test_a_file_that_is_no_volume_is_closed(tmp_path):
    (tmp_path / "a.mrc").write_text("nothing")
    file = (tmp_path / "a.mrc").open("rb")
    with pytest.raises(ValueError):
        Volume.of(file, axes="xyz", mode0="auto")
    assert file.closed


def test_bytes_are_bounded():
    kept = KeptBytes(100)
    for number in range(50):
        assert kept.keep((number,), bytes(30)) == bytes(30)
        kept.get((0,))  # used again and again
        assert sum(map(len, kept._pictures.values())) == kept._size <= 100
    assert [number for number in range(50) if kept.get((number,)) is not None] == [0, 48, 49]


def test_the_same_picture_counts_once_and_one_that_is_too_large_is_not_kept():
    kept = KeptBytes(100)
    for _ in range(10):
        kept.keep((0,), bytes(60))
    assert kept._size == 60
    kept.keep((1,), bytes(101))
    assert kept.get((1,)) is None
    assert kept._size == 0

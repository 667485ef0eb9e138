"""Files that are whole whenever they are there, and nothing beside them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tomoscribe.engine.errors import IntensityError, OutputError, TomogramNotFoundError
from tomoscribe.engine.replacing import replacing


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    return path


def write_half(path, error):
    with replacing(path) as temporary:
        temporary.write_text("half")
        raise error


def test_the_file_is_the_old_one_until_the_new_one_is_complete(path):
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert temporary.parent == path.parent
        assert temporary.name.startswith(".")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_two_writers_do_not_meet(path):
    with replacing(path) as first, replacing(path) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), ValueError("x"), IntensityError("x"), TomogramNotFoundError("x")]
)
def test_what_ends_the_block_comes_through_and_leaves_the_old_file(path, error):
    with pytest.raises(type(error)) as caught:
        write_half(path, error)
    assert caught.value is error
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_a_full_disk_is_one_line_and_leaves_the_old_file(path):
    with pytest.raises(OutputError) as caught:
        write_half(path, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert str(caught.value).startswith(f"{path}: cannot be written (No space left on device); check space")
    assert caught.value.__cause__.errno == errno.ENOSPC
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_a_file_that_cannot_be_renamed_is_removed(tmp_path):
    (tmp_path / "a").mkdir()
    with (
        pytest.raises(OutputError, match=r"a: cannot be written \(.*directory\)"),
        replacing(tmp_path / "a") as temporary,
    ):
        temporary.write_text("new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]


def test_a_removal_that_fails_does_not_hide_what_came_first(path, monkeypatch):
    def refuse(self, missing_ok=False):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    for error, raised in (
        (OSError("disk on fire"), OutputError),
        (KeyboardInterrupt("disk on fire"), KeyboardInterrupt),
    ):
        with pytest.raises(raised, match="disk on fire"):
            write_half(path, error)

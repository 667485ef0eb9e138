"""Opening files: what lies in the folder, and nothing else, whatever leads there."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys

import pytest

from tomoscribe.engine.watch.page.inside import open_inside


@pytest.fixture
def folder(tmp_path):
    """A folder with a file, beside another folder with a secret."""
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    for path in (folder / "sub" / "file", folder / ".own" / "ledger", outside / "secret"):
        path.parent.mkdir(parents=True)
        path.write_text(path.name)
    return folder.resolve()


def read(folder, path):
    with open_inside(folder, path) as file:
        return file.read().decode()


def test_what_lies_inside_is_read(folder):
    (folder / "link").symlink_to("sub/file")
    (folder / "folder_link").symlink_to(folder / "sub")
    for path in ("sub/file", "./sub/../sub/file", "link", "folder_link/file", folder / "sub" / "file"):
        assert read(folder, path) == "file"


@pytest.mark.parametrize(
    "path", ["../outside/secret", "sub/../../outside/secret", "/etc/passwd", "/proc/self/environ", "/dev/null"]
)
def test_what_lies_outside_is_refused(folder, path):
    with pytest.raises(PermissionError):
        open_inside(folder, path)


def test_links_that_lead_out_are_refused(folder):
    (folder / "link").symlink_to("../outside/secret")
    (folder / "folder_link").symlink_to(folder.parent / "outside")
    (folder / "chain").symlink_to("link")
    # The beginning of its name is that of the folder's.
    (folder.parent / "folder_2").mkdir()
    (folder.parent / "folder_2" / "secret").write_text("secret")
    for path in ("link", "folder_link/secret", "chain", "../folder_2/secret"):
        with pytest.raises(PermissionError):
            open_inside(folder, path)


def test_what_is_hidden_is_refused_by_any_name(folder):
    (folder / "link").symlink_to(".own/ledger")
    for path in (".own/ledger", "link"):
        with pytest.raises(PermissionError):
            open_inside(folder, path)


def test_only_files_are_opened(folder):
    os.mkfifo(folder / "pipe")  # opening it would wait for a writer
    (folder / "device").symlink_to("/dev/zero")
    for path in ("pipe", "device", "sub", "."):
        with pytest.raises(PermissionError):
            open_inside(folder, path)


@pytest.mark.parametrize("path", ["nothing", "sub/file/more", "x" * 300])
def test_what_is_not_there(folder, path):
    with pytest.raises(OSError):
        open_inside(folder, path)


def test_a_circle_of_links(folder):
    (folder / "a").symlink_to("b")
    (folder / "b").symlink_to("a")
    with pytest.raises(OSError):
        open_inside(folder, "a")


def test_no_path(folder):
    with pytest.raises(ValueError):
        open_inside(folder, "a\0b")


def test_no_descriptor_is_left(folder):
    before = os.listdir("/proc/self/fd")  # noqa: PTH208
    with open_inside(folder, "sub/file"):
        pass
    for path in ("../outside/secret", "nothing"):
        with pytest.raises(OSError):
            open_inside(folder, path)
    assert os.listdir("/proc/self/fd") == before  # noqa: PTH208


def test_what_is_refused_was_not_opened(folder):
    """A process loses its locks on a file, SQLite's for one, when it closes any descriptor of it."""
    ledger = folder / ".own" / "ledger"
    program = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    with ledger.open("r+") as locked:
        fcntl.lockf(locked, fcntl.LOCK_EX)
        with pytest.raises(PermissionError):
            open_inside(folder, ledger)
        ended = subprocess.run([sys.executable, "-c", program, str(ledger)], capture_output=True, check=False)
    assert ended.returncode == 1
    assert b"BlockingIOError" in ended.stderr

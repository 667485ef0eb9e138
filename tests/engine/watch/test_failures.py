"""What errors say of the tomogram, and what of the disk."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from tomoscribe.engine.errors import IntensityError, OutputError
from tomoscribe.engine.replacing import replacing
from tomoscribe.engine.watch.failures import may_pass, reason_of
from tomoscribe.engine.watch.ledger_file import LedgerError

TOMOGRAM = Path("/data/a.mrc")


def failure(number):
    """What a write that fails in this way becomes."""
    with pytest.raises(OutputError) as caught, replacing(Path("a.mrc")):
        raise OSError(number, "because")
    return caught.value


@pytest.mark.parametrize("name", ["ENOSPC", "EDQUOT", "EROFS", "EACCES", "EPERM", "EIO", "ESTALE", "ENOENT", "EMFILE"])
def test_what_a_disk_cannot_do_may_pass(name):
    assert may_pass(failure(getattr(errno, name)))


@pytest.mark.parametrize("name", ["ENAMETOOLONG", "EISDIR", "ENOTDIR", "EEXIST", "EFBIG", "EINVAL"])
def test_what_a_name_or_a_size_does_not_allow_lasts(name):
    assert not may_pass(failure(getattr(errno, name)))


def test_a_ledger_that_is_locked_may_pass_and_a_damaged_one_not():
    locked = LedgerError("locked")
    locked.errno = errno.EBUSY
    assert may_pass(locked)
    assert not may_pass(LedgerError("damaged"))


def test_errors_that_are_not_of_the_outputs_do_not_pass():
    assert not may_pass(OSError(errno.ENOSPC, "no space"))
    assert not may_pass(IntensityError("constant"))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (IntensityError(f"{TOMOGRAM}: all values\nare 3"), "all values are 3"),
        (IntensityError("slice 3 is NaN"), "slice 3 is NaN"),
        (MemoryError(), "the memory of this machine does not suffice for it; label it on a larger one"),
        (KeyError("x"), "unexpected KeyError: 'x'; the log has the traceback"),
        (ZeroDivisionError(), "unexpected ZeroDivisionError; the log has the traceback"),
    ],
)
def test_reasons_are_one_line_without_the_path(error, reason):
    assert reason_of(error, TOMOGRAM) == reason

"""What an error says of the tomogram that was labelled, and what of the disk, or of nothing foreseen."""

from __future__ import annotations

import errno
from pathlib import Path

from tomoscribe.engine.errors import OutputError, TomoscribeError

__all__ = ["Blocked", "in_a_line", "may_pass", "reason_of"]

# What the names or the sizes of one tomogram's outputs meet, and those of others need not.
_LASTING = {
    errno.EEXIST,
    errno.EFBIG,
    errno.EILSEQ,
    errno.EINVAL,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOTDIR,
}


class Blocked(Exception):  # noqa: N818 - it is waited for
    """Nothing can be written at the moment, whatever the tomogram; the message says why, in a line."""


def may_pass(error: BaseException) -> bool:
    """Return whether what could not be written can be once a disk has room, is mounted or may be written to again."""
    if not isinstance(error, OutputError):
        return False
    cause = error if error.errno else error.__cause__
    number = cause.errno if isinstance(cause, OSError) else None
    return bool(number) and number not in _LASTING


def reason_of(error: Exception, tomogram: Path) -> str:
    """Return why a tomogram cannot be labelled as it is, in a line that does not repeat its path."""
    message = in_a_line(error).removeprefix(f"{tomogram}: ")
    if isinstance(error, TomoscribeError):
        return message
    if isinstance(error, MemoryError):
        return "the memory of this machine does not suffice for it; label it on a larger one"
    return f"unexpected {': '.join(filter(None, (type(error).__name__, message)))}; the log has the traceback"


def in_a_line(error: BaseException) -> str:
    """Return an error's message without line breaks."""
    return " ".join(str(error).split())

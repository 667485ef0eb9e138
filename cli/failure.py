"""How an error is told: in one line on stderr."""

from __future__ import annotations

import sys
from pathlib import Path

__all__ = ["INTERRUPTED", "describe", "exit_status", "print_error"]

INTERRUPTED = 130


def describe(error: BaseException, path: Path | None = None) -> str:
    """Return the line that tells an error; one that nobody foresaw says how to see more.

    Args:
        error: the error.
        path: the file that was worked on; the line begins with it if the error does not name it.
    """
    from tomoscribe.engine.errors import TomoscribeError

    message = " ".join(str(error).split())
    if not isinstance(error, TomoscribeError):
        what = ": ".join(filter(None, (type(error).__name__, message)))
        message = f"unexpected {what}; run with --debug for the traceback"
    return message if path is None or str(path) in message else f"{path}: {message}"


def exit_status(error: BaseException) -> int:
    """Return the exit status for an error: 2 where the input has to change, 1 where something failed."""
    from tomoscribe.engine.errors import TomoscribeError

    return error.exit_status if isinstance(error, TomoscribeError) else 1


def print_error(message: str) -> None:
    """Write an error's line to stderr."""
    print(f"tomoscribe: error: {message}", file=sys.stderr)  # noqa: T201 - the one place that writes errors

"""The command that is run for every tomogram that is finished."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tomoscribe.engine.watch.entry import Entry
from tomoscribe.engine.watch.settings import WatchSettings

__all__ = ["HOOK_TIMEOUT", "run_hook"]

HOOK_TIMEOUT = 600.0
"""Seconds that a command may take: one that hangs would keep all others waiting."""

_LOOK = 0.05
_GRACE = 0.5  # seconds between asking to stop and killing; a watcher that stops has two
_TAIL = 4096  # bytes of what it says that are kept, for its last line
_PORTION = 1 << 16  # bytes: all that a pipe holds
_LONGEST_LINE = 200


def run_hook(
    command: Sequence[str],
    entry: Entry,
    settings: WatchSettings,
    timeout: float = HOOK_TIMEOUT,
    stop: threading.Event | None = None,
) -> str | None:
    """Run a command for a finished tomogram, and return how it ended, in a line.

    No shell comes between. The entry's JSON (`Entry.to_json`) is on its stdin; its environment has the absolute paths
    ``TOMOSCRIBE_TOMOGRAM``, ``TOMOSCRIBE_LABELS``, ``TOMOSCRIBE_SIDECAR`` and ``TOMOSCRIBE_OUTPUT`` (the output
    folder), and not the page's token. It leads a process group of its own, which is ended with it.

    Args:
        command: the program and its arguments.
        entry: a finished one.
        settings: of the watcher, for the folders.
        timeout: seconds after which it is ended.
        stop: ends it early.

    Returns:
        ``exit 0 in 1.2 s``, or what went wrong with the last line that it printed; None if `stop` ended it, so that it
        has to run again.
    """
    started = time.monotonic()
    stop = stop or threading.Event()
    try:
        # A file, for a pipe would have to be fed while the command does not read it.
        with tempfile.TemporaryFile() as entry_json:
            entry_json.write(json.dumps(entry.to_json()).encode())
            entry_json.seek(0)
            process = subprocess.Popen(  # noqa: S603 - the user's own command
                command,
                stdin=entry_json,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=_environment(entry, settings),
                start_new_session=True,
            )
    except (OSError, ValueError) as error:
        return f"cannot be run ({error})"
    with process:
        assert process.stdout is not None
        said = _Tail(process.stdout.fileno())
        while not (finished := _has_ended(process)) and not stop.is_set() and time.monotonic() - started < timeout:
            said.read(_LOOK)
        if not finished:
            _end_group(process, said)
        said.read(0)
    if finished:
        return _ending(process.returncode, time.monotonic() - started, said.last_line())
    return None if stop.is_set() else f"ended, for it took more than {timeout:g} s{said.last_line()}"


class _Tail:
    """The end of what a command prints.

    Args:
        descriptor: the reading end of a pipe. Its end of file is not waited for: what the command leaves running may
            hold it open.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)
        self._bytes = b""
        self._ended = False

    def read(self, patience: float) -> None:
        """Take what is there, and wait for more so many seconds at most."""
        if self._ended:
            time.sleep(patience)
        elif self._poll.poll(1000 * patience):
            data = os.read(self._descriptor, _PORTION)
            self._bytes = (self._bytes + data)[-_TAIL:]
            self._ended = not data

    def last_line(self) -> str:
        """Return the last line that has something in it, after a colon; nothing where there is none."""
        lines = self._bytes.decode(errors="replace").split("\n")
        last = next((text for line in reversed(lines) if (text := " ".join(line.split()))), "")
        return f": {last[:_LONGEST_LINE]}" if last else ""


def _environment(entry: Entry, settings: WatchSettings) -> Mapping[str, str]:
    outputs = entry.outputs or {}
    output = settings.output.absolute()
    paths: dict[str, Path | None] = {
        "TOMOSCRIBE_TOMOGRAM": settings.folder.absolute() / entry.path,
        "TOMOSCRIBE_LABELS": output / outputs["labels"] if "labels" in outputs else None,
        "TOMOSCRIBE_SIDECAR": output / outputs["sidecar"] if "sidecar" in outputs else None,
        "TOMOSCRIBE_OUTPUT": output,
    }
    inherited = {name: value for name, value in os.environ.items() if name != "TOMOSCRIBE_TOKEN"}
    return inherited | {name: str(path) for name, path in paths.items() if path is not None}


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Return whether a command has ended, and leave it to be waited for: its number stays its own until then."""
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _end_group(process: subprocess.Popen[bytes], said: _Tail) -> None:
    """End a command and what it started: it is asked first. One that runs as another user cannot be."""
    _signal_group(process, signal.SIGTERM)
    deadline = time.monotonic() + _GRACE
    while not _has_ended(process) and time.monotonic() < deadline:
        said.read(_LOOK)
    _signal_group(process, signal.SIGKILL)


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(PermissionError):
        os.killpg(process.pid, number)


def _ending(status: int, seconds: float, last_line: str) -> str:
    if status == 0:
        return f"exit 0 in {seconds:.1f} s"
    if status < 0:
        return f"ended by {_signal_name(-status)} after {seconds:.1f} s{last_line}"
    return f"exit {status} in {seconds:.1f} s{last_line}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"

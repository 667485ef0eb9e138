"""Which process has something, in words that another process can check."""

from __future__ import annotations

import os
import secrets
import socket
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Self

from tomoscribe.engine.errors import ParameterError

__all__ = ["Owner"]

_PROCESSES = Path("/proc")
_ENDED = "ZX"


@dataclass(frozen=True)
class Owner:
    """A process.

    Attributes:
        host: where its number means that process and no other: the machine's name, its present boot, and the PID
            namespace that it is in, which a container has for itself.
        pid: its number.
        started: when it started, in clock ticks since that boot, so that another one with the same number is not taken
            for it; 0 where the system does not say.
    """

    host: str
    pid: int
    started: int

    @classmethod
    def current(cls) -> Self:
        """Return the process that asks."""
        pid = os.getpid()
        _, started = _look_up(pid) or ("", 0)
        return cls(_host(), pid, started)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the owner that `str` gave as a text.

        Raises:
            ParameterError: the text is none of those.
        """
        host, _, rest = text.partition("/")
        pid, _, started = rest.partition("/")
        if not (host and pid.isdecimal() and started.isdecimal()):
            raise ParameterError(f"expected the owner of a lease as host/pid/start time, found {text!r}")
        return cls(host, int(pid), int(started))

    def __str__(self) -> str:
        return f"{self.host}/{self.pid}/{self.started}"

    def is_dead(self) -> bool:
        """Return whether it is known to have ended: it was on this host, and no such process runs here any more."""
        if self.host != _host() or not self.started:
            return False
        found = _look_up(self.pid)
        if found is None:
            return _is_unknown(self.pid)
        state, started = found
        return started != self.started or state in _ENDED


@cache
def _host() -> str:
    try:
        boot = (_PROCESSES / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespace = (_PROCESSES / "self/ns/pid").readlink().name
    except OSError:  # not Linux: what a number means is not known, so that no other process is on this very host
        boot, namespace = secrets.token_hex(8), ""
    return f"{socket.gethostname()}.{boot}.{namespace}"


def _look_up(pid: int) -> tuple[str, int] | None:
    """Return the state and the start time of a process, fields 3 and 22 of ``/proc/PID/stat`` (proc_pid_stat(5))."""
    try:
        text = (_PROCESSES / str(pid) / "stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    # Field 2 is the command's name in brackets, which may itself have blanks and brackets.
    fields = text.rpartition(")")[2].split()
    return fields[0], int(fields[19])


def _is_unknown(pid: int) -> bool:
    """Return whether there is no process of that number; with `hidepid` others' are there and not in ``/proc``."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False

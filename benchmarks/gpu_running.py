"""Running a part in a process of its own, within its time."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gpu_parts import Part

__all__ = ["DONE", "FAILED", "MISSING", "STOPPED", "Outcome", "Process"]

DONE, FAILED, MISSING, STOPPED = "done", "failed", "missing", "stopped"

CHILD = Path(__file__).with_name("gpu_child.py")
_LAST_LINES = 12


@dataclass(frozen=True)
class Outcome:
    """What came of a part.

    Attributes:
        part: which.
        state: ``done``, ``failed``, ``missing`` (something that it needs is not there) or ``stopped`` (its time ran
            out).
        reason: why it is not done, in a line.
        seconds: that it took.
        notes: what it found until then.
        said: the last lines of what a failed one said.
    """

    part: Part
    state: str
    reason: str = ""
    seconds: float = 0.0
    notes: Sequence[Mapping[str, Any]] = field(default_factory=list)
    said: Sequence[str] = ()

    @classmethod
    def missing(cls, part: Part, reason: str) -> Outcome:
        """Return that of a part that cannot be begun."""
        return cls(part, MISSING, reason)

    def to_json(self) -> dict[str, Any]:
        """Return the outcome in JSON's types."""
        return asdict(self)


class Process:
    """A part at work.

    Args:
        part: which.
        work: the folder that the parts share.
        seconds: that it has, which may be fewer than it asks for.
    """

    def __init__(self, part: Part, work: Path, seconds: float) -> None:
        self._part = part
        stem = work / "-".join(part.name.split())
        self._notes, self._log = stem.with_name(f"{stem.name}.jsonl"), stem.with_name(f"{stem.name}.log")
        task = {
            "study": part.study,
            "arguments": dict(part.arguments),
            "work": str(work),
            "notes": str(self._notes),
        }
        self._notes.unlink(missing_ok=True)
        self._begun = time.monotonic()
        self._seconds = min(seconds, part.seconds)
        with self._log.open("wb") as log:
            # A session of its own, so that what it starts ends with it.
            self._process = subprocess.Popen(  # noqa: S603
                [sys.executable, str(CHILD), json.dumps(task)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def finish(self) -> Outcome:
        """Wait for the part to end, or for its time to run out."""
        left = self._begun + self._seconds - time.monotonic()
        try:
            status: int | None = self._process.wait(max(0.0, left))
        except subprocess.TimeoutExpired:
            status = None
        finally:
            self.stop()
        seconds, said = time.monotonic() - self._begun, self._said()
        if status == 0:
            return Outcome(self._part, DONE, "", seconds, self._read())
        if status is None:
            return Outcome(self._part, STOPPED, f"not done in {self._seconds:.0f} s", seconds, self._read(), said)
        reason = said[-1] if said else f"it said nothing, and its status was {status}"
        return Outcome(self._part, FAILED, reason, seconds, self._read(), said)

    def stop(self) -> None:
        """End the part and all that it started, if anything is left of them."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _read(self) -> list[dict[str, Any]]:
        notes = []
        with contextlib.suppress(FileNotFoundError):
            for line in self._notes.read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(ValueError):  # the last line of one that was stopped
                    notes.append(json.loads(line))
        return notes

    def _said(self) -> list[str]:
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        return [line.rstrip() for line in lines if line.strip()][-_LAST_LINES:]

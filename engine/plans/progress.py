"""Progress of a TensorRT build, which takes minutes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tensorrt

__all__ = ["BuildProgress", "Phases", "progress_monitor"]

BuildProgress = Callable[[str, float], None]
"""Is told the phase that the build is in, in TensorRT's words, and the share of the build that is done, 0 to 1."""


@dataclass
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


class Phases:
    """The phases of a build: each has steps, and a step of one phase may be a phase of its own.

    Several threads of TensorRT's may report. An exception must not reach TensorRT, which would print it and go on: it
    is kept, and the build is cancelled, Ctrl-C too.

    Attributes:
        error: what `report` raised, or Ctrl-C.
    """

    def __init__(self, report: BuildProgress) -> None:
        self.error: BaseException | None = None
        self._report = report
        self._phases: dict[str, _Phase] = {}
        self._lock = threading.Lock()
        self._share = 0.0

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """Enter a phase, which is a part of the parent's current step."""

        def enter() -> None:
            self._phases[name] = _Phase(parent or None, max(1, steps))

        self._update(enter)

    def complete(self, name: str, step: int) -> bool:
        """Note that a step, counted from 0, is done; return whether the build is to go on."""

        def note() -> None:
            if name in self._phases:
                self._phases[name].done = step + 1

        self._update(note)
        return self.error is None

    def finish(self, name: str) -> None:
        """Leave a phase."""
        self._update(lambda: self._phases.pop(name, None))

    def _update(self, change: Callable[[], object]) -> None:
        try:
            with self._lock:
                change()
                if self._phases:
                    outermost = next(name for name, phase in self._phases.items() if phase.parent not in self._phases)
                    # A phase may end before all of its steps, and another begin: the share never goes back.
                    self._share = max(self._share, self._share_of(outermost))
                    self._report(list(self._phases)[-1], self._share)
        except BaseException as error:
            self.error = self.error or error

    def _share_of(self, name: str) -> float:
        phase = self._phases[name]
        within = max((self._share_of(child) for child, part in self._phases.items() if part.parent == name), default=0)
        return min(1.0, (phase.done + within) / phase.steps)


def progress_monitor(phases: Phases) -> tensorrt.IProgressMonitor:
    """Return what TensorRT tells of its phases; it has to outlive the build."""
    import tensorrt

    class Monitor(tensorrt.IProgressMonitor):
        def __init__(self) -> None:
            tensorrt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str, num_steps: int) -> None:
            phases.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return phases.complete(phase_name, step)

        def phase_finish(self, phase_name: str) -> None:
            phases.finish(phase_name)

    return Monitor()

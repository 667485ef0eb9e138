"""What is said while TensorRT builds a plan, which takes minutes: a line, and a bar where bars are drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.progress import Progress

__all__ = ["PlanBar"]


class PlanBar:
    """Is told how far a plan is; a `tomoscribe.engine.plans.progress.BuildProgress`.

    Args:
        progress: the bars that it is one of.
        say: prints a line.
        fields: what the columns of the bars need.
    """

    def __init__(self, progress: Progress, say: Callable[[str], None], **fields: Any) -> None:  # noqa: ANN401
        self._progress = progress
        self._say = say
        self._task = progress.add_task("plan", total=100, visible=False, **fields)
        self._share = 1.0

    def __call__(self, phase: str, share: float) -> None:
        """Take the share of the build that is done, 0 to 1; in the first call of a build, the phase says why it is."""
        if share < self._share:  # within a build it never goes back
            self._say(f"plan     TensorRT builds one for this GPU, which takes minutes, and keeps it: {phase}")
        self._share = share
        self._progress.update(self._task, completed=round(100 * share), visible=share < 1, refresh=True)

    def hide(self) -> None:
        """Take the bar away: the build is over, wherever it ended."""
        self._share = 1.0
        self._progress.update(self._task, visible=False)

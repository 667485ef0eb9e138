"""What ``tomoscribe bench`` says while it measures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from tomoscribe.cli.plan_bar import PlanBar
from tomoscribe.engine.latency.sweep import Step

__all__ = ["BenchProgress"]


class BenchProgress:
    """Lines on stderr, and a bar where that is a terminal."""

    def __init__(self, quiet: bool) -> None:
        self._console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            console=self._console,
            transient=True,
            # Redrawing takes time from what is measured.
            auto_refresh=False,
            disable=quiet or not self._console.is_terminal,
        )
        self._plan = PlanBar(self._bar, self.say)

    def say(self, line: str) -> None:
        """Print a line."""
        self._console.print(Text(line))

    def build(self, phase: str, share: float) -> None:
        """Take how far TensorRT is with a plan, see `PlanBar`; called from any thread."""
        self._plan(phase, share)

    def track(self, steps: Sequence[Step]) -> Iterator[Step]:
        """Yield the steps, and tell of each before."""
        task = self._bar.add_task("measuring", total=len(steps))
        for step in steps:
            self._plan.hide()
            self.say(f"measure  {step.description}")
            self._bar.refresh()
            yield step
            self._bar.advance(task)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Take the bar away."""
        self._bar.stop()

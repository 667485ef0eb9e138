"""What a run says: to a person at a terminal, or to a script as JSON."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from tomoscribe.cli.failure import print_error
from tomoscribe.cli.plan_bar import PlanBar
from tomoscribe.cli.profile_page import profile_page
from tomoscribe.engine import ClassMap, Segmentation, Segmenter

__all__ = ["JsonReport", "Report", "TerminalReport"]


class Report(Protocol):
    """Is told how a run goes; a context manager.

    Attributes:
        status: the exit status so far, the highest of those of the errors.
    """

    status: int

    def build(self, phase: str, share: float) -> None:
        """Take how far TensorRT is with a plan, see `PlanBar`; called from any thread."""
        ...

    def introduce(self, segmenter: Segmenter, tomograms: Sequence[Path], left_out: Sequence[Path]) -> None:
        """Take the tomograms of the run, and what the rules for inputs leave out."""
        ...

    def skip(self, path: Path) -> None:
        """Take a tomogram that is not done because it has labels already."""
        ...

    def begin(self, path: Path, shape: tuple[int, int, int], span: tuple[int, int]) -> Callable[[int], None]:
        """Take the tomogram that is next, and return what is to be called with numbers of finished slices.

        Those are negative where slices are to be done again.
        """
        ...

    def warn(self, path: Path, warning: str) -> None:
        """Take what a user should know of the tomogram before it is labelled."""
        ...

    def finish(self, result: Segmentation, picture: Path | None) -> None:
        """Take a tomogram's result."""
        ...

    def miss_extra(self, path: Path, message: str, status: int) -> None:
        """Take what kept the picture or the trace of a finished tomogram from being written."""
        ...

    def fail(self, path: Path | None, message: str, status: int) -> None:
        """Take an error; the path is None where it is the run's."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...


class JsonReport:
    """One JSON object a line and tomogram on stdout: ``status`` is ``done``, ``skipped`` or ``error``.

    A tomogram whose picture alone failed has two lines, ``done`` and ``error``.
    """

    def __init__(self) -> None:
        self.status = 0

    def build(self, phase: str, share: float) -> None:
        """Say nothing."""

    def introduce(self, segmenter: Segmenter, tomograms: Sequence[Path], left_out: Sequence[Path]) -> None:
        """Say nothing."""

    def skip(self, path: Path) -> None:
        """Print that it is skipped."""
        self._print(status="skipped", tomogram=str(path))

    def begin(self, path: Path, shape: tuple[int, int, int], span: tuple[int, int]) -> Callable[[int], None]:
        """Say nothing."""
        return lambda count: None

    def warn(self, path: Path, warning: str) -> None:
        """Say nothing; the warnings come with the result."""

    def finish(self, result: Segmentation, picture: Path | None) -> None:
        """Print the result."""
        self._print(status="done", **result.to_json(), picture=None if picture is None else str(picture))

    def miss_extra(self, path: Path, message: str, status: int) -> None:
        """Print the error, after the result."""
        self.fail(path, message, status)

    def fail(self, path: Path | None, message: str, status: int) -> None:
        """Print the error."""
        self.status = max(self.status, status)
        self._print(status="error", tomogram=None if path is None else str(path), error=message, exit_status=status)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        return

    def _print(self, **entries: Any) -> None:  # noqa: ANN401 - whatever JSON takes
        # Flushed, so that a script that reads along sees every line when it is true.
        sys.stdout.write(json.dumps(entries) + "\n")
        sys.stdout.flush()


class TerminalReport:
    """Lines and bars on stderr, and a table on stdout when all is done. Bars are drawn on a terminal only."""

    def __init__(self, quiet: bool) -> None:
        self.status = 0
        self._quiet = quiet
        self._console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[unit]}"),
            _Rate(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=quiet or not self._console.is_terminal,
        )
        self._started = time.perf_counter()
        self._run = self._progress.add_task("all", unit="tomograms", voxels=0, visible=False)
        self._current = self._progress.add_task("", unit="slices", voxels=0, visible=False)
        self._plan = PlanBar(self._progress, self._say, unit="%", voxels=0)
        self._class_map: ClassMap | None = None
        self._counts: Counter[str] = Counter()
        self._voxels = self._total = self._done = self._skipped = self._failed = self._incomplete = 0

    def build(self, phase: str, share: float) -> None:
        """Say that it takes its time, and draw a bar."""
        self._plan(phase, share)

    def introduce(self, segmenter: Segmenter, tomograms: Sequence[Path], left_out: Sequence[Path]) -> None:
        """Say what runs where and why, and what is left out."""
        self._class_map = segmenter.bundle.specification.class_map
        self._say(f"model    {segmenter.bundle.specification.name} ({segmenter.bundle.path})")
        self._say(f"backend  {segmenter.backend} ({segmenter.reason})")
        if left_out:
            self._say(f"left out {_listed(left_out)}: outputs of earlier runs, or half maps", "yellow")
        self._total = len(tomograms)
        self._progress.update(self._run, total=self._total, visible=self._total > 1)

    def skip(self, path: Path) -> None:
        """Say it, and take the tomogram out of the run's bar, whose time left it would spoil."""
        self._say(f"skipped  {path}: labels are there already; --overwrite replaces them", "yellow")
        self._skipped += 1
        self._progress.update(self._run, total=self._total - self._skipped)

    def begin(self, path: Path, shape: tuple[int, int, int], span: tuple[int, int]) -> Callable[[int], None]:
        """Start the tomogram's bar."""
        slices = span[1] - span[0]
        area = shape[1] * shape[2]
        self._progress.reset(
            self._current, description=path.name, total=slices, visible=True, unit="slices", voxels=area
        )

        def advance(count: int) -> None:
            self._plan.hide()
            # `update`, because `advance` takes a step back for a speed.
            self._progress.update(self._current, advance=count)
            # In fractions of a tomogram, so that the time left is known before the first is done.
            self._progress.update(self._run, advance=count / slices)

        return advance

    def warn(self, path: Path, warning: str) -> None:
        """Say it."""
        self._say(f"{path}: warning: {warning}", "yellow")

    def finish(self, result: Segmentation, picture: Path | None) -> None:
        """Say how the tomogram went."""
        depth, height, width = result.geometry.shape
        speed = _speed(result.voxels_per_second)
        self._say(f"{result.tomogram}: {width} × {height} × {depth}, {result.seconds:.1f} s, {speed} → {result.labels}")
        if picture is not None:
            self._say(f"{result.tomogram}: picture → {picture}")
        if result.profile is not None:
            for part in profile_page(result.profile, result.seconds):
                self._console.print(part)
        self._counts.update(result.counts)
        self._voxels += result.voxels
        self._done += 1
        self._complete()

    def miss_extra(self, path: Path, message: str, status: int) -> None:
        """Say what went wrong; the tomogram counts as segmented."""
        self.status = max(self.status, status)
        self._incomplete += 1
        print_error(message)

    def fail(self, path: Path | None, message: str, status: int) -> None:
        """Say what went wrong."""
        self.status = max(self.status, status)
        self._failed += 1
        print_error(message)
        self._complete()

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Take the bars away; after a run that came to its end, print the table."""
        self._progress.stop()
        if error[0] is None and self._class_map is not None:
            self._summarise(self._class_map)

    def _complete(self) -> None:
        self._plan.hide()
        self._progress.update(self._current, visible=False)
        self._progress.update(self._run, completed=self._done + self._failed)

    def _say(self, line: str, style: str = "") -> None:
        self._console.print(Text(line, style))

    def _summarise(self, class_map: ClassMap) -> None:
        out = Console(quiet=self._quiet, highlight=False)
        if self._done:
            table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
            table.add_column("class")
            table.add_column("voxels", justify="right")
            table.add_column("share", justify="right")
            for label_class in class_map.classes:
                if label_class.name in self._counts:
                    voxels = self._counts[label_class.name]
                    swatch = ("■ ", "rgb({},{},{})".format(*label_class.colour))
                    table.add_row(
                        Text.assemble(swatch, label_class.name), f"{voxels:,}", f"{voxels / self._voxels:.2%}"
                    )
            out.print(table)
        seconds = time.perf_counter() - self._started
        parts = [f"{self._done} segmented"]
        rest = ((self._incomplete, "without picture or trace"), (self._skipped, "skipped"), (self._failed, "failed"))
        parts += [f"{count} {what}" for count, what in rest if count]
        parts += [f"{seconds:.1f} s", _speed(self._voxels / seconds)] if self._done else []
        out.print(", ".join(parts))


class _Rate(ProgressColumn):
    """Voxels a second."""

    def render(self, task: Task) -> Text:
        if not task.speed or not task.fields["voxels"]:
            return Text("")
        return Text(_speed(task.speed * task.fields["voxels"]), "cyan")


def _speed(voxels_per_second: float) -> str:
    return f"{voxels_per_second / 1e6:.1f} Mvoxel/s"


def _listed(paths: Sequence[Path]) -> str:
    return str(paths[0]) if len(paths) == 1 else f"{len(paths)} files, such as {paths[0].name}"

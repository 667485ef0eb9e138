"""``tomoscribe bench``: latency, throughput, time to the first slice and cold start of a model on this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from tomoscribe.cli.failure import describe, exit_status, print_error

if TYPE_CHECKING:
    from tomoscribe.cli.bench_progress import BenchProgress
    from tomoscribe.engine.bundle import Bundle
    from tomoscribe.engine.latency.sweep import Result, Sweep

__all__ = ["bench"]

T = TypeVar("T")

_EFFORT, _COMPARISON = "How much", "Two runs"


def bench(
    context: typer.Context,
    bundle: Annotated[
        Path | None,
        typer.Argument(metavar="BUNDLE", help="Folder of the model.", show_default="the model that came along"),
    ] = None,
    backend: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME,...",
            help="What runs it: auto, tensorrt or onnxruntime-cuda on a GPU, openvino or onnxruntime on the CPU.",
            show_default="auto",
        ),
    ] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME,...", help="What it is computed in: auto, fp32, fp16, bf16, int8.", show_default="auto"
        ),
    ] = None,
    device: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WHERE",
            help="Where it runs: auto, cpu, or a GPU by its number; 0,1 is two GPUs together. Repeat it for several.",
            show_default="auto",
        ),
    ] = None,
    tile: Annotated[
        list[str] | None,
        typer.Option(metavar="YxX,...", help="Size of a tile in pixels; 512 is 512x512.", show_default="512"),
    ] = None,
    batch: Annotated[
        list[str] | None, typer.Option(metavar="N,...", help="Slices of a query.", show_default="1")
    ] = None,
    streams: Annotated[
        list[str] | None,
        typer.Option(
            metavar="N,...",
            help="Queries at a time: 1 gives one all of the device, auto is what segment takes.",
            show_default="1,auto",
        ),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write every figure there too.", show_default=False)
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only tables and errors.")] = False,
    warm_up: Annotated[
        float, typer.Option(metavar="MS", min=0, help="Queries before do not count.", rich_help_panel=_EFFORT)
    ] = 200.0,
    duration: Annotated[
        float, typer.Option(metavar="S", min=0, help="Shortest time for the queries of a row.", rich_help_panel=_EFFORT)
    ] = 3.0,
    runs: Annotated[int, typer.Option(metavar="N", min=1, help="Fewest queries.", rich_help_panel=_EFFORT)] = 10,
    slices: Annotated[
        int,
        typer.Option(
            metavar="N", min=0, help="Slices of the volume that is segmented; 0 for none.", rich_help_panel=_EFFORT
        ),
    ] = 32,
    cold_starts: Annotated[
        int, typer.Option(metavar="N", min=0, help="Starts in a process of their own.", rich_help_panel=_EFFORT)
    ] = 5,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="A.json B.json",
            help="Measure nothing, and tell what is slower in B than in A; the exit status is 1 if anything is.",
            show_default=False,
            rich_help_panel=_COMPARISON,
        ),
    ] = None,
    tolerance: Annotated[
        float,
        typer.Option(
            metavar="PERCENT", min=0, help="Slower by so much, besides noise, is the same.", rich_help_panel=_COMPARISON
        ),
    ] = 5.0,
) -> None:
    """Measure how fast a model is here: latency and throughput, the first labelled slice, a cold start.

    Latencies are those of NVIDIA's trtexec. Where options have several values,
    separated by commas or repeated, every combination is measured.
    """
    if compare is not None:
        from tomoscribe.cli.bench_compare import print_comparison

        if bundle is not None or json_file is not None:
            raise typer.BadParameter("nothing is measured, so leave out BUNDLE and --json", param_hint="'--compare'")
        raise typer.Exit(print_comparison(*compare, tolerance / 100))

    from tomoscribe.cli.bench_page import bench_page
    from tomoscribe.cli.bench_progress import BenchProgress
    from tomoscribe.cli.page import print_page
    from tomoscribe.engine import Bundle, default_bundle
    from tomoscribe.engine.latency.configuration import Effort
    from tomoscribe.engine.latency.record import Measurement, Record
    from tomoscribe.engine.latency.sweep import Sweep

    sweep = Sweep(
        tiles=_values(tile, "512", _parse_tile, "--tile", "YxX such as 512x768, or one number"),
        batches=_values(batch, "1", _parse_count, "--batch", "whole numbers from 1"),
        streams=_values(streams, "1,auto", _parse_streams, "--streams", "whole numbers from 1, or auto"),
        slices=slices,
        cold_starts=cold_starts,
        effort=Effort(warm_up, duration, runs),
    )
    requests = [
        (name, arithmetic, where)
        for name in _values(backend, "auto", str, "--backend", "a name")
        for arithmetic in _values(precision, "auto", str, "--precision", "a name")
        for where in dict.fromkeys(device or ["auto"])
    ]
    if json_file is not None and not json_file.absolute().parent.is_dir():
        raise typer.BadParameter(f"no such folder: {json_file.absolute().parent}", param_hint="'--json'")
    loaded = Bundle.load(default_bundle() if bundle is None else bundle)
    with BenchProgress(quiet) as progress:
        run = _Run(loaded, progress, debug=bool(context.obj))
        run.measure(requests, sweep)
    if run.results:
        record = Record.of(loaded, sweep.effort, [Measurement.of(result) for result in run.results])
        print_page(bench_page(record, run.results))
        if json_file is not None:
            record.write(json_file)
    raise typer.Exit(run.status)


class _Run:
    """One run: its results, and the exit status. What cannot be measured is told, and the rest goes on."""

    def __init__(self, bundle: Bundle, progress: BenchProgress, *, debug: bool) -> None:
        self.results: list[Result] = []
        self.status = 0
        self._bundle = bundle
        self._progress = progress
        self._debug = debug
        self._told: set[str] = set()

    def measure(self, requests: Sequence[tuple[str, str, str]], sweep: Sweep) -> None:
        """Measure all that a sweep has, for every backend, precision and device that are asked for."""
        from tomoscribe.engine.latency.configuration import Choice, choose

        self._progress.say(f"model    {self._bundle.specification.name} ({self._bundle.path})")
        choices: dict[tuple[str, str, str], Choice] = {}
        for request in requests:
            choice = self._attempt(partial(choose, self._bundle, *request, building=self._progress.build))
            if choice is not None:
                choices.setdefault((choice.backend, choice.precision, choice.device), choice)
                self._progress.say(f"backend  {choice.reason}")
        steps = sweep.steps(self._bundle, list(choices.values()), self._progress.build)
        if steps:
            effort = sweep.effort
            least = f"at least {effort.duration:g} s and {effort.runs} of them"
            self._progress.say(f"queries  {effort.warm_up:g} ms of warm-up, then {least}")
        for step in self._progress.track(steps):
            result = self._attempt(step.run)
            if result is not None:
                self.results.append(result)

    def _attempt(self, action: Callable[[], T]) -> T | None:
        try:
            return action()
        except Exception as error:
            if self._debug:
                raise
            self.status = max(self.status, exit_status(error))
            message = describe(error)
            # Many rows of a sweep may fail for one reason.
            if message not in self._told:
                self._told.add(message)
                print_error(message)
            return None


def _values(
    given: Sequence[str] | None, default: str, parse: Callable[[str], T], option: str, expected: str
) -> list[T]:
    """Return what an option says, repeated or separated by commas; what is said twice counts once."""
    words = [word.strip() for entry in given or [default] for word in entry.split(",")]
    try:
        return list(dict.fromkeys(map(parse, words)))
    except ValueError as error:
        raise typer.BadParameter(f"expected {expected}, found '{','.join(words)}'", param_hint=f"'{option}'") from error


def _parse_tile(word: str) -> tuple[int, int]:
    height, x, width = word.lower().partition("x")
    return _parse_count(height), _parse_count(width if x else height)


def _parse_streams(word: str) -> int | None:
    return None if word == "auto" else _parse_count(word)


def _parse_count(word: str) -> int:
    number = int(word)
    if number < 1:
        raise ValueError(word)
    return number

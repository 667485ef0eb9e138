"""A benchmark, to read: tables of latencies, volumes and cold starts, and what to make of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, TypeVar

from rich.text import Text

from tomoscribe.cli.page import facts_table, plain_table
from tomoscribe.engine.latency.configuration import in_words
from tomoscribe.engine.latency.measurement import Latency
from tomoscribe.engine.latency.start import STAGES, ColdStart
from tomoscribe.engine.latency.volume import VolumeTimes

if TYPE_CHECKING:
    from rich.console import RenderableType

    from tomoscribe.engine.latency.record import Record
    from tomoscribe.engine.latency.sweep import Result

__all__ = ["bench_page", "milliseconds"]

# trtexec calls a compute time unstable from here on (its `kUNSTABLE_PERF_REPORTING_THRESHOLD`).
_UNSTABLE = 0.025
# With so many columns that vary, a terminal of 80 characters has no room for the backend.
_MOST_COLUMNS = 3

T = TypeVar("T")


def bench_page(record: Record, results: Sequence[Result]) -> Iterator[RenderableType]:
    """Yield what to print of a benchmark.

    What is the same for every row of a table stands above it, and the rest in its first columns.

    Args:
        record: machine, versions and model.
        results: its measurements.
    """
    machine, cores = record.machine, record.machine["cores_usable"]
    yield facts_table(
        [
            ("model", record.model["name"]),
            ("machine", f"{machine['processor']}, {cores} core{'' if cores == 1 else 's'} for this process"),
            *((f"GPU {number}", name) for number, name in machine["gpus"].items()),
            ("versions", ", ".join(f"{package} {version}" for package, version in record.versions.items())),
        ]
    )
    latencies = [result for result in results if isinstance(result, Latency)]
    volumes = [result for result in results if isinstance(result, VolumeTimes)]
    starts = [result for result in results if isinstance(result, ColdStart)]
    if latencies:
        yield from _latencies(latencies)
    if volumes:
        yield from _volumes(volumes)
    if starts:
        yield from _starts(starts)


def milliseconds(value: float) -> str:
    """Return a time in ms with three digits or more."""
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3}f}"


def _latencies(rows: Sequence[Latency]) -> Iterator[RenderableType]:
    fewest = min(row.queries for row in rows)
    title = f"latency of a query in ms, of {fewest} or more, and throughput"
    if len(_split(rows, _configuration)[1][0]) >= _MOST_COLUMNS:
        tables = [list(group) for _, group in groupby(rows, lambda row: _configuration(row)["backend"])]
    else:
        tables = [list(rows)]
    names = ("p50", "p90", "p95", "p99", "CV", "Mvoxel/s")
    for group in tables:
        constant, varied = _split(group, _configuration)
        yield from _heading(title, constant)
        table = plain_table(*varied[0], *names, right=names)
        for row, cells in zip(group, varied, strict=True):
            found = row.latency
            table.add_row(
                *cells.values(),
                *map(milliseconds, (found.p50, found.p90, found.p95, found.p99)),
                Text(f"{found.coefficient_of_variation:.1%}", "yellow" if _unstable(row) else ""),
                f"{row.mvoxels_per_second:.2f}",
            )
        yield table
    yield from _warnings(rows)


def _warnings(rows: Sequence[Latency]) -> Iterator[Text]:
    unstable = [row.latency.coefficient_of_variation for row in rows if _unstable(row)]
    if unstable:
        yield Text(
            f"warning: the latencies of {len(unstable)} of {len(rows)} rows vary by more than {_UNSTABLE:.1%} (CV, the "
            f"standard deviation over the mean, up to {max(unstable):.1%}): their figures are unreliable; leave the "
            "machine alone, or measure longer with --duration",
            "yellow",
        )
    bound = sum(row.enqueue_bound for row in rows)
    if bound:
        yield Text(
            f"warning: in {bound} of {len(rows)} rows submitting a query takes more than 0.8 of its latency, so that "
            "the throughput may not be the backend's; use larger tiles or batches",
            "yellow",
        )


def _volumes(rows: Sequence[VolumeTimes]) -> Iterator[RenderableType]:
    def configuration(row: VolumeTimes) -> dict[str, str]:
        size = " x ".join(map(str, row.shape[::-1]))
        return {"backend": in_words(row.backend, row.precision, row.device), "volume": size}

    constant, varied = _split(rows, configuration)
    yield from _heading("a volume from file to files, the model being loaded", constant)
    names = ("first slice, ms", "±", "Mvoxel/s", "± ")
    table = plain_table(*varied[0], *names, right=names)
    for row, cells in zip(rows, varied, strict=True):
        first, speed = row.figures().values()
        table.add_row(
            *cells.values(), milliseconds(first.value), _error(first.error), f"{speed.value:.2f}", _error(speed.error)
        )
    yield table


def _starts(rows: Sequence[ColdStart]) -> Iterator[RenderableType]:
    def configuration(row: ColdStart) -> dict[str, str]:
        return {"backend": in_words(row.backend, row.precision, row.device), "tile": _size(row.tile)}

    constant, varied = _split(rows, configuration)
    yield from _heading("cold start in ms, each in a process of its own", constant)
    names = (*(stage.replace("_", "-") for stage in STAGES), "total", "±")
    table = plain_table(*varied[0], *names, right=names)
    for row, cells in zip(rows, varied, strict=True):
        figures = row.figures()
        table.add_row(
            *cells.values(),
            *(milliseconds(figure.value) for figure in figures.values()),
            _error(figures["total_ms"].error),
        )
    yield table


def _heading(title: str, constant: str) -> Iterator[Text]:
    yield Text()
    yield Text.assemble((title, "bold"), f"; {constant}" if constant else "")


def _configuration(row: Latency) -> dict[str, str]:
    found = row.configuration
    return {
        "backend": in_words(found.backend, found.precision, found.device),
        "tile": _size(found.tile),
        "batch": str(found.batch),
        "streams": str(found.streams),
    }


def _split(rows: Sequence[T], configuration: Callable[[T], dict[str, str]]) -> tuple[str, list[dict[str, str]]]:
    """Return what all rows have in common, in words, and what they do not, by row."""
    found = [configuration(row) for row in rows]
    varied = [name for name in found[0] if len({row[name] for row in found}) > 1]
    constant = ", ".join(f"{name} {value}" for name, value in found[0].items() if name not in varied)
    return constant, [{name: row[name] for name in varied} for row in found]


def _unstable(row: Latency) -> bool:
    return row.latency.coefficient_of_variation > _UNSTABLE


def _error(error: float | None) -> str:
    return "–" if error is None else f"{error:.1%}"


def _size(tile: tuple[int, int]) -> str:
    return "{}x{}".format(*tile)

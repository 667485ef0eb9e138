"""What the benchmarks of the stream share: rounds in turns, medians of ratios, results that say where they are from.

A script parses with `argument_parser`, which adds ``--quick`` and ``--json``, measures with `interleaved`, and ends
with `save_results`. Its JSON has `ratios`, flat: one number for each name.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from itertools import cycle
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np

from tomoscribe.engine.backends.contract import Backend, Slot
from tomoscribe.engine.machine import read_cores, read_memory

__all__ = [
    "argument_parser",
    "circumstances",
    "interleaved",
    "keep_busy",
    "markdown_table",
    "ratio",
    "save_results",
    "write_noise",
]

_PACKAGES = ("tomoscribe", "numpy", "onnxruntime", "openvino", "torch", "monai")


def argument_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that every script has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="see in under a minute that it runs; the figures are rough"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there too")
    return parser


def interleaved(runs: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Run everything in every round, in an order that turns, so that what else the machine does hits all alike.

    Args:
        runs: what to run, by name; each returns its figure, such as seconds.
        rounds: how often.

    Returns:
        The figures by name, one for each round.
    """
    names = list(runs)
    figures: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            figures[name].append(runs[name]())
    return figures


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Return the median of the rounds' ratios: what slows one round down is in both of its figures."""
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))


def keep_busy(backend: Backend, slots: Sequence[Slot], count: int) -> None:
    """Have a backend label so many slots, each again as soon as it is done, and return when all are.

    Args:
        backend: that of the slots.
        slots: filled; their order is that in which they are submitted.
        count: how many in all.
    """
    submitted: deque[Slot] = deque()
    for _, slot in zip(range(count), cycle(slots), strict=False):
        if len(submitted) == len(slots):
            backend.wait(submitted.popleft())
        backend.submit(slot)
        submitted.append(slot)
    while submitted:
        backend.wait(submitted.popleft())


def write_noise(
    path: Path, shape: tuple[int, int, int], dtype: str = "float32", *, rows: int | None = None, voxel_size: float = 15
) -> Path:
    """Write a tomogram of noise as MRC and return its path.

    Args:
        path: the file; one that is there is replaced.
        shape: ``(z, y, x)`` in voxels.
        dtype: int8, int16, float16 or float32.
        rows: of each slice that hold noise, all if None. The others are 0 and, the file being sparse, not on the disk.
        voxel_size: Å; the default lies within what the bundled model was trained on.
    """
    modes = {"int8": 0, "int16": 1, "float32": 2, "float16": 12}
    random = np.random.default_rng(0)
    with mrcfile.new_mmap(path, shape, modes[dtype], overwrite=True) as file:
        file.voxel_size = voxel_size
    values = np.memmap(path, dtype, "r+", offset=1024, shape=shape)
    for image in values:
        noise = image[:rows]
        noise[:] = (20 * random.standard_normal(noise.shape, np.float32)).astype(dtype)
    values.flush()
    return path


def circumstances() -> dict[str, Any]:
    """Return machine, versions and commit, which a result is worth nothing without."""
    cores, memory = read_cores(), read_memory()
    return {
        "machine": {
            "processor": _processor(),
            "architecture": platform.machine(),
            "system": platform.platform(),
            "cores_installed": cores.installed,
            "cores_usable": cores.usable,
            "memory_bytes": memory.installed,
        },
        "versions": {"python": platform.python_version(), **_versions()},
        "commit": _commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def save_results(path: Path | None, script: str, ratios: Mapping[str, float], **results: Any) -> None:  # noqa: ANN401
    """Write results as JSON, if a path is given.

    Args:
        path: the file, or None.
        script: whose results they are; the script's ``__file__``.
        ratios: the figures that count, by name.
        results: everything else, in JSON's types.
    """
    if path is None:
        return
    page = {"benchmark": Path(script).stem, "ratios": dict(ratios), **circumstances(), **results}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(page, indent=2) + "\n", encoding="utf-8")


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown whose columns line up, the first to the left and the rest to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *rest = zip(cells, widths, strict=True)
        return "| " + " | ".join([first[0].ljust(first[1]), *(text.rjust(width) for text, width in rest)]) + " |"

    dashes = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([line(header), line(dashes), *map(line, rows)])


def _processor() -> str:
    """Return the processor's name (proc(5), cpuinfo), or what Python calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _commit() -> str | None:
    """Return the commit of the working tree, with a + if files differ from it; None where git does not say."""
    command = [
        "git",
        "-C",
        str(Path(__file__).parent),
        "describe",
        "--always",
        "--abbrev=12",
        "--dirty=+",
        "--exclude=*",
    ]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return None
    return answer.stdout.strip()

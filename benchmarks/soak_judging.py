"""How the files of a soak have come out, and how soon."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from soak_files import SHAPE, Written

from tomoscribe.engine import open_tomogram
from tomoscribe.engine.errors import TomoscribeError
from tomoscribe.engine.watch.entry import State
from tomoscribe.engine.watch.ledger import Ledger

__all__ = ["end_over_start", "incomplete_outputs", "is_settled", "latencies", "unexpected"]


def is_settled(files: Sequence[Written], ledger: Ledger) -> bool:
    """Return whether nothing is left to do, and every file has come out as it should."""
    states = ledger.states()
    return not (states[State.WAITING] or states[State.RUNNING] or unexpected(files, ledger))


def unexpected(files: Sequence[Written], ledger: Ledger) -> list[Written]:
    """Return the files that have not come out as they should."""
    states = {path: state for path, (_, state) in ledger.known().items()}
    return [
        file for file in files if (states.get(file.path) not in file.expected if file.expected else file.path in states)
    ]


def incomplete_outputs(files: Sequence[Written], ledger: Ledger, output: Path) -> list[str]:
    """Return what is wrong with the outputs: label volumes that are not there or not whole, temporary files."""
    wrong = [str(path) for path in output.rglob("*") if path.suffix in (".part", ".tmp")]
    for file in files:
        entry = ledger.find(file.path)
        if entry is not None and entry.state is State.DONE and entry.outputs is not None:
            try:
                with open_tomogram(output / entry.outputs["labels"], mode0="signed") as labels:
                    labels.read_slices(0, np.empty(SHAPE, np.int8))
            except TomoscribeError as error:
                wrong.append(str(error))
    return wrong


def latencies(
    files: Sequence[Written], ledger: Ledger, full: Sequence[tuple[float, float]], around: float
) -> dict[str, list[float]]:
    """Return seconds from the last byte to the first picture and to the labels, and those of the labelling itself.

    Tomograms that a full disk held up are left out: written while it was, or so many seconds before or after.
    """
    seconds: dict[str, list[float]] = {"written": [], "preview": [], "labels": [], "segment": []}
    for file in files:
        entry = ledger.find(file.path)
        held_up = any(start - around <= file.written <= end + around for start, end in full)
        if file.kind != "healthy" or held_up or entry is None or entry.previewed is None or entry.finished is None:
            continue
        seconds["written"].append(file.written)
        seconds["preview"].append(entry.previewed - file.written)
        seconds["labels"].append(entry.finished - file.written)
        seconds["segment"].append(entry.seconds or 0.0)
    return seconds


def end_over_start(values: Sequence[float]) -> float:
    """Return the median of the last fifth over that of the second; the first is the start of the process."""
    fifth = max(1, len(values) // 5)
    return statistics.median(values[-fifth:]) / statistics.median(values[fifth : 2 * fifth])

"""The trace of a stream as a file that chrome://tracing and https://ui.perfetto.dev open.

The format is the JSON object form of the Trace Event Format
(https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU): metadata events ("M") name the
threads, complete events ("X") are what the stages did, counter events ("C") how many slots lay in the queues. Times are
in microseconds.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tomoscribe.engine.clock import Recorder
from tomoscribe.engine.errors import ParameterError
from tomoscribe.engine.profile import queue_depths
from tomoscribe.engine.replacing import replacing

__all__ = ["write_trace"]

# In the order in which a slot passes them; the events of a thread lie in one another or apart, as the format wants it.
_THREADS = {
    "reader": ("read",),
    "calling thread": ("total", "allocate", "submit", "complete"),
    "assembler": ("wait", "write"),
}


def write_trace(recorder: Recorder, path: Path) -> None:
    """Write what a recorder holds; a stream that failed has a trace too.

    Args:
        recorder: the one that was passed to `stream`.
        path: the file, JSON. It is written beside its place and renamed; one that is there is replaced.

    Raises:
        ParameterError: the recorder was passed to no stream.
        OutputError: the file cannot be written.
    """
    if not len(recorder.intervals("total")):
        raise ParameterError(f"{path}: expected the recorder of a stream that has ended, found nothing recorded")
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write('{"displayTimeUnit": "ms", "traceEvents": [')
        for number, event in enumerate(_events(recorder)):
            file.write(",\n" if number else "\n")
            json.dump(event, file)
        file.write("\n]}\n")


def _events(recorder: Recorder) -> Iterator[dict[str, Any]]:
    origin = int(recorder.intervals("total")[0, 0])
    process = {"pid": os.getpid()}
    yield {"name": "process_name", "ph": "M", **process, "tid": 0, "args": {"name": "tomoscribe"}}
    for number, (thread, stages) in enumerate(_THREADS.items(), 1):
        place = {**process, "tid": number}
        yield {"name": "thread_name", "ph": "M", **place, "args": {"name": thread}}
        yield {"name": "thread_sort_index", "ph": "M", **place, "args": {"sort_index": number}}
        for stage in stages:
            for job, (start, stop) in enumerate((recorder.intervals(stage) - origin).tolist()):
                times = {"ts": start / 1000, "dur": (stop - start) / 1000}
                yield {"name": stage, "cat": "stream", "ph": "X", **place, **times, "args": {"job": job}}
    for queue, (changes, depths) in queue_depths(recorder).items():
        for time, depth in zip((changes - origin).tolist(), depths.tolist(), strict=True):
            yield {"name": queue, "cat": "stream", "ph": "C", **process, "ts": time / 1000, "args": {"slots": depth}}

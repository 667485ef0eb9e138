"""The process that `gpu.py` starts for one part, so that none can spoil another or outlast its time.

    python benchmarks/gpu_child.py TASK

TASK is a JSON object: the ``study``, its ``arguments``, the ``work`` folder that the parts share, and the file of the
``notes``. A study writes what it finds there at once, a JSON object a line, so that one that is stopped has not
measured in vain.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from measuring import interleaved

__all__ = ["STUDIES", "Note", "Study", "in_turns"]

Note = Callable[..., None]
"""Takes what was found, by name, in JSON's types."""

Study = Callable[..., None]
"""Takes a `Note` and the work folder, and its arguments by name."""

STUDIES = {
    "examine": "gpu_setup",
    "prepare": "gpu_setup",
    "conformance": "gpu_parity",
    "parity": "gpu_parity",
    "volume": "gpu_volume",
    "bus": "gpu_volume",
    "torch_peers": "gpu_torch",
    "peak": "gpu_torch",
}
"""The modules that studies are in; each imports what it alone needs."""


def in_turns(note: Note, runs: Mapping[str, Callable[[], float]], rounds: int) -> None:
    """Time everything in every round, and note each figure as soon as it is there.

    Args:
        note: is told the figures.
        runs: what to time, by name; each returns seconds.
        rounds: how often.
    """

    def noted(name: str) -> float:
        seconds = runs[name]()
        note(kind="seconds", name=name, seconds=seconds)
        return seconds

    interleaved({name: partial(noted, name) for name in runs}, rounds)


def run(task: Mapping[str, Any]) -> None:
    """Do a task."""
    study: Study = getattr(import_module(STUDIES[task["study"]]), task["study"])
    with Path(task["notes"]).open("w", encoding="utf-8", buffering=1) as file:
        study(lambda **entries: file.write(json.dumps(entries) + "\n"), Path(task["work"]), **task["arguments"])


if __name__ == "__main__":
    run(json.loads(sys.argv[1]))

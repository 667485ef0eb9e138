"""The cold start of a backend, each time in a process of its own: interpreter, imports, loading, first queries."""

from __future__ import annotations

import contextlib
import importlib
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from tomoscribe.engine.backends import SlotShape, build_backend
from tomoscribe.engine.backends.gpu_choice import CPU
from tomoscribe.engine.bundle import Bundle
from tomoscribe.engine.errors import BackendError, ParameterError
from tomoscribe.engine.latency.statistics import Figure

__all__ = ["STAGES", "ColdStart", "measure_cold_start", "report"]

STAGES = ("python", "import", "load", "warm_up")

# The clock is read before anything else is imported.
_CHILD = (
    "import time; began = time.perf_counter_ns()\nfrom tomoscribe.engine.latency.start import report; report(began)"
)


@dataclass(frozen=True)
class ColdStart:
    """How long it took until a model was ready, once and again, in ms.

    Attributes:
        backend: that was started.
        precision: that the model is computed in.
        device: where: ``cpu``, or the numbers of GPUs.
        tile: height and width in pixels of the first queries.
        samples: of each start, by stage: ``python``, from the start of the process to its first statement; ``import``,
            tomoscribe's engine and the backend's runtime; ``load``, the bundle, its checksum and the network,
            which a backend may compile for its slots; ``warm_up``, a first query on every stream.
    """

    backend: str
    precision: str
    device: str
    tile: tuple[int, int]
    samples: tuple[dict[str, float], ...]

    def configuration(self) -> dict[str, Any]:
        """Return what was measured, in JSON's types."""
        return {
            "backend": self.backend,
            "precision": self.precision,
            "device": self.device,
            "tile": list(self.tile),
        }

    def figures(self) -> dict[str, Figure]:
        """Return the medians of the stages and of their sums."""
        stages = {f"{stage}_ms": Figure.median([sample[stage] for sample in self.samples]) for stage in STAGES}
        return stages | {"total_ms": Figure.median([sum(sample.values()) for sample in self.samples])}

    def to_json(self) -> dict[str, Any]:
        """Return the single times, in JSON's types."""
        return {f"{stage}_ms": [round(sample[stage], 3) for sample in self.samples] for stage in STAGES}


def measure_cold_start(
    bundle: Bundle, backend: str, precision: str, tile: tuple[int, int], *, device: str = CPU, repeats: int = 5
) -> ColdStart:
    """Start a backend in fresh processes, one after the other. The files come from the page cache from the second on.

    Args:
        bundle: the model.
        backend: a name of `GPU_BACKENDS` or `BACKENDS`.
        precision: one of `PRECISIONS`.
        tile: height and width in pixels.
        device: ``cpu``, or the numbers of GPUs.
        repeats: how many processes.

    Raises:
        ParameterError: no repeat.
        BackendError: a process failed; the message has its last line.
    """
    if repeats < 1:
        raise ParameterError(f"expected at least one cold start, found {repeats}")
    arguments = [str(bundle.path.absolute()), backend, precision, device, *map(str, tile)]
    return ColdStart(backend, precision, device, tile, tuple(_start(arguments) for _ in range(repeats)))


def _start(arguments: list[str]) -> dict[str, float]:
    # The clock is the system's, the same in every process (Python's documentation, time.perf_counter).
    spawned = time.perf_counter_ns()
    # -P, because the folder that somebody works in may hold modules of any name.
    command = [sys.executable, "-P", "-c", _CHILD, *arguments]
    child = subprocess.run(command, capture_output=True, text=True)  # noqa: S603 - this very Python
    if child.returncode:
        said = child.stderr.strip().splitlines() or [f"exit status {child.returncode}"]
        raise BackendError(
            f"{arguments[1]}: expected a process of its own to load {arguments[0]}, found that it failed: {said[-1]}"
        )
    times = [spawned, *json.loads(child.stdout.splitlines()[-1])]
    return {stage: (end - begin) / 1e6 for stage, (begin, end) in zip(STAGES, pairwise(times), strict=True)}


def report(began: int) -> None:
    """Start the backend that the process's arguments name, and print when each stage was over, in ns.

    Args:
        began: when the process read its first statement.
    """
    path, name, precision, device, height, width = sys.argv[1:]
    # The backends are called after the modules of their runtimes; one that is not is imported as it is loaded.
    with contextlib.suppress(ImportError):
        importlib.import_module(name.partition("-")[0])
    times = [began, time.perf_counter_ns()]
    bundle = Bundle.load(path)
    backend = build_backend(name, bundle, precision=precision, device=device)
    specification = bundle.specification
    shape = SlotShape(1, specification.context, int(height), int(width), specification.classes)
    slots = backend.allocate(shape, backend.streams)
    times.append(time.perf_counter_ns())
    for slot in slots:
        slot.slices[:] = slot.mean[:] = 0
        slot.rstd[:] = slot.count = 1
        backend.submit(slot)
    for slot in slots:
        backend.wait(slot)
    times.append(time.perf_counter_ns())
    backend.close()
    sys.stdout.write(json.dumps(times) + "\n")

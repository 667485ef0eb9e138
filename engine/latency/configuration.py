"""What a benchmark measures and for how long, and the backend for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tomoscribe.engine.backends import AUTO, GPU_BACKENDS, choose_backend
from tomoscribe.engine.backends.gpu_choice import CPU, parse_devices
from tomoscribe.engine.bundle import Bundle
from tomoscribe.engine.errors import ParameterError

if TYPE_CHECKING:
    from tomoscribe.engine.plans.progress import BuildProgress

__all__ = ["Choice", "Configuration", "Effort", "choose", "in_words"]


@dataclass(frozen=True)
class Configuration:
    """What is measured.

    Attributes:
        backend: a name of `GPU_BACKENDS` or `BACKENDS`.
        precision: one of `PRECISIONS`.
        device: ``cpu``, or the numbers of GPUs.
        tile: height and width in pixels.
        batch: slices of a query.
        streams: queries that are worked on at a time.
    """

    backend: str
    precision: str
    device: str
    tile: tuple[int, int]
    batch: int
    streams: int

    def __str__(self) -> str:
        height, width = self.tile
        streams = f"{self.streams} stream{'' if self.streams == 1 else 's'}"
        what = in_words(self.backend, self.precision, self.device)
        return f"{what}, tiles of {height}x{width}, batch {self.batch}, {streams}"

    def to_json(self) -> dict[str, Any]:
        """Return it in JSON's types."""
        return {
            "backend": self.backend,
            "precision": self.precision,
            "device": self.device,
            "tile": list(self.tile),
            "batch": self.batch,
            "streams": self.streams,
        }


@dataclass(frozen=True)
class Effort:
    """How long to measure. The defaults are trtexec's.

    Attributes:
        warm_up: ms during which queries run that do not count; each stream answers one at least.
        duration: seconds during which queries count, at least.
        runs: queries that count, at least.

    Raises:
        ParameterError: a negative time, or no run.
    """

    warm_up: float = 200.0
    duration: float = 3.0
    runs: int = 10

    def __post_init__(self) -> None:
        if self.warm_up < 0 or self.duration < 0 or self.runs < 1:
            raise ParameterError(
                f"expected a warm-up and a duration of 0 or more and at least one run, "
                f"found {self.warm_up:g} ms, {self.duration:g} s and {self.runs}"
            )


@dataclass(frozen=True)
class Choice:
    """What `segment` takes for a backend, a precision and a device that are asked for.

    Attributes:
        backend: a name of `GPU_BACKENDS` or `BACKENDS`.
        precision: one of `PRECISIONS`.
        device: ``cpu``, or the numbers of GPUs.
        streams: slots that it works on at the same time.
        reason: why, in a line.
    """

    backend: str
    precision: str
    device: str
    streams: int
    reason: str


def choose(
    bundle: Bundle, backend: str, precision: str, device: str = AUTO, building: BuildProgress | None = None
) -> Choice:
    """Return what `segment` takes for ``--backend``, ``--precision`` and ``--device``, any of which may be ``auto``.

    Args:
        bundle: the model.
        backend: see `choose_backend`, as for the others.
        precision: what it is computed in.
        device: where.
        building: is told how far a plan is, where TensorRT has to build one.

    Raises:
        ParameterError: there is no backend, precision or device of that name, or the backend does not run there.
        BackendUnavailableError: the backend cannot run here in the precision.
        BackendError: every backend fails.
        BundleError: the bundle cannot be run.
    """
    chosen, reason = choose_backend(backend, bundle, precision=precision, device=device, building=building)
    try:
        # It is the last thing that a description says, see `Backend`.
        _, _, found = chosen.description.rpartition(", ")
        gpus = ",".join(map(str, parse_devices(device) or (0,)))
        return Choice(chosen.name, found.lower(), gpus if chosen.name in GPU_BACKENDS else CPU, chosen.streams, reason)
    finally:
        chosen.close()


def in_words(backend: str, precision: str, device: str) -> str:
    """Return what runs where, as ``tensorrt fp16 on GPU 0``; without the device where that is the CPU."""
    return f"{backend} {precision}" if device == CPU else f"{backend} {precision} on GPU {device}"

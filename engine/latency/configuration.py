"""What a benchmark measures and for how long, and the backend for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tomoscribe.engine.backends import choose_backend
from tomoscribe.engine.bundle import Bundle
from tomoscribe.engine.errors import ParameterError

__all__ = ["Choice", "Configuration", "Effort", "choose"]


@dataclass(frozen=True)
class Configuration:
    """What is measured.

    Attributes:
        backend: a name of `BACKENDS`.
        precision: one of `PRECISIONS`.
        tile: height and width in pixels.
        batch: slices of a query.
        streams: queries that are worked on at a time.
    """

    backend: str
    precision: str
    tile: tuple[int, int]
    batch: int
    streams: int

    def __str__(self) -> str:
        height, width = self.tile
        streams = f"{self.streams} stream{'' if self.streams == 1 else 's'}"
        return f"{self.backend} {self.precision}, tiles of {height}x{width}, batch {self.batch}, {streams}"

    def to_json(self) -> dict[str, Any]:
        """Return it in JSON's types."""
        return {
            "backend": self.backend,
            "precision": self.precision,
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
    """What `segment` takes for a backend and a precision that are asked for.

    Attributes:
        backend: a name of `BACKENDS`.
        precision: one of `PRECISIONS`.
        streams: slots that it works on at the same time.
        reason: why, in a line.
    """

    backend: str
    precision: str
    streams: int
    reason: str


def choose(bundle: Bundle, backend: str, precision: str) -> Choice:
    """Return what `segment` takes for ``--backend`` and ``--precision``, either of which may be ``auto``.

    Raises:
        ParameterError: there is no backend or no precision of that name.
        BackendUnavailableError: the backend cannot run here in the precision.
        BundleError: the bundle cannot be run.
    """
    chosen, reason = choose_backend(backend, bundle, precision=precision)
    try:
        # It is the last thing that a description says, see `Backend`.
        _, _, found = chosen.description.rpartition(", ")
        return Choice(chosen.name, found.lower(), chosen.streams, reason)
    finally:
        chosen.close()

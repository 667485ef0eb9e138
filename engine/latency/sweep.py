"""What a benchmark does, step by step: queries, volumes and cold starts of every combination that was asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product

from tomoscribe.engine.backends import BACKENDS
from tomoscribe.engine.bundle import Bundle, ModelSpecification
from tomoscribe.engine.errors import ParameterError
from tomoscribe.engine.latency.configuration import Choice, Configuration, Effort
from tomoscribe.engine.latency.measurement import Latency, measure_latency
from tomoscribe.engine.latency.start import ColdStart, measure_cold_start
from tomoscribe.engine.latency.volume import VolumeTimes, measure_volume

__all__ = ["Result", "Step", "Sweep"]

Result = Latency | VolumeTimes | ColdStart


@dataclass(frozen=True)
class Step:
    """One row of a benchmark: what it measures, in a line, and the function that does."""

    description: str
    run: Callable[[], Result]


@dataclass(frozen=True)
class Sweep:
    """Every combination of what may be varied.

    Attributes:
        tiles: height and width in pixels; volumes have slices of these sizes.
        batches: slices of a query.
        streams: queries at a time; None for as many as `segment` takes.
        slices: of the volumes; 0 measures none.
        cold_starts: how many of each; 0 measures none.
        effort: how long queries are measured.
    """

    tiles: Sequence[tuple[int, int]] = ((512, 512),)
    batches: Sequence[int] = (1,)
    streams: Sequence[int | None] = (1, None)
    slices: int = 32
    cold_starts: int = 5
    effort: Effort = field(default_factory=Effort)

    def steps(self, bundle: Bundle, choices: Sequence[Choice]) -> list[Step]:
        """Return what to do, one after the other: each step has the machine to itself.

        Raises:
            ParameterError: tiles that the model cannot work on, or an empty batch.
        """
        self._check(bundle.specification)
        pairs = list(product(choices, self.tiles))
        return [
            *(self._queries(bundle, configuration) for configuration in self._configurations(choices)),
            *(self._volume(bundle, choice, tile) for choice, tile in pairs if self.slices),
            *(self._cold_start(bundle, choice, tile) for choice, tile in pairs if self.cold_starts),
        ]

    def _check(self, specification: ModelSpecification) -> None:
        """See to what would keep rows from being measured, before the first is."""
        multiple = specification.tile_multiple
        for height, width in self.tiles:
            if min(height, width) < 1 or height % multiple or width % multiple:
                raise ParameterError(
                    f"tile {height}x{width}: expected sides that are multiples of {multiple}, as {specification.name} "
                    "takes them"
                )
        if (smallest := min(self.batches)) < 1:
            raise ParameterError(f"batch {smallest}: expected at least one slice")

    def _configurations(self, choices: Sequence[Choice]) -> Iterator[Configuration]:
        for choice, tile, batch in product(choices, self.tiles, self.batches):
            # On one core, as many as `segment` takes are one.
            for streams in dict.fromkeys(choice.streams if number is None else number for number in self.streams):
                yield Configuration(choice.backend, choice.precision, tile, batch, streams)

    def _queries(self, bundle: Bundle, configuration: Configuration) -> Step:
        def run() -> Latency:
            build = BACKENDS[configuration.backend]
            backend = build(bundle, precision=configuration.precision, streams=configuration.streams)
            try:
                return measure_latency(backend, configuration, bundle.specification, self.effort)
            finally:
                backend.close()

        return Step(str(configuration), run)

    def _volume(self, bundle: Bundle, choice: Choice, tile: tuple[int, int]) -> Step:
        shape = (self.slices, *tile)
        return Step(
            f"{choice.backend} {choice.precision}, a volume of {' x '.join(map(str, shape[::-1]))} from file to files",
            lambda: measure_volume(bundle, choice.backend, choice.precision, shape),
        )

    def _cold_start(self, bundle: Bundle, choice: Choice, tile: tuple[int, int]) -> Step:
        height, width = tile
        return Step(
            f"{choice.backend} {choice.precision}, tiles of {height}x{width}, {self.cold_starts} cold starts",
            lambda: measure_cold_start(bundle, choice.backend, choice.precision, tile, repeats=self.cold_starts),
        )

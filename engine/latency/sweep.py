"""What a benchmark does, step by step: queries, volumes and cold starts of every combination that was asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING

from tomoscribe.engine.backends import build_backend
from tomoscribe.engine.bundle import Bundle, ModelSpecification
from tomoscribe.engine.errors import ParameterError
from tomoscribe.engine.latency.configuration import Choice, Configuration, Effort, in_words
from tomoscribe.engine.latency.measurement import Latency, measure_latency
from tomoscribe.engine.latency.start import ColdStart, measure_cold_start
from tomoscribe.engine.latency.volume import VolumeTimes, measure_volume

if TYPE_CHECKING:
    from tomoscribe.engine.plans.progress import BuildProgress

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
        streams: queries at a time, one for each GPU at least; None for as many as `segment` takes.
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

    def steps(self, bundle: Bundle, choices: Sequence[Choice], building: BuildProgress | None = None) -> list[Step]:
        """Return what to do, one after the other: each step has the machine to itself.

        Args:
            bundle: the model.
            choices: what runs it where.
            building: is told how far a plan is, where TensorRT has to build one.

        Raises:
            ParameterError: tiles that the model cannot work on, or an empty batch.
        """
        self._check(bundle.specification)
        pairs = list(product(choices, self.tiles))
        return [
            *(self._queries(bundle, configuration, building) for configuration in self._configurations(choices)),
            *(self._volume(bundle, choice, tile, building) for choice, tile in pairs if self.slices),
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
            fewest = len(choice.device.split(","))
            wanted = (choice.streams if number is None else max(number, fewest) for number in self.streams)
            # On one core, as many as `segment` takes are one.
            for streams in dict.fromkeys(wanted):
                yield Configuration(choice.backend, choice.precision, choice.device, tile, batch, streams)

    def _queries(self, bundle: Bundle, configuration: Configuration, building: BuildProgress | None) -> Step:
        def run() -> Latency:
            backend = build_backend(
                configuration.backend,
                bundle,
                precision=configuration.precision,
                streams=configuration.streams,
                device=configuration.device,
                building=building,
            )
            try:
                return measure_latency(backend, configuration, bundle.specification, self.effort)
            finally:
                backend.close()

        return Step(str(configuration), run)

    def _volume(self, bundle: Bundle, choice: Choice, tile: tuple[int, int], building: BuildProgress | None) -> Step:
        shape = (self.slices, *tile)
        backend, precision, device = choice.backend, choice.precision, choice.device
        size = " x ".join(map(str, shape[::-1]))
        return Step(
            f"{in_words(backend, precision, device)}, a volume of {size} from file to files",
            lambda: measure_volume(bundle, backend, precision, shape, device=device, building=building),
        )

    def _cold_start(self, bundle: Bundle, choice: Choice, tile: tuple[int, int]) -> Step:
        height, width = tile
        backend, precision, device = choice.backend, choice.precision, choice.device
        return Step(
            f"{in_words(backend, precision, device)}, tiles of {height}x{width}, {self.cold_starts} cold starts",
            lambda: measure_cold_start(bundle, backend, precision, tile, device=device, repeats=self.cold_starts),
        )

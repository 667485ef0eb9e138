"""Segmenting a tomogram: the one place where file, model, tiles, stream and sinks are joined.

Beside the tomogram, or in a folder of its own, come

* ``<tomogram>__<Feature>.mrc``, a volume of scores for each class, int8, 64 is a probability of one half;
* ``<tomogram>__labels.json``, the sidecar: class names, colours, voxel counts, model, and how it was made;
* ``<tomogram>__labels.mrc``, the label volume, renamed into place last: where it is new, all are there.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tomoscribe.engine.backends import choose_backend
from tomoscribe.engine.backends.selection import parity_warning
from tomoscribe.engine.bundle import Bundle, ModelSpecification, default_bundle
from tomoscribe.engine.clock import Recorder
from tomoscribe.engine.intensity import IntensityStatistics, measure_intensity
from tomoscribe.engine.outputs import OutputPaths, remove_leftovers
from tomoscribe.engine.polarity import polarity_of
from tomoscribe.engine.profile import Profile
from tomoscribe.engine.rescaling import RescaledTomogram, Rescaling, RestoringSink
from tomoscribe.engine.result import Segmentation
from tomoscribe.engine.sidecar import Sidecar
from tomoscribe.engine.sinks.contract import Sink
from tomoscribe.engine.stream import stream
from tomoscribe.engine.tiles import TilePlan
from tomoscribe.engine.tomogram import Tomogram, open_tomogram
from tomoscribe.engine.trimming import find_content

__all__ = ["Segmenter", "plan_tiles", "segment"]

# A slice of up to this many pixels is one tile; tiles of larger slices are no larger. Two streams of the bundled model,
# in FP32, then stay under 700 MB (benchmarks/memory.py).
TILE_PIXELS = 960**2
# Small slices go to the backend together, up to this many pixels; more costs memory and gains nothing.
BATCH_PIXELS = 2**18
# A slot may be larger than this only if a single slice is.
SLOT_BYTES = 64 * 2**20


class Segmenter:
    """A model that is loaded and ready; a context manager. One segments many tomograms, one after the other.

    Attributes:
        bundle: the model.
        reason: why its backend was chosen.

    Args:
        model: a bundle or its folder; by default the model that tomoscribe brings.
        backend: ``auto`` or the name of a backend.
        precision: ``auto`` or what the model is to be computed in, see `tomoscribe.engine.backends.choose_backend`.

    Raises:
        ParameterError: there is no backend or no precision of that name.
        BundleError: the bundle is incomplete or was altered.
        BackendUnavailableError: the backend cannot run here.
    """

    def __init__(
        self, model: Bundle | Path | str | None = None, *, backend: str = "auto", precision: str = "auto"
    ) -> None:
        self.bundle = model if isinstance(model, Bundle) else Bundle.load(model or default_bundle())
        self._backend, self.reason = choose_backend(backend, self.bundle, precision=precision)
        drift = parity_warning(self.bundle, self._backend.name, precision)
        self._warnings = () if drift is None else (drift,)

    @property
    def backend(self) -> str:
        """What runs the model, in a line."""
        return self._backend.description

    def segment(
        self,
        tomogram: Tomogram | Path | str,
        output: Path | str | None = None,
        *,
        classes: Sequence[str] | None = None,
        invert: bool = False,
        rescale: bool = True,
        z_range: tuple[int, int] | None = None,
        sample_only: bool = False,
        overwrite: bool = False,
        progress: Callable[[int], None] | None = None,
        warn: Callable[[str], None] | None = None,
        recorder: Recorder | None = None,
    ) -> Segmentation:
        """Label a tomogram and write the outputs.

        They get their names, the label volume last, when all are complete and on the disk; whatever fails before that
        leaves what was there as it was. A rename that fails then (say that the folder was closed to writing meanwhile)
        leaves those before it in place, without a label volume or, with `overwrite`, beside that of the earlier run.

        Args:
            tomogram: an open tomogram, which stays open, or a path.
            output: the folder for the outputs, made if need be; by default the tomogram's own.
            classes: names or numbers of the classes to keep; the label volume has 0 for the others. All if None.
            invert: the tomogram shows density bright on dark.
            rescale: show the model voxels of a size that it was trained on where the tomogram's are others by more than
                5 %, see `tomoscribe.engine.rescaling`; outputs have the tomogram's. A size of 0 or 1 Å is not known.
            z_range: first slice to label and one past the last, counted from 0. Outputs keep the full shape and are 0
                outside. Intensities are measured inside, and a slice outside that is not finite is no one's context
                (the nearest slice of the range takes its place), so that damaged slices can be left out.
            sample_only: leave out the slices above and below the sample, see `tomoscribe.engine.trimming`; they are 0
                in the outputs, and the others are what they are without this. Every slice is read once more for it.
            overwrite: replace outputs that are there. Class volumes that the earlier run's sidecar lists and this run
                does not write are removed in the end.
            progress: called with the number of slices that were just written, from another thread.
            warn: called with each of the result's warnings, before the work begins where they are of the input.
            recorder: what is to know when each stage was at work, for the result's profile.

        Raises:
            ParameterError: a class that the model does not have, a z range outside the volume, or voxels so far from
                those that the model was trained on that they cannot be rescaled to them.
            TomogramNotFoundError: no such file.
            TomogramFormatError: the file is not a tomogram, or is truncated.
            IntensityError: the slices to label are constant or hold NaN.
            OutputExistsError: an output is there and may not be replaced.
            OutputError: an output cannot be written.
            BackendError: the backend failed.
        """
        started = time.perf_counter()
        specification = self.bundle.specification
        keep = specification.class_map.classes if classes is None else specification.class_map.select(classes)
        with contextlib.ExitStack() as opened:
            if not isinstance(tomogram, Tomogram):
                tomogram = opened.enter_context(open_tomogram(tomogram))
            span = tomogram.checked_range(z_range)
            paths = OutputPaths.of(tomogram.path, None if output is None else Path(output), keep)
            paths.check(overwrite)
            rescaling = Rescaling.of(tomogram.geometry, specification)
            warnings = (*self._warnings, *tomogram.warnings)
            if rescaling is not None:
                warnings += (rescaling.describe(rescale),)
            if not rescale:
                rescaling = None
            seen = tomogram if rescaling is None else RescaledTomogram(tomogram, rescaling)
            warnings += _polarity_warning(seen, span, invert)
            statistics = measure_intensity(seen, span)
            section = span
            if sample_only:
                trim = find_content(seen, span)
                section = trim.start, trim.stop
                warnings += (trim.reason,)
            if warn is not None:
                for warning in warnings:
                    warn(warning)
            plan = plan_tiles(seen.shape[1:], specification)
            facts = self._facts(tomogram, paths, section, invert, rescaling, statistics, warnings)
            sidecar = Sidecar(paths.sidecar, specification.class_map, keep, facts)
            paths.make_folder()
            leftovers = paths.leftovers() if overwrite else ()
            sinks: list[Sink] = paths.open_sinks(tomogram.geometry, specification, keep, sidecar)
            if progress is not None and section != span:
                progress(span[1] - span[0] - (section[1] - section[0]))
            stream(
                seen,
                self._backend,
                plan,
                statistics,
                sinks if rescaling is None else [RestoringSink(sinks, rescaling)],
                context=specification.context,
                classes=specification.classes,
                batch=_batch(plan, specification, section),
                z_range=section,
                invert=invert != (specification.polarity == "bright"),
                slots=self._backend.streams + 1,
                progress=progress,
                recorder=recorder,
            )
            remaining = remove_leftovers(leftovers)
            if warn is not None:
                for warning in remaining:
                    warn(warning)
        _, height, width = tomogram.shape
        return Segmentation(
            tomogram=tomogram.path,
            labels=paths.labels,
            sidecar=paths.sidecar,
            class_volumes=paths.class_volumes,
            counts=sidecar.counts,
            geometry=tomogram.geometry,
            voxels=(section[1] - section[0]) * height * width,
            seconds=time.perf_counter() - started,
            model=specification.name,
            backend=self.backend,
            rescaling=rescaling,
            profile=None if recorder is None else Profile.of(recorder),
            warnings=(*warnings, *remaining),
        )

    def _facts(
        self,
        tomogram: Tomogram,
        paths: OutputPaths,
        span: tuple[int, int],
        invert: bool,
        rescaling: Rescaling | None,
        statistics: IntensityStatistics,
        warnings: Sequence[str],
    ) -> dict[str, Any]:
        geometry = tomogram.geometry
        return {
            "tomoscribe": version("tomoscribe"),
            "tomogram": tomogram.path.name,
            "labels": paths.labels.name,
            "class_volumes": {name: path.name for name, path in paths.class_volumes.items()},
            "scores": "int8, round(255 × probability) halved and rounded down: 0 to 127, 64 and more is 0.5 and more",
            "shape_zyx": list(geometry.shape),
            "voxel_size_xyz": list(geometry.voxel_size),
            "origin_xyz": list(geometry.origin),
            "unit": "angstrom",
            "z_range": list(span),
            "inverted": invert,
            "rescaling": None if rescaling is None else rescaling.to_json(),
            "intensity": {"mean": statistics.mean, "standard_deviation": statistics.standard_deviation},
            "model": {
                "name": self.bundle.specification.name,
                "sha256": {precision: artifact.sha256 for precision, artifact in self.bundle.artifacts.items()},
            },
            "backend": self.backend,
            "warnings": list(warnings),
        }

    def close(self) -> None:
        """Give the backend's memory and threads back."""
        self._backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def segment(
    tomogram: Tomogram | Path | str,
    output: Path | str | None = None,
    *,
    model: Bundle | Path | str | None = None,
    backend: str = "auto",
    precision: str = "auto",
    classes: Sequence[str] | None = None,
    invert: bool = False,
    rescale: bool = True,
    z_range: tuple[int, int] | None = None,
    sample_only: bool = False,
    overwrite: bool = False,
    progress: Callable[[int], None] | None = None,
    warn: Callable[[str], None] | None = None,
    recorder: Recorder | None = None,
) -> Segmentation:
    """Load a model, label one tomogram with it, and write the outputs.

    The arguments are those of `Segmenter` and of its `segment`; use that for more than one tomogram. To override what
    a header says, pass ``open_tomogram(path, voxel_size=…)``.
    """
    with Segmenter(model, backend=backend, precision=precision) as segmenter:
        return segmenter.segment(
            tomogram,
            output,
            classes=classes,
            invert=invert,
            rescale=rescale,
            z_range=z_range,
            sample_only=sample_only,
            overwrite=overwrite,
            progress=progress,
            warn=warn,
            recorder=recorder,
        )


def plan_tiles(slice_shape: tuple[int, int], specification: ModelSpecification) -> TilePlan:
    """Return the tiles that a model sees of slices of ``(y, x)`` pixels."""
    multiple, halo = specification.tile_multiple, specification.halo
    return TilePlan.for_slice(
        slice_shape, multiple=multiple, halo=halo, pixels=max(TILE_PIXELS, (2 * halo + 2 * multiple) ** 2)
    )


def _polarity_warning(tomogram: Tomogram, span: tuple[int, int], invert: bool) -> tuple[str, ...]:
    looks = polarity_of(tomogram, span)
    if looks is None or (looks == "bright") is invert:
        return ()
    if invert:
        return ("density looks dark on light, but --invert says that it is bright; compare with labels without it",)
    return ("density looks bright on dark, and dark on light is expected; compare with labels made with --invert",)


def _batch(plan: TilePlan, specification: ModelSpecification, span: tuple[int, int]) -> int:
    pixels = plan.tile_shape[0] * plan.tile_shape[1]
    # Of a pixel, a slot holds a float32 of intensity, the label and the scores.
    by_memory = SLOT_BYTES // (pixels * (4 + 1 + specification.classes))
    return max(1, min(BATCH_PIXELS // pixels, by_memory, span[1] - span[0]))

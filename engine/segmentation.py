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
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np

from tomoscribe.engine.backends import choose_backend
from tomoscribe.engine.backends.selection import parity_warning
from tomoscribe.engine.bundle import Bundle, default_bundle
from tomoscribe.engine.clock import Recorder
from tomoscribe.engine.intensity import measure_intensity
from tomoscribe.engine.labelling import Labeller, Task
from tomoscribe.engine.outputs import OutputPaths, remove_leftovers
from tomoscribe.engine.polarity import polarity_of
from tomoscribe.engine.profile import Profile
from tomoscribe.engine.rescaling import RescaledTomogram, Rescaling
from tomoscribe.engine.result import Segmentation, SlicePreview
from tomoscribe.engine.sinks.contract import Sink
from tomoscribe.engine.tomogram import Tomogram, open_tomogram
from tomoscribe.engine.trimming import find_content

if TYPE_CHECKING:
    from tomoscribe.engine.plans.progress import BuildProgress

__all__ = ["Segmenter", "segment"]


class Segmenter:
    """A model that is loaded and ready; a context manager. One segments many tomograms, one after the other.

    Attributes:
        bundle: the model.
        reason: why its backend was chosen.

    Args:
        model: a bundle or its folder; by default the model that tomoscribe brings.
        backend: ``auto`` or the name of a backend.
        precision: ``auto`` or what the model is to be computed in, see `tomoscribe.engine.backends.choose_backend`.
        device: ``auto``, ``cpu``, or GPUs by their numbers, such as ``0``, or ``0,1`` for two that share a tomogram.
        building: is told why TensorRT builds a plan, where it has to, and how far that is; see `BuildProgress`.

    Raises:
        ParameterError: there is no backend, precision or device of that name, or they do not go together.
        BundleError: the bundle is incomplete or was altered.
        BackendUnavailableError: the backend cannot run here.
        BackendError: every backend fails.
    """

    def __init__(
        self,
        model: Bundle | Path | str | None = None,
        *,
        backend: str = "auto",
        precision: str = "auto",
        device: str = "auto",
        building: BuildProgress | None = None,
    ) -> None:
        self.bundle = model if isinstance(model, Bundle) else Bundle.load(model or default_bundle())
        self._backend, self.reason = choose_backend(
            backend, self.bundle, precision=precision, device=device, building=building
        )
        self._labeller = Labeller(self.bundle, self._backend)
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
        sinks: Sequence[Sink] = (),
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
            progress: called with the number of slices that were just written, from another thread. Where a device has
                not the memory and the tomogram is begun anew in smaller pieces, that comes with a negative number.
            warn: called with each of the result's warnings, before the work begins where they are of the input.
            recorder: what is to know when each stage was at work, for the result's profile.
            sinks: what else gets labels and scores, in the tomogram's shape; committed before the outputs. What one of
                them raises stops the tomogram, and comes through. One that was aborted is written anew, from the first
                slice on, where the tomogram is begun anew.

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
            paths.make_folder()
            leftovers = paths.leftovers() if overwrite else ()
            if progress is not None and section != span:
                progress(span[1] - span[0] - (section[1] - section[0]))
            task = Task(tomogram, seen, rescaling, statistics, section, invert, keep)
            counts, warnings = self._labeller.label(
                task, paths, warnings, sinks=sinks, progress=progress, warn=warn, recorder=recorder
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
            counts=counts,
            geometry=tomogram.geometry,
            voxels=(section[1] - section[0]) * height * width,
            seconds=time.perf_counter() - started,
            model=specification.name,
            backend=self.backend,
            rescaling=rescaling,
            profile=None if recorder is None else Profile.of(recorder),
            warnings=(*warnings, *remaining),
        )

    def preview(
        self,
        tomogram: Tomogram,
        z: int | None = None,
        *,
        classes: Sequence[str] | None = None,
        invert: bool = False,
        rescale: bool = True,
    ) -> SlicePreview:
        """Label one slice, as `segment` with the same arguments will, and write nothing.

        Args:
            tomogram: an open tomogram.
            z: the slice, counted from 0; the central one if None.
            classes: as `segment` has it.
            invert: as `segment` has it.
            rescale: as `segment` has it.

        Raises:
            ParameterError: a class that the model does not have, `z` is outside the volume, or voxels that cannot be
                rescaled.
            TomogramFormatError: the file is truncated or damaged.
            IntensityError: the slices are constant or hold NaN.
            BackendError: the backend failed.
        """
        specification = self.bundle.specification
        keep = specification.class_map.classes if classes is None else specification.class_map.select(classes)
        depth, height, width = tomogram.shape
        z = depth // 2 if z is None else z
        tomogram.checked_range((z, z + 1))
        rescaling = Rescaling.of(tomogram.geometry, specification) if rescale else None
        seen = tomogram if rescaling is None else RescaledTomogram(tomogram, rescaling)
        statistics = measure_intensity(seen)
        labels = self._labeller.label_around(Task(tomogram, seen, rescaling, statistics, (0, depth), invert, keep), z)
        kept = np.zeros(256, np.uint8)
        numbers = [label_class.number for label_class in keep]
        kept[numbers] = numbers
        image = np.empty((1, height, width), np.float32)
        tomogram.read_slices(z, image)
        return SlicePreview(z, image[0], kept[labels], statistics.mean, statistics.standard_deviation)

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
    device: str = "auto",
    building: BuildProgress | None = None,
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
    with Segmenter(model, backend=backend, precision=precision, device=device, building=building) as segmenter:
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


def _polarity_warning(tomogram: Tomogram, span: tuple[int, int], invert: bool) -> tuple[str, ...]:
    looks = polarity_of(tomogram, span)
    if looks is None or (looks == "bright") is invert:
        return ()
    if invert:
        return ("density looks dark on light, but --invert says that it is bright; compare with labels without it",)
    return ("density looks bright on dark, and dark on light is expected; compare with labels made with --invert",)

"""TensorRT plans: built from a bundle's ONNX files, proved on the GPU that built them, and put into the bundle."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from tomoscribe.engine.backends.contract import Backend, SlotShape
from tomoscribe.engine.backends.tensorrt import TensorRtBackend
from tomoscribe.engine.bundle import Bundle, ModelSpecification
from tomoscribe.engine.cuda import Device, DeviceMemoryError, load_driver
from tomoscribe.engine.errors import BackendError
from tomoscribe.engine.plans import PlanFile, PlanShapes
from tomoscribe.engine.plans.making import MadePlan, make_plan
from tomoscribe.engine.plans.progress import BuildProgress
from tomoscribe.engine.tiles import reflected
from tomoscribe.export.graph import INPUTS
from tomoscribe.export.parity import GATES, Answer, Figures, ParityError, Runner, Sample, measure, onnxruntime_runner

__all__ = ["build_plan", "fit_samples"]


def build_plan(
    bundle: Bundle,
    precision: str,
    shapes: PlanShapes,
    samples: Sequence[Sample],
    *,
    allow_drift: bool = False,
    timing_cache: Path | None = None,
    progress: BuildProgress | None = None,
) -> Path:
    """Build a plan on the first GPU, and write it into the bundle if it answers as the FP32 artifact does.

    The plan's layers have to run in the precisions of the ONNX file. Its answers, as the backend gives them, have to
    pass the gate of the precision, on full and on smaller batches. A plan of the same name is replaced.

    Args:
        bundle: the model.
        precision: the artifact to build from.
        shapes: the sizes that the plan takes.
        samples: to compare on, of any size; see `fit_samples`.
        allow_drift: write a plan that does not pass, and mark it.
        timing_cache: file of layer timings, see `tomoscribe.engine.plans.making.make_plan`.
        progress: is told the phase that the build is in and the share that is done.

    Returns:
        The plan's file; what it is stands beside it in JSON.

    Raises:
        BackendUnavailableError: there is no TensorRT that is known to work, no GPU, or nothing that calls its driver.
        BundleError: the bundle has no such artifact, or the file was altered.
        CudaError: the GPU cannot be used.
        DeviceMemoryError: its memory does not suffice.
        PlanError: TensorRT cannot build or load the plan.
        ParityError: layers run in another precision, or the plan does not run or pass its gate.
        OutputError: the plan cannot be written.
    """
    try:
        with Device(load_driver()) as device:
            made = make_plan(bundle, precision, shapes, device, timing_cache=timing_cache, progress=progress)
    except DeviceMemoryError as error:
        raise DeviceMemoryError(f"{error}; name a smaller --slice-size") from error
    file, missed = made.file, made.precisions.shortfalls()
    _gate(file.path, missed, allow_drift)
    figures = _compare(bundle, made, samples)
    missed += GATES[precision].shortfalls(figures)
    _gate(file.path, missed, allow_drift)
    parity = {
        **figures.to_json(),
        "reference": f"ONNX Runtime {onnxruntime.__version__}, CPU, FP32",
        "runtime": f"TensorRT {file.identity.tensorrt}, {file.identity.device.name}",
        "passed": not missed,
        "shortfalls": missed,
    }
    return PlanFile.write(file.path, made.plan, file.identity, {**file.facts, "parity": parity}).path


def fit_samples(samples: Sequence[Sample], shapes: PlanShapes, context: int) -> list[Sample]:
    """Return samples in the size of a plan's tiles: continued by reflection, or cut.

    One more fills the batch where none of them does, so that both a full batch and a smaller one are compared.

    Args:
        samples: slices of any size.
        shapes: the plan's.
        context: context slices on each side, k.
    """
    fitted = [_fit(sample, len(sample.slices), shapes) for sample in samples]
    full = shapes.batch + 2 * context
    if fitted and all(len(sample.slices) < full for sample in fitted):
        fitted.append(replace(_fit(samples[0], full, shapes), name=f"{samples[0].name}, full batch"))
    return fitted


def _gate(path: Path, missed: Sequence[str], allow_drift: bool) -> None:
    if missed and not allow_drift:
        raise ParityError(
            f"{path.name}: {'; '.join(missed)}; it is not written, choose another precision or allow the drift"
        )


def _compare(bundle: Bundle, made: MadePlan, samples: Sequence[Sample]) -> Figures:
    identity, specification = made.file.identity, bundle.specification
    fitted = fit_samples(samples, identity.shapes, identity.context)
    reference = onnxruntime_runner(bundle.artifact_path("fp32"))
    backend = TensorRtBackend(bundle, precision=identity.precision, find=lambda *_: made.load())
    with contextlib.closing(backend):
        return measure(reference, _runner(backend, identity.shapes, specification), fitted, specification.class_map)


def _runner(backend: Backend, shapes: PlanShapes, specification: ModelSpecification) -> Runner:
    """Return a backend's answers to samples in the size of a plan's tiles, run a batch at a time."""
    context = specification.context
    tile = shapes.height, shapes.width
    (slot,) = backend.allocate(SlotShape(shapes.batch, context, *tile, specification.classes), 1)

    def run(sample: Sample) -> Answer:
        count = len(sample.slices) - 2 * context
        try:
            parts = [part(sample, first, min(shapes.batch, count - first)) for first in range(0, count, shapes.batch)]
        except BackendError as error:
            raise ParityError(str(error)) from error
        labels, scores = (np.concatenate(values) for values in zip(*parts, strict=True))
        return Answer(labels, scores)

    def part(sample: Sample, first: int, count: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        inputs = count + 2 * context
        for name in INPUTS:
            getattr(slot, name)[:inputs] = getattr(sample, name)[first : first + inputs]
        slot.count = count
        backend.submit(slot)
        backend.wait(slot)
        return slot.labels[:count].copy(), slot.scores[:count].copy()

    return run


def _fit(sample: Sample, count: int, shapes: PlanShapes) -> Sample:
    counts = zip((count, shapes.height, shapes.width), sample.slices.shape, strict=True)
    z, y, x = (reflected(0, size, length) for size, length in counts)
    return replace(sample, slices=sample.slices[np.ix_(z, y, x)], mean=sample.mean[z], rstd=sample.rstd[z])

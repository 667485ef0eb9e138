"""OpenVINO's answers, as segment would have them; they decide what ``auto`` takes, not whether a file is written."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from tomoscribe.engine.backends.contract import Backend, SlotShape
from tomoscribe.engine.backends.cpu import ARTIFACTS
from tomoscribe.engine.backends.openvino import OpenVinoBackend
from tomoscribe.engine.bundle import Artifact, Bundle, ModelSpecification
from tomoscribe.engine.errors import BackendError, BackendUnavailableError, BundleError
from tomoscribe.export.comparison import Apart
from tomoscribe.export.parity import Answer, ParityError, Runner, Sample

__all__ = ["openvino_runners"]


def openvino_runners(precision: str, artifact: Path, specification: ModelSpecification) -> dict[str, Runner]:
    """Return the ways of running an artifact in OpenVINO on this machine's CPU, by name, each to be judged apart.

    Args:
        precision: the artifact's key; the FP32 file is run in BF16 too where the processor has that.
        artifact: the ONNX file.
        specification: what the engine has to know of it.

    Returns:
        Nothing where OpenVINO is not installed or is not for the artifact. What it cannot load or run raises
        `ParityError` when it is asked for an answer.
    """
    bundle = Bundle(artifact.parent, specification, {precision: Artifact.of(artifact)})
    runners: dict[str, Runner] = {}
    for arithmetic, key in ARTIFACTS[OpenVinoBackend.name].items():
        if key != precision:
            continue
        try:
            runner = _runner(OpenVinoBackend(bundle, streams=1, precision=arithmetic), specification)
        except BackendUnavailableError:
            continue
        except BundleError as error:
            runner = _failing(error)
        name = f"{OpenVinoBackend.title} {version('openvino')}, CPU"
        if arithmetic == "bf16":
            runners[f"{name}, BF16"] = Apart(runner, "bf16")
        else:
            runners[name] = Apart(runner, precision)
    return runners


def _runner(backend: Backend, specification: ModelSpecification) -> Runner:
    def run(sample: Sample) -> Answer:
        inputs, height, width = sample.slices.shape
        batch = inputs - 2 * specification.context
        shape = SlotShape(batch, specification.context, height, width, specification.classes)
        try:
            (slot,) = backend.allocate(shape, 1)
            slot.slices[:], slot.mean[:], slot.rstd[:], slot.count = sample.slices, sample.mean, sample.rstd, batch
            backend.submit(slot)
            backend.wait(slot)
        except BackendError as error:
            raise ParityError(str(error)) from error
        return Answer(slot.labels, slot.scores)

    return run


def _failing(error: BundleError) -> Runner:
    def run(_: Sample) -> Answer:
        raise ParityError(str(error)) from error

    return run

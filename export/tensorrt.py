"""TensorRT plans: built from a bundle's ONNX files, proved on the GPU that built them, and put into the bundle."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import onnxruntime
import torch

from tomoscribe.engine.bundle import Bundle, ModelSpecification
from tomoscribe.engine.errors import BackendUnavailableError
from tomoscribe.engine.plan import DeviceIdentity, PlanFile, PlanIdentity, PlanShapes, plan_path
from tomoscribe.engine.plan_loading import check_contract, deserialize, tensorrt_version
from tomoscribe.engine.segmentation import SLOT_BYTES, plan_tiles
from tomoscribe.export.parity import GATES, Figures, ParityError, Sample, measure, onnxruntime_runner
from tomoscribe.export.tensorrt_layers import convolution_precisions, read_precisions
from tomoscribe.export.tensorrt_network import build_engine
from tomoscribe.export.tensorrt_progress import BuildProgress
from tomoscribe.export.tensorrt_runner import fit_samples, plan_runner

if TYPE_CHECKING:
    import tensorrt

__all__ = ["WORKSPACE", "build_plan", "check_machine", "plan_shapes"]

WORKSPACE = 4 * 2**30
"""Bytes of device memory that a layer of a plan may use while it works, or half of the GPU's if that is less."""


def check_machine() -> str:
    """Return the version of TensorRT, if plans can be built here.

    Raises:
        BackendUnavailableError: there is no TensorRT that is known to work, or PyTorch has no CUDA device.
    """
    version = tensorrt_version()
    _device()
    return version


def plan_shapes(slice_shape: tuple[int, int], specification: ModelSpecification) -> PlanShapes:
    """Return the sizes of the plan that serves tomograms of a size: their tiles, and as many slices as a slot holds.

    Args:
        slice_shape: ``(y, x)`` of the tomograms in pixels.
        specification: of the model.

    Raises:
        ParameterError: no tile of that size can be cut.
    """
    tiles = plan_tiles(slice_shape, specification)
    # Of a pixel, a slot holds a float32 of intensity, the label and the scores.
    slice_bytes = tiles.tile_shape[0] * tiles.tile_shape[1] * (4 + 1 + specification.classes)
    return PlanShapes.of(tiles, max(1, SLOT_BYTES // slice_bytes))


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
    """Build a plan on the current CUDA device, and write it into the bundle if it answers as the FP32 artifact does.

    The plan's layers have to run in the precisions of the ONNX file, and its answers to pass the gate of the
    precision, on full and on smaller batches. A plan of the same name is replaced.

    Args:
        bundle: the model.
        precision: the artifact to build from.
        shapes: the sizes that the plan takes.
        samples: to compare on, of any size; see `tomoscribe.export.tensorrt_runner.fit_samples`.
        allow_drift: write a plan that does not pass, and mark it.
        timing_cache: file of layer timings; by default in the user's cache folder, one for every kind of
            GPU and version of TensorRT.
        progress: is told the phase that the build is in and the share that is done.

    Returns:
        The plan's file; what it is stands beside it in JSON.

    Raises:
        BackendUnavailableError: there is no TensorRT that is known to work, or PyTorch has no CUDA device.
        BundleError: the bundle has no such artifact, or the file was altered.
        PlanError: TensorRT cannot build or load the plan.
        ParityError: layers run in another precision, or the plan does not pass its gate.
        OutputError: the plan cannot be written.
    """
    version, device = check_machine(), _device()
    identity = PlanIdentity.here(bundle, precision, shapes, version, _identity_of(device))
    artifact, path = bundle.artifact_path(precision), plan_path(bundle.path, identity)
    plan = build_engine(
        artifact,
        identity,
        workspace=min(WORKSPACE, torch.cuda.get_device_properties(device).total_memory // 2),
        timing_cache=timing_cache or _timing_cache(identity),
        progress=progress or (lambda _phase, _share: None),
    )
    runtime, engine = deserialize(plan, path, identity)
    check_contract(engine, path, identity)
    precisions = read_precisions(_inspect(engine), convolution_precisions(onnx.load(artifact)), path.name)
    missed = precisions.shortfalls()
    _gate(path, missed, allow_drift)
    figures = _compare(bundle, engine, identity, samples, device)
    del engine, runtime  # in this order
    missed += GATES[precision].shortfalls(figures)
    _gate(path, missed, allow_drift)
    parity = {
        **figures.to_json(),
        "reference": f"ONNX Runtime {onnxruntime.__version__}, CPU, FP32",
        "runtime": f"TensorRT {version}, {identity.device.name}",
        "passed": not missed,
        "shortfalls": missed,
    }
    PlanFile.write(path, plan, identity, {**precisions.to_json(), "parity": parity})
    return path


def _gate(path: Path, missed: Sequence[str], allow_drift: bool) -> None:
    if missed and not allow_drift:
        raise ParityError(
            f"{path.name}: {'; '.join(missed)}; it is not written, choose another precision or allow the drift"
        )


def _compare(
    bundle: Bundle,
    engine: tensorrt.ICudaEngine,
    identity: PlanIdentity,
    samples: Sequence[Sample],
    device: torch.device,
) -> Figures:
    return measure(
        onnxruntime_runner(bundle.artifact_path("fp32")),
        plan_runner(engine, identity, device),
        fit_samples(samples, identity.shapes, identity.context),
        bundle.specification.class_map,
    )


def _device() -> torch.device:
    if not torch.cuda.is_available():
        raise BackendUnavailableError(
            f"tensorrt: a plan is built on the GPU that runs it, and PyTorch {torch.__version__} finds none; install a "
            "build of PyTorch with CUDA on a machine with an NVIDIA GPU, or leave --tensorrt out"
        )
    return torch.device("cuda", torch.cuda.current_device())


def _identity_of(device: torch.device) -> DeviceIdentity:
    properties = torch.cuda.get_device_properties(device)
    return DeviceIdentity(
        name=properties.name,
        compute_capability=f"{properties.major}.{properties.minor}",
        multiprocessors=properties.multi_processor_count,
        memory=round(properties.total_memory / 2**30),
    )


def _timing_cache(identity: PlanIdentity) -> Path:
    """Return the file in the user's cache folder (XDG Base Directory Specification)."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return caches / "tomoscribe" / f"{identity.device.slug}-trt{identity.tensorrt}.timing"


def _inspect(engine: tensorrt.ICudaEngine) -> str:
    import tensorrt

    return engine.create_engine_inspector().get_engine_information(tensorrt.LayerInformationFormat.JSON)

"""The plan that a bundle needs on the GPU that is here: found, or built and kept.

It is looked for in the bundle's own folder, where ``tomoscribe export --tensorrt`` writes it as well, and then in the
user's cache, where it is kept if the bundle cannot be written, or is the one that was installed with tomoscribe.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tomoscribe.engine.bundle import Bundle, default_bundle
from tomoscribe.engine.cuda import Device
from tomoscribe.engine.errors import OutputError
from tomoscribe.engine.plans.building import build_engine, load_network
from tomoscribe.engine.plans.file import PlanFile
from tomoscribe.engine.plans.identity import (
    DeviceIdentity,
    PlanError,
    PlanIdentity,
    PlanShapes,
    plan_path,
)
from tomoscribe.engine.plans.layers import Precisions, convolution_precisions, read_precisions
from tomoscribe.engine.plans.loading import LoadedPlan, check_contract, deserialize, load_plan, tensorrt_version
from tomoscribe.engine.plans.progress import BuildProgress
from tomoscribe.engine.user_cache import user_cache

__all__ = ["WORKSPACE", "MadePlan", "find_or_build", "make_plan"]

WORKSPACE = 4 * 2**30
"""Bytes of device memory that a layer of a plan may use while it works, or half of the GPU's if that is less."""

# Of a network's sha256, in the name of the folder that stands for its bundle in the cache.
_DIGITS = 16


@dataclass(frozen=True)
class MadePlan:
    """A plan that was just built, and is not written yet.

    Attributes:
        plan: the serialized engine.
        file: what it is, and where it belongs in its bundle.
        precisions: what its convolutions run in.
    """

    plan: bytes
    file: PlanFile
    precisions: Precisions

    def load(self) -> LoadedPlan:
        """Make it ready to run on the current CUDA device.

        Raises:
            DeviceMemoryError: the GPU's memory does not suffice.
            PlanError: TensorRT refuses it.
        """
        return LoadedPlan(self.file, *deserialize(self.plan, self.file.path, self.file.identity))


def find_or_build(
    bundle: Bundle, precision: str, shapes: PlanShapes, device: Device, progress: BuildProgress | None = None
) -> LoadedPlan:
    """Return a plan that is ready to run on a device: one that is there and fits, or a new one, which takes minutes.

    A new one has its layers in the precisions of the network, or is refused. How its answers compare with those of the
    bundle's other networks is not measured: ``parity`` beside it is null, and ``built_because`` says what there was.

    Args:
        bundle: the model.
        precision: the artifact to build from.
        shapes: the sizes that the plan has to take.
        device: where it has to run.
        progress: is told why a plan is built, and then how far that is.

    Raises:
        BackendUnavailableError: there is no TensorRT that is known to work, or a plan has to be built without onnx.
        BundleError: the bundle has no such artifact, or the file was altered.
        CudaError: the device cannot be used.
        DeviceMemoryError: its memory does not suffice.
        PlanError: TensorRT cannot build the plan, or not in the precisions of the network.
        KeyboardInterrupt: Ctrl-C during the build, after which nothing is written.
    """
    report = progress or _silent
    with device.current():
        needed = _identity(bundle, precision, shapes, device)
        found = []
        for path in _places(bundle.path, needed):
            try:
                return load_plan(path, needed)
            except PlanError as error:
                if not isinstance(error.__cause__, FileNotFoundError):
                    found.append(error.reason)
        reason = "; ".join(found) or f"no plan for {shapes} in {precision} on {device.name} yet"
        report(reason, 0.0)
        made = make_plan(bundle, precision, shapes, device, progress=report)
        if wrong := made.precisions.shortfalls():
            raise PlanError(
                f"{made.file.path.name}: {'; '.join(wrong)}",
                "it is not used, choose another precision or another version of TensorRT",
            )
        return _written(made, {"parity": None, "built_because": reason}, report).load()


def make_plan(
    bundle: Bundle,
    precision: str,
    shapes: PlanShapes,
    device: Device,
    *,
    timing_cache: Path | None = None,
    progress: BuildProgress | None = None,
) -> MadePlan:
    """Build a plan on a device, and look at what came of it; nothing is written.

    Args:
        bundle: the model.
        precision: the artifact to build from.
        shapes: the sizes that the plan takes.
        device: where it is built and has to run.
        timing_cache: file of layer timings; by default in the user's cache, one for every kind of GPU and version of
            TensorRT.
        progress: is told the phase that the build is in and the share that is done.

    Raises:
        BackendUnavailableError: there is no TensorRT that is known to work, or no onnx.
        BundleError: the bundle has no such artifact, or the file was altered.
        CudaError: the device cannot be used.
        DeviceMemoryError: its memory does not suffice.
        PlanError: TensorRT cannot build or load the plan, or does not tell what its layers run in.
        KeyboardInterrupt: Ctrl-C, after which the build ended early.
    """
    with device.current():
        identity = _identity(bundle, precision, shapes, device)
        artifact, path = bundle.artifact_path(precision), plan_path(bundle.path, identity)
        plan = build_engine(
            artifact,
            identity,
            workspace=min(WORKSPACE, device.facts().memory // 2),
            timing_cache=timing_cache or _timing_cache(identity),
            progress=progress or _silent,
        )
        precisions = read_precisions(
            _inspect(plan, path, identity), convolution_precisions(load_network(artifact)), path.name
        )
    file = PlanFile(path, hashlib.sha256(plan).hexdigest(), identity, precisions.to_json())
    return MadePlan(plan, file, precisions)


def _inspect(plan: bytes, path: Path, identity: PlanIdentity) -> str:
    """Return what TensorRT tells of a plan's layers, if its inputs and outputs are those of the contract."""
    import tensorrt

    _runtime, engine = deserialize(plan, path, identity)
    check_contract(engine, path, identity)
    return engine.create_engine_inspector().get_engine_information(tensorrt.LayerInformationFormat.JSON)


def _written(made: MadePlan, facts: Mapping[str, object], report: BuildProgress) -> MadePlan:
    """Write a plan to the first place that can be written; without any, it is built anew the next time."""
    bundle = made.file.path.parent.parent
    places = list(_places(bundle, made.file.identity))
    if bundle.samefile(default_bundle()):
        # A file among those that were installed is left behind when they go, and lost with a container.
        places.reverse()
    for path in places:
        try:
            file = PlanFile.write(path, made.plan, made.file.identity, {**made.file.facts, **facts})
        except OutputError as error:
            report(str(error), 1.0)
        else:
            return replace(made, file=file)
    return made


def _identity(bundle: Bundle, precision: str, shapes: PlanShapes, device: Device) -> PlanIdentity:
    return PlanIdentity.here(bundle, precision, shapes, tensorrt_version(), DeviceIdentity.of(device.facts()))


def _places(bundle: Path, identity: PlanIdentity) -> Iterator[Path]:
    yield plan_path(bundle, identity)
    if (cache := user_cache()) is not None:
        yield plan_path(cache / identity.artifact[:_DIGITS], identity)


def _timing_cache(identity: PlanIdentity) -> Path | None:
    cache = user_cache()
    return None if cache is None else cache / f"{identity.device.slug}-trt{identity.tensorrt}.timing"


def _silent(_phase: str, _share: float) -> None:
    pass

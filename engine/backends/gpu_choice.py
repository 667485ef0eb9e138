"""The backends that run on GPUs: on which of them, in which precision, and why none can be used.

Nothing of CUDA is imported before one of these is asked for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from tomoscribe.engine.backends.contract import Backend
from tomoscribe.engine.backends.device_group import DeviceGroup
from tomoscribe.engine.bundle import Bundle
from tomoscribe.engine.errors import BackendError, BackendUnavailableError, ParameterError
from tomoscribe.engine.machine import find_nvidia_devices, newest_cuda

if TYPE_CHECKING:
    from tomoscribe.engine.plans.progress import BuildProgress

__all__ = [
    "AUTO",
    "CPU",
    "GPU_BACKENDS",
    "GpuBuild",
    "build_on_gpus",
    "choose_on_gpus",
    "gate_passed",
    "gpu_names",
    "has_gpu",
    "parse_devices",
]

AUTO = "auto"
CPU = "cpu"


class GpuBuild(Protocol):
    """Makes a backend of a bundle on one GPU."""

    def __call__(
        self, bundle: Bundle, *, precision: str, streams: int | None, device: int, building: BuildProgress | None
    ) -> Backend:
        """Return a backend that is ready; `building` is told how far a plan is, where one has to be built."""
        ...


def _tensorrt(
    bundle: Bundle, *, precision: str, streams: int | None, device: int, building: BuildProgress | None
) -> Backend:
    from tomoscribe.engine.backends.tensorrt import TensorRtBackend

    return TensorRtBackend(bundle, precision=precision, streams=streams, device=device, building=building)


def _onnxruntime_cuda(
    bundle: Bundle, *, precision: str, streams: int | None, device: int, building: BuildProgress | None
) -> Backend:
    from tomoscribe.engine.backends.onnxruntime_cuda import OnnxRuntimeCudaBackend

    return OnnxRuntimeCudaBackend(bundle, precision=precision, streams=streams, device=device)


GPU_BACKENDS: dict[str, GpuBuild] = {"tensorrt": _tensorrt, "onnxruntime-cuda": _onnxruntime_cuda}
"""In the order in which ``auto`` asks them."""


def parse_devices(device: str) -> tuple[int, ...] | None:
    """Return the GPUs that ``--device`` names: none for ``cpu``, and None for ``auto``, which leaves the choice.

    Raises:
        ParameterError: it is neither of these, nor numbers with commas between them, each once.
    """
    if device in (AUTO, CPU):
        return None if device == AUTO else ()
    words = [word.strip() for word in device.split(",")]
    numbers = tuple(int(word) for word in words if word.isascii() and word.isdecimal())
    if len(set(numbers)) < len(words):
        raise ParameterError(
            f"device '{device}': expected auto, cpu, or the numbers of GPUs, each once, as in 0 or 0,1"
        )
    return numbers


def has_gpu() -> bool:
    """Return whether this machine has an NVIDIA GPU, which need not be of use: its driver may be missing."""
    if find_nvidia_devices():
        return True
    try:
        # Not every container and virtual machine shows the bus. Without a driver, its libraries take long to say so.
        return newest_cuda() is not None and _count_gpus() > 0
    except (BackendError, BackendUnavailableError):
        return False


def gpu_names(devices: Iterable[int]) -> dict[int, str]:
    """Return what GPUs are, by their numbers.

    Raises:
        BackendUnavailableError: no library that calls CUDA's driver can be used.
        CudaError: there is no such GPU.
    """
    from tomoscribe.engine.cuda import load_driver

    driver = load_driver()
    return {device: driver.facts(device).name for device in devices}


def build_on_gpus(
    name: str,
    bundle: Bundle,
    devices: Sequence[int],
    *,
    precision: str,
    streams: int | None = None,
    building: BuildProgress | None = None,
) -> Backend:
    """Return a backend on a GPU, or on several, which then are one `DeviceGroup`.

    Args:
        name: one of `GPU_BACKENDS`.
        bundle: the model.
        devices: numbers of GPUs, as CUDA counts them.
        precision: one that the backend has.
        streams: slots that all of them together work on at the same time, one each at least; as suits them if None.
        building: is told how far a plan is, where one has to be built.

    Raises:
        BackendUnavailableError: the backend cannot run here in the precision, or there is no such GPU.
        BackendError: a GPU fails.
        BundleError: the bundle cannot be run.
    """
    backends = []
    with contextlib.ExitStack() as built:
        for index, device in enumerate(devices):
            share = None if streams is None else max(1, len(range(index, streams, len(devices))))
            backend = GPU_BACKENDS[name](bundle, precision=precision, streams=share, device=device, building=building)
            built.callback(backend.close)
            backends.append(backend)
        built.pop_all()
    return backends[0] if len(backends) == 1 else DeviceGroup(backends)


def choose_on_gpus(
    names: Sequence[str],
    bundle: Bundle,
    devices: Sequence[int],
    *,
    precision: str,
    streams: int | None,
    building: BuildProgress | None,
) -> tuple[Backend, str]:
    """Return the first of some backends that can run on GPUs, and why it was chosen, in one line.

    There is no trial: for the first tile, TensorRT builds for minutes. An automatic precision is FP16 where the
    bundle's parity gate let it pass, and FP32 where not.

    Args:
        names: of `GPU_BACKENDS`; a single one is what was asked for.
        bundle: the model.
        devices: numbers of GPUs, as CUDA counts them.
        precision: one of `PRECISIONS`, or ``auto``.
        streams: as `build_on_gpus` has it.
        building: as `build_on_gpus` has it.

    Raises:
        BackendUnavailableError: there is no such GPU, or none of the backends can run on them in the precision.
        BackendError: a GPU fails.
        BundleError: the bundle cannot be run.
    """
    where = _check_gpus(devices)
    chosen, why_not_fp16 = _judged_precision(bundle) if precision == AUTO else (precision, [])
    errors: list[BackendError | BackendUnavailableError] = []
    for name in names:
        try:
            backend = build_on_gpus(name, bundle, devices, precision=chosen, streams=streams, building=building)
        except (BackendError, BackendUnavailableError) as error:
            errors.append(error)
        else:
            why = "as asked for" if len(names) == 1 else f"the first that can run on {where}"
            return backend, "; ".join([f"{name} {chosen}, {why}", *why_not_fp16, *map(str, errors)])
    if len(errors) == 1:
        raise errors[0]
    raise BackendUnavailableError("; ".join(dict.fromkeys(map(str, errors))))


def gate_passed(bundle: Bundle, artifact: str) -> bool | None:
    """Return whether the parity gate let an artifact pass; None where it was not judged.

    This is not of the GPU that runs it: a plan is judged by `tomoscribe export --tensorrt`, and carries that itself.
    """
    judgement = bundle.parity.get(artifact)
    return None if judgement is None else judgement.get("passed") is True


def _judged_precision(bundle: Bundle) -> tuple[str, list[str]]:
    """Return the precision that is taken without being asked for, and in a line why it is not FP16."""
    name = bundle.specification.name
    if "fp16" not in bundle.artifacts:
        return "fp32", [f"{name} has no fp16 network, which would be faster"]
    # A network that somebody inspects is all that there is.
    if gate_passed(bundle, "fp16") or "fp32" not in bundle.artifacts:
        return "fp16", []
    return "fp32", [f"the fp16 network of {name} did not pass a parity gate"]


def _check_gpus(devices: Sequence[int]) -> str:
    """Return the GPUs in words, if CUDA can use them all."""
    count = _count_gpus()
    absent = [device for device in devices if device >= count]
    if absent:
        found = "none" if count == 0 else "GPU 0" if count == 1 else f"GPUs 0 to {count - 1}"
        raise BackendUnavailableError(
            f"{_listed(absent)}: expected a GPU that CUDA can use, found {found}; see: tomoscribe doctor"
        )
    return _listed(devices)


def _count_gpus() -> int:
    from tomoscribe.engine.cuda import load_driver

    return load_driver().count_devices()


def _listed(devices: Sequence[int]) -> str:
    return f"GPU{'s' if len(devices) > 1 else ''} {', '.join(map(str, devices))}"

"""Which backend runs a bundle here, where, and in which precision."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tomoscribe.engine.backends.contract import Backend
from tomoscribe.engine.backends.cpu import ARTIFACTS
from tomoscribe.engine.backends.cpu_choice import BACKENDS, RUNTIMES, choose_on_cpu, gate_passed_in
from tomoscribe.engine.backends.gpu_choice import (
    AUTO,
    CPU,
    GPU_BACKENDS,
    build_on_gpus,
    choose_on_gpus,
    gate_passed,
    has_gpu,
    parse_devices,
)
from tomoscribe.engine.bundle import Bundle
from tomoscribe.engine.errors import BackendError, BackendUnavailableError, ParameterError

if TYPE_CHECKING:
    from tomoscribe.engine.plans.progress import BuildProgress

__all__ = ["PRECISIONS", "build_backend", "choose_backend", "parity_warning"]

PRECISIONS = ("fp32", "fp16", "bf16", "int8")


def choose_backend(
    name: str,
    bundle: Bundle,
    *,
    precision: str = AUTO,
    latency: bool = False,
    device: str = AUTO,
    building: BuildProgress | None = None,
) -> tuple[Backend, str]:
    """Return a backend that is ready to run a bundle, and why it was chosen, in one line.

    Where both are left to choose, a GPU comes before the CPU; the reason says why it is the CPU on a machine that has a
    GPU. On a GPU the first backend that can run is taken, in FP16 where the bundle's parity gate let it pass, and in
    FP32 where not. On the CPU the fastest is taken, by a trial of a second or two whose result is kept for this machine
    and bundle, unless others were at work on the machine meanwhile. An automatic precision there is FP32, or BF16 or
    INT8 where the gate let it pass in the very runtime and the processor has the arithmetic for it. One that a gate did
    not let pass has to be asked for, and the reason then says so.

    Args:
        name: one of `GPU_BACKENDS` or `BACKENDS`, which then runs or fails, or ``auto``.
        bundle: the model.
        precision: one of `PRECISIONS`, which then is had or fails, or ``auto``.
        latency: give a single slot all of the device, rather than work on several at the same time.
        device: ``cpu``, which has nothing of CUDA imported; numbers of GPUs, as CUDA counts them, such as ``0``, or
            ``0,1`` for two that share a tomogram, which then run or fail; or ``auto``, which is GPU 0 or else the CPU.
        building: is told why TensorRT builds a plan, where it has to, and how far that is.

    Raises:
        ParameterError: there is no backend, precision or device of that name, or the backend does not run there.
        BackendUnavailableError: the backend, or with ``auto`` every backend, cannot run here in the precision.
        BackendError: every backend fails.
        BundleError: the bundle cannot be run.
    """
    devices = _checked_devices(name, precision, device)
    streams = 1 if latency else None
    if devices or name in GPU_BACKENDS:
        names = [name] if name in GPU_BACKENDS else list(GPU_BACKENDS)
        backend, reason = choose_on_gpus(
            names, bundle, devices or (0,), precision=precision, streams=streams, building=building
        )
    elif devices is None and name == AUTO and has_gpu():
        backend, reason = _choose_anywhere(bundle, precision, latency, building)
    else:
        backend, reason = choose_on_cpu(name, bundle, precision=precision, latency=latency)
    warning = parity_warning(bundle, backend.name, precision)
    return backend, f"{reason}; {warning}" if warning else reason


def build_backend(
    name: str,
    bundle: Bundle,
    *,
    precision: str,
    streams: int | None = None,
    device: str = CPU,
    building: BuildProgress | None = None,
) -> Backend:
    """Return the very backend that is asked for, ready to run a bundle.

    Args:
        name: one of `GPU_BACKENDS` or `BACKENDS`.
        bundle: the model.
        precision: one of `PRECISIONS`.
        streams: slots that it works on at the same time; as many as suit it if None.
        device: ``cpu``, or numbers of GPUs.
        building: as `choose_backend` has it.

    Raises:
        ParameterError: there is no such backend, precision or device, or the backend does not run there.
        BackendUnavailableError: the backend cannot run here in the precision.
        BackendError: a GPU fails.
        BundleError: the bundle cannot be run.
    """
    devices = _checked_devices(name, precision, device)
    if name in GPU_BACKENDS:
        return build_on_gpus(name, bundle, devices or (0,), precision=precision, streams=streams, building=building)
    return BACKENDS[name](bundle, precision=precision, streams=streams)


def parity_warning(bundle: Bundle, backend: str, precision: str) -> str | None:
    """Return, in a line, that a bundle's parity gate did not let a precision pass in a backend.

    Args:
        bundle: the model.
        backend: one of `GPU_BACKENDS` or `BACKENDS`.
        precision: one of `PRECISIONS`, or ``auto``, which takes what passed.

    Returns:
        None where the gate let it pass, or did not judge it.
    """
    if backend in GPU_BACKENDS:
        passed, where = gate_passed(bundle, ARTIFACTS[backend].get(precision, "")), ""
    else:
        passed, where = gate_passed_in(bundle, backend, precision), f" in {RUNTIMES.get(backend, backend)}"
    if passed is not False:
        return None
    return (
        f"the {precision} network of {bundle.specification.name} did not pass its parity gate{where}: compare its "
        "labels with those of another precision"
    )


def _checked_devices(name: str, precision: str, device: str) -> tuple[int, ...] | None:
    """Return the GPUs that are asked for, where backend and precision are known and the backend runs there."""
    backends = [*GPU_BACKENDS, *BACKENDS]
    for kind, value, known in (("backend", name, backends), ("precision", precision, PRECISIONS)):
        if value not in (AUTO, *known):
            raise ParameterError(f"{kind} '{value}': expected one of {', '.join([AUTO, *known])}")
    devices = parse_devices(device)
    if name in BACKENDS and devices:
        raise ParameterError(f"device '{device}': expected cpu or auto, for {name} runs on the CPU")
    if name in GPU_BACKENDS and devices == ():
        raise ParameterError(f"device '{device}': expected a GPU such as 0, or auto, for {name} runs on GPUs")
    return devices


def _choose_anywhere(
    bundle: Bundle, precision: str, latency: bool, building: BuildProgress | None
) -> tuple[Backend, str]:
    """Choose on a machine that has a GPU: that, or else the CPU with the reason why not."""
    streams = 1 if latency else None
    try:
        return choose_on_gpus(list(GPU_BACKENDS), bundle, (0,), precision=precision, streams=streams, building=building)
    except (BackendError, BackendUnavailableError) as error:
        why_no_gpu = f"no GPU is used: {error}"
    try:
        backend, reason = choose_on_cpu(AUTO, bundle, precision=precision, latency=latency)
    except BackendUnavailableError as error:
        raise BackendUnavailableError(f"{error}; {why_no_gpu}") from error
    return backend, f"{reason}; {why_no_gpu}"

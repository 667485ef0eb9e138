"""``tomoscribe export --tensorrt``: plans for the GPU that is here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tomoscribe.engine.bundle import Bundle

__all__ = ["build_plans", "check_tensorrt", "parse_slice_size"]


def parse_slice_size(text: str) -> tuple[int, int]:
    """Return ``(y, x)`` for a text such as ``960x928``.

    Raises:
        ParameterError: it is not two whole numbers above 0.
    """
    from tomoscribe.engine.errors import ParameterError

    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isascii() and part.isdigit() and int(part) for part in parts):
        raise ParameterError(f"--slice-size: expected YxX such as 960x928, found {text!r}")
    return int(parts[0]), int(parts[1])


def check_tensorrt() -> None:
    """Refuse to begin where there is no TensorRT that is known to work, or no GPU.

    Raises:
        BackendUnavailableError: with what to install.
        CudaError: the GPU cannot be used.
    """
    from tomoscribe.engine.cuda import Device, load_driver
    from tomoscribe.engine.plans.loading import tensorrt_version

    tensorrt_version()
    Device(load_driver()).close()


def build_plans(
    bundle: Bundle,
    precision: str | None,
    slice_size: tuple[int, int],
    *,
    tomograms: Iterable[Path],
    allow_drift: bool,
    progress: Callable[[str], None],
) -> list[Path]:
    """Build a plan of each precision that was asked for; of FP32 only where there is no other.

    Args:
        bundle: the model.
        precision: those of ``--precision``; all that the bundle has if None.
        slice_size: ``(y, x)`` of the tomograms in pixels.
        tomograms: to compare on, besides phantoms.
        allow_drift: write a plan that its gate does not let through, and mark it.
        progress: is told what is being done.

    Returns:
        The plans' files.

    Raises:
        TomoscribeError: as `tomoscribe.export.tensorrt.build_plan` says.
    """
    from tomoscribe.engine.plans.shapes import plan_shapes
    from tomoscribe.export.samples import gather_samples
    from tomoscribe.export.tensorrt import build_plan

    progress("slices to compare on")
    samples = gather_samples(bundle.specification, tomograms, quantised=False).parity
    shapes = plan_shapes(slice_size, bundle.specification)
    asked = bundle.parity if precision is None else [name.strip() for name in precision.split(",")]
    plans = []
    for name in [name for name in asked if name not in ("fp32", "int8-cpu")] or ["fp32"]:

        def tell(phase: str, share: float, name: str = name) -> None:
            progress(f"{name} plan: {phase}, {share:.0%}")

        plans.append(build_plan(bundle, name, shapes, samples, allow_drift=allow_drift, progress=tell))
    return plans

"""The parts of `gpu.py`: what each does, for how long at most, and what it needs to be there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["FULL", "QUICK", "REHEARSAL", "Part", "Scale", "make_parts"]


@dataclass(frozen=True)
class Scale:
    """How much is measured, and on what.

    Attributes:
        shape: of the tomograms whose time is taken, ``(z, y, x)``.
        widths: base widths of the U-Nets, the most important first.
        depth: of the U-Nets.
        backends: of tomoscribe.
        device: as ``--device`` has it.
        precision: of the backends and of PyTorch.
        judged: precisions whose labels are compared with those of ONNX Runtime on the CPU in FP32.
        rounds: how often everything is timed.
        phantom: shape of the phantoms on which labels are compared.
        compiles: whether PyTorch compiles.
        matrix: rows and columns of the matrices whose product is the peak.
    """

    shape: tuple[int, int, int] = (281, 960, 960)
    widths: tuple[int, ...] = (64, 32, 16)
    depth: int = 4
    backends: tuple[str, ...] = ("tensorrt", "onnxruntime-cuda")
    device: str = "0"
    precision: str = "fp16"
    judged: tuple[str, ...] = ("fp32", "fp16")
    rounds: int = 3
    phantom: tuple[int, int, int] = (16, 384, 384)
    compiles: bool = True
    matrix: int = 8192


PREPARE = "prepare"

FULL = Scale()
QUICK = Scale(shape=(24, 960, 960), widths=(16,), rounds=1, phantom=(8, 256, 256), compiles=False)
REHEARSAL = Scale(
    shape=(12, 64, 64),
    widths=(4,),
    depth=2,
    backends=("onnxruntime", "openvino"),
    device="cpu",
    precision="fp32",
    judged=("fp32",),
    rounds=2,
    phantom=(8, 64, 64),
    compiles=False,
    matrix=256,
)


@dataclass(frozen=True)
class Part:
    """One part, which has a process of its own.

    Attributes:
        name: what ``--only`` and the results call it.
        study: one of `gpu_child.STUDIES`.
        seconds: that it may take at most.
        arguments: of the study, in JSON's types.
        needs: what has to be there, of what `gpu_setup.examine` looks for.
        after: names of parts that make what it works on.
        measures: it has the machine for itself; parts that measure nothing run side by side.
    """

    name: str
    study: str
    seconds: float
    arguments: Mapping[str, Any] = field(default_factory=dict)
    needs: Sequence[str] = ()
    after: Sequence[str] = ()
    measures: bool = True


def make_parts(scale: Scale) -> Iterator[Part]:
    """Yield the parts in the order of their importance, for the time may not suffice for the last."""
    preparing = {"shape": scale.shape, "widths": scale.widths, "depth": scale.depth, "phantom": scale.phantom}
    yield Part(PREPARE, PREPARE, 150, preparing, ("export",), measures=False)
    yield Part("conformance", "conformance", 120, needs=("pytest",), measures=False)
    yield Part("peak", "peak", 40, {"device": scale.device, "size": scale.matrix}, ("torch",))
    first, *others = scale.widths
    yield from _width(scale, first, seconds=120)
    judging = {"device": scale.device, "precisions": scale.judged, "shape": scale.phantom}
    for backend in scale.backends:
        yield Part(f"parity {backend}", "parity", 75, {**judging, "backend": backend}, (backend,), (PREPARE,))
    for backend in scale.backends:
        arguments = {**_on(scale, backend), **_volume(scale, scale.widths[-1])}
        yield Part(f"bus {backend}", "bus", 60, arguments, (backend,), (PREPARE,))
    for width in others:
        yield from _width(scale, width, seconds=75)
    yield from _libraries(scale)


def _width(scale: Scale, width: int, seconds: float) -> Iterator[Part]:
    """Yield what is done with one network: tomoscribe's backends, and then PyTorch."""
    for backend in scale.backends:
        arguments = {**_on(scale, backend), **_volume(scale, width)}
        yield Part(f"volume {backend} {width}", "volume", seconds, arguments, (backend,), (PREPARE,))
    arguments = {**_volume(scale, width), "device": scale.device, "precision": scale.precision}
    arguments["compiles"] = scale.compiles
    yield Part(f"torch {width}", "torch_peers", seconds, arguments, ("torch",), (PREPARE,))


def _libraries(scale: Scale) -> Iterator[Part]:
    """Yield the smallest network with each library that calls CUDA's driver, and with CUDA graphs switched off."""
    if scale.device == "cpu":
        return
    for backend in scale.backends:
        arguments = {**_on(scale, backend), **_volume(scale, scale.widths[-1])}
        for library, graphs in (("cuda.bindings", True), ("cuda.bindings", False), ("pycuda", True)):
            if graphs or backend == "tensorrt":  # the only one that has them
                title = f"library {backend} {library}{'' if graphs else ' without graphs'}"
                how = {"library": library, "graphs": graphs}
                yield Part(title, "volume", 45, {**arguments, **how}, (backend, library), (PREPARE,))


def _on(scale: Scale, backend: str) -> dict[str, Any]:
    return {"backend": backend, "precision": scale.precision, "device": scale.device}


def _volume(scale: Scale, width: int) -> dict[str, Any]:
    return {"shape": scale.shape, "width": width, "rounds": scale.rounds}

"""What the backends on the CPU have in common: cores and memory, buffers, and the choice of a network."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tomoscribe.engine.backends.contract import Slot, SlotShape
from tomoscribe.engine.bundle import CHECKPOINT, Bundle
from tomoscribe.engine.cores import usable_cores
from tomoscribe.engine.errors import BackendError, BackendUnavailableError, BundleError, ParameterError
from tomoscribe.engine.machine import read_memory

__all__ = [
    "ARTIFACTS",
    "INPUTS",
    "OUTPUTS",
    "allocate_slots",
    "check_contract",
    "choose_artifact",
    "import_runtime",
    "one_line",
    "share_cores",
    "use_of_cores",
]

INPUTS = ("slices", "mean", "rstd")
OUTPUTS = ("labels", "scores")

ARTIFACTS: Mapping[str, Mapping[str, str]] = {
    "onnxruntime": {"fp32": "fp32", "int8": "int8-cpu"},
    # It runs TensorRT's form as well, a little faster, but drifts far from what that answers in ONNX Runtime.
    "openvino": {"fp32": "fp32", "bf16": "fp32", "int8": "int8-cpu"},
    "onnxruntime-cuda": {"fp32": "fp32", "fp16": "fp16"},
    "tensorrt": {"fp32": "fp32", "fp16": "fp16", "int8": "int8"},
}
"""What each backend runs of a bundle: by precision, its artifact."""

# Memory that a stream is taken to need for the values between layers; the bundled model needs less on a tile of
# 1024 × 1024.
_STREAM_BYTES = 2**30


def import_runtime(module: str, title: str, extra: str) -> Any:  # noqa: ANN401 - the runtimes' types differ or are none
    """Import a runtime that tomoscribe works without.

    Raises:
        BackendUnavailableError: it is not installed, or cannot be loaded.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if isinstance(error.__cause__, KeyboardInterrupt):  # Ctrl-C while its extension is initialised
            raise error.__cause__ from None
        raise BackendUnavailableError(
            f'{module}: {title} cannot be imported ({error}); install it with: pip install "tomoscribe[{extra}]"'
        ) from error


def share_cores(backend: str, threads: int | None, streams: int | None) -> tuple[int, int]:
    """Return how many threads work in all, and how many streams share them.

    Independent streams waste nothing on waiting for each other, so there is one for each thread, unless the values
    between layers, which every stream has for itself, could take more than half of the memory.

    Args:
        backend: for messages.
        threads: all the cores that this process may use if None.
        streams: as above if None.

    Raises:
        ParameterError: fewer than one thread or stream, or more streams than threads.
    """
    threads = usable_cores() if threads is None else threads
    if threads < 1:
        raise ParameterError(f"{backend}: expected at least one thread, found {threads}")
    if streams is None:
        memory = read_memory().usable
        streams = threads if memory is None else max(1, min(threads, memory // 2 // _STREAM_BYTES))
    if not 1 <= streams <= threads:
        raise ParameterError(f"{backend}: expected 1 to {threads} streams on {threads} threads, found {streams}")
    return threads, streams


def use_of_cores(threads: int, streams: int) -> str:
    """Return threads and streams as descriptions have them."""
    return f"{_counted(streams, 'stream')} on {_counted(threads, 'thread')}"


def choose_artifact(backend: str, bundle: Bundle, precision: str) -> str:
    """Return the bundle's artifact that a backend runs in a precision.

    Args:
        backend: one of `ARTIFACTS`.
        bundle: the model.
        precision: one of those that the backend has.

    Raises:
        BackendUnavailableError: the backend does not have the precision, or the bundle has no network for it.
    """
    if precision not in ARTIFACTS[backend]:
        expected = " or ".join(ARTIFACTS[backend])
        raise BackendUnavailableError(f"{backend}: expected the precision {expected}, found {precision}")
    artifact = ARTIFACTS[backend][precision]
    if artifact in bundle.artifacts:
        return artifact
    known = ", ".join(sorted(bundle.artifacts.keys() - {CHECKPOINT}))
    raise BackendUnavailableError(
        f"{backend}: {bundle.path} has no {artifact} network, it has {known}; "
        f"export the model again with --precision {artifact}"
    )


def check_contract(path: object, inputs: Iterable[str], outputs: Iterable[str]) -> None:
    """Refuse a network whose inputs and outputs are not those of the graph contract.

    Raises:
        BundleError: with what was found.
    """
    found = set(inputs), set(outputs)
    if found != (set(INPUTS), set(OUTPUTS)):
        raise BundleError(
            f"{path}: expected the inputs {_listed(INPUTS)} and the outputs {_listed(OUTPUTS)}, "
            f"found {_listed(found[0])} and {_listed(found[1])}; export the model again"
        )


def allocate_slots(backend: str, shape: SlotShape, count: int) -> Sequence[Slot]:
    """Return `count` slots in ordinary memory.

    Raises:
        BackendError: there is not enough memory.
    """
    n, tile = shape.batch, (shape.height, shape.width)
    inputs = n + 2 * shape.context
    try:
        return [
            Slot(
                slices=np.empty((inputs, *tile), np.float32),
                mean=np.zeros(inputs, np.float32),
                rstd=np.ones(inputs, np.float32),
                labels=np.empty((n, *tile), np.uint8),
                scores=np.empty((n, shape.classes, *tile), np.uint8),
            )
            for _ in range(count)
        ]
    except MemoryError as error:
        raise BackendError(
            f"{backend}: no memory for {count} slots of {n} slices of {shape.height} × {shape.width}; "
            "use a smaller batch or smaller tiles"
        ) from error


def one_line(error: BaseException) -> str:
    """Return what an error of a runtime says, without its line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))

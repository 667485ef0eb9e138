"""Loading a TensorRT plan: what is compared and asked, in this order, before anything runs.

1. what is beside the plan is read, and its identity compared with what is needed here;
2. the plan's bytes are those that were built (sha256);
3. TensorRT deserializes it: None is a refusal;
4. its inputs and outputs are those of the graph contract, in the sizes of the identity.
"""

from __future__ import annotations

import functools
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tomoscribe.engine.cuda import DeviceMemoryError
from tomoscribe.engine.errors import BackendUnavailableError, TomoscribeError
from tomoscribe.engine.plans.file import PlanFile
from tomoscribe.engine.plans.identity import PlanError, PlanIdentity, PlanMismatchError, rebuild_command

if TYPE_CHECKING:
    import tensorrt

__all__ = [
    "LoadedPlan",
    "TensorRTLog",
    "check_contract",
    "deserialize",
    "load_plan",
    "tensorrt_log",
    "tensorrt_version",
]

_OLDEST = 10, 13
_NEWEST = 11
_KEPT_MESSAGES = 50
# "Error Code 2: OutOfMemory", "Cuda Runtime (out of memory)", "… due to insufficient workspace", and, of an allocator,
# "Requested amount of GPU memory (… bytes) could not be allocated".
_OF_MEMORY = re.compile(r"out ?of ?memory|insufficient (memory|workspace)|memory .*could not be allocated", re.I)


@dataclass(frozen=True)
class LoadedPlan:
    """An engine that is ready to make execution contexts.

    Attributes:
        file: the plan on the disk.
        runtime: has to outlive the engine.
        engine: what makes execution contexts.
    """

    file: PlanFile
    runtime: tensorrt.Runtime
    engine: tensorrt.ICudaEngine


@dataclass(frozen=True)
class TensorRTLog:
    """What TensorRT has to say.

    Attributes:
        logger: to be handed to TensorRT.
        errors: its latest messages of severity error, oldest first.
    """

    logger: tensorrt.ILogger
    errors: deque[str] = field(default_factory=deque)

    def reason(self) -> str:
        """Return the first error since the last call, on one line, and forget them all."""
        reason = " ".join(self.errors[0].split()) if self.errors else "it gives no reason"
        self.errors.clear()
        return reason

    def failure(self, kind: Callable[..., TomoscribeError], what: str, *remedy: str) -> TomoscribeError:
        """Return the error for what TensorRT did not do, with its reason, and forget what it said.

        Args:
            kind: of the error; it is a `DeviceMemoryError` instead where TensorRT's words are of memory.
            what: failed, and where.
            remedy: what to do about it, if that is another argument of the error.
        """
        of_memory = [line for line in (" ".join(message.split()) for message in self.errors) if _OF_MEMORY.search(line)]
        if of_memory:
            self.errors.clear()
            return DeviceMemoryError(f"{what}, out of memory ({of_memory[0]})")
        return kind(f"{what} ({self.reason()})", *remedy)


def tensorrt_version() -> str:
    """Return the version of the TensorRT that is installed.

    Raises:
        BackendUnavailableError: there is none, it cannot be loaded, or it is of a version that is not known to work.
    """
    install = 'pip install "tomoscribe[tensorrt]"'
    try:
        import tensorrt
    except ImportError as error:
        raise BackendUnavailableError(
            f"tensorrt: TensorRT cannot be imported ({error}); install it with: {install}"
        ) from error
    major, minor = (int(part) for part in tensorrt.__version__.split(".")[:2])
    if (major, minor) < _OLDEST or major > _NEWEST:
        raise BackendUnavailableError(
            f"tensorrt: expected TensorRT {'.'.join(map(str, _OLDEST))} to {_NEWEST}.x, found {tensorrt.__version__}; "
            f"install one with: {install}"
        )
    return tensorrt.__version__


@functools.cache
def tensorrt_log() -> TensorRTLog:
    """Return the logger of this process; TensorRT takes only one for all of its builders and runtimes."""
    import tensorrt

    errors: deque[str] = deque(maxlen=_KEPT_MESSAGES)
    kept = tensorrt.ILogger.Severity.INTERNAL_ERROR, tensorrt.ILogger.Severity.ERROR

    class Logger(tensorrt.ILogger):
        def __init__(self) -> None:
            tensorrt.ILogger.__init__(self)

        def log(self, severity: tensorrt.ILogger.Severity, msg: str) -> None:
            if severity in kept:
                errors.append(msg)

    return TensorRTLog(Logger(), errors)


def load_plan(path: Path, needed: PlanIdentity) -> LoadedPlan:
    """Load a plan, if it is what is needed here, on the current CUDA device.

    Args:
        path: the plan's file.
        needed: see `PlanIdentity.here`.

    Raises:
        BackendUnavailableError: TensorRT is not installed, or not of a version that is known to work.
        DeviceMemoryError: the GPU's memory does not suffice.
        PlanMismatchError: the plan was built for something else, or altered; it names what differs, what was expected
            and found, and the command that builds it again.
        PlanError: there is no plan, or TensorRT refuses it.
    """
    tensorrt_version()
    file = PlanFile.read(path)
    needed.check(file.identity, path)
    plan = file.read_plan()
    runtime, engine = deserialize(plan, path, needed)
    check_contract(engine, path, needed)
    return LoadedPlan(file, runtime, engine)


def deserialize(plan: bytes, path: Path, identity: PlanIdentity) -> tuple[tensorrt.Runtime, tensorrt.ICudaEngine]:
    """Hand a plan to TensorRT.

    Raises:
        DeviceMemoryError: the GPU's memory does not suffice.
        PlanError: TensorRT refuses it.
    """
    import tensorrt

    log = tensorrt_log()
    log.errors.clear()
    runtime = tensorrt.Runtime(log.logger)
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        command = rebuild_command(path.parent.parent, identity)
        raise log.failure(
            PlanError,
            f"{path}: TensorRT {tensorrt.__version__} cannot load it",
            f"build it again with: {command}",
        )
    return runtime, engine


def check_contract(engine: tensorrt.ICudaEngine, path: Path, identity: PlanIdentity) -> None:
    """Compare an engine's inputs and outputs with the graph contract, and the sizes that it takes with its identity.

    Raises:
        PlanMismatchError: they differ.
    """
    import tensorrt

    command = rebuild_command(path.parent.parent, identity)
    names = {engine.get_tensor_name(index) for index in range(engine.num_io_tensors)}
    shapes, context = identity.shapes, identity.context
    smallest, largest = shapes.inputs(1, context), shapes.inputs(shapes.batch, context)
    outputs = shapes.outputs(shapes.batch, identity.classes)
    if names != {*largest, *outputs}:
        expected = ", ".join(sorted({*largest, *outputs}))
        raise PlanMismatchError(path, "tensors", expected, ", ".join(sorted(names)), command)
    for name in sorted(names):
        mode, dtype = engine.get_tensor_mode(name), engine.get_tensor_dtype(name)
        is_input = name in largest
        wanted = (
            tensorrt.TensorIOMode.INPUT if is_input else tensorrt.TensorIOMode.OUTPUT,
            tensorrt.DataType.FLOAT if is_input else tensorrt.DataType.UINT8,
        )
        if (mode, dtype) != wanted:
            raise PlanMismatchError(path, name, _listed(wanted), _listed((mode, dtype)), command)
        if is_input:
            low, _, high = (tuple(shape) for shape in engine.get_tensor_profile_shape(name, 0))
            if (low, high) != (smallest[name], largest[name]):
                expected = f"{smallest[name]} to {largest[name]}"
                raise PlanMismatchError(path, f"profile of {name}", expected, f"{low} to {high}", command)


def _listed(values: tuple[tensorrt.TensorIOMode, tensorrt.DataType]) -> str:
    return " ".join(value.name.lower() for value in values)

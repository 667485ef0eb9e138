"""TensorRT on a GPU: a plan, an execution context for each lane, and CUDA graphs where they measure faster."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tomoscribe.engine.backends.contract import SlotShape
from tomoscribe.engine.backends.gpu_backend import GpuBackend, Lane
from tomoscribe.engine.bundle import Bundle
from tomoscribe.engine.cuda import Buffer, CudaError, Device, DeviceMemoryError, Graph
from tomoscribe.engine.errors import TomoscribeError
from tomoscribe.engine.plans import PlanShapes
from tomoscribe.engine.plans.loading import LoadedPlan, tensorrt_log, tensorrt_version
from tomoscribe.engine.plans.making import find_or_build
from tomoscribe.engine.plans.progress import BuildProgress
from tomoscribe.engine.plans.shapes import standard_shapes

__all__ = ["FindPlan", "TensorRtBackend"]

FindPlan = Callable[[Bundle, str, PlanShapes, Device, BuildProgress | None], LoadedPlan]
"""Gives the plan for some sizes, see `tomoscribe.engine.plans.making.find_or_build`."""

# Batches that are timed in one piece: in a volume too, the host runs ahead of the device.
_IN_A_ROW = 3


class TensorRtBackend(GpuBackend):
    """Runs a bundle on an NVIDIA GPU as a TensorRT plan, which is found or built where slots are allocated.

    A plan takes tiles of one size and up to a standard number of slices, so that one serves tomograms of any depth.
    Where memory lacks for that, it is one for the slots' own number.

    Args:
        bundle: the model.
        precision: ``fp32``, ``fp16`` or ``int8``, the artifact that the plan is built from.
        streams: slots that have to be submitted for it to be busy; 2 if None.
        device: which GPU, counted as CUDA counts them, from 0.
        building: is told why a plan is built, which takes minutes, and how far that is.
        find: what gives the plan.

    Raises:
        BackendUnavailableError: there is no TensorRT that is known to work, no such GPU, nothing that calls its driver,
            or no network in the precision.
        BundleError: the network is missing or altered.
        CudaError: the GPU cannot be used.
        ParameterError: `streams` is less than 1.
    """

    name = "tensorrt"

    def __init__(
        self,
        bundle: Bundle,
        *,
        precision: str = "fp16",
        streams: int | None = None,
        device: int = 0,
        building: BuildProgress | None = None,
        find: FindPlan = find_or_build,
    ) -> None:
        self._version = tensorrt_version()
        self._building, self._find = building, find
        # The plan, and the sizes that it was asked for.
        self._plan: tuple[PlanShapes, LoadedPlan] | None = None
        self._too_many_pixels = math.inf
        self._batch = 0
        self._memory: Buffer | None = None
        self._work: list[_LaneWork] = []
        super().__init__(bundle, device, precision, streams)

    def close(self) -> None:
        """Give the GPU's memory back; closing twice is fine."""
        self._clear()
        if self._plan is not None:
            with contextlib.suppress(CudaError), self._device.current():
                self._plan = None
        super().close()

    @property
    def _title_and_version(self) -> str:
        return f"TensorRT {self._version}"

    def _open(self, shape: SlotShape, lanes: Sequence[Lane]) -> None:
        self._batch = shape.batch
        exact = PlanShapes(shape.batch, shape.height, shape.width)
        standard = standard_shapes((shape.height, shape.width), shape.classes)
        if standard.batch > exact.batch and standard.pixels < self._too_many_pixels:
            with contextlib.suppress(DeviceMemoryError):
                self._prepare(standard, lanes)
                return
        self._prepare(exact, lanes)

    def _enqueue(self, lane: Lane, count: int) -> None:
        work = self._work[lane.index]
        if count < self._batch:
            work.partial.enqueue(count)
        elif work.graph is not None:
            work.graph.launch(lane.stream)
        else:
            work.full.enqueue(count)

    def _release(self) -> None:
        work, self._work = self._work, []
        memory, self._memory = self._memory, None
        with contextlib.suppress(CudaError):
            _free_graphs(work)
            # Execution contexts go before the memory that they were given.
            work.clear()
            if memory is not None:
                memory.free()

    def _prepare(self, shapes: PlanShapes, lanes: Sequence[Lane]) -> None:
        try:
            self._load(shapes, lanes)
        except DeviceMemoryError:
            # The next call is for fewer pixels, and must not be given as many again for the sake of a standard.
            self._too_many_pixels = min(self._too_many_pixels, shapes.pixels)
            self._release()
            self._plan = None
            raise

    def _load(self, shapes: PlanShapes, lanes: Sequence[Lane]) -> None:
        if self._plan is None or self._plan[0] != shapes:
            self._plan = None  # before the next one, which may need its memory
            self._plan = shapes, self._find(self._bundle, self._artifact, shapes, self._device, self._building)
        _, plan = self._plan
        # Lanes take turns in one stream, so that one memory for the values between layers serves all of them.
        self._memory = self._device.buffer(max(1, plan.engine.device_memory_size_v2))
        for lane in lanes:
            execution = _Execution(plan, lane, self._memory)
            self._work.append(_LaneWork(execution, execution))
            # Whatever comes late comes now: before the first batch, sizes are only noted, and kernels not loaded.
            execution.enqueue(self._batch)
            lane.stream.synchronize()
        if self._device.driver.has_graphs:
            self._record_where_faster(plan, lanes, self._memory)

    def _record_where_faster(self, plan: LoadedPlan, lanes: Sequence[Lane], memory: Buffer) -> None:
        """Record the full batch of each lane as a graph, and keep the graphs if they take less time."""

        def several() -> None:
            for _ in range(_IN_A_ROW):
                self._enqueue(lanes[0], self._batch)

        as_called = self._measure(several)
        try:
            for lane, work in zip(lanes, self._work, strict=True):
                work.graph = lane.stream.capture(functools.partial(work.full.enqueue, self._batch))
            as_graph = self._measure(several)
        except CudaError:  # not everything can be recorded
            as_graph = math.inf
        if as_graph >= as_called:
            _free_graphs(self._work)
            return
        for lane, work in zip(lanes, self._work, strict=True):
            # A graph is good for as long as its context stays as it was when it was recorded, and another number of
            # slices changes that.
            work.partial = _Execution(plan, lane, memory)


class _Execution:
    """An execution context of a lane: addresses are set once, sizes whenever another number of slices comes."""

    def __init__(self, plan: LoadedPlan, lane: Lane, memory: Buffer) -> None:
        import tensorrt

        tensorrt_log().errors.clear()
        self._identity, self._stream, self._memory = plan.file.identity, lane.stream, memory
        strategy = tensorrt.ExecutionContextAllocationStrategy.USER_MANAGED
        context = plan.engine.create_execution_context(strategy)
        if context is None:
            raise _failure("create_execution_context")
        self._context = context
        context.set_device_memory(memory.address, memory.size)
        for name, address in lane.addresses.items():
            if not context.set_tensor_address(name, address):
                raise _failure(f"set_tensor_address of {name}")
        self._count = 0

    def enqueue(self, count: int) -> None:
        """Put the work on so many slices into the lane's stream."""
        if count != self._count:
            self._resize(count)
        self._stream.hold(self._memory)
        if not self._context.execute_async_v3(self._stream.handle):
            raise _failure("execute_async_v3")

    def _resize(self, count: int) -> None:
        self._count = 0
        for name, shape in self._identity.shapes.inputs(count, self._identity.context).items():
            if not self._context.set_input_shape(name, shape):
                raise _failure(f"set_input_shape of {name} to {shape}")
        if unknown := self._context.infer_shapes():
            raise _failure(f"infer_shapes, which lacks {', '.join(unknown)},")
        self._count = count


@dataclass
class _LaneWork:
    """What a lane's full batches are computed with, and smaller ones, which is the same unless there is a graph."""

    full: _Execution
    partial: _Execution
    graph: Graph | None = None


def _free_graphs(work: Sequence[_LaneWork]) -> None:
    for lane_work in work:
        graph, lane_work.graph = lane_work.graph, None
        if graph is not None:
            graph.free()


def _failure(call: str) -> TomoscribeError:
    return tensorrt_log().failure(CudaError, f"TensorRT: {call} failed")

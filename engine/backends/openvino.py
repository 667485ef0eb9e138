"""OpenVINO on the CPU: Intel's own kernels, and BF16 where the processor has it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tomoscribe.engine.backends.contract import Slot, SlotShape
from tomoscribe.engine.backends.cpu import INPUTS, OUTPUTS, check_contract, import_runtime
from tomoscribe.engine.backends.cpu_backend import CpuBackend, Work
from tomoscribe.engine.bundle import Bundle
from tomoscribe.engine.errors import BackendUnavailableError

__all__ = ["OpenVinoBackend"]


@dataclass
class _Work(Work):
    """The slot, the request that works on it, the error that kept that from starting, and where idle requests go.

    The slot is held because a tensor does not keep the memory that it shares.
    """

    slot: Slot
    request: Any
    idle: list[Any]
    error: Exception | None = None

    def finish(self) -> None:
        if self.error is not None:
            raise self.error
        self.request.wait()

    def stop(self) -> None:
        if self.error is None:
            self.request.cancel()

    def succeed(self) -> None:
        self.idle.append(self.request)


class OpenVinoBackend(CpuBackend):
    """Runs a bundle on the CPU, in FP32, in BF16 where the processor computes in it, or in the bundle's INT8.

    The network is compiled for the size of the slots, which is faster than one for any size and takes less memory. All
    slices of a slot are worked on, also where fewer are in use.

    Args:
        bundle: the model.
        threads: threads that work in all; as many as cores that this process may use if None.
        streams: slots that are worked on at the same time. By default one for each thread, which gives the highest
            throughput; 1 gives a single slot all of them, which gives the lowest latency.
        precision: ``fp32``; ``bf16``, which rounds the FP32 network as it goes; or ``int8``, which is the bundle's
            ``int8-cpu``, with BF16 where that is not quantised, or FP32 where the processor has no BF16.

    Raises:
        BackendUnavailableError: OpenVINO is not installed or cannot be loaded, the processor has no BF16, or the bundle
            has no network in the precision.
        BundleError: the network is missing, altered, unreadable, or not in the graph contract.
        ParameterError: `threads` or `streams` is less than 1, or there are more streams than threads.
    """

    name = "openvino"
    title = "OpenVINO"
    extra = "openvino"

    def __init__(
        self, bundle: Bundle, threads: int | None = None, *, streams: int | None = None, precision: str = "fp32"
    ) -> None:
        super().__init__(bundle, threads, streams, precision)
        has_bf16 = "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        # What INT8 leaves to a wider type is much of its time, and BF16 errs far less than INT8 does.
        self._rounds = precision == "bf16" or (precision == "int8" and has_bf16)
        if precision == "bf16" and not has_bf16:
            raise BackendUnavailableError(
                "openvino: expected a processor that computes in BF16 (AVX512-BF16 or AMX), found one that does not; "
                "use --precision fp32"
            )
        try:
            self._model: Any = _core().read_model(self._path)
        except Exception as error:  # it raises RuntimeError and others
            raise self._cannot_load(error) from error
        check_contract(self._path, _names(self._model.inputs, INPUTS), _names(self._model.outputs, OUTPUTS))
        self._compiled: Any = None
        self._idle: list[Any] = []

    def close(self) -> None:
        """Give the network's memory back; closing twice is fine."""
        super().close()
        self._model = None

    def _open(self, shape: SlotShape, streams: int) -> None:
        self._release()
        slices = shape.batch + 2 * shape.context
        options = {
            "NUM_STREAMS": streams,
            "INFERENCE_NUM_THREADS": self._threads,
            # Left alone, it takes BF16 wherever the processor has it.
            "INFERENCE_PRECISION_HINT": "bf16" if self._rounds else "f32",
            # Pinned threads of two processes that share a machine end up on the same cores.
            "ENABLE_CPU_PINNING": False,
        }
        try:
            self._model.reshape({"slices": [slices, shape.height, shape.width], "mean": [slices], "rstd": [slices]})
            self._compiled = _core().compile_model(self._model, "CPU", options)
        except Exception as error:  # it raises RuntimeError and others
            raise self._failure(shape.batch, (shape.height, shape.width), error) from error

    def _start(self, slot: Slot) -> Work:
        work = _Work(slot, self._idle.pop() if self._idle else self._compiled.create_infer_request(), self._idle)
        try:
            for name in (*INPUTS, *OUTPUTS):
                work.request.set_tensor(name, self._runtime.Tensor(getattr(slot, name), shared_memory=True))
            work.request.start_async()
        except Exception as error:  # told where the slot is waited for, as whatever fails later is
            work.error = error
        return work

    def _release(self) -> None:
        self._idle = []
        self._compiled = None


@functools.cache
def _core() -> Any:  # noqa: ANN401 - OpenVINO is imported where it is needed
    """Return OpenVINO's core, which stays for as long as the process does.

    Its CPU plugin gives the thread that loads it a stack for signals, and takes that away when the core goes, be it in
    another thread: the next signal, such as Ctrl-C, then ends the process (``SigAltStackSetup`` in its
    ``intel_cpu/src/sigstack_manager.cpp``).
    """
    return import_runtime(OpenVinoBackend.name, OpenVinoBackend.title, OpenVinoBackend.extra).Core()


def _names(tensors: Sequence[Any], expected: Sequence[str]) -> list[str]:
    # A tensor may have several names.
    return [next(iter(tensor.names & set(expected)), tensor.any_name) for tensor in tensors]

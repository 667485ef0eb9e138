"""OpenVINO on the CPU: Intel's own kernels, and BF16 where the processor has it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tomoscribe.engine.backends.contract import Slot, SlotShape
from tomoscribe.engine.backends.cpu import (
    INPUTS,
    OUTPUTS,
    allocate_slots,
    check_contract,
    choose_artifact,
    import_runtime,
    one_line,
    share_cores,
    use_of_cores,
)
from tomoscribe.engine.bundle import Bundle
from tomoscribe.engine.errors import BackendError, BackendUnavailableError, BundleError

__all__ = ["OpenVinoBackend"]


@dataclass
class _Work:
    """What was submitted: the slot, the request that works on it, or the error that kept that from starting.

    The slot is held because a tensor does not keep the memory that it shares.
    """

    slot: Slot
    request: Any
    error: Exception | None = None
    given_up: bool = False


class OpenVinoBackend:
    """Runs a bundle on the CPU, in FP32, in BF16 where the processor computes in it, or in the bundle's INT8.

    Args:
        bundle: the model.
        threads: threads that work in all; as many as cores that this process may use if None.
        streams: slots that are worked on at the same time. By default one for each thread, which gives the highest
            throughput; 1 gives a single slot all of them, which gives the lowest latency.
        precision: ``fp32``; ``bf16``, which rounds the FP32 network as it goes; or ``int8``, which is the bundle's
            ``int8-cpu``, with FP32 where that is not quantised.

    Raises:
        BackendUnavailableError: OpenVINO is not installed or cannot be loaded, the processor has no BF16, or the bundle
            has no network in the precision.
        BundleError: the network is missing, altered, unreadable, or not in the graph contract.
        ParameterError: `threads` or `streams` is less than 1, or there are more streams than threads.
    """

    name = "openvino"

    def __init__(
        self, bundle: Bundle, threads: int | None = None, *, streams: int | None = None, precision: str = "fp32"
    ) -> None:
        self._runtime = import_runtime("openvino", "OpenVINO", "openvino")
        self._threads, self._streams = share_cores(self.name, threads, streams)
        self._precision = precision
        core = _core()
        artifact = choose_artifact(self.name, bundle, precision)
        if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise BackendUnavailableError(
                "openvino: expected a processor that computes in BF16 (AVX512-BF16 or AMX), found one that does not; "
                "use --precision fp32"
            )
        self._path = bundle.artifact_path(artifact)
        with self._loading():
            self._model: Any = core.read_model(self._path)
        check_contract(self._path, _names(self._model.inputs, INPUTS), _names(self._model.outputs, OUTPUTS))
        self._compiled: Any
        self._shared_by = 0
        self._open(self._streams)
        self._pending: dict[int, _Work] = {}

    @property
    def description(self) -> str:
        """One line that says what runs where."""
        cores = use_of_cores(self._threads, self._streams)
        version = self._runtime.__version__.partition("-")[0]
        return f"OpenVINO {version} on the CPU, {cores}, {self._precision.upper()}"

    @property
    def streams(self) -> int:
        """Slots that it works on at the same time."""
        return self._streams

    def allocate(self, shape: SlotShape, count: int) -> Sequence[Slot]:
        """Return `count` slots in ordinary memory; fewer than there are streams share all the threads.

        Raises:
            BackendError: there is not enough memory.
        """
        slots = allocate_slots(self.name, shape, count)
        self._open(min(self._streams, count))
        return slots

    def submit(self, slot: Slot) -> None:
        """Start work on a slot's first ``count`` slices and return at once."""
        work = _Work(slot, self._idle.pop() if self._idle else self._compiled.create_infer_request())
        margin = len(slot.slices) - len(slot.labels)
        try:
            for names, count in ((INPUTS, slot.count + margin), (OUTPUTS, slot.count)):
                for name in names:
                    tensor = self._runtime.Tensor(getattr(slot, name)[:count], shared_memory=True)
                    work.request.set_tensor(name, tensor)
            work.request.start_async()
        except Exception as error:  # told where the slot is waited for, as whatever fails later is
            work.error = error
        self._pending[id(slot)] = work

    def wait(self, slot: Slot) -> None:
        """Return when the outputs of a submitted slot can be read.

        Raises:
            BackendError: the work on the slot failed, or was given up.
        """
        given_up = "openvino: the work on the slot was given up"
        work = self._pending.get(id(slot))
        if work is None:
            raise BackendError(given_up)
        try:
            if work.error is not None:
                raise work.error
            work.request.wait()
        except Exception as error:  # it raises RuntimeError and others
            if work.given_up:
                raise BackendError(given_up) from error
            raise BackendError(
                f"openvino: the network failed on {slot.count} slices of {slot.slices.shape[1]} × "
                f"{slot.slices.shape[2]} ({one_line(error)}); if memory ran out, use smaller tiles or a smaller batch"
            ) from error
        else:
            self._idle.append(work.request)
        finally:
            # After a `cancel` the slot may have been submitted anew.
            if self._pending.get(id(slot)) is work:
                del self._pending[id(slot)]

    def cancel(self) -> None:
        """Give up everything that was submitted and not waited for; never raises."""
        pending = [work for work in list(self._pending.values()) if work.error is None]
        for work in pending:
            work.given_up = True
            # The network stops before its next layer.
            work.request.cancel()
        for work in pending:
            with contextlib.suppress(Exception):  # that it was cancelled
                work.request.wait()
        self._pending.clear()

    def close(self) -> None:
        """Give the network's memory back; closing twice is fine."""
        if self._compiled is not None:
            self.cancel()
            self._compiled = self._model = None
            self._idle.clear()

    def _open(self, streams: int) -> None:
        if streams == self._shared_by:
            return
        options = {
            "NUM_STREAMS": streams,
            "INFERENCE_NUM_THREADS": self._threads,
            # Left alone, it takes BF16 wherever the processor has it, around INT8 too.
            "INFERENCE_PRECISION_HINT": "bf16" if self._precision == "bf16" else "f32",
            # Pinned threads of two processes that share a machine end up on the same cores.
            "ENABLE_CPU_PINNING": False,
        }
        with self._loading():
            self._compiled = _core().compile_model(self._model, "CPU", options)
        self._shared_by = streams
        self._idle: list[Any] = []

    @contextlib.contextmanager
    def _loading(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # it raises RuntimeError and others
            version = self._runtime.__version__.partition("-")[0]
            raise BundleError(f"{self._path}: OpenVINO {version} cannot load it ({one_line(error)})") from error


@functools.cache
def _core() -> Any:  # noqa: ANN401 - OpenVINO is imported where it is needed
    """Return OpenVINO's core, which stays for as long as the process does.

    Its CPU plugin gives the thread that loads it a stack for signals, and takes that away when the core goes, be it in
    another thread: the next signal, such as Ctrl-C, then ends the process (``SigAltStackSetup`` in its
    ``intel_cpu/src/sigstack_manager.cpp``).
    """
    return import_runtime("openvino", "OpenVINO", "openvino").Core()


def _names(tensors: Sequence[Any], expected: Sequence[str]) -> list[str]:
    # A tensor may have several names.
    return [next(iter(tensor.names & set(expected)), tensor.any_name) for tensor in tensors]

"""ONNX Runtime on the CPU: the backend that runs everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for_all
from typing import Any

import numpy as np

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
from tomoscribe.engine.errors import BackendError, BundleError

__all__ = ["OnnxRuntimeBackend"]

_ERRORS_ONLY = 3


class OnnxRuntimeBackend:
    """Runs a bundle on the CPU, in FP32 or, where the bundle has it, in INT8.

    Args:
        bundle: the model.
        threads: threads that work in all; as many as cores that this process may use if None.
        streams: slots that are worked on at the same time. By default one for each thread, which gives the highest
            throughput; 1 gives a single slot all of them, which gives the lowest latency.
        precision: ``fp32``, or ``int8``, which is the bundle's ``int8-cpu``.

    Raises:
        BackendUnavailableError: ONNX Runtime is not installed or cannot be loaded, or the bundle has no network in the
            precision.
        BundleError: the network is missing, altered, unreadable, or not in the graph contract.
        ParameterError: `threads` or `streams` is less than 1, or there are more streams than threads.
    """

    name = "onnxruntime"

    def __init__(
        self, bundle: Bundle, threads: int | None = None, *, streams: int | None = None, precision: str = "fp32"
    ) -> None:
        self._runtime = import_runtime("onnxruntime", "ONNX Runtime", "cpu")
        # Nothing that is read here is anyone else's business.
        self._runtime.disable_telemetry_events()
        self._threads, self._streams = share_cores(self.name, threads, streams)
        self._precision = precision
        self._path = bundle.artifact_path(choose_artifact(self.name, bundle, precision))
        self._session: Any
        self._shared_by = 0
        self._open(self._streams)
        check_contract(
            self._path,
            (value.name for value in self._session.get_inputs()),
            (value.name for value in self._session.get_outputs()),
        )
        # The graph runs outside of the interpreter's lock, so streams run side by side, and reading and writing go on.
        self._workers = ThreadPoolExecutor(max_workers=self._streams, thread_name_prefix="onnxruntime")
        self._pending: dict[int, tuple[Future[None], Any]] = {}

    @property
    def description(self) -> str:
        """One line that says what runs where."""
        cores = use_of_cores(self._threads, self._streams)
        return f"ONNX Runtime {self._runtime.__version__} on the CPU, {cores}, {self._precision.upper()}"

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
        options = self._runtime.RunOptions()
        options.log_severity_level = _ERRORS_ONLY
        self._pending[id(slot)] = self._workers.submit(self._run, slot, options), options

    def wait(self, slot: Slot) -> None:
        """Return when the outputs of a submitted slot can be read.

        Raises:
            BackendError: the work on the slot failed, or was given up.
        """
        given_up = "onnxruntime: the work on the slot was given up"
        pending = self._pending.get(id(slot))
        if pending is None:
            raise BackendError(given_up)
        try:
            pending[0].result()
        except CancelledError as error:
            raise BackendError(given_up) from error
        except Exception as error:  # its exceptions share no base but this
            raise BackendError(
                f"onnxruntime: the network failed on {slot.count} slices of {slot.slices.shape[1]} × "
                f"{slot.slices.shape[2]} ({one_line(error)}); if memory ran out, use smaller tiles or a smaller batch"
            ) from error
        finally:
            # After a `cancel` the slot may have been submitted anew.
            if self._pending.get(id(slot)) is pending:
                del self._pending[id(slot)]

    def cancel(self) -> None:
        """Give up everything that was submitted and not waited for; never raises."""
        pending = list(self._pending.values())
        for future, options in pending:
            future.cancel()
            # The network stops before its next layer.
            options.terminate = True
        wait_for_all([future for future, _ in pending])
        self._pending.clear()

    def close(self) -> None:
        """Give the network's memory back; closing twice is fine."""
        if self._session is not None:
            self.cancel()
            self._workers.shutdown()
            self._session = None

    def _open(self, streams: int) -> None:
        if streams == self._shared_by:
            return
        options = self._runtime.SessionOptions()
        # A stream's own thread runs the network and helpers share its layers, the same helpers for all streams: the
        # threads are as many as were asked for. One session is as fast as one for each stream, and smaller.
        options.intra_op_num_threads = self._threads - streams + 1
        options.log_severity_level = _ERRORS_ONLY
        try:
            self._session = self._runtime.InferenceSession(self._path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions share no base but this
            raise BundleError(
                f"{self._path}: ONNX Runtime {self._runtime.__version__} cannot load it ({one_line(error)})"
            ) from error
        self._shared_by = streams

    def _run(self, slot: Slot, options: Any) -> None:  # noqa: ANN401 - ONNX Runtime has no types
        margin = len(slot.slices) - len(slot.labels)
        binding = self._session.io_binding()
        for name in INPUTS:
            values = getattr(slot, name)[: slot.count + margin]
            binding.bind_input(name, "cpu", 0, np.float32, values.shape, values.ctypes.data)
        for name in OUTPUTS:
            values = getattr(slot, name)[: slot.count]
            binding.bind_output(name, "cpu", 0, np.uint8, values.shape, values.ctypes.data)
        self._session.run_with_iobinding(binding, options)

"""ONNX Runtime on the CPU: the backend that runs everywhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from tomoscribe.engine.backends.contract import Slot, SlotShape
from tomoscribe.engine.bundle import Bundle
from tomoscribe.engine.cores import usable_cores
from tomoscribe.engine.errors import BackendError, BackendUnavailableError, BundleError, ParameterError

__all__ = ["OnnxRuntimeBackend"]

_INPUTS = {"slices", "mean", "rstd"}
_OUTPUTS = {"labels", "scores"}
_ERRORS_ONLY = 3


class OnnxRuntimeBackend:
    """Runs a bundle's FP32 network on the CPU.

    Args:
        bundle: the model.
        threads: threads that share the work of one slot; all the cores that this process may use if None.

    Raises:
        BackendUnavailableError: ONNX Runtime is not installed, or cannot be loaded.
        BundleError: the network is missing, altered, unreadable, or not in the graph contract.
        ParameterError: `threads` is less than 1.
    """

    name = "onnxruntime"

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            if isinstance(error.__cause__, KeyboardInterrupt):  # Ctrl-C while its extension is initialised
                raise error.__cause__ from None
            raise BackendUnavailableError(
                f"onnxruntime: ONNX Runtime cannot be imported ({error}); "
                'install it with: pip install "tomoscribe[cpu]"'
            ) from error
        # Nothing that is read here is anyone else's business.
        onnxruntime.disable_telemetry_events()
        self._threads = usable_cores() if threads is None else threads
        if self._threads < 1:
            raise ParameterError(f"onnxruntime: expected at least one thread, found {threads}")
        path = bundle.artifact_path("fp32")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.log_severity_level = _ERRORS_ONLY
        try:
            self._session: Any = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions share no base but this
            raise BundleError(
                f"{path}: ONNX Runtime {onnxruntime.__version__} cannot load it ({_one_line(error)})"
            ) from error
        inputs = {value.name for value in self._session.get_inputs()}
        outputs = {value.name for value in self._session.get_outputs()}
        if (inputs, outputs) != (_INPUTS, _OUTPUTS):
            raise BundleError(
                f"{path}: expected the inputs {_listed(_INPUTS)} and the outputs {_listed(_OUTPUTS)}, "
                f"found {_listed(inputs)} and {_listed(outputs)}; export the model again"
            )
        self._runtime = onnxruntime
        # The graph runs outside of the interpreter's lock, so reading and writing go on meanwhile.
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="onnxruntime")
        self._pending: dict[int, tuple[Future[None], Any]] = {}

    @property
    def description(self) -> str:
        """One line that says what runs where."""
        return f"ONNX Runtime {self._runtime.__version__} on the CPU, {self._threads} threads, FP32"

    def allocate(self, shape: SlotShape, count: int) -> Sequence[Slot]:
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
                f"onnxruntime: no memory for {count} slots of {n} slices of {shape.height} × {shape.width}; "
                "use a smaller batch or smaller tiles"
            ) from error

    def submit(self, slot: Slot) -> None:
        """Start work on a slot's first ``count`` slices and return at once."""
        options = self._runtime.RunOptions()
        options.log_severity_level = _ERRORS_ONLY
        self._pending[id(slot)] = self._worker.submit(self._run, slot, options), options

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
                f"{slot.slices.shape[2]} ({_one_line(error)}); if memory ran out, use smaller tiles or a smaller batch"
            ) from error
        finally:
            # After a `cancel` the slot may have been submitted anew.
            if self._pending.get(id(slot)) is pending:
                del self._pending[id(slot)]

    def cancel(self) -> None:
        """Give up everything that was submitted and not waited for; never raises."""
        for future, options in list(self._pending.values()):
            future.cancel()
            # The network stops before its next layer.
            options.terminate = True
        self._worker.submit(lambda: None).result()
        self._pending.clear()

    def close(self) -> None:
        """Give the network's memory back; closing twice is fine."""
        if self._session is not None:
            self.cancel()
            self._worker.shutdown()
            self._session = None

    def _run(self, slot: Slot, options: Any) -> None:  # noqa: ANN401 - ONNX Runtime has no types
        margin = len(slot.slices) - len(slot.labels)
        binding = self._session.io_binding()
        for name in _INPUTS:
            values = getattr(slot, name)[: slot.count + margin]
            binding.bind_input(name, "cpu", 0, np.float32, values.shape, values.ctypes.data)
        for name in _OUTPUTS:
            values = getattr(slot, name)[: slot.count]
            binding.bind_output(name, "cpu", 0, np.uint8, values.shape, values.ctypes.data)
        self._session.run_with_iobinding(binding, options)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))

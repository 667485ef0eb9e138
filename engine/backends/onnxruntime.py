"""ONNX Runtime on the CPU: the backend that runs everywhere."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from tomoscribe.engine.backends.contract import Slot, SlotShape
from tomoscribe.engine.backends.cpu import INPUTS, OUTPUTS, check_contract
from tomoscribe.engine.backends.cpu_backend import CpuBackend, Work
from tomoscribe.engine.bundle import Bundle

__all__ = ["OnnxRuntimeBackend"]

_ERRORS_ONLY = 3


@dataclass
class _Work(Work):
    future: Future[None]
    options: Any

    def finish(self) -> None:
        self.future.result()

    def stop(self) -> None:
        self.future.cancel()
        self.options.terminate = True


class OnnxRuntimeBackend(CpuBackend):
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
    title = "ONNX Runtime"
    extra = "cpu"

    def __init__(
        self, bundle: Bundle, threads: int | None = None, *, streams: int | None = None, precision: str = "fp32"
    ) -> None:
        super().__init__(bundle, threads, streams, precision)
        # Nothing that is read here is anyone else's business.
        self._runtime.disable_telemetry_events()
        self._session: Any = self._load(self._streams)
        self._is_fresh = True
        check_contract(
            self._path,
            (value.name for value in self._session.get_inputs()),
            (value.name for value in self._session.get_outputs()),
        )
        # The graph runs outside of the interpreter's lock, so streams run side by side, and reading and writing go on.
        self._workers = ThreadPoolExecutor(max_workers=self._streams, thread_name_prefix="onnxruntime")

    def close(self) -> None:
        """Give the network's memory and the threads back; closing twice is fine."""
        super().close()
        self._workers.shutdown()

    def _open(self, shape: SlotShape, streams: int) -> None:
        # Blocks of memory that suited slots of another size would lie idle beside those of this one.
        if not self._is_fresh or streams != self._streams:
            self._release()
            self._session = self._load(streams)
        self._is_fresh = False

    def _release(self) -> None:
        self._session = None

    def _load(self, streams: int) -> Any:  # noqa: ANN401 - ONNX Runtime has no types
        options = self._runtime.SessionOptions()
        # A stream's own thread runs the network and helpers share its layers, the same helpers for all streams: the
        # threads are as many as were asked for. One session is as fast as one for each stream, and smaller.
        options.intra_op_num_threads = self._threads - streams + 1
        # Both are meant to save memory, and cost it here without making anything faster: blocks that are planned come
        # on top of those of the first run, and a block that is used again is held between its uses too.
        options.enable_mem_pattern = options.enable_mem_reuse = False
        options.log_severity_level = _ERRORS_ONLY
        try:
            return self._runtime.InferenceSession(self._path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions share no base but this
            raise self._cannot_load(error) from error

    def _start(self, slot: Slot) -> Work:
        options = self._runtime.RunOptions()
        options.log_severity_level = _ERRORS_ONLY
        return _Work(self._workers.submit(self._run, slot, options), options)

    def _run(self, slot: Slot, options: Any) -> None:  # noqa: ANN401 - as above
        margin = len(slot.slices) - len(slot.labels)
        binding = self._session.io_binding()
        for name in INPUTS:
            values = getattr(slot, name)[: slot.count + margin]
            binding.bind_input(name, "cpu", 0, np.float32, values.shape, values.ctypes.data)
        for name in OUTPUTS:
            values = getattr(slot, name)[: slot.count]
            binding.bind_output(name, "cpu", 0, np.uint8, values.shape, values.ctypes.data)
        self._session.run_with_iobinding(binding, options)

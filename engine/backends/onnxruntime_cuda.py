"""ONNX Runtime on a GPU, through its CUDA provider."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from tomoscribe.engine.backends.contract import SlotShape
from tomoscribe.engine.backends.cpu import INPUTS, OUTPUTS, check_contract, import_runtime, one_line
from tomoscribe.engine.backends.gpu_backend import GpuBackend, Lane
from tomoscribe.engine.backends.trial_cache import recall, remember
from tomoscribe.engine.bundle import Bundle
from tomoscribe.engine.errors import BackendUnavailableError, BundleError

__all__ = ["OnnxRuntimeCudaBackend"]

_PROVIDER = "CUDAExecutionProvider"
# Before, its CUDA provider left ArgMax to the CPU (onnxruntime#22713), which all scores were copied for.
_OLDEST = 1, 21
_ERRORS_ONLY, _NOTHING = 3, 4
_OF_CUDA = re.compile(r"cu(da|dnn|blas)", re.I)

# How cuDNN looks for convolutions, and whether layers are computed channels last: which is fastest depends on the
# network and on the GPU. The third way to look, DEFAULT, is cuDNN's fallback and slow.
_TUNINGS: Mapping[str, Mapping[str, str]] = {
    f"{search.lower()} {layout}": {"cudnn_conv_algo_search": search, "prefer_nhwc": str(int(layout == "nhwc"))}
    for search in ("HEURISTIC", "EXHAUSTIVE")
    for layout in ("nchw", "nhwc")
}


class OnnxRuntimeCudaBackend(GpuBackend):
    """Runs a bundle on an NVIDIA GPU by ONNX Runtime, on the slots' own buffers and in their stream.

    Always a full batch is computed, of which the slices in use are read: for another number of slices cuDNN would plan
    every convolution anew.

    Args:
        bundle: the model.
        precision: ``fp16`` or ``fp32``, in which TensorFloat-32 is switched off.
        streams: slots that have to be submitted for it to be busy; 2 if None.
        device: which GPU, counted as CUDA counts them, from 0.

    Raises:
        BackendUnavailableError: ONNX Runtime is not installed or has no CUDA provider that can be loaded, there is no
            such GPU or nothing that calls its driver, or the bundle has no network in the precision.
        BundleError: the network is missing, altered, unreadable, or not in the graph contract.
        CudaError: the GPU cannot be used.
        ParameterError: `streams` is less than 1.
    """

    name = "onnxruntime-cuda"

    def __init__(self, bundle: Bundle, *, precision: str = "fp16", streams: int | None = None, device: int = 0) -> None:
        self._runtime, self._lacking = _import_onnxruntime()
        self._session: Any = None
        self._bindings: list[Any] = []
        super().__init__(bundle, device, precision, streams)
        self._run_options = self._runtime.RunOptions()
        self._run_options.log_severity_level = _ERRORS_ONLY
        # The stream goes on while the host has another slot filled.
        self._run_options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        self._facts = self._what_tuning_depends_on()
        # The fastest of an earlier trial, if there was one; else there is one for the first slots.
        known = {tuning: time for tuning, time in (recall(self._facts) or {}).items() if tuning in _TUNINGS}
        self._tuning = min(known, key=known.__getitem__) if known else None
        try:
            # What is missing is found now, while another backend can still be chosen.
            self._attempt("to load the network", lambda: self._use(self._tuning or next(iter(_TUNINGS))))
            self._is_fresh = True
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give the GPU's memory back; closing twice is fine."""
        self._is_fresh = False
        super().close()

    @property
    def _title_and_version(self) -> str:
        return f"ONNX Runtime {_version(self._runtime)}"

    def _open(self, shape: SlotShape, lanes: Sequence[Lane]) -> None:
        if self._tuning is None:
            self._tuning = self._try_out(shape, lanes[0])
        self._use(self._tuning)
        self._bindings = [self._bind(shape, lane) for lane in lanes]

    def _enqueue(self, lane: Lane, count: int) -> None:
        self._session.run_with_iobinding(self._bindings[lane.index], self._run_options)

    def _release(self) -> None:
        self._bindings = []
        # Memory that suited slots of another size would lie idle beside that for these. One that never ran has none.
        if not self._is_fresh:
            self._session = None

    def _use(self, tuning: str) -> None:
        """Have a session with a tuning; what `_release` leaves is one of the tuning that is used first."""
        if self._session is None:
            self._session = self._load(tuning)
        self._is_fresh = False

    def _try_out(self, shape: SlotShape, lane: Lane) -> str:
        """Return the fastest tuning on a full batch, and remember what was measured."""
        seconds: dict[str, float] = {}
        failures: list[Exception] = []
        for tuning in _TUNINGS:
            self._release()
            try:
                self._use(tuning)
                self._bindings = [self._bind(shape, lane)]
                seconds[tuning] = self._measure(lambda: self._enqueue(lane, shape.batch)) / 1000 / shape.batch
            except Exception as error:  # its exceptions share no base but this
                failures.append(error.with_traceback(None))  # whose frames would keep the session
        self._release()
        if not seconds:
            raise failures[0]
        remember(self._facts, seconds)
        return min(seconds, key=seconds.__getitem__)

    def _load(self, tuning: str) -> Any:  # noqa: ANN401 - ONNX Runtime has no types
        options = self._runtime.SessionOptions()
        options.log_severity_level = _ERRORS_ONLY
        # Blocks that are planned would be had in a second run, on top of those of the first.
        options.enable_mem_pattern = False
        provider = {
            "device_id": str(self._device.index),
            "user_compute_stream": str(self._pipeline.compute.handle),
            "arena_extend_strategy": "kSameAsRequested",
            # Without TF32 no tensor cores are used, in FP16 neither (onnxruntime/core/providers/cuda/nn/conv.cc).
            "use_tf32": "0" if self._precision == "fp32" else "1",
            **_TUNINGS[tuning],
        }
        try:
            session = self._runtime.InferenceSession(
                self._path, options, providers=[(_PROVIDER, provider)], enable_fallback=0
            )
        except Exception as error:  # its exceptions share no base but this
            if _OF_CUDA.search(reason := one_line(error)):
                raise
            raise BundleError(f"{self._path}: {self._title_and_version} cannot load it ({reason})") from error
        if _PROVIDER not in session.get_providers():
            raise BackendUnavailableError(
                f"{self.name}: expected {self._title_and_version} to load its CUDA provider, found that it cannot "
                f"({self._lacking or 'it tells why on standard error'}); see: tomoscribe doctor"
            )
        inputs, outputs = session.get_inputs(), session.get_outputs()
        check_contract(self._path, (value.name for value in inputs), (value.name for value in outputs))
        return session

    def _bind(self, shape: SlotShape, lane: Lane) -> Any:  # noqa: ANN401 - as above
        inputs, tile = shape.batch + 2 * shape.context, (shape.height, shape.width)
        shapes = {
            **dict(zip(INPUTS, [(inputs, *tile), (inputs,), (inputs,)], strict=True)),
            **dict(zip(OUTPUTS, [(shape.batch, *tile), (shape.batch, shape.classes, *tile)], strict=True)),
        }
        binding = self._session.io_binding()
        for name in INPUTS:
            binding.bind_input(name, "cuda", self._device.index, np.float32, shapes[name], lane.addresses[name])
        for name in OUTPUTS:
            binding.bind_output(name, "cuda", self._device.index, np.uint8, shapes[name], lane.addresses[name])
        return binding

    def _what_tuning_depends_on(self) -> dict[str, Any]:
        return {
            "backend": self.name,
            "artifact": self._bundle.artifacts[self._artifact].sha256,
            "candidates": list(_TUNINGS),
            "device": asdict(self._device.facts()),
            "onnxruntime": self._runtime.__version__,
        }


def _import_onnxruntime() -> tuple[Any, str]:
    """Import the ONNX Runtime that has the CUDA provider, and have it find CUDA's libraries.

    Returns:
        The module, and the first library that is not found, or nothing.

    Raises:
        BackendUnavailableError: there is none, or an old one.
    """
    runtime = import_runtime("onnxruntime", "ONNX Runtime", "cuda")
    if tuple(int(part) for part in runtime.__version__.split(".")[:2]) < _OLDEST:
        raise BackendUnavailableError(
            f"{OnnxRuntimeCudaBackend.name}: expected ONNX Runtime {'.'.join(map(str, _OLDEST))} or later, found "
            f'{_version(runtime)}; install one with: pip install --upgrade "tomoscribe[cuda]"'
        )
    # Nothing that is read here is anyone else's business.
    runtime.disable_telemetry_events()
    providers = runtime.get_available_providers()
    if _PROVIDER not in providers:
        raise BackendUnavailableError(
            f"{OnnxRuntimeCudaBackend.name}: expected an ONNX Runtime that has {_PROVIDER}, found {_version(runtime)} "
            f"with {', '.join(providers)}; the packages onnxruntime and onnxruntime-gpu overwrite each other, so "
            'uninstall both and then: pip install "tomoscribe[cuda]"'
        )
    # Those that were installed from wheels are not where the loader looks. What it does not find, this prints.
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        runtime.preload_dlls()
    lacking = re.findall("Failed to load [^:]+: (.+)", printed.getvalue())
    # That provider will not load, and would say so at length.
    runtime.set_default_logger_severity(_NOTHING if lacking else _ERRORS_ONLY)
    return runtime, lacking[0] if lacking else ""


def _version(runtime: Any) -> str:  # noqa: ANN401 - as above
    return str(runtime.__version__.partition("-")[0])

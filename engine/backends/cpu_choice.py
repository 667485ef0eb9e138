"""The backends that run on the CPU, and which of them is the fastest here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol

from tomoscribe.engine.backends.contract import Backend
from tomoscribe.engine.backends.cpu import ARTIFACTS
from tomoscribe.engine.backends.gpu_choice import AUTO
from tomoscribe.engine.backends.onnxruntime import OnnxRuntimeBackend
from tomoscribe.engine.backends.openvino import OpenVinoBackend
from tomoscribe.engine.backends.processor import Processor, read_processor
from tomoscribe.engine.backends.trial import run_trial
from tomoscribe.engine.backends.trial_cache import recall, remember
from tomoscribe.engine.bundle import CHECKPOINT, Bundle
from tomoscribe.engine.cores import usable_cores
from tomoscribe.engine.errors import BackendUnavailableError

__all__ = ["BACKENDS", "RUNTIMES", "Build", "choose_on_cpu", "gate_passed_in"]


class Build(Protocol):
    """Makes a backend of a bundle on the CPU."""

    def __call__(self, bundle: Bundle, *, precision: str = ..., streams: int | None = ...) -> Backend:
        """Return a backend in a precision that works on so many slots at the same time, or on as many as suit it."""
        ...


# In the order in which `auto` asks them. The last runs everywhere.
BACKENDS: dict[str, Build] = {"openvino": OpenVinoBackend, "onnxruntime": OnnxRuntimeBackend}

RUNTIMES = {"openvino": "OpenVINO", "onnxruntime": "ONNX Runtime"}
"""Packages whose version the speed depends on, and the names that parity reports give the runtimes."""

# What they call a runtime that computes in BF16 ends with it.
_IN_BF16 = ", BF16"


def choose_on_cpu(name: str, bundle: Bundle, *, precision: str, latency: bool) -> tuple[Backend, str]:
    """Return the fastest backend that can run here, and why it was chosen, in one line.

    Args:
        name: one of `BACKENDS`, or ``auto``.
        bundle: the model.
        precision: one of `PRECISIONS`, or ``auto``.
        latency: give a single slot all the cores, rather than every core a slot of its own.

    Raises:
        BackendUnavailableError: the backend, or with ``auto`` every backend, cannot run here in the precision.
        BackendError: every backend fails.
        BundleError: the bundle cannot be run.
    """
    processor = read_processor()
    asked = list(BACKENDS) if name == AUTO else [name]
    candidates = [
        (backend, arithmetic)
        for backend in asked
        for arithmetic in (_judged_precisions(backend, bundle, processor) if precision == AUTO else (precision,))
    ]
    # A backend that was asked for runs FP32 in any case.
    candidates = candidates or [(backend, "fp32") for backend in asked]
    why_one = "the only one that its parity gate let pass" if name == AUTO else "as asked for"
    return _Choice(bundle, candidates, processor, latency).make(why_one)


def gate_passed_in(bundle: Bundle, backend: str, precision: str) -> bool | None:
    """Return whether the parity gate let a precision pass in one of `BACKENDS`; None where it was not judged there."""
    artifact, title = ARTIFACTS.get(backend, {}).get(precision, ""), RUNTIMES.get(backend, backend)
    judgement = bundle.parity.get(artifact, {})
    for runtime, figures in {judgement.get("runtime", ""): judgement, **judgement.get("others", {})}.items():
        if runtime.startswith(title) and runtime.endswith(_IN_BF16) == (precision == "bf16"):
            # Older bundles have one verdict for all.
            return figures.get("passed", judgement.get("passed")) is True
    return None


class _Choice:
    """One choice between candidates, each a backend and a precision."""

    def __init__(
        self, bundle: Bundle, candidates: Sequence[tuple[str, str]], processor: Processor, latency: bool
    ) -> None:
        self._bundle = bundle
        self._candidates = {" ".join(candidate): candidate for candidate in candidates}
        self._facts = _facts(bundle, list(self._candidates), processor, latency)
        self._streams = 1 if latency else None

    def make(self, why_one: str) -> tuple[Backend, str]:
        """Take the only candidate, the winner of an earlier trial, or that of a new one."""
        if len(self._candidates) == 1:
            (only,) = self._candidates
            return self._build(only), f"{only}, {why_one}"
        if known := recall(self._facts):
            fastest = min(known, key=known.__getitem__)
            if fastest in self._candidates:
                try:
                    return self._build(fastest), f"{fastest}, the fastest in an earlier trial: {_listed(known)}"
                except BackendUnavailableError:
                    pass  # what could run then cannot now
        return self._try_out()

    def _try_out(self) -> tuple[Backend, str]:
        built: dict[str, Backend] = {}
        unavailable: dict[str, str] = {}
        chosen = None
        try:
            for candidate in self._candidates:
                try:
                    built[candidate] = self._build(candidate)
                except BackendUnavailableError as error:
                    unavailable[candidate] = str(error)
            reasons = list(dict.fromkeys(unavailable.values()))
            if not built:
                raise BackendUnavailableError("; ".join(reasons))
            if len(built) == 1:
                (chosen,) = built
                return built[chosen], "; ".join([f"{chosen}, the only one that can run here", *reasons])
            trial = run_trial(built, self._bundle.specification)
            chosen = min(trial.seconds, key=trial.seconds.__getitem__)
            if trial.calm and not trial.failures:
                remember(self._facts, trial.seconds)
            busy = [] if trial.calm else ["the machine is busy, the next run tries again"]
            return built[chosen], "; ".join(
                [f"{chosen}, the fastest in a trial: {_listed(trial.seconds)}", *busy, *reasons, *trial.failures]
            )
        finally:
            for candidate, backend in built.items():
                if candidate != chosen:
                    backend.close()

    def _build(self, candidate: str) -> Backend:
        backend, precision = self._candidates[candidate]
        return BACKENDS[backend](self._bundle, precision=precision, streams=self._streams)


def _judged_precisions(backend: str, bundle: Bundle, processor: Processor) -> Sequence[str]:
    """Return the precisions that a backend may take without being asked."""
    if_passed = [
        precision
        for precision, computes in (("bf16", processor.bf16), ("int8", processor.exact_int8))
        if computes and ARTIFACTS.get(backend, {}).get(precision) in bundle.artifacts
    ]
    # FP32 is left alone only where it failed in this backend and passed in another.
    fp32_failed = (
        bundle.parity.get("fp32", {}).get("passed") is True and gate_passed_in(bundle, backend, "fp32") is False
    )
    fp32 = [] if fp32_failed else ["fp32"]
    return [*fp32, *(precision for precision in if_passed if gate_passed_in(bundle, backend, precision))]


def _facts(bundle: Bundle, candidates: Sequence[str], processor: Processor, latency: bool) -> dict[str, Any]:
    """Return all that a trial's result depends on."""
    return {
        "bundle": {key: artifact.sha256 for key, artifact in bundle.artifacts.items() if key != CHECKPOINT},
        "candidates": candidates,
        "cores": usable_cores(),
        "latency": latency,
        "processor": processor.name,
        "versions": {package: _version(package) for package in ("tomoscribe", *RUNTIMES)},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _listed(times: Mapping[str, float]) -> str:
    fastest_first = sorted(times.items(), key=lambda item: item[1])
    return ", ".join(f"{candidate} {seconds * 1000:.1f} ms" for candidate, seconds in fastest_first)

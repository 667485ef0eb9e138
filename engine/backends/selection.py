"""Which backend runs a bundle here."""

from __future__ import annotations

from collections.abc import Callable

from tomoscribe.engine.backends.contract import Backend
from tomoscribe.engine.backends.onnxruntime import OnnxRuntimeBackend
from tomoscribe.engine.bundle import Bundle
from tomoscribe.engine.errors import BackendUnavailableError, ParameterError

__all__ = ["AUTO", "BACKENDS", "choose_backend"]

AUTO = "auto"

# In the order in which `auto` tries them: the fastest first.
BACKENDS: dict[str, Callable[[Bundle], Backend]] = {"onnxruntime": OnnxRuntimeBackend}


def choose_backend(name: str, bundle: Bundle) -> tuple[Backend, str]:
    """Return a backend that is ready to run a bundle, and why it was chosen, in one line.

    Args:
        name: one of `BACKENDS`, which then runs or fails, or ``auto`` for the first of them that this machine can run.
        bundle: the model.

    Raises:
        ParameterError: there is no backend of that name.
        BackendUnavailableError: the backend, or with ``auto`` every backend, cannot run here.
        BundleError: the bundle cannot be run.
    """
    if name in BACKENDS:
        return BACKENDS[name](bundle), f"{name}, as asked for"
    if name != AUTO:
        raise ParameterError(f"backend '{name}': expected one of {', '.join([AUTO, *BACKENDS])}")
    unavailable: list[BackendUnavailableError] = []
    for candidate, build in BACKENDS.items():
        try:
            backend = build(bundle)
        except BackendUnavailableError as error:
            unavailable.append(error)
        else:
            return backend, f"{candidate}, " + "; ".join(["the first that can run here", *map(str, unavailable)])
    raise BackendUnavailableError("; ".join(map(str, unavailable)))

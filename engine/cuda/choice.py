"""Which library calls CUDA's driver here."""

from __future__ import annotations

from tomoscribe.engine.cuda.bindings import CudaBindingsDriver
from tomoscribe.engine.cuda.driver import Driver
from tomoscribe.engine.cuda.pycuda import PycudaDriver
from tomoscribe.engine.errors import BackendUnavailableError

__all__ = ["load_driver"]


def load_driver() -> Driver:
    """Return pycuda's driver where it is installed and works, else that of cuda.bindings.

    Raises:
        BackendUnavailableError: neither can be used; both say why.
    """
    reasons = []
    for kind in (PycudaDriver, CudaBindingsDriver):
        try:
            return kind()
        except BackendUnavailableError as error:
            reasons.append(str(error))
    raise BackendUnavailableError(f"expected a library that calls CUDA's driver, found none: {'; '.join(reasons)}")

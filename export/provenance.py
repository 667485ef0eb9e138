"""What a bundle was made with; no date, so that the same checkpoint gives the same bundle."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

__all__ = ["provenance"]

_PACKAGES = ("tomoscribe", "torch", "onnx", "onnxscript", "onnxruntime")


def provenance(opset: int) -> dict[str, Any]:
    """Return the versions that a bundle is exported with, as they stand in ``model.json``.

    Args:
        opset: the ONNX operator set of its graphs.
    """
    return {**{package: version(package) for package in _PACKAGES}, "opset": opset}

"""Checkpoint to bundle: the ONNX graph and the parity gate. Needs the ``export`` extra."""

from tomoscribe.export.bundle import export_bundle
from tomoscribe.export.parity import ParityError

__all__ = ["ParityError", "export_bundle"]

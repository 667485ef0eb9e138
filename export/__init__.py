"""Checkpoint to bundle: the ONNX graphs, what they are compared on, and the gates. Needs the ``export`` extra."""

from tomoscribe.export.bundle import DEFAULT_PRECISIONS, PRECISIONS, export_bundle
from tomoscribe.export.parity import ParityError

__all__ = ["DEFAULT_PRECISIONS", "PRECISIONS", "ParityError", "export_bundle"]

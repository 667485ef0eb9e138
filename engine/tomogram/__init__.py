"""Tomogram files: one module a format, one `open_tomogram`."""

from tomoscribe.engine.tomogram.contract import Geometry, Tomogram
from tomoscribe.engine.tomogram.opening import open_tomogram

__all__ = ["Geometry", "Tomogram", "open_tomogram"]

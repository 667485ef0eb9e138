"""Phantoms: synthetic tomograms whose labels are known exactly."""

from tomoscribe.train.phantom.parameters import (
    ImagingParameters,
    PhantomParameters,
    SampleParameters,
    draw_parameters,
    read_parameter_table,
)
from tomoscribe.train.phantom.phantom import Phantom, make_phantom

__all__ = [
    "ImagingParameters",
    "Phantom",
    "PhantomParameters",
    "SampleParameters",
    "draw_parameters",
    "make_phantom",
    "read_parameter_table",
]

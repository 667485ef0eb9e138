"""tomoscribe's engine: tomogram files, model bundles, and the stream that turns the one into labels with the other.

>>> from tomoscribe.engine import segment                       # doctest: +SKIP
>>> result = segment("tomogram.mrc", output="labels")           # doctest: +SKIP
>>> result.labels, result.counts["microtubule"]                 # doctest: +SKIP
"""

from tomoscribe.engine.bundle import Bundle, ModelSpecification, default_bundle
from tomoscribe.engine.class_map import DEFAULT_CLASS_MAP, ClassMap, LabelClass
from tomoscribe.engine.clock import Recorder
from tomoscribe.engine.errors import (
    BackendError,
    BackendUnavailableError,
    BundleError,
    IntensityError,
    OutputError,
    OutputExistsError,
    ParameterError,
    TomogramFormatError,
    TomogramNotFoundError,
    TomoscribeError,
)
from tomoscribe.engine.profile import Profile
from tomoscribe.engine.result import Segmentation
from tomoscribe.engine.segmentation import Segmenter, segment
from tomoscribe.engine.tomogram import Geometry, Tomogram, open_tomogram

__all__ = [
    "DEFAULT_CLASS_MAP",
    "BackendError",
    "BackendUnavailableError",
    "Bundle",
    "BundleError",
    "ClassMap",
    "Geometry",
    "IntensityError",
    "LabelClass",
    "ModelSpecification",
    "OutputError",
    "OutputExistsError",
    "ParameterError",
    "Profile",
    "Recorder",
    "Segmentation",
    "Segmenter",
    "Tomogram",
    "TomogramFormatError",
    "TomogramNotFoundError",
    "TomoscribeError",
    "default_bundle",
    "open_tomogram",
    "segment",
]

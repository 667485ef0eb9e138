"""What a segmentation gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tomoscribe.engine.profile import Profile
from tomoscribe.engine.rescaling import Rescaling
from tomoscribe.engine.tomogram import Geometry

__all__ = ["Segmentation", "SlicePreview"]


@dataclass(frozen=True)
class SlicePreview:
    """One slice and its labels, before the tomogram is labelled.

    Attributes:
        z: of the slice, counted from 0.
        image: ``(y, x)`` float32, as it is stored.
        labels: ``(y, x)`` uint8, 0 is background.
        mean: of the tomogram's intensities, as they were measured.
        standard_deviation: of the same.
    """

    z: int
    image: NDArray[np.float32]
    labels: NDArray[np.uint8]
    mean: float
    standard_deviation: float


@dataclass(frozen=True)
class Segmentation:
    """What a segmentation wrote, and how it went.

    Attributes:
        tomogram: the input.
        labels: the label volume, int8, 0 is background.
        sidecar: the JSON file that says what the labels mean.
        class_volumes: the score volume of each class that was kept, by name.
        counts: voxels of each class that was kept, by name.
        geometry: shape, voxel size and origin, as the outputs have them.
        voxels: how many voxels were labelled; fewer than the volume has with a z range.
        seconds: from opening the file to the last output.
        model: the model's name.
        backend: what ran it.
        rescaling: how its slices were resampled for the model; None where they were not.
        profile: what the stages of the stream did with their time; None where nothing recorded it.
        warnings: what a user should know of the input, a line each.
    """

    tomogram: Path
    labels: Path
    sidecar: Path
    class_volumes: Mapping[str, Path]
    counts: Mapping[str, int]
    geometry: Geometry
    voxels: int
    seconds: float
    model: str
    backend: str
    rescaling: Rescaling | None
    profile: Profile | None
    warnings: tuple[str, ...]

    @property
    def voxels_per_second(self) -> float:
        """Voxels labelled a second, from file to file."""
        return self.voxels / self.seconds

    def to_json(self) -> dict[str, Any]:
        """Return the result as the command line's ``--json`` prints it."""
        return {
            "tomogram": str(self.tomogram),
            "labels": str(self.labels),
            "sidecar": str(self.sidecar),
            "class_volumes": {name: str(path) for name, path in self.class_volumes.items()},
            "counts": dict(self.counts),
            "shape": list(self.geometry.shape),
            "voxel_size": list(self.geometry.voxel_size),
            "voxels": self.voxels,
            "seconds": round(self.seconds, 3),
            "voxels_per_second": round(self.voxels_per_second),
            "model": self.model,
            "backend": self.backend,
            "rescaling": None if self.rescaling is None else self.rescaling.to_json(),
            "profile": None if self.profile is None else self.profile.to_json(),
            "warnings": list(self.warnings),
        }

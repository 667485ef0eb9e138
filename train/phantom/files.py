"""A phantom on disk: the tomogram, its true labels, and the parameters that made it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import mrcfile
import numpy as np

from tomoscribe.engine.errors import OutputExistsError
from tomoscribe.engine.replacing import replacing
from tomoscribe.engine.sinks.mrc import LabelVolume
from tomoscribe.engine.tomogram import Geometry
from tomoscribe.train.phantom.phantom import Phantom

__all__ = ["PhantomFiles", "check_free", "write_phantom"]


@dataclass(frozen=True)
class PhantomFiles:
    """Where a phantom lies: ``<name>.mrc``, ``<name>__truth.mrc`` and ``<name>__truth.json``."""

    tomogram: Path
    truth: Path
    parameters: Path

    @classmethod
    def beside(cls, tomogram: Path) -> PhantomFiles:
        """Return the three names that belong to a tomogram ``<name>.mrc``."""
        truth = tomogram.with_name(f"{tomogram.stem}__truth.mrc")
        return cls(tomogram, truth, truth.with_suffix(".json"))


def check_free(tomogram: Path, overwrite: bool) -> None:
    """See that a phantom may be written, before the work of making it.

    Raises:
        OutputExistsError: one of its files is there and `overwrite` is not set.
    """
    files = PhantomFiles.beside(tomogram)
    for path in (files.tomogram, files.truth, files.parameters):
        if path.exists() and not overwrite:
            raise OutputExistsError(f"{path}: is there already; pass --overwrite to replace it")


def write_phantom(phantom: Phantom, tomogram: Path, *, overwrite: bool = False) -> PhantomFiles:
    """Write a phantom as an MRC tomogram of mode 2 and an MRC label volume of mode 0.

    Each file is written beside its name; when all are complete they are renamed, the tomogram last.

    Raises:
        OutputExistsError: one of the files is there and `overwrite` is not set.
        OutputError: a file cannot be written.
    """
    check_free(tomogram, overwrite)
    files = PhantomFiles.beside(tomogram)
    with replacing(files.tomogram) as intensity:
        tomogram.parent.mkdir(parents=True, exist_ok=True)
        _write_intensity(phantom, intensity)
        with replacing(files.parameters) as parameters:
            parameters.write_text(json.dumps(phantom.parameters.to_json(), indent=2) + "\n", encoding="utf-8")
            _write_labels(phantom, files.truth)
    return files


def _write_labels(phantom: Phantom, path: Path) -> None:
    geometry = Geometry(phantom.labels.shape).with_voxel_size(phantom.parameters.voxel_size)
    keep = range(1, len(phantom.class_map) + 1)
    volume = LabelVolume(path, geometry, phantom.class_map, keep=keep, provenance=_provenance("phantom, exact labels"))
    try:
        # A label volume takes no scores; one class axis of length zero stands for them.
        volume.write(0, phantom.labels, np.empty((len(phantom.labels), 0, *phantom.labels.shape[1:]), np.uint8))
        volume.prepare()
        volume.commit()
    except BaseException:
        volume.abort()
        raise


def _write_intensity(phantom: Phantom, path: Path) -> None:
    with mrcfile.new(path, phantom.intensity) as mrc:
        mrc.voxel_size = phantom.parameters.voxel_size
        mrc.set_volume()
        mrc.add_label(_provenance("phantom"))


def _provenance(what: str) -> str:
    return f"tomoscribe {version('tomoscribe')} {what}"

"""One tomogram with its annotation, from files or made up, checked and opened."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from tomoscribe.engine.class_map import ClassMap
from tomoscribe.engine.errors import ParameterError
from tomoscribe.engine.tomogram import Geometry, Tomogram, open_tomogram
from tomoscribe.train.dataset.annotations import Annotation, check_pair, open_feature_maps, open_label_volume
from tomoscribe.train.dataset.annotations.contract import known_voxel_size
from tomoscribe.train.dataset.contract import DatasetError
from tomoscribe.train.dataset.recipe import LabelSource, MapSource, Trim
from tomoscribe.train.phantom import Phantom, PhantomParameters, make_phantom

__all__ = ["AnnotatedFile", "AnnotatedPhantom", "Input"]


@dataclass(frozen=True)
class Input(ABC):
    """One tomogram of a recipe with its annotation; may be sent to another process.

    Attributes:
        name: what the dataset calls it, different for each.
        class_map: what its labels mean.
        trim: slices that images are taken from, as recipes have it.
        split: the split that its source is fixed to, or None.
        invert: whether density is bright on dark.
        in_memory: whether it is made anew whenever it is opened, so that all of it is to be written at once.
    """

    in_memory: ClassVar[bool]

    name: str
    class_map: ClassMap
    trim: Trim
    split: str | None
    invert: bool

    @property
    @abstractmethod
    def title(self) -> str:
        """What an error calls it."""

    @property
    @abstractmethod
    def identity(self) -> str:
        """What no two different tomograms share."""

    @abstractmethod
    def shape(self) -> tuple[int, int, int]:
        """Return ``(z, y, x)`` in voxels.

        Raises:
            TomoscribeError: the tomogram or its annotation is not there or damaged, or they do not belong together.
        """

    @abstractmethod
    def origin(self) -> dict[str, Any]:
        """Return what it is made from, as JSON has it; the same origin gives the same tomogram and annotation."""

    @abstractmethod
    def open(self) -> contextlib.AbstractContextManager[tuple[Tomogram, Annotation]]:
        """Open both, checked against each other.

        Raises:
            TomoscribeError: as `shape`.
        """


@dataclass(frozen=True)
class AnnotatedFile(Input):
    """A tomogram in a file, with its label volume or its feature maps.

    Attributes:
        path: the tomogram.
        source: how the recipe has it read.
        labels: the label volume, or the map of each class that has one.
        missing: the maps that are not there.
    """

    in_memory: ClassVar[bool] = False

    path: Path
    source: LabelSource | MapSource
    labels: Path | Mapping[str, Path]
    missing: tuple[Path, ...] = ()

    @property
    def title(self) -> str:
        """The tomogram's path."""
        return str(self.path)

    @property
    def identity(self) -> str:
        """The path of the file, links followed."""
        return str(self.path.resolve())

    def origin(self) -> dict[str, Any]:
        """Return the files with size and time of change, and what of the recipe decides what is read."""
        paths = [self.path, *([self.labels] if isinstance(self.labels, Path) else self.labels.values())]
        settings = self.source.model_dump(mode="json", exclude={"split", "trim", "tomograms", "labels", "maps"})
        return {"files": [_facts(path) for path in paths], "missing": [str(p) for p in self.missing], **settings}

    def shape(self) -> tuple[int, int, int]:
        """Return the shape of the tomogram."""
        with self.open() as (tomogram, _):
            return tomogram.shape

    @contextlib.contextmanager
    def open(self) -> Iterator[tuple[Tomogram, Annotation]]:
        """Open both, checked against each other."""
        source = self.source
        with open_tomogram(self.path, voxel_size=source.voxel_size, axes=source.axes, mode0=source.mode0) as tomogram:
            size = tomogram.geometry.voxel_size[0]
            if source.voxel_size is None and not any(known_voxel_size(tomogram)):
                raise DatasetError(
                    f"{self.path}: expected the voxel size in the header, found {size:g} Å; "
                    "state voxel_size in the recipe's source"
                )
            if isinstance(self.trim, tuple):
                tomogram.checked_range(self.trim)
            with self._open_annotation(size) as annotation:
                check_pair(tomogram, annotation)
                yield tomogram, annotation

    def _open_annotation(self, voxel_size: float) -> Annotation:
        source = self.source
        if isinstance(source, LabelSource):
            assert isinstance(self.labels, Path)
            return open_label_volume(
                self.labels,
                self.class_map,
                values=source.values,
                ignore=source.ignore,
                voxel_size=source.voxel_size,
                axes=source.axes,
            )
        assert not isinstance(self.labels, Path)
        if self.missing and source.missing == "error":
            raise DatasetError(
                f"{self.path}: expected its feature map {self.missing[0]}, found none{_more(self.missing)}; "
                "add it, or set missing: background or ignore in the recipe's source"
            )
        if not self.labels:
            raise DatasetError(
                f"{self.path}: expected a feature map at least, found no {self.missing[0]}{_more(self.missing)}; "
                "correct maps in the recipe's source"
            )
        return open_feature_maps(
            self.labels,
            self.class_map,
            threshold=source.threshold,
            smallest=source.smallest,
            priority=source.priority,
            rest_ignored=bool(self.missing) and source.missing == "ignore",
            voxel_size=source.voxel_size,
            fallback_voxel_size=voxel_size,
            axes=source.axes,
        )


@dataclass(frozen=True)
class AnnotatedPhantom(Input):
    """A phantom, made where it is opened."""

    in_memory: ClassVar[bool] = True

    parameters: PhantomParameters

    @property
    def title(self) -> str:
        """The phantom's name."""
        return self.name

    @property
    def identity(self) -> str:
        """The parameters."""
        return repr(self.parameters)

    def origin(self) -> dict[str, Any]:
        """Return the parameters."""
        return {"phantom": self.parameters.to_json()}

    def shape(self) -> tuple[int, int, int]:
        """Return the shape that the parameters have."""
        if isinstance(self.trim, tuple) and not self.trim[0] < self.trim[1] <= self.parameters.shape[0]:
            raise ParameterError(
                f"{self.name}: expected a trim range within 0:{self.parameters.shape[0]}, found {self.trim}"
            )
        return self.parameters.shape

    @contextlib.contextmanager
    def open(self) -> Iterator[tuple[Tomogram, Annotation]]:
        """Make the phantom."""
        phantom = make_phantom(self.parameters)
        yield _PhantomTomogram(self.name, phantom), _PhantomLabels(self.name, phantom)


def _facts(path: Path) -> dict[str, Any]:
    try:
        status = path.stat()
    except OSError:
        # What is wrong with it is told when it is opened.
        return {"path": str(path), "bytes": None, "changed": None}
    return {"path": str(path), "bytes": status.st_size, "changed": status.st_mtime_ns}


def _more(paths: tuple[Path, ...]) -> str:
    return f" (nor {', '.join(path.name for path in paths[1:])})" if len(paths) > 1 else ""


class _PhantomTomogram(Tomogram):
    """A phantom's intensities."""

    def __init__(self, name: str, phantom: Phantom) -> None:
        self.path = Path(name)
        self.geometry = Geometry(phantom.parameters.shape).with_voxel_size(phantom.parameters.voxel_size)
        self.dtype = phantom.intensity.dtype
        self.warnings = ()
        self._intensity = phantom.intensity

    def read_slices(self, start: int, out: NDArray[np.generic]) -> None:
        """Copy slices."""
        out[:] = self._intensity[start : start + len(out)]

    def close(self) -> None:
        """Keep what the garbage collector will take."""


@dataclass(frozen=True)
class _PhantomLabels:
    """A phantom's exact labels."""

    name: str
    phantom: Phantom = field(repr=False)
    warnings: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        return Path(self.name)

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.path,)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.phantom.parameters.shape

    @property
    def voxel_size(self) -> tuple[float, float, float]:
        return (self.phantom.parameters.voxel_size,) * 3

    def read(self, start: int, out: NDArray[np.uint8]) -> None:
        out[:] = self.phantom.labels[start : start + len(out)]

    def close(self) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

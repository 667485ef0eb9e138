"""The outputs of a tomogram: what they are called, and the order in which they appear."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from tomoscribe.engine.bundle import ModelSpecification
from tomoscribe.engine.class_map import LabelClass
from tomoscribe.engine.errors import OutputError, OutputExistsError
from tomoscribe.engine.inputs import tomogram_stem
from tomoscribe.engine.sidecar import Sidecar
from tomoscribe.engine.sinks.contract import Sink
from tomoscribe.engine.sinks.mrc import ClassVolume, LabelVolume
from tomoscribe.engine.tomogram.contract import Geometry

__all__ = ["OutputPaths"]


@dataclass(frozen=True)
class OutputPaths:
    """Where the outputs of a tomogram go.

    Attributes:
        labels: the label volume.
        sidecar: the JSON file beside it.
        picture: the overview, where one is drawn.
        class_volumes: the score volume of each class that is written, by name.
    """

    labels: Path
    sidecar: Path
    picture: Path
    class_volumes: Mapping[str, Path]

    @classmethod
    def of(cls, tomogram: Path, output: Path | None, classes: Sequence[LabelClass] = ()) -> OutputPaths:
        """Return the paths for a tomogram; None as the output folder is the tomogram's own."""
        folder = tomogram.parent if output is None else output
        start = tomogram_stem(tomogram) + "__"
        return cls(
            labels=folder / f"{start}labels.mrc",
            sidecar=folder / f"{start}labels.json",
            picture=folder / f"{start}overview.png",
            class_volumes={c.name: folder / f"{start}{c.feature}.mrc" for c in classes},
        )

    def check(self, overwrite: bool) -> None:
        """See that nothing is replaced that may not be.

        Raises:
            OutputExistsError: one of the files is there and `overwrite` is false.
        """
        for path in (self.labels, *self.class_volumes.values(), self.sidecar):
            if path.exists() and not overwrite:
                raise OutputExistsError(
                    f"{path}: is there already; pass --overwrite to replace it, or another --output"
                )

    def make_folder(self) -> None:
        """Make the folder of the outputs if it is not there.

        Raises:
            OutputError: it cannot be made.
        """
        folder = self.labels.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{folder}: the output folder cannot be made ({error.strerror})") from error

    def open_sinks(
        self,
        geometry: Geometry,
        specification: ModelSpecification,
        keep: Sequence[LabelClass],
        sidecar: Sidecar,
    ) -> list[Sink]:
        """Open the outputs in the order in which they are to be committed: the label volume last.

        Raises:
            OutputError: one cannot be made; those before it are removed.
        """
        provenance = f"tomoscribe {version('tomoscribe')}, model {specification.name}"
        sinks: list[Sink] = []
        try:
            for label_class in keep:
                path = self.class_volumes[label_class.name]
                sinks.append(ClassVolume(path, geometry, label_class, provenance=provenance))
            sinks.append(sidecar)
            kept = [label_class.number for label_class in keep]
            sinks.append(LabelVolume(self.labels, geometry, specification.class_map, keep=kept, provenance=provenance))
        except BaseException:
            for sink in sinks:
                sink.abort()
            raise
        return sinks

"""The outputs of a tomogram: what they are called, and the order in which they appear."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
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

__all__ = ["OutputPaths", "remove_leftovers"]


@dataclass(frozen=True)
class OutputPaths:
    """Where the outputs of a tomogram go.

    Attributes:
        labels: the label volume.
        sidecar: the JSON file beside it.
        picture: the overview, where one is drawn.
        trace: when each stage was at work, where that was recorded.
        class_volumes: the score volume of each class that is written, by name.
    """

    labels: Path
    sidecar: Path
    picture: Path
    trace: Path
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
            trace=folder / f"{start}trace.json",
            class_volumes={c.name: folder / f"{start}{c.feature}.mrc" for c in classes},
        )

    def check(self, overwrite: bool) -> None:
        """See that nothing is replaced that may not be.

        Raises:
            OutputExistsError: one of the files is there and `overwrite` is false.
        """
        for path in (self.labels, *self.class_volumes.values(), self.sidecar):
            # os.path, for pathlib's exists() raises where the folder may not be looked into.
            if os.path.exists(path) and not overwrite:  # noqa: PTH110
                raise OutputExistsError(
                    f"{path}: is there already; pass --overwrite to replace it, or another --output"
                )

    def leftovers(self) -> tuple[Path, ...]:
        """Return the class volumes of an earlier run that this one does not write, as the sidecar that is there says.

        A sidecar can be edited, so that it counts only for files of the same folder that are called as class volumes of
        this tomogram are.
        """
        try:
            listed = set(json.loads(self.sidecar.read_text(encoding="utf-8"))["class_volumes"].values())
            files = list(self.sidecar.parent.iterdir())
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return ()  # no sidecar, or none of ours
        start = self.labels.name.removesuffix("labels.mrc")
        # Some file systems take names for the same that differ in case.
        written = {path.name.casefold() for path in (self.labels, *self.class_volumes.values())}
        return tuple(
            path
            for path in files
            if path.name in listed
            and path.name.startswith(start)
            and path.suffix == ".mrc"
            and path.name.casefold() not in written
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


def remove_leftovers(paths: Iterable[Path]) -> tuple[str, ...]:
    """Remove files of an earlier run, and return a line for each that cannot be removed; the new ones are complete."""
    warnings = []
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            warnings.append(f"{path} is of an earlier run and cannot be removed ({error.strerror}); remove it yourself")
    return tuple(warnings)

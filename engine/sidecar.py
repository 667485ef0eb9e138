"""The sidecar ``<tomogram>__labels.json``: what the numbers of a label volume mean, and how they came about."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tomoscribe.engine.class_map import ClassMap, LabelClass
from tomoscribe.engine.errors import OutputError

__all__ = ["Sidecar"]


class Sidecar:
    """Counts the labels as they pass and writes the JSON file; a `Sink`.

    ``classes`` is the model's class map with the voxel count of each class, null for those that were not kept. The
    other entries are given.

    Args:
        path: the file.
        class_map: what the label numbers mean.
        keep: the classes whose labels are kept.
        facts: entries that are known before the first slice.
    """

    def __init__(self, path: Path, class_map: ClassMap, keep: Sequence[LabelClass], facts: Mapping[str, Any]) -> None:
        self._path = path
        self._class_map = class_map
        self._keep = tuple(keep)
        self._facts = dict(facts)
        self._counts = {label_class.name: 0 for label_class in self._keep}

    @property
    def path(self) -> Path:
        """The file that is there after `commit`."""
        return self._path

    @property
    def counts(self) -> dict[str, int]:
        """Voxels of each class that was kept, by name."""
        return dict(self._counts)

    def write(self, start: int, labels: NDArray[np.uint8], scores: NDArray[np.uint8]) -> None:
        """Count the labels of a run of slices, ``(n, y, x)`` uint8."""
        for image in labels:
            for label_class in self._keep:
                # Comparing and counting bytes many at a time is faster than numpy's bincount, which copies them.
                self._counts[label_class.name] += int(np.count_nonzero(image == label_class.number))

    def prepare(self) -> None:
        """Write the file beside its place, see `Sink.prepare`.

        Raises:
            OutputError: it cannot be written.
        """
        classes = [{**entry, "voxels": self._counts.get(entry["name"])} for entry in self._class_map.to_json()]
        text = json.dumps({**self._facts, "classes": classes}, indent=2) + "\n"
        with self._failure_named(), self._beside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())

    def commit(self) -> None:
        """Give the prepared file its name, see `Sink.commit`.

        Raises:
            OutputError: it cannot be renamed.
        """
        with self._failure_named():
            self._beside.replace(self._path)

    def abort(self) -> None:
        """Remove what was written under the temporary name."""
        try:
            self._beside.unlink(missing_ok=True)
        except OSError:
            # The folder went away or cannot be written any more; the error that led here says so.
            return

    @contextlib.contextmanager
    def _failure_named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(
                f"{self._path}: cannot be written ({error.strerror}); check space and permissions"
            ) from error

    @property
    def _beside(self) -> Path:
        return self._path.with_name(f".{self._path.name}.{os.getpid()}.tmp")

"""What a watcher that was killed has left: outputs that are complete, and files that are not."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from tomoscribe.engine.bundle import Bundle
from tomoscribe.engine.inputs import tomogram_stem
from tomoscribe.engine.outputs import OutputPaths
from tomoscribe.engine.result import Segmentation, SlicePreview
from tomoscribe.engine.tomogram import Tomogram, open_tomogram
from tomoscribe.engine.watch.arrival import promised_size
from tomoscribe.engine.watch.entry import Entry
from tomoscribe.engine.watch.ledger import Ledger
from tomoscribe.engine.watch.owner import Owner
from tomoscribe.engine.watch.settings import WatchSettings

__all__ = ["FinishedOutputs", "finished_outputs", "output_folder", "remove_unfinished", "sweep"]

# As `tomoscribe.engine.sinks.mrc` and `tomoscribe.engine.sidecar` call them.
_UNFINISHED = re.compile(r"\.(?P<stem>.+?)__.+\.([0-9a-f]{8}\.part|[0-9]+\.tmp)", re.DOTALL)
_PICTURE = re.compile(r"\..+\.[0-9a-f]{8}\.part", re.DOTALL)
_LEFT_ALONE = 60.0


@dataclass(frozen=True)
class FinishedOutputs:
    """What is to be known of a tomogram whose outputs are there.

    Attributes:
        outputs: the files by kind: ``labels``, ``sidecar``, and each class's name.
        finished: when the last of them was complete, seconds since the epoch.
        seconds: how long the labelling took; None where nobody knows any more.
        shape: ``(z, y, x)`` in voxels.
        voxel_size: ``(x, y, z)`` in Å.
        model: the model's name.
        backend: what ran it.
        counts: voxels of each class that was kept, by name.
        warnings: what a user should know, a line each.
        intensity: mean and standard deviation that the tomogram was normalised with; None where it was just labelled.
    """

    outputs: Mapping[str, Path]
    finished: float
    seconds: float | None
    shape: tuple[int, int, int]
    voxel_size: tuple[float, float, float]
    model: str
    backend: str
    counts: Mapping[str, int]
    warnings: tuple[str, ...]
    intensity: tuple[float, float] | None = None

    @classmethod
    def of(cls, result: Segmentation, now: float) -> FinishedOutputs:
        """Return what a segmentation that came to its end says."""
        return cls(
            outputs={"labels": result.labels, "sidecar": result.sidecar, **result.class_volumes},
            finished=now,
            seconds=result.seconds,
            shape=result.geometry.shape,
            voxel_size=result.geometry.voxel_size,
            model=result.model,
            backend=result.backend,
            counts=result.counts,
            warnings=result.warnings,
        )

    def preview(self, tomogram: Tomogram) -> SlicePreview:
        """Return the central slice and its labels, as `Segmenter.preview` does, from what was written.

        Raises:
            TomogramFormatError: the tomogram or the label volume cannot be read.
        """
        assert self.intensity is not None
        z = self.shape[0] // 2
        image = np.empty((1, *self.shape[1:]), np.float32)
        tomogram.read_slices(z, image)
        with open_tomogram(self.outputs["labels"], axes=tomogram.geometry.axes, mode0="signed") as volume:
            labels = np.empty((1, *self.shape[1:]), volume.dtype)
            volume.read_slices(z, labels)
        return SlicePreview(z, image[0], labels[0].astype(np.uint8), *self.intensity)


def output_folder(settings: WatchSettings, path: str) -> Path:
    """Return the folder for the outputs of a tomogram, whose path is relative to the watched folder."""
    return settings.output / PurePosixPath(path).parent


def finished_outputs(entry: Entry, settings: WatchSettings, bundle: Bundle) -> FinishedOutputs | None:
    """Return what is to be known of the outputs of an entry where they are complete; None where they are not.

    They are where the sidecar is of this very content, this model and these settings, every volume that it lists has
    the size that its header promises, and the label volume, which gets its name last, is no older than the sidecar.
    So what a watcher has labelled that was killed before it could say so, or whose ledger was lost, is not done twice.
    """
    class_map = bundle.specification.class_map
    keep = class_map.classes if settings.classes is None else class_map.select(settings.classes)
    paths = OutputPaths.of(settings.folder / entry.path, output_folder(settings, entry.path), keep)
    volumes = {"labels": paths.labels, **paths.class_volumes}
    try:
        facts = json.loads(paths.sidecar.read_text(encoding="utf-8"))
        if not _is_of(facts, entry, settings, bundle, paths) or not all(_is_whole(path) for path in volumes.values()):
            return None
        complete = paths.labels.stat().st_mtime_ns
        if complete < paths.sidecar.stat().st_mtime_ns:
            return None
        depth, height, width = facts["shape_zyx"]
        x, y, z = facts["voxel_size_xyz"]
        return FinishedOutputs(
            outputs={"labels": paths.labels, "sidecar": paths.sidecar, **paths.class_volumes},
            finished=complete / 1e9,
            seconds=None,
            shape=(depth, height, width),
            voxel_size=(x, y, z),
            model=facts["model"]["name"],
            backend=facts["backend"],
            counts={c["name"]: int(c["voxels"]) for c in facts["classes"] if c["voxels"] is not None},
            warnings=tuple(facts["warnings"]),
            intensity=(facts["intensity"]["mean"], facts["intensity"]["standard_deviation"]),
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None  # not there, or not as this program writes them


def _is_of(facts: Mapping[str, Any], entry: Entry, settings: WatchSettings, bundle: Bundle, paths: OutputPaths) -> bool:
    """Return whether a sidecar says that these outputs are of this content, by this model, as was asked for."""
    depth = facts["shape_zyx"][0]
    return bool(
        facts["source"] == {"size": entry.identity.size, "modified": entry.identity.modified}
        and facts["model"]["sha256"] == {name: artifact.sha256 for name, artifact in bundle.artifacts.items()}
        and facts["labels"] == paths.labels.name
        and facts["class_volumes"] == {name: path.name for name, path in paths.class_volumes.items()}
        and facts["inverted"] == settings.invert
        and (settings.rescale or facts["rescaling"] is None)
        and (settings.sample_only or facts["z_range"] == [0, depth])
        and settings.voxel_size in (None, facts["voxel_size_xyz"][0])
    )


def _is_whole(path: Path) -> bool:
    return promised_size(path) == path.stat().st_size


def remove_unfinished(tomogram: Path, folder: Path) -> None:
    """Remove the files that a watcher that was killed had begun for a tomogram.

    Only for who holds the entry. A watcher that lost it and does not know yet comes to its end all the same.

    Args:
        tomogram: its path, for its name.
        folder: of its outputs.
    """
    stem = tomogram_stem(tomogram)
    try:
        unfinished = [path for path in folder.iterdir() if _stem_of(path.name) == stem]
    except OSError:  # not there yet
        return
    _remove(unfinished)


def sweep(ledger: Ledger, settings: WatchSettings) -> None:
    """Remove what watchers that were killed had begun and no one will begin again, say for a tomogram that is gone.

    Files of tomograms that the ledger does not know are left alone, and of those that a watcher is at work on.
    """
    # Looked for before the ledger is asked: what an entry's next watcher begins after that is not among them.
    unfinished = defaultdict(list)
    for folder, folders, names in os.walk(settings.output):
        folders[:] = [name for name in folders if name != settings.places.own.name]
        for name in names:
            if (stem := _stem_of(name)) is not None:
                unfinished[Path(folder), stem].append(Path(folder, name))
    known = ledger.known() if unfinished else {}
    for path in known:
        of_it = unfinished.get((output_folder(settings, path), tomogram_stem(Path(path))))
        if of_it and not _is_held(ledger.find(path)):
            _remove(of_it)
    _remove_pictures(settings.places.pictures)


def _remove_pictures(folder: Path) -> None:
    latest = time.time() - _LEFT_ALONE
    for path in folder.glob("*/.*.part"):
        with contextlib.suppress(OSError):
            if _PICTURE.fullmatch(path.name) and path.stat().st_mtime < latest:
                path.unlink()


def _is_held(entry: Entry | None) -> bool:
    return entry is not None and entry.owner is not None and not Owner.parse(entry.owner).is_dead()


def _stem_of(name: str) -> str | None:
    """Return what the outputs begin with that a temporary file belongs to; None for other files."""
    match = _UNFINISHED.fullmatch(name)
    return None if match is None else match["stem"]


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        with contextlib.suppress(OSError):  # removed by its own watcher; or it stays, hidden
            path.unlink()

"""What the ledger knows of one tomogram."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

__all__ = ["Entry", "Identity", "State"]


class State(StrEnum):
    """Where a tomogram is on its way to labels."""

    ARRIVING = "arriving"  # noticed, and not known to be complete
    WAITING = "waiting"  # complete, and in the queue
    RUNNING = "running"  # a watcher has a lease on it
    DONE = "done"  # its outputs are there
    QUARANTINED = "quarantined"  # it cannot be labelled as it is; `Entry.reason` says why
    GONE = "gone"  # deleted before it was labelled


@dataclass(frozen=True)
class Identity:
    """Which content a path had, without reading it; a file that is written to or replaced gets another.

    Attributes:
        size: bytes.
        modified: nanoseconds since the epoch.
        inode: the file's number on its file system.
    """

    size: int
    modified: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> Self:
        """Return the identity of what was looked at."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ino)


@dataclass(frozen=True)
class Entry:
    """A row of the ledger. Times are seconds since the epoch, None for what has not happened.

    Attributes:
        number: the tomogram's number, which the page has in its addresses; never reused.
        path: relative to the watched folder, with ``/``.
        state: where it is on its way.
        identity: of the content that this row is about.
        revision: the ledger's revision at the last change of this row.
        reason: why it is quarantined, or what an arriving one is waited for; one line.
        attempts: how often a watcher has begun with this content.
        noticed: when the content was first seen.
        complete: when it was found complete.
        claimed: when the last watcher began with it.
        previewed: when the picture of its central slice was there.
        finished: when its outputs were, it was quarantined, or it was gone.
        owner: the watcher that has it, see `tomoscribe.engine.watch.owner`; None unless it is running.
        lease: until when no other watcher may take it.
        shape: ``(z, y, x)`` in voxels.
        voxel_size: ``(x, y, z)`` in Å; 0 where it is not known.
        slices: how many slices have been labelled so far.
        seconds: how long the labelling took, from opening the file to the last output.
        model: the model's name.
        backend: what ran it, in a line.
        counts: voxels of each class, by name.
        objects: connected objects of each class, by name; counted after the labels are there.
        outputs: the files, relative to the output folder, by kind: ``labels``, ``sidecar``, and each class's name.
        warnings: what a user should know, a line each.
        hook: how the command for finished tomograms ended, one line; None where it has not run.
    """

    number: int
    path: str
    state: State
    identity: Identity
    revision: int
    reason: str | None = None
    attempts: int = 0
    noticed: float = 0.0
    complete: float | None = None
    claimed: float | None = None
    previewed: float | None = None
    finished: float | None = None
    owner: str | None = None
    lease: float | None = None
    shape: tuple[int, int, int] | None = None
    voxel_size: tuple[float, float, float] | None = None
    slices: int = 0
    seconds: float | None = None
    model: str | None = None
    backend: str | None = None
    counts: Mapping[str, int] | None = None
    objects: Mapping[str, int] | None = None
    outputs: Mapping[str, str] | None = None
    warnings: tuple[str, ...] = ()
    hook: str | None = None

    @property
    def voxels(self) -> int | None:
        """Voxels of the volume."""
        return None if self.shape is None else self.shape[0] * self.shape[1] * self.shape[2]

    def to_json(self) -> dict[str, Any]:
        """Return the row as the page's JSON has it; the lease and its owner are the watchers' own business."""
        return {
            "number": self.number,
            "path": self.path,
            "state": self.state.value,
            "revision": self.revision,
            "size": self.identity.size,
            "reason": self.reason,
            "attempts": self.attempts,
            "noticed": self.noticed,
            "complete": self.complete,
            "claimed": self.claimed,
            "previewed": self.previewed,
            "finished": self.finished,
            "shape": None if self.shape is None else list(self.shape),
            "voxel_size": None if self.voxel_size is None else list(self.voxel_size),
            "slices": self.slices,
            "seconds": self.seconds,
            "model": self.model,
            "backend": self.backend,
            "counts": None if self.counts is None else dict(self.counts),
            "objects": None if self.objects is None else dict(self.objects),
            "outputs": None if self.outputs is None else dict(self.outputs),
            "warnings": list(self.warnings),
            "hook": self.hook,
        }

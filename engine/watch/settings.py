"""What a watcher was asked to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Places", "WatchSettings"]


@dataclass(frozen=True)
class Places:
    """Where a watcher keeps what is its own: all of it in a hidden folder of the output folder.

    Attributes:
        output: the output folder; the outputs of ``FOLDER/a/b.mrc`` are ``OUTPUT/a/b__labels.mrc`` and so on.
    """

    output: Path

    @property
    def own(self) -> Path:
        """The hidden folder."""
        return self.output / ".tomoscribe"

    @property
    def ledger(self) -> Path:
        """The ledger."""
        return self.own / "ledger.sqlite"

    @property
    def log(self) -> Path:
        """The log, which is rotated."""
        return self.own / "watch.log"

    @property
    def pictures(self) -> Path:
        """The folder of previews and thumbnails, all of which can be made anew."""
        return self.own / "pictures"


@dataclass(frozen=True)
class WatchSettings:
    """What to watch for, and how to label it.

    Attributes:
        folder: the folder that is watched, with its sub-folders.
        output: the folder for outputs; it may lie in the watched one.
        patterns: glob patterns of paths relative to the folder; by default what AreTomo3, Warp and IMOD call their
            reconstructions, and plain names, see `tomoscribe.engine.watch.naming`.
        polling: whether to look for changes instead of being told of them; None decides by the file system.
        keep_free: bytes that are to stay free on the disk of the outputs.
        on_done: a command and its arguments, run for every tomogram that is finished.
        classes: names of the classes to keep; all if None.
        invert: density is bright on dark.
        rescale: resample slices for the model, see `tomoscribe.engine.rescaling`.
        sample_only: leave out the slices above and below the sample.
        voxel_size: Å, in place of the headers'.
        axes: ``xyz`` or ``xzy``, how files store their axes, fastest first.
        mode0: ``auto``, ``signed`` or ``unsigned``.
    """

    folder: Path
    output: Path
    patterns: Sequence[str] = ()
    polling: bool | None = None
    keep_free: int = 2 * 10**9
    on_done: Sequence[str] = ()
    classes: Sequence[str] | None = None
    invert: bool = False
    rescale: bool = True
    sample_only: bool = False
    voxel_size: float | None = None
    axes: str = "xyz"
    mode0: str = "auto"

    @property
    def places(self) -> Places:
        """Where the watcher keeps what is its own."""
        return Places(self.output)

"""Tomograms as they land in a folder at the microscope, and everything that goes wrong with them.

A `Feeder` writes them into a watched folder, one after the other, and remembers what has to become of each.
"""

from __future__ import annotations

import os
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import mrcfile
import numpy as np
from numpy.typing import NDArray

from tomoscribe.engine.watch.entry import State
from tomoscribe.engine.watch.ledger import Ledger

__all__ = ["FAULTS", "SHAPE", "Feeder", "Written", "make_volume", "write_as_aretomo3"]

SHAPE = (8, 64, 64)
_FLOATS = 32  # of AreTomo3's extended header, for each section
_FILES_A_FOLDER = 100
_PATIENCE = 60.0


@dataclass
class Written:
    """A file that was written.

    Attributes:
        path: relative to the watched folder.
        kind: ``healthy`` or the fault.
        expected: the states that it may end in; none where the ledger must not know it.
        written: when its last byte was, seconds since the epoch.
    """

    path: str
    kind: str
    expected: tuple[State, ...]
    written: float = 0.0


@dataclass
class Feeder:
    """Writes files until it is told to stop.

    Attributes:
        folder: the watched folder.
        ledger: the watcher's, to see when it is at work on a file.
        pause: seconds between two sections of a file.
        files: what was written.
    """

    folder: Path
    ledger: Ledger
    stop: threading.Event
    pause: float = 0.01
    files: list[Written] = field(default_factory=list)
    _threads: list[threading.Thread] = field(default_factory=list)
    _random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def healthy(self) -> None:
        """Write a tomogram, with the halves and the tilt series that AreTomo3 writes beside it for every tenth."""
        file = self._next("healthy", (State.DONE,))
        target = self.folder / file.path
        if len(self.files) % 10 == 0:
            stem = target.name.removesuffix("_Vol.mrc")
            target.with_name(f"{stem}_TLT.txt").write_text("-60.00 1 3.0\n")
            for name in (f"{stem}.mrc", f"{stem}_EVN_Vol.mrc", f"{stem}_ODD_Vol.mrc", f"{stem}_CTF.mrc"):
                write_as_aretomo3(target.with_name(name), self._volume(), 0.0)
                self.files.append(Written(str(Path(file.path).with_name(name)), "left out", ()))
        write_as_aretomo3(target, self._volume(), self.pause)
        file.written = time.time()

    def truncated(self) -> None:
        """Stop before the last section."""
        file = self._next("truncated", (State.ARRIVING, State.QUARANTINED))
        write_as_aretomo3(self.folder / file.path, self._volume(), self.pause, sections=SHAPE[0] - 1)

    def growing(self) -> None:
        """Go on writing long after the header's number of sections, until the feeder stops."""
        file = self._next("growing", (State.ARRIVING, State.QUARANTINED))
        target = self.folder / file.path
        write_as_aretomo3(target, self._volume(), self.pause)

        def grow() -> None:
            with target.open("ab") as stream:
                while not self.stop.wait(0.2):
                    stream.write(bytes(SHAPE[1] * SHAPE[2] * 4))
                    stream.flush()

        self._in_background(grow)

    def deleted(self) -> None:
        """Delete a file while it is being read; the open file may still be labelled to its end."""
        file = self._next("deleted", (State.GONE, State.DONE))
        write_as_aretomo3(self.folder / file.path, self._volume(), self.pause)

        def delete() -> None:
            self._wait_until(file, State.RUNNING, State.DONE)
            (self.folder / file.path).unlink()

        self._in_background(delete)

    def renamed_over(self) -> None:
        """Put another file in a file's place while it is being read, or has just been."""
        file = self._next("renamed over", (State.DONE,))
        target = self.folder / file.path
        write_as_aretomo3(target, self._volume(), self.pause)

        def replace() -> None:
            self._wait_until(file, State.RUNNING, State.DONE)
            write_as_aretomo3(target.with_name(f".{target.name}"), self._volume(), 0.0)
            target.with_name(f".{target.name}").replace(target)
            file.written = time.time()

        self._in_background(replace)

    def unreadable(self) -> None:
        """Write a file that may not be read, and let it be read once that was noticed."""
        file = self._next("unreadable", (State.DONE,))
        target = self.folder / file.path
        hidden = target.with_name(f".{target.name}")
        write_as_aretomo3(hidden, self._volume(), 0.0)
        hidden.chmod(0)
        hidden.rename(target)

        def allow() -> None:
            self._wait_until(file, State.QUARANTINED)
            target.chmod(0o644)
            file.written = time.time()

        self._in_background(allow)

    def not_finite(self) -> None:
        """Write a volume with NaN in it."""
        file = self._next("not finite", (State.QUARANTINED,))
        values = self._volume()
        values[:, ::7] = np.nan
        write_as_aretomo3(self.folder / file.path, values, self.pause)

    def nonsense(self) -> None:
        """Write a file with no header in it."""
        file = self._next("nonsense", (State.QUARANTINED,))
        (self.folder / file.path).write_bytes(self._random.bytes(40_000))

    def join(self) -> None:
        """Wait for what goes on in the background; `stop` has to be set."""
        for thread in self._threads:
            thread.join()

    def _next(self, kind: str, expected: tuple[State, ...]) -> Written:
        number = len(self.files)
        folder = self.folder / f"session{number // _FILES_A_FOLDER}" / "grid"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder.relative_to(self.folder) / f"Position_{number}_Vol.mrc"
        self.files.append(Written(path.as_posix(), kind, expected))
        return self.files[-1]

    def _volume(self) -> NDArray[np.float32]:
        return make_volume(self._random)

    def _wait_until(self, file: Written, *states: State) -> None:
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end and not self.stop.wait(0.01):
            entry = self.ledger.find(file.path)
            if entry is not None and entry.state in states:
                return

    def _in_background(self, target: Callable[[], None]) -> None:
        self._threads.append(threading.Thread(target=target))
        self._threads[-1].start()


FAULTS = ("truncated", "deleted", "renamed_over", "unreadable", "not_finite", "nonsense")
"""The faults of single files, by the feeder's method; one file grows all the time, and the disk fills up on its own."""


def make_volume(random: np.random.Generator) -> NDArray[np.float32]:
    """Return noise with some dark blocks in it, ``(z, y, x)``."""
    values = random.normal(0, 1, SHAPE).astype(np.float32)
    for y, x in random.integers(0, 48, (4, 2)):
        values[:, y : y + 12, x : x + 12] -= 3
    return values


def write_as_aretomo3(path: Path, values: NDArray[np.float32], pause: float, sections: int | None = None) -> None:
    """Write a volume as AreTomo3 does: straight to its path, the headers first and again at the end, slice by slice.

    Source: ``CAsyncSaveVol::mSaveVol`` and ``CSaveMrc::CloseFile`` of https://github.com/czimaginginstitute/AreTomo3.

    Args:
        path: the file.
        values: ``(z, y, x)``.
        pause: seconds between two sections.
        sections: after how many to stop, as if the program had died; None writes all.
    """
    depth, height, width = values.shape
    header, extended = _header(values.shape), bytearray(4 * _FLOATS * depth)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o664)
    try:
        os.pwrite(file, header, 0)
        for z in range(depth if sections is None else sections):
            struct.pack_into("<f", extended, 4 * _FLOATS * z, 0.0)
            os.pwrite(file, extended, len(header))
            os.pwrite(file, values[z].tobytes(), len(header) + len(extended) + z * 4 * height * width)
            time.sleep(pause)
        if sections is None:
            os.pwrite(file, header, 0)
            os.pwrite(file, extended, len(header))
    finally:
        os.close(file)


def _header(shape: tuple[int, int, int]) -> bytes:
    depth, height, width = shape
    header = np.zeros((), mrcfile.dtypes.HEADER_DTYPE)
    header["nx"], header["ny"], header["nz"], header["mode"] = width, height, depth, 2
    header["mx"], header["my"], header["mz"] = width, height, depth
    header["cella"] = tuple(15.0 * length for length in (width, height, depth))
    header["mapc"], header["mapr"], header["maps"] = 1, 2, 3
    header["nsymbt"], header["exttyp"], header["nversion"] = 4 * _FLOATS * depth, b"AGAR", 20140
    header["map"], header["machst"] = b"MAP ", (0x44, 0x44, 0, 0)
    data = bytearray(header.tobytes())
    struct.pack_into("<hh", data, 128, 0, _FLOATS)
    return bytes(data)

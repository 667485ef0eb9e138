"""What a page keeps for the next request: open volumes and encoded pictures, both bounded."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from tomoscribe.engine.tomogram import Tomogram, open_tomogram

__all__ = ["KeptBytes", "KeptVolumes", "Volume"]


class Volume:
    """An open volume that several threads may want at once.

    Attributes:
        tomogram: the volume.
        intensity: mean and standard deviation of it, if they are known.
        users: how many threads are at it.
        used: when the last one was, by the monotonic clock.
        dropped: whether the last of them is to close it.
    """

    def __init__(self, tomogram: Tomogram, file: BinaryIO, intensity: tuple[float, float] | None) -> None:
        self.tomogram = tomogram
        self.intensity = intensity
        self.users = 0
        self.used = 0.0
        self.dropped = False
        self._file = file
        self._lock = threading.Lock()

    @classmethod
    def of(
        cls,
        file: BinaryIO,
        intensity: tuple[float, float] | None = None,
        *,
        voxel_size: float | None = None,
        axes: str,
        mode0: str,
    ) -> Volume:
        """Take an open file over, whose name then makes no difference any more.

        Raises:
            TomoscribeError: it is no tomogram.
        """
        try:
            path = Path(f"/proc/self/fd/{file.fileno()}")
            return cls(open_tomogram(path, voxel_size=voxel_size, axes=axes, mode0=mode0), file, intensity)
        except BaseException:
            file.close()
            raise

    def read(self, z: int, dtype: np.dtype[np.generic]) -> NDArray[np.generic]:
        """Return a slice ``(y, x)``."""
        out = np.empty((1, *self.tomogram.shape[1:]), dtype)
        with self._lock:
            self.tomogram.read_slices(z, out)
        image: NDArray[np.generic] = out[0]
        return image

    def close(self) -> None:
        """Give the files back."""
        self.tomogram.close()
        # Kept until now, because a compressed tomogram is opened again when it is first read.
        self._file.close()


class KeptVolumes:
    """The volumes that were used last. One is closed when it is pushed out and nobody reads it any more.

    Args:
        most: how many are kept open.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._volumes: OrderedDict[tuple[object, ...], Volume] = OrderedDict()

    @contextmanager
    def borrow(self, key: tuple[object, ...], open_volume: Callable[[], Volume]) -> Iterator[Volume]:
        """Give the volume of a key, which is opened if it is not open, and not closed meanwhile."""
        volume = self._take(key)
        if volume is None:
            # Without the lock, for a network file system may take its time.
            volume = self._insert(key, open_volume())
        try:
            yield volume
        finally:
            with self._lock:
                volume.users -= 1
                volume.used = time.monotonic()
                if volume.dropped and not volume.users:
                    volume.close()

    def close_unused(self, seconds: float) -> None:
        """Close those that nobody has read for so long: a deleted file takes its space until it is closed."""
        with self._lock:
            before = time.monotonic() - seconds
            idle = [key for key, volume in self._volumes.items() if not volume.users and volume.used <= before]
            for key in idle:
                self._volumes.pop(key).close()

    def close(self) -> None:
        """Close all that nobody reads, and the others as soon as nobody does."""
        with self._lock:
            self._drop(0)

    def _take(self, key: tuple[object, ...]) -> Volume | None:
        with self._lock:
            volume = self._volumes.get(key)
            if volume is not None:
                volume.users += 1
                self._volumes.move_to_end(key)
            return volume

    def _insert(self, key: tuple[object, ...], volume: Volume) -> Volume:
        with self._lock:
            first = self._volumes.setdefault(key, volume)
            if first is not volume:  # another thread opened it at the same time
                volume.close()
            first.users += 1
            self._volumes.move_to_end(key)
            self._drop(self._most)
            return first

    def _drop(self, most: int) -> None:
        while len(self._volumes) > most:
            _, volume = self._volumes.popitem(last=False)
            volume.dropped = True
            if not volume.users:
                volume.close()


class KeptBytes:
    """The pictures that were used last.

    Args:
        most: bytes of all of them.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._size = 0
        self._lock = threading.Lock()
        self._pictures: OrderedDict[tuple[object, ...], bytes] = OrderedDict()

    def get(self, key: tuple[object, ...]) -> bytes | None:
        """Return the picture of a key if it is kept."""
        with self._lock:
            data = self._pictures.get(key)
            if data is not None:
                self._pictures.move_to_end(key)
            return data

    def keep(self, key: tuple[object, ...], data: bytes) -> bytes:
        """Keep a picture, and return it."""
        with self._lock:
            self._size += len(data) - len(self._pictures.pop(key, b""))
            self._pictures[key] = data
            while self._size > self._most:
                _, oldest = self._pictures.popitem(last=False)
                self._size -= len(oldest)
        return data

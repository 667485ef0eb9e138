"""Reads chunks of a Zarr v3 array straight from its shard files.

zarr-python reads a chunk through an event loop in a thread of its own: several times the time that the bytes take
(``benchmarks/dataset_storage.py``), and a thread that a forked loader process does not have. The files are plain
enough to be read without it. Format: https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/index.html
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numcodecs.zstd import Zstd  # type: ignore[import-untyped]
from numpy.typing import NDArray

from tomoscribe.train.dataset.contract import DatasetError

__all__ = ["ShardedChunks"]

_ABSENT = np.uint64(2**64 - 1)
_CHECKSUM_BYTES = 4
_DTYPES: dict[str, np.dtype[Any]] = {"float16": np.dtype("<f2"), "uint8": np.dtype("u1")}


class ShardedChunks:
    """The chunks ``(1, 1, tile, tile)`` of an array ``(z, tiles, tile, tile)`` in shards ``(depth, 1, tile, tile)``.

    No file stays open, so that it can be pickled and forked, and thousands of shards need no file handles.

    Args:
        path: the folder of the array, written by `tomoscribe.train.dataset.writing`.

    Raises:
        DatasetError: there is no array, or it is of another layout.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            metadata = json.loads((path / "zarr.json").read_text(encoding="utf-8"))
            sharding = metadata["codecs"][0]["configuration"]
            self.shape: tuple[int, ...] = tuple(metadata["shape"])
            self._dtype = _DTYPES[metadata["data_type"]]
            self._depth = int(metadata["chunk_grid"]["configuration"]["chunk_shape"][0])
            self._chunk = tuple(sharding["chunk_shape"][2:])
            codecs = [codec["name"] for codec in sharding["codecs"]]
            self._compressed = {"bytes": False, "bytes zstd": True}[" ".join(codecs)]
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise DatasetError(
                f"{path}: expected an array of a dataset, sharded Zarr v3, found another layout ({error!r}); "
                "build the dataset again"
            ) from error
        self._indices: dict[tuple[int, int], NDArray[np.uint64]] = {}

    def read(self, z: int, tile: int) -> NDArray[np.generic]:
        """Return the ``(tile, tile)`` chunk of a slice; zeros if it was not stored.

        Raises:
            DatasetError: the shard is shorter than its index says, or damaged.
        """
        shard = (z // self._depth, tile)
        path = self._path / f"c/{shard[0]}/{tile}/0/0"
        try:
            if shard not in self._indices:
                self._indices[shard] = self._read_index(path)
            offset, size = self._indices[shard][z % self._depth]
            if offset == _ABSENT:
                return np.zeros(self._chunk, self._dtype)
            with path.open("rb", buffering=0) as file:
                file.seek(int(offset))
                content = file.read(int(size))
            if self._compressed:
                content = Zstd().decode(content)
            chunk: NDArray[np.generic] = np.frombuffer(content, self._dtype).reshape(self._chunk)
            return chunk
        except (OSError, ValueError, OverflowError, RuntimeError) as error:
            raise DatasetError(f"{path}: damaged ({error}); build the dataset again") from error

    def _read_index(self, path: Path) -> NDArray[np.uint64]:
        """Return the ``(depth, 2)`` offsets and sizes of a shard's chunks in bytes."""
        size = 16 * self._depth
        try:
            with path.open("rb") as file:
                file.seek(-size - _CHECKSUM_BYTES, 2)
                return np.frombuffer(file.read(size), "<u8").reshape(self._depth, 2)
        except FileNotFoundError:
            # A shard without any chunk is not written.
            return np.full((self._depth, 2), _ABSENT)

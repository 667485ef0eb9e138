"""How fast images are read at random from formats that a dataset could be stored in, relative to a plain memory map.

    python benchmarks/dataset_storage.py [--images 160] [--tile 512] [--output benchmarks/results]

An image is a tile of a slice with one slice of context on each side (three tiles of float16, made float32) and its
labels (uint8), as training reads it. Every format holds the same noise and the same labels; the files are in the page
cache, so that what is measured is what the format costs. The memory map is ``.npy`` without compression. Rounds of all
formats follow each other, and the median of a format is of all its reads.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import zarr
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from zarr.codecs import BloscCodec, ZstdCodec

from tomoscribe.train.dataset.shards import ShardedChunks

TILES = 4
Volume = NDArray[Any]
Reader = Callable[[int, int], tuple[Volume, Volume]]

CODECS = {
    "none": None,
    "zstd": [ZstdCodec(level=1)],
    "lz4": [BloscCodec(cname="lz4", clevel=1, shuffle="shuffle")],
}


def make(depth: int, tile: int) -> tuple[Volume, Volume]:
    """Return ``(z, tiles, tile, tile)`` noise, float16, and labels of blobs, uint8."""
    random = np.random.default_rng(0)
    shape = (depth, TILES, tile, tile)
    intensity = random.standard_normal(shape, np.float32)
    blobs = gaussian_filter(random.standard_normal(shape, np.float32), (1, 0, 6, 6))
    return intensity.astype(np.float16), np.digitize(blobs / blobs.std(), (1.5, 2, 2.5)).astype(np.uint8)


def context_reader(intensity: Any, labels: Any) -> Reader:  # noqa: ANN401 - whatever is indexed as numpy indexes
    """Read as numpy slices."""
    return lambda z, tile: (intensity[z - 1 : z + 2, tile].astype(np.float32), np.asarray(labels[z, tile]))


def chunk_reader(intensity: ShardedChunks, labels: ShardedChunks) -> Reader:
    """Read as a dataset reads."""

    def read(z: int, tile: int) -> tuple[Volume, Volume]:
        slices = np.empty((3, *intensity.shape[2:]), np.float32)
        for out, near in zip(slices, (z - 1, z, z + 1), strict=True):
            out[:] = intensity.read(near, tile)
        return slices, labels.read(z, tile).copy()

    return read


def write_zarr(
    folder: Path, volumes: tuple[Volume, Volume], depth: int, codecs: tuple[str, str], deep: int = 1
) -> None:
    """Write both volumes as sharded Zarr; a shard has `depth` slices and a chunk `deep`."""
    for name, volume, codec in zip(("intensity", "labels"), volumes, codecs, strict=True):
        size = volume.shape[2:]
        zarr.create_array(
            folder / name,
            data=volume,
            chunks=(deep, 1, *size),
            shards=(depth, 1, *size) if depth else None,
            compressors=CODECS[codec],
        )


def open_formats(folder: Path, volumes: tuple[Volume, Volume]) -> dict[str, tuple[Path, Reader]]:
    """Write every format, and return for each where it is and how it is read."""
    formats: dict[str, tuple[Path, Reader]] = {}
    maps = folder / "memmap"
    maps.mkdir()
    for name, volume in zip(("intensity", "labels"), volumes, strict=True):
        np.save(maps / f"{name}.npy", volume)
    opened = [np.load(maps / f"{name}.npy", mmap_mode="r") for name in ("intensity", "labels")]
    formats["memory map (.npy)"] = maps, context_reader(*opened)
    variants = {
        "no shards, no codec": (0, ("none", "none"), 1),
        "shards, no codec": (16, ("none", "none"), 1),
        "shards, zstd": (16, ("zstd", "zstd"), 1),
        "shards, lz4 with shuffle": (16, ("lz4", "lz4"), 1),
        "shards, chunks of 4 slices, no codec": (16, ("none", "none"), 4),
        "shards, labels alone zstd": (16, ("none", "zstd"), 1),
    }
    for number, (name, (depth, codecs, deep)) in enumerate(variants.items()):
        path = folder / f"zarr{number}"
        write_zarr(path, volumes, depth, codecs, deep)
        arrays = [zarr.open_array(path / part, mode="r") for part in ("intensity", "labels")]
        formats[f"zarr-python: {name}"] = path, context_reader(*arrays)
    chunks = [ShardedChunks(path / part) for part in ("intensity", "labels")]
    formats["tomoscribe: shards, labels alone zstd"] = path, chunk_reader(*chunks)
    path = folder / "hdf5"
    path.mkdir()
    file = h5py.File(path / "both.h5", "w")
    for name, volume in zip(("intensity", "labels"), volumes, strict=True):
        options = {"compression": "gzip", "compression_opts": 1} if name == "labels" else {}
        file.create_dataset(name, data=volume, chunks=(1, 1, *volume.shape[2:]), **options)
    file.flush()
    formats["HDF5: labels alone gzip"] = path, context_reader(file["intensity"], file["labels"])
    return formats


def measure(formats: dict[str, tuple[Path, Reader]], volumes: tuple[Volume, Volume], rounds: int) -> dict[str, float]:
    """Return the median seconds of an image by format; every round reads a few images of each at random."""
    random = np.random.default_rng(1)
    seconds: dict[str, list[float]] = {name: [] for name in formats}
    for _ in range(rounds):
        places = [(int(random.integers(1, len(volumes[0]) - 1)), int(random.integers(TILES))) for _ in range(4)]
        for name, (_, read) in formats.items():
            for z, tile in places:
                started = time.perf_counter()
                slices, labels = read(z, tile)
                seconds[name].append(time.perf_counter() - started)
            assert np.array_equal(slices, volumes[0][z - 1 : z + 2, tile])
            assert np.array_equal(labels, volumes[1][z, tile])
    return {name: float(np.median(values)) for name, values in seconds.items()}


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=160, help="images that are stored")
    parser.add_argument("--tile", type=int, default=512, help="their height and width")
    parser.add_argument("--rounds", type=int, default=40, help="of four reads of every format")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    volumes = make(arguments.images // TILES, arguments.tile)
    folder = Path(tempfile.mkdtemp())
    try:
        formats = open_formats(folder, volumes)
        medians = measure(formats, volumes, arguments.rounds)
        sizes = {
            name: sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            for name, (path, _) in formats.items()
        }
    finally:
        shutil.rmtree(folder)
    plain, bytes_ = medians["memory map (.npy)"], sum(volume.nbytes for volume in volumes)
    lines = [
        "# Storage of a dataset",
        "",
        f"Random images of {arguments.tile} × {arguments.tile} with one slice of context on each side and their "
        f"labels, {bytes_ / 1e6:.0f} MB in the page cache, {platform.machine()}, zarr {zarr.__version__}; medians of "
        f"{4 * arguments.rounds} interleaved reads. Made by `benchmarks/dataset_storage.py`.",
        "",
        "| format | time of an image over memory map | ms | size over raw bytes |",
        "| --- | ---: | ---: | ---: |",
    ]
    for name, seconds in medians.items():
        lines.append(f"| {name} | {seconds / plain:.2f} | {seconds * 1e3:.2f} | {sizes[name] / bytes_:.2f} |")
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "dataset_storage.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()

"""What `scaling` measures, one function for each study; `scaling` itself is also what runs in their child processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from measuring import interleaved, keep_busy, write_noise
from scaling_figures import Curve, Results
from scaling_overhead import overhead_runs, whole_slice_plan

from tomoscribe.engine import Bundle, ClassMap, LabelClass, ModelSpecification, Segmenter, open_tomogram
from tomoscribe.engine.backends import choose_backend
from tomoscribe.engine.backends.contract import Backend, SlotShape
from tomoscribe.engine.bundle import CHECKPOINT, Artifact
from tomoscribe.engine.cores import usable_cores
from tomoscribe.engine.intensity import measure_intensity
from tomoscribe.engine.outputs import OutputPaths
from tomoscribe.engine.sidecar import Sidecar
from tomoscribe.engine.stream import stream

__all__ = ["FULL", "QUICK", "Extent", "core_counts", "measure", "segment_alone", "volume_depths"]

SIDE = 512
_SCRIPT = Path(__file__).with_name("scaling.py")


@dataclass(frozen=True)
class Extent:
    """How much is measured.

    Attributes:
        rounds: of everything.
        doublings: of the smallest volume.
        tiles: sides in pixels; `SIDE` among them, for it is the work that overhead is a fraction of.
        tile_pixels: that each stream labels in a round of the tile study.
        classes: with background.
        class_side: side of a tile in that study, small because every class has a plane of logits.
        slots: numbers of slots.
        slices: of a round of the slot study, and for each core of the core study.
        bookkeeping: slots of a stream of nothing else.
    """

    rounds: int
    doublings: int
    tiles: tuple[int, ...]
    tile_pixels: int
    classes: tuple[int, ...]
    class_side: int
    slots: tuple[int, ...]
    slices: int
    bookkeeping: int


FULL = Extent(3, 4, (128, 192, 256, 384, 512, 768, 1024), 2**21, (2, 6, 16, 64, 255), 256, (1, 2, 3, 4, 5, 6), 16, 5000)
QUICK = Extent(1, 2, (128, 512), 2**19, (2, 32), 128, (1, 2, 4), 4, 2000)


def measure(bundle: Bundle, backend_name: str, extent: Extent, folder: Path) -> tuple[Results, str]:
    """Make all studies, and return what came out and what ran the model.

    Args:
        bundle: the model.
        backend_name: ``auto`` or one of the backends.
        extent: how much is measured.
        folder: where tomograms and outputs lie meanwhile.
    """
    backend, _ = choose_backend(backend_name, bundle)
    specification, default_slots = bundle.specification, backend.streams + 1
    volumes, memory = _volumes(bundle, backend_name, volume_depths(default_slots, extent.doublings), extent, folder)
    cores = _cores(bundle, backend_name, extent, folder)
    tiles = _tiles(backend, specification, extent)
    slots = _slots(backend, specification, sorted({*extent.slots, default_slots}), extent, folder)
    backend.close()
    classes = _classes(bundle, backend.name, extent, folder)
    overhead = _overhead(bundle, backend.name, extent, folder)
    work = tiles.at(SIDE) * SIDE**2
    results = Results(SIDE, volumes, memory, tiles, classes, slots, default_slots, cores, overhead, work)
    return results, backend.description


def volume_depths(slots: int, doublings: int) -> list[int]:
    """Return numbers of slices: the least power of two that fills all slots twice, and its doublings.

    With fewer, not every stream is at its peak at the same time.
    """
    smallest = 2 << (slots - 1).bit_length()
    return [smallest << doubling for doubling in range(doublings + 1)]


def core_counts(usable: int) -> list[int]:
    """Return the powers of two up to all usable cores, and those."""
    return sorted({*(1 << power for power in range(usable.bit_length())), usable})


def segment_alone(task: Mapping[str, Any]) -> None:
    """Segment one tomogram in this process, and print the time and the peak of its memory as JSON.

    The model is loaded, and has labelled a slice in every slot, before the time begins.
    """
    if task["cores"] is not None:
        os.sched_setaffinity(0, task["cores"])
    with Segmenter(task["model"], backend=task["backend"]) as segmenter:
        segmenter.segment(task["tomogram"], task["output"], z_range=(0, min(task["slices"], usable_cores() + 2)))
        start = time.perf_counter()
        segmenter.segment(task["tomogram"], task["output"], overwrite=True)
        seconds = time.perf_counter() - start
    status = Path("/proc/self/status").read_text(encoding="ascii")
    peak = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
    print(json.dumps({"peak_bytes": peak, "seconds": seconds}))


def _run_alone(
    bundle: Bundle, backend_name: str, depth: int, folder: Path, cores: Sequence[int] | None = None
) -> dict[str, float]:
    """Return what `segment_alone` says of a tomogram of so many slices, in a process of its own."""
    tomogram, output = folder / f"{depth}.mrc", folder / "labels"
    if not tomogram.exists():
        write_noise(tomogram, (depth, SIDE, SIDE))
    task = {
        "model": str(bundle.path),
        "backend": backend_name,
        "tomogram": str(tomogram),
        "slices": depth,
        "output": str(output),
        "cores": cores,
    }
    command = [sys.executable, str(_SCRIPT), "--alone", json.dumps(task)]
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)  # noqa: S603
    shutil.rmtree(output)
    return dict(json.loads(answer.stdout))


def _volumes(
    bundle: Bundle, backend_name: str, depths: Iterable[int], extent: Extent, folder: Path
) -> tuple[Curve, Curve]:
    peaks: dict[int, list[float]] = {depth: [] for depth in depths}

    def run(depth: int) -> float:
        figures = _run_alone(bundle, backend_name, depth, folder)
        peaks[depth].append(figures["peak_bytes"])
        return figures["seconds"]

    return _curve(peaks, run, extent.rounds), Curve.of(peaks)


def _cores(bundle: Bundle, backend_name: str, extent: Extent, folder: Path) -> Curve:
    usable = sorted(os.sched_getaffinity(0))[: usable_cores()]

    def run(count: int) -> float:
        depth = extent.slices * count
        return _run_alone(bundle, backend_name, depth, folder, usable[:count])["seconds"] / depth

    return _curve(core_counts(len(usable)), run, extent.rounds)


def _tiles(backend: Backend, specification: ModelSpecification, extent: Extent) -> Curve:
    return _curve(
        extent.tiles,
        lambda side: _seconds_per_pixel(backend, specification, side, -(-extent.tile_pixels // side**2)),
        extent.rounds,
    )


def _classes(bundle: Bundle, backend_name: str, extent: Extent, folder: Path) -> Curve:
    side, pixels = extent.class_side, extent.tile_pixels // 4
    backends: dict[int, tuple[Backend, ModelSpecification]] = {}
    for classes in extent.classes:
        random = random_bundle(bundle, folder / f"{classes} classes", classes=classes)
        backends[classes] = choose_backend(backend_name, random, precision="fp32")[0], random.specification

    def run(classes: int) -> float:
        return _seconds_per_pixel(*backends[classes], side, -(-pixels // side**2))

    curve = _curve(backends, run, extent.rounds)
    for backend, _ in backends.values():
        backend.close()
    return curve


def _slots(
    backend: Backend, specification: ModelSpecification, counts: Iterable[int], extent: Extent, folder: Path
) -> Curve:
    path = write_noise(folder / "slots.mrc", (extent.slices, SIDE, SIDE))
    keep = specification.class_map.classes
    paths = OutputPaths.of(path, folder, keep)

    def run(count: int) -> float:
        with open_tomogram(path) as tomogram:
            sidecar = Sidecar(paths.sidecar, specification.class_map, keep, {})
            times = stream(
                tomogram,
                backend,
                whole_slice_plan(SIDE),
                measure_intensity(tomogram),
                paths.open_sinks(tomogram.geometry, specification, keep, sidecar),
                context=specification.context,
                classes=specification.classes,
                batch=1,
                slots=count,
            )
        return (times.total - times.allocate) / extent.slices

    return _curve(counts, run, extent.rounds)


def _overhead(bundle: Bundle, backend_name: str, extent: Extent, folder: Path) -> dict[str, float]:
    specification = bundle.specification
    tiny = random_bundle(bundle, folder / "tiny", classes=specification.classes, depth=1, base_width=1)
    backend, _ = choose_backend(backend_name, tiny, precision="fp32")
    runs = overhead_runs(specification, backend, SIDE, extent.bookkeeping)
    figures = interleaved(runs, 2 * extent.rounds + 1)
    backend.close()
    return {name: median(rounds) for name, rounds in figures.items()}


def random_bundle(bundle: Bundle, folder: Path, **changes: int) -> Bundle:
    """Return a bundle of a U-Net like another's but for what is changed, with random weights, in FP32."""
    import torch

    from tomoscribe.export.graph import to_onnx
    from tomoscribe.train.checkpoint import load_checkpoint
    from tomoscribe.train.unet import UNet

    torch.manual_seed(0)
    trained = load_checkpoint(bundle.artifact_path(CHECKPOINT)).network.configuration
    configuration = replace(trained, **changes)
    class_map = ClassMap(
        tuple(LabelClass(number, f"class {number}", (128, 128, 128)) for number in range(1, configuration.classes))
    )
    specification = replace(
        bundle.specification,
        class_map=class_map,
        tile_multiple=configuration.tile_multiple,
        halo=configuration.halo,
    )
    folder.mkdir()
    path = folder / "model.fp32.onnx"
    path.write_bytes(to_onnx(UNet(configuration).eval(), specification).SerializeToString())
    random = Bundle(folder, specification, {"fp32": Artifact.of(path)})
    random.write()
    return random


def _seconds_per_pixel(backend: Backend, specification: ModelSpecification, side: int, tiles: int) -> float:
    """Return how long the bare backend takes for a pixel, each of its streams labelling so many tiles."""
    slots = backend.allocate(
        SlotShape(1, specification.context, side, side, specification.classes), backend.streams + 1
    )
    generator = np.random.default_rng(0)
    for slot in slots:
        slot.count = 1
        slot.slices[:] = generator.standard_normal(slot.slices.shape, np.float32)
    keep_busy(backend, slots, backend.streams)
    start = time.perf_counter()
    keep_busy(backend, slots, tiles * backend.streams)
    return (time.perf_counter() - start) / (tiles * backend.streams * side**2)


def _curve(sizes: Iterable[int], run: Callable[[int], float], rounds: int) -> Curve:
    """Return the curve of what `run` says of every size, in rounds that take turns."""
    figures = interleaved({str(size): partial(run, size) for size in sizes}, rounds)
    return Curve.of({int(size): values for size, values in figures.items()})

"""Whole volumes with tomoscribe: from file to files, from file to memory, the bare backend; and what the bus costs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gpu_child import Note, in_turns
from gpu_setup import network_folder, noise
from measuring import keep_busy
from numpy.typing import NDArray

from tomoscribe.engine import Recorder, Segmenter, Tomogram, open_tomogram
from tomoscribe.engine.backends import Backend, SlotShape
from tomoscribe.engine.backends.device_group import slots_to_fill
from tomoscribe.engine.intensity import measure_intensity
from tomoscribe.engine.slot_sizes import plan_batch, plan_tiles
from tomoscribe.engine.stream import stream
from tomoscribe.engine.tiles import TilePlan

__all__ = ["bus", "volume"]

RAW = ("int8", "int16", "float16")
_BUS_BYTES = 2**28
_BUS_ROUNDS = 10


class Subject(Segmenter):
    """A segmenter whose backend can be used without it."""

    @property
    def runtime(self) -> Backend:
        """What runs the model."""
        return self._backend


class Nowhere:
    """A sink that keeps nothing."""

    path = Path("nowhere")

    def write(self, start: int, labels: NDArray[np.uint8], scores: NDArray[np.uint8]) -> None:
        """Take a run of slices."""

    def prepare(self) -> None:
        """Have nothing to complete."""

    commit = abort = prepare


@dataclass(frozen=True)
class Sizes:
    """How `segment` cuts a tomogram for a backend."""

    plan: TilePlan
    shape: SlotShape
    slots: int
    depth: int

    @classmethod
    def of(cls, subject: Subject, tomogram: Tomogram, dtype: str) -> Sizes:
        """Return them for slices that are handed over in a dtype."""
        specification, limits = subject.bundle.specification, subject.runtime.limits
        plan = plan_tiles(tomogram.shape[1:], specification, limits)
        classes, depth = specification.classes, tomogram.shape[0]
        batch = min(plan_batch(plan.tile_shape, classes, limits), depth)
        kept = tuple(range(1, classes))
        shape = SlotShape(batch, specification.context, *plan.tile_shape, classes, dtype, kept)
        return cls(plan, shape, min(slots_to_fill(subject.runtime), -(-depth // batch) * len(plan.tiles)), depth)

    @property
    def jobs(self) -> float:
        """Slotfuls that the tomogram has."""
        return self.depth / self.shape.batch * len(self.plan.tiles)


def volume(
    note: Note,
    work: Path,
    *,
    backend: str,
    precision: str,
    device: str,
    shape: Sequence[int],
    width: int,
    rounds: int,
    library: str | None = None,
    graphs: bool = True,
) -> None:
    """Time a volume of float32 in three ways, in turns.

    Args:
        note: is told what was found.
        work: folder of networks and tomograms.
        backend: of tomoscribe.
        precision: of the backend.
        device: as ``--device`` has it.
        shape: of the volume, ``(z, y, x)``.
        width: base width of the network.
        rounds: how often.
        library: which calls CUDA's driver; tomoscribe's choice if None.
        graphs: whether that library's CUDA graphs may be used.
    """
    _restrict(library, graphs)
    path, output = noise(work, shape), work / "labels"
    with _timed(note, "load"):
        subject = Subject(network_folder(work, width), backend=backend, precision=precision, device=device)
    with subject, open_tomogram(path) as tomogram:
        note(kind="subject", backend=subject.backend)
        sizes = Sizes.of(subject, tomogram, "float32")
        with _timed(note, "first"):  # a plan may be built
            subject.runtime.allocate(sizes.shape, sizes.slots)
        note(kind="slots", batch=sizes.shape.batch, tiles=len(sizes.plan.tiles), slots=sizes.slots)

        def file_to_files() -> float:
            recorder = Recorder()
            result = subject.segment(path, output, overwrite=True, recorder=recorder)
            assert result.profile is not None
            note(kind="profile", profile=result.profile.to_json())
            return result.seconds

        runs: dict[str, Callable[[], float]] = {
            "bare": lambda: bare(subject.runtime, sizes),
            "memory": lambda: to_memory(subject, tomogram, sizes),
            "files": file_to_files,
        }
        for run in runs.values():  # once before it counts
            run()
        in_turns(note, runs, rounds)


def bus(
    note: Note,
    work: Path,
    *,
    backend: str,
    precision: str,
    device: str,
    shape: Sequence[int],
    width: int,
    rounds: int,
) -> None:
    """Measure the bus, and time volumes of other types that cross it as they are stored, and as float32.

    Args:
        note: is told what was found.
        work: folder of networks and tomograms.
        backend: of tomoscribe.
        precision: of the backend.
        device: as ``--device`` has it.
        shape: of the volumes, ``(z, y, x)``.
        width: base width of the network.
        rounds: how often.
    """
    if device != "cpu":
        for direction, speed in bandwidths(int(device)).items():
            note(kind="bandwidth", direction=direction, bytes_per_second=speed)
    with Subject(network_folder(work, width), backend=backend, precision=precision, device=device) as subject:
        for dtype in RAW:
            with open_tomogram(noise(work, shape, dtype)) as tomogram:
                runs = {}
                for crossing in dict.fromkeys((dtype, "float32")):
                    if crossing in subject.runtime.limits.dtypes:
                        sizes = Sizes.of(subject, tomogram, crossing)
                        runs[f"{dtype} as {crossing}"] = lambda sizes=sizes, tomogram=tomogram: to_memory(
                            subject, tomogram, sizes
                        )
                for run in runs.values():
                    run()
                in_turns(note, runs, rounds)


def bare(backend: Backend, sizes: Sizes) -> float:
    """Return the seconds that a backend takes for a tomogram's slices where they lie in its slots."""
    slots = backend.allocate(sizes.shape, sizes.slots)
    random = np.random.default_rng(0)
    for slot in slots:
        slot.count = sizes.shape.batch
        slot.mean[:], slot.rstd[:] = 0, 1 / 20
        image = 20 * random.standard_normal(slot.slices.shape[1:], np.float32)
        slot.slices[:] = image.astype(slot.slices.dtype)
    count = max(round(sizes.jobs), 1)
    start = time.perf_counter()
    keep_busy(backend, slots, count)
    # The last slotful of a tomogram is often not full.
    return (time.perf_counter() - start) * sizes.jobs / count


def to_memory(subject: Subject, tomogram: Tomogram, sizes: Sizes) -> float:
    """Return the seconds that a tomogram takes whose labels are not written, once there are slots for it."""
    specification = subject.bundle.specification
    start = time.perf_counter()
    times = stream(
        tomogram,
        subject.runtime,
        sizes.plan,
        measure_intensity(tomogram),
        [Nowhere()],
        context=specification.context,
        classes=specification.classes,
        batch=sizes.shape.batch,
        slots=sizes.slots,
        dtype=sizes.shape.dtype,
        kept=sizes.shape.kept,
    )
    return time.perf_counter() - start - times.allocate


def bandwidths(index: int) -> dict[str, float]:
    """Return bytes a second of copies between page-locked memory and a GPU: ``upload`` and ``download``."""
    from tomoscribe.engine.cuda import Device, load_driver

    speeds = {}
    with Device(load_driver(), index) as device:
        array, buffer, lane = device.pinned((_BUS_BYTES,), np.uint8), device.buffer(_BUS_BYTES), device.stream()
        start, stop = device.event(timed=True), device.event(timed=True)
        array[:] = 1
        copies = {"upload": lambda: lane.upload(buffer, array), "download": lambda: lane.download(array, buffer)}
        for direction, copy in copies.items():
            copy()
            start.record(lane)
            for _ in range(_BUS_ROUNDS):
                copy()
            stop.record(lane)
            stop.synchronize()
            speeds[direction] = _BUS_ROUNDS * _BUS_BYTES / stop.milliseconds_since(start) * 1000
    return speeds


def _restrict(library: str | None, graphs: bool) -> None:
    """Have this process do without a library that calls CUDA's driver, or without graphs."""
    others = {"pycuda": "cuda.bindings", "cuda.bindings": "pycuda"}
    if library is not None:
        sys.modules[others[library]] = None  # type: ignore[assignment] - which makes importing it an ImportError
    if not graphs:
        from tomoscribe.engine.cuda.bindings import CudaBindingsDriver

        CudaBindingsDriver.has_graphs = False


@contextmanager
def _timed(note: Note, name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    note(kind="seconds", name=name, seconds=time.perf_counter() - start)

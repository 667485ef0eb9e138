"""A line of fakes: a tomogram without a file, a backend that counts, a sink that keeps all; small volumes."""

from __future__ import annotations

import runpy
import threading
from collections import Counter
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import mrcfile
import numpy as np
import pytest

from tomoscribe.engine.backends.contract import Slot, SlotLimits
from tomoscribe.engine.errors import ParameterError
from tomoscribe.engine.intensity import IntensityStatistics, intensity_of
from tomoscribe.engine.stream import stream
from tomoscribe.engine.tiles import TilePlan
from tomoscribe.engine.tomogram.contract import Geometry, Tomogram

CLASSES = 3
# Powers of two, so that normalised values are exact.
STATISTICS = IntensityStatistics(16.0, 0.5)
VOLUME_SHAPE = (7, 45, 38)
SIMULATION = runpy.run_path(str(Path(__file__).parent / "cuda" / "simulation.py"))


class ArrayTomogram(Tomogram):
    """Values in memory; `before_read(start, out)` may be replaced to watch or to disturb the reads."""

    def __init__(self, values):
        self.path = Path("volume.mrc")
        self.values = values
        self.dtype = values.dtype
        self.geometry = Geometry(values.shape)
        self.warnings = ()
        self.before_read = lambda start, out: None

    def read_slices(self, start, out):
        self.before_read(start, out)
        if not 0 <= start < start + len(out) <= len(self.values) or out.shape[1:] != self.values.shape[1:]:
            raise ParameterError(f"read {out.shape} from {start} of {self.values.shape}")
        out[:] = self.values[start : start + len(out)]

    def close(self):
        pass


def label(slices, mean, rstd, context):
    """What the fake backend makes of ``(n + 2k, h, w)``: every context slice counts, each with its own weight."""
    normalised = (slices - mean[:, None, None]) * rstd[:, None, None]
    number = len(slices) - 2 * context
    summed = sum((3 * j + 1) * normalised[j : j + number] for j in range(2 * context + 1))
    return (summed.astype(np.int64) % 251).astype(np.uint8)


def scores_of(labels):
    return np.stack([labels // (c + 1) for c in range(CLASSES)], axis=1)


def reference(values, context, invert=False):
    """The labels of every slice, by a loop over z."""
    labels = []
    for z in range(len(values)):
        around = [values[min(max(z + j, 0), len(values) - 1)] for j in range(-context, context + 1)]
        mean, rstd = STATISTICS.mean_and_rstd(len(around), invert)
        labels.append(label(np.stack(around).astype(np.float32), mean, rstd, context)[0])
    return np.stack(labels)


class FakeBackend:
    """Works on a slot when it is waited for, and minds that slots are used in turn.

    `trouble` holds what is called before a method does its work, by the method's name.
    """

    name = "fake"
    description = "numpy"
    streams = 2
    limits = SlotLimits(960**2, 2**18, ("float32", "float16", "int16", "int8"))

    def __init__(self, trouble=None):
        self.trouble = trouble or {}
        self.calls = Counter()
        self.cancelled = threading.Event()
        self.flying = []
        self.most_flying = 0

    def _enter(self, method):
        self.calls[method] += 1
        self.trouble.get(method, lambda: None)()

    def allocate(self, shape, count):
        self._enter("allocate")
        self.shape = shape
        inputs, tile = shape.batch + 2 * shape.context, (shape.height, shape.width)
        self.slots = [
            Slot(
                np.full((inputs, *tile), np.nan if "float" in shape.dtype else 99, shape.dtype),
                np.full(inputs, np.nan, np.float32),
                np.full(inputs, np.nan, np.float32),
                np.zeros((shape.batch, *tile), np.uint8),
                np.zeros((shape.batch, shape.classes, *tile), np.uint8),
            )
            for _ in range(count)
        ]
        return self.slots

    def submit(self, slot):
        self._enter("submit")
        assert not any(slot is other for other in self.flying), "submitted twice"
        assert np.isfinite(slot.slices).all(), "not finite in a part that a backend may compute"
        slot.labels[:] = slot.scores[:] = 255
        self.flying.append(slot)
        self.most_flying = max(self.most_flying, len(self.flying))

    def wait(self, slot):
        self._enter("wait")
        assert slot is self.flying[0], "waited for out of turn"
        used = slot.count + 2 * self.shape.context
        labels = label(slot.slices[:used], slot.mean[:used], slot.rstd[:used], self.shape.context)
        slot.labels[: slot.count] = labels
        slot.scores[: slot.count] = scores_of(labels)
        self.flying.pop(0)

    def cancel(self):
        self.calls["cancel"] += 1
        self.cancelled.set()

    def close(self):
        self.calls["close"] += 1


class RecordingSink:
    """Keeps what it is given; `trouble` as in `FakeBackend`."""

    def __init__(self, shape, trouble=None, log=None):
        self.trouble = trouble or {}
        self.log = log if log is not None else []
        self.labels = np.full(shape, 255, np.uint8)
        self.scores = np.full((shape[0], CLASSES, *shape[1:]), 255, np.uint8)
        self.written = 0
        self.calls = Counter()

    def _enter(self, method):
        self.calls[method] += 1
        self.log.append((method, self))
        self.trouble.get(method, lambda: None)()

    def write(self, start, labels, scores):
        self._enter("write")
        assert not self.calls["abort"], "written after it was aborted"
        self.last = labels, scores
        self.starts = [*getattr(self, "starts", []), start]
        self.labels[start : start + len(labels)] = labels
        self.scores[start : start + len(scores)] = scores
        self.written += len(labels)

    def prepare(self):
        self._enter("prepare")

    def commit(self):
        self._enter("commit")

    def abort(self):
        self._enter("abort")


def raises(error, at=0):
    """Return a function that raises at its n-th call."""
    calls = count()

    def act():
        if next(calls) == at:
            raise error

    return act


def volume(depth=7, height=10, width=12, dtype=np.float32):
    return np.random.default_rng(0).integers(0, 100, (depth, height, width)).astype(dtype)


def plan_for(values, largest=64, multiple=2):
    return TilePlan.for_slice(values.shape[1:], multiple=multiple, halo=2, pixels=largest**2)


def run(tomogram, backend, plan, sinks, **options):
    arguments = {"context": 1, "classes": CLASSES, "batch": 2} | options
    return stream(tomogram, backend, plan, STATISTICS, sinks, **arguments)


@pytest.fixture(scope="session")
def array_tomogram():
    """The class `ArrayTomogram`, to be called with ``(z, y, x)`` values."""
    return ArrayTomogram


@pytest.fixture(scope="session")
def fakes():
    """Fake stages, and what runs a stream of them."""
    return SimpleNamespace(
        Tomogram=ArrayTomogram,
        Backend=FakeBackend,
        Sink=RecordingSink,
        volume=volume,
        plan_for=plan_for,
        reference=reference,
        scores_of=scores_of,
        raises=raises,
        run=run,
    )


def write_tomogram(path, values, voxel_size=10.0):
    with mrcfile.new(path) as file:
        file.set_data(values)
        file.set_volume()
        file.voxel_size = voxel_size
        file.header.origin = (1.5, -2.0, 30.25)
        file.header.nxstart, file.header.nystart, file.header.nzstart = -4, 5, 6
        file.header.nversion = 20141
    return path


def make_values(shape=VOLUME_SHAPE, seed=3):
    values = np.random.default_rng(seed).normal(0, 1, shape)
    values[:, 10:30, 5:20] -= 3
    values[2:5, 32:40, 25:33] += 4
    return (1000 + 50 * values).astype(np.float32)


def expected_labels(values, invert=False):
    """What the tiny bundle gives, slice by slice, edge slices repeated."""
    statistics = intensity_of(values)
    mean, rstd = np.float32(statistics.mean), np.float32(1 / statistics.standard_deviation)
    normalised = (values - mean) * (-rstd if invert else rstd)
    padded = np.concatenate([normalised[:1], normalised, normalised[-1:]])
    total = padded[:-2] + padded[1:-1] + padded[2:]
    return np.where(total < np.float32(-1.5), 1, np.where(total > np.float32(1.5), 2, 0)).astype(np.int8)


def read_volume(path):
    with mrcfile.open(path) as file:
        return file.data.copy()


def damage(path, z, value):
    """Write a value that mrcfile would warn of."""
    with path.open("r+b") as file:
        file.seek(1024 + z * VOLUME_SHAPE[1] * VOLUME_SHAPE[2] * 4)
        file.write(np.float32(value).tobytes())


@pytest.fixture(scope="session")
def volumes():
    """Small tomograms as files, and what the tiny bundle makes of them."""
    return SimpleNamespace(
        shape=VOLUME_SHAPE,
        write=write_tomogram,
        values=make_values,
        expected_labels=expected_labels,
        read=read_volume,
        damage=damage,
    )


@pytest.fixture
def no_thread_is_left():
    """Fails a test that ends with more threads than it began with."""
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


@pytest.fixture
def simulator():
    """CUDA's driver, without a device."""
    return SIMULATION["Simulator"]()


@pytest.fixture
def simulate(simulator, monkeypatch):
    """Put a library that calls CUDA's driver on the simulator, the only one that is installed; return its adapter."""
    return lambda library: SIMULATION["install"](library, simulator, monkeypatch)


@pytest.fixture(params=SIMULATION["LIBRARIES"])
def driver(request, simulate):
    """Each library's adapter, on the simulator."""
    return simulate(request.param)

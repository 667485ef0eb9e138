"""What `gpu.py` does on a GPU alone, on the simulation of CUDA's driver: raw dtypes, the bus, libraries, graphs."""

from __future__ import annotations

import runpy
import shutil
import sys
from importlib import import_module
from pathlib import Path

import pytest

from tomoscribe.engine import open_tomogram
from tomoscribe.engine.backends import GPU_BACKENDS
from tomoscribe.engine.backends.gpu_backend import GpuBackend

REPOSITORY = Path(__file__).resolve().parents[2]
SIMULATION = runpy.run_path(str(REPOSITORY / "tests" / "engine" / "cuda" / "simulation.py"))
SHAPE = (11, 32, 40)


class Idle(GpuBackend):
    """A backend that computes nothing."""

    name = "onnxruntime-cuda"
    _title_and_version = "Idle 1.0"

    def __init__(self, bundle, simulator, **how):
        self._simulator = simulator
        super().__init__(bundle, how["device"], how["precision"], how["streams"])

    def _open(self, shape, lanes):
        pass

    def _enqueue(self, lane, count):
        self._simulator.work(lane.stream.handle, lambda: None, lane.addresses.values())

    def _release(self):
        pass


@pytest.fixture
def script(monkeypatch):
    """Import a script as it imports others: from its own folder."""
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    return import_module


@pytest.fixture
def simulator(monkeypatch):
    simulator = SIMULATION["Simulator"]()
    simulator.capacity = 2**28
    SIMULATION["install"]("cuda.bindings", simulator, monkeypatch)
    monkeypatch.setitem(GPU_BACKENDS, Idle.name, lambda bundle, *, building, **how: Idle(bundle, simulator, **how))
    return simulator


@pytest.fixture
def work(tmp_path, tiny_bundle):
    """A folder with the tiny bundle in place of a network of base width 4."""
    shutil.copytree(tiny_bundle, tmp_path / "unet-4")
    return tmp_path


@pytest.fixture
def study(script, work):
    """Do a study on the simulated GPU, and return what it noted."""

    def study(module, name, **arguments):
        notes = []
        options = {"backend": Idle.name, "precision": "fp32", "device": "0", "shape": SHAPE, "width": 4, "rounds": 2}
        getattr(script(module), name)(lambda **note: notes.append(note), work, **options, **arguments)
        return notes

    return study


def seconds(notes):
    return [note["name"] for note in notes if note["kind"] == "seconds"]


def test_a_volume_is_timed_in_turns(study, simulator):
    notes = study("gpu_volume", "volume")
    assert seconds(notes) == ["load", "first", "bare", "memory", "files", "memory", "files", "bare"]
    (subject,) = (note for note in notes if note["kind"] == "subject")
    assert subject["backend"] == "Idle 1.0 on GPU 0, Simulated A, FP32"
    (slots,) = (note for note in notes if note["kind"] == "slots")
    assert slots["batch"] == SHAPE[0]
    assert notes[-2]["name"] == "files"
    assert {note["kind"] for note in notes} == {"seconds", "subject", "slots", "profile"}
    assert simulator.device_memory == {}


def test_slices_cross_the_bus_as_they_are_stored_and_as_float32(study, simulator, script, monkeypatch):
    volume, crossed = script("gpu_volume"), []
    monkeypatch.setattr(volume, "_BUS_BYTES", 4000)
    to_memory = volume.to_memory

    def counted(*arguments):
        taken = to_memory(*arguments)
        simulator.copied.clear()
        to_memory(*arguments)  # now there are slots for it
        crossed.append((arguments[2].shape.dtype, simulator.copied["up"]))
        return taken

    monkeypatch.setattr(volume, "to_memory", counted)
    notes = study("gpu_volume", "bus")
    # Everything in a simulated stream takes a millisecond, events too.
    speed = 10 * 4000 / 0.011
    assert [(note["direction"], note["bytes_per_second"]) for note in notes if note["kind"] == "bandwidth"] == [
        ("upload", pytest.approx(speed)),
        ("download", pytest.approx(speed)),
    ]
    for dtype in ("int8", "int16", "float16"):
        assert seconds(notes).count(f"{dtype} as {dtype}") == seconds(notes).count(f"{dtype} as float32") == 2
    pixels = (SHAPE[0] + 2) * SHAPE[1] * SHAPE[2]
    assert {(dtype, size // pixels) for dtype, size in crossed} == {
        ("int8", 1), ("int16", 2), ("float16", 2), ("float32", 4)
    }  # fmt: skip


def test_slots_are_those_of_a_segmentation(script, simulator, work, tmp_path, monkeypatch):
    volume = script("gpu_volume")
    tomogram = script("gpu_setup").noise(work, (70, 264, 256), "int16")
    with volume.Subject(work / "unet-4", backend=Idle.name, precision="fp32", device="0") as subject:
        allocated, allocate = [], subject.runtime.allocate
        monkeypatch.setattr(
            subject.runtime, "allocate", lambda *arguments: allocated.append(arguments) or allocate(*arguments)
        )
        subject.segment(tomogram, tmp_path / "labels")
        with open_tomogram(tomogram) as opened:
            sizes = volume.Sizes.of(subject, opened, "int16")
    assert allocated == [(sizes.shape, sizes.slots)]
    assert 1 < sizes.shape.batch < 70
    assert sizes.jobs == pytest.approx(70 / sizes.shape.batch)


def test_a_library_can_be_done_without(script, simulator, monkeypatch):
    volume = script("gpu_volume")
    for name in ("pycuda", "cuda.bindings"):
        monkeypatch.setitem(sys.modules, name, sys.modules.get(name))
    from tomoscribe.engine.cuda import load_driver
    from tomoscribe.engine.cuda.bindings import CudaBindingsDriver

    monkeypatch.setattr(CudaBindingsDriver, "has_graphs", True)
    volume._restrict("cuda.bindings", graphs=True)
    assert load_driver().has_graphs
    volume._restrict("cuda.bindings", graphs=False)
    assert not load_driver().has_graphs
    volume._restrict("pycuda", graphs=True)
    with pytest.raises(ImportError, match=r"cuda\.bindings"):
        from cuda.bindings import driver  # noqa: F401

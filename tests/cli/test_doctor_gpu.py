"""What the doctor says of GPUs and of what drives them, on machines that the tests play."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from tomoscribe.cli.findings import State
from tomoscribe.cli.findings_gpu import find_cuda_library, find_gpus, find_tensorrt
from tomoscribe.cli.installation import Package, Part
from tomoscribe.engine.cuda import CudaError
from tomoscribe.engine.errors import BackendUnavailableError
from tomoscribe.engine.machine import Gpu, NvidiaDriver

H200 = Gpu(0, "NVIDIA H200", "9.0", 140 * 2**30, 139 * 2**30)
DRIVER = NvidiaDriver("580.65.06", "13.0", (H200,), status=0)
NO_DRIVER = NvidiaDriver(problem="nvidia-smi is not there")


@pytest.fixture
def run(tomoscribe):
    """Run `tomoscribe doctor`; gives the exit status, stdout and stderr."""
    return partial(tomoscribe, "doctor")


@pytest.fixture
def outside_containers(monkeypatch):
    for name in ("APPTAINER_NAME", "SINGULARITY_NAME", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    real = Path.exists
    hidden = ("/.dockerenv", "/run/.containerenv")
    monkeypatch.setattr(Path, "exists", lambda path: str(path) not in hidden and real(path))
    monkeypatch.setattr("shutil.which", lambda name: None)


def told(driver, devices=0):
    return {finding.name: finding for finding in find_gpus(driver, devices)}


def test_gpus_and_their_driver(outside_containers):
    findings = told(DRIVER, 1)
    assert findings["GPU 0"].text == "NVIDIA H200, 140.0 GiB, 139.0 GiB free, compute capability 9.0"
    assert findings["driver"].text == "NVIDIA 580.65.06, runs CUDA up to 13.0"
    assert {finding.state for finding in findings.values()} == {State.OK}
    bare = told(NvidiaDriver("580.65.06", None, (Gpu(1, "NVIDIA GB10", None, None, None),), status=0), 1)
    assert bare["GPU 1"].text == "NVIDIA GB10"
    assert bare["driver"].state is State.LACK


def test_no_gpu_is_no_lack(outside_containers):
    findings = told(NO_DRIVER)
    assert findings.keys() == {"GPU"}
    assert (findings["GPU"].state, findings["GPU"].fix) == (State.NOTE, None)


@pytest.mark.parametrize(
    ("driver", "devices", "fix"),
    [
        (NO_DRIVER, 2, "install NVIDIA's driver: https://"),
        (NvidiaDriver(problem="nvidia-smi says: no communication", status=9), 1, "sudo modprobe nvidia"),
        (NvidiaDriver(problem="nvidia-smi says: mismatch", status=18), 1, "sudo reboot"),
        (NvidiaDriver(problem="nvidia-smi did not answer within 10 s"), 1, "sudo reboot"),
        (NvidiaDriver(problem="nvidia-smi says: nothing", status=1), 0, "install NVIDIA's driver: https://"),
    ],
)
def test_a_driver_that_does_not_answer_is_a_lack(outside_containers, driver, devices, fix):
    finding = told(driver, devices)["driver"]
    assert finding.state is State.LACK
    assert driver.problem in finding.text
    assert (f"PCI bus: {devices}" in finding.text) == bool(devices)
    assert finding.fix.startswith(fix)


def test_a_container_is_given_the_gpus_of_its_host(outside_containers, monkeypatch):
    monkeypatch.setenv("APPTAINER_NAME", "image.sif")
    assert "--nv" in told(NO_DRIVER, 1)["driver"].fix
    assert told(NvidiaDriver(problem="nvidia-smi says: mismatch", status=18))["driver"].fix == "sudo reboot"
    monkeypatch.delenv("APPTAINER_NAME")
    monkeypatch.setattr(Path, "exists", lambda path: str(path) == "/.dockerenv")
    assert "--gpus all" in told(NO_DRIVER, 1)["driver"].fix
    monkeypatch.setattr(Path, "exists", lambda path: str(path) == "/run/.containerenv")
    assert "nvidia.com/gpu=all" in told(NO_DRIVER, 1)["driver"].fix


def test_ubuntu_has_a_command_for_its_driver(outside_containers, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/ubuntu-drivers" if name == "ubuntu-drivers" else None)
    assert told(NO_DRIVER, 1)["driver"].fix == "sudo ubuntu-drivers install && sudo reboot"


def test_a_choice_of_gpus_is_told(outside_containers, monkeypatch):
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        finding = told(DRIVER)["GPUs in use"]
        assert (finding.state, finding.fix) == (State.LACK, "unset CUDA_VISIBLE_DEVICES")
        assert "GPUs in use" not in told(NO_DRIVER)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,2")
    assert told(DRIVER)["GPUs in use"].state is State.NOTE


def test_tensorrt(installed, outside_containers, own_pip):
    part = Part("tensorrt", (Package("tensorrt-cu13", ">=10.13,<12", None, fits=False),))
    installed()
    assert find_tensorrt(NO_DRIVER, part).state is State.NOTE
    finding = find_tensorrt(DRIVER, part)
    assert (finding.state, finding.fix) == (State.LACK, 'pip install "tomoscribe[tensorrt]"')
    assert find_tensorrt(DRIVER, None).fix is None

    installed(tensorrt_cu13="10.16.1")
    there = Part("tensorrt", (Package("tensorrt-cu13", ">=10.13,<12", "10.16.1", fits=True),))
    assert (find_tensorrt(DRIVER, there).state, find_tensorrt(DRIVER, there).text) == (
        State.OK,
        "tensorrt-cu13 10.16.1",
    )
    assert find_tensorrt(NO_DRIVER, there).state is State.OK
    finding = find_tensorrt(NvidiaDriver("550.1", "12.4", (H200,), status=0), there)
    assert finding.state is State.LACK
    assert "needs a driver for CUDA 13; this one runs CUDA up to 12.4" in finding.text

    installed(tensorrt_cu13="12.0")
    new = Part("tensorrt", (Package("tensorrt-cu13", ">=10.13,<12", "12.0", fits=False),))
    finding = find_tensorrt(DRIVER, new)
    assert (finding.state, finding.fix) == (State.LACK, 'pip install "tomoscribe[tensorrt]"')


def load(library, count):
    def load_driver():
        if isinstance(library, Exception):
            raise library
        return SimpleNamespace(name=library, count_devices=lambda: count)

    return load_driver


NOTHING = BackendUnavailableError("expected a library that calls CUDA's driver, found none: pycuda: …")
EXTRA = Part("tensorrt", (Package("cuda-bindings", ">=12.9,<14", None, fits=False),))


@pytest.mark.parametrize(
    ("packages", "library", "count", "state", "text"),
    [
        ({}, "pycuda 2026.1", 2, State.OK, "pycuda 2026.1 is used, which finds 2 GPUs"),
        ({"cuda_bindings": "13.1"}, "cuda.bindings 13.1", 1, State.OK, "cuda.bindings 13.1 is used, which finds 1 GPU"),
        ({}, "cuda.bindings 13.1", 0, State.LACK, "cuda.bindings 13.1 is used, which finds 0 GPUs"),
        ({}, NOTHING, 0, State.LACK, str(NOTHING)),
        ({}, CudaError("cuDeviceGetCount: broken"), 0, State.LACK, "cuDeviceGetCount: broken"),
    ],
)
def test_which_cuda_library_is_used(installed, own_pip, monkeypatch, packages, library, count, state, text):
    installed(**packages)
    monkeypatch.setattr("tomoscribe.engine.cuda.load_driver", load(library, count))
    finding = find_cuda_library(DRIVER, EXTRA)
    assert (finding.state, finding.text) == (state, text)
    assert finding.facts["devices"] == count
    assert (finding.fix is not None) == isinstance(library, Exception)
    assert finding.facts["packages"] == {name.replace("_", "-"): version for name, version in packages.items()}


def test_without_a_gpu_no_cuda_library_is_needed(installed, monkeypatch):
    monkeypatch.setattr("tomoscribe.engine.cuda.load_driver", load(NOTHING, 0))
    installed()
    finding = find_cuda_library(NO_DRIVER, EXTRA)
    assert (finding.state, finding.fix) == (State.NOTE, None)
    assert finding.text == "not installed; of use with an NVIDIA GPU only"
    installed(pycuda="2026.1", cuda_bindings="13.1")
    assert find_cuda_library(NO_DRIVER, EXTRA).text.startswith("pycuda 2026.1, cuda-bindings 13.1; of use")
    # A library that is there, but not NVIDIA's driver, is not mended by installing it.
    assert find_cuda_library(DRIVER, EXTRA).fix is None
    # nvidia-smi may be absent where the driver is not.
    monkeypatch.setattr("tomoscribe.engine.cuda.load_driver", load("pycuda 2026.1", 1))
    assert find_cuda_library(NO_DRIVER, EXTRA).state is State.OK


def test_on_a_gpu_backends_are_loaded_only(run, monkeypatch):
    from tomoscribe.engine.backends import GPU_BACKENDS

    closed = []

    def loads(bundle, **how):
        backend = SimpleNamespace(name="tensorrt", description="TensorRT 10.16 on GPU 0, NVIDIA H200, FP16")
        backend.close = lambda: closed.append(how)
        return backend

    def cannot_run(bundle, **how):
        raise BackendUnavailableError("onnxruntime-cuda: no such provider")

    monkeypatch.setitem(GPU_BACKENDS, "tensorrt", loads)
    monkeypatch.setitem(GPU_BACKENDS, "onnxruntime-cuda", cannot_run)
    monkeypatch.setattr("tomoscribe.engine.backends.gpu_choice.find_nvidia_devices", lambda: 1)
    monkeypatch.setattr("tomoscribe.engine.cuda.load_driver", load("pycuda 2026.1", 1))
    status, out, _ = run()
    assert status == 0
    assert re.search(r"^  ok +tensorrt +TensorRT 10\.16 on GPU 0, NVIDIA H200, FP16$", out, re.MULTILINE)
    assert re.search(r"^  note  onnxruntime-cuda +onnxruntime-cuda: no such provider$", out, re.MULTILINE)
    assert re.search(r"^  ok +CUDA library +pycuda 2026\.1 is used, which finds 1 GPU$", out, re.MULTILINE)
    assert [how["precision"] for how in closed] == ["fp16"]


def test_a_whole_machine_with_a_gpu(run, monkeypatch, outside_containers):
    monkeypatch.setattr("tomoscribe.engine.machine.read_driver", lambda: DRIVER)
    monkeypatch.setattr("tomoscribe.engine.machine.find_nvidia_devices", lambda: 1)
    status, out, _ = run()
    assert status == 0
    assert re.search(r"^  ok +GPU 0 +NVIDIA H200", out, re.MULTILINE)
    assert re.search(r"^  lack  TensorRT +not installed", out, re.MULTILINE)

"""What ``tomoscribe doctor`` looks at on a GPU's account: NVIDIA's driver, CUDA, TensorRT."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tomoscribe.cli.findings import Finding, State
from tomoscribe.cli.installation import Part, install_command, installed_version, tensorrt_versions
from tomoscribe.cli.page import binary_size

if TYPE_CHECKING:
    from tomoscribe.engine.machine import NvidiaDriver

__all__ = ["find_cuda_library", "find_gpus", "find_tensorrt"]

_DRIVER_GUIDE = "https://docs.nvidia.com/datacenter/tesla/driver-installation-guide/"
# In the order in which they are tried.
_CUDA_LIBRARIES = ("pycuda", "cuda-bindings")
# Return values of nvidia-smi (its manual; 18 is NVML_ERROR_LIB_RM_VERSION_MISMATCH).
_NOT_LOADED, _INACCESSIBLE, _VERSIONS_DIFFER = 9, 15, 18


def find_gpus(driver: NvidiaDriver, devices: int) -> Iterator[Finding]:
    """Yield what there is to say of the GPUs and their driver.

    Args:
        driver: what the driver says.
        devices: NVIDIA GPUs on the PCI bus.
    """
    for gpu in driver.gpus:
        parts = [gpu.name]
        if gpu.memory is not None:
            parts.append(f"{binary_size(gpu.memory)}" + (f", {binary_size(gpu.free)} free" if gpu.free else ""))
        if gpu.compute_capability is not None:
            parts.append(f"compute capability {gpu.compute_capability}")
        yield Finding(f"GPU {gpu.index}", State.OK, ", ".join(parts), facts=vars(gpu))
    yield from _visible(driver)
    facts: dict[str, Any] = {"version": driver.version, "cuda": driver.cuda}
    if driver.problem is None:
        cuda = "CUDA's library cannot be loaded" if driver.cuda is None else f"runs CUDA up to {driver.cuda}"
        state = State.LACK if driver.cuda is None else State.OK
        fix = (_container_fix() or _driver_fix()) if driver.cuda is None else None
        yield Finding("driver", state, f"NVIDIA {driver.version}, {cuda}", fix, facts)
    elif driver.status is None and not devices and "not there" in driver.problem:
        yield Finding("GPU", State.NOTE, "no NVIDIA GPU found; models run on the CPU", facts=facts)
    else:
        on_bus = f"; NVIDIA GPUs on the PCI bus: {devices}" if devices else ""
        yield Finding("driver", State.LACK, driver.problem + on_bus, _fix(driver), facts)


def find_cuda_library(driver: NvidiaDriver, part: Part | None) -> Finding:
    """Say which of the libraries that call CUDA's driver is used, by every backend on a GPU.

    Args:
        driver: what the driver says.
        part: tomoscribe's extra that brings one, where there is one.
    """
    from tomoscribe.engine.cuda import load_driver
    from tomoscribe.engine.errors import TomoscribeError

    name = "CUDA library"
    found = {package: version for package in _CUDA_LIBRARIES if (version := installed_version(package)) is not None}
    facts: dict[str, Any] = {"packages": found, "library": None, "devices": 0}
    problem = None
    try:
        library = load_driver()
        facts.update(library=library.name, devices=library.count_devices())
    except TomoscribeError as error:
        problem = str(error)
    count = facts["devices"]
    if not count and not driver.gpus:
        there = ", ".join(f"{package} {version}" for package, version in found.items()) or "not installed"
        return Finding(name, State.NOTE, f"{there}; of use with an NVIDIA GPU only", facts=facts)
    if problem is not None:
        fix = install_command(part) if part is not None and not found else None
        return Finding(name, State.LACK, problem, fix, facts)
    text = f"{facts['library']} is used, which finds {count} GPU{'' if count == 1 else 's'}"
    return Finding(name, State.OK if count else State.LACK, text, facts=facts)


def find_tensorrt(driver: NvidiaDriver, part: Part | None) -> Finding:
    """Say whether TensorRT is there and fits the driver.

    Args:
        driver: what the driver says.
        part: tomoscribe's extra that brings TensorRT, where there is one.
    """
    found = tensorrt_versions()
    facts: dict[str, Any] = {"packages": found}
    fix = None if part is None else install_command(part)
    if not found:
        if driver.gpus:
            return Finding("TensorRT", State.LACK, "not installed; it is the fastest on these GPUs", fix, facts)
        return Finding("TensorRT", State.NOTE, "not installed; of use with an NVIDIA GPU only", facts=facts)
    text = ", ".join(f"{name} {version}" for name, version in found.items())
    built_for = [int(match[1]) for name in found if (match := re.search(r"-cu(\d+)$", name))]
    if built_for and driver.cuda is not None and max(built_for) > int(driver.cuda.split(".")[0]):
        text += f", which needs a driver for CUDA {max(built_for)}; this one runs CUDA up to {driver.cuda}"
        return Finding("TensorRT", State.LACK, text, _driver_fix(), facts)
    if part is not None and part.missing:
        needed = ", ".join(f"{package.name}{package.wanted}" for package in part.missing)
        return Finding("TensorRT", State.LACK, f"{text}, and {needed} is needed", fix, facts)
    return Finding("TensorRT", State.OK, text, facts=facts)


def _visible(driver: NvidiaDriver) -> Iterator[Finding]:
    """Yield what a choice of GPUs does; ``nvidia-smi`` lists those that it hides too."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None or not driver.gpus:
        return
    name, facts = "GPUs in use", {"CUDA_VISIBLE_DEVICES": chosen}
    if chosen.strip() in ("", "-1"):
        text = f"none: CUDA_VISIBLE_DEVICES='{chosen}' hides them all"
        yield Finding(name, State.LACK, text, "unset CUDA_VISIBLE_DEVICES", facts)
    else:
        yield Finding(name, State.NOTE, f"those of CUDA_VISIBLE_DEVICES={chosen}", facts=facts)


def _fix(driver: NvidiaDriver) -> str:
    """Return what makes a driver answer that does not."""
    if driver.status in (_INACCESSIBLE, _VERSIONS_DIFFER) or "did not answer" in (driver.problem or ""):
        return "sudo reboot"
    inside = _container_fix()
    if inside is not None:
        return inside
    return "sudo modprobe nvidia" if driver.status == _NOT_LOADED else _driver_fix()


def _container_fix() -> str | None:
    """Return how a container is given the GPUs of its host; None outside of one."""
    if {"APPTAINER_NAME", "SINGULARITY_NAME"} & os.environ.keys():
        return "apptainer exec --nv IMAGE tomoscribe doctor"
    if Path("/run/.containerenv").exists():
        return "podman run --device nvidia.com/gpu=all IMAGE tomoscribe doctor"
    if Path("/.dockerenv").exists():
        return "docker run --gpus all IMAGE tomoscribe doctor"
    return None


def _driver_fix() -> str:
    if shutil.which("ubuntu-drivers") is not None:
        return "sudo ubuntu-drivers install && sudo reboot"
    return f"install NVIDIA's driver: {_DRIVER_GUIDE}"

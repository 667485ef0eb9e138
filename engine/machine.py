"""The machine as this process sees it: cores, memory, and what NVIDIA's driver says of its GPUs."""

from __future__ import annotations

import csv
import ctypes
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tomoscribe.engine.cgroup import read_limits
from tomoscribe.engine.cores import usable_cores

__all__ = [
    "Cores",
    "Gpu",
    "Memory",
    "NvidiaDriver",
    "find_nvidia_devices",
    "newest_cuda",
    "read_cores",
    "read_driver",
    "read_memory",
]

_FIELDS = ("index", "name", "compute_cap", "memory.total", "memory.free", "driver_version")
_PCI_NVIDIA = "0x10de"
_PCI_DISPLAY = "0x03"


@dataclass(frozen=True)
class Cores:
    """Cores of the machine, and what this process may use of them.

    Attributes:
        installed: logical processors of the machine.
        usable: how many threads the process can keep busy: its affinity, or its quota if that is less.
        quota: processor time a second that its cgroups allow, in cores; None where they set no limit.
    """

    installed: int
    usable: int
    quota: float | None


@dataclass(frozen=True)
class Memory:
    """Memory of the machine, and what this process may use of it, in bytes.

    Attributes:
        installed: of the machine; None where the system does not say.
        available: what can be had without swapping, on the whole machine; None where the system does not say.
        limit: the least of the limits of its cgroups and of ``ulimit -v``; None where nothing is set.
    """

    installed: int | None
    available: int | None
    limit: int | None

    @property
    def usable(self) -> int | None:
        """What the process may use at most."""
        return min((size for size in (self.installed, self.limit) if size is not None), default=None)


@dataclass(frozen=True)
class Gpu:
    """A GPU, as ``nvidia-smi`` lists it; None where it has no such figure.

    Attributes:
        index: its number for ``nvidia-smi``.
        name: the product.
        compute_capability: such as ``9.0``.
        memory: bytes.
        free: bytes that nobody uses now.
    """

    index: int
    name: str
    compute_capability: str | None
    memory: int | None
    free: int | None


@dataclass(frozen=True)
class NvidiaDriver:
    """What NVIDIA's driver says.

    Attributes:
        version: of the driver; None where it does not answer.
        cuda: the newest CUDA that the driver runs, such as ``13.0``.
        gpus: every GPU that it drives, those that ``CUDA_VISIBLE_DEVICES`` hides among them.
        problem: why there is no answer, in a line; None where there is one.
        status: exit status of ``nvidia-smi``; None where it is not there or did not end.
    """

    version: str | None = None
    cuda: str | None = None
    gpus: tuple[Gpu, ...] = ()
    problem: str | None = None
    status: int | None = None


def read_cores() -> Cores:
    """Return how many cores there are for this process."""
    return Cores(installed=os.cpu_count() or 1, usable=usable_cores(), quota=read_limits().cores)


def read_memory(table: Path = Path("/proc/meminfo")) -> Memory:
    """Return how much memory there is for this process.

    Args:
        table: lines such as ``MemTotal:  24684092 kB``, in kibibytes (proc(5)).
    """
    sizes: dict[str, int] = {}
    try:
        for line in table.read_text(encoding="ascii").splitlines():
            name, words = line.partition(":")[::2]
            sizes[name] = int(words.split()[0]) * 1024
    except OSError:  # not Linux
        if "SC_PHYS_PAGES" in getattr(os, "sysconf_names", ()):
            sizes["MemTotal"] = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limits = [size for size in (read_limits().memory, _address_space()) if size is not None]
    return Memory(sizes.get("MemTotal"), sizes.get("MemAvailable"), min(limits, default=None))


def read_driver(timeout: float = 10.0) -> NvidiaDriver:
    """Ask ``nvidia-smi`` for the GPUs and the driver.

    Args:
        timeout: seconds to wait for it; it can hang for ever where a GPU has failed.
    """
    command = ["nvidia-smi", f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(  # noqa: S603 - no text of a user's in it
            command, capture_output=True, text=True, errors="replace", timeout=timeout, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError:
        return NvidiaDriver(problem="nvidia-smi is not there")
    except OSError as error:
        return NvidiaDriver(problem=f"nvidia-smi cannot be started ({error.strerror})")
    except subprocess.TimeoutExpired:
        return NvidiaDriver(problem=f"nvidia-smi did not answer within {timeout:.0f} s")
    if answer.returncode:
        said = " ".join((answer.stdout or answer.stderr).split()) or "nothing"
        return NvidiaDriver(problem=f"nvidia-smi says: {said}", status=answer.returncode)
    rows = [row for row in csv.reader(answer.stdout.splitlines(), skipinitialspace=True) if len(row) == len(_FIELDS)]
    if not rows:
        return NvidiaDriver(problem="nvidia-smi lists no GPU", status=0)
    found = [dict(zip(_FIELDS, row, strict=True)) for row in rows]
    return NvidiaDriver(_known(found[0]["driver_version"]), newest_cuda(), tuple(map(_gpu, found)), status=0)


def find_nvidia_devices(devices: Path = Path("/sys/bus/pci/devices")) -> int:
    """Return how many NVIDIA GPUs are on the PCI bus, whether or not there is a driver for them.

    Args:
        devices: a folder for each device, with its vendor and class as hexadecimal numbers (Linux,
            Documentation/ABI/testing/sysfs-bus-pci).
    """
    try:
        return sum(
            _text(device / "vendor") == _PCI_NVIDIA and _text(device / "class").startswith(_PCI_DISPLAY)
            for device in devices.iterdir()
        )
    except OSError:
        return 0


def newest_cuda() -> str | None:
    """Return the newest CUDA that NVIDIA's driver runs, such as ``13.0``; None where no driver answers.

    The driver itself is asked: how ``nvidia-smi`` words it changes from version to version.
    """
    try:
        version = ctypes.c_int()
        if ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version)) != 0:
            return None
    except (OSError, AttributeError):
        return None
    # 1000 × major + 10 × minor (CUDA Driver API, cuDriverGetVersion).
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def _gpu(row: Mapping[str, str]) -> Gpu:
    return Gpu(
        index=int(row["index"]),
        name=row["name"],
        compute_capability=_known(row["compute_cap"]),
        memory=_mebibytes(row["memory.total"]),
        free=_mebibytes(row["memory.free"]),
    )


def _known(text: str) -> str | None:
    # What a GPU does not have is [N/A] or [Not Supported].
    return None if not text or text.startswith("[") else text


def _mebibytes(text: str) -> int | None:
    return int(text) * 2**20 if text.isdecimal() else None


def _address_space() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def _text(file: Path) -> str:
    return file.read_text(encoding="ascii").strip()

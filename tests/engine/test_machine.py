"""What is said of the machine, with a driver that the test plays and with the machine that runs it."""

from __future__ import annotations

import ctypes
import os
import resource
import subprocess

import pytest

from tomoscribe.engine.cgroup import Limits
from tomoscribe.engine.machine import Cores, Gpu, find_nvidia_devices, read_cores, read_driver, read_memory


@pytest.fixture
def limits(monkeypatch):
    """Set the limits of the process's groups, and no other."""

    def limits(**values):
        monkeypatch.setattr("tomoscribe.engine.machine.read_limits", lambda: Limits(**values))
        monkeypatch.setattr(resource, "getrlimit", lambda kind: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    return limits


@pytest.fixture
def nvidia_smi(monkeypatch, tmp_path):
    """Put a program of that name first on the search path, and no CUDA library anywhere."""

    def nvidia_smi(script):
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    monkeypatch.setattr(ctypes, "CDLL", no_library)
    return nvidia_smi


def no_library(name):
    raise OSError(f"{name}: cannot open shared object file")


def test_cores_are_those_installed_and_those_that_may_be_used(monkeypatch, limits):
    monkeypatch.setattr("tomoscribe.engine.machine.usable_cores", lambda: 2)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    limits(cores=2.4)
    assert read_cores() == Cores(installed=64, usable=2, quota=2.4)


def test_memory_is_what_the_system_and_the_limits_say(tmp_path, limits):
    table = tmp_path / "meminfo"
    table.write_text(
        "MemTotal:       1000 kB\nMemFree:         100 kB\nMemAvailable:    600 kB\nHugePages_Total:   3\n"
    )
    limits()
    memory = read_memory(table)
    assert (memory.installed, memory.available, memory.limit) == (1_024_000, 614_400, None)
    assert memory.usable == 1_024_000
    limits(memory=5000)
    assert read_memory(table).usable == read_memory(table).limit == 5000
    limits(memory=2**50)
    assert read_memory(table).usable == 1_024_000


def test_ulimit_is_a_limit(monkeypatch, tmp_path, limits):
    limits(memory=9000)
    monkeypatch.setattr(resource, "getrlimit", lambda kind: {resource.RLIMIT_AS: (7000, 9000)}[kind])
    assert read_memory(tmp_path / "absent").limit == 7000


def test_memory_without_the_table_is_counted_in_pages(monkeypatch, tmp_path, limits):
    limits()
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_PHYS_PAGES": 30, "SC_PAGE_SIZE": 4096}[name])
    memory = read_memory(tmp_path / "absent")
    assert (memory.installed, memory.available) == (30 * 4096, None)
    monkeypatch.setattr(os, "sysconf_names", {})
    assert read_memory(tmp_path / "absent").usable is None


def test_this_machine():
    assert 1 <= read_cores().usable <= read_cores().installed
    memory = read_memory()
    assert 2**26 < memory.available <= memory.installed == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_gpus_are_listed(nvidia_smi, monkeypatch):
    nvidia_smi(
        """[ "$1" = --query-gpu=index,name,compute_cap,memory.total,memory.free,driver_version ] || exit 2
        [ "$2" = --format=csv,noheader,nounits ] || exit 2
        echo "0, NVIDIA H200, 9.0, 143771, 143000, 580.65.06"
        echo "1, NVIDIA GB10, 12.1, [N/A], [Not Supported], 580.65.06" """
    )
    driver = read_driver()
    assert (driver.version, driver.cuda, driver.problem, driver.status) == ("580.65.06", None, None, 0)
    assert driver.gpus == (
        Gpu(0, "NVIDIA H200", "9.0", 143771 * 2**20, 143000 * 2**20),
        Gpu(1, "NVIDIA GB10", "12.1", None, None),
    )


@pytest.mark.parametrize(("number", "version"), [(13000, "13.0"), (12080, "12.8"), (11040, "11.4"), (13100, "13.10")])
def test_the_driver_names_its_newest_cuda(nvidia_smi, monkeypatch, number, version):
    class Library:
        def __init__(self, name):
            assert name == "libcuda.so.1"

        def cuDriverGetVersion(self, pointer):  # noqa: N802 - CUDA's name
            pointer._obj.value = number
            return 0

    nvidia_smi('echo "0, T4, 7.5, 15360, 15000, 580.65"')
    monkeypatch.setattr(ctypes, "CDLL", Library)
    assert read_driver().cuda == version
    monkeypatch.setattr(Library, "cuDriverGetVersion", lambda self, pointer: 3)
    assert read_driver().cuda is None


@pytest.mark.parametrize(
    ("script", "status", "problem"),
    [
        (
            "echo 'Driver/library version mismatch'; echo 'NVML 570'; exit 18",
            18,
            "says: Driver/library version mismatch",
        ),
        ("echo 'on stderr' >&2; exit 9", 9, "nvidia-smi says: on stderr"),
        ("exit 1", 1, "nvidia-smi says: nothing"),
        ("echo 'No devices were found'", 0, "nvidia-smi lists no GPU"),
    ],
)
def test_a_driver_that_fails_says_why(nvidia_smi, script, status, problem):
    nvidia_smi(script)
    driver = read_driver()
    assert (driver.status, driver.gpus, driver.version) == (status, (), None)
    assert problem in driver.problem
    assert "\n" not in driver.problem


def test_a_driver_that_hangs_is_given_up(monkeypatch):
    def hang(command, *, timeout, **options):
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", hang)
    assert read_driver(timeout=3).problem == "nvidia-smi did not answer within 3 s"


def test_without_a_driver(nvidia_smi, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert read_driver().problem == "nvidia-smi is not there"
    (tmp_path / "nvidia-smi").write_text("")
    assert read_driver().problem == "nvidia-smi cannot be started (Permission denied)"


def test_gpus_on_the_bus_are_counted(tmp_path):
    for name, vendor, kind in (
        ("0000:01:00.0", "0x10de", "0x030200"),
        ("0000:01:00.1", "0x10de", "0x040300"),
        ("0000:02:00.0", "0x10de", "0x030000"),
        ("0000:03:00.0", "0x1002", "0x030000"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "vendor").write_text(f"{vendor}\n")
        (tmp_path / name / "class").write_text(f"{kind}\n")
    assert find_nvidia_devices(tmp_path) == 2
    assert find_nvidia_devices(tmp_path / "absent") == 0

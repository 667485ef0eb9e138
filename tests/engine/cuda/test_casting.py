"""The kernels that cast, and that their PTX is what is made of their source."""

from __future__ import annotations

import ctypes
import importlib.util
import re
from pathlib import Path

import pytest

from tomoscribe.engine.cuda import casting
from tomoscribe.engine.cuda.casting import CASTABLE, Casting
from tomoscribe.engine.cuda.device import Device

PTX = Path(casting.__file__).with_name("casting.ptx")
SOURCE = PTX.with_suffix(".cu")


def find_nvrtc():
    """Return the NVRTC that wheels of NVIDIA's have brought, and its version."""
    found = importlib.util.find_spec("nvidia")
    for folder in found.submodule_search_locations if found else ():
        for path in sorted(Path(folder).rglob("libnvrtc.so.*")):
            nvrtc = ctypes.CDLL(str(path))
            major, minor = ctypes.c_int(), ctypes.c_int()
            assert nvrtc.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)) == 0
            return nvrtc, (major.value, minor.value)
    pytest.skip('needs NVRTC; install it with: pip install "nvidia-cuda-nvrtc-cu12==12.0.*"')


def compile_source(nvrtc):
    program = ctypes.c_void_p()
    options = (ctypes.c_char_p * 2)(b"--gpu-architecture=compute_52", b"--std=c++03")
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), SOURCE.read_bytes(), b"casting.cu", 0, None, None) == 0
    assert nvrtc.nvrtcCompileProgram(program, 2, options) == 0
    size = ctypes.c_size_t()
    assert nvrtc.nvrtcGetPTXSize(program, ctypes.byref(size)) == 0
    text = ctypes.create_string_buffer(size.value)
    assert nvrtc.nvrtcGetPTX(program, text) == 0
    return text.value.decode()


def test_the_text_is_made_of_the_source():
    nvrtc, version = find_nvrtc()
    if version != (12, 0):
        pytest.skip(f"needs NVRTC 12.0, found {version[0]}.{version[1]}; others number registers in another way")
    assert compile_source(nvrtc).strip() == PTX.read_text(encoding="utf-8").strip()


def test_every_dtype_has_a_kernel_of_three_arguments():
    text = PTX.read_text(encoding="utf-8")
    found = re.findall(r"\.visible \.entry cast_(\w+)\(([^)]*)\)", text)
    assert [dtype for dtype, _ in found] == list(CASTABLE)
    assert all(re.findall(r"\.param \.(\w+)", arguments) == ["u64"] * 3 for _, arguments in found)
    # What compiles it: every driver of CUDA 12 and later, for every GPU that those know.
    assert re.search(r"^\.version 8\.0$", text, re.MULTILINE)
    assert re.search(r"^\.target sm_52$", text, re.MULTILINE)


def test_each_is_compiled_once_and_given_back(driver, simulator):
    with Device(driver) as device:
        stream, cast, raw = device.stream(), device.buffer(40), device.buffer(40)
        casts = Casting(device)
        for dtype in ("int8", "int16", "int8"):
            casts.cast(cast, raw, dtype, 10, stream)
        assert simulator.calls.count("cuModuleLoadData") == 2
        assert "cuStreamSynchronize" not in simulator.calls
    assert simulator.modules == {}


def test_the_grid_is_no_larger_than_what_keeps_a_device_busy(driver, simulator, monkeypatch):
    grids = []
    monkeypatch.setattr(
        type(simulator), "cuLaunchKernel", lambda self, function, blocks, threads, *_: grids.append((blocks, threads))
    )
    with Device(driver) as device:
        stream, cast, raw = device.stream(), device.buffer(4), device.buffer(4)
        casts = Casting(device)
        for count in (1, 256, 257, 10**9):
            casts.cast(cast, raw, "int8", count, stream)
    assert grids == [(1, 256), (1, 256), (2, 256), (128, 256)]  # four multiprocessors

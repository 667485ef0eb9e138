from __future__ import annotations

import pytest

from tomoscribe.engine.backends.processor import Processor, read_processor


@pytest.mark.parametrize(
    ("architecture", "flags", "exact"),
    [
        ("x86_64", "sse2 avx2 avx512f avx512_vnni", True),
        ("x86_64", "avx2 avx_vnni", True),
        ("AMD64", "avx2 avx512f", False),
        ("x86_64", "", False),
        ("aarch64", "", True),
    ],
)
def test_int8_is_exact_where_there_is_vnni_or_no_x86(tmp_path, monkeypatch, architecture, flags, exact):
    monkeypatch.setattr("platform.machine", lambda: architecture)
    file = tmp_path / "cpuinfo"
    file.write_text(f"processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nflags\t\t: {flags}\n\nprocessor\t: 1\n")
    processor = read_processor(file)
    assert processor.exact_int8 is exact
    assert processor.name == "Some CPU @ 2 GHz"


@pytest.mark.parametrize(
    ("flags", "bf16"), [("avx512f avx512_bf16", True), ("amx_tile amx_bf16", True), ("avx512f avx512_vnni", False)]
)
def test_bf16_is_what_the_flags_say(tmp_path, flags, bf16):
    file = tmp_path / "cpuinfo"
    file.write_text(f"flags\t\t: {flags}\n")
    assert read_processor(file).bf16 is bf16


@pytest.mark.parametrize(("told", "name"), [("arm", "arm"), ("", "arm64")])
def test_without_linux_the_system_is_asked(tmp_path, monkeypatch, told, name):
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    monkeypatch.setattr("platform.processor", lambda: told)
    processor = read_processor(tmp_path / "cpuinfo")
    assert processor == Processor(name, exact_int8=True, bf16=False)

"""What is split is joined to the same bytes, and nothing else is kept."""

from __future__ import annotations

import hashlib
import subprocess
from importlib import import_module
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return import_module("wheel_parts")


@pytest.fixture
def wheel(tmp_path):
    path = tmp_path / "a-1.0+cpu-py3-none-any.whl"
    path.write_bytes(bytes(range(256)) * 40)
    return path


@pytest.mark.parametrize(("size", "count"), [(1, 10240), (1000, 11), (5120, 2), (10240, 1), (99999, 1)])
def test_parts_have_the_size_and_join_to_the_same(script, wheel, tmp_path, size, count):
    *parts, total = script.split(wheel, tmp_path / "parts", size)
    assert len(parts) == count
    assert [part.stat().st_size for part in parts[:-1]] == [size] * (count - 1)
    assert total.read_text() == f"{hashlib.sha256(wheel.read_bytes()).hexdigest()}  {wheel.name}\n"
    (joined,) = script.join(tmp_path / "parts", tmp_path / "wheels")
    assert joined == tmp_path / "wheels" / wheel.name
    assert joined.read_bytes() == wheel.read_bytes()
    assert list((tmp_path / "wheels").iterdir()) == [joined]


def test_the_shell_puts_them_together_too(script, wheel, tmp_path):
    script.split(wheel, tmp_path / "parts", 1000)
    command = f"cat {wheel.name}.[0-9]* > {wheel.name} && sha256sum -c {wheel.name}.sha256"
    subprocess.run(command, shell=True, check=True, cwd=tmp_path / "parts", stdout=subprocess.DEVNULL)


def test_several_wheels_in_a_folder_do_not_mix(script, wheel, tmp_path):
    other = wheel.with_name("b.whl")
    other.write_bytes(b"other" * 700)
    for path in (wheel, other):
        script.split(path, tmp_path / "parts", 1000)
    joined = script.join(tmp_path / "parts", tmp_path / "wheels")
    assert [path.read_bytes() for path in joined] == [wheel.read_bytes(), other.read_bytes()]


@pytest.mark.parametrize("missing", [1, 4, 11])
def test_a_missing_or_damaged_part_is_told_and_nothing_kept(script, wheel, tmp_path, missing):
    parts = script.split(wheel, tmp_path / "parts", 1000)
    data = parts[missing - 1].read_bytes()
    parts[missing - 1].unlink()
    with pytest.raises(ValueError, match=f"no part {missing}" if missing < 11 else "sha256"):
        script.join(tmp_path / "parts", tmp_path / "wheels")
    parts[missing - 1].write_bytes(b"?" + data[1:])
    with pytest.raises(ValueError, match="sha256"):
        script.join(tmp_path / "parts", tmp_path / "wheels")
    assert list((tmp_path / "wheels").iterdir()) == []

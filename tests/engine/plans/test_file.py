"""A plan on the disk and what stands beside it; TensorRT is not needed for any of it."""

from __future__ import annotations

import errno
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tomoscribe.engine.errors import BackendUnavailableError, OutputError
from tomoscribe.engine.plans import (
    DeviceIdentity,
    PlanError,
    PlanFile,
    PlanIdentity,
    PlanMismatchError,
    PlanShapes,
    plan_path,
    rebuild_command,
)
from tomoscribe.engine.plans.loading import load_plan

DEVICE = DeviceIdentity("NVIDIA RTX 6000 Ada Generation", "8.9", 142, 48)


@pytest.fixture
def identity():
    return PlanIdentity("ab" * 32, "fp16", PlanShapes(4, 960, 928), 3, 6, "10.16.1.11", "linux-x86_64", DEVICE)


@pytest.fixture
def written(identity, tmp_path):
    return PlanFile.write(plan_path(tmp_path / "my model", identity), b"engine", identity, {"parity": {"pixels": 1}})


@pytest.fixture(autouse=True)
def _bundle_folder(tmp_path):
    (tmp_path / "my model").mkdir()


def test_what_was_written_is_read_again(written, identity):
    assert PlanFile.read(written.path) == written
    assert written.identity == identity
    assert written.facts == {"parity": {"pixels": 1}}
    assert written.read_plan() == b"engine"


def test_writing_again_replaces_both_files(written, identity):
    again = PlanFile.write(written.path, b"better engine", identity, {})
    assert PlanFile.read(written.path).read_plan() == b"better engine"
    assert again.sha256 != written.sha256
    assert len(list(written.path.parent.iterdir())) == 2


def test_a_folder_that_cannot_be_written_is_one_line(identity, tmp_path):
    (tmp_path / "my model" / "plans").write_text("a file")
    with pytest.raises(OutputError, match="cannot be written"):
        PlanFile.write(plan_path(tmp_path / "my model", identity), b"engine", identity, {})


def test_a_full_disk_leaves_what_was_beside_a_plan(written, identity, monkeypatch):
    def half(path, text, **options):
        path.write_bytes(text[:9].encode())
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", half)
    with pytest.raises(OutputError, match="No space left"):
        PlanFile.write(written.path, b"better engine", identity, {})
    assert PlanFile.read(written.path) == written
    assert len(list(written.path.parent.iterdir())) == 2


def test_altered_bytes_are_a_mismatch(written, identity):
    written.path.write_bytes(b"engine, altered")
    with pytest.raises(PlanMismatchError) as caught:
        written.read_plan()
    error, found = caught.value, hashlib.sha256(b"engine, altered").hexdigest()
    assert (error.field, error.expected, error.found) == ("sha256", written.sha256, found)
    assert error.command == rebuild_command(written.path.parent.parent, identity)


def test_a_plan_that_is_not_there_is_one_line(written, tmp_path):
    written.path.unlink()
    with pytest.raises(PlanError, match="cannot be read"):
        written.read_plan()
    with pytest.raises(PlanError, match=r"absent\.json: cannot be read \(No such file"):
        PlanFile.read(tmp_path / "absent.plan")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda entries: "{", "not what is written beside a plan"),
        (lambda entries: "[]", "expected the format"),
        (lambda entries: json.dumps({**entries, "format": "x"}), "expected the format 'tomoscribe-plan'"),
        (lambda entries: json.dumps({**entries, "format_version": 2}), "expected format version 1, found 2"),
        (lambda entries: json.dumps({**entries, "plan": None}), "not what is written beside a plan"),
        (lambda entries: json.dumps({**entries, "identity": {}}), "identity: expected the key 'shapes'"),
        (
            lambda entries: json.dumps({**entries, "identity": {**entries["identity"], "colour": "red"}}),
            "unexpected keyword argument 'colour'",
        ),
        (
            lambda entries: json.dumps({**entries, "identity": {**entries["identity"], "device": {"name": "x"}}}),
            "a key or a value of the wrong kind",
        ),
    ],
)
def test_something_else_beside_a_plan_is_one_line(written, damage, message):
    beside = written.path.with_suffix(".json")
    beside.write_text(damage(json.loads(beside.read_text())))
    with pytest.raises(PlanError, match=message) as caught:
        PlanFile.read(written.path)
    assert str(caught.value).startswith(f"{beside}: ")
    assert "\n" not in str(caught.value)


def test_without_tensorrt_the_plan_is_not_touched(written, identity, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    written.path.unlink()
    with pytest.raises(BackendUnavailableError, match=r'cannot be imported .* pip install "tomoscribe\[tensorrt\]"'):
        load_plan(written.path, identity)


def test_looking_at_plans_imports_neither_tensorrt_nor_torch():
    looks = "import sys, tomoscribe.engine.plans.making, tomoscribe.engine.plans.shapes; "
    heavy = "print(sorted({'tensorrt', 'torch', 'onnx', 'onnxruntime', 'cuda', 'pycuda'} & sys.modules.keys()))"
    ended = subprocess.run([sys.executable, "-c", looks + heavy], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"

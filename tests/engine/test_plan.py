"""What a plan was built for, and the file beside it; TensorRT is not needed for any of it."""

from __future__ import annotations

import errno
import hashlib
import json
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tomoscribe.engine import plan_loading
from tomoscribe.engine.bundle import Bundle
from tomoscribe.engine.errors import BackendUnavailableError, BundleError, OutputError, ParameterError
from tomoscribe.engine.plan import (
    DeviceIdentity,
    PlanError,
    PlanFile,
    PlanIdentity,
    PlanMismatchError,
    PlanShapes,
    plan_path,
    rebuild_command,
)
from tomoscribe.engine.tiles import TilePlan

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


def test_a_plan_is_named_after_gpu_version_precision_and_shape(written, tmp_path):
    assert [path.name for path in sorted((tmp_path / "my model" / "plans").iterdir())] == [
        "nvidia-rtx-6000-ada-generation-trt10.16.1.11-fp16-4x960x928.json",
        "nvidia-rtx-6000-ada-generation-trt10.16.1.11-fp16-4x960x928.plan",
    ]


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


def test_a_gpu_whose_name_has_no_letters_of_a_file_name():
    assert replace(DEVICE, name="显卡").slug == "gpu"


@pytest.mark.parametrize(
    ("change", "field", "expected", "found"),
    [
        ({"artifact": "cd" * 32}, "artifact", "cd" * 32, "ab" * 32),
        ({"precision": "int8"}, "precision", "int8", "fp16"),
        ({"shapes": PlanShapes(8, 960, 928)}, "shapes.batch", 8, 4),
        ({"shapes": PlanShapes(4, 512, 928)}, "shapes.height", 512, 960),
        ({"shapes": PlanShapes(4, 960, 512)}, "shapes.width", 512, 928),
        ({"context": 0}, "context", 0, 3),
        ({"classes": 2}, "classes", 2, 6),
        ({"tensorrt": "11.4.0.106"}, "tensorrt", "11.4.0.106", "10.16.1.11"),
        ({"system": "linux-aarch64"}, "system", "linux-aarch64", "linux-x86_64"),
        ({"device": replace(DEVICE, name="NVIDIA L40S")}, "device.name", "NVIDIA L40S", DEVICE.name),
        ({"device": replace(DEVICE, compute_capability="9.0")}, "device.compute_capability", "9.0", "8.9"),
        ({"device": replace(DEVICE, multiprocessors=84)}, "device.multiprocessors", 84, 142),
        ({"device": replace(DEVICE, memory=24)}, "device.memory", 24, 48),
    ],
)
def test_a_mismatch_names_field_expected_found_and_command(written, identity, change, field, expected, found):
    needed = replace(identity, **change)
    with pytest.raises(PlanMismatchError) as caught:
        needed.check(written.identity, written.path)
    error = caught.value
    assert (error.plan, error.field, error.expected, error.found) == (written.path, field, expected, found)
    assert error.command == rebuild_command(written.path.parent.parent, needed)
    message = f"{written.path}: {field}: expected {expected}, found {found}; build it again with: {error.command}"
    assert str(error) == message
    assert isinstance(error, BundleError)


def test_the_same_identity_passes(written, identity):
    identity.check(written.identity, written.path)


def test_the_command_is_one_for_a_shell(tmp_path, identity):
    assert rebuild_command(tmp_path / "my model", identity) == (
        f"tomoscribe export '{tmp_path}/my model' --tensorrt --precision fp16 --slice-size 960x928"
    )


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


def test_the_identity_here_is_of_the_artifact_and_the_model(tiny_bundle):
    bundle = Bundle.load(tiny_bundle)
    here = PlanIdentity.here(bundle, "fp32", PlanShapes(1, 8, 8), "11.4.0.106", DEVICE)
    assert (here.artifact, here.context, here.classes) == (bundle.artifacts["fp32"].sha256, 1, 3)
    assert here.system == f"{sys.platform}-{platform.machine().lower()}"
    assert PlanIdentity.from_json(json.loads(json.dumps(here.to_json()))) == here
    with pytest.raises(BundleError, match="no fp16 artifact"):
        PlanIdentity.here(bundle, "fp16", PlanShapes(1, 8, 8), "11.4.0.106", DEVICE)


def test_shapes_are_those_of_the_tiles_and_the_contract():
    shapes = PlanShapes.of(TilePlan.for_slice((950, 921), multiple=16, halo=96, pixels=2**20), 4)
    assert shapes == PlanShapes(4, 960, 928)
    assert shapes.inputs(2, 3) == {"slices": (8, 960, 928), "mean": (8,), "rstd": (8,)}
    assert shapes.outputs(2, 6) == {"labels": (2, 960, 928), "scores": (2, 6, 960, 928)}
    for sizes in ((0, 960, 928), (4, 0, 928), (4, 960, 0)):
        with pytest.raises(ParameterError, match="at least 1"):
            PlanShapes(*sizes)


def test_without_tensorrt_the_plan_is_not_touched(written, identity, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    written.path.unlink()
    with pytest.raises(BackendUnavailableError, match=r'cannot be imported .* pip install "tomoscribe\[tensorrt\]"'):
        plan_loading.load_plan(written.path, identity)


def test_looking_at_plans_imports_neither_tensorrt_nor_torch():
    looks = "import sys, tomoscribe.engine.plan, tomoscribe.engine.plan_loading; "
    heavy = "print(sorted({'tensorrt', 'torch', 'onnx', 'onnxruntime'} & sys.modules.keys()))"
    ended = subprocess.run([sys.executable, "-c", looks + heavy], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"

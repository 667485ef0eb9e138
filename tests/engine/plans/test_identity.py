"""What a plan was built for; TensorRT is not needed for any of it."""

from __future__ import annotations

import json
import platform
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tomoscribe.engine.bundle import Bundle
from tomoscribe.engine.cuda import DeviceFacts
from tomoscribe.engine.errors import BundleError
from tomoscribe.engine.plans import (
    DeviceIdentity,
    PlanIdentity,
    PlanMismatchError,
    PlanShapes,
    plan_path,
    rebuild_command,
)

DEVICE = DeviceIdentity("NVIDIA RTX 6000 Ada Generation", "8.9", 142, 48)


@pytest.fixture
def identity():
    return PlanIdentity("ab" * 32, "fp16", PlanShapes(4, 960, 928), 3, 6, "10.16.1.11", "linux-x86_64", DEVICE)


def test_a_plan_is_named_after_gpu_version_precision_and_shape(identity):
    name = "nvidia-rtx-6000-ada-generation-trt10.16.1.11-fp16-4x960x928.plan"
    assert plan_path(Path("my model"), identity) == Path("my model", "plans", name)


def test_a_device_is_known_by_what_its_driver_says():
    facts = DeviceFacts("NVIDIA H200", "9.0", 132, 150_000_000_000)
    assert DeviceIdentity.of(facts) == DeviceIdentity("NVIDIA H200", "9.0", 132, 140)


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
def test_a_mismatch_names_field_expected_found_and_command(identity, tmp_path, change, field, expected, found):
    needed, path = replace(identity, **change), plan_path(tmp_path / "my model", identity)
    with pytest.raises(PlanMismatchError) as caught:
        needed.check(identity, path)
    error = caught.value
    assert (error.plan, error.field, error.expected, error.found) == (path, field, expected, found)
    assert error.command == rebuild_command(tmp_path / "my model", needed)
    message = f"{path}: {field}: expected {expected}, found {found}; build it again with: {error.command}"
    assert str(error) == message
    assert isinstance(error, BundleError)


def test_the_same_identity_passes(identity, tmp_path):
    identity.check(replace(identity), plan_path(tmp_path, identity))


def test_the_command_is_one_for_a_shell(tmp_path, identity):
    assert rebuild_command(tmp_path / "my model", identity) == (
        f"tomoscribe export '{tmp_path}/my model' --tensorrt --precision fp16 --slice-size 960x928"
    )


def test_the_identity_here_is_of_the_artifact_and_the_model(tiny_bundle):
    bundle = Bundle.load(tiny_bundle)
    here = PlanIdentity.here(bundle, "fp32", PlanShapes(1, 8, 8), "11.4.0.106", DEVICE)
    assert (here.artifact, here.context, here.classes) == (bundle.artifacts["fp32"].sha256, 1, 3)
    assert here.system == f"{sys.platform}-{platform.machine().lower()}"
    assert PlanIdentity.from_json(json.loads(json.dumps(here.to_json()))) == here
    with pytest.raises(BundleError, match="no fp16 artifact"):
        PlanIdentity.here(bundle, "fp16", PlanShapes(1, 8, 8), "11.4.0.106", DEVICE)

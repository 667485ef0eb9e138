"""Finding a plan, or building and keeping one, with a TensorRT and a CUDA driver that need no GPU."""

from __future__ import annotations

import json
import runpy
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tomoscribe.engine.bundle import Artifact, Bundle
from tomoscribe.engine.cuda import Device, DeviceMemoryError
from tomoscribe.engine.errors import BackendUnavailableError, BundleError
from tomoscribe.engine.plans import PlanError, PlanFile, PlanShapes
from tomoscribe.engine.plans.loading import load_plan
from tomoscribe.engine.plans.making import WORKSPACE, find_or_build, make_plan

FAKE = runpy.run_path(str(Path(__file__).resolve().parents[2] / "tensorrt_bindings" / "fake.py"))
SHAPES = PlanShapes(2, 16, 24)
NAME = "simulated-a-trt11.4.0.106-fp32-2x16x24.plan"


@pytest.fixture
def fake(simulator, monkeypatch):
    return FAKE["install"](simulator, monkeypatch)


@pytest.fixture
def device(fake, simulate):
    with Device(simulate("cuda.bindings")) as device:
        yield device


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tomoscribe"


@pytest.fixture
def bundle(tiny_bundle, tmp_path, cache):
    """A copy to write into."""
    return Bundle.load(shutil.copytree(tiny_bundle, tmp_path / "tiny"))


@pytest.fixture
def find(bundle, device, fake):
    """Ask for the plan; gives it, and whether it was built."""
    fake.layers = json.dumps({"Layers": [{"Name": "all", "Outputs": [{"Name": "x", "DataType": "Float"}]}]})

    def find(bundle=bundle, **options):
        before = len(fake.named("Builder.build_serialized_network"))
        loaded = find_or_build(bundle, "fp32", SHAPES, device, **options)
        return loaded, len(fake.named("Builder.build_serialized_network")) > before

    return find


def closed_to_writing(bundle):
    """A file where the folder of plans would be: this holds for the superuser too."""
    (bundle.path / "plans").write_text("")


def test_a_plan_is_built_kept_in_the_bundle_and_found(find, bundle):
    loaded, built = find()
    assert built
    assert loaded.file.path == bundle.path / "plans" / NAME
    assert PlanFile.read(loaded.file.path) == loaded.file
    assert loaded.file.facts["parity"] is None
    assert loaded.file.facts["built_because"] == "no plan for 2x16x24 in fp32 on Simulated A yet"
    again, built = find()
    assert not built
    assert again.file == loaded.file


def test_where_the_bundle_cannot_be_written_a_plan_is_kept_in_the_cache(find, bundle, cache, tmp_path):
    closed_to_writing(bundle)
    told = []
    loaded, built = find(progress=lambda *phase: told.append(phase))
    assert built
    assert loaded.file.path == cache / bundle.artifacts["fp32"].sha256[:16] / "plans" / NAME
    assert told[-1][0].startswith(f"{bundle.path / 'plans' / NAME}: cannot be written")
    assert not find()[1]
    # It is the network that counts, wherever the bundle is.
    elsewhere = Bundle.load(shutil.copytree(bundle.path, tmp_path / "elsewhere"))
    assert not find(elsewhere)[1]


def test_the_installed_model_is_not_written_into(find, bundle, cache, monkeypatch):
    monkeypatch.setattr("tomoscribe.engine.plans.making.default_bundle", lambda: bundle.path)
    assert find()[0].file.path.parent.parent.parent == cache
    assert not (bundle.path / "plans").exists()
    assert not find()[1]


def test_a_plan_in_the_bundle_comes_before_one_in_the_cache(find, bundle, cache):
    closed_to_writing(bundle)
    find()
    (bundle.path / "plans").unlink()
    in_cache = cache / bundle.artifacts["fp32"].sha256[:16] / "plans"
    shutil.copytree(in_cache, bundle.path / "plans")
    assert find()[0].file.path.parent == bundle.path / "plans"


def test_without_any_place_a_plan_is_used_and_forgotten(find, bundle, cache, monkeypatch):
    closed_to_writing(bundle)
    cache.parent.write_text("")
    loaded, built = find()
    assert built
    assert not loaded.file.path.exists()
    assert find()[1]
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert find()[1]


def test_a_network_that_was_exported_again_has_a_new_plan_and_the_reason_is_told(find, bundle):
    find()
    path, told = bundle.artifact_path("fp32"), []
    path.write_bytes(path.read_bytes() + b"\x72\x00")  # an empty documentation text
    changed = replace(bundle, artifacts={"fp32": Artifact.of(path)})
    loaded, built = find(changed, progress=lambda *phase: told.append(phase))
    before, now = bundle.artifacts["fp32"].sha256, changed.artifacts["fp32"].sha256
    assert built
    assert told[0] == (f"{loaded.file.path}: artifact: expected {now}, found {before}", 0.0)
    assert loaded.file.facts["built_because"] == told[0][0]
    assert loaded.file.path == bundle.path / "plans" / NAME
    assert not find(changed)[1]


def test_a_plan_of_another_machine_of_the_same_name_is_replaced(find, simulator):
    loaded, _ = find()
    path, identity = loaded.file.path, loaded.file.identity
    plan = path.read_bytes()
    PlanFile.write(path, plan, replace(identity, system="linux-riscv"), {})
    told = []
    assert find(progress=lambda *phase: told.append(phase))[1]
    assert told[0][0] == f"{path}: system: expected {identity.system}, found linux-riscv"


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.write_bytes(b"altered"), "sha256: expected"),
        (lambda path: path.with_suffix(".json").write_text("{"), "not what is written beside a plan"),
        (lambda path: PlanFile.write(path, b"no plan", PlanFile.read(path).identity, {}), "magicTag mismatch"),
    ],
)
def test_a_plan_that_cannot_be_used_is_built_anew_and_the_reason_is_told(find, fake, damage, reason):
    damage(find()[0].file.path)
    fake.say("Error Code 2: OutOfMemory")  # while tactics were tried, which is no reason for anything later
    told = []
    loaded, built = find(progress=lambda *phase: told.append(phase))
    assert built
    assert reason in told[0][0]
    assert "again" not in told[0][0]
    assert "\n" not in told[0][0]
    assert load_plan(loaded.file.path, loaded.file.identity)
    assert not find()[1]


def test_what_is_lost_of_a_plan_is_built_anew(find):
    for suffix in (".plan", ".json"):
        loaded, _ = find()
        loaded.file.path.with_suffix(suffix).unlink()
        assert find()[1]


def test_a_plan_that_cannot_be_loaded_for_lack_of_memory_is_not_built_anew(find, fake):
    find()
    fake.returns["Runtime.deserialize_cuda_engine"] = lambda *_: fake.say("Error Code 2: OutOfMemory")
    fake.calls.clear()
    with pytest.raises(DeviceMemoryError, match="OutOfMemory"):
        find()
    assert fake.named("Builder.build_serialized_network") == []


def with_convolution(bundle):
    """The same model, and a convolution whose answer no one asks for."""
    model = onnx.load(bundle.artifact_path("fp32"))
    values = [numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float32), name) for name in ("image", "kernel")]
    model.graph.initializer.extend(values)
    model.graph.node.append(helper.make_node("Conv", ["image", "kernel"], ["unused"], name="conv"))
    onnx.save(model, bundle.path / "model.fp32.onnx")
    return replace(bundle, artifacts={"fp32": Artifact.of(bundle.path / "model.fp32.onnx")})


def test_layers_in_another_precision_are_refused_and_nothing_is_kept(bundle, device, fake, cache):
    convolution = with_convolution(bundle)
    tensor = {"Name": "x", "DataType": "Half"}
    fake.layers = json.dumps({"Layers": [{"Name": "conv", "Outputs": [tensor]}]})
    with pytest.raises(
        PlanError, match=r"found conv in fp16 instead of fp32; it is not used, choose another"
    ) as caught:
        find_or_build(convolution, "fp32", SHAPES, device)
    assert "\n" not in str(caught.value)
    assert not (bundle.path / "plans").exists()
    assert [path.suffix for path in cache.iterdir()] == [".timing"]
    made = make_plan(convolution, "fp32", SHAPES, device)
    assert made.precisions.wrong == ("conv in fp16 instead of fp32",)


def test_a_layer_may_use_half_of_a_small_gpus_memory(find, fake, simulator):
    find()
    assert fake.named("IBuilderConfig.set_memory_pool_limit")[0][1] == simulator.capacity // 2 < WORKSPACE


def test_a_plan_that_is_there_needs_no_onnx_and_one_that_is_not_does(find, monkeypatch):
    loaded, _ = find()
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert not find()[1]
    loaded.file.path.unlink()
    with pytest.raises(BackendUnavailableError, match=r"onnx.* cannot be imported .* install it with: pip"):
        find()


def test_an_altered_network_is_refused(find, bundle):
    path = bundle.artifact_path("fp32")
    altered = Bundle.load(bundle.path)
    path.write_bytes(path.read_bytes() + b"\x72\x00")
    with pytest.raises(BundleError, match="was altered"):
        find(altered)


def test_tensorrt_works_on_the_device_that_is_asked_for(bundle, fake, simulate, simulator, find, monkeypatch):
    seen, honest = set(), fake.call

    def call(*arguments):
        seen.add(tuple(simulator.contexts))
        return honest(*arguments)

    monkeypatch.setattr(fake, "call", call)
    with Device(simulate("cuda.bindings"), 1) as second:
        with second.current():
            current = {tuple(simulator.contexts)}
        for ask in (find_or_build, find_or_build, make_plan):
            seen.clear()
            made = ask(bundle, "fp32", SHAPES, second)
            assert seen == current
    assert made.file.identity.device.name == "Simulated B"
    assert made.file.identity.device.compute_capability == "9.1"

"""What is said of bundles, networks and plans."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tomoscribe.engine import Bundle
from tomoscribe.engine.bundle import Artifact, default_bundle
from tomoscribe.engine.machine import Gpu, NvidiaDriver
from tomoscribe.engine.plans import DeviceIdentity, PlanFile, PlanIdentity, PlanShapes, plan_path

FIGURES = {
    "pixels": 393216,
    "labels_equal": 0.9999999,
    "largest_score_difference": 1,
    "mean_score_difference": 0.0125,
    "dice": {"dark matter": 0.99999, "light": None},
    "reference": "PyTorch 2.13.0, FP32",
    "runtime": "ONNX Runtime 1.31.1, CPU",
    "passed": True,
    "shortfalls": [],
}
DRIFT = {
    **FIGURES,
    "labels_equal": 0.9912,
    "mean_score_difference": 0.0004,
    "dice": {"dark matter": 0.98116, "light": 1.0},
    "sources": {"tomo.mrc": {"labels_equal": 0.9754, "dice": {"dark matter": 0.91234, "light": None}}},
    "passed": False,
    "shortfalls": ["expected a Dice of 0.99 for dark matter, found 0.9811"],
}


@pytest.fixture
def run(tomoscribe):
    """Run `tomoscribe inspect`; gives the exit status, stdout and stderr."""
    return partial(tomoscribe, "inspect")


@pytest.fixture
def bundle(tmp_path, tiny_bundle):
    """A bundle with two precisions, parity and provenance."""
    folder = tmp_path / "mine"
    shutil.copytree(tiny_bundle, folder)
    shutil.copy(folder / "model.fp32.onnx", folder / "model.fp16.onnx")
    artifacts = {key: Artifact.of(folder / f"model.{key}.onnx") for key in ("fp32", "fp16")}
    training = {
        "tomoscribe": "0.1.0",
        "step": 3600,
        "dataset": {"recipe": {"name": "phantoms"}},
        "validation_dice": {"dark matter": 0.876, "light": None},
        "checkpoint": {"file": "best.safetensors", "sha256": "0123456789abcdef"},
    }
    parity, provenance = {"fp32": FIGURES, "fp16": DRIFT}, {"torch": "2.13.0", "opset": 18}
    Bundle(folder, Bundle.load(folder).specification, artifacts, parity, training, provenance).write()
    return folder


@pytest.fixture
def plan(bundle):
    """A plan of that bundle's FP16 network for a GPU that is not here."""
    device = DeviceIdentity("NVIDIA H200", "9.0", 132, 140)
    identity = PlanIdentity.here(Bundle.load(bundle), "fp16", PlanShapes(4, 96, 64), "10.16.1.11", device)
    path = plan_path(bundle, identity)
    PlanFile.write(path, b"engine", identity, {"layers": {"Half": 88, "Float": 6}, "parity": FIGURES})
    return path


@pytest.fixture
def machine(monkeypatch):
    """Set the GPU and the TensorRT that are here."""

    def machine(gpu=None, tensorrt=None):
        gpus = () if gpu is None else (Gpu(0, *gpu, None, None),)
        monkeypatch.setattr("tomoscribe.cli.inspect_plan.read_driver", lambda: NvidiaDriver("580", "13.0", gpus))
        versions = {} if tensorrt is None else {"tensorrt-cu13": tensorrt}
        monkeypatch.setattr("tomoscribe.cli.inspect_plan.tensorrt_versions", lambda: versions)

    return machine


def rows(page):
    """The facts of a page: what stands after its name, two spaces and more apart."""
    split = [re.split(r" {2,}", line, maxsplit=1) for line in page.splitlines()]
    return {parts[0]: parts[1] for parts in split if len(parts) == 2}


def cells(row):
    return re.split(r" {2,}", row)


def test_a_bundle(run, bundle):
    status, out, err = run(bundle)
    assert (status, err) == (0, "")
    size = sum(file.stat().st_size for file in bundle.iterdir())
    assert out.splitlines()[:2] == ["tiny", f"model bundle, {bundle}, {size / 1000:.1f} kB"]
    facts = rows(out)
    assert facts["classes"] == "0 background  ■ 1 dark matter  ■ 2 light"
    assert facts["input"] == "slices (n + 2, h, w) float32 in the file's units; mean, rstd (n + 2) float32"
    assert facts["output"].startswith("labels (n, h, w) uint8; scores (n, 3, h, w) uint8")
    assert facts["context"] == "1 slices on each side"
    assert facts["tiles"] == "h and w any multiple of 8, halo 0 pixels"
    assert facts["voxel size"] == "8.0 to 16.0 Å"
    assert facts["polarity"].startswith("dark")
    assert facts["augmented"] == "none"
    sha256 = Bundle.load(bundle).artifacts["fp16"].sha256
    assert re.fullmatch(rf"model\.fp16\.onnx +[\d.]+ kB +{sha256[:12]} +as written", facts["fp16"])
    assert facts["made from"] == "best.safetensors, sha256 0123456789ab"
    assert facts["trained"] == "3,600 steps on the dataset phantoms with tomoscribe 0.1.0"
    assert facts["validation"] == "Dice dark matter 0.88"
    assert facts["exported"] == "with torch 2.13.0, opset 18"
    assert re.match(r"yes +ONNX Runtime \S+ on the CPU", facts["onnxruntime"])


@pytest.mark.parametrize(
    ("kind", "said"), [("flips", "mean over the tile and its 3 flips"), ("flips-and-turns", "all 8 symmetries")]
)
def test_a_bundle_with_test_time_augmentation(run, bundle, kind, said):
    loaded = Bundle.load(bundle)
    replace(loaded, specification=replace(loaded.specification, test_time_augmentation=kind)).write()
    assert said in rows(run(bundle)[1])["augmented"]
    assert json.loads(run(bundle, "--json")[1])["specification"]["test_time_augmentation"] == kind


def test_the_parity_of_a_bundle(run, bundle):
    facts = rows(run(bundle)[1])
    assert facts["parity"].split() == ["fp32", "fp16"]
    # Rounded down: this one is not equal everywhere.
    assert cells(facts["same labels"]) == ["99.9999 %", "99.1200 %"]
    assert cells(facts["largest difference of a score"]) == ["1 of 255", "1 of 255"]
    assert cells(facts["mean difference of the scores"]) == ["0.013 of 255", "< 0.001 of 255"]
    assert facts["pixels compared"].split() == ["393,216", "393,216"]
    assert facts["Dice ■ dark matter"].split() == ["0.9999", "0.9811"]
    assert facts["Dice ■ light"].split() == ["–", "1.0000"]
    assert cells(facts["on tomo.mrc"]) == ["–", "97.5400 %, Dice ≥ 0.9123"]
    assert facts["gate"].split() == ["passed", "drifts"]
    out = run(bundle)[1]
    assert "\nfp32 parity  ONNX Runtime 1.31.1, CPU against PyTorch 2.13.0, FP32\n" in out
    assert (
        "\nfp16 parity  let through with --allow-drift: expected a Dice of 0.99 for dark matter, found 0.9811\n" in out
    )


def test_json_has_all_of_it(run, bundle):
    status, out, err = run(bundle, "--json")
    entries = json.loads(out)
    loaded = Bundle.load(bundle)
    assert (status, err, entries["kind"], entries["problems"]) == (0, "", "bundle", [])
    assert entries["specification"] == loaded.specification.to_json()
    assert entries["parity"] == {"fp32": FIGURES, "fp16": DRIFT}
    assert entries["training"] == loaded.training
    assert entries["provenance"] == {"torch": "2.13.0", "opset": 18}
    assert [(file["kind"], file["sha256"], file["problem"]) for file in entries["files"]] == [
        (key, artifact.sha256, None) for key, artifact in loaded.artifacts.items()
    ]
    backend = entries["backends"][-1]
    assert (backend["backend"], backend["runs"]) == ("onnxruntime", True)


def test_the_bundled_model_is_the_default(run):
    status, out, _ = run("--json")
    entries = json.loads(out)
    assert (status, entries["path"]) == (0, str(default_bundle()))
    assert entries["backends"][-1]["runs"] is True
    assert rows(run()[1])["context"] == "3 slices on each side"
    assert run(default_bundle() / "model.json")[1] == run()[1]


def test_files_that_are_not_what_was_written_are_an_error(run, bundle):
    (bundle / "model.fp16.onnx").unlink()
    (bundle / "model.fp32.onnx").write_bytes(b"other")
    status, out, err = run(bundle)
    assert status == 2
    facts = rows(out)
    assert re.search(r"5 bytes +\w{12} +altered$", facts["fp32"])
    assert re.search(r"model\.fp16\.onnx +– +\w{12} +missing$", facts["fp16"])
    assert re.match(r"no +.*model\.fp32\.onnx: expected sha256", facts["onnxruntime"])
    lines = err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith(f"tomoscribe: error: {bundle}/model.fp") for line in lines)
    status, out, err = run(bundle, "--json")
    assert (status, err, len(json.loads(out)["problems"])) == (2, "", 2)


def test_every_backend_says_why_not(run, bundle, monkeypatch):
    from tomoscribe.engine.backends import BACKENDS
    from tomoscribe.engine.errors import BackendUnavailableError

    def cannot_run(bundle):
        raise BackendUnavailableError("tensorrt: no NVIDIA GPU; use another backend")

    monkeypatch.setattr("tomoscribe.engine.backends.BACKENDS", {"tensorrt": cannot_run, **BACKENDS})
    status, out, _ = run(bundle)
    facts = rows(out)
    assert status == 0
    assert re.fullmatch(r"no +tensorrt: no NVIDIA GPU; use another backend", facts["tensorrt"])
    assert facts["onnxruntime"].startswith("yes")


def test_a_backend_that_loads_but_fails_at_work_does_not_run(run, bundle, monkeypatch):
    from tomoscribe.engine.backends.onnxruntime import OnnxRuntimeBackend
    from tomoscribe.engine.errors import BackendError

    def fail(self, slot):
        raise BackendError("onnxruntime: illegal instruction")

    closed = []
    monkeypatch.setattr(OnnxRuntimeBackend, "wait", fail)
    close = OnnxRuntimeBackend.close
    monkeypatch.setattr(OnnxRuntimeBackend, "close", lambda self: (closed.append(self), close(self)))
    assert re.match(r"no +onnxruntime: illegal instruction", rows(run(bundle)[1])["onnxruntime"])
    assert len(closed) == 1


def test_an_older_bundle_has_less_to_say(run, tiny_bundle):
    status, out, _ = run(tiny_bundle)
    assert status == 0
    assert "parity" not in out
    assert "exported" not in out
    assert "\n\n\n" not in out


def test_a_bundle_of_another_programs_network_names_its_file(run, bundle):
    model = json.loads((bundle / "model.json").read_text())
    model["training"] = {"onnx": {"file": "theirs.onnx", "sha256": "0123456789abcdef", "producer": "pytorch 2.13.0"}}
    (bundle / "model.json").write_text(json.dumps(model))
    facts = rows(run(bundle)[1])
    assert facts["made from"] == "theirs.onnx, sha256 0123456789ab, written by pytorch 2.13.0"
    assert "trained" not in facts


def test_a_plan_stands_in_its_bundle(run, bundle, plan):
    status, out, _ = run(bundle)
    assert status == 0
    assert re.match(rf"plans/{re.escape(plan.name)} +6 bytes +\w{{12}} +as written", rows(out)["plan"])
    plan.write_bytes(b"altere")
    status, out, err = run(bundle)
    assert (status, err.count("\n")) == (2, 1)
    assert rows(out)["plan"].endswith("altered")
    plan.with_suffix(".json").unlink()
    status, _, err = run(bundle)
    assert (status, err.count("\n")) == (2, 1)
    assert "cannot be read" in err


def test_a_plan_on_another_machine(run, plan, bundle, machine):
    machine(("NVIDIA L4", "8.9"), "11.4.0.106")
    status, out, err = run(plan)
    assert (status, err) == (0, "")
    facts = rows(out)
    assert out.startswith(f"{plan.name}\nTensorRT plan, {plan}, 6 bytes\n")
    assert (facts["precision"], facts["batch"], facts["tile"]) == ("fp16", "1 to 4 slices", "96 × 64 pixels")
    assert facts["layers"] == "Half 88, Float 6"
    assert facts["same labels"] == "99.9999 %"
    assert cells(facts["GPU"]) == ["NVIDIA H200", "NVIDIA L4"]
    assert facts["TensorRT"].split() == ["10.16.1.11", "11.4.0.106"]
    assert facts["network (sha256)"].split()[0] == facts["network (sha256)"].split()[1]
    assert "cannot run here, where these differ: GPU, compute capability, TensorRT; build one with:" in out
    assert out.splitlines()[-1] == f"tomoscribe export {bundle} --tensorrt --precision fp16 --slice-size 96x64"


def test_a_plan_that_was_built_on_first_use_says_why_and_that_its_parity_is_not_known(run, plan, machine):
    machine()
    facts = {"layers": {"Half": 88}, "parity": None, "built_because": "no plan yet"}
    PlanFile.write(plan, b"engine", PlanFile.read(plan).identity, facts)
    status, out, err = run(plan)
    assert (status, err) == (0, "")
    assert rows(out)["built_because"] == "no plan yet"
    assert rows(out)["parity"].startswith("not measured")


def test_a_plan_on_its_own_machine(run, plan, machine):
    machine(("NVIDIA H200", "9.0"), "10.16.1.11")
    assert run(plan)[1].splitlines()[-1] == "fits this machine"
    entries = json.loads(run(plan, "--json")[1])
    assert all(need["met"] for need in entries["here"])
    assert entries["identity"]["device"]["multiprocessors"] == 132
    assert entries["parity"] == FIGURES
    assert run(plan.with_suffix(".json"))[1] == run(plan)[1]


def test_a_plan_of_another_network_or_outside_of_its_bundle(run, plan, bundle, machine, tmp_path):
    machine(("NVIDIA H200", "9.0"), "10.16.1.11")
    model = json.loads((bundle / "model.json").read_text())
    model["artifacts"]["fp16"]["sha256"] = "f" * 64
    (bundle / "model.json").write_text(json.dumps(model))
    assert "these differ: network (sha256);" in run(plan)[1]
    shutil.copytree(plan.parent, tmp_path / "elsewhere" / "plans")
    assert rows(run(tmp_path / "elsewhere" / "plans" / plan.name)[1])["network (sha256)"].endswith("none")


def test_a_plan_without_a_gpu(run, plan, machine):
    machine()
    assert run(plan)[1].splitlines()[-1].startswith("cannot run here: no NVIDIA GPU that answers")


def test_a_plan_that_is_not_what_was_written(run, plan, machine):
    machine()
    plan.write_bytes(b"other")
    status, out, err = run(plan)
    assert (status, err.count("\n")) == (2, 1)
    assert "sha256" in err
    assert "NVIDIA H200" in out
    assert json.loads(run(plan, "--json")[1])["intact"] is False


@pytest.fixture
def network(tmp_path, tiny_bundle):
    """Write the tiny network with its specification in its metadata, and changes; gives its file."""

    def network(change=lambda model: None, specification=None, **options):
        model = onnx.load(tiny_bundle / "model.fp32.onnx")
        entries = specification or Bundle.load(tiny_bundle).specification.to_json()
        helper.set_model_props(model, {"tomoscribe.specification": json.dumps(entries)})
        change(model)
        onnx.save(model, tmp_path / "net.onnx", **options)
        return tmp_path / "net.onnx"

    return network


def test_a_network_in_the_graph_contract(run, network):
    path = network()
    status, out, err = run(path)
    assert (status, err) == (0, "")
    facts = rows(out)
    assert re.search(r"^input +slices \(m, h, w\) float32$", out, re.MULTILINE)
    assert re.search(r"^output +scores \(n, 3, h, w\) uint8$", out, re.MULTILINE)
    assert facts["opset"] == "18"
    assert facts["name"] == "tiny"
    assert facts["classes"] == "0 background  ■ 1 dark matter  ■ 2 light"
    assert facts["onnxruntime"].startswith("yes")
    assert "--from-onnx" not in out
    entries = json.loads(run(path, "--json")[1])
    assert entries["inputs"][0] == {"name": "slices", "shape": ["m", "h", "w"], "dtype": "float32"}
    assert entries["specification"]["name"] == "tiny"


def test_a_network_of_another_precision_is_not_what_a_backend_runs_in_fp32(run, network):
    def quantise(model):
        model.graph.initializer.append(numpy_helper.from_array(np.float32(1), "scale"))
        model.graph.initializer.append(numpy_helper.from_array(np.int8(0), "zero"))
        model.graph.node.append(helper.make_node("QuantizeLinear", ["sum", "scale", "zero"], ["quantised"]))

    assert "it has int8" in rows(run(network(quantise))[1])["onnxruntime"]

    def halve(model):
        model.graph.initializer.append(numpy_helper.from_array(np.zeros(3, np.float16), "half"))
        model.graph.node.append(helper.make_node("Identity", ["half"], ["halved"]))

    out = run(network(halve))[1]
    assert "it has fp16" in rows(out)["onnxruntime"]
    assert "3 float16" in rows(out)["weights"]


def test_a_network_without_its_specification(run, tiny_bundle):
    status, out, _ = run(tiny_bundle / "model.fp32.onnx")
    assert status == 0
    assert re.match(r"no +its classes and context are not in its metadata", rows(out)["onnxruntime"])
    assert "--from-onnx" not in out


def test_a_network_of_someone_else(run, tmp_path):
    weights = numpy_helper.from_array(np.zeros((3, 1, 3, 3), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "w"], ["logits"], pads=[1, 1, 1, 1])],
        "theirs",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 1, None, 64])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3, None, 64])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10, producer_name="their")
    path = tmp_path / "their net.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    status, out, err = run(path)
    assert (status, err) == (0, "")
    facts = rows(out)
    assert facts["input"] == "image (n, 1, ?, 64) float32"
    assert facts["weights"] == "27 float32, in weights.bin"
    assert facts["written by"] == "their"
    assert "found image and logits" in facts["onnxruntime"]
    assert out.splitlines()[-1].startswith(f"tomoscribe export --from-onnx '{path}' --classes background,… ")


def test_without_onnx_a_network_has_less_to_say(run, network, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    status, out, _ = run(network())
    assert status == 0
    assert "opset" not in out
    assert rows(out)["onnxruntime"].startswith("yes")


def test_what_cannot_be_inspected_is_one_line(run, tmp_path, network, monkeypatch):
    (tmp_path / "best.safetensors").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.onnx").write_bytes(b"bad")
    (tmp_path / "lonely.plan").write_bytes(b"bad")
    (tmp_path / "folder.onnx").mkdir()
    for name, text in (
        ("best.safetensors", "expected the folder of a bundle, an .onnx or a .plan file"),
        ("nowhere", "expected a model bundle (a folder with model.json), found nothing"),
        ("empty", "no model.json"),
        ("bad.onnx", "cannot load it"),
        ("none.onnx", "expected an ONNX file, found nothing"),
        ("folder.onnx", "expected an ONNX file, found a folder"),
        ("none.plan", "expected a plan, found nothing"),
        ("lonely.plan", "lonely.json: cannot be read"),
    ):
        status, out, err = run(tmp_path / name)
        assert (out, err.count("\n")) == ("", 1), name
        assert status in (1, 2)
        assert text in err, name
        assert str(tmp_path / name).removesuffix(".plan") in err
    status, _, err = run(network(specification={"name": "tiny"}))
    assert (status, err.count("\n")) == (2, 1)
    assert "tomoscribe.specification" in err
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    status, _, err = run(network())
    assert (status, err.count("\n")) == (2, 1)
    assert 'pip install "tomoscribe[cpu]"' in err


def test_in_a_pipe_every_fact_is_a_plain_line(bundle):
    command = [sys.executable, "-m", "tomoscribe.cli", "inspect", str(bundle)]
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "COLUMNS": "40"})
    assert (result.returncode, result.stderr) == (0, "")
    assert not any(line != line.rstrip() for line in result.stdout.splitlines())
    assert "\x1b" not in result.stdout
    assert "0 background  ■ 1 dark matter  ■ 2 light\n" in result.stdout
    assert "ONNX Runtime 1.31.1, CPU against PyTorch 2.13.0, FP32\n" in result.stdout


def test_on_a_terminal_classes_have_their_colour_and_stay_whole(bundle, run, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLORTERM", "truecolor")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "44")
    monkeypatch.delenv("NO_COLOR", raising=False)
    out = run(bundle)[1]
    assert "\x1b[38;2;230;159;0m■" in out
    plain = re.sub(r"\x1b\[[0-9;]*m", "", out)
    assert re.search(r"^classes +0 background  ■ 1 dark matter *\n +■ 2 light", plain, re.MULTILINE)
    wide = [line for line in plain.splitlines() if len(line) > 44]
    assert wide == [line for line in wide if str(Path(bundle)) in line]

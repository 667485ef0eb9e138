"""The peers label what the network says, and the ratios are of what was measured."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path

import mrcfile
import numpy as np
import onnx
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tomoscribe.engine import Bundle
from tomoscribe.engine.bundle import CHECKPOINT, Artifact, ModelSpecification
from tomoscribe.engine.class_map import ClassMap, LabelClass
from tomoscribe.export.graph import to_onnx
from tomoscribe.train.checkpoint import Checkpoint, save_checkpoint
from tomoscribe.train.unet import UNet, UNetConfiguration

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
# Large enough for two windows of MONAI's along x.
SHAPE = (5, 512, 528)


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def script(monkeypatch):
    """Import a script as it imports others: from its own folder."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return import_module


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Bundle:
    """A bundle of a small U-Net with its checkpoint."""
    torch.manual_seed(10)  # all three classes are found in noise
    network = UNet(UNetConfiguration(classes=3, context=1, depth=2, base_width=4)).eval()
    size = network.configuration
    names = (LabelClass(1, "one", (230, 159, 0)), LabelClass(2, "two", (86, 180, 233)))
    specification = ModelSpecification(
        "small", ClassMap(names), size.context, size.tile_multiple, size.halo, voxel_size=(10.0, 20.0)
    )
    folder = tmp_path_factory.mktemp("peers") / "bundle"
    folder.mkdir()
    onnx.save(to_onnx(network, specification), folder / "model.fp32.onnx")
    save_checkpoint(folder / "checkpoint.safetensors", Checkpoint(network, specification))
    artifacts = {"fp32": Artifact.of(folder / "model.fp32.onnx")}
    artifacts[CHECKPOINT] = Artifact.of(folder / "checkpoint.safetensors")
    bundle = Bundle(folder, specification, artifacts)
    bundle.write()
    return bundle


@pytest.fixture(scope="module")
def noise():
    return np.random.default_rng(0).normal(7, 3, SHAPE).astype(np.float32)


@pytest.fixture(scope="module")
def expected(trained, noise):
    """The labels of every slice, by a loop over z with PyTorch."""
    from tomoscribe.train.checkpoint import load_checkpoint

    network = load_checkpoint(trained.artifact_path(CHECKPOINT)).network
    normalised = torch.from_numpy((noise - 7) / 3)
    labels = []
    for z in range(SHAPE[0]):
        around = [min(max(z + offset, 0), SHAPE[0] - 1) for offset in (-1, 0, 1)]
        with torch.inference_mode():
            labels.append(network(normalised[around][None])[0].argmax(0))
    return torch.stack(labels).numpy().astype(np.uint8)


def label(script, configuration, bundle, noise):
    child, configurations = script("peers_child"), script("peers_configurations").CONFIGURATIONS
    (chosen,) = (known for known in configurations if known.name == configuration)
    model = bundle.artifact_path(CHECKPOINT if chosen.family == "torch" else "fp32")
    task = child.Task(configuration, "whole", "", str(model), "", 1, (7.0, 3.0), len(noise))
    slices = np.pad(noise, ((1, 1), (0, 0), (0, 0)), "edge")
    return child.make_labeller(chosen, task, slices)(len(noise))


@pytest.mark.parametrize("configuration", ["torch_channels_last", "onnxruntime_fp32", "openvino_fp32"])
def test_peers_label_whole_slices_with_their_context(script, trained, noise, expected, configuration):
    if configuration.startswith("openvino"):
        pytest.importorskip("openvino")
    assert len(np.unique(expected)) == 3
    assert (label(script, configuration, trained, noise) == expected).mean() > 0.9999


def test_monai_labels_windows(script, trained, noise, expected):
    pytest.importorskip("monai")
    found = label(script, "torch_eager_monai", trained, noise)
    # Windows are blind at their edges, and elsewhere the network is the same.
    assert 0.98 < (found == expected).mean() < 1


def test_bf16_is_close(script, trained, noise, expected):
    assert 0.9 < (label(script, "torch_bf16", trained, noise) == expected).mean() < 1


def test_agreement_is_dice_of_voxels_of_the_same_class(script):
    labels = np.array([[[0, 1, 1, 2, 2, 0]]], np.uint8)
    reference = np.array([[[0, 1, 2, 2, 2, 1]]], np.uint8)
    found = script("peers_ratios").agreement(labels, reference, 4)
    # Class 1: one in common of 2 and 2; class 2: two of 2 and 3.
    assert found.classes == [2 / 4, 4 / 5, None]
    assert found.foreground == 6 / 9


def test_labels_without_foreground_agree(script):
    nothing = np.zeros((1, 2, 2), np.uint8)
    assert script("peers_ratios").agreement(nothing, nothing, 3).foreground == 1


def outcome(script, name, precision, whole, steady):
    ratios, configurations = script("peers_ratios"), script("peers_configurations").CONFIGURATIONS
    (chosen,) = (known for known in configurations if known.name == name)
    return ratios.Outcome(chosen, precision, "", whole, steady, ratios.Agreement(0.99, [1.0, 0.98]))


def outcomes(script):
    return [
        outcome(script, "torch_eager_monai", "fp32", [100.0], [20.0]),
        outcome(script, "torch_channels_last", "fp32", [60.0], [8.0]),
        outcome(script, "torch_bf16", "bf16", [70.0], [6.0]),
        outcome(script, "onnxruntime_fp32", "fp32", [40.0], [5.0]),
        outcome(script, "openvino_int8", "int8", [30.0], [1.0]),
        outcome(script, "auto_shipped", "fp32", [20.0], [4.0]),
        outcome(script, "auto_int8_bundle", "int8", [10.0], [2.0]),
    ]


def test_ratios_are_over_the_best_of_each_kind(script):
    found = script("peers_ratios").ratios(outcomes(script), 1000, 10, {"fp32": 5000.0, "int8": 20000.0})
    assert found["over_torch_eager_monai"] == 20 / 2
    assert found["over_torch_eager_monai_whole_process"] == 100 / 10
    assert found["over_best_torch"] == 6 / 2
    # In whole processes another is the best.
    assert found["over_best_torch_whole_process"] == 60 / 10
    assert found["over_best_bare_backend"] == 1 / 2
    assert found["over_best_bare_backend_same_precision_auto_shipped"] == 5 / 4
    assert found["over_best_torch_same_precision_auto_shipped"] == 8 / 4
    assert "over_best_torch_same_precision" not in found
    assert found["peak_fraction"] == 10 * 1000 / 2 / 20000
    assert found["peak_fraction_auto_shipped"] == 10 * 1000 / 4 / 5000
    assert found["foreground_dice_vs_fp32"] == 0.99


class FailingBench:
    """A bench of which nothing runs."""

    quantised = None

    def __init__(self, error):
        self.error = error

    def steady(self, configuration, slices):
        raise self.error


def test_what_does_not_run_is_left_out_with_the_reason(script):
    peers, configurations = script("peers"), script("peers_configurations")
    known = {configuration.name: configuration for configuration in configurations.CONFIGURATIONS}
    bench = FailingBench(script("peers_bench").ChildError(known["torch_compile"], "no compiler"))
    assert peers.why_not(bench, known["torch_compile"], False) == "no compiler"
    assert peers.why_not(bench, known["torch_compile"], True) == "--quick compiles nothing"
    assert peers.why_not(bench, known["torch_bf16"], True) is None
    assert peers.why_not(bench, known["onnxruntime_int8"], True) == "--quick exports no INT8"
    absent = configurations.Configuration("absent", "Absent", "absent", "fp32", packages=("json", "no_such_package"))
    assert peers.why_not(bench, absent, False) == "no_such_package is not installed"


def test_a_process_that_fails_is_told_by_its_last_line(script, trained, tmp_path):
    bench_module, configurations = script("peers_bench"), script("peers_configurations")
    with mrcfile.new(tmp_path / "noise.mrc", np.random.default_rng(0).random((8, 16, 16), np.float32)) as file:
        file.voxel_size = 15
    bench = bench_module.Bench(trained, trained, tmp_path / "noise.mrc", tmp_path, tmp_path)
    (tmp_path / "noise.mrc").unlink()
    (chosen,) = (known for known in configurations.CONFIGURATIONS if known.name == "onnxruntime_fp32")
    with pytest.raises(
        bench_module.ChildError, match=r"^ONNX Runtime, bare loop, FP32: FileNotFoundError: .*noise\.mrc"
    ):
        bench.whole(chosen)


def test_windows_start_at_three_quarters_of_one(script):
    window_pixels = script("peers").window_pixels
    assert window_pixels(896, 512) == 2 * 512**2 / (896 * 512)
    assert window_pixels(960, 960) == 9 * 512**2 / 960**2
    assert window_pixels(256, 512) == 2


def test_the_plot_is_drawn(script, tmp_path):
    script("peers_plot").draw_speeds(outcomes(script), (24, 960, 960), tmp_path / "peers.png")
    assert (tmp_path / "peers.png").read_bytes().startswith(b"\x89PNG")


def test_operations_are_those_that_pytorch_counts(script, trained):
    height, width = 16, 24
    network = UNet(UNetConfiguration(classes=3, context=1, depth=2, base_width=4)).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, height, width))
    found = script("roofline").operations_per_voxel(trained.artifact_path("fp32"))
    assert found == counter.get_total_flops() / (height * width)


def test_every_precision_has_a_peak(script):
    peaks = script("roofline").measure_peaks(64, 0)
    assert all(figure > 0 for found in peaks.values() for figure in found.values())
    assert {"numpy", "torch", "onnxruntime"} <= peaks["fp32"].keys()
    assert "torch" in peaks["bf16"]
    assert "onnxruntime" in peaks["int8"]


def test_quantised_product_is_close_to_the_product(script):
    import onnxruntime

    roofline = script("roofline")
    left, right = (np.random.default_rng(seed).standard_normal((64, 64), np.float32) for seed in (0, 1))
    session = onnxruntime.InferenceSession(roofline._quantised_model(right).SerializeToString())
    (product,) = session.run(None, {"left": left})
    assert np.abs(product - left @ right).max() < 1


def test_peers_runs_and_names_its_ratios(script, tmp_path, trained, monkeypatch, capsys):
    words = ["--quick", "--model", trained.path, "--size", 64, "--output", tmp_path / "out", "--work", tmp_path]
    words += ["--json", tmp_path / "out" / "peers.json"]
    words += ["--only", "torch_channels_last", "onnxruntime_fp32", "auto_shipped", "int8"]
    monkeypatch.setattr(sys, "argv", ["peers.py", *map(str, words)])
    peers = script("peers")
    monkeypatch.setattr(peers, "measure_peaks", lambda size, seconds: {"fp32": {"numpy": 1e9, "torch": 1e10}})
    peers.main()
    found = json.loads((tmp_path / "out" / "peers.json").read_text(encoding="utf-8"))
    assert found["ratios"]["over_best_torch"] > 0
    assert found["ratios"]["over_best_bare_backend_whole_process"] > 0
    assert found["ratios"]["foreground_dice_vs_fp32"] > 0.999
    speed = 64 * 64 / found["configurations"][-1]["steady"][0]
    assert found["ratios"]["peak_fraction"] == pytest.approx(speed * found["operations_per_voxel"] / 1e10)
    assert found["left_out"] == {"tomoscribe, precision given, INT8": "--quick exports no INT8"}
    text = (tmp_path / "out" / "peers.md").read_text(encoding="utf-8")
    assert str(tmp_path) not in text
    assert "ONNX Runtime, bare loop" in text
    assert (tmp_path / "out" / "peers.png").is_file()

"""Exporting a bundle: what is in it, what stops it, and that a stopped export leaves nothing."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from importlib.metadata import version

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from PIL import Image

from tomoscribe.engine.bundle import CHECKPOINT, MODEL_FILE, Bundle
from tomoscribe.engine.errors import BundleError, OutputError, OutputExistsError, ParameterError
from tomoscribe.export import PRECISIONS, ParityError, export_bundle
from tomoscribe.export import bundle as export_module
from tomoscribe.export.augmentation import augmented
from tomoscribe.export.samples import SampleSets
from tomoscribe.export.splitting import split_concatenations
from tomoscribe.train.checkpoint import CheckpointError, load_checkpoint

REPORT = ["parity.json", "parity.md"]


@pytest.fixture(autouse=True)
def gathered(exported, samples, monkeypatch):
    """The exporter and phantoms take seconds; every test here needs the same graphs, and noise is enough."""
    asked = []

    def gather(_specification, tomograms, *, quantised):
        asked.append((list(tomograms), quantised))
        return SampleSets(samples(1), samples(1, seed=1), samples(1, seed=2)) if quantised else SampleSets(samples(1))

    monkeypatch.setattr(export_module, "to_onnx", lambda _network, _specification, dtype: exported(1, dtype))
    monkeypatch.setattr(export_module, "gather_samples", gather)
    return asked


def altered(model, change):
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    weights = next(w for w in copy.graph.initializer if len(w.dims) == 4)
    weights.CopyFrom(
        numpy_helper.from_array(np.ascontiguousarray(change(numpy_helper.to_array(weights))), weights.name)
    )
    return copy


@pytest.fixture
def altering(exported, monkeypatch):
    """Makes one of the graphs another than the network."""

    def altering(precision, change):
        def to_onnx(_network, _specification, dtype):
            wanted = dtype == {"fp32": torch.float32, "fp16": torch.float16}[precision]
            return altered(exported(1, dtype), change) if wanted else exported(1, dtype)

        monkeypatch.setattr(export_module, "to_onnx", to_onnx)

    return altering


@pytest.fixture(scope="module")
def all_precisions(checkpoint_file, exported, samples, tmp_path_factory):
    """A bundle with everything; INT8 of a network that was not trained may drift."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        sets = SampleSets(samples(1), samples(1, seed=1), samples(1, seed=2))
        monkeypatch.setattr(export_module, "to_onnx", lambda _network, _specification, dtype: exported(1, dtype))
        monkeypatch.setattr(export_module, "gather_samples", lambda *_, **__: sets)
        output = tmp_path_factory.mktemp("bundles") / "new" / "model"
        return export_bundle(checkpoint_file, output, precisions=("int8", "fp16", "int8-cpu"), allow_drift=True)


def test_a_bundle_holds_every_artifact_and_says_all_of_it(all_precisions, checkpoint_file, exported):
    loaded = Bundle.load(all_precisions.path)
    assert all_precisions == loaded
    assert loaded.specification == load_checkpoint(checkpoint_file).specification
    assert list(loaded.artifacts) == [*PRECISIONS, CHECKPOINT]
    for precision, artifact in loaded.artifacts.items():
        path = loaded.artifact_path(precision)
        assert artifact.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert onnx.load(loaded.artifact_path("fp32")) == split_concatenations(exported(1))
    assert loaded.artifact_path("fp16").read_bytes() == exported(1, torch.float16).SerializeToString()
    assert loaded.artifact_path(CHECKPOINT).stat().st_size < 0.6 * checkpoint_file.stat().st_size
    zeros = {
        precision: {
            w.data_type for w in onnx.load(loaded.artifact_path(precision)).graph.initializer if "zero_point" in w.name
        }
        for precision in ("int8", "int8-cpu")
    }
    assert onnx.TensorProto.UINT8 not in zeros["int8"]  # TensorRT refuses it
    assert onnx.TensorProto.UINT8 in zeros["int8-cpu"]
    assert [path.name for path in loaded.path.parent.iterdir()] == ["model"]
    files = [artifact.file for artifact in loaded.artifacts.values()]
    pictures = [f"parity.{precision}.png" for precision in PRECISIONS]
    assert sorted(path.name for path in loaded.path.iterdir()) == sorted([*files, *pictures, *REPORT, MODEL_FILE])
    for picture in pictures:
        with Image.open(loaded.path / picture) as image:
            image.verify()


def test_figures_are_those_of_the_samples(all_precisions):
    parity = all_precisions.parity
    assert tuple(parity) == PRECISIONS
    assert {figures["pixels"] for figures in parity.values()} == {32 * 48 + 2 * 36 * 44}
    assert parity["fp32"]["labels_equal"] == 1.0
    assert parity["fp32"]["largest_score_difference"] <= 1
    assert all(way.startswith("OpenVINO") for way in parity["fp32"]["others"])
    assert parity["fp32"]["passed"]
    assert parity["fp16"]["passed"]
    assert parity["int8"]["passed"] == (not parity["int8"]["shortfalls"])
    assert parity["fp32"]["mean_score_difference"] < parity["fp16"]["mean_score_difference"]
    assert parity["fp16"]["mean_score_difference"] < parity["int8"]["mean_score_difference"]
    (rounded,) = parity["fp16"]["others"]
    assert "rounded to FP16" in rounded


def test_the_report_has_all_artifacts_and_the_search(all_precisions):
    entries = json.loads((all_precisions.path / "parity.json").read_text("utf-8"))
    assert tuple(entries["artifacts"]) == PRECISIONS
    for precision, figures in all_precisions.parity.items():
        assert {**entries["artifacts"][precision]}.items() >= figures.items()
    assert entries["artifacts"]["fp32"]["layer_errors"] == {}
    assert [len(entries["artifacts"][name]["layer_errors"]) for name in PRECISIONS] == [0, 13, 13, 13]
    assert {name: made["form"] for name, made in entries["quantisation"].items()} == {
        "int8": "tensorrt",
        "int8-cpu": "cpu",
    }
    text = (all_precisions.path / "parity.md").read_text("utf-8")
    assert "## How int8-cpu was made" in text
    assert text.count("![") == 4


def test_provenance_and_training_say_where_it_comes_from(all_precisions, checkpoint_file):
    sha256 = hashlib.sha256(checkpoint_file.read_bytes()).hexdigest()
    assert all_precisions.training == {"step": 3, "checkpoint": {"file": checkpoint_file.name, "sha256": sha256}}
    packages = ("tomoscribe", "torch", "onnx", "onnxscript", "onnxruntime")
    assert all_precisions.provenance == {**{name: version(name) for name in packages}, "opset": 18}


def test_the_checkpoint_comes_along_in_half_the_size(all_precisions, checkpoint_file):
    copy = all_precisions.artifact_path(CHECKPOINT)
    original, loaded = load_checkpoint(checkpoint_file), load_checkpoint(copy)
    assert loaded.specification == original.specification
    assert loaded.training == original.training
    for name, values in original.network.state_dict().items():
        torch.testing.assert_close(loaded.network.state_dict()[name], values, rtol=2**-11, atol=2**-25)


def test_fp32_and_fp16_are_the_default_and_the_same_bundle_comes_twice(checkpoint_file, tmp_path, gathered):
    first, second = (export_bundle(checkpoint_file, tmp_path / name) for name in ("first", "second"))
    assert list(first.artifacts) == ["fp32", "fp16", CHECKPOINT]
    assert gathered == [([], False)] * 2
    names = sorted(path.name for path in first.path.iterdir())
    assert names == sorted(path.name for path in second.path.iterdir())
    for name in names:
        assert (first.path / name).read_bytes() == (second.path / name).read_bytes(), name


def test_fp32_is_always_written_and_tomograms_are_handed_on(checkpoint_file, tmp_path, gathered):
    told = []
    bundle = export_bundle(checkpoint_file, tmp_path / "a", precisions=(), tomograms=["t.mrc"], progress=told.append)
    assert list(bundle.artifacts) == ["fp32", CHECKPOINT]
    assert gathered == [(["t.mrc"], False)]
    assert told == ["slices to compare on", "writing fp32", "comparing fp32"]
    with pytest.raises(ParameterError, match="expected some of fp32, fp16, int8, int8-cpu, found bf16, int4"):
        export_bundle(checkpoint_file, tmp_path / "b", precisions=("int4", "fp16", "bf16"))


@pytest.mark.parametrize(
    "change", [lambda w: w + np.float32(0.02), lambda w: w[::-1], lambda w: w * np.float32(np.nan)]
)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_an_artifact_with_other_weights_is_refused_and_nothing_is_left(
    checkpoint_file, tmp_path, altering, change, precision
):
    altering(precision, lambda w: change(w).astype(w.dtype))
    with pytest.raises(ParityError, match=f"^model.{precision}.onnx: expected equal labels .* no bundle") as caught:
        export_bundle(checkpoint_file, tmp_path / "model")
    message = str(caught.value)
    assert "\n" not in message
    # The first convolution is the one that was altered.
    assert ("layer encoder.0.0" in message) == (precision == "fp16")
    assert isinstance(caught.value, BundleError)
    assert caught.value.exit_status == 1
    assert list(tmp_path.iterdir()) == []


def test_drift_that_is_allowed_is_written_and_marked(checkpoint_file, tmp_path, altering):
    altering("fp16", lambda w: w[::-1])
    bundle = export_bundle(checkpoint_file, tmp_path / "model", allow_drift=True)
    assert bundle.parity["fp32"]["passed"] is True
    assert bundle.parity["fp16"]["passed"] is False
    assert "expected equal labels" in bundle.parity["fp16"]["shortfalls"][0]
    entries = json.loads((bundle.path / "parity.json").read_text("utf-8"))
    assert entries["artifacts"]["fp16"]["passed"] is False
    assert "drifts" in (bundle.path / "parity.md").read_text("utf-8")
    assert bundle.artifact_path("fp16").is_file()


def test_fp16_has_to_pass_as_a_gpu_rounds_it_too(checkpoint_file, tmp_path, monkeypatch):
    wrong = export_module.pytorch_runner

    def all_background(network, _augmentation):
        def run(sample):
            answer = wrong(network)(sample)
            answer.labels[:] = 0
            return answer

        return run

    monkeypatch.setattr(export_module, "half_runner", all_background)
    with pytest.raises(ParityError, match="rounded to FP16"):
        export_bundle(checkpoint_file, tmp_path / "model")


@pytest.mark.parametrize("allow_drift", [False, True])
def test_a_graph_that_does_not_run_is_refused_whatever_is_allowed(checkpoint_file, tmp_path, altering, allow_drift):
    altering("fp32", lambda w: w[:, :1])
    with pytest.raises(ParityError, match="cannot") as caught:
        export_bundle(checkpoint_file, tmp_path / "model", allow_drift=allow_drift)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def with_flips(checkpoint_file, exported, samples, tmp_path_factory):
    with pytest.MonkeyPatch.context() as monkeypatch:
        sets = SampleSets(samples(1), samples(1, seed=1), samples(1, seed=2))
        monkeypatch.setattr(export_module, "to_onnx", lambda _network, _specification, dtype: exported(1, dtype))
        monkeypatch.setattr(export_module, "gather_samples", lambda *_, **__: sets)
        output = tmp_path_factory.mktemp("bundles") / "model"
        return export_bundle(
            checkpoint_file, output, precisions=PRECISIONS, test_time_augmentation="flips", allow_drift=True
        )


def test_test_time_augmentation_is_in_every_graph_and_no_file_is_larger(with_flips, all_precisions):
    assert sorted(p.name for p in with_flips.path.iterdir()) == sorted(p.name for p in all_precisions.path.iterdir())
    specification = replace(all_precisions.specification, test_time_augmentation="flips")
    assert with_flips.specification == Bundle.load(with_flips.path).specification == specification
    for precision in PRECISIONS:
        model, plain = (onnx.load(bundle.artifact_path(precision)) for bundle in (with_flips, all_precisions))
        assert model == augmented(plain, specification)
        weights, once = (sum(w.ByteSize() for w in graph.graph.initializer) for graph in (model, plain))
        assert once < weights < once + 500
    # The checkpoint is that of the network, whatever is made of it.
    assert load_checkpoint(with_flips.artifact_path(CHECKPOINT)).specification == all_precisions.specification


def test_graphs_with_test_time_augmentation_are_compared_with_a_loop_in_pytorch(with_flips, all_precisions):
    assert with_flips.parity["fp32"]["labels_equal"] == 1.0
    assert with_flips.parity["fp32"]["largest_score_difference"] <= 1
    for precision in ("fp32", "fp16"):
        assert with_flips.parity[precision]["passed"]
        assert with_flips.parity[precision]["reference"] == f"PyTorch {torch.__version__}, FP32, mean over 4 flips"
    (rounded,) = with_flips.parity["fp16"]["others"].values()
    assert rounded["labels_equal"] > 0.999
    report, plain_report = (
        json.loads((bundle.path / "parity.json").read_text("utf-8")) for bundle in (with_flips, all_precisions)
    )
    assert report["quantisation"] == plain_report["quantisation"]  # of the network itself
    for precision in PRECISIONS:
        assert report["artifacts"][precision]["layer_errors"] == plain_report["artifacts"][precision]["layer_errors"]


@pytest.mark.parametrize("kind", ["flips", "flips-and-turns"])
def test_a_graph_that_does_not_average_is_refused(checkpoint_file, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(export_module, "augmented", lambda model, _specification: model)
    with pytest.raises(ParityError, match=r"^model\.fp32\.onnx: expected equal labels"):
        export_bundle(checkpoint_file, tmp_path / "model", precisions=(), test_time_augmentation=kind)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_test_time_augmentation_is_refused(checkpoint_file, tmp_path):
    with pytest.raises(ParameterError, match="expected one of none, flips, flips-and-turns, found 'zoom'"):
        export_bundle(checkpoint_file, tmp_path / "model", test_time_augmentation="zoom")
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_that_is_there_is_replaced_only_when_asked(checkpoint_file, tmp_path):
    output = tmp_path / "model"
    export_bundle(checkpoint_file, output, precisions=())
    (output / "note").write_text("old")
    with pytest.raises(OutputExistsError, match="a bundle is there already"):
        export_bundle(checkpoint_file, output)
    assert (output / "note").exists()
    export_bundle(checkpoint_file, output, precisions=(), overwrite=True)
    assert not (output / "note").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_failed_replacement_leaves_the_bundle_that_was_there(checkpoint_file, tmp_path, monkeypatch):
    output = tmp_path / "model"
    before = export_bundle(checkpoint_file, output, precisions=())

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export_module.onnx, "save", full)
    with pytest.raises(OutputError, match="No space left"):
        export_bundle(checkpoint_file, output, overwrite=True)
    monkeypatch.undo()
    assert Bundle.load(output) == before
    assert Bundle.load(output).artifact_path("fp32").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_checkpoint_that_cannot_be_read_makes_nothing(tmp_path):
    with pytest.raises(CheckpointError):
        export_bundle(tmp_path / "absent", tmp_path / "new" / "model")
    assert list(tmp_path.iterdir()) == []


def test_the_model_file_is_plain_json(all_precisions):
    entries = json.loads((all_precisions.path / MODEL_FILE).read_text(encoding="utf-8"))
    assert entries["format_version"] == 1
    assert entries["specification"]["classes"][1] == {"number": 2, "name": "membrane µ", "colour": "#040506"}

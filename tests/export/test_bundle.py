"""Exporting a bundle: what is in it, what stops it, and that a stopped export leaves nothing."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tomoscribe.engine.bundle import CHECKPOINT, MODEL_FILE, Bundle
from tomoscribe.engine.errors import BundleError, OutputError, OutputExistsError
from tomoscribe.export import ParityError, export_bundle
from tomoscribe.export import bundle as export_module
from tomoscribe.train.checkpoint import CheckpointError, load_checkpoint


@pytest.fixture(scope="module")
def model(exported):
    return exported(1)


@pytest.fixture(autouse=True)
def _exported_once(model, monkeypatch):
    """The exporter takes seconds, and every test here needs the same graph."""
    monkeypatch.setattr(export_module, "to_onnx", lambda *_: model)


def with_weights(model, change):
    altered = onnx.ModelProto()
    altered.CopyFrom(model)
    weights = next(w for w in altered.graph.initializer if len(w.dims) == 4)
    weights.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(weights)), weights.name))
    return altered


def test_a_bundle_holds_the_graph_and_says_all_of_it(checkpoint_file, model, tmp_path):
    exported = export_bundle(checkpoint_file, tmp_path / "new" / "model")
    trained = load_checkpoint(checkpoint_file)
    loaded = Bundle.load(tmp_path / "new" / "model")
    assert exported == loaded
    assert loaded.specification == trained.specification
    assert loaded.artifact_path("fp32").read_bytes() == model.SerializeToString()
    assert loaded.parity["fp32"]["labels_equal"] == 1.0
    assert loaded.parity["fp32"]["largest_score_difference"] <= 1
    assert loaded.parity["fp32"]["pixels"] > 1000
    sha256 = hashlib.sha256(checkpoint_file.read_bytes()).hexdigest()
    assert loaded.training == {"step": 3, "checkpoint": {"file": checkpoint_file.name, "sha256": sha256}}
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["model"]
    assert loaded.artifact_path(CHECKPOINT).read_bytes() == checkpoint_file.read_bytes()
    assert sorted(path.name for path in loaded.path.iterdir()) == [
        "checkpoint.safetensors",
        "model.fp32.onnx",
        MODEL_FILE,
    ]


@pytest.mark.parametrize("change", [lambda w: w + np.float32(0.02), lambda w: w[::-1], lambda w: w * np.nan])
def test_a_graph_with_other_weights_is_refused_and_nothing_is_left(
    checkpoint_file, model, tmp_path, monkeypatch, change
):
    monkeypatch.setattr(
        export_module, "to_onnx", lambda *_: with_weights(model, lambda w: np.ascontiguousarray(change(w)))
    )
    with pytest.raises(ParityError, match="no bundle was written") as caught:
        export_bundle(checkpoint_file, tmp_path / "model")
    assert isinstance(caught.value, BundleError)
    assert caught.value.exit_status == 1
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_does_not_run_is_refused(checkpoint_file, model, tmp_path, monkeypatch):
    altered = with_weights(model, lambda w: w[:, :1])
    monkeypatch.setattr(export_module, "to_onnx", lambda *_: altered)
    with pytest.raises(ParityError, match="cannot run") as caught:
        export_bundle(checkpoint_file, tmp_path / "model")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_that_is_there_is_replaced_only_when_asked(checkpoint_file, tmp_path):
    output = tmp_path / "model"
    export_bundle(checkpoint_file, output)
    (output / "note").write_text("old")
    with pytest.raises(OutputExistsError, match="a bundle is there already"):
        export_bundle(checkpoint_file, output)
    assert (output / "note").exists()
    export_bundle(checkpoint_file, output, overwrite=True)
    assert not (output / "note").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_what_is_not_a_bundle_is_never_replaced(checkpoint_file, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.tex").write_text("x")
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "absent")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / MODEL_FILE).write_text("{}")
    (tmp_path / "link to a bundle").symlink_to(tmp_path / "other")
    before = sorted(tmp_path.rglob("*"))
    for name in ("folder", "file", "link", "link to a bundle"):
        with pytest.raises(OutputExistsError, match="is not the folder of a model bundle"):
            export_bundle(checkpoint_file, tmp_path / name, overwrite=True)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_failed_replacement_leaves_the_bundle_that_was_there(checkpoint_file, tmp_path, monkeypatch):
    output = tmp_path / "model"
    before = export_bundle(checkpoint_file, output)

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


def test_a_folder_that_cannot_be_made_is_one_line(checkpoint_file, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot be written"):
        export_bundle(checkpoint_file, tmp_path / "file" / "model")


def test_the_model_file_is_plain_json(checkpoint_file, tmp_path):
    export_bundle(checkpoint_file, tmp_path / "model")
    entries = json.loads((tmp_path / "model" / MODEL_FILE).read_text(encoding="utf-8"))
    assert entries["format_version"] == 1
    assert entries["specification"]["classes"][1] == {"number": 2, "name": "membrane µ", "colour": "#040506"}

"""The bundle: what model.json may say, and that an altered artifact is never used."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import replace

import pytest

from tomoscribe.engine.bundle import MODEL_FILE, Artifact, Bundle, ModelSpecification, default_bundle
from tomoscribe.engine.class_map import DEFAULT_CLASS_MAP, ClassMap, LabelClass
from tomoscribe.engine.errors import BundleError, OutputError, ParameterError

SPECIFICATION = ModelSpecification(
    name="tiny µ-net",
    class_map=ClassMap((LabelClass(1, "ribosome", (1, 2, 3)), LabelClass(2, "double membrane", (255, 0, 16)))),
    context=1,
    tile_multiple=16,
    halo=96,
    voxel_size=(9.5, 21.0),
)
GRAPH = b"not really a graph"


@pytest.fixture
def bundle(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.fp32.onnx").write_bytes(GRAPH)
    artifacts = {"fp32": Artifact.of(folder / "model.fp32.onnx")}
    Bundle(folder, SPECIFICATION, artifacts, {"fp32": {"labels_equal": 1.0}}, {"steps": 7}, {"opset": 18}).write()
    return folder


def edit(folder, change):
    path = folder / MODEL_FILE
    entries = json.loads(path.read_text(encoding="utf-8"))
    change(entries)
    path.write_text(json.dumps(entries), encoding="utf-8")


def refusal(folder):
    with pytest.raises(BundleError) as caught:
        Bundle.load(folder)
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    return message


def test_a_written_bundle_is_read_back_whole(bundle):
    loaded = Bundle.load(str(bundle))
    assert loaded.specification == SPECIFICATION
    assert loaded.artifacts == {"fp32": Artifact("model.fp32.onnx", hashlib.sha256(GRAPH).hexdigest())}
    assert loaded.parity == {"fp32": {"labels_equal": 1.0}}
    assert loaded.training == {"steps": 7}
    assert loaded.provenance == {"opset": 18}
    assert loaded.specification.classes == 3
    assert sorted(path.name for path in bundle.iterdir()) == ["model.fp32.onnx", MODEL_FILE]


def test_an_artifact_that_is_whole_is_given_out(bundle):
    assert Bundle.load(bundle).artifact_path("fp32") == bundle / "model.fp32.onnx"


def test_the_sha256_is_computed_once_a_bundle(bundle, monkeypatch):
    loaded = Bundle.load(bundle)
    loaded.artifact_path("fp32")
    monkeypatch.setattr(hashlib, "file_digest", lambda *_: pytest.fail("read again"))
    assert loaded.artifact_path("fp32") == bundle / "model.fp32.onnx"


def test_an_altered_artifact_is_refused(bundle):
    (bundle / "model.fp32.onnx").write_bytes(GRAPH[:-1] + b"!")
    with pytest.raises(BundleError, match=r"model\.fp32\.onnx: expected sha256 .*altered"):
        Bundle.load(bundle).artifact_path("fp32")


def test_a_missing_artifact_is_refused(bundle):
    (bundle / "model.fp32.onnx").unlink()
    with pytest.raises(BundleError, match=r"model\.fp32\.onnx: cannot be read"):
        Bundle.load(bundle).artifact_path("fp32")


def test_an_unknown_precision_is_refused_and_the_known_ones_are_named(bundle):
    with pytest.raises(BundleError, match=r"no int8 artifact.*fp32"):
        Bundle.load(bundle).artifact_path("int8")


def test_a_missing_folder_a_file_and_an_empty_folder_are_told_apart(tmp_path):
    assert "found nothing there" in refusal(tmp_path / "absent")
    (tmp_path / "file").write_text("x")
    assert "found a file there" in refusal(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    assert "no model.json in it" in refusal(tmp_path / "empty")


@pytest.mark.parametrize("text", ["", "{", "\0", "[]", "null", '{"format": "other"}'])
def test_what_is_not_a_model_file_is_refused(bundle, text):
    (bundle / MODEL_FILE).write_text(text)
    assert MODEL_FILE in refusal(bundle)


def test_a_model_file_in_another_encoding_is_refused(bundle):
    (bundle / MODEL_FILE).write_bytes(b"\xff\xfe{}")
    assert "not valid JSON" in refusal(bundle)


def test_a_newer_format_says_to_upgrade_and_a_strange_one_to_export_again(bundle):
    edit(bundle, lambda entries: entries.update(format_version=2))
    assert refusal(bundle).endswith("found 2; upgrade tomoscribe")
    edit(bundle, lambda entries: entries.update(format_version="1"))
    assert refusal(bundle).endswith("found '1'; export again")


def test_a_bundle_from_before_there_was_provenance_is_read(bundle):
    edit(bundle, lambda entries: entries.pop("provenance"))
    assert Bundle.load(bundle).provenance == {}


@pytest.mark.parametrize("key", ["specification", "artifacts", "parity", "training", "provenance"])
@pytest.mark.parametrize("value", [None, 3])
def test_a_missing_section_is_named(bundle, key, value):
    edit(bundle, lambda entries: entries.update({key: value}))
    assert f"{key}: expected an object" in refusal(bundle)


def test_test_time_augmentation_is_written_where_there_is_some(bundle):
    assert "test_time_augmentation" not in SPECIFICATION.to_json()  # as older versions wrote and read it
    augmented = replace(SPECIFICATION, test_time_augmentation="flips")
    Bundle(bundle, augmented, {"fp32": Artifact.of(bundle / "model.fp32.onnx")}).write()
    assert Bundle.load(bundle).specification == augmented != SPECIFICATION
    edit(bundle, lambda entries: entries["specification"].pop("test_time_augmentation"))
    assert Bundle.load(bundle).specification == SPECIFICATION


@pytest.mark.parametrize("key", sorted(SPECIFICATION.to_json()))
def test_a_missing_key_of_the_specification_is_named(bundle, key):
    edit(bundle, lambda entries: entries["specification"].pop(key))
    assert f"the key '{key}'" in refusal(bundle)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", " "),
        ("name", "two\nlines"),
        ("classes", 3),
        ("classes", [{"number": 1, "name": "x", "colour": "red"}]),
        ("context", -1),
        ("context", 1.0),
        ("context", True),
        ("tile_multiple", 0),
        ("halo", -1),
        ("halo", "96"),
        ("voxel_size", [20.0, 10.0]),
        ("voxel_size", [0, 10.0]),
        ("voxel_size", [10.0]),
        ("voxel_size", [10.0, float("inf")]),
        ("voxel_size", None),
        ("polarity", "grey"),
        ("normalisation", "slice"),
        ("test_time_augmentation", "zoom"),
        ("test_time_augmentation", None),
        ("test_time_augmentation", ["flips"]),
    ],
)
def test_a_value_that_cannot_be_is_refused(bundle, key, value):
    edit(bundle, lambda entries: entries["specification"].update({key: value}))
    refusal(bundle)


@pytest.mark.parametrize("name", ["../model.onnx", "/etc/passwd", "..", ".", "", "a/b.onnx", "a\\b.onnx", "C:b", 3])
def test_a_file_name_may_not_leave_the_folder(bundle, name):
    edit(bundle, lambda entries: entries["artifacts"]["fp32"].update(file=name))
    assert "file name inside the bundle" in refusal(bundle)


@pytest.mark.parametrize("artifacts", [{}, {"fp32": {"file": "x"}}, {"fp32": "x"}])
def test_artifacts_must_be_complete(bundle, artifacts):
    edit(bundle, lambda entries: entries.update(artifacts=artifacts))
    assert "artifact" in refusal(bundle)


def test_a_specification_checks_itself():
    with pytest.raises(ParameterError, match="polarity: expected one of dark, bright, found 'light'"):
        replace(SPECIFICATION, polarity="light")


def test_writing_into_a_folder_that_is_not_there_leaves_nothing(tmp_path):
    with pytest.raises(OutputError, match=r"model\.json: cannot be written"):
        Bundle(tmp_path / "absent", SPECIFICATION, {}).write()
    assert list(tmp_path.iterdir()) == []


def test_a_failed_rename_leaves_the_old_model_file_and_no_temporary(bundle, monkeypatch):
    before = (bundle / MODEL_FILE).read_bytes()
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(OutputError, match="No space left"):
        Bundle(bundle, SPECIFICATION, {}).write()
    assert (bundle / MODEL_FILE).read_bytes() == before
    assert sorted(path.name for path in bundle.iterdir()) == ["model.fp32.onnx", MODEL_FILE]


def test_the_default_bundle_lies_in_the_engine():
    assert default_bundle().parts[-3:] == ("engine", "models", "default")


def test_importing_the_bundle_imports_no_runtime():
    code = "import sys, tomoscribe.engine.bundle as b; print({'torch', 'onnx', 'onnxruntime'} & sys.modules.keys())"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_the_default_class_map_goes_through_json():
    specification = replace(SPECIFICATION, class_map=DEFAULT_CLASS_MAP)
    assert ModelSpecification.from_json(json.loads(json.dumps(specification.to_json()))) == specification

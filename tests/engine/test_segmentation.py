from __future__ import annotations

import errno
import json
import math
import os
from dataclasses import replace

import mrcfile
import numpy as np
import pytest

from tomoscribe.engine import (
    BackendUnavailableError,
    Bundle,
    BundleError,
    IntensityError,
    OutputError,
    OutputExistsError,
    ParameterError,
    Segmenter,
    TomogramNotFoundError,
    open_tomogram,
    segment,
)
from tomoscribe.engine.backends import SlotLimits

SHAPE = (7, 45, 38)


@pytest.fixture
def tomogram(tmp_path, volumes):
    return volumes.write(tmp_path / "position_1.rec.mrc", volumes.values())


def test_writes_the_labels_of_the_model_where_the_tomogram_lies(tomogram, tiny_bundle, tmp_path, volumes):
    result = segment(tomogram, model=tiny_bundle)

    expected = volumes.expected_labels(volumes.values())
    assert set(np.unique(expected)) == {0, 1, 2}
    np.testing.assert_array_equal(volumes.read(result.labels), expected)
    for number, name in ((1, "dark matter"), (2, "light")):
        np.testing.assert_array_equal(
            volumes.read(result.class_volumes[name]), np.where(expected == number, 201, 27) >> 1
        )
        assert result.counts[name] == np.count_nonzero(expected == number)
    for path in (result.labels, *result.class_volumes.values()):
        assert mrcfile.validate(path)
        with mrcfile.open(path) as file, mrcfile.open(tomogram) as source:
            assert file.header.mode == 0
            assert file.voxel_size == source.voxel_size
            for key in ("origin", "nxstart", "nystart", "nzstart", "mapc", "cella"):
                assert file.header[key] == source.header[key]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "position_1.rec.mrc",
        "position_1.rec__DarkMatter.mrc",
        "position_1.rec__Light.mrc",
        "position_1.rec__labels.json",
        "position_1.rec__labels.mrc",
    ]
    assert result.voxels == math.prod(SHAPE)
    assert result.voxels_per_second == result.voxels / result.seconds
    assert result.warnings == ()


def test_sidecar_says_what_the_numbers_mean(tomogram, tiny_bundle):
    result = segment(tomogram, model=tiny_bundle, classes=["Light"], z_range=(1, 6))
    facts = json.loads(result.sidecar.read_text(encoding="utf-8"))
    assert facts["classes"] == [
        {"number": 1, "name": "dark matter", "colour": "#e69f00", "voxels": None},
        {"number": 2, "name": "light", "colour": "#56b4e9", "voxels": result.counts["light"]},
    ]
    assert facts["class_volumes"] == {"light": "position_1.rec__Light.mrc"}
    assert facts["tomogram"] == "position_1.rec.mrc"
    assert facts["labels"] == "position_1.rec__labels.mrc"
    assert facts["voxel_size_xyz"] == [10.0] * 3
    assert facts["origin_xyz"] == [1.5, -2.0, 30.25]
    assert facts["z_range"] == [1, 6]
    assert facts["model"]["name"] == "tiny"
    assert len(facts["model"]["sha256"]["fp32"]) == 64
    assert facts["scores"].startswith("int8, round(255 × probability) halved and rounded down: 0 to 127")


def test_only_the_classes_that_are_named_are_kept(tomogram, tiny_bundle, tmp_path, volumes):
    result = segment(tomogram, tmp_path / "deep" / "out", model=tiny_bundle, classes=["light"])
    expected = volumes.expected_labels(volumes.values())
    np.testing.assert_array_equal(volumes.read(result.labels), np.where(expected == 2, 2, 0))
    assert list(result.class_volumes) == list(result.counts) == ["light"]
    assert len(list((tmp_path / "deep" / "out").iterdir())) == 3


def test_a_z_range_leaves_the_rest_empty_and_damaged_slices_out(tmp_path, tiny_bundle, volumes):
    path = volumes.write(tmp_path / "a.mrc", volumes.values())
    volumes.damage(path, 0, np.nan)
    with pytest.raises(IntensityError, match="z = 0"):
        segment(path, model=tiny_bundle)
    # Slice 0 would be context of slice 1, and slice 1 stands for it.
    result = segment(path, model=tiny_bundle, z_range=(1, 7))
    labels = volumes.read(result.labels)
    assert labels.shape == SHAPE
    assert not labels[0].any()
    np.testing.assert_array_equal(labels[1:], volumes.expected_labels(volumes.values()[1:]))
    assert result.voxels == 6 * SHAPE[1] * SHAPE[2]


def test_inversion_exchanges_dark_and_light(tomogram, tiny_bundle, volumes):
    result = segment(tomogram, model=tiny_bundle, invert=True)
    np.testing.assert_array_equal(volumes.read(result.labels), volumes.expected_labels(volumes.values(), invert=True))
    assert json.loads(result.sidecar.read_text())["inverted"] is True


def test_a_model_of_bright_density_sees_the_tomogram_turned_over(tomogram, tiny_bundle, volumes):
    bundle = Bundle.load(tiny_bundle)
    bright = replace(bundle, specification=replace(bundle.specification, polarity="bright"))
    labels = volumes.read(segment(tomogram, model=bright).labels)
    np.testing.assert_array_equal(labels, volumes.expected_labels(volumes.values(), invert=True))
    labels = volumes.read(segment(tomogram, model=bright, invert=True, overwrite=True).labels)
    np.testing.assert_array_equal(labels, volumes.expected_labels(volumes.values()))


@pytest.mark.parametrize(("largest", "pixels"), [(16, 2**18), (1024, 1), (1024, 2**12), (24, 2**11)])
def test_tiles_and_batches_do_not_change_the_labels(tomogram, tiny_bundle, monkeypatch, largest, pixels, volumes):
    monkeypatch.setattr("tomoscribe.engine.backends.cpu_backend.CPU_LIMITS", SlotLimits(largest**2, pixels))
    result = segment(tomogram, model=tiny_bundle)
    np.testing.assert_array_equal(volumes.read(result.labels), volumes.expected_labels(volumes.values()))


def test_an_existing_output_is_replaced_only_when_told_to(tomogram, tiny_bundle, tmp_path):
    foreign = tmp_path / "position_1.rec__Light.mrc"
    foreign.write_bytes(b"somebody else's")
    with pytest.raises(OutputExistsError, match="Light"):
        segment(tomogram, model=tiny_bundle)
    assert foreign.read_bytes() == b"somebody else's"
    assert len(list(tmp_path.iterdir())) == 2
    segment(tomogram, model=tiny_bundle, classes=["dark matter"])
    with pytest.raises(OutputExistsError, match="labels"):
        segment(tomogram, model=tiny_bundle, classes=["dark matter"])
    segment(tomogram, model=tiny_bundle, overwrite=True)
    assert mrcfile.validate(foreign)


def test_class_volumes_of_the_run_that_is_replaced_do_not_stay(tomogram, tiny_bundle, tmp_path):
    output = tmp_path / "out"
    segment(tomogram, output, model=tiny_bundle)
    others = [output / name for name in ("position_1.rec__other.mrc", "position_2.rec__Light.mrc")]
    for other in others:
        other.write_text("not of that run")
    result = segment(tomogram, output, model=tiny_bundle, classes=["dark matter"], overwrite=True)
    written = [result.labels, result.sidecar, result.class_volumes["dark matter"]]
    assert sorted(output.iterdir()) == sorted([*written, *others])
    assert result.warnings == ()


def test_a_sidecar_cannot_have_other_files_removed(tomogram, tiny_bundle, tmp_path):
    output = tmp_path / "out"
    segment(tomogram, output, model=tiny_bundle)
    kept = [
        tmp_path / "position_1.rec__up.mrc",
        output / "position_2__labels.mrc",
        output / "position_1.rec__notes.txt",
        output / "position_1.rec__overview.png",
        output / "deep" / "position_1.rec__deep.mrc",
    ]
    (output / "deep").mkdir()
    for path in kept:
        path.write_text("keep")
    gone = output / "position_1.rec__Gone.mrc"
    gone.write_text("of that run")
    same_in_other_case = output / "position_1.rec__LIGHT.mrc"
    same_in_other_case.touch()
    names = [
        *(str(path) for path in kept),
        *(path.name for path in kept),
        "../position_1.rec__up.mrc",
        "deep/position_1.rec__deep.mrc",
        "position_1.rec__labels.mrc",
        "position_1.rec__labels.json",
        same_in_other_case.name,
        "position_1.rec__never.mrc",
        "position_1.rec__\0.mrc",
        "",
        gone.name,
        7,
    ]
    sidecar = output / "position_1.rec__labels.json"
    sidecar.write_text(json.dumps({"class_volumes": dict(enumerate(names))}))
    result = segment(tomogram, output, model=tiny_bundle, overwrite=True)
    assert not gone.exists()
    assert all(path.read_text() == "keep" for path in kept)
    for path in (tomogram, result.labels, result.sidecar, *result.class_volumes.values(), same_in_other_case):
        assert path.exists()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"class_volumes": ["a"]}', '{"class_volumes": {"a": []}}', "\xff"])
def test_a_sidecar_that_is_none_removes_nothing(tomogram, tiny_bundle, tmp_path, text):
    result = segment(tomogram, model=tiny_bundle)
    result.sidecar.write_text(text, encoding="latin-1")
    segment(tomogram, model=tiny_bundle, classes=["light"], overwrite=True)
    assert result.class_volumes["dark matter"].exists()


def test_a_class_volume_that_cannot_be_removed_is_a_warning(tomogram, tiny_bundle):
    stale = segment(tomogram, model=tiny_bundle).class_volumes["dark matter"]
    stale.unlink()
    stale.mkdir()
    said = []
    result = segment(tomogram, model=tiny_bundle, classes=["light"], overwrite=True, warn=said.append)
    assert result.warnings == tuple(said)
    assert [str(stale) in warning for warning in said] == [True]


def test_a_warm_segmenter_takes_open_tomograms_and_counts_slices(tomogram, tiny_bundle):
    slices = []
    with (
        Segmenter(tiny_bundle, backend="onnxruntime") as segmenter,
        open_tomogram(tomogram, voxel_size=12.5) as opened,
    ):
        assert "ONNX Runtime" in segmenter.backend
        assert "onnxruntime" in segmenter.reason
        first = segmenter.segment(opened, progress=slices.append)
        again = segmenter.segment(opened, overwrite=True)
    assert sum(slices) == SHAPE[0]
    assert first.counts == again.counts
    with mrcfile.open(first.labels) as file:
        assert file.voxel_size.tolist() == (12.5, 12.5, 12.5)


@pytest.mark.parametrize(("sign", "invert", "word"), [(-1, False, ""), (1, False, "bright on"), (-1, True, "dark on")])
def test_contrast_that_looks_the_wrong_way_round_is_a_warning(tmp_path, tiny_bundle, sign, invert, word, volumes):
    values = np.random.default_rng(0).normal(0, 0.1, (4, 80, 80)).astype(np.float32)
    small = np.arange(80) % 16 < 3
    values[:, np.outer(small, small)] += 20 * sign
    said = []
    path = volumes.write(tmp_path / "a.mrc", values)
    result = segment(path, model=tiny_bundle, invert=invert, warn=said.append)
    assert result.warnings == tuple(said)
    assert len(said) == bool(word)
    assert all(word in warning for warning in said)


def test_the_result_is_plain_json(tomogram, tiny_bundle):
    result = segment(tomogram, model=tiny_bundle)
    entries = json.loads(json.dumps(result.to_json()))
    assert entries["labels"] == str(result.labels)
    assert entries["counts"] == dict(result.counts)
    assert entries["shape"] == list(SHAPE)


@pytest.mark.parametrize("z_range", [(0, 8), (-1, 3), (3, 3), (5, 2)])
def test_a_z_range_outside_the_volume_is_refused(tomogram, tiny_bundle, z_range):
    with pytest.raises(ParameterError, match="0:7"):
        segment(tomogram, model=tiny_bundle, z_range=z_range)


def test_what_cannot_be_done_is_said_before_anything_is_written(tomogram, tiny_bundle, tmp_path):
    with pytest.raises(ParameterError, match="dark matter, light"):
        segment(tomogram, model=tiny_bundle, classes=["ribosome"])
    with pytest.raises(TomogramNotFoundError):
        segment(tmp_path / "none.mrc", model=tiny_bundle)
    with pytest.raises(BundleError, match="model bundle"):
        segment(tomogram, model=tmp_path / "none")
    with pytest.raises(ParameterError, match="onnxruntime"):
        segment(tomogram, model=tiny_bundle, backend="abacus")
    blocked = tmp_path / "blocked"
    blocked.write_text("a file")
    with pytest.raises(OutputError, match="folder"):
        segment(tomogram, blocked / "out", model=tiny_bundle)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["blocked", tomogram.name]


def test_no_runtime_says_what_to_install(tomogram, tiny_bundle, monkeypatch):
    for runtime in ("onnxruntime", "openvino"):
        monkeypatch.setitem(__import__("sys").modules, runtime, None)
    with pytest.raises(BackendUnavailableError, match=r"pip install \"tomoscribe\[cpu\]\""):
        segment(tomogram, model=tiny_bundle)


def test_a_failure_leaves_no_file_behind(tmp_path, tiny_bundle, volumes):
    path = volumes.write(tmp_path / "a.mrc", volumes.values((40, 45, 38)))
    volumes.damage(path, 34, np.inf)  # not among the 16 slices that the intensities are measured on
    with pytest.raises(IntensityError, match="z = 34"):
        segment(path, model=tiny_bundle)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.mrc"]


def test_a_failure_to_open_the_last_output_removes_the_first(tomogram, tiny_bundle, tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise OutputError("no")

    monkeypatch.setattr("tomoscribe.engine.outputs.LabelVolume", refuse)
    with pytest.raises(OutputError, match="no"):
        segment(tomogram, model=tiny_bundle)
    assert list(tmp_path.iterdir()) == [tomogram]


@pytest.mark.parametrize("full_at", range(4))
def test_a_disk_that_is_full_at_any_output_leaves_what_was_there(tomogram, tiny_bundle, tmp_path, monkeypatch, full_at):
    fsync, calls = os.fsync, []

    def fill_up(file):
        calls.append(file)
        if len(calls) == full_at + 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(file)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fill_up)
        with pytest.raises(OutputError, match="No space left on device"):
            segment(tomogram, model=tiny_bundle)
    assert len(calls) == full_at + 1
    assert list(tmp_path.iterdir()) == [tomogram]

    segment(tomogram, model=tiny_bundle)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    calls.clear()
    monkeypatch.setattr(os, "fsync", fill_up)
    with pytest.raises(OutputError, match="No space left on device"):
        segment(tomogram, model=tiny_bundle, overwrite=True)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_disk_can_be_full_at_no_output_more_than_these(tomogram, tiny_bundle, monkeypatch):
    fsync, calls = os.fsync, []
    monkeypatch.setattr(os, "fsync", lambda file: (calls.append(file), fsync(file)))
    segment(tomogram, model=tiny_bundle)
    assert len(calls) == 4


def test_a_network_that_drifted_is_a_warning(tomogram, tiny_bundle):
    bundle = replace(
        Bundle.load(tiny_bundle), parity={"fp32": {"runtime": "ONNX Runtime 1.23.0, CPU", "passed": False}}
    )
    said = []
    result = segment(tomogram, model=bundle, backend="onnxruntime", precision="fp32", warn=said.append)
    assert list(result.warnings) == said
    assert ["did not pass its parity gate" in line for line in said] == [True]
    assert said == json.loads(result.sidecar.read_text())["warnings"]

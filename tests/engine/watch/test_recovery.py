"""What a watcher that was killed has left."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from tomoscribe.engine.segmentation import Segmenter
from tomoscribe.engine.tomogram import open_tomogram
from tomoscribe.engine.watch.claim import content_of
from tomoscribe.engine.watch.entry import State
from tomoscribe.engine.watch.ledger import Ledger
from tomoscribe.engine.watch.owner import Owner
from tomoscribe.engine.watch.recovery import FinishedOutputs, finished_outputs, remove_unfinished, sweep
from tomoscribe.engine.watch.settings import WatchSettings

DEAD = Owner(Owner.current().host, Owner.current().pid, 1)
ALIVE = Owner.current()


@pytest.fixture(scope="module")
def labelled(tmp_path_factory, tiny_bundle, write_volume):
    """A tomogram that was labelled, and how."""
    base = tmp_path_factory.mktemp("labelled")
    path = write_volume(base / "session" / "sub" / "a.mrc", 1)
    with Segmenter(tiny_bundle, backend="onnxruntime", precision="fp32") as segmenter:
        result = segmenter.segment(path, base / "output" / "sub")
        with open_tomogram(path) as tomogram:
            preview = segmenter.preview(tomogram)
        yield SimpleNamespace(base=base, result=result, preview=preview, bundle=segmenter.bundle)


@pytest.fixture
def case(labelled, tmp_path):
    """A copy of the outputs, the entry and the settings."""
    folder, output = labelled.base / "session", tmp_path / "output"
    shutil.copytree(labelled.base / "output", output)
    settings = WatchSettings(folder, output)
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        entry = ledger.notice("sub/a.mrc", content_of(folder / "sub" / "a.mrc"), State.WAITING, 0.0)
    return SimpleNamespace(entry=entry, settings=settings, bundle=labelled.bundle, place=output / "sub")


def find(case):
    return finished_outputs(case.entry, case.settings, case.bundle)


def test_complete_outputs_tell_what_the_segmentation_told(case, labelled):
    found, told = find(case), FinishedOutputs.of(labelled.result, 0.0)
    for name in ("shape", "voxel_size", "model", "backend", "counts", "warnings"):
        assert getattr(found, name) == getattr(told, name), name
    assert {kind: path.name for kind, path in found.outputs.items()} == {
        kind: path.name for kind, path in told.outputs.items()
    }
    assert found.seconds is None
    assert found.finished == (case.place / "a__labels.mrc").stat().st_mtime_ns / 1e9
    with open_tomogram(case.settings.folder / "sub" / "a.mrc") as tomogram:
        preview = found.preview(tomogram)
    assert preview.z == labelled.preview.z
    assert np.array_equal(preview.image, labelled.preview.image)
    assert np.array_equal(preview.labels, labelled.preview.labels)
    assert (preview.mean, preview.standard_deviation) == (
        labelled.preview.mean,
        labelled.preview.standard_deviation,
    )


@pytest.mark.parametrize("name", ["a__labels.mrc", "a__labels.json", "a__DarkMatter.mrc", "a__Light.mrc"])
@pytest.mark.parametrize("damage", [os.unlink, lambda path: os.truncate(path, path.stat().st_size - 1)])
def test_a_file_that_is_not_there_or_not_whole(case, name, damage):
    damage(case.place / name)
    assert find(case) is None


def test_a_label_volume_of_an_earlier_run(case):
    modified = (case.place / "a__labels.json").stat().st_mtime_ns
    os.utime(case.place / "a__labels.mrc", ns=(modified - 1, modified - 1))
    assert find(case) is None


@pytest.mark.parametrize("change", [{"size": 1}, {"modified": 1}])
def test_other_content(case, change):
    identity = dataclasses.replace(case.entry.identity, **change)
    case.entry = dataclasses.replace(case.entry, identity=identity)
    assert find(case) is None


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (["model", "sha256", "fp32"], "0" * 64),
        (["labels"], "b__labels.mrc"),
        (["class_volumes", "light"], "../a__Light.mrc"),
        (["shape_zyx"], [12, 64]),
        (["classes"], None),
        (["z_range"], [1, 12]),
        ([], []),
    ],
)
def test_another_sidecar(case, keys, value):
    path = case.place / "a__labels.json"
    facts = json.loads(path.read_text())
    within = [facts]
    for key in keys[:-1]:
        within.append(within[-1][key])
    if keys:
        within[-1][keys[-1]] = value
    path.write_text(json.dumps(facts if keys else value))
    modified = path.stat().st_mtime
    os.utime(case.place / "a__labels.mrc", (modified + 1, modified + 1))
    assert find(case) is None


@pytest.mark.parametrize("change", [{"classes": ("light",)}, {"invert": True}, {"voxel_size": 12.0}])
def test_other_settings(case, change):
    case.settings = dataclasses.replace(case.settings, **change)
    assert find(case) is None


@pytest.mark.parametrize("change", [{"sample_only": True}, {"voxel_size": 10.0}, {"classes": ("light", "dark matter")}])
def test_settings_that_are_met(case, change):
    case.settings = dataclasses.replace(case.settings, **change)
    assert find(case) is not None


UNFINISHED = [".a__labels.mrc.0123abcd.part", ".a__Light.mrc.ffffffff.part", ".a__labels.json.4711.tmp"]
NOT_OURS = [
    "a__labels.mrc",
    ".a__labels.mrc",
    ".a__labels.mrc.part",
    ".a__notes.txt~",
    "a__labels.mrc.0123abcd.part",
    ".ab__labels.mrc.0123abcd.part",
    ".[a]__labels.mrc.0123abcd.part",
]


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.is_file())


def test_what_was_begun_for_a_tomogram_is_removed_and_nothing_else(tmp_path):
    for name in UNFINISHED + NOT_OURS:
        (tmp_path / name).touch()
    remove_unfinished(tmp_path / "elsewhere" / "a.mrc.gz", tmp_path)
    assert names(tmp_path) == sorted(NOT_OURS)
    remove_unfinished(tmp_path / "[a].mrc", tmp_path)
    assert names(tmp_path) == sorted(NOT_OURS[:-1])
    remove_unfinished(tmp_path / "a.mrc", tmp_path / "not made yet")


@pytest.fixture
def swept(tmp_path):
    """Settings, a ledger and the folder of the outputs of ``sub/a.mrc``, where something was begun."""
    settings = WatchSettings(tmp_path / "session", tmp_path / "output")
    place = settings.output / "sub"
    place.mkdir(parents=True)
    settings.folder.mkdir()
    for name in UNFINISHED + NOT_OURS:
        (place / name).touch()
    path = settings.folder / "x"
    path.write_bytes(b"x")
    with Ledger(settings.places.ledger) as ledger:
        yield settings, ledger, place, content_of(path)


def test_what_no_one_goes_on_with_is_swept(swept):
    settings, ledger, place, identity = swept
    ledger.notice("sub/a.mrc", identity, State.WAITING, 0.0)
    ledger.claim(DEAD, 30.0, 0.0)
    (settings.output / UNFINISHED[0]).touch()  # of a tomogram that is not known
    sweep(ledger, settings)
    assert names(place) == sorted(NOT_OURS)
    assert names(settings.output) == UNFINISHED[:1]


def test_what_another_watcher_is_at_is_not_swept(swept):
    settings, ledger, place, identity = swept
    ledger.notice("sub/a.mrc", identity, State.WAITING, 0.0)
    ledger.claim(ALIVE, 30.0, 0.0)
    sweep(ledger, settings)
    assert names(place) == sorted(UNFINISHED + NOT_OURS)


def test_pictures_that_were_begun_long_ago_are_swept(swept):
    settings, ledger, _, _ = swept
    folder = settings.places.pictures / "7"
    folder.mkdir(parents=True)
    for name in (".1-2.z3.grey.webp.0123abcd.part", "1-2.z3.grey.webp", ".just.webp.0123abcd.part"):
        (folder / name).touch()
        if "just" not in name:
            os.utime(folder / name, (0, 0))
    sweep(ledger, settings)
    assert names(folder) == [".just.webp.0123abcd.part", "1-2.z3.grey.webp"]

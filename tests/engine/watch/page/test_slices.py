"""Pictures of slices: of the right voxels, and of nothing that lies elsewhere."""

from __future__ import annotations

import io
import json
import os
from dataclasses import replace

import mrcfile
import numpy as np
import pytest
from PIL import Image

from tomoscribe.engine.class_map import DEFAULT_CLASS_MAP
from tomoscribe.engine.watch.page.slices import NoSliceError, Slices

DEPTH, HEIGHT, WIDTH = 24, 60, 80


def decoded(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("L")).astype(int)


@pytest.fixture
def slices(session):
    slices = Slices(session.settings, DEFAULT_CLASS_MAP)
    yield slices
    slices.close()


@pytest.fixture
def entry(session):
    return session.ledger.get(session.label("grid/a.mrc"))


@pytest.fixture
def tomogram(session):
    return session.settings.folder / "grid" / "a.mrc"


@pytest.fixture
def outputs(session):
    return session.settings.output / "grid"


def black(picture):
    return decoded(picture.data).shape == (HEIGHT, WIDTH) and decoded(picture.data).max() < 5


@pytest.mark.parametrize("z", [0, 11, DEPTH - 1])
def test_labels_are_the_numbers_themselves(session, slices, entry, z):
    assert decoded(slices.labels(entry, z)).tolist() == session.labels["grid/a.mrc"][z, ::-1].tolist()


@pytest.mark.parametrize("z", [0, 11, DEPTH - 1])
def test_grey_is_stretched_by_the_statistics_of_the_sidecar(slices, entry, tomogram, outputs, z):
    (outputs / "a__labels.json").write_text('{"intensity": {"mean": -0.1, "standard_deviation": 0.25}}')
    picture = slices.grey(entry, z)
    assert picture.tomogram == "here"
    expected = np.clip((mrcfile.read(tomogram)[z, ::-1] + 0.1 + 0.75) / 1.5, 0, 1) * 255
    assert abs((decoded(picture.data) - expected).mean()) < 2
    # WebP is lossy, and noise is what it loses most of.
    assert np.corrcoef(decoded(picture.data).ravel(), expected.ravel())[0, 1] > 0.97


@pytest.mark.parametrize(
    "sidecar",
    [
        None,
        "no JSON",
        "[]",
        "{}",
        '{"intensity": {"mean": NaN, "standard_deviation": 1}}',
        '{"intensity": {"mean": 0, "standard_deviation": 0}}',
        '{"intensity": {"mean": 0, "standard_deviation": -1}}',
        '{"intensity": {"mean": 0, "standard_deviation": Infinity}}',
        '{"intensity": {"mean": "x", "standard_deviation": []}}',
    ],
)
def test_without_statistics_a_slice_is_stretched_by_its_own(slices, entry, outputs, sidecar):
    path = outputs / "a__labels.json"
    path.unlink()
    if sidecar:
        path.write_text(sidecar)
    shown = decoded(slices.grey(entry, 5).data)
    assert abs(shown.mean() - 127.5) < 12
    assert 25 < shown.std() < 60  # a sixth of the range is 42


def test_a_thumbnail_is_what_was_saved_for_the_same_slice(session, slices, entry):
    drawn = slices.thumbnail(entry)
    assert drawn.tomogram == "here"
    saved = session.pictures.thumbnail(entry, make=False)
    both = drawn.data, saved.read_bytes()
    shown, expected = (np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in both)
    assert shown.shape == expected.shape
    labelled = session.labels["grid/a.mrc"][DEPTH // 2, ::-1] > 0
    coloured = np.ptp(shown.astype(int), axis=2) > 40
    assert (coloured == labelled).mean() > 0.9
    assert np.ptp(expected.astype(int), axis=2)[labelled].mean() > 40


def test_there_are_no_more_slices(slices, entry):
    for ask in (slices.grey, slices.labels):
        with pytest.raises(NoSliceError, match="24 slices"):
            ask(entry, DEPTH)


def test_there_are_none_before_the_labels(session, slices):
    entry = session.preview("b.mrc")
    for ask in (slices.grey, slices.labels):
        with pytest.raises(NoSliceError, match="no labels yet"):
            ask(entry, 0)


def test_without_the_tomogram_there_are_labels_on_black(slices, entry, tomogram):
    tomogram.unlink()
    picture = slices.grey(entry, 3)
    assert (picture.tomogram, black(picture)) == ("gone", True)
    assert decoded(slices.labels(entry, 3)).any()
    assert slices.thumbnail(entry).tomogram == "gone"


def test_grey_values_of_other_content_are_not_shown(slices, entry, tomogram):
    os.utime(tomogram, (1, 1))
    picture = slices.grey(entry, 3)
    assert (picture.tomogram, black(picture)) == ("changed", True)


def test_a_tomogram_of_another_shape_is_not_shown(slices, entry, tomogram):
    with mrcfile.new(tomogram, overwrite=True) as file:
        file.set_data(np.zeros((DEPTH, 8, 8), np.float32))
    identity = type(entry.identity).of(tomogram.stat())
    picture = slices.grey(replace(entry, identity=identity), 3)
    assert (picture.tomogram, black(picture)) == ("changed", True)


def test_a_tomogram_that_comes_back_is_shown(slices, entry, tomogram):
    tomogram.rename(tomogram.with_name("away.mrc"))
    assert slices.grey(entry, 3).tomogram == "gone"
    tomogram.with_name("away.mrc").rename(tomogram)
    assert slices.grey(entry, 3).tomogram == "here"


@pytest.mark.parametrize("how", ["link", "folder", "path", "absolute"])
def test_a_tomogram_elsewhere_is_not_shown(session, slices, entry, tomogram, tmp_path, how):
    outside = tmp_path / "outside" / "a.mrc"
    outside.parent.mkdir()
    tomogram.rename(outside)
    if how == "link":
        tomogram.symlink_to(outside)
    elif how == "folder":
        tomogram.parent.rmdir()
        tomogram.parent.symlink_to(outside.parent)
    else:
        entry = replace(entry, path="../outside/a.mrc" if how == "path" else str(outside))
    picture = slices.grey(entry, 3)
    assert (picture.tomogram, black(picture)) == ("gone", True)


@pytest.mark.parametrize("how", ["link", "folder", "path", "absolute", "removed", "damaged"])
def test_labels_elsewhere_are_not_read(slices, entry, outputs, tmp_path, how):
    labels, outside = outputs / "a__labels.mrc", tmp_path / "outside" / "a__labels.mrc"
    outside.parent.mkdir()
    labels.rename(outside)
    if how == "link":
        labels.symlink_to(outside)
    elif how == "folder":
        (outputs / "a__labels.json").unlink()
        outputs.rmdir()
        outputs.symlink_to(outside.parent)
    elif how == "damaged":
        labels.write_bytes(outside.read_bytes()[:-1])
    elif how != "removed":
        path = "../outside/a__labels.mrc" if how == "path" else str(outside)
        entry = replace(entry, outputs={"labels": path})
    for ask in (slices.grey, slices.labels):
        with pytest.raises(NoSliceError, match="are not there any more") as raised:
            ask(entry, 3)
        assert str(tmp_path) not in str(raised.value)


def test_the_ledger_is_never_opened_as_a_volume(session, slices, entry):
    outputs = {"labels": ".tomoscribe/ledger.sqlite"}
    with pytest.raises(NoSliceError) as raised:
        slices.labels(replace(entry, outputs=outputs), 0)
    assert isinstance(raised.value.__cause__, PermissionError)


def test_a_sidecar_elsewhere_is_not_read(slices, entry, tmp_path):
    elsewhere = tmp_path / "other.json"
    elsewhere.write_text(json.dumps({"intensity": {"mean": 1e6, "standard_deviation": 1.0}}))
    entry = replace(entry, outputs={**entry.outputs, "sidecar": str(elsewhere)})
    assert decoded(slices.grey(entry, 5).data).mean() > 60  # by that sidecar it were black


def test_new_labels_of_the_same_content_are_shown(session, slices, entry, outputs):
    before = decoded(slices.labels(entry, 5))
    with mrcfile.new(outputs / "a__labels.mrc", overwrite=True) as file:
        file.set_data(np.full((DEPTH, HEIGHT, WIDTH), 3, np.int8))
    assert (decoded(slices.labels(entry, 5)) == before).all()
    assert set(decoded(slices.labels(replace(entry, finished=entry.finished + 1), 5)).ravel()) == {3}


def test_a_picture_is_made_once(slices, entry, tomogram, outputs):
    grey, labels, thumbnail = slices.grey(entry, 7), slices.labels(entry, 7), slices.thumbnail(entry)
    slices.close()
    tomogram.unlink()
    (outputs / "a__labels.mrc").unlink()
    assert slices.grey(entry, 7) == grey
    assert slices.labels(entry, 7) == labels
    assert slices.thumbnail(entry) == thumbnail


def test_open_files_are_bounded_and_given_back(session, slices):
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for number in range(12):
        found = session.ledger.get(session.label(f"t{number}.mrc"))
        slices.grey(found, 1)
        assert len(os.listdir("/proc/self/fd")) <= before + 2 * 8 + 2  # noqa: PTH208
    slices.close_unused(0)
    assert len(os.listdir("/proc/self/fd")) <= before + 2  # noqa: PTH208


def test_axes_of_the_settings(session, entry, tomogram, outputs):
    (outputs / "a__labels.json").unlink()
    slices = Slices(replace(session.settings, axes="xzy"), DEFAULT_CLASS_MAP)
    values, labels = mrcfile.read(tomogram), session.labels["grid/a.mrc"]
    y = 9  # the file's second axis, which is z with these axes
    assert decoded(slices.labels(entry, y)).tolist() == labels[::-1, y].tolist()
    shown, other = decoded(slices.grey(entry, y).data), values[::-1, y + 1]
    assert np.corrcoef(shown.ravel(), values[::-1, y].ravel())[0, 1] > 0.95
    assert np.corrcoef(shown.ravel(), other.ravel())[0, 1] < 0.9
    slices.close()

"""Previews and thumbnails: what they show, when they are made, and that they are of the right content."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from tomoscribe.engine.class_map import DEFAULT_CLASS_MAP
from tomoscribe.engine.errors import OutputError
from tomoscribe.engine.result import SlicePreview
from tomoscribe.engine.watch.entry import Entry, Identity, State
from tomoscribe.engine.watch.pictures import LARGEST_SIDE, Pictures, encode_grey, encode_labels

SHAPE = 90, 120


def entry(number=7, size=1000):
    return Entry(number, "a/b.mrc", State.RUNNING, Identity(size, 10**18, 5), 1)


def preview(z=3, shape=SHAPE):
    labels = np.zeros(shape, np.uint8)
    labels[: shape[0] // 3, : shape[1] // 3] = 4
    return SlicePreview(z, np.where(labels > 0, -1, 1).astype(np.float32), labels, 0.0, 1.0)


def decoded(data):
    return np.asarray(Image.open(io.BytesIO(data) if isinstance(data, bytes) else data).convert("L"))


@pytest.fixture
def pictures(tmp_path):
    return Pictures(tmp_path / "own" / "pictures", DEFAULT_CLASS_MAP)


def files_of(pictures):
    return sorted(path.name for path in pictures._folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("value", "grey"), [(10, 128), (10 - 3 * 2, 0), (10 + 3 * 2, 255), (11, 149), (-99, 0), (99, 255)]
)
def test_grey_is_stretched_by_three_deviations(value, grey):
    shown = decoded(encode_grey(np.full((16, 16), value, np.float32), 10.0, 2.0))
    assert shown.shape == (16, 16)
    assert abs(shown.astype(int) - grey).max() <= 2  # WebP is lossy


@pytest.mark.parametrize(("value", "grey"), [(np.nan, 0), (np.inf, 255), (-np.inf, 0)])
def test_what_is_not_finite_is_black_or_white(value, grey):
    assert abs(decoded(encode_grey(np.full((8, 8), value, np.float32), 0.0, 1.0)).astype(int) - grey).max() <= 2


def test_y_points_upwards():
    labels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert decoded(encode_labels(labels)).tolist() == [[3, 4, 5], [0, 1, 2]]
    rows = np.zeros((32, 32), np.float32)
    rows[:16] = 3
    shown = decoded(encode_grey(rows, 0.0, 1.0))
    assert shown[:14].max() < 140
    assert shown[18:].min() > 240


def test_labels_of_large_slices_are_thinned_and_never_mixed():
    labels = np.where(np.indices((700, 3000)).sum(0) // 40 % 2, 1, 255).astype(np.uint8)
    shown = decoded(encode_labels(labels))
    assert shown.shape == (round(700 * LARGEST_SIDE / 3000), LARGEST_SIDE)
    assert set(np.unique(shown)) == {1, 255}
    assert decoded(encode_grey(labels.astype(np.float32), 0, 1)).shape == shown.shape


def test_grey_of_large_slices_is_averaged():
    noise = np.random.default_rng(0).normal(0, 1, (2048, 2048)).astype(np.float32)
    assert decoded(encode_grey(noise, 0.0, 1.0)).std() < 0.6 * 255 / 6


def test_a_preview_is_found_again(pictures):
    assert pictures.preview(entry()) is None
    pictures.save_preview(entry(), preview(z=103))
    grey, labels, z = pictures.preview(entry())
    assert z == 103
    assert decoded(grey).shape == SHAPE
    assert decoded(labels).tolist() == preview().labels[::-1].tolist()
    assert pictures.preview(entry(number=8)) is None
    assert pictures.preview(entry(size=1001)) is None


def test_a_later_preview_of_the_same_content_takes_the_place(pictures):
    pictures.save_preview(entry(), preview(z=3))
    pictures.save_preview(entry(), preview(z=9))
    assert pictures.preview(entry())[2] == 9
    assert len(files_of(pictures)) == 3


def test_pictures_of_earlier_content_are_removed(pictures):
    pictures.save_preview(entry(size=1), preview())
    pictures.save_preview(entry(number=8), preview())
    pictures.save_preview(entry(size=2), preview())
    assert pictures.preview(entry(size=1)) is None
    assert pictures.thumbnail(entry(size=1), make=True) is None
    assert pictures.preview(entry(size=2))
    assert pictures.preview(entry(number=8))
    assert len(files_of(pictures)) == 6


def test_a_thumbnail_is_small_and_coloured(pictures):
    pictures.save_preview(entry(), preview(shape=(500, 1000)))
    with Image.open(pictures.thumbnail(entry(), make=False)) as thumbnail:
        assert thumbnail.format == "WEBP"
        assert thumbnail.size == (320, 160)
        shown = np.asarray(thumbnail.convert("RGB")).astype(int)
    # y points upwards: what is labelled is below, in the blue of class 4.
    assert (shown[130:150, 20:80, 2] - shown[130:150, 20:80, 0]).min() > 40
    assert np.ptp(shown[10:60, 200:300], axis=2).max() < 12


def test_a_thumbnail_is_made_once(pictures):
    pictures.save_preview(entry(), preview())
    path = pictures.thumbnail(entry(), make=True)
    made = path.stat().st_ino, path.stat().st_mtime_ns
    assert pictures.thumbnail(entry(), make=True) == path
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == made


@pytest.mark.parametrize("lost", ["removed", "empty"])
def test_a_lost_thumbnail_is_made_from_the_preview_where_that_is_wanted(pictures, lost):
    pictures.save_preview(entry(), preview())
    path = pictures.thumbnail(entry(), make=False)
    before = path.read_bytes()
    path.unlink() if lost == "removed" else path.write_bytes(b"")
    assert pictures.thumbnail(entry(), make=False) is None
    assert pictures.thumbnail(entry(), make=True) == path
    assert path.read_bytes() == before


def test_there_is_no_thumbnail_without_a_preview_or_of_a_damaged_one(pictures):
    assert pictures.thumbnail(entry(), make=True) is None
    pictures.save_preview(entry(), preview())
    pictures.thumbnail(entry(), make=False).unlink()
    pictures.preview(entry())[0].write_bytes(b"no picture")
    assert pictures.thumbnail(entry(), make=True) is None


def test_half_a_preview_is_none(pictures):
    pictures.save_preview(entry(), preview())
    pictures.preview(entry())[1].write_bytes(b"")
    assert pictures.preview(entry()) is None


def test_what_cannot_be_written_is_an_error_and_leaves_nothing(pictures):
    pictures._folder.mkdir(parents=True)
    (pictures._folder / "7").write_text("a file in the way")
    with pytest.raises(OutputError, match="cannot be written"):
        pictures.save_preview(entry(), preview())
    assert files_of(pictures) == ["7"]


def test_several_may_write_at_the_same_time(pictures):
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: pictures.save_preview(entry(), preview()), range(24)))
    assert len(files_of(pictures)) == 3
    assert decoded(pictures.preview(entry())[1]).tolist() == preview().labels[::-1].tolist()

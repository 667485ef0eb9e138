from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tomoscribe.engine.bundle import ModelSpecification
from tomoscribe.engine.class_map import ClassMap, LabelClass
from tomoscribe.engine.errors import OutputError, ParameterError
from tomoscribe.engine.rescaling import RescaledTomogram, Rescaling, RestoringSink
from tomoscribe.engine.tomogram.contract import Geometry

SPECIFICATION = ModelSpecification(
    name="small",
    class_map=ClassMap((LabelClass(1, "one", (9, 9, 9)), LabelClass(2, "two", (99, 99, 99)))),
    context=1,
    tile_multiple=16,
    halo=0,
    voxel_size=(10.0, 14.4),
)


def rescaling_of(shape, voxel_size, specification=SPECIFICATION):
    """The rescaling of a tomogram of one voxel size, or of one for (x, y)."""
    x, y = voxel_size if isinstance(voxel_size, tuple) else (voxel_size, voxel_size)
    return Rescaling.of(Geometry(shape, (x, y, 5.0)), specification)


@pytest.mark.parametrize(
    ("voxel_size", "shape"),
    [
        (5.0, (42, 83)),  # the middle is 12 Å
        (1.35, (11, 22)),
        (9.4, (78, 157)),
        (15.2, (106, 211)),
        (28.8, (200, 400)),
        ((5.0, 6.0), (50, 83)),
        ((6.0, 5.0), (42, 100)),
        ((12.0, 27.0), (188, 167)),  # 18 Å between them is too much; 14.4 Å are wanted
        ((11.0, 13.0), (109, 184)),  # between them all is well, and each differs from that
    ],
)
def test_voxels_become_those_that_the_model_knows(voxel_size, shape):
    rescaling = rescaling_of((7, 100, 200), voxel_size)
    assert rescaling.shape == shape
    assert rescaling.scale == (shape[1] / 200, shape[0] / 100)
    x, y = rescaling.source_voxel_size
    # The field of view is the same.
    assert rescaling.voxel_size == pytest.approx((200 * x / shape[1], 100 * y / shape[0]))
    assert rescaling.to_json() == {
        "shape_yx": list(shape),
        "voxel_size_xy": list(rescaling.voxel_size),
        "scale_xy": list(rescaling.scale),
    }


@pytest.mark.parametrize(
    "voxel_size",
    [
        9.5,
        10.0,
        12.0,
        14.4,
        15.1,
        0.0,
        1.0,
        (0.0, 5.0),
        (5.0, 1.0),
        -5.0,
        (5.0, np.nan),
        (np.inf, 5.0),
        (9.6, 9.9),
        (12.0, 12.9),
    ],
)
def test_voxels_that_are_known_or_of_unknown_size_stay(voxel_size):
    assert rescaling_of((7, 100, 200), voxel_size) is None


def test_a_model_of_one_voxel_size_is_shown_that():
    specification = replace(SPECIFICATION, voxel_size=(8.0, 8.0))
    assert rescaling_of((2, 100, 100), 4.0, specification).voxel_size == (8.0, 8.0)
    assert rescaling_of((2, 100, 100), 16.0, specification).voxel_size == (8.0, 8.0)
    assert rescaling_of((2, 100, 100), 8.3, specification) is None


def test_what_is_done_is_said():
    rescaling = rescaling_of((7, 100, 200), (5.0, 6.0))
    assert rescaling.describe(rescale=True) == (
        "voxels of 5.00 × 6.00 Å are not what the model small was trained on, 10.0 to 14.4 Å; it sees slices of "
        "200 × 100 as 83 × 50 pixels of 12.05 × 12.00 Å, and labels have the tomogram's voxels "
        "(--no-rescale leaves slices as they are)"
    )
    assert rescaling_of((7, 100, 200), 28.8).describe(rescale=False) == (
        "voxels of 28.80 Å are not what the model small was trained on, 10.0 to 14.4 Å, and slices are not rescaled; "
        "expect worse labels"
    )


@pytest.mark.parametrize(
    ("shape", "voxel_size", "message"),
    [
        ((2, 200, 37), 5.0, r"would be 15 × 83 pixels .* expected 16 or more"),
        ((2, 100, 100), 58.0, r"enlarged 4\.0\d times"),
        ((2, 100, 100), 300.0, r"enlarged 20\.83 times .* expected 4 times or less"),
    ],
)
def test_what_no_model_can_work_on_is_refused(array_tomogram, shape, voxel_size, message):
    tomogram = array_tomogram(np.zeros(shape, np.float32))
    with pytest.raises(ParameterError, match=message) as refused:
        RescaledTomogram(tomogram, rescaling_of(shape, voxel_size))
    assert str(refused.value).startswith("volume.mrc: ")
    assert "--no-rescale" in str(refused.value)


@pytest.mark.parametrize(("shape", "voxel_size"), [((2, 100, 39), 5.0), ((2, 9, 12), 28.8), ((2, 100, 100), 57.6)])
def test_what_is_just_large_enough_is_not_refused(array_tomogram, shape, voxel_size):
    RescaledTomogram(array_tomogram(np.zeros(shape, np.float32)), rescaling_of(shape, voxel_size))


@pytest.fixture
def volume():
    return np.random.default_rng(0).integers(-3000, 3000, (9, 50, 64), np.int16)


@pytest.mark.parametrize("voxel_size", [6.0, 28.8, (6.0, 28.8)])
def test_slices_are_resampled_as_they_are_read(array_tomogram, volume, voxel_size):
    rescaling = rescaling_of(volume.shape, voxel_size)
    tomogram = array_tomogram(volume)
    tomogram.geometry = Geometry(volume.shape, (*rescaling.source_voxel_size, 5.0), origin=(1.0, 2.0, 3.0))
    tomogram.warnings = ("a line",)
    rescaled = RescaledTomogram(tomogram, rescaling)
    assert rescaled.shape == (9, *rescaling.shape)
    assert rescaled.geometry.voxel_size == (*rescaling.voxel_size, 5.0)
    assert rescaled.geometry.origin == (1.0, 2.0, 3.0)
    assert (rescaled.path, rescaled.dtype, rescaled.warnings) == (Path("volume.mrc"), np.float32, ("a line",))
    out = np.full((6, *rescaled.shape[1:]), np.nan, np.float64)
    rescaled.read_slices(3, out)
    for found, image in zip(out, volume[3:], strict=True):
        size = rescaling.shape[::-1]
        expected = Image.fromarray(image.astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
        np.testing.assert_allclose(found, expected, atol=1e-2)


def test_runs_that_overlap_read_every_slice_once(array_tomogram, volume):
    tomogram = array_tomogram(volume)
    read = []
    tomogram.before_read = lambda start, out: read.append((start, len(out)))
    rescaled = RescaledTomogram(tomogram, rescaling_of(volume.shape, 6.0))
    whole = np.empty(rescaled.shape, np.float32)
    rescaled.read_slices(0, whole)
    read.clear()
    for start, stop in ((0, 3), (1, 5), (3, 7), (5, 9)):
        run = np.empty((stop - start, *rescaled.shape[1:]), np.float32)
        rescaled.read_slices(start, run)
        np.testing.assert_array_equal(run, whole[start:stop])
        run[:] = np.nan  # the buffer is its owner's again
    assert read == [(z, 1) for z in range(3, 9)]


@pytest.mark.parametrize(("start", "shape"), [(8, (2, 25, 32)), (-1, (2, 25, 32)), (0, (2, 50, 64))])
def test_runs_outside_and_other_buffers_are_refused(array_tomogram, volume, start, shape):
    rescaled = RescaledTomogram(array_tomogram(volume), rescaling_of(volume.shape, 6.0))
    with pytest.raises(ParameterError):
        rescaled.read_slices(start, np.empty(shape, np.float32))


def test_closing_closes_the_tomogram(array_tomogram, volume):
    tomogram = array_tomogram(volume)
    closed = []
    tomogram.close = lambda: closed.append(True)
    with RescaledTomogram(tomogram, rescaling_of(volume.shape, 6.0)):
        assert not closed
    assert closed


class Record:
    """A sink that keeps what it is given, and a log that it shares with others; `fails` names a call that raises."""

    def __init__(self, name, log, fails=""):
        self.name = name
        self.written = {}
        self._log = log
        self._fails = fails

    def write(self, start, labels, scores):
        for z, of_slice in enumerate(zip(labels, scores, strict=True), start):
            self.written[z] = [values.copy() for values in of_slice]

    def _call(self, what):
        self._log.append((what, self.name))
        if what == self._fails:
            raise OutputError(what)

    def prepare(self):
        self._call("prepare")

    def commit(self):
        self._call("commit")

    def abort(self):
        self._call("abort")


@pytest.mark.parametrize("voxel_size", [6.0, 28.8])
def test_every_sink_has_labels_and_scores_of_the_tomogram_s_shape(voxel_size):
    rescaling = rescaling_of((4, 50, 64), voxel_size)
    generator = np.random.default_rng(1)
    scores = generator.integers(0, 256, (4, 3, *rescaling.shape), np.uint8)
    labels = scores.argmax(axis=1).astype(np.uint8)
    sinks = [Record("a", []), Record("b", [])]
    restoring = RestoringSink(sinks, rescaling)
    restoring.write(0, labels[:3], scores[:3])
    restoring.write(3, labels[3:], scores[3:])
    for sink in sinks:
        assert list(sink.written) == [0, 1, 2, 3]
        for z, (found_labels, found_scores) in sink.written.items():
            resized = [
                Image.fromarray(s.astype(np.float32)).resize((64, 50), Image.Resampling.BILINEAR) for s in scores[z]
            ]
            np.testing.assert_allclose(found_scores, np.stack(resized), atol=0.6)
            assert np.mean(found_labels == np.stack(resized).argmax(axis=0)) > 0.99


def test_sinks_are_committed_in_order_and_aborted_where_they_are_not():
    rescaling = rescaling_of((4, 50, 64), 6.0)
    log = []
    restoring = RestoringSink([Record("a", log), Record("b", log)], rescaling)
    restoring.prepare()
    restoring.commit()
    restoring.abort()
    assert log == [("prepare", "a"), ("prepare", "b"), ("commit", "a"), ("commit", "b")]

    log.clear()
    restoring = RestoringSink([Record("a", log), Record("b", log, "commit"), Record("c", log)], rescaling)
    with pytest.raises(OutputError):
        restoring.commit()
    restoring.abort()
    assert log == [("commit", "a"), ("commit", "b"), ("abort", "b"), ("abort", "c")]

    log.clear()
    restoring = RestoringSink([Record("a", log, "prepare"), Record("b", log)], rescaling)
    with pytest.raises(OutputError):
        restoring.prepare()
    restoring.abort()
    assert log == [("prepare", "a"), ("abort", "a"), ("abort", "b")]

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from tomoscribe.engine import DEFAULT_CLASS_MAP, Geometry, OutputError, ParameterError, Tomogram
from tomoscribe.engine.picture import draw_overview, round_length

ORANGE, BLUE = (DEFAULT_CLASS_MAP.classes[i].colour for i in (0, 3))


class InMemory(Tomogram):
    """A volume in memory that says how much was asked for at once."""

    def __init__(self, values, path, voxel_size=10.0):
        self.values, self.path, self.dtype, self.warnings = values, path, values.dtype, ()
        self.geometry = Geometry(values.shape, (voxel_size,) * 3)
        self.largest_run = 0

    def read_slices(self, start, out):
        self.largest_run = max(self.largest_run, len(out))
        out[...] = self.values[start : start + len(out)]

    def close(self):
        pass


def draw(tmp_path, values, labels, voxel_size=10.0, **options):
    output = tmp_path / "picture.png"
    volumes = InMemory(values, tmp_path / "a.mrc", voxel_size), InMemory(labels, tmp_path / "a__labels.mrc")
    draw_overview(*volumes, DEFAULT_CLASS_MAP, output, **options)
    assert max(volume.largest_run for volume in volumes) == 1
    with Image.open(output) as image:
        return np.asarray(image)


def make(shape=(20, 60, 80)):
    values = np.random.default_rng(0).normal(0, 1, shape).astype(np.float32)
    return values, np.zeros(shape, np.int8)


def panels(image):
    """The four panels, found by their frames: xy, xy with labels, xz, xz with labels."""
    frame = (image == (48, 54, 64)).all(axis=-1)
    rows = np.flatnonzero(frame.mean(axis=1) > 0.5)
    columns = np.flatnonzero(frame[rows[0]])
    gap = np.flatnonzero(np.diff(columns) > 1)[0]
    left, right = (columns[0], columns[gap]), (columns[gap + 1], columns[-1])
    return [
        image[top + 1 : bottom, a + 1 : b]
        for top, bottom in ((rows[0], rows[1]), (rows[2], rows[3]))
        for a, b in (left, right)
    ]


def has(image, colour):
    return (image == colour).all(axis=-1).any()


def test_labels_are_drawn_where_they_are_with_y_and_z_upwards(tmp_path):
    values, labels = make()
    labels[10, 40:50, 50:70] = 1  # in the central xy slice: high y, high x
    labels[15:18, 30, 8:20] = 4  # in the central xz slice: high z, low x
    xy, xy_labels, xz, xz_labels = panels(draw(tmp_path, values, labels))

    assert xy.shape == xy_labels.shape == (540, 720, 3)
    assert xz.shape == xz_labels.shape == (180, 720, 3)
    assert not has(xy, ORANGE)
    assert not has(xz, BLUE)
    y, x = np.nonzero((xy_labels == ORANGE).all(axis=-1))
    assert (y.min(), y.max()) == (540 - 50 * 9, 540 - 40 * 9 - 1)
    assert (x.min(), x.max()) == (50 * 9, 70 * 9 - 1)
    z, x = np.nonzero((xz_labels == BLUE).all(axis=-1))
    assert (z.min(), z.max()) == (180 - 18 * 9, 180 - 15 * 9 - 1)
    assert (x.min(), x.max()) == (8 * 9, 20 * 9 - 1)
    # Where there is no label, both columns show the same.
    np.testing.assert_array_equal(xz[:, 300:600], xz_labels[:, 300:600])


def test_grey_values_are_those_of_the_central_slices(tmp_path):
    values, labels = make()
    values[10, :, :40] -= 20
    values[:10, 30, :] += 20
    xy, _, xz, _ = panels(draw(tmp_path, values, labels))
    assert xy[:400, :350].mean() < 60 < 190 < xy[:400, 370:].mean()
    assert xz[100:].mean() == 255


def test_one_outlier_does_not_decide_the_contrast(tmp_path):
    values, labels = make()
    plain = panels(draw(tmp_path, values, labels))[0]
    values[10, 5, 5] = 1e6
    spoilt = panels(draw(tmp_path, values, labels))[0]
    assert abs(float(plain.mean()) - float(spoilt.mean())) < 5


def test_nan_does_not_spoil_the_picture(tmp_path):
    values, labels = make()
    values[10, :20] = np.nan
    xy = panels(draw(tmp_path, values, labels))[0]
    assert 80 < xy[:300, :].mean() < 180
    draw(tmp_path, np.full_like(values, np.nan), labels)


def test_legend_dims_the_classes_that_are_not_seen(tmp_path):
    values, labels = make()
    labels[10, 20:30, 20:30] = 4
    image = draw(tmp_path, values, labels)
    legend = image[-60:]
    assert has(legend, BLUE)
    assert not has(legend, ORANGE)
    assert has(legend, tuple(c // 3 for c in ORANGE))


def test_scale_bar_has_the_length_that_it_says(tmp_path):
    # 80 voxels of 1 nm on 720 pixels: a quarter is 20 nm, 180 pixels.
    values, labels = make()
    xy = panels(draw(tmp_path, values, labels))[0]
    row = (xy[540 - 26] == (240, 243, 246)).all(axis=-1)
    assert np.flatnonzero(row).tolist() == list(range(24, 24 + 180))


@pytest.mark.parametrize(
    ("voxel_size", "facts", "bar"),
    [
        (10.0, "80 x 60 x 20 voxels of 1.000 nm", "20 nm"),
        (0.0, "80 x 60 x 20 voxels of unknown size", "20 voxels"),
        (3.0, "80 x 60 x 20 voxels of 0.300 nm", "5 nm"),
    ],
)
def test_says_what_it_shows(tmp_path, monkeypatch, voxel_size, facts, bar):
    said = []
    really = ImageDraw.ImageDraw.text
    monkeypatch.setattr(
        ImageDraw.ImageDraw, "text", lambda draw, at, text, **how: (said.append(text), really(draw, at, text, **how))
    )
    values, labels = make()
    draw(tmp_path, values, labels, voxel_size, note="labels: a model")
    names = [label_class.name for label_class in DEFAULT_CLASS_MAP.classes]
    assert sorted(said) == sorted([bar, "a.mrc", f"{facts}   ·   labels: a model", "xy", "xz", *names])


@given(st.floats(1e-6, 1e9))
def test_a_round_length_is_the_longest_that_is_not_too_long(wanted):
    length = round_length(wanted)
    assert length <= wanted * (1 + 1e-6) < length * 2.5001
    assert f"{length:e}"[0] in "125"


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 1000, 20), (400, 30, 30), (2, 20, 1900), (30, 1100, 1000)])
def test_any_shape_fits_on_the_canvas(tmp_path, shape):
    values, labels = make(shape)
    height, width, _ = draw(tmp_path, values, labels, voxel_size=0.0, title="t" * 400, note="a model").shape
    assert 900 <= width <= 1600
    assert height <= 1800


def test_more_classes_than_fit_on_a_line_take_another(tmp_path):
    from tomoscribe.engine import ClassMap, LabelClass

    values, labels = make()
    classes = ClassMap(tuple(LabelClass(n, f"structure number {n}", (n, 200, 100)) for n in range(1, 26)))
    labels[10, 20:30, 20:30] = np.arange(1, 11)
    volumes = InMemory(values, tmp_path / "a.mrc"), InMemory(labels, tmp_path / "l.mrc")
    with Image.open(draw_overview(*volumes, classes, tmp_path / "p.png")) as image:
        legend = np.asarray(image)[780:]
    assert all(has(legend, (n, 200, 100)) for n in range(1, 11))


def test_labels_of_another_tomogram_are_refused(tmp_path):
    values, labels = make()
    with pytest.raises(ParameterError, match=r"a__labels\.mrc.*\(20, 60, 80\).*\(20, 60, 79\)"):
        draw(tmp_path, values, labels[:, :, 1:])


def test_a_picture_that_cannot_be_written_leaves_nothing(tmp_path, monkeypatch):
    values, labels = make((4, 8, 8))
    (tmp_path / "picture.png").mkdir()
    with pytest.raises(OutputError, match=r"picture\.png"):
        draw(tmp_path, values, labels)
    assert [entry.name for entry in tmp_path.iterdir()] == ["picture.png"]

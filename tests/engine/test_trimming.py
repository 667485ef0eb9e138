from __future__ import annotations

import json

import mrcfile
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from tomoscribe.engine import IntensityError, ParameterError, open_tomogram, segment
from tomoscribe.engine.trimming import find_content
from tomoscribe.train.phantom import draw_parameters, make_phantom

SAMPLE = slice(14, 30)


@pytest.fixture
def trim(tmp_path):
    def trim_volume(values):
        path = tmp_path / "a.mrc"
        with mrcfile.new(path, overwrite=True) as file:
            file.set_data(values)
        with open_tomogram(path) as tomogram:
            return find_content(tomogram)

    return trim_volume


def sample(depth=44, filled=SAMPLE, darkness=-3.0):
    """Noise as wide as the pass band, and in the slices that are filled blobs of one sign."""
    generator = np.random.default_rng(2)
    noise = gaussian_filter(generator.standard_normal((depth, 160, 160)), (1, 2, 2), mode="wrap")
    blobs = generator.random((depth, 160, 160)) < 0.004
    density = gaussian_filter(blobs.astype(np.float64), (1, 2.5, 2.5), mode="wrap")
    volume = noise / noise.std()
    volume[filled] += darkness * density[filled] / density.std() / 3
    return volume.astype(np.float32)


@pytest.mark.parametrize("signal_to_noise", [0.06, 1.2])
def test_phantoms_with_empty_top_and_bottom(trim, signal_to_noise):
    table = {"shape": [40, 192, 192], "sample": {"thickness": 0.4}, "imaging": {"signal_to_noise": signal_to_noise}}
    phantom = make_phantom(draw_parameters(table, 11))
    found = trim(phantom.intensity)
    labelled = np.flatnonzero(phantom.labels.any(axis=(1, 2)))
    assert 3 <= found.start <= labelled[0] < labelled[-1] < found.stop <= 37


def test_a_phantom_that_fills_the_volume(trim):
    table = {"shape": [40, 192, 192], "sample": {"thickness": 1.0}, "imaging": {"signal_to_noise": 0.3}}
    found = trim(make_phantom(draw_parameters(table, 11)).intensity)
    assert (found.start, found.stop) == (0, 40)
    assert "left out no slice" in found.reason


def test_what_is_left_out_is_told(trim):
    found = trim(sample())
    # Two slices stay, and the filters of the sample and of the skewness reach beyond it.
    assert 9 <= found.start <= 12
    assert 32 <= found.stop <= 35
    assert f"left out {found.start} slices at the bottom and {44 - found.stop} at the top" in found.reason
    assert found.profile.shape == (44,)
    assert (found.profile[: found.start] < found.threshold).all()
    assert (found.profile[found.stop :] < found.threshold).all()
    assert np.percentile(found.profile, 75) == pytest.approx(1)


def test_units_do_not_matter(trim):
    volume = sample()
    found, other = trim(volume), trim((volume * 1000 + 5000).astype(np.int16))
    assert (other.start, other.stop) == (found.start, found.stop)
    assert other.profile == pytest.approx(found.profile, rel=1e-3)


def test_bright_density_is_trimmed_alike(trim):
    found, other = trim(sample()), trim(-sample())
    assert (other.start, other.stop) == (found.start, found.stop)


def test_one_end(trim):
    found = trim(sample(filled=slice(14, 44)))
    assert 9 <= found.start <= 12
    assert found.stop == 44


def test_slices_of_lower_contrast_that_hold_sample_are_kept(trim):
    volume = sample(filled=slice(0, 44))
    volume[:14] *= 0.6
    volume[30:] *= 0.6
    found = trim(volume)
    assert (found.start, found.stop) == (0, 44)


def test_a_sample_that_fades_out_is_kept(trim):
    """The contrast rises from the first slice on, so that there is no floor; and nothing is skewed."""
    noise = gaussian_filter(np.random.default_rng(0).standard_normal((44, 160, 160)), (0, 2, 2))
    ramp = np.minimum(1, 0.4 + np.arange(44) / 30)[:, np.newaxis, np.newaxis]
    found = trim((noise * ramp).astype(np.float32))
    assert (found.start, found.stop) == (0, 44)


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_few_slices(trim, depth):
    found = trim(sample(depth=depth, filled=slice(0, 0)))
    assert (found.start, found.stop) == (0, depth)


def test_constant_slices(trim):
    volume = sample()
    volume[: SAMPLE.start] = volume[SAMPLE.stop :] = 7
    found = trim(volume)
    assert 9 <= found.start <= SAMPLE.start
    assert SAMPLE.stop <= found.stop <= 35
    everywhere = trim(np.full((12, 40, 40), 7, np.float32))
    assert (everywhere.start, everywhere.stop) == (0, 12)


def test_other_shapes(trim):
    volume = np.tile(sample(darkness=-9.0), (1, 3, 4))[:, :470, :601]  # blocks of two pixels, and a rest
    found = trim(volume)
    assert 9 <= found.start <= 12
    assert 32 <= found.stop <= 35


def test_nan_is_named(trim):
    volume = sample()
    volume[20, 3, 4] = np.nan
    with pytest.warns(RuntimeWarning), pytest.raises(IntensityError, match="slice z = 20 "):
        trim(volume)


def test_a_range_is_trimmed_as_if_it_were_the_volume(array_tomogram):
    values = sample()
    whole, part = find_content(array_tomogram(values), (4, 44)), find_content(array_tomogram(values[4:]))
    assert (whole.start, whole.stop, whole.reason) == (part.start + 4, part.stop + 4, part.reason)
    np.testing.assert_array_equal(whole.profile, part.profile)
    inside = find_content(array_tomogram(values), (18, 26))
    assert (inside.start, inside.stop) == (18, 26)
    with pytest.raises(ParameterError, match="within 0:44, found 2:45"):
        find_content(array_tomogram(values), (2, 45))


def test_segment_leaves_out_what_is_not_sample_and_changes_nothing_else(tmp_path, tiny_bundle, volumes):
    path = volumes.write(tmp_path / "a.mrc", sample())
    whole = segment(path, tmp_path / "whole", model=tiny_bundle)
    said, done = [], []
    result = segment(
        path, tmp_path / "sample", model=tiny_bundle, sample_only=True, warn=said.append, progress=done.append
    )
    start, stop = json.loads(result.sidecar.read_text())["z_range"]
    assert 9 <= start <= 12
    assert 32 <= stop <= 35
    for name in ("labels", *result.class_volumes):
        expected, found = (
            volumes.read(r.labels if name == "labels" else r.class_volumes[name]) for r in (whole, result)
        )
        expected[:start] = expected[stop:] = 0
        np.testing.assert_array_equal(found, expected)
    assert result.voxels == (stop - start) * 160 * 160
    assert sum(done) == 44
    assert [f"left out {start} slices at the bottom" in line for line in said] == [True]
    again = segment(path, model=tiny_bundle, sample_only=True, z_range=(18, 26))
    assert again.voxels == 8 * 160 * 160
    assert "left out no slice" in again.warnings[-1]

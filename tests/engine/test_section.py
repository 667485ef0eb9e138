"""The section: on drawn slabs of known height in noise, on phantoms, and through `segment`."""

from __future__ import annotations

import json
from dataclasses import replace

import mrcfile
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from tomoscribe.engine import ParameterError, segment
from tomoscribe.engine.intensity import intensity_of
from tomoscribe.engine.section import find_section
from tomoscribe.train.phantom import ImagingParameters, PhantomParameters, SampleParameters, make_phantom


def slab(first, last, depth=64, side=96, contrast=1.0, seed=0):
    """Noise, and in some slices structure of the size of a membrane."""
    random = np.random.default_rng(seed)
    values = random.normal(0, 1, (depth, side, side))
    structure = gaussian_filter(random.normal(0, 1, (last - first, side, side)), 3)
    values[first:last] += contrast * structure / structure.std()
    return (100 + 20 * values).astype(np.float32)


def section_of(array_tomogram, values, z_range=None):
    return find_section(array_tomogram(values), intensity_of(values), z_range)


@pytest.mark.parametrize("contrast", [0.3, 1.0, -5.0])
@pytest.mark.parametrize(("first", "last"), [(20, 40), (8, 56), (0, 30), (34, 64)])
def test_no_slice_of_the_slab_is_missed_and_few_others_are_kept(array_tomogram, first, last, contrast):
    start, stop = section_of(array_tomogram, slab(first, last, contrast=contrast))
    assert max(first - 5, 0) <= start <= first
    assert last <= stop <= min(last + 5, 64)


@pytest.mark.parametrize("depth", [64, 500])
def test_positions_are_those_of_the_volume_however_it_is_sampled(array_tomogram, depth):
    first, last = depth // 4, depth // 2
    start, stop = section_of(array_tomogram, slab(first, last, depth), (4, depth - 3))
    spare = 5 * -(-depth // 96)
    assert first - spare <= start <= first
    assert last <= stop <= last + spare


@pytest.mark.parametrize(
    "values",
    [
        slab(0, 64),
        slab(20, 40, contrast=0.0),
        slab(2, 62),
        slab(20, 40)[:, :59],
        slab(2, 5)[:7],
        np.full((20, 64, 64), np.nan, np.float32),
    ],
    ids=["all sample", "no sample", "surfaces alone", "small slices", "few slices", "nothing finite"],
)
def test_all_slices_where_the_section_cannot_be_told(array_tomogram, values):
    statistics = intensity_of(slab(20, 40))
    assert find_section(array_tomogram(values), statistics) == (0, len(values))
    assert find_section(array_tomogram(values), statistics, (1, 6)) == (1, 6)


def test_gold_slopes_and_damaged_slices_do_not_count(array_tomogram):
    values = slab(20, 40)
    expected = section_of(array_tomogram, values)
    disturbed = values + np.linspace(-50, 50, 96, dtype=np.float32)
    disturbed[5, 30:34, 30:34] = -3000
    assert section_of(array_tomogram, disturbed) == expected
    values[[3, 60]] = np.nan
    assert find_section(array_tomogram(values), intensity_of(slab(20, 40))) == expected


def test_a_z_range_outside_of_the_volume_is_refused(array_tomogram):
    with pytest.raises(ParameterError, match="within 0:64, found 2:65"):
        section_of(array_tomogram, slab(20, 40), (2, 65))


@pytest.mark.parametrize("signal_to_noise", [0.1, 0.6])
def test_a_phantom_loses_nothing_that_is_labelled(array_tomogram, signal_to_noise):
    phantom = make_phantom(
        PhantomParameters(
            shape=(64, 128, 128),
            seed=1,
            sample=replace(SampleParameters(), thickness=0.4),
            imaging=replace(ImagingParameters(), signal_to_noise=signal_to_noise),
        )
    )
    start, stop = section_of(array_tomogram, phantom.intensity)
    labelled = np.flatnonzero(phantom.labels.any(axis=(1, 2)))
    assert start <= labelled[0]
    assert labelled[-1] < stop
    assert stop - start < 56


def test_segment_leaves_out_what_is_not_sample_and_changes_nothing_else(tmp_path, tiny_bundle):
    path = tmp_path / "a.mrc"
    with mrcfile.new(path) as file:
        file.set_data(slab(20, 40, contrast=3.0))
        file.set_volume()
        file.voxel_size = 10.0
    whole = segment(path, tmp_path / "whole", model=tiny_bundle)
    said, done = [], []
    result = segment(
        path, tmp_path / "sample", model=tiny_bundle, sample_only=True, warn=said.append, progress=done.append
    )
    start, stop = json.loads(result.sidecar.read_text())["z_range"]
    assert 15 <= start <= 20
    assert 40 <= stop <= 45
    for name in ("labels", *result.class_volumes):
        expected, found = (
            mrcfile.read(r.labels if name == "labels" else r.class_volumes[name]).copy() for r in (whole, result)
        )
        expected[:start] = expected[stop:] = 0
        np.testing.assert_array_equal(found, expected)
    assert result.voxels == (stop - start) * 96 * 96
    assert sum(done) == 64
    assert said == [f"the sample lies in slices {start} to {stop - 1}; the other {64 - stop + start} are left out"]
    again = segment(path, model=tiny_bundle, sample_only=True, z_range=(25, 35))
    assert again.voxels == 10 * 96 * 96
    assert again.warnings == ("no slice was left out: all may show the sample",)

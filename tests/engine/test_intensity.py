"""Intensity statistics against plain numpy, and what cannot be normalised."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tomoscribe.engine.errors import IntensityError, ParameterError
from tomoscribe.engine.intensity import IntensityStatistics, intensity_of, measure_intensity, sampled_slices


def volume(depth=40, side=30, seed=0):
    return np.random.default_rng(seed).normal(100, 4, (depth, side, side)).astype(np.float32)


@given(st.integers(0, 500), st.integers(1, 500), st.integers(1, 20))
def test_sampled_slices_are_the_middles_of_equal_parts(start, depth, most):
    positions = sampled_slices(start, start + depth, most)
    edges = np.linspace(start, start + depth, min(depth, most) + 1)
    assert positions == [int((low + high) / 2 + 1e-9) for low, high in pairwise(edges)]


def test_mean_and_deviation_are_those_of_the_clipped_sample():
    values = volume()
    sample = values[[1, 3, 6, 8, 11, 13, 16, 18, 21, 23, 26, 28, 31, 33, 36, 38]].ravel()
    # An independent reference: values beyond the percentiles set to them, by rank.
    ordered = np.sort(sample)
    rank = (len(sample) - 1) * np.array([0.005, 0.995])
    low, high = np.interp(rank, np.arange(len(sample)), ordered)
    expected = np.where(sample < low, low, np.where(sample > high, high, sample)).astype(np.float64)
    found = intensity_of(values)
    assert found.mean == pytest.approx(expected.mean(), rel=1e-6)
    assert found.standard_deviation == pytest.approx(expected.std(), rel=1e-6)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.float16, np.float32])
def test_a_file_and_memory_give_the_same(array_tomogram, dtype):
    values = volume(23).astype(dtype)
    assert measure_intensity(array_tomogram(values)) == intensity_of(values)


def test_only_the_z_range_is_read(array_tomogram):
    values = volume(40)
    values[:10] = np.nan
    values[30:] = np.nan
    assert measure_intensity(array_tomogram(values), (10, 30)) == intensity_of(values[10:30])


def test_gold_does_not_decide(array_tomogram):
    values = volume()
    clean = intensity_of(values)
    values[:, 3:5, 3:4] = -5000
    found = intensity_of(values)
    assert found.mean == pytest.approx(clean.mean, abs=0.1)
    assert found.standard_deviation == pytest.approx(clean.standard_deviation, rel=0.05)


def test_large_slices_are_thinned_out_to_a_bounded_sample():
    # 515 × 515 pixels are four times what is kept of a slice: every third column and row, so as not to exceed it.
    values = np.zeros((1, 515, 515), np.float32)
    values[:, ::3, ::3] = np.random.default_rng(0).normal(50, 5, (172, 172))
    found = intensity_of(values)
    assert found.mean == pytest.approx(50, abs=0.1)
    assert found.standard_deviation == pytest.approx(5, rel=0.05)


def test_precision_holds_far_from_zero():
    values = volume().astype(np.float64) + 1e5
    expected = intensity_of(volume())
    found = intensity_of(values.astype(np.float32))
    assert found.mean == pytest.approx(expected.mean + 1e5, abs=0.01)
    assert found.standard_deviation == pytest.approx(expected.standard_deviation, rel=1e-3)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_slice_that_is_not_finite_is_named(array_tomogram, bad):
    values = volume()
    values[11, 2, 3] = bad
    with pytest.raises(IntensityError, match=r"^volume\.mrc: slice z = 11 \(counted from 0\) holds 1 values"):
        measure_intensity(array_tomogram(values))
    with pytest.raises(IntensityError, match=r"^phantom 3: slice z = 11 "):
        intensity_of(values, name="phantom 3")


@pytest.mark.parametrize("value", [0.0, 0.1, -7.5, 1e30])
def test_a_constant_volume_is_refused(array_tomogram, value):
    values = np.full((5, 8, 8), value, np.float32)
    with pytest.raises(IntensityError, match=r"^volume\.mrc: expected an image, found .* are "):
        measure_intensity(array_tomogram(values))


def test_a_volume_that_is_zero_almost_everywhere_is_refused():
    values = np.zeros((5, 40, 40), np.float32)
    values[:, 0, :3] = 1
    with pytest.raises(IntensityError, match="99 % or more of the sampled values are 0"):
        intensity_of(values)


def test_values_that_float32_cannot_normalise_are_refused():
    with pytest.raises(IntensityError, match=r"^volume: expected a finite mean and a standard deviation above 0"):
        intensity_of((volume() * np.float32(1e-36)).astype(np.float32))


@pytest.mark.parametrize("z_range", [(3, 3), (-1, 3), (0, 41), (5, 2)])
def test_a_z_range_outside_of_the_volume_is_refused(array_tomogram, z_range):
    with pytest.raises(ParameterError, match=r"^volume\.mrc: expected a z range within 0:40, found "):
        measure_intensity(array_tomogram(volume()), z_range)


@pytest.mark.parametrize("shape", [(4, 4), (0, 4, 4), (2, 0, 4)])
def test_what_is_no_volume_is_refused(shape):
    with pytest.raises(ParameterError, match="expected a volume"):
        intensity_of(np.zeros(shape))


@pytest.mark.parametrize("invert", [False, True])
def test_the_graphs_inputs_standardise_the_volume(invert):
    values = volume()
    mean, rstd = intensity_of(values).mean_and_rstd(5, invert)
    assert (mean.shape, rstd.shape, mean.dtype, rstd.dtype) == ((5,), (5,), np.float32, np.float32)
    normalised = (values[:5] - mean[:, None, None]) * rstd[:, None, None]
    assert normalised.mean() == pytest.approx(0, abs=0.05)
    assert normalised.std() == pytest.approx(1, abs=0.05)
    assert stats.pearsonr(normalised.ravel(), values[:5].ravel()).statistic == pytest.approx(-1 if invert else 1)


@pytest.mark.parametrize(
    ("mean", "deviation"), [(np.nan, 1.0), (np.inf, 1.0), (0.0, 0.0), (0.0, -1.0), (0.0, np.nan), (0.0, np.inf)]
)
def test_statistics_that_cannot_be_are_refused(mean, deviation):
    with pytest.raises(IntensityError, match="expected a finite mean"):
        IntensityStatistics(mean, deviation)

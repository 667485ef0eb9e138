"""The filters that the rescaling benchmark compares, and the ways in which it labels."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given
from hypothesis import strategies as st

from tomoscribe.engine import Bundle, default_bundle, rescaling
from tomoscribe.engine.resampling import resample, resampling_weights

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

lengths = st.integers(1, 40)


@pytest.fixture(scope="module", autouse=True)
def _scripts():
    """Scripts import each other from their own folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield


@pytest.fixture(scope="module")
def filters():
    return import_module("rescaling_filters")


@pytest.fixture(scope="module")
def script():
    return import_module("rescaling")


@pytest.fixture(scope="module")
def bundle():
    return Bundle.load(default_bundle())


@given(lengths, lengths, st.integers(0, 2**32 - 1))
def test_an_average_over_area_is_that_of_the_line_enlarged(filters, length, count, seed):
    line = np.random.default_rng(seed).standard_normal(length)
    # Each pixel as many times as there are wanted ones: then every one of those is a mean of whole pixels.
    expected = np.repeat(line, count).reshape(count, length).mean(axis=1)
    weights = filters.area_weights(length, count)
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights @ line, expected, atol=1e-5)


@given(st.integers(2, 40), st.integers(2, 40), st.integers(0, 2**32 - 1))
def test_interpolation_is_that_of_scipy(filters, length, count, seed):
    line = np.random.default_rng(seed).standard_normal(length)
    expected = scipy.ndimage.zoom(line, count / length, order=1, grid_mode=True, mode="nearest")
    weights = filters.interpolation_weights(length, count)
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights @ line, expected, atol=1e-5)


def test_tomograms_are_read_with_other_weights_only_meanwhile(filters):
    own = rescaling.resampling_weights
    with filters.reading_with(None):
        assert rescaling.resampling_weights is own
    with filters.reading_with(filters.area_weights):
        assert rescaling.resampling_weights is filters.area_weights
    assert rescaling.resampling_weights is own is resampling_weights


def test_targets_are_the_middle_and_the_nearest_end(script, bundle):
    smallest, largest = bundle.specification.voxel_size
    middle = (smallest * largest) ** 0.5
    for size, expected in ((5.0, (middle, smallest)), (40.0, (largest, middle))):
        assert script.targets(size, bundle.specification) == pytest.approx(expected)
    assert script.targets(14.0, bundle.specification) is None


def test_the_other_target_is_what_the_model_is_shown_then(script, bundle):
    found = {name: (varied, rescale, weights) for name, varied, rescale, weights in script.ways(bundle, 28.0)}
    assert tuple(found) == script.WAYS
    assert [rescale for _, rescale, _ in found.values()] == [False, True, True, True, True]
    target, other = script.targets(28.0, bundle.specification)
    for name in ("rescaled", "by area", "interpolated"):
        assert script.targets(28.0, found[name][0].specification)[0] == target
    assert script.targets(28.0, found["other target"][0].specification)[0] == pytest.approx(other)
    assert found["by area"][2] is not found["interpolated"][2]
    assert found["rescaled"][2] is found["other target"][2] is None


def test_a_voxel_size_within_the_range_is_labelled_one_way(script, bundle):
    assert [name for name, *_ in script.ways(bundle, 14.0)] == ["as it is"]


@pytest.mark.parametrize(("side", "seen"), [(61, 23), (23, 61), (64, 63)])
def test_the_graph_resizes_as_the_engine_does(side, seen):
    image = np.random.default_rng(0).standard_normal((side, side), np.float32)
    weights = resampling_weights(side, seen)
    resized = import_module("rescaling_costs").onnx_resize(side, seen)(image)
    np.testing.assert_allclose(resized, resample(image, weights, weights), atol=1e-4)


def test_ratios(script):
    costs = import_module("rescaling_costs")
    seconds = dict.fromkeys(script.MEANS, 9.0) | {"reader": 0.1, "scores back": 0.3}
    cost = costs.Cost(5.0, 1000, 400, seconds, 3.6)
    other = costs.Cost(7.0, 800, 400, dict.fromkeys(script.MEANS, 0.1), 3.8)
    dice = dict(zip(script.WAYS, (0.2, 0.8, 0.4, 0.1, 0.5), strict=True))
    single = {way: [value] * 4 for way, value in dice.items()} | {"by area": [0.9, 0.7, 0.8, 0.95]}
    rows = [script.Row(5.0, 14.0, 10.0, dice, single), script.Row(14.0, None, None, {"as it is": 0.9}, {})]
    assert rows[0].ahead == 1
    assert script.ratios(rows, [cost, other]) == pytest.approx(
        {
            "dice_rescaled_over_as_it_is_5": 4,
            "dice_rescaled_over_area_5": 2,
            "dice_rescaled_over_other_target_5": 1.6,
            "resampling_share": 0.1,
        }
    )


def test_phantoms_have_the_same_dose(script):
    coarse, fine = (script.phantom_parameters(2, size, 64) for size in (28.0, 7.0))
    for large, small in zip(coarse, fine, strict=True):
        assert large.imaging.signal_to_noise == pytest.approx(16 * small.imaging.signal_to_noise)
        assert (large.voxel_size, small.voxel_size) == (28, 7)
        assert large.sample == small.sample
        assert large.shape == (script.DEPTH, 64, 64)

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import correlate1d, map_coordinates

from tomoscribe.engine.resampling import ScoreResampler, resample, resampling_weights

lengths = st.integers(1, 40)
shapes = st.tuples(lengths, lengths)


def resized(image, shape):
    return resample(image, resampling_weights(image.shape[0], shape[0]), resampling_weights(image.shape[1], shape[1]))


def make_image(shape, seed=0):
    return np.random.default_rng(seed).normal(100, 10, shape).astype(np.float32)


@given(shapes, shapes, st.integers(0, 9))
def test_images_are_resampled_as_pillow_resamples_them(shape, target, seed):
    image = make_image(shape, seed)
    expected = Image.fromarray(image).resize(target[::-1], Image.Resampling.BILINEAR)
    np.testing.assert_allclose(resized(image, target), expected, atol=1e-4)


@given(shapes, st.tuples(st.integers(1, 4), st.integers(1, 4)))
def test_enlarging_is_the_linear_interpolation_of_scipy(shape, factors):
    image = make_image(shape)
    target = tuple(length * factor for length, factor in zip(shape, factors, strict=True))
    centres = [(np.arange(count) + 0.5) * length / count - 0.5 for length, count in zip(shape, target, strict=True)]
    expected = map_coordinates(image, np.meshgrid(*centres, indexing="ij"), order=1, mode="nearest")
    np.testing.assert_allclose(resized(image, target), expected, atol=1e-4)


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_shrinking_by_a_whole_factor_is_a_filter_of_scipy_and_every_nth_pixel(factor):
    image = make_image((36, 60))
    distances = np.arange(-factor, factor + 1) + (0.5 if factor % 2 == 0 else 0.0)
    kernel = np.maximum(1 - np.abs(distances) / factor, 0)
    expected = image.astype(np.float64)
    for axis in (0, 1):
        # Without those at the edges, whose filter is cut off.
        expected = correlate1d(expected, kernel / kernel.sum(), axis)
        expected = np.take(expected, np.arange(factor // 2 + factor, image.shape[axis] - factor, factor), axis)
    found = resized(image, (36 // factor, 60 // factor))
    np.testing.assert_allclose(found[1:-1, 1:-1], expected, atol=1e-4)


@given(shapes, shapes)
def test_the_same_length_is_the_same_image_and_one_value_stays_that_value(shape, target):
    np.testing.assert_array_equal(resized(make_image(shape), shape), make_image(shape))
    np.testing.assert_allclose(resized(np.full(shape, 7.25, np.float32), target), np.full(target, 7.25), rtol=1e-6)


@given(shapes, shapes)
def test_turning_an_image_over_turns_the_resampled_one_over(shape, target):
    image = make_image(shape)
    np.testing.assert_allclose(resized(image[::-1, ::-1], target)[::-1, ::-1], resized(image, target), atol=1e-4)


def test_shrinking_keeps_the_mean_and_removes_what_would_alias():
    image = make_image((300, 250))
    assert resized(image, (110, 97)).mean() == pytest.approx(image.mean(), abs=0.1)
    stripes = np.broadcast_to(np.float32([1, -1] * 64), (64, 128))
    np.testing.assert_allclose(resized(stripes, (32, 64))[:, 1:-1], 0, atol=1e-6)


def test_a_value_that_is_not_finite_stays_where_it_is():
    image = make_image((40, 40))
    image[20, 20] = np.nan
    bad = np.argwhere(~np.isfinite(resized(image, (20, 20))))
    assert len(bad) > 0
    assert (np.abs(bad - 10) <= 1).all()


def make_scores(shape, classes, seed):
    """Labels and scores as a network gives them: the label is that of the highest score, before it is rounded."""
    logits = np.random.default_rng(seed).normal(0, 1, (classes, *shape))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=0)
    return probabilities.argmax(axis=0).astype(np.uint8), np.rint(probabilities * 255).astype(np.uint8)


@given(shapes, shapes, st.integers(2, 7), st.integers(0, 9))
def test_labels_are_those_of_the_highest_resampled_score(shape, target, classes, seed):
    labels, scores = make_scores(shape, classes, seed)
    found_labels, found_scores = ScoreResampler(shape, target, classes).resample(labels, scores)
    resampled = np.stack([resized(score.astype(np.float32), target) for score in scores])
    assert found_labels.shape == target
    # Rounding, the sixteenth that a given label is ahead, and a step of the fixed point.
    np.testing.assert_allclose(found_scores, resampled, atol=0.5 + 1 / 16 + 1 / 256 + 1e-3)
    chosen = np.take_along_axis(resampled, found_labels[np.newaxis].astype(int), 0)[0]
    assert (chosen >= resampled.max(axis=0) - 1 / 16 - 2 / 256).all()


@given(shapes, st.integers(2, 256), st.integers(0, 9))
def test_scores_that_keep_their_size_keep_their_values_and_labels(shape, classes, seed):
    # With many classes, most scores are 0 or 1 and many are equal: the label that was given has to stand.
    labels, scores = make_scores(shape, classes, seed)
    found_labels, found_scores = ScoreResampler(shape, shape, classes).resample(labels, scores)
    np.testing.assert_array_equal(found_labels, labels)
    np.testing.assert_array_equal(found_scores, scores)


@pytest.mark.parametrize("target", [(24, 50), (7, 5), (24, 5)])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_slice_of_one_label_stays_one_and_full_scores_stay_full(target, number):
    labels = np.full((12, 20), number, np.uint8)
    scores = np.where(np.arange(3)[:, np.newaxis, np.newaxis] == labels, 255, 0).astype(np.uint8)
    found_labels, found_scores = ScoreResampler((12, 20), target, 3).resample(labels, scores)
    assert (found_labels == number).all()
    assert (found_scores == np.where(np.arange(3) == number, 255, 0)[:, np.newaxis, np.newaxis]).all()


def test_borders_between_labels_run_where_the_scores_cross():
    # A score falls from 240 to 0 between the centres of two pixels, which are 8 apart once they are enlarged: it is
    # below the other, which rises from 15 to 255, from a little less than half of the way on.
    scores = np.uint8([[[240, 0]], [[15, 255]]])
    found, _ = ScoreResampler((1, 2), (1, 16), 2).resample(np.uint8([[0, 1]]), scores)
    way = np.clip((np.arange(16) - 3.5) / 8, 0, 1)
    np.testing.assert_array_equal(found[0], 15 + 240 * way > 240 - 240 * way)


@pytest.mark.parametrize("target", [(50, 64), (23, 64), (31, 17)])
def test_bands_do_not_change_what_comes_out(monkeypatch, target):
    labels, scores = make_scores((31, 40), 4, 1)
    expected = [values.copy() for values in ScoreResampler((31, 40), target, 4).resample(labels, scores)]
    for values in (1, 4 * 64 * 7):
        monkeypatch.setattr("tomoscribe.engine.resampling._BAND_VALUES", values)
        resampler = ScoreResampler((31, 40), target, 4)
        for _ in range(2):
            for found, wanted in zip(resampler.resample(labels, scores), expected, strict=True):
                np.testing.assert_array_equal(found, wanted)

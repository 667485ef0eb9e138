"""Calibration against torchmetrics, and against what its definition says of simple cases."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

from tomoscribe.engine.errors import ParameterError
from tomoscribe.train.evaluation.calibration import BINS, Calibration

BYTES = np.arange(256) / 255


def test_errors_are_those_of_torchmetrics():
    generator = np.random.default_rng(0)
    classes, voxels = 4, 5000
    probabilities = generator.dirichlet([0.5] * classes, voxels).T
    scores = np.round(255 * probabilities).astype(np.uint8)
    scores[scores % 17 == 0] += 1  # multiples of 17 lie on the edges of bins, where rounding decides
    truth = generator.integers(0, classes, voxels).astype(np.uint8)
    labels = scores.argmax(axis=0).astype(np.uint8)
    calibration = Calibration(classes, BYTES)
    for part in (slice(0, 2000), slice(2000, None)):
        calibration.add(labels[part], truth[part], scores[:, part])

    given = torch.from_numpy(scores.T / 255).float()
    wanted = torch.from_numpy(truth.astype(np.int64))
    # Not normalised, as ours; torchmetrics would take a softmax if the rows were not within 0 and 1.
    expected = multiclass_calibration_error(given, wanted, classes, n_bins=BINS)
    assert calibration.curve(None).error == pytest.approx(float(expected), abs=1e-5)
    for number in range(classes):
        expected = binary_calibration_error(given[:, number].contiguous(), (wanted == number).long(), n_bins=BINS)
        assert calibration.curve(number).error == pytest.approx(float(expected), abs=1e-5)


def test_a_curve_says_how_often_scores_are_right():
    calibration = Calibration(2, np.array([0.1, 0.7]))
    truth = np.array([1, 1, 1, 0, 0, 1], np.uint8)
    scores = np.array([[0, 0, 0, 0, 1, 1], [1, 1, 1, 1, 0, 0]], np.uint8)
    labels = np.array([1, 1, 1, 1, 0, 0], np.uint8)
    calibration.add(labels, truth, scores)
    curve = calibration.curve(1, bins=2)
    np.testing.assert_array_equal(curve.voxels, [2, 4])
    np.testing.assert_allclose(curve.score, [0.1, 0.7])
    np.testing.assert_allclose(curve.accuracy, [0.5, 0.75])
    assert curve.error == pytest.approx((2 * 0.4 + 4 * 0.05) / 6)
    np.testing.assert_allclose(calibration.curve(None, bins=2).accuracy, [np.nan, 4 / 6])


def test_a_score_of_one_is_in_the_last_bin_and_no_voxels_have_no_error():
    calibration = Calibration(2, BYTES)
    assert np.isnan(calibration.curve(1).error)
    calibration.add(np.ones(3, np.uint8), np.ones(3, np.uint8), np.array([[0] * 3, [255] * 3], np.uint8))
    assert calibration.curve(1).voxels.tolist() == [0] * (BINS - 1) + [3]
    assert calibration.curve(1).error == 0


def test_scores_without_a_probability_are_refused():
    with pytest.raises(ParameterError, match="0 to 127, found 128"):
        Calibration(2, BYTES[:128]).add(np.zeros(1, np.uint8), np.zeros(1, np.uint8), np.array([[128], [0]], np.uint8))

from __future__ import annotations

import numpy as np
import pytest

from tomoscribe.train.dataset.contract import DatasetError
from tomoscribe.train.evaluation.judgement import NEIGHBOURHOOD, JudgedImage, Judgement, Place, judge, worst_images
from tomoscribe.train.metrics import ConfusionMatrix


def expected_counts(labels, truth):
    counts = np.zeros((3, 3), int)
    for found, wanted in zip(labels.ravel(), truth.ravel(), strict=True):
        if wanted != 255:
            counts[wanted, found] += 1
    return counts


def test_counts_are_those_of_plain_loops_by_tomogram_and_image(comparison):
    seen = []
    judgement = judge(comparison, tolerance=1, progress=lambda: seen.append(1))
    assert len(seen) == len(comparison) == len(judgement.places)
    for name in ("a", "b"):
        expected = expected_counts(comparison.labels[name], comparison.truth[name])
        np.testing.assert_array_equal(judgement.tomograms[name].counts, expected)
    np.testing.assert_array_equal(
        judgement.total.counts, sum(confusion.counts for confusion in judgement.tomograms.values())
    )
    for place, (right, true, found), dice in zip(
        judgement.places, judgement.overlaps, judgement.image_dice(), strict=True
    ):
        counts = expected_counts(comparison.labels[place.tomogram][place.z], comparison.truth[place.tomogram][place.z])
        np.testing.assert_array_equal(right, counts.diagonal())
        np.testing.assert_array_equal(true, counts.sum(axis=1))
        np.testing.assert_array_equal(found, counts.sum(axis=0))
        np.testing.assert_allclose(dice, 2 * right / (true + found))
        assert true.all()
    known = sum((truth != 255).sum() for truth in comparison.truth.values())
    assert judgement.calibration.given.sum() == known
    assert judgement.tolerant.true[1].sum() == sum((truth == 1).sum() for truth in comparison.truth.values())


def test_what_an_earlier_image_has_does_not_count_again(comparison):
    class Twice(type(comparison)):
        def images(self):
            for image in super().images():
                seen = np.zeros(image.truth.shape, bool)
                seen[:, :30] = True
                yield JudgedImage(image.place, image.labels, image.truth, seen, image.scores)

    judgement = judge(Twice(comparison.labels, comparison.truth, comparison.scores), tolerance=1)
    expected = expected_counts(comparison.labels["a"][..., 30:], comparison.truth["a"][..., 30:])
    np.testing.assert_array_equal(judgement.tomograms["a"].counts, expected)
    assert judgement.calibration.given.sum() == judgement.total.counts.sum()
    assert judgement.tolerant.found[2].sum() == judgement.total.found[2]


def test_a_truth_that_knows_nothing_is_refused(comparison):
    for truth in comparison.truth.values():
        truth[:] = 255
    with pytest.raises(DatasetError, match="expected voxels whose class is known, found none in a, b"):
        judge(comparison, tolerance=1)


def test_without_scores_and_tolerance_there_are_no_such_figures(comparison):
    comparison.scores = None
    judgement = judge(comparison, tolerance=0)
    assert judgement.calibration is None
    assert judgement.tolerant is None


def made(rows, zs=None, names=None):
    """A judgement of one class from (right, true, found) of each image."""
    overlaps = np.zeros((len(rows), 3, 3), np.int64)
    overlaps[:, :, 1] = rows
    places = [Place(names[n] if names else "t", zs[n] if zs else n * NEIGHBOURHOOD) for n in range(len(rows))]
    return Judgement(None, {"t": ConfusionMatrix(3)}, places, overlaps, None, None)


def test_the_worst_images_have_the_lowest_dice_but_no_slivers():
    judgement = made([(90, 100, 100), (0, 2, 2), (10, 100, 100), (50, 100, 100), (30, 120, 60)])
    assert worst_images(judgement, 1, 3) == [2, 4, 3]


def test_what_was_made_up_follows_the_largest_first():
    judgement = made([(100, 100, 100), (0, 0, 150), (0, 0, 400), (0, 0, 0)])
    assert worst_images(judgement, 1, 9) == [0, 2, 1]
    assert np.isnan(judgement.image_dice()[1, 1])
    assert worst_images(judgement, 2, 2) == []


@pytest.mark.parametrize(("names", "expected"), [(["t"] * 3, [0, 2]), (["t", "u", "t"], [0, 1])])
def test_neighbouring_slices_are_not_shown_twice(names, expected):
    judgement = made([(1, 100, 100), (2, 100, 100), (50, 100, 100)], [0, NEIGHBOURHOOD - 1, NEIGHBOURHOOD], names)
    assert worst_images(judgement, 1, 2) == expected

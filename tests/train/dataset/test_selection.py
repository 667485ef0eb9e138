from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tomoscribe.train.dataset.contract import SPLITS
from tomoscribe.train.dataset.recipe import SplitRule
from tomoscribe.train.dataset.selection import Candidates, select_images

RULE = SplitRule()


def candidates(tiles, foreground, fixed=None, classes=1):
    """Return candidates of tomograms with so many tiles each, of which so many have foreground."""
    tomogram = np.repeat(np.arange(len(tiles)), tiles)
    flags = np.concatenate([np.arange(n) < f for n, f in zip(tiles, foreground, strict=True)])
    return Candidates(tomogram, np.repeat(flags[:, np.newaxis], classes, axis=1), fixed or [None] * len(tiles))


def by_split(selection):
    return [selection.chosen[selection.split == number] for number in range(len(SPLITS))]


@settings(max_examples=25)
@given(st.lists(st.integers(1, 60), min_size=3, max_size=12), st.integers(0, 9))
def test_by_tomogram_no_tomogram_is_in_two_splits_and_no_split_is_empty(sizes, seed):
    given_ = candidates(sizes, sizes)
    selection = select_images(given_, RULE, 0.1, seed)
    assert selection.by == "tomogram"
    sets = [set(given_.tomogram[chosen]) for chosen in by_split(selection)]
    assert all(sets)
    assert sum(map(len, sets)) == len(sizes) == len(set.union(*sets))
    assert len(selection.chosen) == sum(sizes)


def test_thirty_eight_tomograms_come_near_the_shares():
    depths = np.random.default_rng(0).integers(113, 630, 38)
    selection = select_images(candidates(depths, depths), RULE, 0.1, 3)
    shares = [len(chosen) / depths.sum() for chosen in by_split(selection)]
    np.testing.assert_allclose(shares, RULE.shares, atol=0.02)


def test_train_has_every_class_before_the_shares_are_met():
    # Only the largest of three tomograms has class 1, and 1 : 1 : 1 puts it anywhere.
    tomogram = np.repeat([0, 1, 2], [9, 10, 10])
    classes = np.zeros((29, 2), bool)
    classes[:, 0] = True
    classes[tomogram == 0, 1] = True
    rule = SplitRule(shares=(1 / 3, 1 / 3, 1 / 3))
    for seed in range(8):
        selection = select_images(Candidates(tomogram, classes, [None] * 3), rule, 0, seed)
        assert set(tomogram[by_split(selection)[0]]) == {0}


def test_two_tomograms_are_split_by_image():
    selection = select_images(candidates([50, 50], [40, 40]), RULE, "all", 0)
    assert selection.by == "image"
    assert [len(chosen) for chosen in by_split(selection)] == [80, 10, 10]
    # Foreground and background are shared out alike.
    foreground = candidates([50, 50], [40, 40]).has_foreground
    assert [int(foreground[chosen].sum()) for chosen in by_split(selection)] == [64, 8, 8]


def test_by_tomogram_on_request_even_if_a_split_stays_empty():
    selection = select_images(candidates([50, 10], [50, 10]), SplitRule(by="tomogram"), 0, 0)
    assert [len(chosen) for chosen in by_split(selection)] == [50, 10, 0]


def test_fixed_tomograms_stay_and_the_others_are_shared_out():
    given_ = candidates([10] * 6, [10] * 6, ["train", None, "test", None, None, None])
    selection = select_images(given_, RULE, 0, 5)
    sets = [set(given_.tomogram[chosen]) for chosen in by_split(selection)]
    assert 0 in sets[0]
    assert 2 in sets[2]
    assert all(found - {0, 2} for found in sets)
    assert select_images(candidates([4], [4], ["dev"]), RULE, 0, 0).by == "source"


@pytest.mark.parametrize(("background", "expected"), [(0, 0), (0.1, 10), (0.5, 90), (0.8, 110), ("all", 110)])
def test_the_share_of_background_is_kept(background, expected):
    given_ = candidates([200], [90], ["train"])
    selection = select_images(given_, RULE, background, 0)
    assert int((~given_.has_foreground[selection.chosen]).sum()) == expected
    assert int(given_.has_foreground[selection.chosen].sum()) == 90


def test_the_share_of_background_holds_in_every_split_wherever_it_comes_from():
    # The first tomogram has no background, the last nothing but.
    given_ = candidates([60, 60, 60, 60], [60, 30, 30, 0])
    selection = select_images(given_, SplitRule(by="image"), 0.25, 1)
    for chosen in by_split(selection):
        empty = ~given_.has_foreground[chosen]
        assert abs(empty.mean() - 0.25) < 0.03


def test_the_seed_decides():
    given_ = candidates([30] * 5, [20] * 5)
    first, again, other = (select_images(given_, RULE, 0.2, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.chosen, again.chosen)
    np.testing.assert_array_equal(first.split, again.split)
    assert not np.array_equal(first.chosen, other.chosen)


def test_nothing_without_foreground():
    assert not len(select_images(candidates([5, 5, 5], [0, 0, 0]), RULE, 0.5, 0).chosen)

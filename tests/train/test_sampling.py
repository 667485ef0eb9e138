"""Training samples: decided by number and seed, in balance between the classes, every image once an epoch."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tomoscribe.engine.class_map import ClassMap, LabelClass
from tomoscribe.engine.errors import ParameterError
from tomoscribe.train.dataset.contract import IGNORE, DatasetError
from tomoscribe.train.sampling import CropSampler, StepNumbers

TILE = 12


class Numbered:
    """Images whose pixels tell where they come from: number · 1000 + row · 20 + column; context c adds c / 100."""

    class_map = ClassMap((LabelClass(1, "one", (1, 2, 3)), LabelClass(2, "two", (1, 2, 3))))
    tile = TILE
    voxel_size = (10.0, 10.0)

    def __init__(self, labels, train=None):
        self.labels = np.asarray(labels, np.uint8)
        self.counts = np.stack([[(image == c).sum() for c in range(3)] for image in self.labels])
        self.train = range(len(self.labels)) if train is None else train

    def numbers(self, split):
        return np.array(list(self.train) if split == "train" else [], np.int64)

    def read(self, number, context):
        rows, columns = np.mgrid[:TILE, :TILE]
        offsets = np.arange(-context, context + 1)[:, None, None] / 100
        return (number * 1000 + rows * 20 + columns + offsets).astype(np.float32), self.labels[number].copy()


def sampler(images, crop=4, foreground_share=0.0, context=0, seed=0):
    return CropSampler(images, crop=crop, foreground_share=foreground_share, context=context, seed=seed)


def place(slices):
    """Which image, which row and column the crop begins at."""
    number, rest = divmod(round(float(slices[len(slices) // 2, 0, 0])), 1000)
    return number, *divmod(rest, 20)


def rare_classes():
    """Twenty images: class 1 is in the first ten, class 2 is one voxel of image 3; image 19 is unknown."""
    labels = np.zeros((20, TILE, TILE), np.uint8)
    labels[:10, 2:6, 3:9] = 1
    labels[3, 11, 0] = 2
    labels[19] = IGNORE
    return Numbered(labels)


def test_a_crop_is_a_window_of_an_image_with_its_context_and_labels():
    images = rare_classes()
    crops = sampler(images, foreground_share=0.5, context=2)
    for number in range(50):
        found, slices, labels = crops[number]
        image, top, left = place(slices)
        whole, truth = images.read(image, 2)
        assert found == number
        assert slices.shape == (5, 4, 4)
        np.testing.assert_array_equal(slices, whole[:, top : top + 4, left : left + 4])
        np.testing.assert_array_equal(labels, truth[top : top + 4, left : left + 4])


def test_number_and_seed_decide_a_crop_in_any_order_and_in_any_process():
    first, again = sampler(rare_classes(), foreground_share=0.4), sampler(rare_classes(), foreground_share=0.4)
    again = pickle.loads(pickle.dumps(again))
    forwards = [place(first[number][1]) for number in range(60)]
    backwards = [place(again[number][1]) for number in reversed(range(60))]
    assert backwards[::-1] == forwards
    other = sampler(rare_classes(), foreground_share=0.4, seed=1)
    assert [place(other[number][1]) for number in range(60)] != forwards


@given(share=st.floats(0, 1), count=st.integers(1, 120))
@settings(max_examples=30)
def test_of_n_crops_the_stated_share_has_foreground_and_the_rest_goes_through_all_images(share, count):
    labels = np.zeros((7, TILE, TILE), np.uint8)
    labels[0, 5, 5] = 1
    crops = sampler(Numbered(labels), crop=TILE, foreground_share=share)
    seen = [place(crops[number][1])[0] for number in range(count)]
    rest = count - int(count * share)
    most = -(-rest // 7)
    for image in range(1, 7):
        assert most - 1 <= seen.count(image) <= most  # every image once an epoch
    assert int(count * share) + most - 1 <= seen.count(0) <= int(count * share) + most


def test_every_epoch_has_another_order():
    crops = sampler(rare_classes())
    epochs = [tuple(place(crops[number][1])[0] for number in range(20 * e, 20 * e + 20)) for e in range(3)]
    assert all(sorted(epoch) == list(range(20)) for epoch in epochs)
    assert len(set(epochs)) == 3


def test_classes_are_chosen_evenly_however_rare_and_their_images_too():
    crops = sampler(rare_classes(), foreground_share=1.0)
    chosen = [crops[number] for number in range(400)]
    has_two = sum((labels == 2).any() for _, _, labels in chosen)
    assert 150 < has_two < 250
    assert all((labels > 0).any() for _, _, labels in chosen)
    images = np.bincount([place(slices)[0] for _, slices, labels in chosen if not (labels == 2).any()], minlength=20)
    assert images[10:].sum() == 0
    assert images[:10].min() >= 8


def test_a_class_is_anywhere_in_the_crops_that_contain_it():
    labels = np.zeros((1, TILE, TILE), np.uint8)
    labels[0, 6, 6] = 1
    crops = sampler(Numbered(labels), foreground_share=1.0)
    where = {tuple(np.argwhere(crops[number][2] == 1)[0]) for number in range(300)}
    assert where == {(y, x) for y in range(4) for x in range(4)}
    labels[0] = 0
    labels[0, 0, 11] = 1  # a corner can only be in the corner's crop
    crops = sampler(Numbered(labels), foreground_share=1.0)
    assert {place(crops[number][1]) for number in range(20)} == {(0, 0, 8)}


def test_crops_without_a_class_in_mind_are_anywhere():
    crops = sampler(Numbered(np.zeros((1, TILE, TILE))))
    places = {place(crops[number][1])[1:] for number in range(900)}
    assert places == {(y, x) for y in range(9) for x in range(9)}


def test_without_foreground_the_images_take_turns():
    crops = sampler(Numbered(np.zeros((4, TILE, TILE))), foreground_share=0.9)
    assert sorted(place(crops[number][1])[0] for number in range(4)) == [0, 1, 2, 3]


def test_only_the_train_split_is_sampled():
    images = rare_classes()
    images.train = [0, 12, 13]
    crops = sampler(images, foreground_share=0.5)
    assert {place(crops[number][1])[0] for number in range(40)} == {0, 12, 13}


def test_what_cannot_be_sampled_is_refused():
    images = rare_classes()
    for crop in (0, TILE + 1):
        with pytest.raises(ParameterError, match=f"crop: expected 1 to {TILE}"):
            sampler(images, crop=crop)
    images.train = []
    with pytest.raises(DatasetError, match="train split has no images"):
        sampler(images)


@given(batch=st.integers(1, 5), devices=st.integers(1, 4), steps=st.integers(1, 9), first=st.integers(0, 8))
def test_the_devices_share_the_numbers_of_each_step_and_a_late_start_changes_none(batch, devices, steps, first):
    numbers = [list(StepNumbers(batch, 0, steps, rank, devices)) for rank in range(devices)]
    together = [number for step in zip(*numbers, strict=True) for part in step for number in part]
    assert together == list(range(batch * devices * steps))
    assert list(StepNumbers(batch, first, steps, devices - 1, devices)) == numbers[-1][first:]

"""Training samples: windows as the engine sees them, crops in balance, image and truth varied together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tomoscribe.engine.errors import ParameterError
from tomoscribe.engine.intensity import intensity_of
from tomoscribe.engine.tiles import TilePlan
from tomoscribe.train.sampling import CropSampler, NormalisedVolume, SamplingConfiguration, TrainingVolume

UNVARIED = SamplingConfiguration(
    crop=16, foreground_share=0, contrast=0, brightness=0, noise=0, smoothing_share=0, repeat_share=0
)


def volume(shape=(5, 40, 30), seed=0, labels=None):
    random = np.random.default_rng(seed)
    if labels is None:
        labels = random.integers(0, 3, shape).astype(np.uint8)
    return TrainingVolume((100 + 20 * random.standard_normal(shape)).astype(np.float32), labels, 10.0)


def reflected(position, length):
    while position >= length:
        position = 2 * length - 1 - position if position < 2 * length else position - 2 * length
    return position


@given(
    z=st.integers(0, 2),
    top=st.integers(0, 4),
    left=st.integers(0, 6),
    size=st.tuples(st.integers(1, 24), st.integers(1, 30)),
    context=st.integers(0, 4),
)
@settings(max_examples=40, deadline=None)
def test_a_window_is_what_plain_loops_read(z, top, left, size, context):
    source = volume((3, 5, 7))
    slices, labels = NormalisedVolume(source, context).window(z, top, left, size)
    statistics = intensity_of(source.intensity)
    assert slices.shape == (2 * context + 1, *size)
    assert labels.shape == size
    assert (slices.dtype, labels.dtype) == (np.float32, np.uint8)
    for y in range(size[0]):
        for x in range(size[1]):
            at = reflected(top + y, 5), reflected(left + x, 7)
            assert labels[y, x] == source.labels[z][at]
            for offset in range(-context, context + 1):
                value = source.intensity[min(max(z + offset, 0), 2)][at]
                expected = (value - statistics.mean) / statistics.standard_deviation
                assert slices[offset + context, y, x] == pytest.approx(expected, abs=1e-4)


def test_half_precision_volumes_are_normalised_in_single_precision():
    source = volume()
    half = replace(source, intensity=source.intensity.astype(np.float16))
    slices, _ = NormalisedVolume(half, 0).window(0, 0, 0, (16, 16))
    expected, _ = NormalisedVolume(source, 0).window(0, 0, 0, (16, 16))
    assert slices.dtype == np.float32
    np.testing.assert_allclose(slices, expected, atol=5e-3)


def test_a_sample_is_decided_by_its_number_and_the_seed():
    configuration = SamplingConfiguration(crop=16)
    first, second = (CropSampler([volume(), volume(seed=1)], configuration, 1, seed=3) for _ in range(2))
    for number in (7, 0):  # in any order
        for one, other in zip(first.sample(number), second.sample(number), strict=True):
            np.testing.assert_array_equal(one, other)
    other_seed = CropSampler([volume(), volume(seed=1)], configuration, 1, seed=4)
    assert not np.array_equal(first.sample(0)[0], other_seed.sample(0)[0])
    assert not np.array_equal(first.sample(0)[0], first.sample(1)[0])


def test_image_and_truth_are_turned_together_in_all_eight_ways():
    labels = np.zeros((1, 16, 16), np.uint8)
    labels[0, 2, 5] = 1  # no symmetry
    source = TrainingVolume(labels.astype(np.float32) * 9 + volume((1, 16, 16)).intensity * 0.01, labels, 10.0)
    sampler = CropSampler([source], UNVARIED, 0, seed=0)
    places = set()
    for number in range(100):
        slices, truth = sampler.sample(number)
        assert np.unravel_index(slices[0].argmax(), (16, 16)) == np.unravel_index(truth.argmax(), (16, 16))
        places.add(int(truth.argmax()))
    assert len(places) == 8


def test_context_slices_keep_their_order_or_are_mirrored_in_z():
    intensity = np.broadcast_to(np.arange(9, dtype=np.float32)[:, None, None], (9, 16, 16)).copy()
    sampler = CropSampler([TrainingVolume(intensity, np.zeros((9, 16, 16), np.uint8), 10.0)], UNVARIED, 2, seed=0)
    signs = set()
    for number in range(60):
        steps = np.diff(sampler.sample(number)[0][:, 0, 0])
        assert (steps >= 0).all() or (steps <= 0).all()
        signs.add(float(np.sign(steps.sum())))
    assert signs == {-1.0, 1.0}


def test_context_can_be_replaced_by_the_slice_itself():
    for share, expected in ((1.0, True), (0.0, False)):
        slices, _ = CropSampler([volume()], replace(UNVARIED, repeat_share=share), 1, seed=0).sample(0)
        assert (np.array_equal(slices[0], slices[1]) and np.array_equal(slices[2], slices[1])) is expected


def test_foreground_crops_contain_a_class_however_rare_and_classes_take_turns():
    labels = np.zeros((4, 200, 200), np.uint8)
    labels[:, :20, :20] = 1
    labels[2, 199, 0] = 2  # a single voxel in a corner
    source = volume(labels.shape, labels=labels)
    sampler = CropSampler(
        [source, volume((4, 20, 20), labels=labels[:, -20:, -20:])], replace(UNVARIED, foreground_share=1.0), 0, seed=0
    )
    crops = [sampler.sample(number)[1] for number in range(200)]
    assert all(crop.any() for crop in crops)
    assert 60 < sum((crop == 2).any() for crop in crops) < 140


def test_other_crops_come_from_everywhere():
    labels = np.arange(30 * 30).reshape(1, 30, 30) // 4 % 256
    source = volume((1, 30, 30), labels=labels.astype(np.uint8))
    sampler = CropSampler([source], UNVARIED, 0, seed=0)
    seen = np.concatenate([sampler.sample(number)[1].ravel() for number in range(300)])
    assert set(seen) == set(labels.ravel())


def test_volumes_are_chosen_by_their_size():
    large, small = (
        volume(shape, labels=np.full(shape, label, np.uint8)) for shape, label in (((6, 30, 30), 1), ((2, 30, 30), 2))
    )
    sampler = CropSampler([large, small], UNVARIED, 0, seed=0)
    share = np.mean([sampler.sample(number)[1][0, 0] == 1 for number in range(400)])
    assert 0.68 < share < 0.82


def test_volumes_smaller_than_a_crop_are_reflected():
    slices, labels = CropSampler([volume((2, 5, 9))], UNVARIED, 1, seed=0).sample(0)
    assert slices.shape == (3, 16, 16)
    assert labels.shape == (16, 16)


@pytest.mark.parametrize("shape", [(1, 5, 9), (1, 16, 9), (1, 1, 30), (1, 20, 40)])
def test_crops_are_padded_as_the_engine_pads_slices(shape):
    source = volume(shape)
    plan = TilePlan.for_slice(shape[1:], multiple=16, halo=0, largest=1024)
    padded = np.empty((1, *plan.tile_shape), np.uint8)
    plan.extract(plan.tiles[0], source.labels, padded)
    _, labels = NormalisedVolume(source, 0).window(0, 0, 0, plan.tile_shape)
    np.testing.assert_array_equal(labels, padded[0])


@pytest.mark.parametrize(
    ("change", "mean_varies", "deviation"),
    [
        ({"contrast": 0.3}, False, "varies"),
        ({"brightness": 0.5}, True, "same"),
        ({"noise": 2.0}, False, "larger"),
        ({"smoothing_share": 1.0}, False, "smaller"),
    ],
)
def test_each_variation_does_what_it_says(change, mean_varies, deviation):
    source = volume((1, 64, 64))
    base = replace(UNVARIED, crop=64)
    before = CropSampler([source], base, 0, seed=0).sample(0)[0]
    after = [CropSampler([source], replace(base, **change), 0, seed=0).sample(n)[0] for n in range(30)]
    means, ratios = np.array([s.mean() for s in after]), np.array([s.std() for s in after]) / before.std()
    assert (np.ptp(means) > 0.5) == mean_varies
    assert {
        "same": np.ptp(ratios) < 1e-3,
        "varies": ratios.min() < 0.9 and ratios.max() > 1.1,
        "larger": ratios.min() > 0.999 and ratios.max() > 1.5,
        "smaller": (abs(ratios - 0.375) < 0.05).all(),  # (1, 2, 1) / 4 twice: sqrt(6) / 4 squared, for white noise
    }[deviation]


def test_what_cannot_be_sampled_is_refused():
    good = volume()
    with pytest.raises(ParameterError, match="one at least"):
        CropSampler([], UNVARIED, 0, seed=0)
    with pytest.raises(ParameterError, match="one shape"):
        TrainingVolume(good.intensity, good.labels[1:], 10.0)
    with pytest.raises(ParameterError, match="uint8 labels, found int64"):
        TrainingVolume(good.intensity, good.labels.astype(np.int64), 10.0)
    for voxel_size in (0.0, -1.0, float("nan")):
        with pytest.raises(ParameterError, match="voxel size"):
            TrainingVolume(good.intensity, good.labels, voxel_size)
    for change in ({"crop": 0}, {"foreground_share": 1.1}, {"noise": -1}, {"contrast": float("nan")}):
        with pytest.raises(ParameterError, match=f"{next(iter(change))}: expected"):
            SamplingConfiguration(**change)

"""Augmentation: image and labels are varied together, as drawn, and as the formulas say."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tomoscribe.train.augmentation import apply_variations, spectrum_gain, wedge_gain
from tomoscribe.train.dataset.contract import IGNORE
from tomoscribe.train.settings import AugmentationSettings
from tomoscribe.train.variation import RINGS, Variation, draw_variation

SAME = Variation(
    repeat=False,
    mirror_z=False,
    flip=False,
    turns=0,
    angle=0.0,
    scale=1.0,
    spectrum=None,
    wedge=None,
    contrast=1.0,
    brightness=0.0,
    noise=0.0,
)
OFF = AugmentationSettings(
    flips=False,
    turns=False,
    mirror_z=False,
    repeat_share=0,
    warp_share=0,
    fourier_share=0,
    wedge_share=0,
    contrast=0,
    brightness=0,
    noise=0,
)


def crops(count=3, size=32, seed=0):
    random = np.random.default_rng(seed)
    slices = random.standard_normal((count, 5, size, size)).astype(np.float32)
    labels = random.integers(0, 4, (count, size, size)).astype(np.uint8)
    labels[:, 3, 4] = IGNORE
    return slices, labels


def varied(slices, labels, *variations, seed=(0, 0)):
    found = apply_variations(torch.from_numpy(slices), torch.from_numpy(labels), variations, seed)
    assert found[0].dtype == torch.float32
    assert found[1].dtype == torch.uint8
    return tuple(part.numpy() for part in found)


def vary(slices, labels, **change):
    return varied(slices, labels, *[replace(SAME, **change)] * len(slices))


def test_nothing_drawn_changes_nothing_and_the_batch_that_goes_in_stays():
    slices, labels = crops()
    kept = slices.copy(), labels.copy()
    for found, expected in zip(vary(slices, labels), kept, strict=True):
        np.testing.assert_array_equal(found, expected)
    vary(slices, labels, contrast=3.0, brightness=1.0, noise=1.0, angle=20.0, flip=True)
    np.testing.assert_array_equal(slices, kept[0])
    np.testing.assert_array_equal(labels, kept[1])


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("mirror_z", [False, True])
def test_mirrors_and_right_angles_are_numpys(turns, flip, mirror_z):
    slices, labels = crops()
    found = vary(slices, labels, turns=turns, flip=flip, mirror_z=mirror_z)
    if mirror_z:
        slices = slices[:, ::-1]
    if flip:
        slices, labels = slices[..., ::-1], labels[..., ::-1]
    np.testing.assert_array_equal(found[0], np.rot90(slices, turns, (2, 3)))
    np.testing.assert_array_equal(found[1], np.rot90(labels, turns, (1, 2)))


def test_a_repeated_slice_is_its_own_context():
    slices, labels = crops()
    found, truth = vary(slices, labels, repeat=True)
    np.testing.assert_array_equal(found, np.repeat(slices[:, 2:3], 5, axis=1))
    np.testing.assert_array_equal(truth, labels)


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_turn_by_90_degrees_is_the_right_angle(turns):
    slices, labels = crops()
    found = vary(slices, labels, angle=90.0 * turns)
    expected = [np.rot90(slices, turns, (2, 3)), np.rot90(labels, turns, (1, 2))]
    if not np.allclose(found[0], expected[0], atol=1e-3):  # the other direction is as good
        expected = [np.rot90(slices, -turns, (2, 3)), np.rot90(labels, -turns, (1, 2))]
    np.testing.assert_allclose(found[0], expected[0], atol=1e-3)
    np.testing.assert_array_equal(found[1], expected[1])


@pytest.mark.parametrize(("angle", "scale"), [(17.0, 1.0), (-40.0, 0.8), (0.0, 1.25), (5.0, 1.1)])
def test_turned_and_scaled_labels_lie_where_the_image_does(angle, scale):
    labels = np.zeros((1, 64, 64), np.uint8)
    labels[0, 20:34, 24:50] = 1
    slices = np.repeat(labels[:, None].astype(np.float32), 3, axis=1)
    found, truth = vary(slices, labels, angle=angle, scale=scale)
    known = truth[0] != IGNORE
    assert np.mean((found[0, 1] > 0.5)[known] != (truth[0] == 1)[known]) < 0.01
    inside = known & (np.hypot(*(np.mgrid[:64, :64] - 31.5)) < 31)
    assert (truth[0] == 1)[inside].sum() == pytest.approx(14 * 26 * scale**2, rel=0.05)
    direction = np.deg2rad(angle)  # the corners come from outside
    reach = 32 * (abs(math.cos(direction)) + abs(math.sin(direction))) / scale
    assert (truth[0, 0, 0] == IGNORE) == (reach > 32.5)


def test_labels_come_through_a_turn_as_they_are():
    labels = np.full((1, 8, 8), 254, np.uint8)
    labels[0, :, :4] = 0
    labels[0, 0] = IGNORE
    _, truth = vary(np.zeros((1, 1, 8, 8), np.float32), labels, angle=180.0)
    np.testing.assert_array_equal(truth, labels[:, ::-1, ::-1])


def wave(size, frequency, angle=0.0):
    """A plane wave of whole periods; the frequency counts from 0 to 1 at Nyquist along x."""
    y, x = np.mgrid[:size, :size]
    return np.cos(np.pi * frequency * (x * math.cos(angle) + y * math.sin(angle)) + 0.3)


def amplitude(image, frequency, angle=0.0):
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    phase = np.pi * frequency * (x * math.cos(angle) + y * math.sin(angle))
    return abs(np.mean(image * np.exp(-1j * phase)))


def test_the_spectrum_follows_its_curve_and_the_crop_keeps_mean_and_deviation():
    walk = np.linspace(0, 1.2, RINGS + 1) ** 2
    image = sum(wave(128, f) for f in (0.125, 0.5, 0.875)).astype(np.float32) + 0.4
    slices = np.stack([image, 2 * image])[None]
    found, _ = vary(slices, np.zeros((1, 128, 128), np.uint8), spectrum=walk)
    assert found.mean() == pytest.approx(slices.mean(), abs=1e-4)
    assert found.std() == pytest.approx(slices.std(), rel=1e-4)
    assert found[0, 1].std() == pytest.approx(2 * found[0, 0].std(), rel=1e-3)  # one gain for all context slices
    gains = [amplitude(found[0, 0] - found[0, 0].mean(), f) / amplitude(image - 0.4, f) for f in (0.125, 0.5, 0.875)]
    curve = np.exp(np.interp([0.125, 0.5, 0.875], np.linspace(0, 1, RINGS + 1), walk))
    np.testing.assert_allclose(np.array(gains) / gains[0], curve / curve[0], rtol=0.05)


def test_the_curve_is_straight_between_its_points_and_flat_beyond():
    points = np.random.default_rng(0).normal(size=(2, RINGS + 1)).astype(np.float32)
    frequency = np.linspace(0, 1.4, 60, dtype=np.float32).reshape(4, 15)
    found = spectrum_gain(torch.from_numpy(points), torch.from_numpy(frequency)).numpy()
    for gain, line in zip(found, points, strict=True):
        expected = np.exp(np.interp(frequency, np.linspace(0, 1, RINGS + 1), line))
        np.testing.assert_allclose(gain, expected, rtol=1e-4)


@pytest.mark.parametrize(("tilt", "recorded"), [(40.0, 60.0), (30.0, 45.0)])
def test_the_wedge_gain_is_that_of_slices_through_wedged_volumes(tilt, recorded):
    """White noise is wedged in three dimensions; the power of its slices is counted by |k_x|."""
    random = np.random.default_rng(0)
    size = 48
    kz, _, kx = np.meshgrid(*[2 * np.fft.fftfreq(size)] * 3, indexing="ij")
    power = {}
    for range_ in (tilt, recorded):
        kept = np.abs(kz) <= np.abs(kx) * math.tan(math.radians(range_))
        total = np.zeros(size)
        for _ in range(6):
            volume = np.fft.ifftn(np.fft.fftn(random.standard_normal((size,) * 3)) * kept)
            total += (np.abs(np.fft.fft2(volume.real, axes=(1, 2))) ** 2).sum(axis=(0, 1))
        power[range_] = total
    across = 2 * np.fft.fftfreq(size)
    tested = (np.abs(across) > 0.15) & (np.abs(across) < 0.99)  # coarse sampling of k_z at small |k_x|
    expected = np.sqrt(power[tilt] / power[recorded])[tested]
    found = wedge_gain(torch.from_numpy(across), tilt, recorded).numpy()[tested]
    np.testing.assert_allclose(found, expected, rtol=0.12)
    assert found.min() < 0.8
    at_zero = wedge_gain(torch.zeros(1, dtype=torch.float64), tilt, recorded)
    ratio = math.tan(math.radians(tilt)) / math.tan(math.radians(recorded))
    assert float(at_zero) == pytest.approx(math.sqrt(ratio))


@pytest.mark.parametrize("direction", [0.0, math.pi / 2])
def test_a_wedge_weakens_what_varies_along_the_tilt_axis(direction):
    across, along = (wave(128, 0.875, angle) for angle in (direction, direction + math.pi / 2))
    slices = (across + along).astype(np.float32)[None, None]
    found, _ = vary(slices, np.zeros((1, 128, 128), np.uint8), wedge=(direction, 30.0))
    ratio = amplitude(found[0, 0], 0.875, direction + math.pi / 2) / amplitude(found[0, 0], 0.875, direction)
    expected = wedge_gain(torch.tensor([0.0, 0.875]), 30.0)
    assert expected[0] < 0.85 * expected[1]
    assert ratio == pytest.approx(float(expected[0] / expected[1]), rel=0.05)


def test_contrast_brightness_and_noise_are_as_drawn():
    slices, labels = crops(count=2, size=64)
    changes = replace(SAME, contrast=1.5, brightness=-0.2), replace(SAME, noise=0.7)
    found, truth = varied(slices, labels, *changes, seed=(3, 8))
    np.testing.assert_allclose(found[0], slices[0] * np.float32(1.5) - np.float32(0.2), rtol=1e-5, atol=1e-6)
    noise = found[1] - slices[1]
    assert noise.std() == pytest.approx(0.7, rel=0.05)
    assert abs(noise.mean()) < 0.02
    np.testing.assert_array_equal(truth, labels)
    np.testing.assert_array_equal(varied(slices, labels, *changes, seed=(3, 8))[0], found)
    assert not np.array_equal(varied(slices, labels, *changes, seed=(3, 9))[0][1], found[1])


def test_a_batch_is_varied_crop_by_crop():
    slices, labels = crops(count=8, size=24)
    settings = AugmentationSettings(
        warp_share=0.5, fourier_share=0.5, wedge_share=0.5, repeat_share=0.3, noise=0, least_tilt=30
    )
    variations = [draw_variation(settings, 1, number) for number in range(8)]
    together = varied(slices, labels, *variations)
    for number, variation in enumerate(variations):
        alone = varied(slices[number : number + 1], labels[number : number + 1], variation)
        np.testing.assert_allclose(together[0][number], alone[0][0], atol=2e-5)
        np.testing.assert_array_equal(together[1][number], alone[1][0])


def test_number_and_seed_decide_what_is_drawn():
    settings = AugmentationSettings()
    drawn = [draw_variation(settings, 5, number) for number in range(40)]
    assert repr([draw_variation(settings, 5, number) for number in range(40)]) == repr(drawn)
    assert repr([draw_variation(settings, 6, number) for number in range(40)]) != repr(drawn)
    assert len({variation.brightness for variation in drawn}) == 40


def test_everything_is_drawn_as_often_and_as_far_as_the_settings_say():
    settings = AugmentationSettings(repeat_share=0.2, warp_share=0.3, fourier_share=0.4, wedge_share=0.1)
    drawn = [draw_variation(settings, 0, number) for number in range(3000)]
    shares = {
        "repeat": (0.2, lambda v: v.repeat),
        "mirror_z": (0.5, lambda v: v.mirror_z),
        "flip": (0.5, lambda v: v.flip),
        "warp": (0.3, lambda v: v.angle != 0 and v.scale != 1),
        "fourier": (0.4, lambda v: v.spectrum is not None),
        "wedge": (0.1, lambda v: v.wedge is not None),
        "noise": (0.5, lambda v: v.noise > 0),
    }
    for name, (share, has) in shares.items():
        assert np.mean([has(v) for v in drawn]) == pytest.approx(share, abs=0.03), name
    assert set(np.bincount([v.turns for v in drawn]) > 600) == {True}
    for values, low, high in (
        ([v.angle for v in drawn], -20, 20),
        ([v.scale for v in drawn], 1 / 1.15, 1.15),
        ([v.noise for v in drawn], 0, 0.4),
        ([v.wedge[1] for v in drawn if v.wedge], 40, 60),
        ([v.wedge[0] for v in drawn if v.wedge], 0, math.pi),
    ):
        assert low <= min(values) < low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) < max(values) <= high
    assert np.std(np.log([v.contrast for v in drawn])) == pytest.approx(0.15, rel=0.1)
    assert np.std([v.brightness for v in drawn]) == pytest.approx(0.15, rel=0.1)
    walks = np.stack([v.spectrum for v in drawn if v.spectrum is not None])
    assert not walks[:, 0].any()
    np.testing.assert_allclose(np.diff(walks).std(axis=0), 0.25, rtol=0.1)


def test_everything_can_be_turned_off_alone_and_the_rest_stays_as_it_was():
    assert draw_variation(OFF, 0, 3) == SAME
    default = [draw_variation(AugmentationSettings(), 0, number) for number in range(30)]
    off = AugmentationSettings(warp_share=0, fourier_share=0)
    for variation, before in zip((draw_variation(off, 0, n) for n in range(30)), default, strict=True):
        assert repr(variation) == repr(replace(before, angle=0.0, scale=1.0, spectrum=None))

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st

from tomoscribe.train.phantom import ImagingParameters
from tomoscribe.train.phantom import tilt_series as ts

CLEAN = ImagingParameters(
    signal_to_noise=1e12,
    dose=0.0,
    alignment_error=0.0,
    mean_free_path=1e9,
    amplitude_contrast=1.0,
    defocus=0.0,
    spherical_aberration=0.0,
    low_pass=1e6,
    tilt_step=2.0,
)


def test_electron_wavelengths_are_those_of_the_tables():
    # Reimer and Kohl 2008, table 2.2: 200 kV 2.508 pm, 300 kV 1.969 pm.
    assert ts.electron_wavelength(200) == pytest.approx(0.02508, rel=1e-3)
    assert ts.electron_wavelength(300) == pytest.approx(0.01969, rel=1e-3)


def test_contrast_transfer_starts_at_the_amplitude_contrast_and_first_vanishes_where_the_phase_is_pi():
    imaging = ImagingParameters(defocus=5.0, amplitude_contrast=0.1, phase_flip=False, spherical_aberration=0.0)
    squared = np.linspace(0, 1 / 15**2, 20001).astype(np.float32)
    transfer = ts.contrast_transfer(squared, imaging)
    assert transfer[0] == pytest.approx(0.1, abs=1e-5)
    first_zero = squared[np.argmax(transfer < 0)]
    expected = (np.pi - np.arcsin(0.1)) / (np.pi * ts.electron_wavelength(300) * 5e4)
    assert first_zero == pytest.approx(expected, rel=1e-3)
    flipped = ts.contrast_transfer(squared, replace(imaging, phase_flip=True))
    np.testing.assert_allclose(flipped, np.abs(transfer))


def test_dose_damps_fine_detail_more_than_coarse():
    coarse, fine = ts.dose_damping(np.array([1 / 100**2, 1 / 20**2], np.float32), 100.0)
    assert 0 < fine < coarse < 1
    # At 20 Å the critical dose is 0.245 · 20^1.665 + 2.81 = 38.7 e/Å².
    assert fine == pytest.approx(np.exp(-100 / (2 * 38.7)), rel=1e-2)
    assert ts.dose_damping(np.array([1 / 20**2], np.float32), 0.0) == 1


def test_tilts_reach_the_largest_angle_on_both_sides_and_dose_grows_away_from_zero():
    angles = ts.tilt_angles(ImagingParameters(maximum_tilt=60, tilt_step=3))
    assert len(angles) == 41
    np.testing.assert_allclose(np.rad2deg(angles[[0, 20, -1]]), [-60, 0, 60], atol=1e-9)
    doses = ts._dose_symmetric(angles, 100.0)
    assert doses[20] == doses.min()
    assert max(doses[0], doses[-1]) == doses.max() < 100


def test_a_projection_is_the_sum_of_planes_moved_along_the_ray():
    generator = np.random.default_rng(0)
    # Smooth in x, so that linear interpolation, the reference here, is a fair one.
    volume = scipy.ndimage.gaussian_filter1d(generator.normal(size=(7, 5, 64)), 4.0, axis=2, mode="wrap")
    angles = np.deg2rad([-40.0, 0.0, 25.0])
    spectrum = np.fft.rfft(volume, axis=2).astype(np.complex64)
    images = np.fft.irfft(ts._project(spectrum, 64, angles), 64, axis=2)
    for image, angle in zip(images, angles, strict=True):
        expected = np.zeros((5, 64))
        for z, plane in enumerate(volume):
            expected += scipy.ndimage.shift(plane, (0, (z - 3) * np.tan(angle)), order=3, mode="grid-wrap")
        np.testing.assert_allclose(image, expected, atol=2e-3)


@settings(max_examples=25)
@given(st.integers(1, 6), st.integers(1, 5), st.integers(4, 40), st.integers(0, 2**31))
def test_back_projection_is_the_adjoint_of_projection(depth, height, width, seed):
    generator = np.random.default_rng(seed)
    angles = np.deg2rad(generator.uniform(-60, 60, 4))

    def draw(*shape):
        return (generator.normal(size=shape) + 1j * generator.normal(size=shape)).astype(np.complex64)

    count = width // 2 + 1
    volume, images = draw(depth, height, count), draw(4, height, count)
    forward = np.vdot(ts._project(volume, width, angles), images)
    backward = np.vdot(volume, ts._back_project(images, width, angles, depth))
    assert abs(forward - backward) <= 1e-4 * np.linalg.norm(volume) * np.linalg.norm(images)


def test_a_ball_is_reconstructed_dark_and_in_place():
    z, y, x = np.indices((32, 48, 64))
    ball = ((z - 15.5) ** 2 + (y - 20) ** 2 + (x - 40) ** 2 <= 36).astype(np.float32)
    volume = ts.image_and_reconstruct(ball, 10.0, 320.0, CLEAN, np.random.default_rng(0))
    assert volume.shape == ball.shape
    assert volume.dtype == np.float32
    smooth = scipy.ndimage.gaussian_filter(volume, 2.0)
    assert np.abs(np.array(np.unravel_index(np.argmin(smooth), ball.shape)) - [15.5, 20, 40]).max() <= 1
    assert volume[ball > 0].mean() < volume[ball == 0].mean() - 3


def test_the_wedge_is_missing():
    noise = np.random.default_rng(1).normal(size=(64, 32, 64)).astype(np.float32)
    volume = ts.image_and_reconstruct(noise, 10.0, 640.0, CLEAN, np.random.default_rng(0))
    power = np.abs(np.fft.fftn(volume)) ** 2
    kz, _, kx = np.meshgrid(*(np.fft.fftfreq(n) for n in volume.shape), indexing="ij")
    angle = np.rad2deg(np.arctan2(np.abs(kz), np.abs(kx)))
    radius = np.hypot(kz, kx)
    ring = (radius > 0.15) & (radius < 0.4)
    seen, missing = power[ring & (angle < 55)].mean(), power[ring & (angle > 68)].mean()
    assert missing < 0.05 * seen
    # What is seen is seen alike from all sides: a weighted back-projection of line integrals has no preferred tilt.
    steps = [power[ring & (angle > low) & (angle < low + 12)].mean() for low in (5, 17, 29, 41)]
    assert max(steps) < 1.25 * min(steps)


@pytest.mark.parametrize("ratio", [0.1, 1.0])
def test_noise_is_that_of_the_chosen_ratio(ratio):
    # A single untilted image and a flat weight leave signal plus noise as recorded, seen through the one projection.
    generator = np.random.default_rng(2)
    sample = scipy.ndimage.gaussian_filter(generator.normal(size=(16, 96, 96)), 1.0).astype(np.float32)
    angles = np.array([0.0])
    spectrum = np.fft.rfft(sample, axis=2).astype(np.complex64)

    def record(signal_to_noise):
        imaging = replace(CLEAN, signal_to_noise=signal_to_noise)
        images = ts._project(spectrum, 96, angles)
        return ts._record(images, 96, 10.0, 160.0, imaging, angles, np.random.default_rng(3))

    weight = np.fft.rfftfreq(96) * 2 + 0.01
    clean = np.fft.irfft(record(1e12) / weight, 96, axis=2)
    noisy = np.fft.irfft(record(ratio) / weight, 96, axis=2)
    assert clean.var() / (noisy - clean).var() == pytest.approx(ratio, rel=0.05)


def test_the_detector_is_as_noisy_at_any_tilt():
    angles = np.deg2rad([0.0, 55.0])
    images = np.zeros((2, 96, 49), np.complex64)
    sample = np.random.default_rng(5).normal(size=(96, 96)).astype(np.float32)
    images[0] = np.fft.rfft(sample, axis=1)
    recorded = ts._record(
        images, 96, 10.0, 100.0, replace(CLEAN, signal_to_noise=0.01), angles, np.random.default_rng(6)
    )
    variances = []
    for image, angle in zip(recorded, angles, strict=True):
        weight = np.fft.rfftfreq(96) / np.cos(angle) * 2 + 0.01
        variances.append(np.fft.irfft(image / weight, 96, axis=1).var())
    assert variances[1] == pytest.approx(variances[0], rel=0.08)


def test_a_sample_goes_on_beyond_the_field_of_view():
    sample = np.ones((32, 64, 96), np.float32)
    sample += np.random.default_rng(4).normal(0, 0.05, sample.shape).astype(np.float32)
    volume = ts.image_and_reconstruct(sample, 10.0, 320.0, CLEAN, np.random.default_rng(0))
    # Were there nothing beyond, tilted rays would miss it near the left and right edges.
    profile = volume.mean(axis=(0, 1))
    assert np.abs(profile - np.median(profile)).max() < 0.3

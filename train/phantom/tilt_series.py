"""A tilt series of a potential, and its reconstruction: what the microscope does to a sample.

Everything linear is done in Fourier space along x. The tilt axis is y, so a ray at tilt θ that meets the plane z at x
meets the middle plane at u = x + z tan θ; a projection is a sum of planes shifted by z tan θ, which is a product with
exp(−2πi k z tan θ) for every frequency k along u. Projection and back-projection of all tilts are then one small
matrix product a frequency, with no interpolation. A detector sees s = u cos θ, so its frequency is k / cos θ, and what
lies beyond its Nyquist frequency is cut.
"""

from __future__ import annotations

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from tomoscribe.train.phantom.parameters import ImagingParameters

__all__ = ["contrast_transfer", "dose_damping", "electron_wavelength", "image_and_reconstruct", "tilt_angles"]

Floats = NDArray[np.float32]
Complexes = NDArray[np.complex64]

_FREQUENCY_BLOCK = 32
# Pixels; contrast transfer and alignment move detail by less.
_EDGE = 12


def tilt_angles(imaging: ImagingParameters) -> NDArray[np.float64]:
    """Return the tilt angles in radians in rising order, a multiple of the step each."""
    steps = int(np.floor(imaging.maximum_tilt / imaging.tilt_step + 1e-9))
    angles: NDArray[np.float64] = np.deg2rad(np.arange(-steps, steps + 1) * imaging.tilt_step)
    return angles


def electron_wavelength(voltage: float) -> float:
    """Return the relativistic electron wavelength in Å for a voltage in kV (Reimer and Kohl 2008, eq. 2.5)."""
    volts = voltage * 1e3
    return 12.2643 / float(np.sqrt(volts + 0.978466e-6 * volts**2))


def contrast_transfer(frequency_squared: Floats, imaging: ImagingParameters) -> Floats:
    """Return the contrast transfer function, positive where dense matter shows dark before the sign is applied.

    ``sin(π λ Δf k² − π/2 Cs λ³ k⁴ + arcsin A)``, underfocus Δf positive (Rohou and Grigorieff 2015, eq. 2).

    Args:
        frequency_squared: squared spatial frequency in Å⁻².
        imaging: voltage, defocus, spherical aberration, amplitude contrast, phase flip.
    """
    wavelength = electron_wavelength(imaging.voltage)
    defocus = imaging.defocus * 1e4
    aberration = imaging.spherical_aberration * 1e7
    phase = np.pi * wavelength * defocus * frequency_squared
    phase = phase - 0.5 * np.pi * aberration * wavelength**3 * frequency_squared**2
    transfer = np.sin(phase + np.arcsin(imaging.amplitude_contrast))
    return np.asarray(np.abs(transfer) if imaging.phase_flip else transfer, np.float32)


def dose_damping(frequency_squared: Floats, dose: float) -> Floats:
    """Return the amplitude that is left after a dose in e/Å²: ``exp(−dose / (2 Nₑ))``.

    ``Nₑ = 0.245 k^−1.665 + 2.81`` e/Å² at 300 kV (Grant and Grigorieff 2015, eq. 3).
    """
    frequency = np.sqrt(np.maximum(frequency_squared, 1e-8))
    return np.asarray(np.exp(-dose / (2 * (0.245 * frequency**-1.665 + 2.81))), np.float32)


def image_and_reconstruct(
    potential: Floats,
    voxel_size: float,
    thickness: float,
    imaging: ImagingParameters,
    generator: np.random.Generator,
) -> Floats:
    """Record a tilt series of a sample and reconstruct it.

    Args:
        potential: ``(z, y, x)`` float32, V relative to vitreous ice.
        voxel_size: in Å.
        thickness: of the sample, in Å; the volume may be higher.
        imaging: the microscope and the reconstruction.
        generator: of noise and alignment errors.

    Returns:
        ``(z, y, x)`` float32; dense matter is dark; mean 0 and standard deviation 1.
    """
    depth, height, width = potential.shape
    angles = tilt_angles(imaging)
    # Tilted rays leave the field of view sideways, and the microscope blurs and shifts across its edges; beyond them
    # the sample goes on, mirrored.
    sideways = min(int(np.ceil(depth / 2 * np.tan(np.abs(angles).max()))), width)
    left, padded_width = _margin(width, sideways)
    top, padded_height = _margin(height, min(_EDGE, height))
    margins = ((0, 0), (top, padded_height - height - top), (left, padded_width - width - left))
    spectrum = scipy.fft.rfft(np.pad(potential, margins, mode="symmetric"), axis=2, workers=-1)
    images = _project(spectrum, padded_width, angles)
    del spectrum
    images = _record(images, padded_width, voxel_size, thickness, imaging, angles, generator)
    spectrum = _back_project(images[:, top : top + height], padded_width, angles, depth)
    del images
    volume = scipy.fft.irfft(spectrum, padded_width, axis=2, workers=-1, overwrite_x=True)
    del spectrum
    volume = np.ascontiguousarray(volume[:, :, left : left + width], np.float32)
    volume -= volume.mean(dtype=np.float64)
    volume /= volume.std(dtype=np.float64)
    return volume


def _margin(length: int, least: int) -> tuple[int, int]:
    """Return how much to add before an axis, and its length with that at both ends, fit for a Fourier transform."""
    padded = scipy.fft.next_fast_len(length + 2 * least, real=True)
    return (padded - length) // 2, padded


def _shear(padded_width: int, angles: NDArray[np.float64], depth: int, columns: slice) -> Complexes:
    """Return ``exp(−2πi k z tan θ)`` as ``(k, θ, z)`` for a run of frequencies."""
    frequencies = np.fft.rfftfreq(padded_width)[columns]
    heights = np.arange(depth) - (depth - 1) / 2
    shifts = np.tan(angles)[:, None] * heights[None, :]
    factors: Complexes = np.exp(-2j * np.pi * frequencies[:, None, None] * shifts).astype(np.complex64)
    return factors


def _blocks(count: int) -> list[slice]:
    return [slice(start, min(start + _FREQUENCY_BLOCK, count)) for start in range(0, count, _FREQUENCY_BLOCK)]


def _project(spectrum: Complexes, padded_width: int, angles: NDArray[np.float64]) -> Complexes:
    """Return the projections of a volume as ``(θ, y, k)`` from its spectrum along x, ``(z, y, k)``."""
    depth, height, count = spectrum.shape
    images = np.empty((len(angles), height, count), np.complex64)
    for columns in _blocks(count):
        planes = np.moveaxis(spectrum[:, :, columns], 2, 0)
        product = _shear(padded_width, angles, depth, columns) @ planes
        images[:, :, columns] = np.moveaxis(product, 0, 2)
    return images


def _back_project(images: Complexes, padded_width: int, angles: NDArray[np.float64], depth: int) -> Complexes:
    """Return the sum of all images smeared back along their rays: the adjoint of `_project`."""
    _, height, count = images.shape
    spectrum = np.empty((depth, height, count), np.complex64)
    for columns in _blocks(count):
        rays = np.conj(np.swapaxes(_shear(padded_width, angles, depth, columns), 1, 2))
        product = rays @ np.moveaxis(images[:, :, columns], 2, 0)
        spectrum[:, :, columns] = np.moveaxis(product, 0, 2)
    return spectrum


def _record(
    images: Complexes,
    padded_width: int,
    voxel_size: float,
    thickness: float,
    imaging: ImagingParameters,
    angles: NDArray[np.float64],
    generator: np.random.Generator,
) -> Complexes:
    """Turn projections ``(θ, y, k)`` into filtered images: transfer, damage, shifts, noise, weighting."""
    height = images.shape[1]
    along = np.fft.rfftfreq(padded_width)[None, :] / voxel_size
    across = np.fft.fftfreq(height)[:, None] / voxel_size
    nyquist = 0.5 / voxel_size
    sign = np.float32(-1)
    doses = _dose_symmetric(angles, imaging.dose)
    noise_level: float | None = None
    for index in np.argsort(np.abs(angles), kind="stable"):
        cosine = float(np.cos(angles[index]))
        seen = along / cosine
        squared = (seen**2 + across**2).astype(np.float32)
        passed = (seen <= nyquist).astype(np.float32)
        image = scipy.fft.fft(images[index], axis=0, workers=-1)
        image *= sign * contrast_transfer(squared, imaging) * dose_damping(squared, float(doses[index])) * passed
        # A ray crosses each plane on a way 1/cos θ as long; and a longer way through the sample leaves fewer electrons
        # that were not scattered inelastically.
        image *= np.float32(np.exp(-thickness / imaging.mean_free_path * (1 / cosine - 1)) / cosine)
        if noise_level is None:
            # The untilted image comes first; its signal sets the noise of the whole series. Bare ice has no signal,
            # and noise all the same.
            signal = scipy.fft.irfft2(image, s=(height, padded_width), workers=-1)
            deviation = max(float(signal.std(dtype=np.float64)), 1e-3)
            noise_level = deviation / float(np.sqrt(imaging.signal_to_noise))
        shift = generator.normal(0, imaging.alignment_error, 2)
        image *= np.exp(-2j * np.pi * (seen * shift[0] + across * shift[1])).astype(np.complex64)
        noise = generator.standard_normal((height, padded_width), dtype=np.float32)
        # White noise of the detector, whose pixels are 1/cos θ apart along u: the same power in fewer frequencies.
        image += scipy.fft.rfft2(noise, workers=-1) * np.float32(noise_level / np.sqrt(cosine)) * passed
        image *= _weighting(seen / nyquist, squared / nyquist**2, imaging) * passed
        images[index] = scipy.fft.ifft(image, axis=0, workers=-1, overwrite_x=True)
    return images


def _dose_symmetric(angles: NDArray[np.float64], total: float) -> NDArray[np.float64]:
    """Return the dose that each tilt has seen when half of its own is spent, from 0° outwards (Hagen et al. 2017)."""
    order = np.argsort(np.abs(angles), kind="stable")
    doses = np.empty(len(angles))
    doses[order] = (np.arange(len(angles)) + 0.5) * total / len(angles)
    return doses


def _weighting(along: NDArray[np.floating], squared: Floats, imaging: ImagingParameters) -> Floats:
    """Return the reconstruction's weight for frequencies in shares of Nyquist: ramp or damped ramp, then roll-off.

    A small constant keeps the lowest frequencies, as the discrete ramp of Kak and Slaney (1988, eq. 3.61) does.
    """
    ramp = along + 0.01
    if imaging.filter == "sirt":
        # n iterations of SIRT leave the share 1 − (1 − a/k)ⁿ of each frequency (Zeng 2012); a/k at its largest is 1.
        ramp = ramp * (1 - (1 - np.minimum(0.02 / np.maximum(ramp, 0.02), 1)) ** 12)
    return np.asarray(ramp * np.exp(-squared / imaging.low_pass**2), np.float32)

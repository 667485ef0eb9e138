"""Augmentation: crops are varied as tomograms vary, in batches and on the device that trains.

What costs most (turning by an angle, the spectrum, noise) is done to those crops alone that were drawn for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, pad

from tomoscribe.train.dataset.contract import IGNORE
from tomoscribe.train.variation import RECORDED_TILT, RINGS, Variation

__all__ = ["apply_variations", "spectrum_gain", "wedge_gain"]

_PADDING = 16  # a crop is mirrored by one such part of its size around it before its spectrum is changed


@torch.no_grad()
def apply_variations(
    slices: Tensor, labels: Tensor, variations: Sequence[Variation], seed: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Vary a batch of crops.

    Args:
        slices: ``(n, 2k + 1, h, h)`` float32.
        labels: ``(n, h, h)`` uint8; pixels that come from outside a crop become `IGNORE`.
        variations: what is done to each.
        seed: decides the noise.

    Returns:
        Slices and labels, new tensors.
    """
    slices, labels = _turned(slices, labels, variations)
    warped = [number for number, v in enumerate(variations) if v.angle or v.scale != 1]
    if warped:
        slices[warped], labels[warped] = _warped(slices[warped], labels[warped], [variations[n] for n in warped])
    filtered = [number for number, v in enumerate(variations) if v.spectrum is not None or v.wedge is not None]
    if filtered:
        slices[filtered] = _filtered(slices[filtered], [variations[number] for number in filtered])
    factors = slices.new_tensor([[v.contrast, v.brightness, v.noise] for v in variations])[..., None, None, None]
    slices.mul_(factors[:, 0]).add_(factors[:, 1])
    noisy = [number for number, v in enumerate(variations) if v.noise]
    if noisy:
        # A generator of its own: no other random number of the run depends on how many were drawn here.
        generator = torch.Generator(slices.device)
        generator.manual_seed(int(np.random.SeedSequence(list(seed)).generate_state(1)[0]))
        shape = (len(noisy), *slices.shape[1:])
        slices[noisy] += factors[noisy, 2] * torch.randn(shape, generator=generator, device=slices.device)
    return slices, labels


def spectrum_gain(log_gain: Tensor, frequency: Tensor) -> Tensor:
    """Return a gain of the Fourier amplitudes that changes smoothly with the frequency and not with the direction.

    Tomograms of different microscopes, reconstructions and denoisers differ most in the fall-off of their amplitudes,
    which is why Lamm et al. (MemBrain v2, bioRxiv 2024.01.05.574336) match and vary the amplitudes of training data. A
    random walk over the rings of the spectrum covers what filters do: smoothing, sharpening, the contrast transfer.

    Args:
        log_gain: ``(n, rings + 1)``, from frequency 0 to Nyquist; straight between, constant beyond.
        frequency: ``(h, w)`` distance from the spectrum's centre as a part of Nyquist.

    Returns:
        ``(n, h, w)``.
    """
    position = frequency.clamp(max=1) * (log_gain.shape[1] - 1)
    lower = position.floor().long().clamp(max=log_gain.shape[1] - 2)
    return torch.lerp(
        log_gain[:, lower], log_gain[:, lower + 1], (position - lower).expand(len(log_gain), -1, -1)
    ).exp()


def wedge_gain(across: Tensor, tilt: float, recorded: float = RECORDED_TILT) -> Tensor:
    """Return what narrowing the tilt range does to the Fourier amplitudes of a slice, on average.

    Tilting around y by up to ±α records the frequencies with |k_z| ≤ |k_x| tan α (the central section theorem; Crowther
    et al., Proc. R. Soc. A 317 (1970) 319). A slice across z is the sum of the volume's spectrum over k_z, so at
    (k_x, k_y) the share f = min(1, |k_x| tan α / k_Nyquist) of its terms is there. Their phases differ, so that the
    amplitude of the sum goes with √f: it falls towards k_x = 0, which is why features parallel to x, across the tilt
    axis, are faint. From the range that was recorded to a narrower one the gain is √(f(α) / f(recorded)).

    Args:
        across: frequencies across the tilt axis as parts of Nyquist.
        tilt: the narrower range α, degrees.
        recorded: the range that the slice has, degrees.

    Returns:
        The gain, of the shape of `across`.
    """
    frequency = across.abs().clamp(min=1e-6)  # at 0 the limit of the ratio
    left, there = ((frequency * math.tan(math.radians(range_))).clamp(max=1) for range_ in (tilt, recorded))
    return (left / there).sqrt()


def _turned(slices: Tensor, labels: Tensor, variations: Sequence[Variation]) -> tuple[Tensor, Tensor]:
    """Repeat, mirror and turn by right angles."""
    new_slices, new_labels = torch.empty_like(slices), torch.empty_like(labels)
    middle = slices.shape[1] // 2
    for number, v in enumerate(variations):
        crop, truth = slices[number], labels[number]
        if v.repeat:
            crop = crop[middle].expand_as(crop)
        if v.mirror_z:
            crop = crop.flip(0)
        if v.flip:
            crop, truth = crop.flip(-1), truth.flip(-1)
        new_slices[number], new_labels[number] = crop.rot90(v.turns, (-2, -1)), truth.rot90(v.turns, (-2, -1))
    return new_slices, new_labels


def _warped(slices: Tensor, labels: Tensor, variations: Sequence[Variation]) -> tuple[Tensor, Tensor]:
    """Turn by an angle and scale, around the middle; intensities from outside are mirrored, labels `IGNORE`."""
    angle = slices.new_tensor([math.radians(v.angle) for v in variations])
    scale = slices.new_tensor([v.scale for v in variations])
    # From a place in the new crop to that in the old one.
    matrix = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=1).view(-1, 2, 2)
    matrix = pad(matrix / scale[:, None, None], (0, 1))
    grid = affine_grid(matrix, list(slices.shape), align_corners=False)
    slices = grid_sample(slices, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    # A value more than there is, so that what grid_sample gives outside, 0, is told from background.
    shifted = (labels[:, None].float() + 1) % 256
    found = grid_sample(shifted, grid, mode="nearest", padding_mode="zeros", align_corners=False)[:, 0]
    return slices, ((found + IGNORE) % 256).to(torch.uint8)


def _filtered(slices: Tensor, variations: Sequence[Variation]) -> Tensor:
    """Change the Fourier amplitudes; each crop keeps its mean and deviation, which the engine would normalise away."""
    margin = slices.shape[-1] // _PADDING
    padded = pad(slices, (margin,) * 4, mode="reflect")
    size = padded.shape[-1]
    y = 2 * torch.fft.fftfreq(size, device=slices.device)[:, None]
    x = 2 * torch.fft.rfftfreq(size, device=slices.device)
    flat = np.zeros(RINGS + 1)
    walks = np.stack([flat if v.spectrum is None else v.spectrum for v in variations])
    gain = spectrum_gain(slices.new_tensor(walks), torch.hypot(y, x))
    for number, v in enumerate(variations):
        if v.wedge is not None:
            direction, tilt = v.wedge
            gain[number] *= wedge_gain(x * math.cos(direction) + y * math.sin(direction), tilt)
    changed = torch.fft.irfft2(torch.fft.rfft2(padded) * gain[:, None], s=(size, size))
    changed = changed[..., margin : size - margin, margin : size - margin]
    deviation, mean = torch.std_mean(slices, dim=(1, 2, 3), keepdim=True)
    new_deviation, new_mean = torch.std_mean(changed, dim=(1, 2, 3), keepdim=True)
    restored: Tensor = (changed - new_mean) * (deviation / new_deviation.clamp(min=1e-6)) + mean
    return restored

"""What is done to a training crop: drawn from its number and the seed, so that every run and device varies it alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tomoscribe.train.settings import AugmentationSettings

__all__ = ["RECORDED_TILT", "RINGS", "Variation", "draw_variation"]

RINGS = 8  # steps of the random walk from the spectrum's centre to the Nyquist frequency
RECORDED_TILT = 60.0  # degrees; the tilt range that tomograms are taken to have before the wedge is widened
_STREAM = 1  # a number's own stream of random numbers, apart from the one that places its crop


@dataclass(frozen=True)
class Variation:
    """How one crop is varied, in the order in which it is done.

    Attributes:
        repeat: the context slices are replaced by the slice itself.
        mirror_z: the context slices are reversed.
        flip: the crop is mirrored along x.
        turns: and turned by so many times 90°.
        angle: and turned by so many degrees.
        scale: and enlarged so much.
        spectrum: ``(RINGS + 1,)`` logarithm of the gain from frequency 0 to Nyquist; None leaves the spectrum.
        wedge: direction in the slice across the tilt axis in radians, and tilt range in degrees; None leaves it.
        contrast: factor.
        brightness: added after it.
        noise: standard deviation of the white noise that is added last.
    """

    repeat: bool
    mirror_z: bool
    flip: bool
    turns: int
    angle: float
    scale: float
    spectrum: NDArray[np.float64] | None
    wedge: tuple[float, float] | None
    contrast: float
    brightness: float
    noise: float


def draw_variation(settings: AugmentationSettings, seed: int, number: int) -> Variation:
    """Draw how crop `number` is varied; what one setting turns off does not change what the others draw."""
    random = np.random.default_rng((seed, number, _STREAM))
    chance = random.random(8)
    turns = int(random.integers(4))
    angle, scale = random.uniform(-1, 1, 2)
    walk = random.standard_normal(RINGS)
    direction, tilt = random.uniform(0, np.pi), random.uniform(settings.least_tilt, RECORDED_TILT)
    contrast, brightness = random.standard_normal(2)
    noise = random.random()
    warped = chance[4] < settings.warp_share
    return Variation(
        repeat=bool(chance[0] < settings.repeat_share),
        mirror_z=bool(settings.mirror_z and chance[1] < 0.5),
        flip=bool(settings.flips and chance[2] < 0.5),
        turns=turns if settings.turns else 0,
        angle=float(angle * settings.rotation) if warped else 0.0,
        scale=float((1 + settings.scale) ** scale) if warped else 1.0,
        spectrum=np.r_[0, np.cumsum(walk * settings.fourier)] if chance[5] < settings.fourier_share else None,
        wedge=(float(direction), float(tilt)) if chance[6] < settings.wedge_share else None,
        contrast=float(np.exp(contrast * settings.contrast)),
        brightness=float(brightness * settings.brightness),
        noise=float(noise * settings.noise) if chance[7] < 0.5 else 0.0,
    )

"""What test-time augmentation has to give, by a plain loop: the reference of graphs that do it themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from tomoscribe.export.parity import Answer, ParityError, Runner, Sample
from tomoscribe.train.unet import UNet

__all__ = ["augmented_runner", "in_words"]

_QUARTER_TURNS = {"flips": (0, 2), "flips-and-turns": (0, 1, 2, 3)}

_Images = NDArray[np.float32]


def in_words(kind: str) -> str:
    """Return what a network's answers are the mean over, to stand behind its name; empty for ``none``."""
    return f", mean over {2 * len(_QUARTER_TURNS[kind])} {kind.replace('-', ' ')}" if kind in _QUARTER_TURNS else ""


def augmented_runner(network: UNet, kind: str) -> Runner:
    """Return the answers of PyTorch's softmax on every copy of a sample, turned back and averaged by numpy.

    Copies are made by quarter turns of the image and its mirror image, and not as `tomoscribe.export.augmentation`
    makes them.

    Args:
        network: the U-Net, in evaluation mode, on the CPU, without test-time augmentation.
        kind: ``flips`` or ``flips-and-turns``; see `tomoscribe.engine.bundle.ModelSpecification`.

    Raises:
        ParityError: from the runner: the network's answer is not finite.
    """
    width = 2 * network.configuration.context + 1

    @torch.inference_mode()
    def probabilities(windows: _Images) -> _Images:
        given: _Images = torch.softmax(network(torch.from_numpy(windows.copy())), dim=1).numpy()
        return given

    def run(sample: Sample) -> Answer:
        normalised = (sample.slices - sample.mean[:, None, None]) * sample.rstd[:, None, None]
        windows = np.stack([normalised[first : first + width] for first in range(len(normalised) - width + 1)])
        mean = np.mean([back(probabilities(copy)) for copy, back in _copies(windows, kind)], axis=0, dtype=np.float64)
        if not np.isfinite(mean).all():
            raise ParityError(
                f"expected finite answers of the network, found NaN or infinity on {sample.name}; "
                "the checkpoint's weights are of no use"
            )
        return Answer(mean.argmax(axis=1).astype(np.uint8), np.round(mean * 255).astype(np.uint8))

    return run


def _copies(images: _Images, kind: str) -> Iterator[tuple[_Images, Callable[[_Images], _Images]]]:
    """Give every copy of ``(…, h, w)`` images, each with what turns such a copy back."""

    def back(turns: int, mirrored: bool, answer: _Images) -> _Images:
        return np.rot90(answer[..., ::-1] if mirrored else answer, -turns, axes=(-2, -1))

    for turns in _QUARTER_TURNS[kind]:
        turned = np.rot90(images, turns, axes=(-2, -1))
        yield turned, partial(back, turns, False)
        yield turned[..., ::-1], partial(back, turns, True)

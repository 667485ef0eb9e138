"""EMAN2's convolutional network for tomogram annotation, written anew, as what the U-Net is compared with.

The method is that of Chen et al., "Convolutional neural networks for automated annotation of cellular cryo-electron
tomograms", Nature Methods 14 (2017) 983. Choices follow EMAN2's public source at commit f9e8fc628 (github.com/cryoem/
eman2); "convnet:72" stands for line 72 of its programs/e2tomoseg_convnet.py, "trainset" for e2tomoseg_buildtrainset.py,
"preproc" for e2tomoseg_preproc.py, "merge" for examples/mergetomoseg.py. `eman2_tiles` has the data side.

One network for each feature; it sees one slice of a filtered tomogram and gives each 2×2 pixels a score, 1 where
somebody would have annotated the feature. Where this departs from EMAN2 it is in the network's favour, and says so.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
import scipy.fft
import torch
from eman2_tiles import Tiles
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = [
    "DEFAULT_THRESHOLD",
    "Budget",
    "Convnet",
    "ConvnetTraining",
    "Trained",
    "choose_thresholds",
    "merge",
    "score",
    "train",
]

DEFAULT_THRESHOLD = 0.8
"""Score below which nothing is there (merge:15)."""

_KERNELS = (40, 40, 1)  # convnet:53
_WIDTH = 15  # pixels of a kernel; convnet:54
_POOL = 2  # behind the first layer alone; convnet:55
_THRESHOLDS = np.round(np.arange(0.05, 1.0, 0.05), 2)


class Convnet(nn.Module):
    """Three convolutions and a max pooling: 15×15×40, 2×2, 15×15×40, 15×15×1 (convnet:316-332).

    ReLU behind the hidden convolutions and none behind the last, zero padding, weights from a normal distribution of
    standard deviation 0.01 cut at two of them, biases 0 (convnet:319-329).
    """

    def __init__(self) -> None:
        super().__init__()
        inputs = (1, *_KERNELS[:-1])
        self.layers = nn.ModuleList(
            nn.Conv2d(*channels, _WIDTH, padding=_WIDTH // 2) for channels in zip(inputs, _KERNELS, strict=True)
        )
        for layer in self.layers:
            nn.init.trunc_normal_(layer.weight, std=0.01, a=-0.02, b=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Return scores of ``(n, 1, h / 2, w / 2)`` for prepared images of ``(n, 1, h, w)``, h and w even."""
        # The same convolutions, through Fourier space while training, where they are several times faster on a CPU:
        # the networks get as many steps out of their time as this machine can give.
        convolve = _fourier_convolution if self.training else nn.Conv2d.forward
        first, second, last = self.layers
        features = nn.functional.max_pool2d(convolve(first, images).relu(), _POOL)
        scores: Tensor = convolve(last, convolve(second, features).relu())
        return scores


@dataclass(frozen=True)
class ConvnetTraining:
    """How a network is trained.

    Attributes:
        tiles: tiles of the training set, half of them with the feature.
        batch_size: tiles a step (convnet:52).
        learning_rate: Adam's, constant (convnet:49, 369).
        seed: decides weights, tiles and their order.
    """

    tiles: int = 8000
    batch_size: int = 20
    learning_rate: float = 1e-4
    seed: int = 0


@dataclass(frozen=True)
class Budget:
    """The least that a training gets: seconds by the clock, and seconds of all cores together."""

    seconds: float
    core_seconds: float

    def part(self, share: float) -> Budget:
        """Return a share of it."""
        return Budget(share * self.seconds, share * self.core_seconds)


@dataclass(frozen=True)
class Trained:
    """Weights after some time of training, optimiser steps, and the time that was used."""

    weights: dict[str, Tensor]
    steps: int
    used: Budget


def train(tiles: Tiles, training: ConvnetTraining, budgets: Sequence[Budget], device: torch.device) -> list[Trained]:
    """Train a network and return its weights as they were when each of some budgets was used up, the smallest first.

    Adam on the logarithm of the mean squared difference of annotation and score, scores above 1 taken as 1
    (convnet:358-369); the set is gone through in random order again and again (convnet:356, 370). Pixels that nobody
    annotated, which EMAN2 does not know, are left out.
    """
    torch.manual_seed(training.seed)
    network = Convnet().to(device).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=training.learning_rate)
    trained: list[Trained] = []
    clock, cores = time.perf_counter(), time.process_time()
    chosen: list[Tensor] = []
    for step in count():
        used = Budget(time.perf_counter() - clock, time.process_time() - cores)
        goal = budgets[len(trained)]
        if used.seconds >= goal.seconds and used.core_seconds >= goal.core_seconds:
            weights = {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}
            trained.append(Trained(weights, step, used))
            if len(trained) == len(budgets):
                break
        if not chosen:
            chosen = list(torch.randperm(len(tiles.images)).split(training.batch_size))
        batch = chosen.pop()
        images, targets, known = (part[batch].to(device) for part in (tiles.images, tiles.targets, tiles.known))
        squares = (targets - network(images).clamp(max=1)) ** 2
        loss = torch.log((squares * known).sum() / known.sum())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return trained


def score(network: Convnet, image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the score of each pixel of a prepared ``(h, w)`` image, h and w even; ``(h, w)`` float32.

    The whole slice at once, negative scores taken as 0, enlarged by linear interpolation (convnet:233-239). EMAN2's
    enlargement moves the map by half a pixel; this one does not.
    """
    device = next(network.parameters()).device
    with torch.inference_mode():
        half = network.eval()(torch.from_numpy(image)[None, None].to(device)).clamp(min=0)
        whole = nn.functional.interpolate(half, scale_factor=_POOL, mode="bilinear", align_corners=False)
    scores: NDArray[np.float32] = whole[0, 0].cpu().numpy()
    return scores


def merge(scores: NDArray[np.float32], thresholds: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return the class with the highest score of those that reach their threshold, 0 where none does (merge:49-52).

    Args:
        scores: ``(classes, ...)``, background not among them.
        thresholds: ``(classes,)``; EMAN2 has one for all.
    """
    reached = np.where(scores >= thresholds.reshape(-1, *[1] * (scores.ndim - 1)), scores, 0)
    return np.where(reached.any(axis=0), reached.argmax(axis=0) + 1, 0).astype(np.uint8)


def choose_thresholds(scores: NDArray[np.float32], truth: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the thresholds with the highest mean Dice of the classes, which EMAN2's users choose by eye.

    The best one for all, and from there the best for each class in turn, twice.

    Args:
        scores: ``(classes, n)``.
        truth: ``(n,)`` labels; what nobody annotated is left out.
    """
    classes = len(scores)
    best = max((np.full(classes, value) for value in _THRESHOLDS), key=lambda t: _mean_dice(merge(scores, t), truth))
    for index in list(range(classes)) * 2:
        candidates = np.tile(best, (len(_THRESHOLDS), 1))
        candidates[:, index] = _THRESHOLDS
        best = max(candidates, key=lambda t: _mean_dice(merge(scores, t), truth))
    return best


def _mean_dice(labels: NDArray[np.uint8], truth: NDArray[np.uint8]) -> float:
    """Return the mean Dice of the foreground classes of the truth."""
    there = [label for label in np.unique(truth) if label]
    dice = [
        2
        * np.count_nonzero((labels == label) & (truth == label))
        / (np.count_nonzero(labels == label) + np.count_nonzero(truth == label))
        for label in there
    ]
    return float(np.mean(dice)) if dice else 0.0


def _fourier_convolution(layer: nn.Conv2d, images: Tensor) -> Tensor:
    """Return what the zero-padded layer makes of images, by the convolution theorem."""
    margin = _WIDTH // 2
    size = images.shape[-2:]
    # Long enough that what wraps around falls into the margin that is cut off.
    padded = [scipy.fft.next_fast_len(length + margin, real=True) for length in size]
    seen = torch.fft.rfft2(images, s=padded)
    kernels = torch.fft.rfft2(layer.weight.flip(-1, -2), s=padded)
    frequencies = seen.shape[-2:]
    outputs, inputs = kernels.shape[:2]
    # One small matrix product a frequency; of real numbers, because those of complex ones are slow in PyTorch.
    left = torch.view_as_real(seen).permute(2, 3, 0, 4, 1).reshape(-1, len(images), 2 * inputs)
    parts = torch.stack(
        (torch.stack((kernels.real, kernels.imag)), torch.stack((-kernels.imag, kernels.real)))
    )  # what meets the real and the imaginary part of the images, for the real and the imaginary part of the result
    right = parts.permute(4, 5, 0, 3, 1, 2).reshape(-1, 2 * inputs, 2 * outputs)
    product = torch.bmm(left, right).reshape(*frequencies, len(images), 2, outputs).permute(2, 4, 0, 1, 3)
    whole = torch.fft.irfft2(torch.view_as_complex(product.contiguous()), s=padded)
    cut = whole[..., margin : margin + size[0], margin : margin + size[1]]
    bias: Tensor | None = layer.bias
    return cut if bias is None else cut + bias[:, None, None]

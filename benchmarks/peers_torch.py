"""PyTorch as a user's script would run it: one slice after the other, through MONAI's sliding windows or whole."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tomoscribe.train.checkpoint import load_checkpoint

__all__ = ["torch_labeller"]

WINDOW, OVERLAP, WINDOWS_AT_ONCE = 512, 0.25, 1


def torch_labeller(
    checkpoint: Path,
    slices: NDArray[np.float32],
    context: int,
    statistics: tuple[float, float],
    *,
    precision: str,
    channels_last: bool = False,
    compiled: bool = False,
    monai: bool = False,
) -> Callable[[int], NDArray[np.uint8]]:
    """Return what labels the first slices of a tomogram.

    Args:
        checkpoint: the trained network.
        slices: ``(z + 2k, y, x)``, the tomogram with its context, in its own units.
        context: k.
        statistics: mean and standard deviation of the tomogram, with which it is normalised.
        precision: ``fp32``, or ``bf16``, in which then all weights and values are.
        channels_last: have the channels of a pixel side by side in memory.
        compiled: run what `torch.compile` makes of the network, its weights and batch normalisations folded in.
        monai: cut slices into windows as MONAI's `SlidingWindowInferer` does, and not run them whole.
    """
    network: Any = load_checkpoint(checkpoint).network
    inputs, (mean, standard_deviation) = 2 * context + 1, statistics
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network = network.to(dtype=dtype, memory_format=layout)
    run: Callable[[Tensor], Any] = network
    if compiled:
        from torch._inductor import config

        config.freezing = True
        run = torch.compile(network)
    if monai:
        from monai.inferers import SlidingWindowInferer

        windows = SlidingWindowInferer((WINDOW, WINDOW), WINDOWS_AT_ONCE, OVERLAP)
        run = partial(windows, network=network)
    volume = torch.from_numpy((slices - np.float32(mean)) / np.float32(standard_deviation))

    @torch.no_grad()
    def label(count: int) -> NDArray[np.uint8]:
        labels = torch.empty((count, *volume.shape[1:]), dtype=torch.uint8)
        for z in range(count):
            image = volume[z : z + inputs].unsqueeze(0).to(dtype=dtype, memory_format=layout)
            labels[z] = run(image)[0].argmax(0)
        return labels.numpy()

    return label

"""The U-Net: labels one slice from itself and its neighbours.

The architecture is that of Ronneberger et al., "U-Net: Convolutional Networks for Biomedical Image Segmentation",
2015 (arXiv:1505.04597), with zero-padded convolutions, so that the output has the size of the input, and with batch
normalisation.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tomoscribe.engine.errors import ParameterError

__all__ = ["UNet", "UNetConfiguration"]

_CONVOLUTIONS = 2  # 3×3 convolutions of a level; each needs one pixel more on every side


@dataclass(frozen=True)
class UNetConfiguration:
    """The size of a U-Net.

    Attributes:
        classes: classes with background, the channels of the output.
        context: context slices on each side, k; the input has ``2k + 1`` channels.
        depth: how many times the slice is halved.
        base_width: channels at full resolution; each level below has twice as many.

    Raises:
        ParameterError: a value that cannot be.
    """

    classes: int
    context: int = 0
    depth: int = 4
    base_width: int = 16

    def __post_init__(self) -> None:
        for name, smallest, largest in (
            ("classes", 2, 256),
            ("context", 0, 64),
            ("depth", 1, 8),
            ("base_width", 1, 512),
        ):
            value = getattr(self, name)
            if type(value) is not int or not smallest <= value <= largest:
                raise ParameterError(f"U-Net {name}: expected a number from {smallest} to {largest}, found {value!r}")

    @property
    def tile_multiple(self) -> int:
        """Height and width of an input are multiples of this, in pixels, so that every level halves evenly."""
        return 1 << self.depth

    @property
    def receptive_margin(self) -> int:
        """How far, in pixels, the outputs inside a window look out of it.

        The window's edges lie at multiples of `tile_multiple`, where the grids of all levels begin, so that a
        margin of m pixels at one level is one of ceil(m / 2) at the level below. 94 for a depth of 4.
        """
        margin = 0
        for _ in range(self.depth):  # down the decoder, from the output
            margin = (margin + _CONVOLUTIONS + 1) // 2
        margin += _CONVOLUTIONS  # the lowest level
        for _ in range(self.depth):  # up the encoder; it reaches further than the skip connections do
            margin = 2 * margin + _CONVOLUTIONS
        return margin

    @property
    def halo(self) -> int:
        """`receptive_margin` rounded up to `tile_multiple`: the margin that a tile with aligned edges needs."""
        return -(-self.receptive_margin // self.tile_multiple) * self.tile_multiple

    def to_json(self) -> dict[str, int]:
        """Return the configuration as a checkpoint holds it."""
        return asdict(self)

    @classmethod
    def from_json(cls, entries: dict[str, Any]) -> UNetConfiguration:
        """Read what `to_json` wrote.

        Raises:
            ParameterError: other keys than expected, or a value that cannot be.
        """
        try:
            return cls(**entries)
        except TypeError as error:
            raise ParameterError(f"U-Net configuration: expected classes to base_width, found {entries!r}") from error


class UNet(nn.Module):
    """Maps normalised slices to logits.

    Each level is twice a 3×3 convolution, batch normalisation and ReLU; 2×2 max pooling leads down, a transposed
    2×2 convolution with a skip connection up, and a 1×1 convolution to the classes.
    """

    def __init__(self, configuration: UNetConfiguration) -> None:
        super().__init__()
        self.configuration = configuration
        widths = [configuration.base_width * 2**level for level in range(configuration.depth + 1)]
        inputs = [2 * configuration.context + 1, *widths[:-1]]
        self.encoder = nn.ModuleList(_Level(*channels) for channels in zip(inputs, widths, strict=True))
        self.upward = nn.ModuleList(
            nn.ConvTranspose2d(2 * width, width, kernel_size=2, stride=2) for width in reversed(widths[:-1])
        )
        self.decoder = nn.ModuleList(_Level(2 * width, width) for width in reversed(widths[:-1]))
        self.head = nn.Conv2d(widths[0], configuration.classes, kernel_size=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, slices: Tensor) -> Tensor:
        """Return the logits of slices.

        Args:
            slices: ``(n, 2k + 1, h, w)``, mean 0 and standard deviation 1 over the tomogram, the slice to label in
                the middle of its context; h and w multiples of ``configuration.tile_multiple``.

        Returns:
            ``(n, classes, h, w)``, background first.
        """
        features = self.encoder[0](slices)
        skipped = []
        for level in self.encoder[1:]:
            skipped.append(features)
            features = level(nn.functional.max_pool2d(features, 2))
        for upward, level in zip(self.upward, self.decoder, strict=True):
            features = level(torch.cat([upward(features), skipped.pop()], dim=1))
        logits: Tensor = self.head(features)
        return logits


class _Level(nn.Sequential):
    """Twice a 3×3 convolution, batch normalisation and ReLU; the normalisation has the bias."""

    def __init__(self, inputs: int, outputs: int) -> None:
        layers: list[nn.Module] = []
        for channels in [inputs] + [outputs] * (_CONVOLUTIONS - 1):
            layers += [
                nn.Conv2d(channels, outputs, kernel_size=3, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(inplace=True),
            ]
        super().__init__(*layers)

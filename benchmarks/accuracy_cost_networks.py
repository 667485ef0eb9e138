"""The networks whose accuracy and cost are compared: U-Nets of several sizes, and one that halves its input first."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from tomoscribe.train.unet import UNet, UNetConfiguration

__all__ = ["STRUCTURES", "StridedUNet", "Structure"]

_STRIDE = 2


@dataclass(frozen=True)
class Structure:
    """A network's size and form.

    Attributes:
        base_width: channels at full resolution; each level below has twice as many.
        depth: how many times the slice is halved.
        strided: the level at full resolution is left out, see `StridedUNet`.
    """

    base_width: int
    depth: int
    strided: bool = False

    @property
    def name(self) -> str:
        """What results and folders call it, such as ``16-4``."""
        return f"{self.base_width}-{self.depth}" + ("-strided" if self.strided else "")

    @property
    def title(self) -> str:
        """Its name in words."""
        if self.strided:
            return f"width {2 * self.base_width}, depth {self.depth - 1}, at half resolution"
        return f"width {self.base_width}, depth {self.depth}"

    def build(self, size: UNetConfiguration) -> UNet | StridedUNet:
        """Return the network for a configuration of this width and depth, its weights random."""
        return StridedUNet(size) if self.strided else UNet(size)


class StridedUNet(nn.Module):
    """A U-Net without its level at full resolution.

    Each pixel of half the resolution has the 2×2 pixels of the input as channels, the lower levels are those of the
    U-Net, and the last layer gives the logits of 2×2 pixels (Shi et al., "Real-Time Single Image and Video
    Super-Resolution Using an Efficient Sub-Pixel Convolutional Neural Network", 2016, arXiv:1609.05158). With the 3×3
    convolution after it, the first step is one convolution of 6×6 and stride 2.

    Args:
        configuration: the size of the U-Net that the level is taken from.
    """

    def __init__(self, configuration: UNetConfiguration) -> None:
        super().__init__()
        self.configuration = configuration
        lower = replace(
            configuration,
            classes=_STRIDE**2 * configuration.classes,
            depth=configuration.depth - 1,
            base_width=2 * configuration.base_width,
        )
        self.network = UNet(lower)
        first = nn.Conv2d(
            _STRIDE**2 * (2 * configuration.context + 1), lower.base_width, kernel_size=3, padding=1, bias=False
        )
        nn.init.kaiming_normal_(first.weight, nonlinearity="relu")
        self.network.encoder[0][0] = first

    def forward(self, slices: Tensor) -> Tensor:
        """Return the logits of slices, see `UNet.forward`."""
        return pixel_shuffle(self.network(pixel_unshuffle(slices, _STRIDE)), _STRIDE)


# What says most comes first: a reader may want to stop the trainings.
STRUCTURES = (
    Structure(16, 4),
    Structure(8, 4),
    Structure(16, 3),
    Structure(16, 4, strided=True),
    Structure(24, 4),
    Structure(12, 4),
    Structure(16, 2),
    Structure(32, 4),
)

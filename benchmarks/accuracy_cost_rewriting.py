"""The same function for less work? A U-Net's layers written in other ways that give the same logits."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d, max_pool2d, pad

from tomoscribe.export.graph import fold_batch_normalisation
from tomoscribe.train.unet import UNet

__all__ = ["REWRITINGS", "JoinedUNet", "ShuffledUNet", "SplitUNet", "UnfoldedUNet"]


class UnfoldedUNet(nn.Module):
    """A U-Net whose batch normalisations stay layers of their own when it is exported.

    Args:
        network: the U-Net, in evaluation mode.
    """

    def __init__(self, network: UNet) -> None:
        super().__init__()
        self.configuration = network.configuration
        self.network = copy.deepcopy(network)
        for levels in (self.network.encoder, self.network.decoder):
            for index, level in enumerate(levels):
                levels[index] = _Layers(level)

    def forward(self, slices: Tensor) -> Tensor:
        """Return the logits of slices, see `UNet.forward`."""
        logits: Tensor = self.network(slices)
        return logits


class _Layers(nn.Module):
    """Layers in turn, as `nn.Sequential` has them; the export folds what it finds in that."""

    def __init__(self, layers: nn.Sequential) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, features: Tensor) -> Tensor:
        for layer in self.layers:
            features = layer(features)
        return features


class ShuffledUNet(nn.Module):
    """A U-Net whose step up is a 1×1 convolution to four times the channels, which are then dealt out to 2×2 pixels.

    It is as many operations as the transposed convolution that it stands for, but in kernels that runtimes are fast in.

    Args:
        network: the U-Net, in evaluation mode.
    """

    def __init__(self, network: UNet) -> None:
        super().__init__()
        self.configuration = network.configuration
        self.network = fold_batch_normalisation(network)
        for index, upward in enumerate(self.network.upward):
            self.network.upward[index] = nn.Sequential(_pointwise(upward), nn.PixelShuffle(2))

    def forward(self, slices: Tensor) -> Tensor:
        """Return the logits of slices, see `UNet.forward`."""
        logits: Tensor = self.network(slices)
        return logits


class SplitUNet(nn.Module):
    """A U-Net without concatenations.

    A convolution of two concatenated inputs is the sum of a convolution of each.

    Args:
        network: the U-Net, in evaluation mode.
    """

    def __init__(self, network: UNet) -> None:
        super().__init__()
        self.configuration = network.configuration
        self.network = fold_batch_normalisation(network)
        self.from_below, self.from_beside = nn.ModuleList(), nn.ModuleList()
        for level in self.network.decoder:
            below, beside = _halves(level[0])
            self.from_below.append(below)
            self.from_beside.append(beside)
            level[0] = nn.Identity()

    def forward(self, slices: Tensor) -> Tensor:
        """Return the logits of slices, see `UNet.forward`."""
        features, skipped = _encode(self.network, slices)
        layers = zip(self.network.upward, self.from_below, self.from_beside, self.network.decoder, strict=True)
        for upward, below, beside, level in layers:
            features = level(below(upward(features)) + beside(skipped.pop()))
        logits: Tensor = self.network.head(features)
        return logits


class JoinedUNet(SplitUNet):
    """A split U-Net whose step up and the convolution after it are one transposed convolution, of 4×4 and stride 2.

    That of 2×2 and stride 2 gives an output from one input, and the 3×3 convolution adds nine of them, which come from
    2×2 inputs: 8 w² multiplications for a voxel instead of 11 w² where the level has w channels. Of the bias of the
    former, a voxel at the edge of the slice gets less than the others, for it is not beyond the edge.
    """

    def __init__(self, network: UNet) -> None:
        super().__init__(network)
        self.joined, self.edges = nn.ParameterList(), nn.ParameterList()
        for upward, below in zip(self.network.upward, self.from_below, strict=True):
            # (inputs, middle, 2, 2) and (outputs, middle, 3, 3) become (inputs, outputs, 4, 4).
            spread = pad(upward.weight, (2, 2, 2, 2))
            self.joined.append(conv2d(spread, below.weight))
            self.edges.append(torch.einsum("omyx,m->oyx", below.weight, upward.bias)[:, None])

    def forward(self, slices: Tensor) -> Tensor:
        """Return the logits of slices, see `UNet.forward`."""
        features, skipped = _encode(self.network, slices)
        for joined, edge, beside, level in zip(
            self.joined, self.edges, self.from_beside, self.network.decoder, strict=True
        ):
            neighbour = skipped.pop()
            everywhere = torch.ones_like(neighbour[:1, :1])
            bias = conv2d(everywhere, edge, padding=1)
            features = level(conv_transpose2d(features, joined, stride=2, padding=1) + beside(neighbour) + bias)
        logits: Tensor = self.network.head(features)
        return logits


REWRITINGS: Mapping[str, Callable[[UNet], nn.Module]] = {
    "batch normalisation left to exporter and runtime": UnfoldedUNet,
    "step up by a 1×1 convolution": ShuffledUNet,
    "two convolutions instead of a concatenation": SplitUNet,
    "step up and convolution in one": JoinedUNet,
}
"""By what they do, from a U-Net in evaluation mode to another network with its logits."""


def _encode(network: UNet, slices: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return the features of the lowest level, and those that the levels above it skip to the decoder."""
    features = network.encoder[0](slices)
    skipped = []
    for level in network.encoder[1:]:
        skipped.append(features)
        features = level(max_pool2d(features, 2))
    return features, skipped


def _pointwise(upward: nn.ConvTranspose2d) -> nn.Conv2d:
    """Return the 1×1 convolution whose channels, four for each output, are a transposed convolution's 2×2 pixels."""
    assert upward.bias is not None
    pointwise = nn.Conv2d(upward.in_channels, 4 * upward.out_channels, kernel_size=1)
    # (inputs, outputs, 2, 2) becomes (outputs of 2 × 2, inputs).
    weight = upward.weight.detach().permute(1, 2, 3, 0).reshape(-1, upward.in_channels, 1, 1)
    pointwise.weight = nn.Parameter(weight.contiguous())
    pointwise.bias = nn.Parameter(upward.bias.detach().repeat_interleave(4))
    return pointwise


def _halves(convolution: nn.Conv2d) -> tuple[nn.Conv2d, nn.Conv2d]:
    """Return a convolution of the first half of the channels, and one of the second, which has the bias."""
    half = convolution.in_channels // 2
    parts = []
    for weight, bias in ((convolution.weight[:, :half], None), (convolution.weight[:, half:], convolution.bias)):
        part = nn.Conv2d(half, convolution.out_channels, kernel_size=3, padding=1, bias=bias is not None)
        part.weight = nn.Parameter(weight.detach().clone())
        if bias is not None:
            part.bias = nn.Parameter(bias.detach().clone())
        parts.append(part)
    return parts[0], parts[1]

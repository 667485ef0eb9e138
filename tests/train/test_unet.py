"""The U-Net: its shapes, and that its halo is exactly as large as its outputs look out of a window."""

from __future__ import annotations

import pytest
import torch

from tomoscribe.engine.errors import ParameterError
from tomoscribe.train.unet import UNet, UNetConfiguration


def footprint(depth, towards):
    """Return how far the outputs of an aligned window look out of it, up and left (-1) or down and right (+1).

    All weights are positive and the input falls away from the far side, so that every pooling passes the gradient
    on to the outermost pixel that it could come from.
    """
    configuration = UNetConfiguration(classes=2, depth=depth, base_width=1)
    network = UNet(configuration).eval().double()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.fill_(0.0 if name.endswith("bias") else 1.0 if parameter.ndim == 1 else 1 / 9)
    multiple = configuration.tile_multiple
    room = -(-configuration.receptive_margin // multiple) * multiple + 2 * multiple
    size = 2 * room + multiple
    ramp = torch.arange(size, dtype=torch.float64) * towards
    slices = (ramp[:, None] + ramp[None, :] + 3 * size)[None, None].requires_grad_()
    window = slice(room, room + multiple)
    network(slices)[0, :, window, window].sum().backward()
    reached = slices.grad[0, 0].sum(dim=0).nonzero().ravel()
    assert torch.equal(reached, slices.grad[0, 0].sum(dim=1).nonzero().ravel())
    return room - int(reached[0]) if towards < 0 else int(reached[-1]) + 1 - (room + multiple)


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize("towards", [-1, 1])
def test_the_receptive_margin_is_what_the_gradients_reach(depth, towards):
    assert footprint(depth, towards) == UNetConfiguration(classes=2, depth=depth).receptive_margin


def test_the_halo_of_the_default_depth():
    configuration = UNetConfiguration(classes=6)
    assert (configuration.receptive_margin, configuration.halo, configuration.tile_multiple) == (94, 96, 16)


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5])
def test_the_halo_is_the_least_aligned_one_that_covers_the_margin(depth):
    configuration = UNetConfiguration(classes=2, depth=depth)
    assert configuration.halo % configuration.tile_multiple == 0
    assert 0 <= configuration.halo - configuration.receptive_margin < configuration.tile_multiple


def test_a_window_with_halo_gives_what_the_whole_slice_gives():
    configuration = UNetConfiguration(classes=3, depth=2, base_width=4)
    torch.manual_seed(0)
    network = UNet(configuration).eval().double()
    halo, whole = configuration.halo, torch.randn(1, 1, 96, 96, dtype=torch.float64)
    with torch.inference_mode():
        part = network(whole[..., 40 - halo : 56 + halo, 40 - halo :])[..., halo : halo + 16, halo:]
        torch.testing.assert_close(part, network(whole)[..., 40:56, 40:], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("context", "depth", "classes"), [(0, 1, 2), (2, 3, 6)])
def test_shapes(context, depth, classes):
    configuration = UNetConfiguration(classes=classes, context=context, depth=depth, base_width=2)
    height, width = 3 * configuration.tile_multiple, configuration.tile_multiple
    logits = UNet(configuration)(torch.zeros(2, 2 * context + 1, height, width))
    assert logits.shape == (2, classes, height, width)


def test_the_bundled_size_has_fewer_than_ten_megabytes():
    parameters = sum(p.numel() for p in UNet(UNetConfiguration(classes=6)).parameters())
    assert 4 * parameters < 10e6


@pytest.mark.parametrize(
    "change", [{"classes": 1}, {"classes": 257}, {"context": -1}, {"depth": 0}, {"base_width": 0}, {"depth": 2.0}]
)
def test_a_size_that_cannot_be_is_refused(change):
    with pytest.raises(ParameterError, match=f"U-Net {next(iter(change))}: expected"):
        UNetConfiguration(**{"classes": 6, **change})


def test_the_configuration_goes_through_json():
    configuration = UNetConfiguration(classes=4, context=2, depth=3, base_width=8)
    assert UNetConfiguration.from_json(configuration.to_json()) == configuration
    with pytest.raises(ParameterError, match="U-Net configuration"):
        UNetConfiguration.from_json({"classes": 4, "width": 8})

"""Tile multiple and reach found by trial, against those that follow from the layers."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from tomoscribe.engine.errors import BundleError, ParameterError
from tomoscribe.engine.tiles import TilePlan
from tomoscribe.export.foreign import bundle_from_onnx
from tomoscribe.export.foreign_geometry import Geometry, find_geometry
from tomoscribe.export.foreign_reading import read_network
from tomoscribe.export.foreign_running import load
from tomoscribe.train.unet import UNet, UNetConfiguration

FIRST, SECOND = (np.random.default_rng(n).standard_normal((3, (1, 3)[n], 3, 3), np.float32) for n in (0, 1))


def geometry_of(path, multiple=None):
    network = read_network(path)
    return find_geometry(load(network.model, path, network.output), path, network.channels, 3, multiple)


@pytest.mark.parametrize(
    ("step", "reach"),
    [
        ("answer = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (image, first)", 1),
        ("answer = Conv <kernel_shape = [3, 3], pads = [4, 1, 4, 1], dilations = [4, 1]> (image, first)", 4),
        ("answer = Conv <kernel_shape = [3, 3], pads = [1, 6, 1, 6], dilations = [1, 6]> (image, first)", 6),
        ("answer = Conv <kernel_shape = [3, 3], pads = [1, 0, 1, 2]> (image, first)", 2),  # looks to the right
        ("answer = Conv <kernel_shape = [3, 3], pads = [2, 1, 0, 1]> (image, first)", 2),  # looks up
        ("answer = Concat <axis = 1> (image, image, image)", 0),
    ],
)
def test_convolutions_reach_as_far_as_their_kernels(onnx_file, step, reach):
    assert geometry_of(onnx_file(step, first=FIRST)) == Geometry(1, reach)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_u_net_is_found_to_be_what_its_layers_say(tmp_path, depth):
    configuration = UNetConfiguration(classes=3, context=0, depth=depth, base_width=2)
    torch.manual_seed(depth)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that writes old opsets is deprecated, and still much used
        torch.onnx.export(
            UNet(configuration).eval(),
            (torch.zeros(2, 1, 32, 48),),
            tmp_path / "unet.onnx",
            dynamo=False,
            opset_version=12,
            input_names=["image"],
            dynamic_axes={"image": {0: "n", 2: "h", 3: "w"}},
        )
    expected = Geometry(configuration.tile_multiple, configuration.receptive_margin)
    assert geometry_of(tmp_path / "unet.onnx") == expected


RESIZED = (  # fits any size, but its pooling begins at multiples of 4
    "pooled = MaxPool <kernel_shape = [4, 4], strides = [4, 4], ceil_mode = 1> (image)",
    "shape = Shape (image)",
    'same = Resize <mode = "nearest"> (pooled, , , shape)',
    "answer = Concat <axis = 1> (image, same, same)",
)


def test_a_grid_that_no_shape_gives_away_is_found(onnx_file):
    path = onnx_file(*RESIZED)
    assert geometry_of(path) == Geometry(4, 0)
    assert geometry_of(path, 12) == Geometry(12, 0)
    with pytest.raises(BundleError, match="tiles that begin at multiples of 2 than in the whole image; leave the"):
        geometry_of(path, 2)


def test_tiles_with_the_halo_that_was_found_are_those_of_the_whole(onnx_file):
    path = onnx_file(
        *RESIZED[:3],
        "all = Concat <axis = 1> (image, same, same)",
        "answer = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (all, second)",
        second=SECOND,
    )
    geometry = geometry_of(path)
    halo = -(-geometry.reach // geometry.tile_multiple) * geometry.tile_multiple
    network = load(read_network(path).model, path, "answer")
    image = np.random.default_rng(2).standard_normal((1, 40, 64), np.float32)
    whole = network(image[None])
    plan = TilePlan.for_slice((40, 64), multiple=geometry.tile_multiple, halo=halo, pixels=28**2)
    assert len(plan.tiles) > 4
    for tile in plan.tiles:
        part = np.empty((1, *plan.tile_shape), np.float32)
        plan.extract(tile, image, part)
        found = plan.kept(tile, network(part[None]))
        np.testing.assert_allclose(found, whole[..., tile.rows.target, tile.columns.target], atol=1e-5)


@pytest.mark.usefixtures("noise")
def test_a_network_that_sees_everything_needs_a_halo_that_is_accepted(onnx_file, describe, tmp_path):
    path = onnx_file(
        "same = Concat <axis = 1> (image, image, image)",
        "answer = InstanceNormalization (same, scale, bias)",
        scale=np.array([1.0, -2, 0.5], np.float32),
        bias=np.array([0.1, -0.2, 0.3], np.float32),
    )
    assert geometry_of(path) == Geometry(1, None)
    with pytest.raises(ParameterError, match=r"found that every pixel counts .*; give the halo that you accept"):
        bundle_from_onnx(path, tmp_path / "b", describe())
    bundle = bundle_from_onnx(path, tmp_path / "b", describe(halo=32))
    assert bundle.specification.halo == 32
    assert bundle.training["reach"] is None


@pytest.mark.usefixtures("noise")
@pytest.mark.parametrize(("given", "halo"), [(None, 4), (0, 0)])
def test_the_halo_is_the_reach_in_whole_tile_multiples_unless_given(onnx_file, describe, tmp_path, given, halo):
    path = onnx_file(
        *RESIZED[:3],
        "all = Concat <axis = 1> (image, same, same)",
        "answer = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (all, second)",
        second=SECOND,
    )
    bundle = bundle_from_onnx(path, tmp_path / "b", describe(halo=given))
    specification = bundle.specification
    assert (specification.tile_multiple, bundle.training["reach"], specification.halo) == (4, 1, halo)


@pytest.mark.usefixtures("noise")
@pytest.mark.parametrize("batch", [1, 2])
def test_fixed_sizes_that_can_be_freed_are(onnx_file, describe, tmp_path, batch):
    path = onnx_file(
        "answer = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (image, first)",
        image=f"float[{batch}, 1, 40, 56] image",
        answer=f"float[{batch}, 3, 40, 56] answer",
        first=FIRST,
    )
    bundle = bundle_from_onnx(path, tmp_path / "b", describe())
    assert bundle.parity["fp32"]["pixels"] == 4 * 40 * 56  # compared in the size that the file insists on
    assert (bundle.specification.tile_multiple, bundle.specification.halo) == (1, 1)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (["flat = Reshape (many, flat_shape)", "answer = Reshape (flat, shape)"], "cannot be reshaped"),
        (["answer = Resize (many, , , shape)"], "found an answer of shape (1, 3, 40, 56) where"),
        (["answer = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (many)"], "where (1, 3, "),
    ],
)
def test_sizes_that_cannot_be_freed_are_refused(onnx_file, describe, tmp_path, steps, message):
    path = onnx_file(
        "many = Concat <axis = 1> (image, image, image)",
        *steps,
        image="float[1, 1, 40, 56] image",
        answer="float[1, 3, a, b] answer",
        shape=np.array([1, 3, 40, 56]),
        flat_shape=np.array([3 * 40 * 56]),
    )
    with pytest.raises(BundleError, match="any height and width that are multiples of some power of two") as caught:
        bundle_from_onnx(path, tmp_path / "b", describe())
    assert message in str(caught.value)
    assert "export it again with free height and width" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("steps", "found"),
    [
        (["mean = ReduceMean (many, batch_axis)", "answer = Sub (many, mean)"], "found others"),
        (
            ["size = Shape <start = 2> (image)", "to = Concat <axis = 0> (one, size)", "answer = Reshape (many, to)"],
            "cannot be reshaped",
        ),
    ],
)
def test_images_of_a_batch_have_to_be_independent(onnx_file, steps, found):
    path = onnx_file(
        "many = Concat <axis = 1> (image, image, image)", *steps, batch_axis=np.array([0]), one=np.array([1, 3])
    )
    with pytest.raises(BundleError, match="expected the images of a batch to have the answers that each has") as caught:
        geometry_of(path)
    assert found in str(caught.value)
    assert "\n" not in str(caught.value)

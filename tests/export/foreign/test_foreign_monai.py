"""MONAI's networks in ONNX, as two exporters write them, against the same networks in PyTorch."""

from __future__ import annotations

import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from tomoscribe.export.foreign import bundle_from_onnx

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the packages that it imports
    networks = pytest.importorskip("monai.networks.nets", reason="needs MONAI: pip install --no-deps monai")

pytestmark = pytest.mark.usefixtures("noise")


def make(name, inputs):
    torch.manual_seed(7)
    two, channels = {"spatial_dims": 2, "in_channels": inputs, "out_channels": 3}, {"channels": (4, 8, 16)}
    network = {
        "UNet": lambda: networks.UNet(**two, **channels, strides=(2, 2), num_res_units=1, norm="batch"),
        "AttentionUnet": lambda: networks.AttentionUnet(**two, **channels, strides=(2, 2)),
        "SegResNet": lambda: networks.SegResNet(**two, init_filters=8, blocks_down=(1, 1, 1), blocks_up=(1, 1)),
    }[name]()
    with torch.no_grad():
        for parameter in network.parameters():  # no class is to have nearly all pixels
            parameter.mul_(1.5)
        for _ in range(3):  # moves running statistics away from 0 and 1
            network(torch.randn(2, inputs, 32, 32))
    return network.eval()


def export(network, inputs, path, *, dynamo, half):
    example = torch.zeros(2, inputs, 32, 48)
    network, example = (network.half(), example.half()) if half else (network, example)
    axes = {0: "n", 2: "h", 3: "w"}
    free = dict.fromkeys(axes, torch.export.Dim.DYNAMIC)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            torch.onnx.export(network, (example,), path, dynamo=True, dynamic_shapes=(free,), verbose=False)
        else:
            torch.onnx.export(
                network, (example,), path, dynamo=False, opset_version=13, input_names=["x"], dynamic_axes={"x": axes}
            )
    network.float()
    return path


@torch.inference_mode()
def by_hand(network, description, slices, mean, rstd):
    """Labels and probabilities × 255 by PyTorch, one slice at a time."""
    context, labels, scores = description.context, [], []
    for first in range(len(slices) - 2 * context):
        part = slice(first, first + 2 * context + 1)
        image = torch.from_numpy((slices[part] - mean[part, None, None]) * rstd[part, None, None])
        logits = network(image[None])[0].double()
        if description.activation == "softmax":
            likelihoods = logits.softmax(dim=0)
        else:
            likelihoods = logits.sigmoid()
            likelihoods = torch.cat([1 - likelihoods.amax(dim=0, keepdim=True), likelihoods])
        labels.append(likelihoods.argmax(dim=0).numpy())
        scores.append(likelihoods.numpy() * 255)
    return np.stack(labels), np.stack(scores)


@pytest.mark.parametrize(
    ("name", "context", "activation", "dynamo", "half"),
    [
        ("UNet", 0, "softmax", True, False),
        ("UNet", 1, "sigmoid", False, False),
        ("UNet", 0, "softmax", False, True),
        ("AttentionUnet", 1, "softmax", False, False),
        ("AttentionUnet", 0, "sigmoid", False, True),
        ("SegResNet", 0, "sigmoid", False, False),
        ("SegResNet", 1, "softmax", False, False),
    ],
)
def test_the_bundle_answers_as_the_network_does(tmp_path, describe, name, context, activation, dynamo, half):
    network = make(name, 2 * context + 1)
    path = export(network, 2 * context + 1, tmp_path / f"{name}.onnx", dynamo=dynamo, half=half)
    channels = "ribosome,membrane,actin" if activation == "sigmoid" else "background,ribosome,membrane"
    description = describe(channels, activation=activation, context=context, halo=None if name == "UNet" else 32)
    bundle = bundle_from_onnx(path, tmp_path / "bundle", description)
    assert bundle.specification.tile_multiple == 4  # two strides of two
    assert (bundle.training["reach"] is None) == (name != "UNet")  # the others normalise over the image
    assert bundle.training["answers"] == "logits"

    random = np.random.default_rng(0)
    slices = (1000 + 50 * random.standard_normal((3 + 2 * context, 36, 44))).astype(np.float32)
    mean = random.uniform(990, 1010, len(slices)).astype(np.float32)
    rstd = (random.uniform(0.015, 0.03, len(slices)) * random.choice([-1, 1], len(slices))).astype(np.float32)
    expected_labels, expected_scores = by_hand(network, description, slices, mean, rstd)
    assert len(np.unique(expected_labels)) > 1
    assert set(bundle.artifacts) == ({"fp32", "fp16"} if half else {"fp32"})
    equal, apart = (0.99, 4) if half else (0.999, 0.51)  # the exporter rounds to float16 where PyTorch does not
    for precision in bundle.artifacts:
        onnx.checker.check_model(onnx.load(bundle.artifact_path(precision)), full_check=True)
        session = onnxruntime.InferenceSession(bundle.artifact_path(precision), providers=["CPUExecutionProvider"])
        labels, scores = session.run(["labels", "scores"], {"slices": slices, "mean": mean, "rstd": rstd})
        assert np.mean(labels == expected_labels) >= equal
        assert np.abs(scores - expected_scores).max() <= apart

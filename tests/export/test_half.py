"""FP16 as a GPU computes it: close to FP32 where values are in range, and far from it where they are not."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from tomoscribe.export.augmentation_reference import augmented_runner
from tomoscribe.export.graph import DeployedNetwork, fold_batch_normalisation
from tomoscribe.export.half import half_runner
from tomoscribe.export.parity import GATES, measure, onnxruntime_runner, pytorch_runner

CLOSE = 0.99


def reference(network, sample):
    """The network in torch.float16 throughout, which rounds after every layer too, on top of adding up in FP16."""
    inputs = (torch.from_numpy(values) for values in (sample.slices, sample.mean, sample.rstd))
    with torch.inference_mode():
        return DeployedNetwork(fold_batch_normalisation(network), torch.float16)(*inputs)


def test_a_network_in_range_agrees_with_fp32_and_with_torchs_own_half(checkpoint, samples):
    given = samples(checkpoint.specification.context)
    found = measure(
        pytorch_runner(checkpoint.network), half_runner(checkpoint.network), given, checkpoint.specification.class_map
    )
    assert found.labels_equal > CLOSE  # a network that was not trained is undecided on many pixels
    assert found.largest_score_difference <= 2
    assert found.mean_score_difference > 0  # it was rounded
    for sample in given:
        labels, scores = reference(checkpoint.network, sample)
        answer = half_runner(checkpoint.network)(sample)
        assert np.mean(answer.labels == labels.numpy()) > CLOSE
        assert np.abs(answer.scores.astype(int) - scores.numpy()).max() <= 2


@pytest.mark.parametrize("kind", ["flips", "flips-and-turns"])
def test_copies_are_averaged_with_every_layer_rounded(checkpoint, samples, kind):
    runners = augmented_runner(checkpoint.network, kind), half_runner(checkpoint.network, kind)
    for sample in samples(checkpoint.specification.context):
        exact, rounded = (runner(sample) for runner in runners)
        assert np.mean(exact.labels == rounded.labels) > CLOSE
        assert 0 < np.abs(exact.scores.astype(int) - rounded.scores).max() <= 2


def test_the_network_itself_is_left_alone(checkpoint, samples):
    before = copy.deepcopy(checkpoint.network.state_dict())
    half_runner(checkpoint.network)(samples(checkpoint.specification.context)[0])
    for name, values in checkpoint.network.state_dict().items():
        torch.testing.assert_close(values, before[name], rtol=0, atol=0)
    assert not any(layer._forward_hooks for layer in checkpoint.network.modules())


def scaled(network, *, weights=1.0, outputs=1.0):
    """The same network in FP32, with numbers of another size in the first convolution.

    Its weights are larger, which slices of less contrast make up for; or what it gives, for which the weights of the
    next are smaller.
    """
    network = copy.deepcopy(network)
    first, norm, _, second = list(network.encoder[0])[:4]
    assert isinstance(norm, nn.BatchNorm2d)
    with torch.no_grad():
        first.weight *= weights
        norm.weight *= outputs
        norm.bias *= outputs
        second.weight /= outputs
    return network


@pytest.mark.parametrize(
    "factors", [{"weights": 1 / 2e5}, {"weights": 4e5}, {"outputs": 3e4}], ids=["inputs", "weights", "outputs"]
)
def test_numbers_beyond_the_range_of_fp16_are_seen(checkpoint, samples, factors):
    given = samples(checkpoint.specification.context)
    # As much contrast as the weights need.
    dimmed = [replace(sample, rstd=sample.rstd / np.float32(factors.get("weights", 1.0))) for sample in given]
    class_map = checkpoint.specification.class_map
    network = scaled(checkpoint.network, **factors)
    expected = dict(zip(map(id, dimmed), map(pytorch_runner(checkpoint.network), given), strict=True))

    def reference(sample):
        return expected[id(sample)]

    assert GATES["fp32"].shortfalls(measure(reference, pytorch_runner(network), dimmed, class_map)) == []
    assert measure(reference, half_runner(network), dimmed, class_map).labels_equal < 0.9


def test_the_exported_graph_answers_alike(checkpoint, exported, samples, tmp_path):
    context = checkpoint.specification.context
    path = tmp_path / "model.onnx"
    onnx.save(exported(context, torch.float16), path)
    found = measure(
        half_runner(checkpoint.network), onnxruntime_runner(path), samples(context), checkpoint.specification.class_map
    )
    assert found.labels_equal > CLOSE
    assert found.largest_score_difference <= 2

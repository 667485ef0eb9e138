"""The layer that an artifact drifts in is found where it was put."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from tomoscribe.export.drift import layer_errors, worst_layer

LAYERS = [
    *(f"encoder.{level}.{index}" for level in range(3) for index in (0, 3)),
    *("upward.0", "decoder.0.0", "decoder.0.3", "upward.1", "decoder.1.0", "decoder.1.3", "head"),
]


@pytest.fixture
def graphs(exported, tmp_path):
    """Gives the FP32 graph and one with the weights of a layer changed."""

    def graphs(layer, change):
        model = onnx.ModelProto()
        model.CopyFrom(exported(1))
        (weights,) = (w for w in model.graph.initializer if w.name == f"network.{layer}.weight")
        weights.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(weights)), weights.name))
        paths = tmp_path / "model.fp32.onnx", tmp_path / "altered.onnx"
        onnx.save(exported(1), paths[0])
        onnx.save(model, paths[1])
        return paths

    return graphs


def test_equal_graphs_have_no_error_in_any_layer(graphs, samples):
    errors = layer_errors(*graphs("head", lambda w: w), samples(1)[0])
    assert errors == dict.fromkeys(LAYERS, 0.0)
    assert list(errors) == LAYERS
    assert worst_layer(errors) is None


@pytest.mark.parametrize("layer", ["encoder.1.3", "upward.1", "head"])
def test_the_layer_that_was_altered_is_named(graphs, samples, layer):
    errors = layer_errors(*graphs(layer, lambda w: w * np.float32(1.5)), samples(1)[0])
    assert f"layer {layer}," in worst_layer(errors)
    assert all(errors[before] == 0 for before in LAYERS[: LAYERS.index(layer)])


def test_the_error_is_relative_to_the_layers_values(graphs, samples, tmp_path):
    large = graphs("head", lambda w: w * np.float32(1e6))[1].rename(tmp_path / "large.onnx")
    larger = graphs("head", lambda w: w * np.float32(1.5e6))[1]
    # The bias is next to nothing beside them.
    assert layer_errors(large, larger, samples(1)[0])["head"] == pytest.approx(0.5, rel=1e-3)


def test_the_first_layer_that_is_not_finite_is_named(graphs, samples):
    errors = layer_errors(*graphs("encoder.2.0", lambda w: w * np.float32(math.inf)), samples(1)[0])
    assert errors["encoder.2.0"] == math.inf
    assert worst_layer(errors) == "layer encoder.2.0 is the first whose values are not finite"


def test_an_fp16_graph_is_followed_layer_by_layer(exported, samples, tmp_path):
    paths = tmp_path / "model.fp32.onnx", tmp_path / "model.fp16.onnx"
    for path, dtype in zip(paths, (torch.float32, torch.float16), strict=True):
        onnx.save(exported(1, dtype), path)
    errors = layer_errors(*paths, samples(1)[0])
    assert list(errors) == LAYERS
    assert all(1e-5 < error < 1e-2 for error in errors.values())


@pytest.mark.parametrize(
    ("errors", "words"),
    [
        ({}, None),
        ({"a": 0.01, "b": 0.04, "c": 0.05}, "the error grows most in layer b, from 1.00% to 4.00%"),
        ({"a": 0.05, "b": 0.01, "c": 0.05}, "the error grows most in layer a, from 0.00% to 5.00%"),
        ({"a": 0.01, "b": math.inf, "c": math.inf}, "layer b is the first whose values are not finite"),
    ],
)
def test_the_worst_layer_is_where_the_error_grows_most(errors, words):
    assert worst_layer(errors) == words

"""Sums of convolutions against convolutions of concatenated inputs."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from tomoscribe.engine.bundle import ModelSpecification
from tomoscribe.engine.class_map import DEFAULT_CLASS_MAP
from tomoscribe.export.graph import to_onnx
from tomoscribe.export.splitting import split_concatenations
from tomoscribe.train.unet import UNet, UNetConfiguration


def exported(context, depth):
    torch.manual_seed(depth)
    network = UNet(UNetConfiguration(classes=6, context=context, depth=depth, base_width=4)).eval()
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(layer.bias)
    shape = network.configuration
    return to_onnx(
        network, ModelSpecification("m", DEFAULT_CLASS_MAP, context, shape.tile_multiple, shape.halo, (10.0, 20.0))
    )


def run(model, feed):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feed)


def operators(model):
    return Counter(node.op_type for node in model.graph.node)


@pytest.mark.parametrize(("context", "depth"), [(0, 1), (1, 2), (3, 2)])
def test_answers_stay_and_skip_connections_are_added(context, depth):
    model = exported(context, depth)
    before = model.SerializeToString()
    split = split_concatenations(model)
    assert model.SerializeToString() == before
    found, original = operators(split), operators(model)
    # The context slices are put together still.
    assert original["Concat"] - found["Concat"] == depth
    assert found["Concat"] == (context > 0)
    assert found["Conv"] == original["Conv"] + depth
    assert found["Add"] == original["Add"] + depth
    assert len(split.SerializeToString()) < len(before) + 600 * depth
    feed = {
        "slices": np.random.default_rng(0).standard_normal((2 + 2 * context, 32, 48), np.float32),
        "mean": np.zeros(2 + 2 * context, np.float32),
        "rstd": np.ones(2 + 2 * context, np.float32),
    }
    (labels, scores), (split_labels, split_scores) = run(model, feed), run(split, feed)
    assert (labels == split_labels).mean() > 0.999
    assert np.abs(scores.astype(int) - split_scores).max() <= 1
    assert len(np.unique(labels)) > 1


def graph_of(nodes, weights, inputs=(("a", 2), ("b", 3)), outputs=("y",)):
    shape = [1, None, None, None]
    return onnx.shape_inference.infer_shapes(
        helper.make_model(
            helper.make_graph(
                nodes,
                "g",
                [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, n, 8, 8]) for name, n in inputs],
                [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in outputs],
                [numpy_helper.from_array(weights, "w")],
                value_info=[helper.make_tensor_value_info(f"r{n}", TensorProto.FLOAT, [1, c, 8, 8]) for n, c in inputs],
            ),
            opset_imports=[helper.make_opsetid("", 18)],
            ir_version=8,
        )
    )


def weights_of(channels, groups=1):
    return np.random.default_rng(1).standard_normal((5, channels // groups, 3, 3), np.float32)


RELUS = [helper.make_node("Relu", [name], [f"r{name}"]) for name in "ab"]
CONCAT = helper.make_node("Concat", ["ra", "rb"], ["c"], axis=1)
CONV = helper.make_node("Conv", ["c", "w"], ["y"], pads=[1, 1, 1, 1])


def test_unequal_halves_and_no_bias():
    model = graph_of([*RELUS, CONCAT, CONV], weights_of(5))
    split = split_concatenations(model)
    assert operators(split) == {"Relu": 2, "Conv": 2, "Add": 1}
    random = np.random.default_rng(0)
    feed = {
        "a": random.standard_normal((1, 2, 8, 8), np.float32),
        "b": random.standard_normal((1, 3, 8, 8), np.float32),
    }
    np.testing.assert_allclose(run(split, feed)[0], run(model, feed)[0], atol=1e-5)


@pytest.mark.parametrize(
    ("nodes", "weights", "outputs"),
    [
        ([helper.make_node("Concat", ["ra", "rb"], ["c"], axis=2), CONV], weights_of(2), ("y",)),
        ([CONCAT, CONV, helper.make_node("Relu", ["c"], ["z"])], weights_of(5), ("y", "z")),
        ([CONCAT, helper.make_node("Conv", ["c", "w"], ["y"], group=5)], weights_of(5, 5), ("y",)),
        ([helper.make_node("Concat", ["ra", "rb", "ra"], ["c"], axis=1), CONV], weights_of(7), ("y",)),
    ],
    ids=["along y", "read by others", "grouped", "three inputs"],
)
def test_what_is_no_skip_connection_stays(nodes, weights, outputs):
    inputs = (("a", 2), ("b", 2)) if nodes[0].attribute[0].i == 2 else (("a", 2), ("b", 3))
    model = graph_of([*RELUS, *nodes], weights, inputs, outputs)
    split = split_concatenations(model)
    assert [node.op_type for node in split.graph.node] == [node.op_type for node in model.graph.node]

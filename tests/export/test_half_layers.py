"""Graphs of which some layers compute in FP16, against the same sums in NumPy."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from tomoscribe.export.half_layers import round_to_half

ONE_THIRD = np.full((1, 1, 1, 1), 1 / 3, np.float32)


@pytest.fixture
def chain():
    """Three convolutions of one weight, of a third each, one after the other, with a ReLU behind the second."""
    nodes = [
        helper.make_node("Conv", ["image", "first"], ["a"], name="first"),
        helper.make_node("Conv", ["a", "second"], ["b"], name="second"),
        helper.make_node("Relu", ["b"], ["c"], name="relu"),
        helper.make_node("Conv", ["c", "third"], ["d"], name="third"),
        helper.make_node("Add", ["c", "d"], ["out"], name="add"),
    ]
    shape = ["n", 1, "h", "w"]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(ONE_THIRD, name) for name in ("first", "second", "third")],
        value_info=[helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "abcd"],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


def round_nodes(model, *names):
    round_to_half(model, [node for node in model.graph.node if node.name in names])
    onnx.checker.check_model(model, full_check=True)
    return model


def casts(model):
    return {(node.input[0], node.attribute[0].i) for node in model.graph.node if node.op_type == "Cast"}


def test_values_are_cast_where_they_come_in_and_go_out_alone(chain):
    model = round_nodes(chain, "second", "relu")
    assert casts(model) == {("a", TensorProto.FLOAT16), ("c", TensorProto.FLOAT)}
    assert [node.op_type for node in model.graph.node].count("Cast") == 2  # once for the two that take c
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert types == {"first": TensorProto.FLOAT, "second": TensorProto.FLOAT16, "third": TensorProto.FLOAT}


def test_nothing_is_cast_between_two_layers_in_fp16(chain):
    model = round_nodes(chain, "second", "relu", "third")
    assert casts(model) == {("a", TensorProto.FLOAT16), ("c", TensorProto.FLOAT), ("d", TensorProto.FLOAT)}


def test_the_sums_are_those_of_fp16(chain):
    image = np.array([[[[0.1, -0.7, 2.5, 300.3]]]], np.float32)
    model = round_nodes(chain, "second", "relu")
    (found,) = ReferenceEvaluator(model).run(None, {"image": image})
    third = np.float32(1 / 3)
    half = (np.float16(image * third) * np.float16(third)).astype(np.float16)
    rectified = np.maximum(half, 0).astype(np.float32)
    np.testing.assert_array_equal(found, rectified + rectified * third)
    assert (found != np.maximum(image / 9, 0) * 4 / 3).any()


def test_no_layer_in_fp16_leaves_the_graph_as_it_is(chain):
    before = chain.SerializeToString(deterministic=True)
    round_to_half(chain, [])
    assert chain.SerializeToString(deterministic=True) == before

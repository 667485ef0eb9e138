"""What the inspector tells of a plan's layers, in the words that TensorRT has for their tensors."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tomoscribe.engine.bundle import default_bundle
from tomoscribe.engine.plans import PlanError
from tomoscribe.engine.plans.layers import Precisions, convolution_precisions, read_precisions

# As TensorRT's manual (Engine Inspector) and its users print them.
HALF, INT8, FLOAT = "Half", "Thirty-two wide channel vectorized row major Int8 format.", "Row major linear FP32 format"


def layer(words, nodes=(), name="layer", tensor="between"):
    metadata = "\x1f".join(f"[ONNX Layer: {node}]" for node in nodes)
    return {"Name": name, "Metadata": metadata, "Outputs": [{"Name": tensor, "Format/Datatype": words}]}


def information(*layers):
    return json.dumps({"Layers": layers, "Bindings": ["slices"]})


@pytest.mark.parametrize(
    ("words", "precision"),
    [
        ("Half", "fp16"),
        ("Channel major FP16 format where channel % 8 == 0", "fp16"),
        ("Float", "fp32"),
        (FLOAT, "fp32"),
        ("Int8", "int8"),
        (INT8, "int8"),
    ],
)
def test_a_convolution_in_its_precision_passes(words, precision):
    layers = information(layer(words, ["conv", "relu"]), layer("Float", ["argmax"]))
    read = read_precisions(layers, {"conv": precision}, "a.plan")
    assert read == Precisions(layers=2, convolutions={precision: 1}, unnamed=0, wrong=())
    assert read.shortfalls() == []


@pytest.mark.parametrize(
    ("words", "precision", "found"),
    [
        ("Float", "fp16", "fp32"),
        ("BFloat16", "fp16", "bf16"),
        ("BFloat16", "fp32", "bf16"),
        ("UInt8", "int8", "uint8"),
        ("Half", "int8", "fp16"),
        ("Half", "fp32", "fp16"),
    ],
)
def test_a_convolution_in_another_precision_is_refused(words, precision, found):
    layers = information(layer(words, ["conv"]), layer("Half"), layer("Int8"), layer("Float"))
    read = read_precisions(layers, {"conv": precision}, "a.plan")
    assert read.wrong == (f"conv in {found} instead of {precision}",)
    assert read.shortfalls() == [
        f"expected its 1 convolutions in the precisions of the ONNX file, found conv in {found} instead of {precision}"
    ]


def test_layers_are_also_known_by_their_names_and_a_fused_one_by_all_of_them():
    fused = layer("Half", name="conv1 + relu1 + conv2")
    assert read_precisions(information(fused), {"conv1": "fp16", "conv2": "fp16"}, "a.plan").unnamed == 0


def test_a_convolution_that_no_layer_names_needs_its_precision_somewhere():
    fused = layer("Half", name="{ForeignNode[conv1...argmax]}")
    assert read_precisions(information(fused), {"conv1": "fp16"}, "a.plan").unnamed == 1
    assert read_precisions(information(fused), {"conv1": "int8"}, "a.plan").wrong == ("conv1 in fp16 instead of int8",)


@pytest.mark.parametrize("key", ["Format/Datatype", "DataType"])
def test_the_inputs_of_a_layer_tell_its_precision_too(key):
    both = {**layer("Half", ["conv"]), "Inputs": [{"Name": "before", key: "Int8"}]}
    assert read_precisions(information(both), {"conv": "int8"}, "a.plan").wrong == ()


@pytest.mark.parametrize("tensor", ["slices", "scores"])
def test_the_networks_own_inputs_and_outputs_say_nothing_of_its_layers(tensor):
    whole = information(layer("Float", ["conv"], tensor=tensor), layer("Half"))
    assert read_precisions(whole, {"conv": "fp16"}, "a.plan").unnamed == 1


@pytest.mark.parametrize("told", ["", "[]", "{}", '{"Layers": ["conv + relu"]}', '{"Layers": [{"Name": "conv"}]}'])
def test_an_inspector_that_does_not_tell_is_refused(told):
    with pytest.raises(PlanError, match="found none"):
        read_precisions(told, {"conv": "fp16"}, "a.plan")


def test_a_long_list_of_wrong_layers_is_cut():
    names = [f"conv{number}" for number in range(9)]
    read = read_precisions(information(layer("Float", names)), dict.fromkeys(names, "fp16"), "a.plan")
    (shortfall,) = read.shortfalls()
    assert "its 9 convolutions" in shortfall
    assert shortfall.endswith("conv2 in fp32 instead of fp16 and 6 more")


def test_convolutions_are_int8_where_image_and_weights_are_dequantised():
    def constant(name, values):
        return numpy_helper.from_array(np.asarray(values), name)

    kernel, scale, zero = np.ones((1, 1, 1, 1)), constant("scale", np.float32(1)), constant("zero", np.int8(0))
    constants = [
        constant("float", kernel.astype(np.float32)),
        constant("half", kernel.astype(np.float16)),
        constant("eighth", kernel.astype(np.int8)),
        scale,
        zero,
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["image", "scale", "zero"], ["quantised"]),
        helper.make_node("DequantizeLinear", ["quantised", "scale", "zero"], ["seen"]),
        helper.make_node("DequantizeLinear", ["eighth", "scale", "zero"], ["weights"]),
        helper.make_node("Conv", ["seen", "weights"], ["a"], name="quantised conv"),
        helper.make_node("Conv", ["image", "weights"], ["b"], name="quantised weights alone"),
        helper.make_node("ConvTranspose", ["image", "float"], ["c"], name="float conv"),
        helper.make_node("Cast", ["image"], ["image16"], to=TensorProto.FLOAT16),
        helper.make_node("Conv", ["image16", "half"], ["d"], name="half conv"),
        helper.make_node("Conv", ["image16", "half"], ["e"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, 4, 4])
    model = helper.make_model(helper.make_graph(nodes, "g", [image], [], constants))
    assert convolution_precisions(model) == {
        "quantised conv": "int8",
        "quantised weights alone": "fp32",
        "float conv": "fp32",
        "half conv": "fp16",
        "node_of_e": "fp16",
    }


def test_the_bundled_models_convolutions_are_known_by_name():
    model = onnx.load(default_bundle() / "model.fp32.onnx")
    precisions = convolution_precisions(model)
    assert set(precisions.values()) == {"fp32"}
    assert "" not in precisions
    assert len(precisions) == sum(node.op_type in ("Conv", "ConvTranspose") for node in model.graph.node)

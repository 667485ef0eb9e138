"""The walk over INT8 graphs: what TensorRT demands of them, and what ONNX Runtime makes of them."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

from tomoscribe.export.quantisation_calibration import RULES, calibrate
from tomoscribe.export.quantisation_graph import OPERATORS, Form, convolutions, quantised_graph

CONVOLUTIONS = ("Conv", "ConvTranspose")


class Walk:
    """A graph that can be asked where a tensor comes from and goes to."""

    def __init__(self, model):
        self.nodes = list(model.graph.node)
        self.maker = {output: node for node in self.nodes for output in node.output}
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}

    def of(self, *kinds):
        return [node for node in self.nodes if node.op_type in kinds]

    def users(self, name):
        return [node for node in self.nodes if name in node.input]

    def values(self, name):
        return numpy_helper.to_array(self.constants[name])


@pytest.fixture(scope="session")
def quantised(exported, samples, tmp_path_factory):
    """Gives the FP32 graph and a quantised one."""

    def quantised(form, in_float=(), model=None):
        model = model or exported(1)
        path = tmp_path_factory.mktemp("fp32") / "fp32.onnx"
        onnx.save(model, path)
        ranges = calibrate(path, samples(1), OPERATORS[form], RULES["minmax"])
        layers = convolutions(model, form)
        return model, quantised_graph(model, ranges, form, [layers[layer] for layer in in_float])

    return quantised


def test_tensorrt_finds_explicit_symmetric_quantisation(quantised):
    _, model = quantised(Form.TENSORRT)
    walk = Walk(model)
    pairs = walk.of("QuantizeLinear", "DequantizeLinear")
    assert pairs
    for node in pairs:
        zero_point = walk.constants[node.input[2]]
        assert zero_point.data_type == TensorProto.INT8
        assert not walk.values(node.input[2]).any()
        assert (walk.values(node.input[1]) > 0).all()
        assert walk.values(node.input[1]).size == walk.values(node.input[2]).size
    for node in walk.of("Conv"):
        image, weights = (walk.maker[name] for name in node.input[:2])
        assert image.op_type == weights.op_type == "DequantizeLinear"
        assert walk.maker[image.input[0]].op_type == "QuantizeLinear"
        assert walk.values(image.input[1]).shape == ()
        integers = walk.values(weights.input[0])
        assert integers.dtype == np.int8
        assert [a.i for a in weights.attribute if a.name == "axis"] == [0]
        assert walk.values(weights.input[1]).shape == integers.shape[:1]
        assert all(walk.constants[bias].data_type == TensorProto.FLOAT for bias in node.input[2:])
        # ReLU comes first.
        assert "QuantizeLinear" not in {user.op_type for user in walk.users(node.output[0])}


@pytest.mark.parametrize("form", Form)
def test_quantised_weights_are_the_weights(quantised, form):
    model, int8 = quantised(form)
    before, after = Walk(model), Walk(int8)
    weights = {node.name: before.values(node.input[1]) for node in before.of(*CONVOLUTIONS)}
    layers = after.of(*CONVOLUTIONS) if form is Form.CPU else after.of("Conv")
    for node in layers:
        dequantise = after.maker[node.input[1]]
        (axis,) = (a.i for a in dequantise.attribute if a.name == "axis")
        expected = weights[node.name]
        scale = after.values(dequantise.input[1]).reshape([-1 if d == axis else 1 for d in range(4)])
        found = after.values(dequantise.input[0]) * scale
        assert (np.abs(found - expected) <= 0.501 * scale).all()
        others = tuple(d for d in range(4) if d != axis)
        assert (np.abs(after.values(dequantise.input[0])).max(others) == 127).all()


@pytest.mark.parametrize("form", Form)
def test_nothing_outside_of_the_network_is_quantised(quantised, form):
    model, int8 = quantised(form)
    network = {*CONVOLUTIONS, "Relu", "MaxPool", "Concat"}
    before = [node for node in model.graph.node if node.op_type not in network]
    after = {node.name: node for node in int8.graph.node}
    walk = Walk(int8)
    for node in before:
        assert list(after[node.name].input) == list(node.input) or node.input[0] == walk.maker[node.input[0]].output[0]
    first = next(node for node in model.graph.node if node.op_type == "Conv").input[0]
    leading = {output for node in _ahead_of(model, first) for output in node.output} - {first}
    assert not [node for node in walk.of("QuantizeLinear") if node.input[0] in leading | {"slices", "mean", "rstd"}]
    assert [node.input[0] for node in walk.of("QuantizeLinear")].count(first) == 1


def _ahead_of(model, name):
    maker = {output: node for node in model.graph.node for output in node.output}
    if name not in maker:
        return []
    return [maker[name], *(node for given in maker[name].input for node in _ahead_of(model, given))]


def test_onnx_runtime_computes_every_convolution_in_integers(quantised, tmp_path):
    model, int8 = quantised(Form.CPU)
    optimised = tmp_path / "optimised.onnx"
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(optimised)
    onnxruntime.InferenceSession(int8.SerializeToString(), options, providers=["CPUExecutionProvider"])
    walk = Walk(onnx.load(optimised))
    kinds = [node.op_type for node in walk.nodes]
    assert kinds.count("QLinearConv") == len(Walk(model).of("Conv"))
    assert not {"Conv", "FusedConv", "Relu"} & set(kinds)
    assert {walk.maker[node.input[0]].op_type for node in walk.of("MaxPool", "NhwcMaxPool")} == {"QLinearConv"}


@pytest.mark.parametrize("layer", ["encoder.0.0", "decoder.0.0", "upward.1", "head"])
def test_a_layer_can_stay_in_float_on_a_cpu(quantised, layer):
    model, int8 = quantised(Form.CPU, [layer])
    name = convolutions(model, Form.CPU)[layer]
    walk = Walk(int8)
    (node,) = (node for node in walk.of(*CONVOLUTIONS) if node.name == name)
    assert walk.constants[node.input[1]].data_type == TensorProto.FLOAT
    others = [other for other in walk.of(*CONVOLUTIONS) if other.name != name]
    assert all(walk.maker[other.input[1]].op_type == "DequantizeLinear" for other in others)
    if layer == "decoder.0.0":  # what int8 layers give is rounded; a Concat need not be
        assert walk.maker[node.input[0]].op_type != "DequantizeLinear"


@pytest.mark.parametrize("layer", ["encoder.0.0", "decoder.0.0", "head"])
def test_tensorrt_computes_a_layer_in_fp16_that_is_not_quantised(quantised, layer):
    model, int8 = quantised(Form.TENSORRT, [layer])
    walk = Walk(int8)
    quantised_nodes = {*convolutions(model, Form.TENSORRT).values()} - {convolutions(model, Form.TENSORRT)[layer]}
    for node in walk.of(*CONVOLUTIONS):
        if node.name in quantised_nodes:
            assert walk.maker[node.input[1]].op_type == "DequantizeLinear"
        else:
            assert {walk.constants[name].data_type for name in node.input[1:]} == {TensorProto.FLOAT16}
            assert walk.maker[node.input[0]].op_type == "Cast"  # of what was never rounded to integers
            assert walk.maker[walk.maker[node.input[0]].input[0]].op_type != "DequantizeLinear"
            users = {user.op_type for user in walk.users(node.output[0])}
            assert "Relu" in users or layer == "head" or node.op_type == "ConvTranspose"  # in FP16 too


def test_tensorrt_has_transposed_convolutions_in_fp16(quantised):
    model, int8 = quantised(Form.TENSORRT)
    assert not [layer for layer in convolutions(model, Form.TENSORRT) if layer.startswith("upward")]
    walk = Walk(int8)
    for node in walk.of("ConvTranspose"):
        assert {walk.constants[name].data_type for name in node.input[1:]} == {TensorProto.FLOAT16}


def test_layers_are_called_as_their_weights_are(exported):
    layers = convolutions(exported(0), Form.CPU)
    assert list(layers)[:3] == ["encoder.0.0", "encoder.0.3", "encoder.1.0"]
    assert list(layers)[-1] == "head"
    assert len(set(layers.values())) == len(layers) == 6 + 2 + 4 + 1


@pytest.mark.parametrize("form", Form)
def test_the_graph_that_is_given_stays_as_it_is(quantised, exported, form):
    before = exported(1).SerializeToString(deterministic=True)
    quantised(form)
    assert exported(1).SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("form", Form)
def test_a_channel_of_zeros_has_a_scale(quantised, exported, form):
    model = onnx.ModelProto()
    model.CopyFrom(exported(1))
    for tensor in model.graph.initializer:
        if tensor.name == "network.encoder.1.0.weight":
            weights = numpy_helper.to_array(tensor).copy()
            weights[2] = 0
            tensor.CopyFrom(numpy_helper.from_array(weights, tensor.name))
    _, int8 = quantised(form, model=model)
    walk = Walk(int8)
    assert all((walk.values(node.input[1]) > 0).all() for node in walk.of("QuantizeLinear", "DequantizeLinear"))

"""INT8 graphs: where QuantizeLinear and DequantizeLinear stand in the network between normalise and softmax.

Weights are int8 per channel and symmetric. Activations have one scale each, in one of two forms, because what
TensorRT wants ONNX Runtime runs slower than FP32 on a CPU, and what ONNX Runtime runs fast TensorRT misreads. OpenVINO
runs either.

`Form.TENSORRT`: symmetric int8, zero points 0, at the inputs of convolutions alone, so that ReLU is fused into the
convolution and the next QuantizeLinear into both; biases in FP32. TensorRT's documentation, "Explicit Quantization",
with its "Q/DQ Layer-Placement Recommendations"; its ONNX parser takes uint8 for int8 and refuses any other zero point
(onnx-tensorrt, ``QuantDequantLinearHelper``) and int32 biases (onnx-tensorrt issue 850). Convolutions that are not
quantised are in FP16. The transposed ones never are: they are few operations, and sources disagree on the axis that
TensorRT wants their weights' scales on (TensorRT issues 1694 and 2380; ``ort_utils.py`` of NVIDIA's Model Optimizer).

`Form.CPU`, for ONNX Runtime's CPU provider: asymmetric uint8, at inputs and outputs. It computes a convolution in
integers only where the output is quantised as well, and uint8 begins at 0, which makes ReLU part of the rounding.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum
from typing import Any

import onnx
from onnxruntime.quantization import QDQQuantizer, QuantType, TensorsData

from tomoscribe.export.half_layers import round_to_half

__all__ = ["OPERATORS", "Form", "convolutions", "quantised_graph"]

_CONVOLUTIONS = ("Conv", "ConvTranspose")


class Form(StrEnum):
    """What an INT8 graph is for."""

    TENSORRT = "tensorrt"
    CPU = "cpu"


OPERATORS = {Form.TENSORRT: ("Conv",), Form.CPU: (*_CONVOLUTIONS, "Relu", "MaxPool", "Concat")}
"""The operators that are quantised: for a CPU those between convolutions too, so that their values stay integers."""


def convolutions(model: onnx.ModelProto, form: Form) -> dict[str, str]:
    """Return what can be quantised or left in float: convolutions' node names, by the layer's name.

    A layer is called as its weights are, without ``network.`` and ``.weight``.
    """
    return {
        node.input[1].removeprefix("network.").removesuffix(".weight"): node.name
        for node in model.graph.node
        if node.op_type in _CONVOLUTIONS and node.op_type in OPERATORS[form]
    }


def quantised_graph(
    model: onnx.ModelProto, ranges: TensorsData, form: Form, in_float: Collection[str] = ()
) -> onnx.ModelProto:
    """Return a graph with its convolutions quantised; the one that is given stays as it is.

    Args:
        model: in FP32.
        ranges: of the activations, from `tomoscribe.export.quantisation_calibration.calibrate`.
        form: what the graph is for.
        in_float: node names of convolutions that are not quantised.

    Raises:
        onnx.checker.ValidationError: the result is not a valid graph.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    quantiser = QDQQuantizer(
        copy,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8 if form is Form.CPU else QuantType.QInt8,
        tensors_range=ranges,
        nodes_to_quantize=[],
        nodes_to_exclude=[*in_float, *_joined_for(model, in_float), *_before_convolutions(model)],
        op_types_to_quantize=list(OPERATORS[form]),
        extra_options=_options(form),
    )
    quantiser.quantize_model()
    quantiser.model.topological_sort()  # it appends its nodes at the end, which ONNX does not allow
    quantised: onnx.ModelProto = quantiser.model.model
    if form is Form.TENSORRT:
        round_to_half(quantised, _in_float(quantised))
    onnx.checker.check_model(quantised, full_check=True)
    return quantised


def _options(form: Form) -> dict[str, Any]:
    if form is Form.CPU:
        return {"ActivationSymmetric": False}
    return {
        "ActivationSymmetric": True,
        "OpTypesToExcludeOutputQuantization": list(_CONVOLUTIONS),
        "QuantizeBias": False,
        "QDQDisableWeightAdjustForInt32Bias": True,  # which is for biases that are quantised
    }


def _before_convolutions(model: onnx.ModelProto) -> list[str]:
    """Return the nodes that no convolution leads to: they normalise, in the units of the file."""
    reached: set[str] = set()
    before = []
    for node in model.graph.node:  # in the order of computation, as ONNX demands
        if node.op_type in _CONVOLUTIONS or reached.intersection(node.input):
            reached.update(node.output)
        else:
            before.append(node.name)
    return before


def _joined_for(model: onnx.ModelProto, in_float: Collection[str]) -> list[str]:
    """Return the nodes that join channels for convolutions in float, which would get them rounded."""
    inputs = {node.input[0] for node in model.graph.node if node.name in in_float}
    return [node.name for node in model.graph.node if node.op_type == "Concat" and node.output[0] in inputs]


def _in_float(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Return the convolutions that are not quantised, each with its ReLU."""
    weights = {tensor.name for tensor in model.graph.initializer}
    found = [node for node in model.graph.node if node.op_type in _CONVOLUTIONS and node.input[1] in weights]
    outputs = {node.output[0] for node in found}
    return found + [node for node in model.graph.node if node.op_type == "Relu" and node.input[0] in outputs]

"""Float16 networks in float32: the reference that a bundle always holds, and what a CPU computes fastest."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

__all__ = ["holds_float16", "in_float32"]


def holds_float16(model: onnx.ModelProto) -> bool:
    """Tell whether a model has weights in float16, takes or gives it, or casts to it."""
    return any(
        [
            *(tensor.data_type == TensorProto.FLOAT16 for tensor in _tensors(model.graph)),
            *(value.type.tensor_type.elem_type == TensorProto.FLOAT16 for value in _values(model.graph)),
            *(attribute.i == TensorProto.FLOAT16 for attribute in _type_attributes(model.graph)),
        ]
    )


def in_float32(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model with float32 wherever it has float16: weights, which keep their values, inputs, outputs, casts."""
    converted = onnx.ModelProto()
    converted.CopyFrom(model)
    for tensor in _tensors(converted.graph):
        if tensor.data_type == TensorProto.FLOAT16:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    for value in _values(converted.graph):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT16:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for attribute in _type_attributes(converted.graph):
        if attribute.i == TensorProto.FLOAT16:
            attribute.i = TensorProto.FLOAT
    return converted


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """Yield a graph and those inside its nodes: the branches of an If, the body of a Loop."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for subgraph in (attribute.g, *attribute.graphs):
                yield from _graphs(subgraph)


def _tensors(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    for part in _graphs(graph):
        yield from part.initializer
        for node in part.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t


def _values(graph: onnx.GraphProto) -> Iterator[onnx.ValueInfoProto]:
    for part in _graphs(graph):
        yield from (*part.input, *part.output, *part.value_info)


def _type_attributes(graph: onnx.GraphProto) -> Iterator[onnx.AttributeProto]:
    """Yield the attributes that name a type: ``to`` of Cast, ``dtype`` of the operators that make values."""
    for part in _graphs(graph):
        for node in part.node:
            yield from (attribute for attribute in node.attribute if attribute.name in ("to", "dtype"))

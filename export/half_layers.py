"""Some layers of an FP32 graph in FP16, with casts where values come in and go out."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

__all__ = ["round_to_half"]


def round_to_half(model: onnx.ModelProto, nodes: Collection[onnx.NodeProto]) -> None:
    """Let nodes of a graph compute in FP16; what lies between two of them is not cast.

    Args:
        model: in FP32; changed in place.
        nodes: some of the graph's, of which nothing but FP32 goes in and out; their initializers are theirs alone.
    """
    graph = model.graph
    names = {node.name for node in nodes}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    rounded = {name for node in nodes for name in node.input if name in constants}
    for name in rounded:
        constants[name].CopyFrom(
            numpy_helper.from_array(numpy_helper.to_array(constants[name]).astype(np.float16), name)
        )
    made = {name for node in nodes for name in node.output}
    kept = [value for value in graph.value_info if value.name not in made | rounded]
    del graph.value_info[:]
    graph.value_info.extend(kept)

    cast: set[str] = set()
    result = []
    for node in graph.node:
        inside = node.name in names
        for index, name in enumerate(node.input):
            if name and name not in constants and (name in made) != inside:
                kind, other = (TensorProto.FLOAT16, f"{name}_half") if inside else (TensorProto.FLOAT, f"{name}_float")
                if other not in cast:
                    cast.add(other)
                    result.append(onnx.helper.make_node("Cast", [name], [other], name=f"cast_{other}", to=kind))
                node.input[index] = other
        result.append(node)
    del graph.node[:]
    graph.node.extend(result)

"""Which precision the layers of a built plan run in, as TensorRT's inspector tells it.

A builder that is asked for FP16 in a way that it no longer knows builds FP32 without an error; that is only seen here.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tomoscribe.engine.plans.identity import PlanError

if TYPE_CHECKING:
    import onnx

__all__ = ["Precisions", "convolution_precisions", "read_precisions"]

_CONVOLUTIONS = ("Conv", "ConvTranspose")
# The network's own inputs and outputs, which are the same in every precision.
_CONTRACT = ("slices", "mean", "rstd", "labels", "scores")
# In the inspector's words a tensor is "Half", or "Channel major FP16 format where channel % 8 == 0"; the first that
# matches counts, so bf16 comes before float and uint8 before int8.
_WORDS = {
    "bf16|bfloat": "bf16",
    "half|fp16": "fp16",
    "fp8": "fp8",
    "uint8": "uint8",
    "int8": "int8",
    "float|fp32": "fp32",
}
_NAMED = re.compile(r"\[ONNX Layer: ([^\]]+)\]")
_SHOWN = 3


@dataclass(frozen=True)
class _Layer:
    """A layer of a plan: the nodes of the ONNX graph that went into it, and the precisions of its tensors."""

    nodes: frozenset[str]
    precisions: frozenset[str]


@dataclass(frozen=True)
class Precisions:
    """What the convolutions of a plan are computed in.

    Attributes:
        layers: layers of the plan.
        convolutions: how many run in the precision that the graph asks for, by precision.
        unnamed: how many of all convolutions no layer names.
        wrong: those that run in another precision, a few words each.
    """

    layers: int
    convolutions: Mapping[str, int]
    unnamed: int
    wrong: tuple[str, ...]

    def shortfalls(self) -> list[str]:
        """Return what is wrong, as ``expected …, found …``; nothing where all run as the graph says."""
        if not self.wrong:
            return []
        total = sum(self.convolutions.values()) + len(self.wrong)
        more = f" and {len(self.wrong) - _SHOWN} more" if len(self.wrong) > _SHOWN else ""
        return [
            f"expected its {total} convolutions in the precisions of the ONNX file, "
            f"found {', '.join(self.wrong[:_SHOWN])}{more}"
        ]

    def to_json(self) -> dict[str, Any]:
        """Return them as they stand beside the plan."""
        return {
            "layers": self.layers,
            "convolutions": dict(self.convolutions),
            "convolutions_unnamed": self.unnamed,
            "convolutions_in_another_precision": list(self.wrong),
        }


def convolution_precisions(model: onnx.ModelProto) -> dict[str, str]:
    """Return what the convolutions of a graph are to be computed in, by the node's name.

    ``int8`` where both the image and the weights come from a DequantizeLinear, the explicit quantisation that TensorRT
    fuses into the convolution; else the weights' own type.
    """
    from onnx import TensorProto

    by_type = {TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "fp16"}
    makers = {output: node for node in model.graph.node for output in node.output}
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        if node.op_type in _CONVOLUTIONS:
            # A node without a name gets this one from TensorRT's parser.
            known_as = node.name or f"node_of_{node.output[0]}"
            sources = [makers.get(name) for name in node.input[:2]]
            if all(source is not None and source.op_type == "DequantizeLinear" for source in sources):
                found[known_as] = "int8"
            else:
                # What a DequantizeLinear gives has the type of its scale.
                name = node.input[1] if sources[1] is None else sources[1].input[1]
                found[known_as] = by_type.get(types.get(name, TensorProto.UNDEFINED), "unknown")
    return found


def read_precisions(information: str, expected: Mapping[str, str], plan: str) -> Precisions:
    """Compare the layers of a plan with what its graph asks for, convolution by convolution.

    A layer is told by the ONNX nodes in its ``Metadata`` or its name, and computes in the precisions of its inputs and
    outputs; those of the whole network do not count. Where TensorRT fused so much that a convolution is in no layer's
    description, its precision has to be that of some tensor in the plan.

    Args:
        information: ``EngineInspector.get_engine_information`` in JSON, of a plan with detailed profiling verbosity.
        expected: see `convolution_precisions`.
        plan: the plan's name, for the message.

    Raises:
        PlanError: the inspector does not tell.
    """
    layers = _read(information)
    everywhere = frozenset[str]().union(*(layer.precisions for layer in layers))
    if not everywhere:
        raise PlanError(
            f"{plan}: expected TensorRT to tell the precisions of its layers, found none",
            "it is not written, try another version of TensorRT",
        )
    wrong, unnamed, counts = [], 0, Counter[str]()
    for name, precision in expected.items():
        named = [layer.precisions for layer in layers if name in layer.nodes and layer.precisions]
        unnamed += not named
        found = frozenset[str]().union(*named) if named else everywhere
        if precision in found:
            counts[precision] += 1
        else:
            wrong.append(f"{name} in {' and '.join(sorted(found))} instead of {precision}")
    return Precisions(len(layers), counts, unnamed, tuple(wrong))


def _read(information: str) -> list[_Layer]:
    try:
        entries = json.loads(information).get("Layers", [])
    except (AttributeError, ValueError):
        entries = []
    return [_layer(entry) for entry in entries if isinstance(entry, dict)]


def _layer(entry: Mapping[str, Any]) -> _Layer:
    names = _NAMED.findall(str(entry.get("Metadata", ""))) or str(entry.get("Name", "")).split(" + ")
    tensors = [*entry.get("Inputs", []), *entry.get("Outputs", [])]
    words = [
        str(tensor.get("Format/Datatype") or tensor.get("DataType") or "")
        for tensor in tensors
        if isinstance(tensor, dict) and tensor.get("Name") not in _CONTRACT
    ]
    return _Layer(frozenset(names), frozenset(_precisions(words)))


def _precisions(words: Iterable[str]) -> Iterable[str]:
    for word in words:
        for pattern, precision in _WORDS.items():
            if re.search(pattern, word, re.IGNORECASE):
                yield precision
                break

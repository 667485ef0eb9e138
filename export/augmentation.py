"""Test-time augmentation, in the graph: the network sees a tile mirrored and turned, and its answers are averaged.

A graph that was exported, in any precision, works on every copy of the tile, one after the other. The weights are in
the file once, and memory has to hold one copy's activations and a few sums. Scores are the mean of the copies'
probabilities, turned back; the label is the class with the highest mean.

Copies are made by doubling: where f sums the answers to some copies, and t is a turn that undoes itself, f + t ∘ f ∘ t
sums those to twice as many. Two flips and a transposition make all eight symmetries of a square. What
`tomoscribe.engine.tiles` cuts stays exact: a tile's edges lie on the network's pooling grid counted from either side,
and the network reaches equally far on all sides.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tomoscribe.engine.bundle import ModelSpecification
from tomoscribe.export.graph import INPUTS, METADATA_KEY, OUTPUTS

__all__ = ["augmented"]

_TURNS: Mapping[str, Sequence[str]] = {
    "none": (),
    "flips": ("flip_y", "flip_x"),
    "flips-and-turns": ("transpose", "flip_y", "flip_x"),
}
"""By kind: what makes the copies, each of which doubles their number."""
_STEPS = {
    "transpose": ("transpose",),
    "flip_y": ("reverse_rows",),
    # Rows are copied whole, where a Slice backwards along x goes pixel by pixel, with an index for each in OpenVINO.
    "flip_x": ("transpose", "reverse_rows", "transpose"),
}
"""By turn: what it is made of; the same read backwards, so that each undoes itself."""
_CONSTANTS = {
    "augmentation/last": np.array([-1], np.int64),
    "augmentation/before_first": np.array([-(2**31 - 1)], np.int64),  # cut to the axis, ONNX says; fits an int32 too
    "augmentation/y": np.array([-2], np.int64),
    "augmentation/backwards": np.array([-1], np.int64),
}
_SLICES, (_LABELS, _SCORES) = INPUTS[0], OUTPUTS


def augmented(model: onnx.ModelProto, specification: ModelSpecification) -> onnx.ModelProto:
    """Return a graph that averages over the copies that its specification says; the one that is given stays as it is.

    Args:
        model: in the graph contract, without test-time augmentation; its `scores` are a cast of what is averaged. Nodes
            and tensors of the tile as it is keep their names, those of the other copies end in their turns.
        specification: goes into the model's ``metadata_props``.

    Raises:
        onnx.checker.ValidationError: the result is not valid.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    helper.set_model_props(result, {METADATA_KEY: json.dumps(specification.to_json(), ensure_ascii=False)})
    if turns := _TURNS[specification.test_time_augmentation]:
        _Copies(result.graph).average(turns)
        onnx.checker.check_model(result, full_check=True)
    return result


class _Copies:
    """The nodes of a graph while they become those of several copies."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        makers = {name: node for node in graph.node for name in node.output}
        self._answer = makers[_SCORES].input[0]  # probability × 255 + ½
        self._network = list(_leading_to(self._answer, graph.node))
        self._shared = {"", *INPUTS, *(tensor.name for tensor in graph.initializer)}
        self._nodes: list[onnx.NodeProto] = []

    def average(self, turns: Sequence[str]) -> None:
        """Put the copies, and what makes labels and scores of their mean, in place of the graph's nodes."""
        share = numpy_helper.from_array(np.array(2.0 ** -len(turns), np.float32), "augmentation/share")
        constants = [numpy_helper.from_array(values, name) for name, values in _CONSTANTS.items()]
        total = self._sum(turns, _SLICES, "")
        mean = self._add("Mul", [total, share.name], "augmentation/mean")
        best = self._add("ArgMax", [mean], "augmentation/best", axis=1, keepdims=0)
        self._add("Cast", [best], _LABELS, to=TensorProto.UINT8)
        self._add("Cast", [mean], _SCORES, to=TensorProto.UINT8)
        graph = self._graph
        graph.initializer.extend([share, *constants])
        made = {name for node in self._nodes for name in node.output}
        known = [value for value in graph.value_info if value.name in made | self._shared]
        for field, values in ((graph.node, self._nodes), (graph.value_info, known)):
            del field[:]
            field.extend(values)

    def _sum(self, turns: Sequence[str], slices: str, suffix: str) -> str:
        """Add the copies of ``(n + 2k, h, w)`` slices that some turns make; return the sum of their answers.

        Of the sums, as many as there are turns have to be kept at once, and no copy's answer but the latest.
        """
        if not turns:
            return self._run(slices, suffix)
        *others, turn = turns
        straight = self._sum(others, slices, suffix)
        suffix = f"{suffix}/{turn}"
        turned = self._sum(others, self._turn(turn, slices, f"{_SLICES}{suffix}", 3), suffix)
        back = self._turn(turn, turned, f"augmentation/back{suffix}", 4)
        return self._add("Add", [straight, back], f"augmentation/sum{suffix}")

    def _run(self, slices: str, suffix: str) -> str:
        """Add the network once more; return its answer."""

        def renamed(name: str) -> str:
            return slices if name == _SLICES else name if name in self._shared else name + suffix

        for node in self._network:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.name = node.name and node.name + suffix  # ONNX Runtime takes a name once, and any number without
            copy.input[:] = map(renamed, node.input)
            copy.output[:] = map(renamed, node.output)
            self._nodes.append(copy)
        return renamed(self._answer)

    def _turn(self, turn: str, values: str, name: str, axes: int) -> str:
        """Turn the last two of so many axes."""
        *leading, y, x = range(axes)
        steps = _STEPS[turn]
        for number, step in enumerate(steps, 1):
            output = name if number == len(steps) else f"{name}/step_{number}"
            if step == "transpose":
                values = self._add("Transpose", [values], output, perm=[*leading, x, y])
            else:
                values = self._add("Slice", [values, *_CONSTANTS], output)
        return values

    def _add(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:  # noqa: ANN401 - onnx's own signature
        self._nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output


def _leading_to(name: str, nodes: Sequence[onnx.NodeProto]) -> Iterable[onnx.NodeProto]:
    """Return the nodes, in their order, that a tensor is computed with."""
    needed, found = {name}, []
    for node in reversed(nodes):  # ONNX demands the order of computation
        if needed.intersection(node.output):
            needed.update(node.input)
            found.append(node)
    return reversed(found)

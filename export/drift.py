"""Where an artifact drifts from the FP32 graph: the answers of every convolution compared."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from tomoscribe.export.graph import INPUTS
from tomoscribe.export.parity import Sample

__all__ = ["layer_errors", "worst_layer"]

_CONVOLUTIONS = ("Conv", "ConvTranspose")
_ERRORS_ONLY = 3


def layer_errors(reference: Path, candidate: Path, sample: Sample) -> dict[str, float]:
    """Return how far the convolutions of an artifact are from those of the FP32 graph it was made with.

    Args:
        reference: the FP32 graph.
        candidate: a graph with the same tensor names, as FP16 and quantised graphs of the same network have.
        sample: what both are given.

    Returns:
        The root mean square of the difference over that of the reference for every convolution that both have, in the
        order of the graph, by the name of its weights without ``network.`` and ``.weight``; infinite where the
        candidate is not finite.
    """
    there = {name for node in onnx.load(candidate).graph.node for name in node.output}
    layers = {}
    for layer, names in _convolutions(onnx.load(reference)).items():
        if name := next((name for name in names if name in there), None):
            layers[layer] = name
    expected, found = (_activations(path, list(layers.values()), sample) for path in (reference, candidate))
    return {layer: _relative_error(expected[name], found[name]) for layer, name in layers.items()}


def worst_layer(errors: Mapping[str, float]) -> str | None:
    """Say in words where the error grows most from one convolution to the next; None where it grows nowhere."""
    before, worst, most = 0.0, None, 0.0
    for layer, error in errors.items():
        if error == np.inf:
            return f"layer {layer} is the first whose values are not finite"
        if error - before > most:
            most = error - before
            worst = f"the error grows most in layer {layer}, from {before:.2%} to {error:.2%}"
        before = error
    return worst


def _convolutions(model: onnx.ModelProto) -> dict[str, tuple[str, ...]]:
    """Return the convolutions by the name of their weights, each with its output and that of its ReLU.

    A quantised graph may have the latter alone, because rounding to unsigned numbers does what a ReLU does.
    """
    rectified = {node.input[0]: node.output[0] for node in model.graph.node if node.op_type == "Relu"}
    return {
        node.input[1].removeprefix("network.").removesuffix(".weight"): tuple(
            name for name in (node.output[0], rectified.get(node.output[0])) if name
        )
        for node in model.graph.node
        if node.op_type in _CONVOLUTIONS
    }


def _activations(path: Path, names: list[str], sample: Sample) -> dict[str, NDArray[np.float64]]:
    model = onnx.load(path)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options: Any = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feed = dict(zip(INPUTS, (sample.slices, sample.mean, sample.rstd), strict=True))
    return {name: values.astype(np.float64) for name, values in zip(names, session.run(names, feed), strict=True)}


def _relative_error(expected: NDArray[np.float64], found: NDArray[np.float64]) -> float:
    if not np.isfinite(found).all():
        return float("inf")
    scale = float(np.sqrt(np.square(expected).mean()))
    return float(np.sqrt(np.square(found - expected).mean())) / scale if scale else 0.0

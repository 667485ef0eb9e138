"""The runtimes without tomoscribe: slices lie in memory, and nothing is done but to run the network."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["onnxruntime_labeller", "openvino_labeller"]


def onnxruntime_labeller(
    model: Path, slices: NDArray[np.float32], context: int, statistics: tuple[float, float]
) -> Callable[[int], NDArray[np.uint8]]:
    """Return what labels the first slices of a tomogram in a plain loop: NumPy in, ``session.run``, NumPy out.

    Args:
        model: a network in the graph contract.
        slices: ``(z + 2k, y, x)``, the tomogram with its context, in its own units.
        context: k.
        statistics: mean and standard deviation of the tomogram; the graph normalises.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    inputs = 2 * context + 1
    constant = _constant_inputs(inputs, statistics)

    def label(count: int) -> NDArray[np.uint8]:
        labels = np.empty((count, *slices.shape[1:]), np.uint8)
        for z in range(count):
            found, _ = session.run(["labels", "scores"], {"slices": slices[z : z + inputs], **constant})
            labels[z] = found[0]
        return labels

    return label


def openvino_labeller(
    model: Path, slices: NDArray[np.float32], context: int, statistics: tuple[float, float], *, hint: str
) -> Callable[[int], NDArray[np.uint8]]:
    """Return what labels the first slices of a tomogram as OpenVINO's ``benchmark_app -hint throughput`` works.

    As many requests as the runtime finds best are in flight, the network is compiled for the very size of a slice, and
    inputs are not copied.

    Args:
        model: a network in the graph contract.
        slices: ``(z + 2k, y, x)``, the tomogram with its context, in its own units.
        context: k.
        statistics: mean and standard deviation of the tomogram; the graph normalises.
        hint: ``f32`` or ``bf16``, for what is not quantised.
    """
    import openvino

    inputs = 2 * context + 1
    core = openvino.Core()
    network = core.read_model(model)
    network.reshape({"slices": [inputs, *slices.shape[1:]], "mean": [inputs], "rstd": [inputs]})
    options = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": hint}
    queue = openvino.AsyncInferQueue(core.compile_model(network, "CPU", options))
    constant = _constant_inputs(inputs, statistics)

    def take(request: Any, place: NDArray[np.uint8]) -> None:  # noqa: ANN401 - OpenVINO is imported above
        place[:] = request.get_tensor("labels").data[0]

    queue.set_callback(take)

    def label(count: int) -> NDArray[np.uint8]:
        labels = np.empty((count, *slices.shape[1:]), np.uint8)
        for z in range(count):
            queue.start_async({"slices": slices[z : z + inputs], **constant}, labels[z], share_inputs=True)
        queue.wait_all()
        return labels

    return label


def _constant_inputs(inputs: int, statistics: tuple[float, float]) -> dict[str, NDArray[np.float32]]:
    mean, standard_deviation = statistics
    return {"mean": np.full(inputs, mean, np.float32), "rstd": np.full(inputs, 1 / standard_deviation, np.float32)}

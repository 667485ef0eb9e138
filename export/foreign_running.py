"""A network of others run by hand in ONNX Runtime: what its wrapped graph has to agree with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from tomoscribe.engine.cores import usable_cores
from tomoscribe.engine.errors import BundleError
from tomoscribe.engine.tiles import reflected
from tomoscribe.export.foreign_description import ForeignDescription
from tomoscribe.export.foreign_reading import ForeignNetwork, describe_error
from tomoscribe.export.parity import Answer, Runner, Sample

__all__ = ["Network", "fitted", "load", "original_runner"]

Network = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""An image ``(n, c, h, w)`` in, an answer ``(n, channels, h, w)`` out."""

_FATAL_ONLY = 4  # trials fail, which is an answer and not an accident


def load(source: Path | onnx.ModelProto, path: Path, output: str) -> Network:
    """Return a network that ONNX Runtime runs on the CPU.

    Args:
        source: the file or the model; float16 images and answers are converted.
        path: what an error calls it.
        output: which of its outputs.

    Raises:
        BundleError: ONNX Runtime cannot load it, or, from the network, cannot run it.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    options.intra_op_num_threads = usable_cores()
    try:
        model = source if isinstance(source, Path) else source.SerializeToString()
        session: Any = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's share no base but this
        raise _cannot_run(path, error) from error
    image = session.get_inputs()[0]
    dtype = np.float16 if image.type == "tensor(float16)" else np.float32

    def run(values: NDArray[np.float32]) -> NDArray[np.float32]:
        quiet = onnxruntime.RunOptions()
        quiet.log_severity_level = _FATAL_ONLY
        try:
            (answer,) = session.run([output], {image.name: values.astype(dtype)}, quiet)
        except Exception as error:  # as above
            raise _cannot_run(path, error) from error
        found: NDArray[np.float32] = answer.astype(np.float32)
        return found

    return run


def original_runner(
    network: ForeignNetwork,
    source: Path | onnx.ModelProto,
    description: ForeignDescription,
    *,
    context: int,
    probabilities: bool,
) -> Runner:
    """Return the answers of the file as it is, one image after the other, with numpy before and after it.

    Args:
        network: the file.
        source: its path; or its network in another precision.
        description: what its channels mean and what it expects.
        context: neighbouring slices on each side that it sees.
        probabilities: whether it answers with probabilities; logits otherwise.

    Raises:
        BundleError: ONNX Runtime cannot run the file.
    """
    original = load(source, network.path, network.output)
    batch = network.sizes[0] or 1

    def run(sample: Sample) -> Answer:
        image = _normalised(sample, description)
        labels, scores = [], []
        for first in range(len(image) - 2 * context):
            seen = image[first : first + 2 * context + 1]
            seen = np.broadcast_to(seen, (network.channels, *seen.shape[1:]))
            answer = original(np.stack([seen] * batch))[0].astype(np.float64)
            likelihoods = _likelihoods(answer, description, probabilities)
            labels.append(likelihoods.argmax(axis=0).astype(np.uint8))
            scores.append(np.rint(np.clip(likelihoods, 0, 1) * 255).astype(np.uint8))
        return Answer(np.stack(labels), np.stack(scores))

    return run


def fitted(sample: Sample, network: ForeignNetwork) -> Sample:
    """Return a sample in the height and width that the file insists on, cut or reflected at its edges."""
    height, width = (
        declared or found for declared, found in zip(network.sizes[1:], sample.slices.shape[1:], strict=True)
    )
    rows, columns = (
        reflected(0, size, length) for size, length in zip((height, width), sample.slices.shape[1:], strict=True)
    )
    slices = np.ascontiguousarray(sample.slices[:, rows[:, None], columns])
    return replace(sample, slices=slices)


def _normalised(sample: Sample, description: ForeignDescription) -> NDArray[np.float32]:
    mean, rstd = sample.mean[:, None, None], sample.rstd[:, None, None]
    if description.normalise == "volume":
        image = (sample.slices - mean) * rstd
    else:
        image = np.where(rstd < 0, 2 * mean - sample.slices, sample.slices)
    return (image * np.float32(description.scale) + np.float32(description.offset)).astype(np.float32)


def _likelihoods(
    answer: NDArray[np.float64], description: ForeignDescription, probabilities: bool
) -> NDArray[np.float64]:
    """Return the probability of every class, background first, of one pixel grid ``(channels, h, w)``."""
    if not probabilities and description.activation == "softmax":
        powers = np.exp(answer - answer.max(axis=0))
        answer = powers / powers.sum(axis=0)
    elif not probabilities:
        answer = 1 / (1 + np.exp(-answer))
    background = description.background
    if background is None:
        return np.concatenate([1 - answer.max(axis=0, keepdims=True), answer])
    return np.concatenate([answer[background : background + 1], np.delete(answer, background, axis=0)])


def _cannot_run(path: Path, error: Exception) -> BundleError:
    return BundleError(
        f"{path}: expected a network that ONNX Runtime {onnxruntime.__version__} can run, found that it cannot "
        f"({describe_error(error)}); export it again with free batch, height and width and standard operators"
    )

"""The parity gate: an exported graph has to answer as the network that was trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from tomoscribe.engine.errors import BundleError
from tomoscribe.export.graph import INPUTS, OUTPUTS
from tomoscribe.train.unet import UNet

__all__ = ["LABELS_EQUAL", "SCORE_DIFFERENCE", "ParityError", "measure_parity"]

LABELS_EQUAL = 0.9999
SCORE_DIFFERENCE = 1
_SIZES = ((1, 4, 4), (2, 2, 7), (3, 9, 5))  # slices, rows and columns; the latter two in tile multiples
_MEAN, _DEVIATION = 137.0, 23.0


class ParityError(BundleError):
    """An exported graph that does not answer as the network it was made from."""

    exit_status = 1


def measure_parity(network: UNet, artifact: Path) -> dict[str, Any]:
    """Compare a graph in ONNX Runtime with its network in PyTorch FP32 on synthetic slices of several sizes.

    PyTorch's side uses its own softmax, argmax and rounding, not the graph's formulation of them.

    Args:
        network: the U-Net, in evaluation mode, on the CPU.
        artifact: the ONNX file.

    Returns:
        The figures as they stand in ``model.json``: the share of labels that are equal, the largest difference of a
        score, on how many pixels, with which versions.

    Raises:
        ParityError: ONNX Runtime cannot run the file, fewer than 99.99 % of the labels are equal, or a score differs
            by more than 1 of 255.
    """
    equal = pixels = difference = 0
    for number, (count, rows, columns) in enumerate(_SIZES):
        multiple = network.configuration.tile_multiple
        shape = (count + 2 * network.configuration.context, rows * multiple, columns * multiple)
        slices = _synthetic_slices(shape, seed=number)
        mean = np.full(len(slices), _MEAN, np.float32)
        rstd = np.full(len(slices), (-1) ** number / _DEVIATION, np.float32)  # the second has inverted contrast
        labels, scores = _onnxruntime(artifact, slices, mean, rstd)
        expected_labels, expected_scores = _pytorch(network, slices, mean, rstd)
        if labels.shape != expected_labels.shape or scores.shape != expected_scores.shape:
            raise ParityError(f"{artifact}: expected labels of {expected_labels.shape}, found {labels.shape}")
        equal += int(np.count_nonzero(labels == expected_labels))
        pixels += labels.size
        difference = max(difference, int(np.abs(scores.astype(np.int16) - expected_scores).max()))
    if equal < LABELS_EQUAL * pixels or difference > SCORE_DIFFERENCE:
        raise ParityError(
            f"{artifact.name}: expected PyTorch's labels on {LABELS_EQUAL:.2%} of the pixels and its scores within "
            f"{SCORE_DIFFERENCE}, found {equal / pixels:.4%} and {difference}; no bundle was written"
        )
    return {
        "labels_equal": equal / pixels,
        "largest_score_difference": difference,
        "pixels": pixels,
        "reference": f"PyTorch {torch.__version__}, FP32",
        "runtime": f"ONNX Runtime {onnxruntime.__version__}, CPU",
    }


def _onnxruntime(artifact: Path, *inputs: NDArray[np.float32]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    try:
        session = onnxruntime.InferenceSession(artifact, providers=["CPUExecutionProvider"])
        labels, scores = session.run(list(OUTPUTS), dict(zip(INPUTS, inputs, strict=True)))
    except Exception as error:  # ONNX Runtime has a dozen classes of its own without a common base
        reason = str(error).splitlines()[0]
        raise ParityError(f"{artifact.name}: ONNX Runtime cannot run the exported graph ({reason})") from error
    return labels, scores


@torch.inference_mode()
def _pytorch(
    network: UNet, slices: NDArray[np.float32], mean: NDArray[np.float32], rstd: NDArray[np.float32]
) -> tuple[NDArray[np.uint8], NDArray[np.int16]]:
    normalised = (slices - mean[:, None, None]) * rstd[:, None, None]
    width = 2 * network.configuration.context + 1
    windows = np.stack([normalised[first : first + width] for first in range(len(slices) - width + 1)])
    logits = network(torch.from_numpy(windows))
    scores = torch.round(torch.softmax(logits, dim=1) * 255)
    return logits.argmax(dim=1).numpy().astype(np.uint8), scores.numpy().astype(np.int16)


def _synthetic_slices(shape: tuple[int, int, int], seed: int) -> NDArray[np.float32]:
    """Return noise over dark blobs and lines of several sizes, so that a trained network finds its classes in it."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[1], : shape[2]].astype(np.float32)
    density = np.zeros(shape[1:], np.float32)
    for radius in (3.0, 6.0, 12.0, 24.0):
        for _ in range(3):
            centre_y, centre_x = random.uniform(0, shape[1]), random.uniform(0, shape[2])
            distance = np.hypot(y - centre_y, x - centre_x)
            density -= np.exp(-((distance / radius) ** 2) / 2)  # a blob
            density -= np.exp(-(((distance - 2 * radius) / 2) ** 2) / 2)  # a ring around it, as membranes are
    values = 2 * density + random.standard_normal(shape)
    return (_MEAN + _DEVIATION * values).astype(np.float32)

"""FP16 as a GPU computes it, in PyTorch on a CPU.

Where ONNX Runtime's CPU provider has no FP16 convolution it runs it in FP32 and need not round what lies between two of
them, so that an activation beyond FP16's 65504 may go unseen. A GPU multiplies FP16 numbers, adds them up in FP32 and
rounds what a layer gives to FP16 (NVIDIA, "Train With Mixed Precision").
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tomoscribe.export.augmentation_reference import augmented_runner
from tomoscribe.export.graph import DeployedNetwork, fold_batch_normalisation
from tomoscribe.export.parity import Answer, Runner, Sample
from tomoscribe.train.unet import UNet

__all__ = ["half_runner"]


def half_runner(network: UNet, test_time_augmentation: str = "none") -> Runner:
    """Return a network's answers with its weights, and what every convolution takes and gives, rounded to FP16.

    Args:
        network: the U-Net, in FP32, in evaluation mode, on the CPU; it is copied.
        test_time_augmentation: what they are the mean over; see `tomoscribe.engine.bundle.ModelSpecification`.
    """
    rounded = fold_batch_normalisation(network)
    with torch.no_grad():
        for parameter in rounded.parameters():
            parameter.copy_(_rounded(parameter))
    rounded.register_forward_pre_hook(lambda _, inputs: tuple(map(_rounded, inputs)))
    for layer in rounded.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            layer.register_forward_hook(_round_output)
    if test_time_augmentation != "none":
        return augmented_runner(rounded, test_time_augmentation)
    deployed = DeployedNetwork(rounded).eval()

    @torch.inference_mode()
    def run(sample: Sample) -> Answer:
        inputs = (torch.from_numpy(values) for values in (sample.slices, sample.mean, sample.rstd))
        labels, scores = (output.numpy().astype(np.uint8) for output in deployed(*inputs))
        return Answer(labels, scores)

    return run


def _round_output(_layer: nn.Module, _inputs: Any, output: Tensor) -> Tensor:  # noqa: ANN401 - torch's own signature
    return _rounded(output)


def _rounded(values: Tensor) -> Tensor:
    return values.half().float()

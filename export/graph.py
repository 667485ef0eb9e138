"""The graph contract: everything that runs on the device, as one ONNX graph.

Inputs: ``slices`` ``(n + 2k, h, w)`` float32 in the file's own units; ``mean`` and ``rstd`` ``(n + 2k,)`` float32.
Outputs: ``labels`` ``(n, h, w)`` uint8; ``scores`` ``(n, classes, h, w)`` uint8, probability × 255 rounded.
n, h and w are free; h and w are multiples of the network's tile multiple.
"""

from __future__ import annotations

import copy
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import onnx
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn.utils.fusion import fuse_conv_bn_eval

from tomoscribe.engine.bundle import ModelSpecification
from tomoscribe.train.unet import UNet

__all__ = ["INPUTS", "METADATA_KEY", "OPSET", "OUTPUTS", "DeployedNetwork", "fold_batch_normalisation", "to_onnx"]

INPUTS = ("slices", "mean", "rstd")
OUTPUTS = ("labels", "scores")
METADATA_KEY = "tomoscribe.specification"
OPSET = 18  # read by ONNX Runtime since 1.14 and by TensorRT since 8.6


class DeployedNetwork(nn.Module):
    """A trained network between raw slices and labels.

    Slices are normalised, and logits turned into labels and scores, in FP32; the network works in `dtype`.
    """

    def __init__(self, network: UNet, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.network = network.to(dtype)
        self._dtype = dtype
        self._context = network.configuration.context

    def forward(self, slices: Tensor, mean: Tensor, rstd: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``labels`` and ``scores``, as the module says.

        Labels are the argmax of the logits, the first of equals. The softmax is spelled out, and rounding is a cast
        of p × 255 + ½, because ONNX Runtime's Softmax over the class axis transposes the logits.
        """
        normalised = (slices - mean[:, None, None]) * rstd[:, None, None]
        count = slices.shape[0] - 2 * self._context
        seen = [normalised[offset : offset + count] for offset in range(2 * self._context + 1)]
        logits: Tensor = self.network(torch.stack(seen, dim=1).to(self._dtype)).float()
        powers = torch.exp(logits - logits.amax(dim=1, keepdim=True))
        scores = powers * (255.0 / powers.sum(dim=1, keepdim=True)) + 0.5
        return logits.argmax(dim=1).to(torch.uint8), scores.to(torch.uint8)


def fold_batch_normalisation(network: UNet) -> UNet:
    """Return a copy of a network whose convolutions do what the batch normalisations after them did.

    Folding comes before rounding to FP16: a running variance may be larger than any FP16 number.

    Args:
        network: the U-Net, in evaluation mode, in FP32.
    """
    folded = copy.deepcopy(network)
    for level in folded.modules():
        if isinstance(level, nn.Sequential):
            for index, (layer, following) in enumerate(pairwise(list(level))):
                if isinstance(layer, nn.Conv2d) and isinstance(following, nn.BatchNorm2d):
                    level[index], level[index + 1] = fuse_conv_bn_eval(layer, following), nn.Identity()
    return folded


def to_onnx(network: UNet, specification: ModelSpecification, dtype: torch.dtype = torch.float32) -> onnx.ModelProto:
    """Return a network in the graph contract, batch normalisation folded into the convolutions.

    The specification is in the model's ``metadata_props``; traces of where and how it was exported are not.

    Args:
        network: the U-Net, in evaluation mode, on the CPU.
        specification: what the engine has to know of it.
        dtype: what the network works in, ``torch.float32`` or ``torch.float16``; inputs and outputs are the same.

    Raises:
        onnx.checker.ValidationError: the exporter wrote a graph that is not valid.
    """
    context, multiple = network.configuration.context, network.configuration.tile_multiple
    count = Dim("slices", min=2 * context + 1)
    height, width = (multiple * Dim(name, min=1) for name in ("height_multiples", "width_multiples"))
    # Sizes above one and unlike each other, so that the exporter takes none of them for a constant.
    slices = torch.zeros(2 * context + 2, 2 * multiple, 3 * multiple)
    mean, rstd = torch.zeros(len(slices)), torch.ones(len(slices))
    with _quiet_exporter():
        program = torch.onnx.export(
            DeployedNetwork(fold_batch_normalisation(network), dtype).eval(),
            (slices, mean, rstd),
            dynamo=True,
            opset_version=OPSET,
            input_names=INPUTS,
            output_names=OUTPUTS,
            dynamic_shapes=({0: count, 1: height, 2: width}, {0: count}, {0: count}),
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    _strip(model)
    onnx.helper.set_model_props(model, {METADATA_KEY: json.dumps(specification.to_json(), ensure_ascii=False)})
    onnx.checker.check_model(model, full_check=True)  # with strict type inference
    return model


def _strip(model: onnx.ModelProto) -> None:
    """Remove the exporter's notes on every node: source lines, and paths of the machine that exported."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.initializer, *graph.value_info, *graph.input, *graph.output):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Keep the exporter's remarks on its own internals off the terminal."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)

"""Bundles with a small U-Net in the graph contract, whose float32 arithmetic is exact, and what runs them on a CPU."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tomoscribe.engine.backends import BACKENDS
from tomoscribe.engine.bundle import Artifact, Bundle, ModelSpecification
from tomoscribe.engine.class_map import DEFAULT_CLASS_MAP

CHANNELS = 3
CLASSES = len(DEFAULT_CLASS_MAP) + 1


@dataclass
class GraphWriter:
    """Adds nodes one after the other and names what they make."""

    random: np.random.Generator

    def __post_init__(self):
        self.nodes, self.constants = [], []

    def constant(self, values):
        name = f"constant{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def add(self, operator, *inputs, output=None, **attributes):
        output = output or f"value{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def weights(self, *shape):
        return self.constant(self.random.integers(-2, 3, shape).astype(np.float32))

    def convolve(self, image, inputs, outputs=CHANNELS, size=3):
        summed = self.add("Conv", image, self.weights(outputs, inputs, size, size), pads=[size // 2] * 4)
        # Clipped, every sum of products of whole numbers stays far below 2^24 and exact in any order.
        low, high = (self.constant(np.float32(bound)) for bound in (0, 255))
        return self.add("Clip", summed, low, high)

    def level(self, image, inputs, depth):
        image = self.convolve(image, inputs)
        if depth == 0:
            return image
        pooled = self.add("MaxPool", image, kernel_shape=[2, 2], strides=[2, 2])
        below = self.level(pooled, CHANNELS, depth - 1)
        above = self.add("ConvTranspose", below, self.weights(CHANNELS, CHANNELS, 2, 2), strides=[2, 2])
        return self.convolve(self.add("Concat", image, above, axis=1), 2 * CHANNELS)


def integer_unet(depth, context, seed):
    """Return an ONNX model in the graph contract; labels and scores are whole-number functions of whole numbers."""
    graph = GraphWriter(np.random.default_rng(seed))
    axes = graph.constant(np.array([1, 2]))
    mean, rstd = (graph.add("Unsqueeze", name, axes) for name in ("mean", "rstd"))
    image = graph.add("Mul", graph.add("Sub", "slices", mean), rstd)
    ends = [*range(-2 * context, 0), np.iinfo(np.int64).max]
    runs = [
        graph.add("Slice", image, graph.constant(np.array([start])), graph.constant(np.array([end])))
        for start, end in enumerate(ends)
    ]
    channel = graph.constant(np.array([1]))
    stacked = graph.add("Concat", *(graph.add("Unsqueeze", values, channel) for values in runs), axis=1)
    net = graph.level(stacked, 2 * context + 1, depth)
    scores = graph.convolve(net, CHANNELS, CLASSES, size=1)
    graph.add("Cast", scores, to=TensorProto.UINT8, output="scores")
    graph.add("Cast", graph.add("ArgMax", scores, axis=1, keepdims=0), to=TensorProto.UINT8, output="labels")
    number, rows, columns = "n", "h", "w"
    inputs = [
        helper.make_tensor_value_info("slices", TensorProto.FLOAT, ["m", rows, columns]),
        helper.make_tensor_value_info("mean", TensorProto.FLOAT, ["m"]),
        helper.make_tensor_value_info("rstd", TensorProto.FLOAT, ["m"]),
    ]
    outputs = [
        helper.make_tensor_value_info("labels", TensorProto.UINT8, [number, rows, columns]),
        helper.make_tensor_value_info("scores", TensorProto.UINT8, [number, CLASSES, rows, columns]),
    ]
    made = helper.make_model(
        helper.make_graph(graph.nodes, "integer_unet", inputs, outputs, graph.constants),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )
    onnx.checker.check_model(made, full_check=True)
    return made


def reach(level, depth, pixels):
    """How far a contribution that begins on the coarsest grid depends on its surroundings, level by level."""
    if level == depth:
        return pixels + 1
    below = reach(level + 1, depth, math.ceil((pixels + 1) / 2))
    return max(pixels + 1, 2 * below) + 1


@pytest.fixture(autouse=True)
def trials(tmp_path, monkeypatch):
    """The file that trials are kept in, away from the user's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tomoscribe" / "trials.json"


@pytest.fixture(params=["onnxruntime", "openvino"])
def build(request):
    """A backend on the CPU, to be called with a bundle."""
    pytest.importorskip(request.param)
    return BACKENDS[request.param]


@pytest.fixture
def make_bundle(tmp_path):
    """Write a model to a bundle; without one, an `integer_unet` of the depth and context.

    Further artifacts are networks of the same size with other weights: what runs them answers otherwise.
    """

    def make(model=None, *, depth=2, context=1, seed=0, others=(), parity=None):
        artifacts = {}
        for number, artifact in enumerate(["fp32", *others]):
            path = tmp_path / f"model.{artifact}.onnx"
            written = integer_unet(depth, context, seed + number) if model is None or number else model
            path.write_bytes(written.SerializeToString())
            artifacts[artifact] = Artifact.of(path)
        specification = ModelSpecification(
            name="integers",
            class_map=DEFAULT_CLASS_MAP,
            context=context,
            tile_multiple=2**depth,
            halo=reach(0, depth, 0),
            voxel_size=(1.0, 20.0),
        )
        return Bundle(tmp_path, specification, artifacts, parity=parity or {})

    return make

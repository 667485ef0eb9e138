"""What resampling a slice costs one core, by several means, beside what the model's work on it costs."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import numpy as np
from measuring import interleaved
from numpy.typing import NDArray
from rescaling_filters import area_weights

from tomoscribe.engine import Bundle, Geometry
from tomoscribe.engine.backends import choose_backend
from tomoscribe.engine.backends.contract import SlotShape
from tomoscribe.engine.cores import usable_cores
from tomoscribe.engine.resampling import ScoreResampler, resample, resampling_weights
from tomoscribe.engine.rescaling import Rescaling

__all__ = ["SEEN", "Cost", "measure_costs", "onnx_resize"]

SEEN = 512
"""About the height and width, in pixels, of the slices that the model sees."""

Image = NDArray[np.float32]


@dataclass(frozen=True)
class Cost:
    """What a slice costs that is resampled for the model.

    Attributes:
        voxel_size: of the tomogram, in Å.
        side: height and width of its slices.
        seen: the same of what the model sees.
        seconds: of one core, by what is done.
        model: seconds of all cores together that the model takes for what it sees.
    """

    voxel_size: float
    side: int
    seen: int
    seconds: dict[str, float]
    model: float

    @property
    def share(self) -> float:
        """Of all the work on a slice, that is resampling: its intensities on the way in, its scores on the way out."""
        resampling = self.seconds["reader"] + self.seconds["scores back"]
        return resampling / (resampling + self.model)


def measure_costs(bundle: Bundle, backend: str, voxel_sizes: list[float], rounds: int) -> list[Cost]:
    """Return the costs for tomograms of several voxel sizes, which the model sees in about `SEEN` pixels a side."""
    specification = bundle.specification
    cases: dict[float, Rescaling] = {}
    for size in voxel_sizes:
        probe = Rescaling.of(Geometry((1, SEEN, SEEN), (size, size, size)), specification)
        if probe is not None:
            side = round(SEEN / probe.scale[0])
            found = Rescaling.of(Geometry((1, side, side), (size, size, size)), specification)
            assert found is not None
            cases[size] = found
    runs: dict[str, Callable[[], float]] = {"model": _model_run(bundle, backend)}
    for size, rescaling in cases.items():
        for name, work in _ways(rescaling, specification.classes).items():
            work()
            runs[f"{size:g} {name}"] = partial(_seconds, work)
    figures = {name: median(values) for name, values in interleaved(runs, rounds).items()}
    costs = []
    for size, rescaling in cases.items():
        start = f"{size:g} "
        seconds = {name.removeprefix(start): value for name, value in figures.items() if name.startswith(start)}
        seen = rescaling.shape[0]
        model = figures["model"] * seen**2 / SEEN**2
        costs.append(Cost(size, rescaling.source_shape[0], seen, seconds, model))
    return costs


def onnx_resize(side: int, seen: int) -> Callable[[Image], Image]:
    """Return the same linear filter as a graph for one thread of ONNX Runtime: Resize of ONNX's opset 18."""
    import onnxruntime
    from onnx import TensorProto, helper

    shapes = {"slice": [1, 1, side, side], "seen": [1, 1, seen, seen]}
    values = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()}
    node = helper.make_node(
        "Resize", ["slice", "", "", "size"], ["seen"], mode="linear", antialias=1, exclude_outside=1
    )
    size = helper.make_tensor("size", TensorProto.INT64, [4], shapes["seen"])
    graph = helper.make_graph([node], "resize", [values["slice"]], [values["seen"]], [size])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def run(image: Image) -> Image:
        resized: Image = session.run(None, {"slice": image[np.newaxis, np.newaxis]})[0][0, 0]
        return resized

    return run


def _ways(rescaling: Rescaling, classes: int) -> dict[str, Callable[[], Any]]:
    """Return what is timed, by name."""
    from PIL import Image as Picture
    from scipy import ndimage

    side, seen = rescaling.source_shape[0], rescaling.shape[0]
    random = np.random.default_rng(0)
    image = random.standard_normal((side, side), np.float32)
    linear, area = resampling_weights(side, seen), area_weights(side, seen)
    graph, resampler = onnx_resize(side, seen), ScoreResampler(rescaling.shape, rescaling.source_shape, classes)
    scores = random.integers(0, 255, (classes, seen, seen), np.uint8)
    labels = scores.argmax(axis=0).astype(np.uint8)
    return {
        "reader": lambda: resample(image, linear, linear),
        "by area": lambda: resample(image, area, area),
        "ONNX Runtime": lambda: graph(image),
        "Pillow": lambda: Picture.fromarray(image).resize((seen, seen), Picture.Resampling.BILINEAR),
        "scipy.ndimage.zoom": lambda: ndimage.zoom(image, seen / side, order=1, grid_mode=True, mode="nearest"),
        "scores back": lambda: resampler.resample(labels, scores),
    }


def _model_run(bundle: Bundle, name: str) -> Callable[[], float]:
    """Return what labels a slice on every stream, and says how many seconds of all cores together each took."""
    backend, _ = choose_backend(name, bundle)
    specification = bundle.specification
    slots = backend.allocate(SlotShape(1, specification.context, SEEN, SEEN, specification.classes), backend.streams)
    for slot in slots:
        slot.count = 1
        slot.slices[:] = np.random.default_rng(0).standard_normal(slot.slices.shape, np.float32)

    def label() -> None:
        for slot in slots:
            backend.submit(slot)
        for slot in slots:
            backend.wait(slot)

    label()
    return lambda: _seconds(label) * usable_cores() / len(slots)


def _seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start

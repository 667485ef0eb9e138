"""Networks of others, in ONNX's text form: small enough to know every answer."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tomoscribe.export import foreign
from tomoscribe.export.foreign_description import ForeignDescription
from tomoscribe.export.parity import Sample
from tomoscribe.export.samples import SampleSets

IMAGE, ANSWER = "float[n, 1, h, w] image", "float[n, 3, h, w] answer"


@pytest.fixture
def onnx_file(tmp_path):
    """Write a network of some steps; its weights are given by name."""

    def write(*steps, image=IMAGE, answer=ANSWER, opset=18, ir_version=8, name="network.onnx", **weights):
        body = "\n".join(steps)
        model = onnx.parser.parse_model(
            f'<ir_version: {ir_version}, opset_import: ["" : {opset}]> net ({image}) => ({answer}) {{ {body} }}'
        )
        model.graph.initializer.extend(numpy_helper.from_array(np.asarray(w), key) for key, w in weights.items())
        model.producer_name, model.producer_version = "somebody", "3.1"
        onnx.save(model, tmp_path / name)
        return tmp_path / name

    return write


@pytest.fixture
def linear_file(onnx_file):
    """A network that answers every pixel by itself: weights ``(channels, c)`` times it, and a bias ``(channels,)``."""

    def write(weights, bias, *more, dtype=np.float32, **options):
        weights, bias = np.array(weights, dtype), np.array(bias, dtype)
        channels, inputs = weights.shape
        kind = {np.float32: "float", np.float16: "float16"}[dtype]
        options.setdefault("image", f"{kind}[n, {inputs}, h, w] image")
        options.setdefault("answer", f"{kind}[n, {channels}, h, w] answer")
        result = "before_last" if more else "answer"
        steps = (f"{result} = Conv (image, weights, bias)", *more)
        return onnx_file(*steps, weights=weights[:, :, None, None], bias=bias, **options)

    return write


@pytest.fixture
def describe():
    """Describe a network with three channels, unless told otherwise."""

    def describe(channels="background,ribosome,membrane", **more):
        return ForeignDescription("theirs", tuple(channels.split(",")), (10.0, 20.0), **more)

    return describe


@pytest.fixture
def noise(monkeypatch):
    """Compare on noise, of which the second sample has its contrast turned over: phantoms take long to make."""

    def gather(specification, tomograms, *, quantised):
        assert (list(tomograms), quantised) == ([], False)
        random, samples = np.random.default_rng(0), []
        side = -(-48 // specification.tile_multiple) * specification.tile_multiple
        for number, count in enumerate((1, 3)):
            depth = count + 2 * specification.context
            values = random.standard_normal((depth, side, side + specification.tile_multiple))
            mean, rstd = np.full(depth, 100, np.float32), np.full(depth, (-1) ** number / 20, np.float32)
            samples.append(Sample(f"noise {number}", (100 + 20 * values).astype(np.float32), mean, rstd))
        return SampleSets(samples)

    monkeypatch.setattr(foreign, "gather_samples", gather)

"""Bundles of networks whose every answer is known: normalisation, context, softmax, sigmoid, and what is refused."""

from __future__ import annotations

import hashlib
import json
import math

import mrcfile
import numpy as np
import onnx
import onnxruntime
import pytest

from tomoscribe.engine import segment
from tomoscribe.engine.bundle import Bundle
from tomoscribe.engine.errors import BundleError, OutputExistsError, ParameterError
from tomoscribe.export import ParityError, foreign
from tomoscribe.export.foreign import bundle_from_onnx
from tomoscribe.export.foreign_wrapping import wrap
from tomoscribe.export.graph import METADATA_KEY

pytestmark = pytest.mark.usefixtures("noise")

WEIGHTS, BIAS = [[0.3], [-2.0], [1.7]], [0.2, -0.5, 0.1]


def run(bundle, slices, mean=0.0, rstd=1.0, precision="fp32"):
    session = onnxruntime.InferenceSession(bundle.artifact_path(precision), providers=["CPUExecutionProvider"])
    count = len(slices)
    feed = {
        "slices": np.asarray(slices, np.float32),
        "mean": np.broadcast_to(np.float32(mean), count).copy(),
        "rstd": np.broadcast_to(np.float32(rstd), count).copy(),
    }
    return session.run(["labels", "scores"], feed)


def softmax(values):
    powers = [math.exp(value) for value in values]
    return [power / sum(powers) for power in powers]


def sigmoid(values):
    return [1 / (1 + math.exp(-value)) for value in values]


def check(bundle, expected):
    """Compare with the probabilities of background and classes that a function gives for the value of a pixel."""
    values = np.linspace(-3.05, 3.1, 48).reshape(1, 6, 8)  # none of them gives two classes the same probability
    labels, scores = run(bundle, values)
    assert labels.shape == (1, 6, 8)
    seen = set()
    for (row, column), value in np.ndenumerate(np.float32(values[0])):
        probabilities = expected(float(value))
        seen.add(probabilities.index(max(probabilities)))
        assert labels[0, row, column] == probabilities.index(max(probabilities))
        np.testing.assert_allclose(scores[0, :, row, column], np.multiply(probabilities, 255), atol=0.501)
    assert len(seen) == len(probabilities)


def logits(value):
    return [weight * value + bias for (weight,), bias in zip(WEIGHTS, BIAS, strict=True)]


@pytest.mark.parametrize("last", [(), ("answer = Softmax <axis = 1> (before_last)",)], ids=["logits", "probabilities"])
@pytest.mark.parametrize("background", [0, 1, 2])
def test_the_channels_of_a_softmax_exclude_each_other(linear_file, describe, tmp_path, last, background):
    channels = ["ribosome", "membrane"]
    channels.insert(background, "background")
    bundle = bundle_from_onnx(linear_file(WEIGHTS, BIAS, *last), tmp_path / "b", describe(",".join(channels)))

    def expected(value):
        probabilities = softmax(logits(value))
        return [probabilities.pop(background), *probabilities]

    check(bundle, expected)
    assert [c.name for c in bundle.specification.class_map.classes] == ["ribosome", "membrane"]
    assert bundle.training["answers"] == ("probabilities" if last else "logits")


@pytest.mark.parametrize("last", [(), ("answer = Sigmoid (before_last)",)], ids=["logits", "probabilities"])
def test_the_channels_of_a_sigmoid_may_all_claim_a_pixel(linear_file, describe, tmp_path, last):
    weights, bias = [[2.0], [1.0]], [-1.0, 0.5]  # of 0.5 and more both are likely; the first is likelier from 1.5 on
    bundle = bundle_from_onnx(
        linear_file(weights, bias, *last), tmp_path / "b", describe("ribosome,membrane", activation="sigmoid")
    )

    def expected(value):
        first, second = sigmoid([2 * value - 1, value + 0.5])
        return [1 - max(first, second), first, second]

    check(bundle, expected)
    _, scores = run(bundle, np.full((1, 1, 1), 3.0))
    assert scores.sum() > 400  # both keep theirs


def test_a_sigmoid_with_a_channel_for_background_gives_the_likeliest(linear_file, describe, tmp_path):
    channels = describe("ribosome,membrane,background", activation="sigmoid")
    bundle = bundle_from_onnx(linear_file(WEIGHTS, BIAS), tmp_path / "b", channels)

    def expected(value):
        first, second, background = sigmoid(logits(value))
        return [background, first, second]

    check(bundle, expected)


def test_certain_answers_reach_both_ends(linear_file, describe, tmp_path):
    path = linear_file([[1.0], [0.0], [-1.0]], [0.0] * 3)
    labels, scores = run(bundle_from_onnx(path, tmp_path / "b", describe()), [[[500.0, -500.0, 0.0]]])
    assert labels[0, 0].tolist() == [0, 2, 0]  # the first of equals
    assert scores[0, :, 0].T.tolist() == [[255, 0, 0], [0, 0, 255], [85, 85, 85]]
    path = linear_file([[3.0], [2.0]], [0.0] * 2)
    channels = describe("a,b", activation="sigmoid")
    labels, scores = run(bundle_from_onnx(path, tmp_path / "c", channels), [[[500.0, -500.0]]])
    assert labels[0, 0].tolist() == [1, 0]  # both are certain in float32; the logits still say which more so
    assert scores[0, :, 0].T.tolist() == [[0, 255, 255], [255, 0, 0]]


def test_probabilities_a_little_outside_are_cut_and_not_wrapped_around(linear_file, describe, tmp_path):
    path = linear_file([[0.0], [0.0]], [1.004, -0.004])
    bundle = bundle_from_onnx(path, tmp_path / "b", describe("background,a", answers="probabilities"))
    assert run(bundle, np.zeros((1, 2, 2)))[1][0, :, 0, 0].tolist() == [255, 0]


@pytest.mark.parametrize(
    ("normalise", "scale", "offset"),
    [("volume", 1.0, 0.0), ("volume", 1.0, 0.3), ("volume", 0.01, 2e-2), ("none", 1.0, 0.0), ("none", 0.01, -1.25)],
)
@pytest.mark.parametrize("rstd", [0.05, -0.05])
def test_intensities_come_as_the_network_expects_them(linear_file, describe, tmp_path, normalise, scale, offset, rstd):
    size = {"volume": 0.5, "none": 0.004}[normalise] / scale
    path = linear_file([[size]], [-0.4], answer="float[n, 1, h, w] answer")
    description = describe("a", activation="sigmoid", answers="logits", normalise=normalise, scale=scale, offset=offset)
    bundle = bundle_from_onnx(path, tmp_path / "b", description)
    assert bundle.specification.normalisation == normalise
    values = np.linspace(60, 190, 24).reshape(2, 3, 4)
    mean = np.array([100.0, 130.0])
    _, scores = run(bundle, values, mean, rstd)
    if normalise == "volume":
        image = (values - mean[:, None, None]) * rstd
    else:
        image = values if rstd > 0 else 2 * mean[:, None, None] - values
    expected = 255 / (1 + np.exp(-(size * (image * scale + offset) - 0.4)))
    np.testing.assert_allclose(scores[:, 1], expected, atol=0.52)
    assert np.ptp(scores[:, 1].astype(int)) > 15


@pytest.mark.parametrize("channels", [3, 5])
def test_neighbouring_slices_are_the_channels_in_their_order(linear_file, describe, tmp_path, channels):
    weights = np.linspace(0.1, 1.0, channels) ** 2
    path = linear_file([weights], [-0.3], answer="float[n, 1, h, w] answer")
    description = describe("a", activation="sigmoid", answers="logits", context=channels // 2)
    bundle = bundle_from_onnx(path, tmp_path / "b", description)
    assert bundle.specification.context == channels // 2
    values = np.random.default_rng(0).standard_normal((channels + 2, 2, 3))
    _, scores = run(bundle, values)
    windows = np.stack([values[first : first + channels] for first in range(3)])
    expected = 255 / (1 + np.exp(0.3 - np.einsum("ncyx,c->nyx", windows, weights)))
    np.testing.assert_allclose(scores[:, 1], expected, atol=0.502)


@pytest.mark.parametrize("channels", [2, 3])
def test_without_context_the_slice_is_in_every_channel(linear_file, describe, tmp_path, channels):
    path = linear_file([[0.5] * channels], [0.1], answer="float[n, 1, h, w] answer")
    description = describe("a", activation="sigmoid", answers="logits", context=0)
    bundle = bundle_from_onnx(path, tmp_path / "b", description)
    values = np.random.default_rng(0).standard_normal((2, 2, 3))
    expected = 255 / (1 + np.exp(-0.5 * channels * values - 0.1))
    np.testing.assert_allclose(run(bundle, values)[1][:, 1], expected, atol=0.502)


def test_the_bundle_says_where_it_comes_from(linear_file, describe, tmp_path):
    path = linear_file(WEIGHTS, BIAS, opset=13)
    bundle = bundle_from_onnx(path, tmp_path / "new" / "b", describe(halo=24, tile_multiple=8, polarity="bright"))
    assert Bundle.load(tmp_path / "new" / "b") == bundle
    specification = bundle.specification
    assert (specification.name, specification.voxel_size, specification.polarity) == ("theirs", (10.0, 20.0), "bright")
    assert (specification.context, specification.tile_multiple, specification.halo) == (0, 8, 24)
    assert bundle.training["onnx"] == {
        "file": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "producer": "somebody 3.1",
        "opset": 13,
        "output": "answer",
    }
    assert bundle.provenance["opset"] == 18
    assert set(bundle.artifacts) == {"fp32"}
    parity = bundle.parity["fp32"]
    assert (parity["passed"], parity["labels_equal"]) == (True, 1.0)
    assert parity["reference"].startswith(f"{path.name} by hand")
    assert {"parity.json", "parity.md", "parity.fp32.png"} < {file.name for file in bundle.path.iterdir()}
    model = onnx.load(bundle.artifact_path("fp32"))
    onnx.checker.check_model(model, full_check=True)
    assert {entry.key: json.loads(entry.value) for entry in model.metadata_props} == {
        METADATA_KEY: specification.to_json()
    }


def test_a_float16_network_becomes_two_artifacts(linear_file, describe, tmp_path):
    path = linear_file(WEIGHTS, BIAS, dtype=np.float16)
    bundle = bundle_from_onnx(path, tmp_path / "b", describe())
    assert set(bundle.artifacts) == {"fp32", "fp16"}
    assert bundle.parity["fp32"]["passed"]
    assert bundle.parity["fp16"]["passed"]
    assert [name for name in bundle.parity["fp16"]["others"] if "FP32 artifact" in name]
    rounded = [float(np.float16(weight)) for (weight,) in WEIGHTS], [float(np.float16(bias)) for bias in BIAS]

    def expected(value):
        return softmax([weight * value + bias for weight, bias in zip(*rounded, strict=True)])

    check(bundle, expected)
    halves = onnx.load(bundle.artifact_path("fp16"))
    (convolution,) = [node for node in halves.graph.node if node.op_type == "Conv"]
    types = {v.name: v.type.tensor_type.elem_type for v in onnx.shape_inference.infer_shapes(halves).graph.value_info}
    assert {types[convolution.input[0]], types[convolution.output[0]]} == {onnx.TensorProto.FLOAT16}
    labels, scores = run(bundle, np.linspace(-3, 3, 50)[None, None], precision="fp16")
    expected_labels, expected_scores = run(bundle, np.linspace(-3, 3, 50)[None, None])
    np.testing.assert_array_equal(labels, expected_labels)
    assert np.abs(scores.astype(int) - expected_scores).max() <= 1


def test_the_engine_segments_with_it(linear_file, describe, tmp_path):
    bundle = bundle_from_onnx(linear_file(WEIGHTS, BIAS), tmp_path / "b", describe())
    volume = np.random.default_rng(0).normal(50, 9, (4, 40, 30)).astype(np.float32)
    mrcfile.write(tmp_path / "t.mrc", volume, voxel_size=15.0)
    result = segment(tmp_path / "t.mrc", tmp_path / "out", model=bundle, precision="fp32")
    labels = mrcfile.read(result.labels)
    intensity = json.loads(result.sidecar.read_text())["intensity"]
    values = (volume - intensity["mean"]) / intensity["standard_deviation"]
    expected = np.argmax([weight * values + bias for (weight,), bias in zip(WEIGHTS, BIAS, strict=True)], axis=0)
    assert np.mean(labels == expected) > 0.9999


@pytest.mark.parametrize(
    ("channels", "options", "message"),
    [
        ("background,a", {}, r"a name for each of the 3 channels of its output, found 2 \(background, a\)"),
        ("background,a,b", {"answers": "probabilities"}, "expected probabilities of a softmax, found values from"),
        ("background,a,b", {"context": 1}, "expected 3 input channels for a context of 1, found 1"),
        ("background,a,b", {"output": "deep"}, "expected an output 'deep', found answer"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(linear_file, describe, tmp_path, channels, options, message):
    path = linear_file(WEIGHTS, BIAS)
    with pytest.raises((ParameterError, BundleError), match=message) as caught:
        bundle_from_onnx(path, tmp_path / "b", describe(channels, **options))
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_several_input_channels_have_to_be_explained(linear_file, describe, tmp_path):
    for channels, advice in ((3, "give context 1 if .*, context 0 if"), (2, "give context 0 if")):
        with pytest.raises(ParameterError, match=f"its {channels} input channels are; {advice}"):
            bundle_from_onnx(linear_file([[1.0] * channels] * 3, BIAS), tmp_path / "b", describe())


def test_a_softmax_of_probabilities_is_refused(linear_file, describe, tmp_path):
    path = linear_file(WEIGHTS, BIAS, "answer = Softmax <axis = 1> (before_last)")
    with pytest.raises(ParameterError, match=r"expected logits, found .* from 1 to 1; say probabilities"):
        bundle_from_onnx(path, tmp_path / "b", describe(answers="logits"))


def test_logits_of_a_sigmoid_may_be_between_0_and_1(linear_file, describe, tmp_path):
    path = linear_file([[0.0]], [0.6], answer="float[n, 1, h, w] answer")
    bundle = bundle_from_onnx(path, tmp_path / "b", describe("a", activation="sigmoid", answers="logits"))
    assert bundle.training["answers"] == "logits"


@pytest.mark.parametrize("weight", [np.nan, np.inf])
def test_weights_of_no_use_are_refused(linear_file, describe, tmp_path, weight):
    with pytest.raises(BundleError, match="expected finite answers"):
        bundle_from_onnx(linear_file([[weight], [1.0], [1.0]], BIAS), tmp_path / "b", describe())


def test_a_network_without_a_kernel_is_refused(onnx_file, describe, tmp_path):
    steps = ("wide = Cast <to = 16> (image)", "soft = Mish (wide)", "answer = Cast <to = 1> (soft)")
    path = onnx_file(*steps, image="float[n, 3, h, w] image", opset=22, ir_version=10)
    with pytest.raises(BundleError, match="can run, found that it cannot") as caught:
        bundle_from_onnx(path, tmp_path / "b", describe(context=0))
    assert "\n" not in str(caught.value)


@pytest.fixture
def wrong(monkeypatch):
    """Give the wrapped graph another bias."""

    def broken(*arguments, **options):
        model = wrap(*arguments, **options)
        (bias,) = [weights for weights in model.graph.initializer if weights.name.endswith("bias")]
        changed = onnx.numpy_helper.to_array(bias) + np.array([0, 0.5, 0], np.float32)
        bias.CopyFrom(onnx.numpy_helper.from_array(changed.astype(np.float32), bias.name))
        return model

    monkeypatch.setattr(foreign, "wrap", broken)


@pytest.mark.usefixtures("wrong")
def test_a_graph_that_answers_otherwise_is_not_written(linear_file, describe, tmp_path):
    path = linear_file(WEIGHTS, BIAS)
    with pytest.raises(ParityError, match=r"expected equal labels on 99\.99%") as caught:
        bundle_from_onnx(path, tmp_path / "b", describe())
    assert caught.value.exit_status == 1
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    bundle = bundle_from_onnx(path, tmp_path / "b", describe(), allow_drift=True)
    assert bundle.parity["fp32"]["passed"] is False


def test_a_bundle_that_is_there_is_replaced_only_when_asked(linear_file, describe, tmp_path):
    path = linear_file(WEIGHTS, BIAS)
    bundle_from_onnx(path, tmp_path / "b", describe())
    with pytest.raises(OutputExistsError):
        bundle_from_onnx(path, tmp_path / "b", describe())
    assert bundle_from_onnx(path, tmp_path / "b", describe(halo=8), overwrite=True).specification.halo == 8

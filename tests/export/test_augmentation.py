"""Test-time augmentation in the graph: against plain loops in every precision, and what a file and a runtime hold."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from itertools import groupby

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tomoscribe.engine.plans.building import with_float_casts
from tomoscribe.engine.plans.layers import convolution_precisions
from tomoscribe.export.augmentation import augmented
from tomoscribe.export.augmentation_reference import augmented_runner, in_words
from tomoscribe.export.graph import METADATA_KEY
from tomoscribe.export.parity import ParityError, Sample
from tomoscribe.export.quantisation_calibration import RULES, calibrate
from tomoscribe.export.quantisation_graph import OPERATORS, Form, quantised_graph


def mirrored(*axes):
    return lambda values: np.flip(values, axes)


def transposed(*axes):
    return lambda values: np.swapaxes(np.flip(values, axes), -1, -2)


# What a copy is, and what undoes it, written out one by one.
COPIES = {
    "flips": [(mirrored(*axes),) * 2 for axes in ((), (-2,), (-1,), (-2, -1))],
}
COPIES["flips-and-turns"] = [
    *COPIES["flips"],
    (transposed(), transposed()),
    (transposed(-2), lambda values: np.flip(np.swapaxes(values, -1, -2), -2)),
    (transposed(-1), lambda values: np.flip(np.swapaxes(values, -1, -2), -1)),
    (transposed(-2, -1), lambda values: np.flip(np.swapaxes(values, -1, -2), (-2, -1))),
]
KINDS = list(COPIES)
PRECISIONS = ["fp32", "fp16", "int8", "int8-cpu"]


@pytest.fixture(scope="session")
def graphs(exported, samples, tmp_path_factory):
    """Gives the graph of a checkpoint in a precision, without test-time augmentation."""

    def graph(precision, context=1):
        if precision in ("fp32", "fp16"):
            return exported(context, {"fp32": torch.float32, "fp16": torch.float16}[precision])
        form = {"int8": Form.TENSORRT, "int8-cpu": Form.CPU}[precision]
        path = tmp_path_factory.mktemp("fp32") / "fp32.onnx"
        onnx.save(exported(context), path)
        ranges = calibrate(path, samples(context), OPERATORS[form], RULES["minmax"])
        return quantised_graph(exported(context), ranges, form)

    return graph


def run(model, sample):
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feed = {"slices": np.ascontiguousarray(sample.slices), "mean": sample.mean, "rstd": sample.rstd}
    return session.run(["labels", "scores"], feed)


def specified(checkpoint, kind):
    return replace(checkpoint.specification, test_time_augmentation=kind)


@pytest.mark.parametrize("kind", KINDS)
def test_the_written_out_copies_are_all_the_symmetries(kind):
    image = np.arange(6).reshape(2, 3)
    copies = [there(image) for there, _ in COPIES[kind]]
    assert len({copy.shape + tuple(copy.ravel()) for copy in copies}) == len(copies) == {"flips": 4}.get(kind, 8)
    for there, back in COPIES[kind]:
        np.testing.assert_array_equal(back(there(image)), image)


@pytest.mark.parametrize("kind", KINDS)
def test_the_reference_is_the_mean_of_torchs_answers_to_every_copy(checkpoint, samples, kind):
    context = checkpoint.specification.context
    for sample in samples(context):
        normalised = (sample.slices - sample.mean[:, None, None]) * sample.rstd[:, None, None]
        mean = np.zeros((len(sample.slices) - 2 * context, 3, *sample.slices.shape[1:]))
        for z in range(len(mean)):
            for there, back in COPIES[kind]:
                copy = np.ascontiguousarray(there(normalised[z : z + 2 * context + 1]))
                with torch.inference_mode():
                    logits = checkpoint.network(torch.from_numpy(copy)[None])[0]
                mean[z] += back(torch.softmax(logits, dim=0).numpy()) / len(COPIES[kind])
        answer = augmented_runner(checkpoint.network, kind)(sample)
        assert np.abs(answer.scores - 255 * mean).max() < 0.501
        np.testing.assert_array_equal(answer.labels, mean.argmax(axis=1))
        assert len(np.unique(answer.labels)) > 1
        assert (answer.labels.dtype, answer.scores.dtype) == (np.uint8, np.uint8)


def test_a_reference_that_is_not_finite_is_refused(checkpoint, samples):
    sample = samples(checkpoint.specification.context)[0]
    broken = replace(sample, slices=np.full_like(sample.slices, np.nan))
    with pytest.raises(ParityError, match=f"NaN or infinity on {sample.name}"):
        augmented_runner(checkpoint.network, "flips")(broken)


@pytest.mark.parametrize("kind", KINDS)
def test_the_graph_gives_the_references_answer(checkpoint, exported, samples, kind):
    context = checkpoint.specification.context
    model = augmented(exported(context), specified(checkpoint, kind))
    reference = augmented_runner(checkpoint.network, kind)
    for sample in samples(context):  # of which no height is its width
        labels, scores = run(model, sample)
        expected = reference(sample)
        np.testing.assert_array_equal(labels, expected.labels)
        assert np.abs(scores.astype(int) - expected.scores).max() <= 1
        plain_labels, _ = run(exported(context), sample)
        assert (plain_labels != labels).any(), "a test that cannot tell"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_averages_what_it_gives_for_each_copy(graphs, make_specification, samples, precision, kind):
    plain = graphs(precision)
    model = augmented(plain, make_specification(kind))
    for sample in samples(1):
        total = 0.0
        for there, back in COPIES[kind]:
            _, scores = run(plain, replace(sample, slices=there(sample.slices)))
            total = total + back(scores.astype(float))
        mean = total / len(COPIES[kind])
        labels, scores = run(model, sample)
        assert np.abs(scores - mean).max() <= 1  # half of it from rounding each copy, and half from rounding the mean
        ordered = np.sort(mean, axis=1)
        decided = ordered[:, -1] - ordered[:, -2] > 1
        np.testing.assert_array_equal(labels[decided], mean.argmax(axis=1)[decided])
        assert decided.mean() > 0.5


@pytest.fixture(scope="session")
def make_specification(checkpoint_file):
    from tomoscribe.train.checkpoint import load_checkpoint

    return lambda kind: specified(load_checkpoint(checkpoint_file), kind)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_all_copies_share_one_set_of_weights(graphs, make_specification, precision):
    plain = graphs(precision)
    model = augmented(plain, make_specification("flips-and-turns"))
    tensors, before = ({tensor.name: tensor for tensor in graph.graph.initializer} for graph in (model, plain))
    assert before.items() <= tensors.items()
    assert sum(math.prod(tensors[name].dims) for name in tensors.keys() - before.keys()) == 5
    nodes, once = (Counter(node.op_type for node in graph.graph.node) for graph in (model, plain))
    for operator in ("Conv", "ConvTranspose", "QuantizeLinear", "DequantizeLinear"):
        assert nodes[operator] == 8 * once[operator]
    assert nodes["ArgMax"] == 1
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    assert all(names)
    # What a copy needs is done with before the next begins.
    copies = [node.name.partition("/")[2] for node in model.graph.node if node.op_type == "Conv"]
    assert len([copy for copy, _ in groupby(copies)]) == len(set(copies)) == 8
    weights = {node.input[1] for node in plain.graph.node if node.op_type == "Conv"}
    assert {node.input[1].split("/")[0] for node in model.graph.node if node.op_type == "Conv"} == weights


@pytest.mark.parametrize("precision", PRECISIONS)
def test_tensorrt_is_told_the_precision_of_every_copys_convolutions(graphs, make_specification, samples, precision):
    plain, model = graphs(precision), augmented(graphs(precision), make_specification("flips"))
    once, all_copies = (convolution_precisions(graph) for graph in (plain, model))
    assert Counter(all_copies.values()) == {kind: 4 * count for kind, count in Counter(once.values()).items()}
    assert once.items() <= all_copies.items()  # the tile as it is keeps its names
    sample = samples(1)[0]
    for ours, theirs in zip(run(with_float_casts(model), sample), run(model, sample), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_none_changes_nothing_and_no_graph_that_is_given_is_changed(exported, make_specification):
    plain = exported(1)
    before = plain.SerializeToString(deterministic=True)
    assert augmented(plain, make_specification("none")).SerializeToString(deterministic=True) == before
    model = augmented(plain, make_specification("flips"))
    assert plain.SerializeToString(deterministic=True) == before
    (entry,) = model.metadata_props
    assert entry.key == METADATA_KEY
    assert json.loads(entry.value) == make_specification("flips").to_json()
    assert json.loads(entry.value)["test_time_augmentation"] == "flips"
    assert [value.name for value in model.graph.input] == [value.name for value in plain.graph.input]
    assert list(model.graph.output) == list(plain.graph.output)


def one_sided_graph():
    """A graph whose answer to a pixel is that of the pixel to its upper right; whole numbers, exact in float32."""
    return onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["": 18]>
        one_sided (float[m, h, w] slices, float[m] mean, float[m] rstd)
            => (uint8[m, h, w] labels, uint8[m, 2, h, w] scores)
        <float[2, 1, 3, 3] weights = {0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, float[2] bias = {0, 40}> {
            axis = Constant <value_ints = [1]> ()
            image = Unsqueeze (slices, axis)
            answer = Conv <pads = [1, 1, 1, 1]> (image, weights, bias)
            best = ArgMax <axis = 1, keepdims = 0> (answer)
            labels = Cast <to = 2> (best)
            scores = Cast <to = 2> (answer)
        }
    """)


@given(height=st.integers(1, 9), width=st.integers(1, 9), kind=st.sampled_from(KINDS), seed=st.integers(0, 2**32 - 1))
def test_any_shape_is_averaged_exactly_and_the_first_of_equals_wins(make_specification, height, width, kind, seed):
    slices = np.random.default_rng(seed).choice([0, 40, 80, 160], (2, height, width)).astype(np.float32)
    sample = Sample("whole numbers", slices, np.zeros(2, np.float32), np.ones(2, np.float32))
    labels, scores = run(augmented(one_sided_graph(), make_specification(kind)), sample)
    # Under flips the upper right is every diagonal neighbour once, and turns leave the four what they are.
    padded = np.pad(slices, ((0, 0), (1, 1), (1, 1)))
    mean = sum(padded[:, y : y + height, x : x + width] for y in (0, 2) for x in (0, 2)) / 4
    np.testing.assert_array_equal(scores[:, 0], mean)
    assert (scores[:, 1] == 40).all()
    np.testing.assert_array_equal(labels, mean < 40)


def test_what_is_averaged_is_said_in_words():
    assert [in_words(kind) for kind in ("none", *KINDS)] == ["", ", mean over 4 flips", ", mean over 8 flips and turns"]

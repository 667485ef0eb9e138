"""The ranges of activations, compared with values that the graph is asked for directly."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest

from tomoscribe.engine.errors import ParameterError
from tomoscribe.export.graph import INPUTS
from tomoscribe.export.parity import Sample
from tomoscribe.export.quantisation_calibration import DEFAULT_RULE, RULES, calibrate

OPERATORS = ("Conv", "ConvTranspose")


@pytest.fixture
def fp32(exported, tmp_path):
    path = tmp_path / "bundle" / "fp32.onnx"
    path.parent.mkdir()
    onnx.save(exported(1), path)
    return path


@pytest.fixture
def bright(samples):
    """A sample in which one pixel is far brighter than the rest."""
    (sample,) = samples(1, count=1)
    slices = sample.slices.copy()
    slices[1, 5, 9] += 2000
    return Sample("bright", slices, sample.mean, sample.rstd)


def range_of(ranges, name):
    return tuple(float(np.squeeze(value)) for value in ranges[name].range_value)


def first_input(fp32):
    return next(node.input[0] for node in onnx.load(fp32).graph.node if node.op_type == "Conv")


def test_minmax_is_the_range_over_all_samples(fp32, samples):
    given = samples(1, count=3)
    ranges = calibrate(fp32, given, OPERATORS, RULES["minmax"])
    model = onnx.load(fp32)
    wanted = {name for node in model.graph.node if node.op_type in OPERATORS for name in (node.input[0], *node.output)}
    assert wanted == {name for name, _ in ranges.items()}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(wanted))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    lowest, highest = dict.fromkeys(wanted, np.inf), dict.fromkeys(wanted, -np.inf)
    for sample in given:
        feed = dict(zip(INPUTS, (sample.slices, sample.mean, sample.rstd), strict=True))
        for name, values in zip(sorted(wanted), session.run(sorted(wanted), feed), strict=True):
            lowest[name] = min(lowest[name], values.min())
            highest[name] = max(highest[name], values.max())
    for name in wanted:
        assert range_of(ranges, name) == pytest.approx((lowest[name], highest[name]), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("rule", ["percentile 99.9", "entropy"])
def test_outliers_are_cut_off(fp32, bright, rule):
    name = first_input(fp32)
    widest = range_of(calibrate(fp32, [bright], OPERATORS, RULES["minmax"]), name)
    low, high = range_of(calibrate(fp32, [bright], OPERATORS, RULES[rule]), name)
    assert widest[1] > 35
    assert 2 < high < 0.9 * widest[1]
    assert widest[0] <= low < 0


def test_activations_that_are_never_negative_begin_at_zero(fp32, samples):
    ranges = calibrate(fp32, samples(1), OPERATORS, RULES[DEFAULT_RULE])
    model = onnx.load(fp32)
    rectified = {node.output[0] for node in model.graph.node if node.op_type == "Relu"}
    inputs = {node.input[0] for node in model.graph.node if node.op_type in OPERATORS} & rectified
    assert inputs
    assert {range_of(ranges, name)[0] for name in inputs} == {0}


def test_nothing_is_printed_and_nothing_is_left(fp32, samples, capfd):
    calibrate(fp32, samples(1), OPERATORS, RULES[DEFAULT_RULE])
    assert capfd.readouterr() == ("", "")
    assert [path.name for path in fp32.parent.iterdir()] == ["fp32.onnx"]


def test_the_model_may_lie_where_nothing_can_be_written(fp32, samples):
    # Whoever runs the tests as root can write anywhere; a folder that has another file's name cannot be written by any.
    (fp32.parent / "fp32-inferred.onnx").mkdir()
    calibrate(fp32, samples(1), OPERATORS, RULES[DEFAULT_RULE])


def test_ranges_need_samples(fp32):
    with pytest.raises(ParameterError, match="expected slices to take ranges from, found none"):
        calibrate(fp32, [], OPERATORS, RULES[DEFAULT_RULE])

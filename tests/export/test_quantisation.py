"""INT8 artifacts of small networks, and the search for what stays in float."""

from __future__ import annotations

import json
from dataclasses import replace

import onnx
import pytest

from tomoscribe.engine.class_map import ClassMap, LabelClass
from tomoscribe.engine.errors import BundleError, OutputError, ParameterError
from tomoscribe.export import quantisation
from tomoscribe.export.graph import METADATA_KEY
from tomoscribe.export.parity import GATES, Gate, ParityError, measure, onnxruntime_runner
from tomoscribe.export.quantisation import MOST_IN_FLOAT, TARGET, Form, quantise
from tomoscribe.export.quantisation_graph import convolutions

CLASSES = ClassMap((LabelClass(1, "ribosome", (1, 2, 3)), LabelClass(2, "membrane", (4, 5, 6))))


@pytest.fixture
def fp32(exported, tmp_path):
    path = tmp_path / "fp32.onnx"
    onnx.save(exported(1), path)
    return path


@pytest.fixture
def run(fp32, samples):
    """Quantises the small network, to a file of which the path comes with the result."""

    def run(**options):
        output = fp32.with_name("int8.onnx")
        return output, quantise(fp32, samples(1, seed=1), samples(1, seed=2), CLASSES, output, **options)

    return run


def in_integers(path):
    """Return the convolutions whose weights are integers, by node."""
    model = onnx.load(path)
    made = {output for node in model.graph.node if node.op_type == "DequantizeLinear" for output in node.output}
    convolving = [node for node in model.graph.node if node.op_type in ("Conv", "ConvTranspose")]
    return {node.name for node in convolving if node.input[1] in made}


@pytest.mark.parametrize("form", Form)
def test_an_int8_graph_answers_much_as_fp32_does(run, fp32, samples, form):
    path, result = run(form=form)
    figures = measure(onnxruntime_runner(fp32), onnxruntime_runner(path), samples(1, count=3, seed=3), CLASSES)
    assert figures.labels_equal > 0.9
    assert 0 < figures.mean_score_difference < 10
    assert result.form is form
    assert path.stat().st_size < fp32.stat().st_size


def test_what_an_fp32_graph_says_of_itself_stays(run, fp32):
    path, _ = run()
    properties = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert properties[METADATA_KEY] == {e.key: e.value for e in onnx.load(fp32).metadata_props}[METADATA_KEY]


def test_the_same_samples_give_the_same_bytes(run):
    first = run()[0].read_bytes()
    assert run()[0].read_bytes() == first


def test_the_search_leaves_the_most_harmful_layers_in_float_until_the_target_is_reached(run, fp32, monkeypatch):
    everything = run()[1].steps[0].figures
    monkeypatch.setattr(quantisation, "MOST_IN_FLOAT", 99)  # reaches any target
    target = Gate(labels_equal=(1 + everything.labels_equal) / 2)  # half of what goes wrong
    monkeypatch.setattr(quantisation, "TARGET", target)
    path, result = run()
    assert result.steps[0].in_float == ()
    assert len(result.in_float) > 0
    worst_first = sorted(result.layers, key=lambda layer: -result.damage[layer])
    for number, step in enumerate(result.steps):
        assert list(step.in_float) == worst_first[:number]
        assert bool(target.shortfalls(step.figures)) == (step is not result.steps[-1])
    layers = convolutions(onnx.load(fp32), Form.TENSORRT)
    assert result.layers == tuple(layers)
    assert in_integers(path) == {name for layer, name in layers.items() if layer not in result.in_float}


def test_the_search_gives_up(run, monkeypatch):
    monkeypatch.setattr(quantisation, "TARGET", Gate(labels_equal=1.1))
    path, result = run()
    assert len(result.in_float) == MOST_IN_FLOAT
    assert len(in_integers(path)) == len(result.layers) - MOST_IN_FLOAT
    assert result.to_json()["target_missed"]


def test_damage_is_that_of_a_layer_alone(run, fp32, samples, monkeypatch):
    monkeypatch.setattr(quantisation, "TARGET", Gate(labels_equal=1.1))
    monkeypatch.setattr(quantisation, "MOST_IN_FLOAT", len(convolutions(onnx.load(fp32), Form.TENSORRT)) - 1)
    path, result = run()
    (layer,) = set(result.layers) - set(result.in_float)
    assert len(in_integers(path)) == 1
    figures = measure(onnxruntime_runner(fp32), onnxruntime_runner(path), samples(1, seed=2), CLASSES)
    assert result.damage[layer] == figures.mean_score_difference == min(result.damage.values())


def test_slices_without_any_class_stop_the_search(run, monkeypatch):
    monkeypatch.setattr("tomoscribe.export.parity.LEAST_PIXELS", 10**9)
    _, result = run()
    assert len(result.steps) == 1
    assert set(result.steps[0].figures.dice.values()) == {None}


def test_the_target_is_above_the_gate():
    assert GATES["int8"].dice < TARGET.dice < 1


def test_a_result_can_be_reported(run, monkeypatch):
    monkeypatch.setattr(quantisation, "TARGET", Gate(labels_equal=1.1))
    _, result = run()
    entries = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert entries["form"] == "tensorrt"
    assert entries["in_float"] == list(result.in_float)
    assert [step["in_float"] for step in entries["steps"]] == [list(step.in_float) for step in result.steps]
    assert entries["calibrated_on"] == ["noise 0", "noise 1"]
    table = [line for line in result.to_markdown() if line.startswith("|")]
    assert len(table) == 2 + 1 + MOST_IN_FLOAT
    assert len({line.count("|") for line in table}) == 1
    for layer, line in zip(result.in_float, table[3:], strict=True):
        assert layer in line


def test_a_graph_without_convolutions_is_refused(tiny_bundle, samples, tmp_path):
    path = tiny_bundle / "model.fp32.onnx"
    with pytest.raises(BundleError, match=r"model\.fp32\.onnx: expected convolutions to quantise, found none"):
        quantise(path, samples(1), samples(1), CLASSES, tmp_path / "int8.onnx")


def test_an_unknown_rule_is_refused(run):
    with pytest.raises(ParameterError, match=r"expected one of minmax, .*, found luck"):
        run(rule="luck")


def test_a_failure_leaves_no_file(fp32, samples):
    before = sorted(fp32.parent.iterdir())
    with pytest.raises(ParityError):
        quantise(fp32, samples(1), [_misshapen(samples)], CLASSES, fp32.with_name("8.onnx"))
    assert sorted(fp32.parent.iterdir()) == before


def test_a_place_that_cannot_be_written_is_named(fp32, samples):
    with pytest.raises(OutputError, match="nowhere"):
        quantise(fp32, samples(1), samples(1), CLASSES, fp32.parent / "nowhere" / "int8.onnx")


def _misshapen(samples):
    (sample,) = samples(1, count=1)
    return replace(sample, mean=sample.mean[:2])

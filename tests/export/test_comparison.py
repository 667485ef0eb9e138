"""What is said of an artifact that its gate does not let through."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from tomoscribe.engine.class_map import ClassMap, LabelClass
from tomoscribe.export.comparison import Apart, Comparison, Verdict, compare
from tomoscribe.export.parity import Answer, Figures, ParityError

CLASSES = ClassMap((LabelClass(1, "ribosome", (1, 2, 3)),))
GOOD = Figures(1000, 1.0, 1, 0.01, {"ribosome": 1.0})
BAD = Figures(1000, 0.5, 200, 30.0, {"ribosome": 0.4})
ARTIFACT = Path("somewhere") / "model.fp16.onnx"


def test_an_artifact_passes_where_all_ways_of_running_it_do():
    Comparison("fp16", "PyTorch", {"this": GOOD, "that": GOOD}).check(ARTIFACT)
    both = Comparison("fp16", "PyTorch", {"this": GOOD, "that": BAD})
    assert both.shortfalls == ["expected equal labels on 99.90% of pixels, found 50.0000% (that)"]
    with pytest.raises(ParityError):
        both.check(ARTIFACT)


def test_the_refusal_is_one_line_with_the_layer_and_what_to_do():
    with pytest.raises(ParityError) as caught:
        Comparison("fp16", "PyTorch", {"this": BAD}, {"encoder.0.0": 0.0, "head": 0.5}).check(ARTIFACT)
    assert str(caught.value) == (
        "model.fp16.onnx: expected equal labels on 99.90% of pixels, found 50.0000% (this); "
        "the error grows most in layer head, from 0.00% to 50.00%; "
        "no bundle was written, leave fp16 out or let it through with --allow-drift"
    )
    with pytest.raises(ParityError) as caught:
        Comparison("int8", "PyTorch", {"this": BAD}).check(ARTIFACT)
    assert "layer" not in str(caught.value)


def test_the_gate_is_that_of_the_precision():
    middling = Figures(1000, 0.9995, 40, 0.1, {"ribosome": 0.995})
    passed = {p: not Comparison(p, "PyTorch", {"this": middling}).shortfalls for p in ("fp32", "fp16", "int8")}
    assert passed == {"fp32": False, "fp16": True, "int8": True}


def test_model_json_has_the_first_way_and_the_mark():
    comparison = Comparison("fp16", "PyTorch", {"this": GOOD, "that": BAD}, {"head": math.inf, "b": 0.25})
    entries = json.loads(json.dumps(comparison.to_json(), allow_nan=False))
    assert entries == {
        **GOOD.to_json(),
        "reference": "PyTorch",
        "runtime": "this",
        "passed": False,
        "shortfalls": comparison.shortfalls,
        "others": {"that": BAD.to_json()},
    }
    assert Comparison("fp16", "PyTorch", {"this": GOOD}).to_json()["passed"] is True
    assert comparison.layers_to_json() == {"head": None, "b": 0.25}


def test_every_way_of_running_is_measured_against_the_reference(samples):
    def runner(label):
        return lambda sample: Answer(np.full((1, 20, 20), label, np.uint8), np.full((1, 2, 20, 20), label, np.uint8))

    comparison = compare(
        "int8", ("PyTorch", runner(1)), {"same": runner(1), "other": runner(0)}, samples(0), CLASSES, {"head": 0.1}
    )
    assert (comparison.precision, comparison.reference) == ("int8", "PyTorch")
    assert comparison.figures["same"].labels_equal == 1
    assert comparison.figures["other"].labels_equal == 0
    assert comparison.figures["other"].dice == {"ribosome": 0}
    assert comparison.layer_errors == {"head": 0.1}


def test_what_is_judged_apart_neither_stops_an_artifact_nor_marks_it(samples):
    def runner(label):
        return lambda sample: Answer(np.full((1, 20, 20), label, np.uint8), np.full((1, 2, 20, 20), label, np.uint8))

    def cannot_run(sample):
        raise ParityError("no such operator")

    candidates = {
        "main": runner(1),
        "good": Apart(runner(1), "bf16"),
        "bad": Apart(runner(0), "bf16"),
        "broken": Apart(cannot_run, "bf16"),
    }
    comparison = compare("fp32", ("PyTorch", runner(1)), candidates, samples(0), CLASSES)
    comparison.check(ARTIFACT)
    entries = comparison.to_json()
    assert (entries["runtime"], entries["passed"], entries["shortfalls"]) == ("main", True, [])
    others = entries["others"]
    assert {name: verdict["passed"] for name, verdict in others.items()} == {
        "good": True,
        "bad": False,
        "broken": False,
    }
    assert others["bad"]["shortfalls"] == ["expected a Dice of 0.99 for ribosome, found 0.0000"]
    assert others["broken"] == {"passed": False, "shortfalls": ["no such operator"]}
    assert others["good"]["labels_equal"] == 1
    with pytest.raises(ParityError, match="no such operator"):
        compare("fp32", ("PyTorch", runner(1)), {"main": cannot_run}, samples(0), CLASSES)


def test_the_gate_of_what_is_judged_apart_is_its_own(samples):
    def runner(difference):
        def run(sample):
            scores = np.full((1, 2, 20, 20), 100 + difference, np.uint8)
            return Answer(np.ones((1, 20, 20), np.uint8), scores)

        return run

    ways = {"main": runner(0), "fp32": Apart(runner(5), "fp32"), "bf16": Apart(runner(5), "bf16")}
    apart = compare("fp32", ("PyTorch", runner(0)), ways, samples(0), CLASSES).apart
    assert apart["fp32"].shortfalls == ["expected scores within 1 of 255, found a difference of 5"]
    assert apart["bf16"] == Verdict(apart["bf16"].figures, [])

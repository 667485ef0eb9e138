"""What is said of an artifact that its gate does not let through."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from tomoscribe.engine.class_map import ClassMap, LabelClass
from tomoscribe.export.comparison import Comparison, compare
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

"""The report of a bundle: valid JSON, tables that say the figures, and pictures of the differences."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tomoscribe.engine.class_map import ClassMap, LabelClass
from tomoscribe.export.comparison import Comparison, Verdict
from tomoscribe.export.difference import SCORE_GAIN, draw_difference
from tomoscribe.export.parity import Answer, Figures
from tomoscribe.export.parity_report import write_parity_report

CLASSES = ClassMap((LabelClass(1, "ribosome", (1, 2, 3)), LabelClass(2, "membrane", (4, 5, 6))))
GOOD = Figures(12345, 0.99987, 1, 0.0123, {"ribosome": 0.9987, "membrane": None})
BAD = Figures(12345, 0.5, 200, 30.0, {"ribosome": 0.4, "membrane": None})


def rows(text, first):
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return [row for row in cells if row[0] == first]


@pytest.fixture
def report(tmp_path, samples):
    def report(*comparisons, **options):
        write_parity_report(tmp_path, "a model µ", comparisons, samples(1), CLASSES, **options)
        return json.loads((tmp_path / "parity.json").read_text("utf-8")), (tmp_path / "parity.md").read_text("utf-8")

    return report


def test_what_is_judged_apart_has_rows_and_says_where_it_is_not_taken(report):
    good = replace(GOOD, labels_equal=1.0)
    apart = {"OpenVINO 1": Verdict(good, []), "OpenVINO 1, BF16": Verdict(BAD, ["expected more"])}
    _, text = report(Comparison("fp32", "PyTorch 2", {"ONNX Runtime 1": good}, {}, apart))
    assert [(row[1], row[3], row[-1]) for row in rows(text, "fp32")] == [
        ("ONNX Runtime 1", "100.0000%", "passed"),
        ("OpenVINO 1", "100.0000%", "passed"),
        ("OpenVINO 1, BF16", "50.0000%", "drifts"),
    ]
    assert "Not taken unless it is asked for:\n\n- fp32 in OpenVINO 1, BF16: expected more\n" in text
    assert "Written although" not in text
    _, text = report(Comparison("fp32", "PyTorch 2", {"one": good}, {}, {"OpenVINO 1": Verdict(None, ["not run"])}))
    assert [(row[1], row[2:-1], row[-1]) for row in rows(text, "fp32")][1] == ("OpenVINO 1", [""] * 6, "drifts")
    assert "Not taken" not in report(Comparison("fp32", "PyTorch 2", {"one": good}))[1]


def test_the_figures_are_in_both_files(report):
    comparison = Comparison("fp16", "PyTorch 2, FP32", {"ONNX Runtime 1": GOOD}, {"head": 0.00123})
    entries, text = report(comparison)
    assert entries["model"] == "a model µ"
    assert entries["reference"] == "PyTorch 2, FP32"
    assert entries["artifacts"] == {"fp16": {**comparison.to_json(), "layer_errors": {"head": 0.00123}}}
    assert entries["samples"] == [
        {"name": "noise 0", "slices": [3, 32, 48]},
        {"name": "noise 1", "slices": [4, 36, 44]},
    ]
    assert rows(text, "artifact") == [
        [
            "artifact",
            "run by",
            "pixels",
            "labels equal",
            "largest Δ score",
            "mean Δ score",
            "ribosome",
            "membrane",
            "gate",
        ]
    ]
    assert rows(text, "fp16") == [
        ["fp16", "ONNX Runtime 1", "12,345", "99.9870%", "1", "0.0123", "0.9987", "–", "passed"]
    ]
    assert rows(text, "head") == [["head", "0.123%"]]
    assert "drifts" not in text
    assert "- noise 1: 4 × 36 × 44" in text


def test_every_source_has_a_line(report):
    figures = replace(GOOD, sources={"phantoms": GOOD, "tomo.mrc": BAD})
    entries, text = report(Comparison("int8", "PyTorch 2, FP32", {"ONNX Runtime 1": figures}))
    assert entries["artifacts"]["int8"]["sources"] == {"phantoms": GOOD.to_json(), "tomo.mrc": BAD.to_json()}
    assert not entries["artifacts"]["int8"]["passed"]
    assert rows(text, "") == [
        ["", "… on phantoms", "12,345", "99.9870%", "1", "0.0123", "0.9987", "–", ""],
        ["", "… on tomo.mrc", "12,345", "50.0000%", "200", "30.0000", "0.4000", "–", ""],
    ]


def test_an_artifact_that_drifts_is_marked_in_both(report):
    entries, text = report(
        Comparison("fp32", "PyTorch", {"this": GOOD}),
        Comparison("int8", "PyTorch", {"this": BAD}, {"a": 0.1, "head": math.inf}),
    )
    assert entries["artifacts"]["int8"]["passed"] is False
    assert entries["artifacts"]["int8"]["layer_errors"] == {"a": 0.1, "head": None}
    assert [row[-1] for row in rows(text, "fp32") + rows(text, "int8")] == ["drifts", "drifts"]
    assert "- int8: expected a Dice of 0.99 for ribosome, found 0.4000 (this)" in text
    assert rows(text, "head") == [["head", "not finite"]]


def test_pictures_and_quantisation_are_there_where_they_are_given(report):
    comparison = Comparison("int8", "PyTorch", {"this": GOOD})
    entries, text = report(
        comparison,
        pictures={"int8": ("parity.int8.png", "noise 1")},
        quantisations={
            "int8": SimpleNamespace(to_json=lambda: {"rule": "entropy"}, to_markdown=lambda: ["head is in float."])
        },
    )
    assert entries["quantisation"] == {"int8": {"rule": "entropy"}}
    assert "int8, noise 1:\n\n![int8](parity.int8.png)" in text
    assert "## How int8 was made\n\nhead is in float.\n" in text
    entries, text = report(comparison)
    assert entries["quantisation"] == {}
    assert "![" not in text
    assert "was made" not in text


def test_the_picture_shows_the_slice_with_the_most_changed_labels(samples, tmp_path):
    first, second = samples(1)  # the second has two labelled slices of 36 × 44
    answers = {
        sample.name: [
            Answer(
                np.zeros((count, *sample.slices.shape[1:]), np.uint8),
                np.zeros((count, 3, *sample.slices.shape[1:]), np.uint8),
            )
            for _ in range(2)
        ]
        for sample, count in ((first, 1), (second, 2))
    }
    expected, found = answers["noise 1"]
    expected.labels[1, :4, :10] = expected.labels[1, 30, 40] = 1
    found.scores[1, 2, 20:24, 20:24] = 5
    answers["noise 0"][1].labels[0, :3, :10] = 1
    path = tmp_path / "picture.png"
    name = draw_difference(path, lambda s: answers[s.name][0], lambda s: answers[s.name][1], [first, second], CLASSES)
    assert name == "noise 1"
    picture = np.asarray(Image.open(path).convert("RGB")).astype(int)
    assert picture.shape == (36, 4 * 44 + 3 * 8, 3)
    grey, before, after, difference = (picture[:, start : start + 44] for start in range(0, 4 * 52, 52))
    assert (difference[:4, :10, 0] > 200).all()
    assert (difference[:4, :10, 1] < 100).all()
    assert np.abs(difference[20:24, 20:24] - 5 * SCORE_GAIN).max() <= 8  # of a palette
    assert np.abs(difference[30, 40] - (255, 64, 64)).max() <= 8  # one pixel is not lost
    difference[:4, :10] = difference[20:24, 20:24] = difference[30, 40] = 0
    assert difference.max() <= 8
    assert np.abs(before - grey)[:4, :10].mean() > 20
    assert np.abs(after - grey)[:4, :10].mean() < 8
    # The slice in the middle of its context, with the contrast that the network sees.
    seen = -second.slices[2].astype(float)
    assert np.corrcoef(seen.ravel(), grey[..., 0].ravel())[0, 1] > 0.95

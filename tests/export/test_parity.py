"""The figures of parity, counted by hand, and the gates that they pass or do not."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from tomoscribe.engine.class_map import ClassMap, LabelClass
from tomoscribe.engine.errors import BundleError, ParameterError
from tomoscribe.export.parity import (
    GATES,
    LEAST_PIXELS,
    Answer,
    Figures,
    Gate,
    ParityError,
    measure,
    onnxruntime_runner,
    pytorch_runner,
    remembered,
)

CLASSES = ClassMap((LabelClass(1, "ribosome", (1, 2, 3)), LabelClass(2, "membrane", (4, 5, 6))))


def answer(labels, scores=0):
    labels = np.array(labels, np.uint8).reshape(1, -1, 100)
    return Answer(labels, np.full((1, 3, *labels.shape[1:]), scores, np.uint8))


def figures(**changes):
    perfect = Figures(1000, 1.0, 0, 0.0, {"ribosome": 1.0, "membrane": None})
    return replace(perfect, **changes)


def test_figures_are_those_that_are_counted_by_hand(samples):
    first, second = samples(0)
    # 1000 pixels: 600 background, 300 ribosome, 100 membrane, of which 60, 30 and 0 are changed.
    expected = [0] * 600 + [1] * 300 + [2] * 100
    found = [1] * 60 + [0] * 540 + [2] * 30 + [1] * 270 + [2] * 100
    answers = {first.name: (answer(expected), answer(found)), second.name: (answer(expected), answer(expected))}
    answers[first.name][1].scores[0, 1, 0, :50] = 7
    result = measure(lambda s: answers[s.name][0], lambda s: answers[s.name][1], [first, second], CLASSES)
    assert result.pixels == 2000
    assert result.labels_equal == 1910 / 2000
    assert result.largest_score_difference == 7
    assert result.mean_score_difference == pytest.approx(50 * 7 / 6000)
    assert result.dice["ribosome"] == pytest.approx(2 * 570 / (600 + 630))
    assert result.dice["membrane"] == pytest.approx(2 * 200 / (200 + 230))
    assert result.to_json()["dice"] == result.dice


def test_scores_differ_in_both_directions(samples):
    low, high = answer([0] * 100, 3), answer([0] * 100, 250)
    for pair in ((low, high), (high, low)):
        result = measure(lambda _, a=pair[0]: a, lambda _, a=pair[1]: a, samples(0), CLASSES)
        assert (result.largest_score_difference, result.mean_score_difference) == (247, 247)


def test_a_class_on_few_pixels_has_no_dice_unless_the_candidate_gives_it_to_many(samples):
    one = samples(0, 1)
    few, many = (answer([1] * count + [0] * (400 - count)) for count in (LEAST_PIXELS - 1, LEAST_PIXELS))
    assert measure(lambda _: few, lambda _: few, one, CLASSES).dice["ribosome"] is None
    assert measure(lambda _: few, lambda _: many, one, CLASSES).dice["ribosome"] == 2 * 199 / 399
    assert measure(lambda _: many, lambda _: few, one, CLASSES).dice["ribosome"] == 2 * 199 / 399


def test_sources_are_judged_apart(samples):
    first, second = (replace(s, source=name) for s, name in zip(samples(0), ("phantoms", "tomo.mrc"), strict=True))
    expected = answer([0] * 600 + [1] * 400)
    wrong = answer([0] * 604 + [1] * 396)
    many = [replace(first, name=str(number)) for number in range(9)]
    result = measure(lambda _: expected, lambda s: wrong if s is second else expected, [*many, second], CLASSES)
    assert result.labels_equal == 9996 / 10000
    assert {name: part.labels_equal for name, part in result.sources.items()} == {"phantoms": 1, "tomo.mrc": 0.996}
    assert result.sources["tomo.mrc"].dice["ribosome"] == pytest.approx(2 * 396 / 796)
    assert result.lowest_dice == {"ribosome": pytest.approx(2 * 396 / 796), "membrane": None}
    assert result.dice["ribosome"] == pytest.approx(2 * 3996 / 7996)
    assert Gate(dice=0.996).shortfalls(result) == [
        "expected a Dice of 0.996 for ribosome, found 0.9950 on tomo.mrc",
    ]
    assert Gate(labels_equal=0.999).shortfalls(result) == [
        "expected equal labels on 99.90% of pixels, found 99.6000% on tomo.mrc"
    ]
    assert result.to_json()["sources"]["tomo.mrc"]["labels_equal"] == 0.996
    assert "sources" not in result.to_json()["sources"]["tomo.mrc"]


def test_scores_of_every_source_count(samples):
    first, second = (replace(s, source=name) for s, name in zip(samples(0), ("phantoms", "tomo.mrc"), strict=True))
    found = {"phantoms": answer([0] * 100, 9), "tomo.mrc": answer([0] * 300, 1)}
    expected = {"phantoms": answer([0] * 100), "tomo.mrc": answer([0] * 300)}
    result = measure(lambda s: expected[s.source], lambda s: found[s.source], [first, second], CLASSES)
    assert (result.largest_score_difference, result.mean_score_difference) == (9, 3)


def test_a_class_that_only_all_sources_together_have_is_judged(samples):
    first, second = (replace(s, source=name) for s, name in zip(samples(0), ("phantoms", "tomo.mrc"), strict=True))
    expected, found = (answer([1] * count + [0] * (1000 - count)) for count in (150, 120))
    result = measure(lambda _: expected, lambda _: found, [first, second], CLASSES)
    assert [part.dice["ribosome"] for part in result.sources.values()] == [None, None]
    assert result.lowest_dice["ribosome"] == result.dice["ribosome"] == 480 / 540
    assert Gate(dice=0.9).shortfalls(result) == ["expected a Dice of 0.9 for ribosome, found 0.8889"]


def test_a_source_without_any_class_is_no_shortfall(samples):
    first, second = (replace(s, source=name) for s, name in zip(samples(0), ("phantoms", "tomo.mrc"), strict=True))
    labels = {"phantoms": answer([0] * 600 + [1] * 400), "tomo.mrc": answer([0] * 1000)}
    result = measure(lambda s: labels[s.source], lambda s: labels[s.source], [first, second], CLASSES)
    assert Gate(dice=0.99).shortfalls(result) == []
    assert result.lowest_dice == {"ribosome": 1.0, "membrane": None}
    nothing = measure(lambda _: labels["tomo.mrc"], lambda _: labels["tomo.mrc"], [first, second], CLASSES)
    assert Gate(dice=0.99).shortfalls(nothing) == [
        "expected slices with at least one of the classes, found only background"
    ]


def test_figures_of_one_source_stand_by_themselves(samples):
    same = answer([0] * 600 + [1] * 400)
    result = measure(lambda _: same, lambda _: same, samples(0), CLASSES)
    assert result.sources == {}
    assert "sources" not in result.to_json()
    assert result.lowest_dice == result.dice


def test_nothing_to_compare_on_and_other_shapes_are_refused(samples):
    with pytest.raises(ParameterError, match="found none"):
        measure(lambda _: answer([0] * 100), lambda _: answer([0] * 100), [], CLASSES)
    with pytest.raises(ParityError, match="labels of shape"):
        measure(lambda _: answer([0] * 100), lambda _: answer([0] * 200), samples(0), CLASSES)
    fewer = replace(answer([0] * 100), scores=np.zeros((1, 2, 1, 100), np.uint8))
    with pytest.raises(ParityError, match="scores of shape"):
        measure(lambda _: answer([0] * 100), lambda _: fewer, samples(0), CLASSES)


@pytest.mark.parametrize(
    ("precision", "change", "missed"),
    [
        ("fp32", {"labels_equal": 0.99991}, None),
        ("fp32", {"labels_equal": 0.99989}, "expected equal labels on 99.99% of pixels, found 99.9890%"),
        ("fp32", {"largest_score_difference": 1}, None),
        ("fp32", {"largest_score_difference": 2}, "expected scores within 1 of 255, found a difference of 2"),
        ("fp16", {"labels_equal": 0.9991, "largest_score_difference": 255}, None),
        ("fp16", {"labels_equal": 0.9989}, "expected equal labels on 99.90% of pixels, found 99.8900%"),
        ("fp16", {"labels_equal": math.nan}, "expected equal labels on 99.90% of pixels, found nan%"),
        ("int8", {"labels_equal": 0.5, "dice": {"ribosome": 0.991, "membrane": None}}, None),
        (
            "int8",
            {"dice": {"ribosome": 0.995, "membrane": 0.9899}},
            "expected a Dice of 0.99 for membrane, found 0.9899",
        ),
        (
            "int8",
            {"dice": {"ribosome": None, "membrane": None}},
            "expected slices with at least one of the classes, found only background",
        ),
    ],
)
def test_the_gates_let_through_what_they_should(precision, change, missed):
    assert GATES[precision].shortfalls(figures(**change)) == ([missed] if missed else [])


def test_every_shortfall_is_said():
    gate = Gate(labels_equal=0.9, largest_score_difference=3, dice=0.8)
    bad = figures(labels_equal=0.1, largest_score_difference=4, dice={"ribosome": 0.1, "membrane": 0.2})
    assert len(gate.shortfalls(bad)) == 4


def test_pytorch_and_onnx_runtime_agree(checkpoint, exported, samples, tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(exported(checkpoint.specification.context), path)
    class_map = checkpoint.specification.class_map
    found = measure(
        pytorch_runner(checkpoint.network),
        onnxruntime_runner(path),
        samples(checkpoint.specification.context),
        class_map,
    )
    assert GATES["fp32"].shortfalls(found) == []
    assert found.pixels == 32 * 48 + 2 * 36 * 44
    assert found.dice == {c.name: 1.0 for c in class_map.classes}


def test_pytorchs_answer_is_not_the_graphs_formulation(checkpoint, samples):
    (sample, _) = samples(checkpoint.specification.context)
    found = pytorch_runner(checkpoint.network)(sample)
    k = checkpoint.specification.context
    normalised = (torch.from_numpy(sample.slices) - 1000) / 50
    with torch.inference_mode():
        logits = checkpoint.network(normalised[None, : 2 * k + 1])
    np.testing.assert_array_equal(found.labels, logits.argmax(1).numpy())
    assert np.abs(found.scores - torch.softmax(logits, 1).numpy() * 255).max() < 0.501


def test_a_reference_that_is_not_finite_is_refused(checkpoint, samples):
    broken = type(checkpoint.network)(checkpoint.network.configuration).eval()
    with torch.no_grad():
        broken.head.bias[0] = math.inf
    with pytest.raises(ParityError, match=r"expected finite answers .* on noise 0"):
        pytorch_runner(broken)(samples(checkpoint.specification.context)[0])


def test_what_onnx_runtime_cannot_run_is_one_line(exported, samples, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"no graph")
    with pytest.raises(ParityError, match=r"model\.onnx: expected a graph that ONNX Runtime can run") as caught:
        onnxruntime_runner(path)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, BundleError)
    assert caught.value.exit_status == 1
    onnx.save(exported(0), path)
    sample = samples(0)[0]
    with pytest.raises(ParityError, match="cannot") as caught:
        onnxruntime_runner(path)(replace(sample, slices=sample.slices[0]))
    assert "\n" not in str(caught.value)


def test_a_remembered_runner_runs_each_sample_once(samples):
    seen = []

    def runner(sample):
        seen.append(sample.name)
        return answer([0] * 100)

    first, second = samples(0)
    again = remembered(runner)
    assert again(first) is again(first)
    assert again(second) is not again(first)
    assert seen == ["noise 0", "noise 1"]


def test_onnx_runtime_runs_on_the_cpu(exported, samples, tmp_path, monkeypatch):
    path = tmp_path / "model.onnx"
    onnx.save(exported(0), path)
    asked = []
    session = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda *arguments, **options: asked.append(options) or session(*arguments, **options),
    )
    onnxruntime_runner(path)
    assert asked == [{"providers": ["CPUExecutionProvider"]}]

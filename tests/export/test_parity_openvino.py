"""OpenVINO's answers as segment would have them, and what is made of an OpenVINO that cannot give any."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

from tomoscribe.engine.backends.openvino import OpenVinoBackend
from tomoscribe.engine.errors import BackendUnavailableError
from tomoscribe.export.comparison import Apart
from tomoscribe.export.parity import ParityError, onnxruntime_runner
from tomoscribe.export.parity_openvino import openvino_runners


@pytest.fixture
def artifact(exported, tmp_path):
    path = tmp_path / "model.fp32.onnx"
    onnx.save(exported(1), path)
    return path


@pytest.fixture
def specification(checkpoint):
    return replace(checkpoint.specification, context=1)


def gates(runners):
    return [runner.gate for runner in runners.values() if isinstance(runner, Apart)]


def test_its_answers_are_those_of_the_graph(artifact, specification, samples):
    openvino = pytest.importorskip("openvino")
    runners = openvino_runners("fp32", artifact, specification)
    capable = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    assert gates(runners) == (["fp32", "bf16"] if capable else ["fp32"])
    expected = onnxruntime_runner(artifact)
    for sample in samples(1, 3):
        answers = [runner(sample) for runner in runners.values()]
        for answer, tolerance in zip(answers, (1, 255), strict=False):
            assert answer.labels.shape == expected(sample).labels.shape
            assert np.abs(answer.scores.astype(int) - expected(sample).scores).max() <= tolerance
    names = list(runners)
    assert names[0].startswith("OpenVINO 20")
    assert names[0].endswith(", CPU")
    assert names[1:] == [f"{names[0]}, BF16"][: len(names) - 1]


def test_bf16_is_another_answer(artifact, specification, samples):
    pytest.importorskip("openvino")
    runners = list(openvino_runners("fp32", artifact, specification).values())
    if len(runners) < 2:
        pytest.skip("this processor does not compute in BF16")
    (sample,) = samples(1, 1)
    assert not np.array_equal(runners[0](sample).scores, runners[1](sample).scores)


def test_the_cpu_form_of_int8_is_judged_and_those_of_gpus_are_not(artifact, specification):
    pytest.importorskip("openvino")
    assert gates(openvino_runners("int8-cpu", artifact, specification)) == ["int8-cpu"]
    for precision in ("fp16", "int8"):
        assert openvino_runners(precision, artifact, specification) == {}


def test_what_cannot_be_loaded_fails_when_it_is_asked(artifact, specification, samples):
    pytest.importorskip("openvino")
    artifact.write_bytes(b"no graph")
    for runner in openvino_runners("fp32", artifact, specification).values():
        with pytest.raises(ParityError, match=r"OpenVINO \S+ cannot load it"):
            runner(samples(1)[0])


def test_what_cannot_be_run_fails_in_one_line(artifact, specification, samples):
    pytest.importorskip("openvino")
    sample = samples(1)[0]
    odd = replace(sample, slices=sample.slices[:, :-1])
    for runner in openvino_runners("fp32", artifact, specification).values():
        with pytest.raises(ParityError, match=r"^openvino: the network failed on .*") as caught:
            runner(odd)
        assert "\n" not in str(caught.value)


def test_where_it_is_not_installed_nothing_is_judged(artifact, specification, monkeypatch):
    def unavailable(*_, **__):
        raise BackendUnavailableError("not here")

    monkeypatch.setattr(OpenVinoBackend, "__init__", unavailable)
    assert openvino_runners("fp32", artifact, specification) == {}

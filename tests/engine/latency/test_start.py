"""Cold starts, in real processes."""

from __future__ import annotations

import time

import pytest

from tomoscribe.engine import BackendError, Bundle, ParameterError
from tomoscribe.engine.latency.start import STAGES, ColdStart, measure_cold_start


def test_every_start_has_its_stages(tiny_bundle):
    begin = time.perf_counter()
    found = measure_cold_start(Bundle.load(tiny_bundle), "onnxruntime", "fp32", (8, 16), repeats=2)
    taken = 1000 * (time.perf_counter() - begin)
    assert len(found.samples) == 2
    assert all(tuple(sample) == STAGES and min(sample.values()) > 0 for sample in found.samples)
    # Interpreter and imports are those of another process, and belong to the time that it took.
    assert 0.2 * taken < sum(sum(sample.values()) for sample in found.samples) < taken
    assert all(sample["import"] > sample["python"] for sample in found.samples)


def test_it_does_not_matter_where_it_is_started(tiny_bundle, tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise RuntimeError('not the json that is meant')\n")
    monkeypatch.chdir(tmp_path)
    measure_cold_start(Bundle.load(tiny_bundle), "onnxruntime", "fp32", (8, 8), repeats=1)


def test_a_process_that_fails_says_why(tiny_bundle):
    with pytest.raises(BackendError, match=r"onnxruntime: .* that it failed: .*no int8-cpu network"):
        measure_cold_start(Bundle.load(tiny_bundle), "onnxruntime", "int8", (8, 8), repeats=1)


def test_the_process_runs_it_where_it_is_told_to(tiny_bundle):
    with pytest.raises(BackendError, match="device '0': expected cpu or auto, for onnxruntime runs on the CPU"):
        measure_cold_start(Bundle.load(tiny_bundle), "onnxruntime", "fp32", (8, 8), device="0", repeats=1)


def test_figures_are_medians_and_the_total_is_of_whole_starts():
    samples = [
        dict(zip(STAGES, times, strict=True)) for times in ((1, 10, 100, 1000), (3, 20, 100, 900), (2, 60, 50, 800))
    ]
    figures = ColdStart("onnxruntime", "fp32", "cpu", (8, 8), tuple(samples)).figures()
    assert {name: figure.value for name, figure in figures.items()} == {
        "python_ms": 2,
        "import_ms": 20,
        "load_ms": 100,
        "warm_up_ms": 900,
        "total_ms": 1023,
    }


def test_no_start_is_refused(tiny_bundle):
    with pytest.raises(ParameterError, match="at least one"):
        measure_cold_start(Bundle.load(tiny_bundle), "onnxruntime", "fp32", (8, 8), repeats=0)

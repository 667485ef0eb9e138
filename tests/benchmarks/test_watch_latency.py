"""The arithmetic of the latency benchmark, and that it sees what it says it does."""

from __future__ import annotations

import argparse
import threading
from importlib import import_module
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def _scripts():
    """Scripts import each other from their own folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield


@pytest.fixture(scope="module")
def latency():
    pytest.importorskip("uvicorn", reason="the watcher's page needs the extra watch")
    return import_module("watch_latency")


def test_ratios_are_over_the_aims(latency):
    rounds = [
        latency.Round(0.3, 1.0, 11.0, 10.0),
        latency.Round(0.3, 3.0, 15.0, 9.0),
        latency.Round(0.3, 1.5, 5.0, 9.0),
    ]
    assert latency.ratios_of(rounds) == {
        "labels_over_segment_and_1_s": 1.0,
        "worst_labels_over_segment_and_1_s": 1.5,
        "labels_over_segment": 1.1,
        "picture_over_2_s": 0.75,
        "worst_picture_over_2_s": 1.5,
    }


def test_events_are_told_apart_and_heartbeats_are_none(latency):
    stream = [b": beat\n", b"\n", b"id: 3\n", b"event: tomogram\n", b'data: {"a":\n', b"data: 1}\n", b"\n"]
    listening = threading.Event()
    stream += [b'data: {"b": 2}\n', b"\n", b"event: status\n"]
    assert list(latency._events(stream, listening)) == [("tomogram", {"a": 1}), ("message", {"b": 2})]
    assert listening.is_set()


def test_a_round_is_measured_on_the_watcher_itself(latency, tmp_path, tiny_bundle):
    arguments = argparse.Namespace(rounds=1, shape=(4, 32, 32), pause=0.001, model=tiny_bundle, backend="onnxruntime")
    rounds, backend = latency.measure(arguments, tmp_path)
    (only,) = rounds
    assert "ONNX Runtime" in backend
    assert 0 < only.complete < min(only.picture, only.labels)
    assert only.segment > 0
    assert (tmp_path / "compared" / "1__labels.mrc").exists()


@pytest.mark.parametrize("text", ["8", "8x8", "8x8x0", "8x8x8x8", "axbxc"])
def test_a_shape_that_is_none_is_refused(latency, text):
    with pytest.raises((argparse.ArgumentTypeError, ValueError)):
        latency._shape(text)

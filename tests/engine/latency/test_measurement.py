"""Queries on a backend whose time is played: what is counted, and what the figures are."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from tomoscribe.engine import Bundle
from tomoscribe.engine.backends import BACKENDS, choose_backend
from tomoscribe.engine.backends.cpu import allocate_slots
from tomoscribe.engine.errors import BackendError, ParameterError
from tomoscribe.engine.latency.configuration import Choice, Configuration, Effort, choose, in_words
from tomoscribe.engine.latency.measurement import Latency, measure_latency
from tomoscribe.engine.latency.sweep import Sweep

SPECIFICATION = SimpleNamespace(context=1, classes=3)
MS = 1_000_000


class PlayedBackend:
    """Takes 1 ms to submit a query, and `taken` ms for the n-th; its streams run side by side. `clock` is in ns."""

    def __init__(self, streams, taken=lambda n: 10):
        self.streams = streams
        self.description = "played"
        self.taken = taken
        self.clock = 0
        self.ends = {}
        self.order = []
        self.submitted = 0
        self.cancelled = 0

    def allocate(self, shape, count):
        self.shape = shape
        self.slots = allocate_slots("played", shape, count)
        return self.slots

    def submit(self, slot):
        assert id(slot) not in self.ends, "submitted twice"
        assert slot.count == self.shape.batch
        assert np.isfinite(slot.slices).all()
        self.clock += MS
        self.ends[id(slot)] = self.clock + self.taken(self.submitted) * MS
        self.order.append(id(slot))
        self.submitted += 1

    def wait(self, slot):
        assert self.order.pop(0) == id(slot), "waited for out of turn"
        self.clock = max(self.clock, self.ends.pop(id(slot)))

    def cancel(self):
        self.cancelled += 1

    def now(self):
        return self.clock


def configuration(streams, batch=2, tile=(4, 8)):
    return Configuration("onnxruntime", "fp32", "cpu", tile, batch, streams)


def play(backend, **effort):
    effort = Effort(**{"warm_up": 0, "duration": 0, "runs": 1} | effort)
    return measure_latency(backend, configuration(backend.streams), SPECIFICATION, effort, backend.now)


def test_one_stream_has_its_latency_and_its_throughput():
    backend = PlayedBackend(1)
    found = play(backend, runs=7)
    assert (found.queries, found.warm_ups) == (7, 1)
    assert found.latency.minimum == found.latency.p50 == found.latency.p99 == found.latency.maximum == 11
    assert found.enqueue.p50 == 1
    assert found.wall_time == pytest.approx(7 * 0.011)
    # 2 slices of 4 × 8 in 11 ms.
    assert found.mvoxels_per_second == pytest.approx(64 / 0.011 / 1e6)
    assert backend.cancelled == 1


def test_several_streams_have_work_all_the_while():
    found = play(PlayedBackend(3, taken=lambda n: 99), runs=9)
    assert found.answered.shape == (3, 3)
    # A stream takes 100 ms for a query, of which the others see nothing but the 1 ms of its submission.
    assert found.latency.p50 == 100
    assert found.wall_time == pytest.approx(0.3)
    assert found.queries_per_second == pytest.approx(30)


def test_a_warm_up_does_not_count():
    backend = PlayedBackend(1, taken=lambda n: 499 if n < 2 else 9)
    found = play(backend, warm_up=600, runs=5)
    assert found.warm_ups == 2
    assert found.latency.maximum == 10
    assert found.start == 1000 * MS


@pytest.mark.parametrize(("effort", "queries"), [({"duration": 0.055}, 6), ({"duration": 0.055, "runs": 8}, 8)])
def test_queries_go_on_for_the_duration_and_the_runs(effort, queries):
    assert play(PlayedBackend(1, taken=lambda n: 9), **effort).queries == queries


def test_all_streams_take_their_turn_to_the_end():
    assert play(PlayedBackend(4), runs=5).queries == 8


def test_a_backend_that_fails_is_cancelled():
    backend = PlayedBackend(2)

    def fail(slot):
        raise BackendError("broken")

    backend.wait = fail
    with pytest.raises(BackendError, match="broken"):
        play(backend)
    assert backend.cancelled == 1


def of_times(milliseconds, streams=1):
    """The latency of queries that took so long one after the other, submitted in 1 ms."""
    answered = np.cumsum(np.array(milliseconds) * MS).reshape(-1, streams)
    submitted = answered - (np.array(milliseconds) * MS).reshape(-1, streams)
    return Latency(configuration(streams, 1, (1000, 1000)), "", 1, 0, submitted, submitted + MS, answered)


def test_figures_have_the_errors_of_five_parts():
    times = [10.0] * 4 + [12.0] * 4 + [14.0] * 4 + [16.0] * 4 + [18.0] * 4
    figures = of_times(times).figures()
    medians, speeds = np.array([10, 12, 14, 16, 18]), 1000 / np.array([10, 12, 14, 16, 18])
    assert figures["latency_p50_ms"].value == 14
    assert figures["latency_p50_ms"].error == pytest.approx(medians.std(ddof=1) / medians.mean() / 5**0.5)
    assert figures["mvoxels_per_second"].value == pytest.approx(1000 / 14)
    assert figures["mvoxels_per_second"].error == pytest.approx(speeds.std(ddof=1) / speeds.mean() / 5**0.5)


@pytest.mark.parametrize(("count", "left"), [(19, ["p50", "p90"]), (20, ["p50", "p90", "p95"]), (9, ["p50"])])
def test_a_percentile_that_is_the_longest_is_no_figure(count, left):
    figures = of_times(np.arange(count) + 1.0).figures()
    assert [name.split("_")[1] for name in figures if name.startswith("latency")] == left


def test_a_pace_that_submitting_sets_is_told():
    assert of_times([1.2] * 3).enqueue_bound
    assert not of_times([1.3] * 3).enqueue_bound


@pytest.mark.parametrize("wrong", [{"warm_up": -1}, {"duration": -0.1}, {"runs": 0}])
def test_an_effort_that_cannot_be_is_refused(wrong):
    with pytest.raises(ParameterError, match="warm-up"):
        Effort(**wrong)


@pytest.mark.parametrize("backend", ["auto", "onnxruntime"])
def test_what_is_chosen_is_what_segment_takes(tiny_bundle, backend):
    bundle = Bundle.load(tiny_bundle)
    found = choose(bundle, backend, "auto", "cpu")
    chosen, _ = choose_backend(backend, bundle, device="cpu")
    chosen.close()
    assert (found.backend, found.device, found.streams) == (chosen.name, "cpu", chosen.streams)
    assert found.reason.startswith(f"{found.backend} {found.precision},")
    BACKENDS[found.backend](bundle, precision=found.precision, streams=1).close()


@pytest.mark.parametrize(
    ("name", "device", "found"),
    [("tensorrt", "auto", "0"), ("tensorrt", "3", "3"), ("tensorrt", "1, 0", "1,0"), ("openvino", "auto", "cpu")],
)
def test_the_device_is_that_which_was_chosen(monkeypatch, name, device, found):
    asked = []
    chosen = SimpleNamespace(name=name, description="A 1.0 on GPU 0, B, FP16", streams=2, close=lambda: None)

    def choose_backend(backend, bundle, **how):
        asked.append((backend, bundle, how))
        return chosen, "why"

    monkeypatch.setattr("tomoscribe.engine.latency.configuration.choose_backend", choose_backend)
    assert choose("bundle", "auto", "auto", device, building=len) == Choice(name, "fp16", found, 2, "why")
    assert asked == [("auto", "bundle", {"precision": "auto", "device": device, "building": len})]


def test_what_runs_where_is_said_in_words():
    assert in_words("openvino", "int8", "cpu") == "openvino int8"
    assert in_words("tensorrt", "fp16", "0,1") == "tensorrt fp16 on GPU 0,1"
    on_gpu = Configuration("tensorrt", "fp16", "0", (64, 32), 2, 1)
    assert str(on_gpu) == "tensorrt fp16 on GPU 0, tiles of 64x32, batch 2, 1 stream"
    assert on_gpu.to_json()["device"] == "0"


class TestSweep:
    def configurations(self, bundle, choices, **sweep):
        steps = Sweep(slices=0, cold_starts=0, **sweep).steps(bundle, choices)
        return [step.description for step in steps]

    def test_every_combination_is_a_step(self, tiny_bundle):
        choices = [choose(Bundle.load(tiny_bundle), "onnxruntime", "fp32")] * 2
        sweep = Sweep(tiles=[(8, 8), (8, 16)], batches=[1, 3], streams=[1, 2, 4], slices=2, cold_starts=1)
        steps = sweep.steps(Bundle.load(tiny_bundle), choices)
        assert len(steps) == 2 * 2 * 2 * 3 + 2 * 2 + 2 * 2
        assert steps[3].description == "onnxruntime fp32, tiles of 8x8, batch 3, 1 stream"
        assert steps[-5].description == "onnxruntime fp32, a volume of 16 x 8 x 2 from file to files"

    def test_as_many_streams_as_segment_takes_are_not_measured_twice(self, tiny_bundle):
        choice = Choice("onnxruntime", "fp32", "cpu", 2, "")
        found = self.configurations(Bundle.load(tiny_bundle), [choice], tiles=[(8, 8)], streams=[1, None, 2])
        assert [line.rpartition(", ")[2] for line in found] == ["1 stream", "2 streams"]

    def test_several_gpus_have_a_query_each_at_least(self, tiny_bundle):
        choice = Choice("tensorrt", "fp16", "0,1", 4, "")
        found = self.configurations(Bundle.load(tiny_bundle), [choice], tiles=[(8, 8)], streams=[1, 2, None, 6])
        assert [line.rpartition(", ")[2] for line in found] == ["2 streams", "4 streams", "6 streams"]

    def test_every_step_is_told_where_and_who_hears_of_plans(self, tiny_bundle, monkeypatch):
        calls = {}
        for function in ("build_backend", "measure_volume", "measure_cold_start"):
            monkeypatch.setattr(
                f"tomoscribe.engine.latency.sweep.{function}",
                lambda *_, function=function, **how: calls.update({function: how}) or PlayedBackend(1),
            )
        monkeypatch.setattr("tomoscribe.engine.latency.sweep.measure_latency", lambda *_: None)
        monkeypatch.setattr(PlayedBackend, "close", lambda self: None, raising=False)
        choice = Choice("tensorrt", "fp16", "1", 2, "")
        bundle = Bundle.load(tiny_bundle)
        steps = Sweep(tiles=[(8, 8)], streams=[None], cold_starts=1).steps(bundle, [choice], len)
        assert all("tensorrt fp16 on GPU 1, " in step.description for step in steps)
        for step in steps:
            step.run()
        assert calls["build_backend"] == {"precision": "fp16", "streams": 2, "device": "1", "building": len}
        assert calls["measure_volume"] == {"device": "1", "building": len}
        assert calls["measure_cold_start"] == {"device": "1", "repeats": 1}

    @pytest.mark.parametrize("wrong", [{"tiles": [(8, 12)]}, {"tiles": [(0, 8)]}, {"tiles": [(8, 8)], "batches": [0]}])
    def test_what_cannot_be_measured_is_refused_before(self, tiny_bundle, wrong):
        with pytest.raises(ParameterError, match=r"tile .* multiples of 8|batch 0"):
            self.configurations(Bundle.load(tiny_bundle), [], **wrong)

    def test_a_backend_is_closed_whatever_happens(self, tiny_bundle, monkeypatch):
        backend = PlayedBackend(2)
        backend.close = lambda: setattr(backend, "closed", True)
        backend.wait = lambda slot: (_ for _ in ()).throw(KeyboardInterrupt)
        built = []
        monkeypatch.setitem(BACKENDS, "onnxruntime", lambda bundle, **options: built.append(options) or backend)
        choice = Choice("onnxruntime", "fp32", "cpu", 2, "")
        bundle = Bundle.load(tiny_bundle)
        step, *_ = Sweep(tiles=[(8, 8)], streams=[None]).steps(bundle, [choice])
        with pytest.raises(KeyboardInterrupt):
            step.run()
        assert built == [{"precision": "fp32", "streams": 2}]
        assert backend.closed

    def test_a_step_measures_a_real_backend(self, tiny_bundle, no_thread_is_left):
        bundle = Bundle.load(tiny_bundle)
        sweep = Sweep(tiles=[(16, 8)], streams=[1], slices=0, cold_starts=0, effort=Effort(0, 0, 12))
        (step,) = sweep.steps(bundle, [choose(bundle, "onnxruntime", "fp32")])
        found = step.run()
        assert found.queries == 12
        assert "1 stream on" in found.description
        assert 0 < found.latency.minimum <= found.latency.p50 <= found.latency.p99 <= found.latency.maximum
        assert found.latency.mean * found.queries / 1000 <= found.wall_time * 1.001 + 0.001

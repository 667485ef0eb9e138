"""Trials against a clock that only the backends move."""

from __future__ import annotations

import numpy as np
import pytest

from tomoscribe.engine.backends.contract import Slot
from tomoscribe.engine.backends.trial import run_trial
from tomoscribe.engine.bundle import ModelSpecification
from tomoscribe.engine.class_map import DEFAULT_CLASS_MAP
from tomoscribe.engine.errors import BackendError

SPECIFICATION = ModelSpecification("model", DEFAULT_CLASS_MAP, 2, 96, 0, (8.0, 16.0))


class Timed:
    """Takes the given seconds for a turn, the last of them for all further ones; None is a failure."""

    def __init__(self, clock, log, name, *seconds, streams=1):
        self.clock, self.log, self.name, self.seconds, self.streams = clock, log, name, list(seconds), streams
        self.in_work = 0

    def allocate(self, shape, count):
        self.shape, self.count = shape, count
        tile = (shape.height, shape.width)
        inputs = shape.batch + 2 * shape.context
        self.slots = [
            Slot(np.full((inputs, *tile), np.nan, np.float32), np.full(inputs, 9.0), np.full(inputs, 9.0), None, None)
            for _ in range(count)
        ]
        return self.slots

    def submit(self, slot):
        self.in_work += 1
        assert slot.count == 1
        assert np.isfinite(slot.slices).all()

    def wait(self, slot):
        if slot is not self.slots[0]:
            return
        assert self.in_work == self.count, "not all streams were given work"
        self.in_work = 0
        self.log.append(self.name)
        seconds = self.seconds.pop(0) if len(self.seconds) > 1 else self.seconds[0]
        if seconds is None:
            raise BackendError(f"{self.name}: out of order")
        self.clock[0] += seconds

    def cancel(self):
        self.log.append(f"{self.name} cancelled")


@pytest.fixture
def timed(monkeypatch):
    clock, log = [0.0], []
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])

    def make(**seconds):
        streams = seconds.pop("streams", 1)
        return {name: Timed(clock, log, name, *values, streams=streams) for name, values in seconds.items()}, log

    return make


def test_backends_take_turns_and_the_first_turn_does_not_count(timed):
    backends, log = timed(a=[0.25, 0.0625, 0.03125, 0.125, 0.0625], b=[0.0, 0.03125])
    trial = run_trial(backends, SPECIFICATION)
    assert trial.seconds == {"a": 0.0625, "b": 0.03125}
    assert trial.failures == []
    assert log == ["a", "b"] * 10


def test_every_stream_gets_a_slot_of_a_tile_that_fits_the_model(timed):
    backends, _ = timed(a=[0.25], streams=4)
    trial = run_trial(backends, SPECIFICATION)
    assert trial.seconds == {"a": 0.0625}
    shape = backends["a"].shape
    assert (shape.batch, shape.context, shape.height, shape.width, shape.classes) == (1, 2, 192, 192, 6)
    assert backends["a"].count == 4
    assert all((slot.mean == 0).all() and (slot.rstd == 1).all() for slot in backends["a"].slots)


def test_a_long_trial_ends_after_the_turn_that_it_needs(timed):
    backends, log = timed(a=[8.0, 4.0], b=[1.0, 2.0])
    trial = run_trial(backends, SPECIFICATION)
    assert trial.seconds == {"a": 4.0, "b": 2.0}
    assert log == ["a", "b"] * 2


@pytest.mark.parametrize(
    ("seconds", "calm"),
    [
        ([0.5, 0.125, 0.15625], True),  # the median is 1.25 times the shortest
        ([0.125, 0.125, 0.1875, 0.1875], False),
        ([8.0, 4.0], True),  # a single turn tells nothing
    ],
)
def test_a_trial_is_calm_where_no_turn_is_much_shorter_than_most(timed, seconds, calm):
    backends, _ = timed(a=[0.0, 0.0625], b=seconds)
    assert run_trial(backends, SPECIFICATION).calm is calm


@pytest.mark.parametrize("seconds", [[None], [0.125, 0.125, None, 0.125]])
def test_one_that_fails_is_left_out(timed, seconds):
    backends, log = timed(a=[0.125], b=seconds)
    trial = run_trial(backends, SPECIFICATION)
    assert trial.seconds == {"a": 0.125}
    assert trial.failures == ["b: out of order"]
    assert log.count("b cancelled") == 1
    assert "b" not in log[log.index("b cancelled") :]


def test_where_all_fail_that_is_said(timed):
    backends, _ = timed(a=[None], b=[0.125, None])
    with pytest.raises(BackendError, match=r"^a: out of order; b: out of order$"):
        run_trial(backends, SPECIFICATION)

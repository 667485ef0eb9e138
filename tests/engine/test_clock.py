"""The clock and the recorder, on a time that is counted."""

from __future__ import annotations

from itertools import count

import numpy as np
import pytest

from tomoscribe.engine import stream as stream_module
from tomoscribe.engine.clock import STAGES, Clock, Recorder

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


def counted(kind=Recorder):
    """A clock that is a nanosecond later whenever it is looked at."""
    return kind(count().__next__)


def test_a_stage_takes_what_its_blocks_take_and_failed_blocks_count():
    clock = counted(Clock)
    with clock.measure("read"):
        pass
    with pytest.raises(OSError), clock.measure("read"), clock.measure("write"):
        raise OSError
    assert clock.seconds == dict.fromkeys(STAGES, 0.0) | {"read": 4e-9, "write": 1e-9}


def test_one_slot_goes_through_the_stages_in_turn(fakes):
    values, recorder = fakes.volume(3), counted()
    sink = fakes.Sink(values.shape)
    times = fakes.run(
        fakes.Tomogram(values), fakes.Backend(), fakes.plan_for(values), [sink], batch=1, slots=1, recorder=recorder
    )
    assert recorder.slots == 1
    looks = iter(range(100))
    expected = {stage: [] for stage in STAGES}
    begin = next(looks)
    for stage in ("allocate", *3 * ("read", "submit", "wait", "write"), "complete"):
        expected[stage].append([next(looks), next(looks)])
    expected["total"].append([begin, next(looks)])
    assert {stage: recorder.intervals(stage).tolist() for stage in STAGES} == expected
    assert times.total == expected["total"][0][1] * 1e-9
    assert times.read == times.wait == pytest.approx(3e-9)


def test_every_tile_is_recorded_by_every_stage_in_its_order(fakes):
    values, recorder = fakes.volume(8), Recorder()
    plan = fakes.plan_for(values, 8)
    fakes.run(fakes.Tomogram(values), fakes.Backend(), plan, [fakes.Sink(values.shape)], recorder=recorder)
    stages = [recorder.intervals(stage) for stage in ("read", "submit", "wait", "write")]
    assert len(plan.tiles) > 1
    assert {stage.shape for stage in stages} == {(4 * len(plan.tiles), 2)}
    # Along a slotful's way, and along a stage's work.
    assert (np.diff(np.concatenate(stages, axis=1)) >= 0).all()
    assert all((np.diff(stage.ravel()) >= 0).all() for stage in stages)


def test_a_recorder_holds_the_last_stream(fakes):
    recorder = Recorder()
    for depth in (7, 3):
        values = fakes.volume(depth)
        fakes.run(fakes.Tomogram(values), fakes.Backend(), fakes.plan_for(values), [], batch=1, recorder=recorder)
    assert len(recorder.intervals("write")) == 3
    assert len(recorder.intervals("total")) == 1
    assert recorder.seconds["total"] == np.diff(recorder.intervals("total"))[0, 0] / 1e9


def test_nothing_is_recorded_that_nobody_asked_for(fakes, monkeypatch):
    clocks = []
    monkeypatch.setattr(stream_module, "Clock", lambda: clocks.append(Clock()) or clocks[-1])
    monkeypatch.setattr(Recorder, "add", lambda *arguments: pytest.fail("recorded"))
    values = fakes.volume(3)
    times = fakes.run(fakes.Tomogram(values), fakes.Backend(), fakes.plan_for(values), [])
    assert [type(clock) for clock in clocks] == [Clock]
    assert clocks[0].seconds["total"] == times.total > 0

"""Profiles of simulated lines, against counting tick by tick."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tomoscribe.engine.clock import Recorder
from tomoscribe.engine.errors import ParameterError
from tomoscribe.engine.profile import Profile

TICK = 10**6  # nanoseconds
OUTSIDE = 3  # ticks that `allocate` takes


def simulate(work, slots, complete=4):
    """Carry jobs that take (read, submit, infer, write) ticks through a line; returns its recorder and the intervals.

    The backend works on one slot after the other.
    """
    jobs, computed = [], 0
    for number, (read, submit, infer, write) in enumerate(work):
        before = jobs[-1] if jobs else dict.fromkeys(("read", "submit", "wait", "write"), (0, 0))
        freed = jobs[number - slots]["write"][1] if number >= slots else 0
        job, start = {}, max(before["read"][1], freed)
        job["read"] = start, start + read
        start = max(before["submit"][1], job["read"][1])
        job["submit"] = start, start + submit
        computed = max(computed, job["submit"][1]) + infer
        start = max(before["write"][1], job["submit"][1])
        job["wait"] = start, max(start, computed)
        job["write"] = job["wait"][1], job["wait"][1] + write
        jobs.append(job)
    recorder = Recorder()
    recorder.begin(slots)
    end = jobs[-1]["write"][1]
    recorder.add("allocate", -OUTSIDE * TICK, 0)
    for job in jobs:
        for stage, (start, stop) in job.items():
            recorder.add(stage, start * TICK, stop * TICK)
    recorder.add("complete", end * TICK, (end + complete) * TICK)
    recorder.add("total", -OUTSIDE * TICK, (end + complete) * TICK)
    return recorder, jobs


def assert_counted(profile, jobs, slots):
    """Compare with what is seen when the line is looked at once a tick."""
    end = jobs[-1]["write"][1]
    ticks = range(end)

    def inside(tick, start, stop):
        return start <= tick < stop

    spans = {stage: [job[stage] for job in jobs] for stage in ("read", "submit", "write")}
    spans["infer"] = [(job["submit"][1], job["wait"][1]) for job in jobs]
    for stage, intervals in spans.items():
        busy = sum(any(inside(tick, *interval) for interval in intervals) for tick in ticks)
        assert profile.stages[stage].busy == pytest.approx(busy * TICK / 1e9)
        assert profile.stages[stage].idle == pytest.approx((intervals[-1][1] - busy) * TICK / 1e9)
        assert profile.stages[stage].share == pytest.approx(profile.stages[stage].busy / profile.total)
    lying = {
        "filled": [(job["read"][1], job["submit"][0]) for job in jobs],
        "submitted": spans["infer"],
    }
    for queue, intervals in lying.items():
        total = sum(inside(tick, *interval) for tick in ticks for interval in intervals)
        assert profile.queues[queue].mean == pytest.approx(total / end)
        # What passes within an instant has been there.
        most = max(sum(start <= tick <= stop for start, stop in intervals) for tick in range(end + 1))
        assert profile.queues[queue].largest == most
    used = sum(inside(tick, job["read"][0], job["write"][1]) for tick in ticks for job in jobs)
    assert profile.queues["free"].mean == pytest.approx(slots - used / end)
    assert profile.queues["free"].largest == slots
    assert profile.waited == pytest.approx(sum(job["wait"][1] - job["wait"][0] for job in jobs) * TICK / 1e9)


ticks = st.integers(0, 5)


@given(
    work=st.lists(st.tuples(st.integers(1, 5), ticks, ticks, ticks), min_size=1, max_size=12), slots=st.integers(1, 5)
)
def test_a_profile_is_what_is_seen_tick_by_tick(work, slots):
    recorder, jobs = simulate(work, slots)
    profile = Profile.of(recorder)
    assert (profile.slots, profile.jobs) == (slots, len(work))
    assert profile.total == pytest.approx((OUTSIDE + jobs[-1]["write"][1] + 4) * TICK / 1e9)
    assert_counted(profile, jobs, slots)
    assert profile.stages["allocate"].busy == pytest.approx(OUTSIDE * TICK / 1e9)
    assert profile.stages["complete"].busy == pytest.approx(4 * TICK / 1e9)


@pytest.mark.parametrize(
    ("job", "slots", "bottleneck", "why"),
    [
        ((9, 0, 5, 2), 3, "read", r"at work 98% .* and the backend had nothing to do for 4\d% of it"),
        ((3, 9, 4, 2), 3, "submit", r"at work 98% .* and the backend had nothing to do for 5\d% of it"),
        ((2, 0, 9, 3), 3, "infer", r"at work 99% .* and the reader waited for a free slot for 7\d% of it"),
        ((3, 0, 9, 8), 3, "infer", r"at work 97% .* and the reader waited"),  # the writer is slower than it waits
        ((2, 0, 5, 9), 3, "write", r"at work 98% .* and the reader waited for a free slot for 7\d% of it"),
        ((3, 1, 4, 3), 1, "infer", r"at work 36% .* no stage all the time: .* the slots are too few"),
    ],
)
def test_the_stage_that_sets_the_pace_is_named_with_the_reason(job, slots, bottleneck, why):
    profile = Profile.of(simulate([job] * 40, slots)[0])
    assert profile.bottleneck == bottleneck
    assert "\n" not in profile.reason
    assert re.search(why, profile.reason), profile.reason


def test_what_nothing_overlaps_is_named_where_it_outweighs_the_rest():
    profile = Profile.of(simulate([(1, 1, 1, 1)] * 3, 3, complete=100)[0])
    assert profile.bottleneck == "complete"
    assert profile.reason.startswith("it took 9")


def test_json_has_every_figure():
    profile = Profile.of(simulate([(2, 1, 9, 3)] * 5, 3)[0])
    read = json.loads(json.dumps(profile.to_json()))
    assert list(read) == ["total", "slots", "jobs", "stages", "waited", "queues", "bottleneck", "reason"]
    assert list(read["stages"]) == ["allocate", "read", "submit", "infer", "write", "complete"]
    assert read["stages"]["infer"] == {"busy": 0.045, "idle": 0.003, "share": round(45 / 58, 6)}
    assert read["queues"]["submitted"]["largest"] == profile.queues["submitted"].largest


@pytest.mark.parametrize("stage", ["read", "wait", "write"])
@pytest.mark.parametrize("at", [0, 4])
def test_a_stream_that_failed_has_no_profile(fakes, stage, at):
    values, recorder = fakes.volume(20), Recorder()
    tomogram, trouble = fakes.Tomogram(values), fakes.raises(OSError("injected"), at)
    if stage == "read":
        tomogram.before_read = lambda start, out: trouble()
    sink = fakes.Sink(values.shape, {stage: trouble})
    with pytest.raises(OSError, match="injected"):
        fakes.run(tomogram, fakes.Backend({stage: trouble}), fakes.plan_for(values), [sink], recorder=recorder)
    with pytest.raises(ParameterError, match=r"expected .* found none or one that failed"):
        Profile.of(recorder)


def test_a_recorder_that_was_passed_to_no_stream_has_no_profile():
    with pytest.raises(ParameterError, match="found none"):
        Profile.of(Recorder())


def test_a_stream_has_a_profile(fakes):
    values, recorder = fakes.volume(9), Recorder()
    times = fakes.run(
        fakes.Tomogram(values), fakes.Backend(), fakes.plan_for(values), [fakes.Sink(values.shape)], recorder=recorder
    )
    profile = Profile.of(recorder)
    assert profile.total == times.total
    assert profile.stages["read"].busy == pytest.approx(times.read)
    assert profile.stages["complete"].busy == times.complete
    assert profile.stages["infer"].busy >= profile.waited == times.wait
    assert (profile.slots, profile.jobs) == (3, 5)
    assert profile.queues["free"].largest == 3
    assert profile.queues["filled"].largest + profile.queues["submitted"].largest <= 6

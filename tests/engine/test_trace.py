"""Trace files against what the Trace Event Format asks for."""

from __future__ import annotations

import json
from collections import defaultdict
from itertools import count

import pytest

from tomoscribe.engine import trace as trace_module
from tomoscribe.engine.clock import Recorder
from tomoscribe.engine.errors import OutputError, ParameterError
from tomoscribe.engine.trace import write_trace

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


def checked_events(path):
    """Return a trace's events, by phase; fails where a viewer would drop or misplace one."""
    page = json.loads(path.read_text(encoding="utf-8"))
    assert page["displayTimeUnit"] in ("ms", "ns")
    events = defaultdict(list)
    for event in page["traceEvents"]:
        assert isinstance(event["name"], str)
        assert isinstance(event["pid"], int)
        assert isinstance(event["args"], dict)
        if event["ph"] != "M":
            assert isinstance(event["ts"], float)
            assert event["ts"] >= 0
        events[event["ph"]].append(event)
    assert {"M", "X"} <= events.keys() <= {"M", "X", "C"}
    for event in events["C"]:
        assert event["args"]
        assert all(isinstance(value, int) and value >= 0 for value in event["args"].values())
    names = {event["tid"]: event["args"]["name"] for event in events["M"] if event["name"] == "thread_name"}
    threads = defaultdict(list)
    for event in events["X"]:
        assert event["dur"] >= 0
        threads[event["tid"]].append((event["ts"], -event["dur"]))
    assert threads.keys() <= names.keys()
    for spans in threads.values():
        assert_nested(sorted(spans))
    return events, names


def assert_nested(spans):
    """Check that each span lies within those that are open when it starts, or after them."""
    slack, ends = 1e-6, []  # of a microsecond, for sums of decimals
    for start, minus in spans:
        while ends and ends[-1] <= start + slack:
            ends.pop()
        assert not ends or start - minus <= ends[-1] + slack
        ends.append(start - minus)


def record(fakes, depth=5, **options):
    values, recorder = fakes.volume(depth), Recorder()
    fakes.run(
        fakes.Tomogram(values),
        fakes.Backend(),
        fakes.plan_for(values),
        [fakes.Sink(values.shape)],
        recorder=recorder,
        **options,
    )
    return recorder


def test_every_interval_is_an_event_of_its_thread(fakes, tmp_path):
    recorder = record(fakes)
    write_trace(recorder, tmp_path / "trace.json")
    events, names = checked_events(tmp_path / "trace.json")
    origin = recorder.intervals("total")[0, 0]
    expected = {
        (thread, stage, job, (start - origin) / 1000, (stop - start) / 1000)
        for thread, stages in {
            "reader": ["read"],
            "calling thread": ["total", "allocate", "submit", "complete"],
            "assembler": ["wait", "write"],
        }.items()
        for stage in stages
        for job, (start, stop) in enumerate(recorder.intervals(stage))
    }
    found = {(names[e["tid"]], e["name"], e["args"]["job"], e["ts"], e["dur"]) for e in events["X"]}
    assert found == expected
    assert len(events["X"]) == 3 + 4 * 3


def test_counters_follow_the_queues(fakes, tmp_path):
    values, recorder = fakes.volume(2), Recorder(count(0, 1000).__next__)
    fakes.run(fakes.Tomogram(values), fakes.Backend(), fakes.plan_for(values), [], batch=1, slots=1, recorder=recorder)
    write_trace(recorder, tmp_path / "trace.json")
    events, _ = checked_events(tmp_path / "trace.json")
    counters = defaultdict(list)
    for event in events["C"]:
        counters[event["name"]].append((event["ts"], event["args"]["slots"]))
    # A look at the clock is a microsecond: read 3 to 4, submit 5 to 6, wait 7 to 8, write 9 to 10, and once more.
    assert counters == {
        "free": [(3, 1), (3, 0), (10, 1), (11, 0), (18, 1)],
        "filled": [(3, 0), (4, 1), (5, 0), (12, 1), (13, 0)],
        "submitted": [(3, 0), (6, 1), (8, 0), (14, 1), (16, 0)],
    }


@pytest.mark.parametrize("error", [OSError("injected"), KeyboardInterrupt()])
@pytest.mark.parametrize("stage", ["allocate", "submit", "wait", "write"])
def test_a_stream_that_failed_has_a_trace(fakes, tmp_path, stage, error):
    values, recorder = fakes.volume(20), Recorder()
    trouble = {stage: fakes.raises(error, 0 if stage == "allocate" else 3)}
    with pytest.raises(type(error)):
        fakes.run(
            fakes.Tomogram(values),
            fakes.Backend(trouble),
            fakes.plan_for(values, 8),
            [fakes.Sink(values.shape, trouble)],
            recorder=recorder,
        )
    write_trace(recorder, tmp_path / "trace.json")
    events, _ = checked_events(tmp_path / "trace.json")
    failed_at = 1 if stage == "allocate" else 4
    assert sum(event["name"] == stage for event in events["X"]) == len(recorder.intervals(stage)) >= failed_at


@pytest.mark.parametrize("error", [OSError("injected"), KeyboardInterrupt()])
def test_a_trace_that_cannot_be_written_leaves_the_old_one(fakes, tmp_path, monkeypatch, error):
    path = tmp_path / "trace.json"
    path.write_text("old")
    recorder, fail = record(fakes), fakes.raises(error, 5)
    dump = json.dump
    monkeypatch.setattr(trace_module.json, "dump", lambda *arguments: (fail(), dump(*arguments)))
    with pytest.raises(OutputError if isinstance(error, OSError) else KeyboardInterrupt):
        write_trace(recorder, path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_recorder_that_was_passed_to_no_stream_is_refused(tmp_path):
    with pytest.raises(ParameterError, match="nothing recorded"):
        write_trace(Recorder(), tmp_path / "trace.json")
    assert not list(tmp_path.iterdir())

"""What the page's JSON says of a ledger."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tomoscribe.engine.class_map import DEFAULT_CLASS_MAP
from tomoscribe.engine.watch.entry import Identity, State
from tomoscribe.engine.watch.page.answers import encode_json
from tomoscribe.engine.watch.page.views import Views
from tomoscribe.engine.watch.settings import WatchSettings

DEPTH, HEIGHT, WIDTH = 24, 60, 80


@pytest.fixture
def views(session):
    return Views(session.ledger, session.settings, DEFAULT_CLASS_MAP)


def test_an_empty_ledger(session, views):
    status = views.status(time.time())
    assert status["folder"] == "session_7"
    assert status["states"] == dict.fromkeys(State, 0)
    assert (status["running"], status["newest"], status["paused"]) == ([], None, None)
    assert status["totals"] == {"tomograms": 0, "voxels": 0, "seconds": 0}
    assert status["latency"]["labels"] == {"p50": None, "p90": None, "p99": None}
    assert status["classes"] == DEFAULT_CLASS_MAP.to_json()
    json.loads(encode_json(status))


def test_what_the_watchers_tell(session, views):
    session.beat(paused=f"{session.settings.output}: no space", free_bytes=5, model="mine")
    status = views.status(time.time())
    assert (status["model"], status["backend"], status["free_bytes"]) == ("mine", "ONNX Runtime, int8", 5)
    assert status["paused"] == status["watchers"][0]["paused"] == "labels: no space"
    assert status["watchers"][0]["folder"] == "session_7"
    assert "owner" not in status["watchers"][0]
    late = views.status(time.time() + 16)
    assert (late["watchers"], late["model"], late["paused"]) == ([], None, None)


def test_states_are_counted_and_the_revision_is_there(session, views):
    session.label("a.mrc")
    session.fail("b.mrc", "it is empty")
    session.notice("c.mrc")
    status = views.status(time.time())
    assert {state: count for state, count in status["states"].items() if count} == {
        "done": 1,
        "quarantined": 1,
        "waiting": 1,
    }
    assert status["revision"] == session.ledger.revision()
    assert status["totals"]["voxels"] == DEPTH * HEIGHT * WIDTH


def test_the_speed_of_what_is_running(session, views):
    entry = session.preview("a.mrc")
    begun = session.ledger.get(entry.number).previewed
    (running,) = views.status(begun + 2)["running"]
    assert (running["slices_per_second"], running["voxels_per_second"]) == (None, None)
    session.ledger.progress(entry.number, session.owner, 12)
    (running,) = views.status(begun + 2)["running"]
    assert running["number"] == entry.number
    assert running["slices_per_second"] == pytest.approx(6)
    assert running["voxels_per_second"] == pytest.approx(6 * HEIGHT * WIDTH)


def test_the_newest_is_the_newest_file_that_can_be_seen(session, views):
    first = session.label("a.mrc")
    second = session.label("b.mrc")
    assert views.status(time.time())["newest"]["number"] == second
    session.fail("c.mrc", "no")
    session.notice("d.mrc")
    assert views.status(time.time())["newest"]["number"] == second
    session.ledger.gone("d.mrc", time.time())
    running = session.preview("e.mrc")
    assert views.status(time.time())["newest"]["number"] == running.number
    session.ledger.notice("b.mrc", Identity(1, 10**18, 1), State.ARRIVING, time.time())
    session.ledger.gone("e.mrc", time.time())
    assert views.status(time.time())["newest"]["number"] == first


def test_latencies_follow_what_is_finished(session, views):
    session.label("a.mrc")
    assert views.status(time.time())["latency"]["labels"]["p50"] < 60
    entry = session.preview("b.mrc")
    with session.ledger._file.writing() as (connection, _):
        connection.execute("UPDATE entries SET complete = complete - 1000 WHERE number = ?", [entry.number])
    session.finish(entry)
    latency = views.status(time.time())["latency"]
    assert 990 < latency["labels"]["p99"] < 1060
    assert 400 < latency["preview"]["p50"] < 560


def test_no_place_on_the_disk_is_told(session, views):
    folder, output = session.settings.folder, session.settings.output
    reason = f"{folder}/grid/a.mrc: expected more, found {output}/a__labels.mrc and {folder.resolve()}/b.mrc"
    entry = session.ledger.get(session.fail("grid/a.mrc", reason))
    entry = replace(entry, warnings=(f"{folder}/x is odd",), hook=f"exit 1: {output}/y")
    shown = views.entry(entry)
    assert shown["reason"] == "grid/a.mrc: expected more, found a__labels.mrc and b.mrc"
    assert shown["warnings"] == ["x is odd"]
    assert shown["hook"] == "exit 1: y"
    assert str(folder.parent) not in encode_json(views.status(time.time()))


def test_other_places_are_told_as_they_are(session, views):
    folder = session.settings.folder
    for text in (f"{folder}_2/a.mrc: is odd", f"/mnt{folder}/a.mrc", f"{folder}.old is full", "", "/"):
        assert views.entry(session.ledger.get(session.fail(f"{len(text)}.mrc", text)))["reason"] == text


def test_folders_that_lie_in_each_other_and_are_relative(session, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    views = Views(session.ledger, WatchSettings(Path(), Path("labels")), DEFAULT_CLASS_MAP)
    assert views.status(time.time())["folder"] == tmp_path.name
    entry = session.ledger.get(session.fail("a.mrc", f"labels/a: and {tmp_path}/labels/b, {tmp_path}/c. ./d"))
    assert views.entry(entry)["reason"] == "a: and b, c. ./d"


def test_a_tomogram_with_its_fractions(session, views):
    number = session.label("a.mrc")
    entry = session.ledger.get(number)
    shown = views.tomogram(entry, 12)
    assert shown["fractions"]["microtubule"] == pytest.approx(30 * 12 / (HEIGHT * WIDTH))
    assert sum(shown["fractions"].values()) < 1
    assert (shown["slices_available"], shown["preview_z"]) == (True, 12)
    assert shown["path"] == "a.mrc"


def test_a_tomogram_without_labels(session, views):
    shown = views.tomogram(session.preview("a.mrc"), None)
    assert (shown["fractions"], shown["slices_available"], shown["preview_z"]) == (None, False, None)


def test_a_part_of_the_list(session, views):
    session.fill(30)
    ask = {"class_name": None, "states": [], "search": "", "descending": True}
    shown = views.tomograms(sort="time", offset=10, limit=5, **ask)
    assert (shown["total"], shown["offset"]) == (30, 10)
    assert [item["path"] for item in shown["items"]] == [f"grid/Position_{n}_Vol.mrc" for n in range(20, 15, -1)]
    ask["class_name"] = "ribosome"
    assert views.tomograms(sort="class", offset=0, limit=1, **ask)["items"][0]["path"] == "grid/Position_30_Vol.mrc"
    assert views.tomograms(sort="time", offset=0, limit=9, **{**ask, "search": "_7_"})["total"] == 1
    assert views.tomograms(sort="time", offset=0, limit=9, **{**ask, "states": [State.WAITING]})["items"] == []


def test_throughput_in_bins_that_stay_where_they_are(session, views):
    session.label("a.mrc")
    now = time.time()
    first, second = (views.throughput(now + later, 1.0) for later in (0, 0.001))
    assert first["width"] == 60
    assert len(first["bins"]) == 60
    assert all(one["start"] % 60 == 0 for one in first["bins"])
    assert first["bins"][-1]["start"] < now <= first["bins"][-1]["start"] + 60
    assert first == second or now % 60 > 59.9
    assert sum(one["tomograms"] for one in first["bins"]) == 1
    assert sum(one["voxels"] for one in first["bins"]) == DEPTH * HEIGHT * WIDTH


def test_health(session, views):
    assert views.health(time.time()) == (True, "1 at work")
    session.beat(paused=f"{session.settings.output}: no space")
    assert views.health(time.time()) == (True, "paused: labels: no space")
    healthy, reason = views.health(time.time() + 16)
    assert not healthy
    assert "15 s" in reason


def test_names_that_are_not_unicode(session, views):
    name = os.fsdecode(b"grid_\xff\xfe.mrc")
    session.ledger.notice(name, Identity(1, 1, 1), State.QUARANTINED, time.time(), f"{name}: is empty")
    ask = {"class_name": None, "states": [], "search": "", "descending": True, "offset": 0, "limit": 9}
    text = encode_json(views.tomograms(sort="name", **ask))
    assert text.isascii()
    assert json.loads(text)["items"][0]["path"] == name

"""What listeners are told: all that changes, once, in order; and that they are not too many."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import contextmanager
from types import SimpleNamespace

import httpx
import pytest

from tomoscribe.engine.class_map import DEFAULT_CLASS_MAP
from tomoscribe.engine.errors import OutputError
from tomoscribe.engine.watch.entry import Identity, State
from tomoscribe.engine.watch.page import events
from tomoscribe.engine.watch.page.events import EventStream, Feed
from tomoscribe.engine.watch.page.views import Views

PATIENCE = 20.0


@pytest.fixture
def feed(session):
    return Feed(Views(session.ledger, session.settings, DEFAULT_CLASS_MAP))


@pytest.fixture
def clock(monkeypatch):
    """A clock that moves when it is told to, and when somebody sleeps."""
    clock = SimpleNamespace(now=1000.0)

    async def sleep(seconds):
        clock.now += seconds

    monkeypatch.setattr(events.time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(events.asyncio, "sleep", sleep)
    return clock


def listener(feed, last=None):
    headers = {} if last is None else {"last-event-id": str(last)}
    return EventStream(feed, SimpleNamespace(headers=headers))._events()


def parsed(event):
    """Return the name, the id and the data of an event; a comment is None."""
    text = event.decode() if isinstance(event, bytes) else event
    if text.startswith(":"):
        return None
    fields = dict(line.split(": ", 1) for line in text.strip().split("\n"))
    return fields["event"], int(fields["id"]), json.loads(fields["data"])


async def take(stream, count):
    return [parsed(await anext(stream)) for _ in range(count)]


def wait(session, path, n=1):
    return session.ledger.notice(path, Identity(n, n, n), State.WAITING, time.time())


def test_a_listener_is_told_the_status_and_then_what_changes(session, feed, clock):
    wait(session, "before.mrc")

    async def listen():
        stream = listener(feed)
        ((name, number, status),) = await take(stream, 1)
        assert (name, number) == ("status", session.ledger.revision())
        assert status["states"]["waiting"] == 1
        wait(session, "a.mrc")
        wait(session, "b.mrc")
        told = await take(stream, 3)
        assert [(name, data.get("path")) for name, _, data in told] == [
            ("tomogram", "a.mrc"),
            ("tomogram", "b.mrc"),
            ("status", None),
        ]
        assert [number for _, number, _ in told] == [
            told[0][2]["revision"],
            told[1][2]["revision"],
            told[2][2]["revision"],
        ]
        assert told[2][2]["states"]["waiting"] == 3

    asyncio.run(listen())


def test_one_that_was_away_misses_nothing(session, feed, clock):
    first, *_ = (wait(session, f"{n}.mrc") for n in range(5))

    async def listen():
        told = await take(listener(feed, first.revision), 5)
        assert [data["path"] for name, _, data in told if name == "tomogram"] == [f"{n}.mrc" for n in range(1, 5)]

    asyncio.run(listen())


def test_one_that_missed_much_is_told_in_parts_and_all_of_it(session, feed, clock, monkeypatch):
    monkeypatch.setattr(events, "_ROWS_AT_ONCE", 4)
    before = session.ledger.revision()
    for n in range(10):
        wait(session, f"{n}.mrc")

    async def listen():
        told = await take(listener(feed, before), 11)
        assert [data["path"] for _, _, data in told[:-1]] == [f"{n}.mrc" for n in range(10)]

    asyncio.run(listen())


@pytest.mark.parametrize("last", ["", "x", "-1", "1e3", "9" * 30, 10**12, "١٢"])
def test_one_that_was_nowhere_begins_now(session, feed, clock, last):
    wait(session, "before.mrc")

    async def listen():
        stream = listener(feed, last)
        ((name, number, _),) = await take(stream, 1)
        assert (name, number) == ("status", session.ledger.revision())
        wait(session, "after.mrc")
        assert (await take(stream, 1))[0][2]["path"] == "after.mrc"

    asyncio.run(listen())


def test_the_status_comes_at_least_every_ten_seconds_and_a_sign_of_life_between(session, feed, clock, monkeypatch):
    async def listen():
        stream, began = listener(feed), clock.now
        await take(stream, 1)
        for turn in (1, 2, 3):
            assert (await take(stream, 1))[0][0] == "status"
            assert clock.now - began == pytest.approx(10 * turn, abs=1)
        monkeypatch.setattr(events, "_STATUS_SECONDS", 1e9)
        silent = clock.now
        assert await take(stream, 1) == [None]
        assert clock.now - silent == pytest.approx(15, abs=1)

    asyncio.run(listen())


def test_the_ledger_is_looked_at_four_times_a_second_for_all_listeners_together(session, feed, clock):
    looked = []
    revision, status = feed._views.revision, feed._views.status
    feed._views.revision = lambda: looked.append("revision") or revision()
    feed._views.status = lambda now: looked.append("status") or status(now)

    async def listen():
        for moment in range(100):
            clock.now = 2000 + moment / 50
            session.beat(free_bytes=moment)  # something changes all the time
            await asyncio.gather(*(feed.status() for _ in range(5)))

    asyncio.run(listen())
    assert looked.count("status") == 8
    assert len(looked) <= 16


def test_where_nothing_changes_the_same_text_is_told(session, feed, clock):
    async def listen():
        first = await feed.status()
        clock.now += 1
        assert await feed.status() == first
        session.beat(paused="no space")
        clock.now += 1
        assert json.loads((await feed.status())[1])["paused"] == "no space"

    asyncio.run(listen())


def test_a_ledger_that_fails_ends_the_stream(session, feed, clock):
    def fail(*_):
        raise OutputError("no ledger")

    async def listen():
        stream = listener(feed)
        await take(stream, 1)
        feed._views.revision = fail
        assert [event async for event in stream] == []

    asyncio.run(listen())


def told_over_http(lines):
    """Give the events of a stream of lines."""
    event = []
    for line in lines:
        if line:
            event.append(line)
        elif event:
            yield parsed("\n".join(event))
            event = []


@contextmanager
def listening(address, **headers):
    with httpx.stream("GET", f"{address}events", headers=headers, timeout=PATIENCE) as response:
        yield response


def test_over_http(session):
    address = session.serve().address
    with listening(address) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-store"
        told = told_over_http(response.iter_lines())
        name, last, _ = next(told)
        assert name == "status"
        wait(session, "a.mrc")
        assert next(event for event in told if event[0] == "tomogram")[2]["path"] == "a.mrc"
    wait(session, "b.mrc")
    with listening(address, **{"Last-Event-ID": str(last)}) as response:
        told = told_over_http(response.iter_lines())
        assert [next(told)[2].get("path") for _ in range(3)] == ["a.mrc", "b.mrc", None]


def test_there_are_not_too_many_and_those_that_leave_make_room(session, monkeypatch):
    monkeypatch.setattr(events, "_MOST_LISTENERS", 2)
    address = session.serve().address
    with listening(address) as one, listening(address) as two:
        assert (one.status_code, two.status_code) == (200, 200)
        with listening(address) as three:
            assert three.status_code == 503
            assert int(three.headers["retry-after"]) > 0
            assert "error" in json.loads(three.read())
    deadline = time.monotonic() + PATIENCE
    while True:
        with listening(address) as again:
            if again.status_code == 200:
                break
        assert time.monotonic() < deadline
        time.sleep(0.02)

"""Threads that a watcher cannot do without."""

from __future__ import annotations

import errno
import threading

import pytest

from tomoscribe.engine.errors import OutputError
from tomoscribe.engine.watch import services
from tomoscribe.engine.watch.services import Service


@pytest.fixture
def stop():
    return threading.Event()


def run(serve, stop):
    service = Service("test", serve, stop)
    service.start()
    service.join(60)
    assert not service.is_alive()
    return service


def full():
    error = OutputError("no space")
    error.errno = errno.ENOSPC
    return error


def test_one_that_fails_ends_the_watcher(stop):
    def serve(stop):
        raise KeyError("x")

    assert isinstance(run(serve, stop).error, KeyError)
    assert stop.is_set()


def test_one_that_ends_by_itself_ends_the_watcher(stop):
    assert "ended by itself" in str(run(lambda stop: None, stop).error)
    assert stop.is_set()


def test_one_that_ends_when_it_is_told_to_is_fine(stop):
    stop_soon = threading.Timer(0.01, stop.set)
    stop_soon.start()
    assert run(lambda stop: stop.wait(), stop).error is None


def test_what_it_meets_while_all_is_ended_is_no_failure(stop):
    def serve(stop):
        stop.set()
        raise KeyError("x")

    assert run(serve, stop).error is None


def test_a_full_disk_has_it_begin_again(stop, monkeypatch):
    monkeypatch.setattr(services, "_FIRST_PAUSE", 0.001)
    calls = []

    def serve(stop):
        calls.append(1)
        if len(calls) < 5:
            raise full()
        stop.set()

    assert run(serve, stop).error is None
    assert len(calls) == 5

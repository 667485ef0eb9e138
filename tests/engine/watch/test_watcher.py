"""The watcher as a whole, in this process."""

from __future__ import annotations

import errno
import threading
import time

import pytest

from tomoscribe.engine.errors import BundleError
from tomoscribe.engine.segmentation import Segmenter
from tomoscribe.engine.watch import watcher as watcher_module
from tomoscribe.engine.watch.entry import State
from tomoscribe.engine.watch.folder import FolderWatch
from tomoscribe.engine.watch.ledger import Ledger
from tomoscribe.engine.watch.ledger_file import LedgerError
from tomoscribe.engine.watch.settings import WatchSettings
from tomoscribe.engine.watch.space import SpaceCheck
from tomoscribe.engine.watch.watcher import Watcher
from tomoscribe.engine.watch.worker import Worker


class Case:
    """A watcher in a thread."""

    def __init__(self, base, bundle, **more):
        self.settings = WatchSettings(base / "session", base / "output", keep_free=0)
        self.settings.folder.mkdir()
        self.stop = threading.Event()
        self.error = None
        self._watcher = Watcher(
            self.settings,
            more.pop("make", lambda: Segmenter(bundle, backend="onnxruntime", precision="fp32")),
            **more,
        )
        self._thread = threading.Thread(target=self._run)

    def _run(self):
        try:
            self._watcher.run(self.stop)
        except BaseException as error:
            self.error = error

    def start(self):
        self._thread.start()

    def join(self):
        self._thread.join(60)
        assert not self._thread.is_alive()
        assert self.stop.is_set()
        names = {thread.name for thread in threading.enumerate()}
        assert not names & {"pulse", "folder", "background", "page"}

    def end(self):
        self.stop.set()
        self.join()

    def beats(self):
        with Ledger(self.settings.places.ledger) as ledger:
            return ledger.watchers(time.time(), within=60.0)


@pytest.fixture
def make(tmp_path, tiny_bundle, monkeypatch):
    monkeypatch.setattr(watcher_module, "_BEAT", 0.05)
    monkeypatch.setattr(watcher_module, "_PULSE", 0.01)
    monkeypatch.setattr(watcher_module, "_FIRST_PAUSE", 0.01)
    cases = []

    def make(**more):
        cases.append(Case(tmp_path, tiny_bundle, **more))
        return cases[-1]

    yield make
    for case in cases:
        if case._thread.is_alive():
            case.end()


def test_it_labels_what_lands_and_says_what_it_is(make, write_volume, wait_for, entries_of):
    case = make()
    case.start()
    write_volume(case.settings.folder / "a.mrc", 1)
    wait_for(lambda: [entry.state for entry in entries_of(case.settings.output).values()] == [State.DONE])
    (beat,) = case.beats()
    assert (beat["folder"], beat["model"], beat["paused"]) == ("session", "tiny", None)
    assert beat["classes"][0] == {"number": 1, "name": "dark matter", "colour": "#e69f00"}
    assert "ONNX Runtime" in beat["backend"]
    assert beat["free_bytes"] > 0
    assert beat["started"] <= beat["beaten"]
    case.end()
    assert case.error is None


def test_changed_content_is_labelled_anew(make, write_volume, wait_for, entries_of):
    case = make()
    path = write_volume(case.settings.folder / "a.mrc", 1)
    case.start()
    wait_for(lambda: [entry.state for entry in entries_of(case.settings.output).values()] == [State.DONE])
    write_volume(path, 2, shape=(14, 64, 64))
    wait_for(lambda: entries_of(case.settings.output)["a.mrc"].shape == (14, 64, 64))
    wait_for(lambda: entries_of(case.settings.output)["a.mrc"].state is State.DONE)
    case.end()


def test_a_full_disk_pauses_it_and_it_goes_on(make, write_volume, wait_for, entries_of, monkeypatch):
    full = threading.Event()
    full.set()
    monkeypatch.setattr(SpaceCheck, "reason_to_wait", lambda *_: "no room" if full.is_set() else None)
    case = make()
    write_volume(case.settings.folder / "a.mrc", 1)
    case.start()
    ledger = case.settings.places.ledger
    wait_for(lambda: ledger.exists() and any(beat["paused"] == "no room" for beat in case.beats()))
    assert entries_of(case.settings.output)["a.mrc"].state is not State.DONE
    full.clear()
    wait_for(lambda: entries_of(case.settings.output)["a.mrc"].state is State.DONE)
    wait_for(lambda: case.beats()[0]["paused"] is None)
    case.end()
    assert case.error is None


def test_it_is_not_paused_for_a_tomogram_that_is_gone(make, write_volume, wait_for, monkeypatch):
    monkeypatch.setattr(SpaceCheck, "reason_to_wait", lambda *_: "no room")
    case = make()
    path = write_volume(case.settings.folder / "a.mrc", 1)
    case.start()
    ledger = case.settings.places.ledger
    wait_for(lambda: ledger.exists() and any(beat["paused"] for beat in case.beats()))
    path.unlink()
    wait_for(lambda: not case.beats()[0]["paused"])
    case.end()


def test_a_ledger_on_a_full_disk_is_waited_for(make, write_volume, wait_for, entries_of, monkeypatch):
    failures = []

    def failing(method):
        def fail(*arguments, **named):
            if len(failures) < 6:
                failures.append(method)
                error = LedgerError("the ledger cannot be used")
                error.errno = errno.ENOSPC
                raise error
            return method(*arguments, **named)

        return fail

    for name in ("claim", "beat", "notice"):
        monkeypatch.setattr(Ledger, name, failing(getattr(Ledger, name)))
    case = make()
    write_volume(case.settings.folder / "a.mrc", 1)
    case.start()
    wait_for(lambda: [entry.state for entry in entries_of(case.settings.output).values()] == [State.DONE])
    case.end()
    assert case.error is None
    assert len(failures) == 6


@pytest.mark.parametrize("what", [(FolderWatch, "run"), (Worker, "pulse"), (Worker, "run_one"), (Ledger, "uncounted")])
def test_a_part_that_dies_ends_it_with_its_error(make, monkeypatch, what):
    def fail(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(*what, fail)
    case = make()
    case.start()
    case.join()
    assert isinstance(case.error, ZeroDivisionError)


def test_a_page_that_ends_by_itself_ends_it(make):
    case = make(page=lambda stop: None)
    case.start()
    case.join()
    assert "page of the watcher ended by itself" in str(case.error)


def test_the_page_is_served_until_the_end(make, wait_for):
    served = []

    def page(stop):
        served.append("begins")
        stop.wait()
        served.append("ends")

    case = make(page=page)
    case.start()
    wait_for(lambda: served)
    case.end()
    assert (served, case.error) == (["begins", "ends"], None)


def test_a_model_that_cannot_be_loaded_is_an_error_before_anything_begins(make):
    def fail():
        raise BundleError("no model")

    case = make(make=fail, page=lambda stop: pytest.fail("began"))
    case.start()
    case._thread.join(60)
    assert isinstance(case.error, BundleError)

"""The sink that ends a labelling which is not to go on."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest

from tomoscribe.engine.errors import OutputError
from tomoscribe.engine.watch.claim import Claim, ContentChanged, content_of
from tomoscribe.engine.watch.entry import State
from tomoscribe.engine.watch.guard import Guard, LeaseLost, Occupied, Stopped
from tomoscribe.engine.watch.ledger import Ledger
from tomoscribe.engine.watch.owner import Owner

US, OTHER = Owner.current(), Owner("elsewhere", 1, 1)
RUN = np.zeros((2, 4, 4), np.uint8)


class Locks:
    """Locks that can be another process's."""

    def __init__(self):
        self.free, self.held = True, set()

    def take(self, number):
        self.held |= {number} if self.free else set()
        return self.free

    def give_back(self, number):
        self.held.discard(number)


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        yield ledger


@pytest.fixture
def claim(tmp_path, ledger):
    path = tmp_path / "a.mrc"
    path.write_bytes(b"content")
    ledger.notice("a.mrc", content_of(path), State.WAITING, 0.0)
    return Claim(ledger.claim(US, 30.0, 100.0), path, ledger, US, 30.0, lambda: 110.0)


@pytest.fixture
def stop():
    return threading.Event()


@pytest.fixture
def locks():
    return Locks()


@pytest.fixture
def guard(claim, tmp_path, locks, stop):
    return Guard(claim, tmp_path / "a__labels.mrc", locks, stop)


def lose(ledger, claim):
    """Have another watcher take the entry when its lease is over."""
    assert ledger.claim(OTHER, 30.0, 200.0).number == claim.entry.number


def test_slices_are_reported_when_there_is_news(guard, ledger, claim):
    guard.write(4, RUN, RUN)
    assert ledger.get(claim.entry.number).slices == 0
    guard.report()
    revision = ledger.revision()
    assert ledger.get(claim.entry.number).slices == 6
    guard.report()
    assert ledger.revision() == revision
    guard.abort()
    guard.report()
    assert ledger.get(claim.entry.number).slices == 0


def test_renewing_holds_the_entry(guard, ledger, claim):
    guard.renew()
    assert ledger.get(claim.entry.number).lease == 140.0
    guard.check()


@pytest.mark.parametrize("tell", ["report", "renew"])
def test_a_lost_lease_ends_it(guard, ledger, claim, tell):
    lose(ledger, claim)
    guard.write(0, RUN, RUN)
    getattr(guard, tell)()
    with pytest.raises(LeaseLost):
        guard.write(2, RUN, RUN)


def test_stopping_ends_it(guard, stop):
    guard.write(0, RUN, RUN)
    stop.set()
    with pytest.raises(Stopped):
        guard.write(2, RUN, RUN)
    guard.prepare()
    guard.commit()  # what is complete is kept


@pytest.mark.parametrize("change", [lambda path: path.write_bytes(b"longer content"), lambda path: path.unlink()])
@pytest.mark.parametrize("step", ["prepare", "commit"])
def test_a_changed_tomogram_ends_it(guard, claim, change, step):
    change(claim.tomogram)
    with pytest.raises(ContentChanged, match=r"a\.mrc: changed"):
        getattr(guard, step)()


def test_a_tomogram_that_was_renamed_over_ends_it(guard, claim, tmp_path):
    before = claim.tomogram.stat()
    other = tmp_path / "other"
    other.write_bytes(b"content")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(claim.tomogram)
    with pytest.raises(ContentChanged):
        guard.commit()


def test_the_label_volume_of_before_goes_at_the_last_moment(guard, tmp_path, locks, claim):
    labels = tmp_path / "a__labels.mrc"
    labels.write_bytes(b"old")
    guard.prepare()
    assert labels.exists()
    guard.commit()
    assert not labels.exists()
    assert locks.held == {claim.entry.number}
    guard.close()
    assert locks.held == set()


def test_a_lease_that_was_lost_unnoticed_is_noticed_at_the_last_moment(guard, ledger, claim, tmp_path):
    labels = tmp_path / "a__labels.mrc"
    labels.write_bytes(b"the other watcher's")
    lose(ledger, claim)
    guard.prepare()
    with pytest.raises(LeaseLost):
        guard.commit()
    assert labels.read_bytes() == b"the other watcher's"


@pytest.mark.parametrize("step", ["check_free", "commit"])
def test_a_watcher_between_its_renames_is_waited_for(guard, locks, step):
    locks.free = False
    with pytest.raises(Occupied, match="was stopped while it named"):
        getattr(guard, step)()


def test_looking_whether_it_is_free_keeps_no_lock(guard, locks):
    guard.check_free()
    assert locks.held == set()


def test_a_label_volume_that_cannot_be_removed_is_an_error(guard, tmp_path):
    (tmp_path / "a__labels.mrc").mkdir()
    with pytest.raises(OutputError, match="cannot be replaced"):
        guard.commit()


def test_content_that_is_again_what_it_was_is_given_back(ledger, claim):
    claim.notice_anew()
    entry = ledger.get(claim.entry.number)
    assert (entry.state, entry.owner, entry.identity) == (State.WAITING, None, claim.entry.identity)

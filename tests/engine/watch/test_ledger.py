"""What the ledger takes down, and what it gives back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tomoscribe.engine.errors import ParameterError
from tomoscribe.engine.watch.entry import Entry, Identity, State
from tomoscribe.engine.watch.ledger import Ledger
from tomoscribe.engine.watch.owner import Owner

ONE, OTHER = Owner("elsewhere", 1, 1), Owner("elsewhere", 2, 2)
CONTENT, NEW = Identity(100, 1000, 7), Identity(120, 2000, 7)
RESULT = {
    "seconds": 2.5,
    "shape": (4, 5, 6),
    "voxel_size": (10.0, 10.0, 10.1),
    "model": "bundled",
    "backend": "onnxruntime, FP32",
    "counts": {"ribosome": 12, "membrane": 0},
    "outputs": {"labels": "a__labels.mrc", "sidecar": "a__labels.json"},
    "warnings": ["dark or bright?", "voxel size"],
}


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "own" / "ledger.sqlite") as ledger:
        yield ledger


def begun(ledger, path="a.mrc", identity=CONTENT, owner=ONE, now=20.0, lease=30.0):
    """Return an entry that a watcher has."""
    ledger.notice(path, identity, State.WAITING, now)
    return ledger.claim(owner, lease, now)


def done(ledger, path="a.mrc", identity=CONTENT, now=30.0, **changes):
    number = begun(ledger, path, identity).number
    assert ledger.finish(number, ONE, now=now, **{**RESULT, **changes})
    return ledger.get(number)


def test_the_whole_way_of_a_tomogram(ledger):
    first = ledger.notice("a.mrc", CONTENT, State.ARRIVING, 10.0, "waits for 20 bytes")
    expected = Entry(1, "a.mrc", State.ARRIVING, CONTENT, 1, reason="waits for 20 bytes", noticed=10.0)
    assert first == ledger.get(1) == ledger.find("a.mrc") == expected

    second = ledger.notice("a.mrc", CONTENT, State.WAITING, 11.0)
    expected = replace(expected, state=State.WAITING, revision=2, reason=None, complete=11.0)
    assert second == ledger.get(1) == expected

    claimed = ledger.claim(ONE, 30.0, 12.0)
    expected = replace(
        expected, state=State.RUNNING, revision=3, attempts=1, claimed=12.0, owner="elsewhere/1/1", lease=42.0
    )
    assert claimed == ledger.get(1) == expected

    assert ledger.previewed(1, ONE, 13.0)
    assert ledger.progress(1, ONE, 2, (4, 5, 6), (10.0, 10.0, 10.1))
    assert ledger.renew(1, ONE, 30.0, 14.0)
    assert ledger.progress(1, ONE, 3)
    expected = replace(expected, revision=7, previewed=13.0, slices=3, shape=(4, 5, 6), voxel_size=(10.0, 10.0, 10.1))
    assert ledger.get(1) == replace(expected, lease=44.0)

    assert ledger.finish(1, ONE, now=15.0, **RESULT)
    expected = replace(
        expected,
        state=State.DONE,
        revision=8,
        finished=15.0,
        slices=4,
        **{**RESULT, "warnings": tuple(RESULT["warnings"])},
    )
    assert ledger.get(1) == replace(expected, owner=None, lease=None)

    ledger.set_objects(1, {"ribosome": 3})
    ledger.hook_ended(1, "exit 0 in 1.2 s")
    assert ledger.get(1) == replace(
        expected, owner=None, lease=None, revision=10, objects={"ribosome": 3}, hook="exit 0 in 1.2 s"
    )


def test_quarantine_has_its_reason_and_ends_the_lease(ledger):
    entry = begun(ledger)
    assert ledger.quarantine(entry.number, ONE, "not finite", 25.0)
    found = ledger.get(entry.number)
    assert (found.state, found.reason, found.finished, found.owner, found.lease, found.attempts) == (
        State.QUARANTINED, "not finite", 25.0, None, None, 1,
    )  # fmt: skip


def test_what_is_released_waits_as_before(ledger):
    before = ledger.notice("a.mrc", CONTENT, State.WAITING, 5.0)
    entry = ledger.claim(ONE, 30.0, 6.0)
    ledger.progress(entry.number, ONE, 3)
    assert ledger.release(entry.number, ONE)
    assert replace(ledger.get(entry.number), revision=before.revision) == before


REPORTS = {
    "renew": lambda ledger, number, owner: ledger.renew(number, owner, 30.0, 21.0),
    "progress": lambda ledger, number, owner: ledger.progress(number, owner, 3, (4, 5, 6), (1.0, 1.0, 1.0)),
    "previewed": lambda ledger, number, owner: ledger.previewed(number, owner, 21.0),
    "release": lambda ledger, number, owner: ledger.release(number, owner),
    "quarantine": lambda ledger, number, owner: ledger.quarantine(number, owner, "bad", 21.0),
    "finish": lambda ledger, number, owner: ledger.finish(number, owner, now=21.0, **RESULT),
}
LOSSES = {
    "never had it": lambda ledger: None,
    "taken over": lambda ledger: ledger.claim(OTHER, 30.0, 60.0),
    "gone": lambda ledger: ledger.gone("a.mrc", 21.0),
    "new content": lambda ledger: ledger.notice("a.mrc", NEW, State.ARRIVING, 21.0),
    "released": lambda ledger: ledger.release(1, ONE),
    "done": lambda ledger: ledger.finish(1, ONE, now=21.0, **RESULT),
}


@pytest.mark.parametrize("report", REPORTS)
@pytest.mark.parametrize("loss", LOSSES)
def test_a_watcher_that_does_not_hold_an_entry_changes_nothing(ledger, report, loss):
    begun(ledger)
    LOSSES[loss](ledger)
    who = OTHER if loss == "never had it" else ONE
    before, revision = ledger.get(1), ledger.revision()
    assert REPORTS[report](ledger, 1, who) is False
    assert REPORTS[report](ledger, 99, who) is False
    assert (ledger.get(1), ledger.revision()) == (before, revision)


@pytest.mark.parametrize("report", REPORTS)
def test_a_lease_that_has_ended_is_held_until_another_watcher_takes_it(ledger, report):
    begun(ledger, now=-1000.0)
    assert REPORTS[report](ledger, 1, ONE) is True


def test_the_newest_is_claimed_first(ledger):
    for number, modified in enumerate([30, 10, 20, 30], start=1):
        ledger.notice(f"{number}.mrc", Identity(1, modified, number), State.WAITING, 0.0)
    assert [ledger.claim(ONE, 30.0, 0.0).number for _ in range(4)] == [4, 1, 3, 2]
    assert ledger.claim(ONE, 30.0, 0.0) is None


def test_only_what_waits_or_was_left_is_claimed(ledger):
    ledger.notice("arriving.mrc", Identity(1, 9, 1), State.ARRIVING, 0.0)
    ledger.notice("bad.mrc", Identity(1, 9, 2), State.QUARANTINED, 0.0, "bad")
    ledger.notice("gone.mrc", Identity(1, 9, 3), State.WAITING, 0.0)
    ledger.gone("gone.mrc", 1.0)
    done(ledger, "done.mrc", Identity(1, 9, 4))
    revision = ledger.revision()
    assert ledger.claim(ONE, 30.0, 1e9) is None
    assert ledger.revision() == revision


def test_a_lease_keeps_others_away_until_it_ends(ledger):
    begun(ledger, now=100.0, lease=30.0)
    assert ledger.claim(OTHER, 30.0, 129.9) is None
    ledger.renew(1, ONE, 30.0, 105.0)
    assert ledger.claim(OTHER, 30.0, 130.0) is None
    taken = ledger.claim(OTHER, 30.0, 135.0)
    assert (taken.owner, taken.attempts, taken.lease) == (str(OTHER), 2, 165.0)


def test_the_entry_of_a_dead_watcher_is_free_at_once(ledger):
    dead = replace(Owner.current(), started=Owner.current().started - 1)
    begun(ledger, owner=dead, now=100.0)
    assert ledger.claim(Owner.current(), 30.0, 100.1).attempts == 2
    assert ledger.claim(ONE, 30.0, 100.2) is None


def test_a_tomogram_that_watchers_die_of_comes_last_and_its_picture_stays(ledger):
    ledger.notice("old.mrc", Identity(1, 1, 1), State.WAITING, 0.0)
    ledger.notice("deadly.mrc", Identity(1, 9, 2), State.WAITING, 0.0)
    for now in range(0, 300, 100):
        assert ledger.claim(ONE, 30.0, now).path == "deadly.mrc"
        assert ledger.previewed(2, ONE, now + 1.0)
        ledger.progress(2, ONE, 3)
    assert ledger.claim(ONE, 30.0, 300.0).path == "old.mrc"
    last = ledger.claim(OTHER, 30.0, 300.0)
    assert (last.path, last.attempts, last.previewed, last.slices) == ("deadly.mrc", 4, 1.0, 0)
    ledger.release(2, OTHER)
    ledger.notice("older.mrc", Identity(1, 0, 3), State.WAITING, 300.0)
    assert [ledger.claim(OTHER, 30.0, 300.0).path for _ in range(2)] == ["older.mrc", "deadly.mrc"]


def test_new_content_starts_anew_whatever_became_of_the_old_one(ledger):
    reach = [
        lambda: None,
        lambda: ledger.notice("a.mrc", CONTENT, State.WAITING, 2.0),
        lambda: ledger.claim(ONE, 30.0, 2.0),
        lambda: ledger.quarantine(1, ONE, "bad", 3.0),
        lambda: ledger.finish(1, ONE, now=3.0, **RESULT),
        lambda: ledger.gone("a.mrc", 3.0),
    ]
    for number, steps in enumerate([(0,), (1,), (1, 2), (1, 2, 3), (1, 2, 4), (5,)]):
        ledger.notice("a.mrc", Identity(1, -number, 1), State.ARRIVING, 1.0)
        ledger.notice("a.mrc", CONTENT, State.ARRIVING, 1.0)
        for step in steps:
            reach[step]()
        again = ledger.notice("a.mrc", NEW, State.WAITING, 50.0)
        revision = ledger.revision()
        assert again == ledger.get(1) == Entry(1, "a.mrc", State.WAITING, NEW, revision, noticed=50.0, complete=50.0)


SAME = {
    (State.ARRIVING, State.WAITING): True,
    (State.ARRIVING, State.QUARANTINED): True,
    (State.QUARANTINED, State.ARRIVING): True,
    (State.QUARANTINED, State.WAITING): True,
    (State.GONE, State.ARRIVING): True,
    (State.GONE, State.WAITING): True,
    (State.GONE, State.QUARANTINED): True,
}


@pytest.mark.parametrize("before", State)
@pytest.mark.parametrize("seen", [State.ARRIVING, State.WAITING, State.QUARANTINED])
def test_what_the_same_content_may_become(ledger, before, seen):
    if before in (State.RUNNING, State.DONE):
        begun(ledger) if before is State.RUNNING else done(ledger)
    else:
        ledger.notice("a.mrc", CONTENT, State.ARRIVING if before is State.GONE else before, 1.0)
        if before is State.GONE:
            ledger.gone("a.mrc", 2.0)
    old = ledger.get(1)
    new = ledger.notice("a.mrc", CONTENT, seen, 3.0)
    assert new == ledger.get(1)
    assert (new == old) is not SAME.get((before, seen), False)
    if new != old:
        assert (new.state, new.complete) == (seen, 3.0 if seen is State.WAITING else None)
        assert new.finished == (3.0 if seen is State.QUARANTINED else None)


def test_a_reason_may_change_while_it_arrives(ledger):
    ledger.notice("a.mrc", CONTENT, State.ARRIVING, 1.0, "20 bytes")
    assert ledger.notice("a.mrc", CONTENT, State.ARRIVING, 2.0, "10 bytes").reason == "10 bytes"
    revision = ledger.revision()
    assert ledger.notice("a.mrc", CONTENT, State.ARRIVING, 3.0, "10 bytes").noticed == 1.0
    assert ledger.revision() == revision


def test_what_a_watcher_quarantined_stays_so_with_the_same_content(ledger):
    entry = begun(ledger)
    ledger.quarantine(entry.number, ONE, "not finite", 25.0)
    assert ledger.notice("a.mrc", CONTENT, State.WAITING, 26.0) == ledger.get(entry.number)
    assert ledger.get(entry.number).reason == "not finite"


@pytest.mark.parametrize("state", [State.RUNNING, State.DONE, State.GONE])
def test_a_file_cannot_be_noticed_as_what_only_a_watcher_makes_of_it(ledger, state):
    with pytest.raises(ParameterError, match=f"found {state}"):
        ledger.notice("a.mrc", CONTENT, state, 1.0)


def test_a_deleted_file_is_gone_unless_it_is_labelled(ledger):
    done(ledger, "done.mrc")
    begun(ledger, "running.mrc")
    for path, state in (("a.mrc", State.ARRIVING), ("w.mrc", State.WAITING), ("q.mrc", State.QUARANTINED)):
        ledger.notice(path, CONTENT, state, 1.0)
    for path in ("done.mrc", "running.mrc", "a.mrc", "w.mrc", "q.mrc", "unknown.mrc"):
        ledger.gone(path, 70.0)
    assert {state: number for state, number in ledger.states().items() if number} == {State.DONE: 1, State.GONE: 4}
    running = ledger.find("running.mrc")
    assert (running.owner, running.lease, running.finished) == (None, None, 70.0)

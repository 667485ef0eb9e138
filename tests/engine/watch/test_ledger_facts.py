"""What finished entries, watchers and odd names come back as."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tomoscribe.engine.watch.entry import Identity, State
from tomoscribe.engine.watch.ledger import Ledger
from tomoscribe.engine.watch.owner import Owner

ONE, OTHER = Owner("elsewhere", 1, 1), Owner("elsewhere", 2, 2)
CONTENT = Identity(100, 1000, 7)
RESULT = {
    "seconds": None,
    "shape": (4, 5, 6),
    "voxel_size": (0.0, 0.0, 0.0),
    "model": "bundled",
    "backend": "onnxruntime",
    "counts": {},
    "outputs": {},
    "warnings": [],
}


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        yield ledger


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A ledger that examples write to one after another."""
    with Ledger(tmp_path_factory.mktemp("shared") / "ledger.sqlite") as ledger:
        yield ledger


def finish(ledger, path, *, now=10.0, **changes):
    ledger.notice(path, CONTENT, State.WAITING, now)
    number = ledger.claim(ONE, 30.0, now).number
    assert ledger.finish(number, ONE, now=now, **{**RESULT, **changes})
    return number


any_name = (
    st.binary(min_size=1, max_size=30)
    .filter(lambda name: b"\0" not in name)
    .map(lambda name: name.decode("utf-8", "surrogateescape"))
)


@given(
    path=any_name,
    size=st.integers(0, 2**63 - 1),
    modified=st.integers(-(2**70), 2**70),
    inode=st.integers(0, 2**64 - 1),
)
def test_every_name_and_content_comes_back_unharmed(shared, path, size, modified, inode):
    identity = Identity(size, modified, inode)
    noticed = shared.notice(path, identity, State.ARRIVING, 1.0)
    assert (noticed.path, noticed.identity) == (path, identity)
    assert shared.find(path) == shared.get(noticed.number) == noticed
    assert shared.known()[path] == (identity, State.ARRIVING)
    assert shared.changed_since(noticed.revision - 1, 5) == [noticed]
    shared.gone(path, 2.0)


def test_names_that_differ_in_a_byte_are_two(ledger):
    names = ["a\udcff.mrc", "a\udcfe.mrc", "a\ufffd.mrc", "A\udcff.mrc", "a.mrc", "a.mrc "]
    numbers = [ledger.notice(name, CONTENT, State.ARRIVING, 1.0).number for name in names]
    assert numbers == [1, 2, 3, 4, 5, 6]
    assert [ledger.find(name).number for name in names] == numbers


def test_a_result_with_a_name_that_is_not_text_comes_back(ledger):
    outputs, warnings = {"labels": "a\udcff__labels.mrc"}, ("a\udcff: dark or bright?", "naïve µ Å")
    number = finish(ledger, "a\udcff.mrc", outputs=outputs, warnings=warnings, counts={"ribo\udcff": 3})
    entry = ledger.get(number)
    assert (entry.outputs, entry.warnings, entry.counts) == (outputs, warnings, {"ribo\udcff": 3})


def test_a_line_with_bytes_that_are_no_text_has_them_as_numbers(ledger):
    reason = ledger.notice("a.mrc", CONTENT, State.QUARANTINED, 1.0, "cannot read b\udcff.mrc (Å)").reason
    assert reason == ledger.get(1).reason == "cannot read b\\udcff.mrc (Å)"
    number = finish(ledger, "b.mrc", model="m\ud800", backend="b\udcff")
    ledger.hook_ended(number, "exit 1: \udcff")
    entry = ledger.get(number)
    assert (entry.model, entry.backend, entry.hook) == ("m\\ud800", "b\\udcff", "exit 1: \\udcff")


def test_a_number_is_never_given_again(ledger, tmp_path):
    for path in ("a.mrc", "b.mrc"):
        ledger.notice(path, CONTENT, State.ARRIVING, 1.0)
    with ledger._file.writing() as (connection, _):
        connection.execute("DELETE FROM entries")
    with Ledger(tmp_path / "ledger.sqlite") as again:
        assert again.notice("c.mrc", CONTENT, State.ARRIVING, 2.0).number == 3


@pytest.mark.parametrize("number", [0, -1, 2, 2**63 - 1, 2**63, 10**30, -(10**30)])
def test_a_number_that_no_entry_has(ledger, number):
    ledger.notice("a.mrc", CONTENT, State.ARRIVING, 1.0)
    assert ledger.get(number) is None


def test_what_is_left_to_do_for_finished_ones_comes_in_the_order_they_were_finished(ledger):
    ledger.notice("waiting.mrc", Identity(1, 0, 0), State.WAITING, 1.0)
    numbers = [finish(ledger, f"{now}.mrc", now=now) for now in (30.0, 10.0, 20.0)]
    ordered = [numbers[1], numbers[2], numbers[0]]
    assert [entry.number for entry in ledger.unhooked()] == ordered
    assert [entry.number for entry in ledger.uncounted(2)] == ordered[:2]
    ledger.hook_ended(numbers[1], "exit 0 in 0.1 s")
    ledger.set_objects(numbers[2], {"ribosome": 1})
    assert [entry.number for entry in ledger.unhooked(5)] == ordered[1:]
    assert [entry.number for entry in ledger.uncounted()] == [numbers[1], numbers[0]]


def test_only_a_finished_one_gets_objects_and_how_its_command_ended(ledger):
    number = finish(ledger, "a.mrc")
    ledger.notice("a.mrc", replace(CONTENT, size=1), State.WAITING, 11.0)
    before = ledger.get(number)
    ledger.set_objects(number, {"ribosome": 1})
    ledger.hook_ended(number, "exit 0")
    assert ledger.get(number) == before


def test_one_watcher_at_a_time_tends_a_finished_one(ledger):
    number = finish(ledger, "a.mrc")
    assert ledger.tend(number, ONE, 60.0, 100.0)
    assert not ledger.tend(number, OTHER, 60.0, 159.9)
    assert ledger.tend(number, ONE, 60.0, 120.0), "it may go on"
    assert not ledger.tend(number, OTHER, 60.0, 179.9)
    assert ledger.tend(number, OTHER, 60.0, 180.0)
    assert not ledger.tend(number, ONE, 60.0, 181.0)


def test_what_a_dead_watcher_tended_is_free_at_once(ledger):
    current = Owner.current()
    number = finish(ledger, "a.mrc")
    assert ledger.tend(number, replace(current, started=current.started - 1), 60.0, 100.0)
    assert ledger.tend(number, current, 60.0, 100.1)


def test_only_a_finished_one_is_tended(ledger):
    ledger.notice("a.mrc", CONTENT, State.WAITING, 1.0)
    assert not ledger.tend(1, ONE, 60.0, 2.0)
    assert not ledger.tend(2, ONE, 60.0, 2.0)


def test_every_state_is_counted(ledger):
    assert ledger.states() == dict.fromkeys(State, 0)
    finish(ledger, "done.mrc")
    for path in ("a.mrc", "b.mrc"):
        ledger.notice(path, CONTENT, State.ARRIVING, 1.0)
    assert ledger.states() == {**dict.fromkeys(State, 0), State.DONE: 1, State.ARRIVING: 2}


def test_changes_come_in_the_order_they_were_made_and_each_entry_once(ledger):
    for path in ("a.mrc", "b.mrc", "c.mrc"):
        ledger.notice(path, CONTENT, State.ARRIVING, 1.0)
    start = ledger.revision()
    assert ledger.changed_since(start, 10) == []
    for path in ("b.mrc", "a.mrc", "b.mrc"):
        ledger.notice(path, CONTENT, State.ARRIVING, 2.0, f"after revision {ledger.revision()}")
    assert [entry.path for entry in ledger.changed_since(start, 10)] == ["a.mrc", "b.mrc"]
    assert [entry.path for entry in ledger.changed_since(start, 1)] == ["a.mrc"]
    assert [entry.path for entry in ledger.changed_since(0, 10)] == ["c.mrc", "a.mrc", "b.mrc"]


def test_watchers_are_those_that_were_heard_of(ledger):
    ledger.beat(ONE, 100.0, {"folder": "/data", "paused": None})
    ledger.beat(OTHER, 110.0, {"folder": "/data", "paused": "no space"})
    one = {"folder": "/data", "paused": None, "owner": str(ONE), "beaten": 100.0}
    other = {"folder": "/data", "paused": "no space", "owner": str(OTHER), "beaten": 110.0}
    assert ledger.watchers(115.0) == [one, other]
    assert ledger.watchers(115.1, within=15.0) == [other]
    revision = ledger.revision()
    ledger.beat(ONE, 120.0, {"folder": "/else"})
    assert ledger.watchers(120.0)[0] == {"folder": "/else", "owner": str(ONE), "beaten": 120.0}
    assert ledger.revision() == revision + 1


def test_a_watcher_of_yesterday_is_forgotten(ledger):
    ledger.beat(OTHER, 0.0, {})
    ledger.beat(ONE, 86400.0, {})
    assert len(ledger.watchers(0.0)) == 2
    ledger.beat(ONE, 86401.0, {})
    assert len(ledger.watchers(0.0)) == 1

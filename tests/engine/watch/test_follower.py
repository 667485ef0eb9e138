from __future__ import annotations

import os

import mrcfile
import numpy as np
import pytest

from tomoscribe.engine.watch import arrival
from tomoscribe.engine.watch.entry import Identity, State
from tomoscribe.engine.watch.follower import Follower
from tomoscribe.engine.watch.ledger import Ledger
from tomoscribe.engine.watch.owner import Owner

NOW = 1_700_000_000.0


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite") as opened:
        yield opened


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder"


class Clock:
    now = NOW

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def start(folder, ledger, clock):
    """Start a follower, as after a restart of the watcher."""
    return lambda **options: Follower(folder, ledger, clock=clock, **options)


def write(path, *, sections=4, modified=NOW - 100, short=0):
    """Write a volume, less so many bytes at its end, with a time of its own."""
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(np.zeros((sections, 5, 6), np.float32))
    if short:
        os.truncate(path, path.stat().st_size - short)
    os.utime(path, (modified, modified))
    return path


def state_of(ledger, path):
    entry = ledger.find(path)
    return None if entry is None else entry.state


def test_a_file_that_grows_is_told_of_now_and_then_and_then_complete(folder, ledger, start, clock):
    follower = start()
    for tenth in range(50):
        clock.now = NOW + tenth / 10
        write(folder / "a.mrc", modified=clock.now, short=100 - tenth)
        follower.look("a.mrc")
    assert state_of(ledger, "a.mrc") is State.ARRIVING
    assert ledger.revision() == 3  # at once, and every two seconds
    clock.now = NOW + 6
    write(folder / "a.mrc", modified=clock.now)
    follower.look("a.mrc")
    follower.look_at_due()
    assert state_of(ledger, "a.mrc") is State.ARRIVING
    clock.now = NOW + 9
    follower.look_at_due()
    entry = ledger.find("a.mrc")
    assert (entry.state, entry.complete, entry.reason) == (State.WAITING, NOW + 9, None)
    assert entry.identity == Identity.of((folder / "a.mrc").stat())


def test_a_file_that_changes_after_all_is_known_to_pause(folder, ledger, start, clock):
    follower = start()
    write(folder / "a.mrc", modified=NOW - 1)
    follower.look("a.mrc")
    assert state_of(ledger, "a.mrc") is State.WAITING
    write_again = folder / "a.mrc"
    for pause in (5, 5, 5):
        clock.now += pause
        os.utime(write_again, (clock.now, clock.now))
        follower.look("a.mrc")
        clock.now += 1  # more than the least pause
        follower.look_at_due()
        assert state_of(ledger, "a.mrc") is State.ARRIVING
        clock.now -= 1
    clock.now += 13
    follower.look_at_due()
    assert state_of(ledger, "a.mrc") is State.WAITING


def test_what_has_not_changed_is_looked_at_once_and_not_opened(folder, ledger, start, monkeypatch):
    write(folder / "a.mrc")
    start().look("a.mrc")
    owner = Owner.current()
    entry = ledger.claim(owner, 30.0, NOW)
    facts = {"seconds": 1.0, "shape": (4, 5, 6), "voxel_size": (1.0, 1.0, 1.0), "model": "m", "backend": "b"}
    assert ledger.finish(entry.number, owner, now=NOW, counts={}, outputs={}, warnings=(), **facts)
    revision = ledger.revision()
    monkeypatch.setattr(arrival, "_read_promise", pytest.fail)
    follower = start()
    for _ in range(3):
        follower.look("a.mrc")
    follower.look_at_due()
    follower.look_at_held()
    assert ledger.revision() == revision


def test_new_content_is_labelled_anew(folder, ledger, start, clock):
    follower = start()
    write(folder / "a.mrc")
    follower.look("a.mrc")
    entry = ledger.claim(Owner.current(), 30.0, NOW)
    write(folder / "new.mrc", modified=NOW - 50)
    (folder / "new.mrc").rename(folder / "a.mrc")
    follower.look("a.mrc")
    after = ledger.find("a.mrc")
    assert (after.number, after.state, after.owner, after.attempts) == (entry.number, State.WAITING, None, 0)


def test_what_is_deleted_is_gone_and_comes_back(folder, ledger, start):
    follower = start()
    path = write(folder / "a.mrc")
    follower.look("a.mrc")
    path.rename(folder / "elsewhere")
    follower.look("a.mrc")
    assert state_of(ledger, "a.mrc") is State.GONE
    assert not follower.knows("a.mrc")
    (folder / "elsewhere").rename(path)
    follower.look("a.mrc")
    assert state_of(ledger, "a.mrc") is State.WAITING
    path.unlink()
    path.mkdir()
    follower.look("a.mrc")
    assert state_of(ledger, "a.mrc") is State.GONE


def test_what_was_deleted_while_nobody_watched_is_known_from_the_ledger(folder, ledger, start):
    write(folder / "a.mrc")
    start().look("a.mrc")
    (folder / "a.mrc").unlink()
    follower = start()
    assert follower.paths() == {"a.mrc"}
    follower.look("a.mrc")
    assert state_of(ledger, "a.mrc") is State.GONE
    assert start().paths() == set()


def test_an_arrival_goes_on_after_a_restart(folder, ledger, start, clock):
    path = write(folder / "a.mrc", modified=NOW, short=1)
    start().look("a.mrc")
    assert state_of(ledger, "a.mrc") is State.ARRIVING
    follower = start()
    write(path, modified=NOW + 1)
    clock.now = NOW + 2
    follower.look_at_due()
    assert state_of(ledger, "a.mrc") is State.WAITING


def test_two_files_with_the_same_output_names_are_not_both_labelled(folder, ledger, start):
    first, second = write(folder / "a.mrc"), write(folder / "a.rec")
    follower = start()
    follower.look("a.mrc")
    follower.look("a.rec")
    entry = ledger.find("a.rec")
    assert entry.state is State.QUARANTINED
    assert "same names as those of a.mrc" in entry.reason
    assert state_of(ledger, "a.mrc") is State.WAITING
    # Others of that name, in other folders, do not matter; nor does the order in which a new watcher meets the two.
    (folder / "sub").mkdir()
    write(folder / "sub" / "a.mrc")
    follower = start()
    for path in ("a.rec", "sub/a.mrc", "a.mrc"):
        follower.look(path)
    follower.look_at_held()
    assert state_of(ledger, "sub/a.mrc") is State.WAITING
    assert state_of(ledger, "a.rec") is State.QUARANTINED
    revision = ledger.revision()
    follower.look_at_held()
    assert ledger.revision() == revision
    first.unlink()
    follower.look("a.mrc")
    assert state_of(ledger, "a.rec") is State.WAITING
    write(first)
    follower.look("a.mrc")
    assert state_of(ledger, "a.mrc") is State.QUARANTINED
    second.unlink()
    follower.look("a.rec")
    assert state_of(ledger, "a.mrc") is State.WAITING


def test_a_file_that_is_no_volume_leaves_its_names_to_others(folder, ledger, start):
    with mrcfile.new(folder / "a.mrc") as file:
        file.set_data(np.zeros((6, 4, 5), np.float32))
        file.set_image_stack()
    os.utime(folder / "a.mrc", (NOW - 100, NOW - 100))
    write(folder / "a.rec")
    follower = start()
    follower.look("a.mrc")
    follower.look("a.rec")
    assert "6 images" in ledger.find("a.mrc").reason
    assert state_of(ledger, "a.mrc") is State.QUARANTINED
    assert state_of(ledger, "a.rec") is State.WAITING
    # Who asks for it by a pattern gets it.
    (folder / "a.rec").unlink()
    follower.look("a.rec")
    asked = Follower(folder, ledger, any_content=True, clock=Clock())
    os.utime(folder / "a.mrc", (NOW - 50, NOW - 50))
    asked.look("a.mrc")
    assert state_of(ledger, "a.mrc") is State.WAITING


def test_a_tilt_series_beside_its_volume_is_not_even_noticed(folder, ledger, start):
    write(folder / "Position_1.mrc")
    write(folder / "Position_1_Vol.mrc")
    follower = start()
    for _ in range(2):
        follower.look("Position_1.mrc")
        follower.look("Position_1_Vol.mrc")
    assert list(ledger.known()) == ["Position_1_Vol.mrc"]
    (folder / "Position_1.mrc").unlink()
    follower.look("Position_1.mrc")
    assert ledger.revision() == 1
    Follower(folder, ledger, any_content=True, clock=Clock()).look("Position_1.mrc")
    assert state_of(ledger, "Position_1.mrc") is None


@pytest.mark.parametrize("restarted", [False, True])
def test_a_file_that_may_not_be_read_is_tried_again(folder, ledger, start, monkeypatch, restarted):
    """Permissions do not hold for root, who may run the tests, so that the refusal is made up."""
    write(folder / "a.mrc")
    write(folder / "a.rec")
    read = arrival._read_promise

    def refuse(path):
        if path.name == "a.mrc":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(arrival, "_read_promise", refuse)
    follower = start()
    follower.look("a.mrc")
    follower.look("a.rec")
    entry = ledger.find("a.mrc")
    assert (entry.state, entry.reason.split(";")[0]) == (State.QUARANTINED, "cannot be read: Permission denied")
    assert state_of(ledger, "a.rec") is State.WAITING
    follower.look_at_held()
    revision = ledger.revision()
    follower.look_at_held()
    assert ledger.revision() == revision
    (folder / "a.rec").unlink()
    follower.look("a.rec")
    monkeypatch.setattr(arrival, "_read_promise", read)
    follower = start() if restarted else follower
    follower.look_at_held()
    assert state_of(ledger, "a.mrc") is State.WAITING


def test_what_a_watcher_quarantined_is_left_alone(folder, ledger, start):
    write(folder / "a.mrc")
    start().look("a.mrc")
    owner = Owner.current()
    entry = ledger.claim(owner, 30.0, NOW)
    assert ledger.quarantine(entry.number, owner, "its values are not finite", NOW)
    follower = start()
    follower.look("a.mrc")
    follower.look_at_held()
    assert ledger.find("a.mrc").reason == "its values are not finite"
    os.utime(folder / "a.mrc", (NOW - 10, NOW - 10))
    follower.look("a.mrc")
    assert state_of(ledger, "a.mrc") is State.WAITING


def test_the_unforeseen_about_one_file_is_its_own_affair(folder, ledger, start, monkeypatch, caplog):
    write(folder / "a.mrc")
    monkeypatch.setattr(arrival, "_read_promise", lambda path: 1 / 0)
    start().look("a.mrc")
    assert ledger.find("a.mrc").reason == "cannot be judged: ZeroDivisionError: division by zero"
    assert "Traceback" in caplog.text


def test_a_file_that_goes_while_it_is_looked_at_is_gone(folder, ledger, start, monkeypatch):
    path = write(folder / "a.mrc", modified=NOW)
    follower = start()
    follower.look("a.mrc")
    write(path, modified=NOW + 1)
    read = arrival._read_promise

    def too_late(path):
        path.unlink()
        return read(path)

    monkeypatch.setattr(arrival, "_read_promise", too_late)
    follower.look("a.mrc")
    assert state_of(ledger, "a.mrc") is State.GONE


def test_what_another_watcher_found_out_is_followed(folder, ledger, start):
    follower = start()
    for name in ("a.mrc", "b.mrc", "c.mrc"):
        write(folder / name)
        follower.look(name)
    # One saw content that came and went, one that was complete, and one found a file gone that is there.
    ledger.notice("a.mrc", Identity(1, 2, 3), State.ARRIVING, NOW)
    ledger.notice("b.mrc", Identity(4, 5, 6), State.WAITING, NOW)
    ledger.gone("c.mrc", NOW)
    follower.look("a.mrc")
    assert state_of(ledger, "a.mrc") is State.ARRIVING
    follower.catch_up()
    follower.look_at_due()
    for name in ("a.mrc", "b.mrc", "c.mrc"):
        follower.look(name)
        entry = ledger.find(name)
        assert (entry.identity, entry.state) == (Identity.of((folder / name).stat()), State.WAITING)

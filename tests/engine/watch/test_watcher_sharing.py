"""Two watchers on one folder, one that is stopped and goes on, and one that is told to end."""

from __future__ import annotations

import os
import signal

import pytest

from tomoscribe.engine.watch.entry import State
from tomoscribe.engine.watch.ledger import Ledger

TOMOGRAMS = 30
MANY_RUNS = (6, 512, 512)  # so large that each slice is a run of its own
SHORT = 0.5


@pytest.fixture
def places(tmp_path):
    """The watched folder and that of the outputs."""
    return tmp_path / "session", tmp_path / "output"


def modified_of(files, output):
    return {path: (output / path).stat().st_mtime_ns for path in files}


def entry_of(output, entries_of, path):
    return entries_of(output).get(path)


def test_two_watchers_share_thirty_tomograms(places, zygote, tiny_bundle, write_volume, files_of, entries_of, wait_for):
    folder, output = places
    owners = set()

    def ended():
        entries = entries_of(output)
        owners.update(entry.owner for entry in entries.values() if entry.owner)
        return len(entries) == TOMOGRAMS and all(entry.state is State.DONE for entry in entries.values())

    folder.mkdir()
    watchers = [zygote.start(folder, output, tiny_bundle, slow=0.02) for _ in range(2)]
    for number in range(TOMOGRAMS):
        write_volume(folder / "square" / f"{number}.mrc", number, shape=(4, 32, 32))
    wait_for(ended)
    assert [zygote.end(number, signal.SIGTERM) for number in watchers] == [0, 0]
    assert len(owners) == 2
    assert [entry.attempts for entry in entries_of(output).values()] == [1] * TOMOGRAMS
    files = files_of(output)
    assert len(files) == 4 * TOMOGRAMS
    assert not [path for path in files if "/." in path]


def test_a_stopped_watcher_loses_its_lease_and_does_no_harm_when_it_goes_on(
    places, zygote, tiny_bundle, write_volume, files_of, entries_of, wait_for, wait_until_ended
):
    folder, output = places
    write_volume(folder / "a.mrc", 1, shape=MANY_RUNS)
    stopped = zygote.start(folder, output, tiny_bundle, lease=SHORT, slow=0.3)
    wait_for(lambda: any(entry.slices for entry in entries_of(output).values()))
    os.kill(stopped, signal.SIGSTOP)
    other = zygote.start(folder, output, tiny_bundle, lease=SHORT)
    entries = wait_until_ended(output, 1)
    assert entries["a.mrc"].attempts == 2
    assert zygote.end(other, signal.SIGTERM) == 0
    files = files_of(output)
    modified = modified_of(files, output)
    assert len(files) == 4
    os.kill(stopped, signal.SIGCONT)
    write_volume(folder / "b.mrc", 2, shape=(4, 32, 32))
    assert wait_until_ended(output, 2)["b.mrc"].state is State.DONE
    assert zygote.end(stopped, signal.SIGTERM) == 0
    after = files_of(output)
    assert {path: after[path] for path in files} == files
    assert modified_of(files, output) == modified
    assert len(after) == 8


def test_a_watcher_that_is_stopped_between_two_renames_is_waited_for(
    places, tmp_path, zygote, tiny_bundle, write_volume, files_of, entries_of, wait_for, wait_until_ended
):
    folder, output = places
    write_volume(folder / "a.mrc", 1)
    aim = ["rename", "after", 2, signal.SIGSTOP]
    stopped = zygote.start(folder, output, tiny_bundle, lease=SHORT, aim=aim)
    wait_for(lambda: len([path for path in files_of(output) if not path.startswith(".")]) == 2)
    write_volume(folder / "a.mrc", 2)
    other = zygote.start(folder, output, tiny_bundle, lease=SHORT)

    def paused():
        with Ledger(output / ".tomoscribe" / "ledger.sqlite") as ledger:
            return [watcher["paused"] for watcher in ledger.watchers(0.0, within=1e12) if watcher["paused"]]

    assert "was stopped while it named the outputs" in wait_for(paused)[0]
    assert len([path for path in files_of(output) if not path.startswith(".")]) == 2
    os.kill(stopped, signal.SIGCONT)
    assert wait_until_ended(output, 1)["a.mrc"].state is State.DONE
    assert [zygote.end(number, signal.SIGTERM) for number in (stopped, other)] == [0, 0]
    expected = tmp_path / "expected"
    number = zygote.start(folder, expected, tiny_bundle)
    wait_until_ended(expected, 1)
    zygote.end(number)
    assert files_of(output) == files_of(expected)


def test_a_watcher_that_is_told_to_end_gives_back_what_it_was_at(
    places, zygote, tiny_bundle, write_volume, files_of, entries_of, wait_for
):
    folder, output = places
    write_volume(folder / "a.mrc", 1, shape=MANY_RUNS)
    number = zygote.start(folder, output, tiny_bundle, slow=0.3)
    wait_for(lambda: any(entry.slices for entry in entries_of(output).values()))
    assert zygote.end(number, signal.SIGTERM) == 0
    entry = entries_of(output)["a.mrc"]
    assert (entry.state, entry.attempts, entry.owner, entry.slices) == (State.WAITING, 0, None, 0)
    assert files_of(output) == {}

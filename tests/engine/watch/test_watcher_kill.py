"""Watchers that are killed at any instant, and what the next one makes of what they left."""

from __future__ import annotations

import random
import signal
import sys
import time

import pytest

from tomoscribe.engine.watch.entry import State
from tomoscribe.engine.watch.ledger import Ledger

KILLS = 54
# Every step of a tomogram's way, in order: each watcher gets one step further than the one before.
STEPS = [
    ("claim", "before"),
    ("claim", "after"),
    ("preview", "before"),
    ("previewed", "before"),
    ("previewed", "after"),
    ("write", "before", 1),
    ("write", "after", 1),
    ("prepare", "after"),
]
NAMING = [
    ("commit", "before"),
    ("commit", "after"),
    *(("rename", "after", number) for number in (1, 2, 3, 4)),
    ("finish", "before"),
    ("finish", "after"),
]
TENDING = [("hook_ended", "before"), ("hook_ended", "after"), ("set_objects", "before")]
LABELS = "__labels.mrc"


@pytest.fixture
def undisturbed(tmp_path, zygote, tiny_bundle, files_of, wait_until_ended):
    """Return what the output folder holds after a run of a folder that nothing came between."""

    def run(folder, count):
        output = tmp_path / f"undisturbed {time.monotonic_ns()}"
        number = zygote.start(folder, output, tiny_bundle)
        wait_until_ended(output, count)
        assert zygote.end(number, signal.SIGTERM) == 0
        return files_of(output)

    return run


class Visible:
    """What can be seen in an output folder, looked at time and again: what is once there has to stay as it is."""

    def __init__(self, output, files_of, entries_of):
        self._output, self._files_of, self._entries_of = output, files_of, entries_of
        self._labels = {}
        self.files = {}

    def look(self):
        entries = self._entries_of(self._output)
        files = self._files_of(self._output)
        visible = {path: content for path, content in files.items() if not path.rpartition("/")[2].startswith(".")}
        for path in visible:
            if path.endswith(LABELS):  # when it was written says whether it was done twice
                modified = (self._output / path).stat().st_mtime_ns
                assert self._labels.setdefault(path, modified) == modified, path
        assert self._labels.keys() <= visible.keys()
        for path, content in visible.items():
            assert self.files.setdefault(path, content) == content, path
        for entry in entries.values():
            assert entry.state is not State.DONE or set(entry.outputs.values()) <= visible.keys(), entry.path
        return entries

    @property
    def unfinished(self):
        return [path for path in self._files_of(self._output) if path.rpartition("/")[2].startswith(".")]


def test_kills_at_random_moments_leave_what_an_undisturbed_run_does(
    tmp_path, zygote, tiny_bundle, write_volume, undisturbed, files_of, entries_of, wait_for, wait_until_ended
):
    folder, output = tmp_path / "session", tmp_path / "output"
    moments = random.Random(7)
    count, modified = 0, time.time() - 10_000

    def land(**more):
        nonlocal count
        place = folder if count % 3 else folder / "grid 1" / "square"
        path = place / f"Position_{count}_Vol.mrc"
        write_volume(path, count, shape=(12, 160, 160), modified=modified + count, **more)
        count += 1

    for nan in (True, *[False] * 7):
        land(nan=nan)
    (folder / "text.mrc").write_text("This is no tomogram. " * 100)
    visible = Visible(output, files_of, entries_of)
    for kill in range(1, KILLS + 1):
        entries = visible.look()
        ended = sum(entry.state in (State.DONE, State.QUARANTINED) for entry in entries.values())
        if count + 1 - ended < 6:  # so that every kill is in the middle of the work
            land()
        number = zygote.start(folder, output, tiny_bundle)
        if kill % 8:
            _await_changes(output, moments.randrange(1, 8), wait_for)
        time.sleep(moments.uniform(0, 0.03 if kill % 8 else 0.3))
        assert zygote.end(number) == -signal.SIGKILL
    visible.look()
    number = zygote.start(folder, output, tiny_bundle)
    entries = wait_until_ended(output, count + 1)
    assert zygote.end(number, signal.SIGTERM) == 0
    visible.look()
    assert sum(entry.attempts for entry in entries.values()) > KILLS / 2
    assert {path for path, entry in entries.items() if entry.state is State.QUARANTINED} == {
        "grid 1/square/Position_0_Vol.mrc",
        "text.mrc",
    }
    assert files_of(output) == undisturbed(folder, count + 1)


def _await_changes(output, changes, wait_for):
    """Wait until a watcher has told the ledger so many things."""
    path = output / ".tomoscribe" / "ledger.sqlite"
    wait_for(path.exists)
    with Ledger(path) as ledger:
        aim = ledger.revision() + changes
        wait_for(lambda: ledger.revision() >= aim)


def test_kills_at_every_step_lose_nothing_and_do_nothing_twice(
    tmp_path, zygote, tiny_bundle, write_volume, undisturbed, files_of, entries_of, wait_for
):
    folder, output, told = tmp_path / "session", tmp_path / "output", tmp_path / "told"
    write_volume(folder / "sub" / "a.mrc", 1, modified=time.time() - 100)
    command = [sys.executable, "-c", f"open({str(told)!r}, 'a').write('once\\n')"]
    visible = Visible(output, files_of, entries_of)
    named = []
    for point, when, *count in [*STEPS, *NAMING, *TENDING]:
        aim = [point, when, *(count or [1]), signal.SIGKILL]
        number = zygote.start(folder, output, tiny_bundle, on_done=command, aim=aim)
        assert zygote.wait(number) == -signal.SIGKILL, aim
        visible.look()
        named.append(len(visible.files))
    steps = len(STEPS)
    assert named[: steps + 2] == [0] * (steps + 2)
    assert named[steps + 2 :] == [1, 2, 3, 4, *[4] * (len(named) - steps - 6)]
    number = zygote.start(folder, output, tiny_bundle, on_done=command)
    wait_for(lambda: entries_of(output)["sub/a.mrc"].objects is not None)
    assert zygote.end(number, signal.SIGTERM) == 0
    visible.look()
    entry = entries_of(output)["sub/a.mrc"]
    assert entry.state is State.DONE
    assert entry.hook.startswith("exit 0")
    # The command had run when the watcher was killed that was to say so.
    assert told.read_text().splitlines() == ["once", "once"]
    assert files_of(output) == undisturbed(folder, 1)


def test_kills_while_outputs_are_replaced_never_leave_a_label_volume_of_another_run(
    tmp_path, zygote, tiny_bundle, write_volume, undisturbed, files_of, wait_until_ended
):
    folder, output = tmp_path / "session", tmp_path / "output"
    modified = time.time() - 100
    write_volume(folder / "a.mrc", 1, modified=modified)
    number = zygote.start(folder, output, tiny_bundle)
    wait_until_ended(output, 1)
    assert zygote.end(number, signal.SIGTERM) == 0
    old = files_of(output)
    write_volume(folder / "a.mrc", 2, modified=modified + 10)
    new = undisturbed(folder, 1)
    assert all(old[path] != new[path] for path in new)
    for point, when, *count in NAMING:
        number = zygote.start(folder, output, tiny_bundle, aim=[point, when, *(count or [1]), signal.SIGKILL])
        assert zygote.wait(number) == -signal.SIGKILL
        files = {path: content for path, content in files_of(output).items() if not path.startswith(".")}
        assert f"a{LABELS}" not in files or files in (old, new)
    assert files_of(output) == new


def test_what_a_killed_watcher_had_begun_for_a_tomogram_that_is_gone_is_removed(
    tmp_path, zygote, tiny_bundle, write_volume, files_of, entries_of, wait_for
):
    folder, output = tmp_path / "session", tmp_path / "output"
    path = write_volume(folder / "a.mrc", 1)
    number = zygote.start(folder, output, tiny_bundle, aim=["commit", "after", 1, signal.SIGKILL])
    assert zygote.wait(number) == -signal.SIGKILL
    begun = files_of(output)
    assert len(begun) == 4
    assert all(name.startswith(".a__") for name in begun)
    path.unlink()
    number = zygote.start(folder, output, tiny_bundle)
    wait_for(lambda: entries_of(output)["a.mrc"].state is State.GONE and not files_of(output))
    assert zygote.end(number, signal.SIGTERM) == 0


def test_a_lost_ledger_costs_no_second_labelling(
    tmp_path, zygote, tiny_bundle, write_volume, files_of, entries_of, wait_until_ended
):
    folder, output = tmp_path / "session", tmp_path / "output"
    for number in range(3):
        write_volume(folder / f"{number}.mrc", number, modified=time.time() - 100)
    number = zygote.start(folder, output, tiny_bundle)
    before = wait_until_ended(output, 3)
    assert zygote.end(number, signal.SIGTERM) == 0
    visible = Visible(output, files_of, entries_of)
    visible.look()
    for path in (output / ".tomoscribe").glob("ledger*"):
        path.unlink()
    number = zygote.start(folder, output, tiny_bundle)
    after = wait_until_ended(output, 3)
    assert zygote.end(number, signal.SIGTERM) == 0
    visible.look()
    for path, entry in after.items():
        assert (entry.counts, entry.outputs, entry.shape) == (
            before[path].counts,
            before[path].outputs,
            before[path].shape,
        )
        assert entry.seconds is None
        assert entry.finished >= entry.complete
        assert entry.previewed is not None

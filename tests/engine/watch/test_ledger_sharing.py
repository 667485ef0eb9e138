"""A ledger that several processes and threads use, some of which are killed."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time

from tomoscribe.engine.watch.entry import Identity, State
from tomoscribe.engine.watch.ledger import Ledger
from tomoscribe.engine.watch.ledger_queries import totals
from tomoscribe.engine.watch.owner import Owner

CONTENT = Identity(100, 1000, 7)
START = """
import sys
from pathlib import Path
from tomoscribe.engine.watch.entry import Identity, State
from tomoscribe.engine.watch.ledger import Ledger
from tomoscribe.engine.watch.owner import Owner
RESULT = dict(now=5.0, seconds=1.0, shape=(2, 2, 2), voxel_size=(1.0,) * 3, model="m", backend="b", counts={"r": 4},
              outputs={}, warnings=[])
print("ready", flush=True)
sys.stdin.readline()
path, owner = Path(sys.argv[1]), Owner.current()
"""
CLAIM_ALL = (
    START
    + """
with Ledger(path) as ledger:
    while (entry := ledger.claim(owner, 1000.0, 2.0)) is not None:
        assert ledger.finish(entry.number, owner, **RESULT)
        print(entry.number, flush=True)
"""
)
WRITE_ON = (
    START
    + """
with Ledger(path) as ledger:
    for number in range(10**9):
        entry = ledger.notice(f"{sys.argv[2]} {number}.mrc", Identity(1, number, 1), State.WAITING, 1.0)
        print("noticed", entry.number, flush=True)
        entry = ledger.claim(owner, 1000.0, 2.0)
        ledger.progress(entry.number, owner, 1, (2, 2, 2))
        if ledger.finish(entry.number, owner, **RESULT):
            print("finished", entry.number, flush=True)
"""
)


@contextlib.contextmanager
def program(text, *arguments):
    """Run a program that waits for a line when all is imported, so that several begin at once."""
    command = [sys.executable, "-c", text, *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def go(process):
    process.stdin.write("\n")
    process.stdin.flush()


def test_two_processes_share_the_work_and_each_entry_is_done_once(tmp_path):
    path = tmp_path / "ledger.sqlite"
    with Ledger(path) as ledger:
        for number in range(200):
            ledger.notice(f"{number}.mrc", Identity(1, number, 1), State.WAITING, 1.0)
        with program(CLAIM_ALL, path) as one, program(CLAIM_ALL, path) as other:
            for process in (one, other):
                go(process)
            answers = [process.stdout.read().split() for process in (one, other)]
            assert (one.wait(60), other.wait(60)) == (0, 0)
        assert all(answers), "both had some"
        assert sorted(map(int, [*answers[0], *answers[1]])) == list(range(1, 201))
        assert {(e.state, e.attempts) for e in ledger.changed_since(0, 500)} == {(State.DONE, 1)}
        assert totals(ledger)["tomograms"] == 200


def test_processes_that_begin_at_once_make_one_ledger(tmp_path):
    path = tmp_path / "new" / "ledger.sqlite"
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(program(WRITE_ON, path, name)) for name in "abc"]
        for process in processes:
            go(process)
        first = [process.stdout.readline().split() for process in processes]
        assert sorted(word for word, _ in first) == ["noticed"] * 3
        assert len({number for _, number in first}) == 3


def test_a_writer_that_is_killed_leaves_what_it_said_to_be_written(tmp_path):
    path = tmp_path / "ledger.sqlite"
    generator = random.Random(5)
    said = {"noticed": set(), "finished": set()}
    with Ledger(path) as survivor, contextlib.ExitStack() as stack:
        processes = [stack.enter_context(program(WRITE_ON, path, name)) for name in range(12)]
        for process in processes:
            go(process)
            lines = [process.stdout.readline() for _ in range(generator.randrange(1, 30))]
            time.sleep(generator.uniform(0.0, 0.01))
            os.kill(process.pid, signal.SIGKILL)
            # The last line may be cut short: what it says has been written all the same, but not which entry that is.
            for text in (*lines, *process.stdout.read().split("\n")[:-1]):
                word, number = text.split()
                said[word].add(int(number))
            assert process.wait(60) == -signal.SIGKILL
            check(path, survivor, said)
        unfinished = {e.number for e in survivor.changed_since(0, 10**6) if e.state is not State.DONE}
        claims = iter(lambda: survivor.claim(Owner.current(), 30.0, 3.0), None)
        assert {entry.number for entry in claims} == unfinished
        assert said["finished"]


def check(path, ledger, said):
    """See that the file is whole, holds what was said, and that its parts agree with each other."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert (
            connection.execute("SELECT count(*) FROM fractions").fetchone()
            == connection.execute("SELECT count(*) FROM entries WHERE state = 'done'").fetchone()
        )
    entries = {entry.number: entry for entry in ledger.changed_since(0, 10**6)}
    assert said["noticed"] <= set(entries)
    finished = {number for number, entry in entries.items() if entry.state is State.DONE}
    assert said["finished"] <= finished
    assert totals(ledger)["tomograms"] == len(finished)
    assert all(entry.counts == {"r": 4} for entry in entries.values() if entry.state is State.DONE)
    assert len({entry.revision for entry in entries.values()}) == len(entries)
    assert ledger.revision() >= max(entry.revision for entry in entries.values())


def test_threads_write_and_read_at_once_and_no_change_is_lost(tmp_path):
    errors, revisions = [], []
    stop = threading.Event()

    def write(ledger, name):
        owner = Owner("elsewhere", name, 1)
        try:
            for number in range(25):
                ledger.notice(f"{name} {number}.mrc", CONTENT, State.WAITING, 1.0)
                entry = ledger.claim(owner, 30.0, 2.0)
                assert ledger.progress(entry.number, owner, 1)
                assert ledger.quarantine(entry.number, owner, "bad", 3.0)
        except BaseException as error:
            errors.append(error)

    def read(ledger):
        last = 0
        try:
            while not stop.is_set():
                changed = ledger.changed_since(last, 1000)
                assert ledger.revision() >= last
                last = max([last, *(entry.revision for entry in changed)])
                revisions.append(last)
        except BaseException as error:
            errors.append(error)

    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        writers = [threading.Thread(target=write, args=[ledger, name]) for name in range(4)]
        reader = threading.Thread(target=read, args=[ledger])
        for thread in (reader, *writers):
            thread.start()
        for thread in writers:
            thread.join(60)
        stop.set()
        reader.join(60)
        assert errors == []
        assert ledger.states()[State.QUARANTINED] == 100
        assert ledger.revision() == 400
        assert {entry.attempts for entry in ledger.changed_since(0, 1000)} == {1}
    assert revisions == sorted(revisions)

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
import os, sys
from pathlib import Path
from tomoscribe.engine.watch.entry import Identity, State
from tomoscribe.engine.watch.ledger import Ledger
from tomoscribe.engine.watch.owner import Owner
RESULT = dict(now=5.0, seconds=1.0, shape=(2, 2, 2), voxel_size=(1.0,) * 3, model="m", backend="b", counts={"r": 4},
              outputs={}, warnings=[])
path = Path(sys.argv[1])
print("ready", flush=True)
"""
CLAIM_ALL = (
    START
    + """
sys.stdin.readline()
owner = Owner.current()
with Ledger(path) as ledger:
    while (entry := ledger.claim(owner, 1000.0, 2.0)) is not None:
        print(entry.number, flush=True)
        sys.stdin.readline()
        assert ledger.finish(entry.number, owner, **RESULT)
"""
)
# For every line that it is given, a child that writes until it is killed.
WRITE_ON = (
    START
    + """
for line in sys.stdin:
    child = os.fork()
    if child:
        print("ended", os.waitpid(child, 0)[1], flush=True)
        continue
    owner = Owner.current()
    with Ledger(path) as ledger:
        print("pid", os.getpid(), flush=True)
        for number in range(10**9):
            entry = ledger.notice(f"{line.strip()} {number}.mrc", Identity(1, number, 1), State.WAITING, 1.0)
            print("noticed", entry.number, flush=True)
            entry = ledger.claim(owner, 1000.0, 2.0)
            ledger.progress(entry.number, owner, 1, (2, 2, 2))
            if ledger.finish(entry.number, owner, **RESULT):
                print("finished", entry.number, flush=True)
"""
)


@contextlib.contextmanager
def programs(text, path, number):
    """Run a program so many times; each waits for a line when all is imported."""
    with contextlib.ExitStack() as stack:
        processes = []
        for _ in range(number):
            command = [sys.executable, "-c", text, str(path)]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            processes.append(stack.enter_context(process))
            stack.callback(process.kill)
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        yield processes


def tell(process, line):
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def told(process):
    word, number = process.stdout.readline().split()
    return word, int(number)


def test_two_processes_share_the_work_and_each_entry_is_done_once(tmp_path):
    path = tmp_path / "ledger.sqlite"
    with Ledger(path) as ledger:
        for number in range(200):
            ledger.notice(f"{number}.mrc", Identity(1, number, 1), State.WAITING, 1.0)
        with programs(CLAIM_ALL, path, 2) as processes:
            for process in processes:
                tell(process, "begin")
            first = [process.stdout.readline().strip() for process in processes]
            answers = [process.communicate("go on")[0].split() for process in processes]
            assert [process.wait(60) for process in processes] == [0, 0]
        assert sorted(map(int, [*first, *answers[0], *answers[1]])) == list(range(1, 201))
        assert {(e.state, e.attempts) for e in ledger.changed_since(0, 500)} == {(State.DONE, 1)}
        assert totals(ledger)["tomograms"] == 200


def test_processes_that_begin_at_once_make_one_ledger(tmp_path):
    with programs(WRITE_ON, tmp_path / "new" / "ledger.sqlite", 2) as processes:
        for name, process in enumerate(processes):
            tell(process, name)
        children = [told(process) for process in processes]
        first = [told(process) for process in processes]
        for _, child in children:
            os.kill(child, signal.SIGKILL)
    assert [word for word, _ in first] == ["noticed"] * 2
    assert len({number for _, number in first}) == 2


def test_a_writer_that_is_killed_leaves_what_it_said_to_be_written(tmp_path):
    path = tmp_path / "ledger.sqlite"
    generator = random.Random(5)
    said = {"noticed": set(), "finished": set()}
    with Ledger(path) as survivor, programs(WRITE_ON, path, 1) as (process,):
        for name in range(20):
            tell(process, name)
            _, child = told(process)
            lines = [told(process) for _ in range(generator.randrange(6))]
            time.sleep(generator.uniform(0.0, 0.005))
            os.kill(child, signal.SIGKILL)
            for word, number in (*lines, *iter(lambda: told(process), ("ended", signal.SIGKILL))):
                said[word].add(number)
            check(path, survivor, said)
        assert said["finished"]
        unfinished = {e.number for e in survivor.changed_since(0, 10**6) if e.state is not State.DONE}
        claims = iter(lambda: survivor.claim(Owner.current(), 30.0, 3.0), None)
        assert {entry.number for entry in claims} == unfinished


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
    errors = []
    stop = threading.Event()

    def write(ledger, name):
        owner = Owner("elsewhere", name, 1)
        try:
            for number in range(10):
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
                changed = [last, *(entry.revision for entry in ledger.changed_since(last, 1000))]
                assert changed == sorted(set(changed))
                last = changed[-1]
                assert last <= ledger.revision()
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
        assert ledger.states()[State.QUARANTINED] == 40
        assert ledger.revision() == 160
        assert {entry.attempts for entry in ledger.changed_since(0, 1000)} == {1}

"""Watchers that can be killed: processes forked by one that has imported everything, and folders for them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from tomoscribe.engine.watch import arrival, folder
from tomoscribe.engine.watch.entry import State
from tomoscribe.engine.watch.folder import FolderWatch
from tomoscribe.engine.watch.ledger import Ledger
from tomoscribe.engine.watch.settings import WatchSettings

PATIENCE = 30.0
ENDED = {State.DONE, State.QUARANTINED, State.GONE}


class Zygote:
    """The process that forks watchers."""

    def __init__(self, process):
        self._process = process
        self._running = set()

    def start(self, folder, output, bundle, **more):
        """Start a watcher and return its number."""
        request = {"folder": str(folder), "output": str(output), "bundle": str(bundle), **more}
        number = self._ask({"start": request})
        self._running.add(number)
        return number

    def wait(self, number):
        """Return how a watcher ended: its exit status, or minus the signal that killed it."""
        self._running.remove(number)
        return self._ask({"wait": number})

    def end(self, number, how=signal.SIGKILL):
        """Send a watcher a signal that it ends by, and return how it ended."""
        os.kill(number, how)
        return self.wait(number)

    def end_all(self):
        """Kill what a test left running."""
        for number in list(self._running):
            self.end(number)

    def _ask(self, request):
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


@pytest.fixture(scope="session")
def _zygote():
    single = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("zygote.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | single,
    ) as process:
        yield Zygote(process)
        process.stdin.close()


@pytest.fixture
def zygote(_zygote):
    """Starts watchers, each a process of its own."""
    yield _zygote
    _zygote.end_all()


def _write_volume(path, seed, shape=(12, 64, 64), modified=None, nan=False):
    values = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(mrcfile.new(path, overwrite=True)) as file:
        file.set_data(values)
        file.voxel_size = 10.0
    if nan:
        with path.open("r+b") as file:
            file.seek(-4, os.SEEK_END)
            file.write(np.float32(np.nan).tobytes())
    if modified is not None:
        os.utime(path, (modified, modified))
    return path


@pytest.fixture(scope="session")
def write_volume():
    """Write a tomogram of noise: ``(path, seed, shape=, modified=, nan=)``; one with NaN has it in the last voxel."""
    return _write_volume


def _entries(output):
    path = output / ".tomoscribe" / "ledger.sqlite"
    if not path.exists():
        return {}
    with Ledger(path) as ledger:
        return {entry.path: entry for entry in ledger.changed_since(0, 10_000)}


@pytest.fixture(scope="session")
def entries_of():
    """Return what a watcher's ledger has, by path."""
    return _entries


@pytest.fixture(scope="session")
def wait_for():
    """Wait until a function returns something true, and return that."""

    def wait(condition):
        end = time.monotonic() + PATIENCE
        while not (found := condition()):
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.01)
        return found

    return wait


@pytest.fixture(scope="session")
def wait_until_ended(wait_for):
    """Wait until a ledger has so many entries, all of them at an end, and return them by path."""

    def wait(output, count):
        def ended():
            entries = _entries(output)
            done = len(entries) == count and all(entry.state in ENDED for entry in entries.values())
            return entries if done else None

        return wait_for(ended)

    return wait


@pytest.fixture(scope="session")
def files_of():
    """Return the content of every file of an output folder, by its path in it, less what is the watcher's own."""

    def files(output):
        return {
            str(path.relative_to(output)): path.read_bytes()
            for path in output.rglob("*")
            if path.is_file() and ".tomoscribe" not in path.parts
        }

    return files


class WatchedFolder:
    """A folder, its ledger, and the thread that watches it."""

    def __init__(self, tmp_path, ledger, **options):
        self.folder = tmp_path / "folder"
        self.folder.mkdir(exist_ok=True)
        self.settings = WatchSettings(self.folder, tmp_path / "output", **options)
        self.ledger = ledger
        self.stop = threading.Event()
        self.thread = None

    def start(self, watch=None):
        self.stop.clear()
        watch = watch or FolderWatch(self.settings, self.ledger)
        self.thread = threading.Thread(target=watch.run, args=(self.stop,))
        self.thread.start()

    def end(self):
        self.stop.set()
        if self.thread is not None:
            self.thread.join(PATIENCE)
            assert not self.thread.is_alive()

    def states(self):
        return {path: state.value for path, (_, state) in self.ledger.known().items()}

    def until(self, expected):
        """Wait until the ledger has just these entries, in these states."""
        self.wait(lambda: self.states() == expected, lambda: f"expected {expected}, found {self.states()}")

    def wait(self, condition, message=lambda: ""):
        # Less than the folder watch takes to look through everything of its own accord.
        end = time.monotonic() + 20.0
        while not condition():
            assert time.monotonic() < end, message()
            time.sleep(0.01)


@pytest.fixture(scope="session")
def volume_bytes(tmp_path_factory):
    """The bytes of a volume of 20 sections."""
    path = tmp_path_factory.mktemp("volume") / "a.mrc"
    with mrcfile.new(path) as file:
        file.set_data(np.zeros((20, 10, 12), np.float32))
    return path.read_bytes()


@pytest.fixture
def watch_folder(tmp_path, monkeypatch):
    """Make a folder that is watched, or will be, by a watch that takes less time over everything than in use."""
    monkeypatch.setattr(folder, "_POLL_EVERY", 0.05)
    monkeypatch.setattr(arrival, "_LEAST_PAUSE", 0.1)
    made = []
    with Ledger(tmp_path / "output" / ".tomoscribe" / "ledger.sqlite") as ledger:

        def make(**options):
            made.append(WatchedFolder(tmp_path, ledger, **options))
            return made[-1]

        yield make
        for watched in made:
            watched.end()

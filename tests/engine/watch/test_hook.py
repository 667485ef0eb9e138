from __future__ import annotations

import json
import os
import re
import sys
import threading
import time
from pathlib import Path

import pytest

from tomoscribe.engine.watch import hook
from tomoscribe.engine.watch.entry import Entry, Identity, State
from tomoscribe.engine.watch.hook import run_hook
from tomoscribe.engine.watch.settings import WatchSettings

OUTPUTS = {"labels": "a/b__labels.mrc", "sidecar": "a/b__labels.json"}
ENTRY = Entry(7, "a/b.mrc", State.DONE, Identity(10, 20, 30), 4, counts={"ribosome": 5}, outputs=OUTPUTS)


@pytest.fixture
def settings(tmp_path):
    return WatchSettings(tmp_path / "in", tmp_path / "out")


@pytest.fixture
def run(settings):
    """Run Python code as a hook."""

    def run(code, *arguments, timeout=30.0, stop=None):
        return run_hook([sys.executable, "-c", code, *map(str, arguments)], ENTRY, settings, timeout, stop)

    return run


def wait_for(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "in vain"
        time.sleep(0.01)


def is_running(number):
    try:
        status = Path(f"/proc/{number}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(") ")[2][0] != "Z"


def test_the_command_is_told_what_was_finished(run, tmp_path, monkeypatch):
    monkeypatch.setenv("TOMOSCRIBE_TOKEN", "a-secret-of-the-page")
    monkeypatch.delenv("TOMOSCRIBE_DATA", raising=False)
    code = "import json, os, sys; json.dump([dict(os.environ), json.load(sys.stdin)], open(sys.argv[1], 'w'))"
    assert re.fullmatch(r"exit 0 in \d+\.\d s", run(code, tmp_path / "told"))
    environment, entry = json.loads((tmp_path / "told").read_text())
    assert entry == ENTRY.to_json()
    own = {name: value for name, value in environment.items() if name.startswith("TOMOSCRIBE")}
    assert own == {
        "TOMOSCRIBE_TOMOGRAM": str(tmp_path / "in/a/b.mrc"),
        "TOMOSCRIBE_LABELS": str(tmp_path / "out/a/b__labels.mrc"),
        "TOMOSCRIBE_SIDECAR": str(tmp_path / "out/a/b__labels.json"),
        "TOMOSCRIBE_OUTPUT": str(tmp_path / "out"),
    }
    assert environment["PATH"] == os.environ["PATH"]


def test_folders_that_were_given_relative_are_told_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = "import os, sys; sys.exit(os.environ['TOMOSCRIBE_LABELS'])"
    told = run_hook([sys.executable, "-c", code], ENTRY, WatchSettings(Path("in"), Path("out")), 30)
    assert told.endswith(f": {tmp_path}/out/a/b__labels.mrc")


def test_words_reach_the_command_as_they_are_and_no_shell_reads_them(run, tmp_path):
    words = ["$HOME", "a b", "; touch x", "*", "'"]
    code = "import json, sys; json.dump(sys.argv[2:], open(sys.argv[1], 'w'))"
    run(code, tmp_path / "words", *words)
    assert json.loads((tmp_path / "words").read_text()) == words


@pytest.mark.parametrize(
    ("code", "ending"),
    [
        ("import sys; sys.exit(3)", r"exit 3 in \d+\.\d s"),
        ("import sys; print('one\\n  two \\x07 \\n\\n'); sys.exit(1)", r"exit 1 in \d+\.\d s: two \x07"),
        ("import sys; print('said'); sys.exit('lost')", r"exit 1 in \d+\.\d s: lost"),
        ("import os; os.kill(os.getpid(), 9)", r"ended by SIGKILL after \d+\.\d s"),
        ("print('x' * 10**6)", r"exit 0 in \d+\.\d s"),
        ("import sys; sys.stdout.write('x' * 10**6); sys.exit(1)", r"exit 1 in \d+\.\d s: x{200}"),
        ("import os, sys; os.write(2, b'\\xff'); sys.exit(1)", r"exit 1 in \d+\.\d s: \ufffd"),
        ("import os; os.close(1); os.close(2); import time; time.sleep(0.2)", r"exit 0 in \d+\.\d s"),
    ],
)
def test_how_it_ended_is_told_in_one_line(run, code, ending):
    told = run(code)
    assert re.fullmatch(ending, told)
    assert "\n" not in told


def test_a_command_that_is_not_there_is_told_of(settings, tmp_path):
    told = run_hook([str(tmp_path / "nothing")], ENTRY, settings, 30)
    assert told.startswith("cannot be run (")
    assert "nothing" in told
    assert run_hook(["a\0b"], ENTRY, settings, 30) == "cannot be run (embedded null byte)"


LEAVES_A_CHILD = (
    "import subprocess, sys, time\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(100)'])\n"
    "open(sys.argv[1], 'w').write(f'{child.pid}\\n')\n"
)


@pytest.fixture
def time_is_up_with(monkeypatch):
    """Let an hour pass when a file has a whole line: how fast a command starts is chance."""

    def time_is_up_with(file):
        real = time.monotonic
        late = lambda: file.exists() and file.read_text().endswith("\n")  # noqa: E731
        monkeypatch.setattr(hook.time, "monotonic", lambda: real() + 3600 * late())
        return file

    return time_is_up_with


def test_one_that_takes_too_long_is_ended_with_all_that_it_started(run, tmp_path, time_is_up_with):
    code = "import time; print('busy', flush=True)\n" + LEAVES_A_CHILD + "time.sleep(100)"
    told = run(code, time_is_up_with(tmp_path / "child"), timeout=600)
    assert told == "ended, for it took more than 600 s: busy"
    child = int((tmp_path / "child").read_text())
    wait_for(lambda: not is_running(child))


def test_one_that_does_not_listen_is_killed(run, tmp_path, time_is_up_with):
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('deaf', flush=True)\n"
        "open(sys.argv[1], 'w').write('ready\\n')\n"
        "time.sleep(20)\n"
        "open(sys.argv[1] + '.end', 'w')"
    )
    told = run(code, time_is_up_with(tmp_path / "ready"), timeout=600)
    assert told == "ended, for it took more than 600 s: deaf"
    assert not (tmp_path / "ready.end").exists()


def test_one_that_listens_may_tidy_up(run, tmp_path, time_is_up_with):
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (open(sys.argv[1] + '.tidy', 'w').write('yes'), sys.exit(0)))\n"
        "open(sys.argv[1], 'w').write('ready\\n')\n"
        "time.sleep(100)"
    )
    run(code, time_is_up_with(tmp_path / "ready"), timeout=600)
    assert (tmp_path / "ready.tidy").read_text() == "yes"


def test_a_stop_ends_it_and_it_has_to_run_again(run, tmp_path):
    stop, told = threading.Event(), []
    thread = threading.Thread(
        target=lambda: told.append(run(LEAVES_A_CHILD + "time.sleep(100)", tmp_path / "child", stop=stop))
    )
    thread.start()
    wait_for(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text().endswith("\n"))
    stop.set()
    thread.join(20)
    assert told == [None]
    child = int((tmp_path / "child").read_text())
    wait_for(lambda: not is_running(child))


def test_what_it_leaves_running_is_not_waited_for(run, tmp_path):
    # The child holds the pipe of what it prints open.
    assert run(LEAVES_A_CHILD, tmp_path / "child").startswith("exit 0")
    child = int((tmp_path / "child").read_text())
    assert is_running(child)
    os.kill(child, 9)


def test_no_file_stays_open(run):
    before = set(Path("/proc/self/fd").iterdir())
    run("pass")
    run("import time; time.sleep(100)", timeout=0.1)
    assert set(Path("/proc/self/fd").iterdir()) == before


def test_one_that_never_stops_printing_is_ended_too(run, tmp_path, time_is_up_with):
    code = "import sys\nopen(sys.argv[1], 'w').write('ready\\n')\nwhile True: print('more' * 1000)"
    told = run(code, time_is_up_with(tmp_path / "ready"), timeout=600)
    assert told.startswith("ended, for it took more than 600 s: more")


def test_one_that_runs_as_another_user_is_left_to_end(run, monkeypatch):
    def refuse(group, number):
        raise PermissionError(1, "Operation not permitted")

    stop = threading.Event()
    stop.set()
    monkeypatch.setattr(hook.os, "killpg", refuse)
    assert run("import time; time.sleep(1)", stop=stop) is None


def test_a_disk_without_room_for_what_it_is_told_is_told_of(run, monkeypatch):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hook.tempfile, "TemporaryFile", fail)
    assert run("pass") == "cannot be run ([Errno 28] No space left on device)"

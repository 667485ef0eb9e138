from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import mrcfile
import numpy as np
import pytest

pytest.importorskip("uvicorn", reason="watch needs the extra watch")

from tomoscribe.engine import ParameterError
from tomoscribe.engine.watch.entry import State
from tomoscribe.engine.watch.ledger import Ledger
from tomoscribe.engine.watch.settings import Places, WatchSettings

TOKEN = "0123456789abcdef0123"


def wait_for(condition, seconds=30.0):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "in vain"
        time.sleep(0.02)
    return found


def make(path, seed=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).normal(0, 50, (4, 30, 20)).astype(np.int16)
    with mrcfile.new(path) as file:
        file.set_data(values)
        file.set_volume()
        file.voxel_size = 10.0
    return path


def fetch(address, **headers):
    with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=20) as answer:
        return answer.read()


@pytest.fixture
def places(tmp_path):
    (tmp_path / "in").mkdir()
    return Places(tmp_path / "out")


@pytest.fixture
def folder(tmp_path, places):
    return tmp_path / "in"


@pytest.fixture
def watch(tomoscribe, tiny_bundle, folder, places, monkeypatch):
    """Run `tomoscribe watch` while a function acts on it in another thread, and then end it by a signal, if any."""
    monkeypatch.delenv("TOMOSCRIBE_TOKEN", raising=False)

    def log():
        return places.log.read_text() if places.log.exists() else ""

    def watch(*words, act=lambda address: None, end=signal.SIGTERM, port=0):
        ended, errors = threading.Event(), []
        before = len(log())

        def said():
            # The signals are heard from before the first line on.
            text = log()[before:]
            return ended.is_set() or (" INFO known " in text and text)

        def run():
            try:
                text = wait_for(said)
                if ended.is_set():
                    return
                address = re.search(r"page +(http\S+/)", text)
                act(address and address[1])
            except BaseException as error:
                errors.append(error)
            if end is not None and not ended.is_set():
                os.kill(os.getpid(), end)

        thread = threading.Thread(target=run)
        thread.start()
        options = ("--model", tiny_bundle, "--backend", "onnxruntime", "--port", port, "--keep-free", 0)
        try:
            return tomoscribe("watch", folder, "--output", places.output, *options, *words)
        finally:
            ended.set()
            thread.join()
            if errors:
                raise errors[0]

    return watch


@pytest.fixture
def refuse(watch, places):
    """Run a watch that does not begin: its one line, and that nothing was made."""

    def refuse(*words, **options):
        status, out, err = watch(*words, **options)
        assert (status, out) == (2, "")
        (line,) = err.splitlines()
        assert not places.output.exists()
        return line.removeprefix("tomoscribe: error: ")

    return refuse


@pytest.fixture
def asked(watch, monkeypatch):
    """Run a watch without a watcher, and give the settings that one would have got."""

    def asked(*words):
        seen = []

        class Watcher:
            def __init__(self, settings, make_segmenter, *, page):
                seen.extend([settings, page])

            def run(self, stop):
                assert stop.wait(30)

        monkeypatch.setattr("tomoscribe.engine.watch.watcher.Watcher", Watcher)
        assert watch(*words)[0] == 0
        return seen

    return asked


def test_what_lands_is_labelled_told_shown_and_handed_on_until_sigterm(watch, folder, places, tmp_path):
    script = "import os, sys; open(sys.argv[1], 'a').write(os.environ['TOMOSCRIBE_LABELS'] + '\\n')"
    health = []

    def act(address):
        make(folder / "sub" / "a_Vol.mrc")
        (folder / "bad.mrc").write_bytes(b"no tomogram " * 200)
        with Ledger(places.ledger) as ledger:
            wait_for(lambda: (ledger.states()[State.DONE], ledger.states()[State.QUARANTINED]) == (1, 1))
            wait_for(lambda: ledger.find("sub/a_Vol.mrc").hook)
        health.append(json.loads(fetch(f"{address}health"))["healthy"])

    status, out, err = watch("--on-done", f'{sys.executable} -c "{script}" {tmp_path}/done', act=act)
    assert status == 0
    assert health == [True]
    labels = places.output / "sub" / "a_Vol__labels.mrc"
    assert labels.exists()
    assert (tmp_path / "done").read_text() == f"{labels}\n"
    told = [line[10:].split()[0] for line in out.splitlines()]
    assert told[:3] == ["watching", "page", "known"]
    assert {"model", "backend", "done", "command"} <= set(told)
    assert told[-1] == "stopped"
    assert out.splitlines()[-1].endswith("1 done, 1 quarantined")
    (line,) = err.splitlines()
    assert "quarantined  bad.mrc: " in line
    events = {line.split(" INFO ", 1)[-1] for line in places.log.read_text().splitlines()}
    assert {line[10:] for line in out.splitlines()} <= events


@pytest.fixture
def hang_up_is_heard():
    """Have the end of the terminal heard where these tests were started by nohup, which has it ignored."""
    before = signal.signal(signal.SIGHUP, lambda number, frame: None)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGHUP, 0), (signal.SIGINT, 130)])
def test_signals_end_it_cleanly_and_are_given_back(watch, number, status, hang_up_is_heard):
    heard = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGINT)}
    found, out, err = watch("--no-page", end=number)
    assert (found, err) == (status, "")
    assert out.splitlines()[-1].endswith("stopped      no tomogram yet")
    assert {number: signal.getsignal(number) for number in heard} == heard
    assert "signals" not in {thread.name for thread in threading.enumerate()}


def test_a_signal_that_is_ignored_stays_so(watch):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        status, _, _ = watch("--no-page", act=lambda address: os.kill(os.getpid(), signal.SIGINT))
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert status == 0


def test_a_second_ctrl_c_does_not_wait(watch, monkeypatch):
    class Watcher:
        def __init__(self, *_arguments, **_options):
            pass

        def run(self, stop):
            stop.wait(30)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(30)

    monkeypatch.setattr("tomoscribe.engine.watch.watcher.Watcher", Watcher)
    status, _, err = watch("--no-page", end=signal.SIGINT)
    assert (status, err) == (130, "tomoscribe: error: interrupted\n")


def test_quiet_says_what_went_wrong_alone(watch, folder, places):
    def act(address):
        (folder / "bad.mrc").write_bytes(b"no tomogram " * 200)
        with Ledger(places.ledger) as ledger:
            wait_for(lambda: ledger.states()[State.QUARANTINED])

    status, out, err = watch("--quiet", "--no-page", act=act)
    assert (status, out) == (0, "")
    assert "quarantined  bad.mrc" in err
    assert " INFO watching " in places.log.read_text()


def test_options_become_settings(asked, folder, places, tiny_bundle):
    settings, page = asked("--no-page")
    assert page is None
    assert settings == WatchSettings(folder, places.output, keep_free=0)
    words = (
        "--pattern *_Vol.mrc --pattern b/* --polling --keep-free 1.5 --classes light,dark-matter --invert --no-rescale"
    )
    words += " --sample-only --voxel-size 12.5 --axes xzy --mode0 unsigned --on-done"
    settings, page = asked(*words.split(), "true 'a b'")
    assert page is not None
    assert settings == WatchSettings(
        folder,
        places.output,
        patterns=("*_Vol.mrc", "b/*"),
        polling=True,
        keep_free=1_500_000_000,
        on_done=("true", "a b"),
        classes=["light", "dark-matter"],
        invert=True,
        rescale=False,
        sample_only=True,
        voxel_size=12.5,
        axes="xzy",
        mode0="unsigned",
    )


def test_a_token_is_asked_for_once_there_is_one(watch, tmp_path):
    (tmp_path / "token.txt").write_text(f"{TOKEN}\n")
    (tmp_path / "token.txt").chmod(0o600)
    answers = []

    def act(address):
        with pytest.raises(urllib.error.HTTPError) as refused:
            fetch(f"{address}api/status")
        refused.value.close()
        answers.append(refused.value.code)
        answers.append(json.loads(fetch(f"{address}api/status", Authorization=f"Bearer {TOKEN}"))["folder"])
        answers.append(
            json.loads(fetch(f"{address}api/status", Authorization=f"Bearer {TOKEN}", Host="name:1"))["folder"]
        )

    status, out, err = watch("--host", "0.0.0.0", "--token-file", tmp_path / "token.txt", act=act)
    assert (status, err) == (0, "")
    assert answers == [401, "in", "in"]
    assert TOKEN not in out
    assert re.search(r"page +http://127\.0\.0\.1:\d+/\?token=… the first time$", out, re.MULTILINE)


def test_without_a_token_the_page_has_no_other_name(watch):
    answers = []

    def act(address):
        with pytest.raises(urllib.error.HTTPError) as refused:
            fetch(f"{address}api/status", Host="evil.example")
        refused.value.close()
        answers.append(refused.value.code)
        fetch(f"{address}api/status", Host="localhost")

    assert watch(act=act)[0] == 0
    assert answers == [400]


def test_a_host_beyond_this_machine_needs_a_token(refuse):
    line = refuse("--host", "0.0.0.0")
    assert line.startswith("--host 0.0.0.0: others could see the page, so that it needs a token; make one: (umask 077;")


def test_a_token_that_is_too_short_is_refused_on_this_machine_too(refuse, monkeypatch):
    monkeypatch.setenv("TOMOSCRIBE_TOKEN", "short")
    assert refuse().startswith("TOMOSCRIBE_TOKEN: expected a token of 16 to 512 characters, found 5")


def test_a_port_that_is_taken_is_told_before_anything_else(watch, places):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, out, err = watch(port=port)
    assert (status, out) == (2, "")
    assert err.startswith(f"tomoscribe: error: port {port} of 127.0.0.1 is taken, maybe by another watcher")
    assert not places.log.exists()


def test_folders_that_cannot_be_watched_are_refused(tomoscribe, tmp_path, folder, places):
    missing = tmp_path / "missing"
    for source, output, message in (
        (missing, places.output, f"{missing}: expected a folder to watch, found nothing; make it first"),
        (make(tmp_path / "a.mrc"), places.output, "expected a folder to watch, found a file"),
        (folder, folder, f"--output {folder}: the watched folder {folder} is, or lies in, this folder"),
        (folder, tmp_path, f"--output {tmp_path}: the watched folder"),
    ):
        status, out, err = tomoscribe("watch", source, "--output", output)
        assert (status, out) == (2, "")
        assert message in err
        assert err.count("\n") == 1
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--on-done", "'open"), "--on-done 'open: expected a program and its arguments, found quotes that do not fit"),
        (("--on-done", ""), "found no such program"),
        (("--on-done", "no-such-program-here x"), "--on-done no-such-program-here x: expected a program"),
        (("--classes", "gold"), "gold"),
        (("--model", "missing"), "missing"),
    ],
)
def test_what_cannot_be_used_is_refused_before_anything_is_made(refuse, words, message):
    assert message in refuse(*words)


def test_without_the_extra_the_command_that_installs_it_is_told(refuse, monkeypatch):
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    assert refuse() == 'watch needs the package watchfiles; install it with: pip install "tomoscribe[watch]"'


def test_a_watcher_that_fails_is_one_line_and_leaves_no_port_behind(watch, places, monkeypatch):
    class Watcher:
        def __init__(self, *_arguments, **_options):
            pass

        def run(self, stop):
            raise ParameterError("no more")

    monkeypatch.setattr("tomoscribe.engine.watch.watcher.Watcher", Watcher)
    status, _, err = watch(end=None)
    assert (status, err) == (2, "tomoscribe: error: no more\n")
    port = int(re.search(r"page .*:(\d+)/", places.log.read_text())[1])
    with socket.socket() as free:
        assert free.connect_ex(("127.0.0.1", port)) != 0


def test_help_imports_nothing_that_only_watching_needs():
    code = (
        "import sys; sys.argv = ['tomoscribe', 'watch', '--help']\n"
        "from tomoscribe.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print({'numpy', 'fastapi', 'uvicorn', 'watchfiles', 'sqlite3'} & sys.modules.keys())"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.splitlines()[-1:] == ["set()"], result.stderr

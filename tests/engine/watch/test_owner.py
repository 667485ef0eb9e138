"""Whether the process that has something is known to have ended."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from tomoscribe.engine.errors import ParameterError
from tomoscribe.engine.watch import owner as module
from tomoscribe.engine.watch.owner import Owner

ASK = "from tomoscribe.engine.watch.owner import Owner; print(Owner.current(), flush=True); input()"


@pytest.fixture
def other():
    """Another process that runs, and its own account of itself."""
    process = subprocess.Popen([sys.executable, "-c", ASK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        yield process, Owner.parse(process.stdout.readline().strip())
        process.kill()


@pytest.fixture
def no_process():
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_the_process_that_asks_is_alive_and_has_its_own_number():
    current = Owner.current()
    assert (current.pid, current.is_dead()) == (os.getpid(), False)
    assert Owner.current() == current


def test_a_text_gives_the_owner_back():
    for owner in Owner.current(), Owner("a.b:[4026531836]", 1, 0), Owner("host", 4194304, 2**60):
        assert Owner.parse(str(owner)) == owner


@pytest.mark.parametrize("text", ["", "host", "host/1", "host/1/", "/1/2", "host/-1/2", "host/1/2/3", "host/a/2"])
def test_another_text_is_an_error(text):
    with pytest.raises(ParameterError, match="expected the owner of a lease"):
        Owner.parse(text)


def test_the_start_is_that_of_the_process(other):
    process, owner = other
    psutil = pytest.importorskip("psutil")
    ticks = (psutil.Process(process.pid).create_time() - psutil.boot_time()) * os.sysconf("SC_CLK_TCK")
    assert owner.pid == process.pid
    assert owner.started == pytest.approx(ticks, abs=2 * os.sysconf("SC_CLK_TCK"))


def test_another_process_is_dead_once_it_was_killed(other):
    process, owner = other
    assert not owner.is_dead()
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert owner.is_dead(), "nobody has asked yet how it ended"
    process.wait()
    assert owner.is_dead()


def test_a_number_that_another_process_has_got_does_not_keep_the_owner_alive():
    current = Owner.current()
    assert replace(current, started=current.started - 1).is_dead()


def test_of_another_host_nothing_is_known(no_process):
    assert replace(Owner.current(), pid=no_process).is_dead()
    assert not Owner("elsewhere", no_process, 1).is_dead()


def test_a_process_that_does_not_say_when_it_started_is_never_taken_for_dead(no_process):
    assert not replace(Owner.current(), pid=no_process, started=0).is_dead()


def test_a_process_that_proc_hides_is_alive(tmp_path, monkeypatch, no_process):
    current = Owner.current()
    monkeypatch.setattr(module, "_PROCESSES", tmp_path)
    assert not current.is_dead()
    assert replace(current, pid=no_process).is_dead()
    assert not replace(current, pid=2**80).is_dead()


def test_without_proc_nobody_is_on_this_host(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_PROCESSES", tmp_path)
    hosts = set()
    for _ in range(2):
        module._host.cache_clear()
        owner = Owner.current()
        assert (owner.started, owner.is_dead()) == (0, False)
        hosts.add(owner.host)
    module._host.cache_clear()
    assert len(hosts) == 2


def test_a_name_with_brackets_and_blanks_is_read_over(tmp_path, monkeypatch):
    fields = " ".join(["S", *(str(n) for n in range(4, 53))])
    folder = tmp_path / "77"
    folder.mkdir()
    (folder / "stat").write_text(f"77 (a) R (b c) {fields}\n")
    monkeypatch.setattr(module, "_PROCESSES", tmp_path)
    assert module._look_up(77) == ("S", 22)

from __future__ import annotations

import io
import logging
import sys
import threading
import time

import pytest

from tomoscribe.cli.watch_page import EventTeller, TerminalHandler, describe_states
from tomoscribe.engine.watch.entry import Identity, State
from tomoscribe.engine.watch.ledger import Ledger
from tomoscribe.engine.watch.logs import LOGGER
from tomoscribe.engine.watch.owner import Owner

OWNER = Owner.current()
FIRST, SECOND = Identity(420_000_000, 5, 1), Identity(10, 6, 1)


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        yield ledger


@pytest.fixture
def told(caplog):
    """Give the lines that were told since the last call, with their levels."""
    caplog.set_level(logging.INFO, LOGGER)

    def told():
        lines = [(record.levelname, record.getMessage()) for record in caplog.records]
        caplog.clear()
        return lines

    return told


@pytest.fixture
def logger():
    # One that logging does not know of, or pytest would listen too.
    return logging.Logger("of its own", logging.DEBUG)


def finish(ledger, number, **changes):
    facts = {
        "now": 30.0,
        "seconds": 2.0,
        "shape": (10, 20, 30),
        "voxel_size": (10, 10, 10),
        "model": "m",
        "backend": "b",
        "counts": {"ribosome": 60, "membrane": 0},
        "outputs": {},
        "warnings": (),
    }
    assert ledger.finish(number, OWNER, **(facts | changes))


def test_a_tomogram_s_way_is_told_step_by_step(ledger, told):
    teller = EventTeller(ledger)
    steps = []
    for step in (
        lambda: ledger.notice("a/b.mrc", FIRST, State.ARRIVING, 10),
        lambda: ledger.notice("a/b.mrc", FIRST, State.WAITING, 11),
        lambda: ledger.claim(OWNER, 30, 12),
        lambda: ledger.progress(1, OWNER, 5),
        lambda: ledger.previewed(1, OWNER, 13),
        lambda: finish(ledger, 1, warnings=("density looks bright",)),
        lambda: ledger.set_objects(1, {"ribosome": 3}),
    ):
        step()
        teller.tell()
        steps.append(told())
    assert steps == [
        [("INFO", "arriving     a/b.mrc")],
        [("INFO", "complete     a/b.mrc, 420.0 MB")],
        [("INFO", "labelling    a/b.mrc")],
        [],
        [],
        [
            ("INFO", "done         a/b.mrc: 30 × 20 × 10, 2.0 s, 0.00 Mvoxel/s, ribosome 1.00%, membrane 0.00%"),
            ("WARNING", "warning      a/b.mrc: density looks bright"),
        ],
        [],
    ]


def test_what_goes_wrong_is_told_with_its_reason(ledger, told):
    teller = EventTeller(ledger)
    ledger.notice("bad.mrc", FIRST, State.QUARANTINED, 1, "bad.mrc: truncated")
    ledger.notice("lost.mrc", FIRST, State.ARRIVING, 1)
    ledger.gone("lost.mrc", 2)
    teller.tell()
    assert told() == [("WARNING", "quarantined  bad.mrc: bad.mrc: truncated"), ("INFO", "gone         lost.mrc")]


def test_new_content_is_told_again_and_a_second_attempt_as_such(ledger, told):
    ledger.notice("a.mrc", FIRST, State.WAITING, 1)
    ledger.claim(OWNER, 30, 1)
    finish(ledger, 1)
    teller = EventTeller(ledger)
    ledger.notice("a.mrc", SECOND, State.WAITING, 2)
    teller.tell()
    assert told() == [("INFO", "complete     a.mrc, 10 bytes")]
    ledger.claim(OWNER, 30, 2)
    ledger.claim(OWNER, 30, 100)  # the lease was over
    teller.tell()
    assert told() == [("INFO", "labelling    a.mrc, attempt 2")]


def test_one_that_its_watcher_lets_go_is_given_back_and_not_complete_once_more(ledger, told):
    ledger.notice("a.mrc", FIRST, State.WAITING, 1)
    ledger.claim(OWNER, 30, 1)
    teller = EventTeller(ledger)
    ledger.release(1, OWNER)
    teller.tell()
    assert told() == [("INFO", "given back   a.mrc")]


def test_outputs_that_were_found_have_no_speed(ledger, told):
    teller = EventTeller(ledger)
    ledger.notice("a.mrc", FIRST, State.WAITING, 1)
    ledger.claim(OWNER, 30, 1)
    finish(ledger, 1, seconds=None, counts={})
    teller.tell()
    assert told() == [("INFO", "done         a.mrc: 30 × 20 × 10")]


def test_what_was_there_before_is_not_told(ledger, told):
    ledger.notice("a.mrc", FIRST, State.WAITING, 1)
    ledger.claim(OWNER, 30, 1)
    finish(ledger, 1)
    teller = EventTeller(ledger, hooked=True)
    ledger.set_objects(1, {"ribosome": 3})
    teller.tell()
    assert told() == []
    ledger.hook_ended(1, "exit 0 in 0.1 s")
    teller.tell()
    assert told() == [("INFO", "command      a.mrc: exit 0 in 0.1 s")]
    ledger.set_objects(1, {"ribosome": 4})
    teller.tell()
    assert told() == []


def test_how_the_command_ended_is_told_once(ledger, told):
    teller = EventTeller(ledger, hooked=True)
    for number, ending in ((1, "exit 3 in 0.1 s: no"), (2, "exit 0 in 0.2 s")):
        ledger.notice(f"{number}.mrc", FIRST, State.WAITING, 1)
        ledger.claim(OWNER, 30, 1)
        finish(ledger, number)
        ledger.hook_ended(number, ending)
    teller.tell()
    assert [line for line in told() if "command" in line[1]] == [
        ("WARNING", "command      1.mrc: exit 3 in 0.1 s: no"),
        ("INFO", "command      2.mrc: exit 0 in 0.2 s"),
    ]


def test_more_than_a_portion_is_told_whole(ledger, told, monkeypatch):
    monkeypatch.setattr("tomoscribe.cli.watch_page._PORTION", 3)
    teller = EventTeller(ledger)
    for number in range(10):
        ledger.notice(f"{number}.mrc", FIRST, State.ARRIVING, 1)
    teller.tell()
    assert [line for _, line in told()] == [f"arriving     {number}.mrc" for number in range(10)]


def test_a_thread_tells_and_the_end_misses_nothing(ledger, told):
    teller = EventTeller(ledger)
    with teller.telling():
        ledger.notice("a.mrc", FIRST, State.ARRIVING, 1)
        lines = []
        deadline = time.monotonic() + 20
        while not lines:
            assert time.monotonic() < deadline
            lines = told()
            time.sleep(0.01)
        ledger.notice("b.mrc", FIRST, State.ARRIVING, 1)
    assert lines + told() == [("INFO", "arriving     a.mrc"), ("INFO", "arriving     b.mrc")]
    assert "events" not in {thread.name for thread in threading.enumerate()}


def test_a_ledger_that_does_not_answer_does_not_end_the_telling(ledger, told, monkeypatch):
    from tomoscribe.engine.watch.ledger_file import LedgerError

    teller = EventTeller(ledger)
    answer, asked = ledger.changed_since, threading.Event()

    def fail_once(*arguments):
        if not asked.is_set():
            asked.set()
            raise LedgerError("full")
        return answer(*arguments)

    monkeypatch.setattr(ledger, "changed_since", fail_once)
    with teller.telling():
        ledger.notice("a.mrc", FIRST, State.ARRIVING, 1)
        assert asked.wait(20)
    assert told() == [("INFO", "arriving     a.mrc")]


def test_states_are_counted_in_a_line():
    states = {State.ARRIVING: 0, State.WAITING: 2, State.DONE: 30}
    assert describe_states(states) == "2 waiting, 30 done"
    assert describe_states({State.DONE: 0}) == "no tomogram yet"


def test_the_terminal_has_the_time_and_one_line(capsys, logger):
    with TerminalHandler(quiet=False).attached(logger):
        logger.info("done a\nb\x1b[31m.mrc")
        try:
            raise ValueError("no")
        except ValueError:
            logger.exception("it failed")
        logger.debug("not this")
    logger.info("nor this")
    out, err = capsys.readouterr()
    assert out[8:] == "  done a\\nb\\x1b[31m.mrc\n"
    time.strptime(out[:8], "%H:%M:%S")
    assert err[8:] == "  it failed\n"


def test_a_quiet_terminal_has_what_went_wrong_alone(capsys, logger):
    with TerminalHandler(quiet=True).attached(logger):
        logger.info("done")
        logger.warning("quarantined")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("  quarantined\n")


def test_a_terminal_that_knows_few_characters_gets_what_it_can_show(monkeypatch, logger):
    stream = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    with TerminalHandler(quiet=False).attached(logger):
        logger.info("3 × 4 \udcff")
    assert stream.buffer.getvalue()[8:] == b"  3 ? 4 \\udcff\n"


@pytest.mark.parametrize("error", [BrokenPipeError(32, "Broken pipe"), ValueError("I/O operation on closed file.")])
def test_a_terminal_that_was_closed_ends_the_printing_alone(monkeypatch, logger, error):
    class Closed(io.StringIO):
        def write(self, text):
            raise error

    monkeypatch.setattr(sys, "stdout", Closed())
    with TerminalHandler(quiet=False).attached(logger):
        logger.info("nobody reads this")
        stream = io.StringIO()
        monkeypatch.setattr(sys, "stdout", stream)
        logger.info("nor this")
    assert stream.getvalue() == ""


def test_a_mistake_in_an_event_ends_neither(capsys, logger):
    with TerminalHandler(quiet=False).attached(logger):
        logger.info("%d", "no number")
        logger.info("next")
    out, err = capsys.readouterr()
    assert out.endswith("  next\n")
    assert "no number" in err

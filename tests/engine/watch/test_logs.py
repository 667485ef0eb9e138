from __future__ import annotations

import logging
import multiprocessing
import os
import re

import pytest

from tomoscribe.engine import OutputError
from tomoscribe.engine.watch import logs
from tomoscribe.engine.watch.logs import LOGGER, open_log


def test_a_line_has_time_process_level_and_message(tmp_path):
    path = tmp_path / "own" / "watch.log"
    with open_log(path) as logger:
        logging.getLogger(f"{LOGGER}.worker").warning("a %s", "b")
        logger.debug("not this")
    pattern = rf"\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d,\d{{3}} {os.getpid()} WARNING a b\n"
    assert re.fullmatch(pattern, path.read_text())


def test_an_event_stays_one_line_whatever_a_name_holds(tmp_path):
    with open_log(tmp_path / "log") as logger:
        logger.info("done a\nb\x1b[31mc\r\u2028d\udcffé Å.mrc")
    (line,) = (tmp_path / "log").read_bytes().decode().splitlines()
    assert line.endswith(r"INFO done a\nb\x1b[31mc\r\u2028d\udcffé Å.mrc")


def test_a_traceback_follows_its_line_indented(tmp_path):
    with open_log(tmp_path / "log") as logger:
        try:
            raise ValueError("two\nlines")
        except ValueError:
            logger.exception("it failed")
        logger.info("next")
    first, *trace, last = (tmp_path / "log").read_text().splitlines()
    assert first.endswith("ERROR it failed")
    assert last.endswith("INFO next")
    assert trace[0] == "    Traceback (most recent call last):"
    assert all(line.startswith("    ") for line in trace)
    assert trace[-2:] == ["    ValueError: two", "    lines"]


def test_nothing_is_logged_before_and_after_nor_elsewhere(tmp_path, caplog):
    logger = logging.getLogger(LOGGER)
    before = logger.level, logger.propagate, list(logger.handlers)
    with open_log(tmp_path / "log"):
        logger.info("in between")
    logger.info("after")
    assert (logger.level, logger.propagate, list(logger.handlers)) == before
    assert (tmp_path / "log").read_text().count("\n") == 1
    assert "in between" not in caplog.text


def test_full_logs_are_kept_in_their_order_and_the_oldest_goes(tmp_path):
    with open_log(tmp_path / "log", largest=200, files=2) as logger:
        for number in range(40):
            logger.info("event %d", number)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log", "log.1", "log.2"]
    text = "".join((tmp_path / name).read_text() for name in ("log.2", "log.1", "log"))
    numbers = [int(number) for number in re.findall(r"event (\d+)", text)]
    assert numbers == list(range(numbers[0], 40))
    assert all(path.stat().st_size <= 200 for path in tmp_path.iterdir())


def _write(path, name, count, ready):
    with open_log(path, largest=2000, files=1000) as logger:
        ready.wait()
        for number in range(count):
            logger.info("%s %d", name, number)


def test_two_processes_lose_nothing_and_fill_every_log(tmp_path):
    context = multiprocessing.get_context("fork")
    ready = context.Barrier(2)
    writers = [context.Process(target=_write, args=(tmp_path / "log", name, 300, ready)) for name in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    full = sorted(tmp_path.glob("log.*"), key=lambda path: -int(path.suffix[1:]))
    # One that is moved away too early would be nearly empty.
    assert all(1900 < path.stat().st_size <= 2000 for path in full)
    text = "".join(path.read_text() for path in [*full, tmp_path / "log"])
    for name in "ab":
        assert [int(n) for n in re.findall(rf" {name} (\d+)\n", text)] == list(range(300))


def test_one_that_was_stopped_in_between_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "_PATIENCE", 0.05)
    with logs._locked(tmp_path), open_log(tmp_path / "log") as logger:
        logger.info("all the same")
    assert "all the same" in (tmp_path / "log").read_text()


def test_a_log_that_was_removed_begins_anew(tmp_path):
    with open_log(tmp_path / "log") as logger:
        logger.info("one")
        (tmp_path / "log").unlink()
        logger.info("two")
    assert "two" in (tmp_path / "log").read_text()


def test_a_full_disk_loses_the_line_and_nothing_else(tmp_path, monkeypatch, capsys):
    with open_log(tmp_path / "log") as logger:
        (handler,) = logger.handlers
        with monkeypatch.context() as patch:
            patch.setattr(handler.stream, "flush", lambda: (_ for _ in ()).throw(OSError(28, "No space left")))
            patch.setattr(handler, "flush", lambda: handler.stream.flush())
            logger.info("lost or not")
        logger.info("after")
    assert "after" in (tmp_path / "log").read_text()
    assert capsys.readouterr().err == ""


def test_a_mistake_in_an_event_is_not_hidden(tmp_path, capsys):
    with open_log(tmp_path / "log") as logger:
        logger.info("%d", "no number")
    assert "no number" in capsys.readouterr().err


def test_a_log_that_cannot_be_written_is_one_error(tmp_path):
    (tmp_path / "log").mkdir()
    with pytest.raises(OutputError, match="log: the log cannot be written"), open_log(tmp_path / "log"):
        pass


def test_a_log_that_cannot_be_opened_anew_is_tried_again_with_the_next_line(tmp_path, monkeypatch, capsys):
    with open_log(tmp_path / "log") as logger:
        (handler,) = logger.handlers
        (tmp_path / "log").unlink()
        with monkeypatch.context() as patch:
            patch.setattr(handler, "_open", lambda: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
            logger.info("lost")
            logger.info("lost too")
        logger.info("back")
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert line.endswith("INFO back")
    assert capsys.readouterr().err == ""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tomoscribe.engine.backends.trial_cache import recall, remember, trials_file

FACTS = {"bundle": {"fp32": "ab"}, "cores": 2}
TIMES = {"runs fp32": 0.25, "other fp32": 0.5}


def test_what_was_remembered_is_recalled_under_the_same_facts_alone(trials):
    assert recall(FACTS) is None
    remember(FACTS, TIMES)
    remember({**FACTS, "cores": 3}, {"runs fp32": 0.125})
    assert recall(dict(reversed(FACTS.items()))) == TIMES
    assert recall({**FACTS, "cores": 3}) == {"runs fp32": 0.125}
    assert recall({**FACTS, "cores": 4}) is None
    assert [file.name for file in trials.parent.iterdir()] == ["trials.json"]


@pytest.mark.parametrize(("days", "recalled"), [(29, True), (31, False), (-1, False)])
def test_after_a_month_or_before_its_time_a_trial_is_not_believed(monkeypatch, days, recalled):
    remember(FACTS, TIMES)
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now + days * 86400)
    assert (recall(FACTS) is not None) is recalled


def test_a_trial_of_unknown_age_is_not_believed(trials):
    remember(FACTS, TIMES)
    entries = json.loads(trials.read_text())
    del next(iter(entries.values()))["measured"]
    trials.write_text(json.dumps(entries))
    assert recall(FACTS) is None


def test_a_later_trial_takes_the_place_of_an_earlier_one():
    remember(FACTS, TIMES)
    remember(FACTS, {"runs fp32": 1.0})
    assert recall(FACTS) == {"runs fp32": 1.0}


def test_the_oldest_are_forgotten(trials):
    for number in range(203):
        remember({"number": number}, TIMES)
    assert [recall({"number": number}) is not None for number in (0, 2, 3, 202)] == [False, False, True, True]
    assert len(json.loads(trials.read_text())) == 200


@pytest.mark.parametrize(
    "found", ["", "[]", "{", "7", "\0", '{"KEY": 7}', '{"KEY": {"seconds_per_slice": {"a": "b"}, "measured": NOW}}']
)
def test_a_file_that_makes_no_sense_is_as_good_as_none(trials, found):
    remember(FACTS, TIMES)
    (key,) = json.loads(trials.read_text())
    trials.write_text(found.replace("KEY", key).replace("NOW", repr(time.time())))
    assert recall(FACTS) is None
    remember(FACTS, TIMES)
    assert recall(FACTS) == TIMES


def test_bytes_that_are_no_text_are_as_good_as_none(trials):
    remember(FACTS, TIMES)
    trials.write_bytes(b"\xff\xfe\x00")
    assert recall(FACTS) is None


def test_a_folder_that_cannot_be_made_is_no_error(trials):
    trials.parent.parent.write_text("in the way")
    remember(FACTS, TIMES)
    assert recall(FACTS) is None


def test_no_home_is_no_error(monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    remember(FACTS, TIMES)
    assert recall(FACTS) is None


@pytest.mark.parametrize("value", [None, "", "relative/cache"])
def test_without_an_absolute_cache_folder_it_is_that_of_the_home(monkeypatch, tmp_path, value):
    monkeypatch.delenv("XDG_CACHE_HOME")
    if value is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", value)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert trials_file() == tmp_path / ".cache" / "tomoscribe" / "trials.json"

from __future__ import annotations

import os
import re
import time
from importlib.metadata import version
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tomoscribe.engine import OutputError
from tomoscribe.engine.watch.entry import Identity, State
from tomoscribe.engine.watch.ledger import Ledger
from tomoscribe.engine.watch.metrics import CONTENT_TYPE, render
from tomoscribe.engine.watch.owner import Owner

OWNER = Owner.current()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.sqlite"


def sample(path):
    """The samples by name and labels' values, as Prometheus's own parser reads them."""
    text = render(path).decode()
    return {
        (s.name, *sorted(s.labels.values())): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }


def label(ledger, name, *, modified, complete, previewed, finished, voxels=(2, 3, 4), seconds=1.5):
    entry = ledger.notice(name, Identity(10, modified, 1), State.WAITING, complete)
    assert ledger.claim(OWNER, 30, complete).number == entry.number
    assert ledger.previewed(entry.number, OWNER, previewed)
    assert ledger.finish(
        entry.number,
        OWNER,
        now=finished,
        seconds=seconds,
        shape=voxels,
        voxel_size=(10, 10, 10),
        model="m",
        backend="b",
        counts={},
        outputs={},
        warnings=(),
    )


def test_an_empty_ledger_has_every_state_at_zero_and_no_latency(path):
    found = sample(path)
    states = {name[1]: value for name, value in found.items() if name[0] == "tomoscribe_tomograms"}
    assert states == dict.fromkeys([state.value for state in State], 0)
    assert found["tomoscribe_labelled_voxels_total",] == 0
    assert found["tomoscribe_watchers",] == 0
    assert ("tomoscribe_free_bytes",) not in found
    assert not [name for name in found if name[0] == "tomoscribe_latency_seconds"]
    assert found["tomoscribe_info", version("tomoscribe")] == 1


def test_states_sums_and_latencies_are_those_of_the_ledger(path):
    with Ledger(path) as ledger:
        label(ledger, "a", modified=1, complete=100, previewed=101, finished=110)
        label(ledger, "b", modified=2, complete=200, previewed=203, finished=230, voxels=(1, 1, 1), seconds=0.25)
        ledger.notice("c", Identity(1, 1, 1), State.QUARANTINED, 5, "bad")
        ledger.notice("d", Identity(1, 1, 1), State.ARRIVING, 5)
        found = sample(path)
    states = {name[1]: value for name, value in found.items() if name[0] == "tomoscribe_tomograms" and value}
    assert states == {"done": 2, "quarantined": 1, "arriving": 1}
    assert found["tomoscribe_labelled_tomograms_total",] == 2
    assert found["tomoscribe_labelled_voxels_total",] == 25
    assert found["tomoscribe_labelling_seconds_total",] == 1.75
    assert found["tomoscribe_latency_seconds", "0.5", "preview"] == 2
    assert found["tomoscribe_latency_seconds", "0.5", "labels"] == 20
    assert found["tomoscribe_latency_seconds", "0.99", "labels"] == pytest.approx(29.8)
    assert len([name for name in found if name[0] == "tomoscribe_latency_seconds"]) == 6


def test_counters_do_not_fall_when_a_tomogram_is_replaced(path):
    with Ledger(path) as ledger:
        label(ledger, "a", modified=1, complete=100, previewed=101, finished=110)
        ledger.notice("a", Identity(11, 5, 1), State.ARRIVING, 120)
        assert sample(path)["tomoscribe_labelled_voxels_total",] == 24


def test_watchers_are_those_that_were_heard_of_lately(path):
    now = time.time()
    with Ledger(path) as ledger:
        ledger.beat(OWNER, now, {"paused": None, "free_bytes": 7})
        ledger.beat(Owner("here", 2, 3), now - 5, {"paused": "no space", "free_bytes": 5})
        ledger.beat(Owner("here", 4, 5), now - 5, {"paused": "no space", "free_bytes": 6})
        ledger.beat(Owner("here", 3, 4), now - 60, {"paused": "no space", "free_bytes": 1})
        found = sample(path)
    assert found["tomoscribe_watchers",] == 3
    assert found["tomoscribe_watchers_paused",] == 2
    assert found["tomoscribe_free_bytes",] == 5


def test_memory_and_open_files_are_this_process_s(path):
    found = sample(path)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    assert found["process_resident_memory_bytes",] == pytest.approx(pages * os.sysconf("SC_PAGESIZE"), rel=0.2)
    assert found["process_open_fds",] > 2


def test_names_follow_the_conventions_and_a_scrape_leaves_no_file_open(path):
    render(path)
    before = set(os.listdir("/proc/self/fd"))  # noqa: PTH208
    text = render(path).decode()
    assert set(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
    names = re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE)
    assert names
    assert all(name.startswith(("tomoscribe", "process_")) for name, _ in names)
    assert all(name.endswith("_total") is (kind == "counter") for name, kind in names)
    assert CONTENT_TYPE.startswith("text/plain")


def test_a_ledger_that_cannot_be_read_is_an_error(path):
    path.write_bytes(b"no ledger" * 1000)
    with pytest.raises(OutputError, match=r"ledger\.sqlite"):
        render(path)

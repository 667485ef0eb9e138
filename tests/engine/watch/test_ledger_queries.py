"""Lists, sums and percentiles of a ledger, against the same in plain Python."""

from __future__ import annotations

import random
import statistics
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tomoscribe.engine.errors import ParameterError
from tomoscribe.engine.watch.entry import Entry, Identity, State
from tomoscribe.engine.watch.ledger import Ledger
from tomoscribe.engine.watch.ledger_queries import latencies, list_entries, throughput, totals
from tomoscribe.engine.watch.ledger_rows import add, change
from tomoscribe.engine.watch.owner import Owner

ONE = Owner("elsewhere", 1, 1)


def fill(ledger, entries):
    """Write entries as they are, in one transaction, and return them with their numbers."""
    with ledger._file.writing() as (connection, _):
        filled = []
        for entry in entries:
            blank = Entry(0, entry.path, State.ARRIVING, entry.identity, 0)
            number = add(connection, blank)
            filled.append(replace(entry, number=number, revision=number))
            change(connection, replace(blank, number=number), filled[-1])
    return filled


@pytest.fixture(scope="module")
def ledger(tmp_path_factory):
    with Ledger(tmp_path_factory.mktemp("queries") / "ledger.sqlite") as ledger:
        yield ledger


@pytest.fixture(scope="module")
def all_entries(ledger):
    """Three hundred entries in all states, with ties in everything that can be sorted by."""
    generator = random.Random(3)
    entries = []
    for number in range(300):
        state = generator.choice([State.DONE] * 5 + list(State))
        finished = float(generator.randrange(100, 200)) if state is State.DONE else None
        tail = generator.choice(["%_\\x", "%x", "_x", "x"])
        labelled = {"complete": finished - 9.0, "shape": (generator.choice([1, 2]), 5, 10)} if finished else {}
        entries.append(
            Entry(
                0,
                f"{generator.choice(['Grid', 'lamella_'])}{generator.randrange(3)}/Position_{number}{tail}.mrc",
                state,
                Identity(1, generator.randrange(100), number),
                0,
                finished=finished,
                counts={"ribosome": generator.randrange(30), "membrane": 1} if finished else None,
                warnings=("w",) if generator.random() < 0.2 else (),
                **labelled,
            )
        )
    return fill(ledger, entries)


def fraction(entry):
    return entry.counts["ribosome"] / entry.voxels if entry.counts else None


KEYS = {
    "time": lambda e: (e.identity.modified, e.number),
    "problem": lambda e: (
        2 if e.state is State.QUARANTINED else 1 if e.warnings else 0,
        e.identity.modified,
        e.number,
    ),
}


@given(
    sort=st.sampled_from(list(KEYS)),
    descending=st.booleans(),
    states=st.lists(st.sampled_from(State), max_size=2),
    search=st.sampled_from(["", "grid", "LAMELLA_1", "%", "_1", "\\x", "nothing", "position_29"]),
    offset=st.integers(0, 310),
    limit=st.integers(0, 40),
)
def test_a_list_is_what_sorting_and_filtering_give(
    ledger, all_entries, sort, descending, states, search, offset, limit
):
    chosen = [e for e in all_entries if (not states or e.state in states) and search.lower() in e.path.lower()]
    chosen.sort(key=KEYS[sort], reverse=descending)
    found = list_entries(
        ledger, sort=sort, descending=descending, states=states, search=search, offset=offset, limit=limit
    )
    assert found == (len(chosen), chosen[offset : offset + limit])


@given(
    descending=st.booleans(),
    states=st.lists(st.sampled_from(State), max_size=2),
    search=st.sampled_from(["", "grid", "nothing"]),
    offset=st.integers(0, 310),
    limit=st.integers(0, 40),
)
def test_by_class_those_without_labels_come_last(ledger, all_entries, descending, states, search, offset, limit):
    chosen = [e for e in all_entries if (not states or e.state in states) and search.lower() in e.path.lower()]
    labelled = [e for e in chosen if e.counts]
    labelled.sort(key=lambda e: (fraction(e), e.number), reverse=descending)
    rest = sorted((e for e in chosen if not e.counts), key=KEYS["time"], reverse=descending)
    found = list_entries(
        ledger, sort="class", class_name="ribosome", descending=descending, states=states, search=search, offset=offset,
        limit=limit,
    )  # fmt: skip
    assert found == (len(chosen), (labelled + rest)[offset : offset + limit])


def test_a_class_that_none_has_lists_all_by_time(ledger, all_entries):
    total, found = list_entries(ledger, sort="class", class_name="carbon", limit=500)
    assert (total, found) == (300, sorted(all_entries, key=KEYS["time"], reverse=True))


def test_numbers_in_names_are_sorted_by_their_value(tmp_path):
    names = ["Position_2", "Position_10", "position_1_2", "Position_1_10", "b", "Position_002_a", "A\udcff", "Å"]
    entries = [Entry(0, name, State.ARRIVING, Identity(1, 1, 1), 0) for name in names]
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        fill(ledger, entries)
        found = [entry.path for entry in list_entries(ledger, sort="name", descending=False)[1]]
        backwards = [entry.path for entry in list_entries(ledger, sort="name")[1]]
        assert [e.path for e in list_entries(ledger, search="Å")[1]] == ["Å"]
    assert found == [
        "A\udcff", "b", "position_1_2", "Position_1_10", "Position_2", "Position_002_a", "Position_10", "Å",
    ]  # fmt: skip
    assert backwards == found[::-1]


def test_the_fraction_of_a_class_is_that_of_the_newest_labels(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite") as ledger:

        def label(path, ribosomes, size=1):
            ledger.notice(path, Identity(size, 1, 1), State.WAITING, 1.0)
            number = ledger.claim(ONE, 30.0, 1.0).number
            ledger.finish(
                number, ONE, now=2.0, seconds=1.0, shape=(1, 10, 10), voxel_size=(1.0,) * 3, model="m", backend="b",
                counts={"ribosome": ribosomes}, outputs={}, warnings=[],
            )  # fmt: skip

        def order():
            return [entry.path for entry in list_entries(ledger, sort="class", class_name="ribosome")[1]]

        label("a", 5)
        label("b", 7)
        assert order() == ["b", "a"]
        label("a", 9, size=2)
        assert order() == ["a", "b"]
        ledger.notice("a", Identity(3, 1, 1), State.ARRIVING, 3.0)
        assert order() == ["b", "a"]
        assert totals(ledger) == {"tomograms": 3, "voxels": 300, "seconds": 3.0}, "what was replaced counts"


@pytest.mark.parametrize("wrong", [{"sort": "size"}, {"sort": "class"}, {"sort": "number; DROP TABLE entries"}])
def test_an_order_that_is_not_known_is_an_error(ledger, wrong):
    with pytest.raises(ParameterError, match="expected to sort by time"):
        list_entries(ledger, **wrong)


def test_offsets_and_limits_of_any_size(ledger, all_entries):
    assert list_entries(ledger, offset=10**30, limit=10**30) == (300, [])
    assert list_entries(ledger, sort="class", class_name="ribosome", offset=2**63, limit=5) == (300, [])


@given(since=st.floats(50, 210), length=st.floats(0.1, 200), bins=st.integers(1, 30))
def test_throughput_has_every_finished_one_in_its_bin(ledger, all_entries, since, length, bins):
    until = since + length
    found = throughput(ledger, since, until, bins)
    done = [e for e in all_entries if e.state is State.DONE and since <= e.finished < until]
    inside = [e.finished for e in done]
    starts = [since + number * (until - since) / bins for number in range(bins)]
    assert [b["start"] for b in found] == pytest.approx(starts)
    assert sum(b["tomograms"] for b in found) == len(inside)
    assert sum(b["voxels"] for b in found) == sum(e.voxels for e in done)
    # A time that is as good as an edge may be on either side of it.
    edges = [*(b["start"] for b in found[1:])]
    for number, edge in enumerate(edges, start=1):
        before = sum(b["tomograms"] for b in found[:number])
        assert sum(f < edge - 1e-6 for f in inside) <= before <= sum(f < edge + 1e-6 for f in inside)


def test_the_last_instant_is_in_the_last_bin(tmp_path):
    since, until, bins, last = 1.8, 6.9, 10, 6.8999999999999995
    assert int((last - since) / ((until - since) / bins)) == bins, "as floating point has it"
    entry = Entry(0, "a.mrc", State.DONE, Identity(1, 1, 1), 0, finished=last, shape=(1, 2, 3))
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        fill(ledger, [entry])
        found = throughput(ledger, since, until, bins)
    assert [(b["tomograms"], b["voxels"]) for b in found] == [(0, 0)] * 9 + [(1, 6)]


def test_without_entries_there_is_nothing(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        assert list_entries(ledger) == list_entries(ledger, sort="class", class_name="a") == (0, [])
        assert throughput(ledger, 0.0, 3.0, 1) == [{"start": 0.0, "tomograms": 0, "voxels": 0}]
        assert totals(ledger) == {"tomograms": 0, "voxels": 0, "seconds": 0.0}
        nothing = {"p50": None, "p90": None, "p99": None}
        assert latencies(ledger) == {"preview": nothing, "labels": nothing}


@pytest.mark.parametrize(
    ("since", "until", "bins"), [(2.0, 2.0, 1), (2.0, 1.0, 1), (1.0, 2.0, 0), (float("nan"), 2.0, 1)]
)
def test_a_span_without_a_bin_is_an_error(ledger, since, until, bins):
    with pytest.raises(ParameterError, match="expected at least one bin"):
        throughput(ledger, since, until, bins)


def test_latencies_are_those_of_the_last_that_were_finished(tmp_path):
    generator = random.Random(1)
    entries = [
        Entry(
            0,
            f"{number}.mrc",
            State.DONE,
            Identity(1, generator.randrange(100), number),
            0,
            complete=1000.0 * number,
            previewed=None if number % 7 == 0 else 1000.0 * number + generator.uniform(1, 3),
            finished=1000.0 * number + generator.uniform(4, 90),
            shape=(1, 1, 1),
        )
        for number in range(150)
    ]
    entries.append(Entry(0, "bad", State.QUARANTINED, Identity(1, 1, 1), 0, complete=1.0, finished=1e6))
    entries.append(Entry(0, "found anew", State.DONE, Identity(1, 1, 1), 0, finished=2e6, shape=(1, 1, 1)))
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        fill(ledger, entries)
        found = latencies(ledger, last=101)
    last = entries[50:150]
    expected = {
        "preview": [entry.previewed - entry.complete for entry in last if entry.previewed],
        "labels": [entry.finished - entry.complete for entry in last],
    }
    for name, seconds in expected.items():
        cuts = statistics.quantiles(seconds, n=100, method="inclusive")
        assert found[name] == pytest.approx({"p50": cuts[49], "p90": cuts[89], "p99": cuts[98]})


INDEXED = [
    lambda ledger: list_entries(ledger),
    lambda ledger: list_entries(ledger, sort="name", descending=False, offset=200),
    lambda ledger: list_entries(ledger, sort="problem"),
    lambda ledger: list_entries(ledger, sort="class", class_name="ribosome"),
    lambda ledger: throughput(ledger, 0.0, 300.0, 10),
    lambda ledger: latencies(ledger),
    lambda ledger: ledger.unhooked(),
    lambda ledger: ledger.uncounted(),
    lambda ledger: ledger.changed_since(3, 10),
    lambda ledger: ledger.states(),
    lambda ledger: ledger.claim(ONE, 30.0, 1.0),
]


@pytest.mark.parametrize("number", range(len(INDEXED)))
def test_no_query_of_the_page_sorts_the_whole_ledger(tmp_path, all_entries, number):
    """SQLite tells how it will go about a query: a B-tree for the order means that it reads and sorts everything."""
    queries = []
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        fill(ledger, all_entries)
        with ledger.reading() as connection:
            connection.set_trace_callback(queries.append)
        INDEXED[number](ledger)
        with ledger.reading() as connection:
            connection.set_trace_callback(None)
            asked = [query for query in queries if query.startswith("SELECT") and "ledger" not in query]
            plans = {q: [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {q}")] for q in asked}
    assert plans
    for query, plan in plans.items():
        assert "SCAN entries" not in plan, query
        few = "number IN (" in query  # those that were found are sorted
        assert few or not any(step.startswith("USE TEMP B-TREE FOR ORDER") for step in plan), (query, plan)

"""What the page and the metrics ask of a ledger."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

import numpy as np

from tomoscribe.engine.errors import ParameterError
from tomoscribe.engine.watch.entry import Entry, State
from tomoscribe.engine.watch.ledger_rows import LARGEST_INTEGER, PROBLEM, clean, entries
from tomoscribe.engine.watch.ledger_view import LedgerView

__all__ = ["Bin", "Percentiles", "Sort", "Totals", "latencies", "list_entries", "throughput", "totals"]

Sort = Literal["time", "name", "problem", "class"]

# Each has an index, and ends in the number, so that no two entries are equal and pages neither repeat nor miss one.
_ORDERS: dict[str, tuple[str, ...]] = {
    "time": ("modified", "entries.number"),
    "name": ("name", "entries.number"),
    "problem": (PROBLEM, "modified", "entries.number"),
}
_FOUND = "entries.number IN (SELECT number FROM entries WHERE CAST(path AS TEXT) LIKE ? ESCAPE '\\')"


class Bin(TypedDict):
    """What was finished in a span of time; `start` is seconds since the epoch."""

    start: float
    tomograms: int
    voxels: int


class Totals(TypedDict):
    """What was ever finished; `seconds` is how long the labelling took."""

    tomograms: int
    voxels: int
    seconds: float


class Percentiles(TypedDict):
    """Seconds that half, nine in ten and 99 in a hundred did not exceed; None where there is nothing to count."""

    p50: float | None
    p90: float | None
    p99: float | None


def list_entries(
    ledger: LedgerView,
    *,
    sort: Sort = "time",
    class_name: str | None = None,
    descending: bool = True,
    states: Sequence[State] = (),
    search: str = "",
    offset: int = 0,
    limit: int = 50,
) -> tuple[int, list[Entry]]:
    """Return how many entries there are of a kind, and some of them.

    Args:
        ledger: what to look in.
        sort: by ``time`` of the last change of the file, by ``name`` with numbers in it by their value, by ``problem``
            (quarantined ones, then those with warnings, then the others, each by time), or by ``class``: the fraction
            of the volume that a class has, those without labels always last.
        class_name: the class to sort by.
        descending: newest, last name, worst, most first.
        states: those to be listed; all where there is none.
        search: a part of the path, in small or capital letters.
        offset: how many to leave out at the start.
        limit: how many to return at most.

    Raises:
        ParameterError: an order that is not known, or that by class without its name.
    """
    if sort not in _ORDERS and (sort != "class" or class_name is None):
        raise ParameterError(
            f"expected to sort by {', '.join(_ORDERS)}, or by class with its name; found {sort!r}, class {class_name!r}"
        )
    conditions, values = ["1"], list[object]()
    if states:
        conditions.append(f"state IN ({', '.join('?' * len(states))})")
        values += [State(state).value for state in states]
    if search:
        # An index that has nothing but paths is read, in place of all rows.
        conditions.append(_FOUND)
        values.append(f"%{_literally(clean(search))}%")
    kind = _Kind(" AND ".join(conditions), values, "DESC" if descending else "ASC")
    window = min(limit, LARGEST_INTEGER), min(offset, LARGEST_INTEGER)
    with ledger.reading() as connection:
        # What is sorted is narrow; the rows themselves are read last, and only those that were asked for.
        if sort == "class":
            page = _sorted_by_class(connection, kind, clean(str(class_name)), *window)
        else:
            page = kind.page(connection, "entries", _ORDERS[sort], *window)
        found = entries(connection, f"WHERE number IN ({', '.join('?' * len(page))})", *page)
        total = kind.count(connection, "entries")
    by_number = {entry.number: entry for entry in found}
    return total, [by_number[number] for number in page]


@dataclass(frozen=True)
class _Kind:
    """The entries that a query is about, and the direction in which they are listed."""

    condition: str
    values: Sequence[object]
    direction: str

    def count(self, connection: sqlite3.Connection, source: str, *values: object) -> int:
        query = f"SELECT count(*) FROM {source} WHERE {self.condition}"  # noqa: S608 terms of this module
        (number,) = connection.execute(query, [*values, *self.values]).fetchone()
        return int(number)

    def page(
        self,
        connection: sqlite3.Connection,
        source: str,
        order: Sequence[str],
        limit: int,
        offset: int,
        *values: object,
    ) -> list[int]:
        terms = ", ".join(f"{term} {self.direction}" for term in order)
        query = f"SELECT entries.number FROM {source} WHERE {self.condition} ORDER BY {terms} LIMIT ? OFFSET ?"  # noqa: S608
        return [number for (number,) in connection.execute(query, [*values, *self.values, limit, offset])]


def _sorted_by_class(connection: sqlite3.Connection, kind: _Kind, name: str, limit: int, offset: int) -> list[int]:
    """Return the numbers of entries with labels, by the fraction of a class, and behind them of those without."""
    labelled = "fractions JOIN entries ON entries.number = fractions.number AND class = ?"
    page = kind.page(connection, labelled, ("fraction", "fractions.number"), limit, offset, name)
    if len(page) < limit:
        before = kind.count(connection, labelled, name)
        rest = "(SELECT * FROM entries WHERE number NOT IN (SELECT number FROM fractions WHERE class = ?)) AS entries"
        page += kind.page(connection, rest, _ORDERS["time"], limit - len(page), max(0, offset - before), name)
    return page


def throughput(ledger: LedgerView, since: float, until: float, bins: int) -> list[Bin]:
    """Return what was finished from `since` to before `until`, seconds since the epoch, in equal spans of time.

    Raises:
        ParameterError: the end is not after the start, or there is not a bin.
    """
    if not (since < until and bins > 0):
        raise ParameterError(f"expected at least one bin between two times, found {bins} from {since} to {until}")
    width = (until - since) / bins
    result: list[Bin] = [{"start": since + number * width, "tomograms": 0, "voxels": 0} for number in range(bins)]
    query = (
        "SELECT CAST((finished - ?) / ? AS INTEGER), count(*), sum(voxels) "
        "FROM entries INDEXED BY entries_by_end WHERE state = 'done' AND finished >= ? AND finished < ? GROUP BY 1"
    )
    with ledger.reading() as connection:
        for number, tomograms, voxels in connection.execute(query, [since, width, since, until]).fetchall():
            found = result[min(number, bins - 1)]  # rounding may put the last instant beyond
            found["tomograms"] += tomograms
            found["voxels"] += voxels
    return result


def totals(ledger: LedgerView) -> Totals:
    """Return what was ever finished; content that was replaced since counts, so that no number ever falls."""
    with ledger.reading() as connection:
        tomograms, voxels, seconds = connection.execute("SELECT tomograms, voxels, seconds FROM ledger").fetchone()
    return {"tomograms": tomograms, "voxels": voxels, "seconds": seconds}


def latencies(ledger: LedgerView, last: int = 1000) -> dict[Literal["preview", "labels"], Percentiles]:
    """Return how long tomograms took from when they were complete, to the first picture and to the labels.

    Args:
        ledger: what to look in.
        last: how many of those that were finished last are counted.
    """
    query = (
        "SELECT previewed - complete, finished - complete FROM entries INDEXED BY entries_by_end "
        "WHERE state = 'done' ORDER BY finished DESC LIMIT ?"
    )
    with ledger.reading() as connection:
        rows = connection.execute(query, [last]).fetchall()
    return {
        "preview": _percentiles([preview for preview, _ in rows if preview is not None]),
        "labels": _percentiles([labels for _, labels in rows if labels is not None]),
    }


def _percentiles(seconds: Sequence[float]) -> Percentiles:
    if not seconds:
        return {"p50": None, "p90": None, "p99": None}
    p50, p90, p99 = (float(value) for value in np.percentile(seconds, [50, 90, 99]))
    return {"p50": p50, "p90": p90, "p99": p99}


def _literally(text: str) -> str:
    """Return a pattern of LIKE that means the text itself."""
    for sign in ("\\", "%", "_"):
        text = text.replace(sign, "\\" + sign)
    return text

"""What the page shows of the ledger, as JSON."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tomoscribe.engine.class_map import ClassMap
from tomoscribe.engine.watch.entry import Entry, State
from tomoscribe.engine.watch.ledger_queries import Percentiles, Sort, latencies, list_entries, throughput, totals
from tomoscribe.engine.watch.ledger_rows import entries
from tomoscribe.engine.watch.ledger_view import LedgerView
from tomoscribe.engine.watch.settings import WatchSettings

__all__ = ["Views"]

_MOST_RUNNING = 16
_HEARD_WITHIN = 15.0  # seconds; a watcher says every two that it is alive
_BINS = 60


class Views:
    """Reads the ledger for the page. Any thread may ask.

    Args:
        ledger: what is read.
        settings: the folders, whose places on the disk clients are not told.
        class_map: the model's.
    """

    def __init__(self, ledger: LedgerView, settings: WatchSettings, class_map: ClassMap) -> None:
        self._ledger = ledger
        self._class_map = class_map
        self._latency: tuple[int, Mapping[Any, Percentiles]] = (-1, {})
        self._name = settings.folder.resolve().name
        folders = {path for folder in (settings.output, settings.folder) for path in (folder, folder.resolve())}
        self._places = _places(folders)

    def entry(self, entry: Entry) -> dict[str, Any]:
        """Return an entry; files are named relative to the folders in what it says."""
        shown = entry.to_json()
        shown["reason"] = self._without_folders(entry.reason)
        shown["hook"] = self._without_folders(entry.hook)
        shown["warnings"] = [self._without_folders(warning) for warning in entry.warnings]
        return shown

    def status(self, now: float) -> dict[str, Any]:
        """Return the state of all, at the revision that it names or a later one.

        Args:
            now: seconds since the epoch.
        """
        revision = self._ledger.revision()
        watchers = self._ledger.watchers(now, _HEARD_WITHIN)
        _, running = list_entries(self._ledger, states=[State.RUNNING], limit=_MOST_RUNNING)
        newest = self._newest()
        done = totals(self._ledger)
        if done["tomograms"] != self._latency[0]:
            # Many rows are read for it, and it is the same until another tomogram is finished.
            self._latency = done["tomograms"], latencies(self._ledger)
        return {
            "revision": revision,
            "time": now,
            "folder": self._name,
            "watchers": [self._watcher(facts) for facts in watchers],
            "model": _first(watchers, "model"),
            "backend": _first(watchers, "backend"),
            "classes": self._class_map.to_json(),
            "states": {state.value: count for state, count in self._ledger.states().items()},
            "running": [{**self.entry(entry), **_speed(entry, now)} for entry in running],
            "newest": None if newest is None else self.entry(newest),
            "paused": self._without_folders(_first(watchers, "paused")),
            "free_bytes": _first(watchers, "free_bytes"),
            "totals": done,
            "latency": self._latency[1],
        }

    def tomograms(
        self,
        *,
        sort: Sort,
        class_name: str | None,
        descending: bool,
        states: Sequence[State],
        search: str,
        offset: int,
        limit: int,
    ) -> dict[str, Any]:
        """Return a part of the list of all, see `list_entries`.

        Raises:
            ParameterError: as `list_entries` says.
        """
        total, found = list_entries(
            self._ledger,
            sort=sort,
            class_name=class_name,
            descending=descending,
            states=states,
            search=search,
            offset=offset,
            limit=limit,
        )
        return {"total": total, "offset": offset, "items": [self.entry(entry) for entry in found]}

    def tomogram(self, entry: Entry, preview_z: int | None) -> dict[str, Any]:
        """Return an entry with what its viewer needs.

        Args:
            entry: what to show.
            preview_z: the slice of its preview, if it has one.
        """
        fractions = None
        if entry.counts is not None and entry.voxels:
            fractions = {name: count / entry.voxels for name, count in entry.counts.items()}
        available = entry.state is State.DONE and "labels" in (entry.outputs or {})
        return {**self.entry(entry), "fractions": fractions, "slices_available": available, "preview_z": preview_z}

    def throughput(self, now: float, hours: float) -> dict[str, Any]:
        """Return what was finished in the last hours, in bins that begin at multiples of their width.

        Args:
            now: seconds since the epoch.
            hours: up to now.
        """
        width = hours * 3600 / _BINS
        until = math.ceil(now / width) * width
        return {"width": width, "bins": throughput(self._ledger, until - _BINS * width, until, _BINS)}

    def health(self, now: float) -> tuple[bool, str]:
        """Return whether a watcher is at work, and what tells.

        Args:
            now: seconds since the epoch.
        """
        watchers = self._ledger.watchers(now, _HEARD_WITHIN)
        if not watchers:
            return False, f"no watcher was heard of in the last {_HEARD_WITHIN:g} s"
        paused = self._without_folders(_first(watchers, "paused"))
        return True, f"{len(watchers)} at work" if paused is None else f"paused: {paused}"

    def changed_since(self, revision: int, limit: int) -> list[Entry]:
        """Return entries that have changed, see `LedgerView.changed_since`."""
        return self._ledger.changed_since(revision, limit)

    def get(self, number: int) -> Entry | None:
        """Return the entry of a number, if there is one."""
        return self._ledger.get(number)

    def revision(self) -> int:
        """Return the ledger's revision."""
        return self._ledger.revision()

    def _newest(self) -> Entry | None:
        """Return the newest tomogram that there is something to see of."""
        # The plus keeps SQLite from gathering all of these states by an index, to sort them then.
        seen = "+state = 'done' OR (previewed IS NOT NULL AND +state IN ('running', 'waiting'))"
        with self._ledger.reading() as connection:
            found = entries(connection, f"WHERE {seen} ORDER BY modified DESC, number DESC LIMIT 1")
        return next(iter(found), None)

    def _watcher(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        shown = {name: facts.get(name) for name in ("model", "backend", "started", "beaten", "free_bytes")}
        paused = self._without_folders(facts.get("paused"))
        return {**shown, "folder": Path(str(facts.get("folder"))).name, "paused": paused}

    def _without_folders(self, text: str | None) -> str | None:
        return None if text is None else self._places.sub(lambda found: "" if found[2] else Path(found[1]).name, text)


def _places(folders: Iterable[Path]) -> re.Pattern[str]:
    """Return what finds folders in a text, and the slash after those that a file is named in."""
    # The longer ones first, for one may lie in the other.
    names = sorted((str(folder) for folder in folders if folder.name), key=len, reverse=True)
    return re.compile(rf"(?<![^\s:;,('\"])({'|'.join(map(re.escape, names)) or '(?!)'})(?:(/)|(?![^\s:;,)'\"]))")


def _speed(entry: Entry, now: float) -> dict[str, float | None]:
    """Return how fast a tomogram is being labelled; None before the first slice is."""
    begun = max(entry.claimed or 0.0, entry.previewed or 0.0)
    if not (entry.slices and entry.shape and now > begun):
        return {"slices_per_second": None, "voxels_per_second": None}
    slices = entry.slices / (now - begun)
    return {"slices_per_second": slices, "voxels_per_second": slices * entry.shape[1] * entry.shape[2]}


def _first(watchers: Sequence[Mapping[str, Any]], name: str) -> Any:  # noqa: ANN401 - as the watcher gave it
    return next((facts[name] for facts in watchers if facts.get(name) is not None), None)

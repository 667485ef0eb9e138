"""What is known of every tomogram of a watched folder, in a file that outlives the watcher.

Watchers, the page and whoever asks for metrics share nothing but this file. A watcher *claims* an entry, which gives it
a lease that it renews while it works; where it is killed, the lease ends and another watcher takes the entry. What it
reports is only taken from the one that holds the entry, so that a watcher that was stopped for a while and wakes up
does no harm.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tomoscribe.engine.errors import ParameterError
from tomoscribe.engine.watch.entry import Entry, Identity, State
from tomoscribe.engine.watch.ledger_rows import HARMLESS, add, change, clean, entries, find_entry
from tomoscribe.engine.watch.ledger_view import LedgerView
from tomoscribe.engine.watch.owner import Owner

__all__ = ["Ledger"]

_NOTICED = (State.ARRIVING, State.WAITING, State.QUARANTINED)
_UNLABELLED = (State.ARRIVING, State.WAITING, State.RUNNING, State.QUARANTINED)
_FIRST = f"ORDER BY {HARMLESS} DESC, modified DESC, number DESC LIMIT 1"
_DAY = 86400.0


class Ledger(LedgerView):
    """The entries, and the watchers that are at work on them.

    Any thread may use it; a process that is forked opens its own. What a method has written is on the disk when it
    returns. Every method raises `LedgerError`, an `OutputError`, where the file cannot be read or written: damaged,
    removed, no space, no permission, or locked by another program for half a minute.

    Args:
        path: the file; it and its folder are made where they are not there.

    Raises:
        LedgerError: also where the file is another program's or that of a newer tomoscribe.
    """

    def notice(self, path: str, identity: Identity, state: State, now: float, reason: str | None = None) -> Entry:
        """Take down that a file was seen, and return what is known of it then.

        Content that the ledger does not have under this path, and content that was gone, starts anew; a watcher that
        runs the content of before loses its lease. Of content that it has, one that arrives becomes waiting or
        quarantined; what was quarantined before a watcher began with it may come back. Nothing else changes.

        Args:
            path: relative to the watched folder.
            identity: of the content that was seen.
            state: arriving, waiting or quarantined.
            now: seconds since the epoch.
            reason: why it is quarantined, or what it is waited for.

        Raises:
            ParameterError: another state.
        """
        if state not in _NOTICED:
            raise ParameterError(
                f"{path}: expected a file to be noticed as one of {', '.join(_NOTICED)}, found {state}"
            )
        seen = Entry(
            number=0,
            path=path,
            state=state,
            identity=identity,
            revision=0,
            reason=None if reason is None else clean(reason),
            noticed=now,
            complete=now if state is State.WAITING else None,
            finished=now if state is State.QUARANTINED else None,
        )
        with self._file.writing() as (connection, revision):
            old = find_entry(connection, path)
            if old is None:
                new = replace(seen, revision=revision)
                return replace(new, number=add(connection, new))
            if old.identity != identity or old.state is State.GONE:
                new = replace(seen, number=old.number)
            elif _may_become(old, seen):
                new = replace(old, state=state, reason=seen.reason, complete=seen.complete, finished=seen.finished)
            else:
                new = old
            if new != old:
                new = replace(new, revision=revision)
                change(connection, old, new)
            return new

    def gone(self, path: str, now: float) -> None:
        """Take down that a file is not there any more; the labels of a finished one are, so that it stays done."""
        with self._file.writing() as (connection, revision):
            old = find_entry(connection, path)
            if old is not None and old.state in _UNLABELLED:
                new = replace(old, state=State.GONE, revision=revision, finished=now, owner=None, lease=None)
                change(connection, old, new)

    def claim(self, owner: Owner, lease: float, now: float) -> Entry | None:
        """Take the newest of the tomograms that wait, or whose watcher has let its lease end or is dead.

        Those that three watchers have begun with and not reported of come last, so that a file on which a watcher dies
        does not keep it from the others.

        Args:
            owner: who takes it.
            lease: for how many seconds.
            now: seconds since the epoch.

        Returns:
            The entry, running and held by `owner`; None where there is nothing to do.
        """
        with self._file.writing() as (connection, revision):
            held = entries(connection, "WHERE state = 'running'")
            lost = [entry.number for entry in held if _is_free(entry.owner, entry.lease, now)]
            waiting = f"SELECT number FROM entries INDEXED BY entries_waiting WHERE state = 'waiting' {_FIRST}"  # noqa: S608
            free = [*lost, *(number for (number,) in connection.execute(waiting))]
            if not free:
                return None
            (old,) = entries(connection, f"WHERE number IN ({', '.join('?' * len(free))}) {_FIRST}", *free)
            new = replace(
                old,
                state=State.RUNNING,
                revision=revision,
                attempts=old.attempts + 1,
                claimed=now,
                owner=str(owner),
                lease=now + lease,
                slices=0,
            )
            change(connection, old, new)
            return new

    def renew(self, number: int, owner: Owner, lease: float, now: float) -> bool:
        """Hold an entry for another `lease` seconds from `now`; False where this owner does not hold it any more."""
        return self._report(number, owner, lambda held: replace(held, lease=now + lease))

    def progress(
        self,
        number: int,
        owner: Owner,
        slices: int,
        shape: tuple[int, int, int] | None = None,
        voxel_size: tuple[float, float, float] | None = None,
    ) -> bool:
        """Take down how far the labelling is; False where this owner does not hold the entry any more.

        Args:
            number: the entry's.
            owner: who reports.
            slices: how many are labelled.
            shape: ``(z, y, x)`` in voxels; None leaves it as it is.
            voxel_size: ``(x, y, z)`` in Å; None leaves it as it is.
        """

        def report(held: Entry) -> Entry:
            return replace(held, slices=slices, shape=shape or held.shape, voxel_size=voxel_size or held.voxel_size)

        return self._report(number, owner, report)

    def previewed(self, number: int, owner: Owner, now: float) -> bool:
        """Take down when the first picture was there; False where this owner does not hold the entry any more."""

        def report(held: Entry) -> Entry:
            return replace(held, previewed=now if held.previewed is None else held.previewed)

        return self._report(number, owner, report)

    def release(self, number: int, owner: Owner) -> bool:
        """Put an entry back as if it had not been claimed; False where this owner does not hold it any more."""

        def report(held: Entry) -> Entry:
            waiting = replace(held, state=State.WAITING, owner=None, lease=None)
            return replace(waiting, attempts=held.attempts - 1, claimed=None, slices=0)

        return self._report(number, owner, report)

    def quarantine(self, number: int, owner: Owner, reason: str, now: float) -> bool:
        """Put an entry aside for a reason, one line; False where this owner does not hold it any more."""

        def report(held: Entry) -> Entry:
            return replace(held, state=State.QUARANTINED, reason=reason, finished=now, owner=None, lease=None)

        return self._report(number, owner, report)

    def finish(
        self,
        number: int,
        owner: Owner,
        *,
        now: float,
        seconds: float | None,
        shape: tuple[int, int, int],
        voxel_size: tuple[float, float, float],
        model: str,
        backend: str,
        counts: Mapping[str, int],
        outputs: Mapping[str, str],
        warnings: Sequence[str],
    ) -> bool:
        """Take down that the outputs are there; False where this owner does not hold the entry any more.

        Args:
            number: the entry's.
            owner: who reports.
            now: seconds since the epoch.
            seconds: how long the labelling took; None for outputs that were found as a killed watcher left them.
            shape: ``(z, y, x)`` in voxels.
            voxel_size: ``(x, y, z)`` in Å; 0 where it is not known.
            model: the model's name.
            backend: what ran it, in a line.
            counts: voxels of each class, by name.
            outputs: the files, relative to the output folder, by kind.
            warnings: what a user should know, a line each.
        """

        def report(held: Entry) -> Entry:
            done = replace(held, state=State.DONE, reason=None, finished=now, owner=None, lease=None)
            return replace(
                done,
                shape=shape,
                voxel_size=voxel_size,
                slices=shape[0],
                seconds=seconds,
                model=model,
                backend=backend,
                counts=dict(counts),
                outputs=dict(outputs),
                warnings=tuple(warnings),
            )

        return self._report(number, owner, report)

    def tend(self, number: int, owner: Owner, lease: float, now: float) -> bool:
        """Take on what is left to do for a finished tomogram: the command, the thumbnail, the count of objects.

        Returns:
            True where it is this owner's for `lease` seconds; False where another one has it.
        """
        with self._file.writing() as (connection, _):
            query = "SELECT tender, tended FROM entries WHERE number = ? AND state = 'done'"
            row = connection.execute(query, [number]).fetchone()
            if row is None or not (row[0] == str(owner) or _is_free(row[0], row[1], now)):
                return False
            values = [str(owner), now + lease, number]
            connection.execute("UPDATE entries SET tender = ?, tended = ? WHERE number = ?", values)
            return True

    def hook_ended(self, number: int, text: str) -> None:
        """Take down how the command for a finished tomogram ended, one line."""
        self._supplement(number, lambda done: replace(done, hook=text))

    def set_objects(self, number: int, objects: Mapping[str, int]) -> None:
        """Take down how many connected objects of each class a finished tomogram has."""
        self._supplement(number, lambda done: replace(done, objects=dict(objects)))

    def beat(self, owner: Owner, now: float, facts: Mapping[str, Any]) -> None:
        """Take down that a watcher is alive, and what it does; those not heard of for a day are forgotten."""
        with self._file.writing() as (connection, _):
            connection.execute("DELETE FROM watchers WHERE beaten < ?", [now - _DAY])
            values = [str(owner), now, json.dumps(dict(facts))]
            connection.execute("INSERT OR REPLACE INTO watchers VALUES (?, ?, ?)", values)

    def _report(self, number: int, owner: Owner, report: Callable[[Entry], Entry]) -> bool:
        return self._change("WHERE number = ? AND owner = ?", [number, str(owner)], report)

    def _supplement(self, number: int, supplement: Callable[[Entry], Entry]) -> bool:
        return self._change("WHERE number = ? AND state = 'done'", [number], supplement)

    def _change(self, where: str, values: Sequence[object], changed: Callable[[Entry], Entry]) -> bool:
        with self._file.writing() as (connection, revision):
            for old in entries(connection, where, *values):
                change(connection, old, replace(changed(old), revision=revision))
                return True
            return False


def _may_become(old: Entry, seen: Entry) -> bool:
    # What was quarantined before a watcher began with it was so for how the file lay there, which may be mended.
    free = old.state is State.ARRIVING or (old.state is State.QUARANTINED and not old.attempts)
    return free and (old.state, old.reason) != (seen.state, seen.reason)


def _is_free(owner: str | None, until: float | None, now: float) -> bool:
    return owner is None or until is None or until <= now or Owner.parse(owner).is_dead()

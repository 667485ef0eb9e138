"""A claim on an entry of the ledger, and what can come of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tomoscribe.engine.watch.entry import Entry, Identity, State
from tomoscribe.engine.watch.ledger import Ledger
from tomoscribe.engine.watch.owner import Owner

__all__ = ["Claim", "ContentChanged", "content_of"]


class ContentChanged(Exception):  # noqa: N818 - files may change
    """The tomogram is not what was claimed any more, or is gone."""


def content_of(path: Path) -> Identity | None:
    """Return which content a path has now; None where there is none.

    Raises:
        OSError: it cannot be looked at.
    """
    try:
        return Identity.of(path.stat())
    except (FileNotFoundError, NotADirectoryError):
        return None


@dataclass(frozen=True)
class Claim:
    """An entry that this watcher has claimed. What is told of it is only heard while it is this watcher's.

    Attributes:
        entry: as it was claimed.
        tomogram: the file.
        ledger: where the claim stands.
        owner: this watcher.
        lease: seconds that it lasts, unless it is renewed.
        clock: seconds since the epoch.
    """

    entry: Entry
    tomogram: Path
    ledger: Ledger
    owner: Owner
    lease: float
    clock: Callable[[], float]

    def renew(self) -> bool:
        """Hold the entry for another lease; False where it is not this watcher's any more."""
        return self.ledger.renew(self.entry.number, self.owner, self.lease, self.clock())

    def progress(self, slices: int) -> bool:
        """Take down how many slices are labelled; False where the entry is not this watcher's any more."""
        return self.ledger.progress(self.entry.number, self.owner, slices)

    def release(self) -> None:
        """Give the entry back, for any watcher to begin with it anew."""
        self.ledger.release(self.entry.number, self.owner)

    def quarantine(self, reason: str) -> None:
        """Put the entry aside for a reason, one line."""
        self.ledger.quarantine(self.entry.number, self.owner, reason, self.clock())

    def check_content(self) -> None:
        """See that the tomogram is still what was claimed.

        Raises:
            ContentChanged: it is not.
            OSError: it cannot be looked at.
        """
        if content_of(self.tomogram) != self.entry.identity:
            raise ContentChanged(f"{self.tomogram}: changed after it was found complete")

    def has_changed(self) -> bool:
        """Return whether the tomogram is known to be something else than what was claimed, or gone."""
        try:
            self.check_content()
        except ContentChanged:
            return True
        except OSError:
            return False
        return False

    def notice_anew(self) -> None:
        """Begin from the start with what the path has now; who follows arrivals takes it from there."""
        identity = content_of(self.tomogram)
        if identity is None:
            self.ledger.gone(self.entry.path, self.clock())
        else:
            self.ledger.notice(self.entry.path, identity, State.ARRIVING, self.clock())
        # It may be again what it was, which is no news to the ledger.
        self.release()

"""Finds reconstructions in a folder and its sub-folders, as soon as they are there and as they change.

The kernel tells of changes (through watchfiles) where the file system is this machine's own; where others write to it,
they are looked for. Neither is relied on alone: the whole folder is looked through at the start, now and then, and when
changes may have been lost.
"""

from __future__ import annotations

import contextlib
import logging
import os
import posixpath
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path, PurePosixPath

import watchfiles

from tomoscribe.engine.watch.follower import Follower
from tomoscribe.engine.watch.ledger import Ledger
from tomoscribe.engine.watch.naming import is_reconstruction, is_searched
from tomoscribe.engine.watch.polling import needs_polling
from tomoscribe.engine.watch.settings import WatchSettings

__all__ = ["FolderWatch"]

_LOGGER = logging.getLogger(__name__)

_DEBOUNCE_MS, _STEP_MS, _TICK_MS = 100, 20, 50
# Seconds.
_SCAN_EVERY = 30.0
_POLL_EVERY = 1.0
_POLL_REST = 9.0  # for so many times as long as it took, a large folder is not polled again
_LOOK_AGAIN = 0.5  # files may come into a new folder before the kernel watches it
_RETRY_EVERY = 1.0
_AT_ONCE = 0.2  # of a large find; then it is time to hear what else has changed
_MANY_CHANGES = 4096  # inotify's queue takes 16384 by default; what does not fit is lost


class FolderWatch:
    """Watches one folder for one ledger; `run` keeps a thread busy."""

    def __init__(self, settings: WatchSettings, ledger: Ledger, *, clock: Callable[[], float] = time.time) -> None:
        """Prepare to watch.

        Args:
            settings: folder, output, patterns and whether to poll.
            ledger: where what is found is written down.
            clock: seconds since the epoch, to be compared with the times of files.
        """
        self._root = str(settings.folder.resolve())
        output = str(settings.output.resolve())
        # What lies beside the tomograms is told by its name.
        self._output = None if output == self._root else output
        self._patterns = tuple(settings.patterns)
        self._polling = settings.polling
        self._ledger = ledger
        self._clock = clock

    def run(self, stop: threading.Event) -> None:
        """Watch until `stop` is set. It may be called anew after an error, and looks through everything then.

        Raises:
            LedgerError: the ledger cannot be read or written.
        """
        self._stop = stop
        self._follower = Follower(Path(self._root), self._ledger, any_content=bool(self._patterns), clock=self._clock)
        self._folders: set[str] = set()  # that are looked into; all paths are relative to the root, which is ""
        self._unsearchable: set[str] = set()
        self._again: dict[str, float] = {}  # folders to look through once more, and when, by the monotonic clock
        self._found: dict[str, int] = {}  # files to look at, the newest last, and when they were changed
        self._scan_at = 0.0
        polling = needs_polling(Path(self._root)) if self._polling is None else self._polling
        with contextlib.closing(self._poll() if polling else self._listen()) as changes:
            for changed in changes:
                self._note_all(changed)
                now = time.monotonic()
                if now >= self._scan_at:
                    self._scan()
                for folder in [folder for folder, due in self._again.items() if due <= now]:
                    del self._again[folder]
                    self._search(folder)
                self._follower.look_at_due()
                self._look_at_found()

    def _listen(self) -> Generator[set[str], None, None]:
        """Give what the kernel says has changed, as absolute paths, and often nothing, until it is time to stop."""
        self._scan_every = _SCAN_EVERY
        while not self._stop.is_set():
            self._scan_at = 0.0  # what happened before the kernel listens is not told
            try:
                identity = _identity(self._root)
                for changes in watchfiles.watch(
                    self._root,
                    watch_filter=None,
                    debounce=_DEBOUNCE_MS,
                    step=_STEP_MS,
                    stop_event=self._stop,
                    rust_timeout=_TICK_MS,
                    yield_on_timeout=True,
                    raise_interrupt=False,
                    force_polling=False,
                    ignore_permission_denied=True,
                ):
                    yield {path for _, path in changes}
                    if _identity(self._root) != identity:
                        break  # another folder has its name now
            except FileNotFoundError:
                yield set()
                self._stop.wait(_RETRY_EVERY)
            except RuntimeError as error:
                _LOGGER.warning("changes of the folder may have been missed (%s); looking through it", error)
                self._stop.wait(_RETRY_EVERY)
            except OSError as error:
                _LOGGER.warning(
                    "the system does not tell of changes (%s), so that they are looked for; "
                    "a larger fs.inotify.max_user_watches may help",
                    error,
                )
                yield from self._poll()

    def _poll(self) -> Generator[set[str], None, None]:
        """Give nothing, often, until it is time to stop: what has changed is found by looking through the folder."""
        self._scan_every = _POLL_EVERY
        while not self._stop.is_set():
            yield set()
            self._stop.wait(_TICK_MS / 1000)

    def _note_all(self, changed: set[str]) -> None:
        for path in changed:
            self._note(posixpath.relpath(path, self._root))
        if len(changed) >= _MANY_CHANGES:
            _LOGGER.info("%d changes at once: looking through the folder, as some may have been missed", len(changed))
            self._scan_at = 0.0

    def _note(self, path: str) -> None:
        """See what a change is about: a file that counts, a folder, or neither."""
        if self._follower.knows(path) or is_reconstruction(PurePosixPath(path), self._patterns):
            folder = posixpath.dirname(path)
            if folder in self._folders:
                self._follower.look(path)
            else:
                self._enter(folder)
        elif path in self._folders and not Path(self._root, path).is_dir():
            self._folders.discard(path)
            self._scan_at = 0.0  # with all that was in it
        else:
            self._enter(path)

    def _enter(self, path: str) -> None:
        """Look through a folder that changed, or the topmost on the way to it that was not looked through before."""
        parts = PurePosixPath(path).parts
        for depth in range(1, len(parts) + 1):
            folder = posixpath.join(*parts[:depth])
            if folder in self._folders and folder != path:
                continue
            if self._is_searched(folder) and _is_real_folder(Path(self._root, folder)):
                self._search(folder)
                self._again[folder] = time.monotonic() + _LOOK_AGAIN
            return

    def _scan(self) -> None:
        """Look through everything."""
        began = time.monotonic()
        if Path(self._root).is_dir():
            self._follower.catch_up()
            for path in self._follower.paths() - self._search(""):
                self._follower.look(path)
            self._follower.look_at_held()
        elif "" not in self._unsearchable:
            self._unsearchable.add("")
            _LOGGER.warning("%s: the watched folder is not there; it is looked for", self._root)
        ended = time.monotonic()
        self._scan_at = ended + max(self._scan_every, _POLL_REST * (ended - began))

    def _search(self, top: str) -> set[str]:
        """Go through a folder and its sub-folders, and return the files that count; those with news are looked at."""
        paths, found, left = set(), self._found, [top]
        while left and not self._stop.is_set():
            folder = left.pop()
            for entry in self._entries(folder):
                path = posixpath.join(folder, entry.name)
                try:
                    if entry.is_dir(follow_symlinks=False):
                        left += [path] if self._is_searched(path) else []
                    elif is_reconstruction(PurePosixPath(path), self._patterns):
                        status = entry.stat()
                        paths.add(path)
                        if self._follower.is_news(path, status):
                            found[path] = status.st_mtime_ns
                except OSError:
                    continue  # deleted meanwhile, or a link to nowhere
        self._found = dict(sorted(found.items(), key=lambda item: item[1]))
        return paths

    def _look_at_found(self) -> None:
        """Look at what was found, the newest first; the rest waits for the next time."""
        until = time.monotonic() + _AT_ONCE
        while self._found and time.monotonic() < until and not self._stop.is_set():
            self._follower.look(self._found.popitem()[0])

    def _entries(self, folder: str) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(Path(self._root, folder)) as entries:
                listed = list(entries)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            if folder not in self._unsearchable:
                self._unsearchable.add(folder)
                _LOGGER.warning("%s: cannot be looked into (%s)", Path(self._root, folder), error.strerror)
            return []
        self._unsearchable.discard(folder)
        self._folders.add(folder)
        return listed

    def _is_searched(self, folder: str) -> bool:
        is_output = self._output is not None and posixpath.join(self._root, folder) == self._output
        return not is_output and is_searched(posixpath.basename(folder), self._patterns)


def _is_real_folder(path: Path) -> bool:
    """Return whether a path is a folder, and no link to one: what it leads to has a name of its own, or is outside."""
    return path.is_dir() and not path.is_symlink()


def _identity(path: str) -> tuple[int, int]:
    status = Path(path).stat()
    return status.st_dev, status.st_ino

"""Labels the tomograms of a ledger, one after the other, with a model that stays loaded."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from tomoscribe.engine.bundle import Bundle
from tomoscribe.engine.errors import BackendError, TomoscribeError
from tomoscribe.engine.outputs import OutputPaths
from tomoscribe.engine.segmentation import Segmenter
from tomoscribe.engine.tomogram import Tomogram, open_tomogram
from tomoscribe.engine.watch.claim import Claim
from tomoscribe.engine.watch.entry import Identity
from tomoscribe.engine.watch.failures import Blocked, in_a_line, may_pass, reason_of
from tomoscribe.engine.watch.guard import Guard, LeaseLost, Occupied, Stopped
from tomoscribe.engine.watch.ledger import Ledger
from tomoscribe.engine.watch.ledger_file import LedgerError
from tomoscribe.engine.watch.locks import EntryLocks
from tomoscribe.engine.watch.owner import Owner
from tomoscribe.engine.watch.pictures import Pictures
from tomoscribe.engine.watch.recovery import FinishedOutputs, finished_outputs, output_folder, remove_unfinished
from tomoscribe.engine.watch.settings import WatchSettings
from tomoscribe.engine.watch.space import SpaceCheck, output_bytes

__all__ = ["Worker"]

_LOG = logging.getLogger(__name__)

# What is begun so often without an end has the process killed or crash.
_MOST_ATTEMPTS = 20
# A backend that fails with so many tomograms in a row, each tried twice, is not failed by them.
_MOST_FAILURES = 3


class Worker:
    """Claims entries and labels them; a context manager that keeps the model loaded.

    Args:
        settings: what was asked for.
        ledger: where the entries are.
        owner: this watcher.
        make_segmenter: loads the model; called again after its backend failed.
        lease: seconds that a claim lasts unless `pulse` renews it.
        clock: seconds since the epoch.

    Raises:
        TomoscribeError: the model cannot be loaded.
    """

    def __init__(
        self,
        settings: WatchSettings,
        ledger: Ledger,
        owner: Owner,
        make_segmenter: Callable[[], Segmenter],
        *,
        lease: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._ledger = ledger
        self._owner = owner
        self._make_segmenter = make_segmenter
        self._lease = lease
        self._clock = clock
        self._space = SpaceCheck(settings.output, settings.keep_free)
        # The pulse is another thread's.
        self._lock = threading.Lock()
        self._guard: Guard | None = None
        self._renewed = 0.0
        self._suspect: tuple[int, Identity] | None = None
        self._failures = 0
        self._segmenter: Segmenter | None = make_segmenter()
        self.bundle = self._segmenter.bundle
        self.backend = self._segmenter.backend
        self._pictures = Pictures(settings.places.pictures, self.bundle.specification.class_map)
        self._locks = EntryLocks(settings.places.own / "naming.lock")

    def close(self) -> None:
        """Give the model's memory and threads back."""
        if self._segmenter is not None:
            self._segmenter.close()
            self._segmenter = None
        self._locks.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def run_one(self, stop: threading.Event) -> bool:
        """Claim an entry and bring it to an end: labelled, quarantined, or given back.

        Args:
            stop: has the labelling end after the slices that are at work, and the entry given back.

        Returns:
            Whether there was one.

        Raises:
            Blocked: nothing can be written at the moment.
            LedgerError: the ledger cannot be used.
            TomoscribeError: the model cannot be loaded any more, or fails with every tomogram.
        """
        segmenter = self._loaded()
        entry = self._ledger.claim(self._owner, self._lease, self._clock())
        if entry is None:
            return False
        tomogram = self._settings.folder / entry.path
        claim = Claim(entry, tomogram, self._ledger, self._owner, self._lease, self._clock)
        try:
            with self._guarding(claim, stop) as guard:
                self._label(segmenter, claim, guard)
        except Stopped:
            claim.release()
        except LeaseLost:
            _LOG.warning("%s: is another watcher's by now, or changed", entry.path)
        except Exception as error:
            self._settle(claim, error)
        except BaseException:
            with contextlib.suppress(LedgerError):
                claim.release()
            raise
        else:
            self._failures = 0
        return True

    def pulse(self) -> None:
        """Tell the ledger how far the labelling is, and renew the lease; called several times a second by a thread.

        Raises:
            LedgerError: the ledger cannot be used.
        """
        with self._lock:
            if self._guard is None:
                return
            self._guard.report()
            if time.monotonic() - self._renewed > self._lease / 6:
                self._guard.renew()
                self._renewed = time.monotonic()

    def _loaded(self) -> Segmenter:
        if self._segmenter is None:
            self._segmenter = self._make_segmenter()
            self.backend = self._segmenter.backend
        return self._segmenter

    @contextlib.contextmanager
    def _guarding(self, claim: Claim, stop: threading.Event) -> Iterator[Guard]:
        labels = OutputPaths.of(claim.tomogram, output_folder(self._settings, claim.entry.path)).labels
        guard = Guard(claim, labels, self._locks, stop)
        with self._lock:
            self._guard, self._renewed = guard, time.monotonic()
        try:
            yield guard
        finally:
            with self._lock:
                self._guard = None
            guard.close()

    def _label(self, segmenter: Segmenter, claim: Claim, guard: Guard) -> None:
        entry, settings = claim.entry, self._settings
        if entry.attempts > _MOST_ATTEMPTS:
            claim.quarantine(f"begun {_MOST_ATTEMPTS} times, and each time the watcher was killed or crashed")
            return
        claim.check_content()
        guard.check_free()
        folder = output_folder(settings, entry.path)
        remove_unfinished(claim.tomogram, folder)
        finished = finished_outputs(entry, settings, segmenter.bundle)
        guard.check()
        with open_tomogram(
            claim.tomogram, voxel_size=settings.voxel_size, axes=settings.axes, mode0=settings.mode0
        ) as tomogram:
            geometry = tomogram.geometry
            if finished is None:
                self._check_space(segmenter.bundle, geometry.shape)
            self._ledger.progress(entry.number, self._owner, 0, geometry.shape, geometry.voxel_size)
            self._preview(segmenter, claim, tomogram, finished)
            guard.check()
            if finished is None:
                result = segmenter.segment(
                    tomogram,
                    folder,
                    classes=settings.classes,
                    invert=settings.invert,
                    rescale=settings.rescale,
                    sample_only=settings.sample_only,
                    overwrite=True,
                    sinks=[guard],
                )
                finished = FinishedOutputs.of(result, self._clock())
        self._finish(claim, finished)

    def _check_space(self, bundle: Bundle, shape: tuple[int, int, int]) -> None:
        classes = self._settings.classes
        reason = self._space.reason_to_wait(
            output_bytes(shape, len(bundle.specification.class_map if classes is None else classes))
        )
        if reason is not None:
            raise Blocked(reason)

    def _preview(
        self, segmenter: Segmenter, claim: Claim, tomogram: Tomogram, finished: FinishedOutputs | None
    ) -> None:
        """Have the picture of the central slice there before the labels are."""
        entry, settings = claim.entry, self._settings
        if entry.previewed is not None and self._pictures.preview(entry) is not None:
            return
        if finished is None:
            preview = segmenter.preview(
                tomogram, classes=settings.classes, invert=settings.invert, rescale=settings.rescale
            )
        else:
            preview = finished.preview(tomogram)
        self._pictures.save_preview(entry, preview)
        self._ledger.previewed(entry.number, self._owner, self._clock())

    def _finish(self, claim: Claim, finished: FinishedOutputs) -> None:
        """Say that the outputs are there, once their names are on the disk."""
        entry, output = claim.entry, self._settings.output
        _bring_names_to_disk(finished.outputs["labels"].parent, output)
        held = self._ledger.finish(
            entry.number,
            self._owner,
            # Of outputs that were there before the tomogram was noticed, nobody waited for them.
            now=max(finished.finished, entry.complete or 0.0),
            seconds=finished.seconds,
            shape=finished.shape,
            voxel_size=finished.voxel_size,
            model=finished.model,
            backend=finished.backend,
            counts=finished.counts,
            outputs={kind: path.relative_to(output).as_posix() for kind, path in finished.outputs.items()},
            warnings=finished.warnings,
        )
        if not held:
            raise LeaseLost

    def _settle(self, claim: Claim, error: Exception) -> None:
        """Do what an error calls for: give the entry back, take the tomogram for changed, or put it aside."""
        entry = claim.entry
        if isinstance(error, Blocked | Occupied) or may_pass(error):
            with contextlib.suppress(LedgerError):  # the lease ends by itself
                claim.release()
            raise Blocked(in_a_line(error)) from error
        if isinstance(error, LedgerError):
            raise error
        if claim.has_changed():
            claim.notice_anew()
        elif isinstance(error, BackendError):
            self._settle_backend(claim, error)
        else:
            if not isinstance(error, TomoscribeError):
                _LOG.error("%s: unexpected %s", entry.path, type(error).__name__, exc_info=error)
            claim.quarantine(reason_of(error, claim.tomogram))

    def _settle_backend(self, claim: Claim, error: BackendError) -> None:
        """Try a tomogram once more with a model that is loaded anew, before it is put aside."""
        entry = claim.entry
        if self._segmenter is not None:
            self._segmenter.close()
            self._segmenter = None
        _LOG.error("%s: the backend failed, the model is loaded anew", entry.path, exc_info=error)
        if self._suspect != (entry.number, entry.identity):
            self._suspect = entry.number, entry.identity
            claim.release()
            return
        self._failures += 1
        if self._failures == _MOST_FAILURES:
            claim.release()
            raise error
        claim.quarantine(reason_of(error, claim.tomogram))


def _bring_names_to_disk(folder: Path, output: Path) -> None:
    """Have the disk know of the names in a folder, and of the folder's own, up to the output folder."""
    for parent in (folder, *folder.parents):
        with contextlib.suppress(OSError):  # some file systems cannot
            descriptor = os.open(parent, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        if parent == output:
            return

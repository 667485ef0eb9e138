"""What is made of what the kernel tells of a folder, and of what it does not tell."""

from __future__ import annotations

import threading

import pytest

from tomoscribe.engine.watch import folder
from tomoscribe.engine.watch.folder import FolderWatch
from tomoscribe.engine.watch.ledger_file import LedgerError


def test_lost_changes_are_found_by_looking(watch_folder, volume_bytes, monkeypatch, caplog):
    watched = watch_folder(polling=False)
    listen, failed = folder.watchfiles.watch, threading.Event()

    def fail_once(*paths, **options):
        if not failed.is_set():
            yield set()
            failed.set()
            (watched.folder / "a.mrc").write_bytes(volume_bytes)
            raise RuntimeError("error in underlying watcher: queue overflow")
        yield from listen(*paths, **options)

    monkeypatch.setattr(folder.watchfiles, "watch", fail_once)
    monkeypatch.setattr(folder, "_RETRY_EVERY", 0.05)
    watched.start()
    watched.until({"a.mrc": "waiting"})
    assert failed.is_set()
    assert "queue overflow" in caplog.text


@pytest.fixture
def tell(monkeypatch):
    """Have the kernel tell of what a generator gives, and of nothing else."""

    def replace(changes):
        def listen(*paths, stop_event, **options):
            for paths in changes():
                yield {(1, str(path)) for path in paths}
            while not stop_event.wait(0.01):
                yield set()

        monkeypatch.setattr(folder.watchfiles, "watch", listen)

    return replace


def test_very_many_changes_at_once_are_not_trusted_to_be_all(watch_folder, volume_bytes, monkeypatch, tell):
    watched = watch_folder(polling=False)
    monkeypatch.setattr(folder, "_MANY_CHANGES", 5)

    def changes():
        yield ()
        (watched.folder / "a.mrc").write_bytes(volume_bytes)
        yield [watched.folder / f"{number}.txt" for number in range(5)]

    tell(changes)
    watched.start()
    watched.until({"a.mrc": "waiting"})


def test_files_that_come_into_a_folder_before_the_kernel_watches_it_are_found(watch_folder, volume_bytes, tell):
    watched = watch_folder(polling=False)

    def changes():
        yield ()
        (watched.folder / "told").mkdir()
        (watched.folder / "untold").mkdir()
        yield [watched.folder / "told"]
        (watched.folder / "told" / "a.mrc").write_bytes(volume_bytes)
        (watched.folder / "untold" / "a.mrc").write_bytes(volume_bytes)
        (watched.folder / "untold" / "b.mrc").write_bytes(volume_bytes)
        yield [watched.folder / "untold" / "a.mrc"]

    tell(changes)
    watched.start()
    watched.until({"told/a.mrc": "waiting", "untold/a.mrc": "waiting", "untold/b.mrc": "waiting"})


def test_a_folder_that_is_made_anew_is_looked_through_again(watch_folder, volume_bytes, tell):
    watched = watch_folder(polling=False)

    def changes():
        (watched.folder / "x").mkdir()
        yield ()
        (watched.folder / "x").rmdir()
        (watched.folder / "x").mkdir()
        (watched.folder / "x" / "a.mrc").write_bytes(volume_bytes)
        yield [watched.folder / "x"]

    tell(changes)
    watched.start()
    watched.until({"x/a.mrc": "waiting"})


def test_where_the_kernel_refuses_the_folder_is_polled(watch_folder, volume_bytes, monkeypatch, caplog):
    watched = watch_folder(polling=False)

    def refuse(*paths, **options):
        raise OSError(28, "OS file watch limit reached")

    monkeypatch.setattr(folder.watchfiles, "watch", refuse)
    watched.start()
    watched.until({})
    (watched.folder / "a.mrc").write_bytes(volume_bytes)
    watched.until({"a.mrc": "waiting"})
    assert "fs.inotify.max_user_watches" in caplog.text


def test_a_ledger_that_cannot_be_written_is_told_and_the_watch_can_go_on(watch_folder, volume_bytes, monkeypatch):
    watched = watch_folder(polling=False)
    notice = watched.ledger.notice
    (watched.folder / "a.mrc").write_bytes(volume_bytes)
    watch = FolderWatch(watched.settings, watched.ledger)

    def fail(*arguments):
        raise LedgerError("no space")

    monkeypatch.setattr(watched.ledger, "notice", fail)
    with pytest.raises(LedgerError):
        watch.run(watched.stop)
    monkeypatch.setattr(watched.ledger, "notice", notice)
    watched.start(watch)
    watched.until({"a.mrc": "waiting"})

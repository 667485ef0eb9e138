"""A real folder, watched in a thread, told by the kernel and polled."""

from __future__ import annotations

import os
import posixpath
import random
import shutil
import time
from collections import Counter

import pytest

from tomoscribe.engine.watch import arrival, folder
from tomoscribe.engine.watch.entry import Identity, State
from tomoscribe.engine.watch.settings import WatchSettings

PATIENCE = 20.0


@pytest.fixture(params=[False, True], ids=["told", "polled"])
def watched(request, watch_folder):
    return watch_folder(polling=request.param)


def test_what_lies_there_is_found_the_newest_first(watched, volume_bytes):
    for number, name in enumerate(["b.mrc", "c.mrc", "a.mrc"]):
        (watched.folder / name).write_bytes(volume_bytes)
        os.utime(watched.folder / name, (1e9 + number, 1e9 + number))
    (watched.folder / "short.mrc").write_bytes(volume_bytes[:-1])
    watched.start()
    watched.until({"a.mrc": "waiting", "b.mrc": "waiting", "c.mrc": "waiting", "short.mrc": "arriving"})
    assert sorted(watched.ledger.known(), key=lambda path: watched.ledger.find(path).number)[1:] == [
        "a.mrc",
        "c.mrc",
        "b.mrc",
    ]


def test_a_file_is_waited_for_slice_by_slice(watched, volume_bytes):
    watched.start()
    path = watched.folder / "a_Vol.mrc"
    with path.open("wb", buffering=0) as file:
        for start in range(0, len(volume_bytes), 480):
            entry = watched.ledger.find("a_Vol.mrc")
            assert entry is None or entry.state is State.ARRIVING
            file.write(volume_bytes[start : start + 480])
            time.sleep(0.01)
    watched.until({"a_Vol.mrc": "waiting"})
    assert watched.ledger.find("a_Vol.mrc").identity == Identity.of(path.stat())


def test_sub_folders_come_with_files_in_them(watched, volume_bytes):
    watched.start()
    for number in range(5):
        deep = watched.folder / f"session{number}" / "grid" / "lamella"
        deep.mkdir(parents=True)
        (deep / "a.mrc").write_bytes(volume_bytes)
        (watched.folder / f"session{number}" / "b.mrc").write_bytes(volume_bytes)
    outside = watched.folder.parent / "outside"
    (outside / "x").mkdir(parents=True)
    (outside / "x" / "c.mrc").write_bytes(volume_bytes)
    outside.rename(watched.folder / "moved")
    expected = {f"session{n}/{name}": "waiting" for n in range(5) for name in ("grid/lamella/a.mrc", "b.mrc")}
    watched.until(expected | {"moved/x/c.mrc": "waiting"})
    # And it is still watched, after all that.
    (watched.folder / "moved" / "x" / "late.mrc").write_bytes(volume_bytes)
    watched.until(expected | {"moved/x/c.mrc": "waiting", "moved/x/late.mrc": "waiting"})


def test_files_are_renamed_into_place_and_over_others(watched, volume_bytes):
    watched.start()
    (watched.folder / ".a.mrc.part").write_bytes(volume_bytes)
    (watched.folder / ".a.mrc.part").rename(watched.folder / "a.mrc")
    watched.until({"a.mrc": "waiting"})
    first = watched.ledger.find("a.mrc")
    (watched.folder / "other.tmp").write_bytes(volume_bytes)
    (watched.folder / "other.tmp").replace(watched.folder / "a.mrc")
    watched.wait(lambda: watched.ledger.find("a.mrc").identity != first.identity)
    watched.until({"a.mrc": "waiting"})
    (watched.folder / "a.mrc").rename(watched.folder / "b.mrc")
    watched.until({"a.mrc": "gone", "b.mrc": "waiting"})


def test_deleted_files_and_folders_are_gone(watched, volume_bytes):
    (watched.folder / "x" / "y").mkdir(parents=True)
    for name in ("a.mrc", "b.mrc", "x/c.mrc", "x/y/d.mrc"):
        (watched.folder / name).write_bytes(volume_bytes)
    watched.start()
    waiting = dict.fromkeys(["a.mrc", "b.mrc", "x/c.mrc", "x/y/d.mrc"], "waiting")
    watched.until(waiting)
    (watched.folder / "a.mrc").unlink()
    watched.until(waiting | {"a.mrc": "gone"})
    shutil.rmtree(watched.folder / "x")
    watched.until({"a.mrc": "gone", "b.mrc": "waiting", "x/c.mrc": "gone", "x/y/d.mrc": "gone"})


def test_a_folder_that_is_moved_out_takes_its_files_along(watched, volume_bytes):
    (watched.folder / "x").mkdir()
    (watched.folder / "x" / "a.mrc").write_bytes(volume_bytes)
    watched.start()
    watched.until({"x/a.mrc": "waiting"})
    (watched.folder / "x").rename(watched.folder.parent / "x")
    watched.until({"x/a.mrc": "gone"})
    (watched.folder.parent / "x").rename(watched.folder / "z")
    watched.until({"x/a.mrc": "gone", "z/a.mrc": "waiting"})


def test_outputs_links_and_other_files_are_left_out(tmp_path, watch_folder, volume_bytes):
    watched = watch_folder(polling=False)
    watched.settings = WatchSettings(watched.folder, watched.folder / "labels", polling=False)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a.mrc").write_bytes(volume_bytes)
    (watched.folder / "labels" / "deep").mkdir(parents=True)
    (watched.folder / "early").symlink_to(outside)
    watched.start()
    (watched.folder / "first.mrc").write_bytes(volume_bytes)
    watched.until({"first.mrc": "waiting"})
    for name in ("labels/a.mrc", "labels/deep/a.mrc", "a__labels.mrc", "a_EVN_Vol.mrc", "notes.txt", ".a.mrc"):
        (watched.folder / name).write_bytes(volume_bytes)
    (watched.folder / "link").symlink_to(outside)
    (watched.folder / "loop").symlink_to(watched.folder)
    (watched.folder / "nowhere.mrc").symlink_to(outside / "absent.mrc")
    (watched.folder / "linked.mrc").symlink_to(outside / "a.mrc")
    os.mkfifo(watched.folder / "pipe.mrc")
    (outside / "b.mrc").write_bytes(volume_bytes)
    (watched.folder / "labelsome").mkdir()
    (watched.folder / "labelsome" / "z.mrc").write_bytes(volume_bytes)
    expected = {"first.mrc": "waiting", "linked.mrc": "waiting", "labelsome/z.mrc": "waiting"}
    watched.until(expected)
    (watched.folder / "last.mrc").write_bytes(volume_bytes)
    watched.until(expected | {"last.mrc": "waiting"})


def test_patterns_are_minded(watch_folder, volume_bytes):
    watched = watch_folder(polling=False, patterns=["*_EVN_Vol.mrc", "even/*.mrc"])
    (watched.folder / "even").mkdir()
    watched.start()
    for name in ("a_Vol.mrc", "a_EVN_Vol.mrc", "even/b.mrc"):
        (watched.folder / name).write_bytes(volume_bytes)
    watched.until({"a_EVN_Vol.mrc": "waiting", "even/b.mrc": "waiting"})


def test_a_file_that_becomes_readable_is_labelled(watched, volume_bytes, monkeypatch):
    """Permissions do not hold for root, who may run the tests, so that the refusal is made up; chmod is not."""
    path = watched.folder / "a.mrc"
    path.write_bytes(volume_bytes)
    path.chmod(0)
    read = arrival._read_promise

    def guarded(path):
        if not path.stat().st_mode & 0o400:
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(arrival, "_read_promise", guarded)
    watched.start()
    watched.until({"a.mrc": "quarantined"})
    assert "Permission denied" in watched.ledger.find("a.mrc").reason
    path.chmod(0o644)
    watched.until({"a.mrc": "waiting"})


def test_a_sub_folder_that_may_not_be_looked_into_does_not_end_the_watch(watched, volume_bytes, monkeypatch, caplog):
    (watched.folder / "closed").mkdir()
    (watched.folder / "closed" / "a.mrc").write_bytes(volume_bytes)
    scandir = os.scandir

    def guarded(path):
        if path.name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    watched.start()
    watched.until({"closed/a.mrc": "waiting"})
    watched.end()
    monkeypatch.setattr(folder.os, "scandir", guarded)
    watched.start()
    (watched.folder / "b.mrc").write_bytes(volume_bytes)
    watched.until({"closed/a.mrc": "waiting", "b.mrc": "waiting"})
    watched.end()
    assert Counter(record.message.split(": ")[-1] for record in caplog.records) == {
        "cannot be looked into (Permission denied)": 1
    }


def test_the_watched_folder_may_go_and_come_back(watched, volume_bytes):
    (watched.folder / "a.mrc").write_bytes(volume_bytes)
    watched.start()
    watched.until({"a.mrc": "waiting"})
    watched.folder.rename(watched.folder.with_name("away"))
    time.sleep(0.2)
    assert watched.states() == {"a.mrc": "waiting"}  # a disk that is not mounted is no deletion
    watched.folder.mkdir()
    (watched.folder / "b.mrc").write_bytes(volume_bytes)
    watched.until({"a.mrc": "gone", "b.mrc": "waiting"})
    (watched.folder / "c.mrc").write_bytes(volume_bytes)
    watched.until({"a.mrc": "gone", "b.mrc": "waiting", "c.mrc": "waiting"})


def test_another_folder_may_take_the_watched_ones_place(watched, volume_bytes):
    (watched.folder / "a.mrc").write_bytes(volume_bytes)
    watched.start()
    watched.until({"a.mrc": "waiting"})
    other = watched.folder.with_name("other")
    other.mkdir()
    (other / "b.mrc").write_bytes(volume_bytes)
    watched.folder.rename(watched.folder.with_name("away"))
    other.rename(watched.folder)
    watched.until({"a.mrc": "gone", "b.mrc": "waiting"})
    (watched.folder / "c.mrc").write_bytes(volume_bytes)
    watched.until({"a.mrc": "gone", "b.mrc": "waiting", "c.mrc": "waiting"})


def test_what_another_watcher_writes_down_is_minded(watch_folder, volume_bytes):
    watched = watch_folder(polling=True)
    (watched.folder / "a.mrc").write_bytes(volume_bytes)
    watched.start()
    watched.until({"a.mrc": "waiting"})
    watched.ledger.notice("a.mrc", Identity(1, 2, 3), State.ARRIVING, time.time())
    watched.until({"a.mrc": "waiting"})
    assert watched.ledger.find("a.mrc").identity == Identity.of((watched.folder / "a.mrc").stat())


@pytest.mark.parametrize("seed", [1, 2])
def test_whatever_happens_in_the_folder_the_ledger_has_it_in_the_end(watched, volume_bytes, seed):
    chance = random.Random(seed)
    watched.start()
    there: dict[str, int] = {}
    ever = set()
    folders = [""]
    for number in range(80):
        action = chance.choice(["new", "new", "grow", "delete", "rename", "over", "folder", "move folder", "rest"])
        name = posixpath.join(chance.choice(folders), f"{chance.randrange(12)}.mrc")
        known = chance.choice(sorted(there)) if there else None
        if action == "folder" and len(folders) < 6:
            folders.append(posixpath.join(chance.choice(folders), f"folder{number}"))
            (watched.folder / folders[-1]).mkdir()
        elif action == "move folder" and len(folders) > 1:
            old = chance.choice(folders[1:])
            new = f"moved{number}"
            (watched.folder / old).rename(watched.folder / new)
            ever |= set(there)
            there = {_moved(path, old, new): stop for path, stop in there.items()}
            folders = [_moved(path, old, new) for path in folders]
        elif action in ("new", "grow"):
            end = len(volume_bytes) if action == "new" else chance.randrange(len(volume_bytes))
            with (watched.folder / name).open("wb") as file:
                file.write(volume_bytes[: end // 2])
                file.flush()
                file.write(volume_bytes[end // 2 : end])
            there[name] = end
        elif action == "delete" and known:
            (watched.folder / known).unlink()
            del there[known]
        elif action in ("rename", "over") and known and known != name:
            (watched.folder / known).replace(watched.folder / name)
            there[name] = there.pop(known)
        elif action == "rest":
            time.sleep(chance.choice([0.0, 0.02, 0.15]))
        ever |= set(there)
    expected = {path: "waiting" if end == len(volume_bytes) else "arriving" for path, end in there.items()}

    def is_so():
        states = watched.states()
        gone = {path for path, state in states.items() if state == "gone"}
        return {path: states[path] for path in states.keys() - gone} == expected

    watched.wait(is_so, lambda: f"expected {expected}, found {watched.states()}")
    identities = watched.ledger.known()
    for path, state in expected.items():
        assert state == "arriving" or identities[path][0] == Identity.of((watched.folder / path).stat())
    assert identities.keys() <= ever


def _moved(path, old, new):
    return new + path[len(old) :] if path == old or path.startswith(old + "/") else path


def test_it_stops_at_once_and_leaves_no_thread(watched, no_thread_is_left):
    watched.start()
    time.sleep(0.1)
    watched.end()

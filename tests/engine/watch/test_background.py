"""What is done for a tomogram once its labels are there."""

from __future__ import annotations

import errno
import os
import sys
import threading

import numpy as np
import pytest
from scipy import ndimage

from tomoscribe.engine.errors import OutputError
from tomoscribe.engine.result import SlicePreview
from tomoscribe.engine.segmentation import Segmenter
from tomoscribe.engine.tomogram import open_tomogram
from tomoscribe.engine.watch import background
from tomoscribe.engine.watch.background import NO_COMMAND, Background
from tomoscribe.engine.watch.claim import content_of
from tomoscribe.engine.watch.entry import State
from tomoscribe.engine.watch.ledger import Ledger
from tomoscribe.engine.watch.owner import Owner
from tomoscribe.engine.watch.pictures import Pictures
from tomoscribe.engine.watch.settings import WatchSettings

US, OTHER, DEAD = Owner.current(), Owner("elsewhere", 1, 1), Owner(Owner.current().host, os.getpid(), 1)


class Case:
    """A ledger with finished entries, and what is done about them."""

    def __init__(self, base, segmenter, write_volume, on_done=()):
        self.settings = WatchSettings(base / "session", base / "output", on_done=on_done)
        self.ledger = Ledger(self.settings.places.ledger)
        self.class_map = segmenter.bundle.specification.class_map
        self.stop = threading.Event()
        self.now = 1000.0
        self._segmenter, self._write_volume = segmenter, write_volume
        self.background = Background(self.settings, self.ledger, US, self.class_map, clock=lambda: self.now)

    def finish(self, name="a.mrc", **more):
        path = self._write_volume(self.settings.folder / name, 1, **more)
        result = self._segmenter.segment(path, self.settings.output, overwrite=True)
        self.ledger.notice(name, content_of(path), State.WAITING, 900.0)
        entry = self.ledger.claim(OTHER, 30.0, 900.0)
        self.ledger.finish(
            entry.number,
            OTHER,
            now=950.0,
            seconds=1.0,
            shape=result.geometry.shape,
            voxel_size=result.geometry.voxel_size,
            model=result.model,
            backend=result.backend,
            counts=result.counts,
            outputs={"labels": result.labels.name, "sidecar": result.sidecar.name},
            warnings=(),
        )
        return self.ledger.get(entry.number)

    def run(self):
        """Run until `stop`, in a thread that is returned."""
        thread = threading.Thread(target=self.background.run, args=(self.stop,))
        thread.start()
        return thread

    def run_until(self, condition, wait_for):
        thread = self.run()
        wait_for(condition)
        self.stop.set()
        thread.join()

    def entry(self, name="a.mrc"):
        return self.ledger.find(name)


@pytest.fixture(scope="module")
def segmenter(tiny_bundle):
    with Segmenter(tiny_bundle, backend="onnxruntime", precision="fp32") as segmenter:
        yield segmenter


@pytest.fixture
def make(tmp_path, segmenter, write_volume, monkeypatch):
    monkeypatch.setattr(background, "_LOOK", 0.005)
    cases = []

    def make(**more):
        cases.append(Case(tmp_path, segmenter, write_volume, **more))
        return cases[-1]

    yield make
    for case in cases:
        case.stop.set()
        case.ledger.close()


def told(tmp_path):
    """A command that takes down for which tomogram it runs, and a function that returns these."""
    path = tmp_path / "told"
    script = f"import os; print(os.path.basename(os.environ['TOMOSCRIBE_TOMOGRAM']), file=open({str(path)!r}, 'a'))"
    return (sys.executable, "-c", script), lambda: path.read_text().split() if path.exists() else []


def test_the_command_runs_once_and_objects_are_counted(make, tmp_path, wait_for):
    command, ran = told(tmp_path)
    case = make(on_done=command)
    entry = case.finish()
    case.run_until(lambda: case.entry().objects is not None, wait_for)
    assert ran() == ["a.mrc"]
    assert case.entry().hook.startswith("exit 0")
    with open_tomogram(case.settings.output / entry.outputs["labels"]) as volume:
        labels = np.empty(volume.shape, np.int8)
        volume.read_slices(0, labels)
    expected = {}
    for label_class in case.class_map.classes:
        objects, count = ndimage.label(labels == label_class.number, np.ones((3, 3, 3)))
        expected[label_class.name] = int(np.count_nonzero(np.bincount(objects.ravel(), minlength=count + 1)[1:] >= 27))
    assert dict(case.entry().objects) == expected
    assert any(expected.values())


def test_a_later_command_is_not_for_what_was_finished_without_one(make, wait_for):
    case = make()
    case.finish()
    case.run_until(lambda: case.entry().objects is not None, wait_for)
    assert case.entry().hook == NO_COMMAND


def test_commands_come_before_objects(make, tmp_path, wait_for, monkeypatch):
    command, ran = told(tmp_path)
    case = make(on_done=command)
    for name in ("a.mrc", "b.mrc"):
        case.finish(name)
    seen = []
    monkeypatch.setattr(
        background, "count_objects", lambda *_: seen.append(len(ran())) or {"dark matter": 1, "light": 2}
    )
    case.run_until(lambda: all(case.entry(name).objects for name in ("a.mrc", "b.mrc")), wait_for)
    assert seen == [2, 2]


def test_what_another_watcher_does_is_left_to_it_while_it_lives(make, tmp_path, wait_for):
    command, ran = told(tmp_path)
    case = make(on_done=command)
    others, dead, _ = (case.finish(f"{name}.mrc") for name in ("others", "dead", "ours"))
    assert case.ledger.tend(others.number, OTHER, 60.0, case.now)
    assert case.ledger.tend(dead.number, DEAD, 60.0, case.now)
    case.run_until(lambda: case.entry("ours.mrc").objects is not None, wait_for)
    assert sorted(ran()) == ["dead.mrc", "ours.mrc"]
    assert case.entry("others.mrc").hook is None


def test_what_another_watcher_has_just_done_is_not_done_again(make, tmp_path, monkeypatch, wait_for):
    command, ran = told(tmp_path)
    case = make(on_done=command)
    entry = case.finish()
    unhooked = case.ledger.unhooked
    # The list is of a moment before.
    monkeypatch.setattr(case.ledger, "unhooked", lambda: [entry] if not unhooked() else [])
    case.ledger.hook_ended(entry.number, "exit 0 in 1.0 s")
    case.run_until(lambda: case.entry().objects is not None, wait_for)
    assert ran() == []


def test_a_command_that_stop_ends_runs_again_later(make, tmp_path, wait_for):
    began = tmp_path / "began"
    case = make(on_done=(sys.executable, "-c", f"open({str(began)!r}, 'w'); import time; time.sleep(600)"))
    case.finish()
    thread = case.run()
    wait_for(began.exists)
    case.stop.set()
    thread.join()
    assert case.entry().hook is None


def test_labels_that_cannot_be_read_have_no_objects(make, wait_for, caplog):
    case = make()
    entry = case.finish()
    (case.settings.output / entry.outputs["labels"]).unlink()
    case.run_until(lambda: case.entry().objects is not None, wait_for)
    assert case.entry().objects == {}
    assert "cannot be counted" in caplog.text


def test_counting_ends_when_the_watcher_does(make, monkeypatch):
    case = make()
    case.finish()

    def count(labels, class_map):
        case.stop.set()
        labels.read_slices(0, np.empty((1, *labels.shape[1:]), labels.dtype))

    monkeypatch.setattr(background, "count_objects", count)
    case.run().join()
    assert case.entry().objects is None


def test_counts_of_content_that_is_no_more_are_not_kept(make, monkeypatch, wait_for):
    case = make()
    case.finish()

    def count(labels, class_map):
        monkeypatch.undo()
        case.finish(shape=(14, 64, 64))
        return {"dark matter": -1, "light": -1}

    monkeypatch.setattr(background, "count_objects", count)
    case.run_until(lambda: case.entry().objects is not None, wait_for)
    assert min(case.entry().objects.values()) >= 0


def test_a_full_disk_is_no_answer(make, monkeypatch):
    case = make()
    case.finish()

    def thumbnail(*_, **__):
        case.stop.set()
        error = OutputError("no space")
        error.errno = errno.ENOSPC
        raise error

    monkeypatch.setattr(Pictures, "thumbnail", thumbnail)
    monkeypatch.setattr(background, "_lower_priority", lambda: None)  # this is the thread of the tests
    with pytest.raises(OutputError):
        case.background.run(case.stop)
    assert case.entry().objects is None


def test_there_is_a_thumbnail(make, wait_for):
    case = make()
    entry = case.finish()
    pictures = Pictures(case.settings.places.pictures, case.class_map)
    slice_ = np.zeros((64, 64), np.uint8)
    pictures.save_preview(entry, SlicePreview(6, slice_.astype(np.float32), slice_, 0.0, 1.0))
    pictures.thumbnail(entry, make=False).unlink()
    case.run_until(lambda: case.entry().objects is not None, wait_for)
    assert pictures.thumbnail(entry, make=False) is not None


def test_its_thread_steps_back(make, monkeypatch, wait_for):
    case = make()
    case.finish()
    priorities = []
    monkeypatch.setattr(
        background,
        "count_objects",
        lambda *_: priorities.append(os.getpriority(os.PRIO_PROCESS, 0)) or {"dark matter": 0, "light": 0},
    )
    case.run_until(lambda: case.entry().objects is not None, wait_for)
    assert priorities == [19]

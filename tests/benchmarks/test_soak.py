"""The soak: files as AreTomo3 writes them, faults, and what is made of how they came out. The run itself is no test."""

from __future__ import annotations

import os
import threading
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tomoscribe.engine import open_tomogram
from tomoscribe.engine.errors import TomogramFormatError
from tomoscribe.engine.watch.arrival import promised_size
from tomoscribe.engine.watch.entry import Identity, State
from tomoscribe.engine.watch.ledger import Ledger
from tomoscribe.engine.watch.naming import stack_reason
from tomoscribe.engine.watch.owner import Owner

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    """Import a script as it imports others: from its own folder."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return import_module


@pytest.fixture
def feeder(script, tmp_path):
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        folder = tmp_path / "folder"
        folder.mkdir()
        made = script("soak_files").Feeder(folder, ledger, threading.Event(), pause=0.0)
        yield made
        made.stop.set()
        made.join()


def test_a_tomogram_is_written_slice_by_slice_and_whole_in_the_end(script, tmp_path, monkeypatch):
    files, path, sizes = script("soak_files"), tmp_path / "a_Vol.mrc", []
    values = files.make_volume(np.random.default_rng(1))
    monkeypatch.setattr(files.time, "sleep", lambda seconds: sizes.append(path.stat().st_size))
    files.write_as_aretomo3(path, values, 0.1)
    section = values[0].nbytes
    assert np.diff(sizes).tolist() == [section] * (len(values) - 1)
    assert sizes[-1] == path.stat().st_size == promised_size(path)
    with open_tomogram(path) as tomogram:
        read = np.empty(tomogram.shape, np.float32)
        tomogram.read_slices(0, read)
        assert tomogram.warnings == ()
    np.testing.assert_array_equal(read, values)
    assert stack_reason(path) is None
    files.write_as_aretomo3(path, values, 0.0, sections=3)
    with pytest.raises(TomogramFormatError, match="truncated"):
        open_tomogram(path)


def note_all(feeder, state=State.WAITING):
    """See the files as a watcher would."""
    for file in feeder.files:
        path = feeder.folder / file.path
        if file.expected and path.exists():
            feeder.ledger.notice(file.path, Identity.of(path.stat()), state, 0.0, "no reason")


def finish(feeder, file, *, written=0.0, seconds=1.0, attempts=1):
    owner = Owner.current()
    for _ in range(attempts):
        entry = feeder.ledger.claim(owner, -1.0, written)
    assert entry.path == file.path
    feeder.ledger.previewed(entry.number, owner, written + 0.5)
    labelled = {"shape": (8, 64, 64), "voxel_size": (15.0,) * 3, "model": "m", "backend": "b", "counts": {}}
    outputs = {"labels": f"{Path(file.path).name}.labels"}
    finished = {"now": written + 2.0, "seconds": seconds, "outputs": outputs, "warnings": ()}
    assert feeder.ledger.finish(entry.number, owner, **labelled, **finished)


def test_what_has_not_come_out_as_it_should_is_told(script, feeder):
    soak = script("soak")
    for kind in ("healthy", "truncated", "nonsense"):
        getattr(feeder, kind)()
    healthy, truncated, nonsense = feeder.files
    assert soak.unexpected(feeder.files, feeder.ledger) == [healthy, truncated, nonsense]
    note_all(feeder)
    assert soak.unexpected(feeder.files, feeder.ledger) == [healthy, truncated, nonsense]
    for file, state in ((truncated, State.ARRIVING), (nonsense, State.QUARANTINED)):
        feeder.ledger.gone(file.path, 0.0)
        feeder.ledger.notice(file.path, Identity(1, 2, 3), state, 0.0, "so it is")
    assert soak.unexpected(feeder.files, feeder.ledger) == [healthy]
    assert not soak.is_settled(feeder.files, feeder.ledger)
    finish(feeder, healthy)
    assert soak.is_settled(feeder.files, feeder.ledger)
    feeder.ledger.notice("another.mrc", Identity(1, 2, 3), State.WAITING, 0.0)
    assert not soak.is_settled(feeder.files, feeder.ledger)


def test_halves_and_tilt_series_beside_a_tomogram_must_not_be_noticed(script, feeder):
    soak = script("soak")
    for _ in range(10):
        feeder.healthy()
    beside = [file for file in feeder.files if file.kind == "left out"]
    assert len(beside) == 4
    assert not {file.path for file in beside} & {file.path for file in soak.unexpected(feeder.files, feeder.ledger)}
    feeder.ledger.notice(beside[0].path, Identity(1, 2, 3), State.WAITING, 0.0)
    assert beside[0] in soak.unexpected(feeder.files, feeder.ledger)


def test_latencies_are_from_the_last_byte_without_what_the_full_disk_held_up(script, feeder):
    for written in (100.0, 200.0, 300.0):
        feeder.healthy()
        file = feeder.files[-1]
        file.written = written
        note_all(feeder)
        finish(feeder, file, written=written, seconds=1.25)
    feeder.nonsense()
    seconds = script("soak").latencies(feeder.files, feeder.ledger, [(150.0, 180.0)], 25.0)
    assert seconds == {"written": [100.0, 300.0], "preview": [0.5] * 2, "labels": [2.0] * 2, "segment": [1.25] * 2}


def test_label_volumes_that_are_not_whole_and_temporary_files_are_told(script, feeder, tmp_path):
    soak, output = script("soak"), tmp_path / "output"
    output.mkdir()
    feeder.healthy()
    file = feeder.files[0]
    note_all(feeder)
    assert soak.incomplete_outputs(feeder.files, feeder.ledger, output) == []
    finish(feeder, file)
    (wrong,) = soak.incomplete_outputs(feeder.files, feeder.ledger, output)
    assert "no such file" in wrong
    labels = output / f"{Path(file.path).name}.labels"
    header = bytearray((feeder.folder / file.path).read_bytes()[:1024])
    header[12:16] = header[92:96] = bytes(4)  # mode 0, no extended header
    labels.write_bytes(bytes(header) + bytes(8 * 64 * 64))
    assert soak.incomplete_outputs(feeder.files, feeder.ledger, output) == []
    (output / ".a__labels.mrc.1.part").touch()
    os.truncate(labels, 5000)
    assert len(soak.incomplete_outputs(feeder.files, feeder.ledger, output)) == 2


def test_the_ends_are_compared_without_the_beginning(script):
    assert script("soak").end_over_start([1, 1, 10, 10, 99, 99, 99, 99, 20, 20]) == 2.0


def test_a_plot_is_drawn(script, tmp_path):
    process, soak = script("soak_process"), script("soak")
    seen = SimpleNamespace(
        samples=[process.Sample(1e9 + t, 10**8, 30, 9) for t in range(5)],
        waiting=[0, 1, 2, 1, 0],
        full=[(1e9, 1e9 + 2)],
    )
    seconds = {"written": [1e9 + 3], "labels": [1.0], "preview": [0.5], "segment": [0.4]}
    soak.draw(seen, seconds, tmp_path / "soak.png")
    assert (tmp_path / "soak.png").read_bytes().startswith(b"\x89PNG")


def test_where_no_disk_can_be_mounted_it_is_said_why(script, tmp_path):
    with script("soak_process").small_disk(tmp_path / "absent", 10**6) as refused:
        assert "no small disk could be mounted" in refused

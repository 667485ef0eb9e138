"""One tomogram after the other, and what becomes of those that cannot be labelled."""

from __future__ import annotations

import errno
import logging
import os
import threading

import pytest

from tomoscribe.engine.errors import BackendError, OutputError
from tomoscribe.engine.segmentation import Segmenter
from tomoscribe.engine.watch.claim import content_of
from tomoscribe.engine.watch.entry import State
from tomoscribe.engine.watch.failures import Blocked
from tomoscribe.engine.watch.ledger import Ledger
from tomoscribe.engine.watch.ledger_file import LedgerError
from tomoscribe.engine.watch.owner import Owner
from tomoscribe.engine.watch.settings import WatchSettings
from tomoscribe.engine.watch.worker import Worker

US, OTHER, DEAD = Owner.current(), Owner("elsewhere", 1, 1), Owner(Owner.current().host, os.getpid(), 1)


class Disturbed:
    """A segmenter, before whose labellings something happens; counts what is asked of all of its kind."""

    def __init__(self, segmenter, calls):
        self._segmenter = segmenter
        self._calls = calls
        self.bundle, self.backend = segmenter.bundle, segmenter.backend

    def segment(self, *arguments, **named):
        self._calls.append("segment")
        self.disturb()
        return self._segmenter.segment(*arguments, **named)

    def preview(self, *arguments, **named):
        self._calls.append("preview")
        return self._segmenter.preview(*arguments, **named)

    def disturb(self):
        """Nothing comes between."""

    def close(self):
        self._calls.append("close")


class Case:
    """A folder, a ledger and a worker that can be disturbed."""

    def __init__(self, base, segmenter, write_volume, **more):
        self.settings = WatchSettings(base / "session", base / "output", **({"keep_free": 0} | more))
        self.settings.folder.mkdir()
        self.ledger = Ledger(self.settings.places.ledger)
        self.calls, self.disturbances = [], []
        self.now = 1000.0
        self.stop = threading.Event()
        self._segmenter, self._write_volume = segmenter, write_volume
        self.worker = Worker(self.settings, self.ledger, US, self._make, lease=30.0, clock=lambda: self.now)

    def _make(self):
        self.calls.append("load")
        disturbed = Disturbed(self._segmenter, self.calls)
        disturbed.disturb = lambda: self.disturbances and self.disturbances.pop(0)()
        return disturbed

    def land(self, name="a.mrc", seed=1, **more):
        path = self._write_volume(self.settings.folder / name, seed, **more)
        self.ledger.notice(name, content_of(path), State.WAITING, 900.0)
        return path

    def run_one(self):
        return self.worker.run_one(self.stop)

    def entry(self, name="a.mrc"):
        return self.ledger.find(name)

    @property
    def outputs(self):
        return sorted(
            str(path.relative_to(self.settings.output))
            for path in self.settings.output.rglob("*")
            if path.is_file() and ".tomoscribe" not in path.parts
        )


@pytest.fixture(scope="module")
def segmenter(tiny_bundle):
    with Segmenter(tiny_bundle, backend="onnxruntime", precision="fp32") as segmenter:
        yield segmenter


@pytest.fixture
def make(tmp_path, segmenter, write_volume):
    cases = []

    def make(**more):
        cases.append(Case(tmp_path, segmenter, write_volume, **more))
        return cases[-1]

    yield make
    for case in cases:
        case.worker.close()
        case.ledger.close()


@pytest.fixture
def case(make):
    return make()


def raising(error):
    def disturb():
        raise error

    return disturb


def no_space():
    error = OutputError("a__labels.mrc: cannot be written")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    return error


def test_a_tomogram_is_labelled_and_the_ledger_knows_all_of_it(case, segmenter, tmp_path):
    path = case.land("sub/a.mrc")
    expected = segmenter.segment(path, tmp_path / "expected")
    assert case.run_one()
    assert case.outputs == [f"sub/a__{end}" for end in ("DarkMatter.mrc", "Light.mrc", "labels.json", "labels.mrc")]
    for name in case.outputs:
        assert (case.settings.output / name).read_bytes() == (tmp_path / "expected" / name[4:]).read_bytes()
    entry = case.entry("sub/a.mrc")
    assert entry.state is State.DONE
    assert (entry.shape, entry.voxel_size) == ((12, 64, 64), (10.0, 10.0, 10.0))
    assert entry.counts == expected.counts
    assert entry.outputs == {
        "labels": "sub/a__labels.mrc",
        "sidecar": "sub/a__labels.json",
        "dark matter": "sub/a__DarkMatter.mrc",
        "light": "sub/a__Light.mrc",
    }
    assert (entry.model, entry.backend) == ("tiny", segmenter.backend)
    assert (entry.previewed, entry.finished) == (1000.0, 1000.0)
    assert entry.seconds > 0
    assert case.calls == ["load", "preview", "segment"]
    assert not case.run_one()


def test_options_are_those_of_the_settings(make):
    case = make(classes=("light",), voxel_size=12.0, invert=True)
    case.land()
    assert case.run_one()
    assert case.outputs == ["a__Light.mrc", "a__labels.json", "a__labels.mrc"]
    assert case.entry().voxel_size == (12.0, 12.0, 12.0)
    assert set(case.entry().counts) == {"light"}


def test_values_that_are_not_finite_put_a_tomogram_aside(case):
    case.land(nan=True)
    case.land("b.mrc", modified=1)
    assert case.run_one()
    assert case.run_one()
    assert case.entry().state is State.QUARANTINED
    assert case.entry().reason.startswith("slice z = 11")
    assert case.entry("b.mrc").state is State.DONE
    assert not any(name.startswith(("a", ".a")) for name in case.outputs)


def test_a_tomogram_that_went_before_it_was_begun(case):
    case.land().unlink()
    assert case.run_one()
    assert case.entry().state is State.GONE


def renamed_over(path, write_volume):
    write_volume(path.with_name("other"), 2).replace(path)


@pytest.mark.parametrize(
    ("change", "state"),
    [
        (lambda path, _: path.unlink(), State.GONE),
        (lambda path, _: os.truncate(path, 50_000), State.ARRIVING),
        (lambda path, _: os.utime(path), State.ARRIVING),
        (renamed_over, State.ARRIVING),
    ],
)
@pytest.mark.parametrize("when", ["before", "within"])
def test_a_tomogram_that_changes_is_begun_anew_and_leaves_nothing(case, write_volume, change, state, when):
    path = case.land(modified=500)
    if when == "before":
        change(path, write_volume)
    else:
        case.disturbances.append(lambda: change(path, write_volume))
    assert case.run_one()
    entry = case.entry()
    assert (entry.state, entry.owner) == (state, None)
    assert state is State.GONE or entry.identity == content_of(path)
    assert case.outputs == []


def test_a_disk_that_is_full_is_waited_for(case):
    case.land()
    case.disturbances.append(raising(no_space()))
    with pytest.raises(Blocked, match="cannot be written"):
        case.run_one()
    entry = case.entry()
    assert (entry.state, entry.attempts, entry.owner) == (State.WAITING, 0, None)
    assert case.run_one()
    assert case.entry().state is State.DONE
    assert case.calls.count("load") == 1


def test_a_tomogram_waits_for_the_space_that_its_outputs_take(make):
    case = make(keep_free=2**62)
    case.land()
    with pytest.raises(Blocked, match="--keep-free"):
        case.run_one()
    assert case.entry().state is State.WAITING
    assert case.outputs == []
    assert case.calls == ["load"]


def test_an_output_whose_name_is_taken_by_a_folder_is_the_tomograms_own_trouble(case):
    (case.settings.output / "a__Light.mrc" / "x").mkdir(parents=True)
    case.land()
    assert case.run_one()
    assert case.entry().state is State.QUARANTINED
    assert "Is a directory" in case.entry().reason
    assert case.outputs == ["a__DarkMatter.mrc"]


def test_a_backend_that_fails_is_loaded_anew_once(case):
    case.land()
    case.disturbances.append(raising(BackendError("it broke")))
    assert case.run_one()
    assert (case.entry().state, case.entry().attempts) == (State.WAITING, 0)
    assert case.run_one()
    assert case.entry().state is State.DONE
    assert case.calls.count("load") == 2
    assert case.calls.count("close") == 1


def test_a_tomogram_that_a_backend_fails_with_twice_is_put_aside(case):
    for name in ("a.mrc", "b.mrc"):
        case.land(name)
    case.disturbances += [raising(BackendError("it broke"))] * 2
    while case.run_one():
        pass
    assert sorted(case.entry(name).state for name in ("a.mrc", "b.mrc")) == [State.DONE, State.QUARANTINED]


def test_a_backend_that_fails_with_everything_ends_the_watcher(case):
    for number in range(4):
        case.land(f"{number}.mrc")
    case.disturbances += [raising(BackendError("it broke"))] * 8
    for _ in range(5):
        assert case.run_one()
    with pytest.raises(BackendError):
        case.run_one()
    states = sorted(case.entry(f"{number}.mrc").state for number in range(4))
    assert states == [State.QUARANTINED] * 2 + [State.WAITING] * 2


def test_a_backend_that_also_succeeds_is_not_given_up(case):
    fails = [raising(BackendError("it broke"))] * 2
    for number, disturbances in enumerate((fails, fails, [], fails)):
        case.land(f"{number}.mrc")
        case.disturbances += disturbances
        while case.run_one():
            pass
    assert [case.entry(f"{number}.mrc").state for number in range(4)] == [
        State.QUARANTINED,
        State.QUARANTINED,
        State.DONE,
        State.QUARANTINED,
    ]


@pytest.mark.parametrize("error", [MemoryError(), KeyError("nobody foresaw this")])
def test_whatever_goes_wrong_with_one_tomogram_does_not_stop_the_others(case, error, caplog):
    case.land()
    case.disturbances.append(raising(error))
    with caplog.at_level(logging.ERROR):
        assert case.run_one()
    assert case.entry().state is State.QUARANTINED
    assert caplog.records[0].exc_info[1] is error
    case.land("b.mrc")
    assert case.run_one()
    assert case.entry("b.mrc").state is State.DONE


def test_a_ledger_that_fails_is_not_the_tomograms_fault(case):
    case.land()
    case.disturbances.append(raising(LedgerError("damaged")))
    with pytest.raises(LedgerError):
        case.run_one()
    assert case.entry().state is not State.QUARANTINED


@pytest.mark.parametrize("how", ["stop", "interrupt"])
def test_what_is_ended_is_given_back(case, how):
    case.land()
    case.disturbances.append(case.stop.set if how == "stop" else raising(KeyboardInterrupt()))
    if how == "stop":
        assert case.run_one()
    else:
        with pytest.raises(KeyboardInterrupt):
            case.run_one()
    entry = case.entry()
    assert (entry.state, entry.attempts, entry.owner) == (State.WAITING, 0, None)
    assert case.outputs == []


def test_a_lease_that_is_lost_leaves_the_entry_to_the_other(case):
    case.land()

    def lose():
        case.now += 60
        assert case.ledger.claim(OTHER, 30.0, case.now) is not None

    case.disturbances.append(lose)
    assert case.run_one()
    assert (case.entry().state, case.entry().owner) == (State.RUNNING, str(OTHER))
    assert case.outputs == []


def test_a_lease_that_is_lost_at_the_very_end_leaves_the_entry_to_the_other(case, monkeypatch, caplog):
    case.land()

    def lose(*_):
        case.now += 60
        assert case.ledger.claim(OTHER, 30.0, case.now) is not None

    monkeypatch.setattr("tomoscribe.engine.watch.worker._bring_names_to_disk", lose)
    assert case.run_one()
    assert (case.entry().state, case.entry().owner) == (State.RUNNING, str(OTHER))
    assert "another watcher's by now" in caplog.text


def test_the_pulse_tells_how_far_it_is_and_renews_the_lease(case, monkeypatch):
    case.worker.pulse()  # nothing to tell
    case.land()
    moments = iter([0.0, 1.0, 6.0, 6.0])
    seen = []

    def pulse():
        monkeypatch.setattr("tomoscribe.engine.watch.worker.time.monotonic", lambda: next(moments))
        for _ in range(2):
            case.now += 10
            case.worker.pulse()
            seen.append(case.entry().lease)
        monkeypatch.undo()

    case.disturbances.append(pulse)
    monkeypatch.setattr("tomoscribe.engine.watch.worker.time.monotonic", lambda: next(moments))
    assert case.run_one()
    assert seen == [1030.0, 1050.0]
    assert case.entry().state is State.DONE


def test_what_a_dead_watcher_finished_is_not_done_again(case, segmenter):
    path = case.land()
    segmenter.segment(path, case.settings.output)
    (case.settings.output / ".a__labels.mrc.0123abcd.part").touch()
    modified = {name: (case.settings.output / name).stat().st_mtime_ns for name in case.outputs if name[0] != "."}
    case.ledger.claim(DEAD, 30.0, 950.0)
    assert case.run_one()
    entry = case.entry()
    assert (entry.state, entry.attempts, entry.seconds, entry.previewed) == (State.DONE, 2, None, 1000.0)
    assert {name: (case.settings.output / name).stat().st_mtime_ns for name in case.outputs} == modified
    assert case.calls == ["load"]


def test_a_picture_that_is_there_is_not_made_again(case):
    case.land()
    case.disturbances.append(case.stop.set)
    assert case.run_one()
    case.stop.clear()
    assert case.run_one()
    assert case.calls == ["load", "preview", "segment", "segment"]


def test_what_kills_the_watcher_again_and_again_is_put_aside(case):
    case.land()
    for _ in range(20):
        case.ledger.claim(DEAD, 30.0, 950.0)
    assert case.run_one()
    assert case.entry().state is State.QUARANTINED
    assert "each time the watcher was killed or crashed" in case.entry().reason
    assert case.calls == ["load"]

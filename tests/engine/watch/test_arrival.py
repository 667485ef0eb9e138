from __future__ import annotations

import bz2
import gzip

import mrcfile
import numpy as np
import pytest
import tifffile
from hypothesis import assume, given
from hypothesis import strategies as st

from tomoscribe.engine.watch.arrival import Arrival, promised_size
from tomoscribe.engine.watch.entry import Identity, State

SECTIONS, SECTION = 12, 4 * 5 * 6
COMPLETE = 1024 + SECTIONS * SECTION


@pytest.fixture(scope="module")
def volume(tmp_path_factory):
    """A complete MRC file; what an arrival is told of its size need not be so, as only the header is read."""
    path = tmp_path_factory.mktemp("arrival") / "a.mrc"
    with mrcfile.new(path) as file:
        file.set_data(np.zeros((SECTIONS, 5, 6), np.float32))
    return path


def identity(size, time, inode=1):
    return Identity(size, round(time * 1e9), inode)


def follow(arrival, changes, until, *, notified=True, clock_offset=0.0):
    """Play changes, ``(time, size)`` in order, to an arrival, and give ``(time, state)`` of every look at it.

    It is looked at when it asks for it and, where somebody tells of changes, a little after each.
    """
    looks = []
    now = changes[0][0] + 0.02
    while now < until:
        time, size = [change for change in changes if change[0] <= now][-1]
        verdict = arrival.observe(identity(size, time + clock_offset), now)
        looks.append((now, verdict.state))
        if verdict.state is not State.ARRIVING:
            return looks
        later = [time + 0.02 for time, _ in changes if time + 0.02 > now]
        now = max(min([arrival.next_look(now), *(later[:1] if notified else [])]), now + 1e-6)
    return looks


growth = st.lists(
    st.tuples(st.floats(1e-3, 400), st.integers(1, SECTION)), min_size=1, max_size=30
)  # pauses in seconds and bytes


@given(growth, st.booleans(), st.sampled_from([0.0, -3600.0, 3600.0]))
def test_a_file_that_grows_is_complete_after_its_last_change_and_never_before(volume, steps, notified, offset):
    time, changes, missing = 1e9, [(1e9, 0)], COMPLETE
    for number, (pause, size) in enumerate(steps):
        time += pause
        missing -= missing if number == len(steps) - 1 else min(size, missing - 1)
        changes.append((time, COMPLETE - missing))
    looks = follow(Arrival(volume), changes, time + 1000, notified=notified, clock_offset=offset)
    assert looks[-1][1] is State.WAITING
    assert all(state is State.ARRIVING for _, state in looks[:-1])
    assert looks[-1][0] >= time
    # However long the pauses were; a look may be late by the time between two looks.
    assert looks[-1][0] <= time + 60 + 2


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=30), st.floats(0.3, 20))
def test_a_file_of_its_final_size_is_complete_once_it_pauses_twice_as_long_as_before(volume, shares, first):
    """As one that is allocated at once and then filled, or one whose header is written again at the end."""
    time, longest, changes = 1e9, first, [(1e9, 0), (1e9 + first, COMPLETE)]
    time += first
    for share in shares:
        pause = 0.01 + share * 1.9 * longest
        assume(pause < 50)
        longest = max(longest, pause)
        time += pause
        changes.append((time, COMPLETE))
    looks = follow(Arrival(volume), changes, time + 1000)
    assert looks[-1][1] is State.WAITING
    assert looks[-1][0] >= time
    assert looks[-1][0] <= time + max(0.3, min(2.2 * longest + 0.1, 61))


def test_a_file_that_lay_there_is_complete_at_once(volume):
    assert Arrival(volume).observe(identity(COMPLETE, 1e9), 1e9 + 0.3).state is State.WAITING
    assert Arrival(volume).observe(identity(COMPLETE, 1e9), 1e9 + 0.2).state is State.ARRIVING
    assert Arrival(volume).observe(identity(COMPLETE + SECTION - 1, 1e9), 1e9 + 0.3).state is State.WAITING
    assert Arrival(volume).observe(identity(COMPLETE, 2e9), 1e9).state is State.ARRIVING


def test_the_least_pause_is_waited_for_and_asked_for(volume):
    arrival = Arrival(volume)
    assert arrival.observe(identity(COMPLETE, 1e9), 1e9).state is State.ARRIVING
    assert arrival.next_look(1e9) == pytest.approx(1e9 + 0.25)
    assert arrival.observe(identity(COMPLETE, 1e9), 1e9 + 0.26).state is State.WAITING


def test_another_file_under_the_same_name_begins_anew(volume):
    arrival = Arrival(volume)
    arrival.observe(identity(2000, 1e9), 1e9)
    arrival.observe(identity(2200, 1e9 + 20), 1e9 + 20)
    arrival.observe(identity(COMPLETE, 1e9 + 20.1), 1e9 + 20.1)
    assert arrival.observe(identity(COMPLETE, 1e9 + 20.1), 1e9 + 50).state is State.ARRIVING
    assert arrival.observe(identity(COMPLETE, 1e9 + 40, inode=2), 1e9 + 50).state is State.WAITING


def test_a_clock_that_is_set_back_does_not_hold_a_file_up(volume):
    arrival = Arrival(volume)
    arrival.observe(identity(COMPLETE, 1e9), 1e9)
    assert arrival.observe(identity(COMPLETE, 1e9), 1e9 - 3600).state is State.ARRIVING
    assert arrival.next_look(1e9 - 3600) < 1e9 - 3599
    assert arrival.observe(identity(COMPLETE, 1e9), 1e9 - 3599).state is State.WAITING


def test_a_file_that_stops_short_is_quarantined_after_ten_minutes(tmp_path, volume):
    path = tmp_path / "a.mrc"
    path.write_bytes(volume.read_bytes()[:-1])
    arrival = Arrival(path)
    verdict = arrival.observe(identity(COMPLETE - 1, 1e9), 1e9)
    assert verdict.state is State.ARRIVING
    assert verdict.reason is not None
    assert "0.0 of 0.0 MB" in verdict.reason
    assert arrival.next_look(1e9 + 300) <= 1e9 + 301
    assert arrival.observe(identity(COMPLETE - 1, 1e9), 1e9 + 599).state is State.ARRIVING
    verdict = arrival.observe(identity(COMPLETE - 1, 1e9), 1e9 + 601)
    assert verdict.state is State.QUARANTINED
    assert verdict.reason is not None
    assert verdict.reason.startswith(f"expected {COMPLETE} bytes from the header")
    assert "truncated" in verdict.reason
    assert "\n" not in verdict.reason
    # It goes on after all.
    path.write_bytes(volume.read_bytes())
    assert arrival.observe(identity(COMPLETE, 1e9 + 700), 1e9 + 700).state is State.ARRIVING
    assert arrival.observe(identity(COMPLETE, 1e9 + 700), 1e9 + 761).state is State.WAITING


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda data: data + bytes(SECTION), "does not fit"),
        (lambda data: bytes(2000), "neither"),
        (lambda data: data[:92] + b"\xff\xff\xff\xff" + data[96:], "extended header"),
        (lambda data: data[:12] + b"\x04" + data[13:], "mode 4"),
    ],
)
def test_a_header_at_odds_with_the_file_is_quarantined_once_it_is_left_alone(tmp_path, volume, change, word):
    path = tmp_path / "a.mrc"
    path.write_bytes(change(volume.read_bytes()))
    size = path.stat().st_size
    arrival = Arrival(path)
    assert arrival.observe(identity(size, 1e9 - 100), 1e9).state is State.ARRIVING
    assert arrival.observe(identity(size, 1e9 - 100), 1e9 + 1.9).state is State.ARRIVING
    verdict = arrival.observe(identity(size, 1e9 - 100), 1e9 + 2.1)
    assert verdict.state is State.QUARANTINED
    assert verdict.reason is not None
    assert word in verdict.reason
    assert str(path) not in verdict.reason
    # A program that writes the header last.
    path.write_bytes(volume.read_bytes())
    arrival.observe(identity(COMPLETE, 1e9 + 3), 1e9 + 3)
    assert arrival.observe(identity(COMPLETE, 1e9 + 3), 1e9 + 64).state is State.WAITING


def test_a_file_that_grows_for_ever_is_never_called_complete(volume):
    arrival, now = Arrival(volume), 1e9
    for step in range(1, 300):
        now += 1.0
        verdict = arrival.observe(identity(step * SECTION, now), now)
        assert verdict.state is State.ARRIVING
    assert verdict.reason is not None
    assert "promises" in verdict.reason


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("dtype", ["i1", "i2", "f4", "u2", "f2"])
@pytest.mark.parametrize("extended", [0, 132])
def test_a_complete_file_has_the_promised_size(tmp_path, order, dtype, extended):
    path = tmp_path / "a.mrc"
    with mrcfile.new(path) as file:
        file.set_data(np.zeros((3, 4, 5), order + dtype))
        file.set_extended_header(np.zeros(extended, "V1"))
    assert promised_size(path) == path.stat().st_size
    path.write_bytes(path.read_bytes()[:1024])
    assert promised_size(path) == 1024 + extended + 60 * np.dtype(dtype).itemsize


def test_where_the_format_promises_no_size_a_longer_pause_speaks(tmp_path, volume):
    data = volume.read_bytes()
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((9, 40, 50), np.uint16), photometric="minisblack")
    (tmp_path / "a.mrc.gz").write_bytes(gzip.compress(data))
    (tmp_path / "a.mrc.bz2").write_bytes(bz2.compress(data))
    (tmp_path / "a.hdf").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(9))
    for path in sorted(tmp_path.iterdir()):
        assert promised_size(path) is None
        arrival = Arrival(path)
        # Whatever the file's time says, which may be of another clock.
        assert arrival.observe(identity(9, 1e9 - 9), 1e9).state is State.ARRIVING
        assert arrival.observe(identity(9, 1e9 - 9), 1e9 + 1.9).state is State.ARRIVING
        assert arrival.next_look(1e9 + 1.9) == pytest.approx(1e9 + 2)
        assert arrival.observe(identity(9, 1e9 - 9), 1e9 + 2.1).state is State.WAITING


def test_a_file_without_a_header_yet_is_promised_one(tmp_path):
    path = tmp_path / "a.mrc"
    for content in (b"", bytes(1023)):
        path.write_bytes(content)
        assert promised_size(path) == 1024
        arrival = Arrival(path)
        assert arrival.observe(identity(len(content), 1e9), 1e9 + 500).state is State.ARRIVING
        assert arrival.observe(identity(len(content), 1e9), 1e9 + 1050).state is State.ARRIVING
        assert arrival.observe(identity(len(content), 1e9), 1e9 + 1101).state is State.QUARANTINED


def test_the_header_is_read_again_when_the_file_changes(tmp_path, volume):
    """Some programs append sections, and count them in the header."""
    path = tmp_path / "a.mrc"
    path.write_bytes(volume.read_bytes())
    arrival = Arrival(path)
    arrival.observe(identity(COMPLETE, 1e9), 1e9)
    with path.open("r+b") as file:
        file.seek(8)
        file.write((SECTIONS + 1).to_bytes(4, "little"))
    arrival.observe(identity(COMPLETE, 1e9 + 0.1), 1e9 + 0.1)
    assert arrival.observe(identity(COMPLETE, 1e9 + 0.1), 1e9 + 100).state is State.ARRIVING
    arrival.observe(identity(COMPLETE + SECTION, 1e9 + 101), 1e9 + 101)
    assert arrival.observe(identity(COMPLETE + SECTION, 1e9 + 101), 1e9 + 162).state is State.WAITING


def test_a_file_that_cannot_be_read_is_the_callers_business(tmp_path):
    with pytest.raises(FileNotFoundError):
        Arrival(tmp_path / "absent.mrc").observe(identity(10, 1e9), 1e9)

"""Several devices as one: the volume is split between them, and comes back in order."""

from __future__ import annotations

import threading
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor

import numpy as np
import pytest

from tomoscribe.engine.backends.contract import SlotLimits, SlotShape
from tomoscribe.engine.backends.device_group import DeviceGroup, count_devices, slots_to_fill
from tomoscribe.engine.cuda import CudaError, DeviceMemoryError
from tomoscribe.engine.errors import BackendError

SHAPE = SlotShape(2, 1, 10, 12, 3)


@pytest.fixture
def devices(fakes):
    """Make fake devices that work on one slot at a time, each so many seconds, until they are cancelled or closed."""
    made = []

    class Device(fakes.Backend):
        def __init__(self, seconds=0.0, **how):
            super().__init__(**how)
            self.seconds = seconds
            self.description = f"device that takes {seconds} s, FP16"
            self.worker = ThreadPoolExecutor(1)
            self.work = {}
            self.starts = []

        def submit(self, slot):
            self.work[id(slot)] = self.worker.submit(self._run, slot)

        def wait(self, slot):
            work = self.work.get(id(slot))
            if work is None:
                raise BackendError("fake: given up")
            try:
                work.result()
            except CancelledError as error:
                raise BackendError("fake: given up") from error

        def cancel(self):
            super().cancel()
            for work in list(self.work.values()):
                work.cancel()
            for work in list(self.work.values()):
                if not work.cancelled():
                    work.exception()
            self.work.clear()

        def close(self):
            super().close()
            self.worker.shutdown()

        def _run(self, slot):
            if self.cancelled.wait(self.seconds):
                raise BackendError("fake: given up")
            # Those of the fake do all at once, when they are waited for.
            super().submit(slot)
            super().wait(slot)

    def make(*seconds, **how):
        made.extend([Device(value, **how) for value in seconds])
        return made

    yield make
    for device in made:
        device.worker.shutdown()


@pytest.mark.parametrize("seconds", [(0.0, 0.004), (0.004, 0.0), (0.0, 0.0, 0.002)])
@pytest.mark.parametrize("depth", [1, 2, 7, 40])
@pytest.mark.parametrize("largest", [64, 8])
def test_devices_of_different_speed_give_what_one_gives(fakes, devices, no_thread_is_left, seconds, depth, largest):
    values = fakes.volume(depth=depth)
    plan = fakes.plan_for(values, largest)
    members = devices(*seconds)
    group = DeviceGroup(members)
    sink = fakes.Sink(values.shape)
    fakes.run(fakes.Tomogram(values), group, plan, [sink], slots=slots_to_fill(group))
    group.close()
    expected = fakes.reference(values, 1)
    np.testing.assert_array_equal(sink.labels, expected)
    np.testing.assert_array_equal(sink.scores, fakes.scores_of(expected))
    assert sink.starts == sorted(sink.starts)
    # Jobs are dealt out evenly, the first to the first device.
    jobs = -(-depth // 2) * len(plan.tiles)
    shares = [len(range(index, jobs, len(members))) for index in range(len(members))]
    assert [member.calls["submit"] for member in members] == shares


@pytest.mark.parametrize(("count", "shares"), [(1, [1, 0]), (2, [1, 1]), (5, [3, 2]), (6, [3, 3])])
def test_slots_are_dealt_in_turn(fakes, count, shares):
    members = [fakes.Backend(), fakes.Backend()]
    slots = DeviceGroup(members).allocate(SHAPE, count)
    assert len(slots) == count
    for index, (member, share) in enumerate(zip(members, shares, strict=True)):
        own = member.slots if share else []
        assert len(own) == share
        assert all(slot is other for slot, other in zip(slots[index::2], own, strict=True))
        assert member.calls["allocate"] == bool(share), "asked for no slot"


def test_slots_keep_every_device_busy_and_have_one_more_for_each(fakes):
    assert (count_devices(fakes.Backend()), slots_to_fill(fakes.Backend())) == (1, 3)
    group = DeviceGroup([fakes.Backend(), fakes.Backend()])
    assert (count_devices(group), group.streams, slots_to_fill(group)) == (2, 4, 6)


def test_a_slot_goes_to_the_device_that_it_is_of(fakes):
    members = [fakes.Backend(), fakes.Backend()]
    group = DeviceGroup(members)
    # The second time, a slot may lie where one of the other device lay.
    for _ in range(2):
        slots = group.allocate(SHAPE, 4)
        for slot in slots:
            slot.slices[:] = slot.mean[:] = slot.rstd[:] = slot.count = 1
            group.submit(slot)
        assert [[id(slot) for slot in member.flying] for member in members] == [
            [id(slot) for slot in slots[index::2]] for index in (0, 1)
        ]
        for slot in slots:
            group.wait(slot)


def test_cancelling_while_one_is_at_work_gives_all_up(fakes, devices, no_thread_is_left):
    members = devices(0.0, 60.0)
    group = DeviceGroup(members)
    slots = group.allocate(SHAPE, 4)
    for slot in slots:
        slot.slices[:] = slot.mean[:] = slot.rstd[:] = slot.count = 1
        group.submit(slot)
    group.wait(slots[0])
    failures = []

    def wait():
        try:
            group.wait(slots[1])
        except BackendError as error:
            failures.append(error)

    waiter = threading.Thread(target=wait)
    waiter.start()
    began = time.perf_counter()
    group.cancel()
    waiter.join()
    assert time.perf_counter() - began < 30
    assert len(failures) == 1
    assert [member.calls["cancel"] for member in members] == [1, 1]
    with pytest.raises(BackendError):
        group.wait(slots[3])
    group.close()


@pytest.mark.parametrize("broken", [0, 1])
def test_a_device_that_vanishes_ends_the_stream_on_all(fakes, broken):
    values = fakes.volume(depth=20)
    vanish = CudaError("cuEventSynchronize: CUDA's driver failed with CUDA_ERROR_DEVICE_UNAVAILABLE")
    members = [fakes.Backend(), fakes.Backend()]
    members[broken].trouble["wait"] = fakes.raises(vanish, at=2)
    sink = fakes.Sink(values.shape)
    group = DeviceGroup(members)
    with pytest.raises(CudaError, match="DEVICE_UNAVAILABLE"):
        fakes.run(fakes.Tomogram(values), group, fakes.plan_for(values), [sink], slots=slots_to_fill(group))
    assert [member.calls["cancel"] for member in members] == [1, 1]
    assert (sink.calls["commit"], sink.calls["abort"]) == (0, 1)
    assert 0 < sink.written < 20


def test_memory_that_one_device_lacks_is_lacking(fakes):
    lack = DeviceMemoryError("cuMemAlloc: CUDA's driver failed with CUDA_ERROR_OUT_OF_MEMORY")
    group = DeviceGroup([fakes.Backend(), fakes.Backend({"allocate": fakes.raises(lack)})])
    with pytest.raises(DeviceMemoryError, match="cuMemAlloc"):
        group.allocate(SHAPE, 4)
    assert len(group.allocate(SHAPE, 4)) == 4


def test_limits_are_what_suits_all(fakes):
    members = [fakes.Backend(), fakes.Backend()]
    members[0].limits = SlotLimits(100, 7, ("float32", "int8", "int16"))
    members[1].limits = SlotLimits(50, 9, ("int16", "float32", "uint8"))
    assert DeviceGroup(members).limits == SlotLimits(50, 7, ("float32", "int16"))


def test_the_name_is_that_of_all_and_the_description_ends_with_the_precision(devices):
    group = DeviceGroup(devices(0.0, 0.5))
    assert (group.name, group.devices) == ("fake", 2)
    assert group.description == "device that takes 0.0 s, FP16; device that takes 0.5 s, FP16"


def test_all_are_closed_even_if_one_fails(fakes):
    members = [fakes.Backend() for _ in range(3)]

    def fail():
        raise CudaError("cuCtxDestroy: broken")

    members[1].close = fail
    with pytest.raises(CudaError, match="broken"):
        DeviceGroup(members).close()
    assert [member.calls["close"] for member in members] == [1, 0, 1]

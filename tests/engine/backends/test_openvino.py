"""What OpenVINO alone does: its own streams, BF16, and how it is stopped."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
import weakref

import pytest

from tomoscribe.engine.backends.contract import SlotShape
from tomoscribe.engine.backends.openvino import OpenVinoBackend
from tomoscribe.engine.errors import BackendError, BackendUnavailableError

openvino = pytest.importorskip("openvino")

CLASSES = 6
PATIENCE = 20.0
DROPPED_ELSEWHERE = """
import gc, os, signal, sys, threading
from tomoscribe.engine.backends.openvino import OpenVinoBackend
from tomoscribe.engine.bundle import Bundle

backends = [OpenVinoBackend(Bundle.load(sys.argv[1]), threads=1)]

def drop():
    backends.pop().close()
    gc.collect()

thread = threading.Thread(target=drop)
thread.start()
thread.join()
try:
    os.kill(os.getpid(), signal.SIGINT)
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize(("slots", "streams"), [(5, 2), (2, 2), (1, 1)])
def test_its_streams_are_no_more_than_the_slots(make_bundle, slots, streams):
    backend = OpenVinoBackend(make_bundle(), threads=2)
    backend.allocate(SlotShape(1, 1, 8, 8, CLASSES), slots)
    assert backend._compiled.get_property("NUM_STREAMS") == streams
    assert backend._compiled.get_property("INFERENCE_NUM_THREADS") == 2
    assert not backend._compiled.get_property("ENABLE_CPU_PINNING")
    backend.close()


def test_it_is_compiled_for_the_slots_and_anew_only_where_they_change(make_bundle):
    backend = OpenVinoBackend(make_bundle(), threads=2)
    seen = []
    for shape, count in (
        (SlotShape(2, 1, 8, 16, CLASSES), 2),
        (SlotShape(2, 1, 8, 16, CLASSES), 4),
        (SlotShape(2, 1, 8, 16, CLASSES), 1),
        (SlotShape(1, 1, 8, 16, CLASSES), 1),
    ):
        backend.allocate(shape, count)
        assert list(backend._compiled.input("slices").shape) == [shape.batch + 2, shape.height, shape.width]
        assert list(backend._compiled.output("labels").shape) == [shape.batch, shape.height, shape.width]
        seen.append(backend._compiled)
    assert [after is before for before, after in itertools.pairwise(seen)] == [True, False, False]
    backend.close()


def test_requests_are_used_again(make_bundle):
    backend = OpenVinoBackend(make_bundle(), threads=2)
    slots = backend.allocate(SlotShape(1, 1, 8, 8, CLASSES), 2)
    for _ in range(3):
        for slot in slots:
            slot.slices[:] = slot.count = 1
            backend.submit(slot)
        for slot in slots:
            backend.wait(slot)
    assert len(backend._idle) == 2
    backend.close()


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_what_is_not_quantised_is_computed_in_bf16_beside_int8_alone(make_bundle, precision):
    has_bf16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    backend = OpenVinoBackend(make_bundle(others=["int8-cpu"]), threads=1, precision=precision)
    backend.allocate(SlotShape(1, 1, 8, 8, CLASSES), 1)
    computed = "bf16" if precision == "int8" and has_bf16 else "f32"
    assert backend._compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() == computed
    backend.close()


def test_bf16_is_taken_where_the_processor_has_it(make_bundle):
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this processor does not compute in BF16")
    backend = OpenVinoBackend(make_bundle(), threads=1, precision="bf16")
    backend.allocate(SlotShape(1, 1, 8, 8, CLASSES), 1)
    assert backend._compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name() == "bf16"
    assert backend.description.endswith(", BF16")
    backend.close()


def test_bf16_is_refused_where_the_processor_lacks_it(make_bundle, monkeypatch):
    monkeypatch.setattr(openvino.Core, "get_property", lambda self, device, name: ["FP32", "INT8"])
    with pytest.raises(BackendUnavailableError, match="expected a processor that computes in BF16"):
        OpenVinoBackend(make_bundle(), precision="bf16")


def test_a_slot_that_is_not_waited_for_stays_in_memory(make_bundle):
    backend = OpenVinoBackend(make_bundle(), threads=1)
    (slot,) = backend.allocate(SlotShape(1, 1, 8, 8, CLASSES), 1)
    slot.slices[:] = slot.count = 1
    alive = weakref.ref(slot)
    backend.submit(slot)
    del slot
    assert alive() is not None
    backend.close()
    assert alive() is None


class Blocked:
    """A request that ends only when it is cancelled."""

    def __init__(self):
        self.waiting, self.cancelled, self.waited = threading.Event(), threading.Event(), 0

    def set_tensor(self, name, tensor):
        pass

    def start_async(self):
        pass

    def cancel(self):
        self.cancelled.set()

    def wait(self):
        self.waiting.set()
        self.cancelled.wait(PATIENCE)
        self.waited += 1
        raise RuntimeError("Infer Request was canceled")


def test_cancel_ends_what_runs_and_waits_for_its_end(make_bundle):
    backend = OpenVinoBackend(make_bundle(), threads=1)
    first, second = slots = backend.allocate(SlotShape(1, 1, 8, 8, CLASSES), 2)
    requests = [Blocked(), Blocked()]
    backend._idle += reversed(requests)
    for slot in slots:
        slot.slices[:] = slot.count = 1
        backend.submit(slot)
    errors = []

    def wait():
        with pytest.raises(BackendError) as caught:
            backend.wait(first)
        errors.append(str(caught.value))

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert requests[0].waiting.wait(PATIENCE)
    backend.cancel()
    waiting.join()
    assert errors == ["openvino: the work on the slot was given up"]
    assert all(request.cancelled.is_set() for request in requests)
    assert [request.waited for request in requests] == [2, 1]
    with pytest.raises(BackendError, match="given up"):
        backend.wait(second)
    backend.submit(second)
    backend.wait(second)
    backend.close()


def test_ctrl_c_comes_through_after_a_backend_was_dropped_in_another_thread(tiny_bundle):
    command = [sys.executable, "-c", DROPPED_ELSEWHERE, tiny_bundle]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr

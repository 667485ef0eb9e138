"""The backend's own calls, on doubles that refuse what the bindings would, and a simulated driver of CUDA."""

from __future__ import annotations

import contextlib

import numpy as np
import onnxruntime
import pytest

from tomoscribe.engine.backends.contract import SlotShape
from tomoscribe.engine.backends.tensorrt import TensorRtBackend

SHAPE = SlotShape(batch=3, context=1, height=16, width=24, classes=3)


@pytest.mark.parametrize("milliseconds", [(2.0, 2.0), (2.0, 1.0)], ids=["as called", "as graphs"])
def test_labels_are_those_of_the_network(bundle, gpu, milliseconds):
    gpu.milliseconds = milliseconds
    network = onnxruntime.InferenceSession(bundle.artifact_path("fp16"), providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    with contextlib.closing(TensorRtBackend(bundle)) as backend:
        assert backend.description == f"TensorRT {gpu.real.__version__} on GPU 0, NVIDIA H200, FP16"
        for slot in backend.allocate(SHAPE, 2):
            for count in (3, 1):
                slot.slices[:] = 100 + 9 * random.standard_normal(slot.slices.shape)
                slot.mean[:], slot.rstd[:], slot.count = 100, 1 / 9, count
                feed = {name: getattr(slot, name)[: count + 2] for name in ("slices", "mean", "rstd")}
                backend.submit(slot)
                backend.wait(slot)
                labels, scores = network.run(["labels", "scores"], feed)
                np.testing.assert_array_equal(slot.labels[:count], labels)
                np.testing.assert_array_equal(slot.scores[:count], scores)

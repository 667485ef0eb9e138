"""What is done to a network before TensorRT sees it; TensorRT's own calls are tested in tests/tensorrt_bindings."""

from __future__ import annotations

import sys

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from tomoscribe.engine.bundle import Bundle, default_bundle
from tomoscribe.engine.errors import BackendUnavailableError
from tomoscribe.engine.plans.building import load_network, with_float_casts


def test_integers_become_uint8_through_float():
    model = load_network(default_bundle() / "model.fp32.onnx")
    changed = with_float_casts(model)
    onnx.checker.check_model(changed, full_check=True)
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in onnx.shape_inference.infer_shapes(changed).graph.value_info
    }
    to_uint8 = [
        node
        for node in changed.graph.node
        if node.op_type == "Cast" and helper.get_node_attr_value(node, "to") == TensorProto.UINT8
    ]
    assert [types[node.input[0]] for node in to_uint8] == [TensorProto.FLOAT] * 2
    assert len(changed.graph.node) == len(model.graph.node) + 1  # the scores were floating-point already
    random = np.random.default_rng(0)
    inputs = 1 + 2 * Bundle.load(default_bundle()).specification.context
    slices = random.standard_normal((inputs, 32, 32)).astype(np.float32)
    feed = {"slices": slices, "mean": np.zeros(inputs, np.float32), "rstd": np.ones(inputs, np.float32)}
    before, after = (
        onnxruntime.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feed)
        for m in (model, changed)
    )
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)


def test_without_onnx_the_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(BackendUnavailableError, match=r'cannot be imported .* pip install "tomoscribe\[tensorrt\]"'):
        load_network(default_bundle() / "model.fp32.onnx")

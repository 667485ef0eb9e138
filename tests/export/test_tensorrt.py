"""What of the plans can be tested without TensorRT; its calls are tested in tests/tensorrt_bindings."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from tomoscribe.engine.bundle import default_bundle
from tomoscribe.engine.errors import BackendUnavailableError
from tomoscribe.engine.plan import PlanShapes
from tomoscribe.export.parity import ParityError, Sample
from tomoscribe.export.tensorrt import check_machine, plan_shapes
from tomoscribe.export.tensorrt_layers import Precisions, convolution_precisions, read_precisions
from tomoscribe.export.tensorrt_network import with_float_casts
from tomoscribe.export.tensorrt_progress import Phases
from tomoscribe.export.tensorrt_runner import fit_samples

# As TensorRT's manual (Engine Inspector) and its users print them.
HALF, INT8, FLOAT = "Half", "Thirty-two wide channel vectorized row major Int8 format.", "Row major linear FP32 format"


def layer(words, nodes=(), name="layer", tensor="between"):
    metadata = "\x1f".join(f"[ONNX Layer: {node}]" for node in nodes)
    return {"Name": name, "Metadata": metadata, "Outputs": [{"Name": tensor, "Format/Datatype": words}]}


def information(*layers):
    return json.dumps({"Layers": layers, "Bindings": ["slices"]})


@pytest.mark.parametrize(
    ("words", "precision"),
    [
        ("Half", "fp16"),
        ("Channel major FP16 format where channel % 8 == 0", "fp16"),
        ("Float", "fp32"),
        (FLOAT, "fp32"),
        ("Int8", "int8"),
        (INT8, "int8"),
    ],
)
def test_a_convolution_in_its_precision_passes(words, precision):
    layers = information(layer(words, ["conv", "relu"]), layer("Float", ["argmax"]))
    read = read_precisions(layers, {"conv": precision}, "a.plan")
    assert read == Precisions(layers=2, convolutions={precision: 1}, unnamed=0, wrong=())
    assert read.shortfalls() == []


@pytest.mark.parametrize(
    ("words", "precision", "found"),
    [
        ("Float", "fp16", "fp32"),
        ("BFloat16", "fp16", "bf16"),
        ("BFloat16", "fp32", "bf16"),
        ("UInt8", "int8", "uint8"),
        ("Half", "int8", "fp16"),
        ("Half", "fp32", "fp16"),
    ],
)
def test_a_convolution_in_another_precision_is_refused(words, precision, found):
    layers = information(layer(words, ["conv"]), layer("Half"), layer("Int8"), layer("Float"))
    read = read_precisions(layers, {"conv": precision}, "a.plan")
    assert read.wrong == (f"conv in {found} instead of {precision}",)
    assert read.shortfalls() == [
        f"expected its 1 convolutions in the precisions of the ONNX file, found conv in {found} instead of {precision}"
    ]


def test_layers_are_also_known_by_their_names_and_a_fused_one_by_all_of_them():
    fused = layer("Half", name="conv1 + relu1 + conv2")
    assert read_precisions(information(fused), {"conv1": "fp16", "conv2": "fp16"}, "a.plan").unnamed == 0


def test_a_convolution_that_no_layer_names_needs_its_precision_somewhere():
    fused = layer("Half", name="{ForeignNode[conv1...argmax]}")
    assert read_precisions(information(fused), {"conv1": "fp16"}, "a.plan").unnamed == 1
    assert read_precisions(information(fused), {"conv1": "int8"}, "a.plan").wrong == ("conv1 in fp16 instead of int8",)


@pytest.mark.parametrize("key", ["Format/Datatype", "DataType"])
def test_the_inputs_of_a_layer_tell_its_precision_too(key):
    both = {**layer("Half", ["conv"]), "Inputs": [{"Name": "before", key: "Int8"}]}
    assert read_precisions(information(both), {"conv": "int8"}, "a.plan").wrong == ()


@pytest.mark.parametrize("tensor", ["slices", "scores"])
def test_the_networks_own_inputs_and_outputs_say_nothing_of_its_layers(tensor):
    whole = information(layer("Float", ["conv"], tensor=tensor), layer("Half"))
    assert read_precisions(whole, {"conv": "fp16"}, "a.plan").unnamed == 1


@pytest.mark.parametrize("told", ["", "[]", "{}", '{"Layers": ["conv + relu"]}', '{"Layers": [{"Name": "conv"}]}'])
def test_an_inspector_that_does_not_tell_is_refused(told):
    with pytest.raises(ParityError, match="found none"):
        read_precisions(told, {"conv": "fp16"}, "a.plan")


def test_a_long_list_of_wrong_layers_is_cut():
    names = [f"conv{number}" for number in range(9)]
    read = read_precisions(information(layer("Float", names)), dict.fromkeys(names, "fp16"), "a.plan")
    (shortfall,) = read.shortfalls()
    assert "its 9 convolutions" in shortfall
    assert shortfall.endswith("conv2 in fp32 instead of fp16 and 6 more")


def test_convolutions_are_int8_where_image_and_weights_are_dequantised():
    def constant(name, values):
        return numpy_helper.from_array(np.asarray(values), name)

    kernel, scale, zero = np.ones((1, 1, 1, 1)), constant("scale", np.float32(1)), constant("zero", np.int8(0))
    constants = [
        constant("float", kernel.astype(np.float32)),
        constant("half", kernel.astype(np.float16)),
        constant("eighth", kernel.astype(np.int8)),
        scale,
        zero,
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["image", "scale", "zero"], ["quantised"]),
        helper.make_node("DequantizeLinear", ["quantised", "scale", "zero"], ["seen"]),
        helper.make_node("DequantizeLinear", ["eighth", "scale", "zero"], ["weights"]),
        helper.make_node("Conv", ["seen", "weights"], ["a"], name="quantised conv"),
        helper.make_node("Conv", ["image", "weights"], ["b"], name="quantised weights alone"),
        helper.make_node("ConvTranspose", ["image", "float"], ["c"], name="float conv"),
        helper.make_node("Cast", ["image"], ["image16"], to=TensorProto.FLOAT16),
        helper.make_node("Conv", ["image16", "half"], ["d"], name="half conv"),
        helper.make_node("Conv", ["image16", "half"], ["e"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, 4, 4])
    model = helper.make_model(helper.make_graph(nodes, "g", [image], [], constants))
    assert convolution_precisions(model) == {
        "quantised conv": "int8",
        "quantised weights alone": "fp32",
        "float conv": "fp32",
        "half conv": "fp16",
        "node_of_e": "fp16",
    }


def test_integers_become_uint8_through_float(exported):
    model = exported(1)
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
    slices = random.standard_normal((3, 16, 16)).astype(np.float32)
    feed = {"slices": slices, "mean": np.zeros(3, np.float32), "rstd": np.ones(3, np.float32)}
    before, after = (
        onnxruntime.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feed)
        for m in (model, changed)
    )
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)


def sample(count, height, width):
    values = np.arange(count * height * width, dtype=np.float32).reshape(count, height, width)
    return Sample("counted", values, np.arange(count, dtype=np.float32), np.arange(1, count + 1, dtype=np.float32))


def test_samples_are_reflected_or_cut_to_the_tiles_and_one_fills_the_batch():
    given = sample(3, 4, 10)
    fitted, full = fit_samples([given], PlanShapes(4, 6, 8), 1)
    assert (fitted.slices.shape, full.slices.shape) == ((3, 6, 8), (6, 6, 8))
    np.testing.assert_array_equal(fitted.slices[:, :4], given.slices[:, :, :8])
    np.testing.assert_array_equal(fitted.slices[:, 4:], given.slices[:, :1:-1, :8])
    np.testing.assert_array_equal(full.slices[3:], fitted.slices[::-1])
    np.testing.assert_array_equal(full.mean, [0, 1, 2, 2, 1, 0])
    np.testing.assert_array_equal(full.rstd, [1, 2, 3, 3, 2, 1])
    assert full.name == "counted, full batch"
    assert fitted.slices.flags.c_contiguous


def test_a_sample_that_fills_the_batch_is_enough():
    assert len(fit_samples([sample(6, 4, 4), sample(3, 4, 4)], PlanShapes(4, 4, 4), 1)) == 2


def test_a_plan_takes_the_tiles_of_the_slices_and_what_a_slot_holds():
    specification = SimpleNamespace(tile_multiple=16, halo=96, classes=6)
    assert plan_shapes((950, 921), specification) == PlanShapes(6, 960, 928)  # 6 · 960 · 928 · 11 bytes are 56 MiB
    assert plan_shapes((5760, 4092), specification).batch >= 1
    assert max(plan_shapes((5760, 4092), specification).height, 1024) == 1024


def test_a_halo_that_would_fill_a_tile_gets_a_larger_one():
    assert plan_shapes((5000, 5000), SimpleNamespace(tile_multiple=16, halo=600, classes=6)).height > 2 * 600


def test_phases_within_phases_never_go_back():
    told = []
    phases = Phases(lambda phase, share: told.append((phase, share)))
    phases.start("build", None, 2)
    phases.start("tactics", "build", 2)
    assert phases.complete("tactics", 0)
    phases.finish("tactics")  # before its last step
    phases.complete("build", 0)
    phases.start("graph", "build", 5)
    phases.finish("build")
    phases.finish("unknown")
    assert told == [
        ("build", 0),
        ("tactics", 0),
        ("tactics", 0.25),
        ("build", 0.25),
        ("build", 0.5),
        ("graph", 0.5),
        ("graph", 0.5),
        ("graph", 0.5),
    ]


def test_an_error_in_the_report_cancels_the_build_and_is_kept():
    def fail(phase, share):
        raise KeyboardInterrupt

    phases = Phases(fail)
    phases.start("build", None, 2)
    assert not phases.complete("build", 0)
    phases.finish("build")
    assert isinstance(phases.error, KeyboardInterrupt)


def test_without_a_gpu_the_line_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="11.4.0.106"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        BackendUnavailableError, match=r"a plan is built on the GPU that runs it, and PyTorch .* finds none"
    ):
        check_machine()


def test_the_bundled_models_convolutions_are_known_by_name():
    model = onnx.load(default_bundle() / "model.fp32.onnx")
    precisions = convolution_precisions(model)
    assert set(precisions.values()) == {"fp32"}
    assert "" not in precisions
    assert len(precisions) == sum(node.op_type in ("Conv", "ConvTranspose") for node in model.graph.node)

"""Files that are refused, each in one line that names the file; and what is made of the others."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from tomoscribe.engine.errors import BundleError
from tomoscribe.export.foreign_float32 import holds_float16, in_float32
from tomoscribe.export.foreign_reading import opset_of, read_network

CONVOLUTION = "answer = Conv (image, weights)"
WEIGHTS = np.arange(3, dtype=np.float32).reshape(3, 1, 1, 1)


def refusal(path, output=None):
    with pytest.raises(BundleError) as caught:
        read_network(path, output)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert caught.value.exit_status == 2
    return message


def external(path, location=None, **changes):
    """Move the weights of a file to another beside it, and say that they are at a location."""
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights.data", size_threshold=0)
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location" and location is not None:
                entry.value = location
            entry.value = changes.get(entry.key, entry.value)
    onnx.save(model, path)


def test_a_network_is_read_as_it_is(onnx_file):
    path = onnx_file(CONVOLUTION, weights=WEIGHTS)
    network = read_network(path)
    assert (network.input, network.output, network.channels, network.sizes) == ("image", "answer", 1, (None,) * 3)
    assert (network.takes_half, network.half) == (False, False)
    assert (network.source_opset, network.producer) == (18, "somebody 3.1")


@pytest.mark.parametrize("content", [b"", b"MZ\x90\x00 not a network", None])
def test_what_is_no_onnx_file(tmp_path, content):
    path = tmp_path / "x.onnx"
    assert "cannot be read (No such file" in refusal(path)
    if content is None:
        path.mkdir()
        assert "cannot be read" in refusal(path)
    else:
        path.write_bytes(content)
        assert "expected" in refusal(path)


def test_a_file_that_was_cut_short(onnx_file):
    path = onnx_file(CONVOLUTION, weights=np.ones((3, 1, 9, 9), np.float32))
    path.write_bytes(path.read_bytes()[:-200])
    assert "found something else or a part of one" in refusal(path)


def test_weights_beside_the_file_are_read(onnx_file):
    path = onnx_file(CONVOLUTION, weights=WEIGHTS)
    external(path)
    (weights,) = read_network(path).model.graph.initializer
    np.testing.assert_array_equal(numpy_helper.to_array(weights), WEIGHTS)


@pytest.mark.parametrize("location", ["../secret", "/etc/hostname", "link", "folder/../../secret", "absent"])
def test_weights_outside_of_the_folder_are_not_read(onnx_file, tmp_path, location):
    (tmp_path.parent / "secret").write_bytes(bytes(1000))
    (tmp_path / "link").symlink_to(tmp_path.parent / "secret")
    (tmp_path / "folder").mkdir()
    path = onnx_file(CONVOLUTION, weights=WEIGHTS)
    external(path, location)
    message = refusal(path)
    assert "expected its weights inside, or in files of its own folder" in message
    assert "into one file" in message


def test_weights_that_are_cut_short(onnx_file, tmp_path):
    path = onnx_file(CONVOLUTION, weights=WEIGHTS)
    external(path)
    (tmp_path / "weights.data").write_bytes(bytes(4))
    assert "expected its weights inside" in refusal(path)


def test_operators_of_others(onnx_file):
    path = onnx_file("answer = FusedConv (image, weights)", weights=WEIGHTS)
    model = onnx.load(path)
    model.graph.node[0].domain = "com.microsoft"
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, path)
    assert "expected ONNX's own operators only, found com.microsoft.FusedConv" in refusal(path)


def test_an_operator_that_onnx_does_not_know(onnx_file):
    assert "No Op registered for Convolve" in refusal(onnx_file("answer = Convolve (image, weights)", weights=WEIGHTS))


def test_functions_inside_the_model_are_no_operators_of_others(onnx_file):
    path = onnx_file("answer = Label (image, weights)", weights=WEIGHTS)
    model = onnx.load(path)
    model.graph.node[0].domain = "mine"
    model.opset_import.append(helper.make_opsetid("mine", 1))
    node = helper.make_node("Conv", ["a", "b"], ["c"])
    model.functions.append(
        helper.make_function("mine", "Label", ["a", "b"], ["c"], [node], [helper.make_opsetid("", 18)])
    )
    onnx.save(model, path)
    assert [node.op_type for node in read_network(path).model.graph.node] == ["Conv"]


@pytest.mark.parametrize(
    ("image", "answer", "message"),
    [
        ("float[1, n, d, h, w] image", "float[1, n, d, h, w] answer", "as the input 'image', found 5 axes"),
        ("float[h, w] image", "float[h, w] answer", "found 2 axes"),
        ("float image", "float answer", "found 0 axes"),
        ("double[n, 1, h, w] image", "double[n, 1, h, w] answer", "float or float16 input 'image', found double"),
        ("uint8[n, 1, h, w] image", "uint8[n, 1, h, w] answer", "found uint8"),
        ("float[n, c, h, w] image", "float[n, c, h, w] answer", "a fixed number of channels, found a free one"),
        (
            "float[n, 1, h, w] image, float[n] s",
            "float[n, 1, h, w] answer",
            r"expected one input, .* found 2 (image, s)",
        ),
    ],
)
def test_images_that_a_2d_network_does_not_take(onnx_file, image, answer, message):
    found = refusal(onnx_file("answer = Identity (image)", image=image, answer=answer))
    for part in message.split(" .* "):
        assert part in found


@pytest.mark.parametrize(
    ("step", "answer", "message"),
    [
        ("answer = ArgMax <axis = 1> (image)", "int64[n, 1, h, w] answer", "from 'answer', found int64"),
        (
            "answer = ReduceMax <keepdims = 0> (image, axes)",
            "float[n, h, w] answer",
            "(n, classes, h, w), found 3 axes",
        ),
        ("answer = Identity (constant)", "float[1, 1, 1, 1] answer", "found that 'answer' does not"),
    ],
)
def test_answers_that_are_no_classes(onnx_file, step, answer, message):
    constant = np.zeros((1, 1, 1, 1), np.float32)
    assert message in refusal(onnx_file(step, answer=answer, axes=np.array([1]), constant=constant))


def test_one_of_several_outputs_is_chosen_and_the_rest_is_cut_off(onnx_file):
    path = onnx_file(
        CONVOLUTION, "deep = Neg (image)", answer="float[n, 3, h, w] answer, float[n, 1, h, w] deep", weights=WEIGHTS
    )
    assert "expected one output, found answer, deep; name" in refusal(path)
    assert "expected an output 'shallow', found answer, deep" in refusal(path, "shallow")
    for chosen, operators in (("answer", ["Conv"]), ("deep", ["Neg"])):
        network = read_network(path, chosen)
        assert [node.op_type for node in network.model.graph.node] == operators
        assert [value.name for value in network.model.graph.output] == [chosen]


def test_weights_that_are_listed_as_inputs_are_constants(onnx_file):
    path = onnx_file(CONVOLUTION, image="float[n, 1, h, w] image, float[3, 1, 1, 1] weights", weights=WEIGHTS)
    assert [value.name for value in read_network(path).model.graph.input] == ["image"]


def test_an_old_opset_is_converted_and_a_new_one_stays(onnx_file):
    steps = ("y = Squeeze <axes = [1]> (image)", "answer = Unsqueeze <axes = [1]> (y)")
    old = read_network(onnx_file(*steps, answer="float[n, 1, h, w] answer", opset=9, ir_version=4))
    assert (old.source_opset, opset_of(old.model)) == (9, 18)
    values = np.ones((2, 1, 3, 3), np.float32)
    session = onnxruntime.InferenceSession(old.model.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(None, {"image": values})[0], values)
    new = read_network(onnx_file(CONVOLUTION, weights=WEIGHTS, opset=22, ir_version=10))
    assert (new.source_opset, opset_of(new.model), new.model.ir_version) == (22, 22, 10)


def test_an_opset_that_cannot_be_converted(onnx_file):
    path = onnx_file('answer = Cast <to = "FLOAT"> (image)', opset=5, ir_version=3, answer="float[n, 1, h, w] answer")
    message = refusal(path)
    assert "expected opset 18 or newer, found 5, which cannot be converted (No Adapter" in message
    assert "for Cast); export the network with opset 18" in message


def test_declared_sizes_are_freed(onnx_file):
    path = onnx_file(
        CONVOLUTION, image="float[1, 1, 64, 96] image", answer="float[1, 3, 64, 96] answer", weights=WEIGHTS
    )
    network = read_network(path)
    assert network.sizes == (1, 64, 96)
    session = onnxruntime.InferenceSession(network.model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert session.run(None, {"image": np.zeros((2, 1, 8, 4), np.float32)})[0].shape == (2, 3, 8, 4)


def test_float16_becomes_float32_everywhere(onnx_file):
    path = onnx_file(
        "half = Cast <to = 10> (image)",
        "more = Conv (half, weights)",
        "ones = ConstantOfShape <value = float16[1] {15360}> (shape)",
        "noise = EyeLike <dtype = 10> (ones)",
        "sum = Add (more, noise)",
        "answer = Cast <to = 1> (sum)",
        weights=WEIGHTS.astype(np.float16),
        shape=np.array([1, 1]),
    )
    network = read_network(path)
    assert (network.takes_half, network.half) == (False, True)
    converted = in_float32(network.model)
    assert not holds_float16(converted)
    assert holds_float16(network.model)
    onnx.checker.check_model(converted, full_check=True)
    inferred = onnx.shape_inference.infer_shapes(converted, strict_mode=True)
    assert {value.type.tensor_type.elem_type for value in inferred.graph.value_info} == {TensorProto.FLOAT}
    values = np.random.default_rng(0).standard_normal((2, 1, 4, 4), np.float32)
    session = onnxruntime.InferenceSession(converted.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"image": values})[0], values * WEIGHTS[:, 0] + 1, rtol=1e-6)

"""The exported graph: the contract's names, dtypes and free sizes, and PyTorch's answers."""

from __future__ import annotations

import copy
import json
import logging

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from tomoscribe.export.graph import METADATA_KEY, OPSET, DeployedNetwork, fold_batch_normalisation, to_onnx
from tomoscribe.train.checkpoint import load_checkpoint


@pytest.fixture(scope="module")
def model(checkpoint, exported):
    return exported(checkpoint.specification.context)


@pytest.fixture(scope="module")
def session(model):
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def raw_slices(checkpoint, count, height, width, seed=0):
    count += 2 * checkpoint.specification.context
    random = np.random.default_rng(seed)
    slices = (1000 + 50 * random.standard_normal((count, height, width))).astype(np.float32)
    mean, rstd = random.uniform(990, 1010, count), random.uniform(-0.03, 0.03, count)  # unlike in every slice
    return {"slices": slices, "mean": mean.astype(np.float32), "rstd": rstd.astype(np.float32)}


def expected(checkpoint, feed):
    """Labels and probabilities × 255 by PyTorch's own operators, one slice at a time."""
    labels, scores = [], []
    width = 2 * checkpoint.specification.context + 1
    for first in range(len(feed["slices"]) - width + 1):
        part = slice(first, first + width)
        normalised = (feed["slices"][part] - feed["mean"][part, None, None]) * feed["rstd"][part, None, None]
        with torch.inference_mode():
            logits = checkpoint.network(torch.from_numpy(normalised)[None])[0]
        labels.append(logits.argmax(dim=0).numpy())
        scores.append(torch.softmax(logits, dim=0).numpy() * 255)
    return np.stack(labels), np.stack(scores)


def test_inputs_and_outputs_are_the_contracts(session):
    names = {value.name: (value.type, len(value.shape)) for value in [*session.get_inputs(), *session.get_outputs()]}
    assert names == {
        "slices": ("tensor(float)", 3),
        "mean": ("tensor(float)", 1),
        "rstd": ("tensor(float)", 1),
        "labels": ("tensor(uint8)", 3),
        "scores": ("tensor(uint8)", 4),
    }


@pytest.mark.parametrize(("count", "height", "width"), [(1, 4, 4), (1, 64, 48), (2, 4, 100), (5, 36, 8)])
def test_any_size_gives_pytorchs_answer(checkpoint, session, count, height, width):
    feed = raw_slices(checkpoint, count, height, width)
    labels, scores = session.run(["labels", "scores"], feed)
    expected_labels, probabilities = expected(checkpoint, feed)
    assert labels.shape == (count, height, width)
    assert scores.shape == (count, 3, height, width)
    assert (labels.dtype, scores.dtype) == (np.uint8, np.uint8)
    np.testing.assert_array_equal(labels, expected_labels)
    assert np.abs(scores - probabilities).max() < 0.501  # rounded, not cut
    assert labels.size < 100 or len(np.unique(labels)) > 1


def test_scores_reach_both_ends_and_the_first_of_equals_wins(checkpoint):
    class Certain(torch.nn.Module):
        configuration = checkpoint.network.configuration

        def forward(self, slices):
            logits = torch.zeros(len(slices), 3, *slices.shape[2:])
            logits[..., 0] = 0.0  # all equal
            logits[:, 2, :, 1] = 200.0
            logits[:, 1:, :, 2] = 3000.0  # two equal, and too high for exp
            return logits

    feed = {name: torch.from_numpy(value) for name, value in raw_slices(checkpoint, 1, 4, 4).items()}
    labels, scores = DeployedNetwork(Certain())(**feed)
    assert labels[0, 0, :3].tolist() == [0, 2, 1]
    assert scores[0, :, 0, :3].T.tolist() == [[85, 85, 85], [0, 0, 255], [0, 128, 128]]


def test_batch_normalisation_is_folded(model):
    operators = {node.op_type for node in model.graph.node}
    assert "BatchNormalization" not in operators
    assert {"Softmax", "Round"} & operators == set()  # slow in ONNX Runtime, see DeployedNetwork


def test_folding_changes_neither_the_answer_nor_the_network(checkpoint):
    network = checkpoint.network
    before = copy.deepcopy(network.state_dict())
    folded = fold_batch_normalisation(network)
    assert not any(isinstance(layer, torch.nn.BatchNorm2d) for layer in folded.modules())
    slices = torch.randn(2, 2 * checkpoint.specification.context + 1, 32, 48)
    with torch.inference_mode():
        torch.testing.assert_close(folded(slices), network(slices), rtol=1e-4, atol=1e-4)
    assert network.state_dict().keys() == before.keys()
    assert all(torch.equal(values, before[name]) for name, values in network.state_dict().items())


def test_a_variance_beyond_fp16_is_folded_before_it_is_rounded(checkpoint):
    network = copy.deepcopy(checkpoint.network)
    with torch.no_grad():
        network.encoder[0][0].weight *= 1000
        network.encoder[0][1].running_mean *= 1000
        network.encoder[0][1].running_var *= 1e6
        assert network.encoder[0][1].running_var.max() > torch.finfo(torch.float16).max
    for ours, theirs in zip(
        fold_batch_normalisation(network).half().state_dict().values(),
        fold_batch_normalisation(checkpoint.network).half().state_dict().values(),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=2e-3, atol=1e-4)


def test_fp16_is_in_the_same_contract_and_between_two_casts(checkpoint, exported):
    model = exported(checkpoint.specification.context, torch.float16)
    onnx.checker.check_model(model, full_check=True)
    graph = model.graph
    assert [value.type.tensor_type.elem_type for value in graph.input] == [onnx.TensorProto.FLOAT] * 3
    assert [value.type.tensor_type.elem_type for value in graph.output] == [onnx.TensorProto.UINT8] * 2
    floats = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
    casts = [(index, node.attribute[0].i) for index, node in enumerate(graph.node) if node.op_type == "Cast"]
    assert [to for _, to in casts if to in floats] == [onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT]
    convolutions = [index for index, node in enumerate(graph.node) if node.op_type in ("Conv", "ConvTranspose")]
    assert casts[0][0] < min(convolutions)
    assert max(convolutions) < casts[1][0]
    weights = {w.name: w.data_type for w in graph.initializer}
    assert {weights[name] for index in convolutions for name in graph.node[index].input[1:]} == {
        onnx.TensorProto.FLOAT16
    }
    # Exponentials are taken, and scores added up, in FP32.
    types = {
        value.name: value.type.tensor_type.elem_type
        for value in onnx.shape_inference.infer_shapes(model, strict_mode=True).graph.value_info
    }
    for node in graph.node:
        if node.op_type in ("Exp", "ReduceSum", "ArgMax"):
            assert types[node.input[0]] == onnx.TensorProto.FLOAT


def test_fp16_takes_every_size_too(checkpoint, exported):
    model = exported(checkpoint.specification.context, torch.float16)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for shape in ((1, 4, 4), (3, 36, 8)):
        feed = raw_slices(checkpoint, *shape)
        labels, scores = session.run(["labels", "scores"], feed)
        expected_labels, probabilities = expected(checkpoint, feed)
        assert labels.shape == shape
        assert np.mean(labels == expected_labels) > 0.98
        assert np.abs(scores - probabilities).max() < 3


def test_the_specification_is_in_the_metadata_and_no_path_is_in_the_file(checkpoint, model):
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(metadata[METADATA_KEY]) == checkpoint.specification.to_json()
    content = model.SerializeToString()
    for trace in (b".py", b"site-packages", b"stack_trace"):
        assert trace not in content
    assert [opset.version for opset in model.opset_import if opset.domain == ""] == [OPSET]
    onnx.checker.check_model(model, full_check=True)


def test_exporting_twice_gives_the_same_bytes_and_says_nothing(checkpoint_file, exported, capfd, caplog):
    trained = load_checkpoint(checkpoint_file)
    once = exported(trained.specification.context)
    capfd.readouterr()
    caplog.clear()
    again = to_onnx(trained.network, trained.specification)
    assert again.SerializeToString(deterministic=True) == once.SerializeToString(deterministic=True)
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []

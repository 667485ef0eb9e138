"""The whole way of a tomogram through an exported network, against a plain loop over its slices in PyTorch."""

from __future__ import annotations

import copy
from dataclasses import replace

import mrcfile
import numpy as np
import pytest
import torch

from tomoscribe.engine.backends import SlotLimits, cpu_backend
from tomoscribe.engine.backends.onnxruntime import OnnxRuntimeBackend
from tomoscribe.engine.bundle import Artifact, Bundle
from tomoscribe.engine.intensity import measure_intensity
from tomoscribe.engine.segmentation import Segmenter
from tomoscribe.engine.stream import stream
from tomoscribe.engine.tiles import TilePlan
from tomoscribe.engine.tomogram import open_tomogram

SHAPE = (7, 70, 93)  # sides that are no multiples of 4


class KeepingSink:
    def __init__(self, shape, classes):
        self.labels = np.full(shape, 255, np.uint8)
        self.scores = np.full((shape[0], classes, *shape[1:]), 255, np.uint8)

    def write(self, start, labels, scores):
        self.labels[start : start + len(labels)] = labels
        self.scores[start : start + len(scores)] = scores

    def prepare(self):
        pass

    commit = abort = prepare


@pytest.fixture(params=[0, 1, 3], ids="k = {}".format)
def model(request, checkpoint_with, exported, tmp_path):
    """A checkpoint with so much context, and its bundle."""
    checkpoint = checkpoint_with(request.param)
    (tmp_path / "model.fp32.onnx").write_bytes(exported(request.param).SerializeToString())
    bundle = Bundle(tmp_path, checkpoint.specification, {"fp32": Artifact.of(tmp_path / "model.fp32.onnx")})
    bundle.write()
    return checkpoint, bundle


@pytest.fixture(params=[np.float32, np.int16], ids=["float32", "int16"])
def tomogram(request, tmp_path):
    values = 100 + 30 * np.random.default_rng(5).standard_normal(SHAPE)
    path = tmp_path / "position_1.mrc"
    with mrcfile.new(path) as file:
        file.set_data(values.astype(request.param))
        file.voxel_size = 15.0
    return path


def plain_loop(checkpoint, path):
    """Labels and probabilities × 255 of one whole slice after the other, by PyTorch's own operators."""
    values = mrcfile.read(path).astype(np.float32)
    with open_tomogram(path) as opened:
        (mean, *_), (rstd, *_) = measure_intensity(opened).mean_and_rstd(1)
    _, height, width = values.shape
    multiple, context = checkpoint.specification.tile_multiple, checkpoint.specification.context
    labels, scores = [], []
    for z in range(len(values)):
        around = np.stack([values[min(max(z + offset, 0), len(values) - 1)] for offset in range(-context, context + 1)])
        padded = np.pad(around, ((0, 0), (0, -height % multiple), (0, -width % multiple)), "symmetric")
        with torch.inference_mode():
            logits = checkpoint.network(torch.from_numpy((padded - mean) * rstd)[None])[0, :, :height, :width]
        labels.append(logits.argmax(dim=0).numpy())
        scores.append(255 * torch.softmax(logits, dim=0).numpy())
    return np.stack(labels), np.stack(scores)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("pixels", [64 * 64, 2**20], ids=["tiles", "whole slices"])
def test_a_stream_is_a_plain_loop_label_for_label_and_score_for_score(model, tomogram, batch, pixels):
    checkpoint, bundle = model
    specification = checkpoint.specification
    plan = TilePlan.for_slice(SHAPE[1:], multiple=specification.tile_multiple, halo=specification.halo, pixels=pixels)
    assert (len(plan.tiles) > 1) == (pixels < 2**20)
    sink = KeepingSink(SHAPE, specification.classes)
    backend = OnnxRuntimeBackend(bundle, threads=1)
    with open_tomogram(tomogram) as opened:
        stream(
            opened,
            backend,
            plan,
            measure_intensity(opened),
            [sink],
            context=specification.context,
            classes=specification.classes,
            batch=batch,
        )
    backend.close()
    labels, scores = plain_loop(checkpoint, tomogram)
    np.testing.assert_array_equal(sink.labels, labels)
    assert np.abs(sink.scores - scores).max() < 0.501  # each is the nearest whole number
    assert len(np.unique(labels)) > 1, "a test that cannot tell"


def test_what_segment_writes_is_a_plain_loop_too(model, tomogram, tmp_path, monkeypatch):
    checkpoint, bundle = model
    monkeypatch.setattr(cpu_backend, "CPU_LIMITS", SlotLimits(64 * 64, 2**18))
    with Segmenter(bundle.path, backend="onnxruntime", precision="fp32") as segmenter:
        written = segmenter.segment(tomogram, tmp_path / "out")
    labels, scores = plain_loop(checkpoint, tomogram)
    np.testing.assert_array_equal(mrcfile.read(written.labels), labels)
    for number, volume in enumerate(written.class_volumes.values(), 1):
        # Half of a score, rounded down.
        assert np.abs(mrcfile.read(volume) - (scores[:, number] - 0.5) / 2).max() < 0.501


def test_every_context_slice_counts(model, tomogram):
    """What the loops above rest on: without its context a network gives other labels."""
    checkpoint, _ = model
    context = checkpoint.specification.context
    labels, _ = plain_loop(checkpoint, tomogram)
    for channel in range(2 * context + 1):
        network = copy.deepcopy(checkpoint.network)
        with torch.no_grad():
            network.encoder[0][0].weight[:, channel] = 0
        assert (plain_loop(replace(checkpoint, network=network), tomogram)[0] != labels).any(), channel

"""Test-time augmentation through the stream, tile by tile and on every backend, against a loop over the copies."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tomoscribe.engine.intensity import IntensityStatistics
from tomoscribe.engine.stream import stream
from tomoscribe.engine.tiles import TilePlan

augmentation = pytest.importorskip("tomoscribe.export.augmentation", reason="needs the extra export")

CLASSES = 6
STATISTICS = IntensityStatistics(8.0, 0.5)


class KeepingSink:
    def __init__(self, shape):
        self.labels = np.full(shape, 255, np.uint8)
        self.scores = np.full((shape[0], CLASSES, *shape[1:]), 255, np.uint8)

    def write(self, start, labels, scores):
        self.labels[start : start + len(labels)] = labels
        self.scores[start : start + len(scores)] = scores

    def prepare(self):
        pass

    commit = abort = prepare


def plain_loop(model, values, kind, context, multiple):
    """Labels and scores of whole slices: of each, every copy by itself through the graph that does not augment."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    mean, rstd = STATISTICS.mean_and_rstd(2 * context + 1)
    _, height, width = values.shape
    labels, scores = [], []
    for z in range(len(values)):
        around = [values[min(max(z + offset, 0), len(values) - 1)] for offset in range(-context, context + 1)]
        padded = np.pad(np.stack(around), ((0, 0), (0, -height % multiple), (0, -width % multiple)), "symmetric")
        answers = []
        for turns in {"flips": (0, 2), "flips-and-turns": (0, 1, 2, 3)}[kind]:
            for step in (1, -1):
                copy = np.rot90(padded, turns, (1, 2))[..., ::step].astype(np.float32)
                (answer,) = session.run(["scores"], {"slices": copy.copy(), "mean": mean, "rstd": rstd})
                answers.append(np.rot90(answer[0][..., ::step], -turns, (1, 2))[:, :height, :width])
        total = np.sum(answers, axis=0, dtype=np.int64)
        labels.append(total.argmax(axis=0))
        scores.append(total // len(answers))
    return np.stack(labels), np.stack(scores)


@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 70), st.integers(1, 70)),
    depth=st.integers(1, 2),
    context=st.sampled_from([0, 1, 3]),
    batch=st.integers(1, 3),
    spare=st.integers(0, 20),
    kind=st.sampled_from(["flips", "flips-and-turns"]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_stream_of_tiles_is_a_plain_loop_over_whole_slices_and_their_copies(
    build, make_bundle, array_tomogram, shape, depth, context, batch, spare, kind, seed
):
    bundle = make_bundle(depth=depth, context=context, seed=seed)
    plain = onnx.load(bundle.artifact_path("fp32"))
    specification = replace(bundle.specification, test_time_augmentation=kind)
    bundle = make_bundle(augmentation.augmented(plain, specification), depth=depth, context=context)
    multiple, halo = specification.tile_multiple, specification.halo
    values = np.random.default_rng(seed).integers(0, 16, shape).astype(np.int8)
    smallest = 2 * math.ceil(halo / multiple) * multiple + multiple
    plan = TilePlan.for_slice(shape[1:], multiple=multiple, halo=halo, pixels=(smallest + spare) ** 2)
    sink = KeepingSink(shape)
    backend = build(bundle, threads=1)
    stream(array_tomogram(values), backend, plan, STATISTICS, [sink], context=context, classes=CLASSES, batch=batch)
    backend.close()
    labels, scores = plain_loop(plain, values, kind, context, multiple)
    np.testing.assert_array_equal(sink.scores, scores)
    np.testing.assert_array_equal(sink.labels, labels)

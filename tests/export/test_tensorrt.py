"""The samples that plans are compared on; TensorRT's calls are tested in tests/tensorrt_bindings."""

from __future__ import annotations

import numpy as np

from tomoscribe.engine.plans import PlanShapes
from tomoscribe.export.parity import Sample
from tomoscribe.export.tensorrt import fit_samples


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

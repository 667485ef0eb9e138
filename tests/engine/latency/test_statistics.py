"""Percentiles against trtexec's own arithmetic and an exact one; errors of figures that are known."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tomoscribe.engine.latency.statistics import Distribution, Figure, parts

TIMES = st.lists(st.floats(1e-3, 1e4), min_size=1, max_size=400)


def nearest_rank(times, percent):
    """The smallest time that at least so many percent of all do not exceed, by counting, without rounding."""
    needed = Fraction(percent, 100) * len(times)
    return min(time for time in times if sum(other <= time for other in times) >= needed)


@given(TIMES)
def test_percentiles_are_nearest_ranks(times):
    found = Distribution.of(np.array(times))
    assert [found.p90, found.p95, found.p99] == [nearest_rank(times, percent) for percent in (90, 95, 99)]


@pytest.mark.parametrize("count", [1, 2, 9, 10, 11, 19, 20, 21, 99, 101, 150, 1001])
def test_percentiles_are_those_of_trtexec(count):
    """Its `findPercentile` in single precision: sorted, without the last ``(1 - p / 100) × n``."""
    times = np.random.default_rng(count).permutation(count) + 1.0
    found = Distribution.of(times)
    for percent, value in ((90, found.p90), (95, found.p95), (99, found.p99)):
        exclude = int((np.float32(1) - np.float32(percent) / np.float32(100)) * np.float32(count))
        assert value == np.sort(times)[max(count - 1 - exclude, 0)]


@given(TIMES)
def test_the_other_figures_are_those_of_plain_loops(times):
    found = Distribution.of(np.array(times))
    ordered, middle = sorted(times), len(times) // 2
    mean = math.fsum(times) / len(times)
    deviation = math.sqrt(math.fsum((time - mean) ** 2 for time in times) / len(times))
    assert (found.minimum, found.maximum) == (ordered[0], ordered[-1])
    assert found.mean == pytest.approx(mean)
    assert found.p50 == pytest.approx(
        ordered[middle] if len(times) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
    )
    assert found.coefficient_of_variation == pytest.approx(deviation / mean, abs=1e-7)


def test_times_that_are_all_0_do_not_vary():
    assert Distribution.of(np.zeros(3)).coefficient_of_variation == 0


def test_the_shape_of_the_array_does_not_matter():
    times = np.arange(12.0)
    assert Distribution.of(times.reshape(4, 3)) == Distribution.of(times)


def test_an_error_is_that_of_the_mean():
    # 8, 10, 12: standard deviation 2, mean 10.
    assert Figure.median([12.0, 8.0, 10.0]) == Figure(10.0, pytest.approx(0.2 / math.sqrt(3)), 3)
    assert Figure.median([5.0]) == Figure(5.0, None, 1)


@given(st.integers(1, 200))
def test_parts_are_consecutive_and_even(count):
    spans = parts(count)
    assert [number for span in spans for number in range(count)[span]] == list(range(count))
    lengths = [span.stop - span.start for span in spans]
    assert len(lengths) == min(5, count)
    assert max(lengths) - min(lengths) <= 1

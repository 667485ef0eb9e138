"""The arithmetic of the scaling benchmark, and that the streams that it times are whole."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given
from hypothesis import strategies as st

from tomoscribe.engine import Bundle, default_bundle

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def _scripts():
    """Scripts import each other from their own folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield


@pytest.fixture(scope="module")
def figures():
    return import_module("scaling_figures")


@pytest.fixture(scope="module")
def studies():
    return import_module("scaling_studies")


@pytest.fixture(scope="module")
def overhead():
    return import_module("scaling_overhead")


def results(figures, **changes):
    """Ten seconds and one for each slice of 10 × 10, medians of three rounds of which one is disturbed."""
    curve = figures.Curve.of
    seconds = {n: [10.0 + n, 10.0 + n, 1e6] for n in (1, 2, 4, 8)}
    whole = {
        "side": 10,
        "volumes": curve(seconds),
        "memory": curve({n: [100e6 + n] for n in seconds}),
        "tiles": curve({128: [2e-9], 256: [1e-9], 512: [1.5e-9]}),
        "classes": curve({2: [1e-9], 255: [5e-9]}),
        "slots": curve({1: [2.0], 3: [1.25], 4: [1.0]}),
        "default_slots": 3,
        "cores": curve({1: [4.0], 2: [2.5]}),
        "overhead": {
            "bookkeeping": 1e-5,
            "bookkeeping, tiny slots": 2e-5,
            "with a tiny network": 4e-5,
            "with data in memory": 9e-3,
        },
        "work": 0.1,
    }
    return figures.Results(**whole | changes)


def test_a_curve_is_sorted_and_has_the_medians_of_its_rounds(figures):
    curve = figures.Curve.of({8: [3.0, 9.0, 1.0], 2: [5.0, 4.0, 70.0]})
    assert curve.sizes == (2, 8)
    assert curve.costs == [5, 3]
    assert curve.at(8) == 3


@given(st.floats(1e-3, 1e3), st.floats(0, 1e3))
def test_a_line_is_found_and_no_point_is_off_it(figures, slope, intercept):
    sizes = [1, 2, 4, 64]
    costs = [slope * size + intercept for size in sizes]
    fit = figures.LineFit.of(sizes, costs)
    np.testing.assert_allclose(fit.deviations(sizes, costs), 0, atol=1e-6)
    assert fit.slope == pytest.approx(slope, rel=1e-3)


def test_a_line_is_the_best_for_relative_deviations(figures):
    sizes, costs = np.array([1.0, 2, 4, 8, 100]), np.array([3.0, 6, 7, 20, 190])
    best = scipy.optimize.least_squares(lambda line: (line[0] * sizes + line[1]) / costs - 1, [1, 1]).x
    fit = figures.LineFit.of(sizes, costs)
    assert (fit.slope, fit.intercept) == pytest.approx(tuple(best), rel=1e-4)
    assert fit.deviations([10.0], [2 * (10 * fit.slope + fit.intercept)]) == pytest.approx([1])


def test_ratios(figures):
    ratios = results(figures).ratios()
    assert ratios.pop("linear_in_voxels") == pytest.approx(0, abs=1e-9)
    assert ratios.pop("memory_largest_over_smallest") == pytest.approx(1 + 7e-8, rel=1e-9)
    assert ratios == pytest.approx(
        {
            "tile_cost_largest_over_smallest": 2,
            "classes_cost_most_over_fewest": 5,
            "default_slots_over_best": 0.8,
            "cores_speedup": 1.6,
            "python_overhead_fraction": 4e-4,
        }
    )


@pytest.mark.parametrize("factor", [0.5, 1.5])
def test_a_volume_off_the_line_counts_whether_above_or_below(figures, factor):
    volumes = {n: [10.0 + n] for n in range(1, 9)}
    found = results(figures, volumes=figures.Curve.of(volumes | {5: [15 * factor]}))
    off = float(found.deviations[4])
    assert (off > 0) is (factor > 1)
    assert found.ratios()["linear_in_voxels"] == pytest.approx(abs(off))


def test_the_line_is_against_voxels(figures):
    line = results(figures).line
    assert (line.slope, line.intercept) == pytest.approx((0.01, 10))


def test_tables_and_json_have_every_study(figures):
    found = results(figures)
    text = figures.tables(found)
    assert text.count("## ") == 6
    for cell in ("| 8 ", "18.00", "1.60", "40.0", "0.040%", "10.00 s"):
        assert cell in text
    entries = json.loads(json.dumps(found.to_json()))
    assert entries["volumes"] == {"sizes": [1, 2, 4, 8], "rounds": [[10.0 + n, 10.0 + n, 1e6] for n in (1, 2, 4, 8)]}
    assert entries["seconds_per_slot"]["the model"] == 0.1


@given(st.integers(1, 300), st.integers(0, 6))
def test_the_smallest_volume_fills_all_slots_twice(studies, slots, doublings):
    depths = studies.volume_depths(slots, doublings)
    assert depths == [depths[0] * 2**n for n in range(doublings + 1)]
    assert 2 * slots <= depths[0] < max(4 * slots, 3)


@pytest.mark.parametrize(
    ("usable", "counts"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8]), (9, [1, 2, 4, 8, 9])]
)
def test_core_counts_end_with_all(studies, usable, counts):
    assert studies.core_counts(usable) == counts


def test_streams_of_nothing_run_whole_and_copy_only_where_they_say(overhead, monkeypatch):
    specification = Bundle.load(default_bundle()).specification
    reads, written = [], []
    for kind in (overhead.SilentTomogram, overhead.RepeatedTomogram):
        original = kind.read_slices

        def read(self, start, out, original=original):
            reads.append(type(self))
            original(self, start, out)

        monkeypatch.setattr(kind, "read_slices", read)
    monkeypatch.setattr(overhead.SilentSink, "write", lambda self, start, *_: written.append(start))
    copies = []
    monkeypatch.setattr(overhead.CopyingSink, "write", lambda self, start, *_: copies.append(start))
    runs = overhead.overhead_runs(specification, overhead.InstantBackend(), 32, 40)
    kinds = {}
    for name, run in runs.items():
        before = len(reads)
        assert run() > 0
        kinds[name] = set(reads[before:])
    silent, repeated = {overhead.SilentTomogram}, {overhead.RepeatedTomogram}
    assert list(kinds.values()) == [silent, silent, repeated, repeated]
    assert set(overhead.BOOKKEEPING) == set(list(runs)[:3])
    # A sink for each class and one for the labels.
    assert len(written) == 3 * 40 * specification.classes + 3 * 40
    assert len(copies) == 2 * (specification.classes - 1)


def test_no_pixel_is_copied_in_a_slot_of_bookkeeping(overhead, monkeypatch):
    tomogram = overhead.SilentTomogram((3, 16, 16))
    out = np.full((3, 16, 16), 7, np.float32)
    tomogram.read_slices(0, out)
    assert (out == 7).all()
    overhead.RepeatedTomogram((3, 16, 16)).read_slices(0, out)
    assert np.ptp(out) > 1
    assert (out[0] == out[2]).all()


def test_a_copying_sink_halves_the_scores_of_its_class(overhead):
    sink = overhead.CopyingSink(2, (4, 4))
    scores = np.arange(3, dtype=np.uint8)[np.newaxis, :, np.newaxis, np.newaxis] * np.full((1, 1, 4, 4), 100, np.uint8)
    sink.write(0, np.zeros((1, 4, 4), np.uint8), scores)
    assert (sink._out == 100).all()

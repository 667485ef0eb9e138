"""Samples: the graph contract's shapes, slices that no two sets share, and contrast as the model wants it."""

from __future__ import annotations

from dataclasses import replace

import mrcfile
import numpy as np
import pytest

from tomoscribe.engine.bundle import ModelSpecification
from tomoscribe.engine.class_map import ClassMap, LabelClass
from tomoscribe.engine.errors import IntensityError, ParameterError, TomogramNotFoundError
from tomoscribe.engine.polarity import density_skewness
from tomoscribe.export import samples as module
from tomoscribe.export.samples import FIRST_SEED, gather_samples, phantom_samples, tomogram_samples

SPECIFICATION = ModelSpecification("tiny", ClassMap((LabelClass(1, "x", (1, 2, 3)),)), 1, 16, 32, (3.0, 90.0))


@pytest.fixture
def volume(tmp_path):
    """A tomogram whose every slice holds its own number as its fraction, so that slices can be told apart."""

    def volume(depth, height=40, width=56):
        random = np.random.default_rng(0)
        data = random.integers(-100, 100, (depth, height, width)) + np.arange(depth)[:, None, None] / 1000
        path = tmp_path / f"{depth}x{height}x{width}.mrc"
        with mrcfile.new(path, overwrite=True) as file:
            file.set_data(data.astype(np.float32))
            file.voxel_size = 13.0
        return path

    return volume


def z_of(sample):
    return [round(float(values.flat[0] % 1) * 1000) for values in sample.slices.astype(np.float64)]


@pytest.mark.parametrize("depth", [6, 7, 12, 50])
@pytest.mark.parametrize("context", [0, 1])
def test_calibration_and_parity_share_no_slice(volume, depth, context):
    specification = replace(SPECIFICATION, context=context)
    used = {
        part: [z for sample in tomogram_samples(volume(depth), specification, part) for z in z_of(sample)]
        for part in ("calibration", "parity")
    }
    assert all(used.values())
    both = used["calibration"] + used["parity"]
    assert len(set(both)) == len(both)
    assert max(both) < depth
    assert max(both) - min(both) >= depth // 2 - 1


def test_a_tomograms_samples_are_its_slices_in_its_units(volume):
    path = volume(24, 700, 350)
    found = tomogram_samples(path, SPECIFICATION, "parity")
    data = mrcfile.read(path)
    assert len(found) == 3
    windows = []
    for sample in found:
        assert sample.slices.shape == (4, 320, 320)
        assert sample.slices.dtype == np.float32
        assert sample.mean.shape == sample.rstd.shape == (4,)
        z = z_of(sample)
        assert z == list(range(z[0], z[0] + 4))
        assert sample.name == f"24x700x350.mrc, slices {z[0]} to {z[-1]}"
        assert sample.source == "24x700x350.mrc"
        corners = [
            (top, left)
            for top in range(700 - 319)
            for left in range(31)
            if data[z[0], top, left] == sample.slices[0, 0, 0]
            and np.array_equal(data[z[0] : z[0] + 4, top : top + 320, left : left + 320], sample.slices)
        ]
        windows += corners
        np.testing.assert_allclose(sample.mean, data.mean(), atol=1)
        np.testing.assert_allclose(np.abs(sample.rstd), 1 / data.std(), rtol=0.02)
    assert windows == [(95, 7), (190, 15), (285, 22)]


def test_a_slice_that_is_no_multiple_is_cut(volume):
    assert {s.slices.shape[1:] for s in tomogram_samples(volume(12), SPECIFICATION, "parity")} == {(32, 48)}


def test_contrast_is_turned_over_where_the_tomogram_shows_the_other_polarity(volume, monkeypatch):
    for shown, polarity, sign in (
        ("dark", "dark", 1),
        ("bright", "dark", -1),
        ("dark", "bright", -1),
        (None, "bright", 1),
    ):
        monkeypatch.setattr(module, "polarity_of", lambda _, shown=shown: shown)
        found = tomogram_samples(volume(12), replace(SPECIFICATION, polarity=polarity), "parity")
        assert all((np.sign(sample.rstd) == sign).all() for sample in found)


def test_tomograms_that_cannot_be_used_are_one_line(volume, tmp_path):
    for path, message in (
        (volume(5), "expected at least 6 slices, .* found 5"),
        (volume(12, 15, 40), "expected slices of at least 16 × 16 pixels .* found 15 × 40"),
    ):
        with pytest.raises(ParameterError, match=message) as caught:
            tomogram_samples(path, SPECIFICATION, "parity")
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(TomogramNotFoundError):
        tomogram_samples(tmp_path / "absent.mrc", SPECIFICATION, "parity")
    with mrcfile.mmap(volume(7), mode="r+") as file:
        file.data[:] = np.nan
    with pytest.raises(IntensityError):
        tomogram_samples(volume_path := tmp_path / "7x40x56.mrc", SPECIFICATION, "parity")
    assert volume_path.is_file()


@pytest.fixture(scope="module")
def phantoms():
    return phantom_samples(SPECIFICATION, range(FIRST_SEED, FIRST_SEED + 2))


def test_phantoms_are_in_the_graph_contract_and_unlike_each_other(phantoms):
    for sample in phantoms:
        count = len(sample.slices)
        assert sample.mean.shape == sample.rstd.shape == (count,)
        assert count > 2 * SPECIFICATION.context
        assert all(side % SPECIFICATION.tile_multiple == 0 for side in sample.slices.shape[1:])
        assert sample.slices.dtype == np.float32
        normalised = (sample.slices - sample.mean[:, None, None]) * sample.rstd[:, None, None]
        assert abs(normalised.mean()) < 0.5
        assert 0.5 < normalised.std() < 1.5
        assert sample.source == "phantoms"
        assert abs(sample.slices.mean()) > 50  # the file's units, not the network's
        assert density_skewness(normalised) < 0  # dark, as the model wants it
    assert phantoms[0].slices.shape != phantoms[1].slices.shape
    assert phantoms[0].rstd[0] > 0 > phantoms[1].rstd[0]


def test_a_seed_gives_its_phantom_again_and_a_bright_model_gets_it_turned_over(phantoms):
    (again,) = phantom_samples(replace(SPECIFICATION, polarity="bright"), [FIRST_SEED])
    np.testing.assert_array_equal(again.slices, phantoms[0].slices)
    np.testing.assert_array_equal(again.rstd, -phantoms[0].rstd)


def test_no_set_has_a_phantom_or_a_block_of_another(volume, monkeypatch):
    monkeypatch.setattr(module, "phantom_samples", lambda _, seeds: [f"phantom {seed}" for seed in seeds])
    sets = gather_samples(SPECIFICATION, [volume(50), volume(20)], quantised=True)
    names = [[str(getattr(s, "name", s)) for s in part] for part in (sets.parity, sets.calibration, sets.search)]
    assert all(len(part) > 3 for part in names)
    together = [name for part in names for name in part]
    assert len(set(together)) == len(together)
    for part in names:
        assert {name.split()[0].rstrip(",") for name in part} == {"phantom", "50x40x56.mrc", "20x40x56.mrc"}
    without = gather_samples(SPECIFICATION, [volume(50)], quantised=False)
    assert len(without.parity) < len(sets.parity)
    assert (without.calibration, without.search) == ((), ())

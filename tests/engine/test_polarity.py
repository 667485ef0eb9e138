"""Dark or bright: on drawn densities of known sign, and on the real data whose polarity is documented."""

from __future__ import annotations

from collections import Counter

import mrcfile
import numpy as np
import pytest
import tifffile
from scipy.stats import skew

from tomoscribe.engine.errors import ParameterError
from tomoscribe.engine.polarity import density_skewness, polarity_of


def drawn(density, depth=6, side=96, seed=0):
    """Vesicles of a density in noise, on a slope as thickness makes it."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    values = random.normal(0, 1, (depth, side, side)) + 0.05 * x
    for centre_y, centre_x in random.integers(20, side - 20, (side**2 // 2300, 2)):
        radius = np.hypot(y - centre_y, x - centre_x)
        values += density * np.exp(-(((radius - 14) / 2) ** 2))
    return values.astype(np.float32)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("density", "polarity"), [(-2, "dark"), (2, "bright"), (0, None)])
def test_the_sign_of_what_stands_out(array_tomogram, density, polarity, seed):
    assert polarity_of(array_tomogram(drawn(density, seed=seed))) == polarity


def test_gold_does_not_decide(array_tomogram):
    values = drawn(-2)
    values[2:4, 40:44, 40:44] = 500
    assert polarity_of(array_tomogram(values)) == "dark"


def test_small_constant_and_damaged_volumes_are_not_judged(array_tomogram):
    assert polarity_of(array_tomogram(drawn(-2)[:, :63])) is None
    assert polarity_of(array_tomogram(np.full((3, 64, 64), 7, np.int16))) is None
    values = drawn(-2)
    values[0, 0, 0] = np.inf
    assert polarity_of(array_tomogram(values)) is None
    assert polarity_of(array_tomogram(values), (1, 6)) == "dark"


def test_a_z_range_outside_of_the_volume_is_refused(array_tomogram):
    with pytest.raises(ParameterError, match="within 0:6, found 2:7"):
        polarity_of(array_tomogram(drawn(-2)), (2, 7))


def test_only_the_middle_of_large_slices_counts(array_tomogram):
    values = np.full((1, 600, 700), np.nan, np.float32)
    values[:, 44:556, 94:606] = drawn(-2, depth=1, side=512)
    assert polarity_of(array_tomogram(values)) == "dark"


def test_without_structure_it_is_the_skewness_of_smoothed_noise():
    values = np.random.default_rng(0).exponential(1, (4, 128, 128)).astype(np.float32)
    assert 0 < density_skewness(values) < skew(values.ravel()) / 2
    assert density_skewness(-values) == pytest.approx(-density_skewness(values), rel=1e-3)


def test_a_real_microtubule_that_is_bright(shared_data, array_tomogram):
    values = tifffile.imread(shared_data / "real" / "microtubule_13pf.tif")
    assert polarity_of(array_tomogram(values)) == "bright"


def test_real_membranes_that_are_dark(shared_data, array_tomogram):
    found = Counter()
    for path in (shared_data / "real" / "membrane_slices").glob("*.tif"):
        if "mask" not in path.name:
            values = tifffile.imread(path)
            found[polarity_of(array_tomogram(values.reshape(*values.shape[:2], -1)[np.newaxis, ..., 0]))] += 1
    assert found["bright"] == 0
    assert found["dark"] >= 20


def test_simulated_vesicles_that_are_dark(shared_data, array_tomogram):
    with mrcfile.open(shared_data / "simulated" / "vesicles_100.mrc", permissive=True) as mrc:
        assert polarity_of(array_tomogram(mrc.data)) == "dark"

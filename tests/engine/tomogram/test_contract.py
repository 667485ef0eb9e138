from __future__ import annotations

import numpy as np
import pytest

from tomoscribe.engine.errors import ParameterError


@pytest.mark.parametrize(("z_range", "checked"), [(None, (0, 7)), ((0, 7), (0, 7)), ((2, 3), (2, 3)), ((6, 7), (6, 7))])
def test_a_z_range_in_the_volume_is_taken(array_tomogram, z_range, checked):
    assert array_tomogram(np.zeros((7, 2, 3))).checked_range(z_range) == checked


@pytest.mark.parametrize("z_range", [(0, 8), (-1, 3), (3, 3), (5, 2), (7, 8)])
def test_a_z_range_that_is_empty_or_reaches_outside_is_refused(array_tomogram, z_range):
    found = f"{z_range[0]}:{z_range[1]}"
    with pytest.raises(ParameterError, match=rf"^volume\.mrc: expected a z range within 0:7, found {found}; .*$"):
        array_tomogram(np.zeros((7, 2, 3))).checked_range(z_range)


def test_numbers_of_numpy_count_and_fractions_do_not(array_tomogram):
    tomogram = array_tomogram(np.zeros((7, 2, 3)))
    checked = tomogram.checked_range((np.int64(2), np.int64(4)))
    assert checked == (2, 4)
    assert [type(number) for number in checked] == [int, int]
    for z_range in ((2.0, 4.0), (2, None), (1, 2, 3)):
        with pytest.raises(ParameterError, match="two whole numbers"):
            tomogram.checked_range(z_range)

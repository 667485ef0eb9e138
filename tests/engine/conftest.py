"""A tomogram without a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tomoscribe.engine.errors import ParameterError
from tomoscribe.engine.tomogram.contract import Geometry, Tomogram


class ArrayTomogram(Tomogram):
    """Values in memory; `before_read(start, out)` may be replaced to watch or to disturb the reads."""

    def __init__(self, values):
        self.path = Path("volume.mrc")
        self.values = values
        self.dtype = values.dtype
        self.geometry = Geometry(values.shape)
        self.warnings = ()
        self.before_read = lambda start, out: None

    def read_slices(self, start, out):
        self.before_read(start, out)
        if not 0 <= start < start + len(out) <= len(self.values) or out.shape[1:] != self.values.shape[1:]:
            raise ParameterError(f"read {out.shape} from {start} of {self.values.shape}")
        out[:] = self.values[start : start + len(out)]

    def close(self):
        pass


@pytest.fixture(scope="session")
def array_tomogram():
    """The class `ArrayTomogram`, to be called with ``(z, y, x)`` values."""
    return ArrayTomogram

from __future__ import annotations

import pytest

from tomoscribe.engine import errors

BUILT_IN = {
    "BackendError": RuntimeError,
    "BackendUnavailableError": RuntimeError,
    "BundleError": ValueError,
    "IntensityError": ValueError,
    "OutputError": OSError,
    "OutputExistsError": FileExistsError,
    "ParameterError": ValueError,
    "TomogramFormatError": ValueError,
    "TomogramNotFoundError": FileNotFoundError,
}


def test_every_error_is_listed_described_and_tested():
    assert sorted(errors.__all__) == errors.__all__ == sorted([*BUILT_IN, "TomoscribeError"])
    assert all(f"── {name}" in (errors.__doc__ or "") for name in BUILT_IN)


@pytest.mark.parametrize("name", BUILT_IN)
def test_an_error_is_also_the_built_in_that_fits_and_says_what_it_was_told(name):
    kind = getattr(errors, name)
    assert issubclass(kind, errors.TomoscribeError)
    assert issubclass(kind, BUILT_IN[name])
    assert str(kind("a.mrc: expected this, found that")) == "a.mrc: expected this, found that"
    assert kind.exit_status == (1 if name in ("BackendError", "OutputError") else 2)

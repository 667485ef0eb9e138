"""Which library calls CUDA's driver."""

from __future__ import annotations

import pytest

from tomoscribe.engine.cuda import choice, load_driver
from tomoscribe.engine.errors import BackendUnavailableError


@pytest.mark.parametrize("library", ["cuda.bindings", "pycuda"])
def test_the_one_that_is_installed_is_taken(simulate, library):
    simulate(library)
    assert load_driver().name == f"{library} 1.0"


@pytest.mark.parametrize(("works", "taken"), [(True, "PycudaDriver"), (False, "CudaBindingsDriver")])
def test_pycuda_is_preferred_where_it_works(monkeypatch, works, taken):
    def adapter(name, works):
        def make(self):
            if not works:
                raise BackendUnavailableError("it was compiled for another driver")

        return type(name, (), {"__init__": make})

    monkeypatch.setattr(choice, "PycudaDriver", adapter("PycudaDriver", works))
    monkeypatch.setattr(choice, "CudaBindingsDriver", adapter("CudaBindingsDriver", True))
    assert type(load_driver()).__name__ == taken


def test_where_neither_works_both_say_why(simulate, simulator):
    simulate("cuda.bindings")
    simulator.failing["cuInit"] = "CUDA_ERROR_NOT_FOUND"
    with pytest.raises(BackendUnavailableError, match=r"pycuda: .*install.*; cuda\.bindings: .*NOT_FOUND") as caught:
        load_driver()
    assert "\n" not in str(caught.value)

"""Which backends can run a bundle on this machine: each is asked, and labels a small slice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tomoscribe.cli.failure import describe

if TYPE_CHECKING:
    from tomoscribe.engine import Bundle
    from tomoscribe.engine.backends import Backend

__all__ = ["Trial", "try_backends"]

_PIXELS = 64


@dataclass(frozen=True)
class Trial:
    """Whether a backend can run a bundle here; `answer` says what runs where, or why not."""

    backend: str
    runs: bool
    answer: str


def try_backends(bundle: Bundle) -> list[Trial]:
    """Ask every backend, in the order in which ``--backend auto`` does, to load a bundle and to label a slice.

    Where the machine has a GPU, those that run on one are asked first, and load the bundle only: for a slice, TensorRT
    would build a plan for minutes.
    """
    from tomoscribe.engine.backends import BACKENDS, GPU_BACKENDS, choose_backend
    from tomoscribe.engine.backends.gpu_choice import has_gpu

    trials = []
    for name in [*(GPU_BACKENDS if has_gpu() else ()), *BACKENDS]:
        try:
            backend = BACKENDS[name](bundle) if name in BACKENDS else choose_backend(name, bundle)[0]
            try:
                if name in BACKENDS:
                    _label_a_slice(backend, bundle)
                trials.append(Trial(name, True, backend.description))
            finally:
                backend.close()
        except Exception as error:  # whatever keeps it from running is the answer
            trials.append(Trial(name, False, describe(error)))
    return trials


def _label_a_slice(backend: Backend, bundle: Bundle) -> None:
    from tomoscribe.engine.backends import SlotShape

    specification = bundle.specification
    multiple = specification.tile_multiple
    side = -(-_PIXELS // multiple) * multiple
    (slot,) = backend.allocate(SlotShape(1, specification.context, side, side, specification.classes), 1)
    slot.slices[:] = slot.mean[:] = 0
    slot.rstd[:] = slot.count = 1
    backend.submit(slot)
    backend.wait(slot)

"""What each configuration was found to do, and the ratios that follow from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np
from measuring import ratio
from numpy.typing import NDArray
from peers_configurations import EAGER_MONAI, Configuration

__all__ = ["AIMS", "Agreement", "Outcome", "agreement", "best_automatic", "ratios"]

AIMS = {
    "over_torch_eager_monai": 12.0,
    "over_best_torch": 2.0,
    "over_best_bare_backend": 0.95,
    "foreground_dice_vs_fp32": 0.99,
}
"""What a ratio is to be at least."""


@dataclass(frozen=True)
class Agreement:
    """How far labels are those of a reference.

    Attributes:
        foreground: the Dice coefficient of all voxels that are not background, where a voxel agrees only if its class
            does.
        classes: the Dice coefficient of each class, from 1 on; None for one that neither has.
    """

    foreground: float
    classes: Sequence[float | None]


@dataclass(frozen=True)
class Outcome:
    """What was measured of a configuration.

    Attributes:
        configuration: which.
        precision: that it worked in: ``fp32``, ``bf16`` or ``int8``.
        description: what worked, in a line.
        whole: seconds of the process in every round.
        steady: seconds of a slice in every round, the network being loaded and warm.
        agreement: with the reference; None where that was left out.
    """

    configuration: Configuration
    precision: str
    description: str
    whole: Sequence[float]
    steady: Sequence[float]
    agreement: Agreement | None

    def to_json(self) -> dict[str, Any]:
        """Return the outcome in JSON's types; of the configuration, its name."""
        return asdict(self) | {"configuration": self.configuration.name}


def agreement(labels: NDArray[np.uint8], reference: NDArray[np.uint8], classes: int) -> Agreement:
    """Return how far labels agree with others.

    Args:
        labels: ``(z, y, x)``.
        reference: of the same shape.
        classes: with background.
    """
    pairs = classes * reference.astype(np.int64).ravel() + labels.ravel()
    counts = np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
    common = np.diag(counts)[1:]
    sizes = (counts.sum(axis=0) + counts.sum(axis=1))[1:]
    found = [2 * int(a) / int(b) if b else None for a, b in zip(common, sizes, strict=True)]
    return Agreement(2 * int(common.sum()) / int(sizes.sum()) if sizes.any() else 1.0, found)


def _best(outcomes: Iterable[Outcome], kind: str) -> Outcome | None:
    """Return the fastest, ``whole`` or ``steady``; None of none."""
    return min(outcomes, key=lambda outcome: median(getattr(outcome, kind)), default=None)


def best_automatic(outcomes: Iterable[Outcome]) -> Outcome | None:
    """Return the faster of tomoscribe's automatic configurations, in the steady state."""
    return _best((outcome for outcome in outcomes if outcome.configuration.precision == "auto"), "steady")


def ratios(
    outcomes: Sequence[Outcome], voxels_of_a_slice: int, operations_per_voxel: float, peaks: Mapping[str, float]
) -> dict[str, float]:
    """Return the ratios of tomoscribe to its peers, by name.

    Without a suffix they are those of the faster of its automatic configurations; the others have its name as a suffix.
    ``_whole_process`` is of whole processes, everything else of the steady state; ``_same_precision`` is over the best
    peer that works in no other precision.

    Args:
        outcomes: of all that ran.
        voxels_of_a_slice: as the name says.
        operations_per_voxel: of the network.
        peaks: operations a second that the machine can do, by precision.
    """
    ours = [outcome for outcome in outcomes if outcome.configuration.is_tomoscribe]
    automatic = best_automatic(outcomes)
    named = {"": automatic} if automatic else {}
    named |= {f"_{outcome.configuration.name}": outcome for outcome in ours}
    found: dict[str, float] = {}
    for suffix, own in named.items():
        for kind, process in (("steady", ""), ("whole", "_whole_process")):
            for name, peer in _rivals(own, outcomes, kind).items():
                found[f"{name}{process}{suffix}"] = ratio(getattr(peer, kind), getattr(own, kind))
        if own.agreement is not None:
            found[f"foreground_dice_vs_fp32{suffix}"] = own.agreement.foreground
        if own.precision in peaks:
            done = operations_per_voxel * voxels_of_a_slice / median(own.steady)
            found[f"peak_fraction{suffix}"] = done / peaks[own.precision]
    return found


def _rivals(own: Outcome, outcomes: Sequence[Outcome], kind: str) -> dict[str, Outcome]:
    """Return the peers that a configuration is compared with, by the name of the ratio."""
    torch = [outcome for outcome in outcomes if outcome.configuration.family == "torch"]
    bare = [outcome for outcome in outcomes if outcome.configuration.family in ("onnxruntime", "openvino")]
    groups = {
        EAGER_MONAI: [outcome for outcome in torch if outcome.configuration.name == EAGER_MONAI],
        "best_torch": torch,
        "best_bare_backend": bare,
    }
    for name in ("best_torch", "best_bare_backend"):
        groups[f"{name}_same_precision"] = [peer for peer in groups[name] if peer.precision == own.precision]
    return {f"over_{name}": peer for name, group in groups.items() if (peer := _best(group, kind))}

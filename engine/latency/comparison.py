"""Two benchmarks beside each other: what became slower by more than can be chance."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from scipy.special import stdtrit

from tomoscribe.engine.errors import ParameterError
from tomoscribe.engine.latency.record import Measurement, Record
from tomoscribe.engine.latency.statistics import Figure

__all__ = ["Change", "Comparison", "Pair", "Verdict", "compare"]

# That a difference between equal figures lies within their noise.
_CONFIDENCE = 0.99
_HIGHER_IS_BETTER = "_per_second"
# What a machine has to share with another so that a difference in speed is not its own.
_SAME_MACHINE = ("processor", "cores_usable")


class Verdict(StrEnum):
    """What became of a figure."""

    SLOWER = "slower"
    FASTER = "faster"
    SAME = "same"
    NOISE = "within noise"
    UNKNOWN = "measured once"


@dataclass(frozen=True)
class Change:
    """A figure before and after.

    Attributes:
        name: the figure's, which ends with its unit.
        before: in that unit.
        after: in that unit.
        noise: how large a difference the spread of both explains, over the figure: the 99 % confidence interval of
            Welch's t-test. None where a run measured it only once.
        verdict: ``slower`` or ``faster`` where the difference is more than the tolerance and the noise together;
            ``within noise`` where it is more than the tolerance alone; ``same`` where it is not; ``measured once``
            where it is, and the noise is not known.
    """

    name: str
    before: float
    after: float
    noise: float | None
    verdict: Verdict

    @property
    def ratio(self) -> float:
        """After over before."""
        return self.after / self.before


@dataclass(frozen=True)
class Pair:
    """A configuration that both runs measured, and how its figures changed."""

    kind: str
    configuration: Mapping[str, Any]
    changes: tuple[Change, ...]


@dataclass(frozen=True)
class Comparison:
    """Two benchmarks beside each other.

    Attributes:
        pairs: what both measured.
        only_before: what only the first measured.
        only_after: what only the second measured.
        warnings: how the runs differ otherwise, a line each.
    """

    pairs: tuple[Pair, ...]
    only_before: tuple[Measurement, ...]
    only_after: tuple[Measurement, ...]
    warnings: tuple[str, ...]

    def count(self, verdict: Verdict) -> int:
        """Return how many figures have a verdict."""
        return sum(change.verdict is verdict for pair in self.pairs for change in pair.changes)


def compare(before: Record, after: Record, tolerance: float = 0.05) -> Comparison:
    """Compare what two benchmarks measured of the same configurations.

    Runs on other machines, of other models or versions can be compared, since that is a question of its own; the
    warnings say so.

    Args:
        before: the earlier run.
        after: the later one.
        tolerance: how much slower is no matter, over the figure.

    Raises:
        ParameterError: a negative tolerance, or no configuration that both runs measured.
    """
    if not 0 <= tolerance < math.inf:
        raise ParameterError(f"expected a tolerance of 0 or more, found {tolerance:g}")
    rows, later = _by_configuration(before), _by_configuration(after)
    pairs = tuple(_pair(rows[key], later[key], tolerance) for key in rows if key in later)
    if not pairs:
        raise ParameterError(
            "expected a configuration (backend, precision, device, tile, batch, streams) that both files have, found "
            "none; measure both with the same options"
        )
    return Comparison(
        pairs=pairs,
        only_before=tuple(row for key, row in rows.items() if key not in later),
        only_after=tuple(row for key, row in later.items() if key not in rows),
        warnings=_differences(before, after),
    )


def _by_configuration(record: Record) -> dict[str, Measurement]:
    return {json.dumps([row.kind, row.configuration], sort_keys=True): row for row in record.measurements}


def _pair(before: Measurement, after: Measurement, tolerance: float) -> Pair:
    changes = (
        _change(name, figure, after.figures[name], tolerance)
        for name, figure in before.figures.items()
        if name in after.figures
    )
    return Pair(before.kind, before.configuration, tuple(changes))


def _change(name: str, before: Figure, after: Figure, tolerance: float) -> Change:
    noise = _noise(before, after)
    longer = after.value / before.value
    if name.endswith(_HIGHER_IS_BETTER):
        longer = 1 / longer
    difference = max(longer, 1 / longer) - 1
    if difference <= tolerance:
        verdict = Verdict.SAME
    elif noise is None:
        verdict = Verdict.UNKNOWN
    elif difference <= tolerance + noise:
        verdict = Verdict.NOISE
    else:
        verdict = Verdict.SLOWER if longer > 1 else Verdict.FASTER
    return Change(name, before.value, after.value, noise, verdict)


def _noise(before: Figure, after: Figure) -> float | None:
    """Return half of the confidence interval of the difference (Welch 1947, doi:10.1093/biomet/34.1-2.28)."""
    if before.error is None or after.error is None:
        return None
    squares = before.error**2, after.error**2
    if not any(squares):
        return 0.0
    freedom = sum(squares) ** 2 / (squares[0] ** 2 / (before.samples - 1) + squares[1] ** 2 / (after.samples - 1))
    return float(stdtrit(freedom, (1 + _CONFIDENCE) / 2)) * math.sqrt(sum(squares))


def _differences(before: Record, after: Record) -> tuple[str, ...]:
    warnings = []
    machines = [[record.machine.get(key) for key in _SAME_MACHINE] for record in (before, after)]
    if machines[0] != machines[1]:
        was, is_now = (f"{processor}, {cores} cores" for processor, cores in machines)
        warnings.append(f"the machines differ ({was}; {is_now}): a difference in speed may be theirs")
    gpus = [record.machine.get("gpus") or {} for record in (before, after)]
    for number in sorted(gpus[0].keys() & gpus[1].keys()):
        was, is_now = (names[number] for names in gpus)
        if was != is_now:
            warnings.append(f"GPU {number} differs ({was}; {is_now}): a difference in speed may be its own")
    if before.model != after.model:
        names = before.model["name"], after.model["name"]
        which = f"{names[0]} and {names[1]}" if names[0] != names[1] else f"{names[0]} with other weights"
        warnings.append(f"the models differ ({which}): a difference in speed may be theirs")
    packages = sorted(before.versions.keys() | after.versions.keys())
    changed = [
        f"{package} {before.versions.get(package, 'none')} → {after.versions.get(package, 'none')}"
        for package in packages
        if before.versions.get(package) != after.versions.get(package)
    ]
    if changed:
        warnings.append(f"versions differ: {', '.join(changed)}")
    return tuple(warnings)

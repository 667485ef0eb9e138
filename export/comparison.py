"""One artifact against its reference: the figures, the verdict of its gate, and where its error arises."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tomoscribe.engine.class_map import ClassMap
from tomoscribe.export.drift import worst_layer
from tomoscribe.export.parity import GATES, Answer, Figures, ParityError, Runner, Sample, measure

__all__ = ["Apart", "Comparison", "Verdict", "compare"]


@dataclass(frozen=True)
class Apart:
    """A way of running an artifact that is judged by itself.

    Whether it passes decides who may take the artifact in this way without being asked, and not whether the artifact is
    written: that is for its main user.

    Attributes:
        runner: its answers.
        gate: names the gate in `GATES`.
    """

    runner: Runner
    gate: str

    def __call__(self, sample: Sample) -> Answer:
        """Return the answer to a sample."""
        return self.runner(sample)


@dataclass(frozen=True)
class Verdict:
    """What a gate says of a way of running an artifact that is judged by itself.

    Attributes:
        figures: how far it agrees with the reference; None where it does not run.
        shortfalls: what it misses; nothing where it passes.
    """

    figures: Figures | None
    shortfalls: Sequence[str]

    def to_json(self) -> dict[str, Any]:
        """Return the verdict as it stands in ``model.json``."""
        figures = {} if self.figures is None else self.figures.to_json()
        return {**figures, "passed": not self.shortfalls, "shortfalls": list(self.shortfalls)}


@dataclass(frozen=True)
class Comparison:
    """An artifact against its reference.

    Attributes:
        precision: ``fp32``, ``fp16`` or ``int8``; names the gate.
        reference: what the artifact was compared with, such as ``PyTorch 2.13.0, FP32``.
        figures: by what ran the artifact, such as ``ONNX Runtime 1.31.1, CPU``; the first stands in ``model.json``.
        layer_errors: what `tomoscribe.export.drift.layer_errors` found; empty where it was not asked.
        apart: verdicts on what ran the artifact and is judged by itself.
    """

    precision: str
    reference: str
    figures: Mapping[str, Figures]
    layer_errors: Mapping[str, float] = field(default_factory=dict)
    apart: Mapping[str, Verdict] = field(default_factory=dict)

    @property
    def shortfalls(self) -> list[str]:
        """What the gate of the precision misses; nothing where the artifact passes."""
        gate = GATES[self.precision]
        return [
            f"{missed} ({runtime})" for runtime, figures in self.figures.items() for missed in gate.shortfalls(figures)
        ]

    def check(self, artifact: Path) -> None:
        """Refuse an artifact that its gate does not let through.

        Raises:
            ParityError: with what is missed, and the layer that contributes most where that is known.
        """
        if missed := self.shortfalls:
            layer = worst_layer(self.layer_errors)
            # FP32 is every bundle's reference.
            leave = "" if self.precision == "fp32" else f"leave {self.precision} out or "
            raise ParityError(
                f"{artifact.name}: {'; '.join([*missed, *([layer] if layer else [])])}; no bundle was written, "
                f"{leave}let it through with --allow-drift"
            )

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as it stands in ``model.json``, where an artifact that drifts has not passed."""
        (runtime, first), *others = self.figures.items()
        return {
            **first.to_json(),
            "reference": self.reference,
            "runtime": runtime,
            "passed": not self.shortfalls,
            "shortfalls": self.shortfalls,
            "others": {
                **{name: figures.to_json() for name, figures in others},
                **{name: verdict.to_json() for name, verdict in self.apart.items()},
            },
        }

    def layers_to_json(self) -> dict[str, float | None]:
        """Return the errors by layer for ``parity.json``; None where a layer is not finite."""
        return {layer: error if math.isfinite(error) else None for layer, error in self.layer_errors.items()}


def compare(
    precision: str,
    reference: tuple[str, Runner],
    candidates: Mapping[str, Runner],
    samples: Sequence[Sample],
    class_map: ClassMap,
    layer_errors: Mapping[str, float] | None = None,
) -> Comparison:
    """Measure an artifact, run in one way or several, against its reference.

    Args:
        precision: names the gate.
        reference: what it is, and its answers.
        candidates: the ways of running the artifact, by name; those that are `Apart` are judged by themselves.
        samples: what all are given.
        class_map: the names of the labels.
        layer_errors: where the error arises, if it was measured.

    Raises:
        ParityError: the artifact cannot run, or answers in other shapes, in a way that is not `Apart`.
    """
    name, runner = reference
    figures: dict[str, Figures] = {}
    apart: dict[str, Verdict] = {}
    for way, candidate in candidates.items():
        try:
            measured = measure(runner, candidate, samples, class_map)
        except ParityError as error:
            if not isinstance(candidate, Apart):
                raise
            apart[way] = Verdict(None, [str(error)])
        else:
            if isinstance(candidate, Apart):
                apart[way] = Verdict(measured, GATES[candidate.gate].shortfalls(measured))
            else:
                figures[way] = measured
    return Comparison(precision, name, figures, layer_errors or {}, apart)

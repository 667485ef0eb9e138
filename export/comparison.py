"""One artifact against its reference: the figures, the verdict of its gate, and where its error arises."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tomoscribe.engine.class_map import ClassMap
from tomoscribe.export.drift import worst_layer
from tomoscribe.export.parity import GATES, Figures, ParityError, Runner, Sample, measure

__all__ = ["Comparison", "compare"]


@dataclass(frozen=True)
class Comparison:
    """An artifact against its reference.

    Attributes:
        precision: ``fp32``, ``fp16`` or ``int8``; names the gate.
        reference: what the artifact was compared with, such as ``PyTorch 2.13.0, FP32``.
        figures: by what ran the artifact, such as ``ONNX Runtime 1.31.1, CPU``; the first stands in ``model.json``.
        layer_errors: what `tomoscribe.export.drift.layer_errors` found; empty where it was not asked.
    """

    precision: str
    reference: str
    figures: Mapping[str, Figures]
    layer_errors: Mapping[str, float] = field(default_factory=dict)

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
            "others": {name: figures.to_json() for name, figures in others},
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
        candidates: the ways of running the artifact, by name.
        samples: what all are given.
        class_map: the names of the labels.
        layer_errors: where the error arises, if it was measured.

    Raises:
        ParityError: the artifact cannot run, or answers in other shapes.
    """
    name, runner = reference
    figures = {way: measure(runner, candidate, samples, class_map) for way, candidate in candidates.items()}
    return Comparison(precision, name, figures, layer_errors or {})

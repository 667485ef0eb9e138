"""INT8: the FP32 graph calibrated, quantised, and searched for the layers that have to stay in float."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import onnx

from tomoscribe.engine.class_map import ClassMap
from tomoscribe.engine.errors import BundleError, ParameterError
from tomoscribe.engine.replacing import replacing
from tomoscribe.export.parity import GATES, Figures, Gate, Sample, measure, onnxruntime_runner, remembered
from tomoscribe.export.quantisation_calibration import DEFAULT_RULE, RULES, calibrate
from tomoscribe.export.quantisation_graph import OPERATORS, Form, convolutions, quantised_graph

__all__ = ["MOST_IN_FLOAT", "TARGET", "Form", "Quantisation", "Step", "quantise"]

TARGET = Gate(dice=GATES["int8"].dice + 0.006)
"""What the search asks for: more than the gate, which judges other slices."""

MOST_IN_FLOAT = 8
"""Steps after which the search gives up; a network that needs more is hardly INT8 any more."""


@dataclass(frozen=True)
class Step:
    """One state that the search tried.

    Attributes:
        in_float: the layers that were not quantised.
        figures: of the quantised graph against FP32, on the search's samples.
    """

    in_float: tuple[str, ...]
    figures: Figures


@dataclass(frozen=True)
class Quantisation:
    """How an INT8 graph was made.

    Attributes:
        form: what it is for.
        rule: how ranges were taken, a key of `tomoscribe.export.quantisation_calibration.RULES`.
        calibrated_on: names of the samples that ranges were taken from.
        searched_on: names of the samples that the search looked at.
        layers: the convolutions that could be quantised, in the order of the graph.
        damage: mean difference of the scores, of 255, where a layer alone is quantised; empty if nothing had to stay
            in float.
        steps: what the search tried; the last is what was written.
    """

    form: Form
    rule: str
    calibrated_on: tuple[str, ...]
    searched_on: tuple[str, ...]
    layers: tuple[str, ...]
    steps: tuple[Step, ...]
    damage: Mapping[str, float] = field(default_factory=dict)

    @property
    def in_float(self) -> tuple[str, ...]:
        """The layers that stayed in float, the worst first."""
        return self.steps[-1].in_float

    def to_json(self) -> dict[str, Any]:
        """Return all of it as it stands in ``parity.json``."""
        return {
            **asdict(self),
            "form": str(self.form),
            "in_float": self.in_float,
            "steps": [{"in_float": step.in_float, "figures": step.figures.to_json()} for step in self.steps],
            "target_dice": TARGET.dice,
            "target_missed": TARGET.shortfalls(self.steps[-1].figures),
        }

    def to_markdown(self) -> list[str]:
        """Return it in words, with the steps of the search as a table."""
        left = ", ".join(self.in_float) or "none"
        # What `tomoscribe.export.quantisation_graph` makes of them.
        kind = "FP16, as the transposed convolutions are" if self.form is Form.TENSORRT else "FP32"
        classes = list(self.steps[0].figures.dice)
        lines = [
            f"Form: {self.form}. Ranges: {self.rule}, from {len(self.calibrated_on)} samples. "
            f"{len(self.layers) - len(self.in_float)} of {len(self.layers)} layers are quantised; in {kind}: {left}.",
            "",
            f"The search, on {len(self.searched_on)} samples, for a Dice of {TARGET.dice:.3f} in every class on "
            "the phantoms and on each tomogram, of which the lowest is told:",
            "",
            "| left in float | damage alone | mean Δ score | " + " | ".join(classes) + " |",
            "|---" * (3 + len(classes)) + "|",
        ]
        for step in self.steps:
            added = step.in_float[-1] if step.in_float else ""
            dice = ["" if value is None else f"{value:.4f}" for value in step.figures.lowest_dice.values()]
            cells = [
                f"and {added}" if added else "nothing",
                f"{self.damage[added]:.3f}" if added else "",
                f"{step.figures.mean_score_difference:.3f}",
                *dice,
            ]
            lines.append(f"| {' | '.join(cells)} |")
        return lines


def quantise(
    fp32: Path,
    calibration: Sequence[Sample],
    search: Sequence[Sample],
    class_map: ClassMap,
    output: Path,
    *,
    form: Form = Form.TENSORRT,
    rule: str = DEFAULT_RULE,
) -> Quantisation:
    """Write the INT8 graph of an FP32 graph.

    All convolutions are quantised if every class then has the Dice coefficient of `TARGET` with FP32. Otherwise each
    is quantised alone to see what harm it does, and the worst stay in float, one after the other, until the target is
    reached or `MOST_IN_FLOAT` are. What is left of the harm then is for the parity gate to judge, on other samples.

    Args:
        fp32: the graph, in the graph contract.
        calibration: samples that the ranges of activations are taken from.
        search: samples that the search compares on.
        class_map: the names of the labels.
        output: the file to write.
        form: what the INT8 graph is for.
        rule: how ranges are taken, a key of `tomoscribe.export.quantisation_calibration.RULES`.

    Raises:
        ParameterError: no samples, or an unknown rule.
        BundleError: the graph has no convolutions.
        ParityError: a graph does not run.
        OutputError: `output` cannot be written.
    """
    if rule not in RULES:
        raise ParameterError(f"INT8 calibration rule: expected one of {', '.join(RULES)}, found {rule}")
    model = onnx.load(fp32)
    layers = convolutions(model, form)
    if not layers:
        raise BundleError(f"{fp32}: expected convolutions to quantise, found none; leave INT8 out")
    ranges = calibrate(fp32, calibration, OPERATORS[form], RULES[rule])
    reference = remembered(onnxruntime_runner(fp32))
    with tempfile.TemporaryDirectory() as folder, replacing(output) as temporary:
        candidate = Path(folder) / "candidate.onnx"

        def figures(in_float: Sequence[str]) -> Figures:
            onnx.save(quantised_graph(model, ranges, form, [layers[layer] for layer in in_float]), candidate)
            return measure(reference, onnxruntime_runner(candidate), search, class_map)

        steps, damage = _search(list(layers), figures)
        onnx.save(quantised_graph(model, ranges, form, [layers[layer] for layer in steps[-1].in_float]), temporary)
    return Quantisation(
        form=form,
        rule=rule,
        calibrated_on=tuple(sample.name for sample in calibration),
        searched_on=tuple(sample.name for sample in search),
        layers=tuple(layers),
        steps=tuple(steps),
        damage=damage,
    )


def _search(layers: Sequence[str], figures: Callable[[Sequence[str]], Figures]) -> tuple[list[Step], dict[str, float]]:
    """Leave layers in float, the most harmful first, until the target is reached."""
    steps = [Step((), figures(()))]
    if _good_enough(steps[0]):
        return steps, {}
    damage = {layer: figures([other for other in layers if other != layer]).mean_score_difference for layer in layers}
    for layer in sorted(layers, key=damage.__getitem__, reverse=True)[:MOST_IN_FLOAT]:
        in_float = (*steps[-1].in_float, layer)
        steps.append(Step(in_float, figures(in_float)))
        if _good_enough(steps[-1]):
            break
    return steps, damage


def _good_enough(step: Step) -> bool:
    # Where no class is on the samples, no layer that stays in float could change the verdict.
    return not TARGET.shortfalls(step.figures) or all(dice is None for dice in step.figures.dice.values())

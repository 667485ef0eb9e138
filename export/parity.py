"""Parity: how far two ways of running a network agree, and the gate that an artifact has to pass to be written."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

from tomoscribe.engine.class_map import ClassMap
from tomoscribe.engine.cores import usable_cores
from tomoscribe.engine.errors import BundleError, ParameterError
from tomoscribe.export.graph import INPUTS, OUTPUTS
from tomoscribe.train.unet import UNet

__all__ = [
    "GATES",
    "LEAST_PIXELS",
    "Answer",
    "Figures",
    "Gate",
    "ParityError",
    "Runner",
    "Sample",
    "measure",
    "onnxruntime_runner",
    "pytorch_runner",
    "remembered",
]

LEAST_PIXELS = 200
"""A class that neither side gives to so many pixels has no Dice: a handful of them would decide it."""

_ERRORS_ONLY = 3


class ParityError(BundleError):
    """An artifact that does not run, or does not answer as the network it was made from."""

    exit_status = 1


@dataclass(frozen=True)
class Sample:
    """Slices that two ways of running a network are compared on, as the graph contract takes them.

    Attributes:
        name: what a report calls them, such as ``phantom 3`` or ``tomo.mrc, slices 40 to 43``.
        slices: ``(n + 2k, h, w)`` in the file's units; h and w are multiples of the network's tile multiple.
        mean: ``(n + 2k,)`` in the file's units.
        rstd: ``(n + 2k,)``, one over the standard deviation, negative where the contrast is turned over.
        source: what they were taken from, such as ``phantoms`` or ``tomo.mrc``; a gate judges every source apart.
    """

    name: str
    slices: NDArray[np.float32]
    mean: NDArray[np.float32]
    rstd: NDArray[np.float32]
    source: str = ""


@dataclass(frozen=True)
class Answer:
    """What a network makes of a sample: labels ``(n, h, w)`` and scores ``(n, classes, h, w)``, 0 to 255."""

    labels: NDArray[np.uint8]
    scores: NDArray[np.uint8]


Runner = Callable[[Sample], Answer]


@dataclass(frozen=True)
class Figures:
    """How far a candidate agrees with its reference.

    Attributes:
        pixels: labelled pixels that were compared.
        labels_equal: share of them that have the same label, 0 to 1.
        largest_score_difference: largest difference of a score, 0 to 255.
        mean_score_difference: mean absolute difference over all pixels and classes, 0 to 255.
        dice: Dice coefficient of the candidate's labels against the reference's by class name, background left out;
            None for a class that neither side gives to `LEAST_PIXELS` pixels.
        sources: the same for the samples of each source, where there are several.
    """

    pixels: int
    labels_equal: float
    largest_score_difference: int
    mean_score_difference: float
    dice: Mapping[str, float | None] = field(default_factory=dict)
    sources: Mapping[str, Figures] = field(default_factory=dict)

    @property
    def lowest_dice(self) -> dict[str, float | None]:
        """The lowest Dice coefficient of each class on any source."""
        parts = [part.dice for part in self.sources.values()] or [self.dice]
        lowest = {}
        for name, pooled in self.dice.items():
            found = [dice for part in parts if (dice := part[name]) is not None]
            # A class may be on enough pixels of all sources together alone.
            lowest[name] = min(found) if found else pooled
        return lowest

    def to_json(self) -> dict[str, Any]:
        """Return the figures as they stand in ``model.json`` and ``parity.json``."""
        entries = {key: value for key, value in asdict(self).items() if key != "sources"}
        parts = {source: part.to_json() for source, part in self.sources.items()}
        return {**entries, "sources": parts} if parts else entries


@dataclass(frozen=True)
class Gate:
    """What the figures of an artifact have to reach.

    Attributes:
        labels_equal: least share of equal labels.
        largest_score_difference: largest difference of a score, of 255.
        dice: least Dice coefficient of every class; a class has to be there if it is above 0.
    """

    labels_equal: float = 0.0
    largest_score_difference: int = 255
    dice: float = 0.0

    def shortfalls(self, figures: Figures) -> list[str]:
        """Return what the figures miss, each as ``expected …, found …``; nothing where they pass.

        Each source has to pass by itself: a few real slices that go wrong would not show beside many phantoms.
        """
        missed = [
            f"{missed} on {source}" for source, part in figures.sources.items() for missed in self._missed_by(part)
        ]
        missed = missed or self._missed_by(figures)
        if self.dice and all(dice is None for dice in figures.dice.values()):
            missed.append("expected slices with at least one of the classes, found only background")
        return missed

    def _missed_by(self, figures: Figures) -> list[str]:
        missed = []
        if not figures.labels_equal >= self.labels_equal:
            missed.append(
                f"expected equal labels on {self.labels_equal:.2%} of pixels, found {figures.labels_equal:.4%}"
            )
        if figures.largest_score_difference > self.largest_score_difference:
            missed.append(
                f"expected scores within {self.largest_score_difference} of 255, "
                f"found a difference of {figures.largest_score_difference}"
            )
        missed += [
            f"expected a Dice of {self.dice:g} for {name}, found {dice:.4f}"
            for name, dice in figures.dice.items()
            if dice is not None and not dice >= self.dice
        ]
        return missed


_COARSE = Gate(dice=0.99)
GATES: Mapping[str, Gate] = {
    "fp32": Gate(labels_equal=0.9999, largest_score_difference=1),
    "fp16": Gate(labels_equal=0.999),
    "bf16": _COARSE,
    "int8": _COARSE,
    "int8-cpu": _COARSE,
}
"""By artifact; ``bf16`` is the FP32 artifact, rounded as it is run."""


def measure(reference: Runner, candidate: Runner, samples: Sequence[Sample], class_map: ClassMap) -> Figures:
    """Compare two ways of running a network.

    Args:
        reference: the answers that are right.
        candidate: the answers that are judged.
        samples: what both are given.
        class_map: the names of the labels.

    Raises:
        ParityError: the two answer in different shapes, or one of them cannot run.
        ParameterError: there is no sample.
    """
    if not samples:
        raise ParameterError("parity: expected samples to compare on, found none")
    tallies = {sample.source: _Tally(len(class_map) + 1) for sample in samples}
    for sample in samples:
        expected, found = reference(sample), candidate(sample)
        _check_shapes(sample, expected, found)
        tallies[sample.source].add(expected, found)
    figures = _Tally.sum(tallies.values()).figures(class_map)
    if len(tallies) == 1:
        return figures
    return replace(figures, sources={source: tally.figures(class_map) for source, tally in tallies.items()})


def onnxruntime_runner(artifact: Path) -> Runner:
    """Return ONNX Runtime's answers, on the CPU, of a graph in the graph contract.

    Args:
        artifact: the ONNX file.

    Raises:
        ParityError: ONNX Runtime cannot load the file, or, from the runner, cannot run it.
    """

    def run(sample: Sample) -> Answer:
        feed = dict(zip(INPUTS, (sample.slices, sample.mean, sample.rstd), strict=True))
        try:
            return Answer(*session.run(list(OUTPUTS), feed))
        except Exception as error:  # ONNX Runtime has a dozen classes of its own without a common base
            raise _cannot_run(artifact, error) from error

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.intra_op_num_threads = usable_cores()
    try:
        session = onnxruntime.InferenceSession(artifact, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # as above
        raise _cannot_run(artifact, error) from error
    return run


def pytorch_runner(network: UNet) -> Runner:
    """Return PyTorch's answers in FP32, by its own softmax, argmax and rounding and not the graph's.

    Args:
        network: the U-Net, in evaluation mode, on the CPU.

    Raises:
        ParityError: from the runner: the network's answer is not finite.
    """

    @torch.inference_mode()
    def run(sample: Sample) -> Answer:
        normalised = (sample.slices - sample.mean[:, None, None]) * sample.rstd[:, None, None]
        width = 2 * network.configuration.context + 1
        windows = np.stack([normalised[first : first + width] for first in range(len(normalised) - width + 1)])
        logits = network(torch.from_numpy(windows))
        if not bool(torch.isfinite(logits).all()):
            raise ParityError(
                f"expected finite answers of the network in PyTorch FP32, found NaN or infinity on {sample.name}; "
                "the checkpoint's weights are of no use"
            )
        scores = torch.round(torch.softmax(logits, dim=1) * 255)
        return Answer(logits.argmax(dim=1).numpy().astype(np.uint8), scores.numpy().astype(np.uint8))

    return run


def remembered(runner: Runner) -> Runner:
    """Return a runner that runs each sample once and keeps its answer, for a reference that is asked many times."""
    answers: dict[int, tuple[Sample, Answer]] = {}

    def run(sample: Sample) -> Answer:
        if id(sample) not in answers:
            answers[id(sample)] = sample, runner(sample)  # with the sample, so that its id is not given away
        return answers[id(sample)][1]

    return run


class _Tally:
    """What two ways of running a network agree and differ in, counted sample by sample."""

    def __init__(self, classes: int) -> None:
        self._right = np.zeros(classes, np.int64)
        self._given = np.zeros((2, classes), np.int64)  # by the reference, by the candidate
        self._pixels = self._scores = self._difference = self._largest = 0

    @classmethod
    def sum(cls, parts: Collection[_Tally]) -> _Tally:
        """Return what all of them counted."""
        whole = cls(len(next(iter(parts))._right))
        for part in parts:
            whole._right += part._right
            whole._given += part._given
            whole._pixels += part._pixels
            whole._scores += part._scores
            whole._difference += part._difference
            whole._largest = max(whole._largest, part._largest)
        return whole

    def add(self, expected: Answer, found: Answer) -> None:
        """Count a sample."""
        classes = len(self._right)
        self._right += _counts(expected.labels[expected.labels == found.labels], classes)
        self._given += np.stack([_counts(expected.labels, classes), _counts(found.labels, classes)])
        self._pixels += expected.labels.size
        difference = np.abs(expected.scores.astype(np.int16) - found.scores)
        self._scores += difference.size
        self._difference += int(difference.sum(dtype=np.int64))
        self._largest = max(self._largest, int(difference.max()))

    def figures(self, class_map: ClassMap) -> Figures:
        """Return what that comes to."""
        return Figures(
            pixels=self._pixels,
            labels_equal=int(self._right.sum()) / self._pixels,
            largest_score_difference=self._largest,
            mean_score_difference=self._difference / self._scores,
            dice={
                c.name: 2 * int(self._right[c.number]) / int(self._given[:, c.number].sum())
                if self._given[:, c.number].max() >= LEAST_PIXELS
                else None
                for c in class_map.classes
            },
        )


def _counts(labels: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    return np.bincount(labels.ravel(), minlength=classes)[:classes]


def _check_shapes(sample: Sample, expected: Answer, found: Answer) -> None:
    for name in ("labels", "scores"):
        shapes = getattr(expected, name).shape, getattr(found, name).shape
        if shapes[0] != shapes[1]:
            raise ParityError(f"expected {name} of shape {shapes[0]} on {sample.name}, found {shapes[1]}")


def _cannot_run(artifact: Path, error: Exception) -> ParityError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return ParityError(f"{artifact.name}: expected a graph that ONNX Runtime can run, found that it cannot ({reason})")

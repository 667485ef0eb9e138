"""Judging: labelled images go by one at a time, and what is kept are counts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tomoscribe.engine.class_map import ClassMap
from tomoscribe.train.dataset.contract import IGNORE, DatasetError
from tomoscribe.train.evaluation.calibration import Calibration
from tomoscribe.train.evaluation.tolerance import TolerantCounts
from tomoscribe.train.metrics import ConfusionMatrix, ratio

__all__ = ["Comparison", "JudgedImage", "Judgement", "Place", "judge", "worst_images"]

NEIGHBOURHOOD = 8


@dataclass(frozen=True)
class Place:
    """Where an image lies: its tomogram's name, its z, and its first row and column in the slice."""

    tomogram: str
    z: int
    top: int = 0
    left: int = 0


@dataclass(frozen=True)
class JudgedImage:
    """Labels and their truth.

    Attributes:
        place: where.
        labels: ``(y, x)`` uint8, what the pixels were given.
        truth: ``(y, x)`` uint8, `IGNORE` where nothing is known.
        seen: ``(y, x)`` bool, the pixels that are in an earlier image, where images overlap; None where none are.
        scores: ``(classes, y, x)`` uint8, indices into the comparison's `probabilities`; None where there are none.
    """

    place: Place
    labels: NDArray[np.uint8]
    truth: NDArray[np.uint8]
    seen: NDArray[np.bool_] | None = None
    scores: NDArray[np.uint8] | None = None

    @property
    def counted(self) -> NDArray[np.bool_]:
        """The pixels that count, ``(y, x)`` bool: their truth is known and no earlier image has them."""
        known: NDArray[np.bool_] = self.truth != IGNORE
        return known if self.seen is None else known & ~self.seen


class Comparison(Protocol):
    """Labels that are to be judged, with their truth; what it goes through does not have to fit into memory."""

    @property
    def class_map(self) -> ClassMap:
        """What labels and truth mean."""

    @property
    def probabilities(self) -> NDArray[np.float64] | None:
        """What each value of a score stands for, ``(values,)``; None where the images have no scores."""

    @property
    def warnings(self) -> Sequence[str]:
        """What a reader of the figures should know, a line each; complete after `images`."""

    def __len__(self) -> int:
        """Return the number of images."""

    def images(self) -> Iterator[JudgedImage]:
        """Give every image, those of a tomogram one after the other."""

    def show(self, number: int) -> tuple[JudgedImage, NDArray[np.float32] | None]:
        """Return the image of that number again, and its ``(y, x)`` intensities where they are known."""


@dataclass(frozen=True)
class Judgement:
    """All that was counted.

    Attributes:
        class_map: the classes.
        tomograms: the confusion matrix of each tomogram by name, over all its voxels.
        places: where each image lies.
        overlaps: ``(images, 3, classes)`` int64: of each image and class, voxels that are right, true, and found.
        calibration: None where there are no scores.
        tolerant: None where no tolerance was asked for.
    """

    class_map: ClassMap
    tomograms: Mapping[str, ConfusionMatrix]
    places: Sequence[Place]
    overlaps: NDArray[np.int64]
    calibration: Calibration | None
    tolerant: TolerantCounts | None

    @property
    def total(self) -> ConfusionMatrix:
        """The confusion matrix over all voxels of all tomograms."""
        total = ConfusionMatrix(len(self.class_map) + 1)
        for confusion in self.tomograms.values():
            total.counts += confusion.counts
        return total

    def image_dice(self) -> NDArray[np.float64]:
        """Return the Dice of each image and class, ``(images, classes)``; NaN where the truth lacks the class."""
        right, true, found = np.moveaxis(self.overlaps, 1, 0)
        return np.where(true > 0, ratio(2 * right, true + found), np.nan)


def judge(comparison: Comparison, *, tolerance: int, progress: Callable[[], None] | None = None) -> Judgement:
    """Go through a comparison's images once and count.

    Args:
        comparison: what is judged.
        tolerance: pixels that a border may be off in `Judgement.tolerant`; 0 leaves that out.
        progress: called after each image.

    Raises:
        DatasetError: no voxel counts.
        ParameterError: labels that the class map does not have.
        TomoscribeError: an image cannot be read.
    """
    classes = len(comparison.class_map) + 1
    tomograms: dict[str, ConfusionMatrix] = {}
    places: list[Place] = []
    overlaps: list[NDArray[np.int64]] = []
    probabilities = comparison.probabilities
    calibration = None if probabilities is None else Calibration(classes, probabilities)
    tolerant = TolerantCounts(classes, tolerance) if tolerance else None
    for image in comparison.images():
        counts = image.counted
        labels, truth = image.labels[counts], image.truth[counts]
        confusion = ConfusionMatrix(classes)
        confusion.add(labels, truth)
        tomograms.setdefault(image.place.tomogram, ConfusionMatrix(classes)).counts += confusion.counts
        places.append(image.place)
        overlaps.append(np.stack([confusion.right, confusion.true, confusion.found]))
        if calibration is not None and image.scores is not None:
            calibration.add(labels, truth, image.scores[:, counts])
        if tolerant is not None:
            tolerant.add(image.labels, image.truth, counts)
        if progress is not None:
            progress()
    if not any(confusion.counts.any() for confusion in tomograms.values()):
        raise DatasetError(
            f"truth: expected voxels whose class is known, found none in {', '.join(list(tomograms)[:5])}; see what "
            "its values mean"
        )
    stacked = np.array(overlaps, np.int64).reshape(-1, 3, classes)
    return Judgement(comparison.class_map, tomograms, places, stacked, calibration, tolerant)


def worst_images(judgement: Judgement, label: int, count: int) -> list[int]:
    """Return the numbers of the images with the lowest Dice of a class, the worst first.

    Slivers of an object are easily missed and say little, so an image is a candidate if its truth has at least as many
    voxels of the class as the lower quartile of the images that have it. Images where the class was made up follow, the
    one with the most voxels first. Images within `NEIGHBOURHOOD` slices of one that was taken show the same thing
    again, and are passed over.
    """
    _, true, found = judgement.overlaps[:, :, label].T
    dice = judgement.image_dice()[:, label]
    least = np.quantile(true[true > 0], 0.25) if true.any() else 0
    missed = np.flatnonzero((true > 0) & (true >= least))
    made_up = np.flatnonzero((true == 0) & (found > 0))
    candidates = [
        *missed[np.argsort(dice[missed], kind="stable")],
        *made_up[np.argsort(-found[made_up], kind="stable")],
    ]
    taken: list[int] = []
    for number in candidates:
        place = judgement.places[number]
        others = [judgement.places[other] for other in taken]
        if not any(o.tomogram == place.tomogram and abs(o.z - place.z) < NEIGHBOURHOOD for o in others):
            taken.append(int(number))
        if len(taken) == count:
            break
    return taken

"""A model against the images of a dataset."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tomoscribe.engine.class_map import ClassMap
from tomoscribe.train.dataset.contract import DatasetError, LabelledImages
from tomoscribe.train.evaluation.judgement import JudgedImage, Place
from tomoscribe.train.evaluation.predictors import Predictor, class_numbers

__all__ = ["ModelComparison", "PlacedImages"]


class _Record(Protocol):
    """Where an image lies: its tomogram's name, its z, and its corner in pixels of the slice."""

    @property
    def tomogram(self) -> str: ...
    @property
    def z(self) -> int: ...
    @property
    def top(self) -> int: ...
    @property
    def left(self) -> int: ...


class PlacedImages(LabelledImages, Protocol):
    """Labelled images that know where they lie."""

    @property
    def images(self) -> Sequence[_Record]:
        """Where each image lies, by number."""


class ModelComparison:
    """What a model makes of the images of a split, with their labels; a `Comparison`.

    Images of a slice may overlap; what an earlier one of the split has seen does not count again.

    Args:
        predictor: the model; stays open.
        images: the dataset.
        split: which of its images.
        values: which class of the dataset a label of the model stands for, see `class_numbers`. Labels that stand for
            the same class share their scores.

    Raises:
        ParameterError: the model has a class that the dataset does not have.
        DatasetError: the split has no image.
    """

    def __init__(
        self, predictor: Predictor, images: PlacedImages, split: str, *, values: Mapping[int, str] | None = None
    ) -> None:
        specification = predictor.specification
        self._predictor = predictor
        self._images = images
        self._classes, unlabelled = class_numbers(specification.class_map, images.class_map, values)
        self._numbers = [int(number) for number in images.numbers(split)]
        if not self._numbers:
            raise DatasetError(f"split '{split}': expected images in it, found none; choose another split")
        self._numbers.sort(key=lambda number: (images.images[number].tomogram, number))
        self._warnings = [f"the model has no class {name}, which therefore counts as not found" for name in unlabelled]
        (smallest, largest), (low, high) = images.voxel_size, specification.voxel_size
        if smallest < 0.95 * low or largest > 1.05 * high:
            self._warnings.append(
                f"the dataset's voxels of {smallest:.2f} to {largest:.2f} Å are outside what the model was trained on, "
                f"{low:.2f} to {high:.2f} Å"
            )

    @property
    def class_map(self) -> ClassMap:
        """The dataset's classes."""
        return self._images.class_map

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """What the scores 0 to 255 stand for."""
        return np.arange(256) / 255

    @property
    def warnings(self) -> Sequence[str]:
        """What a reader of the figures should know."""
        return self._warnings

    def __len__(self) -> int:
        """Return the number of images of the split."""
        return len(self._numbers)

    def images(self) -> Iterator[JudgedImage]:
        """Label and give every image of the split."""
        corners: dict[tuple[str, int], list[tuple[int, int]]] = defaultdict(list)
        for number in self._numbers:
            record = self._images.images[number]
            image, _ = self._labelled(number)
            earlier = corners[record.tomogram, record.z]
            seen = np.zeros(image.truth.shape, bool)
            for top, left in earlier:
                # A tile has the same size everywhere, so that an earlier one covers what is within it of its corner.
                rows, columns = (
                    slice(max(0, theirs - mine), max(0, theirs - mine + self._images.tile))
                    for theirs, mine in ((top, record.top), (left, record.left))
                )
                seen[rows, columns] = True
            earlier.append((record.top, record.left))
            yield JudgedImage(image.place, image.labels, image.truth, seen, image.scores)

    def show(self, number: int) -> tuple[JudgedImage, NDArray[np.float32]]:
        """Return an image again, and its intensities."""
        return self._labelled(self._numbers[number])

    def _labelled(self, number: int) -> tuple[JudgedImage, NDArray[np.float32]]:
        context = self._predictor.specification.context
        slices, truth = self._images.read(number, context)
        labels, scores = self._predictor.predict(slices)
        merged = np.zeros((len(self.class_map) + 1, *labels.shape), np.uint16)
        for label, values in zip(self._classes, scores, strict=True):
            merged[label] += values
        record = self._images.images[number]
        place = Place(record.tomogram, record.z, record.top, record.left)
        scores = np.minimum(merged, 255).astype(np.uint8)
        return JudgedImage(place, self._classes[labels], truth, scores=scores), slices[context]

"""What the U-Net and EMAN2's networks make of test images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from eman2_convnet import DEFAULT_THRESHOLD, Convnet, merge, score
from eman2_tiles import CONTEXT, prepare
from numpy.typing import NDArray

from tomoscribe.engine.replacing import replacing
from tomoscribe.train.dataset.contract import LabelledImages
from tomoscribe.train.evaluation.predictors import CheckpointPredictor
from tomoscribe.train.metrics import ConfusionMatrix

__all__ = ["UNET", "Judge", "all_scores"]

UNET = "U-Net"


class Judge:
    """Labels test images with everything there is.

    Args:
        predictor: the U-Net.
        networks: EMAN2's, one a class, by what sets them apart.
        thresholds: theirs, ``(classes,)``, by the same names.
        images: what is judged on is their split test.
    """

    def __init__(
        self,
        predictor: CheckpointPredictor,
        networks: Mapping[str, Sequence[Convnet]],
        thresholds: Mapping[str, NDArray[np.float64]],
        images: LabelledImages,
    ) -> None:
        self._predictor = predictor
        self._networks = networks
        self._thresholds = thresholds
        self._images = images

    def labels(self, slices: NDArray[np.float32]) -> Iterator[tuple[str, NDArray[np.uint8]]]:
        """Give what each method makes of a slice with `context` neighbours on each side."""
        yield UNET, self._predictor.predict(_around(slices, self._predictor.specification.context))[0]
        for share, found in all_scores(self._networks, _around(slices, CONTEXT)):
            yield share, merge(found, self._thresholds[share])
            yield f"{share}, threshold {DEFAULT_THRESHOLD}", merge(found, np.full(len(found), DEFAULT_THRESHOLD))

    @property
    def context(self) -> int:
        """The neighbours on each side that all methods together look at."""
        return max(CONTEXT, self._predictor.specification.context)

    def confusion(self) -> dict[str, list[list[int]]]:
        """Return the confusion matrix of each method, the truth along the first axis."""
        matrices: dict[str, ConfusionMatrix] = {}
        for number in self._images.numbers("test"):
            slices, truth = self._images.read(int(number), self.context)
            for method, labels in self.labels(slices):
                matrices.setdefault(method, ConfusionMatrix(len(self._images.class_map) + 1)).add(labels, truth)
        return {method: matrix.counts.tolist() for method, matrix in matrices.items()}

    def save_example(self, path: Path) -> None:
        """Write the image that has the most of the class that is rarest in it, and what each method makes of it."""
        numbers = self._images.numbers("test")
        counts = self._images.counts[numbers, 1:]
        best = numbers[np.lexsort((counts.min(axis=1), (counts > 0).sum(axis=1)))[-1]]
        slices, truth = self._images.read(int(best), self.context)
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, image=slices[self.context], truth=truth, **dict(self.labels(slices)))


def all_scores(
    networks: Mapping[str, Sequence[Convnet]], slices: NDArray[np.float32]
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Give for each share of time the scores of all classes, ``(classes, h, w)``."""
    image = prepare(slices)
    for share, ones in networks.items():
        yield share, np.stack([score(network, image) for network in ones])


def _around(slices: NDArray[np.float32], context: int) -> NDArray[np.float32]:
    """Return the middle slice with `context` neighbours on each side."""
    middle = len(slices) // 2
    return slices[middle - context : middle + context + 1]

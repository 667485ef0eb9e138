"""Label volumes against the truth, file against file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tomoscribe.engine.class_map import ClassMap
from tomoscribe.engine.errors import ParameterError, TomogramFormatError, TomoscribeError
from tomoscribe.engine.inputs import tomogram_stem
from tomoscribe.engine.tomogram import Tomogram, open_tomogram
from tomoscribe.train.dataset.annotations import Annotation, check_pair, open_feature_maps, open_label_volume
from tomoscribe.train.dataset.contract import IGNORE, DatasetError
from tomoscribe.train.evaluation.judgement import JudgedImage, Place
from tomoscribe.train.evaluation.pairs import Labels, Pair
from tomoscribe.train.evaluation.sidecars import read_sidecar
from tomoscribe.train.metrics import ConfusionMatrix

__all__ = ["LabelReading", "VolumeComparison", "compare_label_volumes"]

_SCORES = 128  # a `__Feature.mrc` of tomoscribe holds the graph's score, 0 to 255, halved and rounded down


@dataclass(frozen=True)
class LabelReading:
    """How files are read as labels, see `open_label_volume` and `open_feature_maps`.

    Attributes:
        values: what the values of label volumes stand for; their class numbers if None.
        ignore: the value of voxels that do not count.
        threshold: of feature maps, for all or by class.
    """

    values: Mapping[int, str] | None = None
    ignore: int | None = None
    threshold: float | Mapping[str, float] | None = None

    def open(self, labels: Labels, class_map: ClassMap) -> Annotation:
        """Open labels.

        Raises:
            TomoscribeError: the files are not what they have to be.
        """
        if isinstance(labels, Path):
            return open_label_volume(labels, class_map, values=self.values, ignore=self.ignore)
        return open_feature_maps(labels, class_map, threshold=self.threshold)


class VolumeComparison:
    """Pairs of volumes, slice by slice; a `Comparison`.

    Scores are compared where the labels have a sidecar of tomoscribe that lists a score volume for every class. The
    score of background, which is not written, is what the others leave of one.

    Args:
        pairs: what is compared.
        class_map: of the truth, and of the labels once they are read.
        prediction: how the labels are read.
        truth: how the truth is read; by default `IGNORE` does not count.
        z_range: first slice that counts and one past the last, the volume's end if None.
        warnings: what is known already.

    Raises:
        DatasetError: pairs that cannot be compared; the message names each and says why.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        class_map: ClassMap,
        *,
        prediction: LabelReading | None = None,
        truth: LabelReading | None = None,
        z_range: tuple[int, int | None] = (0, None),
        warnings: Iterable[str] = (),
    ) -> None:
        self._pairs = tuple(pairs)
        self._class_map = class_map
        self._prediction, self._truth = prediction or LabelReading(), truth or LabelReading(ignore=IGNORE)
        self._z_range = z_range
        # A dictionary for its order: a file that is opened twice warns once.
        self._warnings = dict.fromkeys(warnings)
        self._ranges: list[range] = []
        self._score_files: list[dict[str, Path]] = []
        bad: list[str] = []
        for pair in self._pairs:
            try:
                with self._opened(pair, {}) as opened:
                    self._ranges.append(self._checked_range(pair, opened.truth.shape[0]))
            except TomoscribeError as error:
                bad.append(str(error))
            self._score_files.append(self._find_scores(pair))
        if bad:
            count = f"{len(bad)} of {len(self._pairs)} pairs cannot be compared: " if len(bad) > 1 else ""
            raise DatasetError(count + "; ".join(bad))
        # With scores of some pairs only, the figures would be of other voxels than the rest of the report.
        self._with_scores = all(self._score_files)

    @property
    def class_map(self) -> ClassMap:
        """The classes."""
        return self._class_map

    @property
    def probabilities(self) -> NDArray[np.float64] | None:
        """What the scores 0 to 127 stand for: the middle of the two scores of 0 to 255 that each was; or None."""
        return (2 * np.arange(_SCORES) + 0.5) / 255 if self._with_scores else None

    @property
    def warnings(self) -> Sequence[str]:
        """What a reader of the figures should know."""
        return tuple(self._warnings)

    def __len__(self) -> int:
        """Return the number of slices of all pairs."""
        return sum(map(len, self._ranges))

    def images(self) -> Iterator[JudgedImage]:
        """Give every slice."""
        for number, pair in enumerate(self._pairs):
            with self._opened(pair, self._score_files[number] if self._with_scores else {}) as opened:
                for z in self._ranges[number]:
                    yield self._image(opened, pair, z)
                self._warnings.update(dict.fromkeys((*opened.prediction.warnings, *opened.truth.warnings)))

    def show(self, number: int) -> tuple[JudgedImage, NDArray[np.float32] | None]:
        """Return a slice again, and its intensities where the tomogram is known."""
        place = [(pair, z) for pair, z_range in zip(self._pairs, self._ranges, strict=True) for z in z_range]
        pair, z = place[number]
        with self._opened(pair, {}) as opened:
            if opened.tomogram is None:
                return self._image(opened, pair, z), None
            intensity = np.empty((1, *opened.tomogram.shape[1:]), np.float32)
            opened.tomogram.read_slices(z, intensity)
            return self._image(opened, pair, z), intensity[0]

    def _image(self, opened: _Opened, pair: Pair, z: int) -> JudgedImage:
        labels, truth = (np.empty((1, *opened.truth.shape[1:]), np.uint8) for _ in range(2))
        opened.prediction.read(z, labels)
        opened.truth.read(z, truth)
        if (labels == IGNORE).any():
            raise ParameterError(
                f"{opened.prediction.path}: slice z = {z} has voxels to ignore; expected a label for every voxel, for "
                "only the truth may leave out what does not count"
            )
        return JudgedImage(Place(pair.name, z), labels[0], truth[0], scores=opened.read_scores(z))

    @contextlib.contextmanager
    def _opened(self, pair: Pair, score_files: Mapping[str, Path]) -> Iterator[_Opened]:
        with contextlib.ExitStack() as stack:
            prediction, truth = (
                stack.enter_context(reading.open(self._known(pair.name, labels), self._class_map))
                for reading, labels in ((self._prediction, pair.prediction), (self._truth, pair.truth))
            )
            if prediction.shape != truth.shape:
                raise DatasetError(
                    f"{prediction.path}: expected the shape (z, y, x) of {truth.path}, {truth.shape}, found "
                    f"{prediction.shape}; compare labels with the truth of the same tomogram"
                )
            self._compare_voxel_sizes(prediction, truth)
            tomogram = None
            if pair.tomogram is not None:
                tomogram = stack.enter_context(open_tomogram(pair.tomogram))
                check_pair(tomogram, truth)
            scores = [stack.enter_context(open_tomogram(path, mode0="signed")) for path in score_files.values()]
            yield _Opened(prediction, truth, tomogram, scores)

    def _known(self, name: str, labels: Labels) -> Labels:
        """Return labels without the maps of features that are no class; warn of those, and of classes without a map."""
        if isinstance(labels, Path):
            return labels
        maps: dict[str, Path] = {}
        for feature, path in labels.items():
            try:
                (label_class,) = self._class_map.select([feature])
            except ParameterError:
                self._warnings[f"{path}: there is no class {feature}, so it is not read"] = None
            else:
                maps[label_class.name] = path
        if not maps:
            raise DatasetError(f"{name}: expected maps of the classes, found {', '.join(map(str, labels.values()))}")
        missing = [label_class.name for label_class in self._class_map.classes if label_class.name not in maps]
        if missing:
            self._warnings[f"{name}: no map of {', '.join(missing)}, which therefore does not occur"] = None
        return maps

    def _compare_voxel_sizes(self, prediction: Annotation, truth: Annotation) -> None:
        """Warn of voxel sizes that differ by more than 5 %; many programs lose them, so that it is no error."""
        sizes = zip(prediction.voxel_size, truth.voxel_size, strict=True)
        if any(given and wanted and not 1 / 1.05 <= given / wanted <= 1.05 for given, wanted in sizes):
            self._warnings[
                f"{prediction.path}: voxels of {prediction.voxel_size[0]:.2f} Å, and of {truth.voxel_size[0]:.2f} Å in "
                f"{truth.path}; compared voxel by voxel all the same, for the shapes agree"
            ] = None

    def _checked_range(self, pair: Pair, depth: int) -> range:
        start, stop = self._z_range[0], depth if self._z_range[1] is None else self._z_range[1]
        if not 0 <= start < stop <= depth:
            raise DatasetError(f"{pair.name}: expected a z range within 0:{depth}, found {start}:{stop}")
        return range(start, stop)

    def _find_scores(self, pair: Pair) -> dict[str, Path]:
        """Return the score volumes in the order of the classes, none if one is missing; warn of a z range."""
        if not isinstance(pair.prediction, Path):
            return {}
        facts = read_sidecar(pair.prediction)
        if facts is None:
            return {}
        part = facts.labelled_part
        if part is not None and self._z_range == (0, None):
            self._warnings[
                f"{pair.prediction}: only the slices {part[0]}:{part[1]} were labelled, the others count as "
                f"background; leave them out with --z-range {part[0]}:{part[1]}"
            ] = None
        files = facts.class_volumes
        names = [label_class.name for label_class in self._class_map.classes]
        if self._prediction.values is not None or not all(name in files and files[name].is_file() for name in names):
            return {}
        return {name: files[name] for name in names}


@dataclass(frozen=True)
class _Opened:
    """The open files of a pair."""

    prediction: Annotation
    truth: Annotation
    tomogram: Tomogram | None
    scores: Sequence[Tomogram] = field(default_factory=tuple)

    def read_scores(self, z: int) -> NDArray[np.uint8] | None:
        """Return ``(classes, y, x)`` scores of a slice, background first, 0 to 127; None where there are none."""
        if not self.scores:
            return None
        scores = np.zeros((len(self.scores) + 1, *self.truth.shape[1:]), np.int16)
        for values, volume in zip(scores[1:], self.scores, strict=True):
            if volume.shape != self.truth.shape:
                raise TomogramFormatError(f"{volume.path}: expected the shape {self.truth.shape}, found {volume.shape}")
            volume.read_slices(z, values[np.newaxis])
        if scores.min() < 0:
            raise TomogramFormatError(f"{self.scores[0].path}: expected scores from 0 to 127, found {scores.min()}")
        np.maximum(_SCORES - 1 - scores[1:].sum(axis=0, dtype=np.int16), 0, out=scores[0])
        return scores.astype(np.uint8)


def compare_label_volumes(labels: Path, truth: Path, class_map: ClassMap) -> ConfusionMatrix:
    """Count the voxels of two label volumes by true and given class, slice by slice.

    Args:
        labels: what the voxels were given.
        truth: a label volume of the same shape.
        class_map: the classes of both.

    Raises:
        DatasetError: the shapes differ, or a label is not in the class map.
        TomogramFormatError: a file is not a volume.
    """
    comparison = VolumeComparison([Pair(tomogram_stem(labels), labels, truth)], class_map)
    confusion = ConfusionMatrix(len(class_map) + 1)
    for image in comparison.images():
        confusion.add(image.labels, image.truth)
    return confusion

"""One map of scores, or one mask, for every feature: thresholded, cleaned and put into one label volume."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tomoscribe.engine.class_map import ClassMap, LabelClass
from tomoscribe.engine.errors import ParameterError
from tomoscribe.engine.tomogram import Tomogram, open_tomogram
from tomoscribe.train.dataset.annotations.contract import (
    Annotation,
    AnnotationFiles,
    check_class_map,
    known_voxel_size,
)
from tomoscribe.train.dataset.components import LargeComponents
from tomoscribe.train.dataset.contract import IGNORE, DatasetError

__all__ = ["open_feature_maps"]

# By type: half of the scale on which programs store scores in it, and the top of that scale.
# mrcfile, with which Ais writes, widens uint8 to uint16, because MRC has no unsigned bytes.
_SCALES = {
    "int8": (64.0, 127),
    "uint8": (128.0, 255),
    "uint16": (128.0, 255),
    "float16": (0.5, 1),
    "float32": (0.5, 1),
    "float64": (0.5, 1),
}
_CUBIC_ANGSTROM_IN_CUBIC_NM = 1000


def open_feature_maps(
    paths: Mapping[str, Path],
    class_map: ClassMap,
    *,
    threshold: float | Mapping[str, float] | None = None,
    smallest: float | Mapping[str, float] = 0.0,
    priority: Sequence[str] = (),
    rest_ignored: bool = False,
    voxel_size: float | None = None,
    fallback_voxel_size: float | None = None,
    axes: str = "xyz",
) -> Annotation:
    """Open one map for each feature; only the headers are read.

    A voxel belongs to a feature where the feature's value is at least its threshold, in a connected component (26
    neighbours) that is not smaller than `smallest`. Components are measured before features overlap; where they do,
    the first in `priority` has the voxel.

    Args:
        paths: the map of each feature, by the name of its class in any spelling. Classes without a map do not occur.
        class_map: the classes.
        threshold: in the units of the file, for all features or by class name. A feature without one gets half of the
            scale that its type is used for: 0.5 for floating point (0 to 1), 64 for int8 (0 to 127), 128 for uint8 and
            uint16 (0 to 255; mrcfile widens uint8 to uint16). There is none for other types.
        smallest: nm³, for all features or by class name; 0 keeps every component.
        priority: class names, the first wins; classes that it does not name follow in the order of the class map.
        rest_ignored: whether voxels that no feature has are `contract.IGNORE` and not background: for an annotation
            from which a feature's map is missing, where such a voxel may be of that feature.
        voxel_size: Å, in place of the headers'.
        fallback_voxel_size: Å, for `smallest` where a header does not know its own, such as the tomogram's.
        axes: how the files store the axes, see `open_tomogram`.

    Raises:
        ParameterError: no path; a class that the map does not have, or twice; a map of more than 254 classes;
            `smallest` with an unknown voxel size; a type without a default threshold; a threshold that is not finite.
        DatasetError: the maps differ in shape.
        TomogramNotFoundError: a file is not there.
        TomogramFormatError: a file is no volume, truncated or damaged.
    """
    check_class_map(class_map)
    if not paths:
        raise ParameterError("feature maps: expected one at least, found none")
    thresholds = _by_class(threshold, class_map, "threshold")
    sizes = _by_class(smallest, class_map, "smallest")
    by_class: dict[LabelClass, Path] = {}
    for name, path in paths.items():
        label_class = _find_class(class_map, name)
        if label_class in by_class:
            raise ParameterError(f"{path}: expected one map of {label_class.name}, found {by_class[label_class]} too")
        by_class[label_class] = path
    with ExitStack() as opened:
        features = []
        for label_class in _in_order(by_class, class_map, priority):
            file = opened.enter_context(open_tomogram(by_class[label_class], voxel_size=voxel_size, axes=axes))
            stated = thresholds.get(label_class)
            features.append(
                _Feature(
                    label_class,
                    file,
                    _default_threshold(file) if stated is None else stated,
                    is_stated=stated is not None,
                    smallest=_voxels(file, sizes.get(label_class, 0.0), fallback_voxel_size),
                )
            )
        _check_shapes([feature.file for feature in features])
        opened.pop_all()
    return _FeatureMaps(features, IGNORE if rest_ignored else 0)


def _find_class(class_map: ClassMap, name: str) -> LabelClass:
    return class_map.select([name])[0]


def _by_class(
    setting: float | Mapping[str, float] | None, class_map: ClassMap, what: str
) -> Mapping[LabelClass, float]:
    """Return a setting for each class that has one."""
    if setting is None:
        return {}
    if isinstance(setting, Mapping):
        by_class = {_find_class(class_map, name): value for name, value in setting.items()}
    else:
        by_class = dict.fromkeys(class_map.classes, setting)
    for label_class, value in by_class.items():
        if not math.isfinite(value):
            raise ParameterError(f"{what}: expected a number for {label_class.name}, found {value}")
    return by_class


def _in_order(found: Iterable[LabelClass], class_map: ClassMap, priority: Sequence[str]) -> list[LabelClass]:
    """Return classes in the order in which they win."""
    first = [_find_class(class_map, name) for name in priority]
    # A class that is named twice stands where it is named first.
    order = dict.fromkeys((*first, *class_map.classes))
    wanted = set(found)
    return [label_class for label_class in order if label_class in wanted]


def _default_threshold(file: Tomogram) -> float:
    if file.dtype.name not in _SCALES:
        raise ParameterError(
            f"{file.path}: expected scores of {', '.join(_SCALES)}, found {file.dtype.name}, which has no usual "
            "threshold; set `threshold` in the units of the file"
        )
    return _SCALES[file.dtype.name][0]


def _voxels(file: Tomogram, smallest: float, fallback: float | None) -> int:
    """Return how many voxels a component of a size in nm³ has at least."""
    if smallest <= 0:
        return 0
    sizes = known_voxel_size(file)
    if not any(sizes) and fallback is not None:
        sizes = (fallback, fallback, fallback)
    if not any(sizes):
        raise ParameterError(
            f"{file.path}: expected a voxel size, for `smallest` is in nm³, found none in its header; set `voxel_size`"
        )
    # Rounding would make a component of exactly the size one voxel too small.
    return math.ceil(smallest * _CUBIC_ANGSTROM_IN_CUBIC_NM / math.prod(sizes) - 1e-6)


def _check_shapes(files: Sequence[Tomogram]) -> None:
    first = files[0]
    for file in files:
        if file.shape != first.shape:
            raise DatasetError(
                f"{file.path}: expected the shape of {first.path}, {first.shape} (z, y, x), found {file.shape}; the "
                "maps of one tomogram have to be of one shape"
            )


@dataclass(frozen=True)
class _Feature:
    """A class and its map; `smallest` in voxels."""

    label_class: LabelClass
    file: Tomogram
    threshold: float
    is_stated: bool
    smallest: int

    def read(self, start: int, out: NDArray[np.bool_]) -> float:
        """Fill a buffer ``(n, y, x)`` with where the threshold is reached, and return the highest value.

        Raises:
            DatasetError: a value is NaN.
        """
        # An integer is at least 63.5 where it is at least 64; numpy would compare it as float64.
        threshold = self.threshold if self.file.dtype.kind == "f" else math.ceil(self.threshold)
        values = np.empty((1, *self.file.shape[1:]), self.file.dtype)
        highest = -math.inf
        for z, mask in enumerate(out, start):
            self.file.read_slices(z, values)
            peak = float(values.max())
            if math.isnan(peak):
                raise DatasetError(
                    f"{self.file.path}: expected scores, found NaN in slice z = {z} (counted from 0); "
                    "repair the map, or write it anew"
                )
            highest = max(highest, peak)
            np.greater_equal(values[0], threshold, out=mask)
        return highest

    def check_scale(self, highest: float) -> list[str]:
        """Return what to warn of, from the highest value of the whole map.

        Raises:
            DatasetError: the map is a mask of 0 and 1, and the threshold the default for scores.
        """
        name, path = self.label_class.name, self.file.path
        if not self.is_stated:
            top = _SCALES[self.file.dtype.name][1]
            if highest == 1 < top:
                raise DatasetError(
                    f"{path}: expected scores of {name} up to {top}, found none above 1; if it is a mask of 0 and 1, "
                    f"set `threshold: 1`, else `threshold: {self.threshold:g}`"
                )
            if highest > 1.001 * top:
                return [
                    f"{path}: the scores of {name} go up to {highest:.4g}, not {top}; the threshold of "
                    f"{self.threshold:g} may be wrong for them: set `threshold`"
                ]
        if highest < self.threshold and highest != 0:
            return [
                f"{path}: no voxel is {name}, for the highest value is {highest:.4g} and the threshold "
                f"{self.threshold:g}"
            ]
        return []


class _FeatureMaps(AnnotationFiles):
    """See `open_feature_maps`."""

    def __init__(self, features: Sequence[_Feature], rest: int) -> None:
        """Take features in the order in which they win, and the label where there is none."""
        super().__init__([feature.file for feature in features])
        self._features = features
        self._rest = rest
        self._masks: list[tuple[int, Callable[[int, NDArray[np.bool_]], object]]] = []

    def read(self, start: int, out: NDArray[np.uint8]) -> None:
        """See `Annotation.read`."""
        if not self._masks:
            self._masks = [(feature.label_class.number, self._survey(feature)) for feature in self._features]
        out[...] = self._rest
        mask = np.empty(out.shape, np.bool_)
        for number, read_mask in reversed(self._masks):
            read_mask(start, mask)
            out[mask] = number

    def _survey(self, feature: _Feature) -> Callable[[int, NDArray[np.bool_]], object]:
        """Read a map once, warn of what is odd, and return what reads its cleaned mask."""
        highest = -math.inf

        def read(start: int, mask: NDArray[np.bool_]) -> None:
            nonlocal highest
            highest = max(highest, feature.read(start, mask))

        if feature.smallest > 1:
            components = LargeComponents(read, self.shape, feature.smallest)
            self._warnings += feature.check_scale(highest)
            if components.found > components.kept == 0:
                self._warnings.append(
                    f"{feature.file.path}: no voxel is {feature.label_class.name}, for all {components.found} "
                    f"components have less than {feature.smallest} voxels, the size that `smallest` asks for"
                )
            return components.read
        mask = np.empty((1, *self.shape[1:]), np.bool_)
        for z in range(self.shape[0]):
            read(z, mask)
        self._warnings += feature.check_scale(highest)
        return feature.read

"""Which tiles become images, and for which split; everything that is drawn comes from one seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tomoscribe.train.dataset.contract import SPLITS
from tomoscribe.train.dataset.recipe import SplitRule

__all__ = ["Candidates", "Selection", "select_images"]

# Random orders of the tomograms that are tried.
_ORDERS = 512
_LEAST_TOMOGRAMS = 3


@dataclass(frozen=True)
class Candidates:
    """Tiles that may become images, in the order in which the dataset numbers them.

    Attributes:
        tomogram: ``(n,)`` index of the tomogram.
        classes: ``(n, classes)`` bool, which classes each has, background not counted.
        fixed: for each tomogram the split that its source is fixed to, or None.
    """

    tomogram: NDArray[np.int64]
    classes: NDArray[np.bool_]
    fixed: Sequence[str | None]

    @property
    def has_foreground(self) -> NDArray[np.bool_]:
        """``(n,)`` whether each has any class."""
        return np.asarray(self.classes.any(axis=1))


@dataclass(frozen=True)
class Selection:
    """What was chosen.

    Attributes:
        chosen: numbers of the candidates that are images, ascending.
        split: ``(chosen,)`` index into `SPLITS` of each.
        by: how the free ones were shared out: ``tomogram``, ``image``, or ``source`` where every source is fixed.
    """

    chosen: NDArray[np.int64]
    split: NDArray[np.int64]
    by: str


def select_images(candidates: Candidates, rule: SplitRule, background: float | str, seed: int) -> Selection:
    """Choose the images and their splits.

    Every tile with foreground is an image. Of the others, as many are drawn in each split as make `background` the
    share of the split's images without foreground, or all that there are if they are too few.

    Args:
        candidates: what there is.
        rule: how those whose source is not fixed are shared out.
        background: share of the images without foreground, or ``all``.
        seed: of the drawing.
    """
    generator = np.random.default_rng(seed)
    fixed = np.array([-1 if name is None else SPLITS.index(name) for name in candidates.fixed], np.int64)
    free = np.flatnonzero(fixed < 0)
    has_foreground = candidates.has_foreground
    counted = has_foreground | (background == "all")
    images = np.bincount(candidates.tomogram[counted], minlength=len(fixed))
    by = _way(rule, images[free])
    if by == "tomogram":
        classes = np.zeros((len(fixed), candidates.classes.shape[1]), np.bool_)
        np.logical_or.at(classes, candidates.tomogram, candidates.classes)
        fixed[free] = _share_tomograms(images[free], classes[free], rule.shares, generator)
    split = fixed[candidates.tomogram]
    for kind in (has_foreground, ~has_foreground):
        left = np.flatnonzero((split < 0) & kind)
        split[generator.permutation(left)] = _parts(len(left), rule.shares)
    kept = has_foreground.copy()
    for number in range(len(SPLITS)):
        empty = np.flatnonzero((split == number) & ~has_foreground)
        if background == "all":
            kept[empty] = True
        else:
            share = float(background)
            wanted = round(share / (1 - share) * np.count_nonzero((split == number) & has_foreground))
            kept[generator.permutation(empty)[:wanted]] = True
    chosen = np.flatnonzero(kept)
    return Selection(chosen, split[chosen], by)


def _way(rule: SplitRule, images: NDArray[np.int64]) -> str:
    if not len(images):
        return "source"
    if rule.by != "automatic":
        return rule.by
    return "tomogram" if np.count_nonzero(images) >= _LEAST_TOMOGRAMS else "image"


def _share_tomograms(
    images: NDArray[np.int64], classes: NDArray[np.bool_], shares: Sequence[float], generator: np.random.Generator
) -> NDArray[np.int64]:
    """Return the split of each tomogram: of many random ones, the one that is best to work with.

    First of all every class is in train, then the images are shared out as the shares have it (to a hundredth), then
    the other splits have every class.

    Args:
        images: ``(tomograms,)`` of each.
        classes: ``(tomograms, classes)`` whether a tomogram has a class.
        shares: of train, dev and test.
        generator: of the random orders.
    """
    split = np.empty(len(images), np.int64)
    # A tomogram without images changes no share; it must not be what a split has alone.
    without, with_images = np.flatnonzero(images == 0), np.flatnonzero(images)
    split[generator.permutation(without)] = _parts(len(without), shares)
    best: tuple[float, ...] = (np.inf,)
    for _ in range(_ORDERS):
        order = generator.permutation(with_images)
        parts = _parts_by_weight(images[order], shares)
        found = np.bincount(parts, weights=images[order], minlength=len(shares)) / max(images.sum(), 1)
        absent = [int((~classes[order[parts == number]].any(axis=0)).sum()) for number in range(len(shares))]
        merit = (absent[0], round(float(np.abs(found - shares).sum()), 2), sum(absent))
        if merit < best:
            best = merit
            split[order] = parts
    return split


def _parts_by_weight(weights: NDArray[np.int64], shares: Sequence[float]) -> NDArray[np.int64]:
    """Cut a sequence where its running total comes nearest to the shares; every share above 0 gets one at least."""
    total = np.concatenate([[0], np.cumsum(weights)]) / max(weights.sum(), 1)
    used = [number for number, share in enumerate(shares) if share > 0][: len(weights)]
    parts = np.full(len(weights), used[-1] if used else 0, np.int64)
    start = 0
    for place, number in enumerate(used[:-1]):
        target = sum(shares[: number + 1])
        last = len(weights) - (len(used) - 1 - place)
        stop = start + 1 + int(np.argmin(np.abs(total[start + 1 : last + 1] - target)))
        parts[start:stop] = number
        start = stop
    return parts


def _parts(count: int, shares: Sequence[float]) -> NDArray[np.int64]:
    return _parts_by_weight(np.ones(count, np.int64), shares)

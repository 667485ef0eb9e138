"""Builds a dataset from a recipe: every tomogram is surveyed, images are chosen among all, and their slices written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tomoscribe.engine.errors import TomoscribeError
from tomoscribe.train.dataset.contact_sheet import draw_contact_sheet
from tomoscribe.train.dataset.contract import SPLITS, DatasetError
from tomoscribe.train.dataset.folder import check_folder, clean_folder, prepare_folder
from tomoscribe.train.dataset.pairs import Input
from tomoscribe.train.dataset.recipe import Recipe, TileRule, read_recipe
from tomoscribe.train.dataset.report import CONTACT_SHEET, TRIM_PLOT, dataset_warnings, write_report
from tomoscribe.train.dataset.selection import Candidates, Selection, select_images
from tomoscribe.train.dataset.sources import find_inputs
from tomoscribe.train.dataset.storage import (
    Dataset,
    ImageRecord,
    write_index,
)
from tomoscribe.train.dataset.tiling import Tiling
from tomoscribe.train.dataset.trim_plot import draw_trims
from tomoscribe.train.dataset.workers import Advance, Workers
from tomoscribe.train.dataset.writing import Survey, find_survey, survey, write_intensity

__all__ = ["BadInputsError", "Failure", "Progress", "build_dataset"]

Progress = Callable[[str, str, int, int], None]
"""Called as the work goes on with the stage (``labels``, ``images``), the tomogram, how many of its slices were
finished since the last call, and how many the stage has in all."""


@dataclass(frozen=True)
class Failure:
    """A tomogram that cannot be used, and why."""

    tomogram: str
    message: str


class BadInputsError(DatasetError):
    """Tomograms or annotations that cannot be used; `failures` has every one."""

    def __init__(self, failures: Sequence[Failure], total: int) -> None:
        more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
        super().__init__(
            f"{len(failures)} of {total} tomograms cannot be used: {failures[0].message}{more}; "
            "correct them, or leave them out with --keep-going"
        )
        self.failures = tuple(failures)


def build_dataset(
    recipe: Path,
    output: Path,
    *,
    processes: int = 1,
    keep_going: bool = False,
    overwrite: bool = False,
    progress: Progress = lambda *_: None,
) -> Dataset:
    """Build a dataset, or go on with one whose building was stopped.

    Tomograms that an earlier build finished are kept as they are if neither their files nor what the recipe says of
    them have changed. The dataset can be opened when all is done, not before.

    Args:
        recipe: the recipe; its paths are relative to it.
        output: the dataset's folder.
        processes: processes that work at the same time, on a tomogram each.
        keep_going: whether to leave out tomograms that cannot be used.
        overwrite: whether a dataset that is there may be replaced; what has not changed is kept.
        progress: called as the work goes on.

    Returns:
        The dataset.

    Raises:
        ParameterError: the recipe cannot be.
        OutputExistsError: a dataset is there and `overwrite` is not set, or the folder holds something else.
        BadInputsError: tomograms or annotations that cannot be used, and `keep_going` is not set or none is left.
        DatasetError: no image is left, because no tile has foreground.
        OutputError: the dataset cannot be written.
    """
    plan = read_recipe(recipe)
    with Workers(processes) as workers:
        builder = _Builder(plan, recipe, output, workers, keep_going, progress)
        check_folder(output, overwrite)
        builder.check()
        prepare_folder(output)
        builder.survey()
        dataset = builder.describe(builder.write_images())
    clean_folder(output, {tomogram.name for tomogram in dataset.tomograms})
    builder.report(dataset)
    write_index(dataset)
    return dataset


@dataclass(frozen=True)
class _Unit:
    """The work on one tomogram, for a process; the last two are known once it is surveyed."""

    source: Input
    tiles: TileRule
    output: Path
    found: Survey | None = None
    needed: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class _Images:
    """The images that were chosen.

    Attributes:
        selection: the split of each, and how they were shared out.
        place: ``(images, 3)`` int64: index of the tomogram, z, tile.
    """

    selection: Selection
    place: NDArray[np.int64]

    def needed(self, index: int, shape: tuple[int, ...], context: int) -> NDArray[np.bool_]:
        """Return the ``(z, tiles)`` intensities that the images of a tomogram need, those of their context too."""
        needed = np.zeros(shape, np.bool_)
        _, z, tile = self.place[self.place[:, 0] == index].T
        for offset in range(-context, context + 1):
            needed[np.clip(z + offset, 0, shape[0] - 1), tile] = True
        return needed


class _Builder:
    """A build that is under way."""

    def __init__(
        self, recipe: Recipe, path: Path, output: Path, workers: Workers, keep_going: bool, progress: Progress
    ) -> None:
        self._recipe = recipe
        self._path = path
        # Now: it may be edited while the build goes on.
        self._text = path.read_text(encoding="utf-8")
        self._output = output
        self._workers = workers
        self._keep_going = keep_going
        self._progress = progress
        self._inputs = find_inputs(recipe, path.parent)
        self._total = len(self._inputs)
        self._failures: list[Failure] = []
        self._slices: dict[str, int] = {}
        self._surveys: dict[str, Survey] = {}

    def check(self) -> None:
        """Open every pair once, so that what is wrong is known before the long work begins."""
        errors = {}
        for source in self._inputs:
            try:
                self._slices[source.name] = source.shape()[0]
            except TomoscribeError as error:
                errors[source.name] = error
        self._leave_out(errors)

    def survey(self) -> None:
        """Write the labels of the tomograms of which an earlier build has not left them."""
        tiles = self._recipe.tiles
        left = {source.name: find_survey(source, tiles, self._output) for source in self._inputs}
        self._surveys = {name: found for name, found in left.items() if found is not None}
        units = [_Unit(source, tiles, self._output) for source in self._inputs if source.name not in self._surveys]
        self._surveys |= self._run("labels", _survey, units)

    def write_images(self) -> _Images:
        """Choose the images, and write the intensities that they need and that are not there."""
        tiles = self._recipe.tiles
        while True:
            images = self._choose()
            units = []
            for index, source in enumerate(self._inputs):
                found = self._surveys[source.name]
                needed = images.needed(index, found.stored.shape, tiles.context)
                if (needed & ~found.stored).any():
                    units.append(_Unit(source, tiles, self._output, found, needed))
            failed = len(self._failures)
            self._surveys |= self._run("images", _write_images, units)
            if len(self._failures) == failed:
                return images
            # Without the tomograms that failed, the shares are others.

    def describe(self, images: _Images) -> Dataset:
        """Return the dataset as its index has it."""
        surveys = [self._surveys[source.name] for source in self._inputs]
        records, counts = [], []
        for split, (index, z, tile) in zip(images.selection.split, images.place, strict=True):
            record = surveys[index].record
            top, left = Tiling(record.shape[1:], self._recipe.tiles.size).corners[tile]
            records.append(ImageRecord(SPLITS[split], record.name, int(z), int(tile), top, left))
            counts.append(surveys[index].voxels[z, tile])
        dataset = Dataset(
            path=self._output,
            name=self._recipe.name,
            class_map=self._recipe.class_map,
            tile=self._recipe.tiles.size,
            context=self._recipe.tiles.context,
            tomograms=tuple(found.record for found in surveys),
            images=tuple(records),
            counts=np.array(counts, np.int64),
            provenance=self._provenance(images.selection, surveys),
        )
        warnings = self._doubles() + dataset_warnings(dataset, {found.record.name: found.warnings for found in surveys})
        return replace(dataset, provenance={**dataset.provenance, "warnings": warnings})

    def report(self, dataset: Dataset) -> None:
        """Write the report with its pictures."""
        pictures = [draw_contact_sheet(dataset, self._output / CONTACT_SHEET, seed=self._recipe.seed)]
        trimmed = [found for source in self._inputs if (found := self._surveys[source.name]).profile]
        (self._output / TRIM_PLOT).unlink(missing_ok=True)
        if trimmed:
            pictures.append(draw_trims(trimmed, self._output / TRIM_PLOT))
        write_report(dataset, self._output, pictures=[picture.name for picture in pictures])

    def _doubles(self) -> list[str]:
        """Warn of tomograms that the recipe names twice."""
        first: dict[str, Input] = {}
        warnings = []
        for source in self._inputs:
            other = first.setdefault(source.identity, source)
            if other is not source:
                splits = {source.split, other.split} - {None}
                leak = " and fixed to another split, so that figures will be too good" if len(splits) > 1 else ""
                warnings.append(
                    f"{source.name} is the same tomogram as {other.name}{leak}; name it in one source of the recipe"
                )
        return warnings

    def _provenance(self, selection: Selection, surveys: Sequence[Survey]) -> dict[str, Any]:
        return {
            "recipe": self._recipe.model_dump(mode="json"),
            "recipe_text": self._text,
            "seed": self._recipe.seed,
            "split_by": selection.by,
            # Of phantoms the recipe says all.
            "tomograms": [asdict(found.record) for found in surveys if "files" in found.record.sources],
            "left_out": [asdict(failure) for failure in self._failures],
            "versions": {name: version(name) for name in ("tomoscribe", "numpy", "scipy", "zarr")},
        }

    def _choose(self) -> _Images:
        places, classes = [], []
        for index, source in enumerate(self._inputs):
            voxels = self._surveys[source.name].voxels
            # A tile in which every voxel is ignored teaches nothing.
            z, tile = np.nonzero(voxels.sum(axis=-1))
            places.append(np.stack([np.full_like(z, index), z, tile], axis=1))
            classes.append(voxels[z, tile, 1:] > 0)
        place = np.concatenate(places)
        groups, fixed = _groups(self._inputs)
        candidates = Candidates(groups[place[:, 0]], np.concatenate(classes), fixed)
        rule = self._recipe
        selection = select_images(candidates, rule.split, rule.tiles.background, rule.seed)
        if not len(selection.chosen):
            raise DatasetError(
                f"{self._path}: expected tiles with foreground, found none in {len(self._inputs)} tomograms; "
                "see that the annotations and the trim range are right, or set tiles.background: all"
            )
        return _Images(selection, place[selection.chosen])

    def _run(self, stage: str, function: Callable[[_Unit, Advance], Survey], units: list[_Unit]) -> dict[str, Survey]:
        """Run the units; what cannot be used is left out."""
        slices = sum(self._slices[unit.source.name] for unit in units)
        done: dict[str, Survey] = {}
        errors: dict[str, TomoscribeError] = {}

        def report(number: int, count: int) -> None:
            self._progress(stage, units[number].source.name, count, slices)

        for number, outcome in self._workers.run(function, units, report):
            into: dict[str, Any] = errors if isinstance(outcome, TomoscribeError) else done
            into[units[number].source.name] = outcome
        self._leave_out(errors)
        return done

    def _leave_out(self, errors: Mapping[str, TomoscribeError]) -> None:
        failed = [source for source in self._inputs if source.name in errors]
        self._failures += [Failure(source.title, str(errors[source.name])) for source in failed]
        self._inputs = [source for source in self._inputs if source.name not in errors]
        if self._failures and not (self._keep_going and self._inputs):
            raise BadInputsError(self._failures, self._total)


def _groups(inputs: Sequence[Input]) -> tuple[NDArray[np.int64], list[str | None]]:
    """Return which inputs are one tomogram, numbered, and the split that each number is fixed to.

    A tomogram that the recipe names twice goes to one split, unless two of its sources are fixed to different ones.
    """
    fixed = {source.identity: source.split for source in reversed(inputs) if source.split}
    keys = [(source.identity, source.split or fixed.get(source.identity)) for source in inputs]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return np.array([numbers[key] for key in keys], np.int64), [split for _, split in numbers]


def _survey(unit: _Unit, advance: Advance) -> Survey:
    return survey(unit.source, unit.tiles, unit.output, advance)


def _write_images(unit: _Unit, advance: Advance) -> Survey:
    assert unit.found is not None
    assert unit.needed is not None
    write_intensity(unit.source, unit.tiles, unit.output, unit.found, unit.needed, advance)
    return replace(unit.found, stored=unit.needed)

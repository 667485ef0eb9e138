"""A recipe: which phantoms to train on, which network, and how; the same recipe gives the same model."""

from __future__ import annotations

import multiprocessing
import tomllib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from tomoscribe.engine.class_map import DEFAULT_CLASS_MAP
from tomoscribe.engine.errors import ParameterError
from tomoscribe.train.fit import FitConfiguration, fit
from tomoscribe.train.phantom import PhantomParameters, draw_parameters, make_phantom
from tomoscribe.train.sampling import SamplingConfiguration, TrainingVolume
from tomoscribe.train.unet import UNetConfiguration

__all__ = ["Recipe", "read_recipe", "train_recipe"]

# Phantoms of one recipe have seeds from these on: no phantom is in two sets.
VALIDATION_SEED = 1_000_000
TEST_SEED = 2_000_000


@dataclass(frozen=True)
class Recipe:
    """What a model is made from.

    Attributes:
        training: phantoms that crops are taken from.
        validation: phantoms that choose the best checkpoint.
        phantoms: the table that each phantom's parameters are drawn from.
        fit: network, sampling and schedule; its seed is the recipe's.
    """

    training: int
    validation: int
    phantoms: Mapping[str, Any]
    fit: FitConfiguration

    def provenance(self) -> dict[str, Any]:
        """Return what a checkpoint says of the phantoms that it was trained on."""
        counts = {"training": self.training, "validation": self.validation}
        return {"tomoscribe": version("tomoscribe"), "phantoms": {**counts, "parameters": dict(self.phantoms)}}

    def training_parameters(self) -> list[PhantomParameters]:
        """Return the parameters of the training phantoms."""
        return [draw_parameters(self.phantoms, self.fit.seed + number) for number in range(self.training)]

    def validation_parameters(self) -> list[PhantomParameters]:
        """Return the parameters of the validation phantoms."""
        first = VALIDATION_SEED + self.fit.seed
        return [draw_parameters(self.phantoms, first + number) for number in range(self.validation)]

    def test_parameters(self, count: int) -> list[PhantomParameters]:
        """Return the parameters of phantoms that are in neither set."""
        first = TEST_SEED + self.fit.seed
        return [draw_parameters(self.phantoms, first + number) for number in range(count)]


def read_recipe(path: Path) -> Recipe:
    """Read a recipe, TOML as ``train/recipes/bundled.toml``.

    Raises:
        ParameterError: the file cannot be read, a key is missing or unknown, or a value cannot be.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ParameterError(f"{path}: expected a readable TOML recipe, found: {error}") from error
    try:
        return _recipe(table)
    except KeyError as error:
        raise ParameterError(f"{path}: the recipe lacks the key {error}") from error
    except ParameterError as error:
        raise ParameterError(f"{path}: {error}") from error
    except TypeError as error:
        raise ParameterError(f"{path}: a key that does not exist or a value of the wrong kind ({error})") from error


def _recipe(table: Mapping[str, Any]) -> Recipe:
    phantoms, settings = table["phantoms"], table.get("fit", {})
    known = {field.name for field in fields(FitConfiguration)} - {"class_map", "network", "sampling", "seed"}
    for name, entries, allowed in (
        ("recipe", table, {"seed", "phantoms", "network", "sampling", "fit"}),
        ("phantoms", phantoms, {"training", "validation", "parameters"}),
        ("fit", settings, known),
    ):
        if not set(entries) <= allowed:
            raise ParameterError(f"{name}: expected the keys {sorted(allowed)}, found {sorted(entries)}")
    for name, count in (("seed", table["seed"]), *((n, phantoms[n]) for n in ("training", "validation"))):
        if type(count) is not int or count < (name != "seed"):
            raise ParameterError(f"{name}: expected a whole number above 0 (a seed: 0 or more), found {count!r}")
    recipe = Recipe(
        training=phantoms["training"],
        validation=phantoms["validation"],
        phantoms=phantoms.get("parameters", {}),
        fit=FitConfiguration(
            seed=table["seed"],
            network=UNetConfiguration(classes=len(DEFAULT_CLASS_MAP) + 1, **table.get("network", {})),
            sampling=SamplingConfiguration(**table.get("sampling", {})),
            **settings,
        ),
    )
    # Drawn here once, so that a parameter that cannot be is found before the work begins.
    recipe.training_parameters()
    return recipe


def train_recipe(
    recipe: Recipe,
    output: Path,
    *,
    processes: int = 1,
    phantom_made: Callable[[int], None] | None = None,
    step_done: Callable[[int, float], None] | None = None,
) -> Path:
    """Make the phantoms of a recipe and fit its network to them.

    Args:
        recipe: what to do.
        output: a folder for the log and the checkpoints, as `tomoscribe.train.fit.fit` writes them.
        processes: processes that make phantoms.
        phantom_made: called with the number of phantoms that are done.
        step_done: called with each step's number and loss.

    Returns:
        The path of the best checkpoint.

    Raises:
        TomoscribeError: as `fit` does.
    """
    parameters = [*recipe.training_parameters(), *recipe.validation_parameters()]
    volumes = []
    for volume in _make_volumes(parameters, processes):
        volumes.append(volume)
        if phantom_made is not None:
            phantom_made(len(volumes))
    training, validation = volumes[: recipe.training], volumes[recipe.training :]
    return fit(training, validation, recipe.fit, output, provenance=recipe.provenance(), progress=step_done)


def _make_volumes(parameters: list[PhantomParameters], processes: int) -> Iterator[TrainingVolume]:
    if processes == 1:
        yield from map(_make_volume, parameters)
        return
    # Started afresh, because a fork of a process whose libraries run threads can hang.
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(_make_volume, parameters)


def _make_volume(parameters: PhantomParameters) -> TrainingVolume:
    phantom = make_phantom(parameters)
    # Half precision is far finer than the noise, and halves what a recipe holds in memory.
    return TrainingVolume(phantom.intensity.astype(np.float16), phantom.labels, parameters.voxel_size)

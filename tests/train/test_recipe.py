from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from tomoscribe.engine.errors import ParameterError
from tomoscribe.train.checkpoint import load_checkpoint
from tomoscribe.train.recipe import read_recipe, train_recipe

BUNDLED = Path(__file__).resolve().parents[2] / "train" / "recipes" / "bundled.toml"
SMALL = """
seed = 7
[phantoms]
training = 2
validation = 1
[phantoms.parameters]
shape = [8, 48, 48]
voxel_size = [12.0, 16.0]
[network]
depth = 1
base_width = 2
[sampling]
crop = 32
[fit]
name = "small"
steps = 3
batch_size = 2
precision = "fp32"
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_recipe_makes_a_checkpoint_and_always_the_same(tmp_path):
    recipe = read_recipe(write(tmp_path, SMALL))
    made = []
    first = load_checkpoint(train_recipe(recipe, tmp_path / "a", phantom_made=made.append))
    second = load_checkpoint(train_recipe(recipe, tmp_path / "b"))
    assert made == [1, 2, 3]
    assert first.specification.name == "small"
    for name, tensor in first.network.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), second.network.state_dict()[name].numpy())
    with (tmp_path / "a" / "log.csv").open(newline="", encoding="utf-8") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["3"]


def test_no_phantom_is_in_two_sets():
    recipe = read_recipe(BUNDLED)
    sets = (recipe.training_parameters(), recipe.validation_parameters(), recipe.test_parameters(50))
    seeds = [parameters.seed for parameter_set in sets for parameters in parameter_set]
    assert len(set(seeds)) == len(seeds) == recipe.training + recipe.validation + 50


def test_the_bundled_recipe_varies_what_it_says_it_varies():
    parameters = read_recipe(BUNDLED).training_parameters()
    assert len({p.voxel_size for p in parameters}) == len(parameters)
    assert {p.imaging.filter for p in parameters} == {"ramp", "sirt"}
    assert {p.imaging.phase_flip for p in parameters} == {True, False}


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("seed = 7", "", "seed"),
        ("training = 2\n", "", "training"),
        ("depth = 1", "deep = 1", "deep"),
        ("steps = 3", "stages = 3", "fit"),
        ("[sampling]", "[samples]", "sampling"),
        ("crop = 32", "crop = 33", "crop"),
        ("voxel_size = [12.0, 16.0]", "voxel_size = [16.0, 12.0]", "voxel_size"),
        ("seed = 7", "seed = = 7", "TOML"),
        ("seed = 7", "seed = -7", "seed"),
        ("training = 2", "training = 2.5", "training"),
        ("validation = 1", "validation = 0", "validation"),
        ("[phantoms.parameters]", "[phantoms.paramters]", "phantoms"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused_in_one_line(tmp_path, old, new, named):
    with pytest.raises(ParameterError, match=named) as caught:
        read_recipe(write(tmp_path, SMALL.replace(old, new)))
    assert "\n" not in str(caught.value)

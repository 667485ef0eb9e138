"""The model that comes along: whole, made by the recipe that is committed, and able to do what it is for."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tomoscribe.engine import DEFAULT_CLASS_MAP, Bundle, default_bundle, segment
from tomoscribe.train.evaluate import compare_label_volumes
from tomoscribe.train.phantom import PhantomParameters, SampleParameters, make_phantom
from tomoscribe.train.phantom.files import write_phantom
from tomoscribe.train.recipe import read_recipe
from tomoscribe.train.unet import UNetConfiguration

RECIPE = Path(__file__).resolve().parents[2] / "train" / "recipes" / "bundled.toml"


def test_it_is_whole_and_small():
    bundle = Bundle.load(default_bundle())
    assert bundle.specification.class_map == DEFAULT_CLASS_MAP
    assert bundle.artifact_path("fp32").stat().st_size < 10e6
    assert bundle.parity["fp32"]["labels_equal"] >= 0.9999
    assert bundle.parity["fp32"]["largest_score_difference"] <= 1


def test_it_is_what_the_committed_recipe_makes():
    bundle, recipe = Bundle.load(default_bundle()), read_recipe(RECIPE)
    configuration = bundle.training["configuration"]
    assert UNetConfiguration.from_json(configuration["network"]) == recipe.fit.network
    for name in ("name", "steps", "batch_size", "learning_rate", "seed"):
        assert configuration[name] == getattr(recipe.fit, name), name
    assert bundle.training["phantoms"] == recipe.provenance()["phantoms"]
    sizes = [parameters.voxel_size for parameters in recipe.training_parameters()]
    assert bundle.specification.voxel_size == (min(sizes), max(sizes))
    assert bundle.specification.halo == recipe.fit.network.halo


def test_it_finds_all_five_features_in_a_phantom_that_it_never_saw(tmp_path):
    sample = SampleParameters(double_membranes=12.0)
    phantom = make_phantom(PhantomParameters(shape=(32, 256, 256), seed=4_000_003, sample=sample))
    files = write_phantom(phantom, tmp_path / "phantom.mrc")
    labels = segment(files.tomogram).labels
    dice = compare_label_volumes(labels, files.truth, DEFAULT_CLASS_MAP).dice()[1:]
    assert np.bincount(phantom.labels.ravel(), minlength=6).min() > 1000
    # Far below what it reaches: this is to see that it works, and `benchmarks/bundled_model.py` is to see how well.
    assert (dice > 0.5).all(), dice

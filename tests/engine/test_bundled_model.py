"""The model that comes along: whole, made by the recipe that is committed, and able to do what it is for."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tomoscribe.engine import DEFAULT_CLASS_MAP, Bundle, default_bundle, segment
from tomoscribe.train.checkpoint import load_checkpoint
from tomoscribe.train.dataset.recipe import PhantomSource, read_recipe
from tomoscribe.train.evaluation.volumes import compare_label_volumes
from tomoscribe.train.phantom import PhantomParameters, SampleParameters, make_phantom
from tomoscribe.train.phantom.files import write_phantom
from tomoscribe.train.settings import TrainingSettings
from tomoscribe.train.unet import UNetConfiguration
from tomoscribe.train.yaml_file import read_yaml

RECIPES = Path(__file__).resolve().parents[2] / "train" / "recipes"


def test_it_is_whole_and_small():
    bundle = Bundle.load(default_bundle())
    assert bundle.specification.class_map == DEFAULT_CLASS_MAP
    assert bundle.artifact_path("fp32").stat().st_size < 10e6
    assert bundle.parity["fp32"]["labels_equal"] >= 0.9999
    assert bundle.parity["fp32"]["largest_score_difference"] <= 1


def test_it_is_what_the_committed_recipes_make():
    bundle = Bundle.load(default_bundle())
    recipe = read_recipe(RECIPES / "bundled-dataset.yaml")
    settings = read_yaml(RECIPES / "bundled-training.yaml", TrainingSettings)
    assert bundle.training["settings"] == settings.model_dump(mode="json")
    assert bundle.training["dataset"]["recipe"] == recipe.model_dump(mode="json")
    sizes = [
        drawn.voxel_size
        for source in recipe.sources
        if isinstance(source, PhantomSource)
        for drawn in source.phantoms.drawn()
    ]
    assert bundle.specification.voxel_size == (min(sizes), max(sizes))
    size = UNetConfiguration(len(DEFAULT_CLASS_MAP) + 1, settings.context, settings.depth, settings.base_width)
    assert (bundle.specification.context, bundle.specification.halo) == (size.context, size.halo)


def test_a_training_can_start_from_it():
    bundle = Bundle.load(default_bundle())
    checkpoint = load_checkpoint(bundle.artifact_path("checkpoint"))
    assert checkpoint.specification == bundle.specification


def test_it_finds_all_five_features_in_a_phantom_that_it_never_saw(tmp_path):
    sample = SampleParameters(double_membranes=12.0)
    phantom = make_phantom(PhantomParameters(shape=(32, 256, 256), seed=4_000_003, sample=sample))
    files = write_phantom(phantom, tmp_path / "phantom.mrc")
    labels = segment(files.tomogram).labels
    dice = compare_label_volumes(labels, files.truth, DEFAULT_CLASS_MAP).dice()[1:]
    assert np.bincount(phantom.labels.ravel(), minlength=6).min() > 1000
    # Far below what it reaches: this is to see that it works, and `benchmarks/bundled_model.py` is to see how well.
    assert (dice > 0.5).all(), dice

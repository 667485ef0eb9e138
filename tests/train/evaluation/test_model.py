"""A model against a dataset, in memory."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from tomoscribe.engine.bundle import Bundle, ModelSpecification
from tomoscribe.engine.class_map import ClassMap, LabelClass
from tomoscribe.engine.errors import BundleError, ParameterError
from tomoscribe.train.checkpoint import Checkpoint, CheckpointError, save_checkpoint
from tomoscribe.train.dataset.contract import DatasetError
from tomoscribe.train.evaluation.judgement import judge
from tomoscribe.train.evaluation.model import ModelComparison
from tomoscribe.train.evaluation.predictors import class_numbers, open_predictor
from tomoscribe.train.unet import UNet, UNetConfiguration

CLASS_MAP = ClassMap((LabelClass(1, "dark matter", (1, 2, 3)), LabelClass(2, "light", (4, 5, 6))))
Record = namedtuple("Record", "tomogram z top left")


@dataclass
class MemoryImages:
    """Tiles of 16 pixels of one volume; those at column 8 overlap those at 0 and 16."""

    slices: np.ndarray
    labels: np.ndarray
    images: list
    class_map: ClassMap = CLASS_MAP
    tile: int = 16
    voxel_size: tuple = (10.0, 10.0)

    def numbers(self, split):
        return np.arange(len(self.images)) if split == "test" else np.array([], int)

    def read(self, number, context):
        record = self.images[number]
        window = slice(record.top, record.top + 16), slice(record.left, record.left + 16)
        run = np.clip(np.arange(record.z - context, record.z + context + 1), 0, len(self.slices) - 1)
        return self.slices[:, *window][run], self.labels[record.z][window]


@pytest.fixture
def images():
    generator = np.random.default_rng(0)
    slices = generator.normal(0, 1, (3, 24, 32)).astype(np.float32)
    labels = generator.choice([0, 1, 2, 255], slices.shape).astype(np.uint8)
    places = [(0, 0), (0, 8), (0, 16), (8, 8)]
    return MemoryImages(slices, labels, [Record("t", z, *place) for place in places for z in range(3)])


def summed(slices):
    """What the tiny bundle sums: each slice with its neighbours, repeated at the ends."""
    return slices + slices[[0, 0, 1]] + slices[[1, 2, 2]]


def test_a_bundle_labels_as_the_engine_does_and_voxels_count_once(images, tiny_bundle):
    with open_predictor(tiny_bundle, 16) as predictor:
        comparison = ModelComparison(predictor, images, "test")
        assert len(comparison) == 12
        judgement = judge(comparison, tolerance=1)
        image, intensity = comparison.show(4)
    total = summed(images.slices)
    labels = np.where(total > 1.5, 2, np.where(total < -1.5, 1, 0))
    covered = np.zeros((24, 32), bool)
    covered[:16] = True
    covered[8:, 8:24] = True
    known = (images.labels != 255) & covered
    expected = np.zeros((3, 3), int)
    np.add.at(expected, (images.labels[known], labels[known]), 1)
    np.testing.assert_array_equal(judgement.tomograms["t"].counts, expected)
    right = known & (labels == images.labels)
    assert judgement.calibration.given[201].tolist() == [known.sum() - right.sum(), right.sum()]
    record = images.images[4]
    assert (image.place.z, image.place.top, image.place.left) == (record.z, record.top, record.left)
    np.testing.assert_array_equal(intensity, images.slices[1, 0:16, 8:24])
    np.testing.assert_array_equal(image.labels, labels[1, 0:16, 8:24])


def test_a_bundle_pads_images_as_the_engine_pads_slices(tiny_bundle):
    slices = np.random.default_rng(0).normal(0, 1, (3, 13, 13)).astype(np.float32)
    with open_predictor(tiny_bundle, 13) as predictor:
        labels, scores = predictor.predict(slices)
    assert labels.shape == (13, 13)
    assert scores.shape == (3, 13, 13)
    np.testing.assert_array_equal(labels == 2, slices.sum(axis=0) > 1.5)


def test_bright_density_is_inverted_for_a_model_of_bright_density(tiny_bundle, tmp_path):
    bundle = Bundle.load(tiny_bundle)
    (tmp_path / "model.fp32.onnx").write_bytes((tiny_bundle / "model.fp32.onnx").read_bytes())
    replace(bundle, path=tmp_path, specification=replace(bundle.specification, polarity="bright")).write()
    slices = np.random.default_rng(0).normal(0, 1, (3, 16, 16)).astype(np.float32)
    with open_predictor(tmp_path, 16) as bright, open_predictor(tiny_bundle, 16) as dark:
        np.testing.assert_array_equal(bright.predict(slices)[0], dark.predict(-slices)[0])


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    configuration = UNetConfiguration(classes=3, context=1, depth=2, base_width=4)
    specification = ModelSpecification("tiny", CLASS_MAP, 1, 4, configuration.halo, (10.0, 10.0), polarity="bright")
    network = UNet(configuration).eval()
    save_checkpoint(tmp_path / "best.safetensors", Checkpoint(network, specification))
    return network, tmp_path / "best.safetensors"


def test_a_checkpoint_labels_as_its_network_does(checkpoint):
    network, path = checkpoint
    slices = np.random.default_rng(0).normal(0, 1, (3, 16, 16)).astype(np.float32)
    with torch.inference_mode():
        logits = network(torch.from_numpy(-slices)[None])[0]
    with open_predictor(path, 16) as predictor:
        labels, scores = predictor.predict(slices)
    np.testing.assert_array_equal(labels, logits.argmax(dim=0))
    np.testing.assert_allclose(scores, 255 * logits.softmax(dim=0), atol=0.51)


def test_a_model_that_is_none_is_named(tmp_path):
    for name, error in (("nothing", BundleError), ("nothing.safetensors", CheckpointError)):
        with pytest.raises(error, match=name):
            open_predictor(tmp_path / name, 16)


def test_labels_stand_for_the_class_of_their_name():
    other = ClassMap((LabelClass(1, "Light", (1, 2, 3)), LabelClass(2, "dark_matter", (4, 5, 6))))
    assert class_numbers(other, CLASS_MAP, None)[0].tolist() == [0, 2, 1]
    more = ClassMap((*CLASS_MAP.classes, LabelClass(3, "rest", (7, 8, 9))))
    assert class_numbers(CLASS_MAP, more, None)[1] == ("rest",)
    with pytest.raises(ParameterError, match=r"'rest'.*--values 3=dark matter or --values 3=background"):
        class_numbers(more, CLASS_MAP, None)
    assert class_numbers(more, CLASS_MAP, {3: "background"})[0].tolist() == [0, 1, 2, 0]
    with pytest.raises(ParameterError, match="from 0 to 2, found 3"):
        class_numbers(CLASS_MAP, CLASS_MAP, {3: "light"})


def test_labels_that_stand_for_one_class_share_their_scores(images, tiny_bundle):
    images.class_map = ClassMap((LabelClass(1, "anything", (1, 2, 3)),))
    images.labels[images.labels == 2] = 1
    with open_predictor(tiny_bundle, 16) as predictor:
        comparison = ModelComparison(predictor, images, "test", values={1: "anything", 2: "anything"})
        image = next(comparison.images())
        plain, _ = predictor.predict(images.read(0, 1)[0])
    np.testing.assert_array_equal(image.labels, plain > 0)
    np.testing.assert_array_equal(image.scores[1], np.where(plain > 0, 228, 54))


def test_what_the_figures_suffer_from_is_told(images, tiny_bundle):
    images.class_map = ClassMap((*CLASS_MAP.classes, LabelClass(3, "rest", (7, 8, 9))))
    with open_predictor(tiny_bundle, 16) as predictor:
        assert "no class rest" in ModelComparison(predictor, images, "test").warnings[0]
        images.class_map, images.voxel_size = CLASS_MAP, (8.0, 17.0)
        assert "outside" in ModelComparison(predictor, images, "test").warnings[0]
        images.voxel_size = (7.7, 16.7)
        assert not ModelComparison(predictor, images, "test").warnings
        with pytest.raises(DatasetError, match="'dev'"):
            ModelComparison(predictor, images, "dev")

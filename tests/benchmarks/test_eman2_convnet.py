"""EMAN2's network and what it is fed, against the formulas that it is described with."""

from __future__ import annotations

import sys
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.fft
import torch

from tomoscribe.train.dataset.contract import IGNORE, DatasetError

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _one_thread():
    """On a busy machine, threads of such small work wait for each other most of the time."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def eman2():
    """The two modules, imported as the benchmark imports them: from its own folder."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        import eman2_convnet
        import eman2_tiles

        return eman2_convnet, eman2_tiles
    finally:
        sys.path.remove(str(BENCHMARKS))


class Images:
    """Two images of noise: a bright square of class 1 in the first, nothing in the second, which ends ignored."""

    def __init__(self):
        random = np.random.default_rng(0)
        self._intensity = random.standard_normal((2, 96, 96)).astype(np.float32)
        self._labels = np.zeros((2, 96, 96), np.uint8)
        self._labels[0, 40:56, 40:56] = 1
        self._intensity[self._labels == 1] += 6
        self._labels[1, :, 64:] = IGNORE
        self.counts = np.array([[96 * 96 - 256, 256], [96 * 64, 0]])

    def numbers(self, split):
        return np.arange(2 if split == "train" else 0)

    def read(self, number, context):
        return np.repeat(self._intensity[number][None], 2 * context + 1, axis=0), self._labels[number]


def test_the_network_has_the_published_layers_and_halves_the_image(eman2):
    network = eman2[0].Convnet()
    assert sum(p.numel() for p in network.parameters()) == 40 * (15**2 + 1) + 40 * (40 * 15**2 + 1) + (40 * 15**2 + 1)
    assert network.eval()(torch.zeros(2, 1, 64, 48)).shape == (2, 1, 32, 24)


def test_training_through_fourier_space_is_the_same_network(eman2):
    torch.manual_seed(0)
    network, images = eman2[0].Convnet(), torch.randn(3, 1, 34, 26)
    # Weights of a size at which nothing drowns in the tolerance.
    for layer in network.layers:
        torch.nn.init.normal_(layer.weight, std=0.05)
        torch.nn.init.normal_(layer.bias)
    torch.testing.assert_close(network.train()(images), network.eval()(images), rtol=1e-4, atol=1e-4)


def test_preparation_is_a_band_pass(eman2):
    _, tiles = eman2
    # Cosines that mirroring the edges continues: what a filter makes of them is their own multiple.
    width, waves = 256, np.array([6, 90])
    frequencies = waves / 2 / width
    coarse, fine = (np.cos(np.pi * n * (np.arange(width) + 0.5) / width) for n in waves)
    for fine_slice in range(5):
        slices = np.zeros((5, 64, width), np.float32)
        slices[2] += coarse.astype(np.float32)
        slices[fine_slice] += fine.astype(np.float32)
        found = scipy.fft.dct(tiles.prepare(slices)[32])[waves]
        # EMAN2's Gaussians: 1/e at 0.25 cycles per pixel in all directions, and at 5 Fourier pixels.
        gains = np.exp(-((frequencies / 0.25) ** 2)) * (1 - np.exp(-((frequencies * width / 5) ** 2)))
        away = fine_slice - 2
        across_z = np.exp(-((np.pi * 0.25 * away) ** 2))
        assert found[1] / found[0] == pytest.approx(gains[1] / gains[0] * across_z, rel=0.02)
    slices[2, 32, 100] = 1e4  # a bead; three standard deviations are 1
    assert tiles.prepare(slices).max() == pytest.approx(1)


def test_tiles_hold_the_feature_and_background_in_equal_parts(eman2):
    _, tiles = eman2
    drawn = tiles.draw_tiles(Images(), 1, 40, seed=0)
    there = drawn.targets.amax(dim=(1, 2, 3)) > 0
    assert drawn.images.shape[1:] == (1, 64, 64)
    assert drawn.targets.shape[1:] == drawn.known.shape[1:] == (1, 32, 32)
    assert there.sum() == 20
    # The square is bright wherever the target says that it is.
    small = torch.nn.functional.avg_pool2d(drawn.images, 2)
    assert small[drawn.targets > 0.99].mean() > small[drawn.targets == 0].mean() + 0.3
    assert not drawn.known.all()
    assert drawn.known[there].float().mean() > drawn.known[~there].float().mean()


@pytest.fixture
def clock_of_steps(eman2, monkeypatch):
    """A clock on which a step takes a second, however fast the machine is; the last second of a budget is no step."""
    ticks = count()
    monkeypatch.setattr(eman2[0], "time", SimpleNamespace(perf_counter=lambda: 0, process_time=lambda: next(ticks)))


@pytest.mark.usefixtures("clock_of_steps")
def test_what_nobody_annotated_teaches_nothing(eman2):
    convnet, tiles = eman2
    drawn = tiles.draw_tiles(Images(), 1, 8, seed=0)
    assert not drawn.known.all()
    wrong = tiles.Tiles(drawn.images, torch.where(drawn.known, drawn.targets, 1000.0), drawn.known)
    training, device = convnet.ConvnetTraining(batch_size=8), torch.device("cpu")
    (one,) = convnet.train(drawn, training, [convnet.Budget(0, 2)], device)
    (other,) = convnet.train(wrong, training, [convnet.Budget(0, 2)], device)
    assert all(torch.equal(one.weights[name], other.weights[name]) for name in one.weights)


@pytest.mark.usefixtures("clock_of_steps")
def test_it_learns_to_find_a_bright_square(eman2):
    convnet, tiles = eman2
    images = Images()
    first, last = convnet.train(
        tiles.draw_tiles(images, 1, 40, seed=0),
        convnet.ConvnetTraining(batch_size=8, learning_rate=5e-4),
        [convnet.Budget(0, 0), convnet.Budget(0, 16)],
        torch.device("cpu"),
    )
    assert last.steps - first.steps == 15
    network = convnet.Convnet()
    network.load_state_dict(last.weights)
    slices, labels = images.read(0, tiles.CONTEXT)
    scores = convnet.score(network, tiles.prepare(slices))
    assert scores.shape == labels.shape
    assert scores[labels == 1].mean() > scores[labels == 0].mean() + 0.3


def test_a_class_that_is_nowhere_is_an_error(eman2):
    images = Images()
    images.counts[0, 1] = 0
    with pytest.raises(DatasetError, match="class 1"):
        eman2[1].draw_tiles(images, 1, 40, seed=0)


def test_merging_takes_the_highest_score_that_reaches_its_threshold(eman2):
    scores = np.array([[0.9, 0.5, 0.3, 0.0], [0.8, 0.7, 0.35, 0.0]], np.float32)
    assert eman2[0].merge(scores, np.array([0.4, 0.75])).tolist() == [1, 1, 0, 0]
    assert eman2[0].merge(scores, np.array([0.8, 0.8])).tolist() == [1, 0, 0, 0]


def test_thresholds_are_chosen_for_each_class(eman2):
    truth = np.array([1, 1, 0, 0, 2, 2, 0, 0], np.uint8)
    scores = np.array([[0.3, 0.3, 0.1, 0.1, 0, 0, 0, 0], [0, 0, 0, 0, 0.9, 0.9, 0.6, 0.6]], np.float32)
    thresholds = eman2[0].choose_thresholds(scores, truth)
    assert eman2[0].merge(scores, thresholds).tolist() == truth.tolist()

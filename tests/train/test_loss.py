"""The loss against plain loops over the voxels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tomoscribe.engine.errors import ParameterError
from tomoscribe.train.dataset.contract import IGNORE
from tomoscribe.train.loss import SegmentationLoss, class_weights

WEIGHTS = (0.5, 2.0, 3.0, 1.0)


def batch(seed=0, unknown=True):
    """Logits of four classes and labels of three of them, some of them not known."""
    random = np.random.default_rng(seed)
    logits = torch.from_numpy(random.normal(0, 2, (2, 4, 3, 5)).astype(np.float32)).requires_grad_()
    labels = random.integers(0, 3, (2, 3, 5))
    if unknown:
        labels[random.random(labels.shape) < 0.3] = IGNORE
    return logits, torch.from_numpy(labels)


def expected(logits, labels, weights=(1.0, 1.0, 1.0, 1.0), dice=0.0, focal=0.0):
    total = share = 0.0
    both, sums, true = np.zeros(4), np.zeros(4), np.zeros(4)
    values, truth = logits.detach().numpy().astype(np.float64), labels.numpy()
    for n, y, x in np.ndindex(truth.shape):
        label = truth[n, y, x]
        if label == IGNORE:
            continue
        odds = np.exp(values[n, :, y, x])
        p = odds / odds.sum()
        total += weights[label] * (1 - p[label]) ** focal * -math.log(p[label])
        share += weights[label]
        both[label] += p[label]
        sums += p
        true[label] += 1
    there = [c for c in range(1, 4) if true[c]]
    soft = [1 - 2 * both[c] / (sums[c] + true[c]) for c in there]
    return total / share + dice * sum(soft) / len(soft)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("dice", [0.0, 0.7])
@pytest.mark.parametrize("focal", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("unknown", [False, True])
def test_the_loss_is_what_loops_find(weights, dice, focal, unknown):
    logits, labels = batch(unknown=unknown)
    loss = SegmentationLoss(weights, dice, focal)(logits, labels)
    wanted = expected(logits, labels, weights or (1.0, 1.0, 1.0, 1.0), dice, focal)
    assert float(loss.detach()) == pytest.approx(wanted, rel=1e-5)
    loss.backward()
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad.movedim(1, -1)[labels == IGNORE] == 0).all()
    assert (logits.grad.movedim(1, -1)[labels != IGNORE] != 0).any()


def test_the_plain_loss_is_pytorchs():
    logits, labels = batch()
    wanted = torch.nn.functional.cross_entropy(logits, labels, torch.tensor(WEIGHTS), ignore_index=IGNORE)
    torch.testing.assert_close(SegmentationLoss(WEIGHTS)(logits, labels), wanted)


@pytest.mark.parametrize("focal", [0.0, 0.5, 2.0])
def test_a_batch_of_which_nothing_is_known_teaches_nothing(focal):
    logits, labels = batch()
    loss = SegmentationLoss(WEIGHTS, dice=1.0, focal=focal)(logits, torch.full_like(labels, IGNORE))
    loss.backward()
    assert float(loss.detach()) == 0
    assert not logits.grad.any()


@pytest.mark.parametrize("focal", [0.5, 2.0])
def test_certainty_gives_no_gradient_that_is_no_number(focal):
    labels = torch.zeros(1, 2, 2, dtype=torch.long)
    logits = torch.zeros(1, 3, 2, 2)
    logits[:, 0] = 200
    logits.requires_grad_()
    SegmentationLoss(None, 1.0, focal)(logits, labels).backward()
    assert torch.isfinite(logits.grad).all()


def test_balanced_weights_give_every_class_that_is_there_the_same_say():
    counts = np.array([9000, 900, 0, 100])
    weights = np.array(class_weights("balanced", counts))
    np.testing.assert_allclose(weights * counts, [10000 / 3, 10000 / 3, 0, 10000 / 3])
    assert (weights * counts).sum() == pytest.approx(counts.sum())
    assert class_weights("balanced", np.zeros(2, np.int64)) == (0.0, 0.0)


def test_weights_are_taken_as_they_are_or_refused():
    assert class_weights(None, np.ones(3, np.int64)) is None
    assert class_weights((1, 2.5, 0), np.ones(3, np.int64)) == (1.0, 2.5, 0.0)
    for wrong in ((1.0, 2.0), (0.0, 0.0, 0.0)):
        with pytest.raises(ParameterError, match=r"class_weights: expected 3 \(background first\)"):
            class_weights(wrong, np.ones(3, np.int64))

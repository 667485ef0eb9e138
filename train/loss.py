"""The loss: cross-entropy, weighted, focused and joined by a Dice term where asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tomoscribe.engine.errors import ParameterError
from tomoscribe.train.dataset.contract import IGNORE

__all__ = ["SegmentationLoss", "class_weights"]


def class_weights(
    wanted: Literal["balanced"] | Sequence[float] | None, counts: NDArray[np.int64]
) -> tuple[float, ...] | None:
    """Return the weight of each class, background first.

    Args:
        wanted: the weights themselves; or ``balanced``: N / (C · n_c) with n_c the voxels of the class, N those of all
            classes and C the number of classes that there are, so that the mean over the voxels is 1 (King and Zeng,
            Political Analysis 9 (2001) 137; scikit-learn's formula); a class without voxels has the weight 0.
        counts: ``(classes,)``, the voxels of each class in the train split.

    Raises:
        ParameterError: another number of weights than classes, or none above 0.
    """
    if wanted is None:
        return None
    if wanted == "balanced":
        there = counts > 0
        weights = there * counts.sum() / np.maximum(there.sum() * counts, 1)
        return tuple(float(weight) for weight in weights)
    if len(wanted) != len(counts) or not any(wanted):
        raise ParameterError(
            f"class_weights: expected {len(counts)} (background first), one above 0 at least, found {list(wanted)}"
        )
    return tuple(float(weight) for weight in wanted)


class SegmentationLoss(nn.Module):
    """Cross-entropy of logits; voxels labelled `IGNORE` do not count.

    Args:
        weights: of each class, background first; the mean over the voxels is weighted. Equal if None.
        dice: weight of the soft Dice term: 1 - (2 Σ p g) / (Σ p + Σ g), with the probability p and the truth g of a
            class over all voxels of the batch, in the mean over the foreground classes that the batch's truth has
            (Milletari et al., V-Net, 2016, arXiv:1606.04797, with Σ p for their Σ p²).
        focal: γ of the focal loss: the cross-entropy of a voxel times (1 - p)^γ, p the probability of its true class
            (Lin et al., 2017, arXiv:1708.02002).
    """

    weights: Tensor | None

    def __init__(self, weights: Sequence[float] | None = None, dice: float = 0.0, focal: float = 0.0) -> None:
        super().__init__()
        # Not kept with the network: it comes from the settings.
        self.register_buffer("weights", None if weights is None else torch.tensor(weights), persistent=False)
        self._dice = dice
        self._focal = focal

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of a batch, a scalar; 0 where no voxel counts.

        Args:
            logits: ``(n, classes, h, w)`` float32.
            labels: ``(n, h, w)`` int64.
        """
        loss = self._cross_entropy(logits, labels)
        return loss + self._dice * _dice_loss(logits, labels) if self._dice else loss

    def _cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        known = labels != IGNORE
        share = known.float() if self.weights is None else self.weights[labels * known] * known
        if not self._focal:
            total = nn.functional.cross_entropy(logits, labels, self.weights, ignore_index=IGNORE, reduction="sum")
            return total / share.sum().clamp(min=1e-12)
        entropy = nn.functional.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="none")
        # Not quite 0, where the slope of a power below 1 is infinite.
        focused = (-torch.expm1(-entropy)).clamp(min=1e-7) ** self._focal * entropy
        return (focused * share).sum() / share.sum().clamp(min=1e-12)


def _dice_loss(logits: Tensor, labels: Tensor) -> Tensor:
    known = labels != IGNORE
    probability = logits.softmax(dim=1) * known[:, None]
    truth = nn.functional.one_hot(labels * known, logits.shape[1]).movedim(-1, 1) * known[:, None]
    both = (probability * truth).sum(dim=(0, 2, 3))[1:]
    real = truth.sum(dim=(0, 2, 3))[1:]
    dice = 2 * both / (probability.sum(dim=(0, 2, 3))[1:] + real).clamp(min=1e-12)
    there = real > 0
    return ((1 - dice) * there).sum() / there.sum().clamp(min=1)

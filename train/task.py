"""The optimisation as Lightning runs it: network, loss, optimiser, schedule and the augmentation of each batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tomoscribe.train.augmentation import apply_variations
from tomoscribe.train.loss import SegmentationLoss
from tomoscribe.train.settings import TrainingSettings
from tomoscribe.train.unet import UNet
from tomoscribe.train.variation import draw_variation

__all__ = ["STATE_KEY", "SegmentationTask", "collate"]

STATE_KEY = "tomoscribe"

Batch = tuple[Tensor, Tensor, Tensor]


def collate(samples: Sequence[tuple[int, NDArray[np.float32], NDArray[np.uint8]]]) -> Batch:
    """Return a batch of samples: numbers ``(n,)``, slices ``(n, 2k + 1, h, h)``, labels ``(n, h, h)``."""
    numbers, slices, labels = zip(*samples, strict=True)
    return torch.tensor(numbers), torch.from_numpy(np.stack(slices)), torch.from_numpy(np.stack(labels))


class SegmentationTask(lightning.LightningModule):
    """AdamW with a one-cycle schedule on a U-Net.

    Args:
        network: the U-Net.
        loss: the loss.
        settings: the training's.
        identity: what the state of an interrupted run has to agree in before it goes on.
    """

    def __init__(
        self, network: UNet, loss: SegmentationLoss, settings: TrainingSettings, identity: Mapping[str, Any]
    ) -> None:
        super().__init__()
        # A layout of its own: oneDNN's and cuDNN's convolutions are faster on channels-last tensors.
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.loss = loss
        self._settings = settings
        self._identity = dict(identity)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> tuple[Tensor, Tensor]:
        """Vary a batch on the device."""
        numbers, slices, labels = batch
        seed, augmentation = self._settings.seed, self._settings.augmentation
        known = numbers.tolist()
        variations = [draw_variation(augmentation, seed, number) for number in known]
        slices, labels = apply_variations(slices, labels, variations, (seed, known[0]))
        return slices.contiguous(memory_format=torch.channels_last), labels.long()

    def training_step(self, batch: tuple[Tensor, Tensor], _number: int) -> Tensor:
        """Return the loss of a batch."""
        slices, labels = batch
        loss: Tensor = self.loss(self.network(slices).float(), labels)
        return loss

    def configure_optimizers(self) -> Any:  # noqa: ANN401 - Lightning's own type is a union of a dozen
        """Return AdamW and the one-cycle schedule (Smith and Topin, 2017, arXiv:1708.07120)."""
        how = self._settings
        optimizer = torch.optim.AdamW(self.parameters(), lr=how.learning_rate, weight_decay=how.weight_decay)
        # One step more than there are, because the schedule is asked for the rate after the last step too.
        total = how.steps + 1
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=how.learning_rate,
            total_steps=total,
            pct_start=max(0.1, 2 / total),  # a rise of no steps at all would divide by them
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add to the state what it has to be resumed with."""
        checkpoint[STATE_KEY] = self._identity

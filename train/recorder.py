"""What happens between the steps of a training: validation, log, checkpoints, early stop, state to go on from."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import torch
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from torch import Tensor

from tomoscribe.engine.bundle import ModelSpecification
from tomoscribe.engine.errors import TomoscribeError
from tomoscribe.engine.replacing import replacing
from tomoscribe.train.checkpoint import Checkpoint
from tomoscribe.train.examples import draw_examples
from tomoscribe.train.metrics import ConfusionMatrix
from tomoscribe.train.run_folder import RunFolder
from tomoscribe.train.settings import TrainingSettings
from tomoscribe.train.unet import UNet
from tomoscribe.train.validation import Example, Validator

__all__ = ["Recorder", "TrainingError", "log_columns"]

_STEPS_UNREAD = 10  # a loss is read from a GPU with those of so many steps, because reading waits for the device


class TrainingError(TomoscribeError, RuntimeError):
    """A training run that cannot go on."""

    exit_status = 1


@dataclass(frozen=True)
class _Validation:
    """What is known after a validation; `crops_per_second` is the training's since the one before."""

    step: int
    loss: float
    learning_rate: float
    confusion: ConfusionMatrix
    mean_dice: float
    crops_per_second: float


def log_columns(specification: ModelSpecification) -> list[str]:
    """Return the columns of the log."""
    dice = [f"dice_{label_class.feature}" for label_class in specification.class_map.classes]
    return ["step", "loss", "learning_rate", *dice, "dice_mean", "crops_per_second", "seconds"]


class Recorder(lightning.Callback):
    """Watches the losses, validates, writes the log, keeps the checkpoints and the state.

    Args:
        settings: the training's.
        specification: what the engine has to know of the network.
        validator: labels the dev split.
        folder: where the files go.
        origin: where data and weights come from; kept in the checkpoints.
        progress: called after each step with its number, from 1, and its loss.
    """

    def __init__(
        self,
        settings: TrainingSettings,
        specification: ModelSpecification,
        validator: Validator,
        folder: RunFolder,
        origin: Mapping[str, Any],
        progress: Callable[[int, float], None] | None,
    ) -> None:
        self._settings = settings
        self._specification = specification
        self._validator = validator
        self._folder = folder
        self._origin = origin
        self._progress = progress
        self._unread: list[Tensor] = []
        self._losses: list[float] = []
        self._best = -1.0
        self._not_better = 0
        self._seconds = 0.0
        self._resumed = self._validated = time.perf_counter()
        self._timed_steps = 0

    def state_dict(self) -> dict[str, Any]:
        """Return what the state of a run holds of this."""
        return {
            "losses": list(self._losses),
            "best": self._best,
            "not_better": self._not_better,
            "seconds": self._elapsed(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self._losses, self._best = list(state_dict["losses"]), state_dict["best"]
        self._not_better, self._seconds = state_dict["not_better"], state_dict["seconds"]

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Begin to count the time."""
        self._resumed = self._validated = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,  # noqa: ANN401 - Lightning's signature
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Read the loss, and do what is due after this step."""
        step, how = trainer.global_step, self._settings
        self._unread.append(outputs["loss"].detach())
        self._timed_steps += 1
        validate = step % how.validation_interval == 0 or step == how.steps
        save = validate or step % how.checkpoint_interval == 0
        if save or pl_module.device.type == "cpu" or step % _STEPS_UNREAD == 0:
            self._read_losses(step)
        if validate:
            self._validate(step, trainer, pl_module.network)  # type: ignore[arg-type]
        if save:
            self._save_state(trainer)
        if how.patience is not None and self._not_better >= how.patience:
            trainer.should_stop = True

    def _read_losses(self, step: int) -> None:
        losses = torch.stack(self._unread).tolist()
        self._unread.clear()
        for number, loss in enumerate(losses, step + 1 - len(losses)):
            if not math.isfinite(loss):
                raise TrainingError(
                    f"{self._folder.path}: the loss became {loss} at step {number}; lower the learning rate"
                )
            self._losses.append(loss)
            if self._progress is not None:
                self._progress(number, loss)

    def _validate(self, step: int, trainer: lightning.Trainer, network: UNet) -> None:
        seconds = max(time.perf_counter() - self._validated, 1e-9)
        crops = self._timed_steps * self._settings.batch_size * trainer.world_size
        if trainer.world_size > 1:
            # The running statistics are each process's own; judged and written are those of the first.
            for buffer in network.buffers():
                torch.distributed.broadcast(buffer, src=0)
        precision = trainer.precision_plugin.forward_context
        confusion, examples = self._validator.run(network, precision, trainer.global_rank, trainer.world_size)
        mean = float(np.nan_to_num(confusion.mean_dice()))
        better = mean >= self._best
        self._not_better = 0 if mean > self._best else self._not_better + 1
        self._best = max(mean, self._best)
        if trainer.is_global_zero:
            rate = trainer.optimizers[0].param_groups[0]["lr"]
            validation = _Validation(step, self._mean_loss(), rate, confusion, mean, crops / seconds)
            self._folder.save(self._checkpoint(network, validation), best=better)
            self._log(validation, trainer.logger)
            self._draw(validation, examples, trainer.logger)
        self._losses.clear()
        self._validated, self._timed_steps = time.perf_counter(), 0

    def _mean_loss(self) -> float:
        return sum(self._losses) / len(self._losses)

    def _dice(self, validation: _Validation) -> dict[str, float | None]:
        """Return the Dice of each class by name; None where it is neither there nor found."""
        dice = validation.confusion.dice()
        known = {c.name: float(dice[c.number]) for c in self._specification.class_map.classes}
        return {name: None if math.isnan(value) else value for name, value in known.items()}

    def _checkpoint(self, network: UNet, validation: _Validation) -> Checkpoint:
        training = {
            **self._origin,
            "step": validation.step,
            "loss": validation.loss,
            "validation_dice": self._dice(validation),
            "settings": self._settings.model_dump(mode="json"),
        }
        return Checkpoint(network, self._specification, training)

    def _log(self, validation: _Validation, logger: Logger | None) -> None:
        dice = self._dice(validation)
        self._folder.log(
            [
                validation.step,
                f"{validation.loss:.5f}",
                f"{validation.learning_rate:.3g}",
                *("" if value is None else f"{value:.4f}" for value in dice.values()),
                f"{validation.mean_dice:.4f}",
                f"{validation.crops_per_second:.2f}",
                f"{self._elapsed():.1f}",
            ]
        )
        if logger is not None:
            figures = {"loss": validation.loss, "learning_rate": validation.learning_rate}
            figures |= {f"dice/{name}": value for name, value in dice.items() if value is not None}
            logger.log_metrics({**figures, "dice/mean": validation.mean_dice}, validation.step)

    def _draw(self, validation: _Validation, examples: Sequence[Example], logger: Logger | None) -> None:
        if not examples:
            return
        title = f"step {validation.step}, mean Dice {validation.mean_dice:.3f}"
        picture = draw_examples(examples, self._specification.class_map, title)
        self._folder.save_picture(picture, validation.step)
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image("examples", np.asarray(picture), validation.step, dataformats="HWC")

    def _elapsed(self) -> float:
        return self._seconds + time.perf_counter() - self._resumed

    def _save_state(self, trainer: lightning.Trainer) -> None:
        # Every process takes part, the first one writes.
        path = self._folder.state
        with replacing(path) if trainer.is_global_zero else nullcontext(path) as temporary:
            trainer.save_checkpoint(temporary)

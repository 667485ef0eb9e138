"""Fitting: a U-Net learns from labelled volumes, and the best checkpoint is kept."""

from __future__ import annotations

import csv
import logging
import math
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tomoscribe.engine.bundle import ModelSpecification
from tomoscribe.engine.class_map import DEFAULT_CLASS_MAP, ClassMap
from tomoscribe.engine.errors import OutputError, ParameterError, TomoscribeError
from tomoscribe.engine.intensity import sampled_slices
from tomoscribe.train.checkpoint import Checkpoint, save_checkpoint
from tomoscribe.train.metrics import ConfusionMatrix
from tomoscribe.train.sampling import CropSampler, NormalisedVolume, SamplingConfiguration, TrainingVolume
from tomoscribe.train.unet import UNet, UNetConfiguration

__all__ = ["BEST_FILE", "LAST_FILE", "LOG_FILE", "FitConfiguration", "TrainingError", "fit"]

BEST_FILE = "best.safetensors"
LAST_FILE = "last.safetensors"
LOG_FILE = "log.csv"
_PRECISIONS = {"bf16": "bf16-mixed", "fp32": "32-true"}


class TrainingError(TomoscribeError, RuntimeError):
    """A training run that cannot go on."""

    exit_status = 1


@dataclass(frozen=True)
class FitConfiguration:
    """How a network is trained. The length is in steps, not in time, so that a run is the same on any machine.

    Attributes:
        name: the model's name.
        class_map: what the labels mean.
        network: the U-Net's size.
        sampling: how crops are chosen and varied.
        steps: optimiser steps.
        batch_size: crops a step.
        learning_rate: the highest of the one-cycle schedule: a rise over the first tenth, then half a cosine to 0.
        weight_decay: AdamW's.
        class_weights: weights of the cross-entropy, background first; equal if None.
        precision: ``bf16`` (mixed; for CPUs with AVX512-BF16 or AMX, and GPUs) or ``fp32``.
        seed: decides the initial weights and every crop.
        interval: steps between validations; each writes a line of the log and a checkpoint.

    Raises:
        ParameterError: values that cannot be, or do not fit each other.
    """

    name: str = "unet"
    class_map: ClassMap = DEFAULT_CLASS_MAP
    network: UNetConfiguration = field(default_factory=lambda: UNetConfiguration(len(DEFAULT_CLASS_MAP) + 1))
    sampling: SamplingConfiguration = field(default_factory=SamplingConfiguration)
    steps: int = 5000
    batch_size: int = 8
    learning_rate: float = 3e-3
    weight_decay: float = 1e-4
    class_weights: tuple[float, ...] | None = None
    precision: str = "bf16"
    seed: int = 0
    interval: int = 250

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "learning_rate", "interval"):
            if not getattr(self, name) > 0:
                raise ParameterError(f"{name}: expected more than 0, found {getattr(self, name)}")
        classes = len(self.class_map) + 1
        if self.network.classes != classes:
            raise ParameterError(f"network: expected the class map's {classes} classes, found {self.network.classes}")
        if self.class_weights is not None and len(self.class_weights) != classes:
            raise ParameterError(f"class_weights: expected {classes}, background first, found {self.class_weights}")
        if self.sampling.crop % self.network.tile_multiple:
            multiple = self.network.tile_multiple
            raise ParameterError(f"crop: expected a multiple of {multiple}, found {self.sampling.crop}")
        if self.precision not in _PRECISIONS:
            raise ParameterError(f"precision: expected one of {', '.join(_PRECISIONS)}, found {self.precision!r}")


def fit(
    volumes: Sequence[TrainingVolume],
    validation: Sequence[TrainingVolume],
    configuration: FitConfiguration,
    output: Path,
    *,
    provenance: Mapping[str, Any] | None = None,
    progress: Callable[[int, float], None] | None = None,
) -> Path:
    """Train a U-Net and return its best checkpoint.

    Every `configuration.interval` steps, and after the last, the network labels up to 16 whole slices of each
    validation volume. The folder then holds

    - ``log.csv``: a line each time: step, mean loss since the line before, learning rate, Dice of each class (empty
      where the class is neither there nor found), their mean, training crops a second, seconds since the start;
    - ``last.safetensors``: the network as it is;
    - ``best.safetensors``: the network with the highest mean Dice so far (the later one of equals).

    An interrupted run leaves them as they were at the last validation.

    Args:
        volumes: what the crops are taken from.
        validation: volumes that are not trained on.
        configuration: how.
        output: a folder; made where it is missing. The three files in it are replaced.
        provenance: where the volumes come from, as JSON can hold it; kept in the checkpoints.
        progress: called after each step with its number, from 1, and its loss.

    Returns:
        The path of ``best.safetensors``.

    Raises:
        ParameterError: no volumes, or labels that the class map does not have.
        IntensityError: a volume is constant or not finite.
        OutputError: the folder or a file in it cannot be written.
        TrainingError: the loss is no longer a number.
    """
    for volume in [*volumes, *validation]:
        if volume.labels.max() > len(configuration.class_map):
            known = len(configuration.class_map)
            raise ParameterError(f"training volume: expected labels from 0 to {known}, found {volume.labels.max()}")
    context = configuration.network.context
    crops = CropSampler(volumes, configuration.sampling, context, configuration.seed)
    judges = [NormalisedVolume(volume, context) for volume in validation]
    if not judges:
        raise ParameterError("validation volumes: expected one at least, found none")
    specification = _specification(configuration, volumes)
    recorder = _Recorder(configuration, specification, judges, output, provenance or {}, progress)
    batches = _Batches(crops, configuration.batch_size, configuration.steps)
    recorder.begin()
    with torch.random.fork_rng(), _quiet_lightning(), _interruptible():
        torch.manual_seed(configuration.seed)
        task = _Task(UNet(configuration.network), configuration)
        trainer = lightning.Trainer(
            default_root_dir=output,
            devices=1,
            precision=_PRECISIONS[configuration.precision],  # type: ignore[arg-type]
            max_epochs=1,
            gradient_clip_val=1.0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[recorder],
        )
        trainer.fit(task, DataLoader(batches, batch_size=None))
    return output / BEST_FILE


class _Batches(Dataset[tuple[Tensor, Tensor]]):
    """The sampler's crops in batches; batch i is the same in every run."""

    def __init__(self, crops: CropSampler, batch_size: int, count: int) -> None:
        self._crops = crops
        self._batch_size = batch_size
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        first = index * self._batch_size
        samples = [self._crops.sample(number) for number in range(first, first + self._batch_size)]
        slices, labels = (torch.from_numpy(np.stack(parts)) for parts in zip(*samples, strict=True))
        return slices.contiguous(memory_format=torch.channels_last), labels.long()


class _Task(lightning.LightningModule):
    """Cross-entropy, AdamW and the one-cycle schedule, as Lightning runs them."""

    weights: Tensor | None

    def __init__(self, network: UNet, configuration: FitConfiguration) -> None:
        super().__init__()
        # A layout of its own: oneDNN's convolutions are faster on channels-last tensors.
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._configuration = configuration
        weights = configuration.class_weights
        self.register_buffer("weights", None if weights is None else torch.tensor(weights))

    def training_step(self, batch: tuple[Tensor, Tensor], _number: int) -> Tensor:
        slices, labels = batch
        return torch.nn.functional.cross_entropy(self.network(slices).float(), labels, self.weights)

    def configure_optimizers(self) -> Any:  # noqa: ANN401 - Lightning's own type is a union of a dozen
        how = self._configuration
        optimizer = torch.optim.AdamW(self.parameters(), lr=how.learning_rate, weight_decay=how.weight_decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            # One step more than there are, because the schedule is asked for the rate after the last step too.
            optimizer,
            max_lr=how.learning_rate,
            total_steps=how.steps + 1,
            pct_start=0.1,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class _Recorder(lightning.Callback):
    """Validates, writes the log and keeps the checkpoints."""

    def __init__(
        self,
        configuration: FitConfiguration,
        specification: ModelSpecification,
        validation: Sequence[NormalisedVolume],
        output: Path,
        provenance: Mapping[str, Any],
        progress: Callable[[int, float], None] | None,
    ) -> None:
        self._configuration = configuration
        self._specification = specification
        self._validation = validation
        self._output = output
        self._provenance = provenance
        self._progress = progress
        self._losses: list[float] = []
        self._best = -1.0
        self._start = self._resumed = time.perf_counter()

    def begin(self) -> None:
        """Make the folder, remove what an earlier run left in it, and begin the log."""
        try:
            self._output.mkdir(parents=True, exist_ok=True)
            for name in (BEST_FILE, LAST_FILE, LOG_FILE):
                (self._output / name).unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"{self._output}: cannot be written ({error.strerror}); choose another folder") from error
        dice = [f"dice_{label_class.feature}" for label_class in self._configuration.class_map.classes]
        self._log(["step", "loss", "learning_rate", *dice, "dice_mean", "crops_per_second", "seconds"])
        self._start = self._resumed = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,  # noqa: ANN401 - Lightning's signature
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        step, loss = batch_idx + 1, float(outputs["loss"])
        if not math.isfinite(loss):
            raise TrainingError(f"{self._output}: the loss became {loss} at step {step}; lower the learning rate")
        self._losses.append(loss)
        if self._progress is not None:
            self._progress(step, loss)
        if step % self._configuration.interval == 0 or step == self._configuration.steps:
            crops_per_second = (
                len(self._losses) * self._configuration.batch_size / (time.perf_counter() - self._resumed)
            )
            self._record(step, crops_per_second, trainer, pl_module.network)  # type: ignore[arg-type]
            self._losses.clear()
            self._resumed = time.perf_counter()

    def _record(self, step: int, crops_per_second: float, trainer: lightning.Trainer, network: UNet) -> None:
        dice = self._validate(trainer, network)
        known = [value for value in dice.values() if value is not None]
        mean = sum(known) / len(known) if known else 0.0
        loss = sum(self._losses) / len(self._losses)
        training = {
            **self._provenance,
            "step": step,
            "loss": loss,
            "validation_dice": dice,
            "configuration": {**asdict(self._configuration), "class_map": self._configuration.class_map.to_json()},
        }
        checkpoint = Checkpoint(network, self._specification, training)
        save_checkpoint(self._output / LAST_FILE, checkpoint)
        if mean >= self._best:
            self._best = mean
            save_checkpoint(self._output / BEST_FILE, checkpoint)
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        values = ["" if value is None else f"{value:.4f}" for value in dice.values()]
        seconds = time.perf_counter() - self._start
        self._log(
            [step, f"{loss:.5f}", f"{rate:.3g}", *values, f"{mean:.4f}", f"{crops_per_second:.2f}", f"{seconds:.1f}"]
        )

    def _log(self, values: Sequence[object]) -> None:
        """Add a line to the log, which is opened for it alone, so that the line is there or the error is told."""
        path = self._output / LOG_FILE
        try:
            with path.open("a", newline="", encoding="utf-8") as file:
                csv.writer(file).writerow(values)
        except OSError as error:
            raise OutputError(f"{path}: cannot be written ({error.strerror}); check space and permissions") from error

    def _validate(self, trainer: lightning.Trainer, network: UNet) -> dict[str, float | None]:
        """Return the Dice of each class on the validation slices; None where the class is in neither."""
        confusion = ConfusionMatrix(network.configuration.classes)
        device = next(network.parameters()).device
        multiple = network.configuration.tile_multiple
        network.eval()
        with torch.inference_mode(), trainer.precision_plugin.forward_context():
            for volume in self._validation:
                depth, height, width = volume.volume.labels.shape
                padded = (-(-height // multiple) * multiple, -(-width // multiple) * multiple)
                for z in sampled_slices(0, depth):
                    slices, truth = volume.window(z, 0, 0, padded)
                    logits = network(torch.from_numpy(slices[None]).to(device, memory_format=torch.channels_last))
                    labels = logits[0].argmax(dim=0).to(torch.uint8).cpu().numpy()
                    confusion.add(labels[:height, :width], truth[:height, :width])
        network.train()
        dice = confusion.dice()
        found = {c.name: float(dice[c.number]) for c in self._configuration.class_map.classes}
        return {name: None if math.isnan(value) else value for name, value in found.items()}


def _specification(configuration: FitConfiguration, volumes: Sequence[TrainingVolume]) -> ModelSpecification:
    sizes = [volume.voxel_size for volume in volumes]
    return ModelSpecification(
        name=configuration.name,
        class_map=configuration.class_map,
        context=configuration.network.context,
        tile_multiple=configuration.network.tile_multiple,
        halo=configuration.network.halo,
        voxel_size=(min(sizes), max(sizes)),
    )


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Keep Lightning's advice off the terminal while it runs: devices, tips, worker processes."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        # Lightning's own use of a deprecated torch type.
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"lightning\.")
        # Crops cost little: worker processes would only take the cores from the network.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C through: Lightning turns it into `SystemExit` and leaves the signal ignored."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as error:
        if not isinstance(error.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from None

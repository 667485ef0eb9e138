"""Fitting: a U-Net learns from labelled images, and the best checkpoint is kept."""

from __future__ import annotations

import hashlib
import json
import logging
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import torch
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.data import DataLoader

from tomoscribe.engine.bundle import ModelSpecification
from tomoscribe.engine.cores import usable_cores
from tomoscribe.engine.errors import BackendUnavailableError, ParameterError, TomoscribeError
from tomoscribe.train.dataset.contract import SPLITS, LabelledImages
from tomoscribe.train.loss import SegmentationLoss, class_weights
from tomoscribe.train.recorder import Recorder, TrainingError, log_columns
from tomoscribe.train.run_folder import BEST_FILE, LAST_FILE, LOG_FILE, STATE_FILE, RunFolder
from tomoscribe.train.sampling import CropSampler, StepNumbers
from tomoscribe.train.settings import Devices, TrainingSettings
from tomoscribe.train.start import Start, network_size, new_network, read_start
from tomoscribe.train.task import SegmentationTask, collate
from tomoscribe.train.unet import UNetConfiguration
from tomoscribe.train.validation import Validator

__all__ = ["BEST_FILE", "LAST_FILE", "LOG_FILE", "STATE_FILE", "TrainingError", "fit", "is_first_process"]

_PRECISIONS = {"bf16": "bf16-mixed", "fp16": "16-mixed", "fp32": "32-true"}
_LARGEST_CROP = 256
_MOST_WORKERS = 16


def fit(
    images: LabelledImages,
    settings: TrainingSettings,
    output: Path,
    *,
    start: Path | None = None,
    resume: bool = False,
    devices: Devices = Devices(),  # noqa: B008 - frozen
    tensorboard: bool = False,
    progress: Callable[[int, float], None] | None = None,
    note: Callable[[str], None] | None = None,
) -> Path:
    """Train a U-Net on a dataset's train split and return its best checkpoint.

    Every `settings.validation_interval` steps, and after the last, the network labels images of the dev split. The
    folder then holds

    - ``log.csv``: a line each time: step, mean loss since the line before (of the first process), learning rate, Dice
      of each class (empty where the class is neither there nor found), their mean, crops a second since the line
      before, seconds since the start;
    - ``last.safetensors``: the network as it is;
    - ``best.safetensors``: the network with the highest mean Dice so far (the later one of equals);
    - ``examples/step_….png``: some of the images, what they should be labelled and what they were labelled;
    - ``tensorboard/``: the same for TensorBoard, where asked;
    - ``state.ckpt``: what a resumed run goes on from, written every `settings.checkpoint_interval` steps too.

    A run that was ended in any way, by SIGKILL too, goes on from its last state with `resume`, and ends with the
    weights of a run that was never interrupted: bit for bit on CPUs in ``fp32`` with the same number of threads.

    Args:
        images: the dataset; where worker processes read it, it has to be picklable. What it has as ``provenance`` is
            kept in the checkpoints.
        settings: how.
        output: a folder; made where it is missing. The files above in it are replaced.
        start: a bundle or a checkpoint whose weights the training starts from, instead of random ones.
        resume: go on with the run that is in the folder; begin where there is none.
        devices: the machines.
        tensorboard: log for TensorBoard too.
        progress: called by the first process after each step with its number, from 1, and its loss.
        note: called by it with each line that the user should read.

    Returns:
        The path of ``best.safetensors``.

    Raises:
        ParameterError: settings that do not fit the dataset, the start or the devices, or the run that is resumed.
        OutputExistsError: a run is to be resumed that is there without its state.
        DatasetError: a split is empty, or the dataset has too few context slices or damaged files.
        BundleError, CheckpointError: the start or the state cannot be read.
        BackendUnavailableError: the devices are not there.
        OutputError: the folder or a file in it cannot be written.
        TrainingError: the loss is no longer a number, or the device's memory is full.
    """
    if not is_first_process():
        progress = note = None
    origin = read_start(start) if start else None
    size = network_size(settings, origin, len(images.class_map) + 1)
    crops = CropSampler(
        images,
        crop=_crop(images, settings, size),
        foreground_share=settings.foreground_share,
        context=size.context,
        seed=settings.seed,
    )
    validator = Validator(images, settings.validation_images, settings.examples)
    if note and not images.counts[images.numbers("dev"), 1:].any():
        note("the dev split has no voxel of any class, so that the last checkpoint counts as the best")
    weights = class_weights(settings.class_weights, images.counts[images.numbers("train")].sum(axis=0))
    specification = _specification(images, settings, size)
    folder = RunFolder(output, log_columns(specification))
    about: dict[str, Any] = {"tomoscribe": version("tomoscribe"), "dataset": getattr(images, "provenance", None)}
    network = new_network(size, settings.seed)
    if origin:
        about["start"] = origin.give_weights(network, images.class_map)
        _tell_start(about["start"], note)

    # The loader draws from the random numbers of the process, which are its own.
    with torch.random.fork_rng(devices=[]), _quiet_lightning(), _interruptible(), _told_in_one_line():
        recorder = Recorder(settings, specification, validator, folder, about, progress)
        trainer = _trainer(settings, devices, output, recorder, folder if tensorboard else None)
        identity = _identity(images, settings, origin, trainer.world_size)
        state = folder.read_state(identity) if resume else None
        first = 0 if state is None else int(state["global_step"])
        if is_first_process():
            folder.begin(first)
        if state and _finished(state, settings):
            return output / BEST_FILE
        if state and note:
            note(f"{output}: goes on after step {first}")
        task = SegmentationTask(network, SegmentationLoss(weights, settings.dice, settings.focal), settings, identity)
        loader = _loader(crops, settings, devices, trainer, first)
        trainer.fit(task, loader, ckpt_path=folder.state if state else None, weights_only=True)
    return output / BEST_FILE


def is_first_process() -> bool:
    """Return whether this is the process, of those that train together, which writes and prints."""
    return not getattr(rank_zero_only, "rank", None)


def _crop(images: LabelledImages, settings: TrainingSettings, size: UNetConfiguration) -> int:
    multiple = size.tile_multiple
    crop = settings.crop or min(_LARGEST_CROP, images.tile) // multiple * multiple
    if not crop or crop % multiple:
        raise ParameterError(
            f"crop: expected a multiple of {multiple} (two to the power of the network's depth), at most the "
            f"dataset's tile of {images.tile}, found {crop}; choose another crop or a smaller depth"
        )
    if crop == multiple and settings.batch_size == 1:
        # The lowest level would normalise a single pixel.
        raise ParameterError(f"crop: expected {2 * multiple} or more for a batch_size of 1, found {crop}; raise either")
    return crop


def _specification(images: LabelledImages, settings: TrainingSettings, size: UNetConfiguration) -> ModelSpecification:
    return ModelSpecification(
        name=settings.name,
        class_map=images.class_map,
        context=size.context,
        tile_multiple=size.tile_multiple,
        halo=size.halo,
        voxel_size=images.voxel_size,
    )


def _tell_start(start: Mapping[str, Any], note: Callable[[str], None] | None) -> None:
    if note is None:
        return
    new = ", ".join(start["classes_new"])
    note(f"starts from {start['name']}" + (f"; new to it, and learnt from nothing: {new}" if new else ""))


def _trainer(
    settings: TrainingSettings, devices: Devices, output: Path, recorder: Recorder, logged: RunFolder | None
) -> lightning.Trainer:
    logger = TensorBoardLogger(output, name="", version=logged.tensorboard.name) if logged else False
    try:
        trainer = lightning.Trainer(
            default_root_dir=output,
            accelerator=devices.accelerator,
            devices=devices.devices,
            num_nodes=devices.nodes,
            strategy=devices.strategy,
            use_distributed_sampler=False,
            # A requeued job goes on from the state of its own run.
            plugins=[SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else None,
            precision=_PRECISIONS[settings.precision],  # type: ignore[arg-type]
            benchmark=True,
            max_steps=settings.steps,
            gradient_clip_val=1.0,
            logger=logger,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[recorder],
        )
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise BackendUnavailableError(f"devices: cannot train on what was asked for ({reason})") from error
    if settings.precision == "fp16" and trainer.strategy.root_device.type == "cpu":
        raise ParameterError("precision: fp16 needs a GPU; choose bf16 or fp32")
    return trainer


def _loader(
    crops: CropSampler, settings: TrainingSettings, devices: Devices, trainer: lightning.Trainer, first: int
) -> DataLoader[Any]:
    on_gpu = trainer.strategy.root_device.type != "cpu"
    workers = devices.workers
    if workers is None:
        workers = min(max(usable_cores() // max(trainer.num_devices, 1), 1), _MOST_WORKERS) if on_gpu else 0
    numbers = StepNumbers(settings.batch_size, first, settings.steps, trainer.global_rank, trainer.world_size)
    return DataLoader(
        crops,  # type: ignore[arg-type]  # anything with numbered items will do
        batch_sampler=numbers,
        collate_fn=collate,
        num_workers=workers,
        pin_memory=on_gpu,
        # Started afresh, because a fork of a process whose libraries run threads can hang.
        multiprocessing_context="spawn" if workers else None,
        persistent_workers=workers > 0,
        prefetch_factor=4 if workers else None,
    )


def _identity(
    images: LabelledImages, settings: TrainingSettings, start: Start | None, processes: int
) -> dict[str, Any]:
    """Return what two runs have in common that may go on from each other's state."""
    content = hashlib.sha256(images.counts.tobytes())
    for split in SPLITS:
        content.update(images.numbers(split).tobytes())
    # What a dataset was made from stands for its intensities, which would take long to read.
    made_from = getattr(images, "provenance", None)
    content.update(json.dumps([images.class_map.to_json(), images.tile, images.voxel_size, made_from]).encode())
    return {
        "settings": settings.model_dump(mode="json"),
        "dataset": content.hexdigest()[:16],
        "start": start and start.sha256[:16],
        "processes": processes,
    }


def _finished(state: Mapping[str, Any], settings: TrainingSettings) -> bool:
    stopped = settings.patience is not None and state["callbacks"]["Recorder"]["not_better"] >= settings.patience
    return bool(stopped or state["global_step"] >= settings.steps)


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Keep Lightning's advice off the terminal while it runs: devices, tips, worker processes."""
    names = ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero", "lightning.fabric")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        # Lightning's own use of a deprecated torch type.
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"lightning\.")
        # Crops cost little: on a CPU worker processes would only take the cores from the network.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        # Told as an error, once the devices are known.
        warnings.filterwarnings("ignore", message=".*AMP with fp16 is not supported on CPU.*")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextmanager
def _told_in_one_line() -> Iterator[None]:
    """Tell of an error in a worker process what it said there, without the traceback that torch puts before it."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise TrainingError("the memory of the device is full; choose a smaller batch_size or crop") from error
    except TomoscribeError as error:
        *traceback, line = str(error).splitlines()
        if not traceback:
            raise
        raise type(error)(line.partition(": ")[2]) from error


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

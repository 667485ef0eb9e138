"""Fitting: a small problem is learnt, a seed decides the run, and whatever ends it leaves whole checkpoints."""

from __future__ import annotations

import csv
import logging
import math
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch._utils import ExceptionWrapper

from tomoscribe.engine.errors import BackendUnavailableError, OutputError, ParameterError
from tomoscribe.train.checkpoint import load_checkpoint
from tomoscribe.train.dataset.contract import IGNORE, DatasetError
from tomoscribe.train.fit import BEST_FILE, LAST_FILE, LOG_FILE, STATE_FILE, TrainingError, fit
from tomoscribe.train.loss import SegmentationLoss
from tomoscribe.train.metrics import ConfusionMatrix
from tomoscribe.train.settings import AugmentationSettings, Devices
from tomoscribe.train.task import SegmentationTask
from tomoscribe.train.unet import UNet, UNetConfiguration

pytestmark = pytest.mark.usefixtures("one_thread")


def read_log(folder):
    with (folder / LOG_FILE).open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_small_problem_is_learnt_and_the_run_is_on_record(images, small, tmp_path, capfd, caplog):
    losses = []
    best = fit(images, small(), tmp_path / "run", progress=lambda *at: losses.append(at))

    assert [step for step, _ in losses] == list(range(1, 61))
    assert np.mean([loss for _, loss in losses[-10:]]) < 0.3 * losses[0][1]

    rows = read_log(tmp_path / "run")
    assert [int(row["step"]) for row in rows] == [25, 50, 60]
    assert float(rows[-1]["dice_SmallBlob"]) > 0.85
    assert rows[-1]["dice_AbsentThing"] == ""
    assert rows[-1]["dice_mean"] == rows[-1]["dice_SmallBlob"]
    for row, first, last in zip(rows, (0, 25, 50), (25, 50, 60), strict=True):
        assert float(row["loss"]) == pytest.approx(np.mean([loss for _, loss in losses[first:last]]), abs=1e-4)
    assert float(rows[-1]["learning_rate"]) < 1e-3 < float(rows[0]["learning_rate"])
    assert all(float(row["crops_per_second"]) > 0 for row in rows)

    assert best == tmp_path / "run" / BEST_FILE
    checkpoint = load_checkpoint(best)
    assert checkpoint.specification.voxel_size == images.voxel_size
    assert checkpoint.specification.class_map == images.class_map
    assert checkpoint.specification.halo == checkpoint.network.configuration.halo
    assert checkpoint.training["settings"]["crop"] == 16
    assert checkpoint.training["dataset"] == {"name": "squares"}
    highest = max(rows, key=lambda row: (float(row["dice_mean"]), int(row["step"])))
    assert checkpoint.training["step"] == int(highest["step"])
    assert checkpoint.training["validation_dice"]["absent thing"] is None
    last = load_checkpoint(tmp_path / "run" / LAST_FILE)
    assert last.training["step"] == 60
    assert last.network.state_dict()["encoder.0.1.num_batches_tracked"] == 60  # validation does not end training
    names = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert names == [BEST_FILE, "examples", LAST_FILE, LOG_FILE, STATE_FILE]

    captured = capfd.readouterr()
    assert (captured.out, captured.err, caplog.records) == ("", "", [])
    assert logging.getLogger("lightning.pytorch").level != logging.ERROR


def test_the_checkpoint_labels_as_the_validation_measured(images, small, tmp_path):
    """The Dice on record is that of the network that comes back, run as anyone would run it."""
    images.volumes[2][1][1, 10:30, :15] = IGNORE  # neither right nor wrong
    checkpoint = load_checkpoint(fit(images, small(steps=25, examples=0), tmp_path))
    truth = images.volumes[2][1]
    windows = np.stack([images.read(number, 1)[0] for number in images.numbers("dev")])
    with torch.inference_mode():
        labels = checkpoint.network(torch.from_numpy(windows)).argmax(dim=1).numpy()
    labels[truth == IGNORE] = 0
    dice = 2 * np.sum((labels == 1) & (truth == 1)) / (np.sum(labels == 1) + np.sum(truth == 1))
    assert checkpoint.training["validation_dice"]["small blob"] == pytest.approx(dice, abs=1e-6)


def test_the_seed_decides_the_run(images, small, tmp_path):
    def losses(seed):
        found = []
        fit(images, small(steps=3, seed=seed, examples=0), tmp_path, progress=lambda _, loss: found.append(loss))
        return found

    torch.manual_seed(98)
    first = losses(0)
    torch.manual_seed(99)  # must not matter, and must not be changed
    state = torch.get_rng_state()
    assert losses(0) == first
    assert torch.equal(torch.get_rng_state(), state)
    assert losses(1) != first


def test_the_best_checkpoint_is_the_later_one_of_the_highest_mean_dice(images, small, tmp_path, monkeypatch):
    planned = iter([0.5, 0.7, 0.6, 0.7, 0.2])
    monkeypatch.setattr(ConfusionMatrix, "mean_dice", lambda _: next(planned))
    fit(images, small(steps=5, validation_interval=1, examples=0), tmp_path)
    assert load_checkpoint(tmp_path / BEST_FILE).training["step"] == 4
    assert load_checkpoint(tmp_path / LAST_FILE).training["step"] == 5


def test_training_ends_after_as_many_validations_without_a_better_one_as_were_asked_for(
    images, small, tmp_path, monkeypatch
):
    planned = iter([0.5, 0.7, 0.6, 0.7, 0.9])
    monkeypatch.setattr(ConfusionMatrix, "mean_dice", lambda _: next(planned))
    settings = small(steps=5, validation_interval=1, patience=2, examples=0)
    fit(images, settings, tmp_path)
    assert [row["step"] for row in read_log(tmp_path)] == ["1", "2", "3", "4"]
    before = (tmp_path / LAST_FILE).read_bytes()
    fit(images, settings, tmp_path, resume=True)  # it has ended
    assert (tmp_path / LAST_FILE).read_bytes() == before


def test_mixed_precision_learns_too(images, small, tmp_path):
    fit(images, small(precision="bf16", steps=45, examples=0), tmp_path)
    assert float(read_log(tmp_path)[-1]["dice_SmallBlob"]) > 0.8
    assert all(t.dtype != torch.bfloat16 for t in load_checkpoint(tmp_path / BEST_FILE).network.state_dict().values())


def test_every_term_of_the_loss_learns(images, small, tmp_path):
    fit(images, small(class_weights="balanced", dice=0.5, focal=1.0, examples=0), tmp_path)
    assert float(read_log(tmp_path)[-1]["dice_SmallBlob"]) > 0.8


def test_class_weights_weigh(images, small, tmp_path):
    def first_loss(weights):
        found = []
        settings = small(steps=1, class_weights=weights, examples=0)
        fit(images, settings, tmp_path, progress=lambda _, loss: found.append(loss))
        return found[0]

    background, blob, both = (first_loss(weights) for weights in ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (1.0, 1.0, 1.0)))
    assert first_loss(None) == pytest.approx(both)
    assert min(background, blob) < both < max(background, blob)  # the mean of the two by their shares of the pixels


def test_what_is_not_known_is_not_learnt(images, small, tmp_path):
    """Where all labels but one class are unknown, the network gives that class everywhere."""
    for _, labels in images.volumes[:2]:
        labels[labels == 0] = IGNORE
    fit(images, small(steps=40, examples=0), tmp_path)
    checkpoint = load_checkpoint(tmp_path / LAST_FILE)
    slices, _ = images.read(int(images.numbers("dev")[0]), 1)
    with torch.inference_mode():
        labels = checkpoint.network(torch.from_numpy(slices[None])).argmax(dim=1)
    assert (labels == 1).float().mean() > 0.95


def test_worker_processes_change_nothing(images, small, tmp_path):
    settings = small(steps=3, examples=0)
    for folder, workers in (("none", 0), ("one", 1)):
        fit(images, settings, tmp_path / folder, devices=Devices(workers=workers))
    files = [(tmp_path / folder / LAST_FILE).read_bytes() for folder in ("none", "one")]
    assert files[0] == files[1]


def test_some_images_are_drawn_at_each_validation(images, small, tmp_path):
    fit(images, small(steps=4, validation_interval=2, examples=2), tmp_path)
    pictures = sorted((tmp_path / "examples").iterdir())
    assert [path.name for path in pictures] == ["step_0000002.png", "step_0000004.png"]
    with Image.open(pictures[0]) as two:
        height = two.height
    fit(images, small(steps=2, validation_interval=2, examples=1), tmp_path)
    assert [path.name for path in (tmp_path / "examples").iterdir()] == ["step_0000002.png"]
    with Image.open(pictures[0]) as one:
        assert one.height < height - 300
    fit(images, small(steps=1, examples=0), tmp_path / "none")
    assert not (tmp_path / "none" / "examples").exists()


def test_tensorboard_has_the_figures_and_the_pictures(images, small, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fit(images, small(steps=4, validation_interval=2), tmp_path, tensorboard=True)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("dice/mean")] == [2, 4]
    row = read_log(tmp_path)[-1]
    assert events.Scalars("dice/small blob")[-1].value == pytest.approx(float(row["dice_SmallBlob"]), abs=1e-4)
    assert events.Scalars("loss")[-1].value == pytest.approx(float(row["loss"]), abs=1e-4)
    assert [event.step for event in events.Images("examples")] == [2, 4]


def test_an_interrupt_comes_through_and_leaves_whole_checkpoints(images, small, tmp_path):
    handler = signal.getsignal(signal.SIGINT)

    def interrupt(step, _loss):
        if step == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(images, small(validation_interval=5, examples=0), tmp_path, progress=interrupt)
    assert signal.getsignal(signal.SIGINT) is handler
    assert [row["step"] for row in read_log(tmp_path)] == ["5", "10"]
    assert load_checkpoint(tmp_path / LAST_FILE).training["step"] == 10
    assert load_checkpoint(tmp_path / BEST_FILE).training["step"] in (5, 10)


def test_a_loss_that_is_no_number_stops_the_run(images, small, tmp_path):
    images.volumes[0][0][:] = images.volumes[1][0][:] = math.nan
    with pytest.raises(TrainingError, match="the loss became nan at step 1; lower the learning rate"):
        fit(images, small(), tmp_path)


def test_a_new_run_does_not_leave_the_best_of_another(images, small, tmp_path):
    (tmp_path / BEST_FILE).write_bytes(b"old")
    images.volumes[0][0][:] = images.volumes[1][0][:] = math.nan
    with pytest.raises(TrainingError):
        fit(images, small(), tmp_path)
    assert not (tmp_path / BEST_FILE).exists()


def test_what_cannot_be_fitted_is_refused_before_anything_is_written(images, small, tmp_path):
    no_dev = replace(images, splits=["train", "train", "test"])
    no_train = replace(images, splits=["test", "test", "dev"])
    for dataset, settings, error, words in (
        (no_train, small(), DatasetError, "train split has no images"),
        (no_dev, small(), DatasetError, "dev split has no images"),
        (images, small(crop=18), ParameterError, "crop: expected a multiple of 4"),
        (images, small(crop=44), ParameterError, "crop: expected 1 to 40"),
        (images, small(crop=None, depth=6), ParameterError, "smaller depth"),
        (
            images,
            small(crop=4, batch_size=1),
            ParameterError,
            "crop: expected 8 or more",
        ),
        (images, small(class_weights=(1.0, 1.0)), ParameterError, "class_weights: expected 3"),
        (images, small(precision="fp16"), ParameterError, "fp16 needs a GPU"),
    ):
        with pytest.raises(error, match=words):
            fit(dataset, settings, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_devices_that_are_not_there_are_one_line(images, small, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    for devices in (Devices("gpu"), Devices("cpu", strategy="magic")):
        with pytest.raises(BackendUnavailableError, match="cannot train on what was asked for") as caught:
            fit(images, small(), tmp_path / "run", devices=devices)
        assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_the_crop_is_what_the_images_and_the_network_allow(images, small, tmp_path):
    plain = AugmentationSettings(flips=False)
    fit(images, small(steps=1, crop=None, depth=4, augmentation=plain), tmp_path)  # 32 of 40 pixels
    assert load_checkpoint(tmp_path / LAST_FILE).network.configuration.depth == 4


@pytest.mark.parametrize("steps", [*range(1, 4), 9, 19])
def test_a_run_may_be_as_short_as_it_likes(small, steps):
    """The schedule's rise takes a tenth of the steps, which may be none."""
    settings = small(steps=steps)
    task = SegmentationTask(UNet(UNetConfiguration(classes=2, depth=1, base_width=1)), SegmentationLoss(), settings, {})
    configured = task.configure_optimizers()
    rates = []
    for _ in range(steps):
        rates.append(configured["optimizer"].param_groups[0]["lr"])
        configured["optimizer"].step()
        configured["lr_scheduler"]["scheduler"].step()
    assert max(rates) <= settings.learning_rate * (1 + 1e-9)
    assert steps < 3 or configured["optimizer"].param_groups[0]["lr"] <= rates[0]


def test_a_dev_split_that_cannot_tell_checkpoints_apart_is_told(images, small, tmp_path):
    images.counts[images.numbers("dev"), 1:] = 0
    notes = []
    fit(images, small(steps=1, examples=0), tmp_path, note=notes.append)
    assert notes == ["the dev split has no voxel of any class, so that the last checkpoint counts as the best"]


def test_an_error_of_a_worker_process_is_one_line(images, small, tmp_path, monkeypatch):
    def read(number, context):
        try:
            raise DatasetError("x.zarr: damaged; build the dataset again")
        except DatasetError:
            ExceptionWrapper(where="in DataLoader worker process 0").reraise()

    monkeypatch.setattr(images, "read", read)
    with pytest.raises(DatasetError, match=r"^x\.zarr: damaged; build the dataset again$"):
        fit(images, small(steps=1), tmp_path)


def test_a_full_memory_is_told_with_what_to_do(images, small, tmp_path, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")

    monkeypatch.setattr(SegmentationTask, "training_step", full)
    with pytest.raises(TrainingError, match="memory of the device is full; choose a smaller batch_size or crop"):
        fit(images, small(steps=1), tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_log_that_cannot_be_written_is_one_line_and_leaves_whole_checkpoints(images, small, tmp_path):
    log = tmp_path / LOG_FILE

    def fill_the_disk(step, _loss):
        if step == 2:
            log.unlink()
            log.symlink_to("/dev/full")

    with pytest.raises(OutputError, match=r"log\.csv: cannot be written \(No space left on device\)"):
        fit(images, small(validation_interval=2), tmp_path, progress=fill_the_disk)
    assert load_checkpoint(tmp_path / LAST_FILE).training["step"] == 2


def test_an_output_that_is_a_file_is_refused(images, small, tmp_path):
    (tmp_path / "run").write_text("x")
    with pytest.raises(OutputError, match="choose another folder"):
        fit(images, small(), tmp_path / "run")

"""Fitting: a small problem is learnt, a seed decides the run, and whatever ends it leaves whole checkpoints."""

from __future__ import annotations

import csv
import logging
import math
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from tomoscribe.engine.class_map import ClassMap, LabelClass
from tomoscribe.engine.errors import OutputError, ParameterError
from tomoscribe.train.checkpoint import load_checkpoint
from tomoscribe.train.fit import BEST_FILE, LAST_FILE, LOG_FILE, FitConfiguration, TrainingError, fit
from tomoscribe.train.metrics import ConfusionMatrix
from tomoscribe.train.sampling import SamplingConfiguration, TrainingVolume
from tomoscribe.train.unet import UNetConfiguration

CLASS_MAP = ClassMap((LabelClass(1, "small blob", (1, 2, 3)), LabelClass(2, "absent thing", (4, 5, 6))))


@pytest.fixture(autouse=True)
def _one_thread():
    """Networks this small are faster on one thread, by far where other tests run beside them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def volume(seed, voxel_size=10.0):
    """Dark squares on light noise; the second class is never there."""
    random = np.random.default_rng(seed)
    labels = np.zeros((3, 40, 44), np.uint8)
    for _ in range(6):
        y, x = random.integers(0, 32, 2)
        labels[:, y : y + 8, x : x + 8] = 1
    intensity = 50 - 12 * labels + 4 * random.standard_normal(labels.shape)
    return TrainingVolume(intensity.astype(np.float16), labels, voxel_size)


def configuration(**changes):
    values = {
        "name": "tiny",
        "class_map": CLASS_MAP,
        "network": UNetConfiguration(classes=3, context=1, depth=2, base_width=4),
        "sampling": SamplingConfiguration(crop=16),
        "steps": 60,
        "batch_size": 4,
        "learning_rate": 2e-2,
        "precision": "fp32",
        "interval": 25,
    }
    return FitConfiguration(**{**values, **changes})


VOLUMES, VALIDATION = [volume(0, 12.0), volume(1)], [volume(2)]


def read_log(folder):
    with (folder / LOG_FILE).open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_small_problem_is_learnt_and_the_run_is_on_record(tmp_path, capfd, caplog):
    losses = []
    best = fit(VOLUMES, VALIDATION, configuration(), tmp_path / "run", progress=lambda *at: losses.append(at))

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
    assert checkpoint.specification.voxel_size == (10.0, 12.0)
    assert checkpoint.specification.class_map == CLASS_MAP
    assert checkpoint.specification.halo == checkpoint.network.configuration.halo
    assert checkpoint.training["configuration"]["sampling"]["crop"] == 16
    highest = max(rows, key=lambda row: (float(row["dice_mean"]), int(row["step"])))
    assert checkpoint.training["step"] == int(highest["step"])
    assert checkpoint.training["validation_dice"]["absent thing"] is None
    last = load_checkpoint(tmp_path / "run" / LAST_FILE)
    assert last.training["step"] == 60
    assert last.network.state_dict()["encoder.0.1.num_batches_tracked"] == 60  # validation does not end training
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [BEST_FILE, LAST_FILE, LOG_FILE]

    captured = capfd.readouterr()
    assert (captured.out, captured.err, caplog.records) == ("", "", [])
    assert logging.getLogger("lightning.pytorch").level != logging.ERROR


def test_the_checkpoint_labels_as_the_validation_measured(tmp_path):
    """The Dice on record is that of the network that comes back, run as anyone would run it."""
    checkpoint = load_checkpoint(fit(VOLUMES, VALIDATION, configuration(steps=30, interval=30), tmp_path))
    truth, intensity = VALIDATION[0].labels, VALIDATION[0].intensity.astype(np.float64)
    low, high = np.percentile(intensity, (0.5, 99.5))
    clipped = intensity.clip(low, high)
    normalised = ((intensity - clipped.mean()) / clipped.std()).astype(np.float32)
    padded = np.pad(normalised, ((1, 1), (0, 0), (0, 0)), mode="edge")
    windows = np.stack([padded[:-2], padded[1:-1], padded[2:]], axis=1)
    with torch.inference_mode():
        labels = checkpoint.network(torch.from_numpy(windows)).argmax(dim=1).numpy()
    dice = 2 * np.sum((labels == 1) & (truth == 1)) / (np.sum(labels == 1) + np.sum(truth == 1))
    assert checkpoint.training["validation_dice"]["small blob"] == pytest.approx(dice, abs=2e-3)


def test_the_seed_decides_the_run(tmp_path):
    def losses(seed):
        found = []
        fit(
            VOLUMES,
            VALIDATION,
            configuration(steps=3, seed=seed),
            tmp_path,
            progress=lambda _, loss: found.append(loss),
        )
        return found

    torch.manual_seed(98)
    first = losses(0)
    torch.manual_seed(99)  # must not matter, and must not be changed
    state = torch.get_rng_state()
    assert losses(0) == first
    assert torch.equal(torch.get_rng_state(), state)
    assert losses(1) != first


def test_the_best_checkpoint_is_the_later_one_of_the_highest_mean_dice(tmp_path, monkeypatch):
    planned = iter([0.5, 0.7, 0.6, 0.7, 0.2])
    monkeypatch.setattr(ConfusionMatrix, "dice", lambda _: np.array([1.0, next(planned), math.nan]))
    fit(VOLUMES, VALIDATION, configuration(steps=5, interval=1), tmp_path)
    assert load_checkpoint(tmp_path / BEST_FILE).training["step"] == 4
    assert load_checkpoint(tmp_path / LAST_FILE).training["step"] == 5


def test_mixed_precision_learns_too(tmp_path):
    fit(VOLUMES, VALIDATION, configuration(precision="bf16", steps=45), tmp_path)
    assert float(read_log(tmp_path)[-1]["dice_SmallBlob"]) > 0.8
    assert all(t.dtype != torch.bfloat16 for t in load_checkpoint(tmp_path / BEST_FILE).network.state_dict().values())


def test_class_weights_weigh(tmp_path):
    def first_loss(weights):
        found = []
        how = configuration(steps=1, class_weights=weights)
        fit(VOLUMES, VALIDATION, how, tmp_path, progress=lambda _, loss: found.append(loss))
        return found[0]

    background, blob, both = (first_loss(weights) for weights in ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (1.0, 1.0, 1.0)))
    assert first_loss(None) == pytest.approx(both)
    assert min(background, blob) < both < max(background, blob)  # the mean of the two by their shares of the pixels


def test_an_interrupt_comes_through_and_leaves_whole_checkpoints(tmp_path):
    handler = signal.getsignal(signal.SIGINT)

    def interrupt(step, _loss):
        if step == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(VOLUMES, VALIDATION, configuration(interval=5), tmp_path, progress=interrupt)
    assert signal.getsignal(signal.SIGINT) is handler
    assert [row["step"] for row in read_log(tmp_path)] == ["5", "10"]
    assert load_checkpoint(tmp_path / LAST_FILE).training["step"] == 10
    assert load_checkpoint(tmp_path / BEST_FILE).training["step"] in (5, 10)


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    with pytest.raises(TrainingError, match="the loss became nan at step 1"):
        fit(VOLUMES, VALIDATION, configuration(class_weights=(math.nan, 1.0, 1.0)), tmp_path)


def test_a_new_run_does_not_leave_the_best_of_another(tmp_path):
    (tmp_path / BEST_FILE).write_bytes(b"old")
    with pytest.raises(TrainingError):
        fit(VOLUMES, VALIDATION, configuration(class_weights=(math.nan, 1.0, 1.0)), tmp_path)
    assert not (tmp_path / BEST_FILE).exists()


def test_what_cannot_be_fitted_is_refused_before_anything_is_written(tmp_path):
    wrong = TrainingVolume(VOLUMES[0].intensity, VOLUMES[0].labels * 3, 10.0)
    for volumes, validation, words in (
        ([], VALIDATION, "training volumes: expected one"),
        (VOLUMES, [], "validation volumes: expected one"),
        ([wrong], VALIDATION, "labels from 0 to 2, found 3"),
        (VOLUMES, [wrong], "labels from 0 to 2, found 3"),
    ):
        with pytest.raises(ParameterError, match=words):
            fit(volumes, validation, configuration(), tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_log_that_cannot_be_written_is_one_line_and_leaves_whole_checkpoints(tmp_path):
    log = tmp_path / LOG_FILE

    def fill_the_disk(step, _loss):
        if step == 2:
            log.unlink()
            log.symlink_to("/dev/full")

    with pytest.raises(OutputError, match=r"log\.csv: cannot be written \(No space left on device\)"):
        fit(VOLUMES, VALIDATION, configuration(interval=2), tmp_path, progress=fill_the_disk)
    assert load_checkpoint(tmp_path / LAST_FILE).training["step"] == 2


def test_where_the_volumes_come_from_is_kept_with_the_checkpoints(tmp_path):
    provenance = {"recipe": "cells", "phantoms": {"count": 3, "seeds": [1, 4]}, "step": "not the fit's"}
    fit(VOLUMES, VALIDATION, configuration(steps=1), tmp_path, provenance=provenance)
    for name in (BEST_FILE, LAST_FILE):
        training = load_checkpoint(tmp_path / name).training
        assert training["recipe"] == "cells"
        assert training["phantoms"] == {"count": 3, "seeds": [1, 4]}
        assert training["step"] == 1


def test_an_output_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "run").write_text("x")
    with pytest.raises(OutputError, match="choose another folder"):
        fit(VOLUMES, VALIDATION, configuration(), tmp_path / "run")


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 0},
        {"learning_rate": 0.0},
        {"network": UNetConfiguration(classes=4)},
        {"class_weights": (1.0, 1.0)},
        {"sampling": SamplingConfiguration(crop=18)},
        {"precision": "fp16"},
    ],
)
def test_a_configuration_that_cannot_be_is_refused(change):
    with pytest.raises(ParameterError):
        configuration(**change)

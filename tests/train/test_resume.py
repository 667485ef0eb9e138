"""Resuming: a run that was killed at any moment ends as one that was not, and nothing else is gone on from."""

from __future__ import annotations

import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tomoscribe.engine.errors import OutputExistsError, ParameterError
from tomoscribe.train.checkpoint import CheckpointError, load_checkpoint
from tomoscribe.train.fit import BEST_FILE, LAST_FILE, LOG_FILE, STATE_FILE, fit
from tomoscribe.train.validation import Validator

pytestmark = pytest.mark.usefixtures("one_thread")

HERE = Path(__file__).parent
STEPS = 14
# Trains in a process of its own, and tells every step. With a second argument it dies, as if killed, when half of the
# state of that step is on disk.
SCRIPT = """
import importlib.util, os, pathlib, signal, sys
import torch
from tomoscribe.train.fit import fit
from tomoscribe.train.settings import Devices

specification = importlib.util.spec_from_file_location("conftest", {conftest!r})
conftest = importlib.util.module_from_spec(specification)
sys.modules["conftest"] = conftest
specification.loader.exec_module(conftest)
torch.set_num_threads(1)
output, dies, devices = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
save = torch.save

def half(content, file, *arguments, **options):
    save(content, file, *arguments, **options)
    if isinstance(content, dict) and content.get("global_step") == dies:
        name = next(output.glob(".state.ckpt.*.part"), output / ".state.ckpt.part")
        name.write_bytes(b"half a state")
        os.kill(os.getpid(), signal.SIGKILL)

torch.save = half
fit(
    conftest.three_volumes(), conftest.small_settings(**{settings!r}), output, resume=True,
    devices=Devices("cpu", devices), progress=lambda step, loss: print(step, flush=True),
)
"""


@pytest.fixture(scope="module")
def settings(small):
    return small(**changes())


def changes():
    return {
        "steps": STEPS,
        "validation_interval": 6,
        "checkpoint_interval": 4,
        "examples": 1,
        "patience": 3,
        "class_weights": (1.0, 2.0, 1.0),
    }


@pytest.fixture
def start(tmp_path):
    """Starts the script; the process's output is the numbers of its steps."""
    script = tmp_path / "train.py"
    script.write_text(SCRIPT.format(conftest=str(HERE / "conftest.py"), settings=changes()), encoding="utf-8")
    running = []

    def run(output, dies=-1, devices=1):
        command = [sys.executable, str(script), str(output), str(dies), str(devices)]
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        return running[-1]

    yield run
    for process in running:
        process.kill()
        process.wait()
        process.stdout.close()


def results(folder):
    """The weights, and the log but for how long things took."""
    rows = (folder / LOG_FILE).read_text().splitlines()
    weights = [(folder / name).read_bytes() for name in (BEST_FILE, LAST_FILE)]
    return weights, [row.rsplit(",", 2)[0] for row in rows]


@pytest.fixture(scope="module")
def finished(one_thread, volumes, settings, tmp_path_factory):
    """The folder of a run that was never interrupted."""
    folder = tmp_path_factory.mktemp("finished")
    fit(volumes, settings, folder)
    return folder


@pytest.fixture(scope="module")
def expected(finished):
    return results(finished)


@pytest.fixture
def whole(finished, tmp_path):
    """A copy of it."""
    return Path(shutil.copytree(finished, tmp_path / "whole"))


def test_a_run_that_is_killed_at_a_random_moment_ends_with_the_same_weights(
    images, settings, start, tmp_path, expected
):
    process = start(tmp_path / "run")
    last = random.randrange(1, STEPS - 1)
    for line in process.stdout:
        if int(line) >= last:
            break
    time.sleep(random.uniform(0, 0.02))
    process.kill()
    process.wait()
    assert process.returncode == -signal.SIGKILL
    steps = []
    fit(images, settings, tmp_path / "run", resume=True, progress=lambda step, _: steps.append(step))
    assert len(steps) <= STEPS
    assert steps[-1] == STEPS
    assert results(tmp_path / "run") == expected, f"killed after step {last}"


def test_a_run_that_is_killed_while_its_state_is_written_goes_on_from_the_one_before(
    images, settings, start, tmp_path, expected
):
    process = start(tmp_path / "run", dies=8)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert list((tmp_path / "run").glob(".state.ckpt*"))
    steps = []
    fit(images, settings, tmp_path / "run", resume=True, progress=lambda step, _: steps.append(step))
    assert steps[0] == 7
    assert results(tmp_path / "run") == expected
    assert not list((tmp_path / "run").glob(".*"))


@pytest.mark.parametrize("stop", [1, 4, 5, 6, 13])
def test_wherever_a_run_ends_it_goes_on_as_if_it_had_not(images, settings, tmp_path, expected, stop):
    def interrupt(step, _loss):
        if step == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(images, settings, tmp_path / "run", progress=interrupt)
    with pytest.raises(KeyboardInterrupt):  # and again, a little later
        fit(images, settings, tmp_path / "run", progress=lambda s, _: interrupt(s - 1, 0), resume=True)
    notes = []
    fit(images, settings, tmp_path / "run", resume=True, note=notes.append)
    assert results(tmp_path / "run") == expected
    reached = min(stop + 1, STEPS) - 1
    done = max([s for s in range(1, reached + 1) if s % 4 == 0 or s % 6 == 0], default=0)
    assert notes == ([f"{tmp_path / 'run'}: goes on after step {done}"] if done else [])
    assert len(list((tmp_path / "run" / "examples").iterdir())) == 3


def test_log_and_pictures_after_the_state_are_cut(images, settings, tmp_path, expected):
    def interrupt(step, _loss):
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(images, settings, tmp_path / "run", progress=interrupt)
    with (tmp_path / "run" / LOG_FILE).open("a") as log:
        log.write("6,0.9,0.01,0.5,,0.5,1,1\n12,0.")
    (tmp_path / "run" / "examples").mkdir()
    (tmp_path / "run" / "examples" / "step_0000013.png").write_bytes(b"of later")
    fit(images, settings, tmp_path / "run", resume=True)
    assert results(tmp_path / "run") == expected
    assert not (tmp_path / "run" / "examples" / "step_0000013.png").exists()


def test_two_processes_train_together_and_share_the_work(images, settings, start, tmp_path):
    process = start(tmp_path / "run", devices=2)
    printed, _ = process.communicate()
    assert process.returncode == 0
    steps = [int(line) for line in printed.split()]
    assert steps == list(range(1, STEPS + 1))  # one of them tells
    rows = results(tmp_path / "run")[1]
    assert [row.split(",")[0] for row in rows] == ["step", "6", "12", "14"]
    last = load_checkpoint(tmp_path / "run" / LAST_FILE)
    alone, _ = Validator(images, 64, 0).run(last.network, nullcontext)
    assert alone.found[1] > 0
    assert last.training["validation_dice"]["small blob"] == pytest.approx(alone.dice()[1], abs=1e-3)
    with pytest.raises(ParameterError, match="processes: 2 then, 1 now"):
        fit(images, settings, tmp_path / "run", resume=True)


def test_a_finished_run_is_left_as_it_is(images, settings, whole, expected):
    def never(step, _loss):
        raise AssertionError(step)

    assert fit(images, settings, whole, resume=True, progress=never) == whole / BEST_FILE
    assert results(whole) == expected


def test_where_there_is_nothing_to_go_on_from_the_run_begins(images, settings, tmp_path, expected):
    fit(images, settings, tmp_path / "run", resume=True)
    assert results(tmp_path / "run") == expected


def test_a_run_whose_state_was_removed_is_not_replaced_by_resuming_it(images, settings, whole, expected):
    (whole / STATE_FILE).unlink()
    with pytest.raises(OutputExistsError, match=r"state\.ckpt: expected the state of the run that is there"):
        fit(images, settings, whole, resume=True)
    assert results(whole) == expected


def test_a_run_that_starts_from_a_model_resumes_exactly(images, settings, whole, tmp_path):
    def interrupt(step, _loss):
        if step == 7:
            raise KeyboardInterrupt

    start = whole / BEST_FILE
    fit(images, settings, tmp_path / "once", start=start)
    with pytest.raises(KeyboardInterrupt):
        fit(images, settings, tmp_path / "run", start=start, progress=interrupt)
    fit(images, settings, tmp_path / "run", start=start, resume=True)
    assert results(tmp_path / "run") == results(tmp_path / "once")


def test_another_run_is_not_gone_on_with(images, small, settings, whole, expected):
    for changed, words in (
        ({"learning_rate": 0.01}, "settings learning_rate: 0.02 then, 0.01 now"),
        ({"augmentation": {"noise": 0.1}}, "settings augmentation noise: 0.4 then, 0.1 now"),
    ):
        with pytest.raises(ParameterError, match=words):
            fit(images, small(**{**changes(), **changed}), whole, resume=True)
    for other in (
        replace(images, splits=["train", "dev", "train"]),
        replace(images, provenance={"name": "squares", "inverted": True}),
    ):
        with pytest.raises(ParameterError, match="dataset: "):
            fit(other, settings, whole, resume=True)
    with pytest.raises(ParameterError, match="start: None then"):
        fit(images, settings, whole, start=whole / BEST_FILE, resume=True)
    assert results(whole) == expected


class _Evil:
    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_state_that_is_damaged_or_holds_code_is_refused_and_not_run(images, settings, whole, tmp_path):
    state = whole / STATE_FILE
    evil = _Evil()
    evil.path = str(tmp_path / "was here")
    for write in (
        lambda: state.write_bytes(state.read_bytes()[:-2000]),
        lambda: state.write_bytes(b""),
        lambda: state.write_bytes(b"text"),
        lambda: state.write_bytes(pickle.dumps(evil)),
        lambda: torch.save({"tomoscribe": evil}, state),
        lambda: torch.save({"other": 1}, state),
        lambda: torch.save([1], state),
    ):
        write()
        with pytest.raises(CheckpointError, match="expected the state of a training run") as caught:
            fit(images, settings, whole, resume=True)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "was here").exists()

"""The folder of a training run: its log, its checkpoints, its pictures, and the state that it goes on from."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from tomoscribe.engine.errors import OutputError, OutputExistsError, ParameterError
from tomoscribe.engine.replacing import replacing
from tomoscribe.train.checkpoint import Checkpoint, CheckpointError, save_checkpoint
from tomoscribe.train.task import STATE_KEY

__all__ = ["BEST_FILE", "LAST_FILE", "LOG_FILE", "STATE_FILE", "RunFolder"]

BEST_FILE = "best.safetensors"
LAST_FILE = "last.safetensors"
LOG_FILE = "log.csv"
STATE_FILE = "state.ckpt"
_EXAMPLES, _TENSORBOARD = "examples", "tensorboard"


class RunFolder:
    """Reads and writes the files of a run.

    Args:
        path: the folder.
        columns: the log's, ``step`` first.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path = path
        self.state = path / STATE_FILE
        self.tensorboard = path / _TENSORBOARD
        self._columns = list(columns)

    def read_state(self, identity: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the state that an interrupted run goes on from; None where there is none.

        Nothing is unpickled but tensors and plain values.

        Raises:
            CheckpointError: the state cannot be read.
            OutputExistsError: a model is there whose state is not.
            ParameterError: the run has other settings, another dataset or another number of processes.
        """
        try:
            state: dict[str, Any] = torch.load(self.state, map_location="cpu", weights_only=True)
            found = state[STATE_KEY]
        except FileNotFoundError as error:
            # A run that died in its first validation has a model and no state; one with a model of later lost it.
            if (self.path / BEST_FILE).exists() and len(self._rows()) > 1:
                raise OutputExistsError(
                    f"{self.state}: expected the state of the run that is there, found none; train into another "
                    "folder, or replace the run (--overwrite)"
                ) from error
            return None
        except Exception as error:  # what torch raises depends on the bytes that are damaged
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise CheckpointError(
                f"{self.state}: expected the state of a training run, cannot read it ({reason}); train anew"
            ) from error
        different = _difference(found, identity)
        if different:
            raise ParameterError(
                f"{self.path}: cannot go on with this run, which was begun otherwise ({different}); repeat its "
                "command, or train into another folder"
            )
        return state

    def begin(self, step: int) -> None:
        """Make the folder ready for the step after `step`: nothing of an earlier run, or of later steps, stays.

        Raises:
            OutputError: it cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            stale = [*self.path.glob(".*.part"), *(p for p in self._pictures() if int(p.stem[5:]) > step)]
            if not step:
                stale += [self.path / name for name in (BEST_FILE, LAST_FILE, STATE_FILE)]
                stale += self.tensorboard.glob("events.out.tfevents.*")
            for path in stale:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"{self.path}: cannot be written ({error.strerror}); choose another folder") from error
        # The last line may be cut short.
        rows = [row for row in self._rows() if int(row[0]) <= step and len(row) == len(self._columns)]
        with replacing(self.path / LOG_FILE) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([self._columns, *rows])

    def _pictures(self) -> list[Path]:
        return [p for p in (self.path / _EXAMPLES).glob("step_*.png") if p.stem[5:].isdecimal()]

    def _rows(self) -> list[list[str]]:
        path = self.path / LOG_FILE
        if not path.exists():
            return []
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            return [row for row in csv.reader(file) if row and row[0].isdecimal()]

    def log(self, values: Sequence[object]) -> None:
        """Add a line to the log, which is opened for it alone, so that the line is there or the error is told."""
        path = self.path / LOG_FILE
        try:
            with path.open("a", newline="", encoding="utf-8") as file:
                csv.writer(file).writerow(values)
        except OSError as error:
            raise OutputError(f"{path}: cannot be written ({error.strerror}); check space and permissions") from error

    def save(self, checkpoint: Checkpoint, *, best: bool) -> None:
        """Write the checkpoint of a validation.

        Raises:
            OutputError: it cannot be written.
        """
        save_checkpoint(self.path / LAST_FILE, checkpoint)
        if best:
            save_checkpoint(self.path / BEST_FILE, checkpoint)

    def save_picture(self, picture: Image.Image, step: int) -> None:
        """Write the picture of a validation.

        Raises:
            OutputError: it cannot be written.
        """
        path = self.path / _EXAMPLES / f"step_{step:07d}.png"
        with replacing(path) as temporary:
            path.parent.mkdir(exist_ok=True)
            picture.save(temporary, "PNG")


def _difference(found: Mapping[str, Any], expected: Mapping[str, Any], prefix: str = "") -> str:
    """Return in words what differs first; nothing where all is the same."""
    for key in {**found, **expected}:
        there, now = found.get(key), expected.get(key)
        if isinstance(there, dict) and isinstance(now, dict):
            different = _difference(there, now, f"{prefix}{key} ")
            if different:
                return different
        elif there != now:
            return f"{prefix}{key}: {there} then, {now} now"
    return ""

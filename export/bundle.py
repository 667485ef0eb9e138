"""Exporting: a checkpoint becomes the bundle that the engine runs."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import onnx

from tomoscribe.engine.bundle import CHECKPOINT, MODEL_FILE, Artifact, Bundle
from tomoscribe.engine.errors import OutputError, OutputExistsError
from tomoscribe.export.graph import to_onnx
from tomoscribe.export.parity import measure_parity
from tomoscribe.train.checkpoint import Checkpoint, load_checkpoint

__all__ = ["export_bundle"]

_FP32_FILE = "model.fp32.onnx"
_CHECKPOINT_FILE = "checkpoint.safetensors"


def export_bundle(checkpoint: Path, output: Path, *, overwrite: bool = False) -> Bundle:
    """Write the bundle of a checkpoint, if its graph in ONNX Runtime answers as the network does in PyTorch.

    The bundle brings the checkpoint with it, so that a training can start from it. The folder is made under a
    temporary name beside its place and renamed when it is complete.

    Args:
        checkpoint: what ``tomoscribe train`` wrote.
        output: the bundle's folder.
        overwrite: replace a bundle that is there. A folder that is not a bundle is never replaced.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        OutputExistsError: there is something at `output` that may not be replaced.
        OutputError: the folder cannot be written.
        ParityError: the graph answers otherwise; nothing is written.
    """
    trained = load_checkpoint(checkpoint)
    _check_free(output, overwrite)
    beside = output.parent / f".{output.name}.{os.getpid()}.tmp"
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        beside.mkdir()
        shutil.copyfile(checkpoint, beside / _CHECKPOINT_FILE)
        _write(beside, trained, checkpoint.name)
        _replace(beside, output)
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"{output}: cannot be written ({error.strerror}); check space and permissions") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return Bundle.load(output)


def _write(folder: Path, trained: Checkpoint, source: str) -> None:
    artifact, checkpoint = folder / _FP32_FILE, Artifact.of(folder / _CHECKPOINT_FILE)
    onnx.save(to_onnx(trained.network, trained.specification), artifact)
    Bundle(
        path=folder,
        specification=trained.specification,
        artifacts={"fp32": Artifact.of(artifact), CHECKPOINT: checkpoint},
        parity={"fp32": measure_parity(trained.network, artifact)},
        training={**trained.training, "checkpoint": {"file": source, "sha256": checkpoint.sha256}},
    ).write()


def _check_free(output: Path, overwrite: bool) -> None:
    if not (output.exists() or output.is_symlink()):
        return
    if output.is_symlink() or not (output / MODEL_FILE).is_file():
        raise OutputExistsError(
            f"{output}: is there and is not the folder of a model bundle, so it is not replaced; choose another place"
        )
    if not overwrite:
        raise OutputExistsError(f"{output}: a bundle is there already; choose another folder, or overwrite it")


def _replace(folder: Path, output: Path) -> None:
    """Rename a folder to its place; the bundle that was there moves aside first, because folders cannot be swapped."""
    if not output.exists():
        folder.rename(output)
        return
    aside = folder.with_suffix(".old")
    output.rename(aside)
    try:
        folder.rename(output)
    except OSError:
        aside.rename(output)
        raise
    shutil.rmtree(aside, ignore_errors=True)

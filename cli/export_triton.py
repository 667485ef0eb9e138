"""``tomoscribe export --triton``: a model repository for NVIDIA's Triton Inference Server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tomoscribe.engine.bundle import Bundle

__all__ = ["check_repository", "write_repository"]


def check_repository(output: Path, overwrite: bool) -> None:
    """Refuse a place that may not be replaced, before minutes are spent on what comes first.

    Raises:
        OutputExistsError: there is something else, or a repository without `overwrite`.
    """
    from tomoscribe.export import triton

    triton.check_repository(output, overwrite=overwrite)


def write_repository(bundle: Bundle, output: Path, precision: str | None, overwrite: bool) -> list[Path]:
    """Write the repository of a bundle, and return its models' folders.

    Args:
        bundle: the model.
        output: the repository's folder.
        precision: those of ``--precision``; all that passed their gates if None.
        overwrite: replace a repository that is there.

    Raises:
        TomoscribeError: as `tomoscribe.export.triton.write_triton_repository` says.
    """
    from tomoscribe.export.triton import write_triton_repository

    precisions = None if precision is None else [name.strip() for name in precision.split(",")]
    return write_triton_repository(bundle, output, precisions=precisions, overwrite=overwrite)

"""``tomoscribe export``: a checkpoint in, a model bundle out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["export"]


def export(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="The .safetensors file that training wrote.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="BUNDLE", help="The folder to make.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a bundle that is there.")] = False,
) -> None:
    """Turn a checkpoint into a model bundle, and check that both give the same labels."""
    from tomoscribe.engine import BackendUnavailableError

    try:
        from tomoscribe.export import export_bundle
    except ModuleNotFoundError as error:
        raise BackendUnavailableError(
            f'export needs the package {error.name}; install it with: pip install "tomoscribe[export]"'
        ) from error
    bundle = export_bundle(checkpoint, output, overwrite=overwrite)
    typer.echo(f"{bundle.path}: {bundle.specification.name}")

"""``tomoscribe inspect``: what a bundle, a network or a plan is, and what can run it here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tomoscribe.cli.inspection import Inspection

__all__ = ["inspect"]


def inspect(
    target: Annotated[
        Path | None,
        typer.Argument(
            metavar="BUNDLE|ONNX|PLAN",
            help="Folder of a bundle, an .onnx file, or a .plan of TensorRT.",
            show_default="the model that came along",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Say what a model is: classes, shapes, files, parity, provenance, and which backends can run it here.

    The exit status is 2 where a file is missing or was altered.
    """
    import json

    from tomoscribe.cli.failure import print_error
    from tomoscribe.cli.page import print_page

    inspection = _inspect(target)
    if as_json:
        typer.echo(json.dumps({**inspection.entries, "problems": inspection.problems}, indent=2, ensure_ascii=False))
    else:
        print_page(inspection.page)
        for problem in inspection.problems:
            print_error(problem)
    raise typer.Exit(2 if inspection.problems else 0)


def _inspect(target: Path | None) -> Inspection:
    from tomoscribe.cli.inspect_bundle import inspect_bundle
    from tomoscribe.cli.inspect_network import inspect_network
    from tomoscribe.cli.inspect_plan import inspect_plan
    from tomoscribe.engine import ParameterError, default_bundle
    from tomoscribe.engine.bundle import MODEL_FILE

    if target is None:
        return inspect_bundle(default_bundle())
    if target.name == MODEL_FILE:
        return inspect_bundle(target.parent)
    if target.suffix == ".json" and target.with_suffix(".plan").is_file():
        return inspect_plan(target.with_suffix(".plan"))
    kinds = {".onnx": inspect_network, ".plan": inspect_plan}
    look = kinds.get(target.suffix.lower(), inspect_bundle)
    if look is inspect_bundle and target.is_file():
        raise ParameterError(
            f"{target}: expected the folder of a bundle, an .onnx or a .plan file, found another file; "
            "of a checkpoint, tomoscribe export makes a bundle"
        )
    return look(target)

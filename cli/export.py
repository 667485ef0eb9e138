"""``tomoscribe export``: a checkpoint or an ONNX file in, a model bundle out; plans and a server's copy of a bundle."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from tomoscribe.engine.bundle import Bundle

__all__ = ["export"]

_FOREIGN, _PLANS, _SERVER = "A network of another program", "TensorRT", "Triton Inference Server"


def export(
    checkpoint: Annotated[
        Path | None,
        typer.Argument(
            metavar="CHECKPOINT",
            help="The .safetensors file that training wrote; or, with --tensorrt or --triton, a bundle.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="BUNDLE", help="The folder to make.", show_default=False)
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            metavar="P,P,…",
            help="Of fp32, fp16, int8 (TensorRT) and int8-cpu; fp32 always is.",
            show_default="fp32,fp16",
        ),
    ] = None,
    calibrate: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="TOMOGRAM",
            help="Real slices to calibrate int8 on, and others to compare on; may be repeated. Phantoms are used too.",
        ),
    ] = None,
    test_time_augmentation: Annotated[
        str | None,
        typer.Option(
            metavar="KIND",
            help="Average over flips (4 runs of the network) or flips-and-turns (8) of each tile.",
            show_default="none",
        ),
    ] = None,
    allow_drift: Annotated[bool, typer.Option("--allow-drift", help="Write what does not pass, and mark it.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a bundle, or a repository, that is there.")
    ] = False,
    tensorrt: Annotated[
        bool, typer.Option("--tensorrt", help="Build plans too, for the GPU that is here.", rich_help_panel=_PLANS)
    ] = False,
    slice_size: Annotated[
        str, typer.Option(metavar="YxX", help="Size of the tomograms' slices in pixels.", rich_help_panel=_PLANS)
    ] = "960x928",
    triton: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Write a model repository of its networks and plans.",
            show_default=False,
            rich_help_panel=_SERVER,
        ),
    ] = None,
    from_onnx: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Deploy an ONNX file (n,c,y,x) -> (n,classes,y,x).", rich_help_panel=_FOREIGN
        ),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[=#RRGGBB],…", help="Its channels in order, with 'background'.", rich_help_panel=_FOREIGN
        ),
    ] = None,
    voxel_size: Annotated[
        str | None, typer.Option(metavar="LOW,HIGH", help="Å that it was trained on.", rich_help_panel=_FOREIGN)
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="The model's name.", show_default="the file's", rich_help_panel=_FOREIGN)
    ] = None,
    activation: Annotated[
        str | None,
        typer.Option(help="softmax or sigmoid.", show_default="softmax", rich_help_panel=_FOREIGN),
    ] = None,
    logits: Annotated[
        bool | None,
        typer.Option(
            "--logits/--probabilities", help="What it gives.", show_default="measured", rich_help_panel=_FOREIGN
        ),
    ] = None,
    normalise: Annotated[
        str | None,
        typer.Option(help="volume (mean 0, deviation 1) or none.", show_default="volume", rich_help_panel=_FOREIGN),
    ] = None,
    scale: Annotated[
        float | None,
        typer.Option(help="What intensities are multiplied with then.", show_default="1", rich_help_panel=_FOREIGN),
    ] = None,
    offset: Annotated[
        float | None, typer.Option(help="What is added after that.", show_default="0", rich_help_panel=_FOREIGN)
    ] = None,
    polarity: Annotated[
        str | None,
        typer.Option(help="Density that it knows: dark or bright.", show_default="dark", rich_help_panel=_FOREIGN),
    ] = None,
    context: Annotated[
        int | None,
        typer.Option(
            help="Neighbouring slices on each side.", show_default="0 for one channel", rich_help_panel=_FOREIGN
        ),
    ] = None,
    tile_multiple: Annotated[
        int | None,
        typer.Option(help="Height and width are multiples of it.", show_default="measured", rich_help_panel=_FOREIGN),
    ] = None,
    halo: Annotated[
        int | None, typer.Option(help="Margin of a tile in pixels.", show_default="measured", rich_help_panel=_FOREIGN)
    ] = None,
    onnx_output: Annotated[
        str | None, typer.Option(help="Which of its outputs, if it has several.", rich_help_panel=_FOREIGN)
    ] = None,
) -> None:
    """Turn a checkpoint into a model bundle, and check that all of its networks give the same labels.

    Each is compared with the checkpoint in PyTorch FP32, on phantoms and on
    the tomograms of --calibrate. One that does not pass is not written: labels
    equal on 99.99 % of pixels (fp32) or 99.9 % (fp16), a Dice of 0.99 for every
    class (int8). The bundle holds the report: parity.md, parity.json, pictures.
    """
    from tomoscribe.cli.export_plans import build_plans, check_tensorrt, parse_slice_size
    from tomoscribe.cli.export_triton import check_repository, write_repository

    foreign = {
        "channels": classes,
        "voxel_size": voxel_size,
        "name": name,
        "activation": activation,
        "answers": None if logits is None else "logits" if logits else "probabilities",
        "normalise": normalise,
        "scale": scale,
        "offset": offset,
        "polarity": polarity,
        "context": context,
        "tile_multiple": tile_multiple,
        "halo": halo,
        "output": onnx_output,
    }
    _check_combination(
        checkpoint, output, precision, test_time_augmentation, tensorrt or triton is not None, from_onnx, foreign
    )
    options: dict[str, Any] = {"tomograms": calibrate or [], "allow_drift": allow_drift}
    size = parse_slice_size(slice_size)
    with _progress() as progress, _packages():
        options["progress"] = progress
        if tensorrt:
            check_tensorrt()  # before minutes are spent on what comes first
        if triton is not None:
            check_repository(triton, overwrite)
        writing = {**options, "overwrite": overwrite}
        if test_time_augmentation is not None:
            writing["test_time_augmentation"] = test_time_augmentation
        bundle = _bundle(checkpoint, output, precision, from_onnx, foreign, writing)
        plans = build_plans(bundle, precision, size, **options) if tensorrt else []
        asked = precision if output is None else None  # a new bundle holds what was asked for
        served = [] if triton is None else write_repository(bundle, triton, asked, overwrite)
    if output is not None:
        _print_bundle(bundle)
    for path in (*plans, *served):
        typer.echo(path)


def _check_combination(
    checkpoint: Path | None,
    output: Path | None,
    precision: str | None,
    test_time_augmentation: str | None,
    is_for_bundles: bool,
    from_onnx: Path | None,
    foreign: Mapping[str, object],
) -> None:
    """Refuse what says two things at once, or too little.

    Raises:
        ParameterError: with what is expected.
    """
    from tomoscribe.engine.errors import ParameterError

    if (checkpoint is None) == (from_onnx is None):
        found = "neither" if checkpoint is None else "both"
        raise ParameterError(f"export: expected a checkpoint or --from-onnx, found {found}")
    if from_onnx is None and any(value is not None for value in foreign.values()):
        raise ParameterError(
            "export: expected options that describe a network of another program only with --from-onnx; a checkpoint "
            "says all of that itself"
        )
    if from_onnx is not None and precision is not None:
        raise ParameterError(
            "--precision: expected none with --from-onnx, which stays as precise as its file; leave it out"
        )
    if test_time_augmentation is not None and (from_onnx is not None or output is None):
        raise ParameterError(
            "--test-time-augmentation: expected with a checkpoint and --output alone, because it is in the graphs that "
            "are written then; leave it out"
        )
    if output is None and not (is_for_bundles and checkpoint is not None and checkpoint.is_dir()):
        raise ParameterError("export: expected the folder to make, found none; name it with --output")


def _bundle(
    checkpoint: Path | None,
    output: Path | None,
    precision: str | None,
    from_onnx: Path | None,
    foreign: Mapping[str, Any],
    options: Mapping[str, Any],
) -> Bundle:
    """Make the bundle, or read the one that is there."""
    from tomoscribe.engine.bundle import Bundle

    if output is None:
        assert checkpoint is not None
        return Bundle.load(checkpoint)
    if from_onnx is not None:
        from tomoscribe.cli.export_onnx import describe
        from tomoscribe.export.foreign import bundle_from_onnx

        return bundle_from_onnx(from_onnx, output, describe(from_onnx, foreign), **options)
    from tomoscribe.export import DEFAULT_PRECISIONS, export_bundle

    assert checkpoint is not None
    precisions = DEFAULT_PRECISIONS if precision is None else [name.strip() for name in precision.split(",")]
    return export_bundle(checkpoint, output, precisions=precisions, **options)


@contextmanager
def _packages() -> Iterator[None]:
    """Say what to install where a package is missing."""
    from tomoscribe.engine.errors import BackendUnavailableError

    try:
        yield
    except ModuleNotFoundError as error:
        raise BackendUnavailableError(
            f'export needs the package {error.name}; install it with: pip install "tomoscribe[export]"'
        ) from error


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Show on a terminal's stderr what is being done; nothing elsewhere."""
    from rich.console import Console
    from rich.markup import escape

    with Console(stderr=True).status("reading") as status:
        yield lambda text: status.update(escape(text))


def _print_bundle(bundle: Bundle) -> None:
    from tomoscribe.cli.page import print_page
    from tomoscribe.cli.parity_page import parity_table

    typer.echo(f"{bundle.path}: {bundle.specification.name}")
    print_page([parity_table(bundle.parity, bundle.specification.class_map)])

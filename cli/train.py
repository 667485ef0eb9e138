"""``tomoscribe train``: a dataset in, a checkpoint out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = ["train"]

_NETWORK, _SCHEDULE, _LOSS, _MACHINES = "Network", "Schedule", "Loss", "Machines"


def train(
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="What tomoscribe dataset build wrote.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="RUN", help="Folder for log, checkpoints and example pictures.")
    ],
    settings: Annotated[
        Path | None,
        typer.Option(metavar="FILE.yaml", help="Settings by the names of the options, and augmentation; options win."),
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(metavar="MODEL", help="Bundle or checkpoint to fine-tune; its network's size is taken over."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run that is there; begin where there is none.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run that is there.")] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Log for TensorBoard too.")] = False,
    name: Annotated[str | None, typer.Option(help="The model's name.", show_default="unet")] = None,
    context: Annotated[
        int | None,
        typer.Option(help="Neighbouring slices on each side.", show_default="1", rich_help_panel=_NETWORK),
    ] = None,
    base_width: Annotated[
        int | None, typer.Option(help="Channels at full resolution.", show_default="16", rich_help_panel=_NETWORK)
    ] = None,
    depth: Annotated[
        int | None,
        typer.Option(help="How many times the slice is halved.", show_default="4", rich_help_panel=_NETWORK),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Optimiser steps.", show_default="5000", rich_help_panel=_SCHEDULE)
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(help="Crops a step on each device.", show_default="8", rich_help_panel=_SCHEDULE),
    ] = None,
    crop: Annotated[
        int | None,
        typer.Option(help="Pixels, height and width.", show_default="256 or the tile", rich_help_panel=_SCHEDULE),
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="The schedule's highest.", show_default="0.003", rich_help_panel=_SCHEDULE)
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="bf16, fp16 or fp32.", show_default="bf16", rich_help_panel=_SCHEDULE)
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Decides the whole run.", show_default="0", rich_help_panel=_SCHEDULE)
    ] = None,
    validation_interval: Annotated[
        int | None, typer.Option(help="Steps between validations.", show_default="250", rich_help_panel=_SCHEDULE)
    ] = None,
    checkpoint_interval: Annotated[
        int | None,
        typer.Option(help="Steps between states to resume from.", show_default="100", rich_help_panel=_SCHEDULE),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(help="End after so many validations without a better one.", rich_help_panel=_SCHEDULE),
    ] = None,
    class_weights: Annotated[
        str | None,
        typer.Option(metavar="balanced|W,W,…", help="Weights of the classes, background first.", rich_help_panel=_LOSS),
    ] = None,
    dice: Annotated[
        float | None, typer.Option(help="Weight of a Dice term.", show_default="0", rich_help_panel=_LOSS)
    ] = None,
    focal: Annotated[
        float | None, typer.Option(help="Exponent of the focal loss.", show_default="0", rich_help_panel=_LOSS)
    ] = None,
    accelerator: Annotated[str, typer.Option(help="auto, cpu or gpu.", rich_help_panel=_MACHINES)] = "auto",
    devices: Annotated[
        str, typer.Option(help="GPUs (or CPU processes) on each node, or auto for all.", rich_help_panel=_MACHINES)
    ] = "1",
    nodes: Annotated[int, typer.Option(min=1, help="Machines.", rich_help_panel=_MACHINES)] = 1,
    strategy: Annotated[str, typer.Option(help="Lightning's, such as ddp.", rich_help_panel=_MACHINES)] = "auto",
    workers: Annotated[
        int | None,
        typer.Option(min=0, help="Processes that read crops for each device.", rich_help_panel=_MACHINES),
    ] = None,
) -> None:
    """Train a U-Net on a dataset."""
    from tomoscribe.engine.errors import BackendUnavailableError

    try:
        from tomoscribe.train.dataset.storage import open_dataset
        from tomoscribe.train.fit import fit, is_first_process
        from tomoscribe.train.settings import Devices, TrainingSettings
        from tomoscribe.train.yaml_file import check_values, read_yaml
    except ModuleNotFoundError as error:
        raise BackendUnavailableError(
            f'training needs the package {error.name}; install it with: pip install "tomoscribe[train]"'
        ) from error
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    options = {
        "name": name,
        "context": context,
        "base_width": base_width,
        "depth": depth,
        "steps": steps,
        "batch_size": batch_size,
        "crop": crop,
        "learning_rate": learning_rate,
        "precision": precision,
        "seed": seed,
        "validation_interval": validation_interval,
        "checkpoint_interval": checkpoint_interval,
        "patience": patience,
        "class_weights": _weights(class_weights),
        "dice": dice,
        "focal": focal,
    }
    given = read_yaml(settings, TrainingSettings).model_dump(exclude_unset=True) if settings else {}
    given.update((key, value) for key, value in options.items() if value is not None)
    plan = check_values(given, TrainingSettings, "options")
    machines = Devices(accelerator, int(devices) if devices.isdecimal() else devices, nodes, strategy, workers)
    # Lightning starts this command again for every further device; what is there then is this run's own.
    first = is_first_process()
    if first:
        _check_free(output, resume=resume, overwrite=overwrite)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    )
    images = open_dataset(dataset)
    with Progress(*columns, console=Console(stderr=True), disable=not first) as progress:
        bar = progress.add_task("steps", total=plan.steps, note="")
        checkpoint = fit(
            images,
            plan,
            output,
            start=start,
            resume=resume,
            devices=machines,
            tensorboard=tensorboard,
            progress=lambda step, loss: progress.update(bar, completed=step, note=f"loss {loss:.3f}"),
            note=lambda line: progress.console.print(line, markup=False, highlight=False, soft_wrap=True),
        )
    if first:
        typer.echo(checkpoint)


def _weights(text: str | None) -> Any:  # noqa: ANN401 - the settings' own check decides
    return text.split(",") if text and text != "balanced" else text


def _check_free(output: Path, *, resume: bool, overwrite: bool) -> None:
    from tomoscribe.engine.errors import OutputExistsError, ParameterError
    from tomoscribe.train.fit import BEST_FILE, STATE_FILE

    if resume and overwrite:
        raise ParameterError("--resume goes on with a run and --overwrite replaces it; pass one of them")
    there = [name for name in (BEST_FILE, STATE_FILE) if (output / name).exists()]
    if there and not (resume or overwrite):
        raise OutputExistsError(
            f"{output / there[0]}: a run is there already; pass --resume to go on with it, or --overwrite to replace it"
        )

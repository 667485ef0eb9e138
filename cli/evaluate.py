"""``tomoscribe evaluate``: labels, or a model, against the truth."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tomoscribe.train.evaluation.judgement import Comparison, Judgement

__all__ = ["evaluate"]

evaluate = typer.Typer(help="Judge labels, or a model, by the truth: Dice, confusion, calibration, worst cases.")

Output = Annotated[Path, typer.Option("--output", "-o", metavar="REPORT", help="Folder for the report.")]
Values = Annotated[
    str | None,
    typer.Option(
        metavar="N=CLASS,...",
        help="What labels that are judged stand for, where not for the class of that number: a class, or background.",
    ),
]
Tolerance = Annotated[int, typer.Option(metavar="PIXELS", min=0, help="Also count borders that are this far off.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the report that is there.")]


@evaluate.command("labels", no_args_is_help=True)
def labels(
    prediction: Annotated[
        str,
        typer.Argument(
            metavar="PREDICTION",
            help="A label volume, a folder of them, or a form: 'DIR/{tomogram}__labels.mrc', 'DIR/a__{feature}.mrc'.",
        ),
    ],
    truth: Annotated[str, typer.Argument(metavar="TRUTH", help="The truth, given in the same ways.")],
    output: Output,
    tomogram: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Tomogram, folder, or form with {tomogram}: drawn in the worst cases."),
    ] = None,
    class_map: Annotated[
        Path | None,
        typer.Option(
            "--class-map",
            metavar="PATH",
            help="Bundle, dataset or sidecar with the classes.",
            show_default="the sidecar of the labels, or the five features",
        ),
    ] = None,
    values: Values = None,
    truth_values: Annotated[
        str | None, typer.Option(metavar="N=CLASS,...", help="The same for the truth; ignore is allowed too.")
    ] = None,
    ignore: Annotated[int | None, typer.Option(metavar="N", help="Value of the truth that does not count.")] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            metavar="VALUE", help="Of feature maps, in their own units.", show_default="0.5; int8: 64, uint8: 128"
        ),
    ] = None,
    z_range: Annotated[
        str | None, typer.Option(metavar="A:B", help="Judge only the slices from A up to but not B, counted from 0.")
    ] = None,
    tolerance: Tolerance = 2,
    overwrite: Overwrite = False,
) -> None:
    """Compare label volumes, of tomoscribe or another program, with the truth.

    Labels and truth of folders and forms are paired by the name of their tomogram.
    """
    from tomoscribe.cli.segment import parse_range

    with _missing_package_named():
        from tomoscribe.train.dataset.contract import IGNORE
        from tomoscribe.train.evaluation.class_maps import agreed_class_map, read_class_map
        from tomoscribe.train.evaluation.pairs import find_pairs
        from tomoscribe.train.evaluation.report import check_report_folder
        from tomoscribe.train.evaluation.volumes import LabelReading, VolumeComparison

    check_report_folder(output, overwrite)
    first, stop = parse_range(z_range)
    given, wanted = _parse_values(values, "--values"), _parse_values(truth_values, "--truth-values")
    found = find_pairs(prediction, truth, tomogram)
    sides = [(given, pair.prediction) for pair in found.pairs] + [(wanted, pair.truth) for pair in found.pairs]
    numbered = [side for meaning, side in sides if meaning is None and isinstance(side, Path)]
    comparison = VolumeComparison(
        found.pairs,
        agreed_class_map(numbered, None if class_map is None else read_class_map(class_map)),
        prediction=LabelReading(given, threshold=threshold),
        truth=LabelReading(wanted, ignore=IGNORE if ignore is None else ignore),
        z_range=(first, stop),
        warnings=found.warnings,
    )
    facts = {"labels": prediction, "truth": truth, "tomograms": str(len(found.pairs))}
    if z_range is not None:
        facts["slices"] = z_range
    _report(comparison, output, tolerance, f"Labels of {Path(prediction).name}", facts)


@evaluate.command("model", no_args_is_help=True)
def model(
    model: Annotated[
        Path,
        typer.Argument(metavar="MODEL", help="Folder of a bundle, or a checkpoint (.safetensors) of a training run."),
    ],
    dataset: Annotated[Path, typer.Argument(metavar="DATASET", help="Folder of a dataset.")],
    output: Output,
    split: Annotated[str, typer.Option(metavar="NAME", help="Which images: train, dev or test.")] = "test",
    values: Values = None,
    backend: Annotated[
        str, typer.Option(metavar="NAME", help="What runs a bundle: auto for the CPU, or a backend.")
    ] = "auto",
    tolerance: Tolerance = 2,
    overwrite: Overwrite = False,
) -> None:
    """Label the images of a dataset with a model and compare them with their labels."""
    with _missing_package_named():
        from tomoscribe.train.dataset.storage import open_dataset
        from tomoscribe.train.evaluation.model import ModelComparison
        from tomoscribe.train.evaluation.predictors import open_predictor
        from tomoscribe.train.evaluation.report import check_report_folder

    check_report_folder(output, overwrite)
    images = open_dataset(dataset)
    with open_predictor(model, images.tile, backend=backend) as predictor:
        comparison = ModelComparison(predictor, images, split, values=_parse_values(values, "--values"))
        facts = {
            "model": f"{predictor.specification.name} ({model})",
            "sha256": predictor.sha256,
            "run by": predictor.description,
            "dataset": f"{images.name} ({dataset})",
            "split": split,
        }
        _report(comparison, output, tolerance, f"{predictor.specification.name} on {images.name}", facts)


@contextmanager
def _missing_package_named() -> Iterator[None]:
    """Say of a package that an import lacks how to install it."""
    from tomoscribe.engine.errors import BackendUnavailableError

    try:
        yield
    except ModuleNotFoundError as error:
        raise BackendUnavailableError(
            f'evaluation needs the package {error.name}; install it with: pip install "tomoscribe[train]"'
        ) from error


def _report(comparison: Comparison, output: Path, tolerance: int, title: str, facts: dict[str, str]) -> None:
    """Judge with a progress bar, write the report, print its table and where it is."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from tomoscribe.train.evaluation.judgement import judge
    from tomoscribe.train.evaluation.report import write_report

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True, highlight=False)
    with Progress(*columns, console=console) as progress:
        images = progress.add_task("images", total=len(comparison))
        judgement = judge(comparison, tolerance=tolerance, progress=lambda: progress.advance(images))
    page = write_report(judgement, comparison, output, title=title, facts=facts)
    for warning in comparison.warnings:
        console.print(f"tomoscribe: warning: {warning}", markup=False, soft_wrap=True)
    _print_table(judgement)
    typer.echo(page)


def _print_table(judgement: Judgement) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from tomoscribe.train.evaluation.report import class_figures

    total, figures = judgement.total, class_figures(judgement)
    figures.pop("calibration error", None)  # nine columns do not fit a terminal of 80
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("class", *figures, "true voxels"):
        table.add_column(name, justify="left" if name == "class" else "right")
    for label_class in judgement.class_map.classes:
        title = Text.assemble(("■ ", "rgb({},{},{})".format(*label_class.colour)), label_class.name)
        cells = [_cell(values[label_class.number]) for values in figures.values()]
        table.add_row(title, *cells, f"{total.true[label_class.number]:,}")
    table.add_row("mean", _cell(total.mean_dice()), style="bold")
    Console(highlight=False).print(table)


def _cell(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"


def _parse_values(text: str | None, option: str) -> dict[int, str] | None:
    if text is None:
        return None
    values: dict[int, str] = {}
    for entry in text.split(","):
        number, separator, name = (part.strip() for part in entry.partition("="))
        if not (separator and name and number.removeprefix("-").isdecimal()):
            raise typer.BadParameter(f"expected N=CLASS,..., such as 1=ribosome, found '{entry}'", param_hint=option)
        if int(number) in values:
            raise typer.BadParameter(f"expected one class for {number}, found two", param_hint=option)
        values[int(number)] = name
    return values

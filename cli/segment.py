"""``tomoscribe segment``: tomograms in, labels out."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tomoscribe.cli.failure import describe, exit_status

if TYPE_CHECKING:
    from tomoscribe.cli.report import Report
    from tomoscribe.engine import Segmenter, Tomogram

__all__ = ["EPILOG", "parse_range", "segment"]

EPILOG = (
    "Beside each tomogram, or in --output, come <tomogram>__labels.mrc, one <tomogram>__<Class>.mrc of scores for each "
    "class (64 of 127 is a probability of one half), and <tomogram>__labels.json, which says what the numbers mean. "
    "A tomogram that cannot be read is reported, and the rest go on; the exit status is then 2, or 1 if writing or "
    "computing failed."
)

OVERRIDES, REPORTING = "Where the header is wrong", "Reporting"


class Axes(StrEnum):
    """How a file may store its axes, fastest first."""

    XYZ = "xyz"
    XZY = "xzy"


class Mode0(StrEnum):
    """How the bytes of MRC mode 0 are read."""

    AUTO = "auto"
    SIGNED = "signed"
    UNSIGNED = "unsigned"


def segment(
    context: typer.Context,
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="INPUT", help="Tomograms, folders, quoted patterns, or .txt lists of them."),
    ],
    model: Annotated[
        Path | None,
        typer.Option(metavar="BUNDLE", help="Folder of the model.", show_default="the model that came along"),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="DIR", help="Folder for the outputs.", show_default="beside the tomogram"
        ),
    ] = None,
    classes: Annotated[
        list[str] | None, typer.Option(metavar="NAME,...", help="Classes to keep.", show_default="all")
    ] = None,
    z_range: Annotated[
        str | None,
        typer.Option(
            metavar="A:B", help="Label only the slices from A up to but not B, counted from 0; A: and :B work."
        ),
    ] = None,
    sample_only: Annotated[
        bool, typer.Option("--sample-only", help="Leave out the slices above and below the sample.")
    ] = False,
    invert: Annotated[bool, typer.Option("--invert", help="The density is bright on dark.")] = False,
    no_rescale: Annotated[
        bool,
        typer.Option("--no-rescale", help="Take slices as they are, whatever voxel size the model was trained on."),
    ] = False,
    backend: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="What runs it: auto, tensorrt or onnxruntime-cuda on a GPU, openvino or onnxruntime on the CPU.",
        ),
    ] = "auto",
    precision: Annotated[
        str, typer.Option(metavar="NAME", help="What it is computed in: auto, fp32, fp16, bf16, int8.")
    ] = "auto",
    device: Annotated[
        str,
        typer.Option(
            metavar="WHERE",
            help="Where it runs: auto, cpu, or a GPU by its number; 0,1 has two GPUs share each tomogram.",
        ),
    ] = "auto",
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Replace the outputs of an earlier run; otherwise tomograms that have labels are skipped.",
        ),
    ] = False,
    picture: Annotated[
        bool, typer.Option("--picture", help="Draw <tomogram>__overview.png too.", rich_help_panel=REPORTING)
    ] = False,
    profile: Annotated[
        bool,
        typer.Option(
            "--profile",
            help="Say what every stage's time went into, and write <tomogram>__trace.json for ui.perfetto.dev.",
            rich_help_panel=REPORTING,
        ),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only errors.", rich_help_panel=REPORTING)] = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="One JSON object a line and tomogram on stdout.", rich_help_panel=REPORTING),
    ] = False,
    voxel_size: Annotated[
        float | None, typer.Option(metavar="Å", min=0.01, help="Voxel size in Å.", rich_help_panel=OVERRIDES)
    ] = None,
    axes: Annotated[
        Axes,
        typer.Option(help="Axes of the file, fastest first; AreTomo without FlipVol: xzy.", rich_help_panel=OVERRIDES),
    ] = Axes.XYZ,
    mode0: Annotated[Mode0, typer.Option(help="Bytes of MRC mode 0.", rich_help_panel=OVERRIDES)] = Mode0.AUTO,
) -> None:
    """Label every voxel of tomograms."""
    from tomoscribe.cli.report import JsonReport, TerminalReport
    from tomoscribe.engine import Recorder, Segmenter, open_tomogram
    from tomoscribe.engine.inputs import check_output_names, find_tomograms
    from tomoscribe.engine.outputs import OutputPaths
    from tomoscribe.engine.trace import write_trace

    first, stop = parse_range(z_range)
    names = [name.strip() for entry in classes or () for name in entry.split(",") if name.strip()] or None
    report: Report = JsonReport() if as_json else TerminalReport(quiet)

    def label(segmenter: Segmenter, path: Path) -> None:
        with open_tomogram(path, voxel_size=voxel_size, axes=axes.value, mode0=mode0.value) as tomogram:
            span = (first, tomogram.shape[0] if stop is None else stop)
            progress = report.begin(path, tomogram.shape, span)
            recorder = Recorder() if profile else None
            result = segmenter.segment(
                tomogram,
                output,
                classes=names,
                invert=invert,
                rescale=not no_rescale,
                z_range=span,
                sample_only=sample_only,
                overwrite=overwrite,
                progress=progress,
                warn=lambda warning: report.warn(path, warning),
                recorder=recorder,
            )
            try:
                if recorder is not None:
                    write_trace(recorder, OutputPaths.of(path, output).trace)
                drawn = _draw(segmenter, tomogram, result.labels, output) if picture else None
            except Exception as error:  # the labels are there all the same
                report.finish(result, None)
                if context.obj:
                    raise
                report.miss_extra(path, describe(error, path), exit_status(error))
            else:
                report.finish(result, drawn)

    with report:
        try:
            found = find_tomograms(inputs)
            check_output_names(found.tomograms, output)
            with Segmenter(
                model, backend=backend, precision=precision, device=device, building=report.build
            ) as segmenter:
                segmenter.bundle.specification.class_map.select(names or ())
                report.introduce(segmenter, found.tomograms, found.left_out)
                for path in found.tomograms:
                    try:
                        if _has_labels(path, output) and not overwrite:
                            report.skip(path)
                        else:
                            label(segmenter, path)
                    except Exception as error:  # one bad tomogram does not stop a night's run
                        if context.obj:
                            raise
                        report.fail(path, describe(error, path), exit_status(error))
        except Exception as error:
            if context.obj or not as_json:
                raise
            report.fail(None, describe(error), exit_status(error))
    raise typer.Exit(report.status)


def parse_range(text: str | None) -> tuple[int, int | None]:
    """Return the first slice and one past the last of ``A:B``; the latter is None where the volume's end is meant."""
    if text is None:
        return 0, None
    first, colon, stop = (part.strip() for part in text.partition(":"))
    if not colon or not all(part.isdecimal() or not part for part in (first, stop)):
        raise typer.BadParameter(f"expected A:B, A: or :B with whole numbers, found '{text}'", param_hint="'--z-range'")
    return int(first or 0), int(stop) if stop else None


def _has_labels(tomogram: Path, output: Path | None) -> bool:
    from tomoscribe.engine.errors import OutputError
    from tomoscribe.engine.outputs import OutputPaths

    labels = OutputPaths.of(tomogram, output).labels
    try:
        return labels.exists()
    except OSError as error:
        raise OutputError(
            f"{labels}: cannot be looked for ({error.strerror}); check the name and the permissions of its folder"
        ) from error


def _draw(segmenter: Segmenter, tomogram: Tomogram, labels: Path, output: Path | None) -> Path:
    from tomoscribe.engine import open_tomogram
    from tomoscribe.engine.outputs import OutputPaths
    from tomoscribe.engine.picture import draw_overview

    specification = segmenter.bundle.specification
    target = OutputPaths.of(tomogram.path, output).picture
    with open_tomogram(labels, axes=tomogram.geometry.axes, mode0="signed") as volume:
        return draw_overview(tomogram, volume, specification.class_map, target, note=f"labels: {specification.name}")

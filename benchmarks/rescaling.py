"""What rescaling gains: Dice of the bundled model on phantoms of voxels that it was not trained on, and what it costs.

    python benchmarks/rescaling.py --output benchmarks/results [--json FILE] [--phantoms 6] [--backend auto]

The phantoms are those of the recipe's test split, drawn anew with other voxels and shapes (`FIELDS`), so that 5 Å and
40 Å show other scenes: figures compare along a row. All are imaged with the same dose, so that the signal-to-noise
ratio of an image grows with the area of its pixels; at `REFERENCE` it is what ``bundled_model.py`` takes for that of
real images. `segment` labels their middle slices in several ways:

*as it is*: with ``--no-rescale``.
*rescaled*: as it does by itself, to the target that is told.
*by area*, *interpolated*: to the same target, with an average over area, or interpolation between the two nearest
pixels, where the engine has weights that fall linearly over all that a pixel covers.
*other target*: where the engine takes the middle of what the model was trained on, its nearest end, and the other way
round.

A figure is the mean Dice of the classes that are there, voxels of all phantoms together; in how many single phantoms
the engine's filter is ahead of the area's says what a small difference is worth. The costs are those of one
core for a slice that the model sees in about 512 × 512 pixels (`rescaling_costs`). The reader's filter is also ONNX's
Resize with antialias and Pillow's BILINEAR; of a graph that resampled, the cost would be Resize's, for every slice of
the context. Their share is of what resampling and the model take together.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from bundled_model import SIGNAL_TO_NOISE, test_parameters
from measuring import argument_parser, markdown_table, save_results
from numpy.typing import NDArray
from rescaling_costs import SEEN, Cost, measure_costs
from rescaling_filters import area_weights, interpolation_weights, reading_with

from tomoscribe.engine import Bundle, Geometry, ModelSpecification, Segmenter, default_bundle, open_tomogram
from tomoscribe.engine.cores import usable_cores
from tomoscribe.engine.rescaling import Rescaling
from tomoscribe.train.metrics import ConfusionMatrix
from tomoscribe.train.phantom import PhantomParameters, make_phantom
from tomoscribe.train.phantom.files import PhantomFiles, write_phantom

FIELDS = {5.0: 640, 7.0: 512, 14.0: 320, 28.0: 256, 40.0: 256}
"""Voxel sizes in Å, and the height and width of the phantoms in voxels."""
REFERENCE = 14.0
DEPTH, LABELLED = 40, (12, 28)
WAYS = ("as it is", "rescaled", "by area", "interpolated", "other target")
MEANS = ("reader", "by area", "ONNX Runtime", "Pillow", "scipy.ndimage.zoom", "scores back")


@dataclass(frozen=True)
class Row:
    """What came out for a voxel size.

    Attributes:
        voxel_size: in Å.
        target: of the pixels that the model sees, in Å; None where nothing is resampled.
        other: the other target.
        dice: mean over classes, by way, all phantoms together.
        single: the same of each phantom.
    """

    voxel_size: float
    target: float | None
    other: float | None
    dice: dict[str, float]
    single: dict[str, list[float]]

    @property
    def ahead(self) -> int:
        """How many phantoms the engine's filter serves better than the area's."""
        return sum(own > area for own, area in zip(self.single["rescaled"], self.single["by area"], strict=True))


def targets(voxel_size: float, specification: ModelSpecification) -> tuple[float, float] | None:
    """Return the engine's target and the other one, in Å; None where it leaves slices as they are."""
    # So large that rounding to whole pixels is not seen.
    rescaling = Rescaling.of(Geometry((1, 10**6, 10**6), (voxel_size,) * 3), specification)
    if rescaling is None:
        return None
    smallest, largest = specification.voxel_size
    candidates = math.sqrt(smallest * largest), min(max(voxel_size, smallest), largest)
    target, other = sorted(candidates, key=lambda size: abs(size - rescaling.voxel_size[0]))
    return target, other


def ways(bundle: Bundle, voxel_size: float) -> Iterator[tuple[str, Bundle, bool, Callable[[int, int], Any] | None]]:
    """Yield the ways to label a tomogram: name, bundle, whether slices are rescaled, and the reader's weights."""
    yield "as it is", bundle, False, None
    found = targets(voxel_size, bundle.specification)
    if found is not None:
        yield "rescaled", bundle, True, None
        yield "by area", bundle, True, area_weights
        yield "interpolated", bundle, True, interpolation_weights
        # For a model that was trained on a single voxel size the engine's target is that.
        yield (
            "other target",
            replace(bundle, specification=replace(bundle.specification, voxel_size=(found[1],) * 2)),
            True,
            None,
        )


def phantom_parameters(count: int, voxel_size: float, side: int) -> list[PhantomParameters]:
    """Return the parameters of phantoms that differ from the recipe's in shape, voxels, and noise."""
    signal_to_noise = SIGNAL_TO_NOISE * (voxel_size / REFERENCE) ** 2
    return [
        replace(
            parameters,
            voxel_size=voxel_size,
            shape=(DEPTH, side, side),
            imaging=replace(parameters.imaging, signal_to_noise=signal_to_noise),
        )
        for parameters in test_parameters(count)
    ]


def draw_phantom(parameters: PhantomParameters, path: Path) -> PhantomFiles:
    """Make a phantom and write it."""
    return write_phantom(make_phantom(parameters), path)


def judge(bundle: Bundle, backend: str, voxel_size: float, phantoms: list[PhantomFiles], output: Path) -> Row:
    """Label phantoms of one voxel size in all ways."""
    dice: dict[str, float] = {}
    single: dict[str, list[float]] = {}
    for name, varied, rescale, weights in ways(bundle, voxel_size):
        pooled = ConfusionMatrix(bundle.specification.classes)
        single[name] = []
        with reading_with(weights), Segmenter(varied, backend=backend) as segmenter:
            for files in phantoms:
                result = segmenter.segment(files.tomogram, output, rescale=rescale, z_range=LABELLED, overwrite=True)
                confusion = ConfusionMatrix(bundle.specification.classes)
                confusion.add(_read(result.labels), _read(files.truth))
                single[name].append(confusion.mean_dice())
                pooled.counts += confusion.counts
        dice[name] = pooled.mean_dice()
    target, other = targets(voxel_size, bundle.specification) or (None, None)
    return Row(voxel_size, target, other, dice, single)


def _read(path: Path) -> NDArray[np.uint8]:
    """Return the slices of a label volume that are labelled."""
    first, last = LABELLED
    with open_tomogram(path) as volume:
        values = np.empty((last - first, *volume.shape[1:]), np.int8)
        volume.read_slices(first, values)
    return values.view(np.uint8)


def page(bundle: Bundle, rows: list[Row], costs: list[Cost], phantoms: int) -> str:
    """Return the page of results."""
    smallest, largest = bundle.specification.voxel_size
    dice = [
        [
            f"{row.voxel_size:g}",
            *(f"{row.dice[way]:.3f}" if way in row.dice else "–" for way in WAYS),
            *(f"{target:.1f}" if target is not None else "–" for target in (row.target, row.other)),
            f"{row.ahead} of {phantoms}" if row.target is not None else "–",
        ]
        for row in rows
    ]
    means = [
        [
            f"{cost.voxel_size:g}",
            f"{cost.side} → {cost.seen}",
            *(f"{1e3 * cost.seconds[name]:.1f}" for name in MEANS),
            f"{1e3 * cost.model:.0f}",
            f"{cost.share:.1%}",
        ]
        for cost in costs
    ]
    return "\n\n".join(
        [
            "# Rescaling",
            f"Made by `benchmarks/rescaling.py`, whose docstring says what is measured: {bundle.specification.name}, "
            f"trained on voxels of {smallest:.1f} to {largest:.1f} Å; {phantoms} phantoms of each size.",
            "## Mean Dice over classes",
            markdown_table(["voxel size, Å", *WAYS, "target, Å", "other target, Å", "ahead of area"], dice),
            f"## A slice that the model sees in about {SEEN} × {SEEN} pixels: ms of one core",
            markdown_table(["voxel size, Å", "side, pixels", *MEANS, "the model", "share of resampling"], means),
        ]
    )


def ratios(rows: list[Row], costs: list[Cost]) -> dict[str, float]:
    """Return the figures that count."""
    figures = {}
    for row in rows:
        for name, way in (("as_it_is", "as it is"), ("area", "by area"), ("other_target", "other target")):
            if "rescaled" in row.dice:
                figures[f"dice_rescaled_over_{name}_{row.voxel_size:g}"] = row.dice["rescaled"] / row.dice[way]
    figures["resampling_share"] = max(cost.share for cost in costs)
    return figures


def main() -> None:
    """Measure, print and save."""
    parser = argument_parser(__doc__)
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder for rescaling.md")
    parser.add_argument("--phantoms", type=int, help="of each voxel size (6; quick: 1)")
    parser.add_argument("--model", type=Path, default=default_bundle(), help="a bundle")
    parser.add_argument("--backend", default="auto")
    arguments = parser.parse_args()
    bundle = Bundle.load(arguments.model)
    count = arguments.phantoms or (1 if arguments.quick else 6)
    fields = {7.0: 256, 28.0: 128} if arguments.quick else FIELDS
    with tempfile.TemporaryDirectory() as temporary, ProcessPoolExecutor(min(usable_cores(), 4)) as processes:
        folder = Path(temporary)
        drawn = {
            size: [
                processes.submit(draw_phantom, parameters, folder / f"{size:g}_{number}.mrc")
                for number, parameters in enumerate(phantom_parameters(count, size, side))
            ]
            for size, side in fields.items()
        }
        phantoms = {size: [future.result() for future in futures] for size, futures in drawn.items()}
        rows = [judge(bundle, arguments.backend, size, files, folder) for size, files in phantoms.items()]
    costs = measure_costs(bundle, arguments.backend, list(fields), 3 if arguments.quick else 15)
    text = page(bundle, rows, costs, count)
    print(text)
    if arguments.output:
        arguments.output.mkdir(parents=True, exist_ok=True)
        (arguments.output / "rescaling.md").write_text(text + "\n", encoding="utf-8")
    save_results(
        arguments.json,
        __file__,
        ratios(rows, costs),
        model=bundle.specification.name,
        phantoms=count,
        dice=[vars(row) for row in rows],
        costs=[vars(cost) for cost in costs],
    )


if __name__ == "__main__":
    main()

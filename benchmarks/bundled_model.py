"""What the bundled model is worth: Dice on phantoms that it never saw, and what it does on real images.

    python benchmarks/bundled_model.py --output benchmarks/results [--real FOLDER]

The phantoms are drawn as those of the training recipe, with other seeds. `--real` names a folder with
the crops of `REAL_CROPS` and ``membrane_slices`` (DLCryoTomo's images with hand-drawn membrane masks, whose origin is
not documented, so they are judged and not shown); they are not part of tomoscribe.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import mrcfile
import numpy as np
import tifffile

from tomoscribe.engine import Segmenter, open_tomogram
from tomoscribe.engine.picture import draw_overview
from tomoscribe.train.evaluate import compare_label_volumes
from tomoscribe.train.metrics import ConfusionMatrix
from tomoscribe.train.phantom import make_phantom
from tomoscribe.train.phantom.files import write_phantom
from tomoscribe.train.recipe import read_recipe


@dataclass(frozen=True)
class RealCrop:
    """A real crop whose licence lets its picture be shown: file, size of a voxel in Å, polarity, what it is."""

    file: str
    voxel_size: float
    bright: bool
    description: str


REAL_CROPS = (
    RealCrop("microtubule_13pf.tif", 10.52, True, "A microtubule of 13 protofilaments (cylindra's tests, BSD-3)"),
    RealCrop("membrane_16.rec", 19.7, False, "16 voxels of a bacterial membrane (visfd's tests, MIT)"),
    RealCrop("blobs_27x32x22.rec", 19.3, False, "Particles (visfd's tests, MIT)"),
)
RECIPE = Path(__file__).resolve().parent.parent / "train" / "recipes" / "bundled.toml"
MEMBRANES = (3, 4)


def judge_phantoms(segmenter: Segmenter, count: int, folder: Path) -> list[str]:
    """Segment phantoms and return a Markdown table of Dice per class."""
    class_map = segmenter.bundle.specification.class_map
    names = [label_class.name for label_class in class_map.classes]
    lines = [
        "| phantom | voxel size, Å | signal to noise | " + " | ".join(names) + " |",
        "|" + "---|" * (3 + len(names)),
    ]
    pooled = ConfusionMatrix(len(class_map) + 1)
    for number, parameters in enumerate(read_recipe(RECIPE).test_parameters(count)):
        files = write_phantom(make_phantom(parameters), folder / f"test{number}.mrc")
        result = segmenter.segment(files.tomogram)
        confusion = compare_label_volumes(result.labels, files.truth, class_map)
        pooled.counts += confusion.counts
        cells = [str(number), f"{parameters.voxel_size:.1f}", f"{parameters.imaging.signal_to_noise:.2f}"]
        lines.append("| " + " | ".join(cells + _dice_cells(confusion)) + " |")
    lines.append("| **all voxels** | | | " + " | ".join(_dice_cells(pooled)) + " |")
    return lines


def _dice_cells(confusion: ConfusionMatrix) -> list[str]:
    """Return a cell for each class: Dice, or the share of voxels wrongly given where the truth has none."""
    there, total = confusion.counts.sum(axis=1), confusion.counts.sum()
    wrong = confusion.counts.sum(axis=0) / total
    dice = confusion.dice()
    return [f"{dice[n]:.3f}" if there[n] else f"– ({wrong[n]:.2%})" for n in range(1, len(there))]


def draw_real(segmenter: Segmenter, crop: RealCrop, real: Path, folder: Path, output: Path) -> list[str]:
    """Segment a real crop, draw it, and return its lines of the report."""
    picture = output / f"bundled_model_{Path(crop.file).stem}.png"
    with open_tomogram(real / crop.file, voxel_size=crop.voxel_size) as tomogram:
        result = segmenter.segment(tomogram, folder, invert=crop.bright)
        with open_tomogram(result.labels) as labels:
            draw_overview(tomogram, labels, segmenter.bundle.specification.class_map, picture)
    shares = ", ".join(f"{name} {count / result.voxels:.1%}" for name, count in result.counts.items())
    return ["", f"{crop.description}. {shares}.", "", f"![{crop.file} and its labels]({picture.name})"]


def judge_membranes(segmenter: Segmenter, real: Path, folder: Path) -> list[str]:
    """Segment real slices and return a Markdown table of membrane Dice by source slice."""
    images = real / "membrane_slices"
    counts: dict[str, ConfusionMatrix] = defaultdict(lambda: ConfusionMatrix(2))
    with (images / "groups.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            image = tifffile.imread(images / row["file"])
            if image.ndim == 3:  # a few have pixels that are not quite grey
                image = image[..., :3].mean(axis=-1)
            path = folder / f"{Path(row['file']).stem}.mrc"
            mrcfile.write(path, image[np.newaxis].astype(np.float32))
            result = segmenter.segment(path)
            with open_tomogram(result.labels) as labels:
                found = np.empty(labels.shape, np.int16)
                labels.read_slices(0, found)
            mask = tifffile.imread(images / row["mask"]) > 127
            counts[row["source_slice"]].add(np.isin(found[0], MEMBRANES).astype(np.uint8), mask.astype(np.uint8))
    lines = ["| source slice | membrane Dice |", "|---|---|"]
    return lines + [f"| {name} | {confusion.dice()[1]:.3f} |" for name, confusion in sorted(counts.items())]


def main() -> None:
    """Run everything and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--model", type=Path, help="a bundle; by default the bundled model")
    parser.add_argument("--phantoms", type=int, default=12)
    parser.add_argument("--real", type=Path, help="folder with the real images")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary, Segmenter(arguments.model) as segmenter:
        folder = Path(temporary)
        command = f"python benchmarks/bundled_model.py --phantoms {arguments.phantoms}"
        command += " --real FOLDER" if arguments.real else ""
        report = [
            f"# {segmenter.bundle.specification.name}",
            "",
            f"Made by `{command}` with `{segmenter.backend}`.",
            "",
            "## Phantoms that it never saw: Dice",
            "",
            "A dash stands where the truth has none of a class, with the share of all voxels that were given it.",
            "",
            *judge_phantoms(segmenter, arguments.phantoms, folder),
        ]
        if arguments.real:
            report += ["", "## Real crops: share of the volume by class"]
            for crop in REAL_CROPS:
                report += draw_real(segmenter, crop, arguments.real, folder, arguments.output)
            report += [
                "",
                "## Real slices with hand-drawn membranes (DLCryoTomo)",
                "",
                "Both membrane classes against the masks. The masks leave some membranes out, and the pixel size is",
                "not known. Variants of one source slice are pooled.",
                "",
                *judge_membranes(segmenter, arguments.real, folder),
            ]
        (arguments.output / "bundled_model.md").write_text("\n".join(report) + "\n", encoding="utf-8")
    print("\n".join(report))


if __name__ == "__main__":
    main()

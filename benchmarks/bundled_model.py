"""What the bundled model is worth: Dice on phantoms that it never saw, and what it does on real images.

    python benchmarks/bundled_model.py --output benchmarks/results [--real FOLDER]

The phantoms are those of the recipe's test split: drawn as the training phantoms are, with other seeds. They are judged
twice: as they are drawn, and all imaged at one signal-to-noise ratio (`--signal-to-noise`), by default the median of
what ``phantom_realism.py`` says of real images. `--real` names a folder with the crops of `REAL_CROPS` and
``membrane_slices`` (DLCryoTomo's images with hand-drawn membrane masks); they are not part of tomoscribe. The origin of
DLCryoTomo's images is not documented, so they are judged, and only masks and labels are drawn.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from drawn_membranes import judge_drawn_membranes

from tomoscribe.engine import Segmenter, open_tomogram
from tomoscribe.engine.picture import draw_overview
from tomoscribe.train.dataset.recipe import PhantomSource, read_recipe
from tomoscribe.train.evaluation.volumes import compare_label_volumes
from tomoscribe.train.metrics import ConfusionMatrix
from tomoscribe.train.phantom import PhantomParameters, make_phantom
from tomoscribe.train.phantom.files import write_phantom


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
RECIPE = Path(__file__).resolve().parent.parent / "train" / "recipes" / "bundled-dataset.yaml"
# The median of benchmarks/results/phantom_realism.md.
SIGNAL_TO_NOISE = 0.2


def test_parameters(count: int) -> list[PhantomParameters]:
    """Return the parameters of the recipe's test phantoms, the first `count`."""
    sources = [source for source in read_recipe(RECIPE).sources if isinstance(source, PhantomSource)]
    return [drawn for source in sources if source.split == "test" for drawn in source.phantoms.drawn()][:count]


def judge_phantoms(segmenter: Segmenter, phantoms: list[PhantomParameters], folder: Path) -> list[str]:
    """Segment phantoms and return a Markdown table of Dice per class."""
    class_map = segmenter.bundle.specification.class_map
    names = [label_class.name for label_class in class_map.classes]
    lines = [
        "| phantom | voxel size, Å | signal to noise | " + " | ".join(names) + " | mean |",
        "|" + "---|" * (4 + len(names)),
    ]
    pooled = ConfusionMatrix(len(class_map) + 1)
    for number, parameters in enumerate(phantoms):
        files = write_phantom(make_phantom(parameters), folder / f"test{number}.mrc", overwrite=True)
        result = segmenter.segment(files.tomogram, overwrite=True)
        confusion = compare_label_volumes(result.labels, files.truth, class_map)
        pooled.counts += confusion.counts
        cells = [str(number), f"{parameters.voxel_size:.1f}", f"{parameters.imaging.signal_to_noise:.2f}"]
        lines.append("| " + " | ".join(cells + _dice_cells(confusion)) + " |")
    lines.append("| **all voxels** | | | " + " | ".join(_dice_cells(pooled)) + " |")
    return lines


def _dice_cells(confusion: ConfusionMatrix) -> list[str]:
    """Return a cell for each class, Dice, or the share of voxels wrongly given where it is not there; and the mean."""
    there, total = confusion.counts.sum(axis=1), confusion.counts.sum()
    wrong = confusion.counts.sum(axis=0) / total
    dice = confusion.dice()
    cells = [f"{dice[n]:.3f}" if there[n] else f"– ({wrong[n]:.2%})" for n in range(1, len(there))]
    return [*cells, f"{dice[1:][there[1:] > 0].mean():.3f}"]


def draw_real(segmenter: Segmenter, crop: RealCrop, real: Path, folder: Path, output: Path) -> list[str]:
    """Segment a real crop, draw it, and return its lines of the report."""
    picture = output / f"bundled_model_{Path(crop.file).stem}.png"
    with open_tomogram(real / crop.file, voxel_size=crop.voxel_size) as tomogram:
        result = segmenter.segment(tomogram, folder, invert=crop.bright)
        with open_tomogram(result.labels) as labels:
            draw_overview(tomogram, labels, segmenter.bundle.specification.class_map, picture)
    shares = ", ".join(f"{name} {count / result.voxels:.1%}" for name, count in result.counts.items())
    line = f"{crop.description}, {crop.voxel_size:g} Å per voxel. {shares}."
    return ["", line, "", f"![{crop.file} and its labels]({picture.name})"]


def main() -> None:
    """Run everything and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--model", type=Path, help="a bundle; by default the bundled model")
    parser.add_argument("--phantoms", type=int, default=12)
    parser.add_argument("--signal-to-noise", type=float, default=SIGNAL_TO_NOISE)
    parser.add_argument("--real", type=Path, help="folder with the real images")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    phantoms = test_parameters(arguments.phantoms)
    noisy = [replace(p, imaging=replace(p.imaging, signal_to_noise=arguments.signal_to_noise)) for p in phantoms]
    with tempfile.TemporaryDirectory() as temporary, Segmenter(arguments.model) as segmenter:
        folder = Path(temporary)
        command = (
            f"python benchmarks/bundled_model.py --phantoms {arguments.phantoms} "
            f"--signal-to-noise {arguments.signal_to_noise:g}"
        )
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
            *judge_phantoms(segmenter, phantoms, folder),
            "",
            f"## The same at a signal-to-noise ratio of {arguments.signal_to_noise:g}",
            "",
            *judge_phantoms(segmenter, noisy, folder),
        ]
        if arguments.real:
            report += ["", "## Real crops: share of the volume by class"]
            for crop in REAL_CROPS:
                report += draw_real(segmenter, crop, arguments.real, folder, arguments.output)
            report += [
                "",
                "## Real slices with hand-drawn membranes (DLCryoTomo)",
                "",
                "Both membrane classes against the masks, the slices as they are and enlarged, for their pixel size is",
                "not known. Lines are drawn some two pixels wide, and some membranes are not drawn. *Within 3 pixels*:",
                "the F-score of what is found no further than that from what is drawn, and the other way round.",
                "Variants of one source slice are pooled. In the picture a row for each enlargement.",
                "",
                *judge_drawn_membranes(
                    segmenter,
                    arguments.real / "membrane_slices",
                    folder,
                    arguments.output / "bundled_model_membranes.png",
                ),
            ]
        (arguments.output / "bundled_model.md").write_text("\n".join(report) + "\n", encoding="utf-8")
    print("\n".join(report))


if __name__ == "__main__":
    main()

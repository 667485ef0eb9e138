"""How like real tomograms phantoms are: where the power of their slices lies, from coarse to fine.

    python benchmarks/phantom_realism.py --real FOLDER [--output benchmarks/results]

Phantoms are drawn as the training recipe draws them. `--real` names a folder with ``microtubule_13pf.tif`` (cylindra's
test data) and ``membrane_slices`` (DLCryoTomo's images); they are not part of tomoscribe. A band where a real image
lies outside what 24 phantoms span is something that the model has not seen.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

from tomoscribe.train.phantom import make_phantom
from tomoscribe.train.recipe import read_recipe

RECIPE = Path(__file__).resolve().parent.parent / "train" / "recipes" / "bundled.toml"
# Edges in cycles per pixel; 0.5 is the Nyquist frequency.
BANDS = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
PHANTOMS = 24


def band_powers(image: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return log10 of the mean power of each band over the mean power of all, for a ``(y, x)`` image."""
    values = image.astype(np.float64)
    window = np.outer(*(np.hanning(n) for n in values.shape))
    power = np.abs(np.fft.fft2((values - values.mean()) * window)) ** 2
    frequency = np.hypot(*np.meshgrid(*(np.fft.fftfreq(n) for n in values.shape), indexing="ij"))
    means = [power[(frequency >= low) & (frequency < high)].mean() for low, high in pairwise(BANDS)]
    return np.log10(np.array(means) / power[frequency < BANDS[-1]].mean())


def real_images(folder: Path) -> dict[str, NDArray[np.floating]]:
    """Return the real images: one of each source slice, and the central slice of the microtubule."""
    images = {"microtubule": tifffile.imread(folder / "microtubule_13pf.tif")[18].astype(np.float32)}
    with (folder / "membrane_slices" / "groups.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if f"membranes {row['source_slice']}" not in images:
                image = tifffile.imread(folder / "membrane_slices" / row["file"]).astype(np.float32)
                images[f"membranes {row['source_slice']}"] = image[..., :3].mean(axis=-1) if image.ndim == 3 else image
    return images


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, required=True, help="folder with the real images")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    parameters = [replace(drawn, shape=(40, 256, 256)) for drawn in read_recipe(RECIPE).test_parameters(PHANTOMS)]
    spectra = np.array([band_powers(make_phantom(drawn).intensity[20]) for drawn in parameters])
    low, high = spectra.min(axis=0), spectra.max(axis=0)
    names = [f"{first:g}–{last:g}" for first, last in pairwise(BANDS)]
    lines = [
        "# Phantoms beside real images: power by frequency",
        "",
        f"log10 of a band's mean power over the image's, bands in cycles per pixel. {PHANTOMS} phantoms of the",
        "training recipe span the first row; a value in bold lies outside. Made by",
        "`python benchmarks/phantom_realism.py --real FOLDER`.",
        "",
        "| image | " + " | ".join(names) + " |",
        "|" + "---|" * (len(names) + 1),
        "| phantoms | " + " | ".join(f"{a:.1f} to {b:.1f}" for a, b in zip(low, high, strict=True)) + " |",
    ]
    for name, image in real_images(arguments.real).items():
        powers = band_powers(image)
        cells = [
            f"{power:.1f}" if a <= power <= b else f"**{power:.1f}**"
            for power, a, b in zip(powers, low, high, strict=True)
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "phantom_realism.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()

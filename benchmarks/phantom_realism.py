"""How like real tomograms phantoms are: where the power of their slices lies, and how noisy they are.

    python benchmarks/phantom_realism.py --real FOLDER [--output benchmarks/results]

Phantoms are drawn as the training recipe draws them. `--real` names a folder with ``microtubule_13pf.tif`` (cylindra's
test data) and ``membrane_slices`` (DLCryoTomo's images); they are not part of tomoscribe. A band where a real image
lies outside what 24 phantoms span is something that the model has not seen.

Nobody knows the signal-to-noise ratio of a real tomogram without its halves. What can be said is which ratio phantoms
of the same spectrum have: a linear fit from the bands' powers to the logarithm of the ratio, over phantoms that are
imaged at 0.03 to 3. How far that is off for phantoms that were left out of the fit is reported with it.
"""

from __future__ import annotations

import argparse
import csv
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray

from tomoscribe.train.dataset.recipe import PhantomSource, read_recipe
from tomoscribe.train.phantom import PhantomParameters, make_phantom

RECIPE = Path(__file__).resolve().parent.parent / "train" / "recipes" / "bundled-dataset.yaml"
# Edges in cycles per pixel; 0.5 is the Nyquist frequency.
BANDS = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
PHANTOMS = 24
SHAPE = (40, 256, 256)
# Of the phantoms that the fit is made with, on a logarithmic scale.
RATIOS = (0.03, 3.0)
RATIO_PHANTOMS = 60
RATIO_SLICES = (14, 20, 26)
REGULARISATION = 0.1


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


def training_parameters(count: int, first: int) -> list[PhantomParameters]:
    """Return parameters drawn as those of the training phantoms, with other seeds."""
    source = read_recipe(RECIPE).sources[0]
    assert isinstance(source, PhantomSource)
    table = source.phantoms.model_copy(update={"count": count, "seed": first})
    return [replace(drawn, shape=SHAPE) for drawn in table.drawn()]


@dataclass(frozen=True)
class RatioFit:
    """A linear fit from band powers to log10 of the signal-to-noise ratio.

    Attributes:
        weights: of a constant and of each band.
        error: root mean square error of log10 for phantoms that were left out of the fit.
        correlation: of what the fit says of them with what they are.
    """

    weights: NDArray[np.float64]
    error: float
    correlation: float

    def ratio(self, powers: NDArray[np.float64]) -> float:
        """Return the signal-to-noise ratio of an image with these band powers."""
        return float(10 ** (np.r_[1.0, powers] @ self.weights))


def fit_ratio() -> RatioFit:
    """Fit the signal-to-noise ratio of phantoms to their band powers, and judge the fit by leaving each out."""
    ratios = np.geomspace(*RATIOS, RATIO_PHANTOMS)
    samples, wanted, group = [], [], []
    for number, (drawn, ratio) in enumerate(
        zip(training_parameters(RATIO_PHANTOMS, 5_000_000), ratios.tolist(), strict=True)
    ):
        imaging = replace(drawn.imaging, signal_to_noise=ratio)
        intensity = make_phantom(replace(drawn, imaging=imaging)).intensity
        samples += [np.r_[1.0, band_powers(intensity[z])] for z in RATIO_SLICES]
        wanted += [np.log10(ratio)] * len(RATIO_SLICES)
        group += [number] * len(RATIO_SLICES)
    inputs, outputs, groups = np.array(samples), np.array(wanted), np.array(group)
    said = np.empty_like(outputs)
    for number in range(RATIO_PHANTOMS):
        out = groups == number
        said[out] = inputs[out] @ _ridge(inputs[~out], outputs[~out])
    error = float(np.sqrt(np.mean((said - outputs) ** 2)))
    return RatioFit(_ridge(inputs, outputs), error, float(np.corrcoef(said, outputs)[0, 1]))


def _ridge(inputs: NDArray[np.float64], outputs: NDArray[np.float64]) -> NDArray[np.float64]:
    penalty = REGULARISATION * np.eye(inputs.shape[1])
    weights: NDArray[np.float64] = np.linalg.solve(inputs.T @ inputs + penalty, inputs.T @ outputs)
    return weights


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, required=True, help="folder with the real images")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    arguments = parser.parse_args()
    images = real_images(arguments.real)
    parameters = training_parameters(PHANTOMS, 6_000_000)
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
    fit = fit_ratio()
    ratios = {name: fit.ratio(band_powers(image)) for name, image in images.items()}
    for name, image in images.items():
        powers = band_powers(image)
        cells = [
            f"{power:.1f}" if a <= power <= b else f"**{power:.1f}**"
            for power, a, b in zip(powers, low, high, strict=True)
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "## Signal-to-noise ratio",
        "",
        "What phantoms of the same spectrum have, by a linear fit. For phantoms that were left out of it the fit is",
        f"wrong by a factor of {10**fit.error:.1f} (root mean square of the logarithm), and its correlation is "
        f"{fit.correlation:.2f}.",
        "",
        "| image | ratio |",
        "|---|---|",
        *(f"| {name} | {ratio:.2f} |" for name, ratio in ratios.items()),
        f"| **median** | {np.median(list(ratios.values())):.2f} |",
    ]
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "phantom_realism.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()

"""Does anything wait? The speed of `segment`, from file to files, over that of the bare backend.

    python benchmarks/overlap.py [--json FILE] [--slices 64] [--size 512] [--rounds 5] [--backend auto] [--folder DIR]

*End to end* is `Segmenter.segment` on a file of noise, float32, int16 and float16: open, measure the intensities, read,
normalise, infer, assemble, write labels and a volume for each class, and bring them to the disk; the model is loaded
before. *Bare* is the same backend with the same slots on slices of that file that lie in them already, as many slices.
Slices are whole tiles, one to a slot. The two take turns; a ratio is the median of the rounds' ratios. The file has
just been written, so that it comes from the page cache, and the outputs go to `--folder`, by default that of temporary
files.
"""

from __future__ import annotations

import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median

from measuring import argument_parser, interleaved, keep_busy, markdown_table, ratio, save_results, write_noise

from tomoscribe.engine import Bundle, ModelSpecification, Segmenter, default_bundle, open_tomogram
from tomoscribe.engine.backends import choose_backend
from tomoscribe.engine.backends.contract import Backend, SlotShape
from tomoscribe.engine.intensity import measure_intensity

DTYPES = ("float32", "int16", "float16")


def end_to_end(segmenter: Segmenter, path: Path, output: Path) -> float:
    """Return the seconds that a file takes."""
    start = time.perf_counter()
    segmenter.segment(path, output, overwrite=True)
    return time.perf_counter() - start


def bare(backend: Backend, specification: ModelSpecification, path: Path) -> float:
    """Return the seconds that the backend takes for as many slices as a file has, without reading or writing."""
    with open_tomogram(path) as tomogram:
        shape = SlotShape(1, specification.context, *tomogram.shape[1:], specification.classes)
        slots = backend.allocate(shape, backend.streams + 1)
        statistics = measure_intensity(tomogram)
        for number, slot in enumerate(slots):
            slot.count = 1
            slot.mean[:], slot.rstd[:] = statistics.mean_and_rstd(len(slot.mean))
            tomogram.read_slices(number, slot.slices)
        count = tomogram.shape[0]
    start = time.perf_counter()
    keep_busy(backend, slots, count)
    return time.perf_counter() - start


def measure(
    segmenter: Segmenter, backend: Backend, shape: tuple[int, int, int], rounds: int, folder: Path
) -> dict[str, list[float]]:
    """Return the seconds of every round, end to end and bare, for a tomogram of each type."""
    specification, output = segmenter.bundle.specification, folder / "labels"
    paths = {dtype: write_noise(folder / f"{dtype}.mrc", shape, dtype) for dtype in DTYPES}
    runs = {}
    for dtype, path in paths.items():
        runs[f"{dtype} end to end"] = partial(end_to_end, segmenter, path, output)
        runs[f"{dtype} bare"] = partial(bare, backend, specification, path)
    # Both have their memory and their threads before the first round.
    segmenter.segment(paths["float32"], output, z_range=(0, 2))
    bare(backend, specification, write_noise(folder / "short.mrc", (least_slices(backend, specification), *shape[1:])))
    return interleaved(runs, rounds)


def least_slices(backend: Backend, specification: ModelSpecification) -> int:
    """Return how many slices a tomogram has to have, so that each slot is filled with others."""
    return backend.streams + 1 + 2 * specification.context


def main() -> None:
    """Measure, print and save."""
    parser = argument_parser(__doc__)
    parser.add_argument("--slices", type=int, help="of each tomogram (64; quick: 12)")
    parser.add_argument("--size", type=int, default=512, help="height and width of a slice, 512 to 1024")
    parser.add_argument("--rounds", type=int, help="(5; quick: 1)")
    parser.add_argument("--model", type=Path, default=default_bundle(), help="a bundle")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--folder", type=Path, help="where tomograms and outputs lie meanwhile")
    arguments = parser.parse_args()
    bundle = Bundle.load(arguments.model)
    slices = arguments.slices or (12 if arguments.quick else 64)
    rounds = arguments.rounds or (1 if arguments.quick else 5)
    size = arguments.size
    if size % bundle.specification.tile_multiple or not 512 <= size <= 1024:
        parser.error(f"--size: expected a multiple of {bundle.specification.tile_multiple} from 512 to 1024")
    with (
        tempfile.TemporaryDirectory(dir=arguments.folder) as folder,
        Segmenter(bundle, backend=arguments.backend) as segmenter,
    ):
        backend, reason = choose_backend(arguments.backend, bundle)
        if backend.description != segmenter.backend:
            parser.error(f"--backend: expected the same one twice, found {segmenter.backend} and {backend.description}")
        if slices < (least := least_slices(backend, bundle.specification)):
            parser.error(f"--slices: expected at least {least}")
        seconds = measure(segmenter, backend, (slices, size, size), rounds, Path(folder))
        backend.close()
    ratios = {
        f"end_to_end_over_bare_backend_{dtype}": ratio(seconds[f"{dtype} bare"], seconds[f"{dtype} end to end"])
        for dtype in DTYPES
    }
    ratios["end_to_end_over_bare_backend"] = min(ratios.values())
    rows = []
    for dtype in DTYPES:
        speeds = [slices * size**2 / median(seconds[f"{dtype} {kind}"]) / 1e6 for kind in ("bare", "end to end")]
        rows.append(
            [dtype, *(f"{speed:.2f}" for speed in speeds), f"{ratios[f'end_to_end_over_bare_backend_{dtype}']:.3f}"]
        )
    print(f"{bundle.specification.name}, {backend.description} ({reason})")
    print(f"{slices} slices of {size} × {size}, {rounds} rounds, tomograms in the page cache\n")
    print(markdown_table(["tomogram", "bare, Mvoxel/s", "end to end, Mvoxel/s", "ratio"], rows))
    save_results(
        arguments.json,
        __file__,
        ratios,
        model=bundle.specification.name,
        backend=backend.description,
        slices=slices,
        size=size,
        seconds=seconds,
    )


if __name__ == "__main__":
    main()

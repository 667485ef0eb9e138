"""How the cost grows with the size of volumes and tiles, with classes, slots and cores, and what Python costs.

    python benchmarks/scaling.py --output benchmarks/results [--json FILE] [--backend auto] [--folder DIR]

*Volumes*: `segment` on tomograms of noise of 512 × 512, of 8 to 128 slices (more where there are more slots), each time
in a process of its own: seconds from file to files without loading the model, and the peak of resident memory (VmHWM).
A line is fitted to the seconds, every point's relative deviation counting alike; `linear_in_voxels` is the largest.
*Tiles*: a pixel's time in the bare backend, on noise that lies in its slots. *Classes*: the same for networks like the
model but for the last layer, with random weights; volumes of so many classes are not written. *Slots*: the stream from
file to files. *Cores*: `segment`, in processes whose affinity is set to the first so many usable cores. *Python*: see
`scaling_overhead`; `python_overhead_fraction` is the most that the interpreter's bookkeeping can take for a slot, over
the time in which the bare backend, on all cores, labels one slot of 512 × 512.

Every figure is the median of rounds in which the sizes take turns. Linux alone has the affinity and VmHWM.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from measuring import argument_parser, save_results
from scaling_figures import draw, tables
from scaling_studies import FULL, QUICK, measure, segment_alone

from tomoscribe.engine import Bundle, default_bundle


def main() -> None:
    """Measure, print, draw and save."""
    parser = argument_parser(__doc__)
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder for scaling.md and scaling.png")
    parser.add_argument("--model", type=Path, default=default_bundle(), help="a bundle, with its checkpoint")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--folder", type=Path, help="where tomograms and outputs lie meanwhile")
    parser.add_argument("--alone", help="used by this script itself")
    arguments = parser.parse_args()
    if arguments.alone:
        segment_alone(json.loads(arguments.alone))
        return
    bundle = Bundle.load(arguments.model)
    extent = QUICK if arguments.quick else FULL
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        results, backend = measure(bundle, arguments.backend, extent, Path(folder))
    ratios = results.ratios()
    page = "\n\n".join(
        [
            "# How the cost grows",
            f"Made by `benchmarks/scaling.py`, whose docstring says what is measured: {bundle.specification.name}, "
            f"{backend}. Medians of {extent.rounds} rounds.",
            "![A panel for each study](scaling.png)",
            tables(results),
            "## Ratios\n\n" + "\n".join(f"- `{name}` {value:.4g}" for name, value in ratios.items()),
        ]
    )
    print(page)
    if arguments.output:
        arguments.output.mkdir(parents=True, exist_ok=True)
        (arguments.output / "scaling.md").write_text(page + "\n", encoding="utf-8")
        draw(results, arguments.output / "scaling.png")
    save_results(
        arguments.json,
        __file__,
        ratios,
        model=bundle.specification.name,
        backend=backend,
        rounds=extent.rounds,
        **results.to_json(),
    )


if __name__ == "__main__":
    main()

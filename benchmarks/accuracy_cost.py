"""How large a network? Accuracy on phantoms against the time that a voxel takes, for several widths and depths.

    python benchmarks/accuracy_cost.py DATASET --work FOLDER [--output benchmarks/results] [--json FILE]

DATASET is the bundled model's (``tomoscribe dataset build train/recipes/bundled-dataset.yaml``). The networks of
`accuracy_cost_networks.STRUCTURES` are trained on it from nothing, all of them equally long and as the bundled model
but for the length (`--steps`, `--batch-size`, `--crop`); the first is trained again with another seed, which says by
how much chance alone moves a point. They can be compared with each other, and not with the bundled model, whose own
training was longer. `--work` keeps the trainings, and the same command goes on where they stopped: ``--only train``
does no more, and ``--only measure`` measures what is there; a network whose training is not finished has a cost alone.

*Accuracy* is the mean Dice of the classes over all voxels of the test split, which is phantoms that neither training
nor the choice of checkpoints saw. *Time* is that of ONNX Runtime in FP32 on whole slices in memory, each network in
every round; a ratio to the bundled model is the median of the rounds'. *Operations* are those of the convolutions, a
multiplication and an addition counted as two. The bundled model is measured as it is, averaged over flips (test-time
augmentation), and in BF16 where OpenVINO and a processor that has it are there.

Last, the bundled network is written in other ways that give the same labels (`accuracy_cost_rewriting`), and timed.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from accuracy_cost_candidates import BUNDLED, bundled_models, trained_models
from accuracy_cost_models import Model, differences, judge, operations, parameters, seconds, write_bundle
from accuracy_cost_networks import STRUCTURES, Structure
from accuracy_cost_report import Rewriting, Row, draw, front, tables
from accuracy_cost_rewriting import REWRITINGS
from accuracy_cost_training import Length, train, trainings
from convnet_studies import LabelledVolume, VolumeImages
from measuring import argument_parser, interleaved, ratio, save_results

from tomoscribe.engine.backends.onnxruntime import OnnxRuntimeBackend
from tomoscribe.engine.bundle import CHECKPOINT, Bundle, default_bundle
from tomoscribe.engine.intensity import sampled_slices
from tomoscribe.train.checkpoint import load_checkpoint
from tomoscribe.train.dataset.contract import LabelledImages
from tomoscribe.train.dataset.storage import open_dataset
from tomoscribe.train.phantom import PhantomParameters, make_phantom

# Images that rewritings are compared on.
COMPARED = 24


def quick_images() -> VolumeImages:
    """Return small phantoms, one a split."""
    phantoms = [make_phantom(PhantomParameters(shape=(8, 64, 64), seed=seed)) for seed in range(3)]
    volumes = [
        LabelledVolume(phantom.intensity, phantom.labels, phantom.parameters.voxel_size, {split: range(8)})
        for phantom, split in zip(phantoms, ("train", "dev", "test"), strict=True)
    ]
    return VolumeImages(phantoms[0].class_map, volumes)


def measure_rewritings(
    bundle: Bundle, images: LabelledImages, folder: Path, time: Callable[[Model], float], rounds: int
) -> list[Rewriting]:
    """Measure the bundled network as it is and as `REWRITINGS` have it.

    Args:
        bundle: the bundled model.
        images: what labels are compared on.
        folder: of the rewritten bundles.
        time: returns the seconds of a model.
        rounds: how often.
    """
    checkpoint = load_checkpoint(bundle.artifact_path(CHECKPOINT))
    network, specification = checkpoint.network, checkpoint.specification
    models = []
    for number, (title, rewrite) in enumerate({"nothing changed": lambda same: same, **REWRITINGS}.items()):
        rewritten = rewrite(network).eval()
        written = write_bundle(rewritten, specification, folder / f"rewriting{number}")
        models.append(Model(title, written, OnnxRuntimeBackend, parameters(rewritten), operations(rewritten)))
    figures = interleaved({model.title: partial(time, model) for model in models}, rounds)
    numbers = images.numbers("test")
    numbers = numbers[sampled_slices(0, len(numbers), COMPARED)]
    plain = models[0]
    return [
        Rewriting(
            model.title,
            model.operations,
            ratio(figures[model.title], figures[plain.title]),
            *differences(model, plain, images, numbers),
        )
        for model in models
    ]


def measure(
    images: LabelledImages,
    structures: Sequence[Structure],
    length: Length,
    work: Path,
    *,
    side: int,
    slices: int,
    rounds: int,
) -> tuple[list[Row], list[Rewriting]]:
    """Judge and time everything.

    Args:
        images: the dataset.
        structures: the networks.
        length: of their trainings.
        work: of the trainings.
        side: height and width of the slices that are timed.
        slices: how many a round.
        rounds: how often.
    """
    bundle = Bundle.load(default_bundle())
    time = partial(seconds, side=side, slices=slices)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        models = [*trained_models(images, structures, length, work, folder), *bundled_models(bundle, folder)]
        figures = interleaved({model.title: partial(time, model) for model in models}, rounds)
        rewritings = measure_rewritings(bundle, images, folder, time, rounds)
        rows = []
        for model in models:
            dice = mean = None
            if model.trained:
                print(f"judging {model.title}", flush=True)
                counted = judge(model, images, images.numbers("test"))
                values = np.nan_to_num(counted.dice())
                dice = {c.name: float(values[c.number]) for c in images.class_map.classes}
                mean = float(np.nan_to_num(counted.mean_dice()))
            rows.append(
                Row(
                    model.title,
                    model.structure,
                    model.again,
                    model.parameters,
                    model.operations,
                    figures[model.title],
                    ratio(figures[model.title], figures[BUNDLED]),
                    dice,
                    mean,
                )
            )
    return rows, rewritings


def page(rows: Sequence[Row], rewritings: Sequence[Rewriting], length: Length, words: str, picture: str) -> str:
    """Return the report in Markdown."""
    bundle = Bundle.load(default_bundle())
    own = bundle.training["settings"]
    bundled = Structure(own["base_width"], own["depth"]).title
    return "\n".join(
        [
            "# Accuracy against cost",
            "",
            f"Made by `python benchmarks/accuracy_cost.py {words}`; its docstring states the protocol.",
            "",
            f"**The trainings are short and equal**: every network, from nothing, {length.steps:,} steps of "
            f"{length.batch_size} crops of {length.crop} × {length.crop}, all else as the bundled model's. They rank "
            "structures; none of them is the bundled model, which has "
            f"{own['steps']:,} steps of {own['batch_size']} crops of {own['crop']} × {own['crop']} behind it and is "
            "the star. How far a point moves by chance is the distance to its repetition with another seed.",
            "",
            f"![Mean Dice against time and operations]({picture})",
            "",
            "*Time* is the bundled model's in ONNX Runtime FP32 = 1. Dice is over all voxels of the test split.",
            "",
            *tables(rows, rewritings, bundled),
            "",
        ]
    )


def ratios(rows: Sequence[Row], rewritings: Sequence[Rewriting]) -> dict[str, float]:
    """Return the times as ratios, by name."""
    others = {row.title.removeprefix(f"{BUNDLED}, "): row.cost for row in rows if row.title != BUNDLED}
    found = {f"time_over_bundled {title}": cost for title, cost in others.items()}
    found |= {f"time_over_as_it_is {rewriting.title}": rewriting.time for rewriting in rewritings[1:]}
    return {re.sub(r"\W+", "_", name).strip("_"): value for name, value in found.items()}


def main() -> None:
    """Train what is not trained yet, measure, draw and save."""
    parser = argument_parser(__doc__)
    parser.add_argument("dataset", type=Path, nargs="?", help="quick: small phantoms of its own")
    parser.add_argument("--work", type=Path, help="folder of the trainings")
    parser.add_argument("--only", choices=("train", "measure"))
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--slices", type=int, default=8, help="of 512 × 512, in a round")
    parser.add_argument("--output", type=Path, help="folder for page and plot")
    arguments = parser.parse_args()
    if not arguments.quick and not (arguments.dataset and arguments.work):
        parser.error("expected DATASET and --work FOLDER, or --quick")
    with tempfile.TemporaryDirectory() as temporary:
        if arguments.quick:
            images, structures = quick_images(), (Structure(2, 2), Structure(4, 2, strided=True))
            length, work = Length(4, 2, 32, 2), Path(temporary)
            timed = {"side": 128, "slices": 2, "rounds": 1}
        else:
            images, structures = open_dataset(arguments.dataset), STRUCTURES
            multiple = 2 ** max(structure.depth for structure in structures)
            if images.tile % multiple:
                parser.error(f"expected a dataset whose images are a multiple of {multiple} wide, found {images.tile}")
            length, work = Length(arguments.steps, arguments.batch_size, arguments.crop, 64), arguments.work
            timed = {"side": 512, "slices": arguments.slices, "rounds": arguments.rounds}
        if arguments.only != "measure":
            for structure, seed, folder in trainings(structures, work):
                train(images, structure, length, folder, seed=seed)
        if arguments.only == "train":
            return
        rows, rewritings = measure(images, structures, length, work, **timed)
    words = "--quick" if arguments.quick else "dataset --work accuracy"
    picture = f"{Path(__file__).stem}.png"
    text = page(rows, rewritings, length, words, picture)
    print(text)
    if arguments.output:
        arguments.output.mkdir(parents=True, exist_ok=True)
        draw(rows, arguments.output / picture)
        (arguments.output / picture).with_suffix(".md").write_text(text, encoding="utf-8")
    save_results(
        arguments.json,
        __file__,
        ratios(rows, rewritings),
        length=vars(length),
        networks=[row.to_json() for row in rows],
        front=[row.title for row in front(rows)],
        rewritings=[vars(rewriting) for rewriting in rewritings],
        **timed,
    )


if __name__ == "__main__":
    main()

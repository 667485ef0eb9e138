"""The U-Net beside EMAN2's convolutional network: the same data, the same time, the same machine.

    python benchmarks/convnet_comparison.py DATASET --work FOLDER [--steps 1200 | --run RUN] [--labelled FOLDER]

DATASET is a dataset of phantoms (``tomoscribe dataset build``, `tiles.context` 2 or more). Both learn from its train
split and choose on its dev split: the U-Net its checkpoint, EMAN2's networks their thresholds. Both are judged on new
phantoms, the same samples imaged at several signal-to-noise ratios. `--labelled` names a folder with DeepFinder's
simulated tomograms and DLCryoTomo's hand-drawn membranes, which are not part of tomoscribe. There the U-Net is
fine-tuned, as a lab with a few labelled slices would do it: it starts from the weights of `--start`, which have learnt
from phantoms; EMAN2's networks, which have no such thing, start from nothing.

The U-Net is trained by `tomoscribe.train.fit.fit` for `--steps`, or is that of a finished run of `tomoscribe train` on
DATASET (`--run`), whose log has its time by the clock; all cores are taken to have been busy. EMAN2 has one network for
each feature; the time that the U-Net took, with reading and validation, is given to them twice over: in equal parts to
all of them together, and wholly to each, which in sum is as many times more as there are features. They have it by the
clock and in seconds of all cores together, whichever takes longer, so that what else the machine does cannot shorten
it. Drawing and filtering their tiles takes nothing from it. `eman2_convnet` says what else is in their favour.

The folder of `--work` keeps every network and figure as it is done, and the same command goes on from there.

    --steps 10 --labelled-steps 5 --tiles 200 --levels 0.06 1.2 --phantoms 1 --slices 2    shows that it runs
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from convnet_judging import Judge, all_scores
from convnet_report import write_report
from convnet_studies import Study, deepfinder_study, membrane_studies, phantom_study
from convnet_unet import run_settings, take_unet, train_unet
from eman2_convnet import Budget, Convnet, ConvnetTraining, choose_thresholds, train
from eman2_tiles import CONTEXT, draw_tiles
from numpy.typing import NDArray

from tomoscribe.engine.bundle import Bundle, default_bundle
from tomoscribe.engine.errors import ParameterError
from tomoscribe.engine.replacing import replacing
from tomoscribe.train.dataset.contract import IGNORE
from tomoscribe.train.evaluation.predictors import CheckpointPredictor
from tomoscribe.train.settings import TrainingSettings
from tomoscribe.train.yaml_file import read_yaml

TOGETHER, EACH = "EMAN2, same time together", "EMAN2, same time each"
_THRESHOLD_PIXELS = 1_000_000


@dataclass(frozen=True)
class Plan:
    """What decides the figures of a study; a folder of work belongs to one plan.

    Attributes:
        steps: of the U-Net.
        shares: of the time that these take, what EMAN2's networks get: `TOGETHER`, `EACH`, or one after the other.
        dev_images: images of the dev split that thresholds are chosen on.
        training: EMAN2's networks' training.
        data: what is judged on.
    """

    steps: int
    shares: tuple[str, ...]
    dev_images: int
    training: ConvnetTraining
    data: list[Any]


def run_study(study: Study, plan: Plan, folder: Path, run: Path | None = None) -> None:
    """Train and judge all networks of a study, as far as that is not done yet.

    Args:
        study: what on.
        plan: how.
        folder: of networks and figures.
        run: of the U-Net, if it is not to be trained.

    Raises:
        ParameterError: the folder belongs to another plan.
    """
    folder.mkdir(parents=True, exist_ok=True)
    about = {
        "group": study.group,
        "classes": study.images.class_map.to_json(),
        "voxels": study.images.counts.sum(axis=0).tolist(),
        "plan": asdict(plan),
        "settings": study.settings.model_dump(mode="json"),
    }
    if study.start:
        about["start"] = Bundle.load(study.start).specification.name
    expected = json.loads(json.dumps(about))
    if _read(folder / "study.json", expected) != expected:
        raise ParameterError(f"{folder}: holds figures of other settings or data; choose another --work")
    _write(folder / "study.json", expected)
    unet = _prepare_unet(study, plan, folder, run)
    _train_convnets(study, plan, folder, unet)
    networks = _load_convnets(study, plan, folder)
    thresholds = _choose_thresholds(study, plan, folder, networks)
    with CheckpointPredictor(folder / "unet" / "best.safetensors", study.images.tile) as predictor:
        for number, (name, make_images) in enumerate(study.tests.items()):
            path = folder / f"judged_{name}.json"
            if not path.is_file():
                _say(study, f"judging on {name}")
                judge = Judge(predictor, networks, thresholds, make_images())
                if number == 0:
                    judge.save_example(folder / "example.npz")
                _write(path, {"order": number, "confusion": judge.confusion()})


def _prepare_unet(study: Study, plan: Plan, folder: Path, run: Path | None) -> dict[str, Any]:
    """Train the U-Net, or take that of a run, and return what its training took."""
    path = folder / "unet.json"
    if not path.is_file():
        _say(study, f"the U-Net, {plan.steps} steps" + (f" of {run}" if run else ""))
        place = folder / "unet"
        training = take_unet(run, place) if run else train_unet(study, plan.steps, plan.training.seed, place)
        _write(path, training.to_json())
    return dict(_read(path))


def _train_convnets(study: Study, plan: Plan, folder: Path, unet: Mapping[str, float]) -> None:
    """Train EMAN2's networks, one for each class, for the time that the U-Net took."""
    classes = study.images.class_map.classes
    whole = Budget(unet["seconds"], unet["core_seconds"])
    budgets = {TOGETHER: whole.part(1 / len(classes)), EACH: whole}
    for label_class in classes:
        path = folder / f"convnet_{label_class.number}.safetensors"
        if path.is_file():
            continue
        _say(study, f"EMAN2's network for {label_class.name}")
        tiles = draw_tiles(study.images, label_class.number, plan.training.tiles, plan.training.seed)
        trained = train(tiles, plan.training, [budgets[share] for share in plan.shares], _device())
        facts = {
            share: {
                "steps": result.steps,
                "samples": result.steps * plan.training.batch_size,
                **asdict(result.used),
            }
            for share, result in zip(plan.shares, trained, strict=True)
        }
        tensors = {
            f"{share}/{name}": tensor
            for share, result in zip(plan.shares, trained, strict=True)
            for name, tensor in result.weights.items()
        }
        with replacing(path) as temporary:
            safetensors.torch.save_file(tensors, temporary, metadata={"facts": json.dumps(facts)})


def _load_convnets(study: Study, plan: Plan, folder: Path) -> dict[str, list[Convnet]]:
    """Return EMAN2's networks by share of time, in the order of the classes, and write what they took."""
    networks: dict[str, list[Convnet]] = {share: [] for share in plan.shares}
    took: dict[str, list[Any]] = {share: [] for share in plan.shares}
    for label_class in study.images.class_map.classes:
        path = folder / f"convnet_{label_class.number}.safetensors"
        tensors = safetensors.torch.load_file(path)
        with safetensors.safe_open(path, framework="pt") as file:
            facts = json.loads(file.metadata()["facts"])
        for share in plan.shares:
            network = Convnet().to(_device())
            network.load_state_dict({name: tensors[f"{share}/{name}"] for name in network.state_dict()})
            networks[share].append(network.eval())
            took[share].append(facts[share])
    _write(folder / "convnets.json", took)
    return networks


def _choose_thresholds(
    study: Study, plan: Plan, folder: Path, networks: dict[str, list[Convnet]]
) -> dict[str, NDArray[np.float64]]:
    """Return for each share of time the thresholds that suit the dev split best."""
    path = folder / "thresholds.json"
    if not path.is_file():
        _say(study, "thresholds of EMAN2's networks")
        numbers = study.images.numbers("dev")
        step = -(-len(numbers) // plan.dev_images)
        truths: list[NDArray[np.uint8]] = []
        scores: dict[str, list[NDArray[np.float32]]] = {share: [] for share in networks}
        random = np.random.default_rng(plan.training.seed)
        for number in numbers[::step]:
            slices, truth = study.images.read(int(number), CONTEXT)
            known = np.flatnonzero(truth != IGNORE)
            chosen = random.permutation(known)[: _THRESHOLD_PIXELS // len(numbers[::step])]
            truths.append(truth.ravel()[chosen])
            for share, found in all_scores(networks, slices):
                scores[share].append(found.reshape(len(found), -1)[:, chosen])
        truth = np.concatenate(truths)
        chosen_by_share = {s: choose_thresholds(np.concatenate(parts, axis=1), truth) for s, parts in scores.items()}
        _write(path, {share: list(values) for share, values in chosen_by_share.items()})
    return {share: np.array(values) for share, values in _read(path).items()}


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _read(path: Path, default: Any = None) -> Any:  # noqa: ANN401 - JSON
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else default


def _write(path: Path, content: object) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _say(study: Study, what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {study.name}: {what}", flush=True)


def main() -> None:
    """Run what is not done yet and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--work", type=Path, required=True, help="folder for networks and figures")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--steps", type=int, default=1200, help="of the U-Net on phantoms")
    parser.add_argument("--settings", type=Path, help="its other settings, as `tomoscribe train` takes them")
    parser.add_argument("--run", type=Path, help="finished run of `tomoscribe train` that the U-Net is taken from")
    parser.add_argument("--share", choices=("together", "each", "both"), default="both", help="of EMAN2's networks")
    parser.add_argument("--levels", type=float, nargs="+", default=[0.06, 0.12, 0.3, 0.6, 1.2])
    parser.add_argument("--phantoms", type=int, default=8, help="at each level")
    parser.add_argument("--slices", type=int, default=4, help="of each phantom")
    parser.add_argument("--tiles", type=int, default=ConvnetTraining.tiles, help="that EMAN2's networks learn from")
    parser.add_argument("--dev-images", type=int, default=32, help="that their thresholds are chosen on")
    parser.add_argument(
        "--learning-rate", type=float, default=ConvnetTraining.learning_rate, help="of EMAN2's networks"
    )
    parser.add_argument("--labelled", type=Path, help="folder with simulated/ and real/membrane_slices/")
    parser.add_argument("--labelled-steps", type=int, default=300, help="of the U-Net on each of these")
    parser.add_argument("--start", type=Path, default=default_bundle(), help="bundle that it starts from there")
    arguments = parser.parse_args()
    if arguments.run:
        settings = run_settings(arguments.run, arguments.dataset)
    else:
        settings = read_yaml(arguments.settings, TrainingSettings) if arguments.settings else TrainingSettings()
    studies = [phantom_study(arguments.dataset, settings, arguments.levels, arguments.phantoms, arguments.slices)]
    if arguments.labelled:
        studies.append(deepfinder_study(arguments.labelled / "simulated", arguments.start))
        studies += membrane_studies(arguments.labelled / "real" / "membrane_slices", arguments.start)
    shares = {"together": (TOGETHER,), "each": (EACH,), "both": (TOGETHER, EACH)}[arguments.share]
    for study in studies:
        on_phantoms = study is studies[0]
        steps = settings.steps if arguments.run else arguments.steps
        plan = Plan(
            steps=steps if on_phantoms else arguments.labelled_steps,
            # One class has all the time either way.
            shares=shares if len(study.images.class_map) > 1 else (EACH,),
            dev_images=arguments.dev_images,
            training=ConvnetTraining(arguments.tiles, learning_rate=arguments.learning_rate),
            data=[arguments.levels, arguments.phantoms, arguments.slices] if on_phantoms else [],
        )
        run_study(study, plan, arguments.work / study.name, arguments.run if on_phantoms else None)
    print(write_report([arguments.work / study.name for study in studies], arguments.output))


if __name__ == "__main__":
    main()

"""How fast training is: from a dataset on disk against batches that lie ready in memory, and what augmentation costs.

    python benchmarks/training_throughput.py --output benchmarks/results [--dataset DATASET]

Three loops train the same network with the same optimiser on the same device: on one batch that lies ready in memory;
on crops that are read from a dataset, as `tomoscribe train` reads them; and with augmentation too. A round runs each
for some steps, in an order that turns from round to round, so that what else the machine does hits all alike; each
figure is the median of the rounds' ratios. Without `--dataset` one is written: noise, tiles of 512×512, which takes as
long to read as a real one or longer, because noise cannot be compressed.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import mrcfile
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from tomoscribe.train.augmentation import apply_variations
from tomoscribe.train.dataset.build import build_dataset
from tomoscribe.train.dataset.contract import LabelledImages
from tomoscribe.train.dataset.storage import open_dataset
from tomoscribe.train.loss import SegmentationLoss
from tomoscribe.train.sampling import CropSampler, StepNumbers
from tomoscribe.train.settings import AugmentationSettings
from tomoscribe.train.start import new_network
from tomoscribe.train.task import collate
from tomoscribe.train.unet import UNetConfiguration
from tomoscribe.train.variation import draw_variation

OFF = {
    "flips": False,
    "turns": False,
    "mirror_z": False,
    "repeat_share": 0,
    "warp_share": 0,
    "fourier_share": 0,
    "wedge_share": 0,
    "contrast": 0,
    "brightness": 0,
    "noise": 0,
}
PARTS = {
    "flips, turns, reversed z": ("flips", "turns", "mirror_z"),
    "angles and scale": ("warp_share",),
    "Fourier amplitudes": ("fourier_share",),
    "missing wedge": ("wedge_share",),
    "contrast and brightness": ("contrast", "brightness"),
    "noise": ("noise",),
}
RECIPE = """
name: noise
tiles: {size: 512, background: all, context: 1}
split: {by: image}
trim: none
sources: [{tomograms: noise*.mrc, labels: "labels/{tomogram}.mrc"}]
"""


def write_dataset(folder: Path, slices: int) -> Path:
    """Build a dataset of noise in which every class is in every slice."""
    (folder / "labels").mkdir(parents=True)
    random = np.random.default_rng(0)
    intensity = random.normal(0, 1, (slices, 1024, 1024)).astype(np.float32)
    labels = np.kron(random.integers(0, 6, (slices, 16, 16)), np.ones((1, 64, 64))).astype(np.int8)
    for path, values in ((folder / "noise.mrc", intensity), (folder / "labels" / "noise.mrc", labels)):
        with mrcfile.new(path) as file:
            file.set_data(values)
            file.voxel_size = 10
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    build_dataset(folder / "recipe.yaml", folder / "dataset")
    return folder / "dataset"


class Trainer:
    """Trains one network by any of the ways of feeding it."""

    def __init__(self, images: LabelledImages, arguments: argparse.Namespace) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.batch_size = arguments.batch_size
        size = UNetConfiguration(len(images.class_map) + 1, context=1, depth=4, base_width=arguments.base_width)
        network = new_network(size, seed=0).to(self.device, memory_format=torch.channels_last)
        self.network = network
        self.loss = SegmentationLoss()
        self.optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4)
        self.workers = arguments.workers
        self.crops = CropSampler(images, crop=arguments.crop, foreground_share=0.5, context=1, seed=0)
        self.ready = collate([self.crops[number] for number in range(self.batch_size)])
        self.batches = self.load()

    def load(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Read crops as `tomoscribe.train.fit` does."""
        loader = DataLoader(
            self.crops,
            batch_sampler=StepNumbers(self.batch_size, 0, 10**9),
            collate_fn=collate,
            num_workers=self.workers,
            pin_memory=self.device.type == "cuda",
            multiprocessing_context="spawn" if self.workers else None,
        )
        return iter(loader)

    def step(self, slices: Tensor, labels: Tensor) -> None:
        """Do one step of the optimiser, in bf16."""
        slices = slices.to(self.device).contiguous(memory_format=torch.channels_last)
        self.optimizer.zero_grad()
        with torch.autocast(self.device.type, torch.bfloat16):
            logits = self.network(slices)
        self.loss(logits.float(), labels.to(self.device).long()).backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()

    def from_memory(self) -> None:
        """Train on the batch that lies ready."""
        self.step(*self.ready[1:])

    def from_disk(self) -> None:
        """Train on crops from the dataset."""
        self.step(*next(self.batches)[1:])

    def augmented(self) -> None:
        """Train on crops from the dataset, varied on the device."""
        numbers, slices, labels = next(self.batches)
        variations = [draw_variation(AugmentationSettings(), 0, number) for number in numbers.tolist()]
        slices, labels = slices.to(self.device), labels.to(self.device)
        self.step(*apply_variations(slices, labels, variations, (0, int(numbers[0]))))

    def seconds(self, work: Callable[[], None], count: int) -> float:
        """Return how long one call takes."""
        start = time.perf_counter()
        for _ in range(count):
            work()
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - start) / count


def measure_feeding(trainer: Trainer, rounds: int, steps: int) -> list[str]:
    """Return the lines of the table of the three loops."""
    loops = {
        "batches ready in memory": trainer.from_memory,
        "crops from disk": trainer.from_disk,
        "crops from disk, augmented": trainer.augmented,
    }
    for loop in loops.values():
        trainer.seconds(loop, 2)
    names = list(loops)
    found: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        order = names[number % 3 :] + names[: number % 3]
        for name in order:
            found[name].append(trainer.seconds(loops[name], steps))
    lines = ["| fed with | crops a second | of the first |", "|---|---|---|"]
    for name in names:
        ratios = [ready / taken for ready, taken in zip(found[names[0]], found[name], strict=True)]
        rate = trainer.batch_size / statistics.median(found[name])
        lines.append(f"| {name} | {rate:.1f} | {statistics.median(ratios):.3f} |")
    return lines


def measure_augmentation(trainer: Trainer, rounds: int) -> list[str]:
    """Return the lines of the table of what each part of the augmentation takes of a training step."""
    numbers, slices, labels = trainer.ready
    slices, labels = slices.to(trainer.device), labels.to(trainer.device)
    defaults = AugmentationSettings().model_dump()
    kinds = {"nothing (a copy)": AugmentationSettings(**OFF)}
    kinds |= {name: AugmentationSettings(**{**OFF, **{k: defaults[k] for k in keys}}) for name, keys in PARTS.items()}
    kinds["everything"] = AugmentationSettings()
    first = 0

    def vary(settings: AugmentationSettings) -> None:
        nonlocal first
        first += len(numbers)
        variations = [draw_variation(settings, 0, first + n) for n in range(len(numbers))]
        apply_variations(slices, labels, variations, (0, first))

    found: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(rounds):
        step = trainer.seconds(trainer.from_memory, 2)
        for name, settings in kinds.items():
            found[name].append(trainer.seconds(lambda settings=settings: vary(settings), 10) / step)
    lines = ["| augmentation | share of a training step |", "|---|---|"]
    return lines + [f"| {name} | {statistics.median(shares):.2%} |" for name, shares in found.items()]


def main() -> None:
    """Measure, print and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of training_throughput.md")
    parser.add_argument("--dataset", type=Path, help="one that tomoscribe dataset build wrote")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=5, help="steps of each loop in a round")
    parser.add_argument("--slices", type=int, default=24, help="of the dataset of noise")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--crop", type=int, default=256)
    parser.add_argument("--base-width", type=int, default=16)
    parser.add_argument("--workers", type=int, default=0, help="processes that read crops")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        dataset = arguments.dataset or write_dataset(Path(folder) / "noise", arguments.slices)
        trainer = Trainer(open_dataset(dataset), arguments)
        feeding = measure_feeding(trainer, arguments.rounds, arguments.steps)
        augmentation = measure_augmentation(trainer, arguments.rounds)
    on_gpu = trainer.device.type == "cuda"
    device = torch.cuda.get_device_name() if on_gpu else f"{os.cpu_count()} CPUs ({platform.machine()})"
    report = [
        "# Throughput of training",
        "",
        f"`benchmarks/training_throughput.py`: U-Net of base width {arguments.base_width} and depth 4, context 1, "
        f"batches of {arguments.batch_size} crops of {arguments.crop}×{arguments.crop}, bf16, {arguments.workers} "
        f"reading processes, on {device}, PyTorch {torch.__version__}; medians of {arguments.rounds} rounds of "
        f"{arguments.steps} steps.",
        "",
        *feeding,
        "",
        *augmentation,
    ]
    arguments.output.mkdir(parents=True, exist_ok=True)
    text = "\n".join(report) + "\n"
    (arguments.output / "training_throughput.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()

"""PyTorch on the same network: eager, compiled, through MONAI's sliding windows; and the peak of matrix products."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import mrcfile
import numpy as np
import torch
from gpu_child import Note, in_turns
from gpu_setup import network_folder, noise
from peers_torch import OVERLAP, WINDOW
from torch import Tensor

from tomoscribe.engine import Bundle, open_tomogram
from tomoscribe.engine.bundle import CHECKPOINT
from tomoscribe.engine.intensity import measure_intensity
from tomoscribe.train.checkpoint import load_checkpoint

__all__ = ["peak", "torch_peers"]

# Slices at a time; of 960 × 960, a slot of tomoscribe's holds as many.
BATCH = 4
# As in MONAI's tutorials; its default is 1.
WINDOWS_AT_ONCE = 4
_DTYPES = {"fp16": torch.float16, "fp32": torch.float32}
_PRODUCTS, _ROUNDS = 20, 5


class Peer:
    """PyTorch as a user's script would run it: a batch of whole slices after the other, channels last.

    Args:
        run: the network, which takes ``(n, 2k + 1, h, w)``.
        context: k.
        device: of PyTorch.
        dtype: of the precision.
    """

    def __init__(self, run: Callable[[Tensor], Any], context: int, device: torch.device, dtype: torch.dtype) -> None:
        self._run = run
        self._context = context
        self._device = device
        self._dtype = dtype

    @torch.no_grad()
    def file_to_file(self, tomogram: Path, output: Path) -> float:
        """Return the seconds from a tomogram's file to that of its labels."""
        start = time.perf_counter()
        with open_tomogram(tomogram) as opened:
            statistics = measure_intensity(opened)
        with mrcfile.mmap(tomogram) as file:
            volume, voxel_size = file.data, file.voxel_size
            labels = np.empty(volume.shape, np.int8)
            for first in range(0, len(volume), BATCH):
                around = np.arange(first - self._context, first + BATCH + self._context).clip(0, len(volume) - 1)
                slices = torch.from_numpy(volume[around]).to(self._device)
                found = self._label((slices - statistics.mean) / statistics.standard_deviation)
                labels[first : first + BATCH] = found[: len(volume) - first].cpu().numpy()
        with mrcfile.new(output, labels, overwrite=True) as file:
            file.voxel_size = voxel_size
        return time.perf_counter() - start

    @torch.no_grad()
    def in_memory(self, shape: Sequence[int]) -> float:
        """Return the seconds for as many slices as a volume has where they lie on the device, normalised."""
        depth, height, width = shape
        slices = torch.randn(BATCH + 2 * self._context, height, width, device=self._device)
        turns = -(-depth // BATCH)
        self._wait()
        start = time.perf_counter()
        for _ in range(turns):
            self._label(slices)
        self._wait()
        return (time.perf_counter() - start) * depth / (turns * BATCH)

    def _label(self, slices: Tensor) -> Tensor:
        stacked = slices.unfold(0, 2 * self._context + 1, 1).permute(0, 3, 1, 2)
        batch = stacked.to(dtype=self._dtype, memory_format=torch.channels_last)
        return self._run(batch).argmax(1).to(torch.int8)

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def torch_peers(
    note: Note,
    work: Path,
    *,
    shape: Sequence[int],
    width: int,
    rounds: int,
    device: str,
    precision: str,
    compiles: bool,
) -> None:
    """Time a volume of float32 with PyTorch, from file to file and in memory, in turns.

    Args:
        note: is told what was found.
        work: folder of networks and tomograms.
        shape: of the volume, ``(z, y, x)``.
        width: base width of the network.
        rounds: how often.
        device: as ``--device`` has it.
        precision: ``fp16`` or ``fp32``, in which then all weights and values are.
        compiles: whether `torch.compile` is tried as well.
    """
    place, dtype = _device(device), _DTYPES[precision]
    torch.backends.cudnn.benchmark = True
    trained = load_checkpoint(Bundle.load(network_folder(work, width)).artifact_path(CHECKPOINT))
    network: Any = trained.network.to(place, dtype, memory_format=torch.channels_last)
    path, output = noise(work, shape), work / "torch.mrc"
    note(kind="subject", torch=torch.__version__, precision=precision, batch=BATCH)
    for name, make in _ways(network, compiles).items():
        try:
            peer = Peer(make(), trained.specification.context, place, dtype)
        except ImportError as error:
            note(kind="left out", name=name, reason=str(error))
            continue
        start = time.perf_counter()
        peer.in_memory((BATCH, *shape[1:]))  # which compiles, and has cuDNN choose
        note(kind="seconds", name=f"{name} first", seconds=time.perf_counter() - start)
        runs = {
            f"{name} memory": partial(peer.in_memory, shape),
            f"{name} files": partial(peer.file_to_file, path, output),
        }
        peer.file_to_file(path, output)
        in_turns(note, runs, rounds)


def peak(note: Note, _work: Path, *, device: str, size: int) -> None:
    """Measure the operations a second of one product of two square matrices, the median of several timings.

    Args:
        note: is told what was found.
        _work: not used.
        device: as ``--device`` has it.
        size: rows and columns.
    """
    place = _device(device)
    # TF32 is another precision.
    torch.backends.cuda.matmul.allow_tf32 = False
    for precision, dtype in _DTYPES.items():
        # Of zeros a product is faster than of numbers.
        left, right = (torch.randn(size, size, device=place).to(dtype) for _ in range(2))
        taken = []
        for _ in range(1 + _ROUNDS):
            _wait_for(place)
            start = time.perf_counter()
            for _ in range(_PRODUCTS):
                torch.matmul(left, right)
            _wait_for(place)
            taken.append((time.perf_counter() - start) / _PRODUCTS)
        note(kind="peak", precision=precision, operations_per_second=2 * size**3 / median(taken[1:]))


def _ways(network: Any, compiles: bool) -> dict[str, Callable[[], Callable[[Tensor], Any]]]:  # noqa: ANN401
    """Return how the network can be run, each made when it is its turn."""

    def compiled() -> Callable[[Tensor], Any]:
        from torch._inductor import config

        config.freezing = True  # batch normalisation and weights are folded in
        return torch.compile(network)

    def windows() -> Callable[[Tensor], Any]:
        from monai.inferers import SlidingWindowInferer

        return partial(SlidingWindowInferer((WINDOW, WINDOW), WINDOWS_AT_ONCE, OVERLAP), network=network)

    ways = {"eager": lambda: network, "monai": windows}
    return {**ways, "compiled": compiled} if compiles else ways


def _device(device: str) -> torch.device:
    return torch.device("cpu") if device == "cpu" else torch.device("cuda", int(device))


def _wait_for(place: torch.device) -> None:
    if place.type == "cuda":
        torch.cuda.synchronize(place)

"""What the parts of `gpu.py` find here, and what they work on: networks, noise and phantoms, made once."""

from __future__ import annotations

import importlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path

from gpu_child import Note
from measuring import write_noise

from tomoscribe.engine import Segmenter, default_bundle
from tomoscribe.engine.bundle import CHECKPOINT, Artifact, Bundle, ModelSpecification
from tomoscribe.engine.cores import usable_cores
from tomoscribe.engine.cuda.bindings import CudaBindingsDriver
from tomoscribe.engine.cuda.pycuda import PycudaDriver
from tomoscribe.engine.machine import read_driver
from tomoscribe.engine.replacing import replacing

__all__ = ["LIBRARIES", "bundled", "examine", "network_folder", "noise", "phantoms", "prepare"]

PACKAGES = (
    "tomoscribe",
    "numpy",
    "tensorrt",
    "tensorrt-cu13",
    "tensorrt-cu12",
    "onnxruntime-gpu",
    "onnxruntime",
    "openvino",
    "pycuda",
    "cuda-bindings",
    "torch",
    "triton",
    "monai",
)
LIBRARIES = {"pycuda": PycudaDriver, "cuda.bindings": CudaBindingsDriver}
"""What calls CUDA's driver, by the names of the packages."""

_PHANTOMS = 2
_DISK_BYTES = 2**28


def examine(note: Note, work: Path, *, backends: Sequence[str], precision: str, device: str) -> None:
    """Say what is here: GPU, versions, how fast files are written, and of everything that parts need, why it is not.

    Args:
        note: is told what was found.
        work: where files are written.
        backends: of tomoscribe, that may be here.
        precision: in which they are to run.
        device: as ``--device`` has it.
    """
    driver = read_driver()
    note(
        kind="machine",
        gpus=[gpu.name for gpu in driver.gpus],
        driver=driver.version,
        cuda=driver.cuda,
        problem=driver.problem,
        versions=dict(_versions()),
        written_bytes_per_second=_disk_speed(work),
    )
    found = [_look(note, library, start) for library, start in LIBRARIES.items()]
    if device != "cpu" and not driver.gpus and not any(found):
        return  # without a GPU nothing else matters

    def load(backend: str) -> None:
        Segmenter(default_bundle(), backend=backend, precision=precision, device=device).close()

    for backend in backends:
        _look(note, backend, partial(load, backend))
    # After the backends: it brings libraries with it, which they have to find themselves.
    _look(note, "torch", partial(_import_torch, device))
    _look(note, "monai", partial(_find, "monai"))
    _look(note, "pytest", partial(_import, "pytest", "hypothesis"))
    _look(note, "export", partial(_import, "torch", "safetensors", "onnx", "onnxscript"))


def prepare(
    note: Note,
    work: Path,
    *,
    shape: Sequence[int],
    widths: Sequence[int],
    depth: int,
    phantom: Sequence[int],
) -> None:
    """Make what the other parts work on, several at a time; what is there already is kept.

    Args:
        note: is told of what is ready.
        work: where it is put.
        shape: of the tomograms of noise, ``(z, y, x)``.
        widths: base widths of the networks.
        depth: of the networks.
        phantom: shape of the phantoms.
    """
    jobs: list[tuple[Callable[..., object], tuple[object, ...]]] = [(noise, (work, shape)), (phantoms, (work, phantom))]
    jobs += [(_make_network, (work, width, depth)) for width in widths]
    with ProcessPoolExecutor(min(len(jobs), usable_cores()), get_context("spawn")) as pool:
        for done in as_completed([pool.submit(make, *arguments) for make, arguments in jobs]):
            done.result()
    from roofline import operations_per_voxel

    for width in widths:
        bundle = Bundle.load(network_folder(work, width))
        note(kind="network", width=width, operations=operations_per_voxel(bundle.artifact_path("fp32")))


def network_folder(work: Path, width: int) -> Path:
    """Return where the bundle of a base width is."""
    return work / f"unet-{width}"


def bundled(work: Path) -> Path:
    """Return a copy of the bundled model, into which plans may be written."""
    copy = work / "bundled"
    if not copy.exists():
        beside = copy.with_name(".bundled")
        shutil.rmtree(beside, ignore_errors=True)
        shutil.copytree(default_bundle(), beside)
        beside.rename(copy)
    return copy


def noise(work: Path, shape: Sequence[int], dtype: str = "float32") -> Path:
    """Return a tomogram of noise, made if it is not there."""
    path = work / f"noise-{dtype}-{'x'.join(map(str, shape))}.mrc"
    if not path.exists():
        with replacing(path) as temporary:
            depth, height, width = shape
            write_noise(temporary, (depth, height, width), dtype)
    return path


def phantoms(work: Path, shape: Sequence[int]) -> list[Path]:
    """Return phantoms that the bundled model was trained for, made if they are not there."""
    from tomoscribe.train.phantom import draw_parameters, make_phantom
    from tomoscribe.train.phantom.files import write_phantom

    voxel_size = sum(Bundle.load(default_bundle()).specification.voxel_size) / 2
    paths = [work / "phantoms" / f"{'x'.join(map(str, shape))}-{seed}.mrc" for seed in range(_PHANTOMS)]
    for seed, path in enumerate(paths):
        if not path.exists():
            write_phantom(make_phantom(draw_parameters({"shape": list(shape), "voxel_size": voxel_size}, seed)), path)
    return paths


def _make_network(work: Path, width: int, depth: int) -> None:
    """Write the bundle of a U-Net with random weights, in FP32 and FP16, with its checkpoint and without any parity."""
    if network_folder(work, width).exists():
        return
    import onnx
    import torch

    from tomoscribe.export.folder import new_bundle_folder
    from tomoscribe.export.graph import to_onnx
    from tomoscribe.train.checkpoint import Checkpoint, save_checkpoint
    from tomoscribe.train.unet import UNet, UNetConfiguration

    like = Bundle.load(default_bundle()).specification
    torch.manual_seed(width)
    network = UNet(UNetConfiguration(like.classes, like.context, depth, width)).eval()
    size = network.configuration
    specification = ModelSpecification(
        f"random-unet-{width}", like.class_map, size.context, size.tile_multiple, size.halo, like.voxel_size
    )
    with new_bundle_folder(network_folder(work, width), overwrite=False) as folder:
        artifacts = {}
        for precision, dtype in (("fp32", torch.float32), ("fp16", torch.float16)):
            path = folder / f"model.{precision}.onnx"
            onnx.save(to_onnx(network, specification, dtype), path)
            artifacts[precision] = Artifact.of(path)
        checkpoint = folder / "checkpoint.safetensors"
        save_checkpoint(checkpoint, Checkpoint(network, specification))
        artifacts[CHECKPOINT] = Artifact.of(checkpoint)
        Bundle(folder, specification, artifacts).write()


def _look(note: Note, name: str, attempt: Callable[[], object]) -> bool:
    """Note why something is not here, or that it is, and return whether it is."""
    try:
        attempt()
    except Exception as error:  # whatever keeps it from working is the answer
        note(kind="needed", name=name, missing=" ".join(str(error).split()) or type(error).__name__)
        return False
    note(kind="needed", name=name, missing=None)
    return True


def _import_torch(device: str) -> None:
    _import("torch", "safetensors")
    import torch

    if device != "cpu" and not torch.cuda.is_available():
        raise RuntimeError(f"PyTorch {torch.__version__} finds no GPU")


def _import(*modules: str) -> None:
    for module in modules:
        importlib.import_module(module)


def _find(module: str) -> None:
    if find_spec(module) is None:
        raise ModuleNotFoundError(f"{module} is not installed")


def _versions() -> Iterator[tuple[str, str]]:
    for package in PACKAGES:
        try:
            yield package, version(package)
        except PackageNotFoundError:
            continue


def _disk_speed(folder: Path) -> float:
    """Return bytes a second that come to the disk of a folder, or to what stands for one."""
    block, path = b"\x5a" * 2**24, folder / "speed"
    start = time.perf_counter()
    try:
        with path.open("wb") as file:
            for _ in range(_DISK_BYTES // len(block)):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        return _DISK_BYTES / (time.perf_counter() - start)
    finally:
        path.unlink(missing_ok=True)

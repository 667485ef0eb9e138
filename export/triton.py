"""A bundle as a model repository of NVIDIA's Triton Inference Server.

::

    repository/
      mymodel-fp16/               a model for every network
        config.pbtxt              what the server has to know: `ModelConfig` in protobuf's text format
        labels.txt                class names in the order of the scores, background first
        1/model.onnx
      mymodel-nvidia-h200-trt10.16.1.11-fp16-4x960x928/    and for every plan
        config.pbtxt
        labels.txt
        1/model.plan

Inputs and outputs are those of the graph contract, k and the class map in the parameter ``tomoscribe.specification``.
Triton does no batching of its own (``max_batch_size: 0``): it would take the first axis for the same in every tensor,
and `slices` is 2k longer there than `labels`. One request labels as many slices as it brings.

Layout: "Model Repository", fields: ``model_config.proto``, both of https://github.com/triton-inference-server.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from tomoscribe.engine.bundle import Bundle, ModelSpecification
from tomoscribe.engine.errors import BundleError
from tomoscribe.engine.plans import PLANS, PlanFile, PlanShapes
from tomoscribe.export.folder import check_free, new_folder
from tomoscribe.export.graph import INPUTS, METADATA_KEY, OUTPUTS

__all__ = ["check_repository", "write_triton_repository"]

# INT8 is in bundles in forms that are fast as plans, or on CPUs alone.
_NETWORKS = ("fp32", "fp16")

_CONFIGURATION, _LABELS, _VERSION = "config.pbtxt", "labels.txt", "1"
# Backends and the files that they look for, as the server names them.
_FILES = {"onnxruntime": "model.onnx", "tensorrt": "model.plan"}
# A size that a request chooses.
_ANY = -1

_WHAT = "a model repository of tomoscribe's"

Dimensions = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class _Model:
    """A model of the repository.

    Attributes:
        name: of its folder, which clients ask for.
        precision: of the network that it is, or was built from.
        backend: one of `_FILES`.
        dimensions: of inputs and outputs.
        source: the file.
    """

    name: str
    precision: str
    backend: str
    dimensions: Dimensions
    source: Path


def check_repository(output: Path, *, overwrite: bool) -> None:
    """Refuse a place for a repository that is taken, before the work begins.

    Raises:
        OutputExistsError: there is something at `output` that may not be replaced.
    """
    check_free(output, _WHAT, _is_repository, overwrite=overwrite)


def write_triton_repository(
    bundle: Bundle, output: Path, *, precisions: Iterable[str] | None = None, overwrite: bool = False
) -> list[Path]:
    """Write a bundle's networks and plans as a model repository, under a temporary name beside its place first.

    Args:
        bundle: the model.
        output: the repository's folder.
        precisions: of the networks and plans that are wanted. Without, those that no parity gate refused: FP32 and FP16
            networks, and the plans of networks that are in the bundle now.
        overwrite: replace a repository that this wrote. Any other folder is never replaced.

    Returns:
        The models' folders.

    Raises:
        BundleError: the bundle has no network and no plan of a precision that is wanted, or a file of it was altered.
        PlanError: a plan, or what stands beside it, cannot be read.
        OutputExistsError: there is something at `output` that may not be replaced.
        OutputError: the folder cannot be written.
    """
    models = [*_networks(bundle), *_plans(bundle)]
    if precisions is None:
        chosen = [model for model in models if not _is_refused(bundle, model)]
        _check(bundle, bool(chosen), "any precision that its parity gates let pass")
    else:
        wanted = set(precisions)
        chosen = [model for model in models if model.precision in wanted]
        for precision in sorted(wanted):
            _check(bundle, any(model.precision == precision for model in chosen), precision)
    with new_folder(output, _WHAT, _is_repository, overwrite=overwrite) as folder:
        for model in chosen:
            _write(model, bundle, folder / model.name)
    return [output / model.name for model in chosen]


def _networks(bundle: Bundle) -> Iterator[_Model]:
    for precision in _NETWORKS:
        if precision in bundle.artifacts:
            path = bundle.artifact_path(precision)
            yield _Model(f"{_slug(bundle)}-{precision}", precision, "onnxruntime", _dimensions(path), path)


def _plans(bundle: Bundle) -> Iterator[_Model]:
    for path in sorted((bundle.path / PLANS).glob("*.plan")):
        identity = PlanFile.read(path).identity
        artifact = bundle.artifacts.get(identity.precision)
        if artifact is not None and artifact.sha256 == identity.artifact:
            dimensions = _plan_dimensions(identity.shapes, identity.classes)
            yield _Model(f"{_slug(bundle)}-{path.stem}", identity.precision, "tensorrt", dimensions, path)


def _is_refused(bundle: Bundle, model: _Model) -> bool:
    judgements = [bundle.parity.get(model.precision)]
    if model.backend == "tensorrt":
        judgements.append(PlanFile.read(model.source).facts.get("parity"))
    return any(judgement is not None and judgement.get("passed") is False for judgement in judgements)


def _check(bundle: Bundle, found: bool, wanted: str) -> None:
    if not found:
        raise BundleError(
            f"{bundle.path}: expected a network in fp32 or fp16, or a plan, of {wanted}, found none; "
            "choose another --precision, or build a plan with --tensorrt"
        )


def _slug(bundle: Bundle) -> str:
    """Return the model's name with nothing in it that means something in a path, a URL or a regular expression."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", bundle.specification.name).strip("-") or "model"


def _dimensions(network: Path) -> Dimensions:
    """Return the dimensions that an ONNX file says, which are what the server compares with."""
    graph = onnx.load(network, load_external_data=False).graph
    return {
        value.name: [size.dim_value or _ANY for size in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }


def _plan_dimensions(shapes: PlanShapes, classes: int) -> Dimensions:
    full = {**shapes.inputs(shapes.batch, 0), **shapes.outputs(shapes.batch, classes)}
    return {name: (_ANY, *sizes[1:]) for name, sizes in full.items()}


def _is_repository(folder: Path) -> bool:
    """Return whether a folder holds models that this wrote, and nothing else."""
    files = [entry / _CONFIGURATION for entry in folder.iterdir()]
    return bool(files) and all(
        file.is_file() and METADATA_KEY in file.read_text(encoding="utf-8", errors="replace") for file in files
    )


def _write(model: _Model, bundle: Bundle, folder: Path) -> None:
    version, specification = folder / _VERSION, bundle.specification
    version.mkdir(parents=True)
    target = version / _FILES[model.backend]
    if model.backend == "tensorrt":
        target.write_bytes(PlanFile.read(model.source).read_plan())
    else:
        shutil.copyfile(model.source, target)
    classes = ["background", *(label_class.name for label_class in specification.class_map.classes)]
    (folder / _LABELS).write_text("".join(f"{name}\n" for name in classes), encoding="utf-8")
    (folder / _CONFIGURATION).write_text(_configuration(model, specification), encoding="utf-8")


def _configuration(model: _Model, specification: ModelSpecification) -> str:
    described = json.dumps(specification.to_json(), ensure_ascii=False)
    more = {"scores": f" label_filename: {_quoted(_LABELS)}"}
    lines = [f"name: {_quoted(model.name)}", f"backend: {_quoted(model.backend)}", "max_batch_size: 0"]
    for kind, names, data_type in (("input", INPUTS, "TYPE_FP32"), ("output", OUTPUTS, "TYPE_UINT8")):
        for name in names:
            fields = f"name: {_quoted(name)} data_type: {data_type} dims: {list(model.dimensions[name])}"
            lines.append(f"{kind} {{ {fields}{more.get(name, '')} }}")
    lines.append(f"parameters {{ key: {_quoted(METADATA_KEY)} value {{ string_value: {_quoted(described)} }} }}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """Return a text as protobuf's text format has it, whose escapes are JSON's and more."""
    return json.dumps(text, ensure_ascii=False)

"""Inspecting an ONNX file, in the graph contract or not."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from tomoscribe.cli.inspection import Inspection, assemble, backend_table, heading, specification_rows
from tomoscribe.cli.page import facts_table
from tomoscribe.cli.trials import Trial, try_backends
from tomoscribe.engine.backends import BACKENDS
from tomoscribe.engine.bundle import Artifact, Bundle, ModelSpecification
from tomoscribe.engine.errors import BackendUnavailableError, BundleError, ParameterError

if TYPE_CHECKING:
    from rich.console import RenderableType

__all__ = ["inspect_network"]

# Where tomoscribe.export.graph, which needs torch, writes the specification.
_METADATA_KEY = "tomoscribe.specification"
_INPUTS, _OUTPUTS = {"mean", "rstd", "slices"}, {"labels", "scores"}
_TYPES = {"float": "float32", "double": "float64"}
_QUANTISED = {"QuantizeLinear", "DequantizeLinear"}
_ERRORS_ONLY = 3


@dataclass(frozen=True)
class _Tensor:
    """An input or output; sizes that are free have a name, or None."""

    name: str
    shape: list[int | str | None]
    dtype: str

    def __str__(self) -> str:
        sizes = ", ".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.name} ({sizes}) {self.dtype}"


@dataclass(frozen=True)
class _Graph:
    """What the package onnx can say of a file; nothing where that is not installed.

    Attributes:
        opset: version of ONNX's own operators.
        weights: how many numbers it has of each type.
        quantised: it has nodes that quantise.
        external: files beside it that hold weights.
    """

    opset: int | None = None
    weights: Mapping[str, int] = field(default_factory=dict)
    quantised: bool = False
    external: Sequence[str] = ()

    @property
    def precision(self) -> str:
        """The precision as which a bundle would have the file."""
        return "int8" if self.quantised else "fp16" if "float16" in self.weights else "fp32"


def inspect_network(path: Path) -> Inspection:
    """Read an ONNX file and, if it is in the graph contract, ask every backend to run it.

    Raises:
        BundleError: there is no such file, or it is not a network that ONNX Runtime can load.
        BackendUnavailableError: ONNX Runtime is not installed.
    """
    session = _load(path)
    inputs, outputs = _tensors(session.get_inputs()), _tensors(session.get_outputs())
    metadata, graph = session.get_modelmeta(), _read_graph(path)
    specification = _specification(path, metadata.custom_metadata_map)
    outside = _outside_contract(inputs, outputs)
    trials = _try(path, graph, specification, outside)
    size = path.stat().st_size
    entries = {
        "kind": "onnx",
        "path": str(path),
        "size": size,
        "producer": metadata.producer_name,
        "inputs": [asdict(tensor) for tensor in inputs],
        "outputs": [asdict(tensor) for tensor in outputs],
        **asdict(graph),
        "specification": None if specification is None else specification.to_json(),
        "backends": [asdict(trial) for trial in trials],
    }
    rows = [
        *(("input", str(tensor)) for tensor in inputs),
        *(("output", str(tensor)) for tensor in outputs),
        *_graph_rows(graph),
        *([("written by", metadata.producer_name)] if metadata.producer_name else []),
    ]
    sections: list[RenderableType] = [facts_table(rows), backend_table(trials)]
    if specification is not None:
        told = ("input", "output")
        rows = [("name", specification.name), *specification_rows(specification)]
        sections.insert(1, facts_table(row for row in rows if row[0] not in told))
    if outside is not None:
        what = "--classes background,… --voxel-size LOW,HIGH --output BUNDLE"
        command = f"tomoscribe export --from-onnx {shlex.quote(str(path))} {what}"
        sections.append(Text.assemble("a bundle, which backends can run, is made of it with:\n", (command, "cyan")))
    return Inspection(entries, assemble(heading(path.name, "ONNX network", path, size), sections))


def _load(path: Path) -> Any:  # noqa: ANN401 - ONNX Runtime has no types
    if not path.is_file():
        raise BundleError(f"{path}: expected an ONNX file, found {'a folder' if path.exists() else 'nothing'} there")
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendUnavailableError(
            f'{path}: cannot be read without ONNX Runtime ({error}); install it with: pip install "tomoscribe[cpu]"'
        ) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no base but this
        reason = " ".join(str(error).split())
        raise BundleError(f"{path}: ONNX Runtime {onnxruntime.__version__} cannot load it ({reason})") from error


def _tensors(values: Sequence[Any]) -> list[_Tensor]:
    kinds = [value.type.removeprefix("tensor(").removesuffix(")") for value in values]
    return [_Tensor(v.name, list(v.shape), _TYPES.get(kind, kind)) for v, kind in zip(values, kinds, strict=True)]


def _read_graph(path: Path) -> _Graph:
    try:
        import onnx
    except ImportError:
        return _Graph()
    model = onnx.load(path, load_external_data=False)
    weights: Counter[str] = Counter()
    external = set()
    for tensor in model.graph.initializer:
        weights[onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).name] += prod(tensor.dims)
        external |= {entry.value for entry in tensor.external_data if entry.key == "location"}
    return _Graph(
        opset=next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), None),
        weights=dict(weights.most_common()),
        quantised=any(node.op_type in _QUANTISED for node in model.graph.node),
        external=sorted(external),
    )


def _graph_rows(graph: _Graph) -> Iterator[tuple[str, str]]:
    if graph.opset is not None:
        yield "opset", str(graph.opset)
    if graph.weights:
        files = f", in {', '.join(graph.external)}" if graph.external else ""
        yield "weights", ", ".join(f"{count:,} {kind}" for kind, count in graph.weights.items()) + files


def _specification(path: Path, metadata: Mapping[str, str]) -> ModelSpecification | None:
    if _METADATA_KEY not in metadata:
        return None
    try:
        return ModelSpecification.from_json(json.loads(metadata[_METADATA_KEY]))
    except (ParameterError, TypeError, ValueError) as error:
        raise BundleError(f"{path}: {_METADATA_KEY} in its metadata: {error}; export the model again") from error


def _outside_contract(inputs: Sequence[_Tensor], outputs: Sequence[_Tensor]) -> str | None:
    """Return why no backend can run a file as it is; None where it is in the graph contract."""
    found = {tensor.name for tensor in inputs}, {tensor.name for tensor in outputs}
    if found == (_INPUTS, _OUTPUTS):
        return None
    return (
        f"expected the inputs {_listed(_INPUTS)} and the outputs {_listed(_OUTPUTS)}, found {_listed(found[0])} and "
        f"{_listed(found[1])}"
    )


def _try(path: Path, graph: _Graph, specification: ModelSpecification | None, outside: str | None) -> list[Trial]:
    if outside is not None or specification is None:
        why_not = outside or "its classes and context are not in its metadata; inspect the bundle that it is from"
        return [Trial(name, False, why_not) for name in BACKENDS]
    return try_backends(Bundle(path.parent, specification, {graph.precision: Artifact.of(path)}))


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names))

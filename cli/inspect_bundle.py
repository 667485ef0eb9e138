"""Inspecting a bundle."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from tomoscribe.cli.inspection import (
    DIGITS,
    Inspection,
    assemble,
    backend_table,
    heading,
    specification_rows,
)
from tomoscribe.cli.page import facts_table, file_size, plain_table
from tomoscribe.cli.parity_page import parity_rows, parity_table
from tomoscribe.cli.trials import try_backends
from tomoscribe.engine.bundle import Bundle
from tomoscribe.engine.errors import BundleError
from tomoscribe.engine.plans import PLANS, PlanFile

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["inspect_bundle"]

Entries = Mapping[str, Any]


@dataclass(frozen=True)
class _File:
    """A file of a bundle; its size is None where it is missing.

    Attributes:
        kind: ``plan``, or the artifact's key.
        file: its name inside the bundle.
        size: bytes.
        sha256: what its bytes have to have; None where that cannot be read.
        problem: why it is not what was written; None where it is.
    """

    kind: str
    file: str
    size: int | None
    sha256: str | None
    problem: str | None


def inspect_bundle(path: Path) -> Inspection:
    """Read a bundle, check the sha256 of its files, and ask every backend to run it.

    Raises:
        BundleError: the folder is not a bundle that can be read.
    """
    bundle = Bundle.load(path)
    specification = bundle.specification
    files = [*_artifacts(bundle), *_plans(bundle)]
    trials = try_backends(bundle)
    size = sum(file.stat().st_size for file in bundle.path.rglob("*") if file.is_file())
    entries = {
        "kind": "bundle",
        "path": str(bundle.path),
        "size": size,
        "specification": specification.to_json(),
        "files": [asdict(file) for file in files],
        "parity": dict(bundle.parity),
        "training": dict(bundle.training),
        "provenance": dict(bundle.provenance),
        "backends": [asdict(trial) for trial in trials],
    }
    parity = {precision: figures for precision, figures in bundle.parity.items() if isinstance(figures, dict)}
    origin = [*_training_rows(bundle.training), *_provenance_rows(bundle.provenance)]
    sections = [
        facts_table(specification_rows(specification)),
        _file_table(files),
        *([parity_table(parity, specification.class_map), facts_table(parity_rows(parity))] if parity else []),
        *([facts_table(origin)] if origin else []),
        backend_table(trials),
    ]
    title = heading(specification.name, "model bundle", bundle.path, size)
    return Inspection(entries, assemble(title, sections), [file.problem for file in files if file.problem])


def _artifacts(bundle: Bundle) -> Iterator[_File]:
    for key, artifact in bundle.artifacts.items():
        path = bundle.path / artifact.file
        problem = None
        try:
            bundle.artifact_path(key)
        except BundleError as error:
            problem = str(error)
        yield _File(key, artifact.file, path.stat().st_size if path.is_file() else None, artifact.sha256, problem)


def _plans(bundle: Bundle) -> Iterator[_File]:
    for path in sorted(bundle.path.glob(f"{PLANS}/*.plan")):
        problem, sha256 = None, None
        try:
            plan = PlanFile.read(path)
            sha256 = plan.sha256
            plan.read_plan()
        except BundleError as error:
            problem = str(error)
        yield _File("plan", f"{PLANS}/{path.name}", path.stat().st_size, sha256, problem)


def _file_table(files: Sequence[_File]) -> Table:
    table = plain_table("artifact", "file", "size", "sha256", "bytes are", right=("size",))
    for file in files:
        size = "–" if file.size is None else file_size(file.size)
        sha256 = "–" if file.sha256 is None else file.sha256[:DIGITS]
        state = Text("altered" if file.size is not None else "missing", "bold red")
        table.add_row(file.kind, Text(file.file), size, sha256, state if file.problem else Text("as written", "green"))
    return table


def _training_rows(training: Entries) -> Iterator[tuple[str, str]]:
    """Yield where the weights come from, as far as it is short; ``--json`` has all of it."""
    source = training.get("checkpoint") or training.get("onnx")  # the latter of a network of another program
    if isinstance(source, dict):
        writer = f", written by {source['producer']}" if source.get("producer") else ""
        yield "made from", f"{source.get('file')}, sha256 {str(source.get('sha256'))[:DIGITS]}{writer}"
    dataset = training.get("dataset")
    recipe = dataset.get("recipe") if isinstance(dataset, dict) else None
    name = recipe.get("name") if isinstance(recipe, dict) else None
    parts = [f"{training['step']:,} steps"] if isinstance(training.get("step"), int) else []
    parts += [f"on the dataset {name}"] if name else []
    parts += [f"with tomoscribe {training['tomoscribe']}"] if "tomoscribe" in training else []
    if parts:
        yield "trained", " ".join(parts)
    dice = training.get("validation_dice")
    if isinstance(dice, dict):
        yield "validation", "Dice " + ", ".join(f"{name} {value:.2f}" for name, value in dice.items() if value)


def _provenance_rows(provenance: Entries) -> Iterator[tuple[str, str]]:
    if provenance:
        yield "exported", "with " + ", ".join(f"{name} {version}" for name, version in provenance.items())

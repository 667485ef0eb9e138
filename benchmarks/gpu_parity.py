"""Whether tomoscribe does on a GPU what it does elsewhere: its own tests, and the labels of phantoms."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import mrcfile
import numpy as np
from gpu_child import Note
from gpu_setup import bundled, phantoms
from numpy.typing import NDArray
from peers_ratios import agreement

from tomoscribe.engine import Bundle, Segmenter

__all__ = ["conformance", "parity"]

REPOSITORY = Path(__file__).resolve().parent.parent
_REFERENCE = ("onnxruntime", "fp32", "cpu")


def conformance(note: Note, work: Path) -> None:
    """Run the tests that need a GPU, and say how many passed, failed and were skipped, and why.

    Raises:
        RuntimeError: a test failed, or none was found.
    """
    import pytest

    files = [
        path for path in sorted((REPOSITORY / "tests").rglob("test_*.py")) if "mark.gpu" in path.read_text("utf-8")
    ]
    report = work / "conformance.xml"
    options = ["-m", "gpu", "--rootdir", str(REPOSITORY), "--quiet", f"--junit-xml={report}", "-p", "no:cacheprovider"]
    # A file that cannot be imported here is one failure.
    status = pytest.main([*options, "--continue-on-collection-errors", *map(str, files)])
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))  # noqa: S314 - it was written just now
    states = [(case, (case.find("failure"), case.find("error"), case.find("skipped"))) for case in cases]
    failed = [case for case, (failure, error, _) in states if failure is not None or error is not None]
    skipped = Counter(mark.get("message", "") for _, (_, _, mark) in states if mark is not None)
    note(
        kind="tests",
        passed=len(cases) - len(failed) - sum(skipped.values()),
        failed=[f"{case.get('classname')}::{case.get('name')}" for case in failed],
        skipped=dict(skipped),
    )
    if status != pytest.ExitCode.OK:
        raise RuntimeError(f"pytest ended with {status!s}; of {len(cases)} tests {len(failed)} failed")


def parity(
    note: Note,
    work: Path,
    *,
    backend: str,
    device: str,
    precisions: Sequence[str],
    shape: Sequence[int],
) -> None:
    """Compare a backend's labels and scores of phantoms with those of ONNX Runtime on the CPU in FP32.

    Args:
        note: is told what was found.
        work: folder of the phantoms.
        backend: of tomoscribe, with the bundled model.
        device: as ``--device`` has it.
        precisions: of the backend.
        shape: of the phantoms.
    """
    bundle, tomograms = Bundle.load(bundled(work)), phantoms(work, shape)
    expected = _volumes(bundle, tomograms, *_REFERENCE)
    for arithmetic in precisions:
        found = _volumes(bundle, tomograms, backend, arithmetic, device)
        same = agreement(found["labels"], expected["labels"], bundle.specification.classes)
        scores = [np.abs(found[name].astype(np.int16) - expected[name]).max() for name in found if name != "labels"]
        note(
            kind="parity",
            precision=arithmetic,
            pixels=expected["labels"].size,
            labels_equal=float((found["labels"] == expected["labels"]).mean()),
            foreground_dice=same.foreground,
            # Scores are written as halves of probability × 255.
            largest_score_difference=int(max(scores)),
        )


def _volumes(
    bundle: Bundle, tomograms: Sequence[Path], backend: str, precision: str, device: str
) -> dict[str, NDArray[np.int8]]:
    """Return the label volumes of tomograms, one behind the other, and the score volumes of each class."""
    found: dict[str, list[NDArray[np.int8]]] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        Segmenter(bundle, backend=backend, precision=precision, device=device) as segmenter,
    ):
        for tomogram in tomograms:
            result = segmenter.segment(tomogram, folder)
            for name, path in {"labels": result.labels, **result.class_volumes}.items():
                found.setdefault(name, []).append(mrcfile.read(path))
    return {name: np.concatenate(parts) for name, parts in found.items()}

"""Which backend is chosen, and what is said of it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tomoscribe.engine.backends import BACKENDS, choose_backend
from tomoscribe.engine.errors import BackendUnavailableError, BundleError, ParameterError


class Runs:
    name = "runs"

    def __init__(self, bundle):
        self.bundle = bundle


def cannot_run(bundle):
    raise BackendUnavailableError("absent: no such device")


def test_auto_takes_the_first_that_runs_and_says_what_did_not(monkeypatch):
    monkeypatch.setattr("tomoscribe.engine.backends.selection.BACKENDS", {"absent": cannot_run, "runs": Runs})
    backend, reason = choose_backend("auto", "bundle")
    assert isinstance(backend, Runs)
    assert backend.bundle == "bundle"
    assert reason == "runs, the first that can run here; absent: no such device"


def test_one_that_was_asked_for_runs_or_fails(monkeypatch):
    monkeypatch.setattr("tomoscribe.engine.backends.selection.BACKENDS", {"absent": cannot_run, "runs": Runs})
    assert choose_backend("runs", "bundle")[1] == "runs, as asked for"
    with pytest.raises(BackendUnavailableError, match="absent: no such device"):
        choose_backend("absent", "bundle")


def test_auto_fails_where_nothing_runs(monkeypatch):
    monkeypatch.setattr("tomoscribe.engine.backends.selection.BACKENDS", {"absent": cannot_run, "gone": cannot_run})
    with pytest.raises(BackendUnavailableError, match="absent: no such device; absent: no such device"):
        choose_backend("auto", "bundle")


def test_auto_does_not_hide_a_bad_bundle(make_bundle):
    bundle = make_bundle()
    bundle.artifact_path("fp32").write_bytes(b"")
    with pytest.raises(BundleError):
        choose_backend("auto", type(bundle)(bundle.path, bundle.specification, bundle.artifacts))


def test_an_unknown_name_lists_those_that_are_known():
    with pytest.raises(ParameterError, match="backend 'cuda': expected one of auto, onnxruntime"):
        choose_backend("cuda", None)


def test_the_cpu_is_always_there(make_bundle):
    assert list(BACKENDS)[-1] == "onnxruntime"
    backend, _ = choose_backend("auto", make_bundle())
    assert backend.name == "onnxruntime"
    backend.close()


def test_importing_the_engine_imports_no_runtime():
    code = (
        "import sys, tomoscribe.engine, tomoscribe.engine.backends, tomoscribe.engine.stream; "
        "print([name for name in ('onnxruntime', 'onnx', 'torch') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"

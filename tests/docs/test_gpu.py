"""The page for GPU users: its client labels as segment does, and its commands have the options that they are given."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import sys
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import mrcfile
import numpy as np
import onnxruntime
import pytest
from typer.main import get_command

from tomoscribe.cli.app import app
from tomoscribe.engine import Bundle, segment

REPOSITORY = Path(__file__).resolve().parents[2]
PAGE = (REPOSITORY / "docs" / "gpu.md").read_text(encoding="utf-8")
COMMANDS = [
    shlex.split(line, comments=True) for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
]  # fmt: skip


VERBS = get_command(app).commands


def verb_of(words):
    """Return which of tomoscribe's verbs a line calls, in whatever it runs; None where it calls none."""
    return next((verb for name, verb in pairwise(words) if name == "tomoscribe" and verb in VERBS), None)


def stand_in(bundle):
    """Return a module with what the page uses of `tritonclient.http`, on ONNX Runtime; names and calls are theirs."""
    module = ModuleType("tritonclient.http")
    session = onnxruntime.InferenceSession(bundle.artifact_path("fp32"), providers=["CPUExecutionProvider"])

    class InferInput:
        def __init__(self, name, shape, datatype):
            self._name, self.shape, self.datatype = name, tuple(shape), datatype

        def name(self):
            return self._name

        def set_data_from_numpy(self, values):
            assert (values.shape, values.dtype, self.datatype) == (self.shape, np.float32, "FP32")
            self.values = values

    class InferRequestedOutput:
        def __init__(self, name):
            self.name = name

    class InferResult:
        def __init__(self, outputs):
            self._outputs = outputs

        def as_numpy(self, name):
            return self._outputs[name]

    class InferenceServerClient:
        def __init__(self, url):
            assert url == "localhost:8000"

        def get_model_config(self, model_name):
            assert model_name == "tiny-fp32"
            described = json.dumps(bundle.specification.to_json())
            return {"name": model_name, "parameters": {"tomoscribe.specification": {"string_value": described}}}

        def infer(self, model_name, inputs, outputs):
            assert model_name == "tiny-fp32"
            names = [output.name for output in outputs]
            found = session.run(names, {tensor.name(): tensor.values for tensor in inputs})
            return InferResult(dict(zip(names, found, strict=True)))

    for kind in (InferInput, InferRequestedOutput, InferenceServerClient):
        setattr(module, kind.__name__, kind)
    return module


def test_the_client_labels_as_segment_does(tiny_bundle, tmp_path, monkeypatch):
    bundle = Bundle.load(tiny_bundle)
    (program,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "query.py").write_text(program, encoding="utf-8")
    # Neither the batch nor the tile's multiple of 8 divides any side.
    volume = np.random.default_rng(0).normal(5, 3, (7, 21, 30)).astype(np.float32)
    with mrcfile.new(tmp_path / "t.mrc", volume) as file:
        file.voxel_size = 12
    monkeypatch.setitem(sys.modules, "tritonclient", ModuleType("tritonclient"))
    monkeypatch.setitem(sys.modules, "tritonclient.http", stand_in(bundle))
    sys.modules["tritonclient"].http = sys.modules["tritonclient.http"]
    words = ["localhost:8000", "tiny-fp32", tmp_path / "t.mrc", tmp_path / "labels.mrc"]
    monkeypatch.setattr(sys, "argv", ["query.py", *map(str, words)])
    runpy.run_path(str(tmp_path / "query.py"), run_name="__main__")
    result = segment(tmp_path / "t.mrc", model=bundle, backend="onnxruntime", precision="fp32", device="cpu")
    with mrcfile.open(tmp_path / "labels.mrc") as file:
        assert file.voxel_size.x == 12
        assert np.array_equal(file.data, mrcfile.read(result.labels))
        assert len(np.unique(file.data)) == 3


@pytest.mark.parametrize("command", [words for words in COMMANDS if verb_of(words)], ids=shlex.join)
def test_a_command_has_the_options_that_it_is_given(command):
    verb = verb_of(command)
    known = {option for parameter in VERBS[verb].params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert {word for word in command[command.index(verb) :] if word.startswith("--")} <= known


@pytest.mark.parametrize("script", ["gpu", "wheel_parts"])
def test_a_script_has_the_options_that_it_is_given(script, monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    import_module(script)
    source = (REPOSITORY / "benchmarks" / f"{script}.py").read_text(encoding="utf-8")
    source += (REPOSITORY / "benchmarks" / "measuring.py").read_text(encoding="utf-8")
    given = [words for words in COMMANDS if any(word.endswith(f"{script}.py") for word in words)]
    assert given
    for word in (word for words in given for word in words if word.startswith("--")):
        assert f'"{word}"' in source


def test_links_lead_somewhere():
    headings = {re.sub(r"[^\w -]", "", line.lstrip("# ")).lower().replace(" ", "-") for line in PAGE.splitlines()
                if line.startswith("#")}  # fmt: skip
    links = re.findall(r"\]\(#([^)]+)\)", PAGE)
    assert links
    assert set(links) <= headings
    for name in re.findall(r"`(benchmarks/[\w.]+)`", PAGE):
        assert (REPOSITORY / name).is_file()

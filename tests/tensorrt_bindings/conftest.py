"""The real bindings of TensorRT, with doubles of what would need a GPU.

Every object that TensorRT would give is an autospecced mock of the real class. pybind11 writes signatures into
docstrings: each call is bound to them, and each argument's type checked, before the fake answers; so is what is
assigned to a property.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import inspect
import os
import re
import runpy
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import onnx
import pytest

BINDINGS = os.environ.get("TOMOSCRIBE_TENSORRT_BINDINGS")
TESTS = Path(__file__).resolve().parents[1]
FAKE = runpy.run_path(str(TESTS / "tensorrt_bindings" / "fake.py"))
SIMULATION = runpy.run_path(str(TESTS / "engine" / "cuda" / "simulation.py"))

# Two versions cannot be imported into one process: tests/engine/plans/test_bindings.py starts one for each.
collect_ignore_glob = [] if BINDINGS else ["test_*.py"]


@dataclass(frozen=True)
class Overload:
    """One signature in a pybind11 docstring."""

    signature: inspect.Signature
    returns: str


def overloads(docstring):
    """Parse ``name(self: module.Class, flags: int = 0) -> module.Result`` and numbered lists of such lines."""
    found = []
    for arguments, returns in re.findall(r"^(?:\d+\. )?\w*\((.*)\) -> (.+)$", docstring, re.MULTILINE):
        parameters = []
        for part in re.split(r", (?=\w+: )", arguments) if arguments else []:
            name, _, rest = part.partition(": ")
            annotation, _, default = rest.partition(" = ")
            kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
            empty = inspect.Parameter.empty
            parameters.append(
                inspect.Parameter(name, kind, annotation=annotation, default=default if default else empty)
            )
        found.append(Overload(inspect.Signature(parameters), returns))
    return found


def accepts(real, annotation, value):
    """Whether pybind11 converts a value to what a signature names."""
    if annotation.startswith(f"{real.__name__}.tensorrt."):
        kind = real
        for name in annotation.split(".")[2:]:
            kind = getattr(kind, name)
        if kind is real.Dims and isinstance(value, tuple | list):
            return all(accepts(real, "int", size) for size in value)
        return isinstance(value, kind)
    if annotation in ("buffer", "typing_extensions.Buffer", "collections.abc.Buffer"):
        return isinstance(value, bytes | bytearray | memoryview)
    if annotation in ("int", "typing.SupportsInt", "typing.SupportsInt | typing.SupportsIndex"):
        return hasattr(value, "__index__")
    return isinstance(value, {"str": str, "bool": bool, "tuple": tuple, "list": list, "object": object}[annotation])


def bind(real, docstring, args, kwargs):
    """Return the arguments of a call by name, or raise what pybind11 would."""
    for overload in overloads(docstring):
        try:
            bound = overload.signature.bind(*args, **kwargs)
        except TypeError:
            continue
        parameters = overload.signature.parameters
        if all(
            name in ("self", "arg0") or accepts(real, parameters[name].annotation, value)
            for name, value in bound.arguments.items()
        ):
            return bound.arguments
    raise TypeError(f"incompatible function arguments {args[1:]} {kwargs}; supported: {docstring}")


class CheckedTensorRT(FAKE["FakeTensorRT"]):
    """A fake whose objects refuse what the bindings would."""

    def __init__(self, simulator, real):
        super().__init__(simulator)
        self.real = real

    def double(self, name):
        kind = getattr(self.real, name)
        double = mock.create_autospec(kind, instance=True, spec_set=True)
        for member in dir(kind):
            value = getattr(kind, member)
            if type(value).__name__ == "instancemethod" and not member.startswith("__"):
                getattr(double, member).side_effect = self._checked(double, f"{name}.{member}", value.__doc__)
            elif isinstance(value, property):
                setattr(type(double), member, self._property(f"{name}.{member}", value))
        return double

    def construct(self, name, *arguments):
        bind(self.real, getattr(self.real, name).__init__.__doc__, (None, *arguments), {})
        return super().construct(name, *arguments)

    def _checked(self, double, name, docstring):
        def call(*arguments):
            bind(self.real, docstring, (double, *arguments), {})
            answer = self.call(double, name, *arguments)
            has_no_answer = answer is None and name not in self.returns
            return True if has_no_answer and overloads(docstring)[0].returns == "bool" else answer

        return call

    def _property(self, name, real):
        def read(double):
            return self.read(double, name)

        def write(double, value):
            bind(self.real, real.fset.__doc__, (double, value), {})
            self.assigned[name] = value

        return property(read, write if real.fset else None)


@pytest.fixture(scope="session")
def real():
    """The official bindings, over libraries that do nothing."""
    folder = Path(BINDINGS)
    for library in folder.glob("*.so.*"):
        ctypes.CDLL(str(library))
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module("tensorrt_bindings")
    finally:
        sys.path.remove(str(folder))


@pytest.fixture
def simulator(monkeypatch):
    """CUDA's driver, without a device."""
    simulator = SIMULATION["Simulator"]()
    simulator.devices = ("NVIDIA H200",)
    SIMULATION["install"]("cuda.bindings", simulator, monkeypatch)
    return simulator


@pytest.fixture
def gpu(simulator, real, monkeypatch):
    """`import tensorrt` gives the real names, over doubles of what needs a GPU."""
    from tomoscribe.engine.plans.loading import tensorrt_log

    gpu = CheckedTensorRT(simulator, real)
    module = types.ModuleType("tensorrt")
    module.__dict__.update({name: value for name, value in vars(real).items() if not name.startswith("__")})
    module.__version__ = real.__version__
    for name in ("Builder", "OnnxParser", "Runtime"):
        setattr(module, name, functools.partial(gpu.construct, name))
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    tensorrt_log.cache_clear()
    yield gpu
    tensorrt_log.cache_clear()


@pytest.fixture(scope="session")
def bundle_folder(tmp_path_factory):
    """A bundle with a small U-Net, one slice of context, in FP32 and FP16."""
    import torch

    from tomoscribe.engine.bundle import Artifact, Bundle, ModelSpecification
    from tomoscribe.engine.class_map import ClassMap, LabelClass
    from tomoscribe.export.graph import to_onnx
    from tomoscribe.train.unet import UNet, UNetConfiguration

    configuration = UNetConfiguration(classes=3, context=1, depth=2, base_width=4)
    class_map = ClassMap((LabelClass(1, "ribosome", (1, 2, 3)), LabelClass(2, "membrane", (4, 5, 6))))
    specification = ModelSpecification("tiny", class_map, 1, configuration.tile_multiple, configuration.halo, (10, 20))
    torch.manual_seed(1)
    network = UNet(configuration).eval()
    folder = tmp_path_factory.mktemp("bundles") / "tiny"
    folder.mkdir()
    artifacts = {}
    for precision, dtype in (("fp32", torch.float32), ("fp16", torch.float16)):
        path = folder / f"model.{precision}.onnx"
        onnx.save(to_onnx(network, specification, dtype), path)
        artifacts[precision] = Artifact.of(path)
    Bundle(folder, specification, artifacts).write()
    return folder


@pytest.fixture
def bundle(bundle_folder, tmp_path):
    """A copy of the bundle, to write plans into."""
    import shutil

    from tomoscribe.engine.bundle import Bundle

    return Bundle.load(shutil.copytree(bundle_folder, tmp_path / "tiny"))

"""The real bindings of TensorRT, with doubles of what would need a GPU.

Every object that TensorRT would give is an autospecced mock of the real class. pybind11 writes signatures into
docstrings: each call is bound to them, and each argument's type checked, before the mock answers; so is what is
assigned to a property.
"""

from __future__ import annotations

import ctypes
import importlib
import inspect
import os
import re
import sys
import types
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
import onnxruntime
import pytest

BINDINGS = os.environ.get("TOMOSCRIBE_TENSORRT_BINDINGS")

# Two versions cannot be imported into one process: tests/export/test_tensorrt_bindings.py starts one for each.
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


@dataclass
class FakeGpu:
    """What TensorRT would do on a GPU: it parses with onnx, and its engines run in ONNX Runtime.

    Attributes:
        calls: what was called, as ``Class.method``.
        layers: what the inspector tells.
        returns: answers that are not the usual ones, by ``Class.method``; a callable is called.
    """

    real: types.ModuleType
    calls: list[tuple[str, dict]] = field(default_factory=list)
    assigned: dict[str, object] = field(default_factory=dict)
    returns: dict[str, object] = field(default_factory=dict)
    properties: dict[str, object] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    addresses: dict[str, int] = field(default_factory=dict)
    profile: dict[str, list] = field(default_factory=dict)
    session: object = None
    logger: object = None
    layers: str = ""

    def double(self, name):
        """Return an object of a class that only TensorRT itself can make."""
        kind = getattr(self.real, name)
        double = mock.create_autospec(kind, instance=True, spec_set=True)
        for member in dir(kind):
            value = getattr(kind, member)
            if type(value).__name__ == "instancemethod" and not member.startswith("__"):
                getattr(double, member).side_effect = self._checked(double, f"{name}.{member}", value.__doc__)
            elif isinstance(value, property):
                setattr(type(double), member, self._property(f"{name}.{member}", value))
        return double

    def constructor(self, name):
        """Return what stands for a class whose constructor would need TensorRT."""

        def construct(*args, **kwargs):
            arguments = bind(self.real, getattr(self.real, name).__init__.__doc__, (None, *args), kwargs)
            self.calls.append((name, arguments))
            self.logger = arguments["logger"]
            return self.double(name)

        return construct

    def named(self, call):
        """Return the arguments of every call of a method."""
        return [arguments for name, arguments in self.calls if name == call]

    def _checked(self, double, name, docstring):
        def call(*args, **kwargs):
            arguments = bind(self.real, docstring, (double, *args), kwargs)
            self.calls.append((name, {key: value for key, value in arguments.items() if key != "self"}))
            given = self.returns.get(name, getattr(self, "_" + name.replace(".", "_"), None))
            if callable(given):
                return given(**self.calls[-1][1])
            if given is not None or name in self.returns:
                return given
            returned = overloads(docstring)[0].returns.rpartition(".")[2]
            return None if returned == "None" else True if returned == "bool" else self.double(returned)

        return call

    def _property(self, name, real):
        def read(_):
            return self.properties[name]

        def write(double, value):
            bind(self.real, real.fset.__doc__, (double, value), {})
            self.assigned[name] = value

        return property(read, write if real.fset else None)

    def _OnnxParser_parse(self, model):  # noqa: N802 - called by the name of what it stands for
        graph = onnx.shape_inference.infer_shapes(onnx.load_from_string(model), strict_mode=True)
        onnx.checker.check_model(graph, full_check=True)
        types = {value.name: value.type.tensor_type.elem_type for value in graph.graph.value_info}
        for node in graph.graph.node:
            if node.op_type == "Cast" and onnx.helper.get_node_attr_value(node, "to") == onnx.TensorProto.UINT8:
                assert types[node.input[0]] == onnx.TensorProto.FLOAT  # TensorRT converts no integers to uint8
        self.session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        return True

    def _IOptimizationProfile_set_shape(self, input, min, opt, max):  # noqa: N802
        assert all(a <= b <= c for a, b, c in zip(min, opt, max, strict=True))
        self.profile[input] = [min, opt, max]

    def _IBuilderConfig_add_optimization_profile(self, profile):  # noqa: N802
        return 0

    def _Builder_build_serialized_network(self, network, config):  # noqa: N802
        monitor = self.assigned["IBuilderConfig.progress_monitor"]
        monitor.phase_start("Building engine", None, 2)
        monitor.phase_start("Tactics", "Building engine", 4)
        going = [monitor.step_complete("Tactics", step) for step in range(2)]
        monitor.phase_finish("Tactics")
        going.append(monitor.step_complete("Building engine", 1))
        monitor.phase_finish("Building engine")
        return b"a serialized engine" if all(going) else None

    def _ITimingCache_serialize(self):  # noqa: N802
        return b"timings"

    def _ICudaEngine_get_tensor_name(self, index):  # noqa: N802
        return ["slices", "mean", "rstd", "labels", "scores"][index]

    def _ICudaEngine_get_tensor_mode(self, name):  # noqa: N802
        return self.real.TensorIOMode.INPUT if name in self.profile else self.real.TensorIOMode.OUTPUT

    def _ICudaEngine_get_tensor_dtype(self, name):  # noqa: N802
        return self.real.DataType.FLOAT if name in self.profile else self.real.DataType.UINT8

    def _ICudaEngine_get_tensor_profile_shape(self, name, profile_index):  # noqa: N802
        assert profile_index == 0
        return [self.real.Dims(shape) for shape in self.profile[name]]

    def _EngineInspector_get_engine_information(self, format):  # noqa: N802
        assert format == self.real.LayerInformationFormat.JSON
        return self.layers

    def _IExecutionContext_set_input_shape(self, name, shape):  # noqa: N802
        low, _, high = self.profile[name]
        self.shapes[name] = shape
        return all(a <= size <= b for a, size, b in zip(low, shape, high, strict=True))

    def _IExecutionContext_infer_shapes(self):  # noqa: N802
        return sorted(self.profile.keys() - self.shapes.keys())

    def _IExecutionContext_set_tensor_address(self, name, memory):  # noqa: N802
        self.addresses[name] = memory
        return True

    def _IExecutionContext_execute_async_v3(self, stream_handle):  # noqa: N802
        assert stream_handle != 0
        feed = {name: self._array(name, shape, ctypes.c_float) for name, shape in self.shapes.items()}
        for name, values in zip(("labels", "scores"), self.session.run(["labels", "scores"], feed), strict=True):
            self._array(name, values.shape, ctypes.c_uint8)[:] = values
        return True

    def _array(self, name, shape, kind):
        memory = (kind * int(np.prod(shape))).from_address(self.addresses[name])
        return np.ctypeslib.as_array(memory).reshape(shape)


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
def gpu(real, monkeypatch):
    """`import tensorrt` gives the real names, over doubles of what needs a GPU."""
    from tomoscribe.engine.plan_loading import tensorrt_log

    gpu = FakeGpu(real)
    gpu.properties = {"ICudaEngine.num_io_tensors": 5, "OnnxParser.num_errors": 0}
    module = types.ModuleType("tensorrt")
    module.__dict__.update({name: value for name, value in vars(real).items() if not name.startswith("__")})
    module.__version__ = real.__version__
    for name in ("Builder", "OnnxParser", "Runtime"):
        setattr(module, name, gpu.constructor(name))
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

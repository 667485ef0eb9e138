"""TensorRT without a GPU: networks are read with onnx, and engines compute in ONNX Runtime.

An engine's work is put into a stream of the simulated CUDA driver, and reads and writes that one's memory when the
stream comes to it.
"""

# ruff: noqa: N802 - methods are named after what they stand for

from __future__ import annotations

import base64
import json
import math
import sys
from enum import IntEnum
from functools import partial
from types import ModuleType, SimpleNamespace
from weakref import WeakKeyDictionary

import numpy as np
import onnx
import onnxruntime

from tomoscribe.engine.plans.loading import tensorrt_log

INPUTS = ("slices", "mean", "rstd")
OUTPUTS = ("labels", "scores")
_WORDS = {onnx.TensorProto.FLOAT: "Float", onnx.TensorProto.FLOAT16: "Half"}


class Double:
    """An object of a class of TensorRT's; what is asked of it, the fake answers."""

    def __init__(self, fake, name):
        self.__dict__.update(fake=fake, name=name)

    def __getattr__(self, member):
        if member in self.fake.PROPERTIES:
            return self.fake.read(self, f"{self.name}.{member}")
        return lambda *arguments: self.fake.call(self, f"{self.name}.{member}", *arguments)

    def __setattr__(self, member, value):
        self.fake.assigned[f"{self.name}.{member}"] = value

    def __del__(self):
        self.fake.gone.append(self.name)


class FakeTensorRT:
    """What TensorRT does, as far as it is called here.

    Attributes:
        simulator: of CUDA's driver.
        calls: what was called, as ``Class.method``, with its arguments.
        assigned: the properties that were set.
        returns: answers that are not the usual ones, by ``Class.method``; a callable is called.
        gone: classes of objects that were forgotten, in order.
        layers: what the inspector tells; if empty, every convolution in the type of its weights.
        memory: bytes that an execution context of an engine needs, by the pixels of its largest batch with context.
        milliseconds: that a batch takes as it is called, and as part of a graph.
    """

    PROPERTIES = ("num_io_tensors", "device_memory_size_v2", "num_errors")

    def __init__(self, simulator):
        self.simulator = simulator
        self.calls, self.assigned, self.returns, self.gone = [], {}, {}, []
        self.layers = ""
        self.errors = 0
        self.memory = lambda pixels: 4096
        self.milliseconds = 2.0, 2.0
        self.states = WeakKeyDictionary()
        self.logger = None

    def double(self, name):
        """Return an object of a class that only TensorRT itself can make."""
        return Double(self, name)

    def made(self, name, **state):
        """Return such an object that is in a state."""
        double = self.double(name)
        self.states[double] = SimpleNamespace(**state)
        return double

    def call(self, double, name, *arguments):
        """Answer a call."""
        self.calls.append((name, arguments))
        given = self.returns.get(name, getattr(self, f"_{name.replace('.', '_')}", None))
        if name in self.returns:
            return given(*arguments) if callable(given) else given
        return None if given is None else given(self.states.get(double), *arguments)

    def read(self, double, name):
        """Answer what is asked of a property."""
        if name == "ICudaEngine.device_memory_size_v2":
            return self.memory(math.prod(self.states[double].profile["slices"][2]))
        return {"OnnxParser.num_errors": self.errors, "ICudaEngine.num_io_tensors": 5}[name]

    def named(self, call):
        """Return the arguments of every call of a method."""
        return [arguments for name, arguments in self.calls if name == call]

    def say(self, message):
        """Have TensorRT log an error."""
        import tensorrt

        self.logger.log(tensorrt.ILogger.Severity.ERROR, message)

    def construct(self, name, *arguments):
        """Make an object of a class that can be called."""
        self.calls.append((name, arguments))
        self.logger = arguments[-1]
        network = self.states[arguments[0]] if name == "OnnxParser" else None
        return self.made(name, network=network)

    def _Builder_create_network(self, builder, flags):
        return self.made("INetworkDefinition", model=None)

    def _Builder_create_builder_config(self, builder):
        return self.made("IBuilderConfig", profile=None)

    def _Builder_create_optimization_profile(self, builder):
        return self.made("IOptimizationProfile", shapes={})

    def _Builder_build_serialized_network(self, builder, network, config):
        monitor = self.assigned["IBuilderConfig.progress_monitor"]
        monitor.phase_start("Building engine", None, 2)
        monitor.phase_start("Tactics", "Building engine", 4)
        going = [monitor.step_complete("Tactics", step) for step in range(2)]
        monitor.phase_finish("Tactics")
        going.append(monitor.step_complete("Building engine", 1))
        monitor.phase_finish("Building engine")
        model = base64.b64encode(self.states[network].model).decode()
        plan = {"profile": self.states[config].profile, "model": model}
        return json.dumps(plan).encode() if all(going) else None

    def _OnnxParser_parse(self, parser, model):
        graph = onnx.shape_inference.infer_shapes(onnx.load_from_string(model), strict_mode=True)
        onnx.checker.check_model(graph, full_check=True)
        types = {value.name: value.type.tensor_type.elem_type for value in graph.graph.value_info}
        for node in graph.graph.node:
            if node.op_type == "Cast" and onnx.helper.get_node_attr_value(node, "to") == onnx.TensorProto.UINT8:
                assert types[node.input[0]] == onnx.TensorProto.FLOAT  # TensorRT converts no integers to uint8
        parser.network.model = model
        return True

    def _IOptimizationProfile_set_shape(self, profile, name, low, common, high):
        assert all(a <= b <= c for a, b, c in zip(low, common, high, strict=True))
        profile.shapes[name] = [low, common, high]

    def _IBuilderConfig_add_optimization_profile(self, config, profile):
        config.profile = self.states[profile].shapes
        return 0

    def _IBuilderConfig_create_timing_cache(self, config, timings):
        return self.made("ITimingCache")

    def _IBuilderConfig_set_timing_cache(self, config, cache, ignore_mismatch):
        return True

    def _ITimingCache_serialize(self, cache):
        return b"timings"

    def _Runtime_deserialize_cuda_engine(self, runtime, plan):
        try:
            entries = json.loads(plan)
        except ValueError:
            self.say("Error Code 1: Serialization (magicTag mismatch)")
            return None
        model = base64.b64decode(entries["model"])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        profile = {name: [tuple(shape) for shape in shapes] for name, shapes in entries["profile"].items()}
        return self.made("ICudaEngine", session=session, profile=profile, model=model)

    def _ICudaEngine_get_tensor_name(self, engine, index):
        return [*INPUTS, *OUTPUTS][index]

    def _ICudaEngine_get_tensor_mode(self, engine, name):
        import tensorrt

        return tensorrt.TensorIOMode.INPUT if name in INPUTS else tensorrt.TensorIOMode.OUTPUT

    def _ICudaEngine_get_tensor_dtype(self, engine, name):
        import tensorrt

        return tensorrt.DataType.FLOAT if name in INPUTS else tensorrt.DataType.UINT8

    def _ICudaEngine_get_tensor_profile_shape(self, engine, name, profile_index):
        import tensorrt

        assert profile_index == 0
        return [tensorrt.Dims(shape) for shape in engine.profile[name]]

    def _ICudaEngine_create_engine_inspector(self, engine):
        return self.made("EngineInspector", engine=engine)

    def _EngineInspector_get_engine_information(self, inspector, format):
        return self.layers or _described(onnx.load_from_string(inspector.engine.model).graph)

    def _ICudaEngine_create_execution_context(self, engine, strategy):
        import tensorrt

        assert strategy == tensorrt.ExecutionContextAllocationStrategy.USER_MANAGED
        empty = {"shapes": {}, "addresses": {}, "memory": None, "ready": False, "changes": 0}
        return self.made("IExecutionContext", engine=engine, **empty)

    def _IExecutionContext_set_device_memory(self, context, address, size):
        assert size >= self.memory(math.prod(context.engine.profile["slices"][2]))
        assert address % 256 == 0
        context.memory = address

    def _IExecutionContext_set_input_shape(self, context, name, shape):
        low, _, high = context.engine.profile[name]
        if not all(a <= size <= b for a, size, b in zip(low, shape, high, strict=True)):
            self.say(f"Error Code 3: API Usage Error (Static dimension mismatch while setting input shape of {name})")
            return False
        context.shapes[name], context.ready = shape, False
        context.changes += 1
        return True

    def _IExecutionContext_infer_shapes(self, context):
        return [name for name in INPUTS if name not in context.shapes]

    def _IExecutionContext_set_tensor_address(self, context, name, address):
        context.addresses[name] = address
        context.changes += 1
        return True

    def _IExecutionContext_execute_async_v3(self, context, stream):
        assert context.memory is not None
        assert context.shapes.keys() == {*INPUTS}
        assert context.addresses.keys() == {*INPUTS, *OUTPUTS}
        shapes, changes, captured = dict(context.shapes), context.changes, stream in self.simulator.recording
        if captured and not context.ready:
            self.say("Error Code 1: Cuda Runtime (operation not permitted when stream is capturing)")
            return False
        context.ready = True

        def compute():
            assert not captured or context.changes == changes, "a graph of a context that was modified since"
            self._compute(context, shapes)

        used = (context.memory, *context.addresses.values())
        self.simulator.work(stream, compute, used, self.milliseconds[captured])
        return True

    def _compute(self, context, shapes):
        feed = {name: self._at(context.addresses[name], shapes[name], np.float32) for name in INPUTS}
        for name, values in zip(OUTPUTS, context.engine.session.run([*OUTPUTS], feed), strict=True):
            self._at(context.addresses[name], values.shape, np.uint8)[:] = values

    def _at(self, address, shape, dtype):
        return self.simulator.view(address, math.prod(shape) * np.dtype(dtype).itemsize).view(dtype).reshape(shape)


def _described(graph):
    """What the inspector tells of a plan of a graph, without fusions."""
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    layers = []
    for node in graph.node:
        if node.op_type in ("Conv", "ConvTranspose"):
            tensor = {"Name": node.output[0], "Format/Datatype": _WORDS[types[node.input[1]]]}
            known_as = node.name or f"node_of_{node.output[0]}"
            layers.append({"Name": "fused", "Metadata": f"[ONNX Layer: {known_as}]", "Outputs": [tensor]})
    return json.dumps({"Layers": layers})


def fake_module(fake, version="11.4.0.106"):
    """``tensorrt`` as far as it is used."""
    module = ModuleType("tensorrt")
    module.__version__ = version

    def enumeration(name, *members):
        setattr(module, name, IntEnum(name, members))

    enumeration("BuilderFlag", "TF32")
    enumeration("DataType", "FLOAT", "UINT8", "HALF")
    enumeration("ExecutionContextAllocationStrategy", "STATIC", "USER_MANAGED")
    enumeration("LayerInformationFormat", "JSON")
    enumeration("MemoryPoolType", "WORKSPACE")
    enumeration("NetworkDefinitionCreationFlag", "STRONGLY_TYPED")
    enumeration("ProfilingVerbosity", "DETAILED")
    enumeration("TensorIOMode", "INPUT", "OUTPUT")
    severity = IntEnum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING"])
    module.ILogger = type("ILogger", (), {"Severity": severity})
    module.IProgressMonitor = type("IProgressMonitor", (), {})
    module.Dims = tuple
    for name in ("Builder", "OnnxParser", "Runtime"):
        setattr(module, name, partial(fake.construct, name))
    return module


def install(simulator, monkeypatch):
    """Put a fake in the place of TensorRT, and return it."""
    fake = FakeTensorRT(simulator)
    monkeypatch.setitem(sys.modules, "tensorrt", fake_module(fake))
    # What TensorRT logs goes to the logger of this process.
    tensorrt_log.cache_clear()
    return fake

"""ONNX Runtime on a GPU: a double that computes on the CPU what it finds on a simulated device; and the real one."""

from __future__ import annotations

import json
import re
import sys
import weakref
from types import ModuleType

import numpy as np
import onnxruntime
import pytest

from tomoscribe.engine.backends.contract import SlotShape
from tomoscribe.engine.backends.onnxruntime import OnnxRuntimeBackend
from tomoscribe.engine.backends.onnxruntime_cuda import OnnxRuntimeCudaBackend
from tomoscribe.engine.bundle import Bundle
from tomoscribe.engine.cuda import CudaError, DeviceMemoryError
from tomoscribe.engine.errors import BackendUnavailableError, BundleError

CLASSES = 6
SHAPE = SlotShape(batch=3, context=1, height=16, width=12, classes=CLASSES)
CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
MILLISECONDS = {"HEURISTIC 0": 40, "HEURISTIC 1": 20, "EXHAUSTIVE 0": 30, "EXHAUSTIVE 1": 50}


class Double:
    """A build of ONNX Runtime with the CUDA provider; `trouble` is called with a tuning when a session first runs."""

    def __init__(self, simulator):
        self.simulator = simulator
        self.providers = [CUDA, CPU]
        self.loaded = [CUDA, CPU]
        self.printed = "Please look for libcufft.so.12"
        self.severity = None
        self.milliseconds = dict(MILLISECONDS)
        self.creation = lambda: None
        self.trouble = lambda tuning: None
        self.options, self.counts = [], set()
        self.alive, self.most_alive = weakref.WeakSet(), 0

    def module(self):
        module = ModuleType("onnxruntime")
        module.__version__ = "1.31.1-gpu"
        module.RunOptions, module.SessionOptions = onnxruntime.RunOptions, onnxruntime.SessionOptions
        module.disable_telemetry_events = lambda: None
        module.get_available_providers = lambda: self.providers
        module.preload_dlls = lambda: sys.stdout.write(self.printed)
        module.set_default_logger_severity = lambda severity: setattr(self, "severity", severity)
        module.InferenceSession = lambda *arguments, **options: Session(self, *arguments, **options)
        return module


class Session:
    def __init__(self, double, path, options, *, providers, enable_fallback):
        ((name, self.provider),) = providers
        assert name == CUDA
        assert enable_fallback == 0
        assert not options.enable_mem_pattern
        double.creation()
        self.double = double
        self.real = onnxruntime.InferenceSession(path, providers=[CPU])
        self.get_inputs, self.get_outputs = self.real.get_inputs, self.real.get_outputs
        self.tuning = f"{self.provider['cudnn_conv_algo_search']} {self.provider['prefer_nhwc']}"
        double.options.append(self.provider)
        double.alive.add(self)
        double.most_alive = max(double.most_alive, len(double.alive))

    def get_providers(self):
        return self.double.loaded

    def io_binding(self):
        return Binding(int(self.provider["device_id"]))

    def run_with_iobinding(self, binding, options):
        assert options.get_run_config_entry("disable_synchronize_execution_providers") == "1"
        self.double.trouble(self.tuning)
        simulator = self.double.simulator

        def views(bound):
            return {
                name: simulator.view(address, np.prod(shape) * np.dtype(dtype).itemsize).view(dtype).reshape(shape)
                for name, (dtype, shape, address) in bound.items()
            }

        def compute():
            inputs, outputs = views(binding.inputs), views(binding.outputs)
            assert all(np.isfinite(values).all() for values in inputs.values())
            self.double.counts.add(len(outputs["labels"]))
            for name, values in zip(outputs, self.real.run(list(outputs), inputs), strict=True):
                outputs[name][:] = values

        addresses = [address for *_, address in (*binding.inputs.values(), *binding.outputs.values())]
        stream = int(self.provider["user_compute_stream"])
        simulator.work(stream, compute, addresses, self.double.milliseconds[self.tuning])


class Binding:
    def __init__(self, device):
        self.device = device
        self.inputs, self.outputs = {}, {}

    def bind_input(self, name, device_type, device_id, element_type, shape, buffer_ptr):
        assert (device_type, device_id, element_type) == ("cuda", self.device, np.float32)
        self.inputs[name] = element_type, shape, buffer_ptr

    def bind_output(self, name, device_type, device_id, element_type, shape, buffer_ptr):
        assert (device_type, device_id, element_type) == ("cuda", self.device, np.uint8)
        self.outputs[name] = element_type, shape, buffer_ptr


@pytest.fixture
def double(simulate, simulator, monkeypatch):
    simulate("cuda.bindings")
    double = Double(simulator)
    monkeypatch.setitem(sys.modules, "onnxruntime", double.module())
    return double


@pytest.fixture
def build(double, make_bundle):
    """A backend on the double, with an FP32 and an FP16 network; it is closed."""
    bundle, built = make_bundle(others=["fp16"]), []

    def make(**options):
        built.append(OnnxRuntimeCudaBackend(bundle, **options))
        return built[-1]

    yield make
    for backend in built:
        backend.close()


def fill(slot, seed, count):
    random = np.random.default_rng(seed)
    slot.slices[:] = random.integers(0, 100, slot.slices.shape)
    slot.mean[:], slot.rstd[:], slot.count = random.integers(0, 9), -1 if seed % 2 else 1, count
    slot.labels[:] = slot.scores[:] = 254


def answers(backend, counts, shape=SHAPE):
    """Labels and scores of several slots that are at work at the same time."""
    slots = backend.allocate(shape, len(counts))
    for seed, (slot, count) in enumerate(zip(slots, counts, strict=True)):
        fill(slot, seed, count)
        backend.submit(slot)
    for slot in slots:
        backend.wait(slot)
    return [(slot.labels[: slot.count].copy(), slot.scores[: slot.count].copy()) for slot in slots]


def tuning_of(options):
    return f"{options['cudnn_conv_algo_search']} {options['prefer_nhwc']}"


@pytest.mark.parametrize("counts", [(3, 3), (3, 1, 2), (1,)])
def test_answers_are_those_of_the_cpu(build, make_bundle, counts, double):
    found = answers(build(precision="fp32"), counts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "onnxruntime", onnxruntime)
        reference = OnnxRuntimeBackend(make_bundle(), threads=1)
    expected = answers(reference, counts)
    reference.close()
    assert len({tuple(np.unique(labels)) for labels, _ in expected}) >= 1
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])
    # Another number would have cuDNN plan every convolution anew.
    assert double.counts == {3}


def test_a_volume_is_labelled_as_on_the_cpu(double, tiny_bundle, fakes):
    values = fakes.volume(7, 30, 20, np.int16)
    plan, sink = fakes.plan_for(values, largest=24, multiple=8), fakes.Sink(values.shape)
    backend = OnnxRuntimeCudaBackend(Bundle.load(tiny_bundle), precision="fp32")
    fakes.run(fakes.Tomogram(values), backend, plan, [sink], dtype="int16", batch=3, slots=3)
    backend.close()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "onnxruntime", onnxruntime)
        reference = OnnxRuntimeBackend(Bundle.load(tiny_bundle), threads=1)
    expected = fakes.Sink(values.shape)
    fakes.run(fakes.Tomogram(values), reference, plan, [expected], batch=3)
    reference.close()
    assert set(np.unique(expected.labels)) == {0, 1, 2}
    np.testing.assert_array_equal(sink.labels, expected.labels)
    np.testing.assert_array_equal(sink.scores, expected.scores)


def test_the_fp16_network_is_taken_by_default(build, tmp_path):
    backend = build()
    assert backend.description == "ONNX Runtime 1.31.1 on GPU 0, Simulated A, FP16"
    ((labels, scores),) = answers(backend, [2])
    slot = type("Slot", (), {})
    slot.slices, slot.labels, slot.scores = np.empty((5, 16, 12), np.float32), np.empty(0), np.empty(0)
    slot.mean, slot.rstd = np.empty(5, np.float32), np.empty(5, np.float32)
    fill(slot, 0, 2)
    session = onnxruntime.InferenceSession(tmp_path / "model.fp16.onnx", providers=[CPU])
    inputs = {name: getattr(slot, name)[:4] for name in ("slices", "mean", "rstd")}
    expected = session.run(["labels", "scores"], inputs)
    np.testing.assert_array_equal(labels, expected[0])
    np.testing.assert_array_equal(scores, expected[1])


@pytest.mark.parametrize(("precision", "tf32"), [("fp32", "0"), ("fp16", "1")])
def test_the_provider_is_told_device_stream_and_arithmetic(build, double, precision, tf32):
    backend = build(precision=precision, device=1)
    answers(backend, [3])
    for options in double.options:
        assert (
            options.items()
            >= {
                "device_id": "1",
                "user_compute_stream": str(backend._pipeline.compute.handle),
                "use_tf32": tf32,
                "arena_extend_strategy": "kSameAsRequested",
            }.items()
        )


def test_the_fastest_tuning_is_measured_once_and_remembered(build, double, trials):
    backend = build()
    answers(backend, [3, 2])
    assert [tuning_of(options) for options in double.options] == [*MILLISECONDS, "HEURISTIC 1"]
    assert double.most_alive == 1
    answers(backend, [1], SlotShape(1, 1, 8, 8, CLASSES))
    assert tuning_of(double.options[-1]) == "HEURISTIC 1"
    (trial,) = json.loads(trials.read_text()).values()
    assert trial["facts"]["device"]["name"] == "Simulated A"
    times = trial["seconds_per_slice"]
    assert times == {
        "heuristic nchw": pytest.approx(0.040 / 3, rel=0.1),
        "heuristic nhwc": pytest.approx(0.020 / 3, rel=0.1),
        "exhaustive nchw": pytest.approx(0.030 / 3, rel=0.1),
        "exhaustive nhwc": pytest.approx(0.050 / 3, rel=0.1),
    }

    double.options.clear()
    answers(build(), [3, 2])
    assert [tuning_of(options) for options in double.options] == ["HEURISTIC 1"]


@pytest.mark.parametrize("change", ["precision", "device", "version"])
def test_what_was_measured_is_not_believed_of_another(build, double, change, monkeypatch):
    answers(build(), [1])
    double.options.clear()
    if change == "version":
        monkeypatch.setattr(sys.modules["onnxruntime"], "__version__", "1.32.0")
    answers(build(**{"precision": {"precision": "fp32"}, "device": {"device": 1}}.get(change, {})), [1])
    assert len(double.options) == 5


def test_a_tuning_that_fails_is_left_out(build, double, trials):
    def fail(tuning):
        if tuning == "HEURISTIC 1":
            raise RuntimeError("CUDNN_FE failure 8: HEURISTIC_QUERY_FAILED")
        if tuning == "EXHAUSTIVE 0":
            raise RuntimeError("Failed to allocate memory for requested buffer of size 9")

    double.trouble = fail
    answers(build(), [3])
    assert tuning_of(double.options[-1]) == "HEURISTIC 0"
    (trial,) = json.loads(trials.read_text()).values()
    assert set(trial["seconds_per_slice"]) == {"heuristic nchw", "exhaustive nhwc"}


def test_where_none_has_the_memory_smaller_slots_are_tried_anew(build, double, simulator, trials):
    def fail(tuning):
        raise RuntimeError("Failed to allocate memory for requested buffer of size 9")

    backend = build()
    double.trouble = fail
    with pytest.raises(DeviceMemoryError, match=r"1 slots of 3 slices of 16 × 12 \(Failed to allocate"):
        answers(backend, [3])
    assert not trials.exists()
    assert simulator.device_memory == simulator.host_memory == {}
    assert len(double.alive) == 0
    double.trouble = lambda tuning: None
    answers(backend, [1], SlotShape(1, 1, 8, 8, CLASSES))
    assert trials.exists()


def test_an_error_that_someone_keeps_does_not_keep_the_session(build, double):
    def fail(tuning):
        raise RuntimeError("CUDA failure 2: out of memory")

    backend = build()
    slots = backend.allocate(SHAPE, 2)
    double.trouble = fail
    with pytest.raises(DeviceMemoryError, match="out of memory") as caught:
        backend.submit(slots[0])
    double.trouble = lambda tuning: None
    backend.cancel()
    answers(backend, [1], SlotShape(1, 1, 8, 8, CLASSES))
    assert double.most_alive == 1
    assert caught.value.__cause__ is not None


def test_a_session_is_loaded_anew_for_slots_of_another_size_only(build, double):
    backend = build()
    answers(backend, [3])
    before = len(double.options)
    answers(backend, [2])
    answers(backend, [3], SlotShape(3, 1, 16, 12, CLASSES, kept=(1,)))
    assert len(double.options) == before
    answers(backend, [3, 3])
    assert len(double.options) == before + 1
    assert double.most_alive == 1


def test_closing_ends_the_session(build, double, simulator):
    for use in (False, True):
        backend = build()
        if use:
            answers(backend, [3])
        backend.close()
        backend.close()
        assert len(double.alive) == 0
        assert simulator.retained == 0


def test_nothing_is_printed(build, capsys):
    answers(build(), [3])
    assert capsys.readouterr() == ("", "")


def test_without_the_provider_in_the_package(build, double):
    double.providers = [CPU]
    with pytest.raises(BackendUnavailableError) as caught:
        build()
    assert "expected an ONNX Runtime that has CUDAExecutionProvider, found 1.31.1 with CPUExecutionProvider" in str(
        caught.value
    )
    assert 'pip install "tomoscribe[cuda]"' in str(caught.value)


@pytest.mark.parametrize("version", ["1.9.0", "1.20.1"])
def test_an_old_onnxruntime_is_refused(build, monkeypatch, version):
    monkeypatch.setattr(sys.modules["onnxruntime"], "__version__", version)
    with pytest.raises(BackendUnavailableError, match=rf"expected ONNX Runtime 1\.21 or later, found {version};"):
        build()


def test_without_onnxruntime(build, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendUnavailableError, match=r'pip install "tomoscribe\[cuda\]"'):
        build()


@pytest.mark.parametrize(
    ("printed", "reason", "severity"),
    [
        ("Failed to load a/libcublas.so.13: libcublas.so.13: no\nFailed to load b: no\n", "libcublas.so.13: no)", 4),
        ("", "it tells why on standard error", 3),
    ],
)
def test_a_provider_that_is_not_loaded_is_no_silent_fallback(build, double, simulator, printed, reason, severity):
    double.loaded, double.printed = [CPU], printed
    expected = f"expected ONNX Runtime 1.31.1 to load its CUDA provider, found that it cannot ({reason}"
    with pytest.raises(BackendUnavailableError, match=re.escape(expected)) as caught:
        build()
    assert "\n" not in str(caught.value)
    assert double.severity == severity
    assert simulator.retained == 0


@pytest.mark.parametrize(
    ("says", "kind", "told"),
    [
        ("CUDA failure 100: no CUDA-capable device\nis detected", CudaError, "GPU 0 failed to load the network (CUDA"),
        ("CUDNN failure 4000: CUDNN_STATUS_ALLOC_FAILED", DeviceMemoryError, "memory ran out"),
        ("[ONNXRuntimeError] : 7 : INVALID_PROTOBUF", BundleError, "model.fp16.onnx: ONNX Runtime 1.31.1 cannot load"),
    ],
)
def test_what_fails_when_it_is_loaded_is_told_and_nothing_is_kept(build, double, simulator, says, kind, told):
    def fail():
        raise RuntimeError(says)

    double.creation = fail
    with pytest.raises(kind, match=re.escape(told)) as caught:
        build()
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    assert simulator.retained == 0


def test_a_network_that_is_not_in_the_graph_contract(double, make_bundle, simulator):
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info("slices", TensorProto.FLOAT, [1])
    graph = helper.make_graph(
        [helper.make_node("Identity", ["slices"], ["labels"])],
        "other",
        [value],
        [helper.make_tensor_value_info("labels", TensorProto.FLOAT, [1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    with pytest.raises(BundleError, match="expected the inputs mean, rstd, slices"):
        OnnxRuntimeCudaBackend(make_bundle(model), precision="fp32")
    assert simulator.retained == 0


@pytest.mark.parametrize("precision", ["int8", "bf16"])
def test_a_precision_that_it_does_not_have(build, precision):
    with pytest.raises(BackendUnavailableError, match=f"expected the precision fp32 or fp16, found {precision}"):
        build(precision=precision)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "int16"])
def test_answers_of_a_gpu_are_those_of_the_cpu(make_bundle, dtype):
    bundle = make_bundle()
    try:
        backend = OnnxRuntimeCudaBackend(bundle, precision="fp32")
    except BackendUnavailableError as error:
        pytest.skip(str(error))
    shape = SlotShape(3, 1, 96, 64, CLASSES, dtype)
    counts = (3, 1, 3)
    found = answers(backend, counts, shape)
    backend.close()
    reference = OnnxRuntimeBackend(bundle)
    expected = answers(reference, counts, SlotShape(3, 1, 96, 64, CLASSES))
    reference.close()
    for one, other in zip(found, expected, strict=True):
        # Some of cuDNN's ways to convolve round where whole numbers are exact.
        assert np.mean(one[0] != other[0]) < 1e-3
        assert np.mean(one[1] != other[1]) < 1e-2

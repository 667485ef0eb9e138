"""Building, proving, writing and loading a plan, call by call, on doubles that refuse what the bindings would."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest

import tomoscribe.export.tensorrt as export_module
from tomoscribe.engine.cuda import CudaError, DeviceFacts, DeviceMemoryError
from tomoscribe.engine.errors import BackendUnavailableError, BundleError
from tomoscribe.engine.plans import DeviceIdentity, PlanError, PlanFile, PlanIdentity, PlanMismatchError, PlanShapes
from tomoscribe.engine.plans.layers import convolution_precisions
from tomoscribe.engine.plans.loading import load_plan, tensorrt_log, tensorrt_version
from tomoscribe.engine.plans.making import WORKSPACE
from tomoscribe.export.parity import ParityError, Sample, onnxruntime_runner
from tomoscribe.export.tensorrt import build_plan

SHAPES = PlanShapes(batch=2, height=16, width=24)
FACTS = DeviceFacts("NVIDIA H200", "9.0", 4, 150_000_000_000)


@pytest.fixture(autouse=True)
def _memory(simulator):
    simulator.capacity = FACTS.memory


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "caches" / "h200.timing"


@pytest.fixture
def build(bundle, gpu, cache):
    def build(precision="fp16", **options):
        return build_plan(bundle, precision, SHAPES, samples(3), timing_cache=cache, **options)

    return build


def samples(*counts):
    random = np.random.default_rng(0)
    return [
        Sample(
            f"noise {count}",
            (100 + 9 * random.standard_normal((count + 2, 20, 20))).astype(np.float32),
            np.full(count + 2, 100, np.float32),
            np.full(count + 2, 1 / 9, np.float32),
        )
        for count in counts
    ]


def layers(bundle, precision, words):
    """What the inspector tells of a plan whose convolutions run in one precision."""
    names = convolution_precisions(onnx.load(bundle.artifact_path(precision)))
    tensor = {"Name": "between", "Format/Datatype": words}
    return json.dumps({"Layers": [{"Name": "a", "Metadata": f"[ONNX Layer: {n}]", "Outputs": [tensor]} for n in names]})


def identity(bundle, version, **changes):
    return replace(PlanIdentity.here(bundle, "fp16", SHAPES, version, DeviceIdentity.of(FACTS)), **changes)


def test_a_plan_is_built_proved_written_and_loaded(build, bundle, gpu):
    path = build()
    version = gpu.real.__version__
    assert path == bundle.path / "plans" / f"nvidia-h200-trt{version}-fp16-2x16x24.plan"
    loaded = load_plan(path, identity(bundle, version))
    assert loaded.file.identity.device == DeviceIdentity("NVIDIA H200", "9.0", 4, 140)
    facts = loaded.file.facts
    assert facts["parity"]["labels_equal"] > 0.99
    assert facts["parity"]["passed"]
    assert facts["parity"]["pixels"] == 3 * 16 * 24  # two batches, the second of one slice
    assert facts["convolutions"] == {"fp16": facts["layers"]}
    assert gpu.named("Runtime.deserialize_cuda_engine")[-1] == (path.read_bytes(),)


def test_the_network_is_strongly_typed_and_the_profile_that_of_the_tiles(build, gpu):
    path = build()
    typed = gpu.real.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    assert gpu.named("Builder.create_network") == [(1 << int(typed),)]
    assert json.loads(path.read_bytes())["profile"] == {
        "slices": [[3, 16, 24], [4, 16, 24], [4, 16, 24]],
        "mean": [[3], [4], [4]],
        "rstd": [[3], [4], [4]],
    }
    assert gpu.named("IBuilderConfig.set_memory_pool_limit") == [(gpu.real.MemoryPoolType.WORKSPACE, WORKSPACE)]
    assert gpu.assigned["IBuilderConfig.profiling_verbosity"] == gpu.real.ProfilingVerbosity.DETAILED
    order = [name for name, _ in gpu.calls]
    assert order.index("IBuilderConfig.add_optimization_profile") < order.index("Builder.build_serialized_network")
    assert order.index("IBuilderConfig.set_timing_cache") < order.index("Builder.build_serialized_network")
    assert gpu.named("IBuilderConfig.clear_flag") == []


def test_a_layer_may_use_half_of_a_small_gpu(build, gpu, simulator):
    simulator.capacity = 6 * 2**30
    build()
    assert gpu.named("IBuilderConfig.set_memory_pool_limit")[0][1] == 3 * 2**30


def test_a_plan_is_compared_with_the_fp32_artifact(build, bundle, monkeypatch):
    asked = []

    def runner(artifact):
        asked.append(artifact)
        return onnxruntime_runner(artifact)

    monkeypatch.setattr(export_module, "onnxruntime_runner", runner)
    build()
    assert asked == [bundle.artifact_path("fp32")]


def test_tf32_is_off_where_fp32_is_asked_for(build, gpu):
    build("fp32")
    assert gpu.named("IBuilderConfig.clear_flag") == [(gpu.real.BuilderFlag.TF32,)]


def test_both_batch_sizes_are_compared(build, gpu):
    build()
    shapes = [shape for name, shape in gpu.named("IExecutionContext.set_input_shape") if name == "slices"]
    assert shapes == [(4, 16, 24), (3, 16, 24)]


def test_timings_are_kept_and_given_to_the_next_build(build, gpu, cache):
    build()
    build()
    assert gpu.named("IBuilderConfig.create_timing_cache") == [(b"",), (b"timings",)]
    assert cache.read_bytes() == b"timings"
    assert [ignore_mismatch for _, ignore_mismatch in gpu.named("IBuilderConfig.set_timing_cache")] == [False, False]


@pytest.mark.parametrize("refuses", ["IBuilderConfig.create_timing_cache", "IBuilderConfig.set_timing_cache"])
def test_timings_of_another_version_are_left_out(build, gpu, cache, refuses):
    cache.parent.mkdir()
    cache.write_bytes(b"of another version")

    def answer(*arguments):
        stale = len(gpu.named("IBuilderConfig.create_timing_cache")) == 1
        if refuses.endswith("set_timing_cache"):
            return not stale
        return None if stale else gpu.double("ITimingCache")

    gpu.returns[refuses] = answer
    build()
    assert gpu.named("IBuilderConfig.create_timing_cache") == [(b"of another version",), (b"",)]
    assert cache.read_bytes() == b"timings"


def test_timings_are_kept_by_gpu_and_version_in_the_users_cache_folder(bundle, gpu, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "absent"))
    build_plan(bundle, "fp16", SHAPES, samples(3))
    (kept,) = (tmp_path / "absent" / "tomoscribe").iterdir()
    assert kept.name == f"nvidia-h200-trt{gpu.real.__version__}.timing"


def test_a_cache_that_cannot_be_written_stops_nothing(build, cache):
    cache.parent.write_text("not a folder")
    assert build().is_file()


def test_progress_is_told_and_grows(build):
    told = []
    build(progress=lambda phase, share: told.append((phase, round(share, 3))))
    assert told == [
        ("Building engine", 0),
        ("Tactics", 0),
        ("Tactics", 0.125),
        ("Tactics", 0.25),
        ("Building engine", 0.25),
        ("Building engine", 1),
    ]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, RuntimeError])
def test_ctrl_c_cancels_the_build(build, bundle, kind):
    def interrupt(phase, share):
        if share:
            raise kind

    with pytest.raises(kind):
        build(progress=interrupt)
    assert not (bundle.path / "plans").exists()


def test_a_plan_in_another_precision_is_not_written_unless_drift_is_allowed(build, bundle, gpu):
    gpu.layers = layers(bundle, "fp16", "Float")
    with pytest.raises(ParityError, match="in fp32 instead of fp16"):
        build()
    assert not (bundle.path / "plans").exists()
    facts = PlanFile.read(build(allow_drift=True)).facts
    assert facts["parity"]["labels_equal"] > 0.99
    assert facts["parity"]["passed"] is False
    assert len(facts["convolutions_in_another_precision"]) == facts["layers"]


def test_a_plan_that_answers_otherwise_is_not_written_unless_drift_is_allowed(build, bundle, gpu, monkeypatch):
    honest = gpu._compute

    def wrong(context, shapes):
        honest(context, shapes)
        labels = gpu._at(context.addresses["labels"], (shapes["mean"][0] - 2, 16, 24), np.uint8)
        labels[:, :8] = (labels[:, :8] + 1) % 3

    monkeypatch.setattr(gpu, "_compute", wrong)
    with pytest.raises(ParityError, match=r"expected equal labels on 99\.90% of pixels, found 50\.0000%"):
        build()
    assert not (bundle.path / "plans").exists()
    facts = PlanFile.read(build(allow_drift=True)).facts
    assert facts["parity"]["passed"] is False
    assert facts["parity"]["shortfalls"] == ["expected equal labels on 99.90% of pixels, found 50.0000%"]


REFUSALS = [
    ("OnnxParser.parse", False, PlanError, "cannot parse it"),
    ("IBuilderConfig.add_optimization_profile", -1, PlanError, "refuses the sizes 2x16x24"),
    ("Builder.build_serialized_network", None, PlanError, "cannot build it for 2x16x24 on NVIDIA H200"),
    ("Runtime.deserialize_cuda_engine", None, PlanError, "cannot load it"),
    ("ICudaEngine.create_execution_context", None, CudaError, "create_execution_context failed"),
    ("IExecutionContext.set_input_shape", False, CudaError, r"set_input_shape of slices to \(4, 16, 24\) failed"),
    ("IExecutionContext.infer_shapes", ["mean"], CudaError, "infer_shapes, which lacks mean, failed"),
    ("IExecutionContext.set_tensor_address", False, CudaError, "set_tensor_address of slices failed"),
    ("IExecutionContext.execute_async_v3", False, CudaError, "execute_async_v3 failed"),
    ("EngineInspector.get_engine_information", "{}", PlanError, "precisions of its layers, found none"),
]


@pytest.mark.parametrize(("call", "answer", "error", "message"), REFUSALS)
def test_every_refusal_is_one_line_with_tensorrts_reason(build, bundle, gpu, call, answer, error, message):
    def refuse(*arguments):
        gpu.logger.log(gpu.real.ILogger.Severity.WARNING, "of no matter")
        gpu.say("the reason\nof TensorRT")
        return answer

    gpu.returns[call] = refuse
    with pytest.raises(error, match=message) as caught:
        build()
    assert "\n" not in str(caught.value)
    assert not isinstance(caught.value, DeviceMemoryError)
    if not call.startswith("EngineInspector"):
        assert "(the reason of TensorRT)" in str(caught.value)
    assert not (bundle.path / "plans").exists()


@pytest.mark.parametrize(
    "words",
    [
        "[executionContext.cpp::ExecutionContext::470] Error Code 2: OutOfMemory (no further information)",
        "[defaultAllocator.cpp::allocate::19] Error Code 1: Cuda Runtime (out of memory)",
        "Error Code 4: Internal Error (Could not find any implementation for node conv due to insufficient workspace.)",
        "Requested amount of GPU memory (17920000000 bytes) could not be allocated.",
    ],
)
@pytest.mark.parametrize(
    "call",
    [
        "Builder.build_serialized_network",
        "Runtime.deserialize_cuda_engine",
        "ICudaEngine.create_execution_context",
    ],
)
def test_a_lack_of_memory_is_told_from_other_failures(build, bundle, gpu, call, words):
    def refuse(*arguments):
        gpu.say("what came first")
        gpu.say(words)

    gpu.returns[call] = refuse
    with pytest.raises(DeviceMemoryError) as caught:
        build()
    assert words in str(caught.value)
    assert "smaller" in str(caught.value)  # what to do about it
    assert "\n" not in str(caught.value)
    assert not (bundle.path / "plans").exists()


def test_the_parsers_own_reason_is_given(build, gpu):
    gpu.returns |= {"OnnxParser.parse": False, "OnnxParser.get_error": gpu.double("ParserError")}
    gpu.errors = 1
    gpu.returns["ParserError.desc"] = "no importer\nfor Roll"
    with pytest.raises(PlanError, match="no importer for Roll"):
        build()


def test_the_first_error_is_the_reason_and_is_forgotten(build, gpu):
    def refuse(*arguments):
        gpu.logger.log(gpu.real.ILogger.Severity.INTERNAL_ERROR, "the cause")
        gpu.say("what came of it")
        return False

    gpu.returns["OnnxParser.parse"] = refuse
    with pytest.raises(PlanError, match=r"\(the cause\)"):
        build()
    assert tensorrt_log().reason() == "it gives no reason"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"tensorrt": "9.0.0"}, "tensorrt"),
        ({"artifact": "0" * 64}, "artifact"),
        ({"system": "windows-amd64"}, "system"),
    ],
)
def test_a_plan_for_something_else_is_refused_before_tensorrt_sees_it(build, bundle, gpu, change, field):
    path = build()
    needed = identity(bundle, gpu.real.__version__, **change)
    seen = len(gpu.calls)
    with pytest.raises(PlanMismatchError) as caught:
        load_plan(path, needed)
    assert (caught.value.field, caught.value.expected) == (field, change[field])
    assert f"tomoscribe export {bundle.path} --tensorrt --precision fp16 --slice-size 16x24" in str(caught.value)
    assert len(gpu.calls) == seen


def test_an_altered_plan_is_refused_before_tensorrt_sees_it(build, bundle, gpu):
    path = build()
    path.write_bytes(b"another serialized engine")
    seen = len(gpu.calls)
    with pytest.raises(PlanMismatchError, match="sha256: expected"):
        load_plan(path, identity(bundle, gpu.real.__version__))
    assert len(gpu.calls) == seen


def test_a_plan_whose_tensors_are_not_the_contracts_is_refused(build, bundle, gpu):
    path, needed = build(), identity(bundle, gpu.real.__version__)
    dims = gpu.real.Dims

    def refused(call, answer, message):
        gpu.returns = {f"ICudaEngine.{call}": answer}
        with pytest.raises(PlanMismatchError, match=message):
            load_plan(path, needed)

    half, output = gpu.real.DataType.HALF, gpu.real.TensorIOMode.OUTPUT
    refused("get_tensor_dtype", half, "labels: expected output uint8, found output half")
    with pytest.raises(PlanMismatchError, match="labels: expected output uint8"):
        build()
    refused("get_tensor_mode", output, "mean: expected input float, found output float")
    for low, high in ((4, 4), (3, 9)):
        shapes = [dims((low,)), dims((4,)), dims((high,))]
        found = rf"profile of mean: expected \(3,\) to \(4,\), found \({low},\) to \({high},\)"
        refused("get_tensor_profile_shape", lambda *_, shapes=shapes: shapes, found)
    refused("get_tensor_name", "image", "tensors: expected labels, mean, rstd, scores, slices, found image")


@pytest.mark.parametrize("version", ["10.12.0.36", "12.0.0"])
def test_versions_that_are_not_known_to_work_are_refused(gpu, monkeypatch, version):
    import tensorrt

    monkeypatch.setattr(tensorrt, "__version__", version)
    with pytest.raises(BackendUnavailableError, match=f"expected TensorRT 10.13 to 11.x, found {version}"):
        tensorrt_version()


def test_a_precision_that_the_bundle_lacks(build):
    with pytest.raises(BundleError, match="no int8 artifact"):
        build("int8")

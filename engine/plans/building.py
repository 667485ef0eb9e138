"""From an ONNX artifact to a serialized TensorRT engine, with the API that 10.13 to 11.x have in common."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from tomoscribe.engine.errors import BackendUnavailableError, OutputError
from tomoscribe.engine.plans.identity import PlanError, PlanIdentity
from tomoscribe.engine.plans.loading import tensorrt_log
from tomoscribe.engine.plans.progress import BuildProgress, Phases, progress_monitor
from tomoscribe.engine.replacing import replacing

if TYPE_CHECKING:
    import onnx
    import tensorrt

__all__ = ["build_engine", "load_network", "with_float_casts"]


def load_network(artifact: Path) -> onnx.ModelProto:
    """Read an ONNX file, without what it may refer to outside of itself: its sha256 does not cover that.

    Raises:
        BackendUnavailableError: onnx is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise BackendUnavailableError(
            f"tensorrt: onnx, which a plan is built with, cannot be imported ({error}); install it with: "
            'pip install "tomoscribe[tensorrt]"'
        ) from error
    return onnx.load(artifact, load_external_data=False)


def build_engine(
    artifact: Path, identity: PlanIdentity, *, workspace: int, timing_cache: Path | None, progress: BuildProgress
) -> bytes:
    """Build a plan on the current CUDA device.

    The network is strongly typed: what a layer computes in is what the ONNX file says, with no flag for it. TensorRT
    11 has no other networks. In FP32, TF32 is switched off, which TensorRT would use for convolutions.

    Args:
        artifact: the ONNX file.
        identity: what the plan is for.
        workspace: bytes of device memory that a layer may use while it works.
        timing_cache: file of measured layer timings, read if it is there and written at the end; see
            ``IBuilderConfig.create_timing_cache``. None where there is no place for one.
        progress: is told of the phases.

    Raises:
        BackendUnavailableError: onnx is not installed.
        DeviceMemoryError: the GPU's memory does not suffice.
        PlanError: TensorRT cannot parse the file or build it.
        KeyboardInterrupt: Ctrl-C, after which the build ended early.
    """
    import tensorrt

    model = with_float_casts(load_network(artifact)).SerializeToString()
    log = tensorrt_log()
    log.errors.clear()
    builder = tensorrt.Builder(log.logger)
    network = builder.create_network(1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    # The parser owns the weights that the network refers to, and has to outlive the build.
    parser = tensorrt.OnnxParser(network, log.logger)
    if not parser.parse(model):
        reason = " ".join(parser.get_error(0).desc().split()) if parser.num_errors else log.reason()
        raise PlanError(f"{artifact}: TensorRT {tensorrt.__version__} cannot parse it ({reason})", "export it again")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(tensorrt.MemoryPoolType.WORKSPACE, workspace)
    config.profiling_verbosity = tensorrt.ProfilingVerbosity.DETAILED
    if identity.precision == "fp32":
        config.clear_flag(tensorrt.BuilderFlag.TF32)
    _add_profile(builder, config, artifact, identity)
    cache = _attach_timing_cache(config, timing_cache)
    phases = Phases(progress)
    monitor = progress_monitor(phases)
    config.progress_monitor = monitor
    plan = builder.build_serialized_network(network, config)
    if phases.error is not None:
        raise phases.error
    if plan is None:
        raise log.failure(
            PlanError,
            f"{artifact}: TensorRT {tensorrt.__version__} cannot build it for {identity.shapes} on "
            f"{identity.device.name}",
            "use another precision or another version of TensorRT",
        )
    if cache is not None and timing_cache is not None:
        _store(cache, timing_cache)
    return bytes(plan)


def with_float_casts(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of a model in which only floating-point numbers are cast to uint8.

    TensorRT has no conversion of integers to uint8 (``tensorrt.DataType``), and labels are an argmax. Every label is
    exact in float32.
    """
    from onnx import TensorProto, helper, shape_inference

    inferred = shape_inference.infer_shapes(model, strict_mode=True)
    graph = inferred.graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input)}
    nodes = []
    for node in graph.node:
        casts_to = helper.get_node_attr_value(node, "to") if node.op_type == "Cast" else None
        if casts_to == TensorProto.UINT8 and types.get(node.input[0]) not in (TensorProto.FLOAT, TensorProto.FLOAT16):
            name = f"{node.output[0]}_as_float"
            nodes.append(helper.make_node("Cast", [node.input[0]], [name], name=name, to=TensorProto.FLOAT))
            node.input[0] = name
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    return inferred


def _add_profile(
    builder: tensorrt.Builder, config: tensorrt.IBuilderConfig, artifact: Path, identity: PlanIdentity
) -> None:
    shapes, context = identity.shapes, identity.context
    smallest, largest = shapes.inputs(1, context), shapes.inputs(shapes.batch, context)
    profile = builder.create_optimization_profile()
    for name, shape in largest.items():
        # The full batch is the common one; the last of a tomogram is often smaller.
        profile.set_shape(name, smallest[name], shape, shape)
    if config.add_optimization_profile(profile) < 0:
        raise PlanError(
            f"{artifact}: TensorRT refuses the sizes {shapes} ({tensorrt_log().reason()})", "use other tiles"
        )


def _attach_timing_cache(config: tensorrt.IBuilderConfig, path: Path | None) -> tensorrt.ITimingCache | None:
    """Begin with the timings of earlier builds, or with none where they are of another GPU, version or driver."""
    if path is not None:
        with contextlib.suppress(OSError):
            cache = config.create_timing_cache(path.read_bytes())
            if cache is not None and config.set_timing_cache(cache, False):
                return cache
    cache = config.create_timing_cache(b"")
    if cache is not None:
        config.set_timing_cache(cache, False)
    return cache


def _store(cache: tensorrt.ITimingCache, path: Path) -> None:
    # Without the file the next build is slower and nothing else.
    with contextlib.suppress(OutputError), replacing(path) as temporary:
        temporary.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(bytes(cache.serialize()))

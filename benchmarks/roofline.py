"""The machine's peak in FP32, BF16 and INT8, and the operations that a network takes.

    python benchmarks/roofline.py [--json FILE] [--size 2048] [--seconds 2] [--model BUNDLE]

A peak is the best that any library at hand makes of one large matrix product on all cores that this process may use:
the same product in NumPy, PyTorch, ONNX Runtime and OpenVINO, as far as they are installed and know the precision. A
product of matrices is what convolutions come down to, and has no memory to wait for at this size. INT8 is uint8 times
int8, as in quantised networks, with the quantising of one factor among what is timed.

The operations of a network are twice the multiplications of its convolutions, those of the graph that the bundle holds;
normalisation, pooling, ReLU and softmax are a few in a thousand and not counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
import onnx
from measuring import argument_parser, markdown_table, save_results
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tomoscribe.engine import Bundle, default_bundle
from tomoscribe.engine.cores import usable_cores

__all__ = ["measure_peaks", "operations_per_voxel"]

# A matrix of float32, and the call that multiplies it by another, in a library that is loaded.
Product = Callable[[NDArray[np.float32]], object]


def operations_per_voxel(model: Path) -> float:
    """Return the operations, twice the multiplications of the convolutions, that a network takes to label one voxel.

    Args:
        model: a network in the graph contract, as ONNX; it labels every pixel of the slice that it is given.
    """
    graph = onnx.load(model).graph
    weights = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    # Pixels of a tensor for each pixel of the slice. What a node does not resize is as fine as what it comes from.
    density: dict[str, float] = {}
    operations = 0.0
    for node in graph.node:
        here = next((density[name] for name in node.input if name in density), 1.0)
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        step = float(np.prod(attributes.get("strides", [1])))
        if node.op_type == "ConvTranspose":
            operations += 2 * here * float(np.prod(weights[node.input[1]]))
            here *= step
        elif node.op_type in ("Conv", "MaxPool", "AveragePool"):
            here /= step
            if node.op_type == "Conv":
                operations += 2 * here * float(np.prod(weights[node.input[1]]))
        density |= dict.fromkeys(node.output, here)
    return operations


def measure_peaks(size: int, seconds: float) -> dict[str, dict[str, float]]:
    """Return operations a second by precision (``fp32``, ``bf16``, ``int8``) and library, the best of many products.

    Args:
        size: rows and columns of the matrices.
        seconds: how long each library multiplies in each precision.
    """
    random = np.random.default_rng(0)
    left, right = (random.standard_normal((size, size), np.float32) for _ in range(2))
    peaks: dict[str, dict[str, float]] = {"fp32": {}, "bf16": {}, "int8": {}}
    for products in (_numpy, _torch, _onnxruntime, _openvino):
        name = products.__name__.removeprefix("_")
        try:
            import_module(name)
        except ImportError:
            continue
        for precision, product in products(right):
            peaks[precision][name] = 2 * size**3 / _fastest(product, left, seconds)
    return peaks


def _fastest(product: Product, left: NDArray[np.float32], seconds: float) -> float:
    product(left)
    taken: list[float] = []
    started = time.perf_counter()
    while not taken or time.perf_counter() - started < seconds:
        start = time.perf_counter()
        product(left)
        taken.append(time.perf_counter() - start)
    return min(taken)


def _numpy(right: NDArray[np.float32]) -> Iterator[tuple[str, Product]]:
    yield "fp32", lambda left: left @ right


def _torch(right: NDArray[np.float32]) -> Iterator[tuple[str, Product]]:
    import torch

    torch.set_num_threads(usable_cores())
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        factor = torch.from_numpy(right).to(dtype)
        # The other factor is rounded once, as a network's values stay what they are between layers.
        rounded = torch.empty_like(factor).normal_()
        yield precision, lambda _, factor=factor, rounded=rounded: rounded @ factor


def _onnxruntime(right: NDArray[np.float32]) -> Iterator[tuple[str, Product]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    for precision, model in (("fp32", _product_model(right)), ("int8", _quantised_model(right))):
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        yield precision, lambda left, session=session: session.run(None, {"left": left})


def _openvino(right: NDArray[np.float32]) -> Iterator[tuple[str, Product]]:
    import openvino

    core = openvino.Core()
    plain, quantised = (model(right).SerializeToString() for model in (_product_model, _quantised_model))
    found = [("fp32", plain, "f32"), ("int8", quantised, "f32")]
    if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        found.append(("bf16", plain, "bf16"))
    for precision, model, hint in found:
        options = {"NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": usable_cores(), "INFERENCE_PRECISION_HINT": hint}
        request = core.compile_model(core.read_model(model), "CPU", options).create_infer_request()
        yield precision, lambda left, request=request: request.infer([left], share_inputs=True, share_outputs=True)


def _product_model(right: NDArray[np.float32]) -> onnx.ModelProto:
    return _model([helper.make_node("MatMul", ["left", "right"], ["product"])], {"right": right})


def _quantised_model(right: NDArray[np.float32]) -> onnx.ModelProto:
    """Return the product in the form that quantised networks have, which the runtimes compute in integers."""
    step = np.float32(0.04)  # six standard deviations
    constants = {
        "right": np.clip(np.rint(right / step), -127, 127).astype(np.int8),
        "step": step,
        "zero": np.int8(0),
        "middle": np.uint8(128),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["left", "step", "middle"], ["left8"]),
        helper.make_node("DequantizeLinear", ["left8", "step", "middle"], ["left32"]),
        helper.make_node("DequantizeLinear", ["right", "step", "zero"], ["right32"]),
        helper.make_node("MatMul", ["left32", "right32"], ["product"]),
    ]
    return _model(nodes, constants)


def _model(nodes: list[onnx.NodeProto], constants: dict[str, NDArray[np.generic]]) -> onnx.ModelProto:
    size = constants["right"].shape[0]
    matrices = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [size, size]) for name in ("left", "product")]
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "product", matrices[:1], matrices[1:], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def main() -> None:
    """Measure, print and save."""
    parser = argument_parser(__doc__)
    parser.add_argument("--size", type=int, help="rows and columns of the matrices (2048; quick: 1024)")
    parser.add_argument("--seconds", type=float, help="for each library and precision (2; quick: 0.3)")
    parser.add_argument("--model", type=Path, default=default_bundle(), help="a bundle")
    arguments = parser.parse_args()
    size = arguments.size or (1024 if arguments.quick else 2048)
    peaks = measure_peaks(size, arguments.seconds or (0.3 if arguments.quick else 2))
    bundle = Bundle.load(arguments.model)
    operations = operations_per_voxel(bundle.artifact_path("fp32"))
    best = {precision: max(found.values()) for precision, found in peaks.items() if found}
    rows = [
        [precision.upper(), library, f"{figure / 1e9:.0f}", f"{figure / operations / 1e6:.2f}"]
        for precision, found in peaks.items()
        for library, figure in sorted(found.items(), key=lambda item: -item[1])
    ]
    print(f"{usable_cores()} cores, matrices of {size} × {size}")
    print(f"{bundle.specification.name}: {operations:,.0f} operations a voxel\n")
    print(markdown_table(["precision", "library", "GFLOP/s", "which would be, Mvoxel/s"], rows))
    save_results(
        arguments.json,
        __file__,
        {f"{precision}_over_fp32_peak": figure / best["fp32"] for precision, figure in best.items()},
        operations_per_voxel=operations,
        peaks=peaks,
        size=size,
    )


if __name__ == "__main__":
    main()

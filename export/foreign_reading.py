"""Reading an ONNX file that others wrote: what is refused, and the form in which the rest of the export has it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import TensorProto, inliner

from tomoscribe.engine.errors import BundleError
from tomoscribe.export.foreign_float32 import holds_float16
from tomoscribe.export.graph import OPSET

__all__ = ["ForeignNetwork", "describe_error", "opset_of", "read_network"]

_IMAGE_TYPES = (TensorProto.FLOAT, TensorProto.FLOAT16)
_ONNX_DOMAINS = ("", "ai.onnx")
_OLDEST_IR = 8  # ONNX's own pairing for OPSET, https://github.com/onnx/onnx/blob/main/docs/Versioning.md


@dataclass(frozen=True)
class ForeignNetwork:
    """A network ``(n, c, h, w) -> (n, channels, h, w)`` in an ONNX file.

    Attributes:
        path: the file, which may have its weights in others beside it.
        model: the same network, weights inside, with one input and one output, in opset 18 or newer, its n, h and w
            declared free, whether or not it can work with other sizes than it was exported with.
        input: name of the input.
        output: name of the output.
        channels: c, the channels of the image.
        sizes: n, h and w as the file declares them; None where it leaves them free.
        takes_half: whether the image is float16; float32 otherwise.
        half: whether it holds float16 anywhere, and so computes in it.
        source_opset: the opset of the file.
        producer: what wrote the file, as it says itself.
    """

    path: Path
    model: onnx.ModelProto
    input: str
    output: str
    channels: int
    sizes: tuple[int | None, int | None, int | None]
    takes_half: bool
    half: bool
    source_opset: int
    producer: str


def read_network(path: Path, output: str | None = None) -> ForeignNetwork:
    """Read a 2D segmentation network.

    Args:
        path: the ONNX file.
        output: which of its outputs; it may be left out where there is only one.

    Raises:
        BundleError: no such file, not a valid model, weights outside of its folder, operators that are not ONNX's own,
            or inputs and outputs that are not those of such a network.
    """
    model = _load(path)
    _check_operators(path, model)
    image = _the_input(path, model)
    shape = [dimension.dim_value or None for dimension in image.type.tensor_type.shape.dim]
    if shape[1] is None:
        raise BundleError(
            f"{path}: expected an input '{image.name}' with a fixed number of channels, found a free one; fix it"
        )
    output = _the_output(path, model, output)
    source_opset = opset_of(model)
    producer = " ".join(filter(None, (model.producer_name, model.producer_version)))
    takes_half = image.type.tensor_type.elem_type == TensorProto.FLOAT16
    model = _converted(path, _reduced(path, model, image.name, output))
    _free_sizes(model)
    return ForeignNetwork(
        path=path,
        model=model,
        input=image.name,
        output=output,
        channels=shape[1],
        sizes=(shape[0], shape[2], shape[3]),
        takes_half=takes_half,
        half=holds_float16(model),
        source_opset=source_opset,
        producer=producer,
    )


def describe_error(error: BaseException) -> str:
    """Return the first line of what a library says of its error; most say more than fits on one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__


def opset_of(model: onnx.ModelProto) -> int:
    """Return the version of ONNX's own operators that a model is written in."""
    return int(next((opset.version for opset in model.opset_import if opset.domain in _ONNX_DOMAINS), 1))


def _load(path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(path, load_external_data=False)
    except OSError as error:
        raise BundleError(f"{path}: cannot be read ({error.strerror}); expected an ONNX file") from error
    except Exception as error:  # protobuf's, which has no types
        raise BundleError(f"{path}: expected an ONNX file, found something else or a part of one") from error
    try:
        # It refuses absolute paths, those that leave the folder, and links.
        onnx.load_external_data_for_model(model, str(path.parent))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        raise BundleError(
            f"{path}: expected its weights inside, or in files of its own folder, found otherwise "
            f"({describe_error(error)}); export it again into one file"
        ) from error
    try:
        checked: onnx.ModelProto = inliner.inline_local_functions(model)
        onnx.checker.check_model(checked, full_check=True)
    except Exception as error:  # ONNX's checker and its shape inference share no base but this
        raise BundleError(
            f"{path}: expected a valid ONNX model, found that it is not ({describe_error(error)}); export it again"
        ) from error
    return checked


def _check_operators(path: Path, model: onnx.ModelProto) -> None:
    unknown = {f"{node.domain}.{node.op_type}" for node in _nodes(model.graph) if node.domain not in _ONNX_DOMAINS}
    if unknown:
        raise BundleError(
            f"{path}: expected ONNX's own operators only, found {', '.join(sorted(unknown))}; export the network again "
            "without them, and without a runtime's optimisations"
        )


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for subgraph in (attribute.g, *attribute.graphs):
                yield from _nodes(subgraph)


def _the_input(path: Path, model: onnx.ModelProto) -> onnx.ValueInfoProto:
    constants = {weights.name for weights in model.graph.initializer}
    images = [value for value in model.graph.input if value.name not in constants]
    if len(images) != 1:
        names = ", ".join(value.name for value in images) or "none"
        raise BundleError(f"{path}: expected one input, the image (n, c, h, w), found {len(images)} ({names})")
    image: onnx.ValueInfoProto = images[0]
    tensor = image.type.tensor_type
    if not tensor.HasField("shape") or len(tensor.shape.dim) != 4:
        found = f"{len(tensor.shape.dim)} axes" if tensor.HasField("shape") else "no shape"
        raise BundleError(
            f"{path}: expected an image (n, c, h, w) as the input '{image.name}', found {found}; "
            "only networks that label 2D slices can be wrapped"
        )
    if tensor.elem_type not in _IMAGE_TYPES:
        found = TensorProto.DataType.Name(tensor.elem_type).lower()
        raise BundleError(
            f"{path}: expected a float or float16 input '{image.name}', found {found}; export it as float"
        )
    return image


def _the_output(path: Path, model: onnx.ModelProto, chosen: str | None) -> str:
    outputs = {value.name: value.type.tensor_type for value in model.graph.output}
    if chosen is None and len(outputs) != 1:
        raise BundleError(
            f"{path}: expected one output, found {', '.join(outputs)}; name the one that holds the classes"
        )
    if chosen is not None and chosen not in outputs:
        raise BundleError(f"{path}: expected an output '{chosen}', found {', '.join(outputs)}")
    name = chosen if chosen is not None else next(iter(outputs))
    tensor = outputs[name]
    if tensor.HasField("shape") and len(tensor.shape.dim) != 4:
        raise BundleError(
            f"{path}: expected an output '{name}' of (n, classes, h, w), found {len(tensor.shape.dim)} axes"
        )
    if tensor.elem_type not in _IMAGE_TYPES:
        found = TensorProto.DataType.Name(tensor.elem_type).lower()
        raise BundleError(
            f"{path}: expected float or float16 values for every class from '{name}', found {found}; "
            "export the network without the step that makes labels of them"
        )
    return name


def _reduced(path: Path, model: onnx.ModelProto, image: str, output: str) -> onnx.ModelProto:
    """Return what is needed of a model to come from its image to one of its outputs."""
    # Before IR version 4 weights were listed as inputs, and could not be relied on to be constant.
    inputs = [value for value in model.graph.input if value.name == image]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    del model.graph.value_info[:]  # from the exporter, with the sizes that it saw
    reduced = onnx.utils.Extractor(model).extract_model([image], [output])
    if not any(image in node.input for node in _nodes(reduced.graph)):
        raise BundleError(f"{path}: expected an output that depends on the image, found that '{output}' does not")
    return reduced


def _converted(path: Path, model: onnx.ModelProto) -> onnx.ModelProto:
    """Bring an old model to the opset of tomoscribe's own; a newer one stays."""
    model.ir_version = max(model.ir_version, _OLDEST_IR)
    if opset_of(model) >= OPSET:
        return model
    try:
        converted = onnx.version_converter.convert_version(model, OPSET)
        converted.ir_version = model.ir_version
        onnx.checker.check_model(converted, full_check=True)
    except Exception as error:  # as in _load
        raise BundleError(
            f"{path}: expected opset {OPSET} or newer, found {opset_of(model)}, which cannot be converted "
            f"({describe_error(error).rpartition(' failed: ')[2]}); export the network with opset {OPSET}"
        ) from error
    return converted


def _free_sizes(model: onnx.ModelProto) -> None:
    """Declare n, h and w free; `foreign_geometry` finds out whether they are."""
    del model.graph.value_info[:]
    for axis, name in ((0, "n"), (2, "h"), (3, "w")):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    answer = model.graph.output[0].type.tensor_type
    answer.ClearField("shape")
    for _ in range(4):
        answer.shape.dim.add()

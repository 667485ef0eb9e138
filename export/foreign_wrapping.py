"""A network of others in the graph contract: what comes before and after it, joined to its graph."""

from __future__ import annotations

import json
from collections.abc import Sequence

import onnx

from tomoscribe.engine.bundle import ModelSpecification
from tomoscribe.export.foreign_description import ForeignDescription
from tomoscribe.export.foreign_reading import ForeignNetwork
from tomoscribe.export.graph import METADATA_KEY

__all__ = ["wrap"]

_TO_THE_END = 2**63 - 1
_FLOAT, _UINT8 = onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8
_TYPES = {_FLOAT: "float", onnx.TensorProto.FLOAT16: "float16"}


def wrap(
    network: ForeignNetwork,
    model: onnx.ModelProto,
    description: ForeignDescription,
    specification: ModelSpecification,
    *,
    probabilities: bool,
) -> onnx.ModelProto:
    """Return a network with everything that the graph contract has around it.

    Slices are normalised, and answers turned into labels and scores, in float32, as `ForeignDescription` says. The
    softmax is spelled out as in `tomoscribe.export.graph.DeployedNetwork`.

    Args:
        network: where the graph comes from.
        model: its graph, ``network.model`` or the same in float32.
        description: what its channels mean and what it expects.
        specification: goes into the model's ``metadata_props``.
        probabilities: whether it answers with probabilities; logits otherwise.

    Raises:
        onnx.checker.ValidationError: the result is not valid.
    """
    image, answer = (end[0].type.tensor_type.elem_type for end in (model.graph.input, model.graph.output))
    before = _graph(
        "float[m, h, w] slices, float[m] mean, float[m] rstd",
        f"{_TYPES[image]}[n, {network.channels}, h, w] image",
        [
            *_normalised(description),
            *_windows(specification.context, network.channels),
            f"image = Cast <to = {image}> (windows)",
        ],
        model,
    )
    after = _graph(
        f"{_TYPES[answer]}[n, channels, h, w] answer",
        f"uint8[n, h, w] labels, uint8[n, {specification.classes}, h, w] scores",
        [f"given = Cast <to = {_FLOAT}> (answer)", *_labelled(description, probabilities)],
        model,
    )
    # Values of both may have any name; those of the network get a prefix that no name here has.
    inner = onnx.compose.add_prefix(model, "network/")
    names = inner.graph.input[0].name, inner.graph.output[0].name
    wrapped = onnx.compose.merge_models(before, inner, [("image", names[0])])
    wrapped = onnx.compose.merge_models(wrapped, after, [(names[1], "answer")])
    wrapped.graph.name = "network"
    wrapped.producer_name = "tomoscribe"
    wrapped.ClearField("producer_version")
    onnx.helper.set_model_props(wrapped, {METADATA_KEY: json.dumps(specification.to_json(), ensure_ascii=False)})
    onnx.checker.check_model(wrapped, full_check=True)
    return wrapped


def _graph(inputs: str, outputs: str, steps: Sequence[str], like: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model of a few steps in ONNX's own text form, with the versions of another model."""
    opsets = ", ".join(f'"{opset.domain}" : {opset.version}' for opset in like.opset_import)
    body = "\n".join(steps)
    return onnx.parser.parse_model(
        f"<ir_version: {like.ir_version}, opset_import: [{opsets}]> part ({inputs}) => ({outputs}) {{\n{body}\n}}"
    )


def _normalised(description: ForeignDescription) -> list[str]:
    steps = [
        "yx = Constant <value_ints = [1, 2]> ()",
        "means = Unsqueeze (mean, yx)",
        "rstds = Unsqueeze (rstd, yx)",
    ]
    if description.normalise == "volume":
        steps += ["centred = Sub (slices, means)", "normalised = Mul (centred, rstds)"]
    else:
        steps += [  # turned over about the mean where rstd is negative
            "zero = Constant <value_float = 0.0> ()",
            "negative = Less (rstds, zero)",
            "doubled = Add (means, means)",
            "mirrored = Sub (doubled, slices)",
            "normalised = Where (negative, mirrored, slices)",
        ]
    if (description.scale, description.offset) == (1, 0):
        return [*steps, "shifted = Identity (normalised)"]
    return [
        *steps,
        f"scale = Constant <value_float = {float(description.scale)!r}> ()",
        f"offset = Constant <value_float = {float(description.offset)!r}> ()",
        "scaled = Mul (normalised, scale)",
        "shifted = Add (scaled, offset)",
    ]


def _windows(context: int, channels: int) -> list[str]:
    """Every slice with its neighbours as channels; without context, the slice in every channel."""
    steps = ["first = Constant <value_ints = [0]> ()", "second = Constant <value_ints = [1]> ()"]
    for offset in range(2 * context + 1):
        end = offset - 2 * context or _TO_THE_END
        steps += [
            f"start_{offset} = Constant <value_ints = [{offset}]> ()",
            f"end_{offset} = Constant <value_ints = [{end}]> ()",
            f"run_{offset} = Slice (shifted, start_{offset}, end_{offset}, first)",
            f"channel_{offset} = Unsqueeze (run_{offset}, second)",
        ]
    seen = ", ".join(f"channel_{channel if context else 0}" for channel in range(channels))
    return [*steps, f"windows = Concat <axis = 1> ({seen})"]


def _labelled(description: ForeignDescription, probabilities: bool) -> list[str]:
    steps = ["class_axis = Constant <value_ints = [1]> ()"]
    if description.background is None:
        # Of independent channels, none of which is background: it is as likely as the likeliest of them is not.
        steps += ["likeliest = ReduceMax <keepdims = 1> (given, class_axis)"]
        if probabilities:
            steps += ["one = Constant <value_float = 1.0> ()", "background = Sub (one, likeliest)"]
        else:
            steps += ["background = Neg (likeliest)"]  # sigmoid(-x) = 1 - sigmoid(x)
        steps += ["classes = Concat <axis = 1> (background, given)"]
    elif description.background == 0:
        steps += ["classes = Identity (given)"]
    else:
        order = [description.background, *(n for n in range(len(description.channels)) if n != description.background)]
        steps += [f"order = Constant <value_ints = {order}> ()", "classes = Gather <axis = 1> (given, order)"]
    return [
        *steps,
        "numbers = ArgMax <axis = 1, keepdims = 0> (classes)",
        f"labels = Cast <to = {_UINT8}> (numbers)",
        "full = Constant <value_float = 255.0> ()",
        "half = Constant <value_float = 0.5> ()",
        *_scaled_to_255(description.activation, probabilities),
        "rounded = Add (in_255, half)",
        f"scores = Cast <to = {_UINT8}> (rounded)",
    ]


def _scaled_to_255(activation: str, probabilities: bool) -> list[str]:
    if probabilities:
        return [
            "least = Constant <value_float = 0.0> ()",
            "most = Constant <value_float = 1.0> ()",
            "bounded = Clip (classes, least, most)",
            "in_255 = Mul (bounded, full)",
        ]
    if activation == "sigmoid":
        return ["likelihoods = Sigmoid (classes)", "in_255 = Mul (likelihoods, full)"]
    return [
        "largest = ReduceMax <keepdims = 1> (classes, class_axis)",
        "below = Sub (classes, largest)",
        "powers = Exp (below)",
        "total = ReduceSum <keepdims = 1> (powers, class_axis)",
        "weight = Div (full, total)",
        "in_255 = Mul (powers, weight)",
    ]

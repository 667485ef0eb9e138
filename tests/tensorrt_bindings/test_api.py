"""The types that mypy checks tomoscribe's calls against are those of the official bindings."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from .conftest import overloads

STUB = Path(__file__).resolve().parents[2] / "stubs" / "tensorrt" / "__init__.pyi"
EQUAL = {
    "int": {"int", "typing.SupportsInt", "typing.SupportsInt | typing.SupportsIndex"},
    "Buffer": {"buffer", "typing_extensions.Buffer", "collections.abc.Buffer"},
    "tuple[int, ...]": {"tuple", "Dims"},
    "ParserError": {"nvonnxparser::IParserError", "ParserError"},
    "Severity": {"ILogger.Severity"},
}


def stub_classes():
    return [node for node in ast.parse(STUB.read_text()).body if isinstance(node, ast.ClassDef)]


def is_enum(node):
    return [ast.unparse(base) for base in node.bases] == ["Enum"]


def agrees(ours, theirs):
    """Whether a type of the stub is what a docstring says; what may be None there is not said."""
    ours = ours.removesuffix(" | None")
    theirs = re.sub(r"tensorrt_bindings\.tensorrt\.", "", theirs).replace("List[", "list[")
    return theirs in EQUAL.get(ours, {ours})


def check_enum(node, real):
    names = {statement.targets[0].id for statement in node.body if isinstance(statement, ast.Assign)}
    assert names
    assert names <= set(real.__members__)


def check_method(node, real):
    ours = node.args.args[1:]
    required = len(ours) - len(node.args.defaults)
    for overload in overloads(real.__doc__):
        theirs = list(overload.signature.parameters.values())[1:]
        if (
            [argument.arg for argument in ours] == [parameter.name for parameter in theirs[: len(ours)]]
            and all(agrees(ast.unparse(a.annotation), b.annotation) for a, b in zip(ours, theirs, strict=False))
            and all(parameter.default is not parameter.empty for parameter in theirs[required:])
            and agrees(ast.unparse(node.returns), overload.returns)
        ):
            return
    pytest.fail(f"{ast.unparse(node)} is not {real.__doc__}")


def check_property(annotation, getter):
    assert agrees(ast.unparse(annotation), overloads(getter.__doc__)[0].returns)


def check_class(node, real):
    for member in node.body:
        if isinstance(member, ast.ClassDef):
            check_enum(member, getattr(real, member.name))
        elif isinstance(member, ast.AnnAssign):
            found = getattr(real, member.target.id)
            check_property(member.annotation, found.fget)
            assert found.fset is not None
        elif isinstance(member, ast.FunctionDef) and [ast.unparse(d) for d in member.decorator_list] == ["property"]:
            check_property(member.returns, getattr(real, member.name).fget)
        elif isinstance(member, ast.FunctionDef) and member.name not in ("__iter__", "__len__"):
            check_method(member, getattr(real, member.name))


@pytest.mark.parametrize("node", stub_classes(), ids=lambda node: node.name)
def test_every_name_argument_and_type_is_that_of_the_bindings(node, real):
    if is_enum(node):
        check_enum(node, getattr(real, node.name))
    else:
        check_class(node, getattr(real, node.name))


def test_what_the_comparison_would_find(real):
    def node(text):
        return ast.parse(text).body[0]

    check_method(node("def parse(self, model: Buffer) -> bool: ..."), real.OnnxParser.parse)
    for wrong in (
        "def parse(self, onnx: Buffer) -> bool: ...",
        "def parse(self, model: str) -> bool: ...",
        "def parse(self, model: Buffer) -> None: ...",
        "def parse(self, model: Buffer, path: str, flags: int) -> bool: ...",
    ):
        with pytest.raises(pytest.fail.Exception):
            check_method(node(wrong), real.OnnxParser.parse)
    with pytest.raises(AssertionError):
        check_enum(node("class BuilderFlag(Enum):\n    FP17 = ..."), real.BuilderFlag)


def test_the_double_refuses_what_the_bindings_would(gpu):
    import tensorrt

    builder = tensorrt.Builder(tensorrt.ILogger())
    config = builder.create_builder_config()
    config.clear_flag(tensorrt.BuilderFlag.TF32)
    for refused in (
        lambda: tensorrt.Builder("logger"),
        lambda: builder.create_network("strongly typed"),
        lambda: builder.build_engine(),
        lambda: builder.build_serialized_network(config),
        lambda: config.clear_flag(32),
        lambda: config.create_timing_cache(serialized="x"),
        lambda: setattr(config, "progress_monitor", print),
        lambda: setattr(config, "max_workspace_size", 1),
        lambda: setattr(gpu.double("ICudaEngine"), "num_io_tensors", 1),
    ):
        with pytest.raises((TypeError, AttributeError)):
            refused()

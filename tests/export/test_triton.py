"""A bundle as a Triton model repository, its configurations parsed by protobuf with the fields that Triton has."""

from __future__ import annotations

import json
from dataclasses import replace

import onnx
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

from tomoscribe.engine.bundle import Artifact, Bundle, ModelSpecification
from tomoscribe.engine.class_map import ClassMap, LabelClass
from tomoscribe.engine.errors import BundleError, OutputError, OutputExistsError
from tomoscribe.engine.plans import DeviceIdentity, PlanFile, PlanIdentity, PlanMismatchError, PlanShapes, plan_path
from tomoscribe.export.triton import write_triton_repository

STRING, INT32, INT64 = 9, 5, 3
# The part of triton-inference-server/common, protobuf/model_config.proto, that configurations here may use: names,
# numbers and types of its fields. A text with any other field does not parse.
MESSAGES = {
    "ModelInput": [("name", 1, STRING), ("data_type", 2, ".DataType"), ("dims", 4, [INT64])],
    "ModelOutput": [
        ("name", 1, STRING),
        ("data_type", 2, ".DataType"),
        ("dims", 3, [INT64]),
        ("label_filename", 4, STRING),
    ],
    "ModelParameter": [("string_value", 1, STRING)],
    "ModelConfig": [
        ("name", 1, STRING),
        ("backend", 17, STRING),
        ("max_batch_size", 4, INT32),
        ("input", 5, [".ModelInput"]),
        ("output", 6, [".ModelOutput"]),
        ("parameters", 14, {".ModelParameter"}),
    ],
}
DATA_TYPES = {"TYPE_INVALID": 0, "TYPE_UINT8": 2, "TYPE_FP16": 10, "TYPE_FP32": 11}
PACKAGE = "inference"
DEVICE = DeviceIdentity("NVIDIA H200", "9.0", 132, 140)
SHAPES = PlanShapes(4, 32, 48)


def add_field(message, name, number, kind):
    field = message.field.add(name=name, number=number, label=1)
    if isinstance(kind, set):  # a map from text, which is a list of messages of its own
        (kind,) = kind
        entry = message.nested_type.add(name=f"{name.title()}Entry")
        entry.options.map_entry = True
        add_field(entry, "key", 1, STRING)
        add_field(entry, "value", 2, kind)
        field.label, field.type = 3, 11
        field.type_name = f".{PACKAGE}.{message.name}.{entry.name}"
        return
    if isinstance(kind, list):
        (kind,) = kind
        field.label = 3
    if isinstance(kind, str):
        field.type = 14 if kind == ".DataType" else 11
        field.type_name = f".{PACKAGE}{kind}"
    else:
        field.type = kind


@pytest.fixture(scope="session")
def configuration_class():
    file = descriptor_pb2.FileDescriptorProto(name="model_config.proto", package=PACKAGE, syntax="proto3")
    enumeration = file.enum_type.add(name="DataType")
    for name, number in DATA_TYPES.items():
        enumeration.value.add(name=name, number=number)
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for field in fields:
            add_field(message, *field)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.ModelConfig"))


@pytest.fixture
def read(configuration_class):
    """Read a model's configuration as Triton does; an unknown field or value is an error."""
    return lambda folder: text_format.Parse((folder / "config.pbtxt").read_bytes(), configuration_class())


@pytest.fixture
def bundle(tmp_path, exported, checkpoint_with):
    """A bundle of two networks of three slices, one of which the gate refused, with a name and classes to be quoted."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    class_map = ClassMap((LabelClass(1, 'the "first"', (1, 2, 3)), LabelClass(2, "membrane µ\\n", (4, 5, 6))))
    specification = replace(checkpoint_with(1).specification, name="Ünet (v1.5)/x", class_map=class_map)
    artifacts = {}
    for precision in ("fp32", "fp16"):
        path = folder / f"model.{precision}.onnx"
        onnx.save(exported(1), path)
        artifacts[precision] = Artifact.of(path)
    parity = {"fp32": {"passed": True}, "fp16": {"passed": True}}
    made = Bundle(folder, specification, artifacts, parity)
    made.write()
    return made


def add_plan(bundle, precision="fp16", facts=None, shapes=SHAPES, **changes):
    identity = PlanIdentity.here(bundle, precision, shapes, "10.16.1.11", DEVICE)
    path = plan_path(bundle.path, identity)
    return PlanFile.write(path, f"plan of {path.name}".encode(), replace(identity, **changes), facts or {})


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_every_network_is_a_model_with_the_graph_contract(bundle, tmp_path, read):
    models = write_triton_repository(bundle, tmp_path / "served" / "models")
    assert models == [tmp_path / "served" / "models" / f"net-v1-5-x-{precision}" for precision in ("fp32", "fp16")]
    assert names(tmp_path / "served") == ["models"]
    for model, precision in zip(models, ("fp32", "fp16"), strict=True):
        assert names(model) == ["1", "config.pbtxt", "labels.txt"]
        assert (model / "1" / "model.onnx").read_bytes() == bundle.artifact_path(precision).read_bytes()
        assert (model / "labels.txt").read_text(encoding="utf-8") == 'background\nthe "first"\nmembrane µ\\n\n'
        configuration = read(model)
        assert (configuration.name, configuration.backend, configuration.max_batch_size) == (
            model.name,
            "onnxruntime",
            0,
        )
        inputs = {tensor.name: (tensor.data_type, list(tensor.dims)) for tensor in configuration.input}
        single = DATA_TYPES["TYPE_FP32"]
        assert inputs == {"slices": (single, [-1, -1, -1]), "mean": (single, [-1]), "rstd": (single, [-1])}
        byte = DATA_TYPES["TYPE_UINT8"]
        outputs = {tensor.name: tensor for tensor in configuration.output}
        assert outputs.keys() == {"labels", "scores"}
        assert {tensor.data_type for tensor in outputs.values()} == {byte}
        assert list(outputs["labels"].dims) == [-1, -1, -1]
        assert (outputs["labels"].label_filename, outputs["scores"].label_filename) == ("", "labels.txt")


def test_dimensions_are_those_of_the_onnx_file(bundle, tmp_path, read):
    graph = onnx.load(bundle.artifact_path("fp32")).graph
    configuration = read(write_triton_repository(bundle, tmp_path / "models")[0])
    for tensor in (*configuration.input, *configuration.output):
        (value,) = [value for value in (*graph.input, *graph.output) if value.name == tensor.name]
        sizes = value.type.tensor_type.shape.dim
        assert len(sizes) == len(tensor.dims) >= 1
        for size, dimension in zip(sizes, tensor.dims, strict=True):
            assert dimension == (size.dim_value if size.HasField("dim_value") else -1)


def test_the_specification_comes_along(bundle, tmp_path, read):
    configuration = read(write_triton_repository(bundle, tmp_path / "models")[0])
    described = json.loads(configuration.parameters["tomoscribe.specification"].string_value)
    assert ModelSpecification.from_json(described) == bundle.specification


def test_every_plan_of_these_networks_is_a_model_of_its_own(bundle, tmp_path, read):
    plan = add_plan(bundle, facts={"parity": None})
    add_plan(bundle, shapes=PlanShapes(2, 32, 48), artifact="0" * 64)  # of an earlier export
    *_, model = write_triton_repository(bundle, tmp_path / "models")
    assert model.name == "net-v1-5-x-nvidia-h200-trt10.16.1.11-fp16-4x32x48"
    assert names(tmp_path / "models") == ["net-v1-5-x-fp16", "net-v1-5-x-fp32", model.name]
    assert names(model / "1") == ["model.plan"]
    assert (model / "1" / "model.plan").read_bytes() == plan.read_plan()
    configuration = read(model)
    assert configuration.backend == "tensorrt"
    dimensions = {tensor.name: list(tensor.dims) for tensor in (*configuration.input, *configuration.output)}
    assert dimensions == {
        "slices": [-1, 32, 48],
        "mean": [-1],
        "rstd": [-1],
        "labels": [-1, 32, 48],
        "scores": [-1, 3, 32, 48],
    }


def test_what_a_gate_refused_has_to_be_asked_for(bundle, tmp_path):
    add_plan(bundle, "fp32", facts={"parity": {"passed": False}})
    add_plan(bundle, "fp16", facts={"parity": {"passed": True}})
    bundle = replace(bundle, parity={"fp32": {"passed": True}, "fp16": {"passed": False}})
    write_triton_repository(bundle, tmp_path / "passed")
    assert names(tmp_path / "passed") == ["net-v1-5-x-fp32"]
    write_triton_repository(bundle, tmp_path / "asked", precisions=["fp16"])
    assert names(tmp_path / "asked") == ["net-v1-5-x-fp16", "net-v1-5-x-nvidia-h200-trt10.16.1.11-fp16-4x32x48"]


@pytest.mark.parametrize("precisions", [["int8"], ["fp32", "int8-cpu"]])
def test_a_precision_that_there_is_not_is_one_line(bundle, tmp_path, precisions):
    with pytest.raises(BundleError, match=f"of {precisions[-1]}, found none") as caught:
        write_triton_repository(bundle, tmp_path / "models", precisions=precisions)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "models").exists()


def test_a_bundle_of_nothing_that_passed_is_refused(bundle, tmp_path):
    bundle = replace(bundle, parity={"fp32": {"passed": False}, "fp16": {"passed": False}})
    with pytest.raises(BundleError, match="any precision that its parity gates let pass, found none"):
        write_triton_repository(bundle, tmp_path / "models")


def test_an_altered_file_is_refused_and_nothing_is_left(bundle, tmp_path):
    plan = add_plan(bundle)
    plan.path.write_bytes(b"other")
    with pytest.raises(PlanMismatchError, match="sha256"):
        write_triton_repository(bundle, tmp_path / "models")
    network = bundle.path / bundle.artifacts["fp32"].file
    network.write_bytes(network.read_bytes() + b"x")
    with pytest.raises(BundleError, match="sha256"):
        write_triton_repository(replace(bundle), tmp_path / "models")
    assert names(tmp_path) == ["bundle"]


def test_only_its_own_repository_is_replaced(bundle, tmp_path):
    output = tmp_path / "models"
    write_triton_repository(bundle, output)
    with pytest.raises(OutputExistsError, match="is there already"):
        write_triton_repository(bundle, output)
    write_triton_repository(bundle, output, precisions=["fp32"], overwrite=True)
    assert names(output) == ["net-v1-5-x-fp32"]
    other = output / "resnet"
    other.mkdir()
    (other / "config.pbtxt").write_text('name: "resnet"\n')
    with pytest.raises(OutputExistsError, match="is not a model repository of tomoscribe's"):
        write_triton_repository(bundle, output, overwrite=True)
    assert names(output) == ["net-v1-5-x-fp32", "resnet"]


def test_a_folder_that_cannot_be_made_is_one_line(bundle, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot be written") as caught:
        write_triton_repository(bundle, tmp_path / "file" / "models")
    assert "\n" not in str(caught.value)


def test_the_fields_are_tritons_own(configuration_class):
    """Compare with what NVIDIA's client package has, where it is installed: `pip install "tritonclient[grpc]"`."""
    pytest.importorskip("grpc")
    theirs = pytest.importorskip("tritonclient.grpc.model_config_pb2").ModelConfig.DESCRIPTOR

    def compare(ours, theirs):
        for field in ours.fields:
            other = theirs.fields_by_name[field.name]
            assert (field.number, field.type, field.is_repeated) == (other.number, other.type, other.is_repeated)
            if field.message_type is not None:
                compare(field.message_type, other.message_type)
            if field.enum_type is not None:
                numbers = {value.name: value.number for value in other.enum_type.values}
                assert {value.name: value.number for value in field.enum_type.values}.items() <= numbers.items()

    compare(configuration_class.DESCRIPTOR, theirs)

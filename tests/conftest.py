"""Fixtures that every test may use."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# How long an example takes says how busy the machine is.
settings.register_profile("tomoscribe", deadline=None)
settings.load_profile("tomoscribe")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory) -> Iterator[None]:
    """Keep what tests measure of this machine out of its user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real tomograms and odd files; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("TOMOSCRIBE_DATA") or REPOSITORY.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"needs the real data, which is not at {folder}; set TOMOSCRIBE_DATA to its folder")
    return folder


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory) -> Path:
    """A bundle in the graph contract that labels by intensity alone, with one context slice on each side.

    The normalised intensities of a slice and its two neighbours are added up: below -1.5 the label is 1 (dark), above
    1.5 it is 2 (bright). The score is 201 for the label that is given and 27 for the others.
    """
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from tomoscribe.engine.bundle import Artifact, Bundle, ModelSpecification
    from tomoscribe.engine.class_map import ClassMap, LabelClass

    constants = {
        "low": np.float32(-1.5),
        "high": np.float32(1.5),
        **{f"u{value}": np.uint8(value) for value in (0, 1, 2, 27, 201)},
        **{f"i{value}": np.array([value]) for value in (-2, -1, 0, 1, 2, 2**31)},
        "yx": np.array([1, 2]),
    }
    steps = [
        ("Unsqueeze", ["mean", "yx"], "means"),
        ("Unsqueeze", ["rstd", "yx"], "rstds"),
        ("Sub", ["slices", "means"], "centred"),
        ("Mul", ["centred", "rstds"], "normalised"),
        ("Slice", ["normalised", "i0", "i-2", "i0"], "below"),
        ("Slice", ["normalised", "i1", "i-1", "i0"], "centre"),
        ("Slice", ["normalised", "i2", "i2147483648", "i0"], "above"),
        ("Sum", ["below", "centre", "above"], "sum"),
        ("Less", ["sum", "low"], "is1"),
        ("Greater", ["sum", "high"], "is2"),
        ("Or", ["is1", "is2"], "is12"),
        ("Not", ["is12"], "is0"),
        ("Where", ["is2", "u2", "u0"], "two"),
        ("Where", ["is1", "u1", "two"], "labels"),
    ]
    for number in (0, 1, 2):
        steps.append(("Where", [f"is{number}", "u201", "u27"], f"flat{number}"))
        steps.append(("Unsqueeze", [f"flat{number}", "i1"], f"score{number}"))
    nodes = [helper.make_node(kind, inputs, [output]) for kind, inputs, output in steps]
    nodes.append(helper.make_node("Concat", ["score0", "score1", "score2"], ["scores"], axis=1))
    graph = helper.make_graph(
        nodes,
        "tiny",
        [
            helper.make_tensor_value_info("slices", TensorProto.FLOAT, ["m", "h", "w"]),
            helper.make_tensor_value_info("mean", TensorProto.FLOAT, ["m"]),
            helper.make_tensor_value_info("rstd", TensorProto.FLOAT, ["m"]),
        ],
        [
            helper.make_tensor_value_info("labels", TensorProto.UINT8, ["n", "h", "w"]),
            helper.make_tensor_value_info("scores", TensorProto.UINT8, ["n", 3, "h", "w"]),
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    folder = tmp_path_factory.mktemp("bundles") / "tiny"
    folder.mkdir()
    path = folder / "model.fp32.onnx"
    onnx.save(model, path)
    specification = ModelSpecification(
        name="tiny",
        class_map=ClassMap((LabelClass(1, "dark matter", (230, 159, 0)), LabelClass(2, "light", (86, 180, 233)))),
        context=1,
        tile_multiple=8,
        halo=0,
        voxel_size=(8.0, 16.0),
    )
    Bundle(folder, specification, {"fp32": Artifact.of(path)}).write()
    return folder


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_interrupts():
    """A shell that starts a job in the background has it ignore SIGINT; the tests of Ctrl-C need it heard."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def _one_import_name():
    """A bare `engine` works from the repository's root and makes every class twice; no test may import it."""
    yield
    bare = {"engine", "train", "export", "cli"} & sys.modules.keys()
    assert not bare, f"imported without the tomoscribe prefix: {sorted(bare)}"

"""The command export: what it prints, and which options go together."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from tomoscribe.cli import export_plans
from tomoscribe.cli.app import app
from tomoscribe.engine.bundle import Bundle, default_bundle
from tomoscribe.engine.errors import BackendUnavailableError, ParameterError
from tomoscribe.export import bundle as export_module
from tomoscribe.export import foreign

FIGURES = {
    "labels_equal": 0.99987,
    "largest_score_difference": 3,
    "dice": {"a": 0.998, "b": None, "c": 0.9949},
    "passed": True,
}


def run(*arguments):
    result = CliRunner().invoke(app, ["export", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def calls(tiny_bundle, monkeypatch):
    """What the command asks for; in place of an export it gets a bundle that is there."""
    calls = []
    bundle = Bundle.load(tiny_bundle)
    exported = Bundle(bundle.path, bundle.specification, bundle.artifacts, {"fp32": FIGURES})

    def record(name, result):
        return lambda *arguments, **options: calls.append((name, arguments, options)) or result

    monkeypatch.setattr("tomoscribe.export.export_bundle", record("checkpoint", exported))
    monkeypatch.setattr(foreign, "bundle_from_onnx", record("onnx", exported))
    monkeypatch.setattr("tomoscribe.export.samples.gather_samples", record("samples", SimpleNamespace(parity=["s"])))
    monkeypatch.setattr("tomoscribe.engine.plans.loading.tensorrt_version", record("version", "11.0"))
    monkeypatch.setattr("tomoscribe.engine.cuda.load_driver", lambda: None)
    monkeypatch.setattr("tomoscribe.engine.cuda.Device", record("device", SimpleNamespace(close=lambda: None)))
    monkeypatch.setattr("tomoscribe.export.tensorrt.build_plan", record("plan", tiny_bundle / "plans" / "a.plan"))
    return calls


def test_a_checkpoint_is_exported_with_what_was_asked(calls, tmp_path, tiny_bundle):
    printed = run("a.safetensors", "-o", tmp_path / "b", "--precision", "fp32, int8", "--calibrate", "t.mrc",
                  "--calibrate", "u.mrc", "--allow-drift", "--overwrite")  # fmt: skip
    ((name, (checkpoint, output), options),) = calls
    assert (name, str(checkpoint), output) == ("checkpoint", "a.safetensors", tmp_path / "b")
    assert callable(options.pop("progress"))
    assert [str(path) for path in options.pop("tomograms")] == ["t.mrc", "u.mrc"]
    assert options == {"precisions": ["fp32", "int8"], "allow_drift": True, "overwrite": True}
    first, *table = printed.splitlines()
    assert first == f"{tiny_bundle}: tiny"
    rows = {" ".join(line.split()[:2]): line.split()[2:] for line in table}
    assert rows["parity fp32"] == []
    assert rows["same labels"] == ["99.9870", "%"]
    assert rows["Dice c"] == ["0.9949"]


def test_the_defaults_are_fp32_and_fp16_without_drift(calls, tmp_path):
    run("a.safetensors", "-o", tmp_path / "b")
    ((_, _, options),) = calls
    del options["progress"]
    assert options == {
        "precisions": export_module.DEFAULT_PRECISIONS,
        "tomograms": [],
        "allow_drift": False,
        "overwrite": False,
    }
    assert export_module.DEFAULT_PRECISIONS == ("fp32", "fp16")


def test_test_time_augmentation_is_handed_on(calls, tmp_path):
    run("a.safetensors", "-o", tmp_path / "b", "--test-time-augmentation", "flips-and-turns")
    assert calls[0][2]["test_time_augmentation"] == "flips-and-turns"


def test_a_foreign_network_is_described_by_options(calls, tmp_path):
    run("--from-onnx", "net.onnx", "-o", tmp_path / "b", "--classes", "background, ribosome=#0a0b0c", "--voxel-size",
        "10,15.5", "--activation", "sigmoid", "--probabilities", "--normalise", "none", "--scale", "2", "--offset", -1,
        "--polarity", "bright", "--context", "1", "--tile-multiple", 8, "--halo", 32, "--onnx-output", "y")  # fmt: skip
    ((name, (file, output, description), options),) = calls
    assert (name, str(file), output) == ("onnx", "net.onnx", tmp_path / "b")
    assert vars(description) == {
        "name": "net",
        "channels": ("background", "ribosome=#0a0b0c"),
        "voxel_size": (10.0, 15.5),
        "activation": "sigmoid",
        "answers": "probabilities",
        "normalise": "none",
        "scale": 2.0,
        "offset": -1.0,
        "context": 1,
        "polarity": "bright",
        "tile_multiple": 8,
        "halo": 32,
        "output": "y",
    }
    assert options.keys() == {"tomograms", "allow_drift", "overwrite", "progress"}


def test_one_voxel_size_stands_for_both_ends(calls, tmp_path):
    run("--from-onnx", "net.onnx", "-o", tmp_path / "b", "--classes", "background,x", "--voxel-size", "13", "--logits",
        "--name", "mine")  # fmt: skip
    description = calls[0][1][2]
    assert (description.voxel_size, description.answers, description.name) == ((13.0, 13.0), "logits", "mine")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "b"], "expected a checkpoint or --from-onnx, found neither"),
        (["a.safetensors", "--from-onnx", "n.onnx", "-o", "b"], "expected a checkpoint or --from-onnx, found both"),
        (["a.safetensors"], "expected the folder to make"),
        (["a.safetensors", "--tensorrt"], "expected the folder to make"),
        (["a.safetensors", "-o", "b", "--halo", "32"], "only with --from-onnx"),
        (["--from-onnx", "n.onnx", "-o", "b", "--precision", "fp16"], "--precision: expected none with --from-onnx"),
        (["--from-onnx", "n.onnx", "-o", "b", "--voxel-size", "13"], "--classes: expected it"),
        (["--from-onnx", "n.onnx", "-o", "b", "--classes", "background,x"], "--voxel-size: expected it"),
        (["--from-onnx", "n.onnx", "-o", "b", "--test-time-augmentation", "flips"], "with a checkpoint and --output"),
        (["b", "--tensorrt", "--test-time-augmentation", "flips"], "with a checkpoint and --output"),
        (["a.safetensors", "-o", "b", "--slice-size", "960"], "--slice-size: expected YxX"),
        (["a.safetensors", "-o", "b", "--slice-size", "0x10"], "--slice-size: expected YxX"),
        *(
            (
                ["--from-onnx", "n.onnx", "-o", "b", "--classes", "background,x", "--voxel-size", text],
                "--voxel-size: exp",
            )
            for text in ("ten", "10,15,20", "")
        ),
    ],
)
def test_what_does_not_go_together_is_one_line(calls, arguments, message):
    with pytest.raises(ParameterError) as caught:
        run(*arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert calls == []


def test_plans_are_built_of_what_was_asked_and_of_fp32_only_alone(calls, tmp_path, tiny_bundle):
    for precision, built in (("fp32,fp16,int8,int8-cpu", ["fp16", "int8"]), ("fp32", ["fp32"]), ("fp16", ["fp16"])):
        calls.clear()
        printed = run("a.safetensors", "-o", tmp_path / "b", "--tensorrt", "--precision", precision)
        assert [call[0] for call in calls] == ["version", "device", "checkpoint", "samples", *["plan"] * len(built)]
        assert [call[1][1] for call in calls[4:]] == built
        assert printed.splitlines()[-1] == str(tiny_bundle / "plans" / "a.plan")


def test_plans_alone_are_built_for_a_bundle_that_is_there(calls, tiny_bundle):
    printed = run(tiny_bundle, "--tensorrt", "--precision", "fp16", "--slice-size", "512x480", "--allow-drift")
    assert [call[0] for call in calls] == ["version", "device", "samples", "plan"]
    _, (bundle, precision, shapes, samples), options = calls[-1]
    assert (bundle, precision, samples) == (Bundle.load(tiny_bundle), "fp16", ["s"])
    assert (shapes.height, shapes.width) == (512, 480)
    assert options["allow_drift"] is True
    options["progress"]("timing", 0.5)
    assert printed.splitlines() == [str(tiny_bundle / "plans" / "a.plan")]


@pytest.mark.parametrize("missing", ["plans.loading.tensorrt_version", "cuda.load_driver"])
def test_without_tensorrt_or_a_gpu_nothing_is_begun(calls, monkeypatch, tmp_path, missing):
    def absent():
        raise BackendUnavailableError("it cannot be had")

    monkeypatch.setattr(f"tomoscribe.engine.{missing}", absent)
    with pytest.raises(BackendUnavailableError):
        run("a.safetensors", "-o", tmp_path / "b", "--tensorrt")
    assert {call[0] for call in calls} <= {"version"}


def test_slice_sizes_are_read(calls):
    assert export_plans.parse_slice_size("960x928") == (960, 928)


@pytest.mark.parametrize("name", ["absent.safetensors", "text.safetensors"])
def test_a_wrong_checkpoint_is_one_line(tmp_path, name):
    (tmp_path / "text.safetensors").write_text("no tensors")
    with pytest.raises(ValueError, match=name) as caught:
        run(tmp_path / name, "-o", tmp_path / "b")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "b").exists()


def test_the_bundled_model_still_loads():
    assert "fp32" in Bundle.load(default_bundle()).artifacts

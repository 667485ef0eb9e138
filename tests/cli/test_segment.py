from __future__ import annotations

import io
import json
import re
import subprocess
import sys

import mrcfile
import numpy as np
import pytest

from tomoscribe.engine import open_tomogram


@pytest.fixture
def run(tomoscribe, tiny_bundle):
    """Run `tomoscribe segment` with the tiny model; gives the exit status, stdout and stderr."""

    def run(*arguments, model=tiny_bundle):
        return tomoscribe("segment", *arguments, "--model", model)

    return run


@pytest.fixture
def make(tmp_path):
    def make(name, voxel_size=10.0, shape=(4, 30, 20)):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        values = np.random.default_rng(1).normal(0, 50, shape).astype(np.int16)
        with mrcfile.new(path, compression="gzip" if name.endswith("gz") else None) as file:
            file.set_data(values)
            file.set_volume()
            file.voxel_size = voxel_size
        return path

    return make


def lines(text):
    return [json.loads(line) for line in text.splitlines()]


def test_one_tomogram_is_labelled_and_summarised(run, make):
    path = make("a.mrc")
    status, out, err = run(path)
    assert status == 0
    for name in ("a__labels.mrc", "a__DarkMatter.mrc", "a__Light.mrc", "a__labels.json"):
        assert path.with_name(name).exists()
    assert re.search(r"backend +(ONNX Runtime|OpenVINO) .*\((onnxruntime|openvino)", err)
    assert "tiny" in err
    assert f"{path}: 20 × 30 × 4," in err
    with mrcfile.open(path.with_name("a__labels.mrc")) as file:
        dark = np.count_nonzero(file.data == 1)
    row = next(line for line in out.splitlines() if "dark matter" in line)
    assert row.split()[-2:] == [f"{dark:,}", f"{dark / 2400:.2%}"]
    assert re.search(r"^1 segmented, [\d.]+ s, [\d.]+ Mvoxel/s$", out, re.MULTILINE)


def test_a_bad_tomogram_is_reported_and_the_rest_go_on(run, make, tmp_path):
    first, last = make("a.mrc"), make("c.mrc")
    bad = tmp_path / "b.mrc"
    bad.write_bytes(b"not a tomogram")
    status, out, err = run(first, bad, tmp_path / "missing.mrc", last)
    assert status == 2
    errors = [line for line in err.splitlines() if line.startswith("tomoscribe: error: ")]
    assert len(errors) == 2
    assert str(bad) in errors[0]
    assert "missing.mrc" in errors[1]
    assert last.with_name("c__labels.mrc").exists()
    assert "2 segmented, 2 failed" in out
    assert "Traceback" not in err


def test_the_device_is_where_it_runs(run, make):
    path = make("a.mrc")
    status, _, err = run(path, "--device", "cpu")
    assert status == 0
    assert "on the CPU" in err
    for device, message in (
        ("gpu", "device 'gpu': expected auto, cpu, or the numbers of GPUs, each once, as in 0 or 0,1"),
        ("0", "device '0': expected cpu or auto, for onnxruntime runs on the CPU"),
    ):
        status, out, err = run(path, "--overwrite", "--backend", "onnxruntime", "--device", device)
        assert (status, out) == (2, "")
        assert err == f"tomoscribe: error: {message}\n"


def test_where_it_runs_is_passed_on_and_a_plan_is_told_of(run, make, monkeypatch, tiny_bundle):
    from tomoscribe.engine import Bundle
    from tomoscribe.engine.backends.onnxruntime import OnnxRuntimeBackend

    asked = []

    def choose(name, bundle, *, building, **how):
        asked.append((name, how))
        building("no plan for it yet", 0.0)
        return OnnxRuntimeBackend(Bundle.load(tiny_bundle)), "a stand-in"

    monkeypatch.setattr("tomoscribe.engine.segmentation.choose_backend", choose)
    status, _, err = run(make("a.mrc"), "--device", "0,1", "--precision", "fp16")
    assert status == 0
    assert asked == [("auto", {"precision": "fp16", "device": "0,1"})]
    assert "and keeps it: no plan for it yet" in err.splitlines()[0]


def test_what_has_labels_is_skipped_and_said_to_be(run, make):
    first, second = make("a.mrc"), make("b.mrc")
    run(first)
    before = first.with_name("a__labels.mrc").stat().st_mtime_ns
    status, out, err = run(first.parent)
    assert status == 0
    assert f"skipped  {first}" in err
    assert "left out" in err
    assert "1 segmented, 1 skipped" in out
    assert first.with_name("a__labels.mrc").stat().st_mtime_ns == before
    assert second.with_name("b__labels.mrc").exists()
    status, out, _ = run(first.parent, "--overwrite")
    assert "2 segmented" in out
    assert first.with_name("a__labels.mrc").stat().st_mtime_ns > before
    assert run(first)[:2] == (0, "0 segmented, 1 skipped\n")


def test_json_is_one_object_a_line_and_nothing_else(run, make, tmp_path):
    first = make("a.mrc", voxel_size=1.0)
    second = make("b.mrc.gz")
    run(second)
    status, out, err = run(first, second, tmp_path / "none.mrc", "--json", "--picture")
    assert (status, err) == (2, "")
    done, skipped, failed = lines(out)
    assert skipped == {"status": "skipped", "tomogram": str(second)}
    assert done["status"] == "done"
    assert done["tomogram"] == str(first)
    assert done["labels"] == str(tmp_path / "a__labels.mrc")
    assert done["picture"] == str(tmp_path / "a__overview.png")
    assert done["voxels"] == 2400
    assert done["counts"].keys() == {"dark matter", "light"}
    assert any("voxel size" in warning for warning in done["warnings"])
    assert failed["status"] == "error"
    assert failed["tomogram"] == str(tmp_path / "none.mrc")
    assert failed["exit_status"] == 2
    assert "none.mrc" in failed["error"]


def test_a_profile_names_the_stage_that_sets_the_pace_and_leaves_a_trace(run, make, tmp_path):
    status, _, err = run(make("a.mrc"), "--profile")
    assert status == 0
    assert re.search(r"^(allocate|read|submit|infer|write|complete) sets the pace: ", err, re.MULTILINE)
    trace = json.loads((tmp_path / "a__trace.json").read_text("utf-8"))
    assert {event["name"] for event in trace["traceEvents"]} >= {"read", "submit", "wait", "write", "complete"}
    (done,) = lines(run(make("b.mrc"), "--profile", "--json")[1])
    assert done["profile"]["bottleneck"] in done["profile"]["stages"]
    (done,) = lines(run(make("c.mrc"), "--json")[1])
    assert done["profile"] is None
    assert not (tmp_path / "c__trace.json").exists()


def test_a_trace_that_fails_does_not_take_the_result_along(run, make, tmp_path):
    (tmp_path / "a__trace.json").mkdir()
    status, out, err = run(make("a.mrc"), "--profile")
    assert (status, err.count("tomoscribe: error: ")) == (1, 1)
    assert "a__trace.json" in err
    assert re.search(r"^1 segmented, 1 without picture or trace, ", out, re.MULTILINE)


def test_a_picture_that_fails_does_not_take_the_result_along(run, make, tmp_path):
    first, second = make("a.mrc"), make("b.mrc")
    (tmp_path / "a__overview.png").mkdir()
    status, out, err = run(first, second, "--picture")
    assert status == 1
    assert err.index(f"→ {tmp_path / 'a__labels.mrc'}") < err.index("tomoscribe: error: ")
    assert err.count("tomoscribe: error: ") == 1
    assert re.search(r"^2 segmented, 1 without picture or trace, ", out, re.MULTILINE)
    assert (tmp_path / "b__overview.png").exists()

    status, out, err = run(first, "--picture", "--overwrite", "--json")
    done, failed = lines(out)
    assert (status, err) == (1, "")
    assert (done["status"], done["labels"], done["picture"]) == ("done", str(tmp_path / "a__labels.mrc"), None)
    assert (failed["status"], failed["tomogram"], failed["exit_status"]) == ("error", str(first), 1)
    assert "a__overview.png" in failed["error"]


@pytest.mark.parametrize("options", [(), ("--overwrite",)])
def test_outputs_that_cannot_be_looked_for_do_not_stop_the_rest(run, make, tmp_path, options):
    # The name may have 255 bytes; that of its labels, 12 more, may not.
    long = make(f"{'l' * 245}.mrc")
    last = make("m.mrc")
    status, out, err = run(long, tmp_path / f"{'x' * 300}.mrc", last, *options)
    assert status == 1
    errors = [line for line in err.splitlines() if line.startswith("tomoscribe: error: ")]
    assert len(errors) == 2
    assert all("cannot be looked for (File name too long)" in line for line in errors)
    assert last.with_name("m__labels.mrc").exists()
    assert "1 segmented, 2 failed" in out


def test_json_says_what_keeps_the_whole_run_from_starting(run, make, tmp_path):
    status, out, err = run(make("a.mrc"), "--json", model=tmp_path / "nowhere")
    (failed,) = lines(out)
    assert (status, err) == (2, "")
    assert failed["tomogram"] is None
    assert "nowhere" in failed["error"]


def test_quiet_says_errors_only(run, make, tmp_path):
    path = make("a.mrc", voxel_size=1.0)
    assert run(path, "--quiet") == (0, "", "")
    status, out, err = run(tmp_path / "none.mrc", "-q")
    assert (status, out) == (2, "")
    assert re.fullmatch(r"tomoscribe: error: .*none\.mrc.*\n", err)


def test_warnings_name_the_tomogram(run, make):
    path = make("a.mrc", voxel_size=30.0)
    _, _, err = run(path)
    assert f"{path}: warning: voxels of 30.00 Å" in err
    assert "warning:" not in run(path, "--voxel-size", "9", "--overwrite")[2]


def test_rescaling_is_said_and_can_be_turned_off(run, make):
    path = make("a.mrc", voxel_size=24.0)
    status, _, err = run(path)
    assert status == 0
    assert f"{path}: warning: voxels of 24.00 Å are not what the model tiny was trained on" in err
    assert "slices of 20 × 30 as 30 × 45 pixels" in err
    with mrcfile.open(path.with_name("a__labels.mrc")) as file:
        rescaled = file.data.copy()
        assert file.data.shape == (4, 30, 20)
        assert file.voxel_size.tolist() == (24.0, 24.0, 24.0)
    (done,) = lines(run(path, "--overwrite", "--json")[1])
    assert done["rescaling"] == {"shape_yx": [45, 30], "voxel_size_xy": [16.0, 16.0], "scale_xy": [1.5, 1.5]}

    status, _, err = run(path, "--overwrite", "--no-rescale")
    assert status == 0
    assert "slices are not rescaled; expect worse labels" in err
    with mrcfile.open(path.with_name("a__labels.mrc")) as file:
        plain = file.data.copy()
    assert (plain != rescaled).any()
    run(path, "--overwrite", "--voxel-size", "12")
    with mrcfile.open(path.with_name("a__labels.mrc")) as file:
        np.testing.assert_array_equal(file.data, plain)


def test_voxels_that_cannot_be_rescaled_do_not_stop_the_rest(run, make):
    status, out, err = run(make("a.mrc", voxel_size=90.0), make("b.mrc"))
    assert status == 2
    assert "1 segmented, 1 failed" in out
    assert "enlarged 5.63 times" in err


def test_options_reach_the_engine(run, make, tmp_path):
    path = make("a.mrc")
    out = tmp_path / "out"
    status, _, _ = run(path, "-o", out, "--classes", "light, Dark_Matter", "--z-range", "1:3", "--voxel-size", "12.5")
    assert status == 0
    with mrcfile.open(out / "a__labels.mrc") as file:
        assert file.voxel_size.tolist() == (12.5, 12.5, 12.5)
        plain = file.data.copy()
    assert plain[1:3].any(axis=(1, 2)).all()
    assert not plain[[0, 3]].any()

    run(path, "-o", out, "--classes", "light", "--classes", "2", "--z-range", ":2", "--overwrite")
    with mrcfile.open(out / "a__labels.mrc") as file:
        assert set(np.unique(file.data[:2])) == {0, 2}
        assert not file.data[2:].any()

    run(path, "-o", out, "--invert", "--z-range", "1:3", "--overwrite")
    with mrcfile.open(out / "a__labels.mrc") as file:
        np.testing.assert_array_equal(file.data == 1, plain == 2)

    run(path, "-o", out, "--axes", "xzy", "--overwrite", "--picture")
    with mrcfile.open(out / "a__labels.mrc") as file:
        assert file.data.shape == (4, 30, 20)
        # Context crosses what are now slices, so the labels are others than before.
        assert (file.data != plain).any()
    assert (out / "a__overview.png").exists()

    _, _, err = run(path, "-o", out, "--sample-only", "--overwrite")
    assert "left out no slice" in err


def test_mode0_decides_how_bytes_are_read(run, tmp_path):
    values = np.zeros((2, 16, 16), np.int8)
    values[:, :4] = -100
    values[:, 4:8] = 100
    with mrcfile.new(tmp_path / "a.mrc") as file:
        file.set_data(values)
        file.set_volume()
    read = {}
    for mode0 in ("signed", "unsigned"):
        run(tmp_path / "a.mrc", "--mode0", mode0, "--overwrite")
        with mrcfile.open(tmp_path / "a__labels.mrc") as file:
            read[mode0] = file.data[0, ::4, 0].tolist()
    # -100 is the darkest of the three, and as an unsigned byte, 156, the brightest.
    assert read["signed"][0] == 1
    assert read["unsigned"][0] == 2


@pytest.mark.parametrize("text", ["3", "a:b", "-1:3", "1:2:3", "1.5:2", ""])
def test_a_z_range_in_another_form_is_a_usage_error(run, make, text):
    status, out, err = run(make("a.mrc"), "--z-range", text)
    assert (status, out) == (2, "")
    assert "A:B" in err


def test_a_range_outside_one_tomogram_does_not_stop_the_rest(run, make):
    status, out, err = run(make("a.mrc"), make("b.mrc", shape=(9, 30, 20)), "--z-range", "5:")
    assert status == 2
    assert "1 segmented, 1 failed" in out
    assert "0:4" in err


def test_errors_of_the_whole_run_come_before_any_work(run, make, tmp_path):
    first = make("a.mrc")
    make("other/a.mrc")
    for arguments, message in (
        (["--classes", "ribosome"], "dark matter, light"),
        (["--backend", "abacus"], "onnxruntime"),
        ([tmp_path / "other", "--output", tmp_path / "out"], "same names"),
        ([tmp_path / "empty*.mrc"], "no tomogram matches"),
    ):
        status, out, err = run(first, *arguments)
        assert (status, out) == (2, "")
        assert re.fullmatch(r"tomoscribe: error: .*\n", err)
        assert message in err
    assert not list(tmp_path.glob("**/*__*"))


def test_the_worst_status_counts_and_a_fault_of_ours_is_one_line(run, make, monkeypatch):
    path = make("a.mrc")

    def fail(*arguments, **options):
        raise ZeroDivisionError("by\nchance")

    monkeypatch.setattr("tomoscribe.engine.segmentation.measure_intensity", fail)
    status, _, err = run(path)
    assert status == 1
    line = f"tomoscribe: error: {path}: unexpected ZeroDivisionError: by chance; run with --debug for the traceback\n"
    assert err.endswith(line)
    with pytest.raises(ZeroDivisionError):
        run(path, "--debug")


def test_ctrl_c_is_one_line_and_no_file(run, make, monkeypatch):
    path = make("a.mrc")

    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("tomoscribe.engine.segmentation.measure_intensity", interrupt)
    status, out, err = run(path, "--quiet")
    assert (status, out, err) == (130, "", "tomoscribe: error: interrupted\n")
    assert list(path.parent.iterdir()) == [path]


def test_a_script_can_stop_reading(make, tiny_bundle):
    command = [sys.executable, "-m", "tomoscribe.cli", "segment", make("a.mrc"), "--json", "--model", tiny_bundle]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert "Traceback" not in process.stderr.read()
    assert process.returncode == 1


def test_real_and_odd_files_are_labelled_with_their_own_header_or_refused(run, shared_data, tmp_path):
    entries = [entry for name in ("odd", "real", "simulated", "labels") for entry in (shared_data / name).iterdir()]
    inputs = sorted(path for path in entries if path.is_file() or path.suffix == ".zarr")
    refused = {
        "constant_voxel0.mrc",
        "header_only.mrc",
        "symlink_text_9bytes.mrc",
        "too_long_mode0.mrc",
        "input_omezarr.zarr",
        "membrane_labels_225x464x464.mrc.gz",  # labels, practically all background
        *(path.name for path in inputs if path.suffix == ".h5"),
    }
    # Small maps of fine voxels: hardly a pixel of the model's.
    too_small = {"nonzero_starts.map", "tests_test_data_EMD-3001.map", "tests_test_data_EMD-3001.map.bz2"}
    for path in inputs:
        output = tmp_path / path.name
        options = ["--json", "--picture", "--output", output]
        if path.name in too_small:
            (entry,) = lines(run(path, *options)[1])
            assert "label the tomogram as it is with --no-rescale" in entry["error"]
            options.append("--no-rescale")
        status, out, err = run(path, *options)
        (entry,) = lines(out)
        assert err == ""
        if path.name in refused:
            assert (status, entry["status"]) == (2, "error")
            assert str(path) in entry["error"]
            assert "\n" not in entry["error"]
            assert not output.exists()
            continue
        assert (status, entry["status"]) == (0, "done"), entry
        assert len(list(output.iterdir())) == 5
        with open_tomogram(path) as source:
            for name in (entry["labels"], *entry["class_volumes"].values()):
                said = io.StringIO()
                mrcfile.validate(name, print_file=said)
                # What follows the first line are complaints. The version is 0 where the tomogram's origin is not
                # declared to be that of MRC2014, and no other complaint is allowed.
                complaints = [line for line in said.getvalue().splitlines()[1:] if "nversion = 0" not in line]
                assert [line for line in complaints if not line.endswith("appears to be valid.")] == []
                with open_tomogram(name) as written:
                    assert written.shape == source.shape
                    assert written.geometry.start == source.geometry.start
                    assert written.geometry.map_axes == source.geometry.map_axes
                    np.testing.assert_allclose(written.geometry.voxel_size, source.geometry.voxel_size, rtol=1e-6)
                    np.testing.assert_array_equal(written.geometry.origin, source.geometry.origin)

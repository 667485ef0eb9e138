"""`tomoscribe bench` as a shell calls it, with the tiny model."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

QUICK = ("--warm-up", 0, "--duration", 0, "--runs", 3)
QUERIES_ONLY = (*QUICK, "--slices", 0, "--cold-starts", 0)


@pytest.fixture
def run(tomoscribe, tiny_bundle):
    """Run `tomoscribe bench` with the tiny model in ONNX Runtime; gives the exit status, stdout and stderr."""

    def run(*arguments, model=tiny_bundle, backend="onnxruntime"):
        return tomoscribe("bench", model, "--backend", backend, *arguments)

    return run


def cells(out, heading):
    """The rows of the table below a heading, as lists of words that stand apart by two spaces."""
    lines = out.splitlines()
    (first,) = (number for number, line in enumerate(lines) if line.startswith(heading))
    table = [re.split(" {2,}", line) for line in lines[first + 1 :]]
    return table[: table.index([""])] if [""] in table else table


def measurements(path):
    return [(row["kind"], row["configuration"]) for row in json.loads(path.read_text())["measurements"]]


def test_everything_is_measured_told_and_kept(run, tmp_path):
    path = tmp_path / "a.json"
    status, out, err = run(*QUICK, "--tile", 64, "--slices", 2, "--cold-starts", 1, "--json", path)
    assert status == 0
    rows = measurements(path)
    assert [kind for kind, _ in rows] == ["latency"] * (len(rows) - 2) + ["volume", "cold start"]
    common = {"backend": "onnxruntime", "precision": "fp32", "device": "cpu", "tile": [64, 64]}
    assert rows[0][1] == {**common, "batch": 1, "streams": 1}
    assert rows[-2][1] == {**common, "slices": 2}
    assert rows[-1][1] == common
    assert json.loads(path.read_text())["machine"]["gpus"] == {}
    assert json.loads(path.read_text())["model"]["name"] == "tiny"
    assert re.search(r"^model +tiny$", out, re.MULTILINE)
    assert cells(out, "cold start")[0] == ["python", "import", "load", "warm-up", "total", "±"]
    assert len(cells(out, "a volume")) == 2
    measured = [line for line in err.splitlines() if line.startswith("measure  ")]
    assert len(measured) == len(rows)
    assert measured[-2].endswith("a volume of 64 x 64 x 2 from file to files")
    assert "onnxruntime fp32, as asked for" in err
    assert "\x1b" not in out + err


def test_a_sweep_has_a_row_for_each_combination(run, tmp_path):
    path = tmp_path / "a.json"
    options = ("--tile", "8,16x24", "--batch", "1,2", "--batch", "2", "--streams", 1, "--json", path)
    status, out, _ = run(*QUERIES_ONLY, *options)
    assert status == 0
    assert [(*row["tile"], row["batch"]) for _, row in measurements(path)] == [
        (8, 8, 1),
        (8, 8, 2),
        (16, 24, 1),
        (16, 24, 2),
    ]
    header, *rows = cells(out, "latency")
    assert header == ["tile", "batch", "p50", "p90", "p95", "p99", "CV", "Mvoxel/s"]
    assert [row[:2] for row in rows[:4]] == [["8x8", "1"], ["8x8", "2"], ["16x24", "1"], ["16x24", "2"]]
    assert "backend onnxruntime fp32, streams 1" in out


def test_the_table_has_the_figures_of_the_file(run, tmp_path):
    path = tmp_path / "a.json"
    _, out, _ = run(*QUERIES_ONLY, "--streams", 1, "--tile", 64, "--json", path)
    (row,) = json.loads(path.read_text())["measurements"]
    shown = [float(cell.rstrip("%")) for cell in cells(out, "latency")[1]]
    latency = row["latency_ms"]
    expected = [*(latency[name] for name in ("p50", "p90", "p95", "p99")), 100 * latency["coefficient_of_variation"]]
    assert shown == pytest.approx([*expected, row["figures"]["mvoxels_per_second"]["value"]], rel=0.06, abs=0.06)
    assert row["queries"] == 3


def test_what_cannot_be_measured_is_told_once_and_the_rest_goes_on(run, tmp_path):
    path = tmp_path / "a.json"
    status, out, err = run(
        *QUERIES_ONLY, "--tile", "8,16", "--precision", "bf16,fp32", "--streams", "1,999", "--json", path
    )
    assert status == 2
    errors = [line for line in err.splitlines() if "error:" in line]
    assert len(errors) == 2
    assert "found bf16" in errors[0]
    assert "found 999" in errors[1]
    assert [row["streams"] for _, row in measurements(path)] == [1, 1]
    assert len(cells(out, "latency")) >= 3


def test_where_nothing_can_be_measured_nothing_is_written(run, tmp_path):
    path = tmp_path / "a.json"
    status, out, err = run(*QUERIES_ONLY, "--json", path, backend="cuda")
    assert (status, out, path.exists()) == (2, "", False)
    assert "backend 'cuda': expected one of auto" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--tile", "5x"), "expected YxX"),
        (("--tile", "a"), "expected YxX"),
        (("--tile", "8x8x8"), "expected YxX"),
        (("--tile", "0"), "expected YxX"),
        (("--batch", "1,"), "expected whole numbers"),
        (("--streams", "all"), "expected whole numbers from 1, or auto"),
        (("--json", "/nowhere/a.json"), "no such folder"),
        (("--tile", "12"), "multiples of 8"),
    ],
)
def test_an_option_that_cannot_be_is_refused(run, arguments, message):
    status, out, err = run(*QUERIES_ONLY, *arguments)
    assert (status, out) == (2, "")
    assert message in " ".join(re.sub("[│╭╰─╮╯]", "", err).split())


def test_the_bundled_model_is_the_default(tomoscribe, monkeypatch, tiny_bundle):
    monkeypatch.setattr("tomoscribe.engine.default_bundle", lambda: tiny_bundle)
    status, out, _ = tomoscribe("bench", "--tile", 8, "--backend", "onnxruntime", *QUERIES_ONLY)
    assert status == 0
    assert re.search(r"^model +tiny$", out, re.MULTILINE)


def test_quiet_says_nothing_but_the_tables(run):
    status, out, err = run(*QUERIES_ONLY, "--tile", 8, "--quiet")
    assert (status, err) == (0, "")
    assert "p99" in out


def test_an_error_of_the_backend_shows_its_traceback_on_demand(run, monkeypatch):
    def fail(*_arguments):
        raise ValueError("odd")

    monkeypatch.setattr("tomoscribe.engine.latency.sweep.measure_latency", fail)
    status, _, err = run(*QUERIES_ONLY, "--tile", 8)
    assert status == 1
    assert "unexpected ValueError: odd; run with --debug" in err
    with pytest.raises(ValueError, match="odd"):
        run(*QUERIES_ONLY, "--tile", 8, "--debug")


@pytest.mark.parametrize("stop", ["a volume of", "cold starts"])
def test_ctrl_c_ends_it_and_leaves_nothing(tiny_bundle, tmp_path, stop):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    path = tmp_path / "a.json"
    options = [*map(str, QUICK), "--tile", "64", "--slices", "3", "--cold-starts", "50", "--json", str(path)]
    if stop == "a volume of":
        options[options.index("--slices") + 1] = "2000"
    process = subprocess.Popen(
        [sys.executable, "-m", "tomoscribe.cli", "bench", str(tiny_bundle), "--backend", "onnxruntime", *options],
        env=os.environ | {"TMPDIR": str(scratch)},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        while stop not in process.stderr.readline():
            assert process.poll() is None
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert (out, err) == ("", "tomoscribe: error: interrupted\n")
    # ONNX Runtime has a file of its own there.
    assert list(scratch.glob("tomoscribe*")) == []
    assert not path.exists()


def test_each_device_is_measured_and_what_cannot_be_is_told(run, tmp_path):
    path = tmp_path / "a.json"
    options = ("--tile", 8, "--streams", 1, "--json", path)
    status, _, err = run(*QUERIES_ONLY, *options, "--device", "cpu", "--device", "0,1", "--device", "cpu")
    assert status == 2
    assert [row["device"] for _, row in measurements(path)] == ["cpu"]
    (error,) = [line for line in err.splitlines() if "error:" in line]
    assert error.endswith("device '0,1': expected cpu or auto, for onnxruntime runs on the CPU")

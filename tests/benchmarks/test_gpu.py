"""The one script for GPU machines: how its parts are run, what follows from them, and a rehearsal on the CPU."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from tomoscribe.engine import Segmenter, open_tomogram

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
# What a part does here: a note before, its time, and a note after it.
CHILD = """
import json, subprocess, sys, time
task = json.loads(sys.argv[1])
with open(task["notes"], "w", buffering=1) as notes:
    def note(**entries):
        notes.write(json.dumps(entries) + "\\n")
    note(kind="begun", at=time.time())
    if task["arguments"].get("starts"):
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        note(kind="child", pid=child.pid)
    time.sleep(task["arguments"].get("seconds", 0))
    if task["arguments"].get("fails"):
        print("first line")
        raise SystemExit("it does not work")
    note(kind="ended", at=time.time())
    notes.write("{ cut of")
"""


@pytest.fixture
def script(monkeypatch):
    """Import a script as it imports others: from its own folder."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return import_module


@pytest.fixture
def part(script, monkeypatch, tmp_path):
    """Give a part that does what it is told."""
    child = tmp_path / "child.py"
    child.write_text(CHILD)
    monkeypatch.setattr(script("gpu_running"), "CHILD", child)

    def make(name, budget=20.0, needs=(), measures=True, **arguments):
        return script("gpu_parts").Part(name, "study", budget, arguments, needs, measures=measures)

    return make


class Collected:
    """Results that are kept."""

    def __init__(self):
        self.outcomes = []

    def add(self, outcome):
        self.outcomes.append(outcome)


def run(script, parts, tmp_path, missing=None, seconds=60):
    work, results = tmp_path / "work", Collected()
    work.mkdir(exist_ok=True)
    script("gpu").run(parts, missing or {}, work, results, time.monotonic() + seconds)
    return results.outcomes


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_part_is_done_with_what_it_noted(script, part, tmp_path):
    (outcome,) = run(script, [part("one part")], tmp_path)
    assert (outcome.state, outcome.reason, outcome.part.name) == ("done", "", "one part")
    assert [note["kind"] for note in outcome.notes] == ["begun", "ended"]
    assert json.loads(json.dumps(outcome.to_json()))["part"]["name"] == "one part"


def test_a_part_that_fails_is_said_and_the_rest_goes_on(script, part, tmp_path):
    outcomes = run(script, [part("a", fails=True), part("b")], tmp_path)
    assert [outcome.state for outcome in outcomes] == ["failed", "done"]
    assert outcomes[0].reason == "it does not work"
    assert list(outcomes[0].said) == ["first line", "it does not work"]
    assert [note["kind"] for note in outcomes[0].notes] == ["begun"]


def test_a_part_is_stopped_in_time_with_all_that_it_started(script, part, tmp_path):
    begun = time.monotonic()
    quick, slow = run(script, [part("quick", starts=True), part("slow", 2, seconds=50, starts=True)], tmp_path)
    assert time.monotonic() - begun < 40
    assert quick.state == "done"
    assert (slow.state, slow.reason) == ("stopped", "not done in 2 s")
    assert [note["kind"] for note in slow.notes] == ["begun", "child"]
    for outcome in (quick, slow):
        (child,) = (note["pid"] for note in outcome.notes if note["kind"] == "child")
        while is_alive(child):  # it was told to end
            assert time.monotonic() - begun < 40
            time.sleep(0.05)


def test_what_is_not_there_or_comes_too_late_is_not_begun(script, part, tmp_path):
    parts = [part("a", needs=("x", "y")), part("b", needs=("y",)), part("c", needs=("z",)), part("d", needs=("x",))]
    outcomes = run(script, parts, tmp_path, {"x": None, "y": "y is broken"})
    assert [(outcome.state, outcome.reason) for outcome in outcomes] == [
        ("missing", "y is broken"),
        ("missing", "y is broken"),
        ("missing", "z was not looked for"),
        ("done", ""),
    ]
    (late,) = run(script, [part("a")], tmp_path, seconds=1)
    assert (late.state, late.reason) == ("missing", "no time was left")


def test_only_what_measures_has_the_machine_for_itself(script, part, tmp_path):
    beside = {"measures": False, "seconds": 3}
    outcomes = run(script, [part("a", **beside), part("b", **beside), part("c"), part("d")], tmp_path)
    times = {outcome.part.name: [note["at"] for note in outcome.notes] for outcome in outcomes}
    assert times["b"][0] < times["a"][1]  # side by side
    assert max(times["a"][1], times["b"][1]) < times["c"][0]
    assert times["c"][1] < times["d"][0]


@pytest.mark.parametrize("scale", ["FULL", "QUICK", "REHEARSAL"])
def test_parts_are_studies_that_there_are(script, scale):
    parts = list(script("gpu_parts").make_parts(getattr(script("gpu_parts"), scale)))
    names = [part.name for part in parts]
    assert len(set(names)) == len(names)
    assert parts[0].name == "prepare"
    for number, part in enumerate(parts):
        assert callable(getattr(script(script("gpu_child").STUDIES[part.study]), part.study))
        assert set(part.after) <= set(names[:number])
        json.dumps(dict(part.arguments))


def test_parts_that_are_chosen_come_with_what_they_work_on(script):
    parts = list(script("gpu_parts").make_parts(script("gpu_parts").FULL))
    chosen = script("gpu").choose(parts, ["volume tensorrt 64", "peak"])
    assert [part.name for part in chosen] == ["prepare", "peak", "volume tensorrt 64"]
    with pytest.raises(SystemExit, match=r"--only: expected the beginnings of some of prepare, .*, found nothing"):
        script("gpu").choose(parts, ["nothing"])


def noted(script, name, *notes):
    running = script("gpu_running")
    return running.Outcome(script("gpu_parts").Part(name, "study", 1), running.DONE, notes=notes)


def timed(name, *figures):
    return [{"kind": "seconds", "name": name, "seconds": figure} for figure in figures]


@pytest.fixture
def outcomes(script):
    """What two backends and PyTorch did with a network of 1000 operations a voxel on 100 voxels."""
    stages = ("allocate", "read", "submit", "infer", "write", "complete")
    profile = {"stages": {stage: {"busy": 0.5} for stage in stages}, "total": 3.0, "bottleneck": "infer"}
    parity = {"kind": "parity", "labels_equal": 0.99995, "foreground_dice": 0.9, "largest_score_difference": 2}
    return [
        noted(script, "prepare", {"kind": "network", "width": 64, "operations": 1000.0}),
        noted(script, "peak", {"kind": "peak", "precision": "fp16", "operations_per_second": 1e6},
              {"kind": "peak", "precision": "fp32", "operations_per_second": 1e5}),
        noted(script, "volume tensorrt 64", *timed("bare", 0.2, 0.3, 9), *timed("memory", 0.4), *timed("files", 0.6),
              {"kind": "profile", "profile": profile}),
        noted(script, "volume onnxruntime-cuda 64", *timed("bare", 0.5), *timed("files", 0.5)),
        noted(script, "torch 64", *timed("monai files", 2.0), *timed("monai memory", 1.5),
              *timed("compiled memory", 0.6), {"kind": "left out", "name": "compiled files", "reason": "no reason"}),
        noted(script, "parity tensorrt", {**parity, "precision": "fp32"}, {**parity, "precision": "fp16"}),
        noted(script, "bus tensorrt", *timed("int8 as float32", 4), *timed("int8 as int8", 2),
              {"kind": "bandwidth", "direction": "upload", "bytes_per_second": 5e10}),
        noted(script, "library tensorrt cuda.bindings", *timed("bare", 2)),
        noted(script, "library tensorrt cuda.bindings without graphs", *timed("bare", 3)),
        noted(script, "conformance", {"kind": "tests", "passed": 7, "failed": ["t::x"], "skipped": {"no pycuda": 2}}),
        script("gpu_running").Outcome.missing(script("gpu_parts").Part("library tensorrt pycuda", "volume", 1), "gone"),
    ]  # fmt: skip


@pytest.fixture
def scale(script):
    return script("gpu_parts").Scale(shape=(4, 5, 5), widths=(64,))


def test_ratios_are_of_medians_and_of_the_fastest_backend(script, outcomes, scale):
    found = script("gpu_ratios").ratios(script("gpu_ratios").Figures(outcomes), scale)
    assert found == pytest.approx(
        {
            "overlap_tensorrt_64": 0.3 / 0.6,
            "overlap_in_memory_tensorrt_64": 0.3 / 0.4,
            "peak_fraction_tensorrt_64": 1000 * 100 / 0.3 / 1e6,
            "overlap_onnxruntime-cuda_64": 1,
            "peak_fraction_onnxruntime-cuda_64": 0.2,
            "over_torch_monai_64": 2.0 / 0.5,
            "over_torch_monai_64_in_memory": 1.5 / 0.3,
            "over_torch_compiled_64_in_memory": 0.6 / 0.3,
            "labels_equal_tensorrt_fp32": 0.99995,
            "labels_equal_tensorrt_fp16": 0.99995,
            "raw_int8_tensorrt": 2,
            "graphs": 1.5,
        }
    )


def test_the_page_has_every_figure_aim_and_reason(script, outcomes, scale):
    machine = {
        "gpus": ["NVIDIA H200"],
        "driver": "580",
        "cuda": "13.0",
        "written_bytes_per_second": 2e9,
        "versions": {},
    }
    circumstances = {"machine": {"processor": "P", "cores_usable": 2}, "commit": "c", "date": "d"}
    setting = script("gpu_report").Setting("python x", scale, machine, circumstances)
    ratios = script("gpu_ratios").ratios(script("gpu_ratios").Figures(outcomes), scale)
    page = script("gpu_report").page(setting, outcomes, ratios)
    assert [line for line in page.splitlines() if line.startswith("## ")] == [
        "## Aims", "## Whole volumes", "## Stages", "## PyTorch", "## The same labels", "## The bus",
        "## Libraries that call CUDA's driver", "## Tests that need a GPU", "## What was not measured",
    ]  # fmt: skip
    rows = [re.sub(r"\s+", " ", line) for line in page.splitlines()]
    for expected in (
        "| tensorrt, base 64: overlap, file to files | 0.5 | ≥ 0.95 | no |",
        "| base 64: seconds, file to files, the fastest backend | 0.5 | ≤ 2 | yes |",
        "| base 64: over PyTorch with MONAI, file to files | 4 | ≥ 3 | yes |",
        "| onnxruntime-cuda, FP16: the same labels as on the CPU | – | ≥ 0.999 | – |",
        "| tensorrt, base 64 | 0.6 | 0.4 | 0.3 | 0.5 | 0.75 | 0.0001667 | 3.333e-07 | 0.3333 | – |",
        "| tensorrt, base 64 | 0.5 | 0.5 | 0.5 | 0.5 | 0.5 | 0.5 | 3 | infer |",
        "| monai, base 64 | 2 | 1.5 | 4 | 5 |",
        "| tensorrt, FP32 | 99.99500% | 0.90000 | 2 |",
        "| tensorrt | upload, page-locked | 50.0 GB/s |",
        "| tensorrt | int8 as int8 | 2 s |",
        "| tensorrt cuda.bindings without graphs | – | – | 3 |",
        "7 passed, 1 failed, 2 skipped.",
        "- failed: `t::x`",
        "- skipped, 2: no pycuda",
        "- library tensorrt pycuda: missing, gone",
        "- torch 64, compiled files: no reason",
    ):
        assert expected in rows
    assert "NVIDIA H200, driver 580 (CUDA 13.0); P, 2 cores; files come to the disk at 2 GB/s" in page


def test_results_are_written_after_every_part(script, outcomes, scale, tmp_path, capsys):
    setting = script("gpu_report").Setting("python x", scale, {"versions": {}}, script("measuring").circumstances())
    results = script("gpu").Results(setting, tmp_path / "out", tmp_path / "json" / "gpu.json")
    for count, outcome in enumerate(outcomes[:3], 1):
        results.add(outcome)
        saved = json.loads((tmp_path / "json" / "gpu.json").read_text(encoding="utf-8"))
        assert [part["part"]["name"] for part in saved["parts"]] == [one.part.name for one in outcomes[:count]]
        assert (tmp_path / "out" / "gpu.md").read_text(encoding="utf-8") == results.page
    assert saved["ratios"]["overlap_tensorrt_64"] == 0.5
    assert "volume tensorrt 64: done, 0 s" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["gpu.json", "gpu.md"]


def test_without_a_gpu_there_is_one_line():
    environment = {**os.environ, "PATH": "/nowhere", "CUDA_VISIBLE_DEVICES": "-1"}
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--quick"]
    answer = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert answer.returncode == 1
    assert answer.stdout == ""
    (line,) = answer.stderr.splitlines()
    assert line.startswith("gpu.py: expected an NVIDIA GPU, found none (nvidia-smi is not there)")


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory):
    """The folder of a rehearsal, and what it printed."""
    folder = tmp_path_factory.mktemp("gpu")
    words = [
        "--rehearse",
        "--minutes",
        "20",
        "--work",
        folder / "work",
        "--output",
        folder,
        "--json",
        folder / "gpu.json",
    ]
    command = [sys.executable, BENCHMARKS / "gpu.py", *words]
    answer = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return folder, answer.stdout


def test_a_rehearsal_goes_through_all_parts(script, rehearsed):
    folder, printed = rehearsed
    page = json.loads((folder / "gpu.json").read_text(encoding="utf-8"))
    parts = {part["part"]["name"]: part for part in page["parts"]}
    assert {name.split()[0] for name in parts} == {
        "prepare", "conformance", "peak", "volume", "torch", "parity", "bus"
    }  # fmt: skip
    assert {part["state"] for name, part in parts.items() if "openvino" not in name} == {"done"}
    (tests,) = parts["conformance"]["notes"]
    assert tests["passed"] + sum(tests["skipped"].values()) >= 1
    assert page["ratios"]["labels_equal_onnxruntime_fp32"] == 1
    assert page["ratios"]["overlap_onnxruntime_4"] > 0
    assert page["ratios"]["peak_fraction_onnxruntime_4"] > 0
    assert page["ratios"]["over_torch_eager_4_in_memory"] > 0
    assert (folder / "gpu.md").read_text(encoding="utf-8") in printed


def test_what_is_timed_are_labels(script, rehearsed, tmp_path, monkeypatch):
    """PyTorch's labels are tomoscribe's, and the slots that are timed alone are those of a segmentation."""
    import torch

    folder, _ = rehearsed
    work, shape = folder / "work", script("gpu_parts").REHEARSAL.shape
    volume, peers, setup = script("gpu_volume"), script("gpu_torch"), script("gpu_setup")
    tomogram, network = setup.noise(work, shape), setup.network_folder(work, 4)
    with volume.Subject(network, backend="onnxruntime", precision="fp32", device="cpu") as subject:
        allocated = []
        allocate = subject.runtime.allocate
        monkeypatch.setattr(
            subject.runtime, "allocate", lambda *arguments: allocated.append(arguments) or allocate(*arguments)
        )
        labels = mrcfile.read(subject.segment(tomogram, tmp_path).labels)
        with open_tomogram(tomogram) as opened:
            sizes = volume.Sizes.of(subject, opened, "float32")
    assert allocated == [(sizes.shape, sizes.slots)]
    assert len(np.unique(labels)) > 2
    trained = script("gpu_torch").load_checkpoint(network / "checkpoint.safetensors")
    run = trained.network.to(memory_format=torch.channels_last)
    peer = peers.Peer(run, trained.specification.context, torch.device("cpu"), torch.float32)
    peer.file_to_file(tomogram, tmp_path / "torch.mrc")
    assert (mrcfile.read(tmp_path / "torch.mrc") == labels).mean() > 0.9999


def test_the_model_that_is_judged_is_a_copy(script, rehearsed):
    folder, _ = rehearsed
    copy = script("gpu_setup").bundled(folder / "work")
    assert copy.parent == folder / "work"
    with Segmenter(copy, backend="onnxruntime", precision="fp32", device="cpu") as segmenter:
        assert segmenter.bundle.specification.name == "phantom-unet-16"

"""What the doctor says of machines that the tests play, and of the one that runs them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from packaging.requirements import Requirement

from tomoscribe.cli.findings import State, find_cores, find_memory, find_onnxruntime, find_part, find_temporary_space
from tomoscribe.cli.installation import Package, Part, install_command, read_parts
from tomoscribe.engine.errors import BackendUnavailableError
from tomoscribe.engine.machine import Cores, Memory

CPU = Part("cpu", (Package("onnxruntime", ">=1.20", "1.31.1", fits=True),))


@pytest.fixture
def run(tomoscribe):
    """Run `tomoscribe doctor`; gives the exit status, stdout and stderr."""
    return partial(tomoscribe, "doctor")


def test_where_segment_can_run_the_status_is_0(run):
    status, out, err = run()
    assert (status, err) == (0, "")
    assert re.search(r"^  ok +onnxruntime +ONNX Runtime \S+ on the CPU", out, re.MULTILINE)
    assert out.splitlines()[-1] == "segment can run here"
    assert not any(line != line.rstrip() for line in out.splitlines())
    assert "\x1b" not in out


def test_json_says_the_same(run):
    status, out, _ = run("--json")
    page = json.loads(out)
    assert status == 0
    assert page["can_segment"] is True
    assert page["backends"][-1]["runs"] is True
    findings = {finding["name"]: finding for group in ("machine", "packages", "output") for finding in page[group]}
    assert findings["cores"]["usable"] >= 1
    assert findings["tomoscribe"]["versions"]["python"] in sys.version
    assert "CPUExecutionProvider" in findings["ONNX Runtime"]["providers"]
    assert findings["temporary files"]["free"] > 0
    assert {finding["state"] for finding in findings.values()} <= {str(state) for state in State}


def test_where_no_backend_runs_the_status_is_1(run, monkeypatch):
    def cannot_run(bundle):
        raise BackendUnavailableError("absent: no such device")

    monkeypatch.setattr("tomoscribe.engine.backends.BACKENDS", {"absent": cannot_run})
    status, out, _ = run()
    assert status == 1
    assert re.search(r"^  fail  absent +absent: no such device$", out, re.MULTILINE)
    assert out.splitlines()[-1].startswith("segment cannot run here")
    assert json.loads(run("--json")[1])["can_segment"] is False


def test_one_backend_that_runs_is_enough(run, monkeypatch):
    from tomoscribe.engine.backends import BACKENDS

    def cannot_run(bundle):
        raise RuntimeError("no\nsuch device")

    monkeypatch.setattr("tomoscribe.engine.backends.BACKENDS", {"absent": cannot_run, **BACKENDS})
    status, out, _ = run()
    assert status == 0
    assert re.search(r"^  note  absent +unexpected RuntimeError: no such device", out, re.MULTILINE)


def test_a_bundled_model_that_was_altered_fails(run, monkeypatch, tmp_path):
    monkeypatch.setattr("tomoscribe.engine.default_bundle", lambda: tmp_path / "gone")
    status, out, _ = run()
    assert status == 1
    assert "gone: expected a model bundle" in out


def test_without_a_package_of_the_base_only_that_is_told(run, installed, monkeypatch, own_pip):
    installed(["numpy>=1.26", 'onnxruntime; extra == "cpu"'], ["cpu"], numpy="1.20", tomoscribe="0.1.0")
    status, out, _ = run()
    assert status == 1
    assert re.search(
        r"^  fail  base +numpy 1.20 where >=1.26 is needed\n +to mend it: +pip install \"numpy>=1.26\"$", out, re.M
    )
    assert "backends" not in out


def test_parts_are_those_of_the_metadata(installed, own_pip):
    installed(
        [
            "numpy>=1.26",
            'tomli; python_version < "3"',
            'onnxruntime>=1.20; extra == "cpu"',
            'torch<2.14,>=2.6; extra == "train"',
            'h5py>=3.11; extra == "train"',
            'pywin32; extra == "train" and sys_platform == "win32"',
            'tomoscribe[cpu,train]; extra == "dev"',
            'pytest; extra == "dev"',
        ],
        ["cpu", "train", "dev"],
        numpy="2.0",
        torch="2.14.0",
        onnxruntime_gpu="1.31.1",
    )
    base, cpu, train = read_parts()
    assert (base.name, base.missing) == ("", ())
    assert [package.name for package in base.packages] == ["numpy"]
    assert (cpu.name, cpu.missing) == ("cpu", ())
    assert cpu.packages[0].name == "onnxruntime-gpu"
    assert [package.name for package in train.packages] == ["torch", "h5py"]
    finding = find_part(train)
    assert finding.state is State.LACK
    assert finding.text == "torch 2.14.0 where <2.14,>=2.6 is needed; not installed: h5py"
    assert finding.fix == 'pip install "tomoscribe[train]"'


def test_a_part_that_nobody_installed_is_no_lack():
    absent = Part("train", (Package("torch", "", None, fits=False), Package("zarr", "", None, fits=False)))
    finding = find_part(absent)
    assert (finding.state, finding.text) == (State.NOTE, "not installed: torch, zarr")
    assert '"tomoscribe[train]"' in finding.fix


def test_the_own_metadata_has_the_extras_that_the_doctor_tells_of():
    parts = {part.name: part for part in read_parts()}
    assert {"", "cpu", "train", "export"} <= parts.keys()
    assert "dev" not in parts
    assert all(Requirement(f"{package.name}{package.wanted}") for part in parts.values() for package in part.packages)


@pytest.mark.parametrize(
    ("pip", "uv", "has_pip", "command"),
    [
        ("own", None, True, "pip install"),
        ("other", None, True, f"{sys.executable} -m pip install"),
        (None, None, True, f"{sys.executable} -m pip install"),
        (None, "uv", False, f"uv pip install --python {sys.executable}"),
        ("other", "uv", True, f"{sys.executable} -m pip install"),
    ],
)
def test_commands_install_into_this_environment(monkeypatch, pip, uv, has_pip, command):
    found = {"own": str(Path(sys.executable).with_name("pip")), "other": "/usr/bin/pip", None: None}
    monkeypatch.setattr("shutil.which", lambda name: {"pip": found[pip], "uv": uv}[name])
    monkeypatch.setattr("tomoscribe.cli.installation.find_spec", lambda name: object() if has_pip else None)
    assert install_command(CPU) == f'{command} "tomoscribe[cpu]"'


def test_onnxruntime_that_is_absent_broken_or_there_twice(installed, monkeypatch, own_pip):
    missing = Part("cpu", (Package("onnxruntime", ">=1.20", None, fits=False),))
    installed()
    finding = find_onnxruntime(missing)
    assert (finding.state, finding.fix) == (State.LACK, 'pip install "tomoscribe[cpu]"')

    installed(onnxruntime="1.31.1", onnxruntime_gpu="1.31.1")
    finding = find_onnxruntime(CPU)
    assert finding.state is State.LACK
    assert "overwrite each other" in finding.text
    assert finding.fix == "pip uninstall --yes onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu"

    installed(onnxruntime="1.10")
    old = Part("cpu", (Package("onnxruntime", ">=1.20", "1.10", fits=False),))
    assert (find_onnxruntime(old).state, find_onnxruntime(old).fix) == (State.LACK, 'pip install "tomoscribe[cpu]"')

    fake = ModuleType("onnxruntime")
    fake.get_available_providers = lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    installed(onnxruntime_gpu="1.31.1")
    finding = find_onnxruntime(CPU)
    assert finding.state is State.OK
    assert finding.text == "onnxruntime-gpu 1.31.1, with CUDAExecutionProvider, CPUExecutionProvider"

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    finding = find_onnxruntime(CPU)
    assert finding.state is State.LACK
    assert finding.fix == "pip uninstall --yes onnxruntime-gpu && pip install onnxruntime-gpu"


@pytest.mark.parametrize(
    ("cores", "text"),
    [
        (Cores(8, 8, None), "8 of 8"),
        (Cores(64, 4, None), "4 of 64, by the process's affinity"),
        (Cores(64, 2, 2.5), "2 of 64, by a quota of 2.5 (cgroup)"),
        (Cores(64, 4, 16.0), "4 of 64, by the process's affinity"),
    ],
)
def test_cores_say_what_takes_them_away(monkeypatch, cores, text):
    monkeypatch.setattr("tomoscribe.engine.machine.read_cores", lambda: cores)
    assert find_cores().text == text


@pytest.mark.parametrize(
    ("memory", "text"),
    [
        (Memory(2**35, 2**34, None), "32.0 GiB; 16.0 GiB are free on the machine now"),
        (Memory(2**35, None, 2**32), "4.0 GiB of 32.0 GiB, by a limit for this process (cgroup or ulimit)"),
        (Memory(None, None, None), "the system does not say how much there is"),
    ],
)
def test_memory_says_what_takes_it_away(monkeypatch, memory, text):
    monkeypatch.setattr("tomoscribe.engine.machine.read_memory", lambda: memory)
    assert find_memory().text == text


def test_space_for_temporary_files(monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10**9))
    finding = find_temporary_space()
    assert finding.state is State.LACK
    assert "1.0 GB free" in finding.text
    assert finding.fix.startswith("export TMPDIR=")

    def nowhere():
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr("tempfile.gettempdir", nowhere)
    assert "No usable temporary directory" in find_temporary_space().text


def test_on_a_terminal_lines_are_wrapped_but_commands_are_not(monkeypatch, run, installed):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "60")
    part = Part("export", (Package("x" * 30, "", "1", fits=True), Package("onnxscript", ">=0.5", None, fits=False)))
    monkeypatch.setattr("tomoscribe.cli.installation.read_parts", lambda: [Part("", ()), CPU, part])
    monkeypatch.setattr("shutil.which", lambda name: None)
    _, out, _ = run()
    plain = re.sub(r"\x1b\[[0-9;]*m", "", out)
    assert plain != out
    command = f'{sys.executable} -m pip install "tomoscribe[export]"'
    assert any(line.rstrip().endswith(command) for line in plain.splitlines())
    assert all(len(line) <= 60 for line in plain.splitlines() if "to add it" not in line)


def test_a_terminal_without_unicode_is_no_reason_to_stop(tmp_path):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    result = subprocess.run(
        [sys.executable, "-m", "tomoscribe.cli", "doctor"], capture_output=True, text=True, env=environment
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert re.search(r"lack +terminal +.*ascii", result.stdout)
    assert "export PYTHONUTF8=1" in result.stdout


def test_looking_imports_no_torch():
    code = (
        "import sys; sys.argv = ['tomoscribe', 'doctor']\n"
        "from tomoscribe.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print({'torch', 'onnx', 'lightning', 'zarr', 'tensorrt'} & sys.modules.keys())"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.splitlines()[-1:] == ["set()"], result.stderr

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from importlib.metadata import version

import pytest

from tomoscribe.cli import main
from tomoscribe.engine import OutputError, ParameterError

VERBS = ("segment", "watch", "picture", "phantom", "train", "export", "inspect", "bench", "doctor", "demo")


@pytest.fixture
def run(tomoscribe):
    return tomoscribe


def test_help_lists_the_verbs_in_the_order_of_work(run):
    status, out, _ = run("--help")
    assert status == 0
    at = [out.index(f" {verb} ") for verb in VERBS]
    assert at == sorted(at)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(run, verb):
    status, out, _ = run(verb, "-h")
    assert status == 0
    assert "Usage" in out


def test_version(run):
    assert run("--version") == (0, f"tomoscribe {version('tomoscribe')}\n", "")


def test_a_word_that_is_no_verb_is_a_usage_error(run):
    status, out, err = run("segmnt")
    assert (status, out) == (2, "")
    assert "segmnt" in err


def test_help_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['tomoscribe', '--help']\n"
        "from tomoscribe.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print({'numpy', 'scipy', 'mrcfile', 'PIL', 'torch', 'onnx', 'onnxruntime'} & sys.modules.keys())"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.splitlines()[-1:] == ["set()"], result.stderr


def test_the_engine_imports_no_runtime():
    code = (
        "import sys, tomoscribe.engine\n"
        "print({'torch', 'onnx', 'onnxruntime', 'PIL', 'rich', 'typer'} & sys.modules.keys())"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.splitlines()[-1:] == ["set()"], result.stderr


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ParameterError("a.mrc: too\n small"), 2, "a.mrc: too small"),
        (OutputError("disk full"), 1, "disk full"),
        (ValueError("odd"), 1, "unexpected ValueError: odd; run with --debug for the traceback"),
        (AssertionError(), 1, "unexpected AssertionError; run with --debug for the traceback"),
    ],
)
def test_an_error_is_one_line_and_an_exit_status(run, monkeypatch, error, status, line):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr("tomoscribe.engine.outputs.OutputPaths.of", fail)
    assert run("picture", "a.mrc") == (status, "", f"tomoscribe: error: {line}\n")
    for arguments in (("--debug", "picture", "a.mrc"), ("picture", "a.mrc", "--debug")):
        monkeypatch.setattr(sys, "argv", ["tomoscribe", *arguments])
        with pytest.raises(type(error)):
            main()


def test_export_without_torch_says_what_to_install(run, monkeypatch, tmp_path):
    for name in [name for name in sys.modules if name.startswith("tomoscribe.export")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    status, _, err = run("export", str(tmp_path / "a.safetensors"), "-o", str(tmp_path / "bundle"))
    assert status == 2
    assert 'pip install "tomoscribe[export]"' in err


def test_sigterm_ends_a_command_as_ctrl_c_does(run, monkeypatch, tmp_path):
    before = signal.getsignal(signal.SIGTERM)

    def wait_for_the_end(*_arguments, **_options):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    monkeypatch.setattr("tomoscribe.engine.open_tomogram", wait_for_the_end)
    try:
        status, _, err = run("picture", str(tmp_path / "a.mrc"))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (status, err) == (130, "tomoscribe: error: interrupted\n")

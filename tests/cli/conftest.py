"""The command line as a shell calls it, in this process."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tomoscribe.cli import main


@pytest.fixture
def tomoscribe(monkeypatch, capsys):
    """Run `tomoscribe` with words; gives the exit status, stdout and stderr."""

    def tomoscribe(*words):
        monkeypatch.setattr(sys, "argv", ["tomoscribe", *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            main()
        captured = capsys.readouterr()
        return stopped.value.code, captured.out, captured.err

    return tomoscribe


@pytest.fixture
def installed(monkeypatch):
    """Set the packages that are installed, by name and version."""

    def installed(requires=(), extras=(), **versions):
        versions = {name.replace("_", "-"): version for name, version in versions.items()}
        own = SimpleNamespace(requires=list(requires), metadata=SimpleNamespace(get_all=lambda key: list(extras)))
        monkeypatch.setattr("tomoscribe.cli.installation.distribution", lambda name: own)
        monkeypatch.setattr("tomoscribe.cli.installation.installed_version", versions.get)
        for module in ("findings", "findings_gpu"):
            monkeypatch.setattr(f"tomoscribe.cli.{module}.installed_version", versions.get)

    return installed


@pytest.fixture
def own_pip(monkeypatch):
    """Let the pip that a shell finds be that of this environment."""
    monkeypatch.setattr("shutil.which", lambda name: str(Path(sys.executable).with_name(name)))

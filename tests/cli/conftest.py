"""The command line as a shell calls it, in this process."""

from __future__ import annotations

import sys

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

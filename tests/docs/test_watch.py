"""The page for the microscope: its commands have the options that they are given, and what it names is there."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
import time
from itertools import pairwise
from pathlib import Path

import pytest
from typer.main import get_command

pytest.importorskip("uvicorn", reason="watch needs the extra watch")

from starlette.routing import Match

from tomoscribe.cli.app import app
from tomoscribe.engine import Bundle
from tomoscribe.engine.watch.ledger import Ledger
from tomoscribe.engine.watch.metrics import render
from tomoscribe.engine.watch.page.app import create_app
from tomoscribe.engine.watch.settings import Places, WatchSettings

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "watch.md").read_text(encoding="utf-8")
UNIT = re.search(r"```ini\n(.*?)```", PAGE, re.DOTALL)[1]
LINES = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
COMMANDS = [shlex.split(line, comments=True) for line in [*LINES, UNIT.partition("ExecStart=")[2].splitlines()[0]]]
VERBS = get_command(app).commands


def verb_of(words):
    """Return which of tomoscribe's verbs a line calls; None where it calls none."""
    return next((verb for name, verb in pairwise(words) if Path(name).name == "tomoscribe" and verb in VERBS), None)


@pytest.mark.parametrize("command", [words for words in COMMANDS if verb_of(words)], ids=shlex.join)
def test_a_command_has_the_options_that_it_is_given(command):
    verb = verb_of(command)
    known = {option for parameter in VERBS[verb].params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert {word for word in command[command.index(verb) :] if word.startswith("--")} <= known


def test_most_commands_are_of_this_verb():
    assert [verb_of(words) for words in COMMANDS].count("watch") >= 6


def test_options_in_the_text_are_the_verb_s():
    known = {option for parameter in VERBS["watch"].params for option in parameter.opts}
    named = set(re.findall(r"`(--[a-z-]+)", PAGE)) - {"--help"}
    assert named
    assert named <= known


def test_addresses_are_routes_of_the_page(tmp_path, tiny_bundle):
    class_map = Bundle.load(tiny_bundle).specification.class_map
    settings = WatchSettings(tmp_path, tmp_path / "out")
    page = create_app(settings.places.ledger, settings, class_map, token=None, allowed_hosts=["localhost"])
    named = re.findall(r"^\| `(/[^`?]*)", PAGE, re.MULTILINE)
    assert len(named) == 7
    for address in named:
        scope = {"type": "http", "method": "GET", "path": address, "root_path": "", "headers": []}
        assert any(route.matches(scope)[0] is Match.FULL for route in page.routes), address


def test_metrics_in_the_table_are_rendered_and_all_of_ours_are_in_it(tmp_path):
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        ledger.beat("someone", time.time(), {"free_bytes": 1, "paused": None})
        text = render(tmp_path / "ledger.sqlite").decode()
    rendered = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)) - {"tomoscribe_info"}
    table = "\n".join(line for line in PAGE.splitlines() if line.startswith(("| `tomoscribe_", "| `process_")))
    named = set(re.findall(r"`((?:tomoscribe|process)_\w+)", table))
    assert named <= rendered
    assert {name for name in rendered if name.startswith("tomoscribe_")} <= named


def test_files_in_the_last_table_are_the_watcher_s(tmp_path):
    places = Places(tmp_path)
    table = PAGE[PAGE.index("## What is in") :]
    for path in (places.ledger, places.log, places.pictures):
        assert f"`{path.name}" in table


def test_links_within_the_page_lead_somewhere():
    titles = {
        re.sub(r"[^a-z -]", "", title.lower()).replace(" ", "-") for title in re.findall(r"^## (.*)$", PAGE, re.M)
    }
    links = set(re.findall(r"\]\(#([^)]+)\)", PAGE))
    assert links == titles


def test_the_unit_has_what_a_watcher_needs():
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str
    unit.read_string(UNIT)
    service = unit["Service"]
    # With all processes signalled, a command would be taken to have ended by itself.
    assert service["KillMode"] == "mixed"
    assert service["Restart"] == "on-failure"
    assert service["ReadWritePaths"] in service["ExecStart"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_takes_the_unit(tmp_path):
    text = re.sub(r"(?m)^ExecStart=\S+", f"ExecStart={shutil.which('true')}", UNIT).replace(
        "User=microscope", "User=root"
    )
    (tmp_path / "tomoscribe.service").write_text(text)
    command = ["systemd-analyze", "verify", "--man=no", str(tmp_path / "tomoscribe.service")]
    said = subprocess.run(command, capture_output=True, text=True)
    assert "tomoscribe.service" not in said.stderr, said.stderr

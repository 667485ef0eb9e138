"""The README of the benchmarks names every script, and only options that there are; sources are parsed, not run."""

from __future__ import annotations

import ast
import re
import shlex
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
README = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
MODULES = sorted(path.stem for path in BENCHMARKS.glob("*.py"))
COMMANDS = [shlex.split(line) for line in README.splitlines() if line.startswith("python benchmarks/")]
OF_THE_STREAM = ("overlap", "memory", "peers", "accuracy_cost", "scaling")


def tree(module):
    return ast.parse((BENCHMARKS / f"{module}.py").read_text(encoding="utf-8"))


def calls(module):
    """Names of what a module calls, with the first argument where that is a text."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            first = node.args[0] if node.args else None
            yield name, first.value if isinstance(first, ast.Constant) else None


def is_script(module):
    return any(name in {"ArgumentParser", "argument_parser"} for name, _ in calls(module)) and module != "measuring"


def helpers(module):
    """Modules of the same folder that a module imports and that are no scripts, themselves with options."""
    imported = {node.module for node in ast.walk(tree(module)) if isinstance(node, ast.ImportFrom)}
    return {name for name in imported & set(MODULES) if name != "measuring" and not is_script(name)}


def options(module):
    """Options that a script adds, itself or in its helpers, and those of `measuring` where it asks for them."""
    called = [call for name in (module, *helpers(module)) for call in calls(name)]
    if any(name == "argument_parser" for name, _ in called):
        called += calls("measuring")
    return {first for name, first in called if name == "add_argument"}


def test_every_module_is_named():
    names = re.findall(r"`([\w*]+)\.py`", README)
    assert [module for module in MODULES if not any(fnmatchcase(module, name) for name in names)] == []
    assert [name for name in names if not any(fnmatchcase(module, name) for module in MODULES)] == []


def test_every_script_has_one_command():
    assert sorted(Path(command[1]).stem for command in COMMANDS) == [name for name in MODULES if is_script(name)]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: Path(command[1]).stem)
def test_a_command_has_options_that_there_are(command):
    given = {part for part in command[2:] if part.startswith("--")}
    assert given <= options(Path(command[1]).stem)


@pytest.mark.parametrize("script", OF_THE_STREAM)
def test_scripts_of_the_stream_can_be_quick_and_write_json(script):
    assert is_script(script)
    assert {"--quick", "--json"} <= options(script)


def test_every_result_belongs_to_a_script():
    scripts = {name for name in MODULES if is_script(name)}
    strangers = [
        path.name
        for path in (BENCHMARKS / "results").iterdir()
        if not any(path.stem == name or path.stem.startswith(f"{name}_") for name in scripts)
    ]
    assert not strangers


def test_links_lead_somewhere():
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert links
    assert [link for link in links if not (BENCHMARKS / link).exists()] == []

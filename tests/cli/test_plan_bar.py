"""What is said of a plan that is being built."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console
from rich.progress import Progress

from tomoscribe.cli.bench_progress import BenchProgress
from tomoscribe.cli.plan_bar import PlanBar
from tomoscribe.cli.report import JsonReport, TerminalReport

WHY = "no plan for 4 x 960 x 960 in fp16 on NVIDIA H200 yet"
BUILD = [(WHY, 0.0), ("Building engine", 0.0), ("Timing kernels", 0.5), ("Building engine", 0.97)]


@pytest.fixture
def bar():
    """A bar, the lines that it said, and its task."""
    lines = []
    progress = Progress(console=Console(file=StringIO(), force_terminal=True))
    bar = PlanBar(progress, lines.append)
    (task,) = progress.tasks
    return bar, lines, task


def test_a_build_is_said_once_with_its_reason_and_drawn(bar):
    bar, lines, task = bar
    assert not task.visible
    seen = []
    for phase, share in BUILD:
        bar(phase, share)
        seen.append((task.visible, task.completed))
    assert lines == [f"plan     TensorRT builds one for this GPU, which takes minutes, and keeps it: {WHY}"]
    assert seen == [(True, 0), (True, 0), (True, 50), (True, 97)]


def test_a_build_that_is_over_is_not_drawn(bar):
    bar, lines, task = bar
    bar(WHY, 0.0)
    bar("Building engine", 1.0)
    assert not task.visible
    bar("another", 0.0)
    bar.hide()
    assert not task.visible
    assert len(lines) == 2


@pytest.mark.parametrize("hidden", [False, True])
def test_a_second_build_is_said_again(bar, hidden):
    bar, lines, _ = bar
    for _ in range(2):
        for phase, share in BUILD:
            bar(phase, share)
        if hidden:
            bar.hide()
    assert len(lines) == 2


def test_a_run_without_a_terminal_has_the_line(capsys):
    with TerminalReport(quiet=False) as report:
        for phase, share in BUILD:
            report.build(phase, share)
    with BenchProgress(quiet=False) as progress:
        for phase, share in BUILD:
            progress.build(phase, share)
    assert (
        capsys.readouterr().err.splitlines()
        == [f"plan     TensorRT builds one for this GPU, which takes minutes, and keeps it: {WHY}"] * 2
    )


def test_quiet_and_json_say_nothing(capsys):
    with TerminalReport(quiet=True) as report:
        report.build(WHY, 0.0)
    with JsonReport() as report:
        report.build(WHY, 0.0)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("ending", ["slices", "failure"])
def test_the_bar_goes_when_slices_come_or_the_tomogram_fails(monkeypatch, tmp_path, ending):
    monkeypatch.setenv("FORCE_COLOR", "1")
    report = TerminalReport(quiet=False)
    advance = report.begin(tmp_path / "a.mrc", (4, 8, 8), (0, 4))
    report.build(*BUILD[2])
    plan = next(task for task in report._progress.tasks if task.description == "plan")
    assert plan.visible
    if ending == "slices":
        advance(1)
    else:
        report.fail(tmp_path / "a.mrc", "broken", 1)
    assert not plan.visible


def test_progress_goes_back_and_shows_no_speed_for_it(tmp_path):
    report = TerminalReport(quiet=True)
    advance = report.begin(tmp_path / "a.mrc", (8, 8, 8), (0, 8))
    current = next(task for task in report._progress.tasks if task.description == "a.mrc")
    for count in (2, 2, -4, 1):
        advance(count)
    assert current.completed == 1
    assert current.speed is None or current.speed >= 0

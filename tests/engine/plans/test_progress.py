"""Phases within phases become one share that grows."""

from __future__ import annotations

from tomoscribe.engine.plans.progress import Phases


def test_phases_within_phases_never_go_back():
    told = []
    phases = Phases(lambda phase, share: told.append((phase, share)))
    phases.start("build", None, 2)
    phases.start("tactics", "build", 2)
    assert phases.complete("tactics", 0)
    phases.finish("tactics")  # before its last step
    phases.complete("build", 0)
    phases.start("graph", "build", 5)
    phases.finish("build")
    phases.finish("unknown")
    assert told == [
        ("build", 0),
        ("tactics", 0),
        ("tactics", 0.25),
        ("build", 0.25),
        ("build", 0.5),
        ("graph", 0.5),
        ("graph", 0.5),
        ("graph", 0.5),
    ]


def test_an_error_in_the_report_cancels_the_build_and_is_kept():
    def fail(phase, share):
        raise KeyboardInterrupt

    phases = Phases(fail)
    phases.start("build", None, 2)
    assert not phases.complete("build", 0)
    phases.finish("build")
    assert isinstance(phases.error, KeyboardInterrupt)

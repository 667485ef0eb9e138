"""How a profile is printed."""

from __future__ import annotations

import re

import pytest

from tomoscribe.cli.page import print_page
from tomoscribe.cli.profile_page import profile_page
from tomoscribe.engine.profile import Profile, QueueProfile, StageProfile

PROFILE = Profile(
    total=8.0,
    slots=3,
    jobs=20,
    stages={
        "allocate": StageProfile(0.5, 0.0, 0.0625),
        "read": StageProfile(1.25, 5.5, 0.15625),
        "submit": StageProfile(0.001, 6.0, 0.000125),
        "infer": StageProfile(6.75, 0.25, 0.84375),
        "write": StageProfile(0.75, 6.25, 0.09375),
        "complete": StageProfile(0.5, 0.0, 0.0625),
    },
    waited=6.0,
    queues={"free": QueueProfile(0.125, 3), "filled": QueueProfile(0.875, 2), "submitted": QueueProfile(1.5, 2)},
    bottleneck="infer",
    reason="it was at work 96% of the time",
)


@pytest.mark.parametrize(
    "line",
    [
        "open | open files, measure intensities | 2.00 s | – | 20.0%",
        "read | read, check and cut slices | 1.25 s | 5.50 s | 12.5%",
        "infer | the backend has slots in hand | 6.75 s | 0.25 s | 67.5%",
        "complete | bring the files to the disk | 0.50 s | – | 5.0%",
        "all | 10.00 s",
        "filled | read, not submitted | 0.88 | 2 of 3",
        "infer sets the pace: it was at work 96% of the time",
    ],
)
def test_every_stage_and_queue_has_a_line(capsys, line):
    print_page(profile_page(PROFILE, 10.0))
    printed = [re.sub(" {2,}", " | ", line) for line in capsys.readouterr().out.splitlines()]
    assert line in printed

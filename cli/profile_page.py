"""The profile of a stream, to read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from tomoscribe.cli.page import plain_table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from tomoscribe.engine.profile import Profile

__all__ = ["profile_page"]

_STAGES = {
    "allocate": "make the slots",
    "read": "read, check and cut slices",
    "submit": "hand slots to the backend",
    "infer": "the backend has slots in hand",
    "write": "put tiles together, write",
    "complete": "bring the files to the disk",
}
_QUEUES = {"free": "nothing in them", "filled": "read, not submitted", "submitted": "in the backend's hands"}


def profile_page(profile: Profile, seconds: float) -> tuple[RenderableType, ...]:
    """Return what to print of a profile: the stages, the queues, and what sets the pace.

    Args:
        profile: of the stream.
        seconds: from opening the file to the last output; what the stream did not take went before it.
    """
    stages = plain_table("stage", "what it does", "busy", "waiting", "share", right=("busy", "waiting", "share"))
    before = max(seconds - profile.total, 0.0)
    stages.add_row("open", "open files, measure intensities", f"{before:.2f} s", "–", f"{before / seconds:.1%}")
    for name, stage in profile.stages.items():
        waiting = "–" if name in ("allocate", "complete") else f"{stage.idle:.2f} s"
        stages.add_row(name, _STAGES[name], f"{stage.busy:.2f} s", waiting, f"{stage.busy / seconds:.1%}")
    stages.add_row("all", "", f"{seconds:.2f} s", "", "")
    queues = plain_table("slots", "which are", "mean", "most", right=("mean", "most"))
    for name, queue in profile.queues.items():
        queues.add_row(name, _QUEUES[name], f"{queue.mean:.2f}", f"{queue.largest} of {profile.slots}")
    return stages, Text(), queues, Text(), Text(f"{profile.bottleneck} sets the pace: {profile.reason}")

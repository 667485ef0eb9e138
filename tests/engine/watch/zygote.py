"""A process that has imported all that a watcher needs, and forks one at each request: that takes milliseconds.

Requests are lines of JSON on stdin, answers lines of JSON on stdout. ``{"start": {...}}`` is answered by the process's
number; what is asked for is `_watch`'s business. ``{"wait": number}`` is answered by its status when it has ended.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path

from tomoscribe.engine.segmentation import Segmenter
from tomoscribe.engine.watch.guard import Guard
from tomoscribe.engine.watch.ledger import Ledger
from tomoscribe.engine.watch.pictures import Pictures
from tomoscribe.engine.watch.settings import WatchSettings
from tomoscribe.engine.watch.watcher import Watcher

PATIENCE = 60.0
POINTS = {
    "claim": (Ledger, "claim"),
    "preview": (Pictures, "save_preview"),
    "previewed": (Ledger, "previewed"),
    "write": (Guard, "write"),
    "prepare": (Guard, "prepare"),
    "commit": (Guard, "commit"),
    "rename": (Path, "replace"),
    "finish": (Ledger, "finish"),
    "hook_ended": (Ledger, "hook_ended"),
    "set_objects": (Ledger, "set_objects"),
}


def _aim(output, point, when, count, number):
    """Have the process send itself a signal before or after a method is called for the n-th time."""
    owner, name = POINTS[point]
    method = getattr(owner, name)
    calls = 0

    @functools.wraps(method)
    def aimed(self, *arguments, **named):
        nonlocal calls
        # Of the renames, those that give an output its name.
        counts = point != "rename" or (Path(arguments[0]).is_relative_to(output) and ".tomoscribe" not in str(self))
        calls += counts
        hit = counts and calls == count
        if hit and when == "before":
            os.kill(os.getpid(), number)
        answer = method(self, *arguments, **named)
        if hit and when == "after":
            os.kill(os.getpid(), number)
        return answer

    setattr(owner, name, aimed)


def _slow_down(seconds):
    """Have every run of slices take so long."""
    write = Guard.write

    def slow(self, *arguments):
        time.sleep(seconds)
        write(self, *arguments)

    Guard.write = slow


def _watch(folder, output, bundle, on_done=(), lease=30.0, aim=None, slow=0.0):
    if aim is not None:
        _aim(output, *aim)
    if slow:
        _slow_down(slow)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    settings = WatchSettings(Path(folder), Path(output), keep_free=0, on_done=tuple(on_done))
    Watcher(settings, lambda: Segmenter(bundle, backend="onnxruntime", precision="fp32"), lease=lease).run(stop)


def _fork(request):
    number = os.fork()
    if number:
        return number
    status = 1
    try:
        # What it prints must not be taken for an answer.
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        _watch(**request)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def _wait(number):
    end = time.monotonic() + PATIENCE
    while True:
        ended, status = os.waitpid(number, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            os.kill(number, signal.SIGABRT)  # not what a test kills with
        time.sleep(0.002)


def main():
    """Answer requests until there are no more."""
    for line in sys.stdin:
        request = json.loads(line)
        answer = _fork(request["start"]) if "start" in request else _wait(request["wait"])
        sys.stdout.write(f"{json.dumps(answer)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

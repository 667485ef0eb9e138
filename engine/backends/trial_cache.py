"""What trials found, kept in the user's cache folder: ``tomoscribe/trials.json``.

Nothing depends on it but time, so a file that cannot be read, understood or written is as good as none.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tomoscribe.engine.replacing import replacing
from tomoscribe.engine.user_cache import user_cache

__all__ = ["recall", "remember", "trials_file"]

_MOST = 200
# A trial that came out wrong is not believed for ever. Days in seconds.
_LONGEST = 30 * 86400


def trials_file() -> Path | None:
    """Return where trials are kept, see `user_cache`; None where the user has no home."""
    folder = user_cache()
    return None if folder is None else folder / "trials.json"


def recall(facts: Mapping[str, Any]) -> dict[str, float] | None:
    """Return the seconds per slice by candidate of a trial under the same facts in the last 30 days; None without one.

    Args:
        facts: what the answer depends on, for JSON.
    """
    found = _read().get(_key(facts))
    if not isinstance(found, dict):
        return None
    times, measured = found.get("seconds_per_slice"), found.get("measured")
    if type(measured) is not float or not 0 <= time.time() - measured <= _LONGEST:
        return None
    if not isinstance(times, dict) or not times or not all(type(value) is float for value in times.values()):
        return None
    return times


def remember(facts: Mapping[str, Any], seconds_per_slice: Mapping[str, float]) -> None:
    """Keep what a trial measured, and forget the oldest where there are very many."""
    trials = _read()
    trials.pop(_key(facts), None)
    kept = list(trials.items())[-(_MOST - 1) :]
    entry = {"facts": dict(facts), "measured": time.time(), "seconds_per_slice": dict(seconds_per_slice)}
    path = trials_file()
    if path is None:
        return
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(dict([*kept, (_key(facts), entry)]), indent=1) + "\n", encoding="utf-8")


def _read() -> dict[str, Any]:
    path = trials_file()
    if path is None:
        return {}
    try:
        trials = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return trials if isinstance(trials, dict) else {}


def _key(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

"""The folder that belongs to tomoscribe in the user's cache."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["user_cache"]


def user_cache() -> Path | None:
    """Return ``tomoscribe`` under ``$XDG_CACHE_HOME`` or ``~/.cache`` (XDG Base Directory Specification).

    What is kept there can be made again, and may be deleted at any time.

    Returns:
        None where the user has no home.
    """
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        # The specification has relative paths ignored.
        return (base if base.is_absolute() else Path.home() / ".cache") / "tomoscribe"
    except RuntimeError:
        return None

"""Where the user's cache is (XDG Base Directory Specification)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tomoscribe.engine.user_cache import user_cache


def test_it_is_where_the_variable_says(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache() == tmp_path / "tomoscribe"


@pytest.mark.parametrize("value", [None, "", "relative/path"])
def test_without_an_absolute_path_there_it_is_in_the_home(monkeypatch, tmp_path, value):
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    if value is None:
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", value)
    assert user_cache() == tmp_path / ".cache" / "tomoscribe"


def test_without_a_home_there_is_none(monkeypatch):
    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", home)
    assert user_cache() is None

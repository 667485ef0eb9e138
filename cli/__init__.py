"""The ``tomoscribe`` command: one thin module a verb, and nothing heavy is imported before a verb needs it."""

from tomoscribe.cli.app import main

__all__ = ["main"]

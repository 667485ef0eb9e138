"""Outputs: one module a kind of file."""

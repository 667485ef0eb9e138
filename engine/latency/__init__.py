"""Latency: how fast a model is on this machine, with trtexec's definitions, and whether that has changed."""

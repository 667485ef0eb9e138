"""The secret that a page beyond this machine asks for."""

from __future__ import annotations

import ipaddress
import os
import socket
import stat
from collections.abc import Mapping
from pathlib import Path

from tomoscribe.engine.errors import ParameterError

__all__ = ["HOW_TO_MAKE_ONE", "TOKEN_VARIABLE", "host_needs_token", "read_token"]

TOKEN_VARIABLE = "TOMOSCRIBE_TOKEN"  # noqa: S105 - the name of the variable
_SHORTEST = 16
_LONGEST = 512
_LARGEST_FILE = 4096
HOW_TO_MAKE_ONE = "(umask 077; openssl rand -hex 24 > token.txt) and pass --token-file token.txt"
"""How an error says that one is made."""


def host_needs_token(host: str) -> bool:
    """Return whether anyone but this machine could reach what listens there; so it is taken where that is not known."""
    try:
        found = socket.getaddrinfo(host or None, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        return True
    # An IPv6 address of a link ends in the link's name.
    return not all(ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback for *_, address in found)


def read_token(file: Path | None, environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the token of a file, or else of the variable ``TOMOSCRIBE_TOKEN``; None where neither is given.

    Raises:
        ParameterError: the file cannot be read or others may read it, or the token is too short or no plain word.
    """
    if file is not None:
        return _checked(_read_private(file), str(file))
    text = environment.get(TOKEN_VARIABLE, "")
    return _checked(text, TOKEN_VARIABLE) if text.strip() else None


def _read_private(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            mode = os.fstat(opened.fileno()).st_mode
            text = opened.read(_LARGEST_FILE)
    except OSError as error:
        raise ParameterError(
            f"{file}: the token cannot be read ({error.strerror}); make one: {HOW_TO_MAKE_ONE}"
        ) from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ParameterError(
            f"{file}: expected a file that nobody else may read, found mode {stat.S_IMODE(mode):o}; "
            f"run: chmod 600 {file}"
        )
    return text.decode("utf-8", "replace")


def _checked(text: str, source: str) -> str:
    token = text.strip()
    if not _SHORTEST <= len(token) <= _LONGEST:
        raise ParameterError(
            f"{source}: expected a token of {_SHORTEST} to {_LONGEST} characters, found {len(token)}; "
            f"make one: {HOW_TO_MAKE_ONE}"
        )
    # It stands in an address, a header and a cookie as it is.
    if not all(character.isascii() and (character.isalnum() or character in "-._~") for character in token):
        raise ParameterError(
            f"{source}: expected a token of ASCII letters, digits and -._~ alone; make one: {HOW_TO_MAKE_ONE}"
        )
    return token

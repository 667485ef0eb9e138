from __future__ import annotations

import socket

import pytest

from tomoscribe.engine import ParameterError
from tomoscribe.engine.watch.page.tokens import host_needs_token, read_token

TOKEN = "0123456789abcdef"


@pytest.fixture
def file(tmp_path):
    """Write a token's file with a mode."""

    def file(text, mode=0o600):
        path = tmp_path / "token.txt"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        path.chmod(mode)
        return path

    return file


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_this_machine_needs_none(host):
    assert not host_needs_token(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.0.2.1", "2001:db8::1", "a" * 300, "no.such.host.invalid"])
def test_everything_else_does(host):
    assert host_needs_token(host)


def test_a_name_of_two_addresses_needs_one_if_one_of_them_does(monkeypatch):
    def answer(*addresses):
        return lambda *_, **__: [(socket.AF_INET, 1, 6, "", (address, 0)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", answer("127.0.0.1", "192.0.2.1"))
    assert host_needs_token("both")
    monkeypatch.setattr(socket, "getaddrinfo", answer("127.0.0.1", "::1"))
    assert not host_needs_token("both")
    monkeypatch.setattr(socket, "getaddrinfo", answer("fe80::1%eth0"))
    assert host_needs_token("both")


def test_a_file_comes_before_the_variable(file):
    assert read_token(file(f"{TOKEN}\n"), {"TOMOSCRIBE_TOKEN": "f" * 16}) == TOKEN
    assert read_token(None, {"TOMOSCRIBE_TOKEN": f" {TOKEN} "}) == TOKEN


@pytest.mark.parametrize("environment", [{}, {"TOMOSCRIBE_TOKEN": ""}, {"TOMOSCRIBE_TOKEN": "  "}])
def test_without_either_there_is_none(environment):
    assert read_token(None, environment) is None


def test_the_variable_is_that_of_the_process(monkeypatch):
    monkeypatch.setenv("TOMOSCRIBE_TOKEN", TOKEN)
    assert read_token(None) == TOKEN


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620, 0o666])
def test_a_file_that_others_may_read_or_write_is_refused(file, mode):
    with pytest.raises(ParameterError, match=rf"found mode {mode:o}; run: chmod 600 .*token\.txt$"):
        read_token(file(TOKEN, mode))


@pytest.mark.parametrize("length", [1, 15, 513, 10_000])
def test_one_that_is_too_short_or_too_long_is_refused_with_a_command_that_makes_one(file, length):
    with pytest.raises(ParameterError, match="expected a token of 16 to 512 characters") as caught:
        read_token(file("x" * length))
    assert "openssl rand -hex 24" in str(caught.value)
    assert "xx" not in str(caught.value)


@pytest.mark.parametrize("length", [16, 512])
def test_the_shortest_and_the_longest_will_do(file, length):
    assert read_token(file("x" * length)) == "x" * length


@pytest.mark.parametrize("text", ["0123456789 abcdef", "0123456789\nabcdef", "0123456789;abcdef", "0123456789abcdé"])
def test_what_cannot_stand_in_an_address_or_a_cookie_is_refused_and_not_shown(file, text):
    with pytest.raises(ParameterError, match="ASCII letters, digits") as caught:
        read_token(file(text + "0123456789abcdef"))
    assert "0123" not in str(caught.value)


def test_bytes_that_are_no_text_are_refused(file):
    with pytest.raises(ParameterError, match="ASCII letters"):
        read_token(file(b"\xff" * 20))


def test_a_file_that_is_not_there_is_one_error_with_the_command(tmp_path):
    with pytest.raises(ParameterError, match=r"none: the token cannot be read \(No such file.*openssl"):
        read_token(tmp_path / "none", {"TOMOSCRIBE_TOKEN": TOKEN})
